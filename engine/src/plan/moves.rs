//! Which entry that is new at a path moved there from another.
//!
//! Guarantees: a move is taken for one when the inode is surely not at its old name any more, and when
//! taking away what the target has there leaves nothing unseen. Anything else is a removal and an
//! arrival.

use std::io;

use farshore_core::entry::{Entry, EntryKind};
use farshore_core::path::RelPath;
use farshore_core::policy::{Action, Verdict};
use rustix::io::Errno;

use super::PlanError;
use super::join::Join;
use crate::catalog::{LocalFacts, Record};
use crate::io::{FileKind, Object, Stat, Storage};
use crate::scan::candidate;

impl<S: Storage> Join<'_, S> {
    /// Whether the policy keeps at the target what was at `path`, where the walk may not have been yet: it,
    /// or a directory above it.
    fn is_kept(&mut self, path: &RelPath, entry: &Entry) -> Result<bool, PlanError> {
        if self.exclusion(path, entry)?.is_some() {
            return Ok(true);
        }
        let mut at = path.clone();
        while let Some((parent, _)) = at.split() {
            if parent.is_root() || self.policy.is_trivial() {
                return Ok(false);
            }
            let known = self.kept_directories.get(&parent).copied();
            let is_kept = match known {
                Some(is_kept) => is_kept,
                None => match self.catalog.get(&parent)? {
                    Some(record) => self.exclusion(&parent, &record.entry)?.is_some(),
                    None => false,
                },
            };
            self.kept_directories.insert(parent.clone(), is_kept);
            if is_kept {
                return Ok(true);
            }
            at = parent;
        }
        Ok(false)
    }

    /// Whether the policy lets what stands at `path` travel.
    fn travels(&self, path: &RelPath, stat: &Stat) -> bool {
        if self.policy.is_trivial() {
            return true;
        }
        let verdict = self.policy.exclude(&[candidate(path, stat)]).first().copied();
        verdict.unwrap_or(Verdict::REPLICATE).action == Action::Replicate
    }

    /// Where the catalog last saw this inode, when the inode is not there any more and is surely the
    /// same file: same kind, length and content time. A number used again fails the last two.
    pub(super) fn moved_from(
        &mut self,
        path: &RelPath,
        stat: &Stat,
        record: Option<&Record>,
    ) -> Result<Option<RelPath>, PlanError> {
        let same_inode_here = record.and_then(|r| r.facts).is_some_and(|f| f.inode == stat.inode);
        if stat.kind == FileKind::Directory || stat.links > 1 || same_inode_here {
            return Ok(None);
        }
        let Some(from) = self.catalog.path_of_inode(stat.inode)? else { return Ok(None) };
        if from == *path || self.plan.moved.contains(&from) || self.protection(&from).is_some() {
            return Ok(None);
        }
        let facts = LocalFacts::of(stat);
        let Some(old) = self.catalog.get(&from)? else { return Ok(None) };
        let same = old
            .facts
            .is_some_and(|f| (f.inode, f.size, f.mtime) == (facts.inode, facts.size, facts.mtime));
        if !same || !same_kind(&old.entry, stat.kind) {
            return Ok(None);
        }
        // What the policy keeps at the target does not move away from there.
        if self.is_kept(&from, &old.entry)? || (from < *path && self.is_barred_elsewhere(&from)?) {
            return Ok(None);
        }
        let Some((parent, name)) = from.split() else { return Ok(None) };
        let there = self
            .storage
            .open_directory(self.storage.root(), parent.as_bytes())
            .and_then(|d| self.storage.stat(Object::Named(&d, name)));
        let gone = match there {
            Ok(there) if there.inode == stat.inode => return Ok(None),
            // What has its name now must be sent as something new, never be found unchanged there:
            // the move takes away what the target has.
            Ok(there) if (there.kind, there.size) == (stat.kind, stat.size) => return Ok(None),
            Ok(there) if !self.travels(&from, &there) => return Ok(None),
            Ok(_) => false,
            Err(e) => is_gone(&e),
        };
        let is_looked_at = self.is_looked_at(&from);
        if !gone && !is_looked_at && !self.will_be_looked_at(&from)? {
            // What has its name now would not be sent.
            return Ok(None);
        }
        self.loses_first_name(&from, old.entry.kind())?;
        if gone {
            self.moved_away += 1;
            // The walk passed it already and counted it as deleted; or met it there before it moved.
            if is_looked_at && from < *path {
                self.plan.tally.deleted = self.plan.tally.deleted.saturating_sub(1);
            }
        }
        self.plan.moved.insert(from.clone());
        Ok(Some(from))
    }
}

/// Whether an error says that nothing of ours has that path: what was above it is a file or a link now.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        || error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}

pub(super) fn same_kind(entry: &Entry, kind: FileKind) -> bool {
    matches!(
        (entry.kind(), kind),
        (EntryKind::File, FileKind::Regular)
            | (EntryKind::Directory, FileKind::Directory)
            | (EntryKind::Symlink, FileKind::Symlink)
            | (EntryKind::Fifo, FileKind::Fifo)
            | (EntryKind::Socket, FileKind::Socket)
            | (EntryKind::CharDevice, FileKind::CharDevice)
            | (EntryKind::BlockDevice, FileKind::BlockDevice)
    )
}

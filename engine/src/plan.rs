//! From a walk and a catalog to a list of what to do.
//!
//! One pass joins the walk with the catalog, both in path order. Guarantees: nothing is removed that
//! was not proven gone: what lies below an unknown or an excluded path keeps its record; the whole
//! list and its counts are known before the first operation is sent, so that the guard judges all of
//! it. Memory holds neither tree: the lists spill to disk, only names of shared inodes and of paths
//! that moved are kept.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;

use farshore_core::codec::{DecodeError, Decoder, Encoder};
use farshore_core::entry::{Entry, EntryDigest, EntryKind, Metadata, decode_path};
use farshore_core::guard::Tally;
use farshore_core::path::{KeyBuffer, PathParts, RelPath};
use farshore_core::policy::{Action, Candidate, Faults, Policy, Verdict};

use crate::catalog::{CatalogError, CatalogReader, LocalFacts, Record, Row, Rows};
use crate::io::{FileKind, Object, Stat, Storage};
use crate::scan::{Held, ScanEvent, candidate, scan};
use crate::spool::{Spool, SpoolReader};

mod detached;
<<<<<<< HEAD
mod parts;
=======
pub mod parts;
>>>>>>> t/capture

pub use detached::{DetachedChange, DetachedCount, DetachedList, DetachedWriter};
pub use parts::{Part, PartialPlan, Scope, plan_parts};

/// Deferred entries that a report names, at most.
const DEFERRED_NAMED_MAX: usize = 10_000;

/// Something to do at one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// New, or its facts differ: look closely, and send what really changed.
    Look {
        /// Where.
        path: RelPath,
        /// Its length when the walk met it.
        size: u64,
        /// Whether the walk met a regular file: it may be opened without another look.
        is_file: bool,
        /// Where the catalog last saw this inode, when it is no longer there.
        moved_from: Option<RelPath>,
    },
    /// A further name of the inode at `leader`.
    Link {
        /// Where.
        path: RelPath,
        /// Its first name.
        leader: RelPath,
    },
    /// Gone.
    Remove {
        /// Where.
        path: RelPath,
        /// What the target is believed to hold there.
        expected: EntryDigest,
    },
}

impl Change {
    /// Where.
    #[must_use]
    pub fn path(&self) -> &RelPath {
        match self {
            Self::Look { path, .. } | Self::Link { path, .. } | Self::Remove { path, .. } => path,
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        match self {
            Self::Look { path, size, is_file, moved_from } => {
                e.put_u8(u8::from(moved_from.is_some()) | u8::from(*is_file) << 2);
                e.put_bytes(path.as_bytes());
                e.put_u64(*size);
                if let Some(from) = moved_from {
                    e.put_bytes(from.as_bytes());
                }
            }
            Self::Link { path, leader } => {
                e.put_u8(2);
                e.put_bytes(path.as_bytes());
                e.put_bytes(leader.as_bytes());
            }
            Self::Remove { path, expected } => {
                e.put_u8(3);
                e.put_bytes(path.as_bytes());
                e.put_raw(&expected.0);
            }
        }
        e.finish()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut d = Decoder::new(bytes);
        let tag = d.take_u8("change")?;
        let path = decode_path(&mut d, "change path")?;
        let change = match tag {
            0 | 1 | 4 | 5 => Self::Look {
                path,
                size: d.take_u64("size")?,
                is_file: tag & 4 != 0,
                moved_from: match tag & 1 {
                    0 => None,
                    _ => Some(decode_path(&mut d, "former path")?),
                },
            },
            2 => Self::Link { path, leader: decode_path(&mut d, "leader")? },
            3 => Self::Remove { path, expected: EntryDigest(d.take_array("expected state")?) },
            other => return Err(DecodeError::Invalid { what: "change", found: u64::from(other) }),
        };
        d.finish("change")?;
        Ok(change)
    }
}

/// Something the walk could not vouch for.
#[derive(Debug)]
pub struct Problem {
    /// Where.
    pub path: RelPath,
    /// What happened, for people.
    pub text: String,
}

/// Why no plan could be made.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The catalog cannot be read.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The list cannot be kept.
    #[error("keeping the list of changes in the state folder")]
    Spool(#[from] io::Error),
    /// The list does not read back.
    #[error("the list of changes in the state folder is damaged")]
    Damaged(#[from] DecodeError),
}

/// All there is to do, and the counts the guard judges.
#[derive(Debug)]
pub struct Plan {
    /// Counts.
    pub tally: Tally,
    /// Bytes of files to look at: an upper bound of what will be read.
    pub bytes: u64,
    /// Entries and directories that cannot be vouched for.
    pub problems: Vec<Problem>,
    /// Excluded entries; what is below an excluded directory is not counted.
    pub excluded: u64,
    /// Entries the policy deferred.
    pub deferred: u64,
    /// The first of them.
    pub deferred_first: Vec<RelPath>,
    /// Entries kept at the target although gone or excluded at the source.
    pub detached: u64,
    /// Those of them that the policy excludes.
    pub by_policy: DetachedList,
    /// Where the policy failed; the first are among the problems.
    pub faults: Faults,
    /// The most the walk held at once.
    pub held: Held,
    removed_files: Spool,
    looks: Spool,
    removed_directories: Spool,
    moved: HashSet<RelPath>,
    /// Directories above entries that are kept.
    kept: HashSet<RelPath>,
    /// What cannot be said at and below these paths, by the walk or the policy.
    unknown: HashSet<RelPath>,
    /// What cannot take the place of a directory, because something in that is kept.
    barred: HashSet<RelPath>,
}

impl Plan {
    /// Things to do; an upper bound, since a closer look may find nothing changed.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.removed_files.len() + self.looks.len() + self.removed_directories.len()
    }

    /// Whether nothing is to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes what the policy keeps at the target, and says what of that is new to `catalog`; `rules` are
    /// the policy's.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn take_by_policy(
        &mut self,
        catalog: &CatalogReader,
        rules: &[String],
        spool_folder: &Path,
    ) -> Result<DetachedChange, PlanError> {
        let list = std::mem::replace(&mut self.by_policy, DetachedList::new(spool_folder));
        list.compare(catalog, rules, &self.unknown, spool_folder)
    }

    /// Takes every move for a removal and an arrival.
    pub fn forget_moves(&mut self) {
        self.moved.clear();
    }

    /// The changes in the order they are sent: files removed, then everything that is there in path
    /// order, then directories removed from the deepest up.
    ///
    /// # Errors
    /// [`PlanError::Spool`].
    pub fn into_changes(self) -> Result<Changes, PlanError> {
        Ok(Changes {
            parts: vec![
                self.removed_directories.into_backward()?,
                self.looks.into_forward()?,
                self.removed_files.into_forward()?,
            ],
            moved: self.moved,
            kept: self.kept,
            barred: self.barred,
        })
    }
}

/// The changes of a plan in the order they are sent.
#[derive(Debug)]
pub struct Changes {
    parts: Vec<SpoolReader>,
    moved: HashSet<RelPath>,
    kept: HashSet<RelPath>,
    barred: HashSet<RelPath>,
}

impl Changes {
    /// The next change.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn next_change(&mut self) -> Result<Option<Change>, PlanError> {
        while let Some(part) = self.parts.last_mut() {
            let Some(item) = part.next_item()? else {
                self.parts.pop();
                continue;
            };
            let change = Change::from_bytes(&item)?;
            // What moved is removed by its move; a directory above what is kept stays.
            let passed = matches!(&change, Change::Remove { path, .. }
                if self.moved.contains(path) || self.kept.contains(path));
            if !passed && !self.barred.contains(change.path()) {
                return Ok(Some(change));
            }
        }
        Ok(None)
    }
}

/// Joins a walk of `storage` with the records of `catalog`, on this thread, one of the `threads`
/// that read the tree; see [`scan`].
///
/// # Errors
/// [`PlanError`]; what goes wrong in the tree is a [`Problem`].
pub fn plan<S: Storage>(
    storage: &S,
    catalog: &CatalogReader,
    policy: &dyn Policy,
    own: &[u8],
    threads: usize,
    spool_folder: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<Plan, PlanError> {
    let mut join = Join {
        storage,
        catalog,
        policy,
        rows: catalog.rows()?,
        key: KeyBuffer::default(),
        protected: HashMap::new(),
        rules: rules_by_text(policy),
        kept_directories: HashMap::new(),
        leaders: HashMap::new(),
        plan: Plan {
            tally: Tally { known: catalog.entry_count()?, ..Tally::default() },
            bytes: 0,
            problems: Vec::new(),
            excluded: 0,
            deferred: 0,
            deferred_first: Vec::new(),
            detached: 0,
            by_policy: DetachedList::new(spool_folder),
            faults: Faults::default(),
            held: Held::default(),
            removed_files: Spool::new(spool_folder),
            looks: Spool::new(spool_folder),
            removed_directories: Spool::new(spool_folder),
            moved: HashSet::new(),
            kept: HashSet::new(),
            unknown: HashSet::new(),
            barred: HashSet::new(),
        },
    };
    let held = scan(storage, policy, own, threads, &mut |event| {
        join.handle(event)?;
        if join.plan.tally.found.is_multiple_of(1_024) {
            progress(join.plan.tally.found);
        }
        Ok::<_, PlanError>(())
    })?;
    join.plan.held = held;
    join.finish()
}

fn rules_by_text(policy: &dyn Policy) -> HashMap<String, Option<u32>> {
    let mut rules: HashMap<_, _> = policy.rules().into_iter().zip((0..).map(Some)).collect();
    if !policy.identity().policies.is_empty() {
        rules.insert(String::new(), None);
    }
    rules
}

/// The first name of an inode with several.
struct Leader {
    path: RelPath,
    /// Whether the target may make a new inode of it, so that every further name is linked again.
    renewed: bool,
}

struct Join<'a, S: Storage> {
    storage: &'a S,
    catalog: &'a CatalogReader,
    policy: &'a dyn Policy,
    rows: Rows,
    key: KeyBuffer,
    /// Paths at and below which nothing may be concluded gone, with the verdict if there is one. An
    /// excluded file is not among them: its record is passed when the walk meets it.
    protected: HashMap<RelPath, Option<Verdict>>,
    /// The policy's rules by their texts. What was detached by no rule stays so as long as there are
    /// policies that name none.
    rules: HashMap<String, Option<u32>>,
    /// Whether the policy keeps a directory that something moved from, by what was last known of it.
    kept_directories: HashMap<RelPath, bool>,
    leaders: HashMap<u64, Leader>,
    plan: Plan,
}

impl<S: Storage> Join<'_, S> {
    fn handle(&mut self, event: ScanEvent<'_>) -> Result<(), PlanError> {
        match event {
            ScanEvent::Entry { path, stat } => {
                let is_known = self.advance_to(path)?;
                if !path.is_root() {
                    self.plan.tally.found += 1;
                }
                self.entry(path, stat, is_known)
            }
            ScanEvent::Excluded { path, is_directory, verdict } => {
                self.excluded(path, is_directory, verdict)
            }
            ScanEvent::Unknown { path, step, source } => {
                let text = format!("{step}: {source}");
                self.protected.insert(path.clone(), None);
                self.plan.unknown.insert(path.clone());
                self.plan.problems.push(Problem { path, text });
                Ok(())
            }
        }
    }

    fn finish(mut self) -> Result<Plan, PlanError> {
        while let Some(row) = self.rows.take()? {
            self.gone(row.path()?, &row.record()?)?;
        }
        let plan = &mut self.plan;
        plan.faults = self.policy.take_faults();
        for fault in &plan.faults.first {
            plan.problems.push(Problem { path: fault.path.clone(), text: fault.text.clone() });
        }
        // The root is above all that is kept, and stays a directory.
        plan.barred.retain(|path| plan.kept.contains(path));
        for path in &plan.barred {
            let text = "it was a directory, and the target keeps something excluded in that: move \
                        that away there, or do not exclude it";
            plan.problems.push(Problem { path: path.clone(), text: text.to_owned() });
        }
        Ok(self.plan)
    }

    /// The walk met something that does not travel.
    fn excluded(
        &mut self,
        path: RelPath,
        is_directory: bool,
        verdict: Verdict,
    ) -> Result<(), PlanError> {
        match verdict.action {
            Action::Defer => {
                self.plan.deferred += 1;
                if self.plan.deferred_first.len() < DEFERRED_NAMED_MAX {
                    self.plan.deferred_first.push(path.clone());
                }
            }
            _ => self.plan.excluded += 1,
        }
        let mut covers_more = is_directory;
        if self.advance_to_key(&path.key())?
            && let Some(row) = self.rows.take()?
        {
            let record = row.record()?;
            covers_more |= record.entry.kind() == EntryKind::Directory;
            self.keep(&path, &record, Some(verdict), true)?;
        }
        if covers_more {
            self.protected.insert(path, Some(verdict));
        }
        Ok(())
    }

    /// The target keeps what it has at `path`, and the directories above.
    fn keep(
        &mut self,
        path: &RelPath,
        record: &Record,
        verdict: Option<Verdict>,
        is_named: bool,
    ) -> Result<(), PlanError> {
        self.plan.detached += 1;
        if let Some(verdict) = verdict.filter(|verdict| verdict.action == Action::Exclude) {
            self.plan.by_policy.add(path, &record.entry, verdict.rule, is_named)?;
        }
        let mut at = path.clone();
        while let Some((parent, _)) = at.split() {
            if !self.plan.kept.insert(parent.clone()) {
                break;
            }
            at = parent;
        }
        Ok(())
    }

    /// Passes the records before `path`, which the walk did not meet; whether there is one at `path`.
    fn advance_to(&mut self, path: PathParts<'_>) -> Result<bool, PlanError> {
        let mut buffer = std::mem::take(&mut self.key);
        let is_known = self.advance_to_key(buffer.key(path));
        self.key = buffer;
        is_known
    }

    fn advance_to_key(&mut self, wanted: &[u8]) -> Result<bool, PlanError> {
        loop {
            let Some(row) = self.rows.current() else { return Ok(false) };
            match row.key().cmp(wanted) {
                Ordering::Greater => return Ok(false),
                Ordering::Equal => return Ok(true),
                Ordering::Less => {}
            }
            let Some(row) = self.rows.take()? else { return Ok(false) };
            self.gone(row.path()?, &row.record()?)?;
        }
    }

    fn gone(&mut self, path: RelPath, record: &Record) -> Result<(), PlanError> {
        if path.is_root() {
            return self.keep(&path, record, None, false);
        }
        if let Some((at, verdict)) = self.protection(&path) {
            return self.keep(&path, record, verdict, at == path);
        }
        let is_directory = record.entry.kind() == EntryKind::Directory;
        if let Some(verdict) = self.exclusion(&path, &record.entry)? {
            self.keep(&path, record, Some(verdict), true)?;
            if verdict.is_fault {
                self.plan.unknown.insert(path.clone());
            }
            if is_directory {
                self.protected.insert(path, Some(verdict));
            }
            return Ok(());
        }
        self.plan.tally.deleted += u64::from(!self.plan.moved.contains(&path));
        let change = Change::Remove { path, expected: record.entry.digest() };
        let list = if is_directory {
            &mut self.plan.removed_directories
        } else {
            &mut self.plan.removed_files
        };
        Ok(list.push(&change.to_bytes())?)
    }

    /// The path at or above `path` below which nothing may be concluded gone, and the verdict on it.
    fn protection(&self, path: &RelPath) -> Option<(RelPath, Option<Verdict>)> {
        if self.protected.is_empty() {
            return None;
        }
        let mut at = path.clone();
        loop {
            if let Some(verdict) = self.protected.get(&at) {
                return Some((at, *verdict));
            }
            at = at.split()?.0;
        }
    }

    /// Whether the policy keeps an entry that is gone at the source from being removed: it was detached by
    /// a rule that is still in force, or by what was last known of it does not travel, or there is no
    /// answer. A directory above it that keeps it is protected already: the walk met it, or its own
    /// record was passed before.
    fn exclusion(&self, path: &RelPath, entry: &Entry) -> Result<Option<Verdict>, PlanError> {
        if self.policy.is_trivial() {
            return Ok(None);
        }
        // What it had become when it was detached, the record does not know.
        if let Some(detached) = self.catalog.detached_at(path)?
            && let Some(&rule) = self.rules.get(&detached.rule)
        {
            return Ok(Some(Verdict { action: Action::Exclude, rule, is_fault: false }));
        }
        // A further name has the facts of the first.
        let leader = match entry {
            Entry::HardLink { leader } => self.catalog.get(leader)?.map(|record| record.entry),
            _ => None,
        };
        let entry = leader.as_ref().unwrap_or(entry);
        let plain = Metadata::default();
        let meta = entry.meta().unwrap_or(&plain);
        let kind = entry.kind();
        let candidate = Candidate {
            path,
            kind: if kind == EntryKind::HardLink { EntryKind::File } else { kind },
            size: entry.size(),
            mtime: meta.mtime,
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
        };
        let verdict = self.policy.exclude(&[candidate]).first().copied();
        let verdict = verdict.unwrap_or(Verdict::FAULT);
        Ok((verdict.action != Action::Replicate || verdict.is_fault).then_some(verdict))
    }

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

    fn entry(&mut self, path: PathParts<'_>, stat: &Stat, is_known: bool) -> Result<(), PlanError> {
        let row = self.rows.current().filter(|_| is_known);
        let known = row.map(Row::facts_and_kind).transpose()?;
        let unchanged = known.is_some_and(|(facts, _)| facts == Some(LocalFacts::of(stat)));
        let is_shared = stat.kind != FileKind::Directory && stat.links > 1;
        // An entry that was a further name and now stands alone is an entry of its own.
        let was_further = known.is_some_and(|(_, kind)| kind == EntryKind::HardLink);
        if unchanged && !is_shared && !was_further {
            return Ok(self.rows.advance()?);
        }
        let (path, record) = (path.to_path(), row.map(Row::record).transpose()?);
        let was_directory = known.is_some_and(|(_, kind)| kind == EntryKind::Directory);
        if was_directory && stat.kind != FileKind::Directory {
            self.plan.barred.insert(path.clone());
        }
        if is_known {
            self.rows.advance()?;
        }
        if is_shared {
            self.shared_inode(path, stat, record, unchanged)
        } else {
            self.look(path, stat, record)
        }
    }

    fn shared_inode(
        &mut self,
        path: RelPath,
        stat: &Stat,
        record: Option<Record>,
        unchanged: bool,
    ) -> Result<(), PlanError> {
        let Some(leader) = self.leaders.get(&stat.inode) else {
            let was_further =
                record.as_ref().is_some_and(|r| r.entry.kind() == EntryKind::HardLink);
            let renewed = !unchanged || was_further;
            self.leaders.insert(stat.inode, Leader { path: path.clone(), renewed });
            return if renewed { self.look(path, stat, record) } else { Ok(()) };
        };
        let same_leader = record.as_ref().is_some_and(
            |r| matches!(&r.entry, Entry::HardLink { leader: l } if *l == leader.path),
        );
        if unchanged && same_leader && !leader.renewed {
            return Ok(());
        }
        let change = Change::Link { path, leader: leader.path.clone() };
        Ok(self.plan.looks.push(&change.to_bytes())?)
    }

    fn look(
        &mut self,
        path: RelPath,
        stat: &Stat,
        record: Option<Record>,
    ) -> Result<(), PlanError> {
        let moved_from = self.moved_from(&path, stat, record.as_ref())?;
        if stat.kind == FileKind::Regular {
            // Sparse files may claim more than there are numbers for.
            self.plan.bytes = self.plan.bytes.saturating_add(stat.size);
        }
        let facts = LocalFacts::of(stat);
        let content_changed = record.as_ref().is_some_and(|r| {
            // What is only believed of the target, as after a lost catalog, is judged by what it says.
            let believed = (r.entry.size(), r.entry.meta().map_or(facts.mtime, |m| m.mtime));
            let known = r.facts.map_or(believed, |f| (f.size, f.mtime));
            r.entry.kind() == EntryKind::File && known != (facts.size, facts.mtime)
        });
        self.plan.tally.rewritten += u64::from(content_changed);
        let is_file = stat.kind == FileKind::Regular;
        let change = Change::Look { path, size: stat.size, is_file, moved_from };
        Ok(self.plan.looks.push(&change.to_bytes())?)
    }

    /// Where the catalog last saw this inode, when the inode is not there any more and is surely the
    /// same file: same kind, length and content time. A number used again fails the last two.
    fn moved_from(
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
        if self.is_kept(&from, &old.entry)? {
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
            Err(e) => e.kind() == io::ErrorKind::NotFound,
        };
        // The walk passed it already and counted it as deleted; or met it there before it moved.
        if gone && from < *path {
            self.plan.tally.deleted = self.plan.tally.deleted.saturating_sub(1);
        }
        self.plan.moved.insert(from.clone());
        Ok(Some(from))
    }
}

fn same_kind(entry: &Entry, kind: FileKind) -> bool {
    matches!(
        (entry.kind(), kind),
        (EntryKind::File, FileKind::Regular)
            | (EntryKind::Symlink, FileKind::Symlink)
            | (EntryKind::Fifo, FileKind::Fifo)
            | (EntryKind::Socket, FileKind::Socket)
            | (EntryKind::CharDevice, FileKind::CharDevice)
            | (EntryKind::BlockDevice, FileKind::BlockDevice)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_round_trip_and_damaged_ones_are_no_deletions() {
        let path = |s: &str| RelPath::new(s.as_bytes()).expect("valid");
        let look = |is_file, moved_from: Option<&str>| {
            let moved_from = moved_from.map(path);
            Change::Look { path: path("a/b"), size: u64::MAX, is_file, moved_from }
        };
        let all = [
            look(false, None),
            look(true, None),
            look(false, Some("c")),
            look(true, Some("c")),
            Change::Link { path: path("a"), leader: path("b") },
            Change::Remove { path: path("a"), expected: EntryDigest([3; 32]) },
        ];
        for change in all {
            let mut bytes = change.to_bytes();
            assert_eq!(Change::from_bytes(&bytes), Ok(change));
            for len in 0..bytes.len() {
                assert!(Change::from_bytes(&bytes[..len]).is_err(), "cut to {len}");
            }
            bytes.push(0);
            assert!(Change::from_bytes(&bytes).is_err(), "with more behind it");
        }
        let mut bytes =
            Change::Remove { path: path("a"), expected: EntryDigest([3; 32]) }.to_bytes();
        for tag in 6..=u8::MAX {
            bytes[0] = tag;
            assert!(Change::from_bytes(&bytes).is_err(), "tag {tag}");
        }
    }
}

//! The part of recovery, where services work meanwhile.
//!
//! Guarantees: what is replaced is durable under another name before anything is placed, and all that is placed is made
//! by then ([`making`]); nothing is placed twice, whatever became of it and wherever the call was cut short
//! ([`placing`], [`pending`]); what nobody planned for
//! stays where it is and is named. See [`super`] for the procedure.

use farshore_core::conflict::{Outcome, Piece, Side, Site};
use farshore_core::entry::{Entry, EntryKind, Metadata};
use farshore_core::failback::action::{Beside, End, Source, Steps, steps};

use super::*;
use crate::failback::place::is_other_content;

mod making;
mod pending;
mod placing;

/// Carries a plan out at the site called recovery, where what production sent has come. Nothing is placed while there
/// is something in [`Applied::wanting`]: production lays that out ([`super::lay_out_wanted`]), and the same call goes on
/// when it came as well.
///
/// # Errors
/// [`ApplyPlanError`]; the same call goes on.
pub fn apply_at_recovery<S: Storage>(
    storage: &S,
    plan: Plan<'_>,
    folders: &Folders,
    made_unix_ms: i64,
) -> Result<Applied> {
    let mut applying = Applying::open(storage, plan, folders, Site::Recovery)?;
    applying.check_merges()?;
    let is_made = applying.is_made()?;
    if !applying.is_begun {
        if applying.has_moved()? {
            return Ok(applying.applied);
        }
        applying.check_carried()?;
    }
    if !is_made {
        applying.write_manifest(made_unix_ms)?;
        applying.keep_what_is_replaced()?;
        applying.make_all()?;
        if !applying.applied.wanting.is_empty() {
            return Ok(applying.applied);
        }
        applying.say_all_is_made()?;
    }
    applying.place_all(is_made)?;
    applying.finish()
}

impl<S: Storage> Applying<'_, '_, S> {
    pub(super) fn moved_at_recovery(
        &mut self,
        divergence: &Divergence,
        steps: &Steps,
    ) -> Result<Option<String>> {
        if let Some(beside) = &steps.beside {
            let there = self.tree.stat(self.tree.storage.root(), &beside.path);
            if there.map_err(at(&beside.path, "looking at it"))?.is_some() {
                return Ok(Some(format!("its new name is taken: {}", beside.path)));
            }
        }
        let end = match &steps.end {
            End::Stays if steps.beside.is_none() => return Ok(None),
            End::Stays => divergence.recovery.entry.as_ref(),
            End::Goes => None,
            End::Placed(_) => divergence.production.entry.as_ref(),
        };
        let wanted = divergence.recovery.entry.as_ref();
        let now = self.now(&divergence.path, wanted)?;
        if now.as_ref() == wanted || is_directory(now.as_ref(), wanted) {
            return Ok(None);
        }
        let is_merge = matches!(divergence.outcome, Outcome::Merge { .. });
        if !is_merge && self.now(&divergence.path, end)?.as_ref() == end {
            return Ok(None);
        }
        Ok(Some(told(now.as_ref(), wanted)))
    }

    /// Whether all came that production was to send, before anything is done; what it holds is compared as it is
    /// placed.
    fn check_carried(&self) -> Result<()> {
        for divergence in (self.plan)()? {
            let divergence = divergence?;
            if !steps(&divergence).carry {
                continue;
            }
            let path = &divergence.path;
            let size = divergence.production.entry.as_ref().map_or(0, Entry::size);
            let came =
                self.tree.stat(&self.carried, path).map_err(at(path, "looking at what came"))?;
            let source = match came {
                Some(came) if came.size == size => continue,
                Some(_) => io::ErrorKind::InvalidData,
                None => io::ErrorKind::NotFound,
            };
            return Err(at(path, "looking at what came")(source.into()));
        }
        Ok(())
    }

    /// Step 3, its first part: durable with all that is made, before anything is placed.
    fn keep_what_is_replaced(&mut self) -> Result<()> {
        for divergence in (self.plan)()? {
            let divergence = divergence?;
            let steps = steps(&divergence);
            if steps.quarantine_recovery && matches!(steps.end, End::Placed(_)) {
                self.keep(&divergence)?;
            }
        }
        Ok(())
    }

    fn keep(&mut self, divergence: &Divergence) -> Result<()> {
        let path = &divergence.path;
        let Some(entry) = &divergence.recovery.entry else { return Ok(()) };
        if self.is_kept(path)? || entry.kind() == EntryKind::Directory {
            return Ok(());
        }
        // At the first call it was looked at already.
        if self.is_begun && !self.is_as_planned(divergence)? {
            self.is_late(path);
            return Ok(());
        }
        match self.tree.keep(path, entry) {
            Ok(()) => {}
            Err(e) if is_gone(&e) || is_other_content(&e) => self.is_late(path),
            Err(e) => return Err(at(path, "keeping it in the quarantine")(e)),
        }
        Ok(())
    }

    /// Whether the content at the path is what the plan says of recovery.
    fn is_as_planned(&mut self, divergence: &Divergence) -> Result<bool> {
        let wanted = divergence.recovery.entry.as_ref();
        let now = self.now(&divergence.path, wanted)?;
        Ok(match (&now, wanted) {
            (Some(now), Some(wanted)) if now.same_but_metadata(wanted) => true,
            (None, None) => true,
            _ => self.is_former_or_copy(&divergence.path, wanted)?,
        })
    }

    /// Whether what stands at `path` is a further name of what was kept, or of what the kept version was a name of
    /// until it became a file of its own: the plan was about to be given up then.
    fn is_former_or_copy(&mut self, path: &RelPath, wanted: Option<&Entry>) -> Result<bool> {
        if self.is_former_name(path, wanted)? {
            return Ok(true);
        }
        let Some(Entry::HardLink { leader }) = wanted else { return Ok(false) };
        let kept = self.tree.kept_entry(leader).map_err(at(path, "looking at its first name"))?;
        let Some(kept) = kept else { return Ok(false) };
        Ok(self.now(path, Some(&kept))?.is_some_and(|now| now.same_but_metadata(&kept)))
    }

    /// The inode at the path that may be replaced: it has another name, or is a copy of what has.
    /// `renamed` is the inode of a version that waits for its new name, or had it a moment ago.
    fn former(
        &mut self,
        divergence: &Divergence,
        steps: &Steps,
        renamed: Option<u64>,
    ) -> Result<Option<u64>> {
        let path = &divergence.path;
        let root = self.tree.storage.root();
        let looking = |e| at(path, "looking at it")(e);
        let Some(there) = self.tree.inode(root, path).map_err(looking)? else { return Ok(None) };
        let kept = self.tree.inode(&self.tree.kept, path).map_err(looking)?;
        let beside = match &steps.beside {
            Some(Beside { path, site: Site::Recovery, .. }) => {
                self.tree.inode(root, path).map_err(looking)?
            }
            _ => None,
        };
        let beside = renamed.or(beside);
        let wanted = divergence.recovery.entry.as_ref();
        if [kept, beside].contains(&Some(there)) || self.is_former_or_copy(path, wanted)? {
            return Ok(Some(there));
        }
        // No further name of it: a file system without, or a version that became a file of its own.
        let is_kept = kept.or(beside).is_some() || !steps.quarantine_recovery;
        Ok((is_kept && wanted.is_some() && self.is_as_planned(divergence)?).then_some(there))
    }
}

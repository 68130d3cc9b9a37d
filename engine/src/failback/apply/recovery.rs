//! The part of recovery, where services work meanwhile.
//!
//! Guarantees: what is replaced is durable under another name before anything is placed; what nobody planned for
//! stays where it is and is named. See [`super`] for the procedure.

use farshore_core::conflict::{Outcome, Piece, Side, Site};
use farshore_core::entry::{Entry, EntryKind, Metadata};
use farshore_core::failback::action::{Beside, End, Source, Steps, steps};

use super::*;
use crate::failback::place::is_other_content;

/// Carries a plan out at the site called recovery, where what production sent has come.
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
    if !applying.is_begun {
        if applying.has_moved()? {
            return Ok(applying.applied);
        }
        applying.check_carried()?;
    }
    applying.write_manifest(made_unix_ms)?;
    applying.keep_what_is_replaced()?;
    let mut waiting = Vec::new();
    let mut has_names = false;
    for divergence in (applying.plan)()? {
        let divergence = divergence?;
        let steps = steps(&divergence);
        match &steps.end {
            End::Placed(Source::Link(_)) => has_names = true,
            End::Placed(source)
                if applying.settle(&divergence, &steps, source)? == Put::InTheWay =>
            {
                waiting.push(divergence);
            }
            _ => {}
        }
    }
    applying.remove_what_goes()?;
    // What could not be placed while something was in the way.
    for divergence in waiting {
        let steps = steps(&divergence);
        if let End::Placed(source) = &steps.end {
            applying.settle_at_last(&divergence, &steps, source)?;
        }
    }
    if has_names {
        applying.place_names()?;
    }
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

    /// Step 3, its first half: all of it durable before anything is placed.
    fn keep_what_is_replaced(&mut self) -> Result<()> {
        for divergence in (self.plan)()? {
            let divergence = divergence?;
            let steps = steps(&divergence);
            if let Some(beside) = &steps.beside {
                self.place_beside(&divergence, beside)?;
            }
            if steps.quarantine_recovery && matches!(steps.end, End::Placed(_)) {
                self.keep(&divergence)?;
            }
        }
        self.tree.storage.sync_all().map_err(own("making what is kept durable"))
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
            Err(e) if super::super::place::is_gone(&e) || is_other_content(&e) => {
                self.is_late(path)
            }
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
            _ => self.is_former_name(&divergence.path, wanted)?,
        })
    }

    /// Gives a version its new name.
    fn place_beside(&mut self, divergence: &Divergence, beside: &Beside) -> Result<()> {
        let (path, new) = (&divergence.path, &beside.path);
        let Some(entry) = divergence.at(beside.site).entry.clone() else { return Ok(()) };
        let now = self.now(new, Some(&entry))?;
        if now.is_some_and(|now| now.same_but_metadata(&entry)) {
            return Ok(());
        }
        let placed = match beside.site {
            Site::Production => {
                self.make(divergence, &entry, &beside.source)?;
                self.tree.put(new, None)
            }
            // Its very inode, so that what is written to it until it is replaced has the new name.
            Site::Recovery if !self.is_begun || self.is_as_planned(divergence)? => {
                self.tree.link_new(path, new, &entry)
            }
            Site::Recovery => Ok(Put::Late),
        };
        match placed.map_err(at(new, "placing it"))? {
            Put::Done => {}
            Put::InTheWay | Put::Late => {
                self.is_late(new);
                // What was to have that name is kept all the same.
                if beside.site == Site::Recovery {
                    self.keep(divergence)?;
                }
            }
        }
        Ok(())
    }

    /// Brings the path to what the plan says, if what stands there may be replaced.
    fn settle(&mut self, divergence: &Divergence, steps: &Steps, source: &Source) -> Result<Put> {
        let path = &divergence.path;
        let Some(entry) = divergence.production.entry.clone() else { return Ok(Put::Done) };
        if self.late.contains(path) {
            return Ok(Put::Late);
        }
        let is_merged = *source == Source::Merged;
        if !is_merged && self.stands(divergence, &entry)? {
            return Ok(Put::Done);
        }
        let former = self.former(divergence, steps)?;
        if is_merged {
            let made = self.merge(divergence)?;
            let Some(made) = made else {
                self.is_late(path);
                return Ok(Put::Late);
            };
            if self.now(path, Some(&made))?.is_some_and(|now| now.same_but_metadata(&made)) {
                return self.dress(path, &made).map(|()| Put::Done);
            }
        } else {
            self.make(divergence, &entry, source)?;
        }
        let put = self.tree.put(path, former).map_err(at(path, "placing it"))?;
        if put == Put::Late {
            self.is_late(path);
        }
        Ok(put)
    }

    /// The same, when nothing goes any more: what is in the way is somebody's.
    fn settle_at_last(
        &mut self,
        divergence: &Divergence,
        steps: &Steps,
        source: &Source,
    ) -> Result<()> {
        if self.settle(divergence, steps, source)? == Put::InTheWay {
            self.is_late(&divergence.path);
        }
        Ok(())
    }

    /// Further names, after what they are names of is durable: a power cut could keep a name and lose the new
    /// file at the first, which is then made again and is another one.
    fn place_names(&mut self) -> Result<()> {
        self.tree.storage.sync_all().map_err(own("making what was placed durable"))?;
        for divergence in (self.plan)()? {
            let divergence = divergence?;
            let steps = steps(&divergence);
            if let End::Placed(source @ Source::Link(_)) = &steps.end {
                self.settle_at_last(&divergence, &steps, source)?;
            }
        }
        Ok(())
    }

    /// Whether production's entry is there, or all of it but what can be changed where it is: that is done.
    fn stands(&mut self, divergence: &Divergence, entry: &Entry) -> Result<bool> {
        let path = &divergence.path;
        let Some(now) = self.now(path, Some(entry))? else { return Ok(false) };
        if now == *entry {
            return Ok(true);
        }
        // Other names of an inode are not changed with it, unless they were to be.
        let is_same = |other: &Entry| other.same_but_metadata(entry);
        let was_same = divergence.recovery.entry.as_ref().is_some_and(is_same);
        let is_plain = !matches!(entry, Entry::File { .. } | Entry::HardLink { .. });
        if !is_same(&now) || !(was_same || is_plain) {
            return Ok(false);
        }
        self.dress(path, entry)?;
        Ok(true)
    }

    fn dress(&mut self, path: &RelPath, entry: &Entry) -> Result<()> {
        self.tree.dress_live(path, entry).map_err(at(path, "placing it"))
    }

    /// The inode at the path that may be replaced: it has another name, or is a copy of what has.
    fn former(&mut self, divergence: &Divergence, steps: &Steps) -> Result<Option<u64>> {
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
        let wanted = divergence.recovery.entry.as_ref();
        if [kept, beside].contains(&Some(there)) || self.is_former_name(path, wanted)? {
            return Ok(Some(there));
        }
        // No further name of it: a file system without, or a version that became a file of its own.
        let is_kept = kept.or(beside).is_some() || !steps.quarantine_recovery;
        Ok((is_kept && wanted.is_some() && self.is_as_planned(divergence)?).then_some(there))
    }

    /// Makes what is to be placed.
    fn make(&mut self, divergence: &Divergence, entry: &Entry, source: &Source) -> Result<()> {
        let path = &divergence.path;
        let made = match source {
            Source::Entry => self.tree.make_node(entry),
            Source::Link(first) => self.tree.make_link(first),
            Source::Recovery(from) => self.tree.make_copy(from, entry),
            Source::Carried => {
                let carried = Arc::clone(&self.carried);
                self.tree.make_carried(&carried, path, entry)
            }
            Source::Merged => Err(io::ErrorKind::InvalidInput.into()),
        };
        made.map_err(at(path, "making it"))
    }

    /// Puts a file together from the versions; nothing when recovery's is not the plan's any more.
    fn merge(&mut self, divergence: &Divergence) -> Result<Option<Entry>> {
        let path = &divergence.path;
        let failed = |e: io::Error| at(path, "merging it")(e);
        let Outcome::Merge { attributes, pieces } = &divergence.outcome else {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        };
        let [production, recovery] = [&divergence.production.entry, &divergence.recovery.entry];
        let (Some(production), Some(recovery)) = (production, recovery) else {
            return Err(failed(io::ErrorKind::NotFound.into()));
        };
        let (carried, kept) = (Arc::clone(&self.carried), Arc::clone(&self.tree.kept));
        let mut parts = Vec::new();
        for piece in pieces {
            parts.push(match piece {
                Piece::Literal(bytes) => Part::Literal(bytes),
                Piece::Copy { side: Side::Production, offset, length } => {
                    Part::Copy(Arc::clone(&carried), *offset, *length)
                }
                Piece::Copy { side: Side::Recovery, offset, length } => {
                    Part::Copy(Arc::clone(&kept), *offset, *length)
                }
                Piece::Copy { side: Side::Base, .. } => {
                    return Err(ApplyPlanError::Merge { path: path.clone() });
                }
            });
        }
        let made = self.tree.make_merged(path, &merged(*attributes, production, recovery), &parts);
        let made = made.map_err(failed)?;
        // What it was made of was the plan's, then as now.
        if steps(divergence).carry {
            self.tree.compare_at(&carried, path, production).map_err(failed)?;
        }
        match self.tree.compare_at(&kept, path, recovery) {
            Ok(()) => Ok(Some(made)),
            Err(e) if is_other_content(&e) => Ok(None),
            Err(e) => Err(failed(e)),
        }
    }

    /// Step 3, its last: after what is copied from it.
    fn remove_what_goes(&mut self) -> Result<()> {
        let mut directories = Vec::new();
        for divergence in (self.plan)()? {
            let divergence = divergence?;
            let end = steps(&divergence).end;
            let path = &divergence.path;
            let recovery = divergence.recovery.entry.as_ref();
            if recovery.is_some_and(|e| e.kind() == EntryKind::Directory) {
                let stays = divergence.production.entry.as_ref().map(Entry::kind);
                match end {
                    End::Goes => directories.push(path.clone()),
                    // Something else takes its place.
                    End::Placed(_) if stays != Some(EntryKind::Directory) => {
                        directories.push(path.clone());
                    }
                    _ => {}
                }
                continue;
            }
            if end == End::Goes {
                self.remove(&divergence)?;
            }
        }
        for path in directories.iter().rev() {
            let removed = self.tree.remove_directory(path).map_err(at(path, "removing it"))?;
            self.applied.kept_directories += u64::from(!removed);
        }
        Ok(())
    }

    fn remove(&mut self, divergence: &Divergence) -> Result<()> {
        let path = &divergence.path;
        let there = self.tree.stat(self.tree.storage.root(), path);
        if there.map_err(at(path, "looking at it"))?.is_none() {
            return Ok(());
        }
        if self.is_begun && !self.is_kept(path)? && !self.is_as_planned(divergence)? {
            self.is_late(path);
            return Ok(());
        }
        match self.tree.move_aside(path).map_err(at(path, "moving it to the quarantine"))? {
            Put::Done => {}
            Put::Late | Put::InTheWay => self.is_late(path),
        }
        Ok(())
    }
}

/// What a merged file has of owner, mode and attributes; its time is the later of the two sites'.
fn merged(attributes: Site, production: &Entry, recovery: &Entry) -> Entry {
    let of = |entry: &Entry| entry.meta().cloned().unwrap_or_default();
    let (p, r) = (of(production), of(recovery));
    let mtime = p.mtime.max(r.mtime);
    let (entry, meta) = match attributes {
        Site::Production => (production, p),
        Site::Recovery => (recovery, r),
    };
    match entry {
        Entry::File { size, content, .. } => {
            Entry::File { size: *size, content: *content, meta: Metadata { mtime, ..meta } }
        }
        other => other.clone(),
    }
}

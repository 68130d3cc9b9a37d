//! All that is to be placed is made, before anything is.
//!
//! Guarantees: no live path is changed; whatever is not at hand any more is named, and nothing else is taken for it.
//! What services changed since the plan was checked is found before anything is made for its path. Done again from the
//! start when it was cut short.

use std::collections::{HashMap, HashSet};

use super::pending::{PLACING, Task, VERSION, name_of};
use super::*;
use crate::failback::place::is_other_content;
use crate::io::FileKind;

/// The name of what says that all is made, until it is whole.
const PLACING_BESIDE: &[u8] = b"placing.new";

/// What is to be done for production's entry to be at a path.
enum Stands {
    /// It is there.
    Yes,
    /// All of it is but what can be changed where it is, at that inode.
    Undressed(u64),
    No,
}

/// What the further names of a file are made of.
enum First {
    /// It waits for its path under this name.
    Waits(Vec<u8>),
    /// Nothing waits for its path, of which the plan says this.
    Stands(Box<Divergence>),
    /// It is asked of production, and all is made once more.
    Wanted,
}

impl<S: Storage> Applying<'_, '_, S> {
    /// Whether all is made, by a call before this one.
    pub(super) fn is_made(&self) -> Result<bool> {
        let storage = self.tree.storage;
        let mut found = [0; VERSION.len() + 1];
        let read = storage
            .open_file(&self.quarantine, PLACING)
            .and_then(|file| storage.read_at(&file, 0, &mut found));
        match read {
            Ok(len) if found[..len] == *VERSION => Ok(true),
            Ok(_) => Err(own("how far it is was written by another version of Farshore")(
                io::ErrorKind::InvalidData.into(),
            )),
            Err(e) if is_gone(&e) => Ok(false),
            Err(e) => Err(own("looking how far it is")(e)),
        }
    }

    /// Step 3, its second part; what is not at hand is in [`Applied::wanting`], and then it is not all.
    pub(super) fn make_all(&mut self) -> Result<()> {
        self.empty_pending()?;
        let firsts = self.first_names()?;
        let (mut made, mut something_goes) = (HashMap::new(), false);
        for (number, divergence) in (0..).zip((self.plan)()?) {
            let divergence = divergence?;
            let steps = steps(&divergence);
            let renamed = match &steps.beside {
                Some(beside) => self.make_beside(number, &divergence, beside)?,
                None => None,
            };
            let mut waiting = None;
            match &steps.end {
                End::Placed(Source::Link(_)) | End::Stays => {}
                End::Goes => something_goes = true,
                End::Placed(source) => {
                    let at = (number, &divergence, renamed);
                    waiting = self.make_end(at, &steps, source)?;
                    something_goes |= is_directory_replaced(&divergence);
                }
            }
            if firsts.contains(&divergence.path) {
                let path = divergence.path.clone();
                let first = match waiting {
                    Some(name) => First::Waits(name),
                    None if self.applied.wanting.last() == Some(&path) => First::Wanted,
                    None => First::Stands(Box::new(divergence)),
                };
                made.insert(path, first);
            }
        }
        if !firsts.is_empty() {
            self.make_names(made)?;
        }
        if something_goes {
            self.mark(0, Task::Remove, 0)?;
        }
        Ok(())
    }

    /// All is made: durable, and said so, before anything is placed.
    pub(super) fn say_all_is_made(&self) -> Result<()> {
        let (storage, at) = (self.tree.storage, &self.quarantine);
        let said = || -> io::Result<()> {
            storage.sync_all()?;
            remove_tree(storage, at, PLACING_BESIDE)?;
            let file = storage.create_file(at, PLACING_BESIDE)?;
            storage.write_at(&file, 0, VERSION)?;
            storage.sync_file(&file)?;
            storage.rename(at, PLACING_BESIDE, at, PLACING)
        };
        said().map_err(own("making what is to be placed durable"))
    }

    /// Of a call that was cut short before all was made: nothing of it was placed.
    fn empty_pending(&self) -> Result<()> {
        let (storage, pending) = (self.tree.storage, &self.tree.pending);
        let mut names = Vec::new();
        storage
            .list(pending, &mut |listed| names.push(listed.name.to_vec()))
            .and_then(|()| names.iter().try_for_each(|name| remove_tree(storage, pending, name)))
            .map_err(own("removing what was half made"))
    }

    /// The paths that others are to be further names of.
    fn first_names(&self) -> Result<HashSet<RelPath>> {
        let mut firsts = HashSet::new();
        for divergence in (self.plan)()? {
            if let End::Placed(Source::Link(first)) = steps(&divergence?).end {
                firsts.insert(first);
            }
        }
        Ok(firsts)
    }

    fn mark(&self, number: u64, task: Task, inode: u64) -> Result<()> {
        let made = self.tree.storage.create_file(&self.tree.pending, &name_of(number, task, inode));
        made.map(drop).map_err(own("noting what is to be done"))
    }

    /// What was made waits; its name.
    fn let_wait(&self, number: u64, task: Task, path: &RelPath) -> Result<Vec<u8>> {
        let named = || -> io::Result<Vec<u8>> {
            let name = name_of(number, task, self.tree.made_inode()?);
            self.tree.let_wait(&name).map(|()| name)
        };
        named().map_err(at(path, "making it"))
    }

    /// A version that gets a new name; its inode, if it is one of recovery's.
    fn make_beside(
        &mut self,
        number: u64,
        divergence: &Divergence,
        beside: &Beside,
    ) -> Result<Option<u64>> {
        let (path, new) = (&divergence.path, &beside.path);
        let Some(entry) = divergence.at(beside.site).entry.clone() else { return Ok(None) };
        let now = self.now(new, Some(&entry))?;
        if now.is_some_and(|now| now.same_but_metadata(&entry)) {
            return Ok(None);
        }
        let is_made = match beside.site {
            Site::Production if !self.make(divergence, &entry, &beside.source)? => return Ok(None),
            Site::Production => true,
            // Its very inode, so that what is written to it until it is replaced has the new name.
            Site::Recovery if !self.is_begun || self.is_as_planned(divergence)? => {
                match self.tree.make_name(path, &entry) {
                    Err(e) if is_gone(&e) || is_other_content(&e) => false,
                    made => made.map(|()| true).map_err(at(new, "making it"))?,
                }
            }
            Site::Recovery => false,
        };
        if is_made {
            let inode = self.tree.made_inode().map_err(at(new, "making it"))?;
            self.let_wait(number, Task::Beside, new)?;
            return Ok((beside.site == Site::Recovery).then_some(inode));
        }
        self.is_late(new);
        // What was to have that name is kept all the same.
        self.keep(divergence)?;
        self.mark(number, Task::LateBeside, 0).map(|()| None)
    }

    /// What is to be at the path: its name, if an object waits.
    fn make_end(
        &mut self,
        (number, divergence, renamed): (u64, &Divergence, Option<u64>),
        steps: &Steps,
        source: &Source,
    ) -> Result<Option<Vec<u8>>> {
        let path = &divergence.path;
        let Some(entry) = divergence.production.entry.clone() else { return Ok(None) };
        let is_merged = *source == Source::Merged;
        if !is_merged {
            match self.stands(divergence, &entry)? {
                Stands::Yes => return Ok(None),
                Stands::Undressed(inode) => {
                    return self.mark(number, Task::Dress, inode).map(|()| None);
                }
                Stands::No => {}
            }
        }
        let is_made = if self.late.contains(path) {
            false
        } else if is_merged {
            match self.merge(divergence)? {
                // It was placed by a former version of Farshore, or somebody had the same idea.
                Some(made) if self.is_there(path, &made)? => return Ok(None),
                made => made.is_some() && !self.is_anothers(divergence, steps, renamed)?,
            }
        } else if self.is_anothers(divergence, steps, renamed)? {
            false
        } else if self.make(divergence, &entry, source)? {
            true
        } else {
            return Ok(None);
        };
        if is_made {
            return self.let_wait(number, Task::Place, path).map(Some);
        }
        self.late_before_made(number, path).map(|()| None)
    }

    fn late_before_made(&mut self, number: u64, path: &RelPath) -> Result<()> {
        self.is_late(path);
        self.mark(number, Task::Late, 0)
    }

    /// Further names, of what waits or, where nothing does, of what stands at the first one.
    fn make_names(&mut self, mut made: HashMap<RelPath, First>) -> Result<()> {
        for (number, divergence) in (0..).zip((self.plan)()?) {
            let divergence = divergence?;
            let steps = steps(&divergence);
            let End::Placed(Source::Link(first)) = &steps.end else { continue };
            let path = &divergence.path;
            if matches!(made.get(first), Some(First::Wanted)) {
                continue;
            }
            let inode = |path| self.tree.inode(self.tree.storage.root(), path);
            let inodes = inode(path).and_then(|there| Ok((there, inode(first)?)));
            let (there, at_first) = inodes.map_err(at(path, "looking at it"))?;
            let (is_name, is_late) =
                (there.is_some() && there == at_first, self.late.contains(first));
            let is_waiting = matches!(made.get(first), Some(First::Waits(_)));
            if is_name && !is_late && !is_waiting {
                continue;
            }
            // What services wrote to the file by its first name they wrote to this one.
            let is_theirs = is_name && is_late;
            if is_theirs
                || self.late.contains(path)
                || self.is_anothers(&divergence, &steps, None)?
            {
                self.late_before_made(number, path)?;
                continue;
            }
            let is_made = match made.get(first) {
                Some(First::Waits(name)) => {
                    let linked = self.tree.make_name_of_waiting(name);
                    linked.map(|()| true).map_err(at(path, "making it"))?
                }
                Some(First::Stands(of)) if is_late || !self.make_name_of_first(of)? => {
                    match self.make_of_its_own(of)? {
                        Some(false) => continue,
                        made => made.is_some(),
                    }
                }
                Some(_) => true,
                // Neither site changed it, and the plan says nothing of its content.
                None => match self.tree.make_link(first) {
                    Err(e) if is_gone(&e) => false,
                    linked => linked.map(|()| true).map_err(at(path, "making it"))?,
                },
            };
            if !is_made {
                self.late_before_made(number, path)?;
                continue;
            }
            let name = self.let_wait(number, Task::Place, path)?;
            if matches!(made.get(first), Some(First::Stands(_))) {
                made.insert(first.clone(), First::Waits(name));
            }
        }
        Ok(())
    }

    /// Makes a further name of what stands at the path of `first`, unless that is not production's.
    fn make_name_of_first(&mut self, first: &Divergence) -> Result<bool> {
        let (path, Some(entry)) = (&first.path, &first.production.entry) else { return Ok(false) };
        match self.tree.make_link(path) {
            Err(e) if is_gone(&e) => return Ok(false),
            linked => linked.map_err(at(path, "making a further name of it"))?,
        }
        let inodes = || -> io::Result<_> {
            Ok((self.tree.inode(self.tree.storage.root(), path)?, self.tree.made_inode()?))
        };
        let (there, made) = inodes().map_err(at(path, "looking at it"))?;
        Ok(there == Some(made) && self.is_there(path, entry)?)
    }

    /// Makes what production has at the path of `first`, where somebody else is, for a further name; `false` when its
    /// content is asked of production, nothing where the plan has none sent or copied.
    fn make_of_its_own(&mut self, first: &Divergence) -> Result<Option<bool>> {
        match (&first.production.entry, steps(first).end) {
            (Some(entry), End::Placed(source @ (Source::Carried | Source::Recovery(_)))) => {
                self.make(first, entry, &source).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn is_there(&mut self, path: &RelPath, entry: &Entry) -> Result<bool> {
        Ok(self.now(path, Some(entry))?.is_some_and(|now| now.same_but_metadata(entry)))
    }

    /// Whether something stands at the path that is not to be replaced, and no directory, which may yet go; or what
    /// was to be replaced went: it was consumed.
    fn is_anothers(
        &mut self,
        divergence: &Divergence,
        steps: &Steps,
        renamed: Option<u64>,
    ) -> Result<bool> {
        let path = &divergence.path;
        let there = self.tree.stat(self.tree.storage.root(), path);
        let there = there.map_err(at(path, "looking at it"))?;
        Ok(match there {
            None => divergence.recovery.entry.as_ref().is_some_and(has_content),
            Some(stat) if stat.kind == FileKind::Directory => false,
            Some(_) => self.former(divergence, steps, renamed)?.is_none(),
        })
    }

    /// Whether production's entry is there, or all of it but what can be changed where it is.
    fn stands(&mut self, divergence: &Divergence, entry: &Entry) -> Result<Stands> {
        let path = &divergence.path;
        let Some(now) = self.now(path, Some(entry))? else { return Ok(Stands::No) };
        if now == *entry {
            return Ok(Stands::Yes);
        }
        // Other names of an inode are not changed with it, unless they were to be.
        let is_same = |other: &Entry| other.same_but_metadata(entry);
        let was_same = divergence.recovery.entry.as_ref().is_some_and(is_same);
        let is_plain = !matches!(entry, Entry::File { .. } | Entry::HardLink { .. });
        if !is_same(&now) || !(was_same || is_plain) {
            return Ok(Stands::No);
        }
        let inode = self.tree.inode(self.tree.storage.root(), path);
        Ok(inode.map_err(at(path, "looking at it"))?.map_or(Stands::No, Stands::Undressed))
    }

    /// Makes what is to be placed; `false` when its content is not at hand, which is noted.
    fn make(&mut self, divergence: &Divergence, entry: &Entry, source: &Source) -> Result<bool> {
        let path = &divergence.path;
        let made = match source {
            Source::Entry => self.tree.make_node(entry).map(|()| true),
            Source::Link(first) => self.tree.make_link(first).map(|()| true),
            Source::Recovery(from) => match self.tree.make_copy(from, entry) {
                Ok(false) => return self.make_sent_after_all(path, entry),
                made => made,
            },
            Source::Carried => self.make_carried(path, entry).map(|()| true),
            Source::Merged => Err(io::ErrorKind::InvalidInput.into()),
        };
        made.map_err(at(path, "making it"))
    }

    fn make_carried(&mut self, path: &RelPath, entry: &Entry) -> io::Result<()> {
        let carried = Arc::clone(&self.carried);
        self.tree.make_carried(&carried, path, entry)
    }

    /// What was to be copied here and is no longer: production's, if it was asked for and came.
    fn make_sent_after_all(&mut self, path: &RelPath, entry: &Entry) -> Result<bool> {
        let came = self.tree.stat(&self.carried, path);
        if came.map_err(at(path, "looking at what came"))?.is_none() {
            self.applied.wanting.push(path.clone());
            return Ok(false);
        }
        self.make_carried(path, entry).map(|()| true).map_err(at(path, "making it"))
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
        // What it was made of was the plan's, then as now; a shorter one has not even the pieces.
        match self.tree.compare_at(&kept, path, recovery) {
            Ok(()) => {}
            Err(e) if is_other_content(&e) => return Ok(None),
            Err(e) => return Err(failed(e)),
        }
        if steps(divergence).carry {
            self.tree.compare_at(&carried, path, production).map_err(failed)?;
        }
        made.map(Some).map_err(failed)
    }
}

fn has_content(entry: &Entry) -> bool {
    entry.kind() != EntryKind::Directory
}

/// Whether something else takes the place of a directory.
pub(super) fn is_directory_replaced(divergence: &Divergence) -> bool {
    let [production, recovery] = [&divergence.production.entry, &divergence.recovery.entry];
    let is_directory = recovery.as_ref().is_some_and(|entry| !has_content(entry));
    is_directory && production.as_ref().is_none_or(has_content)
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

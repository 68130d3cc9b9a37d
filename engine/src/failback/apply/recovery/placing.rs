//! What was made is placed, and what is to go goes.
//!
//! Guarantees: only what is still pending is done, so that nothing is done twice, whatever services did with it since;
//! each is done by one call, or found by its inode when a crash came between two. Where a file system cannot rename to
//! where nothing is, the one version that a crash met in the middle is not placed again: it is kept, and named.
//! What goes and what is only given metadata is known by its state: a version in the quarantine went, and metadata
//! that is neither site's is somebody's; an empty directory that came again may go again.

use super::making::is_directory_replaced;
use super::pending::{Pending, Task, name_of};
use super::*;
use crate::failback::place::GOING;

impl<S: Storage> Applying<'_, '_, S> {
    /// Step 3, its last part; `is_resumed` when a call before this one may have begun with it.
    pub(super) fn place_all(&mut self, is_resumed: bool) -> Result<()> {
        let storage = self.tree.storage;
        let pending = Pending::read(storage, &self.tree.pending);
        let pending = pending.map_err(own("reading what is to be done"))?;
        if pending.is_empty() {
            return Ok(());
        }
        // That all is made, before anything is placed.
        storage.sync_all().map_err(own("making it durable"))?;
        if !pending.going.is_empty() {
            self.settle_all_going(&pending)?;
        }
        if pending.has(Task::Beside) || pending.has(Task::LateBeside) {
            self.place_renamed(&pending)?;
        }
        let mut waiting = Vec::new();
        for (number, divergence) in (0..).zip((self.plan)()?) {
            let divergence = divergence?;
            let steps = steps(&divergence);
            if let (Some(beside), Some(_)) = (&steps.beside, pending.of(number, Task::LateBeside)) {
                self.is_late(&beside.path);
            }
            if pending.of(number, Task::Late).is_some() {
                self.is_late(&divergence.path);
                self.drop_late(number, Task::Place, &divergence.path, &pending)?;
                continue;
            }
            if let Some(inode) = pending.of(number, Task::Dress) {
                self.dress(number, &divergence, inode, is_resumed)?;
            }
            if pending.of(number, Task::Place).is_some()
                && self.place(number, &divergence, &steps, &pending)? == Put::InTheWay
            {
                waiting.push((number, divergence));
            }
        }
        if pending.has(Task::Remove) {
            self.remove_what_goes()?;
        }
        // Nothing goes any more: what is in the way is somebody's.
        for (number, divergence) in waiting {
            let steps = steps(&divergence);
            if self.place(number, &divergence, &steps, &pending)? == Put::InTheWay {
                let inode = pending.of(number, Task::Place).unwrap_or_default();
                self.late_while_placed((number, Task::Place, inode), &divergence.path)?;
            }
        }
        storage.sync_all().map_err(own("making what was placed durable"))?;
        for note in pending.notes() {
            let done = storage.unlink(&self.tree.pending, &note);
            done.map_err(own("noting what is done"))?;
        }
        Ok(())
    }

    /// Somebody else has the path, which is so for good.
    fn note_late(&mut self, number: u64, task: Task, path: &RelPath) -> Result<()> {
        self.is_late(path);
        let noted = self.tree.note(&name_of(number, task.late(), 0));
        noted.map_err(at(path, "noting that somebody else has it"))
    }

    /// The same, of what waits.
    fn late_while_placed(
        &mut self,
        (number, task, inode): (u64, Task, u64),
        path: &RelPath,
    ) -> Result<()> {
        self.note_late(number, task, path)?;
        let dropped = self.tree.drop_waiting(&name_of(number, task, inode), inode);
        dropped.map_err(at(path, "taking away what waits for it"))
    }

    /// What waits though it is late goes: a call before this one ended between the two.
    fn drop_late(
        &mut self,
        number: u64,
        task: Task,
        path: &RelPath,
        pending: &Pending,
    ) -> Result<()> {
        match pending.of(number, task) {
            Some(inode) => self.late_while_placed((number, task, inode), path),
            None => Ok(()),
        }
    }

    /// What a crash left between two names.
    fn settle_all_going(&mut self, pending: &Pending) -> Result<()> {
        for (number, divergence) in (0..).zip((self.plan)()?) {
            let divergence = divergence?;
            let beside = steps(&divergence).beside.map(|beside| beside.path);
            for (task, path) in [(Task::Place, Some(divergence.path)), (Task::Beside, beside)] {
                let Some((inode, path)) = pending.going.get(&(number, task)).copied().zip(path)
                else {
                    continue;
                };
                let going = [&name_of(number, task, inode)[..], GOING].concat();
                let there = self.tree.inode(self.tree.storage.root(), &path);
                let is_there = there.map_err(at(&path, "looking at it"))? == Some(inode);
                if !is_there {
                    self.note_late(number, task, &path)?;
                }
                let settled = self.tree.settle_going(&going, inode, is_there);
                settled.map_err(at(&path, "placing it"))?;
            }
        }
        Ok(())
    }

    /// Versions get their new names, durably, before what they had is given away.
    fn place_renamed(&mut self, pending: &Pending) -> Result<()> {
        for (number, divergence) in (0..).zip((self.plan)()?) {
            let divergence = divergence?;
            let Some(Beside { path: new, site, .. }) = steps(&divergence).beside else { continue };
            let waiting = pending.of(number, Task::Beside);
            let is_late = pending.of(number, Task::LateBeside).is_some();
            let put = match waiting {
                Some(inode) if !is_late => {
                    let name = name_of(number, Task::Beside, inode);
                    self.tree.put(&new, (&name, inode), None).map_err(at(&new, "placing it"))?
                }
                _ if is_late => Put::Late,
                _ => continue,
            };
            if put == Put::Done {
                continue;
            }
            // What was to have that name is kept all the same.
            match waiting.filter(|_| site == Site::Recovery) {
                Some(inode) => {
                    let name = name_of(number, Task::Beside, inode);
                    let kept = self.tree.keep_waiting(&divergence.path, &name);
                    kept.map_err(at(&divergence.path, "keeping it in the quarantine"))?;
                }
                None if site == Site::Recovery && self.is_as_planned(&divergence)? => {
                    self.keep(&divergence)?;
                }
                None => {}
            }
            self.late_while_placed((number, Task::Beside, waiting.unwrap_or_default()), &new)?;
        }
        self.tree.storage.sync_all().map_err(own("making what is kept durable"))
    }

    /// Brings the path to what the plan says, if what stands there may be replaced.
    fn place(
        &mut self,
        number: u64,
        divergence: &Divergence,
        steps: &Steps,
        pending: &Pending,
    ) -> Result<Put> {
        let path = &divergence.path;
        let Some(inode) = pending.of(number, Task::Place) else { return Ok(Put::Done) };
        let former = self.former(divergence, steps, pending.of(number, Task::Beside))?;
        let name = name_of(number, Task::Place, inode);
        let put = self.tree.put(path, (&name, inode), former).map_err(at(path, "placing it"))?;
        if put == Put::Late {
            self.late_while_placed((number, Task::Place, inode), path)?;
        }
        Ok(put)
    }

    /// Sets what can be changed where it is, if that very inode stands there and is the same but for that; and, of a
    /// call before this one, has nothing that neither site had.
    fn dress(
        &mut self,
        number: u64,
        divergence: &Divergence,
        inode: u64,
        is_resumed: bool,
    ) -> Result<()> {
        let path = &divergence.path;
        let Some(entry) = divergence.production.entry.clone() else { return Ok(()) };
        let there = self.tree.inode(self.tree.storage.root(), path);
        let is_there = there.map_err(at(path, "looking at it"))? == Some(inode);
        let now = if is_there { self.now(path, Some(&entry))? } else { None };
        let former = divergence.recovery.entry.as_ref();
        match now {
            Some(now) if now == entry => {}
            Some(now)
                if now.same_but_metadata(&entry)
                    && (!is_resumed || is_of_either(&now, &entry, former)) =>
            {
                self.tree.dress_live(path, &entry).map_err(at(path, "placing it"))?;
            }
            _ => self.note_late(number, Task::Dress, path)?,
        }
        Ok(())
    }

    /// After everything was placed that nothing was in the way of.
    fn remove_what_goes(&mut self) -> Result<()> {
        let mut directories = Vec::new();
        for (number, divergence) in (0..).zip((self.plan)()?) {
            let divergence = divergence?;
            let goes = steps(&divergence).end == End::Goes;
            if !goes && !is_directory_replaced(&divergence) {
                continue;
            }
            let recovery = divergence.recovery.entry.as_ref();
            if recovery.is_some_and(|e| e.kind() == EntryKind::Directory) {
                let is_placed = matches!(steps(&divergence).end, End::Placed(_));
                if goes || is_placed {
                    directories.push(divergence.path);
                }
                continue;
            }
            self.remove(number, &divergence)?;
        }
        for path in directories.iter().rev() {
            let removed = self.tree.remove_directory(path).map_err(at(path, "removing it"))?;
            self.applied.kept_directories += u64::from(!removed);
        }
        Ok(())
    }

    fn remove(&mut self, number: u64, divergence: &Divergence) -> Result<()> {
        let path = &divergence.path;
        let there = self.tree.stat(self.tree.storage.root(), path);
        if there.map_err(at(path, "looking at it"))?.is_none() {
            return Ok(());
        }
        let is_anothers = self.late.contains(path)
            || self.is_begun && !self.is_kept(path)? && !self.is_as_planned(divergence)?;
        if is_anothers
            || self.tree.move_aside(path).map_err(at(path, "moving it to the quarantine"))?
                != Put::Done
        {
            self.note_late(number, Task::Remove, path)?;
        }
        Ok(())
    }
}

/// Whether all that is known of `now` is what one of the others has: setting it was cut short, at most.
fn is_of_either(now: &Entry, one: &Entry, other: Option<&Entry>) -> bool {
    let (Some(now_meta), Some(one), Some(other)) =
        (now.meta(), one.meta(), other.and_then(Entry::meta))
    else {
        return false;
    };
    let is_timeless = now.kind() == EntryKind::Directory;
    let of_one = |has: &dyn Fn(&Metadata) -> bool| has(one) || has(other);
    of_one(&|m| m.uid == now_meta.uid)
        && of_one(&|m| m.gid == now_meta.gid)
        && of_one(&|m| m.mode == now_meta.mode)
        && (is_timeless || of_one(&|m| m.mtime == now_meta.mtime))
        && (now_meta.xattrs.iter())
            .all(|(name, value)| of_one(&|m| m.xattrs.get(name) == Some(value)))
}

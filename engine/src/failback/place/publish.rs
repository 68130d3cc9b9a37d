//! Placing what was made: it waits under a name of its own, and the call that places it takes that name away.
//!
//! Guarantees: what waits is placed once, whatever somebody does at its path and wherever a crash falls. Nothing is
//! replaced but the inode the caller names, looked at again when nobody else can have it any more; what was another one goes
//! back, or is kept by number. Durable is what the caller syncs.

use std::io;

use farshore_core::path::RelPath;

use super::{GOING, MADE, OUT, Put, Tree, has_no_links, is_gone, is_in_the_way};
use crate::io::{FileKind, Object, Storage};
use crate::own_folder::remove_tree;

impl<S: Storage> Tree<'_, S> {
    /// The inode of what was made.
    pub(in crate::failback) fn made_inode(&self) -> io::Result<u64> {
        Ok(self.storage.stat(Object::Named(&*self.scratch, MADE))?.inode)
    }

    /// Lets what was made wait under `name`.
    pub(in crate::failback) fn let_wait(&self, name: &[u8]) -> io::Result<()> {
        self.storage.rename(&self.scratch, MADE, &self.pending, name)
    }

    /// Makes a further name of what waits under `name`.
    pub(in crate::failback) fn make_name_of_waiting(&self, name: &[u8]) -> io::Result<()> {
        remove_tree(self.storage, &self.scratch, MADE)?;
        self.storage.link(&self.pending, name, &self.scratch, MADE)
    }

    /// Puts what waits under `name`, made as `inode`, to `path`: where nothing is, or in the place of the inode
    /// `former`.
    pub(in crate::failback) fn put(
        &self,
        path: &RelPath,
        (name, inode): (&[u8], u64),
        former: Option<u64>,
    ) -> io::Result<Put> {
        match self.try_put(path, (name, inode), former) {
            Err(e) if is_in_the_way(&e) => Ok(Put::InTheWay),
            done => done,
        }
    }

    fn try_put(
        &self,
        path: &RelPath,
        (waiting, inode): (&[u8], u64),
        former: Option<u64>,
    ) -> io::Result<Put> {
        let (storage, pending) = (self.storage, &self.pending);
        let made = storage.stat(Object::Named(&**pending, waiting))?;
        if made.inode != inode {
            // They changed places, and a crash came: this is what was replaced. What has no other name was not to be.
            let is_kept = self.set_aside(pending, waiting)?;
            return Ok(if is_kept { Put::Done } else { Put::Late });
        }
        let (into, name) = self.made_parent(storage.root(), path)?;
        let is_directory = made.kind == FileKind::Directory;
        let there = match storage.stat(Object::Named(&into, &name)) {
            Ok(there) => there,
            Err(e) if is_gone(&e) => return self.put_new(waiting, &into, &name, is_directory),
            Err(e) => return Err(e),
        };
        if there.inode == inode {
            storage.unlink(pending, waiting)?;
            return Ok(Put::Done);
        }
        if there.kind == FileKind::Directory {
            return Ok(Put::InTheWay);
        }
        if Some(there.inode) != former {
            return Ok(Put::Late);
        }
        if !is_directory && storage.may_exchange() {
            match storage.exchange(pending, waiting, &into, &name) {
                Ok(true) => return self.exchanged(waiting, &into, &name, former),
                Ok(false) => {}
                // It went in this very moment.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    return self.put_new(waiting, &into, &name, is_directory);
                }
                Err(e) => return Err(e),
            }
        }
        self.put_after_taking(waiting, &into, &name, is_directory, former)
    }

    /// What was replaced is looked at when nobody else has it any more: was it another one, it goes back.
    fn exchanged(
        &self,
        waiting: &[u8],
        into: &S::Directory,
        name: &[u8],
        former: Option<u64>,
    ) -> io::Result<Put> {
        let (storage, pending) = (self.storage, &self.pending);
        let out = storage.stat(Object::Named(&**pending, waiting))?;
        if Some(out.inode) == former {
            storage.unlink(pending, waiting)?;
            return Ok(Put::Done);
        }
        match storage.exchange(pending, waiting, into, name) {
            // Ours, or what somebody put in its place meanwhile: the caller has it set aside.
            Ok(_) => {}
            // Ours was taken away already: theirs has no path any more.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        Ok(Put::Late)
    }

    /// Nothing is replaced, whatever comes meanwhile.
    fn put_new(
        &self,
        waiting: &[u8],
        into: &S::Directory,
        name: &[u8],
        is_directory: bool,
    ) -> io::Result<Put> {
        let (storage, pending) = (self.storage, &self.pending);
        match storage.rename_new(pending, waiting, into, name) {
            Ok(true) => return Ok(Put::Done),
            Ok(false) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(Put::Late),
            Err(e) => return Err(e),
        }
        if is_directory {
            // An empty one that came meanwhile is all that a directory takes the place of.
            storage.rename(pending, waiting, into, name)?;
            return Ok(Put::Done);
        }
        // In two steps: a crash between them leaves a name that says so.
        let going = [waiting, GOING].concat();
        storage.rename(pending, waiting, pending, &going)?;
        match storage.link(pending, &going, into, name) {
            Ok(()) => storage.unlink(pending, &going)?,
            Err(e) if has_no_links(&e) => storage.rename(pending, &going, into, name)?,
            Err(e) => {
                storage.rename(pending, &going, pending, waiting)?;
                return match e.kind() {
                    io::ErrorKind::AlreadyExists => Ok(Put::Late),
                    _ => Err(e),
                };
            }
        }
        Ok(Put::Done)
    }

    /// Ends what a crash left between [`Self::put_new`]'s two steps, under `going`. Where it is not at its path it may
    /// have been, and somebody took it: it is never placed again, and kept.
    pub(in crate::failback) fn settle_going(
        &self,
        going: &[u8],
        inode: u64,
        is_there: bool,
    ) -> io::Result<()> {
        if is_there {
            return self.storage.unlink(&self.pending, going);
        }
        let name = inode.to_string();
        self.storage.rename(&self.pending, going, &self.unplanned, name.as_bytes())
    }

    /// Where names cannot change places, as a file and a directory never can: what is there is taken away first,
    /// looked at, and nothing is replaced. For a moment nothing is at the path.
    fn put_after_taking(
        &self,
        waiting: &[u8],
        into: &S::Directory,
        name: &[u8],
        is_directory: bool,
        former: Option<u64>,
    ) -> io::Result<Put> {
        let (storage, scratch) = (self.storage, &self.scratch);
        storage.rename(into, name, scratch, OUT)?;
        if Some(storage.stat(Object::Named(&**scratch, OUT))?.inode) == former {
            let put = self.put_new(waiting, into, name, is_directory)?;
            storage.unlink(scratch, OUT)?;
            return Ok(put);
        }
        // Somebody was faster: back with it, unless they were so again.
        match storage.link(scratch, OUT, into, name) {
            Ok(()) => storage.unlink(scratch, OUT)?,
            Err(_) => self.recover()?,
        }
        Ok(Put::Late)
    }

    /// Keeps what waits under `name`, a further name of what stands at `path`, in the quarantine as well.
    pub(in crate::failback) fn keep_waiting(&self, path: &RelPath, name: &[u8]) -> io::Result<()> {
        let (into, kept) = self.made_parent(&self.kept, path)?;
        match self.storage.link(&self.pending, name, &into, &kept) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(e) if has_no_links(&e) => self.storage.rename(&self.pending, name, &into, &kept),
            done => done,
        }
    }

    /// Says by an empty file of that name what is done; it may be said already.
    pub(in crate::failback) fn note(&self, name: &[u8]) -> io::Result<()> {
        match self.storage.create_file(&self.pending, name) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made.map(drop),
        }
    }

    /// What waits under `name`, if anything does, is not placed. Made as `inode`, it goes: whatever it was made of is
    /// kept; anything else is somebody's.
    pub(in crate::failback) fn drop_waiting(&self, name: &[u8], inode: u64) -> io::Result<()> {
        match self.storage.stat(Object::Named(&*self.pending, name)) {
            Ok(waiting) if waiting.inode == inode => remove_tree(self.storage, &self.pending, name),
            Ok(_) => self.set_aside(&self.pending, name).map(drop),
            // It is in the quarantine now.
            Err(e) if is_gone(&e) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Nothing that a crash left in our folder is lost: what has no other name is kept.
    pub(in crate::failback) fn recover(&self) -> io::Result<()> {
        match self.set_aside(&self.scratch, OUT) {
            Err(e) if is_gone(&e) => Ok(()),
            done => done.map(drop),
        }
    }

    /// Takes a name of ours away; what has no other one is kept. Whether it has one.
    fn set_aside(&self, at: &S::Directory, name: &[u8]) -> io::Result<bool> {
        let storage = self.storage;
        let stat = storage.stat(Object::Named(at, name))?;
        if stat.links > 1 {
            return storage.unlink(at, name).map(|()| true);
        }
        let number = stat.inode.to_string();
        storage.rename(at, name, &self.unplanned, number.as_bytes()).map(|()| false)
    }
}

//! Single steps on one tree: what stands at a path, keeping it, putting something in its place.
//!
//! Guarantees: what is placed is made beside first, under a name of its own, and its content compared with the plan's;
//! the very call that places it takes that name away, so that it is placed once. A live path
//! has its former or its new version at every moment where the file system lets two names change places, but where a
//! directory takes the place of a file or a file that of a directory; else nothing for a moment. Nothing is replaced but
//! the inode the caller names, which is kept elsewhere; nothing takes the
//! place of what came where nothing was. A step that a crash cut off can be done again. Nothing is resolved by path
//! below the root. Durable is what the caller syncs.

use std::io;
use std::sync::Arc;

use farshore_core::chunking::Chunker;
use farshore_core::entry::{Entry, EntryKind};
use farshore_core::path::RelPath;
use farshore_core::recipe::FileDigest;
use rustix::io::Errno;

use super::apply::Part;
use crate::io::{FileKind, NewNode, Object, Stat, Storage};
use crate::metadata::{Degraded, Present, apply_metadata};
use crate::observe::{Expected, ObserveError, describe_file, describe_node, metadata};
use crate::own_folder::{ensure_directory, remove_tree};

/// A tree that is worked on.
pub(super) struct Tree<'a, S: Storage> {
    pub(super) storage: &'a S,
    /// A folder of ours on the same file system, where things are made.
    pub(super) scratch: Arc<S::Directory>,
    /// Another one, of what is made and waits to be placed.
    pub(super) pending: Arc<S::Directory>,
    /// Where versions that lose are kept, at their paths.
    pub(super) kept: Arc<S::Directory>,
    /// What nobody planned for is kept here, by number.
    pub(super) unplanned: Arc<S::Directory>,
    pub(super) chunker: Option<Chunker>,
    pub(super) degraded: Degraded,
}

/// What became of a path at which something was to be placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    /// It is there.
    Done,
    /// Something is to go first.
    InTheWay,
    /// Somebody put something else there since the plan was checked: that stays.
    Late,
}

/// Content that is not what the plan says.
#[derive(Debug, thiserror::Error)]
#[error("its content is {found}, the plan was made with {expected}")]
struct OtherContent {
    expected: FileDigest,
    found: FileDigest,
}

/// Whether content was not what the plan says.
pub(super) fn is_other_content(e: &io::Error) -> bool {
    e.get_ref().is_some_and(|inner| inner.is::<OtherContent>())
}

/// The name under which something is made before it is placed.
const MADE: &[u8] = b"made";
/// The name of what was taken from its path, to make room.
const OUT: &[u8] = b"out";
/// What the name of something pending ends with while it gets its further name at the path, and loses this one.
pub(super) const GOING: &[u8] = b".going";
/// Times a kept version that is being written to is looked at again.
const TRIES: u32 = 3;

fn split(path: &RelPath) -> io::Result<(RelPath, Vec<u8>)> {
    let (parent, name) = path.split().ok_or(io::ErrorKind::InvalidInput)?;
    Ok((parent, name.to_vec()))
}

/// Whether something above is a symbolic link, which is not followed.
fn is_below_link(e: &io::Error) -> bool {
    e.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}

/// Whether nothing is there, or what is above is no directory.
pub(super) fn is_gone(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) || is_below_link(e)
}

fn is_in_the_way(e: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(e.kind(), K::IsADirectory | K::NotADirectory | K::DirectoryNotEmpty)
        || is_below_link(e)
}

/// Whether a file system has no further names, or not for that inode.
fn has_no_links(e: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(e.kind(), K::PermissionDenied | K::Unsupported | K::TooManyLinks)
}

/// Whether a file is not the one that was to be copied, or not any more.
fn is_another(e: &io::Error) -> bool {
    use io::ErrorKind as K;
    is_gone(e)
        || is_other_content(e)
        || matches!(e.kind(), K::UnexpectedEof | K::InvalidInput | K::IsADirectory)
}

fn observed(e: ObserveError) -> io::Error {
    match e {
        ObserveError::System { source, .. } => source,
        e => io::Error::other(crate::ingest::describe(&e)),
    }
}

impl<S: Storage> Tree<'_, S> {
    /// The open parent of `path` below `at`, and its name.
    fn parent(&self, at: &S::Directory, path: &RelPath) -> io::Result<(S::Directory, Vec<u8>)> {
        let (parent, name) = split(path)?;
        Ok((self.storage.open_directory(at, parent.as_bytes())?, name))
    }

    /// The same, with every directory above made where there is none.
    fn made_parent(
        &self,
        at: &S::Directory,
        path: &RelPath,
    ) -> io::Result<(S::Directory, Vec<u8>)> {
        let (parent, name) = split(path)?;
        let mut directory = self.storage.open_directory(at, b"")?;
        for component in parent.components() {
            directory = ensure_directory(self.storage, &directory, component)?;
        }
        Ok((directory, name))
    }

    /// The facts of what stands at `path` below `at`, if anything does.
    pub(super) fn stat(&self, at: &S::Directory, path: &RelPath) -> io::Result<Option<Stat>> {
        let found = self
            .parent(at, path)
            .and_then(|(directory, name)| self.storage.stat(Object::Named(&directory, &name)));
        match found {
            Ok(stat) => Ok(Some(stat)),
            Err(e) if is_gone(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The inode at `path` below `at`.
    pub(super) fn inode(&self, at: &S::Directory, path: &RelPath) -> io::Result<Option<u64>> {
        Ok(self.stat(at, path)?.map(|stat| stat.inode))
    }

    /// What stands at `path`; content is described as `expected` is.
    pub(super) fn now(
        &mut self,
        path: &RelPath,
        expected: Option<&Entry>,
    ) -> Result<Option<Entry>, ObserveError> {
        let system = |step| move |source| ObserveError::System { step, source };
        let (directory, name) = match self.parent(self.storage.root(), path) {
            Ok(parent) => parent,
            Err(e) if is_gone(&e) => return Ok(None),
            Err(e) => return Err(system("opening its directory")(e)),
        };
        let stat = match self.storage.stat(Object::Named(&directory, &name)) {
            Ok(stat) => stat,
            Err(e) if is_gone(&e) => return Ok(None),
            Err(e) => return Err(system("looking at it")(e)),
        };
        if stat.kind != FileKind::Regular {
            return describe_node(self.storage, &directory, &name, &stat).map(Some);
        }
        if let Some(Entry::HardLink { leader }) = expected {
            // A further name is what it is as long as it is one.
            let first = self.inode(self.storage.root(), leader);
            if first.map_err(system("looking at its first name"))? == Some(stat.inode) {
                return Ok(expected.cloned());
            }
        }
        match self.described(&directory, &name, expected) {
            Ok(entry) => Ok(Some(entry)),
            Err(e) if e.is_vanished() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The version of the file `path` in the quarantine, if there is one.
    pub(super) fn kept_entry(&mut self, path: &RelPath) -> io::Result<Option<Entry>> {
        let kept = Arc::clone(&self.kept);
        match self.stat(&kept, path)? {
            Some(stat) if stat.kind == FileKind::Regular => {
                let (at, name) = self.parent(&kept, path)?;
                match self.described(&at, &name, None) {
                    Ok(entry) => Ok(Some(entry)),
                    Err(ObserveError::Changed) => Ok(None),
                    Err(e) => Err(observed(e)),
                }
            }
            _ => Ok(None),
        }
    }

    fn described(
        &mut self,
        directory: &S::Directory,
        name: &[u8],
        expected: Option<&Entry>,
    ) -> Result<Entry, ObserveError> {
        let known = expected.and_then(|entry| {
            let (content, size) = (*entry.content()?, entry.size());
            Some(Expected { content, size, chunking: None })
        });
        let described =
            describe_file(self.storage, directory, name, known.as_ref(), &mut self.chunker);
        described.map(|(entry, ..)| entry)
    }

    /// Demands that the file at `name` has the content of `entry`.
    fn compare(&mut self, at: &S::Directory, name: &[u8], entry: &Entry) -> io::Result<()> {
        let Some(expected) = entry.content() else { return Ok(()) };
        let found = self.described(at, name, Some(entry)).map_err(observed)?;
        match found.content() {
            Some(found) if found == expected => Ok(()),
            Some(found) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                OtherContent { expected: *expected, found: *found },
            )),
            None => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Moves what stands at `path` to the quarantine; whether there was anything. What is there stays, and then
    /// so does what stands at the path.
    pub(super) fn move_aside(&self, path: &RelPath) -> io::Result<Put> {
        let (from, name) = match self.parent(self.storage.root(), path) {
            Ok(parent) => parent,
            Err(e) if is_gone(&e) => return Ok(Put::Done),
            Err(e) => return Err(e),
        };
        if self.storage.stat(Object::Named(&from, &name)).is_err_and(|e| is_gone(&e)) {
            return Ok(Put::Done);
        }
        let (into, _) = self.made_parent(&self.kept, path)?;
        match self.storage.stat(Object::Named(&into, &name)) {
            // Bringing it back was cut short between its two names. Which is durable is not known but of the kept one;
            // did somebody else get the path meanwhile, that is kept too.
            Ok(kept) if self.inode(self.storage.root(), path)? == Some(kept.inode) => {
                self.storage.rename(&from, &name, &self.scratch, OUT)?;
                self.recover()?;
                return Ok(Put::Done);
            }
            Ok(_) => return Ok(Put::Late),
            Err(e) if is_gone(&e) => {}
            Err(e) => return Err(e),
        }
        self.storage.rename(&from, &name, &into, &name)?;
        Ok(Put::Done)
    }

    /// Gives the version of `path` in the quarantine its path again; what stands there stays, and then so does the
    /// version. It may have both names: [`Self::let_go`] ends that when all is durable.
    pub(super) fn bring_back(&self, path: &RelPath) -> io::Result<Put> {
        let (from, name) = self.parent(&self.kept, path)?;
        let (into, _) = match self.made_parent(self.storage.root(), path) {
            Err(e) if is_in_the_way(&e) => return Ok(Put::Late),
            parent => parent?,
        };
        let kept = self.storage.stat(Object::Named(&from, &name))?;
        match self.storage.stat(Object::Named(&into, &name)) {
            // A call before this one was cut short between its two names.
            Ok(there) if there.inode == kept.inode => return Ok(Put::Done),
            Ok(_) => return Ok(Put::Late),
            Err(e) if is_gone(&e) => {}
            Err(e) => return Err(e),
        }
        if kept.kind != FileKind::Directory {
            // A further name takes the place of nothing, whatever comes meanwhile.
            match self.storage.link(&from, &name, &into, &name) {
                Ok(()) => return Ok(Put::Done),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(Put::Late),
                Err(e) if has_no_links(&e) => {}
                Err(e) => return Err(e),
            }
        }
        self.storage.rename(&from, &name, &into, &name)?;
        Ok(Put::Done)
    }

    /// Takes the name of `path` in the quarantine away if the very version is at its path, durably.
    pub(super) fn let_go(&self, path: &RelPath) -> io::Result<()> {
        let kept = self.inode(&self.kept, path)?;
        if kept.is_none() || kept != self.inode(self.storage.root(), path)? {
            return Ok(());
        }
        let (at, name) = self.parent(&self.kept, path)?;
        self.storage.unlink(&at, &name)
    }

    /// Takes the folders above `path` away in the quarantine, from below up to the first in which something is.
    pub(super) fn remove_empty_above(&self, path: &RelPath) {
        let mut above = path.split().map(|(parent, _)| parent);
        while let Some(folder) = above.filter(|folder| !folder.is_root()) {
            let removed = self
                .parent(&self.kept, &folder)
                .and_then(|(at, name)| self.storage.remove_directory(&at, &name));
            // One that is gone already: those above it may not be.
            if removed.is_err_and(|e| !is_gone(&e)) {
                return;
            }
            above = folder.split().map(|(parent, _)| parent);
        }
    }

    /// Lays the file at `path`, or that version of it in the quarantine, out at the same path below `to`.
    pub(super) fn lay_out(&mut self, path: &RelPath, to: &S::Directory) -> io::Result<()> {
        let inode = self.inode(self.storage.root(), path)?;
        let from = match inode {
            Some(_) => self.parent(self.storage.root(), path)?,
            None => self.parent(&self.kept, path)?,
        };
        let (into, name) = self.made_parent(to, path)?;
        let laid = self.storage.stat(Object::Named(&into, &name));
        match laid {
            Ok(laid) if self.storage.stat(Object::Named(&from.0, &name))?.inode == laid.inode => {
                return Ok(());
            }
            // Of a call before this one, when another inode was there.
            Ok(_) => self.storage.unlink(&into, &name)?,
            Err(e) if is_gone(&e) => {}
            Err(e) => return Err(e),
        }
        self.storage.link(&from.0, &from.1, &into, &name)
    }

    /// Keeps what stands at `path` in the quarantine and leaves it where it is: a further name, so that what is
    /// still written to it is kept as well; or a copy where a file system has no links.
    pub(super) fn keep(&mut self, path: &RelPath, entry: &Entry) -> io::Result<()> {
        if entry.kind() == EntryKind::Directory || self.stat(&self.kept, path)?.is_some() {
            return Ok(());
        }
        let (from, name) = self.parent(self.storage.root(), path)?;
        let (into, _) = self.made_parent(&self.kept, path)?;
        match self.storage.link(&from, &name, &into, &name) {
            Err(e) if has_no_links(&e) => {}
            done => return done,
        }
        match entry.kind() {
            EntryKind::File | EntryKind::HardLink => {
                let storage = self.storage;
                self.copy(storage.root(), path, entry)?;
            }
            _ => self.make_node(entry)?,
        }
        self.storage.rename(&self.scratch, MADE, &into, &name)
    }

    /// Makes a further name of what stands at `path`, or a copy where a file system has no links.
    pub(super) fn make_name(&mut self, path: &RelPath, entry: &Entry) -> io::Result<()> {
        match self.make_link(path) {
            Err(e) if has_no_links(&e) => {}
            done => return done,
        }
        match entry.kind() {
            EntryKind::File => self.copy(self.storage.root(), path, entry),
            _ => self.make_node(entry),
        }
    }

    /// Makes a version in the quarantine one that no live path shares an inode with: later writes there would
    /// change it. Whether there was anything to do.
    pub(super) fn detach(&mut self, path: &RelPath) -> io::Result<bool> {
        let Some(stat) = self.stat(&self.kept, path)? else { return Ok(false) };
        if stat.kind != FileKind::Regular || stat.links < 2 {
            return Ok(false);
        }
        let kept = Arc::clone(&self.kept);
        let (at, name) = self.parent(&kept, path)?;
        for _ in 0..TRIES {
            let entry = match self.described(&at, &name, None) {
                Err(ObserveError::Changed) => continue,
                described => described.map_err(observed)?,
            };
            match self.copy(&kept, path, &entry) {
                Err(e) if is_other_content(&e) => {}
                done => {
                    done?;
                    // It takes the place of the only durable one.
                    let made = self.storage.open_file(&self.scratch, MADE)?;
                    self.storage.sync_file(&made)?;
                    self.storage.rename(&self.scratch, MADE, &at, &name)?;
                    return Ok(true);
                }
            }
        }
        // It is written to all the time: it stays the very file that is.
        Ok(false)
    }

    /// Makes a copy of the file at `path` below `at`, with what `entry` says of owner, mode and time; its content
    /// is what `entry` says, or there is none.
    fn copy(&mut self, at: &S::Directory, path: &RelPath, entry: &Entry) -> io::Result<()> {
        let (from, name) = self.parent(at, path)?;
        let source = self.storage.open_file(&from, &name)?;
        let size = self.storage.stat(Object::File(&source))?.size;
        remove_tree(self.storage, &self.scratch, MADE)?;
        let made = self.storage.create_file(&self.scratch, MADE)?;
        self.storage.set_len(&made, size)?;
        let mut offset = 0;
        while let Some(data) = self.storage.next_data(&source, offset, size)? {
            let len = data.end.saturating_sub(data.start);
            self.storage.copy_range(&source, data.start, &made, data.start, len)?;
            offset = data.end;
        }
        let scratch = Arc::clone(&self.scratch);
        self.compare(&scratch, MADE, entry)?;
        self.dress(Object::File(&made), FileKind::Regular, entry)
    }

    /// Gives an object what `entry` says of it.
    fn dress(&mut self, object: Object<'_, S>, kind: FileKind, entry: &Entry) -> io::Result<()> {
        let Some(wanted) = entry.meta() else { return Ok(()) };
        let stat = self.storage.stat(object)?;
        let there = metadata(self.storage, object, &stat);
        let there = there.map_err(|e| io::Error::other(e.to_string()))?;
        let present =
            Present { owner: (stat.uid, stat.gid), mode: Some(stat.mode), xattrs: &there.xattrs };
        apply_metadata(self.storage, object, kind, wanted, present, &mut self.degraded)
    }

    /// Gives what stands at `path` owner, mode, time and attributes, and leaves all else as it is: a copy would
    /// lose what is written to the file meanwhile.
    pub(super) fn dress_live(&mut self, path: &RelPath, entry: &Entry) -> io::Result<()> {
        let (at, name) = self.parent(self.storage.root(), path)?;
        let object = Object::Named(&at, &name);
        let kind = self.storage.stat(object)?.kind;
        self.dress(object, kind, entry)
    }

    /// Makes what has no content.
    pub(super) fn make_node(&mut self, entry: &Entry) -> io::Result<()> {
        let (storage, at) = (self.storage, Arc::clone(&self.scratch));
        remove_tree(storage, &at, MADE)?;
        let kind = match entry {
            Entry::Symlink { target, .. } => {
                storage.make_symlink(&at, MADE, target)?;
                FileKind::Symlink
            }
            Entry::Fifo { .. } => {
                storage.make_node(&at, MADE, NewNode::Fifo)?;
                FileKind::Fifo
            }
            Entry::Socket { .. } => {
                storage.make_node(&at, MADE, NewNode::Socket)?;
                FileKind::Socket
            }
            Entry::CharDevice { number, .. } => {
                storage.make_node(&at, MADE, NewNode::CharDevice(*number))?;
                FileKind::CharDevice
            }
            Entry::BlockDevice { number, .. } => {
                storage.make_node(&at, MADE, NewNode::BlockDevice(*number))?;
                FileKind::BlockDevice
            }
            Entry::Directory { .. } => {
                storage.make_directory(&at, MADE)?;
                FileKind::Directory
            }
            Entry::File { .. } | Entry::HardLink { .. } => {
                return Err(io::ErrorKind::InvalidInput.into());
            }
        };
        self.dress(Object::Named(&*at, MADE), kind, entry)
    }

    /// Makes a copy of the live file at `from`, or of that version of it in the quarantine when it went or is
    /// another one now; `false` when neither has the content.
    pub(super) fn make_copy(&mut self, from: &RelPath, entry: &Entry) -> io::Result<bool> {
        let (storage, kept) = (self.storage, Arc::clone(&self.kept));
        for at in [storage.root(), &*kept] {
            match self.copy(at, from, entry) {
                Err(e) if is_another(&e) => {}
                done => return done.map(|()| true),
            }
        }
        Ok(false)
    }

    /// Makes a copy of what came at `path` below `at`. What is not the plan's is taken away there, so that it
    /// comes anew.
    pub(super) fn make_carried(
        &mut self,
        at: &S::Directory,
        path: &RelPath,
        entry: &Entry,
    ) -> io::Result<()> {
        let copied = self.copy(at, path, entry);
        if copied.as_ref().is_err_and(is_other_content) {
            let (from, name) = self.parent(at, path)?;
            self.storage.unlink(&from, &name)?;
        }
        copied
    }

    /// Makes a further name of the file at `first`.
    pub(super) fn make_link(&mut self, first: &RelPath) -> io::Result<()> {
        let (from, name) = self.parent(self.storage.root(), first)?;
        remove_tree(self.storage, &self.scratch, MADE)?;
        self.storage.link(&from, &name, &self.scratch, MADE)
    }

    /// Puts a file together from `parts` of the versions at `of`, with what `entry` says of owner, mode and time;
    /// what it is.
    pub(super) fn make_merged(
        &mut self,
        of: &RelPath,
        entry: &Entry,
        parts: &[Part<'_, S::Directory>],
    ) -> io::Result<Entry> {
        remove_tree(self.storage, &self.scratch, MADE)?;
        let made = self.storage.create_file(&self.scratch, MADE)?;
        let mut end = 0;
        for part in parts {
            match part {
                Part::Literal(bytes) => {
                    self.storage.write_at(&made, end, bytes)?;
                    end += bytes.len() as u64;
                }
                Part::Copy(at, offset, length) => {
                    let (from, name) = self.parent(at, of)?;
                    let source = self.storage.open_file(&from, &name)?;
                    self.storage.copy_range(&source, *offset, &made, end, *length)?;
                    end += length;
                }
            }
        }
        self.dress(Object::File(&made), FileKind::Regular, entry)?;
        let scratch = Arc::clone(&self.scratch);
        self.described(&scratch, MADE, None).map_err(observed)
    }

    /// Demands that the file at `path` below `at` has the content of `entry`.
    pub(super) fn compare_at(
        &mut self,
        at: &S::Directory,
        path: &RelPath,
        entry: &Entry,
    ) -> io::Result<()> {
        let (from, name) = self.parent(at, path)?;
        self.compare(&from, &name, entry)
    }

    /// The inode of what was made.
    pub(super) fn made_inode(&self) -> io::Result<u64> {
        Ok(self.storage.stat(Object::Named(&*self.scratch, MADE))?.inode)
    }

    /// Lets what was made wait under `name`.
    pub(super) fn let_wait(&self, name: &[u8]) -> io::Result<()> {
        self.storage.rename(&self.scratch, MADE, &self.pending, name)
    }

    /// Makes a further name of what waits under `name`.
    pub(super) fn make_name_of_waiting(&self, name: &[u8]) -> io::Result<()> {
        remove_tree(self.storage, &self.scratch, MADE)?;
        self.storage.link(&self.pending, name, &self.scratch, MADE)
    }

    /// Puts what waits under `name`, made as `inode`, to `path`: where nothing is, or in the place of the inode
    /// `former`.
    pub(super) fn put(
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
    pub(super) fn settle_going(&self, going: &[u8], inode: u64, is_there: bool) -> io::Result<()> {
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
    pub(super) fn keep_waiting(&self, path: &RelPath, name: &[u8]) -> io::Result<()> {
        let (into, kept) = self.made_parent(&self.kept, path)?;
        match self.storage.link(&self.pending, name, &into, &kept) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(e) if has_no_links(&e) => self.storage.rename(&self.pending, name, &into, &kept),
            done => done,
        }
    }

    /// Says by an empty file of that name what is done; it may be said already.
    pub(super) fn note(&self, name: &[u8]) -> io::Result<()> {
        match self.storage.create_file(&self.pending, name) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made.map(drop),
        }
    }

    /// What waits under `name`, if anything does, is not placed. Made as `inode`, it goes: whatever it was made of is
    /// kept; anything else is somebody's.
    pub(super) fn drop_waiting(&self, name: &[u8], inode: u64) -> io::Result<()> {
        match self.storage.stat(Object::Named(&*self.pending, name)) {
            Ok(waiting) if waiting.inode == inode => remove_tree(self.storage, &self.pending, name),
            Ok(_) => self.set_aside(&self.pending, name).map(drop),
            // It is in the quarantine now.
            Err(e) if is_gone(&e) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Nothing that a crash left in our folder is lost: what has no other name is kept.
    pub(super) fn recover(&self) -> io::Result<()> {
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

    /// Takes an empty directory away; one that is not empty stays.
    pub(super) fn remove_directory(&self, path: &RelPath) -> io::Result<bool> {
        let (from, name) = match self.parent(self.storage.root(), path) {
            Ok(parent) => parent,
            Err(e) if is_gone(&e) => return Ok(true),
            Err(e) => return Err(e),
        };
        match self.storage.remove_directory(&from, &name) {
            Ok(()) => Ok(true),
            Err(e) if is_gone(&e) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
            Err(e) => Err(e),
        }
    }
}

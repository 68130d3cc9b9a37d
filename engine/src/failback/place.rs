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
use crate::copy::{copy_content, dress};
use crate::io::{FileKind, NewNode, Object, Stat, Storage};
use crate::metadata::Degraded;
use crate::observe::{Expected, ObserveError, describe_file, describe_node};
use crate::own_folder::{ensure_directory, remove_tree};

mod publish;

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
        let made = copy_content(self.storage, &source, size, &self.scratch, MADE)?;
        let scratch = Arc::clone(&self.scratch);
        self.compare(&scratch, MADE, entry)?;
        self.dress(Object::File(&made), entry)
    }

    /// Gives an object what `entry` says of it.
    fn dress(&mut self, object: Object<'_, S>, entry: &Entry) -> io::Result<()> {
        let Some(wanted) = entry.meta() else { return Ok(()) };
        let stat = self.storage.stat(object)?;
        dress(self.storage, object, &stat, wanted, &mut self.degraded)
    }

    /// Gives what stands at `path` owner, mode, time and attributes, and leaves all else as it is: a copy would
    /// lose what is written to the file meanwhile.
    pub(super) fn dress_live(&mut self, path: &RelPath, entry: &Entry) -> io::Result<()> {
        let (at, name) = self.parent(self.storage.root(), path)?;
        let object = Object::Named(&at, &name);
        self.dress(object, entry)
    }

    /// Makes what has no content.
    pub(super) fn make_node(&mut self, entry: &Entry) -> io::Result<()> {
        let (storage, at) = (self.storage, Arc::clone(&self.scratch));
        remove_tree(storage, &at, MADE)?;
        match entry {
            Entry::Symlink { target, .. } => storage.make_symlink(&at, MADE, target),
            Entry::Fifo { .. } => storage.make_node(&at, MADE, NewNode::Fifo),
            Entry::Socket { .. } => storage.make_node(&at, MADE, NewNode::Socket),
            Entry::CharDevice { number, .. } => {
                storage.make_node(&at, MADE, NewNode::CharDevice(*number))
            }
            Entry::BlockDevice { number, .. } => {
                storage.make_node(&at, MADE, NewNode::BlockDevice(*number))
            }
            Entry::Directory { .. } => storage.make_directory(&at, MADE),
            Entry::File { .. } | Entry::HardLink { .. } => Err(io::ErrorKind::InvalidInput.into()),
        }?;
        self.dress(Object::Named(&*at, MADE), entry)
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
        self.dress(Object::File(&made), entry)?;
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

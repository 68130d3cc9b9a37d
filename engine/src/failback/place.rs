//! Single steps on one tree: what stands at a path, moving it aside, putting something in its place.
//!
//! Guarantees: every step is one rename or makes something beside before it is renamed into place, so that a path
//! that is live has its former or its new version at every moment, and a step that a crash cut off can be done
//! again. Nothing is resolved by path below the root.

use std::io;
use std::sync::Arc;

use farshore_core::chunking::Chunker;
use farshore_core::entry::{Entry, EntryKind};
use farshore_core::path::RelPath;

use super::apply::Part;
use crate::io::{FileKind, NewNode, Object, Storage};
use crate::metadata::{Degraded, Present, apply_metadata};
use crate::observe::{Expected, ObserveError, describe_file, describe_node, metadata};
use crate::own_folder::{ensure_directory, remove_tree};

/// A tree that is worked on.
pub(super) struct Tree<'a, S: Storage> {
    pub(super) storage: &'a S,
    /// A folder of ours on the same file system, where things are made.
    pub(super) scratch: Arc<S::Directory>,
    pub(super) chunker: Option<Chunker>,
    pub(super) degraded: Degraded,
}

/// The name under which something is made before it is placed.
const MADE: &[u8] = b"made";

fn split(path: &RelPath) -> io::Result<(RelPath, Vec<u8>)> {
    let (parent, name) = path.split().ok_or(io::ErrorKind::InvalidInput)?;
    Ok((parent, name.to_vec()))
}

fn is_gone(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

impl<S: Storage> Tree<'_, S> {
    /// The open parent of `path` below `at`, and its name.
    pub(super) fn parent(
        &self,
        at: &S::Directory,
        path: &RelPath,
    ) -> io::Result<(S::Directory, Vec<u8>)> {
        let (parent, name) = split(path)?;
        Ok((self.storage.open_directory(at, parent.as_bytes())?, name))
    }

    /// The same, with every directory above made where there is none.
    pub(super) fn made_parent(
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
            let first = self
                .parent(self.storage.root(), leader)
                .and_then(|(directory, name)| self.storage.stat(Object::Named(&directory, &name)));
            if first.is_ok_and(|first| first.inode == stat.inode) {
                return Ok(expected.cloned());
            }
        }
        let known = expected.and_then(|entry| {
            entry.content().map(|content| Expected {
                content: *content,
                size: entry.size(),
                chunking: None,
            })
        });
        let described =
            describe_file(self.storage, &directory, &name, known.as_ref(), &mut self.chunker);
        match described {
            Ok((entry, ..)) => Ok(Some(entry)),
            Err(e) if e.is_vanished() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Moves what stands at `path` to the same path below `to`; whether there was anything. What was moved
    /// there before is not overwritten.
    pub(super) fn move_aside(&self, path: &RelPath, to: &S::Directory) -> io::Result<bool> {
        let (from, name) = match self.parent(self.storage.root(), path) {
            Ok(parent) => parent,
            Err(e) if is_gone(&e) => return Ok(false),
            Err(e) => return Err(e),
        };
        let (into, _) = self.made_parent(to, path)?;
        if self.storage.stat(Object::Named(&from, &name)).is_err_and(|e| is_gone(&e)) {
            return Ok(false);
        }
        if self.storage.stat(Object::Named(&into, &name)).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.storage.rename(&from, &name, &into, &name)?;
        Ok(true)
    }

    /// Gives the file at `path` a further name at the same path below `to`; one that is there stays.
    pub(super) fn name_aside(&self, path: &RelPath, to: &S::Directory) -> io::Result<()> {
        let (from, name) = self.parent(self.storage.root(), path)?;
        let (into, _) = self.made_parent(to, path)?;
        match self.storage.link(&from, &name, &into, &name) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            done => done,
        }
    }

    /// Keeps what stands at `path` below `to` and leaves it where it is: a further name, or a copy where a file
    /// system has no links.
    pub(super) fn keep(
        &mut self,
        path: &RelPath,
        entry: &Entry,
        to: &S::Directory,
    ) -> io::Result<()> {
        let (into, name) = self.made_parent(to, path)?;
        if self.storage.stat(Object::Named(&into, &name)).is_ok() {
            return Ok(());
        }
        match entry.kind() {
            EntryKind::File | EntryKind::HardLink => {
                match self.name_aside(path, to) {
                    Ok(()) => return Ok(()),
                    // Too many names, or a file system without: a copy.
                    Err(e) if is_gone(&e) => return Err(e),
                    Err(_) => {
                        let storage = self.storage;
                        self.copy(storage.root(), path, entry)?;
                    }
                }
                self.storage.rename(&self.scratch, MADE, &into, &name)
            }
            EntryKind::Directory => Ok(()),
            _ => {
                self.make_node(entry)?;
                self.storage.rename(&self.scratch, MADE, &into, &name)
            }
        }
    }

    /// Makes a copy of the file at `path` below `at`, with what `entry` says of owner, mode and time.
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
        self.dress(Object::File(&made), FileKind::Regular, entry)?;
        self.storage.sync_file(&made)
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

    /// Makes what has no content.
    fn make_node(&mut self, entry: &Entry) -> io::Result<()> {
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

    /// Puts a copy of the file at `from` below `at` to `path`, as `entry` has it.
    pub(super) fn place_copy(
        &mut self,
        at: &S::Directory,
        from: &RelPath,
        path: &RelPath,
        entry: &Entry,
    ) -> io::Result<()> {
        self.copy(at, from, entry)?;
        self.place_made(path)
    }

    /// Puts a file together from `parts` of the versions at `of`, to `path`.
    pub(super) fn place_merged(
        &mut self,
        of: &RelPath,
        path: &RelPath,
        entry: &Entry,
        parts: &[Part<'_, S::Directory>],
    ) -> io::Result<()> {
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
        self.storage.sync_file(&made)?;
        self.place_made(path)
    }

    /// Makes what has no content at `path`; a directory that is there is kept and dressed.
    pub(super) fn place_node(&mut self, path: &RelPath, entry: &Entry) -> io::Result<()> {
        if entry.kind() == EntryKind::Directory {
            let (into, name) = self.made_parent(self.storage.root(), path)?;
            if self
                .storage
                .stat(Object::Named(&into, &name))
                .is_ok_and(|s| s.kind == FileKind::Directory)
            {
                return self.dress(Object::Named(&into, &name), FileKind::Directory, entry);
            }
        }
        self.make_node(entry)?;
        self.place_made(path)
    }

    /// Gives the file at `first` the further name `path`.
    pub(super) fn place_link(&mut self, first: &RelPath, path: &RelPath) -> io::Result<()> {
        let (from, name) = self.parent(self.storage.root(), first)?;
        remove_tree(self.storage, &self.scratch, MADE)?;
        self.storage.link(&from, &name, &self.scratch, MADE)?;
        self.place_made(path)
    }

    fn place_made(&self, path: &RelPath) -> io::Result<()> {
        let (into, name) = self.made_parent(self.storage.root(), path)?;
        self.storage.rename(&self.scratch, MADE, &into, &name)?;
        // Two names of one inode: the rename does nothing then.
        remove_tree(self.storage, &self.scratch, MADE)
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

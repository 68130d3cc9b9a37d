//! The simulated file system with a witness, and with syncs that can be left out, reads that lie, and
//! calls that panic on purpose.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use farshore_core::entry::Timestamp;
use farshore_engine::io::sim::{SimDirectory, SimFile, SimStorage};
use farshore_engine::io::{Listed, NewNode, Object, Stat, Storage};

/// What goes wrong on purpose: a controlled bug, to prove that it is found. A sync here does nothing
/// and says it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Careless {
    /// All are done.
    #[default]
    Nothing,
    SyncAll,
    SyncFile,
    SyncDirectory,
    /// The first longer read has a bit flipped.
    FirstRead,
    /// The mutating call of this name panics.
    Panics(&'static str),
}

/// What a file system can do in one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Moves {
    /// All that Linux has.
    #[default]
    All,
    /// Names cannot change places.
    NoExchange,
    /// Nor can one be moved to where nothing is: as on NFS.
    Plain,
}

/// A [`SimStorage`] that notes what changes below its root.
pub(crate) struct Watched {
    inner: SimStorage,
    careless: Careless,
    /// At the next copy, and not again.
    meddles: AtomicBool,
    changes: Mutex<Vec<String>>,
    lied: AtomicBool,
    /// What the file system can move at once: further names, to where nothing is, and names that change places.
    pub(crate) moves: Moves,
    /// What somebody else does right before the call of that number, counted from 1.
    pub(crate) before: Option<(u64, Box<dyn Fn() + Send + Sync>)>,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl Watched {
    pub(crate) fn new(inner: SimStorage, careless: Careless, meddles: bool) -> Self {
        let (meddles, lied) = (AtomicBool::new(meddles), AtomicBool::new(false));
        let moves = Moves::All;
        Self { inner, careless, meddles, changes: Mutex::default(), lied, moves, before: None }
    }

    /// Somebody else turns a bit of `from`, a file with this content that stands at `file`.
    fn meddle(&self, from: &SimFile, at: u64) -> io::Result<()> {
        let mut byte = [0];
        self.inner.read_at(from, at, &mut byte)?;
        let live = self.inner.open_file_writable(self.inner.root(), b"file")?;
        let mtime = self.inner.stat(Object::File(&live))?.mtime;
        self.inner.write_at(&live, at, &[byte[0] ^ 1])?;
        self.inner.set_mtime(Object::File(&live), mtime)
    }

    /// Every mutating call so far.
    pub(crate) fn changes(&self) -> Vec<String> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, call: &str, name: &[u8]) {
        assert!(!matches!(self.careless, Careless::Panics(at) if at == call), "as it was told to");
        let line = format!("{call} {}", name.escape_ascii());
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        changes.push(line);
        if let Some((at, act)) = &self.before
            && *at == changes.len() as u64
        {
            act();
        }
    }

    fn note_object(&self, call: &str, object: Object<'_, Self>) {
        self.note(
            call,
            match object {
                Object::File(_) => b"(file)",
                Object::Directory(_) => b"(directory)",
                Object::Named(_, name) => name,
            },
        );
    }
}

fn inner<'a>(object: Object<'a, Watched>) -> Object<'a, SimStorage> {
    match object {
        Object::File(file) => Object::File(file),
        Object::Directory(directory) => Object::Directory(directory),
        Object::Named(directory, name) => Object::Named(directory, name),
    }
}

impl Storage for Watched {
    type Directory = SimDirectory;
    type File = SimFile;

    fn root(&self) -> &SimDirectory {
        self.inner.root()
    }

    fn open_directory(&self, at: &SimDirectory, path: &[u8]) -> io::Result<SimDirectory> {
        self.inner.open_directory(at, path)
    }

    fn list(&self, at: &SimDirectory, visit: &mut dyn FnMut(Listed<'_>)) -> io::Result<()> {
        self.inner.list(at, visit)
    }

    fn stat(&self, object: Object<'_, Self>) -> io::Result<Stat> {
        self.inner.stat(inner(object))
    }

    fn open_file(&self, at: &SimDirectory, name: &[u8]) -> io::Result<SimFile> {
        self.inner.open_file(at, name)
    }

    fn batch_files(&self) -> usize {
        self.inner.batch_files()
    }

    fn create_file(&self, at: &SimDirectory, name: &[u8]) -> io::Result<SimFile> {
        self.note("create", name);
        self.inner.create_file(at, name)
    }

    fn open_file_writable(&self, at: &SimDirectory, name: &[u8]) -> io::Result<SimFile> {
        self.inner.open_file_writable(at, name)
    }

    fn read_at(&self, file: &SimFile, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read_at(file, offset, buf)?;
        if self.careless == Careless::FirstRead && read > 1_000 && !self.lied.swap(true, Relaxed) {
            buf[read / 2] ^= 1;
        }
        Ok(read)
    }

    fn write_at(&self, file: &SimFile, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.note("write", b"");
        self.inner.write_at(file, offset, bytes)
    }

    fn set_len(&self, file: &SimFile, len: u64) -> io::Result<()> {
        self.note("set length", b"");
        self.inner.set_len(file, len)
    }

    fn allocate(&self, file: &SimFile, range: Range<u64>) -> io::Result<()> {
        self.note("allocate", b"");
        self.inner.allocate(file, range)
    }

    fn start_writeback(&self, file: &SimFile, range: Range<u64>) {
        self.inner.start_writeback(file, range);
    }

    fn next_data(&self, file: &SimFile, offset: u64, size: u64) -> io::Result<Option<Range<u64>>> {
        self.inner.next_data(file, offset, size)
    }

    fn copy_range(
        &self,
        from: &SimFile,
        from_offset: u64,
        to: &SimFile,
        to_offset: u64,
        len: u64,
    ) -> io::Result<()> {
        self.note("copy", b"");
        let meddles = self.meddles.swap(false, Relaxed);
        if meddles {
            self.meddle(from, from_offset)?;
        }
        let copied = self.inner.copy_range(from, from_offset, to, to_offset, len);
        if meddles {
            self.meddle(from, from_offset)?;
        }
        copied
    }

    fn shares_blocks(&self, scratch: &SimDirectory) -> bool {
        self.inner.shares_blocks(scratch)
    }

    fn make_directory(&self, at: &SimDirectory, name: &[u8]) -> io::Result<()> {
        self.note("make directory", name);
        self.inner.make_directory(at, name)
    }

    fn make_symlink(&self, at: &SimDirectory, name: &[u8], target: &[u8]) -> io::Result<()> {
        self.note("make link", name);
        self.inner.make_symlink(at, name, target)
    }

    fn make_node(&self, at: &SimDirectory, name: &[u8], node: NewNode) -> io::Result<()> {
        self.note("make node", name);
        self.inner.make_node(at, name, node)
    }

    fn read_link(&self, at: &SimDirectory, name: &[u8]) -> io::Result<Vec<u8>> {
        self.inner.read_link(at, name)
    }

    fn link(
        &self,
        from: &SimDirectory,
        from_name: &[u8],
        to: &SimDirectory,
        to_name: &[u8],
    ) -> io::Result<()> {
        self.note("link", to_name);
        self.inner.link(from, from_name, to, to_name)
    }

    fn rename(
        &self,
        from: &SimDirectory,
        from_name: &[u8],
        to: &SimDirectory,
        to_name: &[u8],
    ) -> io::Result<()> {
        self.note("rename", to_name);
        self.inner.rename(from, from_name, to, to_name)
    }

    fn rename_new(
        &self,
        from: &SimDirectory,
        from_name: &[u8],
        to: &SimDirectory,
        to_name: &[u8],
    ) -> io::Result<bool> {
        if self.moves == Moves::Plain {
            return Ok(false);
        }
        self.note("move", to_name);
        self.inner.rename_new(from, from_name, to, to_name)
    }

    fn may_exchange(&self) -> bool {
        true
    }

    fn exchange(
        &self,
        one: &SimDirectory,
        one_name: &[u8],
        other: &SimDirectory,
        other_name: &[u8],
    ) -> io::Result<bool> {
        if self.moves != Moves::All {
            return Ok(false);
        }
        self.note("exchange", other_name);
        self.inner.exchange(one, one_name, other, other_name)
    }

    fn unlink(&self, at: &SimDirectory, name: &[u8]) -> io::Result<()> {
        let done = self.inner.unlink(at, name);
        if !done.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
            self.note("unlink", name);
        }
        done
    }

    fn remove_directory(&self, at: &SimDirectory, name: &[u8]) -> io::Result<()> {
        self.note("remove directory", name);
        self.inner.remove_directory(at, name)
    }

    fn xattrs(&self, object: Object<'_, Self>) -> io::Result<Vec<(Box<[u8]>, Box<[u8]>)>> {
        self.inner.xattrs(inner(object))
    }

    fn set_xattr(&self, object: Object<'_, Self>, name: &[u8], value: &[u8]) -> io::Result<()> {
        self.note_object("set attribute", object);
        self.inner.set_xattr(inner(object), name, value)
    }

    fn remove_xattr(&self, object: Object<'_, Self>, name: &[u8]) -> io::Result<()> {
        self.note_object("remove attribute", object);
        self.inner.remove_xattr(inner(object), name)
    }

    fn set_owner(&self, object: Object<'_, Self>, uid: u32, gid: u32) -> io::Result<()> {
        self.note_object("set owner", object);
        self.inner.set_owner(inner(object), uid, gid)
    }

    fn set_mode(&self, object: Object<'_, Self>, mode: u32) -> io::Result<()> {
        self.note_object("set mode", object);
        self.inner.set_mode(inner(object), mode)
    }

    fn set_mtime(&self, object: Object<'_, Self>, mtime: Timestamp) -> io::Result<()> {
        self.note_object("set time", object);
        self.inner.set_mtime(inner(object), mtime)
    }

    fn sync_file(&self, file: &SimFile) -> io::Result<()> {
        if self.careless == Careless::SyncFile { Ok(()) } else { self.inner.sync_file(file) }
    }

    fn sync_directory(&self, directory: &SimDirectory) -> io::Result<()> {
        match self.careless {
            Careless::SyncDirectory => Ok(()),
            _ => self.inner.sync_directory(directory),
        }
    }

    fn sync_all(&self) -> io::Result<()> {
        if self.careless == Careless::SyncAll { Ok(()) } else { self.inner.sync_all() }
    }

    fn file_system(&self) -> io::Result<u64> {
        self.inner.file_system()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.inner.free_bytes()
    }
}

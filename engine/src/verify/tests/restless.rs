//! A tree that others change while it is read.

use std::fmt;
use std::io;
use std::ops::Range;

use farshore_core::entry::Timestamp;
use rustix::io::Errno;

use crate::io::{Listed, NewNode, Object, Stat, Storage};

/// Reads as `inner` does, cannot be changed by the reader, and calls `meddle` after each read.
pub(super) struct Restless<S: Storage> {
    pub(super) inner: S,
    pub(super) meddle: Box<dyn Fn(&S) + Send + Sync>,
}

impl<S: Storage> fmt::Debug for Restless<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Restless")
    }
}

fn inner<'a, S: Storage>(object: Object<'a, Restless<S>>) -> Object<'a, S> {
    match object {
        Object::File(file) => Object::File(file),
        Object::Directory(directory) => Object::Directory(directory),
        Object::Named(at, name) => Object::Named(at, name),
    }
}

fn refused<T>() -> io::Result<T> {
    Err(Errno::ROFS.into())
}

impl<S: Storage> Storage for Restless<S> {
    type Directory = S::Directory;
    type File = S::File;

    fn root(&self) -> &S::Directory {
        self.inner.root()
    }

    fn open_directory(&self, at: &S::Directory, path: &[u8]) -> io::Result<S::Directory> {
        self.inner.open_directory(at, path)
    }

    fn list(&self, at: &S::Directory, visit: &mut dyn FnMut(Listed<'_>)) -> io::Result<()> {
        self.inner.list(at, visit)
    }

    fn stat(&self, object: Object<'_, Self>) -> io::Result<Stat> {
        self.inner.stat(inner(object))
    }

    fn open_file(&self, at: &S::Directory, name: &[u8]) -> io::Result<S::File> {
        self.inner.open_file(at, name)
    }

    fn read_at(&self, file: &S::File, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read_at(file, offset, buf);
        (self.meddle)(&self.inner);
        read
    }

    fn next_data(&self, file: &S::File, at: u64, size: u64) -> io::Result<Option<Range<u64>>> {
        self.inner.next_data(file, at, size)
    }

    fn read_link(&self, at: &S::Directory, name: &[u8]) -> io::Result<Vec<u8>> {
        self.inner.read_link(at, name)
    }

    fn xattrs(&self, object: Object<'_, Self>) -> io::Result<Vec<(Box<[u8]>, Box<[u8]>)>> {
        self.inner.xattrs(inner(object))
    }

    fn file_system(&self) -> io::Result<u64> {
        self.inner.file_system()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.inner.free_bytes()
    }

    fn create_file(&self, _: &S::Directory, _: &[u8]) -> io::Result<S::File> {
        refused()
    }

    fn open_file_writable(&self, _: &S::Directory, _: &[u8]) -> io::Result<S::File> {
        refused()
    }

    fn write_at(&self, _: &S::File, _: u64, _: &[u8]) -> io::Result<()> {
        refused()
    }

    fn set_len(&self, _: &S::File, _: u64) -> io::Result<()> {
        refused()
    }

    fn allocate(&self, _: &S::File, _: Range<u64>) -> io::Result<()> {
        refused()
    }

    fn start_writeback(&self, _: &S::File, _: Range<u64>) {}

    fn copy_range(&self, _: &S::File, _: u64, _: &S::File, _: u64, _: u64) -> io::Result<()> {
        refused()
    }

    fn make_directory(&self, _: &S::Directory, _: &[u8]) -> io::Result<()> {
        refused()
    }

    fn make_symlink(&self, _: &S::Directory, _: &[u8], _: &[u8]) -> io::Result<()> {
        refused()
    }

    fn make_node(&self, _: &S::Directory, _: &[u8], _: NewNode) -> io::Result<()> {
        refused()
    }

    fn link(&self, _: &S::Directory, _: &[u8], _: &S::Directory, _: &[u8]) -> io::Result<()> {
        refused()
    }

    fn rename(&self, _: &S::Directory, _: &[u8], _: &S::Directory, _: &[u8]) -> io::Result<()> {
        refused()
    }

    fn unlink(&self, _: &S::Directory, _: &[u8]) -> io::Result<()> {
        refused()
    }

    fn remove_directory(&self, _: &S::Directory, _: &[u8]) -> io::Result<()> {
        refused()
    }

    fn set_xattr(&self, _: Object<'_, Self>, _: &[u8], _: &[u8]) -> io::Result<()> {
        refused()
    }

    fn remove_xattr(&self, _: Object<'_, Self>, _: &[u8]) -> io::Result<()> {
        refused()
    }

    fn set_owner(&self, _: Object<'_, Self>, _: u32, _: u32) -> io::Result<()> {
        refused()
    }

    fn set_mode(&self, _: Object<'_, Self>, _: u32) -> io::Result<()> {
        refused()
    }

    fn set_mtime(&self, _: Object<'_, Self>, _: Timestamp) -> io::Result<()> {
        refused()
    }

    fn sync_file(&self, _: &S::File) -> io::Result<()> {
        refused()
    }

    fn sync_directory(&self, _: &S::Directory) -> io::Result<()> {
        refused()
    }

    fn sync_all(&self) -> io::Result<()> {
        refused()
    }
}

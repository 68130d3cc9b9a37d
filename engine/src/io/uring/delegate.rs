//! The contract by plain calls, but for the batches.

use std::io;
use std::ops::Range;

use farshore_core::entry::{NameAndValue, Timestamp};

use super::{BATCH_FILES, UringStorage};
use crate::io::batch::{Finish, NewSmallFile, SmallContent, SmallFile, StepError};
use crate::io::posix::{PosixDirectory, PosixFile, PosixStorage};
use crate::io::{Listed, NewNode, Object, Stat, Storage};

/// The same object to the storage below.
fn below(object: Object<'_, UringStorage>) -> Object<'_, PosixStorage> {
    match object {
        Object::File(file) => Object::File(file),
        Object::Directory(directory) => Object::Directory(directory),
        Object::Named(at, name) => Object::Named(at, name),
    }
}

type Dir = PosixDirectory;
type File = PosixFile;
type Visit<'a> = &'a mut dyn FnMut(Listed<'_>);

/// Methods that the storage below does.
macro_rules! delegate {
    ($($name:ident($($arg:ident: $of:ty),*) -> $result:ty;)*) => {$(
        fn $name(&self, $($arg: $of),*) -> $result {
            self.plain.$name($($arg),*)
        }
    )*};
}

/// The same, of methods that begin with an object.
macro_rules! delegate_object {
    ($($name:ident($($arg:ident: $of:ty),*) -> $result:ty;)*) => {$(
        fn $name(&self, object: Object<'_, Self>, $($arg: $of),*) -> $result {
            self.plain.$name(below(object), $($arg),*)
        }
    )*};
}

impl Storage for UringStorage {
    type Directory = PosixDirectory;
    type File = PosixFile;

    delegate! {
        root() -> &Dir;
        open_directory(at: &Dir, path: &[u8]) -> io::Result<Dir>;
        list(directory: &Dir, visit: Visit<'_>) -> io::Result<()>;
        list_new(directory: &Dir, visit: Visit<'_>) -> io::Result<()>;
        open_file(at: &Dir, name: &[u8]) -> io::Result<File>;
        create_file(at: &Dir, name: &[u8]) -> io::Result<File>;
        create_file_as(at: &Dir, name: &[u8], mode: u32) -> io::Result<File>;
        open_file_and_stat(at: &Dir, name: &[u8]) -> io::Result<(File, Stat)>;
        open_file_writable(at: &Dir, name: &[u8]) -> io::Result<File>;
        read_at(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
        write_at(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()>;
        try_lock(file: &File) -> io::Result<bool>;
        set_len(file: &File, len: u64) -> io::Result<()>;
        allocate(file: &File, range: Range<u64>) -> io::Result<()>;
        start_writeback(file: &File, range: Range<u64>) -> ();
        next_data(file: &File, offset: u64, size: u64) -> io::Result<Option<Range<u64>>>;
        copy_range(from: &File, at: u64, to: &File, to_at: u64, len: u64) -> io::Result<()>;
        shares_blocks(scratch: &Dir) -> bool;
        make_directory(at: &Dir, name: &[u8]) -> io::Result<()>;
        make_symlink(at: &Dir, name: &[u8], target: &[u8]) -> io::Result<()>;
        make_node(at: &Dir, name: &[u8], node: NewNode) -> io::Result<()>;
        read_link(at: &Dir, name: &[u8]) -> io::Result<Vec<u8>>;
        link(from: &Dir, name: &[u8], to: &Dir, to_name: &[u8]) -> io::Result<()>;
        rename(from: &Dir, name: &[u8], to: &Dir, to_name: &[u8]) -> io::Result<()>;
        rename_new(from: &Dir, name: &[u8], to: &Dir, to_name: &[u8]) -> io::Result<bool>;
        may_exchange() -> bool;
        exchange(one: &Dir, name: &[u8], other: &Dir, other_name: &[u8]) -> io::Result<bool>;
        unlink(at: &Dir, name: &[u8]) -> io::Result<()>;
        remove_directory(at: &Dir, name: &[u8]) -> io::Result<()>;
        sync_file(file: &File) -> io::Result<()>;
        sync_directory(directory: &Dir) -> io::Result<()>;
        sync_all() -> io::Result<()>;
        file_system() -> io::Result<u64>;
        free_bytes() -> io::Result<u64>;
    }

    delegate_object! {
        stat() -> io::Result<Stat>;
        xattrs() -> io::Result<Vec<NameAndValue>>;
        set_xattr(name: &[u8], value: &[u8]) -> io::Result<()>;
        remove_xattr(name: &[u8]) -> io::Result<()>;
        set_owner(uid: u32, gid: u32) -> io::Result<()>;
        set_mode(mode: u32) -> io::Result<()>;
        set_mtime(mtime: Timestamp) -> io::Result<()>;
    }

    fn batch_files(&self) -> usize {
        if self.has_rings() { BATCH_FILES } else { 1 }
    }

    fn read_small_files(
        &self,
        files: &[SmallFile<'_, Self>],
        size_max: u64,
    ) -> Vec<Result<SmallContent, StepError>> {
        self.read_many(files, size_max)
    }

    fn create_small_files(
        &self,
        files: &[NewSmallFile<'_, Self>],
        finish: Finish<'_, Self>,
    ) -> Vec<Result<(), StepError>> {
        self.create_many(files, finish)
    }
}

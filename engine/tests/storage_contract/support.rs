//! Short forms the cases share.

use std::fmt::Debug;
use std::io;

use farshore_engine::io::{Object, Stat, Storage};
use rustix::io::Errno;

/// Fails unless `result` is one of `expected`.
#[track_caller]
pub(crate) fn refused<T: Debug>(result: io::Result<T>, expected: &[Errno]) {
    let error = result.expect_err("should be refused");
    let code = error.raw_os_error().expect("an error of the system");
    assert!(
        expected.iter().any(|e| e.raw_os_error() == code),
        "got {error}, expected one of {expected:?}"
    );
}

/// Whether the suite has root's rights.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A file with content.
#[track_caller]
pub(crate) fn put<S: Storage>(s: &S, at: &S::Directory, name: &[u8], bytes: &[u8]) -> S::File {
    let file = s.create_file(at, name).expect("create");
    s.write_at(&file, 0, bytes).expect("write");
    file
}

/// All of a file's content.
#[track_caller]
pub(crate) fn content<S: Storage>(s: &S, at: &S::Directory, name: &[u8]) -> Vec<u8> {
    let file = s.open_file(at, name).expect("open");
    whole(s, &file)
}

/// All of a file's content.
#[track_caller]
pub(crate) fn whole<S: Storage>(s: &S, file: &S::File) -> Vec<u8> {
    let size = s.stat(Object::File(file)).expect("stat").size;
    let mut buf = vec![0xaa; usize::try_from(size).expect("small") + 1];
    let read = s.read_at(file, 0, &mut buf).expect("read");
    buf.truncate(read);
    assert_eq!(read as u64, size);
    buf
}

/// Facts of a name.
#[track_caller]
pub(crate) fn stat<S: Storage>(s: &S, at: &S::Directory, name: &[u8]) -> Stat {
    s.stat(Object::Named(at, name)).expect("stat")
}

/// Names of a directory, sorted.
#[track_caller]
pub(crate) fn names<S: Storage>(s: &S, at: &S::Directory) -> Vec<Vec<u8>> {
    let mut names = Vec::new();
    s.list(at, &mut |entry| names.push(entry.name.to_vec())).expect("list");
    names.sort();
    names
}

/// Makes and opens a directory.
#[track_caller]
pub(crate) fn directory<S: Storage>(s: &S, at: &S::Directory, name: &[u8]) -> S::Directory {
    s.make_directory(at, name).expect("make directory");
    s.open_directory(at, name).expect("open directory")
}

/// Bytes that repeat nowhere nearby.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

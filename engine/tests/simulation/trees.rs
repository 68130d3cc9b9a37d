//! The small tree and what happens to it.
//!
//! Three files of 64 MiB that are all hole end the batch they fall into, so that a run of a few
//! hundred operations has several batches.

use std::io;

use farshore_core::entry::Timestamp;
use farshore_engine::io::sim::{SimDirectory, SimFile, SimStorage};
use farshore_engine::io::{NewNode, Object, Storage};

const CLOSER: u64 = 64 << 20;

/// Bytes that do not compress, the same for the same number.
pub(crate) fn noise(number: u64, len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len + 32);
    let mut reader = blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof();
    out.resize(len, 0);
    reader.fill(&mut out);
    out
}

/// Hands that change a tree by paths.
pub(crate) struct Hands<'s>(pub(crate) &'s SimStorage);

impl Hands<'_> {
    pub(crate) fn at<'p>(&self, path: &'p str) -> io::Result<(SimDirectory, &'p [u8])> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.0.open_directory(self.0.root(), parent.as_bytes())?, name.as_bytes()))
    }

    pub(crate) fn directory(&self, path: &str) -> io::Result<()> {
        let (at, name) = self.at(path)?;
        self.0.make_directory(&at, name)?;
        self.0.set_mode(Object::Named(&at, name), 0o755)
    }

    pub(crate) fn file(&self, path: &str, bytes: &[u8]) -> io::Result<SimFile> {
        let (at, name) = self.at(path)?;
        match self.0.unlink(&at, name) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let file = self.0.create_file(&at, name)?;
        self.0.write_at(&file, 0, bytes)?;
        self.0.set_mode(Object::File(&file), 0o640)?;
        Ok(file)
    }

    /// Changes a file in place.
    pub(crate) fn patch(&self, path: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (at, name) = self.at(path)?;
        let file = self.0.open_file_writable(&at, name)?;
        self.0.write_at(&file, offset, bytes)
    }

    fn hole(&self, path: &str) -> io::Result<()> {
        let file = self.file(path, b"")?;
        self.0.set_len(&file, CLOSER)
    }

    pub(crate) fn symlink(&self, path: &str, target: &str) -> io::Result<()> {
        let (at, name) = self.at(path)?;
        self.0.make_symlink(&at, name, target.as_bytes())
    }

    pub(crate) fn link(&self, from: &str, to: &str) -> io::Result<()> {
        let ((a, from), (b, to)) = (self.at(from)?, self.at(to)?);
        self.0.link(&a, from, &b, to)
    }

    pub(crate) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let ((a, from), (b, to)) = (self.at(from)?, self.at(to)?);
        self.0.rename(&a, from, &b, to)
    }

    pub(crate) fn unlink(&self, path: &str) -> io::Result<()> {
        let (at, name) = self.at(path)?;
        self.0.unlink(&at, name)
    }

    pub(crate) fn remove_directory(&self, path: &str) -> io::Result<()> {
        let (at, name) = self.at(path)?;
        self.0.remove_directory(&at, name)
    }

    fn owner(&self, path: &str, uid: u32, gid: u32) -> io::Result<()> {
        let (at, name) = self.at(path)?;
        self.0.set_owner(Object::Named(&at, name), uid, gid)
    }

    pub(crate) fn mode(&self, path: &str, mode: u32) -> io::Result<()> {
        let (at, name) = self.at(path)?;
        self.0.set_mode(Object::Named(&at, name), mode)
    }

    pub(crate) fn xattr(&self, path: &str, name: &str, value: &[u8]) -> io::Result<()> {
        let (at, file) = self.at(path)?;
        self.0.set_xattr(Object::Named(&at, file), name.as_bytes(), value)
    }

    pub(crate) fn time(&self, path: &str, seconds: i64) -> io::Result<()> {
        let time = Timestamp { seconds, nanos: 123_456_789 };
        if path.is_empty() {
            return self.0.set_mtime(Object::Directory(self.0.root()), time);
        }
        let (at, name) = self.at(path)?;
        self.0.set_mtime(Object::Named(&at, name), time)
    }

    /// The first state.
    pub(crate) fn first(&self) -> io::Result<()> {
        for path in ["doc", "deep", "deep/er", "deep/er/still", "h", "keep", "kind", "kind/dir"] {
            self.directory(path)?;
        }
        for path in ["kind/dir/z", "meta", "meta/dir", "move", "z"] {
            self.directory(path)?;
        }
        let small =
            ["a", "b", "doc/report", "doc/gone", "keep/still", "move/old", "h/1", "h/alone"];
        for (number, path) in small.iter().enumerate() {
            self.file(path, &noise(number as u64, 900 + 700 * number))?;
        }
        let more = ["deep/er/still/file", "kind/file", "kind/dir/x", "kind/dir/z/y", "meta/mode"];
        for (number, path) in more.iter().enumerate() {
            self.file(path, &noise(20 + number as u64, 300 + 900 * number))?;
        }
        for path in ["meta/owner", "meta/xattr", "meta/time"] {
            self.file(path, &noise(path.len() as u64 + 40, 5_000))?;
        }
        self.file("empty", b"")?;
        self.file("doc/big", &noise(60, 200_000))?;
        self.file("keep/large", &noise(61, 150_000))?;
        self.file("move/large", &noise(62, 130_000))?;
        self.hole("c-hole")?;
        self.hole("doc/zz-hole")?;
        self.hole("kind/zz-hole")?;
        self.link("h/1", "h/2")?;
        self.link("h/1", "h/3")?;
        self.link("keep/still", "z/also-still")?;
        self.file("z/rewritten", &noise(63, 2_000))?;
        self.link("z/rewritten", "z/rewritten-too")?;
        self.symlink("kind/link", "../a")?;
        self.symlink("kind/to-directory", "dir")?;
        self.symlink("symlink", "/nowhere/at/all")?;
        self.directory("kind/to-link")?;
        let (at, _) = self.at("fifo")?;
        self.0.make_node(&at, b"fifo", NewNode::Fifo)?;
        self.xattr("keep/large", "user.note", b"kept")?;
        self.xattr("meta/xattr", "user.note", b"one")?;
        self.xattr("meta/xattr", "user.gone", b"two")?;
        self.xattr("meta/dir", "user.dir", b"of a directory")?;
        self.owner("keep/still", 1_000, 100)?;
        self.mode("keep/large", 0o4755)?;
        let directories =
            ["", "doc", "deep", "deep/er", "deep/er/still", "h", "keep", "kind", "kind/dir"];
        for (number, path) in directories.iter().enumerate() {
            self.time(path, 1_600_000_000 + number as i64)?;
        }
        self.time("keep/still", 1_500_000_000)
    }

    /// The second state, from the first.
    pub(crate) fn second(&self) -> io::Result<()> {
        // Two files change places, one moves, a large one moves.
        self.rename("a", "t")?;
        self.rename("b", "a")?;
        self.rename("t", "b")?;
        self.rename("move/old", "doc/new-name")?;
        self.rename("move/large", "z/large")?;
        // Replaced, changed in the middle, gone.
        self.file("doc/report", &noise(100, 2_222))?;
        self.patch("doc/big", 90_000, b"a few bytes in the middle")?;
        self.unlink("doc/gone")?;
        self.unlink("deep/er/still/file")?;
        self.remove_directory("deep/er/still")?;
        self.remove_directory("deep/er")?;
        // Kinds.
        self.unlink("kind/file")?;
        self.directory("kind/file")?;
        self.file("kind/file/inside", &noise(101, 4_000))?;
        self.unlink("kind/dir/x")?;
        self.unlink("kind/dir/z/y")?;
        self.remove_directory("kind/dir/z")?;
        self.remove_directory("kind/dir")?;
        self.file("kind/dir", &noise(102, 3_000))?;
        self.unlink("kind/link")?;
        self.file("kind/link", &noise(103, 1_234))?;
        self.unlink("kind/to-directory")?;
        self.directory("kind/to-directory")?;
        self.remove_directory("kind/to-link")?;
        self.symlink("kind/to-link", "elsewhere")?;
        // Names of one inode: one breaks off, one comes, a group is rewritten in place.
        self.file("h/2", &noise(104, 2_345))?;
        self.link("h/1", "h/4")?;
        self.link("h/alone", "z/with-h-alone")?;
        self.patch("z/rewritten", 100, b"rewritten in place")?;
        // Metadata alone.
        self.mode("meta/mode", 0o4711)?;
        self.owner("meta/owner", 2_000, 3_000)?;
        self.xattr("meta/xattr", "user.note", b"other")?;
        let (at, name) = self.at("meta/xattr")?;
        self.0.remove_xattr(Object::Named(&at, name), b"user.gone")?;
        self.time("meta/time", 1_400_000_000)?;
        self.mode("meta/dir", 0o700)?;
        self.xattr("meta/dir", "user.more", b"more")?;
        self.unlink("symlink")?;
        self.symlink("symlink", "keep/still")?;
        // New, and deep; one directory that lets nobody write.
        for path in ["new", "new/a", "new/a/b", "new/a/b/c", "new/empty"] {
            self.directory(path)?;
        }
        self.file("new/a/b/c/file", &noise(105, 6_000))?;
        self.file("new/a/b/c/large", &noise(106, 170_000))?;
        self.link("new/a/b/c/file", "new/again")?;
        self.symlink("new/a/link", "b/c/file")?;
        self.file("new/copy-of-kept", &noise(4, 900 + 700 * 4))?;
        self.file("new/copy-of-new", &noise(105, 6_000))?;
        self.file("z/copy-of-large", &noise(61, 150_000))?;
        self.mode("new/a/b", 0o500)?;
        self.xattr("new/a", "user.dir", b"new")?;
        // What ends batches is looked at again.
        for path in ["c-hole", "doc/zz-hole", "kind/zz-hole"] {
            self.time(path, 1_650_000_000)?;
        }
        for (number, path) in ["", "doc", "new/a/b", "new", "h", "z"].iter().enumerate() {
            self.time(path, 1_660_000_000 + number as i64)?;
        }
        Ok(())
    }
}

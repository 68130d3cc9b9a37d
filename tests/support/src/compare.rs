//! Whether two trees are equal, name by name.
//!
//! Compared: names, kind, content, size, mode, owner, group, modification time in nanoseconds, link
//! target, extended attributes with ACLs, device number, which names are one inode, and, as
//! [`Aspect::Holes`], whether `b` takes more space than `a`. Of the roots themselves too (path
//! `""`). Not compared: `security.selinux`, `security.ima` and `security.evm`, which belong to a
//! machine, nor `trusted.SGI_ACL_*`, by which XFS lists an ACL a second time; access and change times; names of an inode outside the trees. Holes are skipped, so a
//! sparse file of terabytes costs nothing.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{OFlags, SeekFrom};

use crate::tree::{Facts, Kind, Tree, facts_at, joined, short, shown};

/// How much more space than `a` a file of `b` may take, in bytes: tails, attribute and extent
/// blocks, and what a file system allocates ahead.
pub const HOLES_SLACK_BYTES: u64 = 64 * 1024;

const BLOCK: usize = 1 << 20;

const MACHINE_XATTRS: [&[u8]; 5] = [
    b"security.selinux",
    b"security.ima",
    b"security.evm",
    b"trusted.SGI_ACL_FILE",
    b"trusted.SGI_ACL_DEFAULT",
];

/// In what two trees differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Aspect {
    OnlyInA,
    OnlyInB,
    Kind,
    Content,
    Size,
    Mode,
    Owner,
    Group,
    Mtime,
    LinkTarget,
    /// Extended attributes, ACLs among them.
    Xattrs,
    Device,
    /// Which names are one inode.
    HardLinks,
    /// `b` takes more space; content may be equal.
    Holes,
    /// One side could not be read, so nothing is proven.
    Unreadable,
}

/// One difference.
#[derive(Clone, PartialEq, Eq)]
pub struct Difference {
    /// Path below both roots; empty for the roots.
    pub path: Vec<u8>,
    /// In what.
    pub aspect: Aspect,
    /// Both values, for people.
    pub detail: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}: {}", short(&self.path), self.aspect, self.detail)
    }
}

impl fmt::Debug for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The differences but for [`Aspect::Holes`].
#[must_use]
pub fn without_holes(mut differences: Vec<Difference>) -> Vec<Difference> {
    differences.retain(|d| d.aspect != Aspect::Holes);
    differences
}

/// All differences of `a` and `b`, in path order of a walk; names of the top level that are in
/// `ignore_top` are left out on both sides.
#[must_use]
pub fn compare(a: &Path, b: &Path, ignore_top: &[&[u8]]) -> Vec<Difference> {
    let mut comparison = Comparison::default();
    match (Tree::open(a), Tree::open(b)) {
        (Ok(a), Ok(b)) => comparison.trees(&a, &b, ignore_top),
        (a, b) => {
            for error in [a.err(), b.err()].into_iter().flatten() {
                comparison.add(b"", Aspect::Unreadable, error.to_string());
            }
        }
    }
    comparison.differences
}

#[derive(Default)]
struct Comparison {
    differences: Vec<Difference>,
    /// For each inode with further names, the first of its names that both trees have.
    first_in_a: HashMap<(u64, u64), Vec<u8>>,
    first_in_b: HashMap<(u64, u64), Vec<u8>>,
}

impl Comparison {
    fn add(&mut self, path: &[u8], aspect: Aspect, detail: String) {
        self.differences.push(Difference { path: path.to_vec(), aspect, detail });
    }

    fn unequal<T: PartialEq + fmt::Debug>(&mut self, path: &[u8], aspect: Aspect, a: &T, b: &T) {
        if a != b {
            self.add(path, aspect, format!("{a:?} and {b:?}"));
        }
    }

    fn trees(&mut self, a: &Tree, b: &Tree, ignore_top: &[&[u8]]) {
        match (a.facts(b""), b.facts(b"")) {
            (Ok(x), Ok(y)) => self.entry(a, b, b"", &x, &y),
            (x, y) => self.failed(b"", x.err(), y.err()),
        }
        let mut waiting = vec![Vec::new()];
        while let Some(rel) = waiting.pop() {
            let ignored: &[&[u8]] = if rel.is_empty() { ignore_top } else { &[] };
            let below = match self.directory(a, b, &rel, ignored) {
                Ok(below) => below,
                Err(error) => {
                    self.add(&rel, Aspect::Unreadable, error.to_string());
                    continue;
                }
            };
            waiting.extend(below.into_iter().rev());
        }
    }

    /// Compares what is in one directory; the directories in it that both have.
    fn directory(
        &mut self,
        a: &Tree,
        b: &Tree,
        rel: &[u8],
        ignored: &[&[u8]],
    ) -> io::Result<Vec<Vec<u8>>> {
        let names = |tree: &Tree| -> io::Result<BTreeSet<Vec<u8>>> {
            let names = tree.list(rel)?.into_iter();
            Ok(names.filter(|name| !ignored.contains(&&name[..])).collect())
        };
        let (in_a, in_b) = (names(a)?, names(b)?);
        let (dir_a, dir_b) = (a.dir(rel)?, b.dir(rel)?);
        let mut below = Vec::new();
        for name in in_a.union(&in_b) {
            let path = joined(rel, name);
            match (in_a.contains(name), in_b.contains(name)) {
                (true, false) => self.add(&path, Aspect::OnlyInA, String::new()),
                (false, _) => self.add(&path, Aspect::OnlyInB, String::new()),
                (true, true) => match (facts_at(&dir_a, name), facts_at(&dir_b, name)) {
                    (Ok(x), Ok(y)) => {
                        self.entry(a, b, &path, &x, &y);
                        if x.kind == Kind::Directory && y.kind == Kind::Directory {
                            below.push(path);
                        }
                    }
                    (x, y) => self.failed(&path, x.err(), y.err()),
                },
            }
        }
        Ok(below)
    }

    fn failed(&mut self, path: &[u8], a: Option<io::Error>, b: Option<io::Error>) {
        for (side, error) in [("a", a), ("b", b)] {
            if let Some(error) = error {
                self.add(path, Aspect::Unreadable, format!("in {side}: {error}"));
            }
        }
    }

    fn entry(&mut self, a: &Tree, b: &Tree, path: &[u8], x: &Facts, y: &Facts) {
        if x.kind != y.kind {
            return self.unequal(path, Aspect::Kind, &x.kind, &y.kind);
        }
        if x.kind != Kind::Symlink && x.mode != y.mode {
            self.add(path, Aspect::Mode, format!("{:04o} and {:04o}", x.mode, y.mode));
        }
        self.unequal(path, Aspect::Owner, &x.uid, &y.uid);
        self.unequal(path, Aspect::Group, &x.gid, &y.gid);
        self.unequal(path, Aspect::Mtime, &x.mtime, &y.mtime);
        self.xattrs(a, b, path);
        match x.kind {
            Kind::File => self.file(a, b, path, x, y),
            Kind::Symlink => match (a.read_link(path), b.read_link(path)) {
                (Ok(x), Ok(y)) => self.unequal(path, Aspect::LinkTarget, &shown(&x), &shown(&y)),
                (x, y) => self.failed(path, x.err(), y.err()),
            },
            Kind::CharDevice | Kind::BlockDevice => {
                self.unequal(path, Aspect::Device, &x.rdev, &y.rdev);
            }
            Kind::Directory | Kind::Fifo | Kind::Socket => {}
        }
        if x.kind != Kind::Directory && (x.nlink > 1 || y.nlink > 1) {
            let first_a = self.first_in_a.entry(x.inode).or_insert_with(|| path.to_vec());
            let first_b = self.first_in_b.entry(y.inode).or_insert_with(|| path.to_vec());
            if first_a != first_b {
                let detail = format!("of {} and of {}", shown(first_a), shown(first_b));
                self.add(path, Aspect::HardLinks, detail);
            }
        }
    }

    fn xattrs(&mut self, a: &Tree, b: &Tree, path: &[u8]) {
        let (mut x, mut y) = match (a.xattrs(path), b.xattrs(path)) {
            (Ok(x), Ok(y)) => (x, y),
            (x, y) => return self.failed(path, x.err(), y.err()),
        };
        for key in MACHINE_XATTRS {
            x.remove(key);
            y.remove(key);
        }
        let keys: BTreeSet<_> = x.keys().chain(y.keys()).collect();
        for key in keys {
            let (x, y) = (x.get(key), y.get(key));
            if x != y {
                let side = |v: Option<&Vec<u8>>| match v {
                    None => "nothing".to_owned(),
                    Some(v) if v.len() > 80 => format!("{} bytes", v.len()),
                    Some(v) => format!("'{}'", v.escape_ascii()),
                };
                let detail = format!("{}: {} and {}", key.escape_ascii(), side(x), side(y));
                self.add(path, Aspect::Xattrs, detail);
            }
        }
    }

    fn file(&mut self, a: &Tree, b: &Tree, path: &[u8], x: &Facts, y: &Facts) {
        if y.allocated > x.allocated + HOLES_SLACK_BYTES {
            let detail = format!("{} and {} bytes allocated", x.allocated, y.allocated);
            self.add(path, Aspect::Holes, detail);
        }
        if x.size != y.size {
            return self.unequal(path, Aspect::Size, &x.size, &y.size);
        }
        if x.size == 0 {
            return;
        }
        match (a.open_file(path, OFlags::RDONLY), b.open_file(path, OFlags::RDONLY)) {
            (Ok(a), Ok(b)) => match first_unequal(&a, &b, x.size) {
                Ok(None) => {}
                Ok(Some(at)) => self.add(path, Aspect::Content, format!("from byte {at}")),
                Err(error) => self.add(path, Aspect::Unreadable, error.to_string()),
            },
            (x, y) => self.failed(path, x.err(), y.err()),
        }
    }
}

/// Where two files of `size` bytes first differ.
fn first_unequal(a: &File, b: &File, size: u64) -> io::Result<Option<u64>> {
    let (mut x, mut y) = (vec![0u8; BLOCK], vec![0u8; BLOCK]);
    let mut at = 0;
    loop {
        at = next_data(a, at, size)?.min(next_data(b, at, size)?);
        if at >= size {
            return Ok(None);
        }
        let len = usize::try_from(size - at).map_or(BLOCK, |rest| rest.min(BLOCK));
        a.read_exact_at(&mut x[..len], at)?;
        b.read_exact_at(&mut y[..len], at)?;
        if let Some(i) = (0..len).find(|&i| x[i] != y[i]) {
            return Ok(Some(at + i as u64));
        }
        at += len as u64;
    }
}

fn next_data(file: &File, at: u64, size: u64) -> io::Result<u64> {
    if at >= size {
        return Ok(size);
    }
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Err(rustix::io::Errno::NXIO) => Ok(size),
        Err(rustix::io::Errno::INVAL) => Ok(at),
        found => Ok(found?),
    }
}

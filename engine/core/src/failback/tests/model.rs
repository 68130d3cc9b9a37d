//! A tree with inodes, so that names are shared, renames are seen, and lists of changes come out as the
//! engine makes them.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{BaseTree, ListError, SideChange};
use crate::entry::{Entry, Metadata, Timestamp, Xattrs};
use crate::path::RelPath;
use crate::recipe::FileDigest;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// Content by number; 0 is empty.
    File(u64),
    Directory,
    Symlink(u64),
    Fifo,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Inode {
    kind: Kind,
    mode: u32,
    time: i64,
}

/// What is done to a tree; nothing where it cannot be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Op {
    Write(RelPath, u64),
    Chmod(RelPath, u32),
    Remove(RelPath),
    Rename(RelPath, RelPath),
    Link(RelPath, RelPath),
    Symlink(RelPath, u64),
    Fifo(RelPath),
    MakeDirectory(RelPath),
}

#[derive(Clone, Default)]
pub(super) struct Tree {
    names: BTreeMap<RelPath, u64>,
    inodes: BTreeMap<u64, Inode>,
    next: u64,
    clock: i64,
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("\n")?;
        self.names.iter().try_for_each(|(name, id)| {
            let Inode { kind, mode, time } = &self.inodes[id];
            let (site, id, time) = (id >> 40, id & 0xff, time & 0xff);
            writeln!(f, "    {name}: {kind:?} {mode:o} at {time}, inode {site}.{id}")
        })
    }
}

pub(super) fn digest(content: u64) -> FileDigest {
    match content {
        0 => FileDigest::of_small(b""),
        content => FileDigest::of_small(&content.to_le_bytes()),
    }
}

pub(super) fn size(content: u64) -> u64 {
    if content == 0 { 0 } else { 100 + content % 1_000 }
}

impl Tree {
    /// A site's copy: what it makes from now on has inodes and times of its own.
    pub(super) fn fork(&self, site: u64) -> Self {
        Self { next: site << 40, clock: (site << 20).cast_signed(), ..self.clone() }
    }

    pub(super) fn run(&mut self, ops: &[Op]) {
        for op in ops {
            self.clock += 1;
            match op {
                Op::Write(path, content) => self.write(path, Kind::File(*content)),
                Op::Symlink(path, target) => self.make(path, Kind::Symlink(*target)),
                Op::Fifo(path) => self.make(path, Kind::Fifo),
                Op::MakeDirectory(path) => self.make(path, Kind::Directory),
                Op::Chmod(path, mode) => {
                    if let Some(inode) = self.names.get(path).and_then(|id| self.inodes.get_mut(id))
                    {
                        inode.mode = *mode;
                    }
                }
                Op::Remove(path) => self.remove(path),
                Op::Rename(from, to) => self.rename(from, to),
                Op::Link(from, to) => self.link(from, to),
            }
        }
    }

    fn kind(&self, path: &RelPath) -> Option<&Kind> {
        self.names.get(path).and_then(|id| self.inodes.get(id)).map(|inode| &inode.kind)
    }

    /// Makes the directories above; whether they are there.
    fn parents(&mut self, path: &RelPath) -> bool {
        let Some((parent, _)) = path.split() else { return false };
        if parent.is_root() || self.kind(&parent) == Some(&Kind::Directory) {
            return true;
        }
        if self.kind(&parent).is_some() || !self.parents(&parent) {
            return false;
        }
        self.put(&parent, Kind::Directory);
        true
    }

    fn put(&mut self, path: &RelPath, kind: Kind) {
        self.next += 1;
        let inode = Inode { kind, mode: 0o640, time: self.clock };
        self.inodes.insert(self.next, inode);
        self.names.insert(path.clone(), self.next);
        self.touch_parent(path);
    }

    fn touch_parent(&mut self, path: &RelPath) {
        let clock = self.clock;
        let parent = path.split().and_then(|(parent, _)| self.names.get(&parent));
        if let Some(inode) = parent.and_then(|id| self.inodes.get_mut(id)) {
            inode.time = clock;
        }
    }

    /// In place where there is a file, as uploads do.
    fn write(&mut self, path: &RelPath, kind: Kind) {
        let clock = self.clock;
        let id = self.names.get(path).copied();
        match id.and_then(|id| self.inodes.get_mut(&id)) {
            Some(inode) if matches!(inode.kind, Kind::File(_)) => {
                inode.kind = kind;
                inode.time = clock;
            }
            _ => self.make(path, kind),
        }
    }

    fn make(&mut self, path: &RelPath, kind: Kind) {
        if self.kind(path) == Some(&kind) && kind == Kind::Directory {
            return;
        }
        self.remove(path);
        if self.parents(path) {
            self.put(path, kind);
        }
    }

    fn remove(&mut self, path: &RelPath) {
        let before = self.names.len();
        self.names.retain(|name, _| !name.starts_with(path));
        if self.names.len() < before {
            self.touch_parent(path);
        }
    }

    fn rename(&mut self, from: &RelPath, to: &RelPath) {
        if from == to || to.starts_with(from) || from.starts_with(to) || self.kind(from).is_none() {
            return;
        }
        let moved: Vec<_> = self
            .names
            .iter()
            .filter(|(name, _)| name.starts_with(from))
            .map(|(name, id)| (name.clone(), *id))
            .collect();
        self.remove(from);
        self.remove(to);
        if !self.parents(to) {
            self.names.extend(moved);
            return;
        }
        for (name, id) in moved {
            let rest = &name.as_bytes()[from.as_bytes().len()..];
            let name = RelPath::new([to.as_bytes(), rest].concat()).expect("a path");
            self.names.insert(name, id);
        }
        self.touch_parent(to);
    }

    fn link(&mut self, from: &RelPath, to: &RelPath) {
        let Some(&id) = self.names.get(from) else { return };
        if !matches!(self.kind(from), Some(Kind::File(_))) || self.kind(to).is_some() {
            return;
        }
        if self.parents(to) {
            self.names.insert(to.clone(), id);
            self.touch_parent(to);
        }
    }

    /// The entries as the engine describes them.
    pub(super) fn entries(&self) -> BTreeMap<RelPath, Entry> {
        let mut leaders: BTreeMap<u64, &RelPath> = BTreeMap::new();
        self.names
            .iter()
            .map(|(name, id)| {
                let Inode { kind, mode, time } = &self.inodes[id];
                let mtime = Timestamp { seconds: *time, nanos: 7 };
                let meta =
                    Metadata { mode: *mode, uid: 1, gid: 1, mtime, xattrs: Xattrs::default() };
                let entry = match kind {
                    Kind::Directory => Entry::Directory { meta },
                    Kind::Fifo => Entry::Fifo { meta },
                    Kind::Symlink(target) => {
                        Entry::Symlink { target: target.to_string().into_bytes().into(), meta }
                    }
                    Kind::File(content) => match leaders.get(id) {
                        Some(leader) => Entry::HardLink { leader: (*leader).clone() },
                        None => {
                            leaders.insert(*id, name);
                            let (size, content) = (size(*content), digest(*content));
                            Entry::File { size, content, meta }
                        }
                    },
                };
                (name.clone(), entry)
            })
            .collect()
    }

    fn links(&self, id: u64) -> usize {
        self.names.values().filter(|other| **other == id).count()
    }

    /// Where the base had what is at `name` now, when that is no longer there: as the engine sees it.
    fn moved_from(&self, base: &Self, name: &RelPath) -> Option<RelPath> {
        let id = self.names[name];
        let inode = &self.inodes[&id];
        let former = base.inodes.get(&id)?;
        let is_same = (&inode.kind, inode.time) == (&former.kind, former.time);
        if inode.kind == Kind::Directory || self.links(id) > 1 || !is_same {
            return None;
        }
        let mut names = base.names.iter().filter(|(_, other)| **other == id);
        let (from, None) = (names.next()?.0, names.next()) else { return None };
        (from != name && self.names.get(from) != Some(&id)).then(|| from.clone())
    }
}

/// What `side` changed since `base`.
pub(super) fn changes(base: &Tree, side: &Tree) -> Vec<SideChange> {
    let (before, after) = (base.entries(), side.entries());
    let paths: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    paths
        .into_iter()
        .filter(|path| {
            let leader = match (before.get(*path), after.get(*path)) {
                (a, b) if a != b => return true,
                (_, Some(Entry::HardLink { leader })) => leader,
                _ => return false,
            };
            before.get(leader) != after.get(leader)
        })
        .map(|path| SideChange {
            path: path.clone(),
            before: before.get(path).cloned(),
            after: after.get(path).cloned(),
            moved_from: after.get(path).and_then(|_| side.moved_from(base, path)),
        })
        .collect()
}

pub(super) struct Base(pub(super) BTreeMap<RelPath, Entry>);

impl BaseTree for Base {
    fn entry(&self, path: &RelPath) -> Result<Option<Entry>, ListError> {
        Ok(self.0.get(path).cloned())
    }
}

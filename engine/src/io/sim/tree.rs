//! Inodes and names: one state of the disk, visible or durable.
//!
//! Guarantee: whatever order operations are replayed in, and whichever are missing, [`Tree`] stays a
//! file system: an operation whose premise is gone does nothing and says so.

use std::collections::{BTreeMap, BTreeSet};

use farshore_core::entry::{DeviceNumber, Timestamp};

use super::content::{Content, PAGE};
use super::log::{FactChange, FactOp, NameChange, NameOp};
use crate::io::{FileKind, Stat};

/// Identity of an inode for the life of the disk; inode numbers may be reused, these are not.
pub(super) type Id = u64;

/// The disk's root directory.
pub(super) const ROOT: Id = 1;

const CAPABILITY: &[u8] = b"security.capability";

/// Names of a directory.
pub(super) type Entries = BTreeMap<Box<[u8]>, Id>;

/// What an inode is, with what only that kind has.
#[derive(Debug, Clone)]
pub(super) enum Node {
    File(Content),
    Directory(Entries),
    Symlink(Box<[u8]>),
    Fifo,
    Socket,
    CharDevice(DeviceNumber),
    BlockDevice(DeviceNumber),
}

/// One inode.
#[derive(Debug, Clone)]
pub(super) struct Inode {
    /// The number stat shows.
    pub(super) number: u64,
    pub(super) node: Node,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Timestamp,
    pub(super) ctime: Timestamp,
    /// The operation `mtime` is from: an earlier one, replayed later, does not set it.
    pub(super) mtime_seq: u64,
    pub(super) xattrs: BTreeMap<Box<[u8]>, Box<[u8]>>,
    /// Names that lead here.
    pub(super) names: u64,
    /// Directories below, for a directory.
    pub(super) subdirectories: u64,
    /// The directory above, for a directory that has a name.
    pub(super) parent: Option<Id>,
}

impl Inode {
    pub(super) fn new(number: u64, node: Node, mode: u32, now: Timestamp) -> Self {
        Self {
            number,
            node,
            mode,
            uid: 0,
            gid: 0,
            mtime: now,
            ctime: now,
            mtime_seq: 0,
            xattrs: BTreeMap::new(),
            names: 0,
            subdirectories: 0,
            parent: None,
        }
    }

    pub(super) fn kind(&self) -> FileKind {
        match self.node {
            Node::File(_) => FileKind::Regular,
            Node::Directory(_) => FileKind::Directory,
            Node::Symlink(_) => FileKind::Symlink,
            Node::Fifo => FileKind::Fifo,
            Node::Socket => FileKind::Socket,
            Node::CharDevice(_) => FileKind::CharDevice,
            Node::BlockDevice(_) => FileKind::BlockDevice,
        }
    }

    pub(super) fn is_directory(&self) -> bool {
        matches!(self.node, Node::Directory(_))
    }

    pub(super) fn entries(&self) -> Option<&Entries> {
        if let Node::Directory(entries) = &self.node { Some(entries) } else { None }
    }

    pub(super) fn content(&self) -> Option<&Content> {
        if let Node::File(content) = &self.node { Some(content) } else { None }
    }

    pub(super) fn content_mut(&mut self) -> Option<&mut Content> {
        if let Node::File(content) = &mut self.node { Some(content) } else { None }
    }

    pub(super) fn charged_pages(&self) -> u64 {
        self.content().map_or(0, Content::charged_pages)
    }

    pub(super) fn device_number(&self) -> DeviceNumber {
        match self.node {
            Node::CharDevice(number) | Node::BlockDevice(number) => number,
            _ => DeviceNumber { major: 0, minor: 0 },
        }
    }

    pub(super) fn stat(&self, device: DeviceNumber) -> Stat {
        let (size, allocated) = match &self.node {
            Node::File(content) => (content.size(), content.charged_pages() * PAGE),
            Node::Directory(_) => (PAGE, PAGE),
            Node::Symlink(target) => (target.len() as u64, 0),
            _ => (0, 0),
        };
        let directory_links = if self.names == 0 { 0 } else { 2 + self.subdirectories };
        Stat {
            kind: self.kind(),
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            size,
            allocated,
            mtime: self.mtime,
            ctime: self.ctime,
            inode: self.number,
            links: if self.is_directory() { directory_links } else { self.names },
            device,
            number: self.device_number(),
        }
    }

    fn change(&mut self, time: Timestamp) {
        self.ctime = self.ctime.max(time);
    }

    fn modify(&mut self, mtime: Timestamp, seq: u64, time: Timestamp) {
        if seq >= self.mtime_seq {
            self.mtime = mtime;
            self.mtime_seq = seq;
        }
        self.change(time);
    }
}

/// One state of the disk.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    pub(super) inodes: BTreeMap<Id, Inode>,
}

impl Tree {
    pub(super) fn new(now: Timestamp) -> Self {
        let mut root = Inode::new(2, Node::Directory(Entries::new()), 0o755, now);
        root.names = 1;
        Self { inodes: BTreeMap::from([(ROOT, root)]) }
    }

    pub(super) fn get(&self, id: Id) -> Option<&Inode> {
        self.inodes.get(&id)
    }

    pub(super) fn entries(&self, directory: Id) -> Option<&Entries> {
        self.get(directory)?.entries()
    }

    pub(super) fn child(&self, directory: Id, name: &[u8]) -> Option<Id> {
        self.entries(directory)?.get(name).copied()
    }

    /// A directory that can be reached: only there can names be made.
    pub(super) fn is_live_directory(&self, id: Id) -> bool {
        self.get(id).is_some_and(|inode| inode.is_directory() && inode.names > 0)
    }

    pub(super) fn is_directory(&self, id: Id) -> bool {
        self.get(id).is_some_and(Inode::is_directory)
    }

    pub(super) fn is_empty_directory(&self, id: Id) -> bool {
        self.entries(id).is_some_and(Entries::is_empty)
    }

    /// Whether `id` is `below` or a directory above it.
    pub(super) fn is_above(&self, id: Id, below: Id) -> bool {
        let mut at = Some(below);
        while let Some(here) = at {
            if here == id {
                return true;
            }
            at = self.get(here).and_then(|inode| inode.parent);
        }
        false
    }

    /// Does a name operation if its premise holds here; whether it did.
    pub(super) fn apply_name(&mut self, op: &NameOp) -> bool {
        match &op.change {
            NameChange::Create { directory, name, id, birth, earlier } => {
                let taken = |id: &Id| self.get(*id).is_some_and(|inode| inode.names > 0);
                let free = self.child(*directory, name).is_none() && !taken(id);
                if !self.is_live_directory(*directory) || !free || earlier.iter().any(taken) {
                    return false;
                }
                self.inodes.entry(*id).or_insert_with(|| (**birth).clone());
                self.attach(*directory, name, *id, op);
                true
            }
            NameChange::Link { directory, name, id } => {
                let free = self.child(*directory, name).is_none();
                let linkable = self.get(*id).is_some_and(|inode| !inode.is_directory());
                if !self.is_live_directory(*directory) || !free || !linkable {
                    return false;
                }
                self.attach(*directory, name, *id, op);
                true
            }
            NameChange::Unlink { directory, name, id } => {
                let full = self.is_directory(*id) && !self.is_empty_directory(*id);
                if self.child(*directory, name) != Some(*id) || full {
                    return false;
                }
                self.detach(*directory, name, *id, op);
                true
            }
            NameChange::Rename { from, from_name, to, to_name, id, .. } => {
                let old = self.child(*to, to_name);
                let fits = match old {
                    None => true,
                    Some(old) if old == *id => false,
                    Some(old) if self.is_directory(*id) => self.is_empty_directory(old),
                    Some(old) => !self.is_directory(old),
                };
                let cycle = self.is_directory(*id) && self.is_above(*id, *to);
                if self.child(*from, from_name) != Some(*id)
                    || !self.is_live_directory(*to)
                    || !fits
                    || cycle
                {
                    return false;
                }
                if let Some(old) = old {
                    self.detach(*to, to_name, old, op);
                }
                self.detach(*from, from_name, *id, op);
                self.attach(*to, to_name, *id, op);
                true
            }
            NameChange::Exchange { names: [(a, a_name), (b, b_name)], ids: [one, other] } => {
                if self.child(*a, a_name) != Some(*one) || self.child(*b, b_name) != Some(*other) {
                    return false;
                }
                self.detach(*a, a_name, *one, op);
                self.detach(*b, b_name, *other, op);
                self.attach(*a, a_name, *other, op);
                self.attach(*b, b_name, *one, op);
                true
            }
        }
    }

    /// Does a change of facts if the inode is there; whether it was.
    pub(super) fn apply_fact(&mut self, id: Id, op: &FactOp) -> bool {
        let Some(inode) = self.inodes.get_mut(&id) else { return false };
        match &op.change {
            FactChange::Mode(mode) => inode.mode = *mode,
            FactChange::Owner { uid, gid } => {
                (inode.uid, inode.gid) = (*uid, *gid);
                if !inode.is_directory() {
                    inode.mode &= !0o4000;
                    // Without group execution the bit is no setgid (it was mandatory locking).
                    if inode.mode & 0o010 != 0 {
                        inode.mode &= !0o2000;
                    }
                    inode.xattrs.remove(CAPABILITY);
                }
            }
            FactChange::Mtime(mtime) => inode.modify(*mtime, op.seq, op.time),
            FactChange::SetXattr(name, value) => {
                inode.xattrs.insert(name.clone(), value.clone());
            }
            FactChange::RemoveXattr(name) => {
                inode.xattrs.remove(name);
            }
            FactChange::Written { end } => {
                if let Some(content) = inode.content_mut() {
                    content.grow(*end);
                }
                inode.modify(op.time, op.seq, op.time);
                inode.xattrs.remove(CAPABILITY);
            }
            FactChange::Length(len) => {
                if let Some(content) = inode.content_mut() {
                    content.set_len(*len);
                }
                inode.modify(op.time, op.seq, op.time);
                inode.xattrs.remove(CAPABILITY);
            }
            FactChange::Reserve(range) => {
                if let Some(content) = inode.content_mut() {
                    content.reserve(range);
                }
            }
        }
        inode.change(op.time);
        true
    }

    /// Drops what no name leads to, as a check after a crash does, and counts links anew.
    pub(super) fn prune(&mut self) {
        let mut reached = BTreeSet::from([ROOT]);
        let mut names: BTreeMap<Id, u64> = BTreeMap::new();
        let mut above: BTreeMap<Id, Id> = BTreeMap::new();
        let mut open = vec![ROOT];
        while let Some(directory) = open.pop() {
            for child in self.entries(directory).into_iter().flat_map(Entries::values) {
                *names.entry(*child).or_default() += 1;
                if reached.insert(*child) && self.is_directory(*child) {
                    above.insert(*child, directory);
                    open.push(*child);
                }
            }
        }
        self.inodes.retain(|id, _| reached.contains(id));
        for (id, inode) in &mut self.inodes {
            inode.names = if *id == ROOT { 1 } else { names.get(id).copied().unwrap_or(0) };
            inode.parent = above.get(id).copied();
            inode.subdirectories = 0;
        }
        for parent in above.values() {
            if let Some(inode) = self.inodes.get_mut(parent) {
                inode.subdirectories += 1;
            }
        }
    }

    fn attach(&mut self, directory: Id, name: &[u8], id: Id, op: &NameOp) {
        let mut subdirectory = false;
        if let Some(inode) = self.inodes.get_mut(&id) {
            inode.names += 1;
            inode.change(op.time);
            subdirectory = inode.is_directory();
            if subdirectory {
                inode.parent = Some(directory);
            }
        }
        if let Some(inode) = self.inodes.get_mut(&directory) {
            inode.subdirectories += u64::from(subdirectory);
            inode.modify(op.time, op.seq, op.time);
            if let Node::Directory(entries) = &mut inode.node {
                entries.insert(name.into(), id);
            }
        }
    }

    fn detach(&mut self, directory: Id, name: &[u8], id: Id, op: &NameOp) {
        let mut subdirectory = false;
        if let Some(inode) = self.inodes.get_mut(&id) {
            inode.names -= 1;
            inode.change(op.time);
            subdirectory = inode.is_directory();
            inode.parent = None;
        }
        if let Some(inode) = self.inodes.get_mut(&directory) {
            inode.subdirectories -= u64::from(subdirectory);
            inode.modify(op.time, op.seq, op.time);
            if let Node::Directory(entries) = &mut inode.node {
                entries.remove(name);
            }
        }
    }
}

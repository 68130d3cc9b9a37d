//! The machine's disk: both states, what lies between them, and the rules of a Linux file system.
//!
//! Every method checks as the system does, makes an operation, does it on the visible state and puts
//! it into the log: visible state and log cannot disagree.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::ops::Range;

use farshore_core::entry::{DeviceNumber, Timestamp};
use rustix::io::Errno;

use super::SimConfig;
use super::content::{Content, PAGE, Page, pieces};
use super::faults::Faults;
use super::log::{FactChange, FactOp, Log, NameChange, NameOp, Pending};
use super::tree::{Id, Inode, Node, ROOT, Tree};

const NAME_LEN_MAX: usize = 255;
const TARGET_LEN_MAX: usize = 4095;
const FILE_LEN_MAX: u64 = i64::MAX as u64;
/// Versions of a dirty page a crash can choose from.
const VERSIONS_MAX: usize = 3;

/// Pages written and not synced, with the versions each had since, the newest last.
pub(super) type Dirty = BTreeMap<Id, BTreeMap<u64, Vec<Page>>>;

#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) config: SimConfig,
    pub(super) visible: Tree,
    pub(super) durable: Tree,
    pub(super) log: Log,
    pub(super) dirty: Dirty,
    pub(super) faults: Faults,
    /// Crashes so far: a handle of an earlier one is dead.
    pub(super) epoch: u64,
    pub(super) now: Timestamp,
    pub(super) trace: VecDeque<String>,
    pub(super) mount_points: BTreeSet<Id>,
    opens: BTreeMap<Id, u64>,
    used_pages: u64,
    next_id: Id,
    next_number: u64,
    free_numbers: BTreeSet<u64>,
    /// Inodes that had a number before, while the log may still bring them back.
    holders: BTreeMap<u64, Vec<Id>>,
}

impl State {
    pub(super) fn new(config: SimConfig) -> Self {
        let now = config.start;
        Self {
            visible: Tree::new(now),
            durable: Tree::new(now),
            log: Log::default(),
            dirty: Dirty::new(),
            faults: Faults::default(),
            epoch: 0,
            now,
            trace: VecDeque::new(),
            mount_points: BTreeSet::new(),
            opens: BTreeMap::new(),
            used_pages: 0,
            next_id: ROOT + 1,
            next_number: 11,
            free_numbers: BTreeSet::new(),
            holders: BTreeMap::new(),
            config,
        }
    }

    /// After a crash: `tree` is what there is, and it is durable.
    pub(super) fn restart(&mut self, tree: Tree) {
        self.visible = tree.clone();
        self.durable = tree;
        self.dirty.clear();
        self.faults.restart();
        self.epoch += 1;
        self.opens.clear();
        self.holders.clear();
        self.used_pages = self.visible.inodes.values().map(Inode::charged_pages).sum();
        let used: BTreeSet<u64> = self.visible.inodes.values().map(|i| i.number).collect();
        if self.config.reuse_inodes {
            self.free_numbers = (11..self.next_number).filter(|n| !used.contains(n)).collect();
        }
        let visible = &self.visible;
        self.mount_points.retain(|id| visible.get(*id).is_some());
    }

    /// Whoever had something open is gone; what is done stays as durable as it was.
    pub(super) fn close_all(&mut self) {
        self.faults.restart();
        self.epoch += 1;
        for id in std::mem::take(&mut self.opens).into_keys() {
            self.collect(id);
        }
    }

    /// A disk of its own in this state, made and to be crashed as `config` says; nothing is open.
    pub(super) fn fork(&self, config: SimConfig) -> Self {
        let trace = VecDeque::new();
        Self { config, trace, opens: BTreeMap::new(), ..self.clone() }
    }

    pub(super) fn tick(&mut self) {
        let nanos = u64::from(self.now.nanos) + self.config.tick_nanos;
        let seconds = i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX);
        self.now.seconds = self.now.seconds.saturating_add(seconds);
        self.now.nanos = u32::try_from(nanos % 1_000_000_000).unwrap_or(0);
    }

    pub(super) fn device(&self, id: Id) -> DeviceNumber {
        let minor = if self.mount_points.contains(&id) { 2 } else { 1 };
        DeviceNumber { major: 254, minor }
    }

    pub(super) fn free_pages(&self) -> u64 {
        (self.config.capacity_bytes / PAGE).saturating_sub(self.used_pages)
    }

    pub(super) fn open(&mut self, id: Id) {
        *self.opens.entry(id).or_default() += 1;
    }

    pub(super) fn close(&mut self, id: Id) {
        if let Some(count) = self.opens.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                self.opens.remove(&id);
                self.collect(id);
            }
        }
    }

    pub(super) fn inode(&self, id: Id) -> io::Result<&Inode> {
        Ok(self.visible.get(id).ok_or(Errno::IO)?)
    }

    pub(super) fn lookup(&self, directory: Id, name: &[u8]) -> io::Result<Id> {
        check_name(name)?;
        Ok(self.visible.child(directory, name).ok_or(Errno::NOENT)?)
    }

    // Names.

    pub(super) fn create(
        &mut self,
        directory: Id,
        name: &[u8],
        node: Node,
        mode: u32,
    ) -> io::Result<Id> {
        self.check_free(directory, name)?;
        if self.visible.inodes.len() as u64 >= self.config.capacity_inodes {
            return Err(Errno::NOSPC.into());
        }
        let number = self.take_number();
        let mut birth = Inode::new(number, node, mode, self.now);
        let above = self.inode(directory)?;
        if above.mode & 0o2000 != 0 {
            birth.gid = above.gid;
            if birth.is_directory() {
                birth.mode |= 0o2000;
            }
        }
        self.next_id += 1;
        let id = self.next_id;
        let earlier = self.holders.get(&number).cloned().unwrap_or_default().into();
        let (name, birth) = (name.into(), Box::new(birth));
        self.name_op(NameChange::Create { directory, name, id, birth, earlier });
        Ok(id)
    }

    pub(super) fn symlink(&mut self, at: Id, name: &[u8], target: &[u8]) -> io::Result<Id> {
        match target.len() {
            0 => Err(Errno::NOENT.into()),
            len if len > TARGET_LEN_MAX => Err(Errno::NAMETOOLONG.into()),
            _ if target.contains(&0) => Err(Errno::INVAL.into()),
            _ => self.create(at, name, Node::Symlink(target.into()), 0o777),
        }
    }

    pub(super) fn link(&mut self, id: Id, directory: Id, name: &[u8]) -> io::Result<()> {
        self.check_free(directory, name)?;
        let inode = self.inode(id)?;
        if inode.is_directory() {
            return Err(Errno::PERM.into());
        }
        if inode.names >= self.config.links_max {
            return Err(Errno::MLINK.into());
        }
        self.name_op(NameChange::Link { directory, name: name.into(), id });
        Ok(())
    }

    pub(super) fn unlink(&mut self, directory: Id, name: &[u8]) -> io::Result<()> {
        let id = self.lookup(directory, name)?;
        if self.visible.is_directory(id) {
            return Err(Errno::ISDIR.into());
        }
        self.name_op(NameChange::Unlink { directory, name: name.into(), id });
        Ok(())
    }

    pub(super) fn remove_directory(&mut self, directory: Id, name: &[u8]) -> io::Result<()> {
        let id = self.lookup(directory, name)?;
        if !self.visible.is_directory(id) {
            return Err(Errno::NOTDIR.into());
        }
        if self.mount_points.contains(&id) {
            return Err(Errno::BUSY.into());
        }
        if !self.visible.is_empty_directory(id) {
            return Err(Errno::NOTEMPTY.into());
        }
        self.name_op(NameChange::Unlink { directory, name: name.into(), id });
        Ok(())
    }

    pub(super) fn rename(
        &mut self,
        from: Id,
        from_name: &[u8],
        to: Id,
        to_name: &[u8],
    ) -> io::Result<()> {
        let id = self.lookup(from, from_name)?;
        check_name(to_name)?;
        if !self.visible.is_live_directory(to) {
            return Err(Errno::NOENT.into());
        }
        let is_directory = self.visible.is_directory(id);
        if is_directory && self.visible.is_above(id, to) {
            return Err(Errno::INVAL.into());
        }
        let replaced = self.visible.child(to, to_name);
        if let Some(old) = replaced {
            if old == id {
                return Ok(());
            }
            if self.visible.is_above(old, from) {
                return Err(Errno::NOTEMPTY.into());
            }
            match (is_directory, self.visible.is_directory(old)) {
                (true, false) => return Err(Errno::NOTDIR.into()),
                (false, true) => return Err(Errno::ISDIR.into()),
                (true, true) if !self.visible.is_empty_directory(old) => {
                    return Err(Errno::NOTEMPTY.into());
                }
                _ => {}
            }
        }
        if [Some(id), replaced].iter().flatten().any(|id| self.mount_points.contains(id)) {
            return Err(Errno::BUSY.into());
        }
        let (from_name, to_name) = (from_name.into(), to_name.into());
        self.name_op(NameChange::Rename { from, from_name, to, to_name, id, replaced });
        Ok(())
    }

    pub(super) fn rename_new(
        &mut self,
        from: Id,
        from_name: &[u8],
        to: Id,
        to_name: &[u8],
    ) -> io::Result<()> {
        self.lookup(from, from_name)?;
        self.check_free(to, to_name)?;
        self.rename(from, from_name, to, to_name)
    }

    /// Of what is no directory; whether it was done.
    pub(super) fn exchange(
        &mut self,
        one: Id,
        one_name: &[u8],
        other: Id,
        other_name: &[u8],
    ) -> io::Result<bool> {
        let ids = [self.lookup(one, one_name)?, self.lookup(other, other_name)?];
        if ids.iter().any(|id| self.visible.is_directory(*id)) {
            return Ok(false);
        }
        if ids[0] != ids[1] {
            let names = [(one, one_name.into()), (other, other_name.into())];
            self.name_op(NameChange::Exchange { names, ids });
        }
        Ok(true)
    }

    // Content.

    /// Writes; where space ends, what fits is written.
    pub(super) fn write(&mut self, id: Id, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= FILE_LEN_MAX);
        let end = end.ok_or(Errno::FBIG)?;
        if bytes.is_empty() {
            return Ok(());
        }
        let mut free = self.free_pages();
        let mut written = offset;
        let content = content_mut(&mut self.visible, id)?;
        let before = content.charged_pages();
        for (index, start, piece) in pieces(offset, bytes) {
            if !content.has_space(index) {
                if free == 0 {
                    break;
                }
                free -= 1;
            }
            content.write_page(index, start, piece);
            remember(&mut self.dirty, id, index, content.page(index));
            written += piece.len() as u64;
        }
        self.used_pages += content.charged_pages() - before;
        if written > offset {
            self.fact_op(id, FactChange::Written { end: written })?;
        }
        if written == end { Ok(()) } else { Err(Errno::NOSPC.into()) }
    }

    pub(super) fn set_len(&mut self, id: Id, len: u64) -> io::Result<()> {
        if len > FILE_LEN_MAX {
            return Err(Errno::FBIG.into());
        }
        self.fact_op(id, FactChange::Length(len))?;
        let last = len / PAGE;
        let content = content_mut(&mut self.visible, id)?;
        let dirty = self.dirty.get(&id).is_some_and(|pages| pages.contains_key(&last));
        if !len.is_multiple_of(PAGE) && dirty {
            remember(&mut self.dirty, id, last, content.page(last));
        }
        Ok(())
    }

    pub(super) fn reserve(&mut self, id: Id, range: Range<u64>) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        if range.end > FILE_LEN_MAX {
            return Err(Errno::FBIG.into());
        }
        let needed = content_mut(&mut self.visible, id)?.unreserved_pages(&range);
        if needed > self.free_pages() {
            return Err(Errno::NOSPC.into());
        }
        self.fact_op(id, FactChange::Reserve(range))
    }

    /// Copies as sharing blocks would: a hole stays one where there was nothing.
    pub(super) fn copy(
        &mut self,
        from: Id,
        from_offset: u64,
        to: Id,
        to_offset: u64,
        len: u64,
    ) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let source = self.inode(from)?.content().ok_or(Errno::INVAL)?.clone();
        let from_end = from_offset.checked_add(len).filter(|end| *end <= source.size());
        let from_end = from_end.ok_or(io::ErrorKind::UnexpectedEof)?;
        let to_end = to_offset.checked_add(len).filter(|end| *end <= FILE_LEN_MAX);
        let to_end = to_end.ok_or(Errno::FBIG)?;
        if from == to && from_offset < to_end && to_offset < from_end {
            return Err(Errno::INVAL.into());
        }
        for index in content_mut(&mut self.visible, to)?.pages_in(to_offset..to_end) {
            let start = to_offset.max(index * PAGE);
            let stop = to_end.min((index + 1) * PAGE);
            let zeros = vec![0; usize::try_from(stop - start).unwrap_or(0)];
            self.write(to, start, &zeros)?;
        }
        let mut at = from_offset;
        while let Some(data) = source.next_data(at, from_end) {
            at = data.end.min(data.start + (1 << 20));
            let mut buf = vec![0; usize::try_from(at - data.start).unwrap_or(0)];
            source.read(data.start, &mut buf);
            self.write(to, to_offset + (data.start - from_offset), &buf)?;
        }
        self.fact_op(to, FactChange::Written { end: to_end })
    }

    // Syncs.

    pub(super) fn sync_file(&mut self, id: Id) {
        if !self.log.ensure_inode(&mut self.durable, id) {
            return;
        }
        self.log.settle_facts(&mut self.durable, id);
        self.settle_pages(id);
    }

    pub(super) fn sync_directory(&mut self, id: Id) {
        self.log.settle_directory(&mut self.durable, id);
        if self.config.directory_sync_covers_facts && self.log.ensure_inode(&mut self.durable, id) {
            self.log.settle_facts(&mut self.durable, id);
        }
    }

    pub(super) fn sync_all(&mut self) {
        for pending in self.log.take_all() {
            match pending {
                Pending::Name(name) => drop(self.durable.apply_name(&name.op)),
                Pending::Fact(id, op) => {
                    self.durable.apply_fact(id, &op);
                    self.written_back(id);
                }
            }
        }
        for id in self.dirty.keys().copied().collect::<Vec<_>>() {
            self.settle_pages(id);
        }
        self.dirty.clear();
        self.holders.clear();
        if self.durable.inodes.len() > self.visible.inodes.len() + 64 {
            let kept = |id: &Id, inode: &Inode| inode.names > 0 || self.visible.get(*id).is_some();
            self.durable.inodes.retain(|id, inode| kept(id, inode));
        }
    }

    fn written_back(&mut self, id: Id) {
        if self.config.sync_moves_ctime {
            self.tick();
            for tree in [&mut self.visible, &mut self.durable] {
                tree.inodes.get_mut(&id).into_iter().for_each(|inode| inode.ctime = self.now);
            }
        }
    }

    /// The sync failed, and the kernel forgets what was dirty.
    pub(super) fn forget(&mut self, what: Sync) {
        match what {
            Sync::File(id) => {
                self.dirty.remove(&id);
            }
            Sync::Directory(id) => self.log.forget_directory(id),
            Sync::All => self.dirty.clear(),
        }
    }

    fn settle_pages(&mut self, id: Id) {
        let Some(pages) = self.dirty.remove(&id) else { return };
        let visible = self.visible.get(id).and_then(Inode::content);
        let durable = self.durable.inodes.get_mut(&id).and_then(Inode::content_mut);
        if let (Some(visible), Some(durable)) = (visible, durable) {
            for index in pages.into_keys() {
                durable.put_page(index, visible.page(index).cloned());
            }
        }
    }

    // Operations.

    pub(super) fn name_op(&mut self, change: NameChange) {
        let (id, replaced) = change.ids();
        let op = NameOp { seq: self.log.next_seq(), time: self.now, change };
        self.visible.apply_name(&op);
        self.log.push_name(op);
        self.collect(id);
        if let Some(replaced) = replaced {
            self.collect(replaced);
        }
    }

    pub(super) fn fact_op(&mut self, id: Id, change: FactChange) -> io::Result<()> {
        let before = self.inode(id)?.charged_pages();
        let op = FactOp { seq: self.log.next_seq(), time: self.now, change };
        self.visible.apply_fact(id, &op);
        self.used_pages = self.used_pages + self.inode(id)?.charged_pages() - before;
        self.log.push_fact(id, op);
        Ok(())
    }

    fn check_free(&self, directory: Id, name: &[u8]) -> io::Result<()> {
        check_name(name)?;
        if !self.visible.is_live_directory(directory) {
            return Err(Errno::NOENT.into());
        }
        if self.visible.child(directory, name).is_some() {
            return Err(Errno::EXIST.into());
        }
        Ok(())
    }

    fn take_number(&mut self) -> u64 {
        self.free_numbers.pop_first().unwrap_or_else(|| {
            self.next_number += 1;
            self.next_number
        })
    }

    /// Frees an inode that has neither name nor handle.
    fn collect(&mut self, id: Id) {
        if self.opens.contains_key(&id) || self.visible.get(id).is_none_or(|i| i.names > 0) {
            return;
        }
        if let Some(inode) = self.visible.inodes.remove(&id) {
            self.used_pages -= inode.charged_pages();
            if self.config.reuse_inodes {
                self.free_numbers.insert(inode.number);
                self.holders.entry(inode.number).or_default().push(id);
            }
        }
    }
}

/// What a sync is of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sync {
    File(Id),
    Directory(Id),
    All,
}

pub(super) fn check_name(name: &[u8]) -> io::Result<()> {
    match name {
        b"" | b"." | b".." => Err(Errno::INVAL.into()),
        _ if name.len() > NAME_LEN_MAX => Err(Errno::NAMETOOLONG.into()),
        _ if name.contains(&b'/') || name.contains(&0) => Err(Errno::INVAL.into()),
        _ => Ok(()),
    }
}

fn content_mut(tree: &mut Tree, id: Id) -> io::Result<&mut Content> {
    let inode = tree.inodes.get_mut(&id).ok_or(Errno::IO)?;
    Ok(inode.content_mut().ok_or(Errno::INVAL)?)
}

fn remember(dirty: &mut Dirty, id: Id, index: u64, page: Option<&Page>) {
    let Some(page) = page else { return };
    let versions = dirty.entry(id).or_default().entry(index).or_default();
    if versions.len() == VERSIONS_MAX {
        versions.pop();
    }
    versions.push(page.clone());
}

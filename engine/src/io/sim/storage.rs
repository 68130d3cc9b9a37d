//! [`Storage`] on the simulated disk: handles, and the way every call goes past the faults.

use std::io;
use std::ops::Range;

use farshore_core::entry::Timestamp;
use rustix::io::Errno;

use super::SimDisk;
use super::crash::Rng;
use super::database::SimDatabaseFile;
use super::faults::Step;
use super::log::FactChange;
use super::state::{State, Sync, check_name};
use super::trace::node_name;
use super::tree::{Entries, Id, Inode, Node, ROOT};
use crate::io::{FileKind, Listed, NewNode, Object, Stat, Storage};

const XATTR_NAME_LEN_MAX: usize = 255;
const XATTR_VALUE_LEN_MAX: usize = 65_536;

/// One root on a simulated disk. Dead, with everything opened through it, once the disk crashed.
#[derive(Debug)]
pub struct SimStorage {
    disk: SimDisk,
    root: SimDirectory,
}

/// An open directory of a simulated disk.
#[derive(Debug)]
pub struct SimDirectory(Handle);

/// An open file of a simulated disk.
#[derive(Debug)]
pub struct SimFile {
    handle: Handle,
    writable: bool,
}

/// Keeps an inode alive until it is dropped or the disk crashes.
#[derive(Debug)]
struct Handle {
    disk: SimDisk,
    id: Id,
    epoch: u64,
}

impl Handle {
    fn new(disk: &SimDisk, state: &mut State, id: Id) -> Self {
        state.open(id);
        Self { disk: disk.clone(), id, epoch: state.epoch }
    }

    /// The inode, if the handle is of this disk and of this life of it.
    fn id(&self, disk: &SimDisk, state: &State) -> io::Result<Id> {
        if !self.disk.is(disk) {
            return Err(Errno::XDEV.into());
        }
        if self.epoch == state.epoch { Ok(self.id) } else { Err(Errno::IO.into()) }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.disk.lock();
        if self.epoch == state.epoch {
            state.close(self.id);
        }
    }
}

impl SimStorage {
    pub(super) fn mount(disk: &SimDisk, path: &[u8]) -> io::Result<Self> {
        let mut state = disk.lock();
        let root = state.walk(ROOT, path)?;
        let root = SimDirectory(Handle::new(disk, &mut state, root));
        drop(state);
        Ok(Self { disk: disk.clone(), root })
    }

    /// The disk this is a root of.
    #[must_use]
    pub fn disk(&self) -> &SimDisk {
        &self.disk
    }

    /// Opens or creates the database at `path` below the root; see [`SimDisk::database_file`].
    ///
    /// # Errors
    /// As of opening, creating and syncing.
    pub fn database_file(&self, path: &[u8]) -> io::Result<SimDatabaseFile> {
        SimDatabaseFile::open(self, path)
    }

    fn read<T>(&self, call: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.lock();
        if state.faults.is_dead() {
            return Err(Errno::IO.into());
        }
        state.faults.read_step()?;
        call(&mut state)
    }

    /// Counts an operation and does it, unless a fault has it otherwise.
    fn change<T>(
        &self,
        what: impl FnOnce(&State) -> String,
        call: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        self.operation(false, what, |state, step| match step {
            Step::Go | Step::Cut | Step::Lie => call(state),
            Step::Fail(errno) => Err(errno.into()),
        })
    }

    fn sync(
        &self,
        what: impl FnOnce(&State) -> String,
        target: impl FnOnce(&State) -> io::Result<Sync>,
    ) -> io::Result<()> {
        self.operation(true, what, |state, step| {
            let target = target(state)?;
            match (step, target) {
                (Step::Go, Sync::File(id)) => state.sync_file(id),
                (Step::Go, Sync::Directory(id)) => state.sync_directory(id),
                (Step::Go, Sync::All) => state.sync_all(),
                (Step::Cut, _) => {}
                (Step::Fail(errno), _) => return Err(errno.into()),
                (Step::Lie, _) => {
                    state.forget(target);
                    return Err(Errno::IO.into());
                }
            }
            Ok(())
        })
    }

    fn operation<T>(
        &self,
        is_sync: bool,
        what: impl FnOnce(&State) -> String,
        call: impl FnOnce(&mut State, Step) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.disk.lock();
        if state.faults.is_dead() {
            return Err(Errno::IO.into());
        }
        state.tick();
        let step = state.faults.step(is_sync);
        let text = if state.config.trace_max > 0 { what(&state) } else { String::new() };
        let mut result = call(&mut state, step);
        if step == Step::Cut {
            state.faults.die();
            // It may have been done: the crash decides.
            result = Err(Errno::IO.into());
        }
        let error = result.as_ref().err();
        state.record(&text, step, error);
        result
    }

    fn create_node(&self, at: &SimDirectory, name: &[u8], node: Node, mode: u32) -> io::Result<()> {
        self.change(
            |state| format!("create {} {}", node_name(&node), state.path(at.0.id, name)),
            |state| {
                let directory = at.0.id(&self.disk, state)?;
                state.create(directory, name, node.clone(), mode).map(|_| ())
            },
        )
    }

    fn set_fact(
        &self,
        object: Object<'_, Self>,
        what: impl FnOnce() -> String,
        change: impl FnOnce(&Inode, &State) -> io::Result<FactChange>,
    ) -> io::Result<()> {
        self.change(
            |state| format!("{} {}", what(), self.describe(state, object)),
            |state| {
                let id = self.resolve(state, object)?;
                let change = change(state.inode(id)?, state)?;
                state.fact_op(id, change)
            },
        )
    }

    fn resolve(&self, state: &State, object: Object<'_, Self>) -> io::Result<Id> {
        match object {
            Object::File(file) => file.handle.id(&self.disk, state),
            Object::Directory(directory) => directory.0.id(&self.disk, state),
            Object::Named(at, name) => state.lookup(at.0.id(&self.disk, state)?, name),
        }
    }

    fn describe(&self, state: &State, object: Object<'_, Self>) -> String {
        match object {
            Object::File(file) => state.handle_name(file.handle.id),
            Object::Directory(directory) => state.handle_name(directory.0.id),
            Object::Named(at, name) => state.path(at.0.id, name),
        }
    }

    fn file(&self, state: &State, file: &SimFile, write: bool) -> io::Result<Id> {
        let id = file.handle.id(&self.disk, state)?;
        if write && !file.writable { Err(Errno::BADF.into()) } else { Ok(id) }
    }

    fn open(&self, at: &SimDirectory, name: &[u8], writable: bool) -> io::Result<SimFile> {
        self.read(|state| {
            let id = state.lookup(at.0.id(&self.disk, state)?, name)?;
            match state.inode(id)?.kind() {
                FileKind::Regular => {
                    Ok(SimFile { handle: Handle::new(&self.disk, state, id), writable })
                }
                FileKind::Symlink => Err(Errno::LOOP.into()),
                _ => Err(Errno::INVAL.into()),
            }
        })
    }
}

impl Storage for SimStorage {
    type Directory = SimDirectory;
    type File = SimFile;

    fn root(&self) -> &SimDirectory {
        &self.root
    }

    fn open_directory(&self, at: &SimDirectory, path: &[u8]) -> io::Result<SimDirectory> {
        self.read(|state| {
            let id = state.walk(at.0.id(&self.disk, state)?, path)?;
            Ok(SimDirectory(Handle::new(&self.disk, state, id)))
        })
    }

    /// In an order that is not that of the names, and stays while nothing changes.
    fn list(&self, directory: &SimDirectory, visit: &mut dyn FnMut(Listed<'_>)) -> io::Result<()> {
        let mut found = self.read(|state| {
            let id = directory.0.id(&self.disk, state)?;
            let entries = state.visible.entries(id).into_iter().flat_map(Entries::iter);
            entries
                .map(|(name, child)| {
                    let inode = state.inode(*child)?;
                    let kind = state.config.listing_tells_kind.then(|| inode.kind());
                    Ok((name_order(state.config.seed, name), name.clone(), inode.number, kind))
                })
                .collect::<io::Result<Vec<_>>>()
        })?;
        found.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        // The disk is not held here: the visitor may call it.
        for (_, name, inode, kind) in &found {
            visit(Listed { name, inode: *inode, kind: *kind });
        }
        Ok(())
    }

    fn stat(&self, object: Object<'_, Self>) -> io::Result<Stat> {
        self.read(|state| {
            let id = self.resolve(state, object)?;
            Ok(state.inode(id)?.stat(state.device(id)))
        })
    }

    fn open_file(&self, at: &SimDirectory, name: &[u8]) -> io::Result<SimFile> {
        self.open(at, name, false)
    }

    fn batch_files(&self) -> usize {
        self.disk.lock().config.batch_files
    }

    fn create_file(&self, at: &SimDirectory, name: &[u8]) -> io::Result<SimFile> {
        self.change(
            |state| format!("create file {}", state.path(at.0.id, name)),
            |state| {
                let directory = at.0.id(&self.disk, state)?;
                let id = state.create(directory, name, Node::File(Default::default()), 0o600)?;
                // Opened before anyone else can remove it; the handle cannot be made, nor dropped,
                // while the disk is held.
                state.open(id);
                Ok((id, state.epoch))
            },
        )
        .map(|(id, epoch)| {
            let handle = Handle { disk: self.disk.clone(), id, epoch };
            SimFile { handle, writable: true }
        })
    }

    fn open_file_writable(&self, at: &SimDirectory, name: &[u8]) -> io::Result<SimFile> {
        self.open(at, name, true)
    }

    fn read_at(&self, file: &SimFile, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.read(|state| {
            let id = self.file(state, file, false)?;
            Ok(state.inode(id)?.content().map_or(0, |content| content.read(offset, buf)))
        })
    }

    /// Under a fault a part of the bytes, drawn from the seed, is written.
    fn write_at(&self, file: &SimFile, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.operation(
            false,
            |state| {
                let name = state.handle_name(file.handle.id);
                format!("write {name} {offset}+{} {:x}", bytes.len(), fold(0, bytes))
            },
            |state, step| {
                let id = self.file(state, file, true)?;
                if let Step::Fail(errno) = step {
                    let mut rng = Rng::new(state.config.seed, state.faults.operations());
                    let part = usize::try_from(rng.below(bytes.len() as u64 + 1)).unwrap_or(0);
                    if errno != Errno::ROFS {
                        state.write(id, offset, &bytes[..part]).ok();
                    }
                    return Err(errno.into());
                }
                state.write(id, offset, bytes)
            },
        )
    }

    fn set_len(&self, file: &SimFile, len: u64) -> io::Result<()> {
        self.change(
            |state| format!("set length {} {len}", state.handle_name(file.handle.id)),
            |state| {
                let id = self.file(state, file, true)?;
                state.set_len(id, len)
            },
        )
    }

    fn allocate(&self, file: &SimFile, range: Range<u64>) -> io::Result<()> {
        self.change(
            |state| format!("allocate {} {range:?}", state.handle_name(file.handle.id)),
            |state| {
                let id = self.file(state, file, true)?;
                state.reserve(id, range.clone())
            },
        )
    }

    /// Nothing: any dirty page may survive a crash anyhow.
    fn start_writeback(&self, _file: &SimFile, _range: Range<u64>) {}

    fn next_data(&self, file: &SimFile, offset: u64, size: u64) -> io::Result<Option<Range<u64>>> {
        self.read(|state| {
            let id = self.file(state, file, false)?;
            Ok(state.inode(id)?.content().and_then(|content| content.next_data(offset, size)))
        })
    }

    fn copy_range(
        &self,
        from: &SimFile,
        from_offset: u64,
        to: &SimFile,
        to_offset: u64,
        len: u64,
    ) -> io::Result<()> {
        self.change(
            |state| {
                let names = [from, to].map(|file| state.handle_name(file.handle.id));
                format!("copy {} {from_offset}+{len} to {} {to_offset}", names[0], names[1])
            },
            |state| {
                let from = self.file(state, from, false)?;
                let to = self.file(state, to, true)?;
                state.copy(from, from_offset, to, to_offset, len)
            },
        )
    }

    /// As far as anybody can tell.
    fn shares_blocks(&self, _scratch: &SimDirectory) -> bool {
        true
    }

    fn make_directory(&self, at: &SimDirectory, name: &[u8]) -> io::Result<()> {
        self.create_node(at, name, Node::Directory(Entries::new()), 0o700)
    }

    fn make_symlink(&self, at: &SimDirectory, name: &[u8], target: &[u8]) -> io::Result<()> {
        self.change(
            |state| {
                let target = target.escape_ascii();
                format!("create link {} to {target}", state.path(at.0.id, name))
            },
            |state| {
                let directory = at.0.id(&self.disk, state)?;
                state.symlink(directory, name, target).map(|_| ())
            },
        )
    }

    fn make_node(&self, at: &SimDirectory, name: &[u8], node: NewNode) -> io::Result<()> {
        let node = match node {
            NewNode::Fifo => Node::Fifo,
            NewNode::Socket => Node::Socket,
            NewNode::CharDevice(number) => Node::CharDevice(number),
            NewNode::BlockDevice(number) => Node::BlockDevice(number),
        };
        self.create_node(at, name, node, 0o600)
    }

    fn read_link(&self, at: &SimDirectory, name: &[u8]) -> io::Result<Vec<u8>> {
        self.read(|state| {
            let id = state.lookup(at.0.id(&self.disk, state)?, name)?;
            match &state.inode(id)?.node {
                Node::Symlink(target) => Ok(target.to_vec()),
                _ => Err(Errno::INVAL.into()),
            }
        })
    }

    fn link(
        &self,
        from: &SimDirectory,
        from_name: &[u8],
        to: &SimDirectory,
        to_name: &[u8],
    ) -> io::Result<()> {
        self.change(
            |s| format!("link {} as {}", s.path(from.0.id, from_name), s.path(to.0.id, to_name)),
            |state| {
                let id = state.lookup(from.0.id(&self.disk, state)?, from_name)?;
                let to = to.0.id(&self.disk, state)?;
                state.link(id, to, to_name)
            },
        )
    }

    fn rename(
        &self,
        from: &SimDirectory,
        from_name: &[u8],
        to: &SimDirectory,
        to_name: &[u8],
    ) -> io::Result<()> {
        self.change(
            |s| format!("rename {} to {}", s.path(from.0.id, from_name), s.path(to.0.id, to_name)),
            |state| {
                let from = from.0.id(&self.disk, state)?;
                let to = to.0.id(&self.disk, state)?;
                state.rename(from, from_name, to, to_name)
            },
        )
    }

    fn rename_new(
        &self,
        from: &SimDirectory,
        from_name: &[u8],
        to: &SimDirectory,
        to_name: &[u8],
    ) -> io::Result<bool> {
        self.change(
            |s| format!("move {} to {}", s.path(from.0.id, from_name), s.path(to.0.id, to_name)),
            |state| {
                let from = from.0.id(&self.disk, state)?;
                let to = to.0.id(&self.disk, state)?;
                state.rename_new(from, from_name, to, to_name)
            },
        )?;
        Ok(true)
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
        self.change(
            |s| {
                let paths = (s.path(one.0.id, one_name), s.path(other.0.id, other_name));
                format!("exchange {} and {}", paths.0, paths.1)
            },
            |state| {
                let one = one.0.id(&self.disk, state)?;
                let other = other.0.id(&self.disk, state)?;
                state.exchange(one, one_name, other, other_name)
            },
        )
    }

    fn unlink(&self, at: &SimDirectory, name: &[u8]) -> io::Result<()> {
        self.change(
            |state| format!("unlink {}", state.path(at.0.id, name)),
            |state| {
                let directory = at.0.id(&self.disk, state)?;
                state.unlink(directory, name)
            },
        )
    }

    fn remove_directory(&self, at: &SimDirectory, name: &[u8]) -> io::Result<()> {
        self.change(
            |state| format!("remove directory {}", state.path(at.0.id, name)),
            |state| {
                let directory = at.0.id(&self.disk, state)?;
                state.remove_directory(directory, name)
            },
        )
    }

    fn xattrs(&self, object: Object<'_, Self>) -> io::Result<Vec<(Box<[u8]>, Box<[u8]>)>> {
        self.read(|state| {
            let id = self.resolve(state, object)?;
            let inode = state.inode(id)?;
            Ok(inode.xattrs.iter().map(|(name, value)| (name.clone(), value.clone())).collect())
        })
    }

    fn set_xattr(&self, object: Object<'_, Self>, name: &[u8], value: &[u8]) -> io::Result<()> {
        self.set_fact(
            object,
            || format!("set attribute {}={}", name.escape_ascii(), value.escape_ascii()),
            |inode, state| {
                check_xattr(inode, state, name)?;
                if value.len() > XATTR_VALUE_LEN_MAX {
                    return Err(Errno::TOOBIG.into());
                }
                let others = inode.xattrs.iter().filter(|(other, _)| other[..] != *name);
                let used: usize = others.map(|(name, value)| name.len() + value.len()).sum();
                if used + name.len() + value.len() > state.config.xattr_bytes_max {
                    return Err(Errno::NOSPC.into());
                }
                Ok(FactChange::SetXattr(name.into(), value.into()))
            },
        )
    }

    fn remove_xattr(&self, object: Object<'_, Self>, name: &[u8]) -> io::Result<()> {
        self.set_fact(
            object,
            || format!("remove attribute {}", name.escape_ascii()),
            |inode, state| {
                check_xattr(inode, state, name)?;
                if !inode.xattrs.contains_key(name) {
                    return Err(Errno::NODATA.into());
                }
                Ok(FactChange::RemoveXattr(name.into()))
            },
        )
    }

    fn set_owner(&self, object: Object<'_, Self>, uid: u32, gid: u32) -> io::Result<()> {
        self.set_fact(
            object,
            || format!("set owner {uid}:{gid}"),
            |_, _| {
                // To the system these mean "leave as it is".
                if uid == u32::MAX || gid == u32::MAX {
                    return Err(Errno::INVAL.into());
                }
                Ok(FactChange::Owner { uid, gid })
            },
        )
    }

    fn set_mode(&self, object: Object<'_, Self>, mode: u32) -> io::Result<()> {
        self.set_fact(
            object,
            || format!("set mode {mode:o}"),
            |inode, _| match inode.kind() {
                FileKind::Symlink => Err(Errno::OPNOTSUPP.into()),
                _ => Ok(FactChange::Mode(mode & 0o7777)),
            },
        )
    }

    fn set_mtime(&self, object: Object<'_, Self>, mtime: Timestamp) -> io::Result<()> {
        self.set_fact(
            object,
            || format!("set mtime {}.{:09}", mtime.seconds, mtime.nanos),
            |_, _| match mtime.nanos {
                0..1_000_000_000 => Ok(FactChange::Mtime(mtime)),
                _ => Err(Errno::INVAL.into()),
            },
        )
    }

    fn sync_file(&self, file: &SimFile) -> io::Result<()> {
        self.sync(
            |state| format!("sync file {}", state.handle_name(file.handle.id)),
            |state| Ok(Sync::File(file.handle.id(&self.disk, state)?)),
        )
    }

    fn sync_directory(&self, directory: &SimDirectory) -> io::Result<()> {
        self.sync(
            |state| format!("sync directory {}", state.handle_name(directory.0.id)),
            |state| Ok(Sync::Directory(directory.0.id(&self.disk, state)?)),
        )
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync(
            |_| "sync all".to_owned(),
            |state| self.root.0.id(&self.disk, state).map(|_| Sync::All),
        )
    }

    fn file_system(&self) -> io::Result<u64> {
        self.read(|state| {
            self.root.0.id(&self.disk, state)?;
            Ok(state.config.file_system)
        })
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.read(|state| {
            self.root.0.id(&self.disk, state)?;
            Ok(state.free_pages().saturating_mul(super::content::PAGE))
        })
    }
}

impl State {
    /// The directory at `path` below `at`; links and mount points refused.
    pub(super) fn walk(&self, at: Id, path: &[u8]) -> io::Result<Id> {
        let mut here = at;
        if path.is_empty() {
            return Ok(here);
        }
        for component in path.split(|byte| *byte == b'/') {
            if component == b".." {
                return Err(Errno::XDEV.into());
            }
            check_name(component)?;
            here = self.lookup(here, component)?;
            match self.inode(here)?.kind() {
                FileKind::Directory if self.mount_points.contains(&here) => {
                    return Err(Errno::XDEV.into());
                }
                FileKind::Directory => {}
                FileKind::Symlink => return Err(Errno::LOOP.into()),
                _ => return Err(Errno::NOTDIR.into()),
            }
        }
        Ok(here)
    }
}

fn check_xattr(inode: &Inode, state: &State, name: &[u8]) -> io::Result<()> {
    if !state.config.xattrs {
        return Err(Errno::OPNOTSUPP.into());
    }
    if name.is_empty() || name.len() > XATTR_NAME_LEN_MAX {
        return Err(Errno::RANGE.into());
    }
    let kind = inode.kind();
    if name.starts_with(b"user.") {
        return match kind {
            FileKind::Regular | FileKind::Directory => Ok(()),
            _ => Err(Errno::PERM.into()),
        };
    }
    let known = name.starts_with(b"trusted.")
        || name.starts_with(b"security.")
        || (name.starts_with(b"system.posix_acl_") && kind != FileKind::Symlink);
    if known { Ok(()) } else { Err(Errno::OPNOTSUPP.into()) }
}

/// The place of a name in a listing.
fn name_order(seed: u64, name: &[u8]) -> u64 {
    fold(seed, name).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

/// FNV-1a.
fn fold(seed: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

//! Plain system calls, for Linux 5.8 and later.
//!
//! How the contract of [`super`] is kept:
//!
//! - **Confined.** The root is opened once by the operator's path, which may hold symbolic links.
//!   From there every call takes an open directory and a name of one component; see
//!   `resolve` for paths of several. The only absolute path used afterwards is
//!   `/proc/self/fd/N`, where the kernel has no call by descriptor; see
//!   `attributes` for why that is safe.
//! - **Directories** are open `O_RDONLY`, so that they can be synced by the descriptor that was open
//!   while they changed. One that may be searched but not read is open `O_PATH`: names below it can
//!   be used, only listing it fails.
//! - **Regular files only.** [`Storage::open_file`] opens with `O_NONBLOCK | O_NOFOLLOW | O_NOCTTY`
//!   and then asks what it got. The caller has just seen a regular file there; who swaps it meanwhile
//!   can put a directory, a socket (which cannot be opened) or a pipe (which `O_NONBLOCK` opens at
//!   once) in its place, all closed again unread. A device node would be opened and closed as well,
//!   but making one takes CAP_MKNOD, and who has that needs no race. Reaching the inode first through
//!   `O_PATH` would close even that, for two system calls more on every small file. Opening to write
//!   does look first: a writer that comes and goes is seen by the readers of a pipe.
//! - **Synced.** An error of write-back that happened since [`PosixStorage::open`] is reported by
//!   [`Storage::sync_all`], to every call that was under way when it was found. (Before Linux 5.8
//!   syncfs reported none.) No sync is tried again.
//! - EINTR is retried everywhere. EAGAIN from opening a file is reported: another process holds a
//!   lease on it (Samba's oplocks), which is being broken; the open succeeds later.

use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, OnceLock, PoisonError};

use farshore_core::entry::{DeviceNumber, Timestamp};
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, FlockOperation, Gid, Mode, OFlags, RawDir, SeekFrom,
    Timespec, Timestamps, Uid,
};
use rustix::io::{Errno, retry_on_intr};

use super::{FileKind, Listed, NewNode, Object, Stat, Storage};

mod attributes;
mod budget;
mod copy;
pub mod probe;
mod resolve;

use self::budget::Budget;
pub use self::probe::MountFeatures;
pub(super) use self::resolve::{RESOLVE, check_name};

/// How a name is opened for data, beside the access.
pub(super) const DATA_FLAGS: OFlags =
    OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// Bytes of names one read of a directory asks for.
const LIST_BUFFER_LEN: usize = 64 * 1024;

/// A directory tree of the operating system.
#[derive(Debug)]
pub struct PosixStorage {
    root: PosixDirectory,
    /// The kernel resolves paths for us; where not, we walk.
    pub(super) has_openat2: bool,
    /// `O_NOATIME` has not been refused yet.
    pub(super) omit_atime: AtomicBool,
    /// `copy_file_range` has not been found missing yet.
    copy_in_kernel: AtomicBool,
    /// Whether files share blocks here, once it was tried.
    shares_blocks: OnceLock<bool>,
    /// Syncs of the file system that failed, and the error of the last. The kernel reports an error
    /// once per descriptor; the lock and the count make every concurrent caller see it.
    sync_failures: AtomicU64,
    sync_error: Mutex<Option<Errno>>,
    budget: Budget,
    /// Takes files whose writing back is to start, when its thread has nothing else to do.
    writeback: OnceLock<Option<SyncSender<OwnedFd>>>,
}

/// An open directory.
#[derive(Debug)]
pub struct PosixDirectory {
    pub(super) fd: OwnedFd,
    /// Open `O_PATH`: names only.
    path_only: bool,
    /// Opened anew, so that no other handle moves its position.
    is_own: bool,
}

/// An open regular file.
#[derive(Debug)]
pub struct PosixFile(pub(super) OwnedFd);

impl PosixStorage {
    /// Opens the tree at `root`. Only here are symbolic links and mount points followed.
    ///
    /// # Errors
    /// The open's own; [`io::ErrorKind::Unsupported`] without a usable `/proc`.
    pub fn open(root: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = retry_on_intr(|| rustix::fs::openat(CWD, root, flags, Mode::empty()))?;
        attributes::check_proc()?;
        Ok(Self {
            has_openat2: resolve::has_openat2(fd.as_fd())?,
            root: PosixDirectory { fd, path_only: false, is_own: false },
            omit_atime: AtomicBool::new(true),
            copy_in_kernel: AtomicBool::new(true),
            shares_blocks: OnceLock::new(),
            sync_failures: AtomicU64::new(0),
            sync_error: Mutex::new(None),
            budget: Budget::default(),
            writeback: OnceLock::new(),
        })
    }

    /// The same tree with an I/O budget: content is read and written at no more than this rate.
    #[must_use]
    pub fn with_budget(mut self, bytes_per_s: u64) -> Self {
        self.budget = Budget::of(bytes_per_s);
        self
    }

    /// Books bytes that were moved by other calls than its own.
    pub(super) fn spend(&self, bytes: usize) {
        self.budget.spend(bytes);
    }

    /// The same tree, as on a kernel or in a container without openat2 and `copy_file_range`. For
    /// tests of that case.
    #[must_use]
    pub fn without_recent_calls(mut self) -> Self {
        self.has_openat2 = false;
        self.copy_in_kernel = AtomicBool::new(false);
        self
    }

    /// What this mount keeps, found by trying in `scratch`, a directory nobody else works in. What
    /// it made there is removed again.
    ///
    /// # Errors
    /// When not even a plain file can be made, or something made cannot be removed.
    pub fn probe(&self, scratch: &PosixDirectory) -> io::Result<MountFeatures> {
        probe::probe(self, scratch)
    }

    /// Opens a name for data. `access` is `RDONLY` or `RDWR`, perhaps with creation flags.
    fn open_data(
        &self,
        at: &PosixDirectory,
        name: &[u8],
        access: OFlags,
        mode: Mode,
    ) -> io::Result<OwnedFd> {
        resolve::check_name(name)?;
        let flags = access | DATA_FLAGS;
        let open = |flags| retry_on_intr(|| rustix::fs::openat(&at.fd, name, flags, mode));
        let opened = if self.omit_atime.load(Ordering::Relaxed) && !access.contains(OFlags::CREATE)
        {
            match open(flags | OFlags::NOATIME) {
                Err(Errno::PERM) => {
                    let opened = open(flags);
                    if opened.is_ok() {
                        self.omit_atime.store(false, Ordering::Relaxed);
                    }
                    opened
                }
                other => other,
            }
        } else {
            open(flags)
        };
        match opened {
            Err(e) => Err(no_file(e).into()),
            Ok(fd) => Ok(fd),
        }
    }
}

impl Storage for PosixStorage {
    type Directory = PosixDirectory;
    type File = PosixFile;

    fn root(&self) -> &PosixDirectory {
        &self.root
    }

    fn open_directory(&self, at: &PosixDirectory, path: &[u8]) -> io::Result<PosixDirectory> {
        if path.is_empty() {
            let fd = rustix::io::fcntl_dupfd_cloexec(&at.fd, 0)?;
            return Ok(PosixDirectory { fd, path_only: at.path_only, is_own: false });
        }
        match resolve::open_directory(self.has_openat2, at.fd.as_fd(), path, OFlags::RDONLY) {
            Err(Errno::ACCESS) => {
                let fd =
                    resolve::open_directory(self.has_openat2, at.fd.as_fd(), path, OFlags::PATH)?;
                Ok(PosixDirectory { fd, path_only: true, is_own: true })
            }
            other => Ok(PosixDirectory { fd: other?, path_only: false, is_own: true }),
        }
    }

    fn list(
        &self,
        directory: &PosixDirectory,
        visit: &mut dyn FnMut(Listed<'_>),
    ) -> io::Result<()> {
        // Of its own, so that its position is too.
        let fd = reopen(directory)?;
        list(&fd, visit)
    }

    fn list_new(
        &self,
        directory: &PosixDirectory,
        visit: &mut dyn FnMut(Listed<'_>),
    ) -> io::Result<()> {
        // What is open for names only cannot be listed: to say so is the system's. A copy of a handle
        // shares its position, and would find nothing where another stopped.
        if directory.path_only || !directory.is_own {
            return self.list(directory, visit);
        }
        rustix::fs::seek(&directory.fd, SeekFrom::Start(0))?;
        list(&directory.fd, visit)
    }

    fn stat(&self, object: Object<'_, Self>) -> io::Result<Stat> {
        let found = match object {
            Object::File(file) => rustix::fs::fstat(&file.0),
            Object::Directory(directory) => rustix::fs::fstat(&directory.fd),
            Object::Named(at, name) => {
                resolve::check_name(name)?;
                let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
                retry_on_intr(|| rustix::fs::statat(&at.fd, name, flags))
            }
        };
        stat_from(&found?)
    }

    fn open_file(&self, at: &PosixDirectory, name: &[u8]) -> io::Result<PosixFile> {
        Ok(self.open_file_and_stat(at, name)?.0)
    }

    fn open_file_and_stat(
        &self,
        at: &PosixDirectory,
        name: &[u8],
    ) -> io::Result<(PosixFile, Stat)> {
        opened(self.open_data(at, name, OFlags::RDONLY, Mode::empty())?)
    }

    fn create_file(&self, at: &PosixDirectory, name: &[u8]) -> io::Result<PosixFile> {
        self.create_file_as(at, name, 0o600)
    }

    fn create_file_as(&self, at: &PosixDirectory, name: &[u8], mode: u32) -> io::Result<PosixFile> {
        let access = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        // Ours to write whatever it will be to others.
        let mode = Mode::from_raw_mode(mode & 0o777);
        Ok(PosixFile(self.open_data(at, name, access, mode)?))
    }

    fn open_file_writable(&self, at: &PosixDirectory, name: &[u8]) -> io::Result<PosixFile> {
        resolve::check_name(name)?;
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let before = retry_on_intr(|| rustix::fs::statat(&at.fd, name, flags))?;
        if FileType::from_raw_mode(before.st_mode) == FileType::Symlink {
            return Err(Errno::LOOP.into());
        }
        require_regular(&before)?;
        let fd = self.open_data(at, name, OFlags::RDWR, Mode::empty())?;
        require_regular(&rustix::fs::fstat(&fd)?)?;
        Ok(PosixFile(fd))
    }

    fn read_at(&self, file: &PosixFile, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            let at = offset.checked_add(done as u64).ok_or(Errno::INVAL)?;
            let end = done + self.budget.piece(buf.len() - done);
            match retry_on_intr(|| rustix::io::pread(&file.0, &mut buf[done..end], at))? {
                0 => break,
                read => {
                    self.budget.spend(read);
                    done += read;
                }
            }
        }
        Ok(done)
    }

    fn write_at(&self, file: &PosixFile, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset.checked_add(done as u64).ok_or(Errno::FBIG)?;
            let end = done + self.budget.piece(bytes.len() - done);
            self.budget.spend(end - done);
            match retry_on_intr(|| rustix::io::pwrite(&file.0, &bytes[done..end], at))? {
                0 => return Err(Errno::IO.into()),
                written => done += written,
            }
        }
        Ok(())
    }

    fn try_lock(&self, file: &PosixFile) -> io::Result<bool> {
        let how = FlockOperation::NonBlockingLockExclusive;
        match retry_on_intr(|| rustix::fs::flock(&file.0, how)) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            // A mount without locks.
            Err(Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    fn set_len(&self, file: &PosixFile, len: u64) -> io::Result<()> {
        Ok(retry_on_intr(|| rustix::fs::ftruncate(&file.0, len))?)
    }

    fn allocate(&self, file: &PosixFile, range: Range<u64>) -> io::Result<()> {
        let len = range.end.saturating_sub(range.start);
        if len == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::KEEP_SIZE;
        match retry_on_intr(|| rustix::fs::fallocate(&file.0, flags, range.start, len)) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Has a thread sync the data of all of the file, unless it is still at the one before: rustix has
    /// no `sync_file_range`, and this crate no `unsafe`; `POSIX_FADV_DONTNEED` would also throw out
    /// pages. An error it meets is no secret: the kernel keeps one for each sync of the file system too.
    fn start_writeback(&self, file: &PosixFile, _range: Range<u64>) {
        let Some(queue) = self.writeback.get_or_init(start_writeback_thread) else { return };
        if let Ok(fd) = rustix::io::fcntl_dupfd_cloexec(&file.0, 0) {
            queue.try_send(fd).unwrap_or(());
        }
    }

    fn next_data(
        &self,
        file: &PosixFile,
        offset: u64,
        size: u64,
    ) -> io::Result<Option<Range<u64>>> {
        if offset >= size {
            return Ok(None);
        }
        // Seeking moves the position of the descriptor, which nothing here ever uses.
        let start = match retry_on_intr(|| rustix::fs::seek(&file.0, SeekFrom::Data(offset))) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some(offset..size)),
            Err(error) => return Err(error.into()),
        };
        if start >= size {
            return Ok(None);
        }
        match retry_on_intr(|| rustix::fs::seek(&file.0, SeekFrom::Hole(start))) {
            Ok(end) => Ok(Some(start..end.min(size))),
            // Cut off in between.
            Err(Errno::NXIO) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn copy_range(
        &self,
        from: &PosixFile,
        from_offset: u64,
        to: &PosixFile,
        to_offset: u64,
        len: u64,
    ) -> io::Result<()> {
        copy::copy_range(self, (from, from_offset), (to, to_offset), len)
    }

    fn shares_blocks(&self, scratch: &PosixDirectory) -> bool {
        *self.shares_blocks.get_or_init(|| {
            self.copy_in_kernel.load(Ordering::Relaxed)
                && probe::reflinks(self, scratch).unwrap_or(false)
        })
    }

    fn make_directory(&self, at: &PosixDirectory, name: &[u8]) -> io::Result<()> {
        resolve::check_name(name)?;
        Ok(retry_on_intr(|| rustix::fs::mkdirat(&at.fd, name, Mode::RWXU))?)
    }

    fn make_symlink(&self, at: &PosixDirectory, name: &[u8], target: &[u8]) -> io::Result<()> {
        resolve::check_name(name)?;
        Ok(retry_on_intr(|| rustix::fs::symlinkat(target, &at.fd, name))?)
    }

    fn make_node(&self, at: &PosixDirectory, name: &[u8], node: NewNode) -> io::Result<()> {
        resolve::check_name(name)?;
        let (kind, number) = match node {
            NewNode::Fifo => (FileType::Fifo, 0),
            NewNode::Socket => (FileType::Socket, 0),
            NewNode::CharDevice(n) => {
                (FileType::CharacterDevice, rustix::fs::makedev(n.major, n.minor))
            }
            NewNode::BlockDevice(n) => {
                (FileType::BlockDevice, rustix::fs::makedev(n.major, n.minor))
            }
        };
        let mode = Mode::RUSR | Mode::WUSR;
        Ok(retry_on_intr(|| rustix::fs::mknodat(&at.fd, name, kind, mode, number))?)
    }

    fn read_link(&self, at: &PosixDirectory, name: &[u8]) -> io::Result<Vec<u8>> {
        resolve::check_name(name)?;
        let target = retry_on_intr(|| rustix::fs::readlinkat(&at.fd, name, Vec::new()))?;
        Ok(target.into_bytes())
    }

    fn link(
        &self,
        from: &PosixDirectory,
        from_name: &[u8],
        to: &PosixDirectory,
        to_name: &[u8],
    ) -> io::Result<()> {
        resolve::check_name(from_name)?;
        resolve::check_name(to_name)?;
        let flags = AtFlags::empty();
        Ok(retry_on_intr(|| rustix::fs::linkat(&from.fd, from_name, &to.fd, to_name, flags))?)
    }

    fn rename(
        &self,
        from: &PosixDirectory,
        from_name: &[u8],
        to: &PosixDirectory,
        to_name: &[u8],
    ) -> io::Result<()> {
        resolve::check_name(from_name)?;
        resolve::check_name(to_name)?;
        Ok(retry_on_intr(|| rustix::fs::renameat(&from.fd, from_name, &to.fd, to_name))?)
    }

    fn rename_new(
        &self,
        from: &PosixDirectory,
        from_name: &[u8],
        to: &PosixDirectory,
        to_name: &[u8],
    ) -> io::Result<bool> {
        resolve::check_name(from_name)?;
        resolve::check_name(to_name)?;
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        let rename = || rustix::fs::renameat_with(&from.fd, from_name, &to.fd, to_name, flags);
        match retry_on_intr(rename) {
            Ok(()) => Ok(true),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    fn may_exchange(&self) -> bool {
        true
    }

    fn exchange(
        &self,
        one: &PosixDirectory,
        one_name: &[u8],
        other: &PosixDirectory,
        other_name: &[u8],
    ) -> io::Result<bool> {
        resolve::check_name(one_name)?;
        resolve::check_name(other_name)?;
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        let exchange =
            || rustix::fs::renameat_with(&one.fd, one_name, &other.fd, other_name, flags);
        match retry_on_intr(exchange) {
            Ok(()) => Ok(true),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    fn unlink(&self, at: &PosixDirectory, name: &[u8]) -> io::Result<()> {
        resolve::check_name(name)?;
        Ok(retry_on_intr(|| rustix::fs::unlinkat(&at.fd, name, AtFlags::empty()))?)
    }

    fn remove_directory(&self, at: &PosixDirectory, name: &[u8]) -> io::Result<()> {
        resolve::check_name(name)?;
        Ok(retry_on_intr(|| rustix::fs::unlinkat(&at.fd, name, AtFlags::REMOVEDIR))?)
    }

    fn xattrs(&self, object: Object<'_, Self>) -> io::Result<Vec<(Box<[u8]>, Box<[u8]>)>> {
        Ok(attributes::read_all(object)?)
    }

    fn set_xattr(&self, object: Object<'_, Self>, name: &[u8], value: &[u8]) -> io::Result<()> {
        Ok(attributes::set(object, name, value)?)
    }

    fn remove_xattr(&self, object: Object<'_, Self>, name: &[u8]) -> io::Result<()> {
        Ok(attributes::remove(object, name)?)
    }

    fn set_owner(&self, object: Object<'_, Self>, uid: u32, gid: u32) -> io::Result<()> {
        // To the system these mean "leave as it is".
        if uid == u32::MAX || gid == u32::MAX {
            return Err(Errno::INVAL.into());
        }
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        let chown_at = |fd: BorrowedFd<'_>, name: &[u8], flags| {
            retry_on_intr(|| rustix::fs::chownat(fd, name, uid, gid, flags))
        };
        Ok(match object {
            Object::File(file) => retry_on_intr(|| rustix::fs::fchown(&file.0, uid, gid)),
            Object::Directory(directory) => {
                chown_at(directory.fd.as_fd(), b"", AtFlags::EMPTY_PATH)
            }
            Object::Named(at, name) => {
                resolve::check_name(name)?;
                chown_at(at.fd.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)
            }
        }?)
    }

    /// A link gives EOPNOTSUPP.
    fn set_mode(&self, object: Object<'_, Self>, mode: u32) -> io::Result<()> {
        Ok(attributes::set_mode(object, Mode::from_raw_mode(mode & 0o7777))?)
    }

    /// A time the file system cannot hold is clamped by the system without an error.
    fn set_mtime(&self, object: Object<'_, Self>, mtime: Timestamp) -> io::Result<()> {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
            last_modification: Timespec {
                tv_sec: mtime.seconds,
                // Above 999,999,999 are the system's special values.
                tv_nsec: if mtime.nanos < 1_000_000_000 {
                    mtime.nanos.into()
                } else {
                    return Err(Errno::INVAL.into());
                },
            },
        };
        Ok(match object {
            Object::File(file) => retry_on_intr(|| rustix::fs::futimens(&file.0, &times)),
            Object::Directory(directory) if !directory.path_only => {
                retry_on_intr(|| rustix::fs::futimens(&directory.fd, &times))
            }
            Object::Directory(directory) => {
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                retry_on_intr(|| rustix::fs::utimensat(&directory.fd, ".", &times, flags))
            }
            Object::Named(at, name) => {
                resolve::check_name(name)?;
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                retry_on_intr(|| rustix::fs::utimensat(&at.fd, name, &times, flags))
            }
        }?)
    }

    fn sync_file(&self, file: &PosixFile) -> io::Result<()> {
        Ok(retry_on_intr(|| rustix::fs::fsync(&file.0))?)
    }

    fn sync_directory(&self, directory: &PosixDirectory) -> io::Result<()> {
        if directory.path_only {
            let fd = reopen(directory)?;
            return Ok(retry_on_intr(|| rustix::fs::fsync(&fd))?);
        }
        Ok(retry_on_intr(|| rustix::fs::fsync(&directory.fd))?)
    }

    fn sync_all(&self) -> io::Result<()> {
        let failures = self.sync_failures.load(Ordering::Acquire);
        let mut last_error = self.sync_error.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = *last_error
            && self.sync_failures.load(Ordering::Acquire) != failures
        {
            // Found by another caller while this one waited: it may be this one's writes.
            return Err(error.into());
        }
        let synced = retry_on_intr(|| rustix::fs::syncfs(&self.root.fd));
        if let Err(error) = synced {
            *last_error = Some(error);
            self.sync_failures.fetch_add(1, Ordering::AcqRel);
        }
        Ok(synced?)
    }

    fn file_system(&self) -> io::Result<u64> {
        let found = retry_on_intr(|| rustix::fs::fstatfs(&self.root.fd))?;
        Ok(found.f_type as u64)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let found = retry_on_intr(|| rustix::fs::fstatvfs(&self.root.fd))?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }
}

/// A thread that writes files back, until the tree is closed; none where none can be had.
fn start_writeback_thread() -> Option<SyncSender<OwnedFd>> {
    let (queue, files) = sync_channel::<OwnedFd>(0);
    let work = move || {
        for file in files {
            // What could not be written is reported by the sync that counts.
            let _reported_there = rustix::fs::fdatasync(&file);
        }
    };
    let started = std::thread::Builder::new().name("farshore-writeback".into()).spawn(work);
    started.is_ok().then_some(queue)
}

thread_local! {
    /// One buffer a thread: given back and taken again for every directory, its pages would be too.
    static LIST_BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Lists from the descriptor's position.
fn list(fd: &OwnedFd, visit: &mut dyn FnMut(Listed<'_>)) -> io::Result<()> {
    // Taken out, so that `visit` may list another directory.
    let mut buffer = LIST_BUFFER.take();
    buffer.reserve(LIST_BUFFER_LEN);
    let mut entries = RawDir::new(fd, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = match entry {
            Err(Errno::INTR) => continue,
            other => other?,
        };
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            let kind = kind(entry.file_type());
            visit(Listed { name, inode: entry.ino(), kind });
        }
    }
    LIST_BUFFER.set(buffer);
    Ok(())
}

/// A further descriptor of the directory, to read.
fn reopen(directory: &PosixDirectory) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    retry_on_intr(|| rustix::fs::openat(&directory.fd, ".", flags, Mode::empty()))
}

/// What was opened for data, if it is a regular file, and its facts.
pub(super) fn opened(fd: OwnedFd) -> io::Result<(PosixFile, Stat)> {
    let found = rustix::fs::fstat(&fd)?;
    require_regular(&found)?;
    Ok((PosixFile(fd), stat_from(&found)?))
}

/// What opening says of sockets, of devices without a driver, of directories to be written.
pub(super) fn no_file(e: Errno) -> Errno {
    match e {
        Errno::NXIO | Errno::NODEV | Errno::ISDIR => Errno::INVAL,
        other => other,
    }
}

fn require_regular(found: &rustix::fs::Stat) -> io::Result<()> {
    if FileType::from_raw_mode(found.st_mode) == FileType::RegularFile {
        Ok(())
    } else {
        Err(Errno::INVAL.into())
    }
}

fn kind(kind: FileType) -> Option<FileKind> {
    Some(match kind {
        FileType::RegularFile => FileKind::Regular,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        FileType::CharacterDevice => FileKind::CharDevice,
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::Unknown => return None,
    })
}

fn stat_from(found: &rustix::fs::Stat) -> io::Result<Stat> {
    let device = |number| DeviceNumber {
        major: rustix::fs::major(number),
        minor: rustix::fs::minor(number),
    };
    // A file system that reports more than a second of nanoseconds is broken; so is a size below 0.
    let time = |seconds, nanos| match u32::try_from(nanos) {
        Ok(nanos) if nanos < 1_000_000_000 => Ok(Timestamp { seconds, nanos }),
        _ => Err(Errno::IO),
    };
    Ok(Stat {
        kind: kind(FileType::from_raw_mode(found.st_mode)).ok_or(Errno::IO)?,
        mode: found.st_mode & 0o7777,
        uid: found.st_uid,
        gid: found.st_gid,
        size: u64::try_from(found.st_size).map_err(|_| Errno::IO)?,
        allocated: u64::try_from(found.st_blocks).map_err(|_| Errno::IO)?.saturating_mul(512),
        mtime: time(found.st_mtime, found.st_mtime_nsec)?,
        ctime: time(found.st_ctime, found.st_ctime_nsec)?,
        inode: found.st_ino,
        links: found.st_nlink,
        device: device(found.st_dev),
        number: device(found.st_rdev),
    })
}

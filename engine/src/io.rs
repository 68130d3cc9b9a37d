//! The contract between the engine and a file system.
//!
//! Guarantees every backend gives: no call resolves a path by name outside the root it was opened
//! with; symbolic links are never followed below it; directories and special files are never opened
//! for data; every metadata change goes through a handle. What survives a crash is said at
//! [`Storage::sync_file`], [`Storage::sync_directory`] and [`Storage::sync_all`], and nothing else
//! does. A sync that failed once is final: the caller throws away what it wrote and starts over.
//!
//! Backends: [`posix`], plain system calls; [`uring`], the same with many small files at a time by
//! io_uring; and [`sim`], a seeded disk in memory that loses what was not synced, tears writes and
//! fails calls on demand. `tests/storage_contract.rs` runs the same suite over all of them.

use std::io;
use std::ops::Range;

use farshore_core::entry::{DeviceNumber, NameAndValue, Timestamp};

pub mod batch;
pub mod posix;
pub mod sim;
pub mod uring;

use batch::{Finish, NewSmallFile, SmallContent, SmallFile, StepError};

/// What kind of object a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// Facts of one inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: FileKind,
    /// The low twelve bits of the mode.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Length in bytes.
    pub size: u64,
    /// Bytes allocated on disk.
    pub allocated: u64,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// Inode number.
    pub inode: u64,
    /// Names the inode has.
    pub links: u64,
    /// The device it is on.
    pub device: DeviceNumber,
    /// The device it is, for device nodes.
    pub number: DeviceNumber,
}

/// One name of a directory listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed<'a> {
    /// The name.
    pub name: &'a [u8],
    /// Inode number as the directory says.
    pub inode: u64,
    /// Kind where the directory says; `None` where only [`Storage::stat`] can tell.
    pub kind: Option<FileKind>,
}

/// What a metadata call acts on.
#[derive(Debug)]
pub enum Object<'a, S: Storage + ?Sized> {
    /// An open file.
    File(&'a S::File),
    /// An open directory.
    Directory(&'a S::Directory),
    /// A name in an open directory, never followed if it is a link.
    Named(&'a S::Directory, &'a [u8]),
}

impl<S: Storage + ?Sized> Clone for Object<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Storage + ?Sized> Copy for Object<'_, S> {}

/// A new node without content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewNode {
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
    /// A character device.
    CharDevice(DeviceNumber),
    /// A block device.
    BlockDevice(DeviceNumber),
}

/// A file system below one root. Errors are the system's own ([`io::Error::raw_os_error`] is set);
/// the caller adds object and step. Names are single components unless said otherwise.
pub trait Storage: Send + Sync + std::fmt::Debug + 'static {
    /// An open directory.
    type Directory: Send + Sync + std::fmt::Debug;
    /// An open regular file.
    type File: Send + Sync + std::fmt::Debug;

    /// The root's handle.
    fn root(&self) -> &Self::Directory;

    /// Opens the directory at `path`, components joined by `/`, below `at`; empty means `at` again.
    /// Paths beyond PATH_MAX are walked in pieces.
    ///
    /// # Errors
    /// ELOOP or ENOTDIR when a component is a link or no directory, EXDEV when one is a mount point
    /// or leads out of the root, ENOENT, EACCES.
    fn open_directory(&self, at: &Self::Directory, path: &[u8]) -> io::Result<Self::Directory>;

    /// Lists a directory in the file system's order, without `.` and `..`. Holds one system buffer,
    /// not the directory.
    ///
    /// # Errors
    /// The read's own; names already visited stay visited.
    fn list(
        &self,
        directory: &Self::Directory,
        visit: &mut dyn FnMut(Listed<'_>),
    ) -> io::Result<()>;

    /// As [`Self::list`], for a directory that no other thread lists by the same handle meanwhile:
    /// opening it again can be spared.
    ///
    /// # Errors
    /// As [`Self::list`].
    fn list_new(
        &self,
        directory: &Self::Directory,
        visit: &mut dyn FnMut(Listed<'_>),
    ) -> io::Result<()> {
        self.list(directory, visit)
    }

    /// Facts of an object; a link is not followed.
    ///
    /// # Errors
    /// ENOENT, EACCES, EIO.
    fn stat(&self, object: Object<'_, Self>) -> io::Result<Stat>;

    /// Opens a regular file to read. Does not change its access time where that is allowed.
    ///
    /// # Errors
    /// ELOOP for a link; EINVAL for what is no regular file (which is not opened for data).
    fn open_file(&self, at: &Self::Directory, name: &[u8]) -> io::Result<Self::File>;

    /// Creates a regular file to read and write, mode 0600.
    ///
    /// # Errors
    /// EEXIST when the name is taken, by whatever.
    fn create_file(&self, at: &Self::Directory, name: &[u8]) -> io::Result<Self::File>;

    /// The same with the permission bits of `mode`, as far as the system lets them be given at once:
    /// the process's mask and the directory's default ACL may take some away.
    ///
    /// # Errors
    /// As [`Self::create_file`].
    fn create_file_as(
        &self,
        at: &Self::Directory,
        name: &[u8],
        _mode: u32,
    ) -> io::Result<Self::File> {
        // A mode that cannot be given at once is given later, by handle.
        self.create_file(at, name)
    }

    /// Takes the lock of an open file, for as long as it is open; `false` when another process, or
    /// another open of the file, has it. Where the file system has no locks everybody gets it, as
    /// with this default, which is for a file system that only one process can see.
    ///
    /// # Errors
    /// The file system's own.
    fn try_lock(&self, file: &Self::File) -> io::Result<bool> {
        let _ = file;
        Ok(true)
    }

    /// Opens a regular file to read, and its facts.
    ///
    /// # Errors
    /// As [`Self::open_file`] and [`Self::stat`].
    fn open_file_and_stat(
        &self,
        at: &Self::Directory,
        name: &[u8],
    ) -> io::Result<(Self::File, Stat)> {
        let file = self.open_file(at, name)?;
        let stat = self.stat(Object::File(&file))?;
        Ok((file, stat))
    }

    /// How many small files it takes for one call to be worth collecting them; 1 where one by one is
    /// as good.
    fn batch_files(&self) -> usize {
        1
    }

    /// Reads small files: opens, looks, reads, lists the attributes, looks again and closes. Of a file
    /// longer than `size_max` nothing is read. Each has its own result, in the order of `files`.
    ///
    /// # Errors
    /// Of each file, as of [`Self::open_file_and_stat`], [`Self::read_at`] and [`Self::xattrs`].
    fn read_small_files(
        &self,
        files: &[SmallFile<'_, Self>],
        size_max: u64,
    ) -> Vec<Result<SmallContent, StepError>> {
        files.iter().map(|file| batch::read_one(self, file, size_max)).collect()
    }

    /// Makes small files: creates and writes each, gives its handle to `finish` and closes it. Each
    /// has its own result, in the order of `files`; `finish` hears of those that went well. What
    /// fails after it was created stays behind as it is.
    ///
    /// # Errors
    /// Of each file, as of [`Self::create_file_as`] and [`Self::write_at`].
    fn create_small_files(
        &self,
        files: &[NewSmallFile<'_, Self>],
        finish: Finish<'_, Self>,
    ) -> Vec<Result<(), StepError>> {
        let create = |(number, file)| batch::create_one(self, number, file, finish);
        files.iter().enumerate().map(create).collect()
    }

    /// Opens a regular file to read and write.
    ///
    /// # Errors
    /// As [`Self::open_file`].
    fn open_file_writable(&self, at: &Self::Directory, name: &[u8]) -> io::Result<Self::File>;

    /// Reads at `offset` until `buf` is full or the file ends; bytes read.
    ///
    /// # Errors
    /// The read's own.
    fn read_at(&self, file: &Self::File, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// The write's own; what part was written is unknown.
    fn write_at(&self, file: &Self::File, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Sets the length; a longer file ends in a hole.
    ///
    /// # Errors
    /// The call's own.
    fn set_len(&self, file: &Self::File, len: u64) -> io::Result<()>;

    /// Reserves space for `range` where the file system can; elsewhere does nothing.
    ///
    /// # Errors
    /// ENOSPC, EDQUOT, EIO.
    fn allocate(&self, file: &Self::File, range: Range<u64>) -> io::Result<()>;

    /// Starts writing back what was written to `range`, without waiting; no promise of durability.
    fn start_writeback(&self, file: &Self::File, range: Range<u64>);

    /// The first stretch of data at or after `offset`, or `None` when only a hole follows. Where the
    /// file system cannot tell, everything is data.
    ///
    /// # Errors
    /// The call's own.
    fn next_data(
        &self,
        file: &Self::File,
        offset: u64,
        size: u64,
    ) -> io::Result<Option<Range<u64>>>;

    /// Copies `len` bytes: shares blocks where the file system can, else copies inside the kernel,
    /// else reads and writes.
    ///
    /// # Errors
    /// The copy's own; UnexpectedEof when the source is shorter; EINVAL when the ranges overlap in
    /// one file.
    fn copy_range(
        &self,
        from: &Self::File,
        from_offset: u64,
        to: &Self::File,
        to_offset: u64,
        len: u64,
    ) -> io::Result<()>;

    /// Whether [`Self::copy_range`] shares whole blocks of 4 KiB instead of copying them. Found by
    /// trying in `scratch`, a directory nobody else works in, the first time; remembered.
    fn shares_blocks(&self, _scratch: &Self::Directory) -> bool {
        false
    }

    /// Makes a directory, mode 0700.
    ///
    /// # Errors
    /// EEXIST when the name is taken.
    fn make_directory(&self, at: &Self::Directory, name: &[u8]) -> io::Result<()>;

    /// Makes a symbolic link that says `target`.
    ///
    /// # Errors
    /// EEXIST when the name is taken.
    fn make_symlink(&self, at: &Self::Directory, name: &[u8], target: &[u8]) -> io::Result<()>;

    /// Makes a node without content, mode 0600.
    ///
    /// # Errors
    /// EEXIST when the name is taken, EPERM without the right.
    fn make_node(&self, at: &Self::Directory, name: &[u8], node: NewNode) -> io::Result<()>;

    /// What a symbolic link says.
    ///
    /// # Errors
    /// EINVAL when it is no link.
    fn read_link(&self, at: &Self::Directory, name: &[u8]) -> io::Result<Vec<u8>>;

    /// Gives an inode (not a directory, a link itself is not followed) a further name.
    ///
    /// # Errors
    /// EEXIST, EMLINK, EPERM, EXDEV.
    fn link(
        &self,
        from: &Self::Directory,
        from_name: &[u8],
        to: &Self::Directory,
        to_name: &[u8],
    ) -> io::Result<()>;

    /// Renames; what was at the new name is replaced, unless both names are one inode: then nothing
    /// happens and both stay.
    ///
    /// # Errors
    /// The call's own.
    fn rename(
        &self,
        from: &Self::Directory,
        from_name: &[u8],
        to: &Self::Directory,
        to_name: &[u8],
    ) -> io::Result<()>;

    /// Renames to where nothing is, at once, a directory as well; `false`, and nothing done, where the file system
    /// cannot.
    ///
    /// # Errors
    /// EEXIST when the new name is taken, by whatever; else the call's own.
    fn rename_new(
        &self,
        _from: &Self::Directory,
        _from_name: &[u8],
        _to: &Self::Directory,
        _to_name: &[u8],
    ) -> io::Result<bool> {
        Ok(false)
    }

    /// Whether it is worth asking for [`Self::exchange`].
    fn may_exchange(&self) -> bool {
        false
    }

    /// Lets two names change places, at once; `false`, and nothing done, where the file system cannot.
    ///
    /// # Errors
    /// The call's own: ENOENT when one of them is not there.
    fn exchange(
        &self,
        _one: &Self::Directory,
        _one_name: &[u8],
        _other: &Self::Directory,
        _other_name: &[u8],
    ) -> io::Result<bool> {
        Ok(false)
    }

    /// Removes a name that is no directory.
    ///
    /// # Errors
    /// The call's own.
    fn unlink(&self, at: &Self::Directory, name: &[u8]) -> io::Result<()>;

    /// Removes an empty directory.
    ///
    /// # Errors
    /// ENOTEMPTY.
    fn remove_directory(&self, at: &Self::Directory, name: &[u8]) -> io::Result<()>;

    /// All extended attributes, ACLs among them, in no order. Attributes the caller may not read
    /// (trusted.* without the right) are not listed by the system and so not here. A file system
    /// without attributes has none.
    ///
    /// # Errors
    /// The call's own, but for EOPNOTSUPP.
    fn xattrs(&self, object: Object<'_, Self>) -> io::Result<Vec<NameAndValue>>;

    /// Sets one attribute.
    ///
    /// # Errors
    /// EOPNOTSUPP, EPERM, ENOSPC, ERANGE.
    fn set_xattr(&self, object: Object<'_, Self>, name: &[u8], value: &[u8]) -> io::Result<()>;

    /// Removes one attribute.
    ///
    /// # Errors
    /// ENODATA when there is none of that name.
    fn remove_xattr(&self, object: Object<'_, Self>, name: &[u8]) -> io::Result<()>;

    /// Sets owner and group. Clears setuid and setgid of files, as the system does.
    ///
    /// # Errors
    /// EPERM without the right.
    fn set_owner(&self, object: Object<'_, Self>, uid: u32, gid: u32) -> io::Result<()>;

    /// Sets the twelve mode bits. Not for links.
    ///
    /// # Errors
    /// The call's own.
    fn set_mode(&self, object: Object<'_, Self>, mode: u32) -> io::Result<()>;

    /// Sets the modification time; leaves the access time.
    ///
    /// # Errors
    /// The call's own.
    fn set_mtime(&self, object: Object<'_, Self>, mtime: Timestamp) -> io::Result<()>;

    /// Makes a file's data and facts durable; not its name.
    ///
    /// # Errors
    /// EIO, ENOSPC; final for this file.
    fn sync_file(&self, file: &Self::File) -> io::Result<()>;

    /// Makes a directory's names durable; not what they name.
    ///
    /// # Errors
    /// EIO; final for what was done in it since the last sync.
    fn sync_directory(&self, directory: &Self::Directory) -> io::Result<()>;

    /// Makes everything done on the root's file system durable.
    ///
    /// # Errors
    /// EIO, ENOSPC, EDQUOT: some write since the last call failed, whichever.
    fn sync_all(&self) -> io::Result<()>;

    /// Magic number of the root's file system (statfs `f_type`).
    ///
    /// # Errors
    /// The call's own.
    fn file_system(&self) -> io::Result<u64>;

    /// Bytes free to this process on the root's file system.
    ///
    /// # Errors
    /// The call's own.
    fn free_bytes(&self) -> io::Result<u64>;
}

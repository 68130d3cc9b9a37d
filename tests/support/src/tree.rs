//! A tree under a handle of its root: paths relative to it, of any length.
//!
//! No path is handed to the kernel in one piece when it is long: it is walked in pieces below
//! PATH_MAX, at a cost of one open for each 3,000 bytes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, IFlags, Mode, OFlags, RenameFlags, Stat, Timespec,
    Timestamps, UTIME_OMIT, Uid, XattrFlags,
};

/// Bytes of path handed to the kernel at once.
const PIECE_LEN_MAX: usize = 3000;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// A point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// Nanoseconds within the second.
    pub nanos: u32,
}

/// What `lstat` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// What it is.
    pub kind: Kind,
    /// The low twelve bits of the mode.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes.
    pub size: u64,
    /// Modification time.
    pub mtime: Time,
    /// Names of the inode.
    pub nlink: u64,
    /// Device and inode number.
    pub inode: (u64, u64),
    /// Device number of a device.
    pub rdev: u64,
    /// Bytes allocated.
    pub allocated: u64,
}

/// A tree, by a handle of its root. `""` is the root itself.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
}

impl Tree {
    /// Opens `root`, following it if it is a symbolic link.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn open(root: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, root, flags, Mode::empty())?;
        Ok(Self { root })
    }

    pub(crate) fn of(root: OwnedFd) -> Self {
        Self { root }
    }

    /// A handle of the directory `rel`, for `*at` calls only.
    ///
    /// # Errors
    /// Those of `open`; `rel` is named.
    pub fn dir(&self, rel: &[u8]) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |at: &OwnedFd, piece: &[u8]| {
            rustix::fs::openat(at, piece, flags, Mode::empty()).map_err(|e| named(e, "open", rel))
        };
        if rel.is_empty() {
            return open(&self.root, b".");
        }
        let (mut at, mut rest) = (None, rel);
        loop {
            let cut = match rest.get(..PIECE_LEN_MAX) {
                Some(head) if rest.len() > PIECE_LEN_MAX => {
                    head.iter().rposition(|&b| b == b'/').unwrap_or(rest.len())
                }
                _ => rest.len(),
            };
            let next = open(at.as_ref().unwrap_or(&self.root), &rest[..cut])?;
            match rest.get(cut + 1..) {
                Some(more) => rest = more,
                None => return Ok(next),
            }
            at = Some(next);
        }
    }

    /// The directory `rel` stands in, and its name there; `.` for the root.
    ///
    /// # Errors
    /// Those of [`Self::dir`].
    pub fn parent<'a>(&self, rel: &'a [u8]) -> io::Result<(OwnedFd, &'a [u8])> {
        if rel.is_empty() {
            return Ok((self.dir(b"")?, b"."));
        }
        match rel.iter().rposition(|&b| b == b'/') {
            Some(at) => Ok((self.dir(&rel[..at])?, &rel[at + 1..])),
            None => Ok((self.dir(b"")?, rel)),
        }
    }

    /// The names in the directory `rel`, sorted.
    ///
    /// # Errors
    /// Those of `open` and `getdents`.
    pub fn list(&self, rel: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(self.dir(rel)?, ".", flags, Mode::empty())
            .map_err(|e| named(e, "list", rel))?;
        let mut names = Vec::new();
        for entry in Dir::new(dir)? {
            let entry = entry.map_err(|e| named(e, "list", rel))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        names.sort();
        Ok(names)
    }

    /// What `lstat` says of `rel`.
    ///
    /// # Errors
    /// Those of `fstatat`.
    pub fn facts(&self, rel: &[u8]) -> io::Result<Facts> {
        let (dir, name) = self.parent(rel)?;
        facts_at(&dir, name).map_err(|e| named_io(e, "stat", rel))
    }

    /// Every name below the root with its facts, a directory before what is in it; not the root.
    ///
    /// # Errors
    /// Those of listing; a directory that may not be read is not entered.
    pub fn walk(&self) -> io::Result<Vec<(Vec<u8>, Facts)>> {
        let mut found = Vec::new();
        let mut waiting = vec![Vec::new()];
        while let Some(parent) = waiting.pop() {
            let names = match self.list(&parent) {
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => continue,
                names => names?,
            };
            let dir = self.dir(&parent)?;
            for name in names {
                let facts = match facts_at(&dir, &name) {
                    Err(e) if e.kind() == io::ErrorKind::PermissionDenied => continue,
                    facts => facts?,
                };
                let rel = joined(&parent, &name);
                if facts.kind == Kind::Directory {
                    waiting.push(rel.clone());
                }
                found.push((rel, facts));
            }
        }
        Ok(found)
    }

    /// Opens the regular file `rel` without following or blocking.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn open_file(&self, rel: &[u8], flags: OFlags) -> io::Result<File> {
        let (dir, name) = self.parent(rel)?;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        rustix::fs::openat(&dir, name, flags, Mode::from_raw_mode(0o600))
            .map(File::from)
            .map_err(|e| named(e, "open", rel))
    }

    /// Makes a regular file with `content`; it must not be there.
    ///
    /// # Errors
    /// Those of `open` and `write`.
    pub fn create(&self, rel: &[u8], content: &[u8]) -> io::Result<File> {
        use std::io::Write as _;
        let mut file = self.open_file(rel, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)?;
        file.write_all(content)?;
        Ok(file)
    }

    /// Makes a directory of mode 0700.
    ///
    /// # Errors
    /// Those of `mkdir`.
    pub fn mkdir(&self, rel: &[u8]) -> io::Result<()> {
        let (dir, name) = self.parent(rel)?;
        rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o700))
            .map_err(|e| named(e, "mkdir", rel))
    }

    /// Makes a symbolic link to `target`.
    ///
    /// # Errors
    /// Those of `symlink`.
    pub fn symlink(&self, rel: &[u8], target: &[u8]) -> io::Result<()> {
        let (dir, name) = self.parent(rel)?;
        rustix::fs::symlinkat(target, &dir, name).map_err(|e| named(e, "symlink", rel))
    }

    /// What the symbolic link `rel` says.
    ///
    /// # Errors
    /// Those of `readlink`.
    pub fn read_link(&self, rel: &[u8]) -> io::Result<Vec<u8>> {
        let (dir, name) = self.parent(rel)?;
        let target = rustix::fs::readlinkat(&dir, name, Vec::with_capacity(4096));
        target.map(|t| t.into_bytes()).map_err(|e| named(e, "readlink", rel))
    }

    /// Makes a fifo, a socket's name or a device.
    ///
    /// # Errors
    /// Those of `mknod`; devices need root.
    pub fn mknod(&self, rel: &[u8], kind: Kind, rdev: u64) -> io::Result<()> {
        let (dir, name) = self.parent(rel)?;
        let file_type = match kind {
            Kind::Fifo => FileType::Fifo,
            Kind::Socket => FileType::Socket,
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            Kind::File | Kind::Directory | Kind::Symlink => {
                return Err(io::ErrorKind::InvalidInput.into());
            }
        };
        rustix::fs::mknodat(&dir, name, file_type, Mode::from_raw_mode(0o600), rdev)
            .map_err(|e| named(e, "mknod", rel))
    }

    /// Gives the inode of `from` the further name `to`.
    ///
    /// # Errors
    /// Those of `link`.
    pub fn link(&self, from: &[u8], to: &[u8]) -> io::Result<()> {
        let (from_dir, from_name) = self.parent(from)?;
        let (to_dir, to_name) = self.parent(to)?;
        rustix::fs::linkat(&from_dir, from_name, &to_dir, to_name, AtFlags::empty())
            .map_err(|e| named(e, "link", to))
    }

    /// Renames `from` to `to`.
    ///
    /// # Errors
    /// Those of `renameat2`.
    pub fn rename(&self, from: &[u8], to: &[u8], flags: RenameFlags) -> io::Result<()> {
        let (from_dir, from_name) = self.parent(from)?;
        let (to_dir, to_name) = self.parent(to)?;
        rustix::fs::renameat_with(&from_dir, from_name, &to_dir, to_name, flags)
            .map_err(|e| named(e, "rename", from))
    }

    /// Removes one name that is no directory.
    ///
    /// # Errors
    /// Those of `unlink`.
    pub fn unlink(&self, rel: &[u8]) -> io::Result<()> {
        let (dir, name) = self.parent(rel)?;
        rustix::fs::unlinkat(&dir, name, AtFlags::empty()).map_err(|e| named(e, "unlink", rel))
    }

    /// Sets the low twelve bits of the mode; not of a symbolic link.
    ///
    /// # Errors
    /// Those of `chmod`.
    pub fn chmod(&self, rel: &[u8], mode: u32) -> io::Result<()> {
        let (dir, name) = self.parent(rel)?;
        rustix::fs::chmodat(&dir, name, Mode::from_raw_mode(mode), AtFlags::empty())
            .map_err(|e| named(e, "chmod", rel))
    }

    /// Sets owner and group, of a symbolic link too.
    ///
    /// # Errors
    /// Those of `chown`.
    pub fn chown(&self, rel: &[u8], uid: u32, gid: u32) -> io::Result<()> {
        let (dir, name) = self.parent(rel)?;
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::chownat(&dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| named(e, "chown", rel))
    }

    /// Sets the modification time, of a symbolic link too.
    ///
    /// # Errors
    /// Those of `utimensat`.
    pub fn set_mtime(&self, rel: &[u8], mtime: Time) -> io::Result<()> {
        let (dir, name) = self.parent(rel)?;
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() },
        };
        rustix::fs::utimensat(&dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| named(e, "utimens", rel))
    }

    /// All extended attributes that may be seen, ACLs among them; none where there can be none.
    ///
    /// # Errors
    /// Those of `listxattr` and `getxattr`.
    pub fn xattrs(&self, rel: &[u8]) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let (dir, name) = self.parent(rel)?;
        let path = proc_path(&dir, name);
        let len = match rustix::fs::llistxattr_query(&path[..]) {
            Err(rustix::io::Errno::NOTSUP) => 0,
            len => len.map_err(|e| named(e, "listxattr", rel))?,
        };
        let mut found = BTreeMap::new();
        if len == 0 {
            return Ok(found);
        }
        let mut list = vec![0u8; len];
        let len = rustix::fs::llistxattr(&path[..], &mut list[..])
            .map_err(|e| named(e, "listxattr", rel))?;
        for key in list[..len].split(|&b| b == 0).filter(|key| !key.is_empty()) {
            let get = || -> rustix::io::Result<Vec<u8>> {
                let mut value = vec![0u8; rustix::fs::lgetxattr_query(&path[..], key)?];
                if !value.is_empty() {
                    let len = rustix::fs::lgetxattr(&path[..], key, &mut value[..])?;
                    value.truncate(len);
                }
                Ok(value)
            };
            found.insert(key.to_vec(), get().map_err(|e| named(e, "getxattr", rel))?);
        }
        Ok(found)
    }

    /// Sets one extended attribute, of a symbolic link too.
    ///
    /// # Errors
    /// Those of `setxattr`.
    pub fn set_xattr(&self, rel: &[u8], key: &[u8], value: &[u8]) -> io::Result<()> {
        let (dir, name) = self.parent(rel)?;
        rustix::fs::lsetxattr(&proc_path(&dir, name)[..], key, value, XattrFlags::empty())
            .map_err(|e| named(e, "setxattr", rel))
    }

    /// Removes one extended attribute.
    ///
    /// # Errors
    /// Those of `removexattr`.
    pub fn remove_xattr(&self, rel: &[u8], key: &[u8]) -> io::Result<()> {
        let (dir, name) = self.parent(rel)?;
        rustix::fs::lremovexattr(&proc_path(&dir, name)[..], key)
            .map_err(|e| named(e, "removexattr", rel))
    }

    /// Sets or clears the immutable flag of a file or directory.
    ///
    /// # Errors
    /// Those of the ioctl; needs root and a file system that has the flag.
    pub fn set_immutable(&self, rel: &[u8], on: bool) -> io::Result<()> {
        let file = self.open_file(rel, OFlags::RDONLY)?;
        let mut flags = rustix::fs::ioctl_getflags(&file)?;
        if !on && !flags.intersects(IFlags::IMMUTABLE | IFlags::APPEND) {
            return Ok(());
        }
        flags.set(IFlags::IMMUTABLE, on);
        flags.remove(IFlags::APPEND);
        Ok(rustix::fs::ioctl_setflags(&file, flags)?)
    }

    /// Removes `rel` and all below it, whatever the modes and however deep; `""` empties the root.
    ///
    /// # Errors
    /// The first that no change of mode or flag helps against.
    pub fn remove_all(&self, rel: &[u8]) -> io::Result<()> {
        if !rel.is_empty() && self.facts(rel)?.kind != Kind::Directory {
            return self.remove_name(rel, AtFlags::empty());
        }
        let mut waiting = vec![rel.to_vec()];
        while let Some(top) = waiting.last().cloned() {
            // Modes are repaired from the top down, so a parent is always passable here.
            if let Err(e) = self.chmod(&top, 0o700)
                && e.kind() == io::ErrorKind::PermissionDenied
            {
                self.set_immutable(&top, false)?;
                self.chmod(&top, 0o700)?;
            }
            let names = self.list(&top)?;
            let dir = self.dir(&top)?;
            let mut directories = Vec::new();
            for name in names {
                if rustix::fs::unlinkat(&dir, &name[..], AtFlags::empty()).is_err() {
                    let child = joined(&top, &name);
                    if facts_at(&dir, &name)?.kind == Kind::Directory {
                        directories.push(child);
                    } else {
                        self.remove_name(&child, AtFlags::empty())?;
                    }
                }
            }
            if directories.is_empty() {
                waiting.pop();
                if !top.is_empty() {
                    self.remove_name(&top, AtFlags::REMOVEDIR)?;
                }
            }
            waiting.append(&mut directories);
        }
        Ok(())
    }

    fn remove_name(&self, rel: &[u8], flags: AtFlags) -> io::Result<()> {
        let (dir, name) = self.parent(rel)?;
        match rustix::fs::unlinkat(&dir, name, flags) {
            Err(rustix::io::Errno::PERM) => {
                self.set_immutable(rel, false)?;
                rustix::fs::unlinkat(&dir, name, flags)
            }
            other => other,
        }
        .map_err(|e| named(e, "remove", rel))
    }
}

/// Removes `path` and all below it, however deep, whatever the modes; nothing there is no error.
///
/// # Errors
/// The first that no change of mode or flag helps against.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
        Ok(meta) if !meta.is_dir() => return std::fs::remove_file(path),
        Ok(_) => {}
    }
    Tree::open(path)?.remove_all(b"")?;
    std::fs::remove_dir(path)
}

/// `rel` for people: escaped; `.` for the root.
#[must_use]
pub fn shown(rel: &[u8]) -> String {
    if rel.is_empty() { ".".to_owned() } else { rel.escape_ascii().to_string() }
}

/// As [`shown`], the middle of a long path left out.
pub(crate) fn short(rel: &[u8]) -> String {
    const ENDS: usize = 120;
    match rel.len().checked_sub(ENDS) {
        Some(tail) if tail > ENDS => format!("{}...{}", shown(&rel[..ENDS]), shown(&rel[tail..])),
        _ => shown(rel),
    }
}

pub(crate) fn joined(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

pub(crate) fn parent_of(rel: &[u8]) -> &[u8] {
    rel.iter().rposition(|&b| b == b'/').map_or(&[], |at| &rel[..at])
}

pub(crate) fn facts_at(dir: impl AsFd, name: &[u8]) -> io::Result<Facts> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    facts_of(&stat)
}

fn facts_of(stat: &Stat) -> io::Result<Facts> {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        _ => return Err(io::ErrorKind::InvalidData.into()),
    };
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidData);
    Ok(Facts {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: u64::try_from(stat.st_size).map_err(invalid)?,
        mtime: Time {
            seconds: stat.st_mtime,
            nanos: u32::try_from(stat.st_mtime_nsec).map_err(invalid)?,
        },
        nlink: stat.st_nlink,
        inode: (stat.st_dev, stat.st_ino),
        rdev: stat.st_rdev,
        allocated: u64::try_from(stat.st_blocks).map_err(invalid)? * 512,
    })
}

/// A short path of `name` in `dir`, for calls that know no handles.
fn proc_path(dir: &OwnedFd, name: &[u8]) -> Vec<u8> {
    let mut path = String::new();
    let written = write!(path, "/proc/self/fd/{}/", dir.as_raw_fd());
    debug_assert!(written.is_ok(), "a String takes every number");
    [path.as_bytes(), name].concat()
}

pub(crate) fn named(errno: rustix::io::Errno, what: &str, rel: &[u8]) -> io::Error {
    named_io(errno.into(), what, rel)
}

/// The error with what was done to which name; its kind stays.
pub(crate) fn named_io(error: io::Error, what: &str, rel: &[u8]) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", short(rel)))
}

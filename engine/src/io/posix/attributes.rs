//! Extended attributes, and the mode of a name.
//!
//! The kernel sets these by descriptor of an open file or by path, not by directory and name, and
//! refuses descriptors that are open `O_PATH`, the only kind a pipe, a device or a link may get here.
//! So `/proc/self/fd` stands in, in two forms:
//!
//! - `/proc/self/fd/N`, N held open by us: jumps to the very inode of N, whatever its names are now.
//!   Even if that is a symbolic link, it is the link that is reached, never its target.
//! - `/proc/self/fd/N/NAME`, N a directory held open by us: jumps to that directory, then takes one
//!   component. Only with the calls that do not follow a link there (`lsetxattr`), which makes it
//!   what `setxattrat` with `AT_SYMLINK_NOFOLLOW` is in Linux 6.13.
//!
//! Nobody but root can place anything at `/proc`, and [`check_proc`] makes sure at the start that it
//! is the real one: else a missing `/proc` would read as "no such file".
//!
//! Left out of listings, since they belong to a site and not to the data: `security.selinux` (a
//! label of the local policy), `security.ima` and `security.evm` (sums over local facts), and
//! `trusted.SGI_ACL_FILE` and `trusted.SGI_ACL_DEFAULT` (how XFS stores the ACLs it also lists as such:
//! whoever takes one of these away takes the ACL).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, XattrFlags};
use rustix::io::{Errno, retry_on_intr};

use super::{PosixDirectory, PosixStorage, resolve};
use crate::io::Object;

/// What `/proc` says of itself to statfs.
const PROC_SUPER_MAGIC: u64 = 0x9fa0;

/// First guess at the length of a list or a value; fits nearly all.
const GUESS_LEN: usize = 512;

/// The most the system returns of either (XATTR_LIST_MAX, XATTR_SIZE_MAX), so that none can outgrow
/// it between two calls.
const LEN_MAX: usize = 64 * 1024;

/// Belong to the site.
const LOCAL: [&[u8]; 5] = [
    b"security.selinux",
    b"security.ima",
    b"security.evm",
    b"trusted.SGI_ACL_FILE",
    b"trusted.SGI_ACL_DEFAULT",
];

/// Names and values.
type Pairs = Vec<(Box<[u8]>, Box<[u8]>)>;

/// Refuses to work without the real `/proc`.
pub(super) fn check_proc() -> io::Result<()> {
    match retry_on_intr(|| rustix::fs::statfs("/proc/self/fd")) {
        Ok(found) if found.f_type as u64 == PROC_SUPER_MAGIC => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "/proc is not mounted")),
    }
}

/// Where an attribute call goes.
enum Target<'a> {
    Descriptor(BorrowedFd<'a>),
    /// Below a directory in `/proc/self/fd`, not following.
    Unfollowed(Vec<u8>),
    /// An inode in `/proc/self/fd`.
    Inode {
        _held: OwnedFd,
        path: Vec<u8>,
    },
}

impl<'a> Target<'a> {
    fn of(object: Object<'a, PosixStorage>) -> Result<Self, Errno> {
        Ok(match object {
            Object::File(file) => Self::Descriptor(file.0.as_fd()),
            Object::Directory(directory) if !directory.path_only => {
                Self::Descriptor(directory.fd.as_fd())
            }
            // Its own inode, not `.` in it: that takes the right to search it, which may lack.
            Object::Directory(directory) => {
                let held = rustix::io::fcntl_dupfd_cloexec(&directory.fd, 0)?;
                let path = proc_path(&held, b"");
                Self::Inode { _held: held, path }
            }
            Object::Named(at, name) => {
                resolve::check_name(name)?;
                Self::Unfollowed(proc_path(&at.fd, name))
            }
        })
    }

    /// The inode at a name, whichever it then is.
    fn inode(at: &PosixDirectory, name: &[u8]) -> Result<Self, Errno> {
        let fd = open_inode(at, name)?;
        let path = proc_path(&fd, b"");
        Ok(Self::Inode { _held: fd, path })
    }

    fn list(&self, buf: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Descriptor(fd) => rustix::fs::flistxattr(fd, buf),
            Self::Unfollowed(path) => rustix::fs::llistxattr(path.as_slice(), buf),
            Self::Inode { path, .. } => rustix::fs::listxattr(path.as_slice(), buf),
        }
    }

    fn get(&self, name: &[u8], buf: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Descriptor(fd) => rustix::fs::fgetxattr(fd, name, buf),
            Self::Unfollowed(path) => rustix::fs::lgetxattr(path.as_slice(), name, buf),
            Self::Inode { path, .. } => rustix::fs::getxattr(path.as_slice(), name, buf),
        }
    }
}

/// All attributes of an object.
pub(super) fn read_all(object: Object<'_, PosixStorage>) -> Result<Pairs, Errno> {
    let target = Target::of(object)?;
    let listed = |target: &Target<'_>| match read_grown(|buf| target.list(buf)) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(Vec::new()),
        other => other,
    };
    let names = listed(&target)?;
    if names.is_empty() {
        return Ok(Vec::new());
    }
    // List and values have to be of one inode. Most names have none, so that comes only now.
    match object {
        Object::Named(at, name) => {
            let target = Target::inode(at, name)?;
            let names = listed(&target)?;
            read_values(&target, &names)
        }
        Object::File(_) | Object::Directory(_) => read_values(&target, &names),
    }
}

fn read_values(target: &Target<'_>, names: &[u8]) -> Result<Pairs, Errno> {
    let mut pairs = Pairs::new();
    for name in names.split(|&b| b == 0).filter(|n| !n.is_empty() && !LOCAL.contains(n)) {
        match read_grown(|buf| target.get(name, buf)) {
            Ok(value) => pairs.push((name.into(), value.into())),
            // Removed since it was listed.
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(pairs)
}

/// Reads what a call says whose length is only known when it is called.
fn read_grown(mut call: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut guess = [0; GUESS_LEN];
    match retry_on_intr(|| call(&mut guess)) {
        Err(Errno::RANGE) => {}
        other => return Ok(guess[..other?].to_vec()),
    }
    let mut buf = vec![0; LEN_MAX];
    let len = retry_on_intr(|| call(&mut buf))?;
    Ok(buf[..len].to_vec())
}

/// Sets one attribute.
pub(super) fn set(
    object: Object<'_, PosixStorage>,
    name: &[u8],
    value: &[u8],
) -> Result<(), Errno> {
    let flags = XattrFlags::empty();
    let target = Target::of(object)?;
    retry_on_intr(|| match &target {
        Target::Descriptor(fd) => rustix::fs::fsetxattr(fd, name, value, flags),
        Target::Unfollowed(path) => rustix::fs::lsetxattr(path.as_slice(), name, value, flags),
        Target::Inode { path, .. } => rustix::fs::setxattr(path.as_slice(), name, value, flags),
    })
}

/// Removes one attribute.
pub(super) fn remove(object: Object<'_, PosixStorage>, name: &[u8]) -> Result<(), Errno> {
    let target = Target::of(object)?;
    retry_on_intr(|| match &target {
        Target::Descriptor(fd) => rustix::fs::fremovexattr(fd, name),
        Target::Unfollowed(path) => rustix::fs::lremovexattr(path.as_slice(), name),
        Target::Inode { path, .. } => rustix::fs::removexattr(path.as_slice(), name),
    })
}

/// Sets the mode. `chmod` of a name follows a link there, and `fchmodat2`, which does not, is not in
/// rustix: so a name is first held as an inode and seen to be no link.
pub(super) fn set_mode(object: Object<'_, PosixStorage>, mode: Mode) -> Result<(), Errno> {
    match object {
        Object::File(file) => retry_on_intr(|| rustix::fs::fchmod(&file.0, mode)),
        Object::Directory(directory) if !directory.path_only => {
            retry_on_intr(|| rustix::fs::fchmod(&directory.fd, mode))
        }
        Object::Directory(directory) => chmod_inode(&directory.fd, mode),
        Object::Named(at, name) => {
            resolve::check_name(name)?;
            let fd = open_inode(at, name)?;
            let kind = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
            if kind == FileType::Symlink {
                return Err(Errno::OPNOTSUPP);
            }
            chmod_inode(&fd, mode)
        }
    }
}

fn chmod_inode(fd: &OwnedFd, mode: Mode) -> Result<(), Errno> {
    let path = proc_path(fd, b"");
    retry_on_intr(|| rustix::fs::chmod(path.as_slice(), mode))
}

/// Holds what is at a name, without opening it for data and without following it.
fn open_inode(at: &PosixDirectory, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    retry_on_intr(|| rustix::fs::openat(&at.fd, name, flags, Mode::empty()))
}

/// `/proc/self/fd/N`, or with a name `/proc/self/fd/N/NAME`.
fn proc_path(fd: &OwnedFd, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}", fd.as_raw_fd()).into_bytes();
    if !name.is_empty() {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    path
}

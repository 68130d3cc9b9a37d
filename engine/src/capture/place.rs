//! A share's root, and where things are below it.
//!
//! Guarantees: nothing is followed: links, mounts and what lies above the root are refused. Where a
//! directory is, is asked of the kernel, which knows it also after a rename.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, retry_on_intr};

use crate::OWN_FOLDER;

/// A path of more bytes is opened in steps.
const STEP_MAX: usize = 4_000;
/// What `/proc` says of itself to statfs.
const PROC_SUPER_MAGIC: u64 = 0x9fa0;
/// Directories climbed to one whose path the kernel can tell.
const CLIMB_MAX: usize = 40_000;

/// The root, held open, and the path it was opened by.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    fd: OwnedFd,
    id: (u64, u64),
}

/// Where something is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Below the root; `deep` when it is somewhere below this directory, further than paths reach.
    Inside { path: Box<[u8]>, deep: bool },
    /// Not below the root, or Farshore's own.
    Outside,
    /// It is not there any more.
    Vanished,
}

impl Root {
    /// Opens the root.
    ///
    /// # Errors
    /// The file system's own.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = retry_on_intr(|| rustix::fs::openat(CWD, path, flags, Mode::empty()))?;
        let stat = rustix::fs::fstat(&fd)?;
        Ok(Self { path: path.to_path_buf(), fd, id: (stat.st_dev, stat.st_ino) })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Why the root's path does not lead to the root any more, if so.
    pub(super) fn gone(&self) -> Option<String> {
        match retry_on_intr(|| rustix::fs::stat(&self.path)) {
            Ok(stat) if (stat.st_dev, stat.st_ino) == self.id => None,
            Ok(stat) if stat.st_dev != self.id.0 => {
                Some("another file system is in its place".into())
            }
            Ok(_) => Some("another directory is in its place".into()),
            Err(e) => Some(io::Error::from(e).to_string()),
        }
    }

    /// Magic number of the file system.
    pub(super) fn file_system(&self) -> io::Result<u64> {
        #[allow(clippy::cast_sign_loss)] // a magic number
        Ok(retry_on_intr(|| rustix::fs::fstatfs(&self.fd))?.f_type as u64)
    }

    /// Opens the directory `path`, on the root's own mount, through no link.
    ///
    /// # Errors
    /// EXDEV for a mount on the way, ELOOP for a link, ENOTDIR; the file system's own.
    pub(super) fn open_directory(&self, path: &[u8]) -> io::Result<OwnedFd> {
        self.open_beneath(path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    fn open_beneath(&self, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        let open = |at: BorrowedFd<'_>, path: &[u8], flags: OFlags| {
            let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let path = if path.is_empty() { b"." } else { path };
            retry_on_intr(|| {
                rustix::fs::openat2(at, OsStr::from_bytes(path), flags, Mode::empty(), resolve)
            })
        };
        let (mut at, mut rest) = (None, path);
        while rest.len() > STEP_MAX {
            let end = rest[..STEP_MAX].iter().rposition(|&b| b == b'/');
            let end = end.ok_or(Errno::NAMETOOLONG)?;
            let from = at.as_ref().map_or(self.fd.as_fd(), AsFd::as_fd);
            at = Some(open(from, &rest[..end], OFlags::PATH | OFlags::DIRECTORY)?);
            rest = &rest[end + 1..];
        }
        let from = at.as_ref().map_or(self.fd.as_fd(), AsFd::as_fd);
        Ok(open(from, rest, flags)?)
    }

    /// Whether `path` is the object that `fd` has open.
    fn is_at(&self, path: &[u8], fd: BorrowedFd<'_>) -> bool {
        let found = self.open_beneath(path, OFlags::PATH).and_then(|at| Ok(rustix::fs::fstat(at)?));
        let meant = rustix::fs::fstat(fd);
        matches!((found, meant), (Ok(a), Ok(b)) if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
    }

    /// Where the directory `fd` is.
    ///
    /// # Errors
    /// The kernel's own.
    pub(super) fn place_of_directory(&self, fd: BorrowedFd<'_>) -> io::Result<Place> {
        let mut climbed: Option<OwnedFd> = None;
        for _ in 0..CLIMB_MAX {
            let at = climbed.as_ref().map_or(fd, AsFd::as_fd);
            match self.below(at) {
                Ok(Some(path)) if is_own(&path) => return Ok(Place::Outside),
                // The kernel says so of what has no name any more; a name may also end like that.
                Ok(Some(path)) if path.ends_with(b" (deleted)") && !self.is_at(&path, at) => {
                    return Ok(Place::Vanished);
                }
                Ok(Some(path)) => {
                    return Ok(Place::Inside { path: path.into(), deep: climbed.is_some() });
                }
                Ok(None) => return Ok(Place::Outside),
                Err(e) if e == Errno::NAMETOOLONG => {}
                Err(e) => return Err(e.into()),
            }
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            climbed = Some(retry_on_intr(|| rustix::fs::openat(at, c"..", flags, Mode::empty()))?);
        }
        Err(Errno::NAMETOOLONG.into())
    }

    /// The directory that the file `fd` is in, when that can be told: a file may be open without anybody
    /// having looked for its name.
    pub(super) fn parent_of_file(&self, fd: BorrowedFd<'_>) -> Option<Place> {
        let path = self.below(fd).ok()??;
        let is_there = self.is_at(&path, fd);
        let parent = path.iter().rposition(|&b| b == b'/').map_or(&[][..], |at| &path[..at]);
        match () {
            () if !is_there => None,
            () if is_own(&path) => Some(Place::Outside),
            () => Some(Place::Inside { path: parent.into(), deep: false }),
        }
    }

    /// The path of `fd` below the root; `None` when it is not below. The root may be renamed at any
    /// moment: its own path is asked for before and after.
    fn below(&self, fd: BorrowedFd<'_>) -> Result<Option<Vec<u8>>, Errno> {
        let mut base = link_of(self.fd.as_fd())?;
        loop {
            let path = link_of(fd)?;
            if let Some(below) = strip(&base, &path) {
                return Ok(Some(below.to_vec()));
            }
            let now = link_of(self.fd.as_fd())?;
            if now == base {
                return Ok(None);
            }
            base = now;
        }
    }
}

/// Whether `path` is Farshore's own folder or in it.
pub(super) fn is_own(path: &[u8]) -> bool {
    let first = path.split(|&b| b == b'/').next();
    first == Some(OWN_FOLDER)
}

/// The path of a descriptor as the kernel knows it now.
fn link_of(fd: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    let name = proc_path(fd);
    Ok(retry_on_intr(|| rustix::fs::readlink(&name, Vec::new()))?.into_bytes())
}

/// A path by which a call that knows no descriptors reaches one.
pub(super) fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Whether `/proc` is what it should be.
///
/// # Errors
/// It is not there, or something else is.
pub(super) fn check_proc() -> io::Result<()> {
    let found = retry_on_intr(|| rustix::fs::statfs("/proc/self/fd"))?;
    #[allow(clippy::cast_sign_loss)] // a magic number
    let magic = found.f_type as u64;
    if magic == PROC_SUPER_MAGIC { Ok(()) } else { Err(io::Error::other("/proc is not mounted")) }
}

fn strip<'a>(base: &[u8], path: &'a [u8]) -> Option<&'a [u8]> {
    let base = base.strip_suffix(b"/").unwrap_or(base);
    let rest = path.strip_prefix(base)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix(b"/") }
}

/// The kind of the file system, when hosts or servers change it of which this kernel sees nothing.
pub(super) fn remote_name(magic: u64) -> Option<&'static str> {
    Some(match magic {
        0x6969 => "NFS",
        0xff53_4d42 | 0xfe53_4d42 | 0x517b => "CIFS",
        0x6573_5546 => "FUSE",
        0x4750_4653 => "GPFS",
        0x00c3_6400 => "CephFS",
        0x0bd0_0bd0 => "Lustre",
        0x1983_0326 => "BeeGFS",
        0x7461_636f => "OCFS2",
        0x0116_1970 => "GFS2",
        0x5346_414f | 0x6b41_4653 => "AFS",
        0x7375_7245 => "Coda",
        0x0102_1997 => "9P",
        0xaad7_aaea => "PanFS",
        0x2003_0528 => "OrangeFS",
        0x786f_4256 => "vboxsf",
        0xbeef_dead => "StorNext",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_is_told_by_whole_components() {
        for (base, path, below) in [
            ("/a/b", "/a/b", Some("")),
            ("/a/b", "/a/b/c/d", Some("c/d")),
            ("/a/b", "/a/bc", None),
            ("/a/b", "/a", None),
            ("/", "/a/b", Some("a/b")),
            ("/", "/", Some("")),
        ] {
            let found = strip(base.as_bytes(), path.as_bytes());
            assert_eq!(found, below.map(str::as_bytes), "{path} below {base}");
        }
        assert!(is_own(b".farshore") && is_own(b".farshore/x"));
        assert!(!is_own(b".farshored") && !is_own(b"a/.farshore") && !is_own(b""));
    }

    #[test]
    fn directories_are_found_wherever_paths_reach() {
        let top = tempfile::tempdir().expect("a folder");
        let at = top.path().join("root");
        std::fs::create_dir_all(at.join("a/b (deleted)")).expect("made");
        std::fs::create_dir_all(top.path().join("rooted")).expect("made");
        let root = Root::open(&at).expect("opened");
        let place = |path: &Path| {
            let fd = std::fs::File::open(path).expect("opened");
            root.place_of_directory(fd.as_fd()).expect("placed")
        };
        let inside = |path: &str| Place::Inside { path: path.as_bytes().into(), deep: false };
        assert_eq!(place(&at), inside(""));
        assert_eq!(place(&at.join("a")), inside("a"));
        assert_eq!(place(&at.join("a/b (deleted)")), inside("a/b (deleted)"));
        assert_eq!(place(&top.path().join("rooted")), Place::Outside);
        let held = std::fs::File::open(at.join("a/b (deleted)")).expect("opened");
        std::fs::remove_dir(at.join("a/b (deleted)")).expect("removed");
        assert_eq!(root.place_of_directory(held.as_fd()).expect("placed"), Place::Vanished);
        // The root under another name.
        std::fs::rename(&at, top.path().join("moved")).expect("renamed");
        assert_eq!(place(&top.path().join("moved/a")), inside("a"));
        assert!(root.gone().is_some());
        std::fs::create_dir(&at).expect("made");
        assert_eq!(root.gone().as_deref(), Some("another directory is in its place"));
    }
}

//! From names to directories, without leaving the one they start at.
//!
//! The kernel does it where it has openat2: `BENEATH | NO_SYMLINKS | NO_MAGICLINKS | NO_XDEV` refuse
//! each way out while the path is being walked, so no rename can get between a check and its use.
//! Elsewhere (a kernel before 5.6, a container whose filter hides the call) the walk is ours:
//! component by component by `O_PATH | O_NOFOLLOW`, each descriptor then asked whether it is the root
//! of a mount. What is asked and what is used is one descriptor, so this holds against races too.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags};
use rustix::io::{Errno, retry_on_intr};

/// What openat2 refuses.
pub(in crate::io) const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// Longest path handed to the kernel at once: PATH_MAX is 4,096 with its NUL.
const PIECE_LEN_MAX: usize = 4_095;

/// Times openat2 is tried again on EAGAIN, which it gives when a rename or a mount elsewhere leaves
/// it unsure; documented for `..` only, which never gets there.
const AGAIN_MAX: usize = 64;

/// Whether openat2 works here.
pub(super) fn has_openat2(root: BorrowedFd<'_>) -> Result<bool, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match retry_on_intr(|| rustix::fs::openat2(root, ".", flags, Mode::empty(), RESOLVE)) {
        Ok(_) => Ok(true),
        Err(Errno::NOSYS | Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Refuses what is no name of one component.
pub(in crate::io) fn check_name(name: &[u8]) -> Result<(), Errno> {
    if matches!(name, b"" | b"." | b"..") || name.iter().any(|&b| b == b'/' || b == 0) {
        return Err(Errno::INVAL);
    }
    Ok(())
}

/// Opens the directory at `path`, not empty, below `at`; `access` is `RDONLY` or `PATH`.
pub(super) fn open_directory(
    has_openat2: bool,
    at: BorrowedFd<'_>,
    path: &[u8],
    access: OFlags,
) -> Result<OwnedFd, Errno> {
    for component in path.split(|&b| b == b'/') {
        match component {
            b".." => return Err(Errno::XDEV),
            b"" | b"." => return Err(Errno::INVAL),
            _ if component.contains(&0) => return Err(Errno::INVAL),
            _ => {}
        }
    }
    let mut rest = path;
    let mut held: Option<OwnedFd> = None;
    loop {
        let (piece, after) = split_piece(rest)?;
        let from = held.as_ref().map_or(at, AsFd::as_fd);
        let access = if after.is_empty() { access } else { OFlags::PATH };
        let flags = access | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = if has_openat2 {
            open_piece(from, piece, flags)?
        } else {
            walk_piece(from, piece, flags)?
        };
        if after.is_empty() {
            return Ok(opened);
        }
        rest = after;
        held = Some(opened);
    }
}

/// The longest run of whole components the kernel takes, and what follows it.
fn split_piece(path: &[u8]) -> Result<(&[u8], &[u8]), Errno> {
    if path.len() <= PIECE_LEN_MAX {
        return Ok((path, b""));
    }
    let cut = path[..=PIECE_LEN_MAX].iter().rposition(|&b| b == b'/').ok_or(Errno::NAMETOOLONG)?;
    Ok((&path[..cut], &path[cut + 1..]))
}

fn open_piece(at: BorrowedFd<'_>, piece: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    for _ in 0..AGAIN_MAX {
        match retry_on_intr(|| rustix::fs::openat2(at, piece, flags, Mode::empty(), RESOLVE)) {
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
    walk_piece(at, piece, flags)
}

fn walk_piece(at: BorrowedFd<'_>, piece: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut held: Option<OwnedFd> = None;
    for component in piece.split(|&b| b == b'/') {
        let from = held.as_ref().map_or(at, AsFd::as_fd);
        let opened = retry_on_intr(|| rustix::fs::openat(from, component, step, Mode::empty()))?;
        if is_mount_root(from, opened.as_fd())? {
            return Err(Errno::XDEV);
        }
        held = Some(opened);
    }
    let reached = held.ok_or(Errno::INVAL)?;
    if flags.contains(OFlags::PATH) {
        return Ok(reached);
    }
    retry_on_intr(|| rustix::fs::openat(&reached, ".", flags, Mode::empty()))
}

/// Whether `child` begins another mount than its parent's. Where the kernel cannot say (before 5.8),
/// another device number has to do, which takes a Btrfs subvolume for a mount.
fn is_mount_root(parent: BorrowedFd<'_>, child: BorrowedFd<'_>) -> Result<bool, Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    match retry_on_intr(|| rustix::fs::statx(child, "", flags, StatxFlags::empty())) {
        Ok(found) if found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) => {
            Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
        }
        Ok(_) | Err(Errno::NOSYS | Errno::PERM) => {
            Ok(rustix::fs::fstat(parent)?.st_dev != rustix::fs::fstat(child)?.st_dev)
        }
        Err(error) => Err(error),
    }
}

//! What a mount keeps, found by trying: what a file system says of itself depends on its options,
//! on the server behind it and on the rights of this process.

use std::io;

use farshore_core::entry::{DeviceNumber, Timestamp};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{PosixDirectory, PosixFile, PosixStorage};
use crate::io::{NewNode, Object, Storage};

/// What a mount keeps, for this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "a list of independent yes and no")]
pub struct MountFeatures {
    /// Modification times come back cut to multiples of this many nanoseconds; 1 on most Linux file
    /// systems, 1,000,000,000 on some network mounts, 2,000,000,000 on FAT.
    pub timestamp_grain_ns: u32,
    /// `user.*` attributes of files.
    pub user_xattrs: bool,
    /// `trusted.*` attributes, which take CAP_SYS_ADMIN.
    pub trusted_xattrs: bool,
    /// POSIX ACLs.
    pub acls: bool,
    /// `a` and `A` are two names.
    pub case_sensitive: bool,
    /// A name comes back with the bytes it was made with, valid UTF-8 or not, composed or not.
    pub names_verbatim: bool,
    /// Files without a name (`O_TMPFILE`).
    pub unnamed_files: bool,
    /// Two files can share blocks.
    pub reflinks: bool,
    /// Holes can be found by asking (`SEEK_HOLE`).
    pub holes: bool,
    /// An inode can have several names.
    pub hard_links: bool,
    /// Symbolic links.
    pub symlinks: bool,
    /// Named pipes.
    pub fifos: bool,
    /// Names of sockets.
    pub sockets: bool,
    /// Device nodes, which take CAP_MKNOD.
    pub devices: bool,
    /// Owners can be given, which takes CAP_CHOWN.
    pub owners: bool,
}

/// Names used inside the scratch directory. The second differs from the first in case alone.
const FILE: &[u8] = b"farshore-probe";
const FILE_UPPER: &[u8] = b"FARSHORE-PROBE";
const OTHER: &[u8] = b"farshore-probe-other";
/// Not UTF-8, and beginning with an `e` that some file systems would compose with its accent.
const ODD: &[u8] = b"farshore-probe-e\xcc\x81-\xff";

/// See [`PosixStorage::probe`].
pub(super) fn probe(storage: &PosixStorage, scratch: &PosixDirectory) -> io::Result<MountFeatures> {
    let file = storage.create_file(scratch, FILE)?;
    let found = probe_with(storage, scratch, &file);
    drop(file);
    let removed = storage.unlink(scratch, FILE);
    let found = found?;
    removed?;
    Ok(found)
}

fn probe_with(
    storage: &PosixStorage,
    scratch: &PosixDirectory,
    file: &PosixFile,
) -> io::Result<MountFeatures> {
    let this = Object::File(file);
    let made = |call: &dyn Fn() -> io::Result<()>| -> io::Result<bool> {
        if call().is_err() {
            return Ok(false);
        }
        storage.unlink(scratch, OTHER)?;
        Ok(true)
    };
    let node = |node| made(&|| storage.make_node(scratch, OTHER, node));
    let stored = |name: &[u8], value: &[u8]| {
        storage.set_xattr(this, name, value).is_ok()
            && storage.xattrs(this).is_ok_and(|all| {
                all.iter().any(|(n, v)| **n == *name && (**v == *value || name.starts_with(b"sys")))
            })
    };
    let null = DeviceNumber { major: 1, minor: 3 };
    let stat = storage.stat(this)?;
    Ok(MountFeatures {
        timestamp_grain_ns: timestamp_grain(storage, file)?,
        user_xattrs: stored(b"user.farshore-probe", b"\0value"),
        trusted_xattrs: stored(b"trusted.farshore-probe", b"\0value"),
        acls: stored(b"system.posix_acl_access", &extended_acl()),
        case_sensitive: storage.stat(Object::Named(scratch, FILE_UPPER)).is_err(),
        names_verbatim: keeps_odd_name(storage, scratch)?,
        unnamed_files: rustix::fs::openat(
            &scratch.fd,
            ".",
            OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC,
            Mode::RUSR | Mode::WUSR,
        )
        .is_ok(),
        holes: finds_holes(storage, file)?,
        reflinks: shares_blocks(storage, scratch, file)?,
        hard_links: made(&|| storage.link(scratch, FILE, scratch, OTHER))?,
        symlinks: made(&|| storage.make_symlink(scratch, OTHER, b"/nowhere/at all"))?,
        fifos: node(NewNode::Fifo)?,
        sockets: node(NewNode::Socket)?,
        devices: node(NewNode::CharDevice(null))?,
        owners: storage.set_owner(this, 1, 1).is_ok()
            && storage.stat(this).is_ok_and(|s| (s.uid, s.gid) == (1, 1))
            && storage.set_owner(this, stat.uid, stat.gid).is_ok(),
    })
}

/// The coarsest usual grain that explains what came back.
fn timestamp_grain(storage: &PosixStorage, file: &PosixFile) -> io::Result<u32> {
    let given = Timestamp { seconds: 1_000_000_001, nanos: 987_654_321 };
    storage.set_mtime(Object::File(file), given)?;
    let kept = storage.stat(Object::File(file))?.mtime;
    if kept.seconds != given.seconds {
        return Ok(2_000_000_000);
    }
    let grains = [1, 100, 1_000, 1_000_000, 10_000_000, 1_000_000_000];
    Ok(grains.into_iter().find(|&g| given.truncate(g) == kept).unwrap_or(1_000_000_000))
}

/// Version 2; owner rw, user 1 r, group none, mask r, others none.
fn extended_acl() -> Vec<u8> {
    const NO_ID: u32 = u32::MAX;
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in
        [(1_u16, 6_u16, NO_ID), (2, 4, 1), (4, 0, NO_ID), (16, 4, NO_ID), (32, 0, NO_ID)]
    {
        acl.extend_from_slice(&tag.to_le_bytes());
        acl.extend_from_slice(&rights.to_le_bytes());
        acl.extend_from_slice(&id.to_le_bytes());
    }
    acl
}

fn keeps_odd_name(storage: &PosixStorage, scratch: &PosixDirectory) -> io::Result<bool> {
    if storage.create_file(scratch, ODD).is_err() {
        return Ok(false);
    }
    let mut seen = false;
    let listed = storage.list(scratch, &mut |entry| seen |= entry.name == ODD);
    storage.unlink(scratch, ODD)?;
    listed?;
    Ok(seen)
}

fn finds_holes(storage: &PosixStorage, file: &PosixFile) -> io::Result<bool> {
    const LEN: u64 = 4 << 20;
    storage.write_at(file, LEN - 1, b"x")?;
    let first = storage.next_data(file, 0, LEN)?;
    storage.set_len(file, 0)?;
    Ok(first.is_some_and(|data| data.start > 0))
}

/// Whether two files can share blocks, tried in `scratch`.
pub(super) fn reflinks(storage: &PosixStorage, scratch: &PosixDirectory) -> io::Result<bool> {
    let file = storage.create_file(scratch, FILE)?;
    let found = shares_blocks(storage, scratch, &file);
    drop(file);
    storage.unlink(scratch, FILE)?;
    found
}

fn shares_blocks(
    storage: &PosixStorage,
    scratch: &PosixDirectory,
    file: &PosixFile,
) -> io::Result<bool> {
    storage.write_at(file, 0, &[1; 64 * 1024])?;
    let clone = storage.create_file(scratch, OTHER)?;
    let shared = match rustix::fs::ioctl_ficlone(&clone.0, &file.0) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::XDEV | Errno::INVAL | Errno::NOSYS) => {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    };
    drop(clone);
    storage.unlink(scratch, OTHER)?;
    shared
}

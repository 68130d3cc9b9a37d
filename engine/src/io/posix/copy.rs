//! Copies between files without passing through a buffer of ours where possible.
//!
//! `copy_file_range` shares blocks where the file system can (XFS, Btrfs, bcachefs: the part of the
//! range that is whole blocks), has an NFS or SMB server copy by itself, and elsewhere copies inside
//! the kernel. That is all `FICLONERANGE` would give, which rustix has only as an unsafe ioctl.

use std::io;
use std::sync::atomic::Ordering;

use rustix::io::{Errno, retry_on_intr};

use super::{PosixFile, PosixStorage};
use crate::io::Storage;

/// Bytes moved at once when they do pass through a buffer.
const BUFFER_LEN: usize = 256 * 1024;

/// Bytes asked of the kernel at once, a whole number of blocks: it takes no more than 2 GiB.
const KERNEL_LEN_MAX: usize = 1 << 30;

/// Copies `len` bytes from one place to another.
pub(super) fn copy_range(
    storage: &PosixStorage,
    (from, mut from_offset): (&PosixFile, u64),
    (to, mut to_offset): (&PosixFile, u64),
    mut len: u64,
) -> io::Result<()> {
    while len > 0 && storage.copy_in_kernel.load(Ordering::Relaxed) {
        let mut ask = usize::try_from(len).unwrap_or(KERNEL_LEN_MAX).min(KERNEL_LEN_MAX);
        // Blocks that are shared are neither read nor written.
        if storage.shares_blocks.get() != Some(&true) {
            ask = storage.budget.piece(ask);
            storage.budget.spend(ask);
        }
        let copied = retry_on_intr(|| {
            let (mut from_at, mut to_at) = (from_offset, to_offset);
            rustix::fs::copy_file_range(&from.0, Some(&mut from_at), &to.0, Some(&mut to_at), ask)
        });
        match copied {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(copied) => {
                let copied = copied as u64;
                from_offset += copied;
                to_offset += copied;
                len = len.saturating_sub(copied);
            }
            // Of the kernel or the file system: never again.
            Err(Errno::NOSYS | Errno::OPNOTSUPP) => {
                storage.copy_in_kernel.store(false, Ordering::Relaxed);
            }
            // Of these two files, or of a container's filter.
            Err(Errno::XDEV | Errno::INVAL | Errno::PERM) => break,
            Err(error) => return Err(error.into()),
        }
    }
    copy_by_buffer(storage, (from, from_offset), (to, to_offset), len)
}

fn copy_by_buffer(
    storage: &PosixStorage,
    (from, from_offset): (&PosixFile, u64),
    (to, to_offset): (&PosixFile, u64),
    len: u64,
) -> io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    if from_offset.abs_diff(to_offset) < len {
        let (from, to) = (rustix::fs::fstat(&from.0)?, rustix::fs::fstat(&to.0)?);
        if (from.st_dev, from.st_ino) == (to.st_dev, to.st_ino) {
            return Err(Errno::INVAL.into());
        }
    }
    let mut buffer = vec![0; usize::try_from(len).unwrap_or(BUFFER_LEN).min(BUFFER_LEN)];
    let mut done = 0;
    while done < len {
        let want = usize::try_from(len - done).unwrap_or(BUFFER_LEN).min(buffer.len());
        let read = storage.read_at(from, from_offset + done, &mut buffer[..want])?;
        storage.write_at(to, to_offset + done, &buffer[..read])?;
        done += read as u64;
        if read < want {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

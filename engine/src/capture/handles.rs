//! The system calls of fanotify and of file handles, which no crate of ours has as safe ones.
//!
//! Guarantees: descriptors are owned; a handle of any bytes is refused by the kernel or opens what it
//! names. The only `unsafe` of the capture is here and in `map.rs`.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_uint};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Longest handle (MAX_HANDLE_SZ).
const HANDLE_MAX: usize = 128;

/// A file handle as the kernel takes it (`struct file_handle`, with room).
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Handle {
    len: c_uint,
    kind: c_int,
    bytes: [u8; HANDLE_MAX],
}

// The kernel reads a head of two integers and the bytes right behind it.
const _: () = assert!(size_of::<Handle>() == 8 + HANDLE_MAX);

impl Handle {
    /// Of `kind`, with these bytes; `None` when there are more than a handle may have.
    pub(super) fn new(kind: i32, bytes: &[u8]) -> Option<Self> {
        let mut handle =
            Self { len: u32::try_from(bytes.len()).ok()?, kind, bytes: [0; HANDLE_MAX] };
        handle.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(handle)
    }

    /// The handle of the directory `at` itself.
    ///
    /// # Errors
    /// EOPNOTSUPP where the file system has none.
    pub(super) fn of(at: BorrowedFd<'_>) -> io::Result<Self> {
        #[allow(clippy::cast_possible_truncation)] // 128
        let mut handle = Self { len: HANDLE_MAX as c_uint, kind: 0, bytes: [0; HANDLE_MAX] };
        let mut mount = 0;
        // SAFETY: `handle` has the layout of `struct file_handle` followed by as many bytes as `len` says,
        // of which the kernel writes no more; `mount` is an integer it writes; the path is an empty string
        // that ends with NUL; all of them outlive the call.
        let done = unsafe {
            libc::name_to_handle_at(
                at.as_raw_fd(),
                c"".as_ptr(),
                (&raw mut handle).cast(),
                &raw mut mount,
                libc::AT_EMPTY_PATH,
            )
        };
        if done == 0 { Ok(handle) } else { Err(io::Error::last_os_error()) }
    }

    /// Its kind and bytes.
    pub(super) fn parts(&self) -> (i32, &[u8]) {
        let len = usize::try_from(self.len).unwrap_or(HANDLE_MAX);
        (self.kind, &self.bytes[..len.min(HANDLE_MAX)])
    }

    /// Opens what the handle names on the file system of `mount`, for its place and facts alone; with
    /// `directory` nothing but a directory.
    ///
    /// # Errors
    /// ESTALE when it is gone; ENOTDIR; the file system's own.
    pub(super) fn open(&self, mount: BorrowedFd<'_>, directory: bool) -> io::Result<OwnedFd> {
        let kind = if directory { libc::O_DIRECTORY } else { 0 };
        let flags = libc::O_PATH | libc::O_CLOEXEC | libc::O_NOFOLLOW | kind;
        let mut handle = *self;
        // SAFETY: `handle` has the layout of `struct file_handle` followed by at least as many bytes as
        // `len` says (checked by `new`, kept by the kernel in `of`), and outlives the call.
        let opened =
            unsafe { libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut handle).cast(), flags) };
        owned(opened)
    }
}

/// A queue of events.
///
/// # Errors
/// EPERM without the right to, EINVAL for flags the kernel does not know.
pub(super) fn fanotify_init(flags: c_uint) -> io::Result<OwnedFd> {
    let event_flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_LARGEFILE;
    // SAFETY: two integers go in and a descriptor or -1 comes out.
    owned(unsafe { libc::fanotify_init(flags, event_flags.cast_unsigned()) })
}

/// Events of `mask` of the whole file system that `root` is on come into `queue` from now on.
///
/// # Errors
/// What the kernel says of a file system it cannot tell handles of.
pub(super) fn fanotify_mark_filesystem(
    queue: BorrowedFd<'_>,
    mask: u64,
    root: BorrowedFd<'_>,
) -> io::Result<()> {
    let flags = libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM;
    // SAFETY: the path may be null: the descriptor itself is meant then. Nothing else is pointed to.
    let done = unsafe {
        libc::fanotify_mark(queue.as_raw_fd(), flags, mask, root.as_raw_fd(), std::ptr::null())
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn owned(fd: c_int) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel made this descriptor for the call before, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

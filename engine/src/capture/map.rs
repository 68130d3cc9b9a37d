//! Memory that is shared with the processes after this one, and reads of the kernel's into it.
//!
//! Guarantees: the memory is of a sealed size, so that no access is a fault; words of its head are read and
//! written whole; bytes behind it are lent to nobody while the kernel writes them, since [`Buffer`] is one and
//! its reads borrow it mutably. The only `unsafe` of the capture beside `handles.rs` is here.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use rustix::fs::{MemfdFlags, SealFlags};

/// Bytes before the buffer, a page.
const HEAD_LEN: usize = 4_096;
/// Bytes read at once.
pub(super) const BUFFER_LEN: usize = 256 << 10;
const LEN: usize = HEAD_LEN + BUFFER_LEN;
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

/// The whole of it.
#[derive(Debug)]
struct Map {
    at: NonNull<u8>,
    file: OwnedFd,
    /// The kernel finds every page of it in its place, whatever else happens.
    locked: bool,
}

// SAFETY: the pointer is of a mapping that lives as long as the value; the head is accessed by atomic words
// alone, the rest by the one `Buffer` there is.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and nobody has it any more.
        unsafe { libc::munmap(self.at.as_ptr().cast(), LEN) };
    }
}

/// The words before the buffer.
#[derive(Debug, Clone)]
pub(super) struct Head(Arc<Map>);

/// The bytes behind them. There is one of each memory in a process.
#[derive(Debug)]
pub(super) struct Buffer(Arc<Map>);

/// New memory, all zero.
///
/// # Errors
/// The kernel's own.
pub(super) fn create() -> io::Result<(Head, Buffer)> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create("farshore-capture", flags)?;
    rustix::fs::ftruncate(&file, LEN as u64)?;
    rustix::fs::fcntl_add_seals(&file, SEALS)?;
    map(file)
}

/// Memory that was made by [`create`], in this process or another.
///
/// # Errors
/// It is not such memory; the kernel's own.
pub(super) fn open(file: OwnedFd) -> io::Result<(Head, Buffer)> {
    let has_seals = rustix::fs::fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(SEALS));
    let len = rustix::fs::fstat(&file)?.st_size;
    if !has_seals || usize::try_from(len) != Ok(LEN) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    map(file)
}

fn map(file: OwnedFd) -> io::Result<(Head, Buffer)> {
    // SAFETY: a new mapping at an address of the kernel's choice; its length is that of the file, which cannot
    // shrink any more.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            LEN,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_POPULATE,
            file.as_raw_fd(),
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let at = NonNull::new(at.cast::<u8>()).ok_or(io::ErrorKind::InvalidData)?;
    // SAFETY: the range is the mapping's.
    let locked = unsafe { libc::mlock(at.as_ptr().cast(), LEN) } == 0;
    let map = Arc::new(Map { at, file, locked });
    Ok((Head(Arc::clone(&map)), Buffer(map)))
}

impl Head {
    fn word(&self, n: usize) -> &AtomicU64 {
        assert!(n < HEAD_LEN / size_of::<u64>(), "a word of the head");
        // SAFETY: within the mapping, aligned to 8 as every page is, and accessed as an atomic alone.
        unsafe { AtomicU64::from_ptr(self.0.at.as_ptr().cast::<u64>().add(n)) }
    }

    pub(super) fn get(&self, n: usize) -> u64 {
        self.word(n).load(SeqCst)
    }

    pub(super) fn set(&self, n: usize, value: u64) {
        self.word(n).store(value, SeqCst);
    }

    pub(super) fn is_locked(&self) -> bool {
        self.0.locked
    }

    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.0.file.as_fd()
    }
}

impl Buffer {
    /// All of it.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: within the mapping, initialised by the kernel; written through `&mut self` alone.
        unsafe { std::slice::from_raw_parts(self.0.at.as_ptr().add(HEAD_LEN), BUFFER_LEN) }
    }

    /// Makes the first `len` bytes zero.
    pub(super) fn clear(&mut self, len: usize) {
        // SAFETY: within the mapping, and borrowed by nobody else.
        unsafe {
            self.0.at.as_ptr().add(HEAD_LEN).write_bytes(0, len.min(BUFFER_LEN));
        }
    }

    /// Has the kernel write what it has of `queue`; the bytes it wrote.
    ///
    /// # Errors
    /// The kernel's own.
    pub(super) fn read(&mut self, queue: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: the range is the mapping's, and borrowed by nobody else during the call.
        let read = unsafe {
            let into = self.0.at.as_ptr().add(HEAD_LEN).cast();
            libc::read(queue.as_raw_fd(), into, BUFFER_LEN)
        };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }
}

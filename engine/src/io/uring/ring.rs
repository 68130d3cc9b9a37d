//! One ring of one thread: groups of requests that are handed over together and all awaited.
//!
//! Guarantees: when a call returns, or unwinds, nothing of it is under way in the kernel any more, so
//! that what it borrowed may be used again; each request has its own result; descriptors that were
//! opened are owned. A ring that failed as a whole answers ECANCELED from then on and hands nothing
//! over again. The only `unsafe` of the engine but for the handles of its capture is here.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::time::Duration;

use io_uring::squeue::Entry;
use io_uring::types::{Fd, OpenHow};
use io_uring::{IoUring, Probe, opcode};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Requests under way at once.
const ENTRIES: u32 = 256;

/// Threads of the kernel that block for a ring: what cannot be done at once waits in one of them. The
/// kernel's own bound is four a processor, which hides too little of the way to a server.
const BLOCKED_MAX: u32 = 32;

/// Times a kernel short of memory is asked again, a millisecond apart, before the ring is given up.
const BUSY_MAX: u32 = 1_000;

/// A name to open.
#[derive(Debug)]
pub(super) struct Open<'a> {
    pub(super) at: BorrowedFd<'a>,
    pub(super) name: &'a CStr,
    pub(super) flags: OFlags,
    pub(super) mode: Mode,
    pub(super) resolve: ResolveFlags,
}

/// Bytes to read.
#[derive(Debug)]
pub(super) struct Read<'a> {
    pub(super) file: BorrowedFd<'a>,
    pub(super) into: &'a mut [u8],
}

/// Bytes to write.
#[derive(Debug)]
pub(super) struct Write<'a> {
    pub(super) file: BorrowedFd<'a>,
    pub(super) bytes: &'a [u8],
}

/// See the module.
pub(super) struct Ring {
    ring: IoUring,
    /// Failed as a whole: what was queued last may still be in the queue, and must stay there.
    broken: bool,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("broken", &self.broken).finish_non_exhaustive()
    }
}

/// Result of a request: what the kernel says, or [`NEVER`].
type Raw = i32;
const NEVER: Raw = -(Errno::CANCELED.raw_os_error());

impl Ring {
    /// Sets up a ring for this thread.
    ///
    /// # Errors
    /// The system's own where it refuses (EPERM by a filter or by `kernel.io_uring_disabled`, ENOSYS,
    /// ENOMEM by RLIMIT_MEMLOCK); EOPNOTSUPP where the kernel has no request of a kind needed.
    pub(super) fn new() -> io::Result<Self> {
        // The short ways are of Linux 6.0; they spare interrupting this thread for a completion.
        let ring =
            IoUring::builder().setup_coop_taskrun().setup_single_issuer().build(ENTRIES).or_else(
                |e| match e.raw_os_error() {
                    Some(code) if code == Errno::INVAL.raw_os_error() => IoUring::new(ENTRIES),
                    _ => Err(e),
                },
            )?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed =
            [opcode::OpenAt2::CODE, opcode::Read::CODE, opcode::Write::CODE, opcode::Close::CODE];
        if !needed.into_iter().all(|code| probe.is_supported(code)) {
            return Err(Errno::OPNOTSUPP.into());
        }
        // Before Linux 5.15 the kernel's own bound stays.
        drop(ring.submitter().register_iowq_max_workers(&mut [BLOCKED_MAX, 0]));
        Ok(Self { ring, broken: false })
    }

    /// Opens names.
    pub(super) fn open(&mut self, items: &[Open<'_>]) -> Vec<Result<OwnedFd, Errno>> {
        let hows: Vec<OpenHow> = items
            .iter()
            .map(|item| {
                OpenHow::new()
                    .flags(item.flags.bits().into())
                    .mode(item.mode.bits().into())
                    .resolve(item.resolve.bits())
            })
            .collect();
        let entry = |(item, how): (&Open<'_>, &OpenHow)| {
            opcode::OpenAt2::new(Fd(item.at.as_raw_fd()), item.name.as_ptr(), how).build()
        };
        let entries: Vec<Entry> = items.iter().zip(&hows).map(entry).collect();
        // SAFETY: the entries point to the names in `items` and to `hows`, both alive until after the
        // call.
        let raw = unsafe { self.perform(&entries) };
        drop(hows);
        let owned = |fd| {
            // SAFETY: the kernel just made this descriptor for this request, and nobody else knows it.
            unsafe { OwnedFd::from_raw_fd(fd) }
        };
        raw.into_iter().map(|raw| errno(raw).map(|_| owned(raw))).collect()
    }

    /// Reads from the beginning of files; bytes read, as many as there are at once.
    pub(super) fn read(&mut self, items: &mut [Read<'_>]) -> Vec<Result<usize, Errno>> {
        let entry = |item: &mut Read<'_>| {
            let len = u32::try_from(item.into.len()).unwrap_or(u32::MAX);
            let into = item.into.as_mut_ptr();
            opcode::Read::new(Fd(item.file.as_raw_fd()), into, len).offset(0).build()
        };
        let entries: Vec<Entry> = items.iter_mut().map(entry).collect();
        // SAFETY: the entries point to the buffers in `items`, which are borrowed alone until after the
        // call and are not looked at before it returns.
        let raw = unsafe { self.perform(&entries) };
        raw.into_iter().map(errno).collect()
    }

    /// Writes to the beginning of files; bytes written, as many as went at once.
    pub(super) fn write(&mut self, items: &[Write<'_>]) -> Vec<Result<usize, Errno>> {
        let entry = |item: &Write<'_>| {
            let len = u32::try_from(item.bytes.len()).unwrap_or(u32::MAX);
            let from = item.bytes.as_ptr();
            opcode::Write::new(Fd(item.file.as_raw_fd()), from, len).offset(0).build()
        };
        let entries: Vec<Entry> = items.iter().map(entry).collect();
        // SAFETY: the entries point to the bytes in `items`, borrowed until after the call.
        let raw = unsafe { self.perform(&entries) };
        raw.into_iter().map(errno).collect()
    }

    /// Closes files. What closing says is nobody's concern, as with any dropped descriptor.
    pub(super) fn close(&mut self, files: Vec<OwnedFd>) {
        let entry = |file: &OwnedFd| opcode::Close::new(Fd(file.as_raw_fd())).build();
        let entries: Vec<Entry> = files.iter().map(entry).collect();
        // SAFETY: these entries point to nothing.
        let raw = unsafe { self.perform(&entries) };
        for (file, raw) in files.into_iter().zip(raw) {
            // Only what never got to be closed still is ours to close.
            let never = [NEVER, -(Errno::INTR.raw_os_error()), -(Errno::AGAIN.raw_os_error())];
            if !never.contains(&raw) {
                let _closed: i32 = file.into_raw_fd();
            }
        }
    }

    /// Hands over the entries and waits for all of them; their results in the same order.
    ///
    /// # Safety
    /// What the entries point to must be valid, and not be used otherwise, until the call is over,
    /// however it ends.
    unsafe fn perform(&mut self, entries: &[Entry]) -> Vec<Raw> {
        let mut results = vec![NEVER; entries.len()];
        for (entries, results) in
            entries.chunks(ENTRIES as usize).zip(results.chunks_mut(ENTRIES as usize))
        {
            if self.broken {
                break;
            }
            let mut flight = Flight { ring: self, results, under_way: 0 };
            // SAFETY: as promised by the caller; the flight ends before this function does.
            unsafe { flight.begin(entries) };
            flight.end();
        }
        results
    }
}

/// Requests that were queued and not all answered. Dropping it waits for them.
struct Flight<'r> {
    ring: &'r mut Ring,
    results: &'r mut [Raw],
    /// Queued and not answered.
    under_way: usize,
}

impl Flight<'_> {
    /// Queues the entries; [`Self::end`] hands them over.
    ///
    /// # Safety
    /// What they point to must be valid until this is dropped.
    unsafe fn begin(&mut self, entries: &[Entry]) {
        let mut queue = self.ring.ring.submission();
        for (number, entry) in entries.iter().enumerate() {
            // SAFETY: as promised by the caller.
            if unsafe { queue.push(&entry.clone().user_data(number as u64)) }.is_err() {
                break; // no room, which there is for a chunk; the rest keeps [`NEVER`]
            }
            self.under_way += 1;
        }
    }

    /// Waits until every request is answered, or was never handed over and never will be.
    fn end(&mut self) {
        let mut busy = 0;
        while self.under_way > 0 && !self.ring.broken {
            match self.ring.ring.submit_and_wait(self.under_way) {
                Ok(_) => busy = 0,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if is_busy(&e) && busy < BUSY_MAX => {
                    busy += 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(_) => self.ring.broken = true,
            }
            self.reap();
        }
        // Broken: what the kernel has not taken from the queue it never will. What it has taken comes
        // to an end without being waited for: completions are posted whenever this thread enters the
        // kernel, as it does to sleep.
        while self.under_way > self.ring.ring.submission().len() {
            std::thread::sleep(Duration::from_millis(1));
            self.reap();
        }
        self.under_way = 0;
    }

    fn reap(&mut self) {
        for completion in self.ring.ring.completion() {
            let number = usize::try_from(completion.user_data()).unwrap_or(usize::MAX);
            if let Some(result) = self.results.get_mut(number) {
                *result = completion.result();
                self.under_way = self.under_way.saturating_sub(1);
            }
        }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        if self.under_way > 0 {
            self.end();
        }
    }
}

fn is_busy(e: &io::Error) -> bool {
    [Errno::AGAIN, Errno::BUSY].iter().any(|b| Some(b.raw_os_error()) == e.raw_os_error())
}

fn errno(raw: Raw) -> Result<usize, Errno> {
    usize::try_from(raw).map_err(|_| Errno::from_raw_os_error(raw.wrapping_neg()))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::fd::AsFd;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::mpsc::channel;

    use super::*;

    /// A ring, unless this kernel refuses.
    fn ring() -> Option<Ring> {
        Ring::new().ok()
    }

    fn pipe() -> (io::PipeReader, io::PipeWriter) {
        io::pipe().expect("a pipe")
    }

    #[test]
    fn a_call_ends_when_the_last_request_does() {
        let Some(mut ring) = ring() else { return };
        let (reader, mut writer) = pipe();
        let (late, mut late_writer) = pipe();
        writer.write_all(b"early").expect("written");
        let (begin, begun) = channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                begun.recv().expect("begun");
                late_writer.write_all(b"late").expect("written");
            });
            let (mut a, mut b) = ([0; 8], [0; 8]);
            begin.send(()).expect("sent");
            let read = ring.read(&mut [
                Read { file: late.as_fd(), into: &mut a },
                Read { file: reader.as_fd(), into: &mut b },
            ]);
            assert_eq!(read, [Ok(4), Ok(5)], "results are in the order of the requests");
            assert_eq!((&a[..4], &b[..5]), (&b"late"[..], &b"early"[..]));
        });
    }

    /// What was queued is waited for even when the thread unwinds: the buffer is written to before it
    /// is given back, never after.
    #[test]
    fn unwinding_waits_for_what_is_under_way() {
        let Some(mut ring) = ring() else { return };
        let (reader, mut writer) = pipe();
        let mut buf = [0_u8; 8];
        let (begin, begun) = channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                begun.recv().expect("begun");
                writer.write_all(b"written").expect("written");
            });
            let entry =
                opcode::Read::new(Fd(reader.as_raw_fd()), buf.as_mut_ptr(), 8).offset(u64::MAX);
            let unwound = catch_unwind(AssertUnwindSafe(|| {
                let mut results = [NEVER];
                let mut flight = Flight { ring: &mut ring, results: &mut results, under_way: 0 };
                // SAFETY: the buffer outlives the flight, which is what is tested.
                unsafe { flight.begin(&[entry.build()]) };
                flight.ring.ring.submit().expect("handed over");
                begin.send(()).expect("sent");
                panic!("on purpose");
            }));
            assert!(unwound.is_err());
            assert_eq!(&buf[..7], b"written", "the request was left under way");
        });
    }

    /// Of a ring that failed nothing that was queued is handed over later.
    #[test]
    fn a_broken_ring_hands_over_nothing() {
        let Some(mut ring) = ring() else { return };
        let file = tempfile::tempfile().expect("a file");
        let bytes = *b"must not be written";
        {
            let mut results = [NEVER];
            let mut flight = Flight { ring: &mut ring, results: &mut results, under_way: 0 };
            let entry = opcode::Write::new(Fd(file.as_raw_fd()), bytes.as_ptr(), 19);
            // SAFETY: the bytes outlive the ring.
            unsafe { flight.begin(&[entry.build()]) };
            flight.ring.broken = true;
        }
        let wrote = ring.write(&[Write { file: file.as_fd(), bytes: b"nor this" }]);
        assert_eq!(wrote, [Err(Errno::CANCELED)]);
        assert_eq!(file.metadata().expect("facts").len(), 0);
        // Closing falls back to the plain way.
        let (reader, writer) = pipe();
        ring.close(vec![writer.into()]);
        let mut rest = Vec::new();
        io::Read::read_to_end(&mut { reader }, &mut rest).expect("the other end is closed");
    }

    #[test]
    fn more_than_a_ring_holds() {
        let Some(mut ring) = ring() else { return };
        let file = tempfile::tempfile().expect("a file");
        (&file).write_all(b"x").expect("written");
        let mut bufs = vec![[0_u8; 2]; 3 * ENTRIES as usize + 1];
        let mut items: Vec<_> =
            bufs.iter_mut().map(|b| Read { file: file.as_fd(), into: b }).collect();
        assert!(ring.read(&mut items).into_iter().all(|r| r == Ok(1)));
        assert!(bufs.iter().all(|b| b == b"x\0"));
        assert!(ring.read(&mut []).is_empty());
    }
}

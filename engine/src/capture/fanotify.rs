//! Events of a whole file system by fanotify: each names a directory by its handle, and a child.
//!
//! A handle is put into a path when the event is read, not when it happened. That is right under any
//! rename: a directory that moved before was asked for its new place; one that moves later has an event
//! of its own, which marks all of its new place. By the same reason places may be remembered until a
//! directory moves. What cannot be put into a path because it is gone was reported by the event of its
//! parent, that came after.
//!
//! A queue that was kept from the process before is read on, what that had read last first ([`super::ledger`]):
//! late is as good as soon, by the same reason.
//!
//! Refuses: file systems whose handles cannot be opened, see [`Fanotify::open`]. A change whose place
//! cannot be told (through a handle, as NFS servers make them, of a file nobody looked for by name) marks
//! everything.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};

use super::handles::{self, Handle};
use super::keeper::Disbelief;
use super::ledger::Ledger;
use super::map::{BUFFER_LEN, Buffer};
use super::place::{Place, Root, check_proc, is_own};
use super::watcher::Batch;

/// Places remembered; beyond, all are forgotten.
const PLACES_MAX: usize = 16_384;
/// Bytes of an event before its records, and of each as FIONREAD counts them.
const METADATA_LEN: usize = 24;
/// What the kernel calls this layout.
const METADATA_VERSION: u8 = 3;

const MOVES: u64 = libc::FAN_MOVED_FROM | libc::FAN_MOVED_TO;
const MASK: u64 = libc::FAN_CREATE
    | libc::FAN_DELETE
    | MOVES
    | libc::FAN_ATTRIB
    | libc::FAN_MODIFY
    | libc::FAN_CLOSE_WRITE
    | libc::FAN_ONDIR;

const FLAGS: u32 =
    libc::FAN_CLASS_NOTIF | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK | libc::FAN_REPORT_DFID_NAME;

/// See the module.
#[derive(Debug)]
pub(super) struct Fanotify {
    queue: OwnedFd,
    /// None while it is read from.
    buffer: Option<Space>,
    /// By kind and bytes of the handle.
    places: HashMap<Box<[u8]>, Place>,
    /// Handles put into paths, for the report.
    pub(super) resolved: u64,
}

/// Where events are read to.
#[derive(Debug)]
enum Space {
    Own(Vec<u8>),
    /// Memory that outlives the process, and how much of it is not zero.
    Kept(Ledger, Buffer, usize),
}

impl Space {
    fn read(&mut self, queue: BorrowedFd<'_>) -> io::Result<usize> {
        match self {
            Self::Own(bytes) => Ok(retry_on_intr(|| rustix::io::read(queue, &mut bytes[..]))?),
            Self::Kept(ledger, buffer, dirty) => {
                buffer.clear(std::mem::take(dirty));
                ledger.begins_read();
                let read = loop {
                    match buffer.read(queue) {
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        read => break read,
                    }
                };
                match &read {
                    Ok(len @ 1..) => *dirty = *len,
                    Err(e) if e.kind() != io::ErrorKind::WouldBlock => {}
                    _ => ledger.ends_read(),
                }
                read
            }
        }
    }

    fn bytes(&self, len: usize) -> &[u8] {
        match self {
            Self::Own(bytes) => &bytes[..len],
            Self::Kept(_, buffer, _) => &buffer.bytes()[..len],
        }
    }
}

/// One event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Event<'a> {
    mask: u64,
    /// Kind and bytes of the directory's handle, and the child's name.
    record: Option<(&'a [u8], &'a [u8])>,
}

impl Fanotify {
    /// Begins to watch the file system of `root`.
    ///
    /// # Errors
    /// The step the kernel refused, as text.
    pub(super) fn open(root: &Root, unlimited_queue: bool) -> io::Result<Self> {
        let at = |step: &str, e: io::Error| io::Error::new(e.kind(), format!("{step}: {e}"));
        check_proc()?;
        let queue = match handles::fanotify_init(FLAGS | libc::FAN_UNLIMITED_QUEUE) {
            Ok(queue) if unlimited_queue => Ok(queue),
            _ => handles::fanotify_init(FLAGS),
        };
        let queue = queue.map_err(|e| at("fanotify_init", e))?;
        handles::fanotify_mark_filesystem(queue.as_fd(), MASK, root.fd())
            .map_err(|e| at("fanotify_mark", e))?;
        // Some file systems name things in events that they cannot find again.
        let handle = Handle::of(root.fd()).map_err(|e| at("name_to_handle_at", e))?;
        let found = handle.open(root.fd(), true).map_err(|e| at("open_by_handle_at", e))?;
        match root.place_of_directory(found.as_fd()).map_err(|e| at("place of the root", e))? {
            Place::Inside { path, deep: false } if path.is_empty() => {}
            _ => return Err(io::Error::other("the root is not found by its handle")),
        }
        Ok(Self::of(queue, Space::Own(vec![0; BUFFER_LEN])))
    }

    fn of(queue: OwnedFd, into: Space) -> Self {
        Self { queue, buffer: Some(into), places: HashMap::new(), resolved: 0 }
    }

    /// Has events read into memory that outlives the process, from now on.
    pub(super) fn read_into(&mut self, ledger: Ledger, buffer: Buffer) {
        self.buffer = Some(Space::Kept(ledger, buffer, BUFFER_LEN));
    }

    /// Goes on with a queue that was kept, if it still tells of all of the file system that `root` is on: a mark
    /// vanishes when its file system is unmounted. To be followed by [`Self::replay`].
    pub(super) fn resume(
        queue: OwnedFd,
        root: &Root,
        (ledger, buffer): (Ledger, Buffer),
    ) -> Result<Self, Disbelief> {
        let shown = format!("/proc/self/fdinfo/{}", queue.as_raw_fd());
        let shown = std::fs::read_to_string(shown).map_err(|_| Disbelief::Unknown)?;
        let device = rustix::fs::fstat(root.fd()).map_err(|_| Disbelief::OtherRoot)?.st_dev;
        is_marked(&shown, (rustix::fs::major(device), rustix::fs::minor(device)))?;
        Ok(Self::of(queue, Space::Kept(ledger, buffer, BUFFER_LEN)))
    }

    /// What the process before had read, and maybe not journaled.
    pub(super) fn replay(&mut self, root: &Root, batch: &mut Batch) {
        let Some(into) = self.buffer.take() else { return };
        if let Space::Kept(ledger, buffer, _) = &into
            && ledger.is_reading()
        {
            self.take_events(root, filled(buffer.bytes()), batch);
        }
        self.buffer = Some(into);
    }

    /// Whether what is read outlives the process.
    pub(super) fn is_kept(&self) -> bool {
        matches!(self.buffer, Some(Space::Kept(..)))
    }

    /// What was read last is in the journal.
    pub(super) fn journaled(&self) {
        if let Some(Space::Kept(ledger, ..)) = &self.buffer {
            ledger.ends_read();
        }
    }

    pub(super) fn queue(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }

    /// Reads what is queued by now, and puts what that marks into `batch`. `false` when nothing was.
    ///
    /// # Errors
    /// The queue cannot be read.
    pub(super) fn read(&mut self, root: &Root, batch: &mut Batch) -> io::Result<bool> {
        let Some(mut into) = self.buffer.take() else { return Ok(false) };
        let read = into.read(self.queue.as_fd());
        let read = match read {
            Ok(len) => {
                self.take_events(root, into.bytes(len), batch);
                Ok(len > 0)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(e) => Err(e),
        };
        self.buffer = Some(into);
        read
    }

    /// Events queued.
    pub(super) fn queued(&self) -> io::Result<u64> {
        Ok(rustix::io::ioctl_fionread(&self.queue)? / METADATA_LEN as u64)
    }

    fn take_events(&mut self, root: &Root, mut bytes: &[u8], batch: &mut Batch) {
        while !bytes.is_empty() {
            let Some((event, rest)) = parse(bytes) else {
                batch.whole("an event of the kernel could not be read");
                return;
            };
            bytes = rest;
            batch.events += 1;
            self.take_event(root, event, batch);
        }
    }

    fn take_event(&mut self, root: &Root, event: Event<'_>, batch: &mut Batch) {
        if event.mask & libc::FAN_Q_OVERFLOW != 0 {
            batch.overflows += 1;
            batch.whole("more changed than the kernel's queue of events holds");
            self.places.clear();
            return;
        }
        let is_directory = event.mask & libc::FAN_ONDIR != 0;
        if is_directory && event.mask & MOVES != 0 {
            self.places.clear();
        }
        let Some((handle, name)) = event.record else {
            batch.whole("a change without a place");
            return;
        };
        match self.place(root, handle, batch) {
            Some(Place::Inside { path, deep: true }) => batch.mark(path, true),
            Some(Place::Inside { path, deep: false }) => {
                if path.is_empty() && is_own(name) {
                    return;
                }
                batch.mark(path, false);
                // Others may have put something there already, or it came with what is in it.
                if is_directory && event.mask & (libc::FAN_CREATE | libc::FAN_MOVED_TO) != 0 {
                    batch.mark_child(path, name);
                }
            }
            Some(Place::Outside) => {}
            Some(Place::Vanished) | None => batch.vanished += 1,
        }
    }

    /// Where the directory of a handle is; `None` when that cannot be told and everything is marked.
    fn place(&mut self, root: &Root, key: &[u8], batch: &mut Batch) -> Option<&Place> {
        // Asked twice, since a place that is found cannot be given back out of a condition.
        if self.places.contains_key(key) {
            return self.places.get(key);
        }
        self.resolved += 1;
        match resolve(root, key) {
            Ok(place) => {
                if self.places.len() >= PLACES_MAX {
                    self.places.clear();
                }
                Some(self.places.entry(key.into()).insert_entry(place).into_mut())
            }
            Err(e) => {
                batch.whole(&format!("the place of a change could not be told: {e}"));
                None
            }
        }
    }
}

fn resolve(root: &Root, key: &[u8]) -> io::Result<Place> {
    let refused = || io::Error::other("a handle that is none");
    let (kind, bytes) = key.split_first_chunk::<4>().ok_or_else(refused)?;
    let handle = Handle::new(i32::from_ne_bytes(*kind), bytes).ok_or_else(refused)?;
    let code = |e: &io::Error| e.raw_os_error().map(Errno::from_raw_os_error);
    let is_gone = |e: &io::Error| matches!(code(e), Some(Errno::STALE | Errno::NOENT));
    match handle.open(root.fd(), true) {
        Ok(fd) => root.place_of_directory(fd.as_fd()),
        Err(e) if is_gone(&e) => Ok(Place::Vanished),
        Err(e) if code(&e) == Some(Errno::NOTDIR) => match handle.open(root.fd(), false) {
            Ok(fd) => root
                .parent_of_file(fd.as_fd())
                .ok_or_else(|| io::Error::other("a file was reached by its handle, not by name")),
            Err(e) if is_gone(&e) => Ok(Place::Vanished),
            Err(e) => Err(e),
        },
        Err(e) => Err(e),
    }
}

/// Whether a queue that the kernel describes as `shown` is one of ours, and tells of the file system of `device`.
fn is_marked(shown: &str, device: (u32, u32)) -> Result<(), Disbelief> {
    let of = |line: &str, name: &str| {
        let word = line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix(':'));
        word.and_then(|word| u64::from_str_radix(word, 16).ok())
    };
    let mut lines = shown.lines().filter_map(|line| line.strip_prefix("fanotify "));
    let flags = lines.next().and_then(|line| of(line, "flags"));
    if flags.is_none_or(|flags| flags & u64::from(FLAGS) != u64::from(FLAGS)) {
        return Err(Disbelief::Unknown);
    }
    // The kernel's own form of a device number.
    let device = u64::from(device.0) << 20 | u64::from(device.1);
    let is_it = |line: &str| {
        of(line, "sdev") == Some(device)
            && of(line, "mask").is_some_and(|mask| mask & MASK == MASK)
            && of(line, "ignored_mask") == Some(0)
    };
    if lines.any(is_it) { Ok(()) } else { Err(Disbelief::Unmarked) }
}

/// The bytes before the first event of no length: no event is there, and none behind it.
fn filled(bytes: &[u8]) -> &[u8] {
    let mut end = 0;
    while let Some(len @ 1..) = u32_at(bytes, end).and_then(|len| usize::try_from(len).ok()) {
        end = (end + len).min(bytes.len());
    }
    &bytes[..end]
}

/// The event at the front, and what follows it.
fn parse(bytes: &[u8]) -> Option<(Event<'_>, &[u8])> {
    let len = usize::try_from(u32_at(bytes, 0)?).ok()?;
    let head = usize::from(u16::from_ne_bytes(*bytes.get(6..8)?.first_chunk()?));
    if *bytes.get(4)? != METADATA_VERSION || head < METADATA_LEN || len < head {
        return None;
    }
    let (event, rest) = bytes.split_at_checked(len)?;
    let mask = u64::from_ne_bytes(*event.get(8..16)?.first_chunk()?);
    let mut records = &event[head..];
    let mut record = None;
    while !records.is_empty() {
        let len = usize::from(u16::from_ne_bytes(*records.get(2..4)?.first_chunk()?));
        let kind = *records.first()?;
        let (body, after) = records.split_at_checked(len)?;
        if kind == libc::FAN_EVENT_INFO_TYPE_DFID_NAME || kind == libc::FAN_EVENT_INFO_TYPE_DFID {
            record = Some(parse_record(body)?);
        }
        // A record of no length would never end.
        records = if len >= 4 { after } else { return None };
    }
    Some((Event { mask, record }, rest))
}

/// Kind and bytes of the handle, and the name: `.` for the directory itself.
fn parse_record(body: &[u8]) -> Option<(&[u8], &[u8])> {
    // Type, padding, length, identity of the file system: 12 bytes. Then length, kind, bytes, name.
    let len = usize::try_from(u32_at(body, 12)?).ok()?;
    let end = 20usize.checked_add(len)?;
    let handle = body.get(16..end)?;
    let name = body.get(end..)?.split(|&b| b == 0).next().unwrap_or_default();
    Some((handle, if name.is_empty() { b"." } else { name }))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(mask: u64, handle: &[u8], name: &[u8]) -> Vec<u8> {
        let mut record = vec![libc::FAN_EVENT_INFO_TYPE_DFID_NAME, 0, 0, 0];
        record.extend([7; 8]);
        record.extend(u32::try_from(handle.len()).expect("short").to_ne_bytes());
        record.extend(129i32.to_ne_bytes());
        record.extend(handle);
        record.extend(name);
        record.extend(vec![0; 4 - record.len() % 4]);
        let len = u16::try_from(record.len()).expect("short");
        record[2..4].copy_from_slice(&len.to_ne_bytes());
        let mut event = (24 + u32::from(len)).to_ne_bytes().to_vec();
        event.extend([METADATA_VERSION, 0, 24, 0]);
        event.extend(mask.to_ne_bytes());
        event.extend((-1i32).to_ne_bytes());
        event.extend(0u32.to_ne_bytes());
        event.extend(record);
        event
    }

    #[test]
    fn events_are_read_as_the_kernel_writes_them_and_cut_ones_are_refused() {
        let one = event(libc::FAN_CREATE, b"handle_bytes", b"na\xffme");
        let mut both = one.clone();
        both.extend(event(libc::FAN_ATTRIB | libc::FAN_ONDIR, b"h", b"."));
        let (first, rest) = parse(&both).expect("an event");
        assert_eq!(first.mask, libc::FAN_CREATE);
        let (handle, name) = first.record.expect("a record");
        assert_eq!((&handle[..4], &handle[4..]), (&129i32.to_ne_bytes()[..], &b"handle_bytes"[..]));
        assert_eq!(name, b"na\xffme");
        let (second, rest) = parse(rest).expect("an event");
        assert_eq!((second.record.map(|(_, name)| name), rest.len()), (Some(&b"."[..]), 0));
        for cut in 0..one.len() {
            assert_eq!(parse(&one[..cut]), None, "cut to {cut}");
        }
    }

    #[test]
    fn a_queue_is_ours_and_marked_or_not_believed() {
        let mask = MASK | 0x4000_0000;
        let flags = format!("{FLAGS:x}");
        let shown = |flags: &str, device: &str, mask: u64| {
            format!(
                "pos:\t0\nflags:\t02004002\nfanotify flags:{flags} event-flags:88000\n\
                 fanotify sdev:{device} mflags:0 mask:{mask:x} ignored_mask:0\n"
            )
        };
        let at = (0xfe, 0x1b);
        assert_eq!(is_marked(&shown(&flags, "fe0001b", mask), at), Ok(()));
        assert_eq!(is_marked(&shown(&flags, "1b", mask), at), Err(Disbelief::Unmarked));
        assert_eq!(is_marked(&shown(&flags, "fe0001b", mask & !2), at), Err(Disbelief::Unmarked));
        assert_eq!(is_marked(&shown("3", "fe0001b", mask), at), Err(Disbelief::Unknown));
        assert_eq!(is_marked("pos:\t0\nflags:\t02\n", at), Err(Disbelief::Unknown));
        let unmarked = format!("fanotify flags:{flags} event-flags:88000\n");
        assert_eq!(is_marked(&unmarked, at), Err(Disbelief::Unmarked));
    }

    #[test]
    fn what_is_filled_ends_at_the_first_event_of_no_length() {
        let one = event(libc::FAN_CREATE, b"handle", b"name");
        let mut both = [one.clone(), one.clone()].concat();
        both.extend([0; 100]);
        assert_eq!(filled(&both).len(), 2 * one.len());
        assert_eq!(filled(&[0; 100]).len(), 0);
        // One that was cut is told, and not taken for the end.
        assert_eq!(filled(&both[..one.len() + 30]).len(), one.len() + 30);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_events_or_refused(bytes: Vec<u8>, at in 0usize..80, with: u8) {
            assert!(parse(&bytes).is_none_or(|(_, rest)| rest.len() < bytes.len()));
            let mut damaged = event(libc::FAN_CREATE, b"handle", b"name");
            if let Some(byte) = damaged.get_mut(at) {
                *byte ^= with;
            }
            assert!(parse(&damaged).is_none_or(|(_, rest)| rest.len() < damaged.len()));
        }
    }
}

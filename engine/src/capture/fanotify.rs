//! Events of a whole file system by fanotify: each names a directory by its handle, and a child.
//!
//! A handle is put into a path when the event is read, not when it happened. That is right under any
//! rename: a directory that moved before was asked for its new place; one that moves later has an event
//! of its own, which marks all of its new place. By the same reason places may be remembered until a
//! directory moves. What cannot be put into a path because it is gone was reported by the event of its
//! parent, that came after.
//!
//! Refuses: file systems whose handles cannot be opened, see [`Fanotify::open`]. A change whose place
//! cannot be told (through a handle, as NFS servers make them, of a file nobody looked for by name) marks
//! everything.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};

use super::handles::{self, Handle};
use super::place::{Place, Root, check_proc, is_own};
use super::watcher::Batch;

/// Bytes read at once.
const BUFFER_LEN: usize = 256 << 10;
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

/// See the module.
#[derive(Debug)]
pub(super) struct Fanotify {
    queue: OwnedFd,
    buffer: Vec<u8>,
    /// By kind and bytes of the handle.
    places: HashMap<Box<[u8]>, Place>,
    /// Handles put into paths, for the report.
    pub(super) resolved: u64,
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
        let base = libc::FAN_CLASS_NOTIF
            | libc::FAN_CLOEXEC
            | libc::FAN_NONBLOCK
            | libc::FAN_REPORT_DFID_NAME;
        let queue = match handles::fanotify_init(base | libc::FAN_UNLIMITED_QUEUE) {
            Ok(queue) if unlimited_queue => Ok(queue),
            _ => handles::fanotify_init(base),
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
        let (buffer, places) = (vec![0; BUFFER_LEN], HashMap::new());
        Ok(Self { queue, buffer, places, resolved: 0 })
    }

    pub(super) fn queue(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }

    /// Reads what is queued by now, and puts what that marks into `batch`. `false` when nothing was.
    ///
    /// # Errors
    /// The queue cannot be read.
    pub(super) fn read(&mut self, root: &Root, batch: &mut Batch) -> io::Result<bool> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let read = retry_on_intr(|| rustix::io::read(&self.queue, &mut buffer[..]));
        let read = match read {
            Ok(len) => {
                self.take_events(root, &buffer[..len], batch);
                Ok(len > 0)
            }
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(e) => Err(e.into()),
        };
        self.buffer = buffer;
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

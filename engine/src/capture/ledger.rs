//! The ledger: memory that outlives the process, beside a queue of events that does too.
//!
//! ```text
//! word  0 "FSKEPT02"   1, 2 identity of the watch   3, 4 boot id   5, 6 digest of the root
//!       7 number of the journal's frame under way   8 of the last one that is written
//!       9 a frame failed   10 events are read or not all journaled   11 the memory was held in place
//! then  the bytes of one read of the queue
//! ```
//! It is a memfd. A keeper keeps it together with the queue, apart from the state folder, so that a state folder
//! that was brought back from elsewhere is told from the one that has what was read.
//!
//! Guarantees: an event that left the kernel's queue is in the buffer or in the journal, whenever the process is
//! killed. A read is entered with the buffer zero and word 10 set. The kernel copies event after event into the
//! buffer and does not look at signals between; that copy itself can only fail where a page is not in its place,
//! and they are held there (`mlock`; word 11 says whether that was granted). The word is taken back when the
//! marks of all of them were written to the journal, by a call that returned: what a process wrote to a file
//! survives it. So the next one finds either the bytes, up to the first zero length, or a journal that has them.
//! Both is harmless. A frame of the journal that was cut off by the kill is that of word 7, and had nothing that
//! is not in the buffer, or asked of somebody again who was not answered.
//!
//! Refuses, as a [`Disbelief`], what is of another boot, root, watch or version, a journal with fewer frames than
//! word 8, and memory whose process could not write its journal. A power cut leaves nothing of it.

use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use super::handles::Handle;
use super::keeper::Disbelief;
use super::map::{self, Buffer, Head};
use super::place::Root;

const MAGIC: u64 = u64::from_le_bytes(*b"FSKEPT02");
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const FRESH_ID: &str = "/proc/sys/kernel/random/uuid";

/// Which watch a queue and a journal belong to.
pub(super) type WatchId = [u8; 16];

#[derive(Debug, Clone, Copy)]
#[repr(usize)]
enum Word {
    Magic = 0,
    Id = 1,
    Boot = 3,
    Root = 5,
    Begun = 7,
    Written = 8,
    Failed = 9,
    Reading = 10,
    Locked = 11,
}

/// The head of a ledger: what the journal's writer and the queue's reader note. Clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct Ledger(Head);

impl Ledger {
    /// A new one, of a watch of `root` that begins now.
    ///
    /// # Errors
    /// The kernel's own.
    pub(super) fn create(root: &Root) -> io::Result<(Self, Buffer)> {
        let (head, buffer) = map::create()?;
        let this = Self(head);
        this.put(Word::Id, uuid(FRESH_ID)?);
        this.put(Word::Boot, uuid(BOOT_ID)?);
        this.put(Word::Root, digest(root)?);
        this.set(Word::Locked, u64::from(this.0.is_locked()));
        this.set(Word::Magic, MAGIC);
        Ok((this, buffer))
    }

    /// One that was kept, of a watch of `root` at this boot.
    pub(super) fn open(file: OwnedFd, root: &Root) -> Result<(Self, Buffer), Disbelief> {
        let (head, buffer) = map::open(file).map_err(|_| Disbelief::Unknown)?;
        let this = Self(head);
        let (boot, digest) = (uuid(BOOT_ID).ok(), digest(root).ok());
        match () {
            () if this.get(Word::Magic) != MAGIC => Err(Disbelief::Unknown),
            () if boot != Some(this.take(Word::Boot)) => Err(Disbelief::OtherBoot),
            () if digest != Some(this.take(Word::Root)) => Err(Disbelief::OtherRoot),
            () if this.get(Word::Failed) != 0 => Err(Disbelief::Unwritten),
            () if this.is_reading() && this.get(Word::Locked) == 0 => Err(Disbelief::TornRead),
            () => {
                this.set(Word::Locked, u64::from(this.0.is_locked()));
                Ok((this, buffer))
            }
        }
    }

    /// Whether a journal of the watch `id`, whose last frame is `frame`, has all that was read; `is_cut` when
    /// something follows that frame that is none.
    pub(super) fn belongs(
        &self,
        id: Option<WatchId>,
        frame: u64,
        is_cut: bool,
    ) -> Result<(), Disbelief> {
        let (begun, written) = (self.get(Word::Begun), self.get(Word::Written));
        let under_way = begun == written.wrapping_add(1);
        match () {
            () if id != Some(self.id()) => Err(Disbelief::OtherJournal),
            () if frame == written && (!is_cut || under_way) => Ok(()),
            () if under_way && frame == begun && !is_cut => Ok(()),
            () if frame < written => Err(Disbelief::OlderJournal),
            () => Err(Disbelief::OtherJournal),
        }
    }

    pub(super) fn id(&self) -> WatchId {
        self.take(Word::Id)
    }

    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.0.file()
    }

    /// The number of the last frame of the journal that is written.
    pub(super) fn written(&self) -> u64 {
        self.get(Word::Written)
    }

    /// The journal has `frame` frames and all of what was read.
    pub(super) fn journal_is_at(&self, frame: u64) {
        self.set(Word::Begun, frame);
        self.set(Word::Written, frame);
    }

    /// Frame `frame` of the journal is about to be written.
    pub(super) fn begins_frame(&self, frame: u64) {
        self.set(Word::Begun, frame);
    }

    /// Whether the journal has all that it was given.
    pub(super) fn journal_failed(&self, failed: bool) {
        self.set(Word::Failed, u64::from(failed));
    }

    /// Events are about to leave the queue; the buffer is zero.
    pub(super) fn begins_read(&self) {
        self.set(Word::Reading, 1);
    }

    /// Whatever left the queue is in the journal.
    pub(super) fn ends_read(&self) {
        self.set(Word::Reading, 0);
    }

    /// Whether the buffer has what the journal may not have.
    pub(super) fn is_reading(&self) -> bool {
        self.get(Word::Reading) != 0
    }

    fn get(&self, word: Word) -> u64 {
        self.0.get(word as usize)
    }

    fn set(&self, word: Word, value: u64) {
        self.0.set(word as usize, value);
    }

    /// Two words.
    fn take(&self, word: Word) -> [u8; 16] {
        let (low, high) = (self.0.get(word as usize), self.0.get(word as usize + 1));
        (u128::from(high) << 64 | u128::from(low)).to_le_bytes()
    }

    fn put(&self, word: Word, value: [u8; 16]) {
        let value = u128::from_le_bytes(value);
        #[allow(clippy::cast_possible_truncation)] // the lower half
        self.0.set(word as usize, value as u64);
        #[allow(clippy::cast_possible_truncation)] // the upper half
        self.0.set(word as usize + 1, (value >> 64) as u64);
    }
}

/// What tells a root from every other at one boot: its file system, and the inode in it, whose handle tells it
/// from a later one of the same number.
fn digest(root: &Root) -> io::Result<[u8; 16]> {
    let stat = rustix::fs::fstat(root.fd())?;
    let of = rustix::fs::fstatvfs(root.fd())?;
    let handle = Handle::of(root.fd())?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&stat.st_dev.to_le_bytes()).update(&of.f_fsid.to_le_bytes());
    let (kind, bytes) = handle.parts();
    hasher.update(&kind.to_le_bytes()).update(bytes);
    let mut digest = [0; 16];
    digest.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    Ok(digest)
}

/// What the kernel shows at `path` as hexadecimal digits in groups.
fn uuid(path: &str) -> io::Result<[u8; 16]> {
    let text = fs::read_to_string(path)?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let value = u128::from_str_radix(&digits, 16).map_err(io::Error::other)?;
    Ok(value.to_be_bytes())
}

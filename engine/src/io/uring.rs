//! Plain system calls, and io_uring for many small files at a time.
//!
//! Guarantees: all that [`PosixStorage`] does, since every call but the two of batches is its own; of
//! those two the same answers, file by file, as by plain calls. Names are opened by openat2 beneath an
//! open directory, one component each, with the flags that [`super::posix`] resolves by. What a ring
//! cannot do is done by plain calls: a file it refuses for a reason that may be the ring's own, every
//! file of a thread that gets no ring. Where io_uring is refused altogether, [`UringStorage::open`] still succeeds and
//! [`UringStorage::usage`] says why none is used. Durability is that of plain calls: a ring's writes
//! and creations are in the page cache like theirs when the call returns, and synced by the same calls.
//!
//! One ring a thread, made when that thread has its first batch. Files keep ordinary descriptors: the
//! facts of a direct one cannot be asked for, nor its owner, mode or time set, and each look at a file
//! goes by its handle. That is why the requests of one file are not linked: all names are opened at
//! once, then all are looked at, then all are read. Buffers are not registered: reads through the page
//! cache pin none, and registered ones count towards RLIMIT_MEMLOCK.
//!
//! Which way is taken is found by taking both, see [`choice`]: how far away a file system is, and how
//! much of it is in memory, is known to nobody beforehand.

use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use self::choice::{Trial, Way};
use self::ring::Ring;
use super::batch::{self, Finish, NewSmallFile, SmallContent, SmallFile, StepError};
use super::posix::PosixStorage;

pub mod choice;
mod delegate;
mod ring;
mod small;

pub use self::choice::{IoMode, IoUsage, VerbUsage};

/// Files a call is best given: as many as a ring has under way with room for their closing.
const BATCH_FILES: usize = 128;

/// A tree of the operating system, see the module.
#[derive(Debug)]
pub struct UringStorage {
    plain: PosixStorage,
    mode: IoMode,
    /// Why no ring can be had.
    refused: Option<String>,
    reads: Trial,
    creates: Trial,
    /// Files of this mount do not say at once that a read would wait, so that a ring gives up those
    /// opened `O_NONBLOCK`.
    block_in_ring: AtomicBool,
}

/// This thread's ring; one value a thread, so that its size is of no matter.
#[allow(clippy::large_enum_variant)]
enum OwnRing {
    Untried,
    Open(Ring),
    /// Not to be had, or not for this thread.
    None,
}

thread_local! {
    static RING: RefCell<OwnRing> = const { RefCell::new(OwnRing::Untried) };
}

/// Does `work` with this thread's ring, if it has or gets one and is not within such work already.
fn with_ring<T>(work: impl FnOnce(&mut Ring) -> T) -> Option<T> {
    RING.with(|own| {
        let mut own = own.try_borrow_mut().ok()?;
        if matches!(*own, OwnRing::Untried) {
            *own = Ring::new().map_or(OwnRing::None, OwnRing::Open);
        }
        match &mut *own {
            OwnRing::Open(ring) => Some(work(ring)),
            OwnRing::Untried | OwnRing::None => None,
        }
    })
}

impl UringStorage {
    /// Opens the tree at `root`, as [`PosixStorage::open`] does, and finds out whether rings can be had
    /// here.
    ///
    /// # Errors
    /// As of [`PosixStorage::open`]. That io_uring is refused is no error.
    pub fn open(root: &Path, mode: IoMode) -> io::Result<Self> {
        Self::open_where(root, mode, || Ring::new().map(drop))
    }

    /// The same on a machine where setting up a ring ends with `outcome`. For tests of that case.
    ///
    /// # Errors
    /// As of [`PosixStorage::open`].
    pub fn open_where(
        root: &Path,
        mode: IoMode,
        outcome: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<Self> {
        let plain = PosixStorage::open(root)?;
        let refused = match mode {
            IoMode::Posix => None,
            _ if !plain.has_openat2 => Some("openat2 is refused here".to_owned()),
            _ => outcome().err().map(|e| choice::refusal(&e)),
        };
        Ok(Self {
            plain,
            mode,
            refused,
            reads: Trial::default(),
            creates: Trial::default(),
            block_in_ring: AtomicBool::new(false),
        })
    }

    /// The same tree with an I/O budget, see [`PosixStorage::with_budget`].
    #[must_use]
    pub fn with_budget(mut self, bytes_per_s: u64) -> Self {
        self.plain = self.plain.with_budget(bytes_per_s);
        self
    }

    /// The plain calls below.
    #[must_use]
    pub fn plain(&self) -> &PosixStorage {
        &self.plain
    }

    /// What was chosen so far, and on what grounds.
    #[must_use]
    pub fn usage(&self) -> IoUsage {
        IoUsage {
            mode: self.mode,
            refused: self.refused.clone(),
            reads: self.reads.usage(),
            creates: self.creates.usage(),
        }
    }

    fn has_rings(&self) -> bool {
        self.mode != IoMode::Posix && self.refused.is_none()
    }

    fn way(&self, trial: &Trial, files: usize) -> Way {
        match self.mode {
            _ if !self.has_rings() => Way::Plain,
            IoMode::Uring => Way::Ring,
            _ => trial.way(files),
        }
    }

    fn read_many(
        &self,
        files: &[SmallFile<'_, Self>],
        size_max: u64,
    ) -> Vec<Result<SmallContent, StepError>> {
        let (way, begun) = (self.way(&self.reads, files.len()), Instant::now());
        let by_ring = match way {
            Way::Ring => with_ring(|ring| {
                let read = small::read(self, ring, files, size_max);
                self.plain.spend(read.iter().flatten().map(|file| file.bytes.len()).sum());
                read
            }),
            Way::Plain => None,
        };
        let (way, done) = match by_ring {
            Some(done) => (Way::Ring, done),
            None => {
                let read = files.iter().map(|file| batch::read_one(self, file, size_max));
                (Way::Plain, read.collect())
            }
        };
        self.reads.took(way, files.len(), begun.elapsed());
        done
    }

    fn create_many(
        &self,
        files: &[NewSmallFile<'_, Self>],
        finish: Finish<'_, Self>,
    ) -> Vec<Result<(), StepError>> {
        let (way, begun) = (self.way(&self.creates, files.len()), Instant::now());
        let by_ring = match way {
            Way::Ring => with_ring(|ring| {
                self.plain.spend(files.iter().map(|file| file.bytes.len()).sum());
                small::create(self, ring, files, finish)
            }),
            Way::Plain => None,
        };
        let (way, done) = match by_ring {
            Some(done) => (Way::Ring, done),
            None => {
                let create = |(number, file)| batch::create_one(self, number, file, finish);
                (Way::Plain, files.iter().enumerate().map(create).collect())
            }
        };
        self.creates.took(way, files.len(), begun.elapsed());
        done
    }
}

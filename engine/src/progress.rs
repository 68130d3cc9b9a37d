//! Counters of one run, read by whoever shows them while the run goes on.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use farshore_core::path::RelPath;

use crate::plan::Problem;

/// What a run is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Waiting for the target's welcome.
    Connecting = 0,
    /// Walking the tree.
    Scanning = 1,
    /// Finding what differs at the target.
    Comparing = 2,
    /// Sending and applying.
    Replicating = 3,
    /// Agreeing on the recovery point.
    Sealing = 4,
}

/// Counters; all grow, none is exact until the run is over.
#[derive(Debug, Default)]
pub struct Progress {
    phase: AtomicU8,
    /// Entries the walk met.
    pub scanned: AtomicU64,
    /// Entries the target has checked.
    pub checked: AtomicU64,
    /// Changes planned.
    pub planned: AtomicU64,
    /// Bytes of files planned to be read.
    pub planned_bytes: AtomicU64,
    /// Changes dealt with.
    pub done: AtomicU64,
    /// Bytes of files read.
    pub read_bytes: AtomicU64,
    /// Bytes of content sent.
    pub literal_bytes: AtomicU64,
    /// Bytes of content the target already held.
    pub reused_bytes: AtomicU64,
    /// Bytes of frames as stored on the wire.
    pub frame_bytes: AtomicU64,
    /// Bytes of content sent ahead of the cut it is for.
    pub ahead_bytes: AtomicU64,
    /// Bytes a second that the last of these travelled at, from its first to its receipt; 0 when none did.
    pub line_rate: AtomicU64,
    /// Operations acknowledged, by kind.
    pub applied: AppliedCounts,
    problems: Mutex<Vec<Problem>>,
    too_large: Mutex<Vec<TooLarge>>,
    on_their_way: Mutex<Vec<Counted>>,
}

/// A file on its way ahead of its cut, with counters of its own.
#[derive(Debug)]
struct Counted {
    path: RelPath,
    size: u64,
    counters: Arc<Progress>,
    began: Instant,
}

/// How far a file is that travels ahead of its cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnItsWay {
    /// Which.
    pub path: RelPath,
    /// Its bytes.
    pub size: u64,
    /// Of those that were sent, or that the target holds.
    pub done: u64,
    /// Since this attempt began.
    pub took: Duration,
}

/// As long as it is there, the file counts as on its way.
#[derive(Debug)]
pub struct Travelling<'a>(&'a Progress, &'a Arc<Progress>);

impl Drop for Travelling<'_> {
    fn drop(&mut self) {
        self.0.lock_on_their_way().retain(|file| !Arc::ptr_eq(&file.counters, self.1));
    }
}

/// A file that the target had no room for; its problem is told with the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TooLarge {
    /// Where.
    pub path: RelPath,
    /// Bytes that it takes.
    pub needed: u64,
    /// Bytes that were free.
    pub free: u64,
}

/// Operations the target acknowledged as durable.
#[derive(Debug, Default)]
pub struct AppliedCounts {
    /// Entries made or replaced.
    pub written: AtomicU64,
    /// Entries whose metadata alone changed.
    pub metadata: AtomicU64,
    /// Entries moved.
    pub moved: AtomicU64,
    /// Entries removed.
    pub removed: AtomicU64,
}

/// [`AppliedCounts`] at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AppliedTotals {
    /// Entries made or replaced.
    pub written: u64,
    /// Entries whose metadata alone changed.
    pub metadata: u64,
    /// Entries moved.
    pub moved: u64,
    /// Entries removed.
    pub removed: u64,
}

impl AppliedTotals {
    /// All of them.
    #[must_use]
    pub fn all(self) -> u64 {
        self.written + self.metadata + self.moved + self.removed
    }
}

impl std::ops::Sub for AppliedTotals {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            written: self.written.saturating_sub(before.written),
            metadata: self.metadata.saturating_sub(before.metadata),
            moved: self.moved.saturating_sub(before.moved),
            removed: self.removed.saturating_sub(before.removed),
        }
    }
}

impl AppliedCounts {
    /// The counts now.
    #[must_use]
    pub fn totals(&self) -> AppliedTotals {
        AppliedTotals {
            written: self.written.load(Relaxed),
            metadata: self.metadata.load(Relaxed),
            moved: self.moved.load(Relaxed),
            removed: self.removed.load(Relaxed),
        }
    }
}

/// Most problems kept with their words; further ones are counted.
const PROBLEMS_MAX: usize = 100_000;

impl Progress {
    fn lock_on_their_way(&self) -> std::sync::MutexGuard<'_, Vec<Counted>> {
        self.on_their_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file of so many bytes begins to travel ahead of its cut; `counters` are its own.
    pub fn begin_travel<'a>(
        &'a self,
        path: &RelPath,
        size: u64,
        counters: &'a Arc<Self>,
    ) -> Travelling<'a> {
        let (path, counted) = (path.clone(), Arc::clone(counters));
        let file = Counted { path, size, counters: counted, began: Instant::now() };
        self.lock_on_their_way().push(file);
        Travelling(self, counters)
    }

    /// The files that travel ahead of their cuts now, and how far they are.
    #[must_use]
    pub fn on_their_way(&self) -> Vec<OnItsWay> {
        let of = |file: &Counted| {
            let Counted { path, size, counters, began } = file;
            let sent = counters.literal_bytes.load(Relaxed);
            let done = sent.saturating_add(counters.reused_bytes.load(Relaxed)).min(*size);
            OnItsWay { path: path.clone(), size: *size, done, took: began.elapsed() }
        };
        self.lock_on_their_way().iter().map(of).collect()
    }

    /// What the run is doing now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            1 => Phase::Scanning,
            2 => Phase::Comparing,
            3 => Phase::Replicating,
            4 => Phase::Sealing,
            _ => Phase::Connecting,
        }
    }

    /// What follows is another cut: what was planned and done of the one before no longer counts.
    pub(crate) fn begin_cut(&self) {
        let counters =
            [&self.scanned, &self.planned, &self.planned_bytes, &self.done, &self.read_bytes];
        counters.iter().for_each(|counter| counter.store(0, Relaxed));
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
    }

    pub(crate) fn add(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Relaxed);
    }

    pub(crate) fn problem(&self, problem: Problem) {
        if let Ok(mut problems) = self.problems.lock()
            && problems.len() < PROBLEMS_MAX
        {
            problems.push(problem);
        }
    }

    pub(crate) fn too_large(&self, path: RelPath, needed: u64, free: u64) {
        if let Ok(mut list) = self.too_large.lock()
            && list.len() < PROBLEMS_MAX
        {
            list.push(TooLarge { path, needed, free });
        }
    }

    /// Takes the files met so far that the target had no room for.
    #[must_use]
    pub fn take_too_large(&self) -> Vec<TooLarge> {
        self.too_large.lock().map(|mut list| std::mem::take(&mut *list)).unwrap_or_default()
    }

    /// Takes the problems met so far.
    #[must_use]
    pub fn take_problems(&self) -> Vec<Problem> {
        self.problems.lock().map(|mut p| std::mem::take(&mut *p)).unwrap_or_default()
    }
}

//! How long each stage of a run worked and waited.
//!
//! Guarantees: a thread's time counts for one stage at a time, the innermost it has entered; time
//! outside any stage is counted nowhere. Two clocks are read when a stage is entered and left, so
//! stages are entered per batch, frame or transaction, never per entry. Nothing of it survives the
//! run.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// What a thread is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Stage {
    /// Source: walking the tree and joining it with the catalog.
    Scan,
    /// Source: reading, cutting and hashing files, packing operations.
    Ingest,
    /// Source: compressing frames.
    Compress,
    /// Source: handing frames to the link; waits while the line or the target is slower.
    Send,
    /// Source: recording receipts in the catalog.
    Record,
    /// Both ends: bringing the digest tree up to date.
    Seal,
    /// Target: checking the tree against the catalog.
    Check,
    /// Target: taking frames from the link and unpacking them; waits while the source is slower.
    Receive,
    /// Target: writing files into staging, checking their digests.
    Stage,
    /// Target: waiting for the applier to take a staged batch.
    Queue,
    /// Target: making staged files durable.
    SyncStaged,
    /// Target: writing the intent and making it durable.
    Journal,
    /// Target: placing, displacing and removing.
    Apply,
    /// Target: making the tree durable.
    SyncTree,
    /// Target: the catalog's transaction.
    Commit,
    /// Target: clearing staging and journal.
    CleanUp,
}

impl Stage {
    /// All of them, in the order of a change's way.
    pub const ALL: [Self; 16] = [
        Self::Scan,
        Self::Ingest,
        Self::Compress,
        Self::Send,
        Self::Record,
        Self::Seal,
        Self::Check,
        Self::Receive,
        Self::Stage,
        Self::Queue,
        Self::SyncStaged,
        Self::Journal,
        Self::Apply,
        Self::SyncTree,
        Self::Commit,
        Self::CleanUp,
    ];

    /// Its name in output.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Scan => "scan",
            Self::Ingest => "ingest",
            Self::Compress => "compress",
            Self::Send => "send",
            Self::Record => "record",
            Self::Seal => "seal",
            Self::Check => "check",
            Self::Receive => "receive",
            Self::Stage => "stage",
            Self::Queue => "queue",
            Self::SyncStaged => "sync-staged",
            Self::Journal => "journal",
            Self::Apply => "apply",
            Self::SyncTree => "sync-tree",
            Self::Commit => "commit",
            Self::CleanUp => "clean-up",
        }
    }

    /// Whether its time is spent waiting for another stage, so that it never binds itself.
    #[must_use]
    pub fn waits_for_others(self) -> bool {
        matches!(self, Self::Send | Self::Receive | Self::Queue)
    }
}

/// Time of one stage, over all threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StageTime {
    /// From entering to leaving.
    pub wall: Duration,
    /// Of it, on a processor.
    pub cpu: Duration,
    /// Times it was entered.
    pub entered: u64,
}

#[derive(Debug, Default)]
struct Counter {
    wall_ns: AtomicU64,
    cpu_ns: AtomicU64,
    entered: AtomicU64,
}

/// The stages of one run.
#[derive(Debug, Default)]
pub struct Profile([Counter; Stage::ALL.len()]);

#[derive(Debug, Clone, Copy)]
struct Open {
    stage: Stage,
    since: Instant,
    cpu_since: Duration,
}

thread_local! {
    /// The stage this thread is in. One profile at a time is fed by a thread.
    static INNERMOST: Cell<Option<Open>> = const { Cell::new(None) };
}

impl Profile {
    /// Runs `work` as `stage`.
    pub fn time<T>(&self, stage: Stage, work: impl FnOnce() -> T) -> T {
        let _left_at_the_end = self.enter(stage);
        work()
    }

    /// This thread is in `stage` until what is answered is dropped.
    #[must_use]
    pub fn enter(&self, stage: Stage) -> Entered<'_> {
        let outer = INNERMOST.get();
        let now = Open { stage, since: Instant::now(), cpu_since: thread_cpu() };
        if let Some(outer) = outer {
            self.add(outer, now);
        }
        self.0[stage as usize].entered.fetch_add(1, Relaxed);
        INNERMOST.set(Some(now));
        Entered { profile: self, outer }
    }

    fn add(&self, open: Open, now: Open) {
        let nanos = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        let counter = &self.0[open.stage as usize];
        counter.wall_ns.fetch_add(nanos(now.since.saturating_duration_since(open.since)), Relaxed);
        counter.cpu_ns.fetch_add(nanos(now.cpu_since.saturating_sub(open.cpu_since)), Relaxed);
    }

    /// What was counted for `stage` so far.
    #[must_use]
    pub fn of(&self, stage: Stage) -> StageTime {
        let counter = &self.0[stage as usize];
        StageTime {
            wall: Duration::from_nanos(counter.wall_ns.load(Relaxed)),
            cpu: Duration::from_nanos(counter.cpu_ns.load(Relaxed)),
            entered: counter.entered.load(Relaxed),
        }
    }
}

/// A stage that was entered; see [`Profile::enter`].
#[derive(Debug)]
pub struct Entered<'a> {
    profile: &'a Profile,
    outer: Option<Open>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let (since, cpu_since) = (Instant::now(), thread_cpu());
        if let Some(open) = INNERMOST.get() {
            self.profile.add(open, Open { since, cpu_since, ..open });
        }
        INNERMOST.set(self.outer.map(|outer| Open { since, cpu_since, ..outer }));
    }
}

fn thread_cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inner_stages_interrupt_outer_ones() {
        let profile = Profile::default();
        let spin = || {
            let start = thread_cpu();
            while thread_cpu() - start < Duration::from_millis(5) {}
        };
        profile.time(Stage::Ingest, || {
            spin();
            profile.time(Stage::Send, spin);
            profile.time(Stage::Send, spin);
        });
        let (outer, inner) = (profile.of(Stage::Ingest), profile.of(Stage::Send));
        assert_eq!((outer.entered, inner.entered), (1, 2));
        assert!(outer.cpu >= Duration::from_millis(5) && inner.cpu >= Duration::from_millis(10));
        assert!(outer.cpu + inner.cpu <= outer.wall + inner.wall + Duration::from_millis(1));
        // Twice the work was within the inner stage: had it counted for both, the outer had more.
        assert!(outer.cpu < inner.cpu, "{outer:?} {inner:?}");
        assert_eq!(profile.of(Stage::Scan), StageTime::default());
    }

    #[test]
    fn the_list_names_each_stage_once_in_its_place() {
        for (i, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, i);
        }
    }
}

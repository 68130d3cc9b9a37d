//! What each thread of the daemon is doing, and since when: so that a call on a mount that never returns is seen by
//! somebody else.
//!
//! A thread says before each call on a mount what it calls and where; the guard it gets takes that back. Both take
//! a lock that nobody holds across a call, and no memory after the first. A thread that is gone leaves nothing.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use farshore_core::path::{RelPath, escape};

use super::clock::Clock;
use super::facts::{Stall, WorkerStatus};

/// A call on a mount that takes longer is a stall.
pub const STALL_AFTER_MS: u64 = 10_000;
/// Threads told of in a snapshot; those in a call on a mount come first.
const TOLD_MAX: usize = 64;
/// Bytes of a path that are told.
const PATH_MAX: usize = 512;

/// The heartbeat of one thread. Dropped, it leaves the board.
#[derive(Debug)]
pub struct Worker {
    slot: Arc<Slot>,
}

struct Slot {
    name: String,
    share: Option<String>,
    clock: Arc<dyn Clock>,
    doing: Mutex<Doing>,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("name", &self.name).finish_non_exhaustive()
    }
}

struct Doing {
    what: &'static str,
    path: Vec<u8>,
    since_ms: u64,
    on_mount: bool,
}

impl Worker {
    /// It does `what` now, which is no call on a mount.
    pub fn doing(&self, what: &'static str) {
        self.slot.set(what, &[], false);
    }

    /// It is about to make `call` on the mount, at `path`; until the guard is dropped.
    #[must_use]
    pub fn on_mount(&self, call: &'static str, path: &RelPath) -> OnMount<'_> {
        let before = self.slot.set(call, path.as_bytes(), true);
        OnMount { slot: &self.slot, before }
    }
}

/// A call on a mount, under way.
#[derive(Debug)]
pub struct OnMount<'a> {
    slot: &'a Slot,
    before: &'static str,
}

impl Drop for OnMount<'_> {
    fn drop(&mut self) {
        self.slot.set(self.before, &[], false);
    }
}

impl Slot {
    fn doing(&self) -> MutexGuard<'_, Doing> {
        self.doing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, what: &'static str, path: &[u8], on_mount: bool) -> &'static str {
        let now = self.clock.steady_ms();
        let mut doing = self.doing();
        doing.path.clear();
        doing.path.extend_from_slice(&path[..path.len().min(PATH_MAX)]);
        doing.since_ms = now;
        doing.on_mount = on_mount;
        std::mem::replace(&mut doing.what, what)
    }

    fn status(&self, now_ms: u64) -> WorkerStatus {
        let doing = self.doing();
        let mut path = String::new();
        // Writing to a string does not fail.
        escape(&doing.path, &mut path).unwrap_or(());
        WorkerStatus {
            name: self.name.clone(),
            share: self.share.clone(),
            doing: doing.what.to_owned(),
            path,
            on_mount: doing.on_mount,
            for_ms: now_ms.saturating_sub(doing.since_ms),
        }
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Workers(Mutex<Vec<Weak<Slot>>>);

impl Workers {
    pub(super) fn add(&self, share: Option<&str>, name: &str, clock: Arc<dyn Clock>) -> Worker {
        let doing = Doing {
            what: "starting",
            path: Vec::new(),
            since_ms: clock.steady_ms(),
            on_mount: false,
        };
        let slot = Arc::new(Slot {
            name: name.to_owned(),
            share: share.map(str::to_owned),
            clock,
            doing: Mutex::new(doing),
        });
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Threads that come and go leave no more behind than there ever were at once.
        if all.len() == all.capacity() {
            all.retain(|slot| slot.strong_count() > 0);
        }
        all.push(Arc::downgrade(&slot));
        Worker { slot }
    }

    /// What they do, calls on mounts first, the longest first; bounded. And the stalls of each share.
    pub(super) fn status(&self, now_ms: u64) -> (Vec<WorkerStatus>, Vec<(String, Stall)>) {
        let live: Vec<Arc<Slot>> = {
            let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.iter().filter_map(Weak::upgrade).collect()
        };
        let mut told: Vec<WorkerStatus> = live.iter().map(|slot| slot.status(now_ms)).collect();
        told.sort_by_key(|worker| std::cmp::Reverse((worker.on_mount, worker.for_ms)));
        told.truncate(TOLD_MAX);
        let stalls = told.iter().filter(|w| w.on_mount && w.for_ms > STALL_AFTER_MS);
        let stalls = stalls.filter_map(|w| {
            let share = w.share.clone()?;
            let stall = Stall {
                worker: w.name.clone(),
                call: w.doing.clone(),
                path: w.path.clone(),
                for_ms: w.for_ms,
            };
            Some((share, stall))
        });
        let stalls = stalls.collect();
        (told, stalls)
    }
}

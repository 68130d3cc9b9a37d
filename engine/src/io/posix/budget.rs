//! An I/O budget: how many bytes a second a tree may be read and written.
//!
//! Guarantees: over any span, content read and written by all threads together stays within the rate,
//! give or take one piece a thread. Names, facts and blocks that are shared cost nothing here. It
//! refuses nothing: it makes the caller wait. Nothing survives a crash.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use farshore_core::pacer::Pacer;

/// What all threads that use a tree share; by default nothing is held back.
#[derive(Debug, Default)]
pub(super) struct Budget(Option<Limit>);

#[derive(Debug)]
struct Limit {
    pacer: Mutex<Pacer>,
    since: Instant,
}

impl Budget {
    /// So many bytes a second from now on.
    pub(super) fn of(bytes_per_s: u64) -> Self {
        let pacer = Mutex::new(Pacer::new(bytes_per_s, Duration::ZERO));
        Self(Some(Limit { pacer, since: Instant::now() }))
    }

    /// How much of `len` to move at once: a wait between two pieces stays short.
    pub(super) fn piece(&self, len: usize) -> usize {
        self.0.as_ref().map_or(len, |limit| len.min(limit.pacer().piece_bytes()))
    }

    /// Books `bytes` and waits until what was booked before is paid for.
    pub(super) fn spend(&self, bytes: usize) {
        let Some(limit) = &self.0 else { return };
        let wait = limit.pacer().reserve(limit.since.elapsed(), bytes);
        if !wait.is_zero() {
            std::thread::sleep(wait);
        }
    }
}

impl Limit {
    /// A panic elsewhere leaves it whole.
    fn pacer(&self) -> MutexGuard<'_, Pacer> {
        self.pacer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

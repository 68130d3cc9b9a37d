//! Which time it is. An argument of the board, so that a test says it.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use rustix::time::{ClockId, clock_gettime};

use crate::state::now_ms;

/// Two times: one that people and peers know, one that only goes forward.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Milliseconds since 1970-01-01 UTC by this machine. It may jump.
    fn wall_ms(&self) -> i64;
    /// Milliseconds since some moment. It never jumps.
    fn steady_ms(&self) -> u64;
}

/// This machine's.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall_ms(&self) -> i64 {
        now_ms()
    }

    fn steady_ms(&self) -> u64 {
        let now = clock_gettime(ClockId::Monotonic);
        let ms = now.tv_sec.saturating_mul(1_000).saturating_add(now.tv_nsec / 1_000_000);
        u64::try_from(ms).unwrap_or(0)
    }
}

/// A clock that stands until it is moved: for tests and examples.
#[derive(Debug, Default)]
pub struct HandClock {
    wall: AtomicI64,
    steady: AtomicU64,
}

impl HandClock {
    /// Stands at `wall_ms`.
    #[must_use]
    pub fn at(wall_ms: i64) -> Self {
        Self { wall: AtomicI64::new(wall_ms), steady: AtomicU64::new(1_000_000) }
    }

    /// Both times go on by `ms`.
    pub fn advance(&self, ms: u64) {
        self.steady.fetch_add(ms, Relaxed);
        self.wall.fetch_add(i64::try_from(ms).unwrap_or(i64::MAX), Relaxed);
    }

    /// Somebody set the clock of the machine.
    pub fn jump(&self, ms: i64) {
        self.wall.fetch_add(ms, Relaxed);
    }
}

impl Clock for HandClock {
    fn wall_ms(&self) -> i64 {
        self.wall.load(Relaxed)
    }

    fn steady_ms(&self) -> u64 {
        self.steady.load(Relaxed)
    }
}

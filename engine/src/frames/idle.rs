//! Whether this process leaves processors idle.
//!
//! Guarantees: judged over at least [`SPAN`], and changed only when clearly so: what compressing takes must
//! not be what ends it. It knows nothing of other processes: where those keep all processors busy, this
//! one looks idle. Nothing survives the run.

use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Time between two judgements.
const SPAN: Duration = Duration::from_millis(100);
/// Busy for so large a share of all processors there is nothing to spare ...
const BUSY: f64 = 0.85;
/// ... and idle only below this: what two ends take that compress adds about a fifth.
const IDLE: f64 = 0.6;

/// See the module.
#[derive(Debug)]
pub(super) struct Idle {
    processors: f64,
    since: Instant,
    used: Option<Duration>,
    is_idle: bool,
}

impl Idle {
    pub(super) fn new(now: Instant) -> Self {
        let processors = available_parallelism().map_or(1, usize::from) as f64;
        Self { processors, since: now, used: None, is_idle: true }
    }

    /// Whether processors are idle, once enough time passed; `used` is the processor time so far.
    pub(super) fn judge(&mut self, now: Instant, used: impl FnOnce() -> Duration) -> Option<bool> {
        let span = now.saturating_duration_since(self.since);
        if self.used.is_some() && span < SPAN {
            return None;
        }
        let used = used();
        if let Some(before) = self.used.replace(used) {
            let busy =
                used.saturating_sub(before).as_secs_f64() / (span.as_secs_f64() * self.processors);
            self.is_idle = busy < if self.is_idle { BUSY } else { IDLE };
        }
        self.since = now;
        Some(self.is_idle)
    }
}

/// Processor time of all threads of this process.
pub(super) fn used_by_this_process() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_when_processors_are_busy_and_comes_back_only_when_they_are_idle() {
        let start = Instant::now();
        let mut idle = Idle { processors: 2.0, ..Idle::new(start) };
        let (mut now, mut used) = (start, Duration::from_secs(1));
        assert_eq!(idle.judge(now, || used), Some(true));
        let mut after = |idle: &mut Idle, busy_ms: u64| {
            now += SPAN;
            used += Duration::from_millis(busy_ms);
            idle.judge(now, || used)
        };
        assert_eq!(after(&mut idle, 160), Some(true), "80 of 100");
        assert_eq!(after(&mut idle, 190), Some(false), "95 of 100");
        assert_eq!(after(&mut idle, 140), Some(false), "70 of 100");
        assert_eq!(after(&mut idle, 100), Some(true), "half");
        assert_eq!(after(&mut idle, 160), Some(true), "80 of 100");
        assert_eq!(idle.judge(start, || Duration::ZERO), None, "too soon");
    }
}

//! CPU clocks.
//!
//! Guarantees: CPU time of the calling thread or of this process, as the kernel counts it. On a busy
//! machine it is steadier than wall time. Refuses nothing.

use rustix::time::{ClockId, clock_gettime};

fn seconds(clock: ClockId) -> f64 {
    let now = clock_gettime(clock);
    let whole = u64::try_from(now.tv_sec).unwrap_or(0);
    let fraction = u64::try_from(now.tv_nsec).unwrap_or(0);
    crate::bench::rng::to_f64(whole) + crate::bench::rng::to_f64(fraction) / 1e9
}

/// CPU seconds of the calling thread.
pub(super) fn thread_cpu_s() -> f64 {
    seconds(ClockId::ThreadCPUTime)
}

/// CPU seconds of this process.
pub(super) fn process_cpu_s() -> f64 {
    seconds(ClockId::ProcessCPUTime)
}

//! A rate that is kept: how long to wait before the next bytes may move.
//!
//! Guarantees that over any span `t` at most `rate * t + burst` bytes are let through, exactly, in
//! integers, with time as an argument. It refuses nothing: it answers with a wait. Nothing survives
//! a crash.

use std::time::Duration;

/// Idle time that may be made up for at once.
const BURST: Duration = Duration::from_millis(50);
/// Smallest and largest piece to ask for at a time.
const PIECE_BYTES: std::ops::RangeInclusive<u64> = 16 << 10..=1 << 20;

/// A token bucket written as a schedule: it knows when the bytes let through so far are paid for.
#[derive(Debug, Clone, Copy)]
pub struct Pacer {
    rate_bytes_per_s: u64,
    /// On the caller's clock, the instant at which all bytes let through are paid for.
    free_at: Duration,
}

impl Pacer {
    /// A limit of `rate_bytes_per_s` (0 counts as 1) from `now` on, any monotonic clock.
    #[must_use]
    pub fn new(rate_bytes_per_s: u64, now: Duration) -> Self {
        Self { rate_bytes_per_s: rate_bytes_per_s.max(1), free_at: now }
    }

    /// Bytes to move between two calls of [`Pacer::reserve`], so that a wait stays short and a
    /// changed limit is felt soon.
    #[must_use]
    pub fn piece_bytes(&self) -> usize {
        let piece = (self.rate_bytes_per_s / 20).clamp(*PIECE_BYTES.start(), *PIECE_BYTES.end());
        usize::try_from(piece).unwrap_or(1 << 20)
    }

    /// Books `bytes` and says how long to wait before moving them. Bookings are served in order.
    pub fn reserve(&mut self, now: Duration, bytes: usize) -> Duration {
        let start = self.free_at.max(now.saturating_sub(BURST));
        let nanos = (bytes as u128 * 1_000_000_000).div_ceil(u128::from(self.rate_bytes_per_s));
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.free_at = start.saturating_add(cost);
        start.saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::{any, prop, prop_assert, proptest};

    use super::{BURST, Pacer};

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_second_booking_waits_for_the_first() {
        let mut pacer = Pacer::new(1_000_000, ms(1_000));
        assert_eq!(pacer.reserve(ms(1_000), 100_000), Duration::ZERO);
        assert_eq!(pacer.reserve(ms(1_000), 100_000), ms(100));
        assert_eq!(pacer.reserve(ms(1_050), 1), ms(150));
    }

    #[test]
    fn idle_time_is_made_up_for_only_within_the_burst() {
        let mut pacer = Pacer::new(1_000_000, Duration::ZERO);
        assert_eq!(pacer.reserve(ms(10_000), 50_000), Duration::ZERO);
        assert_eq!(pacer.reserve(ms(10_000), 50_000), Duration::ZERO);
        assert_eq!(pacer.reserve(ms(10_000), 1), ms(50));
    }

    #[test]
    fn a_limit_of_zero_does_not_divide_by_it() {
        let mut pacer = Pacer::new(0, Duration::ZERO);
        pacer.reserve(Duration::ZERO, usize::MAX);
        assert!(pacer.reserve(Duration::ZERO, 1) > ms(1_000));
        assert_eq!(pacer.piece_bytes(), 16 << 10);
    }

    proptest! {
        /// Whatever the calls, bytes sent by the time waited never exceed rate x time + burst + one
        /// piece.
        #[test]
        fn never_above_the_rate(
            rate in 1_000_u64..1_000_000_000,
            steps in prop::collection::vec((any::<u16>(), 1_usize..1 << 20), 1..200),
        ) {
            let mut pacer = Pacer::new(rate, Duration::ZERO);
            let (mut now, mut sent, mut largest) = (Duration::ZERO, 0_u128, 0_u128);
            for (idle_us, bytes) in steps {
                now += Duration::from_micros(u64::from(idle_us));
                now += pacer.reserve(now, bytes);
                sent += bytes as u128;
                largest = largest.max(bytes as u128);
                let allowed = u128::from(rate) * (now + BURST).as_nanos() / 1_000_000_000;
                prop_assert!(sent <= allowed + largest + 1, "{sent} > {allowed}");
            }
        }
    }
}

//! One direction of a line, as arithmetic.
//!
//! Guarantees: no clock, no I/O: the caller passes the time. A packet waits in one queue until the line
//! is free, occupies it for its length at the rate, then travels for the delay; packets stay in order.
//! A packet that does not fit the queue is dropped at its tail; a lost packet still occupies the line.

use crate::bench::rng::{Rng, to_f64};

const NANOSECONDS: u64 = 1_000_000_000;

/// The properties of one direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LinkConfig {
    /// One-way delay.
    pub(crate) delay_ns: u64,
    /// Bits per second; 0 means without limit.
    pub(crate) rate_bits: u64,
    /// Bytes that may wait.
    pub(crate) queue_bytes: u64,
    /// Probability of loss.
    pub(crate) loss: f64,
    /// Seed of the losses.
    pub(crate) seed: u64,
}

impl LinkConfig {
    /// A direction of a line of `rtt_ns` both ways, with a queue of one bandwidth-delay product.
    pub(crate) fn new(rtt_ns: u64, rate_bits: u64, loss: f64, seed: u64) -> Self {
        let product = u128::from(rate_bits) * u128::from(rtt_ns) / u128::from(8 * NANOSECONDS);
        let queue_bytes = u64::try_from(product).unwrap_or(u64::MAX).max(64 * 1024);
        Self { delay_ns: rtt_ns / 2, rate_bits, queue_bytes, loss, seed }
    }
}

/// What passed and what did not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct LinkCounts {
    /// Packets delivered.
    pub(crate) passed: u64,
    /// Bytes delivered.
    pub(crate) passed_bytes: u64,
    /// Packets lost at random.
    pub(crate) lost: u64,
    /// Packets dropped because the queue was full.
    pub(crate) dropped: u64,
}

impl std::fmt::Display for LinkCounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { passed, passed_bytes, lost, dropped } = self;
        write!(
            f,
            "{passed} packets of {passed_bytes} bytes, {lost} lost, {dropped} dropped at a full queue"
        )
    }
}

impl LinkCounts {
    /// What passed since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            passed: self.passed - before.passed,
            passed_bytes: self.passed_bytes - before.passed_bytes,
            lost: self.lost - before.lost,
            dropped: self.dropped - before.dropped,
        }
    }
}

/// The state of one direction.
#[derive(Debug)]
pub(crate) struct Link {
    config: LinkConfig,
    /// When the last bit of what was admitted so far has left.
    free_at_ns: u64,
    rng: Rng,
    counts: LinkCounts,
}

impl Link {
    /// An empty line.
    pub(crate) fn new(config: LinkConfig) -> Self {
        Self { config, free_at_ns: 0, rng: Rng::new(config.seed), counts: LinkCounts::default() }
    }

    /// Offers a packet at `now_ns`: when it arrives at the far end, or none when it does not.
    pub(crate) fn offer(&mut self, now_ns: u64, bytes: u64) -> Option<u64> {
        let start = self.free_at_ns.max(now_ns);
        if self.waiting_bytes(now_ns) + bytes > self.config.queue_bytes {
            self.counts.dropped += 1;
            return None;
        }
        self.free_at_ns = start + self.sending_ns(bytes);
        if self.config.loss > 0.0 && self.rng.chance(self.config.loss) {
            self.counts.lost += 1;
            return None;
        }
        self.counts.passed += 1;
        self.counts.passed_bytes += bytes;
        Some(self.free_at_ns + self.config.delay_ns)
    }

    /// Bytes admitted that have not left yet.
    pub(crate) fn waiting_bytes(&self, now_ns: u64) -> u64 {
        let wait = u128::from(self.free_at_ns.saturating_sub(now_ns));
        let bytes = wait * u128::from(self.config.rate_bits) / u128::from(8 * NANOSECONDS);
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// What passed so far.
    pub(crate) fn counts(&self) -> LinkCounts {
        self.counts
    }

    fn sending_ns(&self, bytes: u64) -> u64 {
        if self.config.rate_bits == 0 {
            return 0;
        }
        crate::bench::rng::round_to_u64(to_f64(bytes * 8) * 1e9 / to_f64(self.config.rate_bits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn link(loss: f64) -> Link {
        Link::new(LinkConfig::new(80 * MS, 200_000_000, loss, 1))
    }

    #[test]
    fn a_lone_packet_takes_its_sending_time_and_half_the_round_trip() {
        // 1,500 bytes at 200 Mbit/s take 60 microseconds.
        assert_eq!(link(0.0).offer(5 * MS, 1_500), Some(5 * MS + 60_000 + 40 * MS));
    }

    #[test]
    fn packets_follow_each_other_at_the_rate() {
        let mut link = link(0.0);
        let arrivals: Vec<u64> = (0..1_000).filter_map(|_| link.offer(0, 1_500)).collect();
        assert_eq!(arrivals.len(), 1_000);
        assert!(arrivals.windows(2).all(|pair| pair[1] - pair[0] == 60_000));
    }

    #[test]
    fn the_queue_holds_one_bandwidth_delay_product() {
        let mut link = link(0.0);
        let passed = (0..3_000).filter(|_| link.offer(0, 1_000).is_some()).count();
        assert_eq!(passed, 2_000);
        assert_eq!(link.counts().dropped, 1_000);
        // Half a millisecond later 12,500 bytes have left.
        assert_eq!(link.waiting_bytes(MS / 2), 2_000_000 - 12_500);
        let later = (0..3_000).filter(|_| link.offer(MS / 2, 1_000).is_some()).count();
        assert_eq!(later, 12);
    }

    #[test]
    fn loss_is_seeded_and_about_the_asked_share() {
        let count = || {
            let mut link = link(0.001);
            for number in 0..1_000_000u64 {
                link.offer(number * 60_000, 1_500);
            }
            link.counts()
        };
        let counts = count();
        assert!((900..1_100).contains(&counts.lost), "{counts:?}");
        assert_eq!(counts, count());
    }

    #[test]
    fn without_a_rate_only_the_delay_counts() {
        let mut link = Link::new(LinkConfig::new(10 * MS, 0, 0.0, 1));
        assert_eq!(link.offer(0, 1_500), Some(5 * MS));
        assert_eq!(link.offer(0, 1_500), Some(5 * MS));
    }
}

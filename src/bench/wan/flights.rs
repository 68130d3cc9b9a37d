//! Counts how often a conversation over the line had to wait for the other side.
//!
//! A packet's number is one more than the largest number its sender has received: the first packet of
//! the near side is 1, what answers it 2, what answers that 3. The largest number is the length of the
//! longest chain of packets each of which was sent with the one before at hand, in one-way trips.
//!
//! Guarantees: never less than the trips the conversation waited for. It can be more: an
//! acknowledgement nobody waits for counts like an answer. Refuses to count what is not IPv4 (the
//! kernel's own chatter on a new device) and what was on its way before the count began.

use std::sync::atomic::{AtomicU64, Ordering};

/// The number a packet carries along the line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    count: u64,
    number: u64,
}

/// The largest numbers received by the two sides.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    /// Which count this is; packets of an earlier one are ignored.
    count: AtomicU64,
    received: [AtomicU64; 2],
}

impl Flights {
    /// Begins a new count.
    pub(crate) fn restart(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
        for side in &self.received {
            side.store(0, Ordering::SeqCst);
        }
    }

    /// The number of a packet that leaves `side` (0 or 1).
    pub(crate) fn sent(&self, side: usize, packet: &[u8]) -> Stamp {
        if packet.first().is_none_or(|byte| byte >> 4 != 4) {
            return Stamp::default();
        }
        let count = self.count.load(Ordering::SeqCst);
        Stamp { count, number: self.received[side % 2].load(Ordering::SeqCst) + 1 }
    }

    /// A packet has arrived at `side`.
    pub(crate) fn arrived(&self, side: usize, stamp: Stamp) {
        if stamp.count == self.count.load(Ordering::SeqCst) {
            self.received[side % 2].fetch_max(stamp.number, Ordering::SeqCst);
        }
    }

    /// One-way trips in the longest chain so far.
    pub(crate) fn longest(&self) -> u64 {
        self.received.iter().map(|side| side.load(Ordering::SeqCst)).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IPV4: [u8; 1] = [0x45];

    #[test]
    fn answers_make_the_chain_longer_and_trains_do_not() {
        let flights = Flights::default();
        flights.restart();
        let train: Vec<Stamp> = (0..50).map(|_| flights.sent(0, &IPV4)).collect();
        for stamp in train {
            flights.arrived(1, stamp);
        }
        assert_eq!(flights.longest(), 1);
        flights.arrived(0, flights.sent(1, &IPV4));
        flights.arrived(1, flights.sent(0, &IPV4));
        assert_eq!(flights.longest(), 3);
    }

    #[test]
    fn stragglers_and_other_protocols_do_not_count() {
        let flights = Flights::default();
        flights.restart();
        let late = flights.sent(0, &IPV4);
        flights.restart();
        flights.arrived(1, late);
        flights.arrived(1, flights.sent(0, &[0x60]));
        assert_eq!(flights.longest(), 0);
    }
}

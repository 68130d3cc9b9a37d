//! A train of packets that tells the start how much the line may hold.
//!
//! The first bulk of a connection leaves as one burst, or packets of nothing in its place where it is known beforehand
//! that much will follow ([`farshore_proto::link::Link::expect_bulk`]). A line takes its packets apart: from the first
//! answer to the last it takes as long as they took to pass the narrowest place, so what is answered in
//! that time is the rate of that place, two round trips before a window that grows by rounds would know.
//!
//! Guarantees: one burst of at most [`TRAIN_DATAGRAMS`] and what goes out with the last of them, and never
//! again on the connection; an estimate is at most [`TRAIN_BYTES_MULTIPLE`] trains a round trip. It
//! promises no lower bound: answers that were held up on their way, or a source that paused, make the
//! estimate smaller, and the start grows from there. Answers that were bunched together make it larger,
//! which is why [`SPAN_MIN`] bounds it; up to half as much again fits the queue of a line. Nothing survives a crash.

use std::time::{Duration, Instant};

/// Datagrams of a train: some 4 ms of a line of 20 Mbyte/s, and less than nearly every queue holds.
pub(crate) const TRAIN_DATAGRAMS: u64 = 64;
/// A window that comes of an estimate, in trains: more is for rounds to find out.
const TRAIN_BYTES_MULTIPLE: u64 = 24;
/// Answers closer together than this say that something holds them and lets them go together.
const SPAN_MIN: Duration = Duration::from_millis(1);
/// Of so many eighths of a train the answers must be there.
const ANSWERED_EIGHTHS: u64 = 7;

/// Where the train is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Train {
    /// No bulk was sent yet.
    Waiting,
    /// It leaves.
    Leaving { since: Instant, sent: u64 },
    /// It left between these, of so many bytes.
    Left { since: Instant, until: Instant, sent: u64, answers: Answers },
    /// It told what it could, if that was anything.
    Over { since: Instant, until: Instant, told: bool },
}

/// What was heard of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Answers {
    first: Option<Instant>,
    /// Bytes answered with the first, and after it.
    with_first: u64,
    after_first: u64,
}

impl Train {
    /// Whether its packets leave, or will with the first bulk.
    pub(super) const fn is_leaving(&self) -> bool {
        matches!(self, Self::Waiting | Self::Leaving { .. })
    }

    /// Whether it told what the line may hold.
    pub(super) const fn has_told(&self) -> bool {
        matches!(self, Self::Over { told: true, .. })
    }

    /// The line is another one: what it told of the one before says nothing.
    pub(super) fn forget(&mut self) {
        *self = match *self {
            Self::Waiting => Self::Waiting,
            Self::Leaving { since, .. } => Self::Over { since, until: since, told: false },
            Self::Left { since, until, .. } | Self::Over { since, until, .. } => {
                Self::Over { since, until, told: false }
            }
        };
    }

    /// Whether what was sent then was part of it: it waited for itself.
    pub(super) fn includes(&self, at: Instant) -> bool {
        match *self {
            Self::Waiting => false,
            Self::Leaving { since, .. } => at >= since,
            Self::Left { since, until, .. } | Self::Over { since, until, .. } => {
                at >= since && at <= until
            }
        }
    }

    /// Bytes leave, while the connection carries bulk.
    pub(super) fn sent(&mut self, now: Instant, bytes: u64, mtu: u64) {
        let (since, before) = match *self {
            // What is shorter than a datagram is no bulk.
            Self::Waiting if bytes >= mtu * 3 / 4 => (now, 0),
            Self::Leaving { since, sent } => (since, sent),
            _ => return,
        };
        let sent = before + bytes;
        *self = match sent < TRAIN_DATAGRAMS * mtu {
            true => Self::Leaving { since, sent },
            false => Self::Left { since, until: now, sent, answers: Answers::default() },
        };
    }

    /// An answer to `bytes` that left at `at`. Once enough are there: the window that the rate they came at
    /// fills in `shortest`.
    pub(super) fn answered(
        &mut self,
        now: Instant,
        at: Instant,
        bytes: u64,
        shortest: Duration,
    ) -> Option<u64> {
        if !self.includes(at) {
            return None;
        }
        if let Self::Leaving { since, .. } = *self {
            // Answers are there before all of it left: that is no burst, and tells nothing.
            *self = Self::Over { since, until: now, told: false };
        }
        let Self::Left { since, until, sent, answers } = self else { return None };
        let first = *answers.first.get_or_insert(now);
        match now == first {
            true => answers.with_first += bytes,
            false => answers.after_first += bytes,
        }
        let answered = answers.with_first + answers.after_first;
        if answered * 8 < *sent * ANSWERED_EIGHTHS {
            return None;
        }
        let span = now.duration_since(first).max(SPAN_MIN).as_nanos();
        let in_span = match answers.after_first {
            0 => answers.with_first,
            after => after,
        };
        let holds = u128::from(in_span) * shortest.as_nanos() / span;
        let most = TRAIN_BYTES_MULTIPLE * *sent;
        *self = Self::Over { since: *since, until: *until, told: true };
        Some(u64::try_from(holds).unwrap_or(most).min(most))
    }
}

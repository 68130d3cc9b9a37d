//! A controller that follows the rate the line delivers, not its losses.
//!
//! A long line that loses a packet in a thousand holds CUBIC to a small part of its rate, and the BBR
//! of quinn 0.11 falls into its recovery window after its first overshoot. This one does less: it
//! measures, round by round, how many bytes are acknowledged in what time, and keeps a little more
//! in flight than that rate fills at the shortest round trip seen.
//!
//! - *Start*: the first bulk leaves as a train of packets (`rate/train.rs`), whose answers tell what the
//!   line may hold: that is the next window. It triples every round besides, later doubles, or grows by half where a
//!   train told, until two rounds that filled it delivered less than a
//!   quarter more than the best before, or [`QUEUED_SAMPLES`] answers in a row stood in a queue, or a
//!   tenth of a round was lost. A queue ends it at once, not with the round, so that what was sent too
//!   much drains before more is. Rounds of a few control messages end nothing.
//! - *Cruise*: the window is [`CRUISE`] of rate x shortest round trip, the rate being the best of the
//!   last [`ROUNDS_KEPT`] rounds; every [`PROBE_EVERY`] rounds one round is sent with [`PROBE`], and
//!   the next with no more than the line holds, so that a queue it built drains.
//!
//! - *Company*: where answers come late although the round before held back, others fill the queue. The
//!   window is then [`CROWDED`] of rate x shortest round trip: with less, whoever fills the queue until
//!   it overflows, as TCP does, takes all of the line.
//!
//! Stray losses change nothing. A round that loses more than [`LOSS_MAX`] forgets the best rounds and
//! follows itself: so it makes room for others at a full queue. Rounds in which the application sent
//! less than it might never lower the rate. Nothing survives a crash.

use std::{
    any::Any,
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use quinn::congestion::Controller;
use quinn_proto::RttEstimator;

use crate::path::Gate;

mod train;

pub(crate) use train::TRAIN_DATAGRAMS;
use train::Train;

/// Rounds whose best rate counts.
const ROUNDS_KEPT: usize = 10;
/// Window in hundredths of what the line holds, in most rounds.
const CRUISE: u64 = 125;
/// The same in a round that looks for more.
const PROBE: u64 = 160;
/// The same in the round after it.
const DRAIN: u64 = 105;
/// The same where others fill the queue: what a line with a queue as long as itself holds.
const CROWDED: u64 = 200;
/// Answers that come later than the shortest by this many hundredths of it stood in a queue that is not
/// ours: after a round with [`DRAIN`] that is shorter.
const CROWDED_LATE: u32 = 18;
/// Rounds from one look for more to the next.
const PROBE_EVERY: u32 = 8;
/// Loss of a round, in hundredths, above which it is taken for congestion.
const LOSS_MAX: u64 = 8;
/// Hundredths of its size that the window is after a round of the start, at first ...
const START_GROWTH: u64 = 300;
/// ... and from this size on: what is under way when the first late answer comes is then at most twice
/// what the line holds, and its queue takes the rest.
const START_FAST_MAX: u64 = 256 << 10;
const START_GROWTH_LATER: u64 = 200;
/// The same once a train has told what the line may hold. Twice that would overflow a queue as long as the line; what was
/// told too small by half is made up for in two rounds.
const START_GROWTH_TOLD: u64 = 150;
/// Answers in a row that must be late before they count as a queue: one alone is chance.
const QUEUED_SAMPLES: u32 = 8;
/// Answers later than the fastest by this share of it are late, if they are by this time as well.
const LATE_SHARE: u32 = 8;
const LATE_MIN: Duration = Duration::from_millis(4);
/// Loss that ends the start, in hundredths.
const START_LOSS_MAX: u64 = 10;
/// Smallest window in datagrams.
const DATAGRAMS_MIN: u64 = 4;
/// A window that never stops the application, and still below the one at which quinn stops pacing.
const WINDOW_MAX: u64 = 1 << 31;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Rate {
    mtu: u64,
    first_window: u64,
    window: u64,
    phase: Phase,
    round: Round,
    /// Bytes a second of the last rounds.
    rates: VecDeque<u64>,
    best_at_start: u64,
    /// Rounds of the start that brought nothing more.
    flat_rounds: u32,
    rounds_since_probe: u32,
    /// Whether others fill the queue.
    crowded: bool,
    train: Train,
    /// Knows whether bulk has begun.
    gate: Arc<Gate>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Start,
    Cruise,
    Probe,
    Drain,
}

/// Ends with the first acknowledgement of something sent after it began.
#[derive(Debug, Clone)]
struct Round {
    began: Instant,
    /// The window then.
    window: u64,
    acked: u64,
    lost: u64,
    app_limited: bool,
    /// The shortest time from sending to acknowledgement.
    fastest: Duration,
    /// Late answers since the last that was not.
    late: u32,
    /// Whether there were [`QUEUED_SAMPLES`] of them.
    queued: bool,
}

impl Round {
    fn new(began: Instant, window: u64) -> Self {
        let fastest = Duration::MAX;
        let (acked, lost, app_limited, late, queued) = (0, 0, false, 0, false);
        Self { began, window, acked, lost, app_limited, fastest, late, queued }
    }

    fn answered(&mut self, after: Duration, shortest: Duration) {
        self.fastest = self.fastest.min(after);
        let late = after > shortest + (shortest / LATE_SHARE).max(LATE_MIN);
        self.late = if late { self.late + 1 } else { 0 };
        self.queued |= self.late >= QUEUED_SAMPLES;
    }

    /// Whether about as much was under way as the window let.
    fn filled_the_window(&self) -> bool {
        (self.acked + self.lost) * 2 >= self.window
    }

    /// Whether more than so many hundredths of it were lost.
    fn lost_more_than(&self, hundredths: u64) -> bool {
        self.lost * 100 > (self.acked + self.lost) * hundredths
    }
}

impl Rate {
    pub(super) fn new(now: Instant, mtu: u16, first_window: u64, gate: Arc<Gate>) -> Self {
        Self {
            mtu: u64::from(mtu),
            first_window,
            window: first_window,
            phase: Phase::Start,
            round: Round::new(now, first_window),
            rates: VecDeque::with_capacity(ROUNDS_KEPT + 1),
            best_at_start: 0,
            flat_rounds: 0,
            rounds_since_probe: 0,
            crowded: false,
            train: Train::Waiting,
            gate,
        }
    }

    /// What fills the line at `rtt`, times `hundredths`.
    fn share_of_line(&self, rtt: Duration, hundredths: u64) -> u64 {
        let rate = self.rates.iter().copied().max().unwrap_or(0);
        let bytes =
            u128::from(rate) * rtt.as_nanos() / 1_000_000_000 * u128::from(hundredths) / 100;
        u64::try_from(bytes).unwrap_or(WINDOW_MAX).clamp(DATAGRAMS_MIN * self.mtu, WINDOW_MAX)
    }

    fn round_ended(&mut self, now: Instant, shortest: Duration) {
        let round = std::mem::replace(&mut self.round, Round::new(now, self.window));
        let took = now.saturating_duration_since(round.began).as_nanos().max(1);
        let rate =
            u64::try_from(u128::from(round.acked) * 1_000_000_000 / took).unwrap_or(u64::MAX);
        let congested = round.lost_more_than(LOSS_MAX) && self.phase != Phase::Start;
        if congested {
            self.rates.clear();
        }
        let best = self.rates.iter().copied().max().unwrap_or(0);
        // A start that ends within a round has seen too little of it to judge by that.
        let whole = took >= (shortest / 4).as_nanos() || self.rates.is_empty();
        if whole && (!round.app_limited || rate > best) {
            self.rates.push_back(rate);
            if self.rates.len() > ROUNDS_KEPT {
                self.rates.pop_front();
            }
        }
        if self.phase == Phase::Start && !self.start_is_over(&round, rate) {
            return;
        }
        if self.phase == Phase::Cruise && self.rounds_since_probe == 1 && !round.app_limited {
            // What it heard of was sent in the round that held back.
            let late = (shortest * CROWDED_LATE / 100).max(LATE_MIN);
            self.crowded = round.fastest > shortest + late;
        }
        self.phase = match self.phase {
            Phase::Start | Phase::Probe => Phase::Drain,
            Phase::Drain => Phase::Cruise,
            Phase::Cruise if congested => Phase::Cruise,
            Phase::Cruise if self.rounds_since_probe + 1 >= PROBE_EVERY => Phase::Probe,
            Phase::Cruise => Phase::Cruise,
        };
        self.rounds_since_probe = match self.phase {
            Phase::Probe | Phase::Drain => 0,
            _ => self.rounds_since_probe + 1,
        };
        let hundredths = match self.phase {
            Phase::Drain => DRAIN,
            _ if self.crowded => CROWDED,
            Phase::Probe => PROBE,
            _ => CRUISE,
        };
        self.window = self.share_of_line(shortest, hundredths);
    }

    fn start_is_over(&mut self, round: &Round, rate: u64) -> bool {
        if round.queued || round.lost_more_than(START_LOSS_MAX) {
            return true;
        }
        if !round.filled_the_window() {
            return false;
        }
        let grew = rate > self.best_at_start + self.best_at_start / 4;
        self.best_at_start = self.best_at_start.max(rate);
        self.flat_rounds = if grew { 0 } else { self.flat_rounds + 1 };
        self.flat_rounds >= 2
    }

    fn acknowledged(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        shortest: Duration,
    ) {
        self.round.acked += bytes;
        self.round.app_limited |= app_limited;
        if !app_limited && !self.train.includes(sent) {
            // What answers a few messages waits for more of them.
            self.round.answered(now.saturating_duration_since(sent), shortest);
        }
        if self.phase == Phase::Start && !app_limited {
            let growth = match self.window < START_FAST_MAX {
                true => START_GROWTH,
                false if self.train.has_told() => START_GROWTH_TOLD,
                false => START_GROWTH_LATER,
            };
            self.window = (self.window + bytes * (growth - 100) / 100).min(WINDOW_MAX);
        }
        let told = self.train.answered(now, sent, bytes, shortest);
        if let (Phase::Start, Some(window)) = (self.phase, told) {
            self.window = self.window.max(window);
        }
        let start_is_over = self.phase == Phase::Start && self.round.queued;
        if sent >= self.round.began || start_is_over {
            self.round_ended(now, shortest);
        }
    }
}

impl Controller for Rate {
    fn on_sent(&mut self, now: Instant, bytes: u64, _last_packet_number: u64) {
        if self.train.is_leaving() && self.gate.has_bulk() {
            self.train.sent(now, bytes, self.mtu);
        }
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.acknowledged(now, sent, bytes, app_limited, rtt.min());
    }

    fn on_congestion_event(
        &mut self,
        _now: Instant,
        _sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.round.lost += lost_bytes;
        if is_persistent_congestion {
            // The line was gone: what it could carry before says nothing.
            self.rates.clear();
            self.train.forget();
            self.best_at_start = 0;
            self.flat_rounds = 0;
            self.phase = Phase::Start;
            self.window = self.first_window;
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = u64::from(new_mtu);
        self.window = self.window.max(DATAGRAMS_MIN * self.mtu);
    }

    /// Without bound while the train leaves, which also switches quinn's pacer off.
    fn window(&self) -> u64 {
        let is_train =
            self.phase == Phase::Start && self.train.is_leaving() && self.gate.has_bulk();
        if is_train { u64::MAX } else { self.window }
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.first_window
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests;

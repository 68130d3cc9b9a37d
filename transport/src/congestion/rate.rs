//! A controller that follows the rate the line delivers, not its losses.
//!
//! A long line that loses a packet in a thousand holds CUBIC to a small part of its rate, and the BBR
//! of quinn 0.11 falls into its recovery window after its first overshoot. This one does less: it
//! measures, round by round, how many bytes are acknowledged in what time, and keeps a little more
//! in flight than that rate fills at the shortest round trip seen.
//!
//! - *Start*: the window doubles every round until two rounds that filled it delivered less than a
//!   quarter more than the best before, or even the fastest answer of such a round stood in a queue,
//!   or a tenth of it was lost. Rounds of a few control messages end nothing.
//! - *Cruise*: the window is [`CRUISE`] of rate x shortest round trip, the rate being the best of the
//!   last [`ROUNDS_KEPT`] rounds; every [`PROBE_EVERY`] rounds one round is sent with [`PROBE`], and
//!   the next with no more than the line holds, so that a queue it built drains.
//!
//! Stray losses change nothing. A round that loses more than [`LOSS_MAX`] forgets the best rounds and
//! follows itself: so it makes room for others at a full queue. Rounds in which the application sent
//! less than it might never lower the rate. Nothing survives a crash.

use std::{
    any::Any,
    collections::VecDeque,
    time::{Duration, Instant},
};

use quinn::congestion::Controller;
use quinn_proto::RttEstimator;

/// Rounds whose best rate counts.
const ROUNDS_KEPT: usize = 10;
/// Window in hundredths of what the line holds, in most rounds.
const CRUISE: u64 = 125;
/// The same in a round that looks for more.
const PROBE: u64 = 160;
/// The same in the round after it.
const DRAIN: u64 = 100;
/// Rounds from one look for more to the next.
const PROBE_EVERY: u32 = 8;
/// Loss of a round, in hundredths, above which it is taken for congestion.
const LOSS_MAX: u64 = 8;
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
}

impl Round {
    fn new(began: Instant, window: u64) -> Self {
        Self { began, window, acked: 0, lost: 0, app_limited: false, fastest: Duration::MAX }
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
    pub(super) fn new(now: Instant, mtu: u16, first_window: u64) -> Self {
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
        if !round.app_limited || rate > best {
            self.rates.push_back(rate);
            if self.rates.len() > ROUNDS_KEPT {
                self.rates.pop_front();
            }
        }
        if self.phase == Phase::Start && !self.start_is_over(&round, rate, shortest) {
            return;
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
            Phase::Probe => PROBE,
            Phase::Drain => DRAIN,
            _ => CRUISE,
        };
        self.window = self.share_of_line(shortest, hundredths);
    }

    fn start_is_over(&mut self, round: &Round, rate: u64, shortest: Duration) -> bool {
        if round.lost_more_than(START_LOSS_MAX) {
            return true;
        }
        if !round.filled_the_window() {
            return false;
        }
        let grew = rate > self.best_at_start + self.best_at_start / 4;
        self.best_at_start = self.best_at_start.max(rate);
        self.flat_rounds = if grew { 0 } else { self.flat_rounds + 1 };
        let queued = round.fastest > shortest + (shortest / 4).max(Duration::from_millis(4));
        self.flat_rounds >= 2 || queued
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
        self.round.fastest = self.round.fastest.min(now.saturating_duration_since(sent));
        if self.phase == Phase::Start && !app_limited {
            self.window = (self.window + bytes).min(WINDOW_MAX);
        }
        if sent >= self.round.began {
            self.round_ended(now, shortest);
        }
    }
}

impl Controller for Rate {
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

    fn window(&self) -> u64 {
        self.window
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
mod tests {
    use super::*;

    /// A line in rounds: `rate` bytes a second, `shortest` there and back, room for `queue` bytes; so
    /// many hundredths of what is sent are lost besides. Answers bytes delivered in `rounds` rounds.
    struct Line {
        rate: u64,
        shortest: Duration,
        queue: u64,
        loss_hundredths: u64,
    }

    fn run(line: &Line, rounds: u32, control: &mut Rate) -> u64 {
        let mut now = control.round.began;
        let holds = line.rate * line.shortest.as_millis() as u64 / 1_000;
        let mut delivered = 0;
        for _ in 0..rounds {
            let sent = control.window();
            let queued = sent.saturating_sub(holds).min(line.queue);
            let dropped =
                sent.saturating_sub(holds + line.queue) + sent * line.loss_hundredths / 100;
            let took = line.shortest + Duration::from_nanos(queued * 1_000_000_000 / line.rate);
            let began = now;
            now += took;
            if dropped > 0 {
                control.on_congestion_event(now, began, false, dropped);
            }
            let arrived = sent.saturating_sub(dropped);
            delivered += arrived;
            // The last of them is the first of the next round.
            let rest = arrived.saturating_sub(1_400);
            control.acknowledged(now, began - Duration::from_nanos(1), rest, false, line.shortest);
            control.acknowledged(now, began, arrived.min(1_400), false, line.shortest);
        }
        delivered
    }

    const LONG: Line = Line {
        rate: 25_000_000,
        shortest: Duration::from_millis(80),
        queue: 500_000,
        loss_hundredths: 0,
    };

    #[test]
    fn a_long_line_is_filled_with_or_without_stray_losses() {
        for loss_hundredths in [0, 1, 3] {
            let line = Line { loss_hundredths, ..LONG };
            let mut control = Rate::new(Instant::now(), 1_400, 14_720);
            // The start and its overshoot.
            run(&line, 14, &mut control);
            let delivered = run(&line, 100, &mut control);
            let holds = 2_000_000;
            assert!(delivered > 100 * holds * 85 / 100, "{loss_hundredths}: {delivered}");
        }
    }

    #[test]
    fn it_makes_room_when_the_line_becomes_narrow() {
        let mut control = Rate::new(Instant::now(), 1_400, 14_720);
        run(&LONG, 40, &mut control);
        let wide = control.window();
        let narrow = Line { rate: 2_500_000, queue: 50_000, ..LONG };
        run(&narrow, 20, &mut control);
        assert!(control.window() < wide / 4, "{} of {wide}", control.window());
        run(&LONG, 60, &mut control);
        assert!(control.window() > wide * 3 / 4, "{} of {wide}", control.window());
    }

    #[test]
    fn control_messages_do_not_end_the_start() {
        let mut control = Rate::new(Instant::now(), 1_200, 14_720);
        let mut now = Instant::now();
        for took in [110, 80, 81, 80] {
            let sent = now;
            now += Duration::from_millis(took);
            control.acknowledged(now, sent, 300, false, Duration::from_millis(80));
        }
        assert_eq!(control.phase, Phase::Start);
        assert!(control.window() >= 14_720);
    }

    #[test]
    fn a_line_that_was_gone_starts_over() {
        let mut control = Rate::new(Instant::now(), 1_400, 14_720);
        run(&LONG, 40, &mut control);
        control.on_congestion_event(Instant::now(), Instant::now(), true, 1_000_000);
        assert_eq!((control.window(), control.phase), (14_720, Phase::Start));
    }
}

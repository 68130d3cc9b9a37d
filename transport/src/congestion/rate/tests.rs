//! The control against models of a line: in rounds, and packet by packet.

use super::*;
use crate::path::PathMtu;

mod company;

/// The control of a connection that carries no bulk yet: its start is that of windows alone.
fn quiet(now: Instant, mtu: u16, first_window: u64) -> Rate {
    let gate = Gate::new(PathMtu { initial: mtu, upper: mtu });
    Rate::new(now, mtu, first_window, gate)
}

/// The control of a connection whose bulk begins.
fn with_bulk() -> Rate {
    let control = quiet(Instant::now(), 1_400, 14_720);
    control.gate.bulk_begins();
    control
}

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
        let dropped = sent.saturating_sub(holds + line.queue) + sent * line.loss_hundredths / 100;
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
        let mut control = quiet(Instant::now(), 1_400, 14_720);
        // The start and its overshoot.
        run(&line, 14, &mut control);
        let delivered = run(&line, 100, &mut control);
        let holds = 2_000_000;
        assert!(delivered > 100 * holds * 85 / 100, "{loss_hundredths}: {delivered}");
    }
}

#[test]
fn it_makes_room_when_the_line_becomes_narrow() {
    let mut control = quiet(Instant::now(), 1_400, 14_720);
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
    let mut control = quiet(Instant::now(), 1_200, 14_720);
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
    let mut control = quiet(Instant::now(), 1_400, 14_720);
    run(&LONG, 40, &mut control);
    control.on_congestion_event(Instant::now(), Instant::now(), true, 1_000_000);
    assert_eq!((control.window(), control.phase), (14_720, Phase::Start));
}

/// A train that was under way when the line went tells nothing of it either, however late its answers come.
#[test]
fn a_train_under_way_goes_with_its_line() {
    for datagrams in [10, train::TRAIN_DATAGRAMS] {
        let mut control = with_bulk();
        let left = Instant::now();
        (0..datagrams).for_each(|number| control.on_sent(left, 1_400, number));
        control.on_congestion_event(left, left, true, 1_400);
        assert_eq!((control.window(), control.phase), (14_720, Phase::Start), "{datagrams}");
        for number in 0..datagrams {
            let now = left + LONG.shortest + Duration::from_micros(50 * number);
            control.acknowledged(now, left, 1_400, true, LONG.shortest);
        }
        assert!(!control.train.has_told() && control.window() < 100_000, "{datagrams}");
    }
}

/// What a train told of the line before says nothing of the next: its start doubles as if none had told.
#[test]
fn a_line_that_was_gone_is_not_the_one_that_a_train_told_of() {
    let mut control = with_bulk();
    SITES.send(4 << 20, &mut control);
    assert!(control.train.has_told());
    control.on_congestion_event(Instant::now(), Instant::now(), true, 1_000_000);
    control.window = START_FAST_MAX;
    let now = Instant::now() + LONG.shortest;
    let before_the_round = control.round.began - Duration::from_nanos(1);
    control.acknowledged(now, before_the_round, START_FAST_MAX, false, LONG.shortest);
    assert_eq!(control.window, START_FAST_MAX * 2);
}

/// Beside one who keeps the queue full, late answers after a round that held back say so; alone they
/// are in time.
#[test]
fn it_holds_its_ground_where_others_fill_the_queue_and_only_there() {
    let mut control = quiet(Instant::now(), 1_400, 14_720);
    let alone = SITES.send(128 << 20, &mut control);
    assert!(!control.crowded, "alone: {alone:?}");
    assert!(control.window() < 2_000_000 * 17 / 10, "{}", control.window());
    // The shortest round trip is known; every answer now comes 60 ms later, at half the rate.
    let shortest = LONG.shortest;
    let mut now = control.round.began;
    for _ in 0..30 {
        let began = now;
        let took = shortest + Duration::from_millis(60);
        now += took;
        let arrived = control.window().min(12_500_000 * 140 / 1_000);
        let before = began - Duration::from_nanos(1);
        control.acknowledged(now, before, arrived - 1_400, false, shortest);
        control.acknowledged(now, began, 1_400, false, shortest);
    }
    assert!(control.crowded, "in company");
    let fair = 12_500_000 * 80 / 1_000;
    let held = control.window();
    assert!(held > fair * 3 / 2 || control.phase == Phase::Drain, "{held} of {fair}");
    // The others are gone: each packet is answered in time again.
    for _ in 0..30 {
        let began = now;
        now += shortest;
        let before = began - Duration::from_nanos(1);
        control.acknowledged(now, before, 1_998_600, false, shortest);
        control.acknowledged(now, began, 1_400, false, shortest);
    }
    assert!(!control.crowded, "alone again");
}

/// A line packet by packet, and one transfer over it that paces as quinn does.
struct Packets {
    /// Bytes a second.
    rate: u64,
    shortest: Duration,
    /// Bytes that may wait.
    queue: u64,
    /// One packet in so many is lost; 0 for none.
    lost_one_in: u64,
}

/// How a transfer went.
#[derive(Debug)]
struct Transfer {
    took: Duration,
    /// Packets that found the queue full.
    dropped: u64,
    /// Bytes that waited, in the mean of the second half.
    mean_waiting: u64,
}

const PACKET: u64 = 1_400;

impl Packets {
    fn send(&self, bytes: u64, control: &mut Rate) -> Transfer {
        let start = control.round.began;
        let shortest = self.shortest.as_nanos() as u64;
        let (mut now, mut left, mut in_flight) = (0u64, bytes, 0u64);
        let (mut free_at, mut paced_at, mut smoothed) = (0u64, 0u64, shortest);
        // Answer at, sent at, whether it arrived.
        let mut answers: VecDeque<(u64, u64, bool)> = VecDeque::new();
        let (mut lost_before_next, mut number, mut dropped) = (0, 0u64, 0);
        let (mut waited, mut looks) = (0u64, 0u64);
        while left > 0 || in_flight > 0 {
            let interval = PACKET * smoothed * 4 / 5 / control.window().max(1);
            let may_send = left > 0 && in_flight + PACKET <= control.window();
            let send_at = now.max(paced_at.saturating_sub(10 * interval));
            match answers.front().copied() {
                Some((at, sent, arrived)) if !may_send || at <= send_at => {
                    answers.pop_front();
                    now = now.max(at);
                    in_flight -= PACKET;
                    if !arrived {
                        lost_before_next += PACKET;
                        left += PACKET;
                        continue;
                    }
                    let instant = |ns| start + Duration::from_nanos(ns);
                    smoothed = (smoothed * 7 + (now - sent)) / 8;
                    if lost_before_next > 0 {
                        let lost = std::mem::take(&mut lost_before_next);
                        control.on_congestion_event(instant(now), instant(sent), false, lost);
                    }
                    control.acknowledged(
                        instant(now),
                        instant(sent),
                        PACKET,
                        left == 0,
                        self.shortest,
                    );
                }
                _ if !may_send => break,
                _ => {
                    now = send_at;
                    paced_at = paced_at.max(now) + interval;
                    number += 1;
                    left -= PACKET.min(left);
                    control.on_sent(start + Duration::from_nanos(now), PACKET, number);
                    in_flight += PACKET;
                    let begins = free_at.max(now);
                    let waiting = (begins - now) * self.rate / 1_000_000_000;
                    if left < bytes / 2 {
                        (waited, looks) = (waited + waiting, looks + 1);
                    }
                    let fits = waiting + PACKET <= self.queue;
                    dropped += u64::from(!fits);
                    if fits {
                        free_at = begins + PACKET * 1_000_000_000 / self.rate;
                    }
                    let stray = self.lost_one_in > 0 && number.is_multiple_of(self.lost_one_in);
                    answers.push_back((free_at + shortest, now, fits && !stray));
                }
            }
        }
        let took = Duration::from_nanos(now);
        Transfer { took, dropped, mean_waiting: waited / looks.max(1) }
    }
}

/// A line of 80 ms and 200 Mbit/s, with a queue of one bandwidth-delay product.
const SITES: Packets = Packets {
    rate: 25_000_000,
    shortest: Duration::from_millis(80),
    queue: 2_000_000,
    lost_one_in: 0,
};

#[test]
fn a_transfer_soon_fills_the_line_and_no_queue() {
    for rtt in [20, 80, 200] {
        for lost_one_in in [0, 1_000, 100] {
            let shortest = Duration::from_millis(rtt);
            let queue = SITES.rate * rtt / 1_000;
            let line = Packets { shortest, queue, lost_one_in, ..SITES };
            let mut control = with_bulk();
            let sent = line.send(64 << 20, &mut control);
            // The figures of docs/performance.md and docs/decisions.md.
            let half = Packets { queue: queue / 2, ..line }.send(64 << 20, &mut with_bulk());
            for (queue, sent) in [("as long as the line", &sent), ("of half its length", &half)] {
                let more = sent.took.as_secs_f64() - (64 << 20) as f64 / 25e6;
                println!(
                    "{rtt} ms, 1 in {lost_one_in} lost, a queue {queue}: {:.2} round trips more than at \
                     the full rate, {} packets dropped",
                    more / shortest.as_secs_f64(),
                    sent.dropped
                );
            }
            assert!(!control.crowded, "{rtt} ms, 1 in {lost_one_in}: {sent:?}");
            // At the full rate, and six round trips to begin, to mend and to end.
            let least = Duration::from_secs_f64((64 << 20) as f64 / 25e6);
            assert!(sent.took < least + shortest * 6, "{rtt} ms, 1 in {lost_one_in}: {sent:?}");
            // The start ends before a queue as long as the line is full, which is short most of the time.
            assert_eq!(sent.dropped, 0, "{rtt} ms, 1 in {lost_one_in}: {sent:?}");
            assert!(sent.mean_waiting < queue / 3, "{rtt} ms, 1 in {lost_one_in}: {sent:?}");
        }
    }
}

/// What a train tells spares the start round trips, and costs a thin line little more than itself.
#[test]
fn a_train_spares_round_trips_and_harms_no_thin_line() {
    let with = SITES.send(64 << 20, &mut with_bulk()).took;
    let without = SITES.send(64 << 20, &mut quiet(Instant::now(), 1_400, 14_720)).took;
    assert!(with + SITES.shortest * 3 < without, "{with:?} and {without:?}");
    for (rate, rtt, queue_ms) in [(250_000, 80, 200), (1_000_000, 20, 100), (1_000_000, 80, 80)] {
        let shortest = Duration::from_millis(rtt);
        let queue = rate * queue_ms / 1_000;
        let line = Packets { rate, shortest, queue, lost_one_in: 0 };
        let sent = line.send(rate * 6, &mut with_bulk());
        assert!(sent.dropped <= train::TRAIN_DATAGRAMS, "{rate} bytes a second: {sent:?}");
        assert!(sent.took < Duration::from_millis(6_400), "{rate} bytes a second: {sent:?}");
    }
}

/// A train that was sent and is answered, `bunches` answers at a time, each after the one before by this.
fn told_by(bunches: u32, apart: Duration, shortest: Duration) -> Option<u64> {
    let mut now = Instant::now();
    let sent = now;
    let mut train = Train::Waiting;
    train.sent(now, 100, 1_400);
    assert_eq!(train, Train::Waiting, "a header is no bulk");
    for _ in 0..train::TRAIN_DATAGRAMS {
        train.sent(now, 1_400, 1_400);
    }
    assert!(!train.is_leaving());
    now += shortest;
    for _ in 0..bunches {
        let bytes = train::TRAIN_DATAGRAMS * 1_400 / u64::from(bunches);
        if let Some(window) = train.answered(now, sent, bytes, shortest) {
            assert_eq!(train.answered(now, sent, bytes, shortest), None, "it tells once");
            return Some(window);
        }
        now += apart;
    }
    None
}

#[test]
fn a_train_tells_what_the_line_holds_and_bounds_what_bunched_answers_say() {
    let rtt = Duration::from_millis(80);
    // Two packets every 112 us are 25 Mbyte/s, which fill 2 MB.
    let told = told_by(32, Duration::from_micros(112), rtt).expect("an estimate");
    assert!((1_900_000..2_150_000).contains(&told), "{told}");
    // Held up and let go at once: a multiple of the train, whatever the round trip.
    let train = train::TRAIN_DATAGRAMS * 1_400;
    for rtt in [80, 2_000] {
        let told = told_by(1, Duration::ZERO, Duration::from_millis(rtt)).expect("an estimate");
        assert!(told <= 24 * train, "{told}");
    }
    let near = told_by(1, Duration::ZERO, Duration::from_millis(1)).expect("an estimate");
    assert!(near <= train, "{near}");
}

#[test]
fn a_train_leaves_with_the_first_bulk_and_never_again() {
    let mut control = quiet(Instant::now(), 1_400, 14_720);
    assert_eq!(control.window(), 14_720, "no bulk yet");
    control.gate.bulk_begins();
    assert_eq!(control.window(), u64::MAX);
    let now = Instant::now();
    for number in 0..train::TRAIN_DATAGRAMS {
        assert_eq!(control.window(), u64::MAX, "{number}");
        control.on_sent(now, 1_400, number);
    }
    assert_eq!(control.window(), 14_720, "it left");
    control.on_congestion_event(now, now, true, 100_000);
    assert_eq!((control.phase, control.window()), (Phase::Start, 14_720), "a line that was gone");
}

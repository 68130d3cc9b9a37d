//! The control beside TCP: two flows packet by packet through one queue.

use super::*;

/// CUBIC as RFC 9438 has it, in packets.
struct Cubic {
    window: f64,
    threshold: f64,
    most: f64,
    epoch: u64,
    recovers_from: u64,
}

impl Cubic {
    fn new() -> Self {
        Self { window: 10.0, threshold: f64::MAX, most: 0.0, epoch: 0, recovers_from: 0 }
    }

    fn answered(&mut self, now: u64, round_trip: u64) {
        if self.window < self.threshold {
            self.window += 1.0;
            return;
        }
        let seconds = |ns: u64| ns as f64 / 1e9;
        let since = seconds(now - self.epoch);
        let k = (self.most * 0.3 / 0.4).cbrt();
        let target = 0.4 * (since + seconds(round_trip) - k).powi(3) + self.most;
        let friendly = self.most * 0.7 + 0.53 * since / seconds(round_trip);
        let target = target.max(friendly).min(self.window * 1.5);
        self.window += (target - self.window).max(0.01) / self.window;
    }

    fn lost(&mut self, now: u64, sent: u64) {
        if sent >= self.recovers_from {
            self.most = self.window;
            self.window = (self.window * 0.7).max(2.0);
            (self.threshold, self.epoch, self.recovers_from) = (self.window, now, now);
        }
    }
}

/// What is under way of one flow: answer at, sent at, whether it arrived.
type UnderWay = VecDeque<(u64, u64, bool)>;

/// Ours joins a TCP flow that has the line for itself; bytes a second of both, from three seconds after that.
fn share(line: &Packets, control: &mut Rate, seconds: u64) -> (u64, u64) {
    const SECOND: u64 = 1_000_000_000;
    let (joins, ends) = (8 * SECOND, (8 + seconds) * SECOND);
    let counted_from = joins + 3 * SECOND;
    let start = control.round.began;
    let instant = |ns: u64| start + Duration::from_nanos(ns);
    let shortest = line.shortest.as_nanos() as u64;
    let (mut now, mut free_at, mut number) = (0u64, 0u64, 0u64);
    let mut tcp = Cubic::new();
    let (mut theirs, mut ours) = (UnderWay::new(), UnderWay::new());
    let (mut paced_at, mut smoothed, mut least, mut lost) = (joins, shortest * 2, u64::MAX, 0u64);
    let (mut got_theirs, mut got_ours) = (0u64, 0u64);
    while now < ends {
        let tcp_sends = (theirs.len() as f64) < tcp.window;
        let interval = PACKET * smoothed * 4 / 5 / control.window().max(1);
        let we_send = (ours.len() as u64 + 1) * PACKET <= control.window();
        let our_time = now.max(joins).max(paced_at.saturating_sub(10 * interval));
        let times = [
            if tcp_sends { now } else { u64::MAX },
            if we_send { our_time } else { u64::MAX },
            theirs.front().map_or(u64::MAX, |a| a.0),
            ours.front().map_or(u64::MAX, |a| a.0),
        ];
        let first = (0..4).min_by_key(|&i| (times[i], 3 - i)).unwrap_or(0);
        now = now.max(times[first]);
        match first {
            0 | 1 => {
                number += 1;
                let begins = free_at.max(now);
                let fits = (begins - now) * line.rate / SECOND + PACKET <= line.queue;
                if fits {
                    free_at = begins + PACKET * SECOND / line.rate;
                }
                let stray = line.lost_one_in > 0 && number.is_multiple_of(line.lost_one_in);
                let answer = (free_at + shortest, now, fits && !stray);
                if first == 0 {
                    theirs.push_back(answer);
                } else {
                    paced_at = paced_at.max(now) + interval;
                    control.on_sent(instant(now), PACKET, number);
                    ours.push_back(answer);
                }
            }
            2 => {
                let (_, sent, arrived) = theirs.pop_front().expect("an answer");
                match arrived {
                    true => tcp.answered(now, now - sent),
                    false => tcp.lost(now, sent),
                }
                got_theirs += u64::from(arrived && now >= counted_from) * PACKET;
            }
            _ => {
                let (_, sent, arrived) = ours.pop_front().expect("an answer");
                if !arrived {
                    lost += PACKET;
                    continue;
                }
                least = least.min(now - sent);
                smoothed = (smoothed * 7 + (now - sent)) / 8;
                if lost > 0 {
                    let lost = std::mem::take(&mut lost);
                    control.on_congestion_event(instant(now), instant(sent), false, lost);
                }
                let least = Duration::from_nanos(least);
                control.acknowledged(instant(now), instant(sent), PACKET, false, least);
                got_ours += u64::from(now >= counted_from) * PACKET;
            }
        }
    }
    let span = ends / SECOND - counted_from / SECOND;
    (got_ours / span, got_theirs / span)
}

/// A flow that joins a queue which another keeps full never sees the shortest round trip, and still gets
/// a share that is near its half.
#[test]
fn beside_tcp_it_gets_a_fair_share_and_leaves_one() {
    for rtt in [40, 80, 160] {
        let shortest = Duration::from_millis(rtt);
        let line = Packets { shortest, queue: SITES.rate * rtt / 1_000, ..SITES };
        let mut control = with_bulk();
        let (ours, theirs) = share(&line, &mut control, 30);
        let all = line.rate;
        assert!(ours > all * 30 / 100, "{rtt} ms: {ours} beside {theirs}");
        assert!(theirs > all * 30 / 100, "{rtt} ms: {ours} beside {theirs}");
    }
}

//! What was seen over time, in memory that does not grow: the lag of the last hour, rates of the last minute.
//!
//! Both are told the time and know no clock. Neither survives the process.

use super::facts::LagHourStatus;

/// Seconds of lag that are kept.
const HOUR: usize = 3_600;

/// The lag of each of the last 3,600 seconds: the largest within it. Between two recovery points lag grows as time
/// does, so what was not sampled is still known.
#[derive(Debug, Clone)]
pub(super) struct LagHour {
    /// By second of the steady clock, modulo its length; milliseconds.
    ring: Vec<u32>,
    /// The first second that is not in it yet.
    next: u64,
    /// How many seconds before it are.
    known: usize,
    /// Largest lag just before a recovery point within the second `next`.
    partial: u32,
    /// At this steady time the lag was this.
    base: Option<(u64, u64)>,
}

impl Default for LagHour {
    fn default() -> Self {
        Self { ring: vec![0; HOUR], next: 0, known: 0, partial: 0, base: None }
    }
}

impl LagHour {
    /// A recovery point: from now on the lag is `lag_ms` and grows.
    pub(super) fn point(&mut self, steady_ms: u64, lag_ms: u64) {
        if self.base.is_none() {
            self.next = steady_ms / 1_000;
        }
        self.advance(steady_ms);
        let before = self.base.map_or(lag_ms, |base| lag_at(base, steady_ms));
        self.partial = self.partial.max(clamped(before.max(lag_ms)));
        self.base = Some((steady_ms, lag_ms));
    }

    /// Enters every second that is over by now.
    pub(super) fn advance(&mut self, steady_ms: u64) {
        let Some(base) = self.base else { return };
        let second = steady_ms / 1_000;
        if second.saturating_sub(self.next) > HOUR as u64 {
            self.next = second - HOUR as u64;
            self.known = 0;
            self.partial = 0;
        }
        while self.next < second {
            let at_end = clamped(lag_at(base, (self.next + 1) * 1_000));
            let place = self.place(self.next);
            self.ring[place] = at_end.max(self.partial);
            self.partial = 0;
            self.known = (self.known + 1).min(HOUR);
            self.next += 1;
        }
    }

    /// The lag now. It is what it was at the last recovery point and the time since then by a clock that does not
    /// jump: whoever sets the machine's clock back makes no lag vanish.
    pub(super) fn now(&self, steady_ms: u64) -> Option<u64> {
        self.base.map(|base| lag_at(base, steady_ms))
    }

    /// What the seconds entered say, and the one under way.
    pub(super) fn status(&self, steady_ms: u64) -> Option<LagHourStatus> {
        let base = self.base?;
        let now = clamped(lag_at(base, steady_ms)).max(self.partial);
        let mut all: Vec<u32> = (1..=self.known as u64)
            .filter_map(|back| self.next.checked_sub(back))
            .map(|second| self.ring[self.place(second)])
            .collect();
        all.push(now);
        all.sort_unstable();
        let part = |percent: usize| u64::from(all[(all.len() - 1) * percent / 100]);
        Some(LagHourStatus {
            p50_ms: part(50),
            p99_ms: part(99),
            max_ms: part(100),
            seconds: self.known as u64,
        })
    }

    #[allow(clippy::cast_possible_truncation)]
    fn place(&self, second: u64) -> usize {
        (second % HOUR as u64) as usize
    }
}

fn lag_at((since, lag): (u64, u64), steady_ms: u64) -> u64 {
    lag.saturating_add(steady_ms.saturating_sub(since))
}

fn clamped(ms: u64) -> u32 {
    u32::try_from(ms).unwrap_or(u32::MAX)
}

/// Seconds of traffic that are kept; a little more than the longest span asked for.
const KEPT: usize = 64;
/// "Now" is this many seconds: less jumps about, more is late.
const NOW_S: u64 = 5;
const MINUTE_S: u64 = 60;

/// Bytes of each of the last seconds, and of all time.
#[derive(Debug, Clone)]
pub(super) struct Rates {
    ring: [u64; KEPT],
    second: u64,
    began: u64,
    pub(super) total: u64,
    /// What a counter elsewhere said last, of which only the difference is added.
    told: u64,
}

impl Rates {
    pub(super) fn new(steady_ms: u64) -> Self {
        let second = steady_ms / 1_000;
        Self { ring: [0; KEPT], second, began: second, total: 0, told: 0 }
    }

    /// The counter of a new connection begins at 0.
    pub(super) fn restart(&mut self) {
        self.told = 0;
    }

    /// A counter that grows says `total`; one that shrank began anew.
    pub(super) fn counter(&mut self, steady_ms: u64, total: u64) {
        let more = total.checked_sub(self.told).unwrap_or(total);
        self.told = total;
        self.advance(steady_ms);
        self.total = self.total.saturating_add(more);
        let place = Self::place(self.second);
        self.ring[place] = self.ring[place].saturating_add(more);
    }

    /// Bytes a second now, and over a minute.
    pub(super) fn rates(&mut self, steady_ms: u64) -> (u64, u64) {
        self.advance(steady_ms);
        (self.over(NOW_S), self.over(MINUTE_S))
    }

    /// Over whole seconds that are behind us.
    fn over(&self, seconds: u64) -> u64 {
        let seconds = seconds.min(self.second - self.began);
        if seconds == 0 {
            return self.ring[Self::place(self.second)];
        }
        let sum = (1..=seconds).fold(0_u64, |sum, back| {
            sum.saturating_add(self.ring[Self::place(self.second - back)])
        });
        sum / seconds
    }

    fn advance(&mut self, steady_ms: u64) {
        let second = (steady_ms / 1_000).max(self.second);
        if second - self.second >= KEPT as u64 {
            self.ring = [0; KEPT];
        } else {
            for passed in self.second + 1..=second {
                self.ring[Self::place(passed)] = 0;
            }
        }
        self.second = second;
    }

    fn place(second: u64) -> usize {
        // Less than what is kept.
        usize::try_from(second % KEPT as u64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_between_points_is_known_without_a_sample() {
        let mut lag = LagHour::default();
        assert!(lag.status(5_000).is_none());
        // Nine seconds of a second's lag each, then one of half a minute.
        for n in 0..10 {
            lag.point(10_000 + n * 1_000, 0);
        }
        lag.advance(49_000);
        let status = lag.status(49_000).expect("points");
        assert_eq!((status.seconds, status.max_ms), (39, 30_000));
        assert_eq!(status.p50_ms, 11_000, "half of the seconds are in the long gap");
        lag.point(49_500, 100);
        assert_eq!(lag.status(49_600).expect("points").max_ms, 30_500, "just before the point");
    }

    #[test]
    fn an_hour_later_the_former_hour_is_forgotten() {
        let mut lag = LagHour::default();
        lag.point(0, 900_000);
        lag.point(1_000, 0);
        for second in 1..4_000 {
            lag.point(second * 1_000 + 500, 10);
        }
        let status = lag.status(4_000_000).expect("points");
        assert_eq!((status.seconds, status.p50_ms, status.max_ms), (3_600, 1_010, 1_010));
        // Nothing for longer than it remembers.
        lag.advance(40_000_000);
        let status = lag.status(40_000_000).expect("points");
        assert_eq!(status.seconds, 3_600);
        assert!(status.max_ms >= 36_000_000, "{status:?}");
    }

    #[test]
    fn rates_are_of_the_seconds_that_are_over() {
        let mut rates = Rates::new(0);
        for second in 0..10 {
            rates.counter(second * 1_000 + 1, (second + 1) * 700);
        }
        assert_eq!(rates.rates(10_000), (700, 700));
        assert_eq!(rates.rates(15_000), (0, 7_000 / 15));
        assert_eq!(rates.rates(1_000_000), (0, 0));
        assert_eq!(rates.total, 7_000);
        // A new connection counts from 0.
        rates.counter(1_000_500, 50);
        assert_eq!(rates.total, 7_050);
        rates.counter(1_000_600, 60);
        assert_eq!(rates.total, 7_060);
    }
}

//! How far the standby is behind: times, percentiles, a forecast, and the objective they are held against.
//!
//! Guarantees: a time never goes back; the share's time is the oldest of its accounts'; percentiles are
//! never below the truth and at most 1/16 above it, over a window of samples or up to 1/11 more of it; the
//! maximum is exact. Memory does not depend on the number of accounts that are up to date, nor on
//! the number of samples. No clock: every time is an argument. Nothing survives a crash; the points
//! sealed at both ends say where to begin again.

use std::collections::BTreeMap;

use crate::path::RelPath;

/// Parts of the window that expire one by one; one more is filled.
const PARTS: i64 = 11;
/// Steps between two powers of two.
const STEPS: u32 = 16;
/// Lags from 2^40 ms on (35 years) count as that.
const POWERS: u32 = 40;

/// T of a share and of its accounts, in milliseconds since 1970-01-01 UTC by the source's clock.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Times {
    /// Of every account that is not behind; none before the first point.
    base_ms: Option<i64>,
    behind: BTreeMap<RelPath, i64>,
}

impl Times {
    /// All accounts that are not behind are complete up to `time_ms`.
    pub fn advance(&mut self, time_ms: i64) {
        self.base_ms = Some(self.base_ms.map_or(time_ms, |base| base.max(time_ms)));
    }

    /// `account` stays where it is, or is complete up to `time_ms` if that is later, whatever the others do.
    /// To be said before [`Self::advance`] moves the others on.
    pub fn stay(&mut self, account: &RelPath, time_ms: Option<i64>) {
        let Some(now) = self.of(account).max(time_ms) else { return };
        match self.behind.get_mut(account) {
            Some(time) => *time = now,
            None => {
                self.behind.insert(account.clone(), now);
            }
        }
    }

    /// `account` is as complete as the others.
    pub fn caught_up(&mut self, account: &RelPath) {
        // An account ahead of the others would fall back with them.
        if self.behind.get(account).copied() <= self.base_ms {
            self.behind.remove(account);
        }
    }

    /// T of `account`.
    #[must_use]
    pub fn of(&self, account: &RelPath) -> Option<i64> {
        self.behind.get(account).copied().or(self.base_ms)
    }

    /// T of the share: the oldest.
    #[must_use]
    pub fn share(&self) -> Option<i64> {
        self.behind.values().copied().chain(self.base_ms).min()
    }

    /// The account that is furthest behind, if one is behind the others.
    #[must_use]
    pub fn furthest(&self) -> Option<(&RelPath, i64)> {
        let furthest = self.behind.iter().min_by_key(|&(_, time)| *time)?;
        (Some(*furthest.1) < self.base_ms).then_some((furthest.0, *furthest.1))
    }

    /// Milliseconds the share is behind; 0 for a clock that went back.
    #[must_use]
    pub fn lag_ms(&self, now_ms: i64) -> Option<u64> {
        self.share().map(|time| u64::try_from(now_ms.saturating_sub(time)).unwrap_or(0))
    }
}

/// Percentiles of a window of samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Percentiles {
    /// Samples they are of.
    pub samples: u64,
    /// The median, in milliseconds.
    pub p50_ms: u64,
    /// 99 of 100 samples are not above it.
    pub p99_ms: u64,
    /// The largest, exactly.
    pub max_ms: u64,
}

#[derive(Debug, Clone, Default)]
struct Part {
    number: i64,
    /// By step; sparse, a quiet share's lags fall into a few.
    counts: BTreeMap<u32, u64>,
    max_ms: u64,
}

/// Samples over a sliding window.
#[derive(Debug, Clone)]
pub struct Samples {
    part_ms: i64,
    parts: Vec<Part>,
}

impl Samples {
    /// Samples of the last `window_ms`.
    #[must_use]
    pub fn new(window_ms: u64) -> Self {
        let window_ms = i64::try_from(window_ms).unwrap_or(i64::MAX);
        Self { part_ms: (window_ms / PARTS).max(1), parts: Vec::new() }
    }

    /// Adds a sample; samples taken at equal distances make percentiles of time.
    pub fn add(&mut self, now_ms: i64, value_ms: u64) {
        let newest = self.parts.last().map_or(i64::MIN, |p| p.number);
        let number = now_ms.div_euclid(self.part_ms).max(newest);
        if number > newest {
            self.parts.push(Part { number, ..Part::default() });
            self.parts.retain(|p| p.number >= number.saturating_sub(PARTS));
        }
        if let Some(part) = self.parts.last_mut() {
            *part.counts.entry(step_of(value_ms)).or_default() += 1;
            part.max_ms = part.max_ms.max(value_ms);
        }
    }

    /// The percentiles.
    #[must_use]
    pub fn percentiles(&self) -> Percentiles {
        let mut counts: BTreeMap<u32, u64> = BTreeMap::new();
        for (&step, &count) in self.parts.iter().flat_map(|p| &p.counts) {
            *counts.entry(step).or_default() += count;
        }
        let samples: u64 = counts.values().sum();
        let max_ms = self.parts.iter().map(|p| p.max_ms).max().unwrap_or(0);
        let at = |percent: u64| {
            let rank = (samples * percent).div_ceil(100).max(1);
            let mut below = 0;
            let step = counts.iter().find_map(|(&step, &count)| {
                below += count;
                (below >= rank).then_some(step)
            });
            step.map_or(0, |step| end_of(step).min(max_ms))
        };
        Percentiles { samples, p50_ms: at(50), p99_ms: at(99), max_ms }
    }
}

/// The step a value lies in: exact up to [`STEPS`], then 16 between two powers of two.
fn step_of(value: u64) -> u32 {
    let value = value.min((1 << POWERS) - 1);
    let power = value.max(1).ilog2();
    let low = STEPS.ilog2();
    let shift = power.saturating_sub(low);
    let within = u32::try_from(value >> shift).unwrap_or(u32::MAX);
    shift * STEPS + within
}

/// The largest value of a step.
fn end_of(step: u32) -> u64 {
    if step < 2 * STEPS {
        return u64::from(step);
    }
    let shift = step / STEPS - 1;
    (u64::from(step - shift * STEPS + 1) << shift) - 1
}

/// When what waits will be done, from the rate of the last while.
#[derive(Debug, Clone, Default)]
pub struct Forecast {
    /// Bytes a second, smoothed; none before anything was measured.
    rate: Option<u64>,
    /// What was said last.
    said_ms: Option<u64>,
}

impl Forecast {
    /// `bytes` went through in `took_ms` in which there was work. Idle time says nothing of the rate.
    pub fn measured(&mut self, bytes: u64, took_ms: u64) {
        let now = u128::from(bytes) * 1_000 / u128::from(took_ms.max(1));
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        // A quarter of the new: a single small or large cut does not turn the forecast.
        self.rate = Some(self.rate.map_or(now, |rate| rate - rate / 4 + now / 4));
    }

    /// Bytes a second.
    #[must_use]
    pub fn rate(&self) -> Option<u64> {
        self.rate
    }

    /// Milliseconds until `waiting` bytes are done; what was said last unless it is off by an eighth, so that
    /// it does not flicker. None while no rate is known and something waits.
    pub fn done_in_ms(&mut self, waiting: u64) -> Option<u64> {
        if waiting == 0 {
            self.said_ms = Some(0);
            return Some(0);
        }
        let rate = self.rate.filter(|&rate| rate > 0)?;
        let ms = u64::try_from(u128::from(waiting) * 1_000 / u128::from(rate)).unwrap_or(u64::MAX);
        let kept = self.said_ms.filter(|&said| said > 0 && said.abs_diff(ms) <= said / 8);
        self.said_ms = Some(kept.unwrap_or(ms));
        self.said_ms
    }
}

/// How a share stands to its objective.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Standing {
    /// Within, and nothing says otherwise.
    #[default]
    Met,
    /// Within, but four fifths of it are used up, or what waits will take longer than is left.
    AtRisk,
    /// Broken.
    Broken,
}

/// A recovery point objective.
#[derive(Debug, Clone)]
pub struct Objective {
    objective_ms: u64,
    standing: Standing,
}

impl Objective {
    /// Data may be at most `objective_ms` old at the standby.
    #[must_use]
    pub fn new(objective_ms: u64) -> Self {
        Self { objective_ms, standing: Standing::Met }
    }

    /// How it stands, given the lag and when what waits will be done. It gets worse at once and better only
    /// below three fifths, so that it does not flicker.
    pub fn judge(&mut self, lag_ms: u64, done_in_ms: Option<u64>) -> Standing {
        let fifths = |n: u64| self.objective_ms / 5 * n + self.objective_ms % 5 * n / 5;
        let ahead = lag_ms.saturating_add(done_in_ms.unwrap_or(0));
        let now = if lag_ms > self.objective_ms {
            Standing::Broken
        } else if lag_ms > fifths(4) || ahead > self.objective_ms {
            Standing::AtRisk
        } else if ahead > fifths(3) {
            self.standing.min(Standing::AtRisk)
        } else {
            Standing::Met
        };
        self.standing = now;
        now
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn p(path: &str) -> RelPath {
        RelPath::new(path.as_bytes()).expect("a path")
    }

    #[test]
    fn the_share_is_as_old_as_its_oldest_account() {
        let mut times = Times::default();
        assert_eq!((times.share(), times.lag_ms(5)), (None, None));
        times.advance(100);
        times.stay(&p("a"), None);
        times.advance(200);
        assert_eq!(
            (times.of(&p("a")), times.of(&p("b")), times.share()),
            (Some(100), Some(200), Some(100))
        );
        assert_eq!(times.furthest(), Some((&p("a"), 100)));
        times.stay(&p("a"), Some(50));
        times.advance(150);
        assert_eq!((times.of(&p("a")), times.of(&p("b"))), (Some(100), Some(200)), "never back");
        times.stay(&p("a"), Some(180));
        assert_eq!(
            (times.share(), times.lag_ms(190), times.lag_ms(10)),
            (Some(180), Some(10), Some(0))
        );
        times.caught_up(&p("a"));
        assert_eq!((times.share(), times.furthest()), (Some(200), None));
    }

    proptest! {
        #[test]
        fn a_step_ends_at_most_a_sixteenth_above_its_values(value in 0u64..1 << POWERS) {
            let end = end_of(step_of(value));
            prop_assert!(end >= value && end - value <= value / 16, "{value} {end}");
        }

        #[test]
        fn percentiles_are_the_true_ones_or_a_sixteenth_above(
            values in prop::collection::vec(0u64..1_000_000, 1..300)
        ) {
            let mut samples = Samples::new(60_000);
            values.iter().for_each(|&v| samples.add(1_000, v));
            let mut sorted = values.clone();
            sorted.sort_unstable();
            let truth = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1];
            let found = samples.percentiles();
            for (found, truth) in [(found.p50_ms, truth(50)), (found.p99_ms, truth(99))] {
                prop_assert!(found >= truth && found - truth <= truth / 16);
            }
            prop_assert_eq!(found.max_ms, truth(100));
            prop_assert_eq!(found.samples, values.len() as u64);
        }

        #[test]
        fn nothing_makes_it_panic(values in prop::collection::vec(any::<(i64, u64)>(), 0..50)) {
            let (mut samples, mut forecast) = (Samples::new(values.len() as u64), Forecast::default());
            for (now, value) in values {
                samples.add(now, value);
                forecast.measured(value, value >> 60);
                let _standing = Objective::new(value).judge(value >> 1, forecast.done_in_ms(value));
            }
            prop_assert!(samples.parts.len() <= 12);
            samples.percentiles();
        }
    }

    #[test]
    fn samples_leave_with_their_window_and_not_before() {
        let mut samples = Samples::new(11_000);
        samples.add(0, 500);
        samples.add(11_000, 1);
        assert_eq!(samples.percentiles().max_ms, 500);
        samples.add(12_000, 1);
        assert_eq!(samples.percentiles().max_ms, 1);
        samples.add(3_000, 7);
        assert_eq!(samples.percentiles().max_ms, 7, "a clock that goes back");
    }

    #[test]
    fn a_forecast_does_not_flicker() {
        let mut forecast = Forecast::default();
        assert_eq!((forecast.done_in_ms(0), forecast.done_in_ms(1)), (Some(0), None));
        forecast.measured(1_000_000, 1_000);
        assert_eq!(forecast.done_in_ms(10_000_000), Some(10_000));
        assert_eq!(forecast.done_in_ms(9_000_000), Some(10_000));
        assert_eq!(forecast.done_in_ms(5_000_000), Some(5_000));
        forecast.measured(0, 1_000);
        assert_eq!(forecast.rate(), Some(750_000));
    }

    #[test]
    fn the_objective_warns_before_it_is_broken() {
        let mut objective = Objective::new(30_000);
        assert_eq!(objective.judge(10_000, Some(5_000)), Standing::Met);
        assert_eq!(
            objective.judge(10_000, Some(21_000)),
            Standing::AtRisk,
            "what waits takes too long"
        );
        assert_eq!(objective.judge(20_000, Some(0)), Standing::AtRisk, "no flicker");
        assert_eq!(objective.judge(18_000, Some(0)), Standing::Met);
        assert_eq!(objective.judge(24_001, None), Standing::AtRisk);
        assert_eq!(objective.judge(30_001, None), Standing::Broken);
        assert_eq!(objective.judge(20_000, None), Standing::AtRisk);
        assert_eq!(objective.judge(1, None), Standing::Met);
    }
}

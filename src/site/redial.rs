//! When a peer that could not be reached is tried again: ever later, but never so late that this alone breaks
//! what was promised.
//!
//! Pure: chance is an argument.

use std::time::Duration;

/// The first wait, and the shortest.
const FIRST: Duration = Duration::from_millis(500);
/// The longest where nothing was promised, or much time.
const LAST: Duration = Duration::from_secs(30);

/// The waits of one share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Redial {
    next: Duration,
    /// The longest wait.
    pub last: Duration,
}

impl Redial {
    /// Waits that leave three quarters of `objective` to what comes after them.
    #[must_use]
    pub fn within(objective: Option<Duration>) -> Self {
        let last = objective.map_or(LAST, |objective| objective / 4);
        Self { next: FIRST, last: last.clamp(FIRST, LAST) }
    }

    /// The next wait, of which up to a quarter is left out by `chance`, from 0 to 1: sites that lost each other
    /// at the same moment do not come back at the same moment.
    pub fn next(&mut self, chance: f64) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.last);
        wait.mul_f64(1.0 - 0.25 * chance.clamp(0.0, 1.0)).max(FIRST)
    }

    /// The peer was there.
    pub fn reset(&mut self) {
        self.next = FIRST.min(self.last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(objective: Option<u64>, chance: f64) -> Vec<u64> {
        let mut redial = Redial::within(objective.map(Duration::from_secs));
        (0..9).map(|_| u64::try_from(redial.next(chance).as_millis()).expect("short")).collect()
    }

    #[test]
    fn a_wait_takes_a_quarter_of_the_objective_at_most() {
        assert_eq!(waits(Some(30), 0.0)[..6], [500, 1_000, 2_000, 4_000, 7_500, 7_500]);
        assert_eq!(
            waits(None, 0.0)[..8],
            [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]
        );
        assert_eq!(waits(Some(3_600), 0.0)[8], 30_000);
        for objective in 1..600 {
            for chance in [0.0, 0.5, 1.0, 7.0, -1.0] {
                for wait in waits(Some(objective), chance) {
                    assert!(wait >= 500 && wait <= (objective * 250).clamp(500, 30_000), "{wait}");
                }
            }
        }
    }

    #[test]
    fn chance_takes_sites_apart_and_a_meeting_begins_anew() {
        assert_eq!(waits(Some(30), 1.0)[..6], [500, 750, 1_500, 3_000, 5_625, 5_625]);
        let mut redial = Redial::within(Some(Duration::from_secs(30)));
        for _ in 0..9 {
            redial.next(0.0);
        }
        redial.reset();
        assert_eq!(redial.next(0.0), FIRST);
    }
}

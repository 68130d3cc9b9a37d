//! Whose turn it is: which accounts go with a cut that has more to send than about a second of the line.
//!
//! Guarantees: the brake has judged all of it before anything is chosen, and what waits is judged again with
//! the next cut, which comes at once; what was judged and not sent is not counted. A first copy is one cut, and so
//! is a point with a label. What waits is behind in the point, and named (`ahead.rs`). Which accounts waited
//! longest is forgotten with the process, nothing else.

use std::time::{Duration, Instant};

use farshore_core::turns::{Class, Loads, Turns};
use farshore_policies::glob::{Glob, GlobError};

use super::*;

/// A cut sends for so many times as long as it takes to plan it, at the least: what waits is planned with
/// each.
const PLANNING_TIMES: u64 = 4;

/// Which accounts are more important than others, and which less.
#[derive(Debug, Default)]
pub struct Classes {
    high: Vec<Glob>,
    low: Vec<Glob>,
}

impl Classes {
    /// By patterns of account paths.
    ///
    /// # Errors
    /// [`GlobError`] of the first that is none.
    pub fn new(high: &[String], low: &[String]) -> Result<Self, GlobError> {
        let globs = |patterns: &[String]| {
            patterns.iter().map(|pattern| Glob::new(pattern.as_bytes())).collect::<Result<_, _>>()
        };
        Ok(Self { high: globs(high)?, low: globs(low)? })
    }

    /// The class of an account; of one that is of two, the more important.
    #[must_use]
    pub fn of(&self, account: &RelPath) -> Class {
        let is_of =
            |globs: &[Glob]| globs.iter().any(|glob| glob.is_match(account.as_bytes(), true));
        match () {
            () if is_of(&self.high) => Class::High,
            () if is_of(&self.low) => Class::Low,
            () => Class::Normal,
        }
    }
}

/// Who waits for a turn, and what a cut takes.
#[derive(Debug, Default)]
pub(super) struct Queue {
    turns: Turns,
    /// What a cut sent in a second, of the last ones that left something out.
    rate: Option<u64>,
    /// Something was left out by the last cut: the next one is due at once.
    is_due: bool,
}

/// What was chosen for the cut under way.
#[derive(Debug)]
pub(super) struct Chosen {
    next: Turns,
    cost: u64,
    budget: u64,
    began: Instant,
}

impl Queue {
    /// Whether a cut is due because the last one left something out.
    pub(super) fn is_due(&self) -> bool {
        self.is_due
    }

    /// What the last cut left out may come again.
    pub(super) fn released(&mut self) {
        self.is_due = true;
    }

    /// It was taken into a cut.
    pub(super) fn taken(&mut self) {
        self.is_due = false;
    }

    /// What a cut is to take of which the plan took that long: about a second of the line, and more where
    /// planning took long, without a bound. What cuts sent says more of that than what a file did that travelled
    /// beside them; `guess` is what is thought of a second before there was one.
    fn budget(&self, guess: u64, limit: Option<u64>, planning: Duration) -> u64 {
        let Some(rate) = self.rate else { return guess };
        let second = ahead::within_limits(rate.min(limit.unwrap_or(u64::MAX)));
        let planned = u64::try_from(planning.as_millis()).unwrap_or(u64::MAX);
        second.max(planned.saturating_mul(PLANNING_TIMES).saturating_mul(rate / 1_000))
    }

    /// The cut was sealed.
    pub(super) fn sealed(&mut self, chosen: Option<Chosen>) {
        let Some(Chosen { next, cost, budget, began }) = chosen else {
            self.turns = Turns::default();
            return;
        };
        self.turns = next;
        self.measured(cost, began.elapsed(), budget);
    }

    /// A cut may cost far less than it was thought to, when the standby had most of it: the next one, of which
    /// it has nothing, is not to be long for that. So the rate grows to twice as much at most.
    fn measured(&mut self, cost: u64, took: Duration, budget: u64) {
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = cost.saturating_mul(1_000) / millis;
        // A line that stood still for a while does not count as one that is that slow.
        let former = self.rate.unwrap_or(budget).max(ahead::within_limits(0));
        self.rate = Some(rate.min(former.saturating_mul(2)));
    }

    /// The line is another one.
    pub(super) fn forget_rate(&mut self) {
        self.rate = None;
    }
}

impl Sender {
    pub(super) fn classes(&self) -> Arc<Classes> {
        Arc::clone(&self.classes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What a cut should send at most, which was planned and judged by now.
    pub(super) fn budget_of_cut(&self) -> Option<u64> {
        let inner = self.lock();
        if inner.seeding {
            return None;
        }
        let planning = inner.under_way.began.map_or(Duration::ZERO, |began| began.elapsed());
        Some(inner.queue.budget(self.ahead_min(), self.line_limit(), planning))
    }

    /// Chooses the accounts of a cut; those that wait.
    pub(super) fn choose(&self, loads: Loads, budget: u64) -> BTreeSet<RelPath> {
        let classes = self.classes();
        let mut inner = self.lock();
        let turn = inner.queue.turns.choose(loads, |account| classes.of(account), budget);
        let under_way = &mut inner.under_way;
        if !turn.left_out.is_empty() {
            if let Some((tally, _)) = &mut under_way.judged {
                // It is judged again with the cut that sends it, and counted then.
                tally.accounts.retain(|account, _| !turn.left_out.contains(account));
                tally.whole = false;
            }
            under_way.met.retain(|account, _| !turn.left_out.contains(account));
            let (cost, began) = (turn.cost, Instant::now());
            under_way.chosen = Some(Chosen { next: turn.next, cost, budget, began });
        }
        turn.left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_of_the_most_important_class_that_names_them() {
        let classes = Classes::new(
            &["BU01/*".to_owned(), "/pay".to_owned()],
            &["BU01/archive".to_owned(), "old-*".to_owned()],
        );
        let classes = classes.expect("patterns");
        let of = |account: &str| classes.of(&RelPath::new(account.as_bytes()).expect("a path"));
        assert_eq!([of("BU01/a"), of("BU01/archive"), of("pay")], [Class::High; 3]);
        assert_eq!([of("old-7"), of("BU02/old-7")], [Class::Low; 2]);
        assert_eq!([of("BU02/a"), of("BU01"), of("")], [Class::Normal; 3]);
        assert!(Classes::new(&["a//b".to_owned()], &[]).is_err());
    }

    #[test]
    fn a_cut_is_about_a_second_of_the_line_and_longer_than_its_planning() {
        const MIB: u64 = 1 << 20;
        let mut queue = Queue::default();
        let none = Duration::ZERO;
        assert_eq!(queue.budget(40 * MIB, None, Duration::from_secs(9)), 40 * MIB, "a guess");
        queue.rate = Some(10 * MIB);
        assert_eq!(queue.budget(64 * MIB, None, Duration::from_millis(10)), 10 * MIB);
        assert_eq!(queue.budget(4 * MIB, None, none), 10 * MIB, "a file beside cuts was slow");
        assert_eq!(queue.budget(4 * MIB, Some(8 * MIB), none), 8 * MIB);
        assert!(queue.budget(64 * MIB, None, Duration::from_secs(2)) > 79 * MIB);
        queue.rate = Some(1);
        assert_eq!(queue.budget(64 * MIB, None, none), 4 * MIB);
        queue.measured(400 * MIB, Duration::from_secs(1), 4 * MIB);
        assert_eq!(queue.rate, Some(8 * MIB), "twice as much as is thought of a line at the least");
        let mut queue = Queue::default();
        queue.measured(400 * MIB, Duration::from_secs(1), 64 * MIB);
        assert_eq!(queue.budget(64 * MIB, None, none), 64 * MIB, "no cut is worth more");
        queue.measured(10 * MIB, Duration::from_secs(1), 64 * MIB);
        assert_eq!(queue.budget(64 * MIB, None, none), 10 * MIB, "slower at once");
    }
}

//! Turns: which accounts of a cut go with it, when all of them are more than it may take.
//!
//! Guarantees: a cut takes whole accounts, and accounts that something crosses go together; the share itself (what
//! lies above accounts) always goes; at least one goes, and one that alone is more than a cut may take goes when
//! there is little else to do. Of the rest those of a higher class are first, within a class the smallest. None
//! starves: each class has a part of every cut for who waits longest in it, whatever others bring meanwhile. It
//! decides from what it is given and keeps nothing else; nothing of it survives a crash, and nothing has to.
//!
//! The bound: an account that waits since some cut is taken, at the latest, when what its class is given with each
//! cut since (a 4th, 8th or 16th of it) comes to what it and those of its class that wait longer had when each began
//! to. That holds however its own part grows while it waits.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::path::RelPath;

/// How important an account is; the most important first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Class {
    /// Before all others.
    High,
    /// Unless it is said otherwise.
    #[default]
    Normal,
    /// After all others.
    Low,
}

impl Class {
    /// Each of them, the most important first.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// As it is written and shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }

    /// How much one of it may get while one of the lowest gets 1.
    #[must_use]
    pub const fn weight(self) -> u64 {
        match self {
            Self::High => 16,
            Self::Normal => 4,
            Self::Low => 1,
        }
    }

    /// The part of each cut that is for who waits longest in it, as a divisor.
    const fn part(self) -> u64 {
        match self {
            Self::High => 4,
            Self::Normal => 8,
            Self::Low => 16,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

// Most of each cut is for those of the highest class.
const _: () = {
    let [high, normal, low] = [Class::High.part(), Class::Normal.part(), Class::Low.part()];
    assert!(1_000 / high + 1_000 / normal + 1_000 / low < 500);
};

/// What a cut would send of each account, and which of them belong together.
#[derive(Debug, Clone, Default)]
pub struct Loads {
    places: BTreeMap<RelPath, usize>,
    costs: Vec<u64>,
    /// Of each, one that it belongs with; itself for the first of those that do.
    with: Vec<usize>,
}

impl Loads {
    /// So much more of `account`.
    pub fn add(&mut self, account: &RelPath, cost: u64) {
        let at = self.place(account);
        self.costs[at] = self.costs[at].saturating_add(cost);
    }

    /// Something crosses from one to the other.
    pub fn tie(&mut self, one: &RelPath, other: &RelPath) {
        let (one, other) = (self.place(one), self.place(other));
        let (one, other) = (self.first(one), self.first(other));
        self.with[one.max(other)] = one.min(other);
    }

    /// Of all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.costs.iter().fold(0, |all, cost| all.saturating_add(*cost))
    }

    fn place(&mut self, account: &RelPath) -> usize {
        if let Some(at) = self.places.get(account) {
            return *at;
        }
        let at = self.costs.len();
        self.costs.push(0);
        self.with.push(at);
        self.places.insert(account.clone(), at);
        at
    }

    /// The first of those that `at` belongs with; the way there is made shorter.
    fn first(&mut self, mut at: usize) -> usize {
        while self.with[at] != at {
            self.with[at] = self.with[self.with[at]];
            at = self.with[at];
        }
        at
    }
}

/// Who waits, and what is due to whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Turns {
    round: u64,
    waiting: BTreeMap<RelPath, Waiting>,
    /// By class, what its longest waiting has to its credit.
    saved: [Saved; 3],
}

/// What a class saved for the one that waits longest in it: less than that needs, and for nobody else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Saved {
    credit: u64,
    of: Option<RelPath>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Waiting {
    since: u64,
    /// What it had when it began to wait.
    needs: u64,
}

/// Accounts that go together or not at all.
#[derive(Debug, Clone)]
struct Unit<'a> {
    accounts: Vec<&'a RelPath>,
    class: Class,
    cost: u64,
    since: u64,
    needs: u64,
    waits: bool,
}

/// What a cut takes.
#[derive(Debug, Clone, Default)]
pub struct Turn {
    /// What waits for a later one.
    pub left_out: BTreeSet<RelPath>,
    /// Of all that it takes.
    pub cost: u64,
    /// From which the next is chosen, when this one was sent.
    pub next: Turns,
}

impl Turns {
    /// What a cut takes that may take `budget`, of those that `loads` has. What waited and is not among them waits
    /// no more.
    #[must_use]
    pub fn choose(&self, mut loads: Loads, class: impl Fn(&RelPath) -> Class, budget: u64) -> Turn {
        let budget = budget.max(1);
        let total = loads.total();
        if total <= budget {
            let next = Self { round: self.round + 1, ..Self::default() };
            return Turn { left_out: BTreeSet::new(), cost: total, next };
        }
        let places = std::mem::take(&mut loads.places);
        let units = self.units(&places, &mut loads, class);
        let saved = self.saved.clone();
        let mut next = Self { round: self.round + 1, saved, ..Self::default() };
        let mut cut = Taking { is_in: vec![false; units.len()], cost: 0 };
        for (n, unit) in units.iter().enumerate() {
            if unit.accounts.iter().any(|account| account.is_root()) {
                cut.take(n, unit.cost);
            }
        }
        for class in Class::ALL {
            next.take_longest_waiting(class, budget, &units, &mut cut);
        }
        take_first(&units, budget, &mut cut);
        let mut left_out = BTreeSet::new();
        for (unit, _) in units.iter().zip(&cut.is_in).filter(|(_, is_in)| !**is_in) {
            for account in &unit.accounts {
                let own = places.get(*account).and_then(|at| loads.costs.get(*at));
                let new = Waiting { since: self.round, needs: own.copied().unwrap_or(0) };
                let waiting = self.waiting.get(*account).copied().unwrap_or(new);
                next.waiting.insert((*account).clone(), waiting);
                left_out.insert((*account).clone());
            }
        }
        let is_over =
            |saved: &&mut Saved| !saved.of.as_ref().is_some_and(|of| left_out.contains(of));
        next.saved.iter_mut().filter(is_over).for_each(|saved| *saved = Saved::default());
        Turn { left_out, cost: cut.cost, next }
    }

    fn units<'a>(
        &self,
        places: &'a BTreeMap<RelPath, usize>,
        loads: &mut Loads,
        class: impl Fn(&RelPath) -> Class,
    ) -> Vec<Unit<'a>> {
        let mut units: BTreeMap<usize, Unit<'a>> = BTreeMap::new();
        for (account, &at) in places {
            let (first, cost) = (loads.first(at), loads.costs[at]);
            let waiting = self.waiting.get(account);
            let unit = units.entry(first).or_insert_with(|| Unit {
                accounts: Vec::new(),
                class: Class::Low,
                cost: 0,
                since: self.round,
                needs: 0,
                waits: false,
            });
            unit.accounts.push(account);
            // What crosses into an important one is as important.
            unit.class = unit.class.min(class(account));
            unit.cost = unit.cost.saturating_add(cost);
            unit.since = unit.since.min(waiting.map_or(self.round, |waiting| waiting.since));
            unit.needs = unit.needs.saturating_add(waiting.map_or(cost, |waiting| waiting.needs));
            unit.waits |= waiting.is_some();
        }
        units.into_values().collect()
    }

    /// Takes who waits longest in a class, as far as that has it to its credit. What nobody needed is not saved.
    fn take_longest_waiting(
        &mut self,
        class: Class,
        budget: u64,
        units: &[Unit<'_>],
        cut: &mut Taking,
    ) {
        let is_of =
            |(n, unit): &(usize, &Unit<'_>)| unit.waits && unit.class == class && !cut.is_in[*n];
        let mut waiting: Vec<_> = units.iter().enumerate().filter(is_of).collect();
        let Saved { credit, of } = std::mem::take(&mut self.saved[class as usize]);
        // What was saved for one that is gone by now, or went otherwise, is not for others.
        let is_its =
            |(_, unit): &(usize, &Unit<'_>)| unit.accounts.iter().any(|a| of.as_ref() == Some(*a));
        let saved = if waiting.iter().any(is_its) { credit } else { 0 };
        let mut credit = saved.saturating_add((budget / class.part()).max(1));
        waiting.sort_by_key(|(_, unit)| (unit.since, unit.needs, unit.accounts.first().copied()));
        for (n, unit) in waiting {
            let Some(left) = credit.checked_sub(unit.needs) else {
                let of = unit.accounts.first().map(|account| (*account).clone());
                self.saved[class as usize] = Saved { credit, of };
                break;
            };
            credit = left;
            cut.take(n, unit.cost);
        }
    }
}

/// What a cut takes while it is chosen, by the places of units.
struct Taking {
    is_in: Vec<bool>,
    cost: u64,
}

impl Taking {
    fn take(&mut self, n: usize, cost: u64) {
        self.is_in[n] = true;
        self.cost = self.cost.saturating_add(cost);
    }
}

/// Fills a cut: what fits, and where less than half of it would be filled, the first that does not.
fn take_first(units: &[Unit<'_>], budget: u64, cut: &mut Taking) {
    let half = budget.div_ceil(2);
    // What was due may be long; who is important goes along all the same.
    let mut left = budget - cut.cost.min(half).min(budget);
    let mut order: Vec<_> = units.iter().enumerate().collect();
    order.sort_by_key(|(_, unit)| (unit.class, unit.cost, unit.accounts.first().copied()));
    for (n, unit) in order {
        if !cut.is_in[n] && (unit.cost <= left || cut.cost < half) {
            cut.take(n, unit.cost);
            left = left.saturating_sub(unit.cost);
        }
    }
}

#[cfg(test)]
mod tests;

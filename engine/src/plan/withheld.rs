//! Accounts of which a plan is made and nothing is sent: what is held is looked at all the same.
//!
//! Guarantees: of what is withheld no change is given out to be sent, whatever else changes: what moved
//! away from it is sent as something new and stays where it was, what moved into it is gone where it was,
//! and its further names elsewhere become files of their own; no directory above it is removed or replaced.

use std::collections::{BTreeSet, HashMap, HashSet};

use farshore_core::account::account_of;
use farshore_core::path::RelPath;

use super::{Change, Changes, LookKind, Plan, PlanError};

/// Accounts of which nothing is sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Withheld {
    accounts: BTreeSet<RelPath>,
    depth: usize,
}

impl Withheld {
    /// These accounts, whose paths have `depth` components.
    #[must_use]
    pub fn new(accounts: BTreeSet<RelPath>, depth: usize) -> Self {
        Self { accounts, depth }
    }

    /// The accounts.
    #[must_use]
    pub fn accounts(&self) -> &BTreeSet<RelPath> {
        &self.accounts
    }

    /// Components of an account's path.
    pub(super) const fn depth(&self) -> usize {
        self.depth
    }

    /// The account that `path` belongs to.
    #[must_use]
    pub fn account_of(&self, path: &RelPath) -> RelPath {
        account_of(path, self.depth)
    }

    /// Whether `path` belongs to one of them.
    #[must_use]
    pub fn covers(&self, path: &RelPath) -> bool {
        !self.accounts.is_empty() && self.accounts.contains(&self.account_of(path))
    }

    /// Whether one of them is below `path`.
    fn is_below(&self, path: &RelPath) -> bool {
        path.components().count() < self.depth && self.accounts.iter().any(|a| a.starts_with(path))
    }

    fn is_crossed(&self, from: &RelPath, to: &RelPath) -> bool {
        self.covers(from) != self.covers(to)
    }

    /// A move into or out of what is withheld is none: it is gone here, and new there.
    fn without_crossing(&self, change: Change) -> Change {
        match change {
            Change::Look { path, size, is_file, kind, moved_from: Some(from) }
                if self.is_crossed(&from, &path) =>
            {
                Change::Look { path, size, is_file, kind, moved_from: None }
            }
            other => other,
        }
    }
}

impl Plan {
    /// From now on nothing of `withheld` is among the changes to be sent. [`Self::for_each`] gives them still.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn withhold(&mut self, withheld: &Withheld) -> Result<(), PlanError> {
        self.withheld = withheld.clone();
        if withheld.accounts.is_empty() || self.moved.is_empty() {
            return Ok(());
        }
        let mut looks = self.looks.read_forward()?;
        while let Some(item) = looks.next_item()? {
            if let Change::Look { path, moved_from: Some(from), .. } = Change::from_bytes(&item)?
                && withheld.is_crossed(&from, &path)
            {
                self.moved.remove(&from);
            }
        }
        Ok(())
    }

    /// Whether nothing kept the walk from seeing all of `account`, as far as it was looked at: it could be read,
    /// and the policy does not leave it out.
    #[must_use]
    pub fn could_see(&self, account: &RelPath) -> bool {
        let is_near = |path: &RelPath| path.starts_with(account) || account.starts_with(path);
        !self.unknown.iter().any(is_near) && !self.shut.hides(account)
    }
}

/// Directories that the policy leaves out, as far as they are remembered.
#[derive(Debug, Default)]
pub(super) struct Shut {
    paths: HashSet<RelPath>,
    is_full: bool,
}

/// Most of them.
const SHUT_MAX: usize = 10_000;

impl Shut {
    pub(super) fn add(&mut self, path: &RelPath) {
        self.is_full |= self.paths.len() >= SHUT_MAX;
        if !self.is_full {
            self.paths.insert(path.clone());
        }
    }

    /// Whether `account` is below one, or may be.
    fn hides(&self, account: &RelPath) -> bool {
        let mut at = Some(account.clone());
        while let Some(path) = at {
            if self.paths.contains(&path) {
                return true;
            }
            at = path.split().map(|(parent, _)| parent);
        }
        self.is_full
    }
}

/// What is withheld while changes are given out.
#[derive(Debug, Default)]
pub(super) struct Sieve {
    withheld: Withheld,
    /// For a first name that is withheld, the name that is sent in its place.
    leaders: HashMap<RelPath, RelPath>,
}

impl Sieve {
    pub(super) fn new(withheld: Withheld) -> Self {
        Self { withheld, leaders: HashMap::new() }
    }

    /// The change as it is judged.
    pub(super) fn seen(&self, change: Change) -> Change {
        self.withheld.without_crossing(change)
    }

    /// The change as it is sent, if it is.
    pub(super) fn sent(&mut self, change: Change) -> Option<Change> {
        if self.withheld.accounts.is_empty() {
            return Some(change);
        }
        let path = change.path();
        if self.withheld.covers(path) {
            return None;
        }
        match &change {
            Change::Remove { path, .. } if self.withheld.is_below(path) => None,
            // Something else than a directory now.
            Change::Look { path, kind: LookKind::Content, .. } if self.withheld.is_below(path) => {
                None
            }
            Change::Link { path, leader } if self.withheld.covers(leader) => {
                let path = path.clone();
                Some(match self.leaders.get(leader) {
                    Some(first) => Change::Link { path, leader: first.clone() },
                    None => {
                        self.leaders.insert(leader.clone(), path.clone());
                        let (size, kind) = (0, LookKind::New);
                        // Its length is not known here: it is looked at once more before it is read.
                        Change::Look { path, size, is_file: false, kind, moved_from: None }
                    }
                })
            }
            _ => Some(self.withheld.without_crossing(change)),
        }
    }
}

impl Changes {
    pub(super) fn sieve(&mut self, change: Change) -> Option<Change> {
        self.sieve.sent(change)
    }
}

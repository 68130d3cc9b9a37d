//! What a plan would send of each account, and what is left out of it because others go first.
//!
//! Guarantees: what crosses from one account to another, a move or the further name of an inode, keeps them
//! together, so that nothing is taken away here and copied there which only moved. So does what is recorded as a
//! further name and is none any more: as long as it is, its first name is not replaced or removed. A cost is bytes to be
//! sent, as far as the walk tells, and a little for each change: what moves, goes, or changes in its facts alone sends
//! next to nothing.

use std::collections::BTreeSet;

use farshore_core::path::RelPath;
use farshore_core::turns::Loads;

use super::{Change, LookKind, Plan, PlanError, Withheld};

/// What a change costs besides its bytes. So a cut on the thinnest line, 4 MiB, takes as many as one batch does.
const CHANGE_COST: u64 = 1 << 10;

impl Plan {
    /// Whether all of it may come to more than `budget`: what is cheap to say, before it is counted by account.
    #[must_use]
    pub fn may_cost_more(&self, budget: u64) -> bool {
        self.len().saturating_mul(CHANGE_COST).saturating_add(self.bytes) > budget
    }

    /// What of the plan is to be sent, by account, without what is withheld ([`Self::withhold`]); `is_there` says
    /// of which files the target has the content.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn loads(&mut self, is_there: impl Fn(&RelPath) -> bool) -> Result<Loads, PlanError> {
        let mut loads = Loads::default();
        let withheld = self.withheld.clone();
        let tie = |loads: &mut Loads, path: &RelPath, other: &RelPath| {
            if withheld.covers(path) || withheld.covers(other) {
                return;
            }
            let (account, other) = (withheld.account_of(path), withheld.account_of(other));
            if account != other {
                loads.tie(&account, &other);
            }
        };
        self.for_each(&mut |change| {
            let path = change.path();
            if withheld.covers(path) {
                return Ok(());
            }
            let account = withheld.account_of(path);
            loads.add(&account, bytes_of(change, &is_there).saturating_add(CHANGE_COST));
            let other = match change {
                Change::Look { moved_from, .. } => moved_from.as_ref(),
                Change::Link { leader, .. } => Some(leader),
                Change::Remove { .. } => None,
            };
            other.into_iter().for_each(|other| tie(&mut loads, path, other));
            Ok(())
        })?;
        self.for_each_further(&mut |path, leader| tie(&mut loads, path, leader))?;
        Ok(loads)
    }

    /// Nothing of these accounts is sent, besides what is withheld already; what is planned of them counts as
    /// nothing to do.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn leave_out(&mut self, accounts: &BTreeSet<RelPath>) -> Result<(), PlanError> {
        if accounts.is_empty() {
            return Ok(());
        }
        let waits = Withheld::new(accounts.clone(), self.withheld.depth());
        let (mut changes, mut bytes) = (0_u64, 0_u64);
        self.for_each(&mut |change| {
            if waits.covers(change.path()) {
                changes += 1;
                if let Change::Look { size, is_file: true, .. } = change {
                    bytes = bytes.saturating_add(*size);
                }
            }
            Ok(())
        })?;
        self.waits += changes;
        self.bytes = self.bytes.saturating_sub(bytes);
        let all = self.withheld.accounts().union(accounts).cloned().collect();
        self.withhold(&Withheld::new(all, self.withheld.depth()))
    }
}

fn bytes_of(change: &Change, is_there: &impl Fn(&RelPath) -> bool) -> u64 {
    match change {
        Change::Look { path, size, is_file: true, kind, moved_from: None }
            if *kind != LookKind::Rest && !is_there(path) =>
        {
            *size
        }
        _ => 0,
    }
}

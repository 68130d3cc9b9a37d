//! What is found in a cut, and the holds that are made of it.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::guard::Threshold;
use crate::path::RelPath;

use super::hold::{Counts, Hold, Kinds, Mass, PENDING_TOTAL_MAX, Reason};
use super::tally::{AccountTally, CutTally, Root};
use super::window::Sums;
use super::{Brake, Found};

/// One account of the cut that would pass so far.
struct Candidate<'a> {
    account: &'a RelPath,
    /// What the cut adds.
    cut: Sums,
    /// With what was applied within the window.
    all: Sums,
}

/// Whom sums are of, and how many entries that had when the window began.
#[derive(Clone, Copy)]
struct Whose {
    known: u64,
    share: bool,
}

fn exceeds(count: u64, of: u64, threshold: Threshold) -> bool {
    count > threshold.entries
        && u128::from(count) * 100 > u128::from(of) * u128::from(threshold.percent)
}

/// The first bucket may lie in the window in part only, so this may be older than its begin.
fn known_at_begin(known: u64, recorded: &Sums) -> u64 {
    let then = i128::from(known) - i128::from(recorded.grown);
    u64::try_from(then.max(0)).unwrap_or(u64::MAX)
}

impl Brake {
    pub(super) fn reasons(&self, cut: &CutTally, purge: bool) -> Found {
        let mut found = Found { share: self.reasons_at_once(cut), ..Found::default() };
        if found.share.iter().any(Reason::is_of_root) {
            // What is missing says nothing of what was done to it.
            return found;
        }
        let mut candidates = Vec::new();
        for (account, tally) in &cut.accounts {
            let own = self.approvals.iter().find(|p| p.account.as_ref() == Some(account));
            let covered = self.approval_of(Some(account)).map_or(Kinds::default(), |p| p.kinds);
            let recorded = self.accounts.get(account).map(super::Window::sums).unwrap_or_default();
            let counts = Counts::of(tally, purge);
            let beyond = own.and_then(|p| p.beyond(counts, self.config.account.entries));
            // Beyond an approval nothing is covered any more.
            let covered = if beyond.is_some() { Kinds::default() } else { covered };
            let cut = Sums::of(tally, purge).not_of(covered);
            let mut all = recorded.clone();
            all.add(&cut);
            let whose = Whose { known: known_at_begin(tally.known, &recorded), share: false };
            let mut reasons: Vec<_> = beyond.into_iter().collect();
            reasons.extend(self.mass_reasons(&cut, &all, whose));
            reasons.extend(self.shape_reasons(&cut, &all, whose));
            if self.hold_of(Some(account)).is_some() || !reasons.is_empty() {
                found.accounts.insert(account.clone(), reasons);
            } else {
                candidates.push(Candidate { account, cut, all });
            }
        }
        self.share_reasons(cut, purge, candidates, &mut found);
        found
    }

    /// Reasons for the whole share that do not depend on counts.
    fn reasons_at_once(&self, cut: &CutTally) -> Vec<Reason> {
        let mut reasons = Vec::new();
        match cut.root {
            Root::Same => {}
            Root::Emptied => reasons.push(Reason::RootEmptied { known: cut.known }),
            Root::Replaced => reasons.push(Reason::RootReplaced),
        }
        if let Some(path) = cut.canaries.first() {
            reasons.push(Reason::Canary { path: path.clone() });
        }
        let limit = self.config.shapes.note_directories;
        if let (Some((name, directories)), Some(limit)) = (&cut.note, limit)
            && *directories > limit
        {
            let (name, directories) = (name.clone(), *directories);
            reasons.push(Reason::Note { name, directories, limit });
        }
        let covered = self.approval_of(None).map_or(Kinds::default(), |p| p.kinds);
        reasons.retain(|r| !covered.has(r));
        reasons
    }

    /// Reasons of the sums over the share. Accounts that are held are not in the sums, their part is not
    /// applied. Those with the largest part are held until the rest is below the threshold.
    fn share_reasons(
        &self,
        cut: &CutTally,
        purge: bool,
        mut candidates: Vec<Candidate<'_>>,
        found: &mut Found,
    ) {
        let recorded = self.share.sums();
        let whose = Whose { known: known_at_begin(cut.known, &recorded), share: true };
        if let Some(approval) = self.approvals.iter().find(|p| p.account.is_none()) {
            let next = candidates
                .iter()
                .filter_map(|c| cut.accounts.get(c.account))
                .fold(Counts::default(), |all, t| all.plus(Counts::of(t, purge)));
            if let Some(beyond) = approval.beyond(next, self.config.account.entries) {
                found.share.push(beyond);
            }
        }
        let sums: [(fn(&Sums) -> u64, Threshold); 2] =
            [(|s| s.deleted, self.config.threshold), (|s| s.rewritten, self.rewrites())];
        for (sum, threshold) in sums {
            let mut total =
                candidates.iter().fold(sum(&recorded), |all, c| all.saturating_add(sum(&c.cut)));
            if !exceeds(total, whose.known, threshold) {
                continue;
            }
            candidates.sort_by_key(|c| Reverse((sum(&c.cut) > 0, sum(&c.all), c.account.clone())));
            while exceeds(total, whose.known, threshold)
                && candidates.first().is_some_and(|c| sum(&c.cut) > 0)
            {
                let largest = candidates.remove(0);
                let mut all = recorded.clone();
                candidates.iter().for_each(|c| all.add(&c.cut));
                all.add(&largest.cut);
                let reasons = self.mass_reasons(&largest.cut, &all, whose);
                total = total.saturating_sub(sum(&largest.cut));
                found.accounts.entry(largest.account.clone()).or_default().extend(reasons);
            }
        }
        let mut passing = Sums::default();
        candidates.iter().for_each(|c| passing.add(&c.cut));
        let mut all = recorded;
        all.add(&passing);
        found.share.extend(self.shape_reasons(&passing, &all, whose));
    }

    fn rewrites(&self) -> Threshold {
        Threshold { percent: self.config.rewrite_percent, ..self.config.threshold }
    }

    fn mass(&self, count: u64, of: u64, threshold: Threshold, whose: Whose) -> Mass {
        Mass { count, of, threshold, window_ms: self.config.window(), share: whose.share }
    }

    /// Mass changes in `all`, to which `cut` adds.
    fn mass_reasons(&self, cut: &Sums, all: &Sums, whose: Whose) -> Vec<Reason> {
        let deletes = if whose.share { self.config.threshold } else { self.config.account };
        let rewrites = self.rewrites();
        let mut reasons = Vec::new();
        if cut.deleted > 0 && exceeds(all.deleted, whose.known, deletes) {
            let mass = self.mass(all.deleted, whose.known, deletes, whose);
            reasons.push(Reason::MassDelete(mass));
        }
        if cut.rewritten > 0 && exceeds(all.rewritten, whose.known, rewrites) {
            let mass = self.mass(all.rewritten, whose.known, rewrites, whose);
            reasons.push(Reason::MassRewrite(mass));
        }
        reasons
    }

    /// Shapes of ransomware in `all`, to which `cut` adds.
    fn shape_reasons(&self, cut: &Sums, all: &Sums, whose: Whose) -> Vec<Reason> {
        let shapes = &self.config.shapes;
        let mut reasons = Vec::new();
        if let Some(threshold) = shapes.encrypted.filter(|_| cut.encrypted > 0)
            && exceeds(all.encrypted, all.sampled, threshold)
        {
            let mass = self.mass(all.encrypted, all.sampled, threshold, whose);
            reasons.push(Reason::Encrypted(mass));
        }
        for added in &cut.extensions {
            let extension = added.extension;
            let Some(e) = all.extensions.iter().find(|e| e.extension == extension) else {
                continue;
            };
            let gone = all.deleted.saturating_add(all.moved);
            if let Some(threshold) = shapes.appended.filter(|_| added.appended > 0)
                && exceeds(e.appended, gone, threshold)
            {
                let mass = self.mass(e.appended, gone, threshold, whose);
                reasons.push(Reason::Appended { extension, mass });
            }
            if let Some(threshold) = shapes.renamed.filter(|_| added.renamed > 0)
                && exceeds(e.renamed, all.moved, threshold)
            {
                let mass = self.mass(e.renamed, all.moved, threshold, whose);
                reasons.push(Reason::Renamed { extension, mass });
            }
        }
        reasons
    }

    /// Makes holds of what was found, and lets those there are grow. Gives those that begin.
    pub(super) fn hold(&mut self, cut: &CutTally, mut found: Found, now_ms: i64) -> Vec<u64> {
        let mut began = Vec::new();
        let begin_ms = now_ms.saturating_sub_unsigned(self.config.window());
        let fresh = found.accounts.keys().filter(|a| self.hold_of(Some(a)).is_none()).count();
        let recent = self.holds.iter().filter(|h| h.account.is_some() && h.since_ms >= begin_ms);
        let wide = self.config.spread < (recent.count() + fresh) as u64 && fresh > 0;
        if wide {
            // One of each sort, the first account's, stands for all.
            let mut one_each = BTreeMap::new();
            for reason in found.accounts.values().flatten() {
                one_each.entry(reason.kind()).or_insert_with(|| reason.clone());
            }
            found.share.extend(one_each.into_values());
        }
        if !found.share.is_empty() {
            self.hold_one(None, found.share, cut.point, now_ms, &mut began);
        }
        let share_held = self.hold_of(None).is_some();
        for (account, reasons) in found.accounts {
            if !share_held || self.hold_of(Some(&account)).is_some() {
                self.hold_one(Some(account), reasons, cut.point, now_ms, &mut began);
            }
        }
        self.revision = self.revision.wrapping_add(began.len() as u64);
        let mut room =
            PENDING_TOTAL_MAX.saturating_sub(self.holds.iter().map(|h| h.pending.len()).sum());
        for hold in &mut self.holds {
            let grow = |hold: &mut Hold, tally: &AccountTally, room: &mut usize| {
                let before = hold.pending.len();
                hold.grow(tally, *room, now_ms);
                *room = room.saturating_sub(hold.pending.len() - before);
            };
            match hold.account.as_ref().map(|account| cut.accounts.get(account)) {
                None => cut.accounts.values().for_each(|tally| grow(hold, tally, &mut room)),
                Some(Some(tally)) => grow(hold, tally, &mut room),
                Some(None) => {}
            }
        }
        began
    }

    fn hold_one(
        &mut self,
        account: Option<RelPath>,
        reasons: Vec<Reason>,
        point: u64,
        now_ms: i64,
        began: &mut Vec<u64>,
    ) {
        let at = match self.holds.iter().position(|h| h.account == account) {
            Some(at) => at,
            None => {
                self.approvals.retain(|p| p.account != account);
                began.push(self.next);
                self.holds.push(Hold::new(self.next, account, point, now_ms));
                self.next = self.next.saturating_add(1);
                self.holds.len() - 1
            }
        };
        self.holds[at].add_reasons(reasons);
    }
}

//! What is found in a cut, and the holds that are made of it.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::guard::Threshold;
use crate::path::RelPath;

use super::hold::{Beside, Counts, Hold, Kinds, Mass, Reason};
use super::tally::{AccountTally, CutTally, Root};
use super::window::Sums;
use super::{Brake, Found};

/// One of the sums.
type SumOf = fn(&Sums) -> u64;

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
        let share_held = self.hold_of(None).is_some();
        let (mut candidates, mut settled) = (Vec::new(), Vec::new());
        for (account, tally) in &cut.accounts {
            let held = self.hold_of(Some(account));
            // What is held does not pass because it is night.
            let purge = purge && held.is_none() && !share_held;
            let approval = self.approval_of(account).map(|(at, part)| (&self.approvals[at], part));
            let covered = approval.map_or(Kinds::default(), |(p, _)| p.kinds);
            let recorded = self.accounts.get(account).map(super::Window::sums).unwrap_or_default();
            let counts = Counts::of(tally, purge);
            let slack = self.config.account.entries;
            let beyond = approval.and_then(|(p, part)| p.beyond_of(part, counts, slack));
            // Beyond an approval nothing is covered any more.
            let covered = if beyond.is_some() { Kinds::default() } else { covered };
            let cut = Sums::of(tally, purge).not_of(covered);
            let mut all = recorded.clone();
            all.add(&cut);
            let whose = Whose { known: known_at_begin(tally.known, &recorded), share: false };
            let mut reasons: Vec<_> = beyond.into_iter().collect();
            reasons.extend(self.mass_reasons(&cut, &all, whose));
            reasons.extend(self.shape_reasons(&cut, &all, whose));
            let candidate = Candidate { account, cut, all };
            match held {
                None if reasons.is_empty() => candidates.push(candidate),
                Some(hold)
                    if reasons.is_empty()
                        && hold.is_settled(tally.whole, tally.known, &[tally]) =>
                {
                    settled.push(candidate);
                }
                _ => drop(found.accounts.insert(account.clone(), reasons)),
            }
        }
        self.share_reasons(cut, purge && !share_held, candidates, settled, &mut found);
        found
    }

    /// Takes out the holds of which a look at all that they hold found nothing to hold.
    pub(super) fn end_settled(&mut self, cut: &CutTally, found: &Found) -> Vec<Hold> {
        let of_accounts = found.accounts.keys();
        let is_calm = found.share.is_empty()
            && of_accounts.into_iter().all(|account| self.hold_of(Some(account)).is_some());
        let tallies: Vec<&AccountTally> = cut.accounts.values().collect();
        let is_over = |hold: &mut Hold| match &hold.account {
            Some(account) => found.settled.contains(account),
            None => {
                let whole = cut.whole && cut.root == Root::Same && is_calm;
                hold.is_settled(whole, cut.known, &tallies)
            }
        };
        self.holds.extract_if(.., is_over).collect()
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
        let approval = self.approvals.iter().find(|p| p.account.is_none());
        let covered = approval.map_or(Kinds::default(), |p| p.kinds);
        reasons.retain(|r| !covered.has(r));
        reasons
    }

    /// Reasons of the sums over the share. Accounts that are held are not in the sums, their part is not
    /// applied. Those with the largest part are held until the rest is below the threshold. Of those that
    /// are held and have no reason of their own left (`settled`) each goes on waiting that does not fit
    /// beside the rest.
    fn share_reasons(
        &self,
        cut: &CutTally,
        purge: bool,
        mut candidates: Vec<Candidate<'_>>,
        settled: Vec<Candidate<'_>>,
        found: &mut Found,
    ) {
        let recorded = self.share.sums();
        let whose = Whose { known: known_at_begin(cut.known, &recorded), share: true };
        if let Some(approval) = self.approvals.iter().find(|p| p.account.is_none()) {
            let next = candidates
                .iter()
                .filter(|c| approval.sharers.contains_key(c.account))
                .filter_map(|c| cut.accounts.get(c.account))
                .fold(Counts::default(), |all, t| all.plus(Counts::of(t, purge)));
            if let Some(beyond) = approval.beyond(next, self.config.account.entries) {
                found.share.push(beyond);
            }
        }
        let sums: [(SumOf, Threshold); 2] =
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
                let without = |sum: u64, own: u64| sum.saturating_sub(own);
                let beside = Beside {
                    deleted: without(all.deleted, largest.cut.deleted),
                    rewritten: without(all.rewritten, largest.cut.rewritten),
                    known: whose.known,
                };
                found.beside.insert(largest.account.clone(), beside);
                found.accounts.entry(largest.account.clone()).or_default().extend(reasons);
            }
        }
        let mut passing = Sums::default();
        candidates.iter().for_each(|c| passing.add(&c.cut));
        let mut all = recorded;
        all.add(&passing);
        found.share.extend(self.shape_reasons(&passing, &all, whose));
        for candidate in settled {
            let mut with = all.clone();
            with.add(&candidate.cut);
            let mut reasons = self.mass_reasons(&candidate.cut, &with, whose);
            reasons.extend(self.reasons_then(&candidate));
            let is_shaped = !self.shape_reasons(&candidate.cut, &with, whose).is_empty();
            if reasons.is_empty() && !is_shaped {
                all = with;
                found.settled.insert(candidate.account.clone());
            } else {
                found.accounts.insert(candidate.account.clone(), reasons);
            }
        }
    }

    /// Why what is left of a hold would have been held by the share's sums when it began: time alone is no
    /// reason to let it pass.
    fn reasons_then(&self, candidate: &Candidate<'_>) -> Vec<Reason> {
        let Some(hold) = self.hold_of(Some(candidate.account)) else { return Vec::new() };
        if hold.reasons.iter().all(|reason| reason.mass_of_share().is_none()) {
            return Vec::new();
        }
        let mut all = candidate.cut.clone();
        all.deleted = all.deleted.saturating_add(hold.beside.deleted);
        all.rewritten = all.rewritten.saturating_add(hold.beside.rewritten);
        self.mass_reasons(&candidate.cut, &all, Whose { known: hold.beside.known, share: true })
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
            let share = std::mem::take(&mut found.share);
            self.hold_one(None, share, None, cut, now_ms, &mut began);
        }
        let share_held = self.hold_of(None).is_some();
        for (account, reasons) in found.accounts {
            if !share_held || self.hold_of(Some(&account)).is_some() {
                let beside = found.beside.get(&account).copied();
                self.hold_one(Some(account), reasons, beside, cut, now_ms, &mut began);
            }
        }
        self.revision = self.revision.wrapping_add(began.len() as u64);
        self.holds.iter_mut().for_each(|hold| hold.see(cut, now_ms));
        began
    }

    fn hold_one(
        &mut self,
        account: Option<RelPath>,
        reasons: Vec<Reason>,
        beside: Option<Beside>,
        cut: &CutTally,
        now_ms: i64,
        began: &mut Vec<u64>,
    ) {
        let tally = account.as_ref().and_then(|account| cut.accounts.get(account));
        let at = match self.holds.iter().position(|h| h.account == account) {
            Some(at) => at,
            None => {
                self.approvals.retain(|p| p.account != account);
                if let Some(account) = &account {
                    for approval in &mut self.approvals {
                        approval.sharers.remove(account);
                    }
                }
                began.push(self.next);
                let mut hold = Hold::new(self.next, account, cut.point, now_ms);
                hold.known = tally.map_or(cut.known, |tally| tally.known);
                hold.beside = beside.unwrap_or_default();
                self.holds.push(hold);
                self.next = self.next.saturating_add(1);
                self.holds.len() - 1
            }
        };
        let hold = &mut self.holds[at];
        match tally {
            Some(tally) if tally.whole && tally.known >= hold.known => {
                hold.set_reasons(reasons, tally.unsampled);
            }
            None if cut.whole && cut.known >= hold.known && hold.account.is_none() => {
                let unsampled = cut.accounts.values().map(|tally| tally.unsampled).sum();
                hold.set_reasons(reasons, unsampled);
            }
            _ => hold.add_reasons(reasons),
        }
    }
}

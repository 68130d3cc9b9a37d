//! The brake: a mass change is held before the first delete or rewrite of it that would pass the
//! threshold, in however many small cuts it arrives; the rest of the share goes on.
//!
//! [`crate::guard`] judges one whole run. A standing session makes a cut every few hundred
//! milliseconds, so the brake keeps sums of what was applied over a sliding window, for the share and
//! for each account, and judges every cut together with them.
//!
//! ```text
//! tally(..) ─ created/deleted/rewritten/moved ─► finish() ─► judge() ─► Pass ─► applied()
//!                                                              └──► Hold ─► approve() | reject()
//! ```
//!
//! Guarantees: what passes never adds up to more than a threshold within a window, a file counted once
//! however often it is written; a hold ends by a person's decision, or when nothing is left to decide: the
//! root is itself again, or a look at all that is held finds nothing that passes a threshold any more, as when
//! the files were restored. Time alone ends none: what is held is judged with the sums there were when it was
//! held, purge windows or not; nor does a look that could not see all of it. An approval covers what was
//! shown of the accounts it was shown of, and changes no other account's sums nor the share's. What was held
//! or approved survives a restart with [`Brake::encode`]. Files created within the window may be deleted and
//! moved freely: consuming what arrives is what such a share is for.
//!
//! Refuses nothing by itself: the caller applies nothing of an account whose [`Verdict`] is not
//! [`Verdict::Pass`], and looks at all of it again while that is so: that keeps the counts of the hold true, and
//! ends it.
//!
//! What survives a crash: the state as last encoded. It is to be kept whenever [`Brake::revision`] has
//! changed, before anything is applied, and with the point otherwise; sums lost with a crash are what
//! was applied since. Memory is bounded: at most 30 buckets for an account with events, none without,
//! a million hashes of young and rewritten files (beyond, files count as old and as not seen before:
//! it holds too early, never too late).
//!
//! It trusts the clock it is given: a clock that jumps ahead by a window forgets the window.

use std::collections::{BTreeMap, BTreeSet};

use crate::path::RelPath;

mod config;
mod hold;
mod judge;
mod state;
mod tally;
mod window;

pub use config::{BrakeConfig, PurgeWindow, Shapes};
pub use hold::{Counts, Decision, Hold, Mass, Reason, Verdict};
pub use tally::{
    AccountTally, Created, CutTally, Extension, ExtensionCount, Root, Sample, Tally, entropy,
};

use hold::{Beside, Kinds, Pass, Shared};
use tally::NAMES_MAX;
use window::{Sums, Window};

/// Most files of which it is known that they are young or were counted.
const SEEN_MAX: usize = 1 << 20;
/// Most extensions known of a share.
const EXTENSIONS_MAX: usize = 4096;

/// What is known of a file within the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Touch {
    /// Created.
    Born,
    /// Rewritten, and counted.
    Rewritten,
    /// The same, and it became noise.
    Encrypted,
}

/// A point that was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LastPoint {
    /// Its sequence.
    pub sequence: u64,
    /// Its time, in milliseconds since 1970-01-01 UTC; 0 where it is not known.
    pub time_ms: i64,
}

/// When an extension was first and last seen, in milliseconds since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Learned {
    first_ms: i64,
    last_ms: i64,
}

/// Why nothing was decided.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecideError {
    /// There is no such hold.
    #[error("account {account} is not held")]
    NotHeld {
        /// The account.
        account: RelPath,
    },
    /// The share is held as a whole.
    #[error("the whole share is held: decide for all of it")]
    ShareHeld,
    /// Nothing is held, or not what was meant.
    #[error("nothing is held")]
    NothingHeld,
}

/// Which holds a decision is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which<'a> {
    /// All of them.
    All,
    /// That of an account.
    Account(&'a RelPath),
    /// That of a number.
    Id(u64),
}

impl Which<'_> {
    fn is(self, hold: &Hold) -> bool {
        match self {
            Self::All => true,
            Self::Account(account) => hold.account.as_ref() == Some(account),
            Self::Id(id) => hold.id == id,
        }
    }
}

impl<'a> From<Option<&'a RelPath>> for Which<'a> {
    fn from(only: Option<&'a RelPath>) -> Self {
        only.map_or(Self::All, Self::Account)
    }
}

/// What becomes of a cut.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Judgement {
    /// For each account of the cut.
    pub verdicts: BTreeMap<RelPath, Verdict>,
    /// Holds that begin with this cut.
    pub began: Vec<u64>,
    /// Holds that ended by themselves.
    pub ended: Vec<Hold>,
    /// Deletes did not count.
    pub purge: bool,
}

impl Judgement {
    /// Whether all of the cut may be applied.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.verdicts.values().all(|v| *v == Verdict::Pass)
    }
}

/// Reasons found in one cut.
#[derive(Default)]
struct Found {
    share: Vec<Reason>,
    /// Empty for an account that is held already and gave no new reason.
    accounts: BTreeMap<RelPath, Vec<Reason>>,
    /// Accounts that are held, and would not be by what was found.
    settled: BTreeSet<RelPath>,
    /// What the share's sums are without an account that is held by them from now on.
    beside: BTreeMap<RelPath, Beside>,
}

/// The brake of one share.
#[derive(Debug, Clone, PartialEq)]
pub struct Brake {
    config: BrakeConfig,
    /// The newest slot used; a clock that goes back does not.
    slot: u64,
    share: Window,
    accounts: BTreeMap<RelPath, Window>,
    seen: BTreeMap<u64, (u64, Touch)>,
    /// By hash of a name without its unknown extension.
    stems: BTreeMap<u64, (u64, Extension)>,
    extensions: BTreeMap<Extension, Learned>,
    holds: Vec<Hold>,
    approvals: Vec<Pass>,
    /// The number of the next hold.
    next: u64,
    revision: u64,
}

impl Brake {
    /// A brake that saw nothing yet.
    #[must_use]
    pub fn new(config: BrakeConfig) -> Self {
        Self {
            config,
            slot: 0,
            share: Window::default(),
            accounts: BTreeMap::new(),
            seen: BTreeMap::new(),
            stems: BTreeMap::new(),
            extensions: BTreeMap::new(),
            holds: Vec::new(),
            approvals: Vec::new(),
            next: 1,
            revision: 0,
        }
    }

    /// Begins to count a cut of a share that has `known` entries at the target, `point` being the last
    /// point sealed.
    #[must_use]
    pub fn tally(&self, known: u64, point: LastPoint, now_ms: i64) -> Tally<'_> {
        Tally::new(self, known, point, now_ms)
    }

    /// The extension of `name` is an old one of this share: said of what a catalog has when its brake is
    /// new, so that nothing of it looks new in the first window.
    pub fn learn(&mut self, name: &[u8]) {
        if let Some(e) = Extension::of(name) {
            self.learn_at(e, i64::MIN, i64::MIN);
        }
    }

    /// The holds, oldest first.
    #[must_use]
    pub fn holds(&self) -> &[Hold] {
        &self.holds
    }

    /// Rises with every change of a hold's being or of a decision: the state is to be kept then, before
    /// anything is applied.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What holds for `account` now.
    #[must_use]
    pub fn verdict(&self, account: &RelPath) -> Verdict {
        let hold = self.hold_of(Some(account)).or_else(|| self.hold_of(None));
        match hold.map(|h| (h.id, h.decision)) {
            None => Verdict::Pass,
            Some((id, Decision::Waits)) => Verdict::Hold(id),
            Some((id, Decision::Rejected { .. })) => Verdict::Rejected(id),
        }
    }

    /// Judges a cut, together with what was applied within the window, before anything of it is applied.
    pub fn judge(&mut self, cut: &CutTally, now_ms: i64) -> Judgement {
        self.expire(now_ms.min(cut.now_ms));
        let approvals = self.approvals.len();
        self.approvals.retain(|p| p.until_ms > now_ms);
        let mut ended: Vec<Hold> = self.holds.extract_if(.., |h| h.is_of_root_again(cut)).collect();
        let purge = self.config.in_purge(now_ms);
        let found = self.reasons(cut, purge);
        ended.extend(self.end_settled(cut, &found));
        if approvals != self.approvals.len() || !ended.is_empty() {
            self.revision = self.revision.wrapping_add(1);
        }
        let began = self.hold(cut, found, now_ms);
        let verdicts = cut.accounts.keys().map(|a| (a.clone(), self.verdict(a))).collect();
        Judgement { verdicts, began, ended, purge }
    }

    /// Records what passed and was applied: all of `cut` that `judgement` let pass. Of a cut that was
    /// applied in part, a tally of that part is recorded with the same judgement.
    pub fn applied(&mut self, cut: &CutTally, judgement: &Judgement, now_ms: i64) {
        self.expire(now_ms.min(cut.now_ms));
        self.slot = self.slot.max(self.config.slot_of(now_ms));
        let oldest = self.config.oldest_slot(cut.now_ms);
        for (account, tally) in &cut.accounts {
            if judgement.verdicts.get(account).is_none_or(|v| *v == Verdict::Pass) {
                self.record(account, tally, oldest, judgement.purge);
                // What is held teaches nothing.
                tally.learned.iter().for_each(|&e| self.learn_at(e, now_ms, now_ms));
            }
        }
        for (&hash, &extension) in &cut.stems {
            if self.stems.len() < NAMES_MAX || self.stems.contains_key(&hash) {
                self.stems.insert(hash, (self.slot, extension));
            }
        }
        if cut.whole {
            // All there was has been shown and applied; `is_used` sees it.
            self.approvals.iter_mut().for_each(|p| p.shown = Counts::default());
        }
        let approvals = self.approvals.len();
        self.approvals.retain(|p| !p.is_used());
        self.revision = self.revision.wrapping_add(u64::from(approvals != self.approvals.len()));
    }

    /// Lets pass what is held, once: up to the counts shown and a tenth more, for a day at the longest.
    /// `which` of them. What was counted of it within the window is settled by that: of the
    /// account, or of the share and the accounts that were held with it; other sums stay as they are. The
    /// account is to be looked at as a whole next; of a replaced root the caller takes the new identity for
    /// the known one. Gives the holds that ended.
    ///
    /// # Errors
    /// [`DecideError`]; nothing is changed then.
    pub fn approve<'a>(
        &mut self,
        which: impl Into<Which<'a>>,
        now_ms: i64,
    ) -> Result<Vec<Hold>, DecideError> {
        let which = which.into();
        self.check_held(which)?;
        let ended: Vec<Hold> = self.holds.extract_if(.., |h| which.is(h)).collect();
        for hold in &ended {
            self.settle(hold);
            self.approvals.retain(|p| p.account != hold.account);
            let shared = |shown: &Counts| Shared { shown: *shown, used: Counts::default() };
            self.approvals.push(Pass {
                sharers: hold.sharers.iter().map(|(a, c)| (a.clone(), shared(c))).collect(),
                account: hold.account.clone(),
                shown: hold.counts,
                used: Counts::default(),
                kinds: Kinds::of(&hold.reasons),
                until_ms: now_ms.saturating_add_unsigned(self.config.approval_ms),
            });
        }
        // Other accounts' rewrites may count twice by this, which holds early.
        self.seen.retain(|_, (_, touch)| *touch == Touch::Born);
        self.revision = self.revision.wrapping_add(1);
        Ok(ended)
    }

    /// Marks what is held as rejected: nothing of it is applied, and nobody is asked again. It ends when
    /// a look at the whole account (or share) finds nothing to hold any more, or by a later approval. New
    /// files of a rejected account are not applied either: its point stays the last good one. Gives the
    /// holds that are rejected by this.
    ///
    /// # Errors
    /// [`DecideError`]; nothing is changed then.
    pub fn reject<'a>(
        &mut self,
        which: impl Into<Which<'a>>,
        now_ms: i64,
    ) -> Result<Vec<Hold>, DecideError> {
        let which = which.into();
        self.check_held(which)?;
        let mut rejected = Vec::new();
        for hold in &mut self.holds {
            if which.is(hold) && hold.decision == Decision::Waits {
                hold.decision = Decision::Rejected { at_ms: now_ms };
                rejected.push(hold.clone());
            }
        }
        self.revision = self.revision.wrapping_add(1);
        Ok(rejected)
    }

    fn check_held(&self, which: Which<'_>) -> Result<(), DecideError> {
        if self.holds.iter().any(|hold| which.is(hold)) {
            return Ok(());
        }
        Err(match which {
            Which::Account(account) => match self.hold_of(None) {
                Some(_) => DecideError::ShareHeld,
                None => DecideError::NotHeld { account: account.clone() },
            },
            Which::All | Which::Id(_) => DecideError::NothingHeld,
        })
    }

    fn hold_of(&self, account: Option<&RelPath>) -> Option<&Hold> {
        self.holds.iter().find(|h| h.account.as_ref() == account)
    }

    /// The approval that covers an account, and the part of it that is of that: one of its own, or one for
    /// the whole share that showed it.
    fn approval_of(&self, account: &RelPath) -> Option<(usize, Shared)> {
        let own = self.approvals.iter().position(|p| p.account.as_ref() == Some(account));
        if let Some(at) = own {
            let Pass { shown, used, .. } = self.approvals[at];
            return Some((at, Shared { shown, used }));
        }
        let share = self.approvals.iter().position(|p| p.account.is_none())?;
        let part = self.approvals[share].sharers.get(account)?;
        Some((share, *part))
    }

    fn touch(&self, hash: u64, now_ms: i64) -> Option<Touch> {
        let oldest = self.config.oldest_slot(now_ms);
        self.seen.get(&hash).filter(|&&(slot, _)| slot >= oldest).map(|&(_, touch)| touch)
    }

    /// Whether an extension is neither of a well-known kind nor older at this share than the window.
    fn is_foreign(&self, extension: Extension, now_ms: i64) -> bool {
        let begin = now_ms.saturating_sub_unsigned(self.config.window());
        // What something is held for does not become usual while it is.
        let is_held = || {
            let reasons = self.holds.iter().flat_map(|hold| &hold.reasons);
            reasons.into_iter().any(|reason| reason.extension() == Some(extension))
        };
        !self.config.is_familiar(extension)
            && (self.extensions.get(&extension).is_none_or(|l| l.first_ms >= begin) || is_held())
    }

    fn learn_at(&mut self, extension: Extension, first_ms: i64, now_ms: i64) {
        if let Some(learned) = self.extensions.get_mut(&extension) {
            learned.first_ms = learned.first_ms.min(first_ms);
            learned.last_ms = learned.last_ms.max(now_ms);
            return;
        }
        if self.extensions.len() >= EXTENSIONS_MAX {
            let stale = self.extensions.iter().min_by_key(|(_, l)| l.last_ms).map(|(&e, _)| e);
            stale.map(|e| self.extensions.remove(&e));
        }
        self.extensions.insert(extension, Learned { first_ms, last_ms: now_ms });
    }

    /// Forgets what lies before the window; of what is held nothing, as it is judged by that.
    fn expire(&mut self, now_ms: i64) {
        if self.hold_of(None).is_some() {
            return;
        }
        let oldest = self.config.oldest_slot(now_ms);
        if self.share.buckets.front().is_some_and(|&(slot, _)| slot < oldest) {
            self.share.expire(oldest);
        }
        let held: BTreeSet<&RelPath> =
            self.holds.iter().filter_map(|hold| hold.account.as_ref()).collect();
        self.accounts.retain(|account, window| {
            if !held.contains(account) {
                window.expire(oldest);
            }
            !window.is_empty()
        });
        // A million entries: once a slot is enough, readers compare slots themselves.
        if self.config.slot_of(now_ms) > self.slot {
            self.slot = self.config.slot_of(now_ms);
            self.seen.retain(|_, &mut (slot, _)| slot >= oldest);
            self.stems.retain(|_, &mut (slot, _)| slot >= oldest);
        }
    }

    /// Forgets the events of an account, or of the share and of the accounts held with it. An account's
    /// part of the share's sums stays: somebody judged the account, not what else adds up to them.
    fn settle(&mut self, hold: &Hold) {
        if hold.account.is_none() {
            self.share.settle();
        }
        for account in hold.account.iter().chain(hold.sharers.keys()) {
            if let Some(window) = self.accounts.get_mut(account) {
                window.settle();
            }
        }
        self.accounts.retain(|_, window| !window.is_empty());
    }

    fn record(&mut self, account: &RelPath, tally: &AccountTally, oldest: u64, purge: bool) {
        let slot = self.slot;
        let mut sums = Sums::of(tally, purge);
        let mut rewrites_count = true;
        if let Some((at, _)) = self.approval_of(account) {
            let approval = &mut self.approvals[at];
            let counts = Counts::of(tally, purge);
            approval.used = approval.used.plus(counts);
            sums = sums.not_of(approval.kinds);
            rewrites_count = !approval.kinds.rewrites();
            if let Some(part) = approval.sharers.get_mut(account) {
                part.used = part.used.plus(counts);
            }
            if tally.whole {
                // All there was of it has been shown and applied.
                approval.sharers.remove(account);
                if approval.account.is_some() {
                    approval.shown = Counts::default();
                }
            }
        }
        let window = self.accounts.entry(account.clone()).or_default();
        if rewrites_count {
            for &(hash, noise) in &tally.rewrote {
                let touch = if noise { Touch::Encrypted } else { Touch::Rewritten };
                let known = self.seen.get(&hash).copied();
                let live = known.filter(|&(before, _)| before >= oldest);
                if let Some((before, old)) = live.filter(|&(_, old)| old != Touch::Born) {
                    let was_noise = old == Touch::Encrypted;
                    window.take_rewrite(before, was_noise);
                    self.share.take_rewrite(before, was_noise);
                    sums.rewritten = sums.rewritten.saturating_add(1);
                    sums.encrypted = sums.encrypted.saturating_add(u64::from(was_noise));
                }
                if known.is_some() || self.seen.len() < SEEN_MAX {
                    self.seen.insert(hash, (slot, touch));
                }
            }
        }
        for &hash in &tally.born {
            if self.seen.len() < SEEN_MAX || self.seen.contains_key(&hash) {
                self.seen.insert(hash, (slot, Touch::Born));
            }
        }
        window.add(slot, &sums);
        self.share.add(slot, &sums);
        if window.is_empty() {
            self.accounts.remove(account);
        }
    }
}

#[cfg(test)]
mod tests;

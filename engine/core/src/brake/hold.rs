//! Holds: why, of what, since when, and what a person decided.

use std::collections::BTreeMap;
use std::fmt;

use crate::guard::Threshold;
use crate::path::{self, RelPath};

use super::LastPoint;
use super::tally::{AccountTally, CutTally, Extension, Root};

/// Paths shown of one hold.
pub(super) const PATHS_MAX: usize = 20;
/// Most accounts told apart of a hold of the whole share; what is beyond, an approval does not cover.
pub(super) const SHARERS_MAX: usize = 100_000;

/// So many of so many within a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mass {
    /// How many, within the window and with the cut at hand.
    pub count: u64,
    /// Of how many.
    pub of: u64,
    /// What it broke.
    pub threshold: Threshold,
    /// The window in milliseconds.
    pub window_ms: u64,
    /// Counted over the share, not the account.
    pub share: bool,
}

/// Why changes are held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The root is another directory.
    RootReplaced,
    /// The root is empty.
    RootEmptied {
        /// Entries at the target.
        known: u64,
    },
    /// Too much would be deleted.
    MassDelete(Mass),
    /// Too much would be rewritten.
    MassRewrite(Mass),
    /// Compressible files became noise.
    Encrypted(Mass),
    /// Names came to end in one new extension.
    Appended {
        /// The extension.
        extension: Extension,
        /// How many, of how many old files that went or moved.
        mass: Mass,
    },
    /// Most renames were to one new extension.
    Renamed {
        /// The extension.
        extension: Extension,
        /// How many, of how many moves.
        mass: Mass,
    },
    /// A canary was changed, deleted or moved.
    Canary {
        /// The first.
        path: RelPath,
    },
    /// One new text in very many directories.
    Note {
        /// Its name.
        name: Box<[u8]>,
        /// In so many.
        directories: u64,
        /// More than so many.
        limit: u64,
    },
    /// More than was approved.
    BeyondApproval {
        /// Entries that would be deleted, rewritten and moved under the approval.
        count: u64,
        /// Up to so many were approved.
        approved: u64,
    },
}

impl Reason {
    /// Its number in [`Kinds`] and in the encoding.
    pub(super) fn kind(&self) -> u8 {
        match self {
            Self::RootReplaced => 0,
            Self::RootEmptied { .. } => 1,
            Self::MassDelete(_) => 2,
            Self::MassRewrite(_) => 3,
            Self::Encrypted(_) => 4,
            Self::Appended { .. } => 5,
            Self::Renamed { .. } => 6,
            Self::Canary { .. } => 7,
            Self::Note { .. } => 8,
            Self::BeyondApproval { .. } => 9,
        }
    }

    /// Of the mass, if it is one that the share's sums passed.
    pub(super) fn mass_of_share(&self) -> Option<(bool, &Mass)> {
        match self {
            Self::MassDelete(mass) if mass.share => Some((true, mass)),
            Self::MassRewrite(mass) if mass.share => Some((false, mass)),
            _ => None,
        }
    }

    /// The extension it names.
    pub(super) fn extension(&self) -> Option<Extension> {
        match self {
            Self::Appended { extension, .. } | Self::Renamed { extension, .. } => Some(*extension),
            _ => None,
        }
    }

    /// Whether it is about where the root is, not about what was done below it.
    pub(super) fn is_of_root(&self) -> bool {
        matches!(self, Self::RootReplaced | Self::RootEmptied { .. })
    }
}

/// Milliseconds in the largest unit that divides them.
struct Span(u64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")];
        let unit = units.iter().find(|(ms, _)| self.0.is_multiple_of(*ms)).unwrap_or(&(1, "ms"));
        write!(f, "{}{}", self.0 / unit.0, unit.1)
    }
}

impl Mass {
    fn say(&self, f: &mut fmt::Formatter<'_>, what: &str, done: &str) -> fmt::Result {
        let Self { count, of, threshold: Threshold { entries, percent }, window_ms, share } = self;
        let share = if *share { " of the share" } else { "" };
        write!(
            f,
            "{count} of {of} {what}{share} {done} within {}, more than {entries} and {percent} %",
            Span(*window_ms)
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RootReplaced => f.write_str(
                "the source root is another directory than before: is the share mounted?",
            ),
            Self::RootEmptied { known } => write!(
                f,
                "the source is empty, the target holds {known} entries: is the share mounted?"
            ),
            Self::MassDelete(mass) => mass.say(f, "entries", "would be deleted"),
            Self::MassRewrite(mass) => mass.say(f, "entries", "would be rewritten"),
            Self::Encrypted(mass) => {
                mass.say(f, "rewritten files", "were compressible and would be noise")
            }
            Self::Appended { extension, mass } => {
                let done = format!("would get {extension} added to their name");
                mass.say(f, "deleted or moved files", &done)
            }
            Self::Renamed { extension, mass } => {
                mass.say(f, "moved files", &format!("would be renamed to {extension}"))
            }
            Self::Canary { path } => write!(f, "the canary {path} was changed, deleted or moved"),
            Self::Note { name, directories, limit } => {
                f.write_str("a new file ")?;
                path::escape(name, f)?;
                write!(f, " turned up in {directories} directories at once, more than {limit}")
            }
            Self::BeyondApproval { count, approved } => {
                write!(f, "{count} changes now, up to {approved} were approved")
            }
        }
    }
}

/// Sorts of reasons, a bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Kinds(pub(super) u16);

impl Kinds {
    pub(super) fn of(reasons: &[Reason]) -> Self {
        Self(reasons.iter().fold(0, |kinds, r| kinds | 1 << r.kind()))
    }

    pub(super) fn has(self, reason: &Reason) -> bool {
        self.0 >> reason.kind() & 1 == 1
    }

    /// Deletes are what somebody approved: mass deletes, names that went, an emptied or replaced root.
    pub(super) fn deletes(self) -> bool {
        self.0 & 0b10_0010_0111 != 0
    }

    /// Rewrites are: mass rewrites, encryption.
    pub(super) fn rewrites(self) -> bool {
        self.0 & 0b10_0001_1011 != 0
    }

    /// Moves are: new extensions.
    pub(super) fn moves(self) -> bool {
        self.0 & 0b10_0110_0011 != 0
    }
}

/// Changes held, or approved, or applied under an approval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Entries created.
    pub created: u64,
    /// Entries deleted, those consumed within the window not counted.
    pub deleted: u64,
    /// Files rewritten, each once.
    pub rewritten: u64,
    /// Entries moved.
    pub moved: u64,
}

impl Counts {
    pub(super) fn of(tally: &AccountTally, purge: bool) -> Self {
        Self {
            created: tally.created,
            deleted: if purge { 0 } else { tally.deleted },
            rewritten: tally.rewritten,
            moved: tally.moved,
        }
    }

    /// The larger of each.
    fn max(self, other: Self) -> Self {
        Self {
            created: self.created.max(other.created),
            deleted: self.deleted.max(other.deleted),
            rewritten: self.rewritten.max(other.rewritten),
            moved: self.moved.max(other.moved),
        }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            created: self.created.saturating_add(other.created),
            deleted: self.deleted.saturating_add(other.deleted),
            rewritten: self.rewritten.saturating_add(other.rewritten),
            moved: self.moved.saturating_add(other.moved),
        }
    }
}

/// What was decided of a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Nothing yet.
    Waits,
    /// Rejected: the account stays at its last good point.
    Rejected {
        /// When, in milliseconds since 1970-01-01 UTC.
        at_ms: i64,
    },
}

/// What the share's sums were without an account when its hold began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Beside {
    /// Entries deleted within the window.
    pub(super) deleted: u64,
    /// Files rewritten within the window.
    pub(super) rewritten: u64,
    /// Entries of the share when the window began.
    pub(super) known: u64,
}

/// Changes that are not applied until a person decides, or until they are taken back at the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Counts the holds of a share from 1.
    pub id: u64,
    /// The account; none for the whole share.
    pub account: Option<RelPath>,
    /// Why, one of each sort, with the newest counts.
    pub reasons: Vec<Reason>,
    /// Since when, in milliseconds since 1970-01-01 UTC.
    pub since_ms: i64,
    /// When what is held was last another than before.
    pub last_ms: i64,
    /// What is held, as of the last look at all of it; of looks at parts since, the most.
    pub counts: Counts,
    /// Some of the paths that are deleted, rewritten or moved.
    pub paths: Vec<RelPath>,
    /// The last point sealed before the hold: the last good one.
    pub point: LastPoint,
    /// What a person decided.
    pub decision: Decision,
    /// Entries there were at the target: with fewer, nothing is concluded from what is missing in a look.
    pub(super) known: u64,
    pub(super) beside: Beside,
    /// Of a hold of the whole share: what is held, by account; at most [`SHARERS_MAX`].
    pub(super) sharers: BTreeMap<RelPath, Counts>,
}

impl Hold {
    pub(super) fn new(id: u64, account: Option<RelPath>, point: LastPoint, now_ms: i64) -> Self {
        Self {
            id,
            account,
            reasons: Vec::new(),
            since_ms: now_ms,
            last_ms: now_ms,
            counts: Counts::default(),
            paths: Vec::new(),
            point,
            decision: Decision::Waits,
            known: 0,
            beside: Beside::default(),
            sharers: BTreeMap::new(),
        }
    }

    /// Adds reasons, a newer one of a sort in place of the older.
    pub(super) fn add_reasons(&mut self, reasons: impl IntoIterator<Item = Reason>) {
        for reason in reasons {
            match self.reasons.iter_mut().find(|r| r.kind() == reason.kind()) {
                Some(old) => *old = reason,
                None => self.reasons.push(reason),
            }
        }
    }

    /// The reasons of a look at all that is held take the place of those there were, but for what such a
    /// look does not tell: that more was done than was approved, and what nobody looked into.
    pub(super) fn set_reasons(&mut self, reasons: Vec<Reason>, unsampled: u64) {
        if reasons.is_empty() {
            return;
        }
        self.reasons.retain(|r| match r {
            Reason::BeyondApproval { .. } => true,
            Reason::Encrypted(_) => unsampled > 0,
            _ => false,
        });
        self.add_reasons(reasons);
    }

    /// What `cut` shows of what is held: after a look at all of it that, else what there was or more.
    pub(super) fn see(&mut self, cut: &CutTally, now_ms: i64) {
        let (before, mut paths) = (self.counts, Vec::new());
        let mut show = |tally: &AccountTally| {
            let room = PATHS_MAX.saturating_sub(paths.len());
            paths.extend(tally.paths.iter().take(room).cloned());
        };
        let whole = match &self.account {
            Some(account) => {
                let Some(tally) = cut.accounts.get(account) else { return };
                show(tally);
                let whole = tally.whole && tally.known >= self.known;
                let counts = Counts::of(tally, false);
                self.counts = if whole { counts } else { before.max(counts) };
                whole
            }
            None => {
                let (whole, mut all) = (cut.whole && cut.known >= self.known, Counts::default());
                if whole {
                    self.sharers.clear();
                }
                for (account, tally) in &cut.accounts {
                    show(tally);
                    let counts = Counts::of(tally, false);
                    all = all.plus(counts);
                    let room = self.sharers.len() < SHARERS_MAX;
                    match self.sharers.get_mut(account) {
                        Some(known) => *known = known.max(counts),
                        None if room && counts != Counts::default() => {
                            self.sharers.insert(account.clone(), counts);
                        }
                        None => {}
                    }
                }
                let sum = self.sharers.values().fold(Counts::default(), |sum, c| sum.plus(*c));
                self.counts = if whole { all } else { before.max(sum) };
                whole
            }
        };
        if whole {
            self.paths = paths;
        } else {
            let room = PATHS_MAX.saturating_sub(self.paths.len());
            paths.retain(|path| !self.paths.contains(path));
            self.paths.extend(paths.into_iter().take(room));
        }
        if self.counts != before {
            self.last_ms = now_ms;
        }
    }

    /// Whether it is of the root alone, and the root is itself again.
    pub(super) fn is_of_root_again(&self, cut: &CutTally) -> bool {
        self.account.is_none()
            && cut.root == Root::Same
            && !self.reasons.is_empty()
            && self.reasons.iter().all(Reason::is_of_root)
    }

    /// Whether a look that found no reason to hold `tally` shows that nothing of this hold is left: it
    /// looked at all, the target has what it had, and what is beyond an approval is none at all any more.
    pub(super) fn is_settled(&self, whole: bool, known: u64, tallies: &[&AccountTally]) -> bool {
        let is_harmless = || tallies.iter().all(|t| t.is_harmless());
        let is_told = |reason: &Reason| match reason {
            Reason::BeyondApproval { .. } => is_harmless(),
            Reason::Encrypted(_) => tallies.iter().all(|t| t.unsampled == 0),
            _ => true,
        };
        whole && known >= self.known.max(1) && self.reasons.iter().all(is_told)
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.account {
            None => f.write_str("the whole share")?,
            Some(account) if account.is_root() => f.write_str("what lies above the accounts")?,
            Some(account) => write!(f, "account {account}")?,
        }
        match self.decision {
            Decision::Waits => f.write_str(" is held")?,
            Decision::Rejected { .. } => f.write_str(" is held, its changes rejected")?,
        }
        for (i, reason) in self.reasons.iter().enumerate() {
            write!(f, "{} {reason}", if i == 0 { ":" } else { ";" })?;
        }
        f.write_str("; next: farshore brake show, then farshore brake approve or reject")
    }
}

/// Something a person let pass, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pass {
    /// The account; none for the whole share.
    pub(super) account: Option<RelPath>,
    /// What the approval showed.
    pub(super) shown: Counts,
    /// What was applied under it.
    pub(super) used: Counts,
    /// Reasons it lets pass.
    pub(super) kinds: Kinds,
    /// It ends then at the latest.
    pub(super) until_ms: i64,
    /// Of one for the whole share: the accounts it showed. It covers no other.
    pub(super) sharers: BTreeMap<RelPath, Shared>,
}

/// What an approval for the whole share lets pass of one account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Shared {
    /// What it showed.
    pub(super) shown: Counts,
    /// What was applied under it.
    pub(super) used: Counts,
}

impl Pass {
    /// How much is let pass of what was shown: a tenth more, and what never is a mass.
    fn limit(shown: u64, slack: u64) -> u64 {
        shown.saturating_add((shown / 10).max(slack))
    }

    /// The reason to hold again, where `next` is more than was approved of the whole.
    pub(super) fn beyond(&self, next: Counts, slack: u64) -> Option<Reason> {
        self.beyond_of(Shared { shown: self.shown, used: self.used }, next, slack)
    }

    /// The same of `part` of what was approved.
    pub(super) fn beyond_of(&self, part: Shared, next: Counts, slack: u64) -> Option<Reason> {
        let (shown, all) = (part.shown, part.used.plus(next));
        let sorts = [
            (self.kinds.deletes(), all.deleted, shown.deleted),
            (self.kinds.rewrites(), all.rewritten, shown.rewritten),
            (self.kinds.moves(), all.moved, shown.moved),
        ];
        sorts
            .into_iter()
            .filter(|&(covered, ..)| covered)
            .map(|(_, count, shown)| (count, Self::limit(shown, slack)))
            .find(|(count, approved)| count > approved)
            .map(|(count, approved)| Reason::BeyondApproval { count, approved })
    }

    /// Whether nine tenths of what was shown is done: what is left was taken back at the source.
    pub(super) fn is_used(&self) -> bool {
        let done = |used: u64, shown: u64| used >= shown - shown / 10;
        done(self.used.deleted, self.shown.deleted)
            && done(self.used.rewritten, self.shown.rewritten)
            && done(self.used.moved, self.shown.moved)
    }
}

/// What is done with an account's part of a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Apply it.
    Pass,
    /// Apply nothing of it, keep it to be looked at again: the hold's number.
    Hold(u64),
    /// The same, by a person's decision; shown apart since nobody is asked any more.
    Rejected(u64),
}

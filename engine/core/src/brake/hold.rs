//! Holds: why, of what, since when, and what a person decided.

use std::collections::BTreeSet;
use std::fmt;

use crate::guard::Threshold;
use crate::path::{self, RelPath};

use super::tally::{AccountTally, CutTally, Extension, Root};

/// Paths shown of one hold.
pub(super) const PATHS_MAX: usize = 20;
/// Most changes of one hold that are told apart when they are seen again.
pub(super) const PENDING_MAX: usize = 1 << 16;
/// The same of all holds of a share.
pub(super) const PENDING_TOTAL_MAX: usize = 1 << 20;

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

/// Changes that are not applied until a person decides.
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
    /// When a cut last added to it.
    pub last_ms: i64,
    /// What is held so far.
    pub counts: Counts,
    /// The first paths that are deleted, rewritten or moved, as they came.
    pub paths: Vec<RelPath>,
    /// Sequence of the last point sealed before the hold: the last good one.
    pub point: u64,
    /// The point is kept, whatever the history's age and size, while the hold stands.
    pub frozen: bool,
    /// What a person decided.
    pub decision: Decision,
    /// Hashes of what is counted, so that what is seen again counts once; at most [`PENDING_MAX`].
    pub(super) pending: BTreeSet<u64>,
}

impl Hold {
    pub(super) fn new(id: u64, account: Option<RelPath>, point: u64, now_ms: i64) -> Self {
        Self {
            id,
            account,
            reasons: Vec::new(),
            since_ms: now_ms,
            last_ms: now_ms,
            counts: Counts::default(),
            paths: Vec::new(),
            point,
            frozen: true,
            decision: Decision::Waits,
            pending: BTreeSet::new(),
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

    /// Adds what one cut would do to an account, what was seen before not again.
    pub(super) fn grow(&mut self, tally: &AccountTally, room: usize, now_ms: i64) {
        let most = PENDING_MAX.min(self.pending.len().saturating_add(room));
        let before = self.counts;
        let sorts: [(u64, &mut u64, u64, &mut dyn Iterator<Item = u64>); 4] = [
            (0, &mut self.counts.created, tally.created, &mut tally.born.iter().copied()),
            (1, &mut self.counts.deleted, tally.deleted, &mut tally.gone.iter().copied()),
            (
                2,
                &mut self.counts.rewritten,
                tally.rewritten,
                &mut tally.rewrote.iter().map(|&(hash, _)| hash),
            ),
            (3, &mut self.counts.moved, tally.moved, &mut tally.shifted.iter().copied()),
        ];
        for (salt, count, counted, hashes) in sorts {
            for hash in hashes {
                if self.pending.len() >= most {
                    break;
                }
                let salted = hash ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                *count = count.saturating_add(u64::from(self.pending.insert(salted)));
            }
            *count = (*count).max(counted);
        }
        let room = PATHS_MAX.saturating_sub(self.paths.len());
        let fresh: Vec<_> =
            tally.paths.iter().filter(|p| !self.paths.contains(p)).take(room).cloned().collect();
        self.paths.extend(fresh);
        if self.counts != before {
            self.last_ms = now_ms;
        }
    }

    /// Whether `cut` shows that nothing is left to hold: the root is itself again, or after a rejection a
    /// whole look finds the source as it was.
    pub(super) fn is_over(&self, cut: &CutTally) -> bool {
        if self.account.is_none() && self.reasons.iter().all(Reason::is_of_root) {
            return cut.root == Root::Same;
        }
        if self.decision == Decision::Waits {
            return false;
        }
        match &self.account {
            None => {
                cut.whole
                    && cut.root == Root::Same
                    && cut.canaries.is_empty()
                    && cut.accounts.values().all(AccountTally::is_harmless)
            }
            Some(account) => match cut.accounts.get(account) {
                Some(tally) => (tally.whole || cut.whole) && tally.is_harmless(),
                None => cut.whole,
            },
        }
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
}

impl Pass {
    /// How much is let pass of what was shown: a tenth more, and what never is a mass.
    fn limit(shown: u64, slack: u64) -> u64 {
        shown.saturating_add((shown / 10).max(slack))
    }

    /// The reason to hold again, where `next` is more than was approved.
    pub(super) fn beyond(&self, next: Counts, slack: u64) -> Option<Reason> {
        let all = self.used.plus(next);
        let sorts = [
            (self.kinds.deletes(), all.deleted, self.shown.deleted),
            (self.kinds.rewrites(), all.rewritten, self.shown.rewritten),
            (self.kinds.moves(), all.moved, self.shown.moved),
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

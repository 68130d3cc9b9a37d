//! The way home after a failover: what becomes of every path that either site changed since the last
//! common recovery point.
//!
//! Recovery served alone for a while; production comes back with changes it never sent. Both sites list
//! what they changed against the same base ([`SideChange`], in path order). [`Merge`] joins the lists and
//! gives each path one [`Outcome`]; a person reads the plan, changes outcomes, and only then anything is
//! applied ([`action`]). Afterwards ordinary replication from recovery makes production equal.
//!
//! Guarantees, whoever decided: no version that a site made is gone without a copy, it is in the tree or
//! in the quarantine; nothing that either site consumed comes back by default; nothing that only
//! production has is published without a person; names of one file, a rename's two ends and a file with
//! its attributes are decided together. Clocks decide nothing.
//!
//! What is decided when nobody says otherwise ([`Rule`]; P production, R recovery):
//!
//! | rule | situation | what becomes of it |
//! |---|---|---|
//! | `recovery-only` | R created, changed or renamed it, P left it alone | R's |
//! | `consumed` | R deleted or moved it, P left it alone (W4) | stays gone |
//! | `production-only` | P changed or renamed it, R left it alone | P's; R's former version to quarantine |
//! | `delete-wins` | P deleted it, R left its content alone (W5) | goes; R's to quarantine |
//! | `consumed-at-production` | P deleted or moved it, R changed attributes alone | P's; R's to quarantine, flagged |
//! | `resent` | P alone received it, its content is in the account at R (W7) | P's to quarantine |
//! | `orphan` | P alone received it (W7) | held for a person |
//! | `in-flight` | P's is a partial upload or a mark of processing (W1, W10) | P's to quarantine |
//! | `interrupted` | P moved it to such a name, R left it alone | held for a person |
//! | `agree` | both did the same | as both have it |
//! | `both-changed` | both changed, created, moved or replaced it (W6) | R's; P's to quarantine, flagged |
//! | `delivered` | R deleted it, P changed it | stays gone; P's to quarantine, flagged |
//! | `attributes` | both changed owner, mode, time or attributes alone | R's, flagged |
//! | `entangled` | P consumed what R left alone, where another change of R's is bound to it | held |
//! | `no-room` | P's would lie below what is no directory at R | held |
//! | `companion` | attributes of a file that P has no more | P's to quarantine |
//! | `directory` | a directory: its time, and one that P alone made | R's time; P's directory |
//! | `directory-needed` | one site removed it, something below stays | stays |
//! | `bad-answer` | an answer that cannot be carried out | held, with the reason |
//! | `no-base` | the base is lost, the sites differ | held; nothing counts as deleted |
//!
//! A move that no inode tells of is one where it is plain: the same file at another path, and nothing else it could be
//! (`moves.rs`).
//!
//! Refuses: lists out of order, or made against different bases. Nothing here survives a crash but the
//! encodings of [`list`] and [`plan`].

use std::fmt;

use crate::conflict::{Outcome, Site};
use crate::entry::{Entry, EntryKind};
use crate::path::RelPath;

pub mod action;
mod classify;
mod code;
mod frames;
mod index;
mod join;
mod judge;
pub mod list;
mod merge;
mod moves;
pub mod plan;
pub mod render;
mod rules;
mod unit;

#[cfg(test)]
mod tests;

pub use list::{ChangeList, ListError, SideChange};
pub use merge::{BaseTree, Merge, MergeError, Merged, NoBase, Resolve, Unasked};
pub use rules::{Base, Config, Rule};

/// How the two sites differ at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// Production alone made it.
    ProductionCreated = 1,
    /// Production alone changed its content.
    ProductionModified = 2,
    /// Production alone deleted it.
    ProductionDeleted = 3,
    /// Production alone changed owner, mode, time or attributes.
    ProductionMetadata = 4,
    /// Production alone moved it: its old and its new name.
    ProductionRenamed = 5,
    /// Production alone made something of another kind of it.
    ProductionKind = 6,
    /// Recovery alone made it.
    RecoveryCreated = 7,
    /// Recovery alone changed its content.
    RecoveryModified = 8,
    /// Recovery alone deleted it.
    RecoveryDeleted = 9,
    /// Recovery alone changed owner, mode, time or attributes.
    RecoveryMetadata = 10,
    /// Recovery alone moved it.
    RecoveryRenamed = 11,
    /// Recovery alone made something of another kind of it.
    RecoveryKind = 12,
    /// Both changed it, to the same.
    BothModifiedAlike = 13,
    /// Both made the same.
    BothCreatedAlike = 14,
    /// Both deleted it.
    BothDeleted = 15,
    /// Both moved it to the same name.
    BothRenamedAlike = 16,
    /// Both changed its content, to something different.
    BothModified = 17,
    /// Both made it, and it is not the same.
    BothCreated = 18,
    /// Production changed it, recovery deleted it.
    ProductionModifiedRecoveryDeleted = 19,
    /// Production deleted it, recovery changed it.
    ProductionDeletedRecoveryModified = 20,
    /// Both moved it, to different names.
    BothRenamedApart = 21,
    /// Production moved it, recovery changed it or what is at one of the names.
    ProductionRenamedRecoveryModified = 22,
    /// Production moved it, recovery deleted it.
    ProductionRenamedRecoveryDeleted = 23,
    /// Production changed it or what is at one of the names, recovery moved it.
    ProductionModifiedRecoveryRenamed = 24,
    /// Production deleted it, recovery moved it.
    ProductionDeletedRecoveryRenamed = 25,
    /// Both changed it and it is of another kind at each.
    BothKind = 26,
    /// The same content, but other owners, modes, times or attributes, and both changed those.
    BothMetadata = 27,
    /// Both changed what several names share.
    BothLinked = 28,
    /// The base is lost and the sites differ.
    NoBase = 29,
}

impl Class {
    /// Every class, in the order of its number.
    pub const ALL: [Self; 29] = [
        Self::ProductionCreated,
        Self::ProductionModified,
        Self::ProductionDeleted,
        Self::ProductionMetadata,
        Self::ProductionRenamed,
        Self::ProductionKind,
        Self::RecoveryCreated,
        Self::RecoveryModified,
        Self::RecoveryDeleted,
        Self::RecoveryMetadata,
        Self::RecoveryRenamed,
        Self::RecoveryKind,
        Self::BothModifiedAlike,
        Self::BothCreatedAlike,
        Self::BothDeleted,
        Self::BothRenamedAlike,
        Self::BothModified,
        Self::BothCreated,
        Self::ProductionModifiedRecoveryDeleted,
        Self::ProductionDeletedRecoveryModified,
        Self::BothRenamedApart,
        Self::ProductionRenamedRecoveryModified,
        Self::ProductionRenamedRecoveryDeleted,
        Self::ProductionModifiedRecoveryRenamed,
        Self::ProductionDeletedRecoveryRenamed,
        Self::BothKind,
        Self::BothMetadata,
        Self::BothLinked,
        Self::NoBase,
    ];

    /// The class with that number.
    #[must_use]
    pub fn of(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// Whether both sites changed the path and do not agree.
    #[must_use]
    pub fn is_conflict(self) -> bool {
        self as u8 >= Self::BothModified as u8 && self != Self::NoBase
    }

    /// Its name in reports, filters and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ProductionCreated => "production-created",
            Self::ProductionModified => "production-modified",
            Self::ProductionDeleted => "production-deleted",
            Self::ProductionMetadata => "production-metadata",
            Self::ProductionRenamed => "production-renamed",
            Self::ProductionKind => "production-kind",
            Self::RecoveryCreated => "recovery-created",
            Self::RecoveryModified => "recovery-modified",
            Self::RecoveryDeleted => "recovery-deleted",
            Self::RecoveryMetadata => "recovery-metadata",
            Self::RecoveryRenamed => "recovery-renamed",
            Self::RecoveryKind => "recovery-kind",
            Self::BothModifiedAlike => "both-modified-alike",
            Self::BothCreatedAlike => "both-created-alike",
            Self::BothDeleted => "both-deleted",
            Self::BothRenamedAlike => "both-renamed-alike",
            Self::BothModified => "both-modified",
            Self::BothCreated => "both-created",
            Self::ProductionModifiedRecoveryDeleted => "production-modified-recovery-deleted",
            Self::ProductionDeletedRecoveryModified => "production-deleted-recovery-modified",
            Self::BothRenamedApart => "both-renamed-apart",
            Self::ProductionRenamedRecoveryModified => "production-renamed-recovery-modified",
            Self::ProductionRenamedRecoveryDeleted => "production-renamed-recovery-deleted",
            Self::ProductionModifiedRecoveryRenamed => "production-modified-recovery-renamed",
            Self::ProductionDeletedRecoveryRenamed => "production-deleted-recovery-renamed",
            Self::BothKind => "both-kind",
            Self::BothMetadata => "both-metadata",
            Self::BothLinked => "both-linked",
            Self::NoBase => "no-base",
        }
    }

    /// The class of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.name() == name)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Who gave an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DecidedBy {
    /// Nobody else: the rule of the module's table.
    Default(Rule),
    /// A policy, by its place in the chain.
    Policy(u32),
    /// A person.
    Person,
}

impl fmt::Display for DecidedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default(rule) => write!(f, "default {rule}"),
            Self::Policy(index) => write!(f, "policy {index}"),
            Self::Person => f.write_str("person"),
        }
    }
}

/// What is decided together: the names of one file, both ends of a rename, a file and its attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u64);

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What one site has at a path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AtSite {
    /// What is there now.
    pub entry: Option<Entry>,
    /// It came from there by a rename since the base.
    pub moved_from: Option<RelPath>,
    /// What was there at the base is there now.
    pub moved_to: Option<RelPath>,
}

/// A path that either site changed, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Divergence {
    /// The path.
    pub path: RelPath,
    /// What was there at the base.
    pub base: Option<Entry>,
    /// What production has.
    pub production: AtSite,
    /// What recovery has.
    pub recovery: AtSite,
    /// How they differ.
    pub class: Class,
    /// What becomes of the path.
    pub outcome: Outcome,
    /// Who says so.
    pub by: DecidedBy,
    /// Why, for people; empty where the rule says it all.
    pub reason: String,
    /// Decided together with the others of that number.
    pub group: Option<GroupId>,
    /// Where recovery has the content that production has at the path.
    pub at_recovery: Option<RelPath>,
    /// Bytes of content to carry from production to recovery for it.
    pub needs: u64,
}

impl Divergence {
    /// What `site` has.
    #[must_use]
    pub fn at(&self, site: Site) -> &AtSite {
        match site {
            Site::Production => &self.production,
            Site::Recovery => &self.recovery,
        }
    }

    /// Whether `site` changed the path.
    #[must_use]
    pub fn is_changed_at(&self, site: Site) -> bool {
        self.at(site).entry != self.base || self.class == Class::NoBase
    }

    /// Why, for people.
    #[must_use]
    pub fn why(&self) -> &str {
        match self.by {
            DecidedBy::Default(rule) if self.reason.is_empty() => rule.text(),
            _ => &self.reason,
        }
    }

    /// The largest version of the three, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        let sizes = [&self.base, &self.production.entry, &self.recovery.entry];
        sizes.into_iter().flatten().map(Entry::size).max().unwrap_or(0)
    }
}

/// The name of an outcome in reports, filters and JSON.
#[must_use]
pub fn outcome_name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Keep(Site::Production) => "production",
        Outcome::Keep(Site::Recovery) => "recovery",
        Outcome::KeepBoth { .. } => "both",
        Outcome::Merge { .. } => "merge",
        Outcome::Delete => "quarantine",
        Outcome::Hold => "hold",
    }
}

fn is_directory(entry: Option<&Entry>) -> bool {
    entry.is_some_and(|e| e.kind() == EntryKind::Directory)
}

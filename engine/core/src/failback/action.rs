//! From an outcome to what is done about it at each site.
//!
//! Guarantees: whatever a site made itself and that is not to stay is moved to the quarantine before
//! anything takes its place; content that production left as it was at the base is not touched there, the
//! ordinary replication that follows replaces it and keeps it in the history. Directories have no content
//! and are not quarantined: what is in them is. Nothing here reads or writes.

use super::Divergence;
use crate::conflict::{Outcome, Piece, Side, Site};
use crate::entry::{Entry, EntryKind};
use crate::path::RelPath;

/// Where content comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// It has none: directory, symbolic link, node; the entry says it all.
    Entry,
    /// Another name of what is at that path.
    Link(RelPath),
    /// A copy of what recovery has there. Nothing is placed there but this: it is there until what goes
    /// goes, after everything was placed. Did services change it meanwhile, production's own is sent.
    Recovery(RelPath),
    /// What production sent.
    Carried,
    /// Put together from the versions.
    Merged,
}

/// What becomes of the path at recovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It stays as it is there.
    Stays,
    /// Nothing is there afterwards.
    Goes,
    /// Production's entry is there afterwards; a merged file has owner, mode and attributes as the
    /// outcome says.
    Placed(Source),
}

/// A version that gets a new name at recovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beside {
    /// The new name.
    pub path: RelPath,
    /// Whose version.
    pub site: Site,
    /// Its content.
    pub source: Source,
}

/// What is done about one divergence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Steps {
    /// Production's version is moved to the quarantine there.
    pub quarantine_production: bool,
    /// Production sends the content of its version.
    pub carry: bool,
    /// Recovery's version is kept in the quarantine there.
    pub quarantine_recovery: bool,
    /// The path at recovery.
    pub end: End,
    /// A further path at recovery.
    pub beside: Option<Beside>,
}

impl Steps {
    const NONE: Self = Self {
        quarantine_production: false,
        carry: false,
        quarantine_recovery: false,
        end: End::Stays,
        beside: None,
    };
}

/// What is done about `divergence`. What is held is treated as if recovery's state stayed.
#[must_use]
pub fn steps(divergence: &Divergence) -> Steps {
    let [production, recovery] =
        [&divergence.production.entry, &divergence.recovery.entry].map(Option::as_ref);
    let made_by_production = divergence.is_changed_at(Site::Production);
    let lost = production.is_some_and(has_content) && made_by_production;
    let steps = match &divergence.outcome {
        Outcome::Keep(Site::Recovery) | Outcome::Hold => {
            // Where the content is the same, nothing is lost but an owner, a mode or a time.
            let is_kept = production.zip(recovery).is_some_and(|(p, r)| p.same_but_metadata(r));
            Steps { quarantine_production: lost && !is_kept, ..Steps::NONE }
        }
        Outcome::Keep(Site::Production) => take_production(divergence),
        Outcome::KeepBoth { renamed: Site::Production, path } => Steps {
            beside: production.map(|p| Beside {
                path: path.clone(),
                site: Site::Production,
                source: source(divergence, p),
            }),
            ..Steps::NONE
        },
        Outcome::KeepBoth { renamed: Site::Recovery, path } => Steps {
            // It is not lost: it has the new name.
            quarantine_recovery: false,
            beside: recovery.map(|_| Beside {
                path: path.clone(),
                site: Site::Recovery,
                source: Source::Recovery(divergence.path.clone()),
            }),
            ..take_production(divergence)
        },
        Outcome::Merge { .. } => Steps {
            quarantine_production: lost,
            quarantine_recovery: recovery.is_some_and(has_content),
            end: End::Placed(Source::Merged),
            ..Steps::NONE
        },
        Outcome::Delete => Steps {
            quarantine_production: lost,
            quarantine_recovery: recovery.is_some_and(has_content),
            end: if recovery.is_some() { End::Goes } else { End::Stays },
            ..Steps::NONE
        },
    };
    let carried = |source: &Source| *source == Source::Carried;
    let carry = match &divergence.outcome {
        Outcome::Merge { pieces, .. } => {
            pieces.iter().any(|piece| matches!(piece, Piece::Copy { side: Side::Production, .. }))
        }
        _ => {
            matches!(&steps.end, End::Placed(source) if carried(source))
                || steps.beside.as_ref().is_some_and(|beside| carried(&beside.source))
        }
    };
    Steps { carry, ..steps }
}

fn take_production(divergence: &Divergence) -> Steps {
    let [production, recovery] =
        [&divergence.production.entry, &divergence.recovery.entry].map(Option::as_ref);
    let quarantine_recovery = match (production, recovery) {
        (_, None) => false,
        (None, Some(r)) => has_content(r),
        (Some(p), Some(r)) => has_content(r) && !p.same_but_metadata(r),
    };
    let end = match (production, recovery) {
        (None, None) => End::Stays,
        (None, Some(_)) => End::Goes,
        // A further name is made again: its file is another one now.
        (Some(p), Some(r)) if p == r && p.kind() != EntryKind::HardLink => End::Stays,
        (Some(p), _) => End::Placed(source(divergence, p)),
    };
    Steps { quarantine_recovery, end, ..Steps::NONE }
}

fn source(divergence: &Divergence, entry: &Entry) -> Source {
    match (entry, &divergence.at_recovery) {
        (Entry::HardLink { leader }, _) => Source::Link(leader.clone()),
        (Entry::File { .. }, Some(path)) => Source::Recovery(path.clone()),
        (Entry::File { .. }, None) => Source::Carried,
        _ => Source::Entry,
    }
}

fn has_content(entry: &Entry) -> bool {
    entry.kind() != EntryKind::Directory
}

//! What a source is given, what it reports, and why it fails.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use farshore_core::guard::{Hold, Threshold};
use farshore_core::path::RelPath;
use farshore_core::policy::{Policy, PolicySet};
use farshore_core::recovery_point::{Epoch, RecoveryPoint};
use farshore_proto::compare::CompareError;
use farshore_proto::link::LinkError;
use farshore_proto::session::SessionError;

use super::COMPARISONS;
use crate::catalog::CatalogError;
use crate::frames::{Compression, Striping};
use crate::ingest::{IngestError, WallClock};
use crate::plan::{DetachedChange, PlanError, Problem};
use crate::profile::Profile;

/// How a source runs.
pub struct SourceConfig<'a> {
    /// The share's name at the target.
    pub share: String,
    /// The epoch it acts under.
    pub epoch: Epoch,
    /// Which entries travel.
    pub policy: &'a dyn Policy,
    /// What counts as a mass change.
    pub threshold: Threshold,
    /// Whether an operator approved what the guard would hold.
    pub approved: bool,
    /// Whether the target may skip checking its tree.
    pub trust_target: bool,
    /// Whether only to say what would be done.
    pub dry_run: bool,
    /// Threads that scan, then read and send; with one, all is read in one order.
    pub workers: usize,
    /// When frames are compressed.
    pub compression: Compression,
    /// How many streams a batch gets, where the target knows of more than one.
    pub striping: Striping,
    /// Where lists too long for memory go.
    pub spool_folder: PathBuf,
    /// The wall clock.
    pub now: WallClock<'a>,
    /// Files whose change time is closer to now than this, in nanoseconds, are looked at again.
    pub racy_ns: i64,
    /// Where the time goes.
    pub profile: &'a Profile,
}

impl std::fmt::Debug for SourceConfig<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceConfig").field("share", &self.share).finish_non_exhaustive()
    }
}

/// How a run ended when it did not fail.
#[derive(Debug)]
pub enum Outcome {
    /// The recovery point moved.
    Sealed(RecoveryPoint),
    /// The guard holds; nothing was changed.
    Held(Hold),
    /// A dry run: what would be done, by path, up to a bound.
    Preview(Vec<(RelPath, &'static str)>),
}

/// What a run did.
#[derive(Debug)]
pub struct SourceReport {
    /// How it ended.
    pub outcome: Outcome,
    /// After a preview: why the run itself would be held.
    pub would_hold: Option<Hold>,
    /// The recovery point before this run.
    pub former: Option<RecoveryPoint>,
    /// Entries the walk met.
    pub entries: u64,
    /// Entries excluded by policy, and below excluded directories not counted.
    pub excluded: u64,
    /// Entries deferred by policy.
    pub deferred: u64,
    /// The first of them.
    pub deferred_first: Vec<RelPath>,
    /// Entries kept at the target although gone or excluded here.
    pub detached: u64,
    /// What of them the policies keep there, and what of that is new.
    pub by_policy: DetachedChange,
    /// The policies that decided.
    pub policies: PolicySet,
    /// In what they differ from those of the former recovery point.
    pub policies_changed: Option<String>,
    /// Entries a policy had no answer about, and which travelled.
    pub faults: u64,
    /// Changes at the target that were not ours, found by its check.
    pub foreign_changes: u64,
    /// Whether the two ends had to be compared.
    pub compared: bool,
    /// What could not be replicated.
    pub problems: Vec<Problem>,
    /// Facts the target's mount could not keep, by kind.
    pub degraded: BTreeMap<String, u64>,
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The link is gone.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The peer broke the protocol, or refused.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The catalog cannot be used.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// No plan could be made.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The root cannot be looked at.
    #[error("source root: {step}")]
    Root {
        /// What was to be done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The ends do not agree although they were compared.
    #[error("the root digests of source and target still differ after {COMPARISONS} comparisons")]
    NoAgreement,
    /// A worker thread ended without a word.
    #[error("a worker ended unexpectedly")]
    WorkerGone,
}

impl From<IngestError> for SourceError {
    fn from(e: IngestError) -> Self {
        match e {
            IngestError::Link(e) => Self::Link(e),
            IngestError::Catalog(e) => Self::Catalog(e),
        }
    }
}

impl From<CompareError<CatalogError>> for SourceError {
    fn from(e: CompareError<CatalogError>) -> Self {
        match e {
            CompareError::Session(e) => Self::Session(e),
            CompareError::View(e) => Self::Catalog(e),
        }
    }
}

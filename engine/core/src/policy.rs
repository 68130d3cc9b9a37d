//! Which entries travel: the seam between the engine and the policies.
//!
//! The engine asks a [`Policy`] once for every candidate of a scan, in batches, and applies the
//! verdicts; a policy never deletes: an entry that turns excluded is detached, and stays at the
//! target as it was.

use crate::entry::{EntryKind, Timestamp};
use crate::path::RelPath;

/// What a policy sees of an entry: facts that both sites know, nothing of one machine alone.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Path below the share's root.
    pub path: &'a RelPath,
    /// Kind; a further name of an inode shows as a file.
    pub kind: EntryKind,
    /// Length in bytes; 0 for what has no content.
    pub size: u64,
    /// Modification time.
    pub mtime: Timestamp,
    /// Permission bits.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
}

/// The answer for one candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// It travels.
    Replicate,
    /// It stays; below an excluded directory nothing is asked.
    Exclude,
    /// Not now: it is still being written. Asked again at the next run.
    Defer,
}

/// An answer and the rule that gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// What to do.
    pub action: Action,
    /// Index into [`Policy::rules`]; `None` when no rule matched.
    pub rule: Option<u32>,
}

impl Verdict {
    /// Replicate, by no rule.
    pub const REPLICATE: Self = Self { action: Action::Replicate, rule: None };
}

/// Decides which entries travel. Must depend on the candidate alone, not on the batch it came in.
pub trait Policy: Send + Sync {
    /// One verdict for each candidate, in order.
    fn exclude(&self, candidates: &[Candidate<'_>]) -> Vec<Verdict>;
    /// The rules as people wrote them, for reports.
    fn rules(&self) -> Vec<String>;
    /// Whether every verdict is [`Verdict::REPLICATE`], so that the engine need not ask.
    fn is_trivial(&self) -> bool {
        false
    }
}

/// Replicates everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReplicateAll;

impl Policy for ReplicateAll {
    fn exclude(&self, candidates: &[Candidate<'_>]) -> Vec<Verdict> {
        vec![Verdict::REPLICATE; candidates.len()]
    }

    fn rules(&self) -> Vec<String> {
        Vec::new()
    }

    fn is_trivial(&self) -> bool {
        true
    }
}

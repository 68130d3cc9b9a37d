//! Going back: a file, what is below a directory, or all of the share, to the state after a batch.
//!
//! The procedure:
//!
//! 1. What a crash left is finished: a batch by its journal, then a rollback by its note in the catalog.
//! 2. The tree is checked, so that what others did to it is noted and goes back as well.
//! 3. A plan is made from the catalog. Without room for what comes back nothing is begun.
//! 4. The catalog notes that the rollback is under way, durably.
//! 5. Batches are staged and applied as those of a source are (`apply.rs`): content comes from history by
//!    sharing blocks or copying, is checked as it was written, and what it replaces goes to
//!    history as a set of its own. So a rollback is undone by going back to where it began.
//! 6. Steps 2, 3 and 5 again until the plan is empty, a few times at most.
//! 7. The note is taken away; R of the tree as it was checked is compared with that of the point.
//!
//! Versions are copied out of history, not linked or renamed: a link would let a later write to the live
//! file reach the kept version, and a version renamed away would be missing for every other point.
//!
//! A crash at any point leaves the note or not: without it nothing was begun or all is done; with it the
//! next start of whatever opens the tree goes on at step 2. What one file fails by is its own:
//! the rest goes back, and the report says that the state is not that of the point.

use std::path::Path;

use farshore_core::digest::RootDigest;
use farshore_core::path::RelPath;
use farshore_proto::message::Failure;
use redb::Durability;

use super::plan::{Counts, Plan, plan};
use super::{HistoryError, Refusal};
use crate::apply::Applier;
use crate::catalog::PendingRollback;
use crate::check::check;
use crate::contents::Applied;
use crate::io::Storage;
use crate::stage::{StageConfig, Stager};

/// Rounds of checking and going back until nothing is left to do.
const ROUNDS: usize = 4;
/// Failures that are listed; more are counted.
const LISTED_MAX: usize = 1_000;
/// Bytes free besides what comes back.
const ROOM: u64 = 1 << 20;
/// The same for each entry: its inode and name.
const ROOM_EACH: u64 = 512;

/// What one batch of a rollback holds at most.
#[derive(Debug, Clone, Copy)]
pub struct BatchBounds {
    /// Operations.
    pub ops: usize,
    /// Bytes of content.
    pub bytes: u64,
    /// Bytes of paths and entries.
    pub names: usize,
}

impl Default for BatchBounds {
    fn default() -> Self {
        Self { ops: 4_096, bytes: 64 << 20, names: 1 << 20 }
    }
}

/// What is gone back to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goal {
    /// The state after this batch.
    pub batch: u64,
    /// A path and all below it.
    pub scope: RelPath,
    /// R of the state, if all of the share goes back to a recovery point.
    pub root: Option<RootDigest>,
}

/// What a rollback did.
#[derive(Debug, Default)]
pub struct Report {
    /// What was planned, of all rounds.
    pub counts: Counts,
    /// Batches applied.
    pub batches: u64,
    /// The state before it: to go back to this batch undoes the rollback.
    pub began_after: u64,
    /// Entries that others had changed in the tree, before.
    pub foreign_changes: u64,
    /// What did not go back, the first of them.
    pub failures: Vec<Failure>,
    /// How many did not.
    pub failed: u64,
    /// R of the whole tree afterwards.
    pub root: Option<RootDigest>,
    /// Whether nothing is left that differs from the state wanted; for a point R is equal too.
    pub exact: bool,
}

/// Goes back. Everything it works with is the caller's, who has the tree's lock.
pub struct Rollback<'a, S: Storage> {
    /// Applies its batches.
    pub applier: Applier<'a, S>,
    /// Where lists too long for memory go.
    pub spool: &'a Path,
    /// Threads that check the tree.
    pub threads: usize,
    /// Whether the tree is checked before and after. Without it what others changed stays.
    pub checks: bool,
    /// How objects are staged.
    pub stage: StageConfig,
    /// How large its batches are.
    pub bounds: BatchBounds,
}

impl<S: Storage> std::fmt::Debug for Rollback<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rollback")
    }
}

impl<'a, S: Storage> Rollback<'a, S> {
    /// One as a session has it, by its `applier`.
    #[must_use]
    pub fn new(
        applier: Applier<'a, S>,
        spool: &'a Path,
        threads: usize,
        stage: StageConfig,
    ) -> Self {
        Self { applier, spool, threads, checks: true, stage, bounds: BatchBounds::default() }
    }

    /// Finishes a rollback that was interrupted, after the applier's own recovery; `None` when there is none.
    ///
    /// # Errors
    /// [`HistoryError`]; it is still to be finished then.
    pub fn finish(&self) -> Result<Option<Report>, HistoryError> {
        let Some(pending) = self.applier.catalog.reader()?.pending_rollback()? else {
            return Ok(None);
        };
        let PendingRollback { goal: batch, began_after, root, scope } = pending;
        let whole = Self { checks: true, applier: self.copy_of_applier(), ..*self };
        whole.go(&Goal { batch, scope, root }, began_after).map(Some)
    }

    fn copy_of_applier(&self) -> Applier<'a, S> {
        let Applier { storage, catalog, own, now_ms, profile } = self.applier;
        Applier { storage, catalog, own, now_ms, profile }
    }

    /// Goes back to `goal`. One that was interrupted is finished first, unless this one covers it.
    ///
    /// # Errors
    /// [`HistoryError`]; what was begun then is finished by the next start.
    pub fn run(&self, goal: &Goal) -> Result<Report, HistoryError> {
        self.applier.recover()?;
        let reader = self.applier.catalog.reader()?;
        let mut began_after = reader.applied_batch()?;
        match reader.pending_rollback()? {
            Some(pending) if pending.scope.starts_with(&goal.scope) => {
                began_after = pending.began_after;
            }
            Some(_) => {
                self.finish()?;
                began_after = self.applier.catalog.reader()?.applied_batch()?;
            }
            None => {}
        }
        self.go(goal, began_after)
    }

    fn go(&self, goal: &Goal, began_after: u64) -> Result<Report, HistoryError> {
        let catalog = self.applier.catalog;
        let mut report = Report { began_after, ..Report::default() };
        super::must_be_known(&catalog.reader()?, goal.batch)?;
        for round in 0..ROUNDS {
            let problems = self.check(&mut report, round == 0)?;
            let planned = self.plan(goal)?;
            if planned.counts.all() == 0 {
                report.exact = problems == 0;
                break;
            }
            // What failed may have been changed while it was looked at: once more, not for ever.
            if round > 0 && (!self.checks || (report.failed > 0 && round > 1)) {
                break;
            }
            (report.failed, report.failures) = (0, Vec::new());
            if round == 0 {
                self.has_room(&planned)?;
                let pending = PendingRollback {
                    goal: goal.batch,
                    began_after,
                    root: goal.root,
                    scope: goal.scope.clone(),
                };
                catalog
                    .update(Durability::Immediate, |t| t.set_pending_rollback(Some(&pending)))?;
            }
            add(&mut report.counts, &planned.counts);
            self.apply(planned, &mut report)?;
        }
        let root = catalog.sealed_root()?;
        report.root = Some(root);
        report.exact &= goal.root.is_none_or(|wanted| wanted == root);
        catalog.update(Durability::Immediate, |t| {
            t.set_pending_rollback(None)?;
            t.settle()
        })?;
        Ok(report)
    }

    fn plan(&self, goal: &Goal) -> Result<Plan, HistoryError> {
        let reader = self.applier.catalog.reader()?;
        Ok(plan(&reader, goal.batch, &goal.scope, self.spool, &mut |_, _, _| {})?)
    }

    /// Step 2; how many entries could not be looked at.
    fn check(&self, report: &mut Report, first: bool) -> Result<u64, HistoryError> {
        if !self.checks {
            return Ok(0);
        }
        let Applier { storage, catalog, .. } = self.applier;
        let found = check(storage, catalog, self.threads, self.spool, &mut |_| {})?;
        if first {
            report.foreign_changes = found.foreign_changes;
        }
        Ok(found.problems.len() as u64)
    }

    fn has_room(&self, planned: &Plan) -> Result<(), HistoryError> {
        let Applier { storage, own, .. } = self.applier;
        let entries = planned.counts.all().saturating_mul(ROOM_EACH);
        let content = if storage.shares_blocks(&own.staging) { 0 } else { planned.counts.stored };
        let needed = content.saturating_add(entries).saturating_add(ROOM);
        let free = storage.free_bytes().map_err(|source| HistoryError::Disk {
            step: "asking how much room there is",
            source,
        })?;
        if free < needed { Err(Refusal::NoRoom { needed, free }.into()) } else { Ok(()) }
    }

    /// Step 5.
    fn apply(&self, planned: Plan, report: &mut Report) -> Result<(), HistoryError> {
        let mut steps = planned.into_steps()?;
        let mut next = steps.next_step()?;
        while next.is_some() {
            let Applier { storage, catalog, own, .. } = self.applier;
            let batch = catalog.reader()?.applied_batch()? + 1;
            let nobody_else = Applied::new(u64::MAX);
            let mut stager = Stager::new(storage, catalog, own, &nobody_else, self.stage, batch)?;
            let (mut ops, mut bytes, mut names) = (0, 0_u64, 0);
            while let Some((path, what)) = next.take() {
                let (size, len) =
                    (what.content_bytes(), path.as_bytes().len() + what.entry_bytes());
                let is_full = ops >= self.bounds.ops
                    || names + len > self.bounds.names
                    || bytes.saturating_add(size) > self.bounds.bytes;
                if ops > 0 && is_full {
                    next = Some((path, what));
                    break;
                }
                (ops, bytes, names) = (ops + 1, bytes.saturating_add(size), names + len);
                stager.restore(path, what)?;
                next = steps.next_step()?;
            }
            for receipt in self.applier.apply(vec![stager.into_batch()])? {
                report.batches += 1;
                report.failed += receipt.failures.len() as u64;
                let room = LISTED_MAX.saturating_sub(report.failures.len());
                report.failures.extend(receipt.failures.into_iter().take(room));
            }
        }
        Ok(())
    }
}

fn add(all: &mut Counts, more: &Counts) {
    all.files += more.files;
    all.bytes = all.bytes.saturating_add(more.bytes);
    all.stored = all.stored.saturating_add(more.stored);
    all.directories += more.directories;
    all.nodes += more.nodes;
    all.links += more.links;
    all.metadata += more.metadata;
    all.removed += more.removed;
    all.removed_directories += more.removed_directories;
}

/// Finishes a rollback that a crash interrupted, when a session starts.
///
/// # Errors
/// [`HistoryError`].
pub fn finish_at_start<S: Storage>(
    applier: &Applier<'_, S>,
    spool: &Path,
    threads: usize,
    stage: StageConfig,
) -> Result<Option<Report>, HistoryError> {
    if applier.catalog.reader()?.pending_rollback()?.is_none() {
        return Ok(None);
    }
    let Applier { storage, catalog, own, now_ms, profile } = *applier;
    let applier = Applier { storage, catalog, own, now_ms, profile };
    Rollback::new(applier, spool, threads, stage).finish()
}

//! Recording one batch while its objects are made durable and placed.
//!
//! What the catalog will say of a batch is known when step 2 is done, but for the facts of inodes. So step 2 is done beside
//! the sync of step 1, since it only looks at the tree, and then a second thread writes that into the transaction of
//! step 6 and brings the digests up to date, while this one does steps 3 to 5 and looks at the inodes; then the facts
//! are added and the transaction is committed.
//!
//! Guarantees: step 3 comes after the sync of step 1, and the commit after the sync of step 5, as without this; when anything
//! came out otherwise than foreseen, the transaction is undone, and step 6 is done as ever. Nothing is foreseen of a tree
//! that was never sealed, where all cores are busy anyway, nor of a group of several batches.

use std::collections::HashMap;

use crossbeam_channel::{Receiver, bounded};
use farshore_core::entry::Entry;
use farshore_core::path::RelPath;
use farshore_core::recipe::{FileDigest, Recipe};
use farshore_proto::message::Receipt;
use redb::Durability;

use super::record::{Found, take_away};
use super::{Applier, ApplyError, Performed, joined};
use crate::catalog::{CatalogError, CatalogTables, Keep, Record};
use crate::io::Storage;
use crate::journal::{Action, Intent};
use crate::profile::Stage;
use crate::stage::StagedBatch;

/// What came of a batch, all of it as foreseen.
struct Outcome {
    found: Found,
    recipes: HashMap<FileDigest, Recipe>,
}

impl<S: Storage> Applier<'_, S> {
    /// Whether a batch by itself is recorded while it is applied.
    pub(super) fn foresees(&self, group: &[StagedBatch]) -> Result<bool, ApplyError> {
        let [only] = group else { return Ok(false) };
        if only.staged.is_empty() || !self.catalog.can_attempt() {
            return Ok(false);
        }
        Ok(self.catalog.reader()?.recovery_point()?.is_some())
    }

    /// All steps of a batch by itself.
    pub(super) fn apply_foreseen(&self, staged: StagedBatch) -> Result<Vec<Receipt>, ApplyError> {
        let number = staged.batch;
        let (batch, otherwise, committed) = std::thread::scope(|scope| {
            let syncing = scope.spawn(move || self.sync_staged(number));
            let prepared = self.profile.time(Stage::Apply, || self.prepared(staged));
            let (tell, told) = bounded::<Outcome>(1);
            let changes = prepared.as_ref().ok().filter(|batch| batch.changes());
            let intent = changes.map(|batch| batch.intent.clone());
            let recording = intent.map(|intent| scope.spawn(move || self.foresee(&intent, &told)));
            let done = joined(syncing).and(prepared).and_then(|mut batch| {
                if !batch.changes() {
                    return Ok((batch, None));
                }
                self.write_journal(number, std::iter::once(&batch.intent))?;
                let (found, as_foreseen) = self.carry_out(&mut batch)?;
                if !as_foreseen {
                    return Ok((batch, Some(found)));
                }
                let recipes = std::mem::take(&mut batch.recipes);
                // A recording that failed says why below.
                tell.send(Outcome { found, recipes }).unwrap_or(());
                Ok((batch, None))
            });
            // Without an outcome it leaves nothing.
            drop(tell);
            let recorded = recording.map_or(Ok(false), joined);
            let (batch, otherwise) = done?;
            Ok::<_, ApplyError>((batch, otherwise, recorded?))
        })?;
        if committed {
            return self.receipts(vec![batch]);
        }
        let Some(found) = otherwise else { return self.complete(vec![batch]) };
        let performed = vec![batch];
        self.profile.time(Stage::Commit, || self.commit(&performed, &[found]))?;
        self.receipts(performed)
    }

    /// Steps 4 and 5; what there is to record, and whether it is all as foreseen.
    fn carry_out(&self, batch: &mut Performed) -> Result<(Found, bool), ApplyError> {
        self.perform(batch, &mut HashMap::new())?;
        let mut found = self.sync_and_look(std::slice::from_ref(batch))?;
        let found = found.pop().unwrap_or_default();
        let as_foreseen = batch.failed.is_empty() && is_as_foreseen(&batch.intent, &found);
        Ok((found, as_foreseen))
    }

    /// Records what `intent` will have made, waits for what came of it, and commits if that is `told`; whether it did.
    fn foresee(&self, intent: &Intent, told: &Receiver<Outcome>) -> Result<bool, CatalogError> {
        let (committed, _committing) = self.catalog.attempt(Durability::Immediate, |t| {
            self.profile.time(Stage::Commit, || record_ahead(t, intent))?;
            self.profile.time(Stage::Seal, || t.seal())?;
            let Ok(outcome) = told.recv() else { return Ok(((false, None), Keep::Nothing)) };
            let committing = self.profile.enter(Stage::Commit);
            self.commit_found(t, intent.batch, &outcome.found, &outcome.recipes)?;
            Ok(((true, Some(committing)), Keep::All))
        })?;
        Ok(committed)
    }
}

/// Whether each action left what it was to leave; what is gone again has no record.
fn is_as_foreseen(intent: &Intent, found: &Found) -> bool {
    let mut records = found.records.iter();
    let mut left = intent.actions.iter().filter_map(entry_after);
    left.all(|(path, entry)| {
        records.next().is_some_and(|(at, record)| at == path && record.entry == entry)
    })
}

/// What stands at the path of an action when that is done.
fn entry_after(action: &Action) -> Option<(&RelPath, Entry)> {
    match action {
        Action::Place { path, entry, .. }
        | Action::Inside { path, entry }
        | Action::Meta { path, entry } => Some((path, entry.clone())),
        Action::Link { path, leader, .. } => {
            Some((path, Entry::HardLink { leader: leader.clone() }))
        }
        Action::Lift { .. } | Action::RemoveFile { .. } | Action::RemoveDirectory { .. } => None,
    }
}

fn record_ahead(t: &mut CatalogTables<'_>, intent: &Intent) -> Result<(), CatalogError> {
    t.note_for(intent.batch)?;
    intent.actions.iter().try_for_each(|action| take_away(t, action))?;
    intent.actions.iter().filter_map(entry_after).try_for_each(|(path, entry)| {
        // Of which nothing is known yet: should this be all that is ever recorded, it is looked at.
        t.put(path, &Record { entry, facts: None })
    })
}

#[cfg(test)]
mod tests;

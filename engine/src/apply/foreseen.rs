//! Recording one batch while its objects are placed.
//!
//! What the catalog will say of a batch is known before step 4, but for the facts of inodes. So a second thread writes
//! that into the transaction of step 6 and brings the digests up to date, while this one does steps 4 and 5 and looks
//! at the inodes; then the facts are added and the transaction is committed.
//!
//! Guarantees: the commit comes after the sync of step 5, as without this; when anything came out otherwise than
//! foreseen, the transaction is undone, and step 6 is done as ever. Nothing is foreseen of a tree that was never
//! sealed, where all cores are busy anyway, nor of a group of several batches.

use std::collections::HashMap;

use crossbeam_channel::{Receiver, bounded};
use farshore_core::entry::Entry;
use farshore_core::path::RelPath;
use farshore_core::recipe::{FileDigest, Recipe};
use farshore_proto::message::Receipt;
use redb::Durability;

use super::displaced::Displaced;
use super::{Applier, ApplyError, Performed, take_away};
use crate::catalog::{CatalogError, CatalogTables, Keep, Record};
use crate::io::Storage;
use crate::journal::{Action, Intent};
use crate::profile::Stage;

/// What came of a batch, all of it as foreseen.
struct Outcome {
    records: Vec<(RelPath, Record)>,
    history: Vec<Displaced>,
    recipes: HashMap<FileDigest, Recipe>,
}

impl<S: Storage> Applier<'_, S> {
    /// Whether a batch by itself is recorded while it is applied.
    pub(super) fn foresees(&self, group: &[Performed]) -> Result<bool, ApplyError> {
        let [only] = group else { return Ok(false) };
        if only.intent.actions.is_empty() || !self.catalog.can_attempt() {
            return Ok(false);
        }
        Ok(self.catalog.reader()?.recovery_point()?.is_some())
    }

    /// Steps 4 to 7 of a batch that stands in the journal.
    pub(super) fn apply_foreseen(&self, mut batch: Performed) -> Result<Vec<Receipt>, ApplyError> {
        let intent = batch.intent.clone();
        let committed = std::thread::scope(|scope| {
            let (tell, told) = bounded::<Outcome>(1);
            let recording = scope.spawn(move || self.foresee(&intent, &told));
            let done = self.carry_out(&mut batch).map(|outcome| {
                if let Some(outcome) = outcome {
                    // A recording that failed says why below.
                    tell.send(outcome).unwrap_or(());
                }
            });
            // Without an outcome it leaves nothing.
            drop(tell);
            let recorded = match recording.join() {
                Ok(recorded) => recorded,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            done.and_then(|()| Ok(recorded?))
        })?;
        if !committed {
            let found = std::slice::from_ref(&batch);
            self.profile.time(Stage::Commit, || self.commit(found, true))?;
        }
        self.receipts(vec![batch])
    }

    /// Steps 4 and 5; what there is to record, where it is as foreseen.
    fn carry_out(&self, batch: &mut Performed) -> Result<Option<Outcome>, ApplyError> {
        self.perform(batch, &mut HashMap::new())?;
        self.sync_tree(std::slice::from_ref(batch))?;
        let _looking = self.profile.enter(Stage::Commit);
        if !batch.failed.is_empty() {
            return Ok(None);
        }
        let reader = self.catalog.reader()?;
        let records = self.look_again(batch, &HashMap::new(), &reader)?;
        // Those of its actions come first, in their order; one that is gone again has none.
        let actions = batch.intent.actions.iter().filter_map(entry_after);
        let mut found = records.iter();
        let mut as_foreseen = actions.map(|(path, entry)| {
            found.next().is_some_and(|(at, record)| at == path && record.entry == entry)
        });
        if !as_foreseen.all(|same| same) {
            return Ok(None);
        }
        let history = self.displaced(&batch.intent, &reader)?;
        let recipes = std::mem::take(&mut batch.recipes);
        Ok(Some(Outcome { records, history, recipes }))
    }

    /// Records what `intent` will have made, waits for what came of it, and commits if that is `told`; whether it did.
    fn foresee(&self, intent: &Intent, told: &Receiver<Outcome>) -> Result<bool, CatalogError> {
        let (committed, _committing) = self.catalog.attempt(Durability::Immediate, |t| {
            self.profile.time(Stage::Commit, || record_ahead(t, intent))?;
            self.profile.time(Stage::Seal, || t.seal())?;
            let Ok(outcome) = told.recv() else { return Ok(((false, None), Keep::Nothing)) };
            let committing = self.profile.enter(Stage::Commit);
            let Outcome { records, history, recipes } = &outcome;
            self.commit_found(t, intent.batch, records, recipes, history)?;
            Ok(((true, Some(committing)), Keep::All))
        })?;
        Ok(committed)
    }
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

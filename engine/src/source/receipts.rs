//! Acting on receipts: what is durable at the target enters the catalog, what could not be built is sent
//! again.
//!
//! Guarantees: nothing is committed to the catalog that no receipt has said is durable. When nothing is left to be
//! sent, what is under way is written into a transaction while the target is still at it, to be committed by its
//! receipts or to be as if it had not been; so the two ends record the last batches at the same time. The target is asked
//! then to seal behind them what they will have made of its tree; a receipt that tells of a failure voids that.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;

use farshore_core::entry::Entry;
use farshore_core::path::RelPath;
use farshore_proto::message::{Failure, FailureKind, Receipt};
use redb::Durability;

use super::sealing::Propose;
use super::{Source, SourceError};
use crate::catalog::{CatalogError, CatalogTables, Keep};
use crate::ingest::{BatchRecord, Effect, EffectKind, RunIndex};
use crate::io::{Object, Storage};
use crate::plan::{Change, LookKind, Problem};
use crate::profile::Stage;
use crate::progress::Progress;

/// How the problem of a file begins that the target has no room for.
const NO_SPACE: &str = "no space for it at the target";

/// Kinds of facts that were not kept, told apart.
const KINDS_MAX: usize = 64;
/// What further kinds are counted as.
const FURTHER_KINDS: &str = "facts of further kinds";

/// What became of batches that were recorded before their receipts came.
struct Foreseen {
    receipts: Vec<(BatchRecord, Receipt)>,
    /// Why the session ends, if it does.
    error: Option<SourceError>,
}

impl<'a, S: Storage> Source<'a, S> {
    /// Records what receipts say is durable; the changes to send again.
    pub(super) fn acknowledged(
        &mut self,
        receipts: Vec<(BatchRecord, Receipt)>,
        index: &RunIndex,
    ) -> Result<Vec<Change>, SourceError> {
        let mut again = Vec::new();
        let mut renewed = std::mem::take(&mut self.renewed);
        self.catalog.update(Durability::None, |tables| {
            receipts.iter().try_for_each(|(record, receipt)| {
                self.record(tables, record, &failures_of(receipt), index, &mut renewed, &mut again)
            })
        })?;
        self.renewed = renewed;
        self.recorded(receipts, index);
        Ok(again)
    }

    /// Records all batches under way as if every one of them were applied whole, while the target is at it, and brings
    /// the digests up to date; commits that only when their receipts say just so. Else it is as if this had not
    /// been, and the receipts that did come are recorded as ever. The changes to send again.
    pub(super) fn foresee(
        &mut self,
        under_way: &mut HashMap<u64, BatchRecord>,
        index: &RunIndex,
        propose: &mut Propose<'_, 'a, S>,
    ) -> Result<Vec<Change>, SourceError> {
        // No problem is to come but from receipts. What is proposed may be written down: before the transaction.
        // Of signatures that nobody waits for any more some may not be there yet: a seal does not overtake them.
        let may_seal = self.carries || self.desk.is_idle();
        let mut proposed = match self.session.seals_behind().filter(|_| may_seal) {
            Some(last) => Some((last, propose(self)?)),
            None => None,
        };
        let (catalog, profile) = (self.catalog, self.config.profile);
        let mut batches: Vec<u64> = under_way.keys().copied().collect();
        batches.sort_unstable();
        let (foreseen, keep, recording) = catalog.attempt(Durability::None, |tables| {
            profile.time(Stage::Record, || {
                let mut records = batches.iter().filter_map(|batch| under_way.get(batch));
                let (none, renewed, again) = (HashMap::new(), &mut HashSet::new(), &mut Vec::new());
                records.try_for_each(|r| self.record(tables, r, &none, index, renewed, again))
            })?;
            let root = profile.time(Stage::Seal, || tables.seal())?;
            let asked = proposed.take().map(|seal| self.seal_behind(seal, root, tables.totals()));
            profile.time(Stage::Record, || tables.settle())?;
            let foreseen = match asked.transpose() {
                Ok(_) => self.receipts_of_all(under_way),
                Err(error) => Foreseen { receipts: Vec::new(), error: Some(error) },
            };
            let as_told = foreseen.error.is_none()
                && foreseen.receipts.iter().all(|(_, receipt)| receipt.failures.is_empty());
            let keep = if as_told { Keep::All } else { Keep::Nothing };
            // To the end of the commit.
            Ok(((foreseen, keep, profile.enter(Stage::Record)), keep))
        })?;
        drop(recording);
        let Foreseen { receipts, error } = foreseen;
        let again = match keep {
            Keep::All => {
                self.is_foreseen = true;
                self.recorded(receipts, index);
                Vec::new()
            }
            Keep::Nothing => {
                self.sealing_behind = None;
                profile.time(Stage::Record, || self.acknowledged(receipts, index))?
            }
        };
        error.map_or(Ok(again), Err)
    }

    /// Waits for the receipts of all batches under way, or for the first of them that says of something that it was
    /// not applied.
    fn receipts_of_all(&mut self, under_way: &mut HashMap<u64, BatchRecord>) -> Foreseen {
        let mut receipts: Vec<(BatchRecord, Receipt)> = Vec::new();
        while !under_way.is_empty() {
            let event = self.inbox.recv();
            match self.heard(event, under_way) {
                Ok(heard) => receipts.extend(heard),
                Err(error) => return Foreseen { receipts, error: Some(error) },
            }
            if receipts.last().is_some_and(|(_, receipt)| !receipt.failures.is_empty()) {
                break;
            }
        }
        Foreseen { receipts, error: None }
    }

    /// What receipts say is in the catalog: counts it, and lets go of what was known of it.
    fn recorded(&mut self, receipts: Vec<(BatchRecord, Receipt)>, index: &RunIndex) {
        for (record, receipt) in receipts {
            count_degraded(&mut self.degraded, &receipt.degraded);
            let failed = failures_of(&receipt);
            let applied = record.effects.iter().filter(|e| !failed.contains_key(e.path()));
            applied.for_each(|effect| self.count(effect));
            let ours: HashSet<&RelPath> = record.effects.iter().map(Effect::path).collect();
            for stray in receipt.failures.iter().filter(|f| !ours.contains(&f.path)) {
                let text = format!("the target reports: {}", stray.text);
                self.progress.problem(Problem { path: stray.path.clone(), text });
            }
            index.retire(&record, receipt.batch);
        }
    }

    fn count(&self, effect: &Effect) {
        let counts = &self.progress.applied;
        match effect {
            Effect::Put { kind: EffectKind::Written, .. } => Progress::add(&counts.written, 1),
            Effect::Put { kind: EffectKind::Metadata, .. } => Progress::add(&counts.metadata, 1),
            Effect::Put { kind: EffectKind::Moved(_), .. } => Progress::add(&counts.moved, 1),
            Effect::Remove { moved, .. } => Progress::add(&counts.removed, u64::from(!moved)),
        }
    }

    fn record(
        &self,
        tables: &mut CatalogTables<'_>,
        record: &BatchRecord,
        failed: &HashMap<&RelPath, &Failure>,
        index: &RunIndex,
        renewed: &mut HashSet<RelPath>,
        again: &mut Vec<Change>,
    ) -> Result<(), CatalogError> {
        for (path, fresh, recipe) in &record.refreshed {
            tables.put(path, fresh)?;
            if let (Some(recipe), Some(content)) = (recipe, fresh.entry.content()) {
                tables.put_recipe(content, recipe)?;
            }
        }
        for effect in &record.effects {
            // A first name that is sent again may become a new inode: its names are linked again.
            let link = link_of(effect).filter(|(_, leader)| renewed.contains(*leader));
            match failed.get(effect.path()) {
                None => apply_effect(tables, effect)?,
                Some(_) if link.is_some() => {}
                Some(failure) => {
                    let changes = self.failed(effect, failure, index);
                    renewed.extend(changes.iter().map(|c| c.path().clone()));
                    again.extend(changes);
                }
            }
            again.extend(
                link.map(|(path, leader)| Change::Link {
                    path: path.clone(),
                    leader: leader.clone(),
                }),
            );
        }
        Ok(())
    }

    /// What to do about an operation the target did not apply.
    fn failed(&self, effect: &Effect, failure: &Failure, index: &RunIndex) -> Vec<Change> {
        match (&failure.kind, effect) {
            (FailureKind::Basis(_), Effect::Put { path, .. })
                if self.carried.contains_key(path) =>
            {
                self.ahead.is_stale(path);
                let text =
                    "what was carried of it is not at the target any more; it is carried again";
                self.progress.problem(Problem { path: path.clone(), text: text.into() });
                Vec::new()
            }
            (FailureKind::Basis(chunks), Effect::Put { path, record, kind, .. }) => {
                index.distrust(chunks.iter().copied());
                if let (true, Some(content)) = (chunks.is_empty(), record.entry.content()) {
                    index.distrust_content(content);
                }
                let again = Change::Look {
                    path: path.clone(),
                    size: record.entry.size(),
                    is_file: false,
                    kind: LookKind::Rest,
                    moved_from: None,
                };
                let former = match kind {
                    EffectKind::Moved(from) => self.removal_of(from),
                    _ => None,
                };
                former.into_iter().chain([again]).collect()
            }
            (FailureKind::NoSpace { needed, free }, _) => {
                let text = format!("{NO_SPACE} ({needed} bytes needed, {free} free)");
                self.progress.too_large(failure.path.clone(), *needed, *free);
                self.progress.problem(Problem { path: failure.path.clone(), text });
                Vec::new()
            }
            _ => {
                let text = format!("the target refused: {}", failure.text);
                self.progress.problem(Problem { path: failure.path.clone(), text });
                Vec::new()
            }
        }
    }

    /// A move that failed leaves its former path to be removed.
    fn removal_of(&self, from: &RelPath) -> Option<Change> {
        let (parent, name) = from.split()?;
        let there = self
            .storage
            .open_directory(self.storage.root(), parent.as_bytes())
            .and_then(|d| self.storage.stat(Object::Named(&d, name)));
        let gone = there.is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
        let known = self.catalog.reader().and_then(|r| r.get(from)).ok().flatten()?;
        gone.then(|| Change::Remove { path: from.clone(), expected: known.entry.digest() })
    }
}

/// What a receipt says of paths that were not applied.
fn failures_of(receipt: &Receipt) -> HashMap<&RelPath, &Failure> {
    receipt.failures.iter().map(|f| (&f.path, f)).collect()
}

fn apply_effect(tables: &mut CatalogTables<'_>, effect: &Effect) -> Result<(), CatalogError> {
    match effect {
        Effect::Put { path, record, recipe, .. } => {
            tables.put(path, record)?;
            if let (Some(recipe), Some(content)) = (recipe, record.entry.content()) {
                tables.put_recipe(content, recipe)?;
            }
        }
        Effect::Remove { path, .. } => {
            tables.remove_below(path)?;
            tables.remove(path)?;
        }
    }
    Ok(())
}

/// Adds what a receipt counted. Numbers and words are the peer's: neither may overflow or fill memory.
fn count_degraded(total: &mut BTreeMap<String, u64>, receipt: &[(String, u64)]) {
    for (what, count) in receipt {
        let room = total.len() < KINDS_MAX || total.contains_key(what);
        let kind = if room { what.as_str() } else { FURTHER_KINDS };
        match total.get_mut(kind) {
            Some(sum) => *sum = sum.saturating_add(*count),
            None => drop(total.insert(kind.to_owned(), *count)),
        }
    }
}

/// The name and the first name of a further name.
fn link_of(effect: &Effect) -> Option<(&RelPath, &RelPath)> {
    match effect {
        Effect::Put { path, record, .. } => match &record.entry {
            Entry::HardLink { leader } => Some((path, leader)),
            _ => None,
        },
        Effect::Remove { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_a_hostile_target_neither_overflow_nor_grow_without_end() {
        let mut total = BTreeMap::new();
        let owner = ("owner".to_owned(), u64::MAX);
        count_degraded(&mut total, &[owner.clone(), owner]);
        for n in 0..1_000 {
            count_degraded(&mut total, &[(format!("kind {n}"), 1)]);
        }
        assert_eq!(total.get("owner"), Some(&u64::MAX));
        assert_eq!(total.len(), KINDS_MAX + 1);
        assert_eq!(total.get(FURTHER_KINDS), Some(&(1_000 + 1 - KINDS_MAX as u64)));
    }
}

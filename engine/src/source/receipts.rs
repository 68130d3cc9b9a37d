//! Acting on receipts: what is durable at the target enters the catalog, what could not be built is sent
//! again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;

use farshore_core::entry::Entry;
use farshore_core::path::RelPath;
use farshore_proto::message::{Failure, FailureKind, Receipt};
use redb::Durability;

use super::{Source, SourceError};
use crate::catalog::{CatalogError, CatalogTables};
use crate::ingest::{BatchRecord, Effect, EffectKind, RunIndex};
use crate::io::{Object, Storage};
use crate::plan::{Change, LookKind, Problem};
use crate::progress::Progress;

/// How the problem of a file begins that the target has no room for.
const NO_SPACE: &str = "no space for it at the target";

/// Kinds of facts that were not kept, told apart.
const KINDS_MAX: usize = 64;
/// What further kinds are counted as.
const FURTHER_KINDS: &str = "facts of further kinds";

impl<S: Storage> Source<'_, S> {
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
                self.record(tables, record, receipt, index, &mut renewed, &mut again)
            })
        })?;
        self.renewed = renewed;
        for (record, receipt) in receipts {
            count_degraded(&mut self.degraded, &receipt.degraded);
            let ours: HashSet<&RelPath> = record.effects.iter().map(Effect::path).collect();
            for stray in receipt.failures.iter().filter(|f| !ours.contains(&f.path)) {
                let text = format!("the target reports: {}", stray.text);
                self.progress.problem(Problem { path: stray.path.clone(), text });
            }
            index.retire(&record, receipt.batch);
        }
        Ok(again)
    }

    fn record(
        &self,
        tables: &mut CatalogTables<'_>,
        record: &BatchRecord,
        receipt: &Receipt,
        index: &RunIndex,
        renewed: &mut HashSet<RelPath>,
        again: &mut Vec<Change>,
    ) -> Result<(), CatalogError> {
        let failed: HashMap<&RelPath, &Failure> =
            receipt.failures.iter().map(|f| (&f.path, f)).collect();
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
                None => self.apply_effect(tables, effect)?,
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

    fn apply_effect(
        &self,
        tables: &mut CatalogTables<'_>,
        effect: &Effect,
    ) -> Result<(), CatalogError> {
        let counts = &self.progress.applied;
        match effect {
            Effect::Put { path, record, recipe, kind } => {
                tables.put(path, record)?;
                if let (Some(recipe), Some(content)) = (recipe, record.entry.content()) {
                    tables.put_recipe(content, recipe)?;
                }
                Progress::add(
                    match kind {
                        EffectKind::Written => &counts.written,
                        EffectKind::Metadata => &counts.metadata,
                        EffectKind::Moved(_) => &counts.moved,
                    },
                    1,
                );
            }
            Effect::Remove { path, moved } => {
                tables.remove_below(path)?;
                tables.remove(path)?;
                Progress::add(&counts.removed, u64::from(!moved));
            }
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

//! Which batches are applied together.
//!
//! Guarantees: batches come out in the order of their numbers, none twice and none before its
//! predecessor; two batches of one group never touch the same path, nor does one link to a name that
//! another touches. So the catalog's record of a path is what stands there when its batch is
//! applied, and no two names of a group depend on each other's order on disk.

use std::collections::{BTreeMap, HashMap, HashSet};

use farshore_core::path::RelPath;

use crate::catalog::LocalFacts;
use crate::stage::{Staged, StagedBatch};

/// Batches that are staged and not yet applied.
#[derive(Debug)]
pub struct Waiting {
    batches: BTreeMap<u64, StagedBatch>,
    next: u64,
}

impl Waiting {
    /// Nothing waits; `next` is the first batch to be applied.
    #[must_use]
    pub fn new(next: u64) -> Self {
        Self { batches: BTreeMap::new(), next }
    }

    /// The number of the batch to be applied next.
    #[must_use]
    pub fn next_batch(&self) -> u64 {
        self.next
    }

    /// A further batch is staged.
    pub fn add(&mut self, batch: StagedBatch) {
        self.batches.insert(batch.batch, batch);
    }

    /// Takes out the batches whose turn it is, as many as go together; none when the next one is not
    /// staged yet.
    pub fn next_group(&mut self) -> Vec<StagedBatch> {
        let mut group = Vec::new();
        let mut touched = HashSet::new();
        while let Some(next) = self.batches.get(&self.next) {
            // A single batch goes whatever it touches; nothing need be known of it.
            let follows = self.batches.contains_key(&(self.next + 1));
            if (follows || !group.is_empty()) && !touch(next, &mut touched) && !group.is_empty() {
                break;
            }
            group.extend(self.batches.remove(&self.next));
            self.next += 1;
        }
        group
    }
}

/// Adds the paths of `batch`; whether none was there before. Paths of one batch may be the same.
fn touch(batch: &StagedBatch, touched: &mut HashSet<RelPath>) -> bool {
    let mut mine = HashSet::with_capacity(batch.staged.len());
    for staged in &batch.staged {
        let (path, other) = match staged {
            Staged::Place { path, .. }
            | Staged::Inside { path, .. }
            | Staged::Remove { path, .. }
            | Staged::Meta { path, .. } => (path, None),
            Staged::Move { from, to, .. } => (to, Some(from)),
            Staged::Link { path, leader, .. } => (path, Some(leader)),
        };
        mine.extend([Some(path), other].into_iter().flatten().cloned());
    }
    if mine.iter().any(|path| touched.contains(path)) {
        return false;
    }
    touched.extend(mine);
    true
}

/// Facts of inodes that were known when their objects were staged, by the action's place in its batch.
#[derive(Debug, Default)]
pub(super) struct Made {
    facts: HashMap<usize, LocalFacts>,
    /// Paths given a further name, which changes their facts.
    linked: HashSet<RelPath>,
}

impl Made {
    pub(super) fn insert(&mut self, place: usize, facts: Option<LocalFacts>) {
        self.facts.extend(facts.map(|facts| (place, facts)));
    }

    pub(super) fn linked(&mut self, leader: &RelPath) {
        self.linked.insert(leader.clone());
    }

    /// The facts of what the action at `place` made at `path`, if nothing changed them since.
    pub(super) fn facts(&self, place: usize, path: &RelPath) -> Option<LocalFacts> {
        self.facts.get(&place).filter(|_| !self.linked.contains(path)).copied()
    }
}

#[cfg(test)]
mod tests {
    use farshore_core::entry::{Entry, EntryDigest, Metadata};

    use super::*;

    fn path(s: &str) -> RelPath {
        RelPath::new(s.as_bytes()).expect("valid")
    }

    fn placing(batch: u64, paths: &[&str]) -> StagedBatch {
        let staged = paths
            .iter()
            .map(|p| Staged::Meta {
                path: path(p),
                entry: Entry::Directory { meta: Metadata::default() },
            })
            .collect();
        StagedBatch { batch, staged, ..StagedBatch::default() }
    }

    fn numbers(group: &[StagedBatch]) -> Vec<u64> {
        group.iter().map(|b| b.batch).collect()
    }

    #[test]
    fn groups_are_in_order_and_without_gaps() {
        let mut waiting = Waiting::new(3);
        waiting.add(placing(5, &["e"]));
        assert!(waiting.next_group().is_empty());
        waiting.add(placing(3, &["c"]));
        assert_eq!(numbers(&waiting.next_group()), [3]);
        waiting.add(placing(4, &["d"]));
        waiting.add(placing(7, &["g"]));
        assert_eq!(numbers(&waiting.next_group()), [4, 5]);
        assert_eq!(waiting.next_batch(), 6);
        assert!(waiting.next_group().is_empty());
    }

    #[test]
    fn only_what_takes_nothing_away_is_prepared_together() {
        assert!(placing(1, &["a", "b"]).only_adds());
        let (path, meta) = (path("a"), Metadata::default());
        let (number, expected) = (1, EntryDigest([0; 32]));
        let entry = Entry::Fifo { meta };
        for staged in [
            Staged::Remove { number, path: path.clone(), expected },
            Staged::Meta { path: path.clone(), entry: entry.clone() },
            Staged::Move { number, from: path.clone(), expected, to: path.clone(), entry },
        ] {
            let mut batch = placing(1, &["b"]);
            batch.staged.push(staged);
            assert!(!batch.only_adds(), "{batch:?}");
        }
    }

    #[test]
    fn batches_that_touch_one_path_are_applied_apart() {
        let moving = |batch, from, to| StagedBatch {
            batch,
            staged: vec![Staged::Move {
                number: 1,
                from: path(from),
                expected: EntryDigest([0; 32]),
                to: path(to),
                entry: Entry::Fifo { meta: Metadata::default() },
            }],
            ..StagedBatch::default()
        };
        let mut waiting = Waiting::new(1);
        waiting.add(placing(1, &["a", "a"]));
        waiting.add(placing(2, &["b"]));
        waiting.add(moving(3, "a", "c"));
        waiting.add(moving(4, "d", "e"));
        waiting.add(placing(5, &["d"]));
        let mut link = placing(6, &[]);
        link.staged.push(Staged::Link { number: 1, path: path("x"), leader: path("d") });
        waiting.add(link);
        assert_eq!(numbers(&waiting.next_group()), [1, 2]);
        assert_eq!(numbers(&waiting.next_group()), [3, 4]);
        assert_eq!(numbers(&waiting.next_group()), [5]);
        assert_eq!(numbers(&waiting.next_group()), [6]);
    }
}

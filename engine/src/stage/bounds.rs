//! What one batch may make the target hold in memory, whatever the source says.
//!
//! Guarantees: one receipt can name all of a batch, before any of it is made durable; what a file
//! lacks is told in a bounded list, and nothing is left out of it for good: what is not told yet is
//! told when the file is sent again; recipes of a batch are a bounded number of extents, but for one
//! file's, which has at most [`RECIPE_EXTENTS_MAX`](farshore_core::limits::RECIPE_EXTENTS_MAX). A recipe that is not kept costs the source a
//! transfer, never a wrong byte.

use std::collections::{BTreeSet, HashMap};

use farshore_core::codec::DecodeError;
use farshore_core::recipe::{ChunkId, FileDigest, Recipe};
use farshore_proto::message::{BATCH_NAMES_MAX, DELTA_VERSION, FAILURE_COST, MISSING_CHUNKS_MAX};
use farshore_proto::op::Op;

use super::{StageError, Stager, path_of};
use crate::io::Storage;

/// Extents of a batch's recipes that are kept, beyond those of one file.
const BATCH_EXTENTS_MAX: usize = 1 << 18;
/// Chunks of one file that are told to be missing, and as many contents.
const MISSING_MAX: usize = 256;

impl<S: Storage> Stager<'_, S> {
    /// Refuses what the protocol did not have in `version`, which the two ends settled.
    #[must_use]
    pub fn speaking(mut self, version: u16) -> Self {
        self.version = version;
        self
    }

    pub(super) fn check_version(&self, op: &Op<'_>) -> Result<(), DecodeError> {
        let is_later = matches!(op, Op::Base { .. } | Op::CopyRun { .. } | Op::Patch { .. });
        if is_later && self.version < DELTA_VERSION {
            let found = self.version.into();
            return Err(DecodeError::Invalid { what: "operation of a later version", found });
        }
        Ok(())
    }

    /// Counts what a receipt takes to name this operation.
    pub(super) fn count_names(&mut self, op: &Op<'_>) -> Result<(), StageError> {
        self.names += path_of(op).as_bytes().len() + FAILURE_COST;
        if let Op::Move { from, .. } = op {
            self.names += from.as_bytes().len() + FAILURE_COST;
        }
        if self.names > BATCH_NAMES_MAX {
            let (found, limit) = (self.names as u64, BATCH_NAMES_MAX as u64);
            return Err(
                DecodeError::LimitExceeded { what: "paths of a batch", found, limit }.into()
            );
        }
        Ok(())
    }

    /// What `missing` comes to in the receipt, which lists so much for all of the batch.
    pub(super) fn told(&mut self, missing: Missing) -> Vec<ChunkId> {
        let mut list = missing.list();
        list.truncate(1 + MISSING_CHUNKS_MAX.saturating_sub(self.told));
        self.told += list.len().saturating_sub(1);
        list
    }
}

/// Recipes by the content they make.
type Recipes = HashMap<FileDigest, Recipe>;

/// How much of a batch's recipes is kept.
#[derive(Debug, Default)]
pub(super) struct Kept {
    extents: usize,
}

impl Kept {
    /// Keeps the recipe of a file for the catalog, as far as there is room.
    pub(super) fn keep(&mut self, recipes: &mut Recipes, content: FileDigest, recipe: Recipe) {
        let len = recipe.extents.len();
        if self.extents + len > BATCH_EXTENTS_MAX {
            // The longest is worth most: an honest batch has one such file, its last.
            if len <= self.extents {
                return;
            }
            recipes.clear();
            self.extents = 0;
        }
        self.extents += len;
        if let Some(same) = recipes.insert(content, recipe) {
            self.extents -= same.extents.len();
        }
    }
}

/// What a file lacks.
#[derive(Debug, Default)]
pub(super) struct Missing {
    contents: BTreeSet<FileDigest>,
    chunks: BTreeSet<ChunkId>,
}

impl Missing {
    pub(super) fn is_empty(&self) -> bool {
        self.contents.is_empty() && self.chunks.is_empty()
    }

    /// A chunk is not what it was said to be, or not in `from`. Of many the content is told instead.
    pub(super) fn chunk(&mut self, id: ChunkId, from: Option<FileDigest>) {
        if self.chunks.len() < MISSING_MAX || self.chunks.contains(&id) {
            self.chunks.insert(id);
        } else if let Some(from) = from {
            self.content(from);
        }
    }

    /// Content is not here.
    pub(super) fn content(&mut self, content: FileDigest) {
        if self.contents.len() < MISSING_MAX {
            self.contents.insert(content);
        }
    }

    /// As the source hears it, contents first.
    fn list(self) -> Vec<ChunkId> {
        self.contents.into_iter().map(|c| ChunkId(c.0)).chain(self.chunks).collect()
    }
}

#[cfg(test)]
mod tests {
    use farshore_core::chunking::ChunkingId;
    use farshore_core::recipe::Extent;

    use super::*;

    fn digest(n: u32) -> [u8; 32] {
        *blake3::hash(&n.to_le_bytes()).as_bytes()
    }

    #[test]
    fn what_is_missing_is_told_within_bounds_and_by_content_when_it_is_much() {
        let mut missing = Missing::default();
        let base = FileDigest(digest(0));
        for n in 0..100_000 {
            missing.chunk(ChunkId(digest(n)), Some(base));
        }
        let list = missing.list();
        assert_eq!(list.len(), MISSING_MAX + 1);
        assert_eq!(list[0], ChunkId(base.0));
        // Whatever their order.
        let mut missing = Missing::default();
        for n in 0..100_000 {
            missing.content(FileDigest(digest(n % 2)));
        }
        assert_eq!(missing.list().len(), 2);
        let mut missing = Missing::default();
        (0..100_000).for_each(|n| missing.content(FileDigest(digest(n))));
        assert_eq!(missing.list().len(), MISSING_MAX);
    }

    #[test]
    fn recipes_of_a_batch_are_bounded_and_the_longest_stays() {
        let (mut kept, mut recipes) = (Kept::default(), Recipes::new());
        let mut keep = |n: u32, extents: usize| {
            let content = FileDigest(digest(n));
            let extents = vec![Extent::Zero { len: 1 }; extents];
            let recipe = Recipe { chunking: ChunkingId::Gear64K, extents };
            kept.keep(&mut recipes, content, recipe);
            let extents: usize = recipes.values().map(|r| r.extents.len()).sum();
            assert_eq!(extents, kept.extents);
            (recipes.contains_key(&content), extents)
        };
        for n in 0..63 {
            assert!(keep(n, 4_096).0);
            assert!(keep(n, 4_096).0, "the same again");
        }
        assert!(keep(99, 2 * BATCH_EXTENTS_MAX).0, "the longest");
        for n in 100..200 {
            let (_, kept) = keep(n, 4_096);
            assert!(kept <= 2 * BATCH_EXTENTS_MAX, "{kept} extents");
        }
    }
}

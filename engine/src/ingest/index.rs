//! What a run has sent and the catalog does not know yet.
//!
//! Guarantees: content claimed by a batch is named, not sent, by later ones only, so that the target,
//! which applies batches in order, always has it; two readers of files that may be the same do not
//! send both; what was acknowledged is found here until every batch that began before it was in the
//! catalog has ended. Nothing of it survives the run: what was acknowledged is in the catalog.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use farshore_core::recipe::{ChunkId, Extent, FileDigest, Recipe};

use super::BatchRecord;

/// Content sent by batches not yet acknowledged, so that it is not sent again meanwhile.
#[derive(Debug, Default)]
pub struct RunIndex {
    state: Mutex<IndexState>,
    large_done: Condvar,
}

#[derive(Debug, Default)]
struct IndexState {
    contents: HashMap<FileDigest, (u64, Option<Arc<Recipe>>)>,
    chunks: HashMap<ChunkId, (u64, FileDigest, u64)>,
    distrusted: HashSet<ChunkId>,
    large: Vec<LargeFile>,
    /// Batches that are being read, each with the catalog as it was when it began.
    reading: BTreeSet<u64>,
    retiring: Vec<Retiring>,
}

/// An acknowledged batch that some batch being read does not find in its catalog.
#[derive(Debug)]
struct Retiring {
    batch: u64,
    contents: Vec<FileDigest>,
    /// The last batch that had begun by then.
    last_reading: u64,
}

#[derive(Debug)]
struct LargeFile {
    batch: u64,
    ticket: u64,
    size: u64,
    first: Option<ChunkId>,
    /// Whether it is being read; only announced otherwise.
    begun: bool,
}

impl IndexState {
    fn next_ticket(&self) -> u64 {
        self.large.iter().map(|l| l.ticket).max().unwrap_or(0) + 1
    }

    fn remove(&mut self, batch: u64, contents: &[FileDigest]) {
        for content in contents {
            if self.contents.get(content).is_some_and(|(holder, _)| *holder == batch) {
                self.contents.remove(content);
            }
        }
        if !contents.is_empty() {
            self.chunks.retain(|_, (holder, ..)| *holder != batch);
        }
    }
}

impl RunIndex {
    fn lock(&self) -> std::sync::MutexGuard<'_, IndexState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims `content` for `batch`; `false` when a batch not after it has sent it already.
    pub(super) fn claim(&self, content: FileDigest, batch: u64) -> bool {
        let mut state = self.lock();
        let held = state.contents.get(&content).is_some_and(|(holder, _)| *holder <= batch);
        if !held {
            state.contents.insert(content, (batch, None));
        }
        !held
    }

    pub(super) fn add_recipe(&self, content: FileDigest, recipe: &Arc<Recipe>, batch: u64) {
        let mut state = self.lock();
        let mut offset = 0;
        for extent in &recipe.extents {
            if let Extent::Chunk { id, .. } = extent {
                let place = (batch, content, offset);
                let old = state.chunks.entry(*id).or_insert(place);
                if old.0 > batch {
                    *old = place;
                }
            }
            offset += extent.len();
        }
        state.contents.insert(content, (batch, Some(Arc::clone(recipe))));
    }

    /// The target holds `content`, of which the catalog knows nothing.
    pub fn hold(&self, content: FileDigest, recipe: &Arc<Recipe>) {
        self.add_recipe(content, recipe, 0);
    }

    pub(super) fn chunk(&self, id: &ChunkId, batch: u64) -> Option<(FileDigest, u64)> {
        let state = self.lock();
        let (holder, content, offset) = state.chunks.get(id)?;
        (*holder <= batch).then_some((*content, *offset))
    }

    pub(super) fn recipe(&self, content: &FileDigest, batch: u64) -> Option<Arc<Recipe>> {
        let state = self.lock();
        let (holder, recipe) = state.contents.get(content)?;
        if *holder <= batch { recipe.clone() } else { None }
    }

    pub(super) fn is_distrusted(&self, id: &ChunkId) -> bool {
        self.lock().distrusted.contains(id)
    }

    /// The target lacks `content`, whatever the catalog says.
    pub fn distrust_content(&self, content: &FileDigest) {
        self.lock().distrusted.insert(ChunkId(content.0));
    }

    /// The target lacks these chunks, whatever the catalog says: for the rest of the run they are
    /// sent.
    pub fn distrust(&self, chunks: impl IntoIterator<Item = ChunkId>) {
        self.lock().distrusted.extend(chunks);
    }

    /// A batch is about to be read with the catalog as it is now or later.
    pub fn begin(&self, batch: u64) {
        self.lock().reading.insert(batch);
    }

    /// A batch is acknowledged and in the catalog: its content is found there by batches that begin
    /// from now on.
    pub fn retire(&self, record: &BatchRecord, batch: u64) {
        let mut state = self.lock();
        match state.reading.last() {
            None => state.remove(batch, &record.contents),
            Some(&last_reading) => {
                let contents = record.contents.clone();
                state.retiring.push(Retiring { batch, contents, last_reading });
            }
        }
    }

    /// Waits while an earlier batch reads a file that may be the same: of this length and with this
    /// first chunk.
    pub(super) fn await_twins(&self, ticket: u64, first: ChunkId) {
        let mut state = self.lock();
        let Some(mine) = state.large.iter_mut().find(|l| l.ticket == ticket) else { return };
        mine.first = Some(first);
        let (batch, size) = (mine.batch, mine.size);
        self.large_done.notify_all();
        let twin =
            |l: &LargeFile| l.batch < batch && l.size == size && l.first.is_none_or(|f| f == first);
        while state.large.iter().any(twin) {
            state = self.large_done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A batch with larger files of these lengths is handed out: a later batch that meets one of the
    /// same length waits until it is known not to be the same, even before anybody reads it.
    pub fn announce(&self, batch: u64, sizes: impl Iterator<Item = u64>) {
        let mut state = self.lock();
        for size in sizes {
            let ticket = state.next_ticket();
            state.large.push(LargeFile { batch, ticket, size, first: None, begun: false });
        }
    }

    /// A batch is written, or will never be: nobody waits for its files any more.
    pub fn finish(&self, batch: u64) {
        let mut state = self.lock();
        state.large.retain(|l| l.batch != batch);
        state.reading.remove(&batch);
        let oldest = state.reading.first().copied().unwrap_or(u64::MAX);
        let found_by_all = state.retiring.extract_if(.., |r| r.last_reading < oldest);
        let found_by_all: Vec<_> = found_by_all.collect();
        for retired in found_by_all {
            state.remove(retired.batch, &retired.contents);
        }
        drop(state);
        self.large_done.notify_all();
    }

    /// Whether no larger file but one is at hand: whoever reads it may use another thread.
    pub(super) fn is_only_large(&self) -> bool {
        self.lock().large.len() <= 1
    }

    pub(super) fn begin_large(&self, batch: u64, size: u64) -> LargeGuard<'_> {
        let mut state = self.lock();
        let announced =
            state.large.iter_mut().find(|l| l.batch == batch && l.size == size && !l.begun);
        if let Some(announced) = announced {
            announced.begun = true;
            return LargeGuard { index: self, ticket: announced.ticket };
        }
        let ticket = state.next_ticket();
        state.large.push(LargeFile { batch, ticket, size, first: None, begun: true });
        LargeGuard { index: self, ticket }
    }
}

/// A larger file that is being read; others that may be the same wait for it.
pub(super) struct LargeGuard<'a> {
    index: &'a RunIndex,
    pub(super) ticket: u64,
}

impl Drop for LargeGuard<'_> {
    fn drop(&mut self) {
        self.index.lock().large.retain(|l| l.ticket != self.ticket);
        self.index.large_done.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(content: FileDigest) -> BatchRecord {
        BatchRecord { contents: vec![content], ..BatchRecord::default() }
    }

    /// A batch that began before an earlier one was acknowledged reads a catalog that lacks it.
    #[test]
    fn acknowledged_content_is_found_by_batches_that_began_before() {
        let (index, content) = (RunIndex::default(), FileDigest([7; 32]));
        (1..=3).for_each(|batch| index.begin(batch));
        assert!(index.claim(content, 1));
        index.finish(1);
        index.retire(&record(content), 1);
        assert!(!index.claim(content, 2), "sent again by the batch that was being read");
        index.begin(4);
        index.finish(2);
        assert!(!index.claim(content, 3), "a batch that began as early still reads");
        index.finish(3);
        assert!(index.lock().contents.is_empty(), "only a batch that began later reads");
        assert!(index.lock().retiring.is_empty());
        index.retire(&record(content), 2);
        index.finish(4);
        index.retire(&record(content), 3);
        let state = index.lock();
        assert!(state.retiring.is_empty() && state.reading.is_empty(), "{state:?}");
    }
}

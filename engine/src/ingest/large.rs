//! Sending one larger file: only what the target does not hold.

use std::collections::HashMap;
use std::sync::Arc;

use farshore_core::chunking::ChunkingId;
use farshore_core::limits::CHUNK_LEN_MAX;
use farshore_core::path::RelPath;
use farshore_core::recipe::{ChunkId, Extent, FileDigest, Recipe};
use farshore_proto::op::Op;

use super::index::LargeGuard;
use super::{Batch, Failure, Ingest};
use crate::catalog::CatalogError;
use crate::io::{Stat, Storage};
use crate::observe::ObserveError;
use crate::progress::Progress;

/// Sends one larger file extent by extent; sends nothing while the file is, so far, content the
/// target holds as a whole.
pub(super) struct LargeSender<'s, 'a, 'b, 'w, 'g, 'd, S: Storage> {
    ingest: &'s Ingest<'a, S>,
    path: &'s RelPath,
    stat: Stat,
    batch: &'b mut Batch<'w, 'g, 'd>,
    pub(super) recipe: Recipe,
    /// Content this file has matched from its start.
    twin: Option<Twin>,
    /// The former version at this path: where each of its chunks stands.
    basis: Option<(FileDigest, HashMap<ChunkId, u64>)>,
    /// Content that may be patched, and its length; `None` for what has no recipe at the target yet.
    sizes: HashMap<FileDigest, Option<u64>>,
    pub(super) begun: bool,
    /// Held until the recipe is in the index, so that a twin that waits finds it there.
    pub(super) guard: LargeGuard<'a>,
}

/// Content of one chunk has no recipe stored: its digest is that chunk's. Of other content whose
/// recipe is lost this names a chunk that no file has.
pub(super) fn of_one_chunk(content: FileDigest, size: u64) -> Option<Recipe> {
    let len = u32::try_from(size).ok().filter(|&l| l > 0 && l as usize <= CHUNK_LEN_MAX)?;
    let extents = vec![Extent::Chunk { id: ChunkId(content.0), len }];
    Some(Recipe { chunking: ChunkingId::for_size(size), extents })
}

struct Twin {
    content: FileDigest,
    recipe: Arc<Recipe>,
}

impl<'s, 'a, 'b, 'w, 'g, 'd, S: Storage> LargeSender<'s, 'a, 'b, 'w, 'g, 'd, S> {
    pub(super) fn new(
        ingest: &'s Ingest<'a, S>,
        path: &'s RelPath,
        stat: &Stat,
        basis: Option<(FileDigest, u64)>,
        chunking: ChunkingId,
        batch: &'b mut Batch<'w, 'g, 'd>,
    ) -> Result<Self, CatalogError> {
        let guard = ingest.index.begin_large(batch.number, stat.size);
        let mut sender = Self {
            ingest,
            path,
            stat: *stat,
            batch,
            recipe: Recipe { chunking, extents: Vec::new() },
            twin: None,
            basis: None,
            sizes: HashMap::new(),
            begun: false,
            guard,
        };
        let basis = basis.filter(|(content, _)| !ingest.index.is_distrusted(&ChunkId(content.0)));
        if let Some((content, size)) = basis
            && let Some(recipe) =
                sender.recipe_of(&content)?.or_else(|| of_one_chunk(content, size).map(Arc::new))
        {
            let mut offset = 0;
            let mut places = HashMap::with_capacity(recipe.extents.len());
            for extent in &recipe.extents {
                if let Extent::Chunk { id, .. } = extent {
                    places.entry(*id).or_insert(offset);
                }
                offset += extent.len();
            }
            sender.sizes.insert(content, Some(offset));
            sender.basis = Some((content, places));
            sender.twin = Some(Twin { content, recipe });
        }
        Ok(sender)
    }

    fn recipe_of(&self, content: &FileDigest) -> Result<Option<Arc<Recipe>>, CatalogError> {
        if let Some(recipe) = self.ingest.index.recipe(content, self.batch.number) {
            return Ok(Some(recipe));
        }
        Ok(self.ingest.catalog.recipe(content)?.map(Arc::new))
    }

    pub(super) fn extent(&mut self, extent: Extent, bytes: &[u8]) -> Result<(), Failure> {
        if self.ingest.is_over.is_some_and(|is_over| is_over()) {
            return Err(ObserveError::Changed.into());
        }
        if let (true, Extent::Chunk { id, .. }) = (self.recipe.extents.is_empty(), extent) {
            self.ingest.index.await_twins(self.guard.ticket, id);
            self.find_twin(&id)?;
        }
        // Zeros come in pieces that the recipe joins: what was the same is remembered as it was.
        let (before, last) = (self.recipe.extents.len(), self.recipe.extents.last().copied());
        self.recipe.push(extent);
        if !self.begun && self.matches_twin() {
            return Ok(());
        }
        if !self.begun {
            let mut same = self.recipe.extents[..before].to_vec();
            if let (Some(slot), Some(last)) = (same.last_mut(), last) {
                *slot = last;
            }
            self.begin(&same)?;
        }
        self.send(extent, bytes)
    }

    /// The whole file was read. One that is only the beginning of its twin is sent as such.
    pub(super) fn complete(&mut self) -> Result<(), Failure> {
        let is_twin = self.twin.as_ref().is_some_and(|t| *t.recipe == self.recipe);
        if !self.begun && !is_twin {
            let same = self.recipe.extents.clone();
            self.begin(&same)?;
        }
        Ok(self.batch.writer.end_file()?)
    }

    /// Without a former version, content that starts with the same chunk is a likely twin.
    fn find_twin(&mut self, first: &ChunkId) -> Result<(), Failure> {
        let matches = |t: &Twin| matches!(t.recipe.extents.first(), Some(Extent::Chunk { id, .. }) if id == first);
        if self.twin.as_ref().is_some_and(matches) {
            return Ok(());
        }
        let found = match self.ingest.index.chunk(first, self.batch.number) {
            Some(found) => Some(found),
            None => self.ingest.catalog.chunk(first)?,
        };
        if let Some((content, 0)) = found
            && let Some(recipe) = self.recipe_of(&content)?
            && self.is_held(&content)?
        {
            self.twin = Some(Twin { content, recipe });
        }
        Ok(())
    }

    fn is_held(&self, content: &FileDigest) -> Result<bool, CatalogError> {
        let index = &self.ingest.index;
        Ok(!index.is_distrusted(&ChunkId(content.0))
            && (index.recipe(content, self.batch.number).is_some()
                || self.ingest.catalog.has_content(content)?))
    }

    fn matches_twin(&self) -> bool {
        let Some(twin) = &self.twin else { return false };
        let at = self.recipe.extents.len() - 1;
        let mine = &self.recipe.extents[at];
        if at > 0 && self.recipe.extents[at - 1] != twin.recipe.extents[at - 1] {
            return false;
        }
        let same = match (mine, twin.recipe.extents.get(at)) {
            // Zeros come in pieces.
            (Extent::Zero { len }, Some(Extent::Zero { len: theirs })) => len <= theirs,
            (mine, Some(theirs)) => mine == theirs,
            (_, None) => false,
        };
        same && !matches!(mine, Extent::Chunk { id, .. } if self.ingest.index.is_distrusted(id))
    }

    /// The file parts from its twin: what was the same so far is copied from there.
    fn begin(&mut self, same: &[Extent]) -> Result<(), Failure> {
        self.begun = true;
        let sparse = self.stat.allocated < self.stat.size;
        let op = Op::Begin { path: self.path.clone(), size: self.stat.size, sparse };
        let twin = self.twin.take();
        let basis = self.basis.as_ref().map(|(content, _)| *content);
        self.batch.writer.begin(&op, basis.or(twin.as_ref().map(|t| t.content)))?;
        let Some(twin) = twin else { return Ok(()) };
        let mut offset = 0;
        for extent in same {
            match *extent {
                Extent::Chunk { id, len } => {
                    self.batch.writer.copy(twin.content, offset, len, id)?;
                    Progress::add(&self.ingest.progress.reused_bytes, u64::from(len));
                }
                Extent::Zero { len } => self.batch.writer.op(&Op::Zero { len })?,
            }
            offset += extent.len();
        }
        Ok(())
    }

    fn send(&mut self, extent: Extent, bytes: &[u8]) -> Result<(), Failure> {
        let progress = self.ingest.progress;
        let (id, len) = match extent {
            Extent::Zero { len } => return Ok(self.batch.writer.op(&Op::Zero { len })?),
            Extent::Chunk { id, len } => (id, len),
        };
        match self.place_of(&id)? {
            Some((from, offset)) => {
                Progress::add(&progress.reused_bytes, u64::from(len));
                self.batch.writer.copy(from, offset, len, id)?;
            }
            None if self.is_in_gap(&id)? => self.batch.writer.fresh(id, bytes)?,
            None => {
                Progress::add(&progress.literal_bytes, u64::from(len));
                self.batch.writer.op(&Op::Literal { bytes })?;
            }
        }
        Ok(())
    }

    /// Whether a chunk that is nowhere may be patched from what stands there in a former version.
    fn is_in_gap(&mut self, id: &ChunkId) -> Result<bool, CatalogError> {
        let Some(delta) = &self.batch.writer.delta else { return Ok(false) };
        // One that could not be built once is sent as it is.
        if self.ingest.index.is_distrusted(id) {
            return Ok(false);
        }
        if delta.in_gap() {
            return Ok(true);
        }
        let Some(content) = delta.anchor() else { return Ok(false) };
        let size = match self.sizes.get(&content) {
            Some(size) => *size,
            None => {
                let size = self.acknowledged_size(&content)?;
                self.sizes.insert(content, size);
                size
            }
        };
        let delta = self.batch.writer.delta.as_mut();
        Ok(size.zip(delta).is_some_and(|(size, delta)| delta.open_gap(size)))
    }

    /// The length of content that the target has acknowledged: of what is still under way it could
    /// sign nothing.
    fn acknowledged_size(&self, content: &FileDigest) -> Result<Option<u64>, CatalogError> {
        let catalog = &self.ingest.catalog;
        if self.ingest.index.is_distrusted(&ChunkId(content.0)) || !catalog.has_content(content)? {
            return Ok(None);
        }
        Ok(catalog.recipe(content)?.map(|recipe| recipe.size()))
    }

    fn place_of(&self, id: &ChunkId) -> Result<Option<(FileDigest, u64)>, CatalogError> {
        if self.ingest.index.is_distrusted(id) {
            return Ok(None);
        }
        if let Some((content, places)) = &self.basis
            && let Some(&offset) = places.get(id)
        {
            return Ok(Some((*content, offset)));
        }
        let place = match self.ingest.index.chunk(id, self.batch.number) {
            Some(place) => Some(place),
            None => self.ingest.catalog.chunk(id)?,
        };
        let Some((content, offset)) = place else { return Ok(None) };
        Ok(self.is_held(&content)?.then_some((content, offset)))
    }
}

//! Which chunking cut what a catalog knows.
//!
//! Guarantees: where a catalog has the recipe of a file, its next version is cut as that recipe was,
//! so that the two share chunks and, when the bytes are the same, the digest: a new chunking never
//! makes a pair send again what it has. A catalog that lost the recipe says so, and the caller tries.

use farshore_core::chunking::ChunkingId;
use farshore_core::codec::Decoder;
use farshore_core::entry::Entry;
use farshore_core::recipe::FileDigest;

use super::{CatalogReader, Result, Step, damaged};
use crate::observe::Expected;

/// Recipes looked at to learn whether there are older ones: they come in no order, so a share of a
/// tenth is missed once in a thousand times.
const SAMPLE: usize = 64;

impl CatalogReader {
    /// What cut `content`; `None` when no recipe is stored, as for content of one chunk.
    ///
    /// # Errors
    /// [`super::CatalogError`].
    pub fn chunking(&self, content: &FileDigest) -> Result<Option<ChunkingId>> {
        let value = self.recipes.get(content.0.as_slice()).step("read recipe")?;
        let chunking = value.map(|v| ChunkingId::decode(&mut Decoder::new(v.value())));
        chunking.transpose().map_err(damaged("recipes"))
    }

    /// What is known of the content of a file that was `entry`.
    ///
    /// # Errors
    /// [`super::CatalogError`].
    pub fn expected(&self, entry: &Entry) -> Result<Option<Expected>> {
        let Entry::File { size, content, .. } = entry else { return Ok(None) };
        let chunking = self.chunking(content)?;
        Ok(Some(Expected { content: *content, size: *size, chunking }))
    }

    /// Whether files cut by an older chunking are likely among those it knows.
    ///
    /// # Errors
    /// [`super::CatalogError`].
    pub fn holds_older_chunkings(&self) -> Result<bool> {
        for row in self.recipes.range::<&[u8]>(..).step("read recipes")?.take(SAMPLE) {
            let (_, value) = row.step("read recipes")?;
            let chunking = ChunkingId::decode(&mut Decoder::new(value.value()));
            if chunking.map_err(damaged("recipes"))?.is_older() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

//! What moved: sent as a move, when its content is proven to be what the target holds where it was.
//!
//! Guarantees: content counts as unchanged when the facts are all the same, the change time among them, or when its
//! bytes were read and have the digests of the recipe that the target has acknowledged. A rename moves the change
//! time, and so does whoever writes and sets the time back: size and time prove nothing then.

use std::sync::Arc;

use farshore_core::entry::Entry;
use farshore_core::limits::SMALL_FILE_MAX;
use farshore_core::path::RelPath;
use farshore_core::recipe::Recipe;
use farshore_proto::op::Op;

use super::large::of_one_chunk;
use super::{Batch, Effect, EffectKind, Failure, Ingest};
use crate::catalog::{CatalogError, LocalFacts, Record};
use crate::io::{Stat, Storage};
use crate::observe::{describe_file, describe_if_same};
use crate::progress::Progress;

impl<S: Storage> Ingest<'_, S> {
    pub(super) fn moved_file(
        &mut self,
        from: &RelPath,
        path: &RelPath,
        stat: &Stat,
        batch: &mut Batch<'_, '_, '_>,
    ) -> Result<bool, Failure> {
        let Some(old) = self.catalog.get(from)? else { return Ok(false) };
        if old.facts == Some(LocalFacts::of(stat)) {
            // Not even the change time moved: a directory above was renamed, the file untouched.
            return self.try_move(from, path, &old.entry, None, stat, batch);
        }
        // The rename itself changed the change time; only its bytes prove the content the same.
        let storage = self.storage;
        if let Some(recipe) = self.known_recipe(&old.entry)? {
            let mut buf = std::mem::take(&mut self.buf);
            let (directory, name) = self.parent_of(path)?;
            let same = describe_if_same(storage, directory, &name, &recipe, &mut buf);
            self.buf = buf;
            if let Some((entry, stat)) = same? {
                Progress::add(&self.progress.read_bytes, stat.size);
                // Its recipe stays with its content.
                return self.try_move(from, path, &entry, None, &stat, batch);
            }
        }
        let expected = self.catalog.expected(&old.entry)?;
        let mut chunker = self.chunker.take();
        let (directory, name) = self.parent_of(path)?;
        let described = describe_file(storage, directory, &name, expected.as_ref(), &mut chunker);
        self.chunker = chunker;
        let (entry, recipe, stat) = described?;
        Progress::add(&self.progress.read_bytes, stat.size);
        self.try_move(from, path, &entry, recipe.map(Arc::new), &stat, batch)
    }

    /// Sends a move, when the target holds at `from` what is now `entry`. Otherwise the former path
    /// is removed here, since nobody else will.
    pub(super) fn try_move(
        &self,
        from: &RelPath,
        path: &RelPath,
        entry: &Entry,
        recipe: Option<Arc<Recipe>>,
        stat: &Stat,
        batch: &mut Batch<'_, '_, '_>,
    ) -> Result<bool, Failure> {
        let Some(old) = self.catalog.get(from)?.map(|r| r.entry) else { return Ok(false) };
        if !old.same_but_metadata(entry) {
            if !self.stands(from) {
                self.remove(from.clone(), old.digest(), batch)?;
            }
            return Ok(false);
        }
        let record = Record { entry: entry.clone(), facts: self.facts(stat) };
        let op = Op::Move {
            from: from.clone(),
            expected: old.digest(),
            to: path.clone(),
            entry: entry.clone(),
        };
        if !self.stands(from) {
            batch.record.effects.push(Effect::Remove { path: from.clone(), moved: true });
        }
        batch.put(&op, path.clone(), record, recipe, EffectKind::Moved(from.clone()))?;
        Ok(true)
    }

    /// How the content of a larger file is made, as far as the catalog says.
    fn known_recipe(&self, entry: &Entry) -> Result<Option<Recipe>, CatalogError> {
        let Entry::File { size, content, .. } = entry else { return Ok(None) };
        if *size <= SMALL_FILE_MAX {
            return Ok(None);
        }
        let known = self.catalog.recipe(content)?;
        Ok(known.or_else(|| of_one_chunk(*content, *size)))
    }
}

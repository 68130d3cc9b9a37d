//! A file whose content the target holds as a whole: copied from where it stands.
//!
//! Guarantees: what is placed has the digest that was announced, of the bytes that were written. Content
//! that is not here, or is other than the catalog says, makes this file fail and be sent.

use std::io;

use farshore_core::chunking::ChunkingId;
use farshore_core::entry::Entry;
use farshore_core::path::RelPath;
use farshore_core::recipe::{Extent, FileDigest, Recipe};

use super::{OpError, Stager, basis_missing, refused, write_extent};
use crate::io::{Object, Storage};
use crate::observe::{Expected, ObserveError, chunker_for, read_extents};

impl<S: Storage> Stager<'_, S> {
    pub(super) fn reuse(&mut self, path: RelPath, entry: Entry) -> Result<(), OpError> {
        let Some(content) = entry.content().copied() else { return Err(refused("no content")) };
        if self.is_carried(&content) || self.adopt(&path, &entry)? {
            return Ok(());
        }
        if self.carries {
            self.may_go_on(entry.size())?;
        }
        let Some(basis) = self.open_basis(&content)? else {
            return Err(basis_missing(Vec::new()));
        };
        let stat = self
            .storage
            .stat(Object::File(&basis))
            .map_err(Self::failed(&path, "looking at its basis"))?;
        if stat.size != entry.size() {
            return Err(basis_missing(Vec::new()));
        }
        let slot = self.slot(&path);
        let (file, mode) =
            self.create(&slot, &entry).map_err(Self::failed(&path, "creating it"))?;
        let shares = self.storage.shares_blocks(&self.folder);
        let room = self.with_room(if shares { 0 } else { stat.size }, || Ok(()));
        let copied = room.and_then(|()| self.copy_whole(&basis, &stat, &file, &path, &content));
        let copied = copied.inspect_err(|_| self.discard(&slot))?;
        match copied {
            None => {
                self.discard(&slot);
                Err(basis_missing(Vec::new()))
            }
            Some(recipe) => {
                let facts = self.finish_file(&slot, (&file, Some(mode)), &path, &entry)?;
                if let Some(recipe) = recipe {
                    self.kept.keep(&mut self.out.recipes, content, recipe);
                }
                self.staged(&slot, path, entry, facts);
                Ok(())
            }
        }
    }

    /// Copies a whole file and hashes what was copied: `None` when it is other content, else its
    /// recipe if it has one.
    pub(super) fn copy_whole(
        &mut self,
        basis: &S::File,
        stat: &crate::io::Stat,
        file: &S::File,
        path: &RelPath,
        content: &FileDigest,
    ) -> Result<Option<Option<Recipe>>, OpError> {
        let storage = self.storage;
        if stat.size <= farshore_core::limits::SMALL_FILE_MAX {
            let Ok(size) = usize::try_from(stat.size) else { return Ok(None) };
            self.buf.resize(size, 0);
            let read = storage
                .read_at(basis, 0, &mut self.buf)
                .map_err(Self::failed(path, "reading its basis"))?;
            if read != size || FileDigest::of_small(&self.buf) != *content {
                return Ok(None);
            }
            storage.write_at(file, 0, &self.buf).map_err(Self::failed(path, "writing it"))?;
            return Ok(Some(None));
        }
        let expected = Expected {
            content: *content,
            size: stat.size,
            chunking: match self.out.recipes.get(content) {
                Some(recipe) => Some(recipe.chunking),
                None => self.catalog.reader()?.chunking(content)?,
            },
        };
        let set = storage.set_len(file, stat.size);
        set.map_err(|e| self.no_room(path, "setting its length", stat.size, e))?;
        let mut written = false;
        for id in Expected::chunkings(Some(&expected), stat.size) {
            let recipe = if written {
                // What counts is what was written, whatever the basis reads like the second time.
                let object = Object::File(file);
                let stat = storage.stat(object).map_err(Self::failed(path, "looking at it"))?;
                self.copy_extents(file, &stat, None, path, id)?
            } else {
                self.copy_extents(basis, stat, Some(file), path, id)?
            };
            written = true;
            if let Some(recipe) = recipe.filter(|r| r.digest() == *content) {
                return Ok(Some(Some(recipe)));
            }
        }
        Ok(None)
    }

    /// Reads a basis, cut by `id`, and writes what is read to `into`; `None` when it cannot be read.
    pub(super) fn copy_extents(
        &mut self,
        basis: &S::File,
        stat: &crate::io::Stat,
        into: Option<&S::File>,
        path: &RelPath,
        id: ChunkingId,
    ) -> Result<Option<Recipe>, OpError> {
        let storage = self.storage;
        let chunker = chunker_for(id, &mut self.chunker);
        let mut recipe = Recipe { chunking: id, extents: Vec::new() };
        let mut offset = 0;
        let sparse = stat.allocated < stat.size;
        let mut failed: Option<io::Error> = None;
        let copied =
            read_extents::<S, ObserveError>(storage, basis, stat, chunker, &mut |extent, bytes| {
                if let (Extent::Chunk { .. }, Some(file), None) = (extent, into, &failed) {
                    failed = write_extent(storage, file, offset, bytes, sparse).err();
                }
                offset += extent.len();
                recipe.push(extent);
                Ok(())
            });
        match failed {
            Some(e) => Err(self.no_room(path, "writing it", stat.size, e)),
            None => Ok(copied.is_ok().then_some(recipe)),
        }
    }
}

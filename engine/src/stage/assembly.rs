//! A larger file while its extents arrive: literal bytes, and stretches of content held here.

use std::sync::Arc;

use farshore_core::chunking::ChunkingId;
use farshore_core::entry::Entry;
use farshore_core::limits::RECIPE_EXTENTS_MAX;
use farshore_core::path::RelPath;
use farshore_core::recipe::{ChunkId, Extent, FileDigest, Recipe};
use farshore_proto::message::{Failure, FailureKind};
use farshore_proto::op::Op;

use super::bounds::Missing;
use super::laid::Laid;
use super::{
    CHUNK_MEAN, OpError, SHORT_CHUNKS, Slot, StageError, Stager, WRITEBACK, basis_missing, refused,
};
use crate::ahead::log;
use crate::catalog::CatalogError;
use crate::io::Storage;

/// Space is reserved for all of a file from this length in bytes on: below, that costs more than it
/// saves.
const ALLOCATED_MIN: u64 = 8 << 20;

/// Content that is copied from, open.
pub(super) type Basis<S> = (FileDigest, Arc<<S as Storage>::File>);

/// A larger file while its extents arrive.
pub(super) struct Assembly<S: Storage> {
    path: RelPath,
    /// Where it is built; `None` when it already failed and its extents are passed over.
    pub(super) file: Option<(S::File, Slot)>,
    /// What runs and patches copy from.
    pub(super) base: Option<FileDigest>,
    pub(super) recipe: Recipe,
    pub(super) offset: u64,
    /// Bytes of it that were no zeros.
    chunk_bytes: u64,
    pub(super) size: u64,
    pub(super) sparse: bool,
    /// Whether space for all of it is reserved.
    reserved: bool,
    /// Whether there was room for all of it when it began.
    looked_for_room: bool,
    flushed: u64,
    pub(super) missing: Missing,
    refused: Option<(FailureKind, String)>,
    /// What it shares with content held here.
    pub(super) laid: Laid<S>,
    /// The log of what arrives ahead of its cut.
    pub(super) log: Option<log::Writer<S>>,
}

impl<S: Storage> Stager<'_, S> {
    pub(super) fn begin(&mut self, path: RelPath, size: u64, sparse: bool) -> Result<(), OpError> {
        let slot = self.slot(&path);
        let created = self.created(&path, &slot, size);
        let mut assembly = Assembly {
            path: path.clone(),
            file: None,
            base: None,
            recipe: Recipe { chunking: ChunkingId::for_size(size), extents: Vec::new() },
            offset: 0,
            chunk_bytes: 0,
            size,
            sparse,
            reserved: sparse,
            looked_for_room: false,
            flushed: 0,
            missing: Missing::default(),
            refused: None,
            laid: Laid::default(),
            log: None,
        };
        match created {
            Ok(file) => {
                assembly.log = self.log.take();
                if let Some(log) = &mut assembly.log {
                    log.is_of(&path);
                }
                assembly.file = Some((file, slot));
            }
            // Its extents still arrive, and are passed over.
            Err(OpError::Failure(kind, text)) => assembly.refused = Some((kind, text)),
            Err(fatal) => return Err(fatal),
        }
        self.assembly = Some(assembly);
        Ok(())
    }

    fn created(&self, path: &RelPath, slot: &Slot, size: u64) -> Result<S::File, OpError> {
        let file = self
            .storage
            .create_file(self.slot_directory(slot), &slot.name)
            .map_err(Self::failed(path, "creating it"))?;
        // First, while nothing is written: XFS writes a file back and waits when its length is set over
        // data.
        match self.storage.set_len(&file, size) {
            Ok(()) => Ok(file),
            Err(e) => {
                self.discard(slot);
                Err(self.no_room(path, "setting its length", size, e))
            }
        }
    }

    pub(super) fn file_op(&mut self, op: Op<'_>) -> Result<(), StageError> {
        let Some(mut assembly) = self.assembly.take() else { return Ok(()) };
        let path = assembly.path.clone();
        let result = match op {
            Op::Abort => {
                self.logged_all(&mut assembly);
                if let Some((_, slot)) = &assembly.file {
                    self.discard(slot);
                }
                return Ok(());
            }
            Op::End { entry, chunking } => {
                let ended = self.end(assembly, entry, chunking);
                return match ended {
                    Ok(()) => Ok(()),
                    Err(OpError::Fatal(e)) => Err(e),
                    Err(OpError::Failure(kind, text)) => {
                        self.out.failures.push(Failure { path, kind, text });
                        Ok(())
                    }
                };
            }
            Op::Literal { bytes } => {
                let id = ChunkId::of(bytes);
                // A chunk is at most CHUNK_LEN_MAX: the operation's own decoder saw to it.
                let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                self.extent(&mut assembly, Extent::Chunk { id, len }, Some(bytes))
            }
            Op::Copy { from, offset, len, id } => self.copy(&mut assembly, from, offset, len, id),
            Op::Zero { len } => self.extent(&mut assembly, Extent::Zero { len }, None),
            Op::Base { content } => {
                assembly.base = Some(content);
                Ok(())
            }
            Op::CopyRun { offset, len } => self.copy_run(&mut assembly, offset, len),
            Op::Patch { id, pieces } => self.patch(&mut assembly, id, &pieces),
            _ => Ok(()),
        };
        match result {
            Ok(()) => {}
            Err(OpError::Fatal(e)) => return Err(e),
            Err(OpError::Failure(kind, text)) => {
                // Its space is free again with the last handle of it.
                if let Some((_, slot)) = assembly.file.take() {
                    self.discard(&slot);
                }
                // Nothing is there that it could tell of.
                assembly.log = None;
                assembly.refused.get_or_insert((kind, text));
            }
        }
        self.assembly = Some(assembly);
        Ok(())
    }

    fn copy(
        &mut self,
        assembly: &mut Assembly<S>,
        from: FileDigest,
        offset: u64,
        len: u32,
        id: ChunkId,
    ) -> Result<(), OpError> {
        self.hold_basis(from)?;
        let mut bytes = std::mem::take(&mut self.buf);
        bytes.resize(len as usize, 0);
        let read = match &self.basis {
            Some((_, file)) => self.storage.read_at(file, offset, &mut bytes).unwrap_or(0),
            None => 0,
        };
        let extent = Extent::Chunk { id, len };
        let result = if read == bytes.len() && ChunkId::of(&bytes) == id {
            self.extent(assembly, extent, Some(&bytes))
        } else {
            self.missing(assembly, extent, id, Some(from))
        };
        self.buf = bytes;
        result
    }

    /// Opens what is copied from, unless it is one of the two that were copied from last.
    pub(super) fn hold_basis(&mut self, content: FileDigest) -> Result<(), CatalogError> {
        let is_held = |held: &Option<Basis<S>>| held.as_ref().is_some_and(|(c, _)| *c == content);
        if is_held(&self.basis) {
            return Ok(());
        }
        std::mem::swap(&mut self.basis, &mut self.former_basis);
        if !is_held(&self.basis) {
            self.basis = self.open_basis(&content)?.map(|file| (content, Arc::new(file)));
        }
        Ok(())
    }

    /// Appends a chunk that is not here. It is asked for when the file has ended; the rest of it is
    /// still read and checked.
    pub(super) fn missing(
        &self,
        assembly: &mut Assembly<S>,
        extent: Extent,
        id: ChunkId,
        from: Option<FileDigest>,
    ) -> Result<(), OpError> {
        self.extent(assembly, extent, None)?;
        assembly.missing.chunk(id, from);
        Ok(())
    }

    /// Passes over `len` bytes that cannot be copied because of `content`, which is asked not to be
    /// copied from again.
    pub(super) fn without(
        &self,
        assembly: &mut Assembly<S>,
        len: u64,
        content: FileDigest,
    ) -> Result<(), OpError> {
        if len == 0 || len > assembly.size - assembly.offset {
            return Err(refused("it is longer than announced"));
        }
        assembly.offset += len;
        assembly.missing.content(content);
        Ok(())
    }

    /// Reserves space before the first byte of a file that has no holes, unless it is short or much of
    /// it will be shared with its base: then for its zeros alone.
    fn reserve(&self, assembly: &mut Assembly<S>, extent: Extent) -> Result<(), OpError> {
        let Some((file, _)) = assembly.file.as_ref().filter(|_| !assembly.reserved) else {
            return Ok(());
        };
        let size = assembly.size;
        let allocate = |range| {
            let allocated = self.storage.allocate(file, range);
            let path = &assembly.path;
            allocated.map_err(|e| self.no_room(path, "reserving space for it", size, e))
        };
        let alone = assembly.base.is_none() || !self.storage.shares_blocks(&self.folder);
        if alone && !assembly.looked_for_room {
            assembly.looked_for_room = true;
            if size >= ALLOCATED_MIN {
                assembly.reserved = true;
                return self.with_room(size, || allocate(0..size));
            }
            self.with_room(size, || Ok(()))?;
        }
        let range = if matches!(extent, Extent::Zero { .. }) {
            assembly.offset..assembly.offset + extent.len()
        } else {
            return Ok(());
        };
        allocate(range)
    }

    /// Appends an extent; bytes are absent for zeros, for a chunk that is missing, and for one that
    /// stands in the file already.
    pub(super) fn extent(
        &self,
        assembly: &mut Assembly<S>,
        extent: Extent,
        bytes: Option<&[u8]>,
    ) -> Result<(), OpError> {
        if extent.is_empty() || extent.len() > assembly.size - assembly.offset {
            return Err(refused("it is longer than announced"));
        }
        if matches!(extent, Extent::Chunk { .. }) {
            if assembly.recipe.extents.len() >= RECIPE_EXTENTS_MAX {
                return Err(refused("it has too many chunks"));
            }
            if assembly.recipe.extents.len() as u64
                > SHORT_CHUNKS + assembly.chunk_bytes / CHUNK_MEAN
            {
                return Err(refused("its chunks are too short"));
            }
            assembly.chunk_bytes += extent.len();
        }
        self.reserve(assembly, extent)?;
        match (bytes, extent) {
            (Some(bytes), _) => self.write(assembly, bytes, 0..bytes.len())?,
            (None, Extent::Zero { len }) => self.write_zeros(assembly, len)?,
            (None, Extent::Chunk { .. }) => {}
        }
        assembly.offset += extent.len();
        assembly.recipe.push(extent);
        self.logged(assembly)?;
        if let Some((file, _)) = &assembly.file
            && assembly.offset - assembly.flushed >= WRITEBACK
        {
            self.storage.start_writeback(file, assembly.flushed..assembly.offset);
            assembly.flushed = assembly.offset;
            if !(assembly.looked_for_room && assembly.reserved) {
                self.may_go_on(assembly.size)?;
            }
        }
        Ok(())
    }

    pub(super) fn write_failed(&self, assembly: &Assembly<S>, e: std::io::Error) -> OpError {
        self.no_room(&assembly.path, "writing it", assembly.size, e)
    }

    fn end(
        &mut self,
        mut assembly: Assembly<S>,
        entry: Entry,
        chunking: ChunkingId,
    ) -> Result<(), OpError> {
        if let Err(e) = self.settle(&mut assembly) {
            if let Some((_, slot)) = &assembly.file {
                self.discard(slot);
            }
            return Err(e);
        }
        let Assembly { path, file, mut recipe, offset, size, missing, refused: why, .. } = assembly;
        recipe.chunking = chunking;
        let Some((file, slot)) = file else {
            let (kind, text) =
                why.unwrap_or_else(|| (FailureKind::Refused, "it could not be staged".into()));
            return Err(OpError::Failure(kind, text));
        };
        let checked = if missing.is_empty() {
            let whole = offset == size && entry.size() == size;
            if whole && entry.content() == Some(&recipe.digest()) {
                Ok(())
            } else {
                Err(refused("its content does not have its digest"))
            }
        } else {
            Err(basis_missing(self.told(missing)))
        };
        if let Err(e) = checked {
            self.discard(&slot);
            return Err(e);
        }
        let facts = self.finish_file(&slot, (&file, None), &path, &entry)?;
        if let Some(content) = entry.content() {
            self.kept.keep(&mut self.out.recipes, *content, recipe);
        }
        self.staged(&slot, path, entry, facts);
        Ok(())
    }
}

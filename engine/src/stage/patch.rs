//! Building a file from its former version: runs of whole chunks, and chunks pieced together.
//!
//! Guarantees: every chunk is hashed before it counts, whoever says what it is; blocks shared with
//! the base are read back from the file that is kept. A base that is not here, whose recipe is not, or
//! whose chunks do not begin where they are said to, makes this file fail and nothing else; the
//! source is told which content not to build on. Memory is one chunk, the recipe of the base and the
//! one that grows, which a run of a few bytes lengthens by all of its chunks: see `bounds` for the most.

use farshore_core::codec::DecodeError;
use farshore_core::recipe::{ChunkId, Extent, FileDigest};
use farshore_proto::op::Piece;

use super::assembly::Assembly;
use super::{HOLE, OpError, Stager, is_fatal};
use crate::catalog::CatalogError;
use crate::io::{Object, Storage};

/// Shorter runs are copied: sharing blocks is a transaction of the file system.
const SHARE_MIN: u64 = 64 * 1024;

/// What content is made of, and where each part begins.
pub(super) struct Parts {
    content: FileDigest,
    extents: Vec<(u64, Extent)>,
}

impl Parts {
    /// The chunks from `offset` to `offset + len`, when they begin and end there.
    fn run(&self, offset: u64, len: u64) -> Option<Vec<(ChunkId, u32)>> {
        let first = self.extents.binary_search_by_key(&offset, |(at, _)| *at).ok()?;
        let mut chunks = Vec::new();
        let mut left = len;
        for (_, extent) in &self.extents[first..] {
            if left == 0 {
                break;
            }
            let Extent::Chunk { id, len } = *extent else { return None };
            left = left.checked_sub(u64::from(len))?;
            chunks.push((id, len));
        }
        (left == 0).then_some(chunks)
    }
}

impl<S: Storage> Stager<'_, S> {
    /// The base of a file; one that uses it without having named it is no file.
    fn base_of(assembly: &Assembly<S>) -> Result<FileDigest, OpError> {
        assembly.base.ok_or_else(|| {
            OpError::Fatal(
                DecodeError::Invalid { what: "operation without a base", found: 0 }.into(),
            )
        })
    }

    /// Learns what `content` is made of; whether that is known here.
    fn hold_parts(&mut self, content: FileDigest) -> Result<bool, CatalogError> {
        if self.parts.as_ref().is_some_and(|p| p.content == content) {
            return Ok(true);
        }
        let stored = match self.out.recipes.get(&content) {
            Some(recipe) => Some(recipe.clone()),
            None => self.catalog.reader()?.recipe(&content)?,
        };
        self.parts = stored.map(|recipe| {
            let mut offset = 0;
            let place = |extent: Extent| {
                let at = offset;
                offset += extent.len();
                (at, extent)
            };
            Parts { content, extents: recipe.extents.into_iter().map(place).collect() }
        });
        Ok(self.parts.is_some())
    }

    /// Appends chunks of the base.
    pub(super) fn copy_run(
        &mut self,
        assembly: &mut Assembly<S>,
        offset: u64,
        len: u64,
    ) -> Result<(), OpError> {
        let base = Self::base_of(assembly)?;
        // Opened first: that may wait for the batch that brings it, and its recipe with it.
        self.hold_basis(base)?;
        let known = self.basis.is_some() && self.hold_parts(base)?;
        let chunks = self.parts.as_ref().filter(|_| known).and_then(|p| p.run(offset, len));
        let Some(chunks) = chunks else { return self.without(assembly, len, base) };
        let shared = self.share(assembly, offset, len)?;
        let mut from = offset;
        for (id, len) in chunks {
            self.copy_chunk(assembly, from, shared, id, len)?;
            from += u64::from(len);
        }
        Ok(())
    }

    fn copy_chunk(
        &mut self,
        assembly: &mut Assembly<S>,
        from: u64,
        shared: bool,
        id: ChunkId,
        len: u32,
    ) -> Result<(), OpError> {
        let mut bytes = std::mem::take(&mut self.buf);
        bytes.resize(len as usize, 0);
        let read = match (&self.basis, &assembly.file) {
            (_, Some((file, _))) if shared => {
                self.storage.read_at(file, assembly.offset, &mut bytes)
            }
            (Some((_, basis)), _) => self.storage.read_at(basis, from, &mut bytes),
            _ => Ok(0),
        };
        let (extent, base) = (Extent::Chunk { id, len }, assembly.base);
        let result = if read.is_ok_and(|n| n == bytes.len()) && ChunkId::of(&bytes) == id {
            self.extent(assembly, extent, (!shared).then_some(&bytes))
        } else {
            self.missing(assembly, extent, id, base)
        };
        self.buf = bytes;
        result
    }

    /// Has the file share the blocks of a run with the base, where blocks line up and the file
    /// system can; whether the bytes stand in the file now. A file with holes, or from one with
    /// holes, is written block by block instead, since those may not be the same.
    fn share(&self, assembly: &Assembly<S>, from: u64, len: u64) -> Result<bool, OpError> {
        let (block, to) = (HOLE as u64, assembly.offset);
        let (Some((file, _)), Some((_, basis))) = (&assembly.file, &self.basis) else {
            return Ok(false);
        };
        let lines_up = from % block == to % block && len <= assembly.size - to;
        if assembly.sparse || !lines_up || len < SHARE_MIN {
            return Ok(false);
        }
        let dense = self.storage.stat(Object::File(basis)).is_ok_and(|s| s.allocated >= s.size);
        if !dense || !self.storage.shares_blocks(&self.folder) {
            return Ok(false);
        }
        let (start, end) = (to.next_multiple_of(block), (to + len) / block * block);
        let edge = |range: std::ops::Range<u64>| {
            let mut bytes = [0; HOLE];
            // Shorter than a block.
            let bytes = &mut bytes[..usize::try_from(range.end - range.start).unwrap_or(HOLE)];
            let read = self.storage.read_at(basis, from + (range.start - to), bytes)?;
            // What is missing is found out when it is read back.
            self.storage.write_at(file, range.start, &bytes[..read])
        };
        let shared = self
            .storage
            .copy_range(basis, from + (start - to), file, start, end - start)
            .and_then(|()| edge(to..start))
            .and_then(|()| edge(end..to + len));
        match shared {
            Ok(()) => Ok(true),
            Err(e) if is_fatal(&e) => Err(self.write_failed(assembly, e)),
            Err(_) => Ok(false),
        }
    }

    /// Appends a chunk made of pieces of the base and new bytes.
    pub(super) fn patch(
        &mut self,
        assembly: &mut Assembly<S>,
        id: ChunkId,
        pieces: &[Piece<'_>],
    ) -> Result<(), OpError> {
        let base = Self::base_of(assembly)?;
        self.hold_basis(base)?;
        let mut bytes = std::mem::take(&mut self.buf);
        bytes.clear();
        let mut whole = true;
        for piece in pieces {
            match piece {
                Piece::New(new) => bytes.extend_from_slice(new),
                Piece::Old { offset, len } => {
                    let at = bytes.len();
                    bytes.resize(at + *len as usize, 0);
                    let read = match &self.basis {
                        Some((_, basis)) => {
                            self.storage.read_at(basis, *offset, &mut bytes[at..]).unwrap_or(0)
                        }
                        None => 0,
                    };
                    whole &= read == *len as usize;
                }
            }
        }
        // The decoder saw to it that it is at most CHUNK_LEN_MAX.
        let extent = Extent::Chunk { id, len: u32::try_from(bytes.len()).unwrap_or(u32::MAX) };
        let result = if whole && ChunkId::of(&bytes) == id {
            self.extent(assembly, extent, Some(&bytes))
        } else {
            self.missing(assembly, extent, id, Some(base))
        };
        self.buf = bytes;
        result
    }
}

//! Building a file from its former version: runs of whole chunks, and chunks pieced together.
//!
//! Guarantees: every chunk is hashed before it counts, whoever says what it is; what is shared with the
//! base is proven to be what was hashed, by the rules of [`super::laid`]. A base that is not here, whose recipe is not, or
//! whose chunks do not begin where they are said to, makes this file fail and nothing else; the
//! source is told which content not to build on. Memory is one chunk, the recipe of the base and the
//! one that grows, which a run of a few bytes lengthens by all of its chunks: see `bounds` for the most.

use std::ops::Range;
use std::sync::Arc;

use farshore_core::codec::DecodeError;
use farshore_core::recipe::{ChunkId, Extent, FileDigest};
use farshore_proto::op::Piece;

use super::assembly::Assembly;
use super::{HOLE, OpError, Stager};
use crate::catalog::CatalogError;
use crate::io::Storage;

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

    /// Where the first zeros at or after `offset` begin, or all of it ends; known up to `limit`.
    fn data_end(&self, offset: u64, limit: u64) -> u64 {
        let first = self.extents.partition_point(|(at, extent)| at + extent.len() <= offset);
        let mut end = offset;
        for (at, extent) in &self.extents[first..] {
            if end >= limit || matches!(extent, Extent::Zero { .. }) {
                break;
            }
            end = at + extent.len();
        }
        end
    }
}

/// How the bytes of a run come into the file.
#[derive(Clone, Copy)]
enum Way {
    /// Those of chunks that are laid stand there; others are written.
    Laid,
    /// They stand there; what the base says is proof of it, or not.
    Shared { sure: bool },
    /// They are written.
    Written,
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
            None => match self.own.ahead.get(&content) {
                Some(held) => Some(held.recipe.as_ref().clone()),
                None => self.catalog.reader()?.recipe(&content)?,
            },
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
        let content = Self::base_of(assembly)?;
        // Opened first: that may wait for the batch that brings it, and its recipe with it.
        self.hold_basis(content)?;
        let base = self.basis.as_ref().map(|(_, file)| Arc::clone(file));
        let known = base.is_some() && self.hold_parts(content)?;
        let chunks = self.parts.as_ref().filter(|_| known).and_then(|p| p.run(offset, len));
        let (Some(base), Some(chunks)) = (base, chunks) else {
            return self.without(assembly, len, content);
        };
        let way = if self.lay_in_place(assembly, &base, offset, len)? {
            Way::Laid
        } else {
            let shared = self.share(assembly, &base, offset, len)?;
            shared.map_or(Way::Written, |sure| Way::Shared { sure })
        };
        let mut from = offset;
        for (id, len) in chunks {
            self.copy_chunk(assembly, &base, from, way, Extent::Chunk { id, len })?;
            from += u64::from(len);
        }
        Ok(())
    }

    /// Lays the file as its base if what comes next stands at the same place there; whether the next
    /// byte is laid now.
    fn lay_in_place(
        &self,
        assembly: &mut Assembly<S>,
        base: &Arc<S::File>,
        from: u64,
        len: u64,
    ) -> Result<bool, OpError> {
        let at = assembly.offset;
        let Some(parts) = self.parts.as_ref().filter(|_| from == at) else { return Ok(false) };
        if !assembly.laid.covers(base, &(at..at + len)) {
            self.lay(assembly, base, at + len, |from, limit| parts.data_end(from, limit))?;
        }
        Ok(assembly.laid.covers(base, &(at..at + 1)))
    }

    fn copy_chunk(
        &mut self,
        assembly: &mut Assembly<S>,
        base: &Arc<S::File>,
        from: u64,
        way: Way,
        extent: Extent,
    ) -> Result<(), OpError> {
        let Extent::Chunk { id, len } = extent else { return Ok(()) };
        let mut bytes = std::mem::take(&mut self.buf);
        bytes.resize(len as usize, 0);
        let read = match (way, &assembly.file) {
            (Way::Shared { sure: false }, Some((file, _))) => {
                self.storage.read_at(file, assembly.offset, &mut bytes)
            }
            _ => self.storage.read_at(base, from, &mut bytes),
        };
        let stands = match way {
            Way::Laid => {
                assembly.laid.covers(base, &(assembly.offset..assembly.offset + extent.len()))
            }
            Way::Shared { .. } => true,
            Way::Written => false,
        };
        let result = if read.is_ok_and(|n| n == bytes.len()) && ChunkId::of(&bytes) == id {
            self.extent(assembly, extent, (!stands).then_some(&bytes))
        } else {
            let content = assembly.base;
            self.missing(assembly, extent, id, content)
        };
        self.buf = bytes;
        result
    }

    /// Appends a chunk made of pieces of the base and new bytes.
    pub(super) fn patch(
        &mut self,
        assembly: &mut Assembly<S>,
        id: ChunkId,
        pieces: &[Piece<'_>],
    ) -> Result<(), OpError> {
        let content = Self::base_of(assembly)?;
        self.hold_basis(content)?;
        let base = self.basis.as_ref().map(|(_, file)| Arc::clone(file));
        let mut bytes = std::mem::take(&mut self.buf);
        bytes.clear();
        let mut whole = true;
        // What does not stand at the same place in the base.
        let mut changed = Changed::default();
        for piece in pieces {
            let at = bytes.len();
            match piece {
                Piece::New(new) => {
                    bytes.extend_from_slice(new);
                    changed.add(at..bytes.len());
                }
                Piece::Old { offset, len } => {
                    bytes.resize(at + *len as usize, 0);
                    let read = base.as_ref().map_or(Ok(0), |base| {
                        self.storage.read_at(base, *offset, &mut bytes[at..])
                    });
                    whole &= read.is_ok_and(|n| n == *len as usize);
                    if *offset != assembly.offset + at as u64 {
                        changed.add(at..bytes.len());
                    }
                }
            }
        }
        // The decoder saw to it that it is at most CHUNK_LEN_MAX.
        let extent = Extent::Chunk { id, len: u32::try_from(bytes.len()).unwrap_or(u32::MAX) };
        let result = if whole && ChunkId::of(&bytes) == id {
            self.patched(assembly, base.as_ref(), content, extent, &bytes, &changed)
        } else {
            self.missing(assembly, extent, id, Some(content))
        };
        self.buf = bytes;
        result
    }

    /// Appends a chunk that was pieced together: where the file is laid as its base and little of the
    /// chunk changed, that alone is written.
    fn patched(
        &mut self,
        assembly: &mut Assembly<S>,
        base: Option<&Arc<S::File>>,
        content: FileDigest,
        extent: Extent,
        bytes: &[u8],
        changed: &Changed,
    ) -> Result<(), OpError> {
        let at = assembly.offset;
        let range = at..at + extent.len();
        if let Some(base) = base.filter(|_| changed.is_little_of(bytes.len()))
            && extent.len() <= assembly.size - at
            && self.hold_parts(content)?
            && self.lay_in_place(assembly, base, at, extent.len())?
            && assembly.laid.covers(base, &range)
        {
            for part in &changed.0 {
                self.write(assembly, bytes, part.clone())?;
            }
            return self.extent(assembly, extent, None);
        }
        self.extent(assembly, extent, Some(bytes))
    }
}

/// Parts of a chunk, in their order.
#[derive(Default)]
struct Changed(Vec<Range<usize>>);

impl Changed {
    /// Adds a part after all others; those within a block of each other are one.
    fn add(&mut self, part: Range<usize>) {
        match self.0.last_mut() {
            Some(last) if part.start <= last.end + HOLE => last.end = part.end,
            _ => self.0.push(part),
        }
    }

    /// Whether writing the blocks of these parts is less than half of writing all of `len` bytes.
    fn is_little_of(&self, len: usize) -> bool {
        let blocks = |part: &Range<usize>| part.end.div_ceil(HOLE) - part.start / HOLE;
        self.0.iter().map(blocks).sum::<usize>() * 2 * HOLE < len
    }
}

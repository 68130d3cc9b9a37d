//! Content-defined chunking: where a file is cut depends on its bytes alone.
//!
//! A [`Chunker`] is pushed bytes and polled for extents; it holds at most one largest chunk and what
//! was pushed last. Runs of zeros of at least [`limits::ZERO_RUN_MIN`] aligned bytes become zero
//! extents, whether the file has holes there or zeros on disk, so that the recipe does not depend on
//! how a file system stores them; the engine pushes holes without reading them
//! ([`Chunker::push_zeros`]).
//!
//! The cut points are FastCDC's (2020, normalisation 2). A [`ChunkingId`] names one set of
//! parameters for ever: a pair whose sites would cut differently compares ids, not digests.

use crate::codec::{DecodeError, Decoder};
use crate::limits;
use crate::recipe::{ChunkId, Extent};

/// A set of chunking parameters. Numbers are part of the format and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ChunkingId {
    /// FastCDC 2020, normalisation 2, minimum 16 KiB, average 64 KiB, maximum 256 KiB.
    FastCdc64K = 1,
    /// FastCDC 2020, normalisation 2, minimum 64 KiB, average 256 KiB, maximum 1 MiB.
    FastCdc256K = 2,
    /// FastCDC 2020, normalisation 2, minimum 256 KiB, average 1 MiB, maximum 4 MiB.
    FastCdc1M = 3,
}

impl ChunkingId {
    /// The chunking of a file of `size` bytes. A file that grows past a border is sent whole once:
    /// borders lie a factor of 64 apart.
    #[must_use]
    pub fn for_size(size: u64) -> Self {
        const GIB: u64 = 1 << 30;
        match size {
            0..=0x1_0000_0000 => Self::FastCdc64K,
            s if s <= 256 * GIB => Self::FastCdc256K,
            _ => Self::FastCdc1M,
        }
    }

    /// Minimum, average and maximum chunk length in bytes.
    #[must_use]
    pub fn lengths(self) -> (usize, usize, usize) {
        let avg = match self {
            Self::FastCdc64K => 64 << 10,
            Self::FastCdc256K => 256 << 10,
            Self::FastCdc1M => 1 << 20,
        };
        (avg / 4, avg, avg * 4)
    }

    /// Takes an id off the front of `d`.
    ///
    /// # Errors
    /// [`DecodeError`] for a number this version does not know.
    pub fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        match d.take_u8("chunking")? {
            1 => Ok(Self::FastCdc64K),
            2 => Ok(Self::FastCdc256K),
            3 => Ok(Self::FastCdc1M),
            other => Err(DecodeError::Invalid { what: "chunking", found: u64::from(other) }),
        }
    }
}

const _: () = assert!(limits::CHUNK_LEN_MAX == 4 << 20);

/// What a [`Chunker`] yields: an extent and, for a chunk, where its bytes stand in
/// [`Chunker::bytes`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The extent.
    pub extent: Extent,
    /// The chunk's bytes within [`Chunker::bytes`]; empty for zeros.
    pub range: std::ops::Range<usize>,
}

/// The part of a hole `[start, end)` that a recipe shows as zeros: whole aligned blocks of
/// [`limits::ZERO_RUN_MIN`]. The rest of the hole is pushed as data, so that a recipe does not tell
/// holes from zeros on disk. `None` when no block fits.
#[must_use]
pub fn zero_part(start: u64, end: u64) -> Option<std::ops::Range<u64>> {
    let block = limits::ZERO_RUN_MIN;
    let from = start.checked_next_multiple_of(block)?;
    let to = end - end % block;
    (from < to).then_some(from..to)
}

/// Cuts one file. Call [`Self::spare`] and [`Self::filled`] (or [`Self::push_zeros`]) in file order,
/// and [`Self::poll`] until it yields nothing after each; then [`Self::finish`] and poll again.
#[derive(Debug)]
pub struct Chunker {
    id: ChunkingId,
    cdc: Parameters,
    /// Bytes not yet cut start at `start`, end at `end`.
    buf: Vec<u8>,
    start: usize,
    end: usize,
    /// File offset of `buf[start]`.
    offset: u64,
    /// Zeros that follow the bytes in `buf`: whole aligned blocks.
    zeros: u64,
    finished: bool,
}

#[derive(Debug, Clone, Copy)]
struct Parameters {
    min: usize,
    avg: usize,
    max: usize,
}

#[allow(clippy::cast_possible_truncation)] // 64 KiB
const ZERO_BLOCK: usize = limits::ZERO_RUN_MIN as usize;

impl Chunker {
    /// A chunker whose buffer takes `window` bytes beyond one largest chunk.
    #[must_use]
    pub fn new(id: ChunkingId, window: usize) -> Self {
        let (min, avg, max) = id.lengths();
        let len = max + window.max(ZERO_BLOCK);
        let cdc = Parameters { min, avg, max };
        Self { id, cdc, buf: vec![0; len], start: 0, end: 0, offset: 0, zeros: 0, finished: false }
    }

    /// Starts over for another file with the same parameters and buffer.
    pub fn reset(&mut self) {
        self.start = 0;
        self.end = 0;
        self.offset = 0;
        self.zeros = 0;
        self.finished = false;
    }

    /// The parameters.
    #[must_use]
    pub fn id(&self) -> ChunkingId {
        self.id
    }

    /// Room for the next bytes of the file; never empty after [`Self::poll`] yielded nothing.
    pub fn spare(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.buf.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.buf[self.end..]
    }

    /// The first `len` bytes of [`Self::spare`] were filled.
    pub fn filled(&mut self, len: usize) {
        self.end = (self.end + len).min(self.buf.len());
    }

    /// The next `len` bytes of the file are zeros nobody needs to read: a range of [`zero_part`].
    pub fn push_zeros(&mut self, len: u64) {
        self.zeros += len;
    }

    /// No more bytes follow.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// The bytes [`Cut::range`] points into; valid until the next call of [`Self::spare`].
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buf
    }

    /// The next extent, or `None` when more bytes are needed or all are cut. Zero extents may come
    /// in pieces; [`crate::recipe::Recipe::push`] joins them.
    #[allow(clippy::cast_possible_truncation)] // a chunk is at most CHUNK_LEN_MAX
    pub fn poll(&mut self) -> Option<Cut> {
        let data = &self.buf[self.start..self.end];
        if data.is_empty() {
            return self.cut_zeros();
        }
        let closed = self.finished || self.zeros > 0;
        let to_boundary = boundary_distance(self.offset);
        if to_boundary == 0 {
            let blocks = data.chunks_exact(ZERO_BLOCK).take_while(|b| is_zero(b)).count();
            if blocks > 0 {
                let len = blocks * ZERO_BLOCK;
                self.start += len;
                self.offset += len as u64;
                return Some(Cut { extent: Extent::Zero { len: len as u64 }, range: 0..0 });
            }
        }
        // A chunk ends where an aligned zero block begins; whether one begins within the next
        // largest chunk is known only with that block in sight.
        let zero_at = first_zero_block(data, to_boundary);
        if zero_at.is_none() && !closed && data.len() < self.cdc.max + ZERO_BLOCK {
            return None;
        }
        let limit = zero_at.unwrap_or(data.len()).min(self.cdc.max);
        let len = cut_point(self.cdc, &data[..limit]);
        let id = ChunkId::of(&data[..len]);
        let range = self.start..self.start + len;
        self.start += len;
        self.offset += len as u64;
        Some(Cut { extent: Extent::Chunk { id, len: len as u32 }, range })
    }

    fn cut_zeros(&mut self) -> Option<Cut> {
        let len = std::mem::take(&mut self.zeros);
        self.offset += len;
        (len > 0).then_some(Cut { extent: Extent::Zero { len }, range: 0..0 })
    }
}

#[allow(clippy::cast_possible_truncation)] // below 64 KiB
fn boundary_distance(offset: u64) -> usize {
    let past = (offset % limits::ZERO_RUN_MIN) as usize;
    if past == 0 { 0 } else { ZERO_BLOCK - past }
}

fn first_zero_block(data: &[u8], first_boundary: usize) -> Option<usize> {
    let mut at = first_boundary;
    while at + ZERO_BLOCK <= data.len() {
        if is_zero(&data[at..at + ZERO_BLOCK]) {
            return Some(at);
        }
        at += ZERO_BLOCK;
    }
    None
}

fn is_zero(block: &[u8]) -> bool {
    // Most blocks differ in their first bytes; the rest compares as wide as the machine can.
    block.first() == Some(&0) && block[..block.len() - 1] == block[1..]
}

/// The length of the next chunk of `data`, which either ends the file or is longer than one chunk
/// can be.
fn cut_point(p: Parameters, data: &[u8]) -> usize {
    use fastcdc::v2020::{FastCDC, Normalization};
    if data.len() <= p.min {
        return data.len();
    }
    let cdc = FastCDC::with_level(
        &data[..data.len().min(p.max)],
        p.min,
        p.avg,
        p.max,
        Normalization::Level2,
    );
    let (_, cut) = cdc.cut(0, data.len().min(p.max));
    cut
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::recipe::Recipe;

    fn noise(len: usize, mut seed: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = seed;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            out.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
        }
        out.truncate(len);
        out
    }

    /// Chunks `content`, pushing `holes` unread, at most `step` bytes at a time; checks the bytes.
    fn recipe_of(content: &[u8], holes: &[std::ops::Range<u64>], step: usize) -> Recipe {
        let mut chunker = Chunker::new(ChunkingId::FastCdc64K, 256 << 10);
        let mut recipe = Recipe { chunking: chunker.id(), extents: Vec::new() };
        let mut at = 0usize;
        let mut covered = 0usize;
        let mut finished = false;
        loop {
            while let Some(cut) = chunker.poll() {
                if let Extent::Chunk { len, .. } = cut.extent {
                    assert_eq!(
                        chunker.bytes()[cut.range],
                        content[covered..covered + len as usize]
                    );
                }
                covered += cut.extent.len() as usize;
                recipe.push(cut.extent);
            }
            if finished {
                assert_eq!(covered, content.len());
                return recipe;
            }
            if at == content.len() {
                chunker.finish();
                finished = true;
                continue;
            }
            if let Some(hole) = holes.iter().find(|h| h.start == at as u64) {
                chunker.push_zeros(hole.end - hole.start);
                at = hole.end as usize;
                continue;
            }
            let next = holes.iter().map(|h| h.start as usize).filter(|&s| s > at).min();
            let end = next.unwrap_or(content.len());
            let spare = chunker.spare();
            let len = spare.len().min(end - at).min(step);
            spare[..len].copy_from_slice(&content[at..at + len]);
            chunker.filled(len);
            at += len;
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn recipe_depends_on_content_alone(
            parts in prop::collection::vec((any::<bool>(), 1usize..200_000), 1..8), step in 1000usize..400_000
        ) {
            let mut content = Vec::new();
            let mut holes = Vec::new();
            for (i, &(zero, len)) in parts.iter().enumerate() {
                let start = content.len() as u64;
                if zero {
                    content.resize(content.len() + len, 0);
                    holes.extend(zero_part(start, content.len() as u64));
                } else {
                    content.extend(noise(len, i as u64));
                }
            }
            let read = recipe_of(&content, &[], step);
            prop_assert_eq!(&recipe_of(&content, &holes, 1 << 20), &read);
            prop_assert_eq!(read.size(), content.len() as u64);
        }
    }

    #[test]
    fn an_insertion_dirties_few_chunks() {
        let before = noise(8 << 20, 1);
        let mut after = before.clone();
        after.splice(3_000_000..3_000_000, noise(100, 2));
        let old: std::collections::HashSet<_> =
            recipe_of(&before, &[], 1 << 20).extents.into_iter().collect();
        let new = recipe_of(&after, &[], 1 << 20);
        let dirty: u64 = new.extents.iter().filter(|e| !old.contains(e)).map(Extent::len).sum();
        assert!(dirty < 512 << 10, "{dirty} bytes to send for 100 inserted");
    }

    #[test]
    fn a_huge_hole_is_not_read() {
        let mut chunker = Chunker::new(ChunkingId::FastCdc64K, 1 << 20);
        chunker.push_zeros(17 << 40);
        chunker.finish();
        let cut = chunker.poll().expect("one extent");
        assert_eq!(cut.extent, Extent::Zero { len: 17 << 40 });
        assert!(chunker.poll().is_none());
    }
}

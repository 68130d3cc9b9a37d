//! Content-defined chunking: where a file is cut depends on its bytes alone.
//!
//! A [`Chunker`] is pushed bytes and polled for extents; it holds at most one largest chunk and what
//! was pushed last. Runs of zeros of at least [`limits::ZERO_RUN_MIN`] aligned bytes become zero
//! extents, whether the file has holes there or zeros on disk, so that the recipe does not depend on
//! how a file system stores them; the engine pushes holes without reading them
//! ([`Chunker::push_zeros`]).
//!
//! New files are cut by an own search ([`gear`]), files that a pair has had for long by FastCDC. A
//! [`ChunkingId`] names one algorithm and its parameters for ever: whoever replaces a version that was
//! cut by another one goes on with that ([`ChunkingId::next`]), so that the versions share chunks.

use crate::codec::{DecodeError, Decoder};
use crate::limits;
use crate::recipe::{ChunkId, Extent};

mod gear;

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
    /// The search of [`gear`], minimum 16 KiB, average 64 KiB, maximum 256 KiB.
    Gear64K = 4,
    /// The search of [`gear`], minimum 64 KiB, average 256 KiB, maximum 1 MiB.
    Gear256K = 5,
    /// The search of [`gear`], minimum 256 KiB, average 1 MiB, maximum 4 MiB.
    Gear1M = 6,
}

/// How cut points are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    FastCdc,
    Gear,
}

impl ChunkingId {
    /// The chunking of a new file of `size` bytes. A file that grows past a border is sent whole once:
    /// borders lie a factor of 64 apart.
    #[must_use]
    pub fn for_size(size: u64) -> Self {
        Self::of(Algorithm::Gear, size)
    }

    /// The chunking of a version of `size` bytes that replaces one cut by this chunking.
    #[must_use]
    pub fn next(self, size: u64) -> Self {
        Self::of(self.algorithm(), size)
    }

    /// Whether new files are no longer cut by it.
    #[must_use]
    pub fn is_older(self) -> bool {
        self.algorithm() == Algorithm::FastCdc
    }

    /// Every chunking that may have cut a file of `size` bytes, the likeliest first: to be tried where
    /// a digest is known and its recipe is not.
    #[must_use]
    pub fn possible(size: u64) -> [Self; 2] {
        [Algorithm::Gear, Algorithm::FastCdc].map(|algorithm| Self::of(algorithm, size))
    }

    fn of(algorithm: Algorithm, size: u64) -> Self {
        const GIB: u64 = 1 << 30;
        let [small, medium, large] = match algorithm {
            Algorithm::FastCdc => [Self::FastCdc64K, Self::FastCdc256K, Self::FastCdc1M],
            Algorithm::Gear => [Self::Gear64K, Self::Gear256K, Self::Gear1M],
        };
        match size {
            s if s <= 4 * GIB => small,
            s if s <= 256 * GIB => medium,
            _ => large,
        }
    }

    fn algorithm(self) -> Algorithm {
        match self {
            Self::FastCdc64K | Self::FastCdc256K | Self::FastCdc1M => Algorithm::FastCdc,
            Self::Gear64K | Self::Gear256K | Self::Gear1M => Algorithm::Gear,
        }
    }

    /// Minimum, average and maximum chunk length in bytes.
    #[must_use]
    pub fn lengths(self) -> (usize, usize, usize) {
        let avg = match self {
            Self::FastCdc64K | Self::Gear64K => 64 << 10,
            Self::FastCdc256K | Self::Gear256K => 256 << 10,
            Self::FastCdc1M | Self::Gear1M => 1 << 20,
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
            4 => Ok(Self::Gear64K),
            5 => Ok(Self::Gear256K),
            6 => Ok(Self::Gear1M),
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
    window: usize,
    /// Bytes not yet cut start at `start`, end at `end`.
    buf: Vec<u8>,
    start: usize,
    end: usize,
    /// File offset of `buf[start]`.
    offset: u64,
    /// Zeros that follow the bytes in `buf`: whole aligned blocks.
    zeros: u64,
    finished: bool,
    search: gear::Search,
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
    /// A chunker that asks for about `window` bytes at a time.
    #[must_use]
    pub fn new(id: ChunkingId, window: usize) -> Self {
        let (min, avg, max) = id.lengths();
        let cdc = Parameters { min, avg, max };
        // FastCDC cuts with a largest chunk in sight: what is left is moved to the front seldom.
        let room = match id.algorithm() {
            Algorithm::FastCdc => window.max(max),
            Algorithm::Gear => window,
        };
        let buf = vec![0; max + ZERO_BLOCK + room];
        let search = gear::Search::default();
        let (start, end, offset, zeros, finished) = (0, 0, 0, 0, false);
        Self { id, cdc, window, buf, start, end, offset, zeros, finished, search }
    }

    /// Starts over for another file with the same parameters and buffer.
    pub fn reset(&mut self) {
        self.start = 0;
        self.end = 0;
        self.offset = 0;
        self.zeros = 0;
        self.finished = false;
        self.search = gear::Search::default();
    }

    /// The parameters.
    #[must_use]
    pub fn id(&self) -> ChunkingId {
        self.id
    }

    /// Room for the next bytes of the file; never empty after [`Self::poll`] yielded nothing.
    pub fn spare(&mut self) -> &mut [u8] {
        let left = self.end - self.start;
        if self.start > 0 && (self.start >= left || self.buf.len() - self.end < self.window) {
            self.buf.copy_within(self.start..self.end, 0);
            self.end = left;
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
        // A chunk ends where an aligned zero block begins.
        let zero_at = first_zero_block(data, to_boundary);
        let len = match self.id.algorithm() {
            Algorithm::FastCdc => {
                // Whether one begins within the next largest chunk is known only with that block in
                // sight.
                if zero_at.is_none() && !closed && data.len() < self.cdc.max + ZERO_BLOCK {
                    return None;
                }
                let limit = zero_at.unwrap_or(data.len()).min(self.cdc.max);
                cut_point(self.cdc, &data[..limit])
            }
            Algorithm::Gear => {
                let complete = closed || zero_at.is_some();
                let open = || perhaps_zero_block(data, to_boundary).filter(|_| !closed);
                let seen = zero_at.or_else(open).unwrap_or(data.len());
                self.search.find(self.cdc, &data[..seen], complete)?
            }
        };
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

/// Where a zero block may begin whose end is not in sight.
fn perhaps_zero_block(data: &[u8], first_boundary: usize) -> Option<usize> {
    let past = data.len().checked_sub(first_boundary)? % ZERO_BLOCK;
    let at = data.len() - past;
    is_zero(&data[at..]).then_some(at)
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
mod tests;

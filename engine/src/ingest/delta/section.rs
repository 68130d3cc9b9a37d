//! A stretch of fresh chunks while it is found out what of it is old, and the operations it becomes.
//!
//! Guarantees: its operations stand for its bytes, one operation a chunk, whatever was found.

use std::ops::Range;

use farshore_core::delta::Found;
use farshore_core::limits::PATCH_PIECES_MAX;
use farshore_core::recipe::{ChunkId, FileDigest};
use farshore_proto::op::{Op, Piece};

pub(super) enum Stage {
    /// Waits for so many answers about its gap.
    Coarse(u32),
    /// Waits for these.
    Fine(Vec<Part>),
    Ready,
}

/// New bytes that were not found, and old ones they may resemble.
pub(super) struct Part {
    /// Which of the section's pieces it is.
    pub(super) piece: usize,
    pub(super) new: Range<usize>,
    pub(super) old: Range<u64>,
    pub(super) ticket: u64,
}

/// Fresh chunks of one gap.
pub(in crate::ingest) struct Section {
    pub(super) gap: u64,
    pub(super) content: FileDigest,
    /// Where its first byte is in the gap's new bytes.
    pub(super) at: u64,
    /// What stands behind it in the old content, where that is known.
    pub(super) next: Option<u64>,
    pub(super) chunks: Vec<(ChunkId, usize)>,
    pub(super) bytes: Vec<u8>,
    pub(super) stage: Stage,
    pub(super) found: Vec<Found>,
}

impl Section {
    pub(super) fn new(gap: u64, content: FileDigest, at: u64) -> Self {
        let stage = Stage::Coarse(0);
        let (chunks, bytes, found) = (Vec::new(), Vec::new(), Vec::new());
        Self { gap, content, at, next: None, chunks, bytes, stage, found }
    }

    pub(in crate::ingest) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// What it may be patched from.
    pub(in crate::ingest) fn content(&self) -> FileDigest {
        self.content
    }

    pub(in crate::ingest) fn is_ready(&self) -> bool {
        matches!(self.stage, Stage::Ready)
    }

    pub(in crate::ingest) fn has_copies(&self) -> bool {
        self.found.iter().any(|f| matches!(f, Found::Old { .. }))
    }

    /// No more is found out about it.
    pub(in crate::ingest) fn settle(&mut self) {
        if matches!(self.stage, Stage::Coarse(_)) {
            self.found = vec![Found::New(0..self.bytes.len())];
        }
        self.stage = Stage::Ready;
    }

    /// One operation for each chunk.
    pub(in crate::ingest) fn ops(&self) -> impl Iterator<Item = Op<'_>> {
        let mut start = 0;
        let mut pieces = Pieces { found: &self.found, used: 0, at: 0 };
        self.chunks.iter().map(move |&(id, len)| {
            let bytes = &self.bytes[start..start + len];
            start += len;
            let pieces = pieces.take(len, &self.bytes);
            let old = pieces.iter().any(|p| matches!(p, Piece::Old { .. }));
            if old && pieces.len() <= PATCH_PIECES_MAX {
                Op::Patch { id, pieces }
            } else {
                Op::Literal { bytes }
            }
        })
    }
}

/// What was found, cut where chunks are.
struct Pieces<'a> {
    found: &'a [Found],
    /// Bytes of the first that were taken.
    used: usize,
    /// New bytes that were taken.
    at: usize,
}

impl<'a> Pieces<'a> {
    /// A copy is a few bytes itself.
    const COPY_MIN: usize = 16;

    fn take(&mut self, len: usize, bytes: &'a [u8]) -> Vec<Piece<'a>> {
        let mut pieces = Vec::new();
        let end = self.at + len;
        let mut literal = self.at;
        while self.at < end {
            let Some((first, rest)) = self.found.split_first() else { break };
            let part = (first.len() - self.used).min(end - self.at);
            if let Found::Old { offset, .. } = first
                && part >= Self::COPY_MIN
            {
                if literal < self.at {
                    pieces.push(Piece::New(&bytes[literal..self.at]));
                }
                let (offset, len) = (offset + self.used as u64, u32::try_from(part).unwrap_or(0));
                pieces.push(Piece::Old { offset, len });
                literal = self.at + part;
            }
            self.at += part;
            self.used += part;
            if self.used == first.len() {
                (self.found, self.used) = (rest, 0);
            }
        }
        if literal < end {
            pieces.push(Piece::New(&bytes[literal..end]));
        }
        pieces
    }
}

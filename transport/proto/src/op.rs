//! Operations: what a batch asks the target to do.
//!
//! A deletion is an operation of its own with the expected former state; nothing is ever deleted
//! because it was not named. Content comes inline for small files, else as extents between
//! [`Op::Begin`] and [`Op::End`]: literal bytes, or a stretch of content the target already holds.

use farshore_core::chunking::ChunkingId;
use farshore_core::codec::{DecodeError, Decoder, Encoder};
use farshore_core::entry::{Entry, EntryDigest, EntryKind, decode_path};
use farshore_core::limits;
use farshore_core::path::RelPath;
use farshore_core::recipe::{ChunkId, FileDigest};

/// A piece of a patched chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A stretch of the base.
    Old {
        /// Where in it, in bytes.
        offset: u64,
        /// Length in bytes, at least 1.
        len: u32,
    },
    /// These bytes, at least one.
    New(&'a [u8]),
}

impl Piece<'_> {
    /// Bytes it stands for.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Old { len, .. } => *len as usize,
            Self::New(bytes) => bytes.len(),
        }
    }

    /// Whether it stands for none; a valid piece never does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One operation. Byte slices borrow from the frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op<'a> {
    /// The entry at `path` is gone; a directory is empty by now.
    Remove {
        /// Where.
        path: RelPath,
        /// What is expected there; anything else is kept in history all the same and reported.
        expected: EntryDigest,
    },
    /// An entry without content: directory, link, node. A directory that exists keeps what it holds.
    Put {
        /// Where.
        path: RelPath,
        /// What.
        entry: Entry,
    },
    /// A small file with its bytes.
    Small {
        /// Where.
        path: RelPath,
        /// A [`Entry::File`].
        entry: Entry,
        /// All of its content.
        bytes: &'a [u8],
    },
    /// A file whose whole content the target holds already.
    Reuse {
        /// Where.
        path: RelPath,
        /// A [`Entry::File`].
        entry: Entry,
    },
    /// A file or node that moved, with its facts after the move.
    Move {
        /// Where it was.
        from: RelPath,
        /// What is expected there.
        expected: EntryDigest,
        /// Where it is now.
        to: RelPath,
        /// What it is now.
        entry: Entry,
    },
    /// New owner, mode, times or attributes; the content stays.
    Meta {
        /// Where.
        path: RelPath,
        /// The entry after the change.
        entry: Entry,
    },
    /// A larger file begins.
    Begin {
        /// Where.
        path: RelPath,
        /// Its expected length in bytes.
        size: u64,
        /// Whether it has holes at the source.
        sparse: bool,
    },
    /// The next bytes of the file: one chunk.
    Literal {
        /// The chunk.
        bytes: &'a [u8],
    },
    /// The next chunk of the file stands in content the target holds.
    Copy {
        /// That content.
        from: FileDigest,
        /// Where in it, in bytes.
        offset: u64,
        /// The chunk's length in bytes.
        len: u32,
        /// The chunk's digest.
        id: ChunkId,
    },
    /// The next bytes are zeros.
    Zero {
        /// How many.
        len: u64,
    },
    /// The file is complete.
    End {
        /// A [`Entry::File`] with the digest of the recipe just sent.
        entry: Entry,
        /// The chunking of that recipe.
        chunking: ChunkingId,
    },
    /// The file begun last changed while it was read: forget it.
    Abort,
    /// The batch is complete.
    Close {
        /// Operations before this one.
        ops: u64,
    },
    /// Since version 2. What the operations after it, up to the end of the file or the next of this
    /// kind, copy from.
    Base {
        /// Content the target holds.
        content: FileDigest,
    },
    /// Since version 2. The next chunks are those of the base from `offset` on: whole extents of its
    /// recipe, none of them zeros.
    CopyRun {
        /// Where in the base, in bytes.
        offset: u64,
        /// Their length together, in bytes.
        len: u64,
    },
    /// Since version 2. The next chunk, made of pieces of the base and new bytes.
    Patch {
        /// The chunk's digest.
        id: ChunkId,
        /// Together at most [`limits::CHUNK_LEN_MAX`] bytes.
        pieces: Vec<Piece<'a>>,
    },
}

impl Op<'_> {
    /// Appends the encoding.
    pub fn encode(&self, e: &mut Encoder) {
        match self {
            Op::Remove { path, expected } => {
                e.put_u8(1);
                e.put_bytes(path.as_bytes());
                e.put_raw(&expected.0);
            }
            Op::Put { path, entry } => {
                e.put_u8(2);
                e.put_bytes(path.as_bytes());
                entry.encode(e);
            }
            Op::Small { path, entry, bytes } => {
                e.put_u8(3);
                e.put_bytes(path.as_bytes());
                entry.encode(e);
                e.put_bytes(bytes);
            }
            Op::Reuse { path, entry } => {
                e.put_u8(4);
                e.put_bytes(path.as_bytes());
                entry.encode(e);
            }
            Op::Move { from, expected, to, entry } => {
                e.put_u8(5);
                e.put_bytes(from.as_bytes());
                e.put_raw(&expected.0);
                e.put_bytes(to.as_bytes());
                entry.encode(e);
            }
            Op::Meta { path, entry } => {
                e.put_u8(6);
                e.put_bytes(path.as_bytes());
                entry.encode(e);
            }
            Op::Begin { path, size, sparse } => {
                e.put_u8(7);
                e.put_bytes(path.as_bytes());
                e.put_u64(*size);
                e.put_u8(u8::from(*sparse));
            }
            Op::Literal { bytes } => {
                e.put_u8(8);
                e.put_bytes(bytes);
            }
            Op::Copy { from, offset, len, id } => {
                e.put_u8(9);
                e.put_raw(&from.0);
                e.put_u64(*offset);
                e.put_u64(u64::from(*len));
                e.put_raw(&id.0);
            }
            Op::Zero { len } => {
                e.put_u8(10);
                e.put_u64(*len);
            }
            Op::End { entry, chunking } => {
                e.put_u8(11);
                entry.encode(e);
                e.put_u8(*chunking as u8);
            }
            Op::Abort => e.put_u8(12),
            Op::Close { ops } => {
                e.put_u8(13);
                e.put_u64(*ops);
            }
            Op::Base { content } => {
                e.put_u8(14);
                e.put_raw(&content.0);
            }
            Op::CopyRun { offset, len } => {
                e.put_u8(15);
                e.put_u64(*offset);
                e.put_u64(*len);
            }
            Op::Patch { id, pieces } => {
                e.put_u8(16);
                e.put_raw(&id.0);
                encode_pieces(pieces, e);
            }
        }
    }

    /// Takes one operation off the front of `d`.
    ///
    /// # Errors
    /// [`DecodeError`], whatever the bytes are.
    #[allow(clippy::cast_possible_truncation)] // within the bounds just checked
    pub fn decode<'a>(d: &mut Decoder<'a>) -> Result<Op<'a>, DecodeError> {
        Ok(match d.take_u8("operation")? {
            1 => Op::Remove {
                path: below_root(d, "removed path")?,
                expected: EntryDigest(d.take_array("expected state")?),
            },
            2 => {
                let path = decode_path(d, "path")?;
                let entry = Entry::decode(d)?;
                if path.is_root() && entry.kind() != EntryKind::Directory {
                    return Err(DecodeError::Invalid { what: "root entry", found: 0 });
                }
                Op::Put { path, entry }
            }
            3 => Op::Small {
                path: below_root(d, "path")?,
                entry: file_entry(d)?,
                bytes: d.take_bytes("small file", limits::SMALL_FILE_MAX as usize)?,
            },
            4 => Op::Reuse { path: below_root(d, "path")?, entry: file_entry(d)? },
            5 => Op::Move {
                from: below_root(d, "former path")?,
                expected: EntryDigest(d.take_array("expected state")?),
                to: below_root(d, "path")?,
                entry: Entry::decode(d)?,
            },
            6 => Op::Meta { path: decode_path(d, "path")?, entry: Entry::decode(d)? },
            7 => Op::Begin {
                path: below_root(d, "path")?,
                size: d.take_bounded("file size", limits::FILE_SIZE_MAX)?,
                sparse: d.take_bounded("sparse flag", 1)? == 1,
            },
            8 => Op::Literal { bytes: d.take_bytes("chunk", limits::CHUNK_LEN_MAX)? },
            9 => Op::Copy {
                from: FileDigest(d.take_array("basis")?),
                offset: d.take_bounded("basis offset", limits::FILE_SIZE_MAX)?,
                len: d.take_bounded("chunk length", limits::CHUNK_LEN_MAX as u64)? as u32,
                id: ChunkId(d.take_array("chunk id")?),
            },
            10 => Op::Zero { len: d.take_bounded("zeros", limits::FILE_SIZE_MAX)? },
            11 => Op::End { entry: file_entry(d)?, chunking: ChunkingId::decode(d)? },
            12 => Op::Abort,
            13 => Op::Close { ops: d.take_u64("operations")? },
            14 => Op::Base { content: FileDigest(d.take_array("base")?) },
            15 => Op::CopyRun {
                offset: d.take_bounded("base offset", limits::FILE_SIZE_MAX)?,
                len: d.take_bounded("run length", limits::FILE_SIZE_MAX)?,
            },
            16 => Op::Patch { id: ChunkId(d.take_array("chunk id")?), pieces: decode_pieces(d)? },
            other => {
                return Err(DecodeError::Invalid { what: "operation", found: u64::from(other) });
            }
        })
    }
}

/// A piece of the base is a length, even, and where it begins counted from the end of the one before;
/// new bytes are a length, odd, and the bytes.
#[allow(clippy::cast_possible_wrap)] // offsets of files are below 2^63
fn encode_pieces(pieces: &[Piece<'_>], e: &mut Encoder) {
    e.put_u64(pieces.len() as u64);
    let mut cursor = 0u64;
    for piece in pieces {
        match piece {
            Piece::Old { offset, len } => {
                e.put_u64(u64::from(*len) << 1);
                e.put_i64((*offset as i64).wrapping_sub(cursor as i64));
                cursor = offset.saturating_add(u64::from(*len));
            }
            Piece::New(bytes) => {
                e.put_u64((bytes.len() as u64) << 1 | 1);
                e.put_raw(bytes);
            }
        }
    }
}

fn decode_pieces<'a>(d: &mut Decoder<'a>) -> Result<Vec<Piece<'a>>, DecodeError> {
    let count = d.take_len("patch pieces", limits::PATCH_PIECES_MAX)?;
    let mut pieces = Vec::new();
    let (mut cursor, mut total) = (0u64, 0usize);
    for _ in 0..count {
        let tagged = d.take_len("patch piece", 2 * limits::CHUNK_LEN_MAX + 1)?;
        let len = tagged >> 1;
        total += len;
        if len == 0 {
            return Err(DecodeError::Invalid { what: "patch piece", found: 0 });
        }
        if total > limits::CHUNK_LEN_MAX {
            let (found, limit) = (total as u64, limits::CHUNK_LEN_MAX as u64);
            return Err(DecodeError::LimitExceeded { what: "patched chunk", found, limit });
        }
        if tagged & 1 == 1 {
            pieces.push(Piece::New(d.take_raw("patch piece", len)?));
            continue;
        }
        let moved = d.take_i64("patch offset")?;
        let offset = cursor.checked_add_signed(moved).filter(|&o| o <= limits::FILE_SIZE_MAX);
        let offset = offset.ok_or(DecodeError::Invalid { what: "patch offset", found: cursor })?;
        cursor = offset + len as u64;
        let len = u32::try_from(len)
            .map_err(|_| DecodeError::Invalid { what: "patch piece", found: 0 })?;
        pieces.push(Piece::Old { offset, len });
    }
    Ok(pieces)
}

fn below_root(d: &mut Decoder<'_>, what: &'static str) -> Result<RelPath, DecodeError> {
    let path = decode_path(d, what)?;
    if path.is_root() {
        return Err(DecodeError::Invalid { what, found: 0 });
    }
    Ok(path)
}

fn file_entry(d: &mut Decoder<'_>) -> Result<Entry, DecodeError> {
    let entry = Entry::decode(d)?;
    if entry.kind() != EntryKind::File {
        return Err(DecodeError::Invalid { what: "file entry", found: entry.kind() as u64 });
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use farshore_core::entry::Metadata;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn operations_round_trip_and_truncations_do_not() {
        let path = || RelPath::new(*b"acct/in/x").expect("valid");
        let file = || Entry::File {
            size: 3,
            content: FileDigest::of_small(b"abc"),
            meta: Metadata::default(),
        };
        let dir = Entry::Directory { meta: Metadata::default() };
        let ops = [
            Op::Remove { path: path(), expected: file().digest() },
            Op::Put { path: RelPath::root(), entry: dir.clone() },
            Op::Small { path: path(), entry: file(), bytes: b"abc" },
            Op::Reuse { path: path(), entry: file() },
            Op::Move { from: path(), expected: dir.digest(), to: path(), entry: file() },
            Op::Meta { path: path(), entry: dir },
            Op::Begin { path: path(), size: 1 << 40, sparse: true },
            Op::Literal { bytes: b"data" },
            Op::Copy { from: FileDigest([1; 32]), offset: 9, len: 8, id: ChunkId([2; 32]) },
            Op::Zero { len: 1 << 40 },
            Op::End { entry: file(), chunking: ChunkingId::FastCdc64K },
            Op::Abort,
            Op::Close { ops: 11 },
            Op::Base { content: FileDigest([3; 32]) },
            Op::CopyRun { offset: 1 << 40, len: 1 << 33 },
            Op::Patch {
                id: ChunkId([4; 32]),
                pieces: vec![
                    Piece::Old { offset: 1 << 40, len: 4_096 },
                    Piece::New(b"between"),
                    Piece::Old { offset: 7, len: 4 << 20 >> 1 },
                ],
            },
        ];
        for op in ops {
            let mut e = Encoder::new();
            op.encode(&mut e);
            let bytes = e.finish();
            assert_eq!(Op::decode(&mut Decoder::new(&bytes)), Ok(op.clone()));
            for len in 0..bytes.len() {
                assert!(
                    Op::decode(&mut Decoder::new(&bytes[..len])).is_err(),
                    "{op:?} cut to {len}"
                );
            }
        }
    }

    fn patch(pieces: &[(u64, i64)]) -> Vec<u8> {
        let mut e = Encoder::new();
        e.put_u8(16);
        e.put_raw(&[0; 32]);
        e.put_u64(pieces.len() as u64);
        for &(tagged, moved) in pieces {
            e.put_u64(tagged);
            e.put_i64(moved);
        }
        e.finish()
    }

    #[test]
    fn patches_beyond_their_bounds_are_refused() {
        let decode = |bytes: &[u8]| Op::decode(&mut Decoder::new(bytes)).map(|_| ());
        let half = 2 * (limits::CHUNK_LEN_MAX as u64 / 2);
        assert_eq!(decode(&patch(&[(half, 0), (half, 0)])), Ok(()));
        assert!(decode(&patch(&[(half, 0), (half, 0), (2, 0)])).is_err(), "longer than a chunk");
        assert!(decode(&patch(&[(0, 0)])).is_err(), "empty piece");
        assert!(decode(&patch(&[(2, -1)])).is_err(), "before the base");
        assert!(decode(&patch(&[(2, i64::MAX), (2, 1)])).is_err(), "beyond every file");
        assert!(decode(&patch(&vec![(2, 0); limits::PATCH_PIECES_MAX + 1])).is_err(), "too many");
    }

    proptest! {
        #[test]
        fn any_bytes_are_operations_or_refused(bytes: Vec<u8>) {
            let mut d = Decoder::new(&bytes);
            while Op::decode(&mut d).is_ok() {}
        }
    }

    #[test]
    fn the_root_is_never_removed_or_replaced() {
        let mut e = Encoder::new();
        Op::Remove { path: RelPath::root(), expected: EntryDigest([0; 32]) }.encode(&mut e);
        let bytes = e.finish();
        assert!(Op::decode(&mut Decoder::new(&bytes)).is_err());
    }
}

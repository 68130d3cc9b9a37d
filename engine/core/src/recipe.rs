//! Recipes: the ordered extents that rebuild one file.
//!
//! A recipe is a function of the content and of the chunking alone: two files with the same bytes
//! have the same recipe and so the same [`FileDigest`], whatever holes they have on disk. Content is
//! read and hashed once: the digest of a file of several extents is BLAKE3 over its encoded recipe,
//! the digest of a file of one chunk is that chunk's.

use std::fmt;

use crate::chunking::ChunkingId;
use crate::codec::{DecodeError, Decoder, Encoder};
use crate::limits;

/// BLAKE3 of a chunk's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkId(pub [u8; 32]);

impl ChunkId {
    /// Hashes `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0[..8], f)
    }
}

/// The digest of a file's content (see the module).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileDigest(pub [u8; 32]);

impl FileDigest {
    /// The digest of a file small enough to be one chunk: BLAKE3 of its bytes.
    #[must_use]
    pub fn of_small(bytes: &[u8]) -> Self {
        Self(ChunkId::of(bytes).0)
    }
}

impl fmt::Display for FileDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0[..8], f)
    }
}

/// Writes lowercase hexadecimal.
///
/// # Errors
/// Those of `f`.
pub fn hex(bytes: &[u8], f: &mut impl fmt::Write) -> fmt::Result {
    bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
}

/// The digest that [`hex`] wrote as `text`; `None` when it writes no digest so.
#[must_use]
pub fn digest_from_hex(text: &str) -> Option<[u8; 32]> {
    let lower = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    if text.len() != 64 || !text.bytes().all(lower) {
        return None;
    }
    let mut digest = [0; 32];
    for (at, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(digest)
}

/// One stretch of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Extent {
    /// A chunk of data.
    Chunk {
        /// Its digest.
        id: ChunkId,
        /// Its length in bytes, at least 1.
        len: u32,
    },
    /// Zero bytes: whole aligned blocks of [`limits::ZERO_RUN_MIN`].
    Zero {
        /// How many.
        len: u64,
    },
}

impl Extent {
    /// Bytes of the file this extent stands for.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Chunk { len, .. } => u64::from(*len),
            Self::Zero { len } => *len,
        }
    }

    /// Whether it stands for no bytes; a valid extent never does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The extents of one file in order, and the chunking that cut them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// Which chunking cut the file.
    pub chunking: ChunkingId,
    /// The extents; empty for an empty file.
    pub extents: Vec<Extent>,
}

impl Recipe {
    /// Appends an extent; zeros that follow zeros join them.
    pub fn push(&mut self, extent: Extent) {
        match (self.extents.last_mut(), extent) {
            (Some(Extent::Zero { len }), Extent::Zero { len: more }) => *len += more,
            _ => self.extents.push(extent),
        }
    }

    /// The file's length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.extents.iter().map(Extent::len).sum()
    }

    /// The file's digest.
    #[must_use]
    pub fn digest(&self) -> FileDigest {
        match self.extents.as_slice() {
            [] => FileDigest::of_small(&[]),
            [Extent::Chunk { id, .. }] => FileDigest(id.0),
            _ => FileDigest(*blake3::hash(&self.to_bytes()).as_bytes()),
        }
    }

    /// Appends the encoding.
    pub fn encode(&self, e: &mut Encoder) {
        e.put_u8(self.chunking as u8);
        e.put_u64(self.extents.len() as u64);
        for extent in &self.extents {
            match extent {
                Extent::Chunk { id, len } => {
                    e.put_u64(u64::from(*len) << 1);
                    e.put_raw(&id.0);
                }
                Extent::Zero { len } => e.put_u64(len << 1 | 1),
            }
        }
    }

    /// The encoding as a buffer.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        self.encode(&mut e);
        e.finish()
    }

    /// Takes one recipe off the front of `d`.
    ///
    /// # Errors
    /// [`DecodeError`], whatever the bytes are.
    pub fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Self::decode_within(d, limits::RECIPE_EXTENTS_MAX)
    }

    /// The same, of at most so many extents: in memory zeros take many times what encodes them.
    ///
    /// # Errors
    /// [`DecodeError`], whatever the bytes are.
    pub fn decode_within(d: &mut Decoder<'_>, extents_max: usize) -> Result<Self, DecodeError> {
        let chunking = ChunkingId::decode(d)?;
        let count = d.take_len("recipe extents", extents_max)?;
        let mut extents = Vec::new();
        let mut size = 0u64;
        for _ in 0..count {
            let tagged = d.take_u64("extent")?;
            let extent = if tagged & 1 == 1 {
                Extent::Zero { len: tagged >> 1 }
            } else {
                let len = tagged >> 1;
                let id = ChunkId(d.take_array("chunk id")?);
                let len = u32::try_from(len)
                    .ok()
                    .filter(|&l| l as usize <= limits::CHUNK_LEN_MAX)
                    .ok_or(DecodeError::LimitExceeded {
                        what: "chunk length",
                        found: len,
                        limit: limits::CHUNK_LEN_MAX as u64,
                    })?;
                Extent::Chunk { id, len }
            };
            size = size.checked_add(extent.len()).filter(|&s| s <= limits::FILE_SIZE_MAX).ok_or(
                DecodeError::LimitExceeded {
                    what: "recipe size",
                    found: u64::MAX,
                    limit: limits::FILE_SIZE_MAX,
                },
            )?;
            if extent.is_empty() {
                return Err(DecodeError::Invalid { what: "extent length", found: 0 });
            }
            extents.push(extent);
        }
        Ok(Self { chunking, extents })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn recipes_round_trip(parts in prop::collection::vec((any::<bool>(), 1u32..1 << 20), 0..40)) {
            let extents = parts.iter().map(|&(zero, len)| if zero {
                Extent::Zero { len: u64::from(len) }
            } else {
                Extent::Chunk { id: ChunkId::of(&len.to_le_bytes()), len }
            }).collect();
            let recipe = Recipe { chunking: ChunkingId::FastCdc64K, extents };
            let bytes = recipe.to_bytes();
            prop_assert_eq!(Recipe::decode(&mut Decoder::new(&bytes)), Ok(recipe));
        }

        #[test]
        fn any_bytes_are_a_recipe_or_refused(bytes: Vec<u8>) {
            let _decoded_or_refused = Recipe::decode(&mut Decoder::new(&bytes)).is_ok();
        }
    }

    #[test]
    fn a_recipe_of_more_extents_than_any_has_is_refused() {
        let recipe = |count: usize| {
            let mut e = Encoder::new();
            e.put_u8(ChunkingId::FastCdc64K as u8);
            e.put_u64(count as u64);
            (0..count.min(3)).for_each(|_| e.put_u64(1 << 1 | 1));
            e.finish()
        };
        let within = |count, max| Recipe::decode_within(&mut Decoder::new(&recipe(count)), max);
        assert_eq!(within(3, 3).map(|recipe| recipe.extents.len()), Ok(3));
        let is_refused = |found| matches!(found, Err(DecodeError::LimitExceeded { .. }));
        assert!(is_refused(within(3, 2)));
        let above = recipe(limits::RECIPE_EXTENTS_MAX + 1);
        assert!(is_refused(Recipe::decode(&mut Decoder::new(&above))), "before any is read");
    }

    #[test]
    fn a_file_of_one_chunk_has_the_digest_of_its_bytes() {
        let id = ChunkId::of(b"payload");
        let recipe = Recipe {
            chunking: ChunkingId::FastCdc64K,
            extents: vec![Extent::Chunk { id, len: 7 }],
        };
        assert_eq!(recipe.digest(), FileDigest::of_small(b"payload"));
    }
}

//! The digest tree: one digest a directory, and the root digest R of a recovery point.
//!
//! A directory's digest covers the name and the encoding of each child in order and, for a child
//! that is a directory, that directory's digest. So R covers every replicated fact of every entry,
//! and two trees with different roots are compared by descending only where digests differ. A wide
//! directory is compared by buckets of its names first.

use std::fmt;

use crate::entry::Entry;
use crate::path::RelPath;
use crate::recipe::hex;

/// Digest of what lies below one directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DirectoryDigest(pub [u8; 32]);

/// Digest of a whole share: the root's own entry and its directory digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RootDigest(pub [u8; 32]);

impl fmt::Display for RootDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

/// Buckets a wide directory is compared by.
pub const BUCKETS: usize = 256;

/// The bucket of a child's name.
#[must_use]
pub fn bucket_of(name: &[u8]) -> u8 {
    blake3::hash(name).as_bytes()[0]
}

/// Builds a directory's digest from its children in name order.
#[derive(Debug, Clone)]
pub struct DirectoryHasher {
    hasher: blake3::Hasher,
    /// Children not hashed yet: many at once cost a fraction of what each of their few bytes would by itself.
    held: Vec<u8>,
}

/// Bytes of children that are hashed at once.
const HELD: usize = 16 << 10;

impl Default for DirectoryHasher {
    fn default() -> Self {
        let hasher = blake3::Hasher::new_derive_key("farshore directory digest v1");
        Self { hasher, held: Vec::new() }
    }
}

impl DirectoryHasher {
    /// Adds a child: its name, its encoded entry, and its digest if it is a directory.
    pub fn add(&mut self, name: &[u8], encoded: &[u8], below: Option<&DirectoryDigest>) {
        self.held.extend_from_slice(&(name.len() as u64).to_le_bytes());
        self.held.extend_from_slice(name);
        self.held.extend_from_slice(&(encoded.len() as u64).to_le_bytes());
        self.held.extend_from_slice(encoded);
        if let Some(below) = below {
            self.held.extend_from_slice(&below.0);
        }
        if self.held.len() >= HELD {
            self.hasher.update(&self.held);
            self.held.clear();
        }
    }

    /// The digest; the next child begins another directory.
    pub fn finish(&mut self) -> DirectoryDigest {
        self.hasher.update(&self.held);
        let digest = DirectoryDigest(*self.hasher.finalize().as_bytes());
        self.held.clear();
        self.hasher.reset();
        digest
    }
}

/// R of a share: `root` is the entry of the root directory, `None` before it was first seen.
#[must_use]
pub fn root_digest(root: Option<&Entry>, below: &DirectoryDigest) -> RootDigest {
    let mut hasher = blake3::Hasher::new_derive_key("farshore root digest v1");
    if let Some(root) = root {
        hasher.update(&root.to_bytes());
    }
    hasher.update(&below.0);
    RootDigest(*hasher.finalize().as_bytes())
}

/// A child as one side reports it to the other when digests differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// Its path.
    pub path: RelPath,
    /// The entry.
    pub entry: Entry,
    /// What lies below, for a directory.
    pub below: Option<DirectoryDigest>,
}

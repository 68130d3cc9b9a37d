//! One thing to do, and its bytes in a list that spills to disk.
//!
//! Guarantees: what was written reads back as itself, other bytes are an error and never a deletion.

use farshore_core::codec::{DecodeError, Decoder, Encoder};
use farshore_core::entry::{EntryDigest, decode_path};
use farshore_core::path::RelPath;

/// What is to be looked at, as far as the walk tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum LookKind {
    /// The catalog knows nothing of that path.
    New = 0,
    /// A known file whose content or kind changed.
    Content = 1,
    /// Something known of which anything else changed.
    Rest = 2,
}

/// Something to do at one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// New, or its facts differ: look closely, and send what really changed.
    Look {
        /// Where.
        path: RelPath,
        /// Its length when the walk met it.
        size: u64,
        /// Whether the walk met a regular file: it may be opened without another look.
        is_file: bool,
        /// What it is to the catalog.
        kind: LookKind,
        /// Where the catalog last saw this inode, when it is no longer there.
        moved_from: Option<RelPath>,
    },
    /// A further name of the inode at `leader`.
    Link {
        /// Where.
        path: RelPath,
        /// Its first name.
        leader: RelPath,
    },
    /// Gone.
    Remove {
        /// Where.
        path: RelPath,
        /// What the target is believed to hold there.
        expected: EntryDigest,
    },
}

impl Change {
    /// Where.
    #[must_use]
    pub fn path(&self) -> &RelPath {
        match self {
            Self::Look { path, .. } | Self::Link { path, .. } | Self::Remove { path, .. } => path,
        }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        match self {
            Self::Look { path, size, is_file, kind, moved_from } => {
                e.put_u8(u8::from(moved_from.is_some()) | u8::from(*is_file) << 2);
                e.put_bytes(path.as_bytes());
                e.put_u64(*size);
                e.put_u8(*kind as u8);
                if let Some(from) = moved_from {
                    e.put_bytes(from.as_bytes());
                }
            }
            Self::Link { path, leader } => {
                e.put_u8(2);
                e.put_bytes(path.as_bytes());
                e.put_bytes(leader.as_bytes());
            }
            Self::Remove { path, expected } => {
                e.put_u8(3);
                e.put_bytes(path.as_bytes());
                e.put_raw(&expected.0);
            }
        }
        e.finish()
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut d = Decoder::new(bytes);
        let tag = d.take_u8("change")?;
        let path = decode_path(&mut d, "change path")?;
        let change = match tag {
            0 | 1 | 4 | 5 => Self::Look {
                path,
                size: d.take_u64("size")?,
                is_file: tag & 4 != 0,
                kind: match d.take_u8("kind of change")? {
                    0 => LookKind::New,
                    1 => LookKind::Content,
                    2 => LookKind::Rest,
                    other => {
                        let found = u64::from(other);
                        return Err(DecodeError::Invalid { what: "kind of change", found });
                    }
                },
                moved_from: match tag & 1 {
                    0 => None,
                    _ => Some(decode_path(&mut d, "former path")?),
                },
            },
            2 => Self::Link { path, leader: decode_path(&mut d, "leader")? },
            3 => Self::Remove { path, expected: EntryDigest(d.take_array("expected state")?) },
            other => return Err(DecodeError::Invalid { what: "change", found: u64::from(other) }),
        };
        d.finish("change")?;
        Ok(change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_round_trip_and_damaged_ones_are_no_deletions() {
        let path = |s: &str| RelPath::new(s.as_bytes()).expect("valid");
        let look = |is_file, moved_from: Option<&str>| {
            let kind = if is_file { LookKind::Content } else { LookKind::New };
            let moved_from = moved_from.map(path);
            Change::Look { path: path("a/b"), size: u64::MAX, is_file, kind, moved_from }
        };
        let all = [
            look(false, None),
            look(true, None),
            look(false, Some("c")),
            look(true, Some("c")),
            Change::Link { path: path("a"), leader: path("b") },
            Change::Remove { path: path("a"), expected: EntryDigest([3; 32]) },
        ];
        for change in all {
            let mut bytes = change.to_bytes();
            assert_eq!(Change::from_bytes(&bytes), Ok(change));
            for len in 0..bytes.len() {
                assert!(Change::from_bytes(&bytes[..len]).is_err(), "cut to {len}");
            }
            bytes.push(0);
            assert!(Change::from_bytes(&bytes).is_err(), "with more behind it");
        }
        let mut bytes =
            Change::Remove { path: path("a"), expected: EntryDigest([3; 32]) }.to_bytes();
        for tag in 6..=u8::MAX {
            bytes[0] = tag;
            assert!(Change::from_bytes(&bytes).is_err(), "tag {tag}");
        }
    }
}

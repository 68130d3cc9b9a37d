//! Entries: what Farshore keeps of one name in a tree.
//!
//! An [`Entry`] holds only what replicates, so that both sites compute the same digest of it. What a
//! site knows besides (inode numbers, change times) lives in the engine's catalog beside the entry.
//! A further name of an inode is [`Entry::HardLink`] and carries no metadata of its own: it is the
//! leader's, the first name of that inode in path order.

use std::fmt;

use crate::codec::{DecodeError, Decoder, Encoder};
use crate::limits;
use crate::path::RelPath;
use crate::recipe::FileDigest;

/// A point in time as file systems keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 UTC; negative before.
    pub seconds: i64,
    /// Nanoseconds within the second, below 1,000,000,000.
    pub nanos: u32,
}

impl Timestamp {
    /// The same point cut to whole multiples of `grain` nanoseconds within its second.
    #[must_use]
    pub fn truncate(self, grain: u32) -> Self {
        Self { seconds: self.seconds, nanos: self.nanos - self.nanos % grain.max(1) }
    }

    /// `self - earlier` in nanoseconds, saturating.
    #[must_use]
    pub fn nanos_since(self, earlier: Self) -> i64 {
        self.seconds
            .saturating_sub(earlier.seconds)
            .saturating_mul(1_000_000_000)
            .saturating_add(i64::from(self.nanos) - i64::from(earlier.nanos))
    }

    fn encode(self, e: &mut Encoder) {
        e.put_i64(self.seconds);
        e.put_u64(u64::from(self.nanos));
    }

    fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let seconds = d.take_i64("timestamp seconds")?;
        let nanos = d.take_u32("timestamp nanoseconds")?;
        if nanos > 999_999_999 {
            return Err(DecodeError::LimitExceeded {
                what: "timestamp nanoseconds",
                found: u64::from(nanos),
                limit: 999_999_999,
            });
        }
        Ok(Self { seconds, nanos })
    }
}

/// An extended attribute.
pub type NameAndValue = (Box<[u8]>, Box<[u8]>);

/// Extended attributes, POSIX ACLs among them, sorted by name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct Xattrs(Vec<NameAndValue>);

impl Xattrs {
    /// Sorts `pairs`; a name given twice keeps its first value.
    ///
    /// # Errors
    /// [`DecodeError::LimitExceeded`] when a bound of [`limits`] is broken.
    pub fn new(mut pairs: Vec<NameAndValue>) -> Result<Self, DecodeError> {
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        pairs.dedup_by(|b, a| a.0 == b.0);
        let mut total = 0;
        for (name, value) in &pairs {
            check_limit("attribute name", name.len(), limits::XATTR_NAME_MAX)?;
            check_limit("attribute value", value.len(), limits::XATTR_VALUE_MAX)?;
            total += name.len() + value.len();
        }
        check_limit("attributes of one entry", total, limits::XATTR_TOTAL_MAX)?;
        Ok(Self(pairs))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(n, v)| (&**n, &**v))
    }

    /// The value of `name`.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.0.binary_search_by(|(n, _)| (**n).cmp(name)).ok().map(|i| &*self.0[i].1)
    }

    fn encode(&self, e: &mut Encoder) {
        e.put_u64(self.0.len() as u64);
        for (name, value) in &self.0 {
            e.put_bytes(name);
            e.put_bytes(value);
        }
    }

    fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let count = d.take_len("attribute count", limits::XATTR_TOTAL_MAX / 2)?;
        let mut pairs: Vec<NameAndValue> = Vec::new();
        for _ in 0..count {
            let name = d.take_bytes("attribute name", limits::XATTR_NAME_MAX)?;
            let value = d.take_bytes("attribute value", limits::XATTR_VALUE_MAX)?;
            if pairs.last().is_some_and(|(last, _)| **last >= *name) || name.contains(&0) {
                return Err(DecodeError::Invalid { what: "attribute name order", found: 0 });
            }
            pairs.push((name.into(), value.into()));
        }
        Self::new(pairs)
    }
}

fn check_limit(what: &'static str, found: usize, limit: usize) -> Result<(), DecodeError> {
    if found > limit {
        return Err(DecodeError::LimitExceeded { what, found: found as u64, limit: limit as u64 });
    }
    Ok(())
}

/// Owner, mode, time and attributes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct Metadata {
    /// Permission bits with setuid, setgid and sticky: the low twelve bits of `st_mode`.
    pub mode: u32,
    /// Numeric owner, never mapped by name.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Timestamp,
    /// Extended attributes with ACLs.
    pub xattrs: Xattrs,
}

/// A device number, split so that it means the same on every machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeviceNumber {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// One name in a tree, its path kept beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A regular file.
    File {
        /// Its length in bytes.
        size: u64,
        /// The digest of its content.
        content: FileDigest,
        /// Owner, mode, time, attributes.
        meta: Metadata,
    },
    /// A directory.
    Directory {
        /// Owner, mode, time, attributes.
        meta: Metadata,
    },
    /// A symbolic link; its target is bytes, never followed.
    Symlink {
        /// What the link says.
        target: Box<[u8]>,
        /// Owner, time, attributes; the mode is always 0777.
        meta: Metadata,
    },
    /// A further name of the inode first seen at `leader`.
    HardLink {
        /// The first name in path order.
        leader: RelPath,
    },
    /// A named pipe.
    Fifo {
        /// Owner, mode, time, attributes.
        meta: Metadata,
    },
    /// A socket's name.
    Socket {
        /// Owner, mode, time, attributes.
        meta: Metadata,
    },
    /// A character device.
    CharDevice {
        /// Its number.
        number: DeviceNumber,
        /// Owner, mode, time, attributes.
        meta: Metadata,
    },
    /// A block device.
    BlockDevice {
        /// Its number.
        number: DeviceNumber,
        /// Owner, mode, time, attributes.
        meta: Metadata,
    },
}

/// The kind of an entry without its facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum EntryKind {
    /// A regular file.
    File = 1,
    /// A directory.
    Directory = 2,
    /// A symbolic link.
    Symlink = 3,
    /// A further name of an inode.
    HardLink = 4,
    /// A named pipe.
    Fifo = 5,
    /// A socket's name.
    Socket = 6,
    /// A character device.
    CharDevice = 7,
    /// A block device.
    BlockDevice = 8,
}

impl fmt::Display for EntryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Symlink => "symlink",
            Self::HardLink => "hard link",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
            Self::CharDevice => "character device",
            Self::BlockDevice => "block device",
        })
    }
}

/// BLAKE3 of an entry's encoding: what a tombstone names as the expected former state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EntryDigest(pub [u8; 32]);

impl Entry {
    /// The kind alone.
    #[must_use]
    pub fn kind(&self) -> EntryKind {
        match self {
            Self::File { .. } => EntryKind::File,
            Self::Directory { .. } => EntryKind::Directory,
            Self::Symlink { .. } => EntryKind::Symlink,
            Self::HardLink { .. } => EntryKind::HardLink,
            Self::Fifo { .. } => EntryKind::Fifo,
            Self::Socket { .. } => EntryKind::Socket,
            Self::CharDevice { .. } => EntryKind::CharDevice,
            Self::BlockDevice { .. } => EntryKind::BlockDevice,
        }
    }

    /// Metadata; `None` for a hard link, which has its leader's.
    #[must_use]
    pub fn meta(&self) -> Option<&Metadata> {
        match self {
            Self::File { meta, .. }
            | Self::Directory { meta }
            | Self::Symlink { meta, .. }
            | Self::Fifo { meta }
            | Self::Socket { meta }
            | Self::CharDevice { meta, .. }
            | Self::BlockDevice { meta, .. } => Some(meta),
            Self::HardLink { .. } => None,
        }
    }

    /// Bytes of content: a file's length, else 0.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::File { size, .. } => *size,
            _ => 0,
        }
    }

    /// The content digest of a file.
    #[must_use]
    pub fn content(&self) -> Option<&FileDigest> {
        match self {
            Self::File { content, .. } => Some(content),
            _ => None,
        }
    }

    /// Whether `other` is the same object but for owner, mode, time and attributes.
    #[must_use]
    pub fn same_but_metadata(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File { size: a, content: x, .. }, Self::File { size: b, content: y, .. }) => {
                a == b && x == y
            }
            (Self::Symlink { target: a, .. }, Self::Symlink { target: b, .. }) => a == b,
            (Self::CharDevice { number: a, .. }, Self::CharDevice { number: b, .. })
            | (Self::BlockDevice { number: a, .. }, Self::BlockDevice { number: b, .. }) => a == b,
            (Self::HardLink { leader: a }, Self::HardLink { leader: b }) => a == b,
            _ => self.kind() == other.kind(),
        }
    }

    /// Appends the one encoding of this entry.
    pub fn encode(&self, e: &mut Encoder) {
        e.put_u8(self.kind() as u8);
        match self {
            Self::File { size, content, .. } => {
                e.put_u64(*size);
                e.put_raw(&content.0);
            }
            Self::Symlink { target, .. } => e.put_bytes(target),
            Self::HardLink { leader } => e.put_bytes(leader.as_bytes()),
            Self::CharDevice { number, .. } | Self::BlockDevice { number, .. } => {
                e.put_u64(u64::from(number.major));
                e.put_u64(u64::from(number.minor));
            }
            Self::Directory { .. } | Self::Fifo { .. } | Self::Socket { .. } => {}
        }
        if let Some(meta) = self.meta() {
            e.put_u64(u64::from(meta.mode));
            e.put_u64(u64::from(meta.uid));
            e.put_u64(u64::from(meta.gid));
            meta.mtime.encode(e);
            meta.xattrs.encode(e);
        }
    }

    /// The encoding as a buffer.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        self.encode(&mut e);
        e.finish()
    }

    /// Takes one entry off the front of `d`.
    ///
    /// # Errors
    /// [`DecodeError`], whatever the bytes are.
    pub fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        match d.take_u8("entry kind")? {
            1 => {
                let size = d.take_bounded("file size", limits::FILE_SIZE_MAX)?;
                let content = FileDigest(d.take_array("file digest")?);
                Ok(Self::File { size, content, meta: decode_meta(d)? })
            }
            2 => Ok(Self::Directory { meta: decode_meta(d)? }),
            3 => {
                let target = d.take_bytes("symlink target", limits::SYMLINK_TARGET_MAX)?;
                if target.is_empty() || target.contains(&0) {
                    return Err(DecodeError::Invalid { what: "symlink target", found: 0 });
                }
                Ok(Self::Symlink { target: target.into(), meta: decode_meta(d)? })
            }
            4 => Ok(Self::HardLink { leader: decode_path(d, "hard link leader")? }),
            5 => Ok(Self::Fifo { meta: decode_meta(d)? }),
            6 => Ok(Self::Socket { meta: decode_meta(d)? }),
            7 => Ok(Self::CharDevice { number: decode_number(d)?, meta: decode_meta(d)? }),
            8 => Ok(Self::BlockDevice { number: decode_number(d)?, meta: decode_meta(d)? }),
            other => Err(DecodeError::Invalid { what: "entry kind", found: u64::from(other) }),
        }
    }

    /// Takes the kind of an entry off the front of `d`, where [`Self::decode`] would begin.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode_kind(d: &mut Decoder<'_>) -> Result<EntryKind, DecodeError> {
        Ok(match d.take_u8("entry kind")? {
            1 => EntryKind::File,
            2 => EntryKind::Directory,
            3 => EntryKind::Symlink,
            4 => EntryKind::HardLink,
            5 => EntryKind::Fifo,
            6 => EntryKind::Socket,
            7 => EntryKind::CharDevice,
            8 => EntryKind::BlockDevice,
            other => {
                return Err(DecodeError::Invalid { what: "entry kind", found: u64::from(other) });
            }
        })
    }

    /// BLAKE3 of the encoding.
    #[must_use]
    pub fn digest(&self) -> EntryDigest {
        EntryDigest(*blake3::hash(&self.to_bytes()).as_bytes())
    }
}

/// Takes a path off the front of `d`.
///
/// # Errors
/// [`DecodeError`] naming `what`.
pub fn decode_path(d: &mut Decoder<'_>, what: &'static str) -> Result<RelPath, DecodeError> {
    let bytes = d.take_bytes(what, limits::PATH_LEN_MAX)?;
    RelPath::new(bytes).map_err(|source| DecodeError::Path { what, source })
}

fn decode_number(d: &mut Decoder<'_>) -> Result<DeviceNumber, DecodeError> {
    Ok(DeviceNumber { major: d.take_u32("device major")?, minor: d.take_u32("device minor")? })
}

fn decode_meta(d: &mut Decoder<'_>) -> Result<Metadata, DecodeError> {
    let mode = d.take_u32("mode")?;
    if mode > 0o7777 {
        let found = u64::from(mode);
        return Err(DecodeError::LimitExceeded { what: "mode", found, limit: 0o7777 });
    }
    Ok(Metadata {
        mode,
        uid: d.take_u32("uid")?,
        gid: d.take_u32("gid")?,
        mtime: Timestamp::decode(d)?,
        xattrs: Xattrs::decode(d)?,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        pub(crate) fn any_meta()(mode in 0u32..0o10000, uid: u32, gid: u32, seconds: i64,
            nanos in 0u32..1_000_000_000, xattrs in prop::collection::vec(
                (prop::collection::vec(1u8..=255, 1..8), prop::collection::vec(any::<u8>(), 0..8)), 0..3)
        ) -> Metadata {
            let xattrs = xattrs.into_iter().map(|(n, v)| (n.into(), v.into())).collect();
            Metadata { mode, uid, gid, mtime: Timestamp { seconds, nanos },
                xattrs: Xattrs::new(xattrs).expect("short ones") }
        }
    }

    pub(crate) fn any_entry() -> impl Strategy<Value = Entry> {
        prop_oneof![
            (any_meta(), 0u64..1 << 40, any::<[u8; 32]>())
                .prop_map(|(meta, size, c)| Entry::File { size, content: FileDigest(c), meta }),
            any_meta().prop_map(|meta| Entry::Directory { meta }),
            (any_meta(), prop::collection::vec(1u8..=255, 1..50))
                .prop_map(|(meta, t)| Entry::Symlink { target: t.into(), meta }),
            Just(Entry::HardLink { leader: RelPath::new(*b"a/b").expect("valid") }),
            (any_meta(), any::<u32>(), any::<u32>()).prop_map(|(meta, major, minor)| {
                Entry::CharDevice { number: DeviceNumber { major, minor }, meta }
            }),
            any_meta().prop_map(|meta| Entry::Fifo { meta }),
        ]
    }

    proptest! {
        #[test]
        fn entries_round_trip(entry in any_entry()) {
            let bytes = entry.to_bytes();
            let mut d = Decoder::new(&bytes);
            prop_assert_eq!(Entry::decode_kind(&mut d.clone()), Ok(entry.kind()));
            prop_assert_eq!(Entry::decode(&mut d), Ok(entry));
            prop_assert_eq!(d.finish("entry"), Ok(()));
        }

        #[test]
        fn any_bytes_are_an_entry_in_its_one_form_or_refused(bytes: Vec<u8>) {
            let mut d = Decoder::new(&bytes);
            if let Ok(entry) = Entry::decode(&mut d) {
                let used = bytes.len() - d.remaining();
                prop_assert_eq!(entry.to_bytes(), &bytes[..used]);
            }
        }
    }
}

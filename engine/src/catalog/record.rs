//! What one row of a catalog says, and its bytes.
//!
//! Guarantees: what was encoded decodes to itself, other bytes to an error; keys sort as the paths and
//! places they name (docs/format.md has the layout).

use farshore_core::codec::{DecodeError, Decoder, Encoder};
use farshore_core::entry::{Entry, EntryKind, Timestamp, decode_path};
use farshore_core::path::RelPath;
use farshore_core::recipe::FileDigest;

use super::{Result, damaged};
use crate::io::Stat;

/// Facts of an inode as it was last seen; when they are all the same, the entry is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalFacts {
    /// Inode number.
    pub inode: u64,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// Last change of content as the file system keeps it.
    pub mtime: Timestamp,
    /// Length in bytes; 0 for directories, whose length means nothing.
    pub size: u64,
    /// Mode, owner and group as they are, which may not be what was asked for.
    pub owner_mode: (u32, u32, u32),
}

impl LocalFacts {
    /// The facts in `stat`.
    #[must_use]
    pub fn of(stat: &Stat) -> Self {
        let is_directory = stat.kind == crate::io::FileKind::Directory;
        Self {
            inode: stat.inode,
            ctime: stat.ctime,
            mtime: stat.mtime,
            size: if is_directory { 0 } else { stat.size },
            owner_mode: (stat.mode, stat.uid, stat.gid),
        }
    }

    /// The facts in `stat` where they may still change unseen: the same inode, but never unchanged.
    #[must_use]
    pub fn unsettled(stat: &Stat) -> Self {
        Self { ctime: Timestamp { seconds: i64::MIN, nanos: 0 }, ..Self::of(stat) }
    }

    fn encode(&self, e: &mut Encoder) {
        e.put_u64(self.inode);
        for t in [self.ctime, self.mtime] {
            e.put_i64(t.seconds);
            e.put_u64(u64::from(t.nanos));
        }
        e.put_u64(self.size);
        let (mode, uid, gid) = self.owner_mode;
        [mode, uid, gid].into_iter().for_each(|v| e.put_u64(u64::from(v)));
    }

    fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let inode = d.take_u64("inode")?;
        let mut time = || -> Result<Timestamp, DecodeError> {
            let seconds = d.take_i64("time")?;
            Ok(Timestamp { seconds, nanos: d.take_u32("time")? })
        };
        let (ctime, mtime) = (time()?, time()?);
        let size = d.take_u64("size")?;
        let owner_mode = (d.take_u32("mode")?, d.take_u32("uid")?, d.take_u32("gid")?);
        Ok(Self { inode, ctime, mtime, size, owner_mode })
    }
}

/// An entry and what this site knows of its inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What replicates.
    pub entry: Entry,
    /// Facts when it was last seen; `None` when it must be looked at again whatever they are.
    pub facts: Option<LocalFacts>,
}

impl Record {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        e.put_u8(u8::from(self.facts.is_some()));
        if let Some(facts) = &self.facts {
            facts.encode(&mut e);
        }
        self.entry.encode(&mut e);
        e.finish()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut d = Decoder::new(bytes);
        let facts = take_facts(&mut d)?;
        let entry = Entry::decode(&mut d)?;
        d.finish("record")?;
        Ok(Self { entry, facts })
    }
}

pub(super) fn take_facts(d: &mut Decoder<'_>) -> Result<Option<LocalFacts>, DecodeError> {
    match d.take_u8("facts")? {
        0 => Ok(None),
        1 => LocalFacts::decode(d).map(Some),
        other => Err(DecodeError::Invalid { what: "facts", found: u64::from(other) }),
    }
}

/// The encoded entry within an encoded record.
pub(super) fn entry_part(record: &[u8]) -> Result<&[u8]> {
    let mut d = Decoder::new(record);
    take_facts(&mut d).map_err(damaged("entries"))?;
    Ok(&record[record.len() - d.remaining()..])
}

pub(super) fn is_directory(entry_bytes: &[u8]) -> bool {
    entry_bytes.first() == Some(&(EntryKind::Directory as u8))
}

/// Where content stands at the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// At a path of the tree.
    Live(RelPath),
    /// Kept in history: set and number.
    History(HistoryId),
}

/// Names one kept version: the batch that displaced it, and a number in that batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HistoryId {
    /// The batch.
    pub set: u64,
    /// Its number there.
    pub number: u32,
}

/// A kept version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRecord {
    /// Where it was.
    pub path: RelPath,
    /// What it was, as the catalog had it; `None` for what the catalog did not know.
    pub entry: Option<Entry>,
}

/// One set of kept versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistorySet {
    /// When they were displaced, in milliseconds since 1970-01-01 UTC.
    pub time_unix_ms: i64,
    /// Bytes of content kept.
    pub bytes: u64,
    /// Versions kept.
    pub versions: u64,
}

pub(super) fn location_key(content: &FileDigest, location: &Location) -> Vec<u8> {
    let mut key = content.0.to_vec();
    match location {
        Location::Live(path) => {
            key.push(0);
            key.extend_from_slice(&path.key());
        }
        Location::History(id) => {
            key.push(1);
            key.extend_from_slice(&id.set.to_be_bytes());
            key.extend_from_slice(&id.number.to_be_bytes());
        }
    }
    key
}

pub(super) fn parse_location(key: &[u8]) -> Option<Location> {
    let (tag, rest) = key.get(32..)?.split_first()?;
    match tag {
        0 => RelPath::from_key(rest).ok().map(Location::Live),
        1 => {
            let (set, number) = rest.split_first_chunk::<8>()?;
            let number = u32::from_be_bytes(number.try_into().ok()?);
            Some(Location::History(HistoryId { set: u64::from_be_bytes(*set), number }))
        }
        _ => None,
    }
}

pub(super) fn decode_history(bytes: &[u8]) -> Result<HistoryRecord> {
    let decode = || -> Result<HistoryRecord, DecodeError> {
        let mut d = Decoder::new(bytes);
        let path = decode_path(&mut d, "history path")?;
        let entry = if d.remaining() > 0 { Some(Entry::decode(&mut d)?) } else { None };
        Ok(HistoryRecord { path, entry })
    };
    decode().map_err(damaged("history"))
}

pub(super) fn decode_history_set(bytes: &[u8]) -> Result<HistorySet> {
    let decode = || -> Result<HistorySet, DecodeError> {
        let mut d = Decoder::new(bytes);
        Ok(HistorySet {
            time_unix_ms: d.take_i64("history time")?,
            bytes: d.take_u64("history bytes")?,
            versions: d.take_u64("history versions")?,
        })
    };
    decode().map_err(damaged("history sets"))
}

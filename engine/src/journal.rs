//! The journal: what a batch will do to the tree, durable before it does it.
//!
//! One file a batch, `.farshore/journal/<N>`, written once, synced, and removed when the catalog has
//! the batch. Guarantees: a record that reads back is whole (length and BLAKE3 of the rest stand
//! first); a torn one was never acted on and is dropped. Every action can be done again: each says by
//! inode or by staged name how to tell whether it was done.

use std::io;

use farshore_core::codec::{DecodeError, Decoder, Encoder};
use farshore_core::entry::{Entry, decode_path};
use farshore_core::path::RelPath;

use crate::io::{Object, Storage};
use crate::own_folder::{OwnFolder, set_name};

const MAGIC: [u8; 8] = *b"FSJRNL01";
/// Largest record: a batch of the most operations with the longest ordinary entries.
const RECORD_MAX: u64 = 1 << 30;

/// One step of applying a batch. `number` is the operation's place in its batch: the name of its
/// staged object and of what it displaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Takes the object at `from` into staging, to be placed elsewhere.
    Lift {
        /// The operation.
        number: u32,
        /// Where it is.
        from: RelPath,
        /// Its inode.
        inode: u64,
        /// Its facts after the move.
        entry: Entry,
    },
    /// Displaces what is no directory at `path` into history.
    RemoveFile {
        /// The operation.
        number: u32,
        /// Where.
        path: RelPath,
        /// Its inode.
        inode: u64,
    },
    /// Puts the staged object at `path`; what is there goes to history.
    Place {
        /// The operation.
        number: u32,
        /// Where.
        path: RelPath,
        /// What.
        entry: Entry,
    },
    /// The object came into place with the new directory above it.
    Inside {
        /// Where.
        path: RelPath,
        /// What.
        entry: Entry,
    },
    /// Gives the inode at `leader` the further name `path`.
    Link {
        /// The operation.
        number: u32,
        /// The new name.
        path: RelPath,
        /// The first name.
        leader: RelPath,
    },
    /// Sets metadata of what stands at `path`.
    Meta {
        /// Where.
        path: RelPath,
        /// What it is afterwards.
        entry: Entry,
    },
    /// Removes an empty directory.
    RemoveDirectory {
        /// The operation.
        number: u32,
        /// Where.
        path: RelPath,
    },
}

impl Action {
    /// Where.
    #[must_use]
    pub fn path(&self) -> &RelPath {
        match self {
            Self::Lift { from, .. } => from,
            Self::RemoveFile { path, .. }
            | Self::Place { path, .. }
            | Self::Inside { path, .. }
            | Self::Link { path, .. }
            | Self::Meta { path, .. }
            | Self::RemoveDirectory { path, .. } => path,
        }
    }

    /// Under which number it keeps what stands at its path in history, if it is one that may.
    #[must_use]
    pub fn sets_aside(&self) -> Option<u32> {
        match self {
            Self::RemoveFile { number, .. }
            | Self::Place { number, .. }
            | Self::Link { number, .. } => Some(*number),
            _ => None,
        }
    }

    /// The directory whose time it moves, if that is not one that came with the batch: where a name is
    /// made, taken away or replaced. `None` also for what is at the root's own place.
    #[must_use]
    pub fn written_in(&self) -> Option<&[u8]> {
        match self {
            Self::Lift { from: path, .. }
            | Self::RemoveFile { path, .. }
            | Self::Place { path, .. }
            | Self::Link { path, .. }
            | Self::RemoveDirectory { path, .. } => path.parent_bytes(),
            Self::Inside { .. } | Self::Meta { .. } => None,
        }
    }

    /// What it makes or sets, if it does.
    #[must_use]
    pub fn entry(&self) -> Option<&Entry> {
        match self {
            Self::Place { entry, .. } | Self::Inside { entry, .. } | Self::Meta { entry, .. } => {
                Some(entry)
            }
            _ => None,
        }
    }

    fn encode(&self, e: &mut Encoder) {
        let mut head = |tag: u8, number: Option<u32>, path: &RelPath| {
            e.put_u8(tag);
            if let Some(number) = number {
                e.put_u64(u64::from(number));
            }
            e.put_bytes(path.as_bytes());
        };
        match self {
            Self::Lift { number, from, inode, entry } => {
                head(1, Some(*number), from);
                e.put_u64(*inode);
                entry.encode(e);
            }
            Self::RemoveFile { number, path, inode } => {
                head(2, Some(*number), path);
                e.put_u64(*inode);
            }
            Self::Place { number, path, entry } => {
                head(3, Some(*number), path);
                entry.encode(e);
            }
            Self::Inside { path, entry } => {
                head(4, None, path);
                entry.encode(e);
            }
            Self::Link { number, path, leader } => {
                head(5, Some(*number), path);
                e.put_bytes(leader.as_bytes());
            }
            Self::Meta { path, entry } => {
                head(6, None, path);
                entry.encode(e);
            }
            Self::RemoveDirectory { number, path } => head(7, Some(*number), path),
        }
    }

    fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let tag = d.take_u8("action")?;
        let number = if matches!(tag, 4 | 6) { 0 } else { d.take_u32("action number")? };
        let path = decode_path(d, "action path")?;
        Ok(match tag {
            1 => Self::Lift {
                number,
                from: path,
                inode: d.take_u64("inode")?,
                entry: Entry::decode(d)?,
            },
            2 => Self::RemoveFile { number, path, inode: d.take_u64("inode")? },
            3 => Self::Place { number, path, entry: Entry::decode(d)? },
            4 => Self::Inside { path, entry: Entry::decode(d)? },
            5 => Self::Link { number, path, leader: decode_path(d, "leader")? },
            6 => Self::Meta { path, entry: Entry::decode(d)? },
            7 => Self::RemoveDirectory { number, path },
            other => return Err(DecodeError::Invalid { what: "action", found: u64::from(other) }),
        })
    }
}

/// What a batch does, in the order of its operations.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Intent {
    /// The batch.
    pub batch: u64,
    /// Its actions.
    pub actions: Vec<Action>,
}

impl Intent {
    fn to_bytes(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        e.put_u64(self.batch);
        e.put_u64(self.actions.len() as u64);
        self.actions.iter().for_each(|a| a.encode(&mut e));
        let body = e.finish();
        let mut record = Vec::with_capacity(body.len() + 48);
        record.extend_from_slice(&MAGIC);
        record.extend_from_slice(&(body.len() as u64).to_le_bytes());
        record.extend_from_slice(blake3::hash(&body).as_bytes());
        record.extend_from_slice(&body);
        record
    }

    fn from_bytes(record: &[u8]) -> Result<Self, DecodeError> {
        let mut d = Decoder::new(record);
        if d.take_array::<8>("journal record")? != MAGIC {
            return Err(DecodeError::Invalid { what: "journal magic", found: 0 });
        }
        let len = u64::from_le_bytes(d.take_array("journal length")?);
        let digest: [u8; 32] = d.take_array("journal digest")?;
        let len = usize::try_from(len)
            .map_err(|_| DecodeError::Invalid { what: "journal length", found: len })?;
        let body = d.take_raw("journal body", len)?;
        d.finish("journal record")?;
        if *blake3::hash(body).as_bytes() != digest {
            return Err(DecodeError::BadChecksum { what: "journal record" });
        }
        let mut d = Decoder::new(body);
        let batch = d.take_u64("batch")?;
        let count = d.take_u64("actions")?;
        let mut actions = Vec::new();
        for _ in 0..count {
            actions.push(Action::decode(&mut d)?);
        }
        d.finish("journal body")?;
        Ok(Self { batch, actions })
    }
}

/// Writes the records of some batches; durable, names and all, when this returns.
///
/// # Errors
/// The file system's own; none of the batches may be begun then.
pub fn write<'i, S: Storage>(
    storage: &S,
    own: &OwnFolder<S>,
    intents: impl Iterator<Item = &'i Intent>,
) -> io::Result<()> {
    let mut files = Vec::new();
    for intent in intents {
        let name = set_name(intent.batch);
        match storage.unlink(&own.journal, name.as_bytes()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let file = storage.create_file(&own.journal, name.as_bytes())?;
        storage.write_at(&file, 0, &intent.to_bytes())?;
        files.push(file);
    }
    if files.is_empty() {
        return Ok(());
    }
    files.iter().try_for_each(|file| storage.sync_file(file))?;
    storage.sync_directory(&own.journal)
}

/// Writes a record found at the start once more, durable when this returns. The old one stands until
/// the new one has its name: the batch may have been begun.
///
/// # Errors
/// The file system's own; a record is there whatever happens.
pub fn renew<S: Storage>(storage: &S, own: &OwnFolder<S>, intent: &Intent) -> io::Result<()> {
    const FRESH: &[u8] = b"journal";
    match storage.unlink(&own.staging, FRESH) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let file = storage.create_file(&own.staging, FRESH)?;
    storage.write_at(&file, 0, &intent.to_bytes())?;
    storage.sync_file(&file)?;
    storage.rename(&own.staging, FRESH, &own.journal, set_name(intent.batch).as_bytes())?;
    storage.sync_directory(&own.journal)
}

/// Removes a batch's record: the catalog has it.
///
/// # Errors
/// The file system's own.
pub fn clear<S: Storage>(storage: &S, own: &OwnFolder<S>, batch: u64) -> io::Result<()> {
    match storage.unlink(&own.journal, set_name(batch).as_bytes()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// All records that read back, oldest batch first; torn ones are removed.
///
/// # Errors
/// The file system's own.
pub fn read_all<S: Storage>(storage: &S, own: &OwnFolder<S>) -> io::Result<Vec<Intent>> {
    let mut names = Vec::new();
    storage.list(&own.journal, &mut |l| names.push(l.name.to_vec()))?;
    names.sort();
    let mut intents = Vec::new();
    for name in names {
        let file = storage.open_file(&own.journal, &name)?;
        let size = storage.stat(Object::File(&file))?.size.min(RECORD_MAX);
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        let read = storage.read_at(&file, 0, &mut bytes)?;
        match Intent::from_bytes(&bytes[..read]) {
            Ok(intent) => intents.push(intent),
            Err(_) => storage.unlink(&own.journal, &name)?,
        }
    }
    intents.sort_by_key(|i| i.batch);
    Ok(intents)
}

#[cfg(test)]
mod tests {
    use farshore_core::entry::Metadata;

    use super::*;

    proptest::proptest! {
        #[test]
        fn any_body_of_a_record_is_an_intent_or_refused(body: Vec<u8>, flip: u8) {
            let mut record = MAGIC.to_vec();
            record.extend((body.len() as u64).to_le_bytes());
            record.extend(blake3::hash(&body).as_bytes());
            record.extend(&body);
            if let Ok(intent) = Intent::from_bytes(&record) {
                assert_eq!(Intent::from_bytes(&intent.to_bytes()), Ok(intent));
            }
            // A true one with one byte of its body changed, its digest made anew.
            let path = RelPath::new(*b"a/b").expect("valid");
            let action = Action::RemoveFile { number: 2, path, inode: 8 };
            let mut true_one = Intent { batch: 9, actions: vec![action] }.to_bytes();
            let at = 48 + usize::from(flip) % (true_one.len() - 48);
            true_one[at] ^= flip;
            let digest = *blake3::hash(&true_one[48..]).as_bytes();
            true_one[16..48].copy_from_slice(&digest);
            let _decoded_or_refused = Intent::from_bytes(&true_one).is_ok();
        }
    }

    #[test]
    fn intents_round_trip_and_any_damage_is_found() {
        let path = |s: &str| RelPath::new(s.as_bytes()).expect("valid");
        let entry = || Entry::Directory { meta: Metadata::default() };
        let intent = Intent {
            batch: 9,
            actions: vec![
                Action::Lift { number: 1, from: path("a"), inode: 7, entry: entry() },
                Action::RemoveFile { number: 2, path: path("b"), inode: 8 },
                Action::Place { number: 3, path: path("c"), entry: entry() },
                Action::Inside { path: path("c/d"), entry: entry() },
                Action::Link { number: 4, path: path("e"), leader: path("c/d") },
                Action::Meta { path: RelPath::root(), entry: entry() },
                Action::RemoveDirectory { number: 5, path: path("f") },
            ],
        };
        let bytes = intent.to_bytes();
        assert_eq!(Intent::from_bytes(&bytes), Ok(intent));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            assert!(Intent::from_bytes(&damaged).is_err(), "byte {at}");
            assert!(Intent::from_bytes(&bytes[..at]).is_err(), "cut to {at}");
        }
    }
}

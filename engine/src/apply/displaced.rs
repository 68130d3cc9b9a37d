//! What a batch set aside, as the catalog will know it.
//!
//! Guarantees: each version is recorded as what it is: a further name of a file as that file, so that its content is
//! found there, whatever became of the other names; of several names of one file one counts as room taken.

use std::collections::HashSet;
use std::io;

use farshore_core::entry::{Entry, EntryKind};
use farshore_core::path::RelPath;

use super::{Applier, ApplyError, ApplyStep};
use crate::catalog::{CatalogError, CatalogReader, HistoryRecord};
use crate::io::{FileKind, Object, Stat, Storage};
use crate::journal::Intent;
use crate::metadata::is_time_kept;
use crate::own_folder::set_name;

/// A version in a batch's history set.
pub(super) struct Displaced {
    pub(super) number: u32,
    pub(super) record: HistoryRecord,
    /// What it takes there.
    pub(super) bytes: u64,
}

impl<S: Storage> Applier<'_, S> {
    /// What stands in this batch's history set.
    pub(super) fn displaced(
        &self,
        intent: &Intent,
        reader: &CatalogReader,
    ) -> Result<Vec<Displaced>, ApplyError> {
        let disk = Self::disk(intent.batch, ApplyStep::Perform, &RelPath::root());
        let name = set_name(intent.batch);
        let set = match self.storage.open_directory(&self.own.history, name.as_bytes()) {
            Ok(set) => set,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(disk(e)),
        };
        let mut numbers = HashSet::new();
        self.storage
            .list(&set, &mut |l| {
                numbers
                    .extend(std::str::from_utf8(l.name).ok().and_then(|n| n.parse::<u32>().ok()));
            })
            .map_err(&disk)?;
        let mut out = Vec::new();
        let mut has_links = false;
        for action in &intent.actions {
            let path = action.path().clone();
            let Some(number) = action.sets_aside().filter(|n| numbers.contains(n)) else {
                continue;
            };
            let entry = reader.get(&path)?.map(|r| r.entry);
            has_links |= matches!(entry, Some(Entry::HardLink { .. }));
            let bytes = entry.as_ref().map_or(0, Entry::size);
            out.push(Displaced { number, record: HistoryRecord { path, entry }, bytes });
        }
        if has_links {
            self.tell_names_apart(&set, reader, &mut out).map_err(|e| match e {
                ToldApart::Catalog(e) => e.into(),
                ToldApart::Disk(e) => disk(e),
            })?;
        }
        Ok(out)
    }

    /// What further names of files were: what is kept is a file, whose content is found there, whatever becomes of its
    /// other names; and of several names of one file one takes room.
    fn tell_names_apart(
        &self,
        set: &S::Directory,
        reader: &CatalogReader,
        displaced: &mut [Displaced],
    ) -> Result<(), ToldApart> {
        let mut counted = HashSet::new();
        for Displaced { number, record, bytes } in displaced {
            let stat = self.storage.stat(Object::Named(set, number.to_string().as_bytes()));
            let stat = stat.map_err(ToldApart::Disk)?;
            if stat.kind != FileKind::Regular {
                continue;
            }
            if let Some(Entry::HardLink { leader }) = &record.entry {
                record.entry = file_of(reader, leader, &stat)?.or(record.entry.take());
            }
            *bytes = if counted.insert(stat.inode) { stat.size } else { 0 };
        }
        Ok(())
    }
}

/// Why what was kept could not be told apart.
enum ToldApart {
    Catalog(CatalogError),
    Disk(io::Error),
}

impl From<CatalogError> for ToldApart {
    fn from(e: CatalogError) -> Self {
        Self::Catalog(e)
    }
}

/// The file with the first name `leader` of which `kept` was a further name. An earlier batch may have put another
/// one there: then it is the last of those before that has its size and time. Reading it compares its content.
fn file_of(
    reader: &CatalogReader,
    leader: &RelPath,
    kept: &Stat,
) -> Result<Option<Entry>, CatalogError> {
    let is_it = |entry: &Entry| {
        let time = entry.meta().is_some_and(|meta| is_time_kept(meta.mtime, kept.mtime));
        entry.kind() == EntryKind::File && entry.size() == kept.size && time
    };
    let now = reader.get(leader)?.map(|record| record.entry);
    if let Some(now) = now.filter(is_it) {
        return Ok(Some(now));
    }
    let mut found = None;
    for former in reader.formers_at(leader)? {
        found = former?.entry.filter(is_it).or(found);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use farshore_core::entry::{DeviceNumber, Metadata, Timestamp};
    use farshore_core::recipe::FileDigest;
    use farshore_core::recovery_point::RecoveryPoint;
    use farshore_proto::message::StoreId;
    use redb::backends::InMemoryBackend;

    use super::*;
    use crate::catalog::{Catalog, CatalogConfig, CatalogRole, Durability, Record};

    fn at(seconds: i64) -> Timestamp {
        Timestamp { seconds, nanos: 7 }
    }

    fn file(content: &[u8], seconds: i64) -> Entry {
        let meta = Metadata { mtime: at(seconds), ..Metadata::default() };
        Entry::File { size: content.len() as u64, content: FileDigest::of_small(content), meta }
    }

    fn kept(size: u64, seconds: i64) -> Stat {
        let device = DeviceNumber { major: 0, minor: 1 };
        Stat {
            kind: FileKind::Regular,
            mode: 0o640,
            uid: 0,
            gid: 0,
            size,
            allocated: size,
            mtime: at(seconds),
            ctime: at(seconds + 1),
            inode: 9,
            links: 1,
            device,
            number: device,
        }
    }

    /// The first name has had three contents, the last one is another file.
    #[test]
    fn a_further_name_is_the_file_it_was_whatever_became_of_the_first() {
        let (role, fresh_id) = (CatalogRole::Target, StoreId([1; 16]));
        let config = CatalogConfig { role, cache_bytes: 1 << 20, fresh_id };
        let catalog = Catalog::open_on(InMemoryBackend::new(), &config).expect("in memory");
        let leader = RelPath::new(&b"a/first"[..]).expect("a path");
        let contents = [file(b"oldest", 10), file(b"older", 20), file(b"new one", 30)];
        for (set, entry) in (1..).zip(&contents) {
            let update = catalog.update(Durability::Immediate, |t| {
                t.note_for(set)?;
                t.put(&leader, &Record { entry: entry.clone(), facts: None })?;
                t.set_applied_batch(set)?;
                let root = t.seal()?;
                let point = RecoveryPoint {
                    sequence: set,
                    time_unix_ms: 5,
                    root,
                    entries: 1,
                    bytes: 7,
                    exceptions: 0,
                };
                t.put_point(&point, 6)
            });
            update.expect("an update");
        }
        let reader = catalog.reader().expect("reads");
        let found = |size, seconds| file_of(&reader, &leader, &kept(size, seconds)).expect("reads");
        assert_eq!(found(7, 30).as_ref(), Some(&contents[2]), "as it is");
        assert_eq!(found(5, 20).as_ref(), Some(&contents[1]), "as it was");
        assert_eq!(found(6, 10).as_ref(), Some(&contents[0]), "as it was before");
        assert_eq!(found(5, 21), None, "of another time");
    }
}

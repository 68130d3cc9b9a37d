//! Small files that are read ahead of their turn; files that moved, in `tests/moved.rs`.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use farshore_core::entry::Metadata;
use farshore_core::recovery_point::Epoch;
use farshore_proto::batch::BatchHeader;
use farshore_proto::link::{BulkReceive, BulkSend, Link, LinkStats};
use farshore_proto::message::StoreId;
use redb::Durability;
use redb::backends::InMemoryBackend;

use super::*;
use crate::catalog::{Catalog, CatalogConfig, CatalogRole, CatalogTables};
use crate::frames::{Compression, LineGauge};
use crate::io::sim::{Fault, SimConfig, SimDisk, SimStorage};
use crate::plan::LookKind;
use crate::profile::Profile;

mod moved;

/// Takes everything, says nothing.
struct Sink;

impl Link for Sink {
    fn send_control(&self, _: Bytes) -> Result<(), LinkError> {
        Ok(())
    }
    fn recv_control(&self) -> Result<Option<Bytes>, LinkError> {
        Ok(None)
    }
    fn finish_control(&self) -> Result<(), LinkError> {
        Ok(())
    }
    fn open_bulk(&self) -> Result<Box<dyn BulkSend>, LinkError> {
        Ok(Box::new(Self))
    }
    fn accept_bulk(&self) -> Result<Option<Box<dyn BulkReceive>>, LinkError> {
        Ok(None)
    }
    fn close(&self, _: u32, _: &str) {}
    fn stats(&self) -> LinkStats {
        LinkStats::default()
    }
}

impl BulkSend for Sink {
    fn write(&mut self, _: Bytes) -> Result<(), LinkError> {
        Ok(())
    }
    fn finish(self: Box<Self>) -> Result<(), LinkError> {
        Ok(())
    }
}

fn path(s: &str) -> RelPath {
    RelPath::new(s.as_bytes()).expect("valid")
}

fn look(name: &str, size: u64) -> Change {
    Change::Look { path: path(name), size, is_file: true, kind: LookKind::New, moved_from: None }
}

/// A disk with files in two directories, and its root.
fn disk(names: &[&str]) -> SimStorage {
    let disk = SimDisk::new(SimConfig { batch_files: 4, ..SimConfig::default() });
    let storage = disk.mount("").expect("mounted");
    for d in [b"a", b"b"] {
        storage.make_directory(storage.root(), d).expect("made");
    }
    for name in names {
        let (parent, name) = name.split_once('/').expect("in a directory");
        let at = storage.open_directory(storage.root(), parent.as_bytes()).expect("opened");
        let file = storage.create_file(&at, name.as_bytes()).expect("created");
        storage.write_at(&file, 0, name.as_bytes()).expect("written");
    }
    storage
}

/// Writes a batch of `changes`; what the catalog would have, and the problems.
fn batch(
    storage: &SimStorage,
    changes: Vec<Change>,
    now: WallClock<'_>,
    racy_ns: i64,
) -> (BatchRecord, Vec<Problem>) {
    batch_for(&[], storage, changes, now, racy_ns)
}

/// The same for a target that holds files `known`.
fn batch_for(
    known: &[&str],
    storage: &SimStorage,
    changes: Vec<Change>,
    now: WallClock<'_>,
    racy_ns: i64,
) -> (BatchRecord, Vec<Problem>) {
    let put = |tables: &mut CatalogTables<'_>| {
        known.iter().try_for_each(|name| {
            let (content, meta) = (FileDigest::of_small(name.as_bytes()), Metadata::default());
            let entry = Entry::File { size: name.len() as u64, content, meta };
            tables.put(&path(name), &Record { entry, facts: None })
        })
    };
    batch_after(put, storage, changes, now, racy_ns)
}

/// The same for a target of which the source knows what `put` records.
fn batch_after(
    put: impl FnOnce(&mut CatalogTables<'_>) -> Result<(), CatalogError>,
    storage: &SimStorage,
    changes: Vec<Change>,
    now: WallClock<'_>,
    racy_ns: i64,
) -> (BatchRecord, Vec<Problem>) {
    let config = CatalogConfig {
        role: CatalogRole::Source,
        cache_bytes: 1 << 20,
        fresh_id: StoreId([1; 16]),
    };
    let catalog = Catalog::open_on(InMemoryBackend::new(), &config).expect("in memory");
    catalog.update(Durability::None, put).expect("put");
    let (index, progress, profile) = (RunIndex::default(), Progress::default(), Profile::default());
    let desk = SignDesk::new(&Sink, 1);
    let gauge = LineGauge::new(Compression::Never, Duration::ZERO, Instant::now());
    let header = BatchHeader::of(1, Epoch(0));
    let mut writer = FrameWriter::begin(&Sink, header, 1, &gauge, &profile).expect("begun");
    let reader = catalog.reader().expect("a reader");
    let mut ingest = Ingest::new(storage, reader, &index, &desk, &progress, now, racy_ns);
    let record = ingest.write_batch(1, changes, &mut writer).expect("written");
    (record, progress.take_problems())
}

fn files(record: &BatchRecord) -> Vec<(String, Option<FileDigest>)> {
    let of = |e: &Effect| match e {
        Effect::Put { path, record, .. } => (path.to_string(), record.entry.content().copied()),
        Effect::Remove { path, .. } => (path.to_string(), None),
    };
    record.effects.iter().map(of).collect()
}

#[test]
fn what_is_read_ahead_leaves_in_its_turn() {
    let names = ["a/1", "a/2", "a/3", "a/4", "a/5", "b/1", "b/2"];
    let storage = disk(&names);
    let mut changes: Vec<Change> = names.iter().map(|name| look(name, 1)).collect();
    // Others between them, which are not read ahead.
    let directory = Change::Look {
        path: path("b"),
        size: 0,
        is_file: false,
        kind: LookKind::New,
        moved_from: None,
    };
    changes.insert(5, directory);
    changes.insert(2, Change::Remove { path: path("a/2b"), expected: EntryDigest([0; 32]) });
    let (record, problems) = batch(&storage, changes, &|| storage.disk().time(), 0);
    let expected: Vec<_> = ["a/1", "a/2", "a/2b", "a/3", "a/4", "a/5", "b", "b/1", "b/2"]
        .iter()
        .map(|name| {
            let name = (*name).to_owned();
            let content = name.split_once('/').filter(|(_, n)| n.len() == 1);
            let content = content.map(|(_, n)| FileDigest::of_small(n.as_bytes()));
            (name, content)
        })
        .collect();
    assert_eq!(files(&record), expected);
    assert!(problems.is_empty());
}

/// A file that was changed just before it was read may have been changed once more behind what was read, at the
/// same time: that it is old enough when its cut comes says nothing.
#[test]
fn what_was_carried_too_soon_after_its_last_change_is_not_settled() {
    const RACY_NS: i64 = 1_000_000_000;
    let storage = disk(&[]);
    let at = storage.open_directory(storage.root(), b"a").expect("opened");
    let file = storage.create_file(&at, b"large").expect("created");
    storage.write_at(&file, 0, &[7; 200_000]).expect("written");
    let changed = storage.stat(Object::File(&file)).expect("there").ctime;
    let after = |seconds| Timestamp { seconds: changed.seconds + seconds, ..changed };
    let config = CatalogConfig {
        role: CatalogRole::Source,
        cache_bytes: 1 << 20,
        fresh_id: StoreId([1; 16]),
    };
    let catalog = Catalog::open_on(InMemoryBackend::new(), &config).expect("in memory");
    let (index, progress, profile) = (RunIndex::default(), Progress::default(), Profile::default());
    let desk = SignDesk::new(&Sink, 1);
    let gauge = LineGauge::new(Compression::Never, Duration::ZERO, Instant::now());
    let carried = |began: i64| {
        // It takes a minute to read.
        let looks = AtomicI64::new(0);
        let now = || after(began + 60 * looks.fetch_add(1, Relaxed));
        let header = BatchHeader::ahead(1, Epoch(0));
        let mut writer = FrameWriter::begin_ahead(&Sink, header, &gauge, &profile).expect("begun");
        let reader = catalog.reader().expect("a reader");
        let mut ingest = Ingest::new(&storage, reader, &index, &desk, &progress, &now, RACY_NS);
        let read = ingest.carry(1, &path("a/large"), &mut writer).expect("written");
        read.expect("read").settled
    };
    assert_eq!((carried(0), carried(2)), (false, true));
}

/// A directory that may still change unseen is looked at again, and still told from another in its place.
#[test]
fn a_young_directory_keeps_its_inode_alone() {
    let storage = disk(&["a/1"]);
    let change = Change::Look {
        path: path("a"),
        size: 0,
        is_file: false,
        kind: LookKind::New,
        moved_from: None,
    };
    let (record, _) = batch(&storage, vec![change], &|| storage.disk().time(), i64::MAX);
    let [Effect::Put { record, .. }] = &record.effects[..] else { panic!("one entry") };
    let stat = storage.stat(Object::Named(storage.root(), b"a")).expect("there");
    let facts = record.facts.expect("its inode");
    assert_eq!(facts.inode, stat.inode);
    assert_ne!(facts, LocalFacts::of(&stat));
}

/// Of files that are read ahead the clock counts that was read before the first of them was opened: a
/// change just after the read has a change time of then, not of when their turn came.
#[test]
fn a_file_is_as_old_as_when_it_was_read() {
    let names = ["a/1", "a/2", "a/3", "a/4"];
    let storage = disk(&names);
    let racy_ns = 1_000_000_000;
    let changed = storage.disk().time();
    let asked = AtomicI64::new(0);
    // The first time it is asked the files are just made; a turn later they are old.
    let now = || {
        let late = if asked.fetch_add(1, Relaxed) == 0 { 0 } else { 10 };
        Timestamp { seconds: changed.seconds + late, nanos: changed.nanos }
    };
    let changes = names.iter().map(|name| look(name, 1)).collect();
    let (record, _) = batch(&storage, changes, &now, racy_ns);
    assert_eq!(record.effects.len(), 4);
    for effect in &record.effects {
        let Effect::Put { record, path, .. } = effect else { panic!("a removal") };
        assert_eq!(record.facts, None, "{path} would not be looked at again");
    }
}

/// What fails in a batch that is read ahead fails alone, and as it would have in its turn.
#[test]
fn what_cannot_be_read_ahead_harms_no_other() {
    let names = ["a/1", "a/2", "a/3", "a/4"];
    let storage = disk(&names);
    let at = storage.open_directory(storage.root(), b"a").expect("opened");
    storage.unlink(&at, b"2").expect("removed");
    storage.unlink(&at, b"3").expect("removed");
    storage.make_symlink(&at, b"3", b"1").expect("made");
    let (record, problems) =
        batch(&storage, names.iter().map(|n| look(n, 1)).collect(), &|| storage.disk().time(), 0);
    let found: Vec<_> = files(&record).into_iter().map(|(name, _)| name).collect();
    // One vanished, the next run sees it so; one became a link and is sent as that.
    assert_eq!(found, ["a/1", "a/3", "a/4"]);
    assert!(problems.is_empty());
    // A call that fails is the problem of its file.
    storage.disk().fail_read_at(2 + 4, Fault::Eio);
    let (record, problems) =
        batch(&storage, vec![look("a/1", 1), look("a/4", 1)], &|| storage.disk().time(), 0);
    assert_eq!((record.effects.len(), problems.len()), (1, 1), "{problems:?}");
}

/// What moved and is gone by the time it is read leaves nothing at its former path: the walk took that for moved,
/// and nothing happens there any more that would have it looked at again.
#[test]
fn what_moved_and_vanished_is_removed_where_it_was() {
    let moved = |name: &str, from: &str| Change::Look {
        path: path(name),
        size: 3,
        is_file: true,
        kind: LookKind::New,
        moved_from: Some(path(from)),
    };
    // At one former path something stands again: it is looked at by itself.
    let storage = disk(&["a/2"]);
    let changes = vec![moved("b/1", "a/1"), moved("b/2", "a/2"), moved("b/gone/3", "a/3")];
    let now = || storage.disk().time();
    let (record, problems) = batch_for(&["a/1", "a/2", "a/3"], &storage, changes.clone(), &now, 0);
    assert_eq!(files(&record), [("a/1".to_owned(), None), ("a/3".to_owned(), None)]);
    assert!(problems.is_empty(), "{problems:?}");
    // The target never held them.
    let (record, problems) = batch(&storage, changes, &now, 0);
    assert_eq!((record.effects.len(), problems.len()), (0, 0));
}

/// What moved and cannot be read stays where it was at the target, and both paths are told of, so that both are
/// looked at again and counted.
#[test]
fn what_moved_and_cannot_be_read_stays_where_it_was() {
    let storage = disk(&["b/1"]);
    let moved = Change::Look {
        path: path("b/1"),
        size: 3,
        is_file: true,
        kind: LookKind::New,
        moved_from: Some(path("a/1")),
    };
    // Its directory is opened, then it is looked at.
    storage.disk().fail_read_at(2, Fault::Eio);
    let (record, problems) =
        batch_for(&["a/1"], &storage, vec![moved], &|| storage.disk().time(), 0);
    assert_eq!(files(&record), []);
    let paths: Vec<String> = problems.iter().map(|problem| problem.path.to_string()).collect();
    assert_eq!(paths, ["a/1", "b/1"], "{problems:?}");
}

/// For each change of `size` bytes, as the walk saw it, the number of the call that read it.
fn calls(batch_files: usize, size: u64) -> Vec<i64> {
    let disk = SimDisk::new(SimConfig { batch_files, ..SimConfig::default() });
    let storage = disk.mount("").expect("mounted");
    let names: Vec<String> = (0..40).map(|i| format!("f{i}")).collect();
    for name in &names {
        drop(storage.create_file(storage.root(), name.as_bytes()).expect("created"));
    }
    let asked = AtomicI64::new(0);
    let now = || Timestamp { seconds: asked.fetch_add(1, Relaxed), nanos: 0 };
    let mut ahead = Ahead::default();
    let mut changes: VecDeque<Change> = names.iter().map(|name| look(name, size)).collect();
    let mut calls = Vec::new();
    for number in 0..names.len() {
        let read = ahead.take(&storage, &now, number, &changes);
        calls.extend(read.map(|read| read.seen.seconds));
        changes.pop_front();
    }
    calls
}

#[test]
fn ahead_is_bounded() {
    let runs =
        |calls: &[i64]| -> Vec<usize> { calls.chunk_by(|a, b| a == b).map(<[i64]>::len).collect() };
    assert_eq!(runs(&calls(15, 1)), [15, 15, 10], "by files");
    assert_eq!(runs(&calls(100, 64 << 10)), [16, 16, 8], "by bytes");
    assert!(calls(1, 1).is_empty(), "one at a time is read in its turn");
    assert!(calls(100, (64 << 10) + 1).is_empty(), "longer ones are not small");
}

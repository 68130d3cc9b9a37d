//! What a batch touches besides what it is about.

use farshore_core::entry::{Metadata, Timestamp};
use farshore_core::recipe::FileDigest;
use farshore_core::recovery_point::RecoveryPoint;
use farshore_proto::message::StoreId;
use redb::Durability;
use redb::backends::InMemoryBackend;

use super::*;
use crate::catalog::{Catalog, CatalogConfig, CatalogRole, LocalFacts, Record};
use crate::io::sim::{SimConfig, SimDisk, SimStorage};
use crate::own_folder::OwnFolder;
use crate::profile::Profile;
use crate::stage::{Staged, StagedBatch};

fn path(s: &str) -> RelPath {
    RelPath::new(s.as_bytes()).expect("valid")
}

fn folder_at(seconds: i64) -> Entry {
    Entry::Directory {
        meta: Metadata { mtime: Timestamp { seconds, nanos: 0 }, ..Metadata::default() },
    }
}

/// The change times of `a` and `a/b` before and after a batch, and whether the catalog has the facts of `a` as they are then.
fn times_around(
    staged: impl FnOnce(&SimStorage, &OwnFolder<SimStorage>) -> Staged,
) -> ([[Timestamp; 2]; 2], bool) {
    let storage = SimDisk::new(SimConfig::default()).mount("").expect("mounted");
    let own = OwnFolder::open(&storage, StoreId([2; 16])).expect("its own folder");
    let (role, fresh_id) = (CatalogRole::Target, StoreId([1; 16]));
    let config = CatalogConfig { role, cache_bytes: 1 << 20, fresh_id };
    let catalog = Catalog::open_on(InMemoryBackend::new(), &config).expect("in memory");
    let stat =
        |at: &str| Parents::new(&storage).stat(&path(at)).expect("looked at").expect("there");
    let folders = ["a", "a/b"];
    for at in folders {
        let path = path(at);
        let (parent, name) = path.split().expect("below the root");
        let above = storage.open_directory(storage.root(), parent.as_bytes()).expect("open");
        storage.make_directory(&above, name).expect("made");
    }
    let begun = catalog.update(Durability::Immediate, |t| {
        t.put(&RelPath::root(), &Record { entry: folder_at(0), facts: None })?;
        for at in folders {
            let facts = Some(LocalFacts::of(&stat(at)));
            let meta = Metadata { mtime: stat(at).mtime, ..Metadata::default() };
            t.put(&path(at), &Record { entry: Entry::Directory { meta }, facts })?;
        }
        t.set_applied_batch(1)?;
        let root = t.seal()?;
        let (sequence, time_unix_ms, entries, bytes, exceptions) = (1, 2, 2, 0, 0);
        let point = RecoveryPoint { sequence, time_unix_ms, root, entries, bytes, exceptions };
        t.set_recovery_point(&point, StoreId([3; 16]))
    });
    begun.expect("begun");
    storage.make_directory(&own.staging, b"b2").expect("made");
    let before = folders.map(|at| stat(at).ctime);
    let staged = vec![staged(&storage, &own)];
    let batch = StagedBatch { batch: 2, staged, ..StagedBatch::default() };
    let profile = Profile::default();
    let (storage, catalog, own, now_ms) = (&storage, &catalog, &own, &|| 7);
    let applier = Applier { storage, catalog, own, now_ms, profile: &profile };
    let receipts = applier.apply(vec![batch]).expect("applied");
    assert!(receipts[0].failures.is_empty(), "{receipts:?}");
    let after = folders.map(|at| stat(at).ctime);
    let record = catalog.reader().expect("reader").get(&path("a")).expect("read").expect("there");
    let is_known = record.facts == Some(LocalFacts::of(&stat("a")));
    ([[before[0], after[0]], [before[1], after[1]]], is_known)
}

/// A directory that is only given other metadata leaves the one above it alone: nothing is set there, and its
/// record need not be written again.
#[test]
fn metadata_of_a_directory_does_not_touch_the_one_above() {
    let ([above, itself], is_known) =
        times_around(|_, _| Staged::Meta { path: path("a/b"), entry: folder_at(5) });
    assert_eq!(above[0], above[1], "nothing was done there");
    assert_ne!(itself[0], itself[1]);
    assert!(is_known);
}

/// What a name is made in is known with the facts it has then.
#[test]
fn a_directory_that_is_written_in_is_recorded_anew() {
    let place = |storage: &SimStorage, own: &OwnFolder<SimStorage>| {
        let staging = storage.open_directory(&own.staging, b"b2").expect("opened");
        let file = storage.create_file(&staging, b"1").expect("created");
        storage.write_at(&file, 0, b"x").expect("written");
        let mtime = storage.stat(Object::File(&file)).expect("looked at").mtime;
        let meta = Metadata { mtime, ..Metadata::default() };
        let entry = Entry::File { size: 1, content: FileDigest::of_small(b"x"), meta };
        Staged::Place { number: 1, path: path("a/f"), entry }
    };
    let ([above, itself], is_known) = times_around(place);
    assert_ne!(above[0], above[1]);
    assert_eq!(itself[0], itself[1]);
    assert!(is_known);
}

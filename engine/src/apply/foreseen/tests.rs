//! What is foreseen comes out as what is not.

use farshore_core::entry::Metadata;
use farshore_core::recovery_point::RecoveryPoint;
use farshore_proto::message::StoreId;
use redb::backends::InMemoryBackend;

use super::*;
use crate::catalog::{Catalog, CatalogConfig, CatalogRole, LocalFacts};
use crate::io::Object;
use crate::io::sim::{SimConfig, SimDisk, SimStorage};
use crate::own_folder::OwnFolder;
use crate::profile::Profile;
use crate::stage::{Staged, StagedBatch};

fn path(s: &str) -> RelPath {
    RelPath::new(s.as_bytes()).expect("valid")
}

/// A file of `content`, and its record.
fn file(
    storage: &SimStorage,
    at: &<SimStorage as Storage>::Directory,
    name: &str,
    content: &[u8],
) -> Record {
    let file = storage.create_file(at, name.as_bytes()).expect("created");
    storage.write_at(&file, 0, content).expect("written");
    let stat = storage.stat(Object::File(&file)).expect("looked at");
    let meta = Metadata { mtime: stat.mtime, ..Metadata::default() };
    let entry =
        Entry::File { size: content.len() as u64, content: FileDigest::of_small(content), meta };
    Record { entry, facts: Some(LocalFacts::of(&stat)) }
}

/// What there is after a batch that removes, replaces and makes a file, and tries to make one where it cannot when
/// `one_fails`; and whether the digests were up to date at once.
fn after_a_batch(sealed: bool, one_fails: bool) -> (String, bool) {
    let storage = SimDisk::new(SimConfig::default()).mount("").expect("mounted");
    let own = OwnFolder::open(&storage, StoreId([2; 16])).expect("its own folder");
    let (role, fresh_id) = (CatalogRole::Target, StoreId([1; 16]));
    let config = CatalogConfig { role, cache_bytes: 1 << 20, fresh_id };
    let catalog = Catalog::open_on(InMemoryBackend::new(), &config).expect("in memory");
    let root = storage.root();
    let known = [("gone", &b"1"[..]), ("kept", b"22"), ("other", b"333")]
        .map(|(name, content)| (path(name), file(&storage, root, name, content)));
    let expected = known[0].1.entry.digest();
    let begun = catalog.update(Durability::Immediate, |t| {
        let meta = Metadata::default();
        t.put(&RelPath::root(), &Record { entry: Entry::Directory { meta }, facts: None })?;
        known.iter().try_for_each(|(path, record)| t.put(path, record))?;
        t.set_applied_batch(1)?;
        let root = t.seal()?;
        let (sequence, time_unix_ms, entries, bytes, exceptions) = (1, 2, 3, 6, 0);
        let point = RecoveryPoint { sequence, time_unix_ms, root, entries, bytes, exceptions };
        if sealed { t.set_recovery_point(&point, StoreId([3; 16])) } else { Ok(()) }
    });
    begun.expect("begun");
    storage.make_directory(&own.staging, b"b2").expect("made");
    let folder = storage.open_directory(&own.staging, b"b2").expect("opened");
    let place = |number: u32, at: &str, content: &[u8]| {
        let entry = file(&storage, &folder, &number.to_string(), content).entry;
        Staged::Place { number, path: path(at), entry }
    };
    let mut staged = vec![
        Staged::Remove { number: 1, path: path("gone"), expected },
        place(2, "kept", b"4444"),
        place(3, "new", b"55555"),
    ];
    let nowhere = one_fails.then(|| place(4, "nowhere/new", b"666666"));
    staged.extend(nowhere);
    let batch = StagedBatch { batch: 2, staged, ..StagedBatch::default() };
    let profile = Profile::default();
    let applier = Applier {
        storage: &storage,
        catalog: &catalog,
        own: &own,
        now_ms: &|| 7,
        profile: &profile,
    };
    let receipts = applier.apply(vec![batch]).expect("applied");
    let reader = catalog.reader().expect("reader");
    let records: Vec<_> =
        reader.records_below(&RelPath::root()).expect("read").map(|r| r.expect("read")).collect();
    let failed = u64::from(one_fails);
    assert_eq!(receipts[0].failures.len() as u64, failed, "{receipts:?}");
    let totals = (reader.entry_count().expect("read"), reader.content_bytes().expect("read"));
    assert_eq!(totals, (3, 3 + 4 + 5));
    let digest = reader.root_digest().expect("read");
    let sealed_root = catalog.sealed_root().expect("sealed");
    let held = [&b"1"[..], b"22", b"4444", b"55555", b"666666"]
        .map(|content| reader.locations(&FileDigest::of_small(content), 9).expect("read"));
    let all = (records, totals, reader.history_sets().expect("read"), held, sealed_root, receipts);
    assert_eq!(reader.applied_batch().expect("read"), 2);
    (format!("{all:?}"), digest == sealed_root)
}

#[test]
fn a_batch_is_recorded_as_it_came_out_foreseen_or_not() {
    for one_fails in [false, true] {
        let (foreseen, up_to_date) = after_a_batch(true, one_fails);
        let (plain, plain_up_to_date) = after_a_batch(false, one_fails);
        assert_eq!(foreseen, plain, "one fails: {one_fails}");
        // What failed was not foreseen, and a tree that was never sealed is not.
        assert_eq!((up_to_date, plain_up_to_date), (!one_fails, false));
    }
}

//! What a catalog keeps, finds and refuses.

use farshore_core::codec::Encoder;
use farshore_core::entry::{Entry, Metadata, Timestamp};
use farshore_core::recipe::FileDigest;
use farshore_core::recovery_point::RecoveryPoint;
use redb::backends::InMemoryBackend;

use super::record::{decode_history, decode_history_set, location_key, parse_location};
use super::*;

fn open(role: CatalogRole) -> Catalog {
    let config = CatalogConfig { role, cache_bytes: 1 << 20, fresh_id: StoreId([1; 16]) };
    Catalog::open_on(InMemoryBackend::new(), &config).expect("in memory")
}

fn path(s: &str) -> RelPath {
    RelPath::new(s.as_bytes()).expect("valid")
}

fn file(content: &[u8], inode: u64) -> Record {
    Record {
        entry: Entry::File {
            size: content.len() as u64,
            content: FileDigest::of_small(content),
            meta: Metadata::default(),
        },
        facts: Some(LocalFacts {
            inode,
            ctime: Timestamp::default(),
            mtime: Timestamp { seconds: -1, nanos: 5 },
            size: content.len() as u64,
            owner_mode: (0o644, 1, 2),
        }),
    }
}

fn directory() -> Record {
    Record { entry: Entry::Directory { meta: Metadata::default() }, facts: None }
}

fn put_all(catalog: &Catalog, records: &[(&str, Record)]) -> RootDigest {
    catalog
        .update(Durability::Immediate, |t| {
            for (p, r) in records {
                t.put(&path(p), r)?;
            }
            t.seal()
        })
        .expect("update")
}

#[test]
fn root_depends_on_the_entries_not_on_the_way_there() {
    let all = [
        ("a", directory()),
        ("b", directory()),
        ("a/x", file(b"1", 10)),
        ("a/y", file(b"2", 11)),
        ("b/c", directory()),
    ];
    let straight = put_all(&open(CatalogRole::Source), &all);
    let detour = open(CatalogRole::Target);
    put_all(&detour, &[("a", file(b"was a file", 1)), ("z", directory()), ("z/q", file(b"3", 3))]);
    detour
        .update(Durability::Immediate, |t| {
            t.remove_below(&path("z"))?;
            t.remove(&path("z"))?;
            t.remove(&path("a")).map(|_| ())
        })
        .expect("remove");
    assert_eq!(put_all(&detour, &all), straight);
    let reader = detour.reader().expect("reader");
    assert_eq!(reader.entry_count().expect("count"), 5);
    assert_eq!(reader.content_bytes().expect("bytes"), 2);
    assert_eq!(reader.root_digest().expect("root"), straight);
}

/// A directory whose content was acknowledged before it: both ends would agree on its being empty.
#[test]
fn a_directory_that_comes_after_its_content_has_it_in_its_digest() {
    let all = [
        ("a", directory()),
        ("a/x", file(b"1", 10)),
        ("a/b", directory()),
        ("a/b/y", file(b"2", 11)),
    ];
    let straight = put_all(&open(CatalogRole::Source), &all);
    let catalog = open(CatalogRole::Target);
    for (path, record) in all.into_iter().rev() {
        put_all(&catalog, &[(path, record)]);
    }
    assert_eq!(catalog.sealed_root().expect("root"), straight);
}

#[test]
fn contents_follow_puts_and_removals() {
    let catalog = open(CatalogRole::Source);
    put_all(&catalog, &[("a", file(b"same", 1)), ("b", file(b"same", 2))]);
    let content = FileDigest::of_small(b"same");
    let live = |s: &str| Location::Live(path(s));
    let reader = catalog.reader().expect("reader");
    assert_eq!(reader.locations(&content, 9).expect("locations"), [live("a"), live("b")]);
    assert_eq!(reader.path_of_inode(2).expect("inode"), Some(path("b")));
    put_all(&catalog, &[("a", file(b"other", 1))]);
    catalog.update(Durability::None, |t| t.remove(&path("b"))).expect("remove");
    let reader = catalog.reader().expect("reader");
    assert!(!reader.has_content(&content).expect("contents"));
    assert_eq!(reader.path_of_inode(2).expect("inode"), None);
    assert_eq!(reader.path_of_inode(1).expect("inode"), Some(path("a")));
}

#[test]
fn history_keeps_content_findable_until_it_is_pruned() {
    let catalog = open(CatalogRole::Target);
    let id = HistoryId { set: 7, number: 3 };
    let record = HistoryRecord { path: path("a"), entry: Some(file(b"old", 1).entry) };
    catalog
        .update(Durability::Immediate, |t| {
            t.put_history(id, &record)?;
            t.put_history_set(7, &HistorySet { time_unix_ms: 1, bytes: 3, versions: 1 })
        })
        .expect("history");
    let reader = catalog.reader().expect("reader");
    let content = FileDigest::of_small(b"old");
    assert_eq!(reader.locations(&content, 9).expect("locations"), [Location::History(id)]);
    assert_eq!(reader.history(id).expect("history"), Some(record));
    catalog.update(Durability::Immediate, |t| t.remove_history_set(7)).expect("prune");
    let reader = catalog.reader().expect("reader");
    assert!(!reader.has_content(&content).expect("contents"));
    assert!(reader.history_sets().expect("sets").is_empty());
}

#[test]
fn what_waits_for_the_indexes_is_found_before_and_after_it_is_settled() {
    let catalog = open(CatalogRole::Source);
    let same = FileDigest::of_small(b"same");
    let found = |catalog: &Catalog| {
        let reader = catalog.reader().expect("reader");
        (reader.locations(&same, 9).expect("locations"), reader.path_of_inode(1).expect("inode"))
    };
    let put = |p: &str, record: Record| {
        catalog.update(Durability::None, |t| t.put(&path(p), &record)).expect("put");
    };
    put("a", file(b"same", 1));
    let expected = (vec![Location::Live(path("a"))], Some(path("a")));
    assert_eq!(found(&catalog), expected);
    catalog.settle().expect("settle");
    assert_eq!(found(&catalog), expected);
    // One in the table, one waiting, and both go.
    put("b", file(b"same", 2));
    assert_eq!(found(&catalog).0.len(), 2);
    let gone = |p: &str| catalog.update(Durability::None, |t| t.remove(&path(p))).expect("remove");
    gone("a");
    gone("b");
    assert_eq!(found(&catalog), (Vec::new(), None));
    catalog.settle().expect("settle");
    assert_eq!(found(&catalog), (Vec::new(), None));
    // Settled and taken out within one transaction.
    put("c", file(b"same", 1));
    catalog
        .update(Durability::None, |t| {
            t.settle()?;
            t.remove(&path("c"))
        })
        .expect("update");
    assert_eq!(found(&catalog), (Vec::new(), None));
}

#[test]
fn a_catalog_whose_indexes_a_crash_left_behind_is_indexed_anew() {
    for role in [CatalogRole::Source, CatalogRole::Target] {
        let dir = tempfile::tempdir().expect("tempdir");
        let (used, crashed) = (dir.path().join("used.redb"), dir.path().join("crashed.redb"));
        let config = CatalogConfig { role, cache_bytes: 1 << 20, fresh_id: StoreId([9; 16]) };
        let content = FileDigest::of_small(b"same");
        let id = HistoryId { set: 3, number: 1 };
        {
            let catalog = Catalog::open(&used, &config).expect("create");
            catalog
                .update(Durability::Immediate, |t| {
                    t.put(&path("a"), &file(b"same", 7))?;
                    let entry = Some(file(b"same", 8).entry);
                    t.put_history(id, &HistoryRecord { path: path("o"), entry })
                })
                .expect("put");
            // As a crash would leave it: nothing was settled.
            std::fs::copy(&used, &crashed).expect("copy");
        }
        let catalog = Catalog::open(&crashed, &config).expect("open");
        let reader = catalog.reader().expect("reader");
        let found = reader.locations(&content, 9).expect("locations");
        match role {
            // A source's catalog may have been a target's: that site's history is no basis here.
            CatalogRole::Source => {
                assert_eq!(found, [Location::Live(path("a"))]);
                assert_eq!(reader.path_of_inode(7).expect("inode"), Some(path("a")));
            }
            CatalogRole::Target => {
                assert_eq!(found, [Location::Live(path("a")), Location::History(id)]);
            }
        }
        assert!(lock(&catalog.pending).is_empty());
    }
}

/// A transaction that fails loses what waited; the next ones do not make up for it.
#[test]
fn what_a_failed_transaction_lost_is_indexed_anew() {
    let dir = tempfile::tempdir().expect("tempdir");
    let file_path = dir.path().join("catalog.redb");
    let config = CatalogConfig {
        role: CatalogRole::Source,
        cache_bytes: 1 << 20,
        fresh_id: StoreId([9; 16]),
    };
    let catalog = Catalog::open(&file_path, &config).expect("create");
    let put = |p: &str, record: &Record| {
        catalog.update(Durability::Immediate, |t| t.put(&path(p), record)).expect("put");
    };
    put("a", &file(b"waits", 7));
    let failed: Result<()> = catalog.update(Durability::Immediate, |_| {
        Err(damaged("entries")(DecodeError::Truncated { what: "a test" }))
    });
    assert!(failed.is_err());
    put("d", &directory());
    catalog.settle().expect("settle");
    drop(catalog);
    let catalog = Catalog::open(&file_path, &config).expect("open");
    let reader = catalog.reader().expect("reader");
    let content = FileDigest::of_small(b"waits");
    assert_eq!(reader.locations(&content, 9).expect("found"), [Location::Live(path("a"))]);
    assert_eq!(reader.path_of_inode(7).expect("inode"), Some(path("a")));
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_a_row_or_refused(bytes: Vec<u8>, at: proptest::sample::Index, to: u8) {
        let mut damaged = file(b"a row", 3).to_bytes();
        let at = at.index(damaged.len());
        damaged[at] = to;
        for row in [&bytes, &damaged] {
            if let Ok(record) = Record::from_bytes(row) {
                assert_eq!(Record::from_bytes(&record.to_bytes()), Ok(record));
            }
            let _decoded_or_refused = (decode_history(row).is_ok(), decode_history_set(row).is_ok());
            let key = [[7; 32].as_slice(), row].concat();
            if let Some(location) = parse_location(&key) {
                assert_eq!(location_key(&FileDigest([7; 32]), &location), key);
            }
        }
    }
}

#[test]
fn counts_hold_any_sizes_and_damaged_ones_are_an_error() {
    let huge = |n| {
        let mut record = file(b"huge", n);
        if let Entry::File { size, .. } = &mut record.entry {
            *size = u64::MAX >> 1;
        }
        record
    };
    let catalog = open(CatalogRole::Target);
    put_all(&catalog, &[("a", huge(1)), ("b", huge(2)), ("c", huge(3)), ("d", file(b"1", 4))]);
    let bytes = |c: &Catalog| c.reader().expect("reader").content_bytes().expect("bytes");
    assert_eq!(bytes(&catalog), u64::MAX);
    for gone in ["a", "b", "c"] {
        catalog.update(Durability::None, |t| t.remove(&path(gone))).expect("remove");
    }
    assert_eq!(bytes(&catalog), 1);
    for count in ["bytes", "entries"] {
        let txn = catalog.db.begin_write().expect("begin");
        let mut e = Encoder::new();
        e.put_u64(0);
        let mut meta = txn.open_table(META).expect("meta");
        meta.insert(count, e.as_slice()).expect("damage");
        drop(meta);
        txn.commit().expect("commit");
        let removed = catalog.update(Durability::None, |t| t.remove(&path("d")));
        assert!(matches!(removed, Err(CatalogError::Damaged { .. })), "{count}");
    }
}

#[test]
fn a_catalog_of_the_other_role_is_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    let file = dir.path().join("catalog.redb");
    let config = |role| CatalogConfig { role, cache_bytes: 1 << 20, fresh_id: StoreId([9; 16]) };
    let first = Catalog::open(&file, &config(CatalogRole::Source)).expect("create");
    assert!(matches!(
        Catalog::open(&file, &config(CatalogRole::Source)),
        Err(CatalogError::Busy { .. })
    ));
    drop(first);
    assert!(matches!(
        Catalog::open(&file, &config(CatalogRole::Target)),
        Err(CatalogError::Foreign { .. })
    ));
}

fn point(sequence: u64) -> RecoveryPoint {
    let (time_unix_ms, root) = (0, RootDigest([0; 32]));
    RecoveryPoint { sequence, time_unix_ms, root, entries: 0, bytes: 0, exceptions: 0 }
}

/// What is noted says what stood where, goes with its set, and takes the points with it that need it.
#[test]
fn former_entries_are_noted_from_the_first_point_on_until_their_set_is_pruned() {
    let catalog = open(CatalogRole::Target);
    put_all(&catalog, &[("a", file(b"one", 1))]);
    let batch = |number: u64, sequence: u64, change: &dyn Fn(&mut CatalogTables<'_>)| {
        catalog
            .update(Durability::Immediate, |t| {
                t.note_for(number)?;
                change(t);
                let kept = HistorySet { time_unix_ms: 0, bytes: 10, versions: 0 };
                t.put_history_of(number, &kept)?;
                t.set_applied_batch(number)?;
                t.put_point(&point(sequence), 0)
            })
            .expect("a batch");
    };
    let put = |t: &mut CatalogTables<'_>, p: &str, record: &Record| {
        t.put(&path(p), record).expect("put");
    };
    batch(1, 1, &|t| put(t, "b", &file(b"b", 2)));
    let reader = catalog.reader().expect("reader");
    assert_eq!(reader.undo_floor().expect("floor"), Some(1));
    assert_eq!(reader.former(&path("b"), 0).expect("former"), None, "there was no point yet");
    batch(2, 2, &|t| {
        put(t, "a", &file(b"two", 1));
        put(t, "a", &file(b"three", 1));
        put(t, "d", &directory());
        put(t, "d/e", &file(b"e", 3));
        put(t, "d/e", &file(b"f", 3));
    });
    batch(3, 3, &|t| {
        put(t, "a", &file(b"four", 1));
        drop(t.remove(&path("b")).expect("removed"));
    });
    let reader = catalog.reader().expect("reader");
    let former =
        |p: &str, after| reader.former(&path(p), after).expect("former").map(|f| (f.set, f.entry));
    assert_eq!(former("a", 1), Some((2, Some(file(b"one", 1).entry))), "the first note stays");
    assert_eq!(former("a", 2), Some((3, Some(file(b"three", 1).entry))));
    assert_eq!(former("a", 3), None);
    assert_eq!(former("b", 2), Some((3, Some(file(b"b", 2).entry))));
    assert_eq!(former("d", 1), Some((2, None)));
    assert_eq!(former("d/e", 1), None, "it came with its directory");
    assert_eq!(reader.made_after(&path("d"), 1).expect("made"), Some(2));
    assert_eq!(reader.history_totals().expect("totals"), (2, 20));
    drop(reader);
    catalog.update(Durability::Immediate, |t| t.remove_history_set(2)).expect("pruned");
    let reader = catalog.reader().expect("reader");
    let left: Vec<Former> = reader
        .formers_below(&RelPath::root(), 0, false)
        .expect("formers")
        .collect::<Result<_, _>>()
        .expect("formers");
    assert!(left.iter().all(|f| f.set == 3) && left.len() == 2, "{left:?}");
    assert_eq!(reader.made_after(&path("d"), 1).expect("made"), None);
    let sequences: Vec<u64> =
        reader.points().expect("points").iter().map(|p| p.point.sequence).collect();
    assert_eq!((reader.undo_floor().expect("floor"), sequences), (Some(2), vec![2, 3]));
    assert_eq!(reader.history_totals().expect("totals"), (1, 10));
}

/// What was attempted and not kept is as if it had not been, what waits for its index as well.
#[test]
fn an_attempt_that_is_not_kept_leaves_nothing() {
    let catalog = open(CatalogRole::Source);
    let root = put_all(&catalog, &[("a", directory()), ("a/x", file(b"1", 10))]);
    let settled = catalog.settle();
    settled.expect("settled");
    let waits = [("a/y", file(b"2", 11))];
    let with_waiting = put_all(&catalog, &waits);
    let attempt = |keep| {
        let tried = catalog.attempt(Durability::None, |t| {
            t.put(&path("a/z"), &file(b"3", 12))?;
            t.put(&path("a/x"), &file(b"4", 13))?;
            t.remove(&path("a/y"))?;
            t.settle()?;
            Ok((t.seal()?, keep))
        });
        tried.expect("tried")
    };
    let found = || {
        let reader = catalog.reader().expect("reader");
        let inodes = [10, 11, 12, 13].map(|inode| reader.path_of_inode(inode).expect("read"));
        let contents = [b"1", b"2", b"3", b"4"]
            .map(|content| reader.has_content(&FileDigest::of_small(content)).expect("read"));
        let counts = (reader.entry_count().expect("read"), reader.content_bytes().expect("read"));
        (inodes, contents, counts, reader.root_digest().expect("read"))
    };
    let before = found();
    assert_eq!(before.3, with_waiting);
    assert_ne!(root, with_waiting);
    let other = attempt(Keep::Nothing);
    assert_ne!(other, with_waiting);
    assert_eq!(found(), before);
    // Nothing was lost of what waited: the catalog counts as indexed once that is settled.
    catalog.settle().expect("settled");
    assert_eq!(found(), before);
    assert_eq!(catalog.reader().expect("reader").meta_u64("indexed").expect("read"), 1);
    assert_eq!(attempt(Keep::All), other);
    let [x, y, z, moved] = found().0;
    assert_eq!((x, y), (None, None));
    assert_eq!((z, moved), (Some(path("a/z")), Some(path("a/x"))));
    assert_eq!(found().1, [false, false, true, true]);
    assert_eq!(found().3, other);
}

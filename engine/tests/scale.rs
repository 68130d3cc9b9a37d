//! What a scan holds does not grow with the tree: counted, on trees nobody had to make.
//! `cargo run --release -p farshore-engine --example scale` measures the same in bytes.

use farshore_core::policy::ReplicateAll;
use farshore_engine::catalog::{Catalog, CatalogConfig, CatalogRole};
use farshore_engine::check::check;
use farshore_engine::plan::plan;
use farshore_engine::scan::Held;
use farshore_proto::message::StoreId;

#[path = "scale/invented.rs"]
mod invented;

use invented::Invented;

/// What reading ahead may hold: the bounds of the scan, a directory of 100 names for each of five
/// threads, and what the consumer was given.
fn assert_bounded(held: Held) {
    assert!(held.entries <= (64 << 10) + 2 * 4_096, "{held:?}");
    assert!(held.directories <= 129, "{held:?}");
    assert!(held.handles <= 257, "{held:?}");
}

fn scanned(entries: u64, flat: bool, threads: usize) -> Held {
    let tree = Invented::new(entries, flat);
    let mut met = 0;
    let held =
        farshore_engine::scan::scan(&tree, &ReplicateAll, b".farshore", threads, &mut |_| {
            met += 1;
            Ok::<_, ()>(())
        });
    assert_eq!(met, 1 + tree.len());
    held.expect("nobody stops it")
}

#[test]
fn a_million_entries_are_never_held() {
    for threads in [1, 4] {
        let held = scanned(1_000_000, false, threads);
        assert_bounded(held);
        assert!(held.names <= (64 << 10) + 5 * 100, "{held:?}");
    }
}

#[test]
fn a_million_names_in_one_directory_are_looked_at_in_pieces() {
    for threads in [1, 4] {
        let held = scanned(1_000_000, true, threads);
        assert_bounded(held);
        assert_eq!(held.names, 1_000_000, "the names themselves are held");
    }
}

#[test]
fn the_whole_path_by_the_catalog_finds_every_entry_once_and_then_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = CatalogConfig {
        role: CatalogRole::Target,
        cache_bytes: 8 << 20,
        fresh_id: StoreId([1; 16]),
    };
    let catalog = Catalog::open(&folder.path().join("catalog"), &config).expect("made");
    let tree = Invented::new(50_000, false);
    for expected in [tree.len(), 0] {
        let report = check(&tree, &catalog, 3, folder.path(), &mut |_| ()).expect("checked");
        assert_eq!((report.foreign_changes, report.problems.len() as u64), (expected, 0));
    }
    let reader = catalog.reader().expect("read");
    assert_eq!(reader.entry_count().expect("counted"), tree.len());
    let found = plan(&tree, &reader, &ReplicateAll, b"", 3, folder.path(), &mut |_| ());
    let found = found.expect("planned");
    assert!(found.is_empty());
    assert_eq!(found.tally.found, tree.len());
    assert_bounded(found.held);
}

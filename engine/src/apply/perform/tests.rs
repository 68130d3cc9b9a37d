//! What a batch touches besides what it is about, and what is known of that.

use farshore_core::entry::{Metadata, Timestamp};

use super::*;
use crate::apply::bed::{Bed, path};
use crate::catalog::{LocalFacts, Record};
use crate::io::sim::SimConfig;
use crate::stage::Staged;

const FOLDERS: [&str; 2] = ["a", "a/b"];

/// The change times of each of the folders before and after a batch, which the catalog knows as they are then.
fn change_times_around(
    config: SimConfig,
    staged: impl FnOnce(&Bed) -> Staged,
) -> [[Timestamp; 2]; 2] {
    let bed = Bed::new(config);
    let storage = &bed.storage;
    let stat = |at: &RelPath| Parents::new(storage).stat(at).expect("looked at").expect("there");
    let known = FOLDERS.map(|at| {
        let path = path(at);
        let (parent, name) = path.split().expect("below the root");
        let above = storage.open_directory(storage.root(), parent.as_bytes()).expect("open");
        storage.make_directory(&above, name).expect("made");
        path
    });
    // What is made in a folder moves its time.
    let known = known.map(|path| {
        let stat = stat(&path);
        let meta = Metadata { mtime: stat.mtime, ..Metadata::default() };
        (path, Record { entry: Entry::Directory { meta }, facts: Some(LocalFacts::of(&stat)) })
    });
    bed.knows(&known, true);
    let times = || FOLDERS.map(|at| stat(&path(at)).ctime);
    let before = times();
    let receipts = bed.apply(vec![staged(&bed)]);
    assert!(receipts[0].failures.is_empty(), "{receipts:?}");
    let reader = bed.catalog.reader().expect("reader");
    for at in FOLDERS {
        let record = reader.get(&path(at)).expect("read").expect("known");
        assert_eq!(record.facts, Some(LocalFacts::of(&stat(&path(at)))), "{at}");
    }
    let after = times();
    [0, 1].map(|n| [before[n], after[n]])
}

fn other_metadata(_: &Bed) -> Staged {
    let mtime = Timestamp { seconds: 5, nanos: 0 };
    let meta = Metadata { mtime, ..Metadata::default() };
    Staged::Meta { path: path("a/b"), entry: Entry::Directory { meta } }
}

/// A directory that is only given other metadata leaves the one above it alone: nothing is set there.
#[test]
fn metadata_of_a_directory_does_not_touch_the_one_above() {
    let [above, itself] = change_times_around(SimConfig::default(), other_metadata);
    assert_eq!(above[0], above[1], "nothing was done there");
    assert_ne!(itself[0], itself[1]);
}

/// What a name is made in is known with the facts it has then.
#[test]
fn a_directory_that_is_written_in_is_recorded_anew() {
    let place = |bed: &Bed| {
        let entry = bed.file(&bed.staging(), "1", b"x").entry;
        Staged::Place { number: 1, path: path("a/f"), entry }
    };
    let [above, itself] = change_times_around(SimConfig::default(), place);
    assert_ne!(above[0], above[1]);
    assert_eq!(itself[0], itself[1]);
}

/// Where a sync moves change times, inodes are looked at behind it and not beside it.
#[test]
fn what_a_server_makes_of_a_time_when_it_writes_back_is_known() {
    const NFS: u64 = 0x6969;
    let config = SimConfig { file_system: NFS, sync_moves_ctime: true, ..SimConfig::default() };
    change_times_around(config, other_metadata);
}

//! Replays over a tree on a real disk.

#![allow(clippy::unwrap_used)]

use farshore_core::entry::Timestamp;
use farshore_engine::io::posix::PosixStorage;
use farshore_policies::RuleSet;

use super::*;

fn rules(excludes: &[&str]) -> RuleSet {
    let mut builder = RuleSet::builder(Timestamp { seconds: 2_000_000_000, nanos: 0 });
    for rule in excludes {
        builder.push(Action::Exclude, rule.as_bytes()).unwrap();
    }
    builder.build()
}

fn place() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    for folder in ["a/old", "a/both", "b"] {
        std::fs::create_dir_all(place.path().join(folder)).unwrap();
    }
    for file in ["a/old/x.tmp", "a/old/y", "a/both/z", "a/after.iso", "b/x.tmp", "b/y"] {
        std::fs::write(place.path().join(file), "12345").unwrap();
    }
    place
}

fn replay(before: &[&str], after: &[&str], threads: usize) -> Replay {
    let place = place();
    let storage = PosixStorage::open(place.path()).unwrap();
    let (before, after) = (rules(before), rules(after));
    tree(Both { before: &before, after: &after }, &storage, threads)
}

fn paths(replay: &Replay) -> Vec<String> {
    let line = |c: &Change| format!("{} {:?}->{:?}", c.path, c.before, c.after);
    replay.changes.iter().map(line).collect()
}

#[test]
fn what_would_change_is_counted_down_to_the_last_file() {
    for threads in [1, 2] {
        let found = replay(&["/a/old/", "/a/both/"], &["/a/both/", "*.tmp"], threads);
        assert_eq!(
            paths(&found),
            ["a/old Stays->Travels", "a/old/y Stays->Travels", "b/x.tmp Travels->Stays"]
        );
        // a, b, a/both, which is not entered, a/old and what is in it, and three files.
        assert_eq!(found.seen, Amount { entries: 9, bytes: 25 });
        assert_eq!(found.amount(Fate::Travels, Fate::Stays), Amount { entries: 1, bytes: 5 });
        assert_eq!(found.amount(Fate::Stays, Fate::Stays).entries, 2);
        assert_eq!(found.changed(), 3);
        assert_eq!(found.unknown.len(), 0);
    }
}

#[test]
fn what_lies_below_an_excluded_directory_counts_for_its_rule() {
    let found = replay(&[], &["/a/"], 1);
    assert_eq!(found.amount(Fate::Travels, Fate::Stays), Amount { entries: 7, bytes: 20 });
    assert_eq!(found.by_rule.get(&1), Some(&Amount { entries: 7, bytes: 20 }));
    let file = found.changes.iter().find(|c| c.path.as_bytes() == b"a/old/y").unwrap();
    assert_eq!(file.below.as_ref().map(RelPath::as_bytes), Some(&b"a"[..]));
    assert_eq!(file.rule, Some(1));
    let same = replay(&["/a/"], &["/a/"], 1);
    assert_eq!((same.changed(), same.seen.entries), (0, 4));
}

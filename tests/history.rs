//! History of a standby: going back to each of its recovery points, on real trees.
//!
//! The truth at each point is a copy of the source made by `cp -a`; trees are compared by
//! `farshore-test-support`, which shares no code with the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use farshore::history::Standby;
use farshore::state::State;
use farshore_core::recipe::FileDigest;
use farshore_engine::catalog::Location;
use farshore_test_support::{Rng, compare, mutate, without_holes};
use serde_json::Value;

#[allow(dead_code)]
mod common;
#[path = "replication/sites.rs"]
#[allow(dead_code, unreachable_pub)]
mod sites;

use common::{expect, farshore, json, text};
use sites::{Sites, noise, put, seeds};

/// A point and what the source was at it.
struct Truth {
    point: u64,
    tree: PathBuf,
}

impl Sites {
    fn history(&self, words: &[&str]) -> std::process::Output {
        let mut args: Vec<&str> = words.to_vec();
        args.extend(["--state", text(&self.state)]);
        farshore(&args)
    }

    /// Replicates and keeps a copy of the source.
    fn truth(&self) -> Truth {
        let run = self.run_approved();
        let point = run.sealed().sequence;
        let tree = self.top().join(format!("truth-{point}"));
        copy(&self.a, &tree);
        Truth { point, tree }
    }

    fn is(&self, truth: &Truth, when: &str) {
        let found = without_holes(compare(&truth.tree, &self.b, &[b".farshore"]));
        assert!(found.is_empty(), "{when}: {} differences: {found:#?}", found.len());
    }

    /// No version that is kept is a further name of a file that is not.
    #[track_caller]
    fn shares_nothing_with_history(&self) {
        let (mut kept, mut live) = (BTreeMap::new(), BTreeMap::new());
        let history = self.b.join(".farshore/history");
        names_of_inodes(&history, &|_| true, &mut kept);
        names_of_inodes(&self.b, &|path| *path != history, &mut live);
        let both: Vec<_> = kept.iter().filter_map(|(i, path)| Some((path, live.get(i)?))).collect();
        assert!(both.is_empty(), "{both:?}");
    }

    #[track_caller]
    fn back_to(&self, to: &str) -> Value {
        let out =
            self.history(&["history", "rollback", text(&self.b), "--to", to, "--yes", "--json"]);
        expect(&out, 0, &[]);
        let object = json(&out);
        assert_eq!(object["outcome"], "done", "{object}");
        assert_eq!(object["exact"], true, "{object}");
        object
    }
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg("--sparse=always").arg(from).arg(to).status();
    assert!(status.expect("cp").success());
}

/// Adds one name of each file below `folder`, by its inode; `within` says what is entered.
fn names_of_inodes(
    folder: &Path,
    within: &dyn Fn(&PathBuf) -> bool,
    found: &mut BTreeMap<u64, PathBuf>,
) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let facts = fs::symlink_metadata(&path).expect("its facts");
        if facts.is_dir() && within(&path) {
            names_of_inodes(&path, within, found);
        } else if facts.is_file() {
            found.insert(facts.ino(), path);
        }
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its mode");
}

/// Random changes of every kind, a point after each round; then every point in random order.
#[test]
fn every_point_comes_back_exactly_in_any_order() {
    for seed in 0..seeds() {
        let sites = Sites::in_memory();
        for file in 0..60u64 {
            let len = if file % 12 == 0 { 300_000 } else { 700 * file };
            let len = usize::try_from(len).expect("a length");
            put(&sites.a.join(format!("acct{}/d{}/f{file}", file % 4, file % 3)), noise(file, len));
        }
        let mut truths = vec![sites.truth()];
        let mut changes = 0;
        for round in 1..20 {
            let steps = (3 * round)..(3 * round + 3);
            let done = steps.map(|step| mutate(&sites.a, 77 + seed, step).expect("changes").len());
            changes += done.sum::<usize>();
            truths.push(sites.truth());
            sites.is(&truths[truths.len() - 1], "replicated");
            sites.shares_nothing_with_history();
        }
        assert!(changes > 200, "{changes} changes");
        let mut order: Vec<usize> = (0..truths.len()).chain(0..truths.len()).collect();
        let mut rng = Rng::new(5 + seed);
        for at in (1..order.len()).rev() {
            let other = usize::try_from(rng.range(0, at as u64 + 1)).expect("a place");
            order.swap(at, other);
        }
        for at in order {
            let truth = &truths[at];
            sites.back_to(&truth.point.to_string());
            sites.is(truth, &format!("seed {seed}: back to point {}", truth.point));
        }
        // The source has the last word again, and what was gone back to stays reachable.
        let last = sites.truth();
        sites.is(&last, "replicated after going back");
        sites.converged("after going back");
        sites.back_to(&truths[3].point.to_string());
        sites.is(&truths[3], "back once more");
    }
}

/// What only a note can bring back: metadata, moves, links, kinds, directories that came and went.
#[test]
fn what_leaves_no_version_comes_back_too() {
    let sites = Sites::new();
    put(&sites.a.join("x/file"), b"one");
    put(&sites.a.join("x/moved"), noise(1, 100_000));
    put(&sites.a.join("gone/below/file"), b"two");
    put(&sites.a.join("kind"), b"a file");
    fs::hard_link(sites.a.join("x/file"), sites.a.join("x/link")).expect("a link");
    std::os::unix::fs::symlink("nowhere", sites.a.join("x/symlink")).expect("a symlink");
    let first = sites.truth();
    mode(&sites.a.join("x/file"), 0o600);
    mode(&sites.a.join("x"), 0o711);
    fs::rename(sites.a.join("x/moved"), sites.a.join("here")).expect("moved");
    fs::remove_dir_all(sites.a.join("gone")).expect("removed");
    fs::remove_file(sites.a.join("kind")).expect("removed");
    put(&sites.a.join("kind/inside/deep"), b"now a folder");
    put(&sites.a.join("new/a/b/c"), b"new");
    let second = sites.truth();
    put(&sites.a.join("new/a/b/d"), b"newer");
    put(&sites.a.join("x/file"), b"other content, all names");
    fs::remove_file(sites.a.join("x/symlink")).expect("removed");
    std::os::unix::fs::symlink("elsewhere", sites.a.join("x/symlink")).expect("a symlink");
    put(&sites.a.join("gone/again"), b"another");
    let third = sites.truth();
    for (to, name) in [(&first, "first"), (&third, "third"), (&second, "second"), (&first, "first")]
    {
        let done = sites.back_to(&to.point.to_string());
        sites.is(to, name);
        assert_eq!(done["root"], done["recovery_point"]["root"], "{name}");
    }
    // Undone by the name the last one gave.
    let undo = sites.back_to(&third.point.to_string())["undo"].as_str().expect("a name").to_owned();
    sites.is(&third, "third again");
    sites.back_to(&undo);
    sites.is(&first, "undone");
}

/// One account goes back, the others stay; what others did to the tree goes back as well.
#[test]
fn an_account_goes_back_alone_and_foreign_changes_with_it() {
    let sites = Sites::new();
    for account in ["a1", "a2"] {
        put(&sites.a.join(account).join("doc/file"), noise(2, 5_000));
        put(&sites.a.join(account).join("keep"), b"kept");
    }
    let first = sites.truth();
    for account in ["a1", "a2"] {
        put(&sites.a.join(account).join("doc/file"), noise(3, 6_000));
        put(&sites.a.join(account).join("new/file"), b"new");
    }
    let second = sites.truth();
    put(&sites.b.join("a1/keep"), b"changed by somebody else");
    fs::remove_file(sites.b.join("a1/doc/file")).expect("removed by somebody else");
    let at = first.point.to_string();
    let dry = sites.history(&[
        "history",
        "rollback",
        text(&sites.b),
        "--to",
        &at,
        "--account",
        "a1",
        "--dry-run",
        "--json",
    ]);
    expect(&dry, 0, &["dry-run"]);
    let held =
        sites.history(&["history", "rollback", text(&sites.b), "--to", &at, "--account", "a1"]);
    expect(&held, 5, &["nothing was changed", "--yes"]);
    let done = sites.history(&[
        "history",
        "rollback",
        text(&sites.b),
        "--to",
        &at,
        "--account",
        "a1",
        "--yes",
        "--json",
    ]);
    expect(&done, 0, &["\"exact\":true"]);
    let same = |a: &Path, b: &Path| without_holes(compare(a, b, &[]));
    assert_eq!(same(&first.tree.join("a1"), &sites.b.join("a1")), []);
    assert_eq!(same(&second.tree.join("a2"), &sites.b.join("a2")), []);
    sites.run_approved();
    sites.converged("the source again");
}

#[test]
fn versions_are_listed_and_restored_elsewhere_and_in_place() {
    let sites = Sites::new();
    let (one, two) = (noise(4, 200_000), noise(5, 3_000));
    put(&sites.a.join("home/file"), &one);
    let first = sites.truth();
    put(&sites.a.join("home/file"), &two);
    let second = sites.truth();
    fs::remove_file(sites.a.join("home/file")).expect("removed");
    put(&sites.a.join("home/other"), b"other");
    sites.truth();
    let list = sites.history(&["history", "list", text(&sites.b), "home/file", "--json"]);
    expect(&list, 0, &[]);
    let versions = json(&list)["versions"].clone();
    let sizes: Vec<_> =
        versions.as_array().expect("a list").iter().map(|v| v["size"].as_u64()).collect();
    assert_eq!(sizes, [Some(200_000), Some(3_000)], "{versions}");
    assert_eq!(versions[0]["point"], first.point);
    assert_eq!(versions[1]["point"], second.point);
    let to = sites.top().join("out");
    for (truth, wanted) in [(&first, &one), (&second, &two)] {
        let at = truth.point.to_string();
        let restored = sites.history(&[
            "history",
            "restore",
            text(&sites.b),
            "home/file",
            "--at",
            &at,
            "--to",
            text(&to),
        ]);
        expect(&restored, 0, &[]);
        assert!(fs::read(&to).expect("it is there") == *wanted);
        let again = sites.history(&[
            "history",
            "restore",
            text(&sites.b),
            "home/file",
            "--at",
            &at,
            "--to",
            text(&to),
        ]);
        expect(&again, 3, &["exists"]);
        fs::remove_file(&to).expect("removed");
    }
    assert!(!sites.b.join("home/file").exists());
    let inside = sites.b.join("home/out");
    let refused = sites.history(&[
        "history",
        "restore",
        text(&sites.b),
        "home/file",
        "--at",
        "1",
        "--to",
        text(&inside),
    ]);
    expect(&refused, 2, &["lies in the target"]);
    let at = first.point.to_string();
    expect(
        &sites.history(&["history", "restore", text(&sites.b), "home/file", "--at", &at]),
        0,
        &["done"],
    );
    assert!(fs::read(sites.b.join("home/file")).expect("it is there") == one);
    assert!(sites.b.join("home/other").exists(), "only the one path goes back");
}

/// Services of a site that was opened write to their files in place. A version that was one of several names of
/// such a file is not that file any more.
#[test]
fn writing_in_place_reaches_no_former_version() {
    let sites = Sites::new();
    let content = |name: &str| noise(name.bytes().map(u64::from).sum(), 90_000);
    for name in ["gone", "replaced", "parted", "renamed"] {
        put(&sites.a.join(format!("home/{name}")), content(name));
        // The first name in path order: where that one goes, the others are placed anew.
        let stays = sites.a.join(format!("home/0-{name}"));
        fs::hard_link(sites.a.join(format!("home/{name}")), stays).expect("a link");
    }
    put(&sites.a.join("home/whole"), content("whole"));
    fs::hard_link(sites.a.join("home/whole"), sites.a.join("home/whole-too")).expect("a link");
    mode(&sites.a.join("home/gone"), 0o4751);
    let truth = sites.truth();
    fs::remove_file(sites.a.join("home/gone")).expect("removed");
    put(&sites.a.join("new"), noise(2, 9_000));
    fs::rename(sites.a.join("new"), sites.a.join("home/replaced")).expect("replaced");
    fs::remove_file(sites.a.join("home/parted")).expect("removed");
    fs::create_dir(sites.a.join("home/parted")).expect("a folder");
    fs::rename(sites.a.join("home/renamed"), sites.a.join("home/elsewhere")).expect("renamed");
    for name in ["whole", "whole-too"] {
        fs::remove_file(sites.a.join("home").join(name)).expect("removed");
    }
    sites.truth();
    sites.shares_nothing_with_history();
    // What is wholly in history is kept once, under both numbers.
    let mut kept = Vec::new();
    for set in fs::read_dir(sites.b.join(".farshore/history")).expect("history") {
        for version in fs::read_dir(set.expect("a set").path()).expect("a set") {
            kept.push(version.expect("a version").metadata().expect("its facts"));
        }
    }
    let twice = kept.iter().filter(|facts| facts.is_file() && facts.len() == 90_000);
    assert_eq!(twice.filter(|facts| facts.nlink() == 2).count(), 2);
    assert!(kept.iter().any(|facts| facts.len() == 90_000 && facts.mode() & 0o7777 == 0o4751));
    // In the middle of each file that stands there.
    for name in ["0-gone", "0-replaced", "0-parted", "0-renamed"] {
        let path = sites.b.join("home").join(name);
        let mut file = fs::OpenOptions::new().write(true).open(path).expect("the live name");
        file.seek(SeekFrom::Start(50_000)).expect("seeks");
        file.write_all(b"services write here").expect("writes");
    }
    let at = truth.point.to_string();
    for name in ["gone", "replaced", "parted", "whole", "whole-too"] {
        let (from, to) = (format!("home/{name}"), sites.top().join(name));
        let target = text(&sites.b);
        let words = ["history", "restore", target, &from, "--at", &at, "--to", text(&to)];
        expect(&sites.history(&words), 0, &["87.9 KiB"]);
        let is = fs::read(&to).expect("it is there");
        assert!(is == content(name.trim_end_matches("-too")), "{name}");
    }
}

/// What is kept of a file with several names has its content by itself, and counts once.
#[test]
fn what_was_a_further_name_is_found_by_its_content_and_counted_once() {
    let sites = Sites::new();
    let content = noise(1, 9_000);
    put(&sites.a.join("home/0-first"), &content);
    for name in ["1", "2", "3", "stays"] {
        let to = sites.a.join("home").join(name);
        fs::hard_link(sites.a.join("home/0-first"), to).expect("a link");
    }
    sites.truth();
    for name in ["1", "2", "3"] {
        fs::remove_file(sites.a.join("home").join(name)).expect("removed");
    }
    sites.truth();
    let state = State::open(Some(&sites.state)).expect("a state folder");
    let standby = Standby::open(&state, &sites.b).expect("a standby");
    let reader = standby.catalog.reader().expect("reads");
    let places = reader.locations(&FileDigest::of_small(&content), 64).expect("places");
    let kept = places.iter().filter(|place| matches!(place, Location::History(_)));
    assert_eq!(kept.count(), 3, "{places:?}");
    let names: Vec<fs::Metadata> = fs::read_dir(sites.b.join(".farshore/history"))
        .expect("history")
        .flat_map(|set| fs::read_dir(set.expect("a set").path()).expect("a set"))
        .map(|version| version.expect("a version").metadata().expect("its facts"))
        .filter(|facts| facts.len() == 9_000)
        .collect();
    let inodes: BTreeSet<u64> = names.iter().map(MetadataExt::ino).collect();
    assert_eq!((names.len(), inodes.len()), (3, 1), "names of one copy");
    let live = fs::metadata(sites.b.join("home/stays")).expect("it stays");
    assert!(!inodes.contains(&live.ino()));
    let sets = reader.history_sets().expect("sets");
    assert_eq!(sets.iter().map(|(_, set)| set.bytes).sum::<u64>(), 9_000);
}

#[test]
fn marks_name_points_and_say_how_far_they_are() {
    let sites = Sites::new();
    put(&sites.a.join("f"), b"one");
    let first = sites.truth();
    let b = text(&sites.b).to_owned();
    expect(
        &sites.history(&["mark", "create", &b, "--label", "db=0/16B3748"]),
        0,
        &["marked db=0/16B3748"],
    );
    put(&sites.a.join("f"), b"two");
    sites.truth();
    let list = sites.history(&["mark", "list", &b, "--json", "--against", "2026-01-01T00:00:00Z"]);
    expect(&list, 0, &[]);
    let mark = json(&list)["marks"][0].clone();
    assert_eq!(mark["label"], "db=0/16B3748");
    let time = mark["recovery_point"]["time_unix_ms"].as_i64().expect("a time");
    assert_eq!(mark["behind_against_ms"], 1_767_225_600_000 - time);
    sites.back_to("db=0/16B3748");
    sites.is(&first, "by its mark");
    expect(
        &sites.history(&["history", "rollback", &b, "--to", "db=nowhere", "--yes"]),
        3,
        &["db=nowhere", "--points"],
    );
    expect(&sites.history(&["mark", "create", &b, "--label", &"x".repeat(257)]), 2, &["256 bytes"]);
    for n in 1..8 {
        expect(&sites.history(&["mark", "create", &b, "--label", &format!("m{n}")]), 0, &[]);
        expect(&sites.history(&["mark", "create", &b, "--label", &format!("m{n}")]), 0, &[]);
    }
    expect(&sites.history(&["mark", "create", &b, "--label", "m8"]), 0, &[]);
    expect(&sites.history(&["mark", "create", &b, "--label", "m9"]), 3, &["8 marks"]);
}

/// What is pruned is refused with its bound, and its points are gone; a rotten version is found out.
#[test]
fn pruned_states_are_refused_and_rot_is_found_before_it_is_restored() {
    let sites = Sites::new();
    put(&sites.a.join("f"), noise(1, 9_000));
    put(&sites.a.join("g"), noise(2, 90_000));
    let first = sites.truth();
    for round in 3..6 {
        put(&sites.a.join("f"), noise(round, 9_000));
        put(&sites.a.join("g"), noise(round + 10, 90_000));
        sites.truth();
    }
    let mut points = listed(&sites);
    assert_eq!(points.len(), 4, "{points:?}");
    // Every byte of every kept version of f is turned.
    let mut rotten = 0;
    for set in fs::read_dir(sites.b.join(".farshore/history")).expect("history") {
        for version in fs::read_dir(set.expect("a set").path()).expect("a set") {
            let version = version.expect("a version").path();
            let content = fs::read(&version).expect("its content");
            if content.len() == 9_000 {
                fs::write(&version, content.iter().map(|b| !b).collect::<Vec<_>>()).expect("rot");
                rotten += 1;
            }
        }
    }
    assert_eq!(rotten, 3);
    let at = first.point.to_string();
    let to = sites.top().join("out");
    let one =
        sites.history(&["history", "restore", text(&sites.b), "f", "--at", &at, "--to", text(&to)]);
    expect(&one, 6, &["damaged"]);
    assert!(!to.exists());
    let before = fs::read(sites.b.join("f")).expect("f");
    let partial = sites.history(&["history", "rollback", text(&sites.b), "--to", &at, "--yes"]);
    expect(&partial, 6, &["not restored: f: its kept version", "is damaged", "is NOT as at"]);
    assert!(fs::read(sites.b.join("f")).expect("f") == before, "what is rotten was put in place");
    assert!(fs::read(sites.b.join("g")).expect("g") == noise(2, 90_000), "the rest goes back");
    // The newest two sets are kept.
    put(&sites.a.join("f"), noise(20, 9_000));
    let target = farshore::replicate::TargetOptions { history_sets_max: 2, ..Default::default() };
    let options = farshore::replicate::RunOptions { approved: true, target, ..sites.options() };
    sites.run_with(&options).clean();
    let refused = sites.history(&["history", "rollback", text(&sites.b), "--to", &at, "--yes"]);
    expect(&refused, 3, &["it is not kept", "--points"]);
    expect(
        &sites.history(&["history", "rollback", text(&sites.b), "--to", "batch:1", "--yes"]),
        3,
        &["is pruned"],
    );
    points = listed(&sites);
    assert!(points.values().all(|restorable| *restorable), "{points:?}");
    assert!(!points.is_empty());
}

/// Sequence, and whether it can be gone back to.
fn listed(sites: &Sites) -> BTreeMap<u64, bool> {
    let out = sites.history(&["history", "list", text(&sites.b), "--points", "--json"]);
    expect(&out, 0, &[]);
    let object = json(&out);
    let points = object["points"].as_array().expect("a list").iter();
    points.map(|p| (p["sequence"].as_u64().expect("a number"), p["restorable"] == true)).collect()
}

#[test]
fn an_unknown_standby_is_refused_and_nothing_is_made() {
    let sites = Sites::new();
    let out = sites.history(&["history", "list", text(&sites.b), "--json"]);
    expect(&out, 3, &["it knows no target"]);
    assert_eq!(json(&out)["exit"], 3);
    assert_eq!(fs::read_dir(&sites.state).expect("the state folder").count(), 0);
}

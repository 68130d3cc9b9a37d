//! Equality after one run and after many, on trees with everything that is hard to carry.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use farshore_engine::profile::Stage;
use farshore_test_support::{
    Options, TortureTree, has_rsync, mutate, rsync_differences, without_holes,
};

use rustix::mount::{UnmountFlags, unmount};

use crate::sites::{Counts, Sites, is_root, mount_tmpfs, noise, put, seeds, snapshot, touched};

/// A time the target's file system has not: the nearest stands there, that is counted, and no later run
/// takes it for a change.
#[test]
fn times_the_target_cannot_have_are_counted_once() {
    let sites = Sites::new();
    // A tmpfs has any time; what other file systems have ends somewhere between 1901 and 2486.
    if !is_root() || !mount_tmpfs(&sites.a) {
        return;
    }
    let at = |years: u64| Duration::from_secs(years * 31_556_952);
    let times = [SystemTime::UNIX_EPOCH + at(530), SystemTime::UNIX_EPOCH - at(170)];
    for (i, time) in times.into_iter().enumerate() {
        let path = sites.a.join(format!("home/f{i}"));
        put(&path, noise(i as u64, 1_000));
        std::fs::File::open(&path).and_then(|f| f.set_modified(time)).expect("set");
    }
    let run = sites.run_with(&sites.options());
    run.sealed();
    let kept = |i: usize| {
        let mtime = |root: &std::path::Path| {
            let meta = std::fs::metadata(root.join(format!("home/f{i}"))).expect("there");
            meta.modified().expect("a time")
        };
        mtime(&sites.a) == mtime(&sites.b)
    };
    let lost = (0..2).filter(|i| !kept(*i)).count() as u64;
    let counted = run.result.source.degraded.get("time").copied().unwrap_or(0);
    assert_eq!(counted, lost, "{:?}", run.result.source.degraded);
    let again = sites.run_with(&sites.options());
    assert_eq!(again.counts(), Counts::default());
    assert_eq!(again.result.source.foreign_changes, 0);
    unmount(&sites.a, UnmountFlags::empty()).expect("unmounted");
}

/// A first run makes an equal tree, by our own comparison and by rsync's; a second run does nothing
/// at all.
#[test]
fn a_tree_with_everything_arrives_whole_and_a_second_run_touches_nothing() {
    let sites = Sites::new();
    fs::remove_dir(&sites.a).expect("removed");
    TortureTree::build(&sites.a, 1, &Options::for_rsync()).expect("a tree");
    let first = sites.run();
    assert!(first.counts().written > 5_000, "{:?}", first.counts());
    assert!(!first.result.source.compared, "nothing was compared with a target that holds nothing");
    sites.equal("after the first run");
    if has_rsync() {
        let lines = rsync_differences(&sites.a, &sites.b).expect("a comparison");
        assert!(lines.is_empty(), "rsync would still change: {lines:#?}");
    }
    let before = snapshot(&sites.b, &[]);
    let source_before = snapshot(&sites.a, &[]);
    let second = sites.run();
    assert_eq!(second.counts(), Counts::default());
    assert_eq!((second.literal(), second.frames()), (0, 0));
    assert_eq!(second.result.source.foreign_changes, 0);
    assert!(!second.result.source.compared, "the two ends had to be compared");
    let after = snapshot(&sites.b, &[]);
    assert_eq!(touched(&before, &after), Vec::<String>::new(), "the second run touched these");
    assert_eq!(touched(&source_before, &snapshot(&sites.a, &[])), Vec::<String>::new());
    let bound = 4_096 + 64 * second.sealed().entries / 1_000;
    assert!(second.sent() < bound, "{} bytes sent to say that nothing changed", second.sent());
    assert_eq!(second.sealed().sequence, first.sealed().sequence + 1);
    assert_eq!(second.sealed().root, first.sealed().root);
}

/// An empty target has nothing but its root: nothing is compared, and what was planned before that was known stands. Where it has
/// more the tree is walked again.
#[test]
fn a_first_copy_walks_the_source_once_unless_the_target_has_entries() {
    let walks = |run: &crate::sites::Run| run.result.profile.of(Stage::Scan).entered;
    let sites = Sites::new();
    put(&sites.a.join("home/file"), b"of the source");
    fs::set_permissions(&sites.a, fs::Permissions::from_mode(0o750)).expect("a mode");
    fs::set_permissions(&sites.b, fs::Permissions::from_mode(0o711)).expect("another mode");
    let first = sites.run();
    assert_eq!(walks(&first), 1);
    sites.converged("after the first copy");
    let sites = Sites::new();
    put(&sites.a.join("home/file"), b"of the source");
    put(&sites.b.join("home/other"), b"of the target");
    let first = sites.run_approved();
    assert_eq!(walks(&first), 2);
    sites.converged("over what was there");
}

/// Paths longer than any call takes, files of terabytes, and a directory of 20,000.
#[test]
fn deep_wide_and_huge_trees_arrive_whole() {
    let sites = Sites::in_memory();
    let options = Options { wide_count: 20_000, ..Options::default() };
    fs::remove_dir(&sites.a).expect("removed");
    let made = TortureTree::build(&sites.a, 2, &options).expect("a tree");
    let deepest = made.made.iter().map(|m| m.path.len()).max().unwrap_or(0);
    assert!(deepest > 5_000, "the deepest path has {deepest} bytes");
    sites.run();
    sites.converged("deep, wide and huge");
    let wide = sites.a.join("wide-change");
    put(&wide, b"one more at the top");
    sites.run();
    sites.converged("one more file");
}

/// Files of holes that claim more bytes together than 64 bits count: they arrive, and go again into
/// history, and the runs after that count right.
#[test]
fn sizes_beyond_all_numbers_arrive_and_go() {
    let sites = Sites::in_memory();
    let names = ["one", "two", "three"].map(|name| sites.a.join(name));
    for name in &names {
        let made = fs::File::create(name).expect("a file");
        if let Err(e) = made.set_len(i64::MAX.cast_unsigned()) {
            println!("no files of 2^63 bytes here: {e}");
            return;
        }
    }
    put(&sites.a.join("home/small"), b"with them");
    let first = sites.run();
    assert_eq!(first.sealed().bytes, u64::MAX);
    sites.converged("huge files");
    names.iter().for_each(|name| fs::remove_file(name).expect("removed"));
    let second = sites.run_approved();
    assert_eq!(second.sealed().bytes, 9);
    sites.converged("without them");
}

/// After any changes at the source a run makes the target equal, and the run after it does nothing.
fn rounds(sites: &Sites, seed: u64, count: u64) {
    fs::remove_dir(&sites.a).expect("removed");
    TortureTree::build(&sites.a, seed, &Options::small()).expect("a tree");
    sites.run();
    sites.converged("before the rounds");
    for step in 0..count {
        let done = mutate(&sites.a, seed, step).expect("changes");
        let when = format!("seed {seed}, step {step}, after {done:#?}");
        // Up to sixteen changes of small subtrees: the guard may ask in a small tree.
        let options = farshore::replicate::RunOptions { approved: true, ..sites.options() };
        let run = sites.try_run(&options).unwrap_or_else(|e| panic!("{when}: {}", e.message));
        assert!(run.result.source.problems.is_empty(), "{when}: {:#?}", run.problems());
        assert_eq!(run.result.source.foreign_changes, 0, "{when}");
        assert!(!run.result.source.compared, "{when}: the two ends had to be compared");
        let found = farshore_test_support::compare(&sites.a, &sites.b, &[b".farshore"]);
        let found = without_holes(found);
        assert!(found.is_empty(), "{when}: {found:#?}");
        sites.converged(&when);
    }
}

#[test]
fn forty_rounds_of_changes_arrive_in_memory() {
    for seed in 0..seeds() {
        rounds(&Sites::in_memory(), 100 + seed, 40);
    }
}

/// The same where inode numbers are used again at once.
#[test]
fn rounds_of_changes_arrive_on_disk() {
    for seed in 0..seeds() {
        rounds(&Sites::new(), 900 + seed, 12);
    }
}

/// A file moves away and its equal, to the nanosecond, takes its name: both are there afterwards.
#[test]
fn an_equal_file_takes_the_name_of_one_that_moved() {
    let sites = Sites::new();
    let (file, away) = (sites.a.join("home/file"), sites.a.join("home/away"));
    put(&file, b"equal in all");
    sites.run();
    fs::rename(&file, &away).expect("renamed");
    put(&file, b"equal in all");
    let time = fs::metadata(&away).and_then(|m| m.modified()).expect("its time");
    let opened = fs::File::options().write(true).open(&file).expect("the file");
    opened.set_modified(time).expect("its time");
    let run = sites.run();
    assert_eq!(run.literal(), 0);
    assert!(!run.result.source.compared, "the two ends had to be compared");
    sites.converged("both names");
}

//! The walk of many threads against one that recurses, on real and simulated trees.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use farshore_core::policy::{Action, ReplicateAll};
use proptest::prelude::*;

use super::*;
use crate::io::posix::PosixStorage;
use crate::io::sim::{Fault, SimConfig, SimDisk};

/// Bounds so small that everything there is to wait for is waited for.
const TIGHT: [Bounds; 3] = [
    BOUNDS,
    Bounds { entries: 8, piece: 4, directories: 3, names: 6, handles: 3 },
    Bounds { entries: 1, piece: 1, directories: 1, names: 1, handles: 1 },
];

/// An event without what differs from run to run.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Met {
    Entry(RelPath, u64),
    Excluded(RelPath),
    Unknown(RelPath, &'static str),
}

fn met(event: ScanEvent<'_>) -> Met {
    match event {
        ScanEvent::Entry { path, stat } => Met::Entry(path.to_path(), stat.inode),
        ScanEvent::Excluded { path, .. } => Met::Excluded(path),
        ScanEvent::Unknown { path, step, .. } => Met::Unknown(path, step),
    }
}

fn walked<S: Storage>(storage: &S, policy: &dyn Policy, threads: usize, at: Bounds) -> Vec<Met> {
    let mut all = Vec::new();
    scan_within(at, storage, policy, b".farshore", threads, &mut |event| {
        all.push(met(event));
        Ok::<_, std::convert::Infallible>(())
    })
    .expect("a walk that nobody stops");
    all
}

/// What a walk says, written down as the contract says it: children, then each subtree.
fn recursed<S: Storage>(storage: &S, policy: &dyn Policy) -> Vec<Met> {
    let root = storage.stat(Object::Directory(storage.root())).expect("a root");
    let mut all = vec![Met::Entry(RelPath::root(), root.inode)];
    recurse(storage, policy, &root, storage.root(), b"", &RelPath::root(), &mut all);
    all
}

fn recurse<S: Storage>(
    storage: &S,
    policy: &dyn Policy,
    root: &Stat,
    at: &S::Directory,
    name: &[u8],
    path: &RelPath,
    all: &mut Vec<Met>,
) {
    let Ok(directory) = storage.open_directory(at, name) else {
        all.push(Met::Unknown(path.clone(), "opening it"));
        return;
    };
    let mut names = Vec::new();
    if storage.list(&directory, &mut |entry| names.push(entry.name.to_vec())).is_err() {
        all.push(Met::Unknown(path.clone(), "listing it"));
        return;
    }
    names.retain(|n| !(path.is_root() && n == b".farshore"));
    names.sort();
    let mut below = Vec::new();
    for name in names {
        let child = path.join(&name).expect("a short path");
        let stat = match storage.stat(Object::Named(&directory, &name)) {
            Ok(stat) => stat,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(_) => {
                all.push(Met::Unknown(child, "looking at it"));
                continue;
            }
        };
        if policy.exclude(&[candidate(&child, &stat)])[0].action != Action::Replicate {
            all.push(Met::Excluded(child));
        } else if stat.kind == FileKind::Directory && stat.device != root.device {
            all.push(Met::Unknown(child, "entering a mount point"));
        } else {
            if stat.kind == FileKind::Directory {
                below.push((name, child.clone()));
            }
            all.push(Met::Entry(child, stat.inode));
        }
    }
    for (name, child) in below {
        recurse(storage, policy, root, &directory, &name, &child, all);
    }
}

/// Leaves out names with an `x`.
#[derive(Debug)]
struct NoX;

impl Policy for NoX {
    fn exclude(&self, candidates: &[Candidate<'_>]) -> Vec<Verdict> {
        let verdict = |c: &Candidate<'_>| match c.path.name().contains(&b'x') {
            true => Verdict::by_rule(Action::Exclude, 0),
            false => Verdict::REPLICATE,
        };
        candidates.iter().map(verdict).collect()
    }

    fn rules(&self) -> Vec<String> {
        vec!["x".into()]
    }
}

/// A tree by path; `true` is a directory. Parents are there.
type Tree = BTreeMap<RelPath, bool>;

fn any_name() -> impl Strategy<Value = Vec<u8>> {
    // Bytes on both sides of the slash, and the neighbours of NUL.
    let byte = prop_oneof![Just(1u8), Just(2u8), Just(b'.'), Just(b'0'), Just(b'x'), Just(255u8)];
    prop::collection::vec(byte, 1..4).prop_filter("dots", |n| n != b"." && n != b"..")
}

fn any_tree() -> impl Strategy<Value = Tree> {
    let path = prop::collection::vec(any_name(), 1..6);
    prop::collection::vec((path, any::<bool>()), 0..60).prop_map(|paths| {
        let mut tree = Tree::new();
        for (names, is_directory) in paths {
            let mut path = RelPath::root();
            for (i, name) in names.iter().enumerate() {
                let next = path.join(name).expect("short");
                let is_last = i + 1 == names.len();
                let kind = tree.entry(next.clone()).or_insert(!is_last || is_directory);
                if !*kind {
                    break;
                }
                path = next;
            }
        }
        tree
    })
}

fn make<S: Storage>(storage: &S, tree: &Tree) {
    for (path, is_directory) in tree {
        let (parent, name) = path.split().expect("not the root");
        let at = storage.open_directory(storage.root(), parent.as_bytes()).expect("a parent");
        if *is_directory {
            storage.make_directory(&at, name).expect("made");
        } else {
            storage.create_file(&at, name).expect("made");
        }
    }
}

fn simulated(tree: &Tree, seed: u64) -> (SimDisk, crate::io::sim::SimStorage) {
    let disk = SimDisk::new(SimConfig { seed, ..SimConfig::default() });
    disk.make_root("tree").expect("a root");
    let storage = disk.mount("tree").expect("mounted");
    make(&storage, tree);
    (disk, storage)
}

fn same_for_all_threads<S: Storage>(storage: &S) {
    for policy in [&ReplicateAll as &dyn Policy, &NoX] {
        let expected = recursed(storage, policy);
        for bounds in TIGHT {
            for threads in 1..=4 {
                let found = walked(storage, policy, threads, bounds);
                assert_eq!(found, expected, "{threads} threads, {bounds:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_tree_is_met_in_order_by_any_number_of_threads(tree in any_tree(), seed: u64) {
        let (disk, storage) = simulated(&tree, seed);
        if let Some((path, _)) = tree.iter().find(|(_, is_directory)| **is_directory) {
            let mounted = [b"tree/", path.as_bytes()].concat();
            disk.set_mount_point(mounted, true).expect("a mount point");
        }
        same_for_all_threads(&storage);
        // The order of paths is the order of the walk.
        let paths = walked(&storage, &ReplicateAll, 3, TIGHT[1]);
        let paths = paths.into_iter().map(|m| match m {
            Met::Entry(p, _) | Met::Excluded(p) | Met::Unknown(p, _) => p,
        });
        prop_assert!(paths.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn the_same_on_a_real_file_system(tree in any_tree(), unreadable in any::<prop::sample::Index>()) {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let storage = PosixStorage::open(folder.path()).expect("opened");
        make(&storage, &tree);
        let directories: Vec<_> = tree.iter().filter(|(_, d)| **d).map(|(p, _)| p).collect();
        let mode = |path: &RelPath, mode| {
            use std::os::unix::ffi::OsStrExt;
            let at = folder.path().join(std::ffi::OsStr::from_bytes(path.as_bytes()));
            std::fs::set_permissions(at, std::fs::Permissions::from_mode(mode)).expect("set");
        };
        // Root reads it all the same; an ordinary user meets an error.
        if !directories.is_empty() {
            mode(unreadable.get::<&RelPath>(&directories), 0);
        }
        same_for_all_threads(&storage);
        if !directories.is_empty() {
            mode(unreadable.get::<&RelPath>(&directories), 0o700);
        }
    }

    #[test]
    fn a_directory_that_cannot_be_read_is_unknown_and_nothing_below_it(
        tree in any_tree(), seed: u64, read in 1u64..80, threads in 1usize..=4, tight in 0usize..3,
    ) {
        let (disk, storage) = simulated(&tree, seed);
        let whole = recursed(&storage, &ReplicateAll);
        disk.fail_read_at(read, Fault::Eio);
        let found = walked(&storage, &ReplicateAll, threads, TIGHT[tight]);
        let unknown: Vec<_> = found.iter().filter_map(|m| match m {
            Met::Unknown(path, _) => Some(path.clone()),
            _ => None,
        }).collect();
        prop_assert!(unknown.len() <= 1);
        // All of the rest is there, and in order.
        let is_unknown = |path: &RelPath| unknown.iter().any(|u| path.starts_with(u));
        let strictly = |path: &RelPath| unknown.iter().any(|u| path.starts_with(u) && path != u);
        let (mut left, mut all) = (Vec::new(), Vec::new());
        for met in &found {
            if let Met::Entry(path, _) = met {
                prop_assert!(!strictly(path), "{path} lies below what is unknown");
                if !is_unknown(path) { left.push(met.clone()); }
            }
        }
        for met in &whole {
            if let Met::Entry(path, _) = met && !is_unknown(path) { all.push(met.clone()); }
        }
        prop_assert_eq!(left, all);
    }
}

/// 60 directories of 40 files, so that there is something to read ahead.
fn wide() -> Tree {
    let mut tree = Tree::new();
    for d in 0..60 {
        let directory = RelPath::root().join(format!("d{d:02}").as_bytes()).expect("short");
        for f in 0..40 {
            tree.insert(directory.join(format!("f{f:02}").as_bytes()).expect("short"), false);
        }
        tree.insert(directory, true);
    }
    tree
}

#[test]
fn stopping_early_stops_the_readers() {
    let (disk, storage) = simulated(&wide(), 1);
    for threads in 1..=4 {
        for stop_at in [1, 2, 70, 1_500] {
            let mut met = 0;
            let before = disk.reads();
            let ended = scan_within(TIGHT[1], &storage, &ReplicateAll, b"", threads, &mut |_| {
                met += 1;
                if met == stop_at { Err("enough") } else { Ok(()) }
            });
            assert_eq!(ended, Err("enough"));
            assert_eq!(met, stop_at);
            // Reading went no further than the bounds let it.
            assert!(disk.reads() - before < stop_at + 200, "{threads} threads, {stop_at}");
        }
    }
}

#[test]
fn a_panic_of_the_caller_ends_the_walk() {
    let (_disk, storage) = simulated(&wide(), 1);
    let ended = std::panic::catch_unwind(|| {
        let mut met = 0;
        scan(&storage, &ReplicateAll, b"", 3, &mut |_| {
            met += 1;
            assert!(met < 100, "on purpose");
            Ok::<_, ()>(())
        })
    });
    assert!(ended.is_err());
}

/// Panics at some candidate, as a policy with a bug might.
#[derive(Debug, Default)]
struct Faulty(AtomicUsize);

impl Policy for Faulty {
    fn exclude(&self, candidates: &[Candidate<'_>]) -> Vec<Verdict> {
        assert!(self.0.fetch_add(candidates.len(), Ordering::Relaxed) < 900, "on purpose");
        vec![Verdict::REPLICATE; candidates.len()]
    }

    fn rules(&self) -> Vec<String> {
        Vec::new()
    }
}

#[test]
fn a_panic_of_a_reader_is_never_taken_for_the_end_of_the_tree() {
    let (_disk, storage) = simulated(&wide(), 1);
    for threads in 1..=4 {
        let ended = std::panic::catch_unwind(|| {
            scan(&storage, &Faulty::default(), b"", threads, &mut |_| Ok::<_, ()>(()))
        });
        assert!(ended.is_err(), "{threads} threads");
    }
}

#[test]
fn what_is_held_is_bounded_whatever_the_consumer_does() {
    let (_disk, storage) = simulated(&wide(), 1);
    let bounds = Bounds { entries: 100, piece: 10, directories: 5, names: 120, handles: 7 };
    let mut met = 0;
    let held = scan_within(bounds, &storage, &ReplicateAll, b"", 4, &mut |_| {
        met += 1;
        if met % 500 == 0 {
            // Readers get as far as they can.
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok::<_, ()>(())
    })
    .expect("walked");
    assert_eq!(met, 1 + 60 * 41);
    // The consumer's own task, and what it is reporting, come on top.
    assert!(held.entries <= bounds.entries + 2 * bounds.piece, "{held:?}");
    assert!(held.directories <= bounds.directories + 1, "{held:?}");
    assert!(held.handles <= bounds.handles + 1, "{held:?}");
    // Names are known when they are listed: each thread may have begun within the bound.
    assert!(held.names <= bounds.names + 5 * 40 + 60, "{held:?}");
}

#[test]
fn directories_that_vanish_and_appear_meanwhile_harm_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let storage = PosixStorage::open(folder.path()).expect("opened");
    make(&storage, &wide());
    let done = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0;
            while !done.load(Ordering::Relaxed) {
                let d = folder.path().join(format!("d{:02}", 20 + round % 40));
                if std::fs::remove_dir_all(&d).is_ok() && round % 3 > 0 {
                    drop(std::fs::create_dir_all(d.join("new/er")));
                }
                round += 1;
            }
        });
        for run in 0..60 {
            let found = walked(&storage, &ReplicateAll, 1 + run % 4, TIGHT[run % 3]);
            let mut unknown: Vec<RelPath> = Vec::new();
            let (mut last, mut untouched) = (None, 0);
            for event in found {
                let (path, is_new) = match event {
                    Met::Entry(path, _) => (path, true),
                    Met::Unknown(path, _) => {
                        unknown.push(path.clone());
                        (path, false)
                    }
                    Met::Excluded(path) => (path, true),
                };
                if is_new {
                    assert!(last.is_none_or(|l| l < path), "in order, each once");
                    untouched += usize::from(path.as_bytes() < &b"d20"[..]);
                    let lies_below = |u: &RelPath| path.starts_with(u) && path != *u;
                    assert!(!unknown.iter().any(lies_below), "{path} lies below what is unknown");
                    last = Some(path);
                }
            }
            // The root, and what nobody touches, is all there.
            assert_eq!(untouched, 1 + 20 * 41);
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn deeper_than_a_path_may_be_and_than_handles_there_are() {
    let folder = tempfile::tempdir().expect("a folder");
    let storage = PosixStorage::open(folder.path()).expect("opened");
    let name = [b'n'; 100];
    let mut at = storage.open_directory(storage.root(), b"").expect("opened");
    // 100 levels of 101 bytes: beyond PATH_MAX. A sibling at each level keeps a handle in use.
    for _ in 0..100 {
        storage.make_directory(&at, &name).expect("made");
        storage.make_directory(&at, b"z").expect("made");
        at = storage.open_directory(&at, &name).expect("opened");
    }
    let expected = recursed(&storage, &ReplicateAll);
    assert_eq!(expected.len(), 201);
    for threads in 1..=4 {
        for bounds in TIGHT {
            assert_eq!(walked(&storage, &ReplicateAll, threads, bounds), expected);
        }
    }
}

#[test]
fn one_thread_makes_the_same_calls_every_time() {
    let calls = || {
        let (disk, storage) = simulated(&wide(), 7);
        let before = disk.reads();
        walked(&storage, &ReplicateAll, 1, BOUNDS);
        disk.reads() - before
    };
    assert_eq!(calls(), calls());
    // The root's facts and its listing, then per directory: open, list and 40 looks.
    assert_eq!(calls(), 1 + 2 + 60 + 60 * 42);
}

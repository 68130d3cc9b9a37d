//! Every aspect on the system and on the simulated disk, and what only one of them can show.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use farshore_core::entry::Metadata;
use farshore_core::policy::{Action, Candidate, ReplicateAll, Verdict};
use farshore_core::recipe::FileDigest;
use farshore_proto::message::StoreId;
use redb::backends::InMemoryBackend;
use tempfile::TempDir;

use super::compare::Place;
use super::links::{Links, Pair};
use super::*;
use crate::catalog::{CatalogConfig, CatalogRole, LocalFacts, Record};
use crate::io::posix::PosixStorage;
use crate::io::sim::{Fault, SimConfig, SimDisk, SimStorage};
use crate::io::{NewNode, Stat};

use restless::Restless;

mod restless;

const THEN: Timestamp = Timestamp { seconds: 1_600_000_000, nanos: 123_456_789 };

/// One tree, by paths.
struct Tree<'a, S: Storage>(&'a S);

impl<S: Storage> Tree<'_, S> {
    fn at<'p>(&self, path: &'p [u8]) -> (S::Directory, &'p [u8]) {
        let cut = path.iter().rposition(|&b| b == b'/');
        let (parent, name) = cut.map_or((&b""[..], path), |i| (&path[..i], &path[i + 1..]));
        (self.0.open_directory(self.0.root(), parent).expect("open the parent"), name)
    }

    fn directory(&self, path: impl AsRef<[u8]>) {
        let (at, name) = self.at(path.as_ref());
        self.0.make_directory(&at, name).expect("make a directory");
    }

    fn file(&self, path: impl AsRef<[u8]>, content: &[u8]) {
        let (at, name) = self.at(path.as_ref());
        let file = self.0.create_file(&at, name).expect("create");
        self.0.write_at(&file, 0, content).expect("write");
        self.0.set_mtime(Object::File(&file), THEN).expect("set the time");
    }

    fn sparse(&self, path: &str, len: u64, data: &[(u64, &[u8])]) {
        self.file(path, b"");
        let (at, name) = self.at(path.as_bytes());
        let file = self.0.open_file_writable(&at, name).expect("open");
        self.0.set_len(&file, len).expect("set the length");
        for (offset, bytes) in data {
            self.0.write_at(&file, *offset, bytes).expect("write");
        }
        self.0.set_mtime(Object::File(&file), THEN).expect("set the time");
    }

    fn link(&self, from: &str, to: &str) {
        let ((from_at, from), (to_at, to)) = (self.at(from.as_bytes()), self.at(to.as_bytes()));
        self.0.link(&from_at, from, &to_at, to).expect("link");
    }

    fn symlink(&self, path: &str, target: &[u8]) {
        let (at, name) = self.at(path.as_bytes());
        self.0.make_symlink(&at, name, target).expect("make a link");
    }

    fn node(&self, path: &str, node: NewNode) {
        let (at, name) = self.at(path.as_bytes());
        self.0.make_node(&at, name, node).expect("make a node");
    }

    fn unlink(&self, path: &str) {
        let (at, name) = self.at(path.as_bytes());
        self.0.unlink(&at, name).expect("unlink");
    }

    fn stat(&self, path: &str) -> Stat {
        let (at, name) = self.at(path.as_bytes());
        self.0.stat(Object::Named(&at, name)).expect("stat")
    }

    fn set_time(&self, path: impl AsRef<[u8]>, mtime: Timestamp) {
        let path = path.as_ref();
        if path.is_empty() {
            return self.0.set_mtime(Object::Directory(self.0.root()), mtime).expect("set time");
        }
        let (at, name) = self.at(path);
        self.0.set_mtime(Object::Named(&at, name), mtime).expect("set the time");
    }

    /// Overwrites a part, and gives the file its time back.
    fn overwrite(&self, path: impl AsRef<[u8]>, offset: u64, bytes: &[u8]) {
        let (at, name) = self.at(path.as_ref());
        let file = self.0.open_file_writable(&at, name).expect("open");
        self.0.write_at(&file, offset, bytes).expect("write");
        self.0.set_mtime(Object::File(&file), THEN).expect("set the time");
    }

    /// The same on every call: all kinds that need no rights, metadata and all.
    fn plant(&self) {
        self.directory("d");
        self.directory("d/e");
        self.file("empty", b"");
        self.file("d/f", &[7; 3_000]);
        self.file("d/e/large", &[9; 1_300_000]);
        self.file(b"d/\xff\x01 odd\n", b"odd");
        self.symlink("d/s", b"../nowhere");
        self.node("d/fifo", NewNode::Fifo);
        self.node("d/socket", NewNode::Socket);
        self.file("l1", b"linked");
        self.link("l1", "d/l2");
        self.link("l1", "d/e/l3");
        self.sparse("d/holes", 9 << 20, &[(4 << 20, b"x"), ((9 << 20) - 1, b"y")]);
        let (at, name) = self.at(b"d/f");
        let object = Object::Named(&at, name);
        self.0.set_xattr(object, b"user.one", b"1").expect("set an attribute");
        self.0.set_xattr(object, b"user.two", b"2").expect("set an attribute");
        self.0.set_mode(object, 0o640).expect("set the mode");
        self.calm();
    }

    /// Gives everything [`Self::plant`] made its time.
    fn calm(&self) {
        for path in ["d/s", "d/fifo", "d/socket", "d/e", "d", ""] {
            self.set_time(path, THEN);
        }
    }
}

fn run<A: Storage, B: Storage>(a: &A, b: &B) -> (Vec<Difference>, VerifyReport) {
    run_with(a, b, &VerifyConfig::new(&ReplicateAll, 3))
}

fn run_with<A: Storage, B: Storage>(
    a: &A,
    b: &B,
    config: &VerifyConfig<'_>,
) -> (Vec<Difference>, VerifyReport) {
    let progress = VerifyProgress::default();
    let mut found = Vec::new();
    let report = verify(a, b, config, &mut |d| found.push(d), &progress).expect("both roots");
    found.sort_by(|x, y| x.path.cmp(&y.path));
    assert_eq!(progress.entries.load(Relaxed), report.entries);
    assert_eq!(progress.bytes.load(Relaxed), report.bytes);
    let told = report.differences + report.unreadable + report.inflated;
    assert_eq!(told, found.len() as u64);
    for difference in &found {
        assert!(!difference.to_string().chars().any(char::is_control), "{difference}");
    }
    (found, report)
}

fn path(bytes: impl AsRef<[u8]>) -> RelPath {
    RelPath::new(bytes.as_ref()).expect("a valid path")
}

/// Exactly one difference, found whatever the number of threads.
fn expect_one<S: Storage>(a: &S, b: &S, at: &str, aspect: &Aspect) {
    for threads in [1, 4] {
        let (found, report) = run_with(a, b, &VerifyConfig::new(&ReplicateAll, threads));
        assert_eq!(found, [Difference { path: path(at), aspect: aspect.clone() }]);
        assert_eq!(report.is_equal(), matches!(aspect, Aspect::Holes { .. }));
    }
}

type Case<S> = fn(&S, &S);

/// Two equal trees for `case` to change.
fn on_sim(case: Case<SimStorage>) {
    let disk = || SimDisk::new(SimConfig { reuse_inodes: true, ..SimConfig::default() });
    let (a, b) = (disk().mount("").expect("mount"), disk().mount("").expect("mount"));
    prepared(&a, &b, case);
}

fn on_posix(case: Case<PosixStorage>) {
    let (a, b) = (TempDir::new().expect("tempdir"), TempDir::new().expect("tempdir"));
    let open = |d: &TempDir| PosixStorage::open(d.path()).expect("open the root");
    prepared(&open(&a), &open(&b), case);
}

fn prepared<S: Storage>(a: &S, b: &S, case: Case<S>) {
    Tree(a).plant();
    Tree(b).plant();
    let root = a.stat(Object::Directory(a.root())).expect("stat");
    b.set_mode(Object::Directory(b.root()), root.mode).expect("set the mode");
    case(a, b);
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

macro_rules! cases {
    ($($(#[$meta:meta])* $case:ident),* $(,)?) => {
        mod posix {
            $(#[test] fn $case() { super::on_posix(super::$case); })*
        }
        mod sim {
            $(#[test] fn $case() { super::on_sim(super::$case); })*
        }
    };
}

cases!(
    equal_trees,
    only_in_a,
    only_in_b,
    only_on_one_side_is_not_entered,
    kind,
    kind_of_a_linked_directory,
    size,
    content_first_and_last_byte,
    content_in_a_hole_of_one_side,
    mode,
    mode_of_the_root,
    owner,
    mtime,
    mtime_within_the_grain,
    target,
    device_number,
    attribute_value,
    attribute_missing_and_extra,
    split_group_of_links,
    merged_groups_of_links,
    swapped_links,
    content_of_linked_files,
    holes_filled,
    own_folder_is_passed_over,
    several_at_once,
    excluded_is_skipped,
    policy_that_changes_what_was_looked_at,
);

fn equal_trees<S: Storage>(a: &S, b: &S) {
    for threads in [0, 1, 2, 8] {
        let (found, report) = run_with(a, b, &VerifyConfig::new(&ReplicateAll, threads));
        assert_eq!(found, []);
        assert!(report.is_equal());
        assert_eq!(report.entries, 14);
        assert_eq!(report.bytes, 3_000 + 1_300_000 + 3 + 6 + (9 << 20));
    }
}

fn only_in_a<S: Storage>(a: &S, b: &S) {
    Tree(b).unlink("empty");
    Tree(b).calm();
    expect_one(a, b, "empty", &Aspect::OnlyInA { kind: FileKind::Regular });
}

fn only_in_b<S: Storage>(a: &S, b: &S) {
    Tree(b).node("d/more", NewNode::Fifo);
    Tree(b).calm();
    expect_one(a, b, "d/more", &Aspect::OnlyInB { kind: FileKind::Fifo });
}

fn only_on_one_side_is_not_entered<S: Storage>(a: &S, b: &S) {
    Tree(a).directory("new");
    Tree(a).file("new/x", b"x");
    Tree(a).calm();
    expect_one(a, b, "new", &Aspect::OnlyInA { kind: FileKind::Directory });
}

fn kind<S: Storage>(a: &S, b: &S) {
    Tree(b).unlink("d/socket");
    Tree(b).file("d/socket", b"not any more");
    Tree(b).calm();
    let kinds = Aspect::Kind { a: FileKind::Socket, b: FileKind::Regular };
    expect_one(a, b, "d/socket", &kinds);
}

fn kind_of_a_linked_directory<S: Storage>(a: &S, b: &S) {
    Tree(a).directory("x");
    Tree(a).file("x/inside", b"1");
    Tree(b).symlink("x", b"d");
    Tree(a).calm();
    Tree(b).calm();
    let kinds = Aspect::Kind { a: FileKind::Directory, b: FileKind::Symlink };
    expect_one(a, b, "x", &kinds);
}

fn size<S: Storage>(a: &S, b: &S) {
    Tree(b).overwrite("d/f", 3_000, b"!");
    expect_one(a, b, "d/f", &Aspect::Size { a: 3_000, b: 3_001 });
}

fn content_first_and_last_byte<S: Storage>(a: &S, b: &S) {
    let last = 1_300_000 - 1;
    Tree(b).overwrite("d/e/large", last, &[8]);
    expect_one(a, b, "d/e/large", &Aspect::Content { offset: last, a: 9, b: 8 });
    Tree(b).overwrite("d/e/large", 0, &[9 ^ 0x80]);
    expect_one(a, b, "d/e/large", &Aspect::Content { offset: 0, a: 9, b: 9 ^ 0x80 });
}

fn content_in_a_hole_of_one_side<S: Storage>(a: &S, b: &S) {
    let offset = (6 << 20) + 77;
    Tree(b).overwrite("d/holes", offset, b"z");
    expect_one(a, b, "d/holes", &Aspect::Content { offset, a: 0, b: b'z' });
    Tree(a).overwrite("d/holes", offset, b"z");
    assert!(run(a, b).1.is_equal());
}

fn mode<S: Storage>(a: &S, b: &S) {
    let (at, name) = Tree(b).at(b"d/f");
    b.set_mode(Object::Named(&at, name), 0o4640).expect("set the mode");
    expect_one(a, b, "d/f", &Aspect::Mode { a: 0o640, b: 0o4640 });
}

fn mode_of_the_root<S: Storage>(a: &S, b: &S) {
    a.set_mode(Object::Directory(a.root()), 0o700).expect("set the mode");
    b.set_mode(Object::Directory(b.root()), 0o1700).expect("set the mode");
    expect_one(a, b, "", &Aspect::Mode { a: 0o700, b: 0o1700 });
}

fn owner<S: Storage>(a: &S, b: &S) {
    if !is_root() {
        return;
    }
    let before = Tree(a).stat("d/s");
    let (at, name) = Tree(b).at(b"d/s");
    b.set_owner(Object::Named(&at, name), 12, 4_000_000_000).expect("set the owner");
    let owners = Aspect::Owner { a: (before.uid, before.gid), b: (12, 4_000_000_000) };
    expect_one(a, b, "d/s", &owners);
}

fn mtime<S: Storage>(a: &S, b: &S) {
    let later = Timestamp { nanos: THEN.nanos + 1, ..THEN };
    Tree(b).set_time("d/s", later);
    expect_one(a, b, "d/s", &Aspect::Mtime { a: THEN, b: later });
    Tree(b).set_time("d/s", THEN);
    let before = Timestamp { seconds: -5, nanos: 0 };
    Tree(b).set_time("d/e", before);
    expect_one(a, b, "d/e", &Aspect::Mtime { a: THEN, b: before });
}

fn mtime_within_the_grain<S: Storage>(a: &S, b: &S) {
    Tree(b).set_time("d/s", Timestamp { nanos: 0, ..THEN });
    let plain = VerifyConfig::new(&ReplicateAll, 2);
    let coarse = VerifyConfig { mtime_grain_nanos: 1_000_000_000, ..plain };
    assert!(run_with(a, b, &coarse).1.is_equal());
    Tree(b).set_time("d/s", Timestamp { seconds: THEN.seconds + 1, nanos: 0 });
    assert_eq!(run_with(a, b, &coarse).1.differences, 1);
}

fn target<S: Storage>(a: &S, b: &S) {
    Tree(b).unlink("d/s");
    Tree(b).symlink("d/s", b"../nowherf");
    Tree(b).calm();
    let targets = Aspect::Target { a: (*b"../nowhere").into(), b: (*b"../nowherf").into() };
    expect_one(a, b, "d/s", &targets);
}

fn device_number<S: Storage>(a: &S, b: &S) {
    if !is_root() {
        return;
    }
    let (null, zero) = (DeviceNumber { major: 1, minor: 3 }, DeviceNumber { major: 1, minor: 5 });
    for (tree, number) in [(Tree(a), null), (Tree(b), zero)] {
        tree.node("device", NewNode::CharDevice(number));
        tree.set_time("device", THEN);
        tree.calm();
    }
    expect_one(a, b, "device", &Aspect::DeviceNumber { a: null, b: zero });
}

fn attribute_value<S: Storage>(a: &S, b: &S) {
    let (at, name) = Tree(b).at(b"d/f");
    b.set_xattr(Object::Named(&at, name), b"user.two", b"").expect("set an attribute");
    let aspect = Aspect::Attributes {
        name: (*b"user.two").into(),
        a: Some((*b"2").into()),
        b: Some((*b"").into()),
    };
    expect_one(a, b, "d/f", &aspect);
}

fn attribute_missing_and_extra<S: Storage>(a: &S, b: &S) {
    let (at, name) = Tree(b).at(b"d/f");
    b.remove_xattr(Object::Named(&at, name), b"user.one").expect("remove an attribute");
    let missing =
        Aspect::Attributes { name: (*b"user.one").into(), a: Some((*b"1").into()), b: None };
    expect_one(a, b, "d/f", &missing);
    let extra =
        Aspect::Attributes { name: (*b"user.one").into(), a: None, b: Some((*b"1").into()) };
    expect_one(b, a, "d/f", &extra);
    let (at, name) = Tree(b).at(b"d");
    b.set_xattr(Object::Named(&at, name), b"user.x", b"v").expect("set an attribute");
    assert_eq!(run(a, b).1.differences, 2);
}

fn split_group_of_links<S: Storage>(a: &S, b: &S) {
    Tree(b).unlink("d/e/l3");
    Tree(b).file("d/e/l3", b"linked");
    Tree(b).calm();
    let split = Aspect::HardLinks { a: Some(path("l1")), b: None, names: 1 };
    expect_one(a, b, "d/e/l3", &split);
    let merged = Aspect::HardLinks { a: None, b: Some(path("l1")), names: 1 };
    expect_one(b, a, "d/e/l3", &merged);
    Tree(b).unlink("d/l2");
    Tree(b).link("d/e/l3", "d/l2");
    Tree(b).calm();
    let split = Aspect::HardLinks { a: Some(path("l1")), b: None, names: 2 };
    expect_one(a, b, "d/l2", &split);
}

fn merged_groups_of_links<S: Storage>(a: &S, b: &S) {
    for tree in [Tree(a), Tree(b)] {
        tree.file("m1", b"linked");
        tree.link("m1", "d/m2");
        tree.calm();
    }
    assert!(run(a, b).1.is_equal());
    for name in ["m1", "d/m2"] {
        Tree(b).unlink(name);
        Tree(b).link("l1", name);
    }
    Tree(b).calm();
    let merged = Aspect::HardLinks { a: None, b: Some(path("l1")), names: 2 };
    expect_one(a, b, "m1", &merged);
}

fn swapped_links<S: Storage>(a: &S, b: &S) {
    for (tree, linked) in [(Tree(a), ["w1", "w2"]), (Tree(b), ["w2", "w1"])] {
        tree.file("w1", b"same");
        tree.file("w2", b"same");
        tree.link(linked[0], "w3");
        tree.link(linked[1], "w4");
        tree.calm();
    }
    let crossed = |b| Aspect::HardLinks { a: Some(path("w1")), b: Some(path(b)), names: 1 };
    let (found, _) = run(a, b);
    let second = Aspect::HardLinks { a: Some(path("w2")), b: Some(path("w1")), names: 1 };
    assert_eq!(
        found,
        [
            Difference { path: path("w3"), aspect: crossed("w2") },
            Difference { path: path("w4"), aspect: second },
        ]
    );
}

fn content_of_linked_files<S: Storage>(a: &S, b: &S) {
    Tree(b).overwrite("d/l2", 5, b"D");
    let (found, report) = run(a, b);
    assert_eq!(report.differences, 1, "{found:?}");
    assert_eq!(found[0].aspect, Aspect::Content { offset: 5, a: b'd', b: b'D' });
    // By one thread it is the first name in the order of the walk.
    let (found, _) = run_with(a, b, &VerifyConfig::new(&ReplicateAll, 1));
    assert_eq!(found[0].path, path("l1"));
}

fn holes_filled<S: Storage>(a: &S, b: &S) {
    Tree(b).overwrite("d/holes", 5 << 20, &vec![0; 3 << 20]);
    let (of_a, of_b) = (Tree(a).stat("d/holes").allocated, Tree(b).stat("d/holes").allocated);
    if of_a > 1 << 20 {
        // No holes on this file system.
        return;
    }
    expect_one(a, b, "d/holes", &Aspect::Holes { a: of_a, b: of_b });
    assert!(run(b, a).0.is_empty());
}

fn own_folder_is_passed_over<S: Storage>(a: &S, b: &S) {
    let own = ".farshore";
    Tree(b).directory(own);
    Tree(b).file(format!("{own}/identity"), b"1");
    Tree(b).calm();
    assert!(run(a, b).1.is_equal());
    for tree in [Tree(a), Tree(b)] {
        tree.directory(format!("d/{own}"));
        tree.set_time(format!("d/{own}"), THEN);
    }
    Tree(b).file(format!("d/{own}/x"), b"not at the root");
    Tree(b).set_time(format!("d/{own}"), THEN);
    Tree(a).calm();
    Tree(b).calm();
    expect_one(a, b, "d/.farshore/x", &Aspect::OnlyInB { kind: FileKind::Regular });
}

fn several_at_once<S: Storage>(a: &S, b: &S) {
    let (at, name) = Tree(b).at(b"d/f");
    let object = Object::Named(&at, name);
    b.set_xattr(object, b"user.a", b"0").expect("set an attribute");
    b.set_xattr(object, b"user.two", b"3").expect("set an attribute");
    b.set_xattr(object, b"user.z", b"9").expect("set an attribute");
    Tree(b).overwrite("d/f", 2_999, b"!");
    b.set_mode(object, 0o600).expect("set the mode");
    Tree(b).set_time("d/f", Timestamp { seconds: 1, nanos: 0 });
    let (found, report) = run(a, b);
    assert_eq!(report.differences, 6, "{found:?}");
    assert!(found.iter().all(|d| d.path == path("d/f")));
}

/// Excludes a name, defers another.
struct ByName;

impl Policy for ByName {
    fn exclude(&self, candidates: &[Candidate<'_>]) -> Vec<Verdict> {
        let action = |c: &Candidate<'_>| match c.path.name() {
            b"skipped" => Action::Exclude,
            b"deferred" => Action::Defer,
            _ => Action::Replicate,
        };
        candidates.iter().map(|c| Verdict { action: action(c), ..Verdict::REPLICATE }).collect()
    }

    fn rules(&self) -> Vec<String> {
        Vec::new()
    }
}

fn excluded_is_skipped<S: Storage>(a: &S, b: &S) {
    for (tree, content) in [(Tree(a), "1"), (Tree(b), "2")] {
        tree.directory("skipped");
        tree.file("skipped/x", content.as_bytes());
        tree.file("d/deferred", content.as_bytes());
        tree.calm();
    }
    Tree(b).file("d/e/skipped", b"only here");
    Tree(b).file("d/e/deferred", b"only here");
    Tree(b).calm();
    let (found, report) = run_with(a, b, &VerifyConfig::new(&ByName, 2));
    let aspect = Aspect::OnlyInB { kind: FileKind::Regular };
    assert_eq!(found, [Difference { path: path("d/e/deferred"), aspect }]);
    assert_eq!((report.excluded, report.entries), (3, 15));
}

/// Changes `d/f` of a tree when it is asked, which is after the first look.
struct Meddling<'a, S>(&'a S, AtomicBool);

impl<S: Storage> Policy for Meddling<'_, S> {
    fn exclude(&self, candidates: &[Candidate<'_>]) -> Vec<Verdict> {
        let due = candidates.iter().any(|c| c.path.as_bytes() == b"d/f");
        if due && !self.1.swap(true, Relaxed) {
            Tree(self.0).overwrite("d/f", 1_234, b"?");
        }
        vec![Verdict::REPLICATE; candidates.len()]
    }

    fn rules(&self) -> Vec<String> {
        Vec::new()
    }
}

fn policy_that_changes_what_was_looked_at<S: Storage>(a: &S, b: &S) {
    let policy = Meddling(b, AtomicBool::new(false));
    let (found, report) = run_with(a, b, &VerifyConfig::new(&policy, 2));
    let aspect = Aspect::Content { offset: 1_234, a: 7, b: b'?' };
    assert_eq!(found, [Difference { path: path("d/f"), aspect }]);
    assert_eq!(report.unreadable, 0);
}

/// A generator that is the same everywhere (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// One bit in each of a thousand files, lengths and times as they were.
fn a_thousand_flips<S: Storage>(a: &S, b: &S, seed: u64) {
    let mut random = Random(seed);
    let mut expected = Vec::new();
    for directory in 0..10 {
        for tree in [Tree(a), Tree(b)] {
            tree.directory(format!("{directory}"));
        }
        for file in 0..100 {
            let name = format!("{directory}/{file}");
            // Small ones, ones around the length from which holes are asked for, some set apart.
            let largest = match file % 25 {
                0 => 5 << 20,
                1..=8 => 64,
                9..=16 => 5_000,
                _ => 200_000,
            };
            let len = 1 + random.below(largest);
            let start = random.below(len);
            let part: Vec<u8> = (0..random.below((len - start).min(90_000)) + 1)
                .map(|_| random.next().to_le_bytes()[0])
                .collect();
            let data = [(start, &part[..])];
            let len = len.max(start + part.len() as u64);
            for tree in [Tree(a), Tree(b)] {
                tree.sparse(&name, len, &data);
            }
            let offset = random.below(len);
            let of_a = offset
                .checked_sub(start)
                .and_then(|i| part.get(usize::try_from(i).ok()?))
                .copied()
                .unwrap_or_default();
            let of_b = of_a ^ (1 << random.below(8));
            let before = Tree(b).stat(&name);
            Tree(b).overwrite(&name, offset, &[of_b]);
            let after = Tree(b).stat(&name);
            assert_eq!((before.size, before.mtime), (after.size, after.mtime));
            let aspect = Aspect::Content { offset, a: of_a, b: of_b };
            expected.push(Difference { path: path(&name), aspect });
        }
        for tree in [Tree(a), Tree(b)] {
            tree.set_time(format!("{directory}"), THEN);
        }
    }
    for tree in [Tree(a), Tree(b)] {
        tree.set_time("", THEN);
    }
    expected.sort_by(|x, y| x.path.cmp(&y.path));
    let (mut found, report) = run(a, b);
    found.retain(|d| !matches!(d.aspect, Aspect::Holes { .. }));
    assert_eq!(report.differences, 1_000, "seed {seed}");
    assert!(found == expected, "seed {seed}");
}

#[test]
fn a_thousand_flips_are_found_on_the_system() {
    let (a, b) = (TempDir::new().expect("tempdir"), TempDir::new().expect("tempdir"));
    let open = |d: &TempDir| PosixStorage::open(d.path()).expect("open the root");
    a_thousand_flips(&open(&a), &open(&b), 1);
}

#[test]
fn a_thousand_flips_are_found_on_the_simulated_disk() {
    for seed in 2..5 {
        let disk = || SimDisk::new(SimConfig { seed, ..SimConfig::default() });
        let (a, b) = (disk().mount("").expect("mount"), disk().mount("").expect("mount"));
        a_thousand_flips(&a, &b, seed);
    }
}

#[test]
fn every_read_that_fails_is_reported() {
    let disk = || SimDisk::new(SimConfig::default());
    let (disk_a, disk_b) = (disk(), disk());
    let (a, b) = (disk_a.mount("").expect("mount"), disk_b.mount("").expect("mount"));
    Tree(&a).plant();
    Tree(&b).plant();
    let config = VerifyConfig::new(&ReplicateAll, 1);
    for disk in [&disk_a, &disk_b] {
        let before = disk.reads();
        assert!(run_with(&a, &b, &config).1.is_equal());
        let reads = disk.reads() - before;
        assert!(reads > 60, "{reads}");
        for n in 1..=reads {
            disk.fail_read_at(n, Fault::Eio);
            let progress = VerifyProgress::default();
            let mut found = Vec::new();
            match verify(&a, &b, &config, &mut |d| found.push(d), &progress) {
                Err(VerifyError::Root { .. }) => assert_eq!(n, 1),
                Err(error) => panic!("{error}"),
                Ok(report) => {
                    assert_eq!((report.differences, report.unreadable), (0, 1), "{n} {found:?}");
                    let side = if std::ptr::eq(disk, &disk_a) { Side::A } else { Side::B };
                    let Aspect::Unreadable { side: told, .. } = found[0].aspect else { panic!() };
                    assert_eq!(told, side);
                }
            }
        }
    }
    assert!(run(&a, &b).1.is_equal());
}

/// B is changed by `meddle` after each of the first `times` reads of B.
fn while_read<S: Storage>(
    a: &S,
    b: S,
    times: u64,
    meddle: impl Fn(&Tree<'_, S>) + Send + Sync + 'static,
) -> (Vec<Difference>, VerifyReport) {
    let left = AtomicU64::new(times);
    let meddle = Box::new(move |b: &S| {
        let due = left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
        if due {
            meddle(&Tree(b));
        }
    });
    run_with(a, &Restless { inner: b, meddle }, &VerifyConfig::new(&ReplicateAll, 1))
}

/// Two trees of one file, so that each read is one of it.
fn one_file<S: Storage>(a: &S, b: &S) {
    for storage in [a, b] {
        Tree(storage).file("f", &[1; 50_000]);
        storage.set_mode(Object::Directory(storage.root()), 0o755).expect("set the mode");
        Tree(storage).set_time("", THEN);
    }
}

fn while_written<S: Storage>(make: impl Fn() -> (S, S)) {
    // What is there already: only the change time shows it.
    let same = |b: &Tree<'_, S>| b.overwrite("f", 40_000, &[1]);
    let fresh = || {
        let (a, b) = make();
        one_file(&a, &b);
        (a, b)
    };
    let (a, b) = fresh();
    let (found, report) = while_read(&a, b, 2, same);
    assert!(report.is_equal(), "it held still in the end: {found:?}");
    assert_eq!(report.bytes, 50_000);

    let (a, b) = fresh();
    let (found, report) = while_read(&a, b, u64::MAX, same);
    assert_eq!((report.unreadable, report.differences, report.bytes), (1, 0, 0), "{found:?}");
    let line = found[0].to_string();
    assert!(line.starts_with("f: unreadable in B: comparing it: unstable"), "{line}");

    let (a, b) = fresh();
    let (found, _) = while_read(&a, b, 1, |b| b.overwrite("f", 3, &[2]));
    let aspect = Aspect::Content { offset: 3, a: 1, b: 2 };
    assert_eq!(found, [Difference { path: path("f"), aspect }]);

    // Shorter, another file, gone.
    let (a, b) = fresh();
    let (found, _) = while_read(&a, b, 1, |b| {
        let (at, name) = b.at(b"f");
        let file = b.0.open_file_writable(&at, name).expect("open");
        b.0.set_len(&file, 9).expect("set the length");
        b.0.set_mtime(Object::File(&file), THEN).expect("set the time");
    });
    let aspect = Aspect::Size { a: 50_000, b: 9 };
    assert_eq!(found, [Difference { path: path("f"), aspect }]);
    for there in [true, false] {
        let (a, b) = fresh();
        let (found, _) = while_read(&a, b, 1, move |b| {
            b.unlink("f");
            if there {
                b.symlink("f", b"x");
            }
        });
        let aspect = if there {
            Aspect::Kind { a: FileKind::Regular, b: FileKind::Symlink }
        } else {
            Aspect::OnlyInA { kind: FileKind::Regular }
        };
        assert_eq!(found, [Difference { path: path("f"), aspect }]);
    }
}

#[test]
fn a_file_that_is_being_written_on_the_simulated_disk_is_never_equal() {
    while_written(|| {
        let disk = || SimDisk::new(SimConfig::default()).mount("").expect("mount");
        (disk(), disk())
    });
}

#[test]
fn a_file_that_is_being_written_on_the_system_is_never_equal() {
    let kept = std::cell::RefCell::new(Vec::new());
    while_written(|| {
        let (a, b) = (TempDir::new().expect("tempdir"), TempDir::new().expect("tempdir"));
        let open = |d: &TempDir| PosixStorage::open(d.path()).expect("open the root");
        let opened = (open(&a), open(&b));
        kept.borrow_mut().extend([a, b]);
        opened
    });
}

#[test]
fn linked_directories_are_not_followed() {
    let outside = TempDir::new().expect("tempdir");
    std::fs::write(outside.path().join("x"), b"outside").expect("write");
    let (dir_a, dir_b) = (TempDir::new().expect("tempdir"), TempDir::new().expect("tempdir"));
    for dir in [&dir_a, &dir_b] {
        std::os::unix::fs::symlink(outside.path(), dir.path().join("away")).expect("symlink");
        std::os::unix::fs::symlink(".", dir.path().join("loop")).expect("symlink");
    }
    let open = |d: &Path| PosixStorage::open(d).expect("open the root");
    let (a, b) = (open(dir_a.path()), open(dir_b.path()));
    for storage in [&a, &b] {
        for path in ["away", "loop", ""] {
            Tree(storage).set_time(path, THEN);
        }
    }
    let (found, report) = run(&a, &b);
    assert_eq!((found.len(), report.entries, report.bytes), (0, 3, 0));
}

#[test]
fn mount_points_are_reported_and_not_entered() {
    let disk = || SimDisk::new(SimConfig::default());
    let (disk_a, disk_b) = (disk(), disk());
    let (a, b) = (disk_a.mount("").expect("mount"), disk_b.mount("").expect("mount"));
    Tree(&a).plant();
    Tree(&b).plant();
    Tree(&b).overwrite("d/f", 0, b"!");
    disk_a.set_mount_point("d", true).expect("mount");
    let (found, report) = run(&a, &b);
    assert_eq!((report.differences, report.unreadable), (0, 1), "{found:?}");
    let Aspect::Unreadable { side: Side::A, step: "entering a mount point", .. } = found[0].aspect
    else {
        panic!("{found:?}")
    };
}

#[test]
fn roots_that_are_not_there_are_an_error() {
    let disk = SimDisk::new(SimConfig::default());
    let (a, b) = (disk.mount("").expect("mount"), SimDisk::new(SimConfig::default()));
    disk.crash(1);
    let b = b.mount("").expect("mount");
    let config = VerifyConfig::new(&ReplicateAll, 2);
    let progress = VerifyProgress::default();
    let result = verify(&a, &b, &config, &mut |_| {}, &progress);
    assert!(matches!(result, Err(VerifyError::Root { side: Side::A, .. })), "{result:?}");
}

/// A chain of directories with a file at its end.
fn chain<S: Storage>(storage: &S, names: &[Vec<u8>], content: &[u8]) {
    let mut opened = vec![storage.open_directory(storage.root(), b"").expect("open")];
    for name in names {
        let at = opened.last().expect("not empty");
        storage.make_directory(at, name).expect("make a directory");
        let next = storage.open_directory(at, name).expect("open");
        opened.push(next);
    }
    let file = storage.create_file(opened.last().expect("not empty"), b"f").expect("create");
    storage.write_at(&file, 0, content).expect("write");
    storage.set_mtime(Object::File(&file), THEN).expect("set the time");
    for directory in opened.iter().rev() {
        storage.set_mtime(Object::Directory(directory), THEN).expect("set the time");
    }
}

#[test]
fn paths_beyond_path_max() {
    let names: Vec<_> = (0..150).map(|n| format!("{n:0200}").into_bytes()).collect();
    let (dir_a, dir_b) = (TempDir::new().expect("tempdir"), TempDir::new().expect("tempdir"));
    let open = |d: &TempDir| PosixStorage::open(d.path()).expect("open the root");
    let (a, b) = (open(&dir_a), open(&dir_b).without_recent_calls());
    chain(&a, &names, b"deep");
    chain(&b, &names, b"deeq");
    let (found, report) = run(&a, &b);
    assert_eq!((found.len(), report.entries), (1, 152), "{found:?}");
    assert_eq!(found[0].path.components().count(), 151);
    assert_eq!(found[0].aspect, Aspect::Content { offset: 3, a: b'p', b: b'q' });
}

#[test]
fn deeper_than_there_are_descriptors() {
    let names = vec![b"d".to_vec(); 3_000];
    let disk = || SimDisk::new(SimConfig::default()).mount("").expect("mount");
    let (a, b) = (disk(), disk());
    chain(&a, &names, b"1");
    chain(&b, &names, b"1");
    let (found, report) = run(&a, &b);
    assert_eq!((found.len(), report.entries), (0, 3_002));
}

#[test]
fn a_path_longer_than_paths_are_is_reported() {
    let names: Vec<_> = (0..165).map(|_| vec![b'n'; 200]).collect();
    let disk = || SimDisk::new(SimConfig::default()).mount("").expect("mount");
    let (a, b) = (disk(), disk());
    chain(&a, &names, b"1");
    chain(&b, &names, b"2");
    let (found, _) = run(&a, &b);
    assert!(
        matches!(&found[..], [Difference { aspect: Aspect::Unreadable { step, .. }, .. }]
            if *step == "naming what lies below"),
        "{found:?}"
    );
}

#[test]
fn vast_holes_are_skipped() {
    let (dir_a, dir_b) = (TempDir::new().expect("tempdir"), TempDir::new().expect("tempdir"));
    let open = |d: &TempDir| PosixStorage::open(d.path()).expect("open the root");
    let (a, b) = (open(&dir_a), open(&dir_b));
    let size = 1 << 42;
    for storage in [&a, &b] {
        Tree(storage).sparse("vast", size, &[(1 << 41, b"mid"), (size - 3, b"end")]);
        Tree(storage).set_time("", THEN);
    }
    if Tree(&a).stat("vast").allocated > 1 << 20 {
        return;
    }
    let (found, report) = run(&a, &b);
    assert_eq!((found, report.bytes), (vec![], size));
    Tree(&b).overwrite("vast", size - 1, b"D");
    let aspect = Aspect::Content { offset: size - 1, a: b'd', b: b'D' };
    assert_eq!(run(&a, &b).0, [Difference { path: path("vast"), aspect }]);
}

#[test]
fn wide_directories_and_two_backends() {
    let dir = TempDir::new().expect("tempdir");
    let a = PosixStorage::open(dir.path()).expect("open the root");
    let b = SimDisk::new(SimConfig::default()).mount("").expect("mount");
    let root = a.stat(Object::Directory(a.root())).expect("stat");
    b.set_mode(Object::Directory(b.root()), root.mode).expect("set the mode");
    b.set_owner(Object::Directory(b.root()), root.uid, root.gid).expect("set the owner");
    let at_b = b.open_directory(b.root(), b"").expect("open");
    let (tree_a, tree_b) = (Tree(&a), Tree(&b));
    for n in 0..3_000u32 {
        let name = format!("{n}");
        if n.is_multiple_of(10) {
            tree_a.directory(&name);
            tree_b.directory(&name);
        } else {
            tree_a.file(&name, &n.to_le_bytes());
            tree_b.file(&name, &n.to_le_bytes());
        }
        b.set_owner(Object::Named(&at_b, name.as_bytes()), root.uid, root.gid).expect("owner");
        tree_a.set_time(&name, THEN);
        tree_b.set_time(&name, THEN);
    }
    tree_b.unlink("2999");
    tree_a.unlink("1");
    tree_a.set_time("", THEN);
    tree_b.set_time("", THEN);
    let (found, report) = run(&a, &b);
    let lines: Vec<_> = found.iter().map(ToString::to_string).collect();
    assert_eq!(lines, ["1: only in B (file)", "2999: only in A (file)"]);
    assert_eq!(report.entries, 3_001);
}

#[test]
fn facts_of_a_moment_ago_are_not_settled() {
    let disk = SimDisk::new(SimConfig::default()).mount("").expect("mount");
    Tree(&disk).file("f", b"1");
    let directory = disk.open_directory(disk.root(), b"").expect("open");
    let path = path("f");
    let place = Place { a: (&disk, &directory), b: (&disk, &directory), path: &path };
    let mut looked = place.look(true, true).expect("look");
    // Years ago on the simulated disk.
    assert_eq!(looked.unsettled(), None);
    let mut shift = |by: i64| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        let ms = i64::try_from(now.as_millis()).expect("it fits") + by;
        let nanos = u32::try_from(ms.rem_euclid(1_000)).expect("it fits") * 1_000_000;
        let ctime = Timestamp { seconds: ms.div_euclid(1_000), nanos };
        looked = place.look(true, true).expect("look");
        looked.b.as_mut().expect("it is there").ctime = ctime;
        looked.unsettled()
    };
    assert!(matches!(shift(-1), Some((Side::B, wait)) if wait <= Duration::from_millis(20)));
    assert_eq!(shift(-30), None);
    assert_eq!(shift(60_000), None, "another machine's clock");
}

#[test]
fn who_relies_on_a_look_that_was_given_up_is_reported() {
    let disk = SimDisk::new(SimConfig::default()).mount("").expect("mount");
    let tree = Tree(&disk);
    tree.file("x", b"1");
    tree.link("x", "y");
    tree.link("x", "z");
    let stat = tree.stat("x");
    let pair = Pair::of(&stat, &stat).expect("it has several names");
    let mut links = Links::default();
    let x = links.meet(pair, &path("x"), &stat, &stat);
    let y = links.meet(pair, &path("y"), &stat, &stat);
    assert!(x.compares && !y.compares);
    links.leave(x);
    links.settle(y);
    let told = links.finish();
    assert!(matches!(&told[..], [Difference { aspect: Aspect::Unreadable { .. }, .. }]));

    let mut links = Links::default();
    let x = links.meet(pair, &path("x"), &stat, &stat);
    links.meet(pair, &path("y"), &stat, &stat);
    links.leave(x);
    let z = links.meet(pair, &path("z"), &stat, &stat);
    assert!(z.compares);
    links.settle(z);
    assert_eq!(links.finish(), []);
}

#[test]
fn each_aspect_is_one_line() {
    let show = |aspect| Difference { path: path(b"a\nb\xff"), aspect }.to_string();
    let long = |byte| vec![byte; 60].into_boxed_slice();
    let content = Aspect::Content { offset: 12, a: 1, b: 255 };
    assert_eq!(show(content), "a\\u{a}b\\xff: content: differs from byte 12: 0x01 in A, 0xff in B");
    let unreadable =
        Aspect::Unreadable { side: Side::B, step: "opening it", error: "no\nway".to_owned() };
    assert_eq!(show(unreadable), "a\\u{a}b\\xff: unreadable in B: opening it: no\\u{a}way");
    let attribute =
        Aspect::Attributes { name: (*b"user.\x1b").into(), a: Some(long(b'v')), b: None };
    let shown = "v".repeat(48);
    assert_eq!(
        show(attribute),
        format!(
            "a\\u{{a}}b\\xff: attribute user.\\u{{1b}}: \"{shown}\"... (60 bytes) in A, none in B"
        )
    );
    let links = Aspect::HardLinks { a: Some(path("l\t")), b: None, names: 2 };
    assert_eq!(
        show(links),
        "a\\u{a}b\\xff: hard links: one inode with l\\u{9} in A, an inode of its own in B (2 names)"
    );
    let mtime = Aspect::Mtime { a: Timestamp { seconds: -1, nanos: 5 }, b: THEN };
    let mtime = show(mtime);
    assert!(mtime.ends_with("mtime: -1.000000005 in A, 1600000000.123456789 in B"), "{mtime}");
}

#[test]
fn distrusted_records_have_no_facts() {
    let config = CatalogConfig {
        role: CatalogRole::Source,
        cache_bytes: 1 << 20,
        fresh_id: StoreId([1; 16]),
    };
    let catalog = Catalog::open_on(InMemoryBackend::new(), &config).expect("in memory");
    let facts = |inode| {
        Some(LocalFacts { inode, ctime: THEN, mtime: THEN, size: 1, owner_mode: (0o644, 0, 0) })
    };
    let file = |inode| Record {
        entry: Entry::File {
            size: 1,
            content: FileDigest::of_small(b"1"),
            meta: Metadata::default(),
        },
        facts: facts(inode),
    };
    let further = Record { entry: Entry::HardLink { leader: path("leader") }, facts: facts(2) };
    let sealed = catalog
        .update(Durability::Immediate, |tables| {
            tables.put(&path("doubted"), &file(1))?;
            tables.put(&path("leader"), &file(2))?;
            tables.put(&path("further"), &further)?;
            tables.put(&path("trusted"), &file(3))?;
            for n in 0..5_000 {
                tables.put(&path(format!("many-{n}")), &file(10 + n))?;
            }
            tables.seal()
        })
        .expect("update");
    let mut doubted: Vec<_> = (0..5_000).map(|n| path(format!("many-{n}"))).collect();
    doubted.extend(["doubted", "further", "unknown"].map(path));
    distrust(&catalog, doubted.iter()).expect("distrust");
    distrust(&catalog, std::iter::empty()).expect("distrust nothing");
    let reader = catalog.reader().expect("reader");
    let has_facts = |name: &str| {
        reader.get(&path(name)).expect("get").is_some_and(|record| record.facts.is_some())
    };
    for name in ["doubted", "further", "leader", "many-0", "many-4999"] {
        assert!(!has_facts(name), "{name}");
    }
    assert!(has_facts("trusted"));
    assert_eq!(reader.get(&path("unknown")).expect("get"), None);
    assert_eq!(reader.get(&path("doubted")).expect("get").map(|r| r.entry), Some(file(1).entry));
    assert_eq!(reader.entry_count().expect("count"), 5_004);
    assert_eq!(catalog.sealed_root().expect("root"), sealed);
}

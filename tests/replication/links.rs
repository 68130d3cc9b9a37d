//! Hard links: the names of one inode at the source are the names of one inode at the target, after
//! every change to the group.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use farshore::replicate::RunOptions;

use crate::sites::{Sites, noise, put};

fn link(sites: &Sites, from: &str, to: &str) {
    let to = sites.a.join(to);
    fs::create_dir_all(to.parent().expect("it has one")).expect("folders");
    fs::hard_link(sites.a.join(from), to).expect("linked");
}

fn inode(root: &Path, name: &str) -> u64 {
    fs::symlink_metadata(root.join(name)).expect("it is there").ino()
}

/// `names` are one inode at the target.
fn together(sites: &Sites, names: &[&str]) {
    let inodes: Vec<u64> = names.iter().map(|name| inode(&sites.b, name)).collect();
    assert!(inodes.windows(2).all(|w| w[0] == w[1]), "{names:?}: {inodes:?}");
}

/// Runs, compares, runs again.
fn step(sites: &Sites, what: &str) {
    let run = sites.run_approved();
    let first = run.sealed().sequence == 1;
    assert!(first || !run.result.source.compared, "{what}: the two ends had to be compared");
    sites.converged(what);
}

/// Every change to a group of names in turn, each in a small and in a large file's group.
#[test]
fn groups_stay_groups_whatever_happens_to_them() {
    for len in [5_000, 300_000] {
        let sites = Sites::new();
        let file = |name: &str| sites.a.join(name);
        put(&file("m/first"), noise(1, len));
        link(&sites, "m/first", "m/second");
        link(&sites, "m/first", "z/third");
        step(&sites, "made");
        together(&sites, &["m/first", "m/second", "z/third"]);

        put(&file("m/first"), noise(2, len));
        step(&sites, "content written through one name");
        together(&sites, &["m/first", "m/second", "z/third"]);

        link(&sites, "z/third", "a/before-all");
        step(&sites, "a name before the first");
        together(&sites, &["a/before-all", "m/first", "m/second", "z/third"]);

        fs::remove_file(file("a/before-all")).expect("removed");
        step(&sites, "the first name removed");
        together(&sites, &["m/first", "m/second", "z/third"]);

        fs::remove_file(file("m/first")).expect("removed");
        put(&file("m/first"), noise(3, len));
        step(&sites, "the first name is a file of its own");
        together(&sites, &["m/second", "z/third"]);
        assert_ne!(inode(&sites.b, "m/first"), inode(&sites.b, "m/second"));

        fs::rename(file("m/first"), file("m/second")).expect("renamed over");
        step(&sites, "a name renamed over by another file");

        link(&sites, "m/second", "m/first");
        fs::rename(file("z"), file("b")).expect("renamed");
        step(&sites, "the folder of a name renamed");
        together(&sites, &["m/first", "m/second"]);

        fs::rename(file("m"), file("q")).expect("renamed");
        step(&sites, "the folder of a whole group renamed");
        together(&sites, &["q/first", "q/second"]);

        fs::rename(file("q/first"), file("q/zz")).expect("renamed");
        step(&sites, "the first name renamed behind the others");
        together(&sites, &["q/second", "q/zz"]);

        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o640);
        fs::set_permissions(file("q/zz"), mode).expect("its mode");
        step(&sites, "the mode changed through one name");
        together(&sites, &["q/second", "q/zz"]);

        fs::remove_file(file("q/zz")).expect("removed");
        step(&sites, "one name left");
        fs::remove_file(file("q/second")).expect("removed");
        step(&sites, "none left");
    }
}

/// Two groups exchange a name; a group falls apart into equal files; equal files become a group.
#[test]
fn groups_exchange_names_and_fall_apart() {
    let sites = Sites::new();
    let file = |name: &str| sites.a.join(name);
    put(&file("x1"), b"x content");
    put(&file("y1"), b"y content");
    for (from, to) in [("x1", "x2"), ("x1", "d/x3"), ("y1", "y2"), ("y1", "d/y3")] {
        link(&sites, from, to);
    }
    step(&sites, "two groups");
    let cwd = rustix::fs::CWD;
    let flags = rustix::fs::RenameFlags::EXCHANGE;
    rustix::fs::renameat_with(cwd, file("x1"), cwd, file("y1"), flags).expect("exchanged");
    step(&sites, "first names exchanged");
    together(&sites, &["y1", "x2", "d/x3"]);
    together(&sites, &["x1", "y2", "d/y3"]);
    rustix::fs::renameat_with(cwd, file("d/x3"), cwd, file("y2"), flags).expect("exchanged");
    step(&sites, "further names exchanged");
    together(&sites, &["y1", "x2", "y2"]);
    together(&sites, &["x1", "d/x3", "d/y3"]);
    for name in ["x1", "x2", "y1"] {
        let content = fs::read(file(name)).expect("content");
        fs::remove_file(file(name)).expect("removed");
        put(&file(name), content);
    }
    step(&sites, "names became files of their own");
    fs::remove_file(file("x2")).expect("removed");
    fs::remove_file(file("y1")).expect("removed");
    link(&sites, "y2", "x2");
    link(&sites, "y2", "y1");
    step(&sites, "equal files became one");
    together(&sites, &["x2", "y1", "y2"]);
}

/// Links of what is no regular file, and groups broken or joined by a stranger at the target.
#[test]
fn links_broken_or_made_at_the_target_are_put_right() {
    let sites = Sites::new();
    std::os::unix::fs::symlink("nowhere", sites.a.join("s1")).expect("a link");
    link(&sites, "s1", "s2");
    put(&sites.a.join("f1"), b"linked");
    link(&sites, "f1", "f2");
    put(&sites.a.join("g1"), b"alike");
    put(&sites.a.join("g2"), b"alike");
    step(&sites, "made");
    together(&sites, &["s1", "s2"]);
    fs::remove_file(sites.b.join("f2")).expect("removed");
    put(&sites.b.join("f2"), b"linked");
    fs::remove_file(sites.b.join("g2")).expect("removed");
    fs::hard_link(sites.b.join("g1"), sites.b.join("g2")).expect("linked");
    let run = sites.run();
    assert!(run.result.source.foreign_changes >= 2, "{}", run.result.source.foreign_changes);
    assert_eq!(run.literal(), 0);
    sites.converged("put right");
    together(&sites, &["f1", "f2"]);
    assert_ne!(inode(&sites.b, "g1"), inode(&sites.b, "g2"));
}

/// A first name that the target cannot build as it was sent, and gets again, takes its other names
/// along.
#[test]
fn names_follow_a_first_name_that_is_sent_again() {
    let sites = Sites::new();
    let mut content = noise(7, 2 << 20);
    put(&sites.a.join("home/first"), &content);
    link(&sites, "home/first", "home/second");
    link(&sites, "home/first", "other/third");
    step(&sites, "made");
    // A stranger spoils what the next run would build on, and the run does not look.
    put(&sites.b.join("home/first"), noise(8, 2 << 20));
    content[1 << 20] ^= 1;
    put(&sites.a.join("home/first"), &content);
    let options = RunOptions { trust_target: true, ..sites.options() };
    sites.run_with(&options).clean();
    sites.converged("sent again");
    together(&sites, &["home/first", "home/second", "other/third"]);
}

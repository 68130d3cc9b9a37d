//! Catalogs lost, exchanged and outdated: the trees are the truth, nothing is sent that is there and
//! nothing is deleted.

use std::fs;
use std::path::{Path, PathBuf};

use farshore::replicate::RunOptions;
use farshore_core::guard::Hold;
use farshore_test_support::{Kind, Options, TortureTree, Tree, mutate, rsync_copy};

use crate::sites::{Counts, Run, Sites, Snapshot, noise, put, snapshot, touched};

/// A pair after a first run and a few changes.
fn pair(seed: u64) -> Sites {
    made(Sites::in_memory(), seed)
}

fn made(sites: Sites, seed: u64) -> Sites {
    fs::remove_dir(&sites.a).expect("removed");
    TortureTree::build(&sites.a, seed, &Options::small()).expect("a tree");
    sites.run();
    mutate(&sites.a, seed, 1).expect("changes");
    sites.run_approved();
    sites.converged("before anything is lost");
    sites
}

/// The folder of one end's catalog.
pub(crate) fn catalog(state: &Path, role: &str) -> PathBuf {
    fs::read_dir(state)
        .expect("the state folder")
        .map(|item| item.expect("an item").path())
        .find(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(role)))
        .expect("it has a catalog")
}

/// The next run, unapproved, restores order without sending content, removing anything, or touching
/// a file. It says once more which names are one inode, and what the root is.
pub(crate) fn recovers(sites: &Sites, what: &str) -> Run {
    let before = files(sites);
    let run = sites.run();
    let Counts { written, metadata, moved, removed } = run.counts();
    assert_eq!((run.literal(), metadata, moved, removed), (0, 0, 0, 0), "{what}");
    let tree = Tree::open(&sites.a).and_then(|tree| tree.walk()).expect("a walk");
    let linked = tree.iter().filter(|(_, f)| f.kind != Kind::Directory && f.nlink > 1).count();
    assert!(written <= 1 + linked as u64, "{what}: {:?}", run.counts());
    assert_eq!(touched(&before, &files(sites)), Vec::<String>::new(), "{what}");
    sites.converged(what);
    run
}

/// All at the target but folders and Farshore's own.
fn files(sites: &Sites) -> Snapshot {
    let mut found = snapshot(&sites.b, &[]);
    found.retain(|path, facts| !path.starts_with(b".farshore") && facts.4 & 0o170_000 != 0o040_000);
    found
}

#[test]
fn lost_catalogs_are_rebuilt_from_the_trees() {
    let sites = pair(11);
    fs::remove_dir_all(catalog(&sites.state, "source-")).expect("removed");
    recovers(&sites, "the source's catalog lost");
    fs::remove_dir_all(catalog(&sites.state, "target-")).expect("removed");
    recovers(&sites, "the target's catalog lost");
    for role in ["source-", "target-"] {
        fs::remove_dir_all(catalog(&sites.state, role)).expect("removed");
    }
    recovers(&sites, "both catalogs lost");
    fs::remove_dir_all(&sites.state).expect("removed");
    recovers(&sites, "the state folder lost");
    fs::remove_dir_all(sites.b.join(".farshore")).expect("removed");
    recovers(&sites, "the target's own folder lost");
    fs::remove_dir_all(sites.b.join(".farshore")).expect("removed");
    fs::remove_dir_all(&sites.state).expect("removed");
    recovers(&sites, "all of it lost");
}

/// With changes made while a catalog was lost, no more content is sent than changed.
#[test]
fn changes_made_while_a_catalog_was_lost_arrive_alone() {
    for role in ["source-", "target-"] {
        let sites = pair(12);
        fs::remove_dir_all(catalog(&sites.state, role)).expect("removed");
        put(&sites.a.join("sizes/new"), noise(1, 100_000));
        fs::rename(sites.a.join("sizes/random-5242880"), sites.a.join("sizes/renamed"))
            .expect("renamed");
        // Without the source's catalog the rename is a delete, on first contact.
        if role == "source-" {
            let run = sites.run_with(&sites.options());
            assert!(matches!(run.held(), Hold::UnknownTarget { .. }), "{:?}", run.held());
        }
        let run = sites.run_approved();
        // Without the source's catalog nothing tells that the renamed file is at the target.
        let renamed = if role == "source-" { 5 << 20 } else { 0 };
        assert_eq!(run.literal(), 100_000 + renamed, "{role}");
        assert_eq!(run.counts().removed + run.counts().moved, 1, "{role}: {:?}", run.counts());
        sites.converged(role);
        // What the catalog learned anew serves the next edit.
        let mut content = fs::read(sites.a.join("sizes/text-5242880")).expect("content");
        content[3 << 20] ^= 1;
        put(&sites.a.join("sizes/text-5242880"), content);
        let run = sites.run();
        assert!(run.literal() < 600_000, "{role}: {} bytes sent for one", run.literal());
    }
}

/// Catalogs of another pair in place of ours, one end's or both.
#[test]
fn foreign_catalogs_are_corrected() {
    // On one file system, where two roots are two inodes.
    let other = made(Sites::new(), 13);
    // The other pair's share has more in it, and other things of the same name.
    put(&other.a.join("sizes/only-there"), b"not ours");
    put(&other.a.join("sizes/text-4096"), b"of the same name");
    other.run();
    for roles in [&["source-"][..], &["target-"], &["source-", "target-"]] {
        let sites = made(Sites::new(), 14);
        for role in roles {
            let (from, to) = (catalog(&other.state, role), catalog(&sites.state, role));
            fs::copy(from.join("catalog.redb"), to.join("catalog.redb")).expect("copied");
        }
        let before = snapshot(&sites.b, &[b".farshore/staging"]);
        let run = sites.run_with(&sites.options());
        // Another root than the catalog knows is for people to judge; nothing has happened by then.
        if roles.contains(&"source-") {
            assert!(matches!(run.held(), Hold::RootReplaced { .. }), "{roles:?}: {:?}", run.held());
            let after = snapshot(&sites.b, &[b".farshore/staging"]);
            assert_eq!(touched(&before, &after), Vec::<String>::new(), "{roles:?}");
            let run = sites.run_approved();
            assert_eq!((run.literal(), run.counts().removed), (0, 0), "{roles:?}");
        } else {
            run.clean();
            assert_eq!((run.literal(), run.counts().removed), (0, 0), "{roles:?}");
        }
        sites.converged("after a foreign catalog");
    }
}

/// The state folder restored from a backup: older than what happened since.
#[test]
fn outdated_catalogs_are_corrected() {
    for roles in [&["source-"][..], &["target-"], &["source-", "target-"]] {
        let sites = pair(15);
        let saved = sites.top().join("saved");
        for role in roles {
            fs::create_dir_all(saved.join(role)).expect("a folder");
            let file = catalog(&sites.state, role).join("catalog.redb");
            fs::copy(file, saved.join(role).join("catalog.redb")).expect("copied");
        }
        for step in 10..14 {
            mutate(&sites.a, 15, step).expect("changes");
            sites.run_approved();
        }
        for role in roles {
            let file = catalog(&sites.state, role).join("catalog.redb");
            fs::copy(saved.join(role).join("catalog.redb"), file).expect("copied");
        }
        let run = sites.run_with(&sites.options());
        run.clean();
        assert_eq!((run.literal(), run.counts().removed), (0, 0), "{roles:?}");
        sites.converged("after a restored catalog");
        mutate(&sites.a, 15, 20).expect("changes");
        sites.run_approved();
        sites.converged("after a restored catalog and further changes");
    }
}

/// A target filled by rsync is taken over without sending content.
#[test]
fn a_target_filled_by_rsync_is_taken_over() {
    if !farshore_test_support::has_rsync() {
        return;
    }
    let sites = Sites::new();
    fs::remove_dir(&sites.a).expect("removed");
    TortureTree::build(&sites.a, 16, &Options::small()).expect("a tree");
    rsync_copy(&sites.a, &sites.b).expect("a copy");
    let run = recovers(&sites, "filled by rsync");
    assert!(run.result.source.compared);
}

/// What the target has beyond the source is not deleted on first contact: the run is held until
/// somebody approves.
#[test]
fn extras_at_a_target_met_for_the_first_time_are_held() {
    let sites = Sites::new();
    for i in 0..20 {
        put(&sites.a.join(format!("home/f{i}")), noise(i, 5_000));
        put(&sites.b.join(format!("home/f{i}")), noise(i, 5_000));
    }
    put(&sites.b.join("home/extra"), b"nobody has this but me");
    put(&sites.b.join("other/extra"), b"nor this");
    let before = snapshot(&sites.b, &[]);
    let run = sites.run_with(&sites.options());
    assert!(matches!(run.held(), Hold::UnknownTarget { deleted: 3, .. }), "{:?}", run.held());
    assert_eq!(run.counts(), Counts::default());
    let mut after = snapshot(&sites.b, &[]);
    after.retain(|path, _| !path.starts_with(b".farshore"));
    // Its own folder was made: the root's times moved.
    let moved = touched(&before, &after);
    assert!(moved.iter().all(String::is_empty), "{moved:?}");
    let again = sites.run_with(&sites.options());
    assert!(matches!(again.held(), Hold::UnknownTarget { deleted: 3, .. }), "still held");
    let run = sites.run_with(&RunOptions { approved: true, ..sites.options() });
    run.clean();
    assert_eq!((run.literal(), run.counts().removed), (0, 3));
    sites.converged("approved");
    let kept = crate::sites::contents(&sites.b.join(".farshore/history"));
    for content in [&b"nobody has this but me"[..], b"nor this"] {
        assert!(kept.contains_key(&blake3::hash(content)), "lost: {}", content.escape_ascii());
    }
}

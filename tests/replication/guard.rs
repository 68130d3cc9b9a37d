//! What holds a run before its first change, and what is never deleted.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};

use farshore::replicate::RunOptions;
use farshore_core::entry::Timestamp;
use farshore_core::guard::Hold;
use farshore_core::policy::Action;
use farshore_engine::source::Outcome;
use farshore_policies::RuleSet;
use rustix::mount::{UnmountFlags, unmount};

use crate::sites::{Counts, Run, Sites, is_root, mount_tmpfs, noise, put, snapshot, touched};

/// A run that is held, and changes nothing at the target.
fn held(sites: &Sites, what: &str) -> Run {
    let staging: [&[u8]; 1] = [b".farshore/staging"];
    let before = snapshot(&sites.b, &staging);
    let run = sites.run_with(&sites.options());
    run.held();
    assert_eq!((run.counts(), run.frames()), (Counts::default(), 0), "{what}");
    let after = snapshot(&sites.b, &staging);
    assert_eq!(touched(&before, &after), Vec::<String>::new(), "{what}");
    run
}

fn few_files(sites: &Sites) {
    for i in 0..10 {
        put(&sites.a.join(format!("home/f{i}")), noise(i, 3_000));
    }
}

#[test]
fn an_emptied_source_is_held() {
    let sites = Sites::new();
    few_files(&sites);
    sites.run();
    fs::remove_dir_all(sites.a.join("home")).expect("removed");
    let run = held(&sites, "emptied");
    assert!(matches!(run.held(), Hold::RootEmptied { known: 11 }), "{:?}", run.held());
    let run = sites.run_approved();
    assert_eq!(run.counts().removed, 11);
    sites.converged("approved");
}

/// A share that is not mounted shows another folder: empty, or with whatever lies below.
#[test]
fn a_source_that_is_another_folder_is_held() {
    let sites = Sites::new();
    few_files(&sites);
    sites.run();
    let aside = sites.top().join("aside");
    fs::rename(&sites.a, &aside).expect("renamed");
    fs::create_dir(&sites.a).expect("a folder");
    let run = held(&sites, "another folder, empty");
    assert!(matches!(run.held(), Hold::RootReplaced { .. }), "{:?}", run.held());
    put(&sites.a.join("home/f0"), b"another f0");
    let run = held(&sites, "another folder");
    assert!(matches!(run.held(), Hold::RootReplaced { .. }), "{:?}", run.held());
    fs::remove_dir_all(&sites.a).expect("removed");
    fs::rename(&aside, &sites.a).expect("renamed");
    assert_eq!(sites.run().counts(), Counts::default(), "mounted again");
    fs::create_dir(&aside).expect("a folder");
    put(&aside.join("home/f0"), b"a new share");
    fs::rename(&sites.a, sites.top().join("old")).expect("renamed");
    fs::rename(&aside, &sites.a).expect("renamed");
    let run = sites.run_approved();
    assert_eq!(run.counts().removed, 9);
    sites.converged("approved");
}

#[test]
fn an_unmounted_source_is_held() {
    let sites = Sites::new();
    if !is_root() || !mount_tmpfs(&sites.a) {
        return;
    }
    few_files(&sites);
    sites.run();
    unmount(&sites.a, UnmountFlags::empty()).expect("unmounted");
    let run = held(&sites, "unmounted");
    assert!(matches!(run.held(), Hold::RootReplaced { .. }), "{:?}", run.held());
}

/// Above the threshold a delete is held before the first file goes; below it, and when approved, it
/// passes.
#[test]
fn a_mass_delete_is_held_before_its_first_delete() {
    let sites = Sites::in_memory();
    for i in 0..3_000 {
        put(&sites.a.join(format!("acct-{:02}/f{i}", i % 30)), i.to_string());
    }
    sites.run();
    for i in 0..1_000 {
        fs::remove_file(sites.a.join(format!("acct-{:02}/f{i}", i % 30))).expect("removed");
    }
    put(&sites.a.join("acct-00/new"), b"comes with the deletes");
    let run = sites.run();
    assert_eq!(run.counts().removed, 1_000, "as many as are never a mass change");
    for i in 1_000..2_001 {
        fs::remove_file(sites.a.join(format!("acct-{:02}/f{i}", i % 30))).expect("removed");
    }
    put(&sites.a.join("acct-01/new"), b"comes with the deletes");
    let run = held(&sites, "a mass delete");
    assert!(matches!(run.held(), Hold::MassDelete { deleted: 1_001, .. }), "{:?}", run.held());
    assert!(!sites.b.join("acct-01/new").exists(), "nothing passes while it is held");
    let run = sites.run_approved();
    assert_eq!(run.counts().removed, 1_001);
    sites.converged("approved");
}

/// A whole folder renamed is no mass delete, however many files it holds.
#[test]
fn a_renamed_folder_is_not_held() {
    let sites = Sites::in_memory();
    for i in 0..2_500 {
        put(&sites.a.join(format!("acct/in/f{i}")), i.to_string());
    }
    sites.run();
    for (from, to) in [("acct/in", "acct/a-before"), ("acct/a-before", "acct/z-behind")] {
        fs::rename(sites.a.join(from), sites.a.join(to)).expect("renamed");
        let run = sites.run();
        assert_eq!((run.literal(), run.counts().moved), (0, 2_500));
        assert_eq!(run.counts().removed, 1, "the old folder's name");
        sites.converged("renamed");
    }
}

#[test]
fn a_dry_run_changes_nothing() {
    let sites = Sites::new();
    few_files(&sites);
    sites.run();
    fs::remove_file(sites.a.join("home/f1")).expect("removed");
    put(&sites.a.join("home/f2"), b"changed");
    fs::rename(sites.a.join("home/f3"), sites.a.join("home/moved")).expect("renamed");
    let staging: [&[u8]; 1] = [b".farshore/staging"];
    let before = snapshot(&sites.b, &staging);
    let run = sites.run_with(&RunOptions { dry_run: true, ..sites.options() });
    let Outcome::Preview(lines) = &run.result.source.outcome else { panic!("no preview") };
    let lines: Vec<String> = lines.iter().map(|(path, what)| format!("{what} {path}")).collect();
    for wanted in ["remove home/f1", "update home/f2", "move home/moved"] {
        assert!(lines.iter().any(|l| l == wanted), "{wanted} is not in {lines:?}");
    }
    let after = snapshot(&sites.b, &staging);
    assert_eq!(touched(&before, &after), Vec::<String>::new());
    sites.run();
    sites.converged("for real");
}

/// What a dry run shows is what the run would do: nothing, when it would be held.
#[test]
fn a_dry_run_says_that_it_would_be_held() {
    let sites = Sites::new();
    few_files(&sites);
    sites.run();
    fs::remove_dir_all(sites.a.join("home")).expect("removed");
    let dry = RunOptions { dry_run: true, ..sites.options() };
    let run = sites.run_with(&dry);
    assert_eq!(run.result.source.would_hold, Some(Hold::RootEmptied { known: 11 }));
    let run = sites.run_with(&RunOptions { approved: true, ..dry });
    assert_eq!(run.result.source.would_hold, None);
}

/// A target that is not mounted shows the empty folder below it: nothing is poured in there.
#[test]
fn an_emptied_target_is_held() {
    let sites = Sites::new();
    few_files(&sites);
    sites.run();
    let aside = sites.top().join("aside");
    fs::rename(&sites.b, &aside).expect("renamed");
    fs::create_dir(&sites.b).expect("a folder");
    let run = sites.run_with(&sites.options());
    assert!(matches!(run.held(), Hold::TargetEmptied { proven: 11 }), "{:?}", run.held());
    assert!(!sites.b.join("home").exists());
    // A target that need not check its tree looks at which one it is.
    fs::remove_dir_all(&sites.b).expect("removed");
    fs::create_dir(&sites.b).expect("a folder");
    let run = sites.run_with(&RunOptions { trust_target: true, ..sites.options() });
    assert!(matches!(run.held(), Hold::TargetEmptied { .. }), "{:?}", run.held());
    // It is mounted again.
    fs::remove_dir_all(&sites.b).expect("removed");
    fs::rename(&aside, &sites.b).expect("renamed");
    sites.run();
    sites.converged("mounted again");
    fs::remove_dir_all(&sites.b).expect("removed");
    fs::create_dir(&sites.b).expect("a folder");
    sites.run_approved();
    sites.converged("filled again because somebody said so");
}

/// Another tree in its place: what it has is not ours to delete, whatever is known of the path.
#[test]
fn another_tree_in_the_place_of_the_target_is_held() {
    let sites = Sites::new();
    few_files(&sites);
    sites.run();
    fs::rename(&sites.b, sites.top().join("aside")).expect("renamed");
    put(&sites.b.join("theirs/file"), b"of somebody else");
    let run = sites.run_with(&sites.options());
    assert!(matches!(run.held(), Hold::UnknownTarget { deleted: 2, .. }), "{:?}", run.held());
    assert!(sites.b.join("theirs/file").exists());
}

/// What the catalogs lost is believed of the target again, and is no rewriting of half of it.
#[test]
fn many_files_known_to_nobody_are_not_held_for_being_rewritten() {
    let sites = Sites::in_memory();
    for i in 0..1_500 {
        put(&sites.a.join(format!("home/f{i}")), format!("content {i}"));
    }
    sites.run();
    for _ in 0..2 {
        fs::remove_dir_all(&sites.state).expect("removed");
        let run = sites.run();
        // The root has no parent to be compared in: it is always looked at again.
        let written = run.counts().written;
        assert!(written <= 1 && run.literal() == 0, "{:?}", run.counts());
    }
}

/// Something mounted within the source: what lies there is not replicated, what the target has of it
/// stays, and the run says so. Nor is it a mass delete, or gone when the mount goes.
#[test]
fn a_mount_within_the_source_hides_nothing_from_the_target() {
    let sites = Sites::new();
    few_files(&sites);
    put(&sites.a.join("home/mnt/below"), b"below the mount point");
    put(&sites.a.join("home/mnt/sub/deeper"), b"deeper");
    sites.run();
    let mount = sites.a.join("home/mnt");
    if !is_root() || !mount_tmpfs(&mount) {
        return;
    }
    put(&mount.join("elsewhere"), b"on another file system");
    put(&sites.a.join("home/f0"), b"changed meanwhile");
    let run = sites.run_with(&sites.options());
    run.sealed();
    assert_eq!(run.problems().len(), 1, "{:?}", run.problems());
    assert!(run.problems()[0].starts_with("home/mnt: "), "{:?}", run.problems());
    assert_eq!(run.counts().removed, 0);
    assert_eq!(run.result.source.detached, 4, "what lies at and below it");
    let read = |name: &str| fs::read(sites.b.join("home/mnt").join(name)).ok();
    assert_eq!(read("below").as_deref(), Some(&b"below the mount point"[..]));
    assert_eq!(read("sub/deeper").as_deref(), Some(&b"deeper"[..]));
    assert_eq!(read("elsewhere"), None, "another file system was entered");
    let again = sites.run_with(&sites.options());
    assert_eq!((again.counts(), again.literal()), (Counts::default(), 0));
    // With all around it gone, it still stays.
    for i in 0..10 {
        fs::remove_file(sites.a.join(format!("home/f{i}"))).expect("removed");
    }
    let run = sites.run_with(&RunOptions { approved: true, ..sites.options() });
    assert_eq!(run.counts().removed, 10);
    assert!(read("below").is_some());
    unmount(&mount, UnmountFlags::empty()).expect("unmounted");
    sites.run();
    sites.converged("unmounted");
}

/// An ordinary user who may not read a folder does not take its content for gone.
#[test]
fn an_unreadable_folder_is_no_deletion() {
    let sites = Sites::new();
    if is_root() {
        for folder in [sites.top(), &sites.a, &sites.b, &sites.state] {
            chown(folder, Some(12_345), Some(12_345)).expect("given away");
        }
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if is_root() {
                // Of this thread alone, and of those it starts.
                let (uid, gid) =
                    (rustix::fs::Uid::from_raw(12_345), rustix::fs::Gid::from_raw(12_345));
                rustix::thread::set_thread_groups(&[]).expect("no groups");
                rustix::thread::set_thread_res_gid(gid, gid, gid).expect("a group");
                rustix::thread::set_thread_res_uid(uid, uid, uid).expect("a user");
            }
            unreadable(&sites);
        });
    });
}

fn unreadable(sites: &Sites) {
    few_files(sites);
    put(&sites.a.join("home/locked/below"), b"not to be seen");
    put(&sites.a.join("home/locked/sub/deeper"), b"nor this");
    put(&sites.a.join("home/secret"), b"a file that is locked later");
    sites.run();
    let mode = |name: &str, mode| {
        fs::set_permissions(sites.a.join(name), PermissionsExt::from_mode(mode)).expect("a mode");
    };
    mode("home/locked", 0o000);
    mode("home/secret", 0o000);
    put(&sites.a.join("home/f0"), b"changed meanwhile");
    for round in 0..2 {
        let run = sites.run_with(&sites.options());
        run.sealed();
        let problems = run.problems();
        assert!(problems.iter().any(|p| p.starts_with("home/locked: ")), "{round}: {problems:?}");
        assert!(problems.iter().any(|p| p.starts_with("home/secret: ")), "{round}: {problems:?}");
        assert_eq!(run.counts().removed, 0, "{round}");
        assert_eq!(fs::read(sites.b.join("home/f0")).expect("f0"), b"changed meanwhile");
    }
    mode("home/locked", 0o755);
    mode("home/secret", 0o644);
    let run = sites.run_with(&sites.options());
    assert!(run.problems().is_empty(), "{:?}", run.problems());
    let locked = fs::metadata(sites.b.join("home/locked")).expect("it is there").permissions();
    assert_eq!(locked.mode() & 0o777, 0o755);
    assert_eq!(fs::read(sites.b.join("home/locked/below")).expect("kept"), b"not to be seen");
    assert_eq!(fs::read(sites.b.join("home/locked/sub/deeper")).expect("kept"), b"nor this");
    sites.run();
    sites.converged("readable again");
}

fn rules(texts: &[&str]) -> RuleSet {
    let mut rules = RuleSet::builder(Timestamp { seconds: 1_800_000_000, nanos: 0 });
    for text in texts {
        rules.push(Action::Exclude, text.as_bytes()).expect("a rule");
    }
    rules.build()
}

fn run_under(sites: &Sites, policy: &RuleSet) -> Run {
    let run = sites.run_with(&RunOptions { policy, ..sites.options() });
    run.clean();
    run
}

/// Nothing the target has is deleted because a rule now excludes it, nor later because it is gone at
/// the source.
#[test]
fn a_change_of_policy_never_deletes() {
    let sites = Sites::new();
    few_files(&sites);
    put(&sites.a.join("home/cache/one"), b"cached");
    put(&sites.a.join("home/cache/sub/two"), b"cached deeper");
    put(&sites.a.join("home/keep.log"), b"a log");
    run_under(&sites, &rules(&[]));
    let narrow = rules(&["/home/cache/", "*.log"]);
    let before = snapshot(&sites.b, &[b".farshore/staging"]);
    let run = run_under(&sites, &narrow);
    assert_eq!(run.counts(), Counts::default());
    assert_eq!(run.result.source.detached, 5, "cache, one, sub, two, keep.log");
    let after = snapshot(&sites.b, &[b".farshore/staging"]);
    assert_eq!(touched(&before, &after), Vec::<String>::new());
    // Gone or changed at the source: the target's stays as it was.
    fs::remove_dir_all(sites.a.join("home/cache")).expect("removed");
    put(&sites.a.join("home/keep.log"), b"a longer log");
    fs::remove_file(sites.a.join("home/f1")).expect("removed");
    let run = run_under(&sites, &narrow);
    assert_eq!(run.counts().removed, 1, "f1 alone");
    assert_eq!(fs::read(sites.b.join("home/cache/sub/two")).expect("kept"), b"cached deeper");
    assert_eq!(fs::read(sites.b.join("home/keep.log")).expect("kept"), b"a log");
    assert_eq!(run_under(&sites, &narrow).counts(), Counts::default());
    // Under the first rules again, what is gone is gone and what changed arrives.
    run_under(&sites, &rules(&[]));
    sites.converged("the first rules again");
}

/// A folder removed at the source while it holds excluded entries at the target: the entries and the
/// folders above them stay, the rest goes; a folder of that name that comes back is taken over.
#[test]
fn removing_a_folder_keeps_what_is_excluded_in_it() {
    let sites = Sites::new();
    few_files(&sites);
    put(&sites.a.join("home/dir/deep/state.db"), b"never replicated again");
    put(&sites.a.join("home/dir/deep/other"), b"goes");
    put(&sites.a.join("home/dir/file"), b"goes too");
    run_under(&sites, &rules(&[]));
    let policy = rules(&["*.db"]);
    fs::remove_dir_all(sites.a.join("home/dir")).expect("removed");
    let run = run_under(&sites, &policy);
    assert_eq!(run.counts().removed, 2, "other and file");
    let kept = sites.b.join("home/dir/deep/state.db");
    assert_eq!(fs::read(&kept).expect("kept"), b"never replicated again");
    assert!(!sites.b.join("home/dir/file").exists());
    assert_eq!(run_under(&sites, &policy).counts(), Counts::default());
    put(&sites.a.join("home/dir/deep/new"), b"comes back");
    run_under(&sites, &policy);
    assert_eq!(fs::read(sites.b.join("home/dir/deep/new")).expect("new"), b"comes back");
    assert_eq!(fs::read(&kept).expect("kept"), b"never replicated again");
    assert_eq!(run_under(&sites, &policy).counts(), Counts::default());
}

/// A file cannot take the place of a folder in which something is kept.
#[test]
fn a_folder_that_becomes_a_file_keeps_what_is_excluded_in_it() {
    for link in [false, true] {
        let sites = Sites::new();
        few_files(&sites);
        put(&sites.a.join("home/dir/deep/state.db"), b"never replicated again");
        put(&sites.a.join("home/dir/file"), b"goes");
        run_under(&sites, &rules(&[]));
        let policy = rules(&["*.db"]);
        let dir = sites.a.join("home/dir");
        fs::remove_dir_all(&dir).expect("removed");
        if link {
            std::os::unix::fs::symlink("f1", &dir).expect("a link");
        } else {
            put(&dir, b"a file now");
        }
        for again in [false, true] {
            let options = RunOptions { policy: &policy, ..sites.options() };
            let run = sites.run_with(&options);
            let problems = run.problems();
            assert!(problems.iter().any(|p| p.contains("home/dir")), "{again}: {problems:?}");
            let kept = fs::read(sites.b.join("home/dir/deep/state.db")).expect("kept");
            assert_eq!(kept, b"never replicated again", "{again}");
            assert!(!sites.b.join("home/dir/file").exists(), "{again}");
        }
        fs::remove_dir_all(sites.b.join("home/dir")).expect("removed");
        run_under(&sites, &policy);
        assert!(!sites.b.join("home/dir").symlink_metadata().expect("there").is_dir());
    }
}

/// An upload under a name that does not travel: it arrives under its final name, and what the target
/// has under the first one stays.
#[test]
fn a_file_renamed_out_of_an_excluded_name_arrives() {
    let sites = Sites::new();
    few_files(&sites);
    put(&sites.a.join("home/in/upload.filepart"), noise(5, 100_000));
    run_under(&sites, &rules(&[]));
    let policy = rules(&["*.filepart"]);
    for name in ["a-before", "z-behind"] {
        let from = sites.a.join("home/in/upload.filepart");
        fs::rename(&from, sites.a.join("home/in").join(name)).expect("renamed");
        let run = run_under(&sites, &policy);
        assert_eq!((run.literal(), run.counts().removed), (0, 0), "{name}");
        assert!(sites.b.join("home/in/upload.filepart").exists(), "{name}: detached, not moved");
        assert_eq!(
            fs::read(sites.b.join("home/in").join(name)).expect("it arrived"),
            noise(5, 100_000)
        );
        assert_eq!(run_under(&sites, &policy).counts(), Counts::default());
        fs::rename(sites.a.join("home/in").join(name), &from).expect("renamed back");
        run_under(&sites, &rules(&[]));
        sites.converged("back under its first name");
    }
}

//! Every kind of change marks what it must, and nothing else does.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};

use farshore_core::path::RelPath;
use farshore_engine::capture::{
    DirtyConfig, DirtySet, Gap, Notice, Synced, TakeFilter, WatchConfig, WatchKind, Watcher,
};
use rustix::fs::{CWD, RenameFlags, Timespec, Timestamps, XattrFlags};

use crate::bed::{Bed, Watch, now_ms, path, run, write};

fn times() -> Timestamps {
    let time = Timespec { tv_sec: 1_000_000, tv_nsec: 5 };
    Timestamps { last_access: time, last_modification: time }
}

#[test]
fn every_kind_of_change_marks_its_directory() {
    Bed::each(|bed| {
        fs::create_dir_all(bed.root.join("a/b/c")).unwrap();
        ["f", "g", "h", "open"].iter().for_each(|name| write(&bed.root.join("a/b").join(name)));
        let watch = Watch::start(bed);
        let at = |below: &str| watch.at(below);
        assert!(watch.told().is_empty());
        let in_b = |what: &str, change: &dyn Fn()| {
            change();
            assert_eq!(watch.told(), ["a/b"], "{what}");
        };
        in_b("create", &|| write(&at("a/b/new")));
        in_b("overwrite", &|| write(&at("a/b/f")));
        let open = fs::OpenOptions::new().write(true).open(at("a/b/open")).unwrap();
        let _read = watch.told();
        in_b("a write to a file that stays open", &|| {
            std::io::Write::write_all(&mut &open, b"x").unwrap();
        });
        in_b("truncate", &|| open.set_len(1).unwrap());
        in_b("link", &|| fs::hard_link(at("a/b/f"), at("a/b/f2")).unwrap());
        in_b("symlink", &|| symlink("/", at("a/b/link")).unwrap());
        in_b("rename", &|| fs::rename(at("a/b/f2"), at("a/b/f3")).unwrap());
        in_b("replace", &|| fs::rename(at("a/b/f3"), at("a/b/new")).unwrap());
        in_b("unlink", &|| fs::remove_file(at("a/b/new")).unwrap());
        let mode = fs::Permissions::from_mode(0o640);
        in_b("mode", &|| fs::set_permissions(at("a/b/f"), mode.clone()).unwrap());
        in_b("times", &|| {
            rustix::fs::utimensat(CWD, at("a/b/f"), &times(), rustix::fs::AtFlags::empty()).unwrap()
        });
        if rustix::fs::setxattr(at("a/b/g"), "user.n", b"v", XattrFlags::empty()).is_ok() {
            in_b("xattr", &|| {
                rustix::fs::setxattr(at("a/b/g"), "user.n", b"w", XattrFlags::empty()).unwrap_or(())
            });
        }
        in_b("a directory's mode", &|| {
            fs::set_permissions(at("a/b"), fs::Permissions::from_mode(0o750)).unwrap();
        });
        in_b("rmdir", &|| fs::remove_dir(at("a/b/c")).unwrap());
        in_b("fifo", &|| assert!(run("mkfifo", &[at("a/b/fifo").to_str().unwrap()])));
        fs::create_dir(at("a/b/d")).unwrap();
        assert_eq!(watch.told(), ["a/b", "a/b/d/**"], "mkdir");
        fs::rename(at("a/b/h"), at("a/b/d/h")).unwrap();
        assert_eq!(watch.told(), ["a/b", "a/b/d"], "a file to another directory");
        write(&at("top"));
        assert_eq!(watch.told(), ["."], "in the root");
        fs::read(at("a/b/g")).unwrap();
        fs::read_dir(at("a")).unwrap().count();
        assert!(watch.told().is_empty(), "reading is no change");
    });
}

#[test]
fn moved_directories_are_looked_at_whole_and_known_by_their_new_place() {
    Bed::each(|bed| {
        fs::create_dir_all(bed.root.join("a/b/c/d")).unwrap();
        fs::create_dir_all(bed.root.join("x/y")).unwrap();
        fs::create_dir_all(bed.top.join("outside/in/deep")).unwrap();
        let watch = Watch::start(bed);
        let at = |below: &str| watch.at(below);
        write(&at("a/b/c/d/f"));
        assert_eq!(watch.told(), ["a/b/c/d"]);
        fs::rename(at("a/b"), at("x/y/b2")).unwrap();
        assert_eq!(watch.told(), ["a", "x/y", "x/y/b2/**"]);
        write(&at("x/y/b2/c/d/f"));
        assert_eq!(watch.told(), ["x/y/b2/c/d"], "below what moved");
        // Above it, twice, before anything is read.
        fs::rename(at("x"), at("x2")).unwrap();
        fs::rename(at("x2/y"), at("a/y2")).unwrap();
        write(&at("a/y2/b2/c/d/g"));
        let told = watch.told();
        assert!(told.iter().any(|part| part == "a/y2/**"), "{told:?}");
        write(&at("a/y2/b2/c/d/g"));
        assert_eq!(watch.told(), ["a/y2/b2/c/d"]);
        fs::rename(at("a/y2"), bed.top.join("outside/y2")).unwrap();
        assert_eq!(watch.told(), ["a"], "out of the root");
        write(&bed.top.join("outside/y2/b2/c/d/f"));
        assert!(watch.told().is_empty(), "outside");
        fs::rename(bed.top.join("outside/in"), at("in")).unwrap();
        assert_eq!(watch.told(), [".", "in/**"], "into the root");
        write(&at("in/deep/f"));
        assert_eq!(watch.told(), ["in/deep"]);
        fs::create_dir(at("other")).unwrap();
        let _read = watch.told();
        rustix::fs::renameat_with(CWD, at("in"), CWD, at("other"), RenameFlags::EXCHANGE).unwrap();
        assert_eq!(watch.told(), [".", "in/**", "other/**"], "exchanged");
        write(&at("other/deep/f"));
        assert_eq!(watch.told(), ["other/deep"]);
        // Another one by a name that was known.
        fs::rename(at("other/deep"), at("elsewhere")).unwrap();
        fs::create_dir(at("other/deep")).unwrap();
        let _read = watch.told();
        write(&at("other/deep/f"));
        write(&at("elsewhere/f"));
        assert_eq!(watch.told(), ["elsewhere", "other/deep"]);
        fs::remove_dir_all(at("other")).unwrap();
        let told = watch.told();
        assert!(told.contains(&".".to_owned()), "{told:?}");
    });
}

#[test]
fn a_path_longer_than_the_kernel_tells_is_marked_by_a_directory_above() {
    Bed::each(|bed| {
        let watch = Watch::start(bed);
        let name = "n".repeat(250);
        let root = fs::File::open(&watch.root).unwrap();
        let mut at: std::os::fd::OwnedFd = root.into();
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
        let mode = rustix::fs::Mode::from_raw_mode(0o755);
        for _ in 0..24 {
            rustix::fs::mkdirat(&at, name.as_str(), mode).unwrap();
            at = rustix::fs::openat(&at, name.as_str(), flags, mode).unwrap();
        }
        let deepest = vec![name.as_str(); 24].join("/");
        watch.must_wait(&deepest);
        watch.clear();
        let create = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
        rustix::fs::openat(&at, "file", create, mode).unwrap();
        watch.must_wait(&deepest);
        assert_eq!(watch.set.status().whole, None);
    });
}

#[test]
fn links_are_not_followed_and_what_is_not_the_shares_is_not_told() {
    Bed::each(|bed| {
        fs::create_dir_all(bed.top.join("outside")).unwrap();
        fs::create_dir_all(bed.root.join("real")).unwrap();
        fs::create_dir_all(bed.root.join(".farshore/staging")).unwrap();
        fs::create_dir_all(bed.root.join("a/.farshore")).unwrap();
        fs::create_dir_all(bed.top.join("share2")).unwrap();
        symlink(bed.top.join("outside"), bed.root.join("out")).unwrap();
        symlink("real", bed.root.join("in")).unwrap();
        let watch = Watch::start(bed);
        write(&watch.at("out/f"));
        write(&bed.top.join("share2/f"));
        write(&watch.at(".farshore/staging/f"));
        fs::create_dir(watch.at(".farshore/history")).unwrap();
        assert!(watch.told().is_empty());
        write(&watch.at("in/f"));
        assert_eq!(watch.told(), ["real"]);
        // Links that come while all is watched.
        fs::create_dir_all(watch.at("new")).unwrap();
        symlink(bed.top.join("outside"), watch.at("new/out")).unwrap();
        let _read = watch.told();
        write(&watch.at("new/out/g"));
        assert!(watch.told().is_empty());
        write(&watch.at("a/.farshore/f"));
        assert_eq!(watch.told(), ["a/.farshore"], "the name is ours at the root alone");
        fs::remove_dir_all(watch.at(".farshore")).unwrap();
        assert!(watch.told().is_empty());
    });
}

#[test]
fn names_of_any_bytes_are_told_as_they_are() {
    Bed::each(|bed| {
        let watch = Watch::start(bed);
        for name in [
            &b"\xff\xfe"[..],
            b"line\nbreak",
            b" (deleted)",
            b"x (deleted)",
            b"...",
            b"\\040",
            &[b'n'; 255],
        ] {
            let directory = watch.root.join(OsStr::from_bytes(name));
            fs::create_dir(&directory).unwrap();
            let _read = watch.told();
            write(&directory.join(OsStr::from_bytes(name)));
            assert_eq!(watch.watcher.sync(), Synced::Complete);
            let directory = RelPath::new(name).unwrap();
            assert!(watch.set.waits(&directory), "{directory}");
            assert_eq!(watch.set.status().directories, 1, "{directory}");
            watch.clear();
        }
    });
}

#[test]
fn another_file_system_below_the_root_is_not_ours() {
    Bed::each(|bed| {
        fs::create_dir_all(bed.root.join("mounted")).unwrap();
        let at = bed.root.join("mounted");
        if !run("mount", &["-t", "tmpfs", "farshore-test", at.to_str().unwrap()]) {
            eprintln!("skipped: nothing can be mounted here");
            return;
        }
        let watch = Watch::start(bed);
        fs::create_dir_all(at.join("a")).unwrap();
        write(&at.join("a/f"));
        let told = watch.told();
        assert!(run("umount", &["-l", at.to_str().unwrap()]));
        assert!(told.is_empty(), "{told:?}");
    });
}

#[test]
fn a_root_that_is_not_there_is_told_and_nothing_concluded() {
    Bed::each(|bed| {
        fs::create_dir_all(bed.root.join("a")).unwrap();
        let watch = Watch::start(bed);
        write(&watch.at("a/f"));
        let away = bed.top.join("away");
        fs::rename(&bed.root, &away).unwrap();
        assert!(matches!(watch.watcher.sync(), Synced::Gone(_)));
        assert!(matches!(watch.watcher.notices().try_recv(), Ok(Notice::RootGone(_))));
        assert!(watch.set.take(&TakeFilter::default()).is_none());
        fs::create_dir(&bed.root).unwrap();
        let gone = watch.watcher.sync();
        assert_eq!(gone, Synced::Gone("another directory is in its place".into()));
        fs::remove_dir(&bed.root).unwrap();
        fs::rename(&away, &bed.root).unwrap();
        assert_eq!(watch.told(), ["whole: the root had been gone"]);
        write(&watch.at("a/f"));
        assert_eq!(watch.told(), ["a"], "watched as before");
    });
    // A mount that goes.
    for kind in [WatchKind::Fanotify, WatchKind::Inotify] {
        let Some(bed) = Bed::new("tmpfs", kind) else { continue };
        let config = WatchConfig { root: bed.top.clone(), ..bed.config() };
        let watch = Watch::start_with(&config);
        write(&watch.at("f"));
        assert!(run("umount", &["-l", bed.top.to_str().unwrap()]));
        assert!(matches!(watch.watcher.sync(), Synced::Gone(_)));
        assert!(watch.set.take(&TakeFilter::default()).is_none());
        assert!(watch.watcher.report().gone.is_some());
    }
}

#[test]
fn what_was_read_and_not_done_is_known_after_a_kill() {
    Bed::each(|bed| {
        fs::create_dir_all(bed.root.join("a/b")).unwrap();
        let state = tempfile::tempdir().unwrap();
        let resume = || DirtySet::resume(DirtyConfig::default(), state.path(), now_ms()).unwrap();
        let (set, resumed) = resume();
        assert_eq!(resumed.gap, Gap::New);
        let watcher = Watcher::start(&bed.config(), set.clone()).unwrap();
        set.done(set.take(&TakeFilter::default()).unwrap());
        write(&bed.root.join("a/f"));
        assert_eq!(watcher.sync(), Synced::Complete);
        let flying = set.take(&TakeFilter::default()).unwrap();
        write(&bed.root.join("a/b/f"));
        assert_eq!(watcher.sync(), Synced::Complete);
        // Nothing of this process' memory is used any more, and nothing ended in order.
        std::mem::forget((watcher, set, flying));
        let (set, resumed) = resume();
        assert_eq!((resumed.gap, resumed.directories, resumed.ended), (Gap::Unwatched, 2, false));
        let first = set.take(&TakeFilter { parts_only: true, ..TakeFilter::default() }).unwrap();
        assert_eq!(first.accounts.keys().collect::<Vec<_>>(), [&path("a")]);
        assert!(set.waits(&path("anything")), "nobody watched: the whole waits beside it");
        set.done(first);
        drop(Watcher::start(&bed.config(), set).unwrap());
        assert!(resume().1.ended);
    });
}

#[test]
fn a_watch_that_begins_anew_marks_the_whole() {
    Bed::each(|bed| {
        let set = DirtySet::new(DirtyConfig::default());
        for _ in 0..2 {
            let _watcher = Watcher::start(&bed.config(), set.clone()).unwrap();
            let taken = set.take(&TakeFilter::default()).expect("whole");
            assert!(matches!(taken.scope, farshore_engine::capture::Taking::Whole(_)));
            set.done(taken);
        }
    });
}

#[test]
fn a_process_without_rights_watches_by_inotify() {
    let bed = Bed::new("folder", WatchKind::Inotify).expect("a folder");
    let bed_root = bed.root.clone();
    let worker = std::thread::spawn(move || {
        // Capabilities are a thread's own.
        rustix::thread::set_capabilities(
            None,
            rustix::thread::CapabilitySets {
                effective: rustix::thread::CapabilitySet::empty(),
                permitted: rustix::thread::CapabilitySet::empty(),
                inheritable: rustix::thread::CapabilitySet::empty(),
            },
        )
        .unwrap();
        let watch = Watch::start_with(&WatchConfig::new(&bed_root, now_ms));
        let report = watch.watcher.report();
        assert_eq!((report.kind, report.refused.len()), (WatchKind::Inotify, 1), "{report:?}");
        write(&watch.at("f"));
        assert_eq!(watch.told(), ["."]);
    });
    worker.join().unwrap();
}

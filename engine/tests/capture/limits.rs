//! What happens beyond what the kernel or the configuration allows.

use std::fs;

use farshore_engine::capture::{
    DirtyConfig, DirtySet, Notice, Synced, TakeFilter, Taking, WatchConfig, WatchKind, Watcher,
};

use crate::bed::{Bed, Watch, now_ms, path, write};

#[test]
fn a_queue_that_overflows_ends_in_the_whole_and_the_watch_goes_on() {
    Bed::each(|bed| {
        fs::create_dir_all(bed.root.join("a")).unwrap();
        let config = WatchConfig { unlimited_queue: false, ..bed.config() };
        let watch = Watch::start_with(&config);
        let named = |n: usize| watch.at(&format!("a/{n}"));
        write(&named(0));
        let events: usize = match bed.kind {
            WatchKind::Fanotify => sysctl("fs/fanotify/max_queued_events"),
            _ => sysctl("fs/inotify/max_queued_events"),
        };
        watch.watcher.stalled(|| {
            // Among what is lost is a new directory with another in it.
            (0..=events).for_each(|n| fs::rename(named(n), named(n + 1)).unwrap());
            fs::create_dir_all(watch.at("lost/in")).unwrap();
            // The set tells what it knows whatever the reader does.
            assert_eq!(watch.set.status().whole, None);
            assert_eq!(watch.watcher.report().overflows, 0);
        });
        assert_eq!(watch.watcher.sync(), Synced::Complete);
        assert_eq!(watch.watcher.report().overflows, 1);
        let (why, _) = watch.set.status().whole.expect("whole");
        assert!(why.contains("queue of events"), "{why}");
        assert!(watch.watcher.notices().try_iter().any(|notice| notice == Notice::Overflow));
        watch.clear();
        write(&watch.at("lost/in/f"));
        assert_eq!(watch.told(), ["lost/in"], "watched though its event was lost");
    });
}

fn sysctl(name: &str) -> usize {
    let value = fs::read_to_string(std::path::Path::new("/proc/sys").join(name)).unwrap();
    value.trim().parse().unwrap()
}

#[test]
fn a_burst_is_told_by_its_directories() {
    Bed::each(|bed| {
        // As many inodes as the smallest file system here has.
        let is_large = bed.mounted && !bed.top.join("lost+found").exists();
        let (directories, files) = (50, if is_large { 1_000 } else { 200 });
        let at = |n: usize| bed.root.join(format!("a{n}/d"));
        (0..directories).for_each(|n| fs::create_dir_all(at(n)).unwrap());
        let watch = Watch::start(bed);
        for n in 0..directories {
            (0..files).for_each(|m| drop(fs::File::create(at(n).join(m.to_string())).unwrap()));
        }
        assert_eq!(watch.watcher.sync(), Synced::Complete);
        let status = watch.set.status();
        // Inotify has a bound of its own for what nobody read yet.
        if bed.kind == WatchKind::Fanotify || status.whole.is_none() {
            assert_eq!((status.accounts.len(), status.directories), (directories, directories));
        }
        (0..directories).for_each(|n| watch.must_wait(&format!("a{n}/d")));
        let report = watch.watcher.report();
        eprintln!("{} events, {} handles resolved", report.events, report.resolved);
    });
}

#[test]
fn directories_beyond_the_watches_are_said_to_be_unwatched_until_there_are_more() {
    let Some(bed) = Bed::new("folder", WatchKind::Inotify) else { return };
    (0..20).for_each(|n| fs::create_dir_all(bed.root.join(format!("d{n}/e"))).unwrap());
    let config = WatchConfig { watches_max: 15, ..bed.config() };
    let set = DirtySet::new(DirtyConfig::default());
    let watcher = Watcher::start(&config, set.clone()).unwrap();
    let report = watcher.report();
    assert_eq!(report.watches, 15);
    assert!(report.unwatched_count > 0, "{report:?}");
    assert!(report.unwatched.iter().all(|(_, why)| why.contains("max_user_watches")), "{report:?}");
    assert!(matches!(watcher.sync(), Synced::Partial(_)));
    assert!(watcher.notices().try_iter().any(|notice| matches!(notice, Notice::Unwatched(_))));
    let unwatched = report.unwatched[0].0.clone();
    set.done(set.take(&TakeFilter::default()).unwrap());
    // Room comes: others go.
    for n in 0..20 {
        let name = format!("d{n}");
        if !unwatched.starts_with(&path(&name)) {
            fs::remove_dir_all(bed.root.join(name)).unwrap();
        }
    }
    let mut version = 0;
    while watcher.sync() != Synced::Complete || !set.waits(&unwatched) {
        let before = version;
        version = set.wait(version, std::time::Duration::from_secs(60));
        assert_ne!(version, before, "{:?}", watcher.report());
        assert!(watcher.report().watches <= 15);
    }
}

#[test]
fn a_tree_that_nobody_watches_says_so() {
    let Some(bed) = Bed::new("folder", WatchKind::Inotify) else { return };
    let set = DirtySet::new(DirtyConfig::default());
    let config = WatchConfig { best: WatchKind::None, ..WatchConfig::new(&bed.root, now_ms) };
    let watcher = Watcher::start(&config, set.clone()).unwrap();
    assert_eq!(watcher.report().kind, WatchKind::None);
    assert!(matches!(watcher.sync(), Synced::Partial(_)));
    set.mark_whole("the caller's", 1);
    let taken = set.take(&TakeFilter::default()).unwrap();
    assert_eq!(taken.scope, Taking::Whole("the caller's".into()));
    assert!(Watcher::start(&WatchConfig::new(bed.root.join("none"), now_ms), set.clone()).is_err());
    // Where handles cannot be opened, directories are watched.
    let proc = Watcher::start(&WatchConfig::new("/proc/self/fdinfo", now_ms), set).unwrap();
    assert_ne!(proc.report().kind, WatchKind::Fanotify);
    assert!(!proc.report().refused.is_empty());
}

/// What an event and a waiting directory cost: `cargo nextest run --run-ignored only -E 'test(cost)'`.
#[test]
#[ignore = "prints what it measured"]
fn cost() {
    let cpu_ns = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        time.tv_sec * 1_000_000_000 + time.tv_nsec
    };
    for (file_system, kind) in [
        ("tmpfs", WatchKind::Fanotify),
        ("xfs", WatchKind::Fanotify),
        ("tmpfs", WatchKind::Inotify),
    ] {
        let Some(bed) = Bed::new(file_system, kind) else { continue };
        for (directories, files) in [(10, 1_000), (1_000, 10)] {
            let at = |n: usize| bed.root.join(format!("{directories}/d{n}"));
            (0..directories).for_each(|n| fs::create_dir_all(at(n)).unwrap());
            let watch = Watch::start(&bed);
            let before = watch.watcher.report();
            let ns = watch.watcher.stalled(|| {
                for n in 0..directories * files {
                    write(&at(n % directories).join(n.to_string()));
                }
                cpu_ns()
            });
            assert_eq!(watch.watcher.sync(), Synced::Complete);
            let (ns, after) = (cpu_ns() - ns, watch.watcher.report());
            let events = i64::try_from(after.events - before.events).unwrap();
            println!(
                "{file_system} {kind:?}, {directories} directories: {events} events, {} handles resolved, {} ns an event",
                after.resolved - before.resolved,
                ns / events.max(1),
            );
        }
    }
    let resident = || -> usize {
        let statm = fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4_096
    };
    let set = DirtySet::new(DirtyConfig { directories_max: 1 << 20, ..DirtyConfig::default() });
    let (before, ns) = (resident(), cpu_ns());
    (0..100_000)
        .for_each(|n| set.mark(&path(&format!("account{}/folder/sub/{n:020}", n % 100)), false, 1));
    let ns = (cpu_ns() - ns) / 100_000;
    println!("100000 directories: {} bytes each, {ns} ns a mark", (resident() - before) / 100_000);
    let ns = cpu_ns();
    let taken = set.take(&TakeFilter::default()).unwrap();
    println!("taken: {} ns a directory", (cpu_ns() - ns) / 100_000);
    set.done(taken);
}

//! Huge files that travel ahead of their cut: they hold up nobody, and nothing of them is sent twice.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use farshore_engine::catalog::CatalogRole;
use farshore_proto::link::Link;
use farshore_test_support::Rng;

use crate::sites::Sites;
use crate::standing::{Standing, parts, path, standing, whole, write};

pub(crate) const MIB: usize = 1 << 20;
/// Of the file that is carried.
pub(crate) const HUGE: usize = 16 * MIB;
/// Bytes a second, where a file is to take some seconds.
pub(crate) const SLOW: u64 = 4 << 20;

pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    Rng::new(seed).bytes(len)
}

pub(crate) fn begun(sites: &Sites) {
    for account in ["acct1", "acct2"] {
        write(&sites.a, &format!("{account}/in/first"), "1");
    }
}

/// A session whose first cut is made, in which files of a MiB go ahead.
pub(crate) fn first_cut(at: &Standing<'_>) {
    at.script.cut(whole(1_000));
    at.script.carries_from(MIB as u64);
}

pub(crate) fn put_huge(sites: &Sites, content: &[u8]) -> PathBuf {
    let huge = sites.a.join("acct1/in/huge");
    fs::write(&huge, content).unwrap();
    // Sorted before it, and worthless without it.
    write(&sites.a, "acct1/in/a.ready", "go");
    huge
}

/// Bytes of logs of what the target holds ahead.
fn logged(sites: &Sites) -> u64 {
    let slots = fs::read_dir(sites.b.join(".farshore/ahead")).into_iter().flatten();
    let log =
        |slot: std::io::Result<fs::DirEntry>| slot.ok()?.path().join("recipe").metadata().ok();
    slots.filter_map(log).map(|log| log.len()).sum()
}

pub(crate) fn wait(what: &str, is_so: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < until, "never {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Puts a huge file, and waits until so much of it is at the target, over a slow line.
fn carried_slowly(sites: &Sites, at: &Standing<'_>, content: &[u8], bytes: usize) -> PathBuf {
    at.link.set_bandwidth_limit(Some(SLOW));
    let huge = put_huge(sites, content);
    at.script.cut(parts(2_000, ["acct1/in"]));
    wait_for_carried(sites, bytes);
    huge
}

/// Waits until so much of the file is at the target: a chunk of 64 KiB takes some 35 bytes of log.
pub(crate) fn wait_for_carried(sites: &Sites, bytes: usize) {
    wait("carried", || logged(sites) >= (bytes / (64 << 10) * 30) as u64);
}

pub(crate) fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).map_or(true, |mut names| names.next().is_none())
}

pub(crate) fn ahead_bytes(at: &Standing<'_>) -> u64 {
    at.progress.ahead_bytes.load(Relaxed)
}

/// Makes cuts of the account until the file is placed; its content must be `content`.
fn placed(sites: &Sites, at: &Standing<'_>, content: &[u8]) {
    let there = sites.b.join("acct1/in/huge");
    let mut time = 100_000;
    while at.script.released().contains(&path("acct1")) {
        time += 1_000;
        at.script.cut(parts(time, ["acct1/in"]));
        if !at.script.left_out().contains(&path("acct1")) {
            break;
        }
    }
    assert!(fs::read(there).unwrap() == content, "other content");
    sites.equal("when it is placed");
    wait("removed", || is_empty(&sites.b.join(".farshore/ahead")));
}

#[test]
fn a_huge_file_holds_up_no_other_account_and_nothing_overtakes_it_in_its_own() {
    let (sites, content) = (Sites::in_memory(), noise(1, HUGE));
    begun(&sites);
    standing(&sites, |at| {
        first_cut(at);
        at.link.set_bandwidth_limit(Some(SLOW));
        put_huge(&sites, &content);
        let report = at.script.cut(parts(2_000, ["acct1/in"]));
        assert_eq!(at.script.left_out(), [path("acct1")]);
        assert_eq!(report.applied.all(), 0);
        let (huge, ready) = (sites.b.join("acct1/in/huge"), sites.b.join("acct1/in/a.ready"));
        let (mut sealed, mut sequence) = (0, report.point.sequence);
        while at.script.take_released().is_empty() {
            sealed += 1;
            let name = format!("acct2/in/{sealed}");
            write(&sites.a, &name, "x");
            let report = at.script.cut(parts(3_000 + sealed, ["acct2/in"]));
            assert_eq!((report.point.sequence, report.applied.written), (sequence + 1, 1));
            assert!(sites.b.join(name).exists(), "sealed");
            assert!(!huge.exists() && !ready.exists(), "before it was carried");
            sequence += 1;
        }
        assert!(sealed >= 10, "{sealed} cuts while it was carried");
        let literal = at.progress.literal_bytes.load(Relaxed);
        let last = at.script.cut(parts(900_000, ["acct1/in"]));
        assert_eq!((at.script.left_out(), last.applied.written), (vec![], 2));
        let sent = at.progress.literal_bytes.load(Relaxed) - literal;
        assert!(sent < 1_000, "{sent} bytes in its cut");
        assert!(fs::read(&huge).unwrap() == content && ready.exists());
        sites.equal("at the end");
        assert!(ahead_bytes(at) >= HUGE as u64 && ahead_bytes(at) < HUGE as u64 + 1_000);
        wait("removed", || is_empty(&sites.b.join(".farshore/ahead")));
    })
    .expect("ends in order");
    sites.converged("by a run of its own");
}

#[test]
fn what_was_carried_before_a_break_is_not_sent_again() {
    let (sites, content) = (Sites::in_memory(), noise(2, HUGE));
    begun(&sites);
    let broken = standing(&sites, |at| {
        first_cut(at);
        carried_slowly(&sites, at, &content, 8 * MIB);
        at.link.close(5, "pulled");
        at.script.ended();
    });
    assert!(broken.is_err());
    standing(&sites, |at| {
        at.script.carries_from(MIB as u64);
        at.script.cut(parts(3_000, ["acct1/in"]));
        assert_eq!(at.script.left_out(), [path("acct1")]);
        placed(&sites, at, &content);
        let again = ahead_bytes(at);
        assert!(again <= (HUGE - 7 * MIB) as u64, "{again} bytes after the break");
    })
    .expect("ends in order");
}

#[test]
fn a_file_that_is_replaced_while_it_is_carried_is_the_new_one_and_sent_once() {
    let (sites, old, mut new) = (Sites::in_memory(), noise(3, HUGE), noise(4, HUGE));
    begun(&sites);
    standing(&sites, |at| {
        first_cut(at);
        let huge = carried_slowly(&sites, at, &old, 8 * MIB);
        new[..8 * MIB].copy_from_slice(&old[..8 * MIB]);
        let fresh = sites.a.with_file_name("fresh");
        fs::write(&fresh, &new).unwrap();
        fs::rename(fresh, huge).unwrap();
        let sent = ahead_bytes(at);
        at.link.set_bandwidth_limit(None);
        placed(&sites, at, &new);
        // The first attempt reads on for a second.
        let sent = ahead_bytes(at) - sent;
        assert!(sent <= 2 * HUGE as u64 - 7 * MIB as u64, "{sent} bytes");
    })
    .expect("ends in order");
}

#[test]
fn a_file_that_is_removed_while_it_is_carried_leaves_nothing() {
    let (sites, content) = (Sites::in_memory(), noise(5, HUGE));
    begun(&sites);
    standing(&sites, |at| {
        first_cut(at);
        let huge = carried_slowly(&sites, at, &content, 4 * MIB);
        fs::remove_file(huge).unwrap();
        assert_eq!(at.script.released(), [path("acct1")]);
        at.script.cut(parts(3_000, ["acct1/in"]));
        sites.equal("without it");
        wait("removed", || is_empty(&sites.b.join(".farshore/ahead")));
        assert!(ahead_bytes(at) < HUGE as u64, "{} bytes", ahead_bytes(at));
    })
    .expect("ends in order");
}

#[test]
fn a_new_version_sends_what_is_new_and_a_touched_or_renamed_file_nothing() {
    let (sites, mut content) = (Sites::in_memory(), noise(6, HUGE));
    begun(&sites);
    let huge = put_huge(&sites, &content);
    standing(&sites, |at| {
        first_cut(at);
        content[5 * MIB..5 * MIB + 100].fill(7);
        fs::write(&huge, &content).unwrap();
        at.script.cut(parts(2_000, ["acct1/in"]));
        placed(&sites, at, &content);
        assert!(ahead_bytes(at) < MIB as u64, "{} bytes", ahead_bytes(at));
        let before = ahead_bytes(at);
        fs::set_permissions(&huge, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
        at.script.cut(parts(3_000, ["acct1/in"]));
        placed(&sites, at, &content);
        let moved = sites.a.join("acct1/in/moved");
        fs::rename(&huge, &moved).unwrap();
        at.script.cut(parts(4_000, ["acct1/in"]));
        assert_eq!(at.script.released(), [path("acct1")]);
        let report = at.script.cut(parts(5_000, ["acct1/in"]));
        assert_eq!(report.applied.moved, 1, "{:?}", report.applied);
        sites.equal("renamed");
        assert_eq!(ahead_bytes(at), before);
    })
    .expect("ends in order");
}

#[test]
fn equal_files_that_were_carried_are_two_files() {
    let (sites, content) = (Sites::in_memory(), noise(7, 4 * MIB));
    begun(&sites);
    standing(&sites, |at| {
        first_cut(at);
        put_huge(&sites, &content);
        fs::write(sites.a.join("acct2/in/twin"), &content).unwrap();
        at.script.cut(parts(2_000, ["acct1/in", "acct2/in"]));
        let mut released = Vec::new();
        while released.len() < 2 {
            released.extend(at.script.released());
        }
        for time in 3..6 {
            at.script.cut(parts(time * 1_000, ["acct1/in", "acct2/in"]));
        }
        sites.equal("both");
        let links = |name: &str| {
            std::os::unix::fs::MetadataExt::nlink(&fs::metadata(sites.b.join(name)).unwrap())
        };
        wait("removed", || is_empty(&sites.b.join(".farshore/ahead")));
        assert_eq!((links("acct1/in/huge"), links("acct2/in/twin")), (1, 1));
    })
    .expect("ends in order");
}

#[test]
fn a_file_that_is_renamed_while_it_is_carried_goes_on_where_it_was() {
    let (sites, content) = (Sites::in_memory(), noise(8, HUGE));
    begun(&sites);
    standing(&sites, |at| {
        first_cut(at);
        let huge = carried_slowly(&sites, at, &content, 8 * MIB);
        let moved = sites.a.join("acct1/in/moved");
        fs::rename(&huge, &moved).unwrap();
        assert_eq!(at.script.released(), [path("acct1")]);
        at.script.cut(parts(3_000, ["acct1/in"]));
        assert_eq!(at.script.left_out(), [path("acct1")]);
        assert!(
            !sites.b.join("acct1/in/huge").exists() && !sites.b.join("acct1/in/moved").exists()
        );
        assert_eq!(at.script.released(), [path("acct1")]);
        at.script.cut(parts(4_000, ["acct1/in"]));
        assert!(fs::read(sites.b.join("acct1/in/moved")).unwrap() == content);
        sites.equal("renamed");
        // It is read on for a second until it is missed.
        assert!(ahead_bytes(at) < (HUGE + 2 * MIB) as u64, "{} bytes", ahead_bytes(at));
        wait("removed", || is_empty(&sites.b.join(".farshore/ahead")));
    })
    .expect("ends in order");
}

#[test]
fn a_file_that_is_cut_short_or_written_over_while_it_is_carried_is_never_torn() {
    let (sites, content) = (Sites::in_memory(), noise(9, HUGE));
    for (n, change) in ["short", "over", "grown"].into_iter().enumerate() {
        let account = format!("acct{n}");
        write(&sites.a, &format!("{account}/in/first"), "1");
        standing(&sites, |at| {
            at.script.cut(whole(1_000));
            at.script.carries_from(MIB as u64);
            at.link.set_bandwidth_limit(Some(SLOW));
            let huge = sites.a.join(format!("{account}/in/huge"));
            fs::write(&huge, &content).unwrap();
            let folder = format!("{account}/in");
            at.script.cut(parts(2_000, [folder.as_str()]));
            wait_for_carried(&sites, 4 * MIB);
            let file = fs::OpenOptions::new().write(true).open(&huge).unwrap();
            let mut wanted = content.clone();
            match change {
                "short" => wanted.truncate(6 * MIB),
                "over" => wanted[MIB..MIB + 10].fill(0),
                _ => wanted.extend_from_slice(b"and more"),
            }
            file.set_len(wanted.len() as u64).unwrap();
            let part =
                if change == "over" { MIB..MIB + 10 } else { HUGE.min(wanted.len())..wanted.len() };
            std::os::unix::fs::FileExt::write_all_at(
                &file,
                &wanted[part.clone()],
                part.start as u64,
            )
            .unwrap();
            drop(file);
            at.link.set_bandwidth_limit(None);
            let there = sites.b.join(format!("{account}/in/huge"));
            let mut time = 2_000;
            while !there.exists() {
                at.script.released();
                time += 1_000;
                at.script.cut(parts(time, [folder.as_str()]));
            }
            assert!(fs::read(&there).unwrap() == wanted, "{change}");
            sites.equal(change);
        })
        .expect("ends in order");
    }
    sites.converged("by a run of its own");
}

#[test]
fn what_is_linked_from_another_account_while_it_is_carried_is_one_file_in_the_end() {
    let (sites, content) = (Sites::in_memory(), noise(10, HUGE));
    begun(&sites);
    standing(&sites, |at| {
        first_cut(at);
        let huge = carried_slowly(&sites, at, &content, 4 * MIB);
        fs::hard_link(&huge, sites.a.join("acct2/in/twin")).unwrap();
        at.link.set_bandwidth_limit(None);
        let mut time = 2_000;
        loop {
            time += 1_000;
            at.script.cut(whole(time));
            if at.script.left_out().is_empty() {
                break;
            }
            at.script.released();
        }
        sites.equal("linked");
        wait("removed", || is_empty(&sites.b.join(".farshore/ahead")));
    })
    .expect("ends in order");
    sites.converged("by a run of its own");
}

/// The accounts that the last point lacks, as the source and as the target have it.
fn behind(sites: &Sites) -> [Vec<(farshore_core::path::RelPath, i64)>; 2] {
    [CatalogRole::Source, CatalogRole::Target]
        .map(|role| sites.catalog(role).0.reader().unwrap().behind().unwrap().first)
}

#[test]
fn both_ends_know_what_a_point_lacks_though_its_source_never_hears_of_it() {
    let sites = Sites::in_memory();
    begun(&sites);
    let one = vec![(path("acct1"), 500)];
    standing(&sites, |at| {
        first_cut(at);
        at.script.are_behind(one.clone());
        at.script.cut(parts(2_000, ["acct2/in"]));
    })
    .expect("ends in order");
    assert_eq!(behind(&sites), [one.clone(), one]);
    standing(&sites, |at| drop(at.script.cut(parts(3_000, ["acct2/in"])))).expect("in order");
    assert_eq!(behind(&sites), [vec![], vec![]]);
    let two = vec![(path("acct2"), 3_000)];
    let broken = standing(&sites, |at| {
        at.script.are_behind(two.clone());
        at.seen.breaks(at.link);
        at.script.want(parts(4_000, ["acct1/in"]));
        at.script.ended();
    });
    assert!(broken.is_err());
    assert_eq!(behind(&sites), [two.clone(), two]);
}

#[test]
fn a_target_that_cannot_hold_it_refuses_the_file_and_not_the_session() {
    let (sites, content) = (Sites::in_memory(), noise(14, HUGE));
    begun(&sites);
    standing(&sites, |at| {
        first_cut(at);
        // No folder can be made there.
        fs::write(sites.b.join(".farshore/ahead"), "in the way").unwrap();
        put_huge(&sites, &content);
        at.script.cut(parts(2_000, ["acct1/in"]));
        wait("sent", || ahead_bytes(at) >= HUGE as u64);
        for n in 0..5 {
            let name = format!("acct2/in/{n}");
            write(&sites.a, &name, "x");
            at.script.cut(parts(3_000 + n, ["acct2/in"]));
            assert!(sites.b.join(name).exists());
            assert_eq!(at.script.left_out(), [path("acct1")]);
            std::thread::sleep(Duration::from_millis(20));
        }
        fs::remove_file(sites.b.join(".farshore/ahead")).unwrap();
    })
    .expect("ends in order");
    sites.run();
    sites.converged("by a run of its own");
}

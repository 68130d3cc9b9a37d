//! What is late is for good: every call names it, wherever the one before it ended.

use farshore_engine::failback::apply::Applied;
use farshore_engine::io::sim::CrashModel;

use super::Truth;
use super::home::{Sites, what};
use crate::Side;
use crate::trees::Hands;

const THEIRS: &[u8] = b"what services put there";
/// Owner or mode alone changes there, and what is to go.
const DRESSED: &str = "acct0/in/p-metadata-0";
const GOES: &str = "acct0/in/p-deleted-0";

/// The process ended as soon as all was made; and the folder of what waits.
fn made(truth: &Truth) -> (Sites, String) {
    let home = &truth.home;
    let waits = format!("{}/pending", home.folders().below_failback());
    let placing = format!("{}/placing", home.folders().quarantine());
    let mut at = 1;
    loop {
        let sites = home.fork(2, CrashModel::Hostile);
        sites.part(home, Side::Source).expect("production");
        sites.transfer(home).expect("transfer");
        let disk = sites.disk(Side::Target);
        disk.cut_power_at(at);
        sites.part(home, Side::Target).expect_err("cut short");
        disk.end_processes();
        if disk.snapshot_tree("tree").expect("a tree").contains_key(placing.as_bytes()) {
            return (sites, waits);
        }
        at += 5;
    }
}

fn names(applied: &Applied, path: &str) -> bool {
    applied.late.iter().any(|late| late.as_bytes() == path.as_bytes())
}

#[test]
fn what_was_not_dressed_or_did_not_go_is_named_by_every_call() {
    let truth = Truth::of(1);
    let (sites, _) = made(&truth);
    let tree = sites.disk(Side::Target).mount("tree").expect("mount");
    for path in [DRESSED, GOES] {
        Hands(&tree).file(path, THEIRS).expect("put");
    }
    let first = sites.part(&truth.home, Side::Target).expect("called again");
    let second = sites.part(&truth.home, Side::Target).expect("called once too often");
    for called in [&first, &second] {
        assert!(names(called, DRESSED) && names(called, GOES), "{:?}", called.late);
    }
    let came_to = |applied: &Applied| (applied.late_total, applied.placed, applied.removed);
    assert_eq!(came_to(&first), came_to(&second));
    for path in [DRESSED, GOES] {
        let size = sites.end().recovery.get(path.as_bytes()).map(|entry| entry.size);
        assert_eq!(size, Some(THEIRS.len() as u64), "{path}");
    }
}

#[test]
fn a_call_that_ended_as_it_noted_what_is_late_is_gone_on_with() {
    let truth = Truth::of(1);
    let (sites, waits) = made(&truth);
    let disk = sites.disk(Side::Target);
    let tree = disk.mount("tree").expect("mount");
    let below = format!("{waits}/");
    let all = disk.snapshot_tree("tree").expect("a tree");
    let tasks: Vec<String> = all
        .iter()
        .filter(|(_, entry)| what(entry).is_some())
        .filter_map(|(path, _)| path.strip_prefix(below.as_bytes()))
        .map(|name| String::from_utf8(name.to_vec()).expect("text"))
        .filter(|name| name.contains(".p."))
        .collect();
    let [ours, theirs] = [0, 1].map(|at| tasks[at].split_once(".p.").expect("a task"));
    // Of the one what was made did not go yet; the other changed places with a file of somebody.
    for (number, _) in [ours, theirs] {
        Hands(&tree).file(&format!("{waits}/{number}.l.0"), b"").expect("noted");
    }
    let (number, inode) = theirs;
    Hands(&tree).file(&format!("{waits}/{number}.p.{inode}"), THEIRS).expect("put");
    let first = sites.part(&truth.home, Side::Target).expect("called again");
    assert_eq!(first.late_total, 2, "{:?}", first.late);
    let second = sites.part(&truth.home, Side::Target).expect("called once too often");
    assert_eq!((second.late_total, second.placed), (2, first.placed), "{:?}", second.late);
    let all = disk.snapshot_tree("tree").expect("a tree");
    let is_theirs = |path: &Vec<u8>| {
        let is_kept = path.windows(11).any(|window| window == b"/unplanned/");
        is_kept && disk.read_file([b"tree/", &path[..]].concat()).is_ok_and(|b| b == THEIRS)
    };
    assert!(all.keys().any(is_theirs), "it is kept");
    let left = all.keys().filter(|path| path.starts_with(below.as_bytes()));
    assert!(left.clone().all(|path| all[path].size == 0), "{:?}", left.collect::<Vec<_>>());
}

//! What others do meanwhile: a damaged transfer, files written late, syncs left out, answers that cannot be had.

use std::cell::Cell;
use std::collections::BTreeSet;

use farshore_core::conflict::{Outcome, Piece, Side as Of, Site};
use farshore_core::failback::plan::{PlanReader, PlanWriter};
use farshore_engine::io::sim::CrashModel;

use super::home::{End, Home};
use super::kinds::{Ends, of_base, of_production};
use super::{How, Truth, at, disturbed, rules, what};
use crate::storage::Careless;
use crate::trees::Hands;
use crate::{Sample, Side, sweep};

fn of(end: &End, path: &str) -> Option<super::home::What> {
    at(&end.recovery, path).and_then(what)
}

#[test]
fn what_came_damaged_is_not_placed() {
    let truth = Truth::of(1);
    let home = &truth.home;
    for path in ["acct0/in/p-modified-0", "acct0/in/p-large-0", "acct0/in/m-merge-0"] {
        let sites = home.fork(1, CrashModel::Hostile);
        let before = of(&sites.end(), path);
        sites.part(home, Side::Source).expect("production");
        sites.transfer(home).expect("transfer");
        let tree = sites.disk(Side::Target).mount("tree").expect("mount");
        let came = format!("{}/{path}", home.folders().incoming());
        Hands(&tree).patch(&came, 3, b"X").expect("patched");
        let said = sites.part(home, Side::Target).expect_err("refused");
        assert!(said.contains(path) && said.contains("its content is"), "{said}");
        assert_eq!(of(&sites.end(), path), before, "{path}");
        // It is sent again.
        sites.carry_out(home, &|_| {}).expect("called again");
        assert_eq!(sites.end().difference(&truth.end), None);
    }
}

#[test]
fn what_did_not_come_is_found_before_anything_is_done() {
    let truth = Truth::of(1);
    let home = &truth.home;
    let sites = home.fork(1, CrashModel::Hostile);
    sites.part(home, Side::Source).expect("production");
    sites.transfer(home).expect("transfer");
    let before = sites.end();
    let tree = sites.disk(Side::Target).mount("tree").expect("mount");
    let came = format!("{}/acct0/in/x-production-0", home.folders().incoming());
    Hands(&tree).unlink(&came).expect("gone");
    let said = sites.part(home, Side::Target).expect_err("refused");
    assert!(said.contains("x-production-0"), "{said}");
    assert_eq!(sites.end().recovery, before.recovery);
}

/// Paths that somebody writes to late.
const LATE: [&str; 7] = [
    "acct0/in/p-modified-0",
    "acct0/in/p-metadata-0",
    "acct0/in/x-both-r-0",
    "acct0/in/p-deleted-0",
    "acct0/in/m-merge-0",
    "acct0/in/h-p-in-place-0",
    "acct0/in/x-quarantine-0",
];

thread_local! {
    /// Versions that were written late; whoever does it is called on the thread of the part.
    static WRITTEN: Cell<usize> = const { Cell::new(0) };
}

fn in_place(hands: &Hands<'_>) {
    let written = LATE.iter().filter(|path| hands.patch(path, 0, b"LATE").is_ok());
    WRITTEN.set(written.count());
}

fn replaced(hands: &Hands<'_>) {
    let names = ["acct0/in/x-both-0.other", "acct0/in/x-orphan-0"];
    let write =
        |path: &&&str| hands.file(path, format!("late, in the place of {path}").as_bytes()).is_ok();
    WRITTEN.set(LATE.iter().chain(&names).filter(write).count());
}

/// Versions at recovery that hold `mark`.
fn marked(sites: &super::Sites, mark: &[u8]) -> usize {
    let disk = sites.disk(Side::Target);
    let tree = disk.snapshot_tree("tree").expect("a tree");
    let bytes = |path: &Vec<u8>| disk.read_file([b"tree/", &path[..]].concat()).ok();
    let is_marked = |bytes: &Vec<u8>| bytes.windows(mark.len()).any(|window| window == mark);
    tree.keys().filter_map(bytes).filter(is_marked).collect::<BTreeSet<_>>().len()
}

/// Somebody writes right before each changing call of recovery's part.
fn late(write: fn(&Hands<'_>), mark: &[u8]) {
    let truth = Truth::of(1);
    let home = &truth.home;
    let step = Sample::every(29).step;
    let (mut at, mut moments, mut versions) = (1, 0, 0);
    loop {
        let mut sites = home.fork(1, CrashModel::Hostile);
        sites.part(home, Side::Source).expect("production");
        sites.transfer(home).expect("transfer");
        sites.1 = Some((Side::Target, at, write));
        WRITTEN.set(0);
        let done = sites.part(home, Side::Target);
        sites.1 = None;
        let written = WRITTEN.get();
        if written == 0 {
            done.expect("undisturbed");
            break;
        }
        (moments, versions) = (moments + 1, versions + written);
        for when in ["then", "called again"] {
            let kept = marked(&sites, mark);
            assert!(kept >= written, "at {at}, {when}: {kept} of {written} late versions are left");
            match sites.part(home, Side::Target) {
                // Nothing was begun yet: a new plan is to be made.
                Err(text) if text.contains("the plan was made with") => break,
                called => drop(called.unwrap_or_else(|e| panic!("at {at}: {e}; {done:?}"))),
            }
        }
        at += step;
    }
    eprintln!("failback late: {versions} versions at {moments} moments");
    assert!(moments > 5, "{moments}");
}

#[test]
fn what_is_written_late_in_place_is_kept() {
    late(in_place, b"LATE");
}

#[test]
fn what_is_put_in_its_place_late_is_kept() {
    late(replaced, b"late, in the place of");
}

#[test]
fn a_failback_that_leaves_out_a_sync_is_found_out() {
    let truth = Truth::of(1);
    for careless in [Careless::SyncAll, Careless::SyncFile] {
        let (mut states, mut wrong) = (0, 0);
        for draws in [1, 4] {
            let sample = Sample { step: 7, draws };
            let swept = sweep("careless failback", sample, 1, |state| {
                disturbed(&truth, careless, Side::Target, How::Cut, state)
            });
            (states, wrong) = (states + swept.0, wrong + swept.1.len());
            if wrong > 0 {
                break;
            }
        }
        eprintln!("failback without {careless:?}: {wrong} of {states} states wrong");
        assert!(wrong > 0, "{careless:?} left out, and none of {states} states is wrong");
    }
}

#[test]
fn a_merge_from_the_common_point_is_refused_before_anything_is_done() {
    let mut home = Home::new(1);
    let plan = PlanReader::new(&*home.plan).expect("a plan");
    let mut writer = PlanWriter::new(Vec::new(), plan.header(), 2).expect("memory");
    for divergence in plan {
        let mut divergence = divergence.expect("a divergence");
        if let Outcome::Merge { attributes, pieces } = &mut divergence.outcome {
            *attributes = Site::Production;
            pieces.push(Piece::Copy { side: Of::Base, offset: 0, length: 4 });
        }
        writer.push(&divergence).expect("memory");
    }
    home.plan = writer.finish().expect("memory").0;
    let sites = home.fork(1, CrashModel::Hostile);
    let before = sites.end();
    for site in [Side::Source, Side::Target] {
        let said = sites.part(&home, site).expect_err("refused");
        assert!(said.contains("common point") && said.contains("m-"), "{said}");
    }
    let after = sites.end();
    assert_eq!((after.production, after.recovery), (before.production, before.recovery));
}

#[test]
fn the_rules_tell_an_end_that_is_wrong() {
    let truth = Truth::of(1);
    let mut end = truth.end.clone();
    let path = b"acct0/in/r-modified-0".to_vec();
    end.recovery.remove(&path);
    let found = rules(&truth.home, &end);
    assert!(found.iter().any(|text| text.contains("r-modified-0")), "{found:?}");
    assert!(of_base("a") != of_production("a") && Ends::Base != Ends::Production);
}

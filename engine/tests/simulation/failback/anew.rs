//! A plan that is given up in the middle: what production did is taken back, and another one can be made.

use std::sync::atomic::{AtomicBool, Ordering};

use farshore_engine::io::Storage;
use farshore_engine::io::sim::{CrashModel, Fault};

use super::home::{Home, Sites, timeless};
use super::{How, Truth, promises};
use crate::trees::Hands;
use crate::{Judgement, Sample, Side, State, Verdict, sweep};

/// Production is as it was before the plan, names of one inode included, and nothing is in its quarantine.
fn as_it_was(home: &Home, sites: &Sites) -> Result<(), String> {
    let mut was = sites.end();
    was.production = timeless(home.production.clone());
    was.quarantines[0].retain(|path, _| path == b".farshore/quarantine");
    match sites.end().difference(&was) {
        None => Ok(()),
        Some(text) => Err(format!("not taken back:\n{text}")),
    }
}

/// The disk of `site` is disturbed at operation `state.at` of what `first` does; what follows is of no fault any more.
fn met(
    sites: &Sites,
    (site, how): (Side, How),
    state: &State<'_>,
    first: impl FnOnce() -> Result<(), String>,
) -> Result<bool, String> {
    let disk = sites.disk(site);
    let start = disk.operations();
    match how {
        How::Ends | How::Cut => disk.cut_power_at(state.at),
        How::Fails(fault) => disk.fail_at(state.at, fault),
    }
    let first = first();
    if disk.operations() - start < state.at {
        first?;
        return Ok(false);
    }
    match how {
        How::Ends => disk.end_processes(),
        How::Cut => disk.crash(state.seed),
        How::Fails(Fault::SyncLies) => disk.crash(state.seed),
        How::Fails(_) if state.at.is_multiple_of(2) => disk.crash(state.seed),
        How::Fails(_) => {}
    }
    Ok(true)
}

/// Production's part, and it taken back, with a fault somewhere. Then one or the other once more.
fn taken_back(truth: &Truth, how: How, state: &State<'_>) -> Judgement {
    let home = &truth.home;
    let sites = home.fork(state.seed, state.model);
    let first = || {
        sites.part(home, Side::Source)?;
        sites.abandon(home, Side::Source).map(drop)
    };
    if !met(&sites, (Side::Source, how), state, first)? {
        return Ok(Verdict::PastTheEnd);
    }
    truth.check_versions(&sites.end(), "at the crash")?;
    if state.at.is_multiple_of(3) {
        // The plan goes on after all.
        sites.carry_out(home, &|_| {}).map_err(|text| format!("gone on: {text}"))?;
        return match sites.end().difference(&truth.end) {
            None => Ok(Verdict::Held),
            Some(text) => Err(format!("another end:\n{text}")),
        };
    }
    for _ in 0..2 {
        sites.abandon(home, Side::Source).map_err(|text| format!("taken back: {text}"))?;
        as_it_was(home, &sites)?;
    }
    sites.carry_out(home, &|_| {}).map_err(|text| format!("carried out again: {text}"))?;
    match sites.end().difference(&truth.end) {
        None => Ok(Verdict::Held),
        Some(text) => Err(format!("another end, after it was taken back:\n{text}")),
    }
}

/// Recovery's part is cut short, the plan is given up at both, and a new one is made and carried out.
fn planned_anew(truth: &Truth, how: How, state: &State<'_>) -> Judgement {
    let home = &truth.home;
    let sites = home.fork(state.seed, state.model);
    sites.part(home, Side::Source)?;
    sites.transfer(home).map_err(|e| e.to_string())?;
    let first = || {
        sites.part(home, Side::Target)?;
        sites.abandon(home, Side::Target).map(drop)
    };
    if !met(&sites, (Side::Target, how), state, first)? {
        return Ok(Verdict::PastTheEnd);
    }
    for site in [Side::Source, Side::Target] {
        sites.abandon(home, site).map_err(|text| format!("given up: {text}"))?;
    }
    as_it_was(home, &sites)?;
    truth.check_versions(&sites.end(), "when it was given up")?;
    let anew = home.anew(&sites);
    sites.carry_out(&anew, &|_| {}).map_err(|text| format!("the new plan: {text}"))?;
    truth.check_versions(&sites.end(), "after the new plan")?;
    match promises(home, &sites.end()).first() {
        None => Ok(Verdict::Held),
        Some(text) => Err(text.clone()),
    }
}

fn swept(name: &str, step: u64, judge: fn(&Truth, How, &State<'_>) -> Judgement) {
    let truth = Truth::of(1);
    let mut wrong = Vec::new();
    for (kind, how) in [
        ("ends", How::Ends),
        ("cut", How::Cut),
        ("EIO", How::Fails(Fault::Eio)),
        ("ENOSPC", How::Fails(Fault::Enospc)),
    ] {
        let name = format!("failback {name} {kind}");
        let (states, found) =
            sweep(&name, Sample::every(step), 5, |state| judge(&truth, how, &state));
        eprintln!("{name}: {states} states, {} wrong", found.len());
        wrong.extend(found);
    }
    if let Some(first) = wrong.first() {
        panic!("{} states wrong, the first:\n{first}", wrong.len());
    }
}

#[test]
fn what_production_did_is_taken_back_whenever_it_is_cut_short() {
    swept("taken back", 47, taken_back);
}

#[test]
fn a_plan_that_recovery_began_is_given_up_and_a_new_one_loses_nothing() {
    swept("planned anew", 193, planned_anew);
}

#[test]
fn what_somebody_put_at_a_path_meanwhile_stays_when_a_plan_is_taken_back() {
    let truth = Truth::of(1);
    let home = &truth.home;
    let sites = home.fork(1, CrashModel::Hostile);
    sites.part(home, Side::Source).expect("production");
    let tree = sites.disk(Side::Source).mount("tree").expect("mount");
    let path = "acct0/in/b-modified-0";
    crate::trees::Hands(&tree).file(path, b"somebody's").expect("written");
    assert_eq!(sites.abandon(home, Side::Source), Ok(1));
    let end = sites.end();
    assert_eq!(end.production.get(path.as_bytes()).map(|entry| entry.size), Some(10));
    let kept = format!(".farshore/quarantine/5-0badcafe/tree/{path}");
    assert!(end.quarantines[0].contains_key(kept.as_bytes()), "{:?}", end.quarantines[0].keys());
    truth.check_versions(&end, "taken back").expect("nothing is lost");
}

/// Whether somebody's file came to the path.
static CAME: AtomicBool = AtomicBool::new(false);

fn comes_to_a_path_that_is_free(hands: &Hands<'_>) {
    let (at, name) = hands.at("acct0/in/b-modified-0").expect("a folder");
    if let Ok(file) = hands.0.create_file(&at, name) {
        hands.0.write_at(&file, 0, b"somebody's").expect("written");
        CAME.store(true, Ordering::Relaxed);
    }
}

#[test]
fn what_comes_to_a_path_in_the_very_moment_is_not_replaced_when_a_plan_is_taken_back() {
    let truth = Truth::of(1);
    let home = &truth.home;
    let path = "acct0/in/b-modified-0".as_bytes();
    let (mut met, mut call) = (0, 0);
    loop {
        call += 1;
        let mut sites = home.fork(1, CrashModel::Hostile);
        sites.part(home, Side::Source).expect("production");
        sites.1 = Some((Side::Source, call, comes_to_a_path_that_is_free));
        CAME.store(false, Ordering::Relaxed);
        let kept = sites.abandon(home, Side::Source).expect("taken back");
        if !CAME.load(Ordering::Relaxed) {
            break;
        }
        met += 1;
        let end = sites.end();
        let there = end.production.get(path).map(|entry| entry.size);
        assert_eq!((there, kept), (Some(10), 1), "before call {call}");
        truth.check_versions(&end, "taken back").expect("nothing is lost");
    }
    assert!(met > 0, "it was met at the path");
}

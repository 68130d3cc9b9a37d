//! A site whose state folder is an old copy, or new, finds that out, and is brought back by a plan.

use std::fs;

use serde_json::Value;

use crate::common::{farshore, shown};
use crate::home::plan;
use crate::pair::{Dials, Pair, Site};
use crate::switch::{listed, run, wait_phase};

/// What is proven here is not the brake.
const NO_BRAKE: &str = "account_depth = 1\nbrake = { entries = 1000000, percent = 100 }";

fn copy_all(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let there = to.join(entry.file_name());
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => copy_all(&entry.path(), &there),
            kind if kind.is_file() => drop(fs::copy(entry.path(), there).unwrap()),
            _ => {}
        }
    }
}

fn over(pair: &Pair, from: &Site, to: &Site) {
    let done = run(from, &["switchover"]);
    assert!(done.status.success(), "{}", shown(&done));
    wait_phase(pair, to, "active", true);
    wait_phase(pair, from, "standby", false);
}

#[test]
fn a_standby_with_yesterdays_state_takes_nothing_until_a_plan_brings_it_back() {
    let pair = Pair::with(Dials::Recovery, NO_BRAKE);
    let (production, recovery) = (&pair.production, &pair.recovery);
    pair.write("a/one", b"1");
    let (_p, r) = (production.start(), recovery.start());
    pair.point();
    assert!(r.stop().success());
    let yesterday = recovery.state.with_extension("yesterday");
    copy_all(&recovery.state, &yesterday);
    let r = recovery.start();
    wait_phase(&pair, production, "active", true);
    // Roles change twice, so that yesterday's record is of an epoch that is over.
    over(&pair, production, recovery);
    over(&pair, recovery, production);
    pair.write("a/two", b"2");
    pair.point();
    assert!(r.stop().success());
    fs::remove_dir_all(&recovery.state).unwrap();
    copy_all(&yesterday, &recovery.state);
    let _r = recovery.start();
    wait_phase(&pair, recovery, "stranded", false);
    pair.write("a/three", b"3");
    // Nothing is applied there, and whoever works with the share goes on.
    let still = pair.wait(production, "what is next", |share| {
        let next = share["roles"]["next"].to_string();
        next.contains("failback plan") && next.contains("failback apply")
    });
    assert_eq!(
        (&still["roles"]["phase"], &still["roles"]["gate_open"]),
        (&"active".into(), &true.into())
    );
    let still = pair.wait(production, "that nothing is sent", |share| share["state"] == "stopped");
    assert_eq!(still["ready"], false, "{still:#}");
    assert!(!recovery.tree.join("a/three").exists());
    // What the two had in common is not known: nothing counts as deleted, a person decides.
    let (file, rows) = plan(production);
    assert!(rows.values().all(|row| row["class"] == "no-base"), "{rows:#?}");
    let refused = run(production, &["failback", "apply", "--plan", &file]);
    assert_eq!(refused.status.code(), Some(5), "{}", shown(&refused));
    let applied = run(production, &["failback", "apply", "--plan", &file, "--accept-held"]);
    assert!(applied.status.success(), "{}", shown(&applied));
    wait_phase(&pair, recovery, "standby", false);
    let config = crate::common::text(&production.config);
    let until = std::time::Instant::now() + crate::common::PATIENCE;
    while !farshore(&["mark", "create", "--config", config, "--label", "b"]).status.success() {
        assert!(std::time::Instant::now() < until);
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    pair.equal("brought back");
    assert_eq!(fs::read(recovery.tree.join("a/three")).unwrap(), b"3");
}

/// How an old state folder is found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// The share's own marker is ahead of it.
    ByMarker,
    /// The marker was put back too, and the other site remembers more.
    ByPeer,
}

/// As it was sent once before, to the second: a file that is there again is no other one by its facts.
fn put_as_before(site: &Site, path: &str, content: &str) {
    let path = site.tree.join(path);
    fs::write(&path, content).unwrap();
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
    fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

/// Recovery goes on with yesterday's state folder; what its services did since stands there still when both are one again.
fn goes_on_with_yesterdays_state(found: Found) {
    let pair = Pair::with(Dials::Recovery, NO_BRAKE);
    let (production, recovery) = (&pair.production, &pair.recovery);
    pair.write("a/stays", b"1");
    put_as_before(production, "a/again", "sent twice");
    put_as_before(production, "a/back", "first");
    let (p, r) = (production.start(), recovery.start());
    pair.point();
    assert!(r.stop().success());
    let yesterday = recovery.state.with_extension("yesterday");
    copy_all(&recovery.state, &yesterday);
    let marker = recovery.tree.join(".farshore/role");
    let former = fs::read(&marker).unwrap();
    let r = recovery.start();
    wait_phase(&pair, production, "active", true);
    over(&pair, production, recovery);
    over(&pair, recovery, production);
    fs::remove_file(production.tree.join("a/again")).unwrap();
    pair.write("a/back", b"second and longer");
    let (_, last) = pair.point();
    pair.equal("before anything is lost");
    assert!(r.stop().success());
    fs::remove_dir_all(&recovery.state).unwrap();
    copy_all(&yesterday, &recovery.state);
    match found {
        Found::ByMarker => {
            p.kill();
            let r = recovery.start();
            wait_phase(&pair, recovery, "stranded", false);
            r.kill();
        }
        Found::ByPeer => {
            fs::write(&marker, former).unwrap();
            let r = recovery.start();
            wait_phase(&pair, recovery, "stranded", false);
            r.kill();
            p.kill();
        }
    }
    let r = recovery.start();
    wait_phase(&pair, recovery, "stranded", false);
    // Nothing that an old catalog would have to know is promised.
    let listed_points = farshore(&[
        "history",
        "list",
        "--points",
        "--json",
        "--config",
        crate::common::text(&recovery.config),
    ]);
    let points: Value = serde_json::from_slice(&listed_points.stdout).unwrap();
    let points = points["points"].as_array().unwrap();
    assert!(!points.is_empty() && points.iter().all(|p| p["restorable"] == false), "{points:#?}");
    let refused = run(recovery, &["failover", "--force", "--peer-is-off", "--at", "1"]);
    assert_eq!(refused.status.code(), Some(2), "{}", shown(&refused));
    let opened = run(recovery, &["failover", "--force", "--peer-is-off", "--json"]);
    assert!(opened.status.success(), "{}", shown(&opened));
    let manifest: Value = serde_json::from_slice(&opened.stdout).unwrap();
    assert!(manifest["time_unix_ms"].as_i64().unwrap() < last, "{manifest:#}");
    assert_eq!(manifest["stood"]["is_old_copy"], true, "{manifest:#}");
    assert_eq!(manifest["redelivery_risk"]["total"], 0, "{manifest:#}");
    put_as_before(recovery, "a/again", "sent twice");
    put_as_before(recovery, "a/back", "first");
    fs::write(recovery.tree.join("a/new"), b"at recovery").unwrap();
    let truth = listed(&recovery.tree);
    // Neither a restart nor one more word makes the catalog any newer.
    r.kill();
    let r = recovery.start();
    wait_phase(&pair, recovery, "alone", false);
    let alone = run(recovery, &["open", "--alone"]);
    assert!(alone.status.success(), "{}", shown(&alone));
    wait_phase(&pair, recovery, "alone", true);
    let p = production.start();
    wait_phase(&pair, production, "stranded", false);
    wait_phase(&pair, recovery, "alone", true);
    let (file, rows) = plan(recovery);
    assert!(rows.values().all(|row| row["class"] == "no-base"), "{found:?}: {rows:#?}");
    let applied = run(recovery, &["failback", "apply", "--plan", &file, "--accept-held"]);
    assert!(applied.status.success(), "{}", shown(&applied));
    wait_phase(&pair, production, "standby", false);
    assert_eq!(listed(&recovery.tree), truth, "{found:?}");
    point_of(recovery);
    pair.equal("brought back");
    assert_eq!(listed(&production.tree), truth, "{found:?}");
    // A common point was made anew: after the next loss it counts what was deleted.
    over(&pair, recovery, production);
    point_of(production);
    p.kill();
    let opened = run(recovery, &["failover", "--force", "--peer-is-off"]);
    assert!(opened.status.success(), "{}", shown(&opened));
    fs::remove_file(recovery.tree.join("a/stays")).unwrap();
    let _p = production.start();
    wait_phase(&pair, production, "stranded", false);
    wait_phase(&pair, recovery, "alone", true);
    let (_, rows) = plan(recovery);
    assert_eq!(rows["a/stays"]["class"], "recovery-deleted", "{rows:#?}");
    drop(r);
}

fn point_of(site: &Site) {
    let config = crate::common::text(&site.config);
    let until = std::time::Instant::now() + crate::common::PATIENCE;
    while !farshore(&["mark", "create", "--config", config, "--label", "b"]).status.success() {
        assert!(std::time::Instant::now() < until);
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

#[test]
fn a_site_that_goes_on_with_an_old_state_folder_knows_no_common_point() {
    goes_on_with_yesterdays_state(Found::ByMarker);
}

#[test]
fn nor_does_one_that_the_other_site_found_out() {
    goes_on_with_yesterdays_state(Found::ByPeer);
}

fn copied(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to).unwrap();
    let dot = from.join(".");
    let args = ["-a", crate::common::text(&dot), crate::common::text(to)];
    assert!(std::process::Command::new("cp").args(args).status().unwrap().success());
}

#[test]
fn what_the_tree_of_a_machine_that_was_put_back_lacks_was_not_deleted() {
    let pair = Pair::with(Dials::Recovery, NO_BRAKE);
    let (production, recovery) = (&pair.production, &pair.recovery);
    pair.write("a/old", b"1");
    let (p, _r) = (production.start(), recovery.start());
    pair.point();
    assert!(p.stop().success());
    let [state, tree] =
        [&production.state, &production.tree].map(|p| p.with_extension("yesterday"));
    copied(&production.state, &state);
    copied(&production.tree, &tree);
    let p = production.start();
    wait_phase(&pair, production, "active", true);
    over(&pair, production, recovery);
    over(&pair, recovery, production);
    pair.write("a/since", b"received since yesterday");
    pair.point();
    p.kill();
    let opened = run(recovery, &["failover", "--force", "--peer-is-off"]);
    assert!(opened.status.success(), "{}", shown(&opened));
    let truth = listed(&recovery.tree);
    assert!(truth.contains_key("a/since"));
    fs::remove_dir_all(&production.state).unwrap();
    copied(&state, &production.state);
    for entry in fs::read_dir(&production.tree).unwrap() {
        fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
    copied(&tree, &production.tree);
    let _p = production.start();
    wait_phase(&pair, production, "stranded", false);
    wait_phase(&pair, recovery, "alone", true);
    let (file, rows) = plan(recovery);
    assert_eq!(rows["a/since"]["class"], "no-base", "{rows:#?}");
    let applied = run(recovery, &["failback", "apply", "--plan", &file, "--accept-held"]);
    assert!(applied.status.success(), "{}", shown(&applied));
    wait_phase(&pair, production, "standby", false);
    point_of(recovery);
    pair.equal("brought back");
    assert_eq!(listed(&recovery.tree), truth);
}

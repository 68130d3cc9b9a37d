//! A site whose state folder is an old copy, or new, finds that out, and is brought back by a plan.

use std::fs;

use crate::common::{farshore, shown};
use crate::home::plan;
use crate::pair::{Dials, Pair, Site};
use crate::switch::{run, wait_phase};

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

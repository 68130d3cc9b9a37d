//! What was lost once is lost again: nothing of a former plan, or of a point that was not the last, is in the way.

use std::fs;
use std::path::Path;

use crate::common::{expect, farshore, shown, text};
use crate::home::plan;
use crate::pair::{Daemon, Dials, Pair, Site};
use crate::switch::{run, wait_phase};

const NO_BRAKE: &str = "account_depth = 1\nbrake = { entries = 1000000, percent = 100 }";

fn well(site: &Site, args: &[&str]) -> String {
    let out = run(site, args);
    assert!(out.status.success(), "{args:?}: {}", shown(&out));
    String::from_utf8(out.stdout).unwrap()
}

/// Production is killed, recovery opened with `args` besides, and both are there again, apart.
fn lose(pair: &Pair, p: Daemon, args: &[&str], lost: impl Fn(&Path)) -> Daemon {
    p.kill();
    lost(&pair.production.tree);
    let force = [&["failover", "--force", "--peer-is-off"], args].concat();
    well(&pair.recovery, &force);
    let p = pair.production.start();
    wait_phase(pair, &pair.production, "stranded", false);
    wait_phase(pair, &pair.recovery, "alone", true);
    p
}

#[test]
fn a_plan_that_was_carried_out_is_never_taken_back() {
    let pair = Pair::with(Dials::Production, NO_BRAKE);
    let (production, recovery) = (&pair.production, &pair.recovery);
    pair.write("a/delivered", b"1");
    pair.write("a/stays", b"1");
    let (p, _r) = (production.start(), recovery.start());
    pair.point();
    let p = lose(&pair, p, &[], |tree| fs::write(tree.join("a/delivered"), b"changed").unwrap());
    fs::remove_file(recovery.tree.join("a/delivered")).unwrap();
    let (file, _) = plan(recovery);
    well(recovery, &["failback", "apply", "--plan", &file, "--accept-held"]);
    wait_phase(&pair, recovery, "active", true);
    wait_phase(&pair, production, "standby", false);
    well(recovery, &["switchover"]);
    wait_phase(&pair, production, "active", true);
    wait_phase(&pair, recovery, "standby", false);
    pair.equal("home");
    let in_quarantine = || {
        let plans = fs::read_dir(production.tree.join(".farshore/quarantine")).unwrap();
        plans.filter(|plan| plan.as_ref().unwrap().path().join("tree/a/delivered").exists()).count()
    };
    assert_eq!(in_quarantine(), 1);
    pair.write("a/new", b"1");
    pair.point();
    let p = lose(&pair, p, &[], |_| {});
    let (_, rows) = plan(recovery);
    assert!(!rows.contains_key("a/delivered"), "{rows:?}");
    assert!(!production.tree.join("a/delivered").exists());
    assert_eq!(in_quarantine(), 1);
    drop(p);
}

#[test]
fn a_failover_to_an_earlier_point_comes_home_with_a_plan() {
    let pair = Pair::with(Dials::Production, NO_BRAKE);
    let (production, recovery) = (&pair.production, &pair.recovery);
    pair.write("a/f", b"1");
    pair.write("a/untouched", b"1");
    let (p, _r) = (production.start(), recovery.start());
    pair.write("a/in/report", b"a report of the day");
    fs::create_dir(production.tree.join("a/out")).unwrap();
    let (first, _) = pair.point();
    fs::write(production.tree.join("a/f"), b"22").unwrap();
    fs::rename(production.tree.join("a/in/report"), production.tree.join("a/out/report")).unwrap();
    pair.write("a/later", b"2");
    pair.point();
    let _p = lose(&pair, p, &["--at", &first.to_string()], |tree| {
        fs::write(tree.join("a/lost"), b"never sent").unwrap();
    });
    assert_eq!(fs::read(recovery.tree.join("a/f")).unwrap(), b"1");
    assert!(!recovery.tree.join("a/later").exists());
    let (file, rows) = plan(recovery);
    // Against the point that was opened production changed, created and kept what came after it.
    assert_eq!(rows["a/f"]["class"], "production-modified", "{rows:?}");
    assert_eq!(rows["a/later"]["class"], "production-created", "{rows:?}");
    assert_eq!(rows["a/lost"]["class"], "production-created", "{rows:?}");
    assert!(!rows.contains_key("a/untouched"), "{rows:?}");
    // What was moved after the point is a move, though nobody knows its inode any more.
    for end in ["a/in/report", "a/out/report"] {
        let row = &rows[end];
        let found = (row["class"].as_str().unwrap(), row["rule"].as_str().unwrap());
        assert_eq!(found, ("production-renamed", "production-only"), "{end}: {row:#}");
    }
    well(recovery, &["failback", "decide", "--plan", &file, "a/*", "production"]);
    well(recovery, &["failback", "apply", "--plan", &file]);
    wait_phase(&pair, recovery, "active", true);
    wait_phase(&pair, production, "standby", false);
    well(recovery, &["switchover"]);
    pair.equal("home");
    assert_eq!(fs::read(production.tree.join("a/f")).unwrap(), b"22");
    assert_eq!(fs::read(production.tree.join("a/lost")).unwrap(), b"never sent");
    assert!(!production.tree.join("a/in/report").exists());
    assert_eq!(fs::read(production.tree.join("a/out/report")).unwrap(), b"a report of the day");
}

#[test]
fn nothing_goes_back_in_place_where_services_work() {
    let pair = Pair::with(Dials::Production, NO_BRAKE);
    let (production, recovery) = (&pair.production, &pair.recovery);
    pair.write("a/f", b"1");
    let (p, r) = (production.start(), recovery.start());
    let (first, _) = pair.point();
    fs::write(production.tree.join("a/f"), b"22").unwrap();
    pair.point();
    let (at, target, state) = (first.to_string(), text(&recovery.tree), text(&recovery.state));
    let restore = ["history", "restore", target, "a/f", "--at", &at, "--state", state];
    // A standby whose daemon is stopped goes back, and is the source's again when that goes on.
    r.kill();
    expect(&farshore(&restore), 0, &["done"]);
    assert_eq!(fs::read(recovery.tree.join("a/f")).unwrap(), b"1");
    let r = recovery.start();
    pair.point();
    pair.equal("the source again");
    let _p = lose(&pair, p, &[], |_| {});
    fs::write(recovery.tree.join("a/f"), b"services").unwrap();
    let rollback = ["history", "rollback", target, "--to", &at, "--yes", "--state", state];
    for daemon in [Some(r), None] {
        for args in [&restore[..], &rollback[..]] {
            expect(&farshore(args), 5, &["is alone here", "only a standby", "restore --to FILE"]);
        }
        assert_eq!(fs::read(recovery.tree.join("a/f")).unwrap(), b"services");
        daemon.map(Daemon::kill);
    }
    // A state folder that is an old copy knows nothing of it.
    let roles = recovery.state.join("roles");
    let aside = recovery.state.join("roles-aside");
    fs::rename(&roles, &aside).unwrap();
    expect(&farshore(&restore), 5, &["does not know the role"]);
    fs::rename(&aside, &roles).unwrap();
    // Nor is the base of a plan touched; and what was is still to be had, before a plan and after it.
    let r = recovery.start();
    wait_phase(&pair, recovery, "alone", true);
    let to = recovery.state.join("out");
    for planned in [false, true] {
        if planned {
            let (_, rows) = plan(recovery);
            assert_eq!(rows["a/f"]["class"], "recovery-modified", "{rows:?}");
        }
        let args = [&restore[..], &["--to", text(&to)]].concat();
        expect(&farshore(&args), 0, &["a/f"]);
        assert_eq!(fs::read(&to).unwrap(), b"1");
        fs::remove_file(&to).unwrap();
        let config = text(&recovery.config);
        expect(&farshore(&["history", "list", "--points", "--config", config]), 0, &["entries"]);
    }
    drop(r);
}

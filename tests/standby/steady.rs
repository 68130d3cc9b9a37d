//! What a pair does by itself while all is well, and after restarts.

use std::fs;

use crate::pair::{Dials, Pair, there};

#[test]
fn changes_arrive_by_themselves_and_the_point_is_what_it_says() {
    let pair = Pair::new();
    pair.write("acct1/inbound/one", b"1");
    let (_there, _here) = (pair.recovery.start(), pair.production.start());
    let (first, began) = pair.point();
    pair.equal("after the first point");
    for round in 0..20 {
        pair.write(&format!("acct{}/inbound/{round}.filepart", round % 3), b"half");
        let from = pair.production.tree.join(format!("acct{}/inbound/{round}.filepart", round % 3));
        fs::rename(&from, from.with_extension("dat")).unwrap();
        if round % 4 == 3 {
            fs::remove_file(from.with_extension("dat")).unwrap();
        }
        pair.point();
        pair.equal("at a point");
    }
    let (last, time) = pair.point();
    assert!(last > first && time > began);
    // Nothing changes: the point moves nevertheless, and says that nothing did.
    let share = pair.wait(&pair.recovery, "a later point", |share| {
        share["recovery_point"]["time_unix_ms"].as_i64() > Some(time + 1_500)
    });
    assert_eq!(share["role"], "standby");
}

#[test]
fn the_site_that_receives_may_dial() {
    let pair = Pair::with(Dials::Recovery, "");
    pair.write("acct1/one", b"1");
    let (_here, _there) = (pair.production.start(), pair.recovery.start());
    pair.point();
    pair.equal("after a point");
}

#[test]
fn either_daemon_may_be_killed_and_goes_on() {
    let pair = Pair::new();
    pair.write("acct1/one", b"1");
    let (mut there_, mut here) = (pair.recovery.start(), pair.production.start());
    pair.point();
    for round in 0..3 {
        pair.write(&format!("acct1/before{round}"), b"x");
        here.kill();
        // Nobody watches.
        pair.write(&format!("acct2/unwatched{round}"), b"x");
        here = pair.production.start();
        pair.point();
        pair.wait(&pair.production, "looked at all", |share| {
            share["capture"]["last_look_unix_ms"].is_i64()
        });
        pair.point();
        pair.equal("after the sender was killed");
        there_.kill();
        pair.write(&format!("acct3/away{round}"), b"x");
        there_ = pair.recovery.start();
        pair.point();
        pair.equal("after the receiver was killed");
    }
    assert!(here.stop().success());
    assert!(there_.stop().success());
}

#[test]
fn a_second_daemon_on_one_state_folder_is_refused() {
    let pair = Pair::new();
    let _first = pair.production.start();
    let second = crate::common::farshore(&[
        "serve",
        "--config",
        crate::common::text(&pair.production.config),
    ]);
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("two daemons on one state folder"), "{said}");
}

#[test]
fn what_is_below_a_held_back_name_stays_here() {
    let pair = Pair::with(Dials::Production, "policies = [\"mft-defaults\"]");
    pair.write("acct1/inbound/a.filepart", b"half");
    pair.write("acct1/inbound/b.dat", b"whole");
    let (_there, _here) = (pair.recovery.start(), pair.production.start());
    pair.point();
    assert!(there(&pair, "acct1/inbound/b.dat").exists());
    assert!(!there(&pair, "acct1/inbound/a.filepart").exists());
    let from = pair.production.tree.join("acct1/inbound/a.filepart");
    fs::rename(&from, from.with_extension("dat")).unwrap();
    pair.point();
    assert!(there(&pair, "acct1/inbound/a.dat").exists(), "it is complete now");
}

#[test]
fn a_mark_says_that_it_waits_for_the_other_site_and_needs_a_label() {
    let pair = Pair::new();
    pair.write("acct1/one", b"1");
    let here = pair.production.start();
    let config = crate::common::text(&pair.production.config);
    let refused = crate::common::farshore(&["mark", "create", "--label", "", "--config", config]);
    assert_eq!(refused.status.code(), Some(2), "{}", crate::common::shown(&refused));
    let args = ["mark", "create", "--label", "lsn=7", "--config", config];
    let waiting = crate::common::command(&args).spawn().expect("it starts");
    std::thread::sleep(std::time::Duration::from_secs(1));
    let _there = pair.recovery.start();
    let marked = waiting.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&marked.stderr).into_owned();
    assert!(said.contains("not connected to recovery") && said.contains("at most"), "{said}");
    assert!(marked.status.success(), "{said}");
    here.wait_for("is marked 'lsn=7'");
}

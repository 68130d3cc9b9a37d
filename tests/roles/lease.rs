//! With a lease nobody's word is needed: a site that is cut off stops its services before the other one may open.

use std::fs;

use serde_json::Value;

use crate::common::{command, shown, text};
use crate::pair::{Dials, Pair, Site};
use crate::services::hooks;
use crate::switch::wait_phase;

fn runs(site: &Site) -> bool {
    site.tree.parent().unwrap().join("running").exists()
}

#[test]
fn a_site_that_is_cut_off_stops_before_the_other_one_opens() {
    let folder = tempfile::tempdir().unwrap();
    // Below the share, before its hooks.
    let pair = Pair::with(Dials::Recovery, &format!("lease = \"5s\"\n{}", hooks(folder.path())));
    let (production, recovery) = (&pair.production, &pair.recovery);
    let (p, r) = (production.start(), recovery.start());
    wait_phase(&pair, production, "active", true);
    pair.write("a/one", b"1");
    pair.point();
    pair.wait(production, "that services run", |_| runs(production));

    // Nobody answers: the gate closes by itself, and services are stopped.
    r.kill();
    wait_phase(&pair, production, "active", false);
    pair.wait(production, "that services are stopped", |_| !runs(production));
    let r = recovery.start();
    wait_phase(&pair, production, "active", true);
    pair.wait(production, "that services run again", |_| runs(production));

    // The other way round: the standby opens without a word, but not before the lease has lapsed for certain. A
    // daemon that was killed stops no services: those of a site that is cut off stop by its hook, as above.
    p.kill();
    let killed = std::time::Instant::now();
    let config = text(&recovery.config);
    let out = command(&["failover", "--force", "--json", "--config", config]).output().unwrap();
    assert!(out.status.success(), "{}", shown(&out));
    let opened: Value = serde_json::from_slice(&out.stdout).unwrap();
    let open = wait_phase(&pair, recovery, "alone", true);
    assert_eq!(open["roles"]["phase"], "alone", "{opened:#}");
    // Less its last quarter, in which services are stopped: no answer of the standby was later than the kill.
    assert!(killed.elapsed().as_millis() > 4_000, "it opened while the lease may have held");
    assert!(runs(recovery));
    let log = fs::read_to_string(recovery.tree.parent().unwrap().join("hooks.log")).unwrap();
    assert!(log.lines().last().unwrap().starts_with("start homes recovery"), "{log}");
    drop(r);
}

//! What a reload changes of a site that runs, and what it says it does not.

use std::fs;

use crate::pair::{Dials, Pair};

fn change(pair: &Pair, from: &str, to: &str) {
    let text = fs::read_to_string(&pair.production.config).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(&pair.production.config, text.replace(from, to)).unwrap();
}

#[test]
fn what_is_said_to_be_in_force_is() {
    let more = "objective = \"30s\"\nsettle = \"200ms\"\nscrub = \"7d\"\n\
                brake = { entries = 100, percent = 10 }";
    let pair = Pair::with(Dials::Production, more);
    for n in 0..50 {
        pair.write(&format!("acct1/inbound/{n}"), b"x");
        pair.write(&format!("acct2/inbound/{n}"), b"x");
    }
    let (_there, here) = (pair.recovery.start(), pair.production.start());
    pair.point();
    change(&pair, "objective = \"30s\"", "objective = \"45s\"");
    change(&pair, "scrub = \"7d\"", "scrub = \"9d\"");
    change(&pair, "entries = 100", "entries = 100, canaries = [\"acct1/inbound/7\"]");
    let bandwidth = "[bandwidth]\nlimit = \"30M\"\n[[share]]";
    change(&pair, "[[share]]", bandwidth);
    here.hang_up();
    here.wait_for("share.homes.scrub: 7d -> 9d (needs a restart)");
    pair.wait(&pair.production, "the other objective", |share| {
        share["objective"]["objective_ms"].as_u64() == Some(45_000)
    });
    here.wait_for("limit 31457280 bytes/s");
    // It is a file like any other before, and holds the share from now on.
    pair.write("acct1/inbound/7", b"touched");
    pair.wait(&pair.production, "held", |share| {
        share["holds"].as_array().is_some_and(|holds| !holds.is_empty())
    });
    assert_eq!(fs::read(pair.recovery.tree.join("acct1/inbound/7")).unwrap(), b"x");
}

//! A site that falls silent without a goodbye: the other one says so within a few beats, and does nothing for its sake.

use std::time::{Duration, Instant};

use crate::common::shown;
use crate::pair::{Dials, Pair};
use crate::switch::{run, wait_phase};

/// Five beats, and what a look takes on a machine that does much else. The line alone takes 30 s.
const FOUND_WITHIN: Duration = Duration::from_secs(12);

#[test]
fn a_standby_that_dials_and_is_killed_is_missed_within_a_few_beats() {
    let pair = Pair::with(Dials::Recovery, "account_depth = 1");
    let (production, recovery) = (&pair.production, &pair.recovery);
    pair.write("a/one", &[7; 300_000]);
    let (_p, r) = (production.start(), recovery.start());
    wait_phase(&pair, production, "active", true);
    pair.point();
    pair.wait(production, "ready", |share| share["ready"] == true);
    let began = Instant::now();
    r.kill();
    let said = pair.wait(production, "missed", |share| share["ready"] == false);
    let took = began.elapsed();
    assert!(took < FOUND_WITHIN, "after {took:?}: {said:#}");
    assert!(said["reasons"].to_string().contains("nothing heard from recovery"), "{said:#}");
    let status = pair.status(production);
    assert!(status["peer"]["silent_ms"].as_u64().unwrap() >= 5_000, "{:#}", status["peer"]);
    let refused = run(production, &["switchover"]);
    assert_eq!(refused.status.code(), Some(5), "{}", shown(&refused));
    wait_phase(&pair, production, "active", true);
    let _r = recovery.start();
    pair.wait(production, "ready again", |share| share["ready"] == true);
    assert!(pair.status(production)["peer"]["silent_ms"].is_null());
}

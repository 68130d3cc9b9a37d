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
    // The site that listens and receives says what comes over the line as well as one that dials.
    let until = Instant::now() + crate::common::PATIENCE;
    while pair.status(recovery)["peer"]["received"]["bytes"].as_u64().unwrap() == 0 {
        assert!(Instant::now() < until, "{:#}", pair.status(recovery)["peer"]);
        std::thread::sleep(Duration::from_millis(100));
    }
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

#[test]
fn a_site_that_is_alone_names_its_last_point_after_a_restart() {
    let pair = Pair::with(Dials::Production, "account_depth = 1");
    let (production, recovery) = (&pair.production, &pair.recovery);
    pair.write("a/one", b"1");
    let (p, r) = (production.start(), recovery.start());
    let (sequence, _) = pair.point();
    p.kill();
    let opened = run(recovery, &["failover", "--force", "--peer-is-off"]);
    assert!(opened.status.success(), "{}", shown(&opened));
    r.kill();
    let _r = recovery.start();
    wait_phase(&pair, recovery, "alone", false);
    let share = pair.wait(recovery, "its point", |share| share["recovery_point"].is_object());
    assert!(share["recovery_point"]["sequence"].as_u64().unwrap() >= sequence, "{share:#}");
    assert!(!share["reasons"].to_string().contains("no recovery point yet"), "{share:#}");
    let screen = run(recovery, &["status"]);
    let screen = String::from_utf8(screen.stdout).unwrap();
    assert!(screen.contains(": alone, epoch"), "{screen}");
}

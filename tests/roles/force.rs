//! Opened by force at any instant, a standby is what its recovery point says, and what is missing was declared
//! to be at risk.

use std::fs;
use std::time::{Duration, Instant};

use farshore_test_support::Rng;
use serde_json::Value;

use crate::churn::Churn;
use crate::common::{PATIENCE, farshore, shown, text};
use crate::pair::{Dials, Pair, Site};
use crate::truth::now_ns;

/// What is proven here is not the brake.
const NO_BRAKE: &str = "brake = { entries = 1000000, percent = 100 }";

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Makes both sites forget that roles ever changed: the next round begins as the one before did.
fn forget_roles(site: &Site) {
    for file in [site.state.join("roles/homes"), site.tree.join(".farshore/role")] {
        fs::remove_file(file).unwrap();
    }
}

#[test]
fn opened_at_any_instant_it_is_its_point_and_what_is_missing_was_at_risk() {
    let rounds = number("FARSHORE_TEST_FAILOVERS", 5);
    let now_ms = || i64::try_from(now_ns() / 1_000_000).unwrap();
    let seed = number("FARSHORE_TEST_SEED", now_ms().unsigned_abs());
    let rate = number("FARSHORE_TEST_RATE", 100);
    println!(
        "FARSHORE_TEST_SEED={seed} FARSHORE_TEST_FAILOVERS={rounds} FARSHORE_TEST_RATE={rate}"
    );
    let mut rng = Rng::new(seed);
    let pair = Pair::with(Dials::Production, NO_BRAKE);
    let (production, recovery) = (&pair.production, &pair.recovery);
    let churn = Churn::start(&production.tree, seed, 8, rate);
    let (mut r, mut p) = (recovery.start(), production.start());
    pair.point();
    let (mut wrong, mut undone, mut slowest) = (Vec::new(), 0, Duration::ZERO);
    for round in 0..rounds {
        std::thread::sleep(Duration::from_millis(300 + rng.below(1_200)));
        p.kill();
        let lost_at = now_ms();
        if rng.below(3) == 0 {
            // The standby is lost too, and comes back alone.
            r.kill();
            r = recovery.start();
        }
        churn.rest();
        let began = Instant::now();
        let config = text(&recovery.config);
        let args = ["failover", "--force", "--peer-is-off", "--json", "--config", config];
        let out = loop {
            let out = farshore(&args);
            // One that has just begun may not have read its root yet.
            if out.status.success() || began.elapsed() > PATIENCE {
                break out;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let took = began.elapsed();
        assert!(out.status.success(), "round {round}: {}", shown(&out));
        let manifest: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(manifest["open"], true, "{manifest:#}");
        let time = manifest["time_unix_ms"].as_i64().unwrap();
        // Every change that was done before T is there, whole; what is missing was done after it.
        let found = churn.truth.check(&recovery.tree, time);
        undone += manifest["undone"].as_u64().unwrap();
        slowest = slowest.max(took);
        println!(
            "round {round}: point {} ({} exceptions), {} ms old, {} undone, open after {took:?}; {} paths as \
             at T, {} changed since, {} wrong",
            manifest["point"],
            manifest["exceptions"],
            lost_at - time,
            manifest["undone"],
            found.exact,
            found.since,
            found.wrong.len()
        );
        found.wrong.iter().for_each(|text| println!("  {text}"));
        wrong.extend(found.wrong);
        // What the catalog says is what stands there: R was compared, and nothing else is there.
        r.kill();
        let history = ["history", "list", text(&recovery.tree), "--points", "--json"];
        let listed = farshore(&[&history[..], &["--state", text(&recovery.state)]].concat());
        assert!(listed.status.success(), "{}", shown(&listed));
        for site in [production, recovery] {
            forget_roles(site);
        }
        churn.go_on();
        (r, p) = (recovery.start(), production.start());
        pair.point();
    }
    drop(churn.stop());
    pair.point();
    pair.equal("after all of it");
    println!("{rounds} failovers, {undone} changes undone, the slowest took {slowest:?}");
    assert!(wrong.is_empty(), "{} of seed {seed} are wrong: {wrong:#?}", wrong.len());
}

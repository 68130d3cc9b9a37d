//! A standby whose site is lost at any moment is what its recovery point says, without the source.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use farshore_test_support::Rng;
use serde_json::Value;

use crate::churn::Churn;
use crate::pair::{Daemon, Dials, Pair};
use crate::truth::now_ns;

/// What is proven here is not the brake.
pub(crate) const NO_BRAKE: &str = "brake = { entries = 1000000, percent = 100 }";

pub(crate) fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn now_ms() -> i64 {
    i64::try_from(now_ns() / 1_000_000).unwrap()
}

/// The point that the recovery site's daemon declares: sequence, time, exceptions.
fn declared(pair: &Pair) -> (u64, i64, u64) {
    let point = &pair.status(&pair.recovery)["shares"][0]["recovery_point"];
    let number = |key: &str| point[key].as_i64().expect("a point");
    (number("sequence").unsigned_abs(), number("time_unix_ms"), number("exceptions").unsigned_abs())
}

/// The accounts that the recovery site names as behind, each with its own time.
pub(crate) fn named_behind(share: &Value) -> BTreeMap<String, i64> {
    let worst = share["accounts"]["worst"].as_array().into_iter().flatten();
    let one = |account: &Value| {
        let name = account["account"].as_str().expect("a name").to_owned();
        (name, account["time_unix_ms"].as_i64().expect("a time"))
    };
    let behind: BTreeMap<String, i64> = worst.map(one).collect();
    assert_eq!(share["accounts"]["count"].as_u64(), Some(behind.len() as u64), "{share:#}");
    behind
}

/// Kills a daemon or both, in any order, and leaves the standby's running alone.
fn lose(pair: &Pair, rng: &mut Rng, standby: Daemon, sender: Daemon) -> (&'static str, Daemon) {
    let between = Duration::from_millis(rng.below(60));
    match rng.below(4) {
        0 => {
            standby.kill();
            std::thread::sleep(between);
            sender.kill();
            ("standby", pair.recovery.start())
        }
        1 => {
            sender.kill();
            std::thread::sleep(between);
            standby.kill();
            ("both", pair.recovery.start())
        }
        2 => {
            standby.kill();
            sender.kill();
            // And once more while it finishes what was under way.
            let again = pair.recovery.spawn();
            std::thread::sleep(between);
            again.kill();
            ("standby twice", pair.recovery.start())
        }
        _ => {
            sender.kill();
            ("sender", standby)
        }
    }
}

#[test]
fn a_point_is_true_at_any_kill() {
    let kills = number("FARSHORE_TEST_KILLS", 8);
    let seed = number("FARSHORE_TEST_SEED", now_ms().unsigned_abs());
    let rate = number("FARSHORE_TEST_RATE", 100);
    println!("FARSHORE_TEST_SEED={seed} FARSHORE_TEST_KILLS={kills} FARSHORE_TEST_RATE={rate}");
    let mut rng = Rng::new(seed);
    let pair = Pair::with(Dials::Production, NO_BRAKE);
    let churn = Churn::start(&pair.production.tree, seed, 8, rate);
    let (mut standby, mut sender) = (pair.recovery.start(), pair.production.start());
    pair.point();
    let mut wrong = Vec::new();
    for round in 0..kills {
        std::thread::sleep(Duration::from_millis(rng.below(1_500)));
        let (what, alone) = lose(&pair, &mut rng, standby, sender);
        let lost_at = now_ms();
        churn.rest();
        let (sequence, time, exceptions) = declared(&pair);
        let behind = named_behind(&pair.status(&pair.recovery)["shares"][0]);
        let found = churn.truth.check_behind(&pair.recovery.tree, time, &behind);
        println!(
            "kill {round} of the {what}: point {sequence}, {} ms old, {exceptions} exceptions, {} \
             accounts behind; {} changes so far, {} paths as at T, {} changed since, {} triggers, {} wrong, {} between two names",
            lost_at - time,
            behind.len(),
            churn.truth.count(),
            found.exact,
            found.since,
            found.triggers,
            found.wrong.len(),
            found.between.len(),
        );
        for text in found.wrong.iter().chain(&found.between) {
            println!("  {text}");
        }
        wrong.extend(found.wrong);
        churn.go_on();
        // Nobody watches for a while.
        std::thread::sleep(Duration::from_millis(rng.below(300)));
        standby = alone;
        sender = pair.production.start();
        let until = Instant::now() + crate::common::PATIENCE;
        let mut last = (sequence, time);
        while last.1 <= lost_at {
            assert!(Instant::now() < until, "the point does not move:\n{}", sender.log());
            let (sequence, time, _) = declared(&pair);
            assert!((sequence, time) >= last && time >= last.1, "it went back from {last:?}");
            last = (sequence, time);
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    let truth = churn.stop();
    pair.whole_point();
    pair.equal("after all of it");
    let (_, time) = pair.point();
    let found = truth.check(&pair.recovery.tree, time);
    assert_eq!(found.since, 0);
    wrong.extend(found.wrong);
    assert!(wrong.is_empty(), "{} of seed {seed} are wrong: {wrong:#?}", wrong.len());
}

/// Copies what a site knows, but for its socket.
pub(crate) fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let (kind, to) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&entry.path(), &to);
        } else if kind.is_file() {
            std::fs::copy(entry.path(), &to).unwrap();
        }
    }
}

#[test]
fn a_sender_that_did_not_record_its_last_points_goes_on_from_them() {
    let pair = Pair::with(Dials::Production, NO_BRAKE);
    pair.write("acct1/one", b"1");
    let (_standby, sender) = (pair.recovery.start(), pair.production.start());
    pair.point();
    sender.kill();
    let before = pair.production.state.with_extension("before");
    copy(&pair.production.state, &before);
    let sender = pair.production.start();
    for _ in 0..9 {
        pair.point();
    }
    sender.kill();
    let (sequence, time, _) = declared(&pair);
    copy(&before, &pair.production.state);
    let _sender = pair.production.start();
    let (next, later) = pair.point();
    assert!(next > sequence && later >= time, "{next} at {later} after {sequence} at {time}");
}

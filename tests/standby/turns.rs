//! A backlog of many accounts on a thin line: whose turn it is, and what the points say meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use farshore::site::control::{Request, call};
use farshore_test_support::Rng;
use serde_json::Value;

use crate::common::PATIENCE;
use crate::kills::named_behind;
use crate::pair::{Dials, Pair, there};
use crate::truth::{State, Truth, now_ns};

/// Of which a cut takes a second: two accounts, of ten.
const LINE: &str = "priority = { high = [\"pay\"], low = [\"low\"] }\nbrake = { entries = 1000000, percent = 100 }\n\
                    [bandwidth]\nlimit = \"8M\"";
const MIB: usize = 1 << 20;
const ACCOUNTS: usize = 10;
const FILES: usize = 4;
const OLD: usize = 60;

fn noted(pair: &Pair, truth: &Truth, path: &str, content: &[u8]) {
    let began = now_ns();
    pair.write(path, content);
    let state = State::of(&pair.production.tree.join(path));
    truth.note(began, now_ns(), [(path.to_owned(), state)]);
}

/// Who is behind, as the standby says of its point, with the time of that.
fn behind(share: &Value) -> (i64, BTreeMap<String, i64>) {
    (share["recovery_point"]["time_unix_ms"].as_i64().expect("a point"), named_behind(share))
}

/// That what the standby says is true of all accounts, of those it names as at their own times; how many these are.
fn true_but_for_those_named(pair: &Pair, truth: &Truth) -> usize {
    // Two equal answers are of one point.
    let (time, names) = loop {
        let share = |status: Value| behind(&status["shares"][0]);
        let (first, second) =
            (share(pair.status(&pair.recovery)), share(pair.status(&pair.recovery)));
        if first == second {
            break second;
        }
    };
    let wrong = truth.check_behind(&pair.recovery.tree, time, &names).wrong;
    assert!(wrong.is_empty(), "{names:?} are behind at {time}, and yet {wrong:#?}");
    names.len()
}

fn begun(more: &str) -> (Pair, Truth, [crate::pair::Daemon; 2]) {
    let pair = Pair::with(Dials::Production, more);
    let truth = Truth::default();
    for account in (0..ACCOUNTS).map(|n| format!("acct{n}")).chain(["pay", "low"].map(Into::into)) {
        noted(&pair, &truth, &format!("{account}/in/first"), b"1");
        let began = now_ns();
        let folders = [account.clone(), format!("{account}/in")];
        let states =
            folders.map(|path| (path.clone(), State::of(&pair.production.tree.join(path))));
        truth.note(began, now_ns(), states);
    }
    // Of the last that has its turn.
    (0..OLD).for_each(|n| noted(&pair, &truth, &format!("acct9/in/old{n}"), b"old"));
    let daemons = [pair.recovery.start(), pair.production.start()];
    pair.point();
    pair.wait(&pair.production, "looked at all", |share| {
        share["capture"]["last_look_unix_ms"].is_i64()
    });
    (pair, truth, daemons)
}

fn backlog(pair: &Pair, truth: &Truth) {
    let mut rng = Rng::new(5);
    // Less than half of them, which is no disaster however many cuts it is planned with.
    for path in (0..OLD * 2 / 5).map(|n| format!("acct9/in/old{n}")) {
        let began = now_ns();
        fs::remove_file(pair.production.tree.join(&path)).unwrap();
        truth.note(began, now_ns(), [(path, State::Absent)]);
    }
    for account in 0..ACCOUNTS {
        for file in 0..FILES {
            noted(pair, truth, &format!("acct{account}/in/new{file}"), &rng.bytes(MIB));
        }
    }
}

/// Accounts of the backlog that are at the standby whole, in part, and not at all.
fn arrived(pair: &Pair) -> [usize; 3] {
    let mut counts = [0; 3];
    for account in 0..ACCOUNTS {
        let is_there = |n: &usize| there(pair, &format!("acct{account}/in/new{n}")).exists();
        match (0..FILES).filter(is_there).count() {
            FILES => counts[0] += 1,
            0 => counts[2] += 1,
            _ => counts[1] += 1,
        }
    }
    counts
}

/// A point now, which nobody gives a name to.
fn cut(pair: &Pair) -> u64 {
    let point = call(&pair.production.state, &Request::Cut { share: None }, PATIENCE);
    point.expect("a point")["sequence"].as_u64().expect("a number")
}

#[test]
fn an_important_account_does_not_wait_for_the_backlog_of_others() {
    let (pair, truth, daemons) = begun(LINE);
    backlog(&pair, &truth);
    let (began, mut meanwhile, mut named) = (Instant::now(), 0, 0);
    let mut why = BTreeSet::new();
    loop {
        let name = format!("pay/in/{meanwhile}");
        noted(&pair, &truth, &name, b"important");
        let sequence = cut(&pair);
        assert!(there(&pair, &name).exists(), "point {sequence} has it");
        let [all, _, none] = arrived(&pair);
        if all == ACCOUNTS {
            break;
        }
        meanwhile += usize::from(none > 0);
        named = named.max(true_but_for_those_named(&pair, &truth));
        let status = pair.status(&pair.production);
        for account in status["shares"][0]["accounts"]["worst"].as_array().into_iter().flatten() {
            why.insert(account["why"].as_str().unwrap_or("nobody knows").to_owned());
        }
        assert!(began.elapsed() < PATIENCE, "never through");
    }
    assert!(
        meanwhile >= 3,
        "{meanwhile} points of the important account before the backlog was through"
    );
    assert!(named >= 3, "{named} accounts behind at most");
    assert_eq!(why, BTreeSet::from(["turn".to_owned()]));
    pair.whole_point();
    pair.equal("in the end");
    for site in [&pair.production, &pair.recovery] {
        let share = pair.wait(site, "level again", |share| share["accounts"]["count"] == 0);
        assert_eq!(share["recovery_point"]["exceptions"], 0, "{share:#}");
        assert_eq!(share["holds_total"], 0, "what waits is counted once: {share:#}");
    }
    println!(
        "{meanwhile} points of the important account, {named} behind at most, {:?}",
        began.elapsed()
    );
    drop(daemons);
}

/// Whoever is killed in the middle: who was behind is so still, by name, and nothing is forgotten.
#[test]
fn what_waits_for_its_turn_is_named_and_comes_whoever_is_killed() {
    let (pair, truth, [mut standby, mut sender]) = begun(LINE);
    backlog(&pair, &truth);
    pair.wait(&pair.recovery, "told who waits", |share| behind(share).1.len() >= 3);
    sender.kill();
    // The standby alone, as whoever opens it by force finds it.
    assert!(true_but_for_those_named(&pair, &truth) >= 3);
    standby.kill();
    standby = pair.recovery.start();
    assert!(true_but_for_those_named(&pair, &truth) >= 3, "over a restart");
    noted(&pair, &truth, "low/in/new", b"last");
    sender = pair.production.start();
    let until = Instant::now() + PATIENCE;
    while arrived(&pair)[0] < ACCOUNTS || !there(&pair, "low/in/new").exists() {
        true_but_for_those_named(&pair, &truth);
        assert!(Instant::now() < until, "{:?}", arrived(&pair));
        std::thread::sleep(Duration::from_millis(200));
    }
    pair.whole_point();
    pair.equal("in the end");
    drop((standby, sender));
}

/// A label is for something that was there by then.
#[test]
fn a_point_with_a_label_has_all_that_was_there() {
    let (pair, truth, daemons) = begun(LINE);
    backlog(&pair, &truth);
    pair.wait(&pair.recovery, "told who waits", |share| behind(share).1.len() >= 3);
    let config = crate::common::text(&pair.production.config);
    let args = ["mark", "create", "--label", "after the run", "--config", config];
    let out = crate::common::farshore(&args);
    assert!(out.status.success(), "{}", crate::common::shown(&out));
    assert_eq!(arrived(&pair), [ACCOUNTS, 0, 0]);
    assert_eq!(true_but_for_those_named(&pair, &truth), 0);
    drop(daemons);
}

/// A share that is handed over has left nothing out.
#[test]
fn a_switchover_waits_for_what_waits_for_its_turn() {
    let (pair, truth, daemons) = begun(LINE);
    backlog(&pair, &truth);
    pair.wait(&pair.recovery, "told who waits", |share| behind(share).1.len() >= 3);
    let config = crate::common::text(&pair.production.config);
    let out = crate::common::farshore(&["switchover", "--config", config]);
    assert!(out.status.success(), "{}", crate::common::shown(&out));
    assert_eq!(arrived(&pair), [ACCOUNTS, 0, 0]);
    for account in 0..ACCOUNTS {
        for file in 0..FILES {
            let path = format!("acct{account}/in/new{file}");
            let read = |tree: &std::path::Path| fs::read(tree.join(&path)).unwrap();
            assert!(read(&pair.production.tree) == read(&pair.recovery.tree), "{path}");
        }
    }
    drop(daemons);
}

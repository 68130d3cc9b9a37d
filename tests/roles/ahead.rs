//! Roles change while a large file is on its way: a drain waits for it, and whoever opens a standby without the
//! other site is told what it lacks.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use farshore_test_support::Rng;
use serde_json::Value;

use crate::common::{PATIENCE, shown};
use crate::home::plan;
use crate::pair::{Dials, Pair, Site, there};
use crate::switch::{run, wait_phase};

/// What it takes is some eight seconds.
const HUGE: usize = 64 << 20;
const LINE: &str = "brake = { entries = 1000000, percent = 100 }\n[bandwidth]\nlimit = \"8M\"";

fn pair() -> Pair {
    let pair = Pair::with(Dials::Production, LINE);
    pair.write("acct1/in/first", b"1");
    pair.write("acct2/in/first", b"1");
    pair
}

/// A large file of the first account, and what is worthless without it; its content.
fn put_huge(pair: &Pair) -> Vec<u8> {
    let content = Rng::new(12).bytes(HUGE);
    let made = pair.production.tree.with_file_name("huge");
    fs::write(&made, &content).unwrap();
    fs::rename(&made, pair.production.tree.join("acct1/in/huge")).unwrap();
    pair.write("acct1/in/a.ready", b"go");
    content
}

fn lag(share: &Value) -> Option<i64> {
    let worst = share["accounts"]["worst"].as_array().into_iter().flatten();
    let mut worst = worst.filter(|account| account["account"] == "acct1");
    worst.next().map(|account| account["time_unix_ms"].as_i64().expect("a time"))
}

fn exceptions(share: &Value) -> u64 {
    share["recovery_point"]["exceptions"].as_u64().expect("a number")
}

/// Waits until the account is named at both sites; the time up to which it is in.
fn named(pair: &Pair) -> i64 {
    let sites = [&pair.production, &pair.recovery];
    let since = sites.map(|site| {
        let share = pair.wait(site, "named", |share| lag(share).is_some());
        assert!(exceptions(&share) > 0, "{share:#}");
        lag(&share)
    });
    assert_eq!(since[0], since[1], "both say the same");
    since[0].unwrap()
}

fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "never {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Whether a part is there that outlives a restart.
fn holds_ahead(site: &Site) -> bool {
    let slots = fs::read_dir(site.tree.join(".farshore/ahead")).into_iter().flatten();
    let log =
        |slot: std::io::Result<fs::DirEntry>| slot.ok()?.path().join("recipe").metadata().ok();
    slots.filter_map(log).any(|log| log.len() > 0)
}

fn seen_at_once(pair: &Pair) {
    pair.wait(&pair.production, "looked at all", |share| {
        share["capture"]["last_look_unix_ms"].is_i64()
    });
}

#[test]
fn a_switchover_waits_for_a_large_file_that_is_on_its_way() {
    let pair = pair();
    let (production, recovery) = (&pair.production, &pair.recovery);
    let (p, r) = (production.start(), recovery.start());
    wait_phase(&pair, production, "active", true);
    pair.point();
    seen_at_once(&pair);
    let content = put_huge(&pair);
    wait_for("on its way", || holds_ahead(recovery));
    std::thread::scope(|scope| {
        let over = scope.spawn(|| run(production, &["switchover"]));
        let said = pair.wait(production, "waiting for it", |share| {
            let text = share["roles"]["text"].as_str().unwrap_or_default();
            text.contains("a large file is on its way") && text.contains("acct1")
        });
        assert_eq!(said["roles"]["phase"], "draining", "{said:#}");
        assert!(!there(&pair, "acct1/in/huge").exists());
        let over = over.join().unwrap();
        assert!(over.status.success(), "{}", shown(&over));
    });
    wait_phase(&pair, recovery, "active", true);
    wait_phase(&pair, production, "standby", false);
    assert!(fs::read(there(&pair, "acct1/in/huge")).unwrap() == content);
    assert!(there(&pair, "acct1/in/a.ready").exists());
    pair.equal("when it is over");
    assert!(!holds_ahead(recovery));
    drop((p, r));
}

#[test]
fn opened_by_force_a_standby_names_what_waited_for_a_large_file_and_it_comes_home_with_a_plan() {
    let pair = pair();
    let (production, recovery) = (&pair.production, &pair.recovery);
    let (p, r) = (production.start(), recovery.start());
    wait_phase(&pair, production, "active", true);
    let (_, before) = pair.point();
    seen_at_once(&pair);
    let content = put_huge(&pair);
    let put = i64::try_from(
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis(),
    )
    .unwrap();
    let since = named(&pair);
    assert!((before..=put).contains(&since), "{before} {since} {put}");
    wait_for("on its way", || holds_ahead(recovery));
    // Its account is as old as it was, whatever comes after it, and whoever begins anew.
    pair.write("acct2/in/second", b"2");
    assert!(pair.point().1 > since);
    p.kill();
    let p = production.start();
    pair.point();
    assert_eq!(named(&pair), since, "after a restart of the source");
    wait_for("on its way again", || holds_ahead(recovery));
    p.kill();
    r.kill();
    let r = recovery.start();
    let share = pair.wait(recovery, "named", |share| lag(share).is_some());
    assert_eq!(lag(&share), Some(since), "after a restart of the standby");
    assert!(!there(&pair, "acct1/in/huge").exists(), "too early to test anything");
    assert!(holds_ahead(recovery), "too little came to test anything");
    wait_phase(&pair, recovery, "standby", false);
    let opened = run(recovery, &["failover", "--force", "--peer-is-off", "--json"]);
    assert!(opened.status.success(), "{}", shown(&opened));
    let manifest: Value = serde_json::from_slice(&opened.stdout).unwrap();
    assert!(manifest["exceptions"].as_u64().unwrap() > 0, "{manifest:#}");
    assert_eq!(manifest["behind"][0]["account"], "acct1", "{manifest:#}");
    assert_eq!(manifest["behind"][0]["time_unix_ms"], since, "{manifest:#}");
    assert!(there(&pair, "acct2/in/second").exists());
    assert!(!there(&pair, "acct1/in/huge").exists() && !there(&pair, "acct1/in/a.ready").exists());
    assert!(!holds_ahead(recovery), "no cut will ask for it");
    // The lost site comes back: what it alone has is in the plan, and comes home when a person says so.
    let p = production.start();
    wait_phase(&pair, production, "stranded", false);
    wait_phase(&pair, recovery, "alone", true);
    let (file, rows) = plan(recovery);
    assert_eq!(rows["acct1/in/huge"]["rule"], "orphan", "{:#}", rows["acct1/in/huge"]);
    for path in ["acct1/in/huge", "acct1/in/a.ready"] {
        let decided = run(recovery, &["failback", "decide", "--plan", &file, path, "production"]);
        assert!(decided.status.success(), "{}", shown(&decided));
    }
    let applied = run(recovery, &["failback", "apply", "--plan", &file]);
    assert!(applied.status.success(), "{}", shown(&applied));
    wait_phase(&pair, recovery, "active", true);
    wait_phase(&pair, production, "standby", false);
    assert!(fs::read(there(&pair, "acct1/in/huge")).unwrap() == content);
    let home: PathBuf = production.tree.join("acct1/in/huge");
    pair.wait(recovery, "level again", |share| lag(share).is_none() && exceptions(share) == 0);
    assert!(fs::read(home).unwrap() == content);
    drop((p, r));
}

//! Over in order, by force, and what is refused.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::common::{farshore, shown, text};
use crate::pair::{Dials, Pair, Site};
use crate::services::{Services, hooks};

fn pair(dials: Dials) -> (Pair, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (Pair::with(dials, &hooks(folder.path())), folder)
}

pub(crate) fn run(site: &Site, args: &[&str]) -> std::process::Output {
    let mut all: Vec<&str> = args.to_vec();
    all.extend(["--config", text(&site.config)]);
    farshore(&all)
}

fn done(site: &Site, args: &[&str]) -> String {
    let out = run(site, args);
    assert!(out.status.success(), "{args:?} at {}: {}", site.name, shown(&out));
    String::from_utf8(out.stdout).unwrap()
}

fn phase(share: &Value) -> &str {
    share["roles"]["phase"].as_str().unwrap_or_default()
}

/// Waits until a site is in a phase, its gate as `open` says.
pub(crate) fn wait_phase(pair: &Pair, site: &Site, wanted: &str, open: bool) -> Value {
    pair.wait(site, wanted, |share| phase(share) == wanted && share["roles"]["gate_open"] == open)
}

pub(crate) fn listed(tree: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    let mut all = std::collections::BTreeMap::new();
    let mut folders = vec![tree.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap() == ".farshore" || path.is_symlink() {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(tree).unwrap().to_str().unwrap().to_owned();
                all.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    all
}

#[test]
fn a_share_goes_over_and_home_under_load_and_nothing_is_lost() {
    for dials in [Dials::Production, Dials::Recovery] {
        let (pair, _hooks) = pair(dials);
        let (production, recovery) = (&pair.production, &pair.recovery);
        let (p, r) = (production.start(), recovery.start());
        wait_phase(&pair, production, "active", true);
        let trees = [production.tree.clone(), recovery.tree.clone()];
        let services = Services::start(trees);
        std::thread::sleep(Duration::from_millis(1_500));
        let said = done(production, &["switchover"]);
        assert!(said.contains("handed over to 'recovery'"), "{said}");
        wait_phase(&pair, recovery, "active", true);
        wait_phase(&pair, production, "standby", false);
        std::thread::sleep(Duration::from_millis(1_500));
        done(recovery, &["switchover"]);
        wait_phase(&pair, production, "active", true);
        wait_phase(&pair, recovery, "standby", false);
        std::thread::sleep(Duration::from_millis(500));
        let (wrote, truth) = services.end();
        assert!(wrote > 100, "{wrote} writes");
        pair.point();
        pair.equal("home again");
        let there = listed(&recovery.tree);
        assert_eq!(there.keys().collect::<Vec<_>>(), truth.keys().collect::<Vec<_>>());
        assert_eq!(there, truth);
        let log = fs::read_to_string(production.tree.parent().unwrap().join("hooks.log")).unwrap();
        let calls = |line: &str| line.rsplit_once(' ').map(|(call, _)| call.to_owned());
        let calls: Vec<_> = log.lines().filter_map(calls).collect();
        let wanted = ["start", "stop", "start"].map(|hook| format!("{hook} homes production"));
        assert_eq!(calls, wanted, "{log}");
        drop((p, r));
    }
}

#[test]
fn by_force_the_standby_opens_at_its_point_and_the_lost_site_comes_back_stranded() {
    let (pair, _hooks) = pair(Dials::Production);
    let (production, recovery) = (&pair.production, &pair.recovery);
    let (p, r) = (production.start(), recovery.start());
    wait_phase(&pair, production, "active", true);
    pair.write("a/x", b"here and there");
    let (sequence, _) = pair.point();
    pair.equal("at the point");
    p.kill();
    pair.write("a/late", b"made after the last point");
    // Its services are gone with the site.
    let refused = run(recovery, &["switchover"]);
    assert_eq!(refused.status.code(), Some(5), "{}", shown(&refused));
    // It was killed: that is a word its operator can give.
    let opened = run(recovery, &["failover", "--force", "--peer-is-off", "--json"]);
    assert!(opened.status.success(), "{}", shown(&opened));
    let manifest: Value = serde_json::from_slice(&opened.stdout).unwrap();
    assert!(manifest["point"].as_u64().unwrap() >= sequence, "{manifest:#}");
    assert!(manifest["epoch"].as_u64().unwrap() > 1, "{manifest:#}");
    wait_phase(&pair, recovery, "alone", true);
    assert!(run(recovery, &["gate"]).status.success());
    assert!(!recovery.tree.join("a/late").exists());
    fs::write(recovery.tree.join("a/after"), b"made at recovery").unwrap();
    // It comes back, and is told.
    let p = production.start();
    wait_phase(&pair, production, "stranded", false);
    assert_eq!(run(production, &["gate"]).status.code(), Some(5));
    std::thread::sleep(Duration::from_secs(1));
    assert!(!production.tree.join("a/after").exists(), "nothing is applied");
    assert!(!recovery.tree.join("a/late").exists(), "nothing is sent");
    let refused = run(production, &["switchover"]);
    assert_eq!(refused.status.code(), Some(5), "{}", shown(&refused));
    // A restart changes nothing.
    assert!(r.stop().success());
    p.kill();
    let (_p, _r) = (production.start(), recovery.start());
    wait_phase(&pair, production, "stranded", false);
    wait_phase(&pair, recovery, "alone", true);
}

/// What is typed again is done, and says so; a second word about a failover is one that opens the gate, and is told
/// as such.
#[test]
fn what_is_typed_twice_is_done_once_and_says_so() {
    let pair = Pair::with(Dials::Production, "");
    let (production, recovery) = (&pair.production, &pair.recovery);
    pair.write("a/one", b"1");
    let (p, _r) = (production.start(), recovery.start());
    pair.point();
    let json = |site: &Site, args: &[&str], code| {
        let out = run(site, &[args, &["--json"]].concat());
        assert_eq!(out.status.code(), Some(code), "{args:?}: {}", shown(&out));
        serde_json::from_slice::<Value>(&out.stdout).unwrap()
    };
    for (from, to) in [(production, recovery), (recovery, production)] {
        let over = json(from, &["switchover"], 0);
        wait_phase(&pair, to, "active", true);
        wait_phase(&pair, from, "standby", false);
        let again = json(from, &["switchover"], 0);
        assert_eq!(again["epoch"], over["epoch"]);
        assert!(again["lines"][0].as_str().unwrap().contains("already"), "{again:#}");
    }
    pair.point();
    p.kill();
    // Nobody has found out yet that nobody answers.
    let first = json(recovery, &["failover", "--force"], 5);
    assert_eq!(first["open"], false, "{first:#}");
    assert_eq!(run(recovery, &["gate"]).status.code(), Some(5));
    let second = json(recovery, &["failover", "--force", "--peer-is-off"], 0);
    assert_eq!(second["open"], true, "{second:#}");
    let open = wait_phase(&pair, recovery, "alone", true);
    assert_eq!(second["epoch"], open["epoch"], "{second:#}");
    assert!(second["epoch"].as_u64() > first["epoch"].as_u64(), "{second:#}");
    assert_eq!(second["point"], first["point"]);
    assert!(second["report"].is_string(), "{second:#}");
    let third = json(recovery, &["failover", "--force", "--peer-is-off"], 0);
    assert_eq!((&third["epoch"], &third["report"]), (&second["epoch"], &Value::Null));
}

/// Services are not stopped for a site that says nothing, though its line has not been found dead yet.
#[test]
fn nothing_is_handed_over_to_a_site_that_is_silent() {
    let pair = Pair::with(Dials::Production, "");
    let (production, recovery) = (&pair.production, &pair.recovery);
    pair.write("a/one", b"1");
    let (r, _p) = (recovery.start(), production.start());
    pair.point();
    let pid = rustix::process::Pid::from_raw(i32::try_from(r.pid()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    std::thread::sleep(Duration::from_secs(7));
    let refused = run(production, &["switchover"]);
    assert_eq!(refused.status.code(), Some(5), "{}", shown(&refused));
    assert!(shown(&refused).contains("nothing was heard from 'recovery'"), "{}", shown(&refused));
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    wait_phase(&pair, production, "active", true);
    let until = std::time::Instant::now() + crate::common::PATIENCE;
    while !run(production, &["switchover"]).status.success() {
        assert!(std::time::Instant::now() < until, "it is heard again");
        std::thread::sleep(Duration::from_millis(200));
    }
    wait_phase(&pair, recovery, "active", true);
}

/// What a person has to decide first is said before services are stopped, not waited for behind a closed gate.
#[test]
fn what_the_brake_holds_is_decided_before_a_switchover() {
    let pair =
        Pair::with(Dials::Production, "account_depth = 1\nbrake = { entries = 5, percent = 10 }");
    let (production, recovery) = (&pair.production, &pair.recovery);
    for n in 0..40 {
        pair.write(&format!("a/{n}"), b"a file");
    }
    let (_r, _p) = (recovery.start(), production.start());
    pair.point();
    for n in 0..30 {
        fs::remove_file(production.tree.join(format!("a/{n}"))).unwrap();
    }
    pair.wait(production, "that it is held", |share| {
        !share["holds"].as_array().unwrap().is_empty()
    });
    let refused = run(production, &["switchover"]);
    assert_eq!(refused.status.code(), Some(5), "{}", shown(&refused));
    assert!(shown(&refused).contains("the brake holds"), "{}", shown(&refused));
    assert!(run(production, &["gate"]).status.success(), "services go on");
    done(production, &["brake", "approve"]);
    done(production, &["switchover"]);
    wait_phase(&pair, recovery, "active", true);
    assert!(!recovery.tree.join("a/0").exists());
}

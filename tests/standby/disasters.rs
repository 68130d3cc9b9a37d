//! What a pair does when somebody destroys the share: held before the first delete, and undone or passed
//! as a person says.

use std::fs;

use crate::common::{farshore, shown, text};
use crate::pair::{Dials, Pair, there};

fn filled(pair: &Pair) {
    for account in 0..10 {
        for n in 0..200 {
            let body = format!("order {n} of {account}\n").repeat(40);
            pair.write(&format!("acct{account}/inbound/{n}.csv"), body.as_bytes());
        }
    }
}

fn brake(pair: &Pair, args: &[&str]) {
    let mut all = vec!["brake"];
    all.extend(args);
    all.extend(["--config", text(&pair.production.config)]);
    let out = farshore(&all);
    assert!(out.status.success(), "{}", shown(&out));
}

fn held(pair: &Pair) -> serde_json::Value {
    pair.wait(&pair.production, "held", |share| {
        share["holds"].as_array().is_some_and(|holds| !holds.is_empty())
    })
}

#[test]
fn a_share_that_is_deleted_is_held_and_the_rest_goes_on() {
    let pair = Pair::with(Dials::Production, "brake = { entries = 100, percent = 10 }");
    filled(&pair);
    let (_there, _here) = (pair.recovery.start(), pair.production.start());
    pair.point();
    pair.equal("at first");
    fs::remove_dir_all(pair.production.tree.join("acct3")).unwrap();
    held(&pair);
    assert_eq!(fs::read_dir(there(&pair, "acct3/inbound")).unwrap().count(), 200);
    // Capture goes on, and what is not held travels.
    pair.write("acct4/inbound/new.csv", b"new");
    pair.point();
    assert!(there(&pair, "acct4/inbound/new.csv").exists());
    assert!(there(&pair, "acct3/inbound/7.csv").exists());
    let config = text(&pair.production.config);
    let other = farshore(&["brake", "approve", "--id", "999", "--config", config]);
    assert!(!other.status.success(), "another hold than the one that was looked at");
    brake(&pair, &["reject"]);
    pair.point();
    assert!(there(&pair, "acct3/inbound/7.csv").exists(), "rejected: it stays");
    brake(&pair, &["approve"]);
    pair.point();
    pair.wait(&pair.production, "let go", |share| {
        share["holds"].as_array().is_some_and(Vec::is_empty)
    });
    pair.point();
    pair.equal("approved");
}

#[test]
fn a_share_that_is_encrypted_is_held() {
    let pair = Pair::with(Dials::Production, "brake = { entries = 100, percent = 10 }");
    filled(&pair);
    let (_there, _here) = (pair.recovery.start(), pair.production.start());
    pair.point();
    let mut seed = 7u64;
    for account in 0..10 {
        for n in 0..200 {
            let noise: Vec<u8> = (0..6_000)
                .map(|_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (seed >> 56) as u8
                })
                .collect();
            let path = pair.production.tree.join(format!("acct{account}/inbound/{n}.csv"));
            fs::write(&path, noise).unwrap();
            fs::rename(&path, path.with_extension("csv.locked")).unwrap();
        }
    }
    held(&pair);
    let kept = fs::read_dir(there(&pair, "acct9/inbound")).unwrap();
    let kept = kept.filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().ends_with("csv"));
    assert!(kept.count() >= 180, "the last account is not touched but for what passed before");
}

#[test]
fn an_emptied_share_is_held_however_small() {
    let pair = Pair::new();
    pair.write("acct1/one", b"1");
    let (_there, _here) = (pair.recovery.start(), pair.production.start());
    pair.point();
    fs::remove_dir_all(pair.production.tree.join("acct1")).unwrap();
    held(&pair);
    assert!(there(&pair, "acct1/one").exists());
    pair.write("acct1/one", b"1");
    pair.wait(&pair.production, "let go", |share| {
        share["holds"].as_array().is_some_and(Vec::is_empty)
    });
}

fn count(pair: &Pair, account: &str) -> usize {
    fs::read_dir(there(pair, &format!("{account}/inbound"))).unwrap().count()
}

fn delete(pair: &Pair, account: &str, range: std::ops::Range<usize>) {
    for n in range {
        let file = format!("{account}/inbound/{n}.csv");
        fs::remove_file(pair.production.tree.join(file)).unwrap();
    }
}

/// What was there before is what a first copy found: accounts are not empty, nor is all in them young.
#[test]
fn a_few_deletes_right_after_the_first_copy_pass() {
    let pair = Pair::new();
    filled(&pair);
    let (_there, _here) = (pair.recovery.start(), pair.production.start());
    pair.point();
    delete(&pair, "acct5", 0..40);
    pair.point();
    assert_eq!(count(&pair, "acct5"), 160);
    let status = pair.status(&pair.production);
    assert_eq!(status["shares"][0]["holds"].as_array().map(Vec::len), Some(0), "{status:#}");
}

/// Each part passes by itself; together they are more than half of the account, whoever was killed between.
#[test]
fn a_drip_is_held_over_kills_of_the_sender() {
    let pair = Pair::new();
    filled(&pair);
    let (_there, mut here) = (pair.recovery.start(), pair.production.start());
    pair.point();
    for part in [0..45, 45..90] {
        delete(&pair, "acct2", part);
        pair.point();
        // The sums of the last seconds are kept with the next of them.
        std::thread::sleep(std::time::Duration::from_millis(2_100));
        delete(&pair, "acct7", (count(&pair, "acct7") - 1)..count(&pair, "acct7"));
        pair.point();
        here.kill();
        here = pair.production.start();
        pair.point();
    }
    assert_eq!(count(&pair, "acct2"), 110);
    delete(&pair, "acct2", 90..130);
    held(&pair);
    pair.point();
    assert_eq!(count(&pair, "acct2"), 110, "held before the first of them");
}

fn holds(share: &serde_json::Value) -> Vec<serde_json::Value> {
    share["holds"].as_array().cloned().unwrap_or_default()
}

fn restore(pair: &Pair, account: &str, range: std::ops::Range<usize>) {
    for n in range {
        let from = there(pair, &format!("{account}/inbound/{n}.csv"));
        pair.write(&format!("{account}/inbound/{n}.csv"), &fs::read(from).unwrap());
    }
}

/// A mass delete that comes in several cuts is counted whole, and let pass by one decision; a later one of
/// another account is held.
#[test]
fn an_approval_covers_what_was_there_when_it_was_given() {
    let pair = Pair::new();
    filled(&pair);
    let (_there, here) = (pair.recovery.start(), pair.production.start());
    pair.point();
    delete(&pair, "acct2", 0..120);
    held(&pair);
    pair.point();
    delete(&pair, "acct2", 120..195);
    pair.wait(&pair.production, "counted", |share| {
        holds(share).iter().any(|hold| hold["counts"]["deleted"] == 195)
    });
    assert_eq!(count(&pair, "acct2"), 200, "nothing of it passed");
    let config = text(&pair.production.config);
    let out = farshore(&["brake", "approve", "--only", "acct2", "--json", "--config", config]);
    let said: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(said["approved"][0]["account"], "acct2", "{said}");
    assert_eq!(said["approved"][0]["counts"]["deleted"], 195, "{said}");
    assert!(said["text"].as_str().unwrap().contains("195 deleted"), "{said}");
    pair.point();
    pair.wait(&pair.recovery, "let go", |_| count(&pair, "acct2") == 5);
    assert!(holds(&pair.status(&pair.production)["shares"][0]).is_empty());
    delete(&pair, "acct6", 0..150);
    held(&pair);
    assert_eq!(count(&pair, "acct6"), 200);
    let log = here.log();
    assert!(log.contains("account acct2 approved by an operator"), "{log}");
}

/// Held or rejected: when the files are back nothing is left to decide, and what came meanwhile follows.
#[test]
fn a_hold_ends_when_the_files_are_restored_over_restarts_too() {
    for rejected in [false, true] {
        let pair = Pair::new();
        filled(&pair);
        let (_there, mut here) = (pair.recovery.start(), pair.production.start());
        pair.point();
        delete(&pair, "acct2", 0..150);
        held(&pair);
        let before = pair.status(&pair.production)["shares"][0]["accounts"]["worst"][0].clone();
        assert_eq!(before["account"], "acct2");
        if rejected {
            brake(&pair, &["reject"]);
        }
        pair.write("acct2/inbound/meanwhile.csv", b"new");
        here.kill();
        here = pair.production.start();
        pair.point();
        let share = held(&pair);
        assert_eq!(holds(&share)[0]["rejected_unix_ms"].is_i64(), rejected);
        let after = &share["accounts"]["worst"][0];
        assert_eq!(after["time_unix_ms"], before["time_unix_ms"], "its own T, over a restart");
        assert_eq!(count(&pair, "acct2"), 200);
        restore(&pair, "acct2", 0..150);
        pair.wait(&pair.production, "ended by itself", |share| holds(share).is_empty());
        pair.point();
        pair.equal("restored");
        assert!(here.log().contains("is held no longer"), "{}", here.log());
    }
}

/// A look that does not find the account, because the other end lost it, is no reason to forget what was
/// decided.
#[test]
fn a_rejection_is_not_forgotten_by_a_first_copy() {
    let pair = Pair::new();
    filled(&pair);
    let (there_, here) = (pair.recovery.start(), pair.production.start());
    pair.point();
    fs::remove_dir_all(pair.production.tree.join("acct3")).unwrap();
    held(&pair);
    brake(&pair, &["reject"]);
    assert!(there_.stop().success() && here.stop().success());
    fs::remove_dir_all(pair.recovery.state.join("catalogs")).unwrap_or(());
    for entry in fs::read_dir(&pair.recovery.tree).unwrap() {
        fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
    let (_there, _here) = (pair.recovery.start(), pair.production.start());
    // An emptied folder is no folder of the share until somebody says that it is meant.
    pair.wait(&pair.recovery, "told from a folder that is not mounted", |share| {
        share["state"] == "mount-gone"
    });
    let config = text(&pair.recovery.config);
    let meant = farshore(&["brake", "approve", "--config", config]);
    assert!(meant.status.success(), "{}", shown(&meant));
    // That the other end lost all is held by the guard: its hold alone is let go.
    pair.wait(&pair.production, "held by the guard", |share| {
        holds(share).iter().any(|hold| hold["id"] == "guard")
    });
    brake(&pair, &["approve", "--id", "guard"]);
    pair.point();
    std::thread::sleep(std::time::Duration::from_secs(3));
    pair.point();
    let share = held(&pair);
    assert!(holds(&share)[0]["rejected_unix_ms"].is_i64(), "{share:#}");
}

/// Who stands at the standby when production is lost must know what it is behind in.
#[test]
fn the_standby_says_what_is_held_over_restarts_and_without_the_source() {
    let pair = Pair::new();
    filled(&pair);
    let (there_, here) = (pair.recovery.start(), pair.production.start());
    pair.point();
    pair.wait(&pair.recovery, "ready", |share| share["ready"] == true);
    delete(&pair, "acct2", 0..150);
    let ours = held(&pair);
    let is_held = |share: &serde_json::Value| {
        holds(share).iter().any(|hold| hold["counts"]["deleted"] == 150)
    };
    let theirs = pair.wait(&pair.recovery, "told", is_held);
    assert_eq!(theirs["ready"], false);
    let reasons = |share: &serde_json::Value| share["reasons"].as_array().unwrap().clone();
    assert!(reasons(&theirs).contains(&reasons(&ours)[0]), "{theirs:#} {ours:#}");
    assert_eq!(theirs["accounts"]["worst"][0]["account"], "acct2");
    assert_eq!(holds(&theirs)[0]["last_good_point"], holds(&ours)[0]["last_good_point"]);
    let show = farshore(&["brake", "show", "--config", text(&pair.recovery.config)]);
    let said = String::from_utf8_lossy(&show.stdout).into_owned();
    assert!(said.contains("it is decided at production"), "{said}");
    assert_eq!(show.status.code(), Some(5));
    here.kill();
    assert!(there_.stop().success());
    let _there = pair.recovery.start();
    let share = pair.wait(&pair.recovery, "remembered", is_held);
    assert_eq!(holds(&share)[0]["stale"], true);
    let _here = pair.production.start();
    restore(&pair, "acct2", 0..150);
    pair.wait(&pair.recovery, "told that it ended", |share| holds(share).is_empty());
}

/// Changes the share while its site is as if asleep, so that one cut finds all of it.
fn at_once(here: &crate::pair::Daemon, change: impl FnOnce()) {
    use rustix::process::{Pid, Signal, kill_process};
    let pid = Pid::from_raw(i32::try_from(here.pid()).unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    change();
    kill_process(pid, Signal::CONT).unwrap();
}

/// In each cut that sends a part of the accounts it would be in fewer folders than is noticed.
#[test]
fn a_note_in_all_folders_is_held_whole_beside_more_than_a_cut_takes() {
    const LINE: &str = "brake = { note_directories = 20 }\n[bandwidth]\nlimit = \"4M\"";
    let pair = Pair::with(Dials::Production, LINE);
    for folder in (0..40).map(|n| format!("acct{}/in{}", n % 10, n / 10)) {
        pair.write(&format!("{folder}/first"), b"1");
    }
    let (_there, here) = (pair.recovery.start(), pair.production.start());
    pair.point();
    pair.wait(&pair.production, "looked at all", |share| {
        share["capture"]["last_look_unix_ms"].is_i64()
    });
    let mut rng = farshore_test_support::Rng::new(3);
    at_once(&here, || {
        for n in 0..40 {
            let folder = format!("acct{}/in{}", n % 10, n / 10);
            pair.write(&format!("{folder}/order"), &rng.bytes(256 << 10));
            pair.write(&format!("{folder}/READ_ME.txt"), &[b'!'; 300]);
        }
    });
    held(&pair);
    std::thread::sleep(std::time::Duration::from_secs(1));
    let came = (0..40).filter(|n| {
        let folder = there(&pair, &format!("acct{}/in{}", n % 10, n / 10));
        folder.join("READ_ME.txt").exists() || folder.join("order").exists()
    });
    assert_eq!(came.count(), 0, "nothing passed");
}

/// Files in all accounts at the standby, by their extension.
fn files(pair: &Pair, extension: &str) -> usize {
    let accounts = (0..10).map(|n| there(pair, &format!("acct{n}/inbound")));
    let files = accounts.flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
    files.filter(|file| file.path().extension().is_some_and(|e| e == extension)).count()
}

/// Of which a cut may take a part alone: all of it is judged before any of that part is sent, so that nothing goes.
/// What somebody lets pass goes in turns.
#[test]
fn a_disaster_larger_than_a_cut_is_held_whole() {
    const LINE: &str = "brake = { entries = 100, percent = 10 }\n[bandwidth]\nlimit = \"4M\"";
    for is_encrypted in [false, true] {
        let pair = Pair::with(Dials::Production, LINE);
        for account in 0..10 {
            for n in 0..450 {
                pair.write(&format!("acct{account}/inbound/{n}.csv"), &[b'x'; 300]);
            }
        }
        let (_there, here) = (pair.recovery.start(), pair.production.start());
        pair.point();
        pair.wait(&pair.production, "looked at all", |share| {
            share["capture"]["last_look_unix_ms"].is_i64()
        });
        let mut rng = farshore_test_support::Rng::new(3);
        at_once(&here, || match is_encrypted {
            // 4,500 changes: more than 4 MiB of the measure of cuts, of which each is 1 KiB.
            false => (0..10).for_each(|n| {
                fs::remove_dir_all(pair.production.tree.join(format!("acct{n}/inbound"))).unwrap();
            }),
            // 7 MiB.
            true => (0..900).for_each(|n| {
                let file = format!("acct{}/inbound/{}.csv", n % 3, n / 3);
                let path = pair.production.tree.join(file);
                fs::write(&path, rng.bytes(8_192)).unwrap();
                fs::rename(&path, path.with_extension("csv.locked")).unwrap();
            }),
        });
        let held_accounts = if is_encrypted { 3 } else { 10 };
        pair.wait(&pair.production, "held", |share| holds(share).len() == held_accounts);
        pair.point();
        assert_eq!((files(&pair, "csv"), files(&pair, "locked")), (4_500, 0), "nothing passed");
        brake(&pair, &["approve"]);
        let patience = std::time::Instant::now() + crate::common::PATIENCE;
        let mut cuts = std::collections::BTreeSet::new();
        while (files(&pair, "csv"), files(&pair, "locked"))
            != if is_encrypted { (3_600, 900) } else { (0, 0) }
        {
            let (sequence, _) = pair.point();
            cuts.insert((sequence, files(&pair, "csv")));
            assert!(std::time::Instant::now() < patience, "never let pass: {cuts:?}");
        }
        pair.whole_point();
        pair.equal("approved");
        let status = pair.status(&pair.production);
        assert!(holds(&status["shares"][0]).is_empty(), "one decision for all cuts: {status:#}");
    }
}

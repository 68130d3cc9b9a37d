//! A large file on a thin line: nobody else waits for it, whoever is killed meanwhile.

use std::fs;
use std::time::Instant;

use farshore_test_support::Rng;
use serde_json::Value;

use crate::kills::number;
use crate::pair::{Dials, Pair, Site, there};

/// What it takes is some ten seconds.
const HUGE: usize = 64 << 20;
const LINE: &str = "brake = { entries = 1000000, percent = 100 }\n[bandwidth]\nlimit = \"8M\"";

fn sent(pair: &Pair, site: &Site) -> u64 {
    pair.status(site)["peer"]["sent"]["bytes"].as_u64().expect("a number")
}

fn logged(pair: &Pair) -> u64 {
    let slots = fs::read_dir(there(pair, ".farshore/ahead")).into_iter().flatten();
    let log =
        |slot: std::io::Result<fs::DirEntry>| slot.ok()?.path().join("recipe").metadata().ok();
    slots.filter_map(log).map(|log| log.len()).max().unwrap_or(0)
}

fn is_behind(share: &Value) -> bool {
    let worst = share["accounts"]["worst"].as_array().into_iter().flatten();
    worst.into_iter().any(|account| account["account"] == "acct1")
}

#[test]
fn a_large_file_on_a_thin_line_holds_up_its_own_account_alone_whoever_is_killed() {
    let pair = Pair::with(Dials::Production, LINE);
    pair.write("acct1/in/first", b"1");
    pair.write("acct2/in/first", b"1");
    let (mut standby, mut sender) = (pair.recovery.start(), pair.production.start());
    pair.point();
    pair.wait(&pair.production, "looked at all", |share| {
        share["capture"]["last_look_unix_ms"].is_i64()
    });
    let content = Rng::new(11).bytes(HUGE);
    let huge = pair.production.tree.with_file_name("huge");
    fs::write(&huge, &content).unwrap();
    fs::rename(&huge, pair.production.tree.join("acct1/in/huge")).unwrap();
    // Sorted before it.
    pair.write("acct1/in/a.ready", b"go");
    let (at, trigger) = (there(&pair, "acct1/in/huge"), there(&pair, "acct1/in/a.ready"));
    let (mut behind, mut points, mut killed, mut sent_before) = (0, 0, 0, 0);
    let mut shown = 0;
    while !at.exists() {
        let ready = trigger.exists();
        assert!(!ready || at.exists(), "the trigger before its file");
        let name = format!("acct2/in/{points}");
        pair.write(&name, b"small");
        let (sequence, time) = pair.point();
        if !at.exists() {
            assert!(there(&pair, &name).exists(), "point {sequence} of {time} has it");
            points += 1;
            let status = pair.status(&pair.production);
            behind += u32::from(is_behind(&status["shares"][0]));
            if let [file] = &status["shares"][0]["large_files"].as_array().unwrap()[..] {
                assert_eq!(file["path"], "acct1/in/huge", "{file}");
                assert_eq!(file["bytes"], HUGE, "{file}");
                let left = file["bytes_left"].as_u64().unwrap();
                shown += u32::from(left > 0 && left < HUGE as u64 && file["eta_ms"].is_u64());
            }
        }
        // A chunk of 64 KiB takes some 35 bytes of log: 12 and 36 MiB.
        let carried = logged(&pair) / 35 * (64 << 10);
        if killed == 0 && carried > 12 << 20 {
            standby.kill();
            standby = pair.recovery.start();
            killed += 1;
        } else if killed == 1 && carried > 36 << 20 {
            sender.kill();
            sender = pair.production.start();
            sent_before = carried;
            killed += 1;
        }
    }
    assert!(points >= 5 && behind > 0, "{points} points, {behind} of them with the account behind");
    assert_eq!(killed, 2);
    assert!(shown > 0, "how far it is was never shown");
    pair.point();
    pair.point();
    assert!(fs::read(&at).unwrap() == content);
    pair.equal("at the end");
    let sent = sent(&pair, &pair.production);
    assert!(sent < HUGE as u64 - sent_before + (8 << 20), "{sent} bytes after {sent_before}");
    // Who is behind is shown with each point, what is on its way once a second.
    let share = pair.wait(&pair.production, "level again", |share| {
        !is_behind(share) && share["large_files"] == serde_json::json!([])
    });
    assert_eq!(share["recovery_point"]["exceptions"], 0);
    println!("{points} points while it was carried, {behind} with the account behind");
    drop((standby, sender));
}

/// Whose lag a large file is not to be: `FARSHORE_TEST_HUGE_MIB=n` is its size, 256 by default.
///
/// What comes first is asserted, not when: each small file is at the standby, in a point that is sealed, while of
/// the large one nothing is seen.
#[test]
fn small_files_of_others_arrive_in_cuts_while_hundreds_of_mib_are_on_their_way() {
    let mib = number("FARSHORE_TEST_HUGE_MIB", 256);
    let line = LINE.replace("8M", "40M");
    let pair = Pair::of_size(Dials::Recovery, &line, &format!("{}m", 2 * mib + 1_536));
    pair.write("acct1/in/first", b"1");
    pair.write("acct2/in/first", b"1");
    let (standby, sender) = (pair.recovery.start(), pair.production.start());
    pair.point();
    pair.wait(&pair.production, "looked at all", |share| {
        share["capture"]["last_look_unix_ms"].is_i64()
    });
    let content = Rng::new(13).bytes(usize::try_from(mib).unwrap() << 20);
    let made = pair.production.tree.with_file_name("huge");
    fs::write(&made, &content).unwrap();
    fs::rename(&made, pair.production.tree.join("acct1/in/huge")).unwrap();
    pair.write("acct1/in/a.ready", b"go");
    pair.wait(&pair.recovery, "named", is_behind);
    let (huge, ready) = (there(&pair, "acct1/in/huge"), there(&pair, "acct1/in/a.ready"));
    let (began, mut took) = (Instant::now(), Vec::new());
    let mut meanwhile = 0;
    loop {
        let name = format!("acct2/in/{meanwhile}");
        let written = Instant::now();
        pair.write(&name, b"small");
        let (sequence, _) = pair.point();
        assert!(there(&pair, &name).exists(), "point {sequence} has it");
        took.push(written.elapsed());
        // Looked for behind the small one: that came first.
        if huge.exists() {
            break;
        }
        assert!(!ready.exists(), "the trigger before its file");
        let status = pair.status(&pair.recovery);
        let point = &status["shares"][0]["recovery_point"];
        assert!(huge.exists() || point["exceptions"].as_u64() > Some(0), "{point:#}");
        meanwhile += 1;
    }
    assert!(meanwhile >= 3, "{meanwhile} small files in cuts of their own");
    pair.point();
    assert!(fs::read(&huge).unwrap() == content && ready.exists());
    pair.equal("at the end");
    for site in [&pair.production, &pair.recovery] {
        pair.wait(site, "level again", |share| {
            !is_behind(share) && share["recovery_point"]["exceptions"] == 0
        });
    }
    took.sort();
    println!(
        "{meanwhile} small files in cuts of their own within {:?}, each in a point after {:?}, the last of them \
         after {:?}",
        began.elapsed(),
        took[took.len() / 2],
        took[took.len() - 1],
    );
    drop((standby, sender));
}

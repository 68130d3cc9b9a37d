//! What was done is on record, what it achieved is in a signed report, and neither can be changed unseen.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::common::{farshore, shown, text};
use crate::home::plan;
use crate::pair::{Dials, Pair, Site};
use crate::switch::{run, wait_phase};

/// What is proven here is not the brake.
const NO_BRAKE: &str = "account_depth = 1\nbrake = { entries = 1000000, percent = 100 }";

fn json(site: &Site, args: &[&str]) -> Value {
    let out = run(site, &[args, &["--json"]].concat());
    assert!(out.status.success(), "{args:?}: {}", shown(&out));
    serde_json::from_slice(&out.stdout).unwrap()
}

/// The report that a command's result names, read at `at`.
fn report(result: &Value, at: &Site) -> Value {
    let file = result["report"].as_str().unwrap_or_else(|| panic!("no report: {result:#}"));
    json(at, &["audit", "report", file])
}

fn kinds(report: &Value) -> Vec<&str> {
    let records = report["records"].as_array().unwrap();
    records.iter().map(|record| record["kind"].as_str().unwrap()).collect()
}

fn code(site: &Site, args: &[&str]) -> Option<i32> {
    run(site, args).status.code()
}

/// Changes one byte of a file, tries `seen`, and puts it right again.
fn changed(file: &Path, seen: impl Fn()) {
    let good = fs::read(file).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 3] ^= 1;
    fs::write(file, bad).unwrap();
    seen();
    fs::write(file, good).unwrap();
}

#[test]
fn every_change_of_role_is_on_record_and_what_it_achieved_is_signed() {
    let pair = Pair::with(Dials::Production, NO_BRAKE);
    let (production, recovery) = (&pair.production, &pair.recovery);
    pair.write("a/one", b"1");
    let (p, _r) = (production.start(), recovery.start());
    pair.point();
    // Refused, and on record.
    assert_eq!(code(recovery, &["switchover"]), Some(5));
    let of_recovery = json(recovery, &["audit", "show", "--last", "1"]);
    assert_eq!(of_recovery["records"][0]["kind"], "refused", "{of_recovery:#}");
    let nothing = tempfile::tempdir().unwrap();
    let nowhere = ["audit", "verify", "--state", text(nothing.path())];
    let nowhere = farshore(&nowhere);
    assert_eq!(nowhere.status.code(), Some(3), "{}", shown(&nowhere));

    let over = json(production, &["switchover"]);
    wait_phase(&pair, recovery, "active", true);
    // The other site knows the key that signed it.
    let there = report(&over, recovery);
    assert_eq!(there["signer"], "a key of 'production'", "{there:#}");
    let here = report(&over, production);
    assert_eq!(here["signer"], "this site's key");
    assert_eq!((&here["kind"], &here["rpo_ms"]), (&"switchover".into(), &0.into()));
    assert!(here["rto_ms"].as_u64().unwrap() > 0 && here["well"] == true, "{here:#}");
    assert!(here["point"]["sequence"].as_u64().unwrap() > 0, "{here:#}");
    assert!(kinds(&here).len() > 3, "{here:#}");
    let (first, uid) = (&here["records"][0], rustix::process::getuid().as_raw());
    let asked = first["text"].as_str().unwrap();
    assert_eq!(first["kind"], "asked", "{here:#}");
    assert!(asked.starts_with(&format!("switchover, by user {uid}")), "{asked}");
    let file = Path::new(over["report"].as_str().unwrap()).to_path_buf();
    let read = ["audit", "report", text(&file)];
    assert_eq!(code(production, &[&read[..], &["--key", &recovery.key]].concat()), Some(8));
    assert_eq!(code(recovery, &[&read[..], &["--key", &production.key]].concat()), Some(0));
    changed(&file, || assert_eq!(code(production, &read), Some(8)));
    assert_eq!(code(production, &read), Some(0));

    assert!(json(recovery, &["switchover"])["report"].is_string());
    wait_phase(&pair, production, "active", true);
    pair.write("a/two", b"2");
    pair.point();
    p.kill();
    pair.write("a/late", b"after the last point");
    let opened = json(recovery, &["failover", "--force", "--peer-is-off"]);
    let drill = report(&opened, recovery);
    assert_eq!(drill["kind"], "failover");
    assert_eq!(drill["point"]["sequence"], opened["point"]);
    assert!(drill["rpo_ms"].as_u64().unwrap() > 0 && drill["rto_ms"].is_u64(), "{drill:#}");
    let manifest = &drill["files"][0];
    let bytes = fs::read(manifest["path"].as_str().unwrap()).unwrap();
    assert_eq!(manifest["blake3"], blake3::hash(&bytes).to_hex().as_str());
    // Typed again it is the same failover.
    assert!(json(recovery, &["failover", "--force"])["report"].is_null());

    fs::write(recovery.tree.join("a/after"), b"at recovery").unwrap();
    let _p = production.start();
    wait_phase(&pair, production, "stranded", false);
    wait_phase(&pair, recovery, "alone", true);
    let (file, _) = plan(recovery);
    let applied = json(recovery, &["failback", "apply", "--plan", &file, "--accept-held"]);
    let drill = report(&applied, recovery);
    assert_eq!(drill["kind"], "failback");
    let files = drill["files"].as_array().unwrap();
    let names: Vec<&str> = files.iter().map(|file| file["what"].as_str().unwrap()).collect();
    let manifests = ["quarantine's manifest", "quarantine's manifest at the other site"];
    assert_eq!(names, ["plan", manifests[0], manifests[1]], "{drill:#}");
    assert!(kinds(&drill).contains(&"applied"), "{drill:#}");
    let all = json(recovery, &["audit", "show"]);
    let records = all["records"].as_array().unwrap();
    let planned = records.iter().filter(|record| record["kind"] == "planned");
    assert_eq!(planned.count(), 1, "{all:#}");
    let listed = json(recovery, &["audit", "report"]);
    assert_eq!(listed["reports"].as_array().unwrap().len(), 3, "{listed:#}");

    // Each chain is whole, as the other site has kept its end; a changed byte of it is named.
    for (site, other) in [(production, recovery), (recovery, production)] {
        let kept = json(other, &["audit", "verify"])["peer_head"].as_str().unwrap().to_owned();
        assert_eq!(code(site, &["audit", "verify", "--head", &kept]), Some(0), "{kept}");
        let chain = site.state.join("audit.log");
        changed(&chain, || assert_eq!(code(site, &["audit", "verify"]), Some(8)));
        let absurd = format!("999999:{}", "0".repeat(64));
        assert_eq!(code(site, &["audit", "verify", "--head", &absurd]), Some(8));
    }
    let unknown = farshore(&["audit", "report", "/nonexistent", "--state", text(&recovery.state)]);
    assert_eq!(unknown.status.code(), Some(3), "{}", shown(&unknown));
}

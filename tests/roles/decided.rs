//! On the way home policies are asked, then a person decides what they left; both can read and be read.

use std::collections::BTreeMap;
use std::fs;

use crate::common::{farshore, shown};
use crate::home::plan;
use crate::pair::{Dials, Pair, Site};
use crate::switch::{run, wait_phase};

/// Everything that is no journal is held by that policy.
const MERGES: &str = "account_depth = 1\nbrake = { entries = 1000000, percent = 100 }\n\
                      policies = [\"merge-journals\"]";

fn put(site: &Site, files: &[(&str, &str)]) {
    for (path, content) in files {
        let path = site.tree.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

fn decide(site: &Site, file: &str, args: &[&str]) -> std::process::Output {
    run(site, &[&["failback", "decide", "--plan", file][..], args].concat())
}

#[test]
fn what_policies_leave_a_person_decides() {
    let pair = Pair::with(Dials::Production, MERGES);
    let (production, recovery) = (&pair.production, &pair.recovery);
    let base =
        ["day.journal", "one.csv", "two.csv", "three.csv"].map(|name| format!("a/in/{name}"));
    put(production, &base.each_ref().map(|path| (path.as_str(), "0\n1\n")));
    let (p, _r) = (production.start(), recovery.start());
    pair.point();
    pair.equal("at the base");
    drop(p);
    put(
        production,
        &[
            ("a/in/day.journal", "0\n1\nproduction's line\n"),
            ("a/in/one.csv", "one of production"),
            ("a/in/two.csv", "two of production"),
            ("a/in/three.csv", "three of production"),
            ("a/in/orphan.csv", "never travelled"),
        ],
    );
    let opened = run(recovery, &["failover", "--force", "--peer-is-off"]);
    assert!(opened.status.success(), "{}", shown(&opened));
    put(
        recovery,
        &[
            ("a/in/day.journal", "0\n1\nrecovery's line\n"),
            ("a/in/one.csv", "one of recovery site"),
            ("a/in/two.csv", "two of recovery site"),
            ("a/in/three.csv", "three of recovery site"),
        ],
    );
    let _p = production.start();
    wait_phase(&pair, production, "stranded", false);
    wait_phase(&pair, recovery, "alone", true);
    let (file, rows) = plan(recovery);
    let outcome = |rows: &BTreeMap<String, serde_json::Value>, name: &str| {
        rows[&format!("a/in/{name}")]["outcome"].as_str().unwrap().to_owned()
    };
    assert_eq!(outcome(&rows, "day.journal"), "merge", "{:#}", rows["a/in/day.journal"]);
    let by = rows["a/in/day.journal"].to_string();
    assert!(by.contains("merge-journals"), "{by}");
    for name in ["one.csv", "two.csv", "three.csv"] {
        assert_eq!(outcome(&rows, name), "hold", "{:#}", rows[&format!("a/in/{name}")]);
    }
    // What cannot be meant is said, and changes nothing.
    for (args, code, says) in [
        (&["a/in/none.csv", "production"][..], 2, "no path of the plan"),
        (&["a/in/one.csv", "perhaps"], 2, "is no outcome"),
        (&["a/in/one.csv", "both"], 2, "--new-name"),
    ] {
        let out = decide(recovery, &file, args);
        assert_eq!(out.status.code(), Some(code), "{}", shown(&out));
        assert!(shown(&out).contains(says), "{}", shown(&out));
    }
    // A name that is taken is refused, and the path stays held.
    let taken = decide(recovery, &file, &["a/in/two.csv", "both", "--new-name", "a/in/three.csv"]);
    assert!(shown(&taken).contains("not free"), "{}", shown(&taken));
    let refused = run(recovery, &["failback", "apply", "--plan", &file]);
    assert_eq!(refused.status.code(), Some(5), "{}", shown(&refused));
    for args in [
        &["a/in/one.csv", "production", "--reason", "the customer says so"][..],
        &["a/in/two.csv", "both", "--new-name", "a/in/two-of-production.csv"],
        &["a/in/thr*.csv", "recovery"],
        &["a/in/orphan.csv", "production"],
    ] {
        let out = decide(recovery, &file, args);
        assert!(out.status.success(), "{args:?}: {}", shown(&out));
    }
    // A pattern that goes over what was decided one by one says so.
    for outcome in ["quarantine", "recovery"] {
        let out = decide(recovery, &file, &["a/in/thr*.csv", outcome]);
        let says = "of them 1 had another decision of a person before";
        assert!(shown(&out).contains(says), "{}", shown(&out));
    }
    let out = decide(recovery, &file, &["a/in/thr*.csv", "recovery"]);
    assert!(!shown(&out).contains("another decision"), "{}", shown(&out));
    let out = farshore(&["failback", "show", "--plan", &file]);
    assert!(shown(&out).contains("the customer says so"), "{}", shown(&out));
    let applied = run(recovery, &["failback", "apply", "--plan", &file]);
    assert!(applied.status.success(), "{}", shown(&applied));
    wait_phase(&pair, recovery, "active", true);
    wait_phase(&pair, production, "standby", false);
    for (path, content) in [
        ("a/in/day.journal", "0\n1\nproduction's line\nrecovery's line\n"),
        ("a/in/one.csv", "one of production"),
        ("a/in/two.csv", "two of recovery site"),
        ("a/in/two-of-production.csv", "two of production"),
        ("a/in/three.csv", "three of recovery site"),
        ("a/in/orphan.csv", "never travelled"),
    ] {
        let found = fs::read_to_string(recovery.tree.join(path));
        assert_eq!(found.ok().as_deref(), Some(content), "{path}");
    }
}

//! The decisions of `merge-journals`, natively.

use farshore_merge_journals::MergeJournals;
use farshore_wasm_sdk::testing::{Case, Configured};
use farshore_wasm_sdk::{Outcome, Piece, Site, Source, State, Timestamp};

fn policy<const N: usize>(settings: [(&str, &str); N]) -> Configured<MergeJournals> {
    Configured::new(settings, Timestamp::default()).expect("settings")
}

#[track_caller]
fn assert_held(case: Case, rule: &str, reason: &str) {
    let policy = policy([]);
    let decided = policy.decide(&case);
    assert_eq!(decided.decision.outcome, Outcome::Hold);
    assert_eq!(decided.rule, Some(rule));
    assert!(decided.decision.reason.contains(reason), "{}", decided.decision.reason);
}

#[test]
fn both_sites_lines_are_kept() {
    let case = Case::new("var/app.log")
        .base("one\n")
        .production("one\nlost\n")
        .recovery("one\nfound\nlost\n");
    let policy = policy([]);
    let decided = policy.decide(&case);
    assert_eq!(decided.merged.as_deref(), Some(&b"one\nlost\nfound\nlost\n"[..]));
    assert_eq!(decided.rule, Some("log merged"));
    let Outcome::Merge { attributes, pieces } = decided.decision.outcome else {
        panic!("no merge")
    };
    assert_eq!(attributes, Site::Recovery);
    let spans = [(Source::Production, 0, 9), (Source::Recovery, 4, 11)];
    let copy = |(source, offset, length)| Piece::Copy { source, offset, length };
    assert_eq!(pieces, spans.map(copy), "a recipe, not the bytes");
}

#[test]
fn journals_of_the_day_of_the_failover_are_merged_by_time() {
    let case = Case::new("a/2026-11-26.journal")
        .production("2026-11-26T10:00:00Z p\n2026-11-26T10:09:00Z p\n")
        .recovery("2026-11-26T10:05:00Z r\n");
    let policy = policy([("order", "by-time"), ("attributes", "production")]);
    let merged = policy.decide(&case).merged.expect("merged");
    let expected = b"2026-11-26T10:00:00Z p\n2026-11-26T10:05:00Z r\n2026-11-26T10:09:00Z p\n";
    assert_eq!(merged, expected);
}

#[test]
fn anything_else_is_held() {
    let log = Case::new("a.log").base("one\n");
    assert_held(Case::new("a.pay").production("x").recovery("y"), "no log", "name");
    let not = "log that is not merged";
    assert_held(log.clone().production("ONE\n2\n").recovery("one\n3\n"), not, "changed what was");
    assert_held(log.clone().production("").recovery("one\n3\n"), not, "shorter");
    assert_held(log.clone().production("one\n2\n").recovery_deleted(), not, "both append");
    assert_held(log.clone().production("one\n2\n").recovery("one\n3\n").unreadable(), not, "read");
    let tight = log.clone().production("one\n2\n").recovery("one\n3\n").budget(5);
    assert_held(tight, not, "over the read budget, 1 bytes are left");

    let moved = log.production("one\n2\n").recovery("one\n3\n");
    let State::Present(mut version) = moved.conflict().recovery else { panic!("a file") };
    version.entry.path = b"b.log".to_vec();
    assert_held(moved.state(Source::Recovery, State::Present(version)), not, "renamed");
}

#[test]
fn settings_are_checked() {
    for settings in [("order", "random"), ("logs", "a//b"), ("attributes", "both"), ("x", "1")] {
        assert!(Configured::<MergeJournals>::new([settings], Timestamp::default()).is_err());
    }
}

//! Sandboxed policies, by guests written by hand: what they may do, what they cannot, and what becomes
//! of a path when they fail.

#[path = "common/mod.rs"]
mod common;

use common::{AT, Guest, candidate, path};
use farshore_core::path::RelPath;
use farshore_core::policy::{Action, Policy, PolicyId, Verdict};
use farshore_policies::{Configured, Host, Limits, OnFault, Policies, RuleSet};

fn host() -> Host {
    Host::new(None).expect("a host")
}

fn ask(configured: &Configured, paths: &[&str]) -> Vec<Verdict> {
    let paths: Vec<RelPath> = paths.iter().map(|p| path(p)).collect();
    let candidates: Vec<_> = paths.iter().map(candidate).collect();
    configured.exclude(&candidates)
}

const EXCLUDED: Verdict = Verdict::by_rule(Action::Exclude, 0);
const DEFERRED: Verdict = Verdict::by_rule(Action::Defer, 1);

#[test]
fn a_policy_is_loaded_configured_and_asked() {
    let host = host();
    let bytes = Guest::default().build();
    let component = host.load(&bytes, &Limits::default()).expect("a policy");
    assert_eq!(component.id(), PolicyId::of(&bytes));
    assert!(component.hooks().exclude && !component.hooks().resolve);
    assert_eq!(component.world(), "1.0.0");
    assert_eq!(component.imports(), ["farshore:policy/log@1.0.0", "farshore:policy/types@1.0.0"]);
    let limits = Limits::default();
    let configured =
        component.configure("guest", &[], limits, OnFault::Replicate, AT).expect("configured");
    assert_eq!(configured.manifest().name, "guest");
    assert_eq!(configured.manifest().version, "1.0.0");
    assert_eq!(configured.manifest().rules, ["one", "two"]);
    let verdicts = ask(&configured, &["a", "bx", "c/d", "caf\u{e9}/x"]);
    assert_eq!(verdicts, [Verdict::REPLICATE, EXCLUDED, DEFERRED, EXCLUDED]);
    assert_eq!(configured.take_faults().count, 0);
    assert_eq!(configured.counters().instances, 1);
}

#[test]
fn a_path_at_fault_is_found_and_the_others_get_their_verdicts() {
    let host = host();
    for (mood, what) in [
        ("!", "stopped: wasm `unreachable` instruction executed"),
        ("@", "ran out of fuel"),
        ("#", "wanted more memory than it may have"),
        ("^", "stopped: call stack exhausted"),
        ("$", "rule 2 of 2, counted from 0"),
        ("%", "0 verdicts for 1 entries"),
        ("&", "(told to\\u{1b}[31m stop)"),
    ] {
        let configured = Guest::default().configured(&host);
        let bad = format!("{mood}bx");
        let mut paths = vec!["ax"; 700];
        paths[300] = &bad;
        let verdicts = ask(&configured, &paths);
        for (index, verdict) in verdicts.into_iter().enumerate() {
            let wanted = if index == 300 { Verdict::FAULT } else { EXCLUDED };
            assert_eq!(verdict, wanted, "{mood} {index}");
        }
        let faults = configured.take_faults();
        assert_eq!(faults.count, 1);
        assert!(!faults.hold);
        assert_eq!(faults.first[0].path, path(&bad));
        let text = &faults.first[0].text;
        assert!(text.starts_with("policy guest ") && text.contains(what), "{text}");
        assert_eq!(configured.take_faults().count, 0, "they were taken");
        assert_eq!(ask(&configured, &["bx"]), [EXCLUDED], "it goes on");
    }
}

#[test]
fn the_rules_and_several_policies_are_one() {
    let host = host();
    let mut rules = RuleSet::builder(AT);
    rules.without_defaults();
    rules.push(Action::Exclude, b"*.o").expect("a rule");
    rules.push(Action::Replicate, b"keep*").expect("a rule");
    let component = host.load(&Guest::default().build(), &Limits::default()).expect("a policy");
    let limits = Limits::default();
    let named = |name: &str, on_fault| component.configure(name, &[], limits, on_fault, AT);
    let first = named("first", OnFault::Replicate).expect("configured");
    let second = named("second", OnFault::Hold).expect("configured");
    let all = Policies::new(rules.build(), vec![first, second]).expect("a chain");
    let rules = [
        "- /.farshore",
        "- *.o",
        "+ keep*",
        "first: one",
        "first: two",
        "second: one",
        "second: two",
    ];
    assert_eq!(all.rules(), rules);
    let paths = ["a.o", "keepx", "bx", "c", "!x", "cd", "x.o"].map(path);
    let candidates: Vec<_> = paths.iter().map(candidate).collect();
    let verdicts = all.exclude(&candidates);
    let wanted = [
        Verdict::by_rule(Action::Exclude, 1),
        Verdict::by_rule(Action::Replicate, 2),
        Verdict::by_rule(Action::Exclude, 3),
        Verdict::REPLICATE,
        Verdict::FAULT,
        Verdict::by_rule(Action::Defer, 4),
        Verdict::by_rule(Action::Exclude, 1),
    ];
    assert_eq!(verdicts, wanted);
    let faults = all.take_faults();
    assert_eq!((faults.count, faults.hold), (1, false), "the second was not asked");
    let identity = all.identity();
    let names: Vec<_> = identity.policies.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["first", "second"]);
    assert_ne!(identity.policies[0].limits, identity.policies[1].limits);
    // The second is asked what the first left open, and its faults hold the cut.
    let first = named("first", OnFault::Replicate).expect("configured");
    let again = Policies::new(RuleSet::builder(AT).build(), vec![first]).expect("a chain");
    assert_ne!(again.identity(), identity);
    let twice = vec![named("a", OnFault::Hold).expect("a"), named("a", OnFault::Hold).expect("a")];
    let error = Policies::new(RuleSet::builder(AT).build(), twice).expect_err("one name");
    assert_eq!(error.to_string(), "two policies named a: give one another name");
}

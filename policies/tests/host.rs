//! Sandboxed policies, by guests written by hand: what they may do, what they cannot, and what becomes
//! of a path when they fail.

#[path = "common/mod.rs"]
mod common;

use common::{AT, Guest, candidate, path};
use farshore_core::entry::{EntryKind, Timestamp};
use farshore_core::path::RelPath;
use farshore_core::policy::{Action, Candidate, Policy, PolicyId, Verdict};
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
        ("%", "0 verdicts for 1 entry"),
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
        assert_eq!(faults.hold, None);
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
    assert_eq!((faults.count, faults.hold), (1, None), "the second was not asked");
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

/// The batch is written by hand: each fact is where the interface has it, in each record.
#[test]
fn every_fact_reaches_a_policy_in_its_place() {
    let wrong = |what: &str| format!("(if {what} (then unreachable))\n");
    let verdict: String = [
        "(i32.ne (i32.load8_u offset=8 (local.get $entry)) (i32.const 6))",
        "(i64.ne (i64.load offset=16 (local.get $entry)) (i64.const 0x1122334455667788))",
        "(i64.ne (i64.load offset=24 (local.get $entry)) (i64.const -5))",
        "(i32.ne (i32.load offset=32 (local.get $entry)) (i32.const 999999999))",
        "(i32.ne (i32.load offset=40 (local.get $entry)) (i32.const 0x7a4))",
        // The owner is the length of the path, the group its last byte.
        "(i32.ne (i32.load offset=44 (local.get $entry)) (i32.load offset=4 (local.get $entry)))",
        "(i32.ne (i32.load offset=48 (local.get $entry)) (local.get $last))",
    ]
    .map(wrong)
    .concat();
    let guest =
        Guest { verdict: format!("{verdict}{}", Guest::default().verdict), ..Guest::default() };
    let configured = guest.configured(&host());
    let paths = ["bx", "c/long/path/x", "d", "ax"].map(path);
    let facts = |path| {
        let length = RelPath::as_bytes(path).len();
        Candidate {
            kind: EntryKind::BlockDevice,
            size: 0x1122_3344_5566_7788,
            mtime: Timestamp { seconds: -5, nanos: 999_999_999 },
            mode: 0o63644,
            uid: u32::try_from(length).expect("short"),
            gid: u32::from(path.as_bytes()[length - 1]),
            ..candidate(path)
        }
    };
    let candidates = paths.each_ref().map(facts);
    assert_eq!(configured.exclude(&candidates), [EXCLUDED, EXCLUDED, DEFERRED, EXCLUDED]);
    assert_eq!(configured.take_faults().count, 0);
    let other = [Candidate { mode: 0o644, ..candidates[0] }];
    assert_eq!(configured.exclude(&other), [Verdict::FAULT]);
}

#[test]
fn a_policy_that_fails_too_often_is_off_and_costs_nothing_more() {
    let configured = Guest::default().configured(&host());
    let paths: Vec<String> = (0..1_000).map(|n| format!("!{n}")).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    assert_eq!(ask(&configured, &paths), vec![Verdict::FAULT; 1_000]);
    let counters = configured.counters();
    assert_eq!((counters.faults, counters.is_off), (16, true));
    assert_eq!(ask(&configured, &["bx"]), [Verdict::FAULT], "not asked any more");
    assert_eq!(configured.counters().calls, counters.calls);
    let faults = configured.take_faults();
    assert_eq!(faults.count, 1_001);
    // What was not asked is one fault with a count, not a thousand.
    assert_eq!(faults.first.len(), 17);
    let last = &faults.first[16].text;
    assert!(last.starts_with("policy guest is off after its faults, the first at !"), "{last}");
    assert!(last.contains(": it stopped: "), "{last}");
    assert!(last.ends_with("985 times in all"), "{last}");
    assert_eq!(configured.take_faults().count, 0);
}

/// A run may walk its tree twice, and meets what fails there again.
#[test]
fn a_path_that_fails_again_does_not_bring_the_policy_nearer_to_its_end() {
    let configured = Guest::default().configured(&host());
    let paths: Vec<String> = (0..15).map(|n| format!("!{n}")).collect();
    let mut paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    paths.push("bx");
    for _ in 0..3 {
        let verdicts = ask(&configured, &paths);
        assert_eq!(verdicts[..15], [Verdict::FAULT; 15]);
        assert!(!verdicts[15].is_fault, "it is still asked");
        assert_eq!(configured.take_faults().count, 15, "each walk hears of all");
    }
    assert_eq!((configured.counters().faults, configured.counters().is_off), (15, false));
}

/// Instances that succeed where others failed are not kept without end.
#[test]
fn a_policy_that_always_runs_out_of_fuel_keeps_few_instances() {
    let host = host();
    let limits = Limits { fuel_call: 1_000, fuel_entry: 0, ..Limits::default() };
    let configured = Guest::default().with_limits(&host, limits);
    let paths: Vec<String> = (0..4_000).map(|n| format!("b{n}")).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let verdicts = ask(&configured, &paths);
    assert!(verdicts.iter().all(|verdict| !verdict.is_fault), "slow, and right");
    let counters = configured.counters();
    assert!(counters.instances > 100, "{counters:?}");
    assert!(configured.idle_instances() <= 8, "{}", configured.idle_instances());
}

#[test]
fn the_clock_is_an_alarm_asked_twice_and_never_halved() {
    let host = host();
    let guest = Guest { verdict: "(loop $l (br $l))".to_owned(), ..Guest::default() };
    let limits = Limits {
        fuel_call: 1_000_000_000,
        fuel_entry: 10_000_000,
        watchdog_millis: 100,
        ..Limits::default()
    };
    let configured = guest.with_limits(&host, limits);
    assert_eq!(ask(&configured, &["a"; 300]), [Verdict::FAULT; 300]);
    let counters = configured.counters();
    // The first instance, a fresh one, and once more.
    assert_eq!((counters.calls, counters.faults, counters.is_off), (3, 1, true));
    assert!(configured.take_faults().first[0].text.contains("took too long by the clock"));
}

#[test]
fn a_fault_holds_the_cut_where_the_site_says_so() {
    let host = host();
    let component = host.load(&Guest::default().build(), &Limits::default()).expect("a policy");
    let configured = component
        .configure("guest", &[], Limits::default(), OnFault::Hold, AT)
        .expect("configured");
    assert_eq!(ask(&configured, &["a", "!"]), [Verdict::REPLICATE, Verdict::FAULT]);
    let held = configured.take_faults().hold.expect("to be held");
    assert_eq!((held.count, held.first.path), (1, path("!")));
    assert_eq!(configured.take_faults().hold, None, "no fault, no hold");
}

#[test]
fn memory_that_is_never_given_back_costs_an_instance_not_a_path() {
    let host = host();
    let guest = Guest { after: String::new(), ..Guest::default() };
    let limits = Limits { memory_bytes: 1 << 20, ..Limits::default() };
    let configured = guest.with_limits(&host, limits);
    let paths = vec!["ax"; 256];
    for _ in 0..200 {
        assert_eq!(ask(&configured, &paths), vec![EXCLUDED; 256]);
    }
    let counters = configured.counters();
    assert!(counters.instances > 5, "{counters:?}");
    assert_eq!(counters.faults, 0);
}

#[test]
fn an_entry_dearer_than_its_share_is_answered_alone() {
    let host = host();
    let dear = "(local.set $i (i32.const 9000)) (loop $l
        (br_if $l (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
        (i32.store8 (local.get $out) (i32.const 1))";
    let guest = Guest { verdict: dear.to_owned(), ..Guest::default() };
    let configured = guest.configured(&host);
    let answer = Verdict { action: Action::Exclude, rule: None, is_fault: false };
    assert_eq!(ask(&configured, &["a"; 256]), [answer; 256]);
    let counters = configured.counters();
    assert!(counters.retries > 0, "the batch ran out of fuel: {counters:?}");
    assert_eq!(counters.faults, 0);
}

#[test]
fn a_log_is_cut_counted_and_on_one_line() {
    let host = host();
    let flood = Guest::default().configured(&host);
    assert_eq!(ask(&flood, &["~x", "b"]), [EXCLUDED, Verdict::REPLICATE]);
    let (lines, dropped) = flood.take_log();
    let usual = Limits::default();
    assert!(lines.len() as u64 >= u64::from(usual.log_lines));
    assert!(lines.len() as u64 + dropped >= 1_000);
    assert!(lines.iter().all(|line| !line.text.chars().any(char::is_control)));
    assert!(flood.take_log().0.is_empty(), "taken");
    // It is kept within bounds when nobody takes it.
    for _ in 0..50 {
        ask(&flood, &["~x"]);
    }
    let (lines, dropped) = flood.take_log();
    assert_eq!(lines.len(), 1_000);
    assert!(dropped > 10_000);
    let panicked = Guest::default().configured(&host);
    ask(&panicked, &["&"]);
    assert_eq!(panicked.take_log().0[0].text, "told to\\u{1b}[31m stop");
}

#[test]
fn host_calls_cost_fuel() {
    let host = host();
    let verdict = "(loop $l (call $log (i32.const 0) (i32.const 16) (i32.const 1)) (br $l))";
    let guest = Guest { verdict: verdict.to_owned(), ..Guest::default() };
    let configured = guest.configured(&host);
    assert_eq!(ask(&configured, &["a"]), [Verdict::FAULT]);
    let (lines, dropped) = configured.take_log();
    let calls = lines.len() as u64 + dropped;
    // Asked twice, of the first instance and of a fresh one.
    assert!(calls < 2 * Limits::default().fuel_of(1) / 200, "{calls} lines");
    assert!(configured.take_faults().first[0].text.contains("out of fuel"));
}

#[test]
fn the_root_is_never_asked_about() {
    let configured = Guest { verdict: "unreachable".to_owned(), ..Guest::default() };
    let configured = configured.configured(&host());
    let verdicts = ask(&configured, &["", "a", "", ""]);
    let replicate = Verdict::REPLICATE;
    assert_eq!(verdicts, [replicate, Verdict::FAULT, replicate, replicate]);
    assert!(ask(&configured, &[]).is_empty());
}

#[test]
fn a_policy_without_the_hook_has_no_opinion() {
    let resolve = "(i32.store8 (i32.const 1200) (i32.const 5))";
    let guest = Guest { world: "conflict-policy", ..Guest::resolving(resolve) };
    let configured = guest.configured(&host());
    assert!(configured.has_resolve() && !configured.has_exclude());
    assert_eq!(ask(&configured, &["!x"]), [Verdict::REPLICATE]);
    assert_eq!(configured.counters().calls, 0);
}

#[test]
fn settings_the_time_and_nothing_else_reach_a_policy() {
    let host = host();
    // The rules' first name is the first setting's key; the second's length says the seconds' parity.
    let configure = "(call $list_at (i32.const 1060)
        (i32.load (local.get $settings)) (i32.load offset=4 (local.get $settings)))
        (call $list_at (i32.const 1068) (i32.const 29) (i32.add (i32.const 1)
          (i32.wrap_i64 (i64.and (local.get $seconds) (i64.const 1)))))";
    let guest = Guest { configure: configure.to_owned(), ..Guest::default() };
    let component = host.load(&guest.build(), &Limits::default()).expect("a policy");
    let settings = |key: &str| vec![(key.to_owned(), "v".to_owned())];
    let limits = Limits::default();
    let with = |key: &str, at| component.configure("p", &settings(key), limits, OnFault::Hold, at);
    let even = with("first", AT).expect("configured");
    assert_eq!(even.manifest().rules, ["first", "t"]);
    let mut later = AT;
    later.seconds += 1;
    let odd = with("first", later).expect("configured");
    assert_eq!(odd.manifest().rules, ["first", "tw"]);
    assert_eq!(odd.identity(), even.identity(), "the time is the cut's own");
    assert_ne!(with("other", AT).expect("configured").identity(), even.identity());
}

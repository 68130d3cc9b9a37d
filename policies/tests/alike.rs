//! The same decisions at both sites: on any batch, in any order, after any fault, from any thread.

#[path = "common/mod.rs"]
mod common;

use std::sync::{Arc, OnceLock};

use common::{AT, Guest, candidate, path};
use farshore_core::conflict::{
    Class, Conflict, ContentError, Contents, Decision, Outcome, Side, State, Version,
};
use farshore_core::entry::EntryKind;
use farshore_core::path::RelPath;
use farshore_core::policy::{Action, Verdict};
use farshore_policies::{Component, Configured, Host, Limits, OnFault, Resolution};
use proptest::prelude::*;

/// The policy at two sites; each compiled it for itself.
fn sites() -> &'static [Component; 2] {
    static SITES: OnceLock<[Component; 2]> = OnceLock::new();
    SITES.get_or_init(|| {
        let bytes = Guest::default().build();
        [0, 1].map(|_| {
            let host = Host::new(None).expect("a host");
            host.load(&bytes, &Limits::default()).expect("a policy")
        })
    })
}

fn configured(site: usize) -> Configured {
    sites()[site]
        .configure("guest", &[], Limits::default(), OnFault::Replicate, AT)
        .expect("configured")
}

/// What the usual guest says of a path, alone.
fn expected(path: &RelPath) -> Verdict {
    let bytes = path.as_bytes();
    match (bytes[0], bytes[bytes.len() - 1]) {
        (b'!' | b'@' | b'#' | b'^' | b'%' | b'$' | b'&', _) => Verdict::FAULT,
        (_, b'x') => Verdict::by_rule(Action::Exclude, 0),
        (_, b'd') => Verdict::by_rule(Action::Defer, 1),
        _ => Verdict::REPLICATE,
    }
}

fn verdicts(configured: &Configured, paths: &[RelPath]) -> Vec<Verdict> {
    let candidates: Vec<_> = paths.iter().map(candidate).collect();
    configured.exclude(&candidates)
}

/// Paths, at most fifteen of which the policy fails at: with the sixteenth it is off.
fn paths() -> impl Strategy<Value = Vec<RelPath>> {
    let good = prop::collection::vec("[a-z]{1,9}[xdk]", 0..600);
    let loud = prop::collection::vec("~[a-z]{0,9}[xdk]", 0..3);
    let bad = prop::collection::vec("[!@#^%$&][a-z]{0,9}[xdk]", 0..16);
    (good, loud, bad)
        .prop_map(|(good, loud, bad)| {
            let all = good.iter().chain(&loud).chain(&bad);
            all.map(|p| path(p)).collect::<Vec<_>>()
        })
        .prop_shuffle()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn a_verdict_is_of_the_path_alone(
        paths in paths(),
        cuts in prop::collection::vec(1usize..300, 1..8),
    ) {
        let wanted: Vec<_> = paths.iter().map(expected).collect();
        // At one site all at once, and at the other in pieces, backwards, from three threads.
        let first = configured(0);
        prop_assert_eq!(verdicts(&first, &paths), wanted.clone());
        let faults = wanted.iter().filter(|v| v.is_fault).count() as u64;
        prop_assert_eq!(first.take_faults().count, faults);

        let second = configured(1);
        let mut pieces = Vec::new();
        let mut rest = &paths[..];
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at(rest.len().min(*cut));
            pieces.push(piece);
            rest = after;
        }
        let answers = std::thread::scope(|scope| {
            let (second, pieces) = (&second, &pieces);
            let threads: Vec<_> = (0..3)
                .map(|thread| {
                    scope.spawn(move || {
                        let mine = (0..pieces.len()).rev().filter(|n| n % 3 == thread);
                        mine.map(|n| (n, verdicts(second, pieces[n]))).collect::<Vec<_>>()
                    })
                })
                .collect();
            let mut all: Vec<_> =
                threads.into_iter().flat_map(|t| t.join().expect("no panic")).collect();
            all.sort_by_key(|(n, _)| *n);
            all.into_iter().flat_map(|(_, verdicts)| verdicts).collect::<Vec<_>>()
        });
        prop_assert_eq!(answers, wanted);
        prop_assert_eq!(second.take_faults().count, faults);
        prop_assert_eq!(first.identity(), second.identity());
    }
}

/// Contents whose reads are slow.
struct Slow;

impl Contents for Slow {
    fn read(&self, _: Side, _: u64, length: u32) -> Result<Vec<u8>, ContentError> {
        std::thread::sleep(std::time::Duration::from_millis(150));
        Ok(vec![0; usize::try_from(length).expect("it fits")])
    }
}

/// Contents of zeros.
struct Zeros;

impl Contents for Zeros {
    fn read(&self, _: Side, _: u64, length: u32) -> Result<Vec<u8>, ContentError> {
        Ok(vec![0; usize::try_from(length).expect("it fits")])
    }
}

fn conflict(name: &str) -> Conflict {
    let version = State::Present(Version {
        path: path(name),
        kind: EntryKind::File,
        size: 10,
        mtime: AT,
        mode: 0o640,
        uid: 1,
        gid: 1,
        digest: None,
        link_target: None,
        renamed_from: Some(path("former")),
    });
    Conflict {
        path: path(name),
        class: Class::ModifyModify,
        base: State::Absent,
        production: version.clone(),
        recovery: version,
    }
}

/// Keeps what its path's first byte says, counts its calls in the rule, and traps at "!".
const COUNTING: &str = "
    (local.set $i (i32.load8_u (i32.load (local.get $args))))
    (if (i32.eq (local.get $i) (i32.const 33)) (then unreachable))
    (i32.store8 (i32.const 1200) (i32.eq (local.get $i) (i32.const 114)))
    (global.set $short (i32.add (global.get $short) (i32.const 1)))
    (i32.store8 (i32.const 1216) (i32.const 1))
    (i32.store (i32.const 1220) (i32.sub (global.get $short) (i32.const 1)))
    (call $list_at (i32.const 1224) (i32.const 32) (i32.const 17))";

#[test]
fn a_decision_is_of_the_conflict_alone() {
    let host = Host::new(None).expect("a host");
    let configured = Guest::resolving(COUNTING).configured(&host);
    let contents: Arc<dyn Contents> = Arc::new(Zeros);
    let ask = |name: &str| configured.resolve(&conflict(name), &contents, &|_| true);
    let decided = |site| {
        let reason = "told to\\u{1b}[31m stop".to_owned();
        // Rule 0 each time: no call knows of another.
        Resolution::Decided(Decision { outcome: Outcome::Keep(site), rule: Some(0), reason })
    };
    use farshore_core::conflict::Site::{Production, Recovery};
    for _ in 0..3 {
        assert_eq!(ask("p"), decided(Production));
        assert_eq!(ask("r"), decided(Recovery));
        let held = ask("!");
        assert_eq!(*held.outcome(), Outcome::Hold);
        assert!(held.reason().starts_with("policy guest stopped"), "{held:?}");
    }
    assert_eq!(configured.take_faults().count, 3);
    for n in 0..15 {
        ask(&format!("!{n}"));
    }
    assert_eq!(ask("p").reason(), "policy guest is off after its faults");
}

#[test]
fn a_site_that_takes_too_long_to_read_holds_the_path() {
    let host = Host::new(None).expect("a host");
    let reading = "(call $read (i32.load offset=328 (local.get $args)) (i32.const 1) (i64.const 0)
        (i32.const 8) (i32.const 1304)) (i32.store8 (i32.const 1200) (i32.const 0))";
    let limits = Limits { watchdog_millis: 100, ..Limits::default() };
    let configured = Guest::resolving(reading).with_limits(&host, limits);
    let slow: Arc<dyn Contents> = Arc::new(Slow);
    let answer = configured.resolve(&conflict("p"), &slow, &|_| true);
    assert_eq!(answer.reason(), "policy guest took too long by the clock");
    let quick: Arc<dyn Contents> = Arc::new(Zeros);
    let answer = configured.resolve(&conflict("p"), &quick, &|_| true);
    assert!(matches!(answer, Resolution::Decided(_)), "{answer:?}");
}

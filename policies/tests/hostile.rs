//! Components and settings that mean no good: each is refused before it runs, or fails for the paths
//! it was asked about and for nothing else. After each the host answers as before.
//!
//! `cargo test -p farshore-policies --test hostile -- --ignored --nocapture` prints how long each took
//! and what the process' memory came to.

#[path = "hostile/bytes.rs"]
mod bytes;
#[path = "common/mod.rs"]
mod common;
#[path = "hostile/conflicts.rs"]
mod conflicts;
#[path = "hostile/guests.rs"]
mod guests;

use std::error::Error;
use std::time::{Duration, Instant};

use common::{AT, Guest, candidate, path};
use conflicts::{Bytes, conflict};
use farshore_core::policy::{Action, Verdict};
use farshore_policies::{Configured, Host, Limits, OnFault, Resolution};

/// What becomes of a case; the text is in the message.
#[derive(Clone, Copy)]
enum Expect {
    /// It is not loaded.
    Refused(&'static str),
    /// It is loaded and not configured.
    Unusable(&'static str),
    /// Every path it is asked about is a fault.
    Fault(&'static str),
    /// The path that begins with this is a fault, the others have their verdicts.
    FaultAt(&'static str, &'static str),
    /// The conflict is held.
    Held(&'static str),
    /// It is harmless after all: it answers.
    Harmless,
}

/// A component, how it is configured, and what becomes of it.
struct Case {
    what: String,
    bytes: Vec<u8>,
    name: String,
    settings: Vec<(String, String)>,
    limits: Limits,
    expect: Expect,
}

impl Case {
    fn new(what: &str, bytes: Vec<u8>, expect: Expect) -> Self {
        let (name, settings, limits) = ("guest".to_owned(), Vec::new(), Limits::default());
        Self { what: what.to_owned(), bytes, name, settings, limits, expect }
    }

    fn guest(what: &str, guest: Guest, expect: Expect) -> Self {
        Self::new(what, guest.build(), expect)
    }
}

fn all() -> Vec<Case> {
    let mut all = bytes::cases();
    all.extend(guests::cases());
    all.extend(conflicts::cases());
    all
}

/// What was said of a case, and whether that is what becomes of it.
fn play(host: &Host, case: &Case) -> (String, bool) {
    let chain = |error: &dyn Error| {
        let mut text = error.to_string();
        let mut next = error.source();
        while let Some(source) = next {
            text = format!("{text}: {source}");
            next = source.source();
        }
        text
    };
    let component = match host.load(&case.bytes, &case.limits) {
        Ok(component) => component,
        Err(error) => {
            let text = chain(&error);
            let is_meant = matches!(case.expect, Expect::Refused(part) if text.contains(part));
            return (text, is_meant);
        }
    };
    let on_fault = OnFault::Replicate;
    let configured =
        match component.configure(&case.name, &case.settings, case.limits, on_fault, AT) {
            Ok(configured) => configured,
            Err(error) => {
                let text = chain(&error);
                let is_meant = matches!(case.expect, Expect::Unusable(part) if text.contains(part));
                return (text, is_meant);
            }
        };
    match case.expect {
        Expect::Refused(_) | Expect::Unusable(_) => ("it was configured".to_owned(), false),
        Expect::Held(part) => {
            match configured.resolve(&conflict(), &Bytes::contents(), &|p| p != &path("taken")) {
                Resolution::Fault(text) => {
                    let is_meant = text.contains(part);
                    (text, is_meant)
                }
                Resolution::Decided(decision) => (format!("{decision:?}"), false),
            }
        }
        Expect::Harmless if configured.has_resolve() => {
            let contents = Bytes::contents();
            let answer = configured.resolve(&conflict(), &contents, &|_| true);
            (format!("{answer:?}"), matches!(answer, Resolution::Decided(_)))
        }
        Expect::Harmless => (String::new(), exclude(&configured, "~") == [false; 3]),
        Expect::Fault(part) => {
            let faults = exclude(&configured, "~");
            let text = said(&configured);
            let is_meant = faults == [true; 3] && text.contains(part);
            (text, is_meant)
        }
        Expect::FaultAt(first, part) => {
            let faults = exclude(&configured, first);
            let text = said(&configured);
            let is_meant = faults == [false, true, false] && text.contains(part);
            (text, is_meant)
        }
    }
}

/// Of three paths, the second with that beginning, which are faults; the others have their verdicts.
fn exclude(configured: &Configured, first: &str) -> Vec<bool> {
    let paths = [path("ax"), path(&format!("{first}bx")), path("cx")];
    let candidates = paths.each_ref().map(candidate);
    let verdicts = configured.exclude(&candidates);
    let answer = Verdict::by_rule(Action::Exclude, 0);
    assert!(verdicts.iter().all(|v| *v == answer || *v == Verdict::FAULT), "{verdicts:?}");
    verdicts.iter().map(|v| v.is_fault).collect()
}

fn said(configured: &Configured) -> String {
    configured.take_faults().first.into_iter().map(|f| f.text).collect::<Vec<_>>().join("; ")
}

#[test]
fn every_case_is_contained() {
    let host = Host::new(None).expect("a host");
    let bystander = Guest::default().configured(&host);
    let cases = all();
    let claimed = include_str!("../../docs/testing.md")
        .split_once(" hostile components and settings are contained")
        .and_then(|(before, _)| before.rsplit(' ').next())
        .and_then(|number| number.parse::<usize>().ok())
        .expect("docs/testing.md says how many there are");
    assert!(cases.len() >= claimed, "{} cases, docs/testing.md says {claimed}", cases.len());
    for case in &cases {
        let (said, is_meant) = play(&host, case);
        assert!(is_meant, "{}: {said}", case.what);
        assert!(!said.chars().any(char::is_control), "{}: {said:?}", case.what);
        assert!(said.len() < 4_096, "{}: {} bytes", case.what, said.len());
        assert_eq!(exclude(&bystander, "b"), [false; 3], "{}: the host lives", case.what);
    }
    assert_eq!(bystander.counters().instances, 1, "nothing happened to it");
}

/// By name: a failure must say which it was.
#[test]
fn no_two_cases_have_the_same_name() {
    let cases = all();
    let mut names: Vec<_> = cases.iter().map(|case| &case.what).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), cases.len());
}

#[test]
#[ignore = "prints figures"]
#[allow(clippy::print_stdout)]
fn figures() {
    let host = Host::new(None).expect("a host");
    let cases = all();
    let mut longest = Duration::ZERO;
    for case in &cases {
        let started = Instant::now();
        let (said, is_meant) = play(&host, case);
        let took = started.elapsed();
        longest = longest.max(took);
        let shown: String = said.chars().take(110).collect();
        println!("{:>9.1?} {} {}: {shown}", took, if is_meant { "ok " } else { "BAD" }, case.what);
    }
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    println!("{} cases, the longest {longest:.1?}, {peak}", cases.len());
}

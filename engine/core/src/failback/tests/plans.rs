//! The file of a plan, and its reports.

use proptest::prelude::*;

use super::super::plan::*;
use super::super::render;
use super::super::*;
use super::path;
use super::properties::{answer, any_sites};
use crate::digest::RootDigest;
use crate::entry::Metadata;
use crate::recovery_point::Epoch;

pub(super) fn header() -> Header {
    Header {
        pair: [1; 16],
        production: [2; 16],
        recovery: [3; 16],
        share: "homes".to_owned(),
        epoch: Epoch(4),
        base: Some(BasePoint {
            sequence: 9,
            root: RootDigest([5; 32]),
            batch: 77,
            time_unix_ms: 1_700_000_000_123,
        }),
        policies: [[6; 32], [7; 32]],
        resolvers: vec!["merge-journals".to_owned()],
        made_unix_ms: 1_700_000_100_000,
        lists: [ListDigest([8; 32]), ListDigest([9; 32])],
    }
}

use super::super::list::ListDigest;

pub(super) fn written(plan: &[Divergence], revision: u32) -> Vec<u8> {
    let mut writer = PlanWriter::new(Vec::new(), &header(), revision).expect("memory");
    plan.iter().for_each(|d| writer.push(d).expect("memory"));
    writer.finish().expect("memory").0
}

pub(super) fn read(bytes: &[u8]) -> Result<Vec<Divergence>, ListError> {
    PlanReader::new(bytes)?.collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, ..ProptestConfig::with_cases(256)
    })]

    #[test]
    fn plans_round_trip_and_no_other_bytes_are_a_plan(
        sites in any_sites(), seed: u64, at: prop::sample::Index, bit in 0u8..8,
    ) {
        let plan = sites.plan(&answer(seed));
        let bytes = written(&plan, 3);
        prop_assert_eq!(&read(&bytes).expect("what was written"), &plan);
        let (read_header, revision, summary) =
            PlanReader::new(&bytes[..]).and_then(PlanReader::check).expect("whole");
        prop_assert_eq!((read_header, revision), (header(), 3));
        prop_assert_eq!(summary.paths(), plan.len() as u64);
        let held = plan.iter().filter(|d| d.outcome == Outcome::Hold).count();
        prop_assert_eq!(summary.held(), held as u64);
        let mut damaged = bytes.clone();
        damaged[at.index(bytes.len())] ^= 1 << bit;
        prop_assert!(read(&damaged).is_err());
        prop_assert!(read(&bytes[..at.index(bytes.len())]).is_err(), "cut short");
        prop_assert!(read(&[&bytes[..], b"x"].concat()).is_err());
    }

    #[test]
    fn a_divergence_has_one_encoding(sites in any_sites(), seed: u64, at: prop::sample::Index, byte: u8) {
        use crate::codec::{Decoder, Encoder};
        for divergence in sites.plan(&answer(seed)) {
            let mut e = Encoder::new();
            divergence.encode(&mut e);
            let mut bytes = e.finish();
            let changed = at.index(bytes.len());
            bytes[changed] = byte;
            let mut d = Decoder::new(&bytes);
            if let Ok(other) = Divergence::decode(&mut d) {
                let used = bytes.len() - d.remaining();
                let mut e = Encoder::new();
                other.encode(&mut e);
                prop_assert_eq!(e.as_slice(), &bytes[..used]);
            }
        }
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes: Vec<u8>) {
        let begun = [b"fsfbpln1", &bytes[..]].concat();
        prop_assert!(read(&begun).is_err() && read(&bytes).is_err());
        let _decoded_or_refused =
            Divergence::decode(&mut crate::codec::Decoder::new(&bytes)).is_ok();
    }

    #[test]
    fn a_report_is_escaped_and_has_one_line_for_each_path(
        sites in any_sites(), seed: u64, name in "[<>&\"'\\\\/ a\u{1b}\u{202e}]{1,9}",
    ) {
        let mut plan = sites.plan(&answer(seed));
        for divergence in &mut plan {
            divergence.reason.clone_from(&name);
        }
        let mut header = header();
        header.share.clone_from(&name);
        for divergence in &plan {
            let mut text = String::new();
            render::line(&mut text, divergence, &header).expect("a string");
            prop_assert_eq!(text.lines().count(), 1, "{}", text);
            let mut json = String::new();
            render::json(&mut json, divergence, &header).expect("a string");
            prop_assert_eq!(json.lines().count(), 1, "{}", json);
            prop_assert!(is_json(&json), "{}", json);
            for out in [text, json] {
                let moves = |c: char| c.is_control() || c == '\u{202e}';
                prop_assert!(!out.trim_end().contains(moves));
            }
        }
        let html = page(&plan, &header);
        let tags = html.matches("<tr class=\"row").count();
        prop_assert_eq!(tags, plan.len());
        prop_assert!(!html.contains("<script") && !html.contains("http://") && !html.contains("src="));
        prop_assert_eq!(html.matches('<').count(), html.matches('>').count());
    }
}

fn page(plan: &[Divergence], header: &Header) -> String {
    let mut summary = Summary::default();
    plan.iter().for_each(|d| summary.add(d));
    let mut page = render::Page::new(String::new(), header, 1, &summary).expect("a string");
    plan.iter().for_each(|d| page.row(d).expect("a string"));
    page.finish().expect("a string")
}

/// Whether `text` is one JSON value: strings, numbers, objects, lists, `true`, `false`, `null`.
fn is_json(text: &str) -> bool {
    fn value(rest: &mut &[u8]) -> bool {
        match rest.first() {
            Some(b'"') => string(rest),
            Some(b'{') => list(rest, b'}', &|rest| string(rest) && take(rest, b':') && value(rest)),
            Some(b'[') => list(rest, b']', &value),
            Some(b'-' | b'0'..=b'9') => {
                *rest = &rest[1..];
                while rest.first().is_some_and(u8::is_ascii_digit) {
                    *rest = &rest[1..];
                }
                true
            }
            _ => ["true", "false", "null"].iter().any(|word| {
                let found = rest.strip_prefix(word.as_bytes());
                *rest = found.unwrap_or(rest);
                found.is_some()
            }),
        }
    }
    fn take(rest: &mut &[u8], byte: u8) -> bool {
        let found = rest.first() == Some(&byte);
        *rest = &rest[usize::from(found)..];
        found
    }
    fn list(rest: &mut &[u8], end: u8, item: &dyn Fn(&mut &[u8]) -> bool) -> bool {
        *rest = &rest[1..];
        if take(rest, end) {
            return true;
        }
        loop {
            if !item(rest) {
                return false;
            }
            if take(rest, end) {
                return true;
            }
            if !take(rest, b',') {
                return false;
            }
        }
    }
    fn string(rest: &mut &[u8]) -> bool {
        if !take(rest, b'"') {
            return false;
        }
        loop {
            match rest {
                [b'"', ..] => return take(rest, b'"'),
                [b'\\', b'"' | b'\\', more @ ..] => *rest = more,
                [b'\\', b'u', a, b, c, d, more @ ..]
                    if [a, b, c, d].iter().all(|c| c.is_ascii_hexdigit()) =>
                {
                    *rest = more;
                }
                [b'\\' | 0..=31, ..] | [] => return false,
                [_, more @ ..] => *rest = more,
            }
        }
    }
    let mut rest = text.trim_end().as_bytes();
    value(&mut rest) && rest.is_empty()
}

fn hostile() -> Divergence {
    Divergence {
        path: RelPath::new(&b"in/<script>alert(1)</script>\xff\x1b[2J\"'&"[..]).expect("a path"),
        base: None,
        production: AtSite {
            entry: Some(Entry::Symlink {
                target: (*b"<img src=x>").into(),
                meta: Metadata::default(),
            }),
            ..AtSite::default()
        },
        recovery: AtSite::default(),
        class: Class::ProductionCreated,
        outcome: Outcome::Hold,
        by: DecidedBy::Default(Rule::Orphan),
        reason: String::new(),
        group: None,
        at_recovery: None,
        needs: 0,
    }
}

#[test]
fn names_do_nothing_in_a_page_or_a_terminal() {
    let html = page(&[hostile()], &header());
    assert!(html.contains("&lt;script&gt;alert(1)") && !html.contains("<script>"));
    assert!(html.contains("link to &lt;img src=x&gt;") && !html.contains("<img"));
    assert!(!html.contains('\u{1b}'));
    let mut text = String::new();
    render::line(&mut text, &hostile(), &header()).expect("a string");
    assert!(text.contains("\\xff\\u{1b}[2J"), "{text}");
    assert!(text.contains("[default orphan] only production received it"), "{text}");
}

#[test]
fn a_page_says_what_the_plan_is_and_counts_first() {
    let html = page(&[hostile()], &header());
    assert!(html.contains("recovery point 9 of 2023-11-14 22:13:20 UTC"), "{html}");
    assert!(html.contains("production-created</td><td>hold</td>"));
    let counts = html.find("<td>production-created</td>").expect("counts");
    assert!(counts < html.find("class=\"row").expect("rows"));
}

#[test]
fn a_page_of_ten_thousand_rows_stays_small() {
    let rows: Vec<_> = std::iter::repeat_with(hostile).take(10_000).collect();
    let html = page(&rows, &header());
    assert!(html.len() < 8 << 20, "{} bytes", html.len());
}

#[test]
fn a_head_counts_and_names_policies() {
    let mut d = hostile();
    d.by = DecidedBy::Policy(0);
    d.reason = "because".to_owned();
    let mut summary = Summary::default();
    summary.add(&d);
    let mut text = String::new();
    render::head(&mut text, &header(), 2, &summary).expect("a string");
    assert!(text.contains("1 paths, 0 conflicts, 1 held for a person"), "{text}");
    assert!(text.contains("production: the site that was lost"), "{text}");
    let mut line = String::new();
    render::line(&mut line, &d, &header()).expect("a string");
    assert!(line.contains("[policy merge-journals] because"), "{line}");
    let mut json = String::new();
    render::json_head(&mut json, &header(), 2, &summary).expect("a string");
    assert!(is_json(&json) && json.contains("\"held\":1"), "{json}");
}

#[test]
fn a_plan_keeps_its_identity_and_two_lists_have_two() {
    let one = header();
    let mut other = header();
    other.lists[0] = ListDigest([0; 32]);
    assert_ne!(one.id(), other.id());
    assert_eq!(one.id(), header().id());
    assert_eq!(one.id().short().len(), 8);
    let mut long = header();
    long.share = "x".repeat(257);
    assert!(PlanWriter::new(Vec::new(), &long, 1).is_err(), "no plan that cannot be read");
}

#[test]
fn a_filter_takes_what_it_names() {
    let d = hostile();
    let is = |filter: Filter| filter.matches(&d);
    assert!(is(Filter::default()));
    assert!(is(Filter { outcomes: vec!["hold".to_owned()], ..Filter::default() }));
    assert!(!is(Filter { outcomes: vec!["recovery".to_owned()], ..Filter::default() }));
    assert!(!is(Filter { conflicts: true, ..Filter::default() }));
    assert!(is(Filter { account: Some(path("in")), below: Some(path("in")), ..Filter::default() }));
    assert!(!is(Filter { account: Some(path("i")), ..Filter::default() }));
    assert!(!is(Filter { classes: vec![Class::BothKind], ..Filter::default() }));
    assert!(is(Filter { glob: Some(b"in/**".to_vec()), ..Filter::default() }));
}

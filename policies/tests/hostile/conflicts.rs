//! Answers to a conflict that cannot be carried out, and a conflict to answer.

use std::sync::Arc;

use farshore_core::conflict::{Class, Conflict, ContentError, Contents, Side, State, Version};
use farshore_core::entry::EntryKind;
use farshore_policies::Limits;

use crate::Case;
use crate::Expect::{self, Harmless, Held};
use crate::common::{AT, Guest, path};

/// A log that both sites went on with: 10, 20 and 30 bytes.
pub(crate) fn conflict() -> Conflict {
    let version = |size| {
        State::Present(Version {
            path: path("a/b.log"),
            kind: EntryKind::File,
            size,
            mtime: AT,
            mode: 0o640,
            uid: 1,
            gid: 1,
            digest: None,
            link_target: None,
            renamed_from: None,
        })
    };
    Conflict {
        path: path("a/b.log"),
        class: Class::ModifyModify,
        base: version(10),
        production: version(20),
        recovery: version(30),
    }
}

/// Contents: of each side its first letter, and of recovery none.
pub(crate) struct Bytes;

impl Bytes {
    pub(crate) fn contents() -> Arc<dyn Contents> {
        Arc::new(Self)
    }
}

impl Contents for Bytes {
    fn read(&self, side: Side, _: u64, length: u32) -> Result<Vec<u8>, ContentError> {
        let length = usize::try_from(length).expect("it fits");
        match side {
            Side::Base => Ok(vec![b'b'; length]),
            // More than was asked for.
            Side::Production => Ok(vec![b'p'; length + 9]),
            Side::Recovery => Err(ContentError::Io("the line is down".to_owned())),
        }
    }
}

/// Answers outcome `tag`.
pub(crate) fn outcome(tag: u32) -> String {
    format!("(i32.store8 (i32.const 1200) (i32.const {tag}))")
}

/// Both stay; recovery's is at `new`.
fn both(new: &str) -> Guest {
    let len = new.len();
    let text = format!(
        "{} (i32.store8 (i32.const 1204) (i32.const 1)) (call $list_at (i32.const 1208) (i32.const 3000) (i32.const {len}))",
        outcome(2)
    );
    let escaped: String = new.bytes().map(|b| format!("\\{b:02x}")).collect();
    let extra = format!(r#"(data (i32.const 3000) "{escaped}")"#);
    Guest { extra, ..Guest::resolving(&text) }
}

/// A merge of `count` equal pieces.
fn merge(site: u32, count: u32, piece: &str) -> Guest {
    let text = format!(
        "{} (i32.store8 (i32.const 1204) (i32.const {site}))
         (local.set $i (call $alloc (i32.const {})))
         (call $list_at (i32.const 1208) (local.get $i) (i32.const {count}))
         (loop $l
           {piece}
           (local.set $i (i32.add (local.get $i) (i32.const 32)))
           (br_if $l (i32.lt_u (local.get $i)
             (i32.add (i32.load (i32.const 1208)) (i32.const {})))))",
        outcome(3),
        count * 32,
        count * 32,
    );
    Guest::resolving(&text)
}

/// Copies a span.
fn copy(side: u32, offset: i64, length: i64) -> String {
    format!(
        "(i32.store8 offset=8 (local.get $i) (i32.const {side}))
         (i64.store offset=16 (local.get $i) (i64.const {offset}))
         (i64.store offset=24 (local.get $i) (i64.const {length}))"
    )
}

/// Reads, and what the answer was: the tag of the result at 1304, that of the error at 1312.
fn reading(side: u32, length: u32, rest: &str) -> Guest {
    Guest::resolving(&format!(
        "(call $read (i32.load offset=328 (local.get $args)) (i32.const {side}) (i64.const 0)
           (i32.const {length}) (i32.const 1304))
         {} {rest}",
        outcome(5)
    ))
}

pub(crate) fn cases() -> Vec<Case> {
    let held = |what: &str, guest: Guest, text| Case::guest(what, guest, Held(text));
    let says =
        |what: &str, text: &str, expect: Expect| Case::guest(what, Guest::resolving(text), expect);
    let rule = |index: i32| {
        format!(
            "{} (i32.store8 (i32.const 1216) (i32.const 1)) (i32.store (i32.const 1220) (i32.const {index}))",
            outcome(5)
        )
    };
    let literal = |bytes: u32| {
        format!(
            "(i32.store8 (local.get $i) (i32.const 1))
             (call $list_at (i32.add (local.get $i) (i32.const 8)) (i32.const 0) (i32.const {bytes}))"
        )
    };
    let handle = "(i32.load offset=328 (local.get $args))";
    let mut all = vec![
        says("resolve traps", "unreachable", Held("`unreachable`")),
        says("resolve never ends", "(loop $l (br $l))", Held("out of fuel")),
        says("resolve takes 4 GiB", "(drop (memory.grow (i32.const 65533)))", Held("more memory")),
        says("an outcome that is none", &outcome(9), Held("discriminant")),
        says("a rule that is not there", &rule(2), Held("rule 2 of 2")),
        says("a rule that is", &rule(1), Harmless),
        says(
            "a reason nowhere",
            "(call $list_at (i32.const 1224) (i32.const -8) (i32.const 64))",
            Held("out of bounds"),
        ),
        says("a handle dropped twice", &format!("(call $drop {handle})"), Held("")),
        says("a handle kept", "(return (i32.const 1200))", Held("borrow")),
        says(
            "a handle made up",
            "(call $read (i32.const 77) (i32.const 0) (i64.const 0) (i32.const 1) (i32.const 1304))",
            Held(""),
        ),
        held(
            "a span past the end",
            merge(0, 1, &copy(1, 1, 20)),
            "piece 0 copies 20 bytes from 1 of production, which has 20",
        ),
        held("a span past all ends", merge(0, 1, &copy(0, -1, -1)), "which has 10"),
        held("a span of a side that is none", merge(0, 1, &copy(3, 0, 1)), "discriminant"),
        held("a site that is none", merge(2, 1, &copy(0, 0, 1)), "discriminant"),
        held("more than is taken", merge(0, 60_000, &literal(40)), "too much data"),
        held("a file too long to keep", merge(0, 30_000, &literal(40)), "literal bytes"),
        held("70,000 pieces", merge(0, 70_000, &copy(0, 0, 1)), "pieces"),
        held(
            "pieces nowhere",
            merge(0, 1, "(i32.store (i32.const 1208) (i32.const -32))"),
            "out of bounds",
        ),
        Case::guest("a merge of what is there", merge(1, 3, &copy(2, 10, 20)), Harmless),
        held("a name that escapes", both("../../etc/passwd"), "'.' or '..'"),
        held("an absolute name", both("/etc/passwd"), "empty component"),
        held("a name with a NUL", both("a/b\0c"), "NUL"),
        held("a name of 300 bytes", both(&"n".repeat(300)), "a name of 300 bytes"),
        held("no new name", both(""), "reserved"),
        held("a name in our folder", both(".farshore/staging/x"), "reserved: .farshore/staging/x"),
        held("a name in our folder by case", both(".FARSHORE/x"), "reserved"),
        held("a name that is taken", both("taken"), "not free"),
        held("the name it has", both("a/b.log"), "the path itself"),
        held("the name it has but for case", both("A/B.log"), "by case alone"),
        held("a name below itself", both("a/b.log/c"), "below it"),
        held("a new name with colours", both("\u{1b}[2J/../x"), "'.' or '..'"),
        Case::guest("a name that is free", both("a/b (recovery).log"), Harmless),
        held(
            "a read of 4 GiB, and then a trap",
            reading(
                0,
                u32::MAX,
                "(if (i32.eq (i32.load8_u (i32.const 1304)) (i32.const 1)) (then unreachable))",
            ),
            "`unreachable`",
        ),
        Case::guest("a read of a site that is down", reading(2, 5, ""), Harmless),
        Case::guest(
            "a read of more than there is",
            reading(
                1,
                5,
                "(if (i32.ne (i32.load offset=12 (i32.const 1304)) (i32.const 5)) (then unreachable))",
            ),
            Harmless,
        ),
        held(
            "a read without end",
            reading(
                0,
                1,
                &format!(
                    "(loop $l (call $read {handle} (i32.const 0) (i64.const 0) (i32.const 4096) (i32.const 1304)) (br $l))"
                ),
            ),
            "out of fuel",
        ),
    ];
    let mut tight = Case::guest(
        "more literals than the site allows",
        merge(0, 2, &literal(40)),
        Held("80 literal bytes, the limit is 64"),
    );
    tight.limits = Limits { literal_bytes: 64, ..Limits::default() };
    all.push(tight);
    let over = "(if (i32.ne (i32.load8_u (i32.const 1304)) (i32.const 1)) (then unreachable))
                (if (i32.ne (i32.load8_u (i32.const 1312)) (i32.const 1)) (then unreachable))
                (if (i64.ne (i64.load (i32.const 1320)) (i64.const 64)) (then unreachable))";
    let mut budget = Case::guest("a read over the budget is told", reading(0, 65, over), Harmless);
    budget.limits = Limits { read_bytes: 64, ..Limits::default() };
    all.push(budget);
    all
}

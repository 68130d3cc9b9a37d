//! Guests that are policies by their types alone, and settings no policy is given.

use farshore_policies::Limits;

use crate::Case;
use crate::Expect::{self, Fault, FaultAt, Harmless, Unusable};
use crate::common::Guest;

pub(crate) fn cases() -> Vec<Case> {
    let mut all = starting();
    all.extend(configuring());
    all.extend(settings());
    all.extend(excluding());
    all
}

fn extra(text: &str) -> Guest {
    Guest { extra: text.to_owned(), ..Guest::default() }
}

fn starting() -> Vec<Case> {
    let start = |body: &str| extra(&format!("(func $start (local $i i32) {body}) (start $start)"));
    let case = |what: &str, guest: Guest, text| Case::guest(what, guest, Unusable(text));
    vec![
        case(
            "2 GiB at once",
            Guest { pages: 32_768, ..Guest::default() },
            "more memory than it may",
        ),
        case("a trap at the start", start("unreachable"), "`unreachable`"),
        case("no end at the start", start("(loop $l (br $l))"), "out of fuel"),
        case("a grab at the start", start("(drop (memory.grow (i32.const 2000)))"), "more memory"),
        case("a large table", extra("(table 9000000 funcref)"), "more memory"),
        case(
            "a table that grows",
            extra(
                "(table $t 1 funcref) (func $start (drop (table.grow $t (ref.null func) (i32.const 9000000)))) (start $start)",
            ),
            "more memory",
        ),
        case(
            "memory in small steps",
            start("(loop $l (drop (memory.grow (i32.const 1))) (br $l))"),
            "more memory",
        ),
        case(
            "data past the end",
            extra(r#"(data (i32.const 131071) "too long")"#),
            "out of bounds",
        ),
        case(
            "fuel for gigabytes",
            start("(loop $l (memory.fill (i32.const 0) (i32.const 1) (i32.const 131072)) (br $l))"),
            "out of fuel",
        ),
    ]
}

fn configuring() -> Vec<Case> {
    let case = |what: &str, body: &str, expect: Expect| {
        Case::guest(what, Guest { configure: body.to_owned(), ..Guest::default() }, expect)
    };
    let list = |at: u32, ptr: u32, len: u32| {
        format!("(call $list_at (i32.const {at}) (i32.const {ptr}) (i32.const {len}))")
    };
    let refuses = |ptr: u32, len: u32| {
        format!("(i32.store8 (i32.const 1024) (i32.const 1)) {}", list(1028, ptr, len))
    };
    let texts = "(memory.fill (i32.const 4096) (i32.const 65) (i32.const 4096))";
    vec![
        case("configure traps", "unreachable", Unusable("`unreachable`")),
        case("configure never ends", "(loop $l (br $l))", Unusable("out of fuel")),
        case("configure recurses", "(call $deep (i32.const 1))", Unusable("stack")),
        case("settings refused", &refuses(32, 17), Unusable("told to\\u{1b}[31m stop")),
        case("refused at length", &format!("{texts} {}", refuses(4096, 4000)), Unusable("AAAA")),
        case("no name", &list(1028, 16, 0), Unusable("the name is empty")),
        case("a long name", &format!("{texts} {}", list(1028, 4096, 65)), Unusable("65 bytes")),
        case("a name with colours", &list(1028, 32, 17), Unusable("has a control character")),
        case("no version of its own", &list(1036, 16, 0), Unusable("the version is empty")),
        case("a version with colours", &list(1036, 32, 17), Unusable("control character")),
        case("2,000 rules", &list(1044, 2048, 2000), Unusable("2000 rules, the limit is 1024")),
        case("an empty rule", &list(1060, 16, 0), Unusable("rule 0 is empty")),
        case(
            "a long rule",
            &format!("{texts} {}", list(1068, 4096, 257)),
            Unusable("rule 1 has 257"),
        ),
        case("a rule with colours", &list(1068, 32, 17), Unusable("rule 1 has a control")),
        case("a name nowhere", &list(1028, 0xffff_fff0, 5), Unusable("out of bounds")),
        case("2 GiB of rules", &list(1044, 16, 0x1000_0000), Unusable("out of bounds")),
        case("a name of no text", "(i32.store (i32.const 16) (i32.const -1))", Unusable("utf-8")),
        case(
            "a case that is none",
            "(i32.store8 (i32.const 1024) (i32.const 7))",
            Unusable("discriminant"),
        ),
        case("an answer nowhere", "(return (i32.const -4))", Unusable("out of bounds")),
        case("an answer askew", "(return (i32.const 1025))", Unusable("aligned")),
        case(
            "a line of log from nowhere",
            "(call $log (i32.const 0) (i32.const 16) (i32.const 0x7fffffff))",
            Unusable("out of bounds"),
        ),
        case(
            "a level that is none",
            "(call $log (i32.const 9) (i32.const 16) (i32.const 1))",
            Unusable(""),
        ),
        case(
            "a log that never ends",
            "(loop $l (call $log (i32.const 0) (i32.const 16) (i32.const 1)) (br $l))",
            Unusable("out of fuel"),
        ),
    ]
}

fn settings() -> Vec<Case> {
    let with = |what: &str, settings: &[(&str, &str)], text| {
        let mut case = Case::guest(what, Guest::default(), Unusable(text));
        case.settings = settings.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
        case
    };
    let named = |what: &str, name: &str| {
        let mut case = Case::guest(what, Guest::default(), Unusable("lower-case letters"));
        case.name = name.to_owned();
        case
    };
    let limited = |what: &str, limits: Limits, text| {
        let mut case = Case::guest(what, Guest::default(), Unusable(text));
        case.limits = limits;
        case
    };
    let long = "v".repeat(70_000);
    let usual = Limits::default();
    vec![
        with("a key with a newline", &[("a\nb", "c")], "control character in the key"),
        with("a value with colours", &[("a", "\u{1b}[2J")], "control character in the value"),
        with("a value with a NUL", &[("a", "b\0")], "control character in the value"),
        with("an empty key", &[("", "c")], "an empty key"),
        with("a long key", &[(&long[..65], "c")], "more than 64 bytes"),
        with("a long value", &[("a", &long)], "65536 bytes of them"),
        with("257 settings", &[("a", "b"); 257], "more than 256 settings"),
        named("a name that leaves its folder", "../x"),
        named("no name of its own", ""),
        named("a name that is long", &long[..65]),
        named("a name like an option", "-x"),
        named("a name with a newline", "a\nb"),
        limited("no memory", Limits { memory_bytes: 0, ..usual }, "memory-bytes of 0"),
        limited("no deadline", Limits { watchdog_millis: u64::MAX, ..usual }, "watchdog-millis"),
        limited("fuel for ever", Limits { fuel_call: u64::MAX, ..usual }, "fuel-call"),
        limited(
            "more than the least fuel",
            Limits { fuel_configure: 999, ..usual },
            "fuel-configure",
        ),
    ]
}

fn excluding() -> Vec<Case> {
    let verdict = |what: &str, body: &str, text| {
        let guest = Guest { verdict: body.to_owned(), ..Guest::default() };
        Case::guest(what, guest, Fault(text))
    };
    let answer = |what: &str, body: &str, text| {
        let guest = Guest { exclude: body.to_owned(), ..Guest::default() };
        Case::guest(what, guest, Fault(text))
    };
    let after = |what: &str, body: &str, text| {
        let guest = Guest { after: body.to_owned(), ..Guest::default() };
        Case::guest(what, guest, Fault(text))
    };
    let mood = |what: &str, first, text| Case::guest(what, Guest::default(), FaultAt(first, text));
    let reply = |ptr: &str, len: &str| {
        format!(
            "(i32.store (i32.const 1100) {ptr}) (i32.store (i32.const 1104) {len}) (return (i32.const 1100))"
        )
    };
    let out = "(local.get $out)";
    let mut slow = verdict("a loop the clock ends", "(loop $l (br $l))", "by the clock");
    slow.limits = Limits {
        fuel_call: 1_000_000_000,
        fuel_entry: 10_000_000,
        watchdog_millis: 100,
        ..slow.limits
    };
    vec![
        mood("one path traps", "!", "`unreachable`"),
        mood("one path never ends", "@", "ran out of fuel"),
        mood("one path takes 4 GiB", "#", "wanted more memory"),
        mood("one path recurses", "^", "stack"),
        mood("one path has no rule", "$", "rule 2 of 2, counted from 0"),
        mood("one path has no verdict", "%", "0 verdicts for 1 entry"),
        mood("one path panics", "&", "told to"),
        Case::guest("one path floods the log", Guest::default(), Harmless),
        verdict("always a trap", "unreachable", "`unreachable`"),
        verdict("never an end", "(loop $l (br $l))", "out of fuel"),
        slow,
        verdict(
            "a division by nothing",
            "(drop (i32.div_u (i32.const 1) (i32.const 0)))",
            "divide by zero",
        ),
        verdict("a read past the end", "(drop (i32.load (i32.const -4)))", "out of bounds"),
        verdict(
            "an action that is none",
            "(i32.store8 (local.get $out) (i32.const 9))",
            "discriminant",
        ),
        verdict(
            "an option that is none",
            "(i32.store8 offset=4 (local.get $out) (i32.const 5))",
            "",
        ),
        verdict(
            "rule 4,294,967,295",
            "(i32.store8 offset=4 (local.get $out) (i32.const 1)) (i32.store offset=8 (local.get $out) (i32.const -1))",
            "rule 4294967295 of 2",
        ),
        answer("no verdicts", &reply(out, "(i32.const 0)"), "0 verdicts for 1"),
        answer(
            "one verdict too many",
            &reply(out, "(i32.add (local.get $count) (i32.const 1))"),
            "2 verdicts for 1",
        ),
        answer("4 billion verdicts", &reply(out, "(i32.const -1)"), "out of bounds"),
        answer(
            "10 million verdicts",
            &format!(
                "(drop (memory.grow (i32.const 900))) {}",
                reply("(i32.const 0)", "(i32.const 4000000)")
            ),
            "too much",
        ),
        answer(
            "verdicts nowhere",
            &reply("(i32.const -16)", "(local.get $count)"),
            "out of bounds",
        ),
        answer("verdicts askew", &reply("(i32.const 1101)", "(local.get $count)"), "aligned"),
        answer("a list nowhere", "(return (i32.const -8))", "out of bounds"),
        answer("a list askew", "(return (i32.const 1102))", "aligned"),
        after("a trap after the answer", "unreachable", "`unreachable`"),
        after("no end after the answer", "(loop $l (br $l))", "out of fuel"),
        after("a call from the end", "(call $log (i32.const 0) (i32.const 16) (i32.const 1))", ""),
        Case::guest(
            "memory that is never given back",
            Guest { after: String::new(), ..Guest::default() },
            Harmless,
        ),
        Case::guest(
            "no room for the settings",
            realloc("(i32.const -64)"),
            Unusable("beyond end of memory"),
        ),
        Case::guest("room askew", realloc("(i32.const 8193)"), Unusable("aligned")),
        Case::guest("a trap for room", realloc("unreachable"), Unusable("`unreachable`")),
        Case::guest(
            "no end for room",
            realloc("(loop $l (br $l)) unreachable"),
            Unusable("out of fuel"),
        ),
    ]
}

/// A guest whose `cabi_realloc` answers so.
fn realloc(body: &str) -> Guest {
    Guest { realloc: body.to_owned(), ..Guest::default() }
}

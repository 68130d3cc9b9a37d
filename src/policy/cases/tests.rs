//! Files of cases, good and bad.

#![allow(clippy::unwrap_used)]

use super::*;

#[test]
fn a_case_says_what_it_says_and_the_rest_is_usual() {
    let text = r#"
at = 2026-11-26T10:00:00Z
settings = { suffixes = ".tmp", days = 3, deep = true }
[[exclude]]
path = "a/b.tmp"
expect = "exclude"

[[exclude]]
path_hex = "61ff"
kind = "directory"
size = "1k"
mtime = 2026-11-26T09:00:00.5Z
mode = 0o700
uid = 7
expect = { action = "defer", rule = "r", max_fuel = 10 }
[[refuse]]
settings = { suffixes = "" }
error = "suffixes"
"#;
    let file = CaseFile::parse("x.toml", text).unwrap();
    assert_eq!(file.at, parse_time("2026-11-26T10:00:00Z").unwrap());
    let settings: Vec<_> = file.settings.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(settings, ["days=3", "deep=true", "suffixes=.tmp"]);
    let [plain, full] = &file.excludes[..] else { panic!("two cases") };
    assert_eq!((plain.line, full.line), (4, 8));
    assert_eq!(plain.facts, Facts::of(RelPath::new(&b"a/b.tmp"[..]).unwrap(), EntryKind::File));
    assert_eq!((plain.action, &plain.rule, plain.max_fuel), (Action::Exclude, &None, None));
    assert_eq!(full.facts.path.as_bytes(), b"a\xff");
    assert_eq!((full.facts.kind, full.facts.size), (EntryKind::Directory, 1024));
    assert_eq!((full.facts.mode, full.facts.uid, full.facts.gid), (0o700, 7, 0));
    assert_eq!(full.facts.mtime.nanos, 500_000_000);
    assert_eq!((full.rule.as_deref(), full.max_fuel), (Some("r"), Some(10)));
    assert_eq!((file.len(), file.refuses[0].line), (3, 16));
    assert_eq!(CaseFile::parse("x", "").unwrap().at, parse_time("2026-01-01").unwrap());
}

#[test]
fn a_conflict_is_what_its_versions_make_it() {
    let class = |sides: &str| {
        let text = format!("[[resolve]]\npath = 'p'\n{sides}\nexpect = 'hold'\n");
        CaseFile::parse("x", &text).unwrap().resolves.remove(0).conflict
    };
    for (sides, wanted) in [
        ("base = 'a'\nproduction = 'b'\nrecovery = 'c'", Class::ModifyModify),
        ("production = 'b'\nrecovery = 'c'", Class::CreateCreate),
        ("base = 'a'\nproduction = 'b'", Class::ModifyDelete),
        ("base = 'a'\nproduction = 'b'\nrecovery = 'deleted'", Class::ModifyDelete),
        ("base = 'a'\nproduction = 'b'\nrecovery = {deleted = true}", Class::ModifyDelete),
        ("base = 'a'\nproduction = 'b'\nrecovery = {link = 'x'}", Class::TypeChange),
        (
            "base = 'a'\nproduction = 'b'\nrecovery = {text = 'b', mode = 0o600}",
            Class::AttributesOnly,
        ),
        (
            "base = 'a'\nproduction = {text = 'a', path = 'q', renamed_from = 'p'}\nrecovery = 'c'",
            Class::RenameModify,
        ),
        ("class = 'rename-rename'\nproduction = 'b'\nrecovery = 'c'", Class::RenameRename),
    ] {
        assert_eq!(class(sides).class, wanted, "{sides}");
    }
    let conflict = class("base = 'a'\nproduction = 'bb'");
    assert_eq!(conflict.recovery, State::Deleted, "it was there at the common point");
    let version = conflict.production.version().unwrap();
    assert_eq!((version.size, version.digest), (2, Some(FileDigest::of_small(b"bb"))));
    assert_eq!(class("production = 'b'").recovery, State::Absent);
}

#[test]
fn contents_are_read_in_pieces() {
    let text = "[[resolve]]\npath = 'p'\nproduction = {hex = '00ff'}\nrecovery = 'abc'\n\
                expect = { outcome = 'merge', content_hex = '00ff' }\n";
    let case = CaseFile::parse("x", text).unwrap().resolves.remove(0);
    assert_eq!(case.texts.read(Side::Production, 0, 9), Ok(vec![0, 255]));
    assert_eq!(case.texts.read(Side::Recovery, 1, 1), Ok(b"b".to_vec()));
    assert_eq!(case.texts.read(Side::Recovery, 9, 1), Ok(vec![]));
    assert_eq!(case.texts.read(Side::Base, 0, 1), Err(ContentError::Unavailable));
    assert_eq!(case.expect.content.as_deref(), Some(&[0, 255][..]));
}

#[test]
fn a_slip_is_refused_with_its_line() {
    for (text, line, words) in [
        ("[[exclude]]\npath = 'a'\nexpekt = 'x'\n", 3, "expekt"),
        ("[[exclud]]\n", 1, "exclud"),
        ("\n[[exclude]]\npath = 'a'\nexpect = 'drop'\n", 2, "'drop' is no action"),
        ("[[exclude]]\nexpect = 'defer'\n", 1, "path_hex"),
        ("[[exclude]]\npath = '/a'\nexpect = 'defer'\n", 1, "'/a'"),
        ("[[exclude]]\npath = 'a'\nkind = 'dir'\nexpect = 'defer'\n", 1, "directory"),
        ("[[exclude]]\npath = 'a'\nsize = 'big'\nexpect = 'defer'\n", 1, "'big'"),
        ("[[exclude]]\npath = 'a'\nmode = 100644\nexpect = 'defer'\n", 1, "0o644"),
        ("[[exclude]]\npath = 'a'\nmtime = true\nexpect = 'defer'\n", 1, "boolean"),
        ("[[exclude]]\npath = 'a'\n", 1, "expect"),
        ("at = 'soon'\n", 1, "'soon' is no time"),
        ("a\n", 1, ""),
        ("[[resolve]]\npath = 'a'\nexpect = 'ask'\n", 1, "'ask' is no outcome"),
        ("[[resolve]]\npath = 'a'\nexpect = {outcome = 'hold', content = 'x'}\n", 1, "of 'merge'"),
        (
            "[[resolve]]\npath = 'a'\nexpect = {outcome = 'hold', renamed = 'recovery'}\n",
            1,
            "keep-both",
        ),
        ("[[resolve]]\npath = 'a'\nclass = 'both'\nexpect = 'hold'\n", 1, "'both' is no class"),
        (
            "[[resolve]]\npath = 'a'\nbase = {kind = 'fifo', text = ''}\nexpect = 'hold'\n",
            1,
            "fifo",
        ),
    ] {
        let error = CaseFile::parse("x.toml", text).unwrap_err();
        assert_eq!(error.line, line, "{text}: {error}");
        assert!(error.why.contains(words), "{text}: {error}");
        assert!(error.to_string().starts_with("x.toml:"), "{error}");
    }
}

//! What a configuration may say, and how it is told what is wrong with it.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const CONTRACT: &str = r#"
[site]
name = "production"
state = "/var/lib/farshore"
listen = "[::]:7411"
metrics = "127.0.0.1:7412"
[peer]
name = "recovery"
dial = "dr.example.net:7411"
[bandwidth]
limit = "20M"
timetable = [ { from = "08:00", to = "18:00", limit = "5M" } ]
[[share]]
name = "homes"
path = "/shared/homes"
role = "active"
account_depth = 2
policies = ["mft-defaults"]
objective = "30s"
scan = "1h"
settle = "2s"
history = { days = 14, size = "500G" }
scrub = "7d"
io_limit = "50M"
[share.settings.mft-defaults]
keep_days = 3
flag = true
[share.brake]
entries = 1000
percent = 10
account_entries = 30
account_percent = 40
rewrite_percent = 60
encrypted = 0
appended = 21
renamed = 51
note_directories = 22
spread = 5
window = "1h"
canaries = [".canary/do-not-touch.docx"]
purges = [ { at = "02:00", for = "2h" } ]
"#;

fn faults(text: &str) -> Vec<Fault> {
    SiteConfig::parse(text).expect_err("it is wrong")
}

/// The contract's text with one line replaced.
fn with(from: &str, to: &str) -> String {
    assert!(CONTRACT.contains(from), "{from}");
    CONTRACT.replacen(from, to, 1)
}

#[test]
fn every_key_is_read() {
    let config = SiteConfig::parse(CONTRACT).unwrap();
    let share = config.share("homes").unwrap();
    assert_eq!(config.site.listen, Some("[::]:7411".parse().unwrap()));
    assert_eq!(
        config.peer.dial.as_ref().map(ToString::to_string).as_deref(),
        Some("dr.example.net:7411")
    );
    assert_eq!(config.bandwidth.limit, Some(20 << 20));
    assert_eq!((share.role, share.account_depth), (Role::Active, 2));
    assert_eq!(share.history, History { days: 14, size: Some(500 << 30) });
    assert_eq!(share.settle, Duration::from_secs(2));
    assert_eq!(share.settings["mft-defaults"]["keep_days"], "3");
    assert_eq!(share.settings["mft-defaults"]["flag"], "true");
    assert_eq!(share.brake.canaries.len(), 1);
    let Brake { account_entries, account_percent, rewrite_percent, spread, .. } = share.brake;
    assert_eq!((account_entries, account_percent, rewrite_percent, spread), (30, 40, 60, 5));
    let Brake { encrypted, appended, renamed, note_directories, .. } = share.brake;
    assert_eq!((encrypted, appended, renamed, note_directories), (0, 21, 51, 22));
    let hour = 3_600_000;
    assert!(share.brake.purges[0].is_open(3 * hour) && !share.brake.purges[0].is_open(4 * hour));
    assert_eq!(config.bandwidth.limit_at(9 * hour), Some(5 << 20));
    assert_eq!(config.bandwidth.limit_at(19 * hour), Some(20 << 20));
}

#[test]
fn what_is_left_out_has_its_default() {
    let text = "[site]\nname = 'a'\nlisten = '[::]:7411'\n[peer]\nname = 'b'\n[[share]]\nname = 'homes'\npath = '/srv/homes'\nrole = 'standby'\n";
    let config = SiteConfig::parse(text).unwrap();
    assert_eq!(config.site.state, Path::new("/var/lib/farshore"));
    let share = &config.shares[0];
    assert_eq!(share.settle, Duration::from_millis(200));
    assert_eq!((share.history.days, share.history.size), (14, None));
    assert_eq!((share.brake.entries, share.brake.percent), (1_000, 10));
    assert!(!share.allow_protected && share.policies.is_empty() && share.io_limit.is_none());
}

#[test]
fn all_faults_are_told_at_once_with_line_and_key() {
    let text = with("name = \"homes\"", "nmae = \"homes\"")
        .replacen("\"20M\"", "\"fast\"", 1)
        .replacen("window = \"1h\"", "window = 1", 1);
    let found = faults(&text);
    let lines: Vec<&str> = text.lines().collect();
    for (key, words) in [
        ("share.nmae", "nearest one is 'name'"),
        ("share.name", "missing"),
        ("bandwidth.limit", "'fast' is not a size"),
        ("share.brake.window", "a text in quotes is wanted, this is a number"),
    ] {
        let fault =
            found.iter().find(|f| f.key == key).unwrap_or_else(|| panic!("{key}: {found:?}"));
        assert!(fault.what.contains(words), "{fault}");
        if !words.contains("missing") {
            let last = key.rsplit('.').next().unwrap();
            assert!(lines[fault.line - 1].starts_with(last), "{fault}");
        }
    }
    assert_eq!(found.len(), 4, "{found:?}");
    assert!(found.is_sorted_by_key(|f| f.line));
}

#[test]
fn each_rule_refuses_by_name() {
    let cases = [
        ("role = \"active\"", "role = \"aktive\"", "share.homes.role", "active or standby"),
        ("path = \"/shared/homes\"", "path = \"homes\"", "share.homes.path", "no absolute path"),
        ("path = \"/shared/homes\"", "path = \"/a/../b\"", "share.homes.path", "without '..'"),
        (
            "path = \"/shared/homes\"",
            "path = \"/var/lib/farshore/x\"",
            "share.homes.path",
            "it lies in the state folder",
        ),
        (
            "path = \"/shared/homes\"",
            "path = \"/var//lib/.\"",
            "share.homes.path",
            "the state folder lies in it",
        ),
        ("objective = \"30s\"", "objective = \"30\"", "share.homes.objective", "no duration"),
        (
            "objective = \"30s\"",
            "objective = \"0s\"",
            "share.homes.objective",
            "out of range: 1s to 1d",
        ),
        ("settle = \"2s\"", "settle = \"30s\"", "share.homes.settle", "cannot keep the objective"),
        (
            "objective = \"30s\"",
            "objective = \"2h\"",
            "share.homes.scan",
            "shorter than the objective",
        ),
        ("days = 14", "days = -1", "share.homes.history.days", "out of range"),
        ("size = \"500G\"", "size = \"0\"", "share.homes.history.size", "keeps nothing"),
        (
            "io_limit = \"50M\"",
            "io_limit = \"0\"",
            "share.homes.io_limit",
            "nothing would ever end",
        ),
        ("percent = 10", "percent = 101", "share.homes.brake.percent", "0 to 100"),
        (
            "account_percent = 40",
            "account_percent = 101",
            "share.homes.brake.account_percent",
            "0 to 100",
        ),
        ("spread = 5", "spread = 0", "share.homes.brake.spread", "out of range"),
        ("encrypted = 0", "encrypted = -1", "share.homes.brake.encrypted", "out of range"),
        ("percent = 10", "percent = 1.5", "share.homes.brake.percent", "a number with a fraction"),
        (
            "\".canary/do-not-touch.docx\"",
            "\"/x\"",
            "share.homes.brake.canaries",
            "no path below the share",
        ),
        ("at = \"02:00\"", "at = \"24:00\"", "share.homes.brake.purges.at", "next day"),
        ("for = \"2h\"", "for = \"2d\"", "share.homes.brake.purges.for", "1m to 1d"),
        (
            "settings.mft-defaults",
            "settings.other",
            "share.homes.settings.other",
            "none of the policies",
        ),
        (
            "[\"mft-defaults\"]",
            "[\"mft-defaults\", \"./x.wasm\"]",
            "share.homes.policies",
            "absolute path",
        ),
        (
            "[\"mft-defaults\"]",
            "[\"mft-defaults\", \"mft-defaults\"]",
            "share.homes.policies",
            "given twice",
        ),
        ("name = \"recovery\"", "name = \"production\"", "peer.name", "one name"),
        ("dial = \"dr.example.net:7411\"", "dial = \"dr.example.net\"", "peer.dial", "HOST:PORT"),
        ("from = \"08:00\"", "from = \"18:00\"", "bandwidth.timetable", "begins and ends at 18:00"),
        (
            "limit = \"5M\" }",
            "limit = \"5M\" }, { from = \"17:59\", to = \"03:00\", limit = \"none\" }",
            "bandwidth.timetable",
            "overlaps",
        ),
        ("[peer]", "[peers]", "peers", "nearest one is 'peer'"),
    ];
    for (from, to, key, words) in cases {
        let found = faults(&with(from, to));
        let told = found.iter().any(|f| f.key == key && f.what.contains(words));
        assert!(told, "{to}: {found:?}");
    }
    let standby =
        with("role = \"active\"", "role = \"standby\"").replacen("days = 14", "days = 0", 1);
    assert!(faults(&standby)[0].what.contains("cannot undo"));
    let nowhere = with("listen = \"[::]:7411\"\n", "").replacen("dial = ", "#", 1);
    assert!(faults(&nowhere)[0].what.contains("they cannot meet"));
    let broken = faults("[site\nname = \"a\"\n");
    assert_eq!((broken[0].line, broken[0].key.as_str()), (1, ""));
}

#[test]
fn shares_are_apart_from_each_other() {
    let more = |name: &str, path: &str| {
        format!("{CONTRACT}\n[[share]]\nname = \"{name}\"\npath = \"{path}\"\nrole = \"active\"\n")
    };
    assert!(SiteConfig::parse(&more("drop", "/shared/homes2")).is_ok());
    assert!(faults(&more("homes", "/other"))[0].what.contains("has that name already"));
    for path in ["/shared/homes/in", "/shared", "/shared/homes/", "/shared/./homes"] {
        let found = faults(&more("drop", path));
        assert!(found[0].what.contains("lie within each other"), "{path}: {found:?}");
    }
}

#[test]
fn the_disk_is_looked_at_by_load() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("homes");
    let file = folder.path().join("farshore.toml");
    let put = |path: &Path, more: &str| {
        let text = with("\"/shared/homes\"", &format!("{path:?}")).replacen(
            "\"/var/lib/farshore\"",
            &format!("{:?}", folder.path().join("state")),
            1,
        );
        std::fs::write(&file, format!("{text}{more}")).unwrap();
        SiteConfig::load(&file)
    };
    let told = |outcome: Result<SiteConfig, ConfigError>| outcome.expect_err("refused").to_string();
    assert!(told(put(&root, "")).contains("make the folder first"));
    std::fs::create_dir(&root).unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&root, &link).unwrap();
    // Resolved once, so that a link turned later turns nothing.
    assert_eq!(put(&link, "").unwrap().shares[0].path, root.canonicalize().unwrap());
    let second = format!("[[share]]\nname = \"two\"\npath = {link:?}\nrole = \"active\"\n");
    assert!(
        told(put(&root, &second)).contains("one folder with, in or around that of share 'homes'")
    );
    assert!(told(put(Path::new("/usr/share"), "")).contains("allow_protected = true"));
    assert!(told(put(Path::new("/usr/share"), "")).contains("line "));
    std::fs::write(&file, [0xff]).unwrap();
    assert!(matches!(SiteConfig::load(&file), Err(ConfigError::NotText { .. })));
    let missing = SiteConfig::load(&folder.path().join("no")).unwrap_err().failure();
    assert!(missing.hint.unwrap().contains("farshore init --config"));
}

#[test]
fn a_change_says_when_it_is_in_force() {
    let old = SiteConfig::parse(CONTRACT).unwrap();
    assert!(SiteConfig::changes(&old, &old).is_empty());
    let text = with("objective = \"30s\"", "objective = \"45s\"")
        .replacen("limit = \"20M\"", "limit = \"30M\"", 1)
        .replacen("listen = \"[::]:7411\"", "listen = \"[::]:7500\"", 1)
        .replacen("path = \"/shared/homes\"", "path = \"/shared/people\"", 1);
    let text = format!("{text}[[share]]\nname = \"drop\"\npath = \"/drop\"\nrole = \"active\"\n");
    let new = SiteConfig::parse(&text).unwrap();
    let changes = SiteConfig::changes(&old, &new);
    let shown: Vec<String> = changes.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "bandwidth.limit: 20971520 -> 31457280",
            "site.listen: [::]:7411 -> [::]:7500 (needs a restart)",
            "share.drop: nothing -> /drop (needs a restart)",
            "share.homes.objective: 30s -> 45s",
            "share.homes.path: /shared/homes -> /shared/people (needs a restart)",
        ]
    );
    let gone = SiteConfig::changes(&new, &old);
    assert!(gone.iter().any(|c| c.key == "share.drop" && c.to.is_empty()), "{gone:?}");
}

/// What is said to be in force is, and what needs a restart is said again at the next reload.
#[test]
fn after_a_reload_what_differs_needs_a_restart() {
    let old = SiteConfig::parse(CONTRACT).unwrap();
    let text = with("objective = \"30s\"", "objective = \"45s\"")
        .replace("scan = \"1h\"", "scan = \"2h\"")
        .replace("settle = \"2s\"", "settle = \"3s\"")
        .replace("entries = 1000", "entries = 50")
        .replace("limit = \"20M\"", "limit = \"30M\"")
        .replace("scrub = \"7d\"", "scrub = \"9d\"")
        .replace("days = 14", "days = 15");
    let new = SiteConfig::parse(&text).unwrap();
    let effects: Vec<_> = SiteConfig::changes(&old, &new).iter().map(|c| c.effect).collect();
    let left = SiteConfig::changes(&old.with_live_of(&new), &new);
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left.iter().all(|change| change.effect == Effect::Restart), "{left:?}");
    assert_eq!(effects.iter().filter(|effect| **effect == Effect::Live).count(), 5);
}

#[test]
fn what_is_important_is_said_by_patterns_and_changes_while_the_site_runs() {
    let of = |priority: &str| {
        let share = format!("objective = \"30s\"\npriority = {priority}");
        SiteConfig::parse(&with("objective = \"30s\"", &share))
    };
    let old = SiteConfig::parse(CONTRACT).unwrap();
    let new = of(r#"{ high = ["BU01/*", "/pay"], low = ["old-*"] }"#).unwrap();
    assert_eq!(new.shares[0].priority.high, ["BU01/*", "/pay"]);
    let changes = SiteConfig::changes(&old, &new);
    let shown: Vec<String> = changes.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["share.homes.priority: nothing -> high: BU01/*, /pay; low: old-*"]);
    assert_eq!(old.with_live_of(&new).shares[0].priority, new.shares[0].priority);
    let deep = of(r#"{ high = ["a/b", "/x/*/", "one", "*"], low = ["a/***", "b/**/c", "?/d/e"] }"#);
    let deep = deep.unwrap().shares.remove(0).priority;
    let idle = |depth| deep.idle(depth).collect::<Vec<_>>();
    assert_eq!(idle(1), ["a/b", "/x/*/", "?/d/e"]);
    assert_eq!(idle(2), ["?/d/e"]);
    for (priority, said) in [
        (r#"{ high = ["a//b"] }"#, "'a//b' is no pattern of an account's path"),
        (r#"{ high = ["["] }"#, "'[' is no pattern"),
        (r#"{ high = [""] }"#, "an empty pattern"),
        (r#"{ high = ["a"], low = ["a"] }"#, "'a' is given twice"),
        (r#"{ hihg = ["a"] }"#, "no such key; the nearest one is 'high'"),
        (r#"{ low = [7] }"#, "a text in quotes is wanted"),
        (r#""high""#, "a table is wanted"),
    ] {
        let faults = of(priority).unwrap_err();
        let told: Vec<String> = faults.iter().map(ToString::to_string).collect();
        assert!(told.len() == 1 && told[0].contains(said), "{told:?}");
        assert!(
            told[0].starts_with("line ") && told[0].contains("share.homes.priority"),
            "{told:?}"
        );
    }
}

/// Every key of the parser but the names changes something when it changes: no key is left out of the
/// comparison.
#[test]
fn every_key_of_a_share_is_compared() {
    let old = SiteConfig::parse(CONTRACT).unwrap();
    let share = KEYS.iter().find(|known| known.table == "share").unwrap();
    let named: Vec<&str> = changes::share_keys(&old.shares[0]);
    for key in share.keys.iter().filter(|key| **key != "name") {
        assert!(named.contains(key), "{key}");
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC*") {
        drop(SiteConfig::parse(&text));
    }

    #[test]
    fn no_edit_of_a_configuration_panics(at in 0..CONTRACT.len(), cut in 0_usize..40, put in "[\\[\\]{}=.,\"'#a-z0-9\\n-]{0,12}") {
        // It is all ASCII.
        let end = (at + cut).min(CONTRACT.len());
        let text = format!("{}{put}{}", &CONTRACT[..at], &CONTRACT[end..]);
        if let Err(faults) = SiteConfig::parse(&text) {
            prop_assert!(!faults.is_empty());
        }
    }
}

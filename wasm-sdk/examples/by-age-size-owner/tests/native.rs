//! The verdicts of `by-age-size-owner`, natively.

use farshore_by_age_size_owner::ByAgeSizeOwner;
use farshore_wasm_sdk::testing::{Configured, directory, file, symlink};
use farshore_wasm_sdk::{Action, Timestamp};

const AT: Timestamp = Timestamp::from_seconds(1_000_000_000);
const DAY: i64 = 86_400;

fn policy(settings: &[(&str, &str)]) -> Configured<ByAgeSizeOwner> {
    Configured::new(settings.iter().copied(), AT).expect("settings")
}

/// A file that was written that many seconds before the cut.
fn aged(path: &str, seconds: i64) -> farshore_wasm_sdk::Entry {
    file(path).with_mtime(Timestamp::from_seconds(AT.seconds - seconds))
}

#[test]
fn without_settings_everything_travels() {
    let policy = policy(&[]);
    assert!(policy.manifest.rules.is_empty());
    policy.assert_replicates(&file("a").with_size(u64::MAX).with_owner(7, 7));
    policy.assert_replicates(&directory("a~"));
}

#[test]
fn each_rule_excludes_what_is_past_its_bound() {
    let policy = policy(&[
        ("exclude-older", "90d"),
        ("exclude-larger", "4G"),
        ("exclude-owners", "1001, 1002"),
    ]);
    policy.assert_replicates(&aged("a", 90 * DAY));
    policy.assert(&aged("a", 90 * DAY + 1), Action::Exclude, "exclude-older 90d");
    policy.assert_replicates(&aged("a", 1).with_size(4 << 30));
    let large = aged("a", 1).with_size((4 << 30) + 1);
    policy.assert(&large, Action::Exclude, "exclude-larger 4G");
    policy.assert_replicates(&aged("a", 1).with_owner(1000, 1001));
    let owned = aged("a", 1).with_owner(1002, 0);
    policy.assert(&owned, Action::Exclude, "exclude-owners 1001, 1002");
    // A directory's own age or owner says nothing of what is in it; a link is as small as a name.
    policy.assert_replicates(&directory("a").with_owner(1002, 0));
    policy.assert_replicates(&symlink("a").with_owner(1002, 0));
}

#[test]
fn include_comes_first_and_directories_are_named_with_a_slash() {
    let policy =
        policy(&[("include", "*.pay"), ("exclude", "*~, /tmp/, *.p*"), ("only-owners", "7")]);
    policy.assert(&file("a.pay"), Action::Replicate, "include *.pay");
    policy.assert(&file("a~"), Action::Exclude, "exclude *~");
    policy.assert_replicates(&directory("a~"));
    policy.assert(&directory("tmp"), Action::Exclude, "exclude /tmp/");
    policy.assert_replicates(&directory("a/tmp"));
    policy.assert(&file("b"), Action::Exclude, "only-owners 7");
    policy.assert_replicates(&file("b").with_owner(7, 0));
}

#[test]
fn the_young_wait_and_times_to_come_do_not() {
    let policy = policy(&[("defer-younger", "30s"), ("defer", "*.csv")]);
    policy.assert(&aged("a.csv", 29), Action::Defer, "defer-younger 30s *.csv");
    policy.assert(&aged("a.csv", -30), Action::Defer, "defer-younger 30s *.csv");
    policy.assert_replicates(&aged("a.csv", 30));
    policy.assert_replicates(&aged("a.csv", -31));
    policy.assert_replicates(&aged("a.pay", 1));
}

#[test]
fn settings_are_checked() {
    for (key, value, why) in [
        ("exclude-older", "90", "not an age"),
        ("exclude-larger", "4 GB", "not a size"),
        ("exclude-owners", "root", "no numeric owner"),
        ("only-owners", "4294967296", "no numeric owner"),
        ("include", "keep/", "no file but directories"),
        ("exclude", "a//b", "empty, '.' or '..'"),
        ("defer", "*.csv", "needs 'defer-younger'"),
        ("older", "90d", "the settings are: include,"),
    ] {
        let error = Configured::<ByAgeSizeOwner>::new([(key, value)], AT).map(|_| ());
        let error = error.expect_err("refused");
        assert!(error.contains(why), "{error}");
    }
}

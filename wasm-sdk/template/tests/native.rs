//! The verdicts, natively: `cargo test`.

use farshore_wasm_sdk::testing::{Configured, directory, file};
use farshore_wasm_sdk::{Action, Timestamp};
use my_policy::MyPolicy;

/// The time of the cut.
const AT: Timestamp = Timestamp::from_seconds(1_000_000_000);

#[test]
fn files_with_a_suffix_stay_behind() {
    let policy = Configured::<MyPolicy>::new([], AT).expect("no settings");
    policy.assert(&file("in/a.tmp"), Action::Exclude, "suffix .tmp");
    policy.assert(&file(b"in/\xff~"), Action::Exclude, "suffix ~");
    policy.assert_replicates(&file("in/a.tmp.pay"));
    policy.assert_replicates(&directory("in.tmp"));
}

#[test]
fn the_suffixes_are_a_setting() {
    let policy = Configured::<MyPolicy>::new([("suffixes", ".bak")], AT).expect("settings");
    policy.assert(&file("a.bak"), Action::Exclude, "suffix .bak");
    policy.assert_replicates(&file("a.tmp"));
}

#[test]
fn an_unknown_setting_is_refused() {
    let error = Configured::<MyPolicy>::new([("sufixes", ".bak")], AT).err().expect("refused");
    assert_eq!(error, "unknown setting 'sufixes'; the settings are: suffixes");
}

//! The verdicts of `mft-defaults`, natively.

use farshore_mft_defaults::MftDefaults;
use farshore_wasm_sdk::testing::{Configured, directory, file, symlink};
use farshore_wasm_sdk::{Action, Entry, Timestamp};

const AT: Timestamp = Timestamp::from_seconds(1_000_000_000);

fn policy(settings: &[(&str, &str)]) -> Configured<MftDefaults> {
    Configured::new(settings.iter().copied(), AT).expect("settings")
}

/// A file that was written that many seconds before the cut.
fn aged(path: impl AsRef<[u8]>, seconds: i64) -> Entry {
    file(path).with_mtime(Timestamp::from_seconds(AT.seconds - seconds))
}

#[test]
fn an_upload_waits_while_it_grows_and_no_longer() {
    let policy = policy(&[]);
    for (name, rule) in [
        ("home/bu/user/in/a.pay.filepart", "growing upload *.filepart"),
        ("home/bu/user/in/a.part", "growing upload *.part"),
        ("a.partial", "growing upload *.partial"),
        ("in/3.tmp", "growing upload *.tmp"),
    ] {
        policy.assert(&aged(name, 0), Action::Defer, rule);
        policy.assert(&aged(name, 599), Action::Defer, rule);
        // Given up, or so named by choice: it is not lost.
        policy.assert_replicates(&aged(name, 600));
        // A clock a little ahead is a write; a time that a client kept is not.
        policy.assert(&aged(name, -60), Action::Defer, rule);
        policy.assert_replicates(&aged(name, -61));
    }
    policy.assert(&aged(b"caf\xe9/\xff.tmp", 0), Action::Defer, "growing upload *.tmp");
}

#[test]
fn a_final_name_travels_however_young() {
    let policy = policy(&[]);
    for name in ["in/a.pay", "in/a.tmp.pay", "filepart", "in/a.filepart/b", "in/.part.x"] {
        policy.assert_replicates(&aged(name, 0));
    }
    policy.assert_replicates(&symlink("in/a.tmp").with_mtime(AT));
    policy.assert_replicates(&directory("in/a.tmp").with_mtime(AT));
}

#[test]
fn markers_stay_behind_whatever_their_age() {
    let policy = policy(&[]);
    for name in ["in/.m_inproc", "in/a.pay.m_inproc", "in/a.m_inproc.17"] {
        policy.assert(&aged(name, 9_999_999), Action::Exclude, "marker *.m_inproc*");
        policy.assert(&aged(name, -9_999_999), Action::Exclude, "marker *.m_inproc*");
    }
    policy.assert_replicates(&file("in/m_inproc"));
    policy.assert_replicates(&directory("in/a.m_inproc"));
}

#[test]
fn a_trigger_waits_until_its_data_were_there_when_the_cut_began() {
    let policy = policy(&[]);
    policy.assert(&aged("in/a.trigger", 29), Action::Defer, "young trigger *.trigger");
    policy.assert_replicates(&aged("in/a.trigger", 30));
}

#[test]
fn names_mean_nothing_below_stfs() {
    let policy = policy(&[]);
    for path in [
        "home/bu/user/.stfs/attrs/a.tmp",
        ".stfs/attrs/a.m_inproc",
        "home/.stfs/objects/a1/b2/in.filepart",
    ] {
        policy.assert_replicates(&aged(path, 0));
    }
    policy.assert_replicates(&directory("home/bu/user/.stfs/objects"));
    policy.assert(&aged("home/x.stfs/a.tmp", 0), Action::Defer, "growing upload *.tmp");
}

#[test]
fn sandboxes_stay_behind_on_demand() {
    let policy = policy(&[("sandboxes", "false")]);
    let rule = "sandboxes .stfs/objects";
    policy.assert(&directory("home/bu/user/.stfs/objects"), Action::Exclude, rule);
    policy.assert(&directory(".stfs/objects"), Action::Exclude, rule);
    policy.assert_replicates(&directory("home/x.stfs/objects"));
    policy.assert_replicates(&directory("home/.stfs/objects/a1"));
    policy.assert_replicates(&directory("home/.stfs/attrs"));
}

#[test]
fn names_and_times_are_settings() {
    let policy = policy(&[
        ("markers", ""),
        ("uploads", "*.uploading, [0-9].tmp"),
        ("settle", "5s"),
        ("trigger-age", "0"),
    ]);
    policy.assert_replicates(&file("in/a.m_inproc"));
    policy.assert(&aged("in/a.uploading", 4), Action::Defer, "growing upload *.uploading");
    policy.assert_replicates(&aged("in/a.uploading", 5));
    policy.assert_replicates(&aged("in/10.tmp", 0));
    policy.assert_replicates(&aged("in/a.trigger", 0));
    for settings in [("settle", "5"), ("uploads", "[a"), ("sandboxes", "maybe"), ("settel", "5s")] {
        assert!(Configured::<MftDefaults>::new([settings], AT).is_err(), "{settings:?}");
    }
}

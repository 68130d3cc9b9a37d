//! What a run displaces is kept, and no longer than it is told to.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use farshore::replicate::{RunOptions, TargetOptions};

use crate::sites::{Sites, noise, put};

/// The files in history: set and name, with their content; manifests left out.
fn kept(b: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for set in fs::read_dir(b.join(".farshore/history")).expect("history") {
        let set = set.expect("a set");
        let name = set.file_name().into_string().expect("digits");
        for item in fs::read_dir(set.path()).expect("a set") {
            let item = item.expect("a version");
            let number = item.file_name().into_string().expect("a name");
            if number != "manifest" {
                let content = fs::read(item.path()).expect("its content");
                found.insert(format!("{name}/{number}"), content);
            }
        }
    }
    found
}

/// Replaced, truncated and deleted versions are in history whole; what arrives, moves or changes in
/// metadata alone leaves none.
#[test]
fn displaced_versions_are_kept_whole() {
    let sites = Sites::new();
    let (small, large) = (noise(1, 9_000), noise(2, 3 << 20));
    put(&sites.a.join("home/replaced"), &small);
    put(&sites.a.join("home/edited"), &large);
    put(&sites.a.join("home/deleted"), b"deleted content");
    put(&sites.a.join("home/gone/below"), b"below a deleted folder");
    put(&sites.a.join("home/moved"), b"moved content");
    put(&sites.a.join("home/swapped"), b"becomes a folder");
    put(&sites.a.join("home/touched"), b"only its mode changes");
    sites.run();
    assert!(kept(&sites.b).is_empty(), "a first run displaces nothing");
    put(&sites.a.join("home/replaced"), b"new");
    let mut edited = large.clone();
    edited[1 << 20] ^= 1;
    put(&sites.a.join("home/edited"), &edited);
    fs::remove_file(sites.a.join("home/deleted")).expect("removed");
    fs::remove_dir_all(sites.a.join("home/gone")).expect("removed");
    fs::rename(sites.a.join("home/moved"), sites.a.join("home/here")).expect("moved");
    fs::remove_file(sites.a.join("home/swapped")).expect("removed");
    put(&sites.a.join("home/swapped/inside"), b"it has");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(sites.a.join("home/touched"), mode).expect("its mode");
    sites.run_approved();
    sites.converged("after the changes");
    let mut contents: Vec<Vec<u8>> = kept(&sites.b).into_values().collect();
    contents.sort();
    let mut wanted = vec![
        small,
        large,
        b"deleted content".to_vec(),
        b"below a deleted folder".to_vec(),
        b"becomes a folder".to_vec(),
    ];
    wanted.sort();
    assert!(contents == wanted, "{} versions kept, {} displaced", contents.len(), wanted.len());
}

/// History is no account's to read, and comes back when content does: nothing is sent for it.
#[test]
fn what_comes_back_is_taken_from_history_or_sent_right() {
    let sites = Sites::new();
    let content = noise(3, 2 << 20);
    put(&sites.a.join("home/file"), &content);
    sites.run();
    let mode = fs::metadata(sites.b.join(".farshore")).expect("its folder").permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o700);
    put(&sites.a.join("home/file"), b"short");
    sites.run();
    put(&sites.a.join("home/file"), &content);
    let back = sites.run();
    assert!(back.literal() <= content.len() as u64);
    sites.converged("back again");
}

/// The oldest sets go while all take too many bytes; sets of the last runs stay.
#[test]
fn history_is_bounded_by_bytes() {
    let sites = Sites::new();
    let mut before = None;
    for round in 0..8u64 {
        let content = noise(round, 200_000);
        put(&sites.a.join("home/file"), &content);
        let target = TargetOptions { history_bytes_max: 500_000, ..TargetOptions::default() };
        sites.run_with(&RunOptions { target, ..sites.options() }).clean();
        let kept = kept(&sites.b);
        let bytes: usize = kept.values().map(Vec::len).sum();
        assert!(bytes <= 500_000, "round {round}: {bytes} bytes kept");
        if let Some(before) = before {
            assert!(kept.values().any(|v| *v == before), "round {round}: the last version is gone");
        }
        before = Some(content);
    }
    assert_eq!(kept(&sites.b).len(), 2);
    sites.converged("after the rounds");
}

/// A set older than the bound goes at the next run, whether that changes anything or not.
/// A name in history that leaves no number for later batches is nobody's.
#[test]
fn absurd_numbers_in_history_are_left_alone() {
    let sites = Sites::new();
    put(&sites.a.join("home/file"), b"first");
    sites.run();
    for name in [u64::MAX, u64::MAX - 1, u64::MAX / 2] {
        fs::create_dir(sites.b.join(format!(".farshore/history/{name}"))).expect("a folder");
    }
    put(&sites.a.join("home/file"), b"second");
    sites.run();
    sites.converged("with strange names in history");
}

#[test]
fn history_is_bounded_by_age() {
    let sites = Sites::new();
    put(&sites.a.join("home/file"), b"first");
    sites.run();
    put(&sites.a.join("home/file"), b"second");
    sites.run();
    assert_eq!(kept(&sites.b).len(), 1);
    std::thread::sleep(std::time::Duration::from_millis(30));
    let target = TargetOptions { history_age_max_ms: 20, ..TargetOptions::default() };
    let run = sites.run_with(&RunOptions { target, ..sites.options() });
    run.clean();
    assert_eq!(run.result.target.as_ref().map(|t| t.history_pruned), Some(1));
    assert!(kept(&sites.b).is_empty());
    sites.converged("after pruning");
}

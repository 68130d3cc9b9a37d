//! Whatever ends a rehearsal, nothing of it is left, and nothing else is removed.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::bed::{Bed, Disk, until};
use crate::common::{expect, finish, json, text};
use crate::pair::Pair;

fn some(pair: &Pair) {
    for n in 0..300 {
        pair.write(&format!("acct{}/{n}.csv", n % 7), format!("statement {n}\n").as_bytes());
    }
}

#[test]
fn a_probe_that_fails_is_an_exit_code_and_a_report() {
    let hooks = "[share.hooks]\nprobe = [\"/bin/sh\", \"-c\", \"cat acct1/1.csv; exit 3\"]\ntimeout = \"2s\"";
    let Some(bed) = Bed::new(Disk::Tmpfs, hooks) else { return };
    some(&bed.pair);
    let _daemons = bed.start();
    let (sequence, _) = bed.pair.point();
    let failed = |more: &[&str], word: &str| -> Value {
        let out = bed.rehearse(sequence, more);
        expect(&out, 8, &[word]);
        let report = json(&out);
        assert_eq!(report["cleaned"], true, "{report:#}");
        assert_eq!(report["probe_ready_ms"], Value::Null, "{report:#}");
        assert!(bed.is_clean());
        report
    };
    // That of the config, when none is given.
    let report = failed(&[], "it ended with 3");
    assert_eq!(report["probe"]["output"], "statement 1\n");
    failed(&["--probe", "/no/such/program"], "/no/such/program");
    failed(&["--probe", "sh", "-c", "kill -SEGV $$"], "signal 11");
    failed(&["--probe", "sleep", "1000"], "took longer than 2000 ms");
    expect(&bed.rehearse(sequence + 1_000, &[]), 3, &["is not kept"]);
    assert!(bed.is_clean());
}

/// Whether a process of this number is there.
fn runs(pid: &str) -> bool {
    Path::new("/proc").join(pid).join("cmdline").exists()
}

/// Processes whose environment has this word.
fn with_word(word: &str) -> Vec<String> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().into_string().ok());
    pids.filter(|pid| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.windows(word.len()).any(|window| window == word.as_bytes())
    })
    .collect()
}

#[test]
fn a_killed_rehearsal_leaves_nothing_that_runs_or_is_mounted_and_its_folder_goes() {
    let Some(bed) = Bed::new(Disk::Tmpfs, "") else { return };
    some(&bed.pair);
    let (daemon, _sender) = bed.start();
    let (sequence, _) = bed.pair.point();
    let before = bed.mounts();
    let marker = bed.beside("begun");
    // One that leaves a service behind as well.
    let root = format!("FARSHORE_ROOT={}", text(&bed.pair.recovery.tree));
    let script = format!("setsid sleep 1000 & touch '{}'; sleep 1000", text(&marker));
    let begin = || {
        let child = bed.spawn(sequence, &script);
        until("begun", || marker.exists());
        fs::remove_file(&marker).unwrap();
        assert!(with_word(&root).len() >= 2, "the command and what it left");
        child
    };
    let mut child = begin();
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    until("ended", || with_word(&root).is_empty());
    assert_eq!(bed.mounts(), before);
    // The daemon notices.
    bed.until_clean();

    // Without a daemon it stays, until one starts.
    let mut child = begin();
    let pid = child.id().to_string();
    daemon.kill();
    child.kill().unwrap();
    child.wait().unwrap();
    until("ended", || with_word(&root).is_empty() && !runs(&pid));
    assert!(!bed.is_clean());
    let _daemon = bed.pair.recovery.start();
    bed.until_clean();

    // What nobody has goes with the next rehearsal; what is kept stays, and history too.
    let all = bed.pair.recovery.tree.join(".farshore/rehearsal");
    fs::create_dir_all(all.join("0123ab/view/acct1")).unwrap();
    fs::create_dir_all(all.join("4567cd.kept/view")).unwrap();
    bed.goes_well(sequence, "true");
    assert!(!all.join("0123ab").exists());
    assert!(all.join("4567cd.kept/view").exists());
}

#[test]
fn a_signal_ends_it_in_order() {
    let Some(bed) = Bed::new(Disk::Tmpfs, "") else { return };
    some(&bed.pair);
    let _daemons = bed.start();
    let (sequence, _) = bed.pair.point();
    let before = bed.mounts();
    for signal in [Signal::INT, Signal::TERM] {
        let marker = bed.beside("begun");
        let child = bed.spawn(sequence, &format!("touch '{}'; sleep 1000", text(&marker)));
        until("begun", || marker.exists());
        fs::remove_file(&marker).unwrap();
        kill_process(Pid::from_child(&child), signal).unwrap();
        let out = finish(child, &["rehearse"]);
        expect(&out, 1, &["interrupted"]);
        assert!(bed.is_clean());
        assert_eq!(bed.mounts(), before);
    }
}

#[test]
fn one_that_is_kept_is_there_until_it_is_discarded() {
    let Some(bed) = Bed::new(Disk::Tmpfs, "") else { return };
    some(&bed.pair);
    let _daemons = bed.start();
    let (sequence, _) = bed.pair.point();
    let out = bed.rehearse(sequence, &["--keep", "--probe", "sh", "-c", "echo kept > acct1/new"]);
    expect(&out, 0, &[]);
    let report = json(&out);
    let view = Path::new(report["kept"].as_str().unwrap());
    assert_eq!(fs::read(view.join("acct1/new")).unwrap(), b"kept\n");
    assert_eq!(fs::read(view.join("acct1/1.csv")).unwrap(), b"statement 1\n");
    assert!(!bed.pair.recovery.tree.join("acct1/new").exists());
    bed.goes_well(sequence, "true");
    assert!(view.exists());
    let name = view.parent().unwrap().file_name().unwrap().to_str().unwrap();
    let config = text(&bed.pair.recovery.config);
    let discard =
        |name| crate::common::farshore(&["rehearse", "--discard", name, "--config", config]);
    expect(&discard("../../history"), 3, &[]);
    expect(&discard(name), 0, &[]);
    assert!(bed.is_clean());
}

#[test]
fn without_room_nothing_is_begun_and_a_disk_that_fills_is_named() {
    let Some(bed) = Bed::new(Disk::Tmpfs, "") else { return };
    let tree = bed.pair.recovery.tree.clone();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", &tree, "tmpfs", flags, c"size=12m").unwrap();
    let noise = farshore_test_support::Rng::new(5).bytes(7_000_000);
    bed.pair.write("acct/large.bin", &noise);
    let daemons = bed.start();
    let (sequence, _) = bed.pair.point();
    let out = bed.rehearse(sequence, &[]);
    expect(&out, 7, &["bytes free, what comes back takes about"]);
    assert!(bed.is_clean());
    drop(daemons);
    rustix::mount::unmount(&tree, rustix::mount::UnmountFlags::DETACH).unwrap();
}

//! A site whose service manager keeps the kernel's queue of events is restarted: it goes on from its journal and
//! what was queued, without a look at everything; with one where something was lost.
//!
//! Root only: fanotify, mounts.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use farshore_test_support::Rng;
use serde_json::Value;

use crate::churn::Churn;
use crate::common::{PATIENCE, is_root};
use crate::kills::{NO_BRAKE, copy, number};
use crate::manager::Manager;
use crate::pair::{Daemon, Dials, Pair, there};
use crate::room::Small;

const EVENTS: &str = "capture-homes-events";
const LEDGER: &str = "capture-homes-ledger";

/// A pair of which everything is looked at and sealed, and its events are kept.
struct Kept {
    pair: Pair,
    manager: Manager,
    standby: Option<Daemon>,
}

impl Kept {
    /// None where there are no events to be had.
    fn new() -> Option<(Self, Daemon)> {
        Self::with(NO_BRAKE)
    }

    fn with(more: &str) -> Option<(Self, Daemon)> {
        Self::of_size(more, "2g")
    }

    /// On a disk in memory of this size.
    fn of_size(more: &str, size: &str) -> Option<(Self, Daemon)> {
        if !is_root() {
            return None;
        }
        let pair = Pair::of_size(Dials::Production, more, size);
        for account in 0..20 {
            for folder in 0..10 {
                let at = format!("acct{account:02}/folder{folder}");
                (0..3).for_each(|file| pair.write(&format!("{at}/file{file}"), b"before"));
            }
        }
        let manager = Manager::new();
        let standby = Some(pair.recovery.start());
        let sender = manager.start(&pair.production, "serve");
        let this = Self { pair, manager, standby };
        this.covered();
        assert_eq!(this.manager.names(), [EVENTS, LEDGER]);
        Some((this, sender))
    }

    fn start(&self) -> Daemon {
        self.manager.start(&self.pair.production, "serve")
    }

    fn capture(&self) -> Value {
        self.pair.status(&self.pair.production)["shares"][0]["capture"].clone()
    }

    /// Waits until the point moves by events.
    fn covered(&self) {
        self.pair.point();
        self.pair.wait(&self.pair.production, "looked at", |share| {
            share["capture"]["last_look_unix_ms"].is_i64()
                && share["capture"]["whole_look_percent"].is_null()
        });
        self.moves();
    }

    fn moves(&self) {
        let (_, time) = self.pair.point();
        self.pair.wait(&self.pair.production, "a later point", |share| {
            share["recovery_point"]["time_unix_ms"].as_i64() > Some(time)
        });
    }

    /// Everything arrived, the point vouches for it, and nobody looked at everything.
    #[track_caller]
    fn resumed(&self, sender: &Daemon, looked_at_most: u64) {
        self.moves();
        self.pair.equal("after a restart");
        let capture = self.capture();
        let start = capture["start"].as_str().unwrap_or_default();
        assert!(start.starts_with("resumes: "), "{capture:#}\n{}", sender.log());
        assert_eq!(capture["whole_looks"], 0, "{capture:#}\n{}", sender.log());
        let looked_at = capture["looked_at"].as_u64().unwrap();
        assert!(looked_at <= looked_at_most, "{capture:#}");
        assert!(sender.log().contains("no look at the whole tree"), "{}", sender.log());
    }

    /// Everything arrived, by a look at everything, and that is said.
    #[track_caller]
    fn looked(&self, sender: &Daemon, why: &str) {
        self.covered();
        self.pair.equal("after a look at everything");
        let capture = self.capture();
        let start = capture["start"].as_str().unwrap_or_default();
        assert!(start.contains("looks at everything") && start.contains(why), "{capture:#}");
        assert!(capture["whole_looks"].as_u64() > Some(0), "{capture:#}");
        assert!(sender.log().contains(why), "{}", sender.log());
    }

    /// Changes of every kind in a few directories.
    fn change(&self, round: usize) {
        let at = |path: &str| self.pair.production.tree.join(path);
        self.pair.write(&format!("acct01/folder1/new{round}"), b"new");
        self.pair.write(&format!("acct02/folder2/file{}", round % 3), b"rewritten");
        fs::remove_file(at(&format!("acct03/folder{round}/file1"))).unwrap();
        fs::rename(at(&format!("acct04/folder{round}")), at(&format!("acct05/moved{round}")))
            .unwrap();
        self.pair.write(&format!("acct05/moved{round}/later"), b"in its new place");
        fs::remove_dir_all(at(&format!("acct06/folder{round}"))).unwrap();
        self.pair.write(&format!("new{round}/deep/er/file"), b"a new account");
        let to = at(&format!("acct07/folder{round}/renamed"));
        fs::rename(at(&format!("acct07/folder{round}/file0")), to).unwrap();
    }
}

/// Entries a restart after [`Kept::change`] looks at, of 821 and more: those of the directories that changed.
const FEW: u64 = 250;

#[test]
fn what_changes_while_no_daemon_runs_arrives_without_a_look_at_everything() {
    let Some((kept, mut sender)) = Kept::new() else { return };
    for round in 0..4 {
        if round % 2 == 0 {
            assert!(sender.stop().success());
        } else {
            sender.kill();
        }
        kept.change(round);
        sender = kept.start();
        kept.resumed(&sender, FEW);
    }
    // And what changes while it runs again.
    kept.change(5);
    kept.resumed(&sender, 2 * FEW);
    drop(kept.standby);
}

#[test]
fn nothing_is_missed_whenever_it_is_killed() {
    let Some((kept, mut sender)) = Kept::new() else { return };
    let kills = number("FARSHORE_TEST_KILLS", 8);
    let seed = number("FARSHORE_TEST_SEED", u64::from(std::process::id()));
    println!("FARSHORE_TEST_SEED={seed} FARSHORE_TEST_KILLS={kills}");
    let mut rng = Rng::new(seed);
    let churn = Churn::start(&kept.pair.production.tree, seed, 8, 1_500);
    for _ in 0..kills {
        std::thread::sleep(Duration::from_millis(rng.below(400)));
        sender.kill();
        std::thread::sleep(Duration::from_millis(rng.below(100)));
        // One in four is killed again before it is ready.
        sender = kept.manager.spawn(&kept.pair.production, "serve");
        if rng.below(4) == 0 {
            std::thread::sleep(Duration::from_millis(rng.below(60)));
            sender.kill();
            sender = kept.manager.spawn(&kept.pair.production, "serve");
        }
    }
    churn.rest();
    sender.kill();
    sender = kept.start();
    kept.resumed(&sender, u64::MAX);
    churn.stop();
    drop(kept.standby);
}

/// The journal of the one share of a site.
fn journal_of(state: &Path) -> std::path::PathBuf {
    let found = |folder: &Path| {
        let entries = fs::read_dir(folder).unwrap().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let mut folders = vec![state.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for path in found(&folder) {
            match path.is_dir() {
                true => folders.push(path),
                false if path.ends_with("capture.journal") => return path,
                false => {}
            }
        }
    }
    panic!("no journal below {}", state.display())
}

#[test]
fn more_than_the_kernel_queues_ends_in_a_look_at_everything() {
    let Some((kept, sender)) = Kept::new() else { return };
    assert!(sender.stop().success());
    let events = fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events").unwrap();
    let events: usize = events.trim().parse().unwrap();
    let at = |n: usize| kept.pair.production.tree.join(format!("acct08/file{n}"));
    fs::write(at(0), b"x").unwrap();
    (0..=events).for_each(|n| fs::rename(at(n), at(n + 1)).unwrap());
    kept.pair.write("acct09/folder9/lost", b"its event was lost");
    let sender = kept.start();
    kept.pair.wait(&kept.pair.production, "looked at again", |share| {
        share["capture"]["whole_looks"].as_u64() > Some(0)
    });
    kept.covered();
    kept.pair.equal("after an overflow");
    assert_eq!(kept.capture()["overflows"], 1);
    assert!(sender.log().contains("the kernel's queue of events"), "{}", sender.log());
    drop(kept.standby);
}

#[test]
fn what_was_kept_is_not_believed_when_it_may_lack_something() {
    let Some((mut kept, mut sender)) = Kept::new() else { return };
    let state = &kept.pair.production.state.clone();
    let backup = state.with_extension("backup");
    // Another boot.
    assert!(sender.stop().success());
    kept.manager.scribble(LEDGER, 24, &[0x5a; 16]);
    kept.pair.write("acct01/boot", b"x");
    sender = kept.start();
    kept.looked(&sender, "the machine was started anew");
    // A state folder from a backup: what came between was read, and is in no journal now.
    sender.kill();
    copy(state, &backup);
    sender = kept.start();
    kept.moves();
    kept.standby.take().unwrap().kill();
    kept.pair.write("acct01/folder1/since", b"x");
    let read = |share: &Value| share["at_risk"]["files"].as_u64() > Some(0);
    kept.pair.wait(&kept.pair.production, "read", read);
    std::thread::sleep(Duration::from_millis(200));
    sender.kill();
    fs::remove_dir_all(state).unwrap();
    copy(&backup, state);
    kept.standby = Some(kept.pair.recovery.start());
    sender = kept.start();
    kept.looked(&sender, "older than what was read since");
    // The journal of another watch.
    sender.kill();
    let journal = journal_of(&backup);
    fs::copy(&journal, journal_of(state)).unwrap();
    kept.pair.write("acct01/journal", b"x");
    sender = kept.start();
    kept.looked(&sender, "not that of the watch that was kept");
    // What was read last could not be journaled.
    sender.kill();
    kept.manager.scribble(LEDGER, 72, &[1, 0, 0, 0, 0, 0, 0, 0]);
    kept.pair.write("acct01/failed", b"x");
    sender = kept.start();
    kept.looked(&sender, "could not be written");
    // Memory of another version.
    sender.kill();
    kept.manager.scribble(LEDGER, 0, b"another");
    kept.pair.write("acct01/version", b"x");
    sender = kept.start();
    kept.looked(&sender, "not as this version keeps it");
    // The manager kept nothing.
    sender.kill();
    kept.manager.clear();
    kept.pair.write("acct01/nothing", b"x");
    sender = kept.start();
    kept.looked(&sender, "not watched for a while");
    assert_eq!(kept.manager.names(), [EVENTS, LEDGER], "the new watch is kept");
    assert!(sender.stop().success());
    kept.pair.write("acct01/last", b"x");
    sender = kept.start();
    kept.resumed(&sender, FEW);
    drop((sender, kept.standby));
}

#[test]
fn a_tree_that_was_unmounted_meanwhile_is_looked_at() {
    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
    if !is_root() {
        return;
    }
    let image = tempfile::tempdir().unwrap();
    let file = image.path().join("image");
    fs::File::create(&file).unwrap().set_len(64 << 20).unwrap();
    let run = |program: &str, args: &[&str]| {
        std::process::Command::new(program)
            .args(args)
            .output()
            .is_ok_and(|out| out.status.success())
    };
    let file = crate::common::text(&file);
    let pair = Pair::with(Dials::Production, NO_BRAKE);
    let tree = crate::common::text(&pair.production.tree).to_owned();
    let mounts = || run("mount", &["-o", "loop", file, &tree]);
    if !run("mkfs.ext4", &["-q", file]) || !mounts() {
        println!("no ext4 here");
        return;
    }
    fs::remove_dir(pair.production.tree.join("lost+found")).unwrap();
    pair.write("acct01/one", b"1");
    let manager = Manager::new();
    let standby = Some(pair.recovery.start());
    let sender = manager.start(&pair.production, "serve");
    let kept = Kept { pair, manager, standby };
    kept.covered();
    assert!(sender.stop().success());
    kept.pair.write("acct01/queued", b"x");
    unmount(tree.as_str(), UnmountFlags::empty()).unwrap();
    // Written where nobody watches: the mark went with the file system.
    assert!(mounts());
    kept.pair.write("acct01/unseen", b"x");
    let sender = kept.start();
    kept.looked(&sender, "unmounted meanwhile");
    // It is another file system now.
    assert!(sender.stop().success());
    mount("tmpfs", tree.as_str(), "tmpfs", MountFlags::empty(), None).unwrap();
    let other = kept.manager.spawn(&kept.pair.production, "serve");
    other.wait_for("another folder");
    unmount(tree.as_str(), UnmountFlags::empty()).unwrap();
    kept.pair.write("acct01/back", b"x");
    kept.resumed(&other, FEW);
    drop(other);
    unmount(tree.as_str(), UnmountFlags::DETACH).unwrap();
    drop(kept.standby);
}

#[test]
fn what_could_not_be_replicated_is_an_exception_after_a_restart_too() {
    if !is_root() {
        return;
    }
    let pair = Pair::with(Dials::Production, NO_BRAKE);
    let Some(small) = Small::over(&pair.recovery.tree, "32m") else { return };
    pair.write("acct1/in/first", b"1");
    let manager = Manager::new();
    let standby = Some(pair.recovery.start());
    let sender = manager.start(&pair.production, "serve");
    let kept = Kept { pair, manager, standby };
    kept.covered();
    kept.pair.write("acct1/in/huge", &Rng::new(1).bytes(40 << 20));
    let exceptions = |wanted: u64| {
        kept.pair.wait(&kept.pair.production, "exceptions", |share| {
            share["recovery_point"]["exceptions"].as_u64() == Some(wanted)
        })
    };
    exceptions(1);
    let sequence = |share: &Value| share["recovery_point"]["sequence"].as_u64().unwrap();
    // Sealed behind it: nothing waits.
    let before = sequence(&exceptions(1));
    kept.pair.wait(&kept.pair.production, "later", |share| sequence(share) > before + 1);
    sender.kill();
    let sender = kept.start();
    kept.moves();
    kept.moves();
    let share = exceptions(1);
    assert_eq!(share["capture"]["whole_looks"], 0, "{share:#}");
    small.grow("256m");
    exceptions(0);
    kept.resumed(&sender, FEW);
    drop(kept.standby);
}

/// An account waits for one large file that is half carried and another that has not begun: nothing of it is
/// forgotten by a restart, and no point passes for having it.
#[test]
fn what_waits_for_a_large_file_is_owed_to_the_next_run() {
    const FILES: [(&str, usize); 2] = [("first", 24 << 20), ("second", 28 << 20)];
    let line = format!("{NO_BRAKE}\n[bandwidth]\nlimit = \"8M\"");
    let Some((kept, mut sender)) = Kept::with(&line) else { return };
    let pair = &kept.pair;
    let is_named = |share: &Value| {
        let mut worst = share["accounts"]["worst"].as_array().into_iter().flatten();
        worst.any(|account| account["account"] == "acct01")
    };
    // Killed when it waits, when half of it came, and ended in order then.
    for (round, carried) in [0, 6 << 20, 6 << 20].into_iter().enumerate() {
        let name = |file: &str| format!("acct01/folder1/{round}-{file}");
        let made = pair.production.tree.with_file_name("made");
        let mut contents = Vec::new();
        for (n, (file, len)) in FILES.into_iter().enumerate() {
            contents.push(Rng::new((round * 2 + n) as u64).bytes(len));
            fs::write(&made, &contents[n]).unwrap();
            fs::rename(&made, pair.production.tree.join(name(file))).unwrap();
        }
        let trigger = name("a.ready");
        pair.write(&trigger, b"go");
        let share = pair.wait(&pair.production, "named", is_named);
        let since = share["accounts"]["worst"][0]["time_unix_ms"].as_i64().unwrap();
        // A chunk of 64 KiB takes some 35 bytes of log.
        let until = Instant::now() + PATIENCE;
        while logged(pair) * (64 << 10) / 35 < carried {
            assert!(Instant::now() < until, "nothing is carried");
            std::thread::sleep(Duration::from_millis(10));
        }
        if round == 2 {
            assert!(sender.stop().success());
        } else {
            sender.kill();
        }
        let meanwhile = format!("acct01/folder2/{round}-meanwhile");
        pair.write(&meanwhile, b"while nobody ran");
        let is_there = |file: &str| there(pair, &name(file)).exists();
        assert!(!is_there("first") || !is_there("second"), "too early to test anything");
        sender = kept.start();
        let mut seen = 0;
        loop {
            pair.write("acct02/folder1/other", format!("{round} {seen}").as_bytes());
            pair.point();
            let share = pair.status(&pair.recovery)["shares"][0].clone();
            let both = is_there("first") && is_there("second");
            assert!(both || !there(pair, &trigger).exists(), "the trigger before its files");
            assert!(both || !there(pair, &meanwhile).exists(), "what came behind them");
            if is_named(&share) {
                let time = share["accounts"]["worst"][0]["time_unix_ms"].as_i64().unwrap();
                assert!(time <= since, "{time} after {since}");
                assert!(share["recovery_point"]["exceptions"].as_u64() > Some(0), "{share:#}");
                seen += 1;
            } else if is_there("first") && is_there("second") {
                break;
            } else {
                // Looked at after the point: one that names nothing has all.
                assert!(both, "a point without its account: {share:#}");
            }
        }
        assert!(seen > 0, "too late to test anything");
        kept.resumed(&sender, u64::MAX);
        for ((file, _), content) in FILES.into_iter().zip(contents) {
            assert!(fs::read(there(pair, &name(file))).unwrap() == content, "{file}");
        }
        assert!(there(pair, &trigger).exists() && there(pair, &meanwhile).exists());
        for site in [&pair.production, &pair.recovery] {
            pair.wait(site, "level again", |share| {
                !is_named(share) && share["recovery_point"]["exceptions"] == 0
            });
        }
    }
    drop(kept.standby);
}

/// Bytes of the log of what is held ahead.
fn logged(pair: &Pair) -> u64 {
    let slots = fs::read_dir(there(pair, ".farshore/ahead")).into_iter().flatten();
    let log =
        |slot: std::io::Result<fs::DirEntry>| slot.ok()?.path().join("recipe").metadata().ok();
    slots.filter_map(log).map(|log| log.len()).max().unwrap_or(0)
}

#[test]
fn nodes_and_their_leader_restart_without_a_look_at_everything() {
    if !is_root() {
        return;
    }
    let more = format!("nodes = [\"n2\"]\n{NO_BRAKE}");
    let pair = Pair::with(Dials::Recovery, &more);
    let node = crate::nodes::node(&pair, "n2");
    pair.write("acct1/one", b"1");
    let (manager, its) = (Manager::new(), Manager::new());
    let standby = Some(pair.recovery.start());
    let mut leader = Some(manager.start(&pair.production, "serve"));
    let mut reports = its.start(&node, "capture");
    let kept = Kept { pair, manager, standby };
    kept.covered();
    for round in 0..3 {
        // The leader alone, the node alone, both.
        if round != 1 {
            leader.take().unwrap().kill();
            fs::write(node.tree.join(format!("acct1/leader{round}")), b"x").unwrap();
        }
        if round != 0 {
            assert!(reports.stop().success());
            fs::write(node.tree.join(format!("acct1/both{round}")), b"x").unwrap();
            reports = its.start(&node, "capture");
            assert!(reports.log().contains("nothing is lost"), "{}", reports.log());
        }
        if round != 1 {
            leader = Some(kept.start());
        }
        kept.resumed(leader.as_ref().unwrap(), u64::MAX);
    }
    // A node that did not watch says so.
    reports.kill();
    its.clear();
    let reports = its.start(&node, "capture");
    kept.pair.wait(&kept.pair.production, "looked at everything", |share| {
        share["capture"]["whole_looks"].as_u64() == Some(1)
    });
    drop((leader, reports, kept.standby));
}

#[test]
fn what_other_policies_let_travel_is_looked_for() {
    let Some((kept, sender)) = Kept::with(&format!("policies = [\"mft-defaults\"]\n{NO_BRAKE}"))
    else {
        return;
    };
    kept.pair.write("acct01/folder1/a.filepart", b"half");
    kept.moves();
    assert!(sender.stop().success());
    let sender = kept.start();
    kept.moves();
    assert_eq!(kept.capture()["whole_looks"], 0, "the same policies");
    assert!(!kept.pair.recovery.tree.join("acct01/folder1/a.filepart").exists());
    assert!(sender.stop().success());
    for site in [&kept.pair.production, &kept.pair.recovery] {
        let config = fs::read_to_string(&site.config).unwrap();
        fs::write(&site.config, config.replace("policies = [\"mft-defaults\"]", "")).unwrap();
    }
    let sender = kept.start();
    kept.looked(&sender, "the policies are others");
    drop(kept.standby);
}

/// From nothing to the first new change at the standby, and what that took.
#[test]
#[ignore = "prints what it measured"]
fn a_restart_at_a_million_files() {
    let files = number("FARSHORE_TEST_FILES", 1_000_000);
    // A page each at either site, and what is known of them.
    let size = format!("{}m", 1_024 + files / 100);
    let Some((kept, mut sender)) = Kept::of_size(NO_BRAKE, &size) else { return };
    let begin = Instant::now();
    let at = |n: u64| {
        let name = format!("acct{:03}/in{:02}/{n:07}", n % 200, n / 200 % 50);
        kept.pair.production.tree.join(name)
    };
    for n in 0..files {
        let at = at(n);
        if n < 10_000 {
            fs::create_dir_all(at.parent().unwrap()).unwrap();
        }
        fs::write(at, n.to_string()).unwrap();
    }
    println!("{files} files made in {:.1?}", begin.elapsed());
    let until = Instant::now() + Duration::from_secs(1_800);
    let entries = || {
        let status = kept.pair.status(&kept.pair.production);
        let share = &status["shares"][0];
        let is_looked_at = share["capture"]["whole_look_percent"].is_null();
        share["recovery_point"]["entries"].as_u64().filter(|_| is_looked_at).unwrap_or(0)
    };
    while entries() < files {
        assert!(Instant::now() < until, "{}", sender.log());
        std::thread::sleep(Duration::from_secs(1));
    }
    println!("replicated after {:.1?}", begin.elapsed());
    for round in 0..6 {
        kept.moves();
        let how = ["stop", "kill -9", "kill -9, nothing kept"][round % 3];
        match round % 3 {
            0 => assert!(sender.stop().success()),
            _ => sender.kill(),
        }
        if round % 3 == 2 {
            kept.manager.clear();
        }
        let name = format!("acct001/in00/new{round}");
        kept.pair.write(&name, b"new");
        let begin = Instant::now();
        sender = kept.manager.spawn(&kept.pair.production, "serve");
        while !kept.pair.recovery.tree.join(&name).exists() {
            assert!(begin.elapsed() < PATIENCE, "{}", sender.log());
            std::thread::sleep(Duration::from_millis(1));
        }
        let first = begin.elapsed();
        // The point vouches for it.
        kept.covered();
        let (whole, capture) = (begin.elapsed(), kept.capture());
        let (_, peak) = crate::common::memory_of(sender.pid());
        println!(
            "{how}: first change after {first:.2?}, a point after {whole:.2?}; {} entries looked at, {} whole \
             looks, peak {} MiB",
            capture["looked_at"],
            capture["whole_looks"],
            peak >> 20,
        );
    }
    drop((sender, kept.standby));
}

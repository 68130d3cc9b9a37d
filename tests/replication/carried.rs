//! What becomes of a file and of its account while the file travels ahead of its cut: it changes, others of the
//! account come and go, policies change.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use farshore_core::policy::{Action, Candidate, Policy, PolicySet, Verdict};
use farshore_engine::source::standing::Cut;
use farshore_proto::message::AHEAD_MAX;

use crate::ahead::{
    HUGE, MIB, SLOW, ahead_bytes, begun, first_cut, is_empty, noise, put_huge, wait,
    wait_for_carried,
};
use crate::sites::Sites;
use crate::standing::{Standing, parts, path, standing, whole, write};

fn change(file: &Path, at: u64, with: &[u8]) {
    fs::OpenOptions::new().write(true).open(file).unwrap().write_all_at(with, at).unwrap();
}

/// What is held ahead at the target: folders, and bytes as their files count them.
fn held(sites: &Sites) -> (usize, u64) {
    let slots: Vec<_> =
        fs::read_dir(sites.b.join(".farshore/ahead")).into_iter().flatten().flatten().collect();
    let size = |slot: &fs::DirEntry| slot.path().join("1").metadata().map_or(0, |file| file.len());
    (slots.len(), slots.iter().map(size).sum())
}

/// As a mailbox is that gets a mail every few seconds: whenever it is carried, it is another one when its cut comes.
#[test]
fn a_file_that_changes_between_its_journey_and_its_cut_arrives_and_holds_up_nobody_for_ever() {
    let (sites, mut content) = (Sites::in_memory(), noise(20, HUGE));
    begun(&sites);
    standing(&sites, |at| {
        first_cut(at);
        let huge = put_huge(&sites, &content);
        let (there, ready) = (sites.b.join("acct1/in/huge"), sites.b.join("acct1/in/a.ready"));
        at.script.cut(parts(2_000, ["acct1/in"]));
        let mut rounds = 0;
        while !there.exists() {
            assert!(!ready.exists(), "the trigger before its file");
            assert_eq!(at.script.released(), [path("acct1")]);
            rounds += 1;
            assert!(rounds < 10, "never placed");
            content[MIB * rounds..MIB * rounds + 10].fill(7);
            change(&huge, (MIB * rounds) as u64, &[7; 10]);
            at.script.cut(parts(2_000 + rounds as i64 * 1_000, ["acct1/in"]));
        }
        assert!(at.script.left_out().is_empty() && ready.exists());
        assert!(fs::read(&there).unwrap() == content);
        sites.equal("in the end");
        // What was carried of it is what its cut builds on.
        let literal = at.progress.literal_bytes.load(Relaxed);
        assert!(literal < 2 * MIB as u64, "{literal} bytes in cuts");
        wait("removed", || is_empty(&sites.b.join(".farshore/ahead")));
    })
    .expect("ends in order");
    sites.converged("by a run of its own");
}

/// Each attempt leaves all that came of it, and the next one builds on the version in the tree.
#[test]
fn of_a_file_that_never_rests_no_more_is_held_than_an_attempt_or_two() {
    let (sites, content) = (Sites::in_memory(), noise(21, 4 * HUGE));
    begun(&sites);
    let huge = sites.a.join("acct1/in/huge");
    fs::write(&huge, &content).unwrap();
    standing(&sites, |at| {
        first_cut(at);
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut n = 0u64;
                while !over.load(Relaxed) {
                    n += 1;
                    change(&huge, n % 5 * MIB as u64, &n.to_le_bytes());
                    std::thread::sleep(Duration::from_millis(25));
                }
            });
            let (began, mut time) = (Instant::now(), 2_000);
            let mut most = (0, 0);
            while began.elapsed() < Duration::from_secs(18) {
                time += 1_000;
                at.script.cut(parts(time, ["acct1/in"]));
                std::thread::sleep(Duration::from_millis(100));
                most = most.max(held(&sites));
            }
            over.store(true, Relaxed);
            assert!((1..=3).contains(&most.0), "{most:?}");
        });
        assert!(at.script.left_out().is_empty(), "it waits by itself");
    })
    .expect("ends in order");
}

#[test]
fn nothing_of_an_account_goes_or_comes_while_it_waits() {
    let (sites, content) = (Sites::in_memory(), noise(22, HUGE));
    begun(&sites);
    for name in ["removed", "renamed", "over", "away"] {
        write(&sites.a, &format!("acct1/in/{name}"), name);
    }
    write(&sites.a, "acct1/deep/er/file", "x");
    standing(&sites, |at| {
        first_cut(at);
        at.link.set_bandwidth_limit(Some(SLOW));
        put_huge(&sites, &content);
        let a = |name: &str| sites.a.join(name);
        fs::remove_file(a("acct1/in/removed")).unwrap();
        fs::rename(a("acct1/in/renamed"), a("acct1/in/other")).unwrap();
        fs::rename(a("acct2/in/first"), a("acct1/in/over")).unwrap();
        fs::rename(a("acct1/in/away"), a("acct2/in/away")).unwrap();
        fs::remove_dir_all(a("acct1/deep")).unwrap();
        at.script.cut(whole(2_000));
        assert_eq!(at.script.left_out(), [path("acct1")]);
        at.script.cut(parts(3_000, ["acct1/in", "acct2/in"]));
        for (name, content) in
            [("removed", "removed"), ("renamed", "renamed"), ("over", "over"), ("away", "away")]
        {
            let at = sites.b.join("acct1/in").join(name);
            assert_eq!(fs::read_to_string(at).unwrap(), content, "{name}");
        }
        assert!(sites.b.join("acct1/deep/er/file").exists());
        assert!(!sites.b.join("acct1/in/other").exists());
        assert!(sites.b.join("acct2/in/away").exists(), "the other account goes on");
        at.link.set_bandwidth_limit(None);
        let mut time = 3_000;
        while !sites.b.join("acct1/in/huge").exists() {
            at.script.released();
            time += 1_000;
            at.script.cut(whole(time));
        }
        sites.equal("in the end");
    })
    .expect("ends in order");
    sites.converged("by a run of its own");
}

#[test]
fn how_fast_the_line_is_a_small_part_of_a_file_does_not_say() {
    let (sites, mut content) = (Sites::in_memory(), noise(23, 4 * HUGE));
    begun(&sites);
    let huge = sites.a.join("acct1/in/huge");
    fs::write(&huge, &content).unwrap();
    standing(&sites, |at| {
        first_cut(at);
        content[..9 * MIB].copy_from_slice(&noise(24, 9 * MIB));
        fs::write(&huge, &content).unwrap();
        at.script.cut(parts(2_000, ["acct1/in"]));
        at.script.released();
        assert!(ahead_bytes(at) > 8 * MIB as u64, "{} bytes", ahead_bytes(at));
        assert_eq!(at.progress.line_rate.load(Relaxed), 0, "most of the time it was read");
        content.copy_from_slice(&noise(25, 4 * HUGE));
        fs::write(&huge, &content).unwrap();
        at.script.cut(parts(3_000, ["acct1/in"]));
        at.script.released();
        assert!(at.progress.line_rate.load(Relaxed) > 0);
    })
    .expect("ends in order");
}

/// Cuts the account until its trigger is there: never before all of these, each as it is at the source, and no cut
/// has an exception.
fn arrives_whole(sites: &Sites, at: &Standing<'_>, names: &[String]) {
    let (there, ready) = (sites.b.join("acct1/in"), sites.b.join("acct1/in/a.ready"));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Not only between two cuts.
        let watch = scope.spawn(|| {
            while !over.load(Relaxed) && !ready.exists() {
                std::thread::sleep(Duration::from_millis(1));
            }
            let missing = names.iter().filter(|name| !there.join(name).exists());
            missing.cloned().collect::<Vec<_>>()
        });
        for round in 1.. {
            let report = at.script.cut(parts(1_000 + round * 1_000, ["acct1/in"]));
            assert!(report.problems.is_empty(), "{:?}", report.problems);
            if at.script.left_out().is_empty() {
                break;
            }
            at.script.released();
            assert!(round < 10, "never placed");
        }
        over.store(true, Relaxed);
        assert_eq!(watch.join().unwrap(), Vec::<String>::new(), "after the trigger");
    });
    assert!(ready.exists());
    sites.equal("in the end");
    wait("removed", || is_empty(&sites.b.join(".farshore/ahead")));
}

/// The second is built on the first, which waits for the cut of both.
#[test]
fn two_large_files_that_are_much_the_same_arrive_together_and_before_their_trigger() {
    let (sites, content) = (Sites::in_memory(), noise(27, 4 * MIB));
    begun(&sites);
    standing(&sites, |at| {
        first_cut(at);
        let names = ["dump1".to_owned(), "dump2".to_owned()];
        let second = [&content[..], b"and more"].concat();
        fs::write(sites.a.join("acct1/in/dump1"), &content).unwrap();
        fs::write(sites.a.join("acct1/in/dump2"), second).unwrap();
        write(&sites.a, "acct1/in/a.ready", "go");
        arrives_whole(&sites, at, &names);
        assert!(ahead_bytes(at) < 5 * MIB as u64, "{} bytes", ahead_bytes(at));
    })
    .expect("ends in order");
    sites.converged("by a run of its own");
}

#[test]
fn an_account_of_more_large_files_than_the_target_holds_arrives_whole_and_before_its_trigger() {
    const FILES: usize = AHEAD_MAX + 16;
    let (sites, content) = (Sites::in_memory(), noise(28, FILES * MIB / 4));
    begun(&sites);
    standing(&sites, |at| {
        first_cut(at);
        at.script.carries_from(MIB as u64 / 8);
        let names: Vec<String> = (0..FILES).map(|n| format!("dump{n}")).collect();
        for (name, content) in names.iter().zip(content.chunks(MIB / 4)) {
            fs::write(sites.a.join("acct1/in").join(name), content).unwrap();
        }
        write(&sites.a, "acct1/in/a.ready", "go");
        arrives_whole(&sites, at, &names);
    })
    .expect("ends in order");
    sites.converged("by a run of its own");
}

/// Nothing of that name travels.
struct Without(&'static str);

impl Policy for Without {
    fn exclude(&self, candidates: &[Candidate<'_>]) -> Vec<Verdict> {
        let verdict = |candidate: &Candidate<'_>| match candidate.path.as_bytes() {
            path if path.ends_with(self.0.as_bytes()) => Verdict::by_rule(Action::Exclude, 0),
            _ => Verdict::REPLICATE,
        };
        candidates.iter().map(verdict).collect()
    }

    fn rules(&self) -> Vec<String> {
        vec!["without".into()]
    }

    fn identity(&self) -> PolicySet {
        PolicySet { rules: [9; 32], ..PolicySet::default() }
    }
}

#[test]
fn a_file_that_is_excluded_while_it_is_carried_no_longer_keeps_its_account_waiting() {
    let (sites, content) = (Sites::in_memory(), noise(26, 4 * HUGE));
    begun(&sites);
    standing(&sites, |at| {
        first_cut(at);
        // Two minutes of it.
        at.link.set_bandwidth_limit(Some(MIB as u64 / 2));
        put_huge(&sites, &content);
        at.script.cut(parts(2_000, ["acct1/in"]));
        assert_eq!(at.script.left_out(), [path("acct1")]);
        wait_for_carried(&sites, 4 * MIB);
        let without = |time| Cut { policy: Arc::new(Without("huge")), ..whole(time) };
        at.script.cut(without(3_000));
        assert_eq!(at.script.released(), [path("acct1")]);
        at.script.cut(without(4_000));
        assert!(at.script.left_out().is_empty());
        assert!(sites.b.join("acct1/in/a.ready").exists());
        assert!(!sites.b.join("acct1/in/huge").exists());
        at.link.set_bandwidth_limit(None);
        wait("removed", || is_empty(&sites.b.join(".farshore/ahead")));
    })
    .expect("ends in order");
}

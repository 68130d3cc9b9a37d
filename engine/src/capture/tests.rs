//! The set against a model that remembers every mark.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use farshore_core::account::account_of;
use farshore_core::path::RelPath;
use proptest::prelude::*;

use super::journal;
use super::ledger::Ledger;
use super::marks::account_bytes;
use super::place::Root;
use super::*;
use crate::plan::{Part, Scope};

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).expect("valid")
}

fn config(directories_max: usize) -> DirtyConfig {
    DirtyConfig { directories_max, sync_every: Duration::ZERO, ..DirtyConfig::default() }
}

/// A mark that no finished cut has included yet.
#[derive(Debug, Clone)]
struct Owed {
    path: RelPath,
    deep: bool,
    step: usize,
    ms: i64,
}

fn includes(scope: &Taking, owed: &Owed) -> bool {
    let Taking::Parts(scope) = scope else { return true };
    scope.parts().iter().any(|part| {
        (part.directory == owed.path && (part.deep || !owed.deep))
            || (part.deep && owed.path.starts_with(&part.directory))
    })
}

#[derive(Debug, Clone)]
enum Step {
    Mark(RelPath, bool),
    Whole,
    Take { parts_only: bool, left_out: BTreeSet<RelPath>, settle: i64 },
    Done(usize),
    PutBack(usize),
    Drop(usize),
    Crash,
}

fn any_directory() -> impl Strategy<Value = RelPath> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 0..5)
        .prop_map(|names| path(&names.join("/")))
}

fn any_step() -> impl Strategy<Value = Step> {
    let left_out = prop::collection::btree_set(any_directory(), 0..2);
    prop_oneof![
        8 => (any_directory(), prop::bool::weighted(0.2)).prop_map(|(at, deep)| Step::Mark(at, deep)),
        1 => Just(Step::Whole),
        4 => (any::<bool>(), left_out, 0..20i64).prop_map(|(parts_only, left_out, settle)| {
            Step::Take { parts_only, left_out, settle }
        }),
        2 => (0..4usize).prop_map(Step::Done),
        1 => (0..4usize).prop_map(Step::PutBack),
        1 => (0..4usize).prop_map(Step::Drop),
        1 => Just(Step::Crash),
    ]
}

/// The set, the cuts under way and what is owed.
struct Model<'a> {
    set: DirtySet,
    folder: &'a Path,
    config: DirtyConfig,
    cuts: Vec<(Taken, usize)>,
    owed: Vec<Owed>,
}

impl Model<'_> {
    fn step(&mut self, number: usize, step: Step) {
        let ms = i64::try_from(number).expect("few");
        let chosen = |n: usize, cuts: &[(Taken, usize)]| (!cuts.is_empty()).then(|| n % cuts.len());
        match step {
            Step::Mark(path, deep) => {
                self.set.mark(&path, deep, ms);
                self.owed.push(Owed { path, deep, step: number, ms });
            }
            Step::Whole => self.set.mark_whole("a reason", ms),
            Step::Take { parts_only, left_out, settle } => {
                let settled_before_ms = Some(ms - settle);
                let filter =
                    TakeFilter { parts_only, left_out: left_out.clone(), settled_before_ms };
                let Some(taken) = self.set.take(&filter) else { return };
                assert!(!parts_only || matches!(taken.scope, Taking::Parts(_)));
                assert!(taken.accounts.keys().all(|account| !left_out.contains(account)));
                self.cuts.push((taken, number));
                self.left_out_wait(&left_out);
            }
            Step::Done(n) => {
                let Some(n) = chosen(n, &self.cuts) else { return };
                let (taken, at) = self.cuts.remove(n);
                let left: Vec<Owed> = std::mem::take(&mut self.owed);
                let is_left = |owed: &Owed| owed.step > at || !includes(&taken.scope, owed);
                self.owed = left.into_iter().filter(is_left).collect();
                self.set.done(taken);
            }
            Step::PutBack(n) => {
                let Some(n) = chosen(n, &self.cuts) else { return };
                let taken = self.cuts.remove(n).0;
                self.set.put_back(taken);
            }
            Step::Drop(n) => {
                let Some(n) = chosen(n, &self.cuts) else { return };
                drop(self.cuts.remove(n));
            }
            Step::Crash => self.crash(ms),
        }
        self.nothing_is_lost();
    }

    fn crash(&mut self, ms: i64) {
        self.set.flush().expect("written");
        let flying = self.cuts.iter().any(|(cut, _)| matches!(cut.scope, Taking::Whole(_)));
        let had_whole = flying || self.set.status().whole.is_some();
        self.cuts.drain(..).for_each(|(taken, _)| std::mem::forget(taken));
        let (set, resumed) = DirtySet::resume(self.config, self.folder, ms).expect("resumed");
        assert_eq!(resumed.gap, Gap::Unwatched);
        self.set = set;
        let collapsed = self.set.status().whole.is_none_or(|(why, _)| why.contains("more dir"));
        if !had_whole && !collapsed {
            self.parts_are_known();
        }
    }

    /// What waits is told by its parts, without the whole that a resumed set says beside them.
    fn parts_are_known(&mut self) {
        let parts = self.set.take(&TakeFilter { parts_only: true, ..TakeFilter::default() });
        let told = |owed: &Owed| parts.as_ref().is_some_and(|parts| includes(&parts.scope, owed));
        self.owed.iter().for_each(|owed| assert!(told(owed), "{owed:?}"));
        let whole = self.set.take(&TakeFilter::default()).expect("whole");
        assert!(matches!(whole.scope, Taking::Whole(_)));
        self.set.done(whole);
    }

    fn left_out_wait(&self, left_out: &BTreeSet<RelPath>) {
        let depth = self.config.account_depth;
        for owed in &self.owed {
            let account = account_of(&owed.path, depth);
            // Those above accounts wait with their own alone.
            if !account.is_root() && left_out.contains(&account) {
                let earlier = &self.cuts[..self.cuts.len() - 1];
                let in_earlier = earlier.iter().any(|(cut, _)| includes(&cut.scope, owed));
                assert!(in_earlier || self.set.waits(&owed.path), "{owed:?}");
            }
        }
    }

    fn nothing_is_lost(&self) {
        let status = self.set.status();
        for owed in &self.owed {
            let waits = self.set.waits(&owed.path);
            let flies =
                self.cuts.iter().any(|(cut, at)| *at > owed.step && includes(&cut.scope, owed));
            assert!(waits || flies, "{owed:?} of {status:?}");
            assert!(
                status.oldest_ms.is_some_and(|oldest| oldest <= owed.ms),
                "{owed:?} {status:?}"
            );
        }
        assert!(status.directories <= self.config.directories_max);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    #[test]
    fn no_mark_is_lost_in_any_order_of_steps(
        steps in prop::collection::vec(any_step(), 1..60),
        directories_max in prop::sample::select(vec![6usize, 20, 1_000]),
        account_depth in 0usize..3,
    ) {
        let folder = tempfile::tempdir().expect("a folder");
        let config = DirtyConfig { account_depth, ..config(directories_max) };
        let (set, resumed) = DirtySet::resume(config, folder.path(), 0).expect("begun");
        prop_assert_eq!(resumed.gap, Gap::New);
        let mut model =
            Model { set, folder: folder.path(), config, cuts: Vec::new(), owed: Vec::new() };
        model.parts_are_known();
        for (number, step) in steps.into_iter().enumerate() {
            model.step(number, step);
        }
        // All of it can be taken.
        model.cuts.clear();
        let mut scopes = Vec::new();
        while let Some(taken) = model.set.take(&TakeFilter::default()) {
            scopes.push(taken.scope.clone());
            model.set.done(taken);
        }
        for owed in &model.owed {
            prop_assert!(scopes.iter().any(|scope| includes(scope, owed)), "{:?}", owed);
        }
    }

    #[test]
    fn an_account_is_told_alike_of_bytes_and_of_a_path(at in any_directory(), depth in 0usize..4) {
        let account = account_of(&at, depth);
        prop_assert_eq!(account_bytes(at.as_bytes(), depth), account.as_bytes());
    }
}

#[test]
fn too_many_directories_become_accounts_and_then_the_whole() {
    let set = DirtySet::new(config(100));
    (0..60).for_each(|n| set.mark(&path(&format!("large/{n}")), false, 5));
    (0..41).for_each(|n| set.mark(&path(&format!("small/{n}")), false, 7));
    let status = set.status();
    assert_eq!((status.whole, status.collapses), (None, 1));
    let large = status.accounts.iter().find(|a| a.account == path("large")).expect("there");
    assert_eq!((large.first_ms, large.directories, large.deep), (5, 1, true));
    assert!(set.waits(&path("large/77/x")) && !set.waits(&path("small/77")));
    (0..100).for_each(|n| set.mark(&path(&format!("account{n}")), false, 9));
    let status = set.status();
    let (why, since_ms) = status.whole.expect("whole");
    assert!(why.contains("more directories") && since_ms == 5, "{why} {since_ms}");
    // Paths are bounded as well as their number.
    let set = DirtySet::new(DirtyConfig { bytes_max: 4_000, ..config(1_000) });
    let long = "n".repeat(200);
    (0..100).for_each(|n| set.mark(&path(&format!("a/{n}{long}")), false, 1));
    assert!(set.status().path_bytes <= 4_000 && set.status().whole.is_none());
}

#[test]
fn a_mark_that_comes_while_its_directory_is_in_flight_waits_for_the_next_cut() {
    let set = DirtySet::new(config(100));
    set.mark(&path("a/b"), false, 1);
    let first = set.take(&TakeFilter::default()).expect("taken");
    assert!(set.take(&TakeFilter::default()).is_none());
    set.mark(&path("a/b"), false, 3);
    set.done(first);
    let second = set.take(&TakeFilter::default()).expect("taken");
    assert_eq!((second.oldest_ms, second.accounts.get(&path("a"))), (3, Some(&3)));
    // Held: as old as it was, whatever came meanwhile.
    set.mark(&path("a/b"), false, 4);
    set.put_back(second);
    assert_eq!(set.status().oldest_ms, Some(3));
}

#[test]
fn held_and_unsettled_accounts_go_on_waiting() {
    let set = DirtySet::new(config(100));
    set.mark(&path("a/x"), false, 1);
    set.mark(&path("b/x"), false, 2);
    set.mark(&path("c/x"), false, 9);
    let left_out = BTreeSet::from([path("a")]);
    let filter = TakeFilter { left_out, settled_before_ms: Some(5), ..TakeFilter::default() };
    let taken = set.take(&filter).expect("taken");
    assert_eq!(taken.accounts.keys().collect::<Vec<_>>(), [&path("b")]);
    // The whole takes what is young too; what is left out waits as a whole of its own.
    set.mark_whole("why", 3);
    let whole = set.take(&filter).expect("taken");
    assert_eq!(whole.scope, Taking::Whole("why".into()));
    set.done(whole);
    let status = set.status();
    assert_eq!((status.whole, status.accounts.len()), (None, 1));
    let account = &status.accounts[0];
    assert_eq!((&account.account, account.deep, account.first_ms), (&path("a"), true, 1));
}

#[test]
fn an_account_that_is_held_below_a_deep_mark_is_known_after_a_crash() {
    // Whatever the order of the marks in the journal.
    for _ in 0..20 {
        let folder = tempfile::tempdir().expect("a folder");
        let resume = || DirtySet::resume(config(100), folder.path(), 9).expect("resumed").0;
        let set = resume();
        set.done(set.take(&TakeFilter::default()).expect("whole"));
        set.mark(&path("b"), true, 1);
        set.mark(&path(""), true, 2);
        set.flush().expect("written");
        // Written anew, as a whole.
        let set = resume();
        let left_out = BTreeSet::from([path("b")]);
        let held = TakeFilter { left_out, parts_only: true, ..TakeFilter::default() };
        set.done(set.take(&held).expect("the share's own"));
        let set = resume();
        let parts = set.take(&TakeFilter { parts_only: true, ..TakeFilter::default() });
        let parts = parts.expect("held");
        assert_eq!((parts.accounts.len(), parts.oldest_ms), (1, 1));
        assert!(parts.accounts.contains_key(&path("b")));
    }
}

#[test]
fn nothing_is_given_out_while_the_root_is_gone() {
    let set = DirtySet::new(config(100));
    set.mark(&path("a"), false, 1);
    set.root_gone("unmounted");
    assert_eq!(set.status().gone.as_deref(), Some("unmounted"));
    assert!(set.take(&TakeFilter::default()).is_none());
    set.root_back(5);
    let taken = set.take(&TakeFilter::default()).expect("taken");
    assert!(matches!(taken.scope, Taking::Whole(_)));
}

#[test]
fn what_was_announced_counts_from_the_beginning_of_a_look_and_with_what_waits_then() {
    let set = DirtySet::new(config(100));
    ["a", "b", "c"].iter().for_each(|at| set.mark(&path(at), false, 1));
    let left_out = BTreeSet::from([path("b"), path("c")]);
    let taken = set.take(&TakeFilter { left_out, ..TakeFilter::default() }).expect("taken");
    set.done(taken);
    let left_out = BTreeSet::from([path("c")]);
    let flying = set.take(&TakeFilter { left_out, ..TakeFilter::default() }).expect("taken");
    set.look_began();
    assert!(!set.was_announced(&path("a")), "looked at before");
    assert!(set.was_announced(&path("b")) && set.was_announced(&path("c")));
    set.mark(&path("d"), true, 2);
    assert!(set.was_announced(&path("d/e/f")) && !set.was_announced(&path("e")));
    drop(flying);
}

#[test]
fn a_journal_damaged_at_any_byte_resumes_with_the_whole_and_what_came_before() {
    let folder = tempfile::tempdir().expect("a folder");
    let (set, _) = DirtySet::resume(config(100), folder.path(), 0).expect("begun");
    set.done(set.take(&TakeFilter::default()).expect("whole"));
    for n in 0..4 {
        set.mark(&path(&format!("a/{n}")), n == 2, n);
        set.flush().expect("written");
    }
    drop(set.take(&TakeFilter::default()).expect("parts"));
    let at = folder.path().join(JOURNAL_NAME);
    let whole = std::fs::read(&at).expect("read");
    for byte in 0..whole.len() {
        for cut in [true, false] {
            let mut damaged = whole.clone();
            if cut {
                damaged.truncate(byte);
            } else {
                damaged[byte] ^= 0x10;
            }
            std::fs::write(&at, &damaged).expect("written");
            let (set, resumed) = DirtySet::resume(config(100), folder.path(), 9).expect("resumed");
            assert!(set.status().whole.is_some(), "byte {byte}");
            assert!(cut || resumed.gap != Gap::Unwatched, "byte {byte}: {resumed:?}");
            let known = (0..4).filter(|n| set.take_away(&path(&format!("a/{n}")))).count();
            assert_eq!(known, resumed.directories, "byte {byte}");
        }
    }
    std::fs::write(&at, &whole).expect("written");
    let (_, resumed) = DirtySet::resume(config(100), folder.path(), 9).expect("resumed");
    assert_eq!((resumed.gap, resumed.directories, resumed.last_ms), (Gap::Unwatched, 4, Some(3)));
}

impl DirtySet {
    /// Whether the directory is marked by itself, whatever the whole.
    fn take_away(&self, directory: &RelPath) -> bool {
        let taken = self.take(&TakeFilter { parts_only: true, ..TakeFilter::default() });
        let Some(taken) = taken else { return false };
        let Taking::Parts(scope) = &taken.scope else { return false };
        scope.parts().iter().any(|part| part.directory == *directory)
    }
}

#[test]
fn a_journal_that_cannot_be_written_is_told_and_written_anew_when_it_can() {
    let folder = tempfile::tempdir().expect("a folder");
    let (state, away) = (folder.path().join("state"), folder.path().join("away"));
    std::fs::create_dir(&state).expect("made");
    let (set, _) = DirtySet::resume(config(1_000), &state, 0).expect("begun");
    set.done(set.take(&TakeFilter::default()).expect("whole"));
    std::fs::rename(&state, &away).expect("renamed");
    // Appended all the same, until it would be written anew.
    for round in 0..1_000 {
        (0..500).for_each(|n| set.mark(&path(&format!("account/{n}")), false, round));
        set.done(set.take(&TakeFilter::default()).expect("taken"));
        if set.status().journal_error.is_some() {
            break;
        }
    }
    set.mark(&path("a"), false, 1);
    assert!(set.flush().is_err() && set.status().journal_error.is_some());
    assert!(DirtySet::resume(config(1_000), &state, 0).is_err());
    std::fs::rename(&away, &state).expect("renamed");
    set.flush().expect("written");
    assert_eq!(set.status().journal_error, None);
    let (_, resumed) = DirtySet::resume(config(1_000), &state, 9).expect("resumed");
    assert_eq!((resumed.gap, resumed.directories), (Gap::Unwatched, 1));
}

#[test]
fn the_accounts_of_a_journal_of_another_depth_are_told_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let (set, _) = DirtySet::resume(config(100), folder.path(), 0).expect("begun");
    set.done(set.take(&TakeFilter::default()).expect("whole"));
    set.mark(&path(""), false, 1);
    set.mark(&path("a/b"), false, 9);
    let settled_before_ms = Some(5);
    let taken = set.take(&TakeFilter { settled_before_ms, ..TakeFilter::default() });
    set.done(taken.expect("the share's own"));
    let deeper = DirtyConfig { account_depth: 0, ..config(100) };
    let (set, resumed) = DirtySet::resume(deeper, folder.path(), 10).expect("resumed");
    assert_eq!(resumed.directories, 1);
    let status = set.status();
    assert_eq!((&status.accounts[0].account, status.accounts[0].first_ms), (&path(""), 9));
}

#[test]
fn a_journal_stays_small_whatever_number_of_events() {
    let folder = tempfile::tempdir().expect("a folder");
    let (set, _) = DirtySet::resume(config(1_000), folder.path(), 0).expect("begun");
    for round in 0..400 {
        (0..500).for_each(|n| set.mark(&path(&format!("account/{n}")), false, round));
        set.done(set.take(&TakeFilter::default()).expect("taken"));
    }
    assert!(set.status().journal_len < 3 << 20, "{}", set.status().journal_len);
    let (_, resumed) = DirtySet::resume(config(1_000), folder.path(), 0).expect("resumed");
    assert_eq!(resumed.directories, 0);
}

#[test]
fn who_waits_is_woken_by_news_alone() {
    let set = DirtySet::new(config(100));
    let long = Duration::from_secs(600);
    set.mark(&path("a"), false, 1);
    let version = set.wait(0, long);
    set.mark(&path("a"), false, 2);
    assert_eq!(set.wait(version, Duration::from_millis(1)), version);
    let other = set.clone();
    std::thread::scope(|scope| {
        scope.spawn(move || other.mark(&path("b"), false, 3));
        assert_ne!(set.wait(version, long), version);
    });
}

/// A set whose watch is kept, everything looked at and one directory marked, with the frame of the mark last.
fn kept_set(folder: &Path, root: &Path) -> (DirtySet, Ledger) {
    let root = Root::open(root).expect("opened");
    let (ledger, _buffer) = Ledger::create(&root).expect("made");
    let (set, _) = DirtySet::resume(config(100), folder, 0).expect("begun");
    set.may_be_kept(&ledger).expect("written");
    set.done(set.take(&TakeFilter::default()).expect("whole"));
    set.looked(5, 6);
    set.mark(&path("a"), false, 7);
    set.flush().expect("written");
    (set, ledger)
}

fn resume_kept(folder: &Path, ledger: &Ledger) -> (DirtySet, Resumed) {
    let read = journal::read(folder).expect("read").expect("there");
    let belongs = ledger.belongs(read.watch(), read.frame(), read.damaged_at.is_some());
    let kept = belongs.map(|()| ledger.clone());
    DirtySet::resume_with(config(100), folder, Some(read), Some(kept), 9).expect("resumed")
}

#[test]
fn a_watch_that_was_kept_resumes_what_waited_and_what_is_owed_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let (set, ledger) = kept_set(folder.path(), folder.path());
    set.owe(BTreeMap::from([(path("b"), false), (path("c"), true)]), None);
    set.owe(BTreeMap::from([(path("c"), true)]), None);
    set.done(set.take(&TakeFilter::default()).expect("a"));
    drop(set);
    let (set, resumed) = resume_kept(folder.path(), &ledger);
    assert_eq!((resumed.gap, resumed.looked, resumed.directories), (Gap::None, Some((5, 6)), 1));
    let taken = set.take(&TakeFilter::default()).expect("what is owed");
    let owed = Part { directory: path("c"), deep: true };
    assert_eq!(taken.scope, Taking::Parts(Scope::new([owed])));
    // What is to be looked at as a whole is no complete look any more, done or not.
    set.done(taken);
    set.mark_whole("lost", 10);
    set.looked(11, 1);
    let whole = set.take(&TakeFilter::default()).expect("whole");
    set.looked(11, 1);
    set.done(whole);
    let (set, resumed) = resume_kept(folder.path(), &ledger);
    assert_eq!((resumed.gap, resumed.looked, set.status().whole), (Gap::None, None, None));
    set.looked(12, 1);
    set.owe(BTreeMap::new(), Some("much is owed"));
    set.flush().expect("written");
    let (set, resumed) = resume_kept(folder.path(), &ledger);
    let why = set.status().whole.expect("whole").0;
    assert_eq!((resumed.looked, why.as_str()), (None, "much is owed"));
}

#[test]
fn a_journal_is_believed_when_it_has_all_that_was_read_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join(JOURNAL_NAME);
    let (set, ledger) = kept_set(folder.path(), folder.path());
    let before = std::fs::read(&file).expect("read");
    set.mark(&path("b"), false, 8);
    set.flush().expect("written");
    let after = std::fs::read(&file).expect("read");
    drop(set);
    let gap = |bytes: &[u8]| {
        std::fs::write(&file, bytes).expect("written");
        let read = journal::read(folder.path()).expect("read").expect("there");
        ledger.belongs(read.watch(), read.frame(), read.damaged_at.is_some())
    };
    assert_eq!(gap(&after), Ok(()));
    // At rest one that lacks its last frame, or part of it, is older.
    for cut in before.len()..after.len() {
        assert_eq!(gap(&after[..cut]), Err(Disbelief::OlderJournal), "cut to {cut}");
    }
    assert_eq!(gap(&[&after[..], b"more"].concat()), Err(Disbelief::OtherJournal));
    // Killed while it was written: what it was to say is in the buffer.
    let last = ledger.written();
    ledger.journal_is_at(last - 1);
    ledger.begins_frame(last);
    for cut in before.len()..=after.len() {
        assert_eq!(gap(&after[..cut]), Ok(()), "cut to {cut}");
    }
    for cut in 8..before.len() {
        assert!(gap(&before[..cut]).is_err(), "cut to {cut}");
    }
    // Another watch's.
    let root = Root::open(folder.path()).expect("opened");
    let (other, _) = Ledger::create(&root).expect("made");
    other.journal_is_at(last);
    std::fs::write(&file, &after).expect("written");
    let read = journal::read(folder.path()).expect("read").expect("there");
    let belongs = other.belongs(read.watch(), read.frame(), false);
    assert_eq!(belongs, Err(Disbelief::OtherJournal));
}

//! What the tests of the brake share, and what holds of every cut.

use std::collections::{BTreeMap, BTreeSet};

use crate::account::account_of;
use crate::guard::Threshold;
use crate::path::RelPath;

use super::*;

mod day;
mod decisions;
mod properties;
mod shapes;

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
/// Noon.
const START: i64 = 20_000 * 24 * HOUR + 12 * HOUR;

fn p(path: &str) -> RelPath {
    RelPath::new(path.as_bytes()).expect("a path")
}

#[derive(Debug, Clone)]
enum Change {
    New(String, u64),
    Folder(String),
    Gone(String),
    Wrote(String, Option<Sample>),
    Moved(String, String),
}

/// A target that does what the brake lets pass.
struct Site {
    brake: Brake,
    now: i64,
    files: BTreeSet<String>,
    known: BTreeMap<RelPath, u64>,
    point: LastPoint,
    /// Cuts look at the whole share.
    whole: bool,
    /// They could not see what is held.
    blind: bool,
    root: Root,
}

impl Site {
    fn new(config: BrakeConfig) -> Self {
        Self {
            brake: Brake::new(config),
            now: START,
            files: BTreeSet::new(),
            known: BTreeMap::new(),
            point: LastPoint { sequence: 7, time_ms: START - 5 },
            whole: false,
            blind: false,
            root: Root::Same,
        }
    }

    /// Files `account/fNNNN.csv` that have been there for long.
    fn with(mut self, account: &str, files: usize) -> Self {
        for i in 0..files {
            self.insert(&format!("{account}/f{i:05}.csv"));
        }
        self
    }

    fn insert(&mut self, path: &str) {
        if self.files.insert(path.to_owned()) {
            *self.known.entry(account_of(&p(path), 1)).or_default() += 1;
        }
    }

    fn remove(&mut self, path: &str) {
        if self.files.remove(path) {
            *self.known.entry(account_of(&p(path), 1)).or_default() -= 1;
        }
    }

    fn tally(&self, changes: &[Change]) -> CutTally {
        let mut tally = self.brake.tally(self.files.len() as u64, self.point, self.now);
        tally.root(self.root);
        if self.whole {
            tally.whole();
        }
        for change in changes {
            match change {
                Change::New(path, size) => tally.created(&p(path), Created::File { size: *size }),
                Change::Folder(path) => tally.created(&p(path), Created::Directory),
                Change::Gone(path) => tally.deleted(&p(path)),
                Change::Wrote(path, sample) => tally.rewritten(&p(path), *sample),
                Change::Moved(from, to) => tally.moved(&p(from), &p(to)),
            }
        }
        let held = self.brake.holds().iter().filter_map(|h| h.account.clone());
        let held = held.filter(|_| self.whole && !self.blind);
        let accounts: Vec<_> = tally.unknown().cloned().chain(held).collect();
        for account in accounts {
            let known = self.known.get(&account).copied().unwrap_or(0);
            tally.account(account, known, self.whole && !self.blind);
        }
        tally.finish()
    }

    fn cut(&mut self, changes: &[Change]) -> Judgement {
        let cut = self.tally(changes);
        let judgement = self.brake.judge(&cut, self.now);
        self.brake.applied(&cut, &judgement, self.now);
        for change in changes {
            let (Change::New(path, _)
            | Change::Folder(path)
            | Change::Gone(path)
            | Change::Wrote(path, _)
            | Change::Moved(path, _)) = change;
            let verdict = judgement.verdicts.get(&account_of(&p(path), 1));
            if verdict.is_some_and(|v| *v != Verdict::Pass) {
                continue;
            }
            match change {
                Change::New(path, _) | Change::Folder(path) => self.insert(path),
                Change::Gone(path) => self.remove(path),
                Change::Wrote(..) => {}
                Change::Moved(from, to) => {
                    self.remove(from);
                    self.insert(to);
                }
            }
        }
        self.now += 1_000;
        judgement
    }

    fn restart(&mut self) {
        let bytes = self.brake.encode();
        let config = self.brake.config.clone();
        self.brake = Brake::decode(&bytes, config).expect("own bytes");
    }

    fn reasons(&self) -> String {
        self.brake.holds().iter().map(|h| format!("{h}\n")).collect()
    }
}

fn gone(account: &str, files: std::ops::Range<usize>) -> Vec<Change> {
    files.map(|i| Change::Gone(format!("{account}/f{i:05}.csv"))).collect()
}

fn wrote(account: &str, files: std::ops::Range<usize>, sample: Option<Sample>) -> Vec<Change> {
    files.map(|i| Change::Wrote(format!("{account}/f{i:05}.csv"), sample)).collect()
}

#[test]
fn a_mass_delete_holds_its_account_and_the_rest_goes_on() {
    let mut site = Site::new(BrakeConfig::default()).with("a", 200).with("b", 200);
    let mut changes = gone("a", 0..120);
    changes.extend(gone("b", 0..3));
    let judgement = site.cut(&changes);
    assert_eq!(judgement.verdicts[&p("a")], Verdict::Hold(1));
    assert_eq!(judgement.verdicts[&p("b")], Verdict::Pass);
    assert_eq!(site.files.len(), 397);
    let hold = &site.brake.holds()[0];
    assert_eq!((hold.point, hold.counts.deleted), (site.point, 120));
    assert_eq!(
        site.reasons(),
        "account a is held: 120 of 200 entries would be deleted within 1h, more than 20 and 50 %; \
         next: farshore brake show, then farshore brake approve or reject\n"
    );
}

#[test]
fn a_slow_drip_is_held_before_it_passes_the_threshold() {
    let mut site = Site::new(BrakeConfig::default()).with("a", 200);
    let held = (0..200).find(|&i| !site.cut(&gone("a", i..i + 1)).passes());
    assert_eq!(held, Some(100), "the 101st of 200 files is more than half");
    assert_eq!(site.files.len(), 100);
}

#[test]
fn a_drip_slower_than_the_window_passes() {
    let mut site = Site::new(BrakeConfig::default()).with("a", 200);
    for i in 0..200 {
        assert!(site.cut(&gone("a", i..i + 1)).passes());
        site.now += 5 * MINUTE;
    }
}

#[test]
fn the_share_holds_the_largest_part_until_the_rest_fits() {
    let mut site = Site::new(BrakeConfig::default()).with("big", 9_000).with("b", 1_000);
    let mut changes = gone("big", 0..1_500);
    changes.extend(gone("b", 0..10));
    let judgement = site.cut(&changes);
    assert_eq!(judgement.verdicts[&p("big")], Verdict::Hold(1));
    assert_eq!(judgement.verdicts[&p("b")], Verdict::Pass);
    assert!(site.reasons().contains("1510 of 10000 entries of the share would be deleted"));
}

#[test]
fn many_accounts_at_once_are_the_shares_trouble() {
    let mut site = Site::new(BrakeConfig::default());
    let mut changes = Vec::new();
    for i in 0..20 {
        let account = format!("a{i:02}");
        site = site.with(&account, 100);
        changes.extend(gone(&account, 0..80));
    }
    site = site.with("calm", 10);
    let judgement = site.cut(&changes);
    assert_eq!(judgement.began.len(), 1);
    assert_eq!(site.brake.holds()[0].account, None);
    assert_eq!(site.brake.holds()[0].counts.deleted, 1_600);
    assert_eq!(site.brake.verdict(&p("calm")), Verdict::Hold(1));
}

#[test]
fn consuming_what_arrived_within_the_window_is_no_mass_change() {
    let mut site = Site::new(BrakeConfig::default()).with("a", 10);
    for round in 0..20 {
        let name = |i: usize, end: &str| format!("a/in/r{round}-{i}{end}");
        let arrive: Vec<_> = (0..200).map(|i| Change::New(name(i, ".filepart"), 100)).collect();
        let settle: Vec<_> =
            (0..200).map(|i| Change::Moved(name(i, ".filepart"), name(i, ".edi"))).collect();
        let consume: Vec<_> = (0..200).map(|i| Change::Gone(name(i, ".edi"))).collect();
        for changes in [arrive, settle, consume] {
            assert!(site.cut(&changes).passes(), "{}", site.reasons());
        }
    }
}

#[test]
fn young_files_grow_old() {
    let mut site = Site::new(BrakeConfig::default()).with("a", 10);
    let names: Vec<_> = (0..50).map(|i| format!("a/n{i}.csv")).collect();
    site.cut(&names.iter().map(|n| Change::New(n.clone(), 1)).collect::<Vec<_>>());
    site.now += HOUR + 5 * MINUTE;
    assert!(!site.cut(&names.iter().map(|n| Change::Gone(n.clone())).collect::<Vec<_>>()).passes());
}

#[test]
fn a_move_into_place_of_an_old_file_keeps_its_age() {
    let mut site = Site::new(BrakeConfig::default()).with("a", 100);
    let name = |i: usize| format!("a/f{i:05}.csv");
    let moves: Vec<_> = (0..90).map(|i| Change::Moved(name(i), format!("a/bin/{i}.csv"))).collect();
    assert!(site.cut(&moves).passes());
    let deletes: Vec<_> = (0..90).map(|i| Change::Gone(format!("a/bin/{i}.csv"))).collect();
    assert!(!site.cut(&deletes).passes());
}

#[test]
fn a_log_that_grows_all_day_counts_once() {
    let config =
        BrakeConfig { threshold: Threshold { entries: 20, percent: 10 }, ..BrakeConfig::default() };
    let mut site = Site::new(config).with("a", 60);
    for _ in 0..300 {
        assert!(site.cut(&wrote("a", 0..25, None)).passes(), "{}", site.reasons());
    }
    assert!(!site.cut(&wrote("a", 25..35, None)).passes(), "35 of 60");
    assert!(site.reasons().contains("35 of 60 entries would be rewritten"), "{}", site.reasons());
}

#[test]
fn purges_pass_in_their_window_and_hold_outside() {
    let purges = vec![PurgeWindow { at_s: 23 * 3600, for_s: 2 * 3600 }];
    let config = BrakeConfig { purges, ..BrakeConfig::default() };
    let midnight = START + 12 * HOUR;
    for (at, passes) in [
        (midnight - HOUR, true),
        (midnight + 59 * MINUTE, true),
        (midnight + HOUR, false),
        (midnight - HOUR - 1, false),
    ] {
        let mut site = Site::new(config.clone()).with("a", 2_000);
        site.now = at;
        assert_eq!(site.cut(&gone("a", 0..1_500)).passes(), passes, "{}", at - midnight);
        if passes {
            assert!(!site.cut(&wrote("a", 0..1_999, None)).passes(), "rewrites count");
        }
    }
}

#[test]
fn an_emptied_or_replaced_root_holds_all_and_ends_when_it_is_back() {
    for (root, words) in [(Root::Emptied, "is empty"), (Root::Replaced, "another directory")] {
        let mut site = Site::new(BrakeConfig::default()).with("a", 5);
        site.root = root;
        assert!(!site.cut(&gone("a", 0..5)).passes());
        assert!(site.reasons().contains(words));
        assert_eq!(site.brake.verdict(&p("other")), Verdict::Hold(1));
        site.root = Root::Same;
        let judgement = site.cut(&[]);
        assert_eq!(judgement.ended.len(), 1);
        assert_eq!(site.brake.verdict(&p("a")), Verdict::Pass);
        assert_eq!(site.files.len(), 5);
    }
}

#[test]
fn a_clock_that_goes_back_forgets_nothing() {
    let mut site = Site::new(BrakeConfig::default()).with("a", 200);
    assert!(site.cut(&gone("a", 0..90)).passes());
    site.now -= 30 * 24 * HOUR;
    assert!(site.cut(&gone("a", 90..95)).passes());
    assert!(!site.cut(&gone("a", 95..115)).passes());
}

#[test]
fn buckets_are_bounded_and_calm_accounts_cost_nothing() {
    let mut site = Site::new(BrakeConfig::default()).with("a", 5_000);
    for i in 0..600 {
        site.cut(&gone("a", i..i + 1));
        site.now += 40_000;
        let buckets = site.brake.accounts[&p("a")].buckets.len();
        assert!(buckets <= window::BUCKETS_MAX, "{buckets}");
    }
    site.now += 2 * HOUR;
    site.cut(&[]);
    assert!(site.brake.accounts.is_empty() && site.brake.seen.is_empty());
}

#[test]
fn an_account_nobody_counted_holds_early() {
    let brake = Brake::new(BrakeConfig::default());
    let mut tally = brake.tally(1_000, LastPoint::default(), START);
    (0..21).for_each(|i| tally.deleted(&p(&format!("a/{i}"))));
    let cut = tally.finish();
    assert!(!brake.clone().judge(&cut, START).passes());
}

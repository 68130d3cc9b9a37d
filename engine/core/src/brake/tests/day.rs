//! A day of ordinary life of a managed file transfer site: nothing is held.

use std::collections::BinaryHeap;

use super::*;

const ACCOUNTS: usize = 200;
const FILES: f64 = 20_000.0;
const CUT: i64 = 10_000;
const SECOND: i64 = 1_000;

/// Seeded, so that a day is the same day everywhere (splitmix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Exponential with this median.
    fn wait(&mut self, median_ms: i64) -> i64 {
        (-(1.0 - self.unit()).ln() / std::f64::consts::LN_2 * median_ms as f64) as i64
    }
}

struct Day {
    dice: Dice,
    site: Site,
    /// What comes, soonest first.
    events: BinaryHeap<(std::cmp::Reverse<i64>, usize)>,
    changes: Vec<Change>,
    made: usize,
}

impl Day {
    fn at(&mut self, when: i64, change: Change) {
        self.events.push((std::cmp::Reverse(when), self.changes.len()));
        self.changes.push(change);
    }

    /// One arrival and what becomes of it.
    fn arrival(&mut self, account: usize, when: i64) {
        self.made += 1;
        let ending = ["edi", "xml", "csv", "pgp", "zip", "pdf", "dat"][self.dice.below(7)];
        let folder = format!("acct{account:03}/inbound");
        let name = format!("{folder}/n{}.{ending}", self.made);
        let mut when = when;
        if self.dice.unit() < 0.65 {
            let temp = name.clone() + ["", ".filepart", ".tmp", ".part"][1 + self.dice.below(3)];
            self.at(when, Change::New(temp.clone(), 12_000));
            when += self.dice.wait(3 * SECOND);
            self.at(when, Change::Moved(temp, name.clone()));
        } else {
            self.at(when, Change::New(name.clone(), 12_000));
            self.at(when + SECOND, Change::Wrote(name.clone(), None));
        }
        let attrs = format!("acct{account:03}/.stfs/attrs/n{}.{ending}", self.made);
        self.at(when, Change::New(attrs.clone(), 400));
        if self.dice.unit() < 0.01 {
            let mark = name.clone() + ".m_inproc";
            self.at(when, Change::New(mark.clone(), 0));
            let done = when + self.dice.wait(5 * SECOND);
            self.at(done, Change::Gone(mark));
        }
        let fate = self.dice.unit();
        if fate < 0.5 {
            let then = when + self.dice.wait(5 * SECOND).min(15 * MINUTE) + 1;
            self.at(then, Change::Gone(name.clone()));
            self.at(then, Change::Gone(attrs));
            if self.dice.unit() < 0.1 {
                self.at(when, Change::New(format!("{folder}/n{}.done", self.made), 0));
                self.at(then, Change::Gone(format!("{folder}/n{}.done", self.made)));
            }
        } else if fate < 0.85 {
            let then = when + self.dice.wait(30 * SECOND) + 1;
            let to = format!("acct{account:03}/archive/2026/11/26/n{}.{ending}.{then}", self.made);
            self.at(then, Change::Moved(name, to));
            self.at(then, Change::Gone(attrs));
        } else if fate < 0.95 {
            let then = when + self.dice.wait(8 * HOUR) + 1;
            self.at(then, Change::Gone(name));
            self.at(then, Change::Gone(attrs));
        } else {
            let to = format!("acct{account:03}/error/n{}.{ending}", self.made);
            self.at(when + 1, Change::Moved(name, to));
        }
    }

    /// What jobs do to the files that are there: overwrite, purge, rotate, pack again.
    fn jobs(&mut self, midnight: i64, account: usize, files: usize) {
        let text = Some(Sample { entropy: 4.9, bytes: 65_536, former: Some(4.9) });
        let noise = Some(Sample { entropy: 7.96, bytes: 65_536, former: Some(7.95) });
        for i in 0..files {
            let path = format!("acct{account:03}/f{i:05}.csv");
            let roll = self.dice.unit();
            if roll < 0.024 {
                let when = midnight + 2 * HOUR + self.dice.below(5_400) as i64 * SECOND;
                self.at(when, Change::Gone(path));
            } else if roll < 0.034 {
                let when = midnight + self.dice.below(86_400) as i64 * SECOND;
                self.at(when, Change::Wrote(path, text));
            } else if roll < 0.039 {
                for minute in 0..23 * 60 {
                    self.at(midnight + minute * MINUTE, Change::Wrote(path.clone(), text));
                }
                let rotated = path.clone() + ".1";
                self.at(midnight + 1_381 * MINUTE, Change::Moved(path.clone(), rotated.clone()));
                self.at(midnight + 1_382 * MINUTE, Change::New(rotated.clone() + ".gz", 900));
                self.at(midnight + 1_382 * MINUTE, Change::Gone(rotated));
                self.at(midnight + 1_383 * MINUTE, Change::New(path, 900));
            } else if roll < 0.065 {
                // The weekly re-zip, all within an hour.
                let when = midnight + 5 * HOUR + self.dice.below(3_600) as i64 * SECOND;
                self.at(when, Change::Wrote(path, noise));
            }
        }
    }
}

fn day(seed: u64, purges: Vec<PurgeWindow>) -> Site {
    let config = BrakeConfig { purges, ..BrakeConfig::default() };
    let mut site = Site::new(config);
    let midnight = START - 12 * HOUR;
    site.now = midnight;
    let zipf: f64 = (1..=ACCOUNTS).map(|i| 1.0 / i as f64).sum();
    let sizes: Vec<_> =
        (1..=ACCOUNTS).map(|i| (FILES / zipf / i as f64).round() as usize + 3).collect();
    for (account, &files) in sizes.iter().enumerate() {
        site = site.with(&format!("acct{account:03}"), files);
    }
    let mut day =
        Day { dice: Dice(seed), site, events: BinaryHeap::new(), changes: Vec::new(), made: 0 };
    for (account, &files) in sizes.iter().enumerate() {
        day.jobs(midnight, account, files);
        // Four times the profile's arrivals, a third of them in bursts on the hour and before four.
        for _ in 0..(files as f64 * 0.24).ceil() as usize {
            let when = match day.dice.below(6) {
                0 => {
                    midnight
                        + day.dice.below(24) as i64 * HOUR
                        + day.dice.below(120) as i64 * SECOND
                }
                1 => midnight + day.dice.below(4 * 3_600) as i64 * SECOND,
                _ => midnight + 7 * HOUR + day.dice.below(12 * 3_600) as i64 * SECOND,
            };
            day.arrival(account, when);
        }
    }
    let Day { mut site, mut events, changes, .. } = day;
    while site.now < midnight + 24 * HOUR {
        let (mut cut, now) = (Vec::new(), site.now);
        while events.peek().is_some_and(|e| e.0.0 <= now) {
            cut.extend(events.pop().map(|e| changes[e.1].clone()));
        }
        let cut = net(&site.files, &cut);
        site.cut(&cut);
        site.now = now + CUT;
    }
    site
}

/// What a cut sees of events: the difference they made.
fn net(before: &BTreeSet<String>, events: &[Change]) -> Vec<Change> {
    // For each path that is there now: where its file came from, and whether it was written.
    let mut now: BTreeMap<String, (Option<String>, bool, Option<Sample>)> = BTreeMap::new();
    let mut gone = BTreeSet::new();
    let take = |now: &mut BTreeMap<String, _>, gone: &mut BTreeSet<String>, path: &String| {
        now.remove(path).or_else(|| {
            (before.contains(path) && gone.insert(path.clone()))
                .then(|| (Some(path.clone()), false, None))
        })
    };
    for event in events {
        match event {
            Change::New(path, _) | Change::Folder(path) => {
                now.insert(path.clone(), (None, true, None));
            }
            Change::Gone(path) => {
                take(&mut now, &mut gone, path);
            }
            Change::Wrote(path, sample) => {
                if let Some((from, ..)) = take(&mut now, &mut gone, path) {
                    now.insert(path.clone(), (from, true, *sample));
                }
            }
            Change::Moved(from, to) => {
                if let Some(file) = take(&mut now, &mut gone, from) {
                    now.insert(to.clone(), file);
                }
            }
        }
    }
    let mut changes = Vec::new();
    for (path, (from, written, sample)) in now {
        match from {
            Some(from) if from == path => {
                gone.remove(&path);
                changes.extend(written.then_some(Change::Wrote(path, sample)));
            }
            Some(from) => {
                gone.remove(&from);
                changes.push(Change::Moved(from, path));
            }
            None if gone.remove(&path) || before.contains(&path) => {
                changes.push(Change::Wrote(path, sample));
            }
            None => changes.push(Change::New(path, 12_000)),
        }
    }
    changes.extend(gone.into_iter().map(Change::Gone));
    changes
}

#[test]
fn an_ordinary_day_is_not_held() {
    for seed in [1, 2] {
        let site = day(seed, vec![PurgeWindow { at_s: 2 * 3_600, for_s: 2 * 3_600 }]);
        assert_eq!(site.reasons(), "", "seed {seed}");
        assert!(site.files.len() > 19_000, "{}", site.files.len());
    }
}

#[test]
fn a_retention_run_is_held_outside_its_window_alone() {
    for (purges, passes) in
        [(vec![PurgeWindow { at_s: 12 * 3_600, for_s: 3_600 }], true), (Vec::new(), false)]
    {
        let mut site = Site::new(BrakeConfig { purges, ..BrakeConfig::default() });
        for account in 0..100 {
            site = site.with(&format!("acct{account:03}"), 200);
        }
        // 30 of 200 files of every account, thread after thread.
        let mut held = false;
        for account in 0..100 {
            held |= !site.cut(&gone(&format!("acct{account:03}"), 0..30)).passes();
        }
        assert_eq!(held, !passes, "{}", site.reasons());
        let deleted = 20_000 - site.files.len();
        assert!(passes || deleted == 1_980, "2,000 is a tenth: {deleted}");
    }
}

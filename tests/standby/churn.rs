//! Who writes to a share as the partners and the back end of a file transfer server do, time compressed:
//! arrivals under a temporary name or straight, data and then its trigger, consumed, archived or left;
//! replaced, changed in place, touched; folders renamed; accounts made and purged.
//!
//! One thread writes an account, so that the order of its changes is defined. Each change is noted in a
//! [`Truth`].

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use farshore_test_support::Rng;

use crate::truth::{State, Truth, now_ns};

/// Those who write to a share, until they are stopped.
pub(crate) struct Churn {
    pub(crate) truth: Arc<Truth>,
    tempo: Arc<Tempo>,
    writers: Vec<JoinHandle<()>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    Go,
    Rest,
    Stop,
}

struct Tempo {
    pace: Mutex<Pace>,
    changed: Condvar,
    resting: AtomicUsize,
}

impl Churn {
    /// `accounts` writers below `tree`, together about `rate` changes a second.
    pub(crate) fn start(tree: &Path, seed: u64, accounts: u64, rate: u64) -> Self {
        let truth = Arc::new(Truth::default());
        let tempo = Tempo {
            pace: Mutex::new(Pace::Go),
            changed: Condvar::new(),
            resting: AtomicUsize::new(0),
        };
        let tempo = Arc::new(tempo);
        let writer = |n: u64| {
            let mut writer = Writer {
                tree: tree.to_owned(),
                account: format!("acct{n:02}"),
                rng: Rng::of_step(seed, n),
                truth: Arc::clone(&truth),
                serial: 0,
                made: 0,
                live: BTreeMap::new(),
                reports: Vec::new(),
                guests: Vec::new(),
                later: Vec::new(),
            };
            let tempo = Arc::clone(&tempo);
            let change = Duration::from_secs(accounts) / u32::try_from(rate).unwrap();
            std::thread::spawn(move || writer.run(&tempo, change))
        };
        let writers = (0..accounts).map(writer).collect();
        Self { truth, tempo, writers }
    }

    /// Lets all of them finish what they are at, and rest.
    pub(crate) fn rest(&self) {
        self.tempo.set(Pace::Rest);
        while self.tempo.resting.load(SeqCst) < self.writers.len() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn go_on(&self) {
        self.tempo.set(Pace::Go);
    }

    /// Ends them.
    pub(crate) fn stop(self) -> Arc<Truth> {
        self.tempo.set(Pace::Stop);
        for writer in self.writers {
            writer.join().expect("a writer went on to the end");
        }
        self.truth
    }
}

impl Tempo {
    fn set(&self, pace: Pace) {
        *self.pace.lock().unwrap() = pace;
        self.changed.notify_all();
    }

    /// Waits while all rest; whether it goes on.
    fn goes_on(&self) -> bool {
        let mut pace = self.pace.lock().unwrap();
        if *pace == Pace::Rest {
            self.resting.fetch_add(1, SeqCst);
            while *pace == Pace::Rest {
                pace = self.changed.wait(pace).unwrap();
            }
            self.resting.fetch_sub(1, SeqCst);
        }
        *pace == Pace::Go
    }
}

/// What becomes of an arrival.
enum Later {
    Delete(String),
    Archive(String),
}

struct Writer {
    tree: PathBuf,
    account: String,
    rng: Rng,
    truth: Arc<Truth>,
    serial: u64,
    made: u32,
    /// What is in files that are complete, by path below the tree.
    live: BTreeMap<String, Arc<Vec<u8>>>,
    /// Folders that are renamed now and then.
    reports: Vec<String>,
    guests: Vec<String>,
    later: Vec<(Instant, Later)>,
}

impl Writer {
    fn run(&mut self, tempo: &Tempo, change: Duration) {
        let account = self.account.clone();
        self.folder(account.clone());
        for name in ["inbound", "outbound", "reports", "archive", ".stfs", ".stfs/attrs"] {
            self.folder(format!("{account}/{name}"));
        }
        while tempo.goes_on() {
            self.made = 0;
            self.step();
            // From nothing to twice the mean.
            let percent = u32::try_from(self.rng.below(200)).unwrap();
            std::thread::sleep(change * self.made * percent / 100);
        }
    }

    fn step(&mut self) {
        let now = Instant::now();
        if let Some(due) = self.later.iter().position(|(at, _)| *at <= now) {
            return match self.later.swap_remove(due).1 {
                Later::Delete(path) => self.delete(&path),
                Later::Archive(path) => self.archive(&path),
            };
        }
        match self.rng.below(100) {
            0..72 => self.arrive(),
            72..78 => self.replace(),
            78..82 => self.change_in_place(),
            82..85 => self.append(),
            85..92 => self.touch(),
            92..95 => self.report(),
            95..97 => self.rename_folder(),
            97..99 => self.make_guest(),
            _ => self.purge_guest(),
        }
    }

    /// Does one call, and notes what stands at the paths then.
    fn call(&mut self, paths: &[&str], call: impl FnOnce(&Path) -> io::Result<()>) {
        let began = now_ns();
        call(&self.tree).unwrap_or_else(|e| panic!("{paths:?}: {e}"));
        let done = now_ns();
        self.made += 1;
        let state = |path: &&str| {
            let digest = self.live.get(*path).map(|content| *blake3::hash(content).as_bytes());
            ((*path).to_owned(), State::known(&self.tree.join(path), digest.unwrap_or_default()))
        };
        let states: Vec<_> = paths.iter().map(state).collect();
        self.truth.note(began, done, states);
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        *self.rng.pick(of).expect("there are some")
    }

    fn folder(&mut self, path: String) {
        if !self.tree.join(&path).exists() {
            self.call(&[&path], |tree| fs::create_dir(tree.join(&path)));
        }
    }

    fn content(&mut self) -> Arc<Vec<u8>> {
        let bits = match self.rng.below(100) {
            0..4 => return Arc::default(),
            4..85 => self.rng.range(8, 15),
            85..98 => self.rng.range(15, 18),
            _ => self.rng.range(18, 21),
        };
        let len = usize::try_from(self.rng.range(1 << bits, 2 << bits)).unwrap();
        Arc::new(match self.rng.below(3) {
            0 => self.rng.bytes(len),
            _ => self.rng.text(len),
        })
    }

    /// Writes a file from its begin on, in some calls.
    fn write(&mut self, path: &str, content: &Arc<Vec<u8>>) {
        self.live.remove(path);
        let growing = State::Growing(Arc::clone(content));
        let full = self.tree.join(path);
        let began = now_ns();
        let mut file = File::create(&full).unwrap();
        self.truth.note(began, now_ns(), [(path.to_owned(), growing)]);
        let pieces = usize::try_from(self.rng.range(1, 5)).unwrap();
        let began = now_ns();
        for (n, piece) in content.chunks((content.len() / pieces).max(1)).enumerate() {
            if n > 0 {
                std::thread::sleep(Duration::from_millis(self.rng.below(12)));
            }
            file.write_all(piece).unwrap();
        }
        drop(file);
        let done = now_ns();
        self.made += 2;
        let state = State::known(&full, *blake3::hash(content).as_bytes());
        self.truth.note(began, done, [(path.to_owned(), state)]);
        self.live.insert(path.to_owned(), Arc::clone(content));
    }

    fn rename(&mut self, from: &str, to: &str) {
        let content = self.live.remove(from).expect("it is complete");
        self.live.insert(to.to_owned(), content);
        self.call(&[from, to], |tree| fs::rename(tree.join(from), tree.join(to)));
        self.truth.note_renames([(from.to_owned(), to.to_owned())]);
    }

    fn delete(&mut self, path: &str) {
        if self.live.remove(path).is_some() {
            self.call(&[path], |tree| fs::remove_file(tree.join(path)));
        }
    }

    fn arrive(&mut self) {
        self.serial += 1;
        let name = format!("{:06}", self.serial);
        let side = self.one(&["inbound", "outbound"]);
        let folder = format!("{}/{side}", self.account);
        let path = format!("{folder}/{name}.dat");
        if self.rng.below(100) < 30 {
            let attributes = format!("{}/.stfs/attrs/{name}.dat", self.account);
            let len = self.rng.range(200, 1_500);
            let content = Arc::new(self.rng.text(usize::try_from(len).unwrap()));
            self.write(&attributes, &content);
        }
        let content = self.content();
        if self.rng.below(100) < 65 {
            let suffix = self.one(&["filepart", "filepart", "tmp", "part"]);
            let temporary = format!("{folder}/{name}.dat.{suffix}");
            self.write(&temporary, &content);
            self.rename(&temporary, &path);
        } else {
            self.write(&path, &content);
        }
        if self.rng.below(100) < 40 {
            let trigger = format!("{folder}/{name}.trigger");
            self.write(&trigger, &Arc::default());
            self.truth.note_trigger(trigger.clone(), path.clone());
            self.later(300, Later::Delete(trigger));
        }
        match self.rng.below(100) {
            0..50 => self.later(1_500, Later::Delete(path)),
            50..88 => self.later(3_000, Later::Archive(path)),
            _ => self.later(20_000, Later::Delete(path)),
        }
    }

    fn later(&mut self, mean_ms: u64, what: Later) {
        let wait = Duration::from_millis(self.rng.below(2 * mean_ms));
        self.later.push((Instant::now() + wait, what));
    }

    fn archive(&mut self, path: &str) {
        if !self.live.contains_key(path) {
            return;
        }
        let mut folder = format!("{}/archive", self.account);
        for part in ["2026", "11", self.one(&["24", "25", "26"])] {
            folder = format!("{folder}/{part}");
            self.folder(folder.clone());
        }
        let name = path.rsplit('/').next().unwrap();
        let to = format!("{folder}/{name}.{}", now_ns() / 1_000_000);
        self.rename(path, &to);
        // Some are gone before a cut that saw them arrive has read them.
        match self.rng.below(4) {
            0 => self.later(60, Later::Delete(to)),
            1 => self.later(10_000, Later::Delete(to)),
            _ => {}
        }
    }

    /// A complete file of the account that is no trigger.
    fn some(&mut self) -> Option<String> {
        let names: Vec<&String> = self.live.keys().filter(|p| !p.ends_with(".trigger")).collect();
        self.rng.pick(&names).map(|name| (*name).clone())
    }

    /// The same name again: by a rename over it, or from its begin on.
    fn replace(&mut self) {
        let Some(path) = self.some() else { return };
        let content = self.content();
        if self.rng.below(2) == 0 {
            return self.write(&path, &content);
        }
        let temporary = format!("{path}.new");
        self.write(&temporary, &content);
        self.rename(&temporary, &path);
    }

    /// One page of a file is another.
    fn change_in_place(&mut self) {
        let Some(path) = self.some() else { return };
        let content = Arc::clone(&self.live[&path]);
        let pages = content.len() as u64 / 4096;
        let at = usize::try_from(self.rng.below(pages.max(1)) * 4096).unwrap();
        let mut changed = content.to_vec();
        let end = (at + 4096).min(changed.len());
        let page = self.rng.bytes(end - at);
        changed[at..end].copy_from_slice(&page);
        self.live.insert(path.clone(), Arc::new(changed));
        self.call(&[&path], |tree| {
            let file = OpenOptions::new().write(true).open(tree.join(&path))?;
            file.write_all_at(&page, at as u64)
        });
    }

    fn append(&mut self) {
        let path = format!("{}/outbound/feed.log", self.account);
        let Some(content) = self.live.get(&path) else {
            return self.write(&path, &Arc::new(b"begin\n".to_vec()));
        };
        if content.len() > 300_000 {
            let rotated = format!("{}/archive/feed.log.{}", self.account, self.serial);
            return self.rename(&path, &rotated);
        }
        let mut longer = content.to_vec();
        let len = usize::try_from(self.rng.range(100, 4_000)).unwrap();
        let more = self.rng.text(len);
        longer.extend_from_slice(&more);
        let longer = Arc::new(longer);
        // A page of it may be seen before the next.
        let began = now_ns();
        let growing = State::Growing(Arc::clone(&longer));
        self.truth.note(began, began, [(path.clone(), growing)]);
        self.live.insert(path.clone(), longer);
        self.call(&[&path], |tree| {
            OpenOptions::new().append(true).open(tree.join(&path))?.write_all(&more)
        });
    }

    fn touch(&mut self) {
        let Some(path) = self.some() else { return };
        let mode = self.one(&[0o600, 0o640, 0o644, 0o660]);
        let back = Duration::from_millis(self.rng.below(100_000_000));
        match self.rng.below(2) {
            0 => self.call(&[&path], |tree| {
                fs::set_permissions(tree.join(&path), Permissions::from_mode(mode))
            }),
            _ => self.call(&[&path], |tree| {
                File::open(tree.join(&path))?.set_modified(SystemTime::now() - back)
            }),
        }
    }

    /// A folder with some files.
    fn report(&mut self) {
        self.serial += 1;
        let folder = format!("{}/reports/r{}", self.account, self.serial);
        self.folder(folder.clone());
        for n in 0..self.rng.range(1, 5) {
            let content = self.content();
            self.write(&format!("{folder}/{n}.pdf"), &content);
        }
        self.reports.push(folder);
    }

    /// The folder and all below it, under another name.
    fn rename_folder(&mut self) {
        if self.reports.is_empty() {
            return self.report();
        }
        self.serial += 1;
        let at = usize::try_from(self.rng.below(self.reports.len() as u64)).unwrap();
        let from = self.reports.swap_remove(at);
        let to = format!("{}/reports/s{}", self.account, self.serial);
        let below = format!("{from}/");
        let inside: Vec<String> =
            self.live.keys().filter(|path| path.starts_with(&below)).cloned().collect();
        let mut paths = vec![from.clone(), to.clone()];
        let mut renames = Vec::new();
        for path in inside {
            let moved = format!("{to}/{}", &path[below.len()..]);
            let content = self.live.remove(&path).unwrap();
            self.live.insert(moved.clone(), content);
            renames.push((path.clone(), moved.clone()));
            paths.extend([path, moved]);
        }
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        self.call(&paths, |tree| fs::rename(tree.join(&from), tree.join(&to)));
        self.truth.note_renames(renames);
        self.reports.push(to);
    }

    fn make_guest(&mut self) {
        self.serial += 1;
        let guest = format!("guest{}-{}", &self.account[4..], self.serial);
        self.folder(guest.clone());
        self.folder(format!("{guest}/inbound"));
        for n in 0..3 {
            let content = self.content();
            self.write(&format!("{guest}/inbound/{n}.xml"), &content);
        }
        self.guests.push(guest);
    }

    fn purge_guest(&mut self) {
        let Some(guest) = self.guests.pop() else { return };
        let below = format!("{guest}/");
        let files: Vec<String> =
            self.live.keys().filter(|path| path.starts_with(&below)).cloned().collect();
        for path in files {
            self.delete(&path);
        }
        for folder in [format!("{guest}/inbound"), guest] {
            self.call(&[&folder], |tree| fs::remove_dir(tree.join(&folder)));
        }
    }
}

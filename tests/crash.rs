//! Processes killed at random: nothing acknowledged is lost, nothing partial is ever seen, and the
//! next run converges without an operator.
//!
//! `FARSHORE_KILLS` sets the number of kills (200), `FARSHORE_SEED` the schedule.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::{
    Server, Site, Tmpfs, assert_equal_trees, command, expect, finish, json, kill, text, wait_for,
};
use farshore_test_support::{MutationKind, Rng, mutate_one};
use rustix::fs::{CWD, Mode, OFlags, openat};

type Path8 = Vec<u8>;
type Digest = [u8; 32];

/// Every version of every file the source has had.
#[derive(Default)]
struct Versions {
    all: Mutex<HashSet<(Path8, Digest)>>,
}

impl Versions {
    fn add(&self, tree: &BTreeMap<Path8, Digest>) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(tree.iter().map(|(p, d)| (p.clone(), *d)));
    }

    fn has(&self, path: &[u8], digest: Digest) -> bool {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.contains(&(path.to_vec(), digest))
    }
}

/// Regular files below `root`, without `.farshore`.
fn paths(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        // What is gone since it was listed is no matter.
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            if path == root.join(".farshore") {
                continue;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(path),
                Ok(kind) if kind.is_file() => found.push(path),
                _ => {}
            }
        }
    }
    found
}

fn relative(root: &Path, path: &Path) -> Path8 {
    path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec()
}

fn digests(root: &Path) -> BTreeMap<Path8, Digest> {
    paths(root)
        .into_iter()
        .map(|path| {
            let content = std::fs::read(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
            (relative(root, &path), *blake3::hash(&content).as_bytes())
        })
        .collect()
}

/// One file as it was seen whole; `None` when it changed or went meanwhile.
fn seen_whole(path: &Path) -> Option<Digest> {
    // It may be a pipe or a link by now: neither waited for nor followed.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(CWD, path, flags, Mode::empty()).ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let facts = |file: &File| {
        let m = file.metadata().ok()?;
        Some((m.ino(), m.mtime(), m.mtime_nsec(), m.size(), m.ctime(), m.ctime_nsec()))
    };
    let before = facts(&file)?;
    let mut content = Vec::new();
    file.read_to_end(&mut content).ok()?;
    let same = facts(&file)? == before && content.len() as u64 == before.3;
    same.then(|| *blake3::hash(&content).as_bytes())
}

/// Walks and hashes `target` until `stop`: every file it sees must be a version of the source's.
fn observe(
    target: &Path,
    versions: &Versions,
    stop: &AtomicBool,
    looks: &AtomicU64,
) -> Vec<String> {
    let mut wrong = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        for path in paths(target) {
            let Some(digest) = seen_whole(&path) else { continue };
            looks.fetch_add(1, Ordering::Relaxed);
            if !versions.has(&relative(target, &path), digest) {
                let size = path.metadata().map(|m| m.len());
                wrong.push(format!("{} ({size:?} bytes)", path.display()));
            }
        }
        if wrong.len() > 20 {
            break;
        }
        std::thread::sleep(Duration::from_millis(3));
    }
    wrong
}

fn populate(source: &Path, rng: &mut Rng) {
    for d in 0..4 {
        let folder = source.join(format!("account{d}"));
        std::fs::create_dir(&folder).unwrap();
        for f in 0..10 {
            let len = rng.below(8_000) as usize;
            std::fs::write(folder.join(format!("small{f}")), rng.text(len)).unwrap();
        }
        let len = rng.range(200_000, 1_500_000) as usize;
        std::fs::write(folder.join("large"), rng.bytes(len)).unwrap();
    }
    std::fs::hard_link(source.join("account0/small1"), source.join("account1/name")).unwrap();
    std::os::unix::fs::symlink("../account0/large", source.join("account2/link")).unwrap();
}

/// A handful of changes; large files are edited, appended to and replaced too.
fn change(source: &Path, rng: &mut Rng, versions: &Versions) -> BTreeMap<Path8, Digest> {
    const KINDS: [MutationKind; 19] = [
        MutationKind::EditInPlace,
        MutationKind::Append,
        MutationKind::Truncate,
        MutationKind::OverwriteByRename,
        MutationKind::TouchOnly,
        MutationKind::ChmodOnly,
        MutationKind::XattrOnly,
        MutationKind::Delete,
        MutationKind::RenameFile,
        MutationKind::RenameDirectory,
        MutationKind::MoveFile,
        MutationKind::MoveDirectory,
        MutationKind::SwapNames,
        MutationKind::SwapKind,
        MutationKind::HardLinkMake,
        MutationKind::HardLinkBreak,
        MutationKind::NewFile,
        MutationKind::NewDirectory,
        MutationKind::NewSymlink,
    ];
    for _ in 0..rng.range(2, 7) {
        let kind = *rng.pick(&KINDS).unwrap();
        mutate_one(source, kind, rng).unwrap();
    }
    // The tree neither dies out nor loses its large files.
    let number = rng.below(4);
    let folder = source.join(format!("account{number}"));
    if folder.symlink_metadata().is_ok_and(|m| m.is_dir()) {
        let large = rng.below(3) == 0;
        let name = folder.join(format!("{}{}", if large { "big" } else { "new" }, rng.below(6)));
        if name.symlink_metadata().map_or(true, |m| m.is_file()) {
            let len = if large { rng.range(100_000, 900_000) } else { rng.below(9_000) };
            std::fs::write(name, rng.bytes(len as usize)).unwrap();
        }
    } else if folder.symlink_metadata().is_err() {
        std::fs::create_dir(&folder).unwrap();
    }
    let now = digests(source);
    versions.add(&now);
    now
}

/// One pair of ends that is killed again and again.
struct Pair<'a> {
    site: &'a Site,
    /// `None` for the local form.
    server: Option<Server>,
    port: u16,
    versions: &'a Versions,
    /// What the source was when last all of it was acknowledged, but for what changed since.
    acknowledged: BTreeMap<Path8, Digest>,
    now: BTreeMap<Path8, Digest>,
    took: Duration,
}

#[derive(Default, Debug)]
struct Tally {
    source_killed: usize,
    target_killed: usize,
    local_killed: usize,
    converged: usize,
    source_left_by_itself: usize,
    longest_leave: Duration,
    checked_acknowledged: usize,
}

impl Pair<'_> {
    fn args(&self) -> Vec<String> {
        let mut args = match self.server {
            Some(_) => self.site.remote_args(self.port),
            None => [
                "replicate",
                text(&self.site.source),
                text(&self.site.target),
                "--state",
                text(&self.site.source_state),
            ]
            .map(str::to_owned)
            .to_vec(),
        };
        args.extend(["--approve".to_owned(), "--json".to_owned()]);
        args
    }

    fn start(&self) -> Child {
        let args = self.args();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        command(&args).spawn().unwrap()
    }

    /// What was acknowledged and has not changed since must be there as it was.
    fn check_acknowledged(&self, tally: &mut Tally) {
        for (path, digest) in &self.acknowledged {
            let at = self.site.target.join(std::ffi::OsStr::from_bytes(path));
            let held = std::fs::read(&at).map(|c| *blake3::hash(&c).as_bytes());
            let shown = String::from_utf8_lossy(path);
            assert_eq!(held.ok(), Some(*digest), "acknowledged and lost: {shown}");
            tally.checked_acknowledged += 1;
        }
    }

    /// Kills one end somewhere in a run; whether there was something to kill.
    fn round(&mut self, rng: &mut Rng, tally: &mut Tally) -> bool {
        self.now = change(&self.site.source, rng, self.versions);
        let now = &self.now;
        self.acknowledged.retain(|path, digest| now.get(path) == Some(digest));
        let child = self.start();
        // Exponential, with half of the moments in the first half of a run.
        let part = -(1.0 - rng.below(1 << 20) as f64 / f64::from(1 << 20)).ln() * 0.7;
        let delay = self.took.mul_f64(part.min(1.3));
        std::thread::sleep(delay);
        if self.server.is_some() && rng.below(2) == 0 {
            return self.kill_target(child, tally);
        }
        let mut child = child;
        let killed = kill(&mut child);
        if killed && self.server.is_some() {
            tally.source_killed += 1;
        } else if killed {
            tally.local_killed += 1;
            self.check_acknowledged(tally);
        }
        killed
    }

    fn kill_target(&mut self, mut child: Child, tally: &mut Tally) -> bool {
        let Some(server) = &mut self.server else { return false };
        let running = child.try_wait().unwrap().is_none();
        assert!(kill(&mut server.child), "the server ended by itself: {}", server.log());
        self.check_acknowledged(tally);
        self.server = Some(self.site.serve(self.port));
        // The server that starts anew tells the source that its link is gone, mostly at once; a source
        // that was leaving gives its last words up after the drain timeout, all after the idle timeout.
        // Seldom waited for: it takes its time.
        let patience = if tally.target_killed % 8 == 7 { 30_000 } else { 100 };
        let start = Instant::now();
        let left = wait_for(&mut child, Duration::from_millis(patience)).is_some();
        assert!(left || patience == 100, "the source did not hear that its link is gone");
        if left {
            tally.source_left_by_itself += 1;
            tally.longest_leave = tally.longest_leave.max(start.elapsed());
        } else {
            kill(&mut child);
        }
        tally.target_killed += usize::from(running);
        running
    }

    fn converge(&mut self, tally: &mut Tally) {
        let args = self.args();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let start = Instant::now();
        let out = finish(self.start(), &args);
        let log = self.server.as_ref().map(Server::log).unwrap_or_default();
        assert_eq!(out.status.code(), Some(0), "{}\n{log}", common::shown(&out));
        self.took = (self.took + start.elapsed()) / 2;
        assert_equal_trees(&self.site.source, &self.site.target);
        self.acknowledged = digests(&self.site.source);
        tally.converged += 1;
    }

    fn sends_nothing(&mut self) {
        let args = self.args();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let out = finish(self.start(), &args);
        expect(&out, 0, &[]);
        let object = json(&out);
        for field in ["literal_bytes", "written", "moved", "removed", "metadata"] {
            assert_eq!(object[field], 0, "{field}: {object:#}");
        }
        assert_eq!(object["outcome"], "sealed", "{object:#}");
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |v| v.parse().expect("a number"))
}

/// `kills` kills of one pair, under the eyes of an observer.
fn torment(site: &Site, remote: bool, kills: usize, seed: u64) -> (Tally, u64) {
    let mut rng = Rng::new(seed);
    populate(&site.source, &mut rng);
    let versions = Versions::default();
    versions.add(&digests(&site.source));
    let (stop, looks) = (AtomicBool::new(false), AtomicU64::new(0));
    let (tally, wrong) = std::thread::scope(|scope| {
        let observer = scope.spawn(|| observe(&site.target, &versions, &stop, &looks));
        // Stops the observer when an assertion fails, too.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let stopping = Stop(&stop);
        let server = remote.then(|| site.serve(0));
        let mut pair = Pair {
            site,
            port: server.as_ref().map_or(0, Server::port),
            server,
            versions: &versions,
            acknowledged: BTreeMap::new(),
            now: digests(&site.source),
            took: Duration::from_millis(150),
        };
        let mut tally = Tally::default();
        let mut done = 0;
        while done < kills {
            done += usize::from(pair.round(&mut rng, &mut tally));
            if done % 10 == 9 || done == kills {
                pair.converge(&mut tally);
            }
        }
        // A file that changed within the last clock ticks is looked at once more.
        std::thread::sleep(Duration::from_millis(30));
        pair.converge(&mut tally);
        pair.sends_nothing();
        drop(stopping);
        (tally, observer.join().unwrap())
    });
    assert!(wrong.is_empty(), "seen at the target, never at the source: {wrong:#?}");
    (tally, looks.load(Ordering::Relaxed))
}

#[test]
fn either_end_killed_at_random_loses_nothing_and_shows_nothing_partial() {
    let kills = number("FARSHORE_KILLS", 200) as usize;
    let seed = number("FARSHORE_SEED", 1);
    let start = Instant::now();
    let local = kills / 4;
    // What a killed process leaves is the same on every file system; this one does not wait for a disk.
    let memory = Tmpfs::mount(1 << 30);
    let place = memory.as_ref().map_or(Path::new("/tmp"), |m| &m.place);
    let (remote_tally, remote_looks) = torment(&Site::within(place), true, kills - local, seed);
    let (local_tally, local_looks) = torment(&Site::within(place), false, local, seed + 1);
    println!(
        "{kills} kills, seed {seed}, {:.1} s\n{remote_tally:#?} {remote_looks} files observed\n\
         {local_tally:#?} {local_looks} files observed",
        start.elapsed().as_secs_f64()
    );
    assert!(remote_looks > 0 && local_looks > 0);
}

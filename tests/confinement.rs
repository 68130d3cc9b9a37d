//! Nothing outside the roots is read, written or deleted, whatever links local users plant, and
//! however fast they swap them.
//!
//! `FARSHORE_FLIPS` sets the number of swaps (100,000).

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{Site, assert_equal_trees, expect, is_root, shown};
use farshore_test_support::Rng;
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, RenameFlags, ResolveFlags, openat, openat2, renameat_with, unlinkat,
};

/// In every file of the canary tree, nowhere else.
const MARK: &str = "CANARY-2f6f1c9a";

type Facts = (u32, u32, u32, i64, i64, u64, u64, Vec<u8>);

/// A tree outside the roots with the names of the tree inside.
struct Canary {
    root: PathBuf,
    before: BTreeMap<PathBuf, Facts>,
}

impl Canary {
    fn new(root: PathBuf) -> Self {
        for folder in ["", "sub", "sub/deeper", "old"] {
            std::fs::create_dir(root.join(folder)).unwrap();
            for name in ["a", "b", "c", "file0", "file1", "file2", "file3", "gone"] {
                let path = root.join(folder).join(name);
                let content = format!("{MARK} {}\n", path.display()).repeat(1 + folder.len() * 40);
                std::fs::write(&path, content).unwrap();
                std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
                if is_root() {
                    std::os::unix::fs::chown(&path, Some(12_345), Some(12_345)).unwrap();
                }
            }
        }
        let before = look(&root);
        Self { root, before }
    }

    #[track_caller]
    fn assert_untouched(&self) {
        let now = look(&self.root);
        for (path, facts) in &self.before {
            assert_eq!(now.get(path), Some(facts), "{}", path.display());
        }
        assert_eq!(now.len(), self.before.len(), "something was put there: {now:?}");
    }
}

fn look(root: &Path) -> BTreeMap<PathBuf, Facts> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(path) = left.pop() {
        let m = path.symlink_metadata().unwrap();
        let mut content = Vec::new();
        if m.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        } else if m.is_file() {
            content = std::fs::read(&path).unwrap();
        }
        let facts =
            (m.mode(), m.uid(), m.gid(), m.mtime(), m.mtime_nsec(), m.ino(), m.nlink(), content);
        found.insert(path, facts);
    }
    found
}

/// Files below `root`, `.farshore` and its history included, that hold the mark.
fn marked(root: &Path) -> Vec<PathBuf> {
    look(root)
        .into_iter()
        .filter(|(_, facts)| facts.7.windows(MARK.len()).any(|w| w == MARK.as_bytes()))
        .map(|(path, _)| path)
        .collect()
}

fn populate(root: &Path) {
    for folder in ["swapped", "swapped/sub", "swapped/sub/deeper", "swapped/old", "quiet"] {
        std::fs::create_dir(root.join(folder)).unwrap();
        for name in ["a", "b", "c", "file0", "gone"] {
            std::fs::write(root.join(folder).join(name), format!("{folder}/{name}")).unwrap();
        }
    }
    std::fs::write(root.join("swapped/large"), Rng::new(7).bytes(700_000)).unwrap();
    std::fs::hard_link(root.join("swapped/a"), root.join("quiet/a-again")).unwrap();
}

/// Swaps two names until told to stop, at least `least` times.
fn swap(a: &Path, b: &Path, least: u64, stop: &AtomicBool, count: &AtomicU64) {
    let mut burst = 0;
    while !stop.load(Ordering::Relaxed) || count.load(Ordering::Relaxed) < least {
        // One of the two may be on its way to another state just now.
        if renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).is_ok() {
            count.fetch_add(1, Ordering::Relaxed);
        }
        burst += 1;
        // Both at full speed and with pauses in which a step of a run fits.
        if burst % 64 == 0 {
            std::thread::sleep(Duration::from_micros(burst % 1_000));
        }
    }
}

/// The tree that holds what is swapped, wherever it is now.
fn real(root: &Path) -> PathBuf {
    let is_dir = |name: &str| root.join(name).symlink_metadata().is_ok_and(|m| m.is_dir());
    if is_dir("swapped") { root.join("swapped") } else { root.join("swapped-link") }
}

/// A directory below `root`, by no link: this test must not touch the canary either.
fn open_within(root: &Path, path: &Path) -> Option<OwnedFd> {
    let root = std::fs::File::open(root).unwrap();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat2(&root, path, flags, Mode::empty(), within).ok()
}

/// Changes files by the handle of a directory that may be swapped meanwhile.
fn churn(root: &Path, rng: &mut Rng, canary: &Canary) {
    for _ in 0..12 {
        let below = ["", "sub", "sub/deeper", "old"][rng.below(4) as usize];
        let folder = real(root).join(below);
        let Some(at) = folder.strip_prefix(root).ok().and_then(|path| open_within(root, path))
        else {
            continue;
        };
        let name = ["a", "b", "file0", "file1", "file2", "file3", "large"][rng.below(7) as usize];
        // Whatever fails was swapped away under us.
        let len = rng.below(90_000) as usize;
        if rng.below(4) == 0 {
            unlinkat(&at, name, AtFlags::empty()).unwrap_or(());
            continue;
        }
        unlinkat(&at, name, AtFlags::empty()).unwrap_or(());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let mode = Mode::from_raw_mode(0o600 + rng.below(64) as u32);
        if let Ok(file) = openat(&at, name, flags, mode) {
            std::fs::File::from(file).write_all(&rng.bytes(len)).unwrap();
        }
    }
    canary.assert_untouched();
}

#[test]
fn swapping_directories_and_links_on_both_sides_leads_nowhere() {
    let flips: u64 =
        std::env::var("FARSHORE_FLIPS").map_or(100_000, |v| v.parse().expect("a number"));
    let site = Site::new();
    let canary = Canary::new(site.path("canary"));
    populate(&site.source);
    symlink(&canary.root, site.source.join("swapped-link")).unwrap();
    expect(&site.local(&[]), 0, &[]);
    assert_equal_trees(&site.source, &site.target);

    let (stop, at_source, at_target) =
        (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let start = Instant::now();
    let mut codes: BTreeMap<Option<i32>, usize> = BTreeMap::new();
    std::thread::scope(|scope| {
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let stopping = Stop(&stop);
        for (root, count) in [(&site.source, &at_source), (&site.target, &at_target)] {
            let (a, b) = (root.join("swapped"), root.join("swapped-link"));
            let stop = &stop;
            scope.spawn(move || swap(&a, &b, 0, stop, count));
        }
        let mut rng = Rng::new(3);
        let total = || at_source.load(Ordering::Relaxed) + at_target.load(Ordering::Relaxed);
        let mut runs = 0;
        while runs < 20 || total() < flips {
            churn(&site.source, &mut rng, &canary);
            let out = site.local(&["--approve"]);
            let all = shown(&out);
            assert!(!all.contains("panicked"), "{all}");
            assert!(out.status.code().is_some(), "{all}");
            *codes.entry(out.status.code()).or_default() += 1;
            canary.assert_untouched();
            runs += 1;
            assert!(start.elapsed() < Duration::from_secs(120), "{} flips", total());
            // What the target lost to the swaps is put back, so that they go on.
            let link = site.target.join("swapped-link");
            if link.symlink_metadata().is_err() {
                drop(symlink(&canary.root, &link));
            }
        }
        drop(stopping);
    });
    println!(
        "{} flips at the source, {} at the target, exit codes {codes:?}, {:.1} s",
        at_source.into_inner(),
        at_target.into_inner(),
        start.elapsed().as_secs_f64()
    );
    canary.assert_untouched();
    assert_eq!(marked(&site.target), Vec::<PathBuf>::new(), "read from outside");
    let last = site.local(&["--approve"]);
    expect(&last, 0, &[]);
    assert_equal_trees(&site.source, &site.target);
    canary.assert_untouched();
}

/// Replaces `name` of the target by a link to the canary; what was there goes beside it.
fn plant(site: &Site, canary: &Canary, name: &str, to: &str) {
    let at = site.target.join(name);
    if at.symlink_metadata().is_ok() {
        let aside = site.path("aside").join(name.replace('/', "_"));
        std::fs::create_dir_all(aside.parent().unwrap()).unwrap();
        std::fs::rename(&at, aside).unwrap();
    }
    symlink(canary.root.join(to), at).unwrap();
}

#[test]
fn links_planted_at_the_target_are_replaced_not_followed() {
    for trusted in [false, true] {
        let site = Site::new();
        let canary = Canary::new(site.path("canary"));
        populate(&site.source);
        expect(&site.local(&[]), 0, &[]);
        plant(&site, &canary, "swapped/sub", "sub");
        plant(&site, &canary, "quiet", "");
        plant(&site, &canary, "swapped/old/a", "old/a");
        // Work for the run within each: written, removed, metadata, a further name.
        for folder in ["swapped/sub", "swapped/sub/deeper", "quiet"] {
            let folder = site.source.join(folder);
            std::fs::write(folder.join("file1"), "new").unwrap();
            std::fs::write(folder.join("b"), "changed content").unwrap();
            std::fs::remove_file(folder.join("gone")).unwrap();
            std::fs::set_permissions(folder.join("c"), PermissionsExt::from_mode(0o600)).unwrap();
            std::fs::hard_link(folder.join("a"), folder.join("file2")).unwrap();
        }
        std::fs::remove_dir_all(site.source.join("swapped/old")).unwrap();
        let more: &[&str] = if trusted { &["--trust-target", "--approve"] } else { &["--approve"] };
        let out = site.local(more);
        assert!(!shown(&out).contains("panicked"), "{}", shown(&out));
        canary.assert_untouched();
        if !trusted {
            expect(&out, 0, &[]);
        }
        expect(&site.local(&["--approve"]), 0, &[]);
        assert_equal_trees(&site.source, &site.target);
        assert_eq!(marked(&site.target), Vec::<PathBuf>::new(), "read from outside");
        canary.assert_untouched();
    }
}

#[test]
fn links_planted_at_the_source_are_links() {
    let site = Site::new();
    let canary = Canary::new(site.path("canary"));
    populate(&site.source);
    symlink(&canary.root, site.source.join("way-out")).unwrap();
    symlink("../../../../../../etc", site.source.join("quiet/up")).unwrap();
    symlink("/proc/self/root", site.source.join("quiet/magic")).unwrap();
    std::fs::create_dir(site.source.join(".farshore")).unwrap();
    std::fs::write(site.source.join(".farshore/identity"), "0123456789abcdef").unwrap();
    expect(&site.local(&[]), 0, &[]);
    assert_eq!(marked(&site.target), Vec::<PathBuf>::new());
    assert_eq!(std::fs::read_link(site.target.join("way-out")).unwrap(), canary.root);
    assert_equal_trees(&site.source, &site.target);
    canary.assert_untouched();
}

#[test]
fn farshores_own_folder_must_be_its_own() {
    let parts = ["", "/staging", "/journal", "/history"];
    for (part, as_file) in parts.iter().flat_map(|p| [(p, false), (p, true)]) {
        let site = Site::new();
        let canary = Canary::new(site.path("canary"));
        populate(&site.source);
        expect(&site.local(&[]), 0, &[]);
        std::fs::write(site.source.join("swapped/a"), "new").unwrap();
        std::fs::remove_file(site.source.join("swapped/gone")).unwrap();
        let held = common::files(&site.target);
        let name = format!(".farshore{part}");
        if as_file {
            let aside = site.path("aside");
            std::fs::rename(site.target.join(&name), aside).unwrap();
            std::fs::write(site.target.join(&name), "in the way").unwrap();
        } else {
            plant(&site, &canary, &name, "");
        }
        expect(&site.local(&[]), 3, &[".farshore", "opening it", "hint:", "move it away"]);
        canary.assert_untouched();
        assert_eq!(common::files(&site.target), held, "{name}");
        // Moved away as the hint says, the same command goes through.
        std::fs::remove_file(site.target.join(&name)).unwrap();
        expect(&site.local(&["--approve"]), 0, &[]);
        assert_equal_trees(&site.source, &site.target);
        canary.assert_untouched();
    }
}

#[test]
fn a_link_in_place_of_the_root_is_resolved_once_and_said() {
    let site = Site::new();
    populate(&site.source);
    let link = site.path("link-to-target");
    symlink(&site.target, &link).unwrap();
    let out = common::farshore(&[
        "replicate",
        common::text(&site.source),
        common::text(&link),
        "--state",
        common::text(&site.source_state),
    ]);
    expect(&out, 0, &[]);
    assert_equal_trees(&site.source, &site.target);
}

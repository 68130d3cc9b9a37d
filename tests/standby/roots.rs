//! The folder at a share's path is not the one it was: not mounted yet, unmounted in the middle of a look,
//! or another one. Nothing is sent or applied meanwhile, the status says so, and it goes on by itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::mount::{UnmountFlags, mount_bind, unmount};
use serde_json::Value;

use crate::common::{farshore, is_root, shown, text};
use crate::kills::NO_BRAKE;
use crate::pair::{Dials, Pair, Site, there};
use crate::room::{Small, fill};

/// A folder that stands in for a disk that is mounted at a site's tree.
struct Disk {
    real: PathBuf,
    at: PathBuf,
}

impl Disk {
    /// What is at the site's tree, which is an empty folder afterwards.
    fn of(site: &Site) -> Self {
        let real = site.tree.with_file_name("disk");
        fs::rename(&site.tree, &real).unwrap();
        fs::create_dir(&site.tree).unwrap();
        Self { real, at: site.tree.clone() }
    }

    fn mount(&self) {
        mount_bind(&self.real, &self.at).unwrap();
    }

    fn unmount(&self) {
        unmount(&self.at, UnmountFlags::DETACH).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(&self.at, UnmountFlags::DETACH).unwrap_or(());
    }
}

fn is_gone(share: &Value, words: &str) -> bool {
    share["state"] == "mount-gone"
        && share["ready"] == false
        && share["state_text"].as_str().is_some_and(|text| text.contains(words))
}

const OTHER: &str = "root is another folder than the one this share was replicated";

fn files(tree: &Path) -> usize {
    crate::common::files(tree).len()
}

#[test]
fn a_source_that_is_not_mounted_yet_is_waited_for() {
    if !is_root() {
        return;
    }
    let pair = Pair::new();
    pair.write("acct1/one", b"1");
    let (_there, here) = (pair.recovery.start(), pair.production.start());
    pair.point();
    assert!(here.stop().success());
    let disk = Disk::of(&pair.production);
    let _here = pair.production.start();
    pair.wait(&pair.production, "said", |share| is_gone(share, OTHER));
    let before = pair.status(&pair.recovery)["shares"][0]["recovery_point"].clone();
    fs::write(disk.real.join("acct1/two"), b"2").unwrap();
    std::thread::sleep(Duration::from_millis(2_500));
    assert!(there(&pair, "acct1/one").exists());
    let after = pair.status(&pair.recovery)["shares"][0]["recovery_point"].clone();
    assert_eq!(before, after, "nothing is proven of a folder that is not there");
    disk.mount();
    pair.point();
    pair.equal("mounted");
    assert!(there(&pair, "acct1/two").exists());
}

#[test]
fn a_target_that_is_not_mounted_yet_is_waited_for_and_nothing_is_made_below_the_mount() {
    if !is_root() {
        return;
    }
    let pair = Pair::new();
    pair.write("acct1/one", b"1");
    let (there_, _here) = (pair.recovery.start(), pair.production.start());
    pair.point();
    assert!(there_.stop().success());
    let disk = Disk::of(&pair.recovery);
    let _there = pair.recovery.start();
    pair.write("acct1/two", b"2");
    pair.wait(&pair.recovery, "said", |share| is_gone(share, OTHER));
    pair.wait(&pair.production, "told", |share| {
        share["state_text"].as_str().is_some_and(|text| text.contains("is not open"))
    });
    assert_eq!(fs::read_dir(&pair.recovery.tree).unwrap().count(), 0, "below the mount point");
    disk.mount();
    pair.point();
    pair.equal("mounted");
}

#[test]
fn a_mount_that_vanishes_in_the_middle_of_a_look_costs_nothing() {
    if !is_root() {
        return;
    }
    let pair = Pair::with(Dials::Production, NO_BRAKE);
    for n in 0..3_000 {
        pair.write(&format!("acct{}/in/{}/{n}", n % 10, n % 97), b"x");
    }
    let disks = [Disk::of(&pair.production), Disk::of(&pair.recovery)];
    disks.iter().for_each(Disk::mount);
    let (_there, _here) = (pair.recovery.start(), pair.production.start());
    pair.point();
    for (round, site) in
        [&pair.production, &pair.recovery, &pair.production].into_iter().enumerate()
    {
        let disk = &disks[round % 2];
        // The look after this restart of the share is under way at some of these moments.
        for n in 0..500 {
            fs::write(disks[0].real.join(format!("acct{}/in/{round}-{n}", n % 10)), b"y").unwrap();
        }
        std::thread::sleep(Duration::from_millis(40 * round as u64));
        let before = files(&disks[1].real);
        disk.unmount();
        pair.wait(site, "gone", |share| {
            is_gone(share, "does not lead to its root") || is_gone(share, "another")
        });
        assert!(files(&disks[1].real) >= before, "something was deleted");
        assert_eq!(fs::read_dir(&disk.at).unwrap().count(), 0, "below the mount point");
        fs::write(disks[0].real.join(format!("acct3/while-away-{round}")), b"z").unwrap();
        fs::remove_file(disks[0].real.join(format!("acct4/in/{round}-4"))).unwrap();
        disk.mount();
        pair.point();
        // What changed while nobody watched is found by a look at everything.
        pair.wait(&pair.production, "looked at", |share| share["state"] == "idle");
        pair.point();
        pair.equal("mounted again");
    }
}

#[test]
fn another_folder_that_is_meant_is_taken_when_somebody_says_so() {
    let pair = Pair::new();
    pair.write("acct1/one", b"1");
    pair.write("acct1/two", b"2");
    let (_there, _here) = (pair.recovery.start(), pair.production.start());
    pair.point();
    let former = pair.production.tree.with_file_name("former");
    fs::rename(&pair.production.tree, former).unwrap();
    pair.write("acct1/one", b"1");
    pair.write("acct1/three", b"3");
    pair.wait(&pair.production, "said", |share| is_gone(share, OTHER));
    assert!(there(&pair, "acct1/two").exists());
    let config = text(&pair.production.config);
    let out = farshore(&["brake", "approve", "--share", "homes", "--config", config]);
    assert!(out.status.success(), "{}", shown(&out));
    pair.point();
    pair.equal("approved");
}

/// What a daemon keeps lies on a full disk: it starts, says so, and goes on when there is room.
#[test]
fn a_share_whose_state_disk_is_full_at_the_start_is_waited_for() {
    for production in [true, false] {
        let pair = Pair::new();
        pair.write("acct1/one", b"1");
        let site = if production { &pair.production } else { &pair.recovery };
        let kept = site.state.with_extension("kept");
        crate::kills::copy(&site.state, &kept);
        let Some(_small) = Small::over(&site.state, "16m") else { return };
        crate::kills::copy(&kept, &site.state);
        fill(&site.state.join("ballast"));
        let (_there, _here) = (pair.recovery.start(), pair.production.start());
        pair.wait(site, "red", |share| {
            share["state"] == "error" && share["state_text"].to_string().contains("No space left")
        });
        fs::remove_file(site.state.join("ballast")).unwrap();
        pair.point();
        pair.equal("with room");
        // And while it runs.
        fill(&site.state.join("ballast"));
        for n in 0..3_000 {
            pair.write(&format!("acct{}/new{n}", n % 7), b"new");
        }
        std::thread::sleep(Duration::from_millis(2_000));
        fs::remove_file(site.state.join("ballast")).unwrap();
        pair.point();
        pair.equal("with room again");
    }
}

//! A standby whose disk has no room: for one file, which waits alone, or for anything, which is said.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use farshore_test_support::Rng;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use serde_json::Value;

use crate::common::{PATIENCE, is_root};
use crate::pair::{Pair, there};

/// A small file system in the place of a folder.
pub(crate) struct Small(PathBuf);

impl Small {
    /// `None` where nothing can be mounted.
    pub(crate) fn over(place: &Path, size: &str) -> Option<Self> {
        let data = std::ffi::CString::new(format!("size={size},mode=0755")).unwrap();
        let mounted = is_root()
            && mount("tmpfs", place, "tmpfs", MountFlags::empty(), Some(data.as_c_str())).is_ok();
        mounted.then(|| Self(place.to_path_buf()))
    }

    pub(crate) fn grow(&self, size: &str) {
        let data = std::ffi::CString::new(format!("size={size}")).unwrap();
        mount_remount(&self.0, MountFlags::empty(), data.as_c_str()).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).unwrap_or(());
    }
}

fn says(share: &Value, words: &str) -> bool {
    share["problems"]["newest"].to_string().contains(words)
}

fn staged(pair: &Pair) -> usize {
    fs::read_dir(pair.recovery.tree.join(".farshore/staging")).unwrap().count()
}

fn mib(n: usize, seed: u64) -> Vec<u8> {
    Rng::new(seed).bytes(n << 20)
}

#[test]
fn a_file_too_large_for_the_standby_waits_alone() {
    let pair = Pair::new();
    let Some(small) = Small::over(&pair.recovery.tree, "32m") else { return };
    pair.write("acct1/in/first", b"1");
    let (_there, _here) = (pair.recovery.start(), pair.production.start());
    pair.point();
    // One that does not fit, one with holes that does not, one that fits but for a copy of it.
    pair.write("acct1/in/huge", &mib(40, 1));
    pair.write("acct1/in/aside", b"beside it");
    let holes = File::create(pair.production.tree.join("acct2-holes")).unwrap();
    holes.set_len(100 << 20).unwrap();
    for at in 0..40 {
        use std::os::unix::fs::FileExt;
        holes.write_all_at(&mib(1, 100 + at), at * (2 << 20)).unwrap();
    }
    pair.point();
    assert_eq!(fs::read(there(&pair, "acct1/in/aside")).unwrap(), b"beside it");
    assert!(!there(&pair, "acct1/in/huge").exists());
    for name in ["acct1/in/huge (41943040 bytes needed, ", "acct2-holes ("] {
        let words = format!("standby: no space for {name}");
        pair.wait(&pair.production, &words, |share| says(share, &words));
        pair.wait(&pair.recovery, &words, |share| says(share, &words["standby: ".len()..]));
    }
    // Each is said when it is met, the point that names both comes after.
    let share = pair.wait(&pair.production, "both are exceptions", |share| {
        share["recovery_point"]["exceptions"].as_u64() == Some(2)
    });
    assert_ne!(share["state"], "error");
    // What comes after goes through, also into the same folder, and the large one is not sent with it.
    // The connection is asked about once a second: what went before is in it when it rests.
    let counted = || pair.status(&pair.production)["peer"]["sent"]["bytes"].as_u64().unwrap();
    let sent = || loop {
        let before = counted();
        std::thread::sleep(std::time::Duration::from_millis(2_500));
        if counted() - before < 1 << 20 {
            break before;
        }
    };
    let before = sent();
    for n in 0..10 {
        pair.write(&format!("acct1/in/later{n}"), b"later");
        pair.point();
        assert!(there(&pair, &format!("acct1/in/later{n}")).exists());
    }
    let again = sent() - before;
    assert!(again < 40 << 20, "{again} bytes: it was sent again with every cut");
    pair.wait(&pair.recovery, "half of it takes no room", |_| staged(&pair) == 0);
    small.grow("256m");
    pair.wait(&pair.recovery, "healed", |share| {
        share["recovery_point"]["exceptions"].as_u64() == Some(0) && !says(share, "no space")
    });
    pair.wait(&pair.production, "healed", |share| !says(share, "no space"));
    pair.point();
    pair.equal("with room");
}

#[test]
fn a_copy_that_does_not_fit_waits_alone() {
    let pair = Pair::new();
    let Some(small) = Small::over(&pair.recovery.tree, "32m") else { return };
    pair.write("acct1/one", &mib(20, 1));
    let (_there, _here) = (pair.recovery.start(), pair.production.start());
    pair.point();
    fs::copy(pair.production.tree.join("acct1/one"), pair.production.tree.join("acct1/two"))
        .unwrap();
    pair.write("acct1/three", b"3");
    pair.point();
    assert!(there(&pair, "acct1/three").exists());
    pair.wait(&pair.production, "said", |share| says(share, "standby: no space for acct1/two"));
    pair.wait(&pair.recovery, "half of it takes no room", |_| staged(&pair) == 0);
    small.grow("64m");
    pair.wait(&pair.production, "healed", |share| {
        share["recovery_point"]["exceptions"].as_u64() == Some(0)
    });
    pair.equal("with room");
}

/// Writes until nothing fits.
pub(crate) fn fill(file: &Path) {
    let mut file = File::create(file).unwrap();
    for size in [1 << 20, 4096, 1] {
        while file.write_all(&vec![7; size]).is_ok() {}
    }
}

fn red(pair: &Pair) {
    for site in [&pair.production, &pair.recovery] {
        pair.wait(site, "red", |share| {
            share["state"] == "error"
                && share["ready"] == false
                && share["state_text"]
                    .as_str()
                    .is_some_and(|t| t.contains("no space at the standby"))
        });
    }
}

#[test]
fn a_full_standby_says_so_at_both_sites_and_room_heals_it() {
    let pair = Pair::new();
    let Some(_small) = Small::over(&pair.recovery.tree, "16m") else { return };
    pair.write("acct1/one", b"1");
    let (_there, here) = (pair.recovery.start(), pair.production.start());
    pair.point();
    let ballast = pair.recovery.tree.join(".farshore/ballast");
    fill(&ballast);
    for n in 0..20 {
        pair.write(&format!("acct1/new{n}"), &vec![b'x'; 50_000]);
    }
    red(&pair);
    pair.wait(&pair.recovery, "half of it takes no room", |_| staged(&pair) == 0);
    fs::remove_file(&ballast).unwrap();
    pair.wait(&pair.recovery, "healed", |share| share["ready"] == true);
    pair.point();
    pair.equal("with room");
    assert!(PATIENCE > std::time::Duration::ZERO && here.log().contains("no space"));
}

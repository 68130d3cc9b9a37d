//! A pair whose standby lies on a file system of its own, and what is looked at in it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::common::{PATIENCE, command, farshore, json, shown, text};
use crate::pair::{Daemon, Dials, Pair};

/// What is proven here is not the brake.
pub(crate) const NO_BRAKE: &str = "brake = { entries = 1000000, percent = 100 }\n";

/// What a standby lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disk {
    /// Files are copied.
    Tmpfs,
    /// Blocks are shared.
    Xfs,
}

pub(crate) struct Bed {
    mounted: Option<PathBuf>,
    pub(crate) pair: Pair,
}

fn run(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|out| out.status.success())
}

impl Bed {
    /// A pair, if it can be had here.
    pub(crate) fn new(disk: Disk, more: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: not root");
            return None;
        }
        let pair = Pair::with(Dials::Production, &format!("{NO_BRAKE}{more}"));
        let tree = pair.recovery.tree.clone();
        let mounted = match disk {
            Disk::Tmpfs => None,
            Disk::Xfs => {
                let image = tree.with_file_name("image");
                let made = fs::File::create(&image).and_then(|file| file.set_len(1 << 30));
                let is_there = made.is_ok()
                    && run("mkfs.xfs", &["-q", text(&image)])
                    && run("mount", &["-o", "loop", text(&image), text(&tree)]);
                if !is_there {
                    println!("skipped: no XFS can be made here");
                    return None;
                }
                Some(tree)
            }
        };
        Some(Self { mounted, pair })
    }

    pub(crate) fn start(&self) -> (Daemon, Daemon) {
        (self.pair.recovery.start(), self.pair.production.start())
    }

    /// A place beside the standby's tree.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.pair.recovery.tree.with_file_name(name)
    }

    pub(crate) fn args(&self, at: &str, more: &[&str]) -> Vec<String> {
        let config = text(&self.pair.recovery.config);
        let args = ["rehearse", "--at", at, "--config", config, "--json"];
        args.iter().chain(more).map(|arg| (*arg).to_owned()).collect()
    }

    pub(crate) fn rehearse(&self, at: u64, more: &[&str]) -> Output {
        let args = self.args(&at.to_string(), more);
        farshore(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// One that goes well, with a script as its probe; its report.
    #[track_caller]
    pub(crate) fn goes_well(&self, at: u64, script: &str) -> serde_json::Value {
        let out = self.rehearse(at, &["--probe", "sh", "-ec", script]);
        assert!(out.status.success(), "{}", shown(&out));
        let report = json(&out);
        assert_eq!(report["exact"], true, "{report:#}");
        assert_eq!(report["cleaned"], true, "{report:#}");
        report
    }

    pub(crate) fn spawn(&self, at: u64, script: &str) -> std::process::Child {
        let args = self.args(&at.to_string(), &["--probe", "sh", "-ec", script]);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        command(&args).spawn().unwrap()
    }

    /// Nothing of a rehearsal is there.
    pub(crate) fn is_clean(&self) -> bool {
        !self.pair.recovery.tree.join(".farshore/rehearsal").exists()
    }

    /// The mounts below the pair's folder, as this process sees them.
    pub(crate) fn mounts(&self) -> Vec<String> {
        let folder = text(self.pair.recovery.tree.parent().unwrap().parent().unwrap());
        let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
        all.lines().filter(|line| line.contains(folder)).map(str::to_owned).collect()
    }

    #[track_caller]
    pub(crate) fn until_clean(&self) {
        until("clean", || self.is_clean());
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if let Some(mounted) = &self.mounted {
            let flags = rustix::mount::UnmountFlags::DETACH;
            rustix::mount::unmount(mounted, flags).unwrap_or(());
        }
    }
}

#[track_caller]
pub(crate) fn until(what: &str, is: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < until, "never {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Every fact of everything below a folder, change times and what is below `.farshore` too; but not what moves by itself.
pub(crate) fn facts(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![folder.to_path_buf()];
    while let Some(path) = waiting.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        let content = match stat.is_file() {
            true => blake3::hash(&fs::read(&path).unwrap()).to_string(),
            false => String::new(),
        };
        if stat.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        if path.as_os_str().as_bytes().ends_with(b"/.farshore") {
            // A folder comes and goes in it.
            continue;
        }
        let facts = format!(
            "inode {} mode {:o} owner {}:{} links {} size {} mtime {}.{} ctime {}.{} {content}",
            stat.ino(),
            stat.mode(),
            stat.uid(),
            stat.gid(),
            stat.nlink(),
            stat.size(),
            stat.mtime(),
            stat.mtime_nsec(),
            stat.ctime(),
            stat.ctime_nsec()
        );
        found.insert(path, facts);
    }
    found
}

//! A pair of sites below one temporary folder.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use farshore_test_support::compare;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{PATIENCE, command, farshore, shown, text};

/// Who dials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dials {
    /// The site that sends.
    Production,
    /// The site that receives.
    Recovery,
}

/// One site.
pub(crate) struct Site {
    pub(crate) name: &'static str,
    pub(crate) tree: PathBuf,
    pub(crate) state: PathBuf,
    pub(crate) config: PathBuf,
    pub(crate) key: String,
}

/// Both, and the folder they are in.
pub(crate) struct Pair {
    pub(crate) production: Site,
    pub(crate) recovery: Site,
    /// Where the one that listens is dialed.
    pub(crate) address: String,
    folder: TempDir,
    mounted: bool,
}

/// A daemon that runs.
pub(crate) struct Daemon {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl Pair {
    /// A pair of which the sending site dials.
    pub(crate) fn new() -> Self {
        Self::with(Dials::Production, "")
    }

    /// A pair; `more` goes into both configs' share.
    pub(crate) fn with(dials: Dials, more: &str) -> Self {
        Self::of_size(dials, more, "2g")
    }

    /// One on a disk in memory of this size.
    pub(crate) fn of_size(dials: Dials, more: &str, size: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("farshore-pair").tempdir().unwrap();
        let mounted = rustix::process::geteuid().is_root() && {
            let flags = rustix::mount::MountFlags::empty();
            let data = std::ffi::CString::new(format!("size={size},nr_inodes=0")).unwrap();
            let data = Some(data.as_c_str());
            rustix::mount::mount("tmpfs", folder.path(), "tmpfs", flags, data).is_ok()
        };
        // Bound for a moment to find one that is free.
        let port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let site = |name: &'static str, peer: &str, role: &str, does_dial: bool| {
            let at = |what: &str| folder.path().join(name).join(what);
            let (tree, state, config) = (at("homes"), at("state"), at("farshore.toml"));
            fs::create_dir_all(&tree).unwrap();
            fs::create_dir_all(&state).unwrap();
            let (listen, dial) = match does_dial {
                true => (String::new(), format!("dial = \"{address}\"\n")),
                false => (format!("listen = \"{address}\"\n"), String::new()),
            };
            let text_of = format!(
                "[site]\nname = \"{name}\"\nstate = \"{}\"\n{listen}[peer]\nname = \"{peer}\"\n\
                 {dial}[[share]]\nname = \"homes\"\npath = \"{}\"\nrole = \"{role}\"\n{more}\n",
                text(&state),
                text(&tree),
            );
            fs::write(&config, text_of).unwrap();
            let key = farshore(&["key", "--state", text(&state)]);
            assert!(key.status.success(), "{}", shown(&key));
            let key = String::from_utf8(key.stdout).unwrap().trim().to_owned();
            Site { name, tree, state, config, key }
        };
        let production = site("production", "recovery", "active", dials == Dials::Production);
        let recovery = site("recovery", "production", "standby", dials == Dials::Recovery);
        for (site, peer) in [(&production, &recovery), (&recovery, &production)] {
            let config = text(&site.config);
            let args = ["pair", "--config", config, "--trust", &peer.key, "--as", peer.name];
            let paired = farshore(&args);
            assert!(paired.status.success(), "{}", shown(&paired));
        }
        Self { production, recovery, address, folder, mounted }
    }

    /// A file of the production site, and all above it.
    pub(crate) fn write(&self, path: &str, content: &[u8]) {
        let path = self.production.tree.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Makes a point, and says its sequence and time.
    pub(crate) fn point(&self) -> (u64, i64) {
        let (sequence, time, _) = self.point_of();
        (sequence, time)
    }

    /// The same, once nothing waits for a large file any more: it is in the point.
    #[allow(dead_code)] // rehearsals ask
    pub(crate) fn whole_point(&self) -> (u64, i64) {
        let until = Instant::now() + PATIENCE;
        loop {
            let (sequence, time, exceptions) = self.point_of();
            if exceptions == 0 {
                return (sequence, time);
            }
            assert!(Instant::now() < until, "{exceptions} exceptions");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn point_of(&self) -> (u64, i64, u64) {
        let config = text(&self.production.config);
        let args = ["mark", "create", "--config", config, "--label", "test", "--json"];
        let until = Instant::now() + PATIENCE;
        loop {
            let made = farshore(&args);
            if made.status.success() {
                let point: Value = serde_json::from_slice(&made.stdout).expect("JSON");
                let point = point.get("point").cloned().unwrap_or(point);
                let number = |key: &str| point[key].as_i64().expect("a number");
                let exceptions = number("exceptions").unsigned_abs();
                return (number("sequence").unsigned_abs(), number("time_unix_ms"), exceptions);
            }
            assert!(Instant::now() < until, "no point: {}", shown(&made));
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// What a site's daemon knows.
    pub(crate) fn status(&self, site: &Site) -> Value {
        let out = farshore(&["status", "--config", text(&site.config), "--json"]);
        serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", shown(&out)))
    }

    /// Waits until the share of a site is as `wanted` says.
    pub(crate) fn wait(&self, site: &Site, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            let status = self.status(site);
            let share = status["shares"][0].clone();
            if wanted(&share) {
                return share;
            }
            assert!(Instant::now() < until, "never {what}: {share:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Both trees are the same.
    pub(crate) fn equal(&self, when: &str) {
        let found = compare(&self.production.tree, &self.recovery.tree, &[b".farshore"]);
        assert!(found.is_empty(), "{when}: {} differences: {found:#?}", found.len());
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if self.mounted {
            let flags = rustix::mount::UnmountFlags::DETACH;
            rustix::mount::unmount(self.folder.path(), flags).unwrap_or(());
        }
    }
}

impl Site {
    /// Starts its daemon, and waits until it is ready.
    pub(crate) fn start(&self) -> Daemon {
        let daemon = self.spawn();
        daemon.wait_for("ready");
        daemon
    }

    pub(crate) fn spawn(&self) -> Daemon {
        Daemon::of(command(&["serve", "--config", text(&self.config)]).spawn().expect("it starts"))
    }

    /// Starts it as a node that reports, and waits until it watches.
    pub(crate) fn capture(&self) -> Daemon {
        let args = ["capture", "--config", text(&self.config)];
        let daemon = Daemon::of(command(&args).spawn().expect("it starts"));
        daemon.wait_for("ready");
        daemon
    }
}

impl Daemon {
    /// One that was started.
    pub(crate) fn of(mut child: Child) -> Self {
        let stderr = child.stderr.take().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines() {
                let Ok(line) = line else { return };
                lines.lock().unwrap().push(line);
            }
        });
        Self { child, log }
    }

    #[allow(dead_code)] // the bench asks
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    pub(crate) fn wait_for(&self, word: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.log().contains(word) {
            assert!(Instant::now() < until, "never said '{word}':\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it at once.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it in order; how it went.
    pub(crate) fn stop(mut self) -> std::process::ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "it does not stop:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn hang_up(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// A folder of the recovery site.
pub(crate) fn there(pair: &Pair, path: &str) -> PathBuf {
    pair.recovery.tree.join(Path::new(path))
}

//! Runs one command as a whole tree of processes, and says what it cost.
//!
//! Guarantees: wall time is from the start of the command to its end; CPU and memory cover the client,
//! its children and the servers it talked to; bytes on the wire are those of a private namespace with
//! no other traffic. Refuses to invent: without root there is no namespace and no wire figure.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

pub(crate) mod cgroup;
pub(crate) mod netns;

use crate::bench::wan::{LineUse, Wan};
use crate::bench::{BenchError, Context};
use cgroup::{Account, Peaks};
use netns::{DeviceBytes, NetNs};

/// How often memory is sampled.
const SAMPLE_EVERY: Duration = Duration::from_millis(15);
/// How long the server side may take to end a session after the client ended.
const LINGER_MAX: Duration = Duration::from_secs(3);

/// A command line with its environment.
#[derive(Debug, Clone)]
pub(crate) struct CommandLine {
    /// The program and its arguments.
    pub(crate) words: Vec<OsString>,
    /// Variables added to the environment.
    pub(crate) variables: Vec<(String, String)>,
}

impl CommandLine {
    /// A command line of words.
    pub(crate) fn new<W: Into<OsString>>(words: impl IntoIterator<Item = W>) -> Self {
        Self { words: words.into_iter().map(Into::into).collect(), variables: Vec::new() }
    }
}

/// What one run cost.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Cost {
    /// Seconds from start to end.
    pub(crate) wall_s: f64,
    /// Seconds of the `sync -f` of the target after it.
    pub(crate) sync_s: f64,
    /// User CPU seconds of both ends.
    pub(crate) user_s: f64,
    /// System CPU seconds of both ends.
    pub(crate) system_s: f64,
    /// Peak memory of the largest process, MB.
    pub(crate) rss_max_mb: f64,
    /// Sum of the peaks of the client's processes, MB; of both ends when they are one process.
    pub(crate) rss_near_mb: f64,
    /// Sum of the peaks of the server's processes, MB.
    pub(crate) rss_far_mb: f64,
    /// Bytes on the wire, both directions, with all headers.
    pub(crate) wire_bytes: Option<u64>,
    /// What the emulated line carried.
    pub(crate) line: Option<LineUse>,
}

/// Where commands run and how they are counted.
#[derive(Debug)]
pub(crate) struct Site<'a> {
    /// The namespace of the client.
    pub(crate) client: Option<&'a NetNs>,
    /// The namespace of the servers (the same on loopback).
    pub(crate) server: Option<&'a NetNs>,
    /// The device whose bytes count: `lo`, or the tunnel of the client's side.
    pub(crate) device: &'a str,
    /// The account of CPU and memory.
    pub(crate) account: &'a Account,
    /// The emulated line between the two namespaces.
    pub(crate) line: Option<&'a Wan>,
}

impl Site<'_> {
    /// Starts a client command.
    fn start_client(&self, line: &CommandLine, log: &Path) -> Result<Child, BenchError> {
        spawn(self.client, self.account, line, log)
    }

    /// Starts a server.
    pub(crate) fn start_server(&self, line: &CommandLine, log: &Path) -> Result<Child, BenchError> {
        spawn(self.server, self.account, line, log)
    }

    fn wire(&self) -> Result<Option<u64>, BenchError> {
        let Some(client) = self.client else { return Ok(None) };
        let DeviceBytes { received, sent } = client.device_bytes(self.device)?;
        // On loopback every byte sent is received on the same device: count it once.
        Ok(Some(if self.device == "lo" { sent } else { received + sent }))
    }

    /// Runs a client command to its end, then syncs the file system of `target`. The memory of `own`, a
    /// server that is there for this command alone, counts; that of servers that wait for many does not.
    pub(crate) fn measure(
        &self,
        line: &CommandLine,
        servers: &[u32],
        own: Option<u32>,
        target: &Path,
        log: &Path,
    ) -> Result<(Cost, ExitStatus), BenchError> {
        sync_file_system(target)?;
        let mut idle = self.account.live(servers);
        let live_before = idle.len();
        idle.retain(|pid| Some(*pid) != own);
        let (cpu, wire) = (self.account.cpu(servers), self.wire()?);
        let line_before = self.line.map(Wan::start_count);
        let started = Instant::now();
        let mut child = self.start_client(line, log)?;
        let (status, wall, peaks) = self.watch(&mut child, servers, &idle, started)?;
        sync_file_system(target)?;
        let synced = started.elapsed();
        self.let_servers_end(servers, live_before);
        let cpu = self.account.cpu(servers).since(cpu);
        let wire_bytes = self.wire()?.zip(wire).map(|(after, before)| after - before);
        let line = self.line.zip(line_before).map(|(line, before)| line.since(&before));
        let (max, near, far) = peaks.max_and_sums();
        let megabytes = |kilobytes| crate::bench::rng::to_f64(kilobytes) * 1024.0 / 1e6;
        let cost = Cost {
            wall_s: wall.as_secs_f64(),
            sync_s: (synced - wall).as_secs_f64(),
            user_s: cpu.user,
            system_s: cpu.system,
            rss_max_mb: megabytes(max),
            rss_near_mb: megabytes(near),
            rss_far_mb: megabytes(far),
            wire_bytes,
            line,
        };
        Ok((cost, status))
    }

    fn watch(
        &self,
        child: &mut Child,
        servers: &[u32],
        idle: &[u32],
        started: Instant,
    ) -> Result<(ExitStatus, Duration, Peaks), BenchError> {
        let (ended, client) = (AtomicBool::new(false), child.id());
        let roots: Vec<u32> = servers.iter().copied().chain([client]).collect();
        std::thread::scope(|scope| {
            let sampler = scope.spawn(|| {
                let mut peaks = Peaks::default();
                while !ended.load(Ordering::Relaxed) {
                    let mut live = self.account.live(&roots);
                    live.retain(|pid| !idle.contains(pid));
                    peaks.sample(client, &live);
                    std::thread::sleep(SAMPLE_EVERY);
                }
                peaks
            });
            let status = child.wait();
            let wall = started.elapsed();
            ended.store(true, Ordering::Relaxed);
            let peaks = sampler.join().unwrap_or_default();
            Ok((status.at("wait for", Path::new("the command"))?, wall, peaks))
        })
    }

    /// Waits until the sessions of the servers have ended, so that their CPU is counted.
    fn let_servers_end(&self, servers: &[u32], before: usize) {
        let started = Instant::now();
        while self.account.live(servers).len() > before && started.elapsed() < LINGER_MAX {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Starts a command in a namespace and in the account's group.
fn spawn(
    place: Option<&NetNs>,
    account: &Account,
    line: &CommandLine,
    log: &Path,
) -> Result<Child, BenchError> {
    let mut words: Vec<OsString> = Vec::new();
    if let Some(procs) = account.procs_file() {
        // The shell joins the group, then becomes the command: nothing is missed.
        let join = r#"echo $$ > "$0" && exec "$@""#;
        words.extend(["/bin/sh".into(), "-c".into(), join.into(), procs.into_os_string()]);
    }
    words.extend(line.words.iter().cloned());
    let out = File::create(log).at("create the log", log)?;
    let also = out.try_clone().at("create the log", log)?;
    let program = PathBuf::from(&words[0]);
    let mut command = Command::new(&program);
    command.args(&words[1..]).envs(line.variables.iter().map(|(k, v)| (k, v)));
    command.stdin(Stdio::null()).stdout(out).stderr(also);
    match place {
        Some(place) => place.enter(|| command.spawn().at("start", &program)),
        None => command.spawn().at("start", &program),
    }
}

/// `sync -f` of the file system of `path`.
pub(crate) fn sync_file_system(path: &Path) -> Result<(), BenchError> {
    let handle = File::open(path).at("open to sync", path)?;
    rustix::fs::syncfs(&handle).map_err(std::io::Error::from).at("sync the file system", path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::janitor::Janitor;

    #[test]
    fn a_busy_child_is_counted() {
        let janitor = Janitor::start().expect("janitor");
        let account = Account::create(&janitor);
        let site = Site { client: None, server: None, device: "lo", account: &account, line: None };
        let folder = tempfile::tempdir().expect("temp folder");
        let busy = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; (exit 3)";
        let line = CommandLine::new(["/bin/sh", "-c", busy]);
        let log = folder.path().join("log");
        let (cost, status) = site.measure(&line, &[], None, folder.path(), &log).expect("measure");
        assert_eq!(status.code(), Some(3));
        assert!(cost.user_s + cost.system_s > 0.02, "{cost:?}");
        assert!(cost.wall_s > 0.02 && cost.rss_max_mb > 0.2, "{cost:?}");
        assert_eq!(cost.wire_bytes, None);
    }
}

//! CPU time and memory of a group of processes.
//!
//! Guarantees: with a writable cgroup v2 the CPU figure covers every process ever started in the
//! group, however short. Without one it is the sum of waited-for children and of the servers as /proc
//! shows them, to 10 ms. Peak memory is the kernel's high-water mark (VmHWM) of each process, read
//! every 15 ms: a process shorter than that may be missed, and shared pages count in each process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::bench::janitor::Janitor;

/// User and system seconds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cpu {
    /// User seconds.
    pub(crate) user: f64,
    /// System seconds.
    pub(crate) system: f64,
}

impl Cpu {
    /// What was used since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self { user: self.user - before.user, system: self.system - before.system }
    }
}

/// The account of the processes of one measurement.
#[derive(Debug)]
pub(crate) struct Account {
    group: Option<PathBuf>,
}

impl Account {
    /// Makes a control group of our own, or falls back to /proc.
    pub(crate) fn create(janitor: &Janitor) -> Self {
        let group =
            own_group().map(|parent| parent.join(format!("farshore-bench-{}", std::process::id())));
        let group = group.filter(|path| std::fs::create_dir(path).is_ok());
        if let Some(path) = &group {
            janitor.end_group(path).ok();
        }
        let writable = |path: &PathBuf| path.join("cpu.stat").is_file();
        Self { group: group.filter(writable) }
    }

    /// The file a process writes its id to in order to be counted.
    pub(crate) fn procs_file(&self) -> Option<PathBuf> {
        self.group.as_ref().map(|group| group.join("cgroup.procs"))
    }

    /// Counts a process that runs already, and what it starts from now on.
    pub(crate) fn adopt(&self, pid: u32) {
        // One that is gone has nothing to be counted.
        self.procs_file().map(|file| std::fs::write(file, pid.to_string()).ok());
    }

    /// How CPU time is found.
    pub(crate) fn describe(&self) -> &'static str {
        if self.group.is_some() { "cgroup v2" } else { "/proc (10 ms)" }
    }

    /// CPU used so far by the group; without a group by ended children and by the live `roots`.
    pub(crate) fn cpu(&self, roots: &[u32]) -> Cpu {
        match &self.group {
            Some(group) => group_cpu(group),
            None => {
                let own = stat_fields("self").map_or(Cpu::default(), |f| ticks(&f[2..4]));
                tree(roots).iter().filter_map(|pid| stat_fields(&pid.to_string())).fold(
                    own,
                    |sum, fields| {
                        let all = ticks(&[fields[0] + fields[2], fields[1] + fields[3]]);
                        Cpu { user: sum.user + all.user, system: sum.system + all.system }
                    },
                )
            }
        }
    }

    /// The live processes: of the group, or the trees below `roots`.
    pub(crate) fn live(&self, roots: &[u32]) -> Vec<u32> {
        let Some(group) = &self.group else { return tree(roots) };
        let text = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }
}

/// The control group we are in, as a folder.
fn own_group() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/mounts").ok()?;
    let mount = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let at = fields.next()?;
        (fields.next()? == "cgroup2").then(|| PathBuf::from(at))
    })?;
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let below = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(mount.join(below.trim_start_matches('/')))
}

fn group_cpu(group: &Path) -> Cpu {
    let text = std::fs::read_to_string(group.join("cpu.stat")).unwrap_or_default();
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.unwrap_or(0.0) / 1e6
    };
    Cpu { user: field("user_usec "), system: field("system_usec ") }
}

/// utime, stime, cutime, cstime of a process in clock ticks.
fn stat_fields(pid: &str) -> Option<[f64; 4]> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = text.rsplit_once(')')?.1;
    let fields: Vec<f64> =
        after_name.split_whitespace().skip(11).take(4).filter_map(|f| f.parse().ok()).collect();
    fields.try_into().ok()
}

/// Clock ticks as seconds; Linux shows 100 a second in /proc on every architecture we run on.
fn ticks(user_system: &[f64]) -> Cpu {
    Cpu { user: user_system[0] / 100.0, system: user_system[1] / 100.0 }
}

/// The processes below `roots`, roots included.
fn tree(roots: &[u32]) -> Vec<u32> {
    let mut found = roots.to_vec();
    let mut at = 0;
    while let Some(pid) = found.get(at).copied() {
        let path = format!("/proc/{pid}/task/{pid}/children");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        found.extend(text.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        at += 1;
    }
    found
}

/// Peak memory by process, in kilobytes.
#[derive(Debug, Default)]
pub(crate) struct Peaks {
    /// Of the client and what it started.
    near: BTreeMap<u32, u64>,
    /// Of the servers and their sessions.
    far: BTreeMap<u32, u64>,
}

impl Peaks {
    /// Reads the high-water mark of each process; what is not below `client` counts for the far end.
    pub(crate) fn sample(&mut self, client: u32, processes: &[u32]) {
        let near = tree(&[client]);
        for &pid in processes {
            let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let peak =
                line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0);
            // A process stays on the side it was first seen on, also when its parent is gone.
            let is_near = self.near.contains_key(&pid)
                || (near.contains(&pid) && !self.far.contains_key(&pid));
            let side = if is_near { &mut self.near } else { &mut self.far };
            let entry = side.entry(pid).or_default();
            *entry = peak.max(*entry);
        }
    }

    /// The largest single process, and the sums of the near and of the far end.
    pub(crate) fn max_and_sums(&self) -> (u64, u64, u64) {
        let max = self.near.values().chain(self.far.values()).copied().max().unwrap_or(0);
        (max, self.near.values().sum(), self.far.values().sum())
    }
}

//! A series: workloads by tools by runs, the tools by turns.
//!
//! Guarantees: each tool and run has a target of its own, made before and never deleted while anything
//! is timed; all first syncs of a workload come before the source changes, so that every tool sees the
//! same source and Farshore's state is that of an ordinary source folder. Refuses to count a run that
//! failed or left a different tree. Order within a step: A B C A B C ...

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use crate::bench::generate::{Facts, Plan, Workload};
use crate::bench::janitor::Janitor;
use crate::bench::measure::cgroup::Account;
use crate::bench::measure::netns::NetNs;
use crate::bench::measure::{Cost, Site, sync_file_system};
use crate::bench::options::{PeerKind, SeriesArgs};
use crate::bench::peer::{Job, Peers};
use crate::bench::report::{Record, Setting, print_table, write_json};
use crate::bench::verify::compare_trees;
use crate::bench::wan::{self, LineConfig, Wan};
use crate::bench::workfs::WorkFolder;
use crate::bench::{BenchError, Context};

/// Runs the whole series.
pub(crate) fn run_series(args: &SeriesArgs, out: &mut dyn Write) -> Result<(), BenchError> {
    let needs = BenchError::MissingOption { workload: "any", option: "--work" };
    let parent = args.work.as_ref().ok_or(needs)?;
    let janitor = Janitor::start()?;
    let work = WorkFolder::create(parent, args.work_fs, args.work_gib, args.keep, &janitor)?;
    let account = Account::create(&janitor);
    let network = Network::start(args, &janitor)?;
    let mut setting = Setting::of_machine(&work.root);
    describe(&mut setting, args, &account, &network)?;
    let mut records = Vec::new();
    let controls: Vec<Option<String>> = if args.congestion.is_empty() {
        vec![None]
    } else {
        args.congestion.iter().cloned().map(Some).collect()
    };
    for (number, control) in controls.iter().enumerate() {
        if let Some(name) = control {
            network.set_congestion(name)?;
        }
        let root = work.root.join(control.as_deref().unwrap_or("runs"));
        let servers = root.join("servers");
        std::fs::create_dir_all(&servers).at("create a folder", &servers)?;
        let farshore = match &args.farshore {
            Some(path) => path.clone(),
            None => std::env::current_exe().at("find", Path::new("our own program"))?,
        };
        let far = network.is_far().then(|| wan::ADDRESS_B.to_string());
        let peers = Peers::new(&servers, &farshore, &args.farshore_arg, far, &janitor);
        let congestion = control.clone();
        let site = network.site(&account);
        let mut series = Series {
            args,
            root,
            site,
            peers,
            tools: Vec::new(),
            congestion,
            setting: setting.clone(),
            records: &mut records,
            out,
        };
        series.choose_tools(&mut setting)?;
        series.setting = setting.clone();
        if number == 0 {
            setting.print(series.out)?;
        }
        series.run()?;
    }
    print_table(&records, out)?;
    network.print_counts(out)?;
    if let Some(path) = &args.json {
        write_json(path, &setting, &records)?;
    }
    Ok(())
}

fn describe(
    setting: &mut Setting,
    args: &SeriesArgs,
    account: &Account,
    network: &Network,
) -> Result<(), BenchError> {
    setting.add("scale, seed", &format!("{}, {}", args.scale, args.seed));
    setting.add("cpu figures", account.describe());
    setting.add("network", &network.describe(args)?);
    let controls = args.congestion.join(", ");
    let control = if controls.is_empty() { network.congestion() } else { controls };
    setting.add("tcp", &control);
    Ok(())
}

/// The network of a series.
enum Network {
    /// A private loopback.
    Loopback(NetNs),
    /// The emulated line.
    Line(Box<Wan>),
    /// The machine's own loopback, when we are not root.
    Shared,
}

impl Network {
    fn start(args: &SeriesArgs, janitor: &Janitor) -> Result<Self, BenchError> {
        let root = rustix::process::geteuid().is_root();
        let (rate_bits, loss, seed) = (args.line.rate, args.line.loss, args.seed);
        match args.line.rtt {
            Some(_) if !root => Err(BenchError::NeedsRoot { what: "the emulated line" }),
            Some(rtt) => {
                let line = LineConfig { rtt, rate_bits, loss, seed };
                Ok(Self::Line(Box::new(Wan::start(line, janitor)?)))
            }
            None if root => {
                let name = format!("farbench{}", std::process::id());
                Ok(Self::Loopback(NetNs::create(&name, janitor)?))
            }
            None => Ok(Self::Shared),
        }
    }

    fn site<'a>(&'a self, account: &'a Account) -> Site<'a> {
        let (client, server, device) = match self {
            Self::Loopback(place) => (Some(place), Some(place), "lo"),
            Self::Line(wan) => (Some(&wan.near), Some(&wan.far), wan::DEVICE),
            Self::Shared => (None, None, "lo"),
        };
        Site { client, server, device, account }
    }

    fn is_far(&self) -> bool {
        matches!(self, Self::Line(_))
    }

    fn set_congestion(&self, name: &str) -> Result<(), BenchError> {
        match self {
            Self::Loopback(place) => {
                let route = ["local", "127.0.0.1", "dev", "lo", "table", "local"];
                place.set_congestion(&route, name)
            }
            Self::Line(wan) => wan.set_congestion(name),
            Self::Shared => Err(BenchError::NeedsRoot { what: "--congestion" }),
        }
    }

    fn congestion(&self) -> String {
        let place = match self {
            Self::Loopback(place) => place,
            Self::Line(wan) => &wan.near,
            Self::Shared => return "the system's".to_owned(),
        };
        place.congestion().unwrap_or_else(|_| "unknown".to_owned())
    }

    fn describe(&self, args: &SeriesArgs) -> Result<String, BenchError> {
        match self {
            Self::Loopback(_) => Ok("loopback in a namespace of its own".to_owned()),
            Self::Shared => {
                Ok("shared loopback: not root, so no figure of bytes on the wire".to_owned())
            }
            Self::Line(wan) => {
                let probe = wan.probe()?;
                Ok(format!(
                    "asked: {:?}, {} bit/s, loss {}; measured: round trip {:.1} ms (95 %: {:.1}), \
                     one TCP stream {:.0} Mbit/s",
                    args.line.rtt.unwrap_or_default(),
                    args.line.rate,
                    args.line.loss,
                    probe.rtt_ms,
                    probe.rtt_p95_ms,
                    probe.tcp_mbit
                ))
            }
        }
    }

    fn print_counts(&self, out: &mut dyn Write) -> Result<(), BenchError> {
        let Self::Line(wan) = self else { return Ok(()) };
        let (there, back) = wan.counts();
        writeln!(out, "line, there: {there:?}\nline, back:  {back:?}")
            .at("print", Path::new("the report"))
    }
}

/// One pass over the workloads.
struct Series<'a, 'b> {
    args: &'b SeriesArgs,
    root: PathBuf,
    site: Site<'a>,
    peers: Peers<'a>,
    tools: Vec<PeerKind>,
    congestion: Option<String>,
    setting: Setting,
    records: &'b mut Vec<Record>,
    out: &'b mut dyn Write,
}

impl Series<'_, '_> {
    fn choose_tools(&mut self, setting: &mut Setting) -> Result<(), BenchError> {
        for &tool in &self.args.peers {
            match self.peers.missing(tool) {
                Some(why) => setting.add(tool.label(), &why),
                None => {
                    self.peers.start_servers(tool, &self.site)?;
                    setting.add(tool.label(), &self.peers.version(tool));
                    self.tools.push(tool);
                }
            }
        }
        Ok(())
    }

    fn run(&mut self) -> Result<(), BenchError> {
        let mut wanted = self.args.workload.clone();
        if self.args.large {
            wanted.push(Workload::W3Large);
        }
        wanted.sort();
        wanted.dedup();
        while let Some(base) = wanted.first().map(|workload| workload.base()) {
            let chain: Vec<Workload> =
                wanted.iter().copied().filter(|w| w.base() == base).collect();
            wanted.retain(|workload| workload.base() != base);
            self.run_chain(base, &chain)?;
            // What was measured so far survives an interruption of what follows.
            if let Some(path) = &self.args.json {
                write_json(path, &self.setting, self.records)?;
            }
        }
        Ok(())
    }

    /// First syncs, then each second state in turn, on one source.
    fn run_chain(&mut self, base: Workload, chain: &[Workload]) -> Result<(), BenchError> {
        let folder = self.root.join(base.label());
        let source = folder.join("source");
        let facts = self.plan(base).prepare(&source)?;
        self.say_facts(base.label(), "base", facts)?;
        sync_file_system(&source)?;
        let first = if base.is_first_sync() && chain.contains(&base) {
            base.label().to_owned()
        } else {
            format!("{} (first)", base.label())
        };
        let mut jobs = Vec::new();
        for run in 1..=self.args.runs {
            for tool in self.tools.clone() {
                let job = self.new_job(&folder, tool, run)?;
                if self.run_one(&first, tool, run, &job)? {
                    jobs.push((tool, run, job));
                }
            }
        }
        for workload in chain.iter().filter(|workload| !workload.is_first_sync()) {
            let facts = self.plan(*workload).mutate(&source)?;
            self.say_facts(workload.label(), "change", facts)?;
            sync_file_system(&source)?;
            let mut good = Vec::new();
            for (tool, run, job) in jobs {
                if tool.is_incremental() && self.run_one(workload.label(), tool, run, &job)? {
                    good.push((tool, run, job));
                }
            }
            jobs = good;
        }
        Ok(())
    }

    fn plan(&self, workload: Workload) -> Plan {
        let versions = self.args.w7_old.clone().zip(self.args.w7_new.clone());
        let owners = rustix::process::geteuid().is_root();
        Plan { workload, scale: self.args.scale, seed: self.args.seed, owners, versions }
    }

    fn new_job(&self, folder: &Path, tool: PeerKind, run: u32) -> Result<Job, BenchError> {
        let own = folder.join(format!("{}-{run}", tool.label()));
        let job = Job {
            source: folder.join("source"),
            target: own.join("target"),
            state: own.join("state"),
            logs: own.join("logs"),
        };
        for path in [&job.target, &job.state, &job.logs] {
            std::fs::create_dir_all(path).at("create a folder", path)?;
        }
        Ok(job)
    }

    /// Measures and compares one run; says whether it was good.
    fn run_one(
        &mut self,
        step: &str,
        tool: PeerKind,
        run: u32,
        job: &Job,
    ) -> Result<bool, BenchError> {
        let name = step.replace([' ', '(', ')'], "");
        let log = job.logs.join(format!("{name}.log"));
        let (cost, failure) = match self.measure(tool, job, &log) {
            Ok((cost, status)) if status.success() => (cost, None),
            Ok((cost, status)) => (cost, Some(format!("{status}: {}", first_and_last(&log)))),
            Err(error) => (Cost::default(), Some(chain_of(&error))),
        };
        let comparison = if failure.is_none() && !self.args.no_verify {
            Some(compare_trees(&job.source, &job.target)?)
        } else {
            None
        };
        let own_report = last_line(&log).and_then(|line| serde_json::from_str(&line).ok());
        let congestion = self.congestion.clone();
        let (step, tool) = (step.to_owned(), tool.label());
        let record = Record { step, tool, run, congestion, cost, failure, comparison, own_report };
        let good = record.is_good();
        self.say_record(&record)?;
        self.records.push(record);
        Ok(good)
    }

    fn measure(
        &self,
        tool: PeerKind,
        job: &Job,
        log: &Path,
    ) -> Result<(Cost, ExitStatus), BenchError> {
        let own = self.peers.start_job(tool, job, &self.site)?;
        let command = self.peers.command(tool, job, own.as_ref());
        let mut servers = self.peers.server_pids();
        servers.extend(own.as_ref().map(crate::bench::peer::Server::pid));
        self.site.measure(&command, &servers, &job.target, log)
    }

    fn say_facts(&mut self, name: &str, what: &str, facts: Facts) -> Result<(), BenchError> {
        writeln!(
            self.out,
            "{name} {what}: {} files written, {} bytes, {} removed, {} renamed",
            facts.files_written, facts.bytes_written, facts.removed, facts.renamed
        )
        .at("print", Path::new("the progress"))
    }

    fn say_record(&mut self, record: &Record) -> Result<(), BenchError> {
        let what = Path::new("the progress");
        let cost = &record.cost;
        let (wall, synced) = (cost.wall_s, cost.wall_s + cost.sync_s);
        let tail = match (&record.failure, &record.comparison) {
            (Some(why), _) => format!("failed: {why}"),
            (None, Some(found)) if found.differences > 0 => {
                format!("{} differences: {}", found.differences, found.listed[..1].join(""))
            }
            (None, Some(found)) => format!("equal ({} entries)", found.entries),
            (None, None) => "not compared".to_owned(),
        };
        let (step, tool, run) = (&record.step, record.tool, record.run);
        writeln!(self.out, "  {step} {tool} run {run}: {wall:.3} s, {synced:.3} s synced; {tail}")
            .at("print", what)
    }
}

/// The last line of a log that has one.
fn last_line(log: &Path) -> Option<String> {
    let text = String::from_utf8_lossy(&std::fs::read(log).ok()?).into_owned();
    text.lines().rev().find(|line| !line.trim().is_empty()).map(str::to_owned)
}

/// What a failed tool said: the first line is often the cause, the last one the outcome.
fn first_and_last(log: &Path) -> String {
    let text = String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let first = lines.next().unwrap_or("no message").to_owned();
    let both = lines.next_back().map_or(first.clone(), |last| format!("{first} ... {last}"));
    both.chars().take(300).collect()
}

/// An error with its causes.
fn chain_of(error: &BenchError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

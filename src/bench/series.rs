//! A series: workloads by tools by runs, the tools by turns.
//!
//! Guarantees: what the parts of the machine can do is measured first, in the same work folder; each
//! tool and run has a target of its own, made before and never deleted while anything is timed; all
//! first syncs of a workload come before the source changes, so that every tool sees the same source and
//! Farshore's state is that of an ordinary source folder. A tool without memory of its own whose first
//! sync is not asked for starts from a plain copy. Refuses to count a run that failed or left a
//! different tree. Order within a step: A B C A B C ...

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod network;
mod run;

use crate::bench::generate::{Facts, Plan, Version, real};
use crate::bench::janitor::Janitor;
use crate::bench::limits::{Demand, Parts, walk};
use crate::bench::measure::cgroup::Account;
use crate::bench::measure::netns::run_tool;
use crate::bench::measure::{Site, sync_file_system};
use crate::bench::options::{SeriesArgs, WorkFs};
use crate::bench::peer::{Adapter, Job, Peers, Tool};
use crate::bench::report::{Results, Setting, check_place, json, plot, table};
use crate::bench::rng::{round_to_u64, to_f64};
use crate::bench::targets::{self, Verdict};
use crate::bench::wan::LineConfig;
use crate::bench::workfs::WorkFolder;
use crate::bench::workload::Workload;
use crate::bench::{BenchError, Context};
use network::Network;

/// The labels of Farshore's own ways: an adapter may be called like one of them, and is another's.
const OURS: [&str; 4] = ["farshore", "farshore-trust", "farshore-z", "farshore-served"];

/// Runs the whole series.
pub(crate) fn run_series(args: &SeriesArgs, out: &mut dyn Write) -> Result<(), BenchError> {
    let needs = BenchError::MissingOption { workload: "any", option: "--work" };
    let parent = args.work.as_ref().ok_or(needs)?;
    let mut passes = passes(args);
    check_rights(args, &passes)?;
    let adapters = args.adapter.iter().map(|file| Adapter::read(file).map(Arc::new));
    let adapters: Vec<Tool> =
        adapters.map(|adapter| adapter.map(Tool::Adapter)).collect::<Result<_, _>>()?;
    let mut names: Vec<String> = adapters.iter().map(Tool::label).collect();
    names.sort();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(BenchError::TwoOfAName { name: pair[0].clone() });
    }
    for path in args.json.iter().chain(&args.plot) {
        check_place(path)?;
    }
    let janitor = Janitor::start()?;
    let work = WorkFolder::create(parent, args.work_fs, args.work_gib, args.keep, &janitor)?;
    let account = Account::create(&janitor);
    let setting = Setting::of_machine(&work.root);
    let mut results = Results { setting, scale: args.scale, ..Results::default() };
    results.setting.add("scale, seed", &format!("{}, {}", args.scale, args.seed));
    results.setting.add("cpu figures", account.describe());
    let versions = find_versions(args, &mut passes, &mut results.setting);
    results.setting.print(0, out)?;
    if !args.no_limits {
        let parts = Parts::measure(&work.root.join("parts"), args.scale)?;
        table::print_parts(&parts, out)?;
        results.parts = Some(parts);
    }
    let place = Place { root: &work.root, account: &account, janitor: &janitor };
    let mut run = |pass| run_pass(args, pass, &place, (&adapters, &versions), &mut results, out);
    let ended = passes.iter().try_for_each(&mut run);
    // What was measured before something went wrong is worth as much as ever.
    table::print_table(&results, out)?;
    if let Err(error) = ended {
        write_reports(args, &results)?;
        return Err(error);
    }
    conclude(args, &results, out)
}

/// Before hours are spent: what needs root is not begun without.
fn check_rights(args: &SeriesArgs, passes: &[Pass]) -> Result<(), BenchError> {
    let what = match args.work_fs {
        _ if rustix::process::geteuid().is_root() => return Ok(()),
        _ if passes.iter().any(|pass| pass.line.is_some()) => "the emulated line",
        WorkFs::Host => return Ok(()),
        WorkFs::Tmpfs | WorkFs::Xfs | WorkFs::Ext4 => "--work-fs with a mount of its own",
    };
    Err(BenchError::NeedsRoot { what })
}

/// Writes the files that were asked for; the verdicts in them.
fn write_reports(args: &SeriesArgs, results: &Results) -> Result<Vec<Verdict>, BenchError> {
    let verdicts = targets::judge(results);
    if let Some(path) = &args.json {
        json::write(path, results, &verdicts)?;
    }
    if let Some(path) = &args.plot {
        let date = format!("scale {}, {} runs each", args.scale, args.runs);
        plot::write(path, &verdicts, &date)?;
    }
    Ok(verdicts)
}

/// Writes what was asked for, and judges.
fn conclude(args: &SeriesArgs, results: &Results, out: &mut dyn Write) -> Result<(), BenchError> {
    let verdicts = write_reports(args, results)?;
    let missed = match args.targets || args.table {
        true => table::print_verdicts(&verdicts, args.scale, out)?,
        false => 0,
    };
    if results.records.is_empty() {
        return Err(BenchError::NothingMeasured);
    }
    let ours = results.records.iter().filter(|record| OURS.contains(&record.tool.as_str()));
    match (ours.filter(|record| !record.is_good()).count(), missed) {
        (0, 0) => Ok(()),
        // Shown, but asked of the full workloads alone.
        (0, _) if !table::is_full(args.scale) => Ok(()),
        (0, count) => Err(BenchError::Missed { count }),
        (count, _) => Err(BenchError::Spoilt { count }),
    }
}

/// Workloads on one network.
struct Pass {
    name: &'static str,
    line: Option<LineConfig>,
    wanted: Vec<Workload>,
}

/// Which workloads run on loopback and which on the line.
fn passes(args: &SeriesArgs) -> Vec<Pass> {
    let all_on_line = args.on_line || args.line.rtt.is_some();
    let mut wanted = args.workload.clone();
    if args.table {
        wanted.extend(Workload::LOCAL);
        wanted.extend(Workload::LINE);
    } else if wanted.is_empty() {
        wanted.extend_from_slice(if all_on_line { &Workload::LINE } else { &Workload::LOCAL });
    }
    if args.large || args.table {
        wanted.push(Workload::W3Large);
    }
    wanted.sort();
    wanted.dedup();
    let line = if args.on_line || args.line.rtt.is_none() {
        args.line.long(args.seed)
    } else {
        args.line.plain(args.seed)
    };
    let (on_line, local): (Vec<Workload>, Vec<Workload>) =
        wanted.into_iter().partition(|workload| all_on_line || workload.is_for_line());
    let passes = [
        Pass { name: "local", line: None, wanted: local },
        Pass { name: "line", line: Some(line), wanted: on_line },
    ];
    passes.into_iter().filter(|pass| !pass.wanted.is_empty()).collect()
}

/// The two versions of W7: those of the options, or what is on this machine; without any the workload
/// is left out and the setting says why.
fn find_versions(
    args: &SeriesArgs,
    passes: &mut [Pass],
    setting: &mut Setting,
) -> Option<(Version, Version)> {
    if !passes.iter().any(|pass| pass.wanted.contains(&Workload::W7)) {
        return None;
    }
    let given = crate::bench::given_versions(args.w7_old.as_ref(), args.w7_new.as_ref());
    if given.is_some() {
        return given;
    }
    match real::find(args.scale) {
        Ok(tree) => {
            setting.add("W7", &tree.description);
            Some((tree.old, tree.new))
        }
        Err(why) => {
            setting.add("W7", &format!("left out: {why}"));
            for pass in passes {
                pass.wanted.retain(|workload| *workload != Workload::W7);
            }
            None
        }
    }
}

/// Where a series works.
struct Place<'a> {
    root: &'a Path,
    account: &'a Account,
    janitor: &'a Janitor,
}

fn run_pass(
    args: &SeriesArgs,
    pass: &Pass,
    place: &Place<'_>,
    (adapters, versions): (&[Tool], &Option<(Version, Version)>),
    results: &mut Results,
    out: &mut dyn Write,
) -> Result<(), BenchError> {
    let network = Network::start(pass.line, place.janitor)?;
    let said = results.setting.facts.len();
    results.line = network.describe(&mut results.setting)?;
    results.setting.print(said, out)?;
    for control in network.controls(&args.congestion) {
        if let Some(name) = &control {
            network.set_congestion(name)?;
        }
        let name = control.as_ref().map_or(pass.name.to_owned(), |c| format!("{}-{c}", pass.name));
        let root = place.root.join(name);
        let servers = root.join("servers");
        std::fs::create_dir_all(&servers).at("create a folder", &servers)?;
        let farshore = match &args.farshore {
            Some(path) => path.clone(),
            None => std::env::current_exe().at("find", Path::new("our own program"))?,
        };
        let far = network.far_address();
        let peers = Peers::new(&servers, &farshore, &args.farshore_arg, far, place.janitor);
        let mut series = Series {
            args,
            root,
            site: network.site(place.account),
            peers,
            adapters,
            versions,
            ready: Vec::new(),
            absent: Vec::new(),
            congestion: control,
            results,
            out,
        };
        series.run(&pass.wanted)?;
    }
    network.print_counts(out)
}

/// One pass over the workloads with one congestion control.
struct Series<'a, 'b> {
    args: &'b SeriesArgs,
    root: PathBuf,
    site: Site<'a>,
    peers: Peers<'a>,
    adapters: &'b [Tool],
    versions: &'b Option<(Version, Version)>,
    /// Tools whose servers run.
    ready: Vec<Tool>,
    /// Tools that are not here.
    absent: Vec<Tool>,
    congestion: Option<String>,
    results: &'b mut Results,
    out: &'b mut dyn Write,
}

impl Series<'_, '_> {
    fn run(&mut self, wanted: &[Workload]) -> Result<(), BenchError> {
        let mut wanted = wanted.to_vec();
        while let Some(base) = wanted.first().map(|workload| workload.base()) {
            let chain: Vec<Workload> =
                wanted.iter().copied().filter(|w| w.base() == base).collect();
            wanted.retain(|workload| workload.base() != base);
            self.run_chain(base, &chain)?;
            // What was measured so far survives an interruption of what follows.
            if let Some(path) = &self.args.json {
                json::write(path, self.results, &targets::judge(self.results))?;
            }
        }
        Ok(())
    }

    /// The tools for a workload that are here, with their servers running.
    fn tools(&mut self, workload: Workload) -> Result<Vec<Tool>, BenchError> {
        let mut asked = if self.args.peers.is_empty() {
            targets::tools(workload, &self.args.block_sizes)
        } else {
            self.args.peers.clone()
        };
        asked.extend_from_slice(self.adapters);
        asked.retain(|tool| tool.is_incremental() || workload.is_first_sync());
        let mut found = Vec::new();
        for tool in asked {
            if self.is_ready(&tool)? {
                found.push(tool);
            }
        }
        Ok(found)
    }

    fn is_ready(&mut self, tool: &Tool) -> Result<bool, BenchError> {
        if self.ready.contains(tool) || self.absent.contains(tool) {
            return Ok(self.ready.contains(tool));
        }
        let missing = self.peers.missing(tool);
        let said = self.results.setting.facts.len();
        match &missing {
            Some(why) => {
                self.results.setting.add(&tool.label(), why);
                self.absent.push(tool.clone());
            }
            None => {
                self.peers.start_servers(tool, &self.site)?;
                self.results.setting.add(&tool.label(), &self.peers.version(tool));
                self.ready.push(tool.clone());
            }
        }
        self.results.setting.print(said, self.out)?;
        Ok(missing.is_none())
    }

    /// First syncs, then each second state in turn, on one source.
    fn run_chain(&mut self, base: Workload, chain: &[Workload]) -> Result<(), BenchError> {
        let folder = self.root.join(base.label());
        let source = folder.join("source");
        let facts = self.plan(base).prepare(&source)?;
        self.say_facts(base.label(), "base", facts)?;
        sync_file_system(&source)?;
        let mut jobs = self.first_syncs(base, chain, &folder, facts)?;
        for workload in chain.iter().filter(|workload| !workload.is_first_sync()) {
            let facts = self.plan(*workload).mutate(&source)?;
            self.say_facts(workload.label(), "change", facts)?;
            sync_file_system(&source)?;
            let demand = self.demand(*workload, &source, facts)?;
            let tools = self.tools(*workload)?;
            self.say_left_out(*workload, &tools, &jobs)?;
            // What changes nothing can be run again on the same target.
            let repeats = if is_repeated(chain) { self.args.runs } else { 1 };
            let mut spoilt = vec![false; jobs.len()];
            for repeat in 1..=repeats {
                for ((tool, run, job), spoilt) in jobs.iter().zip(&mut spoilt) {
                    let run = if repeats > 1 { repeat } else { *run };
                    if tools.contains(tool) && !*spoilt {
                        *spoilt = !self.run_one(workload.label(), tool, run, job, &demand)?;
                    }
                }
            }
            // A tool whose target is not equal any more has nothing to show on what follows.
            let mut spoilt = spoilt.into_iter();
            jobs.retain(|_| spoilt.next() == Some(false));
        }
        Ok(())
    }

    /// The targets of all tools and runs, filled; timed where the first sync is a workload asked for.
    fn first_syncs(
        &mut self,
        base: Workload,
        chain: &[Workload],
        folder: &Path,
        facts: Facts,
    ) -> Result<Vec<(Tool, u32, Job)>, BenchError> {
        let source = folder.join("source");
        let timed = if chain.contains(&base) && base.is_first_sync() {
            self.tools(base)?
        } else {
            Vec::new()
        };
        let mut tools = timed.clone();
        for workload in chain {
            for tool in self.tools(*workload)? {
                if !tools.contains(&tool) {
                    tools.push(tool);
                }
            }
        }
        let demand = self.demand(base, &source, facts)?;
        let targets = if is_repeated(chain) { 1 } else { self.args.runs };
        let mut jobs = Vec::new();
        for run in 1..=targets {
            for tool in &tools {
                let job = self.new_job(folder, tool, run)?;
                let good = if timed.contains(tool) {
                    self.run_one(base.label(), tool, run, &job, &demand)?
                } else if tool.is_stateless() {
                    copy(&job)?;
                    true
                } else {
                    let step = format!("{} (first)", base.label());
                    self.run_one(&step, tool, run, &job, &Demand::default())?
                };
                if good && tool.is_incremental() {
                    jobs.push((tool.clone(), run, job));
                }
            }
        }
        Ok(jobs)
    }

    /// Names the tools that have nothing to show on a step, and why.
    fn say_left_out(
        &mut self,
        workload: Workload,
        tools: &[Tool],
        jobs: &[(Tool, u32, Job)],
    ) -> Result<(), BenchError> {
        let once = self.adapters.iter().filter(|tool| !tool.is_incremental());
        let once = once.map(|tool| (tool, "it brings no older target up to date"));
        let spoilt = tools.iter().filter(|tool| jobs.iter().all(|(of, ..)| of != *tool));
        let spoilt = spoilt.map(|tool| (tool, "none of its targets was good before"));
        for (tool, why) in once.chain(spoilt) {
            let (step, tool) = (workload.label(), tool.label());
            writeln!(self.out, "  {step} {tool}: left out, {why}")
                .at("print", Path::new("the progress"))?;
        }
        Ok(())
    }

    /// What the step asks of the parts of the machine.
    fn demand(
        &mut self,
        workload: Workload,
        source: &Path,
        facts: Facts,
    ) -> Result<Demand, BenchError> {
        let (one, two) = if workload.is_no_change() {
            (walk::measure(source, 1)?, walk::measure(source, 2)?)
        } else {
            (walk::walk(source, 1)?, walk::walk(source, 2)?)
        };
        let changed_bytes = match workload {
            // The generator writes the file anew; 2 % of its rows differ.
            Workload::W4c => round_to_u64(to_f64(one.bytes) * 0.02),
            _ => facts.bytes_written,
        };
        let changed_files = facts.files_written;
        let demand = Demand { walk_one: one, walk_two: two, changed_files, changed_bytes };
        self.results.demands.insert(workload.label().to_owned(), demand);
        Ok(demand)
    }

    fn plan(&self, workload: Workload) -> Plan {
        let owners = rustix::process::geteuid().is_root();
        let (scale, seed) = (self.args.scale, self.args.seed);
        Plan { workload, scale, seed, owners, versions: self.versions.clone() }
    }

    fn new_job(&self, folder: &Path, tool: &Tool, run: u32) -> Result<Job, BenchError> {
        let own = folder.join(format!("{}-{run}", tool.label()));
        let mut job = Job::at(&folder.join("source"), &own);
        job.mass_change = folder.ends_with(Workload::W7.label());
        for path in [&job.target, &job.state, &job.logs] {
            std::fs::create_dir_all(path).at("create a folder", path)?;
        }
        Ok(job)
    }
}

/// Whether all that is measured changes nothing, so that one target serves all runs.
fn is_repeated(chain: &[Workload]) -> bool {
    chain.iter().all(|workload| workload.is_no_change())
}

/// Fills a target by a copy: the content is written, so that it is in the page cache as after a sync.
fn copy(job: &Job) -> Result<(), BenchError> {
    let source = format!("{}/.", job.source.display());
    run_tool("cp", &["-a", "--reflink=never", &source, &job.target.to_string_lossy()])?;
    sync_file_system(&job.target)
}

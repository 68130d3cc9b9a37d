//! The results of a series: what was measured, and the medians and ratios that follow.
//!
//! Guarantees: medians over the good runs of one tool on one step; ratios are medians over pairs of
//! runs made in turn; every single measurement is in the JSON; what the figures depend on (machine, file
//! system, versions, congestion control, seed) goes with them. Refuses to hide failures: a run that
//! failed or left a different tree is marked and does not enter a median.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

pub(crate) mod json;
pub(crate) mod plot;
pub(crate) mod table;

use crate::bench::limits::{Demand, Limit, LineRate, Parts};
use crate::bench::measure::Cost;
use crate::bench::peer::first_line;
use crate::bench::rng::to_f64;
use crate::bench::verify::Comparison;
use crate::bench::{BenchError, Context};

/// The tools the others are compared with in the table: the first of them that was measured; for those that
/// compress by their name the last.
const REFERENCES: [&str; 2] = ["rsync-ssh", "rsync-ssh-z"];
const COMPRESSING: [&str; 3] = ["farshore-z", "rsync-ssh-z", "rsync-ssh-4z"];
const REFERENCES_COMPRESSING: [&str; 2] = ["rsync-ssh-z", "rsync-ssh"];

/// Whether a report can be written there: into a folder that takes one, or in place of a file that is one by itself.
pub(crate) fn check_place(path: &Path) -> Result<(), BenchError> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() => {
            let found = std::fs::OpenOptions::new().append(true).open(path);
            found.map(drop).at("write a report", path)
        }
        Ok(_) => {
            Err(io::ErrorKind::InvalidInput.into()).at("put a report in place of no file", path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            std::fs::File::create_new(path).at("write a report", path)?;
            std::fs::remove_file(path).at("write a report", path)
        }
        Err(error) => Err(error).at("look at", path),
    }
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Record {
    /// The step: a workload, or the first sync before it.
    pub(crate) step: String,
    /// The tool.
    pub(crate) tool: String,
    /// Number of the run, from 1.
    pub(crate) run: u32,
    /// TCP congestion control, when it was set for the run.
    pub(crate) congestion: Option<String>,
    /// What it cost.
    pub(crate) cost: Cost,
    /// What the machine's parts would allow.
    pub(crate) limit: Option<Limit>,
    /// What the tool said last, if it failed.
    pub(crate) failure: Option<String>,
    /// The comparison of source and target after it.
    pub(crate) comparison: Option<Comparison>,
    /// Differences the tool claims not to cause; those of a tool that claims everything are all.
    pub(crate) held_against: u64,
    /// The tool's own report, when it is JSON.
    pub(crate) own_report: Option<serde_json::Value>,
}

impl Record {
    /// Whether the run ended well and left a tree as equal as the tool claims (as far as compared).
    pub(crate) fn is_good(&self) -> bool {
        self.failure.is_none() && self.held_against == 0
    }
}

/// What the figures depend on.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Setting {
    /// Lines of name and value.
    pub(crate) facts: Vec<(String, String)>,
}

impl Setting {
    /// The facts of the machine.
    pub(crate) fn of_machine(work: &Path) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let cpus = read("/proc/cpuinfo");
        let model = cpus.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or("unknown");
        let cores = cpus.lines().filter(|line| line.starts_with("processor")).count();
        let memory = read("/proc/meminfo").lines().next().unwrap_or_default().to_owned();
        let mut setting = Self { facts: Vec::new() };
        setting.add("kernel", &read("/proc/sys/kernel/osrelease"));
        setting.add("cpu", &format!("{cores} x {}", model.trim_start_matches([' ', '\t', ':'])));
        setting.add("memory", memory.trim_start_matches("MemTotal:").trim());
        setting.add("work folder", &format!("{} on {}", work.display(), file_system(work)));
        setting.add("ssh", &first_line("ssh", "-V"));
        setting
    }

    /// Adds a fact.
    pub(crate) fn add(&mut self, name: &str, value: &str) {
        let fact = (name.to_owned(), value.to_owned());
        if !self.facts.contains(&fact) {
            self.facts.push(fact);
        }
    }

    /// Prints the facts from the number `first` on.
    pub(crate) fn print(&self, first: usize, out: &mut dyn Write) -> Result<(), BenchError> {
        for (name, value) in self.facts.iter().skip(first) {
            writeln!(out, "{name:14} {value}").at("print", Path::new("the report"))?;
        }
        Ok(())
    }
}

/// Type and device of the file system of a folder.
fn file_system(path: &Path) -> String {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mut best = (0, String::from("unknown"));
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        if let [device, at, kind, options, ..] = fields[..]
            && path.starts_with(at)
            && at.len() >= best.0
        {
            best = (at.len(), format!("{kind} ({device}, {options})"));
        }
    }
    best.1
}

/// Everything a series found.
#[derive(Debug, Default)]
pub(crate) struct Results {
    /// What the figures depend on.
    pub(crate) setting: Setting,
    /// Scale of the workloads.
    pub(crate) scale: f64,
    /// What the parts of the machine can do.
    pub(crate) parts: Option<Parts>,
    /// What the line can do.
    pub(crate) line: Option<LineRate>,
    /// What each step asks of the parts.
    pub(crate) demands: BTreeMap<String, Demand>,
    /// Every measurement.
    pub(crate) records: Vec<Record>,
}

/// The medians of one tool on one step; not a number where no run was good.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Row {
    /// The step.
    pub(crate) step: String,
    /// TCP congestion control, when it was set.
    pub(crate) congestion: Option<String>,
    /// The tool.
    pub(crate) tool: String,
    /// Good runs.
    pub(crate) good: usize,
    /// All runs.
    pub(crate) runs: usize,
    /// Why a run was not good.
    pub(crate) trouble: Option<String>,
    /// Wall seconds.
    pub(crate) wall_s: f64,
    /// Wall seconds with a sync of the target's file system after it.
    pub(crate) synced_s: f64,
    /// CPU seconds of both ends.
    pub(crate) cpu_s: f64,
    /// Peak memory of the largest process, MB.
    pub(crate) rss_max_mb: f64,
    /// Sum of the peaks at the near end, MB.
    pub(crate) rss_near_mb: f64,
    /// Sum of the peaks at the far end, MB.
    pub(crate) rss_far_mb: f64,
    /// Bytes on the wire.
    pub(crate) wire_bytes: Option<f64>,
    /// The tool it is compared with.
    pub(crate) reference: Option<&'static str>,
    /// Times as fast as that one, by pairs of runs.
    pub(crate) times_as_fast: Option<f64>,
    /// The same, each with its sync.
    pub(crate) times_as_fast_synced: Option<f64>,
    /// The derived limit, seconds.
    pub(crate) limit_s: Option<f64>,
    /// The limit by the wall time.
    pub(crate) share_of_limit: Option<f64>,
    /// Round trips in the longest chain of answers on the line.
    pub(crate) round_trips: Option<f64>,
    /// Wall time in round trips of the line.
    pub(crate) wall_round_trips: Option<f64>,
}

impl Results {
    /// The steps in the order in which they were measured, with their congestion control.
    pub(crate) fn steps(&self) -> Vec<(&str, Option<&str>)> {
        let mut steps = Vec::new();
        for record in &self.records {
            let key = (record.step.as_str(), record.congestion.as_deref());
            if !steps.contains(&key) {
                steps.push(key);
            }
        }
        steps
    }

    /// The medians of every tool on a step.
    pub(crate) fn rows(&self, step: &str, congestion: Option<&str>) -> Vec<Row> {
        let mut tools: Vec<&str> = Vec::new();
        for record in self.of_step(step, congestion) {
            if !tools.contains(&record.tool.as_str()) {
                tools.push(&record.tool);
            }
        }
        tools.into_iter().map(|tool| self.row(step, congestion, tool)).collect()
    }

    fn of_step<'a>(
        &'a self,
        step: &'a str,
        congestion: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Record> {
        self.records.iter().filter(move |r| r.step == step && r.congestion.as_deref() == congestion)
    }

    fn row(&self, step: &str, congestion: Option<&str>, tool: &str) -> Row {
        let all: Vec<&Record> =
            self.of_step(step, congestion).filter(|record| record.tool == tool).collect();
        let good: Vec<&Record> = all.iter().copied().filter(|record| record.is_good()).collect();
        let of = |figure: &dyn Fn(&Record) -> Option<f64>| -> Option<f64> {
            let values: Option<Vec<f64>> = good.iter().map(|record| figure(record)).collect();
            values.filter(|values| !values.is_empty()).map(median)
        };
        let cost =
            |figure: &dyn Fn(&Cost) -> f64| of(&|r| Some(figure(&r.cost))).unwrap_or(f64::NAN);
        let measured = |name: &&str| self.ratios(step, congestion, name, name).is_some();
        let compresses = COMPRESSING.contains(&tool);
        let references = if compresses { REFERENCES_COMPRESSING } else { REFERENCES };
        let reference = references.into_iter().find(measured);
        let ratios = reference.and_then(|name| self.ratios(step, congestion, tool, name));
        let rtt_s = self.line.map(|line| line.rtt_s);
        let trips = of(&|r| Some(r.cost.line?.round_trips));
        Row {
            step: step.to_owned(),
            congestion: congestion.map(str::to_owned),
            tool: tool.to_owned(),
            good: good.len(),
            runs: all.len(),
            trouble: all.iter().find_map(|record| trouble(record)),
            wall_s: cost(&|c| c.wall_s),
            synced_s: cost(&|c| c.wall_s + c.sync_s),
            cpu_s: cost(&|c| c.user_s + c.system_s),
            rss_max_mb: cost(&|c| c.rss_max_mb),
            rss_near_mb: cost(&|c| c.rss_near_mb),
            rss_far_mb: cost(&|c| c.rss_far_mb),
            wire_bytes: of(&|r| r.cost.wire_bytes.map(to_f64)),
            reference,
            times_as_fast: ratios.map(|(plain, _)| plain),
            times_as_fast_synced: ratios.map(|(_, synced)| synced),
            limit_s: of(&|r| Some(r.limit.as_ref()?.seconds)),
            share_of_limit: of(&|r| Some(r.limit.as_ref()?.seconds / r.cost.wall_s)),
            round_trips: trips,
            wall_round_trips: trips.and_then(|_| Some(cost(&|c| c.wall_s) / rtt_s?)),
        }
    }

    /// How many times as fast as `theirs` the tool `mine` is, without and with sync, by pairs of runs.
    pub(crate) fn ratios(
        &self,
        step: &str,
        congestion: Option<&str>,
        mine: &str,
        theirs: &str,
    ) -> Option<(f64, f64)> {
        let good = |tool: &str| -> BTreeMap<u32, Cost> {
            let of_tool = self.of_step(step, congestion).filter(|r| r.tool == tool && r.is_good());
            of_tool.map(|record| (record.run, record.cost)).collect()
        };
        let (mine, theirs) = (good(mine), good(theirs));
        let pairs: Vec<(Cost, Cost)> =
            mine.iter().filter_map(|(run, cost)| Some((*cost, *theirs.get(run)?))).collect();
        if pairs.is_empty() {
            return None;
        }
        let by = |figure: &dyn Fn(&Cost) -> f64| {
            median(pairs.iter().map(|(mine, theirs)| figure(theirs) / figure(mine)).collect())
        };
        Some((by(&|c| c.wall_s), by(&|c| c.wall_s + c.sync_s)))
    }
}

/// Why a run was not good.
fn trouble(record: &Record) -> Option<String> {
    if record.is_good() {
        return None;
    }
    let different = || {
        let listed = record.comparison.as_ref().and_then(|found| found.listed.first());
        format!("the trees differ: {}", listed.map_or("", String::as_str))
    };
    Some(record.failure.clone().unwrap_or_else(different))
}

/// The middle value; of an even number the mean of the two in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A run that took `wall_s`, sent 5 MB and needed a second to sync.
    pub(crate) fn record(
        step: &str,
        tool: &str,
        run: u32,
        wall_s: f64,
        failure: Option<&str>,
    ) -> Record {
        let cost = Cost { wall_s, sync_s: 1.0, wire_bytes: Some(5_000_000), ..Cost::default() };
        Record {
            step: step.to_owned(),
            tool: tool.to_owned(),
            run,
            congestion: None,
            cost,
            limit: Some(Limit { seconds: 0.5, formula: "a guess" }),
            failure: failure.map(str::to_owned),
            comparison: None,
            held_against: 0,
            own_report: None,
        }
    }

    #[test]
    fn a_report_takes_the_place_of_a_file_and_of_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("file"), "before").expect("written");
        std::os::unix::fs::symlink(path("file"), path("link")).expect("linked");
        for good in ["file", "new"] {
            check_place(&path(good)).expect(good);
        }
        assert_eq!(std::fs::read(path("file")).expect("still there"), b"before");
        assert!(!path("new").exists(), "only looked at");
        for bad in [path("link"), path("none/new"), folder.path().into(), "/dev/full".into()] {
            assert!(check_place(&bad).is_err(), "{}", bad.display());
        }
    }

    #[test]
    fn a_way_of_compressing_is_compared_with_one_that_compresses() {
        let tools = ["farshore", "farshore-z", "rsync-ssh", "rsync-ssh-z"];
        let records = tools.map(|tool| record("W7", tool, 1, 1.0, None)).to_vec();
        let results = Results { records, ..Results::default() };
        let references: Vec<_> = results.rows("W7", None).iter().map(|row| row.reference).collect();
        let (plain, z) = (Some("rsync-ssh"), Some("rsync-ssh-z"));
        assert_eq!(references, [plain, z, plain, z]);
    }

    #[test]
    fn medians() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn failed_runs_are_not_in_the_median_and_pairs_need_both() {
        let records = vec![
            record("W1", "farshore", 1, 1.0, None),
            record("W1", "farshore", 2, 0.1, Some("broken")),
            record("W1", "rsync-ssh", 1, 4.0, None),
            record("W1", "rsync-ssh", 2, 40.0, None),
        ];
        let results = Results { records, ..Results::default() };
        let rows = results.rows("W1", None);
        let mine = &rows[0];
        assert_eq!((mine.good, mine.runs), (1, 2));
        assert_eq!(mine.trouble.as_deref(), Some("broken"));
        assert_eq!((mine.times_as_fast, mine.times_as_fast_synced), (Some(4.0), Some(2.5)));
        assert_eq!(mine.share_of_limit, Some(0.5));
        assert_eq!(results.ratios("W1", None, "farshore", "tar-ssh"), None);
    }
}

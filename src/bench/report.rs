//! The results, as a table and as JSON.
//!
//! Guarantees: medians over the runs of one tool on one step; every single measurement is in the JSON;
//! what the figures depend on (machine, file system, versions, congestion control, seed) is printed
//! with them. Refuses to hide failures: a run that failed or left a different tree is marked and does
//! not enter a median.

use std::io::Write;
use std::path::Path;

use serde::Serialize;

use crate::bench::measure::Cost;
use crate::bench::peer::first_line;
use crate::bench::rng::to_f64;
use crate::bench::verify::Comparison;
use crate::bench::{BenchError, Context};

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Record {
    /// The step: a workload, or the first sync before it.
    pub(crate) step: String,
    /// The tool.
    pub(crate) tool: &'static str,
    /// Number of the run, from 1.
    pub(crate) run: u32,
    /// TCP congestion control, when it was set for the run.
    pub(crate) congestion: Option<String>,
    /// What it cost.
    pub(crate) cost: Cost,
    /// What the tool said last, if it failed.
    pub(crate) failure: Option<String>,
    /// The comparison of source and target after it.
    pub(crate) comparison: Option<Comparison>,
    /// The tool's own report, when it is JSON.
    pub(crate) own_report: Option<serde_json::Value>,
}

impl Record {
    /// Whether the run ended well and left an equal tree (as far as compared).
    pub(crate) fn is_good(&self) -> bool {
        let equal = self.comparison.as_ref().is_none_or(|found| found.differences == 0);
        self.failure.is_none() && equal
    }
}

/// What the figures depend on.
#[derive(Debug, Clone, Serialize)]
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

    /// Prints the facts.
    pub(crate) fn print(&self, out: &mut dyn Write) -> Result<(), BenchError> {
        for (name, value) in &self.facts {
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

/// The medians of one tool on one step.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    good: usize,
    all: usize,
    wall: f64,
    synced: f64,
    cpu: f64,
    rss_max: f64,
    rss_sum: f64,
    wire_mb: Option<f64>,
}

impl Row {
    fn of(records: &[&Record]) -> Option<Self> {
        let good: Vec<&Cost> = records.iter().filter(|r| r.is_good()).map(|r| &r.cost).collect();
        if good.is_empty() {
            return None;
        }
        let middle =
            |figure: &dyn Fn(&Cost) -> f64| median(good.iter().map(|c| figure(c)).collect());
        let wire = good.iter().all(|cost| cost.wire_bytes.is_some());
        let wire_mb = |cost: &Cost| to_f64(cost.wire_bytes.unwrap_or(0)) / 1e6;
        Some(Self {
            good: good.len(),
            all: records.len(),
            wall: middle(&|c| c.wall_s),
            synced: middle(&|c| c.wall_s + c.sync_s),
            cpu: middle(&|c| c.user_s + c.system_s),
            rss_max: middle(&|c| c.rss_max_mb),
            rss_sum: middle(&|c| c.rss_sum_mb),
            wire_mb: wire.then(|| middle(&wire_mb)),
        })
    }
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

/// The tool the others are divided by.
const REFERENCE: &str = "rsync-ssh";

/// Prints the table: one line for each step and tool.
pub(crate) fn print_table(records: &[Record], out: &mut dyn Write) -> Result<(), BenchError> {
    let what = Path::new("the report");
    writeln!(
        out,
        "\n{:16} {:14} {:>5} {:>8} {:>8} {:>7} {:>7} {:>7} {:>9}  {:>7} {:>7}",
        "step",
        "tool",
        "good",
        "wall s",
        "+sync s",
        "cpu s",
        "rss MB",
        "sum MB",
        "wire MB",
        "/rsync",
        "+sync"
    )
    .at("print", what)?;
    let mut steps: Vec<(&str, &Option<String>)> = Vec::new();
    for record in records {
        let key = (record.step.as_str(), &record.congestion);
        if !steps.contains(&key) {
            steps.push(key);
        }
    }
    for (step, congestion) in steps {
        let of_step: Vec<&Record> =
            records.iter().filter(|r| r.step == step && &r.congestion == congestion).collect();
        print_step(step, congestion.as_deref(), &of_step, out)?;
    }
    writeln!(
        out,
        "/rsync: wall time over that of {REFERENCE}; +sync: the same, each with its sync -f"
    )
    .at("print", what)
}

fn print_step(
    step: &str,
    congestion: Option<&str>,
    records: &[&Record],
    out: &mut dyn Write,
) -> Result<(), BenchError> {
    let what = Path::new("the report");
    let name = congestion.map_or(step.to_owned(), |control| format!("{step} {control}"));
    let mut tools: Vec<&str> = Vec::new();
    for record in records {
        if !tools.contains(&record.tool) {
            tools.push(record.tool);
        }
    }
    let of = |tool: &str| -> Vec<&Record> {
        records.iter().copied().filter(|record| record.tool == tool).collect()
    };
    let reference = Row::of(&of(REFERENCE));
    for tool in tools {
        let runs = of(tool);
        let Some(row) = Row::of(&runs) else {
            let why = runs.iter().find_map(|r| r.failure.clone());
            let why = why.unwrap_or_else(|| "the trees differ".to_owned());
            writeln!(out, "{name:16} {tool:14}  0/{:<2} {why}", runs.len()).at("print", what)?;
            continue;
        };
        let wire = row.wire_mb.map_or("-".to_owned(), |mb| format!("{mb:.2}"));
        let against = |mine: f64, theirs: Option<f64>| {
            theirs.map_or("-".to_owned(), |theirs| format!("{:.2}", mine / theirs))
        };
        writeln!(
            out,
            "{name:16} {tool:14} {:>3}/{} {:>8.3} {:>8.3} {:>7.2} {:>7.0} {:>7.0} {:>9}  {:>7} {:>7}",
            row.good,
            row.all,
            row.wall,
            row.synced,
            row.cpu,
            row.rss_max,
            row.rss_sum,
            wire,
            against(row.wall, reference.as_ref().map(|r| r.wall)),
            against(row.synced, reference.as_ref().map(|r| r.synced)),
        )
        .at("print", what)?;
    }
    Ok(())
}

/// Writes everything to a file.
pub(crate) fn write_json(
    path: &Path,
    setting: &Setting,
    records: &[Record],
) -> Result<(), BenchError> {
    let facts: serde_json::Map<String, serde_json::Value> =
        setting.facts.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
    let all = serde_json::json!({ "setting": facts, "measurements": records });
    std::fs::write(path, format!("{all:#}\n")).at("write the report", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(tool: &'static str, run: u32, wall_s: f64, failure: Option<&str>) -> Record {
        let cost = Cost { wall_s, sync_s: 1.0, wire_bytes: Some(5_000_000), ..Cost::default() };
        let failure = failure.map(str::to_owned);
        let step = "W1".to_owned();
        Record {
            step,
            tool,
            run,
            congestion: None,
            cost,
            failure,
            comparison: None,
            own_report: None,
        }
    }

    #[test]
    fn medians() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn failed_runs_are_shown_and_not_in_the_median() {
        let records = [
            record("farshore", 1, 1.0, None),
            record("farshore", 2, 0.1, Some("broken")),
            record("rsync-ssh", 1, 4.0, None),
            record("tar-ssh", 1, 0.1, Some("tar: broken")),
        ];
        let mut out = Vec::new();
        print_table(&records, &mut out).expect("prints");
        let text = String::from_utf8(out).expect("text");
        let line = |tool: &str| text.lines().find(|l| l.contains(tool)).expect("a line").to_owned();
        assert!(line("farshore").contains("1/2    1.000    2.000"), "{text}");
        assert!(line("farshore").contains("5.00     0.25    0.40"), "{text}");
        assert!(line("tar-ssh").contains("0/1  tar: broken"), "{text}");
    }
}

//! The targets: what Farshore is to reach on each workload, and whether a series shows it.
//!
//! Guarantees: a verdict is PASS or FAIL only when everything it compares was measured in the same
//! series with good runs; else it says what is missing. "Times as fast" is the median over runs of the
//! other tool's wall time by Farshore's, both of the same run; where several tools are named, the one
//! that did best counts. Refuses to round a FAIL up.

use serde::Serialize;

use crate::bench::peer::{RsyncWay, Tool};
use crate::bench::report::{Results, Row};
use crate::bench::rng::to_f64;
use crate::bench::workload::Workload;

/// What is asked of a figure.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Ask {
    /// At least so many times as fast as the best of these tools.
    Faster(f64, &'static [&'static str]),
    /// At least this share of the limit.
    Share(f64),
    /// At most so many times a bare walk of two threads.
    Walks(f64),
    /// Bytes on the wire at most so many times the bytes changed.
    PerChanged(f64),
    /// Fewer bytes on the wire than the best of these tools.
    FewerBytes(&'static [&'static str]),
    /// Fewer bytes on the wire than this.
    BytesBelow(u64),
    /// At most so many round trips.
    RoundTrips(f64),
}

/// One line of the table of targets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Target {
    /// The workload.
    pub(crate) workload: Workload,
    /// Which way of running Farshore is held to it.
    tool: &'static str,
    ask: Ask,
}

const RSYNC: &[&str] = &["rsync-ssh"];
/// rsync as everybody runs it, and with its list made at once, which is faster on a long line where nothing changed.
const RSYNC_OR_WHOLE_LIST: &[&str] = &["rsync-ssh", "rsync-ssh-nir"];
/// rsync at its best block size.
const BLOCKS: &[&str] = &["rsync-ssh", "rsync-ssh-b*"];
const RSYNC_Z: &[&str] = &["rsync-ssh-z"];
const BEST_OF_LINE: &[&str] = &["rsync-ssh-z", "rsync-ssh-4"];

const fn target(workload: Workload, ask: Ask) -> Target {
    Target { workload, tool: "farshore", ask }
}

const fn trusted(workload: Workload, ask: Ask) -> Target {
    Target { workload, tool: "farshore-trust", ask }
}

/// Within a machine nothing is compressed unless it is asked for: rsync is asked to as well.
const fn compressed(workload: Workload, ask: Ask) -> Target {
    Target { workload, tool: "farshore-z", ask }
}

/// The table.
pub(crate) const TARGETS: [Target; 31] = [
    target(Workload::W1, Ask::Faster(2.0, RSYNC)),
    target(Workload::W1, Ask::Share(0.75)),
    target(Workload::W2, Ask::Faster(2.5, RSYNC)),
    target(Workload::W2, Ask::Faster(1.4, &["tar-ssh"])),
    target(Workload::W2, Ask::Share(0.7)),
    target(Workload::W3, Ask::Faster(2.5, RSYNC)),
    trusted(Workload::W3, Ask::Faster(4.0, RSYNC)),
    trusted(Workload::W3, Ask::Walks(1.5)),
    target(Workload::W3Large, Ask::Faster(2.5, RSYNC)),
    trusted(Workload::W3Large, Ask::Faster(4.0, RSYNC)),
    trusted(Workload::W3Large, Ask::Walks(1.5)),
    target(Workload::W4a, Ask::Faster(3.0, RSYNC)),
    target(Workload::W4a, Ask::PerChanged(1.6)),
    target(Workload::W4b, Ask::Faster(2.0, RSYNC)),
    target(Workload::W4b, Ask::FewerBytes(RSYNC)),
    target(Workload::W4c, Ask::Faster(2.0, BLOCKS)),
    target(Workload::W4c, Ask::FewerBytes(BLOCKS)),
    target(Workload::W5, Ask::Faster(20.0, RSYNC)),
    target(Workload::W5, Ask::BytesBelow(64 << 10)),
    target(Workload::W5b, Ask::Faster(20.0, RSYNC)),
    target(Workload::W5b, Ask::BytesBelow(64 << 10)),
    target(Workload::W6, Ask::Faster(3.0, RSYNC)),
    target(Workload::W7, Ask::Faster(2.5, RSYNC)),
    compressed(Workload::W7, Ask::FewerBytes(RSYNC_Z)),
    target(Workload::LineFile, Ask::Faster(1.8, RSYNC)),
    target(Workload::LineFile, Ask::Share(0.85)),
    target(Workload::LineLarge, Ask::Faster(1.7, RSYNC_Z)),
    target(Workload::LineRandom, Ask::Share(0.93)),
    target(Workload::LineSmall, Ask::Faster(1.8, BEST_OF_LINE)),
    target(Workload::LineNoChange, Ask::Faster(5.0, RSYNC_OR_WHOLE_LIST)),
    target(Workload::LineNoChange, Ask::RoundTrips(4.0)),
];

/// The tools a workload's targets name, Farshore first.
pub(crate) fn tools(workload: Workload, block_sizes: &[u32]) -> Vec<Tool> {
    let mut found = vec![Tool::Farshore];
    let mut names: Vec<&str> = Vec::new();
    for target in TARGETS.iter().filter(|target| target.workload == workload) {
        names.push(target.tool);
        if let Ask::Faster(_, tools) | Ask::FewerBytes(tools) = target.ask {
            names.extend(tools);
        }
    }
    if names.is_empty() {
        names.extend(RSYNC);
    }
    for name in names {
        let tools: Vec<Tool> = if name == "rsync-ssh-b*" {
            block_sizes.iter().map(|&size| Tool::Rsync(RsyncWay::Block(size))).collect()
        } else {
            name.parse().into_iter().collect()
        };
        for tool in tools {
            if !found.contains(&tool) {
                found.push(tool);
            }
        }
    }
    found
}

/// What a line of the table came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// Reached.
    Pass,
    /// Missed.
    Fail,
    /// Something it compares was not measured.
    NotMeasured,
}

/// A line of the table, judged.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Verdict {
    /// The workload.
    pub(crate) workload: &'static str,
    /// TCP congestion control of the runs.
    pub(crate) congestion: Option<String>,
    /// The way of running Farshore.
    pub(crate) tool: &'static str,
    /// What is asked, in words.
    pub(crate) asked: String,
    /// The bound.
    pub(crate) bound: f64,
    /// Whether the figure is to be the bound at least, not at most.
    pub(crate) at_least: bool,
    /// The figure.
    pub(crate) found: Option<f64>,
    /// More about the figure.
    pub(crate) note: String,
    /// Whether it is reached.
    pub(crate) outcome: Outcome,
}

/// Judges every target of the workloads in the results.
pub(crate) fn judge(results: &Results) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for (step, congestion) in results.steps() {
        for target in TARGETS.iter().filter(|target| target.workload.label() == step) {
            let rows = results.rows(step, congestion);
            verdicts.push(judge_one(target, step, congestion, &rows, results));
        }
    }
    verdicts
}

fn judge_one(
    target: &Target,
    step: &str,
    congestion: Option<&str>,
    rows: &[Row],
    results: &Results,
) -> Verdict {
    let mine = rows.iter().find(|row| row.tool == target.tool && row.good > 0);
    let demand = results.demands.get(step);
    let figure = |value: f64| Some((value, String::new()));
    // At least the bound, or at most.
    let (asked, bound, at_least) = match target.ask {
        Ask::Faster(times, than) => (format!("times as fast as {}", than.join(", ")), times, true),
        Ask::Share(share) => ("share of the limit".to_owned(), share, true),
        Ask::Walks(times) => ("bare walks of two threads".to_owned(), times, false),
        Ask::PerChanged(times) => ("bytes on the wire a byte changed".to_owned(), times, false),
        Ask::FewerBytes(than) => (format!("bytes a byte of {}", than.join(", ")), 1.0, false),
        Ask::BytesBelow(bytes) => ("bytes on the wire".to_owned(), to_f64(bytes), false),
        Ask::RoundTrips(trips) => ("round trips".to_owned(), trips, false),
    };
    let found: Option<(f64, String)> = mine.and_then(|mine| match target.ask {
        Ask::Faster(_, than) => {
            let other = best(rows, than, |row| Some(row.wall_s))?;
            let (ratio, synced) = results.ratios(step, congestion, &mine.tool, &other.tool)?;
            Some((ratio, format!("{}; {synced:.2} with both synced", other.tool)))
        }
        Ask::Share(_) => figure(mine.share_of_limit?),
        Ask::Walks(_) => {
            let walk = demand?.walk_two.wall_s;
            Some((mine.wall_s / walk, format!("the walk takes {walk:.3} s")))
        }
        Ask::PerChanged(_) => figure(mine.wire_bytes? / to_f64(demand?.changed_bytes.max(1))),
        Ask::FewerBytes(than) => {
            let other = best(rows, than, |row| row.wire_bytes)?;
            let (ours, theirs) = (mine.wire_bytes?, other.wire_bytes?);
            Some((ours / theirs, format!("{ours:.0} to {theirs:.0} of {}", other.tool)))
        }
        Ask::BytesBelow(_) => figure(mine.wire_bytes?),
        Ask::RoundTrips(_) => {
            let (chain, wall) = (mine.round_trips?, mine.wall_round_trips?);
            // Both are upper bounds of what was waited for.
            Some((chain.min(wall), format!("longest chain {chain:.1}, wall time {wall:.1}")))
        }
    });
    let spoilt = rows.iter().any(|row| row.tool == target.tool && row.runs > 0 && row.good == 0);
    let outcome = match found {
        // Whatever the others did: what never ends with an equal tree reaches nothing.
        None if spoilt => Outcome::Fail,
        None => Outcome::NotMeasured,
        Some((value, _)) if at_least && value >= bound => Outcome::Pass,
        // "Fewer than" is not reached by an equal number.
        Some((value, _)) if !at_least && value <= bound && !is_strict(target.ask, value) => {
            Outcome::Pass
        }
        Some(_) => Outcome::Fail,
    };
    let (value, note) = found.unzip();
    let note = if spoilt { Some("no run was good".to_owned()) } else { note };
    Verdict {
        workload: target.workload.label(),
        congestion: congestion.map(str::to_owned),
        tool: target.tool,
        asked,
        bound,
        at_least,
        found: value,
        note: note.unwrap_or_default(),
        outcome,
    }
}

fn is_strict(ask: Ask, value: f64) -> bool {
    match ask {
        Ask::FewerBytes(_) => value >= 1.0,
        Ask::BytesBelow(bytes) => value >= to_f64(bytes),
        _ => false,
    }
}

/// The row with the smallest figure among the tools of some names.
fn best<'a>(
    rows: &'a [Row],
    names: &[&str],
    figure: impl Fn(&Row) -> Option<f64>,
) -> Option<&'a Row> {
    let fits = |tool: &str| {
        names.iter().any(|name| match name.strip_suffix('*') {
            Some(start) => tool.starts_with(start),
            None => tool == *name,
        })
    };
    let able = rows.iter().filter(|row| row.good > 0 && fits(&row.tool));
    let mut able: Vec<(f64, &Row)> = able.filter_map(|row| Some((figure(row)?, row))).collect();
    able.sort_by(|a, b| a.0.total_cmp(&b.0));
    able.first().map(|(_, row)| *row)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::limits::Demand;
    use crate::bench::report::tests::record;

    #[test]
    fn the_tools_of_a_workload_are_those_of_its_targets() {
        let names = |workload| -> Vec<String> {
            tools(workload, &[512, 1024]).iter().map(Tool::label).collect()
        };
        assert_eq!(names(Workload::W2), ["farshore", "rsync-ssh", "tar-ssh"]);
        assert_eq!(names(Workload::W3), ["farshore", "rsync-ssh", "farshore-trust"]);
        let compressed = ["farshore", "rsync-ssh", "farshore-z", "rsync-ssh-z"];
        assert_eq!(names(Workload::W7), compressed);
        let blocks = ["farshore", "rsync-ssh", "rsync-ssh-b512", "rsync-ssh-b1024"];
        assert_eq!(names(Workload::W4c), blocks);
        assert_eq!(names(Workload::LineNoChange), ["farshore", "rsync-ssh", "rsync-ssh-nir"]);
        assert_eq!(names(Workload::LineRandom), ["farshore"]);
        assert_eq!(names(Workload::ProfileS), ["farshore", "rsync-ssh"]);
    }

    #[test]
    fn every_line_of_the_table_has_a_workload_in_a_set() {
        let all: Vec<Workload> = Workload::LOCAL.into_iter().chain(Workload::LINE).collect();
        for target in &TARGETS {
            let listed = all.contains(&target.workload);
            assert!(listed || target.workload == Workload::W3Large, "{target:?}");
        }
        let named = |w: &Workload| TARGETS.iter().any(|target| target.workload == *w);
        assert!(all.iter().all(named));
    }

    #[test]
    fn pairs_of_runs_are_compared_and_what_is_missing_is_said() {
        let mut results = Results::default();
        for (run, mine, theirs) in [(1, 1.0, 4.0), (2, 2.0, 6.0), (3, 1.0, 2.9)] {
            results.records.push(record("W4a", "farshore", run, mine, None));
            results.records.push(record("W4a", "rsync-ssh", run, theirs, None));
        }
        results.records.push(record("W7", "farshore", 1, 1.0, None));
        results.records.push(record("W7", "rsync-ssh", 1, 9.0, Some("broken")));
        results.records.push(record("W5", "farshore", 1, 1.0, Some("broken")));
        results.records.push(record("W5", "rsync-ssh", 1, 9.0, None));
        let demand = Demand { changed_bytes: 3_000_000, ..Demand::default() };
        results.demands.insert("W4a".to_owned(), demand);
        let verdicts = judge(&results);
        let of = |step: &str| -> Vec<Outcome> {
            verdicts.iter().filter(|v| v.workload == step).map(|verdict| verdict.outcome).collect()
        };
        // The pairs are 4, 3 and 2.9; 5 MB for 3 MB changed is more than 1.6.
        assert_eq!(verdicts[0].found, Some(3.0));
        assert_eq!(of("W4a"), [Outcome::Pass, Outcome::Fail]);
        assert_eq!(of("W7"), [Outcome::NotMeasured; 2]);
        assert_eq!(of("W5"), [Outcome::Fail; 2], "no run of ours was good");
    }
}

//! The results as text.
//!
//! Guarantees: one line for each tool on each step, failures with their cause; one line for each target.
//! Refuses to print a figure that was not measured: there a dash stands.

use std::io::Write;
use std::path::Path;

use super::{Results, Row};
use crate::bench::limits::Parts;
use crate::bench::targets::{Outcome, Verdict};
use crate::bench::{BenchError, Context};

/// Prints what the parts of the machine can do.
pub(crate) fn print_parts(parts: &Parts, out: &mut dyn Write) -> Result<(), BenchError> {
    let what = Path::new("the limits");
    writeln!(out, "\nlimits of the parts ({} cores)", parts.cores).at("print", what)?;
    for (name, cost, by_byte) in parts.list() {
        if by_byte {
            let (cpu, rate) = (cost.cpu_s * 1e9, 1e-9 / cost.wall_s);
            writeln!(out, "{name:28} {cpu:>8.3} CPU-s/GB {rate:>8.2} GB/s")
        } else {
            let (cpu, wall) = (cost.cpu_s * 1e6, cost.wall_s * 1e6);
            writeln!(out, "{name:28} {cpu:>8.1} CPU-us a file {wall:>8.1} us a file")
        }
        .at("print", what)?;
    }
    writeln!(out).at("print", what)
}

/// Prints the table.
pub(crate) fn print_table(results: &Results, out: &mut dyn Write) -> Result<(), BenchError> {
    let what = Path::new("the report");
    writeln!(
        out,
        "\n{:16} {:16} {:>5} {:>8} {:>8} {:>7} {:>7} {:>7} {:>9} {:>7} {:>7} {:>8} {:>6}",
        "step",
        "tool",
        "good",
        "wall s",
        "+sync s",
        "cpu s",
        "near MB",
        "far MB",
        "wire MB",
        "x rsync",
        "x +sync",
        "limit s",
        "share"
    )
    .at("print", what)?;
    for (step, congestion) in results.steps() {
        for row in results.rows(step, congestion) {
            print_row(&row, out)?;
        }
    }
    writeln!(
        out,
        "x rsync: times as fast as rsync-ssh (as rsync-ssh-z for tools that compress, and where that alone ran), median over \
         pairs of runs; x +sync: each with its sync -f;\n\
         near, far: peak memory of the processes at the two ends, far 0 where one process is both;\n\
         limit: what the parts of this machine would take without a gap (docs/benchmarking.md); share: limit by \
         wall time, 1 is as good as the machine"
    )
    .at("print", what)
}

fn print_row(row: &Row, out: &mut dyn Write) -> Result<(), BenchError> {
    let what = Path::new("the report");
    let name = row
        .congestion
        .as_ref()
        .map_or(row.step.clone(), |control| format!("{} {control}", row.step));
    let tool = &row.tool;
    if row.good == 0 {
        let why = row.trouble.as_deref().unwrap_or("no run");
        return writeln!(out, "{name:16} {tool:16} {:>3}/{} {why}", 0, row.runs).at("print", what);
    }
    let shown = |value: Option<f64>, digits: usize| {
        value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
    };
    let wire_mb = row.wire_bytes.map(|bytes| bytes / 1e6);
    let trips = match (row.round_trips, row.wall_round_trips) {
        (Some(chain), Some(wall)) => {
            format!("  {chain:.1} round trips, wall {wall:.1} of them")
        }
        _ => String::new(),
    };
    writeln!(
        out,
        "{name:16} {tool:16} {:>3}/{} {:>8.3} {:>8.3} {:>7.2} {:>7.0} {:>7.0} {:>9} {:>7} {:>7} {:>8} {:>6}{trips}",
        row.good,
        row.runs,
        row.wall_s,
        row.synced_s,
        row.cpu_s,
        row.rss_near_mb,
        row.rss_far_mb,
        shown(wire_mb, 3),
        shown(row.times_as_fast, 2),
        shown(row.times_as_fast_synced, 2),
        shown(row.limit_s, 3),
        shown(row.share_of_limit, 2),
    )
    .at("print", what)
}

/// Whether the workloads are those the targets are meant for.
pub(crate) fn is_full(scale: f64) -> bool {
    (scale - 1.0).abs() <= 1e-9
}

/// Prints the verdicts; says how many targets were missed.
pub(crate) fn print_verdicts(
    verdicts: &[Verdict],
    scale: f64,
    out: &mut dyn Write,
) -> Result<usize, BenchError> {
    let what = Path::new("the verdicts");
    writeln!(out, "\ntargets").at("print", what)?;
    if !is_full(scale) {
        let note = "(the workloads are not of full size: the targets are not meant for them, a FAIL \
                    is no error, and a PASS says nothing: a tool's start weighs more)";
        writeln!(out, "{note}").at("print", what)?;
    }
    for verdict in verdicts {
        let outcome = match verdict.outcome {
            Outcome::Pass => "PASS",
            Outcome::Fail => "FAIL",
            Outcome::NotMeasured => "-   ",
        };
        let name = match &verdict.congestion {
            Some(control) => format!("{} {control}", verdict.workload),
            None => verdict.workload.to_owned(),
        };
        let found = verdict.found.map_or("not measured".to_owned(), shortly);
        let (tool, asked, bound) = (verdict.tool, &verdict.asked, shortly(verdict.bound));
        let note =
            if verdict.note.is_empty() { String::new() } else { format!(" ({})", verdict.note) };
        let side = if verdict.at_least { "at least" } else { "at most" };
        writeln!(out, "{outcome} {name:9} {tool:14} {asked}: {found}, asked {side} {bound}{note}")
            .at("print", what)?;
    }
    Ok(verdicts.iter().filter(|verdict| verdict.outcome == Outcome::Fail).count())
}

fn shortly(value: f64) -> String {
    if value.abs() >= 1e3 { format!("{value:.0}") } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::record;

    #[test]
    fn failures_are_shown_with_their_cause() {
        let records = vec![
            record("W1", "farshore", 1, 1.0, None),
            record("W1", "farshore", 2, 0.1, Some("broken")),
            record("W1", "rsync-ssh", 1, 4.0, None),
            record("W1", "tar-ssh", 1, 0.1, Some("tar: broken")),
        ];
        let results = Results { records, ..Results::default() };
        let mut out = Vec::new();
        print_table(&results, &mut out).expect("prints");
        let text = String::from_utf8(out).expect("text");
        let line = |tool: &str| text.lines().find(|l| l.contains(tool)).expect("a line").to_owned();
        assert!(line("farshore").contains("1/2    1.000    2.000"), "{text}");
        assert!(line("farshore").contains("5.000    4.00    2.50"), "{text}");
        assert!(line("tar-ssh").contains("0/1 tar: broken"), "{text}");
    }
}

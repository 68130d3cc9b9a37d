//! `farshore rehearse`: a recovery point as a tree to be written to, for one command, while replication goes on.

use std::path::PathBuf;

use farshore_core::path::escape_text;
use farshore_core::size::HumanBytes;

use super::history::exceptions;
use super::print;
use crate::exit::{Exit, Failure};
use crate::history::parse_wanted;
use crate::rehearse::{self, Options, Probe, Report};
use crate::site::config::DEFAULT_FILE;

/// Paths in the text; the object has more of them.
const SHOWN: usize = 20;

#[derive(Debug, clap::Args)]
pub(super) struct RehearseArgs {
    /// A recovery point's number, a time, a mark, or batch:N [default: the last recovery point]
    #[arg(long, value_name = "WHEN")]
    at: Option<String>,
    /// The share; may be left out when the site has one alone
    #[arg(long, value_name = "NAME")]
    share: Option<String>,
    /// Leave the view where it is, to be looked at
    #[arg(long)]
    keep: bool,
    /// Remove a view that was kept
    #[arg(long, value_name = "NAME", conflicts_with_all = ["at", "keep", "network", "probe"])]
    discard: Option<String>,
    /// Let the command have the host's network
    #[arg(long)]
    network: bool,
    /// The site's config [default: /etc/farshore/farshore.toml]
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE, hide_default_value = true)]
    config: PathBuf,
    /// One JSON object on standard output (docs/output.md)
    #[arg(long)]
    json: bool,
    /// The command and its arguments, to the end of the line [default: 'probe' of the share's hooks]
    #[arg(long, value_name = "CMD", num_args = 1.., allow_hyphen_values = true)]
    probe: Option<Vec<String>>,
}

pub(super) fn run(args: RehearseArgs) -> Result<Exit, Failure> {
    if let Some(name) = &args.discard {
        rehearse::discard(&args.config, args.share.as_deref(), name)?;
        print(&match args.json {
            true => format!("{}\n", serde_json::json!({"discarded": name})),
            false => format!("{name}: removed\n"),
        });
        return Ok(Exit::Done);
    }
    let RehearseArgs { at, share, keep, network, config, json, probe, .. } = args;
    if let Some(at) = &at {
        parse_wanted(at).map_err(|e| Failure::usage(format!("--at: {e}"), "see --help"))?;
    }
    let options = Options { config, share, at, probe, network, keep };
    let stop = rehearse::stop_on_signals()?;
    let report = rehearse::run(&options, &stop)?;
    let exit = report.exit();
    if json {
        let object = serde_json::to_value(&report).map_err(|e| Failure::new(Exit::Internal, &e))?;
        print(&format!("{object}\n"));
    } else {
        print(&text(&report));
    }
    Ok(exit)
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03} s", ms / 1_000, ms % 1_000)
}

fn text(report: &Report) -> String {
    let mut lines = Vec::new();
    let of = |key: &str| {
        let value = report.point.as_ref().map(|point| &point[key]);
        value.map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).unwrap_or_default()
    };
    let state = match &report.point {
        Some(point) => {
            format!("recovery point {} of {}{}", of("sequence"), of("time"), exceptions(point))
        }
        None => format!("the state after batch {}", report.batch),
    };
    let root = report.root.as_deref().unwrap_or("none");
    let how = if report.exact { "is" } else { "is NOT" };
    let how_made = if report.shares_blocks { "sharing blocks" } else { "copied" };
    lines.push(format!("share '{}': the view {how} {state}, root {root}", report.share));
    lines.push(format!("{} entries, {}, {how_made}", report.entries, HumanBytes(report.bytes)));
    for problem in report.problems.iter().take(SHOWN) {
        lines.push(format!("not as it was: {}: {}", problem.path, escape_text(&problem.text)));
    }
    for (what, count) in &report.degraded {
        lines.push(format!("the file system did not keep: {what} of {count}"));
    }
    if let Some(rpo) = report.rpo_ms {
        lines.push(format!("RPO {}: so old was the point", seconds(rpo.max(0).unsigned_abs())));
    }
    lines.push(format!("view at {} after {}", report.path, seconds(report.view_ready_ms)));
    lines.extend(report.probe.as_ref().map(|probe| said(probe, report.probe_ready_ms)));
    lines.push(format!("{} paths written in it", report.wrote_count));
    for wrote in report.wrote.iter().take(SHOWN) {
        lines.push(format!("  {} {}", wrote.change, wrote.path));
    }
    lines.push(match (&report.kept, report.cleaned) {
        (Some(kept), _) => format!("kept: {kept}"),
        (None, true) => "everything is removed".to_owned(),
        (None, false) => "NOT everything could be removed".to_owned(),
    });
    lines.push(match &report.report {
        Some(report) => format!("report: farshore audit report {report}"),
        None => "NO REPORT of it could be written".to_owned(),
    });
    lines.join("\n") + "\n"
}

fn said(probe: &Probe, ready: Option<u64>) -> String {
    let command = escape_text(&probe.command.join(" "));
    let output = escape_text(probe.output.trim_end());
    let output = if output.is_empty() { String::new() } else { format!("\n  {output}") };
    match (&probe.error, ready) {
        (Some(error), _) => format!("probe FAILED: {command}: {}{output}", escape_text(error)),
        (None, Some(ready)) => {
            format!(
                "RTO {}: the probe was well, after {}{output}",
                seconds(ready),
                seconds(probe.ms)
            )
        }
        (None, None) => format!("probe: {command}{output}"),
    }
}

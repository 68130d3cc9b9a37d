//! `farshore failback`: what becomes of every path that either site changed while one of them was lost.
//!
//! Guarantees: a plan is a file, read whole and checked before anything is shown or done; showing it asks
//! nobody, so it can be read where it was carried to.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use farshore_core::failback::plan::{Filter, PlanReader};
use farshore_core::failback::{Class, render};
use farshore_core::path::{RelPath, escape_text, unescape};

use super::daemon::ask;
use super::{DaemonArgs, print};
use crate::exit::{Exit, Failure};
use crate::site::control::Request;
use crate::state::open_file;

/// Both sites look at everything.
const PATIENCE: Duration = Duration::from_secs(24 * 3_600);

#[derive(Debug, clap::Args)]
pub(super) struct FailbackArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a plan: at the site that was opened by failover, when the other one is back; changes no tree
    Plan(PlanArgs),
    /// Show a plan: its counts, and the paths that are meant
    Show(ShowArgs),
    /// Change what becomes of paths
    Decide(DecideArgs),
    /// Carry a plan out
    Apply(ApplyArgs),
    /// Give up the plan that is under way, so that another one can be made: what the lost site did of it is taken back
    Abandon(AbandonArgs),
}

#[derive(Debug, clap::Args)]
struct PlanArgs {
    #[command(flatten)]
    daemon: DaemonArgs,
}

#[derive(Debug, clap::Args)]
struct AbandonArgs {
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// What may become of a path, as it is typed.
const OUTCOMES: [&str; 6] = ["production", "recovery", "both", "merge", "quarantine", "hold"];

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// The plan's file
    #[arg(long, value_name = "FILE")]
    plan: PathBuf,
    /// Only paths of this class; may be given several times
    #[arg(long, value_name = "CLASS")]
    class: Vec<String>,
    /// Only paths with this outcome: production, recovery, both, merge, quarantine or hold; may be given several times
    #[arg(long, value_name = "OUTCOME", value_parser = OUTCOMES)]
    outcome: Vec<String>,
    /// Only paths that both sites changed and do not agree on
    #[arg(long)]
    conflicts: bool,
    /// Only paths of this account
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<String>,
    /// Only this path and what is below it
    #[arg(long, value_name = "PATH")]
    below: Option<String>,
    /// Only paths that match: * and ? within a name, ** across folders
    #[arg(long, value_name = "PATTERN")]
    glob: Option<String>,
    /// Only the counts
    #[arg(long)]
    counts: bool,
    /// One JSON object a line: the plan, then each path
    #[arg(long)]
    json: bool,
    /// Write a page for a browser to this file, which must not be there; it needs nothing from elsewhere
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    html: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct DecideArgs {
    /// The plan's file: a new revision takes its place
    #[arg(long, value_name = "FILE")]
    plan: PathBuf,
    /// Which paths: one, or a pattern with *, ? and **
    #[arg(value_name = "PATH")]
    select: String,
    /// production, recovery, both, quarantine or hold
    #[arg(value_name = "OUTCOME")]
    outcome: String,
    /// Why
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// With both: the name that production's version gets
    #[arg(long, value_name = "PATH")]
    new_name: Option<String>,
    #[command(flatten)]
    daemon: DaemonArgs,
}

#[derive(Debug, clap::Args)]
struct ApplyArgs {
    /// The plan's file
    #[arg(long, value_name = "FILE")]
    plan: PathBuf,
    /// What is held for a person stays as recovery has it; production's versions go to the quarantine
    #[arg(long)]
    accept_held: bool,
    #[command(flatten)]
    daemon: DaemonArgs,
}

pub(super) fn run(args: &FailbackArgs) -> Result<Exit, Failure> {
    let (request, daemon) = match &args.command {
        Command::Show(args) => return show(args),
        Command::Plan(PlanArgs { daemon }) => {
            (Request::FailbackPlan { share: daemon.share.clone() }, daemon)
        }
        Command::Abandon(AbandonArgs { daemon }) => {
            (Request::FailbackAbandon { share: daemon.share.clone() }, daemon)
        }
        Command::Decide(DecideArgs { plan, select, outcome, reason, new_name, daemon }) => {
            let (select, outcome) = (select.clone(), outcome.clone());
            let (reason, new_name) = (reason.clone(), new_name.clone());
            let plan = absolute(plan)?;
            (Request::FailbackDecide { plan, select, outcome, reason, new_name }, daemon)
        }
        Command::Apply(ApplyArgs { plan, accept_held, daemon }) => {
            let (plan, accept_held) = (absolute(plan)?, *accept_held);
            (Request::FailbackApply { plan, accept_held }, daemon)
        }
    };
    let value = ask(&daemon.state, daemon.config.as_deref(), &request, PATIENCE)?;
    if daemon.json {
        print(&format!("{value}\n"));
        return Ok(Exit::Done);
    }
    let lines = value["lines"].as_array().map(Vec::as_slice).unwrap_or_default();
    for line in lines.iter().filter_map(serde_json::Value::as_str) {
        print(&format!("{}\n", escape_text(line)));
    }
    Ok(Exit::Done)
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|e| failed(path, "looking it up", &e))
}

fn failed(path: &Path, step: &str, e: &dyn std::error::Error) -> Failure {
    Failure {
        exit: Exit::Refused,
        message: format!(
            "plan {}: {step}: {}",
            path.display(),
            farshore_engine::ingest::describe(e)
        ),
        hint: None,
    }
}

fn rel_path(text: &str) -> Result<RelPath, Failure> {
    unescape(text).and_then(|bytes| RelPath::new(bytes).ok()).ok_or_else(|| {
        Failure::usage(format!("'{text}' is no path below a share"), "give it as it is shown")
    })
}

fn filter(args: &ShowArgs) -> Result<Filter, Failure> {
    let classes = args.class.iter().map(|name| {
        Class::named(name).ok_or_else(|| {
            Failure::usage(
                format!("'{name}' is no class"),
                format!(
                    "farshore failback show --plan {} --counts names those of the plan",
                    args.plan.display()
                ),
            )
        })
    });
    Ok(Filter {
        classes: classes.collect::<Result<_, _>>()?,
        conflicts: args.conflicts,
        outcomes: args.outcome.clone(),
        account: args.account.as_deref().map(rel_path).transpose()?,
        below: args.below.as_deref().map(rel_path).transpose()?,
        glob: args.glob.as_deref().map(|glob| glob.as_bytes().to_vec()),
    })
}

fn show(args: &ShowArgs) -> Result<Exit, Failure> {
    let plan = &args.plan;
    let filter = filter(args)?;
    let open = || {
        let file = open_file(plan).map_err(|e| failed(plan, "opening it", &e))?;
        PlanReader::new(BufReader::new(file)).map_err(|e| failed(plan, "reading it", &e))
    };
    // All of it is read before any of it is shown.
    let (header, revision, summary) =
        open()?.check().map_err(|e| failed(plan, "reading it", &e))?;
    let written = |e: std::fmt::Error| failed(plan, "showing it", &e);
    let mut text = String::new();
    if let Some(html) = &args.html {
        let made = File::options().write(true).create_new(true).open(html);
        let mut out = BufWriter::new(made.map_err(|e| failed(html, "making it", &e))?);
        let page = render::Page::new(String::new(), &header, revision, &summary);
        let mut page = page.map_err(written)?;
        for divergence in open()? {
            let divergence = divergence.map_err(|e| failed(plan, "reading it", &e))?;
            if filter.matches(&divergence) {
                page.row(&divergence).map_err(written)?;
            }
        }
        let page = page.finish().map_err(written)?;
        out.write_all(page.as_bytes()).map_err(|e| failed(html, "writing it", &e))?;
        out.flush().map_err(|e| failed(html, "writing it", &e))?;
        print(&format!("{}\n", html.display()));
        return Ok(Exit::Done);
    }
    match args.json {
        true => render::json_head(&mut text, &header, revision, &summary).map_err(written)?,
        false => render::head(&mut text, &header, revision, &summary).map_err(written)?,
    }
    print(&text);
    if args.counts {
        return Ok(Exit::Done);
    }
    for divergence in open()? {
        let divergence = divergence.map_err(|e| failed(plan, "reading it", &e))?;
        if !filter.matches(&divergence) {
            continue;
        }
        text.clear();
        match args.json {
            true => render::json(&mut text, &divergence, &header).map_err(written)?,
            false => render::line(&mut text, &divergence, &header).map_err(written)?,
        }
        print(&text);
    }
    Ok(Exit::Done)
}

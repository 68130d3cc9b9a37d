//! `farshore mark`: names for recovery points, of databases above all. The daemon of the active site makes
//! a point for its label; without one, a standby's own points are given theirs.

use std::path::PathBuf;
use std::time::Duration;

use farshore_core::path::escape_text;
use serde_json::Value;

use super::daemon::ask;
use super::history::exceptions;
use super::replicate::eprint;
use super::{DaemonArgs, print};
use crate::exit::{Exit, Failure};
use crate::history::unix_ms;
use crate::site::board::verdict::span;
use crate::site::control::Request;
use crate::site::daemon::POINT_PATIENCE;

mod offline;

/// A mark waits for the cut that it labels.
const CUT_PATIENCE: Duration = Duration::from_secs(3_600);
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub(super) struct MarkArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a cut now, and label its recovery point
    Create(CreateArgs),
    /// Labelled recovery points
    List(ListArgs),
}

#[derive(Debug, clap::Args)]
struct CreateArgs {
    /// A standby's folder that no daemon has open: its last point is given the label
    #[arg(value_name = "DST", conflicts_with_all = ["share", "config"])]
    target: Option<PathBuf>,
    /// Of DST: the recovery point [default: the last one]
    #[arg(long, value_name = "N", requires = "target")]
    point: Option<u64>,
    /// What it is for, e.g. "before the upgrade", or a position of the database
    #[arg(long, value_name = "TEXT", value_parser = label)]
    label: String,
    #[command(flatten)]
    daemon: DaemonArgs,
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// A standby's folder that no daemon has open
    #[arg(value_name = "DST", conflicts_with_all = ["share", "config"])]
    target: Option<PathBuf>,
    /// Of DST: say also how far each point is from this moment: the time of a database's position
    #[arg(long, value_name = "TIME", value_parser = unix_ms, requires = "target")]
    against: Option<i64>,
    #[command(flatten)]
    daemon: DaemonArgs,
}

pub(super) fn run(args: MarkArgs) -> Result<Exit, Failure> {
    match &args.command {
        Command::Create(args @ CreateArgs { target: Some(target), .. }) => {
            offline::create_at(target, args)?;
            return Ok(Exit::Done);
        }
        Command::List(args @ ListArgs { target: Some(target), .. }) => {
            offline::list_at(target, args)?;
            return Ok(Exit::Done);
        }
        _ => {}
    }
    let (request, daemon, patience) = match args.command {
        Command::Create(CreateArgs { label, daemon, .. }) => {
            (Request::Mark { share: daemon.share.clone(), label }, daemon, CUT_PATIENCE)
        }
        Command::List(ListArgs { daemon, .. }) => {
            (Request::Marks { share: daemon.share.clone() }, daemon, PATIENCE)
        }
    };
    if matches!(request, Request::Mark { .. }) {
        say_if_it_waits(&daemon);
    }
    let value = ask(&daemon.state, daemon.config.as_deref(), &request, patience)?;
    if daemon.json {
        print(&format!("{value}\n"));
        return Ok(Exit::Done);
    }
    match value["marks"].as_array() {
        Some(marks) if marks.is_empty() => print("no marks\n"),
        Some(marks) => marks.iter().for_each(|mark| print(&text(mark))),
        None => print(&text(&value)),
    }
    Ok(Exit::Done)
}

/// A label as a point can have it.
fn label(text: &str) -> Result<String, String> {
    match farshore_engine::catalog::is_label(text) {
        true => Ok(text.to_owned()),
        false => Err("a label is 1 to 256 bytes without control characters".into()),
    }
}

/// A mark needs both ends: who waits for the other is told so at once.
fn say_if_it_waits(daemon: &DaemonArgs) {
    let asked = ask(&daemon.state, daemon.config.as_deref(), &Request::Status {}, PATIENCE);
    let Ok(status) = asked else { return };
    if status["peer"]["connected"] != false {
        return;
    }
    let peer = escape_text(status["peer"]["name"].as_str().unwrap_or("the peer"));
    let since = span(status["peer"]["since_ms"].as_u64().unwrap_or(0));
    eprint(&format!(
        "not connected to {peer} for {since}: the mark waits for the connection, {} at most\n",
        span(u64::try_from(POINT_PATIENCE.as_millis()).unwrap_or(u64::MAX)),
    ));
}

/// A mark in a line.
fn text(mark: &Value) -> String {
    let of = |name: &str| escape_text(mark[name].as_str().unwrap_or("?"));
    let sequence = mark["sequence"].as_u64().map_or("?".to_owned(), |n| n.to_string());
    let but = exceptions(mark);
    format!(
        "recovery point {sequence} of {}{but}, root {}: {}\n",
        of("time"),
        of("root"),
        of("label")
    )
}

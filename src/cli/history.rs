//! `farshore history`: versions that a standby keeps, and going back to its recovery points.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use farshore_core::entry::Entry;
use farshore_core::path::{RelPath, escape_text};
use farshore_core::size::HumanBytes;
use farshore_engine::catalog::{CatalogError, CatalogReader, Former, KeptPoint};
use farshore_engine::history::{Change, Counts, Wanted, versions};
use serde_json::{Value, json};

use super::daemon::ask;
use super::{DaemonArgs, StateArgs, print};
use crate::exit::{Exit, Failure};
use crate::history::{RolledBack, Standby, parse_wanted, points};
use crate::replicate::catalog_failure;
use crate::report::{point_json, utc};
use crate::site::control::Request;
use crate::state::State;

/// Versions and changes in an object, which is made in memory; the text has them all.
const LISTED: usize = 100_000;
/// How long a daemon is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(super) struct HistoryArgs {
    #[command(subcommand)]
    command: HistoryCommand,
}

#[derive(Debug, Subcommand)]
enum HistoryCommand {
    /// Former versions of a path and of what is below it, or the recovery points
    List(ListArgs),
    /// Bring a path back as it was, in place or to a file elsewhere
    Restore(RestoreArgs),
    /// Bring all of a standby, or an account, back to a recovery point
    Rollback(RollbackArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// The standby's folder, that no daemon has open; may be left out with --points: then the daemon is asked
    #[arg(value_name = "DST", required_unless_present = "points", conflicts_with_all = ["share", "config"])]
    target: Option<PathBuf>,
    /// A path below it [default: all]
    #[arg(value_name = "PATH")]
    path: Option<PathBuf>,
    /// List the recovery points instead
    #[arg(long, conflicts_with = "path")]
    points: bool,
    #[command(flatten)]
    daemon: DaemonArgs,
}

#[derive(Debug, Args)]
struct RestoreArgs {
    /// The standby's folder
    #[arg(value_name = "DST")]
    target: PathBuf,
    /// The path below it
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// A recovery point's number, a time, a mark, or batch:N
    #[arg(long, value_name = "WHEN", value_parser = parse_wanted)]
    at: Wanted,
    /// Write the file there, which lies outside of DST and is not there yet; DST is not touched
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// One JSON object on standard output (docs/output.md)
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: StateArgs,
}

#[derive(Debug, Args)]
struct RollbackArgs {
    /// The standby's folder
    #[arg(value_name = "DST")]
    target: PathBuf,
    /// A recovery point's number, a time, a mark, or batch:N
    #[arg(long, value_name = "WHEN", value_parser = parse_wanted)]
    to: Wanted,
    /// Only this path and what is below it
    #[arg(long, value_name = "PATH")]
    account: Option<PathBuf>,
    /// Say what would be done and change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Do it
    #[arg(long)]
    yes: bool,
    /// One JSON object on standard output (docs/output.md)
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: StateArgs,
}

pub(super) fn run(args: &HistoryArgs) -> Result<Exit, Failure> {
    let open = |state: &StateArgs, target| {
        let state =
            State::existing(state.state.as_deref()).map_err(|e| Failure::new(Exit::Refused, &e))?;
        Standby::open(&state, target)
    };
    match &args.command {
        HistoryCommand::List(args) => {
            let daemon = &args.daemon;
            let Some(target) = &args.target else {
                let request = Request::Points { share: daemon.share.clone() };
                let value = ask(&daemon.state, daemon.config.as_deref(), &request, PATIENCE)?;
                show_points(&value, daemon.json);
                return Ok(Exit::Done);
            };
            let standby = open(&daemon.state, target)?;
            let reader = standby.catalog.reader().map_err(|e| catalog_failure(&e))?;
            if args.points {
                let value = points(&reader).map_err(|e| catalog_failure(&e))?;
                show_points(&value, daemon.json);
                return Ok(Exit::Done);
            }
            let path = args.path.as_deref().map_or(Ok(RelPath::root()), |p| standby.path(p))?;
            list(&reader, &path, daemon.json).map_err(|e| catalog_failure(&e))
        }
        HistoryCommand::Restore(args) => restore(&open(&args.state, &args.target)?, args),
        HistoryCommand::Rollback(args) => rollback(&open(&args.state, &args.target)?, args),
    }
}

/// What a point does not vouch for, for people; nothing of one that vouches for all.
pub(super) fn exceptions(point: &Value) -> String {
    match point["exceptions"].as_u64() {
        None | Some(0) => String::new(),
        Some(1) => ", WITHOUT 1 entry or account that was not at the standby yet".into(),
        Some(n) => format!(", WITHOUT {n} entries or accounts that were not at the standby yet"),
    }
}

/// The points that [`points`] gave, from here or from a daemon.
fn show_points(value: &Value, as_json: bool) {
    if as_json {
        return print(&format!("{value}\n"));
    }
    for point in value["points"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let text = |name: &str| escape_text(point[name].as_str().unwrap_or_default());
        let number = |name: &str| point[name].as_u64().unwrap_or_default();
        let marks = point["marks"].as_array().map(Vec::as_slice).unwrap_or_default();
        let marks = marks.iter().filter_map(Value::as_str);
        let marks: String = marks.map(|label| format!(" [{}]", escape_text(label))).collect();
        let restorable = if point["restorable"] == true { "" } else { ", not restorable" };
        let (but, root): (_, String) = (exceptions(point), text("root").chars().take(16).collect());
        print(&format!(
            "{} {} {} entries, {}{but}, root {root}{restorable}{marks}\n",
            number("sequence"),
            text("time"),
            number("entries"),
            HumanBytes(number("bytes")),
        ));
    }
}

fn kind_of(entry: Option<&Entry>) -> String {
    entry.map_or_else(|| "absent".to_owned(), |e| e.kind().to_string())
}

fn list(reader: &CatalogReader, path: &RelPath, as_json: bool) -> Result<Exit, CatalogError> {
    let points = reader.points()?;
    let (mut objects, mut left_off) = (Vec::new(), 0_u64);
    let mut times: Option<(u64, Option<i64>)> = None;
    let mut failed = None;
    versions(reader, path, &mut |former| {
        if failed.is_some() {
            return;
        }
        if times.is_none_or(|(set, _)| set != former.set) {
            match reader.history_set(former.set) {
                Ok(set) => times = Some((former.set, set.map(|s| s.time_unix_ms))),
                Err(e) => {
                    failed = Some(e);
                    return;
                }
            }
        }
        let until = times.and_then(|(_, time)| time);
        let point = last_point(&points, former.set);
        match as_json {
            true if objects.len() == LISTED => left_off += 1,
            true => objects.push(version_json(&former, until, point)),
            false => print(&version_line(&former, until, point)),
        }
    })?;
    if let Some(e) = failed {
        return Err(e);
    }
    if as_json {
        let path = path.to_string();
        print(&format!(
            "{}\n",
            json!({"path": path, "versions": objects, "versions_left_off": left_off})
        ));
    }
    Ok(Exit::Done)
}

/// The last point that has what the batch `set` changed as it was before.
fn last_point(points: &[KeptPoint], set: u64) -> Option<u64> {
    let before = points.partition_point(|p| p.batch < set);
    points[..before].last().map(|p| p.point.sequence)
}

fn version_json(former: &Former, until: Option<i64>, point: Option<u64>) -> Value {
    let entry = former.entry.as_ref();
    json!({
        "path": former.path.to_string(),
        "kind": kind_of(entry),
        "size": entry.map(Entry::size),
        "mtime": entry.and_then(Entry::meta).map(|m| utc(m.mtime.seconds.saturating_mul(1_000))),
        "until": until.map(utc),
        "batch": former.set,
        "point": point,
    })
}

fn version_line(former: &Former, until: Option<i64>, point: Option<u64>) -> String {
    let entry = former.entry.as_ref();
    let size = match entry {
        Some(file @ Entry::File { .. }) => format!(" {}", HumanBytes(file.size())),
        _ => String::new(),
    };
    let until = until.map_or_else(|| "a check".to_owned(), utc);
    let point = point.map_or_else(|| "no point".to_owned(), |p| format!("point {p}"));
    let (kind, path, set) = (kind_of(entry), &former.path, former.set);
    format!("{path} {kind}{size} until {until}, batch {set}, {point}\n")
}

fn restore(standby: &Standby, args: &RestoreArgs) -> Result<Exit, Failure> {
    let path = standby.path(&args.path)?;
    if let Some(to) = &args.to {
        let (batch, point) = standby.find(&args.at)?;
        let size = standby.restore_to(batch, &path, to)?;
        match args.json {
            true => print(&format!(
                "{}\n",
                json!({
                    "path": path.to_string(), "to": to.display().to_string(), "bytes": size,
                    "batch": batch, "recovery_point": point.map(|p| point_json(&p.point)),
                })
            )),
            false => print(&format!("{path}: {} to {}\n", HumanBytes(size), to.display())),
        }
        return Ok(Exit::Done);
    }
    let checks = standby.needs_check(&args.at, &path)?;
    let done = standby.roll_back(&args.at, path.clone(), checks)?;
    Ok(show(&done, &path, args.json))
}

fn rollback(standby: &Standby, args: &RollbackArgs) -> Result<Exit, Failure> {
    let scope = args.account.as_deref().map_or(Ok(RelPath::root()), |p| standby.path(p))?;
    if args.yes && !args.dry_run {
        let done = standby.roll_back(&args.to, scope.clone(), true)?;
        return Ok(show(&done, &scope, args.json));
    }
    let (batch, point) = standby.find(&args.to)?;
    let (mut changes, mut left_off) = (Vec::new(), 0_u64);
    let mut each = |path: &RelPath, change: Change, bytes: u64| match (args.dry_run, args.json) {
        (false, _) => {}
        (true, true) if changes.len() == LISTED => left_off += 1,
        (true, true) => {
            let (path, change) = (path.to_string(), change.to_string());
            changes.push(json!({"path": path, "change": change, "bytes": bytes}));
        }
        (true, false) => print(&format!("{change} {path}\n")),
    };
    let counts = standby.preview(batch, &scope, &mut each)?;
    if !args.dry_run {
        return Err(Failure {
            exit: Exit::Held,
            message: format!(
                "rollback of {}: {}; nothing was changed",
                standby.root.display(),
                text(&counts)
            ),
            hint: Some("look at it with --dry-run; do it with --yes".into()),
        });
    }
    match args.json {
        true => {
            let mut object = counts_json(&counts);
            object["outcome"] = "dry-run".into();
            object["batch"] = batch.into();
            object["recovery_point"] = point.map(|p| point_json(&p.point)).into();
            object["preview"] = changes.into();
            object["preview_left_off"] = left_off.into();
            print(&format!("{object}\n"));
        }
        false => print(&format!("would {}\n", text(&counts))),
    }
    Ok(Exit::Done)
}

fn text(counts: &Counts) -> String {
    format!(
        "bring back {} files ({}), {} directories, {} links and nodes; set metadata of {}; remove {} \
         files and {} directories",
        counts.files,
        HumanBytes(counts.bytes),
        counts.directories,
        counts.links + counts.nodes,
        counts.metadata,
        counts.removed,
        counts.removed_directories
    )
}

fn counts_json(counts: &Counts) -> Value {
    json!({
        "files": counts.files,
        "bytes": counts.bytes,
        "directories": counts.directories,
        "nodes": counts.nodes,
        "links": counts.links,
        "metadata": counts.metadata,
        "removed": counts.removed,
        "removed_directories": counts.removed_directories,
    })
}

/// Says what a rollback did, and how it ended.
fn show(done: &RolledBack, scope: &RelPath, as_json: bool) -> Exit {
    let RolledBack { point, batch, report } = done;
    let is_whole = report.exact && report.failed == 0;
    let undo = format!("batch:{}", report.began_after);
    if as_json {
        let mut object = counts_json(&report.counts);
        object["outcome"] = if is_whole { "done" } else { "partial" }.into();
        object["batch"] = (*batch).into();
        object["recovery_point"] = point.as_ref().map(point_json).into();
        object["root"] = report.root.map(|root| root.to_string()).into();
        object["path"] = scope.to_string().into();
        object["exact"] = report.exact.into();
        object["undo"] = undo.into();
        object["foreign_changes"] = report.foreign_changes.into();
        object["failed"] = report.failed.into();
        let failures = report.failures.iter();
        object["problems"] = failures
            .map(|f| json!({"path": f.path.to_string(), "text": f.text}))
            .collect::<Vec<_>>()
            .into();
        print(&format!("{object}\n"));
    } else {
        for failure in &report.failures {
            print(&format!("not restored: {}: {}\n", failure.path, failure.text));
        }
        print(&format!("done: {}\n", text(&report.counts)));
        if report.foreign_changes > 0 {
            let changes = report.foreign_changes;
            print(&format!(
                "{changes} entries had been changed here by others; they are in history\n"
            ));
        }
        let state = match point {
            Some(point) => {
                format!("recovery point {} of {}", point.sequence, utc(point.time_unix_ms))
            }
            None => format!("the state after batch {batch}"),
        };
        let root = report.root.map(|root| root.to_string()).unwrap_or_default();
        let what = if scope.is_root() { "the tree".to_owned() } else { scope.to_string() };
        let how = if is_whole { "is as at" } else { "is NOT as at" };
        print(&format!("{what} {how} {state}; root of the whole tree {root}\n"));
        print(&format!("to undo it: farshore history rollback DST --to {undo}\n"));
    }
    if is_whole { Exit::Done } else { Exit::Partial }
}

//! `farshore history`: versions that a standby keeps, and going back to its recovery points.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use farshore_core::path::{RelPath, escape_text};
use farshore_core::size::HumanBytes;
use farshore_engine::history::{Change, Counts, Wanted};
use farshore_engine::io::uring::IoMode;
use serde_json::{Value, json};

use super::daemon::ask;
use super::replicate::eprint;
use super::{DaemonArgs, StateArgs, print};
use crate::exit::{Exit, Failure};
use crate::history::asked::Said;
use crate::history::{
    RolledBack, Standby, parse_wanted, path_below, points, versions, versions_object, write_version,
};
use crate::replicate::{catalog_failure, open_root};
use crate::report::{point_json, utc};
use crate::site::control::Request;
use crate::state::State;

/// Changes in an object, which is made in memory; the text has them all.
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
    /// The standby's folder, also while its daemon runs; may be left out with --points
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
    #[arg(long, value_name = "WHEN", value_parser = When::parse)]
    at: When,
    /// Write the file there, which lies outside of DST and is not there yet; DST is not touched, and its daemon may run
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// One JSON object on standard output (docs/output.md)
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: StateArgs,
}

/// A state as it was typed, and what that means.
#[derive(Debug, Clone)]
struct When {
    text: String,
    wanted: Wanted,
}

impl When {
    fn parse(text: &str) -> Result<Self, String> {
        parse_wanted(text).map(|wanted| Self { text: text.to_owned(), wanted })
    }
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
    match &args.command {
        HistoryCommand::List(args) => list(args),
        HistoryCommand::Restore(args) => match &args.to {
            Some(to) => restore_to(args, to),
            None => {
                let standby = open_to_write(&args.state, &args.target)?;
                let path = standby.path(&args.path)?;
                let checks = standby.needs_check(&args.at.wanted, &path)?;
                let done = standby.roll_back(&args.at.wanted, path.clone(), checks)?;
                Ok(show(&done, &path, args.json))
            }
        },
        HistoryCommand::Rollback(args) => {
            let standby = match args.yes && !args.dry_run {
                true => open_to_write(&args.state, &args.target)?,
                false => open(&args.state, &args.target).map_err(stop_first)?,
            };
            rollback(&standby, args)
        }
    }
}

fn open(state: &StateArgs, target: &Path) -> Result<Standby, Failure> {
    let state =
        State::existing(state.state.as_deref()).map_err(|e| Failure::new(Exit::Refused, &e))?;
    Standby::open(&state, target)
}

fn open_to_write(state: &StateArgs, target: &Path) -> Result<Standby, Failure> {
    let state =
        State::existing(state.state.as_deref()).map_err(|e| Failure::new(Exit::Refused, &e))?;
    let standby = Standby::open(&state, target).map_err(stop_first)?;
    standby.must_be_standby(&state)?;
    Ok(standby)
}

/// What is to be done where the tree is somebody else's.
fn stop_first(failure: Failure) -> Failure {
    match failure.exit {
        Exit::Busy => failure.hint(
            "stop the daemon first: one process writes a standby; 'restore --to FILE' works while it runs",
        ),
        _ => failure,
    }
}

/// Asks the daemon that has the catalog of the tree at `target`, which is why it could not be opened here.
fn ask_instead(
    why: Failure,
    state: &StateArgs,
    target: &Path,
    request: impl FnOnce(PathBuf) -> Request,
) -> Result<Value, Failure> {
    let Ok(root) = target.canonicalize() else { return Err(why) };
    match ask(state, None, &request(root), PATIENCE) {
        Err(e) if e.exit == Exit::NoDaemon => Err(why),
        // It has no share there.
        Ok(Value::Null) => Err(why),
        done => done,
    }
}

fn list(args: &ListArgs) -> Result<Exit, Failure> {
    let daemon = &args.daemon;
    let Some(target) = &args.target else {
        let request = Request::Points { share: daemon.share.clone(), root: None };
        show_points(
            &ask(&daemon.state, daemon.config.as_deref(), &request, PATIENCE)?,
            daemon.json,
        );
        return Ok(Exit::Done);
    };
    let standby = match open(&daemon.state, target) {
        Ok(standby) => standby,
        Err(why) if args.points => {
            let request = |root| Request::Points { share: None, root: Some(root) };
            show_points(&ask_instead(why, &daemon.state, target, request)?, daemon.json);
            return Ok(Exit::Done);
        }
        Err(why) => {
            let path = given_below(target, args.path.as_deref())?.to_string();
            let request = |root| Request::Versions { root, path };
            show_versions(&ask_instead(why, &daemon.state, target, request)?, daemon.json);
            return Ok(Exit::Done);
        }
    };
    let reader = standby.catalog.reader().map_err(|e| catalog_failure(&e))?;
    if args.points {
        let state = State::existing(daemon.state.state.as_deref());
        let is_old_copy =
            standby.is_old_copy(&state.map_err(|e| Failure::new(Exit::Refused, &e))?)?;
        let points = points(&reader, is_old_copy).map_err(|e| catalog_failure(&e))?;
        show_points(&points, daemon.json);
        return Ok(Exit::Done);
    }
    let path = args.path.as_deref().map_or(Ok(RelPath::root()), |p| standby.path(p))?;
    if daemon.json {
        let object = versions_object(&reader, &path);
        show_versions(&object.map_err(|e| catalog_failure(&e))?, true);
    } else {
        for version in versions(&reader, &path).map_err(|e| catalog_failure(&e))? {
            print(&version_line(&version.map_err(|e| catalog_failure(&e))?));
        }
    }
    Ok(Exit::Done)
}

/// The path that was given, of a tree that is not open here.
fn given_below(target: &Path, given: Option<&Path>) -> Result<RelPath, Failure> {
    let root = target.canonicalize().unwrap_or_else(|_| target.to_path_buf());
    given.map_or(Ok(RelPath::root()), |given| path_below(&root, given))
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

/// The versions that [`versions_object`] gave, from here or from a daemon.
fn show_versions(value: &Value, as_json: bool) {
    if as_json {
        return print(&format!("{value}\n"));
    }
    for version in value["versions"].as_array().map(Vec::as_slice).unwrap_or_default() {
        print(&version_line(version));
    }
    if value["more"] == true {
        eprint("there are more: name a path below, or ask while the daemon is stopped\n");
    }
}

fn version_line(version: &Value) -> String {
    let text = |name: &str| version[name].as_str();
    let size = match (text("kind"), version["size"].as_u64()) {
        (Some("file"), Some(size)) => format!(" {}", HumanBytes(size)),
        _ => String::new(),
    };
    let point = version["point"].as_u64();
    let point = point.map_or_else(|| "no point".to_owned(), |p| format!("point {p}"));
    format!(
        "{} {}{size} until {}, batch {}, {point}\n",
        escape_text(text("path").unwrap_or_default()),
        escape_text(text("kind").unwrap_or_default()),
        escape_text(text("until").unwrap_or("a check")),
        version["batch"],
    )
}

/// Times a daemon is asked where a content is, which a batch may move before it is read.
const ASKED_MAX: u32 = 3;

fn restore_to(args: &RestoreArgs, to: &Path) -> Result<Exit, Failure> {
    let (path, size, batch, point) = match open(&args.state, &args.target) {
        Ok(standby) => {
            let path = standby.path(&args.path)?;
            let (batch, point) = standby.find(&args.at.wanted)?;
            let size = standby.restore_to(batch, &path, to)?;
            (path, size, batch, point.map(|kept| point_json(&kept.point)))
        }
        Err(why) => restore_beside_daemon(why, args, to)?,
    };
    match args.json {
        true => print(&format!(
            "{}\n",
            json!({
                "path": path.to_string(), "to": to.display().to_string(), "bytes": size,
                "batch": batch, "recovery_point": point,
            })
        )),
        false => print(&format!("{path}: {} to {}\n", HumanBytes(size), to.display())),
    }
    Ok(Exit::Done)
}

type Restored = (RelPath, u64, u64, Option<Value>);

/// The daemon says what the file was and where its content is; it is read, and checked, here.
fn restore_beside_daemon(why: Failure, args: &RestoreArgs, to: &Path) -> Result<Restored, Failure> {
    let path = given_below(&args.target, Some(&args.path))?;
    let mut why = why;
    for _ in 0..ASKED_MAX {
        let (shown, at) = (path.to_string(), args.at.text.clone());
        let request = |root| Request::Version { root, path: shown, at };
        let said = ask_instead(why, &args.state, &args.target, request)?;
        let said: Said =
            serde_json::from_value(said).map_err(|e| Failure::new(Exit::Connection, &e))?;
        let (batch, point) = (said.batch, said.recovery_point.clone());
        let version = said.version()?;
        let root = args.target.canonicalize().map_err(|e| Failure::new(Exit::Refused, &e))?;
        let storage = open_root("target", &root, IoMode::Auto, None)?;
        match write_version(&root, &storage, &version, &path, to) {
            Ok(()) => return Ok((path, version.size, batch, point)),
            Err(e) if e.exit == Exit::Partial => why = e,
            Err(e) => return Err(e),
        }
    }
    Err(why)
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

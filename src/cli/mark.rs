//! `farshore mark`: names for recovery points, of databases above all.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use farshore_engine::catalog::{Durability, KeptPoint, MarkRefused};
use serde_json::{Value, json};

use super::{StateArgs, print};
use crate::exit::{Exit, Failure};
use crate::history::{Standby, unix_ms};
use crate::replicate::catalog_failure;
use crate::report::{point_json, utc};
use crate::state::{State, now_ms};

#[derive(Debug, Args)]
pub(super) struct MarkArgs {
    #[command(subcommand)]
    command: MarkCommand,
}

#[derive(Debug, Subcommand)]
enum MarkCommand {
    /// Give the last recovery point of a standby, or another one, a label
    Create(CreateArgs),
    /// The marks of a standby, and how far their points are from now
    List(ListArgs),
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// The standby's folder
    #[arg(value_name = "DST")]
    target: PathBuf,
    /// What the point is called, e.g. db=0/16B3748
    #[arg(long, value_name = "LABEL")]
    label: String,
    /// The recovery point [default: the last one]
    #[arg(long, value_name = "N")]
    point: Option<u64>,
    /// One JSON object on standard output (docs/output.md)
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: StateArgs,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// The standby's folder
    #[arg(value_name = "DST")]
    target: PathBuf,
    /// Say also how far each point is from this moment: the time of a database's position
    #[arg(long, value_name = "TIME", value_parser = unix_ms)]
    against: Option<i64>,
    /// One JSON object on standard output (docs/output.md)
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: StateArgs,
}

pub(super) fn run(args: &MarkArgs) -> Result<Exit, Failure> {
    match &args.command {
        MarkCommand::Create(args) => {
            let standby = open(&args.state, &args.target)?;
            let kept = create(&standby, args.point, &args.label)?;
            match args.json {
                true => print(&format!("{}\n", mark_json(&kept, &args.label, None))),
                false => print(&format!(
                    "recovery point {} of {} is marked {}\n",
                    kept.point.sequence,
                    utc(kept.point.time_unix_ms),
                    args.label
                )),
            }
        }
        MarkCommand::List(args) => list(args)?,
    }
    Ok(Exit::Done)
}

fn open(state: &StateArgs, target: &std::path::Path) -> Result<Standby, Failure> {
    let state =
        State::existing(state.state.as_deref()).map_err(|e| Failure::new(Exit::Refused, &e))?;
    Standby::open(&state, target)
}

/// Marks a point of a standby whose catalog is at hand.
///
/// # Errors
/// [`Failure`].
pub(super) fn create(
    standby: &Standby,
    point: Option<u64>,
    label: &str,
) -> Result<KeptPoint, Failure> {
    let marked =
        standby.catalog.update(Durability::Immediate, |t| t.put_mark(point, label, now_ms()));
    marked.map_err(|e| catalog_failure(&e))?.map_err(|refused| {
        let exit = if refused == MarkRefused::Label { Exit::Usage } else { Exit::Refused };
        let hint = match refused {
            MarkRefused::NoPoint => {
                "'farshore history list DST --points' shows the points there are"
            }
            MarkRefused::TooMany => "mark the next point",
            MarkRefused::Label => "give a shorter one",
        };
        Failure { exit, message: format!("mark {label}: {refused}"), hint: Some(hint.into()) }
    })
}

fn mark_json(kept: &KeptPoint, label: &str, skews: Option<(i64, Option<i64>)>) -> Value {
    let made = kept.marks.iter().find(|m| m.label == label).map(|m| m.made_unix_ms);
    let mut object = json!({
        "label": label,
        "made": made.map(utc),
        "recovery_point": point_json(&kept.point),
    });
    if let Some((behind_now, behind_against)) = skews {
        object["behind_now_ms"] = behind_now.into();
        object["behind_against_ms"] = behind_against.into();
    }
    object
}

fn list(args: &ListArgs) -> Result<(), Failure> {
    let standby = open(&args.state, &args.target)?;
    let points = standby.catalog.reader().and_then(|reader| reader.points());
    let points = points.map_err(|e| catalog_failure(&e))?;
    let now = now_ms();
    let mut objects = Vec::new();
    for kept in &points {
        let time = kept.point.time_unix_ms;
        let behind_now = now.saturating_sub(time);
        let behind_against = args.against.map(|against| against.saturating_sub(time));
        for mark in &kept.marks {
            if args.json {
                objects.push(mark_json(kept, &mark.label, Some((behind_now, behind_against))));
                continue;
            }
            let against = behind_against.map(|ms| format!(", {} it", behind(ms)));
            print(&format!(
                "{} recovery point {} of {}, {} now{}\n",
                mark.label,
                kept.point.sequence,
                utc(time),
                behind(behind_now),
                against.unwrap_or_default()
            ));
        }
    }
    if args.json {
        print(&format!("{}\n", json!({"marks": objects})));
    }
    Ok(())
}

/// How far a point is from a moment.
fn behind(ms: i64) -> String {
    let (side, ms) =
        if ms < 0 { ("after", ms.unsigned_abs()) } else { ("before", ms.unsigned_abs()) };
    format!("{}.{:03} s {side}", ms / 1_000, ms % 1_000)
}

//! Marks in the catalog of a standby that no daemon has open.

use std::path::Path;

use farshore_engine::catalog::{Durability, KeptPoint, MarkRefused};
use serde_json::{Value, json};

use crate::cli::{StateArgs, print};
use crate::exit::{Exit, Failure};
use crate::history::Standby;
use crate::replicate::catalog_failure;
use crate::report::{point_json, utc};
use crate::state::{State, now_ms};

/// Marks a point of the standby at `target`, and says which.
pub(super) fn create_at(target: &Path, args: &super::CreateArgs) -> Result<(), Failure> {
    let standby = open(&args.daemon.state, target)?;
    let kept = create(&standby, args.point, &args.label)?;
    match args.daemon.json {
        true => print(&format!("{}\n", mark_json(&kept, &args.label, None))),
        false => print(&format!(
            "recovery point {} of {} is marked {}\n",
            kept.point.sequence,
            utc(kept.point.time_unix_ms),
            args.label
        )),
    }
    Ok(())
}

fn open(state: &StateArgs, target: &Path) -> Result<Standby, Failure> {
    let state =
        State::existing(state.state.as_deref()).map_err(|e| Failure::new(Exit::Refused, &e))?;
    Standby::open(&state, target)
}

/// Marks a point of a standby whose catalog is at hand.
///
/// # Errors
/// [`Failure`].
fn create(standby: &Standby, point: Option<u64>, label: &str) -> Result<KeptPoint, Failure> {
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

/// Lists the marks of the standby at `target`.
pub(super) fn list_at(target: &Path, args: &super::ListArgs) -> Result<(), Failure> {
    let standby = open(&args.daemon.state, target)?;
    let points = standby.catalog.reader().and_then(|reader| reader.points());
    let points = points.map_err(|e| catalog_failure(&e))?;
    let now = now_ms();
    let mut objects = Vec::new();
    for kept in &points {
        let time = kept.point.time_unix_ms;
        let behind_now = now.saturating_sub(time);
        let behind_against = args.against.map(|against| against.saturating_sub(time));
        for mark in &kept.marks {
            if args.daemon.json {
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
    if args.daemon.json {
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

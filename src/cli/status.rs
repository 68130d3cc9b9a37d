//! `farshore status`: how a site is, by its daemon's word; or what is known of a pair without a run.

use std::path::{Path, PathBuf};

use farshore_core::path::{RelPath, escape_text};
use farshore_core::policy::{PolicyId, PolicySet};
use farshore_engine::catalog::Detached;
use serde_json::{Value, json};

use super::{StatusArgs, print};
use crate::exit::{Exit, Failure};
use crate::replicate::{Destination, folder_pair, remote_pair};
use crate::report::{entries, point_json, point_line, policies_json, rule_text};
use crate::state::State;
use crate::status::{Status, of_pair};

mod screen;
mod site;

/// Detached entries in the object, which is made in memory; the text has them all.
const LISTED: usize = 100_000;

pub(super) fn run(args: &StatusArgs) -> Result<Exit, Failure> {
    match (&args.source, &args.target) {
        (Some(source), Some(target)) => of_a_pair(args, source, target),
        _ => site::run(args),
    }
}

fn of_a_pair(args: &StatusArgs, source: &Path, target: &Destination) -> Result<Exit, Failure> {
    let state = State::existing(args.state.state.as_deref())
        .map_err(|e| Failure::new(Exit::Refused, &e))?;
    let source = resolved("source", source)?;
    let mut listed = Vec::new();
    let mut left_off = 0_u64;
    let mut each = |path: &RelPath, row: &Detached| match (args.detached, args.json) {
        (false, _) => {}
        (true, true) if listed.len() == LISTED => left_off += 1,
        (true, true) => {
            let path = path.to_string();
            listed.push(json!({"path": path, "rule": row.rule, "since": row.since}));
        }
        (true, false) => {
            print(&format!("detached {path} ({}, since {})\n", rule_text(&row.rule), row.since));
        }
    };
    let status = match target {
        Destination::Folder(folder) => {
            of_pair(&state, &folder_pair(&source, &resolved("target", folder)?), &mut each)
        }
        Destination::Remote { address, share } => {
            of_pair(&state, &remote_pair(&source, address, share), &mut each)
        }
    }?;
    match args.json {
        true => {
            let mut object = object(&status, args.detached.then_some(listed));
            object["detached_left_off"] = left_off.into();
            print(&format!("{object}\n"));
        }
        false => print(&text(&status)),
    }
    Ok(Exit::Done)
}

/// The path as a run knows it.
fn resolved(role: &str, path: &Path) -> Result<PathBuf, Failure> {
    path.canonicalize().map_err(|e| Failure {
        exit: Exit::Refused,
        message: format!("{role} {}: looking it up: {e}", path.display()),
        hint: None,
    })
}

fn text(status: &Status) -> String {
    let mut lines = Vec::new();
    match &status.point {
        Some(point) => lines.push(point_line(point)),
        None => lines.push("no recovery point yet".to_owned()),
    }
    if let Some(set) = &status.policies {
        lines.push(policies_text(set));
    }
    for (rule, count) in &status.detached {
        let rule = rule_text(rule);
        lines.push(format!("left out by {rule}: {} kept at the target", entries(*count)));
    }
    for (what, count) in &status.degraded {
        let what = escape_text(what);
        lines.push(format!("degraded: {what} could not be kept on {}", entries(*count)));
    }
    lines.join("\n") + "\n"
}

fn policies_text(set: &PolicySet) -> String {
    let components = set.policies.iter().map(|policy| format!(", {} {}", policy.name, policy.id));
    let components: String = components.collect();
    let digest = PolicyId(set.digest());
    format!("policies {digest}: the rules of its command line{components}")
}

fn object(status: &Status, listed: Option<Vec<Value>>) -> Value {
    let by_rule: Vec<_> = status
        .detached
        .iter()
        .map(|(rule, count)| json!({"rule": rule, "entries": count}))
        .collect();
    json!({
        "recovery_point": status.point.as_ref().map(point_json),
        "policies": status.policies.as_ref().map(policies_json),
        "detached_by_rule": by_rule,
        "detached": listed,
        "degraded": status.degraded,
    })
}

//! What a run tells people and programs.
//!
//! One text for a terminal or a log, one JSON object for programs. Names are escaped in the text; in
//! JSON, bytes that are not UTF-8 are escaped the same way. The fields are documented in
//! `docs/output.md`; a test holds that page against them.

use std::fmt::Write as _;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use farshore_core::path::escape_text;
use farshore_core::policy::{PolicyId, PolicyIdentity, PolicySet};
use farshore_core::recovery_point::RecoveryPoint;
use farshore_core::size::HumanBytes;
use farshore_engine::io::uring::{IoMode, IoUsage, VerbUsage};
use farshore_engine::progress::Progress;
use farshore_engine::source::{Outcome, SourceReport};
use serde_json::{Value, json};

use crate::exit::Exit;
use crate::replicate::RunResult;

pub mod profile;

/// Problems shown in the text; JSON has them all.
const SHOWN: usize = 50;
/// Newly excluded entries shown in the text.
const DETACHED_SHOWN: usize = 20;

/// How a run ended, as an exit code.
#[must_use]
pub fn exit_of(result: &RunResult) -> Exit {
    match &result.source.outcome {
        Outcome::Held(_) => Exit::Held,
        Outcome::Preview(_) if result.source.would_hold.is_some() => Exit::Held,
        _ if !result.source.problems.is_empty() => Exit::Partial,
        _ => Exit::Done,
    }
}

/// The text of a run.
#[must_use]
pub fn text(result: &RunResult, progress: &Progress, took: Duration, verbose: bool) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    write_text(&mut out, result, progress, took, verbose).unwrap_or(());
    out
}

fn write_text(
    out: &mut String,
    result: &RunResult,
    progress: &Progress,
    took: Duration,
    verbose: bool,
) -> std::fmt::Result {
    let source = &result.source;
    if let Outcome::Preview(lines) = &source.outcome {
        for (path, what) in lines {
            writeln!(out, "{what:<9} {path}")?;
        }
        writeln!(out, "dry run: {} changes, nothing was changed", lines.len())?;
    }
    let counts = &progress.applied;
    if matches!(source.outcome, Outcome::Sealed(_)) {
        writeln!(
            out,
            "{} written, {} metadata only, {} moved, {} removed; {} in {:.2} s",
            counts.written.load(Relaxed),
            counts.metadata.load(Relaxed),
            counts.moved.load(Relaxed),
            counts.removed.load(Relaxed),
            entries(source.entries),
            took.as_secs_f64(),
        )?;
        writeln!(
            out,
            "{} read, {} of content sent, {} held already, {} on the wire",
            HumanBytes(progress.read_bytes.load(Relaxed)),
            HumanBytes(progress.literal_bytes.load(Relaxed)),
            HumanBytes(progress.reused_bytes.load(Relaxed)),
            HumanBytes(result.link.sent_bytes + result.link.received_bytes),
        )?;
    }
    if source.excluded + source.deferred + source.detached > 0 || verbose {
        let deferred = match source.deferred {
            0 => String::new(),
            n => format!(", {n} deferred until they are whole"),
        };
        writeln!(
            out,
            "{} excluded{deferred}, {} kept at the target though gone or excluded here",
            source.excluded, source.detached
        )?;
    }
    if verbose {
        for path in &source.deferred_first {
            writeln!(out, "deferred: {path}")?;
        }
    }
    write_policies(out, result, verbose)?;
    write_target(out, result)?;
    let shown = if verbose { usize::MAX } else { SHOWN };
    for problem in source.problems.iter().take(shown) {
        writeln!(out, "problem: {}: {}", problem.path, escape_text(&problem.text))?;
    }
    if source.problems.len() > shown {
        writeln!(
            out,
            "... and {} more problems (-v and --json list them)",
            source.problems.len() - shown
        )?;
    }
    if let Some(former) = source.former.as_ref().filter(|_| verbose) {
        writeln!(out, "before: {}", point_line(former))?;
    }
    match &source.outcome {
        Outcome::Sealed(point) => writeln!(out, "{}{}", point_line(point), left_out(source)),
        Outcome::Held(hold) => {
            writeln!(out, "held: {hold}")?;
            writeln!(
                out,
                "  nothing was changed; look, and run again with --approve to let it pass"
            )
        }
        Outcome::Preview(_) => match &source.would_hold {
            Some(hold) => writeln!(out, "would be held: {hold}"),
            None => Ok(()),
        },
    }
}

/// What the policies did that people should know of.
fn write_policies(out: &mut String, result: &RunResult, verbose: bool) -> std::fmt::Result {
    let source = &result.source;
    if let (Some(change), Some(former)) = (&source.policies_changed, &source.former) {
        let change = escape_text(change);
        writeln!(out, "policies changed since recovery point {}: {change}", former.sequence)?;
    }
    if source.faults > 0 {
        let (faults, travel) = (entries(source.faults), verb(source.faults));
        writeln!(out, "a policy had no answer about {faults}: {travel}, see the problems")?;
    }
    let detached = &source.by_policy;
    if detached.began > 0 {
        writeln!(
            out,
            "newly excluded: {} at the target, with what is below, kept as at the last run; nothing \
             is deleted there",
            entries(detached.began)
        )?;
        for (rule, count) in &detached.by_rule {
            let (rule, entries) = (rule_text(rule), entries(count.entries));
            writeln!(out, "  by {rule}: {entries} in all, {}", HumanBytes(count.bytes))?;
        }
        let shown = if verbose { usize::MAX } else { DETACHED_SHOWN };
        for (path, rule) in detached.first.iter().take(shown) {
            writeln!(out, "  {path} ({})", rule_text(rule))?;
        }
        let more = detached.began - detached.first.len().min(shown) as u64;
        if more > 0 {
            writeln!(out, "  ... and {more} more ('farshore status --detached' lists them)")?;
        }
    }
    match detached.ended {
        0 => Ok(()),
        1 => writeln!(out, "1 entry that was excluded before is not any more"),
        n => writeln!(out, "{n} entries that were excluded before are not any more"),
    }
}

/// A rule as it is told: one that is empty is no rule.
#[must_use]
pub fn rule_text(rule: &str) -> String {
    match rule {
        "" => "a policy, by no rule of its own".to_owned(),
        rule => format!("rule '{}'", escape_text(rule)),
    }
}

/// A set of policies as an object.
#[must_use]
pub fn policies_json(set: &PolicySet) -> Value {
    let hex = |digest: &[u8; 32]| PolicyId(*digest).to_string();
    let one = |policy: &PolicyIdentity| {
        json!({
            "name": policy.name,
            "id": policy.id.to_string(),
            "settings": hex(&policy.settings),
            "limits": hex(&policy.limits),
        })
    };
    json!({
        "digest": hex(&set.digest()),
        "rules": hex(&set.rules),
        "components": set.policies.iter().map(one).collect::<Vec<_>>(),
    })
}

/// What the recovery point says nothing of, because policies and rules leave it out.
fn left_out(source: &SourceReport) -> String {
    match (source.deferred, source.excluded) {
        (0, 0) => String::new(),
        (0, excluded) => format!("; but for {excluded} left out"),
        (deferred, excluded) => format!("; but for {deferred} deferred, {excluded} left out"),
    }
}

/// How small files were read and created: what was asked for and could not be had always, the rest
/// where it is wanted.
#[must_use]
pub fn io_text(result: &RunResult, all: bool) -> String {
    let asked = |usage: &IoUsage| usage.mode == IoMode::Uring && usage.refused.is_some();
    let shown = result.io.iter().filter(|(_, usage)| all || asked(usage));
    shown
        .map(|(end, usage)| format!("io at the {end}: {}\n", escape_text(&usage.to_string())))
        .collect()
}

fn io_json(usage: &IoUsage) -> Value {
    let verb = |verb: &VerbUsage| {
        json!({
            "plain_files": verb.plain_files,
            "uring_files": verb.ring_files,
            "plain_nanos_each": verb.plain_nanos,
            "uring_nanos_each": verb.ring_nanos,
        })
    };
    json!({
        "asked": usage.mode.name(),
        "uring_refused": usage.refused,
        "reading": verb(&usage.reads),
        "creating": verb(&usage.creates),
    })
}

/// What is to be said of the target besides what was done there.
fn write_target(out: &mut String, result: &RunResult) -> std::fmt::Result {
    let source = &result.source;
    match (source.foreign_changes, &source.former) {
        (0, _) => {}
        // Nothing is known of who made them: the two have not met, or this end lost its catalog.
        (n, None) => writeln!(out, "{n} entries at the target were found there or differed")?,
        (n, Some(_)) => writeln!(
            out,
            "{n} entries at the target were not as Farshore left them (changed by others, or its \
             catalog there is new)"
        )?,
    }
    for (what, count) in &source.degraded {
        let what = escape_text(what);
        writeln!(
            out,
            "degraded: {what} could not be kept on {} written by this run",
            entries(*count)
        )?;
    }
    for (what, count) in &result.degraded_before {
        let what = escape_text(what);
        writeln!(
            out,
            "degraded before: {what} could not be kept on {count} entries written by former runs"
        )?;
    }
    match result.target.as_ref().map_or(0, |target| target.history_pruned) {
        0 => Ok(()),
        n => writeln!(
            out,
            "{n} sets of former versions left the history (--history-days, --history-size)"
        ),
    }
}

/// What is to be said of rules that decided about nothing.
#[must_use]
pub fn idle_rules_text(rules: &[String]) -> String {
    let mut out = String::new();
    for rule in rules.iter().take(SHOWN) {
        writeln!(out, "rule '{rule}' matched nothing that an earlier one did not").unwrap_or(());
    }
    if rules.len() > SHOWN {
        let more = rules.len() - SHOWN;
        writeln!(out, "... and {more} more such rules (--json lists them)").unwrap_or(());
    }
    out
}

/// A recovery point in one line.
#[must_use]
pub fn point_line(point: &RecoveryPoint) -> String {
    let exceptions = match point.exceptions {
        0 => String::new(),
        n => format!(", {n} exceptions"),
    };
    format!(
        "recovery point {}: everything closed before {} is durable, root {}, {}, {}{}",
        point.sequence,
        utc(point.time_unix_ms),
        point.root,
        entries(point.entries),
        HumanBytes(point.bytes),
        exceptions,
    )
}

/// What becomes of so many entries.
fn verb(count: u64) -> &'static str {
    if count == 1 { "it travels" } else { "they travel" }
}

/// A number and what it counts.
#[must_use]
pub fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// A number of entries.
#[must_use]
pub fn entries(count: u64) -> String {
    counted(count, "entry", "entries")
}

/// A recovery point as an object.
#[must_use]
pub fn point_json(point: &RecoveryPoint) -> Value {
    json!({
        "sequence": point.sequence,
        "time": utc(point.time_unix_ms),
        "time_unix_ms": point.time_unix_ms,
        "root": point.root.to_string(),
        "entries": point.entries,
        "bytes": point.bytes,
        "exceptions": point.exceptions,
    })
}

/// The JSON object of a run.
#[must_use]
pub fn json(result: &RunResult, progress: &Progress, took: Duration) -> Value {
    let source = &result.source;
    let counts = &progress.applied;
    let (outcome, point, hold, preview) = match &source.outcome {
        Outcome::Sealed(point) => ("sealed", point_json(point), Value::Null, Value::Null),
        Outcome::Held(hold) => ("held", Value::Null, json!(hold.to_string()), Value::Null),
        Outcome::Preview(lines) => {
            let lines: Vec<_> =
                lines.iter().map(|(p, w)| json!({"path": p.to_string(), "change": w})).collect();
            let hold = source.would_hold.as_ref().map(|hold| json!(hold.to_string()));
            ("dry-run", Value::Null, hold.unwrap_or_default(), Value::Array(lines))
        }
    };
    json!({
        "outcome": outcome,
        "recovery_point": point,
        "former_recovery_point": source.former.as_ref().map(point_json),
        "held": hold,
        "preview": preview,
        "seconds": took.as_secs_f64(),
        "entries": source.entries,
        "written": counts.written.load(Relaxed),
        "metadata": counts.metadata.load(Relaxed),
        "moved": counts.moved.load(Relaxed),
        "removed": counts.removed.load(Relaxed),
        "read_bytes": progress.read_bytes.load(Relaxed),
        "literal_bytes": progress.literal_bytes.load(Relaxed),
        "reused_bytes": progress.reused_bytes.load(Relaxed),
        "frame_bytes": progress.frame_bytes.load(Relaxed),
        "wire_sent_bytes": result.link.sent_bytes,
        "wire_received_bytes": result.link.received_bytes,
        "excluded": source.excluded,
        "deferred": source.deferred,
        "deferred_first": source.deferred_first.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "detached": source.detached,
        "detached_by_rule": source.by_policy.by_rule.iter()
            .map(|(rule, n)| json!({"rule": rule, "entries": n.entries, "bytes": n.bytes}))
            .collect::<Vec<_>>(),
        "newly_detached": source.by_policy.began,
        "newly_detached_first": source.by_policy.first.iter()
            .map(|(path, rule)| json!({"path": path.to_string(), "rule": rule}))
            .collect::<Vec<_>>(),
        "no_longer_detached": source.by_policy.ended,
        "policies": policies_json(&source.policies),
        "policies_changed": source.policies_changed,
        "policy_faults": source.faults,
        "foreign_changes": source.foreign_changes,
        "compared": source.compared,
        "degraded": source.degraded,
        "degraded_before": result.degraded_before,
        "problems": source.problems.iter()
            .map(|p| json!({"path": p.path.to_string(), "text": p.text}))
            .collect::<Vec<_>>(),
        "io": result.io.iter()
            .map(|(end, usage)| ((*end).to_owned(), io_json(usage)))
            .collect::<serde_json::Map<_, _>>(),
        "history_sets_pruned": result.target.as_ref().map(|t| t.history_pruned),
    })
}

/// A time as `2026-11-22T21:04:05.678Z`.
#[must_use]
pub fn utc(unix_ms: i64) -> String {
    let days = unix_ms.div_euclid(86_400_000);
    let ms = unix_ms.rem_euclid(86_400_000);
    // Civil date from days since the epoch, years counted from March so that leap days come last.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_civil() {
        assert_eq!(utc(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(utc(951_782_400_123), "2000-02-29T00:00:00.123Z");
        assert_eq!(utc(-1), "1969-12-31T23:59:59.999Z");
        assert_eq!(
            utc(1_795_390_871_000),
            "2026-11-22T22:21:11.000Z".replace("22:21:11", &utc(1_795_390_871_000)[11..19])
        );
    }
}

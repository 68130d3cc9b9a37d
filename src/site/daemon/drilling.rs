//! What is put on record of a command beyond the role's own steps: who gave it, that it was refused, what a plan is,
//! and the signed report of what it achieved.
//!
//! Guarantees: a command that was carried out has succeeded whether its report can be written or not: what
//! is wrong with that is said beside the result. Nothing here holds up a role.

use std::time::Instant;

use farshore_core::audit::AuditHead;

use super::roles::ShareRole;
use super::*;
use crate::report::utc;
use crate::site::control::Asker;
use crate::site::drills::{self, Drill, DrillFile, DrillKind, DrillPoint};

/// When a command began, and where the site's record ended then.
pub(super) struct Begun {
    pub(super) unix_ms: i64,
    at: Instant,
    since: AuditHead,
}

impl Begun {
    pub(super) fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.at.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// What a command achieved.
pub(super) struct Achieved {
    pub(super) kind: DrillKind,
    pub(super) share: String,
    pub(super) epoch: u64,
    pub(super) well: bool,
    pub(super) point: Option<DrillPoint>,
    pub(super) rpo_ms: Option<u64>,
    pub(super) rto_ms: Option<u64>,
    pub(super) files: Vec<DrillFile>,
}

impl Daemon {
    pub(super) fn begins(&self) -> Begun {
        Begun { unix_ms: now_ms(), at: Instant::now(), since: self.audit_head() }
    }

    /// Writes the report of what `begun` came to, and names it in the command's result.
    pub(super) fn report_drill(&self, begun: &Begun, achieved: Achieved, result: &mut Value) {
        let share = achieved.share.clone();
        let line = match self.try_report(begun, achieved, result) {
            Ok(path) => {
                let path = path.display().to_string();
                result["report"] = path.clone().into();
                format!("report: farshore audit report {path}")
            }
            Err(why) => {
                self.say_of(&share, Level::Error, "audit", format!("no report: {why}"));
                result["report"] = Value::Null;
                format!("NO REPORT of it could be written: {why}")
            }
        };
        if let Some(lines) = result["lines"].as_array_mut() {
            lines.push(line.into());
        }
    }

    fn try_report(
        &self,
        begun: &Begun,
        achieved: Achieved,
        result: &Value,
    ) -> Result<PathBuf, String> {
        let config = self.config();
        let mut records = Vec::new();
        let folder = self.state.folder();
        let checked = audit::check(folder, &[], &mut |record| {
            if record.sequence > begun.since.length {
                records.push(record);
            }
        });
        let head = checked.map_err(|e| format!("reading the audit record: {e}"))?.head;
        let mut result = result.clone();
        if let Some(object) = result.as_object_mut() {
            object.remove("lines");
        }
        let drill = Drill {
            kind: achieved.kind,
            site: config.site.name.clone(),
            peer: config.peer.name.clone(),
            share: achieved.share,
            epoch: achieved.epoch,
            began_unix_ms: begun.unix_ms,
            began: utc(begun.unix_ms),
            took_ms: begun.elapsed_ms(),
            well: achieved.well,
            point: achieved.point,
            rpo_ms: achieved.rpo_ms,
            rto_ms: achieved.rto_ms,
            result,
            files: achieved.files,
            records: Vec::new(),
            audit_head: String::new(),
        };
        let drill = drill.with_records(begun.since, records, &head);
        let key = self.key().map_err(|failure| failure.message)?;
        let path = drill.keep(folder, &key).map_err(|e| farshore_engine::ingest::describe(&e))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let digest = drills::file("", &path).blake3;
        self.record(&drill.share, "report", format!("{name}, BLAKE3 {digest}"));
        Ok(path)
    }

    /// Puts a rehearsal on record that somebody else on this host carried out, as its report says.
    pub(super) fn rehearsed(&self, role: &ShareRole, begun: &Begun, report: &mut Value) {
        let number = |key: &str| report[key].as_u64();
        let of_point = |key: &str| report["point"].get(key).cloned().unwrap_or_default();
        let exact = report["exact"] == true;
        let probe = match &report["probe"] {
            Value::Null => "no probe".to_owned(),
            probe if probe["error"].is_null() => "the probe was well".to_owned(),
            probe => format!("the probe FAILED: {}", probe["error"].as_str().unwrap_or_default()),
        };
        let well = exact && (report["probe"].is_null() || report["probe"]["error"].is_null());
        let rto_ms = number("probe_ready_ms").or_else(|| number("view_ready_ms"));
        let text = format!(
            "point {}, batch {}, R {}, {}; {probe}; RTO {} ms",
            of_point("sequence"),
            report["batch"],
            report["root"].as_str().unwrap_or("none"),
            if exact { "whole" } else { "NOT whole" },
            rto_ms.unwrap_or(0)
        );
        self.record(&role.share, "rehearsed", text);
        let point = of_point("sequence").as_u64().map(|sequence| DrillPoint {
            sequence,
            time_unix_ms: of_point("time_unix_ms").as_i64().unwrap_or(0),
            root: of_point("root").as_str().unwrap_or_default().to_owned(),
        });
        let rpo_ms = report["rpo_ms"].as_i64().map(|ms| u64::try_from(ms).unwrap_or(0));
        let achieved = Achieved {
            kind: DrillKind::Rehearsal,
            share: role.share.clone(),
            epoch: role.view().map_or(0, |view| view.record.epoch.0),
            well,
            point,
            rpo_ms,
            // Until the probe said so, or there was a view to look at.
            rto_ms: rto_ms.filter(|_| well),
            files: Vec::new(),
        };
        self.report_drill(begun, achieved, report);
    }

    /// Puts on record who gave a command, before anything of it is done.
    pub(super) fn record_asked(&self, command: &str, share: Option<&str>, by: &Asker) {
        self.record(&self.meant(share), "asked", format!("{command}, by {by}"));
    }

    /// Puts on record that such a command was refused or failed.
    pub(super) fn record_refusal(&self, command: &str, share: Option<&str>, failure: &Failure) {
        self.record(&self.meant(share), "refused", format!("{command}: {}", failure.message));
    }

    /// The share that was named, or the only one there is.
    fn meant(&self, share: Option<&str>) -> String {
        let only = || self.roles.keys().next().filter(|_| self.roles.len() == 1).cloned();
        share.map(str::to_owned).or_else(only).unwrap_or_default()
    }
}

/// The name of a command that is put on record, as it is typed, and its share: about roles, and what lets a site do
/// what it held.
pub(super) fn about_roles(request: &Request) -> Option<(&'static str, Option<String>)> {
    Some(match request {
        Request::Switchover { share, .. } => ("switchover", share.clone()),
        Request::Failover { share, .. } => ("failover", share.clone()),
        Request::OpenAlone { share } => ("open --alone", share.clone()),
        Request::ResolveSplit { share } => ("open --resolve-split", share.clone()),
        Request::RetryHook { share } => ("open --retry-hook", share.clone()),
        Request::FailbackPlan { share } => ("failback plan", share.clone()),
        Request::FailbackDecide { .. } => ("failback decide", None),
        Request::FailbackApply { .. } => ("failback apply", None),
        Request::FailbackAbandon { share } => ("failback abandon", share.clone()),
        Request::Rehearse { share, .. } => ("rehearse", share.clone()),
        Request::BrakeApprove { share, .. } => ("brake approve", share.clone()),
        Request::BrakeReject { share, .. } => ("brake reject", share.clone()),
        _ => return None,
    })
}

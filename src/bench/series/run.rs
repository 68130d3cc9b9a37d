//! One run: started, timed, compared, recorded.
//!
//! Guarantees: a run is recorded whatever becomes of it, with its cause if it failed. Refuses to call a
//! run good whose tree was not compared, unless the options say not to compare.

use std::path::Path;
use std::process::ExitStatus;

use super::Series;
use crate::bench::generate::Facts;
use crate::bench::limits::walk::{Walk, walk};
use crate::bench::limits::{self, Demand, Limit};
use crate::bench::measure::Cost;
use crate::bench::peer::{Job, Peers, Server, Tool};
use crate::bench::report::Record;
use crate::bench::verify::{Comparison, compare_trees};
use crate::bench::workload::Workload;
use crate::bench::{BenchError, Context};

impl Series<'_, '_> {
    /// Measures and compares one run; says whether it was good.
    pub(super) fn run_one(
        &mut self,
        step: &str,
        tool: &Tool,
        run: u32,
        job: &Job,
        demand: &Demand,
    ) -> Result<bool, BenchError> {
        let name = step.replace([' ', '(', ')'], "");
        let log = job.logs.join(format!("{name}.log"));
        let (cost, failure) = match self.measure(tool, job, &log) {
            Ok((cost, status)) if status.success() => (cost, None),
            Ok((cost, status)) => (cost, Some(format!("{status}: {}", first_and_last(&log)))),
            Err(error) => (Cost::default(), Some(chain_of(&error))),
        };
        let (comparison, failure) = match failure {
            None if !self.args.no_verify => compared(&job.source, &job.target),
            failure => (None, failure),
        };
        let claims = Peers::claims(tool);
        let own_report = last_line(&log).and_then(|line| serde_json::from_str(&line).ok());
        let mut record = Record {
            step: step.to_owned(),
            tool: tool.label(),
            run,
            congestion: self.congestion.clone(),
            limit: self.limit(step, tool, &cost, demand),
            cost,
            failure,
            held_against: comparison.as_ref().map_or(0, |found| found.held_against(&claims)),
            comparison,
            own_report: own_report.filter(serde_json::Value::is_object),
        };
        let is_known = demand.walk_one.entries > 0;
        let spoilt = is_known && !same_tree(&walk(&job.source, 1)?, &demand.walk_one);
        if spoilt {
            record.failure = Some("it changed its source".to_owned());
        }
        let good = record.is_good();
        self.say_record(&record)?;
        self.results.records.push(record);
        match spoilt {
            true => Err(BenchError::SourceChanged { tool: tool.label(), run }),
            false => Ok(good),
        }
    }

    fn limit(&self, step: &str, tool: &Tool, cost: &Cost, demand: &Demand) -> Option<Limit> {
        let workload = Workload::of_label(step)?;
        if let Some(line) = self.results.line {
            let sent = cost.line.map(|line| line.there.passed_bytes);
            return limits::on_line(workload, line, demand, sent);
        }
        let trusted = *tool == Tool::FarshoreTrust;
        limits::local(workload, self.results.parts.as_ref()?, demand, trusted)
    }

    fn measure(
        &self,
        tool: &Tool,
        job: &Job,
        log: &Path,
    ) -> Result<(Cost, ExitStatus), BenchError> {
        let server = self.peers.start_job(tool, job, &self.site)?;
        let command = self.peers.command(tool, job, server.as_ref());
        let mut servers = self.peers.server_pids();
        let own = server.as_ref().map(Server::pid);
        servers.extend(own);
        let measured = self.site.measure(&command, &servers, own, &job.target, log)?;
        Peers::finish_job(tool, job)?;
        Ok(measured)
    }

    pub(super) fn say_facts(
        &mut self,
        name: &str,
        what: &str,
        facts: Facts,
    ) -> Result<(), BenchError> {
        writeln!(self.out, "{name} {what}: {facts}").at("print", Path::new("the progress"))
    }

    fn say_record(&mut self, record: &Record) -> Result<(), BenchError> {
        let what = Path::new("the progress");
        let cost = &record.cost;
        let (wall, synced) = (cost.wall_s, cost.wall_s + cost.sync_s);
        let tail = match (&record.failure, &record.comparison) {
            (Some(why), _) => format!("failed: {why}"),
            (None, Some(found)) if found.differences > 0 => format!(
                "{} differences, {} against its claims: {}",
                found.differences,
                record.held_against,
                found.listed[..1].join("")
            ),
            (None, Some(found)) => format!("equal ({} entries)", found.entries),
            (None, None) => "not compared".to_owned(),
        };
        let (step, tool, run) = (&record.step, &record.tool, record.run);
        writeln!(self.out, "  {step} {tool} run {run}: {wall:.3} s, {synced:.3} s synced; {tail}")
            .at("print", what)
    }
}

/// Whether two walks found as much, as far as a walk tells.
fn same_tree(a: &Walk, b: &Walk) -> bool {
    (a.entries, a.files, a.bytes) == (b.entries, b.files, b.bytes)
}

/// What comparing the trees came to, or why it could not be done: the run has failed then.
fn compared(source: &Path, target: &Path) -> (Option<Comparison>, Option<String>) {
    match compare_trees(source, target) {
        Ok(found) => (Some(found), None),
        Err(error) => (None, Some(format!("not compared: {}", chain_of(&error)))),
    }
}

/// The last line of a log that has one.
fn last_line(log: &Path) -> Option<String> {
    let text = String::from_utf8_lossy(&std::fs::read(log).ok()?).into_owned();
    text.lines().rev().find(|line| !line.trim().is_empty()).map(str::to_owned)
}

/// What a failed tool said: the first line is often the cause, the last one the outcome.
fn first_and_last(log: &Path) -> String {
    let text = String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let first = lines.next().unwrap_or("no message").to_owned();
    let both = lines.next_back().map_or(first.clone(), |last| format!("{first} ... {last}"));
    both.chars().take(300).collect()
}

/// An error with its causes.
fn chain_of(error: &BenchError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_whose_trees_cannot_be_compared_has_failed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (found, failure) = compared(folder.path(), &folder.path().join("none"));
        assert!(found.is_none());
        assert!(failure.is_some_and(|why| why.starts_with("not compared: ")));
    }
}

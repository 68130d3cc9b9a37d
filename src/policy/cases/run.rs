//! Asking a policy what the cases ask, and what differed.
//!
//! Guarantees: every case is asked by itself and has a result; a fault is a failure. Says which rules
//! no case reached. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use farshore_core::conflict::{Contents, Decision, Outcome, Piece};
use farshore_core::entry::Timestamp;
use farshore_core::path::escape;
use farshore_policies::{Configured, Resolution};

use super::{CaseFile, ExcludeCase, Expected, ResolveCase, Texts, action_name, outcome_name};
use crate::exit::Failure;

/// How one case ended.
#[derive(Debug, Clone)]
pub struct CaseResult {
    /// The file it stands in.
    pub file: String,
    /// The line.
    pub line: usize,
    /// What was asked.
    pub asked: String,
    /// What differed; none when all is right.
    pub failure: Option<String>,
    /// Fuel it took.
    pub fuel: u64,
}

/// How all cases ended.
#[derive(Debug, Clone, Default)]
pub struct TestReport {
    /// One for each case.
    pub cases: Vec<CaseResult>,
    /// Rules that no case reached.
    pub unreached: Vec<String>,
    /// What the policy wrote, with the line of the case.
    pub log: Vec<String>,
}

impl TestReport {
    /// How many cases failed.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.cases.iter().filter(|case| case.failure.is_some()).count()
    }
}

/// Configures the policy under test.
pub type Configure<'a> =
    dyn Fn(&BTreeMap<String, String>, Timestamp) -> Result<Configured, Failure> + 'a;

/// Asks all cases. `settings` stand above those of the files.
///
/// # Errors
/// [`Failure`] when the policy refuses the settings of a file.
pub fn run(
    files: &[CaseFile],
    settings: &BTreeMap<String, String>,
    configure: &Configure<'_>,
) -> Result<TestReport, Failure> {
    let mut report = TestReport::default();
    let (mut rules, mut reached) = (Vec::new(), BTreeSet::new());
    for file in files {
        let mut with = file.settings.clone();
        with.extend(settings.clone());
        let mut run = Run { file, report: &mut report, reached: &mut reached };
        if !file.excludes.is_empty() || !file.resolves.is_empty() {
            let policy = configure(&with, file.at).map_err(|mut failure| {
                failure.message = format!("{}: {}", file.name, failure.message);
                failure
            })?;
            for rule in &policy.manifest().rules {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
            file.excludes.iter().for_each(|case| run.exclude(&policy, case));
            file.resolves.iter().for_each(|case| run.resolve(&policy, case));
        }
        for case in &file.refuses {
            let failure = match configure(&case.settings, file.at) {
                Ok(_) => Some("the settings were taken".to_owned()),
                Err(failure) => case
                    .error
                    .as_ref()
                    .filter(|words| !failure.message.contains(*words))
                    .map(|words| format!("'{words}' is not in: {}", failure.message)),
            };
            run.push(case.line, "refuse".into(), failure, 0);
        }
    }
    rules.retain(|rule| !reached.contains(rule));
    report.unreached = rules;
    Ok(report)
}

struct Run<'a> {
    file: &'a CaseFile,
    report: &'a mut TestReport,
    reached: &'a mut BTreeSet<String>,
}

impl Run<'_> {
    fn push(&mut self, line: usize, asked: String, failure: Option<String>, fuel: u64) {
        let file = self.file.name.clone();
        self.report.cases.push(CaseResult { file, line, asked, failure, fuel });
    }

    fn exclude(&mut self, policy: &Configured, case: &ExcludeCase) {
        let asked = format!("exclude {}", case.facts.path);
        if !policy.has_exclude() {
            let failure = "the policy does not export exclusion".to_owned();
            return self.push(case.line, asked, Some(failure), 0);
        }
        let before = policy.counters().fuel;
        let verdict = policy.exclude(&[case.facts.candidate()]).pop();
        let fuel = policy.counters().fuel - before;
        self.keep_log(policy, case.line);
        let Some(verdict) = verdict.filter(|verdict| !verdict.is_fault) else {
            return self.push(case.line, asked, Some(fault_text(policy)), fuel);
        };
        let rule = self.reach(policy, verdict.rule);
        let expected = shown(action_name(case.action), case.rule.as_deref());
        let is_right = verdict.action == case.action
            && case.rule.as_ref().is_none_or(|wanted| rule.as_ref() == Some(wanted));
        let failure = match is_right {
            true => too_much(fuel, case.max_fuel),
            false => {
                let got = shown(action_name(verdict.action), rule.as_deref());
                Some(format!("expected {expected}, got {got}"))
            }
        };
        self.push(case.line, asked, failure, fuel);
    }

    fn resolve(&mut self, policy: &Configured, case: &ResolveCase) {
        let asked = format!("resolve {}", case.conflict.path);
        if !policy.has_resolve() {
            let failure = "the policy does not export resolution".to_owned();
            return self.push(case.line, asked, Some(failure), 0);
        }
        let before = policy.counters().fuel;
        let contents: Arc<dyn Contents> = Arc::new(case.texts.clone());
        let is_free = |path: &_| !case.taken.contains(path);
        let answer = policy.resolve(&case.conflict, &contents, &is_free);
        let fuel = policy.counters().fuel - before;
        self.keep_log(policy, case.line);
        let decision = match answer {
            Resolution::Decided(decision) => decision,
            Resolution::Fault(why) => {
                drop(policy.take_faults());
                return self.push(case.line, asked, Some(why), fuel);
            }
        };
        let rule = self.reach(policy, decision.rule);
        let failure = difference(&case.expect, &decision, rule.as_deref(), &case.texts)
            .or_else(|| too_much(fuel, case.expect.max_fuel));
        self.push(case.line, asked, failure, fuel);
    }

    fn reach(&mut self, policy: &Configured, rule: Option<u32>) -> Option<String> {
        let index = usize::try_from(rule?).ok()?;
        let rule = policy.manifest().rules.get(index)?.clone();
        self.reached.insert(rule.clone());
        Some(rule)
    }

    fn keep_log(&mut self, policy: &Configured, line: usize) {
        let (lines, _) = policy.take_log();
        let file = &self.file.name;
        let lines = lines.into_iter().map(|l| format!("{file}:{line}: {}", l.text));
        self.report.log.extend(lines);
    }
}

/// Why the last verdict was none.
fn fault_text(policy: &Configured) -> String {
    let first = policy.take_faults().first.into_iter().next();
    first.map_or_else(|| "no answer".to_owned(), |fault| fault.text)
}

fn too_much(fuel: u64, max: Option<u64>) -> Option<String> {
    let max = max.filter(|max| fuel > *max)?;
    Some(format!("took {fuel} fuel, more than max_fuel {max}"))
}

fn shown(what: &str, rule: Option<&str>) -> String {
    match rule {
        Some(rule) => format!("{what} by rule '{rule}'"),
        None => what.to_owned(),
    }
}

/// The content of a merged file.
fn merged(pieces: &[Piece], texts: &Texts) -> Vec<u8> {
    let mut content = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Literal(bytes) => content.extend_from_slice(bytes),
            // The host has checked that the spans lie within their versions.
            Piece::Copy { side, offset, length } => {
                let from = usize::try_from(*offset).unwrap_or(usize::MAX);
                let length = usize::try_from(*length).unwrap_or(usize::MAX);
                let span = texts.of(*side).and_then(|t| t.get(from..from.saturating_add(length)));
                content.extend_from_slice(span.unwrap_or_default());
            }
        }
    }
    content
}

fn text(bytes: &[u8]) -> String {
    let mut out = String::new();
    escape(bytes, &mut out).unwrap_or(());
    out
}

fn difference(
    expect: &Expected,
    decision: &Decision,
    rule: Option<&str>,
    texts: &Texts,
) -> Option<String> {
    let got = outcome_name(&decision.outcome);
    let reason = &decision.reason;
    if got != expect.outcome || expect.rule.as_deref().is_some_and(|wanted| Some(wanted) != rule) {
        let expected = shown(&expect.outcome, expect.rule.as_deref());
        let why = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
        return Some(format!("expected {expected}, got {}{why}", shown(got, rule)));
    }
    if expect.reason.as_ref().is_some_and(|words| !reason.contains(words)) {
        let words = expect.reason.as_deref().unwrap_or_default();
        return Some(format!("'{words}' is not in its reason: {reason}"));
    }
    match &decision.outcome {
        Outcome::Merge { attributes, pieces } => {
            let content = merged(pieces, texts);
            if let Some(wanted) = expect.content.as_ref().filter(|wanted| **wanted != content) {
                return Some(format!(
                    "expected the content '{}', got '{}'",
                    text(wanted),
                    text(&content)
                ));
            }
            let wanted = expect.attributes.filter(|site| site != attributes)?;
            Some(format!("expected the attributes of {wanted}, got those of {attributes}"))
        }
        Outcome::KeepBoth { renamed, path } => {
            if let Some(wanted) = expect.renamed.filter(|site| site != renamed) {
                return Some(format!("expected {wanted} to be renamed, got {renamed}"));
            }
            let wanted = expect.new_path.as_ref().filter(|wanted| *wanted != path)?;
            Some(format!("expected the new name '{wanted}', got '{path}'"))
        }
        _ => None,
    }
}

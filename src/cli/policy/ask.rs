//! `farshore policy run` and `explain`: what becomes of given paths, and by which rule.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::{ArgMatches, Args};
use farshore_core::entry::{EntryKind, Timestamp};
use farshore_core::path::{RelPath, escape_text};
use farshore_core::policy::{Action, Policy, Verdict};
use farshore_core::size::parse_size;
use farshore_engine::io::uring::IoMode;
use farshore_engine::io::{Object, Storage};
use farshore_engine::scan::candidate;
use farshore_engine::source::system_wall_clock;
use farshore_policies::Policies;
use serde_json::{Value, json};

use super::options::PolicyOptions;
use super::{OneArgs, Opened, StateArgs, rules, show};
use crate::exit::{Exit, Failure};
use crate::policy::cases::action_name;
use crate::policy::facts::{Facts, parse_kind, parse_mode, parse_path, parse_time};
use crate::replicate::open_root;

/// Paths, and where their facts come from.
#[derive(Debug, Args)]
struct AskedArgs {
    /// Paths below the share's root
    #[arg(value_name = "PATH", required = true)]
    path: Vec<OsString>,
    /// Take the facts from this tree
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kind", "size", "mtime", "mode", "uid", "gid"])]
    root: Option<PathBuf>,
    /// file, directory, symlink, fifo, socket, char-device or block-device
    #[arg(long, value_name = "KIND", value_parser = parse_kind)]
    kind: Option<EntryKind>,
    /// Its length, e.g. 5G
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    size: Option<u64>,
    /// Its modification time, e.g. 2026-11-26T10:00:00Z [default: 1970]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    mtime: Option<Timestamp>,
    /// Its permission bits, e.g. 644
    #[arg(long, value_name = "OCTAL", value_parser = parse_mode)]
    mode: Option<u32>,
    /// Its owner
    #[arg(long, value_name = "N")]
    uid: Option<u32>,
    /// Its group
    #[arg(long, value_name = "N")]
    gid: Option<u32>,
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    one: OneArgs,
    #[command(flatten)]
    asked: AskedArgs,
    /// One JSON object on standard output (docs/output.md)
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    asked: AskedArgs,
    #[command(flatten)]
    rules: rules::RuleArgs,
    #[command(flatten)]
    policies: PolicyOptions,
    /// The time of the cut, which ages are counted from [default: now]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    at: Option<Timestamp>,
    /// One JSON object on standard output (docs/output.md)
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: StateArgs,
}

impl AskedArgs {
    fn facts(&self) -> Result<Vec<Facts>, Failure> {
        self.path.iter().map(|path| self.one(path)).collect()
    }

    fn one(&self, path: &OsStr) -> Result<Facts, Failure> {
        let usage = |why: String| Failure::usage(why, "as in: home/user/in/a.pay");
        let trimmed = path.as_bytes().strip_suffix(b"/").unwrap_or(path.as_bytes());
        let path = parse_path(trimmed).map_err(usage)?;
        match &self.root {
            Some(root) => facts_below(root, path),
            None => {
                let mut facts = Facts::of(path, self.kind.unwrap_or(EntryKind::File));
                facts.size = self.size.unwrap_or(facts.size);
                facts.mtime = self.mtime.unwrap_or(facts.mtime);
                facts.mode = self.mode.unwrap_or(facts.mode);
                facts.uid = self.uid.unwrap_or(facts.uid);
                facts.gid = self.gid.unwrap_or(facts.gid);
                Ok(facts)
            }
        }
    }
}

/// What stands at `path` below `root`, by handles as a run would look.
fn facts_below(root: &Path, path: RelPath) -> Result<Facts, Failure> {
    let storage = open_root("root", root, IoMode::Posix, None)?;
    let failed = |step: &str, e: std::io::Error| Failure {
        exit: Exit::Refused,
        message: format!("root {}: {path}: {step}: {e}", root.display()),
        hint: None,
    };
    let parent = path.parent_bytes().unwrap_or_default();
    let directory = storage
        .open_directory(storage.root(), parent)
        .map_err(|e| failed("opening its directory", e))?;
    let stat = storage
        .stat(Object::Named(&directory, path.name()))
        .map_err(|e| failed("looking at it", e))?;
    Ok(Facts::seen(&candidate(&path, &stat)))
}

pub(super) fn run(args: &RunArgs) -> Result<Exit, Failure> {
    let opened: Opened = args.one.open()?;
    let policy = opened.configure()?;
    if !policy.has_exclude() {
        let message = "it decides conflicts alone, and has nothing to say about a path by itself";
        let hint = "ask it conflicts: 'farshore policy test' with [[resolve]] cases";
        return Err(opened.chosen.refused(message).hint(hint));
    }
    let facts = args.asked.facts()?;
    let candidates: Vec<_> = facts.iter().map(Facts::candidate).collect();
    let verdicts = policy.exclude(&candidates);
    let faults = policy.take_faults();
    let rules = &policy.manifest().rules;
    let rule = |verdict: &Verdict| {
        verdict.rule.and_then(|rule| rules.get(usize::try_from(rule).ok()?)).cloned()
    };
    let (mut out, mut lines) = (String::new(), Vec::new());
    for (facts, verdict) in facts.iter().zip(&verdicts) {
        // The last stands for all that was not asked any more.
        let fault = faults.first.iter().find(|fault| fault.path == facts.path);
        let fault = fault.or(faults.first.last());
        let fault = fault.map(|fault| fault.text.clone()).filter(|_| verdict.is_fault);
        lines.push(json!({
            "path": facts.path.to_string(),
            "action": action_name(verdict.action),
            "rule": rule(verdict),
            "fault": fault,
        }));
        let by = rule(verdict).map_or_else(|| "by no rule".into(), |rule| format!("by '{rule}'"));
        let by = fault.unwrap_or(by);
        let action = action_name(verdict.action);
        writeln!(out, "{}: {action}, {}", facts.path, escape_text(&by)).unwrap_or(());
    }
    show_log(&policy.take_log().0);
    show(args.json, &json!({"verdicts": lines, "faults": faults.count}), &out);
    Ok(if faults.count == 0 { Exit::Done } else { Exit::Partial })
}

/// What a policy wrote, for its author.
fn show_log(lines: &[farshore_policies::host::LogLine]) {
    use std::io::Write as _;
    for line in lines {
        drop(writeln!(std::io::stderr(), "log: {}", line.text));
    }
}

/// Why a path fares as it does.
struct Explained {
    path: RelPath,
    /// The path or the directory above it that is decided about.
    decided_at: RelPath,
    verdict: Verdict,
    rule: Option<String>,
    fault: Option<String>,
}

pub(super) fn explain(args: &ExplainArgs, matches: &ArgMatches) -> Result<Exit, Failure> {
    let at = args.at.unwrap_or_else(system_wall_clock);
    let rules = args.rules.policy(matches, at)?;
    let policies = args.policies.with(rules, matches, &args.state, at)?;
    let names = policies.rules();
    let mut explained = Vec::new();
    for facts in args.asked.facts()? {
        explained.push(explain_one(facts, &policies, &names, args.asked.root.as_deref())?);
    }
    let has_faults = explained.iter().any(|e| e.fault.is_some());
    let own_rules = policies.rule_set().iter().count();
    let by = |e: &Explained| match e.verdict.rule {
        None => "default",
        Some(rule) if (rule as usize) < own_rules => "rule",
        Some(_) => "policy",
    };
    let lines: Vec<Value> = explained
        .iter()
        .map(|e| {
            json!({
                "path": e.path.to_string(),
                "action": action_name(e.verdict.action),
                "decided_at": e.decided_at.to_string(),
                "by": by(e),
                "rule": e.rule,
                "fault": e.fault,
            })
        })
        .collect();
    let text: String = explained.iter().map(|e| explained_text(e, by(e))).collect();
    show(args.json, &json!({"paths": lines}), &text);
    Ok(if has_faults { Exit::Partial } else { Exit::Done })
}

fn explained_text(e: &Explained, by: &str) -> String {
    let fate = match e.verdict.action {
        Action::Replicate => "travels",
        Action::Exclude => "stays here",
        Action::Defer => "waits for a later run",
    };
    let above = match e.decided_at == e.path {
        true => String::new(),
        false => format!("all of '{}' does: ", e.decided_at),
    };
    let why = match (&e.fault, &e.rule) {
        (Some(fault), _) => fault.clone(),
        (None, Some(rule)) => format!("{by} '{rule}'"),
        (None, None) => "no rule and no policy says otherwise".into(),
    };
    format!("{}: {fate}: {above}{}\n", e.path, escape_text(&why))
}

/// Asks about the directories above, from the top, and then about the path.
fn explain_one(
    facts: Facts,
    policies: &Policies,
    names: &[String],
    root: Option<&Path>,
) -> Result<Explained, Failure> {
    let mut asked = Vec::new();
    let mut above = facts.path.split().map(|(parent, _)| parent);
    while let Some(path) = above.filter(|path| !path.is_root()) {
        above = path.split().map(|(parent, _)| parent);
        asked.push(match root {
            Some(root) => facts_below(root, path)?,
            None => Facts::of(path, EntryKind::Directory),
        });
    }
    asked.reverse();
    asked.push(facts.clone());
    let mut decided = (facts.path.clone(), Verdict::REPLICATE, None);
    for facts in &asked {
        let verdict = policies.exclude(&[facts.candidate()]).pop().unwrap_or(Verdict::REPLICATE);
        let fault = policies.take_faults().first.into_iter().next().map(|fault| fault.text);
        decided = (facts.path.clone(), verdict, fault);
        if verdict.action != Action::Replicate {
            break;
        }
    }
    let (decided_at, verdict, fault) = decided;
    let rule = verdict.rule.and_then(|rule| names.get(usize::try_from(rule).ok()?)).cloned();
    Ok(Explained { path: facts.path, decided_at, verdict, rule, fault })
}

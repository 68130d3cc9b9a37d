//! `farshore policy replay`: what a policy would change.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{ArgMatches, Args};
use farshore_core::path::escape_text;
use farshore_core::policy::Policy;
use farshore_core::size::HumanBytes;
use farshore_engine::catalog::CatalogRole;
use farshore_engine::io::uring::IoMode;
use farshore_policies::{Configured, Policies};
use serde_json::{Value, json};

use super::{OneArgs, Opened, rules, show};
use crate::exit::{Exit, Failure};
use crate::policy::library::Library;
use crate::policy::replay::{self, Amount, Both, Change, Fate, Replay};
use crate::replicate::{
    Destination, folder_pair, open_catalog, open_root, remote_pair, worker_threads,
};
use crate::report::entries;
use crate::state::State;

/// Changes shown in the text; JSON has more.
const SHOWN: usize = 20;

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("where").required(true).args(["root", "pair"]))]
pub(super) struct ReplayArgs {
    #[command(flatten)]
    one: OneArgs,
    /// The policy to compare with: FILE, NAME or none [default: the installed one of the same name, else
    /// none]
    #[arg(long, value_name = "FILE|NAME|none")]
    against: Option<String>,
    /// Walk this tree
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Go through what the last run of this pair left at the standby; no tree is read
    #[arg(long, value_names = ["SRC", "DST"], num_args = 2)]
    pair: Option<Vec<PathBuf>>,
    #[command(flatten)]
    rules: rules::RuleArgs,
    /// Show every path that changes
    #[arg(short, long)]
    verbose: bool,
    /// One JSON object on standard output (docs/output.md)
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &ReplayArgs, matches: &ArgMatches) -> Result<Exit, Failure> {
    let opened = args.one.open()?;
    let configured = opened.configure()?;
    let (against, before) = against(args, &opened, &configured)?;
    let rules = || args.rules.policy(matches, opened.at);
    let together = |rules, policy: Option<Configured>| {
        Policies::new(rules, policy.into_iter().collect())
            .map_err(|e| Failure::new(Exit::Usage, &e))
    };
    let before = together(rules()?, before)?;
    let after = together(rules()?, Some(configured))?;
    let both = Both { before: &before, after: &after };
    let found = match (&args.root, &args.pair) {
        (Some(root), _) => {
            let storage = open_root("root", root, IoMode::Posix, None)?;
            replay::tree(both, &storage, worker_threads())
        }
        (None, Some(pair)) => recorded(args, pair, both)?,
        (None, None) => Replay::default(),
    };
    let faults = [before.take_faults(), after.take_faults()];
    let names = after.rules();
    let object = as_json(&found, &names, &against, &faults);
    show(args.json, &object, &as_text(&found, &names, &against, args, &faults));
    let is_whole = found.unknown.is_empty() && faults.iter().all(|f| f.count == 0);
    Ok(if is_whole { Exit::Done } else { Exit::Partial })
}

/// The policy in force, and what it is called.
fn against(
    args: &ReplayArgs,
    opened: &Opened,
    configured: &Configured,
) -> Result<(String, Option<Configured>), Failure> {
    let library: &Library = &opened.library;
    let name = configured.identity().name;
    let reference = match args.against.as_deref() {
        Some("none") => return Ok(("none".into(), None)),
        Some(reference) => reference.to_owned(),
        None => {
            let is_installed =
                library.store().is_ok_and(|store| name.parse().is_ok_and(|name| store.has(&name)));
            if !is_installed {
                return Ok(("none".into(), None));
            }
            name
        }
    };
    let chosen = library.find(&reference)?;
    let component = library.load(&chosen)?;
    Ok((reference, Some(library.configure(&chosen, &component, opened.at)?)))
}

/// Goes through the catalog of a pair.
fn recorded(args: &ReplayArgs, pair: &[PathBuf], both: Both<'_>) -> Result<Replay, Failure> {
    let [source, target] = pair else {
        return Err(Failure::usage("option --pair: it has two folders", "give SRC and DST"));
    };
    let state = State::existing(args.one.state.state.as_deref())
        .map_err(|e| Failure::new(Exit::Refused, &e))?;
    // As a run resolves them; what is not there any more is taken as it is written.
    let resolved = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
    let source = resolved(source);
    let destination = target.to_string_lossy().parse::<Destination>();
    let (address, share, folder);
    let parts: Vec<&[u8]> = match destination {
        Ok(Destination::Remote { address: a, share: s }) => {
            (address, share) = (a, s);
            remote_pair(&source, &address, &share).to_vec()
        }
        _ => {
            folder = resolved(target);
            folder_pair(&source, &folder).to_vec()
        }
    };
    if !state.catalog_folder(CatalogRole::Source, &parts).join("catalog.redb").is_file() {
        return Err(Failure {
            exit: Exit::Refused,
            message: format!(
                "pair {} and {}: no run of it is recorded in {}",
                source.display(),
                target.display(),
                state.folder().display()
            ),
            hint: Some(
                "give SRC and DST as a run had them, and its --state; the files 'pair' there name \
                 those there are"
                    .into(),
            ),
        });
    }
    let (catalog, _) = open_catalog(&state, CatalogRole::Source, &parts)?;
    let failed = |e| Failure::new(Exit::Refused, &e);
    let reader = catalog.reader().map_err(failed)?;
    replay::catalog(both, &reader).map_err(failed)
}

/// What each change is called.
const CHANGES: [(&str, &str, Fate, Fate); 6] = [
    ("newly_excluded", "newly left out", Fate::Travels, Fate::Stays),
    ("newly_included", "newly taken in", Fate::Stays, Fate::Travels),
    ("newly_deferred", "newly deferred", Fate::Travels, Fate::Waits),
    ("no_longer_deferred", "no longer deferred", Fate::Waits, Fate::Travels),
    ("deferred_to_excluded", "deferred before, left out now", Fate::Waits, Fate::Stays),
    ("excluded_to_deferred", "left out before, deferred now", Fate::Stays, Fate::Waits),
];

fn name_of(change: &Change) -> (&'static str, &'static str) {
    let found = CHANGES.iter().find(|c| (c.2, c.3) == (change.before, change.after));
    found.map_or(("same", "same"), |c| (c.0, c.1))
}

fn rule_text(names: &[String], rule: Option<u32>) -> Option<&str> {
    names.get(usize::try_from(rule?).ok()?).map(String::as_str)
}

fn as_json(
    found: &Replay,
    names: &[String],
    against: &str,
    faults: &[farshore_core::policy::Faults; 2],
) -> Value {
    let amount = |a: Amount| json!({"entries": a.entries, "bytes": a.bytes});
    let mut object = json!({
        "against": against,
        "entries": found.seen.entries,
        "bytes": found.seen.bytes,
        "changed": found.changed(),
        "by_rule": found.by_rule.iter()
            .map(|(rule, a)| json!({
                "rule": rule_text(names, Some(*rule)),
                "entries": a.entries,
                "bytes": a.bytes,
            }))
            .collect::<Vec<_>>(),
        "changes": found.changes.iter()
            .map(|c| json!({
                "path": c.path.to_string(),
                "change": name_of(c).0,
                "rule": rule_text(names, c.rule),
                "below": c.below.as_ref().map(ToString::to_string),
            }))
            .collect::<Vec<_>>(),
        "unknown": found.unknown.iter()
            .map(|(path, text)| json!({"path": path.to_string(), "text": text}))
            .collect::<Vec<_>>(),
        "faults": faults.iter().map(|f| f.count).sum::<u64>(),
    });
    for (name, _, before, after) in CHANGES {
        object[name] = amount(found.amount(before, after));
    }
    object
}

fn as_text(
    found: &Replay,
    names: &[String],
    against: &str,
    args: &ReplayArgs,
    faults: &[farshore_core::policy::Faults; 2],
) -> String {
    let mut out = String::new();
    write_text(&mut out, found, names, against, args, faults).unwrap_or(());
    out
}

fn write_text(
    out: &mut String,
    found: &Replay,
    names: &[String],
    against: &str,
    args: &ReplayArgs,
    faults: &[farshore_core::policy::Faults; 2],
) -> std::fmt::Result {
    let amount = |a: Amount| format!("{}, {}", entries(a.entries), HumanBytes(a.bytes));
    let shown = if args.verbose { usize::MAX } else { SHOWN };
    for change in found.changes.iter().take(shown) {
        let rule = rule_text(names, change.rule).map_or_else(String::new, |r| format!(": {r}"));
        let below = change.below.as_ref().filter(|below| **below != change.path);
        let below = below.map_or_else(String::new, |below| format!(", all of '{below}' is"));
        writeln!(out, "{}: {}{}{}", name_of(change).1, change.path, below, escape_text(&rule))?;
    }
    if found.changes.len() > shown {
        writeln!(out, "... and {} more (-v shows them)", found.changes.len() - shown)?;
    }
    for (path, text) in found.unknown.iter().take(shown) {
        writeln!(out, "problem: {path}: {}", escape_text(text))?;
    }
    for fault in faults.iter().flat_map(|f| &f.first).take(shown) {
        writeln!(out, "fault: {}: {}", fault.path, escape_text(&fault.text))?;
    }
    let with = match against {
        "none" => "with no policy".to_owned(),
        name => format!("with policy {}", escape_text(name)),
    };
    let (seen, changed) = (amount(found.seen), found.changed());
    writeln!(out, "{seen} looked at; {changed} would fare otherwise than {with}")?;
    for (_, name, before, after) in CHANGES {
        let a = found.amount(before, after);
        if a.entries > 0 {
            writeln!(out, "  {name}: {}", amount(a))?;
        }
    }
    let gone = found.amount(Fate::Travels, Fate::Stays);
    if gone.entries > 0 {
        let what = if args.pair.is_some() { "" } else { " of which the standby may have some" };
        writeln!(
            out,
            "  what is newly left out{what} is detached: it stays at the standby as it is, and is not \
             deleted"
        )?;
    }
    for (rule, a) in &found.by_rule {
        let rule = rule_text(names, Some(*rule)).unwrap_or_default();
        writeln!(out, "rule {}: {}", escape_text(rule), amount(*a))?;
    }
    Ok(())
}

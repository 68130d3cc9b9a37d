//! `farshore policy install`, `list` and `remove`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use farshore_core::path::escape_text;
use farshore_core::policy::PolicyId;
use farshore_policies::OnFault;
use serde_json::{Value, json};

use super::check::{findings, findings_text};
use super::{Opened, StateArgs, cases_of, print, settings_of, show};
use crate::exit::{Exit, Failure};
use crate::policy::cases::CaseFile;
use crate::policy::embedded;
use crate::policy::library::{
    Chosen, Library, on_fault_name, parse_limits, parse_on_fault, parse_pair,
};
use crate::policy::signers::Trust;
use crate::policy::store::{
    PolicyName, PolicyRecord, PolicyStore, StoreError, StoredPolicy, read_text,
};
use crate::report::counted;
use crate::state::State;

#[derive(Debug, Args)]
pub(super) struct InstallArgs {
    /// The component, or the name of a policy that comes with Farshore, to give it settings
    #[arg(value_name = "FILE|NAME")]
    policy: String,
    /// The name it gets at this site [default: what it calls itself]
    #[arg(long, value_name = "NAME")]
    name: Option<PolicyName>,
    /// A setting; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    setting: Vec<(String, String)>,
    /// Settings of a TOML file, one a line: key = "value"
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// A limit other than the usual, e.g. memory-bytes=128M ('farshore policy inspect --json' names them)
    #[arg(long, value_name = "LIMIT=VALUE", value_parser = parse_pair)]
    limit: Vec<(String, String)>,
    /// When it fails at a path: replicate it, or hold the run
    #[arg(long, value_name = "WHAT", default_value = "replicate", value_parser = parse_on_fault)]
    on_fault: OnFault,
    /// Its signature [default: FILE.minisig, if it is there]
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
    /// Install it without a signature although this site has a list of signers
    #[arg(long)]
    allow_unsigned: bool,
    /// Put it in the place of one of the same name
    #[arg(long)]
    replace: bool,
    /// Files of cases it must pass [default: tests/cases.toml beside FILE, if it is there]
    #[arg(long, value_name = "FILE")]
    cases: Vec<PathBuf>,
    /// One JSON object on standard output (docs/output.md)
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: StateArgs,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// One JSON object on standard output (docs/output.md)
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: StateArgs,
}

#[derive(Debug, Args)]
pub(super) struct RemoveArgs {
    /// Its name
    #[arg(value_name = "NAME")]
    name: PolicyName,
    /// One JSON object on standard output (docs/output.md)
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: StateArgs,
}

impl InstallArgs {
    /// The policy as it is to be installed, with what was given.
    fn chosen(
        &self,
        library: &Library,
        limits: &BTreeMap<String, String>,
    ) -> Result<Chosen, Failure> {
        let mut chosen = library.find(&self.policy)?;
        chosen.settings = match &self.settings {
            Some(file) => settings_file(file)?,
            None => BTreeMap::new(),
        };
        chosen.settings.extend(settings_of(&self.setting)?);
        chosen.limits = parse_limits(limits)
            .map_err(|e| Failure::usage(e, "'farshore policy inspect --json' names the limits"))?;
        chosen.on_fault = self.on_fault;
        chosen.unsigned = false;
        if let Some(file) = &self.signature {
            let text = read_text(file).map_err(|e| e.failure())?;
            let missing = || {
                let message = format!("signature {}: there is no such file", file.display());
                Failure::usage(message, "'farshore policy sign' makes one")
            };
            chosen.signature = Some(text.ok_or_else(missing)?);
        }
        if let Some(name) = &self.name {
            chosen.name = Some(name.clone());
        }
        Ok(chosen)
    }
}

/// Settings out of a file.
fn settings_file(path: &Path) -> Result<BTreeMap<String, String>, Failure> {
    let name = path.display().to_string();
    let text = read_text(path).map_err(|e| Failure::new(Exit::Usage, &e))?.ok_or_else(|| {
        Failure::usage(
            format!("settings {name}: there is no such file"),
            "one line each: key = \"value\"",
        )
    })?;
    // A file of cases has a table of settings, too; this one has nothing else.
    let text = format!("[settings]\n{text}");
    let parsed = CaseFile::parse(&name, &text).map_err(|mut e| {
        e.line = e.line.saturating_sub(1).max(1);
        Failure::new(Exit::Usage, &e)
    })?;
    if !parsed.is_empty() {
        let message = format!("settings {name}: it has more than settings");
        return Err(Failure::usage(message, "one line each: key = \"value\""));
    }
    Ok(parsed.settings)
}

/// Refuses a name that would mean two things.
fn check_shadow(name: &PolicyName, id: PolicyId) -> Result<(), Failure> {
    let Some(embedded) = embedded::find(name.as_str()) else { return Ok(()) };
    if PolicyId::of(embedded) == id {
        return Ok(());
    }
    Err(Failure {
        exit: Exit::Refused,
        message: format!("policy {name}: another policy of that name comes with Farshore"),
        hint: Some("give it a name of its own: --name".into()),
    })
}

pub(super) fn install(args: &InstallArgs) -> Result<Exit, Failure> {
    let state =
        State::open(args.state.state.as_deref()).map_err(|e| Failure::new(Exit::Refused, &e))?;
    let library = Library::open(&state)?;
    let limits = settings_of(&args.limit)?;
    let mut chosen = args.chosen(&library, &limits)?;
    let mut trust = library.trust(&chosen);
    if trust.is_err() && args.allow_unsigned {
        // Asked again: a signature that is wrong, or a list that is none, stays refused.
        chosen.unsigned = true;
        trust = library.trust(&chosen);
    }
    let trust = trust?;
    let component = library.load(&chosen)?;
    let at = farshore_engine::source::system_wall_clock();
    let cases = cases_of(&chosen, &args.cases)?;
    let opened = Opened { library, chosen, component, at };
    let configured = opened.configure()?;
    let found = findings(&opened, &cases)?;
    let Opened { library, chosen, .. } = opened;
    if found.iter().any(|finding| !finding.passed) {
        print(&if args.json { String::new() } else { findings_text(&found) });
        let message = "it is not installed: the check failed";
        let mut failure = chosen.refused(message).hint("'farshore policy check' shows it again");
        failure.exit = Exit::Differs;
        return Err(failure);
    }
    let name: PolicyName = configured.identity().name.parse().map_err(|e| chosen.refused(e))?;
    check_shadow(&name, chosen.id())?;
    let record = PolicyRecord {
        id: chosen.id().to_string(),
        on_fault: on_fault_name(chosen.on_fault).to_owned(),
        unsigned: chosen.unsigned,
        settings: chosen.settings.clone(),
        limits,
    };
    let component = chosen.component.into_owned();
    let stored =
        StoredPolicy { name: name.clone(), component, record, signature: chosen.signature };
    library.store()?.install(&stored, args.replace).map_err(|e| e.failure())?;
    let manifest = configured.manifest();
    let object = json!({
        "name": name.to_string(),
        "policy": manifest.name,
        "version": manifest.version,
        "id": stored.record.id,
        "settings": stored.record.settings,
        "rules": manifest.rules,
        "unsigned": stored.record.unsigned,
    });
    let signed = match trust {
        Trust::Signed(by) => format!(", signed by {by}"),
        Trust::Exception => ", not signed: an exception".into(),
        Trust::Anyone | Trust::Embedded => String::new(),
    };
    let text = format!(
        "installed {name} ({} {}, {}{signed})\nid {}\nA run uses it with --policy {name}; what it would \
         change: farshore policy replay {name} --against none --root SRC\n",
        manifest.name,
        manifest.version,
        counted(manifest.rules.len() as u64, "rule", "rules"),
        stored.record.id
    );
    show(args.json, &object, &escaped_lines(&text));
    Ok(Exit::Done)
}

/// What a policy says of itself moves no terminal.
fn escaped_lines(text: &str) -> String {
    text.lines().map(|line| escape_text(line) + "\n").collect()
}

/// A line of the list.
struct Listed {
    name: String,
    origin: &'static str,
    id: Option<String>,
    record: Option<PolicyRecord>,
    has_signature: bool,
    problem: Option<String>,
}

pub(super) fn list(args: &ListArgs) -> Result<Exit, Failure> {
    let library = Library::of(args.state.state.as_deref())?;
    let store = library.store().ok();
    let names = match store {
        Some(store) => store.names().map_err(|e| e.failure())?,
        None => Vec::new(),
    };
    let mut all = Vec::new();
    for name in &names {
        let Some(store) = store else { continue };
        let stored = store.get(name);
        // As a run would take it, whatever stands in the way: edited limits or settings, no signature.
        let at = farshore_engine::source::system_wall_clock();
        let runs = library.find(name.as_str()).and_then(|chosen| library.in_force(&chosen, at));
        all.push(Listed {
            name: name.to_string(),
            origin: "installed",
            id: stored.as_ref().ok().map(|stored| stored.record.id.clone()),
            has_signature: stored.as_ref().is_ok_and(|stored| stored.signature.is_some()),
            problem: runs.err().map(|failure| failure.message),
            record: stored.ok().map(|stored| stored.record),
        });
    }
    for (name, component) in embedded::EMBEDDED {
        if names.iter().any(|installed| installed.as_str() == name) {
            continue;
        }
        all.push(Listed {
            name: name.to_owned(),
            origin: "comes with Farshore",
            id: Some(PolicyId::of(component).to_string()),
            record: None,
            has_signature: false,
            problem: None,
        });
    }
    let lines: Vec<Value> = all
        .iter()
        .map(|p| {
            json!({
                "name": p.name,
                "origin": p.origin,
                "id": p.id,
                "settings": p.record.as_ref().map(|r| &r.settings),
                "limits": p.record.as_ref().map(|r| &r.limits),
                "on_fault": p.record.as_ref().map(|r| &r.on_fault),
                "has_signature": p.has_signature,
                "unsigned_exception": p.record.as_ref().is_some_and(|r| r.unsigned),
                "problem": p.problem,
            })
        })
        .collect();
    let text: String = all.iter().map(list_line).collect();
    show(args.json, &json!({"policies": lines}), &text);
    Ok(if all.iter().any(|p| p.problem.is_some()) { Exit::Partial } else { Exit::Done })
}

fn list_line(p: &Listed) -> String {
    let mut out = String::new();
    let id = p.id.as_deref().and_then(|id| id.get(..16)).unwrap_or("-");
    write!(out, "{:<24} {id:<16} {}", p.name, p.origin).unwrap_or(());
    for (key, value) in p.record.iter().flat_map(|r| r.settings.iter().chain(&r.limits)) {
        write!(out, ", {}={}", escape_text(key), escape_text(value)).unwrap_or(());
    }
    if p.record.as_ref().is_some_and(|r| r.on_fault == "hold") {
        out.push_str(", a fault holds the run");
    }
    if p.record.as_ref().is_some_and(|r| r.unsigned) {
        out.push_str(", not signed: an exception");
    }
    if let Some(problem) = &p.problem {
        write!(out, ": cannot run: {}", escape_text(problem)).unwrap_or(());
    }
    out.push('\n');
    out
}

pub(super) fn remove(args: &RemoveArgs) -> Result<Exit, Failure> {
    let state = State::existing(args.state.state.as_deref())
        .map_err(|e| Failure::new(Exit::Refused, &e))?;
    PolicyStore::of(&state).remove(&args.name).map_err(|e| match e {
        StoreError::NotInstalled { name } if embedded::find(name.as_str()).is_some() => Failure {
            exit: Exit::Refused,
            message: format!(
                "policy {name}: it comes with Farshore, and none of that name is installed: there is \
                 nothing to remove"
            ),
            hint: Some("it decides nothing unless a run names it with --policy".into()),
        },
        e => e.failure(),
    })?;
    let text = format!("removed {}\n", args.name);
    show(args.json, &json!({"name": args.name.to_string(), "removed": true}), &text);
    Ok(Exit::Done)
}

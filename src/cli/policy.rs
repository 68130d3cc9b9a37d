//! `farshore policy`: from a new project to a policy in force, and what it would do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{ArgMatches, Args, Subcommand};
use farshore_core::entry::Timestamp;
use farshore_engine::source::system_wall_clock;
use farshore_policies::{Component, Configured, Limits};

use super::{StateArgs, print, rules};
use crate::exit::{Exit, Failure};
use crate::policy::cases::CaseFile;
use crate::policy::facts::parse_time;
use crate::policy::library::{Chosen, Library, Origin, parse_pair};
use crate::policy::store::{COMPONENT_BYTES_MAX, read_text};

mod ask;
mod bench;
mod check;
mod installed;
mod make;
pub(super) mod options;
mod replay;
mod sign;

#[derive(Debug, Args)]
pub(super) struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Make the project of a new policy, with its kit, tests and cases
    New(make::NewArgs),
    /// Compile a project and make a component of it
    Build(make::BuildArgs),
    /// Look whether a component can run here and always decides alike
    Check(check::CheckArgs),
    /// Show what a policy is: id, interface, hooks, rules, limits, signature
    Inspect(check::InspectArgs),
    /// Ask a policy the cases of a file, and name rules that no case reaches
    Test(check::TestArgs),
    /// Ask one policy about paths
    Run(ask::RunArgs),
    /// Say what a run with these options would do with paths, and by which rule
    Explain(Box<ask::ExplainArgs>),
    /// Show what a policy would change, on a tree or on what a standby has; changes nothing
    Replay(replay::ReplayArgs),
    /// Measure a policy: time and fuel an entry
    Bench(bench::BenchArgs),
    /// Sign a component
    Sign(sign::SignArgs),
    /// Install a policy with its settings under a name of this site
    Install(installed::InstallArgs),
    /// List the policies of this site and those that come with Farshore
    List(installed::ListArgs),
    /// Remove an installed policy
    Remove(installed::RemoveArgs),
}

pub(super) fn run(args: PolicyArgs, matches: &ArgMatches) -> Result<Exit, Failure> {
    let below = matches.subcommand().map(|(_, m)| m.clone()).unwrap_or_default();
    match args.command {
        PolicyCommand::New(args) => make::new(&args),
        PolicyCommand::Build(args) => make::build(&args),
        PolicyCommand::Check(args) => check::check(&args),
        PolicyCommand::Inspect(args) => check::inspect(&args),
        PolicyCommand::Test(args) => check::test(&args),
        PolicyCommand::Run(args) => ask::run(&args),
        PolicyCommand::Explain(args) => ask::explain(&args, &below),
        PolicyCommand::Replay(args) => replay::run(&args, &below),
        PolicyCommand::Bench(args) => bench::run(&args),
        PolicyCommand::Sign(args) => sign::run(&args),
        PolicyCommand::Install(args) => installed::install(&args),
        PolicyCommand::List(args) => installed::list(&args),
        PolicyCommand::Remove(args) => installed::remove(&args),
    }
}

/// A policy and its settings.
#[derive(Debug, Args)]
struct OneArgs {
    /// A file (./NAME.wasm), or the name of an installed policy or of one that comes with Farshore
    #[arg(value_name = "FILE|NAME")]
    policy: String,
    /// A setting; may be given several times, and stands above an installed policy's own
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    setting: Vec<(String, String)>,
    /// The time of the cut, which ages are counted from [default: now]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    at: Option<Timestamp>,
    #[command(flatten)]
    state: StateArgs,
}

/// A policy that was found and loaded.
struct Opened {
    library: Library,
    chosen: Chosen,
    component: Component,
    at: Timestamp,
}

impl OneArgs {
    fn open(&self) -> Result<Opened, Failure> {
        let library = Library::of(self.state.state.as_deref())?;
        let mut chosen = library.find(&self.policy)?;
        chosen.settings.extend(settings_of(&self.setting)?);
        let component = library.load(&chosen)?;
        let at = self.at.unwrap_or_else(system_wall_clock);
        Ok(Opened { library, chosen, component, at })
    }
}

impl Opened {
    fn configure(&self) -> Result<Configured, Failure> {
        self.library.configure(&self.chosen, &self.component, self.at)
    }
}

/// Settings by key; one that is given twice means two things.
fn settings_of(given: &[(String, String)]) -> Result<BTreeMap<String, String>, Failure> {
    let mut settings = BTreeMap::new();
    for (key, value) in given {
        if settings.insert(key.clone(), value.clone()).is_some() {
            let message = format!("setting '{key}' is given twice");
            return Err(Failure::usage(message, "give each key once"));
        }
    }
    Ok(settings)
}

/// The files of cases given, or the project's beside the component.
fn cases_of(chosen: &Chosen, given: &[PathBuf]) -> Result<Vec<CaseFile>, Failure> {
    let mut paths = given.to_vec();
    if let (true, Origin::File(component)) = (paths.is_empty(), &chosen.origin) {
        let beside = component.parent().unwrap_or(Path::new("")).join("tests/cases.toml");
        paths.extend(Some(beside).filter(|path| path.is_file()));
    }
    paths.iter().map(|path| read_cases(path)).collect()
}

fn read_cases(path: &Path) -> Result<CaseFile, Failure> {
    let name = path.display().to_string();
    let text = read_text(path).map_err(|e| Failure::new(Exit::Usage, &e))?.ok_or_else(|| {
        Failure::usage(format!("cases {name}: there is no such file"), CASES_HINT)
    })?;
    CaseFile::parse(&name, &text).map_err(|e| Failure::new(Exit::Usage, &e))
}

const CASES_HINT: &str =
    "name a file of cases with --cases; a project has them in tests/cases.toml";

/// An error of the system with its file and step.
fn failed(path: &Path, step: &str, e: &std::io::Error) -> Failure {
    Failure { exit: Exit::Refused, message: format!("{}: {step}: {e}", path.display()), hint: None }
}

/// Loads what is in `file`, or is to be, as no site yet: its limits are not known, its size may be any.
fn load(component: &[u8], file: &Path) -> Result<Component, Failure> {
    let limits = Limits { component_bytes: COMPONENT_BYTES_MAX, ..Limits::default() };
    Library::alone()?.host().load(component, &limits).map_err(|e| {
        let mut failure = Failure::new(Exit::Refused, &e);
        failure.message = format!("component {}: {}", file.display(), failure.message);
        failure
    })
}

/// Prints one object or a text.
fn show(json: bool, object: &serde_json::Value, text: &str) {
    if json {
        print(&format!("{object}\n"));
    } else {
        print(text);
    }
}

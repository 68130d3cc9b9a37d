//! `farshore bench`: measures Farshore and the tools it is compared with, on equal terms.
//!
//! Guarantees: every run ends in a folder of its own and is compared entry by entry, byte by byte with
//! its source by code independent of the replicator; test data are functions of a seed; what the
//! harness made (processes, mounts, loop devices, namespaces, control groups) it ends, also after an
//! error or a kill. Refuses to touch anything outside the work folder it created. Figures it cannot
//! measure (no root, tool not installed) are left out and named, never guessed.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

mod content;
mod generate;
mod janitor;
mod limits;
mod measure;
mod options;
mod peer;
mod report;
mod rng;
mod series;
mod targets;
pub mod verify;
mod wan;
mod workfs;
mod workload;

pub use options::BenchArgs;
pub use workload::Workload;

use generate::{Plan, Version};
use janitor::Janitor;
use measure::cgroup::Account;
use options::{BenchAction, GenerateArgs, WanArgs};
use peer::find_program;
use rng::len_u64;
use wan::Wan;

/// Runs what the options ask for; tables and progress go to `out`.
pub fn run(args: &BenchArgs, out: &mut dyn Write) -> Result<(), BenchError> {
    match &args.action {
        None => series::run_series(&args.series, out),
        Some(BenchAction::Wan(wan)) => run_wan(wan, out),
        Some(BenchAction::Generate(wanted)) => run_generate(wanted, out),
        Some(BenchAction::Compare { a, b }) => run_compare(a, b, out),
    }
}

fn run_generate(args: &GenerateArgs, out: &mut dyn Write) -> Result<(), BenchError> {
    let given = given_versions(args.w7_old.as_ref(), args.w7_new.as_ref());
    let found = || Some(generate::real::find(args.scale).ok()?).map(|tree| (tree.old, tree.new));
    let versions = if args.workload == Workload::W7 { given.or_else(found) } else { None };
    let plan = Plan {
        workload: args.workload,
        scale: args.scale,
        seed: args.seed,
        owners: rustix::process::geteuid().is_root(),
        versions,
    };
    let done = if args.second { plan.mutate(&args.folder)? } else { plan.prepare(&args.folder)? };
    writeln!(out, "{}: {done}", args.folder.display()).at("print", &args.folder)
}

/// The two versions of W7 that options name.
fn given_versions(old: Option<&PathBuf>, new: Option<&PathBuf>) -> Option<(Version, Version)> {
    let (old, new) = old.zip(new)?;
    Some((Version::Folder(old.clone()), Version::Folder(new.clone())))
}

fn run_compare(a: &Path, b: &Path, out: &mut dyn Write) -> Result<(), BenchError> {
    let found = verify::compare_trees(a, b)?;
    for line in &found.listed {
        writeln!(out, "{line}").at("print", a)?;
    }
    let (entries, bytes, count) = (found.entries, found.bytes, found.differences);
    let more = count.saturating_sub(len_u64(found.listed.len()));
    if more > 0 {
        writeln!(out, "... and {more} more").at("print", a)?;
    }
    for (fact, count) in &found.by_fact {
        writeln!(out, "{}: {count}", fact.word()).at("print", a)?;
    }
    writeln!(out, "{entries} entries, {bytes} equal bytes, {count} differences").at("print", a)?;
    if count == 0 { Ok(()) } else { Err(BenchError::Different { count }) }
}

fn run_wan(args: &WanArgs, out: &mut dyn Write) -> Result<(), BenchError> {
    if !rustix::process::geteuid().is_root() {
        return Err(BenchError::NeedsRoot { what: "the emulated line" });
    }
    let is_absent = |name: &&OsString| name.to_str().is_some_and(|n| find_program(n).is_none());
    if let Some(program) = args.command.first().filter(is_absent) {
        let source = io::ErrorKind::NotFound.into();
        return Err(BenchError::Io { step: "find the program", path: program.into(), source });
    }
    let janitor = Janitor::start()?;
    // What the two commands start ends with them and with us, where there are control groups.
    let account = Account::create(&janitor);
    let wan = Wan::start(args.line.plain(args.seed), &janitor)?;
    if let Some(control) = &args.congestion {
        wan.set_congestion(control)?;
    }
    let control = args.congestion.clone().map_or_else(|| wan.near.congestion(), Ok)?;
    let print = Path::new("the report");
    if !args.no_probe {
        let probe = wan.probe()?;
        writeln!(out, "line with {control}: {probe}").at("print", print)?;
    }
    let Some((program, words)) = args.command.split_first() else { return Ok(()) };
    let mut server = match &args.server {
        Some(script) => Some(wan.far.enter(|| {
            let shell = Path::new("/bin/sh");
            let script = format!("exec {script}");
            Command::new(shell).args(["-c", &script]).spawn().at("start the server", shell)
        })?),
        None => None,
    };
    if let Some(child) = &server {
        account.adopt(child.id());
    }
    let started = std::time::Instant::now();
    let command = wan.near.enter(|| {
        let path = Path::new(program);
        Command::new(program)
            .args(words)
            .env("FARSHORE_WAN_FAR_NAMESPACE", wan.far.name())
            .env("FARSHORE_WAN_FAR", wan::ADDRESS_B.to_string())
            .spawn()
            .at("run", path)
    });
    let command = command.and_then(|mut child| {
        account.adopt(child.id());
        child.wait().at("wait for", Path::new(program))
    });
    let wall = started.elapsed().as_secs_f64();
    if let Some(child) = server.as_mut() {
        if let Some(status) = child.try_wait().at("look at", Path::new("the server"))? {
            writeln!(out, "the server ended before the command: {status}").at("print", print)?;
        }
        child.kill().at("end", Path::new("the server"))?;
        child.wait().at("wait for", Path::new("the server"))?;
    }
    let status = command?;
    let (there, back) = wan.counts();
    writeln!(out, "{wall:.3} s; there {there}; back {back}").at("print", print)?;
    if status.success() { Ok(()) } else { Err(BenchError::Command { status }) }
}

/// What can go wrong in the harness.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A file system step failed.
    #[error("{}: cannot {step}", path.display())]
    Io {
        /// What was attempted.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A folder to generate into has entries.
    #[error("{}: the folder is not empty", path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// A folder to generate into lies in what is copied into it.
    #[error("{}: lies in the version {} that is to be copied into it", path.display(), version.display())]
    Within {
        /// The folder.
        path: PathBuf,
        /// The version.
        version: PathBuf,
    },
    /// A path has characters that would not survive a shell or a configuration file.
    #[error("{}: must be absolute, of letters, digits and any of / . _ -", path.display())]
    OddPath {
        /// The path.
        path: PathBuf,
    },
    /// A system command failed.
    #[error("{program} {arguments}: failed: {said}")]
    Tool {
        /// The command.
        program: &'static str,
        /// Its arguments.
        arguments: String,
        /// What it said.
        said: String,
    },
    /// An option the workload needs was not given.
    #[error("workload {workload}: needs {option}")]
    MissingOption {
        /// The workload.
        workload: &'static str,
        /// The option.
        option: &'static str,
    },
    /// A part of the harness needs root.
    #[error("{what}: needs root")]
    NeedsRoot {
        /// The part.
        what: &'static str,
    },
    /// Two trees differ.
    #[error("the trees: {count} differences")]
    Different {
        /// How many.
        count: u64,
    },
    /// A command at the end of the emulated line failed.
    #[error("command: ended with {status}")]
    Command {
        /// How it ended.
        status: std::process::ExitStatus,
    },
    /// A server did not come up.
    #[error("server on port {port}: does not answer")]
    NoAnswer {
        /// Its port.
        port: u16,
    },
    /// The file of an adapter is not as it should be.
    #[error("{}: {said}", path.display())]
    Adapter {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        said: String,
    },
    /// Measured figures fell short.
    #[error("targets: {count} missed")]
    Missed {
        /// How many.
        count: usize,
    },
    /// A tool changed the tree that all of them are given.
    #[error("{tool} run {run}: changed its source; nothing measured after it would be comparable")]
    SourceChanged {
        /// The tool.
        tool: String,
        /// Number of its run.
        run: u32,
    },
    /// Two adapters have one name.
    #[error("{name}: the name of two adapters")]
    TwoOfAName {
        /// The name.
        name: String,
    },
    /// No tool was there, or none can do what was asked for.
    #[error("nothing was measured: no tool that is here does what was asked for")]
    NothingMeasured,
    /// Farshore itself failed, or left another tree than its source.
    #[error("runs of farshore: {count} failed or left a tree that differs")]
    Spoilt {
        /// How many.
        count: usize,
    },
    /// The limits of the machine could not be measured.
    #[error("measuring the {part}: {said}")]
    Part {
        /// Which part.
        part: &'static str,
        /// What went wrong.
        said: String,
    },
    /// A thread of the harness panicked.
    #[error("thread to {step}: panicked")]
    Panicked {
        /// What it did.
        step: &'static str,
    },
}

/// Names the step and the object of a failed operation.
pub(crate) trait Context<T> {
    /// Adds what was attempted, and on what.
    fn at(self, step: &'static str, path: &Path) -> Result<T, BenchError>;
}

impl<T> Context<T> for io::Result<T> {
    fn at(self, step: &'static str, path: &Path) -> Result<T, BenchError> {
        self.map_err(|source| BenchError::Io { step, path: path.to_owned(), source })
    }
}

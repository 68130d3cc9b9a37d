//! The command line: options in, one exit code and one report out.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use farshore_engine::frames::Compression;
use farshore_engine::io::uring::IoMode;

use crate::bench::BenchArgs;
use crate::exit::{Exit, Failure};

mod audit;
mod brake;
mod capture;
mod daemon;
mod failback;
mod history;
mod init;
mod key;
mod mark;
mod pair;
mod policy;
mod rehearse;
mod replicate;
mod roles;
mod rules;
mod scrub;
mod serve;
mod shown;
mod status;
mod verify;

/// Replicates account home folders to a recovery site, with a recovery point that can be proven.
#[derive(Debug, Parser)]
#[command(name = "farshore", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a folder, or a share of another host, the same as SRC
    Replicate(Box<ReplicateArgs>),
    /// Serve shares to sources on other hosts
    Serve(ServeArgs),
    /// Report what changes here of a share that another host of this site sends
    Capture(capture::CaptureArgs),
    /// Write a configuration to begin with, and make the site's key
    Init(Box<init::InitArgs>),
    /// Trust the other site's key, by a code or by its id; revoke it; list what is trusted
    Pair(Box<pair::PairArgs>),
    /// Make a site key, show its id, or change it without downtime
    Key(KeyArgs),
    /// Say how this site is, or what is known of a pair without a run
    Status(StatusArgs),
    /// What the brake of this site holds: show, approve, reject
    Brake(brake::BrakeArgs),
    /// Read all of a standby now, and mend what is not as it was applied
    Scrub(scrub::ScrubArgs),
    /// Former versions a standby keeps, and going back to its recovery points
    History(history::HistoryArgs),
    /// Try a recovery point: a tree to be written to at the share's path, for one command
    Rehearse(rehearse::RehearseArgs),
    /// Names for recovery points
    Mark(mark::MarkArgs),
    /// Hand a share over to the other site, in order: nothing is lost, or it is refused
    Switchover(roles::SwitchoverArgs),
    /// Open a share here without the other site, which is lost; says what may be lost with it
    Failover(roles::FailoverArgs),
    /// The way home after a failover: a plan to read, to change and to carry out
    Failback(failback::FailbackArgs),
    /// Let an active site serve a share although it cannot ask the other one
    Open(roles::OpenArgs),
    /// Whether services may work with a share here now: exit code 0 or 5
    Gate(roles::GateArgs),
    /// What was done to this site's shares, and whether that record is whole
    Audit(audit::AuditArgs),
    /// Compare two trees byte by byte
    Verify(VerifyArgs),
    /// Policies: what is replicated and who wins, decided in a sandbox
    Policy(policy::PolicyArgs),
    /// Measure against other tools
    Bench(Box<BenchArgs>),
    /// Runs the hooks of the daemon that started it
    #[command(name = crate::site::hooks::RUNNER, hide = true)]
    HookRunner,
    /// Where a rehearsal's command runs
    #[command(name = crate::rehearse::stage::STAGE, hide = true)]
    RehearsalStage,
    /// Process 1 in there
    #[command(name = crate::rehearse::stage::INIT, hide = true)]
    RehearsalInit,
}

/// The state folder.
#[derive(Debug, Args)]
struct StateArgs {
    /// State folder (keys, catalogs) [default: $XDG_STATE_HOME/farshore or ~/.local/state/farshore]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

/// Which folders may be roots.
#[derive(Debug, Args)]
struct RootArgs {
    /// Let a root lie in a folder of the operating system (/usr, /var, /mnt, ...)
    #[arg(long)]
    allow_protected: bool,
    /// Install folder of the application: a root that is it, holds it or lies in it is refused,
    /// whatever else is said
    #[arg(long, value_name = "DIR")]
    install_dir: Vec<PathBuf>,
}

/// How a target treats what it is given.
#[derive(Debug, Args)]
struct TargetArgs {
    /// Refuse device nodes instead of making them
    #[arg(long)]
    no_devices: bool,
    /// Keep replaced and deleted versions this many days; 0 keeps none, not even those of this run
    #[arg(long, value_name = "DAYS", default_value_t = 14)]
    history_days: u32,
    /// Keep at most this many bytes of them, e.g. 500G [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = farshore_core::size::parse_size)]
    history_size: Option<u64>,
    /// Keep the changes of at most this many batches [default: no limit]
    #[arg(long, value_name = "N")]
    history_count: Option<u64>,
    /// Read and write the tree's content at this many bytes a second at most, e.g. 50M; a run that has
    /// both ends here gives each of them as much
    #[arg(long, value_name = "RATE", value_parser = parse_limit)]
    io_limit: Option<u64>,
}

/// How small files are read and created.
#[derive(Debug, Args)]
struct IoArgs {
    /// Small files: auto (the faster way, found by trying both), posix (plain calls), or uring
    #[arg(long, value_name = "HOW", default_value = "auto")]
    io: IoMode,
}

#[derive(Debug, Args)]
struct ReplicateArgs {
    /// The folder to replicate
    #[arg(value_name = "SRC")]
    source: PathBuf,
    /// A folder, or farshore://HOST:PORT/SHARE
    #[arg(value_name = "DST")]
    target: crate::replicate::Destination,
    #[command(flatten)]
    rules: rules::RuleArgs,
    #[command(flatten)]
    policies: policy::options::PolicyOptions,
    /// Say what would be done, change no entry (only .farshore and the catalogs are made)
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Let a run pass that the guard held
    #[arg(long)]
    approve: bool,
    /// Hold a run that deletes more entries than this, and more than --brake-percent
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    brake_entries: u64,
    /// Hold a run that deletes a larger part of the target than this, and more than --brake-entries
    #[arg(long, value_name = "PERCENT", default_value_t = 10,
          value_parser = clap::value_parser!(u8).range(0..=100))]
    brake_percent: u8,
    /// Do not let the target check its tree for changes that are not ours
    #[arg(long)]
    trust_target: bool,
    /// Bytes a second at most, e.g. 20M
    #[arg(long, value_name = "RATE", value_parser = parse_limit)]
    bwlimit: Option<u64>,
    /// auto (by the speed of the line), never, or a zstd level from 1 to 19
    #[arg(long, value_name = "WHEN", default_value = "auto", value_parser = parse_compression)]
    compress: Compression,
    /// This site's key file [default: site.key in the state folder]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Key id of the remote target; give two while its key is being changed
    #[arg(long, value_name = "KEYID")]
    peer: Vec<farshore_transport::KeyId>,
    /// One JSON object on standard output (docs/output.md)
    #[arg(long)]
    json: bool,
    /// Say more: every problem, the recovery point before, how many entries stay here
    #[arg(short, long)]
    verbose: bool,
    /// Show progress even when standard error is no terminal
    #[arg(long)]
    progress: bool,
    /// Show how long each stage worked and waited, and which one binds
    #[arg(long)]
    profile: bool,
    #[command(flatten)]
    io: IoArgs,
    #[command(flatten)]
    target_args: TargetArgs,
    #[command(flatten)]
    roots: RootArgs,
    #[command(flatten)]
    state: StateArgs,
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// The site's config [default: /etc/farshore/farshore.toml]: its shares are sent and received by
    /// themselves, until the daemon is stopped. The options below are for serving without a config
    #[arg(long, value_name = "FILE", conflicts_with_all = ["share", "listen", "allow", "key", "profile"])]
    config: Option<PathBuf>,
    /// How the daemon's log looks: text or json
    #[arg(long, value_name = "FORMAT", default_value = "text", conflicts_with = "share")]
    log_format: crate::site::log::Format,
    /// What the daemon's log leaves out: debug, info, warn or error, and what is below
    #[arg(long, value_name = "LEVEL", default_value = "info", conflicts_with = "share")]
    log_level: crate::site::log::Level,
    /// A share and the folder it is kept in; may be given several times
    #[arg(long, value_name = "NAME=PATH", requires = "listen", value_parser = serve::parse_share)]
    share: Vec<(String, PathBuf)>,
    /// Address to listen on
    #[arg(long, value_name = "ADDR:PORT", requires = "share")]
    listen: Option<std::net::SocketAddr>,
    /// Key id of a source that may connect; may be given several times
    #[arg(long, value_name = "KEYID", requires = "share")]
    allow: Vec<farshore_transport::KeyId>,
    /// This site's key file [default: site.key in the state folder]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Show after each session how long each stage worked and waited
    #[arg(long)]
    profile: bool,
    #[command(flatten)]
    rules: rules::RuleArgs,
    #[command(flatten)]
    policies: policy::options::PolicyOptions,
    #[command(flatten)]
    io: IoArgs,
    #[command(flatten)]
    target_args: TargetArgs,
    #[command(flatten)]
    roots: RootArgs,
    #[command(flatten)]
    state: StateArgs,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
struct KeyArgs {
    #[command(subcommand)]
    command: Option<key::KeyCommand>,
    /// The key file; made if it is not there [default: site.key in the state folder]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: StateArgs,
}

#[derive(Debug, Args)]
struct StatusArgs {
    /// The folder that is replicated; without SRC and DST the daemon of this site is asked
    #[arg(value_name = "SRC", requires = "target")]
    source: Option<PathBuf>,
    /// A folder, or farshore://HOST:PORT/SHARE, as it was given to replicate
    #[arg(value_name = "DST")]
    target: Option<crate::replicate::Destination>,
    /// List every entry that policies leave out and the target keeps
    #[arg(long, requires = "target")]
    detached: bool,
    /// Show it again every second
    #[arg(long, conflicts_with = "source")]
    watch: bool,
    /// The site's config, which says where its state folder is
    #[arg(long, value_name = "FILE", conflicts_with_all = ["source", "state"])]
    config: Option<PathBuf>,
    /// One JSON object on standard output (docs/output.md)
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: StateArgs,
}

/// Which daemon is asked, and about what.
#[derive(Debug, Args)]
struct DaemonArgs {
    /// The share; may be left out when the site has one alone
    #[arg(long, value_name = "NAME")]
    share: Option<String>,
    /// The site's config, which says where its state folder is
    #[arg(long, value_name = "FILE", conflicts_with = "state")]
    config: Option<PathBuf>,
    /// One JSON object on standard output (docs/output.md)
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: StateArgs,
}

#[derive(Debug, Args)]
struct VerifyArgs {
    /// The tree that is right
    a: PathBuf,
    /// The tree to compare with it
    b: PathBuf,
    /// Replicate A to B afterwards, looking closely at what differs
    #[arg(long)]
    repair: bool,
    /// Let a repair pass that the guard held
    #[arg(long, requires = "repair")]
    approve: bool,
    /// Read and write each tree's content at this many bytes a second at most, e.g. 50M
    #[arg(long, value_name = "RATE", value_parser = parse_limit)]
    io_limit: Option<u64>,
    #[command(flatten)]
    rules: rules::RuleArgs,
    #[command(flatten)]
    policies: policy::options::PolicyOptions,
    /// One JSON object on standard output (docs/output.md)
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    roots: RootArgs,
    #[command(flatten)]
    state: StateArgs,
}

/// A rate that something can be done at.
fn parse_limit(text: &str) -> Result<u64, String> {
    match farshore_core::size::parse_size(text) {
        Ok(0) => {
            Err(format!("'{text}': nothing would ever end; for no limit leave the option out"))
        }
        parsed => parsed.map_err(|e| e.to_string()),
    }
}

fn parse_compression(text: &str) -> Result<Compression, String> {
    match text {
        "auto" => Ok(Compression::Auto),
        "never" => Ok(Compression::Never),
        level => level
            .parse()
            .ok()
            .filter(|l| (1..=19).contains(l))
            .map(Compression::Level)
            .ok_or_else(|| format!("'{level}': give auto, never or a level from 1 to 19")),
    }
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    raise_file_limit();
    bound_arenas();
    let matches = match Cli::command().try_get_matches() {
        Ok(matches) => matches,
        Err(e) => {
            // Help and version are no errors.
            if e.use_stderr() {
                return wrong_usage(&e);
            }
            drop(e.print());
            return ExitCode::SUCCESS;
        }
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(e) => return wrong_usage(&e),
    };
    let below = matches.subcommand().map(|(_, m)| m.clone()).unwrap_or_default();
    let result = match cli.command {
        Command::Replicate(args) => replicate::run(*args, &below),
        Command::Serve(args) => serve::run(args, &below),
        Command::Capture(args) => capture::run(args),
        Command::Init(args) => init::run(*args),
        Command::Pair(args) => pair::run(&args),
        Command::Key(args) => key::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Brake(args) => brake::run(args),
        Command::Scrub(args) => scrub::run(&args),
        Command::History(args) => history::run(&args),
        Command::Rehearse(args) => rehearse::run(args),
        Command::Mark(args) => mark::run(args),
        Command::Switchover(args) => roles::switchover(&args),
        Command::Failover(args) => roles::failover(&args),
        Command::Failback(args) => failback::run(&args),
        Command::Open(args) => roles::open(&args),
        Command::Gate(args) => roles::gate(&args),
        Command::Audit(args) => audit::run(args),
        Command::Verify(args) => verify::run(args, &below),
        Command::Policy(args) => policy::run(args, &below),
        Command::HookRunner => {
            crate::site::hooks::be_runner();
            Ok(Exit::Done)
        }
        Command::RehearsalStage => {
            crate::rehearse::stage::be_stage();
            Ok(Exit::Done)
        }
        Command::RehearsalInit => {
            crate::rehearse::stage::be_init();
            Ok(Exit::Done)
        }
        Command::Bench(args) => crate::bench::run(&args, &mut std::io::stdout().lock())
            .map(|()| Exit::Done)
            .map_err(|e| Failure::new(Exit::Internal, &e)),
    };
    let exit = result.unwrap_or_else(|failure| {
        // The option of 'bench' takes a file and is another one.
        let innermost = below.subcommand().map_or(&below, |(_, innermost)| innermost);
        if matches!(innermost.try_get_one::<bool>("json"), Ok(Some(true))) {
            print(&format!("{}\n", failure.json()));
        }
        drop(writeln!(std::io::stderr(), "{failure}"));
        failure.exit
    });
    ExitCode::from(exit as u8)
}

/// A command line that could not be read. Whoever asked for an object gets one.
fn wrong_usage(e: &clap::Error) -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let is_bench = words.next().is_some_and(|command| command == "bench");
    if !is_bench && words.any(|word| word == "--json") {
        let text = e.to_string();
        let first = text.split("\n\n").next().unwrap_or_default().trim();
        let message = first.strip_prefix("error: ").unwrap_or(first).to_owned();
        let failure = Failure { exit: Exit::Usage, message, hint: None };
        print(&format!("{}\n", failure.json()));
    }
    drop(e.print());
    ExitCode::from(Exit::Usage as u8)
}

/// Has the C library keep freed memory in as many pools as there are processors, not eight times as many: a daemon
/// that opens one catalog after another, each from other threads, kept what it had freed in all of them.
#[allow(unsafe_code)]
fn bound_arenas() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let most = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 64));
        let most = libc::c_int::try_from(most).unwrap_or(2);
        // SAFETY: it changes a number of the allocator under the allocator's own lock, and no other thread runs yet.
        // Refused (0) means as before.
        let _taken = unsafe { libc::mallopt(libc::M_ARENA_MAX, most) };
    }
}

/// Staging keeps a handle for each new directory of a batch.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Without it, batches with very many directories fail by name; nothing is lost.
    setrlimit(Resource::Nofile, limit).unwrap_or(());
}

/// Prints to standard output; a reader that went away is no error of ours.
fn print(text: &str) {
    drop(std::io::stdout().lock().write_all(text.as_bytes()));
}

fn is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

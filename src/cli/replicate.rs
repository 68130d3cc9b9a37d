//! `farshore replicate`.

use std::path::Path;

use clap::ArgMatches;
use clap::parser::ValueSource;
use farshore_core::guard::Threshold;
use farshore_engine::progress::Progress;
use farshore_engine::source::system_wall_clock;
use farshore_policies::host::Level;
use farshore_policies::{Policies, RuleSet};
use farshore_transport::SiteKey;

use super::{ReplicateArgs, is_terminal, print, shown};
use crate::exit::{Exit, Failure};
use crate::replicate::{
    Destination, RunOptions, RunResult, is_like_remote, remote_threads, to_folder, to_remote,
    worker_threads,
};
use crate::report::{self, profile::Meter};
use crate::roots::{RootError, RootRules, check_apart, check_root, check_state};
use crate::state::State;

/// Lines of the log of policies.
const LOG_SHOWN: usize = 20;

pub(super) fn root_failure(e: &RootError) -> Failure {
    let failure = Failure::new(Exit::Refused, e);
    match e {
        RootError::Protected { how: "lies in", .. } => {
            failure.hint("if that is on purpose, add --allow-protected")
        }
        RootError::State { .. } => failure.hint("give another one with --state"),
        RootError::Protected { how: "is", .. } => {
            failure.hint("it never is a root; a folder in it can be one with --allow-protected")
        }
        RootError::Look { role: "target", .. } => failure.hint("make the folder first"),
        _ => failure,
    }
}

/// The site key in `file`, or in the state folder.
pub(super) fn load_key(file: Option<&Path>, state: &State) -> Result<SiteKey, Failure> {
    let file = file.map_or_else(|| state.key_file(), Path::to_path_buf);
    SiteKey::load(&file).map_err(|e| super::key::key_failure(&e, &file))
}

/// Refuses options that would do nothing where DST is.
fn check_options(target: &Destination, matches: &ArgMatches) -> Result<(), Failure> {
    let given = |(id, _): &(&str, &str)| matches.value_source(id) == Some(ValueSource::CommandLine);
    let (idle, message, hint) = match target {
        Destination::Remote { .. } => (
            &[
                ("history_days", "--history-days"),
                ("history_size", "--history-size"),
                ("history_count", "--history-count"),
                ("no_devices", "--no-devices"),
            ][..],
            "it acts at the target, which is another host",
            "give it to 'farshore serve' there",
        ),
        Destination::Folder(_) => (
            &[("peer", "--peer"), ("key", "--key")][..],
            "the target is a folder of this machine, which has no key",
            "leave it out, or give the target as farshore://HOST:PORT/SHARE",
        ),
    };
    match idle.iter().find(|option| given(option)) {
        Some((_, option)) => Err(Failure::usage(format!("option {option}: {message}"), hint)),
        None => Ok(()),
    }
}

pub(super) fn run(args: ReplicateArgs, matches: &ArgMatches) -> Result<Exit, Failure> {
    let at = system_wall_clock();
    let rules = args.rules.policy(matches, at)?;
    let policy = args.policies.with(rules, matches, &args.state, at)?;
    check_options(&args.target, matches)?;
    if is_like_remote(&args.source) && !args.source.exists() {
        let message = format!("source {}: it is no folder of this machine", args.source.display());
        return Err(Failure::usage(message, "run 'farshore replicate' on the host that has it"));
    }
    let root_rules = RootRules {
        allow_protected: args.roots.allow_protected,
        install_folders: args.roots.install_dir.clone(),
    };
    let source = check_root("source", &args.source, &root_rules).map_err(|e| root_failure(&e))?;
    let state =
        State::open(args.state.state.as_deref()).map_err(|e| Failure::new(Exit::Refused, &e))?;
    let options = RunOptions {
        state,
        policy: &policy,
        threshold: Threshold { entries: args.brake_entries, percent: args.brake_percent },
        approved: args.approve,
        trust_target: args.trust_target,
        dry_run: args.dry_run,
        compression: args.compress,
        bandwidth: args.bwlimit,
        io_limit: args.target_args.io_limit,
        io: args.io.io,
        target: args.target_args.options(),
    };
    let progress = Progress::default();
    let meter = Meter::start();
    let result = with_progress(&progress, args.progress, || match &args.target {
        Destination::Folder(folder) => {
            make_target(folder, &source, args.dry_run)?;
            let target = check_root("target", folder, &root_rules).map_err(|e| root_failure(&e))?;
            check_apart(&source, &target)
                .and_then(|()| check_state(options.state.folder(), &[&source, &target]))
                .map_err(|e| root_failure(&e))?;
            to_folder(&source, &target, &options, &progress)
        }
        Destination::Remote { address, share } => {
            if args.peer.is_empty() {
                return Err(Failure {
                    exit: Exit::Usage,
                    message: format!("target {address}: its key is not known"),
                    hint: Some("give --peer KEYID; 'farshore key' on that host shows it".into()),
                });
            }
            check_state(options.state.folder(), &[&source]).map_err(|e| root_failure(&e))?;
            let key = load_key(args.key.as_deref(), &options.state)?;
            to_remote(&source, address, share, &key, &args.peer, &options, &progress)
        }
    });
    let log = policy_log(&policy, args.verbose);
    if args.json || result.is_err() {
        eprint(&log);
    }
    let result = result?;
    show(&result, &progress, &meter, &args, policy.rule_set());
    if !args.json {
        print(&log);
    }
    Ok(report::exit_of(&result))
}

/// A target folder that is not there is made, if only it is missing.
fn make_target(folder: &Path, source: &Path, dry_run: bool) -> Result<(), Failure> {
    if folder.exists() {
        return Ok(());
    }
    if dry_run {
        return Err(Failure {
            exit: Exit::Refused,
            message: format!(
                "target {}: it is not there, and a dry run makes none",
                folder.display()
            ),
            hint: Some(
                "without --dry-run it is made; to see what would be done, make it first".into(),
            ),
        });
    }
    let parent = folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Refused before it is made, not after.
    if parent.canonicalize().is_ok_and(|p| p.starts_with(source)) {
        return Err(Failure {
            exit: Exit::Refused,
            message: format!(
                "source {} and target {}: the target lies in the source",
                source.display(),
                folder.display()
            ),
            hint: None,
        });
    }
    std::fs::create_dir(folder).map_err(|e| Failure {
        exit: Exit::Refused,
        message: format!("target {}: making it: {e}", folder.display()),
        hint: None,
    })
}

/// What the policies wrote: what somebody should look at, or all of it, the first lines.
fn policy_log(policies: &Policies, all: bool) -> String {
    let mut out = String::new();
    let (mut shown, mut more) = (0, 0);
    for policy in policies.configured() {
        let name = policy.identity().name;
        let (lines, dropped) = policy.take_log();
        more += dropped;
        for line in lines.iter().filter(|line| all || line.level >= Level::Warn) {
            if shown == LOG_SHOWN {
                more += 1;
                continue;
            }
            shown += 1;
            out.push_str(&format!("log of policy {name}: {}\n", line.text));
        }
    }
    if more > 0 && (all || shown > 0) {
        out.push_str(&format!("... and {more} more lines of log\n"));
    }
    out
}

pub(super) fn eprint(text: &str) {
    use std::io::Write as _;
    drop(std::io::stderr().lock().write_all(text.as_bytes()));
}

fn with_progress(
    progress: &Progress,
    wanted: bool,
    run: impl FnOnce() -> Result<RunResult, Failure>,
) -> Result<RunResult, Failure> {
    let terminal = is_terminal();
    if !terminal && !wanted {
        return run();
    }
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || shown::show(progress, &ended, terminal));
        let result = run();
        drop(done);
        result
    })
}

fn show(
    result: &RunResult,
    progress: &Progress,
    meter: &Meter,
    args: &ReplicateArgs,
    rules: &RuleSet,
) {
    let took = meter.elapsed();
    let usage = args.profile.then(|| {
        let both_ends_here = result.target.is_some();
        meter.usage(if both_ends_here { worker_threads() } else { remote_threads() })
    });
    let idle_rules: Vec<String> = rules.idle().map(ToString::to_string).collect();
    if args.json {
        let mut object = report::json(result, progress, took);
        object["idle_rules"] = idle_rules.into();
        if let Some(usage) = &usage {
            object["profile"] = report::profile::json(&result.profile, usage);
        }
        print(&format!("{object}\n"));
        return;
    }
    print(&report::text(result, progress, took, args.verbose));
    print(&report::io_text(result, args.verbose || args.profile));
    print(&report::idle_rules_text(&idle_rules));
    if let Some(usage) = &usage {
        print(&report::profile::text(&result.profile, usage));
    }
}

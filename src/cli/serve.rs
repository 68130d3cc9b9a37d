//! `farshore serve`: the daemon of a site by its config; or, without one, folders of this host as targets
//! for sources elsewhere.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ArgMatches;
use clap::parser::ValueSource;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use farshore_core::path::escape_text;
use farshore_core::policy::{Policy, PolicySet};
use farshore_engine::source::system_wall_clock;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::{ServeArgs, TargetArgs};
use crate::exit::{Exit, Failure};
use crate::replicate::TargetOptions;
use crate::report::utc;
use crate::roots::{RootRules, check_root, check_state};
use crate::serve::{ServeOptions, serve};
use crate::site::config::{DEFAULT_FILE, SiteConfig};
use crate::site::daemon::{self, DaemonOptions, Word};
use crate::site::log::{Level, Log, Record};
use crate::state::{State, now_ms};

pub(super) fn parse_share(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) =
        text.split_once('=').ok_or_else(|| format!("'{text}': a share is NAME=PATH"))?;
    let plain = !name.is_empty()
        && name.len() <= farshore_proto::message::SHARE_NAME_MAX
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if !plain || path.is_empty() {
        return Err(format!("'{text}': a share's name has letters, digits, '-', '_' and '.'"));
    }
    Ok((name.into(), path.into()))
}

impl TargetArgs {
    pub(super) fn options(&self) -> TargetOptions {
        TargetOptions {
            devices: !self.no_devices,
            history_age_max_ms: i64::from(self.history_days) * 24 * 3_600 * 1_000,
            history_bytes_max: self.history_size.unwrap_or(u64::MAX),
            history_sets_max: self.history_count.unwrap_or(u64::MAX),
            io_limit: self.io_limit,
            epoch: None,
            policies: None,
        }
    }
}

/// What must decide at the sources: what the options say, if they say anything.
fn agreed(args: &ServeArgs, matches: &ArgMatches) -> Result<Option<PolicySet>, Failure> {
    let at = system_wall_clock();
    let rules = args.rules.policy(matches, at)?;
    let policies = args.policies.with(rules, matches, &args.state, at)?;
    let given =
        ["policy", "exclude", "include", "exclude_from", "include_from", "no_default_excludes"];
    let is_given = |id: &&str| matches.value_source(id) == Some(ValueSource::CommandLine);
    Ok(given.iter().any(is_given).then(|| policies.identity()))
}

/// What signals ask of a daemon, and who else may ask.
pub(super) fn words_of_signals(log: &Log) -> Result<(Sender<Word>, Receiver<Word>), Failure> {
    let (tell, told) = unbounded();
    let words = tell.clone();
    let said = log.clone();
    let stop = stop_on_signals(move |line| {
        said.say(&Record::new(Level::Info, "signal", line));
        said.flush(Duration::from_secs(1));
    })?;
    let failed = |e: std::io::Error| Failure::new(Exit::Internal, &e);
    let mut hang_ups = Signals::new([SIGHUP]).map_err(failed)?;
    let begin = |name: &str| std::thread::Builder::new().name(name.to_owned());
    let reload = tell.clone();
    let reloads = begin("reload").spawn(move || {
        for _ in hang_ups.forever() {
            if reload.send(Word::Reload).is_err() {
                return;
            }
        }
    });
    reloads.map_err(failed)?;
    let stops = begin("words").spawn(move || {
        if let Ok(why) = stop.recv() {
            words.send(Word::Stop(why)).unwrap_or(());
        }
    });
    stops.map_err(failed)?;
    Ok((tell, told))
}

/// Runs the daemon of a site.
fn stand(args: &ServeArgs) -> Result<Exit, Failure> {
    let config_file = args.config.clone().unwrap_or_else(|| DEFAULT_FILE.into());
    let config = SiteConfig::load(&config_file).map_err(|e| e.failure())?;
    let log = Log::to_stderr(args.log_format, args.log_level)
        .map_err(|e| Failure::new(Exit::Internal, &e))?;
    let (tell, told) = words_of_signals(&log)?;
    let options = DaemonOptions { config, config_file, log: log.clone(), io: args.io.io };
    let ready = |address: Option<SocketAddr>| {
        let at = address.map_or_else(String::new, |address| format!(", listening on {address}"));
        log.say(&Record::new(Level::Info, "ready", format!("ready{at}")));
    };
    let ended = daemon::run(options, (tell, told), &ready);
    log.flush(Duration::from_secs(2));
    ended
}

pub(super) fn run(args: ServeArgs, matches: &ArgMatches) -> Result<Exit, Failure> {
    let Some(listen) = args.listen else { return stand(&args) };
    if args.allow.is_empty() {
        let message = "option --allow: no source is named that may connect";
        return Err(Failure::usage(message, "give the key id that 'farshore key' shows there"));
    }
    let policies = agreed(&args, matches)?;
    let state =
        State::open(args.state.state.as_deref()).map_err(|e| Failure::new(Exit::Refused, &e))?;
    let rules = RootRules {
        allow_protected: args.roots.allow_protected,
        install_folders: args.roots.install_dir,
    };
    let mut shares = BTreeMap::new();
    for (name, path) in args.share {
        let root =
            check_root("target", &path, &rules).map_err(|e| super::replicate::root_failure(&e))?;
        if shares.insert(name.clone(), root).is_some() {
            return Err(Failure {
                exit: Exit::Usage,
                message: format!("share '{name}' is given twice"),
                hint: None,
            });
        }
    }
    let roots: Vec<&Path> = shares.values().map(PathBuf::as_path).collect();
    check_state(state.folder(), &roots).map_err(|e| super::replicate::root_failure(&e))?;
    let options = ServeOptions {
        listen,
        key: super::replicate::load_key(args.key.as_deref(), &state)?,
        allowed: args.allow.into_iter().collect(),
        shares,
        state,
        target: TargetOptions { policies, ..args.target_args.options() },
        io: args.io.io,
        profile: args.profile,
    };
    let log = |line: &str| {
        // Names, paths and the peers' words are in it.
        let line = escape_text(line);
        drop(writeln!(std::io::stderr(), "{} {line}", utc(now_ms())));
    };
    let stop = stop_on_signals(log)?;
    serve(&options, &log, &|address| log(&format!("listening on {address}")), &stop)?;
    Ok(Exit::Done)
}

/// Time sessions have to finish the batch they are applying after a signal to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// A word for the server on SIGTERM and SIGINT. A second signal, or the end of its patience, ends the
/// process as it is: what is journaled is finished when it starts again.
fn stop_on_signals(log: impl Fn(&str) + Send + 'static) -> Result<Receiver<&'static str>, Failure> {
    let failed = |e: std::io::Error| Failure {
        exit: Exit::Internal,
        message: format!("server: waiting for signals: {e}"),
        hint: None,
    };
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(failed)?;
    let (caught, signal) = unbounded();
    let (tell, told) = bounded(1);
    let begin = |name: &str| std::thread::Builder::new().name(name.to_owned());
    let waits = begin("signals").spawn(move || {
        for signal in signals.forever() {
            if caught.send(signal).is_err() {
                return;
            }
        }
    });
    waits.map_err(failed)?;
    let acts = begin("stop").spawn(move || {
        let Ok(first) = signal.recv() else { return };
        tell.send(if first == SIGINT { "SIGINT" } else { "SIGTERM" }).unwrap_or(());
        let why = match signal.recv_timeout(STOP_PATIENCE) {
            Ok(_) => "on a second signal".to_owned(),
            Err(_) => format!("after {STOP_PATIENCE:?}"),
        };
        log(&format!(
            "stopped {why} with sessions still at work: the next start finishes what they journaled"
        ));
        std::process::exit(Exit::Done as i32);
    });
    acts.map_err(failed)?;
    Ok(told)
}

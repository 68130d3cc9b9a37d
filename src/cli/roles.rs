//! `farshore switchover`, `failover`, `open`, `gate`: which site works with a share.
//!
//! Guarantees: what is typed twice is done once; a command that is not legal now changes nothing and says
//! what is legal instead. A command that is broken off goes on in the daemon; typed again it waits for it.

use std::time::Duration;

use farshore_core::path::escape_text;
use serde_json::Value;

use super::daemon::ask;
use super::{DaemonArgs, print};
use crate::exit::{Exit, Failure};
use crate::site::control::{Request, SwitchStep};

/// Hooks and the last cut take as long as they take.
const PATIENCE: Duration = Duration::from_secs(24 * 3_600);
/// What is answered from memory.
const AT_ONCE: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(super) struct SwitchoverArgs {
    /// Stay active: as long as the share was not handed over
    #[arg(long, conflicts_with = "take_back")]
    abort: bool,
    /// Be active again: the other site declined what was handed over
    #[arg(long)]
    take_back: bool,
    #[command(flatten)]
    daemon: DaemonArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct FailoverArgs {
    /// Said on purpose: what the other site did since the recovery point is not here
    #[arg(long, required = true)]
    force: bool,
    /// Your word that the other site is switched off: nothing is waited for. It must be true: two sites that
    /// work with one share deliver twice
    #[arg(long)]
    peer_is_off: bool,
    /// The recovery point that is opened: its number, a time, or a mark [default: the last one]
    #[arg(long, value_name = "WHEN")]
    at: Option<String>,
    #[command(flatten)]
    daemon: DaemonArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct OpenArgs {
    /// Your word that the other site is switched off
    #[arg(long, required_unless_present_any = ["resolve_split", "retry_hook"])]
    alone: bool,
    /// This site is to be the active one, where none is or both say that they are
    #[arg(long, conflicts_with = "alone")]
    resolve_split: bool,
    /// Run the hook again that failed
    #[arg(long, conflicts_with_all = ["alone", "resolve_split"])]
    retry_hook: bool,
    #[command(flatten)]
    daemon: DaemonArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct GateArgs {
    #[command(flatten)]
    daemon: DaemonArgs,
}

pub(super) fn switchover(args: &SwitchoverArgs) -> Result<Exit, Failure> {
    let step = match (args.abort, args.take_back) {
        (true, _) => SwitchStep::Abort,
        (_, true) => SwitchStep::TakeBack,
        _ => SwitchStep::Begin,
    };
    let share = args.daemon.share.clone();
    told(&args.daemon, &Request::Switchover { share, step })
}

pub(super) fn failover(args: &FailoverArgs) -> Result<Exit, Failure> {
    let FailoverArgs { force: _, peer_is_off, at, daemon } = args;
    let (share, peer_is_off) = (daemon.share.clone(), *peer_is_off);
    let request = Request::Failover { share, at: at.clone(), peer_is_off };
    let value = ask(&daemon.state, daemon.config.as_deref(), &request, PATIENCE)?;
    show(daemon, &value);
    // Whoever starts services behind it is to be stopped by a gate that is closed.
    Ok(if value["open"] == true { Exit::Done } else { Exit::Held })
}

pub(super) fn open(args: &OpenArgs) -> Result<Exit, Failure> {
    let share = args.daemon.share.clone();
    let request = match (args.resolve_split, args.retry_hook) {
        (true, _) => Request::ResolveSplit { share },
        (_, true) => Request::RetryHook { share },
        _ => Request::OpenAlone { share },
    };
    told(&args.daemon, &request)
}

pub(super) fn gate(args: &GateArgs) -> Result<Exit, Failure> {
    let daemon = &args.daemon;
    let request = Request::Gate { share: daemon.share.clone() };
    let value = ask(&daemon.state, daemon.config.as_deref(), &request, AT_ONCE)?;
    show(daemon, &value);
    Ok(if value["open"] == true { Exit::Done } else { Exit::Held })
}

fn told(daemon: &DaemonArgs, request: &Request) -> Result<Exit, Failure> {
    let value = ask(&daemon.state, daemon.config.as_deref(), request, PATIENCE)?;
    show(daemon, &value);
    Ok(Exit::Done)
}

fn show(daemon: &DaemonArgs, value: &Value) {
    if daemon.json {
        return print(&format!("{value}\n"));
    }
    let lines = value["lines"].as_array().map(Vec::as_slice).unwrap_or_default();
    for line in lines.iter().filter_map(Value::as_str) {
        print(&format!("{}\n", escape_text(line)));
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use farshore_core::role::CommandName;

    #[test]
    fn every_command_that_is_offered_can_be_typed() {
        use CommandName::{
            AbandonReconcile, AbortSwitchover, BeginReconcile, Failover, FailoverPeerIsOff,
            OpenAlone, ResolveSplit, RetryHook, Switchover, TakeBack,
        };
        let all = [
            Switchover,
            AbortSwitchover,
            TakeBack,
            Failover,
            FailoverPeerIsOff,
            OpenAlone,
            BeginReconcile,
            AbandonReconcile,
            ResolveSplit,
            RetryHook,
        ];
        for name in all {
            let mut command = super::super::Cli::command();
            let (words, options): (Vec<_>, Vec<_>) =
                name.name().split(' ').partition(|word| !word.starts_with("--"));
            for word in words {
                let found = command.find_subcommand(word).cloned();
                command = found.unwrap_or_else(|| panic!("{name}: no '{word}'"));
            }
            for option in options {
                let long = option.strip_prefix("--");
                assert!(command.get_arguments().any(|a| a.get_long() == long), "{name}: {option}");
            }
        }
    }
}

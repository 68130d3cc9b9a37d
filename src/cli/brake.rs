//! `farshore brake`: what the brake of a site's daemon holds, and what becomes of it.

use std::time::Duration;

use farshore_core::path::escape_text;
use serde_json::Value;

use super::daemon::ask;
use super::{DaemonArgs, print};
use crate::exit::{Exit, Failure};
use crate::site::board::facts::Hold;
use crate::site::board::verdict::{moment, span};
use crate::site::control::Request;

/// Letting a cut pass begins it; its end is not waited for.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub(super) struct BrakeArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// What is held, and why
    Show(ShowArgs),
    /// Let pass what is held
    Approve(EndArgs),
    /// Do not let it pass: the standby keeps what it has
    Reject(EndArgs),
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    #[command(flatten)]
    daemon: DaemonArgs,
}

#[derive(Debug, clap::Args)]
struct EndArgs {
    /// Of this account only, as 'brake show' names it
    #[arg(long, value_name = "ACCOUNT")]
    only: Option<String>,
    /// Only if it is still this hold
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    #[command(flatten)]
    daemon: DaemonArgs,
}

pub(super) fn run(args: BrakeArgs) -> Result<Exit, Failure> {
    let (request, daemon) = match args.command {
        Command::Show(ShowArgs { daemon }) => return show(&daemon),
        Command::Approve(EndArgs { only, id, daemon }) => {
            let share = daemon.share.clone();
            (Request::BrakeApprove { share, account: only, id }, daemon)
        }
        Command::Reject(EndArgs { only, id, daemon }) => {
            let share = daemon.share.clone();
            (Request::BrakeReject { share, account: only, id }, daemon)
        }
    };
    let value = ask(&daemon.state, daemon.config.as_deref(), &request, PATIENCE)?;
    match daemon.json {
        true => print(&format!("{value}\n")),
        false => {
            let of = |name: &str| value[name].as_str().map(escape_text);
            print(&format!("{}\n", of("text").unwrap_or_else(|| "done".into())));
        }
    }
    Ok(Exit::Done)
}

/// Exit code 5 when something is held, so that a script need not read the text.
fn show(daemon: &DaemonArgs) -> Result<Exit, Failure> {
    let request = Request::BrakeShow { share: daemon.share.clone() };
    let value = ask(&daemon.state, daemon.config.as_deref(), &request, PATIENCE)?;
    let none = Vec::new();
    let holds = value["holds"].as_array().unwrap_or(&none);
    match daemon.json {
        true => print(&format!("{value}\n")),
        false => print(&text(holds, value["now_unix_ms"].as_i64().unwrap_or(0))),
    }
    Ok(if holds.is_empty() { Exit::Done } else { Exit::Held })
}

fn text(holds: &[Value], now: i64) -> String {
    if holds.is_empty() {
        return "the brake holds nothing\n".into();
    }
    let mut lines = Vec::new();
    for value in holds {
        let share = escape_text(value["share"].as_str().unwrap_or_default());
        let hold: Hold = serde_json::from_value(value["hold"].clone()).unwrap_or_default();
        let whose = match hold.account.as_str() {
            "" => format!("share {share}"),
            account => format!("share {share}, account {}", escape_text(account)),
        };
        let since = u64::try_from(now.saturating_sub(hold.since_unix_ms)).unwrap_or(0);
        let stale = if hold.stale { ", as was heard last" } else { "" };
        let id = escape_text(&hold.id);
        lines.push(format!("{whose}: held for {} (id {id}){stale}", span(since)));
        lines.extend(hold.reasons.iter().map(|why| format!("  because {}", escape_text(why))));
        lines.extend(hold.counts.iter().map(|(what, n)| format!("  {n} {}", escape_text(what))));
        if hold.rejected_unix_ms.is_some() {
            lines.push("  rejected: nothing of it is applied".into());
        }
        if let Some(point) = hold.last_good_point {
            let time = hold
                .point_unix_ms
                .map_or_else(String::new, |time| format!(" of {}", moment(time, now)));
            lines.push(format!("  the last good recovery point is {point}{time}"));
        }
        lines.extend(hold.next.iter().map(|next| format!("  next: {}", escape_text(next))));
    }
    lines.join("\n") + "\n"
}

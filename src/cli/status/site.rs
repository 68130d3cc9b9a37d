//! `farshore status` of a site: what its daemon knows, on one screen. Nobody looks at a tree for it.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use serde_json::Value;

use super::screen;
use crate::cli::StatusArgs;
use crate::cli::daemon::ask;
use crate::exit::{Exit, Failure};
use crate::site::board::facts::SiteStatus;
use crate::site::control::Request;

/// A daemon answers this from memory.
const PATIENCE: Duration = Duration::from_secs(10);
/// `--watch`.
const REDRAWN_EVERY: Duration = Duration::from_secs(1);
/// Cursor home; clear to the end.
const CLEAR: &str = "\x1b[H\x1b[J";

pub(in crate::cli) fn run(args: &StatusArgs) -> Result<Exit, Failure> {
    if !args.watch {
        let value = fetch(args)?;
        let (text, exit) = shown(&value, args.json)?;
        crate::cli::print(&text);
        return Ok(exit);
    }
    let terminal = std::io::stdout().is_terminal();
    loop {
        // A daemon that is away for a while is something to watch, too.
        let text = match fetch(args).and_then(|value| shown(&value, args.json)) {
            Ok((text, _)) => text,
            Err(failure) if args.json => format!("{}\n", failure.json()),
            Err(failure) => format!("NOT READY: {failure}\n"),
        };
        let mut out = std::io::stdout().lock();
        let clear = if terminal && !args.json { CLEAR } else { "" };
        if write!(out, "{clear}{text}").and_then(|()| out.flush()).is_err() {
            // Whoever watched went away.
            return Ok(Exit::Done);
        }
        drop(out);
        std::thread::sleep(REDRAWN_EVERY);
    }
}

fn fetch(args: &StatusArgs) -> Result<Value, Failure> {
    ask(&args.state, args.config.as_deref(), &Request::Status {}, PATIENCE)
}

/// What is printed, and the exit code that goes with it.
fn shown(value: &Value, json: bool) -> Result<(String, Exit), Failure> {
    let status = serde_json::from_value::<SiteStatus>(value.clone()).map_err(|e| Failure {
        exit: Exit::Connection,
        message: format!("the daemon's status makes no sense: {e}"),
        hint: Some("is the daemon of another version?".into()),
    })?;
    let exit = if status.verdict.ready { Exit::Done } else { Exit::NotReady };
    let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let text = match json {
        // As it came: a newer daemon may say more than is known here.
        true => format!("{value}\n"),
        false => screen::screen(&status, colours),
    };
    Ok((text, exit))
}

//! `farshore scrub`: has the daemon of a standby read all of it now.

use std::time::Duration;

use serde_json::Value;

use super::daemon::ask;
use super::{DaemonArgs, print};
use crate::exit::{Exit, Failure};
use crate::site::control::Request;

/// Reading all of a share takes as long as it takes.
const PATIENCE: Duration = Duration::from_secs(24 * 3_600);

#[derive(Debug, clap::Args)]
pub(super) struct ScrubArgs {
    #[command(flatten)]
    daemon: DaemonArgs,
}

pub(super) fn run(args: &ScrubArgs) -> Result<Exit, Failure> {
    let daemon = &args.daemon;
    let request = Request::Scrub { share: daemon.share.clone(), now: true };
    let pass = ask(&daemon.state, daemon.config.as_deref(), &request, PATIENCE)?;
    let count = |name: &str| pass[name].as_u64().unwrap_or(0);
    if daemon.json {
        print(&format!("{pass}\n"));
    } else {
        print(&text(&pass));
    }
    Ok(match (count("rotten") + count("foreign"), count("unreadable")) {
        (0, 0) => Exit::Done,
        (0, _) => Exit::Partial,
        _ => Exit::Differs,
    })
}

fn text(pass: &Value) -> String {
    let count = |name: &str| pass[name].as_u64().unwrap_or(0);
    format!(
        "{} files are as they were applied ({} bytes read); {} rotted, {} entries were changed by \
         others, {} cannot be read\n",
        count("verified"),
        count("bytes"),
        count("rotten"),
        count("foreign"),
        count("unreadable")
    )
}

//! `farshore capture`: a further production node of a share, which reports what changes there.

use std::path::PathBuf;
use std::time::Duration;

use farshore_engine::io::uring::IoMode;

use crate::exit::{Exit, Failure};
use crate::site::config::{DEFAULT_FILE, SiteConfig};
use crate::site::daemon::DaemonOptions;
use crate::site::log::{Level, Log, Record};
use crate::site::node;

#[derive(Debug, clap::Args)]
pub(super) struct CaptureArgs {
    /// The node's config [default: /etc/farshore/farshore.toml]: [site] is this node, [peer] the site that
    /// sends and where it is dialed, each [[share]] the folder it is mounted at here
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How the log looks: text or json
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: crate::site::log::Format,
    /// What the log leaves out: debug, info, warn or error, and what is below
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: Level,
}

pub(super) fn run(args: CaptureArgs) -> Result<Exit, Failure> {
    let config_file = args.config.unwrap_or_else(|| DEFAULT_FILE.into());
    let config = SiteConfig::load(&config_file).map_err(|e| e.failure())?;
    let log = Log::to_stderr(args.log_format, args.log_level)
        .map_err(|e| Failure::new(Exit::Internal, &e))?;
    let (_tell, told) = super::serve::words_of_signals(&log)?;
    let options = DaemonOptions { config, config_file, log: log.clone(), io: IoMode::default() };
    let ready = || log.say(&Record::new(Level::Info, "ready", "ready".to_owned()));
    let ended = node::run(options, &told, &ready);
    log.flush(Duration::from_secs(2));
    ended
}

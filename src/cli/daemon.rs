//! Finds the daemon of a site, and asks it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::StateArgs;
use crate::exit::{Exit, Failure};
use crate::site::config::DEFAULT_FILE;
use crate::site::control::{self, Request};
use crate::state::State;

/// Of a site's config, what says where its daemon is. The rest is the daemon's.
#[derive(Deserialize)]
struct Config {
    site: Site,
}

#[derive(Deserialize)]
struct Site {
    state: PathBuf,
}

/// Asks the daemon whose state folder `--state` or `--config` names.
pub(super) fn ask(
    state: &StateArgs,
    config: Option<&Path>,
    request: &Request,
    patience: Duration,
) -> Result<Value, Failure> {
    control::call(&folder(state, config)?, request, patience)
}

/// The state folder that `--state` or `--config` names.
pub(super) fn folder(state: &StateArgs, config: Option<&Path>) -> Result<PathBuf, Failure> {
    // As the daemon itself: what its config says, where there is one.
    let site = Path::new(DEFAULT_FILE);
    let config = config.or((state.state.is_none() && site.exists()).then_some(site));
    match (state.state.as_deref(), config) {
        (None, Some(config)) => of_config(config),
        (given, _) => Ok(State::existing(given)
            .map_err(|e| Failure::new(Exit::Refused, &e))?
            .folder()
            .to_path_buf()),
    }
}

fn of_config(file: &Path) -> Result<PathBuf, Failure> {
    let failed = |exit, step: &str, e: &dyn std::fmt::Display| Failure {
        exit,
        message: format!("config {}: {step}: {e}", file.display()),
        hint: Some("or name the state folder itself by --state".into()),
    };
    let text =
        std::fs::read_to_string(file).map_err(|e| failed(Exit::Refused, "reading it", &e))?;
    let config: Config =
        toml::from_str(&text).map_err(|e| failed(Exit::Usage, "reading it", &e.message()))?;
    Ok(config.site.state)
}

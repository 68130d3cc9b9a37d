//! Opening the watch of a share: what waits to be looked at, and who adds to it.

use std::path::Path;

use farshore_engine::capture::{DirtyConfig, DirtySet, WatchConfig, Watcher};

use crate::exit::{Exit, Failure};
use crate::site::config::Share;
use crate::state::now_ms;

/// The set of what waits to be looked at, as its journal in `folder` has it, and the watch that fills it.
///
/// # Errors
/// [`Failure`] naming the share.
pub fn watched(share: &Share, folder: &Path) -> Result<(DirtySet, Watcher), Failure> {
    let failed = |step: &str, e: std::io::Error| Failure {
        exit: Exit::Refused,
        message: format!("share '{}': {step}: {e}", share.name),
        hint: None,
    };
    let kept = DirtyConfig { account_depth: share.account_depth, ..DirtyConfig::default() };
    let (dirty, _) = DirtySet::resume(kept, folder, now_ms())
        .map_err(|e| failed("opening the journal of what waits to be looked at", e))?;
    let watch = WatchConfig::new(&share.path, now_ms);
    let watcher =
        Watcher::start(&watch, dirty.clone()).map_err(|e| failed("watching its root", e))?;
    Ok((dirty, watcher))
}

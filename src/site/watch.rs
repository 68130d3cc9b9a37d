//! Opening the watch of a share: what waits to be looked at, and who adds to it.

use std::path::Path;
use std::sync::Arc;

use farshore_engine::capture::{
    DirtyConfig, DirtySet, Keeper, Resumed, WatchConfig, Watcher, resume,
};

use crate::exit::{Exit, Failure};
use crate::site::config::Share;
use crate::state::now_ms;

/// The set of what waits to be looked at, as its journal in `folder` has it, and the watch that fills it: the one
/// that `keeper` kept, if nothing was lost meanwhile.
///
/// # Errors
/// [`Failure`] naming the share.
pub fn watched(
    share: &Share,
    folder: &Path,
    keeper: Option<Arc<dyn Keeper>>,
) -> Result<(DirtySet, Watcher, Resumed), Failure> {
    let set = DirtyConfig { account_depth: share.account_depth, ..DirtyConfig::default() };
    let watch = WatchConfig::new(&share.path, now_ms);
    resume(&watch, set, folder, keeper).map_err(|e| Failure {
        exit: Exit::Refused,
        message: format!("share '{}': watching its root: {e}", share.name),
        hint: None,
    })
}

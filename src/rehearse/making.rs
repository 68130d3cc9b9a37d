//! What the daemon does for a rehearsal: makes the view, since it has the catalog open.
//!
//! Guarantees: replication goes on meanwhile; what was made is removed when whoever asked is gone, or when the
//! share's end closes before it is complete.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use farshore_core::entry::Timestamp;
use farshore_engine::history::{self, View};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::folder;
use crate::exit::{Exit, Failure};
use crate::history::{failure, parse_wanted};
use crate::report::point_json;
use crate::site::receiver::Receiver;

/// Problems in an answer.
const LISTED: usize = 1_000;

/// A view that was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MadeView {
    /// The recovery point, if it is one.
    pub point: Option<Value>,
    /// The state after this batch.
    pub batch: u64,
    /// R of what was made.
    pub root: Option<String>,
    /// Whether it is the state, whole; of a point by R as well.
    pub exact: bool,
    /// Entries.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Whether blocks are shared.
    pub shares_blocks: bool,
    /// Entries looked for again, because a batch under way had moved them.
    pub again: u64,
    /// How long it took, in milliseconds.
    pub ms: u64,
    /// What the file system did not keep, by kind.
    pub degraded: Vec<(String, u64)>,
    /// Entries that could not be made.
    pub failed: u64,
    /// The first of them, each with why.
    pub problems: Vec<(String, String)>,
    /// Changes behind this time, in seconds and nanoseconds, are the rehearsal's.
    pub ready: (i64, u32),
}

impl MadeView {
    /// The time behind which changes are the rehearsal's.
    #[must_use]
    pub fn ready(&self) -> Timestamp {
        Timestamp { seconds: self.ready.0, nanos: self.ready.1 }
    }
}

/// Makes the view of the state `at` in the folder `id`, unless the share's end is `over` before.
///
/// # Errors
/// [`Failure`]; the folder is removed when its owner leaves it.
pub fn make(
    receiver: &Receiver,
    over: &AtomicBool,
    at: &str,
    id: &str,
) -> Result<MadeView, Failure> {
    let began = Instant::now();
    let usage = |message: String| Failure { exit: Exit::Usage, message, hint: None };
    let wanted = parse_wanted(at).map_err(|e| usage(format!("--at: {e}")))?;
    if !folder::is_id(id) {
        return Err(usage(format!("rehearsal '{id}': no such name")));
    }
    let storage = receiver.storage();
    let opened = folder::find(storage, id).map_err(|e| Failure {
        exit: Exit::Refused,
        message: format!("rehearsal {id}: opening its folder: {e}"),
        hint: None,
    })?;
    folder::sweep_when_left(storage, id);
    let catalog = receiver.catalog();
    let (batch, point) = catalog
        .reader()
        .map_err(Into::into)
        .and_then(|reader| history::find(&reader, &wanted))
        .map_err(|e| failure(&e))?;
    let size = point.as_ref().map(|kept| (kept.point.entries, kept.point.bytes));
    let is_wanted = || !over.load(Relaxed) && folder::is_taken(storage, &opened);
    let view =
        View { storage: &**storage, catalog, batch, size, folder: &opened, wanted: &is_wanted };
    let made = view.make().map_err(|e| failure(&e))?;
    let is_that = point.as_ref().is_none_or(|kept| Some(kept.point.root) == made.root);
    let problems = made.failures.iter().take(LISTED);
    Ok(MadeView {
        point: point.map(|kept| point_json(&kept.point)),
        batch,
        root: made.root.map(|root| root.to_string()),
        exact: is_that && made.failed == 0,
        entries: made.entries,
        bytes: made.bytes,
        shares_blocks: made.shares_blocks,
        again: made.again,
        ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        degraded: made.degraded.counts(),
        failed: made.failed,
        problems: problems.map(|f| (f.path.to_string(), f.text.clone())).collect(),
        ready: (made.ready.seconds, made.ready.nanos),
    })
}

//! What is left out of a cut, and waits: files that the standby has no room for, and what a policy defers.

use farshore_core::policy::{Action, Deferring, Policy, Verdict};

use super::*;

/// Files that the standby had no room for, and that it is not time to try again.
pub(super) fn waits(troubled: &BTreeMap<RelPath, Trouble>) -> Vec<RelPath> {
    let waits = |trouble: &Trouble| trouble.needed.is_some() && !trouble.marked;
    let waiting = troubled.iter().filter(|(_, trouble)| waits(trouble));
    waiting.map(|(path, _)| path.clone()).take(WAITS_MAX).collect()
}

impl Sender {
    /// Whether the standby is known to have no room for a file that is as it was: to send it again would
    /// be for nothing.
    pub(super) fn is_still_too_large(&self, path: &RelPath, needed: u64) -> bool {
        let has_no_room = self.standby_free().is_some_and(|free| free < needed);
        let size = || {
            let (parent, name) = path.split()?;
            let parent =
                self.storage.open_directory(self.storage.root(), parent.as_bytes()).ok()?;
            Some(self.storage.stat(Object::Named(&parent, name)).ok()?.size)
        };
        has_no_room && size() == Some(needed)
    }

    /// Notes where a policy deferred something; what the standby has no room for waits by itself, and what a
    /// cut left out is looked at when it is over.
    pub(super) fn note_deferred(
        &self,
        inner: &mut Inner,
        cut: &Cut,
        waits: &[RelPath],
        report: &CutReport,
    ) {
        let again = Instant::now() + DEFERRED_AGAIN;
        let waits = |path: &RelPath| waits.contains(path) || cut.left_out.covers(path);
        for path in report.deferred_first.iter().filter(|path| !waits(path)) {
            if inner.deferred.len() >= TROUBLED_MAX {
                break;
            }
            if let Some((parent, _)) = path.split() {
                inner.deferred.entry(parent).or_insert(again);
            }
        }
    }
}

/// The policy of a cut without some files: each is deferred, and what else is there is decided as ever. `policy` itself
/// where there are none.
pub(super) fn without(policy: Arc<dyn Policy>, paths: &[RelPath]) -> Arc<dyn Policy> {
    if paths.is_empty() {
        return policy;
    }
    let paths: BTreeSet<RelPath> = paths.iter().cloned().collect();
    let defers = move |path: &RelPath, verdict: &Verdict| {
        verdict.action == Action::Replicate && paths.contains(path)
    };
    Arc::new(Deferring { policy, defers })
}

//! How much history is kept: by age, by bytes, and by sets.
//!
//! Guarantees: the oldest sets go first and no set before an older one, so that every state from some
//! batch on can be gone back to; the catalog forgets a set, its notes and the points that need it in
//! one transaction, before its files are removed: what it names is there. A crash in between leaves files
//! that the next start adopts and a later pruning removes. What the last good points of the source's holds need
//! is kept whatever the bounds say: who decides to go back to one may take days.
//! What a state needs that is read (`catalog/pins.rs`) stays until it was read.

use redb::Durability;

use super::{Applier, ApplyError, ApplyStep};
use crate::io::Storage;
use crate::own_folder::{remove_tree, set_name};
use farshore_core::path::RelPath;

/// Sets that are looked at, and forgotten in one transaction.
const AT_ONCE: usize = 64;

/// How much history is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryBounds {
    /// Sets older than this, in milliseconds, are removed.
    pub age_max_ms: i64,
    /// The oldest sets are removed while all exceed this many bytes of content.
    pub bytes_max: u64,
    /// The oldest sets are removed while there are more.
    pub sets_max: u64,
}

impl HistoryBounds {
    /// All of it.
    pub const NONE: Self = Self { age_max_ms: i64::MAX, bytes_max: u64::MAX, sets_max: u64::MAX };
}

impl<S: Storage> Applier<'_, S> {
    /// Removes the oldest sets of kept versions until the rest is within `bounds`. Answers how many went.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub fn prune_history(&self, bounds: &HistoryBounds) -> Result<u64, ApplyError> {
        let mut pruned = 0;
        loop {
            let gone = self.catalog.pruning(|last| self.prune_some(bounds, last))?;
            if gone == 0 {
                return Ok(pruned);
            }
            pruned += gone;
        }
    }

    /// Some of the oldest sets, none behind `last`; how many went.
    fn prune_some(&self, bounds: &HistoryBounds, last: u64) -> Result<u64, ApplyError> {
        let now = (self.now_ms)();
        let reader = self.catalog.reader()?;
        let (mut sets, mut bytes) = reader.history_totals()?;
        let mut oldest = reader.oldest_history_sets(AT_ONCE)?;
        if let Some(most) = reader.pruned_up_to_at_most()? {
            oldest.retain(|(set, _)| *set <= most);
        }
        drop(reader);
        let is_old = |at: i64| now.saturating_sub(at) > bounds.age_max_ms;
        // Older ones may follow a younger one: clocks are set back.
        let mut gone =
            oldest.iter().rposition(|(_, s)| is_old(s.time_unix_ms)).map_or(0, |p| p + 1);
        for (place, (_, facts)) in oldest.iter().enumerate() {
            let is_much = sets > bounds.sets_max || bytes > bounds.bytes_max.into();
            if place >= gone && !is_much {
                break;
            }
            gone = gone.max(place + 1);
            sets -= sets.min(1);
            bytes = bytes.saturating_sub(facts.bytes.into());
        }
        // Of what somebody reads, nothing goes before the reader has.
        let gone = &oldest[..gone.min(oldest.partition_point(|(set, _)| *set <= last))];
        if gone.is_empty() {
            return Ok(0);
        }
        self.catalog.update(Durability::Immediate, |t| {
            gone.iter().try_for_each(|(set, _)| t.remove_history_set(*set))
        })?;
        for (set, _) in gone {
            remove_tree(self.storage, &self.own.history, set_name(*set).as_bytes())
                .map_err(Self::disk(*set, ApplyStep::CleanUp, &RelPath::root()))?;
        }
        Ok(gone.len() as u64)
    }
}

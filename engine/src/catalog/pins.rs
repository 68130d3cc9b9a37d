//! States that somebody reads: their history stays meanwhile.
//!
//! Guarantees: while a [`Pin`] is held, no set is pruned that the state after its batch needs; a pin waits
//! for a pruning that is under way, so that what it holds is all there or is known to be gone. Pins are in
//! memory: a restart has none.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Catalog;

/// Batches whose states are read, and by how many.
#[derive(Debug, Default)]
pub(super) struct Pins(Mutex<BTreeMap<u64, usize>>);

impl Pins {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Holds the history of a state. Dropped, it may be pruned.
#[derive(Debug)]
pub struct Pin<'c> {
    pins: &'c Pins,
    batch: u64,
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        let mut pins = self.pins.lock();
        if let Some(count) = pins.get_mut(&self.batch) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.batch);
            }
        }
    }
}

impl Catalog {
    /// Holds the history that the state after `batch` needs.
    #[must_use]
    pub fn pin(&self, batch: u64) -> Pin<'_> {
        *self.pins.lock().entry(batch).or_default() += 1;
        Pin { pins: &self.pins, batch }
    }

    /// Prunes: `prune` is told the last set that may go, and nobody pins meanwhile.
    pub(crate) fn pruning<T>(&self, prune: impl FnOnce(u64) -> T) -> T {
        let pins = self.pins.lock();
        prune(pins.first_key_value().map_or(u64::MAX, |(batch, _)| *batch))
    }
}

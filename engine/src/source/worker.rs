//! The threads that read and send batches.
//!
//! A worker takes a batch, opens its stream when it is that batch's turn, and writes it; what it holds
//! is known to the coordinator before the target can acknowledge it.

use std::sync::{Condvar, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender};
use farshore_proto::batch::{BatchHeader, Deal};
use farshore_proto::link::Link;

use super::{AheadDesk, Carried, Event, SourceConfig, SourceError, caught};
use crate::catalog::Catalog;
use crate::frames::{FrameWriter, LineGauge, Striping};
use crate::ingest::{Ingest, RunIndex, SignDesk};
use crate::io::Storage;
use crate::plan::Change;
use crate::profile::Stage;
use crate::progress::Progress;

/// Lets batch streams be opened in the order of their numbers, so that a target that works on them
/// in order of arrival always has the oldest in hand.
pub(super) struct Turnstile {
    /// The number whose turn it is; `None` when nobody's ever will be.
    turn: Mutex<Option<u64>>,
    moved: Condvar,
}

impl Turnstile {
    pub(super) fn new(first: u64) -> Self {
        Self { turn: Mutex::new(Some(first)), moved: Condvar::new() }
    }

    /// Runs `open` when it is `number`'s turn.
    fn pass<T>(&self, number: u64, open: impl FnOnce() -> T) -> Option<T> {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        while turn.is_some_and(|t| t < number) {
            turn = self.moved.wait(turn).unwrap_or_else(PoisonError::into_inner);
        }
        let current = (*turn)?;
        let result = open();
        *turn = Some(current + 1);
        self.moved.notify_all();
        Some(result)
    }

    pub(super) fn abandon(&self) {
        *self.turn.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.moved.notify_all();
    }
}

pub(super) struct Worker<'a, S: Storage> {
    pub(super) storage: &'a S,
    pub(super) catalog: &'a Catalog,
    pub(super) link: &'a dyn Link,
    pub(super) config: &'a SourceConfig<'a>,
    pub(super) progress: &'a Progress,
    pub(super) index: &'a RunIndex,
    pub(super) desk: &'a SignDesk<'a>,
    pub(super) ahead: &'a AheadDesk,
    pub(super) carried: &'a Carried,
    pub(super) gauge: &'a LineGauge,
    pub(super) turnstile: &'a Turnstile,
    pub(super) striping: Striping,
    pub(super) deal: Deal,
    pub(super) events: Sender<Event>,
}

impl<S: Storage> Worker<'_, S> {
    pub(super) fn run(&self, queue: &Receiver<(u64, Vec<Change>)>) {
        while let Ok((batch, changes)) = queue.recv() {
            let written = caught(|| self.batch(batch, changes));
            self.index.finish(batch);
            if let Err(e) = written {
                self.turnstile.abandon();
                // The coordinator may be gone already; then it knows why.
                drop(self.events.send(Event::Failed(e)));
                return;
            }
        }
    }

    fn batch(&self, batch: u64, changes: Vec<Change>) -> Result<(), SourceError> {
        let header = BatchHeader { deal: self.deal, ..BatchHeader::of(batch, self.config.epoch) };
        let stripes = self.striping.streams(bytes_of(&changes));
        let opened = self.turnstile.pass(batch, || {
            let profile = self.config.profile;
            let begin = || FrameWriter::begin(self.link, header, stripes, self.gauge, profile);
            self.ahead.opening(begin)
        });
        let mut writer = opened.ok_or(SourceError::WorkerGone)??;
        // In this order: what is acknowledged meanwhile is in the catalog or still in the index.
        self.index.begin(batch);
        let reader = self.catalog.reader()?;
        let mut ingest = Ingest::new(
            self.storage,
            reader,
            self.index,
            self.desk,
            self.progress,
            self.config.now,
            self.config.racy_ns,
        );
        ingest.helped = (self.config.workers > 1).then_some(self.config.profile);
        ingest.carried = Some(self.carried);
        let _reading = self.config.profile.enter(Stage::Ingest);
        let record = ingest.write_batch(batch, changes, &mut writer)?;
        // Before the batch can be acknowledged, the coordinator knows what it holds.
        drop(self.events.send(Event::Written(batch, record)));
        let bytes = writer.finish()?;
        Progress::add(&self.progress.frame_bytes, bytes);
        Ok(())
    }
}

/// Bytes of the files that will be looked at.
fn bytes_of(changes: &[Change]) -> u64 {
    let sizes = changes.iter().map(|change| match change {
        Change::Look { size, .. } => *size,
        _ => 0,
    });
    sizes.fold(0, u64::saturating_add)
}

//! Content that arrives ahead of its cut, beside the batches.
//!
//! Guarantees: what the source is told of as whole is durable and stays until its cut, until the source wants
//! it no longer, or for a week, as long as no more is whole than is held: the source sees to that, and asks before a
//! cut that places any of it whether it is there; a stream that breaks off leaves what it brought. It never holds up a
//! batch: it has threads of its own, and its streams are as many at most. What goes wrong with one
//! file, a full disk among it, is that file's failure and not the session's.

use farshore_core::path::RelPath;
use farshore_core::recipe::{FileDigest, Recipe};
use farshore_proto::message::{Failure, FailureKind, HELD_LEN_MAX, Receipt};

use super::*;
use crate::ahead::Slot;
use crate::stage::Staged;

impl<S: Storage> Session<'_, S> {
    /// Takes in what is carried ahead, one stream at a time.
    pub(super) fn carry(
        &self,
        own: &OwnFolder<S>,
        incoming: &Receiver<(FrameReader, u64)>,
    ) -> Result<(), TargetError> {
        while let Ok((mut reader, number)) = incoming.recv() {
            let failure = match own.begin_ahead(self.storage) {
                Ok(slot) => match self.carried(own, &mut reader, &slot) {
                    Ok(failure) => failure,
                    Err(e) => {
                        drop(own.drop_ahead(self.storage, &slot));
                        return Err(e);
                    }
                },
                Err(e) => {
                    let failure = self.failed(&e, format!("making a place for it: {e}"));
                    passed_over(&mut reader)?.then(|| vec![failure])
                }
            };
            self.machine().carry_ended(number);
            let Some(failures) = failure else { continue };
            let receipt = Receipt { batch: number, failures, degraded: Vec::new() };
            // Where nothing fitted any more, how much it takes is not known here.
            let is_too_large = |failure: &Failure| match failure.kind {
                FailureKind::NoSpace { needed, .. } => needed > 0,
                _ => false,
            };
            if let Some(observer) = &self.config.observer
                && receipt.failures.iter().any(is_too_large)
            {
                observer.applied(&receipt);
            }
            self.send(&Message::Carried(receipt.fitted()))?;
        }
        Ok(())
    }

    /// Takes in one stream; what failed, or `None` when its sender gave it up.
    fn carried(
        &self,
        own: &OwnFolder<S>,
        reader: &mut FrameReader,
        slot: &Slot<S>,
    ) -> Result<Option<Vec<Failure>>, TargetError> {
        // It waits for no batch.
        let applied = Applied::new(u64::MAX);
        let profile = &*self.config.profile;
        let (storage, catalog, config) = (self.storage, self.catalog, self.config.stage);
        let stager = Stager::carrying(storage, catalog, own, &applied, config, slot)
            .map(|stager| stager.speaking(self.machine().version()));
        let staged = stager.and_then(|s| profile.time(Stage::Stage, || s.run(reader, profile)));
        match staged {
            Ok(mut batch) => {
                let whole = whole_of(&mut batch).filter(|_| batch.failures.is_empty());
                let no_room = |f: &Failure| matches!(f.kind, FailureKind::NoSpace { .. });
                if batch.failures.iter().any(no_room) {
                    // What it has taken is wanted for changes.
                    own.drop_ahead(storage, slot).map_err(TargetError::Ahead)?;
                    return Ok(Some(batch.failures));
                }
                let ended = match whole {
                    Some((path, recipe)) => own.end_ahead(storage, slot, &path, recipe),
                    None => own.break_ahead(storage, slot),
                };
                let ended =
                    ended.and_then(|()| own.supersede_ahead(storage, slot, &batch.built_on));
                if let Err(e) = ended {
                    own.drop_ahead(storage, slot).map_err(TargetError::Ahead)?;
                    let text = format!("holding it ahead of its cut: {e}");
                    batch.failures.push(self.failed(&e, text));
                }
                Ok(Some(batch.failures))
            }
            Err(StageError::Frame(FrameError::Link(_) | FrameError::EndedEarly)) => {
                own.break_ahead(storage, slot).map_err(TargetError::Ahead)?;
                Ok(None)
            }
            // What it has taken is wanted for changes.
            Err(e @ StageError::Disk { .. }) => {
                own.drop_ahead(storage, slot).map_err(TargetError::Ahead)?;
                let text = crate::ingest::describe(&e);
                let StageError::Disk { source, .. } = &e else { return Err(e.into()) };
                let failure = self.failed(source, text);
                Ok(passed_over(reader)?.then(|| vec![failure]))
            }
            Err(e) => Err(e.into()),
        }
    }

    /// What the disk says of a stream.
    fn failed(&self, e: &io::Error, text: String) -> Failure {
        // How much it takes its source knows.
        let kind = match is_full(e) {
            true => {
                FailureKind::NoSpace { needed: 0, free: self.storage.free_bytes().unwrap_or(0) }
            }
            false => FailureKind::Refused,
        };
        Failure { path: RelPath::root(), kind, text }
    }

    /// Removes what is no longer wanted, and says what is held.
    pub(super) fn list_ahead(
        &self,
        own: &OwnFolder<S>,
        keep: Option<&[FileDigest]>,
    ) -> Result<(), TargetError> {
        if let Some(keep) = keep {
            own.keep_ahead(self.storage, keep).map_err(TargetError::Ahead)?;
        }
        let held = own.ahead.list();
        for held in &held {
            let recipe = held.recipe.to_bytes();
            let mut pieces = recipe.chunks(HELD_LEN_MAX).peekable();
            while let Some(piece) = pieces.next() {
                self.send(&Message::Held {
                    content: held.content,
                    whole: held.whole,
                    last: pieces.peek().is_none(),
                    bytes: piece.to_vec(),
                })?;
            }
        }
        self.send(&Message::Listed(held.len() as u64))
    }
}

/// The file that was staged whole, if one was, and its recipe.
fn whole_of(batch: &mut StagedBatch) -> Option<(RelPath, Recipe)> {
    let [Staged::Place { path, entry, .. }] = &batch.staged[..] else { return None };
    Some((path.clone(), batch.recipes.remove(entry.content()?)?))
}

/// Reads what still comes of a stream that came to nothing: one that is stopped would end the session. Whether
/// it ended in order.
fn passed_over(reader: &mut FrameReader) -> Result<bool, TargetError> {
    let mut payload = Vec::new();
    loop {
        match reader.next_frame(&mut payload) {
            Ok(true) => {}
            Ok(false) => return Ok(true),
            Err(FrameError::Link(_) | FrameError::EndedEarly) => return Ok(false),
            Err(e) => return Err(StageError::from(e).into()),
        }
    }
}

//! Small files that are created many at a time.
//!
//! Guarantees: a file that waits is in its place in the list of what was staged, and leaves it if it
//! cannot be created; none waits longer than the frame its bytes are in, nor beyond an operation that
//! may look for its content. Nothing else of the batch is touched by one that fails.

use farshore_core::entry::Entry;
use farshore_core::path::RelPath;
use farshore_core::recipe::FileDigest;
use farshore_proto::message::Failure;

use super::{OpError, Slot, StageError, Staged, Stager, refused};
use crate::catalog::LocalFacts;
use crate::io::Storage;
use crate::io::batch::{FILES_MAX, NewSmallFile, StepError};
use crate::metadata::Degraded;

/// One that waits; its bytes are in the frame.
pub(super) struct Waiting<'p> {
    slot: Slot,
    path: RelPath,
    entry: Entry,
    bytes: &'p [u8],
    /// Permission bits to create it with, and those of them it keeps.
    mode: (u32, u32),
    /// Its place in what was staged.
    staged: usize,
}

impl<S: Storage> Stager<'_, S> {
    /// Lets a small file wait for others; creates them when they are enough.
    pub(super) fn small<'p>(
        &mut self,
        path: RelPath,
        entry: Entry,
        bytes: &'p [u8],
        waiting: &mut Vec<Waiting<'p>>,
    ) -> Result<(), OpError> {
        let content = FileDigest::of_small(bytes);
        if entry.content() != Some(&content) || entry.size() != bytes.len() as u64 {
            return Err(refused("its content does not have its digest"));
        }
        let mode = self.mode_of(&entry).map_err(Self::failed(&path, "creating it"))?;
        let slot = self.slot(&path);
        let staged = self.out.staged.len();
        self.list(&slot, path.clone(), entry.clone(), None);
        waiting.push(Waiting { slot, path, entry, bytes, mode, staged });
        if waiting.len() >= self.storage.batch_files().min(FILES_MAX) {
            self.create_waiting(waiting).map_err(OpError::Fatal)?;
        }
        Ok(())
    }

    /// Creates those that wait.
    pub(super) fn create_waiting(
        &mut self,
        waiting: &mut Vec<Waiting<'_>>,
    ) -> Result<(), StageError> {
        if waiting.is_empty() {
            return Ok(());
        }
        let new = |w: &Waiting<'_>| (w.slot.clone(), w.mode.0);
        let slots: Vec<(Slot, u32)> = waiting.iter().map(new).collect();
        let files: Vec<NewSmallFile<'_, S>> = waiting
            .iter()
            .zip(&slots)
            .map(|(w, (slot, mode))| NewSmallFile {
                at: self.slot_directory(slot),
                name: &slot.name,
                mode: *mode,
                bytes: w.bytes,
            })
            .collect();
        let mut degraded = Degraded::default();
        let mut finished: Vec<Option<Result<Option<LocalFacts>, OpError>>> = Vec::new();
        finished.resize_with(files.len(), || None);
        let made = self.storage.create_small_files(&files, &mut |number, file| {
            let w = &waiting[number];
            let with = (file, Some(w.mode.1));
            finished[number] = Some(self.finish(&w.slot, with, &w.path, &w.entry, &mut degraded));
        });
        self.out.degraded.merge(&degraded);
        let mut failed = Vec::new();
        for ((w, made), finished) in waiting.drain(..).zip(made).zip(finished) {
            let made =
                made.map_err(|StepError { step, source }| Self::failed(&w.path, step)(source));
            match made.and_then(|()| finished.unwrap_or(Ok(None))) {
                Ok(facts) => self.is_there(&w, facts),
                Err(OpError::Failure(kind, text)) => {
                    failed.push(w.staged);
                    self.out.failures.push(Failure { path: w.path, kind, text });
                }
                Err(OpError::Fatal(e)) => return Err(e),
            }
        }
        // From behind, so that the places of the others hold.
        for place in failed.into_iter().rev() {
            self.out.staged.remove(place);
        }
        Ok(())
    }

    fn is_there(&mut self, w: &Waiting<'_>, known: Option<LocalFacts>) {
        self.holds(&w.slot, &w.entry);
        if let Some(Staged::Inside { facts, .. }) = self.out.staged.get_mut(w.staged) {
            *facts = known;
        }
    }
}

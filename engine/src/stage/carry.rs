//! Content that arrives ahead of its cut: one file, staged as one of a batch is, and kept when it breaks off.
//!
//! Guarantees: its log says no more than what was checked and written; nothing is begun, or gone on
//! with, that leaves too little room for changes. Refuses all operations but those of one file.

use farshore_core::codec::DecodeError;
use farshore_core::path::RelPath;
use farshore_core::recipe::FileDigest;
use farshore_proto::op::Op;

use super::assembly::Assembly;
use super::{Applied, OpError, StageConfig, StageError, Stager};
use crate::ahead::Slot;
use crate::catalog::Catalog;
use crate::io::Storage;
use crate::own_folder::OwnFolder;

/// Content is copied from what is there already, by whatever batch.
const NO_BATCH: u64 = 1;

impl<'a, S: Storage> Stager<'a, S> {
    /// One that stages a single file in a slot.
    pub(crate) fn carrying(
        storage: &'a S,
        catalog: &'a Catalog,
        own: &'a OwnFolder<S>,
        applied: &'a Applied,
        config: StageConfig,
        slot: &Slot<S>,
    ) -> Result<Self, StageError> {
        let opened = storage.open_directory(&slot.folder, b"");
        let begun = opened.and_then(|folder| Ok((folder, slot.log(storage)?)));
        let (folder, log) = begun.map_err(|source| StageError::Disk {
            path: RelPath::root(),
            step: "making a place for it",
            source,
        })?;
        let mut stager = Self::within(storage, catalog, own, applied, config, (folder, NO_BATCH))?;
        (stager.log, stager.carries) = (Some(log), true);
        Ok(stager)
    }

    /// Ahead of a cut comes one file and nothing else.
    pub(super) fn check_carried(&self, op: &Op<'_>) -> Result<(), DecodeError> {
        let fits = matches!(op, Op::Begin { .. } | Op::Reuse { .. } | Op::Meta { .. });
        if self.carries && (self.number != 1 || !fits) {
            let (what, found) = ("operation ahead of a cut", u64::from(self.number));
            return Err(DecodeError::Invalid { what, found });
        }
        Ok(())
    }

    /// Whether `content` is to be held ahead, and is already.
    pub(super) fn is_carried(&self, content: &FileDigest) -> bool {
        self.carries && self.own.ahead.get(content).is_some_and(|held| held.whole)
    }

    /// Something was appended.
    pub(super) fn logged(&self, assembly: &mut Assembly<S>) -> Result<(), OpError> {
        let Some(log) = assembly.log.as_mut().filter(|_| assembly.missing.is_empty()) else {
            return Ok(());
        };
        match log.grown(self.storage, &assembly.recipe, assembly.offset) {
            // Space for a dense file is reserved: others may have taken what was left.
            Ok(true) => self.may_go_on(assembly.size),
            Ok(false) => Ok(()),
            Err(e) => Err(self.write_failed(assembly, e)),
        }
    }

    /// Nothing more comes: what there is can be built on.
    pub(super) fn logged_all(&self, assembly: &mut Assembly<S>) {
        if let Some(log) = assembly.log.as_mut().filter(|_| assembly.missing.is_empty()) {
            // Else it is sent once more.
            drop(log.write(self.storage, &assembly.recipe));
        }
    }
}

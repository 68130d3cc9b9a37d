//! A file whose content is held ahead: given its name in the batch, not copied.
//!
//! Guarantees: only content that is whole is, under one name: an inode never comes to stand at two paths, since
//! a batch takes it from all others until it has applied. The name ahead stays until the batch is durable in the
//! tree, so that a crash before costs nothing. Where a file system has no further names, or somebody else made
//! some, or another batch has it, the content is copied.

use farshore_core::entry::{Entry, Xattrs};
use farshore_core::path::RelPath;

use super::{OpError, Slot, Stager};
use crate::ahead::{BYTES, Taken};
use crate::io::{FileKind, Object, Storage};
use crate::metadata::{Present, apply_metadata};

impl<S: Storage> Stager<'_, S> {
    /// Whether the content of `entry` is held ahead, and now stands in this batch.
    pub(super) fn adopt(&mut self, path: &RelPath, entry: &Entry) -> Result<bool, OpError> {
        let Some(content) = entry.content().filter(|_| !self.carries) else { return Ok(false) };
        let Some(taken) = self.own.ahead.take(content, entry.size()) else { return Ok(false) };
        let slot = self.slot(path);
        let linked = self.linked(&taken, &slot, path, entry);
        if !matches!(linked, Ok(true)) {
            self.own.ahead.give_back(taken.number);
            return linked;
        }
        self.kept.keep(&mut self.out.recipes, *content, taken.recipe.as_ref().clone());
        self.out.adopted.push((path.clone(), taken.number));
        // Its change time moves once more, when the name ahead goes.
        self.staged(&slot, path.clone(), entry.clone(), None);
        Ok(true)
    }

    /// Whether what was taken has its name in the batch, and is what it should be.
    fn linked(
        &mut self,
        taken: &Taken,
        slot: &Slot,
        path: &RelPath,
        entry: &Entry,
    ) -> Result<bool, OpError> {
        let Some(from) = self.own.open_slot(self.storage, taken.number) else { return Ok(false) };
        if self.storage.link(&from, BYTES, self.slot_directory(slot), &slot.name).is_err() {
            return Ok(false);
        }
        let adopted = self.adopted(slot, path, entry);
        if !matches!(adopted, Ok(true)) {
            self.discard(slot);
        }
        adopted
    }

    /// Gives what was linked its metadata, if it is what it should be and nobody else's.
    fn adopted(&mut self, slot: &Slot, path: &RelPath, entry: &Entry) -> Result<bool, OpError> {
        let storage = self.storage;
        let Some(meta) = entry.meta() else { return Ok(false) };
        let at = self.slot_directory(slot);
        let (file, stat) = storage
            .open_file_and_stat(at, &slot.name)
            .map_err(Self::failed(path, "opening what is held of it"))?;
        if stat.links != 2 || stat.size != entry.size() {
            return Ok(false);
        }
        // An attempt before may have given it some.
        let object = Object::File(&file);
        let found = storage.xattrs(object).map_err(Self::failed(path, "its attributes"))?;
        let Ok(xattrs) = Xattrs::new(found) else { return Ok(false) };
        let present = Present { owner: (stat.uid, stat.gid), mode: None, xattrs: &xattrs };
        let mut degraded = crate::metadata::Degraded::default();
        apply_metadata(storage, object, FileKind::Regular, meta, present, &mut degraded)
            .map_err(Self::failed(path, "setting its metadata"))?;
        self.out.degraded.merge(&degraded);
        Ok(true)
    }
}

//! Changing a catalog: all tables within one transaction.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use farshore_core::codec::{DecodeError, Decoder, Encoder};
use farshore_core::digest::{DirectoryHasher, RootDigest, root_digest};
use farshore_core::entry::{Entry, EntryKind};
use farshore_core::guard::RootIdentity;
use farshore_core::limits::SMALL_FILE_MAX;
use farshore_core::path::RelPath;
use farshore_core::policy::PolicySet;
use farshore_core::recipe::{Extent, FileDigest, Recipe};
use farshore_core::recovery_point::{Epoch, RecoveryPoint};
use farshore_proto::message::StoreId;
use redb::{ReadableTable, Table, WriteTransaction};

use super::pending::Pending;
use super::reader::{for_children, history_bytes, read_below, sum_of_history};
use super::record::{decode_history, decode_history_set, location_key};
use super::undo::Noting;
use super::{
    Bytes, CHUNK_KEY_LEN, CHUNKS, CONTENTS, CatalogError, CatalogRole, DETACHED, DIRECTORIES,
    DIRTY, ENTRIES, FIRST_NAMES, HISTORY, HISTORY_SETS, HistoryId, HistoryRecord, HistorySet,
    INODES, Location, META, POINTS, POINTS_BEHIND, RECIPES, Record, Result, Step, UNDO, UNDO_MADE,
    UNDO_SETS, damaged,
};

/// The tables within one transaction; the only place that changes a catalog.
pub struct CatalogTables<'t> {
    role: CatalogRole,
    meta: Table<'t, &'static str, Bytes>,
    entries: Table<'t, Bytes, Bytes>,
    directories: Table<'t, Bytes, Bytes>,
    dirty: Table<'t, Bytes, ()>,
    /// Directories made dirty in this transaction, not yet in the table.
    newly_dirty: BTreeSet<Vec<u8>>,
    contents: Table<'t, Bytes, ()>,
    /// Content that left a place in this transaction: its recipe goes at the end, unless it came to
    /// another one.
    left: BTreeSet<FileDigest>,
    recipes: Table<'t, Bytes, Bytes>,
    chunks: Table<'t, Bytes, Bytes>,
    inodes: Table<'t, u64, Bytes>,
    /// What the tables of contents and inodes have not got yet.
    pending: &'t Mutex<Pending>,
    pub(super) detached: Table<'t, Bytes, Bytes>,
    pub(super) first_names: Table<'t, Bytes, u64>,
    history: Table<'t, (u64, u32), Bytes>,
    pub(super) history_sets: Table<'t, u64, Bytes>,
    pub(super) points: Table<'t, u64, Bytes>,
    pub(super) points_behind: Table<'t, u64, Bytes>,
    pub(super) undo: Table<'t, (Bytes, u64), Bytes>,
    pub(super) undo_made: Table<'t, (Bytes, u64), ()>,
    /// Keys of the two before, by set.
    pub(super) undo_sets: Table<'t, (u64, u32), Bytes>,
    pub(super) noting: Noting,
    entry_count: u64,
    /// May exceed 64 bits: a sparse file may claim 2^63 bytes, and there may be many.
    content_bytes: u128,
    /// Its upper half as it is stored.
    stored_over: u64,
    /// Whether the tables of contents and inodes have all of the entries.
    indexed: bool,
}

impl std::fmt::Debug for CatalogTables<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CatalogTables")
    }
}

impl<'t> CatalogTables<'t> {
    pub(super) fn open(
        txn: &'t WriteTransaction,
        role: CatalogRole,
        pending: &'t Mutex<Pending>,
    ) -> Result<Self> {
        let meta = txn.open_table(META).step("open table meta")?;
        let count = |key| -> Result<u64> {
            let value = meta.get(key).step("read meta")?;
            value.map_or(Ok(0), |v| {
                Decoder::new(v.value()).take_u64("meta").map_err(damaged("meta"))
            })
        };
        let (entry_count, stored_over) = (count("entries")?, count("bytes_over")?);
        let content_bytes = u128::from(stored_over) << 64 | u128::from(count("bytes")?);
        let indexed = count("indexed")? == 1;
        let noting = Noting {
            on: role == CatalogRole::Target && count("undo_from")? > 0,
            set: count("applied_batch")?.saturating_add(1),
            ..Noting::default()
        };
        Ok(Self {
            role,
            entries: txn.open_table(ENTRIES).step("open table entries")?,
            directories: txn.open_table(DIRECTORIES).step("open table directories")?,
            dirty: txn.open_table(DIRTY).step("open table dirty")?,
            newly_dirty: BTreeSet::new(),
            left: BTreeSet::new(),
            contents: txn.open_table(CONTENTS).step("open table contents")?,
            recipes: txn.open_table(RECIPES).step("open table recipes")?,
            chunks: txn.open_table(CHUNKS).step("open table chunks")?,
            inodes: txn.open_table(INODES).step("open table inodes")?,
            detached: txn.open_table(DETACHED).step("open table detached")?,
            first_names: txn.open_table(FIRST_NAMES).step("open table first_names")?,
            history: txn.open_table(HISTORY).step("open table history")?,
            history_sets: txn.open_table(HISTORY_SETS).step("open table history sets")?,
            points: txn.open_table(POINTS).step("open table points")?,
            points_behind: txn.open_table(POINTS_BEHIND).step("open table points_behind")?,
            undo: txn.open_table(UNDO).step("open table undo")?,
            undo_made: txn.open_table(UNDO_MADE).step("open table undo_made")?,
            undo_sets: txn.open_table(UNDO_SETS).step("open table undo_sets")?,
            noting,
            entry_count,
            content_bytes,
            stored_over,
            indexed,
            pending,
            meta,
        })
    }

    fn pending(&self) -> MutexGuard<'t, Pending> {
        // A panic elsewhere leaves the keys whole.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_meta(&mut self, key: &'static str, value: &[u8]) -> Result<()> {
        self.meta.insert(key, value).step("write meta")?;
        Ok(())
    }

    /// What the table `meta` has.
    pub(super) fn stored_bytes(&self, key: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.meta.get(key).step("read meta")?.map(|value| value.value().to_vec()))
    }

    /// A number of the table `meta`; 0 when it is not there.
    pub(super) fn stored(&self, key: &str) -> Result<u64> {
        let value = self.meta.get(key).step("read meta")?;
        value.map_or(Ok(0), |v| Decoder::new(v.value()).take_u64("meta").map_err(damaged("meta")))
    }

    pub(super) fn set_meta_u64(&mut self, key: &'static str, value: u64) -> Result<()> {
        let mut e = Encoder::new();
        e.put_u64(value);
        self.set_meta(key, e.as_slice())
    }

    /// Writes what is kept in memory until the transaction ends.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.list_notes()?;
        for content in std::mem::take(&mut self.left) {
            self.drop_recipe_if_gone(&content)?;
        }
        self.store_counts()
    }

    fn store_counts(&mut self) -> Result<()> {
        self.set_meta_u64("entries", self.entry_count)?;
        let half = |bits: u128| u64::try_from(bits & u128::from(u64::MAX)).unwrap_or(u64::MAX);
        let (over, bytes) = (half(self.content_bytes >> 64), half(self.content_bytes));
        self.set_meta_u64("bytes", bytes)?;
        if over != self.stored_over {
            self.set_meta_u64("bytes_over", over)?;
            self.stored_over = over;
        }
        let full = self.pending().is_full();
        if full {
            self.settle()?;
        }
        let complete = self.pending().is_complete();
        if complete != self.indexed {
            self.set_meta_u64("indexed", u64::from(complete))?;
            self.indexed = complete;
        }
        for key in std::mem::take(&mut self.newly_dirty) {
            self.dirty.insert(key.as_slice(), ()).step("mark a directory dirty")?;
        }
        Ok(())
    }

    /// Batches up to `batch` are applied.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn set_applied_batch(&mut self, batch: u64) -> Result<()> {
        self.set_meta_u64("applied_batch", batch)?;
        self.note_for(batch.saturating_add(1))
    }

    /// Records the epoch.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn set_epoch(&mut self, epoch: Epoch) -> Result<()> {
        self.set_meta_u64("epoch", epoch.0)
    }

    /// Records the root directory's identity.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn set_root_identity(&mut self, identity: RootIdentity) -> Result<()> {
        let mut e = Encoder::new();
        e.put_u64(identity.inode);
        e.put_u64(identity.file_system);
        self.set_meta("root_identity", e.as_slice())
    }

    /// Records a recovery point and the other end it was agreed with.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn set_recovery_point(&mut self, point: &RecoveryPoint, peer: StoreId) -> Result<()> {
        let mut e = Encoder::new();
        point.encode(&mut e);
        self.set_meta("recovery_point", e.as_slice())?;
        self.set_joined_with(peer)
    }

    /// Records which policies decided about the recovery point; `None` when the source did not say.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn set_policies(&mut self, policies: Option<&PolicySet>) -> Result<()> {
        let mut e = Encoder::new();
        if let Some(policies) = policies {
            policies.encode(&mut e);
        }
        self.set_meta("policies", e.as_slice())
    }

    /// Records the other end: with each recovery point, and when an empty tree is begun.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn set_joined_with(&mut self, peer: StoreId) -> Result<()> {
        self.set_meta("sealed_with", &peer.0)
    }

    /// Records which tree was checked.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn set_tree(&mut self, tree: StoreId) -> Result<()> {
        self.set_meta("tree", &tree.0)
    }

    /// The record at `path`.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn get(&self, path: &RelPath) -> Result<Option<Record>> {
        let value = self.entries.get(path.key().as_slice()).step("read entry")?;
        value.map(|v| Record::from_bytes(v.value()).map_err(damaged("entries"))).transpose()
    }

    /// Records `record` at `path`. What the catalog has below a directory that is none any more goes
    /// with it.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn put(&mut self, path: &RelPath, record: &Record) -> Result<()> {
        let key = path.key();
        let old = self
            .entries
            .insert(key.as_slice(), record.to_bytes().as_slice())
            .step("write entry")?
            .map(|v| Record::from_bytes(v.value()).map_err(damaged("entries")))
            .transpose()?;
        if old.as_ref().is_none_or(|o| o.entry != record.entry) {
            self.mark_parent_dirty(path);
        }
        self.note(path, &key, old.as_ref().map(|o| &o.entry), Some(&record.entry))?;
        let directory = |r: &Record| r.entry.kind() == EntryKind::Directory;
        if directory(record) && !old.as_ref().is_some_and(directory) {
            // What lies below may have been there before it, acknowledged when it was not: a digest is
            // made of a directory that has a record alone.
            self.newly_dirty.insert(key.clone());
        }
        self.count_names(old.as_ref(), Some(record))?;
        if let Some(old) = &old {
            self.forget(path, old, Some(record))?;
            if directory(old) && !directory(record) {
                self.remove_below(path)?;
            }
        } else if !path.is_root() {
            self.entry_count += 1;
        }
        if let Entry::File { size, content, .. } = &record.entry {
            self.content_bytes += u128::from(*size);
            if old.as_ref().and_then(|o| o.entry.content()) != Some(content) {
                let location = location_key(content, &Location::Live(path.clone()));
                self.pending().add_content(location);
            }
        }
        self.index_inode(key, record);
        Ok(())
    }

    /// Adds what the indexes say of a record that is there already.
    pub(super) fn index(&mut self, path: &RelPath, record: &Record) {
        if let Some(content) = record.entry.content() {
            self.pending().add_content(location_key(content, &Location::Live(path.clone())));
        }
        self.index_inode(path.key(), record);
    }

    fn index_inode(&mut self, key: Vec<u8>, record: &Record) {
        if let (CatalogRole::Source, Some(facts)) = (self.role, &record.facts)
            && !matches!(record.entry, Entry::Directory { .. } | Entry::HardLink { .. })
        {
            self.pending().add_inode(facts.inode, key);
        }
    }

    /// Adds what the index of contents says of a kept version that is there already.
    pub(super) fn index_history(&mut self, id: HistoryId, record: &HistoryRecord) {
        if let Some(content) = record.entry.as_ref().and_then(Entry::content) {
            self.pending().add_content(location_key(content, &Location::History(id)));
        }
    }

    /// Takes the record at `path` out; what lies below a directory stays.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn remove(&mut self, path: &RelPath) -> Result<Option<Record>> {
        let key = path.key();
        let Some(old) = self.entries.remove(key.as_slice()).step("remove entry")? else {
            return Ok(None);
        };
        let old_record = Record::from_bytes(old.value()).map_err(damaged("entries"))?;
        drop(old);
        self.mark_parent_dirty(path);
        self.note(path, &key, Some(&old_record.entry), None)?;
        if !path.is_root() {
            self.entry_count = less(self.entry_count, 1)?;
        }
        // What lies below the root stays, and its digest with it: nobody would make it again.
        if matches!(old_record.entry, Entry::Directory { .. }) && !path.is_root() {
            self.directories.remove(key.as_slice()).step("remove directory digest")?;
        }
        self.count_names(Some(&old_record), None)?;
        self.forget(path, &old_record, None)?;
        Ok(Some(old_record))
    }

    /// Takes out everything below the directory `path`.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn remove_below(&mut self, path: &RelPath) -> Result<()> {
        let (from, to) = path.descendants_key_range();
        loop {
            let upper = to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let keys: Vec<Vec<u8>> = self
                .entries
                .range::<&[u8]>((Bound::Included(from.as_slice()), upper))
                .step("read entries")?
                .take(4_096)
                .map(|row| Ok(row.step("read entries")?.0.value().to_vec()))
                .collect::<Result<_>>()?;
            if keys.is_empty() {
                return Ok(());
            }
            for key in keys {
                let below = RelPath::from_key(&key).map_err(|source| CatalogError::Damaged {
                    table: "entries",
                    source: DecodeError::Path { what: "key", source },
                })?;
                self.remove(&below)?;
            }
        }
    }

    /// Drops what the indexes say of `old`, unless `new` at the same path says it too.
    fn forget(&mut self, path: &RelPath, old: &Record, new: Option<&Record>) -> Result<()> {
        if let Entry::File { size, content, .. } = &old.entry {
            self.content_bytes = less(self.content_bytes, *size)?;
            if new.and_then(|n| n.entry.content()) != Some(content) {
                self.remove_content(&location_key(content, &Location::Live(path.clone())))?;
                if *size > SMALL_FILE_MAX {
                    self.left.insert(*content);
                }
            }
        }
        if let (CatalogRole::Source, Some(facts)) = (self.role, &old.facts) {
            let same_inode =
                new.and_then(|n| n.facts.as_ref()).is_some_and(|n| n.inode == facts.inode);
            let key = path.key();
            let pending = self.pending().inode(facts.inode).map(|found| found == key.as_slice());
            let is_ours = match pending {
                Some(same) => same,
                None => self
                    .inodes
                    .get(facts.inode)
                    .step("read inode index")?
                    .is_some_and(|v| v.value() == key.as_slice()),
            };
            if is_ours && !same_inode {
                self.pending().forget_inode(facts.inode);
                self.inodes.remove(facts.inode).step("remove from inode index")?;
            }
        }
        Ok(())
    }

    fn remove_content(&mut self, location: &[u8]) -> Result<()> {
        if !self.pending().forget_content(location) {
            self.contents.remove(location).step("remove from contents")?;
        }
        Ok(())
    }

    /// Brings the tables of contents and inodes up to date.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn settle(&mut self) -> Result<()> {
        let keys = self.pending().settle();
        for key in &keys.contents {
            self.contents.insert(&**key, ()).step("write contents")?;
        }
        for (inode, key) in &keys.inodes {
            self.inodes.insert(*inode, &**key).step("write inode index")?;
        }
        Ok(())
    }

    fn drop_recipe_if_gone(&mut self, content: &FileDigest) -> Result<()> {
        if self.pending().has_content(content) {
            return Ok(());
        }
        let first = self
            .contents
            .range::<&[u8]>(content.0.as_slice()..)
            .step("read contents")?
            .next()
            .transpose()
            .step("read contents")?;
        let still_there = first.is_some_and(|(key, _)| key.value().starts_with(&content.0));
        if !still_there {
            self.recipes.remove(content.0.as_slice()).step("remove recipe")?;
        }
        Ok(())
    }

    /// Records how `content` is made of chunks. A source also indexes the chunks.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn put_recipe(&mut self, content: &FileDigest, recipe: &Recipe) -> Result<()> {
        if recipe.extents.len() > 1 {
            let bytes = recipe.to_bytes();
            self.recipes.insert(content.0.as_slice(), bytes.as_slice()).step("write recipe")?;
        }
        if self.role == CatalogRole::Source {
            let mut offset = 0;
            for extent in &recipe.extents {
                if let Extent::Chunk { id, .. } = extent {
                    let mut e = Encoder::new();
                    e.put_raw(&content.0);
                    e.put_u64(offset);
                    self.chunks
                        .insert(&id.0[..CHUNK_KEY_LEN], e.as_slice())
                        .step("write chunk index")?;
                }
                offset += extent.len();
            }
        }
        Ok(())
    }

    /// Records a kept version.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn put_history(&mut self, id: HistoryId, record: &HistoryRecord) -> Result<()> {
        let mut e = Encoder::new();
        e.put_bytes(record.path.as_bytes());
        if let Some(entry) = &record.entry {
            entry.encode(&mut e);
        }
        self.history.insert((id.set, id.number), e.as_slice()).step("write history")?;
        self.index_history(id, record);
        Ok(())
    }

    /// Records a set of kept versions.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn put_history_set(&mut self, set: u64, facts: &HistorySet) -> Result<()> {
        let mut e = Encoder::new();
        e.put_i64(facts.time_unix_ms);
        e.put_u64(facts.bytes);
        e.put_u64(facts.versions);
        let all = self.all_history_bytes()?;
        let former = self.history_sets.insert(set, e.as_slice()).step("write history set")?;
        let former = former.map(|v| decode_history_set(v.value())).transpose()?;
        let all =
            all.saturating_sub(former.map_or(0, |f| f.bytes.into())) + u128::from(facts.bytes);
        self.set_meta("history_bytes", &all.to_le_bytes())
    }

    fn all_history_bytes(&self) -> Result<u128> {
        match self.meta.get("history_bytes").step("read meta")? {
            Some(stored) => history_bytes(stored.value()),
            None => sum_of_history(&self.history_sets),
        }
    }

    /// Records a batch that was applied at `time_unix_ms` and displaced `kept` versions of so many bytes, if
    /// there is anything of it to go back by.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn put_history_of(&mut self, set: u64, kept: &HistorySet) -> Result<()> {
        if kept.versions > 0 || self.has_notes(set)? {
            self.put_history_set(set, kept)
        } else {
            Ok(())
        }
    }

    /// Forgets a set of kept versions, before its files are removed: what is named is there. A crash
    /// in between leaves a set that the next start adopts again.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn remove_history_set(&mut self, set: u64) -> Result<()> {
        let rows: Vec<(u32, HistoryRecord)> = self
            .history
            .range((set, 0)..=(set, u32::MAX))
            .step("read history")?
            .map(|row| {
                let (key, value) = row.step("read history")?;
                Ok((key.value().1, decode_history(value.value())?))
            })
            .collect::<Result<_>>()?;
        for (number, record) in rows {
            self.history.remove((set, number)).step("remove history")?;
            if let Some(content) = record.entry.as_ref().and_then(Entry::content) {
                let location = location_key(content, &Location::History(HistoryId { set, number }));
                self.remove_content(&location)?;
                self.left.insert(*content);
            }
        }
        self.forget_notes(set)?;
        let all = self.all_history_bytes()?;
        let former = self.history_sets.remove(set).step("remove history set")?;
        let former = former.map(|v| decode_history_set(v.value())).transpose()?;
        let all = all.saturating_sub(former.map_or(0, |f| f.bytes.into()));
        self.set_meta("history_bytes", &all.to_le_bytes())
    }

    fn mark_parent_dirty(&mut self, path: &RelPath) {
        if let Some((parent, _)) = path.split() {
            self.newly_dirty.insert(parent.key());
        }
    }

    /// Brings the digest tree up to date, deepest directories first, and answers R. Costs one read of
    /// the children of each directory that changed, and of its ancestors.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn seal(&mut self) -> Result<RootDigest> {
        self.store_counts()?;
        let mut hasher = DirectoryHasher::default();
        loop {
            let Some(key) = self
                .dirty
                .pop_last()
                .step("take a dirty directory")?
                .map(|(key, _)| key.value().to_vec())
            else {
                break;
            };
            let directory = RelPath::from_key(&key).map_err(|source| CatalogError::Damaged {
                table: "dirty",
                source: DecodeError::Path { what: "key", source },
            })?;
            let alive = directory.is_root()
                || self.get(&directory)?.is_some_and(|r| r.entry.kind() == EntryKind::Directory);
            if !alive {
                self.directories.remove(key.as_slice()).step("remove directory digest")?;
                continue;
            }
            for_children(&self.entries, &self.directories, &directory, |name, entry, below| {
                hasher.add(name, entry, below.as_ref());
                Ok(())
            })?;
            let digest = hasher.finish();
            self.directories
                .insert(key.as_slice(), digest.0.as_slice())
                .step("write directory digest")?;
            if let Some((parent, _)) = directory.split() {
                self.dirty.insert(parent.key().as_slice(), ()).step("mark a directory dirty")?;
            }
        }
        let root = self.get(&RelPath::root())?;
        let below = read_below(&self.directories, &[])?;
        Ok(root_digest(root.as_ref().map(|r| &r.entry), &below))
    }

    /// Entries now, the root not counted, and bytes of content, as far as 64 bits go.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        (self.entry_count, u64::try_from(self.content_bytes).unwrap_or(u64::MAX))
    }
}

/// A stored count without what is taken out of the tables: less than that cannot be true.
fn less<N: Into<u128> + TryFrom<u128>>(count: N, taken: u64) -> Result<N> {
    let count: u128 = count.into();
    let left = count.checked_sub(taken.into()).and_then(|left| N::try_from(left).ok());
    let found = u64::try_from(count).unwrap_or(u64::MAX);
    left.ok_or_else(|| damaged("meta")(DecodeError::Invalid { what: "stored count", found }))
}

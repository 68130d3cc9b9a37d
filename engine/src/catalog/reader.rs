//! Reading a catalog as of one moment.
//!
//! Guarantees: what is read belongs to one transaction, whatever is written meanwhile; content and
//! inodes that wait for their index ([`super::pending`]) are found as well.

use std::ops::Bound;
use std::sync::{Arc, Mutex};

use farshore_core::codec::{DecodeError, Decoder};
use farshore_core::digest::{
    BUCKETS, Child, DirectoryDigest, DirectoryHasher, RootDigest, bucket_of, root_digest,
};
use farshore_core::entry::Entry;
use farshore_core::guard::RootIdentity;
use farshore_core::path::RelPath;
use farshore_core::policy::PolicySet;
use farshore_core::recipe::{ChunkId, FileDigest, Recipe};
use farshore_core::recovery_point::{Epoch, RecoveryPoint};
use farshore_proto::compare::TreeView;
use farshore_proto::message::StoreId;
use redb::{Database, ReadOnlyTable, ReadableDatabase, ReadableTable, ReadableTableMetadata};

use super::pending::Pending;
use super::record::{decode_history, decode_history_set, entry_part, is_directory, parse_location};
use super::{
    Bytes, CHUNK_KEY_LEN, CHUNKS, CONTENTS, CatalogError, DETACHED, DIRECTORIES, DIRTY, ENTRIES,
    FIRST_NAMES, HISTORY, HISTORY_SETS, HistoryId, HistoryRecord, HistorySet, INODES, Location,
    META, POINTS, POINTS_BEHIND, RECIPES, Record, Result, Step, UNDO, UNDO_MADE, damaged, lock,
};

/// A consistent view of a catalog.
pub struct CatalogReader {
    pub(super) meta: ReadOnlyTable<&'static str, Bytes>,
    pub(super) entries: ReadOnlyTable<Bytes, Bytes>,
    pub(super) directories: ReadOnlyTable<Bytes, Bytes>,
    pub(super) contents: ReadOnlyTable<Bytes, ()>,
    pub(super) recipes: ReadOnlyTable<Bytes, Bytes>,
    pub(super) chunks: ReadOnlyTable<Bytes, Bytes>,
    pub(super) inodes: ReadOnlyTable<u64, Bytes>,
    pub(super) history: ReadOnlyTable<(u64, u32), Bytes>,
    pub(super) history_sets: ReadOnlyTable<u64, Bytes>,
    pub(super) dirty: ReadOnlyTable<Bytes, ()>,
    /// Not there in a catalog that no later version has written to.
    pub(super) detached: Option<ReadOnlyTable<Bytes, Bytes>>,
    /// Likewise.
    pub(super) first_names: Option<ReadOnlyTable<Bytes, u64>>,
    /// These neither.
    pub(super) points: Option<ReadOnlyTable<u64, Bytes>>,
    pub(super) points_behind: Option<ReadOnlyTable<u64, Bytes>>,
    pub(super) undo: Option<ReadOnlyTable<(Bytes, u64), Bytes>>,
    pub(super) undo_made: Option<ReadOnlyTable<(Bytes, u64), ()>>,
    pub(super) pending: Arc<Mutex<Pending>>,
}

impl std::fmt::Debug for CatalogReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CatalogReader")
    }
}

impl CatalogReader {
    pub(super) fn begin(db: &Database, pending: &Arc<Mutex<Pending>>) -> Result<Self> {
        let txn = db.begin_read().step("begin to read")?;
        Ok(Self {
            meta: txn.open_table(META).step("open table meta")?,
            entries: txn.open_table(ENTRIES).step("open table entries")?,
            directories: txn.open_table(DIRECTORIES).step("open table directories")?,
            contents: txn.open_table(CONTENTS).step("open table contents")?,
            recipes: txn.open_table(RECIPES).step("open table recipes")?,
            chunks: txn.open_table(CHUNKS).step("open table chunks")?,
            inodes: txn.open_table(INODES).step("open table inodes")?,
            history: txn.open_table(HISTORY).step("open table history")?,
            history_sets: txn.open_table(HISTORY_SETS).step("open table history sets")?,
            dirty: txn.open_table(DIRTY).step("open table dirty")?,
            first_names: if_made(txn.open_table(FIRST_NAMES)).step("open table first_names")?,
            detached: if_made(txn.open_table(DETACHED)).step("open table detached")?,
            points: if_made(txn.open_table(POINTS)).step("open table points")?,
            points_behind: if_made(txn.open_table(POINTS_BEHIND))
                .step("open table points_behind")?,
            undo: if_made(txn.open_table(UNDO)).step("open table undo")?,
            undo_made: if_made(txn.open_table(UNDO_MADE)).step("open table undo_made")?,
            pending: Arc::clone(pending),
        })
    }

    pub(super) fn meta(&self, key: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.meta.get(key).step("read meta")?.map(|v| v.value().to_vec()))
    }

    pub(super) fn meta_u64(&self, key: &str) -> Result<u64> {
        let Some(bytes) = self.meta(key)? else { return Ok(0) };
        Decoder::new(&bytes).take_u64("meta").map_err(damaged("meta"))
    }

    /// Entries, the root not counted.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn entry_count(&self) -> Result<u64> {
        self.meta_u64("entries")
    }

    /// Bytes of content of all files, as far as 64 bits go; a file with several names counts once.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn content_bytes(&self) -> Result<u64> {
        Ok(if self.meta_u64("bytes_over")? > 0 { u64::MAX } else { self.meta_u64("bytes")? })
    }

    /// The last batch applied.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn applied_batch(&self) -> Result<u64> {
        self.meta_u64("applied_batch")
    }

    /// The epoch last recorded.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn epoch(&self) -> Result<Epoch> {
        self.meta_u64("epoch").map(Epoch)
    }

    /// The tree that was checked last.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn tree(&self) -> Result<Option<StoreId>> {
        Ok(self.meta("tree")?.and_then(|b| b.try_into().ok()).map(StoreId))
    }

    /// Who the other end was when the last recovery point was sealed, or when the tree was begun empty.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn sealed_with(&self) -> Result<Option<StoreId>> {
        Ok(self.meta("sealed_with")?.and_then(|b| b.try_into().ok()).map(StoreId))
    }

    /// The last recovery point.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn recovery_point(&self) -> Result<Option<RecoveryPoint>> {
        self.meta("recovery_point")?
            .map(|b| RecoveryPoint::decode(&mut Decoder::new(&b)).map_err(damaged("meta")))
            .transpose()
    }

    /// Which policies decided about it; `None` when the source did not say.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn policies(&self) -> Result<Option<PolicySet>> {
        let bytes = self.meta("policies")?.filter(|bytes| !bytes.is_empty());
        bytes.map(|b| PolicySet::decode(&mut Decoder::new(&b)).map_err(damaged("meta"))).transpose()
    }

    /// Identity of the root directory at the last run.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn root_identity(&self) -> Result<Option<RootIdentity>> {
        let Some(bytes) = self.meta("root_identity")? else { return Ok(None) };
        let mut d = Decoder::new(&bytes);
        let mut number = || d.take_u64("root identity").map_err(damaged("meta"));
        Ok(Some(RootIdentity { inode: number()?, file_system: number()? }))
    }

    /// The record at `path`.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn get(&self, path: &RelPath) -> Result<Option<Record>> {
        let value = self.entries.get(path.key().as_slice()).step("read entry")?;
        value.map(|v| Record::from_bytes(v.value()).map_err(damaged("entries"))).transpose()
    }

    /// Records below the directory `path`, itself not included, in path order.
    ///
    /// # Errors
    /// [`CatalogError::Database`].
    pub fn records_below(&self, path: &RelPath) -> Result<Records> {
        let (from, to) = path.descendants_key_range();
        let to = to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let range = self
            .entries
            .range::<&[u8]>((Bound::Included(from.as_slice()), to))
            .step("read entries")?;
        Ok(Records { range })
    }

    /// Records of the children of `directory`, in the order of their names.
    ///
    /// # Errors
    /// [`CatalogError::Database`].
    pub fn records_in(&self, directory: &RelPath) -> Result<Records> {
        let (from, to) = children_keys(directory);
        let bounds = from.as_slice()..to.as_slice();
        let range = self.entries.range::<&[u8]>(bounds).step("read entries")?;
        Ok(Records { range })
    }

    /// Records behind `after`, in path order.
    ///
    /// # Errors
    /// [`CatalogError::Database`].
    pub fn records_after(&self, after: &RelPath) -> Result<Records> {
        let key = after.key();
        let from = Bound::Excluded(key.as_slice());
        let range = self.entries.range::<&[u8]>((from, Bound::Unbounded)).step("read entries")?;
        Ok(Records { range })
    }

    /// Directories in path order, those among the next `records_max` records behind `after`, and the last
    /// record looked at; `None` for that when there are no more. The root is not among them.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn directories_after(
        &self,
        after: &RelPath,
        records_max: usize,
    ) -> Result<(Vec<RelPath>, Option<RelPath>)> {
        let key = after.key();
        let from = Bound::Excluded(key.as_slice());
        let mut directories = Vec::new();
        let mut last = None;
        let path = |key: &[u8]| {
            RelPath::from_key(key).map_err(|source| CatalogError::Damaged {
                table: "entries",
                source: DecodeError::Path { what: "key", source },
            })
        };
        let range = self.entries.range::<&[u8]>((from, Bound::Unbounded)).step("read entries")?;
        for (count, row) in range.enumerate() {
            let (key, value) = row.step("read entries")?;
            if is_directory(entry_part(value.value())?) {
                directories.push(path(key.value())?);
            }
            if count + 1 >= records_max {
                last = Some(path(key.value())?);
                break;
            }
        }
        Ok((directories, last))
    }

    /// Where `content` stands, live places first.
    ///
    /// # Errors
    /// [`CatalogError::Database`].
    pub fn locations(&self, content: &FileDigest, limit: usize) -> Result<Vec<Location>> {
        let mut out: Vec<Location> =
            lock(&self.pending).locations(content).filter_map(parse_location).take(limit).collect();
        for row in self.contents.range::<&[u8]>(content.0.as_slice()..).step("read contents")? {
            let (key, _) = row.step("read contents")?;
            if !key.value().starts_with(&content.0) || out.len() >= limit {
                break;
            }
            out.extend(parse_location(key.value()));
        }
        // Live places first.
        out.sort_by_key(|location| matches!(location, Location::History(_)));
        Ok(out)
    }

    /// Versions in history with `content`, found by looking at the record of each: where the index has none of them, as
    /// at a site that was opened.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn kept_with(&self, content: &FileDigest, limit: usize) -> Result<Vec<Location>> {
        let mut out = Vec::new();
        for row in self.history.range::<(u64, u32)>(..).step("read history")? {
            let (key, value) = row.step("read history")?;
            let record = decode_history(value.value())?;
            if record.entry.as_ref().and_then(Entry::content) == Some(content) {
                let (set, number) = key.value();
                out.push(Location::History(HistoryId { set, number }));
            }
            if out.len() >= limit {
                break;
            }
        }
        Ok(out)
    }

    /// Whether `content` stands anywhere.
    ///
    /// # Errors
    /// [`CatalogError::Database`].
    pub fn has_content(&self, content: &FileDigest) -> Result<bool> {
        Ok(!self.locations(content, 1)?.is_empty())
    }

    /// The recipe of `content`; files of one chunk have none stored.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn recipe(&self, content: &FileDigest) -> Result<Option<Recipe>> {
        let value = self.recipes.get(content.0.as_slice()).step("read recipe")?;
        value
            .map(|v| Recipe::decode(&mut Decoder::new(v.value())).map_err(damaged("recipes")))
            .transpose()
    }

    /// Content and offset where a chunk stood when it was last indexed: a hint, since only part of
    /// the digest is kept and the content may be gone.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn chunk(&self, id: &ChunkId) -> Result<Option<(FileDigest, u64)>> {
        let Some(value) = self.chunks.get(&id.0[..CHUNK_KEY_LEN]).step("read chunk index")? else {
            return Ok(None);
        };
        let mut d = Decoder::new(value.value());
        let digest = d.take_array("chunk place").map_err(damaged("chunks"))?;
        let offset = d.take_u64("chunk place").map_err(damaged("chunks"))?;
        Ok(Some((FileDigest(digest), offset)))
    }

    /// The path an inode had when it was last seen.
    ///
    /// # Errors
    /// [`CatalogError::Database`].
    pub fn path_of_inode(&self, inode: u64) -> Result<Option<RelPath>> {
        if let Some(key) = lock(&self.pending).inode(inode) {
            return Ok(RelPath::from_key(key).ok());
        }
        let value = self.inodes.get(inode).step("read inode index")?;
        Ok(value.and_then(|v| RelPath::from_key(v.value()).ok()))
    }

    /// The digest below a directory; of an empty one if none is stored.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn below(&self, directory: &RelPath) -> Result<DirectoryDigest> {
        read_below(&self.directories, &directory.key())
    }

    /// R of the tree as last sealed by [`CatalogTables::seal`].
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn root_digest(&self) -> Result<RootDigest> {
        let root = self.get(&RelPath::root())?;
        Ok(root_digest(root.as_ref().map(|r| &r.entry), &self.below(&RelPath::root())?))
    }

    /// A kept version.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn history(&self, id: HistoryId) -> Result<Option<HistoryRecord>> {
        let value = self.history.get((id.set, id.number)).step("read history")?;
        value.map(|v| decode_history(v.value())).transpose()
    }

    /// All sets of kept versions, oldest first.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn history_sets(&self) -> Result<Vec<(u64, HistorySet)>> {
        let rows = self.history_sets.range::<u64>(..).step("read history")?;
        rows.map(|row| {
            let (set, value) = row.step("read history")?;
            Ok((set.value(), decode_history_set(value.value())?))
        })
        .collect()
    }

    /// The oldest sets of kept versions, so many at most.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn oldest_history_sets(&self, count: usize) -> Result<Vec<(u64, HistorySet)>> {
        let rows = self.history_sets.range::<u64>(..).step("read history")?;
        rows.take(count)
            .map(|row| {
                let (set, value) = row.step("read history")?;
                Ok((set.value(), decode_history_set(value.value())?))
            })
            .collect()
    }

    /// A set of kept versions.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn history_set(&self, set: u64) -> Result<Option<HistorySet>> {
        let value = self.history_sets.get(set).step("read history")?;
        value.map(|v| decode_history_set(v.value())).transpose()
    }

    /// Sets of kept versions, and bytes of content in all of them.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn history_totals(&self) -> Result<(u64, u128)> {
        let count = self.history_sets.len().step("count history sets")?;
        let bytes = match self.meta("history_bytes")? {
            Some(bytes) => history_bytes(&bytes)?,
            None => sum_of_history(&self.history_sets)?,
        };
        Ok((count, bytes))
    }

    fn child_hashers(
        &self,
        directory: &RelPath,
        mut visit: impl FnMut(&[u8], &[u8], Option<DirectoryDigest>),
    ) -> Result<()> {
        for_children(&self.entries, &self.directories, directory, |name, entry, below| {
            visit(name, entry, below);
            Ok(())
        })
    }
}

impl TreeView for CatalogReader {
    type Error = CatalogError;

    fn children(&self, directory: &RelPath, bucket: Option<u8>) -> Result<Vec<Child>> {
        let mut out = Vec::new();
        for_children(&self.entries, &self.directories, directory, |name, entry, below| {
            if bucket.is_none_or(|b| bucket_of(name) == b) {
                let path = directory.join(name).map_err(|source| CatalogError::Damaged {
                    table: "entries",
                    source: DecodeError::Path { what: "child", source },
                })?;
                let entry = Entry::decode(&mut Decoder::new(entry)).map_err(damaged("entries"))?;
                out.push(Child { path, entry, below });
            }
            Ok(())
        })?;
        Ok(out)
    }

    fn buckets(&self, directory: &RelPath) -> Result<Box<[DirectoryDigest; BUCKETS]>> {
        let mut hashers: Vec<_> = (0..BUCKETS).map(|_| DirectoryHasher::default()).collect();
        self.child_hashers(directory, |name, entry, below| {
            hashers[usize::from(bucket_of(name))].add(name, entry, below.as_ref());
        })?;
        Ok(Box::new(std::array::from_fn(|i| hashers[i].finish())))
    }
}

/// The key range `[from, to)` of a directory's children.
pub(super) fn children_keys(directory: &RelPath) -> (Vec<u8>, Vec<u8>) {
    let from = directory.children_key_prefix();
    let mut to = from.clone();
    // It ends with NUL.
    if let Some(last) = to.last_mut() {
        *last = 1;
    }
    (from, to)
}

/// A table that an earlier version may not have made.
fn if_made<T>(
    opened: std::result::Result<T, redb::TableError>,
) -> Result<Option<T>, redb::TableError> {
    match opened {
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        opened => opened.map(Some),
    }
}

pub(super) fn read_below(
    directories: &impl ReadableTable<Bytes, Bytes>,
    key: &[u8],
) -> Result<DirectoryDigest> {
    let Some(value) = directories.get(key).step("read directory digest")? else {
        return Ok(DirectoryHasher::default().finish());
    };
    let digest = Decoder::new(value.value()).take_array("directory digest");
    digest.map(DirectoryDigest).map_err(damaged("directories"))
}

/// Bytes of all kept versions, as stored.
pub(super) fn history_bytes(stored: &[u8]) -> Result<u128> {
    let sum = Decoder::new(stored).take_array("history bytes");
    sum.map(u128::from_le_bytes).map_err(damaged("meta"))
}

/// The same, of a catalog of before the sum was kept.
pub(super) fn sum_of_history(sets: &impl ReadableTable<u64, Bytes>) -> Result<u128> {
    let rows = sets.range::<u64>(..).step("read history")?;
    rows.map(|row| {
        let (_, value) = row.step("read history")?;
        Ok(u128::from(decode_history_set(value.value())?.bytes))
    })
    .sum()
}

pub(super) fn for_children(
    entries: &impl ReadableTable<Bytes, Bytes>,
    directories: &impl ReadableTable<Bytes, Bytes>,
    directory: &RelPath,
    mut visit: impl FnMut(&[u8], &[u8], Option<DirectoryDigest>) -> Result<()>,
) -> Result<()> {
    let prefix = directory.children_key_prefix();
    for row in entries.range::<&[u8]>(prefix.as_slice()..).step("read children")? {
        let (key, value) = row.step("read children")?;
        let Some(name) = key.value().strip_prefix(prefix.as_slice()) else { break };
        let entry = entry_part(value.value())?;
        let below = if is_directory(entry) {
            // Both tables have the same keys.
            Some(read_below(directories, key.value())?)
        } else {
            None
        };
        visit(name, entry, below)?;
    }
    Ok(())
}

/// Records in path order.
pub struct Records {
    range: redb::Range<'static, Bytes, Bytes>,
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Records")
    }
}

impl Iterator for Records {
    type Item = Result<(RelPath, Record)>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.range.next()?;
        Some((|| {
            let (key, value) = row.step("read entries")?;
            let path = RelPath::from_key(key.value()).map_err(|source| CatalogError::Damaged {
                table: "entries",
                source: DecodeError::Path { what: "key", source },
            })?;
            let record = Record::from_bytes(value.value()).map_err(damaged("entries"))?;
            Ok((path, record))
        })())
    }
}

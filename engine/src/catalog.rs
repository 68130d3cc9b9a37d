//! The catalog: what a site knows of a share, in an embedded database under the state folder.
//!
//! A *source* catalog holds what the target acknowledged, with the local facts of each entry, so that
//! a scan finds changes without asking the target. A *target* catalog holds what was applied, with
//! the facts of the inodes it made, so that a check finds what others changed. Both hold recipes,
//! where each content stands, and the digest tree.
//!
//! Guarantees: a transaction is durable when [`Catalog::update`] returns, if it was asked to be; a
//! crash leaves the last durable one. Memory is the cache given at the start, not the tree. Refuses:
//! a database of another format or role. A lost catalog is rebuilt from the trees; it never causes a
//! delete, because what it does not know is never removed.

use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farshore_core::codec::{DecodeError, Decoder, Encoder};
use farshore_core::digest::{
    BUCKETS, Child, DirectoryDigest, DirectoryHasher, RootDigest, bucket_of, root_digest,
};
use farshore_core::entry::{Entry, EntryKind, Timestamp, decode_path};
use farshore_core::guard::RootIdentity;
use farshore_core::path::RelPath;
use farshore_core::recipe::{ChunkId, FileDigest, Recipe};
use farshore_core::recovery_point::{Epoch, RecoveryPoint};
use farshore_proto::compare::TreeView;
use farshore_proto::message::StoreId;
pub use redb::Durability;
use redb::{
    Database, ReadOnlyTable, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    StorageBackend, TableDefinition,
};

use crate::io::Stat;

mod chunkings;
mod pending;
mod rows;
mod tables;

use pending::Pending;
pub use rows::{Row, Rows};
pub use tables::CatalogTables;

type Bytes = &'static [u8];

const META: TableDefinition<'_, &str, Bytes> = TableDefinition::new("meta");
const ENTRIES: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("entries");
const DIRECTORIES: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("directories");
const DIRTY: TableDefinition<'_, Bytes, ()> = TableDefinition::new("dirty");
const CONTENTS: TableDefinition<'_, Bytes, ()> = TableDefinition::new("contents");
const RECIPES: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("recipes");
const CHUNKS: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("chunks");
const INODES: TableDefinition<'_, u64, Bytes> = TableDefinition::new("inodes");
const HISTORY: TableDefinition<'_, (u64, u32), Bytes> = TableDefinition::new("history");
const HISTORY_SETS: TableDefinition<'_, u64, Bytes> = TableDefinition::new("history_sets");

/// Version of the layout above; another one is refused.
const FORMAT: u64 = 1;

/// Bytes of a chunk's digest that the chunk index keeps; the whole is checked when it is used.
const CHUNK_KEY_LEN: usize = 16;

/// Which end of a share a catalog serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum CatalogRole {
    /// Keeps the indexes that find renames and known chunks.
    Source = 1,
    /// Keeps history.
    Target = 2,
}

/// Why a catalog cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// It cannot be opened or made.
    #[error("catalog {}: opening it", path.display())]
    Open {
        /// The database file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<redb::Error>,
    },
    /// A new one cannot be put in place.
    #[error("catalog {}: {step}", path.display())]
    Create {
        /// The database file.
        path: PathBuf,
        /// What was to be done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// Another process has it open.
    #[error("catalog {}: another farshore has it open; wait for it or stop it", path.display())]
    Busy {
        /// The database file.
        path: PathBuf,
    },
    /// Made by another version or for the other role.
    #[error(
        "catalog {}: made {found}, this needs {wanted}; move the file away and run again: it is \
         rebuilt from the trees", path.display()
    )]
    Foreign {
        /// The database file.
        path: PathBuf,
        /// What it is.
        found: String,
        /// What was expected.
        wanted: String,
    },
    /// The database failed.
    #[error("catalog: {step}")]
    Database {
        /// What it was to do.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: Box<redb::Error>,
    },
    /// A stored value does not decode.
    #[error("catalog: value in table {table} is damaged; move the catalog away and run again")]
    Damaged {
        /// Where.
        table: &'static str,
        /// How.
        #[source]
        source: DecodeError,
    },
}

impl CatalogError {
    /// What the file system said, when it was the one to fail.
    #[must_use]
    pub fn file_system(&self) -> Option<&std::io::Error> {
        match self {
            Self::Create { source, .. } => Some(source),
            Self::Open { source, .. } | Self::Database { source, .. } => match &**source {
                redb::Error::Io(e) => Some(e),
                _ => None,
            },
            _ => None,
        }
    }
}

type Result<T, E = CatalogError> = std::result::Result<T, E>;

trait Step<T> {
    fn step(self, step: &'static str) -> Result<T>;
}

impl<T, E: Into<redb::Error>> Step<T> for std::result::Result<T, E> {
    fn step(self, step: &'static str) -> Result<T> {
        self.map_err(|e| CatalogError::Database { step, source: Box::new(e.into()) })
    }
}

fn damaged(table: &'static str) -> impl Fn(DecodeError) -> CatalogError {
    move |source| CatalogError::Damaged { table, source }
}

/// Facts of an inode as it was last seen; when they are all the same, the entry is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalFacts {
    /// Inode number.
    pub inode: u64,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// Last change of content as the file system keeps it.
    pub mtime: Timestamp,
    /// Length in bytes; 0 for directories, whose length means nothing.
    pub size: u64,
    /// Mode, owner and group as they are, which may not be what was asked for.
    pub owner_mode: (u32, u32, u32),
}

impl LocalFacts {
    /// The facts in `stat`.
    #[must_use]
    pub fn of(stat: &Stat) -> Self {
        let is_directory = stat.kind == crate::io::FileKind::Directory;
        Self {
            inode: stat.inode,
            ctime: stat.ctime,
            mtime: stat.mtime,
            size: if is_directory { 0 } else { stat.size },
            owner_mode: (stat.mode, stat.uid, stat.gid),
        }
    }

    fn encode(&self, e: &mut Encoder) {
        e.put_u64(self.inode);
        for t in [self.ctime, self.mtime] {
            e.put_i64(t.seconds);
            e.put_u64(u64::from(t.nanos));
        }
        e.put_u64(self.size);
        let (mode, uid, gid) = self.owner_mode;
        [mode, uid, gid].into_iter().for_each(|v| e.put_u64(u64::from(v)));
    }

    fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let inode = d.take_u64("inode")?;
        let mut time = || -> Result<Timestamp, DecodeError> {
            let seconds = d.take_i64("time")?;
            Ok(Timestamp { seconds, nanos: d.take_u32("time")? })
        };
        let (ctime, mtime) = (time()?, time()?);
        let size = d.take_u64("size")?;
        let owner_mode = (d.take_u32("mode")?, d.take_u32("uid")?, d.take_u32("gid")?);
        Ok(Self { inode, ctime, mtime, size, owner_mode })
    }
}

/// An entry and what this site knows of its inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What replicates.
    pub entry: Entry,
    /// Facts when it was last seen; `None` when it must be looked at again whatever they are.
    pub facts: Option<LocalFacts>,
}

impl Record {
    fn to_bytes(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        e.put_u8(u8::from(self.facts.is_some()));
        if let Some(facts) = &self.facts {
            facts.encode(&mut e);
        }
        self.entry.encode(&mut e);
        e.finish()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut d = Decoder::new(bytes);
        let facts = take_facts(&mut d)?;
        let entry = Entry::decode(&mut d)?;
        d.finish("record")?;
        Ok(Self { entry, facts })
    }
}

fn take_facts(d: &mut Decoder<'_>) -> Result<Option<LocalFacts>, DecodeError> {
    match d.take_u8("facts")? {
        0 => Ok(None),
        1 => LocalFacts::decode(d).map(Some),
        other => Err(DecodeError::Invalid { what: "facts", found: u64::from(other) }),
    }
}

/// The encoded entry within an encoded record.
fn entry_part(record: &[u8]) -> Result<&[u8]> {
    let mut d = Decoder::new(record);
    take_facts(&mut d).map_err(damaged("entries"))?;
    Ok(&record[record.len() - d.remaining()..])
}

fn is_directory(entry_bytes: &[u8]) -> bool {
    entry_bytes.first() == Some(&(EntryKind::Directory as u8))
}

/// Where content stands at the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// At a path of the tree.
    Live(RelPath),
    /// Kept in history: set and number.
    History(HistoryId),
}

/// Names one kept version: the batch that displaced it, and a number in that batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HistoryId {
    /// The batch.
    pub set: u64,
    /// Its number there.
    pub number: u32,
}

/// A kept version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRecord {
    /// Where it was.
    pub path: RelPath,
    /// What it was, as the catalog had it; `None` for what the catalog did not know.
    pub entry: Option<Entry>,
}

/// One set of kept versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistorySet {
    /// When they were displaced, in milliseconds since 1970-01-01 UTC.
    pub time_unix_ms: i64,
    /// Bytes of content kept.
    pub bytes: u64,
    /// Versions kept.
    pub versions: u64,
}

fn location_key(content: &FileDigest, location: &Location) -> Vec<u8> {
    let mut key = content.0.to_vec();
    match location {
        Location::Live(path) => {
            key.push(0);
            key.extend_from_slice(&path.key());
        }
        Location::History(id) => {
            key.push(1);
            key.extend_from_slice(&id.set.to_be_bytes());
            key.extend_from_slice(&id.number.to_be_bytes());
        }
    }
    key
}

fn parse_location(key: &[u8]) -> Option<Location> {
    let (tag, rest) = key.get(32..)?.split_first()?;
    match tag {
        0 => RelPath::from_key(rest).ok().map(Location::Live),
        1 => {
            let (set, number) = rest.split_first_chunk::<8>()?;
            let number = u32::from_be_bytes(number.try_into().ok()?);
            Some(Location::History(HistoryId { set: u64::from_be_bytes(*set), number }))
        }
        _ => None,
    }
}

/// How a catalog is opened.
#[derive(Debug, Clone)]
pub struct CatalogConfig {
    /// Which end it serves.
    pub role: CatalogRole,
    /// Bytes of memory for its cache.
    pub cache_bytes: usize,
    /// Identity given to a catalog that is made anew: random.
    pub fresh_id: StoreId,
}

/// An open catalog.
pub struct Catalog {
    db: Database,
    role: CatalogRole,
    id: StoreId,
    pending: Arc<Mutex<Pending>>,
    /// Held over a whole transaction, to the moment what was pending is told how it ended.
    writing: Mutex<()>,
}

impl std::fmt::Debug for Catalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalog").field("role", &self.role).field("id", &self.id).finish()
    }
}

impl Catalog {
    /// Opens the catalog at `path`, or makes it.
    ///
    /// # Errors
    /// [`CatalogError::Busy`], [`CatalogError::Foreign`], [`CatalogError::Open`].
    pub fn open(path: &Path, config: &CatalogConfig) -> Result<Self> {
        if !path.exists() {
            // The database cannot finish its own creation after a crash: it is made under another
            // name, and has its own only when it is whole and durable.
            let fresh = path.with_extension("new");
            let at = |step| {
                let path = path.to_path_buf();
                move |source| CatalogError::Create { path: path.clone(), step, source }
            };
            match std::fs::remove_file(&fresh) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(at("removing an unfinished one")(e));
                }
                _ => {}
            }
            let made = Database::builder().set_cache_size(config.cache_bytes).create(&fresh);
            drop(Self::finish_open(made, &fresh, config)?);
            std::fs::rename(&fresh, path).map_err(at("giving it its name"))?;
            if let Some(folder) = path.parent() {
                std::fs::File::open(folder)
                    .and_then(|f| f.sync_all())
                    .map_err(at("making its name durable"))?;
            }
        }
        let opened = Database::builder().set_cache_size(config.cache_bytes).open(path);
        Self::finish_open(opened, path, config)
    }

    /// Opens a catalog on a storage of the caller's, for tests on a simulated disk.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_on(backend: impl StorageBackend, config: &CatalogConfig) -> Result<Self> {
        let opened =
            Database::builder().set_cache_size(config.cache_bytes).create_with_backend(backend);
        Self::finish_open(opened, Path::new("(given storage)"), config)
    }

    fn finish_open(
        opened: std::result::Result<Database, redb::DatabaseError>,
        path: &Path,
        config: &CatalogConfig,
    ) -> Result<Self> {
        let db = opened.map_err(|e| match e {
            redb::DatabaseError::DatabaseAlreadyOpen => CatalogError::Busy { path: path.into() },
            other => CatalogError::Open { path: path.into(), source: Box::new(other.into()) },
        })?;
        let pending = Arc::default();
        let (id, writing) = (config.fresh_id, Mutex::default());
        let mut catalog = Self { db, role: config.role, id, pending, writing };
        let meta = catalog.reader_if_made()?;
        let Some(meta) = meta else {
            catalog.update(Durability::Immediate, |t| {
                t.set_meta_u64("format", FORMAT)?;
                t.set_meta_u64("role", config.role as u64)?;
                t.set_meta_u64("indexed", 1)?;
                t.set_meta("id", &config.fresh_id.0)
            })?;
            return Ok(catalog);
        };
        let (format, role) = meta;
        if (format, role) != (FORMAT, config.role as u64) {
            return Err(CatalogError::Foreign {
                path: path.into(),
                found: format!("in format {format} for role {role}"),
                wanted: format!("format {FORMAT} for role {}", config.role as u64),
            });
        }
        let reader = catalog.reader()?;
        let id = reader.meta("id")?.and_then(|b| <[u8; 16]>::try_from(b.as_slice()).ok());
        catalog.id = StoreId(id.ok_or(CatalogError::Damaged {
            table: "meta",
            source: DecodeError::Truncated { what: "catalog id" },
        })?);
        if reader.meta_u64("indexed")? == 0 {
            drop(reader);
            catalog.index_anew()?;
        }
        Ok(catalog)
    }

    fn reader_if_made(&self) -> Result<Option<(u64, u64)>> {
        let txn = self.db.begin_read().step("begin to read")?;
        let table = match txn.open_table(META) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(e) => return Err(e).step("open table meta"),
        };
        let number = |key| -> Result<u64> {
            let value = table.get(key).step("read meta")?;
            let Some(value) = value else { return Ok(0) };
            Decoder::new(value.value()).take_u64("meta").map_err(damaged("meta"))
        };
        Ok(Some((number("format")?, number("role")?)))
    }

    /// This catalog's identity.
    #[must_use]
    pub fn id(&self) -> StoreId {
        self.id
    }

    /// A consistent view as of now.
    ///
    /// # Errors
    /// [`CatalogError::Database`].
    pub fn reader(&self) -> Result<CatalogReader> {
        let txn = self.db.begin_read().step("begin to read")?;
        Ok(CatalogReader {
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
            pending: Arc::clone(&self.pending),
        })
    }

    /// Adds what a crash kept from the indexes of contents and inodes. What they have already stays.
    fn index_anew(&self) -> Result<()> {
        let reader = self.reader()?;
        let mut records = reader.records_below(&RelPath::root())?;
        loop {
            let more = self.update(Durability::None, |t| {
                for _ in 0..INDEXED_AT_ONCE {
                    let Some(next) = records.next() else { return Ok(false) };
                    let (path, record) = next?;
                    t.index(&path, &record);
                }
                Ok(true)
            })?;
            if !more {
                break;
            }
        }
        let history = reader.history.range::<(u64, u32)>(..).step("read history")?;
        self.update(Durability::Immediate, |t| {
            for row in history {
                let (key, value) = row.step("read history")?;
                let (set, number) = key.value();
                t.index_history(HistoryId { set, number }, &decode_history(value.value())?);
            }
            t.settle()
        })
    }

    /// Brings the indexes up to date: what was put is found after a crash without being indexed anew.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn settle(&self) -> Result<()> {
        if lock(&self.pending).is_empty() {
            return Ok(());
        }
        self.update(Durability::Immediate, |t| t.settle())
    }

    /// Brings the digest tree up to date where a crash left it behind, and answers R.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn sealed_root(&self) -> Result<RootDigest> {
        let reader = self.reader()?;
        if reader.dirty.is_empty().step("read dirty directories")? {
            return reader.root_digest();
        }
        self.update(Durability::Immediate, |t| t.seal())
    }

    /// Runs `change` in one transaction: all of it or, on an error, nothing.
    ///
    /// # Errors
    /// Those of `change`, and [`CatalogError::Database`].
    pub fn update<T>(
        &self,
        durability: Durability,
        change: impl FnOnce(&mut CatalogTables<'_>) -> Result<T>,
    ) -> Result<T> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut txn = self.db.begin_write().step("begin to write")?;
        txn.set_durability(durability).map_err(redb::Error::from).step("set durability")?;
        // A killed process must not cost a walk of the whole database at the next start.
        txn.set_quick_repair(matches!(durability, Durability::Immediate));
        let result = (|| {
            let mut tables = CatalogTables::open(&txn, self.role, &self.pending)?;
            let result = change(&mut tables)?;
            tables.finish()?;
            drop(tables);
            txn.commit().step("commit")?;
            Ok(result)
        })();
        match &result {
            Ok(_) => lock(&self.pending).committed(),
            // The catalog on disk is marked as not indexed, and stays so.
            Err(_) => lock(&self.pending).forget_all(),
        }
        result
    }
}

/// Records indexed in one transaction when a catalog is indexed anew.
const INDEXED_AT_ONCE: usize = 1 << 16;

/// A panic elsewhere leaves these values whole.
fn lock(pending: &Mutex<Pending>) -> MutexGuard<'_, Pending> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A consistent view of a catalog.
pub struct CatalogReader {
    meta: ReadOnlyTable<&'static str, Bytes>,
    entries: ReadOnlyTable<Bytes, Bytes>,
    directories: ReadOnlyTable<Bytes, Bytes>,
    contents: ReadOnlyTable<Bytes, ()>,
    recipes: ReadOnlyTable<Bytes, Bytes>,
    chunks: ReadOnlyTable<Bytes, Bytes>,
    inodes: ReadOnlyTable<u64, Bytes>,
    history: ReadOnlyTable<(u64, u32), Bytes>,
    history_sets: ReadOnlyTable<u64, Bytes>,
    dirty: ReadOnlyTable<Bytes, ()>,
    pending: Arc<Mutex<Pending>>,
}

impl std::fmt::Debug for CatalogReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CatalogReader")
    }
}

impl CatalogReader {
    fn meta(&self, key: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.meta.get(key).step("read meta")?.map(|v| v.value().to_vec()))
    }

    fn meta_u64(&self, key: &str) -> Result<u64> {
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

fn read_below(
    directories: &impl ReadableTable<Bytes, Bytes>,
    key: &[u8],
) -> Result<DirectoryDigest> {
    let Some(value) = directories.get(key).step("read directory digest")? else {
        return Ok(DirectoryHasher::default().finish());
    };
    let digest = Decoder::new(value.value()).take_array("directory digest");
    digest.map(DirectoryDigest).map_err(damaged("directories"))
}

fn for_children(
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
            let child = directory.join(name).map_err(|source| CatalogError::Damaged {
                table: "entries",
                source: DecodeError::Path { what: "child", source },
            })?;
            Some(read_below(directories, &child.key())?)
        } else {
            None
        };
        visit(name, entry, below)?;
    }
    Ok(())
}

fn decode_history(bytes: &[u8]) -> Result<HistoryRecord> {
    let decode = || -> Result<HistoryRecord, DecodeError> {
        let mut d = Decoder::new(bytes);
        let path = decode_path(&mut d, "history path")?;
        let entry = if d.remaining() > 0 { Some(Entry::decode(&mut d)?) } else { None };
        Ok(HistoryRecord { path, entry })
    };
    decode().map_err(damaged("history"))
}

fn decode_history_set(bytes: &[u8]) -> Result<HistorySet> {
    let decode = || -> Result<HistorySet, DecodeError> {
        let mut d = Decoder::new(bytes);
        Ok(HistorySet {
            time_unix_ms: d.take_i64("history time")?,
            bytes: d.take_u64("history bytes")?,
            versions: d.take_u64("history versions")?,
        })
    };
    decode().map_err(damaged("history sets"))
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

#[cfg(test)]
mod tests {
    use farshore_core::entry::Metadata;
    use redb::backends::InMemoryBackend;

    use super::*;

    fn open(role: CatalogRole) -> Catalog {
        let config = CatalogConfig { role, cache_bytes: 1 << 20, fresh_id: StoreId([1; 16]) };
        Catalog::open_on(InMemoryBackend::new(), &config).expect("in memory")
    }

    fn path(s: &str) -> RelPath {
        RelPath::new(s.as_bytes()).expect("valid")
    }

    fn file(content: &[u8], inode: u64) -> Record {
        Record {
            entry: Entry::File {
                size: content.len() as u64,
                content: FileDigest::of_small(content),
                meta: Metadata::default(),
            },
            facts: Some(LocalFacts {
                inode,
                ctime: Timestamp::default(),
                mtime: Timestamp { seconds: -1, nanos: 5 },
                size: content.len() as u64,
                owner_mode: (0o644, 1, 2),
            }),
        }
    }

    fn directory() -> Record {
        Record { entry: Entry::Directory { meta: Metadata::default() }, facts: None }
    }

    fn put_all(catalog: &Catalog, records: &[(&str, Record)]) -> RootDigest {
        catalog
            .update(Durability::Immediate, |t| {
                for (p, r) in records {
                    t.put(&path(p), r)?;
                }
                t.seal()
            })
            .expect("update")
    }

    #[test]
    fn root_depends_on_the_entries_not_on_the_way_there() {
        let all = [
            ("a", directory()),
            ("b", directory()),
            ("a/x", file(b"1", 10)),
            ("a/y", file(b"2", 11)),
            ("b/c", directory()),
        ];
        let straight = put_all(&open(CatalogRole::Source), &all);
        let detour = open(CatalogRole::Target);
        put_all(
            &detour,
            &[("a", file(b"was a file", 1)), ("z", directory()), ("z/q", file(b"3", 3))],
        );
        detour
            .update(Durability::Immediate, |t| {
                t.remove_below(&path("z"))?;
                t.remove(&path("z"))?;
                t.remove(&path("a")).map(|_| ())
            })
            .expect("remove");
        assert_eq!(put_all(&detour, &all), straight);
        let reader = detour.reader().expect("reader");
        assert_eq!(reader.entry_count().expect("count"), 5);
        assert_eq!(reader.content_bytes().expect("bytes"), 2);
        assert_eq!(reader.root_digest().expect("root"), straight);
    }

    #[test]
    fn contents_follow_puts_and_removals() {
        let catalog = open(CatalogRole::Source);
        put_all(&catalog, &[("a", file(b"same", 1)), ("b", file(b"same", 2))]);
        let content = FileDigest::of_small(b"same");
        let live = |s: &str| Location::Live(path(s));
        let reader = catalog.reader().expect("reader");
        assert_eq!(reader.locations(&content, 9).expect("locations"), [live("a"), live("b")]);
        assert_eq!(reader.path_of_inode(2).expect("inode"), Some(path("b")));
        put_all(&catalog, &[("a", file(b"other", 1))]);
        catalog.update(Durability::None, |t| t.remove(&path("b"))).expect("remove");
        let reader = catalog.reader().expect("reader");
        assert!(!reader.has_content(&content).expect("contents"));
        assert_eq!(reader.path_of_inode(2).expect("inode"), None);
        assert_eq!(reader.path_of_inode(1).expect("inode"), Some(path("a")));
    }

    #[test]
    fn history_keeps_content_findable_until_it_is_pruned() {
        let catalog = open(CatalogRole::Target);
        let id = HistoryId { set: 7, number: 3 };
        let record = HistoryRecord { path: path("a"), entry: Some(file(b"old", 1).entry) };
        catalog
            .update(Durability::Immediate, |t| {
                t.put_history(id, &record)?;
                t.put_history_set(7, &HistorySet { time_unix_ms: 1, bytes: 3, versions: 1 })
            })
            .expect("history");
        let reader = catalog.reader().expect("reader");
        let content = FileDigest::of_small(b"old");
        assert_eq!(reader.locations(&content, 9).expect("locations"), [Location::History(id)]);
        assert_eq!(reader.history(id).expect("history"), Some(record));
        catalog.update(Durability::Immediate, |t| t.remove_history_set(7)).expect("prune");
        let reader = catalog.reader().expect("reader");
        assert!(!reader.has_content(&content).expect("contents"));
        assert!(reader.history_sets().expect("sets").is_empty());
    }

    #[test]
    fn what_waits_for_the_indexes_is_found_before_and_after_it_is_settled() {
        let catalog = open(CatalogRole::Source);
        let same = FileDigest::of_small(b"same");
        let found = |catalog: &Catalog| {
            let reader = catalog.reader().expect("reader");
            (
                reader.locations(&same, 9).expect("locations"),
                reader.path_of_inode(1).expect("inode"),
            )
        };
        let put = |p: &str, record: Record| {
            catalog.update(Durability::None, |t| t.put(&path(p), &record)).expect("put");
        };
        put("a", file(b"same", 1));
        let expected = (vec![Location::Live(path("a"))], Some(path("a")));
        assert_eq!(found(&catalog), expected);
        catalog.settle().expect("settle");
        assert_eq!(found(&catalog), expected);
        // One in the table, one waiting, and both go.
        put("b", file(b"same", 2));
        assert_eq!(found(&catalog).0.len(), 2);
        let gone =
            |p: &str| catalog.update(Durability::None, |t| t.remove(&path(p))).expect("remove");
        gone("a");
        gone("b");
        assert_eq!(found(&catalog), (Vec::new(), None));
        catalog.settle().expect("settle");
        assert_eq!(found(&catalog), (Vec::new(), None));
        // Settled and taken out within one transaction.
        put("c", file(b"same", 1));
        catalog
            .update(Durability::None, |t| {
                t.settle()?;
                t.remove(&path("c"))
            })
            .expect("update");
        assert_eq!(found(&catalog), (Vec::new(), None));
    }

    #[test]
    fn a_catalog_whose_indexes_a_crash_left_behind_is_indexed_anew() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (used, crashed) = (dir.path().join("used.redb"), dir.path().join("crashed.redb"));
        let config = CatalogConfig {
            role: CatalogRole::Source,
            cache_bytes: 1 << 20,
            fresh_id: StoreId([9; 16]),
        };
        let content = FileDigest::of_small(b"same");
        let id = HistoryId { set: 3, number: 1 };
        {
            let catalog = Catalog::open(&used, &config).expect("create");
            catalog
                .update(Durability::Immediate, |t| {
                    t.put(&path("a"), &file(b"same", 7))?;
                    let record =
                        HistoryRecord { path: path("o"), entry: Some(file(b"same", 8).entry) };
                    t.put_history(id, &record)
                })
                .expect("put");
            // As a crash would leave it: nothing was settled.
            std::fs::copy(&used, &crashed).expect("copy");
        }
        let catalog = Catalog::open(&crashed, &config).expect("open");
        let reader = catalog.reader().expect("reader");
        let all = [Location::Live(path("a")), Location::History(id)];
        assert_eq!(reader.locations(&content, 9).expect("locations"), all);
        assert_eq!(reader.path_of_inode(7).expect("inode"), Some(path("a")));
        assert!(lock(&catalog.pending).is_empty());
    }

    /// A transaction that fails loses what waited; the next ones do not make up for it.
    #[test]
    fn what_a_failed_transaction_lost_is_indexed_anew() {
        let dir = tempfile::tempdir().expect("tempdir");
        let file_path = dir.path().join("catalog.redb");
        let config = CatalogConfig {
            role: CatalogRole::Source,
            cache_bytes: 1 << 20,
            fresh_id: StoreId([9; 16]),
        };
        let catalog = Catalog::open(&file_path, &config).expect("create");
        let put = |p: &str, record: &Record| {
            catalog.update(Durability::Immediate, |t| t.put(&path(p), record)).expect("put");
        };
        put("a", &file(b"waits", 7));
        let failed: Result<()> = catalog.update(Durability::Immediate, |_| {
            Err(damaged("entries")(DecodeError::Truncated { what: "a test" }))
        });
        assert!(failed.is_err());
        put("d", &directory());
        catalog.settle().expect("settle");
        drop(catalog);
        let catalog = Catalog::open(&file_path, &config).expect("open");
        let reader = catalog.reader().expect("reader");
        let content = FileDigest::of_small(b"waits");
        assert_eq!(reader.locations(&content, 9).expect("found"), [Location::Live(path("a"))]);
        assert_eq!(reader.path_of_inode(7).expect("inode"), Some(path("a")));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_row_or_refused(bytes: Vec<u8>, at: proptest::sample::Index, to: u8) {
            let mut damaged = file(b"a row", 3).to_bytes();
            let at = at.index(damaged.len());
            damaged[at] = to;
            for row in [&bytes, &damaged] {
                if let Ok(record) = Record::from_bytes(row) {
                    assert_eq!(Record::from_bytes(&record.to_bytes()), Ok(record));
                }
                let _decoded_or_refused = (decode_history(row).is_ok(), decode_history_set(row).is_ok());
                let key = [[7; 32].as_slice(), row].concat();
                if let Some(location) = parse_location(&key) {
                    assert_eq!(location_key(&FileDigest([7; 32]), &location), key);
                }
            }
        }
    }

    #[test]
    fn counts_hold_any_sizes_and_damaged_ones_are_an_error() {
        let huge = |n| {
            let mut record = file(b"huge", n);
            if let Entry::File { size, .. } = &mut record.entry {
                *size = u64::MAX >> 1;
            }
            record
        };
        let catalog = open(CatalogRole::Target);
        put_all(&catalog, &[("a", huge(1)), ("b", huge(2)), ("c", huge(3)), ("d", file(b"1", 4))]);
        let bytes = |c: &Catalog| c.reader().expect("reader").content_bytes().expect("bytes");
        assert_eq!(bytes(&catalog), u64::MAX);
        for gone in ["a", "b", "c"] {
            catalog.update(Durability::None, |t| t.remove(&path(gone))).expect("remove");
        }
        assert_eq!(bytes(&catalog), 1);
        for count in ["bytes", "entries"] {
            let txn = catalog.db.begin_write().expect("begin");
            let mut e = Encoder::new();
            e.put_u64(0);
            let mut meta = txn.open_table(META).expect("meta");
            meta.insert(count, e.as_slice()).expect("damage");
            drop(meta);
            txn.commit().expect("commit");
            let removed = catalog.update(Durability::None, |t| t.remove(&path("d")));
            assert!(matches!(removed, Err(CatalogError::Damaged { .. })), "{count}");
        }
    }

    #[test]
    fn a_catalog_of_the_other_role_is_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        let file = dir.path().join("catalog.redb");
        let config =
            |role| CatalogConfig { role, cache_bytes: 1 << 20, fresh_id: StoreId([9; 16]) };
        let first = Catalog::open(&file, &config(CatalogRole::Source)).expect("create");
        assert!(matches!(
            Catalog::open(&file, &config(CatalogRole::Source)),
            Err(CatalogError::Busy { .. })
        ));
        drop(first);
        assert!(matches!(
            Catalog::open(&file, &config(CatalogRole::Target)),
            Err(CatalogError::Foreign { .. })
        ));
    }
}

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

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farshore_core::codec::{DecodeError, Decoder};
use farshore_core::digest::RootDigest;
use farshore_core::path::RelPath;
use farshore_proto::message::StoreId;
pub use redb::Durability;
use redb::{Database, ReadableDatabase, ReadableTableMetadata, StorageBackend, TableDefinition};

mod chunkings;
mod detached;
mod error;
mod first_names;
mod pending;
mod pins;
mod points;
mod reader;
mod record;
mod rows;
mod tables;
mod turn;
mod undo;

pub use detached::{Detached, DetachedRows};
pub use error::CatalogError;
use error::{Result, Step, damaged};
use pending::Pending;
pub use pins::Pin;
use pins::Pins;
pub use points::{KeptPoint, LABEL_MAX, MARKED_MAX, MARKS_MAX, Mark, MarkRefused, is_label};
pub use reader::{CatalogReader, Records};
pub use record::{HistoryId, HistoryRecord, HistorySet, LocalFacts, Location, Record};
pub use rows::{Row, Rows};
pub use tables::CatalogTables;
pub use turn::Turning;
pub use undo::{Former, Formers, PendingRollback};

type Bytes = &'static [u8];

const META: TableDefinition<'_, &str, Bytes> = TableDefinition::new("meta");
const ENTRIES: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("entries");
const DIRECTORIES: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("directories");
const DIRTY: TableDefinition<'_, Bytes, ()> = TableDefinition::new("dirty");
const CONTENTS: TableDefinition<'_, Bytes, ()> = TableDefinition::new("contents");
const RECIPES: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("recipes");
const CHUNKS: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("chunks");
const INODES: TableDefinition<'_, u64, Bytes> = TableDefinition::new("inodes");
const DETACHED: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("detached");
const FIRST_NAMES: TableDefinition<'_, Bytes, u64> = TableDefinition::new("first_names");
const HISTORY: TableDefinition<'_, (u64, u32), Bytes> = TableDefinition::new("history");
const HISTORY_SETS: TableDefinition<'_, u64, Bytes> = TableDefinition::new("history_sets");
const POINTS: TableDefinition<'_, u64, Bytes> = TableDefinition::new("points");
const POINTS_BEHIND: TableDefinition<'_, u64, Bytes> = TableDefinition::new("points_behind");
const UNDO: TableDefinition<'_, (Bytes, u64), Bytes> = TableDefinition::new("undo");
const UNDO_MADE: TableDefinition<'_, (Bytes, u64), ()> = TableDefinition::new("undo_made");
const UNDO_SETS: TableDefinition<'_, (u64, u32), Bytes> = TableDefinition::new("undo_sets");

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
    /// Keeps history, the recovery points, and what it takes to go back to them.
    Target = 2,
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
    pins: Pins,
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
        let pins = Pins::default();
        let mut catalog = Self { db, role: config.role, id, pending, writing, pins };
        let meta = catalog.reader_if_made()?;
        let Some(meta) = meta else {
            catalog.update(Durability::Immediate, |t| {
                t.set_meta_u64("format", FORMAT)?;
                t.set_meta_u64("role", config.role as u64)?;
                t.set_meta_u64("indexed", 1)?;
                t.set_meta_u64("first_names", 1)?;
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
        let (indexed, counted) = (reader.meta_u64("indexed")?, reader.meta_u64("first_names")?);
        let chunks_missing = reader.meta_u64(turn::CHUNKS_MISSING)?;
        drop(reader);
        if indexed == 0 {
            catalog.index_anew()?;
        }
        if chunks_missing != 0 {
            catalog.index_chunks()?;
        }
        if counted == 0 {
            catalog.count_first_names()?;
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
        CatalogReader::begin(&self.db, &self.pending)
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
        // What a source looks for is at the target, where its own history is not.
        let history = (self.role == CatalogRole::Target).then_some(history).into_iter().flatten();
        self.update(Durability::Immediate, |t| {
            for row in history {
                let (key, value) = row.step("read history")?;
                let (set, number) = key.value();
                t.index_history(HistoryId { set, number }, &record::decode_history(value.value())?);
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
        self.transact(durability, false, |tables| Ok((change(tables)?, Keep::All)))
    }

    /// Runs `change` in one transaction, of which nothing is left when it says so: for what is recorded before it is
    /// known to be true. Readers see none of it before that, but hints of where content and inodes are. No other
    /// change is made meanwhile.
    ///
    /// # Errors
    /// Those of `change`, and [`CatalogError::Database`].
    pub fn attempt<T>(
        &self,
        durability: Durability,
        change: impl FnOnce(&mut CatalogTables<'_>) -> Result<(T, Keep)>,
    ) -> Result<T> {
        self.transact(durability, true, change)
    }

    /// Whether so few keys wait for their index that an [attempt](Self::attempt), which keeps them twice, is no burden.
    #[must_use]
    pub fn can_attempt(&self) -> bool {
        lock(&self.pending).can_note()
    }

    fn transact<T>(
        &self,
        durability: Durability,
        may_be_undone: bool,
        change: impl FnOnce(&mut CatalogTables<'_>) -> Result<(T, Keep)>,
    ) -> Result<T> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if may_be_undone {
            lock(&self.pending).note();
        }
        let mut txn = self.db.begin_write().step("begin to write")?;
        txn.set_durability(durability).map_err(redb::Error::from).step("set durability")?;
        // A killed process must not cost a walk of the whole database at the next start.
        txn.set_quick_repair(matches!(durability, Durability::Immediate));
        let result = (|| {
            let mut tables = CatalogTables::open(&txn, self.role, &self.pending)?;
            let (result, keep) = change(&mut tables)?;
            if keep == Keep::All {
                tables.finish()?;
            }
            drop(tables);
            match keep {
                Keep::All => txn.commit().step("commit")?,
                Keep::Nothing => txn.abort().step("abort")?,
            }
            Ok((result, keep))
        })();
        match &result {
            Ok((_, Keep::All)) => lock(&self.pending).committed(),
            Ok((_, Keep::Nothing)) => lock(&self.pending).undone(),
            // The catalog on disk is marked as not indexed, and stays so.
            Err(_) => lock(&self.pending).forget_all(),
        }
        result.map(|(result, _)| result)
    }
}

/// What is left of a transaction that was [attempted](Catalog::attempt).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// All of it.
    All,
    /// None of it: the catalog is as before.
    Nothing,
}

/// Records indexed in one transaction when a catalog is indexed anew.
const INDEXED_AT_ONCE: usize = 1 << 16;

/// A panic elsewhere leaves these values whole.
fn lock(pending: &Mutex<Pending>) -> MutexGuard<'_, Pending> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;

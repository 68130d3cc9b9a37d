//! A catalog of one end becomes that of the other: roles have changed.
//!
//! What both ends hold is the same: the entries of the last recovery point, with the facts of this site's own
//! inodes. What differs is made anew or dropped:
//!
//! | | becomes a source's | becomes a target's |
//! |---|---|---|
//! | content, inodes | indexed anew, of live entries alone: what is in history here is not there | indexed anew, history too |
//! | chunks | indexed anew | not kept |
//! | points, former entries | kept to be read | dropped: what came while it was a source is noted nowhere |
//! | history | its files and their records stay | likewise, and go by their bounds |
//!
//! Guarantees: all of it in one durable transaction, to be done again without harm; the indexes are made when
//! the catalog is next opened, however often that is interrupted. Never causes a delete.

use super::*;

/// What a catalog becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turning {
    /// Which end it serves from now on.
    pub role: CatalogRole,
    /// The other end, as [`CatalogReader::sealed_with`] has it, if it is known: then they are no strangers.
    pub joined_with: Option<StoreId>,
}

/// Set while the index of chunks is to be made.
pub(super) const CHUNKS_MISSING: &str = "chunks_missing";

impl Catalog {
    /// Makes the catalog at `path`, which nobody has open, one of the other end. One that is so already only
    /// takes over who the other end is.
    ///
    /// # Errors
    /// [`CatalogError`]; then it is as it was.
    pub fn turn(path: &Path, turning: &Turning) -> Result<()> {
        let db =
            Database::builder().set_cache_size(TURN_CACHE).open(path).map_err(|e| match e {
                redb::DatabaseError::DatabaseAlreadyOpen => {
                    CatalogError::Busy { path: path.into() }
                }
                other => CatalogError::Open { path: path.into(), source: Box::new(other.into()) },
            })?;
        let (role, pending) = (turning.role, Mutex::default());
        let mut txn = db.begin_write().step("begin to write")?;
        txn.set_durability(Durability::Immediate)
            .map_err(redb::Error::from)
            .step("set durability")?;
        txn.set_quick_repair(true);
        let former = {
            let tables = CatalogTables::open(&txn, role, &pending)?;
            let (format, former) = (tables.stored("format")?, tables.stored("role")?);
            if format != FORMAT {
                return Err(CatalogError::Foreign {
                    path: path.into(),
                    found: format!("in format {format} for role {former}"),
                    wanted: format!("format {FORMAT}"),
                });
            }
            former
        };
        if former != role as u64 {
            txn.delete_table(CONTENTS).step("drop an index")?;
            txn.delete_table(INODES).step("drop an index")?;
            txn.delete_table(CHUNKS).step("drop an index")?;
            if role == CatalogRole::Target {
                txn.delete_table(POINTS).step("drop the points")?;
                txn.delete_table(POINTS_BEHIND).step("drop the points")?;
                txn.delete_table(UNDO).step("drop former entries")?;
                txn.delete_table(UNDO_MADE).step("drop former entries")?;
                txn.delete_table(UNDO_SETS).step("drop former entries")?;
            }
        }
        {
            let mut tables = CatalogTables::open(&txn, role, &pending)?;
            if former != role as u64 {
                tables.set_meta_u64("role", role as u64)?;
                tables.set_meta_u64("indexed", 0)?;
                tables.set_meta_u64(CHUNKS_MISSING, u64::from(role == CatalogRole::Source))?;
                if role == CatalogRole::Target {
                    tables.set_meta_u64("undo_from", 0)?;
                }
            }
            if let Some(peer) = turning.joined_with {
                tables.set_joined_with(peer)?;
            }
        }
        txn.commit().step("commit")
    }

    /// Makes the index of chunks, where it is missing: of the recipes of what is live.
    pub(super) fn index_chunks(&self) -> Result<()> {
        let reader = self.reader()?;
        let mut records = reader.records_below(&RelPath::root())?;
        loop {
            let more = self.update(Durability::None, |t| {
                for _ in 0..CHUNKED_AT_ONCE {
                    let Some(next) = records.next() else { return Ok(false) };
                    let (_, record) = next?;
                    if let Some(content) = record.entry.content()
                        && let Some(recipe) = reader.recipe(content)?
                    {
                        t.put_recipe(content, &recipe)?;
                    }
                }
                Ok(true)
            })?;
            if !more {
                break;
            }
        }
        self.update(Durability::Immediate, |t| t.set_meta_u64(CHUNKS_MISSING, 0))
    }
}

/// Memory for turning a catalog.
const TURN_CACHE: usize = 16 << 20;

/// Records whose chunks are indexed in one transaction.
const CHUNKED_AT_ONCE: usize = 1 << 12;

#[cfg(test)]
mod tests {
    use farshore_core::chunking::ChunkingId;
    use farshore_core::entry::{Entry, Metadata, Timestamp};
    use farshore_core::recipe::{ChunkId, Extent, FileDigest, Recipe};
    use farshore_core::recovery_point::RecoveryPoint;

    use super::*;

    fn open(path: &Path, role: CatalogRole) -> Catalog {
        let config = CatalogConfig { role, cache_bytes: 1 << 20, fresh_id: StoreId([1; 16]) };
        Catalog::open(path, &config).expect("opens")
    }

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).expect("valid")
    }

    fn file(content: u8, inode: u64) -> Record {
        let facts = LocalFacts {
            inode,
            ctime: Timestamp::default(),
            mtime: Timestamp::default(),
            size: 10,
            owner_mode: (0o644, 0, 0),
        };
        let content = FileDigest([content; 32]);
        let meta = Metadata::default();
        Record { entry: Entry::File { size: 10, content, meta }, facts: Some(facts) }
    }

    fn chunk(id: u8) -> Extent {
        Extent::Chunk { id: ChunkId([id; 32]), len: 5 }
    }

    fn point(sequence: u64, root: RootDigest) -> RecoveryPoint {
        RecoveryPoint { sequence, time_unix_ms: 5, root, entries: 1, bytes: 10, exceptions: 0 }
    }

    /// A standby's: one file that is there, one in history, a point and a batch after it.
    fn standby(at: &Path) -> RootDigest {
        let catalog = open(at, CatalogRole::Target);
        let live = Recipe { extents: vec![chunk(8), chunk(9)], chunking: ChunkingId::FastCdc64K };
        catalog
            .update(Durability::Immediate, |t| {
                t.put(&path("a"), &file(1, 77))?;
                t.put_recipe(&FileDigest([1; 32]), &live)?;
                let kept = HistoryRecord { path: path("old"), entry: Some(file(2, 3).entry) };
                t.put_history(HistoryId { set: 1, number: 0 }, &kept)?;
                let set = HistorySet { time_unix_ms: 4, bytes: 10, versions: 1 };
                t.put_history_set(1, &set)?;
                t.set_applied_batch(1)?;
                let root = t.seal()?;
                let point = point(3, root);
                t.set_recovery_point(&point, StoreId([9; 16]))?;
                t.put_point(&point, 6)?;
                t.put(&path("b"), &file(3, 78))?;
                t.set_applied_batch(2)?;
                t.seal()
            })
            .expect("filled")
    }

    #[test]
    fn a_standby_becomes_a_source_that_knows_its_inodes_and_not_its_history() {
        let folder = tempfile::tempdir().expect("temp");
        let at = folder.path().join("catalog.redb");
        let root = standby(&at);
        let joined_with = Some(StoreId([4; 16]));
        for _ in 0..2 {
            Catalog::turn(&at, &Turning { role: CatalogRole::Source, joined_with })
                .expect("turned");
        }
        let catalog = open(&at, CatalogRole::Source);
        assert_eq!(catalog.id(), StoreId([1; 16]));
        let reader = catalog.reader().expect("reads");
        assert_eq!(reader.root_digest().expect("root"), root);
        assert_eq!(reader.path_of_inode(77).expect("reads"), Some(path("a")));
        assert!(reader.has_content(&FileDigest([1; 32])).expect("reads"));
        assert!(!reader.has_content(&FileDigest([2; 32])).expect("reads"), "it is in history here");
        let second = reader.chunk(&ChunkId([9; 32])).expect("reads");
        assert_eq!(second, Some((FileDigest([1; 32]), 5)));
        assert_eq!(reader.sealed_with().expect("reads"), joined_with);
        assert_eq!(reader.recovery_point().expect("reads").map(|p| p.sequence), Some(3));
        assert_eq!(reader.points().expect("reads").len(), 1, "to be read");
        assert_eq!(reader.history_sets().expect("reads").len(), 1);
    }

    #[test]
    fn a_source_that_becomes_a_standby_goes_back_to_nothing_it_did_not_note() {
        let folder = tempfile::tempdir().expect("temp");
        let at = folder.path().join("catalog.redb");
        standby(&at);
        let turn = |role| Catalog::turn(&at, &Turning { role, joined_with: None }).expect("turned");
        turn(CatalogRole::Source);
        let changed = open(&at, CatalogRole::Source)
            .update(Durability::Immediate, |t| {
                t.put(&path("c"), &file(4, 80))?;
                t.remove(&path("b"))?;
                t.seal()
            })
            .expect("changed");
        turn(CatalogRole::Target);
        let catalog = open(&at, CatalogRole::Target);
        let reader = catalog.reader().expect("reads");
        assert_eq!(reader.root_digest().expect("root"), changed);
        assert_eq!(reader.points().expect("reads"), Vec::new());
        assert_eq!(reader.undo_floor().expect("reads"), None);
        assert!(reader.former(&path("b"), 0).expect("reads").is_none());
        assert!(
            reader.has_content(&FileDigest([2; 32])).expect("reads"),
            "history is its own again"
        );
        assert_eq!(reader.sealed_with().expect("reads"), Some(StoreId([9; 16])));
        assert_eq!(reader.applied_batch().expect("reads"), 2, "numbers go on");
        // The next point is the first to go back to.
        drop(reader);
        catalog
            .update(Durability::Immediate, |t| {
                let root = t.seal()?;
                t.put_point(&point(9, root), 7)?;
                t.put(&path("c"), &file(5, 81))?;
                t.set_applied_batch(3)
            })
            .expect("updated");
        let reader = catalog.reader().expect("reads");
        let former = reader.former(&path("c"), 2).expect("reads");
        assert_eq!(former.and_then(|f| f.entry), Some(file(4, 80).entry));
    }

    #[test]
    fn one_that_is_open_is_not_turned() {
        let folder = tempfile::tempdir().expect("temp");
        let at = folder.path().join("catalog.redb");
        let _open = open(&at, CatalogRole::Target);
        let turning = Turning { role: CatalogRole::Source, joined_with: None };
        assert!(matches!(Catalog::turn(&at, &turning), Err(CatalogError::Busy { .. })));
    }
}

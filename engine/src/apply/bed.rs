//! A target for the tests of applying: a tree in memory, and its catalog.

use farshore_core::entry::{Entry, Metadata};
use farshore_core::path::RelPath;
use farshore_core::recipe::FileDigest;
use farshore_core::recovery_point::RecoveryPoint;
use farshore_proto::message::{Receipt, StoreId};
use redb::Durability;
use redb::backends::InMemoryBackend;

use super::Applier;
use crate::catalog::{Catalog, CatalogConfig, CatalogRole, LocalFacts, Record};
use crate::io::sim::{SimConfig, SimDisk, SimStorage};
use crate::io::{Object, Storage};
use crate::own_folder::OwnFolder;
use crate::profile::Profile;
use crate::stage::{Staged, StagedBatch, folder_name};

/// The number of the batch that is applied; the one before it was.
const BATCH: u64 = 2;

pub(super) fn path(s: &str) -> RelPath {
    RelPath::new(s.as_bytes()).expect("valid")
}

pub(super) struct Bed {
    pub(super) storage: SimStorage,
    pub(super) catalog: Catalog,
    own: OwnFolder<SimStorage>,
}

impl Bed {
    pub(super) fn new(config: SimConfig) -> Self {
        let storage = SimDisk::new(config).mount("").expect("mounted");
        let own = OwnFolder::open(&storage, StoreId([2; 16])).expect("its own folder");
        let (role, fresh_id) = (CatalogRole::Target, StoreId([1; 16]));
        let config = CatalogConfig { role, cache_bytes: 1 << 20, fresh_id };
        let catalog = Catalog::open_on(InMemoryBackend::new(), &config).expect("in memory");
        Self { storage, catalog, own }
    }

    /// What the catalog is to know of the tree before the batch; whether it was ever sealed.
    pub(super) fn knows(&self, known: &[(RelPath, Record)], is_sealed: bool) {
        let begun = self.catalog.update(Durability::Immediate, |t| {
            let meta = Metadata::default();
            t.put(&RelPath::root(), &Record { entry: Entry::Directory { meta }, facts: None })?;
            known.iter().try_for_each(|(path, record)| t.put(path, record))?;
            t.set_applied_batch(BATCH - 1)?;
            let root = t.seal()?;
            let (entries, bytes) = t.totals();
            let (sequence, time_unix_ms, exceptions) = (1, 2, 0);
            let point = RecoveryPoint { sequence, time_unix_ms, root, entries, bytes, exceptions };
            if is_sealed { t.set_recovery_point(&point, StoreId([3; 16])) } else { Ok(()) }
        });
        begun.expect("begun");
    }

    /// The staging folder of the batch, which is made.
    pub(super) fn staging(&self) -> <SimStorage as Storage>::Directory {
        let name = folder_name(BATCH);
        self.storage.make_directory(&self.own.staging, name.as_bytes()).expect("made");
        self.storage.open_directory(&self.own.staging, name.as_bytes()).expect("opened")
    }

    /// A file of `content`, and its record.
    pub(super) fn file(
        &self,
        at: &<SimStorage as Storage>::Directory,
        name: &str,
        content: &[u8],
    ) -> Record {
        let file = self.storage.create_file(at, name.as_bytes()).expect("created");
        self.storage.write_at(&file, 0, content).expect("written");
        let stat = self.storage.stat(Object::File(&file)).expect("looked at");
        let meta = Metadata { mtime: stat.mtime, ..Metadata::default() };
        let (size, content) = (content.len() as u64, FileDigest::of_small(content));
        let entry = Entry::File { size, content, meta };
        Record { entry, facts: Some(LocalFacts::of(&stat)) }
    }

    pub(super) fn apply(&self, staged: Vec<Staged>) -> Vec<Receipt> {
        let batch = StagedBatch { batch: BATCH, staged, ..StagedBatch::default() };
        let Self { storage, catalog, own } = self;
        let profile = &Profile::default();
        let applier = Applier { storage, catalog, own, now_ms: &|| 7, profile };
        applier.apply(vec![batch]).expect("applied")
    }
}

//! Opening content the target already holds, by its digest.
//!
//! A location is a hint. A file of the tree whose facts the catalog recorded is used only while it has
//! them; one whose record has no facts, and a kept version, is opened as it is. Either way what is read
//! is hashed by the caller before it counts.

use std::sync::{Condvar, Mutex, PoisonError};

use farshore_core::recipe::FileDigest;

use crate::ahead::BYTES;
use crate::catalog::{Catalog, CatalogError, LocalFacts, Location};
use crate::io::{Object, Storage};
use crate::own_folder::{OwnFolder, set_name};

/// Places tried before content counts as missing.
const LOCATIONS_MAX: usize = 8;

/// The number of the last batch applied, and a way to wait for it.
#[derive(Debug)]
pub struct Applied {
    /// That number, and whether no further batch will ever be applied.
    state: Mutex<(u64, bool)>,
    moved: Condvar,
}

impl Applied {
    /// Batches up to `batch` are applied.
    #[must_use]
    pub fn new(batch: u64) -> Self {
        Self { state: Mutex::new((batch, false)), moved: Condvar::new() }
    }

    /// A further batch is applied.
    pub fn advance(&self, batch: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = state.0.max(batch);
        self.moved.notify_all();
    }

    /// Nothing will be applied any more.
    pub fn abandon(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.moved.notify_all();
    }

    /// Waits until batches up to `batch` are applied; whether there was anything to wait for.
    pub fn wait_for(&self, batch: u64) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = state.0 < batch;
        while state.0 < batch && !state.1 {
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        waited
    }
}

/// Opens `content` from the tree, from history, or from what arrived ahead of its cut.
///
/// # Errors
/// [`CatalogError`]; a place that does not hold it any more is passed over.
pub fn open_content<S: Storage>(
    storage: &S,
    catalog: &Catalog,
    own: &OwnFolder<S>,
    content: &FileDigest,
) -> Result<Option<S::File>, CatalogError> {
    let reader = catalog.reader()?;
    for location in reader.locations(content, LOCATIONS_MAX)? {
        let (opened, facts) = match location {
            Location::Live(path) => {
                let Some(record) = reader.get(&path)? else { continue };
                let Some((parent, name)) = path.split() else { continue };
                let opened = storage
                    .open_directory(storage.root(), parent.as_bytes())
                    .and_then(|d| storage.open_file(&d, name));
                (opened, record.facts)
            }
            Location::History(id) => {
                let opened = storage
                    .open_directory(&own.history, set_name(id.set).as_bytes())
                    .and_then(|d| storage.open_file(&d, id.number.to_string().as_bytes()));
                (opened, None)
            }
        };
        let Ok(file) = opened else { continue };
        let Some(facts) = facts else { return Ok(Some(file)) };
        let stat = storage.stat(Object::File(&file));
        // A further name or a move changes the change time alone; the content facts decide.
        let same = stat.is_ok_and(|s| {
            let now = LocalFacts::of(&s);
            (now.inode, now.size, now.mtime) == (facts.inode, facts.size, facts.mtime)
        });
        if same {
            return Ok(Some(file));
        }
    }
    let ahead = own.open_ahead(storage, content);
    Ok(ahead.and_then(|folder| storage.open_file(&folder, BYTES).ok()))
}

//! The common base of a failback: the entries of a catalog.

use farshore_core::entry::Entry;
use farshore_core::failback::{BaseTree, ListError};
use farshore_core::path::RelPath;

use crate::catalog::CatalogReader;

impl BaseTree for CatalogReader {
    fn entry(&self, path: &RelPath) -> Result<Option<Entry>, ListError> {
        let record = self.get(path).map_err(|e| ListError::Source(Box::new(e)))?;
        Ok(record.map(|record| record.entry))
    }
}

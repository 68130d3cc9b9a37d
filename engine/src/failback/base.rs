//! The common base of a failback: the entries of a catalog.

use farshore_core::entry::Entry;
use farshore_core::failback::{BaseTree, ListError};
use farshore_core::path::RelPath;
use farshore_core::recipe::FileDigest;

use crate::catalog::CatalogReader;

impl BaseTree for CatalogReader {
    fn entry(&self, path: &RelPath) -> Result<Option<Entry>, ListError> {
        let record = self.get(path).map_err(|e| ListError::Source(Box::new(e)))?;
        Ok(record.map(|record| record.entry))
    }

    fn contents(&self, visit: &mut dyn FnMut(&RelPath, &FileDigest)) -> Result<(), ListError> {
        let source = |e| ListError::Source(Box::new(e));
        for record in self.records_below(&RelPath::root()).map_err(source)? {
            let (path, record) = record.map_err(source)?;
            if let Some(content) = record.entry.content() {
                visit(&path, content);
            }
        }
        Ok(())
    }
}

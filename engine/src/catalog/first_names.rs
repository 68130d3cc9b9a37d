//! Which entries are the first name of an inode with several.
//!
//! Guarantees: the table counts the further names of each, in the same transaction as the records, so
//! that who meets a first name that is gone knows whether others lean on it without reading all records.
//! A catalog of before there was such a table is counted when it is opened; until then every entry may
//! be a first name.

use farshore_core::entry::Entry;
use farshore_core::path::RelPath;
use redb::{Durability, ReadableTable};

use super::{Catalog, CatalogReader, CatalogTables, Record, Result, Step};

impl CatalogReader {
    /// Whether records name `path` as the first name of their inode.
    ///
    /// # Errors
    /// [`super::CatalogError::Database`].
    pub fn is_first_name(&self, path: &RelPath) -> Result<bool> {
        let Some(table) = &self.first_names else { return Ok(true) };
        Ok(table.get(path.key().as_slice()).step("read first names")?.is_some())
    }
}

impl CatalogTables<'_> {
    /// A record came in the place of another.
    pub(super) fn count_names(&mut self, old: Option<&Record>, new: Option<&Record>) -> Result<()> {
        let leader = |record: Option<&Record>| match record.map(|r| &r.entry) {
            Some(Entry::HardLink { leader }) => Some(leader.key()),
            _ => None,
        };
        let (old, new) = (leader(old), leader(new));
        if old == new {
            return Ok(());
        }
        if let Some(key) = old {
            let count = self.names_of(&key)?.saturating_sub(1);
            if count == 0 {
                self.first_names.remove(key.as_slice()).step("write first names")?;
            } else {
                self.first_names.insert(key.as_slice(), count).step("write first names")?;
            }
        }
        if let Some(key) = new {
            let count = self.names_of(&key)?.saturating_add(1);
            self.first_names.insert(key.as_slice(), count).step("write first names")?;
        }
        Ok(())
    }

    fn names_of(&self, key: &[u8]) -> Result<u64> {
        let count = self.first_names.get(key).step("read first names")?;
        Ok(count.map_or(0, |count| count.value()))
    }
}

impl Catalog {
    /// Counts in a catalog of before there was the table: all of it in one transaction, or nothing.
    pub(super) fn count_first_names(&self) -> Result<()> {
        let records = self.reader()?.records_below(&RelPath::root())?;
        self.update(Durability::Immediate, |t| {
            for row in records {
                t.count_names(None, Some(&row?.1))?;
            }
            t.set_meta_u64("first_names", 1)
        })
    }
}

#[cfg(test)]
mod tests {
    use farshore_proto::message::StoreId;
    use redb::backends::InMemoryBackend;

    use super::*;
    use crate::catalog::{CatalogConfig, CatalogRole};

    #[test]
    fn further_names_are_counted_as_they_come_and_go_and_anew() {
        let path = |s: &str| RelPath::new(s.as_bytes()).expect("valid");
        let role = CatalogRole::Source;
        let config = CatalogConfig { role, cache_bytes: 1 << 20, fresh_id: StoreId([1; 16]) };
        let catalog = Catalog::open_on(InMemoryBackend::new(), &config).expect("in memory");
        let link = |to| Record { entry: Entry::HardLink { leader: path(to) }, facts: None };
        let firsts = || {
            let reader = catalog.reader().expect("a reader");
            ["a", "b"].map(|at| reader.is_first_name(&path(at)).expect("read"))
        };
        let change = |change: &dyn Fn(&mut CatalogTables<'_>) -> Result<()>| {
            catalog.update(Durability::None, |t| change(t)).expect("changed");
        };
        assert_eq!(firsts(), [false, false]);
        change(&|t| {
            t.put(&path("c"), &link("a"))?;
            t.put(&path("d"), &link("a"))?;
            t.put(&path("d"), &link("a"))
        });
        assert_eq!(firsts(), [true, false]);
        change(&|t| t.put(&path("c"), &link("b")));
        assert_eq!(firsts(), [true, true]);
        change(&|t| t.remove(&path("d")).map(drop));
        assert_eq!(firsts(), [false, true]);
        // A catalog of before.
        change(&|t| t.first_names.retain(|_, _| false).step("empty it"));
        assert_eq!(firsts(), [false, false]);
        catalog.count_first_names().expect("counted");
        assert_eq!(firsts(), [false, true]);
    }
}

//! Records read one after the other without taking them apart.
//!
//! A walk finds most entries as they were: for those the key and the facts are enough. Nothing is
//! allocated for a row; what is asked of it is decoded when it is asked.

use std::ops::Bound;

use farshore_core::codec::{DecodeError, Decoder};
use farshore_core::entry::{Entry, EntryKind};
use farshore_core::path::RelPath;
use redb::AccessGuard;

use super::record::take_facts;
use super::{Bytes, CatalogError, CatalogReader, LocalFacts, Record, Result, Step, damaged};

/// The rows of entries in path order, and the one it stands at.
pub struct Rows {
    range: redb::Range<'static, Bytes, Bytes>,
    current: Option<Row>,
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rows")
    }
}

/// One record as it is stored.
pub struct Row {
    key: AccessGuard<'static, Bytes>,
    value: AccessGuard<'static, Bytes>,
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Row").field(&self.key.value().escape_ascii().to_string()).finish()
    }
}

impl CatalogReader {
    /// All records in path order, as rows.
    ///
    /// # Errors
    /// [`CatalogError::Database`].
    pub fn rows(&self) -> Result<Rows> {
        self.rows_between(&[], None)
    }

    /// The records whose keys are `from` or later and before `to`, in path order, as rows.
    ///
    /// # Errors
    /// [`CatalogError::Database`].
    pub fn rows_between(&self, from: &[u8], to: Option<&[u8]>) -> Result<Rows> {
        let to = to.map_or(Bound::Unbounded, Bound::Excluded);
        let range =
            self.entries.range::<&[u8]>((Bound::Included(from), to)).step("read entries")?;
        let mut rows = Rows { range, current: None };
        rows.advance()?;
        Ok(rows)
    }
}

impl Rows {
    /// The row it stands at; `None` at the end.
    #[must_use]
    #[inline]
    pub fn current(&self) -> Option<&Row> {
        self.current.as_ref()
    }

    /// Goes on to the next row.
    ///
    /// # Errors
    /// [`CatalogError::Database`].
    pub fn advance(&mut self) -> Result<()> {
        let row = self.range.next().transpose().step("read entries")?;
        self.current = row.map(|(key, value)| Row { key, value });
        Ok(())
    }

    /// Takes the row it stands at and goes on to the next.
    ///
    /// # Errors
    /// [`CatalogError::Database`].
    pub fn take(&mut self) -> Result<Option<Row>> {
        let row = self.current.take();
        if row.is_some() {
            self.advance()?;
        }
        Ok(row)
    }
}

impl Row {
    /// Where, as [`RelPath::key`] says it.
    #[must_use]
    #[inline]
    pub fn key(&self) -> &[u8] {
        self.key.value()
    }

    /// Where.
    ///
    /// # Errors
    /// [`CatalogError::Damaged`].
    pub fn path(&self) -> Result<RelPath> {
        RelPath::from_key(self.key.value()).map_err(|source| CatalogError::Damaged {
            table: "entries",
            source: DecodeError::Path { what: "key", source },
        })
    }

    /// The facts and the kind, without the rest of the entry.
    ///
    /// # Errors
    /// [`CatalogError::Damaged`].
    pub fn facts_and_kind(&self) -> Result<(Option<LocalFacts>, EntryKind)> {
        let decode = || {
            let mut d = Decoder::new(self.value.value());
            let facts = take_facts(&mut d)?;
            Ok((facts, Entry::decode_kind(&mut d)?))
        };
        decode().map_err(damaged("entries"))
    }

    /// All of it.
    ///
    /// # Errors
    /// [`CatalogError::Damaged`].
    pub fn record(&self) -> Result<Record> {
        Record::from_bytes(self.value.value()).map_err(damaged("entries"))
    }
}

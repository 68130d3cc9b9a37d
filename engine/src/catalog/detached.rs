//! What a policy keeps at the target although it does not travel any more.
//!
//! Guarantees: one row for each entry that the policy itself names, not for what lies below it, in path
//! order; written with the recovery point it holds for, or not at all. A catalog of before there was
//! such a table has none.

use std::ops::Bound;

use farshore_core::codec::{DecodeError, Decoder, Encoder};
use farshore_core::path::RelPath;

use super::{Bytes, CatalogError, CatalogReader, CatalogTables, Result, Step, damaged};

/// Since when an entry is kept, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detached {
    /// The first recovery point it was detached at.
    pub since: u64,
    /// The rule, as the policy words it; empty when it named none.
    pub rule: String,
}

impl Detached {
    fn to_bytes(&self) -> Vec<u8> {
        // Whole: by its text it is told whether the rule is still in force.
        let mut e = Encoder::new();
        e.put_u64(self.since);
        e.put_bytes(self.rule.as_bytes());
        e.finish()
    }

    fn from_bytes(bytes: &[u8]) -> std::result::Result<Self, DecodeError> {
        let mut d = Decoder::new(bytes);
        let detached = Self {
            since: d.take_u64("detached since")?,
            rule: d.take_text("detached by", bytes.len())?,
        };
        d.finish("detached")?;
        Ok(detached)
    }
}

/// The detached entries in path order.
pub struct DetachedRows(Option<redb::Range<'static, Bytes, Bytes>>);

impl std::fmt::Debug for DetachedRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DetachedRows")
    }
}

impl Iterator for DetachedRows {
    type Item = Result<(RelPath, Detached)>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.0.as_mut()?.next()?;
        Some(row.step("read detached").and_then(|(key, value)| {
            let path = RelPath::from_key(key.value()).map_err(|source| CatalogError::Damaged {
                table: "detached",
                source: DecodeError::Path { what: "key", source },
            })?;
            let detached = Detached::from_bytes(value.value()).map_err(damaged("detached"))?;
            Ok((path, detached))
        }))
    }
}

impl CatalogReader {
    /// Why the entry at `path` is detached, if it is.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn detached_at(&self, path: &RelPath) -> Result<Option<Detached>> {
        let Some(table) = &self.detached else { return Ok(None) };
        let value = table.get(path.key().as_slice()).step("read detached")?;
        value.map(|v| Detached::from_bytes(v.value()).map_err(damaged("detached"))).transpose()
    }

    /// The entries detached at the last recovery point, in path order.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn detached(&self) -> Result<DetachedRows> {
        self.detached_between(&[], None)
    }

    /// Those of them whose keys are `from` or later and before `to`.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn detached_between(&self, from: &[u8], to: Option<&[u8]>) -> Result<DetachedRows> {
        let keys = (Bound::Included(from), to.map_or(Bound::Unbounded, Bound::Excluded));
        let range = self.detached.as_ref().map(|table| table.range::<&[u8]>(keys)).transpose();
        Ok(DetachedRows(range.step("read detached")?))
    }
}

impl CatalogTables<'_> {
    /// The entry is detached.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn set_detached(&mut self, path: &RelPath, detached: &Detached) -> Result<()> {
        self.detached
            .insert(path.key().as_slice(), detached.to_bytes().as_slice())
            .step("detach")?;
        Ok(())
    }

    /// The entry is detached no more.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn forget_detached(&mut self, path: &RelPath) -> Result<()> {
        self.detached.remove(path.key().as_slice()).step("attach")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_reads_back_whole() {
        let short = Detached { since: 7, rule: "- *.tmp".into() };
        assert_eq!(Detached::from_bytes(&short.to_bytes()), Ok(short));
        let long = Detached { since: 1, rule: "é".repeat(40_000) };
        let mut more = long.to_bytes();
        assert_eq!(Detached::from_bytes(&more), Ok(long));
        more.push(0);
        assert!(Detached::from_bytes(&more).is_err());
    }
}

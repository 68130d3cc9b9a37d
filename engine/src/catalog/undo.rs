//! What each entry was before a batch: enough to say what the tree was at an earlier batch.
//!
//! A target notes, in the transaction that changes entries, the former entry of each path under the number of
//! the batch (its *set*), or that there was none. So every kind of change can be undone that the catalog
//! knows of, whatever made it: removals, moves, metadata, links, and what others did to the tree between two
//! batches, which counts with the batch after it.
//!
//! Guarantees: the first note of a path in a set is the true one and stays; notes come and go with
//! their set; the state after batch B is the present one with, for each path, the oldest note of a set
//! above B. Of a directory that came within one transaction only the directory is noted: all that lies
//! below it was not there before. Nothing is noted before the first recovery point: a first sync has
//! nothing to go back to.

use std::collections::HashSet;
use std::ops::Bound;

use farshore_core::codec::{DecodeError, Decoder, Encoder};
use farshore_core::digest::RootDigest;
use farshore_core::entry::{Entry, EntryKind, decode_path};
use farshore_core::limits::PATH_LEN_MAX;
use farshore_core::path::RelPath;
use redb::ReadableTable;

use super::{Bytes, CatalogError, CatalogReader, CatalogTables, Result, Step, damaged};

/// Bytes of keys in one row of the list of a set's notes.
const LISTED_MAX: usize = 1 << 16;

/// What is being noted within one transaction.
#[derive(Debug, Default)]
pub(super) struct Noting {
    /// Whether there is a point to go back to.
    pub(super) on: bool,
    /// The set that notes belong to.
    pub(super) set: u64,
    /// Keys of directories that came in this set and transaction.
    pub(super) made: HashSet<Vec<u8>>,
    /// Keys noted and not yet listed.
    pub(super) keys: Vec<u8>,
}

/// A rollback that was begun and not yet ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingRollback {
    /// The state after this batch is wanted.
    pub goal: u64,
    /// The last batch before it began.
    pub began_after: u64,
    /// R of the state wanted, when all of the share goes back to a recovery point.
    pub root: Option<RootDigest>,
    /// What goes back: a path and all below it.
    pub scope: RelPath,
}

impl PendingRollback {
    fn to_bytes(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        e.put_u64(self.goal);
        e.put_u64(self.began_after);
        e.put_u8(u8::from(self.root.is_some()));
        if let Some(root) = &self.root {
            e.put_raw(&root.0);
        }
        e.put_bytes(self.scope.as_bytes());
        e.finish()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut d = Decoder::new(bytes);
        let (goal, began_after) = (d.take_u64("rollback goal")?, d.take_u64("rollback start")?);
        let root = match d.take_u8("rollback root")? {
            0 => None,
            1 => Some(RootDigest(d.take_array("rollback root")?)),
            other => {
                return Err(DecodeError::Invalid { what: "rollback root", found: other.into() });
            }
        };
        let scope = decode_path(&mut d, "rollback scope")?;
        d.finish("rollback")?;
        Ok(Self { goal, began_after, root, scope })
    }
}

/// A former entry of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Former {
    /// The path.
    pub path: RelPath,
    /// The batch that changed it.
    pub set: u64,
    /// What was there before; `None` when nothing was.
    pub entry: Option<Entry>,
}

fn entry_of(bytes: &[u8]) -> Result<Option<Entry>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut d = Decoder::new(bytes);
    let entry = Entry::decode(&mut d).map_err(damaged("undo"))?;
    d.finish("former entry").map_err(damaged("undo"))?;
    Ok(Some(entry))
}

fn path_of(key: &[u8]) -> Result<RelPath> {
    RelPath::from_key(key).map_err(|source| CatalogError::Damaged {
        table: "undo",
        source: DecodeError::Path { what: "key", source },
    })
}

/// Former entries in path order, of one path in the order of their sets.
pub struct Formers {
    range: Option<redb::Range<'static, (Bytes, u64), Bytes>>,
    after: u64,
    /// Whether only the oldest of each path is wanted.
    oldest: bool,
    last: Option<Vec<u8>>,
}

impl std::fmt::Debug for Formers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Formers")
    }
}

impl Iterator for Formers {
    type Item = Result<Former>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let row = match self.range.as_mut()?.next()?.step("read undo") {
                Ok(row) => row,
                Err(e) => return Some(Err(e)),
            };
            let (key, set) = row.0.value();
            let is_known = self.oldest && self.last.as_deref() == Some(key);
            if set <= self.after || is_known {
                continue;
            }
            if self.oldest {
                self.last = Some(key.to_vec());
            }
            let former = path_of(key)
                .and_then(|path| Ok(Former { path, set, entry: entry_of(row.1.value())? }));
            return Some(former);
        }
    }
}

impl CatalogReader {
    /// The last batch whose state is lost: the states after it and after every later one are known.
    /// `None` when none is.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn undo_floor(&self) -> Result<Option<u64>> {
        // Stored one higher: 0 is for none.
        Ok(self.meta_u64("undo_from")?.checked_sub(1))
    }

    /// The oldest former entry of `path` of a set above `after`.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn former(&self, path: &RelPath, after: u64) -> Result<Option<Former>> {
        let Some(table) = &self.undo else { return Ok(None) };
        let key = path.key();
        let from = (key.as_slice(), after.saturating_add(1));
        let to = (key.as_slice(), u64::MAX);
        let mut range = table.range::<(&[u8], u64)>(from..=to).step("read undo")?;
        let Some(row) = range.next() else { return Ok(None) };
        let (at, value) = row.step("read undo")?;
        let entry = entry_of(value.value())?;
        Ok(Some(Former { path: path.clone(), set: at.value().1, entry }))
    }

    /// The oldest set above `after` in which a directory came to `path`: what lay below it before that
    /// had notes of its own, or was not there.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn made_after(&self, path: &RelPath, after: u64) -> Result<Option<u64>> {
        let Some(table) = &self.undo_made else { return Ok(None) };
        let key = path.key();
        let from = (key.as_slice(), after.saturating_add(1));
        let to = (key.as_slice(), u64::MAX);
        let mut range = table.range::<(&[u8], u64)>(from..=to).step("read undo")?;
        Ok(range.next().transpose().step("read undo")?.map(|(at, _)| at.value().1))
    }

    /// All former entries of `path` itself, oldest first.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn formers_at(&self, path: &RelPath) -> Result<Formers> {
        let key = path.key();
        let bounds = (key.as_slice(), 0)..=(key.as_slice(), u64::MAX);
        let range = self.undo.as_ref().map(|t| t.range::<(&[u8], u64)>(bounds)).transpose();
        Ok(Formers { range: range.step("read undo")?, after: 0, oldest: false, last: None })
    }

    /// Former entries below the directory `path` of sets above `after`; only the `oldest` of each path,
    /// or all.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn formers_below(&self, path: &RelPath, after: u64, oldest: bool) -> Result<Formers> {
        let (from, to) = path.descendants_key_range();
        let to = to.as_deref().map_or(Bound::Unbounded, |to| Bound::Excluded((to, 0)));
        let from = Bound::Included((from.as_slice(), 0));
        let range = self.undo.as_ref().map(|t| t.range::<(&[u8], u64)>((from, to))).transpose();
        Ok(Formers { range: range.step("read undo")?, after, oldest, last: None })
    }

    /// The oldest former entries of the children of `directory` of sets above `after`, in the order of
    /// their names.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn formers_in(&self, directory: &RelPath, after: u64) -> Result<Formers> {
        let (from, to) = super::reader::children_keys(directory);
        let bounds = (from.as_slice(), 0)..(to.as_slice(), 0);
        let range = self.undo.as_ref().map(|t| t.range::<(&[u8], u64)>(bounds)).transpose();
        Ok(Formers { range: range.step("read undo")?, after, oldest: true, last: None })
    }

    /// The rollback that was begun and not yet ended, if there is one.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn pending_rollback(&self) -> Result<Option<PendingRollback>> {
        let bytes = self.meta("rollback")?.filter(|bytes| !bytes.is_empty());
        bytes.map(|b| PendingRollback::from_bytes(&b).map_err(damaged("meta"))).transpose()
    }
}

impl CatalogTables<'_> {
    /// Notes are for the batch `set` from now on.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn note_for(&mut self, set: u64) -> Result<()> {
        self.list_notes()?;
        self.noting.made.clear();
        self.noting.set = set;
        Ok(())
    }

    /// There is a point to go back to: what changes after `batch` is noted.
    pub(super) fn undo_from_now(&mut self, batch: u64) -> Result<()> {
        if !self.noting.on {
            self.noting.on = true;
            self.set_meta_u64("undo_from", batch.saturating_add(1))?;
        }
        Ok(())
    }

    /// An entry becomes another one: notes what it was.
    pub(super) fn note(
        &mut self,
        path: &RelPath,
        key: &[u8],
        old: Option<&Entry>,
        new: Option<&Entry>,
    ) -> Result<()> {
        // A further name that is made again has a new inode behind it, whether its entry says so or not.
        let is_linked = matches!(new, Some(Entry::HardLink { .. }));
        if !self.noting.on || (old == new && !is_linked) {
            return Ok(());
        }
        let is_directory = |e: Option<&Entry>| e.is_some_and(|e| e.kind() == EntryKind::Directory);
        let comes = is_directory(new) && !is_directory(old);
        if !self.noting.made.is_empty()
            && path.split().is_some_and(|(parent, _)| self.noting.made.contains(&parent.key()))
        {
            if comes {
                self.noting.made.insert(key.to_vec());
            }
            return Ok(());
        }
        let at = (key, self.noting.set);
        if self.undo.get(at).step("read undo")?.is_some() {
            return Ok(());
        }
        let former = old.map(Entry::to_bytes).unwrap_or_default();
        self.undo.insert(at, former.as_slice()).step("write undo")?;
        if comes {
            self.undo_made.insert(at, ()).step("write undo")?;
            self.noting.made.insert(key.to_vec());
        }
        let mut e = Encoder::append_to(std::mem::take(&mut self.noting.keys));
        e.put_bytes(key);
        self.noting.keys = e.finish();
        if self.noting.keys.len() >= LISTED_MAX { self.list_notes() } else { Ok(()) }
    }

    /// Lists the keys noted, so that they are found when their set goes.
    pub(super) fn list_notes(&mut self) -> Result<()> {
        if self.noting.keys.is_empty() {
            return Ok(());
        }
        let (set, keys) = (self.noting.set, std::mem::take(&mut self.noting.keys));
        let number = {
            let of_set = (set, 0)..=(set, u32::MAX);
            let last = self.undo_sets.range(of_set).step("read undo")?.next_back();
            let last = last.transpose().step("read undo")?;
            last.map_or(0, |(at, _)| at.value().1.saturating_add(1))
        };
        self.undo_sets.insert((set, number), keys.as_slice()).step("write undo")?;
        Ok(())
    }

    /// Whether anything is noted for the batch `set`.
    pub(super) fn has_notes(&self, set: u64) -> Result<bool> {
        if self.noting.set == set && !self.noting.keys.is_empty() {
            return Ok(true);
        }
        let mut range = self.undo_sets.range((set, 0)..=(set, u32::MAX)).step("read undo")?;
        Ok(range.next().is_some())
    }

    /// Forgets what was noted for `set`: no earlier state is known any more, and the points that stood for
    /// one go.
    pub(super) fn forget_notes(&mut self, set: u64) -> Result<()> {
        let lists: Vec<(u32, Vec<u8>)> = self
            .undo_sets
            .range((set, 0)..=(set, u32::MAX))
            .step("read undo")?
            .map(|row| {
                let (at, keys) = row.step("read undo")?;
                Ok((at.value().1, keys.value().to_vec()))
            })
            .collect::<Result<_>>()?;
        for (number, keys) in lists {
            let mut d = Decoder::new(&keys);
            while d.remaining() > 0 {
                // A key is longer than its path by less than a component.
                let key =
                    d.take_bytes("noted key", PATH_LEN_MAX + 8).map_err(damaged("undo_sets"))?;
                self.undo.remove((key, set)).step("remove undo")?;
                self.undo_made.remove((key, set)).step("remove undo")?;
            }
            self.undo_sets.remove((set, number)).step("remove undo")?;
        }
        if self.noting.on && self.stored("undo_from")? <= set {
            self.set_meta_u64("undo_from", set.saturating_add(1))?;
            self.forget_points(set)?;
        }
        Ok(())
    }

    /// A rollback begins, or has ended.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn set_pending_rollback(&mut self, rollback: Option<&PendingRollback>) -> Result<()> {
        let bytes = rollback.map(PendingRollback::to_bytes).unwrap_or_default();
        self.set_meta("rollback", &bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pending_rollback_reads_back() {
        let scope = RelPath::new(*b"BU01/acct7").expect("valid");
        for root in [None, Some(RootDigest([3; 32]))] {
            let scope = scope.clone();
            let pending = PendingRollback { goal: 7, began_after: 9, root, scope };
            let bytes = pending.to_bytes();
            assert_eq!(PendingRollback::from_bytes(&bytes), Ok(pending));
            assert!(PendingRollback::from_bytes(&bytes[..bytes.len() - 1]).is_err());
        }
    }
}

//! What a policy keeps at the target although it does not travel, and what of that is new.
//!
//! Guarantees: an entry is told once, by the rule that names it, with what lies below it in the counts;
//! the list spills to disk like those of the plan. Nothing here deletes or is a reason to delete.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use farshore_core::codec::{DecodeError, Decoder, Encoder};
use farshore_core::entry::{Entry, decode_path};
use farshore_core::path::RelPath;

use super::PlanError;
use super::windows::Windows;
use crate::catalog::{CatalogError, CatalogReader, CatalogTables, Detached};
use crate::spool::{Spool, SpoolReader};

/// Newly detached entries that a report names, at most.
const NAMED_MAX: usize = 10_000;

/// Stands for the recovery point that is being made: they are counted from 1.
const NOW: u64 = 0;

/// What a rule keeps at the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DetachedCount {
    /// Entries, those below a directory included.
    pub entries: u64,
    /// Bytes of their content.
    pub bytes: u64,
}

/// The entries that a walk found detached.
#[derive(Debug)]
pub struct DetachedList {
    list: Spool,
    by_rule: BTreeMap<Option<u32>, DetachedCount>,
}

impl DetachedList {
    pub(super) fn new(folder: &Path) -> Self {
        Self { list: Spool::new(folder), by_rule: BTreeMap::new() }
    }

    /// Counts an entry; the policy itself named it, or a directory above it.
    pub(super) fn add(
        &mut self,
        path: &RelPath,
        entry: &Entry,
        rule: Option<u32>,
        is_named: bool,
    ) -> Result<(), PlanError> {
        let count = self.by_rule.entry(rule).or_default();
        count.entries += 1;
        count.bytes = count.bytes.saturating_add(entry.size());
        if is_named {
            let mut e = Encoder::new();
            e.put_bytes(path.as_bytes());
            e.put_u64(rule.map_or(0, |rule| u64::from(rule) + 1));
            self.list.push(&e.finish())?;
        }
        Ok(())
    }

    /// What is new since the last recovery point of the catalog, the list being in path order like it. What
    /// is at or below an `unknown` path, or was not `looked` at, stays as it was recorded.
    ///
    /// # Errors
    /// [`PlanError`].
    pub(super) fn compare(
        self,
        catalog: &CatalogReader,
        rules: &[String],
        unknown: &HashSet<RelPath>,
        looked: Option<&Windows>,
        folder: &Path,
    ) -> Result<DetachedChange, PlanError> {
        let text = |rule: Option<u32>| {
            let index = rule.and_then(|rule| usize::try_from(rule).ok());
            index.and_then(|index| rules.get(index)).cloned().unwrap_or_default()
        };
        let mut change = DetachedChange {
            by_rule: self.by_rule.iter().map(|(&rule, &count)| (text(rule), count)).collect(),
            began: 0,
            ended: 0,
            first: Vec::new(),
            list: Spool::new(folder),
        };
        let mut now = self.list.into_forward()?;
        let mut former = former_rows(catalog, looked);
        let mut row = former.next().transpose()?;
        let mut item = next_item(&mut now)?;
        loop {
            let order = match (&item, &row) {
                (None, None) => return Ok(change),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((path, _)), Some((was, _))) => path.cmp(was),
            };
            if order == Ordering::Less
                && let Some((path, rule)) = &item
            {
                change.begin(path, &text(*rule))?;
            }
            if order == Ordering::Greater
                && let Some((was, _)) = &row
                && !is_covered(was, unknown)
            {
                change.ended += 1;
                change.push(was, None)?;
            }
            if order == Ordering::Equal
                && let (Some((path, rule)), Some((_, was))) = (&item, &row)
                && was.rule != text(*rule)
            {
                change.push(path, Some((was.since, &text(*rule))))?;
            }
            if order.is_le() {
                item = next_item(&mut now)?;
            }
            if order.is_ge() {
                row = former.next().transpose()?;
            }
        }
    }
}

/// The rows of what was looked at, in path order.
fn former_rows<'a>(
    catalog: &'a CatalogReader,
    looked: Option<&'a Windows>,
) -> impl Iterator<Item = Result<(RelPath, Detached), CatalogError>> + 'a {
    let everything = looked.is_none().then_some((&[][..], None));
    let windows = looked.into_iter().flat_map(Windows::keys);
    windows.chain(everything).flat_map(|(from, to)| {
        let (rows, failed) = match catalog.detached_between(from, to) {
            Ok(rows) => (Some(rows), None),
            Err(error) => (None, Some(Err(error))),
        };
        rows.into_iter().flatten().chain(failed)
    })
}

/// Whether a path is at or below one of these.
fn is_covered(path: &RelPath, above: &HashSet<RelPath>) -> bool {
    let mut at = path.clone();
    while !above.is_empty() {
        if above.contains(&at) {
            return true;
        }
        let Some((parent, _)) = at.split() else { return false };
        at = parent;
    }
    false
}

fn next_item(list: &mut SpoolReader) -> Result<Option<(RelPath, Option<u32>)>, PlanError> {
    let Some(bytes) = list.next_item()? else { return Ok(None) };
    let mut d = Decoder::new(&bytes);
    let path = decode_path(&mut d, "detached path")?;
    let rule = d.take_u64("detached by")?;
    d.finish("detached")?;
    Ok(Some((path, rule.checked_sub(1).and_then(|rule| u32::try_from(rule).ok()))))
}

/// How what is detached differs from the last recovery point.
#[derive(Debug)]
pub struct DetachedChange {
    /// What each rule keeps at the target, new or not, by its text.
    pub by_rule: Vec<(String, DetachedCount)>,
    /// Entries detached since.
    pub began: u64,
    /// Entries that were detached and are not any more: they travel again, or are gone at both ends.
    pub ended: u64,
    /// The first of those detached since, with the rule's text.
    pub first: Vec<(RelPath, String)>,
    list: Spool,
}

impl DetachedChange {
    fn begin(&mut self, path: &RelPath, rule: &str) -> Result<(), PlanError> {
        self.began += 1;
        if self.first.len() < NAMED_MAX {
            self.first.push((path.clone(), rule.to_owned()));
        }
        self.push(path, Some((NOW, rule)))
    }

    /// Detached since that recovery point by that rule, or not any more.
    fn push(&mut self, path: &RelPath, detached: Option<(u64, &str)>) -> Result<(), PlanError> {
        let mut e = Encoder::new();
        e.put_bytes(path.as_bytes());
        e.put_u8(u8::from(detached.is_some()));
        let (since, rule) = detached.unwrap_or((NOW, ""));
        e.put_u64(since);
        e.put_bytes(rule.as_bytes());
        Ok(self.list.push(&e.finish())?)
    }

    /// The change, to be written with a recovery point.
    ///
    /// # Errors
    /// [`PlanError::Spool`].
    pub fn take_rows(&mut self, folder: &Path) -> Result<DetachedWriter, PlanError> {
        let list = std::mem::replace(&mut self.list, Spool::new(folder));
        Ok(DetachedWriter(list.into_forward()?))
    }
}

fn decode_change(bytes: &[u8]) -> Result<(RelPath, Option<Detached>), DecodeError> {
    let mut d = Decoder::new(bytes);
    let path = decode_path(&mut d, "detached path")?;
    let begins = d.take_u8("detached")? == 1;
    let since = d.take_u64("detached since")?;
    let rule = d.take_text("detached by", bytes.len())?;
    d.finish("detached")?;
    Ok((path, begins.then_some(Detached { since, rule })))
}

/// Writes what changed.
#[derive(Debug)]
pub struct DetachedWriter(SpoolReader);

impl DetachedWriter {
    /// Writes it into the transaction of the recovery point `since`.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn write(mut self, t: &mut CatalogTables<'_>, since: u64) -> Result<(), CatalogError> {
        while let Some(bytes) = self.0.next_item().map_err(CatalogError::List)? {
            let damaged = |source| CatalogError::Damaged { table: "list of detached", source };
            match decode_change(&bytes).map_err(damaged)? {
                (path, Some(Detached { since: NOW, rule })) => {
                    t.set_detached(&path, &Detached { since, rule })?;
                }
                (path, Some(detached)) => t.set_detached(&path, &detached)?,
                (path, None) => t.forget_detached(&path)?,
            }
        }
        Ok(())
    }
}

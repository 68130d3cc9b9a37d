//! The way from the root to a directory, as it is now.
//!
//! Guarantees: every directory on it is looked at by its name in its parent, no link followed and no
//! mount entered, and the policy is asked about each as in a whole walk. Each is looked at once in a
//! plan. Memory is in proportion to the directories on the ways asked for.

use std::collections::HashMap;
use std::io;

use farshore_core::entry::EntryKind;
use farshore_core::path::RelPath;
use farshore_core::policy::{Action, Verdict};

use super::PlanError;
use super::parts::Part;
use super::windows::{Met, Windows};
use crate::catalog::CatalogReader;
use crate::io::{FileKind, Object, Stat, Storage};
use crate::scan::{Tree, candidate};

/// What stands at a step of the way.
#[derive(Debug, Clone)]
enum Step {
    /// A directory that travels; whether the catalog knows it, by its inode, and as one that does.
    Directory {
        stat: Stat,
        is_known: bool,
    },
    /// Nothing, no directory, a mount point, or its parent cannot be opened: what the listing of the
    /// parent will say.
    Nothing,
    Excluded(Verdict),
    Unknown {
        raw: Option<i32>,
        kind: io::ErrorKind,
    },
}

/// Ways that were found.
pub(super) struct Ways<'a, S: Storage> {
    tree: Tree<'a, S>,
    root: Stat,
    catalog: &'a CatalogReader,
    found: HashMap<RelPath, Step>,
    /// The parent that was opened last.
    last: Option<(RelPath, S::Directory)>,
}

impl<'a, S: Storage> Ways<'a, S> {
    pub(super) fn new(tree: Tree<'a, S>, root: Stat, catalog: &'a CatalogReader) -> Self {
        Self { tree, root, catalog, found: HashMap::new(), last: None }
    }

    /// Opens the windows that show what is to be seen of `part`.
    pub(super) fn open_windows(
        &mut self,
        part: &Part,
        windows: &mut Windows,
    ) -> Result<(), PlanError> {
        let wanted = &part.directory;
        if wanted.components().next().is_some_and(|first| first == self.tree.own) {
            return Ok(());
        }
        let mut above: Option<(RelPath, Stat)> = None;
        for path in from_the_root(wanted) {
            match self.step(&path)? {
                Step::Directory { stat, is_known } => {
                    // One that is not known is looked at deep, whatever part of it was asked for.
                    if path == *wanted || !is_known {
                        windows.add_entry(path.clone(), Met::Entry(Box::new(stat)));
                        if !is_known || part.deep {
                            windows.add_below(path);
                        } else {
                            windows.add_children(path);
                        }
                        return Ok(());
                    }
                    above = Some((path, stat));
                }
                Step::Nothing => {
                    if let Some((parent, stat)) = above {
                        windows.add_entry(parent.clone(), Met::Entry(Box::new(stat)));
                        windows.add_children(parent);
                    }
                    return Ok(());
                }
                Step::Excluded(verdict) => {
                    windows.add_entry(path, Met::Excluded(verdict));
                    return Ok(());
                }
                Step::Unknown { raw, kind } => {
                    let error = raw.map_or_else(|| kind.into(), io::Error::from_raw_os_error);
                    windows.add_entry(path, Met::Unknown("looking at it", error));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Whether something on the way to `path` keeps it from travelling, or cannot be looked at.
    pub(super) fn is_barred(&mut self, path: &RelPath) -> Result<bool, PlanError> {
        let Some((parent, _)) = path.split() else { return Ok(false) };
        for path in from_the_root(&parent) {
            match self.step(&path)? {
                Step::Directory { .. } => {}
                Step::Nothing => return Ok(false),
                Step::Excluded(_) | Step::Unknown { .. } => return Ok(true),
            }
        }
        Ok(false)
    }

    /// The first directory on the way to `path` that the catalog does not know.
    pub(super) fn first_unknown(&mut self, path: &RelPath) -> Result<Option<RelPath>, PlanError> {
        let Some((parent, _)) = path.split() else { return Ok(None) };
        for path in from_the_root(&parent) {
            match self.step(&path)? {
                Step::Directory { is_known: true, .. } => {}
                Step::Directory { .. } => return Ok(Some(path)),
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    fn step(&mut self, path: &RelPath) -> Result<Step, PlanError> {
        if let Some(step) = self.found.get(path) {
            return Ok(step.clone());
        }
        let step = self.look(path)?;
        self.found.insert(path.clone(), step.clone());
        Ok(step)
    }

    fn look(&mut self, path: &RelPath) -> Result<Step, PlanError> {
        let Some((parent, name)) = path.split() else {
            return self.directory(path, self.root);
        };
        if self.last.as_ref().is_none_or(|(at, _)| *at != parent) {
            let storage = self.tree.storage;
            let Ok(handle) = storage.open_directory(storage.root(), parent.as_bytes()) else {
                return Ok(Step::Nothing);
            };
            self.last = Some((parent, handle));
        }
        let Some((_, directory)) = &self.last else { return Ok(Step::Nothing) };
        let stat = match self.tree.storage.stat(Object::Named(directory, name)) {
            Ok(stat) => stat,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Step::Nothing),
            Err(e) => return Ok(Step::Unknown { raw: e.raw_os_error(), kind: e.kind() }),
        };
        if stat.kind != FileKind::Directory {
            return Ok(Step::Nothing);
        }
        let policy = self.tree.policy;
        if !policy.is_trivial() {
            let verdict = policy.exclude(&[candidate(path, &stat)]).first().copied();
            let verdict = verdict.unwrap_or(Verdict::REPLICATE);
            if verdict.action != Action::Replicate {
                return Ok(Step::Excluded(verdict));
            }
        }
        if stat.device != self.tree.device {
            return Ok(Step::Nothing);
        }
        self.directory(path, stat)
    }

    fn directory(&self, path: &RelPath, stat: Stat) -> Result<Step, PlanError> {
        let is_same = self.catalog.get(path)?.is_some_and(|record| {
            record.entry.kind() == EntryKind::Directory
                && record.facts.is_some_and(|facts| facts.inode == stat.inode)
        });
        // What changed below while it was excluded, nobody looked at.
        let is_known = is_same && self.catalog.detached_at(path)?.is_none();
        Ok(Step::Directory { stat, is_known })
    }
}

/// The root, and each directory on the way to `path`, and `path`.
fn from_the_root(path: &RelPath) -> Vec<RelPath> {
    let mut way = vec![path.clone()];
    let mut at = path.clone();
    while let Some((parent, _)) = at.split() {
        way.push(parent.clone());
        at = parent;
    }
    way.reverse();
    way
}

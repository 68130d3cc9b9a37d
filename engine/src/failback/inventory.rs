//! What a site changed since the last common recovery point, which its catalog holds.
//!
//! Guarantees: every path whose entry differs from the base, and every further name of a file that does, is given
//! once, in path order, with what the base has there and what stands there now, content hashed between two equal looks; what is not proven gone is not
//! given as gone. What could not be read, or kept changing, is a problem: nothing is known of it, and a plan made
//! over problems must say so. Nothing is written but lists in the state folder; memory holds neither
//! tree, only the first names of changed files that have several.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use farshore_core::chunking::Chunker;
use farshore_core::entry::Entry;
use farshore_core::failback::SideChange;
use farshore_core::path::RelPath;
use farshore_core::policy::Policy;

use crate::OWN_FOLDER;
use crate::catalog::CatalogReader;
use crate::io::{FileKind, Object, Storage};
use crate::observe::{ObserveError, describe_file, describe_node};
use crate::plan::{Change, PlanError, Planner, Problem};
use crate::spool::{Spool, SpoolReader};

/// Times a file that changes while it is read is read again.
const TRIES: u32 = 3;
/// Problems that are listed; more are counted.
const LISTED_MAX: usize = 1_000;

/// What an inventory met.
#[derive(Debug, Default)]
pub struct Inventory {
    /// Changes given.
    pub changes: u64,
    /// Entries of the tree.
    pub entries: u64,
    /// What nothing is known of, the first of them.
    pub problems: Vec<Problem>,
    /// How many there are.
    pub problems_total: u64,
}

/// Why no inventory could be made.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// The tree or the catalog cannot be compared.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The list cannot be kept.
    #[error("keeping the list of changes")]
    List(#[source] io::Error),
}

/// Gives each change of the tree against `catalog` to `each`, in path order.
///
/// # Errors
/// [`InventoryError`], and those of `each`.
pub fn inventory<S: Storage>(
    storage: &S,
    catalog: &CatalogReader,
    policy: &dyn Policy,
    threads: usize,
    spool_folder: &Path,
    each: &mut dyn FnMut(SideChange) -> io::Result<()>,
) -> Result<Inventory, InventoryError> {
    let own = OWN_FOLDER;
    let mut plan =
        Planner { storage, catalog, policy, own, threads, spool_folder }.whole(&mut |_| {})?;
    let mut found = Inventory { entries: plan.tally.found, ..Inventory::default() };
    for problem in std::mem::take(&mut plan.problems) {
        found.problem(problem);
    }
    // A move is what came and what went.
    plan.forget_moves();
    let mut parts = [Spool::new(spool_folder), Spool::new(spool_folder), Spool::new(spool_folder)];
    let mut met_looks = false;
    let mut lists = plan.into_changes()?;
    while let Some(change) = lists.next_change()? {
        // Files that are gone, then what is there, both in path order; directories that are gone come from the
        // deepest up.
        let part = match (&change, met_looks) {
            (Change::Remove { .. }, false) => 0,
            (Change::Remove { .. }, true) => 2,
            _ => 1,
        };
        met_looks |= part == 1;
        parts[part].push(&change.to_bytes()).map_err(InventoryError::List)?;
    }
    let [files, looks, directories] = parts;
    let mut sides = [
        Side::new(files.into_forward())?,
        Side::new(looks.into_forward())?,
        Side::new(directories.into_backward())?,
    ];
    let mut looker = Looker {
        storage,
        catalog,
        parent: None,
        chunker: None,
        is_shared: false,
        changed: HashSet::new(),
    };
    let mut last: Option<RelPath> = None;
    loop {
        let first = (0..3)
            .filter_map(|n| Some((n, sides[n].next.as_ref()?.path())))
            .min_by(|a, b| a.1.cmp(b.1))
            .map(|(n, _)| n);
        let Some(change) = first.and_then(|n| sides[n].next.take().map(|change| (n, change)))
        else {
            break;
        };
        let (n, change) = change;
        sides[n].advance()?;
        let path = change.path().clone();
        // The root is every plan's to look at.
        if path.is_root() || last.as_ref() == Some(&path) {
            continue;
        }
        last = Some(path.clone());
        match looker.look(&change) {
            Ok(Some(change)) => {
                found.changes += 1;
                each(change).map_err(InventoryError::List)?;
            }
            Ok(None) => {}
            Err(Looked::Catalog(e)) => return Err(PlanError::from(e).into()),
            Err(Looked::Entry(text)) => found.problem(Problem { path, text }),
        }
    }
    Ok(found)
}

impl Inventory {
    fn problem(&mut self, problem: Problem) {
        self.problems_total += 1;
        if self.problems.len() < LISTED_MAX {
            self.problems.push(problem);
        }
    }
}

/// One of the lists, with its next change.
struct Side {
    reader: SpoolReader,
    next: Option<Change>,
}

impl Side {
    fn new(reader: io::Result<SpoolReader>) -> Result<Self, InventoryError> {
        let mut side = Self { reader: reader.map_err(InventoryError::List)?, next: None };
        side.advance()?;
        Ok(side)
    }

    fn advance(&mut self) -> Result<(), InventoryError> {
        let item = self.reader.next_item().map_err(InventoryError::List)?;
        let change = item.map(|item| Change::from_bytes(&item)).transpose();
        self.next = change.map_err(|e| InventoryError::Plan(e.into()))?;
        Ok(())
    }
}

enum Looked {
    Catalog(crate::catalog::CatalogError),
    /// Nothing is known of the entry, and why.
    Entry(String),
}

impl From<crate::catalog::CatalogError> for Looked {
    fn from(e: crate::catalog::CatalogError) -> Self {
        Self::Catalog(e)
    }
}

struct Looker<'a, S: Storage> {
    storage: &'a S,
    catalog: &'a CatalogReader,
    /// The directory opened last.
    parent: Option<(RelPath, S::Directory)>,
    chunker: Option<Chunker>,
    /// Whether what was looked at last has several names.
    is_shared: bool,
    /// First names of files with several that changed: their further names come later in path order.
    changed: HashSet<RelPath>,
}

impl<S: Storage> Looker<'_, S> {
    /// What became of the path; `None` when it is as the base has it.
    fn look(&mut self, change: &Change) -> Result<Option<SideChange>, Looked> {
        let path = change.path().clone();
        self.is_shared = false;
        let before = self.catalog.get(&path)?.map(|record| record.entry);
        let (after, moved_from) = match change {
            Change::Remove { .. } => (None, None),
            Change::Link { leader, .. } => (Some(Entry::HardLink { leader: leader.clone() }), None),
            Change::Look { moved_from, .. } => {
                (self.now(&path, before.as_ref())?, moved_from.clone())
            }
        };
        if let Change::Link { leader, .. } = change {
            // A name of a file that changed is one of another file than the other site has under it.
            if before == after && !self.changed.contains(leader) {
                return Ok(None);
            }
        } else if before == after {
            return Ok(None);
        }
        if self.is_shared && before != after {
            self.changed.insert(path.clone());
        }
        let moved_from = moved_from.filter(|_| after.is_some());
        Ok(Some(SideChange { path, before, after, moved_from }))
    }

    /// What stands at `path`; `None` when nothing does any more.
    fn now(&mut self, path: &RelPath, before: Option<&Entry>) -> Result<Option<Entry>, Looked> {
        let expected = before.map(|entry| self.catalog.expected(entry)).transpose()?.flatten();
        for tried in 1.. {
            match self.observe(path, expected.as_ref()) {
                Ok(entry) => return Ok(Some(entry)),
                Err(e) if e.is_vanished() => return Ok(None),
                Err(ObserveError::Changed) if tried < TRIES => {}
                Err(ObserveError::Changed) => {
                    return Err(Looked::Entry(
                        "unstable: it kept changing while it was read".into(),
                    ));
                }
                Err(e) => return Err(Looked::Entry(crate::ingest::describe(&e))),
            }
        }
        Ok(None)
    }

    fn observe(
        &mut self,
        path: &RelPath,
        expected: Option<&crate::observe::Expected>,
    ) -> Result<Entry, ObserveError> {
        let system = |step| move |source| ObserveError::System { step, source };
        let Some((parent, name)) = path.split() else {
            return Err(system("opening its directory")(io::ErrorKind::InvalidInput.into()));
        };
        if self.parent.as_ref().is_none_or(|(open, _)| *open != parent) {
            let opened = self.storage.open_directory(self.storage.root(), parent.as_bytes());
            self.parent = Some((parent, opened.map_err(system("opening its directory"))?));
        }
        let Some((_, directory)) = &self.parent else { return Err(ObserveError::Changed) };
        let stat = self.storage.stat(Object::Named(directory, name));
        let stat = stat.map_err(system("looking at it"))?;
        self.is_shared = stat.kind == FileKind::Regular && stat.links > 1;
        if stat.kind == FileKind::Regular {
            let described =
                describe_file(self.storage, directory, name, expected, &mut self.chunker);
            return described.map(|(entry, ..)| entry);
        }
        describe_node(self.storage, directory, name, &stat)
    }
}

//! Bringing a target's catalog in line with its tree.
//!
//! The tree is the truth: what others changed behind our back is read, hashed and recorded as it is,
//! so that the comparison with the source finds it. Nothing in the tree is changed here. A catalog
//! that was lost is rebuilt by the same pass.

use std::path::Path;

use farshore_core::chunking::Chunker;
use farshore_core::entry::Entry;
use farshore_core::path::RelPath;
use farshore_core::policy::{Policy, ReplicateAll};
use farshore_core::recipe::Recipe;
use redb::Durability;

use crate::OWN_FOLDER;
use crate::catalog::{Catalog, CatalogError, CatalogReader, CatalogTables, LocalFacts, Record};
use crate::io::{FileKind, Object, Storage};
use crate::observe::{ObserveError, SystemStep, describe_file, describe_node, metadata};
use crate::plan::{Change, PartialPlan, Plan, PlanError, Problem, Scope, plan, plan_parts};

/// Changes recorded in one transaction.
const CHUNK: usize = 4_096;

/// What a check found.
#[derive(Debug, Default)]
pub struct CheckReport {
    /// Entries whose replicated facts were not as the catalog had them.
    pub foreign_changes: u64,
    /// What could not be read; its record stays as it was.
    pub problems: Vec<Problem>,
}

/// Checks the tree of `storage` against `catalog` by its inodes' facts, with `threads`, and reads what
/// differs.
///
/// # Errors
/// [`PlanError`]; what goes wrong with one entry is in the report.
pub fn check<S: Storage>(
    storage: &S,
    catalog: &Catalog,
    threads: usize,
    spool_folder: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<CheckReport, PlanError> {
    let reader = catalog.reader()?;
    let found = plan(storage, &reader, &ReplicateAll, OWN_FOLDER, threads, spool_folder, progress)?;
    observe_all(storage, catalog, reader, found, progress)
}

/// The same for some directories of the tree: what lies in them, not below them.
///
/// # Errors
/// [`PlanError`]; what goes wrong with one entry is in the report.
pub fn check_parts<S: Storage>(
    storage: &S,
    catalog: &Catalog,
    scope: &Scope,
    spool_folder: &Path,
) -> Result<CheckReport, PlanError> {
    let reader = catalog.reader()?;
    let mut quiet = |_| ();
    let found =
        plan_parts(storage, &reader, &ReplicateAll, OWN_FOLDER, scope, spool_folder, &mut quiet)?;
    let found = match found {
        PartialPlan::Plan(plan) => *plan,
        PartialPlan::Whole(_) => {
            plan(storage, &reader, &ReplicateAll, OWN_FOLDER, 1, spool_folder, &mut quiet)?
        }
    };
    observe_all(storage, catalog, reader, found, &mut quiet)
}

/// Makes the catalog say what the tree is, as far as `policy` lets it travel, and durably: it was changed by others
/// than a session. What could not be read is not known to the catalog any more, so that it is compared and sent; it
/// is in the report.
///
/// # Errors
/// [`PlanError`], also where the root could not be read; it can be done again.
pub fn settle_by<S: Storage>(
    storage: &S,
    catalog: &Catalog,
    policy: &dyn Policy,
    threads: usize,
    spool_folder: &Path,
) -> Result<CheckReport, PlanError> {
    let reader = catalog.reader()?;
    let mut quiet = |_| ();
    let found = plan(storage, &reader, policy, OWN_FOLDER, threads, spool_folder, &mut quiet)?;
    if let Some(problem) = found.problems.iter().find(|problem| problem.path.is_root()) {
        return Err(PlanError::Root(problem.text.clone()));
    }
    let report = observe_all(storage, catalog, reader, found, &mut quiet)?;
    if let Some(problem) = report.problems.iter().find(|problem| problem.path.is_root()) {
        return Err(PlanError::Root(problem.text.clone()));
    }
    catalog.update(Durability::Immediate, |tables| {
        for problem in &report.problems {
            tables.remove_below(&problem.path)?;
            tables.remove(&problem.path)?;
        }
        tables.seal()
    })?;
    Ok(report)
}

/// Looks at all that a plan found to differ, and records it as it is.
fn observe_all<S: Storage>(
    storage: &S,
    catalog: &Catalog,
    reader: CatalogReader,
    mut found: Plan,
    progress: &mut dyn FnMut(u64),
) -> Result<CheckReport, PlanError> {
    let mut report =
        CheckReport { foreign_changes: 0, problems: std::mem::take(&mut found.problems) };
    if found.is_empty() {
        return Ok(report);
    }
    found.forget_moves();
    let mut changes = found.into_changes()?;
    let mut checker = Checker { storage, reader, chunker: None, seen: 0, progress };
    loop {
        let mut updates = Vec::new();
        let mut exhausted = false;
        while updates.len() < CHUNK {
            let Some(change) = changes.next_change()? else {
                exhausted = true;
                break;
            };
            let path = change.path().clone();
            match checker.observe(change) {
                Ok(update) => updates.push((path, update)),
                Err(CheckError::Catalog(e)) => return Err(e.into()),
                Err(CheckError::Entry(e)) if e.is_vanished() => {}
                Err(CheckError::Entry(e)) => {
                    let text = crate::ingest::describe(&e);
                    report.problems.push(Problem { path, text });
                }
            }
        }
        catalog.update(Durability::None, |tables| {
            for (path, update) in updates {
                report.foreign_changes += u64::from(record(tables, &path, update)?);
            }
            Ok(())
        })?;
        if exhausted {
            return Ok(report);
        }
    }
}

/// Why an entry could not be observed.
enum CheckError {
    /// This entry alone.
    Entry(ObserveError),
    Catalog(CatalogError),
}

impl From<ObserveError> for CheckError {
    fn from(e: ObserveError) -> Self {
        Self::Entry(e)
    }
}

impl From<CatalogError> for CheckError {
    fn from(e: CatalogError) -> Self {
        Self::Catalog(e)
    }
}

/// What stands at a path now.
enum Update {
    Present(Record, Option<Recipe>),
    Gone,
}

struct Checker<'a, S: Storage> {
    storage: &'a S,
    /// The catalog as it was when the check began.
    reader: CatalogReader,
    chunker: Option<Chunker>,
    seen: u64,
    progress: &'a mut dyn FnMut(u64),
}

impl<S: Storage> Checker<'_, S> {
    fn observe(&mut self, change: Change) -> Result<Update, CheckError> {
        self.seen += 1;
        if self.seen.is_multiple_of(256) {
            (self.progress)(self.seen);
        }
        let storage = self.storage;
        let path = match &change {
            Change::Remove { .. } => return Ok(Update::Gone),
            other => other.path(),
        };
        let Some((parent, name)) = path.split() else {
            let root = Object::Directory(storage.root());
            let stat = storage.stat(root).at_step("looking at it")?;
            let entry = Entry::Directory { meta: metadata(storage, root, &stat)? };
            let record = Record { entry, facts: Some(LocalFacts::of(&stat)) };
            return Ok(Update::Present(record, None));
        };
        let directory = storage
            .open_directory(storage.root(), parent.as_bytes())
            .at_step("opening its directory")?;
        let stat = storage.stat(Object::Named(&directory, name)).at_step("looking at it")?;
        if let Change::Link { leader, .. } = &change {
            let entry = Entry::HardLink { leader: leader.clone() };
            let record = Record { entry, facts: Some(LocalFacts::of(&stat)) };
            return Ok(Update::Present(record, None));
        }
        if stat.kind != FileKind::Regular {
            let entry = describe_node(storage, &directory, name, &stat)?;
            let record = Record { entry, facts: Some(LocalFacts::of(&stat)) };
            return Ok(Update::Present(record, None));
        }
        // What the source has is cut as what it sent: the same bytes must get the same digest.
        let known = self.reader.get(path)?.map(|r| r.entry);
        let expected = known.map(|e| self.reader.expected(&e)).transpose()?.flatten();
        let (entry, recipe, stat) =
            describe_file(storage, &directory, name, expected.as_ref(), &mut self.chunker)?;
        let record = Record { entry, facts: Some(LocalFacts::of(&stat)) };
        Ok(Update::Present(record, recipe))
    }
}

/// Records what was seen; whether anything that replicates differs.
fn record(
    tables: &mut CatalogTables<'_>,
    path: &RelPath,
    update: Update,
) -> Result<bool, CatalogError> {
    let known = tables.get(path)?;
    match update {
        Update::Gone => {
            tables.remove_below(path)?;
            tables.remove(path)?;
            Ok(known.is_some())
        }
        Update::Present(record, recipe) => {
            tables.put(path, &record)?;
            if let (Some(recipe), Some(content)) = (recipe, record.entry.content()) {
                tables.put_recipe(content, &recipe)?;
            }
            // A root seen for the first time was changed by nobody.
            let first_look = known.is_none() && path.is_root();
            Ok(!first_look && known.is_none_or(|k| k.entry != record.entry))
        }
    }
}

//! From a walk and a catalog to a list of what to do.
//!
//! One pass joins the walk with the catalog, both in path order: all of them ([`Planner::whole`]), or
//! what lies in some directories ([`Planner::parts`]). Guarantees: nothing is removed that was not
//! proven gone: what lies below an unknown or an excluded path keeps its record; the whole list and its
//! counts are known before the first operation is sent, so that the guard judges all of it. Memory holds
//! neither tree: the lists spill to disk, only names of shared inodes and of paths that moved are kept,
//! and of a plan of parts the directories asked for.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use farshore_core::codec::DecodeError;
use farshore_core::guard::Tally;
use farshore_core::path::RelPath;
use farshore_core::policy::{Faults, Policy};

use crate::catalog::{CatalogError, CatalogReader};
use crate::io::Storage;
use crate::scan::{Held, scan};
use crate::spool::{Spool, SpoolReader};

mod change;
mod detached;
mod join;
mod loads;
mod moves;
mod parts;
mod ways;
mod windows;
mod withheld;

#[cfg(test)]
mod tests;

pub use change::{Change, LookKind};
pub use detached::{DetachedChange, DetachedCount, DetachedList, DetachedWriter};
use join::Join;
pub use parts::{Part, PartialPlan, Scope, plan_parts};
use windows::Windows;
pub use withheld::Withheld;
use withheld::{Shut, Sieve};

/// Something the walk could not vouch for.
#[derive(Debug)]
pub struct Problem {
    /// Where.
    pub path: RelPath,
    /// What happened, for people.
    pub text: String,
}

/// Why no plan could be made.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The catalog cannot be read.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The list cannot be kept.
    #[error("keeping the list of changes in the state folder")]
    Spool(#[from] io::Error),
    /// The list does not read back.
    #[error("the list of changes in the state folder is damaged")]
    Damaged(#[from] DecodeError),
    /// Of the whole tree nothing is known.
    #[error("looking at the tree: {0}")]
    Root(String),
}

/// All there is to do, and the counts the guard judges.
#[derive(Debug)]
pub struct Plan {
    /// Counts. Of a plan of parts: those of the whole, as far as they change by it.
    pub tally: Tally,
    /// Bytes of files to look at: an upper bound of what will be read.
    pub bytes: u64,
    /// Entries and directories that cannot be vouched for.
    pub problems: Vec<Problem>,
    /// Excluded entries; what is below an excluded directory is not counted.
    pub excluded: u64,
    /// Entries the policy deferred.
    pub deferred: u64,
    /// The first of them.
    pub deferred_first: Vec<RelPath>,
    /// Entries kept at the target although gone or excluded at the source.
    pub detached: u64,
    /// Those of them that the policy excludes.
    pub by_policy: DetachedList,
    /// Where the policy failed; the first are among the problems.
    pub faults: Faults,
    /// The most the walk held at once.
    pub held: Held,
    /// What was looked at; all when there is nothing here. Counts of what is excluded, deferred or
    /// detached are of that alone.
    looked: Option<Windows>,
    removed_files: Spool,
    looks: Spool,
    removed_directories: Spool,
    /// What of all that is recorded as a further name, and of which first one.
    further: Spool,
    moved: HashSet<RelPath>,
    /// Directories above entries that are kept.
    kept: HashSet<RelPath>,
    /// What cannot be said at and below these paths, by the walk or the policy.
    unknown: HashSet<RelPath>,
    /// What cannot take the place of a directory, because something in that is kept.
    barred: HashSet<RelPath>,
    /// Directories that the policy leaves out.
    shut: Shut,
    /// Of this nothing is sent.
    withheld: Withheld,
    /// Changes among them that wait for another cut.
    waits: u64,
}

impl Plan {
    fn new(known: u64, spool_folder: &Path) -> Self {
        Self {
            tally: Tally { known, ..Tally::default() },
            bytes: 0,
            problems: Vec::new(),
            excluded: 0,
            deferred: 0,
            deferred_first: Vec::new(),
            detached: 0,
            by_policy: DetachedList::new(spool_folder),
            faults: Faults::default(),
            held: Held::default(),
            looked: None,
            removed_files: Spool::new(spool_folder),
            looks: Spool::new(spool_folder),
            removed_directories: Spool::new(spool_folder),
            further: Spool::new(spool_folder),
            moved: HashSet::new(),
            kept: HashSet::new(),
            unknown: HashSet::new(),
            barred: HashSet::new(),
            shut: Shut::default(),
            withheld: Withheld::default(),
            waits: 0,
        }
    }

    /// Things to do; an upper bound, since a closer look may find nothing changed.
    #[must_use]
    pub fn len(&self) -> u64 {
        let all = self.removed_files.len() + self.looks.len() + self.removed_directories.len();
        all.saturating_sub(self.waits)
    }

    /// Whether nothing is to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes what the policy keeps at the target, and says what of that is new to `catalog`; `rules` are
    /// the policy's. What a plan of parts did not look at stays as it was recorded: another policy needs
    /// a whole plan.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn take_by_policy(
        &mut self,
        catalog: &CatalogReader,
        rules: &[String],
        spool_folder: &Path,
    ) -> Result<DetachedChange, PlanError> {
        let list = std::mem::replace(&mut self.by_policy, DetachedList::new(spool_folder));
        list.compare(catalog, rules, &self.unknown, self.looked.as_ref(), spool_folder)
    }

    /// Gives each change to `visit`, in the order they are sent, and keeps them all; what is withheld
    /// ([`Self::withhold`]) is among them.
    ///
    /// # Errors
    /// [`PlanError`], and those of `visit`.
    pub fn for_each(
        &mut self,
        visit: &mut dyn FnMut(&Change) -> Result<(), PlanError>,
    ) -> Result<(), PlanError> {
        let mut changes = Changes {
            parts: vec![
                self.removed_directories.read_backward()?,
                self.looks.read_forward()?,
                self.removed_files.read_forward()?,
            ],
            moved: self.moved.clone(),
            kept: self.kept.clone(),
            barred: self.barred.clone(),
            sieve: Sieve::new(self.withheld.clone()),
        };
        while let Some(change) = changes.next_planned()? {
            visit(&changes.sieve.seen(change))?;
        }
        Ok(())
    }

    /// Takes every move for a removal and an arrival.
    pub fn forget_moves(&mut self) {
        self.moved.clear();
    }

    /// The changes in the order they are sent: files removed, then everything that is there in path
    /// order, then directories removed from the deepest up.
    ///
    /// # Errors
    /// [`PlanError::Spool`].
    pub fn into_changes(self) -> Result<Changes, PlanError> {
        Ok(Changes {
            parts: vec![
                self.removed_directories.into_backward()?,
                self.looks.into_forward()?,
                self.removed_files.into_forward()?,
            ],
            moved: self.moved,
            kept: self.kept,
            barred: self.barred,
            sieve: Sieve::new(self.withheld),
        })
    }
}

/// The changes of a plan in the order they are sent.
#[derive(Debug)]
pub struct Changes {
    parts: Vec<SpoolReader>,
    moved: HashSet<RelPath>,
    kept: HashSet<RelPath>,
    barred: HashSet<RelPath>,
    sieve: Sieve,
}

impl Changes {
    /// The next change.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn next_change(&mut self) -> Result<Option<Change>, PlanError> {
        while let Some(change) = self.next_planned()? {
            let sent = self.sieve(change);
            if sent.is_some() {
                return Ok(sent);
            }
        }
        Ok(None)
    }

    fn next_planned(&mut self) -> Result<Option<Change>, PlanError> {
        while let Some(part) = self.parts.last_mut() {
            let Some(item) = part.next_item()? else {
                self.parts.pop();
                continue;
            };
            let change = Change::from_bytes(&item)?;
            // What moved is removed by its move; a directory above what is kept stays.
            let passed = matches!(&change, Change::Remove { path, .. }
                if self.moved.contains(path) || self.kept.contains(path));
            if !passed && !self.barred.contains(change.path()) {
                return Ok(Some(change));
            }
        }
        Ok(None)
    }
}

/// What plans are made of, and how.
#[derive(Clone, Copy)]
pub struct Planner<'a, S> {
    /// The tree.
    pub storage: &'a S,
    /// What is known of it.
    pub catalog: &'a CatalogReader,
    /// What travels.
    pub policy: &'a dyn Policy,
    /// The name at the root that is Farshore's.
    pub own: &'a [u8],
    /// Threads that read the tree, the caller's among them.
    pub threads: usize,
    /// Where lists go that are too long for memory.
    pub spool_folder: &'a Path,
}

impl<S> std::fmt::Debug for Planner<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Planner").field("threads", &self.threads).finish_non_exhaustive()
    }
}

/// Calls of `progress` are so many entries apart.
const PROGRESS_STEP: u64 = 1_024;

impl<S: Storage> Planner<'_, S> {
    /// Joins a walk of the whole tree with all records, on this thread; see [`scan`].
    ///
    /// # Errors
    /// [`PlanError`]; what goes wrong in the tree is a [`Problem`].
    pub fn whole(&self, progress: &mut dyn FnMut(u64)) -> Result<Plan, PlanError> {
        let mut join = Join::new(self, self.catalog.rows()?, None)?;
        let Self { storage, policy, own, threads, .. } = *self;
        let held = scan(storage, policy, own, threads, &mut |event| {
            join.handle(event)?;
            if join.met.is_multiple_of(PROGRESS_STEP) {
                progress(join.met);
            }
            Ok::<_, PlanError>(())
        })?;
        join.finish_rows()?;
        let mut plan = join.finish();
        plan.held = held;
        Ok(plan)
    }
}

/// Joins a walk of `storage` with the records of `catalog`, on this thread, one of the `threads`
/// that read the tree; see [`Planner::whole`].
///
/// # Errors
/// [`PlanError`]; what goes wrong in the tree is a [`Problem`].
pub fn plan<S: Storage>(
    storage: &S,
    catalog: &CatalogReader,
    policy: &dyn Policy,
    own: &[u8],
    threads: usize,
    spool_folder: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<Plan, PlanError> {
    Planner { storage, catalog, policy, own, threads, spool_folder }.whole(progress)
}

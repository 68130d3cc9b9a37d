//! Applying a staged batch, so that a crash at any point is finished by the next start.
//!
//! The procedure, and what is durable after each step:
//!
//! 1. Staged objects are complete in `.farshore/staging/b<N>`. Sync all: their bytes and names are
//!    durable.
//! 2. What will be touched is looked at: a move's or a removal's object by its inode. What is not as
//!    expected becomes a failure of that operation.
//! 3. The intent is written to `.farshore/journal/<N>` and synced, then the journal's directory:
//!    from here on the batch will happen.
//! 4. Objects that move are lifted into staging, and synced there if one of their names is to be
//!    taken by another: not every file system keeps the order of two renames, and the second alone
//!    would replace what the first had saved. Removed files go to history; staged objects are
//!    placed, what they replace is first given a name in history; further names are linked; of what went
//!    to history and has a name elsewhere still, a synced copy takes the place there; metadata
//!    of files set; directories removed from the deepest up; directories' metadata and times set,
//!    the deepest first.
//! 5. Sync all: the tree is durable in its new state.
//! 6. The catalog commits the entries, their facts, and N. The transaction may have been written meanwhile, and step
//!    2 done beside step 1, see [`foreseen`].
//! 7. The receipt goes out; the journal record and the staging folder are removed, unsynced: both
//!    are harmless when they come back.
//!
//! Recovery rules, at the next start:
//!
//! A. A journal record that does not read back whole was never acted on: removed.
//! B. A record with a number the catalog has committed is done: removed.
//! C. Any other record is written and synced anew, since the sync of step 3 may be what had failed,
//!    and a second one of the same bytes proves nothing; then it is done again from step 4. Each
//!    action tells by inode or by the staged name whether it happened; nothing is lost by doing it
//!    twice.
//! D. Staging folders left over are removed; those no record needs first, before anything is done again: they
//!    may be what fills the disk, and what was held ahead for them has but that one name again then. What
//!    has two then is of a batch that is done now, and is no longer held ahead (see [`crate::ahead`]).
//!
//! A failed sync ends the session; the batch is done again after the next start, from its journal
//! record or, before step 3, by the source.
//!
//! Batches that wait together are applied as a *group*: one sync for step 1, then steps 2 to 4 of each
//! in order, one sync for step 5, one transaction for step 6. Batches that only add do step 2 together,
//! then step 3, then step 4: none of them finds what another took away. No two batches of a group touch the
//! same path, so that what a batch is to find is what stood there before the group; see [`group`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::thread::ScopedJoinHandle;

use farshore_core::entry::{Entry, EntryKind};
use farshore_core::path::RelPath;
use farshore_core::recipe::{FileDigest, Recipe};
use farshore_proto::message::{Failure, FailureKind, Receipt};
use redb::Durability;

use crate::catalog::{Catalog, CatalogError, HistorySet, LocalFacts, Record};
use crate::io::{FileKind, Object, Stat, Storage};
use crate::journal::{self, Action, Intent};
use crate::metadata::Degraded;
use crate::own_folder::{OwnFolder, remove_tree, set_name};
use crate::profile::{Profile, Stage};
use crate::stage::{Staged, StagedBatch, folder_name};

#[cfg(test)]
mod bed;
mod detach;
mod displaced;
mod foreseen;
pub mod group;
mod parents;
mod perform;
mod prune;
mod record;

use group::Made;
use parents::Parents;
use perform::Perform;
pub use prune::HistoryBounds;

/// The numbered steps of the module's procedure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApplyStep {
    /// 1: making staged objects durable.
    SyncStaged,
    /// 2: looking at what will be touched.
    Prepare,
    /// 3: writing the intent.
    Journal,
    /// 4: changing the tree.
    Perform,
    /// 5: making the tree durable.
    SyncTree,
    /// 7: removing what is left over.
    CleanUp,
}

impl std::fmt::Display for ApplyStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::SyncStaged => "syncing what was staged",
            Self::Prepare => "looking at what will change",
            Self::Journal => "writing the journal",
            Self::Perform => "changing the tree",
            Self::SyncTree => "syncing the tree",
            Self::CleanUp => "clearing staging",
        })
    }
}

/// Why a batch could not be applied; it is finished after the next start.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The file system failed.
    #[error("batch {batch}: {step}: {path}")]
    Disk {
        /// The batch.
        batch: u64,
        /// The step.
        step: ApplyStep,
        /// For which path; the root when for none in particular.
        path: RelPath,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// Applies batches to one tree.
pub struct Applier<'a, S: Storage> {
    /// The tree.
    pub storage: &'a S,
    /// Its catalog.
    pub catalog: &'a Catalog,
    /// Farshore's folder in it.
    pub own: &'a OwnFolder<S>,
    /// Milliseconds since 1970-01-01 UTC, for history.
    pub now_ms: &'a (dyn Fn() -> i64 + Sync),
    /// Where the time goes.
    pub profile: &'a Profile,
}

/// A batch whose steps 2 to 4 are done.
struct Performed {
    intent: Intent,
    made: Made,
    recipes: HashMap<FileDigest, Recipe>,
    failures: Vec<Failure>,
    degraded: Degraded,
    /// See [`StagedBatch::adopted`].
    adopted: Vec<(RelPath, u64)>,
    /// See [`StagedBatch::keeps_displaced`].
    careful: bool,
    /// Whether a crash interrupted it before.
    is_again: bool,
    /// By path: operations that failed in step 4.
    failed: BTreeMap<RelPath, Failure>,
}

impl Performed {
    /// Whether anything of it was to be done.
    fn changes(&self) -> bool {
        !self.intent.actions.is_empty()
    }
}

/// What a thread came to; its panic goes on in this one.
fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

impl<S: Storage> std::fmt::Debug for Applier<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Applier")
    }
}

impl<S: Storage> Applier<'_, S> {
    fn disk(
        batch: u64,
        step: ApplyStep,
        path: &RelPath,
    ) -> impl Fn(io::Error) -> ApplyError + use<S> {
        let path = path.clone();
        move |source| ApplyError::Disk { batch, step, path: path.clone(), source }
    }

    /// Applies a group of batches, in order; when this returns, all of them but their receipts'
    /// failures is durable.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub fn apply(&self, mut group: Vec<StagedBatch>) -> Result<Vec<Receipt>, ApplyError> {
        let first = group.first().map_or(0, |b| b.batch);
        if self.foresees(&group)?
            && let Some(only) = group.pop()
        {
            return self.apply_foreseen(only);
        }
        if group.iter().any(|b| !b.staged.is_empty()) {
            self.sync_staged(first)?;
        }
        let mut performed: Vec<Performed> = Vec::with_capacity(group.len());
        let mut directories = HashMap::new();
        // What one batch takes away, another may look at.
        let apart = if group.iter().all(StagedBatch::only_adds) { group.len().max(1) } else { 1 };
        let mut group = group.into_iter().peekable();
        while group.peek().is_some() {
            let mut together = Vec::new();
            for staged in group.by_ref().take(apart) {
                together.push(self.profile.time(Stage::Apply, || self.prepared(staged))?);
            }
            let begun = together.iter().filter(|p| p.changes());
            self.write_journal(first, begun.map(|p| &p.intent))?;
            for mut next in together {
                if next.changes() {
                    self.perform(&mut next, &mut directories)?;
                }
                performed.push(next);
            }
        }
        self.complete(performed)
    }

    /// Step 1.
    fn sync_staged(&self, batch: u64) -> Result<(), ApplyError> {
        let synced = self.profile.time(Stage::SyncStaged, || self.storage.sync_all());
        synced.map_err(Self::disk(batch, ApplyStep::SyncStaged, &RelPath::root()))
    }

    /// Step 3; `batch` is the first of them.
    fn write_journal<'i>(
        &self,
        batch: u64,
        intents: impl Iterator<Item = &'i Intent>,
    ) -> Result<(), ApplyError> {
        let written =
            self.profile.time(Stage::Journal, || journal::write(self.storage, self.own, intents));
        written.map_err(Self::disk(batch, ApplyStep::Journal, &RelPath::root()))
    }

    /// Finishes what a crash interrupted, by the rules of the module.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub fn recover(&self) -> Result<Vec<Failure>, ApplyError> {
        let root = RelPath::root();
        let disk = |step| Self::disk(0, step, &root);
        let applied = self.catalog.reader()?.applied_batch()?;
        let mut failures = Vec::new();
        let intents =
            journal::read_all(self.storage, self.own).map_err(disk(ApplyStep::Journal))?;
        // First of all: it may be what fills the disk on which the rest is to be done.
        let needed = intents.iter().filter(|i| i.batch > applied);
        let needed: HashSet<Vec<u8>> = needed.map(|i| folder_name(i.batch).into_bytes()).collect();
        self.clear_staging(&needed)?;
        self.own
            .find_ahead(self.storage, (self.now_ms)())
            .and_then(|()| self.own.forget_placed(self.storage))
            .map_err(disk(ApplyStep::CleanUp))?;
        for intent in intents {
            if intent.batch <= applied {
                journal::clear(self.storage, self.own, intent.batch)
                    .map_err(disk(ApplyStep::CleanUp))?;
                continue;
            }
            journal::renew(self.storage, self.own, &intent).map_err(disk(ApplyStep::Journal))?;
            let mut again = Performed {
                intent,
                made: Made::default(),
                recipes: HashMap::new(),
                failures: Vec::new(),
                degraded: Degraded::default(),
                adopted: Vec::new(),
                // Whichever kind of batch it was.
                careful: true,
                is_again: true,
                failed: BTreeMap::new(),
            };
            self.perform(&mut again, &mut HashMap::new())?;
            let receipts = self.complete(vec![again])?;
            failures.extend(receipts.into_iter().flat_map(|r| r.failures));
        }
        self.clear_staging(&HashSet::new())?;
        self.adopt_history()?;
        Ok(failures)
    }

    /// Rule D: removes what is in staging, but for the folders `needed`.
    fn clear_staging(&self, needed: &HashSet<Vec<u8>>) -> Result<(), ApplyError> {
        let failed = Self::disk(0, ApplyStep::CleanUp, &RelPath::root());
        let mut left = Vec::new();
        self.storage
            .list(&self.own.staging, &mut |l| left.push(l.name.to_vec()))
            .map_err(&failed)?;
        left.iter()
            .filter(|name| !needed.contains(*name))
            .try_for_each(|name| remove_tree(self.storage, &self.own.staging, name))
            .map_err(failed)
    }

    /// History the catalog does not know was made before the catalog, or was about to be removed when
    /// a crash came: it counts from now on, by what lies in it, and no batch takes its number again.
    fn adopt_history(&self) -> Result<(), ApplyError> {
        let mut sets = Vec::new();
        self.storage
            .list(&self.own.history, &mut |l| {
                let set = std::str::from_utf8(l.name).ok().and_then(|n| n.parse::<u64>().ok());
                // A number that leaves no room for later ones was not given by us.
                sets.extend(set.filter(|set| *set <= u64::MAX / 4));
            })
            .map_err(Self::disk(0, ApplyStep::CleanUp, &RelPath::root()))?;
        let reader = self.catalog.reader()?;
        let known: HashSet<u64> = reader.history_sets()?.into_iter().map(|(set, _)| set).collect();
        let highest = sets.iter().copied().max().unwrap_or(0);
        sets.retain(|set| !known.contains(set));
        if sets.is_empty() && highest <= reader.applied_batch()? {
            return Ok(());
        }
        let applied = reader.applied_batch()?.max(highest);
        let adopted: Vec<(u64, HistorySet)> = sets
            .into_iter()
            .map(|set| Ok((set, self.measured(set)?)))
            .collect::<io::Result<_>>()
            .map_err(Self::disk(0, ApplyStep::CleanUp, &RelPath::root()))?;
        self.catalog.update(Durability::Immediate, |t| {
            adopted.iter().try_for_each(|(set, facts)| t.put_history_set(*set, facts))?;
            t.set_applied_batch(applied)
        })?;
        Ok(())
    }

    /// What lies in a set of kept versions.
    fn measured(&self, set: u64) -> io::Result<HistorySet> {
        use io::ErrorKind as K;
        let mut facts = HistorySet { time_unix_ms: (self.now_ms)(), bytes: 0, versions: 0 };
        let folder = match self.storage.open_directory(&self.own.history, set_name(set).as_bytes())
        {
            Ok(folder) => folder,
            // Not named as a set is, or no folder: nothing of it is counted.
            Err(e) if matches!(e.kind(), K::NotFound | K::NotADirectory) => return Ok(facts),
            Err(e) => return Err(e),
        };
        let mut names = Vec::new();
        self.storage.list(&folder, &mut |l| names.push(l.name.to_vec()))?;
        for name in names {
            let is_version = std::str::from_utf8(&name).is_ok_and(|n| n.parse::<u32>().is_ok());
            if is_version {
                let stat = self.storage.stat(Object::Named(&folder, &name))?;
                let size = if stat.kind == FileKind::Regular { stat.size } else { 0 };
                facts.bytes = facts.bytes.saturating_add(size);
                facts.versions += 1;
            }
        }
        Ok(facts)
    }

    /// Step 2 for one batch.
    fn prepared(&self, staged: StagedBatch) -> Result<Performed, ApplyError> {
        let careful = staged.keeps_displaced;
        let StagedBatch { batch, staged, mut failures, degraded, recipes, adopted, .. } = staged;
        let (actions, made) = self.prepare(batch, staged, &mut failures)?;
        let intent = Intent { batch, actions };
        let (failed, is_again) = (BTreeMap::new(), false);
        Ok(Performed {
            intent,
            made,
            recipes,
            failures,
            degraded,
            adopted,
            careful,
            is_again,
            failed,
        })
    }

    /// Step 2: what is not as expected becomes a failure.
    fn prepare(
        &self,
        batch: u64,
        staged: Vec<Staged>,
        failures: &mut Vec<Failure>,
    ) -> Result<(Vec<Action>, Made), ApplyError> {
        let mut made = Made::default();
        let reader = self.catalog.reader()?;
        let mut parents = Parents::new(self.storage);
        let mut actions = Vec::with_capacity(staged.len());
        let mut fail = |path: RelPath, kind: FailureKind, text: &str| {
            failures.push(Failure { path, kind, text: text.into() });
        };
        for item in staged {
            match item {
                Staged::Place { number, path, entry } => {
                    actions.push(Action::Place { number, path, entry });
                }
                Staged::Inside { path, entry, facts } => {
                    made.insert(actions.len(), facts);
                    actions.push(Action::Inside { path, entry });
                }
                Staged::Link { number, path, leader } => {
                    made.linked(&leader);
                    actions.push(Action::Link { number, path, leader });
                }
                Staged::Remove { number, path, expected } => {
                    let record = reader.get(&path)?;
                    if record.as_ref().is_some_and(|r| r.entry.digest() != expected) {
                        fail(path, FailureKind::Refused, "it is not what the source takes it for");
                        continue;
                    }
                    let there = parents.stat(&path).map_err(Self::disk(
                        batch,
                        ApplyStep::Prepare,
                        &path,
                    ))?;
                    let is_directory =
                        record.is_some_and(|r| r.entry.kind() == EntryKind::Directory);
                    actions.push(if is_directory {
                        Action::RemoveDirectory { number, path }
                    } else {
                        // Inode 0 names nothing: it is gone already.
                        let inode = there.map_or(0, |s| s.inode);
                        Action::RemoveFile { number, path, inode }
                    });
                }
                Staged::Move { number, from, expected, to, entry } => {
                    let record = reader.get(&from)?.filter(|r| r.entry.digest() == expected);
                    let there = parents.stat(&from).map_err(Self::disk(
                        batch,
                        ApplyStep::Prepare,
                        &from,
                    ))?;
                    match (record, there) {
                        (Some(record), Some(there)) if same_content(&record, &there) => {
                            let inode = there.inode;
                            let moved = entry.clone();
                            actions.push(Action::Lift { number, from, inode, entry: moved });
                            actions.push(Action::Place { number, path: to, entry });
                        }
                        _ => fail(to, FailureKind::Basis(Vec::new()), "what moved is not here"),
                    }
                }
                Staged::Meta { path, entry } => {
                    let record = reader.get(&path)?;
                    let there = parents.stat(&path).map_err(Self::disk(
                        batch,
                        ApplyStep::Prepare,
                        &path,
                    ))?;
                    let fits = match (&record, &there) {
                        (_, Some(there)) if entry.kind() == EntryKind::Directory => {
                            there.kind == FileKind::Directory
                        }
                        (Some(record), Some(there)) => {
                            record.entry.same_but_metadata(&entry) && same_content(record, there)
                        }
                        _ => false,
                    };
                    if fits {
                        actions.push(Action::Meta { path, entry });
                    } else {
                        fail(path, FailureKind::Basis(Vec::new()), "its content is not here");
                    }
                }
            }
        }
        Ok((actions, made))
    }

    /// Step 4. `directories` are those that earlier batches of the group made or changed.
    fn perform(
        &self,
        batch: &mut Performed,
        directories: &mut HashMap<RelPath, Entry>,
    ) -> Result<(), ApplyError> {
        let _applying = self.profile.enter(Stage::Apply);
        let reader = self.catalog.reader()?;
        let mut perform = Perform::open(self, &reader, &batch.intent, directories)?;
        perform.careful = batch.careful;
        perform.is_again = batch.is_again;
        perform.run()?;
        let Perform { failed, degraded, .. } = perform;
        for action in &batch.intent.actions {
            if let Some(entry) = action.entry()
                && entry.kind() == EntryKind::Directory
                && !failed.contains_key(action.path())
            {
                directories.insert(action.path().clone(), entry.clone());
            }
        }
        batch.degraded.merge(&degraded);
        batch.failed = failed;
        Ok(())
    }

    /// Steps 5 to 7, and the receipts.
    fn complete(&self, performed: Vec<Performed>) -> Result<Vec<Receipt>, ApplyError> {
        if performed.is_empty() {
            return Ok(Vec::new());
        }
        let found = self.sync_and_look(&performed)?;
        self.profile.time(Stage::Commit, || self.commit(&performed, &found))?;
        self.receipts(performed)
    }

    /// Step 7, and the receipts.
    fn receipts(&self, performed: Vec<Performed>) -> Result<Vec<Receipt>, ApplyError> {
        let _cleaning = self.profile.enter(Stage::CleanUp);
        let mut receipts = Vec::with_capacity(performed.len());
        for Performed { intent, mut failures, degraded, failed, adopted, .. } in performed {
            self.clean_up(intent.batch)?;
            self.give_back(&adopted, &failed);
            failures.extend(failed.into_values());
            receipts.push(Receipt { batch: intent.batch, failures, degraded: degraded.counts() });
        }
        Ok(receipts)
    }

    /// What was held ahead and could not be placed is held as before.
    fn give_back(&self, adopted: &[(RelPath, u64)], failed: &BTreeMap<RelPath, Failure>) {
        let back = adopted.iter().filter(|(path, _)| failed.contains_key(path));
        back.for_each(|(_, slot)| self.own.ahead.give_back(*slot));
    }

    fn clean_up(&self, batch: u64) -> Result<(), ApplyError> {
        let disk = Self::disk(batch, ApplyStep::CleanUp, &RelPath::root());
        journal::clear(self.storage, self.own, batch).map_err(&disk)?;
        remove_tree(self.storage, &self.own.staging, folder_name(batch).as_bytes()).map_err(&disk)
    }
}

/// Whether what stands there has the content the catalog recorded; a further name or an ordinary
/// move changes the change time alone.
fn same_content(record: &Record, there: &Stat) -> bool {
    let now = LocalFacts::of(there);
    record.facts.is_some_and(|f| (f.inode, f.size, f.mtime) == (now.inode, now.size, now.mtime))
}

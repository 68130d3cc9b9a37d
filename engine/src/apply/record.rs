//! Steps 5 and 6: the tree is made durable, and what became of it recorded.
//!
//! Guarantees: the catalog commits nothing of a batch before the sync of step 5 is over. The facts it gets are those
//! that inodes have after that sync: where a file system leaves them as they are when it writes back, they are
//! looked at meanwhile, and else afterwards.

use std::collections::{HashMap, HashSet};

use farshore_core::entry::{Entry, EntryKind};
use farshore_core::path::RelPath;
use farshore_core::recipe::{FileDigest, Recipe};
use redb::Durability;

use super::displaced::Displaced;
use super::parents::Parents;
use super::{Applier, ApplyError, ApplyStep, Performed, joined};
use crate::catalog::{
    CatalogError, CatalogReader, CatalogTables, HistoryId, HistorySet, LocalFacts, Record,
};
use crate::io::{FileKind, Stat, Storage};
use crate::journal::Action;
use crate::metadata::is_time_kept;
use crate::profile::Stage;
use crate::stage::times_settle;

/// What stands in the tree and in history of one batch.
#[derive(Default)]
pub(super) struct Found {
    /// Those of what its actions made first, in their order.
    pub(super) records: Vec<(RelPath, Record)>,
    pub(super) history: Vec<Displaced>,
}

impl<S: Storage> Applier<'_, S> {
    /// Step 5, for what changed something, and a look at what stands there then; of each batch.
    pub(super) fn sync_and_look(&self, performed: &[Performed]) -> Result<Vec<Found>, ApplyError> {
        let look = || self.profile.time(Stage::Commit, || self.look(performed));
        let Some(first) = performed.iter().find(|p| p.changes()).map(|p| p.intent.batch) else {
            return look();
        };
        // To forget that something is held ahead moves its change time.
        let stays = performed.iter().all(|batch| batch.adopted.is_empty());
        let disk = Self::disk(first, ApplyStep::SyncTree, &RelPath::root());
        if stays && times_settle(self.storage.file_system().map_err(disk)?) {
            return std::thread::scope(|scope| {
                let syncing = scope.spawn(|| self.sync_tree(first));
                let found = look();
                joined(syncing)?;
                found
            });
        }
        self.sync_tree(first)?;
        performed.iter().try_for_each(|batch| self.forget_adopted(batch))?;
        look()
    }

    fn sync_tree(&self, batch: u64) -> Result<(), ApplyError> {
        let synced = self.profile.time(Stage::SyncTree, || self.storage.sync_all());
        synced.map_err(Self::disk(batch, ApplyStep::SyncTree, &RelPath::root()))
    }

    /// What was held ahead and stands in the tree is held there alone.
    fn forget_adopted(&self, batch: &Performed) -> Result<(), ApplyError> {
        let placed = batch.adopted.iter().filter(|(path, _)| !batch.failed.contains_key(path));
        for (path, slot) in placed {
            let failed = Self::disk(batch.intent.batch, ApplyStep::CleanUp, path);
            self.own.forget_ahead(self.storage, *slot).map_err(failed)?;
        }
        Ok(())
    }

    fn look(&self, performed: &[Performed]) -> Result<Vec<Found>, ApplyError> {
        // Of several batches: which one each path is the business of.
        let mut owners: HashMap<&RelPath, u64> = HashMap::new();
        if performed.len() > 1 {
            for intent in performed.iter().map(|p| &p.intent) {
                owners.extend(intent.actions.iter().map(|a| (a.path(), intent.batch)));
            }
        }
        let reader = self.catalog.reader()?;
        let look = |batch| {
            let records = self.look_again(batch, &owners, &reader)?;
            Ok(Found { records, history: self.displaced(&batch.intent, &reader)? })
        };
        performed.iter().map(look).collect()
    }

    /// The records the catalog will have: entries with the facts their inodes have now. What somebody
    /// else put there meanwhile has no facts of ours, so that the next check looks at it.
    fn look_again(
        &self,
        batch: &Performed,
        owners: &HashMap<&RelPath, u64>,
        reader: &CatalogReader,
    ) -> Result<Vec<(RelPath, Record)>, ApplyError> {
        let actions = &batch.intent.actions;
        let mut parents = Parents::new(self.storage);
        let mut stat = |path: &RelPath| {
            parents.stat(path).map_err(Self::disk(batch.intent.batch, ApplyStep::SyncTree, path))
        };
        let mut records = Vec::with_capacity(actions.len());
        // What was written in, or given a further name, without being made or set here.
        let mut touched: HashSet<RelPath> = HashSet::new();
        let mut last_parent: Option<RelPath> = None;
        for (place, action) in actions.iter().enumerate() {
            let path = action.path();
            if batch.failed.contains_key(path) {
                continue;
            }
            if let Some(parent) = action.written_in()
                && last_parent.as_ref().is_none_or(|last| last.as_bytes() != parent)
                && let Some((parent, _)) = path.split()
            {
                touched.insert(parent.clone());
                last_parent = Some(parent);
            }
            let entry = match action {
                Action::Place { entry, .. }
                | Action::Inside { entry, .. }
                | Action::Meta { entry, .. } => entry.clone(),
                Action::Link { leader, .. } => {
                    // Its change time moved with its number of names.
                    touched.insert(leader.clone());
                    Entry::HardLink { leader: leader.clone() }
                }
                Action::Lift { .. }
                | Action::RemoveFile { .. }
                | Action::RemoveDirectory { .. } => continue,
            };
            let facts = match batch.made.facts(place, path) {
                Some(facts) => Some(facts),
                None => {
                    // Gone: a directory above was removed in this batch, or somebody else was here.
                    let Some(stat) = stat(path)? else { continue };
                    is_as_made(&entry, &stat).then(|| LocalFacts::of(&stat))
                }
            };
            records.push((path.clone(), Record { entry, facts }));
        }
        for (path, _) in &records {
            touched.remove(path);
        }
        // What another batch of the group made, changed or removed is recorded with that one.
        let others = |path: &RelPath| owners.get(path).is_some_and(|b| *b != batch.intent.batch);
        for path in touched.into_iter().filter(|path| !others(path)) {
            let Some(record) = reader.get(&path)? else { continue };
            let Some(stat) = stat(&path)? else { continue };
            let facts = record.facts.and_then(|f| still_ours(&record.entry, &f, &stat));
            records.push((path, Record { entry: record.entry, facts }));
        }
        Ok(records)
    }

    /// Step 6, for the whole group, of which `found` is what was left: durable when something changed.
    pub(super) fn commit(
        &self,
        performed: &[Performed],
        found: &[Found],
    ) -> Result<(), ApplyError> {
        let changed = performed.iter().any(Performed::changes);
        let durability = if changed { Durability::Immediate } else { Durability::None };
        self.catalog.update(durability, |t| {
            performed
                .iter()
                .zip(found)
                .try_for_each(|(batch, found)| self.commit_batch(t, batch, found))
        })?;
        Ok(())
    }

    fn commit_batch(
        &self,
        t: &mut CatalogTables<'_>,
        performed: &Performed,
        found: &Found,
    ) -> Result<(), CatalogError> {
        let batch = performed.intent.batch;
        t.note_for(batch)?;
        let done = |a: &&Action| !performed.failed.contains_key(a.path());
        performed.intent.actions.iter().filter(done).try_for_each(|action| take_away(t, action))?;
        self.commit_found(t, batch, found, &performed.recipes)
    }

    /// Records what was found at the paths of a batch, and that the batch is applied.
    pub(super) fn commit_found(
        &self,
        t: &mut CatalogTables<'_>,
        batch: u64,
        found: &Found,
        recipes: &HashMap<FileDigest, Recipe>,
    ) -> Result<(), CatalogError> {
        let Found { records, history } = found;
        for (path, record) in records {
            t.put(path, record)?;
        }
        for (content, recipe) in recipes {
            t.put_recipe(content, recipe)?;
        }
        for Displaced { number, record, .. } in history {
            t.put_history(HistoryId { set: batch, number: *number }, record)?;
        }
        let kept = HistorySet {
            time_unix_ms: (self.now_ms)(),
            bytes: history.iter().map(|one| one.bytes).fold(0, u64::saturating_add),
            versions: history.len() as u64,
        };
        t.put_history_of(batch, &kept)?;
        t.set_applied_batch(batch)
    }
}

/// Takes out of the catalog what an action took away.
pub(super) fn take_away(t: &mut CatalogTables<'_>, action: &Action) -> Result<(), CatalogError> {
    match action {
        Action::Lift { from, .. } => drop(t.remove(from)?),
        // What was below another directory of this name went with that.
        Action::Place { path, entry, .. } if entry.kind() == EntryKind::Directory => {
            t.remove_below(path)?;
        }
        Action::RemoveFile { path, .. } | Action::RemoveDirectory { path, .. } => {
            t.remove_below(path)?;
            t.remove(path)?;
        }
        _ => {}
    }
    Ok(())
}

/// The facts of what this batch touched but did not make: a directory written in, a file given a
/// further name. `None` when it is not what was recorded.
fn still_ours(entry: &Entry, recorded: &LocalFacts, there: &Stat) -> Option<LocalFacts> {
    let now = LocalFacts::of(there);
    let same = (now.inode, now.size, now.owner_mode)
        == (recorded.inode, recorded.size, recorded.owner_mode);
    let is_directory = entry.kind() == EntryKind::Directory;
    // A directory's own time was set again by this batch, if nobody else was in it.
    let time = match entry.meta() {
        Some(meta) if is_directory => is_time_kept(meta.mtime, now.mtime),
        _ => now.mtime == recorded.mtime,
    };
    let kind = is_directory == (there.kind == FileKind::Directory);
    (same && time && kind).then_some(now)
}

/// Whether what stands there is what this batch made of `entry`, as far as a look tells.
fn is_as_made(entry: &Entry, there: &Stat) -> bool {
    let kind = match entry.kind() {
        EntryKind::HardLink => return there.kind != FileKind::Directory,
        EntryKind::File => FileKind::Regular,
        EntryKind::Directory => FileKind::Directory,
        EntryKind::Symlink => FileKind::Symlink,
        EntryKind::Fifo => FileKind::Fifo,
        EntryKind::Socket => FileKind::Socket,
        EntryKind::CharDevice => FileKind::CharDevice,
        EntryKind::BlockDevice => FileKind::BlockDevice,
    };
    let size = kind != FileKind::Regular || there.size == entry.size();
    let time = entry.meta().is_none_or(|m| is_time_kept(m.mtime, there.mtime));
    there.kind == kind && size && time
}

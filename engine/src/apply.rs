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
//!    placed, what they replace is first given a name in history; further names are linked; metadata
//!    of files set; directories removed from the deepest up; directories' metadata and times set,
//!    the deepest first.
//! 5. Sync all: the tree is durable in its new state.
//! 6. The catalog commits the entries, their facts, and N.
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
//! D. Staging folders left over are removed.
//!
//! A failed sync ends the session; the batch is done again after the next start, from its journal
//! record or, before step 3, by the source.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;

use farshore_core::entry::{Entry, EntryKind, Xattrs};
use farshore_core::path::RelPath;
use farshore_core::recipe::{FileDigest, Recipe};
use farshore_proto::message::{Failure, FailureKind, Receipt};
use redb::Durability;

use crate::catalog::{
    Catalog, CatalogError, CatalogReader, HistoryId, HistoryRecord, HistorySet, LocalFacts, Record,
};
use crate::io::{FileKind, Object, Stat, Storage};
use crate::journal::{self, Action, Intent};
use crate::metadata::{Degraded, Present, apply_metadata};
use crate::own_folder::{OwnFolder, remove_tree, set_name};
use crate::stage::{Staged, StagedBatch, folder_name, is_fatal};

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

    /// Applies one batch; when this returns, all of it but the receipt's failures is durable.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub fn apply(&self, staged: StagedBatch) -> Result<Receipt, ApplyError> {
        let StagedBatch { batch, staged, mut failures, mut degraded, recipes } = staged;
        let root = RelPath::root();
        let disk = |step| Self::disk(batch, step, &root);
        if staged.is_empty() {
            self.catalog.update(Durability::None, |t| t.set_applied_batch(batch))?;
            self.clean_up(batch)?;
            return Ok(Receipt { batch, failures, degraded: degraded.counts() });
        }
        self.storage.sync_all().map_err(disk(ApplyStep::SyncStaged))?;
        let actions = self.prepare(batch, staged, &mut failures)?;
        let intent = Intent { batch, actions };
        journal::write(self.storage, self.own, &intent).map_err(disk(ApplyStep::Journal))?;
        self.storage.sync_directory(&self.own.journal).map_err(disk(ApplyStep::Journal))?;
        self.finish(&intent, &recipes, &mut failures, &mut degraded)?;
        Ok(Receipt { batch, failures, degraded: degraded.counts() })
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
        let intents = journal::read_all(self.storage, self.own).map_err(disk(ApplyStep::Journal))?;
        for intent in intents {
            if intent.batch <= applied {
                journal::clear(self.storage, self.own, intent.batch)
                    .map_err(disk(ApplyStep::CleanUp))?;
                continue;
            }
            journal::renew(self.storage, self.own, &intent).map_err(disk(ApplyStep::Journal))?;
            self.finish(&intent, &HashMap::new(), &mut failures, &mut Degraded::default())?;
        }
        let mut left = Vec::new();
        self.storage
            .list(&self.own.staging, &mut |l| left.push(l.name.to_vec()))
            .map_err(disk(ApplyStep::CleanUp))?;
        for name in left {
            remove_tree(self.storage, &self.own.staging, &name).map_err(disk(ApplyStep::CleanUp))?;
        }
        self.adopt_history()?;
        Ok(failures)
    }

    /// History the catalog does not know was made before the catalog: it counts from now on, and no
    /// batch takes its number again.
    fn adopt_history(&self) -> Result<(), ApplyError> {
        let mut sets = Vec::new();
        self.storage
            .list(&self.own.history, &mut |l| {
                sets.extend(std::str::from_utf8(l.name).ok().and_then(|n| n.parse::<u64>().ok()));
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
        let facts = HistorySet { time_unix_ms: (self.now_ms)(), bytes: 0, versions: 0 };
        self.catalog.update(Durability::Immediate, |t| {
            sets.iter().try_for_each(|&set| t.put_history_set(set, &facts))?;
            t.set_applied_batch(applied)
        })?;
        Ok(())
    }

    /// Step 2: what is not as expected becomes a failure.
    fn prepare(
        &self,
        batch: u64,
        staged: Vec<Staged>,
        failures: &mut Vec<Failure>,
    ) -> Result<Vec<Action>, ApplyError> {
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
                Staged::Inside { path, entry } => actions.push(Action::Inside { path, entry }),
                Staged::Link { number, path, leader } => {
                    actions.push(Action::Link { number, path, leader });
                }
                Staged::Remove { number, path, expected } => {
                    let record = reader.get(&path)?;
                    if record.as_ref().is_some_and(|r| r.entry.digest() != expected) {
                        fail(path, FailureKind::Refused, "it is not what the source takes it for");
                        continue;
                    }
                    let there = parents
                        .stat(&path)
                        .map_err(Self::disk(batch, ApplyStep::Prepare, &path))?;
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
                    let there = parents
                        .stat(&from)
                        .map_err(Self::disk(batch, ApplyStep::Prepare, &from))?;
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
                    let there = parents
                        .stat(&path)
                        .map_err(Self::disk(batch, ApplyStep::Prepare, &path))?;
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
        Ok(actions)
    }

    /// Steps 4 to 7.
    fn finish(
        &self,
        intent: &Intent,
        recipes: &HashMap<FileDigest, Recipe>,
        failures: &mut Vec<Failure>,
        degraded: &mut Degraded,
    ) -> Result<(), ApplyError> {
        let batch = intent.batch;
        let root = RelPath::root();
        let disk = |step| Self::disk(batch, step, &root);
        let reader = self.catalog.reader()?;
        let mut perform = Perform::open(self, &reader, intent)?;
        perform.run()?;
        let Perform { failed, degraded: counted, .. } = perform;
        degraded.merge(&counted);
        self.storage.sync_all().map_err(disk(ApplyStep::SyncTree))?;
        let records = self.look_again(intent, &reader, &failed)?;
        let history = self.displaced(intent, &reader)?;
        drop(reader);
        self.commit(intent, records, history, recipes, &failed)?;
        failures.extend(failed.into_values());
        self.clean_up(batch)
    }

    fn clean_up(&self, batch: u64) -> Result<(), ApplyError> {
        let disk = Self::disk(batch, ApplyStep::CleanUp, &RelPath::root());
        journal::clear(self.storage, self.own, batch).map_err(&disk)?;
        remove_tree(self.storage, &self.own.staging, folder_name(batch).as_bytes()).map_err(&disk)
    }

    /// The records the catalog will have: entries with the facts their inodes have now. What somebody
    /// else put there meanwhile has no facts of ours, so that the next check looks at it.
    fn look_again(
        &self,
        intent: &Intent,
        reader: &CatalogReader,
        failed: &BTreeMap<RelPath, Failure>,
    ) -> Result<BTreeMap<RelPath, Record>, ApplyError> {
        let mut entries: BTreeMap<RelPath, Entry> = BTreeMap::new();
        let mut touched: BTreeSet<RelPath> = BTreeSet::new();
        for action in &intent.actions {
            let path = action.path();
            if failed.contains_key(path) {
                continue;
            }
            touched.extend(path.split().map(|(parent, _)| parent));
            match action {
                Action::Place { entry, .. } | Action::Inside { entry, .. } | Action::Meta { entry, .. } => {
                    entries.insert(path.clone(), entry.clone());
                }
                Action::Link { leader, .. } => {
                    entries.insert(path.clone(), Entry::HardLink { leader: leader.clone() });
                    // Its change time moved with its number of names.
                    touched.insert(leader.clone());
                }
                Action::Lift { .. } | Action::RemoveFile { .. } | Action::RemoveDirectory { .. } => {}
            }
        }
        let mut parents = Parents::new(self.storage);
        let mut records = BTreeMap::new();
        let mut stat = |path: &RelPath| {
            parents.stat(path).map_err(Self::disk(intent.batch, ApplyStep::SyncTree, path))
        };
        touched.retain(|path| !entries.contains_key(path));
        for path in touched {
            let Some(record) = reader.get(&path)? else { continue };
            let Some(stat) = stat(&path)? else { continue };
            let facts = record.facts.and_then(|f| still_ours(&record.entry, &f, &stat));
            records.insert(path, Record { entry: record.entry, facts });
        }
        for (path, entry) in entries {
            // Gone: a directory above was removed in this batch, or somebody else was here.
            let Some(stat) = stat(&path)? else { continue };
            let facts = is_as_made(&entry, &stat).then(|| LocalFacts::of(&stat));
            records.insert(path, Record { entry, facts });
        }
        Ok(records)
    }

    /// What stands in this batch's history set: by number, what it was.
    fn displaced(
        &self,
        intent: &Intent,
        reader: &CatalogReader,
    ) -> Result<Vec<(u32, HistoryRecord)>, ApplyError> {
        let disk = Self::disk(intent.batch, ApplyStep::Perform, &RelPath::root());
        let name = set_name(intent.batch);
        let set = match self.storage.open_directory(&self.own.history, name.as_bytes()) {
            Ok(set) => set,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(disk(e)),
        };
        let mut numbers = HashSet::new();
        self.storage
            .list(&set, &mut |l| {
                numbers.extend(std::str::from_utf8(l.name).ok().and_then(|n| n.parse::<u32>().ok()));
            })
            .map_err(&disk)?;
        let mut out = Vec::new();
        for action in &intent.actions {
            let (number, path) = match action {
                Action::RemoveFile { number, path, .. }
                | Action::Place { number, path, .. }
                | Action::Link { number, path, .. } => (*number, path),
                _ => continue,
            };
            if numbers.contains(&number) {
                let entry = reader.get(path)?.map(|r| r.entry);
                out.push((number, HistoryRecord { path: path.clone(), entry }));
            }
        }
        Ok(out)
    }

    fn commit(
        &self,
        intent: &Intent,
        records: BTreeMap<RelPath, Record>,
        history: Vec<(u32, HistoryRecord)>,
        recipes: &HashMap<FileDigest, Recipe>,
        failed: &BTreeMap<RelPath, Failure>,
    ) -> Result<(), ApplyError> {
        let batch = intent.batch;
        let kept = HistorySet {
            time_unix_ms: (self.now_ms)(),
            bytes: history.iter().filter_map(|(_, r)| r.entry.as_ref()).map(Entry::size).sum(),
            versions: history.len() as u64,
        };
        self.catalog.update(Durability::Immediate, |t| {
            for action in &intent.actions {
                if failed.contains_key(action.path()) {
                    continue;
                }
                match action {
                    Action::Lift { from, .. } => {
                        t.remove(from)?;
                    }
                    Action::RemoveFile { path, .. } | Action::RemoveDirectory { path, .. } => {
                        t.remove_below(path)?;
                        t.remove(path)?;
                    }
                    _ => {}
                }
            }
            for (path, record) in &records {
                let replaced = record.entry.kind() != EntryKind::Directory
                    && t.get(path)?.is_some_and(|r| r.entry.kind() == EntryKind::Directory);
                if replaced {
                    t.remove_below(path)?;
                }
                t.put(path, record)?;
            }
            for (content, recipe) in recipes {
                t.put_recipe(content, recipe)?;
            }
            for (number, record) in &history {
                t.put_history(HistoryId { set: batch, number: *number }, record)?;
            }
            if !history.is_empty() {
                t.put_history_set(batch, &kept)?;
            }
            t.set_applied_batch(batch)
        })?;
        Ok(())
    }

    /// Removes kept versions older than `max_age_ms`, and the oldest while all together exceed
    /// `max_bytes`. Answers how many sets went.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub fn prune_history(&self, max_age_ms: i64, max_bytes: u64) -> Result<u64, ApplyError> {
        let sets = self.catalog.reader()?.history_sets()?;
        let mut bytes: u64 = sets.iter().map(|(_, s)| s.bytes).sum();
        let now = (self.now_ms)();
        let mut pruned = 0;
        for (set, facts) in sets {
            if now.saturating_sub(facts.time_unix_ms) <= max_age_ms && bytes <= max_bytes {
                break;
            }
            // The catalog forgets first: what it names is there.
            self.catalog.update(Durability::Immediate, |t| t.remove_history_set(set))?;
            remove_tree(self.storage, &self.own.history, set_name(set).as_bytes())
                .map_err(Self::disk(set, ApplyStep::CleanUp, &RelPath::root()))?;
            bytes = bytes.saturating_sub(facts.bytes);
            pruned += 1;
        }
        Ok(pruned)
    }
}

/// The facts of what this batch touched but did not make: a directory written in, a file given a
/// further name. `None` when it is not what was recorded.
fn still_ours(entry: &Entry, recorded: &LocalFacts, there: &Stat) -> Option<LocalFacts> {
    let now = LocalFacts::of(there);
    let same = (now.inode, now.size, now.owner_mode)
        == (recorded.inode, recorded.size, recorded.owner_mode);
    // A directory's own time was set again by this batch.
    let is_directory = entry.kind() == EntryKind::Directory;
    let time = is_directory || now.mtime == recorded.mtime;
    let kind = is_directory == (there.kind == FileKind::Directory);
    (same && time && kind).then_some(now)
}

/// Whether what stands there is what this batch made of `entry`, as far as a look tells; mounts may
/// keep times in whole seconds.
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
    let time = entry.meta().is_none_or(|m| m.mtime.seconds == there.mtime.seconds);
    there.kind == kind && size && time
}

/// Whether what stands there has the content the catalog recorded; a further name or an ordinary
/// move changes the change time alone.
fn same_content(record: &Record, there: &Stat) -> bool {
    let now = LocalFacts::of(there);
    record.facts.is_some_and(|f| (f.inode, f.size, f.mtime) == (now.inode, now.size, now.mtime))
}

/// Opens the parent of a path, keeping the last one open.
struct Parents<'s, S: Storage> {
    storage: &'s S,
    last: Option<(RelPath, S::Directory)>,
}

impl<'s, S: Storage> Parents<'s, S> {
    fn new(storage: &'s S) -> Self {
        Self { storage, last: None }
    }

    /// The tree's shape changed: nothing open is trusted.
    fn forget(&mut self) {
        self.last = None;
    }

    fn open(&mut self, parent: &RelPath) -> io::Result<&S::Directory> {
        if self.last.as_ref().is_none_or(|(p, _)| p != parent) {
            let opened = self.storage.open_directory(self.storage.root(), parent.as_bytes())?;
            self.last = Some((parent.clone(), opened));
        }
        match &self.last {
            Some((_, directory)) => Ok(directory),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Facts at `path`; `None` when nothing is there.
    fn stat(&mut self, path: &RelPath) -> io::Result<Option<Stat>> {
        let storage = self.storage;
        let stat = match path.split() {
            None => storage.stat(Object::Directory(storage.root())),
            Some((parent, name)) => {
                self.open(&parent).and_then(|d| storage.stat(Object::Named(d, name)))
            }
        };
        match stat {
            Ok(stat) => Ok(Some(stat)),
            Err(e) if is_absent(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

fn is_absent(e: &io::Error) -> bool {
    use rustix::io::Errno;
    let absent = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP];
    e.raw_os_error().is_some_and(|raw| absent.iter().any(|a| a.raw_os_error() == raw))
}

/// Step 4 for one batch.
struct Perform<'p, 'a, S: Storage> {
    applier: &'p Applier<'a, S>,
    reader: &'p CatalogReader,
    intent: &'p Intent,
    /// The batch's staging folder, if it is still there.
    staging: Option<S::Directory>,
    history: Option<S::Directory>,
    parents: Parents<'p, S>,
    failed: BTreeMap<RelPath, Failure>,
    degraded: Degraded,
}

impl<'p, 'a, S: Storage> Perform<'p, 'a, S> {
    fn open(
        applier: &'p Applier<'a, S>,
        reader: &'p CatalogReader,
        intent: &'p Intent,
    ) -> Result<Self, ApplyError> {
        let name = folder_name(intent.batch);
        let staging = match applier.storage.open_directory(&applier.own.staging, name.as_bytes()) {
            Ok(folder) => Some(folder),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(source) => {
                let (batch, path) = (intent.batch, RelPath::root());
                return Err(ApplyError::Disk { batch, step: ApplyStep::Perform, path, source });
            }
        };
        Ok(Self {
            applier,
            reader,
            intent,
            staging,
            history: None,
            parents: Parents::new(applier.storage),
            failed: BTreeMap::new(),
            degraded: Degraded::default(),
        })
    }

    fn run(&mut self) -> Result<(), ApplyError> {
        let intent = self.intent;
        self.each(|a| matches!(a, Action::Lift { .. }), Self::lift)?;
        self.sync_lifted()?;
        self.each(|a| matches!(a, Action::RemoveFile { .. }), Self::remove_file)?;
        self.parents.forget();
        self.each(|a| matches!(a, Action::Place { .. }), Self::place)?;
        self.fail_dependents();
        self.parents.forget();
        self.each(|a| matches!(a, Action::Link { .. }), Self::link)?;
        let is_file_meta = |a: &Action| {
            matches!(a, Action::Meta { entry, .. } if entry.kind() != EntryKind::Directory)
        };
        self.each(is_file_meta, Self::meta)?;
        // They come deepest first from the source.
        self.each(|a| matches!(a, Action::RemoveDirectory { .. }), Self::remove_directory)?;
        self.parents.forget();
        self.directories(intent)
    }

    fn each(
        &mut self,
        select: impl Fn(&Action) -> bool,
        act: impl Fn(&mut Self, &Action) -> io::Result<()>,
    ) -> Result<(), ApplyError> {
        let intent = self.intent;
        for action in intent.actions.iter().filter(|a| select(a)) {
            if let Err(source) = act(self, action) {
                self.fail(action.path(), source)?;
            }
        }
        Ok(())
    }

    /// One operation is refused, or the file system fails as a whole.
    fn fail(&mut self, path: &RelPath, source: io::Error) -> Result<(), ApplyError> {
        if is_fatal(&source) {
            let (batch, path) = (self.intent.batch, path.clone());
            return Err(ApplyError::Disk { batch, step: ApplyStep::Perform, path, source });
        }
        let failure = Failure {
            path: path.clone(),
            kind: FailureKind::Refused,
            text: source.to_string(),
        };
        self.failed.insert(path.clone(), failure);
        Ok(())
    }

    /// What could not be lifted did not arrive, and what came within a directory that could not be
    /// placed did not come either: none of it may be acknowledged.
    fn fail_dependents(&mut self) {
        if self.failed.is_empty() {
            return;
        }
        let mut not_lifted = HashSet::new();
        // A directory stands before what is in it, a lift before its place.
        for action in &self.intent.actions {
            let (path, text) = match action {
                Action::Lift { number, from, .. } if self.failed.contains_key(from) => {
                    not_lifted.insert(*number);
                    continue;
                }
                Action::Place { number, path, .. } if not_lifted.contains(number) => {
                    (path, "it could not be moved")
                }
                Action::Inside { path, .. }
                    if path.split().is_some_and(|(p, _)| self.failed.contains_key(&p)) =>
                {
                    (path, "the directory it came in could not be placed")
                }
                _ => continue,
            };
            let (kind, text) = (FailureKind::Refused, text.into());
            self.failed.entry(path.clone()).or_insert(Failure { path: path.clone(), kind, text });
        }
    }

    fn staged_stat(&self, name: &[u8]) -> io::Result<Option<Stat>> {
        let Some(staging) = &self.staging else { return Ok(None) };
        match self.applier.storage.stat(Object::Named(staging, name)) {
            Ok(stat) => Ok(Some(stat)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn history(&mut self) -> io::Result<&S::Directory> {
        if self.history.is_none() {
            let (storage, own) = (self.applier.storage, self.applier.own);
            let set = own.history_set(storage, self.intent.batch)?;
            // The record says which number was at which path, even without a catalog.
            let name = set_name(self.intent.batch);
            drop(storage.link(&own.journal, name.as_bytes(), &set, b"manifest"));
            self.history = Some(set);
        }
        self.history.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn lift(&mut self, action: &Action) -> io::Result<()> {
        let Action::Lift { number, from, inode, entry } = action else { return Ok(()) };
        let storage = self.applier.storage;
        let staged = number.to_string();
        let Some((parent, name)) = from.split() else { return Ok(()) };
        if self.parents.stat(from)?.is_some_and(|s| s.inode == *inode) {
            let staging = self.staging.as_ref().ok_or(io::ErrorKind::NotFound)?;
            let at = self.parents.open(&parent)?;
            storage.rename(at, name, staging, staged.as_bytes())?;
        }
        let Some(stat) = self.staged_stat(staged.as_bytes())? else { return Ok(()) };
        let staging = self.staging.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let object = Object::Named(staging, staged.as_bytes());
        set_entry_metadata(storage, object, &stat, entry, &mut self.degraded)
    }

    /// What was lifted is durable in staging before anything takes its name.
    fn sync_lifted(&self) -> Result<(), ApplyError> {
        let lifted = |a: &Action| matches!(a, Action::Lift { .. });
        let from: HashSet<&RelPath> =
            self.intent.actions.iter().filter(|a| lifted(a)).map(Action::path).collect();
        let mut others = self.intent.actions.iter().filter(|a| !lifted(a)).map(Action::path);
        if from.is_empty() || !others.any(|path| from.contains(path)) {
            return Ok(());
        }
        let batch = self.intent.batch;
        let failed = Applier::<S>::disk(batch, ApplyStep::Perform, &RelPath::root());
        self.applier.storage.sync_all().map_err(failed)
    }

    fn remove_file(&mut self, action: &Action) -> io::Result<()> {
        let Action::RemoveFile { number, path, inode } = action else { return Ok(()) };
        let storage = self.applier.storage;
        if self.parents.stat(path)?.is_none_or(|s| s.inode != *inode) {
            return Ok(());
        }
        let Some((parent, name)) = path.split() else { return Ok(()) };
        self.history()?;
        let at = self.parents.open(&parent)?;
        let history = self.history.as_ref().ok_or(io::ErrorKind::NotFound)?;
        storage.rename(at, name, history, number.to_string().as_bytes())
    }

    fn place(&mut self, action: &Action) -> io::Result<()> {
        let Action::Place { number, path, .. } = action else { return Ok(()) };
        let staged = number.to_string();
        let Some(object) = self.staged_stat(staged.as_bytes())? else { return Ok(()) };
        self.displace_and_rename(*number, path, staged.as_bytes(), &object)?;
        if object.kind == FileKind::Directory {
            self.parents.forget();
        }
        Ok(())
    }

    /// Gives what stands at `path` a name in history, then puts the staged object in its place: for
    /// files with one rename, so that the path always holds one or the other.
    fn displace_and_rename(
        &mut self,
        number: u32,
        path: &RelPath,
        staged: &[u8],
        object: &Stat,
    ) -> io::Result<()> {
        let storage = self.applier.storage;
        let Some((parent, name)) = path.split() else { return Ok(()) };
        let number = number.to_string();
        if let Some(old) = self.parents.stat(path)? {
            self.history()?;
            let at = self.parents.open(&parent)?;
            let history = self.history.as_ref().ok_or(io::ErrorKind::NotFound)?;
            let swaps_files =
                old.kind != FileKind::Directory && object.kind != FileKind::Directory;
            let linked = if swaps_files {
                match storage.link(at, name, history, number.as_bytes()) {
                    Ok(()) => true,
                    Err(e) => e.kind() == io::ErrorKind::AlreadyExists,
                }
            } else {
                false
            };
            if !linked {
                storage.rename(at, name, history, number.as_bytes())?;
            }
        }
        let at = self.parents.open(&parent)?;
        let staging = self.staging.as_ref().ok_or(io::ErrorKind::NotFound)?;
        storage.rename(staging, staged, at, name)
    }

    fn link(&mut self, action: &Action) -> io::Result<()> {
        let Action::Link { number, path, leader } = action else { return Ok(()) };
        let storage = self.applier.storage;
        let Some(first) = self.parents.stat(leader)? else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "its first name is not here"));
        };
        if self.parents.stat(path)?.is_some_and(|s| s.inode == first.inode) {
            return Ok(());
        }
        let Some((parent, name)) = leader.split() else { return Ok(()) };
        let staged = format!("l{number}");
        let staging = self.staging.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let at = self.parents.open(&parent)?;
        match storage.link(at, name, staging, staged.as_bytes()) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        self.displace_and_rename(*number, path, staged.as_bytes(), &first)
    }

    fn meta(&mut self, action: &Action) -> io::Result<()> {
        let Action::Meta { path, entry } = action else { return Ok(()) };
        let storage = self.applier.storage;
        let Some(stat) = self.parents.stat(path)? else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let object = match path.split() {
            None => Object::Directory(storage.root()),
            Some((parent, name)) => {
                let at = self.parents.open(&parent)?;
                return set_entry_metadata(
                    storage,
                    Object::Named(at, name),
                    &stat,
                    entry,
                    &mut self.degraded,
                );
            }
        };
        set_entry_metadata(storage, object, &stat, entry, &mut self.degraded)
    }

    fn remove_directory(&mut self, action: &Action) -> io::Result<()> {
        let Action::RemoveDirectory { path, .. } = action else { return Ok(()) };
        let storage = self.applier.storage;
        let Some((parent, name)) = path.split() else { return Ok(()) };
        // It may itself be the parent kept open.
        let removed = match self.parents.open(&parent) {
            Ok(at) => storage.remove_directory(at, name),
            Err(e) => Err(e),
        };
        match removed {
            Err(e) if is_absent(&e) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => Err(io::Error::new(
                io::ErrorKind::DirectoryNotEmpty,
                "the directory holds entries that do not replicate",
            )),
            done => done,
        }
    }

    /// Metadata of the directories that came or changed, and the times of all that were written in,
    /// deepest first: a directory may be closed to us after its own.
    fn directories(&mut self, intent: &Intent) -> Result<(), ApplyError> {
        let mut wanted: BTreeMap<RelPath, Option<Entry>> = BTreeMap::new();
        for action in &intent.actions {
            let path = action.path();
            if let Some((parent, _)) = path.split() {
                wanted.entry(parent).or_insert(None);
            }
            if let Action::Place { entry, .. } | Action::Inside { entry, .. } | Action::Meta { entry, .. } =
                action
                && entry.kind() == EntryKind::Directory
                && !self.failed.contains_key(path)
            {
                wanted.insert(path.clone(), Some(entry.clone()));
            }
        }
        let reader = self.reader;
        for (path, entry) in wanted.into_iter().rev() {
            let (entry, whole) = match entry {
                Some(entry) => (Some(entry), true),
                None => (reader.get(&path)?.map(|r| r.entry), false),
            };
            let Some(entry) = entry.filter(|e| e.kind() == EntryKind::Directory) else { continue };
            if let Err(source) = self.directory(&path, &entry, whole) {
                self.fail(&path, source)?;
            }
        }
        Ok(())
    }

    fn directory(&mut self, path: &RelPath, entry: &Entry, whole: bool) -> io::Result<()> {
        let storage = self.applier.storage;
        let opened = match path.split() {
            None => None,
            Some(_) => match storage.open_directory(storage.root(), path.as_bytes()) {
                Ok(opened) => Some(opened),
                Err(e) if !whole && is_absent(&e) => return Ok(()),
                Err(e) => return Err(e),
            },
        };
        let object = Object::Directory(opened.as_ref().unwrap_or_else(|| storage.root()));
        if whole {
            let stat = storage.stat(object)?;
            return set_entry_metadata(storage, object, &stat, entry, &mut self.degraded);
        }
        match entry.meta() {
            Some(meta) => storage.set_mtime(object, meta.mtime),
            None => Ok(()),
        }
    }
}

/// Sets what differs from `entry` on an object that stands already.
fn set_entry_metadata<S: Storage>(
    storage: &S,
    object: Object<'_, S>,
    stat: &Stat,
    entry: &Entry,
    degraded: &mut Degraded,
) -> io::Result<()> {
    let Some(wanted) = entry.meta() else { return Ok(()) };
    let pairs = storage.xattrs(object)?;
    let xattrs = Xattrs::new(pairs).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    let present = Present { owner: (stat.uid, stat.gid), mode: Some(stat.mode), xattrs: &xattrs };
    apply_metadata(storage, object, stat.kind, wanted, present, degraded)
}

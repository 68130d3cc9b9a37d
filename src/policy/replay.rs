//! What a change of policy would do, seen on a tree or on what a standby has.
//!
//! Guarantees: nothing is changed; a tree is walked as a run walks it, by directory handles, and what
//! both policies exclude is not entered, as by a run. Counts are exact; of the paths that change, the
//! first are kept; memory grows with them and with excluded directories, not with the tree. What a policy turns to exclude is not deleted at the standby: it is detached, and
//! stays as it was.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use farshore_core::entry::{Entry, EntryKind};
use farshore_core::path::RelPath;
use farshore_core::policy::{Action, Candidate, Policy, Verdict};
use farshore_engine::OWN_FOLDER;
use farshore_engine::catalog::{CatalogError, CatalogReader};
use farshore_engine::io::Storage;
use farshore_engine::scan::{ScanEvent, candidate, scan};

use super::facts::Facts;

/// Entries asked about at once.
const BATCH: usize = 4_096;
/// Changed paths that are kept.
const KEPT: usize = 100_000;

/// What becomes of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fate {
    /// It travels.
    Travels,
    /// It stays here.
    Stays,
    /// It waits until it is whole.
    Waits,
}

impl Fate {
    fn of(action: Action) -> Self {
        match action {
            Action::Replicate => Self::Travels,
            Action::Exclude => Self::Stays,
            Action::Defer => Self::Waits,
        }
    }
}

/// Entries, and bytes of their content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amount {
    /// How many.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Amount {
    fn add(&mut self, bytes: u64) {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// One path that fares otherwise than before.
#[derive(Debug, Clone)]
pub struct Change {
    /// Where.
    pub path: RelPath,
    /// What became of it.
    pub before: Fate,
    /// What would become of it.
    pub after: Fate,
    /// The rule that decides: of the path itself, or of a directory above it.
    pub rule: Option<u32>,
    /// The directory above it that does not travel.
    pub below: Option<RelPath>,
}

/// What would change.
#[derive(Debug, Default)]
pub struct Replay {
    /// All that was looked at, the root not counted.
    pub seen: Amount,
    /// By what became and would become of it.
    pub by_change: BTreeMap<(Fate, Fate), Amount>,
    /// By the rule that decides now; what is below an excluded directory counts for its rule.
    pub by_rule: BTreeMap<u32, Amount>,
    /// The first paths that change.
    pub changes: Vec<Change>,
    /// What could not be read.
    pub unknown: Vec<(RelPath, String)>,
}

impl Replay {
    /// How much fares as said.
    #[must_use]
    pub fn amount(&self, before: Fate, after: Fate) -> Amount {
        self.by_change.get(&(before, after)).copied().unwrap_or_default()
    }

    /// Entries that fare otherwise.
    #[must_use]
    pub fn changed(&self) -> u64 {
        let changed = self.by_change.iter().filter(|((before, after), _)| before != after);
        changed.map(|(_, amount)| amount.entries).sum()
    }
}

/// The policy in force and the one that is to be.
#[derive(Clone, Copy)]
pub struct Both<'a> {
    /// In force.
    pub before: &'a dyn Policy,
    /// To be.
    pub after: &'a dyn Policy,
}

impl std::fmt::Debug for Both<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Both").finish_non_exhaustive()
    }
}

/// Walks the tree below `storage`'s root.
#[must_use]
pub fn tree<S: Storage>(both: Both<'_>, storage: &S, threads: usize) -> Replay {
    let walker = Walker { both, directories: Mutex::default() };
    let mut join = Join::new(both);
    let ended = scan(storage, &walker, OWN_FOLDER, threads, &mut |event| {
        match event {
            ScanEvent::Entry { path, stat } => {
                if !path.is_root() {
                    let path = path.to_path();
                    let verdicts = walker.take(&path);
                    let facts = Facts::seen(&candidate(&path, stat));
                    join.entry(facts, verdicts);
                }
            }
            ScanEvent::Excluded { path, .. } => {
                let verdicts = walker.take(&path);
                join.entry(Facts::of(path, EntryKind::Directory), verdicts);
            }
            ScanEvent::Unknown { path, step, source } => {
                join.replay.unknown.push((path, format!("{step}: {source}")));
            }
        }
        Ok::<(), std::convert::Infallible>(())
    });
    match ended {
        Ok(_) => join.finish(),
        Err(never) => match never {},
    }
}

/// Goes through what a catalog holds: what the standby has by the last run.
///
/// # Errors
/// [`CatalogError`].
pub fn catalog(both: Both<'_>, reader: &CatalogReader) -> Result<Replay, CatalogError> {
    let mut join = Join::new(both);
    let mut rows = reader.rows()?;
    while let Some(row) = rows.take()? {
        let (path, record) = (row.path()?, row.record()?);
        if path.is_root() {
            continue;
        }
        let mut facts = Facts::of(path, record.entry.kind());
        let leader = match &record.entry {
            Entry::HardLink { leader } => reader.get(leader)?.map(|record| record.entry),
            _ => None,
        };
        let entry = leader.as_ref().unwrap_or(&record.entry);
        if let Some(meta) = entry.meta() {
            (facts.mode, facts.uid, facts.gid) = (meta.mode, meta.uid, meta.gid);
            facts.mtime = meta.mtime;
        }
        facts.size = entry.size();
        if facts.kind == EntryKind::HardLink {
            facts.kind = EntryKind::File;
        }
        join.entry(facts, None);
    }
    Ok(join.finish())
}

/// The verdicts of both.
type Pair = (Verdict, Verdict);

/// Decides what the walk enters: asks about directories alone, and keeps the answers.
struct Walker<'a> {
    both: Both<'a>,
    directories: Mutex<HashMap<RelPath, Pair>>,
}

impl Walker<'_> {
    fn take(&self, path: &RelPath) -> Option<Pair> {
        self.directories.lock().unwrap_or_else(PoisonError::into_inner).remove(path)
    }
}

impl Policy for Walker<'_> {
    fn exclude(&self, candidates: &[Candidate<'_>]) -> Vec<Verdict> {
        let is_directory = |c: &Candidate<'_>| c.kind == EntryKind::Directory && !c.path.is_root();
        let asked: Vec<_> = candidates.iter().copied().filter(is_directory).collect();
        let mut verdicts = vec![Verdict::REPLICATE; candidates.len()];
        if asked.is_empty() {
            return verdicts;
        }
        let pairs =
            self.both.before.exclude(&asked).into_iter().zip(self.both.after.exclude(&asked));
        let places = (0..candidates.len()).filter(|index| is_directory(&candidates[*index]));
        let mut directories = self.directories.lock().unwrap_or_else(PoisonError::into_inner);
        for (place, (before, after)) in places.zip(pairs) {
            if before.action != Action::Replicate && after.action != Action::Replicate {
                verdicts[place] = after;
            }
            directories.insert(candidates[place].path.clone(), (before, after));
        }
        verdicts
    }

    fn rules(&self) -> Vec<String> {
        self.both.after.rules()
    }
}

/// The directory above an entry that does not travel, why, and by which rule.
type Root = Arc<(RelPath, Fate, Option<u32>)>;
type Above = Option<Root>;

/// An entry that waits to be asked about, with what is above it before and after.
struct Waiting {
    facts: Facts,
    above: [Above; 2],
}

/// Entries, directories before what is in them, and what both policies make of them.
struct Join<'a> {
    /// Before and after.
    policies: [&'a dyn Policy; 2],
    replay: Replay,
    waiting: Vec<Waiting>,
    /// Directories that are excluded, or below one that is, before and after.
    excluded: [HashMap<RelPath, Root>; 2],
}

impl<'a> Join<'a> {
    fn new(both: Both<'a>) -> Self {
        let policies = [both.before, both.after];
        let (replay, excluded) = (Replay::default(), Default::default());
        Self { policies, replay, waiting: Vec::new(), excluded }
    }

    /// The next entry, with the verdicts if they are known: then it is a directory.
    fn entry(&mut self, facts: Facts, verdicts: Option<Pair>) {
        let parent = facts.path.split().map(|(parent, _)| parent);
        let above = [0, 1].map(|side: usize| {
            parent.as_ref().and_then(|parent| self.excluded[side].get(parent).cloned())
        });
        if facts.kind != EntryKind::Directory && verdicts.is_none() {
            self.waiting.push(Waiting { facts, above });
            if self.waiting.len() >= BATCH {
                self.ask();
            }
            return;
        }
        let known = verdicts.map(|(before, after)| [before, after]);
        let verdicts = [0, 1].map(|side: usize| match (&above[side], known) {
            (Some(_), _) => Verdict::REPLICATE,
            (None, Some(known)) => known[side],
            (None, None) => {
                let verdict = self.policies[side].exclude(&[facts.candidate()]).pop();
                verdict.unwrap_or(Verdict::REPLICATE)
            }
        });
        for side in [0, 1] {
            let verdict = verdicts[side];
            let root = match &above[side] {
                Some(root) => Arc::clone(root),
                None if verdict.action != Action::Replicate => {
                    Arc::new((facts.path.clone(), Fate::of(verdict.action), verdict.rule))
                }
                None => continue,
            };
            self.excluded[side].insert(facts.path.clone(), root);
        }
        self.count(&facts, &above, verdicts);
    }

    /// Asks about what waits.
    fn ask(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        let [before, after] = [0, 1].map(|side: usize| {
            let open = |w: &&Waiting| w.above[side].is_none();
            let asked: Vec<_> = waiting.iter().filter(open).map(|w| w.facts.candidate()).collect();
            let mut verdicts = self.policies[side].exclude(&asked).into_iter();
            let all = waiting.iter().map(|w| match w.above[side] {
                Some(_) => Verdict::REPLICATE,
                None => verdicts.next().unwrap_or(Verdict::REPLICATE),
            });
            all.collect::<Vec<_>>()
        });
        for ((waiting, before), after) in waiting.iter().zip(before).zip(after) {
            self.count(&waiting.facts, &waiting.above, [before, after]);
        }
    }

    fn count(&mut self, facts: &Facts, above: &[Above; 2], verdicts: [Verdict; 2]) {
        let [before, after] = [0, 1].map(|side: usize| match &above[side] {
            Some(root) => root.1,
            None => Fate::of(verdicts[side].action),
        });
        let rule = above[1].as_ref().map_or(verdicts[1].rule, |above| above.2);
        let replay = &mut self.replay;
        replay.seen.add(facts.size);
        replay.by_change.entry((before, after)).or_default().add(facts.size);
        if let Some(rule) = rule {
            replay.by_rule.entry(rule).or_default().add(facts.size);
        }
        if before != after && replay.changes.len() < KEPT {
            let below = above[1].as_ref().map(|above| above.0.clone());
            replay.changes.push(Change { path: facts.path.clone(), before, after, rule, below });
        }
    }

    fn finish(mut self) -> Replay {
        self.ask();
        self.replay.changes.sort_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
        self.replay
    }
}

#[cfg(test)]
mod tests;

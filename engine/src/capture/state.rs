//! The set of what waits, as a machine that is fed steps: live ones and those of a journal alike.
//!
//! Pure: no clock, no disk, no lock. Guarantees: a mark is waiting or in flight from the moment it is
//! made until a taking that holds it is done; a mark made while the same directory is in flight waits
//! beside it.

use std::collections::{BTreeMap, BTreeSet};

use farshore_core::path::RelPath;

use super::announced::Announced;
use super::journal::{ReadBack, Record, Snapshot};
use super::keeper::Disbelief;
use super::ledger::WatchId;
use super::marks::{Bounds, Marked, Marks, Selection};

/// What is said of a share nothing was looked at yet.
const NEVER: &str = "nothing was looked at yet";
/// What is said when a watch begins, or a set is resumed.
const UNWATCHED: &str = "changes were not watched for a while";
/// What is said when a journal did not read back.
const DAMAGED: &str = "the journal of changes was damaged";

/// What is not known since a set was written last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gap {
    /// There was no journal.
    New,
    /// From this byte on it was not whole: what followed is not known.
    Damaged(usize),
    /// Nobody watched between then and now.
    Unwatched,
    /// What was watched between then and now is not believed.
    Disbelieved(Disbelief),
    /// Nothing: the kernel kept the events, and they are read.
    None,
}

/// What a resumed set began with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resumed {
    /// Why everything is to be looked at.
    pub gap: Gap,
    /// Directories known to wait, which go first.
    pub directories: usize,
    /// The last moment of which the journal knows; changes after it were not watched.
    pub last_ms: Option<i64>,
    /// The watch had been ended in order.
    pub ended: bool,
    /// The last complete look at everything, since which every change was announced: when it began, and how many
    /// milliseconds it took. Of a watch without a gap alone.
    pub looked: Option<(i64, u64)>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct State {
    pub(super) bounds: Bounds,
    pub(super) waiting: Marks,
    pub(super) in_flight: BTreeMap<u64, Marks>,
    pub(super) announced: Announced,
    next_id: u64,
    /// Watched from, or until, this moment.
    watch: Option<(bool, i64)>,
    /// By this watch, if it may be kept.
    pub(super) kept: Option<WatchId>,
    /// The last complete look at everything, since which every change was announced.
    looked: Option<(i64, u64)>,
    /// What the next process is to look at, whatever it is told; deep or not.
    owed: BTreeMap<RelPath, bool>,
    /// That is everything, and why.
    owed_whole: Option<String>,
    /// Marks made, repeated ones too.
    pub(super) marks: u64,
    /// Times directories were collapsed.
    pub(super) collapses: u64,
    /// Records for the journal; `None` for a set without one.
    pub(super) pending: Option<Vec<u8>>,
}

impl State {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            waiting: Marks::default(),
            in_flight: BTreeMap::new(),
            announced: Announced::default(),
            next_id: 1,
            watch: None,
            kept: None,
            looked: None,
            owed: BTreeMap::new(),
            owed_whole: None,
            marks: 0,
            collapses: 0,
            pending: None,
        }
    }

    /// What a journal tells. That nobody watched since, unless `kept` says that the kernel did, or why that is not
    /// believed.
    pub(super) fn resume(
        bounds: Bounds,
        read: Option<ReadBack>,
        kept: Option<Result<(), Disbelief>>,
        now_ms: i64,
    ) -> (Self, Resumed) {
        let gap = match (&read, kept) {
            (None, _) => Gap::New,
            // A frame that was cut off by a kill is nothing to a watch that was kept.
            (Some(_), Some(Ok(()))) => Gap::None,
            (Some(ReadBack { damaged_at: Some(at), .. }), _) => Gap::Damaged(*at),
            (Some(_), Some(Err(why))) => Gap::Disbelieved(why),
            (Some(_), None) => Gap::Unwatched,
        };
        let records = read.unwrap_or_default().records;
        // The accounts of the records are those of its own depth.
        let depth = match records.first() {
            Some(Record::Depth(depth)) => usize::try_from(*depth).unwrap_or(usize::MAX),
            _ => bounds.depth,
        };
        let mut old = Self::new(Bounds { depth, ..bounds });
        let mut last_ms = None;
        for record in &records {
            last_ms = last_ms.max(record_ms(record));
            old.replay(record);
        }
        let mut state = Self::new(bounds);
        state.waiting.merge(&old.waiting, bounds);
        for marks in old.in_flight.values() {
            state.waiting.merge(marks, bounds);
        }
        let since_ms = last_ms.unwrap_or(now_ms).min(now_ms);
        let why = match gap {
            Gap::New => Some(NEVER.to_owned()),
            Gap::Damaged(_) => Some(DAMAGED.to_owned()),
            Gap::Unwatched => Some(UNWATCHED.to_owned()),
            Gap::Disbelieved(why) => Some(why.to_string()),
            Gap::None => old.owed_whole.take(),
        };
        for (path, deep) in &old.owed {
            state.waiting.mark(path.as_bytes(), *deep, since_ms, bounds);
        }
        let mut looked = None;
        match why {
            Some(why) => {
                state.waiting.mark_whole(&why, since_ms);
            }
            None => {
                (state.kept, state.watch) = (old.kept, old.watch);
                looked = old.looked.filter(|_| state.waiting.whole().is_none());
                state.looked = looked;
            }
        }
        let directories = state.waiting.directories();
        let ended = old.watch.is_none_or(|(on, _)| !on);
        (state, Resumed { gap, directories, last_ms, ended, looked })
    }

    fn replay(&mut self, record: &Record<'_>) {
        match record {
            Record::Depth(_) => {}
            Record::Mark { path, deep, ms } => {
                self.mark(path, *deep, *ms);
            }
            Record::Whole { why, ms } => {
                self.mark_whole(why, *ms);
            }
            Record::Take { id, whole, accounts } => {
                let taken = self.waiting.split_off(*whole, accounts);
                // An id that comes twice is no id of ours; nothing is forgotten for it.
                let known = self.in_flight.insert(*id, taken);
                known.iter().for_each(|marks| {
                    self.waiting.merge(marks, self.bounds);
                });
                self.next_id = self.next_id.max(id.saturating_add(1));
            }
            Record::Done(id) => {
                self.done(*id);
            }
            Record::PutBack(id) => {
                self.put_back(*id);
            }
            Record::Watch { on, ms } => (self.watch, self.kept) = (Some((*on, *ms)), None),
            Record::Frame(_) => {}
            Record::Kept(id) => self.kept = Some(*id),
            Record::Looked { began_ms, took_ms } => self.looked = Some((*began_ms, *took_ms)),
            Record::Owed { path, deep } => {
                self.owed.insert(RelPath::new(&**path).unwrap_or_default(), *deep);
            }
            Record::Paid(path) => {
                self.owed.remove(&RelPath::new(&**path).unwrap_or_default());
            }
            Record::OwedWhole(why) => {
                self.owed_whole = Some(why.to_string()).filter(|why| !why.is_empty());
            }
        }
    }

    fn note(&mut self, record: &Record<'_>) {
        if let Some(pending) = &mut self.pending {
            record.encode(pending);
        }
    }

    /// Whether that is news.
    pub(super) fn mark(&mut self, path: &[u8], deep: bool, now_ms: i64) -> bool {
        self.marks += 1;
        self.announced.add(path, deep, self.bounds.depth);
        let marked = self.waiting.mark(path, deep, now_ms, self.bounds);
        self.collapses += u64::from(marked == Marked::Collapsed);
        let new = marked != Marked::Covered;
        if new {
            self.note(&Record::Mark { path: path.into(), deep, ms: now_ms });
        }
        new
    }

    /// Whether that is news.
    pub(super) fn mark_whole(&mut self, why: &str, now_ms: i64) -> bool {
        let new = self.waiting.mark_whole(why, now_ms);
        self.looked = None;
        if new {
            self.note(&Record::Whole { why: why.into(), ms: now_ms });
        }
        new
    }

    pub(super) fn take(
        &mut self,
        parts_only: bool,
        left_out: &BTreeSet<RelPath>,
        settled_before_ms: Option<i64>,
    ) -> Option<u64> {
        let selection = self.waiting.select(parts_only, left_out, settled_before_ms)?;
        Some(self.apply(&selection))
    }

    fn apply(&mut self, selection: &Selection) -> u64 {
        let Selection { whole, accounts, held } = selection;
        let id = self.next_id;
        self.next_id += 1;
        let taken = self.waiting.split_off(*whole, accounts);
        self.in_flight.insert(id, taken);
        self.note(&Record::Take { id, whole: *whole, accounts: accounts.into() });
        for (account, since_ms) in held {
            self.mark(account.as_bytes(), true, *since_ms);
            // Also when it waits already: in the journal it must not depend on what else did.
            self.note(&Record::Mark { path: account.as_bytes().into(), deep: true, ms: *since_ms });
        }
        id
    }

    /// Whether there was such a taking.
    pub(super) fn done(&mut self, id: u64) -> bool {
        let known = self.in_flight.remove(&id).is_some();
        if known {
            self.note(&Record::Done(id));
        }
        known
    }

    /// Whether there was such a taking.
    pub(super) fn put_back(&mut self, id: u64) -> bool {
        let Some(marks) = self.in_flight.remove(&id) else { return false };
        let outcome = self.waiting.merge(&marks, self.bounds);
        self.collapses += u64::from(outcome == Marked::Collapsed);
        self.note(&Record::PutBack(id));
        true
    }

    /// Events are complete from now on, and were not before.
    pub(super) fn watch_began(&mut self, now_ms: i64) {
        if self.waiting.whole().is_none() {
            let since_ms = self.watch.map_or(now_ms, |(_, ms)| ms.min(now_ms));
            self.mark_whole(UNWATCHED, since_ms);
        }
        (self.watch, self.kept) = (Some((true, now_ms)), None);
        self.note(&Record::Watch { on: true, ms: now_ms });
    }

    pub(super) fn watch_ended(&mut self, now_ms: i64) {
        (self.watch, self.kept) = (Some((false, now_ms)), None);
        self.note(&Record::Watch { on: false, ms: now_ms });
    }

    /// The watch that began may outlive the process, and is this one.
    pub(super) fn may_be_kept(&mut self, id: WatchId) {
        self.kept = Some(id);
        self.note(&Record::Kept(id));
    }

    /// A complete look at everything is over, and every change since it began was announced. It is not when
    /// everything waits to be looked at again.
    pub(super) fn looked(&mut self, began_ms: i64, took_ms: u64) {
        let is_known = |marks: &Marks| marks.whole().is_none();
        if is_known(&self.waiting) && self.in_flight.values().all(is_known) {
            self.looked = Some((began_ms, took_ms));
            self.note(&Record::Looked { began_ms, took_ms });
        }
    }

    /// What the next process is to look at is this, and nothing else. What is new is noted first: a crash in
    /// between leaves more, not less.
    pub(super) fn owe(&mut self, owed: BTreeMap<RelPath, bool>, whole: Option<&str>) {
        if self.owed_whole.as_deref() != whole {
            self.owed_whole = whole.map(str::to_owned);
            self.note(&Record::OwedWhole(whole.unwrap_or_default().into()));
        }
        for (path, deep) in &owed {
            if self.owed.get(path) != Some(deep) {
                self.note(&Record::Owed { path: path.as_bytes().into(), deep: *deep });
            }
        }
        let former = std::mem::replace(&mut self.owed, owed);
        for path in former.keys() {
            if !self.owed.contains_key(path) {
                self.note(&Record::Paid(path.as_bytes().into()));
            }
        }
    }

    /// A look at everything begins: what is announced counts from here. What waits or is in flight was
    /// announced and will be found.
    pub(super) fn look_began(&mut self) {
        self.announced.clear();
        let depth = self.bounds.depth;
        for marks in self.in_flight.values().chain([&self.waiting]) {
            marks.all().for_each(|(path, deep, _)| self.announced.add(path, deep, depth));
        }
    }

    /// All of it, for a journal to begin with.
    pub(super) fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::new();
        snapshot.put(&Record::Depth(self.bounds.depth as u64));
        for (id, marks) in &self.in_flight {
            put_marks(&mut snapshot, marks);
            let accounts: Vec<RelPath> = marks.accounts().into_keys().collect();
            let whole = marks.whole().is_some();
            snapshot.put(&Record::Take { id: *id, whole, accounts: accounts.into() });
        }
        put_marks(&mut snapshot, &self.waiting);
        for (path, deep) in &self.owed {
            snapshot.put(&Record::Owed { path: path.as_bytes().into(), deep: *deep });
        }
        if let Some(why) = &self.owed_whole {
            snapshot.put(&Record::OwedWhole(why.into()));
        }
        if let Some((on, ms)) = self.watch {
            snapshot.put(&Record::Watch { on, ms });
        }
        if let Some(id) = self.kept {
            snapshot.put(&Record::Kept(id));
        }
        if let Some((began_ms, took_ms)) = self.looked {
            snapshot.put(&Record::Looked { began_ms, took_ms });
        }
        snapshot
    }
}

fn put_marks(snapshot: &mut Snapshot, marks: &Marks) {
    if let Some(whole) = marks.whole() {
        for why in &whole.reasons {
            snapshot.put(&Record::Whole { why: why.into(), ms: whole.since_ms });
        }
    }
    for (path, deep, ms) in marks.covering_last() {
        snapshot.put(&Record::Mark { path: path.into(), deep, ms });
    }
}

fn record_ms(record: &Record<'_>) -> Option<i64> {
    match record {
        Record::Mark { ms, .. } | Record::Whole { ms, .. } | Record::Watch { ms, .. } => Some(*ms),
        _ => None,
    }
}

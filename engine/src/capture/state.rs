//! The set of what waits, as a machine that is fed steps: live ones and those of a journal alike.
//!
//! Pure: no clock, no disk, no lock. Guarantees: a mark is waiting or in flight from the moment it is
//! made until a taking that holds it is done; a mark made while the same directory is in flight waits
//! beside it.

use std::collections::{BTreeMap, BTreeSet};

use farshore_core::path::RelPath;

use super::announced::Announced;
use super::journal::{ReadBack, Record, Snapshot};
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
            marks: 0,
            collapses: 0,
            pending: None,
        }
    }

    /// What a journal tells, and that nobody watched since.
    pub(super) fn resume(bounds: Bounds, read: Option<ReadBack>, now_ms: i64) -> (Self, Resumed) {
        let gap = match &read {
            None => Gap::New,
            Some(ReadBack { damaged_at: Some(at), .. }) => Gap::Damaged(*at),
            Some(_) => Gap::Unwatched,
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
            Gap::New => NEVER,
            Gap::Damaged(_) => DAMAGED,
            Gap::Unwatched => UNWATCHED,
        };
        state.waiting.mark_whole(why, since_ms);
        let directories = state.waiting.directories();
        let ended = old.watch.is_none_or(|(on, _)| !on);
        (state, Resumed { gap, directories, last_ms, ended })
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
            Record::Watch { on, ms } => self.watch = Some((*on, *ms)),
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
        self.watch = Some((true, now_ms));
        self.note(&Record::Watch { on: true, ms: now_ms });
    }

    pub(super) fn watch_ended(&mut self, now_ms: i64) {
        self.watch = Some((false, now_ms));
        self.note(&Record::Watch { on: false, ms: now_ms });
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
        if let Some((on, ms)) = self.watch {
            snapshot.put(&Record::Watch { on, ms });
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

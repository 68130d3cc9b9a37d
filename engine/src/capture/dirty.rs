//! [`DirtySet`]: what waits to be looked at, for as many threads as like.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use farshore_core::path::RelPath;

use super::journal::{self, JournalFile, ReadBack};
use super::keeper::Disbelief;
use super::ledger::Ledger;
use super::marks::Bounds;
use super::state::{Resumed, State};
use crate::plan::Scope;

/// Records are written when so many bytes of them have come together, flushed or not.
const PENDING_MAX: usize = 256 << 10;

/// How a set is kept.
#[derive(Debug, Clone, Copy)]
pub struct DirtyConfig {
    /// Components of an account's path below the share.
    pub account_depth: usize,
    /// Directories that wait one by one; beyond, accounts are collapsed.
    pub directories_max: usize,
    /// Bytes of their paths.
    pub bytes_max: usize,
    /// The journal is synced at most once in this time.
    pub sync_every: Duration,
}

impl Default for DirtyConfig {
    fn default() -> Self {
        Self {
            account_depth: 1,
            directories_max: 100_000,
            bytes_max: 64 << 20,
            sync_every: Duration::from_secs(1),
        }
    }
}

/// What of the waiting a taking takes.
#[derive(Debug, Clone, Default)]
pub struct TakeFilter {
    /// Directories alone: that everything is to be looked at goes on waiting.
    pub parts_only: bool,
    /// Accounts that go on waiting.
    pub left_out: BTreeSet<RelPath>,
    /// Accounts whose oldest mark is younger than this go on waiting. Not asked for the whole.
    pub settled_before_ms: Option<i64>,
}

/// What is to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taking {
    /// Everything, and why.
    Whole(String),
    /// These.
    Parts(Scope),
}

/// What was taken out of a set for one cut. Dropped without [`DirtySet::done`], it waits again.
#[derive(Debug)]
pub struct Taken {
    /// What is to be looked at.
    pub scope: Taking,
    /// When the oldest of it was marked first.
    pub oldest_ms: i64,
    /// Whose it is, and since when.
    pub accounts: BTreeMap<RelPath, i64>,
    id: u64,
    set: DirtySet,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.set.put_back_id(self.id);
    }
}

/// One account of which something waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountStatus {
    /// The account; empty for the entries above accounts.
    pub account: RelPath,
    /// When the oldest mark was made.
    pub first_ms: i64,
    /// Directories marked.
    pub directories: usize,
    /// All of it is to be looked at.
    pub deep: bool,
}

/// What is known of a set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DirtyStatus {
    /// Why everything is to be looked at, and since when, if it is.
    pub whole: Option<(String, i64)>,
    /// Accounts that wait, in order.
    pub accounts: Vec<AccountStatus>,
    /// When the oldest mark was made that waits or is in flight.
    pub oldest_ms: Option<i64>,
    /// Directories that wait.
    pub directories: usize,
    /// Bytes of their paths.
    pub path_bytes: usize,
    /// Directories in cuts that are neither done nor put back.
    pub in_flight: usize,
    /// Marks made, repeated ones too.
    pub marks: u64,
    /// Times there were too many directories.
    pub collapses: u64,
    /// The root is not there: nothing is given out.
    pub gone: Option<String>,
    /// Why the journal cannot be written.
    pub journal_error: Option<String>,
    /// Bytes of the journal.
    pub journal_len: u64,
}

#[derive(Debug)]
struct Locked {
    state: State,
    gone: Option<String>,
    /// Grows with all that is worth waking for.
    version: u64,
    journal_error: Option<String>,
    journal_len: u64,
}

#[derive(Debug)]
struct Shared {
    /// Held for memory alone: no system call is made under it.
    locked: Mutex<Locked>,
    changed: Condvar,
    /// Taken before `locked`, never within it.
    journal: Option<Mutex<JournalFile>>,
}

/// What waits to be looked at; clones are the same set. See [`super`].
#[derive(Debug, Clone)]
pub struct DirtySet(Arc<Shared>);

impl DirtySet {
    /// An empty set that nothing is kept of.
    #[must_use]
    pub fn new(config: DirtyConfig) -> Self {
        Self::build(State::new(bounds(config)), None)
    }

    /// The set as the journal in `folder` tells it, everything in flight waiting again, and the whole
    /// marked because of what nobody watched. The journal is begun anew.
    ///
    /// # Errors
    /// The file system's own: a set whose journal cannot be written is not begun.
    pub fn resume(config: DirtyConfig, folder: &Path, now_ms: i64) -> io::Result<(Self, Resumed)> {
        Self::resume_with(config, folder, journal::read(folder)?, None, now_ms)
    }

    /// The same of a journal that was read, beside a watch that was kept and belongs to it, or why that is not
    /// believed.
    pub(super) fn resume_with(
        config: DirtyConfig,
        folder: &Path,
        read: Option<ReadBack>,
        kept: Option<Result<Ledger, Disbelief>>,
        now_ms: i64,
    ) -> io::Result<(Self, Resumed)> {
        let frame = read.as_ref().map_or(0, ReadBack::frame);
        let (ledger, kept) = match kept {
            Some(Ok(ledger)) => (Some(ledger), Some(Ok(()))),
            Some(Err(why)) => (None, Some(Err(why))),
            None => (None, None),
        };
        let (mut state, resumed) = State::resume(bounds(config), read, kept, now_ms);
        state.pending = Some(Vec::new());
        let mut journal = JournalFile::new(folder, config.sync_every, frame);
        ledger.into_iter().for_each(|ledger| journal.note_in(ledger));
        let set = Self::build(state, Some(journal));
        set.flush()?;
        Ok((set, resumed))
    }

    /// The watch that began may be kept when the process ends; `ledger` is its own.
    pub(super) fn may_be_kept(&self, ledger: &Ledger) -> io::Result<()> {
        if let Some(journal) = &self.0.journal {
            let mut journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
            journal.note_in(ledger.clone());
        }
        self.change(|state| {
            state.may_be_kept(ledger.id());
            false
        });
        self.flush()
    }

    fn build(state: State, journal: Option<JournalFile>) -> Self {
        let (gone, journal_error) = (None, None);
        let locked = Locked { state, gone, version: 0, journal_error, journal_len: 0 };
        let journal = journal.map(Mutex::new);
        Self(Arc::new(Shared { locked: Mutex::new(locked), changed: Condvar::new(), journal }))
    }

    fn lock(&self) -> MutexGuard<'_, Locked> {
        self.0.locked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and wakes who waits when that is news.
    fn change(&self, step: impl FnOnce(&mut State) -> bool) {
        let mut locked = self.lock();
        if step(&mut locked.state) {
            locked.version += 1;
            self.0.changed.notify_all();
        }
        let pending = locked.state.pending.as_ref().map_or(0, Vec::len);
        drop(locked);
        if pending > PENDING_MAX {
            self.flush_noting();
        }
    }

    /// The directory `path` itself and its direct children must be looked at; `deep`, all below as well.
    /// In the journal after [`Self::flush`].
    pub fn mark(&self, path: &RelPath, deep: bool, now_ms: i64) {
        self.change(|state| state.mark(path.as_bytes(), deep, now_ms));
    }

    /// The same for many, under one lock.
    pub(super) fn mark_all<'a>(
        &self,
        marks: impl IntoIterator<Item = (&'a [u8], bool)>,
        now_ms: i64,
    ) {
        self.change(|state| {
            let mark = |new, (path, deep): (&[u8], bool)| state.mark(path, deep, now_ms) || new;
            marks.into_iter().fold(false, mark)
        });
    }

    /// Everything must be looked at. In the journal when this returns.
    pub fn mark_whole(&self, why: &str, now_ms: i64) {
        self.change(|state| state.mark_whole(why, now_ms));
        self.flush_noting();
    }

    /// Events tell of every change from now on. Whole, unless that waits already.
    pub(super) fn watch_began(&self, now_ms: i64) {
        self.change(|state| {
            state.watch_began(now_ms);
            true
        });
        self.flush_noting();
    }

    pub(super) fn watch_ended(&self, now_ms: i64) {
        self.change(|state| {
            state.watch_ended(now_ms);
            true
        });
        self.flush_noting();
    }

    /// The root is not there, or another is in its place: nothing is given out until
    /// [`Self::root_back`].
    pub fn root_gone(&self, why: &str) {
        let mut locked = self.lock();
        locked.gone = Some(why.to_owned());
        locked.version += 1;
        self.0.changed.notify_all();
    }

    /// The root is there again; what happened meanwhile is not known.
    pub fn root_back(&self, now_ms: i64) {
        let was_gone = self.lock().gone.take().is_some();
        if was_gone {
            self.mark_whole("the root had been gone", now_ms);
        }
    }

    /// Takes what waits; `None` when nothing does that may be taken. A whole includes every directory
    /// that waits; where it or a deep mark above accounts is taken although accounts are left out, those
    /// wait as a whole each.
    #[must_use]
    pub fn take(&self, filter: &TakeFilter) -> Option<Taken> {
        let taken = {
            let mut locked = self.lock();
            if locked.gone.is_some() {
                return None;
            }
            let state = &mut locked.state;
            let id = state.take(filter.parts_only, &filter.left_out, filter.settled_before_ms)?;
            let marks = state.in_flight.get(&id)?;
            let scope = match marks.whole() {
                Some(whole) => Taking::Whole(whole.reasons.join("; ")),
                None => Taking::Parts(marks.scope()),
            };
            let oldest_ms = marks.oldest_ms().unwrap_or_default();
            let accounts = marks.accounts().into_iter();
            let accounts = accounts.map(|(account, (first_ms, ..))| (account, first_ms)).collect();
            Taken { scope, oldest_ms, accounts, id, set: self.clone() }
        };
        self.flush_noting();
        Some(taken)
    }

    /// The cut failed or was held: what it took waits again, as old as it was.
    pub fn put_back(&self, taken: Taken) {
        drop(taken);
    }

    fn put_back_id(&self, id: u64) {
        // Not in flight any more when it is done.
        let known = self.lock().state.in_flight.contains_key(&id);
        if known {
            self.change(|state| state.put_back(id));
            self.flush_noting();
        }
    }

    /// What was taken was looked at and is durable at the other end. Marks that came meanwhile wait.
    pub fn done(&self, taken: Taken) {
        taken.set.change(|state| state.done(taken.id));
        taken.set.flush_noting();
    }

    /// A complete look at everything is over that began at `began_ms`, and every change since was announced. Said
    /// when nothing of it is in flight any more.
    pub fn looked(&self, began_ms: i64, took_ms: u64) {
        self.change(|state| {
            state.looked(began_ms, took_ms);
            false
        });
        self.flush_noting();
    }

    /// What the next process is to look at in any case, deep or not, is this alone: what is known to be otherwise
    /// than it should be, and waits for something else than an event. `whole` says why that is everything. In the
    /// journal before what is said of a cut after it.
    pub fn owe(&self, owed: BTreeMap<RelPath, bool>, whole: Option<&str>) {
        self.change(|state| {
            state.owe(owed, whole);
            false
        });
    }

    /// A look at everything begins: [`Self::was_announced`] tells of what is marked from here on, and of
    /// what waits now.
    pub fn look_began(&self) {
        self.lock().state.look_began();
    }

    /// Whether an event told of a change in the directory `directory` since the last look at everything
    /// began. Ask after [`super::Watcher::sync`]: the change may be younger than what was read.
    #[must_use]
    pub fn was_announced(&self, directory: &RelPath) -> bool {
        self.lock().state.announced.has(directory.as_bytes())
    }

    /// Whether the direct children of `directory` wait to be looked at.
    #[must_use]
    pub fn waits(&self, directory: &RelPath) -> bool {
        let locked = self.lock();
        locked.state.waiting.covers(directory.as_bytes(), locked.state.bounds.depth)
    }

    /// What is known, without asking the share's file system for anything.
    #[must_use]
    pub fn status(&self) -> DirtyStatus {
        let locked = self.lock();
        let State { waiting, in_flight, marks, collapses, .. } = &locked.state;
        let account = |(account, (first_ms, directories, deep))| AccountStatus {
            account,
            first_ms,
            directories,
            deep,
        };
        let oldest = in_flight.values().filter_map(super::marks::Marks::oldest_ms);
        DirtyStatus {
            whole: waiting.whole().map(|whole| (whole.reasons.join("; "), whole.since_ms)),
            accounts: waiting.accounts().into_iter().map(account).collect(),
            oldest_ms: oldest.chain(waiting.oldest_ms()).min(),
            directories: waiting.directories(),
            path_bytes: waiting.bytes(),
            in_flight: in_flight.values().map(super::marks::Marks::directories).sum(),
            marks: *marks,
            collapses: *collapses,
            gone: locked.gone.clone(),
            journal_error: locked.journal_error.clone(),
            journal_len: locked.journal_len,
        }
    }

    /// Waits until something is new since `version`, at most `timeout`; the version then. 0 is older than
    /// any that something is new in.
    #[must_use]
    pub fn wait(&self, version: u64, timeout: Duration) -> u64 {
        let until = Instant::now() + timeout;
        let mut locked = self.lock();
        while locked.version == version {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let woken = self.0.changed.wait_timeout(locked, left);
            locked = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        locked.version
    }

    /// Writes what was marked to the journal: it survives a kill of the process. Synced when
    /// [`DirtyConfig::sync_every`] has passed. After a failure the next flush writes all of it anew.
    ///
    /// # Errors
    /// The file system's own; it is in [`DirtyStatus::journal_error`] too, until a flush succeeds.
    pub fn flush(&self) -> io::Result<()> {
        let Some(journal) = &self.0.journal else { return Ok(()) };
        let mut journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
        let mut locked = self.lock();
        let pending = locked.state.pending.as_mut().map(std::mem::take).unwrap_or_default();
        // What was pending is in the snapshot of the next rewrite.
        if journal.is_resting() {
            return Err(io::Error::other(locked.journal_error.clone().unwrap_or_default()));
        }
        let written = if journal.wants_rewrite() {
            let snapshot = locked.state.snapshot();
            drop(locked);
            journal.rewrite(snapshot)
        } else {
            drop(locked);
            journal.append(&pending)
        };
        journal.note_failure(written.is_err());
        let mut locked = self.lock();
        locked.journal_error = written.as_ref().err().map(ToString::to_string);
        locked.journal_len = journal.len();
        written
    }

    /// For callers that go on whatever becomes of the journal: a mark in memory is as good until the
    /// process ends, and the status says what failed.
    fn flush_noting(&self) {
        self.flush().unwrap_or(());
    }
}

fn bounds(config: DirtyConfig) -> Bounds {
    Bounds {
        depth: config.account_depth,
        directories: config.directories_max,
        bytes: config.bytes_max,
    }
}

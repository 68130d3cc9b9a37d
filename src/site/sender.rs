//! The sending end of a share: what is cut, when, and what may be vouched for.
//!
//! ```text
//! events ─► dirty set ─┐
//! rotation ─► slices ──┼─► compose ─► judge (brake) ─► sealed: T moves, what was taken is done
//! requests, retries ───┘                   └► dropped, broken: it waits again
//! ```
//! Guarantees: the time of a point moves only to a moment up to which everything is in: to now, when
//! every change made before it was announced by an event and taken; to the begin of a complete look at
//! everything otherwise. What is held, unreadable or unstable is counted as an exception of the point and
//! looked at again. Nothing that the brake holds is sent, but it is looked at (`sender/held.rs`), and what it holds
//! survives a restart.
//!
//! Refuses to give anything out while the root is not there. After a crash: the dirty set is read from
//! its journal, and what nobody watched is found by a rotation, while what is known goes first. Where the kernel
//! watched meanwhile (`farshore_engine::capture`) there is nothing to be found, and no rotation (`sender/start.rs`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender as Reply, bounded};
use farshore_core::account::account_of;
use farshore_core::brake::{BrakeConfig, CutTally, Judgement};
use farshore_core::guard;
use farshore_core::path::RelPath;
use farshore_core::policy::Policy;
use farshore_core::recovery_point::RecoveryPoint;
use farshore_engine::capture::{
    DirtySet, DirtyStatus, Resumed, Synced, TakeFilter, Taken, Taking, WatchKind, Watcher,
};
use farshore_engine::catalog::{Catalog, CatalogError};
use farshore_engine::io::uring::UringStorage;
use farshore_engine::io::{Object, Storage};
use farshore_engine::plan::{Part, Plan, Problem, Scope, Withheld};
use farshore_engine::progress::{OnItsWay, Phase, Progress, TooLarge};
use farshore_engine::source::SourceError;
use farshore_engine::source::standing::{Cut, CutReport, Cuts, Dropped, LeftOut, Look, Next};
use farshore_proto::close::CloseCode;
use farshore_proto::message::Welcome;
use farshore_proto::session::SessionError;

use crate::exit::{Exit, Failure};
use crate::site::announce::KeyTalk;
use crate::site::board::ShareBoard;
use crate::site::board::facts::{AtRisk, Bound, Capture, ShareState};
use crate::site::log::{Level, Log, Record};
use crate::site::look::{Rotation, Slice};
use crate::site::nodes::Nodes;
use crate::state::now_ms;

mod ahead;
mod brakes;
mod cuts;
mod drain;
mod held;
mod live;
mod start;
mod turns;
mod waits;

use brakes::Brakes;
pub use held::Decided;
use held::{GuardHold, Looks};
use live::Pace;
pub use turns::Classes;
use waits::{waits, without};

/// How often a point is made although nothing changed: it says that nothing did.
const BEAT: Duration = Duration::from_secs(1);
/// How long what was held as a whole waits until it is looked at again.
const HELD_AGAIN: Duration = Duration::from_secs(5);
/// When a path that could not be replicated is looked at again, first; then ever later.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// The longest of those times.
const RETRY_LAST: Duration = Duration::from_secs(300);
/// How long until what a policy deferred is looked at again: no event says that its time has come.
const DEFERRED_AGAIN: Duration = Duration::from_secs(10);
/// Paths that could not be replicated, and are remembered one by one.
const TROUBLED_MAX: usize = 10_000;
/// Files too large for the standby that are left out of cuts; further ones are tried with every look.
const WAITS_MAX: usize = 100;
/// Requests that wait for the next cut.
const WANTED_MAX: usize = 64;

/// What the sending end of a share is made of.
pub struct SenderConfig {
    /// The share's name.
    pub share: String,
    /// Where it is here.
    pub root: PathBuf,
    /// Components of an account's path below the share.
    pub account_depth: usize,
    /// How long a cut waits for more after the first change.
    pub settle: Duration,
    /// In which time every entry is looked at once.
    pub scan: Duration,
    /// The brake.
    pub brake: BrakeConfig,
    /// Which accounts are important.
    pub classes: Classes,
    /// Where the brake is kept.
    pub folder: PathBuf,
    /// Other hosts that report.
    pub nodes: Arc<Nodes>,
}

/// The sending end of a share. See the module.
pub struct Sender {
    config: SenderConfig,
    storage: Arc<UringStorage>,
    catalog: Arc<Catalog>,
    dirty: DirtySet,
    watcher: Watcher,
    board: ShareBoard,
    log: Log,
    /// Makes the policies for a cut at this moment: what they say of ages depends on it.
    policies: Box<MakePolicy>,
    policy: Mutex<Arc<dyn Policy>>,
    brakes: Brakes,
    progress: Arc<Progress>,
    inner: Mutex<Inner>,
    pace: Mutex<Pace>,
    ahead_limit: ahead::Limit,
    classes: Mutex<Arc<Classes>>,
    /// Of the session there is.
    talk: Mutex<Option<Arc<KeyTalk>>>,
    /// The other end was told what is held now.
    told: AtomicBool,
    /// The standby's catalog is older than what it sealed: the next session has it look at its tree first.
    distrusts: AtomicBool,
    heart: Mutex<Heart>,
    stopping: AtomicBool,
    /// How it began, in words.
    start: Mutex<String>,
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sender").field("share", &self.config.share).finish_non_exhaustive()
    }
}

/// Makes the policies in force now.
pub type MakePolicy = dyn Fn() -> Result<Arc<dyn Policy>, Failure> + Send + Sync;

/// Somebody who waits for the next point.
struct Wanted {
    label: Option<String>,
    reply: Reply<Result<RecoveryPoint, Failure>>,
}

#[derive(Debug)]
struct Trouble {
    times: u32,
    again: Instant,
    marked: bool,
    /// Bytes that the standby has no room for: until it is tried again it is left out of cuts.
    needed: Option<u64>,
}

/// What the two ends tell each other of themselves.
#[derive(Debug, Clone, Copy, Default)]
struct Heart {
    beat: Option<Instant>,
    at_risk: AtRisk,
    /// Bytes that the standby has free.
    free: Option<u64>,
}

/// What a cut under way holds.
#[derive(Default)]
struct UnderWay {
    taken: Option<Taken>,
    slice: Option<Slice>,
    wanted: Vec<Wanted>,
    judged: Option<(CutTally, Judgement)>,
    /// Its seal makes the point vouch for everything up to its time.
    completes: bool,
    /// Marks made before it took any.
    marks: u64,
    /// Of what is held, that of which it looks at all; the share itself is the empty path.
    held: Vec<RelPath>,
    began: Option<Instant>,
    /// Files left out of it that the standby has no room for; they are in trouble already.
    waits: Vec<RelPath>,
    /// What was noted of it before it is noted for the last time.
    noted: waits::Noted,
    /// Accounts that its point will not have.
    lags: ahead::Lags,
    /// Changes of each account that its plan met, and how many of them were announced.
    met: BTreeMap<RelPath, (u64, u64)>,
    /// What it takes, where that is not all.
    chosen: Option<turns::Chosen>,
}

impl Trouble {
    /// How long until it is tried again, behind so many times.
    fn wait(&self) -> Duration {
        RETRY_FIRST.saturating_mul(1 << self.times.min(16)).min(RETRY_LAST)
    }
}

impl UnderWay {
    /// Which paths of the cut nobody announced: those a slice of a whole look alone asks for.
    fn looked_for(&self, cut: &Cut) -> impl Fn(&RelPath) -> bool + use<> {
        let taken = self.taken.as_ref().map(|taken| taken.scope.clone());
        let by_look = self.slice.is_some() || cut.look == Look::Whole;
        move |path| {
            by_look
                && match &taken {
                    Some(Taking::Parts(scope)) => !scope.covers(path),
                    Some(Taking::Whole(_)) | None => true,
                }
        }
    }
}

struct Inner {
    /// No cut of this pair has been sealed yet.
    seeding: bool,
    /// The ends differ.
    differ: u64,
    rotation: Option<Rotation>,
    /// Everything that was marked as a whole, until the rotation is complete.
    whole: Option<Taken>,
    /// Since a complete rotation every change has been announced.
    covered: bool,
    last_look: Option<(i64, Duration)>,
    next_look: Instant,
    last_point: Option<RecoveryPoint>,
    last_seal: Option<Instant>,
    wanted: Vec<Wanted>,
    under_way: UnderWay,
    troubled: BTreeMap<RelPath, Trouble>,
    /// Directories in which a policy deferred something, and when they are looked at again.
    deferred: BTreeMap<RelPath, Instant>,
    guard_hold: Option<GuardHold>,
    approve_guard: bool,
    /// When what is held was looked at.
    looks: Looks,
    /// What waits for a large file or its turn.
    ahead: BTreeMap<RelPath, ahead::Waiting>,
    /// What the last point does not have because of that.
    lags: ahead::Lags,
    /// A time up to which all accounts are in that another run left out without a name; until they were looked at.
    unnamed: Option<i64>,
    queue: turns::Queue,
    found_by_event: u64,
    found: u64,
    /// What the ends were found to differ in, until a cut mends it.
    differing: Option<Look>,
    /// Times everything was looked at, or begun to be, since the start.
    whole_looks: u64,
    /// Entries looked at since the start.
    looked_at: u64,
    marks_sealed: u64,
    version: u64,
}

impl Sender {
    /// A sending end; `watcher` fills `dirty`.
    ///
    /// # Errors
    /// [`Failure`] when what is kept of the brake cannot be used.
    pub fn new(
        mut config: SenderConfig,
        storage: Arc<UringStorage>,
        catalog: Arc<Catalog>,
        (dirty, watcher, resumed): (DirtySet, Watcher, Resumed),
        policies: Box<MakePolicy>,
        board: ShareBoard,
        log: Log,
    ) -> Result<Self, Failure> {
        let policy = policies()?;
        let pace = Pace { settle: config.settle, scan: config.scan };
        let reader = catalog.reader().map_err(|e| Failure::new(Exit::Refused, &e))?;
        let last_point = reader.recovery_point().map_err(|e| Failure::new(Exit::Refused, &e))?;
        let behind = reader.behind().map_err(|e| Failure::new(Exit::Refused, &e))?;
        let lag = |since_ms| ahead::Lag { since_ms, is_unknown: true, why: None };
        let unnamed = behind.unnamed_since();
        let lags = behind.first.into_iter().map(|(account, since)| (account, lag(since)));
        let lags = lags.collect();
        let classes = Mutex::new(Arc::new(std::mem::take(&mut config.classes)));
        let brakes = Brakes::open(&config.folder, config.brake.clone(), &catalog)?;
        let inner = Inner {
            seeding: last_point.is_none(),
            differ: 0,
            rotation: None,
            whole: None,
            covered: false,
            last_look: None,
            next_look: Instant::now() + config.scan,
            last_point,
            last_seal: None,
            wanted: Vec::new(),
            under_way: UnderWay::default(),
            troubled: BTreeMap::new(),
            deferred: BTreeMap::new(),
            guard_hold: None,
            approve_guard: false,
            looks: Looks::default(),
            ahead: BTreeMap::new(),
            lags,
            unnamed,
            queue: turns::Queue::default(),
            found_by_event: 0,
            found: 0,
            differing: None,
            whole_looks: 0,
            looked_at: 0,
            marks_sealed: 0,
            version: 0,
        };
        if let Some(point) = &last_point {
            board.recovery_point(point);
        }
        let sender = Self {
            config,
            storage,
            catalog,
            dirty,
            watcher,
            board,
            log,
            policies,
            policy: Mutex::new(policy),
            brakes,
            progress: Arc::default(),
            inner: Mutex::new(inner),
            pace: Mutex::new(pace),
            ahead_limit: ahead::Limit::default(),
            classes,
            talk: Mutex::default(),
            told: AtomicBool::new(false),
            distrusts: AtomicBool::new(false),
            heart: Mutex::default(),
            stopping: AtomicBool::new(false),
            start: Mutex::default(),
        };
        sender.go_on_from(&resumed)?;
        sender.show_holds();
        Ok(sender)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The share's name.
    #[must_use]
    pub fn share(&self) -> &str {
        &self.config.share
    }

    /// What is known of it.
    #[must_use]
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// The counters of the cut under way.
    #[must_use]
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Ends the session in order, and begins no other.
    pub fn stop(&self) {
        self.stopping.store(true, Relaxed);
        self.turn_away();
    }

    /// Answers whoever waits for a point, when none will come any more.
    fn turn_away(&self) {
        let wanted = std::mem::take(&mut self.lock().wanted);
        self.answer(wanted, || Err(self.refused("it is not sent from here any more")));
    }

    /// Whether the standby may be taken to be as its catalog says.
    #[must_use]
    pub fn trusts_standby(&self) -> bool {
        !self.distrusts.load(Relaxed)
    }

    /// Whether it was told to stop.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    /// What decides now.
    #[must_use]
    pub fn policy(&self) -> Arc<dyn Policy> {
        Arc::clone(&self.policy.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes the policies anew: from the next cut on the new ones decide, and what they let travel or
    /// leave out is found by a look at everything.
    ///
    /// # Errors
    /// [`Failure`]; the former ones go on deciding then.
    pub fn renew_policy(&self) -> Result<(), Failure> {
        let policy = (self.policies)()?;
        let changed = policy.identity() != self.policy().identity();
        *self.policy.lock().unwrap_or_else(PoisonError::into_inner) = policy;
        if changed {
            self.dirty.mark_whole("the policies are others", now_ms());
        }
        Ok(())
    }

    /// Makes a cut now, and waits for its point.
    ///
    /// # Errors
    /// [`Failure`] when it is held, or there is no connection.
    pub fn cut_now(
        &self,
        label: Option<String>,
        patience: Duration,
    ) -> Result<RecoveryPoint, Failure> {
        let (reply, answer) = bounded(1);
        {
            let mut inner = self.lock();
            if inner.wanted.len() >= WANTED_MAX {
                return Err(self.refused("too many requests wait for the next cut"));
            }
            inner.wanted.push(Wanted { label, reply });
        }
        if self.is_stopping() {
            self.turn_away();
        }
        answer.recv_timeout(patience).unwrap_or_else(|_| {
            Err(self.refused("no point was made in time; farshore status says why"))
        })
    }

    fn refused(&self, text: &str) -> Failure {
        Failure {
            exit: Exit::Held,
            message: format!("share '{}': {text}", self.config.share),
            hint: None,
        }
    }

    /// The root is another folder than the one before, and is meant.
    pub fn approve_root(&self) {
        self.lock().approve_guard = true;
    }

    /// What is known without a cut: shown once a second or so by whoever has a thread for it.
    pub fn show(&self) {
        let (dirty, watch) = (self.dirty.status(), self.watcher.report());
        let inner = self.lock();
        let whole = dirty.whole.is_some() || inner.whole.is_some() || !inner.covered;
        // Of an account that waits, for a large file or its turn, it is one file at least.
        let files = dirty.marks.saturating_sub(inner.marks_sealed) + inner.lags.len() as u64;
        let bound = match whole {
            true => Bound::Unknown,
            // A mark is a directory, of one change or more; what is held is not counted at all.
            false if files > 0 || !self.left_out(&self.withheld(), &inner).is_empty() => {
                Bound::AtLeast
            }
            false => Bound::AtMost,
        };
        let cut = inner.under_way.taken.is_some()
            && matches!(self.progress.phase(), Phase::Replicating | Phase::Sealing);
        let bytes = match (bound, files) {
            (Bound::AtMost, 0) => Some(0),
            // Those of the cut under way were looked at; of what waits only where it is, is known.
            (Bound::AtLeast, _) if cut => Some(self.progress.planned_bytes.load(Relaxed)),
            _ => None,
        };
        drop(inner);
        let at_risk = AtRisk { files, bytes, bound };
        self.heart.lock().unwrap_or_else(PoisonError::into_inner).at_risk = at_risk;
        self.board.at_risk(at_risk);
        self.board.large_files(self.large_files());
        let inner = self.lock();
        let percent = |found: u64, all: u64| match all {
            0 => 100.0,
            #[allow(clippy::cast_precision_loss)] // a share of a whole
            all => 100.0 * found as f64 / all as f64,
        };
        self.board.capture(Capture {
            method: match watch.kind {
                WatchKind::Fanotify => "fanotify",
                WatchKind::Inotify => "inotify",
                WatchKind::None => "none",
            }
            .to_owned(),
            coverage_percent: percent(inner.found_by_event, inner.found),
            whole_look_percent: inner.rotation.as_ref().map(|r| 100.0 * r.done()),
            last_look_unix_ms: inner.last_look.map(|(began, _)| began),
            last_look_took_ms: inner
                .last_look
                .map(|(_, took)| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
            overflows: watch.overflows,
            start: self.start.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            whole_looks: inner.whole_looks,
            looked_at: inner.looked_at,
            nodes: self.config.nodes.status(),
        });
        drop(inner);
        while let Ok(notice) = self.watcher.notices().try_recv() {
            self.log.say(
                &Record::new(Level::Warn, "watch", notice.to_string()).share(&self.config.share),
            );
        }
    }

    /// The link is gone or there is none.
    pub fn waits_for_peer(&self, why: &str) {
        self.board.state(ShareState::WaitingForPeer, Some(why));
    }

    /// A session failed: that the other site's disk is full is a state of its own.
    pub fn broke(&self, e: &SourceError) {
        let disk = CloseCode::Disk as u32;
        match e {
            SourceError::Session(SessionError::Refused { code, text }) if *code == disk => {
                // It says itself whether it is full, or failing.
                let text = match text.strip_prefix("no space") {
                    Some(why) => format!("no space at the standby{why}"),
                    None => format!("the standby's disk: {text}"),
                };
                self.board.state(ShareState::Error, Some(&text));
            }
            e => self.waits_for_peer(&farshore_engine::ingest::describe(e)),
        }
    }

    /// Begins to look at everything, if that is due.
    fn begin_rotation(
        &self,
        inner: &mut Inner,
        dirty: &DirtyStatus,
        left_out: &BTreeSet<RelPath>,
    ) -> Result<(), CatalogError> {
        if dirty.gone.is_some() {
            return Ok(());
        }
        if dirty.whole.is_some() {
            inner.covered = false;
            inner.rotation = None;
            let taken = self.dirty.take(&filter(false, left_out, &[]));
            if let Some((why, _)) = &dirty.whole {
                let text = format!("looks at everything: {why}");
                self.log.say(&Record::new(Level::Info, "look", text).share(&self.config.share));
            }
            // The look that begins now covers what the one before was to.
            if let Some(former) = std::mem::replace(&mut inner.whole, taken) {
                self.dirty.done(former);
            }
        } else if inner.rotation.is_some() || Instant::now() < inner.next_look {
            return Ok(());
        }
        // What is said of ages is as of the look at everything.
        if let Err(failure) = self.renew_policy() {
            let record = Record::new(Level::Error, "policy", failure.message);
            self.log.say(&record.share(&self.config.share));
        }
        let total = self.catalog.reader()?.entry_count()?;
        // What is changed from here on is told from what nobody announced.
        drop(self.watcher.sync());
        self.dirty.look_began();
        inner.whole_looks += 1;
        inner.rotation = Some(Rotation::begin(now_ms(), total));
        Ok(())
    }

    fn is_due(&self, inner: &Inner, dirty: &DirtyStatus, left_out: &BTreeSet<RelPath>) -> bool {
        let is_asked_for = !inner.wanted.is_empty() || inner.queue.is_due();
        if is_asked_for || inner.seeding || inner.differ > 0 {
            return true;
        }
        let settle = i64::try_from(self.pace().settle.as_millis()).unwrap_or(i64::MAX);
        let before = now_ms().saturating_sub(settle);
        let is_in = |account: &RelPath| !left_out.contains(account);
        dirty.accounts.iter().any(|a| a.first_ms <= before && is_in(&a.account))
    }

    /// The next cut, if one is due.
    fn compose(&self) -> Result<Option<Cut>, CatalogError> {
        let mut inner = self.lock();
        if let Some(held) = &inner.guard_hold
            && !inner.approve_guard
            && held.seen.elapsed() < HELD_AGAIN
        {
            return Ok(None);
        }
        let withheld = self.withheld();
        let share_held = self.brakes.holds_share();
        inner.looks.keep(&withheld, share_held);
        if share_held {
            return Ok(inner.looks.share_is_due().then(|| self.look_at_held(&mut inner, withheld)));
        }
        self.retry(&mut inner);
        let waits = waits(&inner.troubled);
        let dirty = self.dirty.status();
        let left_out = self.left_out(&withheld, &inner);
        if !inner.seeding {
            self.begin_rotation(&mut inner, &dirty, &left_out)?;
        }
        let pace = match inner.whole {
            Some(_) => Duration::ZERO,
            None => self.pace().scan,
        };
        let held = if inner.seeding { Vec::new() } else { inner.looks.due(&withheld, &dirty) };
        let mut slice = match &inner.rotation {
            Some(rotation) if !inner.seeding => rotation.next(&self.catalog.reader()?, pace)?,
            _ => None,
        };
        if let Some(slice) = &mut slice {
            // Of what is held all is looked at, at its own pace.
            slice.parts.retain(|part| !withheld.covers(&part.directory));
        }
        let beat = inner.covered && inner.last_seal.is_none_or(|at| at.elapsed() >= BEAT);
        let is_due = !held.is_empty() || self.is_due(&inner, &dirty, &left_out);
        if slice.is_none() && !beat && !is_due {
            return Ok(None);
        }
        let now = now_ms();
        let synced = self.watcher.sync();
        if let Synced::Gone(why) = &synced {
            self.board.state(ShareState::MountGone, Some(why));
            return Ok(None);
        }
        let completes = slice.as_ref().is_some_and(Slice::is_last) || inner.seeding;
        let watched = self.config.nodes.cover(&synced, &self.watcher.report());
        // A time may be vouched for by events: then those of other hosts are needed too.
        let by_events = watched && (completes || inner.covered);
        let reported = by_events && self.config.nodes.sync().is_none();
        let taken = self.dirty.take(&filter(!inner.seeding, &left_out, &held));
        // What was lost since a rotation began is lost for what it completes.
        let known = self.dirty.status().whole.is_none();
        let complete = reported && known;
        let scope = taken.iter().filter_map(|taken| match &taken.scope {
            Taking::Parts(scope) => Some(scope),
            Taking::Whole(_) => None,
        });
        let parts: Vec<Part> = scope
            .flat_map(|scope| scope.parts().iter().cloned())
            .chain(slice.iter().flat_map(|slice| slice.parts.iter().cloned()))
            .chain(held.iter().map(|account| Part { directory: account.clone(), deep: true }))
            .collect();
        let look = match (inner.seeding, parts.is_empty()) {
            (true, _) => Look::Whole,
            (false, true) => Look::Nothing,
            (false, false) => Look::Parts(Scope::new(parts)),
        };
        let began = inner.rotation.as_ref().map_or(now, |rotation| rotation.began_ms);
        // Everything was looked at since it began, and every change since was announced.
        let time_unix_ms = match (completes, inner.covered || completes, complete) {
            (_, true, true) => Some(now),
            (true, _, false) => Some(began),
            _ => None,
        };
        let wanted = std::mem::take(&mut inner.wanted);
        let labels = wanted.iter().filter_map(|w| w.label.clone()).collect();
        let approved = std::mem::take(&mut inner.approve_guard);
        inner.differ = 0;
        inner.queue.taken();
        // A node that is away goes on watching, or says that it did not.
        let completes = completes && watched && known;
        // What came since may be in the cut or not: it counts as not.
        let marks = dirty.marks;
        let (judged, began) = (None, Some(Instant::now()));
        let policy = without(self.policy(), &waits);
        let rest = UnderWay::default();
        inner.under_way =
            UnderWay { taken, slice, wanted, judged, completes, marks, held, began, waits, ..rest };
        let state = match () {
            () if inner.seeding => ShareState::Seeding,
            () if inner.whole.is_some() => ShareState::Looking,
            () if look == Look::Nothing => ShareState::Idle,
            () => ShareState::Replicating,
        };
        self.board.state(state, None);
        if look != Look::Nothing {
            self.board.cut_began(Arc::clone(&self.progress));
        }
        let (left_out, only_judged) = (LeftOut::default(), false);
        let cut =
            Cut { look, time_unix_ms, policy, withheld, approved, only_judged, labels, left_out };
        Ok(Some(cut))
    }

    /// A cut that looks at everything, to judge it: of a share that is held as a whole nothing is sent before
    /// it is judged again, and with this cut nothing at all. What waits goes on waiting.
    fn look_at_held(&self, inner: &mut Inner, withheld: Withheld) -> Cut {
        let wanted = std::mem::take(&mut inner.wanted);
        let labels = wanted.iter().filter_map(|w| w.label.clone()).collect();
        let held = vec![RelPath::root()];
        inner.under_way =
            UnderWay { wanted, held, began: Some(Instant::now()), ..UnderWay::default() };
        let (policy, look) = (self.policy(), Look::Whole);
        let (approved, only_judged, left_out) = (false, true, LeftOut::default());
        let time_unix_ms = None;
        Cut { look, time_unix_ms, policy, withheld, approved, only_judged, labels, left_out }
    }

    /// Accounts of which nothing is sent.
    fn withheld(&self) -> Withheld {
        Withheld::new(self.brakes.withheld(), self.config.account_depth)
    }

    fn heart(&self) -> Heart {
        *self.heart.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is free at the standby, as it said last.
    fn standby_free(&self) -> Option<u64> {
        self.heart().free
    }

    /// The brake learns what the share is like.
    fn seeded(&self) {
        if let Err(failure) = self.brakes.learn(&self.catalog) {
            let record = Record::new(Level::Error, "brake", failure.message);
            self.log.say(&record.share(&self.config.share));
        }
    }

    /// What a cut did, or may have done, counts.
    fn counted(&self, tally: &CutTally, judgement: &Judgement) {
        if let Err(failure) = self.brakes.applied(tally, judgement) {
            let record = Record::new(Level::Error, "brake", failure.message);
            self.log.say(&record.share(&self.config.share));
        }
    }

    fn answer(&self, wanted: Vec<Wanted>, answer: impl Fn() -> Result<RecoveryPoint, Failure>) {
        for Wanted { reply, .. } in wanted {
            // Who asked may have left.
            reply.send(answer()).unwrap_or(());
        }
    }
}

/// What is left out waits, but for what is held and looked at now.
fn filter(parts_only: bool, left_out: &BTreeSet<RelPath>, held: &[RelPath]) -> TakeFilter {
    let left_out = left_out.iter().filter(|a| !held.contains(a)).cloned().collect();
    TakeFilter { parts_only, left_out, settled_before_ms: None }
}

/// Whether a scope looks at all of an account.
fn looks_at_all(look: &Look, account: &RelPath) -> bool {
    match look {
        Look::Whole => true,
        Look::Nothing => false,
        Look::Parts(scope) => {
            scope.parts().iter().any(|part| part.deep && account.starts_with(&part.directory))
        }
    }
}

/// Reads a whole file below the state folder, if it is there.
fn read_if_there(path: &Path) -> std::io::Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

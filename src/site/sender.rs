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
//! looked at again. Nothing that the brake holds is sent, and what it holds survives a restart.
//!
//! Refuses to give anything out while the root is not there. After a crash: the dirty set is read from
//! its journal, and what nobody watched is found by a rotation, while what is known goes first.

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
    DirtySet, DirtyStatus, Synced, TakeFilter, Taken, Taking, WatchKind, Watcher,
};
use farshore_engine::catalog::{Catalog, CatalogError};
use farshore_engine::io::uring::UringStorage;
use farshore_engine::plan::{Part, Plan, Problem, Scope};
use farshore_engine::progress::Progress;
use farshore_engine::source::standing::{Cut, CutReport, Cuts, Dropped, LeftOut, Look, Next};
use farshore_proto::message::Welcome;

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
mod live;

use brakes::Brakes;
use live::Pace;

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
/// Requests that wait for the next cut.
const WANTED_MAX: usize = 64;

/// What the sending end of a share is made of.
pub struct SenderConfig {
    /// The share's name.
    pub share: String,
    /// Components of an account's path below the share.
    pub account_depth: usize,
    /// How long a cut waits for more after the first change.
    pub settle: Duration,
    /// In which time every entry is looked at once.
    pub scan: Duration,
    /// The brake.
    pub brake: BrakeConfig,
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
    /// Of the session there is.
    talk: Mutex<Option<Arc<KeyTalk>>>,
    stopping: AtomicBool,
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

struct Trouble {
    times: u32,
    again: Instant,
    marked: bool,
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
    guard_hold: Option<(guard::Hold, Instant)>,
    approve_guard: bool,
    /// What waits for a large file.
    ahead: BTreeMap<RelPath, ahead::Waiting>,
    /// T of accounts that are not at the share's.
    behind: BTreeMap<RelPath, i64>,
    found_by_event: u64,
    found: u64,
    marks_sealed: u64,
    version: u64,
}

impl Sender {
    /// A sending end; `watcher` fills `dirty`.
    ///
    /// # Errors
    /// [`Failure`] when what is kept of the brake cannot be used.
    pub fn new(
        config: SenderConfig,
        storage: Arc<UringStorage>,
        catalog: Arc<Catalog>,
        (dirty, watcher): (DirtySet, Watcher),
        policies: Box<MakePolicy>,
        board: ShareBoard,
        log: Log,
    ) -> Result<Self, Failure> {
        let policy = policies()?;
        let pace = Pace { settle: config.settle, scan: config.scan };
        let reader = catalog.reader().map_err(|e| Failure::new(Exit::Refused, &e))?;
        let last_point = reader.recovery_point().map_err(|e| Failure::new(Exit::Refused, &e))?;
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
            ahead: BTreeMap::new(),
            behind: BTreeMap::new(),
            found_by_event: 0,
            found: 0,
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
            talk: Mutex::default(),
            stopping: AtomicBool::new(false),
        };
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

    /// Whether what an operator looked at is what is held: of the account, or alone, that hold.
    ///
    /// # Errors
    /// [`Failure`] when it is another one, or there are others.
    pub fn is_still(&self, only: Option<&RelPath>, id: Option<&str>) -> Result<(), Failure> {
        let Some(id) = id else { return Ok(()) };
        let guard_hold = self.lock().guard_hold.as_ref().map(|(hold, _)| hold.to_string());
        let holds = self.brakes.shown(&self.config.share, guard_hold);
        let account = only.map(ToString::to_string);
        let mut meant = holds.iter().filter(|h| account.as_ref().is_none_or(|a| h.account == *a));
        match (meant.next(), meant.next()) {
            (Some(hold), None) if hold.id == id => Ok(()),
            _ => Err(self.refused(&format!(
                "hold {id} is not what is held there now; farshore brake show says what is"
            ))),
        }
    }

    /// Lets pass what is held.
    ///
    /// # Errors
    /// [`Failure`] when nothing is.
    pub fn approve(&self, only: Option<&RelPath>) -> Result<(), Failure> {
        let mut inner = self.lock();
        let by_guard = only.is_none() && inner.guard_hold.is_some();
        inner.approve_guard |= by_guard;
        drop(inner);
        match self.brakes.approve(only, now_ms()) {
            Ok(accounts) => {
                for account in accounts {
                    match account {
                        Some(account) => self.dirty.mark(&account, true, now_ms()),
                        None => self.dirty.mark_whole("a hold was approved", now_ms()),
                    }
                }
            }
            Err(_) if by_guard => {}
            Err(failure) => return Err(failure),
        }
        self.show_holds();
        Ok(())
    }

    /// Keeps at the standby what is held.
    ///
    /// # Errors
    /// [`Failure`] when nothing is.
    pub fn reject(&self, only: Option<&RelPath>) -> Result<(), Failure> {
        self.brakes.reject(only, now_ms())?;
        self.show_holds();
        Ok(())
    }

    fn show_holds(&self) {
        let guard_hold = self.lock().guard_hold.as_ref().map(|(hold, _)| hold.to_string());
        let holds = self.brakes.shown(&self.config.share, guard_hold);
        self.board.holds(holds);
    }

    /// What is known without a cut: shown once a second or so by whoever has a thread for it.
    pub fn show(&self) {
        let (dirty, watch) = (self.dirty.status(), self.watcher.report());
        let inner = self.lock();
        let whole = dirty.whole.is_some() || inner.whole.is_some() || !inner.covered;
        let files = dirty.marks.saturating_sub(inner.marks_sealed);
        let bound = match whole {
            true => Bound::Unknown,
            // A mark is a directory, of one change or more; what is held is not counted at all.
            false if files > 0 || !self.left_out(&inner).is_empty() => Bound::AtLeast,
            false => Bound::AtMost,
        };
        self.board.at_risk(AtRisk { files, bytes: 0, bound });
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

    /// Begins to look at everything, if that is due.
    fn begin_rotation(
        &self,
        inner: &mut Inner,
        dirty: &DirtyStatus,
        withheld: &[RelPath],
    ) -> Result<(), CatalogError> {
        if dirty.gone.is_some() {
            return Ok(());
        }
        if dirty.whole.is_some() {
            inner.covered = false;
            inner.rotation = None;
            let taken = self.dirty.take(&filter(false, withheld));
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
        inner.rotation = Some(Rotation::begin(now_ms(), total));
        Ok(())
    }

    fn is_due(&self, inner: &Inner, dirty: &DirtyStatus, withheld: &[RelPath]) -> bool {
        if !inner.wanted.is_empty() || inner.seeding || inner.differ > 0 {
            return true;
        }
        let settle = i64::try_from(self.pace().settle.as_millis()).unwrap_or(i64::MAX);
        let before = now_ms().saturating_sub(settle);
        let waits = |account: &RelPath| !withheld.contains(account);
        dirty.accounts.iter().any(|a| a.first_ms <= before && waits(&a.account))
    }

    /// The next cut, if one is due.
    fn compose(&self) -> Result<Option<Cut>, CatalogError> {
        let mut inner = self.lock();
        if let Some((_, at)) = &inner.guard_hold
            && !inner.approve_guard
            && at.elapsed() < HELD_AGAIN
        {
            return Ok(None);
        }
        if self.brakes.holds_share() {
            return Ok(None);
        }
        self.retry(&mut inner);
        let (dirty, withheld) = (self.dirty.status(), self.brakes.withheld());
        let left_out = self.left_out(&inner);
        if !inner.seeding {
            self.begin_rotation(&mut inner, &dirty, &left_out)?;
        }
        let pace = match inner.whole {
            Some(_) => Duration::ZERO,
            None => self.pace().scan,
        };
        let slice = match &inner.rotation {
            Some(rotation) if !inner.seeding => rotation.next(&self.catalog.reader()?, pace)?,
            _ => None,
        };
        let beat = inner.covered && inner.last_seal.is_none_or(|at| at.elapsed() >= BEAT);
        if slice.is_none() && !beat && !self.is_due(&inner, &dirty, &left_out) {
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
        let taken = self.dirty.take(&filter(!inner.seeding, &left_out));
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
        // A node that is away goes on watching, or says that it did not.
        let completes = completes && watched && known;
        // What came since may be in the cut or not: it counts as not.
        let marks = dirty.marks;
        inner.under_way = UnderWay { taken, slice, wanted, judged: None, completes, marks };
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
        let policy = self.policy();
        let left_out = LeftOut::default();
        Ok(Some(Cut { look, time_unix_ms, policy, withheld, approved, labels, left_out }))
    }

    /// Marks what could not be replicated and is to be tried again.
    fn retry(&self, inner: &mut Inner) {
        let now = Instant::now();
        for (path, trouble) in &mut inner.troubled {
            if !trouble.marked && trouble.again <= now {
                let directory = path.split().map_or_else(RelPath::root, |(parent, _)| parent);
                self.dirty.mark(&directory, false, now_ms());
                trouble.marked = true;
            }
        }
        for (directory, _) in inner.deferred.extract_if(.., |_, again| *again <= now) {
            self.dirty.mark(&directory, false, now_ms());
        }
    }

    /// Notes where a policy deferred something that is not withheld.
    fn note_deferred(&self, inner: &mut Inner, cut: &Cut, report: &CutReport) {
        let again = Instant::now() + DEFERRED_AGAIN;
        let ahead = cut.left_out.accounts.iter().map(|(account, _)| account);
        let left_out: Vec<&RelPath> = cut.withheld.iter().chain(ahead).collect();
        let withheld = |path: &RelPath| left_out.iter().any(|a| path.starts_with(a));
        for path in report.deferred_first.iter().filter(|path| !withheld(path)) {
            if inner.deferred.len() >= TROUBLED_MAX {
                break;
            }
            if let Some((parent, _)) = path.split() {
                inner.deferred.entry(parent).or_insert(again);
            }
        }
    }

    /// Notes what a cut could not replicate, and forgets what it could.
    fn note_problems(&self, inner: &mut Inner, cut: &Cut, problems: &[Problem]) {
        let covered = |path: &RelPath| cut.look.covers(path);
        let former: HashMap<RelPath, u32> = inner
            .troubled
            .extract_if(.., |path, _| covered(path))
            .map(|(path, trouble)| (path, trouble.times))
            .collect();
        let account = |path: &RelPath| account_of(path, self.config.account_depth);
        let settled: BTreeSet<RelPath> = former.keys().map(account).collect();
        for problem in problems {
            let times = former.get(&problem.path).map_or(1, |times| times.saturating_add(1));
            self.board
                .problem(&account(&problem.path), &format!("{}: {}", problem.path, problem.text));
            if inner.troubled.len() < TROUBLED_MAX {
                let wait = RETRY_FIRST.saturating_mul(1 << times.min(16)).min(RETRY_LAST);
                let again = Instant::now() + wait;
                let trouble = Trouble { times, again, marked: false };
                inner.troubled.insert(problem.path.clone(), trouble);
            }
        }
        let troubled: BTreeSet<RelPath> = inner.troubled.keys().map(account).collect();
        settled.difference(&troubled).for_each(|account| self.board.solved(Some(account)));
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

    fn hold_by_guard(&self, hold: guard::Hold) {
        let text = hold.to_string();
        self.board.state(ShareState::Held, Some(&text));
        let first = self.lock().guard_hold.replace((hold, Instant::now())).is_none();
        if first {
            self.log.say(&Record::new(Level::Error, "held", text).share(&self.config.share));
        }
        self.show_holds();
    }

    fn answer(&self, wanted: Vec<Wanted>, answer: impl Fn() -> Result<RecoveryPoint, Failure>) {
        for Wanted { reply, .. } in wanted {
            // Who asked may have left.
            reply.send(answer()).unwrap_or(());
        }
    }

    fn show_accounts(&self, inner: &mut Inner, time: i64) {
        let withheld = self.left_out(inner);
        inner.behind.retain(|account, _| withheld.contains(account));
        let former = inner.last_point.map_or(time, |point| point.time_unix_ms);
        for account in withheld {
            inner.behind.entry(account).or_insert(former);
        }
        self.board.accounts(inner.behind.iter().map(|(account, time)| (account, *time)));
    }
}

fn filter(parts_only: bool, withheld: &[RelPath]) -> TakeFilter {
    let left_out = withheld.iter().cloned().collect();
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

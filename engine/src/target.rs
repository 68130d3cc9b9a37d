//! The target's end of a session: check, stage, apply, acknowledge.
//!
//! ```text
//! control ──► main thread: comparisons, seals by themselves (reads the catalog)
//! bulk    ──► stagers: one batch each                 (write staging, read history and tree)
//!               └──► applier: batches in order        (alone writes the tree and the catalog)
//!                      └──► receipts, and the seal that was asked for behind them
//!             ├──► carries: content ahead of its cut  (write .farshore/ahead)
//!             └──► signer                             (reads the tree)
//! ```
//! Guarantees: a receipt is sent when its batch is durable, never before; one session at a time has a
//! share; an older epoch and a used batch number are refused. An error of any thread, or a panic in
//! it, ends the session: the source hears why, and the next start finishes what was journaled.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, never, select};
use farshore_core::policy::PolicySet;
use farshore_core::recovery_point::{Epoch, RecoveryPoint};
use farshore_proto::close::CloseCode;
use farshore_proto::compare::TreeView;
use farshore_proto::link::{BulkReceive, Link, LinkError};
use farshore_proto::message::{
    AHEAD_VERSION, ANSWER_CHILDREN_MAX, Answer, Beat, Behind, Holds, Message, POLICIES_VERSION,
    Query, Receipt, Sign, StoreId, WIDE, Welcome,
};
use farshore_proto::session::{CARRIES_MAX, SIGNS_UNDER_WAY_MAX, SessionError, TargetSession};
use redb::Durability;

use crate::apply::group::Waiting;
use crate::apply::{Applier, ApplyError, HistoryBounds};
use crate::catalog::{Catalog, CatalogError, CatalogReader};
use crate::check::check;
use crate::contents::Applied;
use crate::deadline::{FAREWELL, within};
use crate::frames::{FrameError, FrameReader};
use crate::history::{HistoryError, rollback};
use crate::io::Storage;
use crate::own_folder::OwnFolder;
use crate::plan::{PlanError, Problem};
use crate::profile::{Profile, Stage};
use crate::stage::{StageConfig, StageError, StagedBatch, Stager, is_fatal, is_full};

mod carry;
mod control;
mod signer;

pub use control::answer_comparisons;

/// Batches that wait for the applier, at most: bounds their lists in memory, and how many share one
/// sync. More than a source has under way.
const STAGED_MAX: usize = 32;
/// How a target runs.
#[derive(Debug, Clone)]
pub struct TargetConfig {
    /// Identity given to a tree that has none yet: random.
    pub fresh_id: StoreId,
    /// Threads that check the tree, then stage; with one, all is read in one order.
    pub stagers: usize,
    /// How objects are staged.
    pub stage: StageConfig,
    /// How much history is kept.
    pub history: HistoryBounds,
    /// The epoch that roles say is in force: no source of another one sends. Without one, it is that of the
    /// last recovery point, and a source may raise it.
    pub epoch: Option<Epoch>,
    /// The only policies that may decide at the source; any if there are none.
    pub policies: Option<PolicySet>,
    /// Where lists too long for memory go.
    pub spool_folder: PathBuf,
    /// Milliseconds since 1970-01-01 UTC.
    pub now_ms: fn() -> i64,
    /// Where the time goes.
    pub profile: Arc<Profile>,
    /// Who is told of recovery points, if somebody is.
    pub observer: Option<Arc<dyn Observer>>,
    /// Counts of entries that somebody else found to be other than they were applied, and has recorded
    /// so: in a session that stands the source is told.
    pub foreign: Option<Receiver<u64>>,
}

/// Who is told what a target records.
pub trait Observer: std::fmt::Debug + Send + Sync {
    /// The session began: the tree is open, finished and checked; its last recovery point.
    fn began(&self, welcome: &Welcome);
    /// A batch is durable but for its failures.
    fn applied(&self, receipt: &Receipt);
    /// A recovery point is durable.
    fn sealed(&self, point: &RecoveryPoint);
    /// What the source says that its brake holds is durable.
    fn holds(&self, _: &Holds) {}
    /// Accounts that the point recorded last does not have as at its time; said before the point.
    fn behind(&self, _: &Behind) {}
    /// What the source said of its keys; what is to be answered.
    fn keys(&self, said: &[u8]) -> Option<Vec<u8>>;
    /// What the source said of itself, and how long a way there and back takes; what is to be answered.
    fn beat(&self, _: &Beat, _round_trip: Duration) -> Option<Beat> {
        None
    }
}

/// What a session did at the target.
#[derive(Debug, Default)]
pub struct TargetReport {
    /// Batches applied.
    pub batches: u64,
    /// Entries that others had changed.
    pub foreign_changes: u64,
    /// What the check could not read.
    pub problems: Vec<Problem>,
    /// Whether a recovery point was recorded.
    pub sealed: bool,
    /// Sets of kept versions removed.
    pub history_pruned: u64,
}

/// Why a target's session failed.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The link is gone.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The peer broke the protocol.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The catalog cannot be used.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The tree cannot be checked.
    #[error("checking the target tree")]
    Check(#[from] PlanError),
    /// Another process writes the tree.
    #[error(
        "target folder .farshore: another farshore process writes this tree; wait for it or stop it"
    )]
    InUse,
    /// Farshore's folder cannot be used.
    #[error("target folder .farshore: opening it")]
    OwnFolder(#[source] io::Error),
    /// A batch cannot be staged.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// A batch cannot be applied.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// What is held ahead of its cut cannot be used.
    #[error("target folder .farshore/ahead: using it")]
    Ahead(#[source] io::Error),
    /// A rollback that was interrupted cannot be finished.
    #[error("finishing an interrupted rollback")]
    Rollback(#[from] HistoryError),
    /// A thread ended without a word.
    #[error("a thread of the session ended unexpectedly")]
    ThreadGone,
}

impl TargetError {
    fn close_code(&self) -> CloseCode {
        match self {
            Self::Session(SessionError::VersionMismatch { .. }) => CloseCode::VersionMismatch,
            Self::Session(
                SessionError::EpochFenced { .. }
                | SessionError::EpochUnknown { .. }
                | SessionError::EpochOfBatch { .. },
            ) => CloseCode::EpochFenced,
            Self::Session(
                SessionError::PoliciesDiffer { .. } | SessionError::PoliciesUnknown { .. },
            ) => CloseCode::PoliciesDiffer,
            Self::InUse => CloseCode::Busy,
            Self::Session(_) | Self::Stage(StageError::Decode(_) | StageError::Frame(_)) => {
                CloseCode::ProtocolViolation
            }
            Self::Stage(StageError::Disk { .. }) | Self::Apply(ApplyError::Disk { .. }) => {
                CloseCode::Disk
            }
            Self::Ahead(e) if is_fatal(e) => CloseCode::Disk,
            Self::Rollback(e) if e.file_system().is_some_and(is_fatal) => CloseCode::Disk,
            Self::OwnFolder(e) if is_fatal(e) => CloseCode::Disk,
            _ if self.catalog().and_then(CatalogError::file_system).is_some_and(is_fatal) => {
                CloseCode::Disk
            }
            _ => CloseCode::Internal,
        }
    }

    /// The catalog's error, if it is one: the catalog may have to be opened anew.
    #[must_use]
    pub fn catalog(&self) -> Option<&CatalogError> {
        match self {
            Self::Catalog(e)
            | Self::Stage(StageError::Catalog(e))
            | Self::Apply(ApplyError::Catalog(e)) => Some(e),
            _ => None,
        }
    }

    /// Whether there is no room, for anything: what is too large by itself is a failure of that file.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let disk = match self {
            Self::Stage(StageError::Disk { source, .. })
            | Self::Apply(ApplyError::Disk { source, .. })
            | Self::OwnFolder(source)
            | Self::Ahead(source) => Some(source),
            Self::Rollback(e) => e.file_system(),
            other => other.catalog().and_then(CatalogError::file_system),
        };
        disk.is_some_and(is_full)
    }

    /// As the source is told.
    fn told(&self) -> String {
        let text = crate::ingest::describe(self);
        if self.is_full() { format!("no space: {text}") } else { text }
    }
}

/// The message that opens a session, before it is known which share it is for.
///
/// # Errors
/// [`TargetError`] when the peer says anything else.
pub fn receive_hello(link: &dyn Link) -> Result<Message, TargetError> {
    let state = "waiting for a hello";
    let bytes = link.recv_control()?.ok_or(SessionError::EndedEarly { state })?;
    let message = Message::from_bytes(&bytes).map_err(SessionError::Decode)?;
    if matches!(message, Message::Hello { .. }) {
        Ok(message)
    } else {
        Err(SessionError::UnexpectedMessage { state, message: message.name() }.into())
    }
}

/// The policies in force at the source, which it says first of all, if its version can; refused when
/// they are not those `wanted`.
fn receive_policies(
    link: &dyn Link,
    machine: &mut TargetSession,
    wanted: Option<&PolicySet>,
) -> Result<Option<PolicySet>, TargetError> {
    let version = machine.version();
    if version < POLICIES_VERSION {
        return match wanted {
            Some(_) => Err(SessionError::PoliciesUnknown { version }.into()),
            None => Ok(None),
        };
    }
    let state = machine.state_name();
    let bytes = link.recv_control()?.ok_or(SessionError::EndedEarly { state })?;
    let message = Message::from_bytes(&bytes).map_err(SessionError::Decode)?;
    machine.handle(&message)?;
    let Message::Policies(found) = message else { return Err(TargetError::ThreadGone) };
    accepted(found, wanted).map(Some)
}

/// The policies, if they are those `wanted`.
fn accepted(found: PolicySet, wanted: Option<&PolicySet>) -> Result<PolicySet, TargetError> {
    match wanted.and_then(|wanted| found.difference(wanted)) {
        Some(difference) => Err(SessionError::PoliciesDiffer { difference }.into()),
        None => Ok(found),
    }
}

/// Tells the peer that it will not be served, and why; it has [`FAREWELL`] to leave.
pub fn refuse(link: &dyn Link, code: CloseCode, text: &str) {
    let refusal = Message::Refused { code: code as u32, text: text.into() };
    within(link, FAREWELL, code, text, || {
        let told = link.send_control(Bytes::from(refusal.to_bytes()));
        if told.is_ok() && link.finish_control().is_ok() {
            // The source closes when it has read it; what it says meanwhile no longer matters.
            while matches!(link.recv_control(), Ok(Some(_))) {}
        }
    });
    link.close(code as u32, text);
}

/// Runs the target's end of one session over `link`, which opened with `hello`.
///
/// # Errors
/// [`TargetError`]; the peer has been told.
pub fn run<S: Storage>(
    storage: &S,
    catalog: &Catalog,
    link: &dyn Link,
    hello: &Message,
    config: &TargetConfig,
) -> Result<TargetReport, TargetError> {
    let result = Session::open(storage, catalog, link, hello, config)
        .and_then(|(session, own)| session.serve(&own));
    if let Err(e) = &result {
        refuse(link, e.close_code(), &e.told());
    }
    result
}

/// Finishes what a crash interrupted, without a source: a site that is lost with its source under way has
/// batches half applied, of which objects may be in staging alone. Whether there is such a tree: one that
/// the catalog does not know, or that is not there, is left as it is, as nothing is known to be under way
/// in it.
///
/// # Errors
/// [`TargetError`]; the next session tries again.
pub fn finish_interrupted<S: Storage>(
    storage: &S,
    catalog: &Catalog,
    config: &TargetConfig,
) -> Result<bool, TargetError> {
    let Some(tree) = catalog.reader()?.tree()? else { return Ok(false) };
    // An empty mount point has no folder of ours, and is not to get one.
    if OwnFolder::identity_of(storage).map_err(TargetError::OwnFolder)? != Some(tree) {
        return Ok(false);
    }
    let own = open_own_folder(storage, config)?;
    finish_in(storage, catalog, &own, config)?;
    Ok(true)
}

fn open_own_folder<S: Storage>(
    storage: &S,
    config: &TargetConfig,
) -> Result<OwnFolder<S>, TargetError> {
    OwnFolder::open(storage, config.fresh_id).map_err(|e| match e.kind() {
        io::ErrorKind::ResourceBusy => TargetError::InUse,
        _ => TargetError::OwnFolder(e),
    })
}

fn finish_in<S: Storage>(
    storage: &S,
    catalog: &Catalog,
    own: &OwnFolder<S>,
    config: &TargetConfig,
) -> Result<(), TargetError> {
    let (now_ms, profile) = (&config.now_ms, &*config.profile);
    let applier = Applier { storage, catalog, own, now_ms, profile };
    applier.recover()?;
    rollback::finish_at_start(&applier, &config.spool_folder, config.stagers, config.stage)?;
    Ok(())
}

/// What `run` comes to; a panic in it is an error of its thread.
fn caught<T>(run: impl FnOnce() -> Result<T, TargetError>) -> Result<T, TargetError> {
    // What it had in hand is of this session, which ends with it.
    catch_unwind(AssertUnwindSafe(run)).unwrap_or(Err(TargetError::ThreadGone))
}

/// Runs one thread's part of a session. However it fails, the session does: the peer would wait for
/// what it owes, and the other threads for the peer.
fn part<T>(fail: &impl Fn(TargetError), run: impl FnOnce() -> Result<T, TargetError>) -> Option<T> {
    caught(run).map_err(fail).ok()
}

/// A panic elsewhere leaves these values whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Session<'a, S: Storage> {
    storage: &'a S,
    catalog: &'a Catalog,
    link: &'a dyn Link,
    config: &'a TargetConfig,
    machine: Mutex<TargetSession>,
    source: StoreId,
    epoch: Epoch,
    /// What decides at the source; `None` when it cannot say.
    policies: Mutex<Option<PolicySet>>,
    /// Accounts that the next point does not have as at its time.
    behind: Mutex<Behind>,
    seals: Mutex<control::Seals>,
    report: TargetReport,
    next_batch: u64,
}

impl<'a, S: Storage> Session<'a, S> {
    /// Opens the tree, finishes what was journaled, checks the tree, and says welcome.
    fn open(
        storage: &'a S,
        catalog: &'a Catalog,
        link: &'a dyn Link,
        hello: &Message,
        config: &'a TargetConfig,
    ) -> Result<(Self, OwnFolder<S>), TargetError> {
        let recorded = catalog.reader()?.epoch()?;
        let epoch = config.epoch.unwrap_or(recorded);
        let mut machine = match config.epoch {
            Some(epoch) => TargetSession::exact(epoch),
            None => TargetSession::new(epoch),
        };
        machine.handle(hello)?;
        let Message::Hello { source, trust_target, epoch: theirs, .. } = hello else {
            return Err(TargetError::ThreadGone);
        };
        let own = open_own_folder(storage, config)?;
        finish_in(storage, catalog, &own, config)?;
        let mut report = TargetReport::default();
        let reader = catalog.reader()?;
        let never_sealed = reader.recovery_point()?.is_none();
        // A catalog is found by the path of its tree; another tree at that path is none of its own.
        let is_known = reader.tree()? == Some(own.identity);
        drop(reader);
        if !trust_target || never_sealed || !is_known {
            let mut lost = None;
            let _checking = config.profile.enter(Stage::Check);
            let checked =
                check(storage, catalog, config.stagers, &config.spool_folder, &mut |seen| {
                    let message = Message::Checking(seen);
                    if seen.is_multiple_of(8_192) && lost.is_none() {
                        lost = link.send_control(Bytes::from(message.to_bytes())).err();
                    }
                })?;
            if let Some(lost) = lost {
                return Err(lost.into());
            }
            report.foreign_changes = checked.foreign_changes;
            report.problems = checked.problems;
        }
        if !is_known {
            catalog.update(Durability::Immediate, |t| t.set_tree(own.identity))?;
        }
        let root = catalog.sealed_root()?;
        let reader = catalog.reader()?;
        if reader.sealed_with()?.is_none() && reader.entry_count()? == 0 {
            // An empty tree is made from this source from its first entry on: a first run that is
            // interrupted needs nobody's approval to go on.
            catalog.update(Durability::Immediate, |t| t.set_joined_with(*source))?;
        }
        let reader = catalog.reader()?;
        let applied_batch = reader.applied_batch()?;
        let welcome = Welcome {
            version: machine.version(),
            target: own.identity,
            sealed_with: reader.sealed_with()?,
            epoch,
            applied_batch,
            root,
            entries: reader.entry_count()?,
            foreign_changes: report.foreign_changes,
            recovery_point: reader.recovery_point()?,
        };
        machine.welcome_sent(applied_batch);
        if let Some(observer) = &config.observer {
            observer.began(&welcome);
        }
        link.send_control(Bytes::from(Message::Welcome(welcome).to_bytes()))?;
        let policies = receive_policies(link, &mut machine, config.policies.as_ref())?;
        let session = Self {
            storage,
            catalog,
            link,
            config,
            machine: Mutex::new(machine),
            source: *source,
            epoch: *theirs,
            policies: Mutex::new(policies),
            behind: Mutex::default(),
            seals: Mutex::default(),
            report,
            next_batch: applied_batch + 1,
        };
        Ok((session, own))
    }

    fn machine(&self) -> MutexGuard<'_, TargetSession> {
        lock(&self.machine)
    }

    fn serve(mut self, own: &OwnFolder<S>) -> Result<TargetReport, TargetError> {
        let applied = Applied::new(self.next_batch - 1);
        let first_error: Mutex<Option<TargetError>> = Mutex::new(None);
        // A peer that was told of an error has a time to leave, then the link is closed.
        let (failed, failure) = bounded::<()>(1);
        let (control_over, over) = bounded::<()>(0);
        // The session's machine lets one pass at a time: the control loop never waits for room.
        let (seal_behind, seals_behind) = bounded::<(u64, RecoveryPoint)>(1);
        // The control loop may wait for a word already when the applier seals.
        let (may_leave, leaving) = bounded::<()>(1);
        let fail = |e: TargetError| {
            let mut slot = first_error.lock().unwrap_or_else(PoisonError::into_inner);
            if slot.is_none() {
                let (text, code) = (e.told(), e.close_code());
                *slot = Some(e);
                drop(slot);
                applied.abandon();
                failed.try_send(()).unwrap_or(());
                // The control loop may wait for the peer for ever otherwise.
                let refusal = Message::Refused { code: code as u32, text };
                drop(self.link.send_control(Bytes::from(refusal.to_bytes())));
                drop(self.link.finish_control());
            }
        };
        let (streams, incoming) = bounded(0);
        let (staged, to_apply) = bounded::<StagedBatch>(STAGED_MAX);
        // As many as the session's machine lets pass: batches never wait for what goes ahead.
        let (carries, carried) = bounded::<(FrameReader, u64)>(CARRIES_MAX);
        let control = std::thread::scope(|scope| {
            scope.spawn(|| part(&fail, || self.accept(streams, carries)));
            let carriers = if self.machine().version() >= AHEAD_VERSION { CARRIES_MAX } else { 0 };
            for _ in 0..carriers {
                let (session, fail, carried) = (&self, &fail, carried.clone());
                scope.spawn(move || part(fail, || session.carry(own, &carried)));
            }
            drop(carried);
            for _ in 0..self.config.stagers.max(1) {
                let (incoming, staged) = (incoming.clone(), staged.clone());
                let (fail, applied) = (&fail, &applied);
                let session = &self;
                scope.spawn(move || {
                    part(fail, || session.stage(own, applied, &incoming, &staged));
                });
            }
            drop((incoming, staged));
            let (session, fail_all, advanced) = (&self, &fail, &applied);
            let applying = scope.spawn(move || {
                let applier = Applier {
                    storage: session.storage,
                    catalog: session.catalog,
                    own,
                    now_ms: &session.config.now_ms,
                    profile: &session.config.profile,
                };
                let apply =
                    || session.apply(&applier, to_apply, seals_behind, advanced, &may_leave);
                part(fail_all, apply).unwrap_or(0)
            });
            scope.spawn(|| {
                select! {
                    recv(failure) -> _ => {}
                    recv(over) -> _ => return,
                }
                if over.recv_timeout(FAREWELL) == Err(RecvTimeoutError::Timeout) {
                    self.link.close(CloseCode::Internal as u32, "the session failed");
                }
            });
            scope.spawn(|| {
                select! {
                    recv(leaving) -> _ => {}
                    recv(over) -> _ => return,
                }
                let stays = over.recv_timeout(FAREWELL) == Err(RecvTimeoutError::Timeout);
                if stays && self.machine().may_be_left() {
                    self.link.close(CloseCode::Done as u32, "");
                }
            });
            // As many as the session's machine lets pass: the control loop never waits for room.
            let (ask, asked) = bounded::<Sign>(SIGNS_UNDER_WAY_MAX);
            let session = &self;
            scope.spawn(move || {
                part(fail_all, || {
                    session.sign(own, &asked);
                    Ok(())
                })
            });
            let stopped = over.clone();
            scope.spawn(move || session.tell_foreign(&stopped));
            let control = caught(|| self.control(own, ask, seal_behind));
            drop(control_over);
            // A link that broke tells nobody anything; of an error elsewhere the peer knows.
            if let Err(e) = &control
                && !matches!(e, TargetError::Link(_))
                && first_error.lock().is_ok_and(|first| first.is_none())
            {
                refuse(self.link, e.close_code(), &e.told());
            }
            self.link.close(CloseCode::Done as u32, "");
            applied.abandon();
            let batches = applying.join().map_err(|_| TargetError::ThreadGone)?;
            control.map(|()| batches)
        });
        if let Some(e) = first_error.into_inner().unwrap_or_else(PoisonError::into_inner) {
            // Else the catalog is indexed anew when it is next opened.
            drop(self.catalog.settle());
            return Err(e);
        }
        self.report.batches = control?;
        let seals = lock(&self.seals);
        (self.report.sealed, self.report.history_pruned) = (seals.sealed, seals.pruned);
        drop(seals);
        Ok(self.report)
    }

    /// Hands each stream to a stager, in the order they were opened.
    fn accept(
        &self,
        streams: Sender<(FrameReader, u64)>,
        carries: Sender<(FrameReader, u64)>,
    ) -> Result<(), TargetError> {
        loop {
            let stream: Box<dyn BulkReceive> = match self.link.accept_bulk() {
                Ok(Some(stream)) => stream,
                // The session is over; an error is the control loop's to report.
                Ok(None) | Err(_) => return Ok(()),
            };
            let (mut reader, header) = FrameReader::begin(stream).map_err(StageError::from)?;
            if header.ahead {
                self.machine().carry_began(&header)?;
                if carries.send((reader, header.batch)).is_err() {
                    return Ok(());
                }
                continue;
            }
            self.machine().batch_began(&header)?;
            // The streams of a batch are opened one after another.
            while reader.is_missing_streams() {
                let Ok(Some(stream)) = self.link.accept_bulk() else { return Ok(()) };
                reader.join(stream).map_err(StageError::from)?;
            }
            if streams.send((reader, header.batch)).is_err() {
                return Ok(());
            }
        }
    }

    fn stage(
        &self,
        own: &OwnFolder<S>,
        applied: &Applied,
        incoming: &Receiver<(FrameReader, u64)>,
        staged: &Sender<StagedBatch>,
    ) -> Result<(), TargetError> {
        while let Ok((mut reader, batch)) = incoming.recv() {
            let stager =
                Stager::new(self.storage, self.catalog, own, applied, self.config.stage, batch)?
                    .speaking(self.machine().version());
            let profile = &*self.config.profile;
            let done = match profile.time(Stage::Stage, || stager.run(&mut reader, profile)) {
                Ok(done) => done,
                // The control loop knows better why the link is gone. If it is not, the stream alone
                // was broken off, and nobody else will say so.
                Err(StageError::Frame(FrameError::Link(e))) => {
                    let (code, text) = (CloseCode::ProtocolViolation, e.to_string());
                    let refusal = Message::Refused { code: code as u32, text };
                    return match self.send(&refusal) {
                        Ok(()) => Err(StageError::from(FrameError::Link(e)).into()),
                        Err(_) => Ok(()),
                    };
                }
                Err(e) => return Err(e.into()),
            };
            if self.config.profile.time(Stage::Queue, || staged.send(done).is_err()) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Applies batches in the order of their numbers, all that wait together as one group; how many. Seals behind
    /// those of which that was asked, when their receipts are sent.
    /// The queue ends with this: a stager must not wait for room in it when nobody takes from it any
    /// more.
    fn apply(
        &self,
        applier: &Applier<'_, S>,
        staged: Receiver<StagedBatch>,
        mut seals: Receiver<(u64, RecoveryPoint)>,
        applied: &Applied,
        may_leave: &Sender<()>,
    ) -> Result<u64, TargetError> {
        let mut waiting = Waiting::new(self.next_batch);
        let mut seal = None;
        loop {
            select! {
                recv(staged) -> batch => match batch {
                    Ok(batch) => waiting.add(batch),
                    Err(_) => break,
                },
                recv(seals) -> wanted => match wanted {
                    Ok(wanted) => seal = Some(wanted),
                    // What is staged yet is applied.
                    Err(_) => seals = never(),
                },
            }
            loop {
                staged.try_iter().for_each(|batch| waiting.add(batch));
                let group = waiting.next_group();
                if group.is_empty() {
                    break;
                }
                for receipt in applier.apply(group)? {
                    applied.advance(receipt.batch);
                    self.machine().batch_applied(receipt.batch, receipt.failures.is_empty());
                    if let Some(observer) = &self.config.observer {
                        observer.applied(&receipt);
                    }
                    let message = Message::Receipt(receipt.fitted());
                    self.link.send_control(Bytes::from(message.to_bytes()))?;
                }
            }
            if let Some((_, point)) = seal.take_if(|(last, _)| *last < waiting.next_batch()) {
                let may = !self.machine().has_failed();
                self.seal(applier.own, &point, may)?;
                if self.machine().may_be_left() && !self.machine().is_standing() {
                    may_leave.try_send(()).unwrap_or(());
                }
            }
        }
        Ok(waiting.next_batch() - self.next_batch)
    }
}

#[cfg(test)]
mod tests;

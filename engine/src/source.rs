//! The source's end of a session: plan, guard, send, record what was acknowledged.
//!
//! One thread owns the session and the catalog: it feeds batches to the workers that read and send
//! them, and alone acts on what the target answers. Guarantees: nothing is sent before the guard has
//! judged the whole plan; the catalog learns of an operation when its receipt says it is durable;
//! the recovery point is recorded when both ends have computed the same root digest. What the target
//! says faster than it is acted on waits at the target, not in memory here.
//!
//! After a crash the catalog is behind the target at most; the roots then differ, the two are
//! compared, and nothing acknowledged is sent again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Sender, bounded, unbounded};
use farshore_core::digest::RootDigest;
use farshore_core::entry::{Entry, EntryKind};
use farshore_core::guard::{self, RootIdentity, judge, judge_faults};
use farshore_core::limits::{PATH_LEN_MAX, SMALL_FILE_MAX};
use farshore_core::path::RelPath;
use farshore_core::policy::{Policy, PolicySet};
use farshore_core::recovery_point::RecoveryPoint;
use farshore_proto::batch::Deal;
use farshore_proto::close::CloseCode;
use farshore_proto::compare::{Comparison, Difference};
use farshore_proto::link::Link;
use farshore_proto::message::{
    BATCH_NAMES_MAX, Beat, Behind, DELTA_VERSION, FAILURE_COST, LEAVE_VERSION, Message,
    PIECES_VERSION, POLICIES_VERSION, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, Receipt,
    STANDING_VERSION, STRIPES_VERSION, StoreId, Welcome,
};
use farshore_proto::session::{SessionError, SourceSession};
use redb::Durability;

use crate::OWN_FOLDER;
use crate::catalog::{Catalog, CatalogError, CatalogReader, CatalogTables, LocalFacts, Record};
use crate::deadline::{FAREWELL, within};
use crate::frames::{LineGauge, Striping};
use crate::ingest::{BatchRecord, RunIndex, SignDesk, describe, preview};
use crate::io::{Object, Storage};
use crate::observe::metadata;
use crate::plan::{Change, Plan, Problem, plan};
use crate::profile::Stage;
use crate::progress::{Phase, Progress};

mod ahead;
mod carrier;
mod config;
mod huge;
mod inbox;
mod receipts;
mod rounds;
mod sealing;
pub mod standing;
mod turns;
mod worker;

use ahead::AheadDesk;
pub use config::{Outcome, SourceConfig, SourceError, SourceReport};
use huge::Carried;
use inbox::Inbox;
use sealing::{Propose, Recorded};
use worker::{Turnstile, Worker};

/// Batches sent and not yet acknowledged, at most: bounds what waits in memory and in staging.
const BATCHES_UNDER_WAY: usize = 16;
/// Times the two ends are compared before a run gives up.
const COMPARISONS: usize = 3;

/// Messages of the target that wait for the coordinator: as many as an honest one sends unasked, a
/// receipt for each batch under way and its last words. More than these wait at the target.
const MESSAGES_MAX: usize = BATCHES_UNDER_WAY + 4;

/// What the coordinator hears.
#[derive(Debug)]
enum Event {
    Message(Message),
    /// A batch is written but for its end.
    Written(u64, BatchRecord),
    Failed(SourceError),
    /// The peer ended its side.
    Ended,
}

/// Runs the source's end of one session over `link`.
///
/// # Errors
/// [`SourceError`]; what goes wrong with single entries is in the report.
pub fn run<S: Storage>(
    storage: &S,
    catalog: &Catalog,
    link: &dyn Link,
    config: &SourceConfig<'_>,
    progress: &Progress,
) -> Result<SourceReport, SourceError> {
    let workers = config.workers;
    with_source(storage, catalog, link, config, progress, workers, |source| source.run())
}

/// Runs `work` with the source's end of a session over `link`, in which so many ask for signatures.
fn with_source<S: Storage, T>(
    storage: &S,
    catalog: &Catalog,
    link: &dyn Link,
    config: &SourceConfig<'_>,
    progress: &Progress,
    askers: usize,
    work: impl FnOnce(&mut Source<'_, S>) -> Result<T, SourceError>,
) -> Result<T, SourceError> {
    let (events, from_workers) = unbounded();
    let (messages, from_target) = bounded(MESSAGES_MAX);
    let (desk, ahead) = (SignDesk::new(link, askers), AheadDesk::default());
    std::thread::scope(|scope| {
        let (desk, ahead) = (&desk, &ahead);
        scope.spawn(move || {
            receive(link, desk, ahead, &messages);
            desk.close();
            ahead.close();
        });
        let mut source = Source {
            storage,
            catalog,
            link,
            config,
            progress,
            session: SourceSession::new(config.epoch),
            inbox: Inbox::new(from_workers, from_target),
            events,
            desk,
            ahead,
            carries: false,
            carried: Arc::default(),
            first: Vec::new(),
            index: RunIndex::default(),
            degraded: BTreeMap::new(),
            next_batch: 1,
            striping: Striping::ONE,
            deal: Deal::Frames,
            renewed: HashSet::new(),
            is_foreseen: false,
            sealing_behind: None,
            foreign: 0,
            keys: None,
            beat: None,
        };
        // A panic would leave the target, and the thread that hears it, waiting.
        let result = caught(|| work(&mut source));
        if result.is_err() {
            // Else the catalog is indexed anew when it is next opened.
            drop(catalog.settle());
            link.close(CloseCode::Internal as u32, "the source stopped");
        }
        result
    })
}

/// Corrects the catalog to what the target has, and sends nothing: what this tree is found to differ in from then
/// on is what the target never had. How many entries were corrected.
///
/// # Errors
/// [`SourceError`].
pub fn compare<S: Storage>(
    storage: &S,
    catalog: &Catalog,
    link: &dyn Link,
    config: &SourceConfig<'_>,
) -> Result<u64, SourceError> {
    let progress = Progress::default();
    with_source(storage, catalog, link, config, &progress, config.workers, |source| {
        source.hello()?;
        let belief = source.catalog.sealed_root()?;
        let welcome = source.welcome()?;
        source.settle_on(&welcome)?;
        if welcome.version >= POLICIES_VERSION {
            source.send(&Message::Policies(config.policy.identity()))?;
        }
        let mut corrected = 0;
        if belief != welcome.root {
            source.compare_with(&mut |_| corrected += 1)?;
            source.know_own_root()?;
        }
        source.leave()?;
        Ok(corrected)
    })
}

/// What `run` comes to; a panic in it is an error of its thread.
fn caught<T>(run: impl FnOnce() -> Result<T, SourceError>) -> Result<T, SourceError> {
    // What it had in hand is of this session, which ends with it.
    let run = std::panic::AssertUnwindSafe(run);
    std::panic::catch_unwind(run).unwrap_or(Err(SourceError::WorkerGone))
}

/// Passes on what arrives on the control stream until it ends: signatures to the workers that wait
/// for them, what is said of content ahead to those that carry it, the rest to the coordinator.
fn receive(link: &dyn Link, desk: &SignDesk<'_>, ahead: &AheadDesk, events: &Sender<Event>) {
    loop {
        let event = match link.recv_control() {
            Ok(Some(bytes)) => match Message::from_bytes(&bytes) {
                Ok(Message::Signatures { id, bytes }) => match desk.answered(id, bytes) {
                    Ok(()) => continue,
                    Err(e) => Event::Failed(e.into()),
                },
                Ok(message) => match ahead.hear(message) {
                    Ok(None) => continue,
                    Ok(Some(message)) => Event::Message(message),
                    Err(e) => Event::Failed(e.into()),
                },
                Err(e) => Event::Failed(SessionError::Decode(e).into()),
            },
            Ok(None) => Event::Ended,
            Err(e) => Event::Failed(e.into()),
        };
        let last = !matches!(event, Event::Message(_));
        if events.send(event).is_err() || last {
            return;
        }
    }
}

struct Source<'a, S: Storage> {
    storage: &'a S,
    catalog: &'a Catalog,
    link: &'a dyn Link,
    config: &'a SourceConfig<'a>,
    progress: &'a Progress,
    session: SourceSession,
    inbox: Inbox,
    events: Sender<Event>,
    desk: &'a SignDesk<'a>,
    ahead: &'a AheadDesk,
    /// Whether the session has files carried ahead of their cuts.
    carries: bool,
    /// What was carried for the cut under way.
    carried: Arc<Carried>,
    /// What goes before all else: what was carried, and files that this cut reads, with their length.
    first: Vec<(RelPath, Option<u64>)>,
    index: RunIndex,
    degraded: BTreeMap<String, u64>,
    next_batch: u64,
    striping: Striping,
    /// What of a batch goes to its streams in turn.
    deal: Deal,
    /// Paths that this round could not build: the next one sends them again.
    renewed: HashSet<RelPath>,
    /// Whether what was recorded last was written before its receipts came.
    is_foreseen: bool,
    /// The point that the target was asked to seal behind batches, while nothing of them is known to have failed.
    sealing_behind: Option<RecoveryPoint>,
    /// Entries that the target has found to be other than they were applied, since the last comparison.
    foreign: u64,
    /// What the target said of its keys last, to be given to the owner of a session that stands.
    keys: Option<Vec<u8>>,
    /// What it said of itself last, and when.
    beat: Option<(Beat, i64)>,
}

impl<S: Storage> Source<'_, S> {
    fn run(&mut self) -> Result<SourceReport, SourceError> {
        self.hello()?;
        self.foresee_bulk()?;
        let identity = self.identity()?;
        let policies = self.config.policy.identity();
        let belief = self.catalog.sealed_root()?;
        let (started, first_plan) = (self.now_ms(), self.plan_while_target_checks(&policies)?);
        let (mut plan, welcome) = first_plan;
        self.settle_on(&welcome)?;
        let reader = self.catalog.reader()?;
        let former = reader.recovery_point()?;
        let first_contact = self.is_first_contact(&reader, &welcome)?;
        let expected = reader.root_identity()?;
        let mut compared = false;
        if belief != welcome.root && !self.both_hold_nothing(&reader, &welcome)? {
            self.compare()?;
            compared = true;
            plan = self.plan(self.config.policy)?;
        }
        let rules = self.config.policy.rules();
        let spool_folder = &self.config.spool_folder;
        let by_policy = plan.take_by_policy(&reader, &rules, spool_folder)?;
        let mut report = SourceReport {
            outcome: Outcome::Preview(Vec::new()),
            would_hold: None,
            former,
            entries: plan.tally.found,
            excluded: plan.excluded,
            deferred: plan.deferred,
            deferred_first: std::mem::take(&mut plan.deferred_first),
            detached: plan.detached,
            by_policy,
            policies_changed: reader.policies()?.and_then(|former| former.difference(&policies)),
            policies,
            faults: plan.faults.count,
            foreign_changes: welcome.foreign_changes,
            compared,
            problems: std::mem::take(&mut plan.problems),
            degraded: BTreeMap::new(),
        };
        let target =
            guard::Target { first_contact, proven: former.map_or(0, |point| point.entries) };
        let hold = judge(expected, identity, plan.tally, self.config.threshold, target)
            .or_else(|| judge_faults(&plan.faults))
            .filter(|_| !self.config.approved);
        if self.config.dry_run {
            report.outcome = Outcome::Preview(self.preview(plan)?);
            report.would_hold = hold;
            self.leave()?;
            return Ok(report);
        }
        if let Some(hold) = hold {
            report.outcome = Outcome::Held(hold);
            self.leave()?;
            return Ok(report);
        }
        let unnamed = plan.faults.count.saturating_sub(plan.faults.first.len() as u64);
        let mut exceptions = report.problems.len() as u64 + unnamed;
        for attempt in 0.. {
            let mut propose = |source: &mut Self| {
                let problems = source.progress.take_problems();
                exceptions += problems.len() as u64;
                report.problems.extend(problems);
                let (root, entries, bytes) = (RootDigest([0; 32]), 0, 0);
                let sequence = former.map_or(0, |p| p.sequence) + 1;
                let time_unix_ms = started;
                Ok(RecoveryPoint { sequence, time_unix_ms, root, entries, bytes, exceptions })
            };
            self.replicate(plan, &mut propose)?;
            self.progress.enter(Phase::Sealing);
            if let Some(point) = self.agree(&mut propose)? {
                let SourceReport { policies, by_policy, .. } = &mut report;
                let tree = welcome.target;
                // A run of its own has everything, or names what it has not.
                let behind = &Behind::default();
                self.record_point(
                    &point,
                    Recorded { identity, policies, tree, by_policy, behind },
                )?;
                report.outcome = Outcome::Sealed(point);
                break;
            }
            if attempt + 1 >= COMPARISONS {
                return Err(SourceError::NoAgreement);
            }
            self.compare()?;
            report.compared = true;
            plan = self.plan(self.config.policy)?;
            let told: HashSet<RelPath> = report.problems.iter().map(|p| p.path.clone()).collect();
            let new = plan.problems.drain(..).filter(|problem| !told.contains(&problem.path));
            report.problems.extend(new);
            exceptions = exceptions.max(report.problems.len() as u64);
            report.faults = report.faults.max(plan.faults.count);
            if let Some(hold) = judge_faults(&plan.faults).filter(|_| !self.config.approved) {
                // What was applied so far is the source's; the cut is not published.
                report.outcome = Outcome::Held(hold);
                self.leave()?;
                return Ok(report);
            }
            report.by_policy = plan.take_by_policy(&reader, &rules, spool_folder)?;
        }
        report.degraded = std::mem::take(&mut self.degraded);
        if welcome.version >= LEAVE_VERSION {
            self.leave_sealed();
        } else {
            self.leave()?;
        }
        Ok(report)
    }

    fn hello(&self) -> Result<(), SourceError> {
        self.send(&Message::Hello {
            versions: (PROTOCOL_VERSION_MIN, PROTOCOL_VERSION),
            share: self.config.share.clone(),
            source: self.catalog.id(),
            epoch: self.config.epoch,
            trust_target: self.config.trust_target,
        })
    }

    /// Lets the link find out what its line holds while the target answers the hello, if much is likely to follow:
    /// what was never sealed was hardly ever sent.
    fn foresee_bulk(&self) -> Result<(), SourceError> {
        if !self.config.dry_run && self.catalog.reader()?.recovery_point()?.is_none() {
            self.link.expect_bulk();
        }
        Ok(())
    }

    /// Speaks as the target wants from here on.
    fn settle_on(&mut self, welcome: &Welcome) -> Result<(), SourceError> {
        self.next_batch = first_batch(welcome)?;
        if welcome.version >= DELTA_VERSION {
            self.desk.open();
        }
        if welcome.version >= STRIPES_VERSION {
            self.striping = self.config.striping;
        }
        if welcome.version >= PIECES_VERSION {
            self.deal = Deal::Pieces;
        }
        Ok(())
    }

    /// Whether no earlier run joined this source and that very tree.
    fn is_first_contact(
        &self,
        reader: &CatalogReader,
        welcome: &Welcome,
    ) -> Result<bool, SourceError> {
        // A catalog of before the tree was recorded has its own identity there.
        let tree = reader.sealed_with()?.filter(|tree| *tree != self.catalog.id());
        Ok(welcome.sealed_with != Some(self.catalog.id())
            || tree.is_some_and(|tree| tree != welcome.target))
    }

    /// Whether there is nothing to compare, and the plan was made of nothing: the target has nothing below
    /// its root, and here nothing is known of it, not even the root.
    fn both_hold_nothing(
        &self,
        reader: &CatalogReader,
        welcome: &Welcome,
    ) -> Result<bool, SourceError> {
        Ok(welcome.entries == 0
            && reader.entry_count()? == 0
            && reader.get(&RelPath::root())?.is_none())
    }

    fn now_ms(&self) -> i64 {
        let now = (self.config.now)();
        now.seconds.saturating_mul(1_000).saturating_add(i64::from(now.nanos / 1_000_000))
    }

    fn identity(&self) -> Result<RootIdentity, SourceError> {
        let at = |step| move |source| SourceError::Root { step, source };
        let root = self
            .storage
            .stat(Object::Directory(self.storage.root()))
            .map_err(at("looking at it"))?;
        let file_system = self.storage.file_system().map_err(at("asking its file system"))?;
        Ok(RootIdentity { inode: root.inode, file_system })
    }

    fn send(&self, message: &Message) -> Result<(), SourceError> {
        Ok(self.link.send_control(Bytes::from(message.to_bytes()))?)
    }

    /// The next message of the target, checked; what it says of foreign entries is noted.
    fn message(&mut self) -> Result<Message, SourceError> {
        loop {
            match self.inbox.recv() {
                Event::Message(message) => {
                    self.session.handle(&message)?;
                    if !self.hear_aside(&message) {
                        return Ok(message);
                    }
                }
                Event::Failed(e) => return Err(e),
                Event::Ended => {
                    let state = self.session.state_name();
                    return Err(SessionError::EndedEarly { state }.into());
                }
                // Nothing is being written while the session waits for a message.
                Event::Written(..) => return Err(SourceError::WorkerGone),
            }
        }
    }

    /// Whether the message belongs to no exchange under way: foreign entries are noted for the next
    /// comparison, what is said of keys for the owner, the last alone, for it is always all there is to say.
    fn hear_aside(&mut self, message: &Message) -> bool {
        match message {
            // None is no reason to compare, but a peer that says so has one.
            Message::Foreign(n) => self.foreign = self.foreign.saturating_add((*n).max(1)),
            Message::Keys(said) => self.keys = Some(said.clone()),
            Message::Beat(beat) => self.beat = Some((beat.clone(), self.now_ms())),
            _ => return false,
        }
        true
    }

    /// The target's welcome, behind what it says while it checks its tree.
    fn welcome(&mut self) -> Result<Welcome, SourceError> {
        use std::sync::atomic::Ordering::Relaxed;
        loop {
            match self.message()? {
                Message::Checking(n) => self.progress.checked.store(n, Relaxed),
                Message::Welcome(welcome) => return Ok(welcome),
                other => {
                    let state = self.session.state_name();
                    let message = other.name();
                    return Err(SessionError::UnexpectedMessage { state, message }.into());
                }
            }
        }
    }

    fn plan(&self, policy: &dyn Policy) -> Result<Plan, SourceError> {
        let _scanning = self.config.profile.enter(Stage::Scan);
        self.progress.enter(Phase::Scanning);
        let reader = self.catalog.reader()?;
        let own = OWN_FOLDER;
        Ok(plan(
            self.storage,
            &reader,
            policy,
            own,
            self.config.workers,
            &self.config.spool_folder,
            &mut |n| {
                self.progress.scanned.store(n, std::sync::atomic::Ordering::Relaxed);
            },
        )?)
    }

    /// The source walks its tree while the target checks its own.
    fn plan_while_target_checks(
        &mut self,
        policies: &PolicySet,
    ) -> Result<(Plan, Welcome), SourceError> {
        let (storage, catalog, config, progress) =
            (self.storage, self.catalog, self.config, self.progress);
        std::thread::scope(|scope| {
            let planning = scope.spawn(move || -> Result<Plan, SourceError> {
                let _scanning = config.profile.enter(Stage::Scan);
                progress.enter(Phase::Scanning);
                let reader = catalog.reader()?;
                Ok(plan(
                    storage,
                    &reader,
                    config.policy,
                    OWN_FOLDER,
                    config.workers,
                    &config.spool_folder,
                    &mut |n| progress.scanned.store(n, std::sync::atomic::Ordering::Relaxed),
                )?)
            });
            let welcome = self.welcome()?;
            if welcome.version >= POLICIES_VERSION {
                self.send(&Message::Policies(policies.clone()))?;
            }
            let plan = planning.join().map_err(|_| SourceError::WorkerGone)??;
            Ok((plan, welcome))
        })
    }

    /// Corrects the belief of what the target holds.
    fn compare(&mut self) -> Result<(), SourceError> {
        self.compare_with(&mut |_| ())
    }

    /// The same; `found` is given each path that it was wrong about.
    fn compare_with(&mut self, found: &mut dyn FnMut(&Difference)) -> Result<(), SourceError> {
        self.progress.enter(Phase::Comparing);
        let reader = self.catalog.reader()?;
        let mut comparison = Comparison::default();
        loop {
            let queries = comparison.poll_queries();
            if !queries.is_empty() {
                self.session.queries_sent(queries.len());
                self.send(&Message::Compare(queries))?;
            }
            if comparison.is_finished() {
                break;
            }
            let Message::Answer(answer) = self.message()? else {
                return Err(SessionError::UnaskedAnswer.into());
            };
            let differences = comparison.handle_answer(answer, &reader)?;
            differences.iter().for_each(&mut *found);
            if !differences.is_empty() {
                self.catalog.update(Durability::None, |t| believe(t, differences))?;
            }
        }
        // The root has no parent to be compared in: it is always looked at again.
        self.catalog.update(Durability::Immediate, |t| {
            t.remove(&RelPath::root())?;
            t.seal()
        })?;
        Ok(())
    }

    /// The root's own entry, which nothing is compared with, is what it is here.
    fn know_own_root(&self) -> Result<(), SourceError> {
        let storage = self.storage;
        let object = Object::Directory(storage.root());
        let read = |source| SourceError::Root { step: "looking at it", source };
        let stat = storage.stat(object).map_err(read)?;
        let meta = metadata(storage, object, &stat);
        let meta = meta.map_err(|e| read(io::Error::other(describe(&e))))?;
        let record =
            Record { entry: Entry::Directory { meta }, facts: Some(LocalFacts::of(&stat)) };
        self.catalog.update(Durability::Immediate, |t| {
            t.put(&RelPath::root(), &record)?;
            t.seal()
        })?;
        Ok(())
    }

    fn preview(&self, plan: Plan) -> Result<Vec<(RelPath, &'static str)>, SourceError> {
        const LINES_MAX: usize = 1_000_000;
        let reader = self.catalog.reader()?;
        let mut changes = plan.into_changes()?;
        let mut lines = Vec::new();
        while let Some(change) = changes.next_change()? {
            let known = reader.get(change.path())?.map(|r| r.entry);
            lines.push((change.path().clone(), preview(&change, known.as_ref())));
            if lines.len() == LINES_MAX {
                break;
            }
        }
        Ok(lines)
    }
}

/// The number after the last one the target has applied, with room for more than any run needs.
fn first_batch(welcome: &Welcome) -> Result<u64, SessionError> {
    let found = welcome.applied_batch;
    if found > u64::MAX / 2 {
        return Err(SessionError::Absurd { what: "batch", found });
    }
    Ok(found + 1)
}

/// Takes what the target holds for true.
fn believe(
    tables: &mut CatalogTables<'_>,
    differences: Vec<Difference>,
) -> Result<(), CatalogError> {
    for Difference { path, theirs } in differences {
        if theirs.as_ref().is_none_or(|e| e.kind() != EntryKind::Directory) {
            tables.remove_below(&path)?;
        }
        match theirs {
            Some(entry) => tables.put(&path, &Record { entry, facts: None })?,
            None => {
                tables.remove(&path)?;
            }
        }
    }
    Ok(())
}

/// A wall clock from the operating system.
#[must_use]
pub fn system_wall_clock() -> farshore_core::entry::Timestamp {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    farshore_core::entry::Timestamp {
        seconds: now.tv_sec,
        nanos: u32::try_from(now.tv_nsec).unwrap_or(0),
    }
}

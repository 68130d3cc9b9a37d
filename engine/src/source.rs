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
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Sender, bounded, unbounded};
use farshore_core::entry::EntryKind;
use farshore_core::guard::{self, RootIdentity, judge, judge_faults};
use farshore_core::limits::{PATH_LEN_MAX, SMALL_FILE_MAX};
use farshore_core::path::RelPath;
use farshore_core::policy::PolicySet;
use farshore_core::recovery_point::RecoveryPoint;
use farshore_proto::close::CloseCode;
use farshore_proto::compare::{Comparison, Difference};
use farshore_proto::link::Link;
use farshore_proto::message::{
    BATCH_NAMES_MAX, DELTA_VERSION, FAILURE_COST, LEAVE_VERSION, Message, POLICIES_VERSION,
    PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, Receipt, STRIPES_VERSION, StoreId, Welcome,
};
use farshore_proto::session::{SessionError, SourceSession};
use redb::Durability;

use crate::OWN_FOLDER;
use crate::catalog::{Catalog, CatalogError, CatalogTables, Record};
use crate::deadline::{FAREWELL, within};
use crate::frames::{LineGauge, Striping};
use crate::ingest::{BatchRecord, RunIndex, SignDesk, preview};
use crate::io::{Object, Storage};
use crate::plan::{Change, Plan, Problem, plan};
use crate::profile::Stage;
use crate::progress::{Phase, Progress};

mod config;
mod inbox;
mod receipts;
mod worker;

pub use config::{Outcome, SourceConfig, SourceError, SourceReport};
use inbox::Inbox;
use worker::{Turnstile, Worker};

/// Changes in one batch, at most.
const BATCH_CHANGES: usize = 4_096;
/// Bytes of files in one batch before it is closed.
const BATCH_BYTES: u64 = 32 << 20;
/// Bytes of paths in one batch before it is closed, each with what else its failure may take: a file
/// that is begun three times and was elsewhere before still leaves a batch whose receipt can name all.
const BATCH_NAMES: usize = (1 << 20) - 2 * (PATH_LEN_MAX + FAILURE_COST);
const _: () = assert!(3 * (BATCH_NAMES + 2 * (PATH_LEN_MAX + FAILURE_COST)) <= BATCH_NAMES_MAX);
/// Batches sent and not yet acknowledged, at most: bounds what waits in memory and in staging.
const BATCHES_UNDER_WAY: usize = 16;
/// Rounds in which what the target could not build is sent again.
const ROUNDS: usize = 4;
/// How long a broken stream waits for the target's own account of it.
const REASON_WAIT: Duration = Duration::from_secs(2);
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
    let (events, from_workers) = unbounded();
    let (messages, from_target) = bounded(MESSAGES_MAX);
    let desk = SignDesk::new(link, config.workers);
    std::thread::scope(|scope| {
        let desk = &desk;
        scope.spawn(move || {
            receive(link, desk, &messages);
            desk.close();
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
            index: RunIndex::default(),
            degraded: BTreeMap::new(),
            next_batch: 1,
            striping: Striping::ONE,
            renewed: HashSet::new(),
        };
        // A panic would leave the target, and the thread that hears it, waiting.
        let result = caught(|| source.run());
        if result.is_err() {
            // Else the catalog is indexed anew when it is next opened.
            drop(catalog.settle());
            link.close(CloseCode::Internal as u32, "the source stopped");
        }
        result
    })
}

/// What `run` comes to; a panic in it is an error of its thread.
fn caught<T>(run: impl FnOnce() -> Result<T, SourceError>) -> Result<T, SourceError> {
    // What it had in hand is of this session, which ends with it.
    let run = std::panic::AssertUnwindSafe(run);
    std::panic::catch_unwind(run).unwrap_or(Err(SourceError::WorkerGone))
}

/// Passes on what arrives on the control stream until it ends: signatures to the workers that wait
/// for them, the rest to the coordinator.
fn receive(link: &dyn Link, desk: &SignDesk<'_>, events: &Sender<Event>) {
    loop {
        let event = match link.recv_control() {
            Ok(Some(bytes)) => match Message::from_bytes(&bytes) {
                Ok(Message::Signatures { id, bytes }) => match desk.answered(id, bytes) {
                    Ok(()) => continue,
                    Err(e) => Event::Failed(e.into()),
                },
                Ok(message) => Event::Message(message),
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
    index: RunIndex,
    degraded: BTreeMap<String, u64>,
    next_batch: u64,
    striping: Striping,
    /// Paths that this round could not build: the next one sends them again.
    renewed: HashSet<RelPath>,
}

impl<S: Storage> Source<'_, S> {
    fn run(&mut self) -> Result<SourceReport, SourceError> {
        self.send(&Message::Hello {
            versions: (PROTOCOL_VERSION_MIN, PROTOCOL_VERSION),
            share: self.config.share.clone(),
            source: self.catalog.id(),
            epoch: self.config.epoch,
            trust_target: self.config.trust_target,
        })?;
        let identity = self.identity()?;
        let policies = self.config.policy.identity();
        let belief = self.catalog.sealed_root()?;
        let (started, first_plan) = (self.now_ms(), self.plan_while_target_checks(&policies)?);
        let (mut plan, welcome) = first_plan;
        self.next_batch = first_batch(&welcome)?;
        if welcome.version >= DELTA_VERSION {
            self.desk.open();
        }
        if welcome.version >= STRIPES_VERSION {
            self.striping = self.config.striping;
        }
        let reader = self.catalog.reader()?;
        let former = reader.recovery_point()?;
        // A catalog of before the tree was recorded has its own identity there.
        let tree = reader.sealed_with()?.filter(|tree| *tree != self.catalog.id());
        let first_contact = welcome.sealed_with != Some(self.catalog.id())
            || tree.is_some_and(|tree| tree != welcome.target);
        let expected = reader.root_identity()?;
        let mut compared = false;
        if belief != welcome.root {
            self.compare()?;
            compared = true;
            plan = self.plan()?;
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
            self.replicate(plan)?;
            let problems = self.progress.take_problems();
            exceptions += problems.len() as u64;
            report.problems.extend(problems);
            self.progress.enter(Phase::Sealing);
            let sequence = former.map_or(0, |p| p.sequence) + 1;
            let wanted = Sealing { sequence, started, exceptions, identity, tree: welcome.target };
            if let Some(point) = self.seal(&wanted, &mut report)? {
                report.outcome = Outcome::Sealed(point);
                break;
            }
            if attempt + 1 >= COMPARISONS {
                return Err(SourceError::NoAgreement);
            }
            self.compare()?;
            report.compared = true;
            plan = self.plan()?;
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

    /// The next message of the target, checked.
    fn message(&mut self) -> Result<Message, SourceError> {
        match self.inbox.recv() {
            Event::Message(message) => {
                self.session.handle(&message)?;
                Ok(message)
            }
            Event::Failed(e) => Err(e),
            Event::Ended => {
                Err(SessionError::EndedEarly { state: self.session.state_name() }.into())
            }
            // Nothing is being written while the session waits for a message.
            Event::Written(..) => Err(SourceError::WorkerGone),
        }
    }

    fn plan(&self) -> Result<Plan, SourceError> {
        let _scanning = self.config.profile.enter(Stage::Scan);
        self.progress.enter(Phase::Scanning);
        let reader = self.catalog.reader()?;
        let own = OWN_FOLDER;
        Ok(plan(
            self.storage,
            &reader,
            self.config.policy,
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
            let welcome = loop {
                match self.message()? {
                    Message::Checking(n) => {
                        progress.checked.store(n, std::sync::atomic::Ordering::Relaxed);
                    }
                    Message::Welcome(welcome) => break welcome,
                    other => {
                        return Err(SessionError::UnexpectedMessage {
                            state: self.session.state_name(),
                            message: other.name(),
                        }
                        .into());
                    }
                }
            };
            if welcome.version >= POLICIES_VERSION {
                self.send(&Message::Policies(policies.clone()))?;
            }
            let plan = planning.join().map_err(|_| SourceError::WorkerGone)??;
            Ok((plan, welcome))
        })
    }

    /// Corrects the belief of what the target holds.
    fn compare(&mut self) -> Result<(), SourceError> {
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

    fn replicate(&mut self, plan: Plan) -> Result<(), SourceError> {
        use std::sync::atomic::Ordering::Relaxed;
        self.progress.enter(Phase::Replicating);
        self.progress.planned.store(plan.len(), Relaxed);
        self.progress.planned_bytes.store(plan.bytes, Relaxed);
        if plan.is_empty() {
            return Ok(());
        }
        let mut changes = plan.into_changes()?;
        let mut again = self.round(&mut || Ok(changes.next_change()?))?;
        for _ in 1..ROUNDS {
            if again.is_empty() {
                return Ok(());
            }
            let mut list = again.into_iter();
            again = self.round(&mut || Ok(list.next()))?;
        }
        for change in again {
            let text = "the target could not build it, however it was sent".to_owned();
            self.progress.problem(Problem { path: change.path().clone(), text });
        }
        Ok(())
    }

    /// Sends all that `next` yields and waits for every receipt; what is to be sent again.
    fn round(
        &mut self,
        next: &mut dyn FnMut() -> Result<Option<Change>, SourceError>,
    ) -> Result<Vec<Change>, SourceError> {
        self.renewed.clear();
        let gauge = LineGauge::new(self.config.compression, self.link.stats().rtt, Instant::now());
        let index = std::mem::take(&mut self.index);
        let turnstile = Turnstile::new(self.next_batch);
        let (jobs, queue) = bounded::<(u64, Vec<Change>)>(1);
        let result = std::thread::scope(|scope| {
            for _ in 0..self.config.workers.max(1) {
                let worker = Worker {
                    storage: self.storage,
                    catalog: self.catalog,
                    link: self.link,
                    config: self.config,
                    progress: self.progress,
                    index: &index,
                    desk: self.desk,
                    gauge: &gauge,
                    turnstile: &turnstile,
                    striping: self.striping,
                    events: self.events.clone(),
                };
                let queue = queue.clone();
                scope.spawn(move || worker.run(&queue));
            }
            drop(queue);
            let result = caught(|| self.coordinate(next, &jobs, &index));
            drop(jobs);
            if result.is_err() {
                // Workers blocked on the link or on their turn must end too.
                self.link.close(CloseCode::Internal as u32, "the source stopped");
                turnstile.abandon();
                // Nobody takes the target's messages any more, so that no signatures arrive either.
                self.desk.close();
            }
            result
        });
        self.index = index;
        result
    }

    fn coordinate(
        &mut self,
        next: &mut dyn FnMut() -> Result<Option<Change>, SourceError>,
        jobs: &Sender<(u64, Vec<Change>)>,
        index: &RunIndex,
    ) -> Result<Vec<Change>, SourceError> {
        let mut under_way: HashMap<u64, BatchRecord> = HashMap::new();
        let mut again = Vec::new();
        let mut exhausted = false;
        loop {
            while !exhausted && self.session.batches_under_way() < BATCHES_UNDER_WAY {
                let changes = next_batch(next)?;
                if changes.is_empty() {
                    exhausted = true;
                    break;
                }
                let batch = self.next_batch;
                self.next_batch += 1;
                self.session.batch_sent(batch);
                index.announce(batch, changes.iter().filter_map(large_size));
                if jobs.send((batch, changes)).is_err() {
                    return Err(self.worker_error());
                }
            }
            if exhausted && self.session.batches_under_way() == 0 {
                return Ok(again);
            }
            let mut receipts = Vec::new();
            let mut event = self.inbox.recv();
            // Receipts that wait together are recorded together.
            loop {
                receipts.extend(self.heard(event, &mut under_way)?);
                let Some(next) = self.inbox.try_recv() else { break };
                event = next;
            }
            if !receipts.is_empty() {
                let profile = self.config.profile;
                again.extend(profile.time(Stage::Record, || self.acknowledged(receipts, index))?);
            }
        }
    }

    /// Acts on what the coordinator hears while batches are under way; a receipt comes back with the
    /// batch it is for.
    fn heard(
        &mut self,
        event: Event,
        under_way: &mut HashMap<u64, BatchRecord>,
    ) -> Result<Option<(BatchRecord, Receipt)>, SourceError> {
        match event {
            Event::Written(batch, record) => {
                under_way.insert(batch, record);
                Ok(None)
            }
            Event::Message(message) => {
                self.session.handle(&message)?;
                let Message::Receipt(receipt) = message else {
                    return Err(SessionError::UnexpectedMessage {
                        state: self.session.state_name(),
                        message: message.name(),
                    }
                    .into());
                };
                let record = under_way
                    .remove(&receipt.batch)
                    .ok_or(SessionError::UnknownBatch { batch: receipt.batch })?;
                Ok(Some((record, receipt)))
            }
            Event::Failed(e) => Err(self.reason(e)),
            Event::Ended => {
                let state = self.session.state_name();
                Err(SessionError::EndedEarly { state }.into())
            }
        }
    }

    /// A target that gives up stops its streams, and says why on the control stream: whichever
    /// arrives first, the reason is what counts.
    fn reason(&mut self, e: SourceError) -> SourceError {
        let until = Instant::now() + REASON_WAIT;
        if !matches!(e, SourceError::Link(_)) {
            return e;
        }
        while let Some(event) = self.inbox.recv_until(until) {
            match event {
                Event::Message(message @ Message::Refused { .. }) => {
                    return self.session.handle(&message).map_or_else(SourceError::from, |()| e);
                }
                Event::Ended => break,
                Event::Message(_) | Event::Written(..) | Event::Failed(_) => {}
            }
        }
        e
    }

    /// All workers are gone: one of them said why.
    fn worker_error(&mut self) -> SourceError {
        while let Some(event) = self.inbox.try_recv() {
            if let Event::Failed(e) = event {
                return self.reason(e);
            }
        }
        SourceError::WorkerGone
    }

    /// Agrees on the recovery point; `None` when the target's root differs.
    fn seal(
        &mut self,
        wanted: &Sealing,
        report: &mut SourceReport,
    ) -> Result<Option<RecoveryPoint>, SourceError> {
        let Sealing { sequence, started, exceptions, identity, tree } = *wanted;
        let (root, entries, bytes) = self.config.profile.time(Stage::Seal, || {
            self.catalog.update(Durability::None, |t| {
                let root = t.seal()?;
                let (entries, bytes) = t.totals();
                Ok((root, entries, bytes))
            })
        })?;
        let point =
            RecoveryPoint { sequence, time_unix_ms: started, root, entries, bytes, exceptions };
        self.session.seal_sent();
        self.send(&Message::Seal(point))?;
        // While the target seals.
        self.config.profile.time(Stage::Record, || self.catalog.settle())?;
        match self.message()? {
            Message::Sealed(sealed) if sealed != point => Err(SessionError::OtherPoint.into()),
            Message::Sealed(sealed) => {
                let detached = report.by_policy.take_rows(&self.config.spool_folder)?;
                self.catalog.update(Durability::Immediate, |t| {
                    t.set_root_identity(identity)?;
                    t.set_epoch(self.config.epoch)?;
                    t.set_policies(Some(&report.policies))?;
                    detached.write(t, sequence)?;
                    t.set_recovery_point(&sealed, tree)
                })?;
                Ok(Some(sealed))
            }
            _ => Ok(None),
        }
    }

    /// Ends a session of which both ends recorded the recovery point: nothing is left to say, and nothing
    /// to wait for. A target that does not hear of it leaves by itself, see `target.rs`.
    fn leave_sealed(&mut self) {
        self.link.close(CloseCode::Done as u32, "");
        self.await_end();
    }

    /// Ends the session in order.
    fn leave(&mut self) -> Result<(), SourceError> {
        within(self.link, FAREWELL, CloseCode::Done, "", || {
            self.send(&Message::Goodbye)?;
            // The target may have heard it and left already.
            drop(self.link.finish_control());
            self.await_end();
            Ok(())
        })
    }

    /// Waits until nothing more can come.
    fn await_end(&mut self) {
        while !matches!(self.inbox.recv(), Event::Ended | Event::Failed(_)) {}
    }
}

/// What a recovery point is to be made of, besides what the catalog has.
#[derive(Debug)]
struct Sealing {
    sequence: u64,
    /// When the walk began, in milliseconds since 1970-01-01 UTC.
    started: i64,
    exceptions: u64,
    identity: RootIdentity,
    /// The target's tree.
    tree: StoreId,
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

/// The length of a larger file that will be looked at.
fn large_size(change: &Change) -> Option<u64> {
    match change {
        Change::Look { size, moved_from: None, .. } if *size > SMALL_FILE_MAX => Some(*size),
        _ => None,
    }
}

/// The changes of the next batch: so many, or so many bytes of files or of paths.
fn next_batch(
    next: &mut dyn FnMut() -> Result<Option<Change>, SourceError>,
) -> Result<Vec<Change>, SourceError> {
    let mut changes = Vec::new();
    let (mut bytes, mut names) = (0u64, 0);
    while changes.len() < BATCH_CHANGES && bytes < BATCH_BYTES && names < BATCH_NAMES {
        let Some(change) = next()? else { break };
        if let Change::Look { size, .. } = &change {
            bytes = bytes.saturating_add(*size);
        }
        names += names_of(&change);
        changes.push(change);
    }
    Ok(changes)
}

/// What a receipt takes to name all of a change.
fn names_of(change: &Change) -> usize {
    let other = match change {
        Change::Look { moved_from, .. } => moved_from.as_ref(),
        Change::Link { leader, .. } => Some(leader),
        Change::Remove { .. } => None,
    };
    let paths = [Some(change.path()), other];
    paths.iter().flatten().map(|path| path.as_bytes().len() + FAILURE_COST).sum()
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

#[cfg(test)]
mod tests {
    use farshore_core::entry::EntryDigest;

    use super::*;

    /// Whatever the paths are, a receipt can name all of a batch, sent three times over.
    #[test]
    fn batches_are_closed_by_their_paths() {
        let long = |n: usize| {
            let name = format!("{}/{n}", ["x".repeat(250).as_str(); 120].join("/"));
            RelPath::new(name.as_bytes()).expect("a path")
        };
        let mut left = (0..500).map(|n| match n % 3 {
            0 => Change::Remove { path: long(n), expected: EntryDigest([0; 32]) },
            1 => Change::Link { path: long(n), leader: long(n + 1) },
            _ => {
                let (path, from) = (long(n), Some(long(n + 1)));
                Change::Look { path, size: 1, is_file: true, moved_from: from }
            }
        });
        let mut sent = 0;
        loop {
            let batch = next_batch(&mut || Ok(left.next())).expect("a batch");
            if batch.is_empty() {
                break;
            }
            let names: usize = batch.iter().map(names_of).sum();
            assert!(3 * names <= BATCH_NAMES_MAX, "{} changes, {names} bytes", batch.len());
            sent += batch.len();
        }
        assert_eq!(sent, 500);
        let short = |_| {
            let path = RelPath::new(*b"an/ordinary/path/of/some/length").expect("a path");
            Change::Look { path, size: 1, is_file: true, moved_from: None }
        };
        let mut short = (0..5_000).map(short);
        let batch = next_batch(&mut || Ok(short.next())).expect("a batch");
        assert_eq!(batch.len(), BATCH_CHANGES);
    }
}

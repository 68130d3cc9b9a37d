//! A policy in force: asked in batches, from any thread, and never believed beyond its answers.
//!
//! Guarantees: every candidate gets a verdict. A batch without an answer is asked again of a fresh
//! instance and then halved, down to the path at fault: that path has no answer, the others have
//! theirs. So what a path gets depends neither on its batch nor on what went wrong before, until the
//! policy has failed so often that it is off; then every further path is a fault. An instance that
//! failed is never asked again. What a conflict gets is checked by
//! [`conflict::check`](farshore_core::conflict::check). Nothing here survives a crash.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use farshore_core::conflict::{self, Conflict, Contents, Decision, Outcome, Piece};
use farshore_core::entry::Timestamp;
use farshore_core::path::{RelPath, escape_text};
use farshore_core::policy::{
    Candidate, Fault, Faults, HeldFaults, PolicyIdentity, Verdict, is_policy_name,
};

use super::fault::{CallFault, FaultKind, cut};
use super::instance::{Instance, with_source};
use super::load::{Component, Loaded};
use super::manifest::{ConfigureError, Manifest, check_settings, settings_digest};
use super::sandbox::LogLine;
use crate::limits::{BATCH_MAX, FAULTS_MAX, Limits, OnFault, REASON_MAX};

/// Faults that are kept with their text.
const FAULTS_KEPT: usize = 1_000;
/// Lines of log that are kept.
const LOG_KEPT: usize = 1_000;
/// Calls after which an instance is replaced: a policy that never frees what it took runs out of
/// memory at a point that depends on its age.
const CALLS_MAX: u32 = 1_000;

/// Instances that wait to be asked, at most: about as many as threads ask. Each has addresses for the
/// largest memory there is, and memory of its own.
const POOL_MAX: usize = 8;

/// A policy with settings, limits and the time of a cut.
pub struct Configured {
    loaded: Arc<Loaded>,
    manifest: Manifest,
    identity: PolicyIdentity,
    settings: Vec<(String, String)>,
    limits: Limits,
    on_fault: OnFault,
    at: Timestamp,
    /// Each with the thread that asked it last.
    pool: Mutex<Vec<(ThreadId, Instance)>>,
    record: Mutex<Record>,
    is_off: AtomicBool,
    totals: Totals,
}

/// What went wrong and what was said.
#[derive(Default)]
struct Record {
    faults: Faults,
    /// Where it was not asked any more, and how often.
    unasked: Option<(RelPath, u64)>,
    /// What went wrong first.
    first_fault: Option<String>,
    /// The paths at fault; the policy is off when there are [`FAULTS_MAX`].
    failed: HashSet<RelPath>,
    lines: Vec<LogLine>,
    lines_dropped: u64,
}

#[derive(Default)]
struct Totals {
    calls: AtomicU64,
    entries: AtomicU64,
    fuel: AtomicU64,
    instances: AtomicU64,
    retries: AtomicU64,
    faults: AtomicU32,
}

/// What a policy did so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Calls of a hook.
    pub calls: u64,
    /// Entries and conflicts asked about, repetitions among them.
    pub entries: u64,
    /// Fuel they used.
    pub fuel: u64,
    /// Instances made.
    pub instances: u64,
    /// Calls repeated because one had no answer.
    pub retries: u64,
    /// Faults.
    pub faults: u64,
    /// Whether it is off.
    pub is_off: bool,
}

/// The answer to a conflict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// It can be carried out.
    Decided(Decision),
    /// The policy failed, and the path is held for a person: why.
    Fault(String),
}

impl Resolution {
    /// What becomes of the path.
    #[must_use]
    pub fn outcome(&self) -> &Outcome {
        match self {
            Self::Decided(decision) => &decision.outcome,
            Self::Fault(_) => &Outcome::Hold,
        }
    }

    /// Why.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Decided(decision) => &decision.reason,
            Self::Fault(why) => why,
        }
    }
}

impl Component {
    /// Configures it as `name`; `at` is the time of the cut or plan.
    ///
    /// # Errors
    /// [`ConfigureError`].
    pub fn configure(
        &self,
        name: &str,
        settings: &[(String, String)],
        limits: Limits,
        on_fault: OnFault,
        at: Timestamp,
    ) -> Result<Configured, ConfigureError> {
        if !is_policy_name(name) {
            return Err(ConfigureError::Name(escape_text(cut(name, 128))));
        }
        limits.check()?;
        check_settings(settings)?;
        let identity = PolicyIdentity {
            name: name.to_owned(),
            id: self.id(),
            settings: settings_digest(settings),
            limits: limits.digest(on_fault),
        };
        let mut configured = Configured {
            loaded: Arc::clone(self.inner()),
            manifest: Manifest { name: String::new(), version: String::new(), rules: Vec::new() },
            identity,
            settings: settings.to_vec(),
            limits,
            on_fault,
            at,
            pool: Mutex::default(),
            record: Mutex::default(),
            is_off: AtomicBool::new(false),
            totals: Totals::default(),
        };
        let (instance, manifest) = configured.start()??;
        configured.manifest = manifest;
        configured.give_back(instance);
        Ok(configured)
    }
}

impl Configured {
    /// What it says of itself.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What its answers depend on.
    #[must_use]
    pub fn identity(&self) -> PolicyIdentity {
        self.identity.clone()
    }

    /// What it may use.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether it can be asked what is replicated.
    #[must_use]
    pub fn has_exclude(&self) -> bool {
        self.loaded.exports.exclude.is_some()
    }

    /// Whether it can be asked what becomes of a conflict.
    #[must_use]
    pub fn has_resolve(&self) -> bool {
        self.loaded.exports.resolve.is_some()
    }

    /// What it did so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let totals = &self.totals;
        Counters {
            calls: totals.calls.load(Relaxed),
            entries: totals.entries.load(Relaxed),
            fuel: totals.fuel.load(Relaxed),
            instances: totals.instances.load(Relaxed),
            retries: totals.retries.load(Relaxed),
            faults: u64::from(totals.faults.load(Relaxed)),
            is_off: self.is_off.load(Relaxed),
        }
    }

    /// Instances that wait to be asked.
    #[must_use]
    pub fn idle_instances(&self) -> usize {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Takes what went wrong since the last call.
    #[must_use]
    pub fn take_faults(&self) -> Faults {
        let mut record = self.record();
        let mut faults = std::mem::take(&mut record.faults);
        if let Some((path, count)) = record.unasked.take() {
            let why = record.first_fault.as_deref().unwrap_or_default();
            let text = format!(
                "policy {} is off after its faults, {why}; from here on it was not asked any more, \
                 {count} {} in all",
                self.identity.name,
                if count == 1 { "time" } else { "times" }
            );
            faults.count += count;
            faults.first.push(Fault { path, text });
        }
        drop(record);
        if self.on_fault == OnFault::Hold {
            let first = faults.first.first().cloned();
            faults.hold = first.map(|first| HeldFaults { count: faults.count, first });
        }
        faults
    }

    /// Takes what it wrote since the last call, and how many lines were dropped.
    #[must_use]
    pub fn take_log(&self) -> (Vec<LogLine>, u64) {
        let mut record = self.record();
        (std::mem::take(&mut record.lines), std::mem::take(&mut record.lines_dropped))
    }

    /// One verdict for each candidate, in order. The root is never asked about.
    #[must_use]
    pub fn exclude(&self, candidates: &[Candidate<'_>]) -> Vec<Verdict> {
        if !self.has_exclude() {
            return vec![Verdict::REPLICATE; candidates.len()];
        }
        let mut verdicts = Vec::with_capacity(candidates.len());
        for part in candidates.split_inclusive(|c| c.path.is_root()) {
            let (part, has_root) = match part {
                [asked @ .., last] if last.path.is_root() => (asked, true),
                asked => (asked, false),
            };
            for batch in part.chunks(BATCH_MAX) {
                self.exclude_batch(batch, &mut verdicts);
            }
            if has_root {
                verdicts.push(Verdict::REPLICATE);
            }
        }
        verdicts
    }

    fn exclude_batch(&self, batch: &[Candidate<'_>], verdicts: &mut Vec<Verdict>) {
        if self.is_off.load(Relaxed) {
            return self.refuse(batch, verdicts);
        }
        if let Some(mut instance) = self.take_used() {
            if let Ok(answers) = self.ask(&mut instance, batch) {
                self.give_back(instance);
                return verdicts.extend(answers);
            }
            // It may have been its age; only a fresh instance's answer counts.
            self.totals.retries.fetch_add(1, Relaxed);
        }
        match self.ask_fresh(batch) {
            Ok(answers) => verdicts.extend(answers),
            Err(fault) if fault.kind == FaultKind::Watchdog => self.alarm(batch, verdicts),
            Err(fault) => self.bisect(batch, &fault, verdicts),
        }
    }

    /// `batch` had no answer from a fresh instance.
    fn bisect(&self, batch: &[Candidate<'_>], fault: &CallFault, verdicts: &mut Vec<Verdict>) {
        if let [candidate] = batch {
            self.fail(candidate.path, &fault.to_string());
            return verdicts.push(Verdict::FAULT);
        }
        let (first, second) = batch.split_at(batch.len() / 2);
        for half in [first, second] {
            if self.is_off.load(Relaxed) {
                self.refuse(half, verdicts);
                continue;
            }
            self.totals.retries.fetch_add(1, Relaxed);
            match self.ask_fresh(half) {
                Ok(answers) => verdicts.extend(answers),
                Err(fault) if fault.kind == FaultKind::Watchdog => self.alarm(half, verdicts),
                Err(fault) => self.bisect(half, &fault, verdicts),
            }
        }
    }

    /// The clock ended a call that fuel should have ended long before: it may have been the machine,
    /// so it is asked once more, and off when the clock ends that, too: halving it could take the
    /// deadline many times over. Another fault the second time says that it was the machine.
    fn alarm(&self, batch: &[Candidate<'_>], verdicts: &mut Vec<Verdict>) {
        self.totals.retries.fetch_add(1, Relaxed);
        match self.ask_fresh(batch) {
            Ok(answers) => verdicts.extend(answers),
            Err(fault) if fault.kind != FaultKind::Watchdog => self.bisect(batch, &fault, verdicts),
            Err(fault) => {
                self.is_off.store(true, Relaxed);
                if let Some(candidate) = batch.first() {
                    self.fail(candidate.path, &fault.to_string());
                    verdicts.push(Verdict::FAULT);
                    self.refuse(&batch[1..], verdicts);
                }
            }
        }
    }

    /// Off: nothing is asked. One fault of all of them, with their count: they have one reason, and a
    /// list of a million would hide what else went wrong.
    fn refuse(&self, batch: &[Candidate<'_>], verdicts: &mut Vec<Verdict>) {
        verdicts.resize(verdicts.len() + batch.len(), Verdict::FAULT);
        let Some(first) = batch.first() else { return };
        let mut record = self.record();
        let unasked = record.unasked.get_or_insert_with(|| (first.path.clone(), 0));
        unasked.1 += batch.len() as u64;
    }

    /// A path that failed before counts once towards the end: a tree may be walked twice.
    fn fail(&self, path: &RelPath, text: &str) {
        let mut record = self.record();
        if record.failed.insert(path.clone()) {
            let before = self.totals.faults.fetch_add(1, Relaxed);
            if before.saturating_add(1) >= FAULTS_MAX {
                self.is_off.store(true, Relaxed);
            }
        }
        record.first_fault.get_or_insert_with(|| format!("the first at {path}: it {text}"));
        let faults = &mut record.faults;
        faults.count += 1;
        if faults.first.len() < FAULTS_KEPT {
            let text = format!("policy {} {text}", self.identity.name);
            faults.first.push(Fault { path: path.clone(), text });
        }
    }

    fn ask_fresh(&self, batch: &[Candidate<'_>]) -> Result<Vec<Verdict>, CallFault> {
        let mut instance = self.start_again()?;
        let answers = self.ask(&mut instance, batch)?;
        self.give_back(instance);
        Ok(answers)
    }

    fn ask(
        &self,
        instance: &mut Instance,
        batch: &[Candidate<'_>],
    ) -> Result<Vec<Verdict>, CallFault> {
        let answers = instance.exclude(batch);
        self.count(instance, batch.len());
        let answers = answers?;
        if answers.len() != batch.len() {
            let entries = if batch.len() == 1 { "entry" } else { "entries" };
            let text = format!("{} verdicts for {} {entries}", answers.len(), batch.len());
            return Err(FaultKind::Answer(text).into());
        }
        for verdict in &answers {
            self.check_rule(verdict.rule)?;
        }
        Ok(answers)
    }

    fn check_rule(&self, rule: Option<u32>) -> Result<(), CallFault> {
        let rules = self.manifest.rules.len();
        match rule {
            Some(rule) if u64::from(rule) >= rules as u64 => {
                Err(FaultKind::Answer(format!("rule {rule} of {rules}, counted from 0")).into())
            }
            _ => Ok(()),
        }
    }

    /// What becomes of a path that both sites changed. `is_free` is that of
    /// [`conflict::check`](farshore_core::conflict::check). Each is asked of a fresh instance.
    #[must_use]
    pub fn resolve(
        &self,
        conflict: &Conflict,
        contents: &Arc<dyn Contents>,
        is_free: &dyn Fn(&RelPath) -> bool,
    ) -> Resolution {
        if self.is_off.load(Relaxed) {
            return Resolution::Fault(format!(
                "policy {} is off after its faults",
                self.identity.name
            ));
        }
        match self.decide(conflict, contents, is_free) {
            Ok(decision) => Resolution::Decided(decision),
            Err(fault) => {
                let text = fault.to_string();
                self.fail(&conflict.path, &text);
                Resolution::Fault(format!("policy {} {text}", self.identity.name))
            }
        }
    }

    fn decide(
        &self,
        conflict: &Conflict,
        contents: &Arc<dyn Contents>,
        is_free: &dyn Fn(&RelPath) -> bool,
    ) -> Result<Decision, CallFault> {
        let mut instance = self.start_again()?;
        let decision = instance.resolve(conflict, Arc::clone(contents));
        self.count(&mut instance, 1);
        let mut decision = decision?;
        self.check_rule(decision.rule)?;
        self.check_literals(&decision.outcome)?;
        conflict::check(conflict, &decision.outcome, is_free)
            .map_err(|error| FaultKind::Answer(with_source(&error)))?;
        decision.reason = escape_text(cut(&decision.reason, REASON_MAX));
        Ok(decision)
    }

    fn check_literals(&self, outcome: &Outcome) -> Result<(), CallFault> {
        let Outcome::Merge { pieces, .. } = outcome else { return Ok(()) };
        let bytes: u64 = pieces
            .iter()
            .map(|piece| match piece {
                Piece::Literal(bytes) => bytes.len() as u64,
                Piece::Copy { .. } => 0,
            })
            .sum();
        let limit = self.limits.literal_bytes;
        if bytes > limit {
            let text = format!("a merged file with {bytes} literal bytes, the limit is {limit}");
            return Err(FaultKind::Answer(text).into());
        }
        Ok(())
    }

    /// A configured instance and what it says of itself.
    fn start(&self) -> Result<Result<(Instance, Manifest), ConfigureError>, CallFault> {
        self.totals.instances.fetch_add(1, Relaxed);
        let Loaded { shared, pre, exports, .. } = &*self.loaded;
        let mut instance = Instance::start(&shared.engine, pre, exports, self.limits)?;
        let answer = instance.configure(&self.settings, self.at);
        self.keep_log(&mut instance);
        Ok(match answer? {
            Ok(manifest) => Manifest::check(manifest).map(|manifest| (instance, manifest)),
            Err(text) => Err(ConfigureError::Refused(escape_text(cut(&text, REASON_MAX)))),
        })
    }

    /// A further configured instance; must say of itself what the first one said.
    fn start_again(&self) -> Result<Instance, CallFault> {
        match self.start()? {
            Ok((instance, manifest)) if manifest == self.manifest => Ok(instance),
            Ok(_) => Err(FaultKind::Answer("another manifest than before".to_owned()).into()),
            Err(error) => Err(FaultKind::Answer(error.to_string()).into()),
        }
    }

    /// An instance that waits: the one this thread asked last, whose memory is in this processor's
    /// caches, before one of another.
    fn take_used(&self) -> Option<Instance> {
        let this = thread::current().id();
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        let own = pool.iter().rposition(|(thread, _)| *thread == this);
        let at = own.or(pool.len().checked_sub(1))?;
        Some(pool.swap_remove(at).1)
    }

    fn give_back(&self, instance: Instance) {
        let is_full = instance.memory_bytes() as u64 > self.limits.memory_bytes / 2;
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        // Of the parts of a batch each is asked of a fresh one: they are more than threads will ask.
        if pool.len() < POOL_MAX && instance.calls < CALLS_MAX && !(is_full && instance.calls > 0) {
            pool.push((thread::current().id(), instance));
        }
    }

    fn count(&self, instance: &mut Instance, entries: usize) {
        let totals = &self.totals;
        totals.calls.fetch_add(1, Relaxed);
        totals.entries.fetch_add(entries as u64, Relaxed);
        totals.fuel.fetch_add(instance.fuel, Relaxed);
        self.keep_log(instance);
    }

    fn keep_log(&self, instance: &mut Instance) {
        let (lines, dropped) = instance.take_log();
        if lines.is_empty() && dropped == 0 {
            return;
        }
        let mut record = self.record();
        let room = LOG_KEPT.saturating_sub(record.lines.len());
        record.lines_dropped += dropped + lines.len().saturating_sub(room) as u64;
        record.lines.extend(lines.into_iter().take(room));
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Configured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Configured")
            .field("identity", &self.identity)
            .field("manifest", &self.manifest)
            .field("counters", &self.counters())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use crate::Host;
    use crate::common::{Guest, candidate, path};

    /// From where the clock ended the first try, which no test can bring about once and not twice.
    #[test]
    fn a_fault_after_an_alarm_is_of_its_path_alone() {
        let host = Host::new(None).expect("a host");
        let configured = Guest::default().configured(&host);
        let paths = ["ax", "bx", "!x", "cx"].map(path);
        let candidates = paths.each_ref().map(candidate);
        let mut verdicts = Vec::new();
        configured.alarm(&candidates, &mut verdicts);
        let faults: Vec<_> = verdicts.iter().map(|verdict| verdict.is_fault).collect();
        assert_eq!(faults, [false, false, true, false]);
        let counters = configured.counters();
        assert_eq!((counters.faults, counters.is_off), (1, false));
        assert_eq!(configured.take_faults().first[0].path, path("!x"));
    }
}

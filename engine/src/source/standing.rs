//! A session that stands: one cut after another over one link.
//!
//! ```text
//! wait for a cut ─► plan what it names ─► guard, brake ─► send, record receipts ─► seal ─┐
//!      ▲                (held: nothing sent)                                             │
//!      └─────────────────────────────────────────────────────────────────────────────────┘
//! ```
//! Guarantees: nothing of a cut is sent before the guard and its owner have judged the whole plan of it;
//! a recovery point is recorded only when both ends have computed the same root digest, and its time is
//! the one its owner vouches for, never a later one. What the target finds to be other than it was
//! applied is compared and sent again with the next cut. A file that its owner takes for too large for a
//! cut travels beside the cuts first, see `huge.rs`: into no tree, so that nobody has to judge it yet.
//! Refuses: a target that cannot stand.
//!
//! After a crash of either end the next session compares the two roots, and goes on; nothing that was
//! acknowledged is sent again. Which directories wait to be looked at is the owner's to remember.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use farshore_core::guard::Hold;
use farshore_core::turns::{Class, Loads};
use farshore_proto::message::{AHEAD_VERSION, BEATS_VERSION, Holds};
use farshore_proto::session::CARRIES_MAX;

use super::carrier::Carrier;
use super::*;
use crate::frames::LineGauge;
use crate::plan::{DetachedChange, Part, PartialPlan, Scope, Withheld, plan_parts};
use crate::progress::AppliedTotals;

/// How long a source that waits for a cut goes without looking whether its target is still there.
const LOOK_AT_LINK: Duration = Duration::from_millis(100);

/// How long a session stands until it has what an earlier one carried removed, if no file is carried: it
/// has been looked for by then.
const LEFT_BEFORE: Duration = Duration::from_secs(3_600);

/// Differing paths that are looked at one by one; of more than these the whole tree is.
const DIFFERENCES_MAX: usize = 100_000;

/// What a cut looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// The whole tree.
    Whole,
    /// Some directories.
    Parts(Scope),
    /// Nothing: all is known to be as it was, only the recovery point moves.
    Nothing,
}

impl Look {
    /// Whether it looks at `path`.
    #[must_use]
    pub fn covers(&self, path: &RelPath) -> bool {
        match self {
            Self::Whole => true,
            Self::Nothing => false,
            Self::Parts(scope) => scope.covers(path),
        }
    }
}

/// What is to be made a recovery point of.
pub struct Cut {
    /// What is looked at.
    pub look: Look,
    /// Everything closed before this is in the cut, in milliseconds since 1970-01-01 UTC by the source's
    /// clock; `None` when nobody can vouch for more than the point before.
    pub time_unix_ms: Option<i64>,
    /// Which entries travel.
    pub policy: Arc<dyn Policy>,
    /// Accounts of which nothing is sent: what would be done of them is planned, for the owner to judge.
    pub withheld: Withheld,
    /// Whether an operator approved what the guard would hold.
    pub approved: bool,
    /// Whether nothing of it is sent, however it is judged: all of it is planned, and nothing carried ahead.
    pub only_judged: bool,
    /// Labels for the point.
    pub labels: Vec<String>,
    /// What the session leaves out of it; begins empty.
    pub left_out: LeftOut,
}

/// What a cut leaves out because files are on their way to the target ahead of it, or because others have their turn:
/// nothing is sent of it and nothing concluded. It is not what is withheld: of what waits for a file nothing is
/// planned, so there is nothing to judge; what waits for its turn was judged, and is again with the next cut.
#[derive(Debug, Clone, Default)]
pub struct LeftOut {
    /// Accounts, or single files, and what trouble there is with them.
    pub accounts: BTreeMap<RelPath, Option<String>>,
    /// What the cut looked at, and not there: to be looked at again when it is over.
    pub look: Option<Look>,
    /// Of the accounts, those that wait for their turn alone.
    pub turns: BTreeSet<RelPath>,
}

impl LeftOut {
    /// Whether nothing is concluded of `path`.
    #[must_use]
    pub fn covers(&self, path: &RelPath) -> bool {
        let mut way =
            std::iter::successors(Some(path.clone()), |at| at.split().map(|(parent, _)| parent));
        !self.accounts.is_empty() && way.any(|at| self.accounts.contains_key(&at))
    }
}

impl std::fmt::Debug for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { look, time_unix_ms, withheld, approved, labels, left_out, .. } = self;
        f.debug_struct("Cut")
            .field("look", look)
            .field("time_unix_ms", time_unix_ms)
            .field("withheld", withheld)
            .field("approved", approved)
            .field("only_judged", &self.only_judged)
            .field("labels", labels)
            .field("left_out", left_out)
            .finish_non_exhaustive()
    }
}

/// What the owner of a standing session wants next.
#[derive(Debug)]
pub enum Next {
    /// A cut.
    Cut(Box<Cut>),
    /// Nothing yet.
    Idle,
    /// To end the session in order.
    Leave,
}

/// Why a cut was not sent.
#[derive(Debug)]
pub enum Dropped {
    /// By the guard.
    Guard(Hold),
    /// By its owner.
    Owner,
}

/// What became of a cut.
#[derive(Debug)]
pub struct CutReport {
    /// The recovery point.
    pub point: RecoveryPoint,
    /// Entries the walk met.
    pub looked_at: u64,
    /// Operations that were acknowledged.
    pub applied: AppliedTotals,
    /// What could not be replicated, or vouched for.
    pub problems: Vec<Problem>,
    /// Entries excluded by policy.
    pub excluded: u64,
    /// Entries deferred by policy.
    pub deferred: u64,
    /// The first of them.
    pub deferred_first: Vec<RelPath>,
    /// What the policies keep at the target, and what of that is new.
    pub by_policy: DetachedChange,
    /// Facts the target's mount could not keep, by kind.
    pub degraded: BTreeMap<String, u64>,
    /// Whether the two ends had to be compared, and what they were found to differ in.
    pub compared: Option<u64>,
    /// Whether the whole tree was looked at although parts were asked for, and why.
    pub widened: Option<&'static str>,
}

/// Who decides what is cut, and remembers it until it is sealed.
pub trait Cuts: Sync {
    /// The session began; so it found the target.
    fn began(&self, welcome: &Welcome, first_contact: bool);
    /// The two ends differ in so many entries, in what `look` looks at; the next cut mends that: it is not to wait
    /// for somebody to change something. Said again until there is one, and before the belief of what the target
    /// holds is durable: then nobody else knows of it.
    fn differ(&self, entries: u64, look: &Look);
    /// What to do next; waits for it, not much longer than `at_most`.
    fn next(&self, at_most: Duration) -> Next;
    /// The account that is left out of cuts while a file of so many bytes is carried to the target ahead of
    /// its cut; `None` for a file that goes with its cut.
    fn carries(&self, path: &RelPath, size: u64) -> Option<RelPath>;
    /// How important an account is: of the files that wait to be carried whose turn it is.
    fn class(&self, _: &RelPath) -> Class {
        Class::Normal
    }
    /// What cuts left out is no longer: it is to be looked at again.
    fn released(&self, accounts: &[RelPath]);
    /// Whether a cut of which this is planned is to be sent. Nothing of it has been.
    fn judge(&self, cut: &Cut, plan: &mut Plan) -> bool;
    /// How much a cut that was judged should send, in the measure of [`Plan::loads`]; `None`: all of it.
    fn budget(&self, _: &Cut) -> Option<u64> {
        None
    }
    /// Which accounts of a cut that may be more than that wait for their turn: the cut leaves them out, and the owner is
    /// told as soon as it is sealed that they are [`Self::released`].
    fn turn(&self, _: &Cut, _: Loads, _budget: u64) -> BTreeSet<RelPath> {
        BTreeSet::new()
    }
    /// How many entries the point that is about to be sealed does not vouch for; `problems` are those of
    /// this cut, `faults` those entries of it about which a policy had no answer. Asked anew, with all of them,
    /// when more of a cut turned out not to be replicated, or it is planned once more.
    fn exceptions(&self, cut: &Cut, problems: &[Problem], faults: u64) -> u64;
    /// Accounts that this point will not have as at its time, each with the time up to which it has them: those
    /// left out of the cut, and those of which what was left out of an earlier one is not in yet. Asked behind
    /// the exceptions, among which each of them is counted.
    fn behind(&self, _: &Cut) -> Vec<(RelPath, i64)> {
        Vec::new()
    }
    /// The cut is sealed at both ends.
    fn sealed(&self, cut: Cut, report: CutReport);
    /// Nothing of the cut was sent.
    fn dropped(&self, cut: Cut, why: Dropped);
    /// The session fails with the cut under way: what it looked at is to be looked at again.
    fn broken(&self, cut: Cut);
    /// What is held, if the target is to be told: all of it at the begin of a session, and whenever it is
    /// another than before; asked between cuts.
    fn holds(&self) -> Option<Holds> {
        None
    }
    /// What is to be said of this site's keys now, if anything is; asked at the begin, and between cuts.
    fn keys(&self) -> Option<Vec<u8>>;
    /// What the target said of its keys; heard between cuts.
    fn heard_keys(&self, said: &[u8]);
    /// What is to be said of this end now, if it is time to.
    fn beat(&self) -> Option<Beat> {
        None
    }
    /// What the target said of itself, and when it was heard by this end's clock.
    fn heard_beat(&self, _: &Beat, _at_unix_ms: i64) {}
}

/// Runs the source's end of a session that stands, until `cuts` leaves.
///
/// # Errors
/// [`SourceError`]; what goes wrong with single entries is in the reports.
pub fn stand<S: Storage>(
    storage: &S,
    catalog: &Catalog,
    link: &dyn Link,
    config: &SourceConfig<'_>,
    progress: &Progress,
    cuts: &dyn Cuts,
) -> Result<(), SourceError> {
    let askers = config.workers + CARRIES_MAX;
    with_source(storage, catalog, link, config, progress, askers, |source| source.stand(cuts))
}

/// What a standing session knows of its target.
struct Standing {
    welcome: Welcome,
    first_contact: bool,
    /// What the policies were when the target was told last.
    policies: PolicySet,
    last: Option<RecoveryPoint>,
    /// What the ends were found to differ in, to be looked at with the next cut.
    differing: Option<Look>,
    differences: u64,
    /// Accounts of which the target was told last that they are behind.
    behind: Behind,
}

impl<S: Storage> Source<'_, S> {
    fn stand(&mut self, cuts: &dyn Cuts) -> Result<(), SourceError> {
        let mut standing = self.open_standing()?;
        self.carries = standing.welcome.version >= AHEAD_VERSION;
        let gauge = LineGauge::new(self.config.compression, self.link.stats().rtt, Instant::now());
        std::thread::scope(|scope| {
            let carriers = if self.carries { CARRIES_MAX } else { 0 };
            for _ in 0..carriers {
                let carrier = Carrier {
                    storage: self.storage,
                    catalog: self.catalog,
                    link: self.link,
                    config: self.config,
                    progress: self.progress,
                    sign_desk: self.desk,
                    desk: self.ahead,
                    gauge: &gauge,
                    events: self.events.clone(),
                };
                scope.spawn(move || carrier.run());
            }
            let ended = caught(|| self.cut_after_cut(&mut standing, cuts));
            self.ahead.close();
            match &ended {
                Ok(()) => self.leave_sealed(),
                // Carriers that are blocked on the link must end too.
                Err(_) => {
                    self.link.close(CloseCode::Internal as u32, "the source stopped");
                    self.desk.close();
                }
            }
            ended
        })
    }

    fn cut_after_cut(
        &mut self,
        standing: &mut Standing,
        cuts: &dyn Cuts,
    ) -> Result<(), SourceError> {
        cuts.began(&standing.welcome, standing.first_contact);
        let mut tidied = Some(Instant::now());
        loop {
            if tidied.is_some_and(|at| at.elapsed() >= LEFT_BEFORE) {
                tidied = None;
                self.ahead.may_be_untidy();
            }
            self.tell_of_ahead(cuts)?;
            if std::mem::take(&mut self.foreign) > 0 {
                self.find_differences(standing)?;
            }
            if let Some(look) = &standing.differing {
                cuts.differ(standing.differences, look);
            }
            if let Some(said) = self.keys.take() {
                cuts.heard_keys(&said);
            }
            if let Some(said) = cuts.keys() {
                self.send(&Message::Keys(said))?;
            }
            if let Some(holds) = cuts.holds() {
                self.send(&Message::Holds(holds))?;
            }
            if let Some((beat, at)) = self.beat.take() {
                cuts.heard_beat(&beat, at);
            }
            if standing.welcome.version >= BEATS_VERSION
                && let Some(beat) = cuts.beat()
            {
                self.send(&Message::Beat(beat))?;
            }
            match cuts.next(LOOK_AT_LINK) {
                Next::Cut(cut) => self.cut(*cut, standing, cuts)?,
                Next::Idle => self.look_at_link()?,
                Next::Leave => return Ok(()),
            }
        }
    }

    /// Tells the owner what is no longer left out, and the target what it need not hold any more.
    fn tell_of_ahead(&self, cuts: &dyn Cuts) -> Result<(), SourceError> {
        let released = self.ahead.take_released();
        if !released.is_empty() {
            cuts.released(&released);
        }
        if let Some(wanted) = self.ahead.take_untidy().filter(|_| self.carries) {
            self.ahead.ask(self.link, Some(wanted))?;
        }
        Ok(())
    }

    fn open_standing(&mut self) -> Result<Standing, SourceError> {
        self.hello()?;
        self.foresee_bulk()?;
        let belief = self.catalog.sealed_root()?;
        let welcome = self.welcome()?;
        if welcome.version < STANDING_VERSION {
            return Err(SessionError::CannotStand { version: welcome.version }.into());
        }
        self.settle_on(&welcome)?;
        let policies = self.config.policy.identity();
        self.send(&Message::Policies(policies.clone()))?;
        self.session.stands();
        self.send(&Message::Standing)?;
        let reader = self.catalog.reader()?;
        let first_contact = self.is_first_contact(&reader, &welcome)?;
        let theirs = welcome.recovery_point.filter(|_| !first_contact);
        let last = later(reader.recovery_point()?, theirs);
        drop(reader);
        let (differing, behind) = (None, Behind::default());
        let mut standing =
            Standing { welcome, first_contact, policies, last, differing, differences: 0, behind };
        if belief != standing.welcome.root {
            self.find_differences(&mut standing)?;
        }
        Ok(standing)
    }

    /// Corrects the belief of what the target holds; what it was wrong in is looked at with the next cut.
    fn find_differences(&mut self, standing: &mut Standing) -> Result<(), SourceError> {
        let mut found: HashSet<RelPath> = HashSet::from([RelPath::root()]);
        let mut many = false;
        let mut count = 0;
        self.compare_with(&mut |difference| {
            count += 1;
            many |= found.len() >= DIFFERENCES_MAX;
            if !many && let Some((parent, _)) = difference.path.split() {
                found.insert(parent);
            }
        })?;
        standing.differences += count;
        standing.differing = Some(match (many, standing.differing.take()) {
            (true, _) | (_, Some(Look::Whole)) => Look::Whole,
            (false, former) => {
                let parts = found.into_iter().map(|directory| Part { directory, deep: false });
                joined(former.unwrap_or(Look::Nothing), parts)
            }
        });
        Ok(())
    }

    /// Whether the target is still there, and what it says between two cuts.
    pub(super) fn look_at_link(&mut self) -> Result<(), SourceError> {
        while let Some(event) = self.inbox.try_recv() {
            match event {
                Event::Message(message) => {
                    self.session.handle(&message)?;
                    self.hear_aside(&message);
                }
                Event::Failed(e) => return Err(self.reason(e)),
                Event::Ended => {
                    let state = self.session.state_name();
                    return Err(SessionError::EndedEarly { state }.into());
                }
                Event::Written(..) => return Err(SourceError::WorkerGone),
            }
        }
        Ok(())
    }

    /// Makes one cut, and tells its owner what became of it.
    fn cut(
        &mut self,
        mut cut: Cut,
        standing: &mut Standing,
        cuts: &dyn Cuts,
    ) -> Result<(), SourceError> {
        let made = self.look_at_link().and_then(|()| self.make(&mut cut, standing, cuts));
        // What was sent is in the catalog, or is sent again.
        self.index = RunIndex::default();
        match made {
            Ok(Made::Sealed(report)) => cuts.sealed(cut, *report),
            Ok(Made::Dropped(why)) => cuts.dropped(cut, why),
            Err(e) => {
                cuts.broken(cut);
                return Err(e);
            }
        }
        Ok(())
    }

    fn make(
        &mut self,
        cut: &mut Cut,
        standing: &mut Standing,
        cuts: &dyn Cuts,
    ) -> Result<Made, SourceError> {
        self.progress.begin_cut();
        let chosen = Arc::clone(&cut.policy);
        let policy = &*chosen;
        let are_others = self.tell_policies(policy, standing)?;
        if are_others {
            self.ahead.dismiss();
        }
        let identity = self.identity()?;
        let before = self.progress.applied.totals();
        let mut look = widest(&cut.look, standing.differing.as_ref());
        // What another policy leaves out or lets travel may be anywhere.
        if standing.first_contact || are_others {
            look = Look::Whole;
        }
        let mut widened = None;
        let (mut plan, failing) = self.plan_of_cut(&look, cut, &mut widened, cuts)?;
        let reader = self.catalog.reader()?;
        let expected = reader.root_identity()?;
        let proven = standing.last.map_or(0, |point| point.entries);
        let target = guard::Target { first_contact: standing.first_contact, proven };
        let hold = judge(expected, identity, plan.tally, self.config.threshold, target)
            .or_else(|| judge_faults(&plan.faults));
        if let Some(hold) = hold.filter(|_| !cut.approved) {
            return Ok(Made::Dropped(Dropped::Guard(hold)));
        }
        if !cuts.judge(cut, &mut plan) || cut.only_judged {
            return Ok(Made::Dropped(Dropped::Owner));
        }
        self.leave_out_for_turns(cut, &mut plan, cuts)?;
        let mut report = CutReport {
            point: self.next_point(cut, standing),
            looked_at: match (&look, widened) {
                (Look::Whole, _) | (_, Some(_)) => plan.tally.found,
                // Of a plan of parts the tally is of the whole tree.
                _ => self.progress.scanned.load(std::sync::atomic::Ordering::Relaxed),
            },
            applied: AppliedTotals::default(),
            problems: std::mem::take(&mut plan.problems).into_iter().chain(failing).collect(),
            excluded: plan.excluded,
            deferred: plan.deferred,
            deferred_first: std::mem::take(&mut plan.deferred_first),
            by_policy: self.by_policy(&mut plan, policy, &reader)?,
            degraded: BTreeMap::new(),
            compared: (standing.differences > 0).then_some(standing.differences),
            widened,
        };
        drop(reader);
        let mut faults = plan.faults.count;
        for attempt in 0.. {
            let mut propose = |source: &mut Self| {
                report.problems.extend(source.progress.take_problems());
                report.point.exceptions = cuts.exceptions(cut, &report.problems, faults);
                source.tell_of_behind(cuts.behind(cut), standing)?;
                Ok(report.point)
            };
            self.replicate(plan, &mut propose)?;
            self.progress.enter(Phase::Sealing);
            if let Some(sealed) = self.agree(&mut propose)? {
                report.point = sealed;
                let recorded = Recorded {
                    identity,
                    policies: &policy.identity(),
                    tree: standing.welcome.target,
                    by_policy: &mut report.by_policy,
                    behind: &standing.behind,
                };
                self.record_point(&sealed, recorded)?;
                break;
            }
            if attempt + 1 >= COMPARISONS {
                return Err(SourceError::NoAgreement);
            }
            self.find_differences(standing)?;
            if let Some(look) = &standing.differing {
                cuts.differ(standing.differences, look);
            }
            report.compared = Some(standing.differences);
            let look = widest(&look, standing.differing.as_ref());
            let (again, failing) = self.plan_of_cut(&look, cut, &mut report.widened, cuts)?;
            plan = again;
            let told: HashSet<RelPath> = report.problems.iter().map(|p| p.path.clone()).collect();
            let new = failing.into_iter().filter(|problem| !told.contains(&problem.path));
            report.problems.extend(new);
            faults = faults.max(plan.faults.count);
            report.problems.append(&mut plan.problems);
            report.by_policy = self.by_policy(&mut plan, policy, &self.catalog.reader()?)?;
        }
        let looked = if report.widened.is_some() { &Look::Whole } else { &look };
        self.settle_carried(cut, looked, &report.problems);
        (standing.differing, standing.differences) = (None, 0);
        standing.first_contact = false;
        standing.last = Some(report.point);
        for label in &cut.labels {
            let sequence = report.point.sequence;
            self.send(&Message::Mark { sequence, label: label.clone() })?;
        }
        report.degraded = std::mem::take(&mut self.degraded);
        report.applied = self.progress.applied.totals() - before;
        Ok(Made::Sealed(Box::new(report)))
    }

    /// The point that a cut is to reach, but for what the catalog will say.
    fn next_point(&self, cut: &Cut, standing: &Standing) -> RecoveryPoint {
        let former = standing.last;
        let time = cut.time_unix_ms.or(former.map(|point| point.time_unix_ms));
        // Clocks are set back; what was proven up to a time stays proven.
        let time = time.unwrap_or(i64::MIN).max(former.map_or(i64::MIN, |p| p.time_unix_ms));
        RecoveryPoint {
            sequence: former.map_or(0, |p| p.sequence) + 1,
            time_unix_ms: time,
            root: RootDigest([0; 32]),
            entries: 0,
            bytes: 0,
            exceptions: 0,
        }
    }

    /// The plan of what is looked at, without what is withheld; `widened` says why it is of the whole tree if
    /// only parts were asked for.
    pub(super) fn planned(
        &mut self,
        look: &Look,
        policy: &dyn Policy,
        withheld: &Withheld,
        widened: &mut Option<&'static str>,
    ) -> Result<Plan, SourceError> {
        let mut plan = self.planned_all(look, policy, widened)?;
        plan.withhold(withheld)?;
        Ok(plan)
    }

    fn planned_all(
        &mut self,
        look: &Look,
        policy: &dyn Policy,
        widened: &mut Option<&'static str>,
    ) -> Result<Plan, SourceError> {
        let none = Scope::new([]);
        let scope = match look {
            Look::Whole => return self.plan(policy),
            Look::Parts(scope) => scope,
            Look::Nothing => &none,
        };
        self.progress.enter(Phase::Scanning);
        let reader = self.catalog.reader()?;
        let spool: &Path = &self.config.spool_folder;
        let mut seen = |n| self.progress.scanned.store(n, std::sync::atomic::Ordering::Relaxed);
        let planned = self.config.profile.time(Stage::Scan, || {
            plan_parts(self.storage, &reader, policy, OWN_FOLDER, scope, spool, &mut seen)
        })?;
        match planned {
            PartialPlan::Plan(plan) => Ok(*plan),
            PartialPlan::Whole(why) => {
                *widened = Some(why);
                self.plan(policy)
            }
        }
    }

    fn by_policy(
        &self,
        plan: &mut Plan,
        policy: &dyn Policy,
        reader: &CatalogReader,
    ) -> Result<DetachedChange, SourceError> {
        Ok(plan.take_by_policy(reader, &policy.rules(), &self.config.spool_folder)?)
    }

    /// Says which policies decide from now on, if they are others than before; whether they are.
    fn tell_policies(
        &self,
        policy: &dyn Policy,
        standing: &mut Standing,
    ) -> Result<bool, SourceError> {
        let policies = policy.identity();
        let are_others = policies != standing.policies;
        if are_others {
            self.send(&Message::Policies(policies.clone()))?;
            standing.policies = policies;
        }
        Ok(are_others)
    }

    /// Names the accounts that the next point does not have, if they are others than those of the one before.
    /// They are recorded here first: a source that ends before it hears that its point was sealed says in the
    /// next session what that point lacks. That is so as well where the target is too old to be told.
    fn tell_of_behind(
        &self,
        behind: Vec<(RelPath, i64)>,
        standing: &mut Standing,
    ) -> Result<(), SourceError> {
        let behind = Behind::of(behind);
        if behind == standing.behind {
            return Ok(());
        }
        let known = self.catalog.reader()?.behind()?;
        let new = behind.first.iter().filter(|account| !known.first.contains(account));
        let both: Vec<_> = new.cloned().chain(known.first.iter().cloned()).collect();
        if both.len() > known.first.len() {
            let mut all = Behind::of(both);
            all.total = all.total.max(behind.total).max(known.total);
            self.catalog.update(Durability::Immediate, |t| t.set_behind(&all))?;
        }
        if self.carries {
            self.send(&Message::Behind(behind.clone()))?;
        }
        standing.behind = behind;
        Ok(())
    }
}

/// The later of the points that the two ends recorded. A source that ended before it recorded what the target
/// had sealed goes on from that: the point never goes back, and no number is given twice.
fn later(own: Option<RecoveryPoint>, theirs: Option<RecoveryPoint>) -> Option<RecoveryPoint> {
    match (own, theirs) {
        (Some(own), Some(theirs)) if own.sequence >= theirs.sequence => Some(own),
        (own, theirs) => theirs.or(own),
    }
}

/// How a cut ended when the session goes on.
enum Made {
    Sealed(Box<CutReport>),
    Dropped(Dropped),
}

/// What covers both.
fn widest(look: &Look, differing: Option<&Look>) -> Look {
    match (look, differing) {
        (Look::Whole, _) | (_, Some(Look::Whole)) => Look::Whole,
        (look, None | Some(Look::Nothing)) => look.clone(),
        (look, Some(Look::Parts(scope))) => joined(look.clone(), scope.parts().iter().cloned()),
    }
}

fn joined(look: Look, more: impl IntoIterator<Item = Part>) -> Look {
    match look {
        Look::Whole => Look::Whole,
        Look::Nothing => Look::Parts(Scope::new(more)),
        Look::Parts(scope) => Look::Parts(Scope::new(scope.parts().iter().cloned().chain(more))),
    }
}

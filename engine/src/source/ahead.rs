//! Files that are carried ahead of their cut: which there are, whose turn it is, what the target holds.
//!
//! Guarantees: of one account one file is under way at a time, and the account that was served least has the next
//! turn, an important one as if it had been served a part of that; an account is left out of cuts as long as a
//! file of its is on its way, and its owner is told when that is over; a file that keeps changing while it is
//! read, cannot be read, or has no room at the target, is left out by itself, not with its account; of the last
//! its owner decides when it is tried again. One that is another one whenever its cut comes goes with its cut. So
//! do, of an account, those that are too many to be held until all of it has come: the target never holds more
//! than it keeps. Answers that nobody asked for, or that are not what they say, end the session. Nothing here
//! survives a session: what the target holds is asked for at each attempt, and nothing of it is sent again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use farshore_core::codec::Decoder;
use farshore_core::path::RelPath;
use farshore_core::recipe::{ChunkId, FileDigest, Recipe};
use farshore_core::turns::Class;
use farshore_proto::link::{Link, LinkError};
use farshore_proto::message::{AHEAD_EXTENTS_MAX, AHEAD_LIST_MAX, AHEAD_MAX, Message, Receipt};
use farshore_proto::session::SessionError;

use crate::ingest::{ReadAhead, UNSTABLE};

/// Attempts after which a file that changed in each of them no longer keeps its account waiting.
const CHANGES_MAX: u32 = 3;
/// Attempts that fail because the target lacks what it was thought to hold.
const LACKS_MAX: u32 = 4;
/// Refusals after which a file no longer keeps its account waiting.
const REFUSALS_MAX: u32 = 4;
/// Cuts that find a file to be another one than was carried for them, after which it goes with its cut.
const OVERTAKEN_MAX: u32 = 3;
/// Contents that wait at the target for their cut, what is under way counted, after which no further one is
/// carried: the rest of an account goes with its cut. The target holds more, what broke off among it.
const READY_MAX: usize = 48;
/// The same of one account: others have their turn meanwhile.
const ACCOUNT_READY_MAX: usize = 40;
/// Extents of contents that wait, after which no further one is carried either.
const READY_EXTENTS_MAX: usize = AHEAD_EXTENTS_MAX / 2;
const _: () = assert!(READY_MAX < AHEAD_MAX && ACCOUNT_READY_MAX < READY_MAX);
/// How long until a file that changed is read again.
const CHANGED_AGAIN: Duration = Duration::from_secs(1);
/// How long until one that cannot be read, or does not rest, is tried again.
const FAILED_AGAIN: Duration = Duration::from_secs(5);
/// How long until one that the target refused is tried again.
const REFUSED_AGAIN: Duration = Duration::from_secs(30);

/// What is known and under way; shared by the coordinator, the carriers, and who hears the target.
#[derive(Debug, Default)]
pub(super) struct AheadDesk {
    state: Mutex<State>,
    moved: Condvar,
    /// Held while a list is asked for, so that lists are asked for in the order of their numbers.
    asking: Mutex<()>,
    /// Held while the streams of a batch, or of what goes ahead, are opened.
    opening: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    over: bool,
    jobs: BTreeMap<RelPath, Job>,
    /// What was left out of cuts, as its owner knows.
    told: BTreeSet<RelPath>,
    /// Bytes of files carried, by account.
    served: BTreeMap<RelPath, u64>,
    last_number: u64,
    /// Streams of which the target has not said what became, and what it said.
    receipts: BTreeMap<u64, Option<Receipt>>,
    asked: u64,
    answered: u64,
    held: Vec<HeldThere>,
    coming: Vec<HeldThere>,
    piece: Vec<u8>,
    /// Bytes and extents of the list that comes.
    coming_bytes: usize,
    coming_extents: usize,
    distrusted: HashSet<ChunkId>,
    /// A file that was carried, or was to be, is over.
    untidy: bool,
    /// One is not at its path any more: it may be at another one, which the next cut finds.
    gone: Gone,
}

/// What of files that went away the owner has heard.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Gone {
    #[default]
    None,
    /// One went.
    Unsaid,
    /// And its account is no longer left out: the next cut looks there.
    Said,
}

#[derive(Debug)]
struct Job {
    account: RelPath,
    class: Class,
    /// What is left out of cuts meanwhile: the account, or the file alone.
    withholds: RelPath,
    size: u64,
    moved_from: Option<RelPath>,
    state: JobState,
    again: Instant,
    changes: u32,
    lacks: u32,
    refusals: u32,
    /// Cuts that found it to be another one by then.
    overtaken: u32,
    /// Whether it is wanted is to be found out anew: what is under way is given up.
    dismissed: bool,
    trouble: Option<String>,
    no_room: Option<NoRoom>,
}

/// A file that the target has no room for.
#[derive(Debug, Clone, Copy)]
pub(super) struct NoRoom {
    pub(super) needed: u64,
    pub(super) free: u64,
}

/// A file that is left out by itself.
pub(super) struct Failing {
    pub(super) path: RelPath,
    pub(super) why: String,
    pub(super) no_room: Option<NoRoom>,
}

#[derive(Debug)]
enum JobState {
    Waits,
    UnderWay,
    /// The target has it whole, or needs nothing of it.
    Ready(Arc<ReadAhead>),
    /// Its cut reads and sends it: more of its account cannot be held at the target.
    WithCut,
    /// For the reason that is its trouble; the file alone is left out.
    Failed,
}

/// What is to be carried.
#[derive(Debug, Clone)]
pub(super) struct Task {
    pub(super) path: RelPath,
    pub(super) moved_from: Option<RelPath>,
}

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The target has all of it.
    Ready(ReadAhead),
    /// It is not there any more.
    Gone,
    /// It changed while it was read.
    Changed,
    /// The target lacks chunks that it was thought to hold, or all of the content.
    Lacks(Vec<ChunkId>),
    /// The target would not take it.
    Refused(String),
    /// The target has no room for it.
    NoRoom { needed: u64, free: u64 },
    /// It cannot be read.
    Unreadable(String),
}

/// What the desk knows of a file that a plan would send.
pub(super) enum Known {
    /// It is, or has to be, carried: this is left out of the cut.
    Waits(RelPath),
    /// It was carried, as it was then.
    Ready(Arc<ReadAhead>),
    /// It goes with the cut.
    WithCut,
}

impl AheadDesk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `open` while nobody else opens streams.
    pub(super) fn opening<T>(&self, open: impl FnOnce() -> T) -> T {
        let _turn = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        open()
    }

    /// The session ends: nobody waits any more.
    pub(super) fn close(&self) {
        self.lock().over = true;
        self.moved.notify_all();
    }

    pub(super) fn is_over(&self) -> bool {
        self.lock().over
    }

    /// What the target said, if it is about what goes ahead.
    pub(super) fn hear(&self, message: Message) -> Result<Option<Message>, SessionError> {
        let mut state = self.lock();
        match message {
            Message::Held { content, whole, last, bytes } => {
                state.heard_held(content, whole, last, &bytes)?
            }
            Message::Listed(contents) => state.heard_all(contents)?,
            Message::Carried(receipt) => {
                let asked = state.receipts.get_mut(&receipt.batch);
                match asked {
                    Some(slot @ None) => *slot = Some(receipt),
                    _ => return Err(SessionError::UnknownBatch { batch: receipt.batch }),
                }
            }
            other => return Ok(Some(other)),
        }
        self.moved.notify_all();
        Ok(None)
    }

    /// What is left out of cuts now: accounts with a file on its way, and files that fail.
    pub(super) fn withheld(&self) -> Vec<RelPath> {
        let state = self.lock();
        let waits = state.jobs.values().filter(|job| job.withholds_now());
        let withheld: BTreeSet<RelPath> = waits.map(|job| job.withholds.clone()).collect();
        withheld.into_iter().collect()
    }

    /// What a cut has to leave out: besides, what its owner does not know yet to be no longer left out. The owner
    /// took nothing of that into the cut, whose point would else pass for having it.
    pub(super) fn stays_out(&self) -> Vec<RelPath> {
        let mut stays: BTreeSet<RelPath> = self.withheld().into_iter().collect();
        stays.extend(self.lock().told.iter().cloned());
        stays.into_iter().collect()
    }

    /// What a cut left out, and what there is to say of it: the owner of the session is told when it is
    /// over.
    pub(super) fn left_out(&self, left_out: Vec<RelPath>) -> BTreeMap<RelPath, Option<String>> {
        let mut state = self.lock();
        let accounts: BTreeSet<RelPath> = left_out.into_iter().collect();
        state.told.extend(accounts.iter().cloned());
        let trouble = |account: &RelPath| {
            let mut jobs = state.jobs.iter().filter(|(_, job)| job.withholds == *account);
            jobs.find_map(|(path, job)| Some(format!("{path}: {}", job.trouble.as_ref()?)))
        };
        accounts.into_iter().map(|account| (account.clone(), trouble(&account))).collect()
    }

    /// Of content that no file is carried for any more, all may go.
    pub(super) fn may_be_untidy(&self) {
        self.lock().untidy = true;
    }

    /// What was left out and is no longer.
    pub(super) fn take_released(&self) -> Vec<RelPath> {
        let withheld: BTreeSet<RelPath> = self.withheld().into_iter().collect();
        let mut state = self.lock();
        if state.gone == Gone::Unsaid {
            state.gone = Gone::Said;
        }
        state.told.extract_if(.., |account| !withheld.contains(account)).collect()
    }

    /// Files that fail and whose time has come: they are planned again. Those of them that no plan meets
    /// any more are to be [`Self::forgotten`]. None of those that lie in what is left out: nothing of that is
    /// planned, so that no plan could meet them.
    pub(super) fn probed(
        &self,
        left_out: &[RelPath],
        covers: impl Fn(&RelPath) -> bool,
    ) -> Vec<RelPath> {
        let is_seen = |path: &RelPath| !left_out.iter().any(|a| a != path && path.starts_with(a));
        let now = Instant::now();
        let mut state = self.lock();
        let mut probed = Vec::new();
        for (path, job) in &mut state.jobs {
            let may_go = job.no_room.is_none() && job.again <= now;
            if matches!(job.state, JobState::Failed) && may_go && covers(path) && is_seen(path) {
                job.state = JobState::Waits;
                job.again = now + FAILED_AGAIN;
                probed.push(path.clone());
            }
        }
        probed
    }

    /// Why files fail, of those that `covers`.
    pub(super) fn failing(&self, covers: impl Fn(&RelPath) -> bool) -> Vec<Failing> {
        let state = self.lock();
        let failing = state
            .jobs
            .iter()
            .filter(|(path, job)| matches!(job.state, JobState::Failed) && covers(path));
        let failing = failing.map(|(path, job)| Failing {
            path: path.clone(),
            why: job.trouble.clone().unwrap_or_default(),
            no_room: job.no_room,
        });
        failing.collect()
    }

    /// The owner knows of these files that there is no room for them, and decides when that is another.
    pub(super) fn given_up(&self, is_known: impl Fn(&RelPath) -> bool) {
        let mut state = self.lock();
        let over = |path: &RelPath, job: &mut Job| job.no_room.is_some() && is_known(path);
        let over = state.jobs.extract_if(.., |path, job| over(path, job)).count();
        state.untidy |= over > 0;
    }

    /// Of these nothing is to be sent: those of them that are not under way and not carried yet are no longer
    /// to be.
    pub(super) fn let_go(&self, covers: impl Fn(&RelPath) -> bool) {
        let mut state = self.lock();
        let rests = |job: &Job| !matches!(job.state, JobState::UnderWay | JobState::Ready(_));
        let over = state.jobs.extract_if(.., |path, job| rests(job) && covers(path)).count();
        state.untidy |= over > 0;
    }

    /// No cut comes for these for now. Where others cannot be carried because of what waits for it, it waits no
    /// longer: it is carried again when its cut comes, of which the target may have kept it until then.
    pub(super) fn make_room(&self, covers: impl Fn(&RelPath) -> bool) {
        let mut state = self.lock();
        if !state.is_full() {
            return;
        }
        let waits = |job: &Job| matches!(job.state, JobState::Ready(_));
        let over = state.jobs.extract_if(.., |path, job| waits(job) && covers(path)).count();
        state.untidy |= over > 0;
        drop(state);
        self.moved.notify_all();
    }

    /// Other policies decide what travels: what is not carried yet is planned again, and what is under way is
    /// given up. What came of it is of use if it is wanted all the same.
    pub(super) fn dismiss(&self) {
        self.let_go(|_| true);
        self.lock().jobs.values_mut().for_each(|job| {
            job.dismissed = matches!(job.state, JobState::UnderWay);
        });
    }

    /// Whether an attempt at a file is to be given up.
    pub(super) fn is_dismissed(&self, path: &RelPath) -> bool {
        let state = self.lock();
        state.over || state.jobs.get(path).is_none_or(|job| job.dismissed)
    }

    /// The account of a file that was, or is being, carried.
    pub(super) fn account_of(&self, path: &RelPath) -> Option<RelPath> {
        self.lock().jobs.get(path).map(|job| job.account.clone())
    }

    /// What is known of a file that a plan would send, which is carried from now on if it is not yet.
    /// `rests` says whether it has not changed for a while.
    pub(super) fn wants(
        &self,
        path: &RelPath,
        (account, class): (&RelPath, Class),
        (size, moved_from): (u64, Option<&RelPath>),
        rests: bool,
    ) -> Known {
        let mut state = self.lock();
        let job = state.jobs.entry(path.clone()).or_insert_with(|| Job {
            account: account.clone(),
            class,
            withholds: account.clone(),
            size,
            moved_from: moved_from.cloned(),
            state: JobState::Waits,
            again: Instant::now(),
            changes: 0,
            lacks: 0,
            refusals: 0,
            overtaken: 0,
            dismissed: false,
            trouble: None,
            no_room: None,
        });
        match &job.state {
            JobState::Ready(read) => return Known::Ready(Arc::clone(read)),
            JobState::WithCut => return Known::WithCut,
            _ => {}
        }
        // One that failed is carried beside its account; one that did not rest and does now, before what
        // came after it.
        if job.trouble.is_none() || (job.changes > 0 && rests) {
            job.withholds = account.clone();
        }
        if matches!(job.state, JobState::Waits) {
            (job.class, job.size, job.moved_from) = (class, size, moved_from.cloned());
            job.again = job.again.min(Instant::now() + CHANGED_AGAIN);
        }
        let withholds = job.withholds.clone();
        state.leave_to_cuts();
        let goes_with_cut =
            state.jobs.get(path).is_some_and(|job| matches!(job.state, JobState::WithCut));
        drop(state);
        self.moved.notify_all();
        if goes_with_cut { Known::WithCut } else { Known::Waits(withholds) }
    }

    /// A file that was carried is another one by now, or gone: once more, and this is left out meanwhile. `None`
    /// when that was so time and again: a file that changes at every turn would keep its account waiting for
    /// ever. It goes with its cut, which has little to send of it.
    pub(super) fn is_overtaken(&self, path: &RelPath) -> Option<RelPath> {
        {
            let mut state = self.lock();
            let job = state.jobs.get_mut(path)?;
            job.overtaken += 1;
            if job.overtaken >= OVERTAKEN_MAX {
                return None;
            }
        }
        self.is_stale(path)
    }

    /// Files that went with their cut, which had trouble with them: they wait by themselves.
    pub(super) fn had_trouble(&self, why: impl Fn(&RelPath) -> Option<String>) {
        let mut state = self.lock();
        for (path, job) in &mut state.jobs {
            let is_overtaken = job.overtaken >= OVERTAKEN_MAX;
            let went_with_cut = is_overtaken || matches!(job.state, JobState::WithCut);
            if went_with_cut && let Some(why) = why(path) {
                job.overtaken = 0;
                job.withholds = path.clone();
                job.fails(why);
            }
        }
    }

    /// A file that was carried is another one by now, or the target has it no longer: once more.
    pub(super) fn is_stale(&self, path: &RelPath) -> Option<RelPath> {
        let mut state = self.lock();
        let job = state.jobs.get_mut(path)?;
        job.state = JobState::Waits;
        job.again = Instant::now();
        let withholds = job.withholds.clone();
        drop(state);
        self.moved.notify_all();
        Some(withholds)
    }

    /// A cut looked at these files, and they are as it sent them, or gone.
    pub(super) fn settled(&self, is_settled: impl Fn(&RelPath) -> bool) {
        let mut state = self.lock();
        let settled = |path: &RelPath, job: &mut Job| !job.withholds_now() && is_settled(path);
        let settled = state.jobs.extract_if(.., |path, job| settled(path, job)).count();
        state.untidy |= settled > 0;
        if state.gone == Gone::Said {
            // Under another name it has been met by now.
            (state.gone, state.untidy) = (Gone::None, true);
        }
        drop(state);
        // There may be room for others.
        self.moved.notify_all();
    }

    /// No plan meets that file any more.
    pub(super) fn forgotten(&self, path: &RelPath) {
        let mut state = self.lock();
        if state.jobs.get(path).is_some_and(|job| matches!(job.state, JobState::Waits)) {
            state.jobs.remove(path);
            state.untidy = true;
        }
    }

    /// What of the content held ahead is still wanted, when anything may be there that is not.
    pub(super) fn take_untidy(&self) -> Option<Vec<FileDigest>> {
        let mut state = self.lock();
        let at_rest = state.jobs.values().all(|job| !job.withholds_now());
        if !state.untidy || !at_rest || state.gone != Gone::None {
            return None;
        }
        state.untidy = false;
        let mut wanted = Vec::new();
        for job in state.jobs.values() {
            if let JobState::Ready(read) = &job.state {
                wanted.extend(read.entry.content().copied());
            }
        }
        wanted.truncate(AHEAD_MAX);
        Some(wanted)
    }

    /// Whose turn it is; waits for it. `None` when the session ends.
    pub(super) fn next_task(&self) -> Option<Task> {
        let mut state = self.lock();
        loop {
            if state.over {
                return None;
            }
            let now = Instant::now();
            let accounts = state.accounts();
            let may_begin = |account: &RelPath| {
                accounts.get(account).is_none_or(|a| !a.is_busy && !a.is_full()) && !state.is_full()
            };
            let waiting = || {
                let waits = |job: &Job| matches!(job.state, JobState::Waits);
                state.jobs.iter().filter(move |(_, job)| waits(job))
            };
            let due = waiting().filter(|(_, job)| job.again <= now && may_begin(&job.account));
            let served = |job: &Job| {
                state.served.get(&job.account).copied().unwrap_or(0) / job.class.weight()
            };
            let next = due.min_by_key(|(_, job)| (served(job), job.class, job.size));
            if let Some(path) = next.map(|(path, _)| path.clone()) {
                let task = state.begin(path);
                drop(state);
                self.moved.notify_all();
                return task;
            }
            let soonest = waiting().map(|(_, job)| job.again).filter(|again| *again > now).min();
            let wait = soonest.map_or(Duration::from_secs(60), |at| at.duration_since(now));
            state = self.moved.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// How an attempt ended.
    pub(super) fn ended(&self, path: &RelPath, outcome: Outcome) {
        let mut state = self.lock();
        let dismissed = state.jobs.get(path).is_some_and(|job| job.dismissed);
        if dismissed || matches!(outcome, Outcome::Gone) {
            state.jobs.remove(path);
            state.gone = Gone::Unsaid;
        }
        if let Outcome::Lacks(chunks) = &outcome {
            state.distrusted.extend(chunks);
        }
        if let Some(job) = state.jobs.get_mut(path) {
            job.ended(outcome);
            if matches!(job.state, JobState::Failed) {
                // Not its account: that would wait for as long as somebody keeps writing.
                job.withholds = path.clone();
            }
        }
        state.leave_to_cuts();
        drop(state);
        self.moved.notify_all();
    }

    /// The number of the next stream, of which something will be said.
    pub(super) fn next_number(&self) -> u64 {
        let mut state = self.lock();
        state.last_number += 1;
        let number = state.last_number;
        state.receipts.insert(number, None);
        number
    }

    /// What the target says of a stream; `None` when it never will.
    pub(super) fn receipt(&self, number: u64) -> Option<Receipt> {
        let mut state = self.lock();
        loop {
            match state.receipts.get(&number) {
                Some(Some(_)) => return state.receipts.remove(&number).flatten(),
                Some(None) if !state.over => {}
                _ => return None,
            }
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Asks what the target holds, of which it keeps what `keep` says; the request's number.
    pub(super) fn ask(
        &self,
        link: &dyn Link,
        keep: Option<Vec<FileDigest>>,
    ) -> Result<u64, LinkError> {
        let _turn = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        let number = {
            let mut state = self.lock();
            state.asked += 1;
            state.asked
        };
        link.send_control(Bytes::from(Message::Ahead { keep }.to_bytes()))?;
        Ok(number)
    }

    /// What the target holds, as of that request or later, and what of it is not to be relied on; `None`
    /// when the session ends.
    pub(super) fn held(&self, number: u64) -> Option<Held> {
        let mut state = self.lock();
        while state.answered < number {
            if state.over {
                return None;
            }
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Some(Held { contents: state.held.clone(), distrusted: state.distrusted.clone() })
    }

    /// The same of what is whole there, if that is known after `at_most`.
    pub(super) fn held_whole(&self, number: u64, at_most: Duration) -> Option<HashSet<FileDigest>> {
        let state = self.lock();
        let waits = |state: &mut State| state.answered < number && !state.over;
        let waited = self.moved.wait_timeout_while(state, at_most, waits);
        let state = waited.unwrap_or_else(PoisonError::into_inner).0;
        let whole = || state.held.iter().filter(|held| held.whole).map(|held| held.content);
        (state.answered >= number).then(|| whole().collect())
    }
}

/// What the target holds ahead.
pub(super) struct Held {
    pub(super) contents: Vec<HeldThere>,
    pub(super) distrusted: HashSet<ChunkId>,
}

/// One content of that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HeldThere {
    pub(super) content: FileDigest,
    pub(super) whole: bool,
    pub(super) recipe: Arc<Recipe>,
}

/// What of an account is held for its cut, or under way.
#[derive(Debug, Default)]
struct InHand {
    is_busy: bool,
    ready: usize,
}

impl InHand {
    const fn is_full(&self) -> bool {
        self.ready + self.is_busy as usize >= ACCOUNT_READY_MAX
    }
}

impl State {
    /// By account.
    fn accounts(&self) -> HashMap<RelPath, InHand> {
        let mut accounts: HashMap<RelPath, InHand> = HashMap::new();
        for job in self.jobs.values() {
            let is_busy = matches!(job.state, JobState::UnderWay);
            if is_busy || matches!(job.state, JobState::Ready(_)) {
                let account = accounts.entry(job.account.clone()).or_default();
                account.is_busy |= is_busy;
                account.ready += usize::from(!is_busy);
            }
        }
        accounts
    }

    /// Whether no more is carried until something found its place.
    fn is_full(&self) -> bool {
        let (mut contents, mut extents) = (0, 0);
        for job in self.jobs.values() {
            match &job.state {
                JobState::UnderWay => contents += 1,
                JobState::Ready(read) => {
                    contents += 1;
                    extents += read.recipe.as_ref().map_or(0, |recipe| recipe.extents.len());
                }
                _ => {}
            }
        }
        contents >= READY_MAX || extents >= READY_EXTENTS_MAX
    }

    /// What keeps an account waiting that has as much at the target as may be there goes with its cut: it would
    /// wait for room that only this cut makes.
    fn leave_to_cuts(&mut self) {
        let (accounts, is_full) = (self.accounts(), self.is_full());
        for job in self.jobs.values_mut() {
            let in_hand = accounts.get(&job.account);
            let goes = in_hand.is_some_and(|a| a.ready > 0 && (is_full || a.is_full()));
            if goes && matches!(job.state, JobState::Waits) && job.withholds == job.account {
                job.state = JobState::WithCut;
            }
        }
    }

    fn begin(&mut self, path: RelPath) -> Option<Task> {
        let job = self.jobs.get_mut(&path)?;
        job.state = JobState::UnderWay;
        let served = self.served.entry(job.account.clone()).or_default();
        *served = served.saturating_add(job.size);
        let task = Task { path, moved_from: job.moved_from.clone() };
        self.leave_to_cuts();
        Some(task)
    }

    fn heard_held(
        &mut self,
        content: FileDigest,
        whole: bool,
        last: bool,
        bytes: &[u8],
    ) -> Result<(), SessionError> {
        if self.answered >= self.asked {
            return Err(SessionError::UnaskedAnswer);
        }
        self.coming_bytes += bytes.len();
        if self.coming.len() >= AHEAD_MAX || self.coming_bytes > AHEAD_LIST_MAX {
            let limit = AHEAD_MAX;
            return Err(SessionError::TooMany { what: "contents held ahead", limit });
        }
        self.piece.extend_from_slice(bytes);
        if last {
            let encoded = std::mem::take(&mut self.piece);
            let mut d = Decoder::new(&encoded);
            let left = AHEAD_EXTENTS_MAX.saturating_sub(self.coming_extents);
            let recipe = Recipe::decode_within(&mut d, left)?;
            d.finish("recipe")?;
            if recipe.digest() != content {
                return Err(SessionError::UnaskedAnswer);
            }
            self.coming_extents += recipe.extents.len();
            self.coming.push(HeldThere { content, whole, recipe: Arc::new(recipe) });
        }
        Ok(())
    }

    fn heard_all(&mut self, contents: u64) -> Result<(), SessionError> {
        let fits = contents == self.coming.len() as u64 && self.piece.is_empty();
        if self.answered >= self.asked || !fits {
            return Err(SessionError::UnaskedAnswer);
        }
        self.held = std::mem::take(&mut self.coming);
        (self.coming_bytes, self.coming_extents) = (0, 0);
        self.answered += 1;
        Ok(())
    }
}

impl Job {
    fn withholds_now(&self) -> bool {
        !matches!(self.state, JobState::Ready(_) | JobState::WithCut)
    }

    fn fails(&mut self, text: String) {
        self.state = JobState::Failed;
        self.trouble = Some(text);
        self.again = Instant::now() + FAILED_AGAIN;
    }

    fn ended(&mut self, outcome: Outcome) {
        let now = Instant::now();
        self.state = JobState::Waits;
        match outcome {
            Outcome::Ready(read) => {
                (self.changes, self.lacks, self.refusals) = (0, 0, 0);
                self.trouble = None;
                self.state = JobState::Ready(Arc::new(read));
            }
            Outcome::Changed => {
                self.changes += 1;
                self.again = now + CHANGED_AGAIN;
                if self.changes >= CHANGES_MAX {
                    self.fails(UNSTABLE.into());
                }
            }
            Outcome::Lacks(_) => {
                self.lacks += 1;
                self.again = now;
                if self.lacks >= LACKS_MAX {
                    self.lacks = 0;
                    self.fails("the target could not build it, however it was sent".into());
                }
            }
            // Its account waits: what comes after it must not overtake it. Not for ever: a target may never
            // take it, one whose file system has no files of that size for one.
            Outcome::Refused(text) => {
                self.refusals += 1;
                let text = format!("the target refused: {text}");
                if self.refusals >= REFUSALS_MAX {
                    self.fails(text);
                } else {
                    self.trouble = Some(text);
                }
                self.again = now + REFUSED_AGAIN;
            }
            // What has no room alone does not keep its account waiting for it.
            Outcome::NoRoom { needed, free } => {
                self.no_room = Some(NoRoom { needed, free });
                self.fails(format!("no space at the target ({needed} bytes needed, {free} free)"));
            }
            Outcome::Unreadable(text) => self.fails(text),
            Outcome::Gone => {}
        }
    }
}

#[cfg(test)]
mod tests;

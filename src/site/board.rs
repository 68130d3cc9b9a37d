//! The board: the one owner of what is shown of a site. Threads of the daemon post facts to it, everybody who asks
//! takes a snapshot: the control socket, metrics, the screen.
//!
//! **Guarantees.** No call on a mount, on a disk or on the network is made here, whatever is asked. A post waits for
//! nothing but another post: a reader holds the lock as long as it takes to copy one pointer, and builds its
//! snapshot from facts that no longer change (a post after that copies the facts of its share). A snapshot is of one
//! moment: what was posted together is seen together. A thread that never returns holds nothing, and is seen: see
//! [`Worker`]. Memory is bounded whatever is posted: lists are cut, and say of how many.
//!
//! **Does not** decide anything, nor remember anything: after a start the daemon posts what its catalogs say.
//! Names and words of others are escaped when they are posted, so whoever shows a snapshot need not.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use farshore_core::path::{RelPath, escape_text};
use farshore_core::recovery_point::RecoveryPoint;
use farshore_core::turns::Class;
use farshore_engine::progress::Progress;

pub mod clock;
pub mod facts;
mod series;
mod snapshot;
pub mod verdict;
mod worker;

use clock::Clock;
use facts::{
    AtRisk, Capture, ClockStatus, History, Hold, LargeFile, NodeStatus, PointStatus, PolicySummary,
    Problem, Role, Scrub, ScrubAccount, ShareState, SiteStatus, Standby, Why,
};
use series::{LagHour, Rates};
use worker::Workers;
pub use worker::{OnMount, STALL_AFTER_MS, Worker};

/// Problems kept of a share.
const PROBLEMS_MAX: usize = 100;
/// Accounts, nodes and the like named in a list.
const NAMED_MAX: usize = 10;
/// Holds and nodes kept of a share.
const LISTED_MAX: usize = 100;
/// Characters of a text.
const TEXT_MAX: usize = 1_000;
/// Clock samples the best is chosen from.
const CLOCK_SAMPLES: usize = 16;
/// A clock that is off by more than this is warned of.
const CLOCK_OFF_MS: u64 = 1_000;

/// What a board is told once.
#[derive(Debug, Clone)]
pub struct BoardConfig {
    /// Name of this site.
    pub site: String,
    /// Name of the other.
    pub peer: String,
    /// Where it is looked for; none: it comes to us.
    pub peer_address: Option<String>,
    /// A connection may be away this long before the site is not ready.
    pub grace: Duration,
}

/// A share as the site's config has it.
#[derive(Debug, Clone)]
pub struct ShareConfig<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where it is mounted.
    pub path: &'a Path,
    /// What this site does with it.
    pub role: Role,
    /// Rises with every change of role.
    pub epoch: u64,
    /// The lag that is allowed.
    pub objective: Option<Duration>,
}

/// See the module.
#[derive(Debug)]
pub struct Board {
    clock: Arc<dyn Clock>,
    /// Only ever held to change or copy pointers and values: see [`Board::post`].
    facts: Mutex<Arc<Facts>>,
    /// Counted by the link, many times a second; apart, so that it copies no facts.
    traffic: Mutex<TrafficFacts>,
    workers: Workers,
}

/// What was posted. A copy of it copies pointers.
#[derive(Debug, Clone)]
struct Facts {
    config: BoardConfig,
    started_unix_ms: i64,
    peer: PeerFacts,
    shares: BTreeMap<String, Arc<ShareFacts>>,
}

#[derive(Debug, Clone)]
struct PeerFacts {
    address: Option<String>,
    connected: bool,
    since_unix_ms: i64,
    since_steady_ms: u64,
    reason: Option<String>,
    next_attempt_unix_ms: Option<i64>,
    rtt: Option<Duration>,
    /// It talks with us of roles, whether a share is replicated meanwhile or not.
    answers: bool,
    /// By the steady clock: it spoke until then, and said no goodbye.
    silent_since: Option<u64>,
    /// The last samples of the peer's clock.
    clock: VecDeque<ClockStatus>,
}

#[derive(Debug, Clone)]
struct TrafficFacts {
    sent: Rates,
    received: Rates,
}

/// An account that is behind its share.
#[derive(Debug, Clone, Copy)]
pub struct Late<'a> {
    /// The account.
    pub account: &'a RelPath,
    /// The time up to which the last point has it.
    pub time_unix_ms: i64,
    /// What it waits for, if that is known.
    pub why: Option<Why>,
    /// How important it is.
    pub class: Class,
}

impl<'a> From<(&'a RelPath, i64)> for Late<'a> {
    fn from((account, time_unix_ms): (&'a RelPath, i64)) -> Self {
        Self { account, time_unix_ms, why: None, class: Class::Normal }
    }
}

/// The same, as it is kept.
#[derive(Debug, Clone)]
struct Behind {
    account: String,
    time_unix_ms: i64,
    why: Option<Why>,
    class: Class,
}

impl From<Late<'_>> for Behind {
    fn from(Late { account, time_unix_ms, why, class }: Late<'_>) -> Self {
        Self { account: account_name(account), time_unix_ms, why, class }
    }
}

#[derive(Debug, Clone)]
struct ShareFacts {
    name: String,
    path: String,
    role: Role,
    epoch: u64,
    roles: Option<facts::RoleStatus>,
    objective: Option<Duration>,
    state: ShareState,
    state_text: Option<String>,
    state_since_unix_ms: i64,
    point: Option<PointStatus>,
    peer_point: Option<PointStatus>,
    /// Points that both ends sealed in this run.
    seals: u64,
    /// Where the peer has it.
    peer_path: Option<String>,
    lag: LagHour,
    at_risk: AtRisk,
    cut: Option<CutFacts>,
    capture: Option<Capture>,
    large_files: Vec<LargeFile>,
    holds: Vec<Hold>,
    holds_total: u64,
    accounts: u64,
    /// Those with the oldest T.
    worst: Vec<Behind>,
    scrub: Option<Scrub>,
    history: Option<History>,
    policy: Option<PolicySummary>,
    problems_total: u64,
    problems: VecDeque<Problem>,
    degraded: BTreeMap<String, u64>,
    standby: Standby,
}

/// A cut under way: its counters are read when a snapshot is taken.
#[derive(Clone)]
struct CutFacts {
    progress: Arc<Progress>,
    since_steady_ms: u64,
}

impl fmt::Debug for CutFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CutFacts").field("since_steady_ms", &self.since_steady_ms).finish()
    }
}

impl Board {
    /// A board of a site that begins now, not connected and without shares.
    #[must_use]
    pub fn new(config: BoardConfig, clock: Arc<dyn Clock>) -> Arc<Self> {
        let (wall, steady) = (clock.wall_ms(), clock.steady_ms());
        let peer = PeerFacts {
            address: config.peer_address.as_deref().map(shown),
            connected: false,
            since_unix_ms: wall,
            since_steady_ms: steady,
            reason: None,
            next_attempt_unix_ms: None,
            rtt: None,
            answers: false,
            silent_since: None,
            clock: VecDeque::new(),
        };
        let config = BoardConfig { site: shown(&config.site), peer: shown(&config.peer), ..config };
        let facts = Facts { config, started_unix_ms: wall, peer, shares: BTreeMap::new() };
        Arc::new(Self {
            clock,
            facts: Mutex::new(Arc::new(facts)),
            traffic: Mutex::new(TrafficFacts {
                sent: Rates::new(steady),
                received: Rates::new(steady),
            }),
            workers: Workers::default(),
        })
    }

    /// A share of the config, or what the config says now of one that is here: what was posted of it stays.
    #[must_use]
    pub fn share(self: &Arc<Self>, config: &ShareConfig<'_>) -> ShareBoard {
        let now = self.clock.wall_ms();
        let (name, path) = (shown(config.name), shown_path(config.path));
        self.post(|facts| {
            let fresh = || Arc::new(ShareFacts::new(&name, now));
            let share = facts.shares.entry(name.clone()).or_insert_with(fresh);
            let share = Arc::make_mut(share);
            share.path = path;
            share.role = config.role;
            share.epoch = share.epoch.max(config.epoch);
            share.objective = config.objective;
        });
        ShareBoard { board: Arc::clone(self), name }
    }

    /// A share that is no longer in the config. Further posts of it are lost.
    pub fn remove_share(&self, name: &str) {
        let name = shown(name);
        self.post(|facts| drop(facts.shares.remove(&name)));
    }

    /// Connected to the peer, at `address`.
    pub fn connected(&self, address: &str) {
        let (wall, steady) = (self.clock.wall_ms(), self.clock.steady_ms());
        let address = shown(address);
        self.post(|facts| {
            facts.peer = PeerFacts {
                address: Some(address),
                connected: true,
                since_unix_ms: wall,
                since_steady_ms: steady,
                reason: None,
                next_attempt_unix_ms: None,
                rtt: None,
                answers: facts.peer.answers,
                silent_since: facts.peer.silent_since,
                // A clock stays as wrong as it was; another machine's samples leave soon.
                clock: std::mem::take(&mut facts.peer.clock),
            };
        });
        let mut traffic = self.traffic();
        traffic.sent.restart();
        traffic.received.restart();
    }

    /// Not connected, why, and when it is tried again, if we are the one who tries. Said again after each attempt:
    /// since when it is so stays.
    pub fn disconnected(&self, why: &str, next_attempt: Option<Duration>) {
        let (wall, steady) = (self.clock.wall_ms(), self.clock.steady_ms());
        let why = shown(why);
        let next = next_attempt
            .map(|wait| wall.saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)));
        self.post(|facts| {
            let peer = &mut facts.peer;
            if peer.connected {
                (peer.since_unix_ms, peer.since_steady_ms) = (wall, steady);
            }
            peer.connected = false;
            peer.reason = Some(why);
            peer.next_attempt_unix_ms = next;
            peer.rtt = None;
        });
    }

    /// Whether the peer talks with us of roles.
    pub fn answers(&self, it_does: bool) {
        self.post(|facts| facts.peer.answers = it_does);
    }

    /// It said something, after a silence perhaps: that a link stands is no word.
    pub fn speaks(&self) {
        self.post(|facts| facts.peer.silent_since = None);
    }

    /// Nothing is heard of it any more, for as long as that, though it said no goodbye.
    pub fn silent(&self, since: Duration) {
        let since = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let since = self.clock.steady_ms().saturating_sub(since);
        self.post(|facts| (facts.peer.answers, facts.peer.silent_since) = (false, Some(since)));
    }

    /// What the connection says of itself, about once a second: round trip, and its two counters of UDP payload,
    /// which begin at 0 with each connection.
    pub fn link(&self, rtt: Duration, sent_bytes: u64, received_bytes: u64) {
        let steady = self.clock.steady_ms();
        {
            let mut traffic = self.traffic();
            traffic.sent.counter(steady, sent_bytes);
            traffic.received.counter(steady, received_bytes);
        }
        self.post(|facts| facts.peer.rtt = Some(rtt));
    }

    /// The peer answered, and said what its clock showed then; times by our clock when it was asked and had
    /// answered. Of the last samples that with the shortest way tells the offset.
    pub fn clock_sample(&self, asked_unix_ms: i64, peer_unix_ms: i64, answered_unix_ms: i64) {
        let way = answered_unix_ms.saturating_sub(asked_unix_ms);
        // Our own clock was set in between.
        let Ok(way) = u64::try_from(way) else { return };
        let middle = asked_unix_ms.saturating_add(i64::try_from(way / 2).unwrap_or(0));
        let offset_ms = peer_unix_ms.saturating_sub(middle);
        let uncertainty_ms = way.div_ceil(2).max(1);
        let warning = offset_ms.unsigned_abs() > CLOCK_OFF_MS.saturating_add(uncertainty_ms);
        self.post(|facts| {
            let samples = &mut facts.peer.clock;
            if samples.len() == CLOCK_SAMPLES {
                samples.pop_front();
            }
            samples.push_back(ClockStatus { offset_ms, uncertainty_ms, warning });
        });
    }

    /// A heartbeat for a thread that works for `share`, or for the whole site. Posts after it are the thread's own:
    /// [`Worker::doing`], and [`Worker::on_mount`] before each call on a mount.
    #[must_use]
    pub fn worker(&self, share: Option<&str>, name: &str) -> Worker {
        let share = share.map(shown);
        self.workers.add(share.as_deref(), &shown(name), Arc::clone(&self.clock))
    }

    /// All that is known now.
    #[must_use]
    pub fn snapshot(&self) -> SiteStatus {
        let facts = Arc::clone(&self.facts());
        let traffic = self.traffic().clone();
        let (wall, steady) = (self.clock.wall_ms(), self.clock.steady_ms());
        let (workers, stalls) = self.workers.status(steady);
        snapshot::of(&facts, traffic, &stalls, workers, snapshot::Now { wall, steady })
    }

    fn facts(&self) -> MutexGuard<'_, Arc<Facts>> {
        // A post changes values and calls nobody, so what a panic left is whole enough to be shown.
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn traffic(&self) -> MutexGuard<'_, TrafficFacts> {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the facts. `change` moves values that are ready: what it costs, other posts wait for.
    fn post(&self, change: impl FnOnce(&mut Facts)) {
        change(Arc::make_mut(&mut self.facts()));
    }
}

impl ShareFacts {
    fn new(name: &str, now_unix_ms: i64) -> Self {
        Self {
            name: name.to_owned(),
            path: String::new(),
            role: Role::Active,
            epoch: 0,
            roles: None,
            objective: None,
            state: ShareState::Starting,
            state_text: None,
            state_since_unix_ms: now_unix_ms,
            point: None,
            peer_point: None,
            seals: 0,
            peer_path: None,
            lag: LagHour::default(),
            at_risk: AtRisk::default(),
            cut: None,
            capture: None,
            large_files: Vec::new(),
            holds: Vec::new(),
            holds_total: 0,
            accounts: 0,
            worst: Vec::new(),
            scrub: None,
            history: None,
            policy: None,
            problems_total: 0,
            problems: VecDeque::new(),
            degraded: BTreeMap::new(),
            standby: Standby::default(),
        }
    }
}

/// What is posted of one share. Cheap to clone; each thread that posts has its own.
#[derive(Debug, Clone)]
pub struct ShareBoard {
    board: Arc<Board>,
    name: String,
}

impl ShareBoard {
    /// Its name, as it is shown.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A heartbeat for a thread that works for this share.
    #[must_use]
    pub fn worker(&self, name: &str) -> Worker {
        self.board.worker(Some(&self.name), name)
    }

    /// What the share is at, with more words if there are any. Said again, it is the same state since the same time.
    pub fn state(&self, state: ShareState, text: Option<&str>) {
        let now = self.board.clock.wall_ms();
        let text = text.map(shown);
        self.post(|share| {
            if share.state != state {
                share.state_since_unix_ms = now;
            }
            share.state = state;
            share.state_text = text;
        });
    }

    /// A change of role.
    pub fn role(&self, role: Role, epoch: u64) {
        self.post(|share| (share.role, share.epoch) = (role, epoch));
    }

    /// Where the site stands.
    pub fn roles(&self, mut roles: facts::RoleStatus, epoch: u64) {
        for text in [&mut roles.text, &mut roles.gate_text].into_iter().flatten() {
            *text = shown(text);
        }
        self.post(|share| (share.roles, share.epoch) = (Some(roles), epoch));
    }

    /// The last recovery point of this site: after a start as the catalog has it, then after each seal.
    pub fn recovery_point(&self, point: &RecoveryPoint) {
        let status = PointStatus::from(point);
        let (wall, steady) = (self.board.clock.wall_ms(), self.board.clock.steady_ms());
        let time = point.time_unix_ms;
        self.board.post(|facts| {
            let offset = facts.peer.best_clock().map_or(0, |clock| clock.offset_ms);
            let Some(share) = facts.shares.get_mut(&self.name) else { return };
            let share = Arc::make_mut(share);
            share.lag.point(steady, snapshot::lag_ms(share.role, wall, offset, time));
            share.point = Some(status);
        });
    }

    /// The last recovery point as the peer says it.
    pub fn peer_recovery_point(&self, point: &RecoveryPoint) {
        let status = PointStatus::from(point);
        self.post(|share| share.peer_point = Some(status));
    }

    /// See [`Board::link`].
    pub fn link(&self, rtt: Duration, sent_bytes: u64, received_bytes: u64) {
        self.board.link(rtt, sent_bytes, received_bytes);
    }

    /// Both ends of a session sealed a point.
    pub fn sealed(&self, point: &RecoveryPoint) {
        self.recovery_point(point);
        self.peer_recovery_point(point);
        self.post(|share| share.seals += 1);
    }

    /// How often that was so in this run.
    #[must_use]
    pub fn seals(&self) -> u64 {
        self.board.facts().shares.get(&self.name).map_or(0, |share| share.seals)
    }

    /// Where the peer says that it has this share.
    pub fn peer_path(&self, path: &[u8]) {
        let mut shown = String::new();
        // Writing to a string does not fail.
        farshore_core::path::escape(path, &mut shown).unwrap_or(());
        self.post(|share| share.peer_path = Some(shown));
    }

    /// See [`Board::clock_sample`].
    pub fn clock_sample(&self, asked_unix_ms: i64, peer_unix_ms: i64, answered_unix_ms: i64) {
        self.board.clock_sample(asked_unix_ms, peer_unix_ms, answered_unix_ms);
    }

    /// What is known to have changed and is not proven. At a standby: as the source said last.
    pub fn at_risk(&self, at_risk: AtRisk) {
        self.post(|share| share.at_risk = at_risk);
    }

    /// A cut begins; its counters are read whenever somebody asks.
    pub fn cut_began(&self, progress: Arc<Progress>) {
        let since_steady_ms = self.board.clock.steady_ms();
        self.post(|share| share.cut = Some(CutFacts { progress, since_steady_ms }));
    }

    /// It ended, however.
    pub fn cut_ended(&self) {
        self.post(|share| share.cut = None);
    }

    /// Files on their way beside the cuts, and how far they are.
    pub fn large_files(&self, mut files: Vec<LargeFile>) {
        files.truncate(LISTED_MAX);
        self.post(|share| share.large_files = files);
    }

    /// How changes are learned of.
    pub fn capture(&self, mut capture: Capture) {
        capture.method = shown(&capture.method);
        capture.nodes.truncate(LISTED_MAX);
        for NodeStatus { name, state, .. } in &mut capture.nodes {
            (*name, *state) = (shown(name), shown(state));
        }
        self.post(|share| share.capture = Some(capture));
    }

    /// Everything the brake holds now; nothing: it holds nothing. Without `next` of their own, holds get the
    /// commands that show, approve and reject them.
    pub fn holds(&self, holds: Vec<Hold>) {
        let total = holds.len() as u64;
        self.holds_of(holds, total);
    }

    /// The same of the source's brake, as it says: the first of `total`.
    pub fn holds_elsewhere(&self, mut holds: Vec<Hold>, total: u64) {
        let peer = self.board.facts().config.peer.clone();
        for hold in &mut holds {
            hold.next = vec![format!("it is decided at {peer}: farshore brake show, there")];
            hold.decided_at = Some(peer.clone());
        }
        self.holds_of(holds, total);
    }

    fn holds_of(&self, mut holds: Vec<Hold>, total: u64) {
        holds.truncate(LISTED_MAX);
        for hold in &mut holds {
            hold.id = shown(&hold.id);
            hold.account = shown(&hold.account);
            hold.reasons.truncate(NAMED_MAX);
            for text in hold.reasons.iter_mut().chain(&mut hold.next) {
                *text = shown(text);
            }
            if hold.next.is_empty() {
                hold.next = next_commands(&self.name, hold);
            }
        }
        self.post(|share| (share.holds, share.holds_total) = (holds, total));
    }

    /// Every account that is behind its share. Only those with the oldest T are kept by name.
    pub fn accounts<'a, A: Into<Late<'a>>>(&self, all: impl IntoIterator<Item = A>) {
        let mut count = 0_u64;
        let mut worst: Vec<Late<'_>> = Vec::with_capacity(NAMED_MAX + 1);
        for late in all.into_iter().map(Into::into) {
            count += 1;
            let place = worst.partition_point(|other| other.time_unix_ms <= late.time_unix_ms);
            if place < NAMED_MAX {
                worst.insert(place, late);
                worst.truncate(NAMED_MAX);
            }
        }
        let worst = worst.into_iter().map(Behind::from).collect();
        self.post(|share| (share.accounts, share.worst) = (count, worst));
    }

    /// How far reading the standby is.
    pub fn scrub(&self, mut scrub: Scrub) {
        scrub.worst.truncate(NAMED_MAX);
        for ScrubAccount { account, .. } in &mut scrub.worst {
            *account = shown(account);
        }
        self.post(|share| share.scrub = Some(scrub));
    }

    /// What of former versions there is.
    pub fn history(&self, history: History) {
        self.post(|share| share.history = Some(history));
    }

    /// What decides what travels.
    pub fn policy(&self, mut policy: PolicySummary) {
        policy.digest = shown(&policy.digest);
        policy.names.truncate(NAMED_MAX);
        for name in &mut policy.names {
            *name = shown(name);
        }
        self.post(|share| share.policy = Some(policy));
    }

    /// Something could not be done. The same words of the same account are one problem, met once more.
    pub fn problem(&self, account: &RelPath, text: &str) {
        let time_unix_ms = self.board.clock.wall_ms();
        let (account, text) = (account_name(account), shown(text));
        self.post(|share| {
            share.problems_total = share.problems_total.saturating_add(1);
            let same = |p: &Problem| p.account == account && p.text == text;
            let place = share.problems.iter().position(same);
            let former = place.and_then(|place| share.problems.remove(place));
            let times = former.map_or(1, |former| former.times.saturating_add(1));
            share.problems.truncate(PROBLEMS_MAX - 1);
            share.problems.push_front(Problem { time_unix_ms, account, text, times });
        });
    }

    /// A cut of `account` went well: its problems stand no longer. None: those of every account.
    pub fn solved(&self, account: Option<&RelPath>) {
        let account = account.map(account_name);
        let stands = |p: &Problem| account.as_ref().is_some_and(|account| p.account != *account);
        self.post(|share| share.problems.retain(stands));
    }

    /// What the standby's mount could not keep so far, by kind.
    pub fn degraded(&self, kinds: &BTreeMap<String, u64>) {
        let kinds = kinds.iter().take(LISTED_MAX).map(|(kind, count)| (shown(kind), *count));
        let kinds = kinds.collect();
        self.post(|share| share.degraded = kinds);
    }

    /// The source said something of this share.
    pub fn heard_from_source(&self) {
        let now = self.board.clock.wall_ms();
        self.post(|share| share.standby.last_heard_unix_ms = Some(now));
    }

    /// Changes made at a standby by others, more of them: found, moved to quarantine, made as they should be.
    pub fn foreign(&self, found: u64, set_aside: u64, repaired: u64) {
        self.post(|share| {
            let add = |sum: &mut u64, more| *sum = sum.saturating_add(more);
            add(&mut share.standby.foreign_found, found);
            add(&mut share.standby.foreign_set_aside, set_aside);
            add(&mut share.standby.foreign_repaired, repaired);
        });
    }

    fn post(&self, change: impl FnOnce(&mut ShareFacts)) {
        self.board.post(|facts| {
            if let Some(share) = facts.shares.get_mut(&self.name) {
                change(Arc::make_mut(share));
            }
        });
    }
}

impl PeerFacts {
    /// The sample that can be wrong by least.
    fn best_clock(&self) -> Option<ClockStatus> {
        self.clock.iter().min_by_key(|sample| sample.uncertainty_ms).copied()
    }
}

/// How a hold is ended. With its id, what was looked at is what is approved: what changed since then is not.
fn next_commands(share: &str, hold: &Hold) -> Vec<String> {
    let option = |name: &str, value: &str| match value {
        "" => String::new(),
        value => format!(" --{name} {}", quoted(value)),
    };
    let only = option("only", &hold.account) + &option("id", &hold.id);
    let share = quoted(share);
    ["show", "approve", "reject"]
        .map(|what| match what {
            "show" => format!("farshore brake show --share {share}"),
            what => format!("farshore brake {what} --share {share}{only}"),
        })
        .to_vec()
}

/// A word for a shell, of which nothing is expanded.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./+@%:,=".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// A text as a snapshot may have it: safe to show, and not long.
fn shown(text: &str) -> String {
    match text.char_indices().nth(TEXT_MAX) {
        None => escape_text(text),
        Some((end, _)) => escape_text(&text[..end]) + "...",
    }
}

/// An account as it is shown, and given to `--only`; empty: the share itself.
#[must_use]
pub fn account_name(account: &RelPath) -> String {
    if account.is_root() { String::new() } else { account.to_string() }
}

fn shown_path(path: &Path) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    farshore_core::path::escape(crate::state::path_bytes(path), &mut out).unwrap_or(());
    out
}

#[cfg(test)]
mod tests;

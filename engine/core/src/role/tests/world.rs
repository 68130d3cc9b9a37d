//! Two sites with disks, clocks that differ, a network that loses, doubles, delays and replays, a
//! data plane and operators, all from one seed, and an oracle that looks after each step.
//!
//! The machine is driven through its public calls alone. A [`Fault`] breaks the surroundings in the
//! way a missing check would show.

use std::collections::BTreeMap;

use crate::digest::RootDigest;
use crate::recovery_point::Epoch;

use super::super::*;

/// SplitMix64.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(super) fn percent(&mut self, p: u64) -> bool {
        self.below(100) < p
    }
}

/// What is broken around the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// The gate opens at a start without anybody being asked.
    OpensUnasked,
    /// A grant is taken whatever is here.
    TakesUncompared,
    /// A forced failover does not wait for the lease.
    PromiseIgnored,
    /// Clocks differ by more than is allowed for.
    ClocksWild,
    /// The marker is not looked at.
    MarkerIgnored,
    /// The marker is written before the record.
    MarkerBeforeRecord,
    /// Every message looks like the newest of the newest run.
    OldMessagesBelieved,
    /// Writes are reported before they are durable.
    ActsBeforeDurable,
    /// What the peer remembers of us is not looked at.
    PeerMemoryIgnored,
    /// Batches of any epoch are applied.
    AppliesAnyEpoch,
    /// Failover opens the standby and leaves the epoch as it is.
    EpochKept,
    /// A record does not keep that it was found to be an old copy.
    OldCopyForgotten,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Tree {
    root: u64,
    writes: u64,
}

impl Tree {
    fn digest(self) -> RootDigest {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&self.root.to_le_bytes());
        RootDigest(bytes)
    }
}

#[derive(Debug, Clone, Copy)]
struct Batch {
    session: u64,
    source: u64,
    epoch: Epoch,
    sequence: u64,
    tree: Tree,
}

enum Job {
    Marker(Stamp),
    Record(Vec<u8>),
    Persisted(u64),
    Hook(Hook, bool),
    Point,
}

enum Event {
    Say { to: usize, bytes: Vec<u8> },
    Batch { to: usize, batch: Batch },
    Ack { to: usize, batch: Batch },
    Job { site: usize, life: u64, job: Job },
}

struct Snapshot {
    tree: Tree,
    point: Option<Point>,
    marker: Option<Vec<u8>>,
    record: Option<Vec<u8>>,
}

/// A restored record must not open the gate by itself: how that is to be found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behind {
    Marker,
    Peer,
}

pub(super) struct Site {
    pub(super) role: Option<Role>,
    record: Option<Vec<u8>>,
    marker: Option<Vec<u8>>,
    history: Vec<Vec<u8>>,
    snapshots: Vec<Snapshot>,
    tree: Tree,
    point: Option<Point>,
    life: u64,
    booted: u64,
    offset: u64,
    rate: u64,
    link: bool,
    data: DataRole,
    draining: bool,
    drain_lies: bool,
    sent_sequence: u64,
    /// Messages of this run.
    said: u64,
    pub(super) runs: bool,
    /// How often the machine was started.
    starts: u8,
    opened_by_hand: Option<Epoch>,
    // What the oracle knows.
    durable: Stamp,
    highest: Stamp,
    highest_marker: Stamp,
    phase: Phase,
    behind: Option<Behind>,
    restored: bool,
    /// It was found to have an old state folder, and no point was sealed with the peer since.
    doubted: bool,
}

pub(super) struct World {
    pub(super) rng: Rng,
    fault: Fault,
    lease: Option<Lease>,
    pub(super) now: u64,
    pub(super) sites: [Site; 2],
    events: BTreeMap<(u64, u64), Event>,
    serial: u64,
    cut: [bool; 2],
    pub(super) calm: bool,
    archive: Vec<(usize, Vec<u8>)>,
    batches: Vec<(usize, Batch)>,
    first: [FirstRole; 2],
    pub(super) weather: u64,
    opened: BTreeMap<Epoch, usize>,
    handed: BTreeMap<Epoch, Tree>,
    rolled_back: bool,
    /// Events of a run, for whoever has to find out.
    pub(super) trace: Option<Vec<String>>,
    pub(super) violation: Option<String>,
    pub(super) seen: Seen,
}

/// What came about, so that a simulation that tests nothing is noticed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    pub(super) events: u64,
    pub(super) switched: u64,
    pub(super) declined: u64,
    pub(super) forced: u64,
    pub(super) lapsed: u64,
    pub(super) splits: u64,
    pub(super) stranded: u64,
    pub(super) reconciled: u64,
    pub(super) taken_back: u64,
    pub(super) restored: u64,
    pub(super) found_out: u64,
    /// Opened with an old state folder that was found out.
    pub(super) baseless: u64,
}

impl Site {
    /// Only what the marker knows of may be acted on, and counts.
    fn is_marked(&mut self) {
        let record = self.record.as_ref().and_then(|b| Record::decode(b).ok());
        let marker = self.marker.as_ref().and_then(|b| Stamp::decode_marker(b).ok());
        if record.is_some_and(|r| marker.unwrap_or_default() >= r.rising) {
            self.highest = self.highest.max(self.durable);
        }
    }
}

const ALL: [CommandName; 13] = [
    CommandName::Switchover,
    CommandName::Switchover,
    CommandName::Switchover,
    CommandName::AbortSwitchover,
    CommandName::TakeBack,
    CommandName::Failover,
    CommandName::FailoverPeerIsOff,
    CommandName::OpenAlone,
    CommandName::BeginReconcile,
    CommandName::FinishReconcile,
    CommandName::AbandonReconcile,
    CommandName::ResolveSplit,
    CommandName::RetryHook,
];

fn id(site: usize) -> SiteId {
    SiteId([u8::try_from(site).unwrap_or(0) + 1; 32])
}

macro_rules! note {
    ($world:expr, $($what:tt)*) => {
        if $world.trace.is_some() {
            let line = format!("{:>7} {}", $world.now, format!($($what)*));
            $world.trace.get_or_insert_default().push(line);
        }
    };
}
pub(super) use note;

impl World {
    pub(super) fn new(seed: u64, fault: Fault) -> Self {
        let mut rng = Rng(seed.wrapping_mul(0x5851_f42d_4c95_7f2d));
        let leased = matches!(fault, Fault::PromiseIgnored | Fault::ClocksWild) || rng.percent(50);
        let lease = leased.then(|| Lease { ms: 1_000, stop_ms: rng.below(2) * 50 });
        let first = match rng.below(40) {
            0 => [FirstRole::Active, FirstRole::Active],
            1 => [FirstRole::Standby, FirstRole::Standby],
            _ => [FirstRole::Active, FirstRole::Standby],
        };
        let site = |role| Site {
            role: None,
            record: None,
            marker: None,
            history: Vec::new(),
            snapshots: Vec::new(),
            tree: Tree::default(),
            point: None,
            life: 0,
            booted: 0,
            offset: 0,
            rate: 1_000_000,
            link: false,
            data: DataRole::Neither,
            draining: false,
            drain_lies: false,
            sent_sequence: 0,
            said: 0,
            runs: role == FirstRole::Active,
            starts: 0,
            opened_by_hand: None,
            durable: Stamp::default(),
            highest: Stamp::default(),
            highest_marker: Stamp::default(),
            phase: Phase::Standby,
            behind: None,
            restored: false,
            doubted: false,
        };
        let mut world = Self {
            fault,
            lease,
            now: 1_000,
            sites: [site(first[0]), site(first[1])],
            events: BTreeMap::new(),
            serial: 0,
            cut: [false; 2],
            calm: true,
            archive: Vec::new(),
            batches: Vec::new(),
            first,
            weather: if lease.is_some() { rng.below(6) } else { rng.below(4) },
            opened: BTreeMap::new(),
            handed: BTreeMap::new(),
            rolled_back: false,
            trace: None,
            violation: None,
            seen: Seen::default(),
            rng,
        };
        world.boot(0);
        world.boot(1);
        world
    }

    fn local(&self, site: usize) -> u64 {
        let s = &self.sites[site];
        s.offset + (self.now - s.booted) * s.rate / 1_000_000
    }

    pub(super) fn moment(&self, site: usize) -> super::super::Now {
        // Their clocks are two hours apart, and one is set back each quarter of an hour: nothing is decided by them.
        let ms = self.local(site);
        let wall_ms = i64::try_from(if site == 0 { ms } else { ms % 900_000 }).unwrap_or(0);
        super::super::Now { ms, wall_ms: wall_ms + [0, 7_200_000][site] }
    }

    fn push(&mut self, delay: u64, event: Event) {
        self.serial += 1;
        self.events.insert((self.now + delay, self.serial), event);
    }

    fn job(&mut self, site: usize, delay: u64, job: Job) {
        let life = self.sites[site].life;
        self.push(delay, Event::Job { site, life, job });
    }

    pub(super) fn fail(&mut self, what: String) {
        note!(self, "VIOLATION {what}");
        self.violation.get_or_insert(what);
    }

    pub(super) fn boot(&mut self, site: usize) {
        if self.sites[site].role.is_some() {
            return;
        }
        let life = self.rng.next();
        let spread = if self.fault == Fault::ClocksWild { 300_000 } else { 40_000 };
        let rate = 1_000_000 - spread + self.rng.below(2 * spread + 1);
        let offset = self.rng.below(1 << 30);
        let now = self.now;
        let s = &mut self.sites[site];
        (s.life, s.rate, s.offset, s.booted) = (life, rate, offset, now);
        (s.link, s.draining, s.data) = (false, false, DataRole::Neither);
        (s.sent_sequence, s.said) = (0, 0);
        let record = match &s.record {
            None => Kept::Nothing,
            Some(bytes) => Record::decode(bytes).map_or(Kept::Damaged, Kept::Found),
        };
        let marker = match &s.marker {
            _ if self.fault == Fault::MarkerIgnored => Kept::Nothing,
            None => Kept::Nothing,
            Some(bytes) => Stamp::decode_marker(bytes).map_or(Kept::Damaged, Kept::Found),
        };
        let config = RoleConfig {
            site: id(site),
            peer: id(1 - site),
            first_role: self.first[site],
            lease: self.lease,
            beat_ms: 200,
            boot: [s.starts; 16],
            life,
            catalog: [0; 16],
            tree: [0; 16],
        };
        note!(self, "{site} boots with {record:?} marker {marker:?}");
        let (role, effects) = Role::start(record, marker, config, self.moment(site));
        self.sites[site].role = Some(role);
        self.carry_out(site, effects);
    }

    /// The process ends; with the machine, its services do too.
    fn crash(&mut self, site: usize) {
        let machine = self.rng.percent(70);
        let s = &mut self.sites[site];
        if s.role.take().is_some() {
            s.opened_by_hand = None;
            if machine {
                (s.runs, s.starts) = (false, s.starts.wrapping_add(1));
            }
            note!(self, "{site} crashes, machine {machine}");
        }
    }

    pub(super) fn input(&mut self, site: usize, input: Input) {
        let now = self.moment(site);
        let twice = self.rng.percent(5) && !matches!(input, Input::Heard(_));
        let copies = if twice { vec![input.clone(), input] } else { vec![input] };
        for input in copies {
            let Some(role) = &mut self.sites[site].role else { return };
            let effects = role.handle(now, input);
            self.carry_out(site, effects);
        }
    }

    fn carry_out(&mut self, site: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(say) => self.send(site, &say),
                effect => {
                    note!(self, "{site} {effect:?}");
                    self.act(site, effect);
                }
            }
        }
    }

    fn act(&mut self, site: usize, effect: Effect) {
        match effect {
            Effect::Persist { write, marker, record } => self.persist(site, write, marker, &record),
            Effect::Turn(data) => self.sites[site].data = data,
            Effect::ReadPoint => {
                let delay = self.rng.below(20);
                self.job(site, delay, Job::Point);
            }
            Effect::BeginDrain => {
                self.sites[site].draining = true;
                self.sites[site].drain_lies = !self.calm && self.rng.percent(10);
            }
            Effect::AbortDrain => self.sites[site].draining = false,
            Effect::RunHook(hook) => {
                let ok = self.calm || self.rng.percent(85);
                let delay = 1 + self.rng.below(40);
                self.job(site, delay, Job::Hook(hook, ok));
            }
            Effect::Audit(AuditEvent::Declined { .. }) => self.seen.declined += 1,
            Effect::Audit(_) | Effect::Send(_) | Effect::OpenGate | Effect::CloseGate(_) => {}
        }
    }

    fn persist(&mut self, site: usize, write: u64, marker: Option<Stamp>, record: &Record) {
        let (a, b, c) = (self.rng.below(8), self.rng.below(8), self.rng.below(4));
        let (mut at_marker, mut at_record) = (a, b);
        let mut at_done = a.max(b) + c;
        if self.fault == Fault::ActsBeforeDurable {
            (at_marker, at_record, at_done) = (300 + a, 300 + a + b, a);
        }
        let rises = record.rising > self.sites[site].highest_marker;
        let marker =
            marker.or((self.fault == Fault::MarkerBeforeRecord && rises).then_some(record.rising));
        if self.fault == Fault::MarkerBeforeRecord && rises {
            (at_marker, at_record, at_done) = (a, a + b + 1, a + b + c + 1);
        }
        if let Some(marker) = marker {
            self.job(site, at_marker, Job::Marker(marker));
        }
        let forgot = record.forgot && self.fault != Fault::OldCopyForgotten;
        let kept = Record { forgot, put_back: record.put_back && forgot, ..record.clone() };
        self.job(site, at_record, Job::Record(kept.encode()));
        self.job(site, at_done, Job::Persisted(write));
    }

    fn send(&mut self, from: usize, say: &Say) {
        let mut say = say.clone();
        self.sites[from].said = say.beat.count;
        if self.fault == Fault::PeerMemoryIgnored {
            say.heard = Stamp::default();
        }
        let (to, bytes) = (1 - from, say.encode());
        if self.archive.len() == 256 {
            let at = usize::try_from(self.rng.below(256)).unwrap_or(0);
            self.archive.remove(at);
        }
        self.archive.push((to, bytes.clone()));
        let copies = if !self.calm && self.rng.percent(8) { 2 } else { 1 };
        for _ in 0..copies {
            if let Some(delay) = self.delay(from) {
                self.push(delay, Event::Say { to, bytes: bytes.clone() });
            }
        }
    }

    /// How long the network takes, or that it loses it.
    fn delay(&mut self, from: usize) -> Option<u64> {
        if self.calm {
            return Some(1 + self.rng.below(5));
        }
        if self.cut[from] || self.rng.percent(5) {
            return None;
        }
        Some(if self.rng.percent(5) { self.rng.below(4_000) } else { 1 + self.rng.below(20) })
    }

    /// The next thing that happens by itself.
    pub(super) fn step(&mut self) {
        self.seen.events += 1;
        let due = [0, 1].map(|site| {
            let s = &self.sites[site];
            let at = s.role.as_ref()?.next_timeout();
            if at == u64::MAX {
                return None;
            }
            let at = at.saturating_sub(s.offset);
            Some((s.booted + at * 1_000_000 / s.rate + 1).max(self.now + 1))
        });
        let event = self.events.first_key_value().map(|(&(at, _), _)| at);
        let tick = due.iter().flatten().min().copied();
        match (event, tick) {
            (Some(at), tick) if tick.is_none_or(|tick| at <= tick) => {
                self.now = self.now.max(at);
                if let Some((_, event)) = self.events.pop_first() {
                    self.happen(event);
                }
            }
            (_, Some(tick)) => {
                self.now = tick;
                for (site, due) in due.into_iter().enumerate() {
                    if due == Some(tick) {
                        self.input(site, Input::Tick);
                    }
                }
            }
            _ => self.now += 100,
        }
        self.by_themselves();
        self.look();
    }

    /// Links are noticed, services write, the data end sends.
    fn by_themselves(&mut self) {
        for site in [0, 1] {
            if self.sites[site].role.is_none() {
                continue;
            }
            let up = self.sites[1 - site].role.is_some() && (self.calm || self.cut == [false; 2]);
            if self.sites[site].link != up && self.rng.percent(20) {
                self.sites[site].link = up;
                self.input(site, if up { Input::LinkUp } else { Input::LinkDown });
            }
            if self.is_open(site) && self.rng.percent(40) {
                let id = self.rng.next();
                let tree = &mut self.sites[site].tree;
                *tree = Tree { root: Rng(tree.root ^ id).next(), writes: tree.writes + 1 };
            }
            if self.rng.percent(30) {
                self.cut_and_send(site);
            }
        }
    }

    fn cut_and_send(&mut self, site: usize) {
        let DataRole::Sends(epoch) = self.sites[site].data else { return };
        if self.sites[1 - site].role.is_none() || !self.sites[site].link {
            return;
        }
        let sequence = |s: &Site| s.point.map_or(0, |p| p.sequence);
        let target = &self.sites[1 - site];
        let next = sequence(target).max(sequence(&self.sites[site]));
        let session = target.life;
        let s = &mut self.sites[site];
        s.sent_sequence = s.sent_sequence.max(next) + 1;
        let (sequence, tree, source) = (s.sent_sequence, s.tree, s.life);
        let batch = Batch { session, source, epoch, sequence, tree };
        if s.draining && s.drain_lies {
            s.drain_lies = false;
            let point = Point { sequence, batch: 0, root: tree.digest(), time_unix_ms: 0 };
            self.input(site, Input::Drained { point });
        }
        if self.batches.len() < 64 {
            self.batches.push((1 - site, batch));
        }
        if let Some(delay) = self.delay(site) {
            self.push(delay, Event::Batch { to: 1 - site, batch });
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Say { to, bytes } => match Say::decode(&bytes) {
                Ok(mut say) => {
                    if self.fault == Fault::OldMessagesBelieved {
                        self.make_new(to, &mut say);
                    }
                    note!(
                        self,
                        "{to} hears {} {:?} heard {:?}",
                        say.phase.name(),
                        say.stamp,
                        say.heard
                    );
                    self.input(to, Input::Heard(Box::new(say)));
                }
                Err(why) => self.fail(format!("a message does not decode: {why}")),
            },
            Event::Batch { to, batch } => self.apply(to, batch),
            Event::Ack { to, batch } => self.acknowledged(to, batch),
            Event::Job { site, life, job } => {
                if self.sites[site].life == life && self.sites[site].role.is_some() {
                    self.do_job(site, job);
                }
            }
        }
    }

    fn make_new(&mut self, to: usize, say: &mut Say) {
        self.serial += 1;
        say.beat = Beat { life: 1, count: self.serial, at_ms: 0 };
        let (life, count) = (self.sites[to].life, self.sites[to].said);
        let beat = Beat { life, count, at_ms: self.local(to) };
        say.echo = Some(Echo { beat, followed: true });
    }

    fn apply(&mut self, to: usize, batch: Batch) {
        let any = self.fault == Fault::AppliesAnyEpoch;
        let s = &mut self.sites[to];
        let Some(role) = &s.role else { return };
        let fresh = s.point.is_none_or(|p| batch.sequence > p.sequence);
        let receives = matches!(s.data, DataRole::Receives(_));
        let accepts = role.accepts(batch.epoch) || (any && receives);
        if batch.session != s.life || !fresh || !accepts {
            return;
        }
        let (root, sequence) = (batch.tree.digest(), batch.sequence);
        s.tree = batch.tree;
        s.point = Some(Point { sequence, batch: 0, root, time_unix_ms: 0 });
        if batch.epoch < s.highest.epoch {
            let highest = s.highest.epoch;
            self.fail(format!("{to} applied a batch of {:?}, knowing {highest:?}", batch.epoch));
        }
        self.is_sealed(to);
        if let Some(delay) = self.delay(to) {
            self.push(delay, Event::Ack { to: 1 - to, batch });
        }
    }

    fn acknowledged(&mut self, site: usize, batch: Batch) {
        let s = &mut self.sites[site];
        let newer = s.point.is_none_or(|p| batch.sequence > p.sequence);
        if s.role.is_none() || s.life != batch.source || s.data != DataRole::Sends(batch.epoch) {
            return;
        }
        let (root, sequence) = (batch.tree.digest(), batch.sequence);
        let point = Point { sequence, batch: 0, root, time_unix_ms: 0 };
        if newer {
            s.point = Some(point);
            self.is_sealed(site);
        }
        let s = &self.sites[site];
        if s.draining && newer && batch.tree == s.tree {
            self.input(site, Input::Drained { point });
        }
    }

    fn is_sealed(&mut self, site: usize) {
        self.sites[site].doubted = false;
        self.input(site, Input::Sealed);
    }

    fn do_job(&mut self, site: usize, job: Job) {
        match job {
            Job::Marker(stamp) => {
                let s = &mut self.sites[site];
                s.marker = Some(stamp.encode_marker());
                s.highest_marker = s.highest_marker.max(stamp);
                s.is_marked();
            }
            Job::Record(bytes) => self.record_is_durable(site, bytes),
            Job::Persisted(write) => self.input(site, Input::Persisted { write }),
            Job::Hook(hook, ok) => {
                if ok {
                    self.sites[site].runs = hook == Hook::Start;
                }
                self.input(site, Input::HookDone { hook, ok });
            }
            Job::Point => {
                let granted = match self.sites[1 - site].phase {
                    Phase::Handed { point } if self.fault == Fault::TakesUncompared => Some(point),
                    _ => None,
                };
                let point = granted.or(self.sites[site].point);
                self.input(site, Input::Point(point));
            }
        }
    }

    fn record_is_durable(&mut self, site: usize, bytes: Vec<u8>) {
        let Ok(record) = Record::decode(&bytes) else {
            return self.fail(format!("the record of {site} does not decode"));
        };
        let stamp = record.stamp();
        let s = &mut self.sites[site];
        let (was, before) = (s.phase, s.durable);
        s.history.push(bytes.clone());
        s.record = Some(bytes);
        (s.durable, s.phase) = (stamp, record.phase);
        s.is_marked();
        let tree = s.tree;
        if stamp < before {
            self.fail(format!("{site} fell from {before:?} to {stamp:?}"));
        }
        match (was, record.phase) {
            (was, Phase::Handed { .. }) if !matches!(was, Phase::Handed { .. }) => {
                self.handed.insert(record.epoch, tree);
            }
            (Phase::Standby, Phase::Opening { .. }) => {
                self.seen.switched += 1;
                let handed = self.handed.get(&record.epoch).copied();
                if handed != Some(tree) {
                    self.fail(format!("{site} opens {tree:?}, handed over was {handed:?}"));
                }
            }
            (was, Phase::Stranded { why, .. }) if !matches!(was, Phase::Stranded { .. }) => {
                self.seen.stranded += 1;
                self.seen.found_out += u64::from(why != Strand::Overtaken);
                if why != Strand::Overtaken && !self.sites[site].restored {
                    self.fail(format!("{site} is stranded by {why:?}, and nothing was put back"));
                }
            }
            (Phase::Handed { .. }, Phase::Active) => self.seen.taken_back += 1,
            (Phase::Reconciling { .. }, Phase::Active) => self.seen.reconciled += 1,
            (was, Phase::Split) if was != Phase::Split => self.seen.splits += 1,
            (was, Phase::Alone) if was != Phase::Alone => self.seen.forced += 1,
            _ => {}
        }
        let s = &mut self.sites[site];
        if let Phase::Stranded { why, .. } = record.phase {
            s.behind = None;
            s.doubted |= why != Strand::Overtaken;
        }
        // What was granted was compared.
        s.doubted &= !matches!(record.phase, Phase::Opening { .. });
        self.seen.baseless += u64::from(s.doubted && record.phase == Phase::Alone);
        if let (true, Some(base)) = (s.doubted, record.base) {
            self.fail(format!("{site}, whose state folder is an old copy, counts on {base}"));
        }
    }

    pub(super) fn is_open(&self, site: usize) -> bool {
        let s = &self.sites[site];
        let by_role = s.role.as_ref().is_some_and(|r| r.gate(self.local(site)) == Gate::Open);
        by_role || s.opened_by_hand.is_some()
    }

    /// The oracle.
    fn look(&mut self) {
        let open = [self.is_open(0), self.is_open(1)];
        if open == [true; 2] {
            self.fail("two gates are open".into());
        }
        for site in [0, 1].into_iter().filter(|&s| open[s]) {
            let Some(role) = &self.sites[site].role else { continue };
            let epoch = self.sites[site].opened_by_hand.unwrap_or(role.record().epoch);
            if self.opened.insert(epoch, site).is_some_and(|other| other != site) {
                self.fail(format!("{epoch:?} was opened at both sites"));
            }
            if let Some(behind) = self.sites[site].behind {
                self.fail(format!("{site} opened with an old record, known by {behind:?}"));
            }
        }
    }

    /// Something that does not happen by itself.
    pub(super) fn act_of_god(&mut self) {
        let site = usize::try_from(self.rng.below(2)).unwrap_or(0);
        let off = self.sites[site].role.is_none();
        if self.weather > 3 {
            self.part_and_force(site);
            return self.look();
        }
        let luck = match self.weather {
            // Operators on a good network, one that is cut now and then, and everything at once.
            0 => 44 + self.rng.below(20),
            1 => 20 + self.rng.below(44),
            _ => self.rng.below(64),
        };
        match luck {
            0..=4 => self.crash(site),
            5..=19 => self.boot(site),
            20..=27 if self.weather != 1 || luck < 22 => {
                let cut = self.rng.percent(40);
                match self.rng.below(3) {
                    0 => self.cut[site] = cut,
                    _ => self.cut = [cut; 2],
                }
                note!(self, "cut {:?}", self.cut);
            }
            28..=33 if !self.archive.is_empty() => {
                let at = usize::try_from(self.rng.below(self.archive.len() as u64)).unwrap_or(0);
                let (to, bytes) = self.archive[at].clone();
                note!(self, "replay to {to}");
                self.happen(Event::Say { to, bytes });
            }
            34..=36 if !self.batches.is_empty() => {
                let at = usize::try_from(self.rng.below(self.batches.len() as u64)).unwrap_or(0);
                let (to, mut batch) = self.batches[at];
                // A session would refuse it before the epoch is looked at.
                batch.session = self.sites[to].life;
                batch.sequence += 1_000_000 * u64::from(self.fault == Fault::AppliesAnyEpoch);
                self.happen(Event::Batch { to, batch });
            }
            37..=38 => self.snapshot(site),
            39..=42 if off => self.restore(site),
            43 if off => self.restore_tree(site),
            _ => self.operate(site),
        }
        self.look();
    }

    /// The sites are parted, and whoever stands by is told to take over as soon as it may.
    fn part_and_force(&mut self, site: usize) {
        match self.rng.below(10) {
            0 => {
                self.cut = [self.rng.percent(60); 2];
                note!(self, "cut {:?}", self.cut);
            }
            1..=2 if !self.archive.is_empty() => {
                // Of the newest.
                let from = self.archive.len().saturating_sub(16);
                let at = self.rng.below((self.archive.len() - from) as u64);
                let (to, bytes) = self.archive[from + usize::try_from(at).unwrap_or(0)].clone();
                self.happen(Event::Say { to, bytes });
            }
            3 => self.boot(site),
            4 if self.rng.percent(10) => self.crash(site),
            5..=8 if self.cut == [true; 2] => {
                let standby = [0, 1].into_iter().find(|&s| self.sites[s].phase == Phase::Standby);
                let peer_is_off = self.fault == Fault::PromiseIgnored;
                if let Some(standby) = standby {
                    self.command(standby, Command::Failover { peer_is_off });
                }
            }
            _ => {
                let phases = [self.sites[0].phase, self.sites[1].phase];
                if !phases.contains(&Phase::Active) || !phases.contains(&Phase::Standby) {
                    self.operate(site);
                }
            }
        }
    }

    fn snapshot(&mut self, site: usize) {
        let s = &mut self.sites[site];
        let (tree, point) = (s.tree, s.point);
        let (marker, record) = (s.marker.clone(), s.record.clone());
        s.snapshots.push(Snapshot { tree, point, marker, record });
    }

    fn peer_remembers(&self, site: usize) -> Stamp {
        let peer = self.sites[1 - site].record.as_ref().and_then(|b| Record::decode(b).ok());
        peer.map_or(Stamp::default(), |r| r.peer)
    }

    /// An old record comes back: with the marker as it is, or all of it, if the peer is there and knows.
    fn restore(&mut self, site: usize) {
        if self.sites[1 - site].behind.is_some() {
            return;
        }
        let knows = self.peer_remembers(site);
        let s = &self.sites[site];
        let marked = s.marker.as_ref().and_then(|b| Stamp::decode_marker(b).ok());
        let all = self.rng.percent(40);
        let (record, marker) = if all {
            if self.rolled_back || knows < s.highest || self.sites[1 - site].role.is_none() {
                return;
            }
            let at = self.rng.below(s.snapshots.len().max(1) as u64);
            let Some(old) = s.snapshots.get(usize::try_from(at).unwrap_or(0)) else { return };
            self.rolled_back = true;
            (old.record.clone(), old.marker.clone())
        } else {
            if marked.unwrap_or_default() < s.highest_marker {
                return;
            }
            let at = self.rng.below(s.history.len() as u64 + 1);
            let old = s.history.get(usize::try_from(at).unwrap_or(0));
            (old.cloned(), s.marker.clone())
        };
        let decoded = record.as_ref().and_then(|b| Record::decode(b).ok());
        let stamp = decoded.as_ref().map_or(Stamp::default(), Record::stamp);
        let rising = decoded.as_ref().map_or(Stamp::default(), |r| r.rising);
        let found = marker.as_ref().and_then(|b| Stamp::decode_marker(b).ok());
        let behind = if found.unwrap_or_default() > rising {
            Some(Behind::Marker)
        } else if knows > stamp {
            Some(Behind::Peer)
        } else {
            None
        };
        note!(self, "{site} is restored, all {all}, to {decoded:?}, behind {behind:?}");
        self.seen.restored += 1;
        let s = &mut self.sites[site];
        if behind.is_none() {
            // Nobody can know: but who puts back a whole machine starts it.
            (s.runs, s.starts) = (false, s.starts.wrapping_add(1));
        }
        s.durable = stamp;
        // What was found out of the one before went with it; of this one it is found out anew.
        s.doubted = decoded.as_ref().is_some_and(|record| record.forgot);
        s.phase = decoded.map_or(Phase::Standby, |r| r.phase);
        (s.record, s.marker, s.behind, s.restored) = (record, marker, behind, true);
    }

    /// The tree is put back, its marker with it.
    fn restore_tree(&mut self, site: usize) {
        let s = &mut self.sites[site];
        if s.behind.is_some() {
            return;
        }
        let at = self.rng.below(s.snapshots.len().max(1) as u64);
        let Some(old) = s.snapshots.get(usize::try_from(at).unwrap_or(0)) else { return };
        (s.tree, s.point, s.marker) = (old.tree, old.point, old.marker.clone());
        note!(self, "{site}'s tree is restored");
    }

    /// An operator at random, but for words that would not be true.
    fn operate(&mut self, site: usize) {
        let now = self.local(site);
        let off = self.sites[1 - site].role.is_none();
        let Some(role) = &self.sites[site].role else { return };
        let plan = match role.record().phase {
            Phase::Reconciling { plan, .. } if self.rng.percent(80) => plan,
            _ => PlanId([u8::try_from(self.rng.below(256)).unwrap_or(0); 32]),
        };
        let view = role.view(now);
        let asks = view.link && view.peer.is_some();
        // Mostly what is legal, at times anything.
        let legal = role.legal_commands(now);
        let name = if self.rng.percent(60) && !legal.is_empty() {
            legal[usize::try_from(self.rng.below(legal.len() as u64)).unwrap_or(0)]
        } else {
            ALL[usize::try_from(self.rng.below(ALL.len() as u64)).unwrap_or(0)]
        };
        let command = match name {
            CommandName::Switchover => Command::Switchover,
            CommandName::AbortSwitchover => Command::AbortSwitchover,
            CommandName::TakeBack => Command::TakeBack,
            // Who sees that the other site answers does not use force, mostly.
            CommandName::Failover if asks && self.rng.percent(90) => Command::Switchover,
            CommandName::Failover if off || asks || self.lease.is_some() => {
                Command::Failover { peer_is_off: self.fault == Fault::PromiseIgnored }
            }
            CommandName::FailoverPeerIsOff if off => Command::Failover { peer_is_off: true },
            CommandName::OpenAlone if off => Command::OpenAlone,
            CommandName::BeginReconcile => Command::BeginReconcile { plan },
            CommandName::FinishReconcile => Command::FinishReconcile { plan },
            CommandName::AbandonReconcile => Command::AbandonReconcile { plan },
            CommandName::ResolveSplit => Command::ResolveSplit,
            CommandName::RetryHook => Command::RetryHook,
            _ => return,
        };
        if self.fault == Fault::EpochKept && matches!(command, Command::Failover { .. }) {
            if view.record.phase == Phase::Standby && off {
                self.sites[site].opened_by_hand = Some(view.record.epoch);
            }
            return;
        }
        self.command(site, command);
    }

    /// Gives a command and sees that it is legal exactly when the list says so.
    pub(super) fn command(&mut self, site: usize, command: Command) {
        let now = self.moment(site);
        let Some(role) = &mut self.sites[site].role else { return };
        let unheard = command == Command::Failover { peer_is_off: false }
            && !(role.view(now.ms).link && role.view(now.ms).peer.is_some());
        let listed = role.legal_commands(now.ms).contains(&command.name());
        let before = role.record().clone();
        let result = role.command(now, command);
        note!(self, "{site} {command:?} gives {:?}", result.as_ref().map(|_| ()));
        match result {
            Err(refused) => {
                let plan = matches!(
                    command,
                    Command::FinishReconcile { .. } | Command::AbandonReconcile { .. }
                );
                if listed && !plan {
                    self.fail(format!("{site} lists {command:?} and refuses it: {refused}"));
                }
            }
            Ok(effects) => {
                self.seen.lapsed += u64::from(unheard && listed && self.lease.is_some());
                let word =
                    matches!(command, Command::Failover { peer_is_off: true } | Command::OpenAlone);
                if listed && (word || unheard && self.lease.is_none()) {
                    self.sites[site].behind = None;
                }
                let closed = matches!(before.phase, Phase::Reconciling { open: false, .. });
                if closed && listed && matches!(command, Command::FinishReconcile { .. }) {
                    let source = &self.sites[1 - site];
                    let (tree, point) = (source.tree, source.point);
                    (self.sites[site].tree, self.sites[site].point) = (tree, point);
                }
                self.carry_out(site, effects);
            }
        }
    }

    /// What a broken machine would do by itself.
    pub(super) fn sabotage(&mut self) {
        if self.fault == Fault::OpensUnasked {
            for site in [0, 1] {
                let now = self.local(site);
                let role = self.sites[site].role.as_ref();
                if role.is_some_and(|r| r.gate(now) == Gate::Closed(Closed::Unconfirmed)) {
                    self.command(site, Command::OpenAlone);
                }
            }
        }
    }

    pub(super) fn heal(&mut self) {
        (self.calm, self.cut) = (true, [false; 2]);
        note!(self, "all is well again");
        self.boot(0);
        self.boot(1);
    }

    /// Whether one site is active with its services, the other stands by without, with the same content.
    pub(super) fn has_converged(&self) -> bool {
        let stands = |site: usize, phase: Phase| {
            let role = self.sites[site].role.as_ref();
            role.is_some_and(|r| r.record().phase == phase)
        };
        [(0, 1), (1, 0)].into_iter().any(|(a, s)| {
            let epochs = [a, s].map(|n| self.sites[n].role.as_ref().map(|r| r.record().epoch));
            stands(a, Phase::Active)
                && stands(s, Phase::Standby)
                && epochs[0] == epochs[1]
                && self.is_open(a)
                && !self.is_open(s)
                && self.sites[a].runs
                && !self.sites[s].runs
                && matches!(self.sites[a].data, DataRole::Sends(_))
                && matches!(self.sites[s].data, DataRole::Receives(_))
        })
    }
}

//! One step at a time: what is owed after a restart, what waits for what, what is refused and why.

use crate::digest::RootDigest;

use super::super::*;

mod put_back;

const A: usize = 0;
const B: usize = 1;

/// What a site's disk holds, and its machine if it is on.
struct Site {
    role: Option<Role>,
    record: Kept<Record>,
    marker: Kept<Stamp>,
    point: Option<Point>,
    /// Everything but messages and writes that were carried out.
    effects: Vec<Effect>,
}

/// Two sites whose disks, hooks and network answer at once, but for what is held back.
struct Pair {
    sites: [Site; 2],
    now: u64,
    lives: u64,
    lease: Option<Lease>,
    connected: bool,
    /// Hooks do not end by themselves.
    hold_hooks: bool,
    /// Writes stop after this many more parts of them: a marker and a record are one each.
    parts_left: Option<u32>,
    queue: std::collections::VecDeque<(usize, Effect)>,
    carries_out: bool,
}

fn point(sequence: u64) -> Point {
    Point { sequence, batch: sequence, root: RootDigest([7; 32]), time_unix_ms: 0 }
}

impl Pair {
    fn off(lease: Option<Lease>) -> Self {
        let site = || Site {
            role: None,
            record: Kept::Nothing,
            marker: Kept::Nothing,
            point: None,
            effects: Vec::new(),
        };
        Self {
            sites: [site(), site()],
            now: 1_000,
            lives: 0,
            lease,
            connected: true,
            hold_hooks: false,
            parts_left: None,
            queue: std::collections::VecDeque::new(),
            carries_out: false,
        }
    }

    /// Active at A, standby at B, both know each other, and B has a point.
    fn new(lease: Option<Lease>) -> Self {
        let mut pair = Self::off(lease);
        pair.start(A);
        pair.start(B);
        for site in [A, B] {
            pair.sites[site].point = Some(point(3));
            pair.input(site, Input::LinkUp);
        }
        pair.wait(1_000);
        assert_eq!(pair.phases(), ["active", "standby"]);
        assert_eq!(pair.gate(A), Gate::Open);
        pair.forget();
        pair
    }

    fn start(&mut self, site: usize) {
        self.lives += 1;
        let config = RoleConfig {
            site: SiteId([if site == A { 2 } else { 1 }; 32]),
            peer: SiteId([if site == A { 1 } else { 2 }; 32]),
            first_role: if site == A { FirstRole::Active } else { FirstRole::Standby },
            lease: self.lease,
            beat_ms: 100,
            life: self.lives,
            boot: [1; 16],
            catalog: [0; 16],
            tree: [0; 16],
        };
        let s = &mut self.sites[site];
        let now = Now { ms: self.now, wall_ms: 0 };
        let (role, effects) = Role::start(s.record.clone(), s.marker.clone(), config, now);
        s.role = Some(role);
        self.carry_out(site, effects);
    }

    fn crash(&mut self, site: usize) {
        self.sites[site].role = None;
        self.parts_left = None;
    }

    fn restart(&mut self, site: usize) {
        self.crash(site);
        self.forget();
        self.start(site);
        self.input(site, Input::LinkUp);
    }

    fn forget(&mut self) {
        self.sites.iter_mut().for_each(|s| s.effects.clear());
    }

    fn input(&mut self, site: usize, input: Input) {
        let now = Now { ms: self.now, wall_ms: 0 };
        let Some(role) = &mut self.sites[site].role else { return };
        let effects = role.handle(now, input);
        self.carry_out(site, effects);
    }

    fn command(&mut self, site: usize, command: Command) -> Result<(), Refused> {
        let now = Now { ms: self.now, wall_ms: 0 };
        let role = self.sites[site].role.as_mut().expect("the site is on");
        let effects = role.command(now, command)?;
        self.carry_out(site, effects);
        Ok(())
    }

    fn wait(&mut self, ms: u64) {
        for _ in 0..ms / 50 {
            self.now += 50;
            self.input(A, Input::Tick);
            self.input(B, Input::Tick);
        }
    }

    /// Whether one more part of a write is carried out.
    fn part(&mut self) -> bool {
        match &mut self.parts_left {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }

    /// All effects of one input, and then what comes of them.
    fn carry_out(&mut self, site: usize, effects: Vec<Effect>) {
        self.queue.extend(effects.into_iter().map(|e| (site, e)));
        if std::mem::replace(&mut self.carries_out, true) {
            return;
        }
        while let Some((site, effect)) = self.queue.pop_front() {
            if self.sites[site].role.is_some() {
                self.act(site, effect);
            }
        }
        self.carries_out = false;
    }

    fn act(&mut self, site: usize, effect: Effect) {
        if !matches!(effect, Effect::Send(_) | Effect::Audit(_)) {
            self.sites[site].effects.push(effect.clone());
        }
        match effect {
            Effect::Persist { write, marker, record } => {
                if let Some(marker) = marker {
                    if !self.part() {
                        return;
                    }
                    self.sites[site].marker = Kept::Found(marker);
                }
                if !self.part() {
                    return;
                }
                self.sites[site].record = Kept::Found(*record);
                self.input(site, Input::Persisted { write });
            }
            Effect::Send(say) if self.connected => self.input(1 - site, Input::Heard(say)),
            Effect::ReadPoint => {
                let point = self.sites[site].point;
                self.input(site, Input::Point(point));
            }
            Effect::RunHook(hook) if !self.hold_hooks => {
                self.input(site, Input::HookDone { hook, ok: true });
            }
            _ => {}
        }
    }

    fn role(&self, site: usize) -> &Role {
        self.sites[site].role.as_ref().expect("the site is on")
    }

    fn gate(&self, site: usize) -> Gate {
        self.role(site).gate(self.now)
    }

    fn phases(&self) -> [&'static str; 2] {
        [A, B].map(|site| self.role(site).record().phase.name())
    }

    fn ran(&self, site: usize, effect: &Effect) -> bool {
        self.sites[site].effects.contains(effect)
    }

    /// Where in what was carried out the first that fits is.
    fn at(&self, site: usize, fits: impl Fn(&Effect) -> bool) -> usize {
        let effects = &self.sites[site].effects;
        effects.iter().position(fits).unwrap_or_else(|| panic!("not among {effects:#?}"))
    }
}

fn lease() -> Option<Lease> {
    Some(Lease { ms: 1_000, stop_ms: 200 })
}

#[test]
fn a_switchover_is_carried_out_in_its_order() {
    let mut pair = Pair::new(None);
    pair.command(A, Command::Switchover).expect("legal");
    assert_eq!(pair.phases(), ["draining", "standby"]);
    let closed = pair.at(A, |e| matches!(e, Effect::CloseGate(_)));
    let stop = pair.at(A, |e| *e == Effect::RunHook(Hook::Stop));
    let drain = pair.at(A, |e| *e == Effect::BeginDrain);
    assert!(closed < stop && stop < drain);
    pair.forget();
    pair.sites[B].point = Some(point(4));
    pair.input(A, Input::Drained { point: point(4) });
    assert_eq!(pair.phases(), ["standby", "active"]);
    assert_eq!((pair.gate(A), pair.gate(B)), (Gate::Closed(Closed::Phase("standby")), Gate::Open));
    let epochs = [A, B].map(|site| pair.role(site).record().epoch);
    assert_eq!(epochs, [Epoch(2); 2], "the next, and B's own");
    // At the giver: the data end goes away, then the record, then the marker.
    let turn = pair.at(A, |e| *e == Effect::Turn(DataRole::Neither));
    let record = pair.at(A, |e| matches!(e, Effect::Persist { marker: None, .. }));
    let risen = pair.at(A, |e| matches!(e, Effect::Persist { marker: Some(_), .. }));
    assert!(turn < record && record < risen);
    // At the taker the gate opens after both are durable, and then the hook runs.
    let risen = pair.at(B, |e| matches!(e, Effect::Persist { marker: Some(_), .. }));
    let open = pair.at(B, |e| *e == Effect::OpenGate);
    let start = pair.at(B, |e| *e == Effect::RunHook(Hook::Start));
    let read = pair.at(B, |e| *e == Effect::ReadPoint);
    let neither = pair.at(B, |e| *e == Effect::Turn(DataRole::Neither));
    assert!([neither, read, risen, open, start].is_sorted());
    assert!(pair.ran(A, &Effect::Turn(DataRole::Receives(Epoch(2)))));
    assert!(pair.ran(B, &Effect::Turn(DataRole::Sends(Epoch(2)))));
}

#[test]
fn what_is_owed_is_done_after_a_restart() {
    let mut pair = Pair::new(None);
    pair.hold_hooks = true;
    pair.command(A, Command::Switchover).expect("legal");
    pair.restart(A);
    assert!(pair.ran(A, &Effect::RunHook(Hook::Stop)), "its end was not reported");
    assert!(!pair.ran(A, &Effect::BeginDrain));
    pair.input(A, Input::HookDone { hook: Hook::Stop, ok: true });
    assert!(pair.ran(A, &Effect::BeginDrain));
    pair.restart(A);
    pair.wait(500);
    assert!(pair.ran(A, &Effect::BeginDrain) && !pair.ran(A, &Effect::RunHook(Hook::Stop)));
    pair.connected = false;
    pair.input(A, Input::Drained { point: point(3) });
    assert_eq!(pair.phases(), ["handed", "standby"]);
    pair.restart(A);
    pair.connected = true;
    pair.wait(500);
    assert_eq!(pair.phases(), ["standby", "opening"], "the grant is said again");
    assert_eq!(pair.gate(B), Gate::Open);
    pair.connected = false;
    pair.restart(B);
    assert_eq!(pair.gate(B), Gate::Closed(Closed::Unconfirmed));
    pair.connected = true;
    pair.wait(500);
    assert_eq!(pair.gate(B), Gate::Open);
    assert!(pair.ran(B, &Effect::RunHook(Hook::Start)));
    pair.input(B, Input::HookDone { hook: Hook::Start, ok: true });
    assert_eq!(pair.phases(), ["standby", "active"]);
}

#[test]
fn a_site_that_comes_back_waits_until_the_peer_gave_way() {
    let mut pair = Pair::new(None);
    pair.connected = false;
    pair.restart(A);
    pair.wait(5_000);
    assert_eq!(pair.gate(A), Gate::Closed(Closed::Unconfirmed));
    assert!(!pair.ran(A, &Effect::RunHook(Hook::Stop)), "a new process stops no services");
    pair.connected = true;
    pair.wait(500);
    assert_eq!(pair.gate(A), Gate::Open);
    // That they run is what a record says; it may be an old copy.
    let hooks = pair.sites[A].effects.iter().filter(|e| matches!(e, Effect::RunHook(_)));
    assert_eq!(hooks.collect::<Vec<_>>(), [&Effect::RunHook(Hook::Start)]);
    // The peer took over while it was away.
    pair.crash(A);
    pair.connected = false;
    pair.input(B, Input::LinkDown);
    pair.command(B, Command::Failover { peer_is_off: false }).expect("the operator's word");
    assert_eq!(pair.gate(B), Gate::Open);
    assert_eq!(pair.role(B).record().base, Some(point(3)));
    pair.connected = true;
    pair.start(A);
    pair.input(A, Input::LinkUp);
    pair.input(B, Input::LinkUp);
    pair.wait(500);
    assert_eq!(pair.phases(), ["stranded", "alone"]);
    assert!(pair.ran(A, &Effect::RunHook(Hook::Stop)));
    assert_eq!(pair.gate(B), Gate::Open);
    let plan = PlanId([5; 32]);
    pair.command(B, Command::BeginReconcile { plan }).expect("legal");
    pair.wait(200);
    assert_eq!(pair.phases(), ["reconciling", "reconciling"]);
    assert_eq!(pair.gate(B), Gate::Open);
    pair.command(A, Command::FinishReconcile { plan }).expect("legal");
    pair.command(B, Command::FinishReconcile { plan }).expect("legal");
    pair.wait(200);
    assert_eq!(pair.phases(), ["standby", "active"]);
}

/// One that was opened by force, and the lost one that came back, of one plan.
fn reconciling(plan: PlanId) -> Pair {
    let mut pair = Pair::new(None);
    pair.crash(A);
    pair.connected = false;
    pair.input(B, Input::LinkDown);
    pair.command(B, Command::Failover { peer_is_off: true }).expect("the operator's word");
    pair.connected = true;
    pair.start(A);
    pair.input(A, Input::LinkUp);
    pair.input(B, Input::LinkUp);
    pair.wait(500);
    pair.command(B, Command::BeginReconcile { plan }).expect("legal");
    pair.wait(200);
    assert_eq!(pair.phases(), ["reconciling", "reconciling"]);
    pair
}

#[test]
fn a_plan_that_is_given_up_leaves_both_where_they_were() {
    let plan = PlanId([5; 32]);
    let mut pair = reconciling(plan);
    let base = pair.role(B).record().base;
    let other = Command::AbandonReconcile { plan: PlanId([6; 32]) };
    assert_eq!(pair.command(B, other).expect_err("another plan").why, Why::OtherPlan);
    let closed = pair.command(A, Command::AbandonReconcile { plan });
    assert!(closed.is_err(), "only the site that goes on working gives a plan up");
    pair.command(B, Command::AbandonReconcile { plan }).expect("legal");
    pair.wait(200);
    assert_eq!(pair.phases(), ["stranded", "alone"]);
    assert_eq!((pair.gate(B), pair.role(B).record().base), (Gate::Open, base));
    pair.command(B, Command::AbandonReconcile { plan }).expect("done already");
    // Another one, or the same, can be carried out.
    let next = PlanId([7; 32]);
    pair.command(B, Command::BeginReconcile { plan: next }).expect("legal");
    pair.wait(200);
    pair.command(B, Command::FinishReconcile { plan: next }).expect("legal");
    let late = pair.command(B, Command::AbandonReconcile { plan: next });
    assert_eq!(late.expect_err("done here").why, Why::PlanDone);
    pair.command(A, Command::FinishReconcile { plan: next }).expect("legal");
    pair.wait(200);
    assert_eq!(pair.phases(), ["standby", "active"]);
}

#[test]
fn the_lost_site_is_opened_when_the_other_one_is_lost_in_the_middle_of_a_plan() {
    let mut pair = reconciling(PlanId([5; 32]));
    let epoch = pair.role(B).record().epoch;
    pair.crash(B);
    pair.input(A, Input::LinkDown);
    let unsure = pair.command(A, Command::Failover { peer_is_off: false });
    assert_eq!(unsure.expect_err("it takes a word").why, Why::NeedsWord);
    pair.command(A, Command::Failover { peer_is_off: true }).expect("the operator's word");
    assert_eq!(pair.gate(A), Gate::Open);
    assert!(pair.role(A).record().epoch > epoch);
    // Who comes back is fenced, and waits for a plan.
    pair.start(B);
    pair.input(A, Input::LinkUp);
    pair.input(B, Input::LinkUp);
    pair.wait(500);
    assert_eq!(pair.phases(), ["alone", "stranded"]);
}

#[test]
fn one_that_was_open_alone_is_not_pushed_out_by_one_that_comes_back() {
    let mut pair = Pair::new(None);
    pair.crash(A);
    pair.input(B, Input::LinkDown);
    pair.command(B, Command::Failover { peer_is_off: true }).expect("legal");
    pair.crash(B);
    pair.start(A);
    pair.command(A, Command::OpenAlone).expect("legal");
    assert_eq!(pair.gate(A), Gate::Open);
    pair.start(B);
    pair.input(A, Input::LinkUp);
    pair.input(B, Input::LinkUp);
    pair.wait(500);
    assert_eq!(
        pair.phases(),
        ["split", "split"],
        "which of them goes on is not for a number to say"
    );
    pair.command(A, Command::ResolveSplit).expect("legal");
    pair.wait(500);
    assert_eq!(pair.phases(), ["alone", "stranded"]);
    assert_eq!(pair.gate(A), Gate::Open);
}

#[test]
fn a_grant_of_other_content_is_declined_and_can_be_taken_back() {
    let mut pair = Pair::new(None);
    pair.command(A, Command::Switchover).expect("legal");
    pair.input(A, Input::Drained { point: point(9) });
    pair.wait(300);
    assert_eq!(pair.phases(), ["handed", "standby"]);
    let granted = pair.role(A).record().epoch;
    assert_eq!(pair.role(B).record().epoch, granted, "declined for good");
    let legal = pair.role(A).legal_commands(pair.now);
    assert!(legal.contains(&CommandName::TakeBack), "{legal:?}");
    // The right content comes too late: that grant is over.
    pair.sites[B].point = Some(point(9));
    pair.wait(300);
    assert_eq!(pair.phases(), ["handed", "standby"]);
    pair.command(A, Command::TakeBack).expect("legal");
    pair.wait(300);
    assert_eq!(pair.phases(), ["active", "standby"]);
    assert_eq!(pair.gate(A), Gate::Open);
    assert!(pair.role(A).record().epoch > granted);
}

#[test]
fn an_epoch_handed_over_is_not_taken_back_before_the_peer_declined() {
    let mut pair = Pair::new(None);
    pair.command(A, Command::Switchover).expect("legal");
    pair.connected = false;
    pair.input(A, Input::Drained { point: point(3) });
    let refused = pair.command(A, Command::TakeBack).expect_err("nobody knows");
    assert_eq!(refused.why, Why::PeerEpoch);
    assert_eq!(refused.phase, "handed");
    assert!(refused.to_string().starts_with("switchover --take-back: this site is handed: "));
}

#[test]
fn a_refusal_names_the_state_and_what_is_legal() {
    let mut pair = Pair::new(None);
    let refused = pair.command(B, Command::Switchover).expect_err("it is the standby");
    assert_eq!((refused.phase, refused.why), ("standby", Why::Phase("standby")));
    assert_eq!(refused.legal, pair.role(B).legal_commands(pair.now));
    assert_eq!(
        refused.to_string(),
        "switchover: this site is standby: it is not what a site that is standby can do; legal now: \
         failover --force, failover --force --peer-is-off"
    );
    assert_eq!(pair.role(A).legal_commands(pair.now), [CommandName::Switchover]);
    pair.hold_hooks = true;
    pair.command(A, Command::Switchover).expect("legal");
    let record = pair.role(A).record().clone();
    pair.command(A, Command::Switchover).expect("done already");
    assert_eq!(*pair.role(A).record(), record, "and nothing changed");
    pair.input(A, Input::HookDone { hook: Hook::Stop, ok: false });
    let legal = pair.role(A).legal_commands(pair.now);
    assert_eq!(legal, [CommandName::AbortSwitchover, CommandName::RetryHook]);
    pair.hold_hooks = false;
    pair.command(A, Command::AbortSwitchover).expect("legal");
    assert_eq!((pair.phases()[A], pair.gate(A)), ("active", Gate::Open));
    assert!(pair.ran(A, &Effect::RunHook(Hook::Start)), "who knows what a stop that failed did");
}

#[test]
fn nothing_is_said_or_begun_while_a_write_is_under_way() {
    let mut pair = Pair::new(None);
    pair.parts_left = Some(0);
    pair.command(B, Command::Failover { peer_is_off: true }).expect("legal");
    assert!(!pair.role(B).accepts(Epoch(1)), "what it had is what it fails over with");
    let refused = pair.command(B, Command::ResolveSplit).expect_err("it writes");
    assert_eq!(refused.why, Why::Busy);
    let now = Now { ms: pair.now + 10_000, wall_ms: 0 };
    let role = pair.sites[B].role.as_mut().expect("it is on");
    assert_eq!(role.handle(now, Input::Tick), []);
    assert_eq!(role.gate(now.ms), Gate::Closed(Closed::Phase("standby")));
}

#[test]
fn a_crash_at_any_part_of_a_rise_loses_nothing_and_strands_nobody() {
    for parts in 0..6 {
        let mut pair = Pair::new(None);
        pair.command(A, Command::Switchover).expect("legal");
        pair.parts_left = Some(parts);
        pair.connected = false;
        pair.input(A, Input::Drained { point: point(3) });
        pair.restart(A);
        pair.connected = true;
        pair.wait(500);
        if pair.phases()[A] == "draining" {
            pair.input(A, Input::Drained { point: point(3) });
        }
        pair.wait(500);
        assert_eq!(pair.phases(), ["standby", "active"], "{parts} parts");
    }
}

#[test]
fn the_first_start_survives_a_crash_at_any_part() {
    for parts in 0..6 {
        let mut pair = Pair::off(None);
        pair.parts_left = Some(parts);
        pair.start(A);
        pair.restart(A);
        assert_eq!(pair.role(A).record().phase, Phase::Active, "{parts} parts");
        assert_eq!(pair.role(A).record().epoch, Epoch(1));
    }
}

#[test]
fn an_old_record_is_found_out_by_the_marker_however_often_it_crashes() {
    for parts in 0..8 {
        let mut pair = Pair::new(None);
        let old = pair.sites[A].record.clone();
        pair.command(A, Command::Switchover).expect("legal");
        pair.input(A, Input::Drained { point: point(3) });
        assert_eq!(pair.phases(), ["standby", "active"]);
        pair.connected = false;
        pair.crash(A);
        pair.sites[A].record = old;
        pair.parts_left = Some(parts);
        pair.start(A);
        assert_ne!(pair.gate(A), Gate::Open);
        pair.restart(A);
        let phase = pair.role(A).record().phase;
        let why = Strand::MarkerAhead;
        assert!(
            matches!(phase, Phase::Stranded { why: w, .. } if w == why),
            "{parts} parts: {phase:?}"
        );
    }
}

#[test]
fn lost_or_damaged_state_is_not_a_first_start() {
    let marker = Kept::Found(Stamp { epoch: Epoch(4), turn: 9 });
    for (record, marker) in [
        (Kept::Nothing, marker.clone()),
        (Kept::Damaged, marker),
        (Kept::Damaged, Kept::Nothing),
        (Kept::Nothing, Kept::Damaged),
        (Kept::Found(Record::new(Services::Started)), Kept::Damaged),
    ] {
        let mut pair = Pair::off(None);
        (pair.sites[A].record, pair.sites[A].marker) = (record, marker);
        pair.start(A);
        assert!(matches!(pair.role(A).record().phase, Phase::Stranded { .. }));
        pair.restart(A);
        assert!(matches!(pair.role(A).record().phase, Phase::Stranded { .. }));
    }
}

#[test]
fn an_old_record_with_its_old_marker_is_found_out_by_the_peer() {
    let mut pair = Pair::new(None);
    let old = (pair.sites[A].record.clone(), pair.sites[A].marker.clone());
    pair.command(A, Command::Switchover).expect("legal");
    pair.command(A, Command::AbortSwitchover).expect("legal");
    pair.wait(300);
    pair.crash(A);
    (pair.sites[A].record, pair.sites[A].marker) = old;
    pair.start(A);
    pair.input(A, Input::LinkUp);
    pair.wait(500);
    let phase = pair.role(A).record().phase;
    assert!(matches!(phase, Phase::Stranded { why: Strand::PeerAhead, .. }), "{phase:?}");
}

fn go_there_and_back(pair: &mut Pair) {
    for (from, to) in [(A, B), (B, A)] {
        pair.command(from, Command::Switchover).expect("legal");
        pair.input(from, Input::Drained { point: point(3) });
        pair.wait(300);
        assert_eq!(pair.role(to).record().phase, Phase::Active);
    }
}

/// B goes on with a state folder that was found to be an old copy, A being off.
fn opened_with_an_old_copy() -> Pair {
    let mut pair = Pair::new(None);
    let old = pair.sites[B].record.clone();
    pair.command(A, Command::Switchover).expect("legal");
    pair.input(A, Input::Drained { point: point(3) });
    assert_eq!(pair.phases(), ["standby", "active"]);
    pair.crash(A);
    pair.sites[B].record = old;
    pair.restart(B);
    pair.command(B, Command::Failover { peer_is_off: true }).expect("the operator's word");
    assert_eq!(pair.gate(B), Gate::Open);
    pair
}

#[test]
fn a_point_beside_an_old_record_is_no_base_however_often_the_site_is_opened() {
    let plan = PlanId([5; 32]);
    let mut pair = opened_with_an_old_copy();
    let is_lost = |pair: &Pair, what: &str| {
        let record = pair.role(B).record();
        assert_eq!((record.base, record.forgot), (None, true), "{what}");
    };
    is_lost(&pair, "opened");
    pair.restart(B);
    is_lost(&pair, "after a restart");
    pair.command(B, Command::OpenAlone).expect("the operator's word");
    is_lost(&pair, "in a later epoch");
    // It is overtaken, closed by a plan, and opened again.
    pair.start(A);
    pair.input(A, Input::LinkUp);
    pair.input(B, Input::LinkUp);
    pair.wait(500);
    pair.crash(B);
    pair.input(A, Input::LinkDown);
    pair.command(A, Command::Failover { peer_is_off: true }).expect("the operator's word");
    pair.start(B);
    pair.input(A, Input::LinkUp);
    pair.input(B, Input::LinkUp);
    pair.wait(500);
    assert_eq!(pair.phases(), ["alone", "stranded"]);
    pair.command(A, Command::BeginReconcile { plan }).expect("legal");
    pair.wait(200);
    assert_eq!(pair.phases(), ["reconciling", "reconciling"]);
    is_lost(&pair, "while a plan is under way");
    pair.crash(A);
    pair.input(B, Input::LinkDown);
    pair.command(B, Command::Failover { peer_is_off: true }).expect("the operator's word");
    is_lost(&pair, "opened once more");
}

#[test]
fn a_site_that_forgot_of_whom_it_followed_strands_it_all_the_same() {
    let mut pair = Pair::new(None);
    let old = pair.sites[B].record.clone();
    // There and back: B was the standby in an epoch that only its marker tells of now.
    go_there_and_back(&mut pair);
    pair.crash(A);
    pair.sites[B].record = old;
    pair.restart(B);
    pair.command(B, Command::Failover { peer_is_off: true }).expect("the operator's word");
    pair.restart(B);
    pair.command(B, Command::OpenAlone).expect("the operator's word");
    pair.start(A);
    pair.input(A, Input::LinkUp);
    pair.input(B, Input::LinkUp);
    pair.wait(500);
    assert_eq!(pair.phases(), ["stranded", "alone"]);
}

#[test]
fn once_a_point_is_sealed_anew_an_old_copy_is_over() {
    let plan = PlanId([5; 32]);
    let mut pair = opened_with_an_old_copy();
    pair.start(A);
    pair.input(A, Input::LinkUp);
    pair.input(B, Input::LinkUp);
    pair.wait(500);
    assert_eq!(pair.phases(), ["stranded", "alone"]);
    // Of a session before: it says nothing of now.
    pair.input(B, Input::Sealed);
    pair.command(B, Command::BeginReconcile { plan }).expect("legal");
    pair.wait(200);
    for site in [B, A] {
        pair.command(site, Command::FinishReconcile { plan }).expect("legal");
        pair.wait(200);
    }
    assert_eq!(pair.phases(), ["standby", "active"]);
    assert!(pair.role(B).record().forgot, "nothing was sealed yet");
    pair.input(B, Input::Sealed);
    assert!(!pair.role(B).record().forgot);
    pair.restart(B);
    assert!(!pair.role(B).record().forgot, "that is durable");
}

#[test]
fn the_gate_closes_with_the_lease_and_the_peer_waits_longer() {
    let mut pair = Pair::new(lease());
    assert!(pair.role(A).record().bound);
    pair.connected = false;
    pair.input(A, Input::LinkDown);
    pair.input(B, Input::LinkDown);
    let cut = pair.now;
    let refused = pair.command(B, Command::Failover { peer_is_off: false }).expect_err("promised");
    assert!(matches!(refused.why, Why::Promise { .. }), "{refused}");
    while pair.gate(A) == Gate::Open {
        assert!(pair.now <= cut + 800, "the hook has its time");
        pair.wait(50);
    }
    assert_eq!(pair.gate(A), Gate::Closed(Closed::LeaseLapsed));
    assert!(pair.ran(A, &Effect::RunHook(Hook::Stop)));
    assert!(pair.command(B, Command::Failover { peer_is_off: false }).is_err());
    pair.now = cut + 1_102;
    pair.command(B, Command::Failover { peer_is_off: false }).expect("it has lapsed");
    assert_eq!((pair.gate(A), pair.gate(B)), (Gate::Closed(Closed::LeaseLapsed), Gate::Open));
}

#[test]
fn a_standby_that_was_off_does_not_count_on_a_lease_it_did_not_hear_of() {
    let mut pair = Pair::new(lease());
    pair.connected = false;
    pair.restart(B);
    pair.input(B, Input::LinkDown);
    pair.wait(5_000);
    let refused = pair.command(B, Command::Failover { peer_is_off: false }).expect_err("no");
    assert_eq!(refused.why, Why::NeedsWord, "the peer may have been opened alone meanwhile");
    pair.command(B, Command::Failover { peer_is_off: true }).expect("the operator's word");
    assert_eq!(pair.gate(B), Gate::Open);
}

#[test]
fn a_failover_beside_a_peer_that_answers_opens_when_that_gave_way() {
    let mut pair = Pair::new(lease());
    pair.connected = false;
    pair.command(B, Command::Failover { peer_is_off: false }).expect("the link is up");
    assert_eq!(pair.phases(), ["active", "alone"]);
    assert_eq!((pair.gate(A), pair.gate(B)), (Gate::Open, Gate::Closed(Closed::Unconfirmed)));
    pair.connected = true;
    pair.wait(300);
    assert_eq!(pair.phases(), ["stranded", "alone"]);
    assert_eq!(pair.gate(B), Gate::Open);
}

#[test]
fn services_of_a_machine_that_was_started_anew_are_not_taken_for_running() {
    let mut pair = Pair::new(None);
    if let Kept::Found(record) = &mut pair.sites[A].record {
        record.boot = [9; 16];
    }
    pair.connected = false;
    pair.restart(A);
    pair.wait(500);
    assert!(!pair.ran(A, &Effect::RunHook(Hook::Start)), "not before the gate is open");
    pair.connected = true;
    pair.wait(500);
    assert!(pair.ran(A, &Effect::RunHook(Hook::Start)));
}

#[test]
fn nobody_is_woken_for_nothing() {
    let mut pair = Pair::new(lease());
    let due = |pair: &Pair, site: usize| pair.role(site).next_timeout().checked_sub(pair.now);
    assert!(due(&pair, A).is_some_and(|ms| ms <= 100));
    pair.connected = false;
    pair.input(A, Input::LinkDown);
    pair.input(B, Input::LinkDown);
    assert_eq!(pair.role(B).next_timeout(), u64::MAX, "there is nobody to say anything to");
    assert!(due(&pair, A).is_some_and(|ms| ms <= 800), "the gate closes by itself");
    pair.wait(2_000);
    assert_eq!(pair.role(A).next_timeout(), u64::MAX);
    // What the run before may have held is waited for, once.
    let mut pair = Pair::new(lease());
    pair.connected = false;
    pair.restart(A);
    pair.input(A, Input::LinkDown);
    assert_eq!(due(&pair, A), Some(800));
    pair.wait(750);
    assert!(!pair.ran(A, &Effect::RunHook(Hook::Stop)));
    pair.wait(50);
    assert!(pair.ran(A, &Effect::RunHook(Hook::Stop)));
    assert_eq!(pair.role(A).next_timeout(), u64::MAX);
}

//! Roles and epoch of one share at one site: a machine that is fed and answers with effects.
//!
//! ```text
//!                 switchover            drained                    peer took it
//!   ┌─────────┐ ────────────► ┌──────────┐ ─────► ┌────────┐ e+1 ──────────────► ┌─────────┐
//!   │ Active  │               │ Draining │        │ Handed │                     │ Standby │
//!   └─────────┘ ◄──────────── └──────────┘        └────────┘ ◄─ may take back ─  └─────────┘
//!     ▲  ▲  ▲       abort                              │ e+2, if declined             │
//!     │  │  └──────────────────────────────────────────┘                              │
//!     │  │ started  ┌─────────┐        the grant is what is here: e+1                 │
//!     │  └───────── │ Opening │ ◄─────────────────────────────────────────────────────┤
//!     │             └─────────┘                                                       │
//!     │ both done   ┌───────────────────┐ ◄─ plan ─  ┌───────┐  failover --force: e+1 │
//!     └──────────── │ Reconciling, open │            │ Alone │ ◄──────────────────────┘
//!                   └───────────────────┘ ─ abandon► └───────┘ ◄─┐ resolve-split, failover: e+n
//!                   ┌─────────────────────┐ ◄─ plan ─  ┌──────────┐│
//!   Standby ◄────── │ Reconciling, closed │            │ Stranded │┤ ◄── a higher epoch was heard of,
//!           done    └─────────────────────┘ ─ given ─► └──────────┘│     or the record is an old copy
//!                              │              up     ┌───────┐   │
//!                              │                     │ Split │ ──┤ ◄── both claim one epoch
//!                              │                     └───────┘   │
//!                              └──── failover --force: e+n ──────┘
//! ```
//!
//! Guarantees:
//! - Never two gates open, and no epoch is opened by both sites: the odd ones are one site's, the even
//!   ones the other's. A gate opens only in an epoch that the peer handed over, or gave way to (it
//!   made that epoch durable without claiming it), or that was taken on an operator's word that the peer
//!   is off, or after the peer's lease had lapsed. A process that starts with an open phase keeps its
//!   gate closed until the peer gave way to its epoch in this run, or an operator says `open --alone`.
//! - An epoch is durable before anything is said or done under it, and never falls. What is said is
//!   durable: while a change is being written nothing is said.
//! - A planned switchover loses nothing: the gate is closed before the last cut, and the peer takes the
//!   epoch only if its own recovery point is that cut, by number and digest.
//! - An old copy of the record is not believed when the marker in the tree, or what the peer remembers,
//!   is ahead of it. What lies beside one that was found out is as old: no point of it counts as the last that both
//!   sites had ([`Record::forgot`]), whoever opens the site and however often, until one is sealed anew.
//!
//! The order of writing is: record, marker, and only then anything is said or done. So wherever a crash
//! falls, the record is not behind the marker, and nothing happened in an epoch whose marker is not
//! there: a record that is behind the marker is an old copy, always; one put back that is not behind it
//! says what was true as far as anybody could know. (The other way round, a crash between the two
//! could not be told from an old copy.) A marker that is behind the record is written before anything
//! else. Only changes of role raise the turn, and none is begun before the peer was heard but by an
//! operator's word: so what the peer remembers is compared with what was found, not with what came since.
//!
//! A plan can be given up by the site that goes on working until its part is done; the other one, which did its
//! part first, is stranded again when it hears so. Is the site that goes on lost meanwhile, the other one is opened by
//! an operator's word as any stranded one, in an epoch of its own.
//!
//! Refuses: a command that is not legal, with the reason and what is ([`Refused`]). Believes nothing a
//! peer's earlier run said ([`hearing`]).
//!
//! What survives a crash: the [`Record`]. [`Role::start`] gives again whatever is owed: hooks, the
//! drain, the grant. An operator's `failover`, `resolve-split` or `open --alone` that was not durable yet
//! is forgotten and has to be said again.
//!
//! The caller carries out effects in their order, all of one input before the next; it ends the process when a write fails, since what is
//! durable is not known then. Time is an argument: a clock that goes forward only, also while the machine
//! sleeps. Two sites' clocks may differ by any amount, and by 4 % in speed.

use crate::recovery_point::Epoch;

pub mod command;
mod decide;
mod hearing;
mod record;
mod say;
mod settle;
mod told;

pub use crate::audit::AuditHead;
pub use command::{Command, CommandName, Refused, Why};
pub use record::{Phase, PlanId, Point, RECORD_LEN_MAX, Record, Services, SiteId, Stamp, Strand};
pub use say::{Beat, Echo, SAY_LEN_MAX, Say};

use command::Legal;
use decide::Grant;
use hearing::{Hearing, Worth};

/// What was found of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept<T> {
    /// No file.
    Nothing,
    /// A file that cannot be read as what it should be.
    Damaged,
    /// This.
    Found(T),
}

/// What a site is before its first record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstRole {
    /// Services run here.
    Active,
    /// Kept ready.
    Standby,
}

/// The gate is open only while the peer answers, so that the peer may take over when it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// From the sending of a message that was answered. The same at both sites, or it does not count.
    pub ms: u64,
    /// How much earlier the gate closes: what the stop hook may take.
    pub stop_ms: u64,
}

impl Lease {
    /// How long an answer binds who gave it, by a clock that runs up to 4 % faster than true, the other
    /// 4 % slower: 1.04 / 0.96 is below 1.1. Two more for what whole milliseconds round away.
    #[must_use]
    pub fn promise_ms(&self) -> u64 {
        self.ms.saturating_add(self.ms / 10).saturating_add(2)
    }
}

/// What a machine has to know.
#[derive(Debug, Clone)]
pub struct RoleConfig {
    /// This site.
    pub site: SiteId,
    /// The other. Messages of others are not heard.
    pub peer: SiteId,
    /// Used once.
    pub first_role: FirstRole,
    /// If any.
    pub lease: Option<Lease>,
    /// A message at least as often; at most a quarter of the lease.
    pub beat_ms: u64,
    /// Which start of the machine this is (the kernel's boot id): what a record of an earlier one says of
    /// the services is not so any more.
    pub boot: [u8; 16],
    /// A random number, new for each start of the process.
    pub life: u64,
    /// Told to the peer.
    pub catalog: [u8; 16],
    /// Told to the peer.
    pub tree: [u8; 16],
}

/// The time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// By a clock of this process that only goes forward.
    pub ms: u64,
    /// On the wall, in milliseconds since 1970-01-01 UTC. Told to the peer, never decided by.
    pub wall_ms: i64,
}

/// A command of the site's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hook {
    /// Starts the services.
    Start,
    /// Stops them.
    Stop,
}

/// What the data end of the share is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataRole {
    /// Sends under this epoch.
    Sends(Epoch),
    /// Applies what is sent under this epoch, and nothing else.
    Receives(Epoch),
    /// Neither.
    Neither,
}

/// What happens to the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A message came.
    Heard(Box<Say>),
    /// Messages can be sent.
    LinkUp,
    /// They cannot.
    LinkDown,
    /// The write of [`Effect::Persist`] is durable, marker and record.
    Persisted {
        /// Which.
        write: u64,
    },
    /// Time went by. See [`Role::next_timeout`].
    Tick,
    /// A hook ended.
    HookDone {
        /// Which.
        hook: Hook,
        /// Whether it did what it should.
        ok: bool,
    },
    /// The last cut is durable at the peer, and this is what it sealed.
    Drained {
        /// It.
        point: Point,
    },
    /// The answer to [`Effect::ReadPoint`].
    Point(Option<Point>),
    /// A recovery point was sealed by both ends of a session under the data role that holds.
    Sealed,
    /// The audit chain grew.
    Audit(AuditHead),
}

/// What the machine wants done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Put on the audit record, durably, before what follows.
    Audit(AuditEvent),
    /// Services may not write here any more.
    CloseGate(Closed),
    /// The drain is off: send as before, or nothing, as the data role says.
    AbortDrain,
    /// Be this; what the data end did under another role has ended before the next effect.
    Turn(DataRole),
    /// Read the last recovery point that is durable in this site's catalog; answer [`Input::Point`].
    ReadPoint,
    /// Make durable, both, in either order; answer [`Input::Persisted`]. What has to come first is asked for
    /// first: a marker only when the record beside it was durable once already.
    Persist {
        /// Its number.
        write: u64,
        /// For the tree's own folder.
        marker: Option<Stamp>,
        /// For the state folder.
        record: Box<Record>,
    },
    /// Services may write here.
    OpenGate,
    /// The services are stopped: send the last cut; answer [`Input::Drained`].
    BeginDrain,
    /// Run it; answer [`Input::HookDone`]. A site without hooks answers at once.
    RunHook(Hook),
    /// To the peer.
    Send(Box<Say>),
}

/// What is worth keeping for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditEvent {
    /// A command was given and is carried out.
    Commanded {
        /// It.
        command: Command,
        /// The state it was given in.
        stamp: Stamp,
    },
    /// The role is about to change.
    Changing {
        /// Where the site stands.
        from: Phase,
        /// Where it will.
        to: Phase,
        /// How far it will be.
        stamp: Stamp,
    },
    /// A grant is not taken: the content here is another.
    Declined {
        /// The epoch that was handed over.
        epoch: Epoch,
        /// Its content.
        grant: Point,
        /// What is here.
        have: Option<Point>,
    },
    /// A takeover was given up since things changed meanwhile.
    GaveUp {
        /// The state it was meant for.
        stamp: Stamp,
    },
    /// The gate opened.
    GateOpened {
        /// In this state.
        stamp: Stamp,
    },
    /// The gate closed.
    GateClosed {
        /// In this state.
        stamp: Stamp,
        /// Why.
        why: Closed,
    },
    /// A hook ended.
    HookDone {
        /// Which.
        hook: Hook,
        /// How.
        ok: bool,
    },
    /// The tree's marker is behind the record: the tree is an older one, or another.
    MarkerBehind {
        /// What it should be.
        due: Stamp,
    },
}

/// Whether services may write here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// They may.
    Open,
    /// They may not.
    Closed(Closed),
}

/// Why a gate is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// Where the site stands.
    #[error("the site is {0}")]
    Phase(&'static str),
    /// Where it will stand.
    #[error("the role is changing")]
    Changing,
    /// A higher epoch was heard of.
    #[error("epoch {} was heard of", .0.0)]
    HigherEpoch(Epoch),
    /// The peer says it is active, too.
    #[error("the peer says that it is active")]
    Contested,
    /// The peer has not given way to this epoch since the start.
    #[error("the peer has not confirmed since the start that this site is active")]
    Unconfirmed,
    /// The peer did not answer for too long.
    #[error("the lease has lapsed")]
    LeaseLapsed,
}

/// What is known of the peer, for showing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerView {
    /// Its last message that counts.
    pub said: Say,
    /// When it was heard, by our clock.
    pub at_ms: u64,
    /// Its wall clock less ours, then.
    pub skew_ms: i64,
}

/// Everything `status` shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleView {
    /// What is durable.
    pub record: Record,
    /// Whether services may write.
    pub gate: Gate,
    /// The data end.
    pub data: DataRole,
    /// Whether messages can be sent.
    pub link: bool,
    /// The peer, if it was heard in this run.
    pub peer: Option<PeerView>,
    /// A change is being made durable.
    pub busy: bool,
    /// The hook that failed.
    pub failed_hook: Option<Hook>,
    /// Until when the gate may be open under the lease, by our clock.
    pub lease_until_ms: Option<u64>,
    /// Until when this site promised not to take over, by our clock.
    pub promised_until_ms: Option<u64>,
    /// What may be said next.
    pub legal: Vec<CommandName>,
}

/// What waits for [`Input::Point`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// Take what was granted.
    Take(Grant),
    /// Take the epoch; `consent` of the peer opens the gate.
    Claim { consent: bool },
}

/// A write under way.
struct Pending {
    write: u64,
    record: Record,
    /// The marker is to be written when the record is.
    marker: Option<Stamp>,
    /// The gate needs nobody's word afterwards.
    confirms: bool,
}

/// What was told to the caller last.
struct Shown {
    open: bool,
    data: DataRole,
    drains: bool,
}

/// Roles and epoch of one share at one site. See the module.
pub struct Role {
    config: RoleConfig,
    durable: Record,
    pending: Option<Pending>,
    writes: u64,
    /// What [`Self::start`] found to be written.
    due: Option<Record>,
    /// The marker is not what the record says; nothing is done before it is.
    remark: bool,
    hearing: Hearing,
    /// The peer's last current message, of the run that is followed.
    said: Option<Say>,
    heard_at: Now,
    /// The highest epoch in any message of the peer.
    fence: Epoch,
    link: bool,
    /// The epoch the gate may be open in.
    confirmed: Option<Epoch>,
    started_ms: u64,
    lease_until: u64,
    promised_until: u64,
    /// The epoch that was claimed while the peer kept its gate open by our echoes alone.
    claimed_over_lease: Option<Epoch>,
    wish: Option<Wish>,
    /// The point was asked for.
    asked: bool,
    /// What is known of the services, durable or not.
    services: Services,
    hook: Option<Hook>,
    failed_hook: Option<Hook>,
    drained: Option<Point>,
    /// A point was sealed, and the record does not say so yet.
    sealed: bool,
    shown: Shown,
    answer: Option<Echo>,
    told: Option<(Stamp, Stamp, bool)>,
    sent_ms: Option<u64>,
    audit: AuditHead,
    out: Vec<Effect>,
}

impl Role {
    /// Begins with what was found: the record in the state folder, the marker in the tree's folder.
    #[must_use]
    pub fn start(
        record: Kept<Record>,
        marker: Kept<Stamp>,
        config: RoleConfig,
        now: Now,
    ) -> (Self, Vec<Effect>) {
        let first = Record::new(match config.first_role {
            FirstRole::Active => Services::Started,
            FirstRole::Standby => Services::Stopped,
        });
        let first_epoch = decide::epoch_above(Epoch(0), config.site.0 > config.peer.0);
        let (durable, due) = sound(record, &marker, first, (config.first_role, first_epoch));
        let rebooted = durable.turn > 0 && durable.boot != config.boot;
        let promise = config.lease.map_or(0, |l| l.promise_ms());
        let disbelieved = due.as_ref().is_some_and(|due| due.phase.is_an_old_copy());
        let behind = match marker {
            Kept::Found(stamp) => stamp < durable.rising,
            Kept::Nothing => durable.rising > Stamp::default(),
            Kept::Damaged => true,
        };
        let mut role = Self {
            hearing: Hearing::new(config.life),
            // That they were started may be an old copy's word; the hook bears to be run once more.
            services: match durable.services {
                Services::Stopped if !rebooted && !disbelieved => Services::Stopped,
                Services::Started if durable.turn == 0 && !disbelieved => Services::Started,
                _ => Services::Unknown,
            },
            remark: behind || disbelieved,
            due,
            durable,
            pending: None,
            writes: 0,
            said: None,
            heard_at: now,
            fence: Epoch(0),
            link: false,
            confirmed: None,
            started_ms: now.ms,
            lease_until: 0,
            promised_until: now.ms.saturating_add(promise),
            claimed_over_lease: None,
            wish: None,
            asked: false,
            hook: None,
            failed_hook: None,
            drained: None,
            sealed: false,
            shown: Shown { open: false, data: DataRole::Neither, drains: false },
            answer: None,
            told: None,
            sent_ms: None,
            audit: AuditHead::default(),
            out: Vec::new(),
            config,
        };
        if behind {
            let due = role.durable.rising;
            role.out.push(Effect::Audit(AuditEvent::MarkerBehind { due }));
        }
        let effects = role.settle(now);
        (role, effects)
    }

    /// Takes in what happened. The same thing twice changes nothing.
    pub fn handle(&mut self, now: Now, input: Input) -> Vec<Effect> {
        match input {
            Input::Heard(say) => self.hear(*say, now),
            Input::LinkUp => {
                self.link = true;
                self.told = None;
            }
            Input::LinkDown => self.link = false,
            Input::Persisted { write } => self.persisted(write),
            Input::Tick => {}
            Input::HookDone { hook, ok } => self.hook_done(hook, ok),
            Input::Drained { point } => {
                if self.shown.drains {
                    self.drained = Some(point);
                }
            }
            Input::Point(point) => self.answer_wish(point),
            Input::Sealed => self.sealed = self.shown.data != DataRole::Neither,
            Input::Audit(head) => self.audit = head,
        }
        self.settle(now)
    }

    /// Carries out what an operator says.
    ///
    /// # Errors
    /// [`Refused`]; nothing is changed then.
    pub fn command(&mut self, now: Now, command: Command) -> Result<Vec<Effect>, Refused> {
        let legal = self.check(&command, now.ms).map_err(|why| Refused {
            command: command.name(),
            phase: self.durable.phase.name(),
            why,
            legal: self.legal_commands(now.ms),
        })?;
        if legal != Legal::Done {
            let stamp = self.durable.stamp();
            self.out.push(Effect::Audit(AuditEvent::Commanded { command, stamp }));
            self.carry_out(command, legal == Legal::WithConsent);
        }
        Ok(self.settle(now))
    }

    /// Whether services may write here now.
    #[must_use]
    pub fn gate(&self, now_ms: u64) -> Gate {
        let (epoch, phase) = (self.durable.epoch, &self.durable.phase);
        let closed = if !phase.opens() {
            Closed::Phase(phase.name())
        } else if self.pending.as_ref().is_some_and(|p| !p.record.phase.opens()) {
            Closed::Changing
        } else if self.fence > epoch {
            Closed::HigherEpoch(self.fence)
        } else if self.said.as_ref().is_some_and(|said| decide::contests(epoch, said)) {
            Closed::Contested
        } else if self.confirmed != Some(epoch) {
            Closed::Unconfirmed
        } else if self.is_bound() && now_ms >= self.gate_until() {
            Closed::LeaseLapsed
        } else {
            return Gate::Open;
        };
        Gate::Closed(closed)
    }

    /// Whether a batch sent under `epoch` may be applied here now. Beside the data role, which keeps the
    /// end ready, this asks whether the peer was heard in this run to send under that epoch: who cannot tell
    /// a session from a recording of one needs it.
    #[must_use]
    pub fn accepts(&self, epoch: Epoch) -> bool {
        self.data_role() == DataRole::Receives(epoch) && self.peer_sends()
    }

    /// When [`Input::Tick`] is due at the latest, by the clock of [`Now::ms`]; `u64::MAX` for never.
    #[must_use]
    pub fn next_timeout(&self) -> u64 {
        let beat = match self.sent_ms {
            _ if !self.link || self.is_busy() => u64::MAX,
            Some(at) => at.saturating_add(self.config.beat_ms),
            None => self.started_ms,
        };
        let lapse = match self.durable.phase.opens() && self.is_bound() {
            false => u64::MAX,
            true if self.shown.open => self.gate_until(),
            true if self.confirmed.is_none() && self.services != Services::Stopped => {
                self.lapse_of_run_before()
            }
            true => u64::MAX,
        };
        beat.min(lapse).min(self.lapse_confirms().unwrap_or(u64::MAX))
    }

    /// When a lease that the run before this one may have held has lapsed.
    fn lapse_of_run_before(&self) -> u64 {
        let lease = self.config.lease.map_or(0, |l| l.ms.saturating_sub(l.stop_ms));
        self.started_ms.saturating_add(lease)
    }

    /// What is durable.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.durable
    }

    /// Everything there is to show.
    #[must_use]
    pub fn view(&self, now_ms: u64) -> RoleView {
        RoleView {
            record: self.durable.clone(),
            gate: self.gate(now_ms),
            data: self.data_role(),
            link: self.link,
            peer: self.said.as_ref().map(|said| PeerView {
                said: said.clone(),
                at_ms: self.heard_at.ms,
                skew_ms: said.wall_ms.saturating_sub(self.heard_at.wall_ms),
            }),
            busy: self.is_busy(),
            failed_hook: self.failed_hook,
            lease_until_ms: self.is_bound().then_some(self.lease_until),
            promised_until_ms: self.config.lease.map(|_| self.promised_until),
            legal: self.legal_commands(now_ms),
        }
    }

    /// While something is being made durable nothing is said and nothing is begun.
    fn is_busy(&self) -> bool {
        self.pending.is_some() || self.wish.is_some() || self.due.is_some() || self.remark
    }

    /// Whether the gate needs the lease.
    fn is_bound(&self) -> bool {
        self.durable.bound && self.config.lease.is_some()
    }

    fn gate_until(&self) -> u64 {
        self.lease_until.saturating_sub(self.config.lease.map_or(0, |l| l.stop_ms))
    }

    fn hear(&mut self, say: Say, now: Now) {
        if say.site != self.config.peer {
            return;
        }
        self.fence = self.fence.max(say.stamp.epoch);
        let worth = self.hearing.hear(&say);
        let echoed = match worth {
            Worth::Nothing => false,
            Worth::Answer(echo) => echo.followed,
            Worth::Current { .. } => true,
        };
        // Before it is echoed: whoever gets the echo holds a lease from when it sent this.
        if let Some(lease) = self.config.lease.filter(|_| echoed) {
            let until = now.ms.saturating_add(lease.promise_ms());
            self.promised_until = self.promised_until.max(until);
        }
        if !self.hearing.is_mutual() {
            self.said = None;
        }
        match worth {
            Worth::Nothing => {}
            Worth::Answer(echo) => self.answer = Some(echo),
            Worth::Current { first } => {
                if first {
                    self.told = None;
                }
                self.hold_lease(&say);
                self.said = Some(say);
                self.heard_at = now;
            }
        }
    }

    /// An echo of a message of ours is a lease from when it was sent.
    fn hold_lease(&mut self, say: &Say) {
        let Some((lease, echo)) = self.config.lease.zip(say.echo) else { return };
        let sound = decide::is_believed(&self.durable, say)
            && !decide::contests(self.durable.epoch, say)
            && say.lease_ms == lease.ms;
        if sound {
            let until = echo.beat.at_ms.saturating_add(lease.ms);
            self.lease_until = self.lease_until.max(until);
        }
    }

    fn hook_done(&mut self, hook: Hook, ok: bool) {
        if self.hook != Some(hook) {
            return;
        }
        self.hook = None;
        self.failed_hook = (!ok).then_some(hook);
        if ok {
            self.services = match hook {
                Hook::Start => Services::Started,
                Hook::Stop => Services::Stopped,
            };
        }
        self.out.push(Effect::Audit(AuditEvent::HookDone { hook, ok }));
    }
}

/// What to believe of what was found, and what is to be written because of it.
fn sound(
    record: Kept<Record>,
    marker: &Kept<Stamp>,
    first: Record,
    (role, first_epoch): (FirstRole, Epoch),
) -> (Record, Option<Record>) {
    let at_most = match marker {
        Kept::Nothing => Stamp::default(),
        Kept::Found(stamp) => *stamp,
        // It may have been anything, so no record is known to be the last.
        Kept::Damaged => Stamp { epoch: Epoch(0), turn: u64::MAX },
    };
    let strand = |record: Record, why| {
        let mut lost = record.stranded(at_most.epoch, why);
        lost.turn = if at_most.turn == u64::MAX { lost.turn } else { lost.turn.max(at_most.turn) };
        (record, Some(lost))
    };
    match record {
        Kept::Found(record) if at_most <= record.rising && *marker != Kept::Damaged => {
            (record, None)
        }
        Kept::Found(record) => strand(record, Strand::MarkerAhead),
        Kept::Nothing if *marker == Kept::Nothing => {
            let active = first.in_epoch(first_epoch, Phase::Active);
            (first, (role == FirstRole::Active).then_some(active))
        }
        Kept::Nothing | Kept::Damaged => strand(first, Strand::StateLost),
    }
}

#[cfg(test)]
mod tests;

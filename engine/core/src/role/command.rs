//! What an operator may say, when, and why not.
//!
//! Guarantees: a command is either legal, already done (it changes nothing then) or refused with the
//! reason and with what is legal instead; asking changes nothing. The same function answers the command
//! and lists the legal ones, so that they cannot differ.

use std::fmt;

use super::decide::is_believed;
use super::record::{Phase, PlanId};
use super::{Closed, Gate, Role};

/// What an operator, or the daemon for one, says to a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Planned: stop the services, send the last cut, hand the epoch over. At the active site.
    Switchover,
    /// Go on being active, as long as the epoch was not handed over.
    AbortSwitchover,
    /// Be active again, the peer having declined what was handed over.
    TakeBack,
    /// Be active without the peer.
    Failover {
        /// The operator's word that the other site is switched off. With it nothing is waited for.
        peer_is_off: bool,
    },
    /// The operator's word that the other site is switched off, at a site that is active and whose gate
    /// waits for it.
    OpenAlone,
    /// Apply this failback plan. At the site that goes on working.
    BeginReconcile {
        /// Which.
        plan: PlanId,
    },
    /// This site's part of the plan is done. At either.
    FinishReconcile {
        /// Which.
        plan: PlanId,
    },
    /// This failback plan is not carried out to its end: another one is to be made. At the site that goes on
    /// working, as long as its part is not done; what the other one did of it was taken back.
    AbandonReconcile {
        /// Which.
        plan: PlanId,
    },
    /// Nobody is active, or both say they are: this site is to be. Opens once the peer gave way.
    ResolveSplit,
    /// Run the hook again that failed.
    RetryHook,
}

/// A command without what it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CommandName {
    /// [`Command::Switchover`].
    Switchover,
    /// [`Command::AbortSwitchover`].
    AbortSwitchover,
    /// [`Command::TakeBack`].
    TakeBack,
    /// [`Command::Failover`] on what is known.
    Failover,
    /// [`Command::Failover`] on the operator's word that the peer is off.
    FailoverPeerIsOff,
    /// [`Command::OpenAlone`].
    OpenAlone,
    /// [`Command::BeginReconcile`].
    BeginReconcile,
    /// [`Command::FinishReconcile`].
    FinishReconcile,
    /// [`Command::AbandonReconcile`].
    AbandonReconcile,
    /// [`Command::ResolveSplit`].
    ResolveSplit,
    /// [`Command::RetryHook`].
    RetryHook,
}

impl CommandName {
    /// As a person types it; `failback finish` is the end of an apply, and nobody's to type.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Switchover => "switchover",
            Self::AbortSwitchover => "switchover --abort",
            Self::TakeBack => "switchover --take-back",
            Self::Failover => "failover --force",
            Self::FailoverPeerIsOff => "failover --force --peer-is-off",
            Self::OpenAlone => "open --alone",
            Self::BeginReconcile => "failback apply",
            Self::FinishReconcile => "failback finish",
            Self::AbandonReconcile => "failback abandon",
            Self::ResolveSplit => "open --resolve-split",
            Self::RetryHook => "open --retry-hook",
        }
    }
}

impl fmt::Display for CommandName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Command {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> CommandName {
        match self {
            Self::Switchover => CommandName::Switchover,
            Self::AbortSwitchover => CommandName::AbortSwitchover,
            Self::TakeBack => CommandName::TakeBack,
            Self::Failover { peer_is_off: false } => CommandName::Failover,
            Self::Failover { peer_is_off: true } => CommandName::FailoverPeerIsOff,
            Self::OpenAlone => CommandName::OpenAlone,
            Self::BeginReconcile { .. } => CommandName::BeginReconcile,
            Self::FinishReconcile { .. } => CommandName::FinishReconcile,
            Self::AbandonReconcile { .. } => CommandName::AbandonReconcile,
            Self::ResolveSplit => CommandName::ResolveSplit,
            Self::RetryHook => CommandName::RetryHook,
        }
    }
}

/// Why a command is not legal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// The site stands elsewhere.
    #[error("it is not what a site that is {0} can do")]
    Phase(&'static str),
    /// A change is being made durable.
    #[error("a change of role is under way")]
    Busy,
    /// Nothing was heard of the peer since the start, or its link is down.
    #[error("the peer is not heard")]
    PeerNotHeard,
    /// The peer stands elsewhere.
    #[error("the peer is {0}")]
    Peer(&'static str),
    /// The peer is in another epoch.
    #[error("the peer is in another epoch")]
    PeerEpoch,
    /// One end forgot what it told the other.
    #[error("one of the sites has an old copy of its state")]
    PeerForgot,
    /// The gate is closed.
    #[error("the gate is closed: {0}")]
    Gate(Closed),
    /// This site promised not to take over yet.
    #[error("the peer may hold a lease for {left_ms} ms yet")]
    Promise {
        /// How long.
        left_ms: u64,
    },
    /// What is known does not suffice.
    #[error("it takes the word that the peer is switched off")]
    NeedsWord,
    /// Another plan is being applied.
    #[error("another plan is being applied")]
    OtherPlan,
    /// All of the plan that is this site's is done.
    #[error("the plan is carried out here")]
    PlanDone,
    /// No hook failed.
    #[error("no hook failed")]
    NoHook,
}

/// A command that is not carried out, and what would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// What was said.
    pub command: CommandName,
    /// Where the site stands.
    pub phase: &'static str,
    /// Why not.
    pub why: Why,
    /// What is legal now.
    pub legal: Vec<CommandName>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: this site is {}: {}; legal now: ", self.command, self.phase, self.why)?;
        if self.legal.is_empty() {
            return f.write_str("nothing");
        }
        for (n, command) in self.legal.iter().enumerate() {
            write!(f, "{}{command}", if n == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl std::error::Error for Refused {}

/// What a legal command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Legal {
    /// Something.
    Now,
    /// The same, but the gate waits for the peer to give way.
    WithConsent,
    /// It is done already.
    Done,
}

impl Role {
    /// What `status` names as the next commands. Those that change nothing are not listed.
    #[must_use]
    pub fn legal_commands(&self, now_ms: u64) -> Vec<CommandName> {
        let plan = match self.durable.phase {
            Phase::Reconciling { plan, .. } => plan,
            _ => PlanId::default(),
        };
        [
            Command::Switchover,
            Command::AbortSwitchover,
            Command::TakeBack,
            Command::Failover { peer_is_off: false },
            Command::Failover { peer_is_off: true },
            Command::OpenAlone,
            Command::BeginReconcile { plan },
            Command::FinishReconcile { plan },
            Command::AbandonReconcile { plan },
            Command::ResolveSplit,
            Command::RetryHook,
        ]
        .into_iter()
        .filter(|c| match self.check(c, now_ms) {
            Ok(legal) => legal != Legal::Done,
            Err(_) => false,
        })
        .map(|c| c.name())
        .collect()
    }

    pub(super) fn check(&self, command: &Command, now_ms: u64) -> Result<Legal, Why> {
        let done = self.is_done(command, now_ms);
        if done {
            return Ok(Legal::Done);
        }
        if self.is_busy() {
            return Err(Why::Busy);
        }
        let phase = &self.durable.phase;
        let elsewhere = Err(Why::Phase(phase.name()));
        match (command, phase) {
            (Command::Switchover, Phase::Active) => self.check_switchover(now_ms),
            // Before the peer was heard it is not known whether this is an old copy, and what is said to
            // it from then on would hide that.
            (
                Command::AbortSwitchover
                | Command::FinishReconcile { .. }
                | Command::AbandonReconcile { .. }
                | Command::ResolveSplit,
                Phase::Draining | Phase::Reconciling { .. } | Phase::Split,
            ) if self.said.is_none() => Err(Why::PeerNotHeard),
            (Command::AbortSwitchover, Phase::Draining) => Ok(Legal::Now),
            (Command::TakeBack, Phase::Handed { .. }) => self.check_nobody_active(),
            (
                Command::ResolveSplit,
                Phase::Standby | Phase::Stranded { .. } | Phase::Reconciling { open: false, .. },
            ) => self.check_nobody_active(),
            (Command::ResolveSplit, Phase::Split) => Ok(Legal::WithConsent),
            (Command::Failover { .. }, phase) if phase.opens() || *phase == Phase::Draining => {
                elsewhere
            }
            (Command::OpenAlone, Phase::Draining) if self.said.is_none() => Ok(Legal::Now),
            (Command::Failover { peer_is_off }, _) => self.check_failover(*peer_is_off, now_ms),
            (Command::OpenAlone, phase) if phase.opens() => match self.gate(now_ms) {
                Gate::Closed(why @ Closed::Contested) if self.link => Err(Why::Gate(why)),
                _ => Ok(Legal::Now),
            },
            (
                Command::BeginReconcile { .. },
                Phase::Alone | Phase::Active | Phase::Reconciling { open: true, .. },
            ) => match self.peer_in_epoch()? {
                lost if lost.awaits_a_plan() => Ok(Legal::Now),
                other => Err(Why::Peer(other.name())),
            },
            (Command::FinishReconcile { plan }, Phase::Reconciling { plan: ours, .. }) => {
                if plan == ours { Ok(Legal::Now) } else { Err(Why::OtherPlan) }
            }
            (
                Command::AbandonReconcile { plan },
                Phase::Reconciling { plan: ours, open: true, done },
            ) => match () {
                () if plan != ours => Err(Why::OtherPlan),
                () if *done => Err(Why::PlanDone),
                () => Ok(Legal::Now),
            },
            (Command::RetryHook, _) => self.failed_hook.map(|_| Legal::Now).ok_or(Why::NoHook),
            _ => elsewhere,
        }
    }

    fn is_done(&self, command: &Command, now_ms: u64) -> bool {
        match (command, &self.durable.phase) {
            (Command::Switchover, Phase::Draining | Phase::Handed { .. })
            | (Command::AbortSwitchover | Command::TakeBack, Phase::Active)
            | (
                Command::Failover { .. } | Command::ResolveSplit | Command::AbandonReconcile { .. },
                Phase::Alone,
            ) => true,
            (Command::OpenAlone, phase) => phase.opens() && self.gate(now_ms) == Gate::Open,
            (
                Command::BeginReconcile { plan },
                Phase::Reconciling { plan: ours, open: true, .. },
            ) => plan == ours,
            (
                Command::FinishReconcile { plan },
                Phase::Reconciling { plan: ours, done: true, .. },
            ) => plan == ours,
            (Command::FinishReconcile { plan }, Phase::Standby | Phase::Active) => {
                self.durable.plan == Some(*plan)
            }
            _ => false,
        }
    }

    /// The peer's phase, if it is heard, sound and in our epoch.
    fn peer_in_epoch(&self) -> Result<Phase, Why> {
        let said = self.said.as_ref().filter(|_| self.link).ok_or(Why::PeerNotHeard)?;
        if !is_believed(&self.durable, said) {
            return Err(Why::PeerForgot);
        }
        if said.stamp.epoch != self.durable.epoch {
            return Err(Why::PeerEpoch);
        }
        Ok(said.phase)
    }

    fn check_switchover(&self, now_ms: u64) -> Result<Legal, Why> {
        match self.peer_in_epoch()? {
            Phase::Standby => {}
            other => return Err(Why::Peer(other.name())),
        }
        match self.gate(now_ms) {
            Gate::Open => Ok(Legal::Now),
            Gate::Closed(why) => Err(Why::Gate(why)),
        }
    }

    fn check_nobody_active(&self) -> Result<Legal, Why> {
        match self.peer_in_epoch()? {
            phase if phase.claims() => Err(Why::Peer(phase.name())),
            _ => Ok(Legal::WithConsent),
        }
    }

    /// Whether the peer, active in our epoch, keeps its gate open by our echoes alone. That must have been heard by
    /// this run: an operator who opened the peer alone did so while this site was off.
    pub(super) fn peer_needs_our_echo(&self) -> bool {
        let Some(lease) = self.config.lease else { return false };
        self.said.as_ref().is_some_and(|said| {
            said.bound
                && said.lease_ms == lease.ms
                && said.stamp.epoch == self.durable.epoch
                && matches!(said.phase, Phase::Active | Phase::Draining)
        })
    }

    fn check_failover(&self, peer_is_off: bool, now_ms: u64) -> Result<Legal, Why> {
        if peer_is_off {
            return Ok(Legal::Now);
        }
        if self.link && self.said.is_some() {
            // It is there: it can give way, and until it has, the gate stays closed.
            return Ok(Legal::WithConsent);
        }
        if self.durable.phase != Phase::Standby {
            return Err(Why::NeedsWord);
        }
        if self.config.lease.is_none() {
            return Ok(Legal::Now);
        }
        if !self.peer_needs_our_echo() {
            return Err(Why::NeedsWord);
        }
        match self.promised_until.saturating_sub(now_ms) {
            0 => Ok(Legal::Now),
            left_ms => Err(Why::Promise { left_ms }),
        }
    }
}

//! What a current message of the peer changes here: a pure function of two values.
//!
//! ```text
//!                         the peer is in a higher epoch             the peer is in the same epoch
//! Standby       claims it: follow, but strand if it is alone     claims: nothing, but strand if alone
//!               handed it: compare, then take or decline         reconciles another plan: begin it
//!               neither: follow
//! Handed        it took ours: standby, then as above             the same; alone elsewhere: strand
//!               neither claims nor handed: standby; else strand
//! Stranded      stay so, in that epoch                           reconciles: reconcile
//! Reconciling   stranded again (the closed site)                 another plan: that one; alone again: strand
//! all that claim  claims it, knowing of ours: stranded           claims as well: split
//!                 claims it, not knowing of ours: split
//!                 else: stranded
//! ```
//!
//! Split, and not stranded, when neither knew of the other: which of two sites that both worked goes on is
//! not for the number of an epoch to say.
//!
//! Guarantees: no answer of this function lets a site open an epoch that the peer did not hand over;
//! declining makes the epoch durable here without opening it, so what was declined stays so, whichever
//! copy of the grant comes later.

use crate::recovery_point::Epoch;

use super::record::{Phase, PlanId, Point, Record, Strand};
use super::say::Say;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// Nothing.
    Nothing,
    /// Become this.
    Become(Box<Record>),
    /// Find out whether the content here is that of the grant.
    Compare(Grant),
}

/// An epoch that was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) epoch: Epoch,
    pub(super) point: Point,
}

/// The grant a message carries.
pub(super) fn grant(say: &Say) -> Option<Grant> {
    match say.phase {
        Phase::Handed { point } => Some(Grant { epoch: say.stamp.epoch, point }),
        _ => None,
    }
}

pub(super) fn decide(record: &Record, say: &Say) -> Decision {
    if say.heard > record.stamp() {
        let mut lost = record.stranded(say.heard.epoch, Strand::PeerAhead);
        lost.turn = say.heard.turn;
        return become_(lost);
    }
    if say.stamp < record.peer {
        // The peer forgot what it said; it will be told, and strand.
        return Decision::Nothing;
    }
    if matches!(record.phase, Phase::Handed { .. }) && say.took >= record.epoch {
        return become_(record.with(Phase::Standby));
    }
    match say.stamp.epoch.cmp(&record.epoch) {
        std::cmp::Ordering::Less => Decision::Nothing,
        std::cmp::Ordering::Equal => same_epoch(record, say),
        std::cmp::Ordering::Greater => higher_epoch(record, say),
    }
}

fn higher_epoch(record: &Record, say: &Say) -> Decision {
    let epoch = say.stamp.epoch;
    let follow = || {
        let mut standby = record.in_epoch(epoch, Phase::Standby);
        standby.base = None;
        become_(standby)
    };
    let strand = || become_(record.stranded(epoch, Strand::Overtaken));
    match (&record.phase, &say.phase) {
        (Phase::Standby, Phase::Handed { point }) => {
            Decision::Compare(Grant { epoch, point: *point })
        }
        (
            Phase::Standby,
            Phase::Active | Phase::Draining | Phase::Opening { .. } | Phase::Standby,
        )
        | (
            Phase::Standby | Phase::Handed { .. },
            Phase::Stranded { .. } | Phase::Reconciling { open: false, .. },
        )
        | (Phase::Handed { .. }, Phase::Standby) => follow(),
        (Phase::Standby, Phase::Reconciling { plan, open: true, .. })
            if record.plan == Some(*plan) =>
        {
            let mut standby = record.in_epoch(epoch, Phase::Standby);
            standby.plan = Some(*plan);
            become_(standby)
        }
        (ours, theirs) if ours.claims() && theirs.claims() && say.over < record.epoch => {
            become_(record.in_epoch(epoch, Phase::Split))
        }
        (Phase::Stranded { why, .. }, _) => become_(record.stranded(epoch, *why)),
        _ => strand(),
    }
}

fn same_epoch(record: &Record, say: &Say) -> Decision {
    let epoch = record.epoch;
    let strand = || become_(record.stranded(epoch, Strand::Overtaken));
    match (&record.phase, &say.phase) {
        (Phase::Split, _) => Decision::Nothing,
        (Phase::Alone, Phase::Handed { point }) if is_base(record.base.as_ref(), point) => {
            // The peer gave away what was taken from it: nothing is lost, nothing to reconcile.
            let mut taken = record.with(Phase::Opening { point: *point });
            taken.base = None;
            taken.took = epoch;
            become_(taken)
        }
        (ours, theirs) if ours.claims() && theirs.claims() => become_(record.with(Phase::Split)),
        (Phase::Reconciling { plan, open: true, done: true }, Phase::Standby)
            if say.plan == Some(*plan) =>
        {
            let mut active = record.with(Phase::Active);
            active.base = None;
            active.plan = Some(*plan);
            become_(active)
        }
        (Phase::Handed { point }, Phase::Alone) if is_base(say.base.as_ref(), point) => {
            Decision::Nothing
        }
        (Phase::Handed { .. }, theirs) if theirs.claims() => strand(),
        (Phase::Standby, Phase::Reconciling { plan, open: true, .. }) => {
            if record.plan == Some(*plan) { Decision::Nothing } else { reconcile(record, *plan) }
        }
        (Phase::Standby, Phase::Alone | Phase::Split) => strand(),
        (Phase::Stranded { .. }, Phase::Reconciling { plan, open: true, .. }) => {
            reconcile(record, *plan)
        }
        (Phase::Reconciling { plan: ours, open: false, .. }, theirs) => match theirs {
            Phase::Reconciling { plan, open: true, .. } if plan != ours => reconcile(record, *plan),
            // Alone again: the plan was given up.
            Phase::Active
            | Phase::Opening { .. }
            | Phase::Draining
            | Phase::Split
            | Phase::Alone => strand(),
            _ => Decision::Nothing,
        },
        _ => Decision::Nothing,
    }
}

fn is_base(base: Option<&Point>, point: &Point) -> bool {
    base.is_some_and(|base| base.is_same(point))
}

fn reconcile(record: &Record, plan: PlanId) -> Decision {
    become_(record.with(Phase::Reconciling { plan, open: false, done: false }))
}

fn become_(record: Record) -> Decision {
    Decision::Become(Box::new(record))
}

/// Whether the peer has made this site's epoch durable without claiming it: from then on it opens none
/// but a higher one, which it can have from this site or by an operator's word only.
pub(super) fn consents(record: &Record, say: &Say) -> bool {
    is_believed(record, say)
        && say.stamp.epoch == record.epoch
        && !say.phase.claims()
        && !matches!(say.phase, Phase::Handed { .. })
}

/// Whether neither end says that the other forgot something.
pub(super) fn is_believed(record: &Record, say: &Say) -> bool {
    say.stamp >= record.peer && say.heard <= record.stamp()
}

/// Whether the peer says the epoch is its own, or is in a higher one.
pub(super) fn contests(epoch: Epoch, say: &Say) -> bool {
    say.stamp.epoch > epoch || (say.stamp.epoch == epoch && say.phase.claims())
}

/// The highest epoch of the peer that was heard of.
pub(super) fn known_of_peer(record: &Record, said: Option<&Say>, fence: Epoch) -> Epoch {
    let said = said.map_or(Epoch(0), |s| s.stamp.epoch);
    record.peer.epoch.max(said).max(fence)
}

/// The first epoch above `highest` whose number is `odd`: those of one site are odd, of the other even,
/// so that no epoch is ever opened by both.
pub(super) fn epoch_above(highest: Epoch, odd: bool) -> Epoch {
    let next = highest.0 + 1;
    Epoch(if (next % 2 == 1) == odd { next } else { next + 1 })
}

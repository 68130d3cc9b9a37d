//! A machine is told of points that both ends sealed.
//!
//! Guarantees: only of those that were sealed after the share's end was turned last, so under the role that holds. One that
//! is not told is told with the next.

use super::*;

impl Daemon {
    /// Points of a share that were sealed in this run.
    pub(super) fn seals(&self, role: &ShareRole) -> u64 {
        let config = self.config();
        let share = config.share(&role.share);
        share.map_or(0, |share| self.board.share(&shown_share(share, Want::Nothing)).seals())
    }

    /// Tells a machine that waits for a point.
    pub(super) fn follow_seals(&self, role: &ShareRole) {
        let waits = role.machine().as_ref().is_some_and(|machine| machine.record().forgot);
        if waits && self.seals(role) > role.seals.load(Relaxed) {
            let effects = self.step(role, |machine, now| machine.handle(now, Input::Sealed));
            self.carry_out(role, effects);
        }
    }
}

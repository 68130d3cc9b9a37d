//! Which accounts of a cut go with it, when all of them are more than it should take.
//!
//! Guarantees: nothing is chosen before the guard and the owner have judged the whole plan; what is not chosen is left
//! out as what waits for a large file is (`huge.rs`): nothing of it is sent, the point names it, and its owner is told
//! at once that it may come again. Where the target is too old to be told what a point lacks, all goes.

use super::standing::{Cut, Cuts};
use super::{Source, SourceError};
use crate::io::Storage;
use crate::plan::Plan;

impl<S: Storage> Source<'_, S> {
    /// Leaves out of a cut that was judged what has its turn later.
    pub(super) fn leave_out_for_turns(
        &mut self,
        cut: &mut Cut,
        plan: &mut Plan,
        cuts: &dyn Cuts,
    ) -> Result<(), SourceError> {
        let Some(budget) = cuts.budget(cut).filter(|budget| plan.may_cost_more(*budget)) else {
            return Ok(());
        };
        if !self.carries {
            return Ok(());
        }
        // What was carried is placed, and costs nothing any more.
        let loads = plan.loads(|path| self.carried.contains_key(path))?;
        let waits = cuts.turn(cut, loads, budget);
        if waits.is_empty() {
            return Ok(());
        }
        plan.leave_out(&waits)?;
        self.first.retain(|(path, _)| !waits.contains(&cut.withheld.account_of(path)));
        let told = self.ahead.left_out(waits.iter().cloned().collect());
        cut.left_out.accounts.extend(told);
        cut.left_out.turns = waits;
        Ok(())
    }
}

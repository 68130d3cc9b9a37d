//! Agreeing on a recovery point, and leaving.
//!
//! Guarantees: a recovery point is recorded here when the target says it has recorded the very same one,
//! which it does only when it has computed the same root digest. What was recorded is durable. That holds as well for a
//! point that is named while its last batches are under way: if one of them turns out not to be applied whole,
//! the target records none, and one is agreed on when all is known.

use super::*;
use crate::plan::DetachedChange;

/// What a point is to be, but for what the catalog will say: asked when all is written, and again when all receipts
/// are there, unless it was sealed behind the last batches. What it says is on record before it is sent.
pub(super) type Propose<'p, 'a, S> =
    dyn FnMut(&mut Source<'a, S>) -> Result<RecoveryPoint, SourceError> + 'p;

/// What is recorded beside a sealed point.
pub(super) struct Recorded<'a> {
    pub(super) identity: RootIdentity,
    pub(super) policies: &'a PolicySet,
    /// The target's tree.
    pub(super) tree: StoreId,
    pub(super) by_policy: &'a mut DetachedChange,
    /// Accounts that the point does not have as at its time.
    pub(super) behind: &'a Behind,
}

impl<'a, S: Storage> Source<'a, S> {
    /// Asks the target to record a point with the batches under way, all of them written and recorded in `tables` as if
    /// they were applied whole: their receipts and its answer come in one way there and back.
    pub(super) fn seal_behind(
        &mut self,
        (batch, proposed): (u64, RecoveryPoint),
        root: RootDigest,
        (entries, bytes): (u64, u64),
    ) -> Result<(), SourceError> {
        let point = RecoveryPoint { root, entries, bytes, ..proposed };
        self.session.seal_behind_sent();
        self.sealing_behind = Some(point);
        self.send(&Message::SealBehind { batch, point })
    }

    /// Agrees on the recovery point that is proposed; `None` when the target's root differs.
    pub(super) fn agree(
        &mut self,
        propose: &mut Propose<'_, 'a, S>,
    ) -> Result<Option<RecoveryPoint>, SourceError> {
        let point = match self.sealing_behind.take() {
            Some(point) => point,
            None => {
                let proposed = propose(self)?;
                let (root, entries, bytes) = self.totals()?;
                let point = RecoveryPoint { root, entries, bytes, ..proposed };
                // A seal that overtook the answer to a request nobody waits for any more would be out of order.
                if !self.carries {
                    self.desk.wait_until_idle();
                }
                self.session.seal_sent();
                self.send(&Message::Seal(point))?;
                point
            }
        };
        // While the target seals: what was foreseen waits for no index, and is not durable yet.
        let is_foreseen = std::mem::take(&mut self.is_foreseen);
        self.config.profile.time(Stage::Record, || match is_foreseen {
            true => self.catalog.update(Durability::Immediate, |t| t.settle()),
            false => self.catalog.settle(),
        })?;
        match self.message()? {
            Message::Sealed(sealed) if sealed != point => Err(SessionError::OtherPoint.into()),
            Message::Sealed(sealed) => Ok(Some(sealed)),
            _ => Ok(None),
        }
    }

    /// R, the entries and the bytes of what the target is believed to hold.
    fn totals(&self) -> Result<(RootDigest, u64, u64), SourceError> {
        Ok(self.config.profile.time(Stage::Seal, || {
            self.catalog.update(Durability::None, |t| {
                let root = t.seal()?;
                let (entries, bytes) = t.totals();
                Ok((root, entries, bytes))
            })
        })?)
    }

    /// Records what the target has recorded.
    pub(super) fn record_point(
        &self,
        sealed: &RecoveryPoint,
        recorded: Recorded<'_>,
    ) -> Result<(), SourceError> {
        let Recorded { identity, policies, tree, by_policy, behind } = recorded;
        let detached = by_policy.take_rows(&self.config.spool_folder)?;
        self.catalog.update(Durability::Immediate, |t| {
            t.set_root_identity(identity)?;
            t.set_epoch(self.config.epoch)?;
            t.set_policies(Some(policies))?;
            detached.write(t, sealed.sequence)?;
            t.set_behind(behind)?;
            t.set_recovery_point(sealed, tree)
        })?;
        Ok(())
    }

    /// Ends a session of which both ends recorded the recovery point: nothing is left to say, and nothing
    /// to wait for. A target that does not hear of it leaves by itself, see `target.rs`.
    pub(super) fn leave_sealed(&mut self) {
        self.link.close(CloseCode::Done as u32, "");
        self.await_end();
    }

    /// Ends the session in order.
    pub(super) fn leave(&mut self) -> Result<(), SourceError> {
        within(self.link, FAREWELL, CloseCode::Done, "", || {
            self.send(&Message::Goodbye)?;
            // The target may have heard it and left already.
            drop(self.link.finish_control());
            self.await_end();
            Ok(())
        })
    }

    /// Waits until nothing more can come.
    fn await_end(&mut self) {
        while !matches!(self.inbox.recv(), Event::Ended | Event::Failed(_)) {}
    }
}

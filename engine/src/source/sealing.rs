//! Agreeing on a recovery point, and leaving.
//!
//! Guarantees: a recovery point is recorded here when the target says it has recorded the very same one,
//! which it does only when it has computed the same root digest. What was recorded is durable.

use super::*;
use crate::plan::DetachedChange;

/// What a recovery point is to be made of, besides what the catalog has.
#[derive(Debug)]
pub(super) struct Sealing {
    pub(super) sequence: u64,
    /// When the walk began, in milliseconds since 1970-01-01 UTC.
    pub(super) started: i64,
    pub(super) exceptions: u64,
    pub(super) identity: RootIdentity,
    /// The target's tree.
    pub(super) tree: StoreId,
}

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

impl<S: Storage> Source<'_, S> {
    /// Agrees on the recovery point; `None` when the target's root differs.
    pub(super) fn seal(
        &mut self,
        wanted: &Sealing,
        report: &mut SourceReport,
    ) -> Result<Option<RecoveryPoint>, SourceError> {
        let Sealing { sequence, started, exceptions, identity, tree } = *wanted;
        let (root, entries, bytes) = self.totals()?;
        let point =
            RecoveryPoint { sequence, time_unix_ms: started, root, entries, bytes, exceptions };
        let Some(sealed) = self.ask_for_seal(point)? else { return Ok(None) };
        let SourceReport { policies, by_policy, .. } = report;
        // A run of its own has everything, or names what it has not.
        let behind = &Behind::default();
        self.record_point(&sealed, Recorded { identity, policies, tree, by_policy, behind })?;
        Ok(Some(sealed))
    }

    /// R, the entries and the bytes of what the target is believed to hold.
    pub(super) fn totals(&self) -> Result<(RootDigest, u64, u64), SourceError> {
        Ok(self.config.profile.time(Stage::Seal, || {
            self.catalog.update(Durability::None, |t| {
                let root = t.seal()?;
                let (entries, bytes) = t.totals();
                Ok((root, entries, bytes))
            })
        })?)
    }

    /// Asks the target to record `point`; `None` when its root differs.
    pub(super) fn ask_for_seal(
        &mut self,
        point: RecoveryPoint,
    ) -> Result<Option<RecoveryPoint>, SourceError> {
        self.session.seal_sent();
        self.send(&Message::Seal(point))?;
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

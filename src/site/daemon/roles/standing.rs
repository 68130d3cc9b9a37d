//! Opening a site that is no standby: one that is stranded, or was reconciled when the other one was lost for good.
//!
//! Guarantees: its tree is opened as it stands, with what this site did itself; what a plan that is under way moved
//! aside is at its path again first, or named as what is not. Where the state folder is an old copy nothing is concluded
//! from what its catalog says. Refuses to go back to a point: none is kept.

use farshore_core::digest::RootDigest;
use farshore_core::recovery_point::RecoveryPoint;
use farshore_engine::history::Wanted;

use super::*;
use crate::site::daemon::failback::TakenBack;

impl Daemon {
    /// Whether there is no recovery point here that the tree could be at: only a standby has those, and one that
    /// was brought back by a plan, or whose state folder was an old copy, has none before the first session after it.
    pub(super) fn has_no_point(&self, share: &Share, record: &RoleRecord) -> bool {
        if record.phase != Phase::Standby || record.forgot {
            return true;
        }
        let config = self.config();
        let points = || {
            let catalog =
                self.state.site_catalog_as_it_is(&site_catalog(share, &config)).ok()??;
            catalog.reader().and_then(|reader| reader.points()).ok()
        };
        record.plan.is_some() && points().is_some_and(|points| points.is_empty())
    }

    /// A site that is no standby has one state that can be opened, which is that of its tree. What a plan that is
    /// under way did here is taken back, so that the tree is what this site made it.
    pub(super) fn as_it_stands(
        &self,
        share: &Share,
        record: &RoleRecord,
        at: Option<&Wanted>,
    ) -> Result<(failover::Settled, Option<failover::Stood>), Failure> {
        if at.is_some() {
            return Err(Failure::usage(
                format!(
                    "share '{}': it is {} here, no other state of it is kept",
                    share.name,
                    record.phase.name()
                ),
                "leave --at out: it is opened as its tree stands",
            ));
        }
        let mut stood = failover::Stood {
            phase: record.phase.name().to_owned(),
            is_old_copy: record.forgot,
            ..Default::default()
        };
        let plan = match record.phase {
            Phase::Reconciling { plan, .. } => Some(plan),
            // Carried out at the other site, and nothing came of it here yet.
            Phase::Standby => record.plan,
            _ => self.left_behind(share, record)?,
        };
        if let Some(plan) = plan
            && let Some((plan, done)) = self.take_back_alone(share, plan)
        {
            stood.plan = Some(plan);
            match done {
                Ok(TakenBack { back, kept, quarantine, .. }) => {
                    (stood.back, stood.kept, stood.quarantine) = (back, kept, quarantine);
                }
                // The site is needed: what could not be brought back is named.
                Err(failure) => stood.problem = Some(failure.message),
            }
        }
        let config = self.config();
        let catalog = self.state.site_catalog_as_it_is(&site_catalog(share, &config));
        let catalog = catalog.map_err(|e| Failure::new(Exit::Refused, &e))?;
        let refused = |e| crate::replicate::catalog_failure(&e);
        let (point, batch) = match &catalog {
            Some(catalog) => {
                let reader = catalog.reader().map_err(refused)?;
                let point = reader.recovery_point().map_err(refused)?;
                (point, reader.applied_batch().map_err(refused)?)
            }
            None => (None, 0),
        };
        // Without any the whole tree is at risk: T is the beginning of time.
        let point = point.unwrap_or(RecoveryPoint {
            sequence: 0,
            time_unix_ms: 0,
            root: RootDigest([0; 32]),
            entries: 0,
            bytes: 0,
            exceptions: 0,
        });
        Ok((failover::Settled { point, batch, undone: 0, failed: 0 }, Some(stood)))
    }
}

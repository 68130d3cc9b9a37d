//! A role's record is made durable.
//!
//! Guarantees: the marker below the share's root first, then the record, tried again until both are there; what is kept of a
//! failback plan that was carried out goes before the record that forgets it. Refuses to mark a root that is empty.

use super::*;

impl Daemon {
    /// Makes a record durable, the marker first; false only when the daemon stops.
    pub(super) fn persist(
        &self,
        role: &ShareRole,
        marker: Option<Stamp>,
        record: &RoleRecord,
    ) -> bool {
        let mut said = String::new();
        loop {
            let written = self.try_persist(role, marker, record);
            let Err(why) = written else { return true };
            if why != said {
                let text = format!("writing its record: {why}; tried again until it succeeds");
                self.say_of(&role.share, Level::Error, "role", text);
                said = why;
            }
            if let Some(share) = self.config().share(&role.share) {
                let board = self.board.share(&shown_share(share, Want::Nothing));
                board.state(facts::ShareState::Error, Some(&said));
            }
            self.pause(WRITE_AGAIN);
            if self.is_stopping() {
                return false;
            }
        }
    }

    fn try_persist(
        &self,
        role: &ShareRole,
        marker: Option<Stamp>,
        record: &RoleRecord,
    ) -> Result<(), String> {
        if let Some(stamp) = marker {
            let config = self.config();
            let share = config.share(&role.share).ok_or("it is not in the config")?;
            let storage = self.role_storage(share)?;
            let is_meant = self.slot(&role.share).is_some_and(|slot| slot.is_approved());
            if role.kept()? != Kept::Nothing && !is_meant && is_empty(&storage)? {
                return Err("its root is empty: is it mounted?".into());
            }
            write_marker(&storage, stamp)
                .map_err(|e| format!("the marker in its own folder: {e}"))?;
        }
        self.forget_carried_out(role, record)?;
        write_durably(&role.file, &record.encode())
            .map_err(|e| format!("{}: {e}", role.file.display()))
    }

    /// A plan that was carried out here is over with the epoch: nothing would say any more that it was, and what it
    /// moved aside would be taken back.
    fn forget_carried_out(&self, role: &ShareRole, record: &RoleRecord) -> Result<(), String> {
        let Kept::Found(former) = role.kept()? else { return Ok(()) };
        match former.plan.filter(|_| record.plan != former.plan) {
            Some(plan) => self.forget_plan(&role.share, plan).map_err(|failure| failure.message),
            None => Ok(()),
        }
    }
}

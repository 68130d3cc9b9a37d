//! What of a sending end changes while it runs: its pace, its brake, who is important, the talk of keys of its session.
//!
//! Guarantees: what a reload changes is in force for the next cut; what the brake holds stays held.

use super::*;

/// What of the config may change while the share is sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub(super) settle: Duration,
    pub(super) scan: Duration,
}

impl Sender {
    /// Goes on by another pace and another brake. A look that is due sooner by it is.
    ///
    /// # Errors
    /// [`Failure`]; then the former brake judges on.
    pub fn reload(
        &self,
        settle: Duration,
        scan: Duration,
        brake: BrakeConfig,
        classes: Classes,
    ) -> Result<(), Failure> {
        self.brakes.reconfigure(brake)?;
        *self.classes.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(classes);
        *self.pace.lock().unwrap_or_else(PoisonError::into_inner) = Pace { settle, scan };
        let mut inner = self.lock();
        inner.next_look = inner.next_look.min(Instant::now() + scan);
        Ok(())
    }

    pub(super) fn pace(&self) -> Pace {
        *self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session that begins now talks of keys by `talk`.
    pub fn talks(&self, talk: KeyTalk) {
        *self.talk.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(talk));
    }

    pub(super) fn talk(&self) -> Option<Arc<KeyTalk>> {
        self.talk.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

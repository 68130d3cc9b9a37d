//! Commands that take long have a share one after the other.
//!
//! Guarantees: one at a time; who would have to wait long is told at once what is under way, and may try again. What
//! is under way goes on whatever becomes of whoever asked for it.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::exit::{Exit, Failure};

/// How long a command waits for one that is nearly done.
pub(in crate::site::daemon) const SHORTLY: Duration = Duration::from_secs(2);
/// How long one waits that has nobody who could type it again, or no time to.
pub(in crate::site::daemon) const LONG: Duration = Duration::from_secs(60);

/// Whose turn it is.
#[derive(Debug, Default)]
pub(in crate::site::daemon) struct Commanding {
    running: Mutex<Option<(&'static str, Instant)>>,
    over: Condvar,
}

/// As long as it is there nobody else has the share.
#[derive(Debug)]
pub(in crate::site::daemon) struct Turn<'a>(&'a Commanding);

impl Commanding {
    fn lock(&self) -> MutexGuard<'_, Option<(&'static str, Instant)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins `what` in `share`.
    ///
    /// # Errors
    /// [`Failure`] when another one is not over within `patience`.
    pub(in crate::site::daemon) fn begin(
        &self,
        share: &str,
        what: &'static str,
        patience: Duration,
    ) -> Result<Turn<'_>, Failure> {
        let waited = self.over.wait_timeout_while(self.lock(), patience, |r| r.is_some());
        let (mut running, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if let Some((other, since)) = *running {
            let seconds = since.elapsed().as_secs();
            return Err(Failure {
                exit: Exit::Busy,
                message: format!(
                    "share '{share}': {what}: {other} is under way, for {seconds} s so far"
                ),
                hint: Some("it goes on by itself; try again when it is over".into()),
            });
        }
        *running = Some((what, Instant::now()));
        Ok(Turn(self))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.lock() = None;
        self.0.over.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_its_turn_and_the_next_is_told_who() {
        let commanding = Commanding::default();
        let apply = commanding.begin("homes", "failback apply", SHORTLY).expect("its turn");
        let refused = commanding.begin("homes", "failback plan", Duration::ZERO);
        let failure = refused.expect_err("it is not its turn");
        assert_eq!(failure.exit, Exit::Busy);
        assert!(failure.message.contains("failback apply is under way"), "{}", failure.message);
        std::thread::scope(|s| {
            let waits = s.spawn(|| commanding.begin("homes", "failback decide", LONG).map(drop));
            drop(apply);
            assert!(waits.join().expect("no panic").is_ok());
        });
        assert!(commanding.begin("homes", "failback plan", Duration::ZERO).is_ok());
    }
}

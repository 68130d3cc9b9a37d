//! The last cut before a share is handed over: everything that was written is at the standby, or it is said what
//! is not.
//!
//! Guarantees: a drain ends only with a point whose time is later than its begin, without exceptions, with
//! nothing held and nothing waiting, twice in a row with a pause between: the services are stopped, and nobody
//! else writes. What a policy leaves here or defers stays here, and is said. Otherwise it goes on, and says
//! what it waits for; it never gives up by itself, whoever asked may.

use super::*;

/// Nothing may change for so long.
const QUIET: Duration = Duration::from_secs(1);
/// How long a point may take before it is said that it takes long.
const POINT_PATIENCE: Duration = Duration::from_secs(10);

impl Sender {
    /// Makes cuts until everything is at the standby; `None` when it is `over` before. What it waits for is given
    /// to `waits`.
    pub fn drain(
        &self,
        over: &dyn Fn() -> bool,
        waits: &dyn Fn(Option<String>),
    ) -> Option<RecoveryPoint> {
        let began = now_ms();
        let mut quiet: Option<(u64, Instant)> = None;
        // Events that were lost, or are reported by nobody, are made good by a look at everything.
        if !self.lock().covered {
            self.dirty.mark_whole("the share is handed over", began);
        }
        while !over() && !self.is_stopping() {
            let point = match self.cut_now(None, POINT_PATIENCE) {
                Ok(point) => point,
                Err(failure) => {
                    quiet = None;
                    waits(Some(failure.message));
                    self.pause(over);
                    continue;
                }
            };
            let marks = self.dirty.status().marks;
            if let Some(why) = self.unfinished(&point, began) {
                quiet = None;
                waits(Some(why));
                self.pause(over);
                continue;
            }
            match quiet {
                Some((then, since)) if then == marks && since.elapsed() >= QUIET => {
                    waits(None);
                    return Some(point);
                }
                Some((then, _)) if then == marks => {}
                _ => quiet = Some((marks, Instant::now())),
            }
            waits(Some("it is looked at once more whether nobody writes to the share".into()));
            self.pause(over);
        }
        None
    }

    /// What a person is to decide before anything of it is sent; a drain would wait for that.
    #[must_use]
    pub fn held(&self) -> Option<String> {
        let held = self.brakes.withheld().len();
        match () {
            () if held > 0 || self.brakes.holds_share() => {
                Some(format!("the brake holds {}: approve or reject it", held.max(1)))
            }
            () if self.lock().guard_hold.is_some() => Some("the guard holds the share".into()),
            () => None,
        }
    }

    fn pause(&self, over: &dyn Fn() -> bool) {
        let until = Instant::now() + QUIET / 4;
        while Instant::now() < until && !over() && !self.is_stopping() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What of the share is not at the standby at `point`.
    fn unfinished(&self, point: &RecoveryPoint, began: i64) -> Option<String> {
        let dirty = self.dirty.status();
        if let Some(held) = self.held() {
            return Some(held);
        }
        let inner = self.lock();
        let looked = inner.rotation.as_ref().map(|rotation| 100.0 * rotation.done());
        let first = inner.troubled.keys().next();
        let turns = ahead::turns(&inner.lags);
        Some(match () {
            () if dirty.gone.is_some() => "the root of the share is not there".into(),
            () if looked.is_some() || inner.whole.is_some() || dirty.whole.is_some() => {
                format!("the whole share is looked at: {:.0} %", looked.unwrap_or(0.0))
            }
            () if first.is_some() => format!(
                "{} entries could not be replicated, the first is {}",
                inner.troubled.len(),
                first.map_or_else(String::new, ToString::to_string)
            ),
            () if turns > 0 => format!("{turns} accounts wait for their turn"),
            () if !inner.ahead.is_empty() => format!(
                "a large file is on its way, for which {} waits",
                inner.ahead.keys().next().map_or_else(String::new, ToString::to_string)
            ),
            () if point.exceptions > 0 => {
                format!("the last point does not vouch for {} entries", point.exceptions)
            }
            () if point.time_unix_ms < began => {
                "the last point is older than the end of the services".into()
            }
            () if !dirty.accounts.is_empty() => "changes wait to be sent".into(),
            () => return None,
        })
    }
}

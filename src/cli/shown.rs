//! Progress while a run goes on: one line rewritten on a terminal, plain lines elsewhere.
//!
//! It forecasts an end only from what was seen to advance, and only a near one.

use std::io::Write;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use farshore_core::size::HumanBytes;
use farshore_engine::progress::{Phase, Progress};

/// Without a terminal: the first line, then one so often.
const FIRST_LINE: Duration = Duration::from_secs(2);
const LINE_EVERY: Duration = Duration::from_secs(10);
/// On a terminal.
const REDRAWN_EVERY: Duration = Duration::from_millis(250);

/// What was seen for less time than this says nothing of the rest.
const SEEN_MIN: Duration = Duration::from_secs(2);
/// An end further away is a guess that helps nobody.
const FORECAST_MAX_S: f64 = 24.0 * 3_600.0;

/// Shows `progress` until the other end of `done` is dropped.
pub(super) fn show(progress: &Progress, done: &Receiver<()>, terminal: bool) {
    let mut every = if terminal { REDRAWN_EVERY } else { FIRST_LINE };
    let mut replicating: Option<Instant> = None;
    let mut shown = false;
    while done.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
        if progress.phase() == Phase::Replicating {
            // Seen at most one line late.
            replicating.get_or_insert_with(Instant::now);
        }
        let line = line(progress, replicating.map_or(Duration::ZERO, |since| since.elapsed()));
        let mut err = std::io::stderr().lock();
        // A terminal that went away does not stop a run.
        drop(if terminal { write!(err, "\r\x1b[K{line}") } else { writeln!(err, "{line}") });
        drop(err.flush());
        shown = true;
        every = if terminal { REDRAWN_EVERY } else { LINE_EVERY };
    }
    if shown && terminal {
        drop(write!(std::io::stderr(), "\r\x1b[K"));
    }
}

/// The line, when changes have been replicated for `elapsed`.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn line(progress: &Progress, elapsed: Duration) -> String {
    let get = |counter: &AtomicU64| counter.load(Relaxed);
    match progress.phase() {
        Phase::Connecting | Phase::Scanning => format!(
            "scanning: {} entries here, {} checked at the target",
            get(&progress.scanned),
            get(&progress.checked)
        ),
        Phase::Comparing => "comparing the two trees".into(),
        Phase::Sealing => "sealing the recovery point".into(),
        Phase::Replicating => {
            let (done, planned) = (get(&progress.done), get(&progress.planned));
            let (read, of) = (get(&progress.read_bytes), get(&progress.planned_bytes));
            let sent = get(&progress.literal_bytes);
            let seconds = elapsed.as_secs_f64();
            let rate = if elapsed < SEEN_MIN { 0.0 } else { sent as f64 / seconds };
            let at_rate = match rate as u64 {
                0 => String::new(),
                rate => format!(", {}/s", HumanBytes(rate)),
            };
            // Files and bytes each have their cost; the slower of the two says when it ends.
            let part = |done: u64, of: u64| if of == 0 { 1.0 } else { done as f64 / of as f64 };
            let left = forecast(part(done, planned).min(part(read, of)), elapsed)
                .map_or_else(String::new, |left| format!(", {left} left"));
            format!(
                "{done} of {planned} changes, {} of {} read, {} sent{at_rate}{left}",
                HumanBytes(read),
                HumanBytes(of),
                HumanBytes(sent),
            )
        }
    }
}

/// The time left when `part` took `elapsed`, unless that says too little. When all is read nothing is
/// known of what is still to be sent.
fn forecast(part: f64, elapsed: Duration) -> Option<String> {
    if elapsed < SEEN_MIN || part <= 0.0 || part >= 1.0 {
        return None;
    }
    let left = elapsed.as_secs_f64() * (1.0 - part) / part;
    match left {
        _ if left > FORECAST_MAX_S => None,
        _ if left >= 7_200.0 => Some(format!("{:.0} h", left / 3_600.0)),
        _ if left >= 120.0 => Some(format!("{:.0} min", left / 60.0)),
        _ => Some(format!("{:.0} s", left.max(1.0))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_forecast_from_what_was_seen_and_no_further_than_a_day() {
        let s = Duration::from_secs;
        assert_eq!(forecast(0.5, s(10)).as_deref(), Some("10 s"));
        assert_eq!(forecast(0.999, s(10)).as_deref(), Some("1 s"));
        assert_eq!(forecast(0.01, s(10)).as_deref(), Some("16 min"));
        assert_eq!(forecast(0.001, s(10)).as_deref(), Some("3 h"));
        for (part, elapsed) in [(0.0, s(10)), (1e-6, s(10)), (1.0, s(10)), (0.5, s(1))] {
            assert_eq!(forecast(part, elapsed), None, "{part} {elapsed:?}");
        }
    }
}

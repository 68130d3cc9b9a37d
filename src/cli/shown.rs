//! Progress while a run goes on: one line rewritten on a terminal, plain lines elsewhere.

use std::io::Write;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use farshore_core::size::HumanBytes;
use farshore_engine::progress::{Phase, Progress};

/// Shows `progress` until the other end of `done` is dropped.
pub(super) fn show(progress: &Progress, done: &Receiver<()>, terminal: bool) {
    let every = if terminal { Duration::from_millis(250) } else { Duration::from_secs(10) };
    let start = Instant::now();
    let mut shown = false;
    while done.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
        let line = line(progress, start.elapsed());
        let mut err = std::io::stderr().lock();
        // A terminal that went away does not stop a run.
        drop(if terminal { write!(err, "\r\x1b[K{line}") } else { writeln!(err, "{line}") });
        drop(err.flush());
        shown = true;
    }
    if shown && terminal {
        drop(write!(std::io::stderr(), "\r\x1b[K"));
    }
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn line(progress: &Progress, elapsed: Duration) -> String {
    let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Relaxed);
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
            let (bytes, of) = (get(&progress.read_bytes), get(&progress.planned_bytes));
            let seconds = elapsed.as_secs_f64().max(0.001);
            let rate = bytes as f64 / seconds;
            // Files and bytes each have their cost; the slower of the two says when it ends.
            let part = |done: u64, of: u64| if of == 0 { 1.0 } else { done as f64 / of as f64 };
            let part = part(done, planned).min(part(bytes, of)).max(1e-6);
            let left = (seconds / part - seconds).max(0.0);
            format!(
                "{done} of {planned} changes, {} of {}, {}/s, {:.0} s left",
                HumanBytes(bytes),
                HumanBytes(of),
                HumanBytes(rate as u64),
                left
            )
        }
    }
}

//! Which way a batch goes, found by going both.
//!
//! Guarantees: a way is chosen on what both took on this very mount, in this very run, and looked at
//! again as it goes on, since a tree that was cold is warm later; plain calls win a tie, they take less
//! of the other threads' processors, and where they wait for nothing a ring is not tried at first: it has
//! nothing to win. Nothing is written or read for the sake of the measurement: files that are due anyway are
//! done either way.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rustix::io::Errno;

/// How many small files are read and created, as an operator wishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IoMode {
    /// The faster way, found by trying both.
    #[default]
    Auto,
    /// Plain system calls.
    Posix,
    /// io_uring wherever it can be had.
    Uring,
}

impl IoMode {
    /// Its name in options and output.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Posix => "posix",
            Self::Uring => "uring",
        }
    }
}

impl FromStr for IoMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Auto, Self::Posix, Self::Uring]
            .into_iter()
            .find(|mode| mode.name() == text)
            .ok_or_else(|| format!("'{text}': give auto, posix or uring"))
    }
}

/// How a batch is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Plain,
    Ring,
}

/// Files a batch has at least to tell anything.
const TELLING: usize = 16;
/// Batches each way gets before one is chosen.
const FIRST: u64 = 4;
/// Nanoseconds a file by plain calls that leave no time to wait for a disk or a server: a ring, which has many files wait at
/// once, wins nothing, and the batches that would tell are a good part of a small run.
const WAITS_FOR_NOTHING: u64 = 50_000;
/// One in so many batches then goes the other way.
const AGAIN: u64 = 64;
/// A ring has to take less than so many hundredths of what plain calls take: its kernel threads use
/// processors that the clock of the waiting thread does not show.
const WINS_BELOW: u64 = 80;

/// What one way took.
#[derive(Debug, Default)]
struct Pace {
    files: AtomicU64,
    /// Nanoseconds a file, of late. A shorter time counts for half; a longer one adds half of what was
    /// there at most, since a batch may be long for what others do: a sync, a busy processor.
    nanos: AtomicU64,
}

impl Pace {
    fn took(&self, files: u64, took: Duration) {
        self.files.fetch_add(files, Relaxed);
        let Some(now) = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).checked_div(files)
        else {
            return;
        };
        // Of two threads at the same moment one is forgotten: there are many more.
        let before = self.nanos.load(Relaxed);
        let after = match before {
            0 => now,
            _ if now <= before => now + (before - now) / 2,
            _ => now.min(before + before / 2),
        };
        self.nanos.store(after.max(1), Relaxed);
    }
}

/// Both ways of one verb.
#[derive(Debug, Default)]
pub(super) struct Trial {
    plain: Pace,
    ring: Pace,
    batches: AtomicU64,
}

impl Trial {
    /// The way the next batch goes.
    pub(super) fn way(&self, files: usize) -> Way {
        let better = self.better();
        if files < TELLING {
            return better;
        }
        let batch = self.batches.fetch_add(1, Relaxed);
        let plain = self.plain.nanos.load(Relaxed);
        let is_open = batch < 2 * FIRST || self.ring.nanos.load(Relaxed) == 0;
        if plain == 0 {
            return Way::Plain;
        }
        if is_open && plain > WAITS_FOR_NOTHING {
            return if batch.is_multiple_of(2) { Way::Plain } else { Way::Ring };
        }
        match better {
            Way::Plain if batch.is_multiple_of(AGAIN) => Way::Ring,
            Way::Ring if batch.is_multiple_of(AGAIN) => Way::Plain,
            better => better,
        }
    }

    pub(super) fn took(&self, way: Way, files: usize, took: Duration) {
        let pace = match way {
            Way::Plain => &self.plain,
            Way::Ring => &self.ring,
        };
        if files >= TELLING {
            pace.took(files as u64, took);
        } else {
            pace.files.fetch_add(files as u64, Relaxed);
        }
    }

    fn better(&self) -> Way {
        let (plain, ring) = (self.plain.nanos.load(Relaxed), self.ring.nanos.load(Relaxed));
        let wins = plain > 0
            && ring > 0
            && u128::from(ring) * 100 < u128::from(plain) * u128::from(WINS_BELOW);
        if wins { Way::Ring } else { Way::Plain }
    }

    pub(super) fn usage(&self) -> VerbUsage {
        let nanos = |pace: &Pace| Some(pace.nanos.load(Relaxed)).filter(|n| *n > 0);
        VerbUsage {
            plain_files: self.plain.files.load(Relaxed),
            ring_files: self.ring.files.load(Relaxed),
            plain_nanos: nanos(&self.plain),
            ring_nanos: nanos(&self.ring),
        }
    }
}

/// How the files of one verb went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VerbUsage {
    /// Files by plain calls.
    pub plain_files: u64,
    /// Files by io_uring.
    pub ring_files: u64,
    /// What one took of late by plain calls, in batches of some size.
    pub plain_nanos: Option<u64>,
    /// The same by io_uring.
    pub ring_nanos: Option<u64>,
}

/// How the small files of a storage were read and created.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IoUsage {
    /// What was wished.
    pub mode: IoMode,
    /// Why there is no io_uring, where there is none and it was wished or could be.
    pub refused: Option<String>,
    /// Reading.
    pub reads: VerbUsage,
    /// Creating.
    pub creates: VerbUsage,
}

impl fmt::Display for VerbUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chosen = match (self.plain_files, self.ring_files) {
            (0, 0) => return f.write_str("none"),
            (plain, ring) if plain >= ring => "plain calls",
            _ => "io_uring",
        };
        f.write_str(chosen)?;
        let way = |f: &mut fmt::Formatter<'_>, name, files, nanos: Option<u64>| {
            write!(f, "{name} {files} files")?;
            nanos.map_or(Ok(()), |n| write!(f, ", {:.1} us each", n as f64 / 1e3))
        };
        f.write_str(" (")?;
        way(f, "plain", self.plain_files, self.plain_nanos)?;
        f.write_str("; ")?;
        way(f, "io_uring", self.ring_files, self.ring_nanos)?;
        f.write_str(")")
    }
}

impl fmt::Display for IoUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.mode.name())?;
        if let Some(why) = &self.refused {
            write!(f, "; io_uring not used: {why}")?;
        }
        for (what, verb) in [("reading", &self.reads), ("creating", &self.creates)] {
            if verb.plain_files + verb.ring_files > 0 {
                write!(f, "; {what} small files: {verb}")?;
            }
        }
        Ok(())
    }
}

/// Why a ring is refused, for people.
pub(super) fn refusal(e: &io::Error) -> String {
    let known = [
        (Errno::PERM, "a filter of system calls (seccomp) or kernel.io_uring_disabled forbids it"),
        (Errno::ACCESS, "a security policy forbids it"),
        (Errno::NOSYS, "this kernel, or a filter of system calls, has none"),
        (Errno::NOMEM, "no memory for it; before Linux 5.12 RLIMIT_MEMLOCK bounds it"),
        (Errno::OPNOTSUPP, "this kernel is too old for it (5.6 is needed)"),
        (Errno::INVAL, "this kernel is too old for it (5.6 is needed)"),
    ];
    let code = e.raw_os_error();
    match known.iter().find(|(errno, _)| code == Some(errno.raw_os_error())) {
        Some((_, why)) => format!("{why} ({e})"),
        None => e.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(trial: &Trial, batches: usize, plain_us: u64, ring_us: u64) -> Vec<Way> {
        (0..batches)
            .map(|_| {
                let way = trial.way(100);
                let us = if way == Way::Plain { plain_us } else { ring_us };
                trial.took(way, 100, Duration::from_micros(us * 100));
                way
            })
            .collect()
    }

    #[test]
    fn both_are_tried_then_the_faster_is_taken() {
        for (plain, ring, chosen) in [(400, 200, Way::Ring), (200, 400, Way::Plain)] {
            let trial = Trial::default();
            let ways = run(&trial, 64, plain, ring);
            let rings = |w: &[Way]| w.iter().filter(|w| **w == Way::Ring).count();
            assert_eq!(rings(&ways[..8]), 4, "the first eight are shared");
            assert!(ways[8..].iter().all(|w| *w == chosen));
            assert_eq!(trial.usage().plain_nanos, Some(plain * 1_000));
            assert_eq!(trial.usage().ring_nanos, Some(ring * 1_000));
        }
    }

    #[test]
    fn a_batch_held_up_by_others_decides_nothing() {
        let trial = Trial::default();
        run(&trial, 10, 400, 600);
        trial.took(Way::Plain, 100, Duration::from_secs(1));
        let plain = trial.usage().plain_nanos.expect("measured");
        assert!(plain <= 600_000, "{plain}");
        // If it stays that slow, that is seen within a few batches.
        for _ in 0..16 {
            trial.took(Way::Plain, 100, Duration::from_secs(1));
        }
        assert_eq!(trial.better(), Way::Ring);
    }

    #[test]
    fn a_tie_is_for_plain_calls() {
        let trial = Trial::default();
        assert_eq!(trial.way(1), Way::Plain, "nothing is known yet");
        assert!(run(&trial, 64, 200, 170)[8..].iter().all(|w| *w == Way::Plain));
    }

    #[test]
    fn where_plain_calls_wait_for_nothing_a_ring_is_not_tried_at_first() {
        let trial = Trial::default();
        let ways = run(&trial, 128, 30, 90);
        assert!(ways[..64].iter().all(|w| *w == Way::Plain), "{ways:?}");
        assert_eq!(ways.iter().filter(|w| **w == Way::Ring).count(), 1, "once in a while it is");
    }

    #[test]
    fn what_is_cold_behind_what_was_warm_is_seen_at_once() {
        let trial = Trial::default();
        run(&trial, 20, 30, 900);
        let ways = run(&trial, 20, 900, 90);
        assert!(ways[8..].iter().all(|w| *w == Way::Ring), "{ways:?}");
    }

    #[test]
    fn what_changes_is_seen_later() {
        let trial = Trial::default();
        assert_eq!(run(&trial, 64, 400, 100)[63], Way::Ring);
        // What was cold is warm: the other way is tried again once in a while.
        assert_eq!(*run(&trial, 64 * 8, 5, 8).last().expect("some"), Way::Plain);
    }

    #[test]
    fn few_files_tell_nothing() {
        let trial = Trial::default();
        for way in [Way::Plain, Way::Ring] {
            trial.took(way, TELLING - 1, Duration::from_secs(1));
        }
        let usage = trial.usage();
        assert_eq!((usage.plain_nanos, usage.ring_nanos), (None, None));
        assert_eq!((usage.plain_files, usage.ring_files), (15, 15));
    }

    #[test]
    fn refusals_say_who_refuses() {
        let says = |e: Errno| refusal(&e.into());
        assert!(says(Errno::PERM).contains("kernel.io_uring_disabled"));
        assert!(says(Errno::NOSYS).contains("kernel"));
        assert!(says(Errno::NOMEM).contains("RLIMIT_MEMLOCK"));
        assert!(says(Errno::INVAL).contains("too old"));
        assert_eq!(says(Errno::IO), io::Error::from(Errno::IO).to_string());
    }
}

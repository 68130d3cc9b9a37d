//! Where a run's time went: a table for people, an object for programs.
//!
//! A stage *binds* when its threads were in it nearly all the time of the run: making it faster makes
//! the run faster. When the processors were busy nearly all the time, they bind, whatever the stage.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use farshore_engine::profile::{Profile, Stage};
use serde_json::{Value, json};

/// A stage or the processors bind above this share of what they could have done.
const BINDS: f64 = 0.85;

/// What a run used beside its stages.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// How long it took.
    pub took: Duration,
    /// Processor time of the process, all threads.
    pub cpu: Duration,
    /// Processors it could use.
    pub processors: usize,
    /// Threads that ingest, and as many that stage.
    pub workers: usize,
}

/// What the clocks said when a run began: a process may have run before.
#[derive(Debug, Clone, Copy)]
pub struct Meter {
    begun: Instant,
    cpu: Duration,
}

impl Meter {
    /// A run begins.
    #[must_use]
    pub fn start() -> Self {
        Self { begun: Instant::now(), cpu: process_cpu() }
    }

    /// Since then.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// What this process used since then, of a run with so many workers at an end.
    #[must_use]
    pub fn usage(&self, workers: usize) -> Usage {
        Usage {
            workers,
            took: self.elapsed(),
            cpu: process_cpu().saturating_sub(self.cpu),
            processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        }
    }
}

fn process_cpu() -> Duration {
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(cpu.tv_sec).unwrap_or(0), u32::try_from(cpu.tv_nsec).unwrap_or(0))
}

fn threads(stage: Stage, usage: &Usage) -> usize {
    match stage {
        Stage::Ingest | Stage::Compress | Stage::Send => usage.workers,
        Stage::Receive | Stage::Stage | Stage::Queue => usage.workers,
        _ => 1,
    }
}

/// What bound the run: the processors, a stage, or nothing in particular.
fn binding(profile: &Profile, usage: &Usage) -> Option<&'static str> {
    let took = usage.took.as_secs_f64().max(1e-9);
    if usage.cpu.as_secs_f64() > BINDS * took * usage.processors as f64 {
        return Some("the processors");
    }
    let share =
        |stage| profile.of(stage).wall.as_secs_f64() / (took * threads(stage, usage) as f64);
    Stage::ALL
        .into_iter()
        .filter(|s| !s.waits_for_others())
        .map(|s| (s, share(s)))
        .filter(|(_, share)| *share > BINDS)
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(s, _)| s.name())
}

/// The table.
#[must_use]
pub fn text(profile: &Profile, usage: &Usage) -> String {
    let mut out = String::new();
    write_text(&mut out, profile, usage).unwrap_or(());
    out
}

fn write_text(out: &mut String, profile: &Profile, usage: &Usage) -> std::fmt::Result {
    let took = usage.took.as_secs_f64().max(1e-9);
    writeln!(
        out,
        "{:<12} {:>9} {:>9} {:>9} {:>7} {:>8}",
        "stage", "wall s", "cpu s", "waits s", "busy %", "entered"
    )?;
    let mut staged = Duration::ZERO;
    for stage in Stage::ALL {
        let time = profile.of(stage);
        if time.entered == 0 {
            continue;
        }
        staged += time.cpu;
        writeln!(
            out,
            "{:<12} {:>9.3} {:>9.3} {:>9.3} {:>7.1} {:>8}",
            stage.name(),
            time.wall.as_secs_f64(),
            time.cpu.as_secs_f64(),
            time.wall.saturating_sub(time.cpu).as_secs_f64(),
            100.0 * time.wall.as_secs_f64() / (took * threads(stage, usage) as f64),
            time.entered,
        )?;
    }
    let rest = usage.cpu.saturating_sub(staged).as_secs_f64();
    writeln!(out, "{:<12} {:>9} {rest:>9.3}", "link, rest", "")?;
    writeln!(
        out,
        "{:<12} {took:>9.3} {:>9.3} of {:.3} on {} processors; binding: {}",
        "run",
        usage.cpu.as_secs_f64(),
        took * usage.processors as f64,
        usage.processors,
        binding(profile, usage).unwrap_or("no single stage"),
    )
}

/// The object.
#[must_use]
pub fn json(profile: &Profile, usage: &Usage) -> Value {
    let stages: serde_json::Map<String, Value> = Stage::ALL
        .into_iter()
        .map(|stage| (stage, profile.of(stage)))
        .filter(|(_, time)| time.entered > 0)
        .map(|(stage, time)| {
            let fields = json!({
                "wall_seconds": time.wall.as_secs_f64(),
                "cpu_seconds": time.cpu.as_secs_f64(),
                "threads": threads(stage, usage),
                "entered": time.entered,
            });
            (stage.name().to_owned(), fields)
        })
        .collect();
    json!({
        "stages": stages,
        "cpu_seconds": usage.cpu.as_secs_f64(),
        "processors": usage.processors,
        "binding": binding(profile, usage),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(took_ms: u64, cpu_ms: u64) -> Usage {
        let (took, cpu) = (Duration::from_millis(took_ms), Duration::from_millis(cpu_ms));
        Usage { took, cpu, processors: 2, workers: 2 }
    }

    #[test]
    fn what_was_used_before_is_not_counted() {
        let first = Meter::start();
        while process_cpu() < first.cpu + Duration::from_millis(20) {}
        let second = Meter::start();
        // In this order: asking takes time as well.
        let later = second.usage(1).cpu;
        assert!(first.usage(1).cpu >= later + Duration::from_millis(20));
    }

    #[test]
    fn what_binds_is_named() {
        let profile = Profile::default();
        let entered = profile.enter(Stage::SyncTree);
        std::thread::yield_now();
        drop(entered);
        let wall = profile.of(Stage::SyncTree).wall;
        let whole = Usage { took: wall, cpu: Duration::ZERO, processors: 2, workers: 2 };
        assert_eq!(binding(&profile, &whole), Some("sync-tree"));
        let busy = Usage { took: wall, cpu: wall * 2, processors: 2, workers: 2 };
        assert_eq!(binding(&profile, &busy), Some("the processors"));
        let long = Usage { took: wall * 10, ..whole };
        assert_eq!(binding(&profile, &long), None);
        assert!(text(&profile, &whole).contains("binding: sync-tree"));
        assert_eq!(json(&profile, &long)["binding"], Value::Null);
        assert_eq!(json(&profile, &long)["stages"]["sync-tree"]["entered"], 1);
        assert_eq!(binding(&Profile::default(), &usage(100, 100)), None);
    }
}

//! `farshore policy bench`: what a policy costs.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use farshore_core::path::escape_text;
use farshore_core::policy::ReplicateAll;
use farshore_engine::OWN_FOLDER;
use farshore_engine::io::uring::IoMode;
use farshore_engine::scan::{ScanEvent, candidate, scan};
use farshore_policies::Configured;
use serde_json::json;

use super::{OneArgs, show};
use crate::exit::{Exit, Failure};
use crate::policy::facts::Facts;
use crate::policy::generate::{entries, words};
use crate::policy::library::Library;
use crate::replicate::{open_root, worker_threads};
use crate::report::counted;

/// How often each thing is done; the median is shown.
const ROUNDS: usize = 7;
const STARTS: usize = 201;
/// Entries a call, as the engine asks.
const BATCH: usize = 256;

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    #[command(flatten)]
    one: OneArgs,
    /// Ask about the entries of this tree
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Ask about this many entries that are made up; of a tree, about so many at most
    #[arg(long, value_name = "N", default_value_t = 100_000,
          value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    entries: u32,
    /// One JSON object on standard output (docs/output.md)
    #[arg(long)]
    json: bool,
}

struct Cost {
    entry_nanos: u128,
    call_micros: f64,
    fuel_entry: u64,
}

pub(super) fn run(args: &BenchArgs) -> Result<Exit, Failure> {
    let opened = args.one.open()?;
    let policy = opened.configure()?;
    // Without the cache, so that it is compiled; with it, as a run finds it.
    let compile = median(3, || Library::alone()?.load(&opened.chosen).map(drop))?;
    let load = median(ROUNDS, || opened.library.load(&opened.chosen).map(drop))?;
    let is_cached = opened.library.load(&opened.chosen)?.is_from_cache();
    let start = median(STARTS, || opened.configure().map(drop))?;
    let count = args.entries as usize;
    let asked = match &args.root {
        Some(root) => of_tree(root, count)?,
        None => entries(count, &words(&policy.manifest().rules), opened.at, 1),
    };
    let cost = policy.has_exclude().then(|| exclude(&policy, &asked));
    let faults = policy.take_faults();
    // What was not asked took no time: its figures would be of nothing.
    let is_off = policy.counters().is_off;
    let cost = cost.filter(|_| !is_off);
    let object = json!({
        "entries": asked.len(),
        "compile_ms": millis(compile),
        "load_ms": millis(load),
        "from_cache": is_cached,
        "start_us": micros(start),
        "entry_ns": cost.as_ref().map(|c| u64::try_from(c.entry_nanos).unwrap_or(u64::MAX)),
        "call_us": cost.as_ref().map(|c| c.call_micros),
        "fuel_entry": cost.as_ref().map(|c| c.fuel_entry),
        "faults": faults.count,
        "is_off": is_off,
    });
    let cached = if is_cached { "from the cache" } else { "not cached" };
    let mut text = format!(
        "compile {:.1} ms, load {:.2} ms {cached}, start and configure {:.1} us\n",
        millis(compile),
        millis(load),
        micros(start)
    );
    text.push_str(&match &cost {
        Some(cost) => format!(
            "exclude: {} ns and {} fuel an entry, {:.1} us a call of {BATCH}, over {} entries\n",
            cost.entry_nanos,
            cost.fuel_entry,
            cost.call_micros,
            asked.len()
        ),
        None if is_off => {
            let why = faults.first.last().map_or("", |fault| fault.text.as_str());
            format!("no figures: {}\n", escape_text(why))
        }
        None => "it decides conflicts alone: 'farshore policy test' shows the fuel of its cases\n"
            .into(),
    });
    if faults.count > 0 {
        let faults = counted(faults.count, "fault", "faults");
        text.push_str(&format!("{faults}: 'farshore policy check' names one\n"));
    }
    show(args.json, &object, &text);
    Ok(if faults.count == 0 { Exit::Done } else { Exit::Partial })
}

#[allow(clippy::cast_precision_loss)]
fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}

fn millis(time: Duration) -> f64 {
    micros(time) / 1e3
}

fn median(
    rounds: usize,
    mut step: impl FnMut() -> Result<(), Failure>,
) -> Result<Duration, Failure> {
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let start = Instant::now();
        step()?;
        times.push(start.elapsed());
    }
    times.sort();
    Ok(times[rounds / 2])
}

fn exclude(policy: &Configured, asked: &[Facts]) -> Cost {
    let candidates: Vec<_> = asked.iter().map(Facts::candidate).collect();
    let before = policy.counters();
    let (mut rounds, mut calls) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for batch in candidates.chunks(BATCH) {
            let call = Instant::now();
            drop(std::hint::black_box(policy.exclude(batch)));
            if batch.len() == BATCH {
                calls.push(call.elapsed());
            }
        }
        rounds.push(start.elapsed());
    }
    let after = policy.counters();
    rounds.sort();
    calls.sort();
    let call = calls.get(calls.len() / 2).or(rounds.first()).copied().unwrap_or_default();
    Cost {
        entry_nanos: rounds[ROUNDS / 2].as_nanos() / candidates.len().max(1) as u128,
        call_micros: micros(call),
        fuel_entry: (after.fuel - before.fuel) / (after.entries - before.entries).max(1),
    }
}

/// The first entries of a tree.
fn of_tree(root: &std::path::Path, count: usize) -> Result<Vec<Facts>, Failure> {
    let storage = open_root("root", root, IoMode::Posix, None)?;
    let mut found = Vec::new();
    // Enough is an end, not an error.
    let ended = scan(&storage, &ReplicateAll, OWN_FOLDER, worker_threads(), &mut |event| {
        if let ScanEvent::Entry { path, stat } = event
            && !path.is_root()
        {
            found.push(Facts::seen(&candidate(&path.to_path(), stat)));
        }
        if found.len() < count { Ok(()) } else { Err(()) }
    });
    ended.map(drop).unwrap_or(());
    match found.is_empty() {
        true => Err(Failure {
            exit: Exit::Refused,
            message: format!("root {}: there is nothing in it to ask about", root.display()),
            hint: None,
        }),
        false => Ok(found),
    }
}

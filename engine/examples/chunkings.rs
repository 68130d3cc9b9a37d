//! Compares the chunkings on files of yours: how long chunks are, what share is to be sent again after
//! edits, and what reading, cutting and hashing costs. `cargo run --release -p farshore-engine --example
//! chunkings FILE...`, files of at least 64 MiB that fit into memory; the times are the best of five.
#![allow(clippy::print_stdout, clippy::cast_precision_loss)]

use std::collections::HashSet;
use std::io::Read;
use std::time::{Duration, Instant};

use farshore_core::chunking::{Chunker, ChunkingId};
use farshore_core::recipe::{Extent, Recipe};
use rustix::time::{ClockId, clock_gettime};

const IDS: [ChunkingId; 4] =
    [ChunkingId::FastCdc64K, ChunkingId::Gear64K, ChunkingId::FastCdc256K, ChunkingId::Gear256K];

fn main() {
    let windows = [64, 128, 256, 512].map(|kib| kib << 10);
    for path in std::env::args().skip(1) {
        let data = std::fs::read(&path).expect("readable");
        println!("{path}: {} bytes", data.len());
        let (inserted, overwritten) = (insertions(&data), overwrites(&data));
        for id in IDS {
            let before = recipe(id, &mut &data[..], 256 << 10);
            let lens: Vec<f64> = before.extents.iter().map(|e| e.len() as f64).collect();
            let mean = lens.iter().sum::<f64>() / lens.len() as f64;
            let variance = lens.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / lens.len() as f64;
            let again = |after: &[u8]| to_send(&before, &recipe(id, &mut &*after, 256 << 10));
            println!(
                "  {:<12} mean {:6.1} KiB, deviation {:.2}; again after 8 B inserted a MiB {:5.2} %, \
                 4 KiB overwritten a MiB {:5.2} %",
                format!("{id:?}"),
                mean / 1024.0,
                variance.sqrt() / mean,
                again(&inserted),
                again(&overwritten),
            );
        }
        for id in IDS {
            for window in windows {
                let best = (0..5).map(|_| read_and_cut(&path, id, window)).min().expect("five");
                println!(
                    "  {:<12} read {} KiB at a time, cut, hash: CPU {:.3} s/GB, wall {:.3} s/GB",
                    format!("{id:?}"),
                    window >> 10,
                    best.0.as_secs_f64() * 1e9 / data.len() as f64,
                    best.1.as_secs_f64() * 1e9 / data.len() as f64,
                );
            }
        }
    }
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

fn read_and_cut(path: &str, id: ChunkingId, window: usize) -> (Duration, Duration) {
    let mut file = std::fs::File::open(path).expect("readable");
    let (used, start) = (cpu(), Instant::now());
    std::hint::black_box(recipe(id, &mut file, window));
    (cpu() - used, start.elapsed())
}

fn recipe(id: ChunkingId, from: &mut dyn Read, window: usize) -> Recipe {
    let mut chunker = Chunker::new(id, window);
    let mut recipe = Recipe { chunking: id, extents: Vec::new() };
    loop {
        let spare = chunker.spare();
        let len = spare.len().min(window);
        let read = from.read(&mut spare[..len]).expect("readable");
        chunker.filled(read);
        if read == 0 {
            chunker.finish();
        }
        while let Some(cut) = chunker.poll() {
            recipe.push(cut.extent);
        }
        if read == 0 {
            return recipe;
        }
    }
}

fn to_send(before: &Recipe, after: &Recipe) -> f64 {
    let held: HashSet<&Extent> = before.extents.iter().collect();
    let new =
        after.extents.iter().filter(|e| matches!(e, Extent::Chunk { .. }) && !held.contains(e));
    new.map(Extent::len).sum::<u64>() as f64 * 100.0 / after.size() as f64
}

/// SplitMix64.
fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*seed ^ (*seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn insertions(data: &[u8]) -> Vec<u8> {
    let mut seed = 7;
    let mut out = Vec::with_capacity(data.len() + data.len() / 1024);
    for part in data.chunks(1 << 20) {
        out.extend_from_slice(&next(&mut seed).to_le_bytes());
        out.extend_from_slice(part);
    }
    out
}

fn overwrites(data: &[u8]) -> Vec<u8> {
    let mut seed = 8;
    let mut out = data.to_vec();
    let places = out.len().saturating_sub(4_096) as u64;
    for _ in 0..data.len() >> 20 {
        let at = usize::try_from(next(&mut seed) % places).expect("within");
        out[at..at + 4_096].iter_mut().for_each(|b| *b = next(&mut seed).to_le_bytes()[0]);
    }
    out
}

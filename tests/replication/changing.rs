//! Files that change while they are read.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::sites::{Sites, put};

const BLOCK: usize = 4096;
const BLOCKS: u64 = 1024;

fn block(generation: u64, index: u64) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    for piece in block.chunks_exact_mut(16) {
        piece[..8].copy_from_slice(&generation.to_le_bytes());
        piece[8..].copy_from_slice(&index.to_le_bytes());
    }
    block
}

/// Stops the writers when the test ends, however it does.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// The order in which the writer stamps blocks: any that is not the reader's, forward or backward.
fn order() -> impl Iterator<Item = u64> {
    (0..BLOCKS).map(|step| (step * 389 + 7) % BLOCKS)
}

/// The generation the file was at when it was read: its state must be one it had, in which the first
/// so many blocks in the writer's order are of one generation and the rest of the one before. `None`
/// for a state it never had.
fn generation_of(path: &Path) -> Option<u64> {
    let content = fs::read(path).expect("its content");
    if content.len() as u64 != BLOCKS * BLOCK as u64 {
        return None;
    }
    let mut generations = order().map(|index| {
        let at = usize::try_from(index).expect("an index") * BLOCK;
        let bytes = &content[at..at + BLOCK];
        let generation = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
        (bytes == block(generation, index)).then_some(generation)
    });
    let first = generations.next()??;
    let mut current = first;
    for generation in generations {
        let generation = generation?;
        if generation != current && (current, generation) != (first, first - 1) {
            return None;
        }
        current = generation;
    }
    Some(first)
}

/// A writer stamps the blocks of a file with a generation number, pausing between two generations.
/// What arrives is a state the file had at one moment, never parts of several; when none could be
/// read, the former version stays and the file is listed.
#[test]
fn a_file_written_while_it_is_read_arrives_whole_or_not_at_all() {
    let sites = Sites::new();
    let file = sites.a.join("home/stamped");
    let whole =
        |generation| (0..BLOCKS).flat_map(move |i| block(generation, i)).collect::<Vec<_>>();
    put(&file, whole(1));
    put(&sites.a.join("home/quiet"), b"not disturbed");
    sites.run();
    let (stop, pause_ms) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut arrived, mut unstable) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let out = OpenOptions::new().write(true).open(&file).expect("the file");
            for generation in 2.. {
                for index in order() {
                    if stop.load(Relaxed) {
                        return;
                    }
                    out.write_all_at(&block(generation, index), index * BLOCK as u64)
                        .expect("written");
                }
                std::thread::sleep(Duration::from_millis(pause_ms.load(Relaxed)));
            }
        });
        let _stop = Stop(&stop);
        let mut former = 1;
        for round in 0..16u64 {
            // Now and then quiet for long enough to be read.
            pause_ms.store([0, 5, 60, 250][(round % 4) as usize], Relaxed);
            let run = sites.run_with(&sites.options());
            let generation = generation_of(&sites.b.join("home/stamped"));
            let Some(generation) = generation else {
                panic!("round {round}: a state arrived that the file never had");
            };
            let problems = run.problems();
            if problems.is_empty() {
                arrived += 1;
            } else {
                unstable += 1;
                assert_eq!(generation, former, "round {round}: listed, and yet not the former one");
                assert!(problems[0].contains("unstable"), "{problems:?}");
                assert!(problems[0].contains("home/stamped"), "{problems:?}");
                assert_eq!(run.sealed().exceptions, problems.len() as u64);
            }
            assert!(generation >= former, "round {round}: {generation} after {former}");
            former = generation;
        }
    });
    assert!(unstable > 0, "the writer never disturbed a run: this test shows nothing");
    assert!(arrived > 0, "no run ever found the file quiet");
    sites.run();
    sites.converged("after the writer stopped");
}

/// Files that appear, grow, vanish and change their kind while a run is under way harm neither the
/// run nor what stands still; when all is quiet, one run makes the target equal.
#[test]
fn a_busy_tree_is_equal_when_it_comes_to_rest() {
    let sites = Sites::new();
    for i in 0..300 {
        put(&sites.a.join(format!("still/{:02}/f{i}", i % 10)), i.to_string());
    }
    sites.run();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for worker in 0..2u64 {
            let (stop, a) = (&stop, &sites.a);
            scope.spawn(move || {
                let dir = a.join(format!("busy-{worker}"));
                let mut step = 0u64;
                while !stop.load(Relaxed) {
                    step += 1;
                    let name = |n: u64| dir.join(format!("n{}", n % 40));
                    put(&name(step), vec![b'x'; ((step * 977) % 90_000) as usize]);
                    drop(fs::rename(name(step), name(step * 7 + 3)));
                    drop(fs::remove_file(name(step * 5 + 1)));
                    drop(fs::rename(&dir, a.join(format!("was-{worker}-{}", step % 3))));
                    if step.is_multiple_of(9) {
                        drop(fs::remove_dir_all(a.join(format!("was-{worker}-1"))));
                    }
                    std::thread::sleep(Duration::from_micros(300));
                }
            });
        }
        let _stop = Stop(&stop);
        for round in 0..12 {
            let options = farshore::replicate::RunOptions { approved: true, ..sites.options() };
            let run = sites.try_run(&options);
            let run = run.unwrap_or_else(|e| panic!("round {round}: {}", e.message));
            run.sealed();
        }
    });
    sites.run_approved();
    sites.converged("at rest");
}

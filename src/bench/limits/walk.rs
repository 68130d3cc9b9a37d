//! A bare walk with statx: the least that finding "nothing changed" can cost.
//!
//! Guarantees: every entry below the root is listed and asked for its facts once, by raw system calls,
//! and nothing is kept of them but counts. Refuses to follow links; an error ends the walk.

use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, StatxFlags, open, statx};

use super::clock::thread_cpu_s;
use crate::bench::rng::to_f64;
use crate::bench::{BenchError, Context};

/// What a walk met, and what it cost.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub(crate) struct Walk {
    /// Entries, folders included.
    pub(crate) entries: u64,
    /// Regular files.
    pub(crate) files: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Wall seconds.
    pub(crate) wall_s: f64,
    /// CPU seconds of all threads.
    pub(crate) cpu_s: f64,
}

/// Folders that wait, and how many are being read.
#[derive(Default)]
struct Queue {
    waiting: Vec<PathBuf>,
    busy: usize,
    failed: bool,
}

/// Walks the tree with some threads.
pub(crate) fn walk(root: &Path, threads: usize) -> Result<Walk, BenchError> {
    let queue = Mutex::new(Queue { waiting: vec![root.to_owned()], ..Queue::default() });
    let wake = Condvar::new();
    let started = Instant::now();
    let parts: Vec<Result<Walk, BenchError>> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(|| work(&queue, &wake))).collect();
        let failed = || Err(BenchError::Panicked { step: "walk" });
        all.into_iter().map(|thread| thread.join().unwrap_or_else(|_| failed())).collect()
    });
    let mut sum = Walk { entries: 1, wall_s: started.elapsed().as_secs_f64(), ..Walk::default() };
    for part in parts {
        let part = part?;
        sum.entries += part.entries;
        sum.files += part.files;
        sum.bytes += part.bytes;
        sum.cpu_s += part.cpu_s;
    }
    Ok(sum)
}

fn work(queue: &Mutex<Queue>, wake: &Condvar) -> Result<Walk, BenchError> {
    let before = thread_cpu_s();
    let mut sum = Walk::default();
    let mut buffer = vec![MaybeUninit::uninit(); 64 << 10];
    let lock = || queue.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let mut held = lock();
        let folder = loop {
            if held.failed || (held.waiting.is_empty() && held.busy == 0) {
                wake.notify_all();
                sum.cpu_s = thread_cpu_s() - before;
                return Ok(sum);
            }
            match held.waiting.pop() {
                Some(folder) => break folder,
                None => held = wake.wait(held).unwrap_or_else(PoisonError::into_inner),
            }
        };
        held.busy += 1;
        drop(held);
        let read = read_folder(&folder, &mut buffer, &mut sum);
        let mut held = lock();
        held.busy -= 1;
        held.failed |= read.is_err();
        wake.notify_all();
        held.waiting.extend(read?);
    }
}

/// Lists a folder and asks for the facts of each entry; the folders in it are the answer.
fn read_folder(
    path: &Path,
    buffer: &mut [MaybeUninit<u8>],
    sum: &mut Walk,
) -> Result<Vec<PathBuf>, BenchError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = open(path, flags, Mode::empty()).map_err(std::io::Error::from);
    let folder = folder.at("open a folder", path)?;
    let mut below = Vec::new();
    let mut entries = RawDir::new(folder.as_fd(), buffer);
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(std::io::Error::from).at("list a folder", path)?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC;
        let facts = statx(folder.as_fd(), name, flags, StatxFlags::BASIC_STATS);
        let facts = facts.map_err(std::io::Error::from).at("read an entry of", path)?;
        sum.entries += 1;
        match FileType::from_raw_mode(facts.stx_mode.into()) {
            FileType::RegularFile => {
                sum.files += 1;
                sum.bytes += facts.stx_size;
            }
            FileType::Directory => {
                let name = std::os::unix::ffi::OsStrExt::from_bytes(name.to_bytes());
                below.push(path.join::<&std::ffi::OsStr>(name));
            }
            _ => {}
        }
    }
    Ok(below)
}

impl Walk {
    /// CPU seconds an entry.
    pub(crate) fn cpu_per_entry_s(&self) -> f64 {
        self.cpu_s / to_f64(self.entries.max(1))
    }
}

/// Walks often enough for a median: once cold, then three times.
pub(crate) fn measure(root: &Path, threads: usize) -> Result<Walk, BenchError> {
    let mut walks = Vec::new();
    walk(root, threads)?;
    for _ in 0..3 {
        walks.push(walk(root, threads)?);
    }
    walks.sort_by(|a, b| a.wall_s.total_cmp(&b.wall_s));
    Ok(walks[walks.len() / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_met_once_whatever_the_threads() {
        let folder = tempfile::tempdir().expect("temp folder");
        for outer in 0..20 {
            let inner = folder.path().join(format!("a{outer}/b"));
            std::fs::create_dir_all(&inner).expect("made");
            for name in 0..5 {
                std::fs::write(inner.join(name.to_string()), [0; 7]).expect("written");
            }
            std::os::unix::fs::symlink("/", inner.join("link")).expect("linked");
        }
        for threads in [1, 2, 3] {
            let found = walk(folder.path(), threads).expect("walked");
            assert_eq!((found.files, found.bytes), (100, 700));
            assert_eq!(found.entries, 1 + 20 * 2 + 100 + 20);
        }
        assert!(walk(&folder.path().join("none"), 2).is_err());
    }
}

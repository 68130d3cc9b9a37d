//! Times a walk of a tree: `bare`, the least a walk with statx can be, or `scan`, Farshore's own.
//!
//! `cargo run --release -p farshore-engine --example walk -- bare 2 DIR`; prints entries, wall and CPU
//! seconds. A bare walk shares a list of directories between its threads, keeps no order, holds no
//! names, and does with a file's facts nothing but count them.
#![allow(clippy::print_stdout)] // it reports

use std::error::Error;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use farshore_core::policy::ReplicateAll;
use farshore_engine::io::posix::PosixStorage;
use farshore_engine::scan::scan;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir, StatxFlags};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [how, threads, folder] = &arguments[..] else {
        return Err("usage: walk bare|scan THREADS DIR".into());
    };
    let threads = threads.parse()?;
    let (began, before) = (Instant::now(), cpu_seconds());
    let entries = match how.as_str() {
        "bare" => bare(Path::new(folder), threads)?,
        _ => scanned(Path::new(folder), threads)?,
    };
    let (wall, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds() - before);
    println!("{how} {threads} threads: {entries} entries, {wall:.3} s, {cpu:.3} s of CPU");
    Ok(())
}

fn scanned(folder: &Path, threads: usize) -> Result<u64, Box<dyn Error>> {
    let storage = PosixStorage::open(folder)?;
    let mut entries = 0;
    let held = scan(&storage, &ReplicateAll, b".farshore", threads, &mut |_| {
        entries += 1;
        Ok::<_, std::convert::Infallible>(())
    })?;
    println!("{held:?}");
    Ok(entries)
}

struct Shared {
    waiting: Mutex<Vec<(Option<Arc<OwnedFd>>, CString)>>,
    busy: AtomicUsize,
    entries: AtomicU64,
}

fn bare(folder: &Path, threads: usize) -> Result<u64, Box<dyn Error>> {
    let root = CString::new(folder.as_os_str().as_encoded_bytes())?;
    let shared = Shared {
        waiting: Mutex::new(vec![(None, root)]),
        busy: AtomicUsize::new(0),
        entries: AtomicU64::new(0),
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(|| walk(&shared))).collect();
        for thread in all {
            thread.join().map_err(|_| "a thread panicked")??;
        }
        Ok::<_, Box<dyn Error>>(())
    })?;
    Ok(shared.entries.into_inner())
}

fn walk(shared: &Shared) -> Result<(), rustix::io::Errno> {
    let mut buffer = Vec::<u8>::with_capacity(64 << 10);
    let mut below = Vec::new();
    loop {
        let next = {
            let mut waiting = shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let next = waiting.pop();
            if next.is_some() {
                shared.busy.fetch_add(1, Ordering::SeqCst);
            }
            next
        };
        let Some((parent, name)) = next else {
            if shared.busy.load(Ordering::SeqCst) == 0 {
                return Ok(());
            }
            std::thread::yield_now();
            continue;
        };
        let (directory, found) = one(parent.as_deref(), &name, &mut buffer, &mut below)?;
        shared.entries.fetch_add(found, Ordering::Relaxed);
        let mut waiting = shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.extend(below.drain(..).map(|name| (Some(Arc::clone(&directory)), name)));
        shared.busy.fetch_sub(1, Ordering::SeqCst);
    }
}

fn one(
    parent: Option<&OwnedFd>,
    name: &CString,
    buffer: &mut Vec<u8>,
    below: &mut Vec<CString>,
) -> Result<(Arc<OwnedFd>, u64), rustix::io::Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = match parent {
        Some(parent) => rustix::fs::openat(parent, name, flags | OFlags::NOFOLLOW, Mode::empty()),
        None => rustix::fs::openat(CWD, name, flags, Mode::empty()),
    }?;
    let mut found = 0;
    buffer.clear();
    let mut entries = RawDir::new(&directory, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let stat = rustix::fs::statx(&directory, name, flags, StatxFlags::BASIC_STATS)?;
        found += 1;
        if u32::from(stat.stx_mode) & 0o170_000 == 0o040_000 {
            below.push(name.to_owned());
        }
    }
    Ok((Arc::new(directory), found))
}

fn cpu_seconds() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    #[allow(clippy::cast_precision_loss)] // seconds of one run
    let seconds = now.tv_sec as f64 + now.tv_nsec as f64 / 1e9;
    seconds
}

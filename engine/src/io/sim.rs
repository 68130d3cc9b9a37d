//! A seeded disk in memory that loses what was not synced, tears writes and fails calls on demand.
//!
//! A [`SimDisk`] is a machine's disk; [`SimStorage`]s are roots on it, several at a time, and a
//! database can live beside them ([`SimDisk::database_file`]). The same seeds and the same calls in
//! the same order give the same disk, byte for byte, and the same [`SimDisk::trace`].
//!
//! What survives [`SimDisk::crash`] is what the contract promises and not more:
//! - `sync_file`: pages and facts of that file, not its name;
//! - `sync_directory`: creations, links, renames and removals in that directory, not the facts of
//!   what they name, nor the directory's own, nor its own name. With them go the operations they
//!   rest on: earlier ones on the same names, and the names of the other directories that something
//!   was moved from or to;
//! - `sync_all`: everything;
//! - of the rest, whatever the seed picks under the [`CrashModel`].
//!
//! Two liberties real systems do not take are not taken here either. A rename is one operation: its
//! object keeps the old name or gets the new one, and is not lost with a directory that was itself
//! never durable. And a page that was overwritten in place is old or new, or, in the hostile model,
//! old and new by sectors of 512 bytes; it reads zero only if it had never been durable, or if
//! [`SimConfig::zero_overwritten_pages`] asks for worse.
//!
//! Refuses to model: permissions (the caller is root), access times, concurrency inside one call.
//! The calls follow Linux in what the engine can see: errors, ctime, link counts, setuid bits.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farshore_core::entry::Timestamp;
use rustix::io::Errno;

mod content;
mod crash;
mod database;
mod faults;
mod log;
mod snapshot;
mod state;
mod storage;
mod trace;
mod tree;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod system_tests;

pub use database::SimDatabaseFile;
pub use faults::Fault;
pub use snapshot::SimEntry;
pub use storage::{SimDirectory, SimFile, SimStorage};

use state::State;
use tree::{Entries, Node, ROOT};

/// Which un-synced operations a crash keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CrashModel {
    /// As on a journaling file system: names, facts and sizes are kept up to some point of their
    /// global order; pages are kept or lost each on its own.
    Ordered,
    /// Each of names, facts, sizes and pages is kept or lost on its own, as long as what it rests on
    /// is there.
    #[default]
    Hostile,
}

/// What a disk is like.
#[derive(Debug, Clone)]
pub struct SimConfig {
    /// The seed of everything drawn.
    pub seed: u64,
    /// What a crash keeps.
    pub crash_model: CrashModel,
    /// The clock at the start.
    pub start: Timestamp,
    /// How far each operation moves the clock.
    pub tick_nanos: u64,
    /// Space for content, in whole pages of 4 KiB.
    pub capacity_bytes: u64,
    /// How many inodes there can be, the root among them.
    pub capacity_inodes: u64,
    /// How many names an inode can have.
    pub links_max: u64,
    /// Whether there are extended attributes.
    pub xattrs: bool,
    /// Bytes of names and values an inode's attributes can have.
    pub xattr_bytes_max: usize,
    /// Whether the number of a removed inode is given to the next one made.
    pub reuse_inodes: bool,
    /// Whether a listing says what kind a name is.
    pub listing_tells_kind: bool,
    /// Whether syncing a directory makes its own mode, owner, time and attributes durable, as Linux
    /// file systems do and the contract does not promise.
    pub directory_sync_covers_facts: bool,
    /// Whether a page overwritten in place may read zero after a crash. No file system does that and
    /// no database survives it.
    pub zero_overwritten_pages: bool,
    /// Lines the trace keeps, the newest; 0 for no trace.
    pub trace_max: usize,
    /// What statfs calls the file system.
    pub file_system: u64,
    /// Whether a sync moves the change time of what it writes back, as a server's may.
    pub sync_moves_ctime: bool,
    /// Small files it likes to be given at a time.
    pub batch_files: usize,
}

impl Default for SimConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            crash_model: CrashModel::default(),
            start: Timestamp { seconds: 1_700_000_000, nanos: 0 },
            tick_nanos: 1_000,
            capacity_bytes: 1 << 40,
            capacity_inodes: u64::MAX,
            links_max: 65_000,
            xattrs: true,
            xattr_bytes_max: 1 << 20,
            reuse_inodes: false,
            listing_tells_kind: true,
            directory_sync_covers_facts: false,
            zero_overwritten_pages: false,
            trace_max: 0,
            file_system: 0xef53,
            sync_moves_ctime: false,
            batch_files: 16,
        }
    }
}

/// A machine's disk. Clones are the same disk.
///
/// Paths are components joined by `/`, from the disk's root, which is the empty path.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimDisk")
    }
}

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new(config: SimConfig) -> Self {
        Self(Arc::new(Mutex::new(State::new(config))))
    }

    /// Another disk in the same state, so that one beginning serves many ends. Nothing is open on
    /// it; `config` says what it is like from here on, but for the clock, which goes on.
    #[must_use]
    pub fn fork(&self, config: SimConfig) -> Self {
        Self(Arc::new(Mutex::new(self.lock().fork(config))))
    }

    /// Makes a directory, and those above it, durable and without counting as an operation: the
    /// place of a root that was there before the test began.
    ///
    /// # Errors
    /// ENOTDIR when something else has one of the names.
    pub fn make_root(&self, path: impl AsRef<[u8]>) -> io::Result<()> {
        let mut state = self.lock();
        let mut here = ROOT;
        for name in path.as_ref().split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            here = match state.visible.child(here, name) {
                Some(child) if state.visible.is_directory(child) => child,
                Some(_) => return Err(Errno::NOTDIR.into()),
                None => {
                    let child = state.create(here, name, Node::Directory(Entries::new()), 0o755)?;
                    state.sync_directory(here);
                    child
                }
            };
        }
        Ok(())
    }

    /// Opens the directory at `path` as a root.
    ///
    /// # Errors
    /// ENOENT, ENOTDIR, ELOOP; EIO after a power cut.
    pub fn mount(&self, path: impl AsRef<[u8]>) -> io::Result<SimStorage> {
        if self.lock().faults.is_dead() {
            return Err(Errno::IO.into());
        }
        SimStorage::mount(self, path.as_ref())
    }

    /// Opens the file at `path` as a database's, or creates it, its name made durable: two
    /// operations. The directory must be there.
    ///
    /// # Errors
    /// As of opening, creating and syncing.
    pub fn database_file(&self, path: impl AsRef<[u8]>) -> io::Result<SimDatabaseFile> {
        self.mount("")?.database_file(path.as_ref())
    }

    /// Makes the directory at `path` a place where another file system is mounted: its device
    /// differs and it is not entered. Call with `false` to take that back.
    ///
    /// # Errors
    /// As of [`Self::mount`].
    pub fn set_mount_point(&self, path: impl AsRef<[u8]>, mounted: bool) -> io::Result<()> {
        let mut state = self.lock();
        let marked = std::mem::take(&mut state.mount_points);
        let found = state.walk(ROOT, path.as_ref());
        state.mount_points = marked;
        let id = found?;
        if mounted {
            state.mount_points.insert(id);
        } else {
            state.mount_points.remove(&id);
        }
        Ok(())
    }

    /// The power goes and comes back: the durable state and what `seed` picks of the rest is what
    /// there is now. Faults are disarmed, handles and mounts are dead (EIO).
    pub fn crash(&self, seed: u64) {
        let mut state = self.lock();
        crash::crash(&mut state, seed);
        state.note(format!("crash {seed}"));
    }

    /// The processes end and the machine goes on: what was done is there, durable or not as it was.
    /// Faults are disarmed, the power is back, handles and mounts are dead (EIO).
    pub fn end_processes(&self) {
        let mut state = self.lock();
        state.close_all();
        state.note("processes ended".to_owned());
    }

    /// Lets the `n`-th operation from now fail, 1 being the next. Operations are mutating calls and
    /// syncs, whether they succeed or not.
    pub fn fail_at(&self, n: u64, fault: Fault) {
        self.lock().faults.arm(n, fault);
    }

    /// Lets the `n`-th reading call from now fail, 1 being the next: opening, listing, stat, reading.
    pub fn fail_read_at(&self, n: u64, fault: Fault) {
        self.lock().faults.arm_read(n, fault);
    }

    /// Lets the power go during the `n`-th operation from now, 1 being the next: it and all later
    /// calls return EIO until [`Self::crash`], which decides whether it was done.
    pub fn cut_power_at(&self, n: u64) {
        self.lock().faults.cut_at(n);
    }

    /// Whether the power is gone and [`Self::crash`] is due.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.lock().faults.is_dead()
    }

    /// Remounts read-only: mutating calls return EROFS, syncs work.
    pub fn set_read_only(&self, read_only: bool) {
        self.lock().faults.read_only = read_only;
    }

    /// Changes the space there is.
    pub fn set_capacity_bytes(&self, capacity_bytes: u64) {
        self.lock().config.capacity_bytes = capacity_bytes;
    }

    /// Operations so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.lock().faults.operations()
    }

    /// Reading calls so far.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.lock().faults.reads()
    }

    /// Sets the clock; the next operation happens one tick later.
    pub fn set_time(&self, now: Timestamp) {
        self.lock().now = now;
    }

    /// The clock.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        self.lock().now
    }

    /// The operations so far with their outcome, the newest [`SimConfig::trace_max`] of them.
    #[must_use]
    pub fn trace(&self) -> Vec<String> {
        self.lock().trace.iter().cloned().collect()
    }

    /// What is visible at `path` and below, the directory itself at the empty path. Works without
    /// power.
    ///
    /// # Errors
    /// ENOENT, ENOTDIR, ELOOP.
    pub fn snapshot_tree(&self, path: impl AsRef<[u8]>) -> io::Result<BTreeMap<Vec<u8>, SimEntry>> {
        let state = self.lock();
        let root = state.walk(ROOT, path.as_ref())?;
        Ok(snapshot::snapshot(&state.visible, root))
    }

    /// The bytes of the file at `path`, holes included. Works without power.
    ///
    /// # Errors
    /// ENOENT; EINVAL for what is no file.
    pub fn read_file(&self, path: impl AsRef<[u8]>) -> io::Result<Vec<u8>> {
        let path = path.as_ref();
        let state = self.lock();
        let (directory, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&b""[..], path),
        };
        let id = state.lookup(state.walk(ROOT, directory)?, name)?;
        let content = state.inode(id)?.content().ok_or(Errno::INVAL)?;
        let mut bytes = vec![0; usize::try_from(content.size()).map_err(|_| Errno::FBIG)?];
        content.read(0, &mut bytes);
        Ok(bytes)
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

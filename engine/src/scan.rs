//! Walking a tree in path order.
//!
//! Guarantees: entries come in the order of [`RelPath`], each once, whatever the number of threads.
//! Below a directory that could not be read nothing is reported, and the directory is: nobody may
//! conclude a deletion from it. Links are not followed, mount points below the root are reported and
//! not entered; every directory is opened by its name in its parent's handle. One thread alone makes
//! the same calls in the same order every time.
//!
//! Several threads open directories and look at what is in them, ahead of the one that is told. What
//! is held: up to [`BOUNDS`] of entries, of names, of directories and of handles; the names of one
//! directory of any size, the one whose turn it is, which is looked at piece by piece; and of each
//! directory above, its handle and the names of those of its subdirectories whose turn has not come.
//! The tree never.
//!
//! A part of the tree is walked by the same rules: all below a directory, or its children alone.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use farshore_core::entry::{DeviceNumber, EntryKind};
use farshore_core::path::{PathParts, RelPath};
use farshore_core::policy::{Candidate, Policy, Verdict};

use crate::io::{FileKind, Object, Stat, Storage};

mod names;
mod queue;
mod reader;

#[cfg(test)]
mod tests;

use queue::{Bounds, Next, Queue, Ready};
use reader::{Listing, Look, Reader, Room, Task, no_path};

/// How far reading goes ahead. An entry takes some 120 bytes, so all of it some 10 MiB. Pieces are
/// large, since two threads that look at names of one directory wait for its count of users.
const BOUNDS: Bounds =
    Bounds { entries: 64 << 10, piece: 4_096, directories: 128, names: 64 << 10, handles: 256 };

/// What a walk meets.
#[derive(Debug)]
pub enum ScanEvent<'a> {
    /// An entry that travels.
    Entry {
        /// Where.
        path: PathParts<'a>,
        /// Its facts.
        stat: &'a Stat,
    },
    /// An entry that does not travel, nor anything below it.
    Excluded {
        /// Where.
        path: RelPath,
        /// Whether it is a directory.
        is_directory: bool,
        /// The answer of the policy.
        verdict: Verdict,
    },
    /// What is at `path`, and below it, is unknown.
    Unknown {
        /// Where.
        path: RelPath,
        /// What was to be done.
        step: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// What a walk held at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// Entries looked at, or being looked at, and not yet reported.
    pub entries: usize,
    /// Names of directories opened and not yet wholly reported.
    pub names: usize,
    /// Directories opened and not yet wholly reported.
    pub directories: usize,
    /// Directories open, or as good as.
    pub handles: usize,
}

impl Held {
    pub(crate) fn max(self, other: Self) -> Self {
        Self {
            entries: self.entries.max(other.entries),
            names: self.names.max(other.names),
            directories: self.directories.max(other.directories),
            handles: self.handles.max(other.handles),
        }
    }
}

/// Walks the tree below `storage`'s root and gives each event to `visit`, on this thread. `threads`
/// read the tree, this one among them: it reads when there is nothing to report. The name `own` at
/// the root is Farshore's and is passed over. Answers the most that was held at once.
///
/// # Errors
/// Those of `visit`; what goes wrong in the tree is an event.
pub fn scan<S: Storage, E>(
    storage: &S,
    policy: &dyn Policy,
    own: &[u8],
    threads: usize,
    visit: &mut dyn FnMut(ScanEvent<'_>) -> Result<(), E>,
) -> Result<Held, E> {
    scan_within(BOUNDS, storage, policy, own, threads, visit)
}

fn scan_within<S: Storage, E>(
    bounds: Bounds,
    storage: &S,
    policy: &dyn Policy,
    own: &[u8],
    threads: usize,
    visit: &mut dyn FnMut(ScanEvent<'_>) -> Result<(), E>,
) -> Result<Held, E> {
    let root = match storage.stat(Object::Directory(storage.root())) {
        Ok(stat) => stat,
        Err(source) => {
            visit(ScanEvent::Unknown { path: RelPath::root(), step: "looking at it", source })?;
            return Ok(Held::default());
        }
    };
    visit(ScanEvent::Entry { path: PathParts::root(), stat: &root })?;
    let tree = Tree { storage, policy, own, device: root.device };
    walk(bounds, &tree, threads, &RelPath::root(), visit)
}

/// A tree that is walked in parts: from where on, and what is passed over.
pub(crate) struct Tree<'a, S> {
    /// The tree.
    pub(crate) storage: &'a S,
    /// What travels.
    pub(crate) policy: &'a dyn Policy,
    /// The name at the root that is Farshore's.
    pub(crate) own: &'a [u8],
    /// The device of the root: others are mounted.
    pub(crate) device: DeviceNumber,
}

/// Walks all below the directory `start`, itself not reported, as [`scan`] does below the root.
///
/// # Errors
/// Those of `visit`; what goes wrong in the tree is an event.
pub(crate) fn scan_below<S: Storage, E>(
    tree: &Tree<'_, S>,
    threads: usize,
    start: &RelPath,
    visit: &mut dyn FnMut(ScanEvent<'_>) -> Result<(), E>,
) -> Result<Held, E> {
    walk(BOUNDS, tree, threads, start, visit)
}

/// Looks at the direct children of the directory `start`, on this thread: opens it, lists it, looks at
/// each name, and goes no further.
///
/// # Errors
/// Those of `visit`; what goes wrong in the tree is an event.
pub(crate) fn scan_children<S: Storage, E>(
    tree: &Tree<'_, S>,
    start: &RelPath,
    visit: &mut dyn FnMut(ScanEvent<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let (room, stopped) = (Room::default(), AtomicBool::new(false));
    let reader = tree.reader(&stopped, &room);
    let (directory, names, first) = match reader.open_start(start, BOUNDS.piece) {
        Listing::Open { directory, names, first } => (directory, names, first),
        Listing::Unknown(path, step, source) => {
            return visit(ScanEvent::Unknown { path, step, source });
        }
    };
    let (path, len) = (Arc::clone(&directory.path), names.len());
    let entries =
        |found| Ready::Entries { path: Arc::clone(&path), names: Arc::clone(&names), found };
    report(entries(first.found), &room, visit)?;
    let mut from = len.min(BOUNDS.piece);
    while from < len {
        let to = len.min(from + BOUNDS.piece);
        report(entries(reader.look(&directory, &names, from..to).found), &room, visit)?;
        from = to;
    }
    Ok(())
}

impl<S: Storage> Tree<'_, S> {
    fn reader<'b>(&'b self, stopped: &'b AtomicBool, room: &'b Room) -> Reader<'b, S> {
        let Self { storage, policy, own, device } = *self;
        Reader { storage, policy, own, device, stopped, room }
    }
}

fn walk<S: Storage, E>(
    bounds: Bounds,
    tree: &Tree<'_, S>,
    threads: usize,
    start: &RelPath,
    visit: &mut dyn FnMut(ScanEvent<'_>) -> Result<(), E>,
) -> Result<Held, E> {
    let queue = Queue::new(bounds);
    let reader = tree.reader(&queue.stopped, &queue.room);
    queue.begin(reader.open_start(start, bounds.piece));
    thread::scope(|scope| {
        // Whatever ends this, an error or a panic of `visit`, no reader is to wait for more.
        let _stop = StopOnDrop(&queue);
        for _ in 1..threads {
            let reading = thread::Builder::new().name("scan".into()).spawn_scoped(scope, || {
                // It ends because it was told to, or by a panic, and then all of it does.
                let _stop = StopOnDrop(&queue);
                while let Some(task) = queue.task() {
                    read(&reader, &queue, bounds, task, false);
                }
            });
            if reading.is_err() {
                // Without further threads the walk goes on, on this one.
                break;
            }
        }
        consume(&reader, &queue, bounds, visit)
    })?;
    Ok(queue.most())
}

struct StopOnDrop<'a, D>(&'a Queue<D>);

impl<D> Drop for StopOnDrop<'_, D> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Does one task. What is due is read whatever its size.
fn read<S: Storage>(
    reader: &Reader<'_, S>,
    queue: &Queue<S::Directory>,
    bounds: Bounds,
    task: Task<S::Directory>,
    is_due: bool,
) {
    match task {
        Task::Open { id, parent, name } => {
            let names_max = (!is_due).then_some(bounds.names);
            match reader.open(Some(&parent), &name, bounds.piece, names_max) {
                Some(listing) => {
                    // Closed here, when it is closed, and not while all others wait.
                    let _directory = listing.directory();
                    queue.opened(id, listing);
                }
                None => queue.too_early(id, parent, name),
            }
        }
        Task::Look { id, directory, names, range } => {
            let piece = reader.look(&directory, &names, range.clone());
            queue.looked(id, range, piece);
        }
    }
}

/// Reports what comes, in order, and reads when nothing does.
fn consume<S: Storage, E>(
    reader: &Reader<'_, S>,
    queue: &Queue<S::Directory>,
    bounds: Bounds,
    visit: &mut dyn FnMut(ScanEvent<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut ready = Vec::new();
    loop {
        match queue.next(&mut ready) {
            Next::Report => {
                for item in ready.drain(..) {
                    report(item, &queue.room, visit)?;
                }
            }
            Next::Read(task, is_due) => read(reader, queue, bounds, task, is_due),
            Next::Done => return Ok(()),
            // The end of a walk proves what is gone. This is no end.
            Next::Broken => panic!("a thread that reads the tree is gone"),
        }
    }
}

fn report<E>(
    ready: Ready,
    room: &Room,
    visit: &mut dyn FnMut(ScanEvent<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let (parent, names, mut found) = match ready {
        Ready::Entries { path, names, found } => (path, names, found),
        Ready::Unknown(path, step, source) => {
            return visit(ScanEvent::Unknown { path, step, source });
        }
    };
    for (start, look) in &mut found {
        let path = match parent.child(names.get(*start)) {
            Ok(path) => path,
            Err(error) => {
                let (step, source) = no_path(error);
                visit(ScanEvent::Unknown { path: RelPath::clone(&parent), step, source })?;
                continue;
            }
        };
        match look {
            Look::Seen(stat) => visit(ScanEvent::Entry { path, stat }),
            Look::Excluded(verdict, kind) => {
                let is_directory = *kind == FileKind::Directory;
                let (path, verdict) = (path.to_path(), *verdict);
                visit(ScanEvent::Excluded { path, is_directory, verdict })
            }
            Look::Unknown(step, error) => {
                let source = std::mem::replace(error, io::ErrorKind::Other.into());
                visit(ScanEvent::Unknown { path: path.to_path(), step, source })
            }
        }?;
    }
    room.give_back(found);
    Ok(())
}

/// What a policy sees of a path with these facts.
#[must_use]
pub fn candidate<'a>(path: &'a RelPath, stat: &Stat) -> Candidate<'a> {
    Candidate {
        path,
        kind: match stat.kind {
            FileKind::Regular => EntryKind::File,
            FileKind::Directory => EntryKind::Directory,
            FileKind::Symlink => EntryKind::Symlink,
            FileKind::Fifo => EntryKind::Fifo,
            FileKind::Socket => EntryKind::Socket,
            FileKind::CharDevice => EntryKind::CharDevice,
            FileKind::BlockDevice => EntryKind::BlockDevice,
        },
        // What a directory or a link takes on its disk is no content, and not the same at both sites.
        size: if stat.kind == FileKind::Regular { stat.size } else { 0 },
        mtime: stat.mtime,
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
    }
}

//! What is still to be compared, shared by the workers.
//!
//! Guarantees: a directory is opened only when no names of an open one and no large file are
//! waiting, so that open directories are as many as workers and large files at most; directories
//! waiting to be opened are kept as names, deepest first. Ends when nothing waits and nobody works.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use farshore_core::path::RelPath;

use super::compare::Looked;
use super::worker::Opened;
use crate::io::Storage;

/// Names compared, and asked of the policy, at a time.
const BATCH: usize = 256;

/// Files set apart so that any worker can take them.
const LARGE_MAX: usize = 64;

/// A file worth a worker of its own.
pub(super) struct Large<A: Storage, B: Storage> {
    pub(super) directory: Arc<Opened<A, B>>,
    pub(super) path: RelPath,
    pub(super) looked: Looked,
}

/// One piece of work.
pub(super) enum Work<A: Storage, B: Storage> {
    /// The roots' own facts, then what is in them.
    Root,
    /// A directory of both trees, to be listed.
    Directory(RelPath),
    /// Some names of a listed directory.
    Names(Arc<Opened<A, B>>, Range<usize>),
    /// One file.
    Large(Box<Large<A, B>>),
}

struct State<A: Storage, B: Storage> {
    root: bool,
    large: Vec<Large<A, B>>,
    /// Listed directories, and how many of their names were given out.
    open: Vec<(Arc<Opened<A, B>>, usize)>,
    /// Directories to be listed: their parent and names, the next one last.
    waiting: Vec<(RelPath, Vec<Box<[u8]>>)>,
    busy: usize,
    stopped: bool,
}

/// The work that is left.
pub(super) struct Queue<A: Storage, B: Storage> {
    state: Mutex<State<A, B>>,
    changed: Condvar,
}

/// Held while a piece of work is done; more may come of it until it is dropped.
pub(super) struct Busy<'a, A: Storage, B: Storage>(&'a Queue<A, B>);

impl<A: Storage, B: Storage> Drop for Busy<'_, A, B> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.busy -= 1;
        if state.busy == 0 {
            self.0.changed.notify_all();
        }
    }
}

impl<A: Storage, B: Storage> Queue<A, B> {
    pub(super) fn new() -> Self {
        let state = State {
            root: true,
            large: Vec::new(),
            open: Vec::new(),
            waiting: Vec::new(),
            busy: 0,
            stopped: false,
        };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<A, B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next piece, waited for while others may still make some; `None` at the end.
    pub(super) fn take(&self) -> Option<(Work<A, B>, Busy<'_, A, B>)> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            if let Some(work) = state.next() {
                state.busy += 1;
                return Some((work, Busy(self)));
            }
            if state.busy == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Adds a listed directory.
    pub(super) fn push_open(&self, directory: Arc<Opened<A, B>>) {
        self.lock().open.push((directory, 0));
        self.changed.notify_all();
    }

    /// Adds directories to be listed, in the order of `names`.
    pub(super) fn push_waiting(&self, parent: &RelPath, mut names: Vec<Box<[u8]>>) {
        if names.is_empty() {
            return;
        }
        names.reverse();
        self.lock().waiting.push((parent.clone(), names));
        self.changed.notify_all();
    }

    /// Sets a file apart; gives it back when there are enough.
    pub(super) fn push_large(&self, large: Box<Large<A, B>>) -> Result<(), Box<Large<A, B>>> {
        let mut state = self.lock();
        if state.large.len() >= LARGE_MAX {
            return Err(large);
        }
        state.large.push(*large);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// No more work is given out.
    pub(super) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }
}

impl<A: Storage, B: Storage> State<A, B> {
    fn next(&mut self) -> Option<Work<A, B>> {
        if std::mem::take(&mut self.root) {
            return Some(Work::Root);
        }
        if let Some(large) = self.large.pop() {
            return Some(Work::Large(Box::new(large)));
        }
        while let Some((directory, given)) = self.open.last_mut() {
            let names = *given..directory.len().min(*given + BATCH);
            if names.is_empty() {
                self.open.pop();
                continue;
            }
            *given = names.end;
            return Some(Work::Names(Arc::clone(directory), names));
        }
        while let Some((parent, names)) = self.waiting.last_mut() {
            // That it is a path was seen when it was compared.
            match names.pop().map(|name| parent.join(&name)) {
                Some(Ok(path)) => return Some(Work::Directory(path)),
                Some(Err(_)) => {}
                None => drop(self.waiting.pop()),
            }
        }
        None
    }
}

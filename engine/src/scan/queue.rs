//! What was read of a tree and not yet reported, and what is to be read, in path order.
//!
//! ```text
//! items   [dir a: pieces][dir a/p: pieces][below a: q r s][dir b: being opened][below root: c d e]
//!          ^ the consumer takes what is ready here          readers take the first thing not taken
//! ```
//! Guarantees: the order of the items is that of the walk, whoever reads them. Readers keep to the
//! [`Bounds`]; the consumer does what stands first and was not taken by itself, whatever they say.
//! Who took a task waits for nobody until it is done. So there is always somebody who can go on.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use farshore_core::path::RelPath;

use super::Held;
use super::names::Names;
use super::reader::{Found, Listing, Opened, Piece, Room, Task};

/// How far ahead of the consumer readers go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Entries looked at and not yet reported.
    pub(super) entries: usize,
    /// Names looked at in one task.
    pub(super) piece: usize,
    /// Directories opened and not yet wholly reported.
    pub(super) directories: usize,
    /// Names of them, and of one directory read before its turn.
    pub(super) names: usize,
    /// Directories held open.
    pub(super) handles: usize,
}

/// Entries given to the consumer at once, beyond which it takes no more pieces.
const HANDFUL: usize = 4_096;

/// Something to report.
#[derive(Debug)]
pub(super) enum Ready {
    Entries { path: Arc<RelPath>, names: Arc<Names>, found: Vec<Found> },
    Unknown(RelPath, &'static str, io::Error),
}

/// What the consumer does next.
pub(super) enum Next<D> {
    /// Report what it was given.
    Report,
    /// Read; `true` when it is due now, whatever its size.
    Read(Task<D>, bool),
    /// All was reported.
    Done,
    /// A reader is gone before its time, and nobody knows what it would have found. Never to be
    /// taken for the end.
    Broken,
}

enum Item<D> {
    Directory {
        id: u64,
        directory: Directory<D>,
    },
    /// Subdirectories that were not taken yet.
    Below {
        parent: Arc<Opened<D>>,
        names: Names,
        next: usize,
    },
}

enum Directory<D> {
    /// Somebody is opening it.
    Taken,
    /// It is to be opened when it stands first.
    TooEarly(Arc<Opened<D>>, Box<[u8]>),
    Unknown(RelPath, &'static str, io::Error),
    Open(Open<D>),
}

struct Open<D> {
    path: Arc<RelPath>,
    /// Until all names were looked at.
    directory: Option<Arc<Opened<D>>>,
    names: Arc<Names>,
    /// Names given to readers, and pieces of them that are not back.
    given: usize,
    reading: usize,
    /// Pieces not yet reported, and how many were.
    pieces: VecDeque<Option<Vec<Found>>>,
    reported: usize,
    /// Subdirectories by piece.
    below: Vec<(usize, Names)>,
}

struct State<D> {
    items: VecDeque<Item<D>>,
    next_id: u64,
    /// Entries looked at, or being looked at, and not yet reported; names of directories opened;
    /// directories opened and not wholly reported; handles.
    now: Held,
    most: Held,
    /// Entries the consumer was given and is reporting.
    given: usize,
    readers_waiting: usize,
    consumer_waits: bool,
}

/// Shared by the consumer and the readers of one walk.
pub(super) struct Queue<D> {
    state: Mutex<State<D>>,
    more_to_read: Condvar,
    more_to_report: Condvar,
    bounds: Bounds,
    pub(super) stopped: AtomicBool,
    pub(super) room: Room,
}

impl<D> Queue<D> {
    pub(super) fn new(bounds: Bounds) -> Self {
        let state = State {
            items: VecDeque::new(),
            next_id: 0,
            now: Held::default(),
            most: Held::default(),
            given: 0,
            readers_waiting: 0,
            consumer_waits: false,
        };
        Self {
            state: Mutex::new(state),
            more_to_read: Condvar::new(),
            more_to_report: Condvar::new(),
            bounds,
            stopped: AtomicBool::new(false),
            room: Room::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<D>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins with the root as it was listed.
    pub(super) fn begin(&self, listing: Listing<D>) {
        let mut state = self.lock();
        let id = state.fresh_id();
        let nothing = Directory::Unknown(RelPath::root(), "", io::ErrorKind::Other.into());
        state.items.push_back(Item::Directory { id, directory: nothing });
        state.now.directories += 1;
        state.now.handles += 1;
        state.now.entries += self.bounds.piece;
        state.opened(id, listing, self.bounds.piece);
    }

    /// Ends all waiting: nobody will ask for more.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        drop(self.lock());
        self.more_to_read.notify_all();
        self.more_to_report.notify_all();
    }

    /// The most there was at once.
    pub(super) fn most(&self) -> Held {
        self.lock().most
    }

    /// A task for a reader; waits for one. `None` at the end.
    pub(super) fn task(&self) -> Option<Task<D>> {
        let mut state = self.lock();
        loop {
            if self.stopped.load(Ordering::Relaxed) {
                return None;
            }
            if let Some(task) = state.take(&self.bounds) {
                return Some(task);
            }
            state.readers_waiting += 1;
            state = self.more_to_read.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.readers_waiting -= 1;
        }
    }

    /// What the consumer does next, having reported all it was given before. Fills `ready`.
    pub(super) fn next(&self, ready: &mut Vec<Ready>) -> Next<D> {
        let mut state = self.lock();
        state.now.entries -= std::mem::take(&mut state.given);
        loop {
            // The consumer itself stops only when it asks no more.
            if self.stopped.load(Ordering::Relaxed) {
                return Next::Broken;
            }
            let first = state.first(ready, self.bounds.piece);
            self.wake_readers(&state);
            match first {
                First::Ready => return Next::Report,
                First::Nothing => return Next::Done,
                First::Broken => return Next::Broken,
                First::Due(task) => return Next::Read(task, true),
                // Better than to sleep: the first one is under way.
                First::UnderWay => {
                    if let Some(task) = state.take(&self.bounds) {
                        return Next::Read(task, false);
                    }
                }
            }
            state.consumer_waits = true;
            state = self.more_to_report.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.consumer_waits = false;
        }
    }

    /// What came of [`Task::Open`].
    pub(super) fn opened(&self, id: u64, listing: Listing<D>) {
        let mut state = self.lock();
        let index = state.opened(id, listing, self.bounds.piece);
        self.wake(&state, index);
    }

    /// The [`Task::Open`] of this directory is put off until it stands first.
    pub(super) fn too_early(&self, id: u64, parent: Arc<Opened<D>>, name: Box<[u8]>) {
        let mut state = self.lock();
        state.now.entries -= self.bounds.piece;
        let index = state.find(id);
        if let Some(Item::Directory { directory, .. }) =
            index.and_then(|index| state.items.get_mut(index))
        {
            *directory = Directory::TooEarly(parent, name);
        }
        self.wake(&state, index);
    }

    /// What came of [`Task::Look`] for the names in `range`.
    pub(super) fn looked(&self, id: u64, range: Range<usize>, piece: Piece) {
        let mut state = self.lock();
        // Names that were gone hold no room.
        state.now.entries -= range.len() - piece.found.len();
        let index = state.looked(id, range.start / self.bounds.piece, piece);
        self.wake(&state, index);
    }

    fn wake(&self, state: &State<D>, index: Option<usize>) {
        if state.consumer_waits && index == Some(0) {
            self.more_to_report.notify_one();
        }
        self.wake_readers(state);
    }

    /// Waking them for every bit of room would cost more than they do with it.
    fn wake_readers(&self, state: &State<D>) {
        let has_room = state.now.entries <= self.bounds.entries / 2
            && state.now.directories <= self.bounds.directories / 2;
        if state.readers_waiting > 0 && has_room && state.next_task(&self.bounds).is_some() {
            self.more_to_read.notify_all();
        }
    }
}

/// What stands first.
enum First<D> {
    Nothing,
    Ready,
    UnderWay,
    Due(Task<D>),
    Broken,
}

impl<D> State<D> {
    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn note_most(&mut self) {
        self.most = self.most.max(self.now);
    }

    /// The first task in path order, if the bounds allow it.
    fn take(&mut self, bounds: &Bounds) -> Option<Task<D>> {
        let index = self.next_task(bounds)?;
        self.take_at(index, bounds.piece)
    }

    fn next_task(&self, bounds: &Bounds) -> Option<usize> {
        let index = self.items.iter().position(Item::has_task)?;
        let has_room = self.now.entries + bounds.piece <= bounds.entries;
        let may_open = self.now.directories < bounds.directories
            && self.now.handles < bounds.handles
            && self.now.names < bounds.names;
        let is_open = matches!(self.items[index], Item::Directory { .. });
        (has_room && (is_open || may_open)).then_some(index)
    }

    fn take_at(&mut self, index: usize, piece: usize) -> Option<Task<D>> {
        match self.items.get_mut(index)? {
            Item::Directory { id, directory: Directory::Open(open) } => {
                let range = open.given..open.names.len().min(open.given + piece);
                let directory = Arc::clone(open.directory.as_ref()?);
                open.given = range.end;
                open.reading += 1;
                open.pieces.push_back(None);
                self.now.entries += range.len();
                let task = Task::Look { id: *id, directory, names: Arc::clone(&open.names), range };
                self.note_most();
                Some(task)
            }
            Item::Directory { .. } => None,
            Item::Below { parent, names, next } => {
                let (parent, name) = (Arc::clone(parent), Box::<[u8]>::from(names.nth(*next)));
                *next += 1;
                if *next == names.len() {
                    self.items.remove(index);
                    self.now.handles -= 1;
                }
                let id = self.fresh_id();
                self.items.insert(index, Item::Directory { id, directory: Directory::Taken });
                self.now.directories += 1;
                self.now.handles += 1;
                // Room for what it will look at first; corrected when that is known.
                self.now.entries += piece;
                self.note_most();
                Some(Task::Open { id, parent, name })
            }
        }
    }

    fn find(&self, wanted: u64) -> Option<usize> {
        self.items
            .iter()
            .position(|item| matches!(item, Item::Directory { id, .. } if *id == wanted))
    }

    fn opened(&mut self, id: u64, listing: Listing<D>, piece: usize) -> Option<usize> {
        let index = self.find(id)?;
        let Item::Directory { directory: slot, .. } = &mut self.items[index] else { return None };
        let (opened, names, first) = match listing {
            Listing::Unknown(path, step, error) => {
                *slot = Directory::Unknown(path, step, error);
                self.now.entries -= piece;
                self.now.handles -= 1;
                return Some(index);
            }
            Listing::Open { directory, names, first } => (directory, names, first),
        };
        self.now.entries = self.now.entries + first.found.len() - piece;
        self.now.names += names.len();
        let given = names.len().min(piece);
        *slot = Directory::Open(Open {
            path: Arc::clone(&opened.path),
            directory: Some(opened),
            names,
            given,
            reading: usize::from(given > 0),
            pieces: if given > 0 { VecDeque::from([None]) } else { VecDeque::new() },
            reported: 0,
            below: Vec::new(),
        });
        self.note_most();
        if given == 0 {
            self.finish_reading(index);
            return Some(index);
        }
        self.looked(id, 0, first)
    }

    fn looked(&mut self, id: u64, number: usize, piece: Piece) -> Option<usize> {
        let index = self.find(id)?;
        let Item::Directory { directory: Directory::Open(open), .. } = &mut self.items[index]
        else {
            return None;
        };
        // What is not reported is still there: only the consumer takes it away, and only when read.
        if let Some(slot) = open.pieces.get_mut(number - open.reported) {
            *slot = Some(piece.found);
        }
        if !piece.below.is_empty() {
            open.below.push((number, piece.below));
        }
        open.reading -= 1;
        if open.reading == 0 && open.given == open.names.len() {
            self.finish_reading(index);
        }
        Some(index)
    }

    /// All names of a directory were looked at: its subdirectories come next.
    fn finish_reading(&mut self, index: usize) {
        let Item::Directory { directory: Directory::Open(open), .. } = &mut self.items[index]
        else {
            return;
        };
        let mut parts = std::mem::take(&mut open.below);
        let Some(parent) = open.directory.take().filter(|_| !parts.is_empty()) else {
            self.now.handles -= 1;
            return;
        };
        parts.sort_unstable_by_key(|(number, _)| *number);
        let mut parts = parts.into_iter().map(|(_, names)| names);
        let mut names = parts.next().unwrap_or_default();
        for part in parts {
            // As many as the directory's names at most, which had room.
            names.append(&part);
        }
        self.items.insert(index + 1, Item::Below { parent, names, next: 0 });
    }

    /// Takes what can be reported from the front; then what stands there.
    fn first(&mut self, ready: &mut Vec<Ready>, piece: usize) -> First<D> {
        while self.given < HANDFUL {
            let Some(item) = self.items.front_mut() else { break };
            let directory = match item {
                Item::Directory { directory, .. } => directory,
                Item::Below { .. } => return self.due(ready, piece),
            };
            let is_over = match directory {
                Directory::Taken => return First::under_way(ready),
                Directory::TooEarly(..) => return self.due(ready, piece),
                Directory::Unknown(..) => true,
                Directory::Open(open) => {
                    while let Some(Some(found)) = open.pieces.front_mut() {
                        let found = std::mem::take(found);
                        open.pieces.pop_front();
                        open.reported += 1;
                        self.given += found.len();
                        let (path, names) = (Arc::clone(&open.path), Arc::clone(&open.names));
                        ready.push(Ready::Entries { path, names, found });
                    }
                    open.pieces.is_empty() && open.given == open.names.len()
                }
            };
            if !is_over {
                let is_read = matches!(directory, Directory::Open(open) if open.pieces.is_empty());
                return if is_read { self.due(ready, piece) } else { First::under_way(ready) };
            }
            self.now.directories -= 1;
            match self.items.pop_front() {
                Some(Item::Directory { directory: Directory::Open(open), .. }) => {
                    self.now.names -= open.names.len();
                }
                Some(Item::Directory {
                    directory: Directory::Unknown(path, step, error), ..
                }) => {
                    ready.push(Ready::Unknown(path, step, error));
                }
                _ => return First::Broken,
            }
        }
        if ready.is_empty() { First::Nothing } else { First::Ready }
    }

    /// The task that stands first, when all before it is reported.
    fn due(&mut self, ready: &[Ready], piece: usize) -> First<D> {
        if !ready.is_empty() {
            return First::Ready;
        }
        let task = match self.items.front_mut() {
            Some(Item::Directory { id, directory: slot @ Directory::TooEarly(..) }) => {
                match std::mem::replace(slot, Directory::Taken) {
                    Directory::TooEarly(parent, name) => {
                        self.now.entries += piece;
                        Some(Task::Open { id: *id, parent, name })
                    }
                    _ => None,
                }
            }
            _ => self.take_at(0, piece),
        };
        self.note_most();
        task.map_or(First::Broken, First::Due)
    }
}

impl<D> First<D> {
    fn under_way(ready: &[Ready]) -> Self {
        if ready.is_empty() { Self::UnderWay } else { Self::Ready }
    }
}

impl<D> Item<D> {
    fn has_task(&self) -> bool {
        match self {
            Self::Directory { directory: Directory::Open(open), .. } => {
                open.given < open.names.len()
            }
            Self::Directory { .. } => false,
            Self::Below { .. } => true,
        }
    }
}

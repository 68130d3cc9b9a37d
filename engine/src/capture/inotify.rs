//! Events by inotify, for where fanotify is refused: a watch for each directory, added as they appear.
//!
//! The order that loses nothing: a new directory is watched, then listed for directories below, which are
//! watched too, and only then is all of it marked. What was made before the watch is found by the look,
//! what was made after it has an event. A directory that moved is watched again at its new place, which
//! tells the kernel's number of it a new parent; one that moved out of the root loses its watches.
//!
//! Bounded by `fs.inotify.max_user_watches`: beyond, directories are left unwatched, said to be, and tried
//! again from time to time.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{AtFlags, Dir, FileType};
use rustix::io::{Errno, retry_on_intr};

use super::place::{Root, check_proc, is_own, proc_path};
use super::watcher::Batch;

/// Bytes read at once.
const BUFFER_LEN: usize = 256 << 10;
/// Unwatched directories that are named.
const UNWATCHED_MAX: usize = 1_000;

const MASK: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

// The bits of an event.
const ATTRIB: u32 = 0x4;
const MOVED_TO: u32 = 0x80;
const CREATE: u32 = 0x100;
const MOVE_SELF: u32 = 0x800;
const UNMOUNT: u32 = 0x2000;
const Q_OVERFLOW: u32 = 0x4000;
const IGNORED: u32 = 0x8000;
const IS_DIRECTORY: u32 = 0x4000_0000;

/// Where a watched directory is: below another one.
#[derive(Debug)]
struct Node {
    parent: i32,
    name: Box<[u8]>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Inotify {
    queue: OwnedFd,
    buffer: Vec<u8>,
    root_watch: i32,
    nodes: HashMap<i32, Node>,
    children: BTreeMap<(i32, Box<[u8]>), i32>,
    watches_max: usize,
    /// Directories that could not be watched, and why; nothing below them is either.
    pub(super) unwatched: BTreeMap<Box<[u8]>, String>,
    /// More of them than are named.
    pub(super) unwatched_more: u64,
}

/// Whether the queue can go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Go,
    /// Events were lost: what is watched is not known any more.
    Overflowed,
}

impl Inotify {
    /// Watches all directories of `root`.
    ///
    /// # Errors
    /// The step that was refused, as text.
    pub(super) fn open(root: &Root, watches_max: usize, batch: &mut Batch) -> io::Result<Self> {
        let at = |step: &str, e: io::Error| io::Error::new(e.kind(), format!("{step}: {e}"));
        check_proc()?;
        let queue = new_queue().map_err(|e| at("inotify_init", e))?;
        let mut this = Self {
            queue,
            buffer: vec![0; BUFFER_LEN],
            root_watch: -1,
            nodes: HashMap::new(),
            children: BTreeMap::new(),
            watches_max: watches_max.max(1),
            unwatched: BTreeMap::new(),
            unwatched_more: 0,
        };
        this.watch_root(root, batch).map_err(|e| at("inotify_add_watch", e))?;
        Ok(this)
    }

    fn watch_root(&mut self, root: &Root, batch: &mut Batch) -> io::Result<()> {
        let fd = root.open_directory(b"")?;
        self.root_watch = inotify::add_watch(&self.queue, proc_path(fd.as_fd()), MASK)?;
        self.nodes.insert(self.root_watch, Node { parent: -1, name: Box::default() });
        let below = directories_in(&fd)?;
        let below = below.into_iter().filter(|name| !is_own(name)).collect();
        self.watch_below(root, below, batch);
        Ok(())
    }

    pub(super) fn queue(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }

    pub(super) fn watches(&self) -> usize {
        self.nodes.len()
    }

    /// Bytes queued.
    pub(super) fn queued(&self) -> io::Result<u64> {
        Ok(rustix::io::ioctl_fionread(&self.queue)?)
    }

    /// Reads what is queued by now, and puts what that marks into `batch`. The bytes read; 0 for nothing.
    ///
    /// # Errors
    /// The queue cannot be read, or not be made anew after it overflowed.
    pub(super) fn read(&mut self, root: &Root, batch: &mut Batch) -> io::Result<u64> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let read = retry_on_intr(|| rustix::io::read(&self.queue, &mut buffer[..]));
        let next = match read {
            Ok(len) => Ok((len, self.take_events(root, &buffer[..len], batch))),
            Err(Errno::WOULDBLOCK) => Ok((0, Next::Go)),
            Err(e) => Err(e),
        };
        self.buffer = buffer;
        let (len, next) = next?;
        if next == Next::Overflowed {
            self.begin_anew(root, batch)?;
        }
        Ok(len as u64)
    }

    fn take_events(&mut self, root: &Root, mut bytes: &[u8], batch: &mut Batch) -> Next {
        while !bytes.is_empty() {
            let Some((event, rest)) = parse(bytes) else {
                batch.whole("an event of the kernel could not be read");
                return Next::Overflowed;
            };
            bytes = rest;
            batch.events += 1;
            if event.mask & Q_OVERFLOW != 0 {
                batch.overflows += 1;
                return Next::Overflowed;
            }
            self.take_event(root, event, batch);
        }
        Next::Go
    }

    /// Events were lost, among them maybe those of new and moved directories: a new queue, all watched
    /// again, and then everything marked.
    fn begin_anew(&mut self, root: &Root, batch: &mut Batch) -> io::Result<()> {
        self.queue = new_queue()?;
        self.nodes.clear();
        self.children.clear();
        self.unwatched.clear();
        self.unwatched_more = 0;
        self.watch_root(root, batch)?;
        batch.whole("more changed than the kernel's queue of events holds");
        Ok(())
    }

    fn take_event(&mut self, root: &Root, event: Event<'_>, batch: &mut Batch) {
        if event.mask & UNMOUNT != 0 {
            batch.unmounted = true;
            return;
        }
        if event.mask & IGNORED != 0 {
            self.forget(event.watch);
            return;
        }
        // Of a watch given up: what moved out of the root.
        if !self.nodes.contains_key(&event.watch) {
            return;
        }
        let Some(path) = self.path(event.watch) else {
            batch.whole("a watched directory lost its place");
            return;
        };
        if event.mask & MOVE_SELF != 0 {
            if event.watch != self.root_watch {
                self.check_moved(root, event.watch, &path, batch);
            }
            return;
        }
        if path.is_empty() && is_own(event.name) {
            return;
        }
        let is_directory = event.mask & IS_DIRECTORY != 0;
        // Metadata of a directory is told by its own watch as well.
        if is_directory && event.mask & ATTRIB != 0 && !event.name.is_empty() {
            let child = (event.watch, Box::from(event.name));
            if self.children.contains_key(&child) {
                return;
            }
        }
        batch.mark(&path, false);
        if is_directory && event.mask & (CREATE | MOVED_TO) != 0 {
            let child = join(&path, event.name);
            self.watch_below(root, vec![child.clone()], batch);
            batch.mark(&child, true);
        }
    }

    /// A watched directory moved. Inside the root, the event of its new parent came before this one and
    /// told its place; what is not at its place is outside.
    fn check_moved(&mut self, root: &Root, watch: i32, path: &[u8], batch: &mut Batch) {
        let found = root
            .open_directory(path)
            .and_then(|fd| Ok(inotify::add_watch(&self.queue, proc_path(fd.as_fd()), MASK)?));
        match found {
            Ok(there) if there == watch => {}
            found => {
                self.give_up(watch);
                // Another one took its name, and its number was not known here.
                if found.is_ok() {
                    self.watch_below(root, vec![path.to_vec()], batch);
                    batch.mark(path, true);
                }
            }
        }
    }

    /// Where a watched directory is.
    fn path(&self, watch: i32) -> Option<Vec<u8>> {
        let (mut names, mut at): (Vec<&[u8]>, i32) = (Vec::new(), watch);
        while at != self.root_watch {
            let node = self.nodes.get(&at)?;
            names.push(&node.name);
            // A ring, if one came about, is no place.
            if names.len() > self.nodes.len() {
                return None;
            }
            at = node.parent;
        }
        names.reverse();
        Some(names.join(&b'/'))
    }

    /// Watches these directories and all below them, each before it is listed.
    fn watch_below(&mut self, root: &Root, mut paths: Vec<Vec<u8>>, batch: &mut Batch) {
        while let Some(path) = paths.pop() {
            let below = match self.watch(root, &path) {
                Ok(below) => below,
                Err(e) => {
                    self.leave_unwatched(&path, &e, batch);
                    continue;
                }
            };
            paths.extend(below.iter().map(|name| join(&path, name)));
        }
    }

    /// Watches one directory; the names of the directories in it. None of what is gone, or no directory of
    /// ours: that had an event of its parent's.
    fn watch(&mut self, root: &Root, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let fd = match root.open_directory(path) {
            Ok(fd) => fd,
            Err(e) => match e.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::STALE) => {
                    return Ok(Vec::new());
                }
                _ => return Err(e),
            },
        };
        let (parent, name) = match path.iter().rposition(|&b| b == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&[][..], path),
        };
        // Not there: the parent went away meanwhile, or is not watched either.
        let Some(parent) = self.watch_of(parent) else { return Ok(Vec::new()) };
        // One that is watched already may be told again.
        let known = self.children.get(&(parent, Box::from(name))).copied();
        if self.nodes.len() >= self.watches_max && known.is_none() {
            return Err(Errno::NOSPC.into());
        }
        let watch = inotify::add_watch(&self.queue, proc_path(fd.as_fd()), MASK)?;
        self.adopt(watch, parent, name);
        directories_in(&fd)
    }

    fn watch_of(&self, path: &[u8]) -> Option<i32> {
        let mut names = path.split(|&b| b == b'/').filter(|name| !name.is_empty());
        names.try_fold(self.root_watch, |at, name| {
            self.children.get(&(at, Box::from(name))).copied()
        })
    }

    /// The watch is of `name` in `parent` now, wherever it was before.
    fn adopt(&mut self, watch: i32, parent: i32, name: &[u8]) {
        self.unlink(watch);
        self.nodes.insert(watch, Node { parent, name: name.into() });
        self.children.insert((parent, name.into()), watch);
    }

    fn unlink(&mut self, watch: i32) -> Option<Node> {
        let node = self.nodes.remove(&watch)?;
        let key = (node.parent, node.name.clone());
        // Another may have the name by now.
        if self.children.get(&key) == Some(&watch) {
            self.children.remove(&key);
        }
        Some(node)
    }

    /// The kernel has no such watch any more.
    fn forget(&mut self, watch: i32) {
        self.unlink(watch);
    }

    /// A directory left the root: no watches for it and what is below.
    fn give_up(&mut self, watch: i32) {
        let mut all = vec![watch];
        while let Some(watch) = all.pop() {
            let below = self.children.range((watch, Box::default())..);
            all.extend(
                below.take_while(|((parent, _), _)| *parent == watch).map(|(_, below)| *below),
            );
            // It may be gone in the kernel already.
            inotify::remove_watch(&self.queue, watch).unwrap_or(());
            self.unlink(watch);
        }
    }

    fn leave_unwatched(&mut self, path: &[u8], why: &io::Error, batch: &mut Batch) {
        let why = match why.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOSPC) => "no more watches, see fs.inotify.max_user_watches".to_owned(),
            _ => why.to_string(),
        };
        if self.unwatched.len() >= UNWATCHED_MAX {
            self.unwatched_more += 1;
        } else if self.unwatched.insert(path.into(), why).is_none() {
            batch.unwatched.push(path.into());
        }
    }

    /// Tries unwatched directories again, while there are watches. Those that are watched now are marked:
    /// nobody watched until here.
    pub(super) fn retry_unwatched(&mut self, root: &Root, batch: &mut Batch) {
        let paths: Vec<Box<[u8]>> = self.unwatched.keys().cloned().collect();
        for path in paths {
            match self.watch(root, &path) {
                Ok(below) => {
                    self.unwatched.remove(&path);
                    let below = below.iter().map(|name| join(&path, name)).collect();
                    self.watch_below(root, below, batch);
                    batch.mark(&path, true);
                }
                Err(e) if e.raw_os_error() == Some(Errno::NOSPC.raw_os_error()) => return,
                Err(_) => {}
            }
        }
        if self.unwatched_more > 0 && self.unwatched.is_empty() {
            // Which they are was not kept: all are looked for once more.
            self.unwatched_more = 0;
            if let Ok(names) = root.open_directory(b"").and_then(|fd| directories_in(&fd)) {
                let names = names.into_iter().filter(|name| !is_own(name)).collect();
                self.watch_below(root, names, batch);
            }
            batch.whole("directories had been without a watch");
        }
    }
}

fn new_queue() -> io::Result<OwnedFd> {
    Ok(inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?)
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

/// Names of the directories in `fd`; a link is none.
fn directories_in(fd: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(fd)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode)),
            kind => kind,
        };
        if kind == FileType::Directory {
            names.push(name.to_bytes().to_vec());
        }
    }
    Ok(names)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Event<'a> {
    watch: i32,
    mask: u32,
    /// Empty for the directory itself.
    name: &'a [u8],
}

/// The event at the front, and what follows it.
fn parse(bytes: &[u8]) -> Option<(Event<'_>, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<16>()?;
    let word = |at: usize| head[at..].first_chunk::<4>().map(|word| u32::from_ne_bytes(*word));
    let (watch, mask, len) = (word(0)?.cast_signed(), word(4)?, word(12)?);
    let (name, rest) = rest.split_at_checked(usize::try_from(len).ok()?)?;
    let name = name.split(|&b| b == 0).next().unwrap_or_default();
    Some((Event { watch, mask, name }, rest))
}

//! [`Watcher`]: the thread that reads events, and who wants to know that all are read.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use farshore_core::path::RelPath;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::dirty::{DirtyConfig, DirtySet};
use super::fanotify::Fanotify;
use super::inotify::Inotify;
use super::journal;
use super::keeper::{Disbelief, Keeper};
use super::ledger::Ledger;
use super::place::{Root, remote_name};
use super::state::Resumed;

/// Events come together for so long before they are read, so that a burst costs few wakes and the kernel
/// joins what repeats.
const GATHER: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
/// The root is looked at, and the journal synced, in such intervals.
const TICK: Duration = Duration::from_secs(1);
const TICK_SPEC: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// How long the end of a watcher waits for a thread that may hang in a stalled mount.
const END_WAIT: Duration = Duration::from_secs(2);
/// Notices nobody fetched; more are dropped, the report has them all.
const NOTICES_MAX: usize = 256;

/// How changes are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WatchKind {
    /// A whole file system by fanotify.
    Fanotify,
    /// Directory by directory by inotify.
    Inotify,
    /// Not at all.
    #[default]
    None,
}

/// How a watch is to be.
#[derive(Debug, Clone)]
pub struct WatchConfig {
    /// The share's root.
    pub root: PathBuf,
    /// The best kind to try; what is refused gives way to the next.
    pub best: WatchKind,
    /// Let the kernel queue without a bound, where it may.
    pub unlimited_queue: bool,
    /// Most directories watched by inotify; the kernel has a bound of its own.
    pub watches_max: usize,
    /// The time, in milliseconds.
    pub now_ms: fn() -> i64,
}

impl WatchConfig {
    /// The best there is, for `root`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>, now_ms: fn() -> i64) -> Self {
        Self {
            root: root.into(),
            best: WatchKind::Fanotify,
            unlimited_queue: true,
            watches_max: usize::MAX,
            now_ms,
        }
    }
}

/// Something an operator is told of at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The root's path does not lead to the root any more: nothing is concluded from that.
    RootGone(String),
    /// It does again.
    RootBack,
    /// The kernel's queue of events overflowed.
    Overflow,
    /// A directory, and all below, cannot be watched.
    Unwatched(RelPath),
    /// The watch ended by itself.
    Failed(String),
}

impl std::fmt::Display for Notice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::RootGone(why) => write!(f, "the share's path does not lead to its root: {why}"),
            Self::RootBack => f.write_str("the share's root is at its path again"),
            Self::Overflow => f.write_str("events were lost: everything is looked at"),
            Self::Unwatched(path) => write!(f, "{path}: it and what is below cannot be watched"),
            Self::Failed(why) => write!(f, "the watch ended: {why}"),
        }
    }
}

/// What is known of a watch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WatchReport {
    /// How.
    pub kind: WatchKind,
    /// Why not better.
    pub refused: Vec<String>,
    /// The file system is one that others change too, of whom this host is not told.
    pub remote: Option<&'static str>,
    /// Directories watched by inotify.
    pub watches: usize,
    /// Directories that are not watched, and why, the first ones; nor is anything below them.
    pub unwatched: Vec<(RelPath, String)>,
    /// How many there are.
    pub unwatched_count: u64,
    /// Events read.
    pub events: u64,
    /// Times the kernel's queue overflowed.
    pub overflows: u64,
    /// Events whose directory was gone when they were read.
    pub vanished: u64,
    /// Handles put into paths.
    pub resolved: u64,
    /// Why the root is not there.
    pub gone: Option<String>,
    /// Why the watch ended by itself.
    pub failed: Option<String>,
}

/// What [`Watcher::sync`] can say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Synced {
    /// Every change completed before the call is in the set, or the set says whole.
    Complete,
    /// Those that this host is told of are; why that is not all.
    Partial(String),
    /// The root is not there.
    Gone(String),
}

/// What events mark, gathered for one lock of the set.
#[derive(Debug, Default)]
pub(super) struct Batch {
    marks: Vec<(Box<[u8]>, bool)>,
    whole: Vec<String>,
    pub(super) events: u64,
    pub(super) overflows: u64,
    pub(super) vanished: u64,
    pub(super) unwatched: Vec<Box<[u8]>>,
    pub(super) unmounted: bool,
}

impl Batch {
    pub(super) fn mark(&mut self, path: &[u8], deep: bool) {
        // Bursts are of one directory.
        if self.marks.last().is_some_and(|(last, was_deep)| **last == *path && *was_deep == deep) {
            return;
        }
        // What no path of ours can name is told by the directory it is in.
        match RelPath::new(path) {
            Ok(_) => self.marks.push((path.into(), deep)),
            Err(_) => self.whole("a changed directory has a path that is too long"),
        }
    }

    pub(super) fn mark_child(&mut self, path: &[u8], name: &[u8]) {
        if path.is_empty() {
            self.mark(name, true);
        } else {
            self.mark(&[path, b"/", name].concat(), true);
        }
    }

    pub(super) fn whole(&mut self, why: &str) {
        if !self.whole.iter().any(|known| known == why) {
            self.whole.push(why.to_owned());
        }
    }
}

#[derive(Debug)]
enum Source {
    Fanotify(Box<Fanotify>),
    Inotify(Box<Inotify>),
    None,
}

/// The queue's one reader at a time: the thread, or who wants to be sure.
#[derive(Debug)]
struct Reader {
    root: Arc<Root>,
    source: Source,
    set: DirtySet,
    now_ms: fn() -> i64,
    checked: Instant,
    notices: Sender<Notice>,
    /// The file system went away under the watch, which does not come back by itself.
    unmounted: bool,
    /// Who may keep the watch.
    keeper: Option<Arc<dyn Keeper>>,
    /// It goes on when this process ends: whoever comes next reads what happened.
    goes_on: bool,
}

#[derive(Debug)]
struct Shared {
    /// Held while events are read and put into paths: as long as the file system takes.
    reader: Mutex<Reader>,
    /// Never held during a system call.
    report: Mutex<WatchReport>,
}

/// Fills a [`DirtySet`] by the events of a root, until it is dropped. See [`super`].
#[derive(Debug)]
pub struct Watcher {
    shared: Arc<Shared>,
    stop: Arc<OwnedFd>,
    ended: Receiver<()>,
    notices: Receiver<Notice>,
}

impl Watcher {
    /// Begins to watch: every change from now on is marked. Directory by directory that takes as long as
    /// finding all directories. Marks the whole, unless that waits already: what happened before is not
    /// known.
    ///
    /// # Errors
    /// The root cannot be opened, or no thread be had. That events are refused is no error.
    pub fn start(config: &WatchConfig, set: DirtySet) -> io::Result<Self> {
        let root = Root::open(&config.root)?;
        let mut batch = Batch::default();
        let (source, refused) = open_source(&root, config, &mut batch);
        set.root_back((config.now_ms)());
        if !matches!(source, Source::None) {
            set.watch_began((config.now_ms)());
        }
        Self::begin(config, (root, source, refused), set, None, batch)
    }

    fn begin(
        config: &WatchConfig,
        (root, source, refused): (Root, Source, Vec<String>),
        set: DirtySet,
        keeper: Option<Arc<dyn Keeper>>,
        batch: Batch,
    ) -> io::Result<Self> {
        let root = Arc::new(root);
        let kind = source.kind();
        let remote = root.file_system().ok().and_then(remote_name);
        let report = WatchReport { kind, refused, remote, ..WatchReport::default() };
        let (notices, fetched) = crossbeam_channel::bounded(NOTICES_MAX);
        let reader = Reader {
            root,
            source,
            set,
            now_ms: config.now_ms,
            checked: Instant::now(),
            notices,
            unmounted: false,
            keeper,
            goes_on: false,
        };
        let shared = Arc::new(Shared { reader: Mutex::new(reader), report: Mutex::new(report) });
        {
            let mut reader = shared.lock();
            reader.settle(batch, &shared.report);
            reader.journal();
        }
        let stop = Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?);
        let (end, ended) = crossbeam_channel::bounded(1);
        let (its_shared, its_stop) = (Arc::clone(&shared), Arc::clone(&stop));
        thread::Builder::new().name("capture".into()).spawn(move || {
            run(&its_shared, its_stop.as_fd());
            // Nobody waits when the watcher was given up.
            end.send(()).unwrap_or(());
        })?;
        Ok(Self { shared, stop, ended, notices: fetched })
    }

    /// The watch goes on when this is dropped, if its keeper has it: the kernel queues what happens until the next
    /// process reads it. Else the end of it is noted, and the next one looks at everything.
    pub fn go_on(&self) {
        self.shared.lock().goes_on = true;
    }

    /// Returns when every change that was completed before the call is in the set, and in its journal, or
    /// the set says whole. Reads what is queued itself; waits for the file system as that takes.
    #[must_use]
    pub fn sync(&self) -> Synced {
        let mut reader = self.shared.lock();
        reader.check_root(&self.shared.report);
        reader.drain(&self.shared.report);
        let report = self.report();
        match report {
            WatchReport { gone: Some(why), .. } => Synced::Gone(why),
            WatchReport { failed: Some(why), .. } => Synced::Partial(why),
            WatchReport { kind: WatchKind::None, .. } => {
                Synced::Partial("changes are not watched".into())
            }
            WatchReport { remote: Some(name), .. } => {
                Synced::Partial(format!("changes by other hosts are not told of on {name}"))
            }
            WatchReport { unwatched_count: count @ 1.., .. } => {
                Synced::Partial(format!("{count} directories could not be watched"))
            }
            _ => Synced::Complete,
        }
    }

    /// Does `work` while nobody reads events, as if the reader had stalled. For tests of that case.
    pub fn stalled<T>(&self, work: impl FnOnce() -> T) -> T {
        let _reader = self.shared.lock();
        work()
    }

    /// What is known, without asking the file system for anything.
    #[must_use]
    pub fn report(&self) -> WatchReport {
        self.shared.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What an operator is told at once.
    #[must_use]
    pub fn notices(&self) -> &Receiver<Notice> {
        &self.notices
    }
}

impl Drop for Watcher {
    /// Reads what is queued, and says in the journal that nobody watches any more. A thread that hangs in
    /// a stalled mount is left to itself.
    fn drop(&mut self) {
        let told = rustix::io::write(&*self.stop, &1u64.to_ne_bytes()).is_ok();
        if told {
            self.ended.recv_timeout(END_WAIT).unwrap_or(());
        }
    }
}

impl Source {
    fn kind(&self) -> WatchKind {
        match self {
            Self::Fanotify(_) => WatchKind::Fanotify,
            Self::Inotify(_) => WatchKind::Inotify,
            Self::None => WatchKind::None,
        }
    }
}

/// The set of what waits as its journal in `folder` has it, and a watch that fills it: the one that `keeper` kept,
/// where it can be shown that nothing was lost since the process before, and a new one otherwise; then everything
/// waits to be looked at, and the keeper is given the new one.
///
/// # Errors
/// The root cannot be opened, the journal not be written, or no thread be had.
pub fn resume(
    config: &WatchConfig,
    set: DirtyConfig,
    folder: &Path,
    keeper: Option<Arc<dyn Keeper>>,
) -> io::Result<(DirtySet, Watcher, Resumed)> {
    let root = Root::open(&config.root)?;
    let now_ms = (config.now_ms)();
    let read = journal::read(folder)?;
    let kept = keeper.as_ref().and_then(|keeper| open_kept(&root, &**keeper, read.as_ref()));
    let (kept, why) = match kept {
        Some(Ok(kept)) => (Some(kept), None),
        Some(Err(why)) => (None, Some(Err(why))),
        None => (None, None),
    };
    let believed = kept.as_ref().map(|(_, ledger)| Ok(ledger.clone()));
    let (set, resumed) = DirtySet::resume_with(set, folder, read, believed.or(why), now_ms)?;
    let mut batch = Batch::default();
    if let Some((mut source, _)) = kept {
        source.replay(&root, &mut batch);
        let source = Source::Fanotify(Box::new(source));
        let watcher =
            Watcher::begin(config, (root, source, Vec::new()), set.clone(), keeper, batch)?;
        return Ok((set, watcher, resumed));
    }
    if let Some(keeper) = &keeper {
        keeper.forget();
    }
    // A queue that nobody may read for a week must have a bound.
    let config = &WatchConfig {
        unlimited_queue: config.unlimited_queue && keeper.is_none(),
        ..config.clone()
    };
    let (mut source, mut refused) = open_source(&root, config, &mut batch);
    if !matches!(source, Source::None) {
        set.watch_began(now_ms);
    }
    if let (Source::Fanotify(source), Some(keeper)) = (&mut source, &keeper) {
        match Ledger::create(&root) {
            Ok((ledger, buffer)) => {
                set.may_be_kept(&ledger)?;
                source.read_into(ledger.clone(), buffer);
                keeper.keep(source.queue(), ledger.file());
            }
            Err(e) => refused.push(format!("what is read cannot be kept: {e}")),
        }
    }
    let watcher = Watcher::begin(config, (root, source, refused), set.clone(), keeper, batch)?;
    Ok((set, watcher, resumed))
}

/// The watch that was kept, and its ledger; none where nothing was.
fn open_kept(
    root: &Root,
    keeper: &dyn Keeper,
    read: Option<&journal::ReadBack>,
) -> Option<Result<(Fanotify, Ledger), Disbelief>> {
    let kept = keeper.given()?;
    let open = || {
        let (ledger, buffer) = Ledger::open(kept.ledger, root)?;
        let read = read.ok_or(Disbelief::OtherJournal)?;
        ledger.belongs(read.watch(), read.frame(), read.damaged_at.is_some())?;
        let source = Fanotify::resume(kept.events, root, (ledger.clone(), buffer))?;
        Ok((source, ledger))
    };
    Some(open())
}

fn open_source(root: &Root, config: &WatchConfig, batch: &mut Batch) -> (Source, Vec<String>) {
    let mut refused = Vec::new();
    if config.best == WatchKind::Fanotify {
        match Fanotify::open(root, config.unlimited_queue) {
            Ok(source) => return (Source::Fanotify(Box::new(source)), refused),
            Err(e) => refused.push(e.to_string()),
        }
    }
    if config.best != WatchKind::None {
        match Inotify::open(root, config.watches_max, batch) {
            Ok(source) => return (Source::Inotify(Box::new(source)), refused),
            Err(e) => refused.push(e.to_string()),
        }
    }
    (Source::None, refused)
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Reader> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn run(shared: &Shared, stop: BorrowedFd<'_>) {
    // The queue's descriptor may change, after an overflow: it is asked for anew each time.
    loop {
        let queue = shared.lock().queue();
        let woken = match &queue {
            Some(Ok(queue)) => wait(stop, Some(queue.as_fd()), TICK_SPEC),
            _ => wait(stop, None, TICK_SPEC),
        };
        let stopped = match woken {
            Woken::Queue => wait(stop, None, GATHER) == Woken::Stop,
            woken => woken == Woken::Stop,
        };
        let mut reader = shared.lock();
        reader.drain(&shared.report);
        if stopped {
            reader.end();
            return;
        }
        if reader.checked.elapsed() >= TICK {
            reader.tick(&shared.report);
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Woken {
    Stop,
    Queue,
    Time,
}

fn wait(stop: BorrowedFd<'_>, queue: Option<BorrowedFd<'_>>, at_most: Timespec) -> Woken {
    let mut fds = vec![PollFd::from_borrowed_fd(stop, PollFlags::IN)];
    fds.extend(queue.map(|queue| PollFd::from_borrowed_fd(queue, PollFlags::IN)));
    match rustix::event::poll(&mut fds, Some(&at_most)) {
        Ok(0) | Err(Errno::INTR) => Woken::Time,
        Ok(_) if !fds[0].revents().is_empty() => Woken::Stop,
        Ok(_) => Woken::Queue,
        // Short of memory: a pause that cannot be woken is better than none.
        Err(_) => {
            thread::sleep(Duration::from_millis(100));
            Woken::Time
        }
    }
}

impl Reader {
    fn queue(&self) -> Option<io::Result<OwnedFd>> {
        match &self.source {
            Source::Fanotify(source) => Some(source.queue().try_clone_to_owned()),
            Source::Inotify(source) => Some(source.queue().try_clone_to_owned()),
            Source::None => None,
        }
    }

    /// Reads what is queued at the moment of the call, at least, and marks it.
    fn drain(&mut self, report: &Mutex<WatchReport>) {
        let queued = match &self.source {
            Source::Fanotify(source) => source.queued(),
            Source::Inotify(source) => source.queued(),
            Source::None => return,
        };
        let mut left = queued.unwrap_or(u64::MAX);
        while left > 0 {
            let mut batch = Batch::default();
            let read = match &mut self.source {
                Source::Fanotify(source) => source
                    .read(&self.root, &mut batch)
                    .map(|any| if any { batch.events } else { 0 }),
                Source::Inotify(source) => source.read(&self.root, &mut batch),
                Source::None => Ok(0),
            };
            self.settle(batch, report);
            self.journal();
            match read {
                Ok(0) => break,
                Ok(read) => left = left.saturating_sub(read),
                Err(e) => {
                    self.fail(&e, report);
                    break;
                }
            }
        }
        // The set goes on without a journal that fails, and says so.
        self.set.flush().unwrap_or(());
    }

    /// Before more is read into memory that outlives the process: what is there is journaled.
    fn journal(&self) {
        if let Source::Fanotify(source) = &self.source
            && source.is_kept()
            && self.set.flush().is_ok()
        {
            source.journaled();
        }
    }

    /// Nobody reads any more: the watch is over, or goes on without us.
    fn end(&mut self) {
        let goes_on = matches!(&self.source, Source::Fanotify(s) if s.is_kept()) && self.goes_on;
        if !goes_on {
            if !matches!(self.source, Source::None) {
                self.set.watch_ended((self.now_ms)());
            }
            self.forget();
        }
        self.source = Source::None;
    }

    fn forget(&self) {
        if let Some(keeper) = &self.keeper {
            keeper.forget();
        }
    }

    /// Marks what was gathered, and reports it.
    fn settle(&mut self, batch: Batch, report: &Mutex<WatchReport>) {
        let now_ms = (self.now_ms)();
        if !batch.marks.is_empty() {
            self.set.mark_all(batch.marks.iter().map(|(path, deep)| (&**path, *deep)), now_ms);
        }
        batch.whole.iter().for_each(|why| self.set.mark_whole(why, now_ms));
        if batch.overflows > 0 {
            self.notify(Notice::Overflow);
        }
        let path = |bytes: &[u8]| RelPath::new(bytes).unwrap_or_default();
        batch.unwatched.iter().for_each(|bytes| self.notify(Notice::Unwatched(path(bytes))));
        if batch.unmounted {
            self.unmounted = true;
            self.check_root(report);
        }
        let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
        report.events += batch.events;
        report.overflows += batch.overflows;
        report.vanished += batch.vanished;
        match &self.source {
            Source::Fanotify(source) => report.resolved = source.resolved,
            Source::Inotify(source) => {
                report.watches = source.watches();
                report.unwatched_count = source.unwatched.len() as u64 + source.unwatched_more;
                if report.unwatched.len() != source.unwatched.len() || !batch.unwatched.is_empty() {
                    let named = source.unwatched.iter();
                    report.unwatched = named.map(|(at, why)| (path(at), why.clone())).collect();
                }
            }
            Source::None => {}
        }
    }

    fn fail(&mut self, why: &io::Error, report: &Mutex<WatchReport>) {
        let why = format!("events cannot be read: {why}");
        self.source = Source::None;
        self.forget();
        self.set.watch_ended((self.now_ms)());
        self.set.mark_whole(&why, (self.now_ms)());
        report.lock().unwrap_or_else(PoisonError::into_inner).failed = Some(why.clone());
        self.notify(Notice::Failed(why));
    }

    fn tick(&mut self, report: &Mutex<WatchReport>) {
        self.check_root(report);
        let mut batch = Batch::default();
        if let Source::Inotify(source) = &mut self.source {
            source.retry_unwatched(&self.root, &mut batch);
        }
        self.settle(batch, report);
        self.set.flush().unwrap_or(());
        self.checked = Instant::now();
    }

    /// Tells when the root's path leads elsewhere, or back.
    fn check_root(&mut self, report: &Mutex<WatchReport>) {
        let unmounted = || self.unmounted.then(|| "its file system was unmounted".to_owned());
        let gone = unmounted().or_else(|| self.root.gone());
        let before = {
            let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut report.gone, gone.clone())
        };
        match (before, gone) {
            (None, Some(why)) => {
                self.set.root_gone(&why);
                self.notify(Notice::RootGone(why));
            }
            (Some(_), None) => {
                self.set.root_back((self.now_ms)());
                self.notify(Notice::RootBack);
            }
            _ => {}
        }
    }

    fn notify(&self, notice: Notice) {
        // The report has it as well.
        self.notices.try_send(notice).unwrap_or(());
    }
}

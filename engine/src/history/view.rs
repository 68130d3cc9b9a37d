//! The tree as it was after a batch, made anew in a folder beside the live one, to be written to.
//!
//! The procedure:
//!
//! 1. The state's history is pinned (`catalog/pins.rs`) and a reader is begun: batches go on being applied, what is
//!    read stays as it is. Without room nothing is made.
//! 2. Directory by directory, from the root down, everything that stood there is made: files get inodes of their own
//!    that share the blocks of where their content stands now (where the file system can; else it is copied), owner,
//!    mode, times, attributes as they were then. R is computed of the entries on the way.
//! 3. What is found elsewhere than the reader says was moved by a batch under way: it is looked for again when
//!    that batch is recorded.
//! 4. A file is made whose change time is the moment from which on changes are the rehearsal's.
//!
//! Guarantees: the live tree, its history and its catalog are read and nothing else, not even a change time of
//! theirs moves (that is why nothing is linked: decisions.md); whoever writes to what was made cannot reach
//! them, because they share no inode. Content at its own path with the facts that the catalog has is taken as
//! it stands, as a run does (scrub reads it); all other content is read and has its digest. What could not be made
//! is listed. After a crash the folder is rubbish (`own_folder.rs`).

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use farshore_core::codec::Encoder;
use farshore_core::digest::{DirectoryDigest, DirectoryHasher, RootDigest, root_digest};
use farshore_core::entry::{Entry, EntryKind, Metadata, Timestamp, Xattrs};
use farshore_core::path::RelPath;
use farshore_proto::message::{Failure, FailureKind};

use super::plan::{Past, Stood, stored_bytes};
use super::{HistoryError, PLACES_MAX, Refusal, copied, expected, must_be_known};
use crate::catalog::{Catalog, CatalogReader, LocalFacts, Record};
use crate::io::{FileKind, NewNode, Object, Stat, Storage};
use crate::metadata::{Degraded, Present, apply_metadata};
use crate::own_folder::{Fresh, probe_fresh};
use crate::stage::restore::place_in;
use crate::stage::{is_fatal, write_extent};

mod changes;

pub use changes::{Written, changes};

/// The tree, in the folder of a rehearsal.
pub const VIEW: &[u8] = b"view";
/// Names of all directories, by which it is known afterwards what is gone.
const LIST: &[u8] = b"list";
/// The file whose change time is the end of making it.
const READY: &[u8] = b"ready";
/// Failures that are listed; more are counted.
const LISTED_MAX: usize = 1_000;
/// Bytes free besides what is made.
const ROOM: u64 = 1 << 20;
/// The same for each entry: its inode, name and extents.
const ROOM_EACH: u64 = 1_024;
/// Entries made until it is asked again whether they are wanted.
const ASK_EACH: u64 = 256;
/// How long a batch that is under way is waited for.
const PATIENCE: Duration = Duration::from_secs(120);
/// Times that what moved is looked for.
const TRIES: u32 = 32;
/// No clock of a file system ticks more rarely than this.
const TICK: Duration = Duration::from_millis(25);

/// A view to be made.
pub struct View<'a, S: Storage> {
    /// The tree.
    pub storage: &'a S,
    /// Its catalog.
    pub catalog: &'a Catalog,
    /// The state after this batch.
    pub batch: u64,
    /// Entries and bytes of content of that state, where that is known.
    pub size: Option<(u64, u64)>,
    /// The folder of the rehearsal, empty but for its lock.
    pub folder: &'a S::Directory,
    /// Whether whoever asked for it still wants it.
    pub wanted: &'a dyn Fn() -> bool,
}

/// What was made.
#[derive(Debug, Default)]
pub struct Made {
    /// Entries, the root not counted.
    pub entries: u64,
    /// Bytes of content of all files.
    pub bytes: u64,
    /// Whether files share the blocks of those they are of.
    pub shares_blocks: bool,
    /// Entries that a batch under way had moved, looked for again.
    pub again: u64,
    /// R of the entries.
    pub root: Option<RootDigest>,
    /// What the file system did not keep, by kind.
    pub degraded: Degraded,
    /// What could not be made, the first of them.
    pub failures: Vec<Failure>,
    /// How many could not.
    pub failed: u64,
    /// Changes behind this are none of ours.
    pub ready: Timestamp,
}

impl<S: Storage> std::fmt::Debug for View<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("View")
    }
}

impl<S: Storage> View<'_, S> {
    /// Makes it, by the procedure of the module.
    ///
    /// # Errors
    /// [`HistoryError`]; what was made until then is the caller's to remove.
    pub fn make(&self) -> Result<Made, HistoryError> {
        let storage = self.storage;
        let _pin = self.catalog.pin(self.batch);
        let reader = self.catalog.reader()?;
        must_be_known(&reader, self.batch)?;
        let shares = storage.shares_blocks(self.folder);
        self.has_room(&reader, shares)?;
        let root = RelPath::root();
        let fail = |step| at(&root, step);
        storage.make_directory(self.folder, VIEW).map_err(fail("making its folder"))?;
        let open = |at, name| storage.open_directory(at, name);
        let top = open(self.folder, VIEW).map_err(fail("opening its folder"))?;
        let own = open(storage.root(), crate::OWN_FOLDER).map_err(fail("opening .farshore"))?;
        let mut maker = Maker {
            view: self,
            history: open(&own, b"history").map_err(fail("opening the history"))?,
            journal: open(&own, b"journal").map_err(fail("opening the journal"))?,
            top,
            fresh: probe_fresh(storage, self.folder).map_err(fail("trying its folder"))?,
            list: List::create(storage, self.folder).map_err(fail("making its list"))?,
            made: Made { shares_blocks: shares, ..Made::default() },
            later: Vec::new(),
            asked: 0,
        };
        maker.walk(&reader)?;
        drop(reader);
        maker.again()?;
        let Maker { list, mut made, .. } = maker;
        list.finish(storage).map_err(fail("writing its list"))?;
        made.ready = self.ready().map_err(fail("looking at its end"))?;
        Ok(made)
    }

    /// The time on the file system's clock, and waits until it has passed.
    fn ready(&self) -> io::Result<Timestamp> {
        let file = self.storage.create_file(self.folder, READY)?;
        let stat = self.storage.stat(Object::File(&file))?;
        std::thread::sleep(TICK);
        Ok(stat.ctime)
    }

    fn has_room(&self, reader: &CatalogReader, shares: bool) -> Result<(), HistoryError> {
        let (entries, bytes) = match self.size {
            Some(size) => size,
            None => (reader.entry_count()?, reader.content_bytes()?),
        };
        let free = self.storage.free_bytes().map_err(|source| HistoryError::Disk {
            step: "asking how much room there is",
            source,
        })?;
        let names = entries.saturating_mul(ROOM_EACH).saturating_add(ROOM);
        let mut needed = names.saturating_add(if shares { 0 } else { bytes });
        if free < needed && !shares {
            // Holes take none.
            needed = names.saturating_add(self.stored(reader)?);
        }
        if free < needed { Err(Refusal::NoRoom { needed, free }.into()) } else { Ok(()) }
    }

    fn stored(&self, reader: &CatalogReader) -> Result<u64, HistoryError> {
        let mut past = Past::new(reader, self.batch);
        let mut folders = vec![RelPath::root()];
        let mut sum = 0_u64;
        while let Some(folder) = folders.pop() {
            for Stood { path, then, .. } in past.children(&folder)? {
                if then.kind() == EntryKind::Directory {
                    folders.push(path);
                } else {
                    sum = sum.saturating_add(stored_bytes(reader, &then)?);
                }
            }
        }
        Ok(sum)
    }
}

fn at(path: &RelPath, step: &'static str) -> impl Fn(io::Error) -> HistoryError + use<> {
    let path = path.clone();
    move |source| HistoryError::View { path: path.clone(), step, source }
}

/// Why one entry was not made.
enum Not {
    /// A batch under way moved what it is made of.
    Yet,
    /// It cannot be.
    Ever(String),
    /// Nothing can.
    All(HistoryError),
}

impl<E: Into<HistoryError>> From<E> for Not {
    fn from(e: E) -> Self {
        Self::All(e.into())
    }
}

/// What a call failed by: the entry's own, or everybody's.
fn not<'p>(path: &'p RelPath, step: &'static str) -> impl Fn(io::Error) -> Not + use<'p> {
    move |source| {
        if is_fatal(&source) {
            Not::All(at(path, step)(source))
        } else {
            Not::Ever(format!("{step}: {source}"))
        }
    }
}

/// A directory whose children are being made.
struct Frame<S: Storage> {
    path: RelPath,
    entry: Option<Entry>,
    /// `None` when it could not be made.
    at: Option<S::Directory>,
    children: Vec<Child>,
    next: usize,
}

struct Child {
    path: RelPath,
    encoded: Vec<u8>,
    directory: Option<Entry>,
    below: Option<DirectoryDigest>,
}

impl<S: Storage> Frame<S> {
    fn digest(&self) -> DirectoryDigest {
        let mut hasher = DirectoryHasher::default();
        for Child { path, encoded, below, .. } in &self.children {
            hasher.add(path.name(), encoded, below.as_ref());
        }
        hasher.finish()
    }
}

/// Where one entry is made, and where it stands now.
struct Place<'p, S: Storage> {
    at: &'p S::Directory,
    live: Option<&'p S::Directory>,
    path: &'p RelPath,
    now: Option<&'p Record>,
}

struct Maker<'v, 'a, S: Storage> {
    view: &'v View<'a, S>,
    history: S::Directory,
    journal: S::Directory,
    top: S::Directory,
    fresh: Fresh,
    list: List<S>,
    made: Made,
    /// What a batch under way had moved.
    later: Vec<RelPath>,
    asked: u64,
}

impl<S: Storage> Maker<'_, '_, S> {
    /// Step 2.
    fn walk(&mut self, reader: &CatalogReader) -> Result<(), HistoryError> {
        let storage = self.view.storage;
        let mut past = Past::new(reader, self.view.batch);
        let root = RelPath::root();
        let top =
            storage.open_directory(&self.top, b"").map_err(at(&root, "opening its folder"))?;
        let entry = past.entry(&root)?;
        let mut stack = vec![self.enter(&mut past, root, entry, Some(top))?];
        while let Some(frame) = stack.last_mut() {
            if let Some(child) = frame.children.get_mut(frame.next) {
                frame.next += 1;
                let Some(entry) = child.directory.take() else { continue };
                let path = child.path.clone();
                let made = frame.at.as_ref().map(|at| self.directory(at, &path)).transpose()?;
                let deeper = self.enter(&mut past, path, Some(entry), made.flatten())?;
                stack.push(deeper);
                continue;
            }
            let Some(done) = stack.pop() else { break };
            let digest = done.digest();
            match stack.last_mut() {
                Some(parent) => {
                    let child = parent.next.checked_sub(1).and_then(|n| parent.children.get_mut(n));
                    if let Some(child) = child {
                        child.below = Some(digest);
                    }
                }
                None => self.made.root = Some(root_digest(done.entry.as_ref(), &digest)),
            }
            if let (Some(at), Some(entry)) = (&done.at, &done.entry) {
                self.close(at, &done.path, entry)?;
            }
        }
        Ok(())
    }

    fn directory(
        &mut self,
        parent: &S::Directory,
        path: &RelPath,
    ) -> Result<Option<S::Directory>, HistoryError> {
        let storage = self.view.storage;
        let made = storage
            .make_directory(parent, path.name())
            .and_then(|()| storage.open_directory(parent, path.name()));
        match made.map_err(not(path, "making it")) {
            Ok(made) => Ok(Some(made)),
            Err(e) => self.not_made(path, e).map(|()| None),
        }
    }

    /// A directory is complete: gives it its metadata.
    fn close(
        &mut self,
        opened: &S::Directory,
        path: &RelPath,
        entry: &Entry,
    ) -> Result<(), HistoryError> {
        let Some(meta) = entry.meta() else { return Ok(()) };
        let object = Object::Directory(opened);
        match self.metadata(object, path, FileKind::Directory, meta, None) {
            Ok(()) => Ok(()),
            Err(e) => self.not_made(path, e),
        }
    }

    /// Makes what stood in a directory, but for directories.
    fn enter(
        &mut self,
        past: &mut Past<'_>,
        path: RelPath,
        entry: Option<Entry>,
        opened: Option<S::Directory>,
    ) -> Result<Frame<S>, HistoryError> {
        let storage = self.view.storage;
        let live = storage.open_directory(storage.root(), path.as_bytes()).ok();
        let stood = past.children(&path)?;
        self.list
            .add(storage, &path, stood.iter().map(|s| s.path.name()))
            .map_err(at(&path, "writing the list"))?;
        let mut children = Vec::with_capacity(stood.len());
        for Stood { path, then, now } in stood {
            self.made.entries += 1;
            self.made.bytes = self.made.bytes.saturating_add(then.size());
            let encoded = then.to_bytes();
            if then.kind() == EntryKind::Directory {
                children.push(Child { path, encoded, directory: Some(then), below: None });
                continue;
            }
            self.is_wanted()?;
            if let Some(at) = &opened {
                let place = Place { at, live: live.as_ref(), path: &path, now: now.as_ref() };
                if let Err(e) = self.entry(past.reader, &place, &then) {
                    self.not_made(&path, e)?;
                }
            }
            children.push(Child { path, encoded, directory: None, below: None });
        }
        Ok(Frame { path, entry, at: opened, children, next: 0 })
    }

    fn is_wanted(&mut self) -> Result<(), HistoryError> {
        self.asked += 1;
        let asks = self.asked % ASK_EACH == 1;
        if asks && !(self.view.wanted)() { Err(Refusal::NotWanted.into()) } else { Ok(()) }
    }

    fn not_made(&mut self, path: &RelPath, why: Not) -> Result<(), HistoryError> {
        let text = match why {
            Not::All(e) => return Err(e),
            Not::Yet => {
                self.later.push(path.clone());
                return Ok(());
            }
            Not::Ever(text) => text,
        };
        self.made.failed += 1;
        if self.made.failures.len() < LISTED_MAX {
            let (path, kind) = (path.clone(), FailureKind::Refused);
            self.made.failures.push(Failure { path, kind, text });
        }
        Ok(())
    }

    /// Step 3.
    fn again(&mut self) -> Result<(), HistoryError> {
        let began = Instant::now();
        let mut tried: Option<u64> = None;
        let mut touched = BTreeSet::new();
        self.made.again = self.later.len() as u64;
        for _ in 0..TRIES {
            if self.later.is_empty() {
                break;
            }
            // What is under way is recorded, or there is nothing under way.
            let (reader, is_quiet) = loop {
                let is_quiet = self.is_quiet()?;
                let reader = self.view.catalog.reader()?;
                let is_late = began.elapsed() > PATIENCE;
                if is_quiet || is_late || tried != Some(reader.applied_batch()?) {
                    break (reader, is_quiet || is_late);
                }
                if !(self.view.wanted)() {
                    return Err(Refusal::NotWanted.into());
                }
                std::thread::sleep(TICK);
            };
            must_be_known(&reader, self.view.batch)?;
            let applied = reader.applied_batch()?;
            let mut past = Past::new(&reader, self.view.batch);
            for path in std::mem::take(&mut self.later) {
                touched.extend(path.split().map(|(parent, _)| parent));
                if let Err(e) = self.one(&mut past, &path) {
                    self.not_made(&path, e)?;
                }
            }
            // Nothing was under way while it was looked for: it is not here.
            if is_quiet && tried == Some(applied) {
                break;
            }
            tried = Some(applied);
        }
        for path in std::mem::take(&mut self.later) {
            let text = "what it was made of is not kept here, or is damaged".to_owned();
            self.not_made(&path, Not::Ever(text))?;
        }
        self.close_again(touched)
    }

    /// Directories that were written to after they were complete.
    fn close_again(&mut self, touched: BTreeSet<RelPath>) -> Result<(), HistoryError> {
        let reader = self.view.catalog.reader()?;
        let mut past = Past::new(&reader, self.view.batch);
        for path in touched {
            let opened = self.view.storage.open_directory(&self.top, path.as_bytes());
            if let (Ok(opened), Some(entry)) = (opened, past.entry(&path)?) {
                self.close(&opened, &path, &entry)?;
            }
        }
        Ok(())
    }

    /// Whether no batch is being applied.
    fn is_quiet(&self) -> Result<bool, HistoryError> {
        let mut is_quiet = true;
        let failed = |source| HistoryError::Disk { step: "listing the journal", source };
        self.view.storage.list(&self.journal, &mut |_| is_quiet = false).map_err(failed)?;
        Ok(is_quiet)
    }

    fn one(&mut self, past: &mut Past<'_>, path: &RelPath) -> Result<(), Not> {
        let storage = self.view.storage;
        let reader = past.reader;
        let Some((parent, _)) = path.split() else { return Ok(()) };
        let Some(then) = past.entry(path)? else { return Ok(()) };
        let opened = storage.open_directory(&self.top, parent.as_bytes());
        let opened = opened.map_err(not(path, "opening its folder"))?;
        let live = storage.open_directory(storage.root(), parent.as_bytes()).ok();
        let now = reader.get(path)?;
        let place = Place { at: &opened, live: live.as_ref(), path, now: now.as_ref() };
        self.entry(reader, &place, &then)
    }

    fn entry(
        &mut self,
        reader: &CatalogReader,
        place: &Place<'_, S>,
        then: &Entry,
    ) -> Result<(), Not> {
        let storage = self.view.storage;
        let Place { at, path, .. } = *place;
        let name = path.name();
        let node = |node| storage.make_node(at, name, node);
        let (made, kind) = match then {
            Entry::File { .. } => return self.file(reader, place, then),
            Entry::HardLink { leader } => return self.link(place, leader),
            Entry::Directory { .. } => return Ok(()),
            Entry::Symlink { target, .. } => {
                (storage.make_symlink(at, name, target), FileKind::Symlink)
            }
            Entry::Fifo { .. } => (node(NewNode::Fifo), FileKind::Fifo),
            Entry::Socket { .. } => (node(NewNode::Socket), FileKind::Socket),
            Entry::CharDevice { number, .. } => {
                (node(NewNode::CharDevice(*number)), FileKind::CharDevice)
            }
            Entry::BlockDevice { number, .. } => {
                (node(NewNode::BlockDevice(*number)), FileKind::BlockDevice)
            }
        };
        made.map_err(not(path, "making it"))?;
        let Some(meta) = then.meta() else { return Ok(()) };
        self.metadata(Object::Named(at, name), path, kind, meta, None)
    }

    fn link(&mut self, place: &Place<'_, S>, leader: &RelPath) -> Result<(), Not> {
        let storage = self.view.storage;
        let Place { at, path, .. } = *place;
        let Some((parent, name)) = leader.split() else { return Ok(()) };
        let from = storage.open_directory(&self.top, parent.as_bytes());
        let linked = from.and_then(|from| storage.link(&from, name, at, path.name()));
        match linked {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Not::Yet),
            linked => linked.map_err(not(path, "linking it")),
        }
    }

    fn file(
        &mut self,
        reader: &CatalogReader,
        place: &Place<'_, S>,
        then: &Entry,
    ) -> Result<(), Not> {
        const OURS: u32 = 0o600;
        let storage = self.view.storage;
        let Place { at, path, .. } = *place;
        let (Some(meta), name) = (then.meta(), path.name()) else { return Ok(()) };
        let wanted = meta.mode & 0o777;
        let mode = if wanted & OURS == OURS { wanted } else { OURS };
        let created = storage.create_file_as(at, name, mode);
        let file = created.map_err(not(path, "creating it"))?;
        match self.content(reader, place, &file, then) {
            Ok(true) => {}
            Ok(false) => {
                storage.unlink(at, name).map_err(not(path, "removing it"))?;
                return Err(Not::Yet);
            }
            Err(e) => return Err(e),
        }
        let kept = Some(mode & self.fresh.mode_kept);
        self.metadata(Object::File(&file), path, FileKind::Regular, meta, kept)
    }

    fn metadata(
        &mut self,
        object: Object<'_, S>,
        path: &RelPath,
        kind: FileKind,
        wanted: &Metadata,
        mode: Option<u32>,
    ) -> Result<(), Not> {
        let xattrs = Xattrs::default();
        let present = Present { owner: self.fresh.owner, mode, xattrs: &xattrs };
        let degraded = &mut self.made.degraded;
        apply_metadata(self.view.storage, object, kind, wanted, present, degraded)
            .map_err(not(path, "setting its metadata"))
    }

    /// Gives a new file its content; false when no whole copy of it is where it should be.
    fn content(
        &self,
        reader: &CatalogReader,
        place: &Place<'_, S>,
        file: &S::File,
        then: &Entry,
    ) -> Result<bool, Not> {
        let storage = self.view.storage;
        let path = place.path;
        let (Some(content), size @ 1..) = (then.content(), then.size()) else { return Ok(true) };
        let empty = || storage.set_len(file, 0).map_err(not(path, "emptying it"));
        if let (Some(Record { entry, facts: Some(facts) }), Some(live)) = (place.now, place.live)
            && entry.content() == Some(content)
            && let Ok((from, stat)) = storage.open_file_and_stat(live, path.name())
            && LocalFacts::of(&stat) == *facts
        {
            let is_done = self.copy(reader, (&from, &stat), file, then, path)?;
            // The catalog's word for it, if nobody was in between.
            let same = |now: Stat| LocalFacts::of(&now) == *facts;
            if is_done && storage.stat(Object::File(&from)).is_ok_and(same) {
                return Ok(true);
            }
            empty()?;
        }
        for location in reader.locations(content, PLACES_MAX)? {
            let Some((at, name)) = place_in(storage, &self.history, &location) else { continue };
            let Ok((from, stat)) = storage.open_file_and_stat(&at, &name) else { continue };
            if stat.size != size {
                continue;
            }
            if self.copy(reader, (&from, &stat), file, then, path)? {
                let (mut begin, mut write) = (|_| Ok(()), |_, _: &[u8]| Ok(()));
                let is_proven = if self.made.shares_blocks {
                    let wanted = expected(reader, *content, size)?;
                    copied(storage, file, &wanted, &mut begin, &mut write)?
                } else {
                    true
                };
                if is_proven {
                    return Ok(true);
                }
            }
            empty()?;
        }
        Ok(false)
    }

    /// Shares the blocks of `from`, unread; or copies it: then whether the digest is right.
    fn copy(
        &self,
        reader: &CatalogReader,
        (from, stat): (&S::File, &Stat),
        file: &S::File,
        then: &Entry,
        path: &RelPath,
    ) -> Result<bool, Not> {
        let storage = self.view.storage;
        let Some(content) = then.content() else { return Ok(false) };
        if self.made.shares_blocks {
            return match storage.copy_range(from, 0, file, 0, stat.size) {
                Ok(()) => Ok(true),
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
                Err(e) => Err(not(path, "copying its content")(e)),
            };
        }
        let sparse = stat.allocated < stat.size;
        let mut begin = |size| storage.set_len(file, 0).and_then(|()| storage.set_len(file, size));
        let mut write = |offset, bytes: &[u8]| write_extent(storage, file, offset, bytes, sparse);
        let wanted = expected(reader, *content, stat.size)?;
        match copied(storage, from, &wanted, &mut begin, &mut write) {
            Ok(is_right) => Ok(is_right),
            Err(HistoryError::Disk { step, source }) => Err(not(path, step)(source)),
            Err(e) => Err(e.into()),
        }
    }
}

/// The names of each directory, on disk.
struct List<S: Storage> {
    file: S::File,
    written: u64,
    waiting: Vec<u8>,
}

impl<S: Storage> List<S> {
    const AT_ONCE: usize = 1 << 20;

    fn create(storage: &S, folder: &S::Directory) -> io::Result<Self> {
        let file = storage.create_file(folder, LIST)?;
        Ok(Self { file, written: 0, waiting: Vec::new() })
    }

    fn add<'n>(
        &mut self,
        storage: &S,
        directory: &RelPath,
        names: impl ExactSizeIterator<Item = &'n [u8]>,
    ) -> io::Result<()> {
        let mut e = Encoder::append_to(std::mem::take(&mut self.waiting));
        e.put_bytes(directory.as_bytes());
        e.put_u64(names.len() as u64);
        names.for_each(|name| e.put_bytes(name));
        self.waiting = e.finish();
        if self.waiting.len() >= Self::AT_ONCE { self.write(storage) } else { Ok(()) }
    }

    fn write(&mut self, storage: &S) -> io::Result<()> {
        storage.write_at(&self.file, self.written, &self.waiting)?;
        self.written += self.waiting.len() as u64;
        self.waiting.clear();
        Ok(())
    }

    fn finish(mut self, storage: &S) -> io::Result<()> {
        self.write(storage)
    }
}

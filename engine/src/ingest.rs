//! Reading what changed at the source and writing it into batches.
//!
//! Guarantees: a file is described by bytes read between two looks that saw the same inode, length
//! and times; one that keeps changing is reported as unstable and not sent, so that its former
//! version stays at the target. Content the target holds is named, not sent; the target checks every
//! such claim. What a batch will have changed once it is acknowledged is its [`BatchRecord`]; nothing
//! enters the catalog before.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use farshore_core::chunking::{Chunker, ChunkingId};
use farshore_core::entry::{Entry, EntryDigest, EntryKind, Timestamp};
use farshore_core::limits::SMALL_FILE_MAX;
use farshore_core::path::RelPath;
use farshore_core::recipe::{ChunkId, Extent, FileDigest, Recipe};
use farshore_proto::link::LinkError;
use farshore_proto::op::Op;

use crate::catalog::{CatalogError, CatalogReader, LocalFacts, Record};
use crate::frames::FrameWriter;
use crate::io::batch::{SmallContent, SmallFile};
use crate::io::{FileKind, Object, Stat, Storage};
use crate::observe::{
    ObserveError, SystemStep, chunker_for, describe_file, describe_node, first_extent, metadata,
    metadata_with, read_extents, same_content_facts,
};
use crate::plan::{Change, Problem};
use crate::profile::Profile;
use crate::progress::Progress;

mod ahead;
mod carry;
mod delta;
mod index;
mod large;
mod large_ahead;
mod moved;
mod queue;
mod signing;
mod thrift;

use ahead::{Ahead, SmallRead, is_plain_small};
pub use carry::{Placing, ReadAhead};
pub use index::RunIndex;
use large::LargeSender;
use large_ahead::read_ahead;
use queue::OpQueue;
pub use signing::SignDesk;

#[cfg(test)]
mod tests;

/// A file this long in bytes is read by two threads when it is the only larger one at hand.
const AHEAD_MIN: u64 = 4 << 20;
/// Times a file that changes while it is read is read again.
const TRIES: u32 = 3;
/// What is said of a file that changes too often to be sent.
pub(crate) const UNSTABLE: &str =
    "unstable: it kept changing while it was read; the former version stays at the target";
const FORMER_STAYS: &str = "it moved, and stays at the target until it can be read where it is now";

/// Why a batch cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The link is gone.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The catalog cannot be read.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// What the catalog will say once a batch is acknowledged.
#[derive(Debug)]
pub enum Effect {
    /// An entry is there.
    Put {
        /// Where.
        path: RelPath,
        /// Its record.
        record: Record,
        /// How its content is made, for larger files.
        recipe: Option<Arc<Recipe>>,
        /// What kind of operation it was.
        kind: EffectKind,
    },
    /// An entry is gone.
    Remove {
        /// Where.
        path: RelPath,
        /// Whether it is gone because it moved.
        moved: bool,
    },
}

impl Effect {
    /// Where.
    #[must_use]
    pub fn path(&self) -> &RelPath {
        match self {
            Self::Put { path, .. } | Self::Remove { path, .. } => path,
        }
    }
}

/// Kinds of operations, for the counters and for sending one again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EffectKind {
    /// Made or replaced.
    Written,
    /// Metadata alone.
    Metadata,
    /// Moved from this path.
    Moved(RelPath),
}

/// One batch as it was sent.
#[derive(Debug, Default)]
pub struct BatchRecord {
    /// In the order of its operations.
    pub effects: Vec<Effect>,
    /// Entries found unchanged, with fresh facts, and recipes of the larger files among them: true
    /// whatever becomes of the batch.
    pub refreshed: Vec<(RelPath, Record, Option<Arc<Recipe>>)>,
    /// Content sent whole or in part, to be forgotten by the run's index with the batch.
    contents: Vec<FileDigest>,
}

/// A clock as the engine reads it: the wall clock of the machine, coarse.
pub type WallClock<'a> = &'a (dyn Fn() -> Timestamp + Sync);

/// Reads changes and writes their operations.
pub struct Ingest<'a, S: Storage> {
    /// The source tree.
    pub storage: &'a S,
    /// What the target was believed to hold when the batch began.
    pub catalog: CatalogReader,
    /// Content under way.
    pub index: &'a RunIndex,
    /// Where the target is asked for signatures.
    pub desk: &'a SignDesk<'a>,
    /// Counters.
    pub progress: &'a Progress,
    /// The wall clock.
    pub now: WallClock<'a>,
    /// Files whose change time is closer to now than this are looked at again by the next run.
    pub racy_ns: i64,
    /// Where the time of further threads is counted; without it there are none, and all is read in one
    /// order.
    pub helped: Option<&'a Profile>,
    /// What was carried ahead, and is only given its place.
    pub carried: Option<&'a HashMap<RelPath, Placing>>,
    /// Asked at each chunk of a larger file, whether to go on reading makes no sense any more.
    pub is_over: Option<&'a (dyn Fn() -> bool + Sync)>,
    /// The directory opened last.
    parent: Option<(RelPath, S::Directory)>,
    chunker: Option<Chunker>,
    /// What is read of files that moved.
    buf: Vec<u8>,
    /// Whether the catalog has files cut by an older chunking, once asked.
    older_held: Option<bool>,
    older_chunker: Option<Chunker>,
}

impl<S: Storage> std::fmt::Debug for Ingest<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ingest")
    }
}

/// A batch while it is written.
struct Batch<'w, 'g, 'd> {
    number: u64,
    writer: OpQueue<'w, 'g, 'd>,
    record: BatchRecord,
}

impl Batch<'_, '_, '_> {
    fn put(
        &mut self,
        op: &Op<'_>,
        path: RelPath,
        record: Record,
        recipe: Option<Arc<Recipe>>,
        kind: EffectKind,
    ) -> Result<(), LinkError> {
        self.writer.op(op)?;
        self.record.effects.push(Effect::Put { path, record, recipe, kind });
        Ok(())
    }
}

enum Failure {
    /// This entry alone.
    Entry(ObserveError),
    /// The whole batch.
    Batch(IngestError),
}

impl From<ObserveError> for Failure {
    fn from(e: ObserveError) -> Self {
        Self::Entry(e)
    }
}

impl<E: Into<IngestError>> From<E> for Failure {
    fn from(e: E) -> Self {
        Self::Batch(e.into())
    }
}

impl<'a, S: Storage> Ingest<'a, S> {
    /// A worker on `storage`.
    #[must_use]
    pub fn new(
        storage: &'a S,
        catalog: CatalogReader,
        index: &'a RunIndex,
        desk: &'a SignDesk<'a>,
        progress: &'a Progress,
        now: WallClock<'a>,
        racy_ns: i64,
    ) -> Self {
        Self {
            storage,
            catalog,
            index,
            desk,
            progress,
            now,
            racy_ns,
            helped: None,
            carried: None,
            is_over: None,
            parent: None,
            chunker: None,
            buf: Vec::new(),
            older_held: None,
            older_chunker: None,
        }
    }

    /// Writes the operations of `changes` into the batch `number`.
    ///
    /// # Errors
    /// [`IngestError`]; what goes wrong with one entry is a problem, not an error.
    pub fn write_batch(
        &mut self,
        number: u64,
        changes: Vec<Change>,
        writer: &mut FrameWriter<'_>,
    ) -> Result<BatchRecord, IngestError> {
        let writer = OpQueue::new(writer, self.desk, self.progress);
        let mut batch = Batch { number, writer, record: BatchRecord::default() };
        self.parent = None;
        let mut ahead = Ahead::default();
        let mut changes = VecDeque::from(changes);
        for number in 0.. {
            let read = ahead.take(self.storage, self.now, number, &changes);
            let Some(change) = changes.pop_front() else { break };
            let (path, former) = (change.path().clone(), former_of(&change));
            match self.change(change, read, &mut batch) {
                Ok(()) => {}
                Err(Failure::Batch(e)) => return Err(e),
                // Gone since the walk: the next run sees it so.
                Err(Failure::Entry(e)) if e.is_vanished() => {
                    if let Some(former) = former {
                        self.remove_former(&former, &mut batch)?;
                    }
                }
                Err(Failure::Entry(e)) => {
                    if let Some(path) = former {
                        let text = FORMER_STAYS.into();
                        self.progress.problem(Problem { path, text });
                    }
                    let text = match e {
                        ObserveError::Changed => UNSTABLE.into(),
                        e => describe(&e),
                    };
                    self.progress.problem(Problem { path, text });
                }
            }
            Progress::add(&self.progress.done, 1);
        }
        batch.writer.finish()?;
        Ok(batch.record)
    }

    fn change(
        &mut self,
        change: Change,
        mut read: Option<SmallRead>,
        batch: &mut Batch<'_, '_, '_>,
    ) -> Result<(), Failure> {
        let mut plain = is_plain_small(&change);
        match change {
            Change::Remove { path, expected } => Ok(self.remove(path, expected, batch)?),
            Change::Link { path, leader } => {
                let storage = self.storage;
                let (directory, name) = self.parent_of(&path)?;
                let stat =
                    storage.stat(Object::Named(directory, &name)).at_step("looking at it")?;
                let entry = Entry::HardLink { leader };
                let record = Record { entry: entry.clone(), facts: self.facts(&stat) };
                let op = Op::Put { path: path.clone(), entry };
                Ok(batch.put(&op, path, record, None, EffectKind::Written)?)
            }
            Change::Look { path, moved_from, .. } => {
                if let Some(placing) = self.carried.and_then(|carried| carried.get(&path)) {
                    return self.place(&path, moved_from.as_ref(), placing, batch);
                }
                let mut tries = 1;
                loop {
                    // At first as the walk saw it; a race with a change of kind is seen in opening.
                    let looked = if std::mem::take(&mut plain) {
                        let known = self.catalog.get(&path)?.map(|r| r.entry);
                        self.small_file(&path, known, read.take(), batch)
                    } else {
                        self.look(&path, moved_from.as_ref(), batch)
                    };
                    match looked {
                        Err(Failure::Entry(e)) if is_other_kind(&e) && tries == 1 => tries += 1,
                        Err(Failure::Entry(ObserveError::Changed)) if tries < TRIES => tries += 1,
                        done => return done,
                    }
                }
            }
        }
    }

    fn remove(
        &self,
        path: RelPath,
        expected: EntryDigest,
        batch: &mut Batch<'_, '_, '_>,
    ) -> Result<(), LinkError> {
        batch.writer.op(&Op::Remove { path: path.clone(), expected })?;
        batch.record.effects.push(Effect::Remove { path, moved: false });
        Ok(())
    }

    /// What was at `from` moved, and is not where it moved to any more: the walk that saw it there did not have
    /// `from` removed, and no event will have it looked at again.
    fn remove_former(
        &self,
        from: &RelPath,
        batch: &mut Batch<'_, '_, '_>,
    ) -> Result<(), IngestError> {
        match self.catalog.get(from)? {
            Some(old) if !self.stands(from) => {
                Ok(self.remove(from.clone(), old.entry.digest(), batch)?)
            }
            _ => Ok(()),
        }
    }

    /// The open parent of `path`, and its name.
    fn parent_of(&mut self, path: &RelPath) -> Result<(&S::Directory, Vec<u8>), ObserveError> {
        let Some(parent) = path.parent_bytes() else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput))
                .at_step("opening its directory");
        };
        let name = path.name().to_vec();
        let open = self.parent.as_ref().is_some_and(|(p, _)| p.as_bytes() == parent);
        if !open && let Some((parent, _)) = path.split() {
            let directory = self
                .storage
                .open_directory(self.storage.root(), parent.as_bytes())
                .at_step("opening its directory")?;
            self.parent = Some((parent, directory));
        }
        match &self.parent {
            Some((_, directory)) => Ok((directory, name)),
            None => Err(ObserveError::Changed),
        }
    }

    /// Facts to compare the next walk with; none when the file changed so lately that a later
    /// change may carry the same time.
    fn facts(&self, stat: &Stat) -> Option<LocalFacts> {
        self.facts_seen(stat, (self.now)())
    }

    /// The same of facts that were looked at after `seen`.
    fn facts_seen(&self, stat: &Stat, seen: Timestamp) -> Option<LocalFacts> {
        let age = seen.nanos_since(stat.ctime);
        match stat.kind {
            _ if age >= self.racy_ns => Some(LocalFacts::of(stat)),
            // Which directory it is must be known: another one in its place is looked at deep.
            FileKind::Directory => Some(LocalFacts::unsettled(stat)),
            _ => None,
        }
    }

    fn look(
        &mut self,
        path: &RelPath,
        moved_from: Option<&RelPath>,
        batch: &mut Batch<'_, '_, '_>,
    ) -> Result<(), Failure> {
        let known = self.catalog.get(path)?.map(|r| r.entry);
        if path.is_root() {
            let root = Object::Directory(self.storage.root());
            let stat = self.storage.stat(root).at_step("looking at it")?;
            let meta = metadata(self.storage, root, &stat)?;
            return self.node(path, Entry::Directory { meta }, &stat, known, batch);
        }
        let storage = self.storage;
        let (directory, name) = self.parent_of(path)?;
        let stat = storage.stat(Object::Named(directory, &name)).at_step("looking at it")?;
        if stat.kind != FileKind::Regular {
            let entry = describe_node(storage, directory, &name, &stat)?;
            if let Some(from) = moved_from
                && self.try_move(from, path, &entry, None, &stat, batch)?
            {
                return Ok(());
            }
            return self.node(path, entry, &stat, known, batch);
        }
        if let Some(from) = moved_from
            && self.moved_file(from, path, &stat, batch)?
        {
            return Ok(());
        }
        if stat.size <= SMALL_FILE_MAX {
            self.small_file(path, known, None, batch)
        } else {
            self.large_file(path, known, batch)
        }
    }

    fn node(
        &self,
        path: &RelPath,
        entry: Entry,
        stat: &Stat,
        known: Option<Entry>,
        batch: &mut Batch<'_, '_, '_>,
    ) -> Result<(), Failure> {
        let record = Record { entry: entry.clone(), facts: self.facts(stat) };
        if known.as_ref() == Some(&entry) {
            batch.record.refreshed.push((path.clone(), record, None));
            return Ok(());
        }
        let only_meta = known.is_some_and(|k| k.same_but_metadata(&entry));
        let (op, kind) = if only_meta {
            (Op::Meta { path: path.clone(), entry }, EffectKind::Metadata)
        } else {
            (Op::Put { path: path.clone(), entry }, EffectKind::Written)
        };
        Ok(batch.put(&op, path.clone(), record, None, kind)?)
    }

    /// Whether anything stands at `path` at the source.
    fn stands(&self, path: &RelPath) -> bool {
        let Some((parent, name)) = path.split() else { return true };
        self.storage
            .open_directory(self.storage.root(), parent.as_bytes())
            .and_then(|d| self.storage.stat(Object::Named(&d, name)))
            .is_ok()
    }

    /// Reads a small file, unless it was `read` already, and sends it.
    fn small_file(
        &mut self,
        path: &RelPath,
        known: Option<Entry>,
        read: Option<SmallRead>,
        batch: &mut Batch<'_, '_, '_>,
    ) -> Result<(), Failure> {
        let SmallRead { read, seen } = match read {
            Some(read) => read,
            None => self.read_small(path)?,
        };
        let SmallContent { before, bytes, xattrs, after: stat } =
            read.map_err(ObserveError::from)?;
        if bytes.len() as u64 != before.size || !same_content_facts(&before, &stat) {
            return Err(ObserveError::Changed.into());
        }
        let meta = metadata_with(xattrs, &before)?;
        Progress::add(&self.progress.read_bytes, stat.size);
        let content = FileDigest::of_small(&bytes);
        let entry = Entry::File { size: stat.size, content, meta };
        let record = Record { entry, facts: self.facts_seen(&stat, seen) };
        self.send_small(path, record, (content, &bytes), known, batch)
    }

    fn read_small(&mut self, path: &RelPath) -> Result<SmallRead, ObserveError> {
        let (storage, seen) = (self.storage, (self.now)());
        let (at, name) = self.parent_of(path)?;
        let file = SmallFile { at, name: &name };
        match storage.read_small_files(&[file], SMALL_FILE_MAX).pop() {
            Some(read) => Ok(SmallRead { read, seen }),
            None => Err(ObserveError::Changed),
        }
    }

    fn send_small(
        &self,
        path: &RelPath,
        record: Record,
        (content, bytes): (FileDigest, &[u8]),
        known: Option<Entry>,
        batch: &mut Batch<'_, '_, '_>,
    ) -> Result<(), Failure> {
        let (entry, size) = (record.entry.clone(), bytes.len() as u64);
        if let Some(known) = known.filter(|k| k.same_but_metadata(&entry)) {
            return self.unchanged_content(path, &known, record, None, batch);
        }
        let id = ChunkId(content.0);
        let held = !bytes.is_empty()
            && !self.index.is_distrusted(&id)
            && (self.catalog.has_content(&content)? || !self.index.claim(content, batch.number));
        let op = if held {
            Progress::add(&self.progress.reused_bytes, size);
            Op::Reuse { path: path.clone(), entry }
        } else {
            Progress::add(&self.progress.literal_bytes, size);
            batch.record.contents.push(content);
            Op::Small { path: path.clone(), entry, bytes }
        };
        Ok(batch.put(&op, path.clone(), record, None, EffectKind::Written)?)
    }

    /// The target's content is right already; its metadata may not be.
    fn unchanged_content(
        &self,
        path: &RelPath,
        known: &Entry,
        record: Record,
        recipe: Option<Arc<Recipe>>,
        batch: &mut Batch<'_, '_, '_>,
    ) -> Result<(), Failure> {
        if *known == record.entry {
            batch.record.refreshed.push((path.clone(), record, recipe));
            return Ok(());
        }
        let op = Op::Meta { path: path.clone(), entry: record.entry.clone() };
        Ok(batch.put(&op, path.clone(), record, recipe, EffectKind::Metadata)?)
    }

    /// Whether the target holds content for which the catalog has no recipe: a crash lost it, and
    /// the comparison with the target brought back the entry alone.
    fn lacks_recipe(&self, known: &Entry, batch: u64) -> Result<bool, CatalogError> {
        let Some(content) = known.content() else { return Ok(false) };
        Ok(!self.index.is_distrusted(&ChunkId(content.0))
            && self.index.recipe(content, batch).is_none()
            && self.catalog.recipe(content)?.is_none())
    }

    /// Reads a larger file to its end before anything of it is sent; done, with its facts, when it is what
    /// the target holds.
    fn is_held_already(
        &mut self,
        path: &RelPath,
        known: &Entry,
        batch: &mut Batch<'_, '_, '_>,
    ) -> Result<Option<Stat>, Failure> {
        let storage = self.storage;
        let expected = self.catalog.expected(known)?;
        let mut chunker = self.chunker.take();
        let (directory, name) = self.parent_of(path)?;
        let stat = storage.stat(Object::Named(directory, &name)).at_step("looking at it")?;
        let described = (stat.size == known.size())
            .then(|| describe_file(storage, directory, &name, expected.as_ref(), &mut chunker));
        self.chunker = chunker;
        let Some((entry, recipe, stat)) = described.transpose()? else { return Ok(None) };
        Progress::add(&self.progress.read_bytes, stat.size);
        if !known.same_but_metadata(&entry) {
            return Ok(None);
        }
        Progress::add(&self.progress.reused_bytes, stat.size);
        let record = Record { entry, facts: self.facts(&stat) };
        self.unchanged_content(path, known, record, recipe.map(Arc::new), batch)?;
        Ok(Some(stat))
    }

    /// What cuts a larger file: what cut its former version, so that they share chunks; for a file
    /// that begins as one an older chunking cut, that; else the newest.
    fn chunking_of(
        &mut self,
        file: &S::File,
        stat: &Stat,
        known: Option<&Entry>,
    ) -> Result<ChunkingId, Failure> {
        let expected = known.map(|k| self.catalog.expected(k)).transpose()?.flatten();
        if let Some(former) = expected.and_then(|e| e.chunking) {
            return Ok(former.next(stat.size));
        }
        let [newest, older] = ChunkingId::possible(stat.size);
        let asked = match self.older_held {
            Some(held) => held,
            None => *self.older_held.insert(self.catalog.holds_older_chunkings()?),
        };
        if !asked {
            return Ok(newest);
        }
        let chunker = chunker_for(older, &mut self.older_chunker);
        let first = first_extent(self.storage, file, stat, chunker)?;
        let Some(Extent::Chunk { id, .. }) = first else { return Ok(newest) };
        let Some((content, _)) = self.catalog.chunk(&id)? else { return Ok(newest) };
        // Content of one chunk has no recipe; what this chunking's cut found was cut by it.
        Ok(self.catalog.chunking(&content)?.map_or(older, |c| c.next(stat.size)))
    }

    fn large_file(
        &mut self,
        path: &RelPath,
        known: Option<Entry>,
        batch: &mut Batch<'_, '_, '_>,
    ) -> Result<(), Failure> {
        self.large_file_seen(path, known, batch, &mut None)
    }

    /// The same; `seen` are its facts before and after, when it was read whole.
    fn large_file_seen(
        &mut self,
        path: &RelPath,
        known: Option<Entry>,
        batch: &mut Batch<'_, '_, '_>,
        seen: &mut Option<Stat>,
    ) -> Result<(), Failure> {
        if let Some(known) = &known
            && self.lacks_recipe(known, batch.number)?
            && let Some(stat) = self.is_held_already(path, known, batch)?
        {
            *seen = Some(stat);
            return Ok(());
        }
        let storage = self.storage;
        let (directory, name) = self.parent_of(path)?;
        let file = storage.open_file(directory, &name).at_step("opening it")?;
        let before = storage.stat(Object::File(&file)).at_step("looking at it")?;
        let chunking = self.chunking_of(&file, &before, known.as_ref())?;
        let mut kept = self.chunker.take();
        let chunker = chunker_for(chunking, &mut kept);
        let basis = known.as_ref().and_then(|k| Some((*k.content()?, k.size())));
        let mut sender = LargeSender::new(self, path, &before, basis, chunker.id(), batch)?;
        let visit = &mut |extent, bytes: &[u8]| sender.extent(extent, bytes);
        let helped = self.helped.filter(|_| before.size >= AHEAD_MIN && self.index.is_only_large());
        let read = match helped {
            Some(_) => read_ahead(storage, &file, &before, chunker, helped, visit),
            None => read_extents::<S, Failure>(storage, &file, &before, chunker, visit),
        };
        let read = read.and_then(|()| sender.complete());
        let LargeSender { begun, recipe, guard, .. } = sender;
        self.chunker = kept;
        let whole = read.and_then(|()| {
            let meta = metadata(storage, Object::File(&file), &before)?;
            let after = storage.stat(Object::File(&file)).at_step("looking at it again")?;
            if recipe.size() != before.size || !same_content_facts(&before, &after) {
                return Err(ObserveError::Changed.into());
            }
            Ok((meta, after))
        });
        Progress::add(&self.progress.read_bytes, before.size);
        let (meta, stat) = match whole {
            Ok(whole) => whole,
            Err(e) => {
                if begun && matches!(e, Failure::Entry(_)) {
                    batch.writer.op(&Op::Abort)?;
                }
                return Err(e);
            }
        };
        *seen = Some(stat);
        let content = recipe.digest();
        let entry = Entry::File { size: before.size, content, meta };
        let recipe = Arc::new(recipe);
        let record = Record { entry: entry.clone(), facts: self.facts(&stat) };
        if !begun {
            Progress::add(&self.progress.reused_bytes, before.size);
            if let Some(known) = known.filter(|k| k.same_but_metadata(&entry)) {
                return self.unchanged_content(path, &known, record, Some(recipe), batch);
            }
            let op = Op::Reuse { path: path.clone(), entry };
            return Ok(batch.put(&op, path.clone(), record, Some(recipe), EffectKind::Written)?);
        }
        self.index.add_recipe(content, &recipe, batch.number);
        drop(guard);
        batch.record.contents.push(content);
        let op = Op::End { entry, chunking: recipe.chunking };
        Ok(batch.put(&op, path.clone(), record, Some(recipe), EffectKind::Written)?)
    }
}

/// Where the walk took what a change is of to have moved from.
fn former_of(change: &Change) -> Option<RelPath> {
    match change {
        Change::Look { moved_from, .. } => moved_from.clone(),
        Change::Link { .. } | Change::Remove { .. } => None,
    }
}

/// Whether opening a file found something else there.
fn is_other_kind(e: &ObserveError) -> bool {
    use rustix::io::Errno;
    let other = [Errno::LOOP, Errno::INVAL];
    matches!(e, ObserveError::System { source, .. }
        if source.raw_os_error().is_some_and(|raw| other.iter().any(|o| o.raw_os_error() == raw)))
}

/// An error and what caused it, in one line.
#[must_use]
pub fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// The kind of a change, for a dry run.
#[must_use]
pub fn preview(change: &Change, known: Option<&Entry>) -> &'static str {
    match (change, known.map(Entry::kind)) {
        (Change::Remove { .. }, _) => "remove",
        (Change::Look { moved_from: Some(_), .. }, _) => "move",
        (Change::Link { .. }, None) | (Change::Look { .. }, None) => "create",
        (_, Some(EntryKind::Directory)) => "metadata",
        _ => "update",
    }
}

//! Building what a batch brings, in the staging folder, out of every account's sight.
//!
//! Guarantees: a staged file is complete, has its metadata, and every chunk of it and the whole were
//! checked against their digests, whether the bytes came over the wire or from content held here; a
//! basis that fails its check is asked for, never used. Refuses paths into Farshore's own folder and
//! files longer than announced. Nothing staged survives a crash as such: without its journal record
//! it is removed at the next start.

use std::collections::{BTreeSet, HashMap};
use std::io;

use farshore_core::chunking::Chunker;
use farshore_core::codec::{DecodeError, Decoder};
use farshore_core::entry::{Entry, EntryDigest, EntryKind, Metadata, Xattrs};
use farshore_core::limits::SMALL_FILE_MAX;
use farshore_core::path::RelPath;
use farshore_core::recipe::{ChunkId, FileDigest, Recipe};
use farshore_proto::message::{BATCH_OPS_MAX, Failure, FailureKind, PROTOCOL_VERSION};
use farshore_proto::op::Op;

use crate::OWN_FOLDER;
use crate::ahead::log;
use crate::catalog::{Catalog, CatalogError, LocalFacts};
use crate::contents::{Applied, open_content};
use crate::frames::{FrameError, FrameReader};
use crate::io::{FileKind, NewNode, Object, Storage};
use crate::metadata::{Degraded, Present, apply_metadata};
use crate::own_folder::{OwnFolder, remove_tree};
use crate::profile::{Profile, Stage};

mod adopt;
mod assembly;
mod bounds;
mod carry;
mod laid;
mod patch;
pub(crate) mod restore;
mod reuse;
mod small;
mod space;

use assembly::{Assembly, Basis};
use patch::Parts;
use small::Waiting;
pub(crate) use space::left_to_small;

#[cfg(test)]
mod tests;

/// Bytes of a large file after which its writing back is started, again and again.
const WRITEBACK: u64 = 8 << 20;
/// Blocks of zeros this long become holes in a file that has holes at the source.
const HOLE: usize = 4096;

/// A file has at most so many extents, and one more for each [`CHUNK_MEAN`] bytes of chunks: no
/// chunking makes more. A run names many with a few bytes: see [`bounds`] for what else is bounded.
const SHORT_CHUNKS: u64 = 4_096;
/// See [`SHORT_CHUNKS`]: a block of the finest holes there are.
const CHUNK_MEAN: u64 = 512;

/// Why a batch cannot be staged; the session ends.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The stream broke off or is no batch.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// An operation is malformed or out of order.
    #[error("operation from the peer")]
    Decode(#[from] DecodeError),
    /// The catalog cannot be read.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The file system cannot take it: full, read-only, failing.
    #[error("staging {path}: {step}")]
    Disk {
        /// For which path.
        path: RelPath,
        /// What was to be done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// What staging one operation made.
#[derive(Debug)]
pub enum Staged {
    /// A staged object to be placed.
    Place {
        /// The operation's number: the object's name in the batch's folder.
        number: u32,
        /// Where.
        path: RelPath,
        /// What.
        entry: Entry,
    },
    /// An object within a staged directory.
    Inside {
        /// Where.
        path: RelPath,
        /// What.
        entry: Entry,
        /// The facts of its inode, where they are known to stay as they are until it is placed.
        facts: Option<LocalFacts>,
    },
    /// A removal.
    Remove {
        /// The operation's number.
        number: u32,
        /// Where.
        path: RelPath,
        /// What is expected there.
        expected: EntryDigest,
    },
    /// A move.
    Move {
        /// The operation's number.
        number: u32,
        /// From where.
        from: RelPath,
        /// What is expected there.
        expected: EntryDigest,
        /// Where to.
        to: RelPath,
        /// What it is then.
        entry: Entry,
    },
    /// A further name.
    Link {
        /// The operation's number.
        number: u32,
        /// Where.
        path: RelPath,
        /// Its first name.
        leader: RelPath,
    },
    /// Metadata, of a file or of a directory that stands already.
    Meta {
        /// Where.
        path: RelPath,
        /// What it is then.
        entry: Entry,
    },
}

/// A batch whose operations are staged.
#[derive(Debug, Default)]
pub struct StagedBatch {
    /// Its number.
    pub batch: u64,
    /// In the order of its operations.
    pub staged: Vec<Staged>,
    /// What could not be staged.
    pub failures: Vec<Failure>,
    /// What the mount could not keep.
    pub degraded: Degraded,
    /// Recipes of the larger files in it.
    pub recipes: HashMap<FileDigest, Recipe>,
    /// What of the content held ahead was copied from: some of what is held, of which there is a bounded number.
    pub built_on: BTreeSet<FileDigest>,
    /// Content that was held ahead and has a name in the batch's folder now: the path it is for, and its slot.
    pub adopted: Vec<(RelPath, u64)>,
    /// Whether what it displaces is durable in history before anything takes its place: at the cost of a
    /// sync no power cut loses a version then, whatever order a file system keeps names in.
    pub keeps_displaced: bool,
}

impl StagedBatch {
    /// Whether it neither removes, moves, nor needs a file to be as it was.
    #[must_use]
    pub fn only_adds(&self) -> bool {
        self.staged.iter().all(|staged| match staged {
            Staged::Place { .. } | Staged::Inside { .. } | Staged::Link { .. } => true,
            Staged::Meta { entry, .. } => entry.kind() == EntryKind::Directory,
            Staged::Remove { .. } | Staged::Move { .. } => false,
        })
    }
}

/// The name of a batch's staging folder.
#[must_use]
pub fn folder_name(batch: u64) -> String {
    format!("b{batch}")
}

/// Whether an error says that the file system cannot take more, rather than that this one object
/// is refused.
#[must_use]
pub fn is_fatal(e: &io::Error) -> bool {
    use io::ErrorKind as K;
    is_full(e)
        || matches!(e.kind(), K::ReadOnlyFilesystem | K::StaleNetworkFileHandle)
        || e.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
        || e.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error())
        || e.raw_os_error() == Some(rustix::io::Errno::NFILE.raw_os_error())
}

/// Whether an error says that there is no room.
#[must_use]
pub fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// How a target stages.
#[derive(Debug, Clone, Copy)]
pub struct StageConfig {
    /// Whether device nodes are made; otherwise each is refused by name.
    pub devices: bool,
    /// Whether a file too large for what is free is a failure of that file; otherwise it ends the session,
    /// as a full disk does. What is no larger than [`SMALL_FILE_MAX`] always does: then nothing fits.
    pub passes_over_too_large: bool,
}

/// Stages one batch.
pub struct Stager<'a, S: Storage> {
    storage: &'a S,
    catalog: &'a Catalog,
    own: &'a OwnFolder<S>,
    applied: &'a Applied,
    config: StageConfig,
    folder: S::Directory,
    out: StagedBatch,
    number: u32,
    /// Whether an inode's times are final when the call that set them returns.
    times_settle: bool,
    /// New directories of this batch: their handles, by path.
    directories: HashMap<RelPath, S::Directory>,
    /// Content staged in this batch: a directory of this batch (or its folder) and a name.
    contents: HashMap<FileDigest, (Option<RelPath>, Vec<u8>)>,
    basis: Option<Basis<S>>,
    former_basis: Option<Basis<S>>,
    /// The recipe used last.
    parts: Option<Parts>,
    assembly: Option<Assembly<S>>,
    /// The log of content that arrives ahead of its cut; taken by its file.
    log: Option<log::Writer<S>>,
    /// Whether this is no batch, but content that arrives ahead of its cut.
    carries: bool,
    /// The version of the protocol that is spoken.
    version: u16,
    /// What a receipt takes to name all operations so far, in bytes.
    names: usize,
    /// Missing chunks that the receipt will tell of.
    told: usize,
    kept: bounds::Kept,
    chunker: Option<Chunker>,
    buf: Vec<u8>,
}

impl<S: Storage> std::fmt::Debug for Stager<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stager").field("batch", &self.out.batch).finish_non_exhaustive()
    }
}

/// Where an object is staged.
#[derive(Debug, Clone)]
struct Slot {
    /// A new directory of the batch; `None` for the batch's folder.
    parent: Option<RelPath>,
    name: Vec<u8>,
}

enum OpError {
    /// This operation alone.
    Failure(FailureKind, String),
    Fatal(StageError),
}

impl From<CatalogError> for OpError {
    fn from(e: CatalogError) -> Self {
        Self::Fatal(e.into())
    }
}

fn refused(text: impl Into<String>) -> OpError {
    OpError::Failure(FailureKind::Refused, text.into())
}

fn basis_missing(chunks: Vec<ChunkId>) -> OpError {
    OpError::Failure(FailureKind::Basis(chunks), "the basis is not here".into())
}

impl<'a, S: Storage> Stager<'a, S> {
    /// Makes the batch's staging folder, empty.
    ///
    /// # Errors
    /// [`StageError::Disk`].
    pub fn new(
        storage: &'a S,
        catalog: &'a Catalog,
        own: &'a OwnFolder<S>,
        applied: &'a Applied,
        config: StageConfig,
        batch: u64,
    ) -> Result<Self, StageError> {
        let name = folder_name(batch);
        let fail = |source| StageError::Disk {
            path: RelPath::root(),
            step: "making the batch's folder",
            source,
        };
        let folder = remove_tree(storage, &own.staging, name.as_bytes())
            .and_then(|()| storage.make_directory(&own.staging, name.as_bytes()))
            .and_then(|()| storage.open_directory(&own.staging, name.as_bytes()))
            .map_err(fail)?;
        Self::within(storage, catalog, own, applied, config, (folder, batch))
    }

    /// One that stages in `folder`.
    fn within(
        storage: &'a S,
        catalog: &'a Catalog,
        own: &'a OwnFolder<S>,
        applied: &'a Applied,
        config: StageConfig,
        (folder, batch): (S::Directory, u64),
    ) -> Result<Self, StageError> {
        let fail = |source| StageError::Disk {
            path: RelPath::root(),
            step: "asking for its file system",
            source,
        };
        let times_settle = times_settle(storage.file_system().map_err(fail)?);
        Ok(Self {
            storage,
            catalog,
            own,
            applied,
            config,
            folder,
            out: StagedBatch { batch, ..StagedBatch::default() },
            number: 0,
            times_settle,
            directories: HashMap::new(),
            contents: HashMap::new(),
            basis: None,
            former_basis: None,
            parts: None,
            assembly: None,
            log: None,
            carries: false,
            version: PROTOCOL_VERSION,
            names: 0,
            told: 0,
            kept: bounds::Kept::default(),
            chunker: None,
            buf: Vec::new(),
        })
    }

    /// Reads the batch to its end.
    ///
    /// # Errors
    /// [`StageError`]; what goes wrong with one operation is in [`StagedBatch::failures`].
    pub fn run(
        mut self,
        reader: &mut FrameReader,
        profile: &Profile,
    ) -> Result<StagedBatch, StageError> {
        let mut payload = Vec::new();
        let mut closed = false;
        let mut ops = 0u64;
        while profile.time(Stage::Receive, || reader.next_frame(&mut payload))? {
            let mut d = Decoder::new(&payload);
            let mut waiting = Vec::new();
            while d.remaining() > 0 {
                let op = Op::decode(&mut d)?;
                if closed {
                    return Err(DecodeError::Invalid {
                        what: "operation after the last",
                        found: 0,
                    }
                    .into());
                }
                if let Op::Close { ops: announced } = op {
                    if announced != ops || self.assembly.is_some() {
                        let found = announced;
                        return Err(DecodeError::Invalid { what: "batch end", found }.into());
                    }
                    closed = true;
                    continue;
                }
                ops += 1;
                self.op(op, &mut waiting)?;
            }
            self.create_waiting(&mut waiting)?;
        }
        if !closed {
            return Err(FrameError::EndedEarly.into());
        }
        Ok(self.out)
    }

    fn op<'p>(&mut self, op: Op<'p>, waiting: &mut Vec<Waiting<'p>>) -> Result<(), StageError> {
        check_paths(&op)?;
        self.check_version(&op)?;
        let in_file = matches!(
            op,
            Op::Literal { .. }
                | Op::Copy { .. }
                | Op::Zero { .. }
                | Op::End { .. }
                | Op::Abort
                | Op::Base { .. }
                | Op::CopyRun { .. }
                | Op::Patch { .. }
        );
        if in_file != self.assembly.is_some() {
            return Err(DecodeError::Invalid { what: "operation out of order", found: 0 }.into());
        }
        if in_file || matches!(op, Op::Reuse { .. } | Op::Begin { .. }) {
            // It may look for their content.
            self.create_waiting(waiting)?;
        }
        if in_file {
            return self.file_op(op);
        }
        if self.out.staged.len() + self.out.failures.len() >= BATCH_OPS_MAX {
            let (found, limit) = (BATCH_OPS_MAX as u64 + 1, BATCH_OPS_MAX as u64);
            return Err(
                DecodeError::LimitExceeded { what: "operations of a batch", found, limit }.into()
            );
        }
        self.count_names(&op)?;
        self.number += 1;
        self.check_carried(&op)?;
        let path = path_of(&op);
        match self.entry_op(op, waiting) {
            Ok(()) => Ok(()),
            Err(OpError::Failure(kind, text)) => {
                self.out.failures.push(Failure { path, kind, text });
                Ok(())
            }
            Err(OpError::Fatal(e)) => Err(e),
        }
    }

    fn entry_op<'p>(&mut self, op: Op<'p>, waiting: &mut Vec<Waiting<'p>>) -> Result<(), OpError> {
        let number = self.number;
        match op {
            Op::Remove { path, expected } => {
                self.out.staged.push(Staged::Remove { number, path, expected });
                Ok(())
            }
            Op::Move { from, expected, to, entry } => {
                self.out.staged.push(Staged::Move { number, from, expected, to, entry });
                Ok(())
            }
            Op::Meta { path, entry } => {
                self.out.staged.push(Staged::Meta { path, entry });
                Ok(())
            }
            Op::Put { path, entry } => self.put(path, entry),
            Op::Small { path, entry, bytes } => self.small(path, entry, bytes, waiting),
            Op::Reuse { path, entry } => self.reuse(path, entry),
            Op::Begin { path, size, sparse } => self.begin(path, size, sparse),
            _ => Err(refused("operation out of order")),
        }
    }

    /// Turns a failed call into this operation's failure, or ends the session.
    fn failed(path: &RelPath, step: &'static str) -> impl Fn(io::Error) -> OpError {
        let path = path.clone();
        move |source| {
            if is_fatal(&source) {
                OpError::Fatal(StageError::Disk { path: path.clone(), step, source })
            } else {
                refused(format!("{step}: {source}"))
            }
        }
    }

    /// Where the object for `path` is staged: in its parent, if that is new in this batch too.
    fn slot(&self, path: &RelPath) -> Slot {
        match path.split() {
            Some((parent, name)) if self.directories.contains_key(&parent) => {
                Slot { parent: Some(parent), name: name.to_vec() }
            }
            _ => Slot { parent: None, name: self.number.to_string().into_bytes() },
        }
    }

    fn slot_directory(&self, slot: &Slot) -> &S::Directory {
        slot.parent.as_ref().and_then(|p| self.directories.get(p)).unwrap_or(&self.folder)
    }

    fn staged(&mut self, slot: &Slot, path: RelPath, entry: Entry, facts: Option<LocalFacts>) {
        self.holds(slot, &entry);
        self.list(slot, path, entry, facts);
    }

    /// What is staged at `slot` may be copied from now on.
    fn holds(&mut self, slot: &Slot, entry: &Entry) {
        if let Some(content) = entry.content() {
            self.contents.insert(*content, (slot.parent.clone(), slot.name.clone()));
        }
    }

    fn list(&mut self, slot: &Slot, path: RelPath, entry: Entry, facts: Option<LocalFacts>) {
        self.out.staged.push(match slot.parent {
            Some(_) => Staged::Inside { path, entry, facts },
            None => Staged::Place { number: self.number, path, entry },
        });
    }

    fn put(&mut self, path: RelPath, entry: Entry) -> Result<(), OpError> {
        let storage = self.storage;
        match &entry {
            Entry::HardLink { leader } => {
                let (number, leader) = (self.number, leader.clone());
                self.out.staged.push(Staged::Link { number, path, leader });
                return Ok(());
            }
            Entry::Directory { .. } => return self.put_directory(path, entry),
            Entry::CharDevice { .. } | Entry::BlockDevice { .. } if !self.config.devices => {
                return Err(refused("device nodes are refused here (--no-devices)"));
            }
            _ => {}
        }
        let slot = self.slot(&path);
        let at = self.slot_directory(&slot);
        let fail = Self::failed(&path, "making it");
        let kind = match &entry {
            Entry::Symlink { target, .. } => {
                storage.make_symlink(at, &slot.name, target).map_err(fail)?;
                FileKind::Symlink
            }
            Entry::Fifo { .. } => {
                storage.make_node(at, &slot.name, NewNode::Fifo).map_err(fail)?;
                FileKind::Fifo
            }
            Entry::Socket { .. } => {
                storage.make_node(at, &slot.name, NewNode::Socket).map_err(fail)?;
                FileKind::Socket
            }
            Entry::CharDevice { number, .. } => {
                storage.make_node(at, &slot.name, NewNode::CharDevice(*number)).map_err(fail)?;
                FileKind::CharDevice
            }
            Entry::BlockDevice { number, .. } => {
                storage.make_node(at, &slot.name, NewNode::BlockDevice(*number)).map_err(fail)?;
                FileKind::BlockDevice
            }
            _ => return Err(refused("a file without its content")),
        };
        let object = Object::Named(self.slot_directory(&slot), &slot.name);
        let mut degraded = Degraded::default();
        if let Some(meta) = entry.meta() {
            self.set_metadata(object, kind, meta, None, &mut degraded)
                .map_err(Self::failed(&path, "setting its metadata"))?;
        }
        self.out.degraded.merge(&degraded);
        self.staged(&slot, path, entry, None);
        Ok(())
    }

    fn set_metadata(
        &self,
        object: Object<'_, S>,
        kind: FileKind,
        meta: &Metadata,
        mode: Option<u32>,
        degraded: &mut Degraded,
    ) -> io::Result<()> {
        let none = Xattrs::default();
        let fresh = self.own.fresh(self.storage)?;
        let present = Present { owner: fresh.owner, mode, xattrs: &none };
        apply_metadata(self.storage, object, kind, meta, present, degraded)
    }

    fn put_directory(&mut self, path: RelPath, entry: Entry) -> Result<(), OpError> {
        if path.is_root() || self.is_live_directory(&path) {
            self.out.staged.push(Staged::Meta { path, entry });
            return Ok(());
        }
        let slot = self.slot(&path);
        let at = self.slot_directory(&slot);
        let made = self
            .storage
            .make_directory(at, &slot.name)
            .and_then(|()| self.storage.open_directory(at, &slot.name))
            .map_err(Self::failed(&path, "making it"))?;
        self.directories.insert(path.clone(), made);
        self.staged(&slot, path, entry, None);
        Ok(())
    }

    fn is_live_directory(&self, path: &RelPath) -> bool {
        self.storage.open_directory(self.storage.root(), path.as_bytes()).is_ok()
    }

    /// Makes the file for `entry`, with the mode it is to have where that can be given at once; and
    /// that mode.
    fn create(&self, slot: &Slot, entry: &Entry) -> io::Result<(S::File, u32)> {
        let (mode, kept) = self.mode_of(entry)?;
        let file = self.storage.create_file_as(self.slot_directory(slot), &slot.name, mode)?;
        Ok((file, kept))
    }

    /// The permission bits to create a file with, and those of them it keeps.
    fn mode_of(&self, entry: &Entry) -> io::Result<(u32, u32)> {
        const OURS: u32 = 0o600;
        let wanted = entry.meta().map_or(OURS, |m| m.mode & 0o777);
        // What its owner may not write is closed when its content is complete.
        let mode = if wanted & OURS == OURS { wanted } else { OURS };
        Ok((mode, mode & self.own.fresh(self.storage)?.mode_kept))
    }

    /// Gives a file whose content is complete its metadata; with it comes the mode it was made with, if
    /// that is known. Answers its facts when nothing will change
    /// them any more: within a new directory it comes into place without being touched itself.
    fn finish(
        &self,
        slot: &Slot,
        (file, mode): (&S::File, Option<u32>),
        path: &RelPath,
        entry: &Entry,
        degraded: &mut Degraded,
    ) -> Result<Option<LocalFacts>, OpError> {
        // What arrives ahead gets its metadata when it is placed.
        let Some(meta) = entry.meta().filter(|_| !self.carries) else { return Ok(None) };
        self.set_metadata(Object::File(file), FileKind::Regular, meta, mode, degraded)
            .map_err(Self::failed(path, "setting its metadata"))?;
        if slot.parent.is_none() || !self.times_settle {
            return Ok(None);
        }
        let stat =
            self.storage.stat(Object::File(file)).map_err(Self::failed(path, "looking at it"))?;
        Ok((stat.size == entry.size()).then(|| LocalFacts::of(&stat)))
    }

    /// The same, what the mount could not keep counted for the batch.
    fn finish_file(
        &mut self,
        slot: &Slot,
        file: (&S::File, Option<u32>),
        path: &RelPath,
        entry: &Entry,
    ) -> Result<Option<LocalFacts>, OpError> {
        let mut degraded = Degraded::default();
        let facts = self.finish(slot, file, path, entry, &mut degraded);
        self.out.degraded.merge(&degraded);
        facts
    }

    /// Opens content staged in this batch or held by the target; waits for earlier batches that may
    /// bring it.
    fn open_basis(&mut self, content: &FileDigest) -> Result<Option<S::File>, CatalogError> {
        if self.carries && self.own.ahead.get(content).is_some() {
            self.out.built_on.insert(*content);
        }
        if let Some((parent, name)) = self.contents.get(content) {
            let slot = Slot { parent: parent.clone(), name: name.clone() };
            return Ok(self.storage.open_file(self.slot_directory(&slot), &slot.name).ok());
        }
        let open = || open_content(self.storage, self.catalog, self.own, content);
        if let Some(file) = open()? {
            return Ok(Some(file));
        }
        if self.applied.wait_for(self.out.batch - 1) { open() } else { Ok(None) }
    }

    /// Removes a staged object that came to nothing. What stays behind goes with the folder. What
    /// arrived ahead stays, as far as its log says.
    fn discard(&self, slot: &Slot) {
        if self.carries {
            return;
        }
        drop(self.storage.unlink(self.slot_directory(slot), &slot.name));
    }
}

/// Whether the file system with this magic number keeps times itself: a server may set them once more
/// when it writes data back.
pub(crate) fn times_settle(file_system: u64) -> bool {
    const EXT: u64 = 0xef53;
    const XFS: u64 = 0x5846_5342;
    const BTRFS: u64 = 0x9123_683e;
    const TMPFS: u64 = 0x0102_1994;
    matches!(file_system, EXT | XFS | BTRFS | TMPFS)
}

/// Writes one chunk; in a sparse file blocks of zeros are left out, so that they stay holes.
pub(crate) fn write_extent<S: Storage>(
    storage: &S,
    file: &S::File,
    offset: u64,
    bytes: &[u8],
    sparse: bool,
) -> io::Result<()> {
    if !sparse {
        return storage.write_at(file, offset, bytes);
    }
    #[allow(clippy::cast_possible_truncation)] // below HOLE
    let in_block = (offset % HOLE as u64) as usize;
    let mut at = 0;
    while at < bytes.len() {
        // Blocks lie on file offsets, not on chunk offsets.
        let next_block = |from: usize| {
            let past = (in_block + from) % HOLE;
            (from + HOLE - past).min(bytes.len())
        };
        let mut end = next_block(at);
        if bytes[at..end].iter().all(|&b| b == 0) {
            at = end;
            continue;
        }
        while end < bytes.len() && bytes[end..next_block(end)].iter().any(|&b| b != 0) {
            end = next_block(end);
        }
        storage.write_at(file, offset + at as u64, &bytes[at..end])?;
        at = end;
    }
    Ok(())
}

fn path_of(op: &Op<'_>) -> RelPath {
    match op {
        Op::Remove { path, .. }
        | Op::Put { path, .. }
        | Op::Small { path, .. }
        | Op::Reuse { path, .. }
        | Op::Meta { path, .. }
        | Op::Begin { path, .. } => path.clone(),
        Op::Move { to, .. } => to.clone(),
        _ => RelPath::root(),
    }
}

/// Nothing of the wire reaches Farshore's own folder.
fn check_paths(op: &Op<'_>) -> Result<(), DecodeError> {
    let ours = |path: &RelPath| path.components().next() == Some(OWN_FOLDER);
    let leader = match op {
        Op::Put { entry: Entry::HardLink { leader }, .. } => Some(leader),
        Op::Move { from, .. } => Some(from),
        _ => None,
    };
    if ours(&path_of(op)) || leader.is_some_and(|l| ours(l) || l.is_root()) {
        return Err(DecodeError::Invalid { what: "path in Farshore's own folder", found: 0 });
    }
    match op {
        Op::Meta { path, entry } if path.is_root() && entry.kind() != EntryKind::Directory => {
            Err(DecodeError::Invalid { what: "root entry", found: 0 })
        }
        Op::Meta { entry: Entry::HardLink { .. }, .. }
        | Op::Move { entry: Entry::HardLink { .. }, .. } => {
            Err(DecodeError::Invalid { what: "hard link entry", found: 0 })
        }
        Op::Move { entry: Entry::Directory { .. }, .. } => {
            Err(DecodeError::Invalid { what: "moved directory", found: 0 })
        }
        _ => Ok(()),
    }
}

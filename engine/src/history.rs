//! Former states of a target: which there are, what a path was, and going back.
//!
//! A target keeps the versions it displaced (`own_folder.rs`) and notes what each entry was before each
//! batch (`catalog/undo.rs`). By these the state after any batch that is not pruned is known: of the
//! recovery points above all. Guarantees: a state that is not known whole is refused, not guessed; content that
//! comes back is checked against its digest; listing and planning read the catalog alone.

use std::io;

use farshore_core::chunking::ChunkingId;
use farshore_core::entry::{Entry, EntryKind, Metadata};
use farshore_core::limits::SMALL_FILE_MAX;
use farshore_core::path::RelPath;
use farshore_core::recipe::{FileDigest, Recipe};

use crate::apply::ApplyError;
use crate::catalog::{CatalogError, CatalogReader, Former, KeptPoint, Location};
use crate::io::{Object, Storage};
use crate::observe::{Expected, ObserveError, chunker_for, read_extents};
use crate::plan::PlanError;
use crate::stage::StageError;
use crate::stage::restore::place_in;

pub mod plan;
pub mod rollback;
pub mod view;

pub use plan::{Change, Counts, plan};
pub use rollback::{Goal, Report, Rollback};
pub use view::View;

/// Places of one content that are tried.
const PLACES_MAX: usize = 64;

/// What an operator cannot have, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such point is kept.
    #[error("recovery point {0}: it is not kept; its history was pruned, or it never was")]
    UnknownPoint(u64),
    /// No point is as old.
    #[error("no recovery point that is kept is as old as that time")]
    NoPointBefore,
    /// There is none.
    #[error("there is no recovery point yet")]
    NoPoint,
    /// No point has this mark.
    #[error("mark '{0}': no recovery point that is kept has it")]
    UnknownMark(String),
    /// The history between then and now is not whole.
    #[error(
        "the state after batch {batch} is not restorable: history up to batch {floor} is pruned"
    )]
    Pruned {
        /// Which state.
        batch: u64,
        /// What is gone.
        floor: u64,
    },
    /// Nothing was recorded since.
    #[error(
        "there is no history to go back by: no recovery point was sealed since this catalog was made"
    )]
    NoHistory,
    /// A batch that is still to come.
    #[error("batch {0}: it was not applied here")]
    NotApplied(u64),
    /// What comes back does not fit.
    #[error("the target's file system has {free} bytes free, what comes back takes about {needed}")]
    NoRoom {
        /// Bytes needed.
        needed: u64,
        /// Bytes there are.
        free: u64,
    },
    /// Whoever asked for it is gone, or the site has something else to do.
    #[error("it is not wanted any more")]
    NotWanted,
    /// Nothing stood there then.
    #[error("{0}: it was not there then")]
    WasAbsent(RelPath),
    /// What stood there is no file.
    #[error("{path}: it was a {kind} then, not a file")]
    NoFile {
        /// Where.
        path: RelPath,
        /// What it was.
        kind: EntryKind,
    },
    /// No copy of the content is whole.
    #[error("{path}: {why}")]
    NoContent {
        /// Where.
        path: RelPath,
        /// What is wrong.
        why: String,
    },
}

/// Why history could not be read or gone back to.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// It cannot be had.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The tree cannot be checked.
    #[error("checking the target tree")]
    Check(#[from] PlanError),
    /// What comes back cannot be staged.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// A batch could not be applied; the next start goes on.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// A view cannot be made.
    #[error("view: {path}: {step}")]
    View {
        /// For which path.
        path: RelPath,
        /// What was to be done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The file system failed.
    #[error("history: {step}")]
    Disk {
        /// What was to be done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl HistoryError {
    /// What the file system said, when it was the one to fail.
    #[must_use]
    pub fn file_system(&self) -> Option<&io::Error> {
        match self {
            Self::Disk { source, .. }
            | Self::View { source, .. }
            | Self::Stage(StageError::Disk { source, .. })
            | Self::Apply(ApplyError::Disk { source, .. }) => Some(source),
            Self::Catalog(e)
            | Self::Apply(ApplyError::Catalog(e))
            | Self::Stage(StageError::Catalog(e)) => e.file_system(),
            _ => None,
        }
    }
}

/// A state as an operator names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// A recovery point by its sequence.
    Sequence(u64),
    /// The last recovery point whose T is not after this, in milliseconds since 1970-01-01 UTC.
    Time(i64),
    /// The last recovery point with this mark.
    Mark(String),
    /// The state after a batch, whether it was a recovery point or not.
    Batch(u64),
}

/// Refuses a state that is not known whole.
pub(crate) fn must_be_known(reader: &CatalogReader, batch: u64) -> Result<(), HistoryError> {
    let floor = reader.undo_floor()?.ok_or(Refusal::NoHistory)?;
    if batch < floor {
        return Err(Refusal::Pruned { batch, floor }.into());
    }
    if batch > reader.applied_batch()? {
        return Err(Refusal::NotApplied(batch).into());
    }
    Ok(())
}

/// Whether a point can be gone back to.
///
/// # Errors
/// [`CatalogError`].
pub fn is_restorable(reader: &CatalogReader, point: &KeptPoint) -> Result<bool, CatalogError> {
    Ok(reader.undo_floor()?.is_some_and(|floor| point.batch >= floor))
}

/// The state an operator names: its batch, and the point if it is one.
///
/// # Errors
/// [`HistoryError`]; [`Refusal`] when there is none, or it is not known whole.
pub fn find(
    reader: &CatalogReader,
    wanted: &Wanted,
) -> Result<(u64, Option<KeptPoint>), HistoryError> {
    let point = match wanted {
        Wanted::Sequence(sequence) => {
            Some(reader.point(*sequence)?.ok_or(Refusal::UnknownPoint(*sequence))?)
        }
        Wanted::Time(time) => {
            let points = reader.points()?.into_iter().rev();
            let mut as_old = points.filter(|p| p.point.time_unix_ms <= *time);
            Some(as_old.next().ok_or(Refusal::NoPointBefore)?)
        }
        Wanted::Mark(label) => {
            let points = reader.points()?.into_iter().rev();
            let mut marked = points.filter(|p| p.marks.iter().any(|m| m.label == *label));
            Some(marked.next().ok_or_else(|| Refusal::UnknownMark(label.clone()))?)
        }
        Wanted::Batch(_) => None,
    };
    let batch = match (&point, wanted) {
        (Some(point), _) => point.batch,
        (None, Wanted::Batch(batch)) => *batch,
        (None, _) => return Err(Refusal::NoPointBefore.into()),
    };
    must_be_known(reader, batch)?;
    Ok((batch, point))
}

/// The last recovery point, and its batch.
///
/// # Errors
/// [`HistoryError`]: there is none.
pub fn find_last(reader: &CatalogReader) -> Result<(u64, Option<KeptPoint>), HistoryError> {
    let last = reader.recovery_point()?.ok_or(Refusal::NoPoint)?;
    find(reader, &Wanted::Sequence(last.sequence))
}

/// Each former version of `path`, and of what is below it: in path order, of one path the oldest first.
///
/// # Errors
/// [`CatalogError`].
pub fn versions(
    reader: &CatalogReader,
    path: &RelPath,
) -> Result<impl Iterator<Item = Result<Former, CatalogError>> + use<>, CatalogError> {
    Ok(reader.formers_at(path)?.chain(reader.formers_below(path, 0, false)?))
}

/// What stood at `path` after `batch`; of a further name the file itself.
///
/// # Errors
/// [`HistoryError`].
pub fn entry_at(
    reader: &CatalogReader,
    batch: u64,
    path: &RelPath,
) -> Result<Option<Entry>, HistoryError> {
    let mut past = plan::Past::new(reader, batch);
    Ok(match past.entry(path)? {
        Some(Entry::HardLink { leader }) => past.entry(&leader)?,
        other => other,
    })
}

/// A file as it was, and where its content may stand still: all that is needed to read it without the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// What it was.
    pub size: u64,
    /// Its content.
    pub content: FileDigest,
    /// Owner, mode, time and attributes.
    pub meta: Metadata,
    /// Where the content was kept when the catalog was asked.
    pub places: Vec<Location>,
    /// How it was cut, where that is known.
    pub chunking: Option<ChunkingId>,
}

/// The file that stood at `path` after `batch`; of a further name the file itself.
///
/// # Errors
/// [`HistoryError`]: nothing stood there, or no file.
pub fn version(
    reader: &CatalogReader,
    batch: u64,
    path: &RelPath,
) -> Result<Version, HistoryError> {
    let entry = entry_at(reader, batch, path)?.ok_or_else(|| Refusal::WasAbsent(path.clone()))?;
    let Entry::File { size, content, meta, .. } = entry else {
        return Err(Refusal::NoFile { path: path.clone(), kind: entry.kind() }.into());
    };
    let mut places = if size == 0 { Vec::new() } else { reader.locations(&content, PLACES_MAX)? };
    // A live one may be another file by now, where others than replication write.
    if size > 0 && !places.iter().any(|place| matches!(place, Location::History(_))) {
        places.extend(reader.kept_with(&content, PLACES_MAX)?);
    }
    let chunking = expected(reader, content, size)?.chunking;
    Ok(Version { size, content, meta, places, chunking })
}

/// Content with what is known of how it was cut.
fn expected(
    reader: &CatalogReader,
    content: FileDigest,
    size: u64,
) -> Result<Expected, CatalogError> {
    let chunking = if size <= SMALL_FILE_MAX { None } else { reader.chunking(&content)? };
    Ok(Expected { content, size, chunking })
}

impl Version {
    /// Gives the content of the file, which was at `path`, to `write`, piece by piece with its offset, whole and
    /// checked before the end is reached. `begin` is called before the first piece, and again when a damaged copy
    /// is given up for another.
    ///
    /// # Errors
    /// [`HistoryError`]; what was written then is not the file.
    pub fn read<S: Storage>(
        &self,
        storage: &S,
        path: &RelPath,
        begin: &mut dyn FnMut(u64) -> io::Result<()>,
        write: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> Result<(), HistoryError> {
        let failed = |source| HistoryError::Disk { step: "writing the file", source };
        begin(self.size).map_err(failed)?;
        if self.size == 0 {
            return Ok(());
        }
        let opened = storage.open_directory(storage.root(), crate::OWN_FOLDER);
        let history = opened
            .and_then(|top| storage.open_directory(&top, b"history"))
            .map_err(|source| HistoryError::Disk { step: "opening .farshore/history", source })?;
        let wanted = Expected { content: self.content, size: self.size, chunking: self.chunking };
        let mut damaged = None;
        for place in &self.places {
            let Some((at, name)) = place_in(storage, &history, place) else { continue };
            let Ok((file, stat)) = storage.open_file_and_stat(&at, &name) else { continue };
            if stat.size != self.size {
                continue;
            }
            if copied(storage, &file, &wanted, begin, write)? {
                return Ok(());
            }
            damaged = Some(format!("its content, kept at {place:?}, is damaged"));
        }
        let why = damaged.unwrap_or_else(|| "its content is not kept here any more".into());
        Err(Refusal::NoContent { path: path.clone(), why }.into())
    }
}

/// Copies one file; whether it was the content wanted.
fn copied<S: Storage>(
    storage: &S,
    file: &S::File,
    wanted: &Expected,
    begin: &mut dyn FnMut(u64) -> io::Result<()>,
    write: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
) -> Result<bool, HistoryError> {
    let failed = |source| HistoryError::Disk { step: "writing the file", source };
    let Expected { content, size, .. } = *wanted;
    begin(size).map_err(failed)?;
    if size <= SMALL_FILE_MAX {
        let mut buf = vec![0; usize::try_from(size).unwrap_or(0)];
        let read = storage.read_at(file, 0, &mut buf);
        let is_right = read.is_ok_and(|n| n == buf.len()) && FileDigest::of_small(&buf) == content;
        if is_right {
            write(0, &buf).map_err(failed)?;
        }
        return Ok(is_right);
    }
    let Ok(stat) = storage.stat(Object::File(file)) else { return Ok(false) };
    let mut chunker = None;
    for id in Expected::chunkings(Some(wanted), size) {
        let mut recipe = Recipe { chunking: id, extents: Vec::new() };
        let (mut offset, mut lost) = (0, None);
        let chunker = chunker_for(id, &mut chunker);
        let read =
            read_extents::<S, ObserveError>(storage, file, &stat, chunker, &mut |extent, bytes| {
                if lost.is_none() && !bytes.is_empty() {
                    lost = write(offset, bytes).err();
                }
                offset += extent.len();
                recipe.push(extent);
                Ok(())
            });
        if let Some(source) = lost {
            return Err(failed(source));
        }
        if read.is_ok() && recipe.digest() == content {
            return Ok(true);
        }
    }
    Ok(false)
}

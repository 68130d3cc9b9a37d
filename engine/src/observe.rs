//! Turning what stands at a path into an entry.
//!
//! Guarantees: content is read once, chunked and hashed while it is in cache; holes are not read. A
//! file whose size, times or inode moved while it was read is reported as changed, never described
//! half old and half new. Special files are never opened for data.

use std::io;

use farshore_core::chunking::{Chunker, ChunkingId, zero_part};
use farshore_core::codec::DecodeError;
use farshore_core::entry::{DeviceNumber, Entry, Metadata, NameAndValue, Xattrs};
use farshore_core::limits::{CHUNK_LEN_MAX, SMALL_FILE_MAX};
use farshore_core::recipe::{ChunkId, Extent, FileDigest, Recipe};

use crate::io::batch::StepError;
use crate::io::{FileKind, Object, Stat, Storage};

/// What is given each extent and its bytes.
pub type Visit<'a, E> = &'a mut dyn FnMut(Extent, &[u8]) -> Result<(), E>;

/// Bytes read at a time: stays in a core's cache while it is cut and hashed.
pub const READ_WINDOW: usize = 256 * 1024;

/// Why an entry could not be described.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// A call failed.
    #[error("{step}")]
    System {
        /// What was to be done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// It changed while it was read.
    #[error("it changed while it was read")]
    Changed,
    /// Its attributes are beyond what an entry holds.
    #[error("its attributes")]
    Attributes(#[from] DecodeError),
}

impl From<StepError> for ObserveError {
    fn from(StepError { step, source }: StepError) -> Self {
        Self::System { step, source }
    }
}

impl ObserveError {
    /// Whether it vanished between two looks.
    #[must_use]
    pub fn is_vanished(&self) -> bool {
        matches!(self, Self::System { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

pub(crate) trait SystemStep<T> {
    fn at_step(self, step: &'static str) -> Result<T, ObserveError>;
}

impl<T> SystemStep<T> for io::Result<T> {
    fn at_step(self, step: &'static str) -> Result<T, ObserveError> {
        self.map_err(|source| ObserveError::System { step, source })
    }
}

/// Metadata of an object whose facts are `stat`.
///
/// # Errors
/// [`ObserveError`].
pub fn metadata<S: Storage>(
    storage: &S,
    object: Object<'_, S>,
    stat: &Stat,
) -> Result<Metadata, ObserveError> {
    let xattrs = storage.xattrs(object).at_step("reading its attributes")?;
    metadata_with(xattrs, stat)
}

/// Metadata of an object with these attributes and facts.
///
/// # Errors
/// [`ObserveError::Attributes`].
pub fn metadata_with(xattrs: Vec<NameAndValue>, stat: &Stat) -> Result<Metadata, ObserveError> {
    let mode = if stat.kind == FileKind::Symlink { 0o777 } else { stat.mode };
    Ok(Metadata {
        mode,
        uid: stat.uid,
        gid: stat.gid,
        mtime: stat.mtime,
        xattrs: Xattrs::new(xattrs)?,
    })
}

/// The entry at `name`, which is no regular file and no further name of an inode.
///
/// # Errors
/// [`ObserveError`].
pub fn describe_node<S: Storage>(
    storage: &S,
    directory: &S::Directory,
    name: &[u8],
    stat: &Stat,
) -> Result<Entry, ObserveError> {
    let meta = metadata(storage, Object::Named(directory, name), stat)?;
    let DeviceNumber { major, minor } = stat.number;
    let number = DeviceNumber { major, minor };
    Ok(match stat.kind {
        FileKind::Directory => Entry::Directory { meta },
        FileKind::Symlink => {
            let target = storage.read_link(directory, name).at_step("reading the link")?;
            Entry::Symlink { target: target.into(), meta }
        }
        FileKind::Fifo => Entry::Fifo { meta },
        FileKind::Socket => Entry::Socket { meta },
        FileKind::CharDevice => Entry::CharDevice { number, meta },
        FileKind::BlockDevice => Entry::BlockDevice { number, meta },
        FileKind::Regular => return Err(ObserveError::Changed),
    })
}

/// Whether two looks at an inode saw the same content.
#[must_use]
pub fn same_content_facts(a: &Stat, b: &Stat) -> bool {
    (a.kind, a.inode, a.size, a.mtime, a.ctime) == (b.kind, b.inode, b.size, b.mtime, b.ctime)
}

/// Content a file is thought to have.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    /// Its digest.
    pub content: FileDigest,
    /// Its length.
    pub size: u64,
    /// What cut it, where that is known.
    pub chunking: Option<ChunkingId>,
}

impl Expected {
    /// What cuts a file of `size` bytes that may have this content: the same bytes have the same
    /// digest only when cut alike. To be tried in turn; the first stays when none gives the digest.
    #[must_use]
    pub fn chunkings(expected: Option<&Self>, size: u64) -> Vec<ChunkingId> {
        match expected {
            Some(Self { chunking: Some(chunking), .. }) => vec![chunking.next(size)],
            Some(known) if known.size == size => ChunkingId::possible(size).to_vec(),
            _ => vec![ChunkingId::for_size(size)],
        }
    }
}

/// A chunker with the parameters `id`; `kept` is used again when it has them.
pub fn chunker_for(id: ChunkingId, kept: &mut Option<Chunker>) -> &mut Chunker {
    if kept.as_ref().is_some_and(|c| c.id() != id) {
        *kept = None;
    }
    let chunker = kept.get_or_insert_with(|| Chunker::new(id, READ_WINDOW));
    chunker.reset();
    chunker
}

/// Reads `size` bytes of `file` and gives each extent with its bytes (none for zeros) to `visit`.
/// Ends early, without an error, where the file does; the caller looks at the facts again.
///
/// # Errors
/// The read's own, and those of `visit`.
pub fn read_extents<S: Storage, E: From<ObserveError>>(
    storage: &S,
    file: &S::File,
    stat: &Stat,
    chunker: &mut Chunker,
    visit: Visit<'_, E>,
) -> Result<(), E> {
    let size = stat.size;
    let sparse = stat.allocated < size;
    let mut offset = 0;
    // End of the stretch known to be data; holes are only asked for where there are some.
    let mut data_end = if sparse { 0 } else { size };
    while offset < size {
        if offset >= data_end {
            let data = storage.next_data(file, offset, size).at_step("finding its holes")?;
            let start = data.as_ref().map_or(size, |d| d.start.clamp(offset, size));
            data_end = data.map_or(size, |d| d.end.clamp(start, size));
            if let Some(zeros) = zero_part(offset, start) {
                // What lies before the aligned part is read as data: it is zeros.
                read_data(storage, file, &mut offset, zeros.start, chunker, visit)?;
                chunker.push_zeros(zeros.end - zeros.start);
                offset = zeros.end;
                drain(chunker, visit)?;
            }
        }
        read_data(storage, file, &mut offset, data_end, chunker, visit)?;
        if offset < data_end {
            break;
        }
    }
    chunker.finish();
    drain(chunker, visit)
}

fn read_data<S: Storage, E: From<ObserveError>>(
    storage: &S,
    file: &S::File,
    offset: &mut u64,
    end: u64,
    chunker: &mut Chunker,
    visit: Visit<'_, E>,
) -> Result<(), E> {
    while *offset < end {
        let spare = chunker.spare();
        let want =
            usize::try_from(end - *offset).unwrap_or(usize::MAX).min(spare.len()).min(READ_WINDOW);
        let read = storage.read_at(file, *offset, &mut spare[..want]).at_step("reading it")?;
        chunker.filled(read);
        *offset += read as u64;
        drain(chunker, visit)?;
        if read < want {
            return Ok(());
        }
    }
    Ok(())
}

fn drain<E>(chunker: &mut Chunker, visit: Visit<'_, E>) -> Result<(), E> {
    while let Some(cut) = chunker.poll() {
        visit(cut.extent, &chunker.bytes()[cut.range])?;
    }
    Ok(())
}

/// Whether `file` has the content of `recipe`, of which no part is zeros: read once, and hashed by the chunks that
/// the recipe names, without a search for where they end. A file that is shorter or longer has not.
///
/// # Errors
/// [`ObserveError`].
fn has_chunks<S: Storage>(
    storage: &S,
    file: &S::File,
    stat: &Stat,
    recipe: &Recipe,
    buf: &mut Vec<u8>,
) -> Result<bool, ObserveError> {
    if recipe.size() != stat.size {
        return Ok(false);
    }
    let (mut offset, mut rest) = (0, recipe.extents.as_slice());
    while !rest.is_empty() {
        // As many as are read at once, one at least.
        let mut len = 0;
        let fits = rest.iter().take_while(|extent| {
            let first = len == 0;
            let all = len + usize::try_from(extent.len()).unwrap_or(usize::MAX).min(CHUNK_LEN_MAX);
            let fits = first || all <= READ_WINDOW;
            len = if fits { all } else { len };
            fits
        });
        let (together, others) = rest.split_at(fits.count());
        rest = others;
        buf.resize(buf.len().max(len), 0);
        if storage.read_at(file, offset, &mut buf[..len]).at_step("reading it")? != len {
            return Ok(false);
        }
        let mut bytes = &buf[..len];
        for extent in together {
            let Extent::Chunk { id, len } = *extent else { return Ok(false) };
            let Some((chunk, after)) = bytes.split_at_checked(len as usize) else {
                return Ok(false);
            };
            if ChunkId::of(chunk) != id {
                return Ok(false);
            }
            bytes = after;
        }
        offset += len as u64;
    }
    Ok(true)
}

/// The entry of a regular file if it still has the content of `recipe`, and its facts; `None` when it has not, or has
/// zeros, which are looked for and not read: [`describe_file`] tells what it is.
///
/// # Errors
/// [`ObserveError::Changed`] when it changed meanwhile.
pub fn describe_if_same<S: Storage>(
    storage: &S,
    directory: &S::Directory,
    name: &[u8],
    recipe: &Recipe,
    buf: &mut Vec<u8>,
) -> Result<Option<(Entry, Stat)>, ObserveError> {
    if !recipe.extents.iter().all(|extent| matches!(extent, Extent::Chunk { .. })) {
        return Ok(None);
    }
    let file = storage.open_file(directory, name).at_step("opening it")?;
    let before = storage.stat(Object::File(&file)).at_step("looking at it")?;
    if !has_chunks(storage, &file, &before, recipe, buf)? {
        return Ok(None);
    }
    let meta = metadata(storage, Object::File(&file), &before)?;
    let after = storage.stat(Object::File(&file)).at_step("looking at it again")?;
    if !same_content_facts(&before, &after) {
        return Err(ObserveError::Changed);
    }
    let entry = Entry::File { size: before.size, content: recipe.digest(), meta };
    Ok(Some((entry, after)))
}

/// The recipe of `file`, which is shorter than `stat` says where the file is.
fn read_recipe<S: Storage>(
    storage: &S,
    file: &S::File,
    stat: &Stat,
    chunker: &mut Chunker,
) -> Result<Recipe, ObserveError> {
    let mut recipe = Recipe { chunking: chunker.id(), extents: Vec::new() };
    read_extents::<S, ObserveError>(storage, file, stat, chunker, &mut |extent, _| {
        recipe.push(extent);
        Ok(())
    })?;
    Ok(recipe)
}

/// The first extent of `file`, read no further than to know it.
///
/// # Errors
/// [`ObserveError`].
pub fn first_extent<S: Storage>(
    storage: &S,
    file: &S::File,
    stat: &Stat,
    chunker: &mut Chunker,
) -> Result<Option<Extent>, ObserveError> {
    enum Stop {
        Found(Extent),
        Failed(ObserveError),
    }
    impl From<ObserveError> for Stop {
        fn from(e: ObserveError) -> Self {
            Self::Failed(e)
        }
    }
    let stop = &mut |extent, _: &[u8]| Err(Stop::Found(extent));
    match read_extents::<S, Stop>(storage, file, stat, chunker, stop) {
        Ok(()) => Ok(None),
        Err(Stop::Found(extent)) => Ok(Some(extent)),
        Err(Stop::Failed(e)) => Err(e),
    }
}

/// Reads a small file whole into `buf`.
///
/// # Errors
/// [`ObserveError::Changed`] when it is longer or shorter than `stat` says.
fn read_small<S: Storage>(
    storage: &S,
    file: &S::File,
    stat: &Stat,
    buf: &mut Vec<u8>,
) -> Result<(), ObserveError> {
    let size = usize::try_from(stat.size).map_err(|_| ObserveError::Changed)?;
    // One byte more shows a file that grew.
    buf.resize(size + 1, 0);
    let read = storage.read_at(file, 0, buf).at_step("reading it")?;
    buf.truncate(size);
    if read == size { Ok(()) } else { Err(ObserveError::Changed) }
}

/// The content digest of a regular file, its recipe when it is not small, and its entry. Content that
/// is `expected` is described as that was.
///
/// # Errors
/// [`ObserveError::Changed`] when it changed meanwhile.
pub fn describe_file<S: Storage>(
    storage: &S,
    directory: &S::Directory,
    name: &[u8],
    expected: Option<&Expected>,
    chunker: &mut Option<Chunker>,
) -> Result<(Entry, Option<Recipe>, Stat), ObserveError> {
    let file = storage.open_file(directory, name).at_step("opening it")?;
    let before = storage.stat(Object::File(&file)).at_step("looking at it")?;
    let (content, recipe) = if before.size <= SMALL_FILE_MAX {
        let mut buf = Vec::new();
        read_small(storage, &file, &before, &mut buf)?;
        (FileDigest::of_small(&buf), None)
    } else {
        let mut found: Option<(FileDigest, Recipe)> = None;
        for id in Expected::chunkings(expected, before.size) {
            let recipe = read_recipe(storage, &file, &before, chunker_for(id, chunker))?;
            if recipe.size() != before.size {
                return Err(ObserveError::Changed);
            }
            let content = recipe.digest();
            let met = expected.is_some_and(|e| e.content == content);
            if met || found.is_none() {
                found = Some((content, recipe));
            }
            if met {
                break;
            }
        }
        let (content, recipe) = found.ok_or(ObserveError::Changed)?;
        (content, Some(recipe))
    };
    let meta = metadata(storage, Object::File(&file), &before)?;
    let after = storage.stat(Object::File(&file)).at_step("looking at it again")?;
    if !same_content_facts(&before, &after) {
        return Err(ObserveError::Changed);
    }
    Ok((Entry::File { size: before.size, content, meta }, recipe, after))
}

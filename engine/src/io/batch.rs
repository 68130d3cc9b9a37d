//! Many small files by one call of the contract.
//!
//! Guarantees: every file has its own result, in the order asked for; what goes wrong with one
//! touches no other. Of each file the facts are looked at before and after its bytes are read, all
//! by one handle. Nothing is durable: the syncs of [`super::Storage`] are what they were. The
//! functions here do it by the plain calls of any backend, one file after the other, so that a
//! disk which fails calls on demand sees each of them.

use std::io;

use farshore_core::entry::NameAndValue;

use super::{Object, Stat, Storage};

/// Files one call is given at most by those who use it; backends take any number.
pub const FILES_MAX: usize = 256;

/// A step of a batch that failed for one file.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub struct StepError {
    /// What was to be done, as in "opening it".
    pub step: &'static str,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

impl StepError {
    pub(super) fn at(step: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self { step, source }
    }
}

/// The steps of reading, in their order.
pub(super) mod step {
    pub(in crate::io) const OPEN: &str = "opening it";
    pub(in crate::io) const READ: &str = "reading it";
    pub(in crate::io) const ATTRIBUTES: &str = "reading its attributes";
    pub(in crate::io) const LOOK_AGAIN: &str = "looking at it again";
    pub(in crate::io) const CREATE: &str = "creating it";
    pub(in crate::io) const WRITE: &str = "writing it";
}

/// A small file that is there: a name of one component in an open directory.
#[derive(Debug)]
pub struct SmallFile<'a, S: Storage + ?Sized> {
    /// Its directory.
    pub at: &'a S::Directory,
    /// Its name.
    pub name: &'a [u8],
}

/// What a small file was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmallContent {
    /// Its facts before it was read.
    pub before: Stat,
    /// Its bytes: as many as `before` says, fewer where it was cut off meanwhile, at most one more
    /// where it grew; none when it is longer than was asked for.
    pub bytes: Vec<u8>,
    /// Its attributes, as [`Storage::xattrs`] gives them.
    pub xattrs: Vec<NameAndValue>,
    /// Its facts after all of that.
    pub after: Stat,
}

/// A small file to be made.
#[derive(Debug)]
pub struct NewSmallFile<'a, S: Storage + ?Sized> {
    /// Its directory.
    pub at: &'a S::Directory,
    /// Its name.
    pub name: &'a [u8],
    /// Permission bits, as for [`Storage::create_file_as`].
    pub mode: u32,
    /// Its content.
    pub bytes: &'a [u8],
}

/// Given the number of each file that has all its bytes, and its handle, before that is closed.
pub type Finish<'a, S> = &'a mut dyn FnMut(usize, &<S as Storage>::File);

/// One file by plain calls.
pub(super) fn read_one<S: Storage + ?Sized>(
    storage: &S,
    file: &SmallFile<'_, S>,
    size_max: u64,
) -> Result<SmallContent, StepError> {
    let (handle, before) =
        storage.open_file_and_stat(file.at, file.name).map_err(StepError::at(step::OPEN))?;
    let mut bytes = buffer_for(&before, size_max);
    let read = storage.read_at(&handle, 0, &mut bytes).map_err(StepError::at(step::READ))?;
    bytes.truncate(read);
    complete(storage, &handle, before, bytes)
}

/// A buffer one byte longer than the file, which shows one that grew; empty for a file too long.
pub(super) fn buffer_for(before: &Stat, size_max: u64) -> Vec<u8> {
    let wanted = (before.size <= size_max).then_some(before.size);
    wanted.and_then(|size| usize::try_from(size).ok()).map_or_else(Vec::new, |len| vec![0; len + 1])
}

/// The steps after reading.
pub(super) fn complete<S: Storage + ?Sized>(
    storage: &S,
    handle: &S::File,
    before: Stat,
    bytes: Vec<u8>,
) -> Result<SmallContent, StepError> {
    let object = Object::File(handle);
    let xattrs = storage.xattrs(object).map_err(StepError::at(step::ATTRIBUTES))?;
    let after = storage.stat(object).map_err(StepError::at(step::LOOK_AGAIN))?;
    Ok(SmallContent { before, bytes, xattrs, after })
}

/// One file by plain calls.
pub(super) fn create_one<S: Storage + ?Sized>(
    storage: &S,
    number: usize,
    file: &NewSmallFile<'_, S>,
    finish: Finish<'_, S>,
) -> Result<(), StepError> {
    let handle = storage
        .create_file_as(file.at, file.name, file.mode)
        .map_err(StepError::at(step::CREATE))?;
    if !file.bytes.is_empty() {
        storage.write_at(&handle, 0, file.bytes).map_err(StepError::at(step::WRITE))?;
    }
    finish(number, &handle);
    Ok(())
}

//! Small files of a batch, read some time before their turn, many by one call.
//!
//! Guarantees: what is read ahead was read whole between two looks, as what is read in its turn; it
//! says when its reading began, so that a change just after it cannot pass for one before. At most
//! [`BYTES_MAX`] by what the walk saw, and no more files than the storage asks for, are held. A read
//! that failed is an answer like another: it counts as the first try. A file whose directory could not
//! be opened is left for its turn.

use std::collections::VecDeque;

use farshore_core::entry::Timestamp;
use farshore_core::limits::SMALL_FILE_MAX;
use farshore_core::path::RelPath;

use super::WallClock;
use crate::io::Storage;
use crate::io::batch::{FILES_MAX, SmallContent, SmallFile, StepError};
use crate::plan::Change;

/// Bytes read ahead: about what a core's cache keeps until they are hashed.
const BYTES_MAX: u64 = 1 << 20;

/// A small file as it was read.
pub(super) struct SmallRead {
    pub(super) read: Result<SmallContent, StepError>,
    /// The wall clock before it was opened.
    pub(super) seen: Timestamp,
}

/// See the module.
#[derive(Default)]
pub(super) struct Ahead(VecDeque<(usize, SmallRead)>);

/// Whether a change is a file to be read at once, as the walk saw it.
pub(super) fn is_plain_small(change: &Change) -> bool {
    small_size(change).is_some()
}

fn small_size(change: &Change) -> Option<u64> {
    match change {
        Change::Look { size, is_file: true, moved_from: None, .. } if *size <= SMALL_FILE_MAX => {
            Some(*size)
        }
        _ => None,
    }
}

impl Ahead {
    /// What was read of the change `number`; reads ahead when there is nothing more. `rest` are the
    /// changes from that one on.
    pub(super) fn take<S: Storage>(
        &mut self,
        storage: &S,
        now: WallClock<'_>,
        number: usize,
        rest: &VecDeque<Change>,
    ) -> Option<SmallRead> {
        if storage.batch_files() < 2 || !rest.front().is_some_and(is_plain_small) {
            return None;
        }
        if self.0.is_empty() {
            self.fill(storage, now, number, rest);
        }
        let is_next = self.0.front().is_some_and(|(n, _)| *n == number);
        is_next.then(|| self.0.pop_front().map(|(_, read)| read)).flatten()
    }

    fn fill<S: Storage>(
        &mut self,
        storage: &S,
        now: WallClock<'_>,
        number: usize,
        rest: &VecDeque<Change>,
    ) {
        let files_max = storage.batch_files().min(FILES_MAX);
        let mut directories: Vec<(&[u8], S::Directory)> = Vec::new();
        // The change, its directory's place among these, its name.
        let mut wanted: Vec<(usize, usize, &RelPath)> = Vec::new();
        let mut bytes = 0;
        for (number, change) in (number..).zip(rest) {
            let Some(size) = small_size(change) else { continue };
            bytes += size;
            if wanted.len() == files_max || bytes > BYTES_MAX {
                break;
            }
            let path = change.path();
            let Some(parent) = path.parent_bytes() else { continue };
            if directories.last().is_none_or(|(open, _)| *open != parent) {
                let Ok(opened) = storage.open_directory(storage.root(), parent) else { continue };
                directories.push((parent, opened));
            }
            wanted.push((number, directories.len() - 1, path));
        }
        let files: Vec<SmallFile<'_, S>> = wanted
            .iter()
            .map(|(_, place, path)| SmallFile { at: &directories[*place].1, name: path.name() })
            .collect();
        let seen = now();
        let read = storage.read_small_files(&files, SMALL_FILE_MAX);
        let numbers = wanted.iter().map(|(number, ..)| *number);
        self.0.extend(numbers.zip(read.into_iter().map(|read| SmallRead { read, seen })));
    }
}

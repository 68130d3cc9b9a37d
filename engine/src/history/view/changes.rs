//! What somebody changed in a view since it was ready.
//!
//! Guarantees: what was made, written, given other metadata, linked or renamed since is named, and what is not at
//! its path any more; by names and change times, no content is read. A directory is named when it comes or
//! goes, or when its own metadata was changed, not for what happened in it. Memory is that of one directory.

use std::collections::HashSet;
use std::io;

use farshore_core::codec::{DecodeError, Decoder};
use farshore_core::entry::{Timestamp, decode_path};
use farshore_core::limits::NAME_MAX;
use farshore_core::path::RelPath;

use super::{LIST, VIEW};
use crate::io::{FileKind, Object, Stat, Storage};

/// Bytes of the list that are read at once.
const AT_ONCE: usize = 1 << 20;

/// What became of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Written {
    /// It was not there.
    Added,
    /// Its content, its metadata or the number of its names is another one.
    Changed,
    /// It is not there any more.
    Removed,
}

impl Written {
    /// As it is printed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Removed => "removed",
        }
    }
}

/// Is given each path that was changed.
type Each<'a> = &'a mut dyn FnMut(Written, &RelPath);

/// Gives what was changed in the view of the rehearsal in `folder` behind the time `since` to `each`.
///
/// # Errors
/// The file system's own; InvalidData when the list of names was damaged.
pub fn changes<S: Storage>(
    storage: &S,
    folder: &S::Directory,
    since: Timestamp,
    each: Each<'_>,
) -> io::Result<()> {
    let top = storage.open_directory(folder, VIEW)?;
    let mut list = Listed::open(storage, folder)?;
    let mut look = Look { storage, top, since, each };
    let root = storage.stat(Object::Directory(&look.top))?;
    if look.is_other_folder(&root) {
        (look.each)(Written::Changed, &RelPath::root());
    }
    while let Some((directory, names)) = list.next_directory()? {
        look.directory(&directory, &names)?;
    }
    Ok(())
}

struct Look<'a, 'e, S: Storage> {
    storage: &'a S,
    top: S::Directory,
    since: Timestamp,
    each: Each<'e>,
}

impl<S: Storage> Look<'_, '_, S> {
    fn is_behind(&self, time: Timestamp) -> bool {
        (time.seconds, time.nanos) > (self.since.seconds, self.since.nanos)
    }

    /// What happens in a directory moves both of its times.
    fn is_other_folder(&self, stat: &Stat) -> bool {
        self.is_behind(stat.ctime) && stat.ctime != stat.mtime
    }

    fn directory(&mut self, path: &RelPath, names: &[Vec<u8>]) -> io::Result<()> {
        let Ok(opened) = self.storage.open_directory(&self.top, path.as_bytes()) else {
            // It is gone, or something else is there: with it all that was in it.
            return names.iter().try_for_each(|name| self.tell(Written::Removed, path, name));
        };
        for name in names {
            match self.storage.stat(Object::Named(&opened, name)) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    self.tell(Written::Removed, path, name)?;
                }
                Err(e) => return Err(e),
                Ok(stat) => {
                    let is_changed = match stat.kind {
                        FileKind::Directory => self.is_other_folder(&stat),
                        _ => self.is_behind(stat.ctime),
                    };
                    if is_changed {
                        self.tell(Written::Changed, path, name)?;
                    }
                }
            }
        }
        if !self.is_behind(self.storage.stat(Object::Directory(&opened))?.ctime) {
            return Ok(());
        }
        let known: HashSet<&[u8]> = names.iter().map(Vec::as_slice).collect();
        let mut added = Vec::new();
        self.storage.list(&opened, &mut |l| {
            if !known.contains(l.name) {
                added.push(l.name.to_vec());
            }
        })?;
        added.sort();
        added.iter().try_for_each(|name| self.added(path, name))
    }

    /// A name that was not there, and all below it.
    fn added(&mut self, directory: &RelPath, name: &[u8]) -> io::Result<()> {
        let invalid = |e| io::Error::new(io::ErrorKind::InvalidData, e);
        let mut waiting = vec![directory.join(name).map_err(invalid)?];
        while let Some(path) = waiting.pop() {
            (self.each)(Written::Added, &path);
            let Ok(opened) = self.storage.open_directory(&self.top, path.as_bytes()) else {
                continue;
            };
            let mut names = Vec::new();
            self.storage.list(&opened, &mut |l| names.push(l.name.to_vec()))?;
            names.sort_by(|a, b| b.cmp(a));
            for name in names {
                waiting.push(path.join(&name).map_err(invalid)?);
            }
        }
        Ok(())
    }

    fn tell(&mut self, what: Written, directory: &RelPath, name: &[u8]) -> io::Result<()> {
        let path = directory.join(name);
        let path = path.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        (self.each)(what, &path);
        Ok(())
    }
}

/// Reads what [`super::List`] wrote.
struct Listed<'a, S: Storage> {
    storage: &'a S,
    file: S::File,
    size: u64,
    read: u64,
    bytes: Vec<u8>,
    used: usize,
}

impl<'a, S: Storage> Listed<'a, S> {
    fn open(storage: &'a S, folder: &S::Directory) -> io::Result<Self> {
        let (file, stat) = storage.open_file_and_stat(folder, LIST)?;
        Ok(Self { storage, file, size: stat.size, read: 0, bytes: Vec::new(), used: 0 })
    }

    fn next_directory(&mut self) -> io::Result<Option<(RelPath, Vec<Vec<u8>>)>> {
        loop {
            let mut d = Decoder::new(&self.bytes[self.used..]);
            let all = d.remaining();
            if all == 0 && self.read == self.size {
                return Ok(None);
            }
            match one(&mut d) {
                Ok(found) => {
                    self.used += all - d.remaining();
                    return Ok(Some(found));
                }
                Err(DecodeError::Truncated { .. }) if self.read < self.size => self.more()?,
                Err(e) => return Err(io::Error::new(io::ErrorKind::InvalidData, e)),
            }
        }
    }

    fn more(&mut self) -> io::Result<()> {
        self.bytes.drain(..self.used);
        self.used = 0;
        let have = self.bytes.len();
        // Twice as much each time: a wide directory is not decoded over and over.
        let want = have.max(AT_ONCE);
        self.bytes.resize(have + want, 0);
        let read = self.storage.read_at(&self.file, self.read, &mut self.bytes[have..])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.bytes.truncate(have + read);
        self.read += read as u64;
        Ok(())
    }
}

fn one(d: &mut Decoder<'_>) -> Result<(RelPath, Vec<Vec<u8>>), DecodeError> {
    let path = decode_path(d, "listed folder")?;
    let count = d.take_u64("names of a folder")?;
    let mut names = Vec::new();
    for _ in 0..count {
        names.push(d.take_bytes("name of a folder", NAME_MAX)?.to_vec());
    }
    Ok((path, names))
}

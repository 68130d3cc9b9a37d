//! Reaching paths of the tree through their open parents.

use std::io;

use farshore_core::path::RelPath;

use crate::io::{Object, Stat, Storage};

/// Opens the parent of a path, keeping the last one open.
pub(super) struct Parents<'s, S: Storage> {
    storage: &'s S,
    last: Option<(RelPath, S::Directory)>,
}

impl<'s, S: Storage> Parents<'s, S> {
    pub(super) fn new(storage: &'s S) -> Self {
        Self { storage, last: None }
    }

    /// The tree's shape changed: nothing open is trusted.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }

    pub(super) fn open(&mut self, parent: &RelPath) -> io::Result<&S::Directory> {
        if self.last.as_ref().is_none_or(|(p, _)| p != parent) {
            let opened = self.storage.open_directory(self.storage.root(), parent.as_bytes())?;
            self.last = Some((parent.clone(), opened));
        }
        match &self.last {
            Some((_, directory)) => Ok(directory),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Facts at `path`; `None` when nothing is there.
    pub(super) fn stat(&mut self, path: &RelPath) -> io::Result<Option<Stat>> {
        let storage = self.storage;
        let stat = match path.split() {
            None => storage.stat(Object::Directory(storage.root())),
            Some((parent, name)) => {
                self.open(&parent).and_then(|d| storage.stat(Object::Named(d, name)))
            }
        };
        match stat {
            Ok(stat) => Ok(Some(stat)),
            Err(e) if is_absent(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

pub(super) fn is_absent(e: &io::Error) -> bool {
    use rustix::io::Errno;
    let absent = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP];
    e.raw_os_error().is_some_and(|raw| absent.iter().any(|a| a.raw_os_error() == raw))
}

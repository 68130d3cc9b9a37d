//! Step 4: changing the tree. Every action can be done again, and tells whether it was done.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;

use farshore_core::entry::{Entry, EntryKind};
use farshore_core::path::RelPath;
use farshore_proto::message::{Failure, FailureKind};

use super::parents::{Parents, is_absent};
use super::{Applier, ApplyError, ApplyStep};
use crate::catalog::CatalogReader;
use crate::copy::dress;
use crate::io::{FileKind, Object, Stat, Storage};
use crate::journal::{Action, Intent};
use crate::metadata::Degraded;
use crate::own_folder::set_name;
use crate::stage::{folder_name, is_fatal};

/// Step 4 for one batch.
pub(super) struct Perform<'p, 'a, S: Storage> {
    pub(super) applier: &'p Applier<'a, S>,
    reader: &'p CatalogReader,
    pub(super) intent: &'p Intent,
    /// Directories that earlier batches of the group made or changed: the catalog has them not yet.
    made_before: &'p HashMap<RelPath, Entry>,
    /// The batch's staging folder, if it is still there.
    staging: Option<S::Directory>,
    pub(super) history: Option<S::Directory>,
    parents: Parents<'p, S>,
    /// Whether what is displaced is made durable in history first.
    pub(super) careful: bool,
    /// Whether a crash interrupted it before.
    pub(super) is_again: bool,
    /// What was set aside and has further names, by its number.
    pub(super) with_names: BTreeSet<u32>,
    pub(super) failed: BTreeMap<RelPath, Failure>,
    pub(super) degraded: Degraded,
}

impl<'p, 'a, S: Storage> Perform<'p, 'a, S> {
    pub(super) fn open(
        applier: &'p Applier<'a, S>,
        reader: &'p CatalogReader,
        intent: &'p Intent,
        made_before: &'p HashMap<RelPath, Entry>,
    ) -> Result<Self, ApplyError> {
        let name = folder_name(intent.batch);
        let staging = match applier.storage.open_directory(&applier.own.staging, name.as_bytes()) {
            Ok(folder) => Some(folder),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(source) => {
                let (batch, path) = (intent.batch, RelPath::root());
                return Err(ApplyError::Disk { batch, step: ApplyStep::Perform, path, source });
            }
        };
        Ok(Self {
            applier,
            reader,
            intent,
            made_before,
            staging,
            history: None,
            parents: Parents::new(applier.storage),
            careful: false,
            is_again: false,
            with_names: BTreeSet::new(),
            failed: BTreeMap::new(),
            degraded: Degraded::default(),
        })
    }

    pub(super) fn run(&mut self) -> Result<(), ApplyError> {
        let intent = self.intent;
        self.each(|a| matches!(a, Action::Lift { .. }), Self::lift)?;
        self.sync_lifted()?;
        self.each(|a| matches!(a, Action::RemoveFile { .. }), Self::remove_file)?;
        self.parents.forget();
        self.displace_first()?;
        self.each(|a| matches!(a, Action::Place { .. }), Self::place)?;
        self.fail_dependents();
        self.parents.forget();
        self.each(|a| matches!(a, Action::Link { .. }), Self::link)?;
        self.detach()?;
        let is_file_meta = |a: &Action| matches!(a, Action::Meta { entry, .. } if entry.kind() != EntryKind::Directory);
        self.each(is_file_meta, Self::meta)?;
        // They come deepest first from the source.
        self.each(|a| matches!(a, Action::RemoveDirectory { .. }), Self::remove_directory)?;
        self.parents.forget();
        self.directories(intent)
    }

    fn each(
        &mut self,
        select: impl Fn(&Action) -> bool,
        act: impl Fn(&mut Self, &Action) -> io::Result<()>,
    ) -> Result<(), ApplyError> {
        let intent = self.intent;
        for action in intent.actions.iter().filter(|a| select(a)) {
            if let Err(source) = act(self, action) {
                self.fail(action.path(), source)?;
            }
        }
        Ok(())
    }

    /// One operation is refused, or the file system fails as a whole.
    fn fail(&mut self, path: &RelPath, source: io::Error) -> Result<(), ApplyError> {
        if is_fatal(&source) {
            let (batch, path) = (self.intent.batch, path.clone());
            return Err(ApplyError::Disk { batch, step: ApplyStep::Perform, path, source });
        }
        let failure =
            Failure { path: path.clone(), kind: FailureKind::Refused, text: source.to_string() };
        self.failed.insert(path.clone(), failure);
        Ok(())
    }

    /// What could not be lifted did not arrive, and what came within a directory that could not be
    /// placed did not come either: none of it may be acknowledged.
    fn fail_dependents(&mut self) {
        if self.failed.is_empty() {
            return;
        }
        let mut not_lifted = HashSet::new();
        // A directory stands before what is in it, a lift before its place.
        for action in &self.intent.actions {
            let (path, text) = match action {
                Action::Lift { number, from, .. } if self.failed.contains_key(from) => {
                    not_lifted.insert(*number);
                    continue;
                }
                Action::Place { number, path, .. } if not_lifted.contains(number) => {
                    (path, "it could not be moved")
                }
                Action::Inside { path, .. }
                    if path.split().is_some_and(|(p, _)| self.failed.contains_key(&p)) =>
                {
                    (path, "the directory it came in could not be placed")
                }
                _ => continue,
            };
            let (kind, text) = (FailureKind::Refused, text.into());
            self.failed.entry(path.clone()).or_insert(Failure { path: path.clone(), kind, text });
        }
    }

    fn staged_stat(&self, name: &[u8]) -> io::Result<Option<Stat>> {
        let Some(staging) = &self.staging else { return Ok(None) };
        match self.applier.storage.stat(Object::Named(staging, name)) {
            Ok(stat) => Ok(Some(stat)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn history(&mut self) -> io::Result<&S::Directory> {
        if self.history.is_none() {
            let (storage, own) = (self.applier.storage, self.applier.own);
            let set = own.history_set(storage, self.intent.batch)?;
            // The record says which number was at which path, even without a catalog.
            let name = set_name(self.intent.batch);
            drop(storage.link(&own.journal, name.as_bytes(), &set, b"manifest"));
            self.history = Some(set);
        }
        self.history.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn lift(&mut self, action: &Action) -> io::Result<()> {
        let Action::Lift { number, from, inode, entry } = action else { return Ok(()) };
        let storage = self.applier.storage;
        let staged = number.to_string();
        let Some((parent, name)) = from.split() else { return Ok(()) };
        if self.parents.stat(from)?.is_some_and(|s| s.inode == *inode) {
            let staging = self.staging.as_ref().ok_or(io::ErrorKind::NotFound)?;
            let at = self.parents.open(&parent)?;
            storage.rename(at, name, staging, staged.as_bytes())?;
        }
        let Some(stat) = self.staged_stat(staged.as_bytes())? else { return Ok(()) };
        let staging = self.staging.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let object = Object::Named(staging, staged.as_bytes());
        set_entry_metadata(storage, object, &stat, entry, &mut self.degraded)
    }

    /// What was lifted is durable in staging before anything takes its name.
    fn sync_lifted(&self) -> Result<(), ApplyError> {
        let lifted = |a: &Action| matches!(a, Action::Lift { .. });
        let from: HashSet<&RelPath> =
            self.intent.actions.iter().filter(|a| lifted(a)).map(Action::path).collect();
        let mut others = self.intent.actions.iter().filter(|a| !lifted(a)).map(Action::path);
        if from.is_empty() || !others.any(|path| from.contains(path)) {
            return Ok(());
        }
        let batch = self.intent.batch;
        let failed = Applier::<S>::disk(batch, ApplyStep::Perform, &RelPath::root());
        self.applier.storage.sync_all().map_err(failed)
    }

    /// What will be replaced is durable in history before anything takes its name.
    fn displace_first(&mut self) -> Result<(), ApplyError> {
        if !self.careful {
            return Ok(());
        }
        let mut any = false;
        for action in &self.intent.actions {
            match self.displace_early(action) {
                Ok(displaced) => any |= displaced,
                Err(source) if is_fatal(&source) => self.fail(action.path(), source)?,
                // The step that replaces it will meet the same error, and tell.
                Err(_) => {}
            }
        }
        self.parents.forget();
        let failed = Applier::<S>::disk(self.intent.batch, ApplyStep::Perform, &RelPath::root());
        if any { self.applier.storage.sync_all().map_err(failed) } else { Ok(()) }
    }

    fn displace_early(&mut self, action: &Action) -> io::Result<bool> {
        let (number, path, comes) = match action {
            Action::Place { number, path, .. } => {
                // No longer staged: it stands at its path already.
                let Some(staged) = self.staged_stat(number.to_string().as_bytes())? else {
                    return Ok(false);
                };
                (*number, path, staged)
            }
            Action::Link { number, path, leader } => {
                let Some(first) = self.parents.stat(leader)? else { return Ok(false) };
                (*number, path, first)
            }
            _ => return Ok(false),
        };
        let Some(old) = self.parents.stat(path)?.filter(|old| old.inode != comes.inode) else {
            return Ok(false);
        };
        self.displace(number, path, &old, &comes)?;
        Ok(true)
    }

    fn remove_file(&mut self, action: &Action) -> io::Result<()> {
        let Action::RemoveFile { number, path, inode } = action else { return Ok(()) };
        let storage = self.applier.storage;
        let Some(old) = self.parents.stat(path)?.filter(|s| s.inode == *inode) else {
            return Ok(());
        };
        self.note_names(*number, &old);
        let Some((parent, name)) = path.split() else { return Ok(()) };
        self.history()?;
        let at = self.parents.open(&parent)?;
        let history = self.history.as_ref().ok_or(io::ErrorKind::NotFound)?;
        storage.rename(at, name, history, number.to_string().as_bytes())
    }

    fn place(&mut self, action: &Action) -> io::Result<()> {
        let Action::Place { number, path, .. } = action else { return Ok(()) };
        let staged = number.to_string();
        let Some(object) = self.staged_stat(staged.as_bytes())? else { return Ok(()) };
        self.displace_and_rename(*number, path, staged.as_bytes(), &object)?;
        if object.kind == FileKind::Directory {
            self.parents.forget();
        }
        Ok(())
    }

    /// Gives what stands at `path` a name in history, then puts the staged object in its place: for
    /// files with one rename, so that the path always holds one or the other.
    fn displace_and_rename(
        &mut self,
        number: u32,
        path: &RelPath,
        staged: &[u8],
        object: &Stat,
    ) -> io::Result<()> {
        let storage = self.applier.storage;
        let Some((parent, name)) = path.split() else { return Ok(()) };
        if let Some(old) = self.parents.stat(path)? {
            self.displace(number, path, &old, object)?;
        }
        let at = self.parents.open(&parent)?;
        let staging = self.staging.as_ref().ok_or(io::ErrorKind::NotFound)?;
        storage.rename(staging, staged, at, name)
    }

    fn note_names(&mut self, number: u32, old: &Stat) {
        if old.kind == FileKind::Regular && old.links > 1 {
            self.with_names.insert(number);
        }
    }

    /// Gives what stands at `path` a name in history; where a file takes its place it keeps the other
    /// one until then.
    fn displace(
        &mut self,
        number: u32,
        path: &RelPath,
        old: &Stat,
        object: &Stat,
    ) -> io::Result<()> {
        let storage = self.applier.storage;
        let Some((parent, name)) = path.split() else { return Ok(()) };
        self.note_names(number, old);
        let number = number.to_string();
        self.history()?;
        let at = self.parents.open(&parent)?;
        let history = self.history.as_ref().ok_or(io::ErrorKind::NotFound)?;
        if old.kind != FileKind::Directory && object.kind != FileKind::Directory {
            match storage.link(at, name, history, number.as_bytes()) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {}
                _ => return Ok(()),
            }
        }
        storage.rename(at, name, history, number.as_bytes())
    }

    fn link(&mut self, action: &Action) -> io::Result<()> {
        let Action::Link { number, path, leader } = action else { return Ok(()) };
        let storage = self.applier.storage;
        let Some(first) = self.parents.stat(leader)? else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "its first name is not here"));
        };
        if self.parents.stat(path)?.is_some_and(|s| s.inode == first.inode) {
            return Ok(());
        }
        let Some((parent, name)) = leader.split() else { return Ok(()) };
        let staged = format!("l{number}");
        let staging = self.staging.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let at = self.parents.open(&parent)?;
        match storage.link(at, name, staging, staged.as_bytes()) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        self.displace_and_rename(*number, path, staged.as_bytes(), &first)
    }

    fn meta(&mut self, action: &Action) -> io::Result<()> {
        let Action::Meta { path, entry } = action else { return Ok(()) };
        let storage = self.applier.storage;
        let Some(stat) = self.parents.stat(path)? else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let object = match path.split() {
            None => Object::Directory(storage.root()),
            Some((parent, name)) => {
                let at = self.parents.open(&parent)?;
                return set_entry_metadata(
                    storage,
                    Object::Named(at, name),
                    &stat,
                    entry,
                    &mut self.degraded,
                );
            }
        };
        set_entry_metadata(storage, object, &stat, entry, &mut self.degraded)
    }

    fn remove_directory(&mut self, action: &Action) -> io::Result<()> {
        let Action::RemoveDirectory { path, .. } = action else { return Ok(()) };
        let storage = self.applier.storage;
        let Some((parent, name)) = path.split() else { return Ok(()) };
        // It may itself be the parent kept open.
        let removed = match self.parents.open(&parent) {
            Ok(at) => storage.remove_directory(at, name),
            Err(e) => Err(e),
        };
        match removed {
            Err(e) if is_absent(&e) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => Err(io::Error::new(
                io::ErrorKind::DirectoryNotEmpty,
                "the directory holds entries that do not replicate",
            )),
            done => done,
        }
    }

    /// Metadata of the directories that came or changed, and the times of all that were written in,
    /// deepest first: a directory may be closed to us after its own.
    fn directories(&mut self, intent: &Intent) -> Result<(), ApplyError> {
        let mut wanted: BTreeMap<RelPath, Option<Entry>> = BTreeMap::new();
        let mut last_parent: Option<&[u8]> = None;
        for action in &intent.actions {
            let path = action.path();
            if let Some(parent) = action.written_in()
                && last_parent != Some(parent)
                && let Some((above, _)) = path.split()
            {
                wanted.entry(above).or_insert(None);
                last_parent = Some(parent);
            }
            if let Action::Place { entry, .. }
            | Action::Inside { entry, .. }
            | Action::Meta { entry, .. } = action
                && entry.kind() == EntryKind::Directory
                && !self.failed.contains_key(path)
            {
                wanted.insert(path.clone(), Some(entry.clone()));
            }
        }
        let reader = self.reader;
        for (path, entry) in wanted.into_iter().rev() {
            let (entry, whole) = match entry {
                Some(entry) => (Some(entry), true),
                None => match self.made_before.get(&path) {
                    Some(entry) => (Some(entry.clone()), false),
                    None => (reader.get(&path)?.map(|r| r.entry), false),
                },
            };
            let Some(entry) = entry.filter(|e| e.kind() == EntryKind::Directory) else { continue };
            if let Err(source) = self.directory(&path, &entry, whole) {
                self.fail(&path, source)?;
            }
        }
        Ok(())
    }

    fn directory(&mut self, path: &RelPath, entry: &Entry, whole: bool) -> io::Result<()> {
        let storage = self.applier.storage;
        let opened = match path.split() {
            None => None,
            Some(_) => match storage.open_directory(storage.root(), path.as_bytes()) {
                Ok(opened) => Some(opened),
                Err(e) if !whole && is_absent(&e) => return Ok(()),
                Err(e) => return Err(e),
            },
        };
        let object = Object::Directory(opened.as_ref().unwrap_or_else(|| storage.root()));
        if whole {
            let stat = storage.stat(object)?;
            return set_entry_metadata(storage, object, &stat, entry, &mut self.degraded);
        }
        match entry.meta() {
            Some(meta) => storage.set_mtime(object, meta.mtime),
            None => Ok(()),
        }
    }
}

/// Sets what differs from `entry` on an object that stands already.
fn set_entry_metadata<S: Storage>(
    storage: &S,
    object: Object<'_, S>,
    stat: &Stat,
    entry: &Entry,
    degraded: &mut Degraded,
) -> io::Result<()> {
    entry.meta().map_or(Ok(()), |wanted| dress(storage, object, stat, wanted, degraded))
}

#[cfg(test)]
mod tests;

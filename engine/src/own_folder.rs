//! Farshore's folder below a target's root: staging, journal, history.
//!
//! ```text
//! .farshore/identity        which tree this is: 16 random bytes, made once
//! .farshore/lock            locked by the process that writes the tree
//! .farshore/staging/b<N>/   what batch N will place; nothing in it is worth keeping without its journal
//! .farshore/journal/<N>     batch N is being applied; removed when the catalog has it
//! .farshore/history/<N>/    what batch N displaced, and its manifest
//! .farshore/ahead/<n>/      content that arrived ahead of its cut, see [`crate::ahead`]
//! .farshore/role            how far the site's role in this share was when it was last written
//! .farshore/rehearsal/<id>/ what a rehearsal works in; nothing of it outlives the rehearsal
//! ```
//! One session at a time has it open, of whatever process, where the file system has locks. It is mode
//! 0700, on the target's own file system so that placing is a rename, outside every
//! account, never replicated and refused on the wire.

use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};

use farshore_proto::message::StoreId;

use crate::OWN_FOLDER;
use crate::ahead::HeldAhead;
use crate::io::{FileKind, Object, Storage};
use crate::stage::left_to_small;

/// The opened folder.
#[derive(Debug)]
pub struct OwnFolder<S: Storage> {
    /// `.farshore` itself.
    pub top: S::Directory,
    /// `staging`.
    pub staging: S::Directory,
    /// `journal`.
    pub journal: S::Directory,
    /// `history`.
    pub history: S::Directory,
    /// The tree's identity.
    pub identity: StoreId,
    /// What is held ahead of its cut.
    pub ahead: HeldAhead,
    /// Of what is free, what large files leave to others.
    pub(crate) left_to_small: u64,
    /// Held while room is looked for and taken.
    pub(crate) room: Mutex<()>,
    fresh: OnceLock<Fresh>,
    probing: Mutex<()>,
    /// Open as long as this is.
    _lock: S::File,
}

/// What an object in staging has when it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fresh {
    /// Owner and group.
    pub owner: (u32, u32),
    /// Of the permission bits it is made with, those it keeps.
    pub mode_kept: u32,
}

const IDENTITY: &[u8] = b"identity";
const PROBE: &[u8] = b"probe";
const LOCK: &[u8] = b"lock";

impl<S: Storage> OwnFolder<S> {
    /// Opens the folder, or makes it; a tree that has no identity gets `fresh`.
    ///
    /// # Errors
    /// What the file system says; ENOTDIR when somebody put something else there;
    /// [`io::ErrorKind::ResourceBusy`] when somebody else has it open.
    pub fn open(storage: &S, fresh: StoreId) -> io::Result<Self> {
        let top = ensure_directory(storage, storage.root(), OWN_FOLDER)?;
        let lock = take_lock(storage, &top)?;
        let staging = ensure_directory(storage, &top, b"staging")?;
        let journal = ensure_directory(storage, &top, b"journal")?;
        let history = ensure_directory(storage, &top, b"history")?;
        let identity = read_identity(storage, &top)?;
        let identity = match identity {
            Some(identity) => identity,
            None => make_identity(storage, &top, fresh)?,
        };
        Ok(Self {
            top,
            staging,
            journal,
            history,
            identity,
            ahead: HeldAhead::default(),
            left_to_small: left_to_small(storage.free_bytes().unwrap_or(0)),
            room: Mutex::new(()),
            fresh: OnceLock::new(),
            probing: Mutex::new(()),
            _lock: lock,
        })
    }

    /// The identity of a tree, if it has one: nothing is made for it.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn identity_of(storage: &S) -> io::Result<Option<StoreId>> {
        match storage.open_directory(storage.root(), OWN_FOLDER) {
            Ok(top) => read_identity(storage, &top),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// What new objects get by themselves. Found out by making one, once, when the first batch is
    /// staged: a session that applies nothing writes nothing here.
    ///
    /// # Errors
    /// The file system's own.
    pub fn fresh(&self, storage: &S) -> io::Result<Fresh> {
        if let Some(fresh) = self.fresh.get() {
            return Ok(*fresh);
        }
        // Stagers that ask at the same moment take turns.
        let _turn = self.probing.lock().unwrap_or_else(PoisonError::into_inner);
        match self.fresh.get() {
            Some(fresh) => Ok(*fresh),
            None => {
                let fresh = probe_fresh(storage, &self.staging)?;
                Ok(*self.fresh.get_or_init(|| fresh))
            }
        }
    }

    /// Opens the folder of one history set.
    ///
    /// # Errors
    /// The file system's own.
    pub fn history_set(&self, storage: &S, set: u64) -> io::Result<S::Directory> {
        ensure_directory(storage, &self.history, set_name(set).as_bytes())
    }
}

/// The name of the small file that says how far the site's role is.
pub const ROLE: &[u8] = b"role";

/// Longest of the small files that are read here.
const SMALL_MAX: usize = 4_096;

/// The identity of a tree, made where it has none. Unlike [`OwnFolder::open`] this takes no lock.
///
/// # Errors
/// The file system's own.
pub fn ensure_identity<S: Storage>(storage: &S, fresh: StoreId) -> io::Result<StoreId> {
    let top = ensure_directory(storage, storage.root(), OWN_FOLDER)?;
    match read_identity(storage, &top)? {
        Some(identity) => Ok(identity),
        None => make_identity(storage, &top, fresh),
    }
}

/// The small file `name` of Farshore's folder; `None` when it, or the folder, is not there.
///
/// # Errors
/// The file system's own; [`io::ErrorKind::InvalidData`] when it is no small file.
pub fn read_small<S: Storage>(storage: &S, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let absent = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => Ok(None),
        _ => Err(e),
    };
    let top = match storage.open_directory(storage.root(), OWN_FOLDER) {
        Ok(top) => top,
        Err(e) => return absent(e),
    };
    let file = match storage.open_file(&top, name) {
        Ok(file) => file,
        Err(e) => return absent(e),
    };
    let mut bytes = vec![0; SMALL_MAX + 1];
    let read = storage.read_at(&file, 0, &mut bytes)?;
    if read > SMALL_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// Puts `bytes` into the small file `name` of Farshore's folder, which must be there: all of them or, after a
/// crash, what was there before. Durable when it returns.
///
/// # Errors
/// The file system's own.
pub fn write_small<S: Storage>(storage: &S, name: &[u8], bytes: &[u8]) -> io::Result<()> {
    let top = storage.open_directory(storage.root(), OWN_FOLDER)?;
    let beside = [name, b".new"].concat();
    match storage.unlink(&top, &beside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let file = storage.create_file(&top, &beside)?;
    storage.write_at(&file, 0, bytes)?;
    storage.sync_file(&file)?;
    storage.rename(&top, &beside, &top, name)?;
    storage.sync_directory(&top)
}

/// The name of a batch's folder in history and of its journal record.
#[must_use]
pub fn set_name(set: u64) -> String {
    format!("{set:020}")
}

/// Opens the directory `name`, or makes it.
///
/// # Errors
/// The file system's own.
pub fn ensure_directory<S: Storage>(
    storage: &S,
    at: &S::Directory,
    name: &[u8],
) -> io::Result<S::Directory> {
    match storage.open_directory(at, name) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            match storage.make_directory(at, name) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
            storage.open_directory(at, name)
        }
        opened => opened,
    }
}

fn take_lock<S: Storage>(storage: &S, top: &S::Directory) -> io::Result<S::File> {
    let file = match storage.open_file_writable(top, LOCK) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => match storage.create_file(top, LOCK) {
            // Somebody else made it meanwhile.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                storage.open_file_writable(top, LOCK)?
            }
            made => made?,
        },
        opened => opened?,
    };
    if storage.try_lock(&file)? { Ok(file) } else { Err(io::ErrorKind::ResourceBusy.into()) }
}

fn read_identity<S: Storage>(storage: &S, top: &S::Directory) -> io::Result<Option<StoreId>> {
    let file = match storage.open_file(top, IDENTITY) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut bytes = [0; 16];
    // Anything but sixteen bytes, or a block never written, was cut short by a crash before anything
    // relied on it.
    let whole = storage.read_at(&file, 0, &mut bytes)? == 16 && bytes != [0; 16];
    Ok(whole.then_some(StoreId(bytes)))
}

fn make_identity<S: Storage>(
    storage: &S,
    top: &S::Directory,
    fresh: StoreId,
) -> io::Result<StoreId> {
    match storage.unlink(top, IDENTITY) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let file = storage.create_file(top, IDENTITY)?;
    storage.write_at(&file, 0, &fresh.0)?;
    storage.sync_all()?;
    Ok(fresh)
}

/// What new objects in `staging` get by themselves.
pub(crate) fn probe_fresh<S: Storage>(storage: &S, staging: &S::Directory) -> io::Result<Fresh> {
    match storage.unlink(staging, PROBE) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let file = storage.create_file_as(staging, PROBE, 0o777)?;
    let stat = storage.stat(Object::File(&file))?;
    storage.unlink(staging, PROBE)?;
    Ok(Fresh { owner: (stat.uid, stat.gid), mode_kept: stat.mode & 0o777 })
}

/// Removes `name` in `at`, and everything below it when it is a directory. Nothing to remove is no
/// error.
///
/// # Errors
/// The file system's own.
pub fn remove_tree<S: Storage>(storage: &S, at: &S::Directory, name: &[u8]) -> io::Result<()> {
    let kind = match storage.stat(Object::Named(at, name)) {
        Ok(stat) => stat.kind,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    if kind != FileKind::Directory {
        return storage.unlink(at, name);
    }
    // An explicit stack: a tree may be deeper than a thread's.
    let mut stack = vec![emptied(storage, at, name)?];
    while let Some(Emptied { directory, folders, .. }) = stack.last_mut() {
        if let Some(child) = folders.pop() {
            if storage.remove_directory(directory, &child).is_err() {
                let next = emptied(storage, directory, &child)?;
                stack.push(next);
            }
            continue;
        }
        let Some(Emptied { name, .. }) = stack.pop() else { break };
        let parent = stack.last().map_or(at, |e| &e.directory);
        storage.remove_directory(parent, &name)?;
    }
    Ok(())
}

/// A directory of which only folders are left.
struct Emptied<S: Storage> {
    directory: S::Directory,
    name: Vec<u8>,
    folders: Vec<Vec<u8>>,
}

fn emptied<S: Storage>(storage: &S, at: &S::Directory, name: &[u8]) -> io::Result<Emptied<S>> {
    let directory = storage.open_directory(at, name)?;
    let (mut names, mut folders) = (Vec::new(), Vec::new());
    storage.list(&directory, &mut |l| names.push((l.name.to_vec(), l.kind)))?;
    for (child, kind) in names {
        let kind = match kind {
            Some(kind) => kind,
            None => storage.stat(Object::Named(&directory, &child))?.kind,
        };
        match kind {
            FileKind::Directory => folders.push(child),
            _ => storage.unlink(&directory, &child)?,
        }
    }
    Ok(Emptied { directory, name: name.to_vec(), folders })
}

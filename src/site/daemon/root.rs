//! The root of a share's end: whether it is there, and whether it is the one the share was replicated from,
//! or to.
//!
//! Guarantees: an end is open only while its path leads to that folder; while it does not, nothing is sent,
//! applied or concluded, and the status says what is there instead.
//!
//! Refuses another folder than the former one until an operator says that it is meant (`farshore brake
//! approve`). Survives a crash: nothing is remembered here, the catalogs say which folder it was.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use farshore_core::guard::RootIdentity;
use farshore_engine::catalog::Catalog;
use farshore_engine::io::uring::UringStorage;
use farshore_engine::own_folder::OwnFolder;

use super::*;
use crate::replicate::catalog_failure;

/// Why an end cannot be opened.
pub(super) enum Closed {
    /// There is no root.
    Gone(String),
    /// Another folder is at its path.
    Other(String),
    /// Anything else.
    Failure(Failure),
}

impl From<Failure> for Closed {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl Closed {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Gone(text) | Self::Other(text) => text,
            Self::Failure(failure) => &failure.message,
        }
    }

    /// What the share is shown as meanwhile.
    pub(super) fn state(&self) -> facts::ShareState {
        match self {
            Self::Gone(_) | Self::Other(_) => facts::ShareState::MountGone,
            Self::Failure(_) => facts::ShareState::Error,
        }
    }
}

/// Opens the root of an end.
pub(super) fn open(
    role: &'static str,
    share: &Share,
    io: IoMode,
) -> Result<Arc<UringStorage>, Closed> {
    let storage = open_root(role, &share.path, io, share.io_limit);
    storage.map(Arc::new).map_err(|failure| Closed::Gone(failure.message))
}

/// Why `path` does not lead to the root of `storage`, if so.
pub(super) fn gone(path: &Path, storage: &UringStorage) -> Option<String> {
    let root = storage.stat(Object::Directory(storage.root()));
    let there = rustix::fs::stat(path.as_os_str().as_bytes());
    match (root, there) {
        (Ok(root), Ok(there)) => {
            let device = (rustix::fs::major(there.st_dev), rustix::fs::minor(there.st_dev));
            if device != (root.device.major, root.device.minor) {
                return Some("another file system is in its place".into());
            }
            (there.st_ino != root.inode).then(|| "another directory is in its place".into())
        }
        (Err(e), _) => Some(e.to_string()),
        (_, Err(e)) => Some(std::io::Error::from(e).to_string()),
    }
}

fn other_folder(way: &str, share: &str) -> Closed {
    Closed::Other(format!(
        "root is another folder than the one this share was replicated {way}: mounted? If it is meant: \
         farshore brake approve --share {share}"
    ))
}

/// Nothing is in the root of a share that was replicated before.
pub(super) fn emptied(share: &str) -> Closed {
    other_folder("here, and empty", share)
}

fn looking(e: &std::io::Error) -> Closed {
    Closed::Gone(format!("root: looking at it: {e}"))
}

/// Whether the root of a share that is sent is the folder of its last point.
pub(super) fn is_former_source(
    share: &str,
    storage: &UringStorage,
    catalog: &Catalog,
) -> Result<(), Closed> {
    let expected = catalog.reader().and_then(|reader| reader.root_identity());
    let expected = expected.map_err(|e| catalog_failure(&e))?;
    let inode = storage.stat(Object::Directory(storage.root())).map_err(|e| looking(&e))?.inode;
    let file_system = storage.file_system().map_err(|e| looking(&e))?;
    let found = RootIdentity { inode, file_system };
    match expected {
        Some(expected) if expected != found => Err(other_folder("from", share)),
        _ => Ok(()),
    }
}

/// Whether the root of a share that is received is the tree its catalog is of.
pub(super) fn is_former_target(
    share: &str,
    storage: &UringStorage,
    catalog: &Catalog,
) -> Result<(), Closed> {
    let tree = catalog.reader().and_then(|reader| reader.tree());
    let tree = tree.map_err(|e| catalog_failure(&e))?;
    let found = OwnFolder::identity_of(storage).map_err(|e| looking(&e))?;
    if tree.is_some() && tree != found {
        return Err(other_folder("into", share));
    }
    Ok(())
}

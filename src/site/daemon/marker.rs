//! The marker of a share's role, in the share's own folder, and whether that folder is there.
//!
//! Guarantees: it is replaced as a whole. Refuses a root that is empty where the share is known: that is a mount
//! that is not there, until somebody says that it is meant.

use farshore_core::role::{Kept, Stamp};
use farshore_engine::io::uring::UringStorage;
use farshore_engine::own_folder;

use super::*;

/// The marker in the tree's own folder.
const MARKER: &[u8] = own_folder::ROLE;

/// Why the role of a share is not known.
pub(super) enum NoRole {
    /// What this site keeps of it cannot be used.
    State(String),
    /// Its root cannot be used.
    Root(String),
    /// Its root is an empty folder now.
    Emptied,
}

impl From<String> for NoRole {
    fn from(text: String) -> Self {
        Self::State(text)
    }
}

/// Reads what is in a share's own folder: its identity, made where there may be one, and the marker.
pub(super) fn read_marker(
    storage: &UringStorage,
    known: bool,
) -> Result<(farshore_proto::message::StoreId, Kept<Stamp>), NoRole> {
    let said =
        |step: &str, e: &std::io::Error| NoRole::Root(format!("its own folder: {step}: {e}"));
    let bytes =
        own_folder::read_small(storage, MARKER).map_err(|e| said("reading the marker", &e))?;
    let marker = match bytes {
        Some(bytes) => Stamp::decode_marker(&bytes).map_or(Kept::Damaged, Kept::Found),
        None => Kept::Nothing,
    };
    let identity = farshore_engine::own_folder::OwnFolder::identity_of(storage);
    if identity.map_err(|e| said("reading its identity", &e))?.is_none()
        && known
        && is_empty(storage).map_err(NoRole::Root)?
    {
        return Err(NoRole::Emptied);
    }
    let fresh = random_id().map_err(|e| NoRole::State(e.to_string()))?;
    let tree = own_folder::ensure_identity(storage, fresh).map_err(|e| said("making it", &e))?;
    Ok((tree, marker))
}

pub(super) fn is_empty(storage: &UringStorage) -> Result<bool, String> {
    let mut empty = true;
    storage.list(storage.root(), &mut |_| empty = false).map_err(|e| format!("its root: {e}"))?;
    Ok(empty)
}

pub(super) fn write_marker(storage: &UringStorage, stamp: Stamp) -> std::io::Result<()> {
    let fresh = random_id().map_err(|e| std::io::Error::other(e.to_string()))?;
    own_folder::ensure_identity(storage, fresh)?;
    own_folder::write_small(storage, MARKER, &stamp.encode_marker())
}

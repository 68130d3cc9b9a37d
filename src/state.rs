//! The state folder: keys, catalogs, lists too long for memory.
//!
//! ```text
//! <state>/site.key                 this site's key, mode 0600
//! <state>/source-<id>/catalog.redb what one target acknowledged of one source root
//! <state>/target-<id>/catalog.redb what was applied to one target root
//! ```
//! An id is a digest of what it belongs to. A catalog that is lost is rebuilt from the trees; a key
//! that is lost must be paired again. One process at a time has a catalog open.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use farshore_engine::catalog::{Catalog, CatalogConfig, CatalogError, CatalogRole};
use farshore_proto::message::StoreId;

/// Bytes of memory for a catalog's cache.
const CACHE_BYTES: usize = 48 << 20;

/// Why the state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// No place to put it.
    #[error("no state folder: neither --state nor XDG_STATE_HOME nor HOME is set")]
    NoPlace,
    /// It cannot be made.
    #[error("state folder {}: making it", path.display())]
    Make {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No randomness.
    #[error("asking the system for random bytes")]
    Random(#[source] io::Error),
    /// The pages of a catalog make no sense.
    #[error("catalog {}: opening it: its pages are damaged", path.display())]
    Unsound {
        /// The database file.
        path: PathBuf,
    },
    /// A catalog cannot be opened.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// An open state folder.
#[derive(Debug, Clone)]
pub struct State {
    folder: PathBuf,
}

impl State {
    /// Opens the folder given, or `$XDG_STATE_HOME/farshore`, or `$HOME/.local/state/farshore`; makes
    /// it if need be, mode 0700.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn open(given: Option<&Path>) -> Result<Self, StateError> {
        let from_env = |name, below: &str| {
            let value = std::env::var_os(name).filter(|v| !v.is_empty())?;
            Some(PathBuf::from(value).join(below))
        };
        let folder = given
            .map(Path::to_path_buf)
            .or_else(|| from_env("XDG_STATE_HOME", "farshore"))
            .or_else(|| from_env("HOME", ".local/state/farshore"))
            .ok_or(StateError::NoPlace)?;
        make_private(&folder)?;
        Ok(Self { folder })
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the site key is unless one is named.
    #[must_use]
    pub fn key_file(&self) -> PathBuf {
        self.folder.join("site.key")
    }

    /// Opens the catalog of `role` for what `parts` name, and the folder it is in.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn catalog(
        &self,
        role: CatalogRole,
        parts: &[&[u8]],
    ) -> Result<(Catalog, PathBuf), StateError> {
        let mut hasher = blake3::Hasher::new_derive_key("farshore state folder v1");
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        let name = match role {
            CatalogRole::Source => "source",
            CatalogRole::Target => "target",
        };
        let id = hasher.finalize().to_hex();
        let folder = self.folder.join(format!("{name}-{}", &id.as_str()[..16]));
        make_private(&folder)?;
        let config = CatalogConfig { role, cache_bytes: CACHE_BYTES, fresh_id: random_id()? };
        let path = folder.join("catalog.redb");
        // The database takes its own pages for sound and panics when they are not.
        let opened = catch_unwind(AssertUnwindSafe(|| Catalog::open(&path, &config)));
        let catalog = opened.map_err(|_| StateError::Unsound { path })??;
        Ok((catalog, folder))
    }
}

/// The bytes of a path, as a part of a catalog's name.
#[must_use]
pub fn path_bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

fn make_private(folder: &Path) -> Result<(), StateError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|source| StateError::Make { path: folder.into(), source })
}

/// Sixteen random bytes.
///
/// # Errors
/// [`StateError::Random`].
pub fn random_id() -> Result<StoreId, StateError> {
    let mut id = [0; 16];
    let mut filled = 0;
    while filled < id.len() {
        let flags = rustix::rand::GetRandomFlags::empty();
        let got = rustix::rand::getrandom(&mut id[filled..], flags)
            .map_err(|e| StateError::Random(e.into()))?;
        filled += got;
    }
    Ok(StoreId(id))
}

/// Milliseconds since 1970-01-01 UTC by this machine's clock.
#[must_use]
pub fn now_ms() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    now.tv_sec.saturating_mul(1_000).saturating_add(now.tv_nsec / 1_000_000)
}

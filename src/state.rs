//! The state folder: keys, catalogs, lists too long for memory.
//!
//! ```text
//! <state>/site.key                 this site's key, mode 0600
//! <state>/source-<id>/catalog.redb what one target acknowledged of one source root
//! <state>/target-<id>/catalog.redb what was applied to one target root
//! <state>/{source,target}-<id>/pair which roots the folder is for, as text
//! <state>/source-<id>/degraded     what the target's mount did not keep so far, as JSON
//! <state>/source-<id>/brake        what a standing site's brake holds, and its sums
//! <state>/source-<id>/capture.journal  directories that wait to be looked at
//! <state>/target-<id>/scrub        how far a standby was read, and when, as JSON
//! ```
//! An id is a digest of what it belongs to. A catalog that is lost is rebuilt from the trees; a key
//! that is lost must be paired again. One process at a time has a catalog open.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use farshore_core::path::escape;
use farshore_engine::catalog::{Catalog, CatalogConfig, CatalogError, CatalogRole, Turning};
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
        let state = Self::existing(given)?;
        make_private(&state.folder)?;
        Ok(state)
    }

    /// The same folder, which is not made: nothing may be there.
    ///
    /// # Errors
    /// [`StateError::NoPlace`].
    pub fn existing(given: Option<&Path>) -> Result<Self, StateError> {
        let from_env = |name, below: &str| {
            let value = std::env::var_os(name).filter(|v| !v.is_empty())?;
            Some(PathBuf::from(value).join(below))
        };
        let folder = given
            .map(Path::to_path_buf)
            .or_else(|| from_env("XDG_STATE_HOME", "farshore"))
            .or_else(|| from_env("HOME", ".local/state/farshore"))
            .ok_or(StateError::NoPlace)?;
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

    /// The folder of the catalog of `role` for what `parts` name, there or not.
    #[must_use]
    pub fn catalog_folder(&self, role: CatalogRole, parts: &[&[u8]]) -> PathBuf {
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
        self.folder.join(format!("{name}-{}", &id.as_str()[..16]))
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
        let folder = self.catalog_folder(role, parts);
        make_private(&folder)?;
        write_pair(&folder, role, parts);
        let config = CatalogConfig { role, cache_bytes: CACHE_BYTES, fresh_id: random_id()? };
        let path = folder.join(CATALOG);
        // The database takes its own pages for sound and panics when they are not.
        let opened = catch_unwind(AssertUnwindSafe(|| Catalog::open(&path, &config)));
        let catalog = opened.map_err(|_| StateError::Unsound { path })??;
        Ok((catalog, folder))
    }
}

/// The two folders that the catalog of a site's share moves between: one is named by the parts a source has,
/// the other by those of a target.
#[derive(Debug, Clone)]
pub struct SiteCatalog<'p> {
    /// Parts of the name while the share is sent.
    pub source: [&'p [u8]; 4],
    /// Parts of the name while it is received.
    pub target: [&'p [u8]; 1],
}

impl SiteCatalog<'_> {
    fn parts(&self, role: CatalogRole) -> &[&[u8]] {
        match role {
            CatalogRole::Source => &self.source,
            CatalogRole::Target => &self.target,
        }
    }
}

impl State {
    /// Opens the catalog of a site's share as `turning` wants it. One of the other role takes this one first,
    /// with all it knows: the same entries stand at both sites. A crash at any point is made good by the next
    /// call.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn site_catalog(
        &self,
        names: &SiteCatalog<'_>,
        turning: &Turning,
    ) -> Result<(Catalog, PathBuf), StateError> {
        let role = turning.role;
        let former = match role {
            CatalogRole::Source => CatalogRole::Target,
            CatalogRole::Target => CatalogRole::Source,
        };
        let folder = self.catalog_folder(role, names.parts(role));
        let former = self.catalog_folder(former, names.parts(former));
        let (at, was) = (folder.join(CATALOG), former.join(CATALOG));
        if !at.exists() && was.exists() {
            Catalog::turn(&was, turning)?;
            make_private(&folder)?;
            let moved = fs::rename(&was, &at)
                .and_then(|()| fs::File::open(&folder)?.sync_all())
                .and_then(|()| fs::File::open(&former)?.sync_all());
            moved.map_err(|source| StateError::Make { path: at, source })?;
            if role == CatalogRole::Target {
                // What waited to be sent, and what was held, was decided with the role.
                for name in ["brake", "capture.journal"] {
                    fs::remove_file(former.join(name)).unwrap_or(());
                }
            }
        } else if at.exists() && turning.joined_with.is_some() {
            Catalog::turn(&at, turning)?;
        }
        self.catalog(role, names.parts(role))
    }
}

impl State {
    /// The catalog of a site's share with the role it has now; `None` when there is none.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn site_catalog_as_it_is(
        &self,
        names: &SiteCatalog<'_>,
    ) -> Result<Option<Catalog>, StateError> {
        for role in [CatalogRole::Target, CatalogRole::Source] {
            let parts = names.parts(role);
            if self.catalog_folder(role, parts).join(CATALOG).exists() {
                return self.catalog(role, parts).map(|(catalog, _)| Some(catalog));
            }
        }
        Ok(None)
    }
}

/// The database in the folder of a catalog.
const CATALOG: &str = "catalog.redb";

/// Says in a file which roots the folder of a catalog is for. It is for people alone: without it
/// nothing is missing, so nothing fails.
fn write_pair(folder: &Path, role: CatalogRole, parts: &[&[u8]]) {
    let shown = |part: &[u8]| {
        let mut out = String::new();
        escape(part, &mut out).unwrap_or(());
        out
    };
    let text = match (role, parts) {
        (CatalogRole::Source, [root, b"remote", address, share]) => {
            let (address, share) = (shown(address), shown(share));
            format!("source {}\ntarget farshore://{address}/{share}\n", shown(root))
        }
        (CatalogRole::Source, [root, _, target]) => {
            format!("source {}\ntarget {}\n", shown(root), shown(target))
        }
        _ => format!("target {}\n", parts.first().map(|root| shown(root)).unwrap_or_default()),
    };
    let file = folder.join("pair");
    if fs::read(&file).ok().as_deref() != Some(text.as_bytes()) {
        fs::write(&file, text).unwrap_or(());
    }
}

/// The file beside a source's catalog that counts what the target's mount did not keep.
const DEGRADED: &str = "degraded";

/// What former runs could not keep at the target, by kind. The catalogs do not know which entries
/// these are; a file that is lost or damaged counts as none.
#[must_use]
pub fn degraded(folder: &Path) -> BTreeMap<String, u64> {
    let read = fs::read(folder.join(DEGRADED)).unwrap_or_default();
    serde_json::from_slice(&read).unwrap_or_default()
}

/// Adds what a run could not keep to what is remembered.
pub fn add_degraded(folder: &Path, before: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) {
    if now.is_empty() {
        return;
    }
    let mut all = before.clone();
    for (what, count) in now {
        let sum = all.entry(what.clone()).or_default();
        *sum = sum.saturating_add(*count);
    }
    // The run is durable and has said it; only the reminder would be missing.
    let text = serde_json::to_vec(&all).unwrap_or_default();
    fs::write(folder.join(DEGRADED), text).unwrap_or(());
}

/// Forgets it: source and target were found equal.
pub fn forget_degraded(folder: &Path) {
    fs::remove_file(folder.join(DEGRADED)).unwrap_or(());
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

/// Opens what a person named, to read it, if it is a file: a pipe would hold up whoever opens it.
///
/// # Errors
/// The file system's own.
pub fn open_file(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = File::options().read(true).custom_flags(nonblocking).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file")),
    }
}

/// Milliseconds since 1970-01-01 UTC by this machine's clock.
#[must_use]
pub fn now_ms() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    now.tv_sec.saturating_mul(1_000).saturating_add(now.tv_nsec / 1_000_000)
}
/// Puts `bytes` into the file at `path`, mode 0600: all of them or, after a crash, what was there before.
///
/// # Errors
/// The file system's own.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    // What a crash left there, or somebody put there, is not written into.
    match fs::remove_file(&beside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

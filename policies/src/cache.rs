//! Compiled policies, kept so that they need not be compiled again.
//!
//! Guarantees: compiled code is machine code and would be run as such, so only what this user wrote
//! here is: the folder and the file are the user's own and nobody else can write or read them (asked
//! of the opened file, not of its name), the name is that of this very component, engine, its
//! settings and this processor, and the content has the digest that stands before it. Refuses: a
//! folder that others can write. A file that is damaged, cut short, another's or open to others is
//! passed over, and replaced by one compiled anew.
//!
//! Survives a crash: a file is written beside its name and renamed. It is not synced: one that a power
//! cut left empty fails its digest. What does not fit is left out; nothing depends on it.

mod compiled;

use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process;

use farshore_core::policy::PolicyId;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::limits::ENGINE;

/// What a file begins with.
const MAGIC: &[u8; 16] = b"farshore/policy1";
/// The magic, the name's digest, the content's.
const HEADER: usize = 16 + 32 + 32;
/// Largest file that is read or written, in bytes: a component of the largest size, compiled.
const FILE_MAX: u64 = 512 << 20;
/// Files that are kept; the oldest go.
const FILES_MAX: usize = 64;
/// Others may not do anything.
const OTHERS: u32 = 0o077;

/// A folder that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// It cannot be made, opened or looked at.
    #[error("{folder}")]
    Open {
        /// Which.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others could put code there.
    #[error(
        "{0} must be yours alone, since what is in it is run: run: chmod 700 {0}, as its owner"
    )]
    Shared(PathBuf),
}

/// A folder of compiled policies.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: OwnedFd,
    /// Digest of engine, settings and processor.
    key: [u8; 32],
}

impl Cache {
    /// Opens `folder`, made when it is missing.
    pub(crate) fn open(folder: &Path, engine: &Engine) -> Result<Self, CacheError> {
        let failed = |source: rustix::io::Errno| CacheError::Open {
            folder: folder.to_owned(),
            source: source.into(),
        };
        match rustix::fs::mkdir(folder, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(failed(error)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::open(folder, flags, Mode::empty()).map_err(failed)?;
        let stat = rustix::fs::fstat(&opened).map_err(failed)?;
        if !is_ours(&stat) {
            return Err(CacheError::Shared(folder.to_owned()));
        }
        let mut key = Digester(blake3::Hasher::new());
        ENGINE.hash(&mut key);
        engine.precompile_compatibility_hash().hash(&mut key);
        Ok(Self { folder: opened, key: *key.0.finalize().as_bytes() })
    }

    /// The compiled code of `id`, if it is here and as it was written.
    pub(crate) fn get(&self, engine: &Engine, id: PolicyId) -> Option<Component> {
        let (name, digest) = self.name(id);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&self.folder, &name, flags, Mode::empty()).ok()?;
        let stat = rustix::fs::fstat(&opened).ok()?;
        let size = u64::try_from(stat.st_size).ok()?;
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if !is_file || !is_ours(&stat) || size > FILE_MAX {
            return None;
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).ok()?);
        File::from(opened).take(FILE_MAX).read_to_end(&mut bytes).ok()?;
        let (header, content) = bytes.split_at_checked(HEADER)?;
        let whole = header.strip_prefix(MAGIC)?.strip_prefix(&digest)?;
        if whole != blake3::hash(content).as_bytes() {
            return None;
        }
        compiled::deserialize(engine, compiled::Checked::new(content))
    }

    /// Keeps the compiled code of `id`; when that fails, it is compiled again the next time.
    pub(crate) fn put(&self, id: PolicyId, component: &Component) {
        let Ok(content) = component.serialize() else { return };
        if content.len() as u64 + HEADER as u64 > FILE_MAX {
            return;
        }
        let (name, digest) = self.name(id);
        let beside = format!("{name}.{}", process::id());
        // Of a process that had this number and died.
        let _stale = rustix::fs::unlinkat(&self.folder, &beside, AtFlags::empty());
        let written = self.write(&beside, &digest, &content);
        let placed = written
            .and_then(|()| Ok(rustix::fs::renameat(&self.folder, &beside, &self.folder, &name)?));
        if placed.is_err() {
            let _gone = rustix::fs::unlinkat(&self.folder, &beside, AtFlags::empty());
        }
        let _pruned = self.prune(&name);
    }

    fn write(&self, name: &str, digest: &[u8; 32], content: &[u8]) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let mut file = File::from(rustix::fs::openat(&self.folder, name, flags, mode)?);
        file.write_all(MAGIC)?;
        file.write_all(digest)?;
        file.write_all(blake3::hash(content).as_bytes())?;
        file.write_all(content)
    }

    /// Removes the oldest files beyond [`FILES_MAX`], but not `newest`: others may have its time.
    fn prune(&self, newest: &str) -> rustix::io::Result<()> {
        let mut files = Vec::new();
        for entry in Dir::read_from(&self.folder)? {
            let entry = entry?;
            let stat =
                rustix::fs::statat(&self.folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
            let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            if is_file && entry.file_name().to_bytes() != newest.as_bytes() {
                files.push((stat.st_mtime, stat.st_mtime_nsec, entry.file_name().to_owned()));
            }
        }
        files.sort();
        for (_, _, name) in files.iter().take((files.len() + 1).saturating_sub(FILES_MAX)) {
            rustix::fs::unlinkat(&self.folder, name.as_c_str(), AtFlags::empty())?;
        }
        Ok(())
    }

    /// The name of `id`'s file, and the digest it is made of.
    fn name(&self, id: PolicyId) -> (String, [u8; 32]) {
        let digest = blake3::keyed_hash(&self.key, &id.0);
        (digest.to_hex().to_string(), *digest.as_bytes())
    }
}

/// Whether it is this user's and nobody else can write or read it.
fn is_ours(stat: &rustix::fs::Stat) -> bool {
    stat.st_uid == rustix::process::geteuid().as_raw() && stat.st_mode & OTHERS == 0
}

/// BLAKE3 as what hashes values.
struct Digester(blake3::Hasher);

impl Hasher for Digester {
    fn finish(&self) -> u64 {
        0 // nobody asks
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

//! Writes entries of a tree with chosen modes, owners and times, and counts them.
//!
//! Guarantees: after [`TreeWriter::finish`] every folder touched has the time chosen for it, however
//! many entries were made in it since. Refuses to leave the root: names are joined below it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use serde::Serialize;

use crate::bench::content::Content;
use crate::bench::rng::{Rng, len_u64, mix};
use crate::bench::{BenchError, Context};

/// 2026-01-01 00:00 UTC: the end of the 40 days over which times are spread.
pub(crate) const EPOCH_SECONDS: u64 = 1_767_225_600;
/// Days over which times are spread.
const SPREAD_SECONDS: u64 = 40 * 86_400;

/// What one step of generation did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Facts {
    /// Files written.
    pub(crate) files_written: u64,
    /// Bytes written into them.
    pub(crate) bytes_written: u64,
    /// Entries removed.
    pub(crate) removed: u64,
    /// Entries renamed.
    pub(crate) renamed: u64,
}

impl std::fmt::Display for Facts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { files_written, bytes_written, removed, renamed } = self;
        write!(
            f,
            "{files_written} files written, {bytes_written} bytes, {removed} removed, {renamed} renamed"
        )
    }
}

/// Mode, owner and time of an entry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    /// Permission bits.
    pub(crate) mode: u32,
    /// Owner and group, when they are to be set.
    pub(crate) owner: Option<(u32, u32)>,
    /// Modification time.
    pub(crate) mtime: SystemTime,
}

impl Look {
    /// A plain look: 0640, our owner, a time out of the 40 days chosen by `seed`.
    pub(crate) fn plain(seed: u64) -> Self {
        Self { mode: 0o640, owner: None, mtime: time_for(seed) }
    }

    /// The same with another mode.
    pub(crate) fn mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    /// The same, changed during the day after the base state.
    pub(crate) fn next_day(self, seed: u64) -> Self {
        let mut rng = Rng::new(mix(seed, 4));
        let offset = Duration::new(rng.below(86_400), nanoseconds(&mut rng));
        Self { mtime: UNIX_EPOCH + Duration::from_secs(EPOCH_SECONDS) + offset, ..self }
    }
}

fn nanoseconds(rng: &mut Rng) -> u32 {
    u32::try_from(rng.below(1_000_000_000)).unwrap_or(0)
}

fn time_for(seed: u64) -> SystemTime {
    let mut rng = Rng::new(mix(seed, 3));
    let back = rng.below(SPREAD_SECONDS) + 1;
    UNIX_EPOCH + Duration::new(EPOCH_SECONDS - back, nanoseconds(&mut rng))
}

/// Writes below one root.
#[derive(Debug)]
pub(crate) struct TreeWriter {
    root: PathBuf,
    owners: bool,
    folders: BTreeMap<PathBuf, Look>,
    facts: Facts,
}

impl TreeWriter {
    /// A writer below `root`; owners are set only when `owners`.
    pub(crate) fn create(root: &Path, owners: bool) -> Self {
        let mut folders = BTreeMap::new();
        folders.insert(PathBuf::new(), Look::plain(1).mode(0o755));
        Self { root: root.to_owned(), owners, folders, facts: Facts::default() }
    }

    /// The full path of a name below the root.
    pub(crate) fn path(&self, name: &Path) -> PathBuf {
        if name.as_os_str().is_empty() { self.root.clone() } else { self.root.join(name) }
    }

    /// Makes a folder, its parents included, and remembers its look.
    pub(crate) fn folder(&mut self, name: &Path, look: Look) -> Result<(), BenchError> {
        let path = self.path(name);
        if !self.folders.contains_key(name) {
            std::fs::create_dir_all(&path).at("create a folder", &path)?;
            let mut parent = name.parent();
            while let Some(up) = parent {
                self.folders.entry(up.to_owned()).or_insert(look);
                parent = up.parent();
            }
        }
        self.folders.insert(name.to_owned(), look);
        Ok(())
    }

    /// Notes that a folder's entries change, so that `finish` sets its time again.
    pub(crate) fn touch_folder(&mut self, name: &Path, look: Look) {
        self.folders.insert(name.to_owned(), look);
    }

    /// Writes one file; its folder must exist.
    pub(crate) fn file(
        &mut self,
        name: &Path,
        content: Content,
        look: Look,
    ) -> Result<(), BenchError> {
        let path = self.path(name);
        let file = File::create(&path).at("create a file", &path)?;
        let mut out = Counting { inner: BufWriter::with_capacity(1 << 17, file), bytes: 0 };
        content.write_to(&mut out).at("write a file", &path)?;
        self.facts.bytes_written += out.bytes;
        let file = out.inner.into_inner().map_err(std::io::IntoInnerError::into_error);
        self.dress(&file.at("write a file", &path)?, &path, look)
    }

    /// Writes one file from bytes at hand.
    pub(crate) fn bytes(
        &mut self,
        name: &Path,
        bytes: &[u8],
        look: Look,
    ) -> Result<(), BenchError> {
        let path = self.path(name);
        let mut file = File::create(&path).at("create a file", &path)?;
        file.write_all(bytes).at("write a file", &path)?;
        self.facts.bytes_written += len_u64(bytes.len());
        self.dress(&file, &path, look)
    }

    /// Gives an open file its look and counts it.
    pub(crate) fn dress(&mut self, file: &File, path: &Path, look: Look) -> Result<(), BenchError> {
        self.facts.files_written += 1;
        if let Some((uid, gid)) = look.owner.filter(|_| self.owners) {
            std::os::unix::fs::fchown(file, Some(uid), Some(gid)).at("set the owner", path)?;
        }
        file.set_permissions(std::fs::Permissions::from_mode(look.mode))
            .at("set the mode", path)?;
        let times = std::fs::FileTimes::new().set_modified(look.mtime).set_accessed(look.mtime);
        file.set_times(times).at("set the times", path)
    }

    /// Counts bytes written by other means than [`Self::file`].
    pub(crate) fn count_bytes(&mut self, bytes: u64) {
        self.facts.bytes_written += bytes;
    }

    /// Makes a symbolic link.
    pub(crate) fn symlink(&mut self, name: &Path, to: &Path, look: Look) -> Result<(), BenchError> {
        let path = self.path(name);
        std::os::unix::fs::symlink(to, &path).at("create a link", &path)?;
        if let Some((uid, gid)) = look.owner.filter(|_| self.owners) {
            std::os::unix::fs::lchown(&path, Some(uid), Some(gid)).at("set the owner", &path)?;
        }
        self.facts.files_written += 1;
        set_times(&path, look.mtime)
    }

    /// Removes a file.
    pub(crate) fn remove(&mut self, name: &Path) -> Result<(), BenchError> {
        let path = self.path(name);
        std::fs::remove_file(&path).at("remove a file", &path)?;
        self.facts.removed += 1;
        Ok(())
    }

    /// Renames an entry; for a folder use [`Self::rename_folder`].
    pub(crate) fn rename(&mut self, from: &Path, to: &Path) -> Result<(), BenchError> {
        let (from, to) = (self.path(from), self.path(to));
        std::fs::rename(&from, &to).at("rename", &from)?;
        self.facts.renamed += 1;
        Ok(())
    }

    /// Renames a folder with all below it; the looks chosen there move along.
    pub(crate) fn rename_folder(&mut self, from: &Path, to: &Path) -> Result<(), BenchError> {
        self.rename(from, to)?;
        for (name, look) in std::mem::take(&mut self.folders) {
            let moved = name.strip_prefix(from).map(|below| to.join(below));
            self.folders.insert(moved.unwrap_or(name), look);
        }
        Ok(())
    }

    /// Sets mode and time of a file by name without writing it.
    pub(crate) fn retouch(&mut self, name: &Path, look: Look) -> Result<(), BenchError> {
        let path = self.path(name);
        let mode = std::fs::Permissions::from_mode(look.mode);
        std::fs::set_permissions(&path, mode).at("set the mode", &path)?;
        set_times(&path, look.mtime)
    }

    /// Sets owner, mode and times of all folders, the deepest first, and ends; what is as wanted is left alone.
    pub(crate) fn finish(self) -> Result<Facts, BenchError> {
        for (name, look) in self.folders.iter().rev() {
            let path = self.path(name);
            let owner = look.owner.filter(|_| self.owners);
            let now = std::fs::symlink_metadata(&path).at("read", &path)?;
            let same_owner = owner.is_none_or(|owner| owner == (now.uid(), now.gid()));
            let same_mode = now.permissions().mode() & 0o7777 == look.mode;
            let same_time = now.modified().is_ok_and(|time| time == look.mtime);
            if same_owner && same_mode && same_time {
                continue;
            }
            if let Some((uid, gid)) = owner {
                std::os::unix::fs::chown(&path, Some(uid), Some(gid)).at("set the owner", &path)?;
            }
            let mode = std::fs::Permissions::from_mode(look.mode);
            std::fs::set_permissions(&path, mode).at("set the mode", &path)?;
            set_times(&path, look.mtime)?;
        }
        Ok(self.facts)
    }
}

/// Sets both times of an entry by name, without following a link.
pub(crate) fn set_times(path: &Path, time: SystemTime) -> Result<(), BenchError> {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let spec = Timespec {
        tv_sec: i64::try_from(since.as_secs()).unwrap_or(0),
        tv_nsec: i64::from(since.subsec_nanos()),
    };
    let times = Timestamps { last_access: spec, last_modification: spec };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(std::io::Error::from)
        .at("set the times", path)
}

struct Counting<W> {
    inner: W,
    bytes: u64,
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let count = self.inner.write(buffer)?;
        self.bytes += len_u64(count);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

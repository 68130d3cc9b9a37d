//! W7: a copy of a real tree, then its next version.
//!
//! Guarantees: the copies have the content, kind, mode and time of the original, but that times of a file
//! differ by whole seconds or not at all, and always (a day is added) when its content changed; entries
//! equal in both versions are left untouched. Refuses entries that are not file, folder or link: they are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::TreeWriter;
use super::writer::Look;
use crate::bench::{BenchError, Context};

/// One version of a real tree: a folder, or folders gathered under names of their own.
#[derive(Debug, Clone)]
pub(crate) enum Version {
    /// The tree itself.
    Folder(PathBuf),
    /// Name below the root, and the folder that is copied there.
    Parts(BTreeMap<OsString, PathBuf>),
}

/// Makes the tree equal to a version, touching only what differs.
pub(super) fn become_version(tree: &mut TreeWriter, like: &Version) -> Result<(), BenchError> {
    let parts = match like {
        Version::Folder(folder) => return become_folder(tree, folder, Path::new("")),
        Version::Parts(parts) => parts,
    };
    let top = tree.path(Path::new(""));
    for old in names(&top)?.iter().filter(|name| !parts.contains_key(*name)) {
        remove_any(tree, Path::new(old))?;
    }
    for (name, folder) in parts {
        become_folder(tree, folder, Path::new(name))?;
    }
    tree.touch_folder(Path::new(""), Look::plain(1).mode(0o755));
    Ok(())
}

/// Makes the folder `name` of the tree equal to the folder `source`.
fn become_folder(tree: &mut TreeWriter, source: &Path, name: &Path) -> Result<(), BenchError> {
    let meta = std::fs::symlink_metadata(source).at("read", source)?;
    tree.folder(name, look_of(&meta))?;
    let wanted = names(source)?;
    let target = tree.path(name);
    for old in names(&target)?.difference(&wanted) {
        remove_any(tree, &name.join(old))?;
    }
    for entry in &wanted {
        become_entry(tree, &source.join(entry), &name.join(entry))?;
    }
    Ok(())
}

fn become_entry(tree: &mut TreeWriter, source: &Path, name: &Path) -> Result<(), BenchError> {
    let target = tree.path(name);
    let meta = std::fs::symlink_metadata(source).at("read", source)?;
    let old = std::fs::symlink_metadata(&target).ok();
    let same_kind = old.as_ref().is_some_and(|o| o.file_type() == meta.file_type());
    let same_link = same_kind
        && meta.is_symlink()
        && old.as_ref().is_some_and(|o| looks_alike(look_of(o), look_of(&meta)));
    if same_link && std::fs::read_link(source).ok() == std::fs::read_link(&target).ok() {
        return Ok(());
    }
    if old.is_some() && (!same_kind || meta.is_symlink()) {
        remove_any(tree, name)?;
    }
    if meta.is_dir() {
        become_folder(tree, source, name)
    } else if meta.is_symlink() {
        let to = std::fs::read_link(source).at("read the link", source)?;
        tree.symlink(name, &to, look_of(&meta))
    } else if meta.is_file() {
        let old = old.filter(|_| same_kind);
        // rsync and others go by whole seconds: a change that shows in the fraction alone fools them.
        let same_second = old.as_ref().is_some_and(|o| o.mtime() == meta.mtime());
        let mut look = look_of(&meta);
        if let Some(old) = &old
            && old.len() == meta.len()
            && same_bytes(source, &target)
        {
            if same_second {
                look.mtime = look_of(old).mtime;
            }
            let is_so = looks_alike(look_of(old), look);
            return if is_so { Ok(()) } else { tree.retouch(name, look) };
        }
        if same_second {
            // Packers give every file one time.
            look.mtime += Duration::from_secs(86_400);
        }
        let mut from = File::open(source).at("open", source)?;
        let mut to = File::create(&target).at("create", &target)?;
        tree.count_bytes(std::io::copy(&mut from, &mut to).at("copy", &target)?);
        tree.dress(&to, &target, look)
    } else {
        Ok(())
    }
}

fn remove_any(tree: &mut TreeWriter, name: &Path) -> Result<(), BenchError> {
    let path = tree.path(name);
    let meta = std::fs::symlink_metadata(&path).at("read", &path)?;
    if meta.is_dir() {
        for entry in names(&path)? {
            remove_any(tree, &name.join(entry))?;
        }
        return std::fs::remove_dir(&path).at("remove a folder", &path);
    }
    tree.remove(name)
}

fn names(folder: &Path) -> Result<BTreeSet<OsString>, BenchError> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(folder).at("list", folder)? {
        names.insert(entry.at("list", folder)?.file_name());
    }
    Ok(names)
}

fn same_bytes(a: &Path, b: &Path) -> bool {
    match (std::fs::read(a), std::fs::read(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

/// Whether mode and time are the same.
fn looks_alike(a: Look, b: Look) -> bool {
    (a.mode, a.mtime) == (b.mode, b.mtime)
}

fn look_of(meta: &std::fs::Metadata) -> Look {
    let seconds = u64::try_from(meta.mtime()).unwrap_or(0);
    let nanoseconds = u32::try_from(meta.mtime_nsec()).unwrap_or(0);
    let mtime: SystemTime = UNIX_EPOCH + Duration::new(seconds, nanoseconds);
    let owner = Some((meta.uid(), meta.gid()));
    Look { mode: meta.permissions().mode() & 0o7777, owner, mtime }
}

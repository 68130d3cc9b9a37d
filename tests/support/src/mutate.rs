//! Changes to a tree, random and the same for the same tree, seed and step.
//!
//! Each change is of a [`MutationKind`], of which [`crate::compare()`] finds every one. The kernel's
//! own times (of edited files, of directories whose names changed) are left to the kernel, as in
//! life; which names change and how is the seed's alone. `/.farshore` is left alone. A change the
//! user may not make is tried elsewhere, then left out.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, OFlags, RenameFlags};

use crate::rng::Rng;
use crate::torture::posix_acl;
use crate::tree::{Facts, Kind, Time, Tree, joined, parent_of, short};

/// Longest file that is edited, in bytes; sparse files of terabytes are let be.
const EDIT_SIZE_MAX: u64 = 64 << 20;

/// Most entries a removed or swapped directory may hold, so that the tree lasts.
const SUBTREE_MAX: usize = 60;

/// Places tried before a change is left out.
const TRIES: u32 = 30;

/// A kind of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum MutationKind {
    EditInPlace,
    Append,
    Truncate,
    /// A new file renamed over an old one.
    OverwriteByRename,
    TouchOnly,
    ChmodOnly,
    /// Needs root.
    ChownOnly,
    XattrOnly,
    AclOnly,
    Delete,
    DeleteDirectory,
    RenameFile,
    RenameDirectory,
    MoveFile,
    MoveDirectory,
    /// Two files exchange their names.
    SwapNames,
    /// A file, directory, symbolic link or fifo becomes another of these.
    SwapKind,
    HardLinkMake,
    /// A name becomes an equal file of its own.
    HardLinkBreak,
    NewFile,
    NewDirectory,
    NewSymlink,
    NewFifo,
    /// A range of a file becomes a hole.
    PunchHole,
    /// Same size, and the time set back.
    EditKeepingTime,
    DirectoryTime,
    Retarget,
}

impl MutationKind {
    /// All kinds.
    pub const ALL: [Self; 27] = [
        Self::EditInPlace,
        Self::Append,
        Self::Truncate,
        Self::OverwriteByRename,
        Self::TouchOnly,
        Self::ChmodOnly,
        Self::ChownOnly,
        Self::XattrOnly,
        Self::AclOnly,
        Self::Delete,
        Self::DeleteDirectory,
        Self::RenameFile,
        Self::RenameDirectory,
        Self::MoveFile,
        Self::MoveDirectory,
        Self::SwapNames,
        Self::SwapKind,
        Self::HardLinkMake,
        Self::HardLinkBreak,
        Self::NewFile,
        Self::NewDirectory,
        Self::NewSymlink,
        Self::NewFifo,
        Self::PunchHole,
        Self::EditKeepingTime,
        Self::DirectoryTime,
        Self::Retarget,
    ];
}

/// A change that was made.
#[derive(Clone, PartialEq, Eq)]
pub struct Mutation {
    /// Its kind.
    pub kind: MutationKind,
    /// What was changed.
    pub path: Vec<u8>,
    /// The other name of a rename, swap or link.
    pub other: Option<Vec<u8>>,
}

impl fmt::Display for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind, short(&self.path))?;
        self.other.as_ref().map_or(Ok(()), |other| write!(f, " -> {}", short(other)))
    }
}

impl fmt::Debug for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Makes one to sixteen changes, those of `seed` and `step`; what was done.
///
/// # Errors
/// When the tree cannot be read or a change fails for another reason than permissions.
pub fn mutate(root: &Path, seed: u64, step: u64) -> io::Result<Vec<Mutation>> {
    let mut rng = Rng::of_step(seed, step);
    let mut done = Vec::new();
    for _ in 0..rng.range(1, 17) {
        if let Some(&kind) = rng.pick(&MutationKind::ALL) {
            done.extend(mutate_one(root, kind, &mut rng)?);
        }
    }
    Ok(done)
}

/// Makes one change of `kind`; `None` when there is no place for one.
///
/// # Errors
/// As [`mutate()`].
pub fn mutate_one(root: &Path, kind: MutationKind, rng: &mut Rng) -> io::Result<Option<Mutation>> {
    let tree = Tree::open(root)?;
    let mut items = tree.walk()?;
    items.retain(|(path, _)| path.split(|&b| b == b'/').next() != Some(b".farshore"));
    items.sort_by(|a, b| a.0.cmp(&b.0));
    let mut last_denied = None;
    for _ in 0..TRIES {
        let mut mutator = Mutator { tree: &tree, items: &items, rng };
        match mutator.apply(kind) {
            Ok(Some((path, other))) => return Ok(Some(Mutation { kind, path, other })),
            Ok(None) => return Ok(None),
            // Not ours to change, or not known here: try another place.
            Err(e) if matches!(e.kind(), io::ErrorKind::PermissionDenied) => last_denied = Some(e),
            Err(e) if matches!(e.kind(), io::ErrorKind::Unsupported) => last_denied = Some(e),
            Err(e) if matches!(e.kind(), io::ErrorKind::StorageFull) => last_denied = Some(e),
            Err(e) => return Err(e),
        }
    }
    drop(last_denied);
    Ok(None)
}

type Item = (Vec<u8>, Facts);
/// The changed path and the other name; none when there is no place for the change.
type Applied = io::Result<Option<(Vec<u8>, Option<Vec<u8>>)>>;

struct Mutator<'a> {
    tree: &'a Tree,
    items: &'a [Item],
    rng: &'a mut Rng,
}

impl Mutator<'_> {
    /// One of the entries that `fits`: first a directory that has some, then one in it, so that the
    /// wide directory does not get every change.
    fn pick(&mut self, fits: impl Fn(&Item) -> bool) -> Option<Item> {
        let fitting: Vec<&Item> = self.items.iter().filter(|item| fits(item)).collect();
        let parents: BTreeSet<&[u8]> = fitting.iter().map(|(path, _)| parent_of(path)).collect();
        let parents: Vec<&[u8]> = parents.into_iter().collect();
        let parent = *self.rng.pick(&parents)?;
        let here: Vec<&Item> =
            fitting.into_iter().filter(|(path, _)| parent_of(path) == parent).collect();
        self.rng.pick(&here).map(|item| (*item).clone())
    }

    fn pick_file(&mut self, size_min: u64) -> Option<Item> {
        self.pick(|(_, f)| f.kind == Kind::File && (size_min..=EDIT_SIZE_MAX).contains(&f.size))
    }

    /// A directory, the root among them.
    fn pick_directory(&mut self) -> Vec<u8> {
        let directories: Vec<&[u8]> = std::iter::once(&b""[..])
            .chain(self.items.iter().filter(|i| i.1.kind == Kind::Directory).map(|i| &i.0[..]))
            .collect();
        self.rng.pick(&directories).map(|d| d.to_vec()).unwrap_or_default()
    }

    fn pick_small_directory(&mut self) -> Option<Item> {
        let items = self.items;
        self.pick(|(path, f)| {
            let below = |other: &Item| {
                other.0.len() > path.len()
                    && other.0.starts_with(path)
                    && other.0[path.len()] == b'/'
            };
            f.kind == Kind::Directory
                && items.iter().filter(|other| below(other)).take(SUBTREE_MAX + 1).count()
                    <= SUBTREE_MAX
        })
    }

    /// A name that is not there yet.
    fn new_path(&mut self, parent: &[u8]) -> Vec<u8> {
        let tails: [&[u8]; 8] =
            [b"", b".txt", b".pay", b" ", b"\n", b"\xff\xe9", b"'\"", b".filepart"];
        let tail = self.rng.pick(&tails).map_or(&b""[..], |t| t);
        let stem = format!("m{:016x}", self.rng.next_u64());
        joined(parent, &[stem.as_bytes(), tail].concat())
    }

    fn random_time(&mut self) -> Time {
        let seconds = 1_000_000_000 + i64::try_from(self.rng.below(700_000_000)).unwrap_or(0);
        Time { seconds, nanos: u32::try_from(self.rng.below(1_000_000_000)).unwrap_or(0) }
    }

    fn new_content(&mut self) -> Vec<u8> {
        let sizes = [0, 1, 100, 5_000, 65_536, 70_000, 1_100_000];
        let len = self.rng.pick(&sizes).copied().unwrap_or(0);
        let len = len + usize::try_from(self.rng.below(50)).unwrap_or(0);
        if self.rng.below(2) == 0 { self.rng.bytes(len) } else { self.rng.text(len) }
    }

    fn apply(&mut self, kind: MutationKind) -> Applied {
        match kind {
            MutationKind::EditInPlace => self.edit(false),
            MutationKind::EditKeepingTime => self.edit(true),
            MutationKind::Append => self.append(),
            MutationKind::Truncate => self.truncate(),
            MutationKind::PunchHole => self.punch_hole(),
            MutationKind::OverwriteByRename => self.overwrite_by_rename(),
            MutationKind::TouchOnly => self.touch(false),
            MutationKind::DirectoryTime => self.touch(true),
            MutationKind::ChmodOnly => self.chmod(),
            MutationKind::ChownOnly => self.chown(),
            MutationKind::XattrOnly => self.xattr(),
            MutationKind::AclOnly => self.acl(),
            MutationKind::Delete => self.delete(),
            MutationKind::DeleteDirectory => self.delete_directory(),
            MutationKind::RenameFile => self.rename(false, false),
            MutationKind::RenameDirectory => self.rename(true, false),
            MutationKind::MoveFile => self.rename(false, true),
            MutationKind::MoveDirectory => self.rename(true, true),
            MutationKind::SwapNames => self.swap_names(),
            MutationKind::SwapKind => self.swap_kind(),
            MutationKind::HardLinkMake => self.hard_link_make(),
            MutationKind::HardLinkBreak => self.hard_link_break(),
            MutationKind::NewFile => self.make(Kind::File),
            MutationKind::NewDirectory => self.make(Kind::Directory),
            MutationKind::NewSymlink => self.make(Kind::Symlink),
            MutationKind::NewFifo => self.make(Kind::Fifo),
            MutationKind::Retarget => self.retarget(),
        }
    }

    fn edit(&mut self, keeping_time: bool) -> Applied {
        let Some((path, facts)) = self.pick_file(1) else { return Ok(None) };
        let file = self.tree.open_file(&path, OFlags::RDWR)?;
        let len = self.rng.range(1, facts.size.min(5_000) + 1);
        let at = self.rng.below(facts.size - len + 1);
        let mut range = vec![0; usize::try_from(len).unwrap_or(1)];
        file.read_exact_at(&mut range, at)?;
        // Every byte of the range changes.
        for b in &mut range {
            *b ^= u8::try_from(self.rng.range(1, 256)).unwrap_or(1);
        }
        file.write_all_at(&range, at)?;
        drop(file);
        if keeping_time {
            self.tree.set_mtime(&path, facts.mtime)?;
        }
        Ok(Some((path, None)))
    }

    fn append(&mut self) -> Applied {
        let Some((path, facts)) = self.pick_file(0) else { return Ok(None) };
        let file = self.tree.open_file(&path, OFlags::WRONLY)?;
        let len = usize::try_from(self.rng.range(1, 20_000)).unwrap_or(1);
        file.write_all_at(&self.rng.bytes(len), facts.size)?;
        Ok(Some((path, None)))
    }

    fn truncate(&mut self) -> Applied {
        let Some((path, facts)) = self.pick_file(1) else { return Ok(None) };
        let len = self.rng.below(facts.size);
        self.tree.open_file(&path, OFlags::WRONLY)?.set_len(len)?;
        Ok(Some((path, None)))
    }

    fn punch_hole(&mut self) -> Applied {
        let Some((path, facts)) = self.pick_file(1) else { return Ok(None) };
        let file = self.tree.open_file(&path, OFlags::RDWR)?;
        let len = self.rng.range(1, facts.size.min(200_000) + 1);
        let at = self.rng.below(facts.size - len + 1);
        let mut range = vec![0; usize::try_from(len).unwrap_or(1)];
        file.read_exact_at(&mut range, at)?;
        if range.iter().all(|&b| b == 0) {
            // A hole where zeros were is no change: put data before the hole, at least a byte.
            let data = range.len().div_ceil(2);
            file.write_all_at(&vec![b'd'; data], at)?;
            punch(&file, at + data as u64, len - data as u64)?;
        } else {
            punch(&file, at, len)?;
        }
        Ok(Some((path, None)))
    }

    fn overwrite_by_rename(&mut self) -> Applied {
        let Some((path, facts)) = self.pick_file(0) else { return Ok(None) };
        let temporary = self.new_path(parent_of(&path));
        let mut content = self.new_content();
        content.extend_from_slice(&self.rng.next_u64().to_le_bytes());
        drop(self.tree.create(&temporary, &content)?);
        let finished = self
            .tree
            .chmod(&temporary, facts.mode & 0o777)
            .and_then(|()| self.tree.rename(&temporary, &path, RenameFlags::empty()));
        if finished.is_err() {
            self.tree.unlink(&temporary)?;
        }
        finished.map(|()| Some((path, None)))
    }

    fn touch(&mut self, directory: bool) -> Applied {
        let item = self.pick(|(_, f)| (f.kind == Kind::Directory) == directory);
        let Some((path, facts)) = item else { return Ok(None) };
        let mut time = self.random_time();
        if time == facts.mtime {
            time.seconds += 1;
        }
        self.tree.set_mtime(&path, time)?;
        Ok(Some((path, None)))
    }

    fn chmod(&mut self) -> Applied {
        let Some((path, facts)) = self.pick(|(_, f)| f.kind != Kind::Symlink) else {
            return Ok(None);
        };
        // Bits that do not lock an ordinary user out.
        let bits = [0o001, 0o010, 0o020, 0o002, 0o040, 0o004, 0o1000, 0o2000, 0o4000];
        let bit = self.rng.pick(&bits).copied().unwrap_or(1);
        self.tree.chmod(&path, facts.mode ^ bit)?;
        if self.tree.facts(&path)?.mode == facts.mode {
            // The kernel drops a setgid bit of a group that is not ours.
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(Some((path, None)))
    }

    fn chown(&mut self) -> Applied {
        let Some((path, facts)) = self.pick(|_| true) else { return Ok(None) };
        let ids = [0, 1001, 1002, 77_777, 2_500_000_000];
        let (mut uid, gid) = (self.rng.pick(&ids).copied(), self.rng.pick(&ids).copied());
        if (uid, gid) == (Some(facts.uid), Some(facts.gid)) {
            uid = Some(facts.uid ^ 1);
        }
        self.tree.chown(&path, uid.unwrap_or(0), gid.unwrap_or(0))?;
        Ok(Some((path, None)))
    }

    fn xattr(&mut self) -> Applied {
        let carries = |f: &Facts| matches!(f.kind, Kind::File | Kind::Directory);
        let Some((path, _)) = self.pick(|(_, f)| carries(f)) else { return Ok(None) };
        let present = self.tree.xattrs(&path)?;
        let ours = present.into_iter().find(|(key, _)| key.starts_with(b"user."));
        match ours {
            Some((key, _)) if self.rng.below(3) == 0 => self.tree.remove_xattr(&path, &key)?,
            Some((key, mut value)) => {
                value.truncate(100);
                value.extend_from_slice(&self.rng.next_u64().to_le_bytes());
                self.tree.set_xattr(&path, &key, &value)?;
            }
            None => {
                let value = self.rng.bytes(12);
                self.tree.set_xattr(&path, b"user.mutated", &value)?;
            }
        }
        Ok(Some((path, None)))
    }

    fn acl(&mut self) -> Applied {
        const ACCESS: &[u8] = b"system.posix_acl_access";
        let carries = |f: &Facts| matches!(f.kind, Kind::File | Kind::Directory);
        let Some((path, _)) = self.pick(|(_, f)| carries(f)) else { return Ok(None) };
        let before = self.tree.xattrs(&path)?;
        if before.contains_key(ACCESS) && self.rng.below(3) == 0 {
            self.tree.remove_xattr(&path, ACCESS)?;
        } else {
            let uid = u32::try_from(self.rng.range(5_000, 4_000_000)).unwrap_or(5_000);
            let perm = u16::try_from(self.rng.below(8)).unwrap_or(4);
            self.tree.set_xattr(&path, ACCESS, &posix_acl(uid, perm, 7))?;
        }
        Ok(Some((path, None)))
    }

    fn delete(&mut self) -> Applied {
        let Some((path, _)) = self.pick(|(_, f)| f.kind != Kind::Directory) else {
            return Ok(None);
        };
        self.tree.unlink(&path)?;
        Ok(Some((path, None)))
    }

    fn delete_directory(&mut self) -> Applied {
        let Some((path, _)) = self.pick_small_directory() else { return Ok(None) };
        self.tree.remove_all(&path)?;
        Ok(Some((path, None)))
    }

    fn rename(&mut self, directory: bool, away: bool) -> Applied {
        let item = self.pick(|(_, f)| (f.kind == Kind::Directory) == directory);
        let Some((path, _)) = item else { return Ok(None) };
        let mut parent = parent_of(&path).to_vec();
        if away {
            for _ in 0..TRIES {
                parent = self.pick_directory();
                let inside = parent.starts_with(&path)
                    && matches!(parent.get(path.len()), None | Some(b'/'));
                if parent != parent_of(&path) && !inside {
                    break;
                }
                parent = Vec::new();
            }
        }
        let to = self.new_path(&parent);
        self.tree.rename(&path, &to, RenameFlags::NOREPLACE)?;
        Ok(Some((path, Some(to))))
    }

    fn swap_names(&mut self) -> Applied {
        let Some((path, facts)) = self.pick(|(_, f)| f.kind == Kind::File) else {
            return Ok(None);
        };
        let other = self.pick(|(_, f)| f.kind == Kind::File && f.inode != facts.inode);
        let Some((other, _)) = other else { return Ok(None) };
        self.tree.rename(&path, &other, RenameFlags::EXCHANGE)?;
        Ok(Some((path, Some(other))))
    }

    fn swap_kind(&mut self) -> Applied {
        let kinds = [Kind::File, Kind::Directory, Kind::Symlink, Kind::Fifo];
        let from = self.rng.pick(&kinds).copied().unwrap_or(Kind::File);
        let item = match from {
            Kind::Directory => self.pick_small_directory(),
            kind => self.pick(|(_, f)| f.kind == kind),
        };
        let Some((path, _)) = item else { return Ok(None) };
        let others: Vec<Kind> = kinds.into_iter().filter(|&kind| kind != from).collect();
        let to = self.rng.pick(&others).copied().unwrap_or(Kind::Fifo);
        // Made beside first, so that what may not be made removes nothing.
        let made = self.new_path(parent_of(&path));
        self.make_at(&made, to)?;
        if let Err(error) = self.tree.remove_all(&path) {
            self.tree.remove_all(&made)?;
            return Err(error);
        }
        self.tree.rename(&made, &path, RenameFlags::NOREPLACE)?;
        Ok(Some((path, None)))
    }

    fn hard_link_make(&mut self) -> Applied {
        let Some((path, _)) = self.pick(|(_, f)| f.kind != Kind::Directory) else {
            return Ok(None);
        };
        let parent = self.pick_directory();
        let to = self.new_path(&parent);
        self.tree.link(&path, &to)?;
        Ok(Some((path, Some(to))))
    }

    fn hard_link_break(&mut self) -> Applied {
        let names = |inode| self.items.iter().filter(|(_, f)| f.inode == inode).count();
        let linked: BTreeSet<&[u8]> = self
            .items
            .iter()
            .filter(|(_, f)| f.kind == Kind::File && f.nlink > 1 && f.size <= EDIT_SIZE_MAX)
            .filter(|(_, f)| names(f.inode) > 1)
            .map(|(path, _)| &path[..])
            .collect();
        let Some((path, facts)) = self.pick(|(path, _)| linked.contains(&path[..])) else {
            return Ok(None);
        };
        let mut content = vec![0; usize::try_from(facts.size).unwrap_or(0)];
        self.tree.open_file(&path, OFlags::RDONLY)?.read_exact_at(&mut content, 0)?;
        let copy = self.new_path(parent_of(&path));
        drop(self.tree.create(&copy, &content)?);
        let finished = self
            .tree
            .chown(&copy, facts.uid, facts.gid)
            .and_then(|()| self.tree.chmod(&copy, facts.mode))
            .and_then(|()| self.tree.set_mtime(&copy, facts.mtime))
            .and_then(|()| self.tree.rename(&copy, &path, RenameFlags::empty()));
        if finished.is_err() {
            self.tree.unlink(&copy)?;
        }
        finished.map(|()| Some((path, None)))
    }

    fn make(&mut self, kind: Kind) -> Applied {
        let parent = self.pick_directory();
        let path = self.new_path(&parent);
        self.make_at(&path, kind)?;
        Ok(Some((path, None)))
    }

    fn make_at(&mut self, path: &[u8], kind: Kind) -> io::Result<()> {
        match kind {
            Kind::Directory => {
                self.tree.mkdir(path)?;
                let below = self.rng.below(4);
                for _ in 0..below {
                    let child = self.new_path(path);
                    let content = self.new_content();
                    drop(self.tree.create(&child, &content)?);
                }
                self.tree.chmod(path, 0o755)
            }
            Kind::Symlink => {
                let len = usize::try_from(self.rng.range(1, 80)).unwrap_or(1);
                let mut target = self.rng.bytes(len);
                target.iter_mut().for_each(|b| *b = (*b).max(1));
                self.tree.symlink(path, &target)
            }
            Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => {
                self.tree.mknod(path, kind, 0)
            }
            Kind::File => {
                let content = self.new_content();
                drop(self.tree.create(path, &content)?);
                self.tree.chmod(path, 0o644)
            }
        }
    }

    fn retarget(&mut self) -> Applied {
        let Some((path, facts)) = self.pick(|(_, f)| f.kind == Kind::Symlink) else {
            return Ok(None);
        };
        let mut target = self.tree.read_link(&path)?;
        // Of the same length: nothing but the target itself tells.
        if let Some(last) = target.last_mut() {
            *last = if *last == b'Z' { b'Y' } else { b'Z' };
        }
        let made = self.new_path(parent_of(&path));
        self.tree.symlink(&made, &target)?;
        let finished = self
            .tree
            .chown(&made, facts.uid, facts.gid)
            .and_then(|()| self.tree.set_mtime(&made, facts.mtime))
            .and_then(|()| self.tree.rename(&made, &path, RenameFlags::empty()));
        if finished.is_err() {
            self.tree.unlink(&made)?;
        }
        finished.map(|()| Some((path, None)))
    }
}

fn punch(file: &File, at: u64, len: u64) -> io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rustix::fs::fallocate(file, flags, at, len) {
        Err(rustix::io::Errno::OPNOTSUPP) => {
            file.write_all_at(&vec![0; usize::try_from(len).unwrap_or(0)], at)
        }
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Aspect;
    use crate::rsync::note_no_rsync;
    use crate::torture::{Options, TortureTree};
    use crate::{compare, has_rsync, remove_tree, rsync_copy, rsync_differences};

    /// What of the changed path itself must be found.
    fn wanted(kind: MutationKind) -> &'static [Aspect] {
        match kind {
            MutationKind::EditInPlace | MutationKind::EditKeepingTime | MutationKind::PunchHole => {
                &[Aspect::Content]
            }
            MutationKind::Append | MutationKind::Truncate => &[Aspect::Size],
            MutationKind::OverwriteByRename => &[Aspect::Size, Aspect::Content],
            MutationKind::TouchOnly | MutationKind::DirectoryTime => &[Aspect::Mtime],
            MutationKind::ChmodOnly => &[Aspect::Mode],
            MutationKind::ChownOnly => &[Aspect::Owner, Aspect::Group],
            MutationKind::XattrOnly => &[Aspect::Xattrs],
            MutationKind::AclOnly => &[Aspect::Xattrs],
            MutationKind::Delete | MutationKind::DeleteDirectory => &[Aspect::OnlyInA],
            MutationKind::RenameFile
            | MutationKind::RenameDirectory
            | MutationKind::MoveFile
            | MutationKind::MoveDirectory => &[Aspect::OnlyInA],
            MutationKind::SwapNames => &[Aspect::Mtime, Aspect::Content, Aspect::Size],
            MutationKind::SwapKind => &[Aspect::Kind],
            MutationKind::HardLinkMake => &[],
            MutationKind::HardLinkBreak => &[],
            MutationKind::NewFile
            | MutationKind::NewDirectory
            | MutationKind::NewSymlink
            | MutationKind::NewFifo => &[Aspect::OnlyInB],
            MutationKind::Retarget => &[Aspect::LinkTarget],
        }
    }

    /// More than one on request: each takes ten seconds.
    fn seeds() -> u64 {
        std::env::var("FARSHORE_TEST_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
    }

    #[test]
    fn each_kind_is_found_by_both_oracles() {
        if !has_rsync() {
            return note_no_rsync();
        }
        let dir = tempfile::tempdir().expect("a directory");
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let options = Options::small();
        TortureTree::build(&a, 5, &options).expect("a tree");
        rsync_copy(&a, &b).expect("a copy");
        for (seed, kind) in (0..seeds()).flat_map(|seed| MutationKind::ALL.map(|kind| (seed, kind)))
        {
            let mut rng = Rng::of_step(seed, 1);
            let done = mutate_one(&b, kind, &mut rng).expect("a change");
            let Some(done) = done else {
                assert!(!options.privileged, "{kind:?}: no place for it");
                continue;
            };
            let found = compare(&a, &b, &[]);
            let here = found.iter().filter(|d| d.path == done.path).collect::<Vec<_>>();
            let wanted = wanted(kind);
            match kind {
                MutationKind::HardLinkMake => {
                    let other = done.other.clone().expect("a new name");
                    let new = |d: &&crate::Difference| d.path == other;
                    assert!(found.iter().any(|d| new(&d)), "{done}: {found:#?}");
                }
                MutationKind::HardLinkBreak => {
                    let links = found.iter().filter(|d| d.aspect == Aspect::HardLinks);
                    assert!(links.count() > 0, "{done}: {found:#?}");
                }
                _ => {
                    let is_found = here.iter().any(|d| wanted.contains(&d.aspect));
                    assert!(is_found, "{done}: {here:#?}");
                }
            }
            let lines = rsync_differences(&a, &b).expect("a comparison");
            assert!(!lines.is_empty(), "{done}: rsync finds nothing");
            // As the next step's start.
            if kind == MutationKind::EditKeepingTime {
                // rsync without -c would not see it.
                remove_tree(&b).expect("removed");
            }
            rsync_copy(&a, &b).expect("a copy");
            let left = compare(&a, &b, &[]);
            assert!(left.is_empty(), "after {done}: {left:#?}");
        }
    }

    #[test]
    fn steps_are_the_same_for_the_same_tree_and_unlike_each_other() {
        let dir = tempfile::tempdir().expect("a directory");
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let options = Options { wide_count: 40, huge_sparse: false, ..Options::default() };
        for root in [&a, &b] {
            TortureTree::build(root, 11, &options).expect("a tree");
        }
        let mut before = Vec::new();
        for step in 0..25 {
            let done = mutate(&a, 11, step).expect("changes");
            assert_eq!(done, mutate(&b, 11, step).expect("changes"), "step {step}");
            assert_ne!(done, before);
            before = done;
        }
        // Times are the kernel's; all else is equal.
        let mut found = compare(&a, &b, &[]);
        found.retain(|d| d.aspect != Aspect::Mtime);
        assert!(found.is_empty(), "{found:#?}");
        for root in [&a, &b] {
            remove_tree(root).expect("removed");
        }
    }
}

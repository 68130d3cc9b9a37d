//! Comparing two trees byte by byte and fact by fact.
//!
//! Guarantees: nothing is believed by its facts alone: every regular file on both sides is read to
//! its end or to its first differing byte, but for holes that both sides have in the same place. A
//! file that changes while it is compared is compared again and, if it does not hold still, reported
//! as unreadable, never as equal; what cannot be read is reported, never passed over. Links are not
//! followed, mount points below a root are reported and not entered, special files are not opened.
//! Memory is bounded by the names of the directories on the way down and by the inodes of which
//! further names are still to come, never by the tree.
//!
//! The trees are not frozen: a name that moves between directories meanwhile can be met twice or not
//! at all, and is then reported as missing. Proof of equality needs two trees at rest. And what is
//! compared is what the system returns: damage on a disk below pages that are still in memory shows
//! once they are not.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam_channel::bounded;
use farshore_core::entry::{DeviceNumber, Entry, Timestamp};
use farshore_core::path::{RelPath, escape};
use farshore_core::policy::Policy;
use redb::Durability;

use crate::OWN_FOLDER;
use crate::catalog::{Catalog, CatalogError};
use crate::io::{FileKind, Object, Storage};

mod compare;
mod content;
mod links;
mod queue;
#[cfg(test)]
mod tests;
mod worker;

use worker::{Run, Tally, Worker};

/// Differences found and not yet delivered; workers wait when there are more.
const UNDELIVERED_MAX: usize = 1_024;

/// Records changed in one transaction by [`distrust`].
const DISTRUST_CHUNK: usize = 4_096;

/// Bytes of an attribute or a link target shown in a report; the value itself is whole.
const SHOWN_MAX: usize = 48;

/// One of the two trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The first: the source.
    A,
    /// The second: the target.
    B,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::B => "B",
        })
    }
}

/// How two trees are compared.
#[derive(Clone, Copy)]
pub struct VerifyConfig<'a> {
    /// Which entries are compared. Where A has a name, A's facts decide, and what is excluded or
    /// deferred is skipped on both sides. Where only B has it, it is skipped if B's facts exclude it.
    pub policy: &'a dyn Policy,
    /// Threads that compare; at least one is started.
    pub threads: usize,
    /// The name at both roots that is Farshore's and is passed over.
    pub own_folder: &'a [u8],
    /// Modification times are compared in whole multiples of this within their second: the coarser
    /// of what the two file systems keep.
    pub mtime_grain_nanos: u32,
}

impl<'a> VerifyConfig<'a> {
    /// To the nanosecond, [`OWN_FOLDER`] passed over.
    #[must_use]
    pub fn new(policy: &'a dyn Policy, threads: usize) -> Self {
        Self { policy, threads, own_folder: OWN_FOLDER, mtime_grain_nanos: 1 }
    }
}

impl fmt::Debug for VerifyConfig<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyConfig")
            .field("policy", &self.policy.rules())
            .field("threads", &self.threads)
            .field("mtime_grain_nanos", &self.mtime_grain_nanos)
            .finish_non_exhaustive()
    }
}

/// Counters to be read while [`verify`] runs.
#[derive(Debug, Default)]
pub struct VerifyProgress {
    /// As [`VerifyReport::entries`].
    pub entries: AtomicU64,
    /// As [`VerifyReport::bytes`]; falls when a file changed and is compared again.
    pub bytes: AtomicU64,
}

/// What a comparison came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Paths looked at, those of both trees counted once, the roots among them. What lies below a
    /// directory that only one side has, or that cannot be read, is not looked at.
    pub entries: u64,
    /// Bytes of content compared, counted once for both sides, common holes among them.
    pub bytes: u64,
    /// Differences, neither [`Aspect::Unreadable`] nor [`Aspect::Holes`] among them.
    pub differences: u64,
    /// Paths of which nothing can be said: [`Aspect::Unreadable`].
    pub unreadable: u64,
    /// Files that take far more space in B: [`Aspect::Holes`].
    pub inflated: u64,
    /// Paths skipped because of the policy; what lies below them is not counted.
    pub excluded: u64,
}

impl VerifyReport {
    /// Whether everything was read and nothing differs.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.differences == 0 && self.unreadable == 0
    }

    fn count(&mut self, aspect: &Aspect) {
        match aspect {
            Aspect::Unreadable { .. } => self.unreadable += 1,
            Aspect::Holes { .. } => self.inflated += 1,
            _ => self.differences += 1,
        }
    }

    fn add(&mut self, tally: &Tally) {
        self.entries += tally.entries;
        self.bytes += tally.bytes;
        self.excluded += tally.excluded;
    }
}

/// Why two trees could not be compared at all.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A root is not there.
    #[error("the root of {side}: looking at it")]
    Root {
        /// Which.
        side: Side,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No thread could be started.
    #[error("starting a thread to compare with")]
    Thread(#[source] io::Error),
}

/// One thing that differs at one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Where.
    pub path: RelPath,
    /// What.
    pub aspect: Aspect,
}

/// What differs, and how it is on either side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Aspect {
    /// B has nothing of that name; what lies below is not reported again.
    OnlyInA {
        /// What it is.
        kind: FileKind,
    },
    /// A has nothing of that name; what lies below is not reported again.
    OnlyInB {
        /// What it is.
        kind: FileKind,
    },
    /// Two kinds; nothing else is compared.
    Kind {
        /// In A.
        a: FileKind,
        /// In B.
        b: FileKind,
    },
    /// Two lengths; the bytes are not compared.
    Size {
        /// In A.
        a: u64,
        /// In B.
        b: u64,
    },
    /// Bytes differ at the same length.
    Content {
        /// The first byte that does.
        offset: u64,
        /// That byte in A.
        a: u8,
        /// That byte in B.
        b: u8,
    },
    /// Permission bits; not of links.
    Mode {
        /// In A.
        a: u32,
        /// In B.
        b: u32,
    },
    /// Owner and group.
    Owner {
        /// In A.
        a: (u32, u32),
        /// In B.
        b: (u32, u32),
    },
    /// Modification time.
    Mtime {
        /// In A.
        a: Timestamp,
        /// In B.
        b: Timestamp,
    },
    /// What a symbolic link says.
    Target {
        /// In A.
        a: Box<[u8]>,
        /// In B.
        b: Box<[u8]>,
    },
    /// Which device a node is.
    DeviceNumber {
        /// In A.
        a: DeviceNumber,
        /// In B.
        b: DeviceNumber,
    },
    /// One extended attribute, or an ACL.
    Attributes {
        /// Its name.
        name: Box<[u8]>,
        /// In A; `None` without it.
        a: Option<Box<[u8]>>,
        /// In B; `None` without it.
        b: Option<Box<[u8]>>,
    },
    /// Names of one inode on one side are not on the other. Reported once for each group that
    /// should not be one of its own, or should, at its first name in path order. On file systems
    /// that give each name of an inode another number (some FUSE mounts) every group is reported.
    HardLinks {
        /// The first name of that inode in A, where it is another path and B has it apart.
        a: Option<RelPath>,
        /// The first name of that inode in B, where it is another path and A has it apart.
        b: Option<RelPath>,
        /// How many names this stands for, its own path among them.
        names: u64,
    },
    /// Holes of A are filled in B. No difference of content: to be reported, not to be repaired.
    Holes {
        /// Bytes allocated in A.
        a: u64,
        /// Bytes allocated in B.
        b: u64,
    },
    /// It could not be compared.
    Unreadable {
        /// Where it failed.
        side: Side,
        /// What was to be done.
        step: &'static str,
        /// Why it failed.
        error: String,
    },
}

impl fmt::Display for Difference {
    /// One line, safe to show on a terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.aspect)
    }
}

impl fmt::Display for Aspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnlyInA { kind } => write!(f, "only in A ({})", kind_name(*kind)),
            Self::OnlyInB { kind } => write!(f, "only in B ({})", kind_name(*kind)),
            Self::Kind { a, b } => {
                write!(f, "kind: {} in A, {} in B", kind_name(*a), kind_name(*b))
            }
            Self::Size { a, b } => write!(f, "size: {a} bytes in A, {b} in B"),
            Self::Content { offset, a, b } => {
                write!(f, "content: differs from byte {offset}: {a:#04x} in A, {b:#04x} in B")
            }
            Self::Mode { a, b } => write!(f, "mode: {a:04o} in A, {b:04o} in B"),
            Self::Owner { a, b } => write!(f, "owner: {}:{} in A, {}:{} in B", a.0, a.1, b.0, b.1),
            Self::Mtime { a, b } => {
                let (an, bn) = (a.nanos, b.nanos);
                write!(f, "mtime: {}.{an:09} in A, {}.{bn:09} in B", a.seconds, b.seconds)
            }
            Self::Target { a, b } => {
                f.write_str("target: ")?;
                show(a, f)?;
                f.write_str(" in A, ")?;
                show(b, f)?;
                f.write_str(" in B")
            }
            Self::DeviceNumber { a, b } => write!(
                f,
                "device number: {}:{} in A, {}:{} in B",
                a.major, a.minor, b.major, b.minor
            ),
            Self::Attributes { name, a, b } => {
                f.write_str("attribute ")?;
                escape(name, f)?;
                f.write_str(": ")?;
                show_optional(a.as_deref(), f)?;
                f.write_str(" in A, ")?;
                show_optional(b.as_deref(), f)?;
                f.write_str(" in B")
            }
            Self::HardLinks { a, b, names } => {
                let one_inode = |path: &Option<RelPath>| match path {
                    Some(path) => format!("one inode with {path}"),
                    None => "an inode of its own".to_owned(),
                };
                write!(f, "hard links: {} in A, {} in B", one_inode(a), one_inode(b))?;
                if *names > 1 { write!(f, " ({names} names)") } else { Ok(()) }
            }
            Self::Holes { a, b } => {
                write!(f, "holes: {a} bytes allocated in A, {b} in B; the content is not affected")
            }
            Self::Unreadable { side, step, error } => {
                write!(f, "unreadable in {side}: {step}: ")?;
                escape(error.as_bytes(), f)
            }
        }
    }
}

fn show(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("\"")?;
    escape(&bytes[..bytes.len().min(SHOWN_MAX)], f)?;
    f.write_str("\"")?;
    if bytes.len() > SHOWN_MAX { write!(f, "... ({} bytes)", bytes.len()) } else { Ok(()) }
}

fn show_optional(bytes: Option<&[u8]>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match bytes {
        Some(bytes) => show(bytes, f),
        None => f.write_str("none"),
    }
}

fn kind_name(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Regular => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symlink",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::CharDevice => "character device",
        FileKind::BlockDevice => "block device",
    }
}

/// Compares the trees below the roots of `a` and `b` and gives each difference to `visit`, in the
/// calling thread while the comparison goes on. They come in no particular order; those of hard
/// links come last, in path order. Facts of an inode with several names are reported at one of them.
///
/// # Errors
/// [`VerifyError`]; what goes wrong in the trees is a difference.
pub fn verify<A: Storage, B: Storage>(
    a: &A,
    b: &B,
    config: &VerifyConfig<'_>,
    visit: &mut dyn FnMut(Difference),
    progress: &VerifyProgress,
) -> Result<VerifyReport, VerifyError> {
    let root = |side| move |source| VerifyError::Root { side, source };
    let stat_a = a.stat(Object::Directory(a.root())).map_err(root(Side::A))?;
    let stat_b = b.stat(Object::Directory(b.root())).map_err(root(Side::B))?;
    let run = Run::new(a, b, config, progress, (stat_a.device, stat_b.device));
    let mut report = VerifyReport::default();
    std::thread::scope(|scope| {
        let (sender, receiver) = bounded::<Difference>(UNDELIVERED_MAX);
        let mut workers = Vec::new();
        for n in 0..config.threads.max(1) {
            let mut worker = Worker::new(&run, sender.clone());
            let builder = std::thread::Builder::new().name(format!("verify-{n}"));
            match builder.spawn_scoped(scope, move || worker.run()) {
                Ok(handle) => workers.push(handle),
                // Those that did start do the work.
                Err(_) if !workers.is_empty() => break,
                Err(source) => return Err(VerifyError::Thread(source)),
            }
        }
        drop(sender);
        // Should `visit` panic, the workers are not to go on to the end of the trees.
        let _stop = run.stop_on_drop();
        for difference in receiver {
            report.count(&difference.aspect);
            visit(difference);
        }
        for worker in workers {
            match worker.join() {
                Ok(tally) => report.add(&tally),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(())
    })?;
    for difference in run.finish_links() {
        report.count(&difference.aspect);
        visit(difference);
    }
    debug_assert!(report.entries <= progress.entries.load(Relaxed));
    Ok(report)
}

/// Makes the next replication look at these paths whatever their facts say: forgets the facts of
/// their records, where they have one, and of the leader where a record is a further name of an
/// inode. Durable when it returns.
///
/// # Errors
/// [`CatalogError`]; an unknown part of the paths is done then, and doing it again does no harm.
pub fn distrust<'a>(
    catalog: &Catalog,
    paths: impl Iterator<Item = &'a RelPath>,
) -> Result<(), CatalogError> {
    let mut paths = paths.peekable();
    while paths.peek().is_some() {
        let chunk: Vec<&RelPath> = paths.by_ref().take(DISTRUST_CHUNK).collect();
        let last = paths.peek().is_none();
        let durability = if last { Durability::Immediate } else { Durability::None };
        catalog.update(durability, |tables| {
            let mut doubted = BTreeMap::new();
            for path in chunk {
                let Some(record) = tables.get(path)? else { continue };
                if let Entry::HardLink { leader } = &record.entry
                    && let Some(leading) = tables.get(leader)?
                {
                    doubted.insert(leader.clone(), leading);
                }
                doubted.insert(path.clone(), record);
            }
            for (path, mut record) in doubted {
                if record.facts.take().is_some() {
                    tables.put(&path, &record)?;
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

//! Reading the tree: opening and listing a directory, looking at some of its names.
//!
//! What is done here needs no lock and waits for nobody, so that a task once taken always comes to
//! its end.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use farshore_core::entry::DeviceNumber;
use farshore_core::path::{PathError, RelPath};
use farshore_core::policy::{Action, Policy, Verdict};
use rustix::io::Errno;

use super::candidate;
use super::names::Names;
use crate::io::{FileKind, Object, Stat, Storage};

/// Names looked at between two questions to the policy, and between two looks whether to stop.
const BATCH: usize = 256;

/// An open directory and where it is.
#[derive(Debug)]
pub(super) struct Opened<D> {
    pub(super) handle: D,
    pub(super) path: Arc<RelPath>,
}

/// What a look at one name brought.
#[derive(Debug)]
pub(super) enum Look {
    Seen(Stat),
    Excluded(Verdict, FileKind),
    Unknown(&'static str, io::Error),
}

/// One name of a directory that was looked at: where it begins in the names, and what is there.
pub(super) type Found = (u32, Look);

/// Memory for what is found, used again: fresh pages for every piece cost as much as a tenth of the
/// walk.
#[derive(Debug, Default)]
pub(super) struct Room(Mutex<Vec<Vec<Found>>>);

impl Room {
    /// Fewer are not worth it.
    const LEN_MIN: usize = 128;
    const SPARE_MAX: usize = 16;

    /// Room for `len`, and not for many more: most of it is to be used.
    fn of(&self, len: usize) -> Vec<Found> {
        let fits = |found: &Vec<Found>| (len..=2 * len).contains(&found.capacity());
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match spare.iter().position(fits) {
            Some(at) => spare.swap_remove(at),
            None => Vec::with_capacity(len),
        }
    }

    pub(super) fn give_back(&self, mut found: Vec<Found>) {
        if found.capacity() < Self::LEN_MIN {
            return;
        }
        found.clear();
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() == Self::SPARE_MAX {
            spare.swap_remove(0);
        }
        spare.push(found);
    }
}

/// What became of some names of a directory.
#[derive(Debug, Default)]
pub(super) struct Piece {
    pub(super) found: Vec<Found>,
    /// Those of them that are directories to be walked.
    pub(super) below: Names,
}

/// Something to read.
#[derive(Debug)]
pub(super) enum Task<D> {
    /// A directory to be opened and listed, and its first names looked at.
    Open { id: u64, parent: Arc<Opened<D>>, name: Box<[u8]> },
    /// Some names of a listed directory.
    Look { id: u64, directory: Arc<Opened<D>>, names: Arc<Names>, range: Range<usize> },
}

/// What came of opening a directory.
#[derive(Debug)]
pub(super) enum Listing<D> {
    Open { directory: Arc<Opened<D>>, names: Arc<Names>, first: Piece },
    Unknown(RelPath, &'static str, io::Error),
}

impl<D> Listing<D> {
    /// The directory's handle, to keep it open a little longer.
    pub(super) fn directory(&self) -> Option<Arc<Opened<D>>> {
        match self {
            Self::Open { directory, .. } => Some(Arc::clone(directory)),
            Self::Unknown(..) => None,
        }
    }
}

/// What all threads of one walk need to know.
pub(super) struct Reader<'a, S> {
    pub(super) storage: &'a S,
    pub(super) policy: &'a dyn Policy,
    pub(super) own: &'a [u8],
    pub(super) device: DeviceNumber,
    pub(super) stopped: &'a AtomicBool,
    pub(super) room: &'a Room,
}

impl<S: Storage> Reader<'_, S> {
    /// Opens and lists the directory a walk begins at.
    pub(super) fn open_start(&self, path: &RelPath, look_max: usize) -> Listing<S::Directory> {
        self.open(None, path.as_bytes(), look_max, None).unwrap_or_else(|| {
            Listing::Unknown(path.clone(), "opening it", io::ErrorKind::ResourceBusy.into())
        })
    }

    /// Opens and lists the directory `name` of `parent`, or without one that path below the root, and looks
    /// at its first `look_max` names. With `names_max`, gives up (`None`) on a directory of more names, and
    /// when there are no handles left: it is tried again when its turn has come.
    pub(super) fn open(
        &self,
        parent: Option<&Opened<S::Directory>>,
        name: &[u8],
        look_max: usize,
        names_max: Option<usize>,
    ) -> Option<Listing<S::Directory>> {
        let (at, path) = match parent {
            None => (self.storage.root(), RelPath::new(name)),
            Some(parent) => (&parent.handle, parent.path.join(name)),
        };
        let path = match path {
            Ok(path) => path,
            Err(error) => {
                let (step, error) = no_path(error);
                let above = parent.map_or_else(RelPath::root, |p| RelPath::clone(&p.path));
                return Some(Listing::Unknown(above, step, error));
            }
        };
        let failed = |path: RelPath, step, error: io::Error| {
            let no_handle = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
            let is_early =
                names_max.is_some() && error.raw_os_error().is_some_and(|e| no_handle.contains(&e));
            (!is_early).then_some(Listing::Unknown(path, step, error))
        };
        let handle = match self.storage.open_directory(at, name) {
            Ok(handle) => handle,
            Err(error) => return failed(path, "opening it", error),
        };
        let mut names = Names::default();
        let (limit, mut fits) = (names_max.unwrap_or(usize::MAX), true);
        let listed = self.storage.list_new(&handle, &mut |entry| {
            if fits && !(path.is_root() && entry.name == self.own) {
                fits = names.len() < limit && names.push(entry.name);
            }
        });
        // A listing cut short proves nothing about what it lacks.
        match (listed, fits, names_max) {
            (Err(error), ..) => return failed(path, "listing it", error),
            (Ok(()), false, Some(_)) => return None,
            (Ok(()), false, None) => {
                let error = io::Error::from(io::ErrorKind::FileTooLarge);
                return Some(Listing::Unknown(path, "listing it", error));
            }
            (Ok(()), true, _) => {}
        }
        names.sort();
        let directory = Arc::new(Opened { handle, path: Arc::new(path) });
        let first = self.look(&directory, &names, 0..names.len().min(look_max));
        Some(Listing::Open { directory, names: Arc::new(names), first })
    }

    /// Looks at some names of a directory, in their order.
    pub(super) fn look(
        &self,
        directory: &Opened<S::Directory>,
        names: &Names,
        range: Range<usize>,
    ) -> Piece {
        let mut piece = Piece { found: self.room.of(range.len()), below: Names::default() };
        for starts in names.starts()[range].chunks(BATCH) {
            if self.stopped.load(Ordering::Relaxed) {
                break;
            }
            let from = piece.found.len();
            for &start in starts {
                let name = names.get(start);
                let look = match self.storage.stat(Object::Named(&directory.handle, name)) {
                    Ok(stat) => Look::Seen(stat),
                    // Gone between listing and look: for this walk it was never there.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => Look::Unknown("looking at it", error),
                };
                piece.found.push((start, look));
            }
            let found = &mut piece.found[from..];
            if !self.policy.is_trivial() {
                self.judge(&directory.path, names, found);
            }
            self.sort_out_directories(&directory.path, names, found, &mut piece.below);
        }
        piece
    }

    /// Asks the policy.
    fn judge(&self, parent: &RelPath, names: &Names, found: &mut [Found]) {
        // What is no path travels nowhere.
        let at_root = parent.is_root();
        let seen: Vec<_> = found
            .iter_mut()
            .filter(|(start, _)| self.policy.may_concern(at_root, names.get(*start)))
            .filter_map(|(start, look)| match look {
                Look::Seen(stat) => {
                    let (path, stat) = (parent.join(names.get(*start)).ok()?, *stat);
                    Some((path, stat, look))
                }
                _ => None,
            })
            .collect();
        if seen.is_empty() {
            return;
        }
        let candidates: Vec<_> = seen.iter().map(|(path, stat, _)| candidate(path, stat)).collect();
        let verdicts = self.policy.exclude(&candidates);
        drop(candidates);
        for ((_, stat, look), verdict) in seen.into_iter().zip(verdicts) {
            if verdict.action != Action::Replicate {
                *look = Look::Excluded(verdict, stat.kind);
            }
        }
    }

    /// Finds mount points, and the directories to be walked.
    fn sort_out_directories(
        &self,
        parent: &RelPath,
        names: &Names,
        found: &mut [Found],
        below: &mut Names,
    ) {
        for (start, look) in found {
            let Look::Seen(stat) = look else { continue };
            if stat.kind != FileKind::Directory {
                continue;
            }
            if stat.device != self.device {
                let error = io::Error::from(io::ErrorKind::CrossesDevices);
                *look = Look::Unknown("entering a mount point", error);
            } else if parent.child(names.get(*start)).is_ok() {
                // They are fewer than the names they come from, which had room.
                below.push(names.get(*start));
            }
        }
    }
}

/// What to say of a directory with a name that makes no path.
pub(super) fn no_path(error: PathError) -> (&'static str, io::Error) {
    ("naming what lies below", io::Error::new(io::ErrorKind::InvalidFilename, error))
}

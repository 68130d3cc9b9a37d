//! Walking a tree in path order.
//!
//! Guarantees: entries come in the order of [`RelPath`], each once; a directory's names are held
//! while it is being read, the tree never. Below a directory that could not be read nothing is
//! reported, and the directory is: nobody may conclude a deletion from it. Links are not followed,
//! mount points below the root are reported and not entered.

use std::io;

use farshore_core::entry::EntryKind;
use farshore_core::path::{PathError, RelPath};
use farshore_core::policy::{Action, Candidate, Policy, Verdict};

use crate::io::{FileKind, Object, Stat, Storage};

/// Names looked at between two questions to the policy.
const BATCH: usize = 256;

/// What a walk meets.
#[derive(Debug)]
pub enum ScanEvent {
    /// An entry that travels.
    Entry {
        /// Where.
        path: RelPath,
        /// Its facts.
        stat: Stat,
    },
    /// An entry that does not travel, nor anything below it.
    Excluded {
        /// Where.
        path: RelPath,
        /// The answer of the policy.
        verdict: Verdict,
    },
    /// What is at `path`, and below it, is unknown.
    Unknown {
        /// Where.
        path: RelPath,
        /// What was to be done.
        step: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// Names of one directory in one piece of memory.
#[derive(Default)]
struct Names {
    bytes: Vec<u8>,
    spans: Vec<(usize, u8)>,
}

impl Names {
    fn push(&mut self, name: &[u8]) {
        let Ok(len) = u8::try_from(name.len()) else { return };
        self.spans.push((self.bytes.len(), len));
        self.bytes.extend_from_slice(name);
    }

    fn get(&self, span: (usize, u8)) -> &[u8] {
        &self.bytes[span.0..span.0 + usize::from(span.1)]
    }

    fn sort(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let name = |s: &(usize, u8)| &bytes[s.0..s.0 + usize::from(s.1)];
        self.spans.sort_unstable_by(|a, b| name(a).cmp(name(b)));
        self.bytes = bytes;
    }
}

/// A directory whose children were reported and whose subdirectories are next.
struct Level<D> {
    directory: D,
    path: RelPath,
    subdirectories: std::vec::IntoIter<Box<[u8]>>,
}

/// Walks the tree below `storage`'s root and gives each event to `visit`. The name `own` at the root
/// is Farshore's and is passed over.
///
/// # Errors
/// Those of `visit`; what goes wrong in the tree is an event.
pub fn scan<S: Storage, E>(
    storage: &S,
    policy: &dyn Policy,
    own: &[u8],
    visit: &mut dyn FnMut(ScanEvent) -> Result<(), E>,
) -> Result<(), E> {
    let unknown =
        |path: &RelPath, step, source| ScanEvent::Unknown { path: path.clone(), step, source };
    let root = RelPath::root();
    let stat = match storage.stat(Object::Directory(storage.root())) {
        Ok(stat) => stat,
        Err(source) => return visit(unknown(&root, "looking at it", source)),
    };
    visit(ScanEvent::Entry { path: root.clone(), stat })?;
    let mut walk = Walk { storage, policy, own, device: stat.device };
    let mut levels: Vec<Level<S::Directory>> = Vec::new();
    match storage.open_directory(storage.root(), b"") {
        Ok(directory) => levels.push(walk.read(directory, root, visit)?),
        Err(source) => return visit(unknown(&root, "opening it", source)),
    }
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.subdirectories.next() else {
            levels.pop();
            continue;
        };
        let Ok(path) = level.path.join(&name) else { continue };
        match storage.open_directory(&level.directory, &name) {
            Ok(directory) => {
                let next = walk.read(directory, path, visit)?;
                levels.push(next);
            }
            Err(source) => visit(unknown(&path, "opening it", source))?,
        }
    }
    Ok(())
}

struct Walk<'a, S> {
    storage: &'a S,
    policy: &'a dyn Policy,
    own: &'a [u8],
    device: farshore_core::entry::DeviceNumber,
}

impl<S: Storage> Walk<'_, S> {
    /// Reports the children of one directory.
    fn read<E>(
        &mut self,
        directory: S::Directory,
        path: RelPath,
        visit: &mut dyn FnMut(ScanEvent) -> Result<(), E>,
    ) -> Result<Level<S::Directory>, E> {
        let mut names = Names::default();
        let at_root = path.is_root();
        let listed = self.storage.list(&directory, &mut |entry| {
            if !(at_root && entry.name == self.own) {
                names.push(entry.name);
            }
        });
        let mut subdirectories = Vec::new();
        if let Err(source) = listed {
            // A listing cut short proves nothing about what it lacks.
            visit(ScanEvent::Unknown { path: path.clone(), step: "listing it", source })?;
            return Ok(Level { directory, path, subdirectories: subdirectories.into_iter() });
        }
        names.sort();
        let mut batch: Vec<(RelPath, Result<Stat, io::Error>)> = Vec::with_capacity(BATCH);
        for spans in names.spans.chunks(BATCH) {
            batch.clear();
            for &span in spans {
                let name = names.get(span);
                let stat = self.storage.stat(Object::Named(&directory, name));
                match path.join(name) {
                    Ok(child) => batch.push((child, stat)),
                    Err(error) => {
                        visit(ScanEvent::Unknown {
                            path: path.clone(),
                            step: "naming what lies below",
                            source: path_too_long(error),
                        })?;
                    }
                }
            }
            self.report(&mut batch, &mut subdirectories, visit)?;
        }
        Ok(Level { directory, path, subdirectories: subdirectories.into_iter() })
    }

    fn report<E>(
        &self,
        batch: &mut Vec<(RelPath, Result<Stat, io::Error>)>,
        subdirectories: &mut Vec<Box<[u8]>>,
        visit: &mut dyn FnMut(ScanEvent) -> Result<(), E>,
    ) -> Result<(), E> {
        let verdicts = if self.policy.is_trivial() { Vec::new() } else { self.ask(batch) };
        let mut verdicts = verdicts.into_iter();
        for (path, stat) in batch.drain(..) {
            let stat = match stat {
                Ok(stat) => stat,
                // Gone between listing and look: for this walk it was never there.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => {
                    visit(ScanEvent::Unknown { path, step: "looking at it", source })?;
                    continue;
                }
            };
            let verdict = if self.policy.is_trivial() { None } else { verdicts.next() };
            let verdict = verdict.unwrap_or(Verdict::REPLICATE);
            if verdict.action != Action::Replicate {
                visit(ScanEvent::Excluded { path, verdict })?;
                continue;
            }
            if stat.kind == FileKind::Directory {
                if stat.device != self.device {
                    let source = io::Error::from(io::ErrorKind::CrossesDevices);
                    visit(ScanEvent::Unknown { path, step: "entering a mount point", source })?;
                    continue;
                }
                subdirectories.push(path.name().into());
            }
            visit(ScanEvent::Entry { path, stat })?;
        }
        Ok(())
    }

    fn ask(&self, batch: &[(RelPath, Result<Stat, io::Error>)]) -> Vec<Verdict> {
        let candidates: Vec<_> = batch
            .iter()
            .filter_map(|(path, stat)| stat.as_ref().ok().map(|s| candidate(path, s)))
            .collect();
        self.policy.exclude(&candidates)
    }
}

/// What a policy sees of a path with these facts.
#[must_use]
pub fn candidate<'a>(path: &'a RelPath, stat: &Stat) -> Candidate<'a> {
    Candidate {
        path,
        kind: match stat.kind {
            FileKind::Regular => EntryKind::File,
            FileKind::Directory => EntryKind::Directory,
            FileKind::Symlink => EntryKind::Symlink,
            FileKind::Fifo => EntryKind::Fifo,
            FileKind::Socket => EntryKind::Socket,
            FileKind::CharDevice => EntryKind::CharDevice,
            FileKind::BlockDevice => EntryKind::BlockDevice,
        },
        size: stat.size,
        mtime: stat.mtime,
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
    }
}

fn path_too_long(error: PathError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidFilename, error)
}

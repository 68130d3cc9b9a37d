//! Versions in history become files of their own: one that was one of several names of a file is still that
//! file under the others, and whoever writes to it there in place would write into the version.
//!
//! Guarantees: when step 4 is over, no version that the batch set aside shares an inode with anything outside of its
//! set, unless it could not be copied (no room beside what is left to others, more than a batch may copy where blocks cannot
//! be shared, or the disk cannot read it): then it stays the name that it was. Several names of one file are names of one copy.
//! A version is the former inode or its whole, synced copy at every moment, so that a crash loses neither; done
//! again, what is a file of its own already is passed over.

use std::collections::HashMap;
use std::io;

use farshore_core::path::RelPath;

use super::perform::Perform;
use super::{Applier, ApplyError, ApplyStep};
use crate::copy::{copy_content, dress};
use crate::io::{FileKind, Object, Stat, Storage};
use crate::metadata::Degraded;
use crate::observe::metadata;
use crate::own_folder::{ensure_directory, remove_tree, set_name};
use crate::stage::folder_name;

/// What a batch copies at most where blocks cannot be shared: all that replicates waits for it.
const COPIED_MAX: u64 = 4 << 30;

/// A version by its name in the set, its copy by its name in staging.
struct Copied {
    version: String,
    copy: String,
}

impl<S: Storage> Perform<'_, '_, S> {
    /// Copies what the batch set aside that has further names, and puts the copies in its place.
    pub(super) fn detach(&mut self) -> Result<(), ApplyError> {
        let batch = self.intent.batch;
        let failed = || Applier::<S>::disk(batch, ApplyStep::Perform, &RelPath::root());
        let shared = self.shared().map_err(failed())?;
        let Some(set) = self.history.as_ref().filter(|_| !shared.is_empty()) else {
            return Ok(());
        };
        let Applier { storage, own, .. } = self.applier;
        let name = folder_name(batch);
        let staging = ensure_directory(*storage, &own.staging, name.as_bytes()).map_err(failed())?;
        let mut copied: Vec<Copied> = Vec::with_capacity(shared.len());
        let mut first_of: HashMap<u64, String> = HashMap::new();
        let mut room = Room::of(self.applier);
        for (version, stat) in shared {
            let copy = format!("h{version}");
            // Of an attempt that a crash cut off.
            remove_tree(*storage, &staging, copy.as_bytes()).map_err(failed())?;
            let is_made = match first_of.get(&stat.inode) {
                Some(first) => {
                    storage.link(&staging, first.as_bytes(), &staging, copy.as_bytes()).is_ok()
                }
                // No reason to hold up what replicates: the next one may be smaller, or readable.
                None => {
                    room.has(*storage, stat.size)
                        && copy_of(*storage, set, &version, &stat, &staging, &copy).is_ok()
                }
            };
            if is_made {
                first_of.entry(stat.inode).or_insert_with(|| copy.clone());
                copied.push(Copied { version, copy });
            } else {
                remove_tree(*storage, &staging, copy.as_bytes()).map_err(failed())?;
            }
        }
        if copied.is_empty() {
            return Ok(());
        }
        // A name is never that of a copy whose bytes a crash may take.
        storage.sync_all().map_err(failed())?;
        for Copied { version, copy } in copied {
            storage.rename(&staging, copy.as_bytes(), set, version.as_bytes()).map_err(failed())?;
        }
        Ok(())
    }

    /// Of what was set aside, files with a name outside of this set, by their names in it.
    fn shared(&mut self) -> io::Result<Vec<(String, Stat)>> {
        let Applier { storage, own, .. } = self.applier;
        if self.history.is_none() && self.is_again {
            // What was set aside before the crash is not touched now.
            let set = set_name(self.intent.batch);
            self.history = match storage.open_directory(&own.history, set.as_bytes()) {
                Ok(set) => Some(set),
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                Err(e) => return Err(e),
            };
        }
        let Some(set) = &self.history else { return Ok(Vec::new()) };
        let mut numbers = std::mem::take(&mut self.with_names);
        if self.is_again {
            numbers.extend(self.intent.actions.iter().filter_map(|action| action.sets_aside()));
        }
        let mut found = Vec::new();
        let mut names_here: HashMap<u64, u64> = HashMap::new();
        for number in numbers {
            let version = number.to_string();
            let stat = match storage.stat(Object::Named(set, version.as_bytes())) {
                Ok(stat) => stat,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            if stat.kind == FileKind::Regular && stat.links > 1 {
                *names_here.entry(stat.inode).or_default() += 1;
                found.push((version, stat));
            }
        }
        found.retain(|(_, stat)| names_here.get(&stat.inode).is_some_and(|n| *n < stat.links));
        Ok(found)
    }
}

/// What may be copied still.
struct Room {
    /// Copies take none.
    is_shared: bool,
    left: u64,
    left_to_others: u64,
}

impl Room {
    fn of<S: Storage>(applier: &Applier<'_, S>) -> Self {
        let Applier { storage, own, .. } = applier;
        let is_shared = storage.shares_blocks(&own.staging);
        Self { is_shared, left: COPIED_MAX, left_to_others: own.left_to_small }
    }

    /// Takes so much, if it is there.
    fn has<S: Storage>(&mut self, storage: &S, size: u64) -> bool {
        if self.is_shared {
            return true;
        }
        let needed = size.saturating_add(self.left_to_others);
        // Where it cannot be told, trying tells.
        let fits = storage.free_bytes().map_or(true, |free| free >= needed);
        let Some(left) = self.left.checked_sub(size).filter(|_| fits) else { return false };
        self.left = left;
        true
    }
}

/// Makes `copy` in `staging` of the `version` in `set`, with its holes, owner, mode and times; not synced.
fn copy_of<S: Storage>(
    storage: &S,
    set: &S::Directory,
    version: &str,
    stat: &Stat,
    staging: &S::Directory,
    copy: &str,
) -> io::Result<()> {
    let source = storage.open_file(set, version.as_bytes())?;
    let made = copy_content(storage, &source, stat.size, staging, copy.as_bytes())?;
    let wanted = metadata(storage, Object::File(&source), stat);
    let wanted = wanted.map_err(|e| io::Error::other(e.to_string()))?;
    // The catalog has what the version was; what this mount cannot keep was counted when the file came.
    let mut uncounted = Degraded::default();
    let there = storage.stat(Object::File(&made))?;
    dress(storage, Object::File(&made), &there, &wanted, &mut uncounted)
}

//! Content that a target holds ahead of the cut it is for.
//!
//! ```text
//! .farshore/ahead/<n>/1        the bytes, as far as they came
//! .farshore/ahead/<n>/recipe   what they are: written as they come, see [`log`]
//! ```
//! A huge file arrives here beside the cuts. When it is *whole*, its cut gives it a name in the tree
//! (`stage/adopt.rs`); until then, and when it broke off, what is here is content like any other that
//! the target holds: the digest of the recipe so far names it, and the next attempt copies from it.
//!
//! Guarantees: content counts as whole only when every chunk of it was checked as it came, and its bytes
//! were synced before its log said so. Anything else is checked again by whoever copies from it. What is
//! never used goes: what another content begins with, what earlier attempts at a file left but for the longest, what
//! the source no longer wants, what is older than [`AGE_MAX_MS`], and beyond [`AHEAD_MAX`] or [`AHEAD_EXTENTS_MAX`] the oldest
//! that broke off, then the oldest. What is whole goes for a later one of its own path only: others may wait for their cut.
//! One batch at a time gives a content its name, and as long as it may, only that batch's end removes it. It refuses to begin
//! what would leave less than [`ROOM_KEPT`] for changes. A site that opens its tree to services keeps none of it: [`discard`].
//!
//! After a crash of either end: a log that does not begin as one, or says nothing, is removed with its
//! bytes; of any other what reads back is held.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farshore_core::path::RelPath;
use farshore_core::recipe::{FileDigest, Recipe};
use farshore_proto::message::{AHEAD_EXTENTS_MAX, AHEAD_MAX};

use crate::OWN_FOLDER;
use crate::io::{Object, Storage};
use crate::own_folder::{OwnFolder, ensure_directory, remove_tree};

pub(crate) mod log;

/// The folder's name below Farshore's.
const FOLDER: &[u8] = b"ahead";
/// The name of the bytes: a stream brings one file, by its first operation.
pub(crate) const BYTES: &[u8] = b"1";
const LOG: &[u8] = b"recipe";
const LOG_NEW: &[u8] = b"recipe.new";
/// What nobody asked for in a week is of no use any more.
const AGE_MAX_MS: i64 = 7 * 24 * 3_600 * 1_000;
/// Bytes that stay free for changes.
pub const ROOM_KEPT: u64 = 256 << 20;

/// All that is held ahead in one tree, but for what is being written.
#[derive(Debug, Default)]
pub struct HeldAhead(Mutex<Slots>);

#[derive(Debug, Default)]
struct Slots {
    held: BTreeMap<u64, Held>,
    next: u64,
    /// Those that a batch gives their name in the tree.
    taken: BTreeSet<u64>,
}

/// One content.
#[derive(Debug, Clone)]
pub struct Held {
    /// The digest of its recipe.
    pub content: FileDigest,
    /// Whether it arrived whole.
    pub whole: bool,
    /// What it is made of, as far as it arrived.
    pub recipe: Arc<Recipe>,
    /// The file it was of when it came, where that is known: another one may be given it.
    path: Option<RelPath>,
}

/// A place to write content to.
#[derive(Debug)]
pub(crate) struct Slot<S: Storage> {
    number: u64,
    pub(crate) folder: S::Directory,
}

impl<S: Storage> Slot<S> {
    /// Begins the log of what is written here.
    pub(crate) fn log(&self, storage: &S) -> io::Result<log::Writer<S>> {
        Ok(log::Writer::begin(storage.create_file(&self.folder, LOG)?))
    }
}

impl HeldAhead {
    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of it, the oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Held> {
        self.lock().held.values().cloned().collect()
    }

    /// What `content` is made of, if it is held, and whether it is whole.
    #[must_use]
    pub fn get(&self, content: &FileDigest) -> Option<Held> {
        self.lock().held.values().find(|held| held.content == *content).cloned()
    }

    /// Takes `content`, if it is whole and of `size` bytes, for a batch that gives it its name; nobody else can
    /// until [`Self::give_back`].
    pub(crate) fn take(&self, content: &FileDigest, size: u64) -> Option<Taken> {
        let mut slots = self.lock();
        let fits = |held: &Held| held.content == *content && held.whole;
        let (number, held) = slots.held.iter().find(|(_, held)| fits(held))?;
        if held.recipe.size() != size || slots.taken.contains(number) {
            return None;
        }
        let (number, recipe) = (*number, Arc::clone(&held.recipe));
        slots.taken.insert(number);
        Some(Taken { number, recipe })
    }

    /// What was taken was given no name after all.
    pub(crate) fn give_back(&self, number: u64) {
        self.lock().taken.remove(&number);
    }
}

/// Content that a batch gives its name.
#[derive(Debug)]
pub(crate) struct Taken {
    /// Its slot.
    pub(crate) number: u64,
    /// What it is made of.
    pub(crate) recipe: Arc<Recipe>,
}

/// Removes all that is held ahead in a tree that nobody sends to any more: no cut will ask for it.
///
/// # Errors
/// The file system's own; what is left is of no harm.
pub fn discard<S: Storage>(storage: &S) -> io::Result<()> {
    match storage.open_directory(storage.root(), OWN_FOLDER) {
        Ok(top) => remove_tree(storage, &top, FOLDER),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

impl<S: Storage> OwnFolder<S> {
    fn ahead_folder(&self, storage: &S) -> io::Result<Option<S::Directory>> {
        match storage.open_directory(&self.top, FOLDER) {
            Ok(folder) => Ok(Some(folder)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Finds what earlier sessions left, and removes what is of no use.
    ///
    /// # Errors
    /// The file system's own.
    pub fn find_ahead(&self, storage: &S, now_ms: i64) -> io::Result<()> {
        let Some(folder) = self.ahead_folder(storage)? else { return Ok(()) };
        let mut names = Vec::new();
        storage.list(&folder, &mut |l| names.push(l.name.to_vec()))?;
        let mut found = Slots::default();
        for name in names {
            let number = std::str::from_utf8(&name).ok().and_then(|n| n.parse::<u64>().ok());
            // A number that leaves no room for later ones was not given by us.
            let number = number.filter(|n| *n < u64::MAX / 2);
            let held = match number {
                Some(_) => read_slot(storage, &folder, &name, now_ms)?,
                None => None,
            };
            match (number, held) {
                (Some(number), Some(held)) => {
                    found.next = found.next.max(number + 1);
                    found.held.insert(number, held);
                }
                _ => remove_tree(storage, &folder, &name)?,
            }
        }
        let surplus = found.surplus();
        *self.ahead.lock() = found;
        self.remove_slots(storage, &surplus)
    }

    /// A place for a further content.
    ///
    /// # Errors
    /// The file system's own.
    pub(crate) fn begin_ahead(&self, storage: &S) -> io::Result<Slot<S>> {
        let folder = ensure_directory(storage, &self.top, FOLDER)?;
        let number = {
            let mut slots = self.ahead.lock();
            slots.next += 1;
            slots.next - 1
        };
        let name = number.to_string().into_bytes();
        remove_tree(storage, &folder, &name)?;
        storage.make_directory(&folder, &name)?;
        let folder = storage.open_directory(&folder, &name)?;
        Ok(Slot { number, folder })
    }

    /// What a slot has is whole: durable when this returns, and held from now on.
    ///
    /// # Errors
    /// The file system's own; the slot is as it was then.
    pub(crate) fn end_ahead(
        &self,
        storage: &S,
        slot: &Slot<S>,
        path: &RelPath,
        recipe: Recipe,
    ) -> io::Result<()> {
        storage.sync_file(&storage.open_file_writable(&slot.folder, BYTES)?)?;
        let mut log = log::Writer::begin(storage.create_file(&slot.folder, LOG_NEW)?);
        log.is_of(path);
        log.whole(storage, &recipe)?;
        storage.rename(&slot.folder, LOG_NEW, &slot.folder, LOG)?;
        storage.sync_directory(&slot.folder)?;
        if let Some(folder) = self.ahead_folder(storage)? {
            storage.sync_directory(&folder)?;
            // The folder's own name: the first content made it.
            storage.sync_directory(&self.top)?;
        }
        let (content, path) = (recipe.digest(), Some(path.clone()));
        let held = Held { content, whole: true, recipe: Arc::new(recipe), path };
        self.hold(storage, slot.number, held)
    }

    /// What a slot has broke off: what its log says is held from now on, unless it is nothing, or another
    /// content begins with it.
    ///
    /// # Errors
    /// The file system's own.
    pub(crate) fn break_ahead(&self, storage: &S, slot: &Slot<S>) -> io::Result<()> {
        let Some(folder) = self.ahead_folder(storage)? else { return Ok(()) };
        let name = slot.number.to_string();
        match read_slot(storage, &folder, name.as_bytes(), i64::MIN)? {
            Some(held) => self.hold(storage, slot.number, held),
            None => self.remove_slots(storage, &[slot.number]),
        }
    }

    fn hold(&self, storage: &S, number: u64, held: Held) -> io::Result<()> {
        let surplus = {
            let mut slots = self.ahead.lock();
            slots.held.insert(number, held);
            slots.surplus()
        };
        self.remove_slots(storage, &surplus)
    }

    /// Nothing of a slot is kept.
    ///
    /// # Errors
    /// The file system's own.
    pub(crate) fn drop_ahead(&self, storage: &S, slot: &Slot<S>) -> io::Result<()> {
        self.remove_slots(storage, &[slot.number])
    }

    /// Removes what a slot that ended was built on, unless that has more: it has most of it by now. Of what is
    /// whole only a former version of the same file: anything else waits for its own cut.
    ///
    /// # Errors
    /// The file system's own.
    pub(crate) fn supersede_ahead(
        &self,
        storage: &S,
        slot: &Slot<S>,
        built_on: &BTreeSet<FileDigest>,
    ) -> io::Result<()> {
        let held = self.ahead.lock().held.get(&slot.number).cloned();
        let Some(by) = held else { return Ok(()) };
        let size = by.recipe.size();
        self.remove_ahead_if(storage, |held| {
            let is_base = built_on.contains(&held.content) && held.content != by.content;
            let is_of_same = held.path.is_some() && held.path == by.path;
            is_base && (!held.whole || is_of_same) && held.recipe.size() <= size
        })
    }

    /// Removes what is not among `wanted`, but for what is being written.
    ///
    /// # Errors
    /// The file system's own.
    pub fn keep_ahead(&self, storage: &S, wanted: &[FileDigest]) -> io::Result<()> {
        self.remove_ahead_if(storage, |held| !wanted.contains(&held.content))
    }

    /// Removes what was taken, which has its name in the tree.
    ///
    /// # Errors
    /// The file system's own.
    pub(crate) fn forget_ahead(&self, storage: &S, taken: u64) -> io::Result<()> {
        self.remove_slots(storage, &[taken])
    }

    fn remove_ahead_if(&self, storage: &S, is_gone: impl Fn(&Held) -> bool) -> io::Result<()> {
        let gone: Vec<u64> = {
            let slots = self.ahead.lock();
            let gone = slots.free().filter(|(_, held)| is_gone(held));
            gone.map(|(number, _)| *number).collect()
        };
        self.remove_slots(storage, &gone)
    }

    /// Content that has a second name was given its place by a batch under way: that finishes, and here
    /// it is over.
    ///
    /// # Errors
    /// The file system's own.
    pub(crate) fn forget_placed(&self, storage: &S) -> io::Result<()> {
        let Some(folder) = self.ahead_folder(storage)? else { return Ok(()) };
        let numbers: Vec<u64> = self.ahead.lock().held.keys().copied().collect();
        for number in numbers {
            let slot = storage.open_directory(&folder, number.to_string().as_bytes())?;
            if storage.stat(Object::Named(&slot, BYTES))?.links > 1 {
                self.remove_slots(storage, &[number])?;
            }
        }
        Ok(())
    }

    fn remove_slots(&self, storage: &S, numbers: &[u64]) -> io::Result<()> {
        if numbers.is_empty() {
            return Ok(());
        }
        {
            let mut slots = self.ahead.lock();
            for number in numbers {
                slots.held.remove(number);
                slots.taken.remove(number);
            }
        }
        let Some(folder) = self.ahead_folder(storage)? else { return Ok(()) };
        numbers.iter().try_for_each(|n| remove_tree(storage, &folder, n.to_string().as_bytes()))
    }

    /// Opens the folder of `content`, if it is held, and says whether it is whole.
    pub(crate) fn open_ahead(&self, storage: &S, content: &FileDigest) -> Option<S::Directory> {
        let number = {
            let slots = self.ahead.lock();
            slots.held.iter().find(|(_, held)| held.content == *content).map(|(n, _)| *n)
        }?;
        self.open_slot(storage, number)
    }

    /// Opens a slot's folder.
    pub(crate) fn open_slot(&self, storage: &S, number: u64) -> Option<S::Directory> {
        let folder = self.ahead_folder(storage).ok()??;
        storage.open_directory(&folder, number.to_string().as_bytes()).ok()
    }
}

impl Slots {
    /// Those that no batch gives a name.
    fn free(&self) -> impl Iterator<Item = (&u64, &Held)> {
        self.held.iter().filter(|(number, _)| !self.taken.contains(number))
    }

    /// Whether it broke off, and a later attempt at the same file, and a longer one, are held: whoever keeps
    /// changing a file would fill the disk.
    fn is_past(&self, number: u64, held: &Held) -> bool {
        let size = held.recipe.size();
        let is_known = !held.whole && held.path.is_some();
        let of_same = self.held.iter().filter(|(_, by)| is_known && by.path == held.path);
        let (mut is_last, mut is_longest) = (true, true);
        for (other, by) in of_same {
            is_last &= *other <= number;
            is_longest &= (by.recipe.size(), *other) <= (size, number);
        }
        !is_last && !is_longest
    }

    /// What another content begins with, earlier attempts, and beyond the bound the oldest of what broke off, then
    /// of what is whole.
    fn surplus(&self) -> Vec<u64> {
        let is_within = |(number, held): (&u64, &Held)| {
            self.is_past(*number, held)
                || self.held.iter().any(|(other, by)| {
                    let mine = &held.recipe.extents;
                    let begins = !held.whole && by.recipe.extents.starts_with(mine);
                    let same = held.content == by.content && held.whole == by.whole;
                    // Of two that are the same the later one goes.
                    other != number && if same { other < number } else { begins }
                })
        };
        let (within, mut rest): (Vec<_>, Vec<_>) = self.free().partition(|item| is_within(*item));
        rest.sort_by_key(|(number, held)| (held.whole, **number));
        // What a batch has counts, and stays.
        let taken = || self.taken.iter().filter_map(|number| self.held.get(number));
        let extents = |held: &Held| held.recipe.extents.len();
        let mut left: usize = rest.iter().map(|(_, held)| extents(held)).sum();
        left += taken().map(extents).sum::<usize>();
        let count = rest.len() + taken().count();
        let beyond = rest.iter().enumerate().take_while(|(place, (_, held))| {
            let is_beyond = count - place > AHEAD_MAX || left > AHEAD_EXTENTS_MAX;
            left -= extents(held);
            is_beyond
        });
        let beyond = beyond.count();
        within.into_iter().chain(rest.into_iter().take(beyond)).map(|(n, _)| *n).collect()
    }
}

/// What is in a slot; `None` when it is of no use.
fn read_slot<S: Storage>(
    storage: &S,
    folder: &S::Directory,
    name: &[u8],
    now_ms: i64,
) -> io::Result<Option<Held>> {
    use io::ErrorKind as K;
    let opened = storage
        .open_directory(folder, name)
        .and_then(|slot| Ok((storage.stat(Object::Named(&slot, BYTES))?, slot)))
        .and_then(|(bytes, slot)| Ok((bytes, storage.open_file(&slot, LOG)?)));
    let (bytes, file) = match opened {
        Ok(opened) => opened,
        Err(e) if matches!(e.kind(), K::NotFound | K::NotADirectory | K::InvalidInput) => {
            return Ok(None);
        }
        Err(e) => return Err(e),
    };
    let stat = storage.stat(Object::File(&file))?;
    let written_ms = stat.mtime.seconds.saturating_mul(1_000);
    if now_ms.saturating_sub(written_ms) > AGE_MAX_MS {
        return Ok(None);
    }
    let Some(logged) = log::read(storage, &file, stat.size)? else { return Ok(None) };
    let log::Logged { path, recipe, whole } = logged;
    let fits = if whole { recipe.size() == bytes.size } else { recipe.size() <= bytes.size };
    let held = Held { content: recipe.digest(), whole, recipe: Arc::new(recipe), path };
    Ok((fits && !held.recipe.extents.is_empty()).then_some(held))
}

#[cfg(test)]
mod tests;

//! What it takes to bring a path, and all below it, back to the state after a batch.
//!
//! Guarantees: made from the catalog alone, the tree is not walked; what is listed is what differs now,
//! so that a plan made again after a part of it was done is the rest of it. Memory is bounded: lists go to
//! a spool. Removals of files come first, then all that is to be there in path order, then removals of
//! directories from the deepest up, as from a source.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::path::Path;

use farshore_core::codec::{Decoder, Encoder};
use farshore_core::entry::{Entry, EntryDigest, EntryKind, decode_path};
use farshore_core::limits::SMALL_FILE_MAX;
use farshore_core::path::RelPath;
use farshore_core::recipe::Extent;

use crate::catalog::{CatalogError, CatalogReader, Former, Record};
use crate::spool::{Spool, SpoolReader};
use crate::stage::restore::Restore;

/// Groups of hard links, named from outside of what goes back, that are kept together.
const OUTSIDE_MAX: usize = 1 << 16;

/// What becomes of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// A file comes back with former content.
    File,
    /// A directory comes back.
    Directory,
    /// A link, pipe, socket or device node comes back.
    Node,
    /// A further name of a file comes back.
    Link,
    /// Only owner, mode, time or attributes are other ones.
    Metadata,
    /// It was not there: it goes to history.
    Remove,
    /// The same, for a directory.
    RemoveDirectory,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::File => "restore",
            Self::Directory => "directory",
            Self::Node => "node",
            Self::Link => "link",
            Self::Metadata => "metadata",
            Self::Remove => "remove",
            Self::RemoveDirectory => "remove-directory",
        })
    }
}

/// How much a plan does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Files with former content.
    pub files: u64,
    /// Bytes of that content.
    pub bytes: u64,
    /// Bytes of it that take room: without holes and zeros.
    pub stored: u64,
    /// Directories that come back.
    pub directories: u64,
    /// Links, pipes, sockets and device nodes that come back.
    pub nodes: u64,
    /// Further names that come back.
    pub links: u64,
    /// Entries that change in metadata alone.
    pub metadata: u64,
    /// Files and others that go.
    pub removed: u64,
    /// Directories that go.
    pub removed_directories: u64,
}

impl Counts {
    /// Changes of all kinds.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.files
            + self.directories
            + self.nodes
            + self.links
            + self.metadata
            + self.removed
            + self.removed_directories
    }

    fn add(&mut self, change: Change, bytes: u64, stored: u64) {
        match change {
            Change::File => {
                self.files += 1;
                self.bytes = self.bytes.saturating_add(bytes);
                self.stored = self.stored.saturating_add(stored);
            }
            Change::Directory => self.directories += 1,
            Change::Node => self.nodes += 1,
            Change::Link => self.links += 1,
            Change::Metadata => self.metadata += 1,
            Change::Remove => self.removed += 1,
            Change::RemoveDirectory => self.removed_directories += 1,
        }
    }
}

/// Is given each change as it is found: path, what, bytes of content that come back.
pub type Each<'a> = &'a mut dyn FnMut(&RelPath, Change, u64);

/// What is to be done, in the order it is done.
#[derive(Debug)]
pub struct Plan {
    /// How much it is.
    pub counts: Counts,
    removals: Spool,
    present: Spool,
    directories: Spool,
}

impl Plan {
    /// The steps in order.
    pub(super) fn into_steps(self) -> Result<Steps, CatalogError> {
        let parts = [
            self.removals.into_forward().map_err(CatalogError::List)?,
            self.present.into_forward().map_err(CatalogError::List)?,
            self.directories.into_backward().map_err(CatalogError::List)?,
        ];
        Ok(Steps { parts, part: 0 })
    }
}

/// The steps of a plan.
#[derive(Debug)]
pub(super) struct Steps {
    parts: [SpoolReader; 3],
    part: usize,
}

impl Steps {
    pub(super) fn next_step(&mut self) -> Result<Option<(RelPath, Restore)>, CatalogError> {
        while let Some(part) = self.parts.get_mut(self.part) {
            match part.next_item().map_err(CatalogError::List)? {
                Some(item) => {
                    let invalid = |e| std::io::Error::new(std::io::ErrorKind::InvalidData, e);
                    return decode(&item).map(Some).map_err(|e| CatalogError::List(invalid(e)));
                }
                None => self.part += 1,
            }
        }
        Ok(None)
    }
}

fn encode(path: &RelPath, what: &Restore) -> Vec<u8> {
    let mut e = Encoder::new();
    e.put_bytes(path.as_bytes());
    match what {
        Restore::Make(entry) => {
            e.put_u8(1);
            entry.encode(&mut e);
        }
        Restore::Meta(entry) => {
            e.put_u8(2);
            entry.encode(&mut e);
        }
        Restore::Remove(expected) => {
            e.put_u8(3);
            e.put_raw(&expected.0);
        }
    }
    e.finish()
}

fn decode(item: &[u8]) -> Result<(RelPath, Restore), farshore_core::codec::DecodeError> {
    let mut d = Decoder::new(item);
    let path = decode_path(&mut d, "path of a plan")?;
    let what = match d.take_u8("step of a plan")? {
        1 => Restore::Make(Entry::decode(&mut d)?),
        2 => Restore::Meta(Entry::decode(&mut d)?),
        _ => Restore::Remove(EntryDigest(d.take_array("step of a plan")?)),
    };
    Ok((path, what))
}

/// What stood at a path, and what is known to stand there now.
#[derive(Debug)]
pub(super) struct Stood {
    pub(super) path: RelPath,
    pub(super) then: Entry,
    pub(super) now: Option<Record>,
}

/// What stood where after a batch, by what is noted since.
#[derive(Debug)]
pub(super) struct Past<'r> {
    pub(super) reader: &'r CatalogReader,
    after: u64,
    /// The directory asked for last, and what was found.
    last: Option<(RelPath, Option<u64>)>,
}

impl<'r> Past<'r> {
    pub(super) fn new(reader: &'r CatalogReader, after: u64) -> Self {
        Self { reader, after, last: None }
    }

    /// The oldest set in which `directory` or one above it came to be: what is noted below it for that set or
    /// later, or not noted at all, was not there.
    fn made(&mut self, directory: &RelPath) -> Result<Option<u64>, CatalogError> {
        if let Some((last, made)) = &self.last
            && last == directory
        {
            return Ok(*made);
        }
        let mut made: Option<u64> = None;
        let mut at = Some(directory.clone());
        while let Some(directory) = at {
            if let Some(set) = self.reader.made_after(&directory, self.after)? {
                made = Some(made.map_or(set, |m| m.min(set)));
            }
            at = directory.split().map(|(parent, _)| parent);
        }
        self.last = Some((directory.clone(), made));
        Ok(made)
    }

    fn made_above(&mut self, path: &RelPath) -> Result<Option<u64>, CatalogError> {
        match path.split() {
            Some((parent, _)) => self.made(&parent),
            None => Ok(None),
        }
    }

    fn now(&self, path: &RelPath) -> Result<Option<Entry>, CatalogError> {
        Ok(self.reader.get(path)?.map(|r| r.entry))
    }

    /// What stood in a directory, in the order of names.
    pub(super) fn children(&mut self, directory: &RelPath) -> Result<Vec<Stood>, CatalogError> {
        let made = self.made(directory)?;
        let mut records = self.reader.records_in(directory)?;
        let mut formers = self.reader.formers_in(directory, self.after)?;
        let mut record = records.next().transpose()?;
        let mut former = formers.next().transpose()?;
        let mut out = Vec::new();
        loop {
            let order = match (&record, &former) {
                (None, None) => return Ok(out),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((path, _)), Some(former)) => path.name().cmp(former.path.name()),
            };
            let now = match order {
                Ordering::Greater => None,
                _ => std::mem::replace(&mut record, records.next().transpose()?),
            };
            let was = match order {
                Ordering::Less => None,
                _ => std::mem::replace(&mut former, formers.next().transpose()?),
            };
            let path = match (&now, &was) {
                (Some((path, _)), _) => path.clone(),
                (None, Some(former)) => former.path.clone(),
                (None, None) => return Ok(out),
            };
            let now = now.map(|(_, record)| record);
            let then = match (was, made) {
                (Some(was), made) if made.is_none_or(|made| was.set < made) => was.entry,
                (None, None) => now.as_ref().map(|record| record.entry.clone()),
                _ => None,
            };
            out.extend(then.map(|then| Stood { path, then, now }));
        }
    }

    /// What stood at `path`.
    pub(super) fn entry(&mut self, path: &RelPath) -> Result<Option<Entry>, CatalogError> {
        let former = self.reader.former(path, self.after)?;
        match (former, self.made_above(path)?) {
            (Some(former), made) if made.is_none_or(|made| former.set < made) => Ok(former.entry),
            (None, None) => self.now(path),
            _ => Ok(None),
        }
    }
}

/// Bytes of content that are no zeros, as far as the recipe tells.
pub(super) fn stored_bytes(reader: &CatalogReader, entry: &Entry) -> Result<u64, CatalogError> {
    let Some(content) = entry.content().filter(|_| entry.size() > SMALL_FILE_MAX) else {
        return Ok(entry.size());
    };
    let Some(recipe) = reader.recipe(content)? else { return Ok(entry.size()) };
    let chunks = recipe.extents.iter().filter(|e| matches!(e, Extent::Chunk { .. }));
    Ok(chunks.map(Extent::len).fold(0, u64::saturating_add))
}

struct Planner<'p, 'r> {
    past: Past<'r>,
    scope: &'p RelPath,
    plan: Plan,
    each: Each<'p>,
    /// First names outside the scope that were other files then: where their content comes to here.
    outside: HashMap<RelPath, RelPath>,
}

/// Plans to bring `scope` and all below it back to the state after the batch `after`.
///
/// # Errors
/// [`CatalogError`].
pub fn plan(
    reader: &CatalogReader,
    after: u64,
    scope: &RelPath,
    spool: &Path,
    each: Each<'_>,
) -> Result<Plan, CatalogError> {
    let list = || Spool::new(spool);
    let plan =
        Plan { counts: Counts::default(), removals: list(), present: list(), directories: list() };
    let past = Past::new(reader, after);
    let mut planner = Planner { past, scope, plan, each, outside: HashMap::new() };
    planner.top()?;
    for former in reader.formers_below(scope, after, true)? {
        planner.former(former?)?;
    }
    Ok(planner.plan)
}

impl Planner<'_, '_> {
    /// The scope itself, and the directories above it when it cannot come back without them.
    fn top(&mut self) -> Result<(), CatalogError> {
        let scope = self.scope.clone();
        let (then, now) = (self.past.entry(&scope)?, self.past.now(&scope)?);
        if then.is_some() {
            self.above(&scope)?;
        }
        let is_directory = now.as_ref().is_some_and(|e| e.kind() == EntryKind::Directory);
        self.change(&scope, now, then)?;
        // What came with a directory above it is noted with that one alone.
        if is_directory && self.past.made(&scope)?.is_some() {
            self.below(&scope)?;
        }
        Ok(())
    }

    fn above(&mut self, path: &RelPath) -> Result<(), CatalogError> {
        let mut above = Vec::new();
        let mut at = path.split().map(|(parent, _)| parent);
        while let Some(directory) = at {
            at = directory.split().map(|(parent, _)| parent);
            above.push(directory);
        }
        for directory in above.into_iter().rev() {
            let now = self.past.now(&directory)?;
            if now.as_ref().is_none_or(|e| e.kind() != EntryKind::Directory) {
                let then = self.past.entry(&directory)?;
                self.change(&directory, now, then)?;
            }
        }
        Ok(())
    }

    fn former(&mut self, former: Former) -> Result<(), CatalogError> {
        let Former { path, set, entry } = former;
        let made = self.past.made_above(&path)?;
        let then = entry.filter(|_| made.is_none_or(|made| set < made));
        if then.is_none() && made.is_some() {
            // Listed with all that is below the directory that was made.
            return Ok(());
        }
        let now = self.past.now(&path)?;
        let is_directory = now.as_ref().is_some_and(|e| e.kind() == EntryKind::Directory);
        self.change(&path, now, then)?;
        if is_directory
            && made.is_none()
            && self.past.reader.made_after(&path, self.past.after)?.is_some()
        {
            self.below(&path)?;
        }
        Ok(())
    }

    /// Below a directory that came to be since: what was not there goes.
    fn below(&mut self, directory: &RelPath) -> Result<(), CatalogError> {
        let reader = self.past.reader;
        for record in reader.records_below(directory)? {
            let (path, record) = record?;
            if self.past.entry(&path)?.is_none() {
                self.change(&path, Some(record.entry), None)?;
            }
        }
        Ok(())
    }

    /// `now` is to become `then`.
    fn change(
        &mut self,
        path: &RelPath,
        now: Option<Entry>,
        then: Option<Entry>,
    ) -> Result<(), CatalogError> {
        let Some(then) = then else {
            let Some(now) = now else { return Ok(()) };
            let what = Restore::Remove(now.digest());
            let change = match now.kind() {
                EntryKind::Directory => Change::RemoveDirectory,
                _ => Change::Remove,
            };
            return self.push(path, change, 0, &what);
        };
        if let Entry::HardLink { leader } = &then {
            let leader = leader.clone();
            return self.link(path, now, &leader);
        }
        if now.as_ref() == Some(&then) {
            return Ok(());
        }
        let stays = now.is_some_and(|now| now.same_but_metadata(&then));
        let change = match then.kind() {
            _ if stays => Change::Metadata,
            EntryKind::File => Change::File,
            EntryKind::Directory => Change::Directory,
            _ => Change::Node,
        };
        let size = if change == Change::File { then.size() } else { 0 };
        let what = match stays {
            true => Restore::Meta(then),
            false => Restore::Make(then),
        };
        self.push(path, change, size, &what)
    }

    /// A further name: made again also when only the inode behind it will be another one.
    fn link(
        &mut self,
        path: &RelPath,
        now: Option<Entry>,
        leader: &RelPath,
    ) -> Result<(), CatalogError> {
        let (first_then, first_now) = (self.past.entry(leader)?, self.past.now(leader)?);
        let comes_anew = match (&first_then, &first_now) {
            (Some(then), Some(now)) => !then.same_but_metadata(now),
            _ => true,
        };
        if leader.starts_with(self.scope) {
            let then = Entry::HardLink { leader: leader.clone() };
            if now.as_ref() == Some(&then) && !comes_anew {
                return Ok(());
            }
            return self.push(path, Change::Link, 0, &Restore::Make(then));
        }
        // The first name stays as it is now: what it was then comes back here as a file of its own.
        if !comes_anew && first_then == first_now {
            let then = Entry::HardLink { leader: leader.clone() };
            if now.as_ref() != Some(&then) {
                self.push(path, Change::Link, 0, &Restore::Make(then))?;
            }
            return Ok(());
        }
        let then = match self.outside.get(leader) {
            Some(first) => Entry::HardLink { leader: first.clone() },
            None => match first_then {
                Some(then) if then.kind() != EntryKind::HardLink => then,
                _ => return Ok(()),
            },
        };
        if self.outside.len() < OUTSIDE_MAX {
            self.outside.entry(leader.clone()).or_insert_with(|| path.clone());
        }
        if matches!(then, Entry::HardLink { .. }) {
            if now.as_ref() == Some(&then) {
                return Ok(());
            }
            return self.push(path, Change::Link, 0, &Restore::Make(then));
        }
        self.change(path, now, Some(then))
    }

    fn push(
        &mut self,
        path: &RelPath,
        change: Change,
        bytes: u64,
        what: &Restore,
    ) -> Result<(), CatalogError> {
        let stored = match what {
            Restore::Make(entry) => stored_bytes(self.past.reader, entry)?,
            _ => 0,
        };
        self.plan.counts.add(change, bytes, stored);
        (self.each)(path, change, bytes);
        let list = match change {
            Change::Remove => &mut self.plan.removals,
            Change::RemoveDirectory => &mut self.plan.directories,
            _ => &mut self.plan.present,
        };
        list.push(&encode(path, what)).map_err(CatalogError::List)
    }
}

//! Staging what this site has itself: entries that come back from history.
//!
//! Guarantees: as for what comes over the wire. Content is looked for wherever the catalog says it stands, live
//! or kept, and is copied, or shares its blocks where the file system can; what is placed was read
//! back and has the digest of its entry. A copy that is damaged is passed over for the next one; a file
//! with no good one fails by itself.

use farshore_core::chunking::ChunkingId;
use farshore_core::entry::{Entry, EntryDigest};
use farshore_core::limits::SMALL_FILE_MAX;
use farshore_core::path::RelPath;
use farshore_core::recipe::{FileDigest, Recipe};

use super::{OpError, StageError, Staged, StagedBatch, Stager, refused};
use crate::catalog::{CatalogReader, Location};
use crate::io::{Object, Stat, Storage};
use crate::observe::Expected;
use crate::own_folder::set_name;
use farshore_proto::message::Failure;

/// Places of one content that are tried.
const PLACES_MAX: usize = 64;

/// One entry that comes back, or goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Restore {
    /// The object is to be this one.
    Make(Entry),
    /// Its content stays; owner, mode, time and attributes become these.
    Meta(Entry),
    /// It goes to history; an empty directory is removed.
    Remove(EntryDigest),
}

impl<S: Storage> Stager<'_, S> {
    /// Stages one entry.
    ///
    /// # Errors
    /// [`StageError`]; what is wrong with the entry alone is a failure of the batch.
    pub(crate) fn restore(&mut self, path: RelPath, what: Restore) -> Result<(), StageError> {
        self.number += 1;
        let number = self.number;
        let done = match what {
            Restore::Remove(expected) => {
                self.out.staged.push(Staged::Remove { number, path: path.clone(), expected });
                Ok(())
            }
            Restore::Meta(entry) => {
                self.out.staged.push(Staged::Meta { path: path.clone(), entry });
                Ok(())
            }
            Restore::Make(entry @ Entry::File { .. }) => self.file_back(path.clone(), entry),
            Restore::Make(entry) => self.put(path.clone(), entry),
        };
        match done {
            Ok(()) => Ok(()),
            Err(OpError::Failure(kind, text)) => {
                self.out.failures.push(Failure { path, kind, text });
                Ok(())
            }
            Err(OpError::Fatal(e)) => Err(e),
        }
    }

    /// The batch as it is staged.
    pub(crate) fn into_batch(mut self) -> StagedBatch {
        // The present versions are what an undo of this needs.
        self.out.keeps_displaced = true;
        self.out
    }

    fn file_back(&mut self, path: RelPath, entry: Entry) -> Result<(), OpError> {
        let Some(content) = entry.content().copied() else { return Err(refused("no content")) };
        let slot = self.slot(&path);
        let (file, mode) =
            self.create(&slot, &entry).map_err(Self::failed(&path, "creating it"))?;
        let copied = match self.content_back(&file, &path, &content, entry.size()) {
            Ok(copied) => copied,
            Err(e) => {
                self.discard(&slot);
                return Err(e);
            }
        };
        let facts = self.finish_file(&slot, (&file, Some(mode)), &path, &entry)?;
        if let Some(recipe) = copied {
            self.kept.keep(&mut self.out.recipes, content, recipe);
        }
        self.staged(&slot, path, entry, facts);
        Ok(())
    }

    /// Writes content into a new file, from the first place that has it undamaged; its recipe if it has one.
    fn content_back(
        &mut self,
        file: &S::File,
        path: &RelPath,
        content: &FileDigest,
        size: u64,
    ) -> Result<Option<Recipe>, OpError> {
        if size == 0 && *content == FileDigest::of_small(&[]) {
            return Ok(None);
        }
        let reader = self.catalog.reader()?;
        let mut damaged = Vec::new();
        for place in reader.locations(content, PLACES_MAX)? {
            let Some((basis, stat)) = self.open_place(&reader, &place, size)? else { continue };
            match self.copy_checked(&basis, &stat, file, path, content) {
                Ok(Some(recipe)) => return Ok(recipe),
                Ok(None) => {}
                // The disk cannot read this copy.
                Err(OpError::Fatal(StageError::Disk { step: "reading its basis", .. })) => {}
                Err(e) => return Err(e),
            }
            damaged.push(place);
            self.storage.set_len(file, 0).map_err(Self::failed(path, "emptying it"))?;
        }
        Err(match damaged.first() {
            None => refused("its content is not kept here any more"),
            Some(Location::Live(at)) => refused(format!("its content, at {at}, is damaged")),
            Some(Location::History(id)) => {
                let (set, number) = (set_name(id.set), id.number);
                refused(format!("its kept version, .farshore/history/{set}/{number}, is damaged"))
            }
        })
    }

    fn open_place(
        &self,
        reader: &CatalogReader,
        place: &Location,
        size: u64,
    ) -> Result<Option<(S::File, Stat)>, OpError> {
        let Some((at, name)) = place_in(self.storage, &self.own.history, place) else {
            return Ok(None);
        };
        if let Location::Live(path) = place
            && reader.get(path)?.is_none_or(|r| r.facts.is_none())
        {
            return Ok(None);
        }
        let opened = self.storage.open_file_and_stat(&at, &name);
        Ok(opened.ok().filter(|(_, stat)| stat.size == size))
    }

    /// Copies a file whole and checks what was copied: `None` when it is other content, else its recipe
    /// if it has one.
    fn copy_checked(
        &mut self,
        basis: &S::File,
        stat: &Stat,
        file: &S::File,
        path: &RelPath,
        content: &FileDigest,
    ) -> Result<Option<Option<Recipe>>, OpError> {
        let storage = self.storage;
        if stat.size <= SMALL_FILE_MAX || !storage.shares_blocks(&self.own.staging) {
            return self.copy_whole(basis, stat, file, path, content);
        }
        storage.set_len(file, stat.size).map_err(Self::failed(path, "setting its length"))?;
        match storage.copy_range(basis, 0, file, 0, stat.size) {
            Err(e) if crate::stage::is_fatal(&e) && e.kind() == std::io::ErrorKind::StorageFull => {
                return Err(Self::failed(path, "writing it")(e));
            }
            Err(_) => return Ok(None),
            Ok(()) => {}
        }
        let chunking = self.catalog.reader()?.chunking(content)?;
        let expected = Expected { content: *content, size: stat.size, chunking };
        for id in Expected::chunkings(Some(&expected), stat.size) {
            let recipe = self.read_back(file, path, id)?;
            if let Some(recipe) = recipe.filter(|r| r.digest() == *content) {
                return Ok(Some(Some(recipe)));
            }
        }
        Ok(None)
    }

    fn read_back(
        &mut self,
        file: &S::File,
        path: &RelPath,
        id: ChunkingId,
    ) -> Result<Option<Recipe>, OpError> {
        let object = Object::File(file);
        let stat = self.storage.stat(object).map_err(Self::failed(path, "looking at it"))?;
        self.copy_extents(file, &stat, None, path, id)
    }
}

/// The open directory and the name of a place where content stands; `None` when it is gone.
pub(crate) fn place_in<S: Storage>(
    storage: &S,
    history: &S::Directory,
    place: &Location,
) -> Option<(S::Directory, Vec<u8>)> {
    match place {
        Location::Live(path) => {
            let (parent, name) = path.split()?;
            let at = storage.open_directory(storage.root(), parent.as_bytes()).ok()?;
            Some((at, name.to_vec()))
        }
        Location::History(id) => {
            let at = storage.open_directory(history, set_name(id.set).as_bytes()).ok()?;
            Some((at, id.number.to_string().into_bytes()))
        }
    }
}

impl Restore {
    /// Bytes of content that staging it writes.
    pub(crate) fn content_bytes(&self) -> u64 {
        match self {
            Self::Make(entry) => entry.size(),
            Self::Meta(_) | Self::Remove(_) => 0,
        }
    }

    /// About how long its record in the journal is.
    pub(crate) fn entry_bytes(&self) -> usize {
        match self {
            Self::Make(entry) | Self::Meta(entry) => {
                let xattrs = entry
                    .meta()
                    .map_or(0, |m| m.xattrs.iter().map(|(n, v)| n.len() + v.len()).sum());
                64 + xattrs
            }
            Self::Remove(_) => 32,
        }
    }
}

//! Carrying a plan out at one site.
//!
//! The procedure, at each site:
//!
//! 1. Every path the plan touches here is looked at, by content: it is as the plan says, or already as it is to
//!    be. Is one neither, nothing is done and all such are named: the site moved since the plan.
//! 2. The manifest of the quarantine is written whole and synced: what will be in it, why, and where it was.
//! 3. At production: what wins gets a further name in `outgoing`; what loses is renamed into the quarantine.
//!    At recovery: what loses and goes is renamed into the quarantine, what is replaced is kept there by a
//!    further name first; what wins is made beside and renamed into place, directories before what is in them;
//!    then what goes, directories last, from the deepest up.
//! 4. All of it is synced.
//!
//! Guarantees: nothing is deleted: a version that leaves its path is in the quarantine first. A live path has its
//! former or its new version at every moment. After a crash at any point the same call goes on: what is done is
//! known by its state. Refuses to touch anything that is not what the plan recorded.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;

use farshore_core::conflict::{Outcome, Piece, Side, Site};
use farshore_core::entry::{Entry, EntryKind};
use farshore_core::failback::action::{End, Source, Steps, steps};
use farshore_core::failback::{Divergence, ListError, outcome_name};
use farshore_core::path::RelPath;

use super::place::Tree;
use crate::OWN_FOLDER;
use crate::io::Storage;
use crate::metadata::Degraded;
use crate::own_folder::{ensure_directory, remove_tree};

/// Paths that are named in a report; more are counted.
const NAMED_MAX: usize = 1_000;

/// Where a plan's things are, by its epoch and the short form of its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folders {
    /// The epoch.
    pub epoch: u64,
    /// The plan's short name.
    pub plan: String,
}

impl Folders {
    /// The quarantine, below the tree's root.
    #[must_use]
    pub fn quarantine(&self) -> String {
        format!(".farshore/quarantine/{}-{}", self.epoch, self.plan)
    }

    /// What production sends, below the tree's root.
    #[must_use]
    pub fn outgoing(&self) -> String {
        format!(".farshore/failback/{}/outgoing", self.plan)
    }

    /// What came to recovery, below the tree's root.
    #[must_use]
    pub fn incoming(&self) -> String {
        format!(".farshore/failback/{}/incoming", self.plan)
    }
}

/// What was done at one site.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Paths that are not what the plan says any more, the first of them: nothing was done then.
    pub moved: Vec<(RelPath, String)>,
    /// How many there are.
    pub moved_total: u64,
    /// Versions in the quarantine.
    pub quarantined: u64,
    /// Bytes of them.
    pub quarantined_bytes: u64,
    /// Files laid out to be sent.
    pub carried: u64,
    /// Paths that were placed.
    pub placed: u64,
    /// Paths that went.
    pub removed: u64,
    /// Directories that stay since something is in them.
    pub kept_directories: u64,
}

/// Why a plan could not be carried out here.
#[derive(Debug, thiserror::Error)]
pub enum ApplyPlanError {
    /// The plan cannot be read.
    #[error("the plan")]
    Plan(#[from] ListError),
    /// A path.
    #[error("{path}: {step}")]
    Path {
        /// Which.
        path: RelPath,
        /// What was to be done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Farshore's own folders.
    #[error("{step}")]
    Own {
        /// What was to be done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

type Result<T> = std::result::Result<T, ApplyPlanError>;

/// The divergences of a plan from the first, as often as they are asked for.
pub type Plan<'a> = &'a dyn Fn() -> std::result::Result<
    Box<dyn Iterator<Item = std::result::Result<Divergence, ListError>> + 'a>,
    ListError,
>;

/// A plan at one site.
struct Applying<'a, 'p, S: Storage> {
    tree: Tree<'a, S>,
    site: Site,
    plan: Plan<'p>,
    /// The versions that lose.
    kept: Arc<S::Directory>,
    /// The quarantine itself.
    quarantine: S::Directory,
    /// What is sent, or came.
    carried: Arc<S::Directory>,
    applied: Applied,
}

/// Carries a plan out at the site called production, up to what it has to send.
///
/// # Errors
/// [`ApplyPlanError`]; the same call goes on.
pub fn apply_at_production<S: Storage>(
    storage: &S,
    plan: Plan<'_>,
    folders: &Folders,
    made_unix_ms: i64,
) -> Result<Applied> {
    let mut applying = Applying::open(storage, plan, folders, Site::Production)?;
    if applying.has_moved()? {
        return Ok(applying.applied);
    }
    applying.write_manifest(made_unix_ms)?;
    for divergence in (applying.plan)()? {
        let divergence = divergence?;
        let steps = steps(&divergence);
        let path = &divergence.path;
        if steps.carry {
            let linked = applying.tree.name_aside(path, &applying.carried);
            linked.map_err(at(path, "laying it out to be sent"))?;
            applying.applied.carried += 1;
        }
        if steps.quarantine_production {
            let moved = applying.tree.move_aside(path, &applying.kept);
            moved.map_err(at(path, "moving it to the quarantine"))?;
            applying.count(divergence.production.entry.as_ref());
        }
    }
    applying.finish()
}

/// Carries a plan out at the site called recovery, where what production sent has come.
///
/// # Errors
/// [`ApplyPlanError`]; the same call goes on.
pub fn apply_at_recovery<S: Storage>(
    storage: &S,
    plan: Plan<'_>,
    folders: &Folders,
    made_unix_ms: i64,
) -> Result<Applied> {
    let mut applying = Applying::open(storage, plan, folders, Site::Recovery)?;
    if applying.has_moved()? {
        return Ok(applying.applied);
    }
    applying.write_manifest(made_unix_ms)?;
    let mut late = Vec::new();
    let mut directories = Vec::new();
    for divergence in (applying.plan)()? {
        let divergence = divergence?;
        let steps = steps(&divergence);
        if let Some(beside) = &steps.beside {
            let entry = match beside.site {
                Site::Production => divergence.production.entry.clone(),
                Site::Recovery => divergence.recovery.entry.clone(),
            };
            if let Some(entry) = entry
                && !applying.stands(&beside.path, &entry)?
            {
                applying.place(&divergence, &beside.path, &entry, &beside.source)?;
            }
        }
        if let End::Placed(source) = &steps.end
            && !applying.try_place(&divergence, &steps, source)?
        {
            late.push(divergence);
        }
    }
    // What goes: after what is copied from it.
    for divergence in (applying.plan)()? {
        let divergence = divergence?;
        if steps(&divergence).end != End::Goes {
            continue;
        }
        let path = divergence.path.clone();
        if divergence.recovery.entry.as_ref().is_some_and(|e| e.kind() == EntryKind::Directory) {
            directories.push(path);
            continue;
        }
        let moved = applying.tree.move_aside(&path, &applying.kept);
        if moved.map_err(at(&path, "moving it to the quarantine"))? {
            applying.count(divergence.recovery.entry.as_ref());
        }
        applying.applied.removed += 1;
    }
    for path in directories.iter().rev() {
        let removed = applying.tree.remove_directory(path);
        match removed.map_err(at(path, "removing it"))? {
            true => applying.applied.removed += 1,
            false => applying.applied.kept_directories += 1,
        }
    }
    // What could not be placed while something was in the way.
    for divergence in late {
        if let End::Placed(source) = &steps(&divergence).end
            && let Some(entry) = divergence.production.entry.clone()
        {
            applying.place(&divergence, &divergence.path, &entry, source)?;
        }
    }
    applying.finish()
}

fn at(path: &RelPath, step: &'static str) -> impl FnOnce(io::Error) -> ApplyPlanError {
    let path = path.clone();
    move |source| ApplyPlanError::Path { path, step, source }
}

fn own(step: &'static str) -> impl FnOnce(io::Error) -> ApplyPlanError {
    move |source| ApplyPlanError::Own { step, source }
}

impl<'a, 'p, S: Storage> Applying<'a, 'p, S> {
    fn open(storage: &'a S, plan: Plan<'p>, folders: &Folders, site: Site) -> Result<Self> {
        let open = |names: &[&[u8]]| -> io::Result<S::Directory> {
            let mut directory = storage.open_directory(storage.root(), b"")?;
            for name in names {
                directory = ensure_directory(storage, &directory, name)?;
            }
            Ok(directory)
        };
        let quarantine = format!("{}-{}", folders.epoch, folders.plan);
        let short = folders.plan.as_bytes();
        let side: &[u8] = match site {
            Site::Production => b"outgoing",
            Site::Recovery => b"incoming",
        };
        let opened = || -> io::Result<_> {
            let kept = [OWN_FOLDER, b"quarantine", quarantine.as_bytes(), b"tree"];
            Ok((
                open(&[OWN_FOLDER, b"failback", short, b"scratch"])?,
                open(&kept)?,
                open(&kept[..3])?,
                open(&[OWN_FOLDER, b"failback", short, side])?,
            ))
        };
        let (scratch, kept, quarantine, carried) =
            opened().map_err(own("opening the folders of the plan"))?;
        let (kept, carried) = (Arc::new(kept), Arc::new(carried));
        let tree = Tree {
            storage,
            scratch: Arc::new(scratch),
            chunker: None,
            degraded: Degraded::default(),
        };
        let applied = Applied::default();
        Ok(Self { tree, site, plan, kept, quarantine, carried, applied })
    }

    /// Whether anything here is neither as the plan says nor as it is to be.
    fn has_moved(&mut self) -> Result<bool> {
        for divergence in (self.plan)()? {
            let divergence = divergence?;
            let steps = steps(&divergence);
            let why = match self.site {
                Site::Production => self.moved_at_production(&divergence, &steps)?,
                Site::Recovery => self.moved_at_recovery(&divergence, &steps)?,
            };
            if let Some(why) = why {
                self.applied.moved_total += 1;
                if self.applied.moved.len() < NAMED_MAX {
                    self.applied.moved.push((divergence.path.clone(), why));
                }
            }
        }
        Ok(self.applied.moved_total > 0)
    }

    fn moved_at_production(
        &mut self,
        divergence: &Divergence,
        steps: &Steps,
    ) -> Result<Option<String>> {
        if !steps.quarantine_production && !steps.carry {
            return Ok(None);
        }
        let wanted = divergence.production.entry.as_ref();
        let now = self.now(&divergence.path, wanted)?;
        if now.as_ref() == wanted {
            return Ok(None);
        }
        // Moved aside before the call was broken off.
        if now.is_none() && steps.quarantine_production && self.is_kept(&divergence.path)? {
            return Ok(None);
        }
        Ok(Some(told(now.as_ref(), wanted)))
    }

    fn moved_at_recovery(
        &mut self,
        divergence: &Divergence,
        steps: &Steps,
    ) -> Result<Option<String>> {
        let end = match &steps.end {
            End::Stays if steps.beside.is_none() => return Ok(None),
            End::Stays => divergence.recovery.entry.as_ref(),
            End::Goes => None,
            End::Placed(_) => divergence.production.entry.as_ref(),
        };
        let wanted = divergence.recovery.entry.as_ref();
        let now = self.now(&divergence.path, wanted)?;
        let is_merge = matches!(divergence.outcome, Outcome::Merge { .. });
        if now.as_ref() == wanted
            || (now.as_ref() == end && !is_merge)
            || is_directory(now.as_ref(), wanted)
        {
            return Ok(None);
        }
        // A further name is looked at as such; a placed file differs in what the mount could not keep.
        let again = self.now(&divergence.path, end)?;
        if again.as_ref() == end
            || (self.is_kept(&divergence.path)? && !is_directory(now.as_ref(), now.as_ref()))
        {
            return Ok(None);
        }
        Ok(Some(told(now.as_ref(), wanted)))
    }

    fn now(&mut self, path: &RelPath, expected: Option<&Entry>) -> Result<Option<Entry>> {
        self.tree.now(path, expected).map_err(|e| ApplyPlanError::Path {
            path: path.clone(),
            step: "looking at it",
            source: io::Error::other(crate::ingest::describe(&e)),
        })
    }

    fn stands(&mut self, path: &RelPath, entry: &Entry) -> Result<bool> {
        Ok(self.now(path, Some(entry))?.as_ref() == Some(entry))
    }

    fn is_kept(&self, path: &RelPath) -> Result<bool> {
        let found = self.tree.parent(&self.kept, path).and_then(|(directory, name)| {
            self.tree.storage.stat(crate::io::Object::Named(&directory, &name))
        });
        match found {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(at(path, "looking for it in the quarantine")(e)),
        }
    }

    /// Step 2.
    fn write_manifest(&mut self, made_unix_ms: i64) -> Result<()> {
        const NAME: &[u8] = b"manifest";
        const BESIDE: &[u8] = b"manifest.new";
        let storage = self.tree.storage;
        remove_tree(storage, &self.quarantine, BESIDE).map_err(own("writing the manifest"))?;
        let file = storage.create_file(&self.quarantine, BESIDE);
        let file = file.map_err(own("making the manifest"))?;
        let mut offset = 0;
        let mut put = |text: &str| -> Result<()> {
            storage
                .write_at(&file, offset, text.as_bytes())
                .map_err(own("writing the manifest"))?;
            offset += text.len() as u64;
            Ok(())
        };
        put(&format!(
            "# versions that a failback moved aside at {made_unix_ms} ms since 1970 UTC; each line: path, size, \
             digest, class, outcome, why\n# to restore one: copy tree/PATH to PATH\n"
        ))?;
        for divergence in (self.plan)()? {
            let divergence = divergence?;
            let steps = steps(&divergence);
            let (is_kept, entry) = match self.site {
                Site::Production => (steps.quarantine_production, &divergence.production.entry),
                Site::Recovery => (steps.quarantine_recovery, &divergence.recovery.entry),
            };
            let Some(entry) = entry.as_ref().filter(|_| is_kept) else { continue };
            let mut line = String::new();
            let digest = entry.content().map_or_else(|| "-".into(), ToString::to_string);
            let why = farshore_core::path::escape_text(divergence.why());
            let (path, class) = (&divergence.path, divergence.class);
            let outcome = outcome_name(&divergence.outcome);
            // Writing to a string does not fail.
            writeln!(line, "{path}\t{}\t{digest}\t{class}\t{outcome}\t{why}", entry.size())
                .unwrap_or(());
            put(&line)?;
        }
        let done = storage
            .sync_file(&file)
            .and_then(|()| storage.rename(&self.quarantine, BESIDE, &self.quarantine, NAME))
            .and_then(|()| storage.sync_directory(&self.quarantine));
        done.map_err(own("making the manifest durable"))
    }

    /// Places what wins at its path, and keeps what was there; false when something in the way is to go first.
    fn try_place(
        &mut self,
        divergence: &Divergence,
        steps: &Steps,
        source: &Source,
    ) -> Result<bool> {
        let path = &divergence.path;
        let Some(entry) = divergence.production.entry.clone() else { return Ok(true) };
        if *source != Source::Merged && self.stands(path, &entry)? {
            return Ok(true);
        }
        if let (true, Some(recovery)) = (steps.quarantine_recovery, &divergence.recovery.entry) {
            let is_kept = self.is_kept(path)?;
            let kept = if is_kept { Ok(()) } else { self.tree.keep(path, recovery, &self.kept) };
            kept.map_err(at(path, "keeping it in the quarantine"))?;
            if !is_kept {
                self.count(Some(recovery));
            }
        }
        match self.place(divergence, path, &entry, source) {
            Ok(()) => Ok(true),
            Err(ApplyPlanError::Path { source, .. }) if is_in_the_way(&source) => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn place(
        &mut self,
        divergence: &Divergence,
        path: &RelPath,
        entry: &Entry,
        source: &Source,
    ) -> Result<()> {
        let carried = Arc::clone(&self.carried);
        let storage = self.tree.storage;
        let done = match source {
            Source::Entry => self.tree.place_node(path, entry),
            Source::Link(first) => self.tree.place_link(first, path),
            Source::Recovery(from) => {
                // What went meanwhile is in the quarantine.
                match self.tree.place_copy(storage.root(), from, path, entry) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {
                        let kept = Arc::clone(&self.kept);
                        self.tree.place_copy(&kept, from, path, entry)
                    }
                    done => done,
                }
            }
            Source::Carried => self.tree.place_copy(&carried, &divergence.path, path, entry),
            Source::Merged => self.merge(divergence, path),
        };
        done.map_err(at(path, "placing it"))?;
        self.applied.placed += 1;
        Ok(())
    }

    /// Puts a file together from the versions.
    fn merge(&mut self, divergence: &Divergence, path: &RelPath) -> io::Result<()> {
        let Outcome::Merge { attributes, pieces } = &divergence.outcome else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let side = |site: &Site| match site {
            Site::Production => divergence.production.entry.as_ref(),
            Site::Recovery => divergence.recovery.entry.as_ref(),
        };
        let Some(entry) = side(attributes).cloned() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let mut parts = Vec::new();
        for piece in pieces {
            parts.push(match piece {
                Piece::Literal(bytes) => Part::Literal(bytes),
                Piece::Copy { side: Side::Production, offset, length } => {
                    Part::Copy(Arc::clone(&self.carried), *offset, *length)
                }
                Piece::Copy { side: Side::Recovery, offset, length } => {
                    Part::Copy(Arc::clone(&self.kept), *offset, *length)
                }
                // Only the two sites' own versions are at hand.
                Piece::Copy { side: Side::Base, .. } => {
                    return Err(io::Error::other("the version of the base is not kept here"));
                }
            });
        }
        self.tree.place_merged(&divergence.path, path, &entry, &parts)
    }

    fn count(&mut self, entry: Option<&Entry>) {
        self.applied.quarantined += 1;
        let size = entry.map_or(0, Entry::size);
        self.applied.quarantined_bytes = self.applied.quarantined_bytes.saturating_add(size);
    }

    fn finish(self) -> Result<Applied> {
        self.tree.storage.sync_all().map_err(own("making it durable"))?;
        Ok(self.applied)
    }
}

/// A piece of a merged file.
pub(super) enum Part<'b, D> {
    Literal(&'b [u8]),
    /// Bytes of the version at the divergence's path below this directory.
    Copy(Arc<D>, u64, u64),
}

fn is_directory(one: Option<&Entry>, other: Option<&Entry>) -> bool {
    let is = |entry: Option<&Entry>| entry.is_some_and(|e| e.kind() == EntryKind::Directory);
    is(one) && is(other)
}

fn is_in_the_way(e: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(e.kind(), K::IsADirectory | K::NotADirectory | K::DirectoryNotEmpty | K::AlreadyExists)
}

fn told(now: Option<&Entry>, wanted: Option<&Entry>) -> String {
    let of = |entry: Option<&Entry>| match entry {
        None => "nothing".to_owned(),
        Some(entry) => format!("{} of {} bytes", entry.kind(), entry.size()),
    };
    match (now, wanted) {
        (Some(now), Some(wanted)) if now.same_but_metadata(wanted) => {
            "its owner, mode, time or attributes changed since the plan".into()
        }
        _ => format!("{} stands there, the plan was made with {}", of(now), of(wanted)),
    }
}

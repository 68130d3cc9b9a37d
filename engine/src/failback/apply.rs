//! Carrying a plan out at one site.
//!
//! The procedure, at each site:
//!
//! 1. Every path the plan touches here is looked at, by content: it is as the plan says, or already as it is to
//!    be. Is one neither, nothing is done and all such are named: the site moved since the plan. A plan with a merge
//!    that needs bytes nobody keeps, or with content that did not come, is refused.
//! 2. The manifest of the quarantine is written whole: what will be in it, why, and where it was. It is durable,
//!    with its folders, before anything moves; that it is there says that the plan was begun.
//! 3. At production: what wins gets a further name in `outgoing`; what loses is renamed into the quarantine.
//!    At recovery: what is to be replaced gets a further name in the quarantine, or the new name that it keeps.
//!    Then all that wins is made beside, each under a name of its own, and compared with the plan's content; further
//!    names are made of what waits there. What is not at hand any more is named, and nothing is placed before it came
//!    ([`lay_out_wanted`]). All that is made durable, and then said so: from there on nothing is made, and what waits
//!    no more is done. It is placed, each by one call that takes its name beside away, directories before what is in
//!    them; then what goes is renamed into the quarantine, directories
//!    last, from the deepest up; then what something was in the way of is placed.
//! 4. All of it is synced. Versions in the quarantine that share their inode with a live path become files of
//!    their own; at production only when recovery has done its part ([`close_at_production`]), so that until
//!    then what was moved can go back as it was.
//!
//! [`check_at`] is step 1 alone. [`undo_at_production`] takes production's part back: every version in the quarantine
//! goes to its path again, durably, before what was laid out and the manifest are removed; what somebody has put at
//! such a path meanwhile stays, and the version stays in the quarantine. [`abandon_at_recovery`] lets go of the plan;
//! what was placed or kept there stays. Both can be done again, and after a crash within them the plan can go on as
//! well.
//!
//! Guarantees: nothing is deleted: a version that leaves its path is in the quarantine first, durably. A live path
//! has its former or its new version at every moment, but where a file becomes a directory or a directory a file.
//! After a crash at any point the same call goes on: what is done is known by its state. What was placed at recovery is
//! not placed again, whatever services did with it since; after a power cut, what the file system says was not placed.
//! What that costs is two syncs of the file system more, and none for each path.
//!
//! At recovery services work meanwhile. A file that is kept is kept by a further name and not by a copy, so that
//! what is written to it until it is replaced, and by whoever has it open afterwards, is in the quarantine. What
//! somebody put at a path after it was looked at is not replaced and not moved: it stays, and is named as late;
//! production's version is then in production's history. Content is never copied into place over a live file whose
//! content stays: its owner, mode, time and attributes are changed where it is.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io;
use std::sync::Arc;

use farshore_core::conflict::{Outcome, Piece, Side, Site};
use farshore_core::entry::{Entry, EntryKind};
use farshore_core::failback::action::{End, Source, Steps, steps};
use farshore_core::failback::{Divergence, ListError, outcome_name};
use farshore_core::path::RelPath;

use super::place::{Put, Tree, is_gone};
use crate::OWN_FOLDER;
use crate::io::{Object, Storage};
use crate::metadata::Degraded;
use crate::own_folder::{ensure_directory, remove_tree};

mod recovery;
mod undo;

pub use recovery::apply_at_recovery;
pub use undo::{Undone, abandon_at_recovery, undo_at_production};

/// The name of what says what is in a quarantine.
const MANIFEST: &[u8] = b"manifest";
/// Its name until it is whole.
const BESIDE: &[u8] = b"manifest.new";
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

    /// What is of use until the plan is carried out, below the tree's root.
    #[must_use]
    pub fn below_failback(&self) -> String {
        format!(".farshore/failback/{}", self.plan)
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

/// What was done at one site, by this call and those before it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Whether a call before this one began with it.
    pub is_begun: bool,
    /// Paths that are not what the plan says any more, the first of them: this call did nothing then.
    pub moved: Vec<(RelPath, String)>,
    /// How many there are.
    pub moved_total: u64,
    /// Versions in the quarantine.
    pub quarantined: u64,
    /// Bytes of them.
    pub quarantined_bytes: u64,
    /// Files laid out to be sent.
    pub carried: u64,
    /// Paths at which production's version was to be, or a new one, and is.
    pub placed: u64,
    /// Paths at which nothing was to be, and is.
    pub removed: u64,
    /// Directories that stay since something is in them.
    pub kept_directories: u64,
    /// Paths at which somebody put something else while the plan was carried out, the first of them: that stays.
    pub late: Vec<RelPath>,
    /// How many there are.
    pub late_total: u64,
    /// Paths of the plan whose content is not at hand at recovery any more, though it was to be copied there: nothing
    /// is placed until production sent it.
    pub wanting: Vec<RelPath>,
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
    /// A merge copies from the common point, of which no site keeps the bytes.
    #[error(
        "{path}: it is to be merged from the version of the common point, which is kept nowhere: decide it again"
    )]
    Merge {
        /// Which.
        path: RelPath,
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
    /// The quarantine itself.
    quarantine: S::Directory,
    /// What is sent, or came.
    carried: Arc<S::Directory>,
    /// Whether an earlier call moved something, or may have.
    is_begun: bool,
    /// Paths that somebody else has now.
    late: HashSet<RelPath>,
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
    applying.check_merges()?;
    if applying.has_moved()? {
        return Ok(applying.applied);
    }
    applying.write_manifest(made_unix_ms)?;
    for divergence in (applying.plan)()? {
        let divergence = divergence?;
        let steps = steps(&divergence);
        let path = &divergence.path;
        if steps.carry {
            let laid = applying.tree.lay_out(path, &applying.carried);
            laid.map_err(at(path, "laying it out to be sent"))?;
            applying.applied.carried += 1;
        }
        if steps.quarantine_production {
            let moved = applying.tree.move_aside(path);
            if moved.map_err(at(path, "moving it to the quarantine"))? == Put::Late {
                applying.is_late(path);
            }
        }
    }
    applying.finish()
}

/// Lays out at production what recovery wants besides ([`Applied::wanting`]): of `wanted`, what the plan has copied
/// there and is at its path here, with the plan's content. Is anything else there, nothing is laid out, and it is named
/// as moved.
///
/// # Errors
/// [`ApplyPlanError`]; the same call goes on.
pub fn lay_out_wanted<S: Storage>(
    storage: &S,
    plan: Plan<'_>,
    folders: &Folders,
    wanted: &HashSet<RelPath>,
) -> Result<Applied> {
    let mut applying = Applying::open(storage, plan, folders, Site::Production)?;
    let mut paths = Vec::new();
    for divergence in (applying.plan)()? {
        let divergence = divergence?;
        let path = &divergence.path;
        if !wanted.contains(path) || !is_copied_at_recovery(&steps(&divergence)) {
            continue;
        }
        let entry = divergence.production.entry.as_ref();
        let now = applying.now(path, entry)?;
        match now.as_ref().zip(entry) {
            Some((now, entry)) if now.same_but_metadata(entry) => paths.push(path.clone()),
            _ => applying.has_moved_here(path, told(now.as_ref(), entry)),
        }
    }
    if applying.applied.moved_total > 0 {
        return Ok(applying.applied);
    }
    for path in &paths {
        let laid = applying.tree.lay_out(path, &applying.carried);
        laid.map_err(at(path, "laying it out to be sent"))?;
        applying.applied.carried += 1;
    }
    storage.sync_all().map_err(own("making it durable"))?;
    Ok(applying.applied)
}

/// Step 1 alone: whether the site called `site` is as the plan says. Where recovery began, its part goes on whatever
/// moved.
///
/// # Errors
/// [`ApplyPlanError`].
pub fn check_at<S: Storage>(
    storage: &S,
    plan: Plan<'_>,
    folders: &Folders,
    site: Site,
) -> Result<Applied> {
    let mut applying = Applying::open(storage, plan, folders, site)?;
    applying.check_merges()?;
    if site == Site::Production || !applying.is_begun {
        applying.has_moved()?;
    }
    if !applying.is_begun {
        applying.forget_folders(folders)?;
    }
    Ok(applying.applied)
}

/// Step 4 at production, when recovery has done its part: versions in the quarantine become files of their own.
///
/// # Errors
/// [`ApplyPlanError`]; the same call goes on.
pub fn close_at_production<S: Storage>(
    storage: &S,
    plan: Plan<'_>,
    folders: &Folders,
) -> Result<()> {
    let mut applying = Applying::open(storage, plan, folders, Site::Production)?;
    if !applying.is_begun {
        return applying.forget_folders(folders);
    }
    applying.detach_all()
}

/// Whether a plan was begun at this site, and not undone.
///
/// # Errors
/// [`ApplyPlanError::Own`].
pub fn is_begun<S: Storage>(storage: &S, folders: &Folders) -> Result<bool> {
    let looked = storage
        .open_directory(storage.root(), folders.quarantine().as_bytes())
        .and_then(|quarantine| storage.stat(Object::Named(&quarantine, MANIFEST)));
    match looked {
        Ok(_) => Ok(true),
        Err(e) if is_gone(&e) => Ok(false),
        Err(e) => Err(own("looking for the manifest")(e)),
    }
}

/// Takes away what was laid out at this site for plans, or came, of one that was superseded as well: a share has one
/// plan under way. Their quarantines stay.
///
/// # Errors
/// [`ApplyPlanError::Own`].
pub fn drop_laid_out<S: Storage>(storage: &S) -> Result<()> {
    let own_folder = storage.open_directory(storage.root(), b".farshore");
    own_folder
        .and_then(|at| remove_tree(storage, &at, b"failback"))
        .map_err(own("taking away what was sent"))
}

/// Whether any plan was begun at this site, and not undone.
///
/// # Errors
/// [`ApplyPlanError::Own`].
pub fn has_quarantine<S: Storage>(storage: &S) -> Result<bool> {
    let looked = || -> io::Result<bool> {
        let mut names = Vec::new();
        let all = storage.open_directory(storage.root(), b".farshore/quarantine")?;
        storage.list(&all, &mut |listed| names.push(listed.name.to_vec()))?;
        for name in names {
            let is_there = storage
                .open_directory(&all, &name)
                .and_then(|at| storage.stat(Object::Named(&at, MANIFEST)));
            match is_there {
                Ok(_) => return Ok(true),
                Err(e) if is_gone(&e) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(false)
    };
    match looked() {
        Err(e) if is_gone(&e) => Ok(false),
        looked => looked.map_err(own("looking for quarantines")),
    }
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
            let quarantine = open(&kept[..3])?;
            let is_begun = match storage.stat(Object::Named(&quarantine, MANIFEST)) {
                Ok(_) => true,
                Err(e) if e.kind() == io::ErrorKind::NotFound => false,
                Err(e) => return Err(e),
            };
            let tree = Tree {
                storage,
                scratch: Arc::new(open(&[OWN_FOLDER, b"failback", short, b"scratch"])?),
                pending: Arc::new(open(&[OWN_FOLDER, b"failback", short, b"pending"])?),
                kept: Arc::new(open(&kept)?),
                unplanned: Arc::new(open(&[kept[0], kept[1], kept[2], b"unplanned"])?),
                chunker: None,
                degraded: Degraded::default(),
            };
            tree.recover()?;
            let carried = Arc::new(open(&[OWN_FOLDER, b"failback", short, side])?);
            Ok((tree, quarantine, is_begun, carried))
        };
        let (tree, quarantine, is_begun, carried) =
            opened().map_err(own("opening the folders of the plan"))?;
        let (late, applied) = (HashSet::new(), Applied { is_begun, ..Applied::default() });
        Ok(Self { tree, site, plan, quarantine, carried, is_begun, late, applied })
    }

    /// Whether every merge can be put together.
    fn check_merges(&self) -> Result<()> {
        for divergence in (self.plan)()? {
            let Divergence { path, outcome, .. } = divergence?;
            if let Outcome::Merge { pieces, .. } = outcome
                && pieces.iter().any(|p| matches!(p, Piece::Copy { side: Side::Base, .. }))
            {
                return Err(ApplyPlanError::Merge { path });
            }
        }
        Ok(())
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
                self.has_moved_here(&divergence.path, why);
            }
        }
        Ok(self.applied.moved_total > 0)
    }

    fn has_moved_here(&mut self, path: &RelPath, why: String) {
        self.applied.moved_total += 1;
        if self.applied.moved.len() < NAMED_MAX {
            self.applied.moved.push((path.clone(), why));
        }
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
        // Moved aside, or its first name was, before the call was broken off.
        let is_moved = match &now {
            None => steps.quarantine_production && self.is_kept(&divergence.path)?,
            Some(_) => self.is_former_name(&divergence.path, wanted)?,
        };
        Ok((!is_moved).then(|| told(now.as_ref(), wanted)))
    }

    fn now(&mut self, path: &RelPath, expected: Option<&Entry>) -> Result<Option<Entry>> {
        self.tree.now(path, expected).map_err(|e| ApplyPlanError::Path {
            path: path.clone(),
            step: "looking at it",
            source: io::Error::other(crate::ingest::describe(&e)),
        })
    }

    fn is_kept(&self, path: &RelPath) -> Result<bool> {
        let found = self.tree.stat(&self.tree.kept, path);
        Ok(found.map_err(at(path, "looking for it in the quarantine"))?.is_some())
    }

    /// Whether what stands at `path` is a further name of what the plan says it is one of, and that was moved
    /// to the quarantine or replaced.
    fn is_former_name(&self, path: &RelPath, wanted: Option<&Entry>) -> Result<bool> {
        let Some(Entry::HardLink { leader }) = wanted else { return Ok(false) };
        let inodes = || -> io::Result<_> {
            let there = self.tree.inode(self.tree.storage.root(), path)?;
            Ok((there, self.tree.inode(&self.tree.kept, leader)?))
        };
        let (there, kept) = inodes().map_err(at(path, "looking at its first name"))?;
        Ok(there.is_some() && there == kept)
    }

    /// Somebody else has the path now: it stays.
    fn is_late(&mut self, path: &RelPath) {
        if self.late.insert(path.clone()) {
            self.applied.late_total += 1;
            if self.applied.late.len() < NAMED_MAX {
                self.applied.late.push(path.clone());
            }
        }
    }

    /// Step 2.
    fn write_manifest(&mut self, made_unix_ms: i64) -> Result<()> {
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
            .and_then(|()| storage.rename(&self.quarantine, BESIDE, &self.quarantine, MANIFEST))
            // With the folders it is in, and those of the versions.
            .and_then(|()| storage.sync_all());
        done.map_err(own("making the manifest durable"))
    }

    fn count(&mut self, entry: Option<&Entry>) {
        self.applied.quarantined += 1;
        let size = entry.map_or(0, Entry::size);
        self.applied.quarantined_bytes = self.applied.quarantined_bytes.saturating_add(size);
    }

    /// Step 4, and what all calls came to.
    fn finish(mut self) -> Result<Applied> {
        self.tree.storage.sync_all().map_err(own("making it durable"))?;
        for divergence in (self.plan)()? {
            let divergence = divergence?;
            let steps = steps(&divergence);
            let path = &divergence.path;
            let (is_kept, entry) = match self.site {
                Site::Production => (steps.quarantine_production, &divergence.production.entry),
                Site::Recovery => (steps.quarantine_recovery, &divergence.recovery.entry),
            };
            if is_kept && self.is_kept(path)? {
                self.count(entry.as_ref());
            }
            if self.site == Site::Recovery {
                self.count_ends(&divergence, &steps)?;
            }
        }
        if self.site == Site::Recovery {
            self.detach_all()?;
        }
        Ok(self.applied)
    }

    fn count_ends(&mut self, divergence: &Divergence, steps: &Steps) -> Result<()> {
        let path = &divergence.path;
        match &steps.end {
            End::Stays => {}
            End::Placed(_) => self.applied.placed += u64::from(!self.late.contains(path)),
            End::Goes => {
                let there = self.tree.stat(self.tree.storage.root(), path);
                let there = there.map_err(at(path, "looking at it"))?;
                self.applied.removed += u64::from(there.is_none());
            }
        }
        if let Some(beside) = &steps.beside {
            self.applied.placed += u64::from(!self.late.contains(&beside.path));
        }
        Ok(())
    }

    /// A version becomes a file of its own after nothing relies on its inode any more.
    fn detach_all(&mut self) -> Result<()> {
        let storage = self.tree.storage;
        let mut is_detached = false;
        for divergence in (self.plan)()? {
            let divergence = divergence?;
            let steps = steps(&divergence);
            let is_kept = match self.site {
                Site::Production => steps.quarantine_production,
                Site::Recovery => steps.quarantine_recovery,
            };
            if !is_kept {
                continue;
            }
            let path = &divergence.path;
            let detached = self.tree.detach(path);
            is_detached |= detached.map_err(at(path, "making its version a file of its own"))?;
        }
        if is_detached {
            storage.sync_all().map_err(own("making it durable"))?;
        }
        Ok(())
    }

    /// Takes the folders of a plan away in which nothing is; there is no manifest that is whole.
    fn forget_folders(&self, folders: &Folders) -> Result<()> {
        let storage = self.tree.storage;
        remove_tree(storage, &self.quarantine, BESIDE).map_err(own("removing half a manifest"))?;
        let (failback, quarantine) = (folders.below_failback(), folders.quarantine());
        let forgotten = || -> io::Result<()> {
            for (above, names) in [
                (failback.as_str(), &["scratch", "pending", "outgoing", "incoming"][..]),
                (".farshore/failback", &[folders.plan.as_str()]),
                (quarantine.as_str(), &["tree", "unplanned"]),
                (".farshore/quarantine", &[quarantine.rsplit('/').next().unwrap_or_default()]),
            ] {
                let above = match storage.open_directory(storage.root(), above.as_bytes()) {
                    Ok(above) => above,
                    Err(e) if is_gone(&e) => continue,
                    Err(e) => return Err(e),
                };
                for name in names {
                    match storage.remove_directory(&above, name.as_bytes()) {
                        Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                        Err(e) if is_gone(&e) => {}
                        done => done?,
                    }
                }
            }
            Ok(())
        };
        forgotten().map_err(own("taking the folders of the plan away"))
    }
}

/// Whether production's content is copied from what recovery has.
fn is_copied_at_recovery(steps: &Steps) -> bool {
    let beside = steps.beside.as_ref().filter(|beside| beside.site == Site::Production);
    let beside = beside.is_some_and(|beside| matches!(beside.source, Source::Recovery(_)));
    beside || matches!(steps.end, End::Placed(Source::Recovery(_)))
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

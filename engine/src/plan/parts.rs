//! A plan of some directories: what a standing session makes of the events it heard.
//!
//! Guarantees: what a whole plan would say of what lies in these directories, at a cost in proportion to
//! that; the rest of the tree is not looked at but for the ways to them, the rest of the catalog not
//! read. A directory that turns out new or replaced is looked at deep; what is gone is concluded from
//! the listing of the directory it was in. Where the answer lies outside of what is looked at, because
//! an inode has names nobody asked for, there is none: [`PartialPlan::Whole`].
//!
//! What was deferred, or could not be read, must be asked for again, deep: no event will say so.

use std::collections::BTreeMap;
use std::path::Path;

use farshore_core::entry::EntryKind;
use farshore_core::path::{PathParts, RelPath};
use farshore_core::policy::{Action, Policy, Verdict};

use super::join::Join;
use super::ways::Ways;
use super::windows::{Keys, Met, Sight, Windows};
use super::{PROGRESS_STEP, Plan, PlanError, Planner};
use crate::catalog::{CatalogReader, LocalFacts, Record};
use crate::io::{FileKind, Object, Stat, Storage};
use crate::scan::{ScanEvent, Tree, scan_below, scan_children};

/// A directory to be looked at. One that was made is asked for itself, not its parent alone: its inode
/// may have the number of one that was there before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Where.
    pub directory: RelPath,
    /// It and all below; else it and its direct children.
    pub deep: bool,
}

/// Directories to be looked at: in catalog order, each once, none below a deep one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scope(Vec<Part>);

impl Scope {
    /// A scope of these directories.
    pub fn new(parts: impl IntoIterator<Item = Part>) -> Self {
        let mut all: BTreeMap<RelPath, bool> = BTreeMap::new();
        for Part { directory, deep } in parts {
            *all.entry(directory).or_default() |= deep;
        }
        let is_below_deep = |path: &RelPath| {
            let mut at = path.clone();
            while let Some((parent, _)) = at.split() {
                if all.get(&parent) == Some(&true) {
                    return true;
                }
                at = parent;
            }
            false
        };
        let left = all.iter().filter(|(path, _)| !is_below_deep(path));
        Self(left.map(|(path, &deep)| Part { directory: path.clone(), deep }).collect())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The directories.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.0
    }

    /// Whether an entry of that path is looked at. More may be: what lies below a directory that turns out
    /// new, and the nearest directory that is there instead of one that is gone.
    #[must_use]
    pub fn covers(&self, path: &RelPath) -> bool {
        let part = |path: &RelPath| {
            let at = self.0.binary_search_by(|part| part.directory.cmp(path)).ok()?;
            self.0.get(at)
        };
        if part(path).is_some() {
            return true;
        }
        let (mut at, mut is_parent) = (path.clone(), true);
        while let Some((parent, _)) = at.split() {
            if part(&parent).is_some_and(|part| part.deep || is_parent) {
                return true;
            }
            (at, is_parent) = (parent, false);
        }
        false
    }
}

/// What a plan of parts comes to.
#[derive(Debug)]
pub enum PartialPlan {
    /// All there is to do in them.
    Plan(Box<Plan>),
    /// It cannot be told from these parts, and why: a whole plan is to be made.
    Whole(&'static str),
}

/// An inode with several names is new, or changed.
const SHARED: &str = "an inode with several names changed";
/// The first name of one is gone, excluded, or another inode now.
const FIRST_NAME: &str = "the first of several names of an inode is gone";

/// What a join needs for a plan of parts.
pub(super) struct Partial<'a, S: Storage> {
    windows: Windows,
    ways: Ways<'a, S>,
    /// The window at hand shows a directory or its direct children: what turns out changed below is not in
    /// it.
    is_shallow: bool,
    /// Why it cannot be told.
    whole: Option<&'static str>,
}

/// Why a window was left before its end.
enum Stop {
    Error(PlanError),
    Whole,
}

impl<S: Storage> Planner<'_, S> {
    /// Joins what stands in the directories of `scope` with their records, on this thread; what is looked
    /// at deep is read by all threads.
    ///
    /// # Errors
    /// [`PlanError`]; what goes wrong in the tree is a [`super::Problem`].
    pub fn parts(
        &self,
        scope: &Scope,
        progress: &mut dyn FnMut(u64),
    ) -> Result<PartialPlan, PlanError> {
        let Self { storage, policy, own, catalog, .. } = *self;
        let root = match storage.stat(Object::Directory(storage.root())) {
            Ok(root) => root,
            Err(source) => {
                // Nothing is concluded, in no part.
                let mut join = Join::new(self, catalog.rows_between(&[], Some(&[]))?, None)?;
                let path = RelPath::root();
                join.handle(ScanEvent::Unknown { path, step: "looking at it", source })?;
                let mut plan = join.finish();
                plan.tally.found = plan.tally.known;
                plan.looked = Some(Windows::default());
                return Ok(PartialPlan::Plan(Box::new(plan)));
            }
        };
        let tree = || Tree { storage, policy, own, device: root.device };
        let mut ways = Ways::new(tree(), root, catalog);
        let mut windows = Windows::default();
        for part in scope.parts() {
            ways.open_windows(part, &mut windows)?;
        }
        windows.settle();
        let partial = Partial { windows, ways, is_shallow: false, whole: None };
        let mut join = Join::new(self, catalog.rows_between(&[], Some(&[]))?, Some(partial))?;
        let mut at: Option<Vec<u8>> = None;
        let mut is_root_listed = false;
        while let Some(((from, to), sight)) = join.next_window(at.as_deref()) {
            is_root_listed |=
                matches!(&sight, Sight::Children(at) | Sight::Below(at) if at.is_root());
            join.rows = catalog.rows_between(&from, to.as_deref())?;
            match self.look_through(&tree(), sight, &mut join, progress) {
                Ok(()) => join.finish_rows()?,
                Err(Stop::Whole) => {}
                Err(Stop::Error(error)) => return Err(error),
            }
            if let Some(why) = join.partial.as_ref().and_then(|partial| partial.whole) {
                // Those of the whole plan are those that count.
                drop(policy.take_faults());
                return Ok(PartialPlan::Whole(why));
            }
            at = Some(from);
        }
        progress(join.met);
        Ok(PartialPlan::Plan(Box::new(join.finish_parts(is_root_listed))))
    }

    /// Joins what the tree shows in one window.
    fn look_through(
        &self,
        tree: &Tree<'_, S>,
        sight: Sight,
        join: &mut Join<'_, S>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Stop> {
        if let Some(partial) = &mut join.partial {
            partial.is_shallow = matches!(sight, Sight::Entry(..) | Sight::Children(_));
        }
        let mut held = None;
        let mut visit = |event: ScanEvent<'_>| {
            join.handle(event).map_err(Stop::Error)?;
            if join.met.is_multiple_of(PROGRESS_STEP) {
                progress(join.met);
            }
            match &join.partial {
                Some(partial) if partial.whole.is_some() => Err(Stop::Whole),
                _ => Ok(()),
            }
        };
        match sight {
            Sight::Entry(path, met) => match met {
                Met::Entry(stat) => visit(ScanEvent::Entry { path: path.parts(), stat: &stat }),
                Met::Excluded(verdict) => {
                    visit(ScanEvent::Excluded { path, is_directory: true, verdict })
                }
                Met::Unknown(step, source) => visit(ScanEvent::Unknown { path, step, source }),
            }?,
            Sight::Children(directory) => scan_children(tree, &directory, &mut visit)?,
            Sight::Below(directory) => {
                held = Some(scan_below(tree, self.threads, &directory, &mut visit)?);
            }
            Sight::Gone => {}
        }
        if let Some(held) = held {
            join.plan.held = join.plan.held.max(held);
        }
        Ok(())
    }
}

impl<S: Storage> Join<'_, S> {
    fn next_window(&mut self, after: Option<&[u8]>) -> Option<(Keys, Sight)> {
        self.partial.as_mut()?.windows.next(after)
    }

    fn finish_parts(mut self, is_root_listed: bool) -> Plan {
        let looked = self.partial.take().map(|partial| partial.windows);
        let tally = &mut self.plan.tally;
        tally.found = if is_root_listed && !self.is_root_filled {
            0
        } else {
            let lost = tally.deleted.saturating_add(self.moved_away);
            let found = tally.known.saturating_add(self.created).saturating_sub(lost);
            // Something was seen to be there, whatever changed between two looks.
            found.max(u64::from(self.met > 0))
        };
        let mut plan = self.finish();
        plan.looked = looked;
        plan
    }

    /// What was met at `path` says nothing of what was to be looked at below.
    pub(super) fn cut_below(&mut self, path: &RelPath) {
        if let Some(partial) = self.partial.as_mut().filter(|partial| partial.is_shallow) {
            partial.windows.cut(path);
        }
    }

    /// All below `path` is to be looked at too, or is gone.
    pub(super) fn open_below(&mut self, path: &RelPath, is_there: bool) {
        if let Some(partial) = self.partial.as_mut().filter(|partial| partial.is_shallow) {
            partial.windows.open_below(path, is_there);
        }
    }

    /// The target keeps the directory `path` by that verdict: what that means for what is recorded below,
    /// unless it was so before.
    pub(super) fn look_below_kept(
        &mut self,
        path: &RelPath,
        verdict: Verdict,
    ) -> Result<(), PlanError> {
        if !self.partial.as_ref().is_some_and(|partial| partial.is_shallow) || verdict.is_fault {
            return Ok(());
        }
        let detached = self.catalog.detached_at(path)?;
        let is_as_before = match verdict.action {
            Action::Exclude => detached
                .is_some_and(|detached| self.rules.get(&detached.rule) == Some(&verdict.rule)),
            _ => detached.is_none(),
        };
        let (from, to) = path.descendants_key_range();
        let has_below = self.catalog.detached_between(&from, to.as_deref())?.next().transpose()?;
        if !is_as_before || has_below.is_some() {
            self.open_below(path, false);
        }
        Ok(())
    }

    /// An entry is not as it was recorded: whether all below is another's.
    pub(super) fn below_changed(
        &mut self,
        path: &RelPath,
        stat: &Stat,
        known: Option<(Option<LocalFacts>, EntryKind)>,
    ) -> Result<(), PlanError> {
        let was_directory = known.is_some_and(|(_, kind)| kind == EntryKind::Directory);
        let is_directory = stat.kind == FileKind::Directory;
        let inode = known.and_then(|(facts, _)| facts).map(|facts| facts.inode);
        match (was_directory, is_directory) {
            (true, true)
                if inode == Some(stat.inode) && !self.travels_again(path.parts(), stat)? => {}
            (_, true) => self.open_below(path, true),
            (true, false) => self.open_below(path, false),
            (false, false) => self.cut_below(path),
        }
        Ok(())
    }

    /// Whether a directory was excluded when it was last looked at: nobody looked at what changed below.
    pub(super) fn travels_again(
        &self,
        path: PathParts<'_>,
        stat: &Stat,
    ) -> Result<bool, PlanError> {
        let is_asked = stat.kind == FileKind::Directory
            && !self.policy.is_trivial()
            && self.partial.as_ref().is_some_and(|partial| partial.is_shallow);
        Ok(is_asked && self.catalog.detached_at(&path.to_path())?.is_some())
    }

    /// An entry that is no directory is new, or not as it was recorded: whether names nobody looks at
    /// depend on that.
    pub(super) fn names_changed(
        &mut self,
        path: &RelPath,
        stat: &Stat,
        record: Option<&Record>,
    ) -> Result<(), PlanError> {
        if self.partial.is_none() || stat.kind == FileKind::Directory {
            return Ok(());
        }
        // What becomes of one name of an inode with several depends on all of them, and so it does where
        // the records know of several.
        let was_further = record.is_some_and(|r| r.entry.kind() == EntryKind::HardLink);
        if stat.links > 1 || was_further || self.catalog.is_first_name(path)? {
            self.needs_whole(SHARED);
        }
        Ok(())
    }

    /// A record goes, or becomes another inode's: whether others name it as the first of theirs.
    pub(super) fn loses_first_name(
        &mut self,
        path: &RelPath,
        kind: EntryKind,
    ) -> Result<(), PlanError> {
        let may_be = !matches!(kind, EntryKind::Directory | EntryKind::HardLink);
        if may_be && self.partial.is_some() && self.catalog.is_first_name(path)? {
            self.needs_whole(FIRST_NAME);
        }
        Ok(())
    }

    /// A record is excluded now: further names of its inode may be too, wherever they are.
    pub(super) fn name_excluded(
        &mut self,
        path: &RelPath,
        kind: EntryKind,
    ) -> Result<(), PlanError> {
        self.loses_first_name(path, kind)?;
        let is_further = kind == EntryKind::HardLink && self.partial.is_some();
        if is_further && self.catalog.detached_at(path)?.is_none() {
            self.needs_whole(SHARED);
        }
        Ok(())
    }

    fn needs_whole(&mut self, why: &'static str) {
        if let Some(partial) = &mut self.partial {
            partial.whole = Some(why);
        }
    }

    /// Whether `path` is looked at in this plan.
    pub(super) fn is_looked_at(&self, path: &RelPath) -> bool {
        self.partial.as_ref().is_none_or(|partial| partial.windows.covers(&path.key()))
    }

    /// Whether a directory above `path` is another one than was recorded and is looked at: all below it will
    /// be, though its window may not be open yet.
    pub(super) fn will_be_looked_at(&mut self, path: &RelPath) -> Result<bool, PlanError> {
        let Some(Partial { windows, ways, .. }) = &mut self.partial else { return Ok(false) };
        Ok(ways.first_unknown(path)?.is_some_and(|at| windows.covers(&at.key())))
    }

    /// Whether something above a path that is not looked at is excluded now, or unknown: what a whole walk
    /// would have met on its way to where this one stands.
    pub(super) fn is_barred_elsewhere(&mut self, path: &RelPath) -> Result<bool, PlanError> {
        match &mut self.partial {
            Some(partial) if !partial.windows.covers(&path.key()) => partial.ways.is_barred(path),
            _ => Ok(false),
        }
    }
}

/// Joins what stands in the directories of `scope` with their records, on this thread alone; see
/// [`Planner::parts`].
///
/// # Errors
/// [`PlanError`]; what goes wrong in the tree is a [`super::Problem`].
pub fn plan_parts<S: Storage>(
    storage: &S,
    catalog: &CatalogReader,
    policy: &dyn Policy,
    own: &[u8],
    scope: &Scope,
    spool_folder: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<PartialPlan, PlanError> {
    Planner { storage, catalog, policy, own, threads: 1, spool_folder }.parts(scope, progress)
}

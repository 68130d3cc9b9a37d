//! Accounts of which a plan is made and nothing is sent: what is held is looked at all the same.
//!
//! Guarantees: of what is withheld no change is given out to be sent, whatever else changes: what moved
//! away from it is sent as something new and stays where it was, what moved into it is gone where it was,
//! and its further names elsewhere become files of their own; no directory above it is removed or replaced. Where
//! a further name of it is to be something else, its first name is withheld as well, wherever that is: else the
//! record of the further name would name another inode, or none. That is a problem of the first name.

use std::collections::{BTreeSet, HashMap, HashSet};

use farshore_core::account::account_of;
use farshore_core::codec::{Decoder, Encoder};
use farshore_core::entry::decode_path;
use farshore_core::path::RelPath;

use super::{Change, Changes, LookKind, Plan, PlanError, Problem};

/// Accounts of which nothing is sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Withheld {
    accounts: BTreeSet<RelPath>,
    depth: usize,
    /// Elsewhere, the first names of inodes that have further ones there which stay; and what is above them.
    firsts: BTreeSet<RelPath>,
    above: BTreeSet<RelPath>,
}

impl Withheld {
    /// These accounts, whose paths have `depth` components.
    #[must_use]
    pub fn new(accounts: BTreeSet<RelPath>, depth: usize) -> Self {
        Self { accounts, depth, ..Self::default() }
    }

    /// The accounts.
    #[must_use]
    pub fn accounts(&self) -> &BTreeSet<RelPath> {
        &self.accounts
    }

    /// Components of an account's path.
    pub(super) const fn depth(&self) -> usize {
        self.depth
    }

    /// The account that `path` belongs to.
    #[must_use]
    pub fn account_of(&self, path: &RelPath) -> RelPath {
        account_of(path, self.depth)
    }

    /// Whether `path` belongs to one of them; of what a plan withholds, whether it stays because of one.
    #[must_use]
    pub fn covers(&self, path: &RelPath) -> bool {
        !self.accounts.is_empty()
            && (self.accounts.contains(&self.account_of(path)) || self.stays_for_names(path))
    }

    /// Whether `path` is such a first name, or below one which is no directory yet.
    fn stays_for_names(&self, path: &RelPath) -> bool {
        let mut at = (!self.firsts.is_empty()).then(|| path.clone());
        while let Some(path) = at {
            if self.firsts.contains(&path) {
                return true;
            }
            at = path.split().map(|(parent, _)| parent);
        }
        false
    }

    /// From now on `first` stays too.
    fn keep_first(&mut self, first: &RelPath) {
        let mut at = first.split().map(|(parent, _)| parent);
        while let Some(parent) = at.filter(|parent| !self.above.contains(parent)) {
            at = parent.split().map(|(above, _)| above);
            self.above.insert(parent);
        }
        self.firsts.insert(first.clone());
    }

    /// Whether one of them is below `path`.
    fn is_below(&self, path: &RelPath) -> bool {
        self.above.contains(path)
            || path.components().count() < self.depth
                && self.accounts.iter().any(|a| a.starts_with(path))
    }

    fn is_crossed(&self, from: &RelPath, to: &RelPath) -> bool {
        self.covers(from) != self.covers(to)
    }

    /// A move into or out of what is withheld is none: it is gone here, and new there.
    fn without_crossing(&self, change: Change) -> Change {
        match change {
            Change::Look { path, size, is_file, kind, moved_from: Some(from) }
                if self.is_crossed(&from, &path) =>
            {
                Change::Look { path, size, is_file, kind, moved_from: None }
            }
            other => other,
        }
    }
}

impl Plan {
    /// From now on nothing of `withheld` is among the changes to be sent. [`Self::for_each`] gives them still.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn withhold(&mut self, withheld: &Withheld) -> Result<(), PlanError> {
        let former = std::mem::replace(&mut self.withheld, withheld.clone());
        if withheld.accounts.is_empty() {
            return Ok(());
        }
        self.keep_first_names(&former)?;
        if self.moved.is_empty() {
            return Ok(());
        }
        let withheld = self.withheld.clone();
        let mut looks = self.looks.read_forward()?;
        while let Some(item) = looks.next_item()? {
            if let Change::Look { path, moved_from: Some(from), .. } = Change::from_bytes(&item)?
                && withheld.is_crossed(&from, &path)
            {
                self.moved.remove(&from);
            }
        }
        Ok(())
    }

    /// The first names of what is withheld stay, with it. Of those that stayed with `former` it was said already.
    fn keep_first_names(&mut self, former: &Withheld) -> Result<(), PlanError> {
        let mut withheld = self.withheld.clone();
        let mut names: HashMap<RelPath, RelPath> = HashMap::new();
        self.for_each_further(&mut |path, first| {
            if withheld.covers(path) && !withheld.covers(first) {
                withheld.keep_first(first);
                names.insert(first.clone(), path.clone());
            }
        })?;
        if names.is_empty() {
            return Ok(());
        }
        let mut changed = Vec::new();
        // Before they stay: what moves away from one is that yet.
        self.for_each(&mut |change| {
            changed.extend(names.remove_entry(change.path()));
            if let Change::Look { moved_from: Some(from), .. } = change {
                changed.extend(names.remove_entry(from));
            }
            Ok(())
        })?;
        for (path, further) in changed.into_iter().filter(|(path, _)| !former.covers(path)) {
            let text = format!("it waits for {further}, the same file, which is held or waits");
            self.problems.push(Problem { path, text });
        }
        self.withheld = withheld;
        Ok(())
    }

    /// What is to be done at `path`, and is recorded as a further name of the inode at `first`.
    pub(super) fn add_further(&mut self, path: &RelPath, first: &RelPath) -> Result<(), PlanError> {
        let mut e = Encoder::new();
        e.put_bytes(path.as_bytes());
        e.put_bytes(first.as_bytes());
        Ok(self.further.push(&e.finish())?)
    }

    /// Gives each of those to `visit`, with the first name.
    pub(super) fn for_each_further(
        &mut self,
        visit: &mut dyn FnMut(&RelPath, &RelPath),
    ) -> Result<(), PlanError> {
        let mut all = self.further.read_forward()?;
        while let Some(item) = all.next_item()? {
            let mut d = Decoder::new(&item);
            let path = decode_path(&mut d, "further name")?;
            visit(&path, &decode_path(&mut d, "first name")?);
        }
        Ok(())
    }

    /// What of it is not sent.
    #[must_use]
    pub fn withheld(&self) -> &Withheld {
        &self.withheld
    }

    /// Whether nothing kept the walk from seeing all of `account`, as far as it was looked at: it could be read,
    /// and the policy does not leave it out.
    #[must_use]
    pub fn could_see(&self, account: &RelPath) -> bool {
        let is_near = |path: &RelPath| path.starts_with(account) || account.starts_with(path);
        !self.unknown.iter().any(is_near) && !self.shut.hides(account)
    }
}

/// Directories that the policy leaves out, as far as they are remembered.
#[derive(Debug, Default)]
pub(super) struct Shut {
    paths: HashSet<RelPath>,
    is_full: bool,
}

/// Most of them.
const SHUT_MAX: usize = 10_000;

impl Shut {
    pub(super) fn add(&mut self, path: &RelPath) {
        self.is_full |= self.paths.len() >= SHUT_MAX;
        if !self.is_full {
            self.paths.insert(path.clone());
        }
    }

    /// Whether `account` is below one, or may be.
    fn hides(&self, account: &RelPath) -> bool {
        let mut at = Some(account.clone());
        while let Some(path) = at {
            if self.paths.contains(&path) {
                return true;
            }
            at = path.split().map(|(parent, _)| parent);
        }
        self.is_full
    }
}

/// What is withheld while changes are given out.
#[derive(Debug, Default)]
pub(super) struct Sieve {
    withheld: Withheld,
    /// For a first name that is withheld, the name that is sent in its place.
    leaders: HashMap<RelPath, RelPath>,
}

impl Sieve {
    pub(super) fn new(withheld: Withheld) -> Self {
        Self { withheld, leaders: HashMap::new() }
    }

    /// The change as it is judged.
    pub(super) fn seen(&self, change: Change) -> Change {
        self.withheld.without_crossing(change)
    }

    /// The change as it is sent, if it is.
    pub(super) fn sent(&mut self, change: Change) -> Option<Change> {
        if self.withheld.accounts.is_empty() {
            return Some(change);
        }
        let path = change.path();
        if self.withheld.covers(path) {
            return None;
        }
        match &change {
            Change::Remove { path, .. } if self.withheld.is_below(path) => None,
            // Something else than a directory now.
            Change::Look { path, kind: LookKind::Content, .. } if self.withheld.is_below(path) => {
                None
            }
            Change::Link { path, leader } if self.withheld.covers(leader) => {
                let path = path.clone();
                Some(match self.leaders.get(leader) {
                    Some(first) => Change::Link { path, leader: first.clone() },
                    None => {
                        self.leaders.insert(leader.clone(), path.clone());
                        let (size, kind) = (0, LookKind::New);
                        // Its length is not known here: it is looked at once more before it is read.
                        Change::Look { path, size, is_file: false, kind, moved_from: None }
                    }
                })
            }
            _ => Some(self.withheld.without_crossing(change)),
        }
    }
}

impl Changes {
    pub(super) fn sieve(&mut self, change: Change) -> Option<Change> {
        self.sieve.sent(change)
    }
}

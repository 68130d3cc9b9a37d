//! Directories to look at, by account. Pure: no clock, no disk, no lock.
//!
//! Guarantees: what was once marked stays covered: by itself, by a deep mark above it, by the deep mark
//! its account was collapsed into, or by `whole`. Bounded: beyond [`Bounds`] the accounts with the most
//! directories become one deep mark each, and when that is not enough, the whole share.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use farshore_core::path::RelPath;

use crate::plan::{Part, Scope};

/// Different reasons that are kept.
const REASONS_MAX: usize = 4;

/// An account of fewer directories is not worth collapsing.
const COLLAPSE_MIN: usize = 8;

/// What waits may be no more than this.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Components of an account's path.
    pub(super) depth: usize,
    /// Directories.
    pub(super) directories: usize,
    /// Bytes of their paths.
    pub(super) bytes: usize,
}

/// Everything is to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Whole {
    /// Why, each reason once, the first ones.
    pub(super) reasons: Vec<String>,
    /// Since when.
    pub(super) since_ms: i64,
}

/// The directories of one account.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct AccountMarks {
    /// When the oldest was marked first.
    pub(super) first_ms: i64,
    /// Deep ones among them.
    deep: usize,
    /// Deep or not.
    directories: HashMap<Box<[u8]>, bool>,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Marks {
    whole: Option<Whole>,
    accounts: HashMap<Box<[u8]>, AccountMarks>,
    directories: usize,
    bytes: usize,
}

/// What a taking takes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Selection {
    /// The whole, or the accounts alone.
    pub(super) whole: bool,
    /// Whose marks.
    pub(super) accounts: Vec<RelPath>,
    /// Accounts that are left out though something taken lies above them: they wait as before, all of
    /// them, since the given time.
    pub(super) held: Vec<(RelPath, i64)>,
}

/// What became of a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marked {
    /// It was there already, by itself or by one above.
    Covered,
    /// It is there now.
    New,
    /// It is there, and marks had to be collapsed for it.
    Collapsed,
}

impl Marks {
    pub(super) fn whole(&self) -> Option<&Whole> {
        self.whole.as_ref()
    }

    pub(super) fn directories(&self) -> usize {
        self.directories
    }

    /// Bytes of the paths held.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn oldest_ms(&self) -> Option<i64> {
        let accounts = self.accounts.values().map(|a| a.first_ms);
        accounts.chain(self.whole.iter().map(|w| w.since_ms)).min()
    }

    /// Accounts, in order: since when, how many directories, whether the account itself deep.
    pub(super) fn accounts(&self) -> BTreeMap<RelPath, (i64, usize, bool)> {
        let mut facts = BTreeMap::new();
        for (name, marks) in &self.accounts {
            let deep = marks.directories.get(name).copied().unwrap_or(false);
            facts.insert(path_of(name), (marks.first_ms, marks.directories.len(), deep));
        }
        facts
    }

    /// Every mark: path, deep, since when; in any order.
    pub(super) fn all(&self) -> impl Iterator<Item = (&[u8], bool, i64)> {
        self.accounts.values().flat_map(|account| {
            account.directories.iter().map(|(path, deep)| (&**path, *deep, account.first_ms))
        })
    }

    /// The same in an order in which none is covered by one before: made again one by one, all of them are
    /// there again, each in its account.
    pub(super) fn covering_last(&self) -> Vec<(&[u8], bool, i64)> {
        let mut all: Vec<_> = self.all().collect();
        all.sort_by_key(|(path, deep, _)| (*deep, std::cmp::Reverse(path.len())));
        all
    }

    pub(super) fn scope(&self) -> Scope {
        Scope::new(self.all().map(|(path, deep, _)| Part { directory: path_of(path), deep }))
    }

    /// Whether the children of `path` will be looked at by what is marked here.
    pub(super) fn covers(&self, path: &[u8], depth: usize) -> bool {
        self.whole.is_some()
            || self
                .accounts
                .get(account_bytes(path, depth))
                .is_some_and(|a| a.directories.contains_key(path))
            || self.is_below_deep(path, depth)
    }

    fn is_below_deep(&self, path: &[u8], depth: usize) -> bool {
        let own = self.accounts.get(account_bytes(path, depth)).filter(|a| a.deep > 0);
        let above = self.accounts.get(&[][..]).filter(|a| a.deep > 0);
        if own.is_none() && above.is_none() {
            return false;
        }
        let is_deep = |account: Option<&AccountMarks>, at: &[u8]| {
            account.is_some_and(|a| a.directories.get(at).copied().unwrap_or(false))
        };
        ancestors(path).any(|at| is_deep(own, at) || is_deep(above, at))
    }

    pub(super) fn mark(&mut self, path: &[u8], deep: bool, now_ms: i64, bounds: Bounds) -> Marked {
        if self.is_below_deep(path, bounds.depth) {
            self.make_older(path, now_ms, bounds.depth);
            return Marked::Covered;
        }
        let account = account_bytes(path, bounds.depth);
        if !self.accounts.contains_key(account) {
            let new = AccountMarks { first_ms: now_ms, ..AccountMarks::default() };
            self.accounts.insert(account.into(), new);
        }
        let Some(marks) = self.accounts.get_mut(account) else { return Marked::Covered };
        marks.first_ms = marks.first_ms.min(now_ms);
        match marks.directories.get_mut(path) {
            Some(known) if *known || !deep => return Marked::Covered,
            Some(known) => *known = true,
            None => {
                marks.directories.insert(path.into(), deep);
                self.directories += 1;
                self.bytes += path.len();
            }
        }
        marks.deep += usize::from(deep);
        if self.directories > bounds.directories || self.bytes > bounds.bytes {
            self.collapse(bounds);
            return Marked::Collapsed;
        }
        Marked::New
    }

    /// Whether that is news.
    pub(super) fn mark_whole(&mut self, why: &str, now_ms: i64) -> bool {
        let whole =
            self.whole.get_or_insert_with(|| Whole { reasons: Vec::new(), since_ms: now_ms });
        whole.since_ms = whole.since_ms.min(now_ms);
        let known = whole.reasons.iter().any(|reason| reason == why);
        let new = !known && whole.reasons.len() < REASONS_MAX;
        if new {
            whole.reasons.push(why.to_owned());
        }
        new
    }

    /// Brings what is held down to half of the bounds, the largest accounts first.
    fn collapse(&mut self, bounds: Bounds) {
        self.prune(bounds.depth);
        let fits = |marks: &Self| {
            marks.directories <= bounds.directories / 2 && marks.bytes <= bounds.bytes / 2
        };
        let mut by_size: Vec<(usize, Box<[u8]>)> =
            self.accounts.iter().map(|(name, a)| (a.directories.len(), name.clone())).collect();
        by_size.sort_unstable_by(|a, b| b.cmp(a));
        for (size, name) in by_size {
            if fits(self) || size < COLLAPSE_MIN {
                break;
            }
            // The share itself, deep, is the whole.
            if !name.is_empty() {
                self.collapse_account(&name);
            }
        }
        if !fits(self) {
            let since = self.oldest_ms().unwrap_or_default();
            self.accounts.clear();
            (self.directories, self.bytes) = (0, 0);
            self.mark_whole("more directories had changed than are kept one by one", since);
        }
    }

    fn collapse_account(&mut self, name: &[u8]) {
        let Some(account) = self.accounts.get_mut(name) else { return };
        self.directories -= account.directories.len() - 1;
        self.bytes -= account.directories.keys().map(|path| path.len()).sum::<usize>();
        self.bytes += name.len();
        account.directories = HashMap::from([(name.into(), true)]);
        account.deep = 1;
    }

    /// Drops what lies below a deep mark: a mark that comes later than those it covers leaves them.
    fn prune(&mut self, depth: usize) {
        let below: Vec<Box<[u8]>> = self
            .all()
            .filter(|(path, ..)| self.is_below_deep(path, depth))
            .map(|(path, ..)| path.into())
            .collect();
        for path in below {
            let name = account_bytes(&path, depth);
            let Some(account) = self.accounts.get_mut(name) else { continue };
            if let Some(deep) = account.directories.remove(&path) {
                account.deep -= usize::from(deep);
                self.directories -= 1;
                self.bytes -= path.len();
            }
            let first_ms = account.first_ms;
            if account.directories.is_empty() {
                self.accounts.remove(name);
            }
            self.make_older(&path, first_ms, depth);
        }
    }

    /// What a taking would take; `None` for nothing.
    pub(super) fn select(
        &self,
        parts_only: bool,
        left_out: &BTreeSet<RelPath>,
        settled_before_ms: Option<i64>,
    ) -> Option<Selection> {
        // Without the entries of the share itself there is no whole to look at.
        let whole =
            self.whole.as_ref().filter(|_| !parts_only && !left_out.contains(&RelPath::root()));
        let settled = |a: &AccountMarks| {
            whole.is_some() || settled_before_ms.is_none_or(|before| a.first_ms <= before)
        };
        let mut accounts: Vec<RelPath> = self
            .accounts
            .iter()
            .filter(|(_, marks)| settled(marks))
            .map(|(name, _)| path_of(name))
            .filter(|account| !left_out.contains(account))
            .collect();
        if accounts.is_empty() && whole.is_none() {
            return None;
        }
        accounts.sort();
        let is_above = |account: &RelPath| {
            let share = self
                .accounts
                .get(&[][..])
                .filter(|_| accounts.first().is_some_and(RelPath::is_root));
            share.is_some_and(|share| {
                let mut above = ancestors(account.as_bytes());
                above.any(|at| share.directories.get(at).copied().unwrap_or(false))
            })
        };
        let since = |account: &RelPath| {
            let own = self.accounts.get(account.as_bytes()).map(|a| a.first_ms);
            let above = self.accounts.get(&[][..]).map(|a| a.first_ms);
            own.into_iter().chain(above).chain(whole.map(|w| w.since_ms)).min().unwrap_or_default()
        };
        let held = left_out.iter().filter(|account| whole.is_some() || is_above(account));
        let held = held.map(|account| (account.clone(), since(account))).collect();
        Some(Selection { whole: whole.is_some(), accounts, held })
    }

    /// Takes what was selected out of the rest. Accounts that are not there are nothing.
    pub(super) fn split_off(&mut self, whole: bool, accounts: &[RelPath]) -> Self {
        let mut taken = Self { whole: self.whole.take_if(|_| whole), ..Self::default() };
        for account in accounts {
            let Some((name, marks)) = self.accounts.remove_entry(account.as_bytes()) else {
                continue;
            };
            let bytes: usize = marks.directories.keys().map(|path| path.len()).sum();
            self.directories -= marks.directories.len();
            self.bytes -= bytes;
            taken.directories += marks.directories.len();
            taken.bytes += bytes;
            taken.accounts.insert(name, marks);
        }
        taken
    }

    /// Takes `other` in.
    pub(super) fn merge(&mut self, other: &Self, bounds: Bounds) -> Marked {
        if let Some(whole) = &other.whole {
            whole.reasons.iter().for_each(|why| {
                self.mark_whole(why, whole.since_ms);
            });
        }
        let mut outcome = Marked::Covered;
        for (path, deep, first_ms) in other.covering_last() {
            match self.mark(path, deep, first_ms, bounds) {
                Marked::New if outcome == Marked::Covered => outcome = Marked::New,
                Marked::Covered | Marked::New => {}
                Marked::Collapsed => outcome = Marked::Collapsed,
            }
        }
        outcome
    }

    /// What covers `path` is as old as that. It may be of the share itself, while the path's own account
    /// has other marks.
    fn make_older(&mut self, path: &[u8], first_ms: i64, depth: usize) {
        let is_older = |name: &[u8]| self.accounts.get(name).is_some_and(|a| first_ms < a.first_ms);
        if !is_older(account_bytes(path, depth)) && !is_older(&[]) {
            return;
        }
        for at in std::iter::once(path).chain(ancestors(path)) {
            let Some(account) = self.accounts.get_mut(account_bytes(at, depth)) else { continue };
            let covers = account.directories.get(at).is_some_and(|deep| *deep || at == path);
            if covers {
                account.first_ms = account.first_ms.min(first_ms);
                return;
            }
        }
    }
}

/// The directories above `path`, the nearest first, the root last.
pub(super) fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(parent_of(path), |at| parent_of(at))
}

fn parent_of(path: &[u8]) -> Option<&[u8]> {
    match path.iter().rposition(|&b| b == b'/') {
        Some(end) => Some(&path[..end]),
        None if path.is_empty() => None,
        None => Some(&[]),
    }
}

/// What [`farshore_core::account::account_of`] says, of a path that is one.
pub(super) fn account_bytes(path: &[u8], depth: usize) -> &[u8] {
    if depth == 0 || path.is_empty() {
        return &[];
    }
    let mut ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
    let mut seen = 0;
    for end in ends.by_ref() {
        seen += 1;
        if seen == depth {
            return &path[..end];
        }
    }
    if seen + 1 == depth { path } else { &[] }
}

/// Marks are made of paths alone.
fn path_of(bytes: &[u8]) -> RelPath {
    RelPath::new(bytes).unwrap_or_default()
}

//! Both lists read: once for what is bound to what and what was left where, once more where that told of moves that no
//! inode tells of, then side by side.
//!
//! Guarantees: paths come in order and each once, a list that is not in order is refused, as are lists made
//! against different bases. Memory holds an index of both lists, not the lists.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::sync::Arc;

use super::index::{Key, Left, Links, SideIndex, content_key, key};
use super::judge::Member;
use super::list::{ChangeIter, ListError, SideChange};
use super::merge::{Merge, MergeError};
use super::moves::{Ends, Moves};
use super::{AtSite, Base, Config};
use crate::conflict::Site;
use crate::entry::Entry;
use crate::path::RelPath;

/// What the first reading is for.
#[derive(Default)]
pub(super) struct Learned {
    pub(super) production: SideIndex,
    pub(super) recovery: SideIndex,
    pub(super) links: Links,
    /// Where recovery moved something away from.
    pub(super) moved_away: HashSet<Key>,
    /// Content that production alone received, and of that what recovery has.
    pub(super) wanted: HashSet<Key>,
    pub(super) seen: HashSet<Key>,
    /// Moves of both sites that no inode tells of.
    pub(super) moves: [Moves; 2],
}

impl Learned {
    pub(super) fn read(&mut self, merge: &Merge<'_>, site: Site) -> Result<(), MergeError> {
        let config = merge.config;
        let mut ends = Ends::default();
        let mut changes = Ordered::new(merge, site, Arc::default())?;
        while let Some(change) = changes.take()? {
            let SideChange { path, before, after, moved_from } = &change;
            let left = Left::of(after.as_ref());
            match site {
                Site::Production => self.production.push(key(path), left),
                Site::Recovery => self.recovery.push(key(path), left),
            }
            if config.base == Base::Unknown {
                continue;
            }
            ends.learn(&change, config);
            if let Some(owner) = config.owner_of(path) {
                self.links.bind(path, &owner);
            }
            for entry in [before, after].into_iter().flatten() {
                if let Entry::HardLink { leader } = entry {
                    self.links.bind(path, leader);
                }
            }
            if let Some(from) = moved_from {
                self.links.bind(path, from);
                if site == Site::Recovery {
                    self.moved_away.insert(key(from));
                }
            }
            let depth = config.account_depth;
            match site {
                Site::Production if before.is_none() => {
                    let content = after.as_ref().and_then(Entry::content);
                    self.wanted.extend(content.map(|c| content_key(path, depth, c)));
                }
                Site::Production => {}
                Site::Recovery => {
                    for content in [before, after].into_iter().flatten().filter_map(Entry::content)
                    {
                        let key = content_key(path, depth, content);
                        if self.wanted.contains(&key) {
                            self.seen.insert(key);
                        }
                    }
                }
            }
        }
        match site {
            Site::Production => self.production.finish(),
            Site::Recovery => self.recovery.finish(),
        }
        self.name_moves(merge, site, ends)
    }

    /// Moves are known by keys so far: reads the list again where there are any.
    fn name_moves(&mut self, merge: &Merge<'_>, site: Site, ends: Ends) -> Result<(), MergeError> {
        let moved = ends.finish(&mut self.links);
        if moved.is_empty() {
            return Ok(());
        }
        if site == Site::Recovery {
            self.moved_away.extend(moved.keys().copied());
        }
        let mut changes = Ordered::new(merge, site, Arc::default())?;
        while let Some(change) = changes.take()? {
            self.moves[at(site)].name(&moved, &change.path);
        }
        Ok(())
    }
}

/// Where what is kept of both sites has that of one.
fn at(site: Site) -> usize {
    match site {
        Site::Production => 0,
        Site::Recovery => 1,
    }
}

/// A list whose order is checked, and whose renames count only between names of one sort.
pub(super) struct Ordered<'a> {
    changes: ChangeIter<'a>,
    last: Option<RelPath>,
    site: Site,
    config: &'a Config,
    moves: Arc<Moves>,
}

impl<'a> Ordered<'a> {
    fn new(merge: &Merge<'a>, site: Site, moves: Arc<Moves>) -> Result<Self, MergeError> {
        let list = match site {
            Site::Production => merge.production,
            Site::Recovery => merge.recovery,
        };
        let changes = list.changes().map_err(|e| MergeError::List(site, e))?;
        Ok(Self { changes, last: None, site, config: merge.config, moves })
    }

    fn take(&mut self) -> Result<Option<SideChange>, MergeError> {
        let failed = |e| MergeError::List(self.site, e);
        let Some(mut change) = self.changes.next().transpose().map_err(failed)? else {
            return Ok(None);
        };
        if self.last.as_ref().is_some_and(|last| *last >= change.path) {
            return Err(failed(ListError::Order(change.path)));
        }
        self.last = Some(change.path.clone());
        if change.moved_from.is_none() {
            change.moved_from = self.moves.from(&change.path).cloned();
        }
        // An upload that was finished by a rename is something new under its name.
        let is_finished = |from: &RelPath| {
            self.config.is_in_flight(from) && !self.config.is_in_flight(&change.path)
        };
        if change.moved_from.as_ref().is_some_and(is_finished) {
            change.moved_from = None;
        }
        Ok(Some(change))
    }
}

/// Both lists beside each other.
pub(super) struct Join<'a> {
    production: Ordered<'a>,
    recovery: Ordered<'a>,
    next: [Option<SideChange>; 2],
}

impl<'a> Join<'a> {
    pub(super) fn new(merge: &Merge<'a>, moves: &[Arc<Moves>; 2]) -> Result<Self, MergeError> {
        let [at_production, at_recovery] = moves.clone();
        let mut production = Ordered::new(merge, Site::Production, at_production)?;
        let mut recovery = Ordered::new(merge, Site::Recovery, at_recovery)?;
        let next = [production.take()?, recovery.take()?];
        Ok(Self { production, recovery, next })
    }

    pub(super) fn take(&mut self) -> Result<Option<Member>, MergeError> {
        let order = match &self.next {
            [None, None] => return Ok(None),
            [Some(_), None] => Ordering::Less,
            [None, Some(_)] => Ordering::Greater,
            [Some(p), Some(r)] => p.path.cmp(&r.path),
        };
        let p = if order.is_le() { self.next[0].take() } else { None };
        let r = if order.is_ge() { self.next[1].take() } else { None };
        if order.is_le() {
            self.next[0] = self.production.take()?;
        }
        if order.is_ge() {
            self.next[1] = self.recovery.take()?;
        }
        let at = |change: Option<SideChange>, base: &Option<Entry>| match change {
            Some(SideChange { after: entry, moved_from, .. }) => {
                AtSite { entry, moved_from, moved_to: None }
            }
            None => AtSite { entry: base.clone(), ..AtSite::default() },
        };
        let (path, base) = match (&p, &r) {
            (Some(p), Some(r)) if p.before != r.before => {
                return Err(MergeError::Bases(p.path.clone()));
            }
            (Some(change), _) | (None, Some(change)) => {
                (change.path.clone(), change.before.clone())
            }
            (None, None) => return Ok(None),
        };
        let (production, recovery) = (at(p, &base), at(r, &base));
        Ok(Some(Member { path, base, production, recovery }))
    }
}

//! The parts of the catalog's order that a plan looks at.
//!
//! Guarantees: windows do not overlap, come in path order, and each is looked at once; what lies in none
//! is neither asked of the tree nor read from the catalog. A window is opened ahead of where the plan
//! stands, never behind it. Memory is in proportion to the windows.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;

use farshore_core::path::RelPath;
use farshore_core::policy::Verdict;

use crate::io::Stat;

/// What is to be asked of the tree about a window.
#[derive(Debug)]
pub(super) enum Sight {
    /// The entry itself: it was looked at when the way there was found.
    Entry(RelPath, Met),
    /// The direct children of a directory.
    Children(RelPath),
    /// All below a directory.
    Below(RelPath),
    /// Nothing: all of it is gone, or excluded.
    Gone,
}

/// What was found at a path.
#[derive(Debug)]
pub(super) enum Met {
    Entry(Box<Stat>),
    /// A directory that does not travel.
    Excluded(Verdict),
    Unknown(&'static str, io::Error),
}

#[derive(Debug)]
struct Window {
    /// The first key after it.
    to: Option<Vec<u8>>,
    /// Until it is looked at.
    sight: Option<Sight>,
}

/// Keys from the first on and before the second, if there is an end.
pub(super) type Keys = (Vec<u8>, Option<Vec<u8>>);

/// Windows by their first keys.
#[derive(Debug, Default)]
pub(super) struct Windows(BTreeMap<Vec<u8>, Window>);

impl Windows {
    /// A window of one entry.
    pub(super) fn add_entry(&mut self, path: RelPath, met: Met) {
        let from = path.key();
        // No key lies between: names hold no NUL.
        let to = [from.as_slice(), &[0]].concat();
        self.add((from, Some(to)), Sight::Entry(path, met));
    }

    /// A window of a directory's children.
    pub(super) fn add_children(&mut self, directory: RelPath) {
        let from = directory.children_key_prefix();
        let mut to = from.clone();
        // After all names, and before what lies below any of them.
        to.pop();
        to.push(1);
        self.add((from, Some(to)), Sight::Children(directory));
    }

    /// A window of all below a directory.
    pub(super) fn add_below(&mut self, directory: RelPath) {
        self.add(directory.descendants_key_range(), Sight::Below(directory));
    }

    fn add(&mut self, (from, to): Keys, sight: Sight) {
        self.0.insert(from, Window { to, sight: Some(sight) });
    }

    /// Leaves out what lies within another.
    pub(super) fn settle(&mut self) {
        let mut end: Option<Option<Vec<u8>>> = None;
        self.0.retain(|from, window| {
            let is_within = match &end {
                None => false,
                Some(None) => true,
                Some(Some(to)) => from < to,
            };
            if !is_within {
                end = Some(window.to.clone());
            }
            !is_within
        });
    }

    /// Takes windows below `directory` out; the plan has not come to any of them.
    pub(super) fn cut(&mut self, directory: &RelPath) {
        let (from, to) = directory.descendants_key_range();
        let to = to.map_or(Bound::Unbounded, Bound::Excluded);
        let within: Vec<_> =
            self.0.range((Bound::Included(from), to)).map(|(k, _)| k.clone()).collect();
        for key in within {
            self.0.remove(&key);
        }
    }

    /// All below `directory` is to be looked at, or is gone, instead of parts of it.
    pub(super) fn open_below(&mut self, directory: &RelPath, is_there: bool) {
        self.cut(directory);
        let sight = if is_there { Sight::Below(directory.clone()) } else { Sight::Gone };
        self.add(directory.descendants_key_range(), sight);
    }

    /// Whether a key lies in a window, looked at or to come.
    pub(super) fn covers(&self, key: &[u8]) -> bool {
        let last = self.0.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back();
        last.is_some_and(|(_, window)| window.to.as_deref().is_none_or(|to| key < to))
    }

    /// The first window after the one that begins at `after`.
    pub(super) fn next(&mut self, after: Option<&[u8]>) -> Option<(Keys, Sight)> {
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let (from, window) = self.0.range_mut::<[u8], _>((after, Bound::Unbounded)).next()?;
        Some(((from.clone(), window.to.clone()), window.sight.take().unwrap_or(Sight::Gone)))
    }

    /// The keys of all windows, in order.
    pub(super) fn keys(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.0.iter().map(|(from, window)| (from.as_slice(), window.to.as_deref()))
    }
}

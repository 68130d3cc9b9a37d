//! Moves that no inode tells of: a site that was opened at an earlier point, or whose catalog was an old one, does not know
//! which inode stood where at the base.
//!
//! Guarantees: what went from one path and came at another of its account, with the same content, size, owner, mode, time
//! and attributes, is one move where nothing else of that site went or came there that is so alike, be it in the place of
//! something, with a known inode or as an upload that was finished. Files of a few bytes, of several names, under names of
//! what is not finished, or with a time to the second, which whoever sent them set, are none. Memory holds 32 bytes for each
//! file that went or came, 16 for what was there and what is where one changed, and the paths of what moved.

use std::collections::{HashMap, HashSet};

use super::Config;
use super::index::{Key, Links, entry_key, key};
use super::list::SideChange;
use crate::entry::Entry;
use crate::limits::MOVED_FILE_LEN_MIN;
use crate::path::RelPath;

/// What of one site may be an end of a move.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// Files that went, by what they were, and where.
    gone: Vec<(Key, Key)>,
    /// Files that came.
    made: Vec<(Key, Key)>,
    /// What went or came in another way: which of those that are alike is one of these is not known.
    unclear: Vec<Key>,
    /// Where a move is known from.
    known: HashSet<Key>,
    /// First names of files with several.
    shared: HashSet<Key>,
}

/// The moves of one site: where what came is from.
#[derive(Debug, Default)]
pub(super) struct Moves {
    from: HashMap<Key, RelPath>,
}

impl Ends {
    /// Learns of a change.
    pub(super) fn learn(&mut self, change: &SideChange, config: &Config) {
        let SideChange { path, before, after, moved_from } = change;
        for entry in [before, after].into_iter().flatten() {
            if let Entry::HardLink { leader } = entry {
                self.shared.insert(key(leader));
            }
        }
        self.known.extend(moved_from.as_ref().map(key));
        if before == after {
            return;
        }
        let what = |entry: &Option<Entry>| {
            let entry = entry.as_ref().filter(|entry| is_told_apart(entry))?;
            Some(entry_key(path, config.account_depth, entry))
        };
        let (was, is) = (what(before), what(after));
        match (was, is) {
            (Some(gone), _) if after.is_none() && !config.is_in_flight(path) => {
                self.gone.push((gone, key(path)));
            }
            (_, Some(made)) if before.is_none() && moved_from.is_none() => {
                self.made.push((made, key(path)));
            }
            _ => self.unclear.extend(was.into_iter().chain(is)),
        }
    }

    /// Binds both ends of each move; from where to where.
    pub(super) fn finish(mut self, links: &mut Links) -> HashMap<Key, Key> {
        let (known, shared) = (&self.known, &self.shared);
        let known = self.gone.iter().filter(|(_, path)| known.contains(path));
        self.unclear.extend(known.map(|(what, _)| *what));
        self.unclear.sort_unstable();
        let mut moved = HashMap::new();
        for ends in [&mut self.gone, &mut self.made] {
            ends.sort_unstable();
        }
        for (what, from) in only(&self.gone) {
            let at = self.made.partition_point(|(other, _)| *other < what);
            let mut alike = self.made[at..].iter().take_while(|(other, _)| *other == what);
            if let (Some((_, to)), None) = (alike.next(), alike.next())
                && self.unclear.binary_search(&what).is_err()
                && !shared.contains(&from)
                && !shared.contains(to)
            {
                links.bind_keys(from, *to);
                moved.insert(from, *to);
            }
        }
        moved
    }
}

/// Whether it is a file that is known again by what it is. A time to the second is not that of a write: who sends files
/// sets it, and sends the same mark with the same time under many names.
fn is_told_apart(entry: &Entry) -> bool {
    match entry {
        Entry::File { size, meta, .. } => *size >= MOVED_FILE_LEN_MIN && meta.mtime.nanos != 0,
        _ => false,
    }
}

/// Those of which nothing else is alike.
fn only(sorted: &[(Key, Key)]) -> impl Iterator<Item = (Key, Key)> + '_ {
    sorted.chunk_by(|a, b| a.0 == b.0).filter(|alike| alike.len() == 1).flatten().copied()
}

impl Moves {
    /// Learns the path of what moved from there.
    pub(super) fn name(&mut self, moved: &HashMap<Key, Key>, path: &RelPath) {
        if let Some(to) = moved.get(&key(path)) {
            self.from.insert(*to, path.clone());
        }
    }

    /// Where what came at `path` is from.
    pub(super) fn from(&self, path: &RelPath) -> Option<&RelPath> {
        if self.from.is_empty() { None } else { self.from.get(&key(path)) }
    }
}

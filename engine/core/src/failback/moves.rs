//! Moves that no inode tells of: a site that was opened at an earlier point, or whose catalog was an old one, does not know
//! which inode stood where at the base.
//!
//! Guarantees: what went from one path and came at another, with the same content, size, owner, mode, time and attributes,
//! is one move where nothing else of that site went or came that is so alike. Files of a few bytes, of several names or under
//! names of what is not finished are none. Memory holds 32 bytes for each file that went or came, and the paths of what moved.

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
    /// Where a move is known from.
    known: HashSet<Key>,
    /// First names of files with several.
    shared: HashSet<Key>,
}

/// The moves of one site: where what came is from.
#[derive(Debug, Clone, Default)]
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
        let is_file = |entry: &&Entry| matches!(entry, Entry::File { size, .. } if *size >= MOVED_FILE_LEN_MIN);
        match (before, after) {
            (Some(gone), None) if is_file(&gone) && !config.is_in_flight(path) => {
                self.gone.push((entry_key(gone), key(path)));
            }
            (None, Some(made)) if is_file(&made) && moved_from.is_none() => {
                self.made.push((entry_key(made), key(path)));
            }
            _ => {}
        }
    }

    /// Binds both ends of each move; from where to where.
    pub(super) fn finish(mut self, links: &mut Links) -> HashMap<Key, Key> {
        let (known, shared) = (&self.known, &self.shared);
        self.gone.retain(|(_, path)| !known.contains(path));
        let mut moved = HashMap::new();
        for ends in [&mut self.gone, &mut self.made] {
            ends.sort_unstable();
        }
        for (what, from) in only(&self.gone) {
            let at = self.made.partition_point(|(other, _)| *other < what);
            let mut alike = self.made[at..].iter().take_while(|(other, _)| *other == what);
            if let (Some((_, to)), None) = (alike.next(), alike.next())
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

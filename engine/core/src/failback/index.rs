//! What the merge keeps in memory of two lists: 17 bytes a change, 20 for each end of a link, and as long as they are first
//! read 32 for each file that came or went or was replaced.
//!
//! Paths are known by 128 bits of their BLAKE3 digest. Links bind paths that are decided together: a
//! rename's ends, the names of one file, a file and its attributes; what hangs together is a group.

use crate::account::account_of;
use crate::codec::Encoder;
use crate::entry::{Entry, EntryKind};
use crate::path::RelPath;
use crate::recipe::FileDigest;

/// A path, or the content of an account.
pub(super) type Key = [u8; 16];

fn short(hash: blake3::Hash) -> Key {
    let mut key = [0; 16];
    key.copy_from_slice(&hash.as_bytes()[..16]);
    key
}

pub(super) fn key(path: &RelPath) -> Key {
    short(blake3::hash(path.as_bytes()))
}

/// What stands at a path, all of it, anywhere in the account of `path`.
pub(super) fn entry_key(path: &RelPath, depth: usize, entry: &Entry) -> Key {
    let mut e = Encoder::new();
    entry.encode(&mut e);
    let mut hasher = blake3::Hasher::new();
    hasher.update(blake3::hash(e.as_slice()).as_bytes());
    hasher.update(account_of(path, depth).as_bytes());
    short(hasher.finalize())
}

/// The key of `content` anywhere in the account of `path`.
pub(super) fn content_key(path: &RelPath, depth: usize, content: &FileDigest) -> Key {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&content.0);
    hasher.update(account_of(path, depth).as_bytes());
    short(hasher.finalize())
}

/// What a change left at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    Nothing,
    Directory,
    Other,
}

impl Left {
    pub(super) fn of(entry: Option<&Entry>) -> Self {
        match entry.map(Entry::kind) {
            None => Self::Nothing,
            Some(EntryKind::Directory) => Self::Directory,
            Some(_) => Self::Other,
        }
    }
}

/// What the changes of one site left at their paths.
#[derive(Debug, Default)]
pub(super) struct SideIndex(Vec<(Key, Left)>);

impl SideIndex {
    pub(super) fn push(&mut self, key: Key, left: Left) {
        self.0.push((key, left));
    }

    pub(super) fn finish(&mut self) {
        self.0.sort_unstable_by_key(|(key, _)| *key);
    }

    pub(super) fn get(&self, key: &Key) -> Option<Left> {
        self.0.binary_search_by_key(key, |(key, _)| *key).ok().map(|at| self.0[at].1)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.0.iter().map(|(key, _)| key)
    }
}

/// Which paths are bound to each other.
#[derive(Debug, Default)]
pub(super) struct Links {
    pairs: Vec<(Key, Key)>,
    nodes: Vec<Key>,
    /// The smallest node of the group each node is in.
    group: Vec<u32>,
    /// Groups that production changed something of, by their smallest node.
    is_wanted: Vec<bool>,
}

impl Links {
    pub(super) fn bind(&mut self, a: &RelPath, b: &RelPath) {
        self.bind_keys(key(a), key(b));
    }

    pub(super) fn bind_keys(&mut self, a: Key, b: Key) {
        self.pairs.push((a, b));
    }

    /// Finds the groups; those with one of `wanted` among their members are to be looked at whole.
    pub(super) fn finish<'a>(&mut self, wanted: impl Iterator<Item = &'a Key>) {
        let pairs = std::mem::take(&mut self.pairs);
        self.nodes = pairs.iter().flat_map(|(a, b)| [*a, *b]).collect();
        self.nodes.sort_unstable();
        self.nodes.dedup();
        // Fewer than 2^32: each took 32 bytes of memory.
        #[allow(clippy::cast_possible_truncation)]
        let mut group: Vec<u32> = (0..self.nodes.len() as u32).collect();
        for (a, b) in &pairs {
            let (Some(a), Some(b)) = (self.node(a), self.node(b)) else { continue };
            let (a, b) = (root(&mut group, a), root(&mut group, b));
            group[a.max(b) as usize] = a.min(b);
        }
        for at in 0..group.len() {
            group[at] = group[group[at] as usize];
        }
        self.group = group;
        let mut is_wanted = vec![false; self.nodes.len()];
        for key in wanted {
            if let Some(node) = self.node(key) {
                is_wanted[self.group[node as usize] as usize] = true;
            }
        }
        self.is_wanted = is_wanted;
    }

    /// The group of a path that is bound to another, and whether production changed anything of it.
    pub(super) fn group_of(&self, key: &Key) -> Option<(u32, bool)> {
        let group = self.group[self.node(key)? as usize];
        Some((group, self.is_wanted[group as usize]))
    }

    /// A number that depends on the members of the group alone.
    pub(super) fn number(&self, group: u32) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.nodes[group as usize][..8]);
        u64::from_be_bytes(bytes)
    }

    #[allow(clippy::cast_possible_truncation)] // see `finish`
    fn node(&self, key: &Key) -> Option<u32> {
        self.nodes.binary_search(key).ok().map(|at| at as u32)
    }
}

/// The smallest node of a group; halves the way there.
fn root(group: &mut [u32], mut at: u32) -> u32 {
    while group[at as usize] != at {
        group[at as usize] = group[group[at as usize] as usize];
        at = group[at as usize];
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).expect("a path")
    }

    #[test]
    fn what_hangs_together_is_one_group_whatever_the_order() {
        let groups = |pairs: &[(&str, &str)]| {
            let mut links = Links::default();
            pairs.iter().for_each(|(a, b)| links.bind(&path(a), &path(b)));
            let wanted = key(&path("e"));
            links.finish([wanted].iter());
            ["a", "b", "c", "d", "e", "f"].map(|name| {
                let group = links.group_of(&key(&path(name)));
                group.map(|(group, is_wanted)| (links.number(group), is_wanted))
            })
        };
        let one = groups(&[("a", "b"), ("c", "d"), ("b", "c"), ("e", "f")]);
        let other = groups(&[("f", "e"), ("d", "b"), ("c", "a"), ("a", "b")]);
        assert_eq!(one, other);
        assert!(one[..4].iter().all(|group| *group == one[0]) && one[0] != one[4]);
        assert_eq!(one.map(|g| g.map(|g| g.1)), [false, false, false, false, true, true].map(Some));
        assert_eq!(groups(&[])[0], None);
    }
}

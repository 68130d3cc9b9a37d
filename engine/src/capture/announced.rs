//! What events announced since the last look at everything began, and how that compares with what the
//! look found.
//!
//! Guarantees: a directory that was marked is said to have been. Bounded: beyond [`REMEMBERED_MAX`]
//! directories whole accounts are said to have been marked. Lost by a restart: the next look at
//! everything begins anew.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use super::marks::{account_bytes, ancestors};

/// Directories remembered, 8 bytes each and as many for the room between.
const REMEMBERED_MAX: usize = 1 << 18;

/// Directories, by 64 bits of a hash nobody else can foresee.
#[derive(Debug, Default)]
pub(super) struct Announced {
    hasher: RandomState,
    shallow: HashSet<u64>,
    deep: HashSet<u64>,
    everything: bool,
}

impl Announced {
    pub(super) fn clear(&mut self) {
        self.shallow.clear();
        self.deep.clear();
        self.everything = false;
    }

    pub(super) fn add(&mut self, path: &[u8], deep: bool, depth: usize) {
        if self.everything {
            return;
        }
        if self.shallow.len() + self.deep.len() < REMEMBERED_MAX {
            let hash = self.hasher.hash_one(path);
            if deep {
                self.deep.insert(hash)
            } else {
                self.shallow.insert(hash)
            };
            return;
        }
        let account = account_bytes(path, depth);
        if account.is_empty() || self.deep.len() >= 2 * REMEMBERED_MAX {
            self.everything = true;
        } else {
            self.deep.insert(self.hasher.hash_one(account));
        }
    }

    pub(super) fn has(&self, path: &[u8]) -> bool {
        let is_deep = |at: &[u8]| self.deep.contains(&self.hasher.hash_one(at));
        self.everything
            || self.shallow.contains(&self.hasher.hash_one(path))
            || is_deep(path)
            || (!self.deep.is_empty() && ancestors(path).any(is_deep))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_announced_is_said_to_have_been_also_beyond_the_bound() {
        let mut announced = Announced::default();
        announced.add(b"a/b", false, 1);
        announced.add(b"a/c", true, 1);
        assert!(announced.has(b"a/b") && announced.has(b"a/c/d/e"));
        assert!(!announced.has(b"a") && !announced.has(b"a/b/x") && !announced.has(b""));
        for n in 0..REMEMBERED_MAX {
            announced.add(format!("b/{n}").as_bytes(), false, 1);
        }
        assert!(announced.has(b"b/never") && !announced.has(b"c"));
        assert!(announced.has(format!("b/{}", REMEMBERED_MAX - 1).as_bytes()));
        announced.add(b"", false, 1);
        assert!(announced.has(b"c"), "the share itself beyond the bound is everything");
        announced.clear();
        assert!(!announced.has(b"a/b"));
    }
}

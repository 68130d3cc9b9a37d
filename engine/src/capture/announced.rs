//! What events announced since the last look at everything began, and how that compares with what the
//! look found.
//!
//! Guarantees: a directory that was marked is said to have been. Bounded: beyond [`REMEMBERED_MAX`]
//! directories whole accounts are said to have been marked, see [`Announced::is_exact`]. Lost by a
//! restart: the next look at everything begins anew.

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
    inexact: bool,
}

impl Announced {
    pub(super) fn clear(&mut self) {
        self.shallow.clear();
        self.deep.clear();
        (self.everything, self.inexact) = (false, false);
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
        self.inexact = true;
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

    /// Whether what is said to have been announced was.
    pub(super) fn is_exact(&self) -> bool {
        !self.inexact
    }
}

/// Changes that looks at everything found: announced by an event or not. The proof, or not, that the
/// events of a share can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Coverage {
    /// Announced.
    pub by_event: u64,
    /// All.
    pub all: u64,
}

impl Coverage {
    /// A look found a change.
    pub fn found(&mut self, by_event: bool) {
        self.by_event += u64::from(by_event);
        self.all += 1;
    }

    /// Which part was announced; `None` when nothing was found.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // a ratio for people
    pub fn ratio(&self) -> Option<f64> {
        (self.all > 0).then(|| self.by_event as f64 / self.all as f64)
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
        assert!(!announced.is_exact() && announced.has(b"b/never") && !announced.has(b"c"));
        assert!(announced.has(format!("b/{}", REMEMBERED_MAX - 1).as_bytes()));
        announced.add(b"", false, 1);
        assert!(announced.has(b"c"), "the share itself beyond the bound is everything");
        announced.clear();
        assert!(!announced.has(b"a/b") && announced.is_exact());
    }

    #[test]
    fn coverage_is_the_part_that_was_announced() {
        let mut coverage = Coverage::default();
        assert_eq!(coverage.ratio(), None);
        [true, true, false, true].into_iter().for_each(|by_event| coverage.found(by_event));
        assert_eq!((coverage.by_event, coverage.all, coverage.ratio()), (3, 4, Some(0.75)));
    }
}

//! Which names are one inode on each side.
//!
//! Every path at which either side has an inode of several names pairs an inode of A with one of B.
//! The groupings are the same when each inode is paired with one other only. Kept is one line for
//! each pair whose names have not all been met, so memory is bounded by the inodes of several names.
//!
//! The first worker to meet a pair compares the two inodes, the others rely on it: what is linked a
//! hundred times is read once. When the first finds at a second look that its path has become
//! something else, the next to meet the pair compares it; with no next, those that relied on it are
//! reported as not compared.

use std::collections::HashMap;

use farshore_core::entry::DeviceNumber;
use farshore_core::path::RelPath;

use super::{Aspect, Difference, Side};
use crate::io::{FileKind, Stat};

/// An inode of one side. The device is part of it: overlays show files of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Inode {
    device: DeviceNumber,
    number: u64,
}

impl Inode {
    fn of(stat: &Stat) -> Self {
        Self { device: stat.device, number: stat.inode }
    }
}

/// An inode of A and one of B that share a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Pair {
    a: Inode,
    b: Inode,
}

impl Pair {
    /// The pair at a path with these facts; `None` when both have that name only.
    pub(super) fn of(a: &Stat, b: &Stat) -> Option<Self> {
        let linked = a.kind != FileKind::Directory && a.kind == b.kind && a.links.max(b.links) > 1;
        linked.then(|| Self { a: Inode::of(a), b: Inode::of(b) })
    }
}

/// A path's part in a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) pair: Pair,
    /// Whether this path is where the inodes are compared.
    pub(super) compares: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compared {
    NotYet,
    Done,
    GivenUp,
}

#[derive(Debug)]
struct Met {
    /// The first in path order.
    path: RelPath,
    names: u64,
    /// All the names both inodes have, if that is the same number.
    links: Option<u64>,
    compared: Compared,
}

/// The pairs met and not yet known to be complete.
#[derive(Debug, Default)]
pub(super) struct Links(HashMap<Pair, Met>);

impl Links {
    /// Notes that `path` is a name of the pair.
    pub(super) fn meet(&mut self, pair: Pair, path: &RelPath, a: &Stat, b: &Stat) -> Claim {
        let mut compares = false;
        let met = self.0.entry(pair).or_insert_with(|| {
            compares = true;
            let links = (a.links == b.links).then_some(a.links);
            Met { path: path.clone(), names: 0, links, compared: Compared::NotYet }
        });
        if met.compared == Compared::GivenUp {
            compares = true;
            met.compared = Compared::NotYet;
        }
        met.names += 1;
        if *path < met.path {
            met.path = path.clone();
        }
        self.drop_if_complete(pair);
        Claim { pair, compares }
    }

    /// The path of `claim` turned out to be something else.
    pub(super) fn leave(&mut self, claim: Claim) {
        let Some(met) = self.0.get_mut(&claim.pair) else { return };
        met.names = met.names.saturating_sub(1);
        if claim.compares {
            met.compared = Compared::GivenUp;
        }
    }

    /// The inodes of `claim` were compared, or reported as unreadable.
    pub(super) fn settle(&mut self, claim: Claim) {
        if !claim.compares {
            return;
        }
        if let Some(met) = self.0.get_mut(&claim.pair) {
            met.compared = Compared::Done;
        }
        self.drop_if_complete(claim.pair);
    }

    /// With all names met in one pair, none is left to pair otherwise.
    fn drop_if_complete(&mut self, pair: Pair) {
        let complete = self
            .0
            .get(&pair)
            .is_some_and(|m| m.compared == Compared::Done && m.links == Some(m.names));
        if complete {
            self.0.remove(&pair);
        }
    }

    /// What differs, in path order.
    pub(super) fn finish(self) -> Vec<Difference> {
        let mut pairs: Vec<_> = self.0.into_iter().filter(|(_, met)| met.names > 0).collect();
        pairs.sort_unstable_by(|x, y| x.1.path.cmp(&y.1.path));
        let mut first_of_a: HashMap<Inode, &RelPath> = HashMap::new();
        let mut first_of_b: HashMap<Inode, &RelPath> = HashMap::new();
        let mut out = Vec::new();
        for (pair, met) in &pairs {
            let mut report = |aspect| out.push(Difference { path: met.path.clone(), aspect });
            if met.compared == Compared::GivenUp {
                report(Aspect::Unreadable {
                    side: Side::A,
                    step: "comparing it at another of its names",
                    error: "that name changed meanwhile".to_owned(),
                });
            }
            // One line for each pair: an inode that was met before belongs to another one.
            let a = *first_of_a.entry(pair.a).or_insert(&met.path);
            let b = *first_of_b.entry(pair.b).or_insert(&met.path);
            let elsewhere = |first: &RelPath| (*first != met.path).then(|| first.clone());
            let (a, b) = (elsewhere(a), elsewhere(b));
            if a.is_some() || b.is_some() {
                report(Aspect::HardLinks { a, b, names: met.names });
            }
        }
        out
    }
}

//! What tests of replication need: a tree with everything that is hard to carry, changes to it, and
//! a comparison that owes nothing to Farshore's code.
//!
//! Guarantees: the same seed and options make the same tree, and the same changes to the same tree
//! ([`mutate()`] leaves the times the kernel sets to the kernel). Everything goes by directory
//! handles, so paths longer than PATH_MAX are no special case. Everything runs as root and, with
//! fewer items, as an ordinary user. Refuses: to follow a symbolic link below a root. The trees are
//! taken to be quiet while a call runs.

pub mod compare;
pub mod mutate;
pub mod rng;
pub mod rsync;
pub mod torture;
pub mod tree;

pub use compare::{Aspect, Difference, compare, without_holes};
pub use mutate::{Mutation, MutationKind, mutate, mutate_one};
pub use rng::Rng;
pub use rsync::{has_rsync, rsync_copy, rsync_differences};
pub use torture::{Made, Manifest, Options, Skipped, TortureTree};
pub use tree::{Facts, Kind, Time, Tree, remove_tree, shown};

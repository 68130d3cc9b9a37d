//! Which directories of a share have changed, as the kernel tells.
//!
//! ```text
//! kernel ─► Watcher (fanotify, else inotify, else nothing) ─► DirtySet ─► take ─► a cut ─► done
//!           one thread reads; sync() reads too                 │  ▲                  └─► put back
//!                                                      capture.journal
//! ```
//! Guarantees:
//! - A change that was completed before [`Watcher::sync`] was called is in the set when that returns: the
//!   directory it was made in waits, or something that includes it, or the set says whole.
//! - A mark waits or is in flight until a taking that holds it is [`DirtySet::done`]; one that comes while
//!   its directory is in flight is kept for the next. A [`Taken`] that is dropped waits again.
//! - What cannot be known is never guessed: a queue that overflowed, a watch that was interrupted, a
//!   change whose place cannot be told mark everything, with the reason.
//! - Memory is bounded by [`DirtyConfig`]; beyond, accounts are collapsed into one deep mark each, then
//!   all into the whole.
//! - No lock of the set, and none of the report, is held during a system call on the share: a stalled mount
//!   stalls the reader alone.
//!
//! A shallow mark means the directory itself and its direct children, a deep one all below as well. A new
//! or moved directory is marked deep, and its parent, old and new, shallow.
//!
//! Refuses: to follow links, to leave the root's own mount, to tell of `.farshore`. A root that is not
//! where it was is told as such ([`Notice::RootGone`]); nothing is given out then, nothing is concluded
//! from it. Events are hints: nothing is deleted because of one.
//!
//! Not seen: writes through shared memory maps before they are unmapped; the further names of an inode
//! that was changed by one of them; what other hosts do on a network file system, which
//! [`WatchReport::remote`] and [`Synced::Partial`] say. The root is held open: its file system can be
//! unmounted lazily only.
//!
//! What survives a crash: see [`JOURNAL_NAME`] in `docs/format.md`. Everything marked and not done waits
//! again; that nobody watched meanwhile marks the whole beside it, so that a caller may look at what is
//! known first ([`TakeFilter::parts_only`]). Where a [`Keeper`] keeps the queue of fanotify, the kernel watches
//! while no process does: [`resume`] reads what it queued, and marks the whole only where it cannot be shown that
//! nothing was lost ([`Disbelief`]): `ledger.rs` has the argument. By inotify that is never shown: the queue could
//! be kept, but what it means is in a table of watches that ends with the process.

mod announced;
mod dirty;
mod fanotify;
mod handles;
mod inotify;
mod journal;
mod keeper;
mod ledger;
mod map;
mod marks;
mod place;
mod state;
#[cfg(test)]
mod tests;
mod watcher;

pub use self::dirty::{
    AccountStatus, DirtyConfig, DirtySet, DirtyStatus, TakeFilter, Taken, Taking,
};
pub use self::journal::NAME as JOURNAL_NAME;
pub use self::keeper::{Disbelief, Keeper, Kept};
pub use self::state::{Gap, Resumed};
pub use self::watcher::{Notice, Synced, WatchConfig, WatchKind, WatchReport, Watcher, resume};

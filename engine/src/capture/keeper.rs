//! Who keeps a watch's descriptors while no process of ours runs, and why what was kept is not believed.
//!
//! Guarantees: descriptors alone go through here, and nothing is concluded from them before they are checked
//! ([`super::resume`]). A keeper that keeps nothing costs a look at everything at the next start, nothing else.

use std::os::fd::{BorrowedFd, OwnedFd};

/// What a keeper gave back: the queue of events, and the memory they are read into.
#[derive(Debug)]
pub struct Kept {
    /// The kernel's queue.
    pub events: OwnedFd,
    /// The ledger.
    pub ledger: OwnedFd,
}

/// Keeps descriptors from one process to the next; a service manager does.
pub trait Keeper: Send + Sync + std::fmt::Debug {
    /// What the process before left, or the part of it that is there. The keeper goes on keeping it.
    fn given(&self) -> Option<Kept>;
    /// Keeps these, in the place of what it kept.
    fn keep(&self, events: BorrowedFd<'_>, ledger: BorrowedFd<'_>);
    /// Keeps nothing any more: a queue that nobody will read must not fill.
    fn forget(&self);
}

/// Why a watch that was kept is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Disbelief {
    /// It is of another start of the machine.
    #[error("the machine was started anew")]
    OtherBoot,
    /// It is of another root.
    #[error("what was kept watches another root")]
    OtherRoot,
    /// The kernel does not watch the file system any more.
    #[error("the file system was unmounted meanwhile")]
    Unmarked,
    /// The journal is another watch's.
    #[error("the journal of changes is not that of the watch that was kept")]
    OtherJournal,
    /// The journal lacks what was read.
    #[error("the journal of changes is older than what was read since")]
    OlderJournal,
    /// What was heard last is in no journal.
    #[error("what was heard last could not be written to the journal of changes")]
    Unwritten,
    /// The process ended in a read whose memory the kernel may not have reached.
    #[error("the process ended while it read events")]
    TornRead,
    /// It is not as this version makes it.
    #[error("what was kept is not as this version keeps it")]
    Unknown,
}

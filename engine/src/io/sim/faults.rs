//! Faults on demand: calls that fail, syncs that lie, the power cut.

use std::collections::BTreeMap;
use std::io;

use rustix::io::Errno;

/// What happens to a chosen operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// EIO. A sync makes nothing durable and forgets nothing; a write may have written a part.
    Eio,
    /// ENOSPC, else as [`Self::Eio`].
    Enospc,
    /// EDQUOT, else as [`Self::Eio`].
    Edquot,
    /// EROFS, else as [`Self::Eio`].
    Erofs,
    /// The sync at that operation, or the first one after it, returns EIO once and marks what it
    /// should have made durable as clean, as Linux does: the next sync succeeds, and after a crash
    /// the data is not there. For a file or the whole disk the pages are lost (size, facts and names
    /// are not), for a directory its name operations.
    SyncLies,
}

impl Fault {
    fn errno(self) -> Errno {
        match self {
            Self::Eio | Self::SyncLies => Errno::IO,
            Self::Enospc => Errno::NOSPC,
            Self::Edquot => Errno::DQUOT,
            Self::Erofs => Errno::ROFS,
        }
    }
}

/// What an operation is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Go,
    Fail(Errno),
    /// A sync that loses what it should keep.
    Lie,
    /// The power goes while it runs.
    Cut,
}

/// The plan of faults and the counters it goes by.
#[derive(Debug, Clone, Default)]
pub(super) struct Faults {
    operations: u64,
    reads: u64,
    armed: BTreeMap<u64, Fault>,
    armed_reads: BTreeMap<u64, Fault>,
    cut: Option<u64>,
    lie: bool,
    dead: bool,
    pub(super) read_only: bool,
}

impl Faults {
    pub(super) fn operations(&self) -> u64 {
        self.operations
    }

    pub(super) fn reads(&self) -> u64 {
        self.reads
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead
    }

    pub(super) fn arm(&mut self, n: u64, fault: Fault) {
        self.armed.insert(self.operations + n.max(1), fault);
    }

    pub(super) fn arm_read(&mut self, n: u64, fault: Fault) {
        self.armed_reads.insert(self.reads + n.max(1), fault);
    }

    pub(super) fn cut_at(&mut self, n: u64) {
        self.cut = Some(self.operations + n.max(1));
    }

    pub(super) fn die(&mut self) {
        self.dead = true;
    }

    /// After a crash: nothing is armed and the power is back; the counters go on.
    pub(super) fn restart(&mut self) {
        *self = Self { operations: self.operations, reads: self.reads, ..Self::default() };
    }

    /// Counts an operation and says what it is to do.
    pub(super) fn step(&mut self, is_sync: bool) -> Step {
        self.operations += 1;
        if self.cut.is_some_and(|at| at <= self.operations) {
            return Step::Cut;
        }
        match self.armed.remove(&self.operations) {
            Some(Fault::SyncLies) => self.lie = true,
            Some(fault) => return Step::Fail(fault.errno()),
            None if self.read_only && !is_sync => return Step::Fail(Errno::ROFS),
            None => {}
        }
        if is_sync && std::mem::take(&mut self.lie) { Step::Lie } else { Step::Go }
    }

    /// Counts a read.
    pub(super) fn read_step(&mut self) -> io::Result<()> {
        self.reads += 1;
        match self.armed_reads.remove(&self.reads) {
            Some(fault) => Err(fault.errno().into()),
            None => Ok(()),
        }
    }
}

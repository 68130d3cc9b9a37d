//! What was done and not made durable: operations in their global order.
//!
//! Name operations that a directory sync covered stay in the log, marked, until everything before
//! them is covered too: a crash always replays them. So a name that was moved into a directory which
//! itself gets lost is not lost with it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use farshore_core::entry::Timestamp;

use super::tree::{Id, Inode, Tree};

/// A change of names, replayable on any state.
#[derive(Debug, Clone)]
pub(super) struct NameOp {
    pub(super) seq: u64,
    pub(super) time: Timestamp,
    pub(super) change: NameChange,
}

#[derive(Debug, Clone)]
pub(super) enum NameChange {
    Create {
        directory: Id,
        name: Box<[u8]>,
        id: Id,
        /// The inode as it was made.
        birth: Box<Inode>,
        /// Inodes that had its number before.
        earlier: Box<[Id]>,
    },
    Link {
        directory: Id,
        name: Box<[u8]>,
        id: Id,
    },
    /// Of a directory too.
    Unlink {
        directory: Id,
        name: Box<[u8]>,
        id: Id,
    },
    Rename {
        from: Id,
        from_name: Box<[u8]>,
        to: Id,
        to_name: Box<[u8]>,
        id: Id,
        replaced: Option<Id>,
    },
    /// Two names of what is no directory change places.
    Exchange {
        names: [(Id, Box<[u8]>); 2],
        ids: [Id; 2],
    },
}

impl NameChange {
    /// The names it reads and writes.
    fn keys(&self) -> Vec<(Id, Box<[u8]>)> {
        match self {
            Self::Create { directory, name, .. }
            | Self::Link { directory, name, .. }
            | Self::Unlink { directory, name, .. } => vec![(*directory, name.clone())],
            Self::Rename { from, from_name, to, to_name, .. } => {
                vec![(*from, from_name.clone()), (*to, to_name.clone())]
            }
            Self::Exchange { names, .. } => names.to_vec(),
        }
    }

    fn touches(&self, directories: &BTreeSet<Id>) -> bool {
        match self {
            Self::Create { directory, .. }
            | Self::Link { directory, .. }
            | Self::Unlink { directory, .. } => directories.contains(directory),
            Self::Rename { from, to, .. } => directories.contains(from) || directories.contains(to),
            Self::Exchange { names, .. } => names.iter().any(|(at, _)| directories.contains(at)),
        }
    }

    /// The inodes it gives or takes a name.
    pub(super) fn ids(&self) -> (Id, Option<Id>) {
        match self {
            Self::Create { id, .. } | Self::Link { id, .. } | Self::Unlink { id, .. } => {
                (*id, None)
            }
            Self::Rename { id, replaced, .. } => (*id, *replaced),
            Self::Exchange { ids: [one, other], .. } => (*one, Some(*other)),
        }
    }
}

/// A change of one inode's facts, size among them, replayable on any state.
#[derive(Debug, Clone)]
pub(super) struct FactOp {
    pub(super) seq: u64,
    pub(super) time: Timestamp,
    pub(super) change: FactChange,
}

#[derive(Debug, Clone)]
pub(super) enum FactChange {
    Mode(u32),
    Owner {
        uid: u32,
        gid: u32,
    },
    Mtime(Timestamp),
    SetXattr(Box<[u8]>, Box<[u8]>),
    RemoveXattr(Box<[u8]>),
    /// Something was written that ends here; the pages are apart.
    Written {
        end: u64,
    },
    Length(u64),
    Reserve(Range<u64>),
}

#[derive(Debug, Clone)]
pub(super) struct PendingName {
    pub(super) op: NameOp,
    /// A directory sync covered it.
    pub(super) settled: bool,
}

/// Operations no sync has made durable.
#[derive(Debug, Clone, Default)]
pub(super) struct Log {
    seq: u64,
    pub(super) names: BTreeMap<u64, PendingName>,
    pub(super) facts: BTreeMap<Id, Vec<FactOp>>,
    /// Inodes as they were made, for those whose making is in the log.
    births: BTreeMap<Id, Inode>,
}

/// A pending operation in global order.
#[derive(Debug)]
pub(super) enum Pending {
    Name(PendingName),
    Fact(Id, FactOp),
}

impl Log {
    pub(super) fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    pub(super) fn push_name(&mut self, op: NameOp) {
        if let NameChange::Create { id, birth, .. } = &op.change {
            self.births.insert(*id, (**birth).clone());
        }
        self.names.insert(op.seq, PendingName { op, settled: false });
    }

    pub(super) fn push_fact(&mut self, id: Id, op: FactOp) {
        let ops = self.facts.entry(id).or_default();
        // Writes within the file in a row are one change of its time.
        if let (FactChange::Written { end }, Some(last)) = (&op.change, ops.last_mut())
            && let FactChange::Written { end: before } = last.change
            && *end <= before
        {
            last.seq = op.seq;
            last.time = op.time;
            return;
        }
        ops.push(op);
    }

    /// Puts the inode into `durable`, without a name, if it is not there.
    pub(super) fn ensure_inode(&self, durable: &mut Tree, id: Id) -> bool {
        if durable.get(id).is_none() {
            let Some(birth) = self.births.get(&id) else { return false };
            durable.inodes.insert(id, birth.clone());
        }
        true
    }

    /// Makes the pending facts of an inode durable.
    pub(super) fn settle_facts(&mut self, durable: &mut Tree, id: Id) {
        for op in self.facts.remove(&id).unwrap_or_default() {
            durable.apply_fact(id, &op);
        }
    }

    /// Makes the name operations of `directory` durable, with those they cannot be without.
    pub(super) fn settle_directory(&mut self, durable: &mut Tree, directory: Id) {
        for seq in self.covered(directory) {
            let Some(pending) = self.names.get_mut(&seq) else { continue };
            pending.settled = true;
            // The name stands even if the one it was linked from was never durable.
            if let NameChange::Link { id, .. } = pending.op.change {
                self.ensure_inode(durable, id);
            }
        }
        while let Some(first) = self.names.first_entry()
            && first.get().settled
        {
            durable.apply_name(&first.remove().op);
        }
    }

    /// Forgets the name operations of `directory`: never durable, whatever is synced later.
    pub(super) fn forget_directory(&mut self, directory: Id) {
        let directories = BTreeSet::from([directory]);
        self.names.retain(|_, p| p.settled || !p.op.change.touches(&directories));
    }

    /// Everything pending, in order; the log is empty afterwards.
    pub(super) fn take_all(&mut self) -> Vec<Pending> {
        let names = std::mem::take(&mut self.names);
        let mut all: Vec<(u64, Pending)> =
            names.into_iter().map(|(seq, name)| (seq, Pending::Name(name))).collect();
        for (id, ops) in std::mem::take(&mut self.facts) {
            all.extend(ops.into_iter().map(|op| (op.seq, Pending::Fact(id, op))));
        }
        all.sort_by_key(|(seq, _)| *seq);
        self.births.clear();
        all.into_iter().map(|(_, pending)| pending).collect()
    }

    /// The operations a sync of `directory` covers: those in it, and what those depend on: earlier
    /// operations on the same names; the emptying of a directory that goes; the names of the other
    /// directories something was moved from or to.
    fn covered(&self, directory: Id) -> Vec<u64> {
        let mut directories = BTreeSet::from([directory]);
        let mut keys = BTreeSet::new();
        let mut ids = BTreeSet::new();
        let mut covered = Vec::new();
        for (seq, pending) in self.names.iter().rev() {
            let change = &pending.op.change;
            let (id, replaced) = change.ids();
            let own = change.keys();
            let by_id = ids.contains(&id) || replaced.is_some_and(|id| ids.contains(&id));
            let wanted = change.touches(&directories) || own.iter().any(|key| keys.contains(key));
            if !(wanted || by_id) {
                continue;
            }
            // One covered before is followed as well: the sync that covered it left out the name of
            // its own directory, which this one may need.
            if !pending.settled {
                covered.push(*seq);
            }
            ids.extend(own.iter().map(|(at, _)| *at).filter(|at| *at != directory));
            match change {
                NameChange::Create { earlier, .. } => ids.extend(earlier.iter().copied()),
                NameChange::Unlink { id, .. } => {
                    directories.insert(*id);
                }
                NameChange::Rename { replaced: Some(id), .. } => {
                    directories.insert(*id);
                }
                _ => {}
            }
            keys.extend(own);
        }
        covered
    }
}

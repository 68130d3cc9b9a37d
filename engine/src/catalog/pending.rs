//! What the indexes of contents and inodes have not got yet.
//!
//! Their keys come in no order: one by one each would touch another page of the database, which cost
//! more than everything else a first replication records. Here they wait, over transactions, until
//! there are many to insert in order.
//!
//! Guarantees: what is pending is found as if it were in the tables; at most [`PENDING_MAX`] of each
//! wait. It does not survive a crash, nor a transaction that fails: the catalog is marked as not
//! indexed in the transaction that leaves anything here, stays so when that was lost, and is indexed
//! anew from its entries when it is next opened.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use farshore_core::recipe::FileDigest;

/// Keys of each kind that wait at most: some 20 MiB, and many to a page of the table.
const PENDING_MAX: usize = 1 << 17;

/// Keys that may wait where they are kept twice, so that a transaction can be undone.
const NOTED_MAX: usize = 1 << 14;

/// Keys that wait, shared by the one writer and all readers. Nobody holds its lock over a call of the
/// database.
#[derive(Debug, Default)]
pub(super) struct Pending {
    new: Keys,
    /// In the tables of a transaction that is not committed: still to be found here.
    settling: Arc<Keys>,
    /// Keys of committed entries are gone: only indexing anew brings them back.
    lost: bool,
    /// What was here before the transaction under way, where that may be undone.
    noted: Option<Box<Self>>,
}

#[derive(Debug, Default, Clone)]
pub(super) struct Keys {
    pub(super) contents: BTreeSet<Box<[u8]>>,
    pub(super) inodes: BTreeMap<u64, Box<[u8]>>,
}

impl Keys {
    fn locations(&self, content: &FileDigest) -> impl Iterator<Item = &[u8]> {
        let start: &[u8] = &content.0;
        self.contents
            .range::<[u8], _>((Bound::Included(start), Bound::Unbounded))
            .map(|key| &**key)
            .take_while(move |key| key.starts_with(&content.0))
    }

    fn is_empty(&self) -> bool {
        self.contents.is_empty() && self.inodes.is_empty()
    }
}

impl Pending {
    /// Whether the tables have all keys once the transaction under way is committed.
    pub(super) fn is_complete(&self) -> bool {
        !self.lost && self.is_empty()
    }

    /// Whether nothing waits for a later transaction than the one under way.
    pub(super) fn is_empty(&self) -> bool {
        self.new.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.new.contents.len().max(self.new.inodes.len()) >= PENDING_MAX
    }

    /// What the transaction under way is to insert. It is found here until that is over.
    pub(super) fn settle(&mut self) -> Arc<Keys> {
        let new = std::mem::take(&mut self.new);
        // A second time within one transaction: what the first one inserted is still to be found.
        let mut all = std::mem::take(&mut self.settling);
        if all.is_empty() {
            all = Arc::new(new);
        } else {
            let joined = Arc::make_mut(&mut all);
            joined.contents.extend(new.contents);
            joined.inodes.extend(new.inodes);
        }
        self.settling = Arc::clone(&all);
        all
    }

    /// Whether [`Self::note`] is no burden.
    pub(super) fn can_note(&self) -> bool {
        self.new.contents.len().max(self.new.inodes.len()) <= NOTED_MAX
    }

    /// A transaction begins that may be [undone](Self::undone).
    pub(super) fn note(&mut self) {
        let (new, settling) = (self.new.clone(), Arc::clone(&self.settling));
        self.noted = Some(Box::new(Self { new, settling, lost: self.lost, noted: None }));
    }

    /// The transaction is committed.
    pub(super) fn committed(&mut self) {
        self.settling = Arc::default();
        self.noted = None;
    }

    /// The transaction was not to be: what waits is what waited before.
    pub(super) fn undone(&mut self) {
        if let Some(before) = self.noted.take() {
            *self = *before;
        }
    }

    /// The transaction failed: what it added is of no entry, and with it goes what waited.
    pub(super) fn forget_all(&mut self) {
        *self = Self { lost: true, ..Self::default() };
    }

    pub(super) fn add_content(&mut self, location: Vec<u8>) {
        self.new.contents.insert(location.into());
    }

    /// Whether it waited here alone, so that it is in no table.
    pub(super) fn forget_content(&mut self, location: &[u8]) -> bool {
        if !self.settling.is_empty() {
            Arc::make_mut(&mut self.settling).contents.remove(location);
        }
        self.new.contents.remove(location)
    }

    /// Locations of `content`.
    pub(super) fn locations(&self, content: &FileDigest) -> impl Iterator<Item = &[u8]> {
        self.new.locations(content).chain(self.settling.locations(content))
    }

    pub(super) fn has_content(&self, content: &FileDigest) -> bool {
        self.locations(content).next().is_some()
    }

    pub(super) fn add_inode(&mut self, inode: u64, key: Vec<u8>) {
        self.new.inodes.insert(inode, key.into());
    }

    pub(super) fn forget_inode(&mut self, inode: u64) {
        if !self.settling.is_empty() {
            Arc::make_mut(&mut self.settling).inodes.remove(&inode);
        }
        self.new.inodes.remove(&inode);
    }

    /// The key an inode had when it was last seen.
    pub(super) fn inode(&self, inode: u64) -> Option<&[u8]> {
        let found = self.new.inodes.get(&inode).or_else(|| self.settling.inodes.get(&inode));
        found.map(|key| &**key)
    }
}

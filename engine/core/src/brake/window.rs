//! Sliding sums of a share's or an account's events.
//!
//! A bucket counts as long as any part of it lies in the window, so a sum covers the window or a
//! little more (one bucket, 1/28 of it), never less. A clock that goes back adds to the newest bucket.

use std::collections::VecDeque;

use super::hold::Kinds;
use super::tally::{AccountTally, Extension, ExtensionCount};

/// Most buckets of one window. Of 20,000 accounts that are all busy they take some 50 MB.
pub(super) const BUCKETS_MAX: usize = 30;
/// Most new extensions counted apart in one bucket: a shape has one.
pub(super) const EXTENSIONS_MAX: usize = 8;

/// What is summed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Sums {
    /// Entries deleted that were older than the window, outside purge windows.
    pub(super) deleted: u64,
    /// Files rewritten that were older than the window, each once.
    pub(super) rewritten: u64,
    /// Of these, looked into.
    pub(super) sampled: u64,
    /// Of these, compressible before and not any more.
    pub(super) encrypted: u64,
    /// Entries moved that were older than the window.
    pub(super) moved: u64,
    /// By how many entries it grew.
    pub(super) grown: i64,
    /// By new extension, sorted.
    pub(super) extensions: Vec<ExtensionCount>,
}

impl Sums {
    /// What `tally` adds; deletes in a purge window count for the growth alone.
    pub(super) fn of(tally: &AccountTally, purge: bool) -> Self {
        Self {
            deleted: if purge { 0 } else { tally.deleted },
            rewritten: tally.rewritten,
            sampled: tally.sampled,
            encrypted: tally.encrypted,
            moved: tally.moved,
            grown: tally.grown,
            extensions: tally.extensions.clone(),
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.deleted = self.deleted.saturating_add(other.deleted);
        self.rewritten = self.rewritten.saturating_add(other.rewritten);
        self.sampled = self.sampled.saturating_add(other.sampled);
        self.encrypted = self.encrypted.saturating_add(other.encrypted);
        self.moved = self.moved.saturating_add(other.moved);
        self.grown = self.grown.saturating_add(other.grown);
        for e in &other.extensions {
            let count = extension(&mut self.extensions, e.extension);
            count.appended = count.appended.saturating_add(e.appended);
            count.renamed = count.renamed.saturating_add(e.renamed);
        }
    }

    /// Without what an approval of `kinds` covers. Approved deletes are no loss either: percentages are
    /// of what was left to be there.
    pub(super) fn not_of(mut self, kinds: Kinds) -> Self {
        if kinds.deletes() {
            self.grown = self.grown.saturating_add_unsigned(self.deleted);
            self.deleted = 0;
        }
        if kinds.rewrites() {
            (self.rewritten, self.sampled, self.encrypted) = (0, 0, 0);
        }
        if kinds.moves() {
            self.moved = 0;
        }
        if kinds.deletes() || kinds.moves() {
            self.extensions.clear();
        }
        self
    }

    /// Forgets all but the growth, which percentages need.
    fn settle(&mut self) {
        let grown = self.grown.saturating_add_unsigned(self.deleted);
        *self = Self { grown, ..Self::default() };
    }
}

fn extension(all: &mut Vec<ExtensionCount>, wanted: Extension) -> &mut ExtensionCount {
    let at = match all.binary_search_by_key(&wanted, |e| e.extension) {
        Ok(at) => at,
        Err(at) => {
            all.insert(at, ExtensionCount { extension: wanted, appended: 0, renamed: 0 });
            at
        }
    };
    &mut all[at]
}

/// The buckets of one share or account, oldest first; none without events.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Window {
    pub(super) buckets: VecDeque<(u64, Sums)>,
}

impl Window {
    pub(super) fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// Drops what ended before the window begins.
    pub(super) fn expire(&mut self, oldest_slot: u64) {
        while self.buckets.front().is_some_and(|&(slot, _)| slot < oldest_slot) {
            self.buckets.pop_front();
        }
    }

    /// Adds to the bucket of `slot`, or to the newest when `slot` is older.
    pub(super) fn add(&mut self, slot: u64, sums: &Sums) {
        if *sums == Sums::default() {
            return;
        }
        match self.buckets.back_mut() {
            Some((newest, into)) if *newest >= slot => into.add(sums),
            _ => self.buckets.push_back((slot, sums.clone())),
        }
        // The caller expires first, so this is for states that were read with other settings.
        while self.buckets.len() > BUCKETS_MAX {
            if let (Some((_, oldest)), Some((_, next))) =
                (self.buckets.pop_front(), self.buckets.front_mut())
            {
                next.add(&oldest);
            }
        }
        if let Some((_, newest)) = self.buckets.back_mut() {
            while newest.extensions.len() > EXTENSIONS_MAX {
                let least =
                    (0..newest.extensions.len()).min_by_key(|&i| newest.extensions[i].total());
                newest.extensions.remove(least.unwrap_or(0));
            }
        }
    }

    /// Takes back a rewrite counted in `slot`: the same file counts anew, later.
    pub(super) fn take_rewrite(&mut self, slot: u64, encrypted: bool) {
        if let Ok(at) = self.buckets.binary_search_by_key(&slot, |&(slot, _)| slot) {
            let sums = &mut self.buckets[at].1;
            sums.rewritten = sums.rewritten.saturating_sub(1);
            sums.encrypted = sums.encrypted.saturating_sub(u64::from(encrypted));
        }
    }

    pub(super) fn sums(&self) -> Sums {
        let mut all = Sums::default();
        self.buckets.iter().for_each(|(_, sums)| all.add(sums));
        all
    }

    /// Forgets the events: somebody judged them.
    pub(super) fn settle(&mut self) {
        self.buckets.iter_mut().for_each(|(_, sums)| sums.settle());
        self.buckets.retain(|(_, sums)| *sums != Sums::default());
    }
}

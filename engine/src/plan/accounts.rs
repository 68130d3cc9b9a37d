//! What a plan means for each account.
//!
//! Guarantees: what is held is bounded whatever the tree: so many accounts, so many names in all. What
//! is beyond is counted, under the share's own account and without names.

use std::collections::BTreeMap;

use farshore_core::account::account_of;
use farshore_core::path::RelPath;

/// Accounts told apart, at most; the rest is counted under the root.
pub const ACCOUNTS_MAX: usize = 100_000;
/// Names of an account in one sample, at most.
pub const NAMES_MAX: usize = 64;
/// Names in all samples together, at most: some 8 MiB of usual paths.
const ALL_NAMES_MAX: usize = 1 << 16;

/// What a plan does in one account. Entries as the walk met them: a closer look may find less.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccountTally {
    /// Entries that the catalog does not know, those that moved here not among them.
    pub created: u64,
    /// Entries to be deleted.
    pub deleted: u64,
    /// Known files whose content changed.
    pub rewritten: u64,
    /// Entries that moved here, from the same account or another.
    pub moved: u64,
    /// Some of the paths that are new, created or moved here.
    pub new_names: Vec<RelPath>,
    /// Some of the paths that are gone, deleted or moved away.
    pub gone_names: Vec<RelPath>,
}

/// Counts by account while a plan is made.
#[derive(Debug)]
pub(super) struct Accounts {
    depth: usize,
    names_left: usize,
    by_account: BTreeMap<RelPath, AccountTally>,
}

impl Accounts {
    pub(super) fn new(depth: usize) -> Self {
        Self { depth, names_left: ALL_NAMES_MAX, by_account: BTreeMap::new() }
    }

    pub(super) fn finish(self) -> BTreeMap<RelPath, AccountTally> {
        self.by_account
    }

    fn of(&mut self, path: &RelPath) -> &mut AccountTally {
        let mut account = account_of(path, self.depth);
        if self.by_account.len() >= ACCOUNTS_MAX && !self.by_account.contains_key(&account) {
            account = RelPath::root();
        }
        self.by_account.entry(account).or_default()
    }

    /// An entry of that path came: `moved`, or as something new.
    pub(super) fn came(&mut self, path: &RelPath, moved: bool) {
        let left = self.names_left;
        let account = self.of(path);
        *(if moved { &mut account.moved } else { &mut account.created }) += 1;
        let is_taken = sample(&mut account.new_names, path, left);
        self.names_left -= usize::from(is_taken);
    }

    /// The content of a known file changed.
    pub(super) fn rewritten(&mut self, path: &RelPath) {
        self.of(path).rewritten += 1;
    }

    /// An entry is gone: deleted, or it moved away.
    pub(super) fn went(&mut self, path: &RelPath, deleted: bool) {
        let left = self.names_left;
        let account = self.of(path);
        account.deleted += u64::from(deleted);
        let is_taken = sample(&mut account.gone_names, path, left);
        self.names_left -= usize::from(is_taken);
    }

    /// What was counted as deleted moved.
    pub(super) fn not_deleted(&mut self, path: &RelPath) {
        let account = self.of(path);
        account.deleted = account.deleted.saturating_sub(1);
    }
}

fn sample(names: &mut Vec<RelPath>, path: &RelPath, left: usize) -> bool {
    let is_taken = left > 0 && names.len() < NAMES_MAX;
    if is_taken {
        names.push(path.clone());
    }
    is_taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_accounts_nor_names_grow_without_end() {
        let mut accounts = Accounts::new(1);
        let path =
            |n: usize, m: usize| RelPath::new(format!("{n}/{m}").into_bytes()).expect("valid");
        for m in 0..100 {
            accounts.came(&path(0, m), false);
            accounts.went(&path(0, m), true);
        }
        for n in 1..ACCOUNTS_MAX + 50 {
            accounts.came(&path(n, 0), false);
            accounts.came(&path(n, 1), true);
        }
        let all = accounts.finish();
        let first = &all[&RelPath::new(*b"0").expect("valid")];
        assert_eq!((first.created, first.deleted), (100, 100));
        assert_eq!((first.new_names.len(), first.gone_names.len()), (NAMES_MAX, NAMES_MAX));
        assert_eq!(all.len(), ACCOUNTS_MAX + 1);
        let rest = &all[&RelPath::root()];
        assert_eq!((rest.created, rest.moved), (50, 50));
        let names: usize = all.values().map(|a| a.new_names.len() + a.gone_names.len()).sum();
        assert_eq!(names, ALL_NAMES_MAX);
    }
}

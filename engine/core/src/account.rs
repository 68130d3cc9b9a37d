//! Accounts: the folders that a share is divided into for order, priority and reporting.
//!
//! Guarantees: every path belongs to exactly one account, told by its own bytes alone.

use crate::path::RelPath;

/// The account of `path`: its first `depth` components. Entries above belong to the account "", the
/// share itself.
#[must_use]
pub fn account_of(path: &RelPath, depth: usize) -> RelPath {
    let bytes = path.as_bytes();
    if depth == 0 || path.is_root() {
        return RelPath::root();
    }
    let mut ends = bytes.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
    match ends.nth(depth - 1) {
        Some(end) => RelPath::new(&bytes[..end]).unwrap_or_default(),
        None if path.components().count() == depth => path.clone(),
        None => RelPath::root(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_components_are_the_account_and_what_is_above_is_the_shares() {
        let path = |text: &str| RelPath::new(text.as_bytes()).expect("valid");
        for (of, depth, account) in [
            ("", 0, ""),
            ("", 1, ""),
            ("a/b", 0, ""),
            ("a", 1, "a"),
            ("a/b/c", 1, "a"),
            ("a", 2, ""),
            ("a/b", 2, "a/b"),
            ("a/b/c/d", 2, "a/b"),
        ] {
            assert_eq!(account_of(&path(of), depth), path(account), "{of} at {depth}");
        }
    }
}

//! Accounts: the folders that are counted, ordered and judged by themselves.

use crate::path::RelPath;

/// The account that `path` belongs to: its first `depth` components; the root, which stands for the share
/// itself, for what lies above all accounts.
#[must_use]
pub fn account_of(path: &RelPath, depth: usize) -> RelPath {
    let bytes = path.as_bytes();
    let mut ends = bytes.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
    let end = match depth.checked_sub(1) {
        None => return RelPath::root(),
        Some(before) => ends.nth(before),
    };
    let Some(end) = end else {
        let is_deep_enough = path.components().count() == depth;
        return if is_deep_enough { path.clone() } else { RelPath::root() };
    };
    // The beginning of a path is one.
    RelPath::new(&bytes[..end]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_so_many_components_and_what_is_above_is_the_share() {
        let path = |s: &str| RelPath::new(s.as_bytes()).expect("valid");
        for (of, depth, account) in [
            ("", 1, ""),
            ("a", 0, ""),
            ("a", 1, "a"),
            ("a/b", 1, "a"),
            ("a/b", 2, "a/b"),
            ("a/b/c/d", 2, "a/b"),
            ("a", 2, ""),
            ("a/b", 3, ""),
        ] {
            assert_eq!(account_of(&path(of), depth), path(account), "{of} {depth}");
        }
    }
}

//! Accounts: the unit in which a share is shown, held and given its turn.

use crate::path::RelPath;

/// The account `path` belongs to: its first `depth` components; the share itself (the empty path) for
/// what lies above the accounts.
#[must_use]
pub fn account_of(path: &RelPath, depth: usize) -> RelPath {
    let Some(last) = depth.checked_sub(1) else { return RelPath::root() };
    let bytes = path.as_bytes();
    let end = match bytes.iter().enumerate().filter(|&(_, &b)| b == b'/').nth(last) {
        Some((at, _)) => at,
        None if path.components().count() == depth => bytes.len(),
        None => return RelPath::root(),
    };
    // What begins a path and ends before a slash is a path.
    RelPath::new(&bytes[..end]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_the_first_components_and_what_lies_above_is_the_share() {
        let of = |path: &str, depth| {
            account_of(&RelPath::new(path.as_bytes()).expect("a path"), depth).as_bytes().to_vec()
        };
        assert_eq!(of("BU01/a7/in/x", 2), b"BU01/a7");
        assert_eq!(of("BU01/a7", 2), b"BU01/a7");
        assert_eq!(of("BU01", 2), b"");
        assert_eq!(of("BU01", 1), b"BU01");
        assert_eq!(of("BU01/x", 1), b"BU01");
        assert_eq!(of("BU01/x", 0), b"");
        assert_eq!(of("", 1), b"");
    }
}

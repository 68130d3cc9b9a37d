//! Which divergences of a plan are meant: by class, outcome, account, path.

use crate::account::account_of;
use crate::failback::{Class, Divergence, outcome_name};
use crate::path::RelPath;

/// What is to be shown or changed; nothing set means everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// One of these classes.
    pub classes: Vec<Class>,
    /// Classes of which both sites changed the path and do not agree.
    pub conflicts: bool,
    /// One of these outcomes, by name.
    pub outcomes: Vec<String>,
    /// In this account, whose path has as many components as the site's accounts have.
    pub account: Option<RelPath>,
    /// At or below this path.
    pub below: Option<RelPath>,
    /// Matching this pattern; see [`glob_matches`].
    pub glob: Option<Vec<u8>>,
}

impl Filter {
    /// Whether `divergence` is meant.
    #[must_use]
    pub fn matches(&self, divergence: &Divergence) -> bool {
        let Divergence { path, class, outcome, .. } = divergence;
        let is_account =
            |account: &RelPath| account_of(path, account.components().count()) == *account;
        (self.classes.is_empty() || self.classes.contains(class))
            && (!self.conflicts || class.is_conflict())
            && (self.outcomes.is_empty()
                || self.outcomes.iter().any(|n| n == outcome_name(outcome)))
            && self.account.as_ref().is_none_or(is_account)
            && self.below.as_ref().is_none_or(|below| path.starts_with(below))
            && self.glob.as_ref().is_none_or(|glob| glob_matches(glob, path.as_bytes()))
    }
}

/// Whether all of `text` matches `glob`: `?` is one byte and `*` any number of bytes, neither of them `/`;
/// `**` is any number of any bytes; everything else is itself. Takes at most the product of both lengths.
#[must_use]
pub fn glob_matches(glob: &[u8], text: &[u8]) -> bool {
    // Which ends of the pattern the text read so far may have come to.
    let skip = |ends: &mut [bool]| {
        for at in 0..glob.len() {
            ends[at + 1] |= ends[at] && glob[at] == b'*';
        }
    };
    let mut ends = vec![false; glob.len() + 1];
    ends[0] = true;
    skip(&mut ends);
    for &byte in text {
        let mut next = vec![false; glob.len() + 1];
        for at in 0..glob.len() {
            if !ends[at] {
                continue;
            }
            let is_double = glob[at] == b'*'
                && (glob.get(at + 1) == Some(&b'*') || (at > 0 && glob[at - 1] == b'*'));
            match glob[at] {
                b'*' => next[at] |= byte != b'/' || is_double,
                b'?' => next[at + 1] |= byte != b'/',
                other => next[at + 1] |= byte == other,
            }
        }
        skip(&mut next);
        ends = next;
    }
    ends[glob.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_paths() {
        let cases: [(&str, &str, bool); 16] = [
            ("a/b", "a/b", true),
            ("a/b", "a/bc", false),
            ("a/*", "a/b", true),
            ("a/*", "a/b/c", false),
            ("a/**", "a/b/c", true),
            ("**/x.csv", "a/b/x.csv", true),
            ("**x.csv", "x.csv", true),
            ("*.csv", "x.csv", true),
            ("*.csv", "a/x.csv", false),
            ("a/?", "a/b", true),
            ("a?b", "a/b", false),
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("a/**/z", "a/b/c/z", true),
            ("a*b*c", "axxbyyc", true),
        ];
        for (glob, text, is_match) in cases {
            assert_eq!(glob_matches(glob.as_bytes(), text.as_bytes()), is_match, "{glob} {text}");
        }
        let hard = [b"*a".repeat(200), b"b".to_vec()].concat();
        assert!(!glob_matches(&hard, &b"a".repeat(4_000)), "no pattern takes for ever");
    }
}

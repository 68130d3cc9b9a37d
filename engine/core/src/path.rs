//! Paths below a share's root, as bytes.
//!
//! Guarantees: a [`RelPath`] never leaves its root by its own words: no absolute path, no `.` or
//! `..`, no empty component, no NUL. Symbolic links on the way are the engine's to refuse.
//!
//! One total order: the children of a directory stand together, in byte order of their names, and
//! before anything below them; the subtree of a directory stands together too. It is the order in
//! which a walk that reads one directory at a time meets entries, and the order of the catalog's
//! keys (see [`RelPath::key`]).

use std::cmp::Ordering;
use std::fmt;

use crate::limits;

/// Why bytes are not a path below a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// A component is empty: a leading, trailing or doubled `/`.
    #[error("empty component")]
    EmptyComponent,
    /// A component is `.` or `..`.
    #[error("component '.' or '..'")]
    DotComponent,
    /// A NUL byte.
    #[error("NUL byte in a name")]
    Nul,
    /// A component longer than [`limits::NAME_MAX`].
    #[error("a name of {len} bytes, the limit is {}", limits::NAME_MAX)]
    NameTooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// The whole is longer than [`limits::PATH_LEN_MAX`].
    #[error("a path of {len} bytes, the limit is {}", limits::PATH_LEN_MAX)]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
}

/// A path below a share's root: components joined by `/`; empty for the root itself.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct RelPath(Box<[u8]>);

impl RelPath {
    /// The root itself.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// Checks `bytes`.
    ///
    /// # Errors
    /// [`PathError`], the first rule broken.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Result<Self, PathError> {
        let bytes = bytes.into();
        if bytes.is_empty() {
            return Ok(Self(bytes));
        }
        if bytes.len() > limits::PATH_LEN_MAX {
            return Err(PathError::TooLong { len: bytes.len() });
        }
        bytes.split(|&b| b == b'/').try_for_each(check_name)?;
        Ok(Self(bytes))
    }

    /// The child called `name`.
    ///
    /// # Errors
    /// [`PathError`] when `name` is not one component or the whole grows too long.
    pub fn join(&self, name: &[u8]) -> Result<Self, PathError> {
        self.child(name).map(PathParts::to_path)
    }

    /// The child called `name`, not put together.
    ///
    /// # Errors
    /// As [`Self::join`].
    #[inline]
    pub fn child<'a>(&'a self, name: &'a [u8]) -> Result<PathParts<'a>, PathError> {
        check_name(name)?;
        if name.contains(&b'/') {
            return Err(PathError::EmptyComponent);
        }
        let parts = PathParts { parent: &self.0, name };
        let len = parts.len();
        if len > limits::PATH_LEN_MAX {
            return Err(PathError::TooLong { len });
        }
        Ok(parts)
    }

    /// Parent and name beside each other.
    #[must_use]
    pub fn parts(&self) -> PathParts<'_> {
        let (parent, name) = self.split_bytes().unwrap_or_default();
        PathParts { parent, name }
    }

    /// Whether this is the root.
    #[must_use]
    #[inline]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes, components joined by `/`.
    #[must_use]
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Parent and name; `None` for the root.
    #[must_use]
    pub fn split(&self) -> Option<(Self, &[u8])> {
        let (parent, name) = self.split_bytes()?;
        Some((Self(parent.into()), name))
    }

    /// The last component; empty for the root.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        self.split_bytes().map_or(&[], |(_, name)| name)
    }

    /// The parent's bytes, without a copy; `None` for the root.
    #[must_use]
    pub fn parent_bytes(&self) -> Option<&[u8]> {
        self.split_bytes().map(|(parent, _)| parent)
    }

    /// The components in order.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|&b| b == b'/').filter(|c| !c.is_empty())
    }

    /// Whether this path is `ancestor` or lies below it.
    #[must_use]
    pub fn starts_with(&self, ancestor: &Self) -> bool {
        ancestor.is_root()
            || (self.0.starts_with(&ancestor.0)
                && (self.0.len() == ancestor.0.len() || self.0[ancestor.0.len()] == b'/'))
    }

    fn split_bytes(&self) -> Option<(&[u8], &[u8])> {
        if self.is_root() {
            return None;
        }
        Some(match self.0.iter().rposition(|&b| b == b'/') {
            Some(at) => (&self.0[..at], &self.0[at + 1..]),
            None => (&[], &self.0),
        })
    }

    /// The catalog key: byte order of keys is the order of paths. The parent with NUL for `/`, two
    /// NULs, the name; empty for the root.
    #[must_use]
    pub fn key(&self) -> Vec<u8> {
        let Some((parent, name)) = self.split_bytes() else { return Vec::new() };
        let mut key = children_prefix(parent);
        key.extend_from_slice(name);
        key
    }

    /// The path of a key made by [`Self::key`].
    ///
    /// # Errors
    /// [`PathError`] when the bytes are no such key.
    pub fn from_key(key: &[u8]) -> Result<Self, PathError> {
        if key.is_empty() {
            return Ok(Self::root());
        }
        let at = key.windows(2).position(|w| w == [0, 0]).ok_or(PathError::Nul)?;
        let (parent, name) = (&key[..at], &key[at + 2..]);
        if name.contains(&b'/') || parent.contains(&b'/') {
            return Err(PathError::EmptyComponent);
        }
        let mut bytes = Vec::with_capacity(key.len());
        if !parent.is_empty() {
            bytes.extend(parent.iter().map(|&b| if b == 0 { b'/' } else { b }));
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        Self::new(bytes)
    }

    /// What the keys of this directory's children, and of nothing else, begin with.
    #[must_use]
    pub fn children_key_prefix(&self) -> Vec<u8> {
        children_prefix(&self.0)
    }

    /// The key range `[from, to)` of everything below this directory, itself not included; `to` is
    /// `None` for the root, whose range has no end.
    #[must_use]
    pub fn descendants_key_range(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        if self.is_root() {
            return (vec![0], None);
        }
        let mut from: Vec<u8> = self.0.iter().map(|&b| if b == b'/' { 0 } else { b }).collect();
        let mut to = from.clone();
        from.push(0);
        to.push(1);
        (from, Some(to))
    }
}

fn children_prefix(parent: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(parent.len() + 2 + 32);
    key.extend(parent.iter().map(|&b| if b == b'/' { 0 } else { b }));
    key.extend_from_slice(&[0, 0]);
    key
}

#[inline]
fn check_name(name: &[u8]) -> Result<(), PathError> {
    match name {
        b"" => Err(PathError::EmptyComponent),
        b"." | b".." => Err(PathError::DotComponent),
        _ if name.len() > limits::NAME_MAX => Err(PathError::NameTooLong { len: name.len() }),
        _ if name.contains(&0) => Err(PathError::Nul),
        _ => Ok(()),
    }
}

/// A [`RelPath`] as parent and name, so that a walk need not put every path together.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PathParts<'a> {
    parent: &'a [u8],
    /// Empty for the root alone.
    name: &'a [u8],
}

impl<'a> PathParts<'a> {
    /// The root itself.
    #[must_use]
    pub fn root() -> Self {
        Self { parent: &[], name: &[] }
    }

    /// Whether this is the root.
    #[must_use]
    #[inline]
    pub fn is_root(self) -> bool {
        self.name.is_empty()
    }

    /// The parent's bytes; empty for the root and its children.
    #[must_use]
    #[inline]
    pub fn parent(self) -> &'a [u8] {
        self.parent
    }

    /// The last component; empty for the root.
    #[must_use]
    #[inline]
    pub fn name(self) -> &'a [u8] {
        self.name
    }

    /// The path.
    #[must_use]
    pub fn to_path(self) -> RelPath {
        if self.parent.is_empty() {
            return RelPath(self.name.into());
        }
        let mut bytes = Vec::with_capacity(self.len());
        bytes.extend_from_slice(self.parent);
        bytes.push(b'/');
        bytes.extend_from_slice(self.name);
        RelPath(bytes.into())
    }

    fn len(self) -> usize {
        if self.parent.is_empty() {
            self.name.len()
        } else {
            self.parent.len() + 1 + self.name.len()
        }
    }
}

impl fmt::Debug for PathParts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_path().fmt(f)
    }
}

/// Room for one key after the other; the children of one directory share what comes before the name.
#[derive(Debug, Default)]
pub struct KeyBuffer {
    parent: Vec<u8>,
    key: Vec<u8>,
    /// How much of `key` is the prefix of the children of `parent`; 0 before the first of them.
    prefix_len: usize,
}

impl KeyBuffer {
    /// What [`RelPath::key`] says of `path`.
    #[inline]
    pub fn key(&mut self, path: PathParts<'_>) -> &[u8] {
        if path.is_root() {
            return &[];
        }
        if self.prefix_len == 0 || self.parent != path.parent {
            self.parent.clear();
            self.parent.extend_from_slice(path.parent);
            self.key = children_prefix(path.parent);
            self.prefix_len = self.key.len();
        }
        self.key.truncate(self.prefix_len);
        self.key.extend_from_slice(path.name);
        &self.key
    }
}

impl Ord for RelPath {
    fn cmp(&self, other: &Self) -> Ordering {
        let (a, b) = match (self.split_bytes(), other.split_bytes()) {
            (Some(a), Some(b)) => (a, b),
            (a, b) => return a.is_some().cmp(&b.is_some()),
        };
        if a.0 == b.0 {
            return a.1.cmp(b.1);
        }
        let as_key = |p: &'_ [u8], i: usize| match p.get(i) {
            Some(b'/') => Some(0u8),
            Some(&c) => Some(c),
            None if i < p.len() + 2 => Some(0),
            None => None,
        };
        (0..)
            .map(|i| as_key(a.0, i).cmp(&as_key(b.0, i)))
            .find(|o| o.is_ne())
            .unwrap_or(Ordering::Equal)
    }
}

impl PartialOrd for RelPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for RelPath {
    /// Escaped for a terminal or a log: control characters, bidirectional overrides and bytes that
    /// are not UTF-8 become `\xNN` or `\u{N}`; the root is `.`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str(".");
        }
        escape(&self.0, f)
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RelPath({self})")
    }
}

/// `text` so that a terminal or a log shows it on one line and is not moved by it. Names in it that
/// [`escape`] wrote stay as they are.
#[must_use]
pub fn escape_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for piece in text.split_inclusive('\\') {
        let (plain, backslash) = match piece.strip_suffix('\\') {
            Some(plain) => (plain, "\\"),
            None => (piece, ""),
        };
        // Writing to a string does not fail.
        escape(plain.as_bytes(), &mut out).unwrap_or(());
        out.push_str(backslash);
    }
    out
}

/// The bytes that [`escape`] wrote as `text`; `None` when it never writes that.
#[must_use]
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, behind)) = rest.split_once('\\') {
        out.extend_from_slice(plain.as_bytes());
        let mut chars = behind.chars();
        rest = match chars.next()? {
            '\\' => {
                out.push(b'\\');
                chars.as_str()
            }
            'x' => {
                let (digits, behind) = chars.as_str().split_at_checked(2)?;
                out.push(u8::from_str_radix(digits, 16).ok()?);
                behind
            }
            'u' => {
                let (digits, behind) = chars.as_str().strip_prefix('{')?.split_once('}')?;
                let c = char::from_u32(u32::from_str_radix(digits, 16).ok()?)?;
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                behind
            }
            _ => return None,
        };
    }
    out.extend_from_slice(rest.as_bytes());
    Some(out)
}

/// Writes `bytes` so that a terminal or a log shows them and is not moved by them.
///
/// # Errors
/// Those of `out`.
pub fn escape(bytes: &[u8], out: &mut impl fmt::Write) -> fmt::Result {
    for part in bytes.utf8_chunks() {
        for c in part.valid().chars() {
            let bidi = matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            if c == '\\' {
                out.write_str("\\\\")?;
            } else if c.is_control() || bidi {
                write!(out, "\\u{{{:x}}}", u32::from(c))?;
            } else {
                out.write_char(c)?;
            }
        }
        for byte in part.invalid() {
            write!(out, "\\x{byte:02x}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(s: &str) -> RelPath {
        RelPath::new(s.as_bytes()).expect("a valid path")
    }

    prop_compose! {
        fn any_path()(names in prop::collection::vec(
            prop::collection::vec(prop_oneof![1u8..=46, 48u8..=255], 1..4)
                .prop_filter("dots", |n| n != b"." && n != b".."), 0..5)) -> RelPath {
            RelPath::new(names.join(&b'/')).expect("valid by construction")
        }
    }

    proptest! {
        #[test]
        fn order_of_paths_is_order_of_keys(a in any_path(), b in any_path()) {
            prop_assert_eq!(a.cmp(&b), a.key().cmp(&b.key()));
        }

        #[test]
        fn parts_make_the_same_path_and_the_same_key(paths in prop::collection::vec(any_path(), 1..9)) {
            let mut buffer = KeyBuffer::default();
            for path in paths {
                prop_assert_eq!(buffer.key(path.parts()), path.key());
                prop_assert_eq!(path.parts().to_path(), path);
            }
        }

        #[test]
        fn keys_round_trip(a in any_path()) {
            prop_assert_eq!(RelPath::from_key(&a.key()), Ok(a));
        }

        #[test]
        fn descendants_range_holds_exactly_what_lies_below(a in any_path(), b in any_path()) {
            let (from, to) = a.descendants_key_range();
            let key = b.key();
            let inside = key >= from && to.is_none_or(|to| key < to);
            prop_assert_eq!(inside, b != a && b.starts_with(&a));
        }

        #[test]
        fn what_is_escaped_is_found_again(bytes: Vec<u8>, text: String) {
            let mut shown = String::new();
            escape(&bytes, &mut shown).expect("a string takes all");
            prop_assert_eq!(unescape(&shown), Some(bytes));
            // Whatever it is, it is something or nothing.
            drop(unescape(&text));
        }

        #[test]
        fn any_bytes_make_a_path_or_an_error(bytes: Vec<u8>) {
            if let Ok(p) = RelPath::new(bytes.clone()) {
                prop_assert_eq!(p.as_bytes(), &bytes[..]);
                prop_assert!(p.components().all(|c| c != b".." && !c.contains(&0)));
            }
            let _decoded_or_refused = RelPath::from_key(&bytes).is_ok();
        }
    }

    #[test]
    fn children_come_together_before_anything_below_them() {
        let mut paths: Vec<_> =
            ["b/x", "a/c/z", "a", "b", "a/c", "a.txt", "a/b", "", "a/b/y"].map(path).into();
        paths.sort();
        let shown: Vec<_> = paths.iter().map(ToString::to_string).collect();
        assert_eq!(shown, [".", "a", "a.txt", "b", "a/b", "a/c", "a/b/y", "a/c/z", "b/x"]);
    }

    #[test]
    fn what_would_leave_the_root_is_refused() {
        for bad in ["/a", "a/", "a//b", "..", "a/../b", "./a", "a\0b", "/"] {
            assert!(RelPath::new(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(RelPath::root().join(b"a/b").is_err());
        assert!(RelPath::new(vec![b'x'; 256]).is_err());
    }

    #[test]
    fn display_cannot_move_a_terminal() {
        let p = RelPath::new(*b"a\x1b[2J\n\xff\xe2\x80\xae").expect("odd but valid");
        assert_eq!(p.to_string(), "a\\u{1b}[2J\\u{a}\\xff\\u{202e}");
    }
}

//! Sets of patterns over the bytes of a path, for settings that name files.
//!
//! Guarantees: bytes, so every name can be matched; the time is linear in the path whatever the
//! patterns, and a set asks only those whose last byte fits, so that a name that none can match costs
//! a few nanoseconds. Refuses a pattern that could match nothing, with the reason.
//!
//! The meaning is that of Farshore's own rules but for what the README lists under Patterns:
//! - without a leading `/` a pattern matches the end of a path, from the start of any part of it:
//!   `*.tmp` any such name, `a/b` also `x/a/b`; with it the whole path below the share's root;
//! - a trailing `/` makes it match directories only;
//! - `*` any bytes but `/`, `**` any bytes, `?` one byte but `/`, `[a-z]` or `[!a-z]` one of these,
//!   `\` takes the next byte literally.

use crate::types::{Entry, Kind, name_of};

/// Most patterns of a set.
pub const PATTERNS_MAX: usize = 64;
/// Most bytes, wildcards and classes of a pattern.
pub const TOKENS_MAX: usize = 63;

/// Patterns in order.
///
/// ```
/// use farshore_wasm_sdk::{Entry, GlobSet};
/// let set = GlobSet::new(["*.filepart", "*.m_inproc*", "/archive/**/*.iso", "[0-9].tmp"])?;
/// assert_eq!(set.find(&Entry::file(*b"in/a.filepart", 1)), Some(0));
/// assert_eq!(set.find(&Entry::file(*b"in/x.m_inproc7", 1)), Some(1));
/// assert_eq!(set.find(&Entry::file(*b"archive/2026/01/a.iso", 1)), Some(2));
/// assert_eq!(set.find(&Entry::file(*b"in/7.tmp", 1)), Some(3));
/// assert_eq!(set.find(&Entry::file(*b"in/17.tmp", 1)), None);
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct GlobSet {
    globs: Vec<Glob>,
    /// By a path's last byte: a bit for each pattern that may match.
    by_last: Vec<u64>,
}

/// One pattern.
#[derive(Debug, Clone)]
struct Glob {
    directory_only: bool,
    /// Matched against the last part of the path alone.
    name_only: bool,
    matcher: Matcher,
}

#[derive(Debug, Clone)]
enum Matcher {
    /// The text itself.
    Equal(Vec<u8>),
    /// `*text`
    Suffix(Vec<u8>),
    /// `text*`
    Prefix(Vec<u8>),
    /// `*text*`, and how far a byte lets the search jump ahead.
    Contains(Vec<u8>, Box<[u8; 256]>),
    /// Anything else: a state for each token, all stepped at once.
    Automaton(Box<Automaton>),
}

#[derive(Debug, Clone)]
struct Automaton {
    anchored: bool,
    /// By byte: the states that take it and move on.
    moves: [u64; 256],
    /// The states that are `*` or `**`, and those of them that are `**`.
    stars: u64,
    deep: u64,
    accept: u64,
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Byte(u8),
    Any,
    Class(Box<[bool; 256]>),
    Star,
    Deep,
}

impl GlobSet {
    /// Compiles patterns.
    ///
    /// # Errors
    /// The pattern and why it is refused.
    pub fn new<P: AsRef<str>>(patterns: impl IntoIterator<Item = P>) -> Result<Self, String> {
        let mut globs = Vec::new();
        for pattern in patterns {
            let pattern = pattern.as_ref();
            let glob = Glob::new(pattern.as_bytes());
            globs.push(glob.map_err(|why| format!("pattern '{pattern}': {why}"))?);
        }
        if globs.len() > PATTERNS_MAX {
            return Err(format!("{} patterns, at most {PATTERNS_MAX} are possible", globs.len()));
        }
        let mut by_last = vec![0; 256];
        for (index, glob) in globs.iter().enumerate() {
            let last = match &glob.matcher {
                Matcher::Equal(text) | Matcher::Suffix(text) => text.last(),
                _ => None,
            };
            for (byte, mask) in by_last.iter_mut().enumerate() {
                if last.is_none_or(|&last| usize::from(last) == byte) {
                    *mask |= 1 << index;
                }
            }
        }
        Ok(Self { globs, by_last })
    }

    /// The index of the first pattern that matches.
    #[must_use]
    pub fn find(&self, entry: &Entry) -> Option<usize> {
        let last = entry.path.last()?;
        let mut candidates = *self.by_last.get(usize::from(*last))?;
        if candidates == 0 {
            return None;
        }
        let name = name_of(&entry.path);
        while candidates != 0 {
            let index = candidates.trailing_zeros() as usize;
            candidates &= candidates - 1;
            let glob = self.globs.get(index)?;
            if glob.directory_only && entry.kind != Kind::Directory {
                continue;
            }
            if glob.matcher.is_match(if glob.name_only { name } else { &entry.path }) {
                return Some(index);
            }
        }
        None
    }

    /// Whether any pattern matches.
    #[must_use]
    pub fn is_match(&self, entry: &Entry) -> bool {
        self.find(entry).is_some()
    }

    /// Whether there is no pattern.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.globs.is_empty()
    }
}

impl Glob {
    fn new(pattern: &[u8]) -> Result<Self, &'static str> {
        let anchored = pattern.starts_with(b"/");
        let body = pattern.strip_prefix(b"/").unwrap_or(pattern);
        let directory_only = body.ends_with(b"/");
        let body = body.strip_suffix(b"/").unwrap_or(body);
        if body.is_empty() {
            return Err("it is empty");
        }
        let is_no_part = |part: &[u8]| part.is_empty() || part == b"." || part == b"..";
        if body.split(|&b| b == b'/').any(is_no_part) {
            return Err("no path has an empty, '.' or '..' part");
        }
        let tokens = tokens(body)?;
        if tokens.len() > TOKENS_MAX {
            return Err("it is too long");
        }
        let has_slash = tokens.contains(&Token::Byte(b'/')) || tokens.contains(&Token::Deep);
        let name_only = !anchored && !has_slash;
        let matcher = Matcher::new(&tokens, anchored, name_only);
        Ok(Self { directory_only, name_only, matcher })
    }
}

fn tokens(mut body: &[u8]) -> Result<Vec<Token>, &'static str> {
    let mut tokens = Vec::new();
    while let Some((&byte, rest)) = body.split_first() {
        body = rest;
        tokens.push(match byte {
            b'?' => Token::Any,
            b'*' => {
                let deep = body.starts_with(b"*");
                while let Some(rest) = body.strip_prefix(b"*") {
                    body = rest;
                }
                if deep { Token::Deep } else { Token::Star }
            }
            b'[' => {
                let (class, rest) = class(body)?;
                body = rest;
                Token::Class(class)
            }
            b'\\' => {
                let (&literal, rest) = body.split_first().ok_or("a '\\' at its end")?;
                body = rest;
                Token::Byte(literal)
            }
            _ => Token::Byte(byte),
        });
    }
    Ok(tokens)
}

/// A class of bytes and what is behind its `]`.
type Class<'a> = (Box<[bool; 256]>, &'a [u8]);

/// The class whose `[` is just before `body`.
fn class(body: &[u8]) -> Result<Class<'_>, &'static str> {
    let negated = body.first().is_some_and(|b| b"!^".contains(b));
    let mut rest = body.get(usize::from(negated)..).unwrap_or_default();
    let mut set = Box::new([false; 256]);
    let mut is_first = true;
    loop {
        let (&low, after) = rest.split_first().ok_or("a '[' without its ']'")?;
        if low == b']' && !is_first {
            rest = after;
            break;
        }
        is_first = false;
        rest = after;
        let high = match after {
            [b'-', high, behind @ ..] if *high != b']' => {
                rest = behind;
                *high
            }
            _ => low,
        };
        if low > high {
            return Err("a range in '[...]' that is the wrong way round");
        }
        set[usize::from(low)..=usize::from(high)].fill(true);
    }
    if negated {
        set.iter_mut().for_each(|member| *member = !*member);
    }
    set[usize::from(b'/')] = false;
    Ok((set, rest))
}

impl Matcher {
    fn new(tokens: &[Token], anchored: bool, name_only: bool) -> Self {
        let literal = |tokens: &[Token]| {
            let byte = |token: &Token| match token {
                Token::Byte(byte) => Some(*byte),
                _ => None,
            };
            tokens.iter().map(byte).collect::<Option<Vec<u8>>>().filter(|text| !text.is_empty())
        };
        if name_only {
            if let Some(text) = literal(tokens) {
                return Self::Equal(text);
            }
            match tokens {
                [Token::Star, inner @ .., Token::Star] => {
                    if let Some(text) = literal(inner) {
                        let jumps = jumps(&text);
                        return Self::Contains(text, jumps);
                    }
                }
                [Token::Star, inner @ ..] => {
                    if let Some(text) = literal(inner) {
                        return Self::Suffix(text);
                    }
                }
                [inner @ .., Token::Star] => {
                    if let Some(text) = literal(inner) {
                        return Self::Prefix(text);
                    }
                }
                _ => {}
            }
        }
        Self::Automaton(Box::new(Automaton::new(tokens, anchored)))
    }

    fn is_match(&self, text: &[u8]) -> bool {
        match self {
            Self::Equal(equal) => text == equal,
            Self::Suffix(suffix) => text.ends_with(suffix),
            Self::Prefix(prefix) => text.starts_with(prefix),
            Self::Contains(needle, jumps) => contains(text, needle, jumps),
            Self::Automaton(automaton) => automaton.is_match(text),
        }
    }
}

/// How far the end of a comparison may move when it ends at that byte.
fn jumps(needle: &[u8]) -> Box<[u8; 256]> {
    let jump = |length: usize| u8::try_from(length).unwrap_or(u8::MAX);
    let mut jumps = Box::new([jump(needle.len()); 256]);
    for (at, byte) in needle.iter().enumerate().take(needle.len() - 1) {
        jumps[usize::from(*byte)] = jump(needle.len() - 1 - at);
    }
    jumps
}

/// Horspool's search: a name without the needle's bytes is passed in strides of its length.
fn contains(text: &[u8], needle: &[u8], jumps: &[u8; 256]) -> bool {
    let mut end = needle.len();
    while let Some(window) = text.get(end - needle.len()..end) {
        if window == needle {
            return true;
        }
        end += window.last().map_or(1, |&last| usize::from(jumps[usize::from(last)]));
    }
    false
}

impl Automaton {
    fn new(tokens: &[Token], anchored: bool) -> Self {
        let (mut moves, mut stars, mut deep) = ([0; 256], 0, 0);
        for (state, token) in tokens.iter().enumerate() {
            let bit = 1u64 << state;
            match token {
                Token::Byte(byte) => moves[usize::from(*byte)] |= bit,
                Token::Any => {
                    for (byte, taken) in moves.iter_mut().enumerate() {
                        if byte != usize::from(b'/') {
                            *taken |= bit;
                        }
                    }
                }
                Token::Class(class) => {
                    for (taken, _) in moves.iter_mut().zip(&**class).filter(|(_, is_in)| **is_in) {
                        *taken |= bit;
                    }
                }
                Token::Star => stars |= bit,
                Token::Deep => {
                    stars |= bit;
                    deep |= bit;
                }
            }
        }
        Self { anchored, moves, stars, deep, accept: 1 << tokens.len() }
    }

    fn is_match(&self, text: &[u8]) -> bool {
        // A star may match nothing. Two are never next to each other.
        let close = |states: u64| states | (states & self.stars) << 1;
        let start = close(1);
        let mut states = start;
        for &byte in text {
            let stay = states & if byte == b'/' { self.deep } else { self.stars };
            states = close((states & self.moves[usize::from(byte)]) << 1 | stay);
            if byte == b'/' && !self.anchored {
                states |= start;
            }
        }
        states & self.accept != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_match(pattern: &str, path: &[u8]) -> bool {
        GlobSet::new([pattern]).expect("a pattern").is_match(&Entry::file(path, 0))
    }

    #[test]
    fn patterns_match_what_their_grammar_says() {
        let table: [(&str, &[u8], bool); 22] = [
            ("*.tmp", b"a/b.tmp", true),
            ("*.tmp", b"a/.tmp", true),
            ("*.tmp", b"a.tmp/b", false),
            ("*.tmp", b"caf\xe9/\xff.tmp", true),
            ("a/b", b"x/a/b", true),
            ("a/b", b"xa/b", false),
            ("/a/b", b"x/a/b", false),
            ("/a/b", b"a/b", true),
            ("/a", b"a", true),
            ("/a", b"b/a", false),
            ("/a/**/b", b"a/x/y/b", true),
            ("/a/*/b", b"a/x/y/b", false),
            ("~*", b"a/~b", true),
            ("*m_in*", b"a/mm_m_in", true),
            ("*m_in*", b"a_m_i/n", false),
            ("[!0-9]?[]-]", b"ax]", true),
            ("[!0-9]?[]-]", b"1x]", false),
            ("\\*", b"*", true),
            ("\\*", b"a", false),
            ("a*b?", b"a/axxbc", true),
            ("a*b?", b"a/axxb", false),
            ("x/", b"x", false),
        ];
        for (pattern, path, expected) in table {
            assert_eq!(is_match(pattern, path), expected, "{pattern} {}", path.escape_ascii());
        }
        let set = GlobSet::new(["x/"]).expect("a pattern");
        assert!(set.is_match(&Entry { kind: Kind::Directory, ..Entry::file(*b"a/x", 0) }));
    }

    #[test]
    fn what_can_match_nothing_is_refused() {
        for pattern in ["", "/", "a//b", "../a", "a/./b", "[a", "a\\", "[z-a]"] {
            assert!(GlobSet::new([pattern]).is_err(), "'{pattern}' was taken");
        }
        assert!(GlobSet::new(["x".repeat(64)]).is_err());
        assert!(GlobSet::new(vec!["a"; 65]).is_err());
    }

    #[test]
    fn a_needle_is_found_wherever_it_is() {
        for before in 0..12 {
            let mut name = vec![b'm'; before];
            name.extend_from_slice(b".m_inproc");
            assert!(is_match("*.m_inproc*", &name));
            name.extend_from_slice(b"00");
            assert!(is_match("*.m_inproc*", &name));
            name[before + 4] = b'x';
            assert!(!is_match("*.m_inproc*", &name));
        }
    }
}

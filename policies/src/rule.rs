//! One rule and its text.
//!
//! ```text
//! rule      = [ "+ " | "- " ] [ pattern ] { space condition }      spaces may surround the sign
//! condition = "size" ( "<" | "<=" | ">" | ">=" ) bytes       4096, 64k, 10M, 2G, 1T
//!           | "age"  ( "<" | "<=" | ">" | ">=" ) time        30s, 15m, 12h, 90d, 8w
//!           | ( "owner" | "group" ) ( "=" | "!=" ) number
//!           | "kind" ( "=" | "!=" ) ( "file" | "symlink" | "fifo" | "socket" | "device" )
//! ```
//!
//! `+ ` includes and `- ` excludes; without either the rule has the sense of the option it was given
//! to. The pattern is that of [`crate::glob`]; all conditions must hold. Without a pattern a rule
//! looks at every name. Examples: `*.iso size>4G`, `age>90d size>=1G`, `/scratch/ owner=1001`.
//!
//! **Directories.** A rule with a condition matches a directory only when its pattern ends in `/`:
//! to exclude a directory is to exclude all below it, and its own time or owner says nothing of
//! that. `size` looks at regular files alone and cannot be joined to such a pattern.
//!
//! **Age** is the rule set's time less the modification time; a time in the future gives a negative
//! age.
//!
//! **Spaces** belong to the pattern (`my report.txt` is one name, and so is a trailing space), until
//! a last word that begins like a condition. To match a name that ends so, put the sign in brackets:
//! `owner[=]bob`. A last word that has the form of a condition and a fact no rule knows
//! (`*.iso siez>4G`, `* uid=0`) is refused: as a name it would match nothing, and nobody would see it.
//! A rule of one word with `=`, such as `year=2026`, is a name unless the word is what other tools
//! call a fact (`uid`, `mode`, ...).
//!
//! **Files** hold one rule a line, ended by LF, CR LF or CR. A line that begins with `#` or `;`, or
//! holds nothing, is skipped; other spaces count. A byte order mark is skipped.

use std::fmt;

use farshore_core::entry::{EntryKind, Timestamp};
use farshore_core::path::escape;
use farshore_core::policy::{Action, Candidate};
use farshore_core::size::{ParseSizeError, parse_size};

use crate::glob::{Glob, GlobError};

/// Most rules of one set. Each is tried for each entry until one matches.
pub const RULES_MAX: usize = 10_000;

/// Why a text is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// A rule given by itself, as an option's value.
    #[error("rule '{text}', column {column}")]
    Text {
        /// The rule, escaped for a terminal.
        text: String,
        /// Where, in bytes, from 1.
        column: usize,
        /// What is wrong.
        source: Reason,
    },
    /// A line of a file.
    #[error("{file}:{line}:{column}: rule '{text}'")]
    Line {
        /// The file, as the caller names it.
        file: String,
        /// Its line, from 1.
        line: usize,
        /// Where in the line, in bytes, from 1.
        column: usize,
        /// The rule, escaped for a terminal.
        text: String,
        /// What is wrong.
        source: Reason,
    },
}

impl RuleError {
    /// What is wrong, without the place.
    #[must_use]
    pub fn reason(&self) -> &Reason {
        match self {
            Self::Text { source, .. } | Self::Line { source, .. } => source,
        }
    }
}

/// What is wrong with a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Neither a pattern nor a condition.
    #[error("an empty rule")]
    Empty,
    /// rsync's `!`, which clears the list.
    #[error("'!' does not clear the rules here; write '[!]' for a file of that name")]
    Clear,
    /// The pattern.
    #[error(transparent)]
    Pattern(#[from] GlobError),
    /// A condition stands before the pattern, and so would be part of it.
    #[error("a condition before the pattern; write the pattern first, or '[<]', '[=]', '[>]'")]
    ConditionFirst,
    /// The form of a condition, and no fact of that name.
    #[error(
        "'{word}' is nothing a condition can ask: it asks for size, age, owner, group or kind{means}; \
         for a name that has this form put the sign in brackets: '{name}'"
    )]
    UnknownFact {
        /// The word before the sign.
        word: Box<str>,
        /// The fact that is probably meant.
        means: &'static str,
        /// How the name is written.
        name: Box<str>,
    },
    /// The sign does not go with the fact.
    #[error("'{key}' is compared with {signs}")]
    Sign {
        /// The fact.
        key: &'static str,
        /// The signs it knows.
        signs: &'static str,
    },
    /// Not a size.
    #[error(transparent)]
    Size(#[from] ParseSizeError),
    /// Not a length of time.
    #[error("'{0}' is not a time: give a number with s, m, h, d or w")]
    Time(String),
    /// Not a numeric id.
    #[error("'{0}' is not a numeric id, and names differ between sites")]
    Id(String),
    /// Not a kind.
    #[error(
        "'{0}' is not a kind: file, symlink, fifo, socket or device; for directories end the pattern with '/'"
    )]
    Kind(String),
    /// `size` or `kind` joined to a pattern for directories.
    #[error("'{0}' never holds for a directory, and the pattern ends in '/'")]
    DirectoriesHaveNone(&'static str),
    /// More than [`RULES_MAX`].
    #[error("more than {RULES_MAX} rules")]
    TooMany,
}

/// Where a rule comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Farshore's own: cannot be switched off.
    Reserved,
    /// An option's value.
    Option,
    /// A line of a file.
    File {
        /// The file, as the caller names it.
        name: String,
        /// Its line, from 1.
        line: usize,
    },
    /// A built-in default.
    Default,
}

/// One rule.
#[derive(Debug, Clone)]
pub struct Rule {
    action: Action,
    text: Box<[u8]>,
    origin: Origin,
    glob: Option<Glob>,
    conditions: Box<[Condition]>,
}

impl Rule {
    /// Reads `text`, whose sense is `action` unless `+ ` or `- ` says otherwise.
    ///
    /// # Errors
    /// [`RuleError::Text`] with the place and the reason.
    pub fn parse(action: Action, text: &[u8]) -> Result<Self, RuleError> {
        Self::parse_from(action, text, Origin::Option)
    }

    pub(crate) fn parse_from(
        action: Action,
        text: &[u8],
        origin: Origin,
    ) -> Result<Self, RuleError> {
        parse(action, text, origin.clone())
            .map_err(|(at, source)| at_place(text, &origin, at + 1, source))
    }

    /// What becomes of an entry the rule matches.
    #[must_use]
    pub fn action(&self) -> Action {
        self.action
    }

    /// Where the rule comes from.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// As [`Glob::first_byte`]; a rule without a pattern has none.
    pub(crate) fn first_byte(&self) -> Option<(u8, bool)> {
        self.glob.as_ref().and_then(Glob::first_byte)
    }

    /// Whether `candidate` is meant, its age taken at `now`. The root never is.
    #[must_use]
    pub fn is_match(&self, candidate: &Candidate<'_>, now: Timestamp) -> bool {
        if candidate.path.is_root() {
            return false;
        }
        let is_directory = candidate.kind == EntryKind::Directory;
        let names_directories = self.glob.as_ref().is_some_and(Glob::is_directory_only);
        if is_directory && !self.conditions.is_empty() && !names_directories {
            return false;
        }
        self.conditions.iter().all(|c| c.holds(candidate, now))
            && self
                .glob
                .as_ref()
                .is_none_or(|g| g.is_match(candidate.path.as_bytes(), is_directory))
    }
}

impl fmt::Display for Rule {
    /// The sense, as `+ `, `- ` or `defer `, and the rest as it was written; control characters and
    /// bytes that are not UTF-8 are escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.action {
            Action::Replicate => "+ ",
            Action::Exclude => "- ",
            Action::Defer => "defer ",
        })?;
        f.write_str(&shown(&self.text))
    }
}

pub(crate) fn at_place(text: &[u8], origin: &Origin, column: usize, source: Reason) -> RuleError {
    let text = shown(text);
    match origin {
        Origin::File { name, line } => {
            RuleError::Line { file: name.clone(), line: *line, column, text, source }
        }
        Origin::Reserved | Origin::Option | Origin::Default => {
            RuleError::Text { text, column, source }
        }
    }
}

/// `text` for people: core's escapes, but a `\` stays single, since patterns are full of them.
fn shown(text: &[u8]) -> String {
    text.split(|&b| b == b'\\')
        .map(|part| {
            let mut out = String::new();
            let written = escape(part, &mut out);
            debug_assert!(written.is_ok(), "a String takes every character");
            out
        })
        .collect::<Vec<_>>()
        .join("\\")
}

fn parse(action: Action, text: &[u8], origin: Origin) -> Result<Rule, (usize, Reason)> {
    let (action, start) = match text {
        [b'+', b' ', ..] => (Action::Replicate, 2),
        [b'-', b' ', ..] => (Action::Exclude, 2),
        b"!" => return Err((0, Reason::Clear)),
        _ => (action, 0),
    };
    let mut conditions = Vec::new();
    let mut pattern = &text[start..];
    loop {
        let trimmed = pattern.trim_ascii_end();
        let Some(last) = Comparison::last_of(trimmed) else { break };
        let Some(key) = Key::of(last.fact()) else {
            if last.is_meant_as_condition() {
                return Err((start + last.at, last.unknown()));
            }
            break;
        };
        let condition = key.condition(&last).map_err(|(o, r)| (start + o, r))?;
        conditions.push((start + last.at, key, condition));
        pattern = &trimmed[..last.at];
    }
    if !conditions.is_empty() {
        pattern = pattern.trim_ascii_end();
    }
    if let Some(first) = Comparison::first_of(pattern) {
        if Key::of(first.fact()).is_some() {
            return Err((start, Reason::ConditionFirst));
        }
        if first.is_no_name() {
            return Err((start, first.unknown()));
        }
    }
    let glob = match pattern {
        b"" if conditions.is_empty() => return Err((start, Reason::Empty)),
        b"" => None,
        _ => Some(Glob::new(pattern).map_err(|e| (start + e.at(), e.into()))?),
    };
    if glob.as_ref().is_some_and(Glob::is_directory_only)
        && let Some((at, key, _)) =
            conditions.iter().find(|(_, key, _)| matches!(key, Key::Size | Key::Kind))
    {
        return Err((*at, Reason::DirectoriesHaveNone(key.name())));
    }
    let conditions = conditions.into_iter().rev().map(|(_, _, c)| c).collect();
    Ok(Rule { action, text: text[start..].into(), origin, glob, conditions })
}

#[derive(Debug, Clone, Copy)]
enum Key {
    Size,
    Age,
    Owner,
    Group,
    Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    Less,
    LessOrEqual,
    More,
    MoreOrEqual,
    Equal,
    NotEqual,
}

#[derive(Debug, Clone, Copy)]
enum Condition {
    Size(Sign, u64),
    /// In nanoseconds.
    Age(Sign, i128),
    Owner(Sign, u32),
    Group(Sign, u32),
    Kind(Sign, &'static [EntryKind]),
}

impl Key {
    const ALL: [Self; 5] = [Self::Size, Self::Age, Self::Owner, Self::Group, Self::Kind];

    fn name(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Age => "age",
            Self::Owner => "owner",
            Self::Group => "group",
            Self::Kind => "kind",
        }
    }

    /// The key of a fact's name.
    fn of(fact: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|key| fact == key.name().as_bytes())
    }

    /// The condition of a comparison of this key; where in the text something is wrong.
    fn condition(self, comparison: &Comparison<'_>) -> Result<Condition, (usize, Reason)> {
        let Comparison { sign, sign_at, value_at, .. } = *comparison;
        let equality = matches!(sign, Sign::Equal | Sign::NotEqual);
        let signs = match self {
            Self::Size | Self::Age => "'<', '<=', '>' or '>='",
            Self::Owner | Self::Group | Self::Kind => "'=' or '!='",
        };
        if equality == matches!(self, Self::Size | Self::Age) {
            return Err((sign_at, Reason::Sign { key: self.name(), signs }));
        }
        let value = shown(comparison.value());
        let parsed = match self {
            Self::Size => parse_size(&value).map(|v| Condition::Size(sign, v)).map_err(Into::into),
            Self::Age => parse_time(&value).map(|v| Condition::Age(sign, v)),
            Self::Owner => parse_id(&value).map(|v| Condition::Owner(sign, v)),
            Self::Group => parse_id(&value).map(|v| Condition::Group(sign, v)),
            Self::Kind => parse_kind(&value).map(|v| Condition::Kind(sign, v)),
        };
        parsed.map_err(|reason| (value_at, reason))
    }
}

/// What other tools call a fact, and what a rule calls it.
const ALIASES: [(&str, &str); 8] = [
    ("uid", " (owner is the numeric user id)"),
    ("user", " (owner is the numeric user id)"),
    ("gid", " (group is the numeric group id)"),
    ("mtime", " (age is the time since the modification)"),
    ("time", " (age is the time since the modification)"),
    ("type", " (kind is the type)"),
    ("length", " (size is the length)"),
    ("bytes", " (size is the length)"),
];

/// Facts of other tools that no name begins with, not even one like `year=2026`.
const NO_NAMES: [&str; 7] = ["uid", "gid", "mode", "perm", "mtime", "atime", "ctime"];

fn is_one_of<'a>(fact: &[u8], mut names: impl Iterator<Item = &'a str>) -> bool {
    names.any(|name| fact.eq_ignore_ascii_case(name.as_bytes()))
}

/// Text that has the form of a condition: letters, a sign, a value, perhaps with spaces between.
#[derive(Debug, Clone, Copy)]
struct Comparison<'a> {
    text: &'a [u8],
    /// Where the fact's name begins.
    at: usize,
    fact_len: usize,
    sign_at: usize,
    sign: Sign,
    value_at: usize,
    value_len: usize,
}

impl<'a> Comparison<'a> {
    /// What `text`, which does not end in a space, ends with.
    fn last_of(text: &'a [u8]) -> Option<Self> {
        let mut starts = words(text).collect::<Vec<_>>();
        // A fact, a sign and a value are three words at most.
        let from = starts.len().saturating_sub(3);
        let starts = starts.split_off(from);
        // The shortest that has the form: a value may itself hold a sign.
        starts.into_iter().rev().find_map(|at| Self::at(text, at).filter(Self::is_to_the_end))
    }

    /// What `text` begins with, when there is more behind it.
    fn first_of(text: &'a [u8]) -> Option<Self> {
        Self::at(text, 0).filter(|found| !found.is_to_the_end())
    }

    fn at(text: &'a [u8], at: usize) -> Option<Self> {
        let space =
            |from: usize| text[from..].iter().take_while(|b| b.is_ascii_whitespace()).count();
        let fact_len = text[at..].iter().take_while(|b| b.is_ascii_alphabetic()).count();
        let sign_at = at + fact_len + space(at + fact_len);
        let (sign, len) = match &text[sign_at..] {
            [b'<', b'=', ..] => (Sign::LessOrEqual, 2),
            [b'<', ..] => (Sign::Less, 1),
            [b'>', b'=', ..] => (Sign::MoreOrEqual, 2),
            [b'>', ..] => (Sign::More, 1),
            [b'!', b'=', ..] => (Sign::NotEqual, 2),
            [b'=', ..] => (Sign::Equal, 1),
            _ => return None,
        };
        let value_at = sign_at + len + space(sign_at + len);
        let value_len = text[value_at..].iter().take_while(|b| !b.is_ascii_whitespace()).count();
        (fact_len > 0).then_some(Self { text, at, fact_len, sign_at, sign, value_at, value_len })
    }

    fn is_to_the_end(&self) -> bool {
        self.value_at + self.value_len == self.text.len()
    }

    fn fact(&self) -> &'a [u8] {
        &self.text[self.at..self.at + self.fact_len]
    }

    fn value(&self) -> &'a [u8] {
        &self.text[self.value_at..self.value_at + self.value_len]
    }

    fn is_order(&self) -> bool {
        !matches!(self.sign, Sign::Equal | Sign::NotEqual)
    }

    /// Whether nobody would write this as a name.
    fn is_no_name(&self) -> bool {
        self.is_order() || is_one_of(self.fact(), NO_NAMES.into_iter())
    }

    /// Whether nobody would write this as the end of a name.
    fn is_meant_as_condition(&self) -> bool {
        let is_one_word = self.at + self.fact_len == self.sign_at;
        let is_alias = || is_one_of(self.fact(), ALIASES.into_iter().map(|(name, _)| name));
        self.is_no_name() || (self.at > 0 && (is_one_word || is_alias()))
    }

    fn unknown(&self) -> Reason {
        let word = shown(self.fact());
        let known = |(name, _): &(&str, _)| name.eq_ignore_ascii_case(&word);
        let means = ALIASES.into_iter().find(known).map_or("", |(_, means)| means);
        // "!" in brackets would be the beginning of something else.
        let at = self.sign_at + usize::from(self.sign == Sign::NotEqual);
        let (before, rest) = (shown(&self.text[self.at..at]), shown(&self.text[at + 1..]));
        let name = format!("{before}[{}]{rest}", char::from(self.text[at]));
        Reason::UnknownFact { word: word.into(), means, name: name.into() }
    }
}

/// Where the words of `text` begin.
fn words(text: &[u8]) -> impl Iterator<Item = usize> {
    (0..text.len()).filter(|&at| {
        !text[at].is_ascii_whitespace() && (at == 0 || text[at - 1].is_ascii_whitespace())
    })
}

fn parse_time(text: &str) -> Result<i128, Reason> {
    let err = || Reason::Time(text.to_owned());
    let (digits, seconds) = match text.as_bytes().last() {
        Some(b's') => (&text[..text.len() - 1], 1),
        Some(b'm') => (&text[..text.len() - 1], 60),
        Some(b'h') => (&text[..text.len() - 1], 3600),
        Some(b'd') => (&text[..text.len() - 1], 86_400),
        Some(b'w') => (&text[..text.len() - 1], 7 * 86_400),
        _ => return Err(err()),
    };
    let number: u32 = digits.parse().map_err(|_| err())?;
    Ok(i128::from(number) * seconds * 1_000_000_000)
}

fn parse_id(text: &str) -> Result<u32, Reason> {
    text.parse().map_err(|_| Reason::Id(text.to_owned()))
}

fn parse_kind(text: &str) -> Result<&'static [EntryKind], Reason> {
    Ok(match text {
        "file" => &[EntryKind::File, EntryKind::HardLink],
        "symlink" => &[EntryKind::Symlink],
        "fifo" => &[EntryKind::Fifo],
        "socket" => &[EntryKind::Socket],
        "device" => &[EntryKind::CharDevice, EntryKind::BlockDevice],
        _ => return Err(Reason::Kind(text.to_owned())),
    })
}

impl Sign {
    fn holds<T: Ord>(self, found: &T, wanted: &T) -> bool {
        match self {
            Self::Less => found < wanted,
            Self::LessOrEqual => found <= wanted,
            Self::More => found > wanted,
            Self::MoreOrEqual => found >= wanted,
            Self::Equal => found == wanted,
            Self::NotEqual => found != wanted,
        }
    }
}

impl Condition {
    fn holds(&self, candidate: &Candidate<'_>, now: Timestamp) -> bool {
        match *self {
            Self::Size(sign, bytes) => {
                matches!(candidate.kind, EntryKind::File | EntryKind::HardLink)
                    && sign.holds(&candidate.size, &bytes)
            }
            Self::Age(sign, nanos) => {
                let seconds = i128::from(now.seconds) - i128::from(candidate.mtime.seconds);
                let within = i128::from(now.nanos) - i128::from(candidate.mtime.nanos);
                sign.holds(&(seconds * 1_000_000_000 + within), &nanos)
            }
            Self::Owner(sign, id) => sign.holds(&candidate.uid, &id),
            Self::Group(sign, id) => sign.holds(&candidate.gid, &id),
            Self::Kind(sign, kinds) => kinds.contains(&candidate.kind) == (sign == Sign::Equal),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use farshore_core::path::RelPath;
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp { seconds: 1_000_000_000, nanos: 500 };
    const DAY: i64 = 86_400;

    struct Sample {
        path: &'static str,
        kind: EntryKind,
        size: u64,
        age: i64,
        uid: u32,
    }

    const FILE: Sample = Sample { path: "a/x.iso", kind: EntryKind::File, size: 0, age: 0, uid: 0 };

    fn matches(rule: &str, sample: &Sample) -> bool {
        let path = RelPath::new(sample.path.as_bytes()).expect("a path");
        let candidate = Candidate {
            path: &path,
            kind: sample.kind,
            size: sample.size,
            mtime: Timestamp { seconds: NOW.seconds - sample.age, nanos: NOW.nanos },
            mode: 0o644,
            uid: sample.uid,
            gid: 5,
        };
        Rule::parse(Action::Exclude, rule.as_bytes()).expect(rule).is_match(&candidate, NOW)
    }

    #[test]
    fn sizes() {
        let of = |size| Sample { size, ..FILE };
        assert!(matches("*.iso size>4G", &of((4 << 30) + 1)));
        assert!(!matches("*.iso size>4G", &of(4 << 30)));
        assert!(matches("*.iso size>=4G", &of(4 << 30)));
        assert!(!matches("*.img size>4G", &of(5 << 30)));
        assert!(matches("size<1k", &of(1023)) && !matches("size<1k", &of(1024)));
        assert!(!matches("size<1k", &Sample { kind: EntryKind::Directory, ..FILE }));
        assert!(!matches("size<1k", &Sample { kind: EntryKind::Symlink, ..FILE }));
    }

    #[test]
    fn ages_owners_kinds_and_all_together() {
        let old = Sample { age: 91 * DAY, uid: 1001, ..FILE };
        assert!(matches("age>90d", &old) && !matches("age>13w", &old));
        assert!(matches("age>=13w", &old) && matches("age<=13w", &old));
        assert!(matches("age<0s", &Sample { age: -5, ..FILE }));
        assert!(matches("age>1s", &Sample { age: NOW.seconds - i64::MIN / 2, ..FILE }));
        assert!(matches("owner=1001 age>1d", &old) && !matches("owner!=1001 age>1d", &old));
        assert!(matches("group=5", &old) && !matches("group=6", &old));
        assert!(matches("kind=file", &old) && !matches("kind!=file", &old));
        let further_name = Sample { kind: EntryKind::HardLink, ..FILE };
        assert!(matches("kind=file size<1", &further_name));
    }

    #[test]
    fn a_directory_needs_the_slash_to_meet_a_condition() {
        let directory = Sample { path: "a/cache", kind: EntryKind::Directory, age: 9, ..FILE };
        assert!(matches("cache", &directory) && matches("cache/", &directory));
        assert!(!matches("cache age>1s", &directory) && !matches("age>1s", &directory));
        assert!(matches("cache/ age>1s", &directory) && !matches("cache/ age>10s", &directory));
    }

    #[test]
    fn spaces_and_signs_in_names() {
        let named = |path| Sample { path, ..FILE };
        assert!(matches("my report.txt", &named("a/my report.txt")));
        assert!(matches("tail ", &named("tail ")) && !matches("tail ", &named("tail")));
        assert!(matches("my report.txt  size<1 ", &named("my report.txt")));
        assert!(matches("owner[=]bob", &named("owner=bob")));
        assert!(matches("- -x", &named("-x")) && matches("-x", &named("-x")));
        assert!(matches("oversize[<]3", &named("oversize<3")));
        assert!(matches("year=2026", &named("a/year=2026")));
        assert!(matches("q1 x = y", &named("q1 x = y")) && matches("a -> b", &named("a -> b")));
        assert!(matches("x a[=]b", &named("x a=b")) && matches("a=b c.txt", &named("a=b c.txt")));
    }

    #[test]
    fn spaces_may_surround_the_sign() {
        let of = |size| Sample { size, ..FILE };
        for rule in ["*.iso size > 4G", "*.iso size >4G", "*.iso size> 4G", "*.iso  size  >  4G "] {
            assert!(matches(rule, &of(5 << 30)) && !matches(rule, &of(4 << 30)), "{rule}");
        }
        assert!(matches("size >= 1 owner = 0 kind != fifo", &of(1)));
        assert!(!matches("size >= 1 owner = 1", &of(1)));
    }

    #[test]
    fn senses_and_texts() {
        let shown = |action, text: &[u8]| Rule::parse(action, text).expect("a rule").to_string();
        assert_eq!(shown(Action::Exclude, b"*.o"), "- *.o");
        assert_eq!(shown(Action::Exclude, b"+ *.o"), "+ *.o");
        assert_eq!(shown(Action::Replicate, b"- a\\*b"), "- a\\*b");
        assert_eq!(shown(Action::Defer, b"caf\xe9\n*"), "defer caf\\xe9\\u{a}*");
    }

    #[test]
    fn errors_name_column_and_reason() {
        for (text, column, reason) in [
            ("", 1, "an empty rule"),
            ("- ", 3, "an empty rule"),
            ("!", 1, "'!' does not clear"),
            ("*.iso size>4X", 12, "'4X' is not a size"),
            ("- age>90", 7, "'90' is not a time"),
            ("owner=bob", 7, "'bob' is not a numeric id"),
            ("a size=3", 7, "'size' is compared with"),
            ("kind=directory", 6, "for directories end the pattern"),
            ("a/ size>3", 4, "'size' never holds for a directory"),
            ("size>3 *.o", 1, "a condition before the pattern"),
            ("size > 3 *.o", 1, "a condition before the pattern"),
            ("+ ab[c", 5, "'[' without its ']'"),
            ("*.iso siez>4G", 7, "'siez' is nothing a condition can ask: it asks for size, age"),
            ("*.iso siez > 4G", 7, "brackets: 'siez [>] 4G'"),
            ("* x!=3", 3, "brackets: 'x![=]3'"),
            ("f0.dat uid=0", 8, "owner is the numeric user id"),
            ("f0.dat gid=0", 8, "group is the numeric group id"),
            ("f0.dat colour=3", 8, "brackets: 'colour[=]3'"),
            ("mode=644", 1, "'mode' is nothing a condition can ask"),
            ("oversize<3", 1, "brackets: 'oversize[<]3'"),
            ("* type != f size>1", 3, "kind is the type"),
            ("uid=0 *.dat", 1, "owner is the numeric user id"),
            ("*.iso size >", 13, "'' is not a size"),
        ] {
            let error = Rule::parse(Action::Exclude, text.as_bytes()).expect_err(text);
            assert!(
                matches!(&error, RuleError::Text { column: c, .. } if *c == column),
                "{error:?}"
            );
            let source = error.source().expect("a reason").to_string();
            assert!(source.contains(reason), "{text}: {source}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_rule_or_an_error_in_their_bounds(text: Vec<u8>) {
            match Rule::parse(Action::Exclude, &text) {
                Ok(rule) => prop_assert!(!rule.to_string().contains(char::is_control)),
                Err(RuleError::Text { column, .. }) => prop_assert!(column <= text.len() + 1),
                Err(other) => prop_assert!(false, "{:?}", other),
            }
        }

        #[test]
        fn rules_are_read_back_from_their_texts(pattern in "[a-z*?/ ]{1,9}", size in 0u64..9999,
                with_size: bool) {
            let text = if with_size { format!("{pattern} size>{size}") } else { pattern };
            if let Ok(rule) = Rule::parse(Action::Exclude, text.as_bytes()) {
                let again = Rule::parse(Action::Replicate, rule.to_string().as_bytes());
                prop_assert_eq!(again.expect("its own text").to_string(), rule.to_string());
            }
        }
    }
}

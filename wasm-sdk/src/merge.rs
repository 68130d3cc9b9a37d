//! Merges as recipes: which bytes of which version, in which order.
//!
//! Guarantees: every byte of a result comes from a version or is a line's end that was missing; a
//! merge that would drop a line one site wrote is not made. Refuses, with the reason, what it cannot
//! show to be safe within the read budget: the answer to that is [`Decision::hold`].
//!
//! [`Decision::hold`]: crate::Decision::hold

mod lines;

use std::fmt;

use crate::policy::Contents;
use crate::types::{Conflict, Piece, ReadError, Source};

pub use lines::three_way_lines;

/// Most pieces of a recipe: a person may have to read it.
pub const PIECES_MAX: usize = 4096;

/// Why there is no merge, for the person who decides instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoMerge(String);

impl NoMerge {
    /// With that reason.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

impl fmt::Display for NoMerge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoMerge {}

impl From<ReadError> for NoMerge {
    fn from(error: ReadError) -> Self {
        Self(error.to_string())
    }
}

/// In which order the lines that the sites appended come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// All of production's, then all of the recovery site's: it was promoted after production
    /// stopped. The lines are not looked at.
    InTurn,
    /// By the time at the start of each line, `2026-11-26T10:00:00` or with a space for the `T`, with
    /// or without a fraction; production first when equal. A line without one stays behind the line
    /// before it. No merge when a site's own lines go back in time.
    ByTime,
}

/// A file that both sites only appended to, or both created: what was common, then what each added.
///
/// The common part is compared byte by byte at both sites, which takes twice its length of the read
/// budget; the base itself is not read.
///
/// ```
/// use farshore_wasm_sdk::merge::{Order, append_only};
/// use farshore_wasm_sdk::testing::Case;
///
/// let case = Case::new("var/app.log").base("one\n").production("one\ntwo").recovery("one\n3\n");
/// let pieces = append_only(&case.conflict(), &case.contents(), Order::InTurn)?;
/// assert_eq!(case.apply(&pieces)?, b"one\ntwo\n3\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Not files at both sites; shorter than the common part, or another in it; a common part that ends
/// within a line; [`Order::ByTime`] where the lines have no such order; what could not be read.
pub fn append_only(
    conflict: &Conflict,
    contents: &dyn Contents,
    order: Order,
) -> Result<Vec<Piece>, NoMerge> {
    let size = |source: Source, site: &str| {
        let size = conflict.size(source);
        size.ok_or_else(|| NoMerge::new(format!("not a file at the {site} site")))
    };
    let production = size(Source::Production, "production")?;
    let recovery = size(Source::Recovery, "recovery")?;
    let common = match &conflict.base {
        crate::State::Absent => 0,
        _ => size(Source::Base, "last common point, not the present")?,
    };
    if production < common || recovery < common {
        return Err(NoMerge::new("a site made the file shorter"));
    }
    compare(contents, common)?;
    if common > 0 && contents.read(Source::Production, common - 1, 1)? != b"\n" {
        return Err(NoMerge::new("the common part ends within a line"));
    }
    let mut recipe = Recipe::default();
    recipe.copy(Source::Production, 0, common);
    match order {
        Order::InTurn => {
            recipe.copy(Source::Production, common, production - common);
            let is_open = production > common
                && recovery > common
                && contents.read(Source::Production, production - 1, 1)? != b"\n";
            if is_open {
                recipe.end_line();
            }
            recipe.copy(Source::Recovery, common, recovery - common);
        }
        Order::ByTime => {
            let added = |source, end| contents.read_range(source, common, end);
            let of_production = Added::new(common, added(Source::Production, production)?)?;
            let of_recovery = Added::new(common, added(Source::Recovery, recovery)?)?;
            interleave(&mut recipe, &of_production, &of_recovery);
        }
    }
    recipe.finish()
}

/// That both sites have the same first `length` bytes.
fn compare(contents: &dyn Contents, length: u64) -> Result<(), NoMerge> {
    const PART: u64 = 1 << 16;
    let mut from = 0;
    while from < length {
        let end = length.min(from + PART);
        let production = contents.read_range(Source::Production, from, end)?;
        if production != contents.read_range(Source::Recovery, from, end)? {
            return Err(NoMerge::new("a site changed what was there before"));
        }
        from = end;
    }
    Ok(())
}

/// What a site appended, in groups of lines that belong together.
struct Added {
    groups: Vec<Group>,
}

struct Group {
    time: Vec<u8>,
    offset: u64,
    length: u64,
    is_open: bool,
}

impl Added {
    fn new(common: u64, bytes: Vec<u8>) -> Result<Self, NoMerge> {
        let mut groups: Vec<Group> = Vec::new();
        let mut offset = common;
        for line in bytes.split_inclusive(|&b| b == b'\n') {
            let length = line.len() as u64;
            let is_open = !line.ends_with(b"\n");
            match (line_time(line), groups.last_mut()) {
                (Some(time), last) => {
                    if last.is_some_and(|last| last.time.as_slice() > time) {
                        return Err(NoMerge::new("a site's lines go back in time"));
                    }
                    groups.push(Group { time: time.to_vec(), offset, length, is_open });
                }
                (None, Some(last)) => {
                    last.length += length;
                    last.is_open = is_open;
                }
                (None, None) => return Err(NoMerge::new("the first line added has no time")),
            }
            offset += length;
        }
        Ok(Self { groups })
    }
}

/// The time a line begins with, as text that sorts.
fn line_time(line: &[u8]) -> Option<&[u8]> {
    let shape = b"dddd-dd-dd dd:dd:dd";
    let is_of = |(&byte, &shape): (&u8, &u8)| match shape {
        b'd' => byte.is_ascii_digit(),
        b' ' => byte == b' ' || byte == b'T',
        _ => byte == shape,
    };
    let head = line.get(..shape.len())?;
    if !head.iter().zip(shape).all(is_of) {
        return None;
    }
    let rest = line.get(shape.len()..)?;
    let fraction = match rest.first() {
        Some(b'.' | b',') => 1 + rest.iter().skip(1).take_while(|b| b.is_ascii_digit()).count(),
        _ => 0,
    };
    line.get(..shape.len() + fraction)
}

fn interleave(recipe: &mut Recipe, production: &Added, recovery: &Added) {
    let mut production = production.groups.iter().peekable();
    let mut recovery = recovery.groups.iter().peekable();
    loop {
        let is_production = match (production.peek(), recovery.peek()) {
            (Some(p), Some(r)) => p.time <= r.time,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => break,
        };
        let (source, group) = match is_production {
            true => (Source::Production, production.next()),
            false => (Source::Recovery, recovery.next()),
        };
        if let Some(group) = group {
            recipe.copy(source, group.offset, group.length);
            if group.is_open && (production.peek().is_some() || recovery.peek().is_some()) {
                recipe.end_line();
            }
        }
    }
}

/// Gathers pieces; what follows on in the same version is one piece.
#[derive(Default)]
struct Recipe {
    pieces: Vec<Piece>,
}

impl Recipe {
    fn copy(&mut self, source: Source, offset: u64, length: u64) {
        if length == 0 {
            return;
        }
        if let Some(Piece::Copy { source: last, offset: start, length: so_far }) =
            self.pieces.last_mut()
            && *last == source
            && *start + *so_far == offset
        {
            *so_far += length;
            return;
        }
        self.pieces.push(Piece::Copy { source, offset, length });
    }

    fn end_line(&mut self) {
        self.pieces.push(Piece::Literal(b"\n".to_vec()));
    }

    fn finish(self) -> Result<Vec<Piece>, NoMerge> {
        match self.pieces.len() > PIECES_MAX {
            true => Err(NoMerge::new(format!("a merge of over {PIECES_MAX} pieces"))),
            false => Ok(self.pieces),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Case;

    fn merged(case: &Case, order: Order) -> Result<String, String> {
        let pieces = append_only(&case.conflict(), &case.contents(), order);
        let bytes = case.apply(&pieces.map_err(|e| e.to_string())?);
        Ok(String::from_utf8(bytes.expect("a good recipe")).expect("text"))
    }

    #[test]
    fn lines_come_in_order_of_time() {
        let case = Case::new("a.log")
            .base("2026-01-01 00:00:00 base\n")
            .production(
                "2026-01-01 00:00:00 base\n2026-01-01 00:00:02 p\n  at x\n2026-01-01 00:00:04.5 p",
            )
            .recovery("2026-01-01 00:00:00 base\n2026-01-01 00:00:03 r\n2026-01-01 00:00:04.6 r\n");
        assert_eq!(
            merged(&case, Order::ByTime).expect("merged"),
            "2026-01-01 00:00:00 base\n2026-01-01 00:00:02 p\n  at x\n2026-01-01 00:00:03 r\n\
             2026-01-01 00:00:04.5 p\n2026-01-01 00:00:04.6 r\n"
        );
    }

    #[test]
    fn lines_without_an_order_are_not_merged() {
        let case = Case::new("a.log").production("no time\n").recovery("2026-01-01 00:00:00 r\n");
        assert!(merged(&case, Order::ByTime).is_err_and(|e| e.contains("has no time")));
        let case = Case::new("a.log")
            .production("2026-01-01 00:00:02 p\n2026-01-01 00:00:01 p\n")
            .recovery("2026-01-01 00:00:00 r\n");
        assert!(merged(&case, Order::ByTime).is_err_and(|e| e.contains("back in time")));
    }

    #[test]
    fn what_is_not_append_only_is_not_merged() {
        let case = Case::new("a").base("one\ntwo\n");
        let refused = |case: Case, why: &str| {
            let error = merged(&case, Order::InTurn).expect_err("no merge");
            assert!(error.contains(why), "{error}");
        };
        refused(case.clone().production("one\n").recovery("one\ntwo\n3\n"), "shorter");
        refused(case.clone().production("one\nTWO\n3\n").recovery("one\ntwo\n3\n"), "changed");
        refused(case.clone().production("one\ntwo\n3\n").recovery_deleted(), "not a file");
        let torn = Case::new("a").base("one").production("one\n").recovery("one two\n");
        refused(torn, "within a line");
        let large = case.production("one\ntwo\n3\n").recovery("one\ntwo\n4\n").budget(10);
        refused(large, "over the read budget");
    }

    #[test]
    fn what_both_created_is_one_after_the_other() {
        let case = Case::new("a").production("p").recovery("r");
        assert_eq!(merged(&case, Order::InTurn).expect("merged"), "p\nr");
        let case = Case::new("a").production("").recovery("r");
        assert_eq!(merged(&case, Order::InTurn).expect("merged"), "r");
    }
}

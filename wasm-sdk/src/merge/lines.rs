//! A merge of three versions of a text by lines.
//!
//! Guarantees: lines that only one site changed are that site's, lines that both changed alike are
//! there once, and everything else is as in the base. Refuses changes of both sites to the same or to
//! neighbouring lines, and texts that are too large or too different to compare in the fuel of a call.

use super::{NoMerge, Recipe};
use crate::policy::Contents;
use crate::types::{Conflict, Piece, Source};

/// Most lines of a version, and most that a site may have added and removed together.
const LINES_MAX: usize = 100_000;
const CHANGES_MAX: usize = 1_000;

/// Merges what both sites changed in a text, line by line.
///
/// ```
/// use farshore_wasm_sdk::merge::three_way_lines;
/// use farshore_wasm_sdk::testing::Case;
///
/// let case = Case::new("etc/partners.list")
///     .base("a\nb\nc\nd\n")
///     .production("a\nB\nc\nd\n")
///     .recovery("a\nb\nc\nd\ne\n");
/// let pieces = three_way_lines(&case.conflict(), &case.contents())?;
/// assert_eq!(case.apply(&pieces)?, b"a\nB\nc\nd\ne\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Not a file in all three versions; changes to the same lines; what could not be read.
pub fn three_way_lines(
    conflict: &Conflict,
    contents: &dyn Contents,
) -> Result<Vec<Piece>, NoMerge> {
    let text = |source: Source| {
        let size = conflict.size(source);
        let size = size.ok_or_else(|| NoMerge::new("not a file in all three versions"))?;
        Text::new(source, contents.read_range(source, 0, size)?)
    };
    let base = text(Source::Base)?;
    let production = text(Source::Production)?;
    let recovery = text(Source::Recovery)?;
    let ours = changes(&base.lines(), &production.lines())?;
    let theirs = changes(&base.lines(), &recovery.lines())?;
    let mut recipe = Recipe::default();
    let (mut ours, mut theirs) = (ours.iter().peekable(), theirs.iter().peekable());
    let mut at = 0;
    loop {
        let (change, text) = match (ours.peek(), theirs.peek()) {
            (None, None) => break,
            (Some(&p), Some(&r)) if p.touches(r) => {
                let is_same = p.base == r.base && production.get(&p.new) == recovery.get(&r.new);
                if !is_same {
                    let line = p.base.start.min(r.base.start) + 1;
                    let text = format!("both sites changed the lines from line {line} on");
                    return Err(NoMerge::new(text));
                }
                theirs.next();
                ours.next();
                (p, &production)
            }
            (Some(&p), Some(&r)) if r.base.start < p.base.start => {
                theirs.next();
                (r, &recovery)
            }
            (None, Some(&r)) => {
                theirs.next();
                (r, &recovery)
            }
            (Some(&p), _) => {
                ours.next();
                (p, &production)
            }
        };
        base.copy(&mut recipe, at..change.base.start);
        text.copy(&mut recipe, change.new.clone());
        at = change.base.end;
    }
    base.copy(&mut recipe, at..base.ends.len());
    recipe.finish()
}

type Range = std::ops::Range<usize>;

/// The lines of a version.
struct Text {
    source: Source,
    bytes: Vec<u8>,
    /// Where each line ends.
    ends: Vec<usize>,
}

impl Text {
    fn new(source: Source, bytes: Vec<u8>) -> Result<Self, NoMerge> {
        let mut ends: Vec<usize> =
            bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at + 1).collect();
        if ends.last().copied().unwrap_or(0) < bytes.len() {
            ends.push(bytes.len());
        }
        match ends.len() > LINES_MAX {
            true => Err(NoMerge::new(format!("over {LINES_MAX} lines"))),
            false => Ok(Self { source, bytes, ends }),
        }
    }

    /// Where a line starts, or the last one ends.
    fn start(&self, line: usize) -> usize {
        line.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0)
    }

    fn get(&self, lines: &Range) -> &[u8] {
        self.bytes.get(self.start(lines.start)..self.start(lines.end)).unwrap_or_default()
    }

    fn lines(&self) -> Vec<&[u8]> {
        (0..self.ends.len()).map(|line| self.get(&(line..line + 1))).collect()
    }

    fn copy(&self, recipe: &mut Recipe, lines: Range) {
        let (start, end) = (self.start(lines.start), self.start(lines.end));
        recipe.copy(self.source, start as u64, end.saturating_sub(start) as u64);
    }
}

/// These lines of the base became those.
#[derive(Debug, PartialEq)]
struct Change {
    base: Range,
    new: Range,
}

impl Change {
    /// Whether they overlap or are next to each other: nobody can say in which order two insertions
    /// at one place come.
    fn touches(&self, other: &Self) -> bool {
        self.base.start <= other.base.end && other.base.start <= self.base.end
    }
}

/// What changed, in order, by Myers' greedy search for the least number of lines.
fn changes(base: &[&[u8]], new: &[&[u8]]) -> Result<Vec<Change>, NoMerge> {
    let head = base.iter().zip(new).take_while(|(a, b)| a == b).count();
    let rest = base.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    let tail = rest.min(base.len() - head).min(new.len() - head);
    let (a, b) = (&base[head..base.len() - tail], &new[head..new.len() - tail]);
    let mut found: Vec<Change> = Vec::new();
    // The edits come last first, a line each.
    for (x, y, is_removal) in edits(a, b)?.into_iter().rev() {
        let (x, y) = (x + head, y + head);
        let (lost, made) = if is_removal { (1, 0) } else { (0, 1) };
        match found.last_mut() {
            Some(last) if last.base.end == x && last.new.end == y => {
                last.base.end += lost;
                last.new.end += made;
            }
            _ => found.push(Change { base: x..x + lost, new: y..y + made }),
        }
    }
    Ok(found)
}

/// The edits from `a` to `b`, last first: where in each, and whether a line of `a` goes or one of `b`
/// comes.
fn edits(a: &[&[u8]], b: &[&[u8]]) -> Result<Vec<(usize, usize, bool)>, NoMerge> {
    // `reach[k + most]`: how far in `a` the diagonal k = x - y is reached; one copy a step.
    let most = (a.len() + b.len()).min(CHANGES_MAX);
    let mut reach = vec![0usize; 2 * most + 2];
    let mut trace = Vec::new();
    let diagonal = |k: isize| k.wrapping_add_unsigned(most).unsigned_abs();
    let is_down = |reach: &[usize], step: isize, k: isize| {
        k == -step || (k != step && reach[diagonal(k - 1)] < reach[diagonal(k + 1)])
    };
    let mut steps = None;
    'search: for step in 0..=most.cast_signed() {
        trace.push(reach.clone());
        for k in (-step..=step).step_by(2) {
            let mut x = match step {
                0 => 0,
                _ if is_down(&reach, step, k) => reach[diagonal(k + 1)],
                _ => reach[diagonal(k - 1)] + 1,
            };
            let Some(mut y) = x.checked_add_signed(-k) else { continue };
            while a.get(x).is_some_and(|line| b.get(y) == Some(line)) {
                (x, y) = (x + 1, y + 1);
            }
            reach[diagonal(k)] = x;
            if x >= a.len() && y >= b.len() {
                steps = Some(step);
                break 'search;
            }
        }
    }
    let steps = steps.ok_or_else(|| NoMerge::new(format!("over {CHANGES_MAX} changed lines")))?;
    let (mut x, mut y) = (a.len(), b.len());
    let mut edits = Vec::new();
    for step in (1..=steps).rev() {
        let reach = &trace[step.unsigned_abs()];
        let k = x.cast_signed() - y.cast_signed();
        let down = is_down(reach, step, k);
        let before = if down { k + 1 } else { k - 1 };
        x = reach[diagonal(before)];
        y = x.checked_add_signed(-before).unwrap_or(0);
        edits.push((x, y, !down));
    }
    Ok(edits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Case;

    fn merged(base: &str, production: &str, recovery: &str) -> Result<String, String> {
        let case = Case::new("a").base(base).production(production).recovery(recovery);
        let pieces = three_way_lines(&case.conflict(), &case.contents());
        let bytes = case.apply(&pieces.map_err(|e| e.to_string())?);
        Ok(String::from_utf8(bytes.expect("a good recipe")).expect("text"))
    }

    #[test]
    fn changes_apart_from_each_other_are_merged() {
        let base = "1\n2\n3\n4\n5\n6\n7\n";
        let table = [
            ("1\n2\n3\n4\n5\n6\n7\n", "0\n1\n2\n3\n4\n5\n6\n7\n", "0\n1\n2\n3\n4\n5\n6\n7\n"),
            ("1\n3\n4\n5\n6\n7\n", "1\n2\n3\n4\n5\nsix\n7\n", "1\n3\n4\n5\nsix\n7\n"),
            ("x\n2\n3\n4\n5\n6\n7\n", "1\n2\n3\ny\nz\n5\n6\n7\n8", "x\n2\n3\ny\nz\n5\n6\n7\n8"),
            ("1\n2\n7\n", "1\n2\n7\n", "1\n2\n7\n"),
            (
                "1\n2\n3\n4\n5\n6\n7\nend\n",
                "1\n2\n3\n4\n5\n6\n7\nend\n",
                "1\n2\n3\n4\n5\n6\n7\nend\n",
            ),
        ];
        for (production, recovery, expected) in table {
            assert_eq!(merged(base, production, recovery).as_deref(), Ok(expected));
            assert_eq!(merged(base, recovery, production).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn changes_to_the_same_lines_are_not_merged() {
        for (production, recovery) in [
            ("1\nx\n3\n", "1\ny\n3\n"),
            ("1\n3\n", "1\n2\nx\n3\n"),
            ("1\n2\n3\np\n", "1\n2\n3\nr\n"),
            ("1\nx\n3\n", "1\n2\ny\n"),
        ] {
            let error = merged("1\n2\n3\n", production, recovery).expect_err("a conflict");
            assert!(error.starts_with("both sites changed"), "{error}");
        }
    }

    #[test]
    fn edits_lead_from_one_text_to_the_other() {
        // All pairs of texts of up to five lines over two letters.
        let texts: Vec<Vec<&[u8]>> = (0..6u32)
            .flat_map(|len| (0..1u32 << len).map(move |bits| (len, bits)))
            .map(|(len, bits)| {
                (0..len).map(|i| if bits >> i & 1 == 1 { &b"a"[..] } else { b"b" }).collect()
            })
            .collect();
        for a in &texts {
            for b in &texts {
                let mut built: Vec<&[u8]> = Vec::new();
                let mut at = 0;
                for change in changes(a, b).expect("small") {
                    built.extend(&a[at..change.base.start]);
                    built.extend(&b[change.new.clone()]);
                    at = change.base.end;
                }
                built.extend(&a[at..]);
                assert_eq!(&built, b, "from {a:?}");
            }
        }
    }

    #[test]
    fn texts_that_are_too_different_are_not_compared_for_ever() {
        let text = |word: &str| (0..2_000).map(|n| format!("{word}{n}\n")).collect::<String>();
        let error = merged(&text("a"), &text("b"), &text("a")).expect_err("too much");
        assert!(error.contains("changed lines"), "{error}");
    }
}

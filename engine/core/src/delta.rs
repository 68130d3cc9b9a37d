//! The second level of the delta: what of some new bytes stands in some old ones, found from short
//! signatures of the old ones' blocks.
//!
//! The end that holds the old bytes makes [`signatures`] of their blocks; the end that holds the new
//! ones finds those blocks at any byte offset ([`Signatures::find`], by a rolling hash), and then,
//! between two that it found, the much shorter blocks that are still in step with one of the two
//! ([`in_step`]). A signature has 16 to 48 bits: two different blocks may share one. Whoever
//! assembles bytes from what was found checks them against a digest of the whole; nothing here is
//! proof.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

/// Fewest and most bytes of one signature.
pub const SIGNATURE_LENS: Range<usize> = 2..7;
/// Shortest block in bytes: below it signatures come near the length of what they stand for.
pub const BLOCK_LEN_MIN: usize = 32;
/// Longest block in bytes.
pub const BLOCK_LEN_MAX: usize = 64 << 10;
/// Most old bytes that are signed at once: bounds what either end holds for one answer.
pub const SIGNED_LEN_MAX: u64 = 4 << 20;

/// Blocks whose signatures agree on both sides count as the same only if so many follow one another:
/// a single short signature agrees by chance too often. What touches a block found before needs no
/// second one.
const RUN_MIN: usize = 2;

/// Where nothing moved, an edit ends within so many blocks: they are tried in step first, which costs
/// one hash a block and not one a byte.
const AHEAD: u64 = 8;

/// Far from a block that was found, so many offsets are tried at once: one polynomial waits for the byte
/// before, several do not wait for each other.
const LANES: usize = 4;
/// Offsets of each.
const LANE: usize = 4 << 10;
/// Offsets that are tried one after the other first: the next block is often near.
const NEAR: usize = 2 << 10;

/// Bits of the filter in front of the tables: it stays in the nearest cache.
const FILTER_BITS: usize = 1 << 17;

/// Base of the polynomial: odd, so that no byte of a block is ever shifted out.
const BASE: u64 = 0x9e37_79b9_7f4a_7c15;
/// Spreads the sum over all bits before it is cut to a signature.
const SPREAD: u64 = 0xff51_afd7_ed55_8ccd;

const POWERS: [u64; 9] = {
    let mut powers = [1u64; 9];
    let mut i = 1;
    while i < 9 {
        powers[i] = powers[i - 1].wrapping_mul(BASE);
        i += 1;
    }
    powers
};

/// The polynomial of `block`: the sum of byte i times BASE^(n-1-i).
fn sum(block: &[u8]) -> u64 {
    let (eights, rest) = block.as_chunks::<8>();
    let mut h = 0u64;
    for eight in eights {
        // Eight products that do not wait for each other, and one that does.
        let product = |i: usize| u64::from(eight[i]).wrapping_mul(POWERS[7 - i]);
        let pair = |i: usize| product(i).wrapping_add(product(i + 1));
        let part = (pair(0).wrapping_add(pair(2))).wrapping_add(pair(4).wrapping_add(pair(6)));
        h = h.wrapping_mul(POWERS[8]).wrapping_add(part);
    }
    rest.iter().fold(h, |h, &byte| h.wrapping_mul(BASE).wrapping_add(u64::from(byte)))
}

/// The signature of a block whose polynomial is `sum`.
fn signature(sum: u64, signature_len: usize) -> u64 {
    ((sum ^ (sum >> 29)).wrapping_mul(SPREAD)) >> (64 - 8 * signature_len)
}

/// How blocks are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signing {
    block_len: usize,
    signature_len: usize,
}

impl Signing {
    /// Blocks of `block_len` bytes, signatures of `signature_len`; `None` beyond the bounds of this
    /// module.
    #[must_use]
    pub const fn new(block_len: usize, signature_len: usize) -> Option<Self> {
        if block_len < BLOCK_LEN_MIN
            || block_len > BLOCK_LEN_MAX
            || signature_len < SIGNATURE_LENS.start
            || signature_len >= SIGNATURE_LENS.end
        {
            return None;
        }
        Some(Self { block_len, signature_len })
    }

    /// Bytes of one block.
    #[must_use]
    pub fn block_len(self) -> usize {
        self.block_len
    }

    /// Bytes of one signature.
    #[must_use]
    pub fn signature_len(self) -> usize {
        self.signature_len
    }

    /// Bytes of the signatures of `len` old bytes.
    #[must_use]
    pub fn signed_len(self, len: u64) -> u64 {
        len / self.block_len as u64 * self.signature_len as u64
    }

    fn of(self, block: &[u8]) -> u64 {
        signature(sum(block), self.signature_len)
    }

    fn values(self, bytes: &[u8]) -> impl Iterator<Item = u64> {
        let value = |s: &[u8]| s.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
        bytes.chunks_exact(self.signature_len).map(value)
    }
}

/// Appends the signatures of the whole blocks of `old`, one after the other; what is left at its end
/// has none.
pub fn signatures(old: &[u8], signing: Signing, out: &mut Vec<u8>) {
    for block in old.chunks_exact(signing.block_len) {
        out.extend_from_slice(&signing.of(block).to_le_bytes()[..signing.signature_len]);
    }
}

/// A stretch of new bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The same as the old bytes from this offset on.
    Old {
        /// Offset in the old content, in bytes.
        offset: u64,
        /// Length in bytes.
        len: usize,
    },
    /// Found nowhere: this range of the new bytes.
    New(Range<usize>),
}

impl Found {
    /// Bytes it stands for.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Old { len, .. } => *len,
            Self::New(range) => range.len(),
        }
    }

    /// Whether it stands for none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Appends `piece`, joined to the last one where it follows it in the old or the new bytes.
fn push(found: &mut Vec<Found>, piece: Found) {
    match (found.last_mut(), piece) {
        (Some(Found::Old { offset, len }), Found::Old { offset: next, len: more })
            if *offset + *len as u64 == next =>
        {
            *len += more;
        }
        (Some(Found::New(range)), Found::New(more)) if range.end == more.start => {
            range.end = more.end;
        }
        (_, piece) if piece.is_empty() => {}
        (_, piece) => found.push(piece),
    }
}

/// The blocks of some stretches of old bytes, by signature.
#[derive(Debug)]
pub struct Signatures {
    signing: Signing,
    /// In the order they were added.
    stretches: VecDeque<Stretch>,
    /// A bit for each value that is there.
    filter: Vec<u64>,
    /// BASE^(block_len - 1): what the byte that leaves the window counts.
    leaving: u64,
}

#[derive(Debug)]
struct Stretch {
    start: u64,
    /// By number of the block.
    list: Vec<u64>,
    /// The first block with each signature.
    first: HashMap<u64, u32>,
}

#[allow(clippy::cast_possible_truncation)] // a few bits of it
fn filter_bit(value: u64) -> (usize, u64) {
    let bit = value as usize % FILTER_BITS;
    (bit / 64, 1 << (bit % 64))
}

impl Signatures {
    /// None so far.
    #[must_use]
    pub fn new(signing: Signing) -> Self {
        let leaving = (1..signing.block_len).fold(1u64, |power, _| power.wrapping_mul(BASE));
        Self { signing, stretches: VecDeque::new(), filter: Vec::new(), leaving }
    }

    /// Adds what [`signatures`] made of old bytes that begin at `start`.
    pub fn add(&mut self, start: u64, bytes: &[u8]) {
        let list: Vec<u64> = self.signing.values(bytes).collect();
        let mut first = HashMap::with_capacity(list.len());
        for (number, &value) in (0u32..).zip(&list) {
            first.entry(value).or_insert(number);
        }
        self.filter.resize(FILTER_BITS / 64, 0);
        set_bits(&mut self.filter, &list);
        self.stretches.push_back(Stretch { start, list, first });
    }

    /// Drops stretches that end before `offset`.
    pub fn forget_before(&mut self, offset: u64) {
        let (block_len, before) = (self.signing.block_len as u64, self.stretches.len());
        self.stretches.retain(|s| s.start.saturating_add(s.list.len() as u64 * block_len) > offset);
        if self.stretches.len() < before {
            self.filter.fill(0);
            self.stretches.iter().for_each(|s| set_bits(&mut self.filter, &s.list));
        }
    }

    /// The signature of the block at `old`.
    fn at(&self, old: u64) -> Option<u64> {
        let block_len = self.signing.block_len as u64;
        self.stretches.iter().find_map(|stretch| {
            let past = old.checked_sub(stretch.start).filter(|past| past % block_len == 0)?;
            stretch.list.get(usize::try_from(past / block_len).ok()?).copied()
        })
    }

    fn is_filtered(&self, value: u64) -> bool {
        let (word, bit) = filter_bit(value);
        self.filter.get(word).is_none_or(|bits| bits & bit == 0)
    }

    /// The block with this signature: the one at `expected`, else the first that has it if the block
    /// behind it is what follows in `rest` too. Out of step there are so many blocks to be taken for
    /// that one signature alone agrees by chance.
    fn block(&self, value: u64, expected: u64, rest: &[u8]) -> Option<u64> {
        if self.at(expected) == Some(value) {
            return Some(expected);
        }
        let block_len = self.signing.block_len as u64;
        let follows = |old: &u64| {
            let block = rest.get(..self.signing.block_len);
            block.is_some_and(|b| self.at(*old + block_len) == Some(self.signing.of(b)))
        };
        let first = |s: &Stretch| Some(s.start + u64::from(*s.first.get(&value)?) * block_len);
        self.stretches.iter().filter_map(first).find(follows)
    }

    /// How far from the beginning of `new`, which would stand at `old` had nothing moved, the next
    /// block in step is the same.
    fn ahead(&self, new: &[u8], old: u64) -> Option<usize> {
        let block_len = self.signing.block_len as u64;
        let first = self.stretches.iter().find_map(|s| {
            let past = old.saturating_sub(s.start).next_multiple_of(block_len);
            (past / block_len < s.list.len() as u64).then_some(s.start + past)
        })?;
        (0..=AHEAD).find_map(|n| {
            let there = first + n * block_len;
            let at = usize::try_from(there.checked_sub(old)?).ok()?;
            let block = new.get(at..at.checked_add(self.signing.block_len)?)?;
            (self.at(there) == Some(self.signing.of(block))).then_some(at)
        })
    }

    /// Takes `new` apart into stretches that stand in the old bytes and stretches that do not, in
    /// order and without a gap. `offset` is where `new` would stand if nothing had moved: of blocks
    /// that occur more than once, those in step with it and with one another are preferred.
    #[must_use]
    pub fn find(&self, new: &[u8], offset: u64) -> Vec<Found> {
        let block_len = self.signing.block_len;
        let mut found = Vec::new();
        // What to add to a position in `new` to get the old offset in step with the last match.
        let mut in_step = offset;
        let mut at = 0;
        while at < new.len() {
            let expected = in_step.wrapping_add(at as u64);
            if let Some(skip) = self.ahead(&new[at..], expected) {
                push(&mut found, Found::New(at..at + skip));
                push(&mut found, Found::Old { offset: expected + skip as u64, len: block_len });
                at += skip + block_len;
                continue;
            }
            let Some((next, old)) = self.search(&new[at..], expected) else { break };
            push(&mut found, Found::New(at..at + next));
            push(&mut found, Found::Old { offset: old, len: block_len });
            at += next;
            in_step = old.wrapping_sub(at as u64);
            at += block_len;
        }
        push(&mut found, Found::New(at.min(new.len())..new.len()));
        found
    }

    /// The first block at any offset of `new`, and where it stands in the old bytes.
    fn search(&self, new: &[u8], old: u64) -> Option<(usize, u64)> {
        let end = new.len().checked_sub(self.signing.block_len)? + 1;
        let mut at = 0;
        while at < end {
            let (found, to) = if at >= NEAR && end - at >= LANES * LANE {
                (self.search_lanes(new, old, at), at + LANES * LANE)
            } else {
                let to = if at < NEAR { NEAR.min(end) } else { end };
                (self.search_offsets(new, old, at..to), to)
            };
            if found.is_some() {
                return found;
            }
            at = to;
        }
        None
    }

    /// The polynomial of the window one byte on.
    fn roll(&self, h: u64, leaving: u8, entering: u8) -> u64 {
        let h = h.wrapping_sub(u64::from(leaving).wrapping_mul(self.leaving));
        h.wrapping_mul(BASE).wrapping_add(u64::from(entering))
    }

    /// Where the block at the offset `at` stands, whose signature is `value` and passes the filter.
    fn place(&self, new: &[u8], old: u64, at: usize, value: u64) -> Option<u64> {
        let rest = &new[at + self.signing.block_len..];
        self.block(value, old.wrapping_add(at as u64), rest)
    }

    /// The first of these offsets, one after the other.
    fn search_offsets(&self, new: &[u8], old: u64, offsets: Range<usize>) -> Option<(usize, u64)> {
        let Signing { block_len, signature_len } = self.signing;
        let mut h = sum(&new[offsets.start..offsets.start + block_len]);
        for at in offsets {
            let value = signature(h, signature_len);
            if !self.is_filtered(value)
                && let Some(place) = self.place(new, old, at, value)
            {
                return Some((at, place));
            }
            h = self.roll(h, new[at], *new.get(at + block_len)?);
        }
        None
    }

    /// The same of [`LANES`] times [`LANE`] offsets, so many at once.
    fn search_lanes(&self, new: &[u8], old: u64, from: usize) -> Option<(usize, u64)> {
        let Signing { block_len, signature_len } = self.signing;
        let start = |lane: usize| from + lane * LANE;
        let mut h: [u64; LANES] =
            std::array::from_fn(|lane| sum(&new[start(lane)..start(lane) + block_len]));
        // The last lane may end where `new` does: nothing enters its last window any more.
        let bytes: [(&[u8], &[u8]); LANES] = std::array::from_fn(|lane| {
            let entering = start(lane) + block_len;
            let end = (entering + LANE).min(new.len());
            (&new[start(lane)..start(lane) + LANE], &new[entering..end])
        });
        let mut found = None;
        // Of lanes behind one where a block was found none counts.
        let mut lanes = LANES;
        for offset in 0..LANE {
            for lane in 0..LANES {
                let value = signature(h[lane], signature_len);
                let (leaving, entering) = bytes[lane];
                let entering = entering.get(offset).copied().unwrap_or(0);
                h[lane] = self.roll(h[lane], leaving[offset], entering);
                if lane < lanes
                    && !self.is_filtered(value)
                    && let Some(place) = self.place(new, old, start(lane) + offset, value)
                {
                    (found, lanes) = (Some((start(lane) + offset, place)), lane);
                }
            }
            if lanes == 0 {
                break;
            }
        }
        found
    }
}

fn set_bits(filter: &mut [u64], values: &[u64]) {
    for &value in values {
        let (word, bit) = filter_bit(value);
        filter[word] |= bit;
    }
}

/// Takes `new` apart as [`Signatures::find`] does, but looks for the blocks of the old bytes at
/// `old`, signed in `bytes`, only where they would stand if `new` began or ended with them.
#[must_use]
pub fn in_step(new: &[u8], old: &Range<u64>, signing: Signing, bytes: &[u8]) -> Vec<Found> {
    let block_len = signing.block_len;
    let values: Vec<u64> = signing.values(bytes).collect();
    let Some(old_len) = old.end.checked_sub(old.start).and_then(|l| usize::try_from(l).ok()) else {
        return vec![Found::New(0..new.len())];
    };
    let is_at = |number: usize, at: usize| {
        let block = at.checked_add(block_len).and_then(|end| new.get(at..end));
        block.is_some_and(|block| signing.of(block) == values[number])
    };
    // From the start on: what follows it without a break, then runs.
    let mut found = Vec::new();
    let (mut number, mut at) = (0, 0);
    while number < values.len() {
        let run = (number..values.len()).take_while(|&n| is_at(n, n * block_len)).count();
        if run >= RUN_MIN || (number == 0 && run > 0) {
            push(&mut found, Found::New(at..number * block_len));
            let offset = old.start + (number * block_len) as u64;
            push(&mut found, Found::Old { offset, len: run * block_len });
            at = (number + run) * block_len;
        }
        number += run + 1;
    }
    // From the end on, down to what was found already.
    let mut behind = Vec::new();
    let mut end = new.len();
    let place = |number: usize| {
        (new.len() + number * block_len).checked_sub(old_len).filter(|&place| place >= at)
    };
    let mut number = values.len();
    while number > 0 {
        let is_next = |n: &usize| place(*n).is_some_and(|p| is_at(*n, p));
        let run = (0..number).rev().take_while(is_next).count();
        let touches = number * block_len == old_len && end == new.len();
        if (run >= RUN_MIN || (touches && run > 0))
            && let Some(start) = place(number - run)
        {
            behind.push(Found::New(start + run * block_len..end));
            let offset = old.start + ((number - run) * block_len) as u64;
            behind.push(Found::Old { offset, len: run * block_len });
            end = start;
        }
        number = number.saturating_sub(run + 1);
    }
    push(&mut found, Found::New(at..end));
    // The pieces behind were made back to front, each before the one it follows.
    let ordered = behind.chunks(2).rev().flat_map(|pair| pair.iter().rev());
    ordered.for_each(|piece| push(&mut found, piece.clone()));
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn noise(len: usize, mut seed: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
            out.extend_from_slice(&(seed >> 16).to_le_bytes()[..6]);
        }
        out.truncate(len);
        out
    }

    fn rebuilt(found: &[Found], old: &[u8], start: u64, new: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in found {
            match piece {
                Found::Old { offset, len } => {
                    let from = (offset - start) as usize;
                    out.extend_from_slice(&old[from..from + len]);
                }
                Found::New(range) => out.extend_from_slice(&new[range.clone()]),
            }
        }
        out
    }

    fn literal(found: &[Found]) -> usize {
        found.iter().filter(|f| matches!(f, Found::New(_))).map(Found::len).sum()
    }

    const START: u64 = 1_000_003;

    proptest! {
        /// Many offsets at once find what one after the other finds, by signatures that agree by chance
        /// often enough too.
        #[test]
        fn lanes_find_the_first_block_like_one_offset_after_the_other(
            seed in 0u64..1 << 40,
            len in 0usize..(3 * LANES * LANE),
            block_len in 32usize..600,
            signature_len in 2usize..5,
            pasted in proptest::collection::vec((0usize..(3 * LANES * LANE), 0usize..200), 0..4),
        ) {
            let signing = Signing::new(block_len, signature_len).expect("within bounds");
            let old = noise(200 * block_len, seed);
            let mut new = noise(len, !seed);
            for (at, block) in pasted {
                let two = &old[block.min(198) * block_len..][..2 * block_len];
                if let Some(place) = new.get_mut(at..at + two.len()) {
                    place.copy_from_slice(two);
                }
            }
            let mut signatures = Signatures::new(signing);
            signatures.add(START, &signed(&old, signing));
            let one_by_one = || {
                let end = new.len().checked_sub(block_len)? + 1;
                signatures.search_offsets(&new, START, 0..end)
            };
            prop_assert_eq!(signatures.search(&new, START), one_by_one());
        }
    }

    fn signed(old: &[u8], signing: Signing) -> Vec<u8> {
        let mut out = Vec::new();
        signatures(old, signing, &mut out);
        assert_eq!(out.len() as u64, signing.signed_len(old.len() as u64));
        out
    }

    /// In two stretches.
    fn find(old: &[u8], new: &[u8], block_len: usize) -> Vec<Found> {
        let signing = Signing::new(block_len, 6).expect("within bounds");
        let mut signatures = Signatures::new(signing);
        let half = old.len() / 2 / block_len * block_len;
        signatures.add(START, &signed(&old[..half], signing));
        signatures.add(START + half as u64, &signed(&old[half..], signing));
        let found = signatures.find(new, START);
        assert_eq!(rebuilt(&found, old, START, new), new);
        found
    }

    fn step(old: &[u8], new: &[u8]) -> Vec<Found> {
        let signing = Signing::new(64, 4).expect("within bounds");
        let range = START..START + old.len() as u64;
        let found = in_step(new, &range, signing, &signed(old, signing));
        assert_eq!(rebuilt(&found, old, START, new), new);
        found
    }

    #[test]
    fn an_edit_between_two_blocks_is_narrowed_down() {
        let old = noise(1_024, 21);
        let mut new = old.clone();
        new[300..400].copy_from_slice(&noise(100, 22));
        assert_eq!(literal(&step(&old, &new)), 192);
        // A second place, with two blocks that agree in between.
        new[600..601].copy_from_slice(b"?");
        assert_eq!(literal(&step(&old, &new)), 192 + 64);
        let mut new = old.clone();
        new.splice(500..500, noise(33, 23));
        assert_eq!(literal(&step(&old, &new)), 64 + 33);
        let mut new = old.clone();
        new.drain(500..520);
        assert_eq!(literal(&step(&old, &new)), 2 * 64 - 20);
        assert_eq!(literal(&step(&old, &noise(700, 24))), 700);
        assert_eq!(literal(&step(&old, &[])), 0);
    }

    #[test]
    fn a_stretch_that_was_dropped_is_not_found() {
        let old = noise(64 << 10, 25);
        let signing = Signing::new(1_024, 5).expect("within bounds");
        let mut signatures = Signatures::new(signing);
        signatures.add(0, &signed(&old[..32 << 10], signing));
        signatures.add(32 << 10, &signed(&old[32 << 10..], signing));
        signatures.forget_before(32 << 10);
        let found = signatures.find(&old, 0);
        assert_eq!(found[0], Found::New(0..32 << 10));
        assert_eq!(found[1], Found::Old { offset: 32 << 10, len: 32 << 10 });
    }

    #[test]
    fn rewritten_bytes_alone_are_new() {
        let old = noise(1 << 20, 1);
        let mut new = old.clone();
        for at in (0..new.len()).step_by(64 << 10) {
            new[at + 4_096..at + 8_192].copy_from_slice(&noise(4_096, at as u64 + 9));
        }
        assert_eq!(literal(&find(&old, &new, 512)), 16 * 4_096);
    }

    #[test]
    fn what_follows_an_insertion_is_found_again() {
        let old = noise(1 << 20, 2);
        let mut new = old.clone();
        new.splice(300_001..300_001, noise(100, 3));
        let found = find(&old, &new, 512);
        assert!(literal(&found) < 100 + 2 * 512, "{}", literal(&found));
    }

    #[test]
    fn equal_blocks_stay_in_step() {
        // 125 blocks of 256 bytes.
        let old = [b"one record like any other\r\n".repeat(1_000), noise(5_000, 4)].concat();
        let found = find(&old, &old, 256);
        assert_eq!(found, [Found::Old { offset: 1_000_003, len: old.len() }]);
    }

    #[test]
    fn strangers_have_nothing_in_common() {
        let found = find(&noise(100_000, 5), &noise(100_000, 6), 64);
        assert_eq!(found, [Found::New(0..100_000)]);
    }

    proptest! {
        #[test]
        fn any_edit_is_rebuilt(
            old in prop::collection::vec(0u8..3, 0..3_000),
            edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..90, 0usize..90), 0..6),
            block_len in 64usize..200,
        ) {
            let mut new = old.clone();
            for (i, (at, removed, inserted)) in edits.into_iter().enumerate() {
                let from = at.index(new.len() + 1);
                let to = (from + removed).min(new.len());
                new.splice(from..to, noise(inserted, i as u64));
            }
            find(&old, &new, block_len);
        }

        #[test]
        fn any_edit_of_a_block_is_rebuilt(
            old in prop::collection::vec(0u8..3, 0..1_500),
            edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..90, 0usize..90), 0..4),
        ) {
            let mut new = old.clone();
            for (i, (at, removed, inserted)) in edits.into_iter().enumerate() {
                let from = at.index(new.len() + 1);
                let to = (from + removed).min(new.len());
                new.splice(from..to, noise(inserted, i as u64));
            }
            step(&old, &new);
        }

        #[test]
        fn any_bytes_are_signatures(bytes: Vec<u8>, new: Vec<u8>, old: std::ops::Range<u64>) {
            let signing = Signing::new(32, 2).expect("within bounds");
            let mut signatures = Signatures::new(signing);
            signatures.add(u64::MAX - 5_000_000, &bytes);
            let all = |found: Vec<Found>| found.iter().map(Found::len).sum::<usize>();
            prop_assert_eq!(all(signatures.find(&new, 0)), new.len());
            prop_assert_eq!(all(in_step(&new, &(0..old.end % 3_000), signing, &bytes)), new.len());
        }

        #[test]
        fn a_rolled_sum_is_the_sum(bytes in prop::collection::vec(any::<u8>(), 65..300)) {
            let s = Signatures::new(Signing::new(64, 6).expect("within bounds"));
            let mut h = sum(&bytes[..64]);
            for at in 0..bytes.len() - 64 {
                h = h.wrapping_sub(u64::from(bytes[at]).wrapping_mul(s.leaving)).wrapping_mul(BASE)
                    .wrapping_add(u64::from(bytes[at + 64]));
                prop_assert_eq!(h, sum(&bytes[at + 1..at + 65]));
            }
        }
    }
}

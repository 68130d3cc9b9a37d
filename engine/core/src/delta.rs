//! The second level of the delta: what of some new bytes stands in some old ones, found from short
//! signatures of the old ones' blocks.
//!
//! The end that holds the old bytes makes [`signatures`] of their blocks; the end that holds the new
//! ones finds those blocks at any byte offset ([`Signatures::find`]), by a rolling hash. A signature
//! has 48 bits: two different blocks may share one. Whoever assembles bytes from what was found
//! checks them against a digest of the whole; nothing here is proof.

use std::collections::HashMap;
use std::ops::Range;

/// Bytes of one signature.
pub const SIGNATURE_LEN: usize = 6;
/// Shortest block in bytes.
pub const BLOCK_LEN_MIN: usize = 64;
/// Longest block in bytes.
pub const BLOCK_LEN_MAX: usize = 64 << 10;
/// Most old bytes that are signed at once: bounds what either end holds for one answer.
pub const SIGNED_LEN_MAX: u64 = 4 << 20;

/// Base of the polynomial: odd, so that no byte of a block is ever shifted out.
const BASE: u64 = 0x9e37_79b9_7f4a_7c15;
/// Spreads the sum over all bits before it is cut to a signature.
const SPREAD: u64 = 0xff51_afd7_ed55_8ccd;

/// Bits of the filter in front of the table of signatures.
const FILTER_BITS: usize = 1 << 18;

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
        let part = eight.iter().rev().zip(POWERS).fold(0u64, |part, (&byte, power)| {
            part.wrapping_add(u64::from(byte).wrapping_mul(power))
        });
        h = h.wrapping_mul(POWERS[8]).wrapping_add(part);
    }
    rest.iter().fold(h, |h, &byte| h.wrapping_mul(BASE).wrapping_add(u64::from(byte)))
}

/// The signature of a block whose polynomial is `sum`.
fn signature(sum: u64) -> u64 {
    ((sum ^ (sum >> 29)).wrapping_mul(SPREAD)) >> (64 - 8 * SIGNATURE_LEN)
}

/// Signatures of the whole blocks of `old`, one after the other; what is left at its end has none.
#[must_use]
pub fn signatures(old: &[u8], block_len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(old.len() / block_len.max(1) * SIGNATURE_LEN);
    for block in old.chunks_exact(block_len.max(1)) {
        out.extend_from_slice(&signature(sum(block)).to_le_bytes()[..SIGNATURE_LEN]);
    }
    out
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

/// The blocks of one stretch of old bytes, by signature.
#[derive(Debug)]
pub struct Signatures {
    start: u64,
    block_len: usize,
    /// By number of the block.
    list: Vec<u64>,
    /// The first block with each signature.
    first: HashMap<u64, u32>,
    filter: Vec<u64>,
    /// BASE^(block_len - 1): what the byte that leaves the window counts.
    leaving: u64,
}

impl Signatures {
    /// Signatures as [`signatures`] made them of old bytes that begin at `start`.
    #[must_use]
    pub fn new(start: u64, block_len: usize, bytes: &[u8]) -> Self {
        let block_len = block_len.max(1);
        let list: Vec<u64> = bytes
            .chunks_exact(SIGNATURE_LEN)
            .map(|s| s.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
            .collect();
        let mut first = HashMap::with_capacity(list.len());
        let mut filter = vec![0u64; FILTER_BITS / 64];
        for (number, &value) in (0u32..).zip(&list) {
            first.entry(value).or_insert(number);
            let bit = filter_bit(value);
            filter[bit / 64] |= 1 << (bit % 64);
        }
        let leaving = (1..block_len).fold(1u64, |power, _| power.wrapping_mul(BASE));
        Self { start, block_len, list, first, filter, leaving }
    }

    /// The block with this signature: the one at `offset`, if it has it, else the first that does.
    fn block(&self, value: u64, offset: Option<u64>) -> Option<u64> {
        let bit = filter_bit(value);
        if self.filter[bit / 64] & 1 << (bit % 64) == 0 {
            return None;
        }
        let first = *self.first.get(&value)?;
        let expected = offset.and_then(|o| o.checked_sub(self.start)).filter(|past| {
            let block_len = self.block_len as u64;
            past % block_len == 0
                && usize::try_from(past / block_len)
                    .is_ok_and(|number| self.list.get(number) == Some(&value))
        });
        Some(self.start + expected.unwrap_or(u64::from(first) * self.block_len as u64))
    }

    /// Takes `new` apart into stretches that stand in the old bytes and stretches that do not, in
    /// order and without a gap. `offset` is where `new` would stand if nothing had moved: of blocks
    /// that occur more than once, those in step with it and with one another are preferred.
    #[must_use]
    pub fn find(&self, new: &[u8], offset: u64) -> Vec<Found> {
        let mut found = Vec::new();
        // What to add to a position in `new` to get the old offset in step with the last match.
        let mut in_step = offset;
        let (mut at, mut literal) = (0usize, 0usize);
        let mut rolling: Option<u64> = None;
        while at + self.block_len <= new.len() {
            let h = rolling.unwrap_or_else(|| sum(&new[at..at + self.block_len]));
            match self.block(signature(h), Some(in_step.wrapping_add(at as u64))) {
                Some(old) => {
                    if literal < at {
                        found.push(Found::New(literal..at));
                    }
                    match found.last_mut() {
                        Some(Found::Old { offset, len }) if *offset + *len as u64 == old => {
                            *len += self.block_len;
                        }
                        _ => found.push(Found::Old { offset: old, len: self.block_len }),
                    }
                    in_step = old.wrapping_sub(at as u64);
                    at += self.block_len;
                    literal = at;
                    rolling = None;
                }
                None => {
                    let leaves = u64::from(new[at]).wrapping_mul(self.leaving);
                    let next = new.get(at + self.block_len).copied().unwrap_or(0);
                    let rest = h.wrapping_sub(leaves).wrapping_mul(BASE);
                    rolling = Some(rest.wrapping_add(u64::from(next)));
                    at += 1;
                }
            }
        }
        if literal < new.len() {
            found.push(Found::New(literal..new.len()));
        }
        found
    }
}

#[allow(clippy::cast_possible_truncation)] // a few bits of it
fn filter_bit(value: u64) -> usize {
    value as usize % FILTER_BITS
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

    fn find(old: &[u8], new: &[u8], block_len: usize) -> Vec<Found> {
        let start = 1_000_003;
        let signed = Signatures::new(start, block_len, &signatures(old, block_len));
        let found = signed.find(new, start);
        assert_eq!(rebuilt(&found, old, start, new), new);
        found
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
        fn any_bytes_are_signatures(bytes: Vec<u8>, new: Vec<u8>) {
            let found = Signatures::new(u64::MAX - 5_000_000, 64, &bytes).find(&new, 0);
            prop_assert_eq!(found.iter().map(Found::len).sum::<usize>(), new.len());
        }

        #[test]
        fn a_rolled_sum_is_the_sum(bytes in prop::collection::vec(any::<u8>(), 65..300)) {
            let s = Signatures::new(0, 64, &[]);
            let mut h = sum(&bytes[..64]);
            for at in 0..bytes.len() - 64 {
                h = h.wrapping_sub(u64::from(bytes[at]).wrapping_mul(s.leaving)).wrapping_mul(BASE)
                    .wrapping_add(u64::from(bytes[at + 64]));
                prop_assert_eq!(h, sum(&bytes[at + 1..at + 65]));
            }
        }
    }
}

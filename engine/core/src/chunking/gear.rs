//! The search for cut points: an 8-bit gear hash names candidates, a hash of 32 bytes chooses.
//!
//! Guarantees: a cut depends on the bytes of its chunk and of what follows alone, not on how they were
//! pushed nor on the machine; every way the candidates are found gives the same ones. `docs/format.md`
//! has the algorithm in words, the tests its golden cuts: it never changes, another one gets new
//! numbers.
//!
//! The gear hash of a position, `h = 2h + S[byte]` modulo 256, forgets all but the last 8 bytes, so
//! that it can be made for many positions at once by three doublings; that is why it is only 8 bits
//! wide. `S` is the exclusive or of two tables of 16, one for each half of a byte, which is a shuffle.
//! The tables share no value, so `S` is never 0 and runs of one byte have no candidates.

#[cfg(target_arch = "x86_64")]
mod avx2;

use super::Parameters;

/// Positions looked at in one go: what is found beyond the cut is wasted.
const BLOCK: usize = 4_096;

/// One bit for each position of a block, the lowest first: whether it is a candidate.
type Bitmap = [u64; BLOCK / 64];

/// Bytes before a block that must be there.
const WARM_UP: usize = 16;

/// A block, and the bytes before it that its first positions depend on.
type Block = [u8; WARM_UP + BLOCK];

/// Bytes that choose among candidates; a chunk is never shorter.
const WINDOW: usize = 32;

/// `S` of a byte is `LOW[byte & 15] ^ HIGH[byte >> 4]`. The first 32 values of a random permutation
/// (SplitMix64, seed 1); of eight such pairs the one with the most even candidates on text and
/// programs.
const LOW: [u8; 16] = [
    0x56, 0x54, 0x3e, 0x34, 0x7a, 0x9d, 0xb6, 0x8c, 0xf7, 0xc5, 0xbb, 0x28, 0x0a, 0x7f, 0xa4, 0x63,
];
/// See [`LOW`].
const HIGH: [u8; 16] = [
    0x76, 0x60, 0x27, 0x5c, 0x80, 0x6b, 0x0f, 0x00, 0x96, 0x35, 0xd1, 0xda, 0xd4, 0xa9, 0x3f, 0x24,
];

const fn gear_table() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = LOW[byte & 15] ^ HIGH[byte >> 4];
        byte += 1;
    }
    table
}

const GEAR: [u8; 256] = gear_table();

/// A search under way: between two calls more of the file is pushed.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// Chunk lengths up to this one are decided.
    scanned: usize,
    /// Hash and length of the cut to take when nothing better comes before the largest length.
    best: Option<(u32, usize)>,
}

impl Search {
    /// The length of the chunk at the start of `data`, or `None` when more bytes are needed. The same
    /// chunk's bytes come again with the next call, and more of them. When `complete`, the chunk ends
    /// with `data` at the latest.
    pub(super) fn find(&mut self, p: Parameters, data: &[u8], complete: bool) -> Option<usize> {
        let limit = data.len().min(p.max);
        let mut at = self.scanned.max(p.min);
        let mut bits = [0; BLOCK / 64];
        // In the average chunk four times fewer cuts than the average asks for come before it, and
        // eight times more after it: lengths gather around it.
        let (before, after) = thresholds(p.avg);
        while at < limit {
            let len = (limit - at).min(BLOCK);
            if len < BLOCK && !complete && limit < p.max {
                break;
            }
            candidates(data, at, &mut bits);
            for (word, &found) in bits.iter().enumerate() {
                let mut found = found;
                while found != 0 {
                    let last = at + word * 64 + found.trailing_zeros() as usize;
                    if last >= limit {
                        break;
                    }
                    found &= found - 1;
                    let Some(window) = data[..=last].last_chunk() else { continue };
                    let hash = hash(window);
                    let len = last + 1;
                    let threshold = if len <= p.avg { before } else { after };
                    if hash < threshold {
                        *self = Self::default();
                        return Some(len);
                    }
                    if len > p.avg && self.best.is_none_or(|(best, _)| hash < best) {
                        self.best = Some((hash, len));
                    }
                }
            }
            at += len;
        }
        self.scanned = at;
        let len = if limit == p.max {
            self.best.map_or(p.max, |(_, len)| len)
        } else if complete {
            limit
        } else {
            return None;
        };
        *self = Self::default();
        Some(len)
    }
}

/// Hashes below which a candidate is a cut, up to the average length and beyond it: one in 256
/// positions is a candidate, so that `2^38 / avg` is one cut in `4 avg` bytes.
#[allow(clippy::cast_possible_truncation)] // an average is above 2 KiB
fn thresholds(avg: usize) -> (u32, u32) {
    let avg = avg as u64;
    (((1 << 38) / avg) as u32, ((1 << 43) / avg) as u32)
}

/// Mixes the 32 bytes that end at a candidate; all of it counts.
fn hash(window: &[u8; WINDOW]) -> u32 {
    let (words, _) = window.as_chunks::<8>();
    let word = |n: usize| u64::from_le_bytes(words[n]);
    let a = (word(0) ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ word(1);
    let b = (word(2) ^ 0xc2b2_ae3d_27d4_eb4f).wrapping_mul(0x94d0_49bb_1331_11eb) ^ word(3);
    let x = (a ^ (a >> 32))
        .wrapping_mul(0xff51_afd7_ed55_8ccd)
        .wrapping_add((b ^ (b >> 32)).wrapping_mul(0xc4ce_b9fe_1a85_ec53));
    let x = (x ^ (x >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x >> 32) as u32
}

/// The candidates of the block at `at` of `data`. Bits beyond the end of `data` mean nothing.
fn candidates(data: &[u8], at: usize, out: &mut Bitmap) {
    let data = &data[at - WARM_UP..];
    if let Some(block) = data.first_chunk() {
        return candidates_of(block, out);
    }
    let mut block = [0; WARM_UP + BLOCK];
    block[..data.len()].copy_from_slice(data);
    candidates_of(&block, out);
}

fn candidates_of(block: &Block, out: &mut Bitmap) {
    #[cfg(target_arch = "x86_64")]
    if avx2::candidates(block, out) {
        return;
    }
    portable(block, out);
}

/// As [`candidates_of`], on any machine: four stretches side by side, since each hash waits for the
/// one before it.
fn portable(block: &Block, out: &mut Bitmap) {
    const LANES: usize = 4;
    const LANE: usize = BLOCK / LANES;
    let mut hashes: [u8; LANES] = std::array::from_fn(|lane| {
        let start = WARM_UP + lane * LANE;
        block[start - 8..start].iter().fold(0, |hash, &byte| step(hash, byte))
    });
    for word in 0..LANE / 64 {
        let mut found = [0u64; LANES];
        for bit in 0..64 {
            for (lane, (hash, found)) in hashes.iter_mut().zip(&mut found).enumerate() {
                *hash = step(*hash, block[WARM_UP + lane * LANE + word * 64 + bit]);
                *found |= u64::from(*hash == 0) << bit;
            }
        }
        for (lane, found) in found.into_iter().enumerate() {
            out[lane * (LANE / 64) + word] = found;
        }
    }
}

/// The gear hash of the next position.
fn step(hash: u8, byte: u8) -> u8 {
    (hash << 1).wrapping_add(GEAR[usize::from(byte)])
}

#[cfg(test)]
mod tests;

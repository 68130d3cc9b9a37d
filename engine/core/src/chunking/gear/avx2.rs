//! Candidates of 32 positions at once.
//!
//! The only unsafe code of this crate: one call of a function compiled for AVX2, made after asking
//! the processor. Loads go through slices. Two stretches of a block lie side by side in the two
//! halves of a register, because bytes move freely within a half alone.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m128i, __m256i, _mm_set_epi64x, _mm256_add_epi8, _mm256_alignr_epi8, _mm256_and_si256,
    _mm256_cmpeq_epi8, _mm256_movemask_epi8, _mm256_set_m128i, _mm256_set1_epi8,
    _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_slli_epi16, _mm256_srli_epi16,
    _mm256_xor_si256,
};

use super::{BLOCK, Bitmap, Block, HIGH, LOW};

/// Pieces of 16 bytes in each stretch.
const PIECES: usize = BLOCK / 2 / 16;

/// As [`super::candidates_of`]; `false` when the processor cannot.
pub(super) fn candidates(data: &Block, out: &mut Bitmap) -> bool {
    if !std::is_x86_feature_detected!("avx2") {
        return false;
    }
    // SAFETY: the processor has AVX2, the only thing the function asks for.
    unsafe { search(data, out) };
    true
}

#[target_feature(enable = "avx2")]
fn search(data: &Block, out: &mut Bitmap) {
    let (pieces, _) = data.as_chunks::<16>();
    let (left, right) = (&pieces[..=PIECES], &pieces[PIECES..]);
    let mut state = State::new();
    // The bytes before each stretch.
    state.step(load(&left[0], &right[0]));
    for word in 0..PIECES / 4 {
        let (mut low, mut high) = (0, 0);
        for part in 0..4 {
            let piece = 1 + word * 4 + part;
            let found = state.step(load(&left[piece], &right[piece]));
            low |= u64::from(found & 0xffff) << (part * 16);
            high |= u64::from(found >> 16) << (part * 16);
        }
        out[word] = low;
        out[PIECES / 4 + word] = high;
    }
}

/// 16 bytes of each stretch.
#[target_feature(enable = "avx2")]
#[inline]
fn load(left: &[u8; 16], right: &[u8; 16]) -> __m256i {
    _mm256_set_m128i(half(right), half(left))
}

#[target_feature(enable = "avx2")]
#[inline]
fn half(bytes: &[u8; 16]) -> __m128i {
    let (words, _) = bytes.as_chunks::<8>();
    _mm_set_epi64x(i64::from_le_bytes(words[1]), i64::from_le_bytes(words[0]))
}

/// What the former step left: sums over 1, 2 and 4 bytes.
struct State {
    low: __m256i,
    high: __m256i,
    ones: __m256i,
    twos: __m256i,
    fours: __m256i,
}

impl State {
    #[target_feature(enable = "avx2")]
    fn new() -> Self {
        let zero = _mm256_setzero_si256();
        Self {
            low: load(&LOW, &LOW),
            high: load(&HIGH, &HIGH),
            ones: zero,
            twos: zero,
            fours: zero,
        }
    }

    /// The candidates among the next 16 positions of each stretch. Right once the bytes before them
    /// have gone through.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn step(&mut self, bytes: __m256i) -> u32 {
        let nibble = _mm256_set1_epi8(15);
        let low = _mm256_shuffle_epi8(self.low, _mm256_and_si256(bytes, nibble));
        let high = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble);
        let ones = _mm256_xor_si256(low, _mm256_shuffle_epi8(self.high, high));
        // Each doubling adds the sum that ends where this one begins, shifted by as many bits.
        let before = _mm256_alignr_epi8(ones, self.ones, 15);
        let twos = _mm256_add_epi8(ones, double(before));
        let before = _mm256_alignr_epi8(twos, self.twos, 14);
        let fours = _mm256_add_epi8(twos, double(double(before)));
        let before = _mm256_alignr_epi8(fours, self.fours, 12);
        let sixteenfold = _mm256_and_si256(_mm256_slli_epi16(before, 4), _mm256_set1_epi8(-16));
        let eights = _mm256_add_epi8(fours, sixteenfold);
        (self.ones, self.twos, self.fours) = (ones, twos, fours);
        let zero = _mm256_cmpeq_epi8(eights, _mm256_setzero_si256());
        _mm256_movemask_epi8(zero).cast_unsigned()
    }
}

#[target_feature(enable = "avx2")]
#[inline]
fn double(bytes: __m256i) -> __m256i {
    _mm256_add_epi8(bytes, bytes)
}

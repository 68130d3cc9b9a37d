//! A small seeded generator (xoshiro256++, seeded by splitmix64).
//!
//! Guarantees: the same seed gives the same sequence on every machine and in every version of this
//! file. Refuses to be used for secrets: it is for test data only, and never reads a clock.

/// One step of splitmix64; also used to derive independent seeds from a seed and a number.
pub(crate) fn mix(seed: u64, number: u64) -> u64 {
    let mut z = seed.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Rounds a float to the nearest whole number, clamped to the range of `u64`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped by `as`; negative and NaN become 0"
)]
pub(crate) fn round_to_u64(value: f64) -> u64 {
    value.round() as u64
}

/// A whole number as a float; exact below 2^53, which every count here is.
#[expect(clippy::cast_precision_loss, reason = "counts and byte lengths stay below 2^53")]
pub(crate) fn to_f64(value: u64) -> f64 {
    value as f64
}

/// A length as a `u64`.
pub(crate) fn len_u64(length: usize) -> u64 {
    length as u64
}

/// A number known to fit the memory of this machine as a `usize`.
pub(crate) fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// The generator's state.
#[derive(Debug, Clone)]
pub(crate) struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// A generator whose whole sequence is a function of `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: [mix(seed, 0), mix(seed, 1), mix(seed, 2), mix(seed, 3)] }
    }

    /// The next 64 random bits.
    pub(crate) fn next(&mut self) -> u64 {
        let s = &mut self.state;
        let out = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        out
    }

    /// A number in `0..bound`; 0 when `bound` is 0. The bias is below 2^-32 for the bounds used here.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        let high = (u128::from(self.next()) * u128::from(bound)) >> 64;
        u64::try_from(high).unwrap_or(0)
    }

    /// An index into a slice of length `len`.
    pub(crate) fn index(&mut self, len: usize) -> usize {
        to_usize(self.below(len_u64(len)))
    }

    /// A number in `low..=high`.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// A float in `[0, 1)`.
    pub(crate) fn unit(&mut self) -> f64 {
        to_f64(self.next() >> 11) / to_f64(1 << 53)
    }

    /// True with the given probability.
    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// A lognormal number with the given median and sigma.
    pub(crate) fn lognormal(&mut self, median: f64, sigma: f64) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        let normal = radius * (std::f64::consts::TAU * self.unit()).cos();
        median * (sigma * normal).exp()
    }

    /// A number between `low` and `high` whose logarithm is uniform.
    pub(crate) fn log_uniform(&mut self, low: u64, high: u64) -> u64 {
        let (low, high) = (to_f64(low.max(1)), to_f64(high.max(1)));
        round_to_u64(low * (high / low).powf(self.unit()))
    }

    /// Fills a buffer with random bytes.
    pub(crate) fn fill(&mut self, buffer: &mut [u8]) {
        for piece in buffer.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            piece.copy_from_slice(&bytes[..piece.len()]);
        }
    }
}

/// Picks ranks `0..n` with probability proportional to `1 / (rank + 1)^s`.
#[derive(Debug)]
pub(crate) struct Zipf {
    cumulative: Vec<f64>,
}

impl Zipf {
    /// The table of `n` ranks with exponent `s`.
    pub(crate) fn new(n: u64, s: f64) -> Self {
        let mut sum = 0.0;
        let cumulative = (0..n.max(1))
            .map(|rank| {
                sum += to_f64(rank + 1).powf(-s);
                sum
            })
            .collect();
        Self { cumulative }
    }

    /// One rank.
    pub(crate) fn pick(&self, rng: &mut Rng) -> usize {
        let total = self.cumulative.last().copied().unwrap_or(1.0);
        let at = rng.unit() * total;
        self.cumulative.partition_point(|&c| c <= at).min(self.cumulative.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_same_sequence() {
        let (mut a, mut b, mut c) = (Rng::new(7), Rng::new(7), Rng::new(8));
        let first: Vec<u64> = (0..10).map(|_| a.next()).collect();
        assert_eq!(first, (0..10).map(|_| b.next()).collect::<Vec<_>>());
        assert_ne!(first, (0..10).map(|_| c.next()).collect::<Vec<_>>());
    }

    #[test]
    fn lognormal_has_the_asked_median_and_mean() {
        let mut rng = Rng::new(1);
        let sigma = (2.0 * 3f64.ln()).sqrt();
        let mut sizes: Vec<f64> = (0..50_000).map(|_| rng.lognormal(4096.0, sigma)).collect();
        sizes.sort_by(f64::total_cmp);
        let median = sizes[25_000];
        let mean = sizes.iter().sum::<f64>() / 50_000.0;
        assert!((3_900.0..4_300.0).contains(&median), "median {median}");
        assert!((11_000.0..13_800.0).contains(&mean), "mean {mean}");
    }

    #[test]
    fn zipf_prefers_low_ranks_and_stays_in_range() {
        let zipf = Zipf::new(100, 1.0);
        let mut rng = Rng::new(3);
        let picks: Vec<usize> = (0..10_000).map(|_| zipf.pick(&mut rng)).collect();
        assert!(picks.iter().all(|&p| p < 100));
        let first = picks.iter().filter(|&&p| p == 0).count();
        assert!((1_500..2_400).contains(&first), "rank 0 picked {first} times");
    }
}

//! Random numbers from a seed: splitmix64, the same on every machine for ever.

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// The stream of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The stream of `seed` and `step`, unlike that of any near pair.
    #[must_use]
    pub fn of_step(seed: u64, step: u64) -> Self {
        let mixed = Self(step ^ 0x5DEE_CE66_D0F5_1A2B).next_u64();
        Self(Self(seed ^ mixed).next_u64())
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64().checked_rem(bound).unwrap_or(0)
    }

    /// A number from `low` to below `high`.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low))
    }

    /// One of `items`; `None` when there are none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        let at = usize::try_from(self.below(items.len() as u64)).ok()?;
        items.get(at)
    }

    /// `len` random bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next_u64().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    /// `len` bytes of lines with words, compressible.
    pub fn text(&mut self, len: usize) -> Vec<u8> {
        const WORDS: [&str; 8] =
            ["ship", "shore", "tide", "point", "delta", "1024", "EUR", "\u{e9}t\u{e9}"];
        let mut text = Vec::with_capacity(len + 16);
        while text.len() < len {
            let word = self.pick(&WORDS).map_or("", |w| w);
            text.extend_from_slice(word.as_bytes());
            text.push(if self.below(9) == 0 { b'\n' } else { b' ' });
        }
        text.truncate(len);
        text
    }
}

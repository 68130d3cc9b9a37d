//! What the generated files contain, as a function of a seed.
//!
//! Guarantees: a [`Content`] writes the same bytes every time, in a stream, with bounded memory.
//! Refuses nothing: every length is valid. Text compresses about 4-6 times with zstd and shares its
//! phrases, never whole blocks, with other texts, so that deduplication gains nothing by accident.

use std::io::{self, Write};

use crate::bench::rng::{Rng, len_u64, mix, to_f64, to_usize};

/// Bytes of one row of a dump, newline included.
pub(crate) const ROW_BYTES: usize = 200;
/// Bytes of one member of a generated archive.
const MEMBER_BYTES: u64 = 64 * 1024;
/// How much is produced before it is handed on.
const BLOCK_BYTES: usize = 64 * 1024;
/// Phrases shared by all texts.
const PHRASES: usize = 1024;

/// How a dump's rows change from one day to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowChange {
    /// Nothing.
    None,
    /// 2 % of the rows updated, uniformly scattered; no insertions (W4c).
    UpdatedScattered,
    /// Variant S: 2 % updated, 0.5 % inserted, 0.2 % deleted, scattered; 1 % appended.
    Scattered,
    /// Variant C: the same shares in runs of 50-500 rows, 80 % in the newest 5 % of keys.
    Clustered,
}

/// The bytes of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Records that compress 4-6 times.
    Text { seed: u64, len: u64 },
    /// Incompressible bytes (ciphertext, deflate streams).
    Random { seed: u64, len: u64 },
    /// Blocks of 64 KiB, by turns random and text.
    Mixed { seed: u64, len: u64 },
    /// An archive of incompressible members; `changed` is the seed of one member that differs.
    Archive { seed: u64, len: u64, changed: Option<u64> },
    /// Rows of 200 bytes.
    Rows { seed: u64, rows: u64, change: RowChange },
}

impl Content {
    /// Writes the whole content to `out`.
    pub(crate) fn write_to(self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Text { seed, len } => write_text(out, seed, len),
            Self::Random { seed, len } => write_random(out, seed, len),
            Self::Mixed { seed, len } => write_mixed(out, seed, len),
            Self::Archive { seed, len, changed } => write_archive(out, seed, len, changed),
            Self::Rows { seed, rows, change } => write_rows(out, seed, rows, change),
        }
    }

    /// The length of an unchanged content; for changed rows an approximation.
    pub(crate) fn len(self) -> u64 {
        match self {
            Self::Text { len, .. }
            | Self::Random { len, .. }
            | Self::Mixed { len, .. }
            | Self::Archive { len, .. } => len,
            Self::Rows { rows, .. } => rows * len_u64(ROW_BYTES),
        }
    }
}

fn write_random(out: &mut dyn Write, seed: u64, len: u64) -> io::Result<()> {
    let mut rng = Rng::new(seed);
    let mut block = vec![0; BLOCK_BYTES.min(to_usize(len))];
    let mut left = len;
    while left > 0 {
        let size = block.len().min(to_usize(left));
        rng.fill(&mut block[..size]);
        out.write_all(&block[..size])?;
        left -= len_u64(size);
    }
    Ok(())
}

fn write_text(out: &mut dyn Write, seed: u64, len: u64) -> io::Result<()> {
    let mut text = TextSource::new(seed);
    let mut block = Vec::with_capacity(BLOCK_BYTES + 256);
    let mut left = len;
    while left > 0 {
        block.clear();
        let size = BLOCK_BYTES.min(to_usize(left));
        while block.len() < size {
            text.push_record(&mut block);
        }
        out.write_all(&block[..size])?;
        left -= len_u64(size);
    }
    Ok(())
}

fn write_mixed(out: &mut dyn Write, seed: u64, len: u64) -> io::Result<()> {
    let block = len_u64(BLOCK_BYTES);
    let mut at = 0;
    while at < len {
        let size = block.min(len - at);
        let number = at / block;
        if number.is_multiple_of(2) {
            write_random(out, mix(seed, number), size)?;
        } else {
            write_text(out, mix(seed, number), size)?;
        }
        at += size;
    }
    Ok(())
}

fn write_archive(out: &mut dyn Write, seed: u64, len: u64, changed: Option<u64>) -> io::Result<()> {
    let members = len.div_ceil(MEMBER_BYTES).max(1);
    let odd_one = changed.map(|c| (mix(c, 0) % members, c));
    for member in 0..members {
        let size = MEMBER_BYTES.min(len - member * MEMBER_BYTES);
        match odd_one {
            // The new member is also a little longer, so what follows it moves.
            Some((number, c)) if number == member => write_random(out, mix(c, 1), size + 37)?,
            _ => write_random(out, mix(seed, member), size)?,
        }
    }
    Ok(())
}

/// Produces records: phrases common to all texts, with fields that are not.
struct TextSource {
    rng: Rng,
    serial: u64,
}

impl TextSource {
    fn new(seed: u64) -> Self {
        Self { rng: Rng::new(seed), serial: mix(seed, 9) % 100_000_000 }
    }

    fn push_record(&mut self, out: &mut Vec<u8>) {
        let phrases = phrases();
        self.serial += 1 + self.rng.below(3);
        let bits = self.rng.next();
        let kind = [b"UNH+ORDERS:D:96A:UN+", b"INV|2026-01|EUR|NET|", b"<record type=\"item\">"];
        out.extend_from_slice(kind[to_usize(bits % 97) % kind.len()]);
        push_digits(out, self.serial, 9);
        for shift in [8u32, 24, 40] {
            let number = to_usize((bits >> shift) & 0xffff) % PHRASES;
            out.extend_from_slice(&phrases[number]);
        }
        push_digits(out, self.rng.below(1_000_000_000), 9);
        out.extend_from_slice(b";OK\n");
    }
}

/// The phrases every text is made of; the same for all seeds.
fn phrases() -> &'static [Vec<u8>] {
    static TABLE: std::sync::OnceLock<Vec<Vec<u8>>> = std::sync::OnceLock::new();
    TABLE.get_or_init(|| {
        let mut rng = Rng::new(0xfa25_0123);
        let letters = b"abcdefghijklmnopqrstuvwxyzABCDEFGH-_:/";
        (0..PHRASES)
            .map(|_| {
                let length = rng.between(10, 30);
                let mut phrase = vec![b'|'];
                phrase.extend((0..length).map(|_| letters[rng.index(letters.len())]));
                phrase
            })
            .collect()
    })
}

fn push_digits(out: &mut Vec<u8>, value: u64, width: usize) {
    let mut digits = [b'0'; 20];
    let mut left = value;
    for slot in digits.iter_mut().rev() {
        *slot = b"0123456789"[to_usize(left % 10)];
        left /= 10;
    }
    out.extend_from_slice(&digits[20 - width..]);
}

fn push_row(out: &mut Vec<u8>, seed: u64, key: u64, version: u64) {
    let start = out.len();
    let mut rng = Rng::new(mix(seed ^ version.wrapping_mul(0x5851_f42d_4c95_7f2d), key));
    let phrases = phrases();
    push_digits(out, key, 12);
    out.extend_from_slice(b"|2026-01-");
    push_digits(out, 1 + rng.below(28), 2);
    for _ in 0..5 {
        out.extend_from_slice(&phrases[rng.index(PHRASES)]);
    }
    out.push(b'|');
    push_digits(out, rng.below(10_000_000_000), 10);
    out.resize(start + ROW_BYTES - 1, b' ');
    out.push(b'\n');
}

/// What happens to the rows, decided row by row in the order of the keys.
struct RowPlan {
    rng: Rng,
    change: RowChange,
    rows: u64,
    /// Rows left in the present run of a clustered change.
    run_left: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowFate {
    Keep,
    Update,
    Delete,
    InsertBefore,
}

impl RowPlan {
    fn fate(&mut self, key: u64) -> RowFate {
        match self.change {
            RowChange::None => RowFate::Keep,
            RowChange::UpdatedScattered if self.rng.chance(0.02) => RowFate::Update,
            RowChange::UpdatedScattered => RowFate::Keep,
            RowChange::Scattered => {
                let at = self.rng.unit();
                Self::split(at)
            }
            RowChange::Clustered => self.clustered(key),
        }
    }

    /// 2 % updated, 0.2 % deleted, 0.5 % inserted out of a number in `[0, 1)`.
    fn split(at: f64) -> RowFate {
        match at {
            a if a < 0.02 => RowFate::Update,
            a if a < 0.022 => RowFate::Delete,
            a if a < 0.027 => RowFate::InsertBefore,
            _ => RowFate::Keep,
        }
    }

    fn clustered(&mut self, key: u64) -> RowFate {
        if self.run_left == 0 {
            // 2.7 % of all rows in runs of 275 rows on average: 80 % in the newest 5 % of the keys.
            let newest = key >= self.rows - self.rows / 20;
            let share = if newest { 0.8 * 0.027 / 0.05 } else { 0.2 * 0.027 / 0.95 };
            if self.rng.chance(share / (1.0 - share) / 275.0) {
                self.run_left = self.rng.between(50, 500);
            }
        }
        if self.run_left == 0 {
            return RowFate::Keep;
        }
        self.run_left -= 1;
        Self::split(self.rng.unit() * 0.027)
    }
}

fn write_rows(out: &mut dyn Write, seed: u64, rows: u64, change: RowChange) -> io::Result<()> {
    let mut plan = RowPlan { rng: Rng::new(mix(seed, 77)), change, rows, run_left: 0 };
    let mut block = Vec::with_capacity(BLOCK_BYTES + 2 * ROW_BYTES);
    for key in 0..rows {
        match plan.fate(key) {
            RowFate::Keep => push_row(&mut block, seed, key * 10, 0),
            RowFate::Update => push_row(&mut block, seed, key * 10, 1),
            RowFate::Delete => {}
            RowFate::InsertBefore => {
                push_row(&mut block, seed, key * 10 - 5 * u64::from(key > 0), 2);
                push_row(&mut block, seed, key * 10, 0);
            }
        }
        if block.len() >= BLOCK_BYTES {
            out.write_all(&block)?;
            block.clear();
        }
    }
    if matches!(change, RowChange::Scattered | RowChange::Clustered) {
        for key in rows..rows + rows / 100 {
            push_row(&mut block, seed, key * 10, 0);
        }
    }
    out.write_all(&block)
}

/// The row count of a dump of about `bytes` bytes.
pub(crate) fn rows_for(bytes: u64) -> u64 {
    (bytes / len_u64(ROW_BYTES)).max(1)
}

/// `len` multiplied by a scale, at least `floor`.
pub(crate) fn scaled(len: u64, scale: f64, floor: u64) -> u64 {
    crate::bench::rng::round_to_u64(to_f64(len) * scale).max(floor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(content: Content) -> Vec<u8> {
        let mut out = Vec::new();
        content.write_to(&mut out).expect("a vector takes everything");
        out
    }

    #[test]
    fn contents_have_their_length_and_repeat() {
        for len in [0u64, 1, 199, 65_536, 200_001] {
            for content in [
                Content::Text { seed: 5, len },
                Content::Random { seed: 5, len },
                Content::Mixed { seed: 5, len },
                Content::Archive { seed: 5, len, changed: None },
            ] {
                let first = bytes(content);
                assert_eq!(len_u64(first.len()), len, "{content:?}");
                assert_eq!(first, bytes(content), "{content:?}");
            }
        }
    }

    #[test]
    fn a_changed_member_leaves_the_others() {
        let old = bytes(Content::Archive { seed: 5, len: 1 << 20, changed: None });
        let new = bytes(Content::Archive { seed: 5, len: 1 << 20, changed: Some(3) });
        assert_eq!(new.len(), old.len() + 37);
        let same = old.chunks(4096).filter(|o| new.windows(4096).step_by(1).any(|w| w == *o));
        assert!(same.count() >= 256 - 17);
    }

    #[test]
    fn updated_rows_are_two_per_cent_and_stay_in_place() {
        let make = |change| bytes(Content::Rows { seed: 1, rows: 20_000, change });
        let (old, new) = (make(RowChange::None), make(RowChange::UpdatedScattered));
        assert_eq!(old.len(), new.len());
        let changed = old.chunks(200).zip(new.chunks(200)).filter(|(a, b)| a != b).count();
        assert!((300..500).contains(&changed), "{changed} rows changed");
    }

    #[test]
    fn scattered_and_clustered_change_similar_shares() {
        use std::collections::HashSet;
        let make = |change| bytes(Content::Rows { seed: 1, rows: 100_000, change });
        let old = make(RowChange::None);
        let known: HashSet<&[u8]> = old.chunks(200).collect();
        for change in [RowChange::Scattered, RowChange::Clustered] {
            let new = make(change);
            let fresh = new.chunks(200).filter(|row| !known.contains(row)).count();
            assert!((1_500..6_500).contains(&fresh), "{change:?}: {fresh} fresh rows");
        }
    }
}

//! The definition of the search, written as plainly as can be, against what is used; golden cuts; the
//! quality bar.
#![allow(clippy::cast_possible_truncation)]

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::chunking::ChunkingId;
use crate::chunking::tests::noise;

/// Small lengths make many cuts of little data.
const SMALL: Parameters = Parameters { min: 512, avg: 4_096, max: 12_000 };

fn parameters(id: ChunkingId) -> Parameters {
    let (min, avg, max) = id.lengths();
    Parameters { min, avg, max }
}

/// The definition: whether the 8 bytes that end at `last` make it a candidate.
fn is_candidate(data: &[u8], last: usize) -> bool {
    let sum = (0..8).fold(0u8, |sum, back| {
        let byte = data[last - back];
        let s = LOW[usize::from(byte & 15)] ^ HIGH[usize::from(byte >> 4)];
        sum.wrapping_add(s << back)
    });
    sum == 0
}

/// The definition: the length of the first chunk of `data`, which is all that is left of a file.
fn first_chunk(p: Parameters, data: &[u8]) -> usize {
    let (before, after) = thresholds(p.avg);
    let limit = data.len().min(p.max);
    let mut best = (u32::MAX, p.max);
    for len in p.min + 1..=limit {
        if !is_candidate(data, len - 1) {
            continue;
        }
        let hash = hash(data[..len].last_chunk().expect("at least as long"));
        if hash < if len <= p.avg { before } else { after } {
            return len;
        }
        if len > p.avg && hash < best.0 {
            best = (hash, len);
        }
    }
    if limit == p.max { best.1 } else { limit }
}

fn chunks(data: &[u8], mut first: impl FnMut(&[u8]) -> usize) -> Vec<usize> {
    let mut rest = data;
    let mut out = Vec::new();
    while !rest.is_empty() {
        let len = first(rest);
        out.push(len);
        rest = &rest[len..];
    }
    out
}

fn cuts(p: Parameters, data: &[u8]) -> Vec<usize> {
    chunks(data, |rest| Search::default().find(p, rest, true).expect("all of it is there"))
}

/// Bytes as files have them: noise, text of few letters, runs, and what repeats.
fn mixed() -> impl Strategy<Value = Vec<u8>> {
    let part = (0u8..5, any::<u64>(), 1usize..40_000, 1usize..700);
    prop::collection::vec(part, 1..6).prop_map(|parts| {
        let mut out = Vec::new();
        for (kind, seed, len, period) in parts {
            match kind {
                0 => out.extend(noise(len, seed)),
                1 => out.extend(
                    noise(len, seed).iter().map(|b| b"etaoin shrdlu\n.,"[usize::from(b % 16)]),
                ),
                2 => out.resize(out.len() + len, 0),
                3 => out.resize(out.len() + len, seed as u8),
                _ => out.extend(noise(period, seed).iter().cycle().take(len)),
            }
        }
        out
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn candidates_are_the_same_however_they_are_found(data in mixed(), skip in 0usize..64) {
        let mut data = data;
        data.resize(data.len() + WARM_UP + 64, 7);
        let data = &data[skip..];
        let mut at = WARM_UP;
        while at < data.len() {
            let mut block = [0; WARM_UP + BLOCK];
            let len = (data.len() - at).min(BLOCK);
            block[..WARM_UP + len].copy_from_slice(&data[at - WARM_UP..at + len]);
            let (mut plain, mut wide, mut used) = ([0; BLOCK / 64], [0; BLOCK / 64], [0; BLOCK / 64]);
            for i in 0..BLOCK {
                plain[i / 64] |= u64::from(is_candidate(&block, WARM_UP + i)) << (i % 64);
            }
            portable(&block, &mut wide);
            prop_assert_eq!(plain, wide);
            #[cfg(target_arch = "x86_64")]
            if avx2::candidates(&block, &mut wide) {
                prop_assert_eq!(plain, wide);
            }
            candidates(data, at, &mut used);
            for i in 0..len {
                let bit = |map: &Bitmap| map[i / 64] >> (i % 64) & 1;
                prop_assert_eq!(bit(&plain), bit(&used));
            }
            at += len;
        }
    }

    #[test]
    fn cuts_are_those_of_the_definition(data in mixed()) {
        prop_assert_eq!(cuts(SMALL, &data), chunks(&data, |rest| first_chunk(SMALL, rest)));
    }

    /// What is pushed bit by bit is cut as what is there at once.
    #[test]
    fn cuts_do_not_depend_on_what_is_in_sight(data in mixed(), steps in prop::collection::vec(1usize..6_000, 1..9)) {
        let mut steps = steps.iter().cycle();
        let (mut start, mut end) = (0, 0);
        let mut found = Vec::new();
        let mut search = Search::default();
        while start < data.len() {
            match search.find(SMALL, &data[start..end], end == data.len()) {
                Some(len) => {
                    found.push(len);
                    start += len;
                }
                None => end = (end + steps.next().expect("endless")).min(data.len()),
            }
        }
        prop_assert_eq!(found, cuts(SMALL, &data));
    }
}

/// Runs of one byte have no candidates, so that searching them is as fast as searching anything.
#[test]
fn runs_of_one_byte_have_no_candidates() {
    for byte in 0..=255 {
        let mut found = [0; BLOCK / 64];
        candidates_of(&[byte; WARM_UP + BLOCK], &mut found);
        assert_eq!(found, [0; BLOCK / 64], "{byte}");
    }
    assert_eq!(cuts(SMALL, &[9; 30_000]), [12_000, 12_000, 6_000]);
}

/// Words of a made-up language, one in some lines changing: as logs and rows are.
fn text(len: usize, seed: u64) -> Vec<u8> {
    let numbers = noise(len, seed);
    let words = noise(4_096, 77);
    let mut out = Vec::with_capacity(len + 32);
    for (line, n) in numbers.iter().enumerate() {
        if out.len() >= len {
            break;
        }
        let word = &words[usize::from(*n) * 16..usize::from(*n) * 16 + 3 + usize::from(n % 9)];
        out.extend(word.iter().map(|b| b'a' + b % 26));
        out.push(if n % 11 == 0 { b'\n' } else { b' ' });
        if n % 31 == 0 {
            out.extend_from_slice(line.to_string().as_bytes());
        }
    }
    out.truncate(len);
    out
}

/// Records with counters, padding and a little noise: as programs and tables are.
fn records(len: usize, seed: u64) -> Vec<u8> {
    let noise = noise(len / 4 + 64, seed);
    let mut out = Vec::with_capacity(len + 64);
    for (n, bytes) in noise.chunks_exact(8).enumerate() {
        if out.len() >= len {
            break;
        }
        out.extend_from_slice(&(n as u32).to_le_bytes());
        out.extend_from_slice(&[0; 7]);
        out.extend_from_slice(&bytes[..usize::from(bytes[0] % 8)]);
        out.extend_from_slice(&[0xff, 0, 0, 0, bytes[7] & 3, 0, 0, 0]);
    }
    out.truncate(len);
    out
}

/// The first lengths, their count, and a sum over all of them. These never change: files at other
/// sites were cut so. If this fails, the algorithm is another one and needs new numbers.
#[test]
fn golden_cuts() {
    let mut found = Vec::new();
    for id in [ChunkingId::Gear64K, ChunkingId::Gear256K, ChunkingId::Gear1M] {
        for data in [noise(8 << 20, 1), text(8 << 20, 2), records(8 << 20, 3)] {
            let cuts = cuts(parameters(id), &data);
            let sum =
                cuts.iter().fold(0u64, |sum, &len| sum.wrapping_mul(31).wrapping_add(len as u64));
            found.push((cuts[0], cuts[1], cuts.len(), sum));
        }
    }
    assert_eq!(found, GOLDEN);
}

const GOLDEN: [(usize, usize, usize, u64); 9] = [
    (69_669, 69_198, 122, 3_034_226_480_924_697_426),
    (66_070, 39_441, 126, 6_896_992_072_337_822_626),
    (65_789, 67_012, 105, 12_695_655_107_474_418_000),
    (279_659, 85_238, 30, 8_868_227_084_854_303_976),
    (262_845, 354_636, 32, 17_029_557_816_679_750_376),
    (262_896, 264_084, 27, 1_110_055_170_021_663_944),
    (608_486, 1_139_159, 8, 17_784_143_726_638_418),
    (1_165_286, 1_054_759, 9, 1_023_820_404_517_195_448),
    (1_082_807, 350_446, 7, 972_072_012_935_268),
];

/// The share of bytes to send again after edits is no worse than FastCDC's, and chunks are as long as
/// they are said to be.
#[test]
fn edits_dirty_no_more_than_with_fastcdc() {
    let mut data = noise(10 << 20, 4);
    data.extend(text(12 << 20, 5));
    data.extend(records(10 << 20, 6));
    let mut inserted = Vec::new();
    for (n, part) in data.chunks(1 << 20).enumerate() {
        inserted.extend_from_slice(&noise(8, n as u64));
        inserted.extend_from_slice(part);
    }
    let mut overwritten = data.clone();
    for (n, at) in noise(8 * 32, 7).chunks_exact(8).enumerate() {
        let at = usize::from(at[0]) << 16 | usize::from(at[1]) << 8;
        let at = at * 2 % (data.len() - 4_096);
        overwritten[at..at + 4_096].copy_from_slice(&noise(4_096, n as u64));
    }
    let p = parameters(ChunkingId::Gear64K);
    let gear = |data: &[u8]| cuts(p, data);
    let fast = |data: &[u8]| chunks(data, |rest| crate::chunking::cut_point(p, rest));
    let mut share = [[0.0; 2]; 2];
    for (which, cut) in [&gear as &dyn Fn(&[u8]) -> Vec<usize>, &fast].into_iter().enumerate() {
        for (edit, after) in [&inserted, &overwritten].into_iter().enumerate() {
            share[which][edit] = to_send(&data, after, cut);
        }
    }
    for edit in 0..2 {
        let [gear, fast] = [share[0][edit], share[1][edit]];
        assert!(gear < fast * 1.03, "{share:?}");
    }
    let mean = data.len() / gear(&data).len();
    assert!((60 << 10..76 << 10).contains(&mean), "chunks of {mean} bytes");
}

/// The share of `after` that is in no chunk of `before`.
fn to_send(before: &[u8], after: &[u8], cut: &dyn Fn(&[u8]) -> Vec<usize>) -> f64 {
    let pieces = |data| {
        let mut at = 0;
        let slice = |len: usize| {
            at += len;
            blake3::hash(&<[u8]>::as_ref(data)[at - len..at])
        };
        let lens = cut(data);
        let ids: Vec<_> = lens.iter().copied().map(slice).collect();
        (ids, lens)
    };
    let held: HashSet<_> = pieces(before).0.into_iter().collect();
    let (ids, lens) = pieces(after);
    let dirty: usize = ids.iter().zip(lens).filter(|(id, _)| !held.contains(id)).map(|p| p.1).sum();
    dirty as f64 / after.len() as f64
}

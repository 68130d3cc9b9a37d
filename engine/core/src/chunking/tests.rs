//! Recipes depend on content alone, whichever chunking cuts.
#![allow(clippy::cast_possible_truncation)]

use proptest::prelude::*;

use super::*;
use crate::recipe::Recipe;

pub(super) fn noise(len: usize, mut seed: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        out.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    out.truncate(len);
    out
}

/// Chunks `content`, pushing `holes` unread, at most `step` bytes at a time; checks the bytes.
fn recipe_of(
    id: ChunkingId,
    content: &[u8],
    holes: &[std::ops::Range<u64>],
    step: usize,
) -> Recipe {
    let mut chunker = Chunker::new(id, 256 << 10);
    let mut recipe = Recipe { chunking: chunker.id(), extents: Vec::new() };
    let mut at = 0usize;
    let mut covered = 0usize;
    let mut finished = false;
    loop {
        while let Some(cut) = chunker.poll() {
            if let Extent::Chunk { len, .. } = cut.extent {
                assert_eq!(chunker.bytes()[cut.range], content[covered..covered + len as usize]);
            }
            covered += cut.extent.len() as usize;
            recipe.push(cut.extent);
        }
        if finished {
            assert_eq!(covered, content.len());
            return recipe;
        }
        if at == content.len() {
            chunker.finish();
            finished = true;
            continue;
        }
        if let Some(hole) = holes.iter().find(|h| h.start == at as u64) {
            chunker.push_zeros(hole.end - hole.start);
            at = hole.end as usize;
            continue;
        }
        let next = holes.iter().map(|h| h.start as usize).filter(|&s| s > at).min();
        let end = next.unwrap_or(content.len());
        let spare = chunker.spare();
        let len = spare.len().min(end - at).min(step);
        spare[..len].copy_from_slice(&content[at..at + len]);
        chunker.filled(len);
        at += len;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn recipe_depends_on_content_alone(
        parts in prop::collection::vec((any::<bool>(), 1usize..200_000), 1..8), step in 1000usize..400_000
    ) {
        let mut content = Vec::new();
        let mut holes = Vec::new();
        for (i, &(zero, len)) in parts.iter().enumerate() {
            let start = content.len() as u64;
            if zero {
                content.resize(content.len() + len, 0);
                holes.extend(zero_part(start, content.len() as u64));
            } else {
                content.extend(noise(len, i as u64));
            }
        }
        for id in [ChunkingId::FastCdc64K, ChunkingId::Gear64K] {
            let read = recipe_of(id, &content, &[], step);
            prop_assert_eq!(&recipe_of(id, &content, &holes, 1 << 20), &read);
            prop_assert_eq!(read.size(), content.len() as u64);
        }
    }
}

#[test]
fn an_insertion_dirties_few_chunks() {
    let before = noise(8 << 20, 1);
    let mut after = before.clone();
    after.splice(3_000_000..3_000_000, noise(100, 2));
    for id in [ChunkingId::FastCdc64K, ChunkingId::Gear64K] {
        let old: std::collections::HashSet<_> =
            recipe_of(id, &before, &[], 1 << 20).extents.into_iter().collect();
        let new = recipe_of(id, &after, &[], 1 << 20);
        let dirty: u64 = new.extents.iter().filter(|e| !old.contains(e)).map(Extent::len).sum();
        assert!(dirty < 512 << 10, "{id:?}: {dirty} bytes to send for 100 inserted");
    }
}

#[test]
fn a_huge_hole_is_not_read() {
    let mut chunker = Chunker::new(ChunkingId::Gear64K, 1 << 20);
    chunker.push_zeros(17 << 40);
    chunker.finish();
    let cut = chunker.poll().expect("one extent");
    assert_eq!(cut.extent, Extent::Zero { len: 17 << 40 });
    assert!(chunker.poll().is_none());
}

/// The numbers are in every catalog: they keep their meaning for ever, and so does what follows what.
#[test]
fn numbers_and_successors() {
    use ChunkingId::{FastCdc1M, FastCdc64K, FastCdc256K, Gear1M, Gear64K, Gear256K};
    let all = [FastCdc64K, FastCdc256K, FastCdc1M, Gear64K, Gear256K, Gear1M];
    for (number, id) in (1..).zip(all) {
        assert_eq!(ChunkingId::decode(&mut Decoder::new(&[number])), Ok(id));
        assert_eq!(id as u8, number);
    }
    assert!(ChunkingId::decode(&mut Decoder::new(&[7])).is_err());
    for (size, fast, gear) in [
        (4 << 30, FastCdc64K, Gear64K),
        ((4 << 30) + 1, FastCdc256K, Gear256K),
        (256 << 30, FastCdc256K, Gear256K),
        ((256 << 30) + 1, FastCdc1M, Gear1M),
    ] {
        assert_eq!(ChunkingId::for_size(size), gear);
        assert_eq!(ChunkingId::possible(size), [gear, fast]);
        for id in all {
            let same = matches!(id, FastCdc64K | FastCdc256K | FastCdc1M);
            assert_eq!(id.next(size), if same { fast } else { gear });
        }
    }
}

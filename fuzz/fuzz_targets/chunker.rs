//! The chunker: whatever is pushed in whatever pieces, the extents cover it and the recipe is the same.
#![no_main]

use farshore_core::chunking::{Chunker, ChunkingId};
use farshore_core::recipe::{Extent, Recipe};

fn recipe(id: ChunkingId, content: &[u8], step: usize) -> Recipe {
    let mut chunker = Chunker::new(id, 128 << 10);
    let mut recipe = Recipe { chunking: chunker.id(), extents: Vec::new() };
    let mut at = 0;
    loop {
        while let Some(cut) = chunker.poll() {
            if let Extent::Chunk { len, .. } = cut.extent {
                let from = recipe.size() as usize;
                assert_eq!(chunker.bytes()[cut.range], content[from..from + len as usize]);
            }
            recipe.push(cut.extent);
        }
        if at == content.len() {
            if recipe.size() == at as u64 {
                return recipe;
            }
            chunker.finish();
            continue;
        }
        let spare = chunker.spare();
        let len = spare.len().min(content.len() - at).min(step);
        spare[..len].copy_from_slice(&content[at..at + len]);
        chunker.filled(len);
        at += len;
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((&repeat, rest)) = data.split_first() else { return };
    // Short inputs are stretched past the smallest chunk, with runs of zeros between.
    let mut content = Vec::new();
    for _ in 0..=repeat {
        content.extend_from_slice(rest);
        content.resize(content.len() + usize::from(repeat) * 1_024, 0);
    }
    content.truncate(2 << 20);
    for id in [ChunkingId::FastCdc64K, ChunkingId::Gear64K] {
        assert_eq!(recipe(id, &content, 7_919), recipe(id, &content, 1 << 20));
    }
});

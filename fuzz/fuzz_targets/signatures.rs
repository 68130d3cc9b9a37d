//! Signatures: whatever the target answers, what is found stands for the new bytes, in order and without
//! a gap.
#![no_main]

use farshore_core::delta::{Found, Signatures, Signing, in_step, signatures};

fn check(found: &[Found], new: &[u8]) {
    let mut at = 0;
    for piece in found {
        if let Found::New(range) = piece {
            assert_eq!(range.start, at);
        }
        assert!(!piece.is_empty());
        at += piece.len();
    }
    assert_eq!(at, new.len());
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((&[block, signature, share, start], rest)) = data.split_first_chunk::<4>() else { return };
    let signing = Signing::new(32 + usize::from(block), 2 + usize::from(signature % 5));
    let Some(signing) = signing else { return };
    let (old, new) = rest.split_at(rest.len() * usize::from(share) / 256);
    let mut honest = Vec::new();
    signatures(old, signing, &mut honest);
    // Of the same length, as the session demands, and of nothing.
    let forged: Vec<u8> = new.iter().copied().cycle().take(honest.len()).collect();
    let start = u64::from(start);
    for answer in [honest, forged] {
        let mut blocks = Signatures::new(signing);
        blocks.add(start, &answer);
        for expected in [0, start, 1 << 40] {
            check(&blocks.find(new, expected), new);
        }
        check(&in_step(new, &(start..start + old.len() as u64), signing, &answer), new);
    }
});

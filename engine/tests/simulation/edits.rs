//! One larger file, edited at random: the target gets exactly what the source has, whatever is said
//! on the way about what it had, and few bytes where that is true.

use farshore_engine::io::{Object, Storage};
use proptest::prelude::*;

use crate::link::Forged;
use crate::sites::World;
use crate::trees::{Hands, noise};

/// What happens to a file.
#[derive(Debug, Clone)]
enum Edit {
    Insert(usize),
    Delete(usize),
    Overwrite(usize),
    /// Two stretches of this length change places.
    Swap(usize),
    /// A stretch is there once more.
    Repeat(usize),
    /// It becomes zeros.
    Clear(usize),
}

impl Edit {
    fn apply(&self, at: prop::sample::Index, number: u64, content: &mut Vec<u8>) {
        let start = at.index(content.len() + 1);
        let end = |len: usize| (start + len).min(content.len());
        match *self {
            Self::Insert(len) => drop(content.splice(start..start, noise(number, len))),
            Self::Delete(len) => drop(content.drain(start..end(len))),
            Self::Overwrite(len) => {
                let end = end(len);
                content[start..end].copy_from_slice(&noise(number, end - start));
            }
            Self::Clear(len) => {
                let end = end(len);
                content[start..end].fill(0);
            }
            Self::Repeat(len) => {
                let again = content[start..end(len)].to_vec();
                drop(content.splice(start..start, again));
            }
            Self::Swap(len) => {
                let other = content.len() / 3;
                let len = len.min(start.abs_diff(other)).min(content.len() - start.max(other));
                for i in 0..len {
                    content.swap(start + i, other + i);
                }
            }
        }
    }
}

fn edit() -> impl Strategy<Value = Edit> {
    let len = prop_oneof![1usize..300, 1usize..20_000, 1usize..200_000];
    (0..6, len).prop_map(|(kind, len)| match kind {
        0 => Edit::Insert(len),
        1 => Edit::Delete(len),
        2 => Edit::Overwrite(len),
        3 => Edit::Swap(len),
        4 => Edit::Repeat(len),
        _ => Edit::Clear(len),
    })
}

/// Noise, or what repeats itself a lot.
fn content(number: u64, len: usize, repeats: bool) -> Vec<u8> {
    if !repeats {
        return noise(number, len);
    }
    let row = b"0017|2026-01-05|ordered|   12 pieces|EUR|";
    let rows = (0..len / 49).flat_map(|i| [row.as_slice(), &(i % 97).to_le_bytes()].concat());
    rows.collect()
}

/// A world where the file was replicated as `old`, and is `new` at the source now.
fn edited(old: &[u8], new: &[u8], forged: Forged) -> World {
    let mut world = World::of(|hands| hands.file("file", old).map(drop));
    world.run().sealed().expect("the first run");
    let tree = world.source.mount("tree").expect("mount");
    Hands(&tree).file("file", new).expect("the new version");
    tree.sync_all().expect("sync");
    world.forged = forged;
    // Later by more than a tick of any clock: what the target has is taken for settled.
    let mut now = world.target.time();
    now.seconds += 1;
    world.target.set_time(now);
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_edit_arrives(
        seed: u64,
        len in prop_oneof![70_000usize..200_000, 500_000usize..2_000_000],
        repeats: bool,
        edits in prop::collection::vec((edit(), any::<prop::sample::Index>()), 1..12),
        forged in prop::sample::select(vec![Forged::Not, Forged::Shifted, Forged::Withheld]),
    ) {
        let old = content(seed, len, repeats);
        let mut new = old.clone();
        for (number, (edit, at)) in (1u64..).zip(&edits) {
            edit.apply(*at, seed.wrapping_add(number), &mut new);
        }
        let world = edited(&old, &new, forged);
        let run = world.run();
        run.sealed().map_err(TestCaseError::fail)?;
        prop_assert_eq!(world.target_tree(), world.source_tree());
        prop_assert!(world.target.read_file("tree/file").expect("it is there") == new);
    }
}

fn one_page(forged: Forged) -> (World, Vec<u8>) {
    let old = noise(7, 1 << 20);
    let mut new = old.clone();
    new[500_000..504_096].copy_from_slice(&noise(8, 4_096));
    (edited(&old, &new, forged), new)
}

#[test]
fn a_page_costs_a_page() {
    let (world, _) = one_page(Forged::Not);
    let run = world.run();
    run.sealed().expect("it arrives");
    assert!(run.literal_bytes < 4_096 + 500, "{} bytes of content", run.literal_bytes);
    assert!((1..=4).contains(&run.requests), "{} requests", run.requests);
    assert_eq!(run.batches.len(), 1);
}

#[test]
fn signatures_that_lie_cost_a_second_batch() {
    let (world, new) = one_page(Forged::Shifted);
    let run = world.run();
    run.sealed().expect("it arrives");
    assert_eq!(world.target.read_file("tree/file").expect("it is there"), new);
    // What was patched from the wrong place was found out by its digest and sent again as it is.
    let failed = |b: &crate::sites::Batch| b.failures.as_ref().is_some_and(|f| !f.is_empty());
    assert!(run.batches.len() == 2 && failed(&run.batches[0]), "{:?}", run.batches);
}

#[test]
fn without_signatures_the_chunk_is_sent() {
    let (world, _) = one_page(Forged::Withheld);
    let run = world.run();
    run.sealed().expect("it arrives");
    assert!(run.literal_bytes > 16_384, "{} bytes of content", run.literal_bytes);
    assert_eq!(run.batches.len(), 1);
}

/// Zeros are not written where a new file has a hole anyway; where it took the blocks of its base they are.
#[test]
fn zeros_over_what_was_shared_arrive() {
    let old = noise(9, 1 << 20);
    let mut new = old.clone();
    new[200_000..600_000].fill(0);
    let world = edited(&old, &new, Forged::Not);
    world.run().sealed().expect("it arrives");
    assert!(world.target.read_file("tree/file").expect("it is there") == new);
}

/// What was shared is not what was read from the base afterwards, nor what stands there in the end: only
/// the facts of the base say so, or the staged file itself when those are too young to be relied on.
#[test]
fn a_base_that_changes_and_changes_back_while_it_is_shared_is_found_out() {
    for settled in [true, false] {
        let (mut world, new) = one_page(Forged::Not);
        world.meddles = true;
        if !settled {
            let tree = world.target.mount("tree").expect("mount");
            let file = tree.open_file_writable(tree.root(), b"file").expect("it is there");
            let object = Object::File(&file);
            let stat = tree.stat(object).expect("facts");
            tree.set_mtime(object, stat.mtime).expect("a change of its change time alone");
        }
        let run = world.run();
        run.sealed().expect("it arrives");
        assert!(world.target.read_file("tree/file").expect("it is there") == new, "{settled}");
        let failed = |b: &crate::sites::Batch| b.failures.as_ref().is_some_and(|f| !f.is_empty());
        assert!(run.batches.len() == 2 && failed(&run.batches[0]), "{settled}: {:?}", run.batches);
    }
}

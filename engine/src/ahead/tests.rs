//! What is held, and what goes.

use farshore_core::chunking::ChunkingId;
use farshore_core::recipe::{ChunkId, Extent};
use farshore_proto::message::StoreId;

use super::*;
use crate::io::sim::{SimConfig, SimDisk, SimStorage};

fn disk() -> (SimStorage, OwnFolder<SimStorage>) {
    let storage = SimDisk::new(SimConfig::default()).mount("").expect("mounted");
    let own = OwnFolder::open(&storage, StoreId([2; 16])).expect("its own folder");
    (storage, own)
}

fn recipe(chunks: &[u8]) -> Recipe {
    let chunk = |n: &u8| Extent::Chunk { id: ChunkId([*n; 32]), len: 1_000 };
    Recipe { chunking: ChunkingId::Gear64K, extents: chunks.iter().map(chunk).collect() }
}

/// Writes a content of these chunks; broken off, or whole.
fn put(
    storage: &SimStorage,
    own: &OwnFolder<SimStorage>,
    chunks: &[u8],
    whole: bool,
) -> FileDigest {
    let recipe = recipe(chunks);
    let slot = own.begin_ahead(storage).expect("a slot");
    let file = storage.create_file(&slot.folder, BYTES).expect("created");
    storage.set_len(&file, recipe.size()).expect("its length");
    let mut log = slot.log(storage).expect("a log");
    log.write(storage, &recipe).expect("written");
    match whole {
        true => own.end_ahead(storage, &slot, recipe.clone()),
        false => own.break_ahead(storage, &slot),
    }
    .expect("held");
    recipe.digest()
}

fn held(own: &OwnFolder<SimStorage>) -> Vec<(FileDigest, bool)> {
    own.ahead.list().into_iter().map(|held| (held.content, held.whole)).collect()
}

#[test]
fn what_is_held_is_found_again_and_what_another_begins_with_goes() {
    let (storage, own) = disk();
    let short = put(&storage, &own, &[1, 2], false);
    assert_eq!(held(&own), [(short, false)]);
    let long = put(&storage, &own, &[1, 2, 3], false);
    assert_eq!(held(&own), [(long, false)], "it begins with the other");
    let other = put(&storage, &own, &[1, 9], false);
    put(&storage, &own, &[1, 2], false);
    assert_eq!(held(&own), [(long, false), (other, false)]);
    let whole = put(&storage, &own, &[1, 2, 3, 4], true);
    assert_eq!(held(&own), [(other, false), (whole, true)]);
    own.find_ahead(&storage, 0).expect("found");
    assert_eq!(held(&own), [(other, false), (whole, true)], "at the next start");
    assert!(own.open_ahead(&storage, &other).is_some());
    own.keep_ahead(&storage, &[whole]).expect("kept");
    own.find_ahead(&storage, 0).expect("found");
    assert_eq!(held(&own), [(whole, true)]);
    assert!(own.open_ahead(&storage, &other).is_none());
}

#[test]
fn what_is_of_no_use_is_not_held() {
    let (storage, own) = disk();
    let content = put(&storage, &own, &[1, 2], true);
    put(&storage, &own, &[], false);
    assert_eq!(held(&own), [(content, true)], "nothing came");
    let folder = own.ahead_folder(&storage).expect("there").expect("a folder");
    storage.make_directory(&folder, b"7").expect("a slot without a file");
    storage.make_directory(&folder, b"alien").expect("no slot");
    storage.create_file(&folder, b"8").expect("no folder");
    own.find_ahead(&storage, 0).expect("found");
    let mut names = 0;
    storage.list(&folder, &mut |_| names += 1).expect("listed");
    assert_eq!((names, held(&own)), (1, vec![(content, true)]));
    // Its log is of the simulated disk's time, long before.
    own.find_ahead(&storage, i64::MAX).expect("found");
    assert_eq!(held(&own), [], "too old");
}

#[test]
fn the_oldest_goes_beyond_the_bound() {
    let (storage, own) = disk();
    let first = put(&storage, &own, &[1, 1], false);
    for n in 0..AHEAD_MAX {
        put(&storage, &own, &[2 + u8::try_from(n).expect("few"), 1], false);
    }
    assert_eq!(own.ahead.list().len(), AHEAD_MAX);
    assert!(own.ahead.get(&first).is_none());
}

#[test]
fn what_has_a_second_name_is_no_longer_held() {
    let (storage, own) = disk();
    let content = put(&storage, &own, &[1, 2], true);
    let other = put(&storage, &own, &[3, 4], true);
    let slot = own.open_ahead(&storage, &content).expect("held");
    storage.link(&slot, BYTES, storage.root(), b"placed").expect("linked");
    own.forget_placed(&storage).expect("forgotten");
    assert_eq!(held(&own), [(other, true)]);
    assert_eq!(storage.stat(Object::Named(storage.root(), b"placed")).expect("there").links, 1);
}

//! What is held, and what goes.

use std::time::Duration;

use farshore_core::chunking::ChunkingId;
use farshore_core::codec::Encoder;
use farshore_core::entry::{Entry, EntryDigest, Metadata};
use farshore_core::path::RelPath;
use farshore_core::recipe::{ChunkId, Extent};
use farshore_core::recovery_point::Epoch;
use farshore_proto::batch::{BatchHeader, FrameHeader};
use farshore_proto::link::{BulkReceive, LinkError, ReadSome};
use farshore_proto::message::StoreId;
use farshore_proto::op::Op;

use super::*;
use crate::apply::Applier;
use crate::catalog::{Catalog, CatalogConfig, CatalogRole, LocalFacts};
use crate::contents::Applied;
use crate::frames::FrameReader;
use crate::io::sim::{CrashModel, SimConfig, SimDisk, SimStorage};
use crate::journal::{self, Action, Intent};
use crate::profile::Profile;
use crate::stage::{StageConfig, StageError, StagedBatch, Stager};

fn disk() -> (SimStorage, OwnFolder<SimStorage>) {
    let storage = SimDisk::new(SimConfig::default()).mount("").expect("mounted");
    let own = OwnFolder::open(&storage, StoreId([2; 16])).expect("its own folder");
    (storage, own)
}

fn recipe(chunks: &[u8]) -> Recipe {
    let chunk = |n: &u8| Extent::Chunk { id: ChunkId([*n; 32]), len: 1_000 };
    Recipe { chunking: ChunkingId::Gear64K, extents: chunks.iter().map(chunk).collect() }
}

/// Writes a content of these chunks, each of another file; broken off, or whole.
fn put(
    storage: &SimStorage,
    own: &OwnFolder<SimStorage>,
    chunks: &[u8],
    whole: bool,
) -> FileDigest {
    let path = format!("acct/{chunks:?}");
    put_of(storage, own, &path, chunks, whole)
}

fn put_of(
    storage: &SimStorage,
    own: &OwnFolder<SimStorage>,
    path: &str,
    chunks: &[u8],
    whole: bool,
) -> FileDigest {
    let path = RelPath::new(path.as_bytes()).expect("valid");
    let recipe = recipe(chunks);
    let slot = own.begin_ahead(storage).expect("a slot");
    let file = storage.create_file(&slot.folder, BYTES).expect("created");
    storage.set_len(&file, recipe.size()).expect("its length");
    let mut log = slot.log(storage).expect("a log");
    log.is_of(&path);
    log.write(storage, &recipe).expect("written");
    match whole {
        true => own.end_ahead(storage, &slot, &path, recipe.clone()),
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
fn of_attempts_at_a_file_the_last_and_the_longest_are_held() {
    let (storage, own) = disk();
    let put = |chunks: &[u8]| put_of(&storage, &own, "acct/file", chunks, false);
    let other = put_of(&storage, &own, "acct/other", &[9, 1], false);
    put(&[1, 2]);
    put(&[2, 2]);
    let longest = put(&[3, 2, 4]);
    assert_eq!(held(&own), [(other, false), (longest, false)]);
    put(&[4]);
    let last = put(&[5]);
    assert_eq!(held(&own), [(other, false), (longest, false), (last, false)]);
    // It is known of what an earlier session left as well.
    own.find_ahead(&storage, 0).expect("found");
    let longer = put(&[6, 2, 4]);
    assert_eq!(held(&own), [(other, false), (longer, false)]);
    let whole = put_of(&storage, &own, "acct/file", &[7, 2, 4, 5], true);
    let last = put(&[8, 2, 4, 5, 6]);
    assert_eq!(held(&own), [(other, false), (whole, true), (last, false)]);
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
fn what_is_whole_stays_while_anything_that_broke_off_is_beyond_the_bound() {
    let (storage, own) = disk();
    let oldest = put(&storage, &own, &[1, 1], true);
    let broke_off = put(&storage, &own, &[2, 1], false);
    for n in 0..u8::try_from(AHEAD_MAX).expect("few") {
        put(&storage, &own, &[3 + n, 1], n % 2 == 0);
    }
    assert_eq!(own.ahead.list().len(), AHEAD_MAX);
    assert!(own.ahead.get(&oldest).is_some() && own.ahead.get(&broke_off).is_none());
}

#[test]
fn what_a_batch_has_stays_and_counts() {
    let (storage, own) = disk();
    let taken = put(&storage, &own, &[1, 1], true);
    own.ahead.take(&taken, 2_000).expect("held");
    assert!(own.ahead.take(&taken, 2_000).is_none());
    for n in 0..u8::try_from(AHEAD_MAX).expect("few") {
        put(&storage, &own, &[2 + n, 1], true);
    }
    assert_eq!(own.ahead.list().len(), AHEAD_MAX, "so many can be listed");
    assert!(own.ahead.get(&taken).is_some());
}

/// The larger of two files that are much the same is built on the other one, which waits for its cut.
#[test]
fn what_is_whole_goes_for_a_later_one_of_its_own_path_alone() {
    let (storage, own) = disk();
    let other = put_of(&storage, &own, "acct/other", &[1, 2], true);
    let broke_off = put_of(&storage, &own, "acct/moved", &[1, 9], false);
    let former = put_of(&storage, &own, "acct/file", &[1, 2, 3], true);
    let path = RelPath::new(*b"acct/file").expect("valid");
    let recipe = recipe(&[1, 2, 4, 5]);
    let slot = own.begin_ahead(&storage).expect("a slot");
    let file = storage.create_file(&slot.folder, BYTES).expect("created");
    storage.set_len(&file, recipe.size()).expect("its length");
    own.end_ahead(&storage, &slot, &path, recipe.clone()).expect("held");
    let built_on = [other, broke_off, former].into();
    own.supersede_ahead(&storage, &slot, &built_on).expect("superseded");
    assert_eq!(held(&own), [(other, true), (recipe.digest(), true)]);
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

/// A batch stream that is there already.
struct Stream(Vec<u8>);

impl BulkReceive for Stream {
    fn read_exact(&mut self, buf: &mut [u8]) -> Result<bool, LinkError> {
        if self.0.is_empty() {
            return Ok(false);
        }
        let rest = self.0.split_off(buf.len());
        buf.copy_from_slice(&self.0);
        self.0 = rest;
        Ok(true)
    }
    fn read_some(&mut self, buf: &mut [u8], _: Duration) -> Result<ReadSome, LinkError> {
        let len = buf.len().min(self.0.len());
        Ok(match self.read_exact(&mut buf[..len])? {
            true => ReadSome::Bytes(len),
            false => ReadSome::End,
        })
    }
}

fn stream(header: BatchHeader, ops: &[Op<'_>]) -> FrameReader {
    let mut e = Encoder::new();
    ops.iter().for_each(|op| op.encode(&mut e));
    Op::Close { ops: ops.len() as u64 }.encode(&mut e);
    let payload = e.finish();
    let (stored_len, payload_len) = (payload.len(), payload.len());
    let frame = FrameHeader { stored_len, payload_len, compressed: false };
    let bytes = [&header.to_bytes()[..], &frame.to_bytes(), &payload].concat();
    FrameReader::begin(Box::new(Stream(bytes))).expect("begins").0
}

fn catalog() -> Catalog {
    let config = CatalogConfig {
        role: CatalogRole::Target,
        cache_bytes: 1 << 20,
        fresh_id: StoreId([1; 16]),
    };
    Catalog::open_on(redb::backends::InMemoryBackend::new(), &config).expect("in memory")
}

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).expect("a path")
}

fn placed_entry(content: FileDigest) -> Entry {
    let meta = Metadata { mode: 0o640, ..Metadata::default() };
    Entry::File { size: 2_000, content, meta }
}

const DEVICES: StageConfig = StageConfig { devices: true, passes_over_too_large: false };

/// Holds a content of one chunk that can be copied: zeros.
fn put_zeros(storage: &SimStorage, own: &OwnFolder<SimStorage>) -> FileDigest {
    let extents = vec![Extent::Chunk { id: ChunkId::of(&[0; 2_000]), len: 2_000 }];
    let recipe = Recipe { chunking: ChunkingId::Gear64K, extents };
    let slot = own.begin_ahead(storage).expect("a slot");
    let file = storage.create_file(&slot.folder, BYTES).expect("created");
    storage.set_len(&file, recipe.size()).expect("its length");
    own.end_ahead(storage, &slot, &path("acct/zeros"), recipe.clone()).expect("held");
    recipe.digest()
}

/// Stages batch 1: `paths` have the content, which is held.
fn staged(
    disk: &(SimStorage, OwnFolder<SimStorage>),
    catalog: &Catalog,
    content: FileDigest,
    paths: &[&str],
) -> StagedBatch {
    staged_in(1, disk, catalog, content, paths)
}

fn staged_in(
    batch: u64,
    (storage, own): &(SimStorage, OwnFolder<SimStorage>),
    catalog: &Catalog,
    content: FileDigest,
    paths: &[&str],
) -> StagedBatch {
    let ops: Vec<Op<'_>> =
        paths.iter().map(|at| Op::Reuse { path: path(at), entry: placed_entry(content) }).collect();
    let mut reader = stream(BatchHeader::of(batch, Epoch(0)), &ops);
    let applied = Applied::new(0);
    let stager = Stager::new(storage, catalog, own, &applied, DEVICES, batch).expect("a stager");
    stager.run(&mut reader, &Profile::default()).expect("staged")
}

fn links(storage: &SimStorage, name: &str) -> u64 {
    storage.stat(Object::Named(storage.root(), name.as_bytes())).expect("there").links
}

#[test]
fn what_is_held_is_placed_and_a_crash_at_any_point_before_costs_nothing() {
    for crash in ["never", "before its journal", "after its journal", "before its commit"] {
        let disk = disk();
        let (storage, own) = &disk;
        let catalog = catalog();
        let content = put(storage, own, &[1, 2], true);
        let batch = staged(&disk, &catalog, content, &["placed"]);
        assert_eq!(batch.adopted, [(path("placed"), 0)], "{crash}: {:?}", batch.failures);
        let applier = Applier {
            storage,
            catalog: &catalog,
            own,
            now_ms: &|| 0,
            profile: &Profile::default(),
        };
        match crash {
            "before its journal" => {
                applier.recover().expect("recovered");
                assert_eq!(held(own), [(content, true)], "as it was");
                let again = staged(&disk, &catalog, content, &["placed"]);
                assert_eq!(again.adopted.len(), 1, "a name that was left stands in no way");
                applier.apply(vec![again]).expect("applied");
            }
            "never" => drop(applier.apply(vec![batch]).expect("applied")),
            _ => {
                let entry = placed_entry(content);
                let place = Action::Place { number: 1, path: path("placed"), entry };
                let intent = Intent { batch: 1, actions: vec![place] };
                journal::write(storage, own, [&intent].into_iter()).expect("written");
                if crash == "before its commit" {
                    // It has its name, and the one ahead went.
                    let folder = storage.open_directory(&own.staging, b"b1").expect("staged");
                    let placed = storage.rename(&folder, b"1", storage.root(), b"placed");
                    placed.and_then(|()| own.forget_ahead(storage, 0)).expect("placed");
                }
                applier.recover().expect("recovered");
            }
        }
        assert_eq!((held(own), links(storage, "placed")), (vec![], 1), "{crash}");
        let record = catalog.reader().expect("reader").get(&path("placed")).expect("read");
        let facts = record.expect("recorded").facts;
        let stat = storage.stat(Object::Named(storage.root(), b"placed")).expect("there");
        assert_eq!(facts, Some(LocalFacts::of(&stat)), "{crash}: it looks changed by others");
    }
}

#[test]
fn one_content_never_gets_two_names_in_the_tree() {
    let disk = disk();
    let (storage, own) = &disk;
    let catalog = catalog();
    let content = put(storage, own, &[1, 2], true);
    let folder = own.open_ahead(storage, &content).expect("held");
    storage.link(&folder, BYTES, storage.root(), b"alien").expect("linked");
    let batch = staged(&disk, &catalog, content, &["one"]);
    assert!(batch.adopted.is_empty(), "somebody else has it");
    storage.unlink(storage.root(), b"alien").expect("unlinked");
    let batch = staged(&disk, &catalog, content, &["one"]);
    assert_eq!(batch.adopted.len(), 1, "and has it no more: {:?}", batch.failures);
}

#[test]
fn of_two_batches_of_one_content_the_first_has_it_and_the_second_copies() {
    let disk = disk();
    let (storage, own) = &disk;
    let catalog = catalog();
    let content = put_zeros(storage, own);
    let first = staged_in(1, &disk, &catalog, content, &["one"]);
    let second = staged_in(2, &disk, &catalog, content, &["two"]);
    assert_eq!((first.adopted.len(), second.adopted.len()), (1, 0));
    assert!(first.failures.is_empty() && second.failures.is_empty(), "{second:?}");
    own.keep_ahead(storage, &[]).expect("kept");
    assert_eq!(held(own), [(content, true)], "its batch removes it");
    let profile = Profile::default();
    let applier = Applier { storage, catalog: &catalog, own, now_ms: &|| 0, profile: &profile };
    let first = staged_in(1, &disk, &catalog, content, &["one"]);
    assert!(first.adopted.is_empty(), "it is the first one's until that ends");
    own.ahead.give_back(0);
    let first = staged_in(1, &disk, &catalog, content, &["one"]);
    let receipts = applier.apply(vec![first, second]).expect("applied");
    assert!(receipts.iter().all(|receipt| receipt.failures.is_empty()), "{receipts:?}");
    let stat = |name| storage.stat(Object::Named(storage.root(), name)).expect("there");
    assert_ne!(stat(b"one").inode, stat(b"two").inode);
    assert_eq!((held(own), links(storage, "one"), links(storage, "two")), (vec![], 1, 1));
}

/// As it is when the first of the batches is just being applied: its name in the tree and that of the second
/// are as many as that of a content and of the one batch that has it.
#[test]
fn a_content_whose_name_ahead_goes_meanwhile_is_not_given_a_second_one() {
    let disk = disk();
    let (storage, own) = &disk;
    let catalog = catalog();
    let content = put_zeros(storage, own);
    assert_eq!(staged_in(1, &disk, &catalog, content, &["one"]).adopted.len(), 1);
    let folder = storage.open_directory(&own.staging, b"b1").expect("staged");
    storage.unlink(&folder, b"1").expect("one name less");
    let second = staged_in(2, &disk, &catalog, content, &["two"]);
    assert!(second.adopted.is_empty() && second.failures.is_empty(), "{:?}", second.failures);
}

#[test]
fn what_content_is_built_on_is_known_once_however_often_it_is_gone_back_to() {
    let (storage, own) = disk();
    let catalog = catalog();
    let applied = Applied::new(u64::MAX);
    let bases = [[1, 2], [3, 4], [5, 6]].map(|chunks| put(&storage, &own, &chunks, true));
    let mut ops = vec![Op::Begin { path: path("a"), size: 600_000, sparse: false }];
    for content in (0..200).flat_map(|_| bases) {
        ops.extend([Op::Base { content }, Op::CopyRun { offset: 0, len: 1_000 }]);
    }
    ops.push(Op::Abort);
    let slot = own.begin_ahead(&storage).expect("a slot");
    let stager = Stager::carrying(&storage, &catalog, &own, &applied, DEVICES, &slot);
    let mut reader = stream(BatchHeader::ahead(1, Epoch(0)), &ops);
    let batch = stager.expect("a stager").run(&mut reader, &Profile::default()).expect("staged");
    assert_eq!(batch.built_on.len(), bases.len());
}

#[test]
fn ahead_of_a_cut_comes_one_file_and_nothing_else() {
    let (storage, own) = disk();
    let catalog = catalog();
    let applied = Applied::new(u64::MAX);
    let meta = || Entry::Directory { meta: Metadata::default() };
    let begin = |at| Op::Begin { path: path(at), size: 9, sparse: false };
    let refused: [&[Op<'_>]; 4] = [
        &[Op::Put { path: path("a"), entry: meta() }],
        &[Op::Remove { path: path("a"), expected: EntryDigest([0; 32]) }],
        &[begin("a"), Op::Abort, begin("b"), Op::Abort],
        &[Op::Meta { path: path("a"), entry: meta() }, begin("a"), Op::Abort],
    ];
    for ops in refused {
        let slot = own.begin_ahead(&storage).expect("a slot");
        let stager = Stager::carrying(&storage, &catalog, &own, &applied, DEVICES, &slot);
        let mut reader = stream(BatchHeader::ahead(1, Epoch(0)), ops);
        let ended = stager.expect("a stager").run(&mut reader, &Profile::default());
        assert!(matches!(ended, Err(StageError::Decode(_))), "{ops:?}: {ended:?}");
    }
}

/// The power goes at every operation of a content's end, and after it: what counts as whole then is, and it
/// does count once somebody was told so.
#[test]
fn what_counts_as_whole_after_a_power_cut_is_whole() {
    let content: Vec<u8> = (0..2_000u32).flat_map(u32::to_le_bytes).collect();
    let recipe = recipe(&[1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(recipe.size(), content.len() as u64);
    let path = RelPath::new(*b"acct/file").expect("valid");
    let mut cuts = 0;
    for crash_model in [CrashModel::Ordered, CrashModel::Hostile] {
        for seed in 0..20 {
            let mut ended = false;
            for at in 1.. {
                let disk = SimDisk::new(SimConfig { seed, crash_model, ..SimConfig::default() });
                let storage = disk.mount("").expect("mounted");
                let own = OwnFolder::open(&storage, StoreId([2; 16])).expect("its own folder");
                let slot = own.begin_ahead(&storage).expect("a slot");
                let file = storage.create_file(&slot.folder, BYTES).expect("created");
                storage.write_at(&file, 0, &content).expect("written");
                slot.log(&storage).and_then(|mut log| log.write(&storage, &recipe)).expect("said");
                disk.cut_power_at(at);
                let told = own.end_ahead(&storage, &slot, &path, recipe.clone()).is_ok();
                drop(own);
                disk.crash(seed);
                let storage = disk.mount("").expect("mounted again");
                let own = OwnFolder::open(&storage, StoreId([2; 16])).expect("its own folder");
                own.find_ahead(&storage, 0).expect("found");
                let found = own.ahead.get(&recipe.digest()).filter(|held| held.whole);
                if found.is_some() {
                    let slot = own.open_ahead(&storage, &recipe.digest()).expect("held");
                    let mut bytes = vec![0; content.len() + 1];
                    let file = storage.open_file(&slot, BYTES).expect("its bytes");
                    let read = storage.read_at(&file, 0, &mut bytes).expect("read");
                    assert!(bytes[..read] == content, "torn: {crash_model:?}, {seed}, at {at}");
                }
                assert!(found.is_some() || !told, "lost: {crash_model:?}, {seed}, at {at}");
                cuts += 1;
                if ended {
                    break;
                }
                ended = told;
            }
        }
    }
    assert!(cuts > 200, "{cuts} cuts");
}

#[test]
fn a_tree_that_nobody_sends_to_keeps_nothing_ahead() {
    let (storage, own) = disk();
    put(&storage, &own, &[1, 2], true);
    put(&storage, &own, &[3], false);
    drop(own);
    for _ in 0..2 {
        discard(&storage).expect("discarded");
        let own = OwnFolder::open(&storage, StoreId([2; 16])).expect("its own folder");
        own.find_ahead(&storage, 0).expect("found");
        assert!(held(&own).is_empty() && own.ahead_folder(&storage).expect("read").is_none());
    }
}

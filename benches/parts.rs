//! What the parts cost: chunking, digesting, packing, staging. `cargo bench --bench parts`; each prints
//! bytes a second. Compare two versions in one sitting: the machine's speed drifts.

use std::time::Instant;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use farshore_core::chunking::{Chunker, ChunkingId};
use farshore_core::codec::Encoder;
use farshore_core::entry::{Entry, Metadata};
use farshore_core::path::RelPath;
use farshore_core::recipe::{ChunkId, FileDigest, Recipe};
use farshore_engine::frames::looks_compressible;
use farshore_engine::io::posix::PosixStorage;
use farshore_engine::io::{Object, Storage};
use farshore_proto::op::Op;

fn main() {
    divan::main();
}

fn noise(len: usize) -> Vec<u8> {
    let mut seed = 1u64;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        out.extend_from_slice(&seed.to_le_bytes());
    }
    out.truncate(len);
    out
}

/// Cutting and hashing as ingest does, from memory.
#[divan::bench(args = [ChunkingId::FastCdc64K, ChunkingId::Gear64K, ChunkingId::Gear1M])]
fn chunk_and_digest(bencher: Bencher, id: ChunkingId) {
    let data = noise(32 << 20);
    bencher.counter(BytesCount::new(data.len())).bench_local(|| {
        let mut chunker = Chunker::new(id, 256 << 10);
        let mut recipe = Recipe { chunking: chunker.id(), extents: Vec::new() };
        let mut rest = &data[..];
        loop {
            while let Some(cut) = chunker.poll() {
                recipe.push(cut.extent);
            }
            if rest.is_empty() {
                break;
            }
            let spare = chunker.spare();
            let len = spare.len().min(rest.len()).min(256 << 10);
            spare[..len].copy_from_slice(&rest[..len]);
            chunker.filled(len);
            rest = &rest[len..];
        }
        recipe.digest()
    });
}

/// Hashing chunks of one size.
#[divan::bench(args = [4 << 10, 16 << 10, 64 << 10, 256 << 10])]
fn digest(bencher: Bencher, len: usize) {
    let data = noise(len);
    bencher.counter(BytesCount::new(len)).bench_local(|| ChunkId::of(&data));
}

/// Encoding small files into a frame.
#[divan::bench]
fn pack_small_files(bencher: Bencher) {
    const FILES: usize = 1_000;
    let content = noise(4 << 10);
    let path = RelPath::new(*b"account-0042/inbound/2026/11/22/orders.edi").expect("valid");
    let entry = Entry::File {
        size: content.len() as u64,
        content: FileDigest::of_small(&content),
        meta: Metadata::default(),
    };
    bencher.counter(BytesCount::new(FILES * content.len())).bench_local(|| {
        let mut e = Encoder::new();
        for _ in 0..FILES {
            Op::Small { path: path.clone(), entry: entry.clone(), bytes: &content }.encode(&mut e);
        }
        e.finish()
    });
}

/// Asking whether a frame would shrink.
#[divan::bench]
fn compressibility(bencher: Bencher) {
    let data = noise(256 << 10);
    bencher.counter(BytesCount::new(data.len())).bench_local(|| looks_compressible(&data));
}

/// Creating, writing, renaming and syncing small files, as staging and apply do, in the folder of
/// `TMPDIR`: say which file system that is beside the figure.
#[divan::bench(sample_count = 10)]
fn stage_and_place(bencher: Bencher) {
    const FILES: usize = 1_000;
    let content = noise(8 << 10);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let storage = PosixStorage::open(folder.path()).expect("openable");
    let root = storage.root();
    let mut round = 0u32;
    bencher.counter(ItemsCount::new(FILES)).bench_local(|| {
        round += 1;
        let staging = format!("staging{round}").into_bytes();
        let live = format!("live{round}").into_bytes();
        for name in [&staging, &live] {
            storage.make_directory(root, name).expect("made");
        }
        let staging = storage.open_directory(root, &staging).expect("opened");
        let live = storage.open_directory(root, &live).expect("opened");
        for n in 0..FILES {
            let name = n.to_string().into_bytes();
            let file = storage.create_file(&staging, &name).expect("created");
            storage.write_at(&file, 0, &content).expect("written");
            let mtime = storage.stat(Object::File(&file)).expect("facts").mtime;
            storage.set_mtime(Object::File(&file), mtime).expect("set");
            storage.rename(&staging, &name, &live, &name).expect("renamed");
        }
        storage.sync_all().expect("synced");
        Instant::now()
    });
}

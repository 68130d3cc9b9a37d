//! One end alone, with a peer that says what no honest one does, or with parts that break.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use farshore_core::chunking::{Chunker, ChunkingId};
use farshore_core::codec::Encoder;
use farshore_core::entry::{Entry, Metadata};
use farshore_core::guard::Threshold;
use farshore_core::path::RelPath;
use farshore_core::policy::ReplicateAll;
use farshore_core::recipe::{ChunkId, FileDigest, Recipe};
use farshore_core::recovery_point::Epoch;
use farshore_engine::apply::{Applier, HistoryBounds};
use farshore_engine::catalog::{CatalogRole, Durability, HistorySet, Record};
use farshore_engine::contents::Applied;
use farshore_engine::frames::{Compression, FrameReader, Striping};
use farshore_engine::io::Storage;
use farshore_engine::io::sim::CrashModel;
use farshore_engine::own_folder::OwnFolder;
use farshore_engine::profile::Profile;
use farshore_engine::progress::Progress;
use farshore_engine::source::{self, SourceConfig};
use farshore_engine::stage::{StageConfig, StageError, StagedBatch, Stager};
use farshore_proto::batch::{BatchHeader, FrameHeader};
use farshore_proto::link::{BulkReceive, BulkSend, Link, LinkError, LinkStats};
use farshore_proto::message::{
    BATCH_NAMES_MAX, FailureKind, MISSING_CHUNKS_MAX, Message, Receipt, StoreId, Welcome,
};
use farshore_proto::op::Op;

use crate::sites::{Recorded, World};
use crate::storage::{Careless, Watched};

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).expect("valid")
}

fn file(size: u64, content: FileDigest) -> Entry {
    Entry::File { size, content, meta: Metadata::default() }
}

/// Content that repeats nowhere.
fn noise(len: usize) -> Vec<u8> {
    let blocks = (0..len as u64).step_by(32).map(|n| *blake3::hash(&n.to_le_bytes()).as_bytes());
    let mut bytes: Vec<u8> = blocks.flatten().collect();
    bytes.truncate(len);
    bytes
}

fn recipe(id: ChunkingId, content: &[u8]) -> Recipe {
    let mut chunker = Chunker::new(id, content.len());
    chunker.spare()[..content.len()].copy_from_slice(content);
    chunker.filled(content.len());
    chunker.finish();
    let mut recipe = Recipe { chunking: id, extents: Vec::new() };
    while let Some(cut) = chunker.poll() {
        recipe.push(cut.extent);
    }
    recipe
}

/// A target that stages and applies what it is given.
struct Bench {
    world: World,
    storage: Watched,
    catalog: farshore_engine::catalog::Catalog,
    own: OwnFolder<Watched>,
    profile: Profile,
}

impl Bench {
    fn new(careless: Careless) -> Self {
        let world = World::new();
        let storage = Watched::new(world.target.mount("tree").expect("mount"), careless, false);
        let catalog = world.catalog(CatalogRole::Target).expect("catalog");
        let own = OwnFolder::open(&storage, StoreId([7; 16])).expect("folder");
        Self { world, storage, catalog, own, profile: Profile::default() }
    }

    /// Puts a file into the tree and its entry into the catalog, without a recipe.
    fn hold(&self, name: &str, bytes: &[u8], content: FileDigest) {
        let file_made = self.storage.create_file(self.storage.root(), name.as_bytes());
        self.storage.write_at(&file_made.expect("made"), 0, bytes).expect("written");
        let record = Record { entry: file(bytes.len() as u64, content), facts: None };
        let put = self.catalog.update(Durability::None, |t| t.put(&path(name), &record));
        put.expect("recorded");
    }

    fn stage(&self, version: u16, ops: &[Op<'_>]) -> Result<StagedBatch, StageError> {
        let batch = 1;
        let mut bytes = BatchHeader::of(batch, Epoch(0)).to_bytes();
        let close = Op::Close { ops: ops.len() as u64 };
        let all = ops.iter().chain([&close]);
        let mut e = Encoder::new();
        let mut frame = |payload: Vec<u8>| {
            let len = payload.len();
            let header = FrameHeader { stored_len: len, payload_len: len, compressed: false };
            bytes.extend(header.to_bytes());
            bytes.extend(payload);
        };
        for op in all {
            op.encode(&mut e);
            if e.len() > 1 << 20 {
                frame(std::mem::replace(&mut e, Encoder::new()).finish());
            }
        }
        frame(e.finish());
        let stream = Box::new(Recorded { bytes, at: 0 });
        let (mut reader, _) = FrameReader::begin(stream).expect("a batch");
        let (applied, config) =
            (Applied::new(0), StageConfig { devices: true, passes_over_too_large: false });
        Stager::new(&self.storage, &self.catalog, &self.own, &applied, config, batch)?
            .speaking(version)
            .run(&mut reader, &self.profile)
    }

    fn applier(&self) -> Applier<'_, Watched> {
        Applier {
            storage: &self.storage,
            catalog: &self.catalog,
            own: &self.own,
            now_ms: &|| 1_700_000_000_000,
            profile: &self.profile,
        }
    }
}

/// Content was cut by an older chunking, which the target has to find out by reading it twice; the
/// first time the disk lies.
#[test]
fn content_that_is_read_twice_counts_as_it_was_written() {
    let content = noise(200_000);
    let digest = recipe(ChunkingId::FastCdc64K, &content).digest();
    assert_ne!(digest, recipe(ChunkingId::Gear64K, &content).digest());
    for careless in [Careless::Nothing, Careless::FirstRead] {
        let bench = Bench::new(careless);
        bench.hold("held", &content, digest);
        let reuse = Op::Reuse { path: path("copy"), entry: file(200_000, digest) };
        let staged = bench.stage(2, &[reuse]).expect("staged");
        if careless == Careless::FirstRead {
            assert_eq!(staged.failures.len(), 1, "accepted although never checked");
            assert_eq!(staged.failures[0].kind, FailureKind::Basis(Vec::new()));
            continue;
        }
        assert!(staged.failures.is_empty(), "{:?}", staged.failures);
        bench.applier().apply(vec![staged]).expect("applied");
        let tree = bench.world.target_tree();
        assert!(tree.contains_key(&b"copy".to_vec()));
    }
}

/// Operations of version 2 in a session that speaks version 1.
#[test]
fn operations_of_a_later_version_are_refused() {
    let bench = Bench::new(Careless::Nothing);
    let content = FileDigest([9; 32]);
    let begin = Op::Begin { path: path("new"), size: 10, sparse: false };
    let ops = [begin, Op::Base { content }, Op::Abort];
    assert!(bench.stage(2, &ops).is_ok());
    assert!(matches!(bench.stage(1, &ops), Err(StageError::Decode(_))));
}

/// Every chunk of many files is missing: a receipt tells of them within bounds, and of what they were
/// to come from.
#[test]
fn a_batch_that_lacks_everything_has_a_receipt() {
    const FILES: u64 = 60;
    const CHUNKS: u64 = 1_000;
    let bench = Bench::new(Careless::Nothing);
    let from = FileDigest([9; 32]);
    let mut ops = Vec::new();
    for n in 0..FILES {
        let size = CHUNKS * 1_000;
        ops.push(Op::Begin { path: path(&format!("file {n}")), size, sparse: true });
        ops.extend((0..CHUNKS).map(|c| {
            let id = ChunkId(*blake3::hash(&(n * CHUNKS + c).to_le_bytes()).as_bytes());
            Op::Copy { from, offset: 0, len: 1_000, id }
        }));
        ops.push(Op::End { entry: file(size, from), chunking: ChunkingId::Gear64K });
    }
    let staged = bench.stage(2, &ops).expect("staged");
    let missing: Vec<&Vec<ChunkId>> = staged
        .failures
        .iter()
        .map(|f| match &f.kind {
            FailureKind::Basis(chunks) => chunks,
            FailureKind::Refused | FailureKind::NoSpace { .. } => panic!("{}", f.text),
        })
        .collect();
    assert_eq!(missing.len() as u64, FILES);
    assert!(missing.iter().all(|chunks| chunks.first() == Some(&ChunkId(from.0))));
    let told: usize = missing.iter().map(|chunks| chunks.len() - 1).sum();
    assert_eq!(told, MISSING_CHUNKS_MAX);
    let receipts = bench.applier().apply(vec![staged]).expect("applied");
    let message = Message::Receipt(receipts.into_iter().next().expect("one").fitted());
    assert_eq!(Message::from_bytes(&message.to_bytes()), Ok(message));
}

/// Two bases by turns, neither of them here, in a file said to be endless.
#[test]
fn what_a_file_lacks_does_not_grow_with_what_is_said_of_it() {
    let bench = Bench::new(Careless::Nothing);
    let mut ops = vec![Op::Begin { path: path("new"), size: 1 << 50, sparse: true }];
    for n in 0..20_000u32 {
        let content = FileDigest([u8::try_from(n % 2).expect("a bit"); 32]);
        ops.extend([Op::Base { content }, Op::CopyRun { offset: 0, len: 1 }]);
    }
    let entry = file(1 << 50, FileDigest([3; 32]));
    ops.push(Op::End { entry, chunking: ChunkingId::Gear64K });
    let staged = bench.stage(2, &ops).expect("staged");
    let both = vec![ChunkId([0; 32]), ChunkId([1; 32])];
    assert_eq!(staged.failures[0].kind, FailureKind::Basis(both));
}

/// Paths that no receipt could name are refused before anything of the batch is durable.
#[test]
fn a_batch_whose_paths_are_too_long_together_is_refused() {
    let bench = Bench::new(Careless::Nothing);
    let deep = vec!["x".repeat(200); 40].join("/");
    let op = |n: usize| Op::Remove {
        path: path(&format!("{deep}/{n}")),
        expected: farshore_core::entry::EntryDigest([0; 32]),
    };
    let fit = BATCH_NAMES_MAX / (deep.len() + 50);
    let ops: Vec<Op<'_>> = (0..fit).map(op).collect();
    assert!(bench.stage(2, &ops).is_ok());
    let ops: Vec<Op<'_>> = (0..fit + 10).map(op).collect();
    assert!(matches!(bench.stage(2, &ops), Err(StageError::Decode(_))));
}

/// A crash between what the catalog forgets and what is removed: the set counts again, by what it has.
#[test]
fn history_that_is_adopted_is_pruned_by_its_size() {
    let bench = Bench::new(Careless::Nothing);
    for set in [3, 4] {
        let folder = bench.own.history_set(&bench.storage, set).expect("a set");
        for name in ["1", "2"] {
            let made = bench.storage.create_file(&folder, name.as_bytes()).expect("a version");
            bench.storage.write_at(&made, 0, &noise(5_000)).expect("written");
        }
    }
    bench.applier().recover().expect("recovered");
    let facts = HistorySet { time_unix_ms: 1_700_000_000_000, bytes: 10_000, versions: 2 };
    let sets = || bench.catalog.reader().expect("reader").history_sets().expect("sets");
    assert_eq!(sets(), [(3, facts), (4, facts)]);
    assert_eq!(
        bench
            .applier()
            .prune_history(&HistoryBounds { bytes_max: 15_000, ..HistoryBounds::NONE })
            .expect("pruned"),
        1
    );
    assert_eq!(sets(), [(4, facts)]);
}

/// What a state needs that is being read stays, and goes when it was read.
#[test]
fn history_that_is_read_is_not_pruned() {
    let bench = Bench::new(Careless::Nothing);
    for set in [3, 4, 5] {
        let folder = bench.own.history_set(&bench.storage, set).expect("a set");
        bench.storage.create_file(&folder, b"1").expect("a version");
    }
    bench.applier().recover().expect("recovered");
    let none = HistoryBounds { sets_max: 0, ..HistoryBounds::NONE };
    let left = || -> Vec<u64> {
        bench.applier().prune_history(&none).expect("pruned");
        let sets = bench.catalog.reader().expect("reader").history_sets().expect("sets");
        sets.into_iter().map(|(set, _)| set).collect()
    };
    let (older, newer) = (bench.catalog.pin(2), bench.catalog.pin(4));
    assert_eq!(left(), [3, 4, 5]);
    let same = bench.catalog.pin(2);
    drop(older);
    assert_eq!(left(), [3, 4, 5]);
    drop(same);
    assert_eq!(left(), [5]);
    drop(newer);
    assert!(left().is_empty());
}

/// A thread of the target's session panics: both ends end, and the next run makes up for it.
#[test]
fn a_panic_of_any_thread_ends_the_session() {
    let second = World::new().second();
    for call in ["write", "rename", "unlink"] {
        let mut world = second.fork(5, CrashModel::Hostile);
        world.careless = Careless::Panics(call);
        let run = world.run();
        assert!(!run.is_hung(), "{call}: {run:?}");
        assert!(run.target.is_err() && run.source.is_err(), "{call}: {run:?}");
        world.careless = Careless::Nothing;
        world.run().sealed().expect("the run after it");
    }
}

/// A target that welcomes, takes no batch, and sends receipts without end.
struct Flood {
    welcome: Mutex<Option<Welcome>>,
    heard: AtomicUsize,
    /// Messages taken when no batch could be sent.
    most: AtomicUsize,
    closed: AtomicBool,
}

/// Far more than an honest target has to say.
const FLOOD: usize = 200;

impl Link for Flood {
    fn send_control(&self, _: Bytes) -> Result<(), LinkError> {
        Ok(())
    }
    fn recv_control(&self) -> Result<Option<Bytes>, LinkError> {
        if let Some(welcome) = self.welcome.lock().expect("whole").take() {
            return Ok(Some(Bytes::from(Message::Welcome(welcome).to_bytes())));
        }
        if self.closed.load(Relaxed) || self.heard.fetch_add(1, Relaxed) >= FLOOD {
            return Ok(None);
        }
        let batch = self.heard.load(Relaxed) as u64;
        Ok(Some(Bytes::from(Message::Receipt(Receipt { batch, ..Receipt::default() }).to_bytes())))
    }
    fn finish_control(&self) -> Result<(), LinkError> {
        Ok(())
    }
    fn open_bulk(&self) -> Result<Box<dyn BulkSend>, LinkError> {
        // No room for a stream while the flood may come; a source that takes it all is found out.
        let until = std::time::Instant::now() + std::time::Duration::from_millis(300);
        while self.heard.load(Relaxed) < FLOOD && std::time::Instant::now() < until {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        self.most.fetch_max(self.heard.load(Relaxed), Relaxed);
        Err(LinkError::Lost { step: "open a stream", source: "no room".into() })
    }
    fn accept_bulk(&self) -> Result<Option<Box<dyn BulkReceive>>, LinkError> {
        Ok(None)
    }
    fn close(&self, _: u32, _: &str) {
        self.closed.store(true, Relaxed);
    }
    fn stats(&self) -> LinkStats {
        LinkStats::default()
    }
}

#[test]
fn what_a_target_says_unasked_does_not_fill_memory() {
    // Each closes a batch by its length, and has nothing to read.
    let world = World::of(|hands| {
        let tree = hands.0;
        for n in 0..30 {
            let made = tree.create_file(tree.root(), format!("sparse {n}").as_bytes())?;
            tree.set_len(&made, 33 << 20)?;
        }
        Ok(())
    });
    let catalog = world.catalog(CatalogRole::Source).expect("catalog");
    let welcome = Welcome {
        version: 2,
        target: StoreId([2; 16]),
        sealed_with: None,
        epoch: Epoch(1),
        applied_batch: 0,
        root: catalog.sealed_root().expect("root"),
        entries: 0,
        foreign_changes: 0,
        recovery_point: None,
    };
    let link = Flood {
        welcome: Mutex::new(Some(welcome)),
        heard: AtomicUsize::new(0),
        most: AtomicUsize::new(0),
        closed: AtomicBool::new(false),
    };
    let tree = world.source.mount("tree").expect("mount");
    let disk = world.source.clone();
    let config = SourceConfig {
        share: "share".into(),
        epoch: Epoch(1),
        policy: &ReplicateAll,
        threshold: Threshold { entries: 1_000, percent: 10 },
        approved: true,
        trust_target: false,
        dry_run: false,
        workers: 1,
        striping: Striping::ONE,
        compression: Compression::Never,
        spool_folder: std::env::temp_dir(),
        now: &move || disk.time(),
        racy_ns: 0,
        profile: &Default::default(),
    };
    let ended = source::run(&tree, &catalog, &link, &config, &Progress::default());
    assert!(ended.is_err());
    let most = link.most.load(Relaxed);
    assert!(most > 0 && most < FLOOD, "{most} messages taken that nobody acted on");
}

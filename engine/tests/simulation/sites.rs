//! Both machines, and one session between them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use farshore_core::entry::Timestamp;
use farshore_core::guard::Threshold;
use farshore_core::policy::ReplicateAll;
use farshore_core::recovery_point::Epoch;
use farshore_engine::apply::HistoryBounds;
use farshore_engine::catalog::{Catalog, CatalogConfig, CatalogRole};
use farshore_engine::frames::{Compression, FrameReader, Striping};
use farshore_engine::ingest::describe;
use farshore_engine::io::Storage;
use farshore_engine::io::sim::{CrashModel, SimConfig, SimDisk, SimEntry};
use farshore_engine::progress::Progress;
use farshore_engine::source::{self, Outcome, SourceConfig};
use farshore_engine::stage::StageConfig;
use farshore_engine::target::{self, TargetConfig};
use farshore_proto::close::CloseCode;
use farshore_proto::link::{BulkReceive, Link, LinkError, ReadSome};
use farshore_proto::message::{Message, StoreId};
use farshore_proto::op::{Op, Piece};

use crate::link::{Forged, MemoryLink, Record, pair};
use crate::storage::{Careless, Watched};
use crate::trees::Hands;

/// A session that has not ended by then hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// A tree by path.
pub(crate) type Tree = BTreeMap<Vec<u8>, SimEntry>;

/// Both disks.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) source: SimDisk,
    pub(crate) target: SimDisk,
    pub(crate) careless: Careless,
    /// Bytes of history the target keeps.
    pub(crate) history_bytes_max: u64,
    /// What becomes of the target's signatures on their way.
    pub(crate) forged: Forged,
    /// Whether somebody changes what is shared at the target, and changes it back.
    pub(crate) meddles: bool,
    /// Whether an operator let the run pass that the guard holds.
    pub(crate) approved: bool,
}

/// How the disks of a fork behave.
pub(crate) fn disk_config(seed: u64, crash_model: CrashModel) -> SimConfig {
    SimConfig { seed, crash_model, trace_max: 60, ..SimConfig::default() }
}

impl World {
    /// Both catalogs made, the source in its first state, all of it durable; nothing replicated.
    pub(crate) fn new() -> Self {
        Self::of(|hands| hands.first())
    }

    /// The same with another first state.
    pub(crate) fn of(first: impl FnOnce(&Hands<'_>) -> std::io::Result<()>) -> Self {
        let (source, target) = (
            SimDisk::new(disk_config(1, CrashModel::Hostile)),
            SimDisk::new(disk_config(2, CrashModel::Hostile)),
        );
        for disk in [&source, &target] {
            disk.make_root("tree").expect("root");
            disk.make_root("state").expect("root");
        }
        let world = Self {
            source,
            target,
            careless: Careless::Nothing,
            history_bytes_max: u64::MAX,
            forged: Forged::Not,
            meddles: false,
            approved: false,
        };
        drop(world.catalog(CatalogRole::Source).expect("catalog"));
        drop(world.catalog(CatalogRole::Target).expect("catalog"));
        let tree = world.source.mount("tree").expect("mount");
        first(&Hands(&tree)).expect("first state");
        tree.sync_all().expect("sync");
        world.target.mount("").expect("mount").sync_all().expect("sync");
        drop(tree);
        world
    }

    /// The first state replicated, the source in its second, all of it durable.
    pub(crate) fn second(&self) -> Self {
        let world = self.fork(3, CrashModel::Hostile);
        let run = world.run();
        run.sealed().expect("the first sync");
        let tree = world.source.mount("tree").expect("mount");
        Hands(&tree).second().expect("second state");
        for disk in [&world.source, &world.target] {
            disk.mount("").expect("mount").sync_all().expect("sync");
        }
        drop(tree);
        world
    }

    pub(crate) fn fork(&self, seed: u64, model: CrashModel) -> Self {
        Self {
            source: self.source.fork(disk_config(seed, model)),
            target: self.target.fork(disk_config(seed ^ 0x5555, model)),
            ..*self
        }
    }

    pub(crate) fn catalog(&self, role: CatalogRole) -> Result<Catalog, String> {
        let (disk, id) = match role {
            CatalogRole::Source => (&self.source, 1),
            CatalogRole::Target => (&self.target, 2),
        };
        let file = disk.database_file("state/catalog.redb").map_err(|e| e.to_string())?;
        let config = CatalogConfig { role, cache_bytes: 1 << 20, fresh_id: StoreId([id; 16]) };
        Catalog::open_on(file, &config).map_err(|e| describe(&e))
    }

    pub(crate) fn source_tree(&self) -> Tree {
        clean(self.source.snapshot_tree("tree").expect("source tree"))
    }

    pub(crate) fn target_tree(&self) -> Tree {
        clean(self.target.snapshot_tree("tree").expect("target tree"))
    }

    /// Runs one session, both processes started for it and ended after it.
    pub(crate) fn run(&self) -> Run {
        let (near, far, tap) = pair(self.forged);
        let progress = Arc::new(Progress::default());
        let (done, ends) = mpsc::channel();
        let (world, counters, answer) = (self.clone(), Arc::clone(&progress), done.clone());
        std::thread::spawn(move || {
            drop(answer.send(End::Source(world.run_source(near, &counters))))
        });
        let world = self.clone();
        std::thread::spawn(move || drop(done.send(End::Target(world.run_target(far)))));
        let (mut source, mut target) = (None, None);
        for _ in 0..2 {
            match ends.recv_timeout(PATIENCE) {
                Ok(End::Source(end)) => source = Some(end),
                Ok(End::Target(end)) => target = Some(end),
                Err(_) => break,
            }
        }
        let hung = || "deadlock: did not end, or panicked".to_owned();
        Run {
            source: source.unwrap_or_else(|| Err(hung())),
            target: target.unwrap_or_else(|| Err(hung())),
            batches: batches(&tap.record()),
            sealed_heard: heard_seal(&tap.record()),
            literal_bytes: progress.literal_bytes.load(Relaxed),
            requests: signatures(&tap.record()),
            traces: [self.source.trace(), self.target.trace()],
        }
    }

    fn run_source(&self, link: MemoryLink, progress: &Progress) -> Result<SourceEnd, String> {
        let catalog = self.catalog(CatalogRole::Source)?;
        let tree = self.source.mount("tree").map_err(|e| e.to_string())?;
        let disk = self.source.clone();
        let now = move || -> Timestamp { disk.time() };
        let config = SourceConfig {
            share: "share".into(),
            epoch: Epoch(1),
            policy: &ReplicateAll,
            threshold: Threshold { entries: 1_000, percent: 10 },
            approved: self.approved,
            trust_target: false,
            dry_run: false,
            workers: 1,
            compression: Compression::Never,
            striping: Striping { most: 3, bytes_each: 1 },
            spool_folder: std::env::temp_dir(),
            now: &now,
            racy_ns: 0,
            profile: &Default::default(),
        };
        let report =
            source::run(&tree, &catalog, &link, &config, progress).map_err(|e| describe(&e))?;
        let mut problems: Vec<String> = report
            .problems
            .iter()
            .map(|p| format!("{}: {}", p.path.as_bytes().escape_ascii(), p.text))
            .collect();
        problems.extend(report.degraded.iter().map(|(what, count)| format!("{count} {what}")));
        if let Outcome::Held(hold) = &report.outcome {
            problems.push(format!("held: {hold}"));
        }
        let sealed = matches!(report.outcome, Outcome::Sealed(_));
        Ok(SourceEnd { sealed, problems })
    }

    fn run_target(&self, link: MemoryLink) -> Result<TargetEnd, String> {
        let catalog = self.catalog(CatalogRole::Target)?;
        let inner = self.target.mount("tree").map_err(|e| e.to_string())?;
        let tree = Watched::new(inner, self.careless, self.meddles);
        let hello = target::receive_hello(&link).map_err(|e| {
            link.close(CloseCode::ProtocolViolation as u32, "no hello");
            describe(&e)
        })?;
        let config = self.target_config();
        let report =
            target::run(&tree, &catalog, &link, &hello, &config).map_err(|e| describe(&e))?;
        let problems = report
            .problems
            .iter()
            .map(|p| format!("{}: {}", p.path.as_bytes().escape_ascii(), p.text))
            .collect();
        Ok(TargetEnd { problems, changes: tree.changes() })
    }

    fn target_config(&self) -> TargetConfig {
        TargetConfig {
            epoch: None,
            policies: None,
            fresh_id: StoreId([7; 16]),
            stagers: 1,
            stage: StageConfig { devices: true, passes_over_too_large: false },
            history: HistoryBounds { bytes_max: self.history_bytes_max, ..HistoryBounds::NONE },
            spool_folder: std::env::temp_dir(),
            now_ms: || 1_700_000_000_000,
            profile: Default::default(),
            observer: None,
            foreign: None,
        }
    }

    /// What the target's process does when it starts, without a source.
    pub(crate) fn finish_target(&self) -> Result<bool, String> {
        let catalog = self.catalog(CatalogRole::Target)?;
        let tree = self.target.mount("tree").map_err(|e| e.to_string())?;
        target::finish_interrupted(&tree, &catalog, &self.target_config()).map_err(|e| describe(&e))
    }

    /// Names in the target's journal.
    pub(crate) fn journal(&self) -> Vec<Vec<u8>> {
        let tree = self.target.snapshot_tree("tree").expect("target tree");
        let below = b".farshore/journal/";
        tree.into_keys().filter(|path| path.starts_with(below)).collect()
    }
}

enum End {
    Source(Result<SourceEnd, String>),
    Target(Result<TargetEnd, String>),
}

/// What the source's end came to.
#[derive(Debug, Clone)]
pub(crate) struct SourceEnd {
    pub(crate) sealed: bool,
    pub(crate) problems: Vec<String>,
}

/// What the target's end came to.
#[derive(Debug, Clone)]
pub(crate) struct TargetEnd {
    pub(crate) problems: Vec<String>,
    /// Calls that changed something below the root.
    pub(crate) changes: Vec<String>,
}

/// One session as seen from outside.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) source: Result<SourceEnd, String>,
    pub(crate) target: Result<TargetEnd, String>,
    pub(crate) batches: Vec<Batch>,
    pub(crate) sealed_heard: bool,
    pub(crate) literal_bytes: u64,
    pub(crate) requests: usize,
    /// The last operations of the source's disk and of the target's.
    pub(crate) traces: [Vec<String>; 2],
}

impl Run {
    /// Whether the recovery point moved and nothing was left out.
    pub(crate) fn sealed(&self) -> Result<(), String> {
        match (&self.source, &self.target) {
            (Ok(s), Ok(t)) if s.sealed && s.problems.is_empty() && t.problems.is_empty() => Ok(()),
            other => Err(format!("not a clean run: {other:?}")),
        }
    }

    /// Entries the source says it could not vouch for, or that are not wholly as they should be.
    pub(crate) fn reported(&self) -> &[String] {
        self.source.as_ref().map_or(&[], |s| &s.problems)
    }

    /// Whether one end did not end.
    pub(crate) fn is_hung(&self) -> bool {
        let hung = |e: &String| e.starts_with("deadlock");
        self.source.as_ref().is_err_and(hung) || self.target.as_ref().is_err_and(hung)
    }

    /// Bytes of content in batches the source knows to be durable.
    pub(crate) fn literal_bytes_acknowledged(&self) -> u64 {
        self.batches.iter().filter(|b| b.failures.is_some()).map(|b| b.literal_bytes).sum()
    }
}

/// One batch as it went over the link.
#[derive(Default)]
pub(crate) struct Batch {
    /// Paths, and whether the operation takes what is there away.
    pub(crate) ops: Vec<(Vec<u8>, Touch)>,
    pub(crate) literal_bytes: u64,
    /// Paths of operations not done, once a receipt was heard.
    pub(crate) failures: Option<Vec<Vec<u8>>>,
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths =
            self.ops.iter().map(|(path, touch)| format!("{touch:?} {}", path.escape_ascii()));
        let failed =
            self.failures.as_ref().map(|all| all.iter().map(|p| p.escape_ascii().to_string()));
        f.debug_struct("Batch")
            .field("ops", &paths.collect::<Vec<_>>())
            .field("literal_bytes", &self.literal_bytes)
            .field("failures", &failed.map(Iterator::collect::<Vec<_>>))
            .finish()
    }
}

/// What an operation does to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Touch {
    Placed,
    Removed,
    MovedAway,
    MovedHere,
}

/// A stream that was recorded.
pub(crate) struct Recorded {
    pub(crate) bytes: Vec<u8>,
    pub(crate) at: usize,
}

impl BulkReceive for Recorded {
    fn read_exact(&mut self, buf: &mut [u8]) -> Result<bool, LinkError> {
        let rest = &self.bytes[self.at..];
        let Some(part) = rest.get(..buf.len()) else {
            return if rest.is_empty() {
                Ok(false)
            } else {
                Err(LinkError::Lost { step: "read", source: "cut".into() })
            };
        };
        buf.copy_from_slice(part);
        self.at += buf.len();
        Ok(true)
    }

    fn read_some(&mut self, buf: &mut [u8], _: Duration) -> Result<ReadSome, LinkError> {
        let rest = &self.bytes[self.at..];
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(if count == 0 { ReadSome::End } else { ReadSome::Bytes(count) })
    }
}

fn batches(record: &Record) -> Vec<Batch> {
    let mut by_number: BTreeMap<u64, Batch> = BTreeMap::new();
    let recorded = |bytes: &Vec<u8>| Box::new(Recorded { bytes: bytes.clone(), at: 0 });
    let mut streams = record.streams.iter().map(recorded);
    while let Some(stream) = streams.next() {
        let Ok((mut reader, header)) = FrameReader::begin(stream) else { continue };
        while reader.is_missing_streams()
            && streams.next().is_some_and(|stream| reader.join(stream).is_ok())
        {}
        if reader.is_missing_streams() {
            continue;
        }
        let batch = by_number.entry(header.batch).or_default();
        let (mut payload, mut begun) = (Vec::new(), None);
        while let Ok(true) = reader.next_frame(&mut payload) {
            let mut d = farshore_core::codec::Decoder::new(&payload);
            while d.remaining() > 0 {
                let op = Op::decode(&mut d).expect("an operation");
                batch.note(&op, &mut begun);
            }
        }
    }
    for bytes in &record.source_heard {
        if let Ok(Message::Receipt(receipt)) = Message::from_bytes(bytes) {
            let failed = receipt.failures.iter().map(|f| f.path.as_bytes().to_vec()).collect();
            by_number.entry(receipt.batch).or_default().failures = Some(failed);
        }
    }
    by_number.into_values().collect()
}

impl Batch {
    fn note(&mut self, op: &Op<'_>, begun: &mut Option<Vec<u8>>) {
        let mut touch = |path: &farshore_core::path::RelPath, touch| {
            self.ops.push((path.as_bytes().to_vec(), touch));
        };
        match op {
            Op::Remove { path, .. } => touch(path, Touch::Removed),
            Op::Put { path, .. } | Op::Reuse { path, .. } | Op::Meta { path, .. } => {
                touch(path, Touch::Placed);
            }
            Op::Small { path, bytes, .. } => {
                touch(path, Touch::Placed);
                self.literal_bytes += bytes.len() as u64;
            }
            Op::Move { from, to, .. } => {
                touch(from, Touch::MovedAway);
                touch(to, Touch::MovedHere);
            }
            Op::Begin { path, .. } => *begun = Some(path.as_bytes().to_vec()),
            Op::Literal { bytes } => self.literal_bytes += bytes.len() as u64,
            Op::End { .. } => self.ops.extend(begun.take().map(|path| (path, Touch::Placed))),
            Op::Abort => *begun = None,
            Op::Patch { pieces, .. } => {
                let new = pieces.iter().filter(|p| matches!(p, Piece::New(_)));
                self.literal_bytes += new.map(|p| p.len() as u64).sum::<u64>();
            }
            Op::Copy { .. }
            | Op::Zero { .. }
            | Op::Close { .. }
            | Op::Base { .. }
            | Op::CopyRun { .. } => {}
        }
    }
}

fn signatures(record: &Record) -> usize {
    let is = |b: &&bytes::Bytes| matches!(Message::from_bytes(b), Ok(Message::Signatures { .. }));
    record.source_heard.iter().filter(is).count()
}

fn heard_seal(record: &Record) -> bool {
    let sealed = |b: &bytes::Bytes| matches!(Message::from_bytes(b), Ok(Message::Sealed(_)));
    record.source_heard.iter().any(sealed)
}

/// Without Farshore's folder; names of one inode are told by the first that is left.
pub(crate) fn clean(tree: Tree) -> Tree {
    let mut first: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut out = Tree::new();
    for (path, mut entry) in tree {
        if path == b".farshore" || path.starts_with(b".farshore/") {
            continue;
        }
        let group = entry.hard_link_of.take().unwrap_or_else(|| path.clone());
        match first.get(&group) {
            Some(leader) => entry.hard_link_of = Some(leader.clone()),
            None => {
                first.insert(group, path.clone());
            }
        }
        out.insert(path, entry);
    }
    out
}

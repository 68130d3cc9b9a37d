//! Small files that are created many at a time.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use farshore_core::recovery_point::Epoch;
use farshore_proto::batch::BatchHeader;
use farshore_proto::link::{BulkReceive, BulkSend, Link, LinkError, LinkStats, ReadSome};
use farshore_proto::message::StoreId;
use redb::backends::InMemoryBackend;

use super::*;
use crate::catalog::{CatalogConfig, CatalogRole};
use crate::frames::{Compression, FrameWriter, LineGauge};
use crate::io::sim::{Fault, SimConfig, SimDisk, SimStorage};

/// A stream that is kept.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl BulkSend for Kept {
    fn write(&mut self, chunk: Bytes) -> Result<(), LinkError> {
        self.0.lock().expect("not poisoned").extend_from_slice(&chunk);
        Ok(())
    }
    fn finish(self: Box<Self>) -> Result<(), LinkError> {
        Ok(())
    }
}

impl Link for Kept {
    fn send_control(&self, _: Bytes) -> Result<(), LinkError> {
        Ok(())
    }
    fn recv_control(&self) -> Result<Option<Bytes>, LinkError> {
        Ok(None)
    }
    fn finish_control(&self) -> Result<(), LinkError> {
        Ok(())
    }
    fn open_bulk(&self) -> Result<Box<dyn BulkSend>, LinkError> {
        Ok(Box::new(self.clone()))
    }
    fn accept_bulk(&self) -> Result<Option<Box<dyn BulkReceive>>, LinkError> {
        Ok(None)
    }
    fn close(&self, _: u32, _: &str) {}
    fn stats(&self) -> LinkStats {
        LinkStats::default()
    }
}

impl BulkReceive for Kept {
    fn read_exact(&mut self, buf: &mut [u8]) -> Result<bool, LinkError> {
        let mut kept = self.0.lock().expect("not poisoned");
        if kept.is_empty() {
            return Ok(false);
        }
        let rest = kept.split_off(buf.len());
        buf.copy_from_slice(&kept);
        *kept = rest;
        Ok(true)
    }
    fn read_some(&mut self, buf: &mut [u8], _: Duration) -> Result<ReadSome, LinkError> {
        let len = buf.len().min(self.0.lock().expect("not poisoned").len());
        match self.read_exact(&mut buf[..len])? {
            true => Ok(ReadSome::Bytes(len)),
            false => Ok(ReadSome::End),
        }
    }
}

fn path(s: &str) -> RelPath {
    RelPath::new(s.as_bytes()).expect("valid")
}

fn file(content: &[u8], mode: u32) -> Entry {
    let meta = Metadata { mode, ..Metadata::default() };
    Entry::File { size: content.len() as u64, content: FileDigest::of_small(content), meta }
}

fn small<'a>(at: &str, bytes: &'a [u8]) -> Op<'a> {
    Op::Small { path: path(at), entry: file(bytes, 0o640), bytes }
}

fn folder(at: &str) -> Op<'static> {
    Op::Put { path: path(at), entry: Entry::Directory { meta: Metadata::default() } }
}

fn disk(batch_files: usize) -> SimStorage {
    let config = SimConfig { batch_files, trace_max: 10_000, ..SimConfig::default() };
    SimDisk::new(config).mount("").expect("mounted")
}

/// Stages `ops` as batch 1, `before` being done when its folder is there.
fn stage(
    storage: &SimStorage,
    ops: &[Op<'_>],
    before: impl FnOnce(),
) -> Result<StagedBatch, StageError> {
    let stream = Kept::default();
    let (profile, gauge) =
        (Profile::default(), LineGauge::new(Compression::Never, Duration::ZERO, Instant::now()));
    let header = BatchHeader::of(1, Epoch(0));
    let mut writer = FrameWriter::begin(&stream, header, 1, &gauge, &profile).expect("begun");
    for op in ops {
        writer.op(op).expect("written");
    }
    writer.finish().expect("finished");
    let config = CatalogConfig {
        role: CatalogRole::Target,
        cache_bytes: 1 << 20,
        fresh_id: StoreId([1; 16]),
    };
    let catalog = Catalog::open_on(InMemoryBackend::new(), &config).expect("in memory");
    let own = OwnFolder::open(storage, StoreId([2; 16])).expect("its own folder");
    own.fresh(storage).expect("probed");
    let applied = Applied::new(0);
    let devices = StageConfig { devices: true, passes_over_too_large: false };
    let stager = Stager::new(storage, &catalog, &own, &applied, devices, 1).expect("a stager");
    before();
    let (mut reader, _) = FrameReader::begin(Box::new(stream)).expect("a batch");
    stager.run(&mut reader, &profile)
}

fn paths(batch: &StagedBatch) -> Vec<String> {
    let of = |s: &Staged| match s {
        Staged::Place { path, .. } | Staged::Inside { path, .. } => path.to_string(),
        other => format!("{other:?}"),
    };
    batch.staged.iter().map(of).collect()
}

#[test]
fn those_that_wait_keep_their_place_and_fail_alone() {
    for batch_files in [1, 2, 16] {
        let storage = disk(batch_files);
        let ops = [
            small("first", b"first"),
            folder("d"),
            small("d/a", b"a"),
            small("d/twice", b"bb"),
            folder("d/e"),
            small("d/twice", b"c"),
            small("d/e/f", b"fff"),
            small("d/twice", b"d"),
            small("last", b"last"),
        ];
        let staged = stage(&storage, &ops, || {}).expect("staged");
        let expected = ["first", "d", "d/a", "d/twice", "d/e", "d/e/f", "last"];
        assert_eq!(paths(&staged), expected, "{batch_files} at a time");
        let failed: Vec<_> = staged.failures.iter().map(|f| f.path.to_string()).collect();
        assert_eq!(failed, ["d/twice", "d/twice"]);
        assert!(staged.failures[0].text.starts_with("creating it"), "{:?}", staged.failures);
        for (i, at) in [(2, "d/a"), (3, "d/twice"), (5, "d/e/f")] {
            let Staged::Inside { facts: Some(facts), .. } = &staged.staged[i] else {
                panic!("{at}: its facts are known");
            };
            let below = at.split_once('/').expect("below").1;
            let found = storage.disk().snapshot_tree("").expect("a tree");
            let (_, found) = found
                .iter()
                .find(|(p, _)| {
                    p.starts_with(b".farshore/staging/b1") && p.ends_with(below.as_bytes())
                })
                .expect("staged");
            assert_eq!((facts.size, facts.mtime), (found.size, found.mtime), "{at}");
            assert_eq!(found.mode, 0o640);
        }
    }
}

/// Content that waits is written before an operation that may copy it.
#[test]
fn what_waits_is_there_for_who_copies_it() {
    let storage = disk(16);
    let again = Op::Reuse { path: path("b"), entry: file(b"content", 0o600) };
    let ops = [small("a", b"content"), again, small("c", b"other")];
    let staged = stage(&storage, &ops, || {}).expect("staged");
    assert_eq!(paths(&staged), ["a", "b", "c"]);
    assert!(staged.failures.is_empty(), "{:?}", staged.failures);
}

/// The bytes of a frame are gone with it: none waits for the next.
#[test]
fn none_waits_beyond_its_frame() {
    let storage = disk(256);
    let large = vec![7; 64 << 10];
    let names: Vec<String> = (0..200).map(|i| format!("f{i:03}")).collect();
    let ops: Vec<Op<'_>> = names.iter().map(|name| small(name, &large)).collect();
    let staged = stage(&storage, &ops, || {}).expect("staged");
    assert_eq!(paths(&staged), names);
    assert!(staged.failures.is_empty());
}

/// A disk that cannot take more ends the session, whichever file of many met it.
#[test]
fn a_full_disk_ends_the_batch() {
    for fault in [Fault::Enospc, Fault::Eio] {
        let storage = disk(16);
        let ops: Vec<Op<'_>> = ["a", "b", "c", "d"].map(|name| small(name, b"content")).into();
        // Of each file the second operation is the write.
        let staged = stage(&storage, &ops, || storage.disk().fail_at(6, fault));
        let failed = staged.expect_err("the disk is full");
        assert!(matches!(failed, StageError::Disk { .. }), "{failed}");
    }
}

#[test]
fn wrong_content_never_waits() {
    let storage = disk(16);
    let wrong = Op::Small { path: path("a"), entry: file(b"content", 0o600), bytes: b"something" };
    let staged = stage(&storage, &[wrong, small("b", b"b")], || {}).expect("staged");
    assert_eq!(paths(&staged), ["b"]);
    assert!(staged.failures[0].text.contains("digest"));
}

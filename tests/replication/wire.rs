//! Bytes that cross the line. Runs here use the settings of a line between sites.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use farshore::replicate::{RunResult, TargetOptions, open_root};
use farshore::state::State;
use farshore_engine::catalog::CatalogRole;
use farshore_engine::frames::{Compression, Striping};
use farshore_engine::io::uring::IoMode;
use farshore_engine::progress::Progress;
use farshore_engine::source::{self, SourceConfig};
use farshore_engine::target;
use farshore_proto::link::Link;
use farshore_test_support::Rng;
use farshore_transport::{KeySet, Listener, SiteKey, TransportConfig, dial};

use crate::sites::{Counts, RACY, Run, Sites, large_mib, noise, put, source_config};

const MIB: usize = 1 << 20;
/// Threads that read at the source.
const WORKERS: usize = 2;

/// One run as between two sites; `rate` in bytes a second.
fn run_as_between_sites(sites: &Sites, compression: Compression, rate: Option<u64>) -> Run {
    run_striped(sites, compression, rate, Striping::ONE)
}

/// The same with batches of several streams.
fn run_striped(
    sites: &Sites,
    compression: Compression,
    rate: Option<u64>,
    striping: Striping,
) -> Run {
    std::thread::sleep(RACY);
    let (source_key, target_key) =
        (SiteKey::generate().expect("a key"), SiteKey::generate().expect("a key"));
    let config =
        TransportConfig { bandwidth_limit_bytes_per_s: rate, ..TransportConfig::network() };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let peers = KeySet::from(source_key.key_id());
    let listener = Listener::bind(address, &target_key, peers, config.clone()).expect("a listener");
    let state = State::open(Some(&sites.state)).expect("a state folder");
    let open = |role, root| {
        let (catalog, folder) = state.catalog(role, &[b"wire"]).expect("a catalog");
        (open_root("root", root, IoMode::default(), None).expect("a root"), catalog, folder)
    };
    let (a, source_catalog, source_folder) = open(CatalogRole::Source, &sites.a);
    let (b, target_catalog, target_folder) = open(CatalogRole::Target, &sites.b);
    let target_config =
        TargetOptions::default().config(target_folder, Default::default()).expect("random bytes");
    let profile = Default::default();
    let source_config = SourceConfig {
        workers: WORKERS,
        compression,
        striping,
        ..source_config(source_folder, &profile)
    };
    let progress = Progress::default();
    let result = std::thread::scope(|scope| {
        let serving = scope.spawn(|| {
            let incoming = listener.accept().expect("a link");
            let hello = target::receive_hello(&incoming.link).expect("a hello");
            target::run(&b, &target_catalog, &incoming.link, &hello, &target_config)
        });
        let peers = KeySet::from(target_key.key_id());
        let link = dial(listener.local_addr(), &source_key, peers, &config).expect("a link");
        let source = source::run(&a, &source_catalog, &link, &source_config, &progress);
        let stats = link.stats();
        drop(link);
        listener.close();
        let target = serving.join().expect("the target").expect("the target's end");
        RunResult {
            source: source.expect("the source's end"),
            target: Some(target),
            link: stats,
            profile: Default::default(),
            io: Vec::new(),
            degraded_before: Default::default(),
        }
    });
    let run = Run { result, progress };
    run.clean();
    run
}

fn wire(sites: &Sites) -> Run {
    run_as_between_sites(sites, Compression::Auto, None)
}

/// A run that finds nothing to do says so in few bytes.
#[test]
fn a_run_without_changes_is_nearly_free() {
    let sites = Sites::in_memory();
    for i in 0..2_000 {
        put(&sites.a.join(format!("home/f{i}")), i.to_string());
    }
    wire(&sites);
    let again = wire(&sites);
    assert_eq!(again.counts(), Counts::default());
    assert_eq!(again.frames(), 0);
    assert!(again.sent() < 16 << 10, "{} bytes sent", again.sent());
}

/// As a long line is used: every batch on several streams.
#[test]
fn batches_of_several_streams_make_the_same_tree() {
    let sites = Sites::in_memory();
    let content = noise(63, 40 * MIB);
    put(&sites.a.join("home/large.bin"), &content);
    for i in 0..500 {
        put(&sites.a.join(format!("home/f{i}")), i.to_string().repeat(900));
    }
    for (compression, striping) in [
        (Compression::Never, Striping::up_to(4)),
        (Compression::Level(1), Striping { most: 8, bytes_each: 1 }),
    ] {
        let run = run_striped(&sites, compression, None, striping);
        assert!(run.counts().written > 500, "{:?}", run.counts());
        sites.equal("over several streams");
        put(&sites.a.join("home/large.bin"), [&content[9..], b"appended"].concat());
        for i in 0..500 {
            put(&sites.a.join(format!("home/f{i}")), i.to_string().repeat(901));
        }
    }
}

/// 100 bytes inserted at the start of a large file and at twenty places cost those places alone.
#[test]
fn inserts_into_a_large_file_send_little() {
    let sites = if large_mib() > 256 { Sites::new() } else { Sites::in_memory() };
    let len = large_mib() * MIB;
    let file = sites.a.join("home/large.bin");
    let mut content = noise(61, len);
    put(&file, &content);
    let first = wire(&sites);
    assert_eq!(first.literal(), len as u64);
    let mut rng = Rng::new(62);
    let mut places: Vec<usize> = (0..20)
        .map(|_| usize::try_from(rng.below(len as u64)).expect("an offset"))
        .chain([0])
        .collect();
    places.sort_unstable();
    let mut edited = Vec::with_capacity(len + 2_100);
    let mut from = 0;
    for place in places {
        edited.extend_from_slice(&content[from..place]);
        edited.extend_from_slice(&rng.bytes(100));
        from = place;
    }
    edited.extend_from_slice(&content[from..]);
    content = edited;
    put(&file, &content);
    let second = wire(&sites);
    assert!(second.sent() < 128 << 10, "{} bytes sent", second.sent());
    assert!(second.literal() > 21 * 100, "{} bytes of content", second.literal());
    assert_eq!(fs::read(sites.b.join("home/large.bin")).expect("it arrived"), content);
    sites.equal("after the inserts");
}

/// Bytes both ways of a second run over one file.
fn bytes_of_an_edit(old: &[u8], new: &[u8], compression: Compression) -> u64 {
    let sites = Sites::in_memory();
    let file = sites.a.join("home/master.dat");
    put(&file, old);
    wire(&sites);
    put(&file, new);
    let second = run_as_between_sites(&sites, compression, None);
    assert_eq!(fs::read(sites.b.join("home/master.dat")).expect("it arrived"), new);
    sites.equal("after the edit");
    second.sent() + second.result.link.received_bytes
}

/// Pages rewritten in place cost little more than the pages.
#[test]
fn scattered_pages_cost_little_more_than_the_pages() {
    let old = noise(90, 32 * MIB);
    let mut new = old.clone();
    let mut rng = Rng::new(91);
    let mut changed = 0;
    for page in new.chunks_exact_mut(4_096) {
        if rng.below(100) == 0 {
            page.copy_from_slice(&rng.bytes(4_096));
            changed += 4_096;
        }
    }
    let bytes = bytes_of_an_edit(&old, &new, Compression::Never);
    assert!(bytes * 10 < changed * 13 + 10 * 16_384, "{bytes} bytes for {changed} changed");
}

/// Insertions cost little more than what was inserted.
#[test]
fn scattered_insertions_cost_little_more_than_what_is_inserted() {
    let old = noise(92, 32 * MIB);
    let mut rng = Rng::new(93);
    let mut new = Vec::new();
    for part in old.chunks(MIB + MIB / 2) {
        new.extend_from_slice(&rng.bytes(100));
        new.extend_from_slice(part);
    }
    let bytes = bytes_of_an_edit(&old, &new, Compression::Never);
    // A request, signatures of a chunk or two, and a patch for each.
    assert!(bytes < 22 * 2_000 + 16_384, "{bytes} bytes");
}

/// Rows of 200 bytes as of a dump.
fn rows(seed: u64, count: usize) -> Vec<Vec<u8>> {
    let mut rng = Rng::new(seed);
    let row = |key: usize| {
        let mut row = format!("{key:012}|2026-01-05|").into_bytes();
        row.extend_from_slice(&rng.text(150));
        row.resize(199, b' ');
        row.push(b'\n');
        row
    };
    (0..count).map(row).collect()
}

/// Rows updated all over a file, in nearly every chunk of it, cost a few times the rows: a third of
/// what rsync sends in its best case, and where some come and go half of that still.
#[test]
fn scattered_rows_cost_little_more_than_the_rows() {
    let count = 32 * MIB / 200;
    let old = rows(94, count);
    let other = rows(95, count);
    let mut rng = Rng::new(96);
    let mut new = old.clone();
    let mut changed = 0;
    for (row, fresh) in new.iter_mut().zip(&other) {
        if rng.below(50) == 0 {
            row.clone_from(fresh);
            changed += 200;
        }
    }
    let (old, updated) = (old.concat(), new.concat());
    let bytes = bytes_of_an_edit(&old, &updated, Compression::Never);
    assert!(bytes * 10 < changed * 18, "{bytes} bytes for {changed} changed");
    let packed = bytes_of_an_edit(&old, &updated, Compression::Level(3));
    assert!(packed < bytes * 9 / 10, "{packed} bytes compressed, {bytes} without");
    let mut moved = Vec::new();
    for (row, fresh) in new.iter().zip(&other) {
        match rng.below(1_000) {
            0..5 => moved.extend([fresh.clone(), row.clone()]),
            5..7 => {}
            _ => moved.push(row.clone()),
        }
        changed += if moved.last() == Some(row) { 0 } else { 200 };
    }
    let bytes = bytes_of_an_edit(&old, &moved.concat(), Compression::Never);
    assert!(bytes < changed * 3, "{bytes} bytes for {changed} changed, some moved");
}

/// Small edits in many larger files wait for one another's signatures together, not one by one.
#[test]
fn edits_of_many_files_share_their_requests() {
    let sites = Sites::in_memory();
    let file = |i: usize| sites.a.join(format!("home/f{i:03}"));
    let mut contents: Vec<Vec<u8>> = (0..200).map(|i| noise(1_000 + i, 128 << 10)).collect();
    for (i, content) in contents.iter().enumerate() {
        put(&file(i), content);
    }
    wire(&sites);
    for (i, content) in contents.iter_mut().enumerate() {
        content[70_000] ^= 0x55;
        put(&file(i), &*content);
    }
    let second = wire(&sites);
    sites.equal("after the edits");
    assert!(second.literal() < 200 * 200, "{} bytes of content", second.literal());
    assert!(second.sent() < 200 * 500, "{} bytes sent", second.sent());
}

/// The target's file changed while nobody looked, its facts do not show it: what cannot be built from
/// it is sent.
#[test]
fn a_basis_that_changed_unseen_is_not_built_on() {
    let sites = Sites::in_memory();
    let (file, copy) = (sites.a.join("home/master.dat"), sites.b.join("home/master.dat"));
    let old = noise(97, 8 * MIB);
    put(&file, &old);
    wire(&sites);
    let before = fs::metadata(&copy).expect("it is there");
    let mut other = old.clone();
    for at in (0..other.len()).step_by(300_000) {
        other[at] ^= 1;
    }
    fs::write(&copy, &other).expect("written in place");
    let in_place = fs::File::options().write(true).open(&copy).expect("it is there");
    in_place.set_modified(before.modified().expect("a time")).expect("the time it had");
    let mut new = old;
    for at in (100_000..new.len()).step_by(1_000_000) {
        new[at] ^= 0x55;
    }
    put(&file, &new);
    let mut options = sites.options();
    options.trust_target = true;
    let run = sites.try_run(&options).expect("a run");
    assert!(run.literal() > 2 * MIB as u64, "{} bytes of content", run.literal());
    assert_eq!(fs::read(&copy).expect("it is there"), new);
    sites.equal("after the run");
}

/// A renamed folder, files renamed one by one and files moved into another folder cost names.
#[test]
fn renames_send_names_alone() {
    let sites = Sites::in_memory();
    for i in 0..64usize {
        put(&sites.a.join(format!("home/out/f{i:02}")), noise(i as u64, large_mib() * MIB / 64));
    }
    wire(&sites);
    fs::rename(sites.a.join("home/out"), sites.a.join("home/sent")).expect("renamed");
    let folder = wire(&sites);
    assert!(folder.sent() < 64 << 10, "a renamed folder: {} bytes sent", folder.sent());
    assert_eq!((folder.literal(), folder.counts().moved), (0, 64));
    sites.equal("after renaming the folder");
    for i in 0..50 {
        let from = sites.a.join(format!("home/sent/f{i:02}"));
        fs::rename(from, sites.a.join(format!("home/sent/g{i:02}.done"))).expect("renamed");
    }
    let files = wire(&sites);
    assert!(files.sent() < 64 << 10, "fifty renamed files: {} bytes sent", files.sent());
    assert_eq!((files.literal(), files.counts().moved), (0, 50));
    sites.equal("after renaming fifty files");
    fs::create_dir(sites.a.join("archive")).expect("a folder");
    for i in 50..64 {
        let from = sites.a.join(format!("home/sent/f{i:02}"));
        fs::rename(from, sites.a.join(format!("archive/f{i:02}"))).expect("moved");
    }
    let moved = wire(&sites);
    assert!(moved.sent() < 64 << 10, "moved files: {} bytes sent", moved.sent());
    assert_eq!((moved.literal(), moved.counts().moved), (0, 14));
    sites.equal("after moving files");
}

/// Names passed on as a log does: the old content is not sent again.
#[test]
fn a_rotated_log_sends_the_new_content_alone() {
    let sites = Sites::in_memory();
    let log = sites.a.join("log/app.log");
    put(&log, noise(70, 4 * MIB));
    put(&sites.a.join("log/app.log.1"), noise(71, 4 * MIB));
    wire(&sites);
    fs::rename(sites.a.join("log/app.log.1"), sites.a.join("log/app.log.2")).expect("renamed");
    fs::rename(&log, sites.a.join("log/app.log.1")).expect("renamed");
    put(&log, noise(72, 1_000));
    let rotated = wire(&sites);
    assert_eq!(rotated.literal(), 1_000);
    sites.equal("after the rotation");
    // Two names exchanged, of files that are alike but for their content.
    let (one, two) = (sites.a.join("log/app.log.1"), sites.a.join("log/app.log.2"));
    rustix::fs::renameat_with(
        rustix::fs::CWD,
        &one,
        rustix::fs::CWD,
        &two,
        rustix::fs::RenameFlags::EXCHANGE,
    )
    .expect("exchanged");
    let exchanged = wire(&sites);
    assert_eq!(exchanged.literal(), 0);
    assert!(!exchanged.result.source.compared);
    sites.equal("after the exchange");
}

const PAYLOADS: [usize; 6] = [10 << 10, 60 << 10, (64 << 10) + 1, 300 << 10, MIB, 8 * MIB];

fn deliver(root: &Path, accounts: std::ops::Range<usize>) {
    for account in accounts {
        for (seed, len) in (500..).zip(PAYLOADS) {
            let file = root.join(format!("acct-{account:02}/inbox/payload-{len}"));
            put(&file, noise(seed, len));
        }
    }
}

/// The same payload in many accounts is sent once where the copies come in one batch or later, and
/// never more often than there are workers where they come in batches that are read side by side.
#[test]
fn one_payload_in_many_accounts_is_sent_once() {
    let one = PAYLOADS.iter().sum::<usize>() as u64;
    let sites = Sites::in_memory();
    // They fit one batch.
    deliver(&sites.a, 0..3);
    let first = wire(&sites);
    assert_eq!(first.literal(), one, "three accounts");
    sites.equal("the first run");
    deliver(&sites.a, 3..25);
    let second = wire(&sites);
    assert_eq!(second.literal(), 0, "twenty-two more");
    assert!(second.sent() < 64 << 10, "{} bytes sent", second.sent());
    sites.equal("the second run");
    let sites = Sites::in_memory();
    deliver(&sites.a, 0..20);
    let first = wire(&sites);
    let limit = WORKERS as u64 * one;
    assert!((one..=limit).contains(&first.literal()), "{} of {one} bytes", first.literal());
    sites.equal("twenty accounts at once");
}

/// Text is compressed when it is asked for, never when that is asked for, and by itself on a line
/// slower than a compressor; what does not shrink is left as it is.
#[test]
fn text_is_compressed_where_that_pays() {
    let text = Rng::new(80).text(24 * MIB);
    let frames = |compression, rate, content: &[u8]| {
        let sites = Sites::in_memory();
        put(&sites.a.join("home/text"), content);
        let run = run_as_between_sites(&sites, compression, rate);
        assert_eq!(run.progress.literal_bytes.load(Relaxed), content.len() as u64);
        sites.equal("after the run");
        assert!(run.frames() <= run.sent(), "{} of {}", run.frames(), run.sent());
        run.frames() as f64 / content.len() as f64
    };
    let never = frames(Compression::Never, None, &text);
    assert!(never >= 1.0, "never: {never}");
    let always = frames(Compression::Level(3), None, &text);
    assert!(always < 0.6, "level 3: {always}");
    let slow = frames(Compression::Auto, Some(20_000_000), &text);
    assert!(slow < 0.8, "a slow line: {slow}");
    let random = frames(Compression::Level(3), None, &noise(81, 4 * MIB));
    assert!((1.0..1.01).contains(&random), "noise: {random}");
}

//! What the parts of this machine can do, measured in the same run as the claims.
//!
//! Guarantees: the parts are the ones the replicator uses (its chunker, its hash, its link) or bare
//! system calls; each figure is the median of three rounds, in CPU seconds of all threads taking part,
//! with the wall time beside it. Writes only below the folder given and removes nothing there (a large
//! delete would slow what is timed next). Refuses to fill gaps: a part that fails ends the measurement.

use std::fs::File;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use farshore_core::chunking::{Chunker, ChunkingId};
use farshore_core::recipe::{ChunkId, Recipe};
use farshore_engine::observe::READ_WINDOW;
use farshore_proto::link::Link;
use farshore_transport::{KeySet, Listener, QuicLink, SiteKey, TransportConfig, dial};
use rustls::Side;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::quic::{Keys, Version};

use super::clock::{process_cpu_s, thread_cpu_s};
use super::{Cost, Parts};
use crate::bench::measure::sync_file_system;
use crate::bench::report::median;
use crate::bench::rng::{Rng, len_u64, to_f64, to_usize};
use crate::bench::{BenchError, Context};

/// Bytes read or hashed at a time: what stays in a core's cache.
const BLOCK: usize = 256 << 10;
/// Payload of one packet on loopback.
const PACKET: usize = 60_000;
/// Bytes of a small file.
const SMALL: usize = 4 << 10;
/// Rounds of each part.
const ROUNDS: usize = 3;

/// Measures all parts in `folder`; `scale` makes the pieces smaller.
pub(super) fn measure(folder: &Path, scale: f64) -> Result<Parts, BenchError> {
    std::fs::create_dir_all(folder).at("create a folder", folder)?;
    let mib = crate::bench::content::scaled(256, scale.min(1.0), 32);
    let bytes = to_usize(mib << 20);
    let mut data = vec![0; bytes];
    Rng::new(0x11b).fill(&mut data);
    let file = folder.join("large");
    std::fs::write(&file, &data).at("write", &file)?;
    sync_file_system(folder)?;
    let files = crate::bench::content::scaled(20_000, scale.min(1.0), 400);
    let (create, create_durable) = create_files(folder, files)?;
    Ok(Parts {
        cores: std::thread::available_parallelism().map_or(2, std::num::NonZero::get),
        read: per_byte(bytes, || read(&file, |_| {}))?,
        take: per_byte(bytes, || take(&file))?,
        hash: per_byte(bytes, || hash(&data, 64 << 10))?,
        crypto: per_byte(bytes, || crypto(&data))?,
        link: link(mib)?,
        write: write(folder, &data)?,
        open_read: open_read(folder, files)?,
        create,
        create_durable,
    })
}

/// The median cost of a piece of work on this thread, by byte.
fn per_byte(bytes: usize, work: impl Fn() -> Result<(), BenchError>) -> Result<Cost, BenchError> {
    rounds(to_f64(len_u64(bytes)), || {
        let (cpu, started) = (thread_cpu_s(), Instant::now());
        work()?;
        Ok(Cost { cpu_s: thread_cpu_s() - cpu, wall_s: started.elapsed().as_secs_f64() })
    })
}

/// The median of the rounds, divided by what was done in each.
fn rounds(
    units: f64,
    mut round: impl FnMut() -> Result<Cost, BenchError>,
) -> Result<Cost, BenchError> {
    let costs = (0..ROUNDS).map(|_| round()).collect::<Result<Vec<_>, _>>()?;
    Ok(Cost {
        cpu_s: median(costs.iter().map(|cost| cost.cpu_s).collect()) / units,
        wall_s: median(costs.iter().map(|cost| cost.wall_s).collect()) / units,
    })
}

/// Reads a file out of the page cache, block by block.
fn read(path: &Path, mut with: impl FnMut(&[u8])) -> Result<(), BenchError> {
    let mut file = File::open(path).at("open", path)?;
    let mut block = vec![0; BLOCK];
    loop {
        let size = file.read(&mut block).at("read", path)?;
        if size == 0 {
            return Ok(());
        }
        with(std::hint::black_box(&block[..size]));
    }
}

/// Reads, cuts and hashes a file as the source does.
fn take(path: &Path) -> Result<(), BenchError> {
    let id = ChunkingId::for_size(1 << 30);
    let mut chunker = Chunker::new(id, READ_WINDOW);
    let mut recipe = Recipe { chunking: chunker.id(), extents: Vec::new() };
    let mut file = File::open(path).at("open", path)?;
    loop {
        while let Some(cut) = chunker.poll() {
            recipe.push(cut.extent);
        }
        let spare = chunker.spare();
        let len = spare.len().min(BLOCK);
        let size = file.read(&mut spare[..len]).at("read", path)?;
        if size == 0 {
            break;
        }
        chunker.filled(size);
    }
    chunker.finish();
    while let Some(cut) = chunker.poll() {
        recipe.push(cut.extent);
    }
    std::hint::black_box(recipe.digest());
    Ok(())
}

fn hash(data: &[u8], piece: usize) -> Result<(), BenchError> {
    for chunk in data.chunks(piece) {
        std::hint::black_box(ChunkId::of(std::hint::black_box(chunk)));
    }
    Ok(())
}

/// Seals packets as the transport's TLS does.
fn crypto(data: &[u8]) -> Result<(), BenchError> {
    let failed = |said: &str| BenchError::Part { part: "crypto", said: said.to_owned() };
    let suite = TLS13_AES_128_GCM_SHA256.tls13().and_then(|suite| Some((suite, suite.quic?)));
    let (suite, quic) = suite.ok_or_else(|| failed("no AES-128-GCM for QUIC"))?;
    // Which key does not matter for the speed: that of a first packet needs no handshake.
    let keys = Keys::initial(Version::V1, suite, quic, b"connection", Side::Client);
    let key = keys.local.packet;
    let mut packet = vec![0; PACKET];
    for (number, chunk) in (0u64..).zip(data.chunks(PACKET)) {
        let body = &mut packet[..chunk.len()];
        body.copy_from_slice(chunk);
        key.encrypt_in_place(number, b"header", body).map_err(|e| failed(&e.to_string()))?;
    }
    Ok(())
}

/// The transport's own throughput over loopback, both ends in this process.
fn link(mib: u64) -> Result<Cost, BenchError> {
    let failed = |said: String| BenchError::Part { part: "link", said };
    rounds(to_f64(mib << 20), || send_over_link(mib).map_err(|error| failed(error.to_string())))
}

type Sent<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The clocks start when the connection stands: setting it up is no cost by byte.
fn send_over_link(mib: u64) -> Sent<Cost> {
    let (ours, theirs) = (SiteKey::generate()?, SiteKey::generate()?);
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = TransportConfig::loopback();
    let listener = Listener::bind(address, &theirs, KeySet::from(ours.key_id()), config.clone())?;
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(&listener.accept()?.link));
        let sent = (|| -> Sent<Cost> {
            let link = dial(listener.local_addr(), &ours, theirs.key_id().into(), &config)?;
            let (cpu, started) = (process_cpu_s(), Instant::now());
            let chunk = Bytes::from(vec![0x5a; BLOCK]);
            let mut stream = link.open_bulk()?;
            (0..mib * 4).try_for_each(|_| stream.write(chunk.clone()))?;
            stream.finish()?;
            link.finish_control()?;
            // The receiver answers when it has read all.
            link.recv_control()?.ok_or("the receiver ended early")?;
            Ok(Cost { cpu_s: process_cpu_s() - cpu, wall_s: started.elapsed().as_secs_f64() })
        })();
        if sent.is_err() {
            listener.close();
        }
        let received = receiver.join().map_err(|_| "the receiver panicked")?;
        let cost = sent?;
        received.map(|()| cost)
    })
}

fn receive(link: &QuicLink) -> Sent {
    let mut stream = link.accept_bulk()?.ok_or("no stream")?;
    let mut buffer = vec![0; BLOCK];
    while stream.read_exact(&mut buffer)? {}
    link.send_control(Bytes::from_static(b"done"))?;
    link.finish_control()?;
    // Not before the sender is through: leaving closes the link.
    link.recv_control()?;
    Ok(())
}

/// A large file written and synced; the CPU is that of the writing thread.
fn write(folder: &Path, data: &[u8]) -> Result<Cost, BenchError> {
    let mut number = 0;
    rounds(to_f64(len_u64(data.len())), || {
        number += 1;
        let path = folder.join(format!("written-{number}"));
        let (cpu, started) = (thread_cpu_s(), Instant::now());
        let mut file = File::create(&path).at("create", &path)?;
        for block in data.chunks(BLOCK) {
            file.write_all(block).at("write", &path)?;
        }
        let cpu_s = thread_cpu_s() - cpu;
        sync_file_system(folder)?;
        Ok(Cost { cpu_s, wall_s: started.elapsed().as_secs_f64() })
    })
}

/// Small files made by two threads, each in folders of its own: without, and with one syncfs.
fn create_files(folder: &Path, files: u64) -> Result<(Cost, Cost), BenchError> {
    let (mut bare, mut durable) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        sync_file_system(folder)?;
        let started = Instant::now();
        let results: Vec<Result<f64, BenchError>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..2)
                .map(|thread| {
                    let own = folder.join(format!("small-{round}-{thread}"));
                    scope.spawn(move || create_some(&own, files / 2))
                })
                .collect();
            let failed = || Err(BenchError::Panicked { step: "create files" });
            threads.into_iter().map(|t| t.join().unwrap_or_else(|_| failed())).collect()
        });
        let cpu_s: f64 = results.into_iter().sum::<Result<f64, _>>()?;
        bare.push(Cost { cpu_s, wall_s: started.elapsed().as_secs_f64() });
        let before = thread_cpu_s();
        sync_file_system(folder)?;
        let cpu_s = cpu_s + thread_cpu_s() - before;
        durable.push(Cost { cpu_s, wall_s: started.elapsed().as_secs_f64() });
    }
    let units = to_f64(files / 2 * 2);
    let middle = |mut costs: Vec<Cost>| rounds(units, || Ok(costs.pop().unwrap_or_default()));
    Ok((middle(bare)?, middle(durable)?))
}

fn create_some(own: &Path, files: u64) -> Result<f64, BenchError> {
    let before = thread_cpu_s();
    let content = [0x5a; SMALL];
    for number in 0..files {
        let folder = own.join((number / 1_000).to_string());
        if number.is_multiple_of(1_000) {
            std::fs::create_dir_all(&folder).at("create a folder", &folder)?;
        }
        let path = folder.join(number.to_string());
        let mut file = File::create(&path).at("create", &path)?;
        file.write_all(&content).at("write", &path)?;
    }
    Ok(thread_cpu_s() - before)
}

/// Small files out of the page cache: open, read, close.
fn open_read(folder: &Path, files: u64) -> Result<Cost, BenchError> {
    let own = folder.join("small-0-0");
    let files = files / 2;
    rounds(to_f64(files), || {
        let (cpu, started) = (thread_cpu_s(), Instant::now());
        let mut content = [0; SMALL + 1];
        for number in 0..files {
            let path = own.join((number / 1_000).to_string()).join(number.to_string());
            let mut file = File::open(&path).at("open", &path)?;
            std::hint::black_box(file.read(&mut content).at("read", &path)?);
        }
        Ok(Cost { cpu_s: thread_cpu_s() - cpu, wall_s: started.elapsed().as_secs_f64() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_costs_something() {
        let folder = tempfile::tempdir().expect("temp folder");
        let parts = measure(folder.path(), 0.001).expect("measured");
        for (name, cost, _) in parts.list() {
            assert!(cost.cpu_s > 0.0 && cost.wall_s > 0.0, "{name}: {cost:?}");
        }
    }
}

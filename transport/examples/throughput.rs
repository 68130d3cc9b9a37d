//! Sends bulk data over loopback, both ends in one process, and prints GB/s and CPU-s/GB of both
//! ends together. Guarantees a real link: pinned keys, TLS, flow control, every byte copied out at
//! the receiver. Nothing survives a crash.
//!
//! `cargo run --release -p farshore-transport --example throughput -- [--mtu N] [--mib N]
//! [--streams N] [--chunk KIB] [--limit BYTES_PER_S] [--congestion cubic|bbr|rate]`; with
//! `--listen ADDR` or `--dial ADDR` one end only (for two network namespaces; both ends then use
//! fixed test keys from the files `--key` and the other's `--peer`).

#![allow(clippy::print_stdout, reason = "an example reports on the terminal")]

use std::{
    net::SocketAddr,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use farshore_proto::link::Link;
use farshore_transport::{
    Congestion, KeyId, KeySet, Listener, QuicLink, SiteKey, TransportConfig, dial,
};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

struct Settings {
    mib: usize,
    streams: usize,
    chunk_bytes: usize,
    config: TransportConfig,
    listen: Option<SocketAddr>,
    dial: Option<SocketAddr>,
    key: Option<String>,
    peer: Option<KeyId>,
}

fn main() -> Outcome<()> {
    let settings = settings()?;
    match (settings.listen, settings.dial) {
        (Some(addr), _) => {
            let key = site_key(settings.key.as_deref())?;
            let peer = settings.peer.ok_or("--listen needs --peer")?;
            let listener = Listener::bind(addr, &key, peer.into(), settings.config.clone())?;
            receive(&listener.accept()?.link, &settings)
        }
        (None, Some(addr)) => {
            let key = site_key(settings.key.as_deref())?;
            let peer = settings.peer.ok_or("--dial needs --peer")?;
            let began = Instant::now();
            let link = dial(addr, &key, peer.into(), &settings.config)?;
            println!("dialed in {:?}", began.elapsed());
            report(&link, &settings, || send(&link, &settings))
        }
        (None, None) => both(&settings),
    }
}

fn both(settings: &Settings) -> Outcome<()> {
    let (ours, theirs) = (SiteKey::generate()?, SiteKey::generate()?);
    let listener = Listener::bind(
        SocketAddr::from(([127, 0, 0, 1], 0)),
        &theirs,
        KeySet::from(ours.key_id()),
        settings.config.clone(),
    )?;
    let addr = listener.local_addr();
    thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(&listener.accept()?.link, settings));
        let began = Instant::now();
        let link = dial(addr, &ours, theirs.key_id().into(), &settings.config)?;
        println!("dialed in {:?}", began.elapsed());
        report(&link, settings, || send(&link, settings))?;
        receiver.join().map_err(|_| "the receiver panicked")?
    })
}

fn send(link: &QuicLink, settings: &Settings) -> Outcome<()> {
    let chunk = Bytes::from(vec![0x5a_u8; settings.chunk_bytes]);
    let chunks = (settings.mib << 20) / settings.chunk_bytes / settings.streams;
    thread::scope(|scope| {
        let senders: Vec<_> = (0..settings.streams)
            .map(|_| {
                scope.spawn(|| -> Outcome<()> {
                    let mut stream = link.open_bulk()?;
                    (0..chunks).try_for_each(|_| stream.write(chunk.clone()))?;
                    Ok(stream.finish()?)
                })
            })
            .collect();
        senders.into_iter().try_for_each(|sender| {
            sender.join().map_err(|_| "a sender panicked")??;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        })
    })?;
    link.finish_control()?;
    // The receiver answers when it has read all.
    link.recv_control()?.ok_or("the receiver ended early")?;
    Ok(())
}

fn receive(link: &QuicLink, settings: &Settings) -> Outcome<()> {
    thread::scope(|scope| {
        let receivers: Vec<_> = (0..settings.streams)
            .map(|_| {
                scope.spawn(|| -> Outcome<()> {
                    let mut stream = link.accept_bulk()?.ok_or("no stream")?;
                    let mut buffer = vec![0; settings.chunk_bytes];
                    while stream.read_exact(&mut buffer)? {}
                    Ok(())
                })
            })
            .collect();
        receivers.into_iter().try_for_each(|receiver| {
            receiver.join().map_err(|_| "a receiver panicked")??;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        })
    })?;
    link.send_control(Bytes::from_static(b"done"))?;
    link.finish_control()?;
    // Not before the sender is through: leaving closes the link.
    link.recv_control()?;
    Ok(())
}

fn report(link: &QuicLink, settings: &Settings, run: impl FnOnce() -> Outcome<()>) -> Outcome<()> {
    let (began, cpu) = (Instant::now(), cpu_seconds());
    run()?;
    let (wall, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let gigabytes = settings.mib as f64 * 1_048_576.0 / 1e9;
    let stats = link.stats();
    println!(
        "{:.4} GB/s, {:.2} CPU-s/GB, datagram {} B, lost {} packets, rtt {:?}",
        gigabytes / wall,
        cpu / gigabytes,
        link.datagram_bytes(),
        stats.lost_packets,
        stats.rtt,
    );
    Ok(())
}

/// User and system time of this process, from `/proc` (in ticks of 10 ms).
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = |n: usize| after_name.split_whitespace().nth(n).and_then(|t| t.parse::<f64>().ok());
    (ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0)) / 100.0
}

fn site_key(path: Option<&str>) -> Outcome<SiteKey> {
    let path = Path::new(path.ok_or("--key is missing")?);
    let key = if path.exists() { SiteKey::load(path)? } else { SiteKey::create(path)? };
    println!("this key: {}", key.key_id());
    Ok(key)
}

fn settings() -> Outcome<Settings> {
    let mut settings = Settings {
        mib: 4_096,
        streams: 1,
        chunk_bytes: 256 << 10,
        config: TransportConfig::loopback(),
        listen: None,
        dial: None,
        key: None,
        peer: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--mtu" => settings.config.mtu_upper_bound = value.parse()?,
            "--mib" => settings.mib = value.parse()?,
            "--streams" => settings.streams = value.parse()?,
            "--chunk" => settings.chunk_bytes = value.parse::<usize>()? << 10,
            "--limit" => settings.config.bandwidth_limit_bytes_per_s = Some(value.parse()?),
            "--stream-window" => settings.config.stream_window_bytes = value.parse()?,
            "--window" => {
                settings.config.receive_window_bytes = value.parse()?;
                settings.config.send_window_bytes = value.parse()?;
            }
            "--socket-buffer" => settings.config.socket_buffer_bytes = value.parse()?,
            "--network" => {
                settings.config = TransportConfig::network();
                settings.config.handshake_timeout = Duration::from_secs(value.parse()?);
            }
            "--congestion" => {
                settings.config.congestion = match value.as_str() {
                    "bbr" => Congestion::Bbr,
                    "rate" => Congestion::Rate,
                    _ => Congestion::Cubic,
                };
            }
            "--listen" => settings.listen = Some(value.parse()?),
            "--dial" => settings.dial = Some(value.parse()?),
            "--key" => settings.key = Some(value),
            "--peer" => settings.peer = Some(value.parse()?),
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    Ok(settings)
}

//! What a link puts on the wire, and how large its datagrams get.
//!
//! The tests on real paths build network namespaces with the tools `ip` and need root; without
//! either they say so and pass.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "ends of a path report to the test")]

mod support;

use std::{
    collections::HashMap,
    fs,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use farshore_proto::link::{Link, LinkStats};
use farshore_transport::{Listener, QuicLink, SiteKey, TransportConfig, dial};
use support::{Line, PATIENCE, key, listener, pair};

/// What a session that finds nothing to replicate may send, beside what it says.
const SMALL_SESSION_BYTES_MAX: u64 = 4_096;
const BOTH_ENDS_BYTES_MAX: u64 = 8_192;
const MESSAGE: [u8; 200] = [9; 200];

/// One control message each way, `pause` between them, and an orderly close.
fn small_session_dialer(link: &QuicLink) -> LinkStats {
    link.send_control(Bytes::from_static(&MESSAGE)).expect("send");
    assert_eq!(link.recv_control().expect("receive").expect("some"), &MESSAGE[..]);
    assert_eq!(link.recv_control().expect("receive"), None);
    link.finish_control().expect("finish");
    link.drain().expect("drain");
    let stats = link.stats();
    link.close(0, "");
    stats
}

/// The other end of it.
fn small_session_listener(link: &QuicLink, pause: Duration) -> LinkStats {
    assert_eq!(link.recv_control().expect("receive").expect("some"), &MESSAGE[..]);
    thread::sleep(pause);
    link.send_control(Bytes::from_static(&MESSAGE)).expect("send");
    link.finish_control().expect("finish");
    assert_eq!(link.recv_control().expect("receive"), None);
    assert!(link.accept_bulk().expect("closed in order").is_none());
    link.stats()
}

#[test]
fn a_small_session_is_small_and_counted_right() {
    // An end that does not get the processor for a while makes the other one send again: one of three
    // plays is as small as it must be.
    for config in [TransportConfig::loopback(), TransportConfig::network()] {
        let mut was_small = false;
        for play in 1..=3 {
            if was_small {
                break;
            }
            let (here, there) = (key(), key());
            let (listener, _refused) = listener(&there, here.key_id().into(), config.clone());
            let line = Line::to(listener.local_addr());
            let dialed = dial(line.addr, &here, there.key_id().into(), &config).expect("dial");
            let accepted = listener.accept().expect("accept").link;
            // Long enough for many probes, were there any.
            let pause = Duration::from_millis(100);
            let (ours, theirs) = thread::scope(|scope| {
                let theirs = scope.spawn(|| small_session_listener(&accepted, pause));
                (small_session_dialer(&dialed), theirs.join().expect("listener's end"))
            });
            drop((dialed, accepted));
            let sum = |sizes: &[usize]| sizes.iter().map(|size| *size as u64).sum::<u64>();
            // The line may be behind the ends.
            let began = Instant::now();
            let (out, back) = loop {
                let out = line.carried().from_dialer.lock().expect("lock").clone();
                let back = line.carried().from_listener.lock().expect("lock").clone();
                let whole = sum(&out) > ours.sent_bytes + 1 && sum(&back) >= theirs.sent_bytes;
                if whole || began.elapsed() > PATIENCE {
                    break (out, back);
                }
                thread::sleep(Duration::from_millis(1));
            };
            println!("dialer {} {out:?}, listener {} {back:?}", sum(&out), sum(&back));
            let is_small =
                sum(&out) < SMALL_SESSION_BYTES_MAX && sum(&out) + sum(&back) < BOTH_ENDS_BYTES_MAX;
            assert!(is_small || play < 3, "{out:?} {back:?}");
            was_small = is_small;
            assert!(out.iter().chain(&back).all(|size| *size <= 1_200), "{out:?} {back:?}");
            // The dialer closes after its count, and knocks with one byte that belongs to no link.
            assert!((1..100).contains(&(sum(&out) - ours.sent_bytes)), "{ours:?} {out:?}");
            assert_eq!(sum(&back), theirs.sent_bytes, "{back:?}");
        }
    }
}

#[test]
fn within_this_machine_datagrams_are_large_at_once() {
    for (config, expected) in
        [(TransportConfig::loopback(), 65_507), (TransportConfig::network(), 8_952)]
    {
        let (dialed, accepted, _listener) = pair(&config);
        assert_eq!((dialed.datagram_bytes(), accepted.datagram_bytes()), (expected, expected));
        // Two ends that differ go by the smaller.
        let (here, there) = (key(), key());
        let (listener, _refused) = listener(&there, here.key_id().into(), config);
        let large = TransportConfig::loopback();
        let dialed = dial(listener.local_addr(), &here, there.key_id().into(), &large);
        let dialed = dialed.expect("dial");
        assert_eq!(dialed.datagram_bytes(), expected);
        let mut bulk = dialed.open_bulk().expect("open");
        bulk.write(Bytes::from(vec![1; 1 << 20])).expect("write");
        bulk.finish().expect("finish");
        dialed.drain().expect("drain");
        assert_eq!((dialed.datagram_bytes(), dialed.stats().lost_packets), (expected, 0));
    }
}

/// Two namespaces and a cable between them; taken down when dropped.
struct Cable {
    near: String,
    far: String,
}

impl Cable {
    const FAR: &str = "10.99.0.2";

    /// The devices' MTUs; a datagram larger than the far one is lost without a word. `None` where
    /// that cannot be built.
    fn lay(name: &str, near_mtu: u16, far_mtu: u16, delay: &str) -> Option<Self> {
        let unique = std::process::id();
        let cable = Self { near: format!("fs{name}a{unique}"), far: format!("fs{name}b{unique}") };
        let (near, far) = (&cable.near, &cable.far);
        let steps = [
            format!("netns add {near}"),
            format!("netns add {far}"),
            format!("link add v0 netns {near} mtu {near_mtu} type veth peer name v0 netns {far}"),
            format!("-n {far} link set v0 mtu {far_mtu} up"),
            format!("-n {near} link set v0 up"),
            format!("-n {near} addr add 10.99.0.1/24 dev v0"),
            format!("-n {far} addr add {}/24 dev v0", Self::FAR),
        ];
        if !steps.iter().all(|step| ip(step)) {
            eprintln!("skipped: no network namespaces here (needs root and ip)");
            return None;
        }
        for namespace in [near, far] {
            // Neighbour discovery would be counted.
            let quiet = "echo 1 > /proc/sys/net/ipv6/conf/v0/disable_ipv6";
            ip(&format!("netns exec {namespace} sh -c '{quiet}'"));
            if !delay.is_empty() {
                let shaped =
                    format!("netns exec {namespace} tc qdisc add dev v0 root netem {delay}");
                if !ip(&shaped) {
                    eprintln!("skipped: no delays here (needs tc and netem)");
                    return None;
                }
            }
        }
        Some(cable)
    }

    /// Runs both ends of `scene`; what the near one reported.
    fn play(&self, scene: &str) -> HashMap<String, u64> {
        let folder = tempfile::tempdir().expect("folder");
        for end in ["near", "far"] {
            SiteKey::create(&folder.path().join(end)).expect("key");
        }
        let end = |namespace: &str, name: &str| {
            let program = std::env::current_exe().expect("this program");
            let mut command = Command::new("ip");
            command.args(["netns", "exec", namespace]).arg(program);
            command.args(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"]);
            command.env("FARSHORE_KEYS", folder.path()).env("FARSHORE_SCENE", scene);
            command
        };
        let far = end(&self.far, "far_end").stdout(Stdio::null()).spawn().expect("far end");
        let near = end(&self.near, "near_end").output().expect("near end");
        let far = far.wait_with_output().expect("far end");
        let said = String::from_utf8_lossy(&near.stdout);
        let error = String::from_utf8_lossy(&near.stderr);
        assert!(near.status.success() && far.status.success(), "{said}\n{error}");
        println!("{scene}: {said}");
        said.lines()
            .filter_map(|line| line.split_once('='))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect()
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for namespace in [&self.near, &self.far] {
            ip(&format!("netns del {namespace}"));
        }
    }
}

/// Runs `ip` with `words`, of which those in quotes are one.
fn ip(words: &str) -> bool {
    let (plain, quoted) = words.split_once('\'').unwrap_or((words, ""));
    let mut command = Command::new("ip");
    command.args(plain.split_whitespace()).stderr(Stdio::null()).stdout(Stdio::null());
    if !quoted.is_empty() {
        command.arg(quoted.trim_end_matches('\''));
    }
    command.status().is_ok_and(|status| status.success())
}

fn keys() -> (SiteKey, SiteKey) {
    let folder = std::env::var("FARSHORE_KEYS").expect("run by a test");
    let load = |end: &str| SiteKey::load(&Path::new(&folder).join(end)).expect("key");
    (load("near"), load("far"))
}

fn scene_is(scene: &str) -> bool {
    std::env::var("FARSHORE_SCENE").is_ok_and(|found| found == scene)
}

fn far_addr() -> SocketAddr {
    format!("{}:7000", Cable::FAR).parse().expect("address")
}

fn counter(name: &str) -> u64 {
    let counters = Path::new("/sys/class/net/v0/statistics");
    let text = fs::read_to_string(counters.join(name)).expect("a counter");
    text.trim().parse().expect("a number")
}

/// UDP payload the device of this namespace took; ARP packets have as many bytes as our headers.
fn payload_sent() -> u64 {
    const HEADERS_BYTES: u64 = 42;
    counter("tx_bytes") - HEADERS_BYTES * counter("tx_packets")
}

const TRANSFER: Duration = Duration::from_millis(2_500);

#[test]
#[ignore = "run by the tests on real paths, within a namespace"]
fn far_end() {
    let (near, far) = keys();
    let config = TransportConfig::network();
    let listener = Listener::bind(far_addr(), &far, near.key_id().into(), config).expect("bind");
    let link = listener.accept().expect("accept").link;
    if scene_is("small") {
        small_session_listener(&link, Duration::from_millis(300));
        return;
    }
    let mut bulk = link.accept_bulk().expect("accept").expect("a stream");
    let mut buffer = vec![0; 64 << 10];
    while bulk.read_exact(&mut buffer).expect("read") {}
    link.finish_control().expect("finish");
    assert_eq!(link.recv_control().expect("receive"), None);
}

#[test]
#[ignore = "run by the tests on real paths, within a namespace"]
fn near_end() {
    let (near, far) = keys();
    let mut config = TransportConfig::network();
    // Keeps two cores able to follow.
    config.bandwidth_limit_bytes_per_s = Some(40_000_000);
    let started = Instant::now();
    let link = loop {
        match dial(far_addr(), &near, far.key_id().into(), &config) {
            Ok(link) => break link,
            Err(error) => assert!(started.elapsed() < Duration::from_secs(20), "{error}"),
        }
        thread::sleep(Duration::from_millis(20));
    };
    // What failed dials sent is not this link's.
    let other = payload_sent() - link.stats().sent_bytes.min(payload_sent());
    if scene_is("small") {
        let stats = small_session_dialer(&link);
        println!("\nsent={}\nreceived={}", stats.sent_bytes, stats.received_bytes);
        println!("wire={}\ndatagram={}", payload_sent() - other, link.datagram_bytes());
        return;
    }
    println!("\nbefore={}", link.datagram_bytes());
    let opened = Instant::now();
    let mut bulk = link.open_bulk().expect("open");
    let chunk = Bytes::from(vec![5; 64 << 10]);
    let mut found = link.datagram_bytes();
    let mut found_after = Duration::ZERO;
    let mut dropped_early = 0;
    while opened.elapsed() < TRANSFER {
        bulk.write(chunk.clone()).expect("write");
        if link.datagram_bytes() != found {
            (found, found_after) = (link.datagram_bytes(), opened.elapsed());
        }
        if opened.elapsed() < TRANSFER / 2 {
            dropped_early = counter("tx_dropped");
        }
    }
    bulk.finish().expect("finish");
    link.finish_control().expect("finish");
    assert_eq!(link.recv_control().expect("receive"), None);
    println!("datagram={found}\nfound_after_ms={}", found_after.as_millis());
    println!("dropped={}\ndropped_early={dropped_early}", counter("tx_dropped"));
    println!("lost={}", link.stats().lost_packets);
}

#[test]
fn a_small_session_over_ethernet_and_over_jumbo_frames_is_small() {
    for (near_mtu, far_mtu, delay) in [
        (1_500, 1_500, ""),
        (9_000, 9_000, ""),
        (9_000, 1_500, ""),
        (1_500, 1_500, "delay 25ms"),
        (9_000, 9_000, "delay 25ms"),
    ] {
        let Some(cable) = Cable::lay("s", near_mtu, far_mtu, delay) else { return };
        // An end that does not get the processor for a while makes the other one send again: the least
        // of three plays is what a session takes.
        let plays = (0..3).map(|_| cable.play("small"));
        let found = plays.min_by_key(|found| found["sent"] + found["received"]).expect("three");
        let (sent, received) = (found["sent"], found["received"]);
        assert!(sent < SMALL_SESSION_BYTES_MAX, "{near_mtu} {found:?}");
        assert!(sent + received < BOTH_ENDS_BYTES_MAX, "{near_mtu} {found:?}");
        // What was held back is not counted.
        assert!(found["wire"].abs_diff(sent) < 100, "{near_mtu} {found:?}");
        assert_eq!(found["datagram"], 1_200, "{near_mtu}");
    }
}

#[test]
fn datagrams_grow_once_bulk_flows_and_a_narrow_path_is_not_probed_for_ever() {
    for (near_mtu, far_mtu, smallest, largest) in
        [(1_500, 1_500, 1_472, 1_472), (9_000, 9_000, 8_952, 8_952), (9_000, 1_500, 1_344, 1_472)]
    {
        let Some(cable) = Cable::lay("b", near_mtu, far_mtu, "") else { return };
        let found = cable.play("bulk");
        assert_eq!(found["before"], 1_200, "{near_mtu} {far_mtu}");
        assert!((smallest..=largest).contains(&found["datagram"]), "{near_mtu} {found:?}");
        // Within 100 ms on a machine that has nothing else to do.
        assert!(found["found_after_ms"] < 1_000, "{near_mtu} {found:?}");
        if near_mtu == far_mtu {
            assert_eq!(found["dropped"], 0, "{near_mtu} {found:?}");
        } else {
            assert!((3..=32).contains(&found["dropped"]), "{near_mtu} {found:?}");
            assert_eq!(found["dropped"], found["dropped_early"], "{near_mtu} {found:?}");
        }
    }
}

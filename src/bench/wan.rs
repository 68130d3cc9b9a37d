//! A long line in user space: two namespaces joined by a relay between two TUN devices.
//!
//! Guarantees: delay, rate, queue and loss of [`link`] in each direction, with the losses a function of
//! the seed and of the order of packets; packets are never early, and late by a fraction of a
//! millisecond unless the machine is overloaded (measure with [`Wan::probe`]). Refuses to run without
//! root. The relay's own CPU time is not part of any figure of the tools.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use rustix::thread::{ClockId, clock_nanosleep_absolute};
use rustix::time::{Timespec, clock_gettime};

pub(crate) mod link;
mod tun;

use crate::bench::janitor::Janitor;
use crate::bench::measure::netns::{NetNs, run_ip};
use crate::bench::rng::{len_u64, mix, to_f64};
use crate::bench::{BenchError, Context};
use link::{Link, LinkConfig, LinkCounts};

/// Packets due within this time leave together, so that the relay does not wake for each.
const GATHER_NS: u64 = 150_000;
/// Packets the device holds for the relay; the queue that counts is the link's.
const DEVICE_QUEUE: &str = "20000";
/// The near side.
pub(crate) const ADDRESS_A: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The far side.
pub(crate) const ADDRESS_B: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// The name of the device in both namespaces.
pub(crate) const DEVICE: &str = "farwan0";
/// Largest packet.
const MTU: usize = 1_500;

/// The properties of the line, the same in both directions.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub(crate) struct LineConfig {
    /// Round trip.
    pub(crate) rtt: Duration,
    /// Bits per second each way; 0 means without limit.
    pub(crate) rate_bits: u64,
    /// Probability of loss of a packet, each way.
    pub(crate) loss: f64,
    /// Seed of the losses.
    pub(crate) seed: u64,
}

/// What the line does when tried.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct Probe {
    /// Median round trip of small packets, milliseconds.
    pub(crate) rtt_ms: f64,
    /// The 95th percentile of it.
    pub(crate) rtt_p95_ms: f64,
    /// Throughput of one TCP stream in its last two seconds of five, Mbit/s of payload.
    pub(crate) tcp_mbit: f64,
}

/// A running line.
#[derive(Debug)]
pub(crate) struct Wan {
    /// The near side: the source.
    pub(crate) near: NetNs,
    /// The far side: the target.
    pub(crate) far: NetNs,
    there: Arc<Mutex<Link>>,
    back: Arc<Mutex<Link>>,
}

impl Wan {
    /// Makes both namespaces and starts the relay; its threads end with the devices.
    pub(crate) fn start(config: LineConfig, janitor: &Janitor) -> Result<Self, BenchError> {
        let prefix = format!("farbench{}", std::process::id());
        let near = NetNs::create(&format!("{prefix}a"), janitor)?;
        let far = NetNs::create(&format!("{prefix}b"), janitor)?;
        let device_a = near.enter(|| tun::open(DEVICE))?;
        let device_b = far.enter(|| tun::open(DEVICE))?;
        for (place, address) in [(&near, ADDRESS_A), (&far, ADDRESS_B)] {
            let name = place.name();
            run_ip(&["-n", name, "addr", "add", &format!("{address}/24"), "dev", DEVICE])?;
            let (mtu, queue) = (MTU.to_string(), DEVICE_QUEUE);
            let set = ["-n", name, "link", "set", DEVICE, "mtu", &mtu, "txqueuelen", queue, "up"];
            run_ip(&set)?;
        }
        let rtt_ns = u64::try_from(config.rtt.as_nanos()).unwrap_or(u64::MAX);
        let direction = |number| {
            let seed = mix(config.seed, number);
            let link = LinkConfig::new(rtt_ns, config.rate_bits, config.loss, seed);
            Arc::new(Mutex::new(Link::new(link)))
        };
        let (there, back) = (direction(1), direction(2));
        relay(&device_a, &device_b, &there)?;
        relay(&device_b, &device_a, &back)?;
        Ok(Self { near, far, there, back })
    }

    /// Chooses the TCP congestion control of both ends.
    pub(crate) fn set_congestion(&self, name: &str) -> Result<(), BenchError> {
        for place in [&self.near, &self.far] {
            place.set_congestion(&["10.77.0.0/24", "dev", DEVICE], name)?;
        }
        Ok(())
    }

    /// What passed in each direction since the start: towards the target, and back.
    pub(crate) fn counts(&self) -> (LinkCounts, LinkCounts) {
        let read =
            |link: &Mutex<Link>| link.lock().unwrap_or_else(PoisonError::into_inner).counts();
        (read(&self.there), read(&self.back))
    }

    /// Measures the line itself: round trips of small packets, and one TCP stream.
    pub(crate) fn probe(&self) -> Result<Probe, BenchError> {
        let mut times = self.probe_round_trips(40)?;
        times.sort();
        let at = |share: usize| {
            let index = (times.len() * share / 100).min(times.len().saturating_sub(1));
            times.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
        };
        let tcp_mbit = self.probe_stream(Duration::from_secs(5))?;
        Ok(Probe { rtt_ms: at(50), rtt_p95_ms: at(95), tcp_mbit })
    }

    fn probe_round_trips(&self, count: u64) -> Result<Vec<Duration>, BenchError> {
        let what = Path::new("udp probe");
        let bind = |place: &NetNs, address| {
            place.enter(|| UdpSocket::bind((IpAddr::V4(address), 7_007)).at("bind", what))
        };
        let (near, far) = (bind(&self.near, ADDRESS_A)?, bind(&self.far, ADDRESS_B)?);
        let patience = Some(Duration::from_secs(2));
        near.set_read_timeout(patience).at("set up", what)?;
        far.set_read_timeout(patience).at("set up", what)?;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut buffer = [0; 64];
                while let Ok((size, from)) = far.recv_from(&mut buffer) {
                    if size == 1 || far.send_to(&buffer[..size], from).is_err() {
                        break;
                    }
                }
            });
            let mut times = Vec::new();
            let mut buffer = [0; 64];
            for _ in 0..count {
                let started = Instant::now();
                near.send_to(&[1; 56], (ADDRESS_B, 7_007)).at("send", what)?;
                // A lost packet is left out: this is a figure of delay.
                if near.recv_from(&mut buffer).is_ok() {
                    times.push(started.elapsed());
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            near.send_to(&[0], (ADDRESS_B, 7_007)).at("send", what)?;
            Ok(times)
        })
    }

    fn probe_stream(&self, length: Duration) -> Result<f64, BenchError> {
        let what = Path::new("tcp probe");
        let address = SocketAddr::from((ADDRESS_B, 7_008));
        let listener = self.far.enter(|| TcpListener::bind(address).at("bind", what))?;
        std::thread::scope(|scope| {
            let receiver = scope.spawn(move || -> std::io::Result<f64> {
                let (mut stream, _) = listener.accept()?;
                let mut buffer = vec![0; 1 << 18];
                let (mut counted, started) = (0, Instant::now());
                let warm = length - Duration::from_secs(2);
                let mut last = Duration::from_secs(1);
                loop {
                    let count = stream.read(&mut buffer)?;
                    let at = started.elapsed();
                    if at > warm {
                        counted += len_u64(count);
                        last = at;
                    }
                    if count == 0 || at > length {
                        return Ok(to_f64(counted) * 8.0 / (last - warm).as_secs_f64() / 1e6);
                    }
                }
            });
            let mut stream = self.near.enter(|| TcpStream::connect(address).at("connect", what))?;
            let (block, started) = (vec![7u8; 1 << 16], Instant::now());
            // An error here is the receiver hanging up at its end.
            while started.elapsed() < length + Duration::from_secs(1) {
                if stream.write_all(&block).is_err() {
                    break;
                }
            }
            drop(stream);
            let failed = || Err(std::io::Error::other("the receiver panicked"));
            receiver.join().unwrap_or_else(|_| failed()).at("receive", what)
        })
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        // Without its device a reader gets an error and ends.
        for place in [&self.near, &self.far] {
            run_ip(&["-n", place.name(), "link", "del", DEVICE]).ok();
        }
    }
}

type Packet = (u64, Vec<u8>);

/// Starts the two threads of one direction.
fn relay(from: &File, to: &File, link: &Arc<Mutex<Link>>) -> Result<(), BenchError> {
    let device = Path::new(DEVICE);
    let from = from.try_clone().at("share", device)?;
    let to = to.try_clone().at("share", device)?;
    let link = Arc::clone(link);
    // Bounded by the link: what waits is its queue and what is on its way.
    let (sender, receiver) = unbounded();
    std::thread::spawn(move || read_packets(from, &link, &sender));
    std::thread::spawn(move || write_packets(to, &receiver));
    Ok(())
}

fn read_packets(mut from: File, link: &Mutex<Link>, sender: &Sender<Packet>) {
    hurry();
    let mut buffer = vec![0; 65_536];
    while let Ok(size) = from.read(&mut buffer) {
        let now = now_ns();
        let offered = link.lock().unwrap_or_else(PoisonError::into_inner).offer(now, len_u64(size));
        if let Some(due) = offered
            && sender.send((due, buffer[..size].to_vec())).is_err()
        {
            break;
        }
    }
}

fn write_packets(mut to: File, receiver: &Receiver<Packet>) {
    hurry();
    let mut now = now_ns();
    while let Ok((due, packet)) = receiver.recv() {
        if due > now {
            now = now_ns();
        }
        if due > now {
            sleep_until(due + GATHER_NS);
            now = now_ns();
        }
        // The device may be gone, or the packet not to its liking: then it is lost, as on any line.
        to.write_all(&packet).ok();
    }
}

/// Puts the calling thread before the tools it carries packets for, where that is allowed.
fn hurry() {
    rustix::process::setpriority_process(Some(rustix::thread::gettid()), -20).ok();
    rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1_000)).ok();
}

fn now_ns() -> u64 {
    let now = clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

fn sleep_until(due_ns: u64) {
    let due = Timespec {
        tv_sec: i64::try_from(due_ns / 1_000_000_000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(due_ns % 1_000_000_000).unwrap_or(0),
    };
    while clock_nanosleep_absolute(ClockId::Monotonic, &due) == Err(rustix::io::Errno::INTR) {}
}

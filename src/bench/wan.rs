//! A long line in user space: two namespaces joined by a relay between two TUN devices.
//!
//! Guarantees: delay, rate, queue and loss of [`link`] in each direction, with the losses a function of
//! the seed and of the order of packets; packets are never early, and late by a fraction of a
//! millisecond unless the machine is overloaded (measure with [`Wan::probe`]). Refuses to run without
//! root. The relay's own CPU time is not part of any figure of the tools.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use rustix::thread::{ClockId, clock_nanosleep_absolute};
use rustix::time::{Timespec, clock_gettime};

mod flights;
pub(crate) mod link;
mod probe;
mod tun;

use crate::bench::janitor::Janitor;
use crate::bench::measure::netns::{NetNs, run_ip};
use crate::bench::rng::{len_u64, mix, to_f64};
use crate::bench::{BenchError, Context};
use flights::{Flights, Stamp};
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
/// A full packet by the payload of its datagram.
pub(crate) const PACKET_PER_PAYLOAD: f64 = 1_500.0 / 1_472.0;

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

/// What one conversation used of the line.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub(crate) struct LineUse {
    /// Towards the target.
    pub(crate) there: LinkCounts,
    /// Back.
    pub(crate) back: LinkCounts,
    /// Round trips in the longest chain of answers: an upper bound of those it waited for.
    pub(crate) round_trips: f64,
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
    flights: Arc<Flights>,
    pub(crate) config: LineConfig,
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
        let flights = Arc::new(Flights::default());
        relay((&device_a, 0), (&device_b, 1), &there, &flights)?;
        relay((&device_b, 1), (&device_a, 0), &back, &flights)?;
        Ok(Self { near, far, there, back, flights, config })
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

    /// Begins the count of one conversation.
    pub(crate) fn start_count(&self) -> (LinkCounts, LinkCounts) {
        self.flights.restart();
        self.counts()
    }

    /// What passed since, and in how many trips.
    pub(crate) fn since(&self, before: &(LinkCounts, LinkCounts)) -> LineUse {
        let (there, back) = self.counts();
        let round_trips = to_f64(self.flights.longest()) / 2.0;
        LineUse { there: there.since(before.0), back: back.since(before.1), round_trips }
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

type Packet = (u64, Stamp, Vec<u8>);

/// Starts the two threads of one direction: from a device and its side to another.
fn relay(
    from: (&File, usize),
    to: (&File, usize),
    link: &Arc<Mutex<Link>>,
    flights: &Arc<Flights>,
) -> Result<(), BenchError> {
    let device = Path::new(DEVICE);
    let (near, far) = (from.1, to.1);
    let from = from.0.try_clone().at("share", device)?;
    let to = to.0.try_clone().at("share", device)?;
    let (link, sent, arrived) = (Arc::clone(link), Arc::clone(flights), Arc::clone(flights));
    // Bounded by the link: what waits is its queue and what is on its way.
    let (sender, receiver) = unbounded();
    std::thread::spawn(move || {
        read_packets(from, &link, &sender, |packet| sent.sent(near, packet));
    });
    std::thread::spawn(move || write_packets(to, &receiver, |stamp| arrived.arrived(far, stamp)));
    Ok(())
}

fn read_packets(
    mut from: File,
    link: &Mutex<Link>,
    sender: &Sender<Packet>,
    sent: impl Fn(&[u8]) -> Stamp,
) {
    hurry();
    let mut buffer = vec![0; 65_536];
    while let Ok(size) = from.read(&mut buffer) {
        let now = now_ns();
        let stamp = sent(&buffer[..size]);
        let offered = link.lock().unwrap_or_else(PoisonError::into_inner).offer(now, len_u64(size));
        if let Some(due) = offered
            && sender.send((due, stamp, buffer[..size].to_vec())).is_err()
        {
            break;
        }
    }
}

fn write_packets(mut to: File, receiver: &Receiver<Packet>, arrived: impl Fn(Stamp)) {
    hurry();
    let mut now = now_ns();
    while let Ok((due, stamp, packet)) = receiver.recv() {
        if due > now {
            now = now_ns();
        }
        if due > now {
            sleep_until(due + GATHER_NS);
            now = now_ns();
        }
        // Before the write: what answers the packet must be counted as an answer.
        arrived(stamp);
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

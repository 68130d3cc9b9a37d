//! Tries what the emulated line does: round trip, one TCP stream, full datagrams.
//!
//! Guarantees: only the line's own namespaces carry the traffic, and all of it is over when a probe
//! returns. Refuses to guess: what did not arrive is not in the figures.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use super::{ADDRESS_A, ADDRESS_B, Wan};
use crate::bench::measure::netns::NetNs;
use crate::bench::rng::{len_u64, to_f64};
use crate::bench::{BenchError, Context};

/// UDP payload of a packet of 1,500 bytes.
const DATAGRAM: usize = 1_472;

/// What the line does when tried.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct Probe {
    /// Median round trip of small packets, milliseconds.
    pub(crate) rtt_ms: f64,
    /// The 95th percentile of it.
    pub(crate) rtt_p95_ms: f64,
    /// Throughput of one TCP stream in its last two seconds of five, Mbit/s of payload.
    pub(crate) tcp_mbit: f64,
    /// Payload of full UDP datagrams sent faster than the line takes them, Mbit/s: what any transport
    /// could carry at most. None on a line without a limit.
    pub(crate) udp_mbit: Option<f64>,
}

impl std::fmt::Display for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let udp = self.udp_mbit.map_or("not measured".to_owned(), |mbit| format!("{mbit:.1}"));
        write!(
            f,
            "round trip {:.1} ms (95 %: {:.1}), one TCP stream {:.0} Mbit/s, full datagrams {udp} Mbit/s of payload",
            self.rtt_ms, self.rtt_p95_ms, self.tcp_mbit
        )
    }
}

impl Wan {
    /// Measures the line itself: round trips of small packets, and one TCP stream.
    pub(crate) fn probe(&self) -> Result<Probe, BenchError> {
        let mut times = self.probe_round_trips(40)?;
        times.sort();
        let at = |share: usize| {
            let index = (times.len() * share / 100).min(times.len().saturating_sub(1));
            times.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
        };
        let tcp_mbit = self.probe_stream(Duration::from_secs(5))?;
        let udp_mbit = self.probe_rate(Duration::from_secs(2))?;
        Ok(Probe { rtt_ms: at(50), rtt_p95_ms: at(95), tcp_mbit, udp_mbit })
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

    /// Sends full datagrams a tenth faster than the line's rate; the rate at which they arrive.
    fn probe_rate(&self, length: Duration) -> Result<Option<f64>, BenchError> {
        if self.config.rate_bits == 0 {
            return Ok(None);
        }
        let what = Path::new("udp rate probe");
        let address = SocketAddr::from((ADDRESS_B, 7_009));
        let far = self.far.enter(|| UdpSocket::bind(address).at("bind", what))?;
        let near = self.near.enter(|| UdpSocket::bind((ADDRESS_A, 0)).at("bind", what))?;
        far.set_read_timeout(Some(self.config.rtt + Duration::from_secs(1))).at("set up", what)?;
        let rate = 1.1 * to_f64(self.config.rate_bits) / 8.0;
        std::thread::scope(|scope| {
            let receiver = scope.spawn(|| {
                let mut buffer = [0; DATAGRAM];
                let (mut first, mut last, mut bytes) = (None, Instant::now(), 0);
                while let Ok(size) = far.recv(&mut buffer) {
                    last = Instant::now();
                    // The clock starts with the first: its own sending time is not in the figure.
                    if first.is_some() {
                        bytes += len_u64(size);
                    }
                    first.get_or_insert(last);
                }
                first.map(|first| to_f64(bytes) * 8.0 / (last - first).as_secs_f64() / 1e6)
            });
            let (started, mut sent) = (Instant::now(), 0.0);
            while started.elapsed() < length {
                while sent < rate * started.elapsed().as_secs_f64() {
                    near.send_to(&[7; DATAGRAM], address).at("send", what)?;
                    sent += to_f64(len_u64(DATAGRAM));
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            receiver.join().map_err(|_| BenchError::Panicked { step: "receive datagrams" })
        })
    }
}

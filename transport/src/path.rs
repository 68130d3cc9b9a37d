//! How large a datagram may be on one connection's path, and when larger ones are tried.
//!
//! Guarantees: what the kernel says about the route bounds every datagram; a path that never leaves
//! this machine uses its full size from the first packet and is not probed at all; on any other path
//! nothing larger than what the peer acknowledged is sent before bulk data flows, and then at most
//! [`PROBES_MAX`] probes per [`REPROBE_AFTER`]. It refuses probes by not sending them: to QUIC they
//! are lost probes, which it never takes for congestion. Nothing survives a crash.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::net::sockopt;

use crate::config::{DATAGRAM_BYTES_MIN, TransportConfig};

/// Probes sent between two openings of the gate. A search that meets the worst path takes 16.
const PROBES_MAX: u32 = 32;
/// When a path that carries bulk is tried anew: it may have changed.
const REPROBE_AFTER: Duration = Duration::from_secs(600);
/// Routes above it lead to the loopback device: no other may have a larger MTU.
const DEVICE_MTU_MAX: u32 = 65_535;
const IPV4_HEADERS_BYTES: u32 = 28;
const IPV6_HEADERS_BYTES: u32 = 48;

/// What is known of a path before anything is sent on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PathMtu {
    /// Size of the first datagrams.
    pub(crate) initial: u16,
    /// Largest size worth trying.
    pub(crate) upper: u16,
}

impl PathMtu {
    /// The path to `peer`.
    pub(crate) fn to(peer: SocketAddr, config: &TransportConfig) -> Self {
        let headers = match peer.ip().to_canonical() {
            IpAddr::V4(_) => IPV4_HEADERS_BYTES,
            IpAddr::V6(_) => IPV6_HEADERS_BYTES,
        };
        // Without a route nothing will be sent; the dial reports that.
        route_mtu(peer).map_or_else(
            |_| Self::unknown(config),
            |mtu| Self::of_route(mtu, headers, config.datagram_bytes()),
        )
    }

    /// A path the kernel says nothing of.
    pub(crate) fn unknown(config: &TransportConfig) -> Self {
        Self { initial: DATAGRAM_BYTES_MIN, upper: config.datagram_bytes() }
    }

    fn of_route(mtu: u32, headers: u32, bound: u16) -> Self {
        let fits = u16::try_from(mtu.saturating_sub(headers)).unwrap_or(u16::MAX);
        let upper = fits.min(bound).max(DATAGRAM_BYTES_MIN);
        let initial = if mtu > DEVICE_MTU_MAX { upper } else { DATAGRAM_BYTES_MIN };
        Self { initial, upper }
    }

    /// Whether nothing is left to find out.
    pub(crate) const fn is_certain(self) -> bool {
        self.initial == self.upper
    }
}

/// The MTU of the route to `peer`: its device's, or less where the kernel was told so.
fn route_mtu(peer: SocketAddr) -> io::Result<u32> {
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let socket = UdpSocket::bind(SocketAddr::new(unspecified_like(peer), 0))?;
    // Sends nothing.
    socket.connect(peer)?;
    Ok(match peer {
        SocketAddr::V4(_) => sockopt::ip_mtu(&socket)?,
        SocketAddr::V6(_) => sockopt::ipv6_mtu(&socket)?,
    })
}

/// Any address of the family of `addr`.
pub(crate) const fn unspecified_like(addr: SocketAddr) -> IpAddr {
    match addr {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// Keeps the probes of one connection back until it carries bulk.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) mtu: PathMtu,
    /// The largest datagram the connection may fill with data; anything larger is a probe.
    confirmed: AtomicUsize,
    budget: Mutex<Budget>,
    unsent_bytes: AtomicU64,
}

#[derive(Debug)]
struct Budget {
    probes_left: u32,
    /// When probes were last granted; never before the first bulk stream.
    granted_at: Option<Instant>,
}

impl Gate {
    pub(crate) fn new(mtu: PathMtu) -> Arc<Self> {
        Arc::new(Self {
            mtu,
            confirmed: AtomicUsize::new(usize::from(mtu.initial)),
            budget: Mutex::new(Budget { probes_left: 0, granted_at: None }),
            unsent_bytes: AtomicU64::new(0),
        })
    }

    /// A bulk stream is opened at this end.
    pub(crate) fn bulk_begins(&self) {
        let mut budget = lock(&self.budget);
        if budget.granted_at.is_none() {
            budget.grant(Instant::now());
        }
    }

    /// The connection's datagrams are of this size from now on.
    pub(crate) fn confirm(&self, mtu: u16) {
        let mtu = usize::from(mtu);
        let before = self.confirmed.swap(mtu, Ordering::Relaxed);
        let mut budget = lock(&self.budget);
        if mtu < before && budget.granted_at.is_some() {
            // The path changed for the worse; what it carries must be found out again.
            budget.grant(Instant::now());
        }
    }

    /// Whether a single datagram of `bytes` may be sent; counts it against the budget if it is a
    /// probe, and as not sent if not.
    pub(crate) fn admits(&self, bytes: usize, now: Instant) -> bool {
        if bytes <= self.confirmed.load(Ordering::Relaxed) {
            return true;
        }
        let mut budget = lock(&self.budget);
        if budget.granted_at.is_some_and(|granted| now.duration_since(granted) >= REPROBE_AFTER) {
            budget.grant(now);
        }
        match budget.probes_left.checked_sub(1) {
            Some(left) => {
                budget.probes_left = left;
                true
            }
            None => {
                self.not_sent(bytes);
                false
            }
        }
    }

    /// Counts what QUIC takes for sent and the network never saw.
    pub(crate) fn not_sent(&self, bytes: usize) {
        self.unsent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// All that was counted so.
    pub(crate) fn unsent_bytes(&self) -> u64 {
        self.unsent_bytes.load(Ordering::Relaxed)
    }
}

impl Budget {
    const fn grant(&mut self, now: Instant) {
        self.probes_left = PROBES_MAX;
        self.granted_at = Some(now);
    }
}

/// The gates of the connections on one socket, by the peer's address. A peer whose address changes
/// is not gated from then on.
#[derive(Debug, Default)]
pub(crate) struct Gates(Mutex<HashMap<(IpAddr, u16), Arc<Gate>>>);

impl Gates {
    pub(crate) fn get(&self, peer: SocketAddr) -> Option<Arc<Gate>> {
        lock(&self.0).get(&name(peer)).cloned()
    }

    /// Puts `gate` before `peer` for as long as the pass lives.
    pub(crate) fn set(self: &Arc<Self>, peer: SocketAddr, gate: &Arc<Gate>) -> GatePass {
        lock(&self.0).insert(name(peer), Arc::clone(gate));
        GatePass { gates: Arc::clone(self), peer, gate: Arc::clone(gate) }
    }
}

/// Takes its gate away again when dropped.
#[derive(Debug)]
pub(crate) struct GatePass {
    gates: Arc<Gates>,
    peer: SocketAddr,
    pub(crate) gate: Arc<Gate>,
}

impl Drop for GatePass {
    fn drop(&mut self) {
        let mut gates = lock(&self.gates.0);
        // A newer connection of the same peer may have put its own there.
        if gates.get(&name(self.peer)).is_some_and(|gate| Arc::ptr_eq(gate, &self.gate)) {
            gates.remove(&name(self.peer));
        }
    }
}

fn name(peer: SocketAddr) -> (IpAddr, u16) {
    (peer.ip().to_canonical(), peer.port())
}

/// A panic elsewhere leaves these values whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Instant};

    use super::{
        Gate, Gates, IPV4_HEADERS_BYTES, IPV6_HEADERS_BYTES, PROBES_MAX, PathMtu, REPROBE_AFTER,
    };
    use crate::config::TransportConfig;

    const ETHERNET: PathMtu = PathMtu { initial: 1_200, upper: 1_472 };

    #[test]
    fn the_route_bounds_the_datagram() {
        for (route, bound, initial, upper) in [
            (65_536, 65_507, 65_507, 65_507),
            (65_536, 8_952, 8_952, 8_952),
            (65_535, 65_507, 1_200, 65_507),
            (9_000, 65_507, 1_200, 8_972),
            (9_000, 8_952, 1_200, 8_952),
            (1_500, 8_952, 1_200, 1_472),
            (576, 8_952, 1_200, 1_200),
            (u32::MAX, 1_300, 1_300, 1_300),
        ] {
            let found = PathMtu::of_route(route, IPV4_HEADERS_BYTES, bound);
            assert_eq!(found, PathMtu { initial, upper }, "{route} {bound}");
        }
        assert_eq!(PathMtu::of_route(65_536, IPV6_HEADERS_BYTES, 65_507).initial, 65_488);
    }

    #[test]
    fn the_loopback_device_is_certain_and_a_path_without_a_route_is_not() {
        let config = TransportConfig::loopback();
        for (peer, certain) in [("127.0.0.1:9", true), ("[::ffff:127.0.0.1]:9", true)] {
            let found = PathMtu::to(peer.parse().expect("address"), &config);
            assert_eq!(found.is_certain(), certain, "{peer}: {found:?}");
        }
        assert!(!PathMtu::unknown(&config).is_certain());
    }

    #[test]
    fn probes_pass_after_bulk_began_and_not_for_ever() {
        let gate = Gate::new(ETHERNET);
        let began = Instant::now();
        assert!(gate.admits(1_200, began));
        assert!(!gate.admits(1_336, began));
        assert_eq!(gate.unsent_bytes(), 1_336);
        gate.bulk_begins();
        for _ in 0..PROBES_MAX {
            assert!(gate.admits(1_336, began));
        }
        gate.bulk_begins();
        assert!(!gate.admits(1_472, began));
        // Full datagrams are none.
        gate.confirm(1_472);
        assert!(gate.admits(1_472, began));
        // The path shrank, as if black: it is searched again.
        gate.confirm(1_200);
        for _ in 0..PROBES_MAX {
            assert!(gate.admits(1_336, began));
        }
        assert!(!gate.admits(1_336, began));
        assert!(gate.admits(1_336, Instant::now() + REPROBE_AFTER));
        assert_eq!(gate.unsent_bytes(), 1_336 + 1_472 + 1_336);
    }

    #[test]
    fn a_path_that_shrinks_before_bulk_stays_closed() {
        let gate = Gate::new(PathMtu { initial: 8_952, upper: 8_952 });
        gate.confirm(1_200);
        assert!(!gate.admits(8_952, Instant::now()));
    }

    #[test]
    fn a_gate_stands_until_its_pass_or_a_newer_one_is_there() {
        let gates = Arc::new(Gates::default());
        let peer = "[::ffff:192.0.2.1]:7".parse().expect("address");
        let (first, second) = (Gate::new(ETHERNET), Gate::new(ETHERNET));
        let first_pass = gates.set(peer, &first);
        let plain = "192.0.2.1:7".parse().expect("address");
        assert!(gates.get(plain).is_some_and(|gate| Arc::ptr_eq(&gate, &first)));
        let second_pass = gates.set(plain, &second);
        drop(first_pass);
        assert!(gates.get(peer).is_some_and(|gate| Arc::ptr_eq(&gate, &second)));
        drop(second_pass);
        assert!(gates.get(peer).is_none());
    }
}

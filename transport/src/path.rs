//! How large a datagram may be on one connection's path, and when larger ones are tried.
//!
//! Guarantees: what the kernel says about the route bounds every datagram; a path that never leaves
//! this machine uses its full size from the first packet and is not probed at all; on any other path
//! nothing larger than what the peer acknowledged is sent before bulk data flows or is announced by a train, and then at most
//! [`PROBES_MAX`] probes per [`REPROBE_AFTER`]. It refuses probes by not sending them: to QUIC they
//! are lost probes, which it never takes for congestion. Nothing survives a crash.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::net::sockopt;

use crate::config::{DATAGRAM_BYTES_MIN, TransportConfig};

/// Probes sent between two openings of the gate. A search that meets the worst path takes 16.
const PROBES_MAX: u32 = 32;
/// When a path that carries bulk is tried anew: it may have changed.
const REPROBE_AFTER: Duration = Duration::from_secs(600);
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
        Route::to(peer).map_or_else(
            |_| Self::unknown(config),
            |route| Self::of_route(route, headers, config.datagram_bytes()),
        )
    }

    /// A path the kernel says nothing of.
    pub(crate) fn unknown(config: &TransportConfig) -> Self {
        Self { initial: DATAGRAM_BYTES_MIN, upper: config.datagram_bytes() }
    }

    fn of_route(route: Route, headers: u32, bound: u16) -> Self {
        let fits = u16::try_from(route.mtu.saturating_sub(headers)).unwrap_or(u16::MAX);
        let upper = fits.min(bound).max(DATAGRAM_BYTES_MIN);
        let initial = if route.is_local { upper } else { DATAGRAM_BYTES_MIN };
        Self { initial, upper }
    }

    /// Whether nothing is left to find out.
    pub(crate) const fn is_certain(self) -> bool {
        self.initial == self.upper
    }
}

/// The kernel's word on how to reach a peer.
#[derive(Debug, Clone, Copy)]
struct Route {
    /// The device's MTU, or less where the kernel was told so.
    mtu: u32,
    /// It ends on this machine: the device is the whole path.
    is_local: bool,
}

impl Route {
    fn to(peer: SocketAddr) -> io::Result<Self> {
        let peer = match peer {
            SocketAddr::V6(_) if peer.ip().to_canonical().is_ipv4() => {
                SocketAddr::new(peer.ip().to_canonical(), peer.port())
            }
            // As it is: a link-local address needs its scope.
            _ => peer,
        };
        let socket = UdpSocket::bind(SocketAddr::new(unspecified_like(peer), 0))?;
        // Sends nothing.
        socket.connect(peer)?;
        let mtu = match peer {
            SocketAddr::V4(_) => sockopt::ip_mtu(&socket)?,
            SocketAddr::V6(_) => sockopt::ipv6_mtu(&socket)?,
        };
        // To an address of this machine the kernel goes from that same address.
        let is_local = peer.ip().is_loopback() || socket.local_addr()?.ip() == peer.ip();
        Ok(Self { mtu, is_local })
    }
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
    has_bulk: AtomicBool,
}

#[derive(Debug)]
struct Budget {
    probes_left: u32,
    /// When probes were last granted; never before bulk begins.
    granted_at: Option<Instant>,
}

impl Gate {
    pub(crate) fn new(mtu: PathMtu) -> Arc<Self> {
        Arc::new(Self {
            mtu,
            confirmed: AtomicUsize::new(usize::from(mtu.initial)),
            budget: Mutex::new(Budget { probes_left: 0, granted_at: None }),
            unsent_bytes: AtomicU64::new(0),
            has_bulk: AtomicBool::new(false),
        })
    }

    /// A bulk stream is opened at this end, or a train leaves ahead of it.
    pub(crate) fn bulk_begins(&self) {
        self.has_bulk.store(true, Ordering::Relaxed);
        let mut budget = lock(&self.budget);
        if budget.granted_at.is_none() {
            budget.grant(Instant::now());
        }
    }

    /// Whether bulk has begun at this end.
    pub(crate) fn has_bulk(&self) -> bool {
        self.has_bulk.load(Ordering::Relaxed)
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

    /// Whether a datagram of `bytes` may be sent; one that is a probe is taken off the budget.
    fn admits(&self, bytes: usize, now: Instant) -> bool {
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
            None => false,
        }
    }

    /// Bytes QUIC takes for sent and the network never saw.
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

/// The gates of the connections on one socket, by the peer's address. Whoever claims the address of
/// a peer cannot hold that peer's data back: any of its gates lets a datagram pass.
#[derive(Debug, Default)]
pub(crate) struct Gates(Mutex<HashMap<PeerName, Vec<Arc<Gate>>>>);

/// A peer's address, the same for both ways to write an IPv4 one.
type PeerName = (IpAddr, u16);

impl Gates {
    /// Whether a single datagram of `bytes` may be sent to `peer`; if not, it is counted as not sent.
    pub(crate) fn admit(&self, peer: SocketAddr, bytes: usize) -> bool {
        let gates = lock(&self.0);
        let Some(gates) = gates.get(&name(peer)) else { return true };
        let now = Instant::now();
        let admitted = gates.iter().any(|gate| gate.admits(bytes, now));
        if !admitted {
            count_unsent(gates, bytes);
        }
        admitted
    }

    /// Counts what the kernel did not take.
    pub(crate) fn not_sent(&self, peer: SocketAddr, bytes: usize) {
        if let Some(gates) = lock(&self.0).get(&name(peer)) {
            count_unsent(gates, bytes);
        }
    }

    /// Puts `gate` before `peer` for as long as the pass lives.
    pub(crate) fn set(self: &Arc<Self>, peer: SocketAddr, gate: &Arc<Gate>) -> GatePass {
        lock(&self.0).entry(name(peer)).or_default().push(Arc::clone(gate));
        GatePass { gates: Arc::clone(self), peer, gate: Arc::clone(gate) }
    }
}

/// For all: which of them it was for cannot be told, and almost always there is one.
fn count_unsent(gates: &[Arc<Gate>], bytes: usize) {
    for gate in gates {
        gate.unsent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Takes its gate away again when dropped.
#[derive(Debug)]
pub(crate) struct GatePass {
    gates: Arc<Gates>,
    peer: SocketAddr,
    gate: Arc<Gate>,
}

impl GatePass {
    /// Whether bulk has begun.
    pub(crate) fn has_bulk(&self) -> bool {
        self.gate.has_bulk()
    }

    /// A bulk stream to the peer, now at this address, is opened at this end, or what is sent in its place to learn of
    /// the line.
    pub(crate) fn bulk_begins(&mut self, peer: SocketAddr) {
        if name(peer) != name(self.peer) {
            *self = self.gates.set(peer, &self.gate);
        }
        self.gate.bulk_begins();
    }

    /// See [`Gate::unsent_bytes`].
    pub(crate) fn unsent_bytes(&self) -> u64 {
        self.gate.unsent_bytes()
    }
}

impl Drop for GatePass {
    fn drop(&mut self) {
        let mut gates = lock(&self.gates.0);
        let Some(here) = gates.get_mut(&name(self.peer)) else { return };
        here.retain(|gate| !Arc::ptr_eq(gate, &self.gate));
        if here.is_empty() {
            gates.remove(&name(self.peer));
        }
    }
}

fn name(peer: SocketAddr) -> PeerName {
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
        Route,
    };
    use crate::config::TransportConfig;

    const ETHERNET: PathMtu = PathMtu { initial: 1_200, upper: 1_472 };

    #[test]
    fn the_route_bounds_the_datagram() {
        for (mtu, is_local, bound, initial, upper) in [
            (65_535, true, 65_507, 65_507, 65_507),
            (65_535, true, 8_952, 8_952, 8_952),
            (65_535, false, 65_507, 1_200, 65_507),
            (9_000, false, 65_507, 1_200, 8_972),
            (9_000, false, 8_952, 1_200, 8_952),
            (1_500, false, 8_952, 1_200, 1_472),
            (1_500, true, 8_952, 1_472, 1_472),
            (576, true, 8_952, 1_200, 1_200),
            (u32::MAX, true, 1_300, 1_300, 1_300),
        ] {
            let found = PathMtu::of_route(Route { mtu, is_local }, IPV4_HEADERS_BYTES, bound);
            assert_eq!(found, PathMtu { initial, upper }, "{mtu} {is_local} {bound}");
        }
        let v6 = Route { mtu: 65_536, is_local: true };
        assert_eq!(PathMtu::of_route(v6, IPV6_HEADERS_BYTES, 65_507).initial, 65_488);
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
        gate.bulk_begins();
        for _ in 0..PROBES_MAX {
            assert!(gate.admits(1_336, began));
        }
        gate.bulk_begins();
        assert!(!gate.admits(1_472, began));
        // Full datagrams are none.
        gate.confirm(1_472);
        assert!(gate.admits(1_472, began));
        // The path shrank: it is searched again.
        gate.confirm(1_200);
        for _ in 0..PROBES_MAX {
            assert!(gate.admits(1_336, began));
        }
        assert!(!gate.admits(1_336, began));
        assert!(gate.admits(1_336, Instant::now() + REPROBE_AFTER));
    }

    #[test]
    fn a_path_that_shrinks_before_bulk_stays_closed() {
        let gate = Gate::new(PathMtu { initial: 8_952, upper: 8_952 });
        gate.confirm(1_200);
        assert!(!gate.admits(8_952, Instant::now()));
    }

    #[test]
    fn gates_stand_before_their_peer_while_their_pass_lives() {
        let gates = Arc::new(Gates::default());
        let mapped = "[::ffff:192.0.2.1]:7".parse().expect("address");
        let plain = "192.0.2.1:7".parse().expect("address");
        let other = "192.0.2.1:8".parse().expect("address");
        let mut pass = gates.set(mapped, &Gate::new(ETHERNET));
        assert!(!gates.admit(plain, 1_300));
        assert!(gates.admit(other, 1_300));
        pass.gate.confirm(1_472);
        // Somebody claims the same address and is not through yet.
        let claimed = gates.set(plain, &Gate::new(ETHERNET));
        assert!(gates.admit(plain, 1_472));
        drop(claimed);
        assert!(!gates.admit(plain, 1_473));
        assert_eq!(pass.unsent_bytes(), 1_300 + 1_473);
        // The peer moves.
        pass.bulk_begins(other);
        assert!(gates.admit(other, 1_473));
        gates.not_sent(plain, 1);
        gates.not_sent(other, 1);
        assert_eq!(pass.unsent_bytes(), 1_300 + 1_473 + 1);
        drop(pass);
        assert!(gates.0.lock().expect("lock").is_empty());
    }
}

//! Every bound and timer of an endpoint, with its reason.
//!
//! Guarantees that all limits are local: a peer may ask for less, never for more. It refuses values
//! quinn would refuse by bringing them into range, which each field documents. Nothing survives a
//! crash.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use quinn::{IdleTimeout, VarInt};

use crate::{
    congestion::{self, Closing},
    path::Gate,
};

/// Largest UDP payload over IPv4, and our largest datagram.
pub const DATAGRAM_BYTES_MAX: u16 = 65_507;
/// Smallest datagram QUIC allows.
pub(crate) const DATAGRAM_BYTES_MIN: u16 = 1_200;
/// Where a search for a larger datagram stops. Fine enough for a tunnel's share, coarse enough that
/// a search takes few probes.
const DISCOVERY_STEP_BYTES: u16 = 128;
/// How soon a search begins anew. Probes are held back until bulk flows and look lost to QUIC, so
/// this is also how long a link stays at small datagrams once it does.
const DISCOVERY_INTERVAL: Duration = Duration::from_millis(50);
/// Within this machine no device can have shrunk: what looked so was an overflowing buffer.
const LOCAL_BLACK_HOLE_COOLDOWN: Duration = Duration::from_secs(1);
/// What quinn-proto counts besides for each QUIC datagram that it keeps; one beyond its buffer with that ends the
/// connection, although without it the peer was told that it fits.
const DATAGRAM_BOOKKEEPING_BYTES: usize = 64;
/// Payload of a 9,000-byte Ethernet frame, headers and a tunnel's share taken off.
const DATAGRAM_BYTES_JUMBO: u16 = 8_952;

/// Pieces of one stream that quinn-proto keeps apart while others between them are missing; one more
/// ends the connection ("too many gaps in stream buffer").
const STREAM_PIECES_MAX: u32 = 1_024;
/// Stream bytes in the smallest full datagram, headers and tag taken off.
const STREAM_BYTES_PER_DATAGRAM_MIN: u32 = 1_160;
/// Window of one stream on a line that loses packets. At worst every second datagram of it is missing,
/// as where a sender starts at twice the rate of a short queue: the pieces must stay few enough. At
/// 80 ms it lets one stream flow at 29 Mbyte/s; a batch may lie on several.
const STREAM_WINDOW_BYTES: u32 = 9 << 18;
/// Windows of all streams of a link together: the memory a peer can make us hold.
const RECEIVE_WINDOW_BYTES: u32 = 32 << 20;
/// Streams of one batch on a long line: 9 MiB, 115 Mbyte/s at 80 ms.
const STRIPES: u8 = 4;
/// Window of one stream within this machine.
const STREAM_WINDOW_BYTES_LOCAL: u32 = 2 << 20;

/// Bulk streams that may be open while each of them, and the control stream, holds a full window that
/// nobody reads. With one more, streams that wait for an earlier one could take all the window there is
/// from that one, and a session would stand still for ever.
const fn streams_max(stream_window: u32) -> u32 {
    RECEIVE_WINDOW_BYTES / stream_window - 1
}

const _: () = assert!(STRIPES as u32 <= streams_max(STREAM_WINDOW_BYTES));

const _: () =
    assert!(STREAM_WINDOW_BYTES / (2 * STREAM_BYTES_PER_DATAGRAM_MIN) < STREAM_PIECES_MAX);

/// How the sending rate follows the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Congestion {
    /// Fast where nothing is lost; slow on long lines that lose packets.
    Cubic,
    /// Follows measured bandwidth, so stray losses cost little; dearer in CPU on loopback.
    Bbr,
    /// Follows the rate the line delivers, and takes only many losses for congestion.
    Rate,
}

/// Bounds and timers of an endpoint. `Default` is [`TransportConfig::network`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransportConfig {
    /// Largest datagram (1,200 to 65,507); less where the route or the peer takes less. Within this
    /// machine it is used at once, elsewhere it is found out once bulk data flows.
    pub mtu_upper_bound: u16,
    /// A peer silent for so long is lost.
    pub idle_timeout: Duration,
    /// How often a silent link is kept alive; never less often than a third of the idle timeout.
    pub keep_alive_interval: Duration,
    /// Time a handshake may take, from its first packet to the confirmed link.
    pub handshake_timeout: Duration,
    /// How long the last handle of a link waits for the peer to acknowledge finished streams.
    pub drain_timeout: Duration,
    /// Bulk bytes a second over all streams of one link; `None` for as fast as the line goes.
    pub bandwidth_limit_bytes_per_s: Option<u64>,
    /// Bytes the peer may send on one stream before we read them.
    pub stream_window_bytes: u32,
    /// Bytes the peer may send on all streams together before we read them: the memory a peer can
    /// make us hold.
    pub receive_window_bytes: u32,
    /// Bytes written by us and not yet acknowledged.
    pub send_window_bytes: u32,
    /// Bulk streams the peer may hold open. The windows of so many and of the control stream must fit
    /// the window of all, or streams that nobody reads yet stop the one that is read.
    pub bulk_streams_max: u32,
    /// Streams a batch should be spread over, if the line is long.
    pub bulk_stripes: u8,
    /// Kernel buffers of the socket, each way.
    pub socket_buffer_bytes: usize,
    /// Congestion control of what we send.
    pub congestion: Congestion,
    /// Handshakes a listener holds at once; one more evicts the oldest of the busiest address.
    pub half_open_max: usize,
    /// From so many half-open handshakes on, a new peer must prove its address first.
    pub retry_above_half_open: usize,
    /// Established links a listener holds at once; one more is refused.
    pub links_max: usize,
}

impl TransportConfig {
    /// For a line of unknown quality: jumbo frames are tried, the windows of all streams together hold
    /// 320 Mbyte/s at 100 ms, and losses are not taken for congestion.
    #[must_use]
    pub fn network() -> Self {
        Self {
            mtu_upper_bound: DATAGRAM_BYTES_JUMBO,
            idle_timeout: Duration::from_secs(30),
            keep_alive_interval: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(10),
            bandwidth_limit_bytes_per_s: None,
            stream_window_bytes: STREAM_WINDOW_BYTES,
            receive_window_bytes: RECEIVE_WINDOW_BYTES,
            send_window_bytes: RECEIVE_WINDOW_BYTES,
            bulk_streams_max: streams_max(STREAM_WINDOW_BYTES),
            bulk_stripes: STRIPES,
            socket_buffer_bytes: 4 << 20,
            congestion: Congestion::Rate,
            half_open_max: 256,
            retry_above_half_open: 16,
            links_max: 64,
        }
    }

    /// For an endpoint that unknown peers may use: a few messages of some hundred bytes each way, little
    /// memory for any of them, and few at once.
    #[must_use]
    pub fn pairing() -> Self {
        Self {
            mtu_upper_bound: DATAGRAM_BYTES_MIN,
            idle_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(3),
            stream_window_bytes: 16 << 10,
            receive_window_bytes: 64 << 10,
            send_window_bytes: 64 << 10,
            bulk_streams_max: 0,
            bulk_stripes: 1,
            socket_buffer_bytes: 256 << 10,
            congestion: Congestion::Cubic,
            half_open_max: 32,
            retry_above_half_open: 4,
            links_max: 4,
            ..Self::network()
        }
    }

    /// For two ends on one machine: the largest datagrams, windows that fit the socket
    /// buffer.
    #[must_use]
    pub fn loopback() -> Self {
        Self {
            mtu_upper_bound: DATAGRAM_BYTES_MAX,
            stream_window_bytes: STREAM_WINDOW_BYTES_LOCAL,
            bulk_streams_max: streams_max(STREAM_WINDOW_BYTES_LOCAL),
            bulk_stripes: 1,
            send_window_bytes: 16 << 20,
            congestion: Congestion::Cubic,
            ..Self::network()
        }
    }

    /// [`TransportConfig::loopback`] for a loopback address, [`TransportConfig::network`] else.
    #[must_use]
    pub fn for_addr(addr: SocketAddr) -> Self {
        if addr.ip().to_canonical().is_loopback() { Self::loopback() } else { Self::network() }
    }

    /// The datagram bound brought into range.
    pub(crate) fn datagram_bytes(&self) -> u16 {
        self.mtu_upper_bound.clamp(DATAGRAM_BYTES_MIN, DATAGRAM_BYTES_MAX)
    }

    /// What the peer may send us in one datagram. Receive buffers are sized by it, so it must hold
    /// a whole coalesced read.
    pub(crate) fn datagram_receive_bytes(&self) -> u16 {
        match self.datagram_bytes() {
            large if large > 32_767 => 65_527,
            small => small.max(1_472),
        }
    }

    /// Room for QUIC datagrams of the peer, which nobody reads: they are sent for their answers. The newest that fit
    /// are kept. None where no bulk will come.
    fn datagram_buffer_bytes(&self) -> Option<usize> {
        let largest = usize::from(self.datagram_receive_bytes());
        (self.bulk_streams_max > 0).then_some(largest + DATAGRAM_BOOKKEEPING_BYTES)
    }

    /// The same settings in quinn's terms. `bidi_streams` is 1 where the peer opens the control
    /// stream and 0 where it does not. They are for one connection, the one `closing` and `gate`
    /// belong to.
    pub(crate) fn quinn(
        &self,
        bidi_streams: u32,
        closing: &Closing,
        gate: &Arc<Gate>,
    ) -> Arc<quinn::TransportConfig> {
        let mut discovery = quinn::MtuDiscoveryConfig::default();
        discovery.upper_bound(gate.mtu.upper).minimum_change(DISCOVERY_STEP_BYTES);
        match gate.mtu.is_certain() {
            true => discovery.black_hole_cooldown(LOCAL_BLACK_HOLE_COOLDOWN),
            false => discovery.interval(DISCOVERY_INTERVAL),
        };
        let mut config = quinn::TransportConfig::default();
        config
            .initial_mtu(gate.mtu.initial)
            .mtu_discovery_config(Some(discovery))
            .max_concurrent_bidi_streams(bidi_streams.into())
            .max_concurrent_uni_streams(self.bulk_streams_max.into())
            .stream_receive_window(self.stream_window_bytes.into())
            .receive_window(self.receive_window_bytes.into())
            .send_window(u64::from(self.send_window_bytes))
            .max_idle_timeout(Some(idle(self.idle_timeout)))
            .keep_alive_interval(Some(self.keep_alive_interval.min(self.idle_timeout / 3)))
            .datagram_receive_buffer_size(self.datagram_buffer_bytes())
            .congestion_controller_factory(congestion::factory(
                self.congestion,
                closing.clone(),
                Arc::clone(gate),
            ));
        Arc::new(config)
    }
}

impl Default for TransportConfig {
    fn default() -> Self {
        Self::network()
    }
}

/// Durations beyond what the wire can say mean the longest it can.
fn idle(timeout: Duration) -> IdleTimeout {
    IdleTimeout::try_from(timeout).unwrap_or_else(|_| IdleTimeout::from(VarInt::MAX))
}

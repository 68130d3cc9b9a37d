//! The UDP socket under an endpoint.
//!
//! Guarantees that no send is larger than the kernel takes: quinn's own socket builds ten segments a
//! call, which at datagrams above 6,550 bytes is more than a UDP send may hold, fails with EMSGSIZE,
//! is swallowed, looks like loss and throws the connection back to 1,200 bytes. It refuses to read
//! more than fits the second-level cache at once, and to send probes their [`Gate`] holds back.
//! Nothing survives a crash.

use std::{
    fmt,
    future::Future,
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit, UdpSocketState},
};
use rustix::net::sockopt;
use tokio::io::Interest;

use crate::{
    config::{DATAGRAM_BYTES_MAX, TransportConfig},
    path::{Gate, GatePass, Gates},
};

/// Most bytes one segmented send may hold.
const SEND_BYTES_MAX: usize = DATAGRAM_BYTES_MAX as usize;
/// Most segments in one send. More gain nothing: the cost is then elsewhere.
const SEND_SEGMENTS_MAX: usize = 10;
/// Buffers handed to one receive call. Eight of 64 KiB stay in cache, all of quinn's 32 do not.
const RECEIVE_BUFFERS_MAX: usize = 8;
/// Datagrams smaller than QUIC's smallest full one say nothing about the MTU.
const FULL_DATAGRAM_BYTES_MIN: usize = 1_200;
/// What one coalesced receive can hold.
const RECEIVE_BYTES_MAX: usize = 65_536;

/// A UDP socket that sizes its sends by the MTU in use.
#[derive(Debug)]
pub(crate) struct Socket {
    io: tokio::net::UdpSocket,
    state: UdpSocketState,
    /// Size of the last full datagram sent, which is the MTU of a connection on this socket.
    segment_bytes: AtomicUsize,
    receive_segments_max: usize,
    datagrams_received: AtomicU64,
    gates: Arc<Gates>,
}

impl Socket {
    /// Binds `addr`. Must be called within a runtime.
    pub(crate) fn bind(addr: SocketAddr, config: &TransportConfig) -> io::Result<Self> {
        let socket = UdpSocket::bind(addr)?;
        set_buffers(&socket, config.socket_buffer_bytes)?;
        let state = UdpSocketState::new((&socket).into())?;
        let coalesced = RECEIVE_BYTES_MAX.div_ceil(usize::from(config.datagram_receive_bytes()));
        Ok(Self {
            receive_segments_max: coalesced.min(state.gro_segments()),
            io: tokio::net::UdpSocket::from_std(socket)?,
            state,
            segment_bytes: AtomicUsize::new(FULL_DATAGRAM_BYTES_MIN),
            datagrams_received: AtomicU64::new(0),
            gates: Arc::default(),
        })
    }

    /// Whether anything at all came in.
    pub(crate) fn heard_anything(&self) -> bool {
        self.datagrams_received.load(Ordering::Relaxed) > 0
    }

    /// Holds the probes to `peer` back as `gate` says, while the pass lives.
    pub(crate) fn gate(&self, peer: SocketAddr, gate: &Arc<Gate>) -> GatePass {
        self.gates.set(peer, gate)
    }

    /// Errors other than a full socket are taken for loss, as quinn's own socket does: QUIC repeats
    /// what matters, and an unreachable peer is not for one datagram to decide.
    fn send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let sent =
            self.io.try_io(Interest::WRITABLE, || self.state.try_send((&self.io).into(), transmit));
        match sent {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                self.gates.not_sent(transmit.destination, transmit.contents.len());
                Ok(())
            }
            other => other,
        }
    }
}

/// Root may exceed the system's limit; others get as much as it allows.
fn set_buffers(socket: &UdpSocket, bytes: usize) -> io::Result<()> {
    if sockopt::set_socket_recv_buffer_size_force(socket, bytes).is_err() {
        sockopt::set_socket_recv_buffer_size(socket, bytes)?;
    }
    if sockopt::set_socket_send_buffer_size_force(socket, bytes).is_err() {
        sockopt::set_socket_send_buffer_size(socket, bytes)?;
    }
    Ok(())
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller { socket: self, wait: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let total = transmit.contents.len();
        let segment = transmit.segment_size.unwrap_or(total);
        // Probes are sent one by one.
        if transmit.segment_size.is_none()
            && total > FULL_DATAGRAM_BYTES_MIN
            && !self.gates.admit(transmit.destination, total)
        {
            return Ok(());
        }
        if segment >= FULL_DATAGRAM_BYTES_MIN {
            self.segment_bytes.store(segment, Ordering::Relaxed);
        }
        if total <= SEND_BYTES_MAX || segment == 0 {
            return self.send(transmit);
        }
        // The MTU grew since quinn asked how many segments to build. Should the socket fill up in
        // between, quinn sends all again, and the peer drops what it has.
        for part in transmit.contents.chunks((SEND_BYTES_MAX / segment).max(1) * segment) {
            let segment_size = (part.len() > segment).then_some(segment);
            self.send(&Transmit { contents: part, segment_size, ..transmit.clone() })?;
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let count = buffers.len().min(metas.len()).min(RECEIVE_BUFFERS_MAX);
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            let received = self.io.try_io(Interest::READABLE, || {
                self.state.recv((&self.io).into(), &mut buffers[..count], &mut metas[..count])
            });
            if let Ok(datagrams) = received {
                self.datagrams_received.fetch_add(datagrams as u64, Ordering::Relaxed);
                return Poll::Ready(Ok(datagrams));
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        let segment = self.segment_bytes.load(Ordering::Relaxed).max(FULL_DATAGRAM_BYTES_MIN);
        (SEND_BYTES_MAX / segment).clamp(1, SEND_SEGMENTS_MAX).min(self.state.max_gso_segments())
    }

    fn max_receive_segments(&self) -> usize {
        self.receive_segments_max
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

type Writable = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

/// Waits for room in the socket, for one connection.
struct Poller {
    socket: Arc<Socket>,
    wait: Option<Writable>,
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poller").finish_non_exhaustive()
    }
}

impl UdpPoller for Poller {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let wait = this.wait.get_or_insert_with(|| {
            let socket = Arc::clone(&this.socket);
            Box::pin(async move { socket.io.writable().await })
        });
        let writable = ready!(wait.as_mut().poll(cx));
        this.wait = None;
        Poll::Ready(writable)
    }
}

#[cfg(test)]
mod tests {
    use quinn::{AsyncUdpSocket, udp::Transmit};

    use super::{SEND_BYTES_MAX, Socket};
    use crate::config::TransportConfig;

    #[test]
    fn sends_never_exceed_what_the_kernel_takes() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("runtime").block_on(async {
            let addr = "127.0.0.1:0".parse().expect("address");
            let socket = Socket::bind(addr, &TransportConfig::loopback()).expect("bind");
            let peer = std::net::UdpSocket::bind(addr).expect("bind");
            super::set_buffers(&peer, 4 << 20).expect("room for all ten");
            peer.set_read_timeout(Some(std::time::Duration::from_secs(5))).expect("timeout");
            assert_eq!(socket.max_transmit_segments(), 10);
            let mut received = vec![0; 70_000];
            for segment in [1_452, 8_952, 16_376, 32_752, 65_507_usize] {
                let contents: Vec<u8> = (0..10_u8).flat_map(|n| vec![n; segment]).collect();
                socket.io.writable().await.expect("writable");
                socket
                    .try_send(&Transmit {
                        destination: peer.local_addr().expect("address"),
                        ecn: None,
                        contents: &contents,
                        segment_size: Some(segment),
                        src_ip: None,
                    })
                    .expect("send");
                for n in 0..10_u8 {
                    let len = peer.recv(&mut received).expect("receive");
                    assert_eq!((len, received[0]), (segment, n));
                }
                assert!(socket.max_transmit_segments() * segment <= SEND_BYTES_MAX);
            }
        });
    }
}

//! A link over one QUIC connection.
//!
//! What finishing and closing guarantee:
//! - A finished stream (bulk or control) is retransmitted until the peer's transport has
//!   acknowledged every byte, as long as the connection lives.
//! - [`QuicLink::drain`] returns once all finished streams are acknowledged. What is acknowledged
//!   can be read by the peer even after the connection is closed.
//! - Closing with code 0 ([`CloseCode::Done`]) and dropping the last handle (link or stream) drain
//!   first, for at most the drain timeout; closing does so without blocking the caller. Closing with
//!   any other code discards what is not acknowledged, also when an earlier close still drains.
//! - Acknowledged is neither read nor durable: only the peer's session can say that.
//!
//! It refuses control messages above the limit before it allocates for them, and streams that were
//! not finished never look finished to the peer. Nothing survives a crash.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use farshore_core::pacer::Pacer;
use farshore_proto::{
    close::CloseCode,
    link::{BulkReceive, BulkSend, CONTROL_MESSAGE_MAX, Link, LinkError, LinkStats},
};
use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt};
use tokio::{
    runtime::Handle,
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    config::{Congestion, TransportConfig},
    congestion::{self, Closing},
    endpoint::Net,
    error::{LostCause, connection_lost, cut_reason},
    identity::KeyId,
    path::GatePass,
    preamble::{self, PreambleError},
    stream::{QuicBulkReceive, QuicBulkSend, Reader, write_all},
};

/// Smallest piece that a stream behind others books under a limit of the rate.
const BEHIND_PIECE_BYTES: usize = 4 << 10;

/// How long what is said at the same time has to leave before a train does: datagrams would go first, and on a thin
/// line take long.
const TRAIN_DELAY: Duration = Duration::from_millis(1);

/// How long a drop waits for the close to leave this machine.
const CLOSE_SENT_TIMEOUT: Duration = Duration::from_millis(100);

/// One connection to one authenticated site. Clones are handles of the same link.
///
/// All calls block; none may be made from inside an async runtime.
#[derive(Clone)]
pub struct QuicLink(Arc<Shared>);

impl fmt::Debug for QuicLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicLink")
            .field("peer", &self.0.peer)
            .field("remote", &self.0.connection.remote_address())
            .finish_non_exhaustive()
    }
}

/// What a link is made of.
pub(crate) struct LinkParts {
    pub(crate) connection: Connection,
    pub(crate) net: Arc<Net>,
    pub(crate) peer: KeyId,
    pub(crate) control: (SendStream, RecvStream),
    /// The peer's preamble is still to be read.
    pub(crate) preamble_pending: bool,
    pub(crate) slot: Option<LinkSlot>,
    pub(crate) closing: Closing,
    pub(crate) gate: GatePass,
}

/// The state behind all handles of a link.
pub(crate) struct Shared {
    pub(crate) connection: Connection,
    pub(crate) net: Arc<Net>,
    peer: KeyId,
    control_send: Mutex<SendStream>,
    control_receive: Mutex<ControlReceive>,
    control_finished: AtomicBool,
    closed_here: AtomicBool,
    /// Finished streams that the peer has not acknowledged yet.
    undelivered: Arc<watch::Sender<usize>>,
    pacer: Mutex<Option<Pacer>>,
    opened_at: Instant,
    drain_timeout: Duration,
    closing: Closing,
    /// Whether how the line answers a train of packets tells its congestion control anything.
    sends_trains: bool,
    gate: Mutex<GatePass>,
    _slot: Option<LinkSlot>,
}

struct ControlReceive {
    reader: Reader,
    preamble_pending: bool,
    /// A length beyond the limit was announced; nothing after it can be trusted.
    too_large: Option<usize>,
}

impl QuicLink {
    pub(crate) fn new(parts: LinkParts, config: &TransportConfig) -> Self {
        let (send, receive) = parts.control;
        Self(Arc::new(Shared {
            connection: parts.connection,
            net: parts.net,
            peer: parts.peer,
            control_send: Mutex::new(send),
            control_receive: Mutex::new(ControlReceive {
                reader: Reader::new(receive),
                preamble_pending: parts.preamble_pending,
                too_large: None,
            }),
            control_finished: AtomicBool::new(false),
            closed_here: AtomicBool::new(false),
            undelivered: Arc::new(watch::Sender::new(0)),
            pacer: Mutex::new(
                config.bandwidth_limit_bytes_per_s.map(|rate| Pacer::new(rate, Duration::ZERO)),
            ),
            opened_at: Instant::now(),
            drain_timeout: config.drain_timeout,
            closing: parts.closing,
            sends_trains: config.congestion == Congestion::Rate,
            gate: Mutex::new(parts.gate),
            _slot: parts.slot,
        }))
    }

    /// The key the peer proved.
    #[must_use]
    pub fn peer(&self) -> KeyId {
        self.0.peer
    }

    /// A secret that both ends of this connection know and nobody else: a peer in the middle has two
    /// connections, and two secrets. `None` when TLS does not give one.
    #[must_use]
    pub fn channel_binding(&self) -> Option<[u8; 32]> {
        let mut secret = [0; 32];
        let label = b"EXPORTER-farshore-channel-binding";
        self.0.connection.export_keying_material(&mut secret, label, b"").ok()?;
        Some(secret)
    }

    /// A handle that does not keep the link alive.
    #[must_use]
    pub fn weak(&self) -> WeakLink {
        WeakLink(Arc::downgrade(&self.0))
    }

    /// Where the peer is now; it may move.
    #[must_use]
    pub fn remote_address(&self) -> SocketAddr {
        self.0.connection.remote_address()
    }

    /// The datagram size in use, in bytes.
    #[must_use]
    pub fn datagram_bytes(&self) -> u16 {
        self.0.connection.stats().path.current_mtu
    }

    /// Changes the limit on bulk bytes for all streams of this link, from now on.
    pub fn set_bandwidth_limit(&self, bytes_per_s: Option<u64>) {
        let now = self.0.opened_at.elapsed();
        *lock(&self.0.pacer) = bytes_per_s.map(|rate| Pacer::new(rate, now));
    }

    /// Waits until the peer's transport acknowledged every stream finished so far.
    ///
    /// # Errors
    /// [`LinkError`] when the connection ended first, or the peer took nothing for the drain
    /// timeout.
    pub fn drain(&self) -> Result<(), LinkError> {
        const STEP: &str = "deliver finished streams";
        let shared = &*self.0;
        let delivered = shared.net.handle.block_on(shared.delivered());
        match shared.connection.close_reason() {
            Some(lost) => Err(connection_lost(STEP, &lost)),
            None if delivered => Ok(()),
            None => Err(LostCause::Undelivered.during(STEP)),
        }
    }
}

/// A handle that does not keep its link alive.
pub struct WeakLink(Weak<Shared>);

impl fmt::Debug for WeakLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WeakLink")
    }
}

impl WeakLink {
    /// The link, while anybody else has it.
    #[must_use]
    pub fn upgrade(&self) -> Option<QuicLink> {
        self.0.upgrade().map(QuicLink)
    }

    /// Whether nobody has it any more.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }
}

impl Link for QuicLink {
    fn send_control(&self, message: Bytes) -> Result<(), LinkError> {
        const STEP: &str = "send a control message";
        self.0.check_open(STEP)?;
        let len = message.len();
        let announced = u32::try_from(len).ok().filter(|_| len <= CONTROL_MESSAGE_MAX);
        let Some(announced) = announced else {
            return Err(LinkError::MessageTooLarge { len, limit: CONTROL_MESSAGE_MAX });
        };
        let head = Bytes::copy_from_slice(&announced.to_le_bytes());
        let mut stream = lock(&self.0.control_send);
        write_all(&self.0.net.handle, &mut stream, &mut [head, message], STEP)
    }

    fn recv_control(&self) -> Result<Option<Bytes>, LinkError> {
        const STEP: &str = "receive a control message";
        self.0.check_open(STEP)?;
        let handle = &self.0.net.handle;
        let mut control = lock(&self.0.control_receive);
        if control.preamble_pending {
            handle.block_on(preamble::hear(&mut control.reader.stream)).map_err(
                |error| match error {
                    PreambleError::Connection(lost) => connection_lost(STEP, &lost),
                    PreambleError::Wrong => LostCause::BadPreamble.during(STEP),
                },
            )?;
            control.preamble_pending = false;
        }
        if let Some(len) = control.too_large {
            return Err(LinkError::MessageTooLarge { len, limit: CONTROL_MESSAGE_MAX });
        }
        let mut head = [0; 4];
        if !control.reader.read_exact(handle, &mut head, STEP)? {
            return Ok(None);
        }
        let len = usize::try_from(u32::from_le_bytes(head)).unwrap_or(usize::MAX);
        if len > CONTROL_MESSAGE_MAX {
            control.too_large = Some(len);
            return Err(LinkError::MessageTooLarge { len, limit: CONTROL_MESSAGE_MAX });
        }
        control.reader.read_message(handle, len, STEP).map(Some)
    }

    fn finish_control(&self) -> Result<(), LinkError> {
        const STEP: &str = "finish the control stream";
        self.0.check_open(STEP)?;
        if self.0.control_finished.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.0.finish(&mut lock(&self.0.control_send), STEP)
    }

    fn open_bulk(&self) -> Result<Box<dyn BulkSend>, LinkError> {
        const STEP: &str = "open a bulk stream";
        self.0.check_open(STEP)?;
        lock(&self.0.gate).bulk_begins(self.0.connection.remote_address());
        let opened = self.0.net.handle.block_on(self.0.connection.open_uni());
        let stream = opened.map_err(|lost| connection_lost(STEP, &lost))?;
        Ok(Box::new(QuicBulkSend::new(Arc::clone(&self.0), stream)))
    }

    fn expect_bulk(&self) {
        let shared = &*self.0;
        // A peer of before takes none.
        let Some(size) = shared.connection.max_datagram_size() else { return };
        // On a connection that carried bulk one has left.
        let has_left = lock(&shared.gate).has_bulk();
        if !shared.sends_trains || has_left || lock(&shared.pacer).is_some() {
            return;
        }
        let (weak, connection) = (self.weak(), shared.connection.clone());
        let wanted = congestion::TRAIN_DATAGRAMS * u64::from(self.datagram_bytes());
        drop(shared.net.handle.spawn(async move {
            sleep(TRAIN_DELAY).await;
            let Some(link) = weak.upgrade() else { return };
            // What leaves from here on counts as bulk: larger datagrams may be tried, and the controller sees its train.
            lock(&link.0.gate).bulk_begins(connection.remote_address());
            let nothing = Bytes::from(vec![0; size]);
            for _ in 0..wanted.div_ceil(size.max(1) as u64) {
                // The path may have shrunk, or the link be closed: then bulk itself is the train, if any comes.
                if connection.send_datagram(nothing.clone()).is_err() {
                    return;
                }
            }
        }));
    }

    fn accept_bulk(&self) -> Result<Option<Box<dyn BulkReceive>>, LinkError> {
        const STEP: &str = "accept a bulk stream";
        self.0.check_open(STEP)?;
        match self.0.net.handle.block_on(self.0.connection.accept_uni()) {
            Ok(stream) => Ok(Some(Box::new(QuicBulkReceive::new(Arc::clone(&self.0), stream)))),
            Err(ConnectionError::ApplicationClosed(close)) if close.error_code == DONE => Ok(None),
            Err(lost) => Err(connection_lost(STEP, &lost)),
        }
    }

    fn close(&self, code: u32, reason: &str) {
        let earlier = self.0.closed_here.swap(true, Ordering::AcqRel);
        if earlier && code == CloseCode::Done as u32 {
            return;
        }
        let (code, reason) = (VarInt::from_u32(code), cut_reason(reason).to_owned());
        let (connection, closing) = (self.0.connection.clone(), self.0.closing.clone());
        if code != DONE || *self.0.undelivered.borrow() == 0 {
            return closing.close(&connection, code, &reason);
        }
        let (drain, mut left) = (self.0.drain_timeout, self.0.undelivered.subscribe());
        drop(self.0.net.handle.spawn(async move {
            drop(timeout(drain, left.wait_for(|count| *count == 0)).await);
            closing.close(&connection, code, &reason);
        }));
    }

    fn stats(&self) -> LinkStats {
        let stats = self.0.connection.stats();
        LinkStats {
            sent_bytes: stats.udp_tx.bytes.saturating_sub(lock(&self.0.gate).unsent_bytes()),
            received_bytes: stats.udp_rx.bytes,
            lost_packets: stats.path.lost_packets,
            rtt: stats.path.rtt,
        }
    }
}

/// [`CloseCode::Done`] as it travels.
const DONE: VarInt = VarInt::from_u32(CloseCode::Done as u32);

impl Shared {
    /// Calls after our own close fail, even while it still drains.
    pub(crate) fn check_open(&self, step: &'static str) -> Result<(), LinkError> {
        if self.closed_here.load(Ordering::Acquire) {
            return Err(LostCause::ClosedHere.during(step));
        }
        Ok(())
    }

    /// Finishes `stream` and keeps count of it until the peer has all of it.
    pub(crate) fn finish(
        &self,
        stream: &mut SendStream,
        step: &'static str,
    ) -> Result<(), LinkError> {
        if let Some(lost) = self.connection.close_reason() {
            return Err(connection_lost(step, &lost));
        }
        // Fails only for a stream the peer stopped: it wants no more, which is an end as well.
        drop(stream.finish());
        let (undelivered, acknowledged) = (Arc::clone(&self.undelivered), stream.stopped());
        undelivered.send_modify(|count| *count += 1);
        drop(self.net.handle.spawn(async move {
            drop(acknowledged.await);
            undelivered.send_modify(|count| *count -= 1);
        }));
        Ok(())
    }

    /// Splits off what may be sent next, and waits until it may. Who goes `behind` others books little
    /// at a time: bookings are served in order, and others should not wait for many bytes of it.
    pub(crate) fn pace(
        &self,
        chunk: &mut Bytes,
        behind: bool,
        step: &'static str,
    ) -> Result<Bytes, LinkError> {
        let wait;
        let piece;
        {
            let mut pacer = lock(&self.pacer);
            let Some(pacer) = pacer.as_mut() else { return Ok(std::mem::take(chunk)) };
            let most = pacer.piece_bytes();
            let most = if behind { (most / 16).max(BEHIND_PIECE_BYTES).min(most) } else { most };
            piece = chunk.split_to(chunk.len().min(most));
            wait = pacer.reserve(self.opened_at.elapsed(), piece.len());
        }
        if !wait.is_zero() {
            let ended = async { timeout(wait, self.connection.closed()).await };
            if let Ok(lost) = self.net.handle.block_on(ended) {
                return Err(connection_lost(step, &lost));
            }
        }
        Ok(piece)
    }

    /// Waits until nothing finished is unacknowledged, for at most the drain timeout.
    async fn delivered(&self) -> bool {
        let mut left = self.undelivered.subscribe();
        let delivered = timeout(self.drain_timeout, left.wait_for(|count| *count == 0)).await;
        delivered.is_ok()
    }

    /// Waits until a close was handed to the kernel: the connection's task was woken by it and runs
    /// before tasks that are spawned later.
    async fn close_sent(&self) {
        for _ in 0..2 {
            drop(self.net.handle.spawn(async {}).await);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let finished = self.control_finished.load(Ordering::Acquire);
        let (code, reason) = match finished {
            true => (DONE, ""),
            false => (VarInt::from_u32(CloseCode::Internal as u32), "link dropped by its owner"),
        };
        if Handle::try_current().is_ok() {
            // Within a runtime nothing may wait.
            return self.closing.close(&self.connection, code, reason);
        }
        self.net.handle.block_on(async {
            self.delivered().await;
            if !self.closed_here.load(Ordering::Acquire) {
                self.closing.close(&self.connection, code, reason);
            }
            drop(
                timeout(CLOSE_SENT_TIMEOUT, async {
                    // A draining close of our own follows the last acknowledgement at once.
                    self.connection.closed().await;
                    self.close_sent().await;
                })
                .await,
            );
        });
    }
}

/// One of the links a listener may hold; given back when the link ends.
pub(crate) struct LinkSlot(Arc<AtomicUsize>);

impl LinkSlot {
    /// Takes a slot if fewer than `max` are taken.
    pub(crate) fn take(taken: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        taken
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < max).then_some(n + 1))
            .ok()
            .map(|_| Self(Arc::clone(taken)))
    }
}

impl Drop for LinkSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A panic of another user of the link leaves these values whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

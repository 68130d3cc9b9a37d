//! Waiting for peers.
//!
//! Guarantees: only links whose peer proved an allowed key are returned; a handshake that fails,
//! stalls or lies is a [`Refusal`] and disturbs nobody else; half-open handshakes are bounded in
//! number and time, and a newcomer finds room while they are full. It refuses to keep state for
//! unproven addresses under load. Nothing survives a crash: keys and limits come from the caller.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread,
};

use farshore_proto::close::CloseCode;
use quinn::{Connection, ConnectionError, ServerConfig, VarInt};
use rustls::{crypto::CryptoProvider, pki_types::CertificateDer, sign::SingleCertAndKey};
use tokio::{sync::mpsc, task::AbortHandle, time::timeout};

use crate::{
    config::TransportConfig,
    congestion::Closing,
    dial::no_protocol,
    endpoint::{AtEnd, Net},
    error::{escape, is_key_refusal},
    half_open::HalfOpen,
    identity::{CertificateError, KeyId, SiteKey},
    path::{Gate, PathMtu},
    preamble::{self, PreambleError},
    quic_link::{LinkParts, LinkSlot, QuicLink},
    trust::{
        KeySet, PinVerifier, Purpose, Sighting, TlsSetupError, crypto_provider, key_id_of,
        server_tls,
    },
    trusted::TrustedKeys,
};

/// Refusals waiting for the audit callback; more are counted, not kept.
const REFUSALS_WAITING_MAX: usize = 256;
/// First packets waiting for the accept loop, which never waits for anybody.
const INCOMING_WAITING_MAX: usize = 1_024;
/// Early data a peer may make us hold before its handshake begins, each and together.
const INCOMING_BYTES_MAX: u64 = 64 << 10;
const INCOMING_BYTES_TOTAL_MAX: u64 = 4 << 20;

/// Why a listener cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address cannot be bound.
    #[error(
        "listener {addr}: cannot bind; check that the address is this machine's and the port free"
    )]
    Bind {
        /// The address asked for.
        addr: SocketAddr,
        /// The system's word.
        #[source]
        source: io::Error,
    },
    /// The thread that hands refusals on cannot start.
    #[error("listener {addr}: cannot start its audit thread")]
    Thread {
        /// The address asked for.
        addr: SocketAddr,
        /// The system's word.
        #[source]
        source: io::Error,
    },
    /// The site key does not work.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// TLS does not work.
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
}

/// Why there is no next link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    /// The listener was closed by its owner.
    #[error("listener {addr}: closed")]
    Closed {
        /// The address it was bound to.
        addr: SocketAddr,
    },
}

/// A new link and who is at its other end.
#[derive(Debug)]
pub struct Incoming {
    /// The established link.
    pub link: QuicLink,
    /// The key the peer proved.
    pub peer: KeyId,
    /// Where it came from.
    pub remote: SocketAddr,
}

/// A peer that was not let in: an event for the audit trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Where it came from. An address that was not proven may be forged.
    pub remote: SocketAddr,
    /// Why.
    pub code: RefusalCode,
    /// Refusals before this one that were counted but not handed on, because they came faster than
    /// the callback returned.
    pub suppressed: u64,
}

/// Why a peer was not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefusalCode {
    /// It showed a key that is not allowed. Its possession was not proven.
    UnlistedKey {
        /// The key shown.
        found: KeyId,
    },
    /// It showed an allowed key and could not prove it.
    ForgedKey {
        /// The key claimed.
        claimed: KeyId,
    },
    /// It showed a certificate that cannot be read.
    UnreadableCertificate,
    /// It showed no certificate.
    NoCertificate,
    /// It does not speak this version of the protocol.
    WrongProtocol,
    /// It does not trust our key.
    RefusedOurKey,
    /// It did not complete the handshake in time.
    TimedOut,
    /// Its handshake was given up for newer ones.
    Evicted,
    /// All links are taken.
    TooManyLinks,
    /// The handshake failed otherwise.
    Broken {
        /// QUIC's words, escaped.
        detail: String,
    },
}

impl RefusalCode {
    /// A name that never changes, for audit records.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::UnlistedKey { .. } => "unlisted-key",
            Self::ForgedKey { .. } => "forged-key",
            Self::UnreadableCertificate => "unreadable-certificate",
            Self::NoCertificate => "no-certificate",
            Self::WrongProtocol => "wrong-protocol",
            Self::RefusedOurKey => "refused-our-key",
            Self::TimedOut => "timed-out",
            Self::Evicted => "evicted",
            Self::TooManyLinks => "too-many-links",
            Self::Broken { .. } => "broken",
        }
    }
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnlistedKey { found } => write!(f, "key {found} is not allowed here"),
            Self::ForgedKey { claimed } => write!(f, "key {claimed} was claimed without proof"),
            Self::UnreadableCertificate => f.write_str("its certificate cannot be read"),
            Self::NoCertificate => f.write_str("it showed no key"),
            Self::WrongProtocol => f.write_str("it does not speak farshore/1"),
            Self::RefusedOurKey => f.write_str("it does not trust this site's key"),
            Self::TimedOut => f.write_str("it did not complete the handshake in time"),
            Self::Evicted => f.write_str("its handshake was given up for newer ones"),
            Self::TooManyLinks => f.write_str("all links are taken"),
            Self::Broken { detail } => write!(f, "its handshake failed: {detail}"),
        }
    }
}

/// A bound address where peers are accepted.
#[derive(Debug)]
pub struct Listener {
    /// Links given out keep the endpoint running; the listener's own share ends with it.
    shared: Arc<Shared>,
    established: Mutex<mpsc::Receiver<Incoming>>,
    accepting: AbortHandle,
    local_addr: SocketAddr,
    net: Arc<Net>,
}

/// What the accept loop and the handshakes share with the listener.
struct Shared {
    config: TransportConfig,
    quic: ServerConfig,
    provider: Arc<CryptoProvider>,
    identity: Mutex<Arc<SingleCertAndKey>>,
    allowed: TrustedKeys,
    purpose: Purpose,
    half_open: Mutex<HalfOpen<(SocketAddr, AbortHandle)>>,
    links: Arc<AtomicUsize>,
    audit: Option<SyncSender<Refusal>>,
    suppressed: AtomicU64,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Listener {
    /// Binds `addr` and accepts peers with the keys of `allowed`. Refusals are not reported.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(
        addr: SocketAddr,
        key: &SiteKey,
        allowed: KeySet,
        config: TransportConfig,
    ) -> Result<Self, BindError> {
        Self::start(addr, key, Purpose::Session, TrustedKeys::new(allowed), config, None)
    }

    /// As [`Listener::bind`], and hands every refusal to `audit` on a thread of its own. A slow
    /// callback loses refusals (counted in [`Refusal::suppressed`]), never time on the network.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind_with_audit(
        addr: SocketAddr,
        key: &SiteKey,
        allowed: KeySet,
        config: TransportConfig,
        audit: impl FnMut(Refusal) + Send + 'static,
    ) -> Result<Self, BindError> {
        Self::bind_trusting(addr, key, TrustedKeys::new(allowed), config, audit)
    }

    /// As [`Listener::bind_with_audit`], with keys that may change: [`TrustedKeys::set`] is in force
    /// from the next handshake on, and ends links of keys that are trusted no more.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind_trusting(
        addr: SocketAddr,
        key: &SiteKey,
        trusted: TrustedKeys,
        config: TransportConfig,
        audit: impl FnMut(Refusal) + Send + 'static,
    ) -> Result<Self, BindError> {
        let refusals = Self::audited(addr, audit)?;
        Self::start(addr, key, Purpose::Session, trusted, config, Some(refusals))
    }

    /// An endpoint for pairing ([`crate::PAIRING_ALPN`]): whoever proves a key, any key, gets a link. What
    /// it says is not to be believed before a secret shared by the operators, bound to
    /// [`QuicLink::channel_binding`], has been proven over it. Give it [`TransportConfig::pairing`].
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind_pairing(
        addr: SocketAddr,
        key: &SiteKey,
        config: TransportConfig,
        audit: impl FnMut(Refusal) + Send + 'static,
    ) -> Result<Self, BindError> {
        let refusals = Self::audited(addr, audit)?;
        Self::start(addr, key, Purpose::Pairing, TrustedKeys::default(), config, Some(refusals))
    }

    fn audited(
        addr: SocketAddr,
        mut audit: impl FnMut(Refusal) + Send + 'static,
    ) -> Result<SyncSender<Refusal>, BindError> {
        let (refusals, waiting) = sync_channel(REFUSALS_WAITING_MAX);
        // Ends by itself with the last sender.
        thread::Builder::new()
            .name("farshore-audit".to_owned())
            .spawn(move || waiting.into_iter().for_each(&mut audit))
            .map_err(|source| BindError::Thread { addr, source })?;
        Ok(refusals)
    }

    fn start(
        addr: SocketAddr,
        key: &SiteKey,
        purpose: Purpose,
        allowed: TrustedKeys,
        config: TransportConfig,
        audit: Option<SyncSender<Refusal>>,
    ) -> Result<Self, BindError> {
        let provider = crypto_provider();
        let identity = key.certified(&provider)?;
        // The endpoint's own settings let nobody in: every handshake gets its own verifier.
        let nobody = PinVerifier::new(KeySet::new(), Arc::clone(&provider));
        let tls = server_tls(Arc::clone(&identity), nobody)?;
        let mut quic = ServerConfig::with_crypto(Arc::new(tls));
        // Each handshake brings its own.
        let nowhere = Gate::new(PathMtu::unknown(&config));
        quic.transport_config(config.quinn(1, &Closing::default(), &nowhere))
            .max_incoming(INCOMING_WAITING_MAX)
            .incoming_buffer_size(INCOMING_BYTES_MAX)
            .incoming_buffer_size_total(INCOMING_BYTES_TOTAL_MAX);
        let bind = |source| BindError::Bind { addr, source };
        let server = Some((quic.clone(), key.reset_secret()));
        let net = Net::start(addr, &config, server, AtEnd::Release).map_err(bind)?;
        let local_addr = net.endpoint.local_addr().map_err(bind)?;
        let net = Arc::new(net);
        let (established, waiting) = mpsc::channel(config.links_max.max(1));
        let shared = Arc::new(Shared {
            config,
            quic,
            provider,
            identity: Mutex::new(identity),
            allowed,
            purpose,
            half_open: Mutex::new(HalfOpen::new()),
            links: Arc::new(AtomicUsize::new(0)),
            audit,
            suppressed: AtomicU64::new(0),
        });
        let accepting = net.handle.spawn(accept_loop(
            net.endpoint.clone(),
            Arc::downgrade(&net),
            Arc::clone(&shared),
            established,
        ));
        let accepting = accepting.abort_handle();
        Ok(Self { shared, established: Mutex::new(waiting), accepting, local_addr, net })
    }

    /// The address bound, with the port the system chose if 0 was asked for.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Waits for the next link.
    ///
    /// # Errors
    /// [`AcceptError::Closed`] after [`Listener::close`]; never because of a peer.
    pub fn accept(&self) -> Result<Incoming, AcceptError> {
        let mut established = lock(&self.established);
        established.blocking_recv().ok_or(AcceptError::Closed { addr: self.local_addr })
    }

    /// The keys allowed from the next handshake on. Links that exist are not touched.
    pub fn set_allowed(&self, allowed: KeySet) {
        self.shared.allowed.set_for_handshakes(allowed);
    }

    /// The key shown from the next handshake on. Links that exist are not touched.
    ///
    /// # Errors
    /// [`CertificateError`]; the former key stays.
    pub fn set_key(&self, key: &SiteKey) -> Result<(), CertificateError> {
        let identity = key.certified(&self.shared.provider)?;
        *lock(&self.shared.identity) = identity;
        Ok(())
    }

    /// Handshakes in progress now.
    #[must_use]
    pub fn half_open(&self) -> usize {
        lock(&self.shared.half_open).len()
    }

    /// Accepts nobody from now on and unblocks [`Listener::accept`]. Links that exist live on; the
    /// address is free after the listener and its last link are dropped.
    pub fn close(&self) {
        self.net.endpoint.set_server_config(None);
        self.accepting.abort();
        for (_, handshake) in lock(&self.shared.half_open).drain() {
            handshake.abort();
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn refuse(&self, remote: SocketAddr, code: RefusalCode) {
        let Some(audit) = &self.audit else { return };
        let suppressed = self.suppressed.swap(0, Ordering::AcqRel);
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            audit.try_send(Refusal { remote, code, suppressed })
        {
            self.suppressed.fetch_add(suppressed + 1, Ordering::AcqRel);
        }
    }

    /// Gives up old handshakes until one more fits.
    fn make_room(&self) {
        while lock(&self.half_open).len() >= self.config.half_open_max.max(1) {
            let Some((_, (remote, handshake))) = lock(&self.half_open).evict() else { return };
            handshake.abort();
            self.refuse(remote, RefusalCode::Evicted);
        }
    }
}

async fn accept_loop(
    endpoint: quinn::Endpoint,
    net: Weak<Net>,
    shared: Arc<Shared>,
    established: mpsc::Sender<Incoming>,
) {
    while let Some(incoming) = endpoint.accept().await {
        let remote = incoming.remote_address();
        let crowded = lock(&shared.half_open).len() >= shared.config.retry_above_half_open;
        if crowded && !incoming.remote_address_validated() {
            // Fails only for a peer that retried already, and such a one is validated.
            drop(incoming.retry());
            continue;
        }
        shared.make_room();
        // The lock is held until the handshake is listed: it can neither end nor be evicted first.
        let mut half_open = lock(&shared.half_open);
        let (net, shared, established) =
            (Weak::clone(&net), Arc::clone(&shared), established.clone());
        let (number_is, number) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            let outcome = handshake(incoming, &net, &shared).await;
            if let Ok(number) = number.await {
                lock(&shared.half_open).remove(remote.ip(), number);
            }
            match outcome {
                Ok(incoming) => drop(established.try_send(incoming)),
                Err(code) => shared.refuse(remote, code),
            }
        });
        let number = half_open.insert(remote.ip(), (remote, task.abort_handle()));
        number_is.send(number).ok();
        drop(half_open);
    }
}

/// From the first packet to the confirmed link, within the handshake timeout.
async fn handshake(
    incoming: quinn::Incoming,
    net: &Weak<Net>,
    shared: &Shared,
) -> Result<Incoming, RefusalCode> {
    let allowed = shared.allowed.current();
    let pins = PinVerifier::with_purpose(shared.purpose, allowed, Arc::clone(&shared.provider));
    let identity = Arc::clone(&lock(&shared.identity));
    let broken = |detail: String| RefusalCode::Broken { detail };
    let tls = server_tls(identity, Arc::clone(&pins)).map_err(|error| broken(error.to_string()))?;
    let mut quic = shared.quic.clone();
    quic.crypto = Arc::new(tls);
    let closing = Closing::default();
    let from = incoming.remote_address();
    let gate = Gate::new(PathMtu::to(from, &shared.config));
    quic.transport_config(shared.config.quinn(1, &closing, &gate));
    let gone = || broken("the listener was closed".to_owned());
    let gate = net.upgrade().ok_or_else(gone)?.socket.gate(from, &gate);
    let why = |lost: &ConnectionError| refusal_code(pins.sighting(), lost);

    let established = async {
        let connecting = incoming.accept_with(Arc::new(quic)).map_err(|lost| why(&lost))?;
        let connection = connecting.await.map_err(|lost| why(&lost))?;
        let peer = proven_peer(&connection)
            .filter(|peer| pins.sighting() == Sighting::Proven(*peer))
            .ok_or(RefusalCode::NoCertificate)?;
        let Some(slot) = LinkSlot::take(&shared.links, shared.config.links_max) else {
            closing.close(
                &connection,
                VarInt::from_u32(CloseCode::Busy as u32),
                "all links are taken",
            );
            return Err(RefusalCode::TooManyLinks);
        };
        let control = preamble::answer(&connection).await.map_err(|error| match error {
            PreambleError::Connection(lost) => why(&lost),
            PreambleError::Wrong => RefusalCode::WrongProtocol,
        })?;
        let remote = connection.remote_address();
        let net = net.upgrade().ok_or_else(gone)?;
        let slot = Some(slot);
        let preamble_pending = false;
        let parts =
            LinkParts { connection, net, peer, control, preamble_pending, slot, closing, gate };
        let link = QuicLink::new(parts, &shared.config);
        // The key may have been taken out of the set while its handshake went on.
        if shared.purpose == Purpose::Session && !shared.allowed.admit(&link) {
            return Err(RefusalCode::UnlistedKey { found: peer });
        }
        Ok(Incoming { link, peer, remote })
    };
    timeout(shared.config.handshake_timeout, established)
        .await
        .unwrap_or(Err(RefusalCode::TimedOut))
}

/// The key in the certificate TLS verified.
fn proven_peer(connection: &Connection) -> Option<KeyId> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    key_id_of(chain.first()?).ok()
}

fn refusal_code(sighting: Sighting, lost: &ConnectionError) -> RefusalCode {
    use ConnectionError as E;
    /// The TLS alert certificate_required.
    const CERTIFICATE_REQUIRED: u8 = 116;
    let required = quinn::TransportErrorCode::crypto(CERTIFICATE_REQUIRED);
    match (sighting, lost) {
        (Sighting::Unlisted(found), _) => RefusalCode::UnlistedKey { found },
        (Sighting::Forged(claimed), _) => RefusalCode::ForgedKey { claimed },
        (Sighting::Unreadable, _) => RefusalCode::UnreadableCertificate,
        (_, E::TransportError(error)) if error.code == required => RefusalCode::NoCertificate,
        (_, E::TransportError(error)) if error.code == no_protocol() => RefusalCode::WrongProtocol,
        (_, E::ConnectionClosed(close)) if is_key_refusal(close.error_code) => {
            RefusalCode::RefusedOurKey
        }
        (_, E::TimedOut) => RefusalCode::TimedOut,
        (_, other) => RefusalCode::Broken { detail: escape(other.to_string().as_bytes()) },
    }
}

/// A panic elsewhere leaves these values whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

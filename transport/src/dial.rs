//! Reaching a listener.
//!
//! Guarantees that a link from [`dial`] is to a pinned key and that the peer accepted ours; failures
//! say which step failed and what to do. It refuses any other key, whatever the address. Nothing
//! survives a crash.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use quinn::{ClientConfig, Connection, ConnectionError, TransportErrorCode};
use tokio::{
    net::UdpSocket,
    time::{Instant, timeout_at},
};

use crate::{
    config::TransportConfig,
    congestion::Closing,
    endpoint::{AtEnd, Net},
    error::{Retry, escape, is_key_refusal},
    identity::{CertificateError, KeyId, SiteKey},
    path::{Gate, PathMtu, unspecified_like},
    preamble::{self, PreambleError},
    quic_link::{LinkParts, QuicLink},
    trust::{KeySet, PinVerifier, Purpose, Sighting, TlsSetupError, client_tls, crypto_provider},
    trusted::TrustedKeys,
};

/// QUIC wants a name; the key is the identity, so it is the same for all and is not sent.
const SERVER_NAME: &str = "farshore";

/// Why a peer cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nothing answers there.
    #[error(
        "peer {addr}: nothing answers; check the address, that farshore serves there, and that UDP \
         passes the firewalls"
    )]
    Unreachable {
        /// The address dialed.
        addr: SocketAddr,
        /// The system's word.
        #[source]
        source: io::Error,
    },
    /// Somebody answers with another key.
    #[error(
        "peer {addr}: shows key {found}, expected {expected}; if 'farshore key' on that host shows \
         the new one, give it with --peer, else somebody else answers there"
    )]
    IdentityRejected {
        /// The address dialed.
        addr: SocketAddr,
        /// The keys pinned.
        expected: KeySet,
        /// The key shown. Its possession was not proven.
        found: KeyId,
    },
    /// Somebody answers who cannot prove a key at all.
    #[error(
        "peer {addr}: does not prove possession of its key, expected {expected}; do not trust this address"
    )]
    IdentityUnproven {
        /// The address dialed.
        addr: SocketAddr,
        /// The keys pinned.
        expected: KeySet,
        /// What TLS found.
        #[source]
        source: ConnectionError,
    },
    /// The peer does not let this key in.
    #[error(
        "peer {addr}: refuses this site's key {ours}; start 'farshore serve' there with --allow {ours}"
    )]
    ByPeerRefused {
        /// The address dialed.
        addr: SocketAddr,
        /// This site's key.
        ours: KeyId,
    },
    /// The peer takes no more links now.
    #[error("peer {addr}: takes no link now (code {code}): {reason}; try again later")]
    Busy {
        /// The address dialed.
        addr: SocketAddr,
        /// A [`farshore_proto::close::CloseCode`] as it travels, or QUIC's refusal 2.
        code: u64,
        /// The peer's words, escaped.
        reason: String,
    },
    /// The peer speaks another protocol or another version of ours.
    #[error("peer {addr}: does not speak farshore/1; bring both sites to the same version")]
    VersionMismatch {
        /// The address dialed.
        addr: SocketAddr,
    },
    /// The peer answers but does not come to an end.
    #[error("peer {addr}: answers, but did not {step} within {after:?}; try again")]
    TimedOut {
        /// The address dialed.
        addr: SocketAddr,
        /// What it should have done, in the infinitive.
        step: &'static str,
        /// The time it had.
        after: Duration,
    },
    /// The handshake failed otherwise.
    #[error("peer {addr}: the handshake failed: {detail}")]
    Handshake {
        /// The address dialed.
        addr: SocketAddr,
        /// QUIC's words, escaped.
        detail: String,
    },
    /// This end cannot open a socket or start its thread.
    #[error("peer {addr}: cannot open a local socket for it")]
    Local {
        /// The address dialed.
        addr: SocketAddr,
        /// The system's word.
        #[source]
        source: io::Error,
    },
    /// This end's key does not work.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// This end's TLS does not work.
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
    /// QUIC does not take the address, as with port 0.
    #[error("peer {addr}: not an address to dial")]
    BadAddress {
        /// The address dialed.
        addr: SocketAddr,
        /// QUIC's word.
        #[source]
        source: quinn::ConnectError,
    },
}

impl ConnectError {
    /// Whether dialing again can help.
    #[must_use]
    pub const fn retry(&self) -> Retry {
        match self {
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Busy { .. }
            | Self::Handshake { .. }
            | Self::Local { .. } => Retry::Backoff,
            Self::IdentityRejected { .. }
            | Self::IdentityUnproven { .. }
            | Self::ByPeerRefused { .. }
            | Self::VersionMismatch { .. }
            | Self::Certificate(_)
            | Self::Tls(_)
            | Self::BadAddress { .. } => Retry::Never,
        }
    }
}

/// Dials `addr` and returns once both ends accepted each other: two round trips.
///
/// # Errors
/// [`ConnectError`], within the handshake timeout.
pub fn dial(
    addr: SocketAddr,
    key: &SiteKey,
    expected: KeySet,
    config: &TransportConfig,
) -> Result<QuicLink, ConnectError> {
    connect(addr, key, Expected::Listed(expected), config, true)
}

/// As [`dial`], with keys that may change: [`TrustedKeys::set`] ends the link when its peer's key is
/// trusted no more.
///
/// # Errors
/// [`ConnectError`], within the handshake timeout.
pub fn dial_trusting(
    addr: SocketAddr,
    key: &SiteKey,
    trusted: &TrustedKeys,
    config: &TransportConfig,
) -> Result<QuicLink, ConnectError> {
    let link = connect(addr, key, Expected::Listed(trusted.current()), config, true)?;
    if trusted.admit(&link) {
        return Ok(link);
    }
    let (expected, found) = (trusted.current(), link.peer());
    Err(ConnectError::IdentityRejected { addr, expected, found })
}

/// Dials an endpoint for pairing ([`crate::PAIRING_ALPN`]) and takes whatever key it proves. What it says
/// is not to be believed; see [`crate::Listener::bind_pairing`].
///
/// # Errors
/// [`ConnectError`], within the handshake timeout.
pub fn dial_pairing(
    addr: SocketAddr,
    key: &SiteKey,
    config: &TransportConfig,
) -> Result<QuicLink, ConnectError> {
    connect(addr, key, Expected::Anyone, config, true)
}

/// Dials `addr` and returns once the peer proved its key: one round trip. That the peer refuses ours
/// shows at the first call that waits for it, as [`crate::LostCause::KeyRefused`]. What is sent
/// before is safe: it goes to the pinned peer only, and cannot be replayed.
///
/// # Errors
/// [`ConnectError`], within the handshake timeout.
pub fn dial_eager(
    addr: SocketAddr,
    key: &SiteKey,
    expected: KeySet,
    config: &TransportConfig,
) -> Result<QuicLink, ConnectError> {
    connect(addr, key, Expected::Listed(expected), config, false)
}

/// Whose key a dialed endpoint may prove.
enum Expected {
    Listed(KeySet),
    Anyone,
}

fn connect(
    addr: SocketAddr,
    key: &SiteKey,
    expected: Expected,
    config: &TransportConfig,
    confirm: bool,
) -> Result<QuicLink, ConnectError> {
    let provider = crypto_provider();
    let identity = key.certified(&provider)?;
    let (purpose, expected) = match expected {
        Expected::Listed(keys) => (Purpose::Session, keys),
        Expected::Anyone => (Purpose::Pairing, KeySet::new()),
    };
    let pins = PinVerifier::with_purpose(purpose, expected, provider);
    let mut client = ClientConfig::new(Arc::new(client_tls(identity, Arc::clone(&pins))?));
    let closing = Closing::default();
    let gate = Gate::new(PathMtu::to(addr, config));
    client.transport_config(config.quinn(0, &closing, &gate));

    let local = SocketAddr::new(unspecified_like(addr), 0);
    let net = Net::start(local, config, None, AtEnd::Linger)
        .map_err(|source| ConnectError::Local { addr, source })?;
    let gate = net.socket.gate(addr, &gate);
    let dialing = Dialing { addr, ours: key.key_id(), pins: &pins, net: &net, config };
    let (connection, control) = net.handle.block_on(dialing.run(client, confirm))?;
    let Sighting::Proven(peer) = pins.sighting() else {
        // TLS cannot complete without it; should it ever, nothing may go on.
        let detail = "the peer's key was not verified".to_owned();
        return Err(ConnectError::Handshake { addr, detail });
    };
    let preamble_pending = !confirm;
    let net = Arc::new(net);
    let parts =
        LinkParts { connection, net, peer, control, preamble_pending, slot: None, closing, gate };
    Ok(QuicLink::new(parts, config))
}

/// One attempt.
struct Dialing<'a> {
    addr: SocketAddr,
    ours: KeyId,
    pins: &'a PinVerifier,
    net: &'a Net,
    config: &'a TransportConfig,
}

type Dialed = (Connection, (quinn::SendStream, quinn::RecvStream));

impl Dialing<'_> {
    async fn run(&self, client: ClientConfig, confirm: bool) -> Result<Dialed, ConnectError> {
        let addr = self.addr;
        let deadline = Instant::now() + self.config.handshake_timeout;
        let connecting = self
            .net
            .endpoint
            .connect_with(client, addr, SERVER_NAME)
            .map_err(|source| ConnectError::BadAddress { addr, source })?;
        let handshake = async {
            tokio::select! {
                connected = connecting => connected.map_err(|lost| self.failure(lost)),
                source = unreachable_notice(addr) => {
                    Err(ConnectError::Unreachable { addr, source })
                }
            }
        };
        let connection = timeout_at(deadline, handshake)
            .await
            .map_err(|_| self.timed_out("complete the handshake"))??;
        let preamble = async {
            let (send, mut receive) = preamble::open(&connection).await?;
            if confirm {
                preamble::hear(&mut receive).await?;
            }
            Ok((send, receive))
        };
        let control = timeout_at(deadline, preamble)
            .await
            .map_err(|_| self.timed_out("accept this site's key"))?
            .map_err(|error| match error {
                PreambleError::Connection(lost) => self.failure(lost),
                PreambleError::Wrong => ConnectError::VersionMismatch { addr },
            })?;
        Ok((connection, control))
    }

    fn timed_out(&self, step: &'static str) -> ConnectError {
        let (addr, after) = (self.addr, self.config.handshake_timeout);
        if self.net.socket.heard_anything() {
            return ConnectError::TimedOut { addr, step, after };
        }
        let source = io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {after:?}"));
        ConnectError::Unreachable { addr, source }
    }

    fn failure(&self, lost: ConnectionError) -> ConnectError {
        use ConnectionError as E;
        let (addr, ours) = (self.addr, self.ours);
        let expected = self.pins.allowed().clone();
        match (self.pins.sighting(), lost) {
            (Sighting::Unlisted(found), _) => {
                ConnectError::IdentityRejected { addr, expected, found }
            }
            (Sighting::Unreadable | Sighting::Forged(_), source) => {
                ConnectError::IdentityUnproven { addr, expected, source }
            }
            (_, E::TimedOut) => self.timed_out("complete the handshake"),
            (_, E::VersionMismatch) => ConnectError::VersionMismatch { addr },
            (_, E::TransportError(error)) if error.code == no_protocol() => {
                ConnectError::VersionMismatch { addr }
            }
            (_, E::ConnectionClosed(close)) if close.error_code == no_protocol() => {
                ConnectError::VersionMismatch { addr }
            }
            (_, E::ConnectionClosed(close)) if is_key_refusal(close.error_code) => {
                ConnectError::ByPeerRefused { addr, ours }
            }
            (_, E::ConnectionClosed(close))
                if close.error_code == TransportErrorCode::CONNECTION_REFUSED =>
            {
                let (code, reason) = (close.error_code.into(), escape(&close.reason));
                ConnectError::Busy { addr, code, reason }
            }
            (_, E::ApplicationClosed(close)) => {
                let code = close.error_code.into_inner();
                ConnectError::Busy { addr, code, reason: escape(&close.reason) }
            }
            (_, other) => {
                ConnectError::Handshake { addr, detail: escape(other.to_string().as_bytes()) }
            }
        }
    }
}

/// The TLS alert no_application_protocol.
pub(crate) fn no_protocol() -> TransportErrorCode {
    TransportErrorCode::crypto(120)
}

/// Resolves when the network says that `addr` cannot be reached or nothing listens there: QUIC's own
/// socket is not connected, so the system tells it nothing. One byte, which no QUIC endpoint answers,
/// provokes the notice.
async fn unreachable_notice(addr: SocketAddr) -> io::Error {
    let probe = async {
        let socket = UdpSocket::bind(SocketAddr::new(unspecified_like(addr), 0)).await?;
        socket.connect(addr).await?;
        socket.send(&[0]).await?;
        let mut answer = [0; 1];
        loop {
            socket.recv(&mut answer).await?;
        }
    };
    let never: io::Result<std::convert::Infallible> = probe.await;
    match never {
        Err(error) => error,
    }
}

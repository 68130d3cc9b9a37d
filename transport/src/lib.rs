//! QUIC links between pinned sites.
//!
//! Guarantees: both ends of a link proved possession of a pinned key (TLS 1.3, mutual, no early
//! data, no resumption); what the peer sends is bounded before memory is spent on it; a peer that
//! fails its handshake costs other peers nothing. It refuses certificates as identity (authority,
//! name, address and dates mean nothing here, the key alone does) and every limit a peer proposes
//! above our own. Nothing of a link survives a crash; the site key file does.
//!
//! The interface blocks and is meant for ordinary threads: each endpoint runs its own
//! single-threaded runtime on its own thread. Calling it from inside an async runtime is refused by
//! tokio with a panic.

mod config;
mod congestion;
mod dial;
mod endpoint;
mod error;
mod half_open;
mod identity;
mod listen;
mod path;
mod preamble;
mod quic_link;
mod signing;
mod socket;
mod stream;
mod trust;
mod trusted;

pub use config::{Congestion, DATAGRAM_BYTES_MAX, TransportConfig};
pub use dial::{ConnectError, dial, dial_eager, dial_pairing, dial_trusting};
pub use error::{LostCause, Retry, escape};
pub use identity::{CertificateError, KeyId, KeyIdError, SiteKey, SiteKeyError};
pub use listen::{AcceptError, BindError, Incoming, Listener, Refusal, RefusalCode};
pub use quic_link::{QuicLink, WeakLink};
pub use signing::{Signature, SignatureError};
pub use trust::{ALPN, KeySet, PAIRING_ALPN, TlsSetupError};
pub use trusted::TrustedKeys;

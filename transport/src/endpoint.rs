//! The thread, runtime and socket under a listener or a dialed link.
//!
//! Guarantees that one thread owns all network work of an endpoint, that nothing the owner of a link
//! does can stall it, and that the thread ends after the last link. It refuses to be waited for from
//! its own thread. No link survives a crash; but a listener that starts anew with the same key tells
//! the peers of its former life so (QUIC's stateless reset), and they need not wait for a timeout.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use quinn::{Endpoint, EndpointConfig, ServerConfig, TokioRuntime, crypto::HmacKey};
use quinn_proto::RandomConnectionIdGenerator;
use quinn_proto::{HashedConnectionIdGenerator, crypto::CryptoError};
use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
    time::timeout,
};

use crate::{config::TransportConfig, socket::Socket};

/// How long a dialed endpoint stays to repeat a close that was lost.
const LINGER: Duration = Duration::from_secs(3);

/// What the end of an endpoint does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtEnd {
    /// The thread stays for a moment on its own, so that a lost close is repeated.
    Linger,
    /// The thread ends before the drop returns, so that the address is free.
    Release,
}

/// A running endpoint. The last owner's drop ends it.
#[derive(Debug)]
pub(crate) struct Net {
    pub(crate) handle: Handle,
    pub(crate) endpoint: Endpoint,
    pub(crate) socket: Arc<Socket>,
    at_end: AtEnd,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Net {
    /// Binds `addr` and starts the endpoint's thread. A listener gives its settings and its key's
    /// [`crate::SiteKey::reset_secret`].
    pub(crate) fn start(
        addr: SocketAddr,
        config: &TransportConfig,
        server: Option<(ServerConfig, [u8; 32])>,
        at_end: AtEnd,
    ) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (endpoint, socket) = {
            let _within = handle.enter();
            let socket = Arc::new(Socket::bind(addr, config)?);
            let (server, secret) = server.unzip();
            let mut settings = secret.map_or_else(EndpointConfig::default, resettable);
            settings
                .max_udp_payload_size(config.datagram_receive_bytes())
                .map_err(io::Error::other)?;
            if server.is_none() {
                // One connection needs no names for itself: shorter headers, none to hand out.
                settings.cid_generator(|| Box::new(RandomConnectionIdGenerator::new(0)));
            }
            let abstract_socket = Arc::clone(&socket);
            let endpoint = Endpoint::new_with_abstract_socket(
                settings,
                server,
                abstract_socket,
                Arc::new(TokioRuntime),
            )?;
            (endpoint, socket)
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let lingering = endpoint.clone();
        let thread = thread::Builder::new().name("farshore-net".to_owned()).spawn(move || {
            runtime.block_on(async move {
                // Stops on a word and on a lost owner alike.
                drop(stopped.await);
                if at_end == AtEnd::Linger {
                    drop(timeout(LINGER, lingering.wait_idle()).await);
                }
            });
        })?;
        Ok(Self { handle, endpoint, socket, at_end, stop: Some(stop), thread: Some(thread) })
    }
}

/// Settings under which the links of a former process with the same secret can be reset.
fn resettable(secret: [u8; 32]) -> EndpointConfig {
    let mut settings = EndpointConfig::new(Arc::new(ResetKey(secret)));
    let ids = u64::from_le_bytes(
        *blake3::keyed_hash(&secret, b"connection ids").as_bytes().first_chunk().unwrap_or(&[0; 8]),
    );
    settings.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
    settings
}

/// BLAKE3 as the keyed hash that makes reset tokens.
struct ResetKey([u8; 32]);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(blake3::keyed_hash(&self.0, data).as_bytes());
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let signature = signature.try_into().map_err(|_| CryptoError)?;
        // Compared in constant time.
        let same = blake3::keyed_hash(&self.0, data) == blake3::Hash::from_bytes(signature);
        same.then_some(()).ok_or(CryptoError)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // A thread that is gone needs no word.
            stop.send(()).ok();
        }
        let Some(thread) = self.thread.take() else { return };
        let within_itself = thread.thread().id() == thread::current().id();
        if self.at_end == AtEnd::Release && !within_itself {
            // A panic there was reported there; here it only means that the thread is gone.
            drop(thread.join());
        }
    }
}

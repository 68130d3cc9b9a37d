//! Who is let in, who is not, and what each is told.

mod support;

use std::{
    io::Write,
    net::{SocketAddr, UdpSocket},
    os::unix::fs::OpenOptionsExt,
    sync::{Arc, mpsc::Receiver},
    thread,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use farshore_proto::link::{Link, LinkError};
use farshore_transport::{
    AcceptError, ConnectError, KeyId, KeySet, Listener, LostCause, Refusal, RefusalCode, Retry,
    SiteKey, TransportConfig, dial, dial_eager,
};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::{
    DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    sign::{CertifiedKey, SingleCertAndKey},
};
use support::{PATIENCE, key, keys, listener, loopback};

fn config() -> TransportConfig {
    TransportConfig::loopback()
}

fn refusal(refused: &Receiver<Refusal>) -> RefusalCode {
    refused.recv_timeout(PATIENCE).expect("a refusal").code
}

/// A stranger's TLS: no pins, and whatever certificate the test wants shown.
mod stranger {
    use super::*;

    #[derive(Debug)]
    struct TrustsAll;

    impl ServerCertVerifier for TrustsAll {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            provider().signature_verification_algorithms.supported_schemes()
        }
    }

    pub(super) fn provider() -> Arc<CryptoProvider> {
        Arc::new(aws_lc_rs::default_provider())
    }

    /// A certificate of one key, signed for with another.
    pub(super) fn mismatched(
        shown: &rcgen::KeyPair,
        signing: &rcgen::KeyPair,
    ) -> Arc<SingleCertAndKey> {
        let certificate = rcgen::CertificateParams::new(vec!["x".to_owned()])
            .and_then(|params| params.self_signed(shown))
            .expect("certificate");
        let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing.serialize_der()));
        let signer = provider().key_provider.load_private_key(secret).expect("signer");
        let shown = CertifiedKey::new(vec![certificate.der().clone()], signer);
        Arc::new(SingleCertAndKey::from(shown))
    }

    pub(super) fn client(shown: Option<Arc<SingleCertAndKey>>, alpn: &[u8]) -> quinn::ClientConfig {
        let tls = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TrustsAll));
        let mut tls = match shown {
            Some(shown) => tls.with_client_cert_resolver(shown),
            None => tls.with_no_client_auth(),
        };
        tls.alpn_protocols = vec![alpn.to_vec()];
        tls.enable_early_data = true;
        quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("quic")))
    }

    pub(super) fn server(shown: Arc<SingleCertAndKey>, alpn: &[u8]) -> quinn::ServerConfig {
        let mut tls = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("versions")
            .with_no_client_auth()
            .with_cert_resolver(shown);
        tls.alpn_protocols = vec![alpn.to_vec()];
        let tls = QuicServerConfig::try_from(tls).expect("quic");
        quinn::ServerConfig::with_crypto(Arc::new(tls))
    }

    /// Runs a foreign endpoint on a runtime of its own.
    pub(super) fn run<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("runtime").block_on(work)
    }

    /// Connects as a stranger until the listener throws it out.
    pub(super) fn connect(addr: SocketAddr, client: quinn::ClientConfig) {
        run(async {
            let endpoint = quinn::Endpoint::client(loopback()).expect("endpoint");
            let connecting = endpoint.connect_with(client, addr, "farshore").expect("connect");
            if let Ok(connection) = connecting.await {
                connection.closed().await;
            }
        });
    }

    /// Answers one dialer as a stranger, in the background.
    pub(super) fn serve(server: quinn::ServerConfig) -> SocketAddr {
        let (told, addr) = std::sync::mpsc::channel();
        thread::spawn(move || {
            run(async {
                let endpoint = quinn::Endpoint::server(server, loopback()).expect("endpoint");
                told.send(endpoint.local_addr().expect("address")).expect("told");
                while let Some(incoming) = endpoint.accept().await {
                    tokio::spawn(async move {
                        if let Ok(connection) = incoming.await {
                            connection.closed().await;
                        }
                    });
                }
            });
        });
        addr.recv().expect("address")
    }
}

/// A site key whose secret the test knows too.
fn known_key() -> (rcgen::KeyPair, SiteKey) {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("key");
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("site.key");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&path).expect("file");
    file.write_all(pair.serialize_pem().as_bytes()).expect("write");
    let key = SiteKey::load(&path).expect("load");
    (pair, key)
}

/// The listener still takes honest peers.
fn assert_honest_peer_connects(listener: &Listener, honest: &SiteKey, server: KeyId) {
    let began = Instant::now();
    let link = dial(listener.local_addr(), honest, server.into(), &config()).expect("honest");
    let accepted = listener.accept().expect("accept");
    assert_eq!(accepted.peer, honest.key_id());
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    link.send_control(Bytes::from_static(b"hello")).expect("send");
    assert_eq!(accepted.link.recv_control().expect("receive").expect("some"), "hello");
}

#[test]
fn a_server_with_another_key_is_rejected_by_name() {
    let (here, there, pinned) = (key(), key(), key());
    let (listener, refused) = listener(&there, here.key_id().into(), config());
    let error = dial(listener.local_addr(), &here, pinned.key_id().into(), &config())
        .expect_err("wrong key");
    assert_eq!(error.retry(), Retry::Never);
    let words = error.to_string();
    let ConnectError::IdentityRejected { expected, found, .. } = error else { panic!("{error}") };
    assert_eq!((expected, found), (pinned.key_id().into(), there.key_id()));
    assert!(words.contains(&there.key_id().to_string()), "{words}");
    assert_eq!(refusal(&refused), RefusalCode::RefusedOurKey);
    assert_honest_peer_connects(&listener, &here, there.key_id());
}

#[test]
fn an_unlisted_client_is_refused_and_told_so() {
    let (honest, stranger, there) = (key(), key(), key());
    let (listener, refused) = listener(&there, honest.key_id().into(), config());
    let error = dial(listener.local_addr(), &stranger, there.key_id().into(), &config())
        .expect_err("unlisted");
    assert!(
        matches!(&error, ConnectError::ByPeerRefused { ours, .. } if *ours == stranger.key_id()),
        "{error}"
    );
    assert_eq!(refusal(&refused), RefusalCode::UnlistedKey { found: stranger.key_id() });

    // Without waiting for the peer's word the refusal shows later, at the latest at the first read.
    match dial_eager(listener.local_addr(), &stranger, there.key_id().into(), &config()) {
        Err(error) => assert!(matches!(error, ConnectError::ByPeerRefused { .. }), "{error}"),
        Ok(eager) => {
            let error = eager.recv_control().expect_err("refused");
            let LinkError::Lost { source, .. } = error else { panic!("{error}") };
            assert_eq!(source.downcast_ref(), Some(&LostCause::KeyRefused));
        }
    }
    assert_honest_peer_connects(&listener, &honest, there.key_id());
}

#[test]
fn nobody_is_let_in_by_an_empty_set() {
    let (here, there) = (key(), key());
    let (listener, _refused) = listener(&there, KeySet::new(), config());
    let to_it = dial(listener.local_addr(), &here, there.key_id().into(), &config());
    assert!(matches!(to_it, Err(ConnectError::ByPeerRefused { .. })), "{to_it:?}");
    let from_it = dial(listener.local_addr(), &here, KeySet::new(), &config());
    assert!(matches!(from_it, Err(ConnectError::IdentityRejected { .. })), "{from_it:?}");
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let (honest, there) = (key(), key());
    let (listener, refused) = listener(&there, honest.key_id().into(), config());
    stranger::connect(listener.local_addr(), stranger::client(None, b"farshore/1"));
    assert_eq!(refusal(&refused), RefusalCode::NoCertificate);
    assert_honest_peer_connects(&listener, &honest, there.key_id());
}

#[test]
fn a_client_that_copies_a_certificate_is_refused() {
    let ((pair, honest), there) = (known_key(), key());
    let (listener, refused) = listener(&there, honest.key_id().into(), config());
    let thief = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("key");
    let shown = stranger::mismatched(&pair, &thief);
    stranger::connect(listener.local_addr(), stranger::client(Some(shown), b"farshore/1"));
    assert_eq!(refusal(&refused), RefusalCode::ForgedKey { claimed: honest.key_id() });
    assert_honest_peer_connects(&listener, &honest, there.key_id());
}

#[test]
fn a_server_that_copies_a_certificate_is_refused() {
    let ((pair, there), here) = (known_key(), key());
    let thief = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("key");
    let shown = stranger::mismatched(&pair, &thief);
    let addr = stranger::serve(stranger::server(shown, b"farshore/1"));
    let error = dial(addr, &here, there.key_id().into(), &config()).expect_err("forged");
    assert!(matches!(error, ConnectError::IdentityUnproven { .. }), "{error}");
}

#[test]
fn another_protocol_is_refused_at_both_ends() {
    let ((pair, known), there) = (known_key(), key());
    let (listener, refused) = listener(&there, known.key_id().into(), config());
    for alpn in [b"farshore/2".as_slice(), b"h3"] {
        let shown = Some(stranger::mismatched(&pair, &pair));
        stranger::connect(listener.local_addr(), stranger::client(shown, alpn));
        assert_eq!(refusal(&refused), RefusalCode::WrongProtocol);
    }
    let shown = stranger::mismatched(&pair, &pair);
    let addr = stranger::serve(stranger::server(shown, b"farshore/2"));
    let error = dial(addr, &there, known.key_id().into(), &config()).expect_err("version");
    assert!(matches!(error, ConnectError::VersionMismatch { .. }), "{error}");
    assert_honest_peer_connects(&listener, &known, there.key_id());
}

#[test]
fn a_peer_that_speaks_tls_but_not_our_preamble_is_refused() {
    let ((pair, known), there) = (known_key(), key());
    let (listener, refused) = listener(&there, known.key_id().into(), config());
    let addr = listener.local_addr();
    stranger::run(async {
        let endpoint = quinn::Endpoint::client(loopback()).expect("endpoint");
        let client = stranger::client(Some(stranger::mismatched(&pair, &pair)), b"farshore/1");
        let connecting = endpoint.connect_with(client, addr, "farshore").expect("connect");
        let connection = connecting.await.expect("allowed key");
        let (mut send, _receive) = connection.open_bi().await.expect("stream");
        send.write_all(b"GET / HTTP/1.1").await.expect("write");
        connection.closed().await;
    });
    assert_eq!(refusal(&refused), RefusalCode::WrongProtocol);
    assert_honest_peer_connects(&listener, &known, there.key_id());
}

#[test]
fn nothing_can_be_sent_before_the_handshake_ends_even_the_second_time() {
    let ((pair, known), there) = (known_key(), key());
    let (listener, _refused) = listener(&there, known.key_id().into(), config());
    let addr = listener.local_addr();
    stranger::run(async {
        let endpoint = quinn::Endpoint::client(loopback()).expect("endpoint");
        let client = stranger::client(Some(stranger::mismatched(&pair, &pair)), b"farshore/1");
        for _ in 0..2 {
            let connecting =
                endpoint.connect_with(client.clone(), addr, "farshore").expect("connect");
            let connecting = connecting.into_0rtt().map(|_| ()).expect_err("no ticket, no 0-RTT");
            let connection = connecting.await.expect("allowed key");
            let (mut send, mut receive) = connection.open_bi().await.expect("stream");
            send.write_all(b"FSL1").await.expect("write");
            // A ticket would come with or before this.
            receive.read_exact(&mut [0; 4]).await.expect("read");
            connection.close(0_u32.into(), b"");
        }
    });
}

#[test]
fn keys_rotate_without_a_refused_honest_peer() {
    let (current, next, there, there_next) = (key(), key(), key(), key());
    let (listener, refused) = listener(&there, keys([&current, &next]), config());
    let addr = listener.local_addr();
    let servers = keys([&there, &there_next]);
    let held = dial(addr, &current, servers.clone(), &config()).expect("current");
    let accepted = listener.accept().expect("accept").link;
    drop(dial(addr, &next, servers.clone(), &config()).expect("next"));
    listener.set_key(&there_next).expect("new server key");
    let renewed = dial(addr, &next, servers, &config()).expect("new server key is pinned too");
    assert_eq!(renewed.peer(), there_next.key_id());
    listener.set_allowed(keys([&next]));
    let old = dial(addr, &current, there_next.key_id().into(), &config());
    assert!(matches!(old, Err(ConnectError::ByPeerRefused { .. })), "{old:?}");
    assert_eq!(refusal(&refused), RefusalCode::UnlistedKey { found: current.key_id() });
    let old_server = dial(addr, &next, there.key_id().into(), &config());
    assert!(matches!(old_server, Err(ConnectError::IdentityRejected { .. })), "{old_server:?}");
    // The link from before rotation was not touched.
    held.send_control(Bytes::from_static(b"still here")).expect("send");
    assert_eq!(accepted.recv_control().expect("receive").expect("some"), "still here");
}

#[test]
fn a_closed_port_is_known_at_once_and_a_silent_one_in_time() {
    let (here, there) = (key(), key());
    let closed = UdpSocket::bind(loopback()).and_then(|socket| socket.local_addr()).expect("addr");
    let began = Instant::now();
    let error = dial(closed, &here, there.key_id().into(), &config()).expect_err("closed");
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
    assert_eq!(error.retry(), Retry::Backoff);
    assert!(began.elapsed() < Duration::from_secs(2));

    let silent = UdpSocket::bind(loopback()).expect("bind");
    let addr = silent.local_addr().expect("address");
    let impatient = TransportConfig { handshake_timeout: Duration::from_millis(300), ..config() };
    let error = dial(addr, &here, there.key_id().into(), &impatient).expect_err("silent");
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(4));
}

#[test]
fn more_links_than_allowed_are_told_to_come_later() {
    let (here, there) = (key(), key());
    let one = TransportConfig { links_max: 1, ..config() };
    let (listener, refused) = listener(&there, here.key_id().into(), one);
    let addr = listener.local_addr();
    let first = dial(addr, &here, there.key_id().into(), &config()).expect("first");
    let accepted = listener.accept().expect("accept");
    let error = dial(addr, &here, there.key_id().into(), &config()).expect_err("second");
    assert!(matches!(error, ConnectError::Busy { code: 4, .. }), "{error}");
    assert_eq!(refusal(&refused), RefusalCode::TooManyLinks);
    drop((first, accepted));
    assert_honest_peer_connects(&listener, &here, there.key_id());
}

#[test]
fn closing_unblocks_accept_and_spares_links() {
    let (here, there) = (key(), key());
    let (listener, _refused) = listener(&there, here.key_id().into(), config());
    let addr = listener.local_addr();
    let dialed = dial(addr, &here, there.key_id().into(), &config()).expect("dial");
    let accepted = listener.accept().expect("accept").link;
    thread::scope(|scope| {
        let waiting = scope.spawn(|| listener.accept().map(|_| ()));
        listener.close();
        assert_eq!(waiting.join().expect("thread"), Err(AcceptError::Closed { addr }));
    });
    dialed.send_control(Bytes::from_static(b"alive")).expect("send");
    assert_eq!(accepted.recv_control().expect("receive").expect("some"), "alive");
    let impatient = TransportConfig { handshake_timeout: Duration::from_millis(300), ..config() };
    dial(addr, &here, there.key_id().into(), &impatient).expect_err("nobody accepts");
    drop((listener, accepted));
    // The address is free again.
    Listener::bind(addr, &there, here.key_id().into(), config()).expect("bind again");
}

/// Begins a handshake, proves its address if asked to, and never ends it.
fn stall(addr: SocketAddr, client: &quinn::ClientConfig) -> UdpSocket {
    let socket = UdpSocket::bind(loopback()).expect("bind");
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("timeout");
    let settings = Arc::new(quinn_proto::EndpointConfig::default());
    let mut endpoint = quinn_proto::Endpoint::new(settings, None, true, None);
    let now = Instant::now();
    let (_, mut connection) =
        endpoint.connect(now, client.clone(), addr, "farshore").expect("connect");
    let send = |connection: &mut quinn_proto::Connection| {
        let mut datagram = Vec::new();
        while let Some(transmit) = connection.poll_transmit(now, 1, &mut datagram) {
            socket.send_to(&datagram[..transmit.size], addr).expect("send");
            datagram.clear();
        }
    };
    send(&mut connection);
    let mut answer = [0; 2_048];
    let Ok(len) = socket.recv(&mut answer) else { return socket };
    let is_retry = answer[0] & 0xf0 == 0xf0;
    if is_retry {
        let event =
            endpoint.handle(now, addr, None, None, BytesMut::from(&answer[..len]), &mut Vec::new());
        if let Some(quinn_proto::DatagramEvent::ConnectionEvent(_, event)) = event {
            connection.handle_event(event);
            send(&mut connection);
        }
    }
    socket
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("KiB") << 10
}

#[test]
fn an_honest_peer_connects_while_a_thousand_handshakes_hang() {
    let (honest, there) = (key(), key());
    let (listener, refused) = listener(&there, honest.key_id().into(), config());
    let addr = listener.local_addr();
    let client = stranger::client(None, b"farshore/1");
    let before = resident_bytes();
    let held: Vec<_> = (0..1_000).map(|_| stall(addr, &client)).collect();
    // All of them are known to the listener once the last was answered: the oldest were evicted.
    assert_eq!(listener.half_open(), config().half_open_max);
    assert_honest_peer_connects(&listener, &honest, there.key_id());
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes");
    assert_eq!(refusal(&refused), RefusalCode::Evicted);
    drop(held);
}

#[test]
fn first_packets_that_answer_nothing_hold_little_and_garbage_nothing() {
    let (honest, there) = (key(), key());
    let (listener, _refused) = listener(&there, honest.key_id().into(), config());
    let addr = listener.local_addr();
    let client = stranger::client(None, b"farshore/1");
    let socket = UdpSocket::bind(loopback()).expect("bind");
    let settings = Arc::new(quinn_proto::EndpointConfig::default());
    let mut endpoint = quinn_proto::Endpoint::new(settings, None, true, None);
    for n in 0..2_000_u64 {
        let now = Instant::now();
        let (_, mut connection) =
            endpoint.connect(now, client.clone(), addr, "farshore").expect("connect");
        let mut datagram = Vec::new();
        let transmit = connection.poll_transmit(now, 1, &mut datagram).expect("a first packet");
        socket.send_to(&datagram[..transmit.size], addr).expect("send");
        socket.send_to(&support::pattern(n, 1_200), addr).expect("send");
    }
    assert_honest_peer_connects(&listener, &honest, there.key_id());
    // One more than the bound may be in the making.
    assert!(listener.half_open() <= config().retry_above_half_open + 1);
}

#[test]
fn a_stalled_handshake_is_given_up_in_time() {
    let (honest, there) = (key(), key());
    let impatient = TransportConfig { handshake_timeout: Duration::from_millis(300), ..config() };
    let (listener, refused) = listener(&there, honest.key_id().into(), impatient);
    let _held = stall(listener.local_addr(), &stranger::client(None, b"farshore/1"));
    assert_eq!(refusal(&refused), RefusalCode::TimedOut);
    assert_eq!(listener.half_open(), 0);
}

#[test]
fn an_oversize_announcement_is_refused_before_memory_is_spent() {
    let ((pair, known), there) = (known_key(), key());
    let (listener, _refused) = listener(&there, known.key_id().into(), config());
    let addr = listener.local_addr();
    let hostile = thread::spawn(move || {
        stranger::run(async {
            let endpoint = quinn::Endpoint::client(loopback()).expect("endpoint");
            let client = stranger::client(Some(stranger::mismatched(&pair, &pair)), b"farshore/1");
            let connecting = endpoint.connect_with(client, addr, "farshore").expect("connect");
            let connection = connecting.await.expect("allowed key");
            let (mut send, _receive) = connection.open_bi().await.expect("stream");
            send.write_all(b"FSL1\xff\xff\xff\xffrest").await.expect("write");
            connection.closed().await;
        });
    });
    let link = listener.accept().expect("accept").link;
    for _ in 0..2 {
        let error = link.recv_control().expect_err("too large");
        assert!(matches!(error, LinkError::MessageTooLarge { len: 0xffff_ffff, .. }), "{error}");
    }
    link.close(3, "too large");
    hostile.join().expect("thrown out");
}

//! What the tests of a link share. Guarantees that nothing waits longer than its own deadline.

#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test file uses a part of it")]

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, channel},
    },
    thread,
    time::Duration,
};

use farshore_transport::{
    Incoming, KeySet, Listener, QuicLink, Refusal, SiteKey, TransportConfig, dial,
};

pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub fn key() -> SiteKey {
    SiteKey::generate().expect("key")
}

pub fn keys<'a>(keys: impl IntoIterator<Item = &'a SiteKey>) -> KeySet {
    keys.into_iter().map(SiteKey::key_id).collect()
}

/// A listener whose refusals come out of a channel.
pub fn listener(
    key: &SiteKey,
    allowed: KeySet,
    config: TransportConfig,
) -> (Listener, Receiver<Refusal>) {
    let (refusals, refused) = channel();
    let listener = Listener::bind_with_audit(loopback(), key, allowed, config, move |refusal| {
        drop(refusals.send(refusal));
    });
    (listener.expect("bind"), refused)
}

/// The two ends of a link: dialed, accepted, and the listener that must outlive neither.
pub fn pair(config: &TransportConfig) -> (QuicLink, QuicLink, Listener) {
    let (here, there) = (key(), key());
    let (listener, _) = listener(&there, here.key_id().into(), config.clone());
    let dialed = dial(listener.local_addr(), &here, there.key_id().into(), config).expect("dial");
    let Incoming { link, peer, .. } = listener.accept().expect("accept");
    assert_eq!(peer, here.key_id());
    assert_eq!(dialed.peer(), there.key_id());
    (dialed, link, listener)
}

/// Bytes that differ everywhere and are known at both ends.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut state = seed | 1;
    for word in bytes.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
    }
    bytes
}

/// A UDP line between two ends that can be cut.
pub struct Line {
    pub addr: SocketAddr,
    cut: Arc<AtomicBool>,
    carried: Arc<Carried>,
}

/// Sizes of the datagrams each end put on a line, in order.
#[derive(Debug, Default)]
pub struct Carried {
    pub from_dialer: Mutex<Vec<usize>>,
    pub from_listener: Mutex<Vec<usize>>,
}

impl Line {
    /// Forwards between whoever sends to [`Line::addr`] and `to`.
    pub fn to(to: SocketAddr) -> Self {
        let near = UdpSocket::bind(loopback()).expect("bind");
        let far = UdpSocket::bind(loopback()).expect("bind");
        far.connect(to).expect("connect");
        let addr = near.local_addr().expect("address");
        let cut = Arc::new(AtomicBool::new(false));
        let (near_in, far_in, cut_in) =
            (near.try_clone().expect("clone"), far.try_clone().expect("clone"), Arc::clone(&cut));
        let dialer = Arc::new(std::sync::OnceLock::<SocketAddr>::new());
        let known = Arc::clone(&dialer);
        let carried = Arc::new(Carried::default());
        let (outward, inward) = (Arc::clone(&carried), Arc::clone(&carried));
        thread::spawn(move || {
            let mut datagram = vec![0; 70_000];
            while let Ok((len, from)) = near_in.recv_from(&mut datagram) {
                outward.from_dialer.lock().expect("lock").push(len);
                // One byte is the dialer's probe, from another socket.
                if len > 1 && !cut_in.load(Ordering::SeqCst) {
                    known.get_or_init(|| from);
                    drop(far_in.send(&datagram[..len]));
                }
            }
        });
        let cut_out = Arc::clone(&cut);
        thread::spawn(move || {
            let mut datagram = vec![0; 70_000];
            while let Ok(len) = far.recv(&mut datagram) {
                inward.from_listener.lock().expect("lock").push(len);
                if let Some(dialer) = dialer.get()
                    && !cut_out.load(Ordering::SeqCst)
                {
                    drop(near.send_to(&datagram[..len], dialer));
                }
            }
        });
        Self { addr, cut, carried }
    }

    /// What each end put on the line so far, the one byte of the dialer's notice socket included.
    pub fn carried(&self) -> &Carried {
        &self.carried
    }

    pub fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }
}

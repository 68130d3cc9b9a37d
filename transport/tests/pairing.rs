//! Endpoints for pairing, and keys that are taken back while links are open.

mod support;

use std::sync::mpsc::channel;
use std::thread;

use bytes::Bytes;
use farshore_proto::link::{Link, LinkError};
use farshore_transport::{
    ConnectError, KeySet, Listener, RefusalCode, TransportConfig, TrustedKeys, dial, dial_pairing,
    dial_trusting,
};
use support::{PATIENCE, key, keys, listener, loopback};

#[test]
fn an_unknown_key_gets_a_link_for_pairing_and_both_ends_hold_one_secret() {
    let (here, there) = (key(), key());
    let config = TransportConfig::pairing();
    let endpoint =
        Listener::bind_pairing(loopback(), &there, config.clone(), |_| ()).expect("bind");
    let dialed = dial_pairing(endpoint.local_addr(), &here, &config).expect("dial");
    let accepted = endpoint.accept().expect("accept");
    assert_eq!((accepted.peer, dialed.peer()), (here.key_id(), there.key_id()));
    let secret = dialed.channel_binding().expect("secret");
    assert_eq!(accepted.link.channel_binding(), Some(secret));
    dialed.send_control(Bytes::from_static(b"hello")).expect("send");
    assert_eq!(accepted.link.recv_control().expect("receive").as_deref(), Some(&b"hello"[..]));
    // Another connection of the same two keys has another secret.
    let again = dial_pairing(endpoint.local_addr(), &here, &config).expect("dial");
    assert_ne!(again.channel_binding(), Some(secret));
}

#[test]
fn pairing_and_sessions_do_not_mix() {
    let (here, there) = (key(), key());
    let config = TransportConfig::pairing();
    let pairing = Listener::bind_pairing(loopback(), &there, config.clone(), |_| ()).expect("bind");
    let session = dial(pairing.local_addr(), &here, there.key_id().into(), &config);
    assert!(matches!(session, Err(ConnectError::VersionMismatch { .. })), "{session:?}");
    let (sessions, refused) = listener(&there, KeySet::new(), config.clone());
    let stranger = dial_pairing(sessions.local_addr(), &here, &config);
    assert!(matches!(stranger, Err(ConnectError::VersionMismatch { .. })), "{stranger:?}");
    let refusal = refused.recv_timeout(PATIENCE).expect("a refusal");
    assert_eq!(refusal.code, RefusalCode::WrongProtocol);
}

#[test]
fn a_revoked_key_loses_its_links_at_once_and_the_others_go_on() {
    let (good, bad, there) = (key(), key(), key());
    let trusted = TrustedKeys::new(keys([&good, &bad]));
    let config = TransportConfig::for_addr(loopback());
    let endpoint =
        Listener::bind_trusting(loopback(), &there, trusted.clone(), config.clone(), |_| ());
    let endpoint = endpoint.expect("bind");
    let addr = endpoint.local_addr();
    let open = |key| {
        let dialed = dial(addr, key, there.key_id().into(), &config).expect("dial");
        (dialed, endpoint.accept().expect("accept").link)
    };
    let (good_out, good_in) = open(&good);
    let (bad_out, bad_in) = open(&bad);
    let (waits, ended) = channel();
    let waiting = thread::spawn(move || {
        let heard = bad_out.recv_control();
        waits.send(()).expect("main waits");
        heard
    });
    assert_eq!(trusted.set(good.key_id().into()), [bad.key_id()]);
    ended.recv_timeout(PATIENCE).expect("the link ends");
    let heard = waiting.join().expect("thread");
    let told = matches!(&heard, Err(LinkError::ClosedByPeer { reason, .. }) if reason.contains("does not trust"));
    assert!(told, "{heard:?}");
    assert!(bad_in.send_control(Bytes::from_static(b"x")).is_err());
    good_out.send_control(Bytes::from_static(b"still")).expect("send");
    assert_eq!(good_in.recv_control().expect("receive").as_deref(), Some(&b"still"[..]));
    let again = dial(addr, &bad, there.key_id().into(), &config);
    assert!(matches!(again, Err(ConnectError::ByPeerRefused { .. })), "{again:?}");
}

#[test]
fn a_dialed_link_ends_with_the_trust_in_its_peer() {
    let (here, there) = (key(), key());
    let (listener, _) = listener(&there, here.key_id().into(), TransportConfig::default());
    let trusted = TrustedKeys::new(there.key_id().into());
    let config = TransportConfig::for_addr(listener.local_addr());
    let dialed = dial_trusting(listener.local_addr(), &here, &trusted, &config).expect("dial");
    let accepted = listener.accept().expect("accept");
    assert_eq!(trusted.set(KeySet::new()), [there.key_id()]);
    assert!(dialed.send_control(Bytes::from_static(b"x")).is_err());
    assert!(accepted.link.recv_control().is_err());
    let refused = dial_trusting(listener.local_addr(), &here, &trusted, &config);
    assert!(matches!(refused, Err(ConnectError::IdentityRejected { .. })), "{refused:?}");
}

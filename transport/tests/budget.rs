//! What a link puts on the wire.

mod support;

use std::{thread, time::Duration};

use bytes::Bytes;
use farshore_proto::link::{Link, LinkStats};
use farshore_transport::{QuicLink, TransportConfig, dial};
use support::{Line, key, listener};

/// One control message each way and an orderly close; the counters of both ends.
fn small_session(dialed: QuicLink, accepted: QuicLink, pause: Duration) -> [LinkStats; 2] {
    let message = Bytes::from(vec![9; 200]);
    thread::scope(|scope| {
        let answering = scope.spawn(|| {
            assert_eq!(accepted.recv_control().expect("receive"), Some(message.clone()));
            thread::sleep(pause);
            accepted.send_control(message.clone()).expect("send");
            accepted.finish_control().expect("finish");
            assert_eq!(accepted.recv_control().expect("receive"), None);
            assert!(accepted.accept_bulk().expect("closed in order").is_none());
            accepted.stats()
        });
        dialed.send_control(message.clone()).expect("send");
        assert_eq!(dialed.recv_control().expect("receive"), Some(message.clone()));
        assert_eq!(dialed.recv_control().expect("receive"), None);
        dialed.finish_control().expect("finish");
        dialed.drain().expect("drain");
        dialed.close(0, "");
        [dialed.stats(), answering.join().expect("answering")]
    })
}

#[test]
fn a_small_session_is_small() {
    for config in [TransportConfig::loopback(), TransportConfig::network()] {
        let (here, there) = (key(), key());
        let (listener, _refused) = listener(&there, here.key_id().into(), config.clone());
        let line = Line::to(listener.local_addr());
        let dialed = dial(line.addr, &here, there.key_id().into(), &config).expect("dial");
        let accepted = listener.accept().expect("accept").link;
        let [ours, theirs] = small_session(dialed, accepted, Duration::ZERO);
        thread::sleep(Duration::from_millis(100));
        let out = line.carried().from_dialer.lock().expect("lock").clone();
        let back = line.carried().from_listener.lock().expect("lock").clone();
        let (sent, answered): (usize, usize) = (out.iter().sum(), back.iter().sum());
        eprintln!("{sent} {answered} {out:?} {back:?} {ours:?} {theirs:?}");
    }
}

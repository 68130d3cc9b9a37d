//! What a link carries and how it ends.

mod support;

use std::{thread, time::Duration, time::Instant};

use bytes::Bytes;
use farshore_proto::link::{CONTROL_MESSAGE_MAX, Link, LinkError};
use farshore_transport::{LostCause, QuicLink, TransportConfig, dial, dial_eager};
use support::{Line, key, listener, pair, pattern};

fn cause(error: &LinkError) -> &LostCause {
    match error {
        LinkError::Lost { source, .. } => source.downcast_ref().expect("a LostCause"),
        other => panic!("not lost: {other}"),
    }
}

/// Sends and receives on both kinds of stream at once.
fn exchange(link: &QuicLink, ours: u64, theirs: u64) {
    const MESSAGES: usize = 200;
    const BULK_BYTES: usize = 48 << 20;
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..MESSAGES {
                let len = if n == 17 { CONTROL_MESSAGE_MAX } else { n * n };
                let message = pattern(ours ^ n as u64, len);
                link.send_control(message.into()).expect("send control");
            }
            link.finish_control().expect("finish control");
        });
        for stream in 0..3_u64 {
            scope.spawn(move || {
                let mut bulk = link.open_bulk().expect("open");
                bulk.write(Bytes::copy_from_slice(&stream.to_le_bytes())).expect("write");
                let mut bytes = Bytes::from(pattern(ours + stream * 2, BULK_BYTES));
                for len in [0, 1, 3, 70_000, 4 << 20] {
                    bulk.write(bytes.split_to(len)).expect("write");
                }
                bulk.write(bytes).expect("write");
                bulk.finish().expect("finish");
            });
            scope.spawn(move || {
                let mut bulk = link.accept_bulk().expect("accept").expect("a stream");
                let mut stream = [0; 8];
                assert!(bulk.read_exact(&mut stream).expect("read"));
                let expected = pattern(theirs + u64::from_le_bytes(stream) * 2, BULK_BYTES);
                let mut found = vec![0; BULK_BYTES];
                let (head, tail) = found.split_at_mut(12_345);
                assert!(bulk.read_exact(head).expect("read"));
                assert!(bulk.read_exact(tail).expect("read"));
                assert!(found == expected, "bulk content");
                assert!(!bulk.read_exact(&mut [0]).expect("end"));
                assert!(!bulk.read_exact(&mut [0]).expect("still the end"));
            });
        }
        for n in 0..MESSAGES {
            let len = if n == 17 { CONTROL_MESSAGE_MAX } else { n * n };
            let message = link.recv_control().expect("receive").expect("a message");
            assert!(message == pattern(theirs ^ n as u64, len), "control message {n}");
        }
        assert_eq!(link.recv_control().expect("end"), None);
        assert_eq!(link.recv_control().expect("still the end"), None);
    });
}

#[test]
fn both_ends_send_and_receive_everything() {
    for config in [TransportConfig::loopback(), TransportConfig::network()] {
        let (dialed, accepted, _listener) = pair(&config);
        thread::scope(|scope| {
            scope.spawn(|| exchange(&dialed, 1 << 32, 1 << 33));
            scope.spawn(|| exchange(&accepted, 1 << 33, 1 << 32));
        });
        let stats = dialed.stats();
        assert!(stats.sent_bytes > 144 << 20 && stats.received_bytes > 144 << 20, "{stats:?}");
        assert!(stats.rtt > Duration::ZERO);
    }
}

/// A target takes batches in order; those behind wait, with whatever has arrived of them.
#[test]
fn streams_nobody_reads_leave_the_others_their_window() {
    for config in [TransportConfig::loopback(), TransportConfig::network()] {
        let (dialed, accepted, _listener) = pair(&config);
        let window = config.stream_window_bytes as usize;
        let mut first = dialed.open_bulk().expect("open");
        first.write(Bytes::from_static(b"first")).expect("write");
        let mut reader = accepted.accept_bulk().expect("accept").expect("a stream");
        let others: Vec<_> = (1..config.bulk_streams_max)
            .map(|_| {
                let mut other = dialed.open_bulk().expect("as many as the peer allows");
                other.write(Bytes::from(vec![0; window])).expect("a window of it");
                other
            })
            .collect();
        assert_eq!(others.len() + 1, config.bulk_streams_max as usize);
        // If they held what the first needs, it would wait for them, and they for it.
        let (done, waited) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let sent = first.write(Bytes::from(vec![7; 3 * window]));
            done.send(sent.is_ok()).unwrap_or(());
            first.finish().unwrap_or(());
        });
        let reading = thread::spawn(move || {
            let mut found = vec![0; 5 + 3 * window];
            reader.read_exact(&mut found).unwrap_or(false)
        });
        let moved = waited.recv_timeout(support::PATIENCE);
        assert_eq!(moved, Ok(true), "the first stream stands still");
        assert!(reading.join().expect("the reader"));
        drop(others);
    }
}

#[test]
fn waiting_for_bytes_that_do_not_come_loses_none() {
    use farshore_proto::link::ReadSome;
    let (dialed, accepted, _listener) = pair(&TransportConfig::loopback());
    let mut bulk = dialed.open_bulk().expect("open");
    bulk.write(Bytes::from_static(b"abc")).expect("write");
    let mut incoming = accepted.accept_bulk().expect("accept").expect("a stream");
    let mut buf = [0; 2];
    let mut some = |patience| incoming.read_some(&mut buf, patience).map(|found| (found, buf));
    let (now, later) = (Duration::ZERO, Duration::from_secs(20));
    assert_eq!(some(later).expect("read"), (ReadSome::Bytes(2), *b"ab"));
    assert_eq!(some(later).expect("read"), (ReadSome::Bytes(1), *b"cb"));
    assert_eq!(some(now).expect("read").0, ReadSome::Nothing);
    bulk.write(Bytes::from_static(b"d")).expect("write");
    assert_eq!(some(later).expect("read"), (ReadSome::Bytes(1), *b"db"));
    bulk.finish().expect("finish");
    assert_eq!(some(later).expect("read").0, ReadSome::End);
    assert_eq!(some(now).expect("read").0, ReadSome::End);
}

#[test]
fn loopback_reaches_the_largest_datagram_and_network_its_own() {
    for (config, expected) in
        [(TransportConfig::loopback(), 65_507), (TransportConfig::network(), 8_952)]
    {
        let (dialed, accepted, _listener) = pair(&config);
        let mut bulk = dialed.open_bulk().expect("open");
        let chunk = Bytes::from(vec![7; 1 << 20]);
        let reader = thread::spawn(move || {
            let mut bulk = accepted.accept_bulk().expect("accept").expect("a stream");
            let mut buffer = vec![0; 1 << 20];
            while bulk.read_exact(&mut buffer).expect("read") {}
        });
        for _ in 0..300 {
            bulk.write(chunk.clone()).expect("write");
        }
        bulk.finish().expect("finish");
        reader.join().expect("reader");
        // Discovery stops within 20 bytes of the bound.
        let found = dialed.datagram_bytes();
        assert!(found <= expected && found >= expected - 20, "{found} of {expected}");
    }
}

#[test]
fn an_oversize_control_message_is_refused_at_both_ends() {
    let (dialed, accepted, _listener) = pair(&TransportConfig::loopback());
    let large = Bytes::from(vec![0; CONTROL_MESSAGE_MAX + 1]);
    let refused = dialed.send_control(large).expect_err("too large");
    assert!(matches!(refused, LinkError::MessageTooLarge { .. }), "{refused}");
    // It was refused whole: the link goes on.
    dialed.send_control(Bytes::from_static(b"small")).expect("send");
    assert_eq!(accepted.recv_control().expect("receive").expect("some"), "small");
}

#[test]
fn a_dropped_bulk_stream_never_looks_finished() {
    let (dialed, accepted, _listener) = pair(&TransportConfig::loopback());
    let mut bulk = dialed.open_bulk().expect("open");
    bulk.write(Bytes::from_static(b"half")).expect("write");
    let mut incoming = accepted.accept_bulk().expect("accept").expect("a stream");
    let mut half = [0; 4];
    assert!(incoming.read_exact(&mut half).expect("read"));
    drop(bulk);
    let error = incoming.read_exact(&mut half).expect_err("reset");
    assert!(matches!(cause(&error), LostCause::StreamReset { .. }), "{error}");
}

#[test]
fn a_stream_that_ends_within_a_read_is_an_error() {
    let (dialed, accepted, _listener) = pair(&TransportConfig::loopback());
    let mut bulk = dialed.open_bulk().expect("open");
    bulk.write(Bytes::from_static(b"abc")).expect("write");
    bulk.finish().expect("finish");
    let mut incoming = accepted.accept_bulk().expect("accept").expect("a stream");
    let error = incoming.read_exact(&mut [0; 8]).expect_err("short");
    assert_eq!(cause(&error), &LostCause::EndedEarly { missing: 5 });
}

#[test]
fn a_receiver_that_gives_up_stops_the_sender() {
    let (dialed, accepted, _listener) = pair(&TransportConfig::loopback());
    let mut bulk = dialed.open_bulk().expect("open");
    bulk.write(Bytes::from_static(b"x")).expect("write");
    drop(accepted.accept_bulk().expect("accept").expect("a stream"));
    let chunk = Bytes::from(vec![0; 1 << 20]);
    let error = (0..1_000)
        .find_map(|_| bulk.write(chunk.clone()).err())
        .expect("the sender hears of it before a gigabyte");
    assert!(matches!(cause(&error), LostCause::StreamStopped { .. }), "{error}");
}

#[test]
fn what_was_finished_arrives_though_the_sender_is_gone() {
    const STREAMS: usize = 8;
    let (dialed, accepted, _listener) = pair(&TransportConfig::loopback());
    for n in 0..STREAMS {
        let mut bulk = dialed.open_bulk().expect("open");
        bulk.write(Bytes::from(pattern(n as u64, 1 << 20))).expect("write");
        bulk.finish().expect("finish");
    }
    dialed.send_control(Bytes::from_static(b"goodbye")).expect("send");
    dialed.finish_control().expect("finish");
    drop(dialed);
    // Only now does the receiver look.
    assert_eq!(accepted.recv_control().expect("receive").expect("some"), "goodbye");
    assert_eq!(accepted.recv_control().expect("end"), None);
    for n in 0..STREAMS {
        let mut bulk = accepted.accept_bulk().expect("accept").expect("a stream");
        let mut found = vec![0; 1 << 20];
        assert!(bulk.read_exact(&mut found).expect("read"));
        assert!(found == pattern(n as u64, 1 << 20), "stream {n}");
        assert!(!bulk.read_exact(&mut [0]).expect("end"));
    }
    assert!(accepted.accept_bulk().expect("closed in order").is_none());
}

#[test]
fn closing_in_order_delivers_and_closing_with_an_error_says_why() {
    let (dialed, accepted, _listener) = pair(&TransportConfig::loopback());
    dialed.send_control(Bytes::from_static(b"last words")).expect("send");
    dialed.finish_control().expect("finish");
    dialed.close(0, "done");
    let error = dialed.send_control(Bytes::new()).expect_err("closed");
    assert_eq!(cause(&error), &LostCause::ClosedHere);
    let last = accepted.recv_control().unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(last.expect("some"), "last words");
    assert_eq!(accepted.recv_control().expect("end"), None);
    assert!(accepted.accept_bulk().expect("in order").is_none());

    let (dialed, accepted, _listener) = pair(&TransportConfig::loopback());
    dialed.close(7, &format!("\u{1b}[2Jfenced\n{}", "é".repeat(500)));
    let error = accepted.recv_control().expect_err("closed");
    assert!(matches!(error, LinkError::ClosedByPeer { .. }), "{error:?}");
    let LinkError::ClosedByPeer { code, reason } = error else { panic!("{error}") };
    assert_eq!(code, 7);
    assert!(reason.starts_with("\\u{1b}[2Jfenced\\u{a}éé"), "{reason}");
    assert!(reason.len() < 300, "{}", reason.len());
    let error = accepted.accept_bulk().map(|_| ()).expect_err("closed");
    assert!(matches!(error, LinkError::ClosedByPeer { code: 7, .. }), "{error}");
}

#[test]
fn a_link_dropped_within_its_session_does_not_look_done() {
    let (dialed, accepted, _listener) = pair(&TransportConfig::loopback());
    drop(dialed);
    let error = accepted.recv_control().expect_err("not a clean end");
    assert!(matches!(error, LinkError::ClosedByPeer { code: 5, .. }), "{error}");
}

/// quinn alone would hold the close back behind the congestion window, for good.
#[test]
fn a_close_is_heard_at_once_even_in_the_middle_of_a_transfer() {
    for config in [TransportConfig::loopback(), TransportConfig::network()] {
        for _ in 0..20 {
            let (dialed, accepted, _listener) = pair(&config);
            thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        let Ok(mut bulk) = dialed.open_bulk() else { return };
                        let chunk = Bytes::from(vec![3; 1 << 20]);
                        while bulk.write(chunk.clone()).is_ok() {}
                    });
                }
                let mut incoming = accepted.accept_bulk().expect("accept").expect("a stream");
                assert!(incoming.read_exact(&mut vec![0; 1 << 20]).expect("read"));
                let began = Instant::now();
                dialed.close(5, "enough");
                let error = accepted.recv_control().expect_err("closed");
                assert!(matches!(error, LinkError::ClosedByPeer { code: 5, .. }), "{error:?}");
                assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
            });
        }
    }
}

#[test]
fn drain_says_when_the_peer_has_everything() {
    let (dialed, accepted, _listener) = pair(&TransportConfig::loopback());
    let mut bulk = dialed.open_bulk().expect("open");
    bulk.write(Bytes::from(vec![1; 2 << 20])).expect("write");
    bulk.finish().expect("finish");
    dialed.drain().expect("delivered");
    dialed.close(5, "at once");
    let mut incoming = accepted.accept_bulk().expect("accept").expect("a stream");
    let mut found = vec![0; 2 << 20];
    assert!(incoming.read_exact(&mut found).expect("read"));
}

#[test]
fn drain_gives_up_on_a_peer_that_takes_nothing() {
    let config = TransportConfig {
        drain_timeout: Duration::from_millis(200),
        ..TransportConfig::loopback()
    };
    let (here, there) = (key(), key());
    let (listener, _refused) = listener(&there, here.key_id().into(), config.clone());
    let line = Line::to(listener.local_addr());
    let dialed = dial(line.addr, &here, there.key_id().into(), &config).expect("dial");
    line.cut();
    let mut bulk = dialed.open_bulk().expect("open");
    bulk.write(Bytes::from(vec![1; 1 << 10])).expect("write");
    bulk.finish().expect("finish");
    let error = dialed.drain().expect_err("not delivered");
    assert_eq!(cause(&error), &LostCause::Undelivered);
}

/// A session whose peer vanished just before its end would hold its share for the drain timeout.
#[test]
fn a_close_that_drains_is_cut_short_by_one_that_does_not() {
    let config = TransportConfig {
        drain_timeout: Duration::from_secs(120),
        idle_timeout: Duration::from_secs(120),
        ..TransportConfig::loopback()
    };
    let (here, there) = (key(), key());
    let (listener, _refused) = listener(&there, here.key_id().into(), config.clone());
    let line = Line::to(listener.local_addr());
    let dialed = dial(line.addr, &here, there.key_id().into(), &config).expect("dial");
    line.cut();
    dialed.send_control(Bytes::from_static(b"last words")).expect("send");
    dialed.finish_control().expect("finish");
    thread::scope(|scope| {
        let waiting = scope.spawn(|| dialed.accept_bulk().map(|_| ()).expect_err("closed"));
        dialed.close(0, "done");
        let began = Instant::now();
        dialed.close(3, "taken over");
        let error = waiting.join().expect("ends");
        assert!(matches!(cause(&error), LostCause::ClosedHere), "{error:?}");
        assert!(began.elapsed() < config.drain_timeout / 4, "{:?}", began.elapsed());
    });
}

#[test]
fn a_peer_that_vanishes_is_lost_within_the_idle_timeout_and_a_silent_one_is_not() {
    let config =
        TransportConfig { idle_timeout: Duration::from_millis(600), ..TransportConfig::loopback() };
    let (here, there) = (key(), key());
    let (listener, _refused) = listener(&there, here.key_id().into(), config.clone());
    let line = Line::to(listener.local_addr());
    let dialed = dial(line.addr, &here, there.key_id().into(), &config).expect("dial");
    let accepted = listener.accept().expect("accept").link;
    // Both ends say nothing for several idle timeouts: time itself is what is tested.
    thread::sleep(config.idle_timeout * 3);
    dialed.send_control(Bytes::from_static(b"alive")).expect("still there");
    assert_eq!(accepted.recv_control().expect("receive").expect("some"), "alive");
    line.cut();
    let cut_at = Instant::now();
    for link in [&dialed, &accepted] {
        let error = link.recv_control().expect_err("lost");
        assert_eq!(cause(&error), &LostCause::Silent);
    }
    let took = cut_at.elapsed();
    assert!(took < config.idle_timeout * 4, "{took:?}");
}

#[test]
fn the_bandwidth_limit_holds_across_streams_and_can_be_lifted() {
    let config = TransportConfig {
        bandwidth_limit_bytes_per_s: Some(8 << 20),
        ..TransportConfig::loopback()
    };
    let (dialed, accepted, _listener) = pair(&config);
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut bulk = dialed.open_bulk().expect("open");
                bulk.write(Bytes::from(vec![0; 1 << 20])).expect("write");
                bulk.finish().expect("finish");
            });
            scope.spawn(|| {
                let mut bulk = accepted.accept_bulk().expect("accept").expect("a stream");
                assert!(bulk.read_exact(&mut vec![0; 1 << 20]).expect("read"));
            });
        }
    });
    // 4 MiB at 8 MiB/s, less the burst and the last pieces in flight.
    let took = began.elapsed();
    assert!(took > Duration::from_millis(300), "{took:?}");
    dialed.set_bandwidth_limit(None);
    let began = Instant::now();
    thread::scope(|scope| {
        // More than a stream's window: somebody has to read.
        scope.spawn(|| {
            let mut bulk = accepted.accept_bulk().expect("accept").expect("a stream");
            assert!(bulk.read_exact(&mut vec![0; 3 << 20]).expect("read"));
        });
        let mut bulk = dialed.open_bulk().expect("open");
        bulk.write(Bytes::from(vec![0; 3 << 20])).expect("write");
        bulk.finish().expect("finish");
    });
    assert!(began.elapsed() < Duration::from_millis(250));
}

/// What tells of the line is sent for its answers: it is nobody's to read, and what is said meanwhile arrives.
#[test]
fn a_link_that_expects_bulk_sends_a_train_that_nobody_hears_of() {
    for mtu_upper_bound in [1_200, 1_452, 8_952] {
        let config = TransportConfig { mtu_upper_bound, ..TransportConfig::network() };
        let (dialed, accepted, _listener) = pair(&config);
        for link in [&dialed, &accepted] {
            let before = link.stats().sent_bytes;
            let train = 64 * u64::from(link.datagram_bytes());
            link.expect_bulk();
            let began = Instant::now();
            while link.stats().sent_bytes < before + train {
                assert!(began.elapsed() < Duration::from_secs(10), "no train: {:?}", link.stats());
                thread::sleep(Duration::from_millis(1));
            }
        }
        // One tells all there is to know.
        let before = dialed.stats().sent_bytes;
        dialed.expect_bulk();
        thread::sleep(Duration::from_millis(20));
        let more = dialed.stats().sent_bytes - before;
        assert!(more < 64 * u64::from(dialed.datagram_bytes()) / 2, "{more} bytes more");
        // Either end hears the other as ever.
        for (from, to) in [(&dialed, &accepted), (&accepted, &dialed)] {
            from.send_control(Bytes::from_static(b"there?")).expect("send");
            to.recv_control().expect("receive").expect("a message");
            let mut bulk = from.open_bulk().expect("open");
            bulk.write(Bytes::from(vec![7; 1 << 20])).expect("write");
            bulk.finish().expect("finish");
            let mut found = vec![0; 1 << 20];
            let mut bulk = to.accept_bulk().expect("accept").expect("a stream");
            assert!(bulk.read_exact(&mut found).expect("read") && found.iter().all(|b| *b == 7));
        }
    }
}

/// Where nothing learns of it, and where the owner of a line has it held to a rate, nothing is sent for that.
#[test]
fn no_train_is_sent_that_tells_nothing_or_is_beyond_a_limit() {
    let limit = Some(1 << 20);
    let limited =
        TransportConfig { bandwidth_limit_bytes_per_s: limit, ..TransportConfig::network() };
    for config in [TransportConfig::loopback(), limited] {
        let (dialed, accepted, _listener) = pair(&config);
        dialed.expect_bulk();
        for _ in 0..50 {
            dialed.send_control(Bytes::from_static(b"there?")).expect("send");
            accepted.recv_control().expect("receive").expect("a message");
            accepted.send_control(Bytes::from_static(b"here")).expect("send");
            dialed.recv_control().expect("receive").expect("a message");
            thread::sleep(Duration::from_millis(1));
        }
        let sent = dialed.stats().sent_bytes;
        assert!(sent < 32 << 10, "{sent} bytes: {:?}", config.congestion);
    }
}

#[test]
fn an_eager_link_carries_from_the_first_byte() {
    let (here, there) = (key(), key());
    let config = TransportConfig::loopback();
    let (listener, _refused) = listener(&there, here.key_id().into(), config.clone());
    let dialed = dial_eager(listener.local_addr(), &here, there.key_id().into(), &config);
    let dialed = dialed.expect("dial");
    dialed.send_control(Bytes::from_static(b"hello")).expect("send");
    let accepted = listener.accept().expect("accept").link;
    assert_eq!(accepted.recv_control().expect("receive").expect("some"), "hello");
    accepted.send_control(Bytes::from_static(b"welcome")).expect("send");
    assert_eq!(dialed.recv_control().expect("receive").expect("some"), "welcome");
}

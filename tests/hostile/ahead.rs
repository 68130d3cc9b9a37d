//! Hostile ends where content is carried ahead of its cut: streams, messages 40 to 44, at either side.

use std::time::{Duration, Instant};

use bytes::Bytes;
use farshore_core::chunking::ChunkingId;
use farshore_core::codec::Encoder;
use farshore_core::entry::Entry;
use farshore_core::policy::PolicySet;
use farshore_core::recipe::FileDigest;
use farshore_core::recovery_point::Epoch;
use farshore_engine::deadline::within;
use farshore_proto::batch::BatchHeader;
use farshore_proto::close::CloseCode;
use farshore_proto::link::Link;
use farshore_proto::message::{AHEAD_VERSION, Behind, Message, PROTOCOL_VERSION, Receipt};
use farshore_proto::op::Op;

use crate::common::{Server, Site, expect};
use crate::source::{
    Attack, MEMORY, NO_CONTENT, SOON, assert_sound, closed, encoded, end, file, frame, hear,
    honest, meta, path, point, put_dir, raw_control, say, site,
};

/// What the server did about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It ended the session.
    Ended,
    /// It said that nothing came of the file.
    Failed,
    /// It said that it holds the content.
    Held,
    /// It answered anything else.
    Answered,
}
use Outcome::{Answered, Ended, Failed, Held};

fn outcome(a: &Attack) -> Outcome {
    within(&a.link, SOON, CloseCode::Internal, "the test waited long enough", || {
        loop {
            match hear(&a.link) {
                None | Some(Message::Refused { .. }) => return Ended,
                Some(Message::Carried(Receipt { failures, .. })) => {
                    return if failures.is_empty() { Held } else { Failed };
                }
                Some(Message::Listed(_) | Message::SealMismatch(_)) => return Answered,
                Some(_) => {}
            }
        }
    })
}

/// A session that stands, of a source that speaks up to `version`.
fn standing(version: u16, site: &Site, server: &Server) -> Attack {
    let attack = Attack::speaking(version, site, server);
    if version >= 3 {
        say(&attack.link, &Message::Policies(PolicySet::default()));
    }
    if version >= 4 {
        say(&attack.link, &Message::Standing);
    }
    attack
}

fn ahead(number: u64) -> Vec<u8> {
    BatchHeader::ahead(number, Epoch(0)).to_bytes()
}

/// A stream of that number that carries `ops`.
fn carry(a: &Attack, number: u64, ops: &[Op<'_>]) {
    // Streams are no part of the order of messages: the session is to stand by then.
    std::thread::sleep(Duration::from_millis(100));
    a.stream([ahead(number), frame(&closed(ops))].concat(), true);
}

fn begin(size: u64) -> Op<'static> {
    Op::Begin { path: path("in/new"), size, sparse: false }
}

fn content(bytes: &[u8]) -> FileDigest {
    let id = farshore_core::recipe::ChunkId(*blake3::hash(bytes).as_bytes());
    FileDigest(id.0)
}

fn ends(bytes: &[u8]) -> Op<'static> {
    let (size, content) = (bytes.len() as u64, content(bytes));
    let entry = Entry::File { size, content, meta: meta() };
    Op::End { entry, chunking: ChunkingId::FastCdc64K }
}

type Case = (&'static str, Outcome, fn(&Attack));

const CASES: &[Case] = &[
    ("a file, whole", Held, |a| {
        carry(a, 7, &[begin(10), Op::Literal { bytes: b"0123456789" }, ends(b"0123456789")]);
    }),
    ("a file of another digest", Failed, |a| {
        carry(a, 1, &[begin(10), Op::Literal { bytes: b"0123456789" }, end(NO_CONTENT, 10)]);
    }),
    ("a file longer than was said", Failed, |a| {
        carry(a, 1, &[begin(9), Op::Literal { bytes: b"0123456789" }, ends(b"0123456789")]);
    }),
    ("a file of 8 EiB", Failed, |a| {
        carry(a, 1, &[begin(i64::MAX as u64), end(NO_CONTENT, i64::MAX as u64)]);
    }),
    ("a file that was given up", Held, |a| carry(a, 1, &[begin(10), Op::Abort])),
    ("content nobody has", Failed, |a| {
        let entry = Entry::File { size: 70_000, content: NO_CONTENT, meta: meta() };
        carry(a, 1, &[Op::Reuse { path: path("in/new"), entry }]);
    }),
    ("nothing", Held, |a| carry(a, 1, &[])),
    ("two files", Ended, |a| {
        let one = [begin(1), Op::Literal { bytes: b"x" }, ends(b"x")];
        carry(a, 1, &[&one[..], &one[..]].concat());
    }),
    ("a small file", Ended, |a| {
        carry(a, 1, &[Op::Small { path: path("in/new"), entry: file(b"x"), bytes: b"x" }]);
    }),
    ("a directory", Ended, |a| carry(a, 1, &[put_dir()])),
    ("a removal", Ended, |a| {
        carry(a, 1, &[Op::Remove { path: path("in/a"), expected: file(b"alpha").digest() }]);
    }),
    ("a move", Ended, |a| {
        let (from, to, entry) = (path("in/a"), path("in/new"), file(b"alpha"));
        carry(a, 1, &[Op::Move { from, expected: entry.digest(), to, entry }]);
    }),
    ("a file into .farshore", Ended, |a| {
        carry(
            a,
            1,
            &[Op::Begin { path: path(".farshore/ahead/0/recipe"), size: 1, sparse: false }],
        );
    }),
    ("no end of the file", Ended, |a| carry(a, 1, &[begin(10)])),
    // As if it were reset: nothing is said of it, and nothing came of it.
    ("no end of the stream", Answered, |a| {
        std::thread::sleep(Duration::from_millis(100));
        a.stream([ahead(1), frame(&encoded(&[begin(10), Op::Abort]))].concat(), true);
        say(&a.link, &Message::Ahead { keep: None });
    }),
    ("a frame of garbage", Ended, |a| {
        std::thread::sleep(Duration::from_millis(100));
        a.stream(
            [ahead(1), frame(&farshore_test_support::Rng::new(3).bytes(9_000))].concat(),
            true,
        );
    }),
    ("another epoch", Ended, |a| {
        std::thread::sleep(Duration::from_millis(100));
        let header = BatchHeader::ahead(1, Epoch(7)).to_bytes();
        a.stream([header, frame(&closed(&[]))].concat(), true);
    }),
    ("five at once", Ended, |a| {
        std::thread::sleep(Duration::from_millis(100));
        let open = |number| {
            let mut stream = a.link.open_bulk().unwrap();
            stream.write(Bytes::from(ahead(number))).unwrap();
            stream
        };
        let streams: Vec<_> = (0..5).map(open).collect();
        assert_eq!(outcome(a), Ended);
        drop(streams);
    }),
    ("one number twice", Ended, |a| {
        std::thread::sleep(Duration::from_millis(100));
        let mut first = a.link.open_bulk().unwrap();
        first.write(Bytes::from(ahead(1))).unwrap();
        a.stream([ahead(1), frame(&closed(&[]))].concat(), true);
        assert_eq!(outcome(a), Ended);
        drop(first);
    }),
    ("streams that are reset, many of them", Held, |a| {
        std::thread::sleep(Duration::from_millis(100));
        for number in 0..40 {
            let mut stream = a.link.open_bulk().unwrap();
            let bytes = [ahead(number), frame(&encoded(&[begin(10)]))].concat();
            stream.write(Bytes::from(bytes)).unwrap();
            // Its header is read by then; one of which nothing is read is taken for a batch.
            std::thread::sleep(Duration::from_millis(50));
            drop(stream);
        }
        // They are over by then: no more than four at once.
        std::thread::sleep(Duration::from_millis(100));
        (100..104).for_each(|number| carry(a, number, &[]));
    }),
    ("what is held", Answered, |a| say(&a.link, &Message::Ahead { keep: None })),
    ("contents without end", Ended, |a| {
        raw(a, 40, |e| {
            e.put_u8(1);
            e.put_u64(u64::MAX);
        });
    }),
    ("65 contents", Ended, |a| {
        raw(a, 40, |e| {
            e.put_u8(1);
            e.put_u64(65);
            (0..65).for_each(|n| e.put_raw(&[n; 32]));
        });
    }),
    ("a flag that is none", Ended, |a| raw(a, 40, |e| e.put_u8(2))),
    ("accounts without end", Ended, |a| {
        raw(a, 44, |e| {
            e.put_u64(1);
            e.put_u64(u64::MAX);
        });
    }),
    ("an account outside", Ended, |a| {
        raw(a, 44, |e| {
            e.put_u64(1);
            e.put_u64(1);
            e.put_bytes(b"../..");
            e.put_i64(0);
        });
    }),
    ("2^64 accounts, then seal of another root", Answered, |a| {
        say(&a.link, &Message::Behind(Behind { total: u64::MAX, first: Vec::new() }));
        say(&a.link, &Message::Seal(point(farshore_core::digest::RootDigest([9; 32]))));
    }),
    ("held, from the source", Ended, |a| {
        let (content, bytes) = (NO_CONTENT, Vec::new());
        say(&a.link, &Message::Held { content, whole: true, last: true, bytes });
    }),
    ("listed, from the source", Ended, |a| say(&a.link, &Message::Listed(0))),
    ("carried, from the source", Ended, |a| say(&a.link, &Message::Carried(Receipt::default()))),
    ("flood of questions, answers not read", Ended, |a| {
        within(&a.link, Duration::from_secs(2), CloseCode::Internal, "flooded", || {
            let message = Bytes::from(Message::Ahead { keep: None }.to_bytes());
            while a.link.send_control(message.clone()).is_ok() {}
        });
    }),
];

fn raw(a: &Attack, tag: u8, body: impl FnOnce(&mut Encoder)) {
    let mut e = Encoder::new();
    e.put_u8(tag);
    body(&mut e);
    raw_control(&a.link, e.finish());
}

#[test]
fn a_hostile_source_gets_nowhere_ahead_of_a_cut() {
    let site = site();
    let mut server = site.serve(0);
    expect(&site.remote(server.port(), &[]), 0, &[]);
    let memory = server.memory().1 + MEMORY;
    let mut wrong = Vec::new();
    for (name, expected, attack) in CASES {
        let start = Instant::now();
        let end = standing(PROTOCOL_VERSION, &site, &server);
        attack(&end);
        let outcome = outcome(&end);
        drop(end);
        if outcome != *expected || start.elapsed() > SOON {
            wrong.push(format!("{name}: {outcome:?}, not {expected:?}, {:?}", start.elapsed()));
        }
        assert!(server.is_alive(), "{name}: {}", server.log());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_sound(&site, &mut server, memory);
    honest(&site, &server);
}

#[test]
fn a_source_that_does_not_stand_or_speaks_an_older_version_carries_nothing() {
    let site = site();
    let mut server = site.serve(0);
    expect(&site.remote(server.port(), &[]), 0, &[]);
    let attacks: [fn(&Attack); 3] = [
        |a| carry(a, 1, &[]),
        |a| say(&a.link, &Message::Ahead { keep: None }),
        |a| say(&a.link, &Message::Behind(Behind::default())),
    ];
    for attack in attacks {
        let older = standing(AHEAD_VERSION - 1, &site, &server);
        attack(&older);
        assert_eq!(outcome(&older), Ended, "an older version");
        drop(older);
        let single = Attack::speaking(PROTOCOL_VERSION, &site, &server);
        say(&single.link, &Message::Policies(PolicySet::default()));
        attack(&single);
        assert_eq!(outcome(&single), Ended, "does not stand");
    }
    assert_sound(&site, &mut server, MEMORY);
    honest(&site, &server);
}

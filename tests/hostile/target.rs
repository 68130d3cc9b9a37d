//! A hostile target against `farshore replicate`.

use std::net::SocketAddr;
use std::process::Output;
use std::time::{Duration, Instant};

use bytes::Bytes;
use farshore_core::codec::DecodeError;
use farshore_core::delta::Signing;
use farshore_core::digest::{BUCKETS, Child, DirectoryDigest, RootDigest};
use farshore_core::entry::{Entry, Metadata};
use farshore_core::path::RelPath;
use farshore_core::recipe::FileDigest;
use farshore_core::recovery_point::{Epoch, RecoveryPoint};
use farshore_engine::catalog::{Catalog, CatalogConfig, CatalogRole};
use farshore_engine::deadline::within;
use farshore_proto::batch::{BATCH_HEADER_LEN, BatchHeader};
use farshore_proto::close::CloseCode;
use farshore_proto::link::{Link, LinkError};
use farshore_proto::message::{
    Answer, Failure, FailureKind, Message, PROTOCOL_VERSION, Receipt, Sign, StoreId, Welcome,
};
use farshore_transport::{KeyId, KeySet, Listener, QuicLink, SiteKey, TransportConfig};

use crate::common::{Site, expect, farshore, files, shown, text};

/// A run against such a target ends within this.
const SOON: Duration = Duration::from_secs(25);

fn welcome() -> Welcome {
    Welcome {
        version: 1,
        target: StoreId([3; 16]),
        sealed_with: None,
        epoch: Epoch(0),
        applied_batch: 0,
        root: RootDigest([9; 32]),
        // It says that it has something: nothing is compared with what has nothing.
        entries: 1,
        foreign_changes: 0,
        recovery_point: None,
    }
}

fn say(link: &QuicLink, message: &Message) {
    link.send_control(Bytes::from(message.to_bytes())).unwrap_or(());
}

fn hear(link: &QuicLink) -> Option<Message> {
    Message::from_bytes(&link.recv_control().ok().flatten()?).ok()
}

fn children(last: bool, children: Vec<Child>) -> Message {
    Message::Answer(Answer::Children { last, children })
}

fn child(path: &[u8]) -> Child {
    let entry = Entry::Directory { meta: Metadata::default() };
    Child { path: RelPath::new(path).unwrap(), entry, below: Some(DirectoryDigest([1; 32])) }
}

/// Says welcome, and when it is compared, that it holds nothing at all.
fn empty(link: &QuicLink) {
    say(link, &Message::Welcome(welcome()));
    while let Some(message) = hear(link) {
        if let Message::Compare(queries) = message {
            queries.iter().for_each(|_| say(link, &children(true, Vec::new())));
            return;
        }
    }
}

/// Takes the next batch whole, of one stream; its number.
fn batch(link: &QuicLink) -> Option<u64> {
    let mut stream = link.accept_bulk().ok().flatten()?;
    let mut header = [0; BATCH_HEADER_LEN];
    stream.read_exact(&mut header).ok()?;
    let mut byte = [0; 1];
    while stream.read_exact(&mut byte).unwrap_or(false) {}
    Some(BatchHeader::read(&header, || Err(DecodeError::Truncated { what: "" })).ok()?.batch)
}

/// One that is of the present version and holds nothing, up to where it is asked to seal behind its only batch.
fn asked_behind(link: &QuicLink, answer: fn(&QuicLink, u64, RecoveryPoint)) {
    say(link, &Message::Welcome(Welcome { version: PROTOCOL_VERSION, ..welcome() }));
    say_after_compare(link, &children(true, Vec::new()));
    let number = batch(link).unwrap_or(0);
    while let Some(message) = hear(link) {
        if let Message::SealBehind { batch, point } = message {
            assert_eq!(batch, number, "the last one");
            return answer(link, number, point);
        }
    }
}

/// All of a batch is applied but for one path of it.
fn failed_in_part(batch: u64) -> Message {
    let path = RelPath::new(*b"in/a").unwrap();
    let failure = Failure { path, kind: FailureKind::Refused, text: "it would not".into() };
    Message::Receipt(Receipt { batch, failures: vec![failure], degraded: Vec::new() })
}

/// Waits for `Seal` and answers by `answer`; afterwards for the end.
fn seal(link: &QuicLink, answer: impl Fn(RecoveryPoint) -> Message) {
    while let Some(message) = hear(link) {
        match message {
            Message::Seal(point) => say(link, &answer(point)),
            Message::Compare(queries) => {
                queries.iter().for_each(|_| say(link, &children(true, Vec::new())));
            }
            Message::Goodbye => {
                link.finish_control().unwrap_or(());
                return;
            }
            _ => {}
        }
    }
}

/// What the run must end with, and words it must say.
type Case = (&'static str, &'static [i32], &'static [&'static str], fn(&QuicLink));

const CASES: &[Case] = &[
    ("version 9", &[4], &["versions 9 to 9"], |l| {
        say(l, &Message::Welcome(Welcome { version: 9, ..welcome() }))
    }),
    ("epoch of the future", &[4], &["epoch 18446744073709551615 is in force", "hint:"], |l| {
        say(l, &Message::Welcome(Welcome { epoch: Epoch(u64::MAX), ..welcome() }));
    }),
    ("all batches applied", &[4], &["batch 18446744073709551615"], |l| {
        say(l, &Message::Welcome(Welcome { applied_batch: u64::MAX, ..welcome() }));
    }),
    ("absurd counts", &[4], &["not under way"], |l| {
        let point = RecoveryPoint {
            sequence: u64::MAX,
            time_unix_ms: i64::MIN,
            root: RootDigest([1; 32]),
            entries: u64::MAX,
            bytes: u64::MAX,
            exceptions: u64::MAX,
        };
        let w = Welcome {
            entries: u64::MAX,
            foreign_changes: u64::MAX,
            recovery_point: Some(point),
            sealed_with: Some(StoreId([0xff; 16])),
            ..welcome()
        };
        say(l, &Message::Welcome(w));
        while !matches!(hear(l), None | Some(Message::Compare(_))) {}
        say(l, &children(true, Vec::new()));
        batch(l);
        say(l, &Message::Receipt(Receipt { batch: u64::MAX, ..Receipt::default() }));
    }),
    ("two welcomes", &[4], &["welcome"], |l| {
        (0..2).for_each(|_| say(l, &Message::Welcome(welcome())))
    }),
    ("goodbye before the welcome", &[4], &["goodbye"], |l| say(l, &Message::Goodbye)),
    ("sealed before anything", &[4], &["sealed"], |l| {
        say(
            l,
            &Message::Sealed(RecoveryPoint {
                sequence: 1,
                time_unix_ms: 0,
                root: RootDigest([1; 32]),
                entries: 0,
                bytes: 0,
                exceptions: 0,
            }),
        );
    }),
    ("receipt before the welcome", &[4], &["receipt"], |l| {
        say(l, &Message::Receipt(Receipt::default()))
    }),
    ("answers before the questions", &[4], &["answer"], |l| {
        say(l, &children(true, Vec::new()));
        say(l, &Message::Welcome(welcome()));
    }),
    ("more answers than questions", &[4], &["answer"], |l| {
        empty(l);
        (0..50).for_each(|_| say(l, &children(true, Vec::new())));
    }),
    ("children of another directory", &[4], &["answer that fits no query"], |l| {
        say(l, &Message::Welcome(welcome()));
        say_after_compare(l, &children(true, vec![child(b"in/a")]));
    }),
    ("children of nowhere", &[4], &["answer that fits no query"], |l| {
        say(l, &Message::Welcome(welcome()));
        say_after_compare(l, &children(true, vec![child(b"x/y/z")]));
    }),
    ("children out of order", &[4], &["answer that fits no query"], |l| {
        say(l, &Message::Welcome(welcome()));
        say_after_compare(l, &children(true, vec![child(b"b"), child(b"a")]));
    }),
    ("one child twice", &[4], &["answer that fits no query"], |l| {
        say(l, &Message::Welcome(welcome()));
        say_after_compare(l, &children(true, vec![child(b"a"), child(b"a")]));
    }),
    ("children without end", &[4], &["more than 4096 children"], |l| {
        say(l, &Message::Welcome(welcome()));
        while !matches!(hear(l), None | Some(Message::Compare(_))) {}
        for piece in 0..50 {
            let names = (0..1_000).map(|n| child(format!("n{:08}", piece * 1_000 + n).as_bytes()));
            say(l, &children(false, names.collect()));
        }
    }),
    ("buckets in buckets", &[4], &["answer that fits no query"], |l| {
        say(l, &Message::Welcome(welcome()));
        let buckets =
            || Message::Answer(Answer::Buckets(Box::new([DirectoryDigest([4; 32]); BUCKETS])));
        say_after_compare(l, &buckets());
        say_after_compare(l, &buckets());
    }),
    ("a child outside", &[4], &["message from the peer"], |l| {
        say(l, &Message::Welcome(welcome()));
        let mut bytes = children(true, vec![child(b"aa/bb")]).to_bytes();
        let at = bytes.windows(5).position(|w| w == b"aa/bb").unwrap();
        bytes[at..at + 5].copy_from_slice(b"../bb");
        while !matches!(hear(l), None | Some(Message::Compare(_))) {}
        l.send_control(Bytes::from(bytes)).unwrap_or(());
    }),
    ("receipt for a batch of its own", &[4], &["not under way"], |l| {
        empty(l);
        batch(l);
        say(l, &Message::Receipt(Receipt { batch: 77, ..Receipt::default() }));
    }),
    ("receipt twice", &[4], &["receipt"], |l| {
        empty(l);
        let number = batch(l).unwrap_or(0);
        (0..2).for_each(|_| {
            say(l, &Message::Receipt(Receipt { batch: number, ..Receipt::default() }))
        });
        seal(l, Message::Seal);
    }),
    ("failures nobody can have, that move a terminal", &[6], &["\\u{1b}[2J\\u{202e}"], |l| {
        empty(l);
        let kinds = [FailureKind::Refused, FailureKind::Basis(Vec::new())];
        let failures = kinds.map(|kind| Failure {
            path: RelPath::new(*b"never/sent\x1b[31m").unwrap(),
            kind,
            text: "\u{1b}[2J\u{202e}\n".into(),
        });
        let number = batch(l).unwrap_or(0);
        let degraded = vec![("\u{1b}[2J\u{202e}".to_owned(), u64::MAX); 2];
        say(l, &Message::Receipt(Receipt { batch: number, failures: failures.into(), degraded }));
        seal(l, Message::Sealed);
    }),
    ("nothing can ever be built", &[6], &["however it was sent"], |l| {
        empty(l);
        let link = l.clone();
        // Whatever comes is not there.
        let refusing = std::thread::spawn(move || {
            while let Some(number) = batch(&link) {
                let all = ["", "in", "in/a", "in/b", "large"].map(|p| Failure {
                    path: RelPath::new(p.as_bytes()).unwrap(),
                    kind: FailureKind::Basis(Vec::new()),
                    text: String::new(),
                });
                say(
                    &link,
                    &Message::Receipt(Receipt {
                        batch: number,
                        failures: all.into(),
                        degraded: Vec::new(),
                    }),
                );
            }
        });
        seal(l, Message::Sealed);
        l.close(CloseCode::Done as u32, "");
        refusing.join().unwrap();
    }),
    ("another recovery point", &[4], &["another recovery point"], |l| {
        empty(l);
        let number = batch(l).unwrap_or(0);
        say(l, &Message::Receipt(Receipt { batch: number, ..Receipt::default() }));
        seal(l, |p| Message::Sealed(RecoveryPoint { sequence: u64::MAX, ..p }));
    }),
    ("never the same root", &[1], &["still differ"], |l| {
        empty(l);
        let link = l.clone();
        let taking = std::thread::spawn(move || {
            while let Some(number) = batch(&link) {
                say(&link, &Message::Receipt(Receipt { batch: number, ..Receipt::default() }));
            }
        });
        seal(l, |_| Message::SealMismatch(RootDigest([5; 32])));
        l.close(CloseCode::Done as u32, "");
        taking.join().unwrap();
    }),
    ("sealed before its receipts", &[4], &["'sealed' while this end was replicating"], |l| {
        asked_behind(l, |l, number, point| {
            say(l, &Message::Sealed(point));
            say(l, &Message::Receipt(Receipt { batch: number, ..Receipt::default() }));
        });
    }),
    ("refused before its receipts", &[4], &["'seal mismatch' while this end was"], |l| {
        asked_behind(l, |l, _, point| say(l, &Message::SealMismatch(point.root)));
    }),
    ("sealed behind what failed", &[4], &["'sealed' while this end was replicating"], |l| {
        asked_behind(l, |l, number, point| {
            say(l, &failed_in_part(number));
            say(l, &Message::Sealed(point));
        });
    }),
    ("another point than behind its batches", &[4], &["another recovery point"], |l| {
        asked_behind(l, |l, number, point| {
            say(l, &Message::Receipt(Receipt { batch: number, ..Receipt::default() }));
            say(l, &Message::Sealed(RecoveryPoint { exceptions: 7, ..point }));
        });
    }),
    ("sealed behind its batches, twice", &[0, 4], &[], |l| {
        asked_behind(l, |l, number, point| {
            say(l, &Message::Receipt(Receipt { batch: number, ..Receipt::default() }));
            (0..2).for_each(|_| say(l, &Message::Sealed(point)));
        });
    }),
    (
        "what failed behind a seal is in the next",
        &[6],
        &["3 entries, 293 KiB, 1 exceptions"],
        |l| {
            asked_behind(l, |l, number, point| {
                assert_eq!(point.exceptions, 0, "nobody knew");
                say(l, &failed_in_part(number));
                say(l, &Message::SealMismatch(point.root));
                seal(l, |later| {
                    assert_eq!((later.sequence, later.exceptions), (point.sequence, 1));
                    Message::Sealed(later)
                });
            });
        },
    ),
    ("sealed, of version 2, and silent", &[0], &["recovery point 1"], |l| {
        say(l, &Message::Welcome(Welcome { version: 2, ..welcome() }));
        while !matches!(hear(l), None | Some(Message::Compare(_))) {}
        say(l, &children(true, Vec::new()));
        let number = batch(l).unwrap_or(0);
        say(l, &Message::Receipt(Receipt { batch: number, ..Receipt::default() }));
        while let Some(message) = hear(l) {
            if let Message::Seal(point) = message {
                say(l, &Message::Sealed(point));
                break;
            }
        }
        // The source leaves at once: no goodbye, and no wait for this end's.
        let end = l.recv_control();
        assert!(matches!(end, Err(LinkError::ClosedByPeer { code: 0, .. })), "{end:?}");
    }),
    ("never leaves", &[0], &["recovery point 1"], |l| {
        empty(l);
        let number = batch(l).unwrap_or(0);
        say(l, &Message::Receipt(Receipt { batch: number, ..Receipt::default() }));
        while let Some(message) = hear(l) {
            if let Message::Seal(point) = message {
                say(l, &Message::Sealed(point));
            }
        }
    }),
    (
        "refusal that moves a terminal",
        &[4],
        &["the target refused: \\u{1b}[2J\\u{a}farshore: all is well"],
        |l| {
            let text = "\u{1b}[2J\nfarshore: all is well".to_owned();
            say(l, &Message::Refused { code: u32::MAX, text });
        },
    ),
    ("full, it says", &[7], &["the target refused", "hint: make room"], |l| {
        say(l, &Message::Refused { code: CloseCode::Disk as u32, text: "full".into() });
    }),
    ("signatures nobody asked for", &[4], &["answer that fits no query"], |l| {
        say(l, &Message::Welcome(Welcome { version: 2, ..welcome() }));
        say(l, &Message::Signatures { id: 0, bytes: vec![1; 1_000] });
    }),
    ("signatures before the welcome", &[4], &["answer that fits no query"], |l| {
        say(l, &Message::Signatures { id: 0, bytes: Vec::new() });
    }),
    ("a request to sign from the target", &[4], &["sign"], |l| {
        say(l, &Message::Welcome(Welcome { version: 2, ..welcome() }));
        say_after_compare(
            l,
            &Message::Sign(Sign {
                id: 0,
                content: FileDigest([0; 32]),
                signing: Signing::new(64, 3).unwrap(),
                ranges: Vec::new(),
            }),
        );
    }),
    ("garbage", &[4], &["message from the peer"], |l| {
        l.send_control(Bytes::from(vec![0xff; 9_000])).unwrap_or(());
    }),
    ("nothing as a message", &[4], &["message from the peer"], |l| {
        l.send_control(Bytes::new()).unwrap_or(());
    }),
    ("leaves at once", &[4], &["peer"], |l| l.close(CloseCode::Internal as u32, "\u{1b}[2J")),
    ("ends its side at once", &[4], &["ended the session"], |l| l.finish_control().unwrap_or(())),
    ("checks for a while, then garbage", &[4], &["message from the peer"], |l| {
        (0..50_000).for_each(|n| say(l, &Message::Checking(u64::MAX - n)));
        l.send_control(Bytes::from_static(b"?")).unwrap_or(());
    }),
];

fn say_after_compare(link: &QuicLink, message: &Message) {
    while !matches!(hear(link), None | Some(Message::Compare(_))) {}
    say(link, message);
}

/// One run of the binary against `script`.
fn run(site: &Site, script: fn(&QuicLink), state: &str) -> Output {
    let key = SiteKey::load(&site.target_state.join("site.key")).unwrap();
    let allowed = KeySet::from(site.source_key.parse::<KeyId>().unwrap());
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = Listener::bind(address, &key, allowed, TransportConfig::loopback()).unwrap();
    let to = format!("farshore://{}/share", listener.local_addr());
    let state = site.path(state);
    std::fs::create_dir(&state).unwrap();
    std::fs::copy(site.source_state.join("site.key"), state.join("site.key")).unwrap();
    std::thread::scope(|scope| {
        let peer = scope.spawn(|| {
            let incoming = listener.accept().unwrap();
            within(&incoming.link, SOON, CloseCode::Internal, "long enough", || {
                assert!(matches!(hear(&incoming.link), Some(Message::Hello { .. })));
                script(&incoming.link);
                while hear(&incoming.link).is_some() {}
            });
        });
        let args = [
            "replicate",
            text(&site.source),
            &to,
            "--peer",
            &site.target_key,
            "--state",
            text(&state),
        ];
        let out = farshore(&args);
        peer.join().unwrap();
        out
    })
}

#[test]
fn a_hostile_target_learns_and_breaks_nothing() {
    let site = Site::new();
    std::fs::create_dir(site.source.join("in")).unwrap();
    std::fs::write(site.source.join("in/a"), "alpha").unwrap();
    std::fs::write(site.source.join("in/b"), "beta").unwrap();
    std::fs::write(site.source.join("large"), farshore_test_support::Rng::new(1).bytes(300_000))
        .unwrap();
    let before = files(&site.source);
    let mut wrong = Vec::new();
    for (number, (name, codes, words, script)) in CASES.iter().enumerate() {
        let start = Instant::now();
        let out = run(&site, *script, &format!("state{number}"));
        let all = shown(&out);
        let took = start.elapsed();
        let code = out.status.code().unwrap_or(-1);
        let said = words.iter().all(|w| all.contains(w));
        let plain = !all.contains(['\u{1b}', '\u{202e}']) && !all.contains("panicked");
        if !codes.contains(&code) || !said || !plain || took > SOON {
            wrong.push(format!("{name} ({took:?}): expected {codes:?} {words:?}: {all}"));
        }
        assert_eq!(files(&site.source), before, "{name}");
    }
    println!("{} hostile targets", CASES.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    // The source is as good as ever.
    expect(&site.local(&[]), 0, &[]);
    crate::common::assert_equal_trees(&site.source, &site.target);
}

/// What the source's catalog in the state folder `state` has: entries, and whether each of these paths is one.
fn recorded(site: &Site, state: &str, paths: &[&str]) -> (u64, Vec<bool>) {
    let folders = std::fs::read_dir(site.path(state)).unwrap().map(|entry| entry.unwrap().path());
    let found = folders.map(|folder| folder.join("catalog.redb")).find(|path| path.exists());
    let config = CatalogConfig {
        role: CatalogRole::Source,
        cache_bytes: 1 << 20,
        fresh_id: StoreId([1; 16]),
    };
    let catalog = Catalog::open(&found.expect("a catalog"), &config).unwrap();
    let reader = catalog.reader().unwrap();
    let is_there =
        |path: &&str| reader.get(&RelPath::new(path.as_bytes()).unwrap()).unwrap().is_some();
    (reader.entry_count().unwrap(), paths.iter().map(is_there).collect())
}

/// Long enough for the source to have written all it foresees.
const FORESEEN: Duration = Duration::from_millis(300);

/// The source writes down what is under way before it hears of it: none of it stays that no receipt has named.
#[test]
fn nothing_is_recorded_that_no_receipt_has_said_is_durable() {
    let site = Site::new();
    std::fs::create_dir(site.source.join("in")).unwrap();
    std::fs::write(site.source.join("in/a"), "alpha").unwrap();
    std::fs::write(site.source.join("in/b"), "beta").unwrap();
    let paths = ["in", "in/a", "in/b"];

    let out = run(
        &site,
        |l| {
            empty(l);
            batch(l);
            std::thread::sleep(FORESEEN);
            l.close(CloseCode::Internal as u32, "no receipt");
        },
        "unheard",
    );
    assert_eq!(out.status.code(), Some(4), "{}", shown(&out));
    assert_eq!(recorded(&site, "unheard", &paths), (0, vec![false; 3]));

    let out = run(
        &site,
        |l| {
            empty(l);
            let number = batch(l).unwrap_or(0);
            std::thread::sleep(FORESEEN);
            let path = RelPath::new(*b"in/b").unwrap();
            let failures = vec![Failure { path, kind: FailureKind::Refused, text: "no".into() }];
            say(l, &Message::Receipt(Receipt { batch: number, failures, degraded: Vec::new() }));
            seal(l, Message::Sealed);
        },
        "refused",
    );
    assert_eq!(out.status.code(), Some(6), "{}", shown(&out));
    assert_eq!(recorded(&site, "refused", &paths), (2, vec![true, true, false]));
    // Each was counted once, although it was written twice.
    assert!(shown(&out).contains("3 written"), "{}", shown(&out));
}

//! Hostile ends where a seal is asked for behind batches, at either side.

use std::time::{Duration, Instant};

use farshore_core::digest::RootDigest;
use farshore_core::entry::Entry;
use farshore_core::path::RelPath;
use farshore_core::policy::PolicySet;
use farshore_core::recovery_point::{Epoch, RecoveryPoint};
use farshore_engine::deadline::within;
use farshore_proto::batch::BatchHeader;
use farshore_proto::close::CloseCode;
use farshore_proto::link::Link;
use farshore_proto::message::{Message, PROTOCOL_VERSION, Query, SEAL_BEHIND_VERSION};
use farshore_proto::op::Op;

use crate::common::{Server, Site, expect};
use crate::source::{
    Attack, MEMORY, NO_CONTENT, SOON, assert_sound, closed, file, frame, hear, honest, leaves,
    meta, path, point, say, site,
};

/// What the server did about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It ended the session.
    Ended,
    /// It recorded the point.
    Sealed,
    /// It refused to.
    Refused,
    /// It said nothing of it.
    Waits,
}
use Outcome::{Ended, Refused, Sealed, Waits};

/// What it said of a seal within `time`.
fn outcome(a: &Attack, time: Duration) -> Outcome {
    let start = Instant::now();
    within(&a.link, time, CloseCode::Internal, "the test waited long enough", || {
        loop {
            match hear(&a.link) {
                None if start.elapsed() >= time => return Waits,
                None | Some(Message::Refused { .. }) => return Ended,
                Some(Message::Sealed(_)) => return Sealed,
                Some(Message::SealMismatch(_)) => return Refused,
                Some(_) => {}
            }
        }
    })
}

/// A session of a source that speaks up to `version`.
fn session(version: u16, site: &Site, server: &Server) -> Attack {
    let attack = Attack::speaking(version, site, server);
    say(&attack.link, &Message::Policies(PolicySet::default()));
    // Streams are no part of the order of messages: what is answered now was heard behind the policies.
    say(&attack.link, &Message::Compare(vec![Query { directory: RelPath::root(), bucket: None }]));
    hears(&attack, |message| matches!(message, Message::Answer(_)));
    attack
}

fn hears(a: &Attack, what: fn(&Message) -> bool) {
    let heard = within(&a.link, SOON, CloseCode::Internal, "", || {
        while let Some(message) = hear(&a.link) {
            if what(&message) {
                return true;
            }
        }
        false
    });
    assert!(heard, "it never came");
}

fn hears_receipt(a: &Attack) {
    hears(a, |message| matches!(message, Message::Receipt(_)));
}

fn sequenced(a: &Attack, root: RootDigest) -> RecoveryPoint {
    let sequence = a.welcome.recovery_point.map_or(1, |point| point.sequence + 1);
    RecoveryPoint { sequence, ..point(root) }
}

fn behind(a: &Attack, batch: u64) -> Message {
    Message::SealBehind { batch, point: sequenced(a, a.welcome.root) }
}

/// A batch of these.
fn batch(a: &Attack, number: u64, ops: &[Op<'_>]) {
    let header = BatchHeader::of(number, Epoch(0)).to_bytes();
    a.stream([header, frame(&closed(ops))].concat(), true);
}

/// What cannot be done, and leaves the tree as it is.
fn fails() -> Op<'static> {
    let entry = Entry::File { size: 70_000, content: NO_CONTENT, meta: meta() };
    Op::Reuse { path: path("in/new"), entry }
}

fn small() -> Op<'static> {
    Op::Small { path: path("in/new"), entry: file(b"x"), bytes: b"x" }
}

type Case = (&'static str, Outcome, fn(&Attack));

const CASES: &[Case] = &[
    ("behind a batch that changes nothing", Sealed, |a| {
        say(&a.link, &behind(a, a.next()));
        batch(a, a.next(), &[]);
    }),
    ("behind one that is applied already", Sealed, |a| {
        batch(a, a.next(), &[]);
        hears_receipt(a);
        say(&a.link, &behind(a, a.next()));
    }),
    // Its root is the one that the source names: nothing but the failure speaks against it.
    ("behind one of which something failed", Refused, |a| {
        say(&a.link, &behind(a, a.next()));
        batch(a, a.next(), &[fails()]);
    }),
    ("behind one that follows one of which something failed", Refused, |a| {
        batch(a, a.next(), &[fails()]);
        say(&a.link, &behind(a, a.next() + 1));
        batch(a, a.next() + 1, &[]);
    }),
    ("another root than it comes to", Refused, |a| {
        say(&a.link, &behind(a, a.next()));
        batch(a, a.next(), &[small()]);
    }),
    ("behind a batch that never comes", Waits, |a| say(&a.link, &behind(a, a.next()))),
    ("behind a batch that never ends", Waits, |a| {
        let header = BatchHeader::of(a.next(), Epoch(0)).to_bytes();
        let mut stream = a.link.open_bulk().unwrap();
        stream.write(header.into()).unwrap();
        say(&a.link, &behind(a, a.next()));
        std::thread::spawn(move || {
            std::thread::sleep(SOON);
            drop(stream);
        });
    }),
    ("behind no batch at all", Ended, |a| say(&a.link, &behind(a, a.next() - 1))),
    ("behind the last batch there is", Ended, |a| say(&a.link, &behind(a, u64::MAX))),
    ("behind one that cannot be under way yet", Ended, |a| {
        say(&a.link, &behind(a, a.next() + 64));
    }),
    ("behind one that is not the last", Ended, |a| {
        (0..2).for_each(|n| batch(a, a.next() + n, &[]));
        (0..2).for_each(|_| hears_receipt(a));
        say(&a.link, &behind(a, a.next()));
    }),
    ("twice", Ended, |a| (0..2).for_each(|_| say(&a.link, &behind(a, a.next())))),
    ("twice, the first one refused", Ended, |a| {
        say(&a.link, &behind(a, a.next()));
        batch(a, a.next(), &[fails()]);
        assert_eq!(outcome(a, SOON), Refused);
        say(&a.link, &behind(a, a.next()));
    }),
    ("a batch beyond it", Ended, |a| {
        say(&a.link, &behind(a, a.next()));
        batch(a, a.next() + 1, &[]);
    }),
    ("a seal behind it", Ended, |a| {
        say(&a.link, &behind(a, a.next()));
        say(&a.link, &Message::Seal(sequenced(a, a.welcome.root)));
    }),
    ("a comparison behind it", Ended, |a| {
        say(&a.link, &behind(a, a.next()));
        say(&a.link, &Message::Compare(Vec::new()));
    }),
    ("goodbye behind it", Ended, |a| {
        say(&a.link, &behind(a, a.next()));
        say(&a.link, &Message::Goodbye);
    }),
    ("a batch of garbage", Ended, |a| {
        say(&a.link, &behind(a, a.next()));
        let header = BatchHeader::of(a.next(), Epoch(0)).to_bytes();
        a.stream([header, frame(&[0xff; 900])].concat(), true);
    }),
    ("before the policies", Ended, |_| {}),
    ("of a version that knows of none", Ended, |_| {}),
];

#[test]
fn a_hostile_source_gets_no_point_that_is_not_so() {
    let site = site();
    let mut server = site.serve(0);
    expect(&site.remote(server.port(), &[]), 0, &[]);
    let mut wrong = Vec::new();
    for (name, expected, script) in CASES {
        let attack = match *name {
            "before the policies" => {
                let attack = Attack::speaking(PROTOCOL_VERSION, &site, &server);
                say(&attack.link, &behind(&attack, attack.next()));
                attack
            }
            "of a version that knows of none" => {
                let attack = session(SEAL_BEHIND_VERSION - 1, &site, &server);
                say(&attack.link, &behind(&attack, attack.next()));
                attack
            }
            _ => session(PROTOCOL_VERSION, &site, &server),
        };
        let former = attack.welcome.recovery_point;
        script(&attack);
        let time = if *expected == Waits { Duration::from_secs(1) } else { SOON };
        let found = outcome(&attack, time);
        drop(attack);
        // What the share says to the next one who asks.
        let after = Attack::speaking(PROTOCOL_VERSION, &site, &server).welcome.recovery_point;
        let moved = after.map(|point| point.sequence) > former.map(|point| point.sequence);
        if found != *expected || moved != (found == Sealed) {
            wrong.push(format!("{name}: {found:?}, moved: {moved}, expected {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", server.log());
    // What one of them wrote is undone by an honest source.
    honest(&site, &server);
    assert_sound(&site, &mut server, MEMORY);
}

/// A source that is gone when it has been told, or never leaves: the target does not stay for it.
#[test]
fn a_source_that_heard_of_its_seal_behind_batches_may_leave_and_need_not_be_waited_for() {
    let site = site();
    let server = site.serve(0);
    expect(&site.remote(server.port(), &[]), 0, &[]);
    for closes in [true, false] {
        let end = session(PROTOCOL_VERSION, &site, &server);
        say(&end.link, &behind(&end, end.next()));
        batch(&end, end.next(), &[]);
        let sealed = within(&end.link, SOON, CloseCode::Internal, "", || {
            hear(&end.link).and_then(|_receipt| hear(&end.link))
        });
        assert!(matches!(sealed, Some(Message::Sealed(_))), "{sealed:?}");
        leaves(&server, &end.link, closes);
    }
}

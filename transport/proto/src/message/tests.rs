//! Every message, its bytes, and what is not one.

use farshore_core::entry::Metadata;
use farshore_core::policy::{PolicyId, PolicyIdentity};
use proptest::prelude::*;

use super::*;

fn samples() -> Vec<Message> {
    let point = RecoveryPoint {
        sequence: 3,
        time_unix_ms: -5,
        root: RootDigest([7; 32]),
        entries: 10,
        bytes: 1 << 40,
        exceptions: 1,
    };
    let path = RelPath::new(*b"a/b").expect("valid");
    let directory = path.clone();
    vec![
        Message::Hello {
            versions: (1, 1),
            share: "homes".into(),
            source: StoreId([1; 16]),
            epoch: Epoch(4),
            trust_target: true,
        },
        Message::Welcome(Welcome {
            version: 1,
            target: StoreId([2; 16]),
            sealed_with: Some(StoreId([1; 16])),
            epoch: Epoch(4),
            applied_batch: 9,
            root: RootDigest([3; 32]),
            entries: 5,
            foreign_changes: 0,
            recovery_point: Some(point),
        }),
        Message::Checking(7),
        Message::Refused { code: 2, text: "no such share".into() },
        Message::Compare(vec![
            Query { directory: RelPath::root(), bucket: None },
            Query { directory: path.clone(), bucket: Some(255) },
        ]),
        Message::Answer(Answer::Buckets(Box::new([DirectoryDigest([9; 32]); BUCKETS]))),
        Message::Answer(Answer::Children {
            last: true,
            children: vec![Child {
                path: path.clone(),
                entry: Entry::Directory { meta: Metadata::default() },
                below: Some(DirectoryDigest([4; 32])),
            }],
        }),
        Message::Receipt(Receipt {
            batch: 12,
            failures: vec![Failure {
                path,
                kind: FailureKind::Basis(vec![ChunkId([5; 32])]),
                text: "chunk gone".into(),
            }],
            degraded: vec![("owner".into(), 3)],
        }),
        Message::Seal(point),
        Message::Sealed(point),
        Message::SealMismatch(RootDigest([8; 32])),
        Message::Goodbye,
        Message::Sign(Sign {
            id: 8,
            content: FileDigest([6; 32]),
            signing: Signing::new(1_024, 5).expect("within bounds"),
            ranges: vec![(1 << 40, 1 << 20), (4_096, 2_048), (6_144, 1)],
        }),
        Message::Signatures { id: 8, bytes: vec![1; 99] },
        Message::Policies(PolicySet {
            rules: [9; 32],
            policies: vec![PolicyIdentity {
                name: "mft-defaults".into(),
                id: PolicyId([8; 32]),
                settings: [7; 32],
                limits: [6; 32],
            }],
        }),
        Message::Standing,
        Message::Mark { sequence: 4, label: "db=0/16B3748".into() },
        Message::Offer { versions: (4, 4), share: "homes".into() },
        Message::Foreign(3),
        Message::Report { versions: (4, 4), share: "homes".into(), node: "n2".into() },
        Message::Events(Events {
            number: 7,
            lost: Some("the queue was full".into()),
            parts: vec![(RelPath::root(), true), (directory, false)],
        }),
        Message::Sync(9),
        Message::Heard(7),
        Message::Keys(vec![6, 1, 0, 0, 0]),
        Message::Holds(Holds {
            total: 70,
            oldest_point: Some(2),
            first: vec![held(Some(9), Some((3, -5))), held(None, None)],
        }),
        Message::Beat(Beat {
            time_unix_ms: -7,
            answers_unix_ms: Some(1_795_390_871_000),
            path: b"/shared/homes".to_vec(),
            free_bytes: Some(1 << 40),
            unsealed: Some(Unsealed { files: 3, bytes: None, is_all: Some(false) }),
        }),
        Message::Talk { versions: (5, 5), site: "production".into() },
        Message::Say { share: "homes".into(), said: vec![1, 2, 3] },
        Message::Ask(call(Purpose::Inventory)),
        Message::Call(call(Purpose::Carry)),
        Message::Part { last: true, bytes: vec![9; 100] },
        Message::Ahead { keep: None },
        Message::Ahead { keep: Some(vec![FileDigest([1; 32]), FileDigest([2; 32])]) },
        Message::Held {
            content: FileDigest([3; 32]),
            whole: true,
            last: false,
            bytes: vec![4; 99],
        },
        Message::Listed(7),
        Message::Carried(Receipt { batch: 3, ..Receipt::default() }),
        Message::Behind(Behind { total: 9, first: vec![(RelPath::root(), -1)] }),
        Message::SealBehind { batch: 1 << 40, point },
    ]
}

fn held(rejected_unix_ms: Option<i64>, point: Option<(u64, i64)>) -> Held {
    let (account, id) = (RelPath::new(*b"acct7").expect("valid"), "12".into());
    let (reason, counts) = ("150 of 200 entries would be deleted".into(), [0, 150, 2, 3]);
    Held { id, account, since_unix_ms: 8, rejected_unix_ms, point, reason, counts }
}

#[test]
fn holds_are_bounded_and_name_the_points_that_are_to_be_kept() {
    let long = Held { reason: "\u{fc}".repeat(600), ..held(None, Some((7, 1))) };
    let all = Holds { total: 99, oldest_point: Some(3), first: vec![long; 99] };
    assert_eq!(all.points(), [3, 7]);
    let Ok(Message::Holds(read)) = Message::from_bytes(&Message::Holds(all).to_bytes()) else {
        panic!("it does not read back");
    };
    assert_eq!((read.total, read.first.len()), (99, HOLDS_MAX));
    assert_eq!(read.first[0].reason.len(), HOLD_TEXT_MAX);
}

#[test]
fn accounts_that_are_behind_are_bounded_and_all_are_counted() {
    let long = RelPath::new(vec![b'a'; 255]).expect("valid");
    let behind = Behind::of((0..99).rev().map(|n| (long.clone(), n)));
    assert_eq!((behind.total, behind.first.len()), (99, BEHIND_MAX));
    assert_eq!((behind.first[0].1, behind.unnamed_since()), (0, Some(63)), "the furthest behind");
    assert_eq!(Behind::of([(long.clone(), 7)]).unnamed_since(), None);
    let read = Message::from_bytes(&Message::Behind(behind.clone()).to_bytes());
    assert_eq!(read, Ok(Message::Behind(behind)));
}

#[test]
fn every_message_round_trips() {
    for message in samples() {
        assert_eq!(Message::from_bytes(&message.to_bytes()), Ok(message));
    }
}

#[test]
fn every_tag_has_a_sample() {
    let mut tags: Vec<u8> = samples().iter().map(|m| m.to_bytes()[0]).collect();
    tags.dedup();
    // A tag that is known fails for want of its fields, if at all.
    let known = |tag: &u8| {
        let unknown = DecodeError::Invalid { what: "message", found: u64::from(*tag) };
        Message::from_bytes(&[*tag]) != Err(unknown)
    };
    assert_eq!(tags, (0..=u8::MAX).filter(known).collect::<Vec<_>>());
}

/// A batch of the most operations, or of the longest paths, all of them refused at length.
#[test]
fn a_receipt_that_refuses_a_whole_batch_fits_a_message() {
    let shapes = [
        (BATCH_OPS_MAX, BATCH_NAMES_MAX / BATCH_OPS_MAX - FAILURE_COST),
        (4_096, BATCH_NAMES_MAX / 4_096 - FAILURE_COST),
        (95, 32 * 1024),
    ];
    for (count, path_len) in shapes {
        let mut name = vec![b'p'; path_len];
        name.iter_mut().skip(200).step_by(200).for_each(|b| *b = b'/');
        if name.ends_with(b"/") {
            name.pop();
        }
        let path = RelPath::new(name).expect("a path");
        let failure = |n: usize| Failure {
            path: path.clone(),
            kind: match n % 3 {
                0 if count % 2 == 0 => FailureKind::Refused,
                0 => FailureKind::NoSpace { needed: u64::MAX, free: u64::MAX },
                1 => FailureKind::Basis(Vec::new()),
                _ => FailureKind::Basis(vec![ChunkId([1; 32]); 100]),
            },
            text: "\u{fc}ber".repeat(400),
        };
        let degraded = vec![("d".repeat(2_000), u64::MAX); 100];
        let failures = (0..count).map(failure).collect();
        let receipt = Receipt { batch: u64::MAX, failures, degraded }.fitted();
        assert_eq!(receipt.failures.len(), count);
        let bytes = Message::Receipt(receipt).to_bytes();
        assert!(bytes.len() <= crate::link::CONTROL_MESSAGE_MAX, "{count}: {}", bytes.len());
        let Ok(Message::Receipt(read)) = Message::from_bytes(&bytes) else {
            panic!("{count} failures are no receipt");
        };
        let named = read.failures.iter().filter(|f| !f.text.is_empty()).count();
        assert_eq!(named, count, "a word about each");
    }
    let short = Receipt { failures: vec![], ..Receipt::default() };
    assert_eq!(short.clone().fitted(), short);
}

#[test]
fn requests_to_sign_beyond_their_bounds_are_refused() {
    let signing = Signing::new(64, 3).expect("within bounds");
    let with = |ranges: Vec<(u64, u64)>| {
        let sign = Sign { id: 1, content: FileDigest([0; 32]), signing, ranges };
        Message::from_bytes(&Message::Sign(sign).to_bytes()).is_ok()
    };
    assert!(with(vec![(0, SIGNED_LEN_MAX / 2); 2]));
    assert!(!with(vec![(0, SIGNED_LEN_MAX / 2), (0, SIGNED_LEN_MAX / 2), (0, 1)]), "too long");
    assert!(with(vec![(9, 1); SIGN_RANGES_MAX]));
    assert!(!with(vec![(9, 1); SIGN_RANGES_MAX + 1]), "too many");
    assert!(!with(vec![(1 << 63, 1)]), "beyond every file");
    for (block_len, signature_len) in [(0, 3), (31, 3), (1 << 40, 3), (64, 0), (64, 7)] {
        let mut e = Encoder::new();
        e.put_u8(12);
        e.put_u64(1);
        e.put_raw(&[0; 32]);
        e.put_u64(block_len);
        e.put_u64(signature_len);
        e.put_u64(0);
        assert!(Message::from_bytes(&e.finish()).is_err(), "{block_len} {signature_len}");
    }
}

#[test]
fn an_announcement_of_keys_is_not_longer_than_its_bound() {
    let read = |len| Message::from_bytes(&Message::Keys(vec![1; len]).to_bytes()).is_ok();
    assert!(read(KEYS_LEN_MAX) && !read(KEYS_LEN_MAX + 1));
}

#[test]
fn no_truncation_of_a_message_is_a_message() {
    for message in samples() {
        let bytes = message.to_bytes();
        for len in 0..bytes.len() {
            assert!(Message::from_bytes(&bytes[..len]).is_err(), "{} cut to {len}", message.name());
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_message_or_refused(bytes: Vec<u8>) {
        let _decoded_or_refused = Message::from_bytes(&bytes).is_ok();
    }

    #[test]
    fn damage_is_a_message_or_refused(
        which: prop::sample::Index, at: prop::sample::Index, to: u8
    ) {
        let mut bytes = samples()[which.index(samples().len())].to_bytes();
        let at = at.index(bytes.len());
        bytes[at] = to;
        let _decoded_or_refused = Message::from_bytes(&bytes).is_ok();
    }
}

fn call(purpose: Purpose) -> Call {
    Call { purpose, share: "homes".into(), number: 7, plan: [3; 32] }
}

#[test]
fn what_sites_say_of_themselves_is_understood_since_the_version_that_says_it_so() {
    let ranges = [(5, 5), (4, 6), (4, 7), (7, 9), (PROTOCOL_VERSION + 1, 9), (7, 6), (0, u16::MAX)];
    let understood = ranges.map(understands_sites);
    assert_eq!(understood, [false, true, true, true, false, false, true]);
}

//! What each machine takes, and what it refuses.

use farshore_core::digest::RootDigest;
use farshore_core::policy::PolicySet;
use farshore_core::recovery_point::RecoveryPoint;

use super::*;
use crate::batch::Stripe;
use crate::message::{Beat, Behind, Failure, FailureKind, Holds, Receipt, StoreId, Welcome};

fn hello(versions: (u16, u16), epoch: u64) -> Message {
    Message::Hello {
        versions,
        share: "s".into(),
        source: StoreId([0; 16]),
        epoch: Epoch(epoch),
        trust_target: false,
    }
}

fn welcome(epoch: u64) -> Message {
    Message::Welcome(Welcome {
        version: PROTOCOL_VERSION,
        target: StoreId([0; 16]),
        sealed_with: None,
        epoch: Epoch(epoch),
        applied_batch: 4,
        root: RootDigest([0; 32]),
        entries: 0,
        foreign_changes: 0,
        recovery_point: None,
    })
}

fn began(batch: u64, epoch: u64) -> BatchHeader {
    BatchHeader::of(batch, Epoch(epoch))
}

fn point() -> RecoveryPoint {
    RecoveryPoint {
        sequence: 1,
        time_unix_ms: 0,
        root: RootDigest([0; 32]),
        entries: 0,
        bytes: 0,
        exceptions: 0,
    }
}

#[test]
fn a_whole_session_passes_both_machines() {
    let mut source = SourceSession::new(Epoch(2));
    let mut target = TargetSession::new(Epoch(2));
    target.handle(&hello((1, 1), 2)).expect("hello");
    target.welcome_sent(4);
    source.handle(&Message::Checking(1)).expect("checking");
    source.handle(&welcome(2)).expect("welcome");
    source.batch_sent(5);
    target.batch_began(&began(5, 2)).expect("batch");
    assert!(target.handle(&Message::Seal(point())).is_err(), "a batch is under way");
    target.batch_applied(5, true);
    source.handle(&Message::Receipt(Receipt { batch: 5, ..Receipt::default() })).expect("receipt");
    assert_eq!(source.batches_under_way(), 0);
    source.seal_sent();
    target.handle(&Message::Seal(point())).expect("seal");
    source.handle(&Message::Sealed(point())).expect("sealed");
    target.handle(&Message::Goodbye).expect("goodbye");
}

#[test]
fn an_old_epoch_is_refused_at_both_ends() {
    let mut target = TargetSession::new(Epoch(3));
    assert_eq!(
        target.handle(&hello((1, 1), 2)),
        Err(SessionError::EpochFenced { ours: 3, theirs: 2 })
    );
    let mut target = TargetSession::new(Epoch(3));
    target.handle(&hello((1, 1), 3)).expect("hello");
    target.welcome_sent(0);
    assert!(target.batch_began(&began(1, 2)).is_err());
    let mut source = SourceSession::new(Epoch(2));
    let over = SessionError::EpochOver { ours: 2, theirs: 3 };
    assert_eq!(over.to_string().matches("epoch 3 is in force at the target").count(), 1);
    assert_eq!(source.handle(&welcome(3)), Err(over));
}

#[test]
fn what_nobody_asked_for_is_refused() {
    let mut source = SourceSession::new(Epoch(0));
    assert!(source.handle(&Message::Sealed(point())).is_err(), "before its welcome");
    source.handle(&welcome(0)).expect("welcome");
    let receipt = Message::Receipt(Receipt { batch: 9, ..Receipt::default() });
    assert_eq!(source.handle(&receipt), Err(SessionError::UnknownBatch { batch: 9 }));
    let answer = Message::Answer(Answer::Children { last: true, children: Vec::new() });
    assert_eq!(source.handle(&answer), Err(SessionError::UnaskedAnswer));
    assert!(source.handle(&hello((1, 1), 0)).is_err());
}

#[test]
fn replayed_batches_and_foreign_versions_are_refused() {
    let mut target = TargetSession::new(Epoch(0));
    assert!(target.batch_began(&began(1, 0)).is_err(), "before the hello");
    assert!(matches!(
        target.handle(&hello((PROTOCOL_VERSION + 1, 9), 0)),
        Err(SessionError::VersionMismatch { lowest: _, highest: 9 })
    ));
    assert!(target.handle(&hello((9, 0), 0)).is_err(), "the wrong way round");
    assert!(target.handle(&hello((0, 0), 0)).is_err(), "older than all");
    target.handle(&hello((0, 9), 0)).expect("a range that holds ours");
    assert_eq!(target.version(), PROTOCOL_VERSION);
    target.welcome_sent(4);
    target.handle(&Message::Policies(PolicySet::default())).expect("policies");
    assert_eq!(target.batch_began(&began(4, 0)), Err(SessionError::UnknownBatch { batch: 4 }));
    target.batch_began(&began(5, 0)).expect("the next");
    assert!(target.batch_began(&began(5, 0)).is_err(), "twice");
    target.batch_applied(5, true);
    assert!(target.batch_began(&began(5, 0)).is_err(), "replayed");
}

#[test]
fn nothing_comes_before_the_policies_in_force_and_they_come_once() {
    let policies = Message::Policies(PolicySet::default());
    let mut target = TargetSession::new(Epoch(0));
    target.handle(&hello((1, POLICIES_VERSION), 0)).expect("hello");
    target.welcome_sent(0);
    assert!(target.batch_began(&began(1, 0)).is_err());
    assert!(target.handle(&Message::Seal(point())).is_err());
    assert!(target.handle(&Message::Compare(Vec::new())).is_err());
    target.handle(&policies).expect("policies");
    assert!(target.handle(&policies).is_err(), "twice");
    target.batch_began(&began(1, 0)).expect("batch");
    assert!(ready((1, 2)).handle(&policies).is_err(), "version 2 knows of none");
}

#[test]
fn batches_of_several_streams_are_for_those_who_speak_of_them() {
    let header = BatchHeader { stripe: Stripe { index: 0, of: 2 }, ..began(1, 0) };
    assert!(ready((1, 1)).batch_began(&header).is_err(), "version 1");
    ready((1, 2)).batch_began(&header).expect("version 2");
    let header = BatchHeader { deal: Deal::Pieces, ..header };
    let began = |version| {
        let mut target = ready((1, version));
        target.handle(&Message::Policies(PolicySet::default())).expect("policies");
        target.batch_began(&header)
    };
    let limit = SessionError::TooMany { what: "pieces of a frame", limit: 1 };
    assert_eq!(began(PIECES_VERSION - 1), Err(limit));
    began(PIECES_VERSION).expect("the version with pieces");
}

#[test]
fn a_target_may_be_left_when_all_is_sealed_and_not_before() {
    let mut target = ready((1, 2));
    assert!(!target.may_be_left());
    target.handle(&Message::Seal(point())).expect("seal");
    assert!(!target.may_be_left(), "the roots may differ");
    target.sealed(1);
    assert!(target.may_be_left());
    target.batch_began(&began(1, 0)).expect("more to do");
    assert!(!target.may_be_left());
    let mut target = ready((1, 1));
    target.handle(&Message::Seal(point())).expect("seal");
    target.sealed(1);
    assert!(!target.may_be_left(), "version 1 says goodbye");
}

#[test]
fn a_session_that_stands_goes_on_behind_each_seal() {
    let (mut source, mut target) = (SourceSession::new(Epoch(0)), TargetSession::new(Epoch(0)));
    target.handle(&hello((1, STANDING_VERSION), 0)).expect("hello");
    target.welcome_sent(4);
    source.handle(&welcome(0)).expect("welcome");
    let policies = Message::Policies(PolicySet::default());
    target.handle(&policies).expect("policies");
    let keys = Message::Keys(vec![1]);
    assert!(source.handle(&Message::Foreign(1)).is_err(), "it does not stand yet");
    let beat = Message::Beat(Beat::default());
    for said in [&keys, &beat] {
        assert!(source.handle(said).is_err() && target.handle(said).is_err(), "nor of these");
    }
    source.stands();
    target.handle(&Message::Standing).expect("standing");
    for batch in 5..8 {
        source.handle(&Message::Foreign(1)).expect("between two cuts");
        target.handle(&Message::Holds(Holds::default())).expect("between two cuts");
        target.handle(&keys).expect("at any time");
        source.handle(&keys).expect("at any time");
        target.handle(&beat).expect("at any time");
        source.handle(&beat).expect("at any time");
        source.batch_sent(batch);
        target.batch_began(&began(batch, 0)).expect("batch");
        assert!(target.handle(&policies).is_err(), "within a cut");
        target.batch_applied(batch, true);
        let receipt = Receipt { batch, ..Receipt::default() };
        source.handle(&Message::Receipt(receipt)).expect("receipt");
        source.seal_sent();
        target.handle(&Message::Seal(point())).expect("seal");
        let mark = |sequence| Message::Mark { sequence, label: "db=1".into() };
        assert!(target.handle(&mark(batch)).is_err(), "not sealed yet");
        source.handle(&Message::Foreign(1)).expect("while the target seals");
        source.handle(&keys).expect("while the target seals");
        target.sealed(batch);
        source.handle(&Message::Sealed(point())).expect("sealed");
        target.handle(&mark(batch)).expect("the point just sealed");
        assert!(target.may_be_left(), "a label is no work");
        assert!(target.handle(&mark(batch - 1)).is_err(), "another point");
        target.handle(&policies).expect("at the border of a cut");
    }
    assert!(ready((1, 3)).handle(&Message::Standing).is_err(), "version 3");
}

#[test]
fn content_goes_ahead_in_sessions_that_stand_and_so_much_at_once() {
    let carry = |number| BatchHeader::ahead(number, Epoch(0));
    let list = Message::Ahead { keep: None };
    let standing = |version| {
        let mut target = ready((1, version));
        target.handle(&Message::Policies(PolicySet::default())).expect("policies");
        target.handle(&Message::Standing).expect("stands");
        target
    };
    let behind = Message::Behind(Behind::default());
    let mut older = standing(AHEAD_VERSION - 1);
    assert!(older.carry_began(&carry(1)).is_err() && older.handle(&list).is_err());
    assert!(older.handle(&behind).is_err());
    let mut single = ready((1, PROTOCOL_VERSION));
    single.handle(&Message::Policies(PolicySet::default())).expect("policies");
    assert!(single.carry_began(&carry(1)).is_err() && single.handle(&list).is_err());
    assert!(single.handle(&behind).is_err());
    let mut target = standing(PROTOCOL_VERSION);
    target.handle(&behind).expect("before a seal");
    assert!(target.carry_began(&BatchHeader::ahead(1, Epoch(1))).is_err(), "another epoch");
    (1..=CARRIES_MAX as u64).for_each(|n| target.carry_began(&carry(n)).expect("a stream"));
    assert!(target.carry_began(&carry(9)).is_err(), "one too many");
    target.carry_ended(1);
    assert!(target.carry_began(&carry(2)).is_err(), "twice");
    target.carry_began(&carry(9)).expect("one ended");
    // Neither they nor what they ask for keep a cut from being sealed, or the source from leaving.
    target.handle(&Message::Sign(sign(0))).expect("asked");
    target.handle(&Message::Seal(point())).expect("seal");
    target.sealed(7);
    target.handle(&list).expect("asked");
    target.handle(&Message::Sign(sign(1))).expect("asked");
    assert!(target.may_be_left());
}

fn sign(id: u64) -> Sign {
    let signing = farshore_core::delta::Signing::new(1_024, 5).expect("within bounds");
    let content = farshore_core::recipe::FileDigest([1; 32]);
    Sign { id, content, signing, ranges: vec![(0, 10_240), (99, 1_023)] }
}

fn ready(versions: (u16, u16)) -> TargetSession {
    let mut target = TargetSession::new(Epoch(0));
    target.handle(&hello(versions, 0)).expect("hello");
    target.welcome_sent(0);
    target
}

#[test]
fn signatures_are_for_those_who_speak_of_them_and_so_many_at_once() {
    let asked = |target: &mut TargetSession, id| target.handle(&Message::Sign(sign(id)));
    assert!(asked(&mut ready((1, 1)), 0).is_err(), "version 1");
    let mut early = TargetSession::new(Epoch(0));
    assert!(asked(&mut early, 0).is_err(), "before the hello");
    let mut target = ready((1, 2));
    for id in 0..SIGNS_UNDER_WAY_MAX as u64 {
        asked(&mut target, id).expect("within the bound");
    }
    assert!(target.handle(&Message::Seal(point())).is_err(), "not answered yet");
    assert!(asked(&mut target, 900).is_err(), "one too many");
    target.signed();
    assert!(asked(&mut target, 3).is_err(), "a number used before");
    asked(&mut target, 900).expect("one was answered");
    asked(&mut ready((1, 2)), u64::MAX).expect("the last number there is");
}

#[test]
fn answers_that_nobody_asked_for_are_refused() {
    let mut ledger = SignLedger::default();
    assert_eq!(ledger.answered(0, 0), Err(SessionError::UnaskedAnswer));
    let ask = |ledger: &mut SignLedger| {
        let sign = sign(ledger.next_id());
        ledger.asked(&sign);
    };
    ask(&mut ledger);
    ask(&mut ledger);
    ledger.answered(0, 50).expect("whole");
    ledger.answered(1, 0).expect("not there");
    assert!(ledger.answered(1, 0).is_err(), "twice");
    for len in [49, 51] {
        ask(&mut ledger);
        assert!(ledger.answered(ledger.next_id() - 1, len).is_err(), "{len} bytes");
    }
    ask(&mut ledger);
    ask(&mut ledger);
    assert!(ledger.answered(ledger.next_id() - 1, 50).is_err(), "not the oldest");
    // At the source's session they are nobody's.
    let mut source = SourceSession::new(Epoch(0));
    source.handle(&welcome(0)).expect("welcome");
    assert!(source.handle(&Message::Signatures { id: 0, bytes: Vec::new() }).is_err());
}

/// A source that was welcomed by a target of that version.
fn welcomed(version: u16) -> SourceSession {
    let mut source = SourceSession::new(Epoch(0));
    let Message::Welcome(w) = welcome(0) else { unreachable!("it is one") };
    source.handle(&Message::Welcome(Welcome { version, ..w })).expect("welcome");
    source
}

fn receipt(batch: u64) -> Message {
    Message::Receipt(Receipt { batch, ..Receipt::default() })
}

/// Not all of the batch was applied.
fn failing(batch: u64) -> Message {
    let path = farshore_core::path::RelPath::new(*b"a").expect("a path");
    let failures = vec![Failure { path, kind: FailureKind::Refused, text: String::new() }];
    Message::Receipt(Receipt { batch, failures, ..Receipt::default() })
}

fn behind(batch: u64) -> Message {
    Message::SealBehind { batch, point: point() }
}

/// A target, and whether it stands, of which batches up to 4 are applied.
fn speaking(version: u16, stands: bool) -> TargetSession {
    let mut target = TargetSession::new(Epoch(0));
    target.handle(&hello((1, version), 0)).expect("hello");
    target.welcome_sent(4);
    target.handle(&Message::Policies(PolicySet::default())).expect("policies");
    if stands {
        target.handle(&Message::Standing).expect("standing");
    }
    target
}

#[test]
fn a_seal_goes_behind_batches_and_is_answered_behind_the_last_receipt() {
    for stands in [false, true] {
        let (mut source, mut target) =
            (welcomed(PROTOCOL_VERSION), speaking(PROTOCOL_VERSION, stands));
        if stands {
            source.stands();
        }
        for first in if stands { vec![5, 8] } else { vec![5] } {
            let last = first + 1;
            assert_eq!(source.seals_behind(), None, "nothing is under way");
            (first..=last).for_each(|batch| source.batch_sent(batch));
            assert_eq!(source.seals_behind(), Some(last));
            source.seal_behind_sent();
            assert_eq!(source.seals_behind(), None, "asked already");
            // The streams of the last batches may come later than it, but none beyond them.
            target.batch_began(&began(first, 0)).expect("the first");
            target.handle(&behind(last)).expect("seal behind");
            target.batch_began(&began(last, 0)).expect("the last");
            assert!(target.batch_began(&began(last + 1, 0)).is_err(), "one more");
            for batch in first..=last {
                assert!(source.handle(&Message::Sealed(point())).is_err(), "{batch} is under way");
                assert!(source.handle(&Message::SealMismatch(point().root)).is_err(), "{batch}");
                target.batch_applied(batch, true);
                source.handle(&receipt(batch)).expect("receipt");
            }
            assert!(!target.has_failed() && !target.may_be_left());
            target.sealed(1);
            assert!(target.may_be_left());
            source.handle(&Message::Sealed(point())).expect("sealed");
            assert!(source.handle(&Message::Sealed(point())).is_err(), "twice");
            if stands {
                source.handle(&Message::Foreign(1)).expect("the session goes on");
                // A cut of nothing, whose seal waits for no receipt.
                target.handle(&Message::Seal(point())).expect("seal");
                target.sealed(2);
                target.batch_began(&began(last + 1, 0)).expect("the next cut");
                target.batch_applied(last + 1, true);
            }
        }
    }
}

#[test]
fn a_seal_behind_a_batch_that_failed_is_void_until_one_waits_for_all_receipts() {
    let (mut source, mut target) = (welcomed(PROTOCOL_VERSION), speaking(PROTOCOL_VERSION, true));
    source.stands();
    (5..8).for_each(|batch| source.batch_sent(batch));
    source.seal_behind_sent();
    target.handle(&behind(7)).expect("seal behind");
    for batch in 5..8 {
        target.batch_began(&began(batch, 0)).expect("batch");
        target.batch_applied(batch, batch != 6);
        assert_eq!(target.has_failed(), batch >= 6, "{batch}");
    }
    source.handle(&receipt(5)).expect("receipt");
    assert!(!source.awaits_refusal());
    source.handle(&failing(6)).expect("receipt");
    assert!(source.awaits_refusal());
    source.handle(&receipt(7)).expect("receipt");
    assert!(source.handle(&Message::Sealed(point())).is_err(), "a batch of it failed");
    target.seal_refused();
    source.handle(&Message::SealMismatch(point().root)).expect("refused");
    assert!(!source.awaits_refusal());
    // What is sent again is of the same cut.
    source.batch_sent(8);
    assert_eq!(source.seals_behind(), None, "a batch of this cut failed");
    target.batch_began(&began(8, 0)).expect("batch");
    target.batch_applied(8, true);
    assert!(target.has_failed());
    source.handle(&receipt(8)).expect("receipt");
    source.seal_sent();
    target.handle(&Message::Seal(point())).expect("seal");
    assert!(!target.has_failed(), "its source knows");
    target.sealed(1);
    source.handle(&Message::Sealed(point())).expect("sealed");
    source.batch_sent(9);
    assert_eq!(source.seals_behind(), Some(9), "another cut");
    // A batch that failed before all of a cut is written keeps it from being asked for at all.
    source.batch_sent(10);
    source.handle(&failing(9)).expect("receipt");
    assert_eq!(source.seals_behind(), None);
}

#[test]
fn a_seal_behind_what_is_none_of_the_cut_is_refused() {
    let mut older = speaking(SEAL_BEHIND_VERSION - 1, true);
    older.batch_began(&began(5, 0)).expect("batch");
    assert!(older.handle(&behind(5)).is_err(), "version 6 knows of none");
    let mut source = welcomed(SEAL_BEHIND_VERSION - 1);
    source.batch_sent(5);
    assert_eq!(source.seals_behind(), None, "nor does its source say it");
    assert!(welcomed(PROTOCOL_VERSION).handle(&behind(5)).is_err(), "from a target");

    let unknown = |batch| Err(SessionError::SealBehindUnknown { batch });
    let mut target = speaking(PROTOCOL_VERSION, true);
    assert_eq!(target.handle(&behind(4)), unknown(4), "no batch of this session");
    let beyond = 4 + BATCHES_UNDER_WAY_MAX as u64 + 1;
    assert_eq!(target.handle(&behind(beyond)), unknown(beyond), "never under way with the next");
    assert_eq!(target.handle(&behind(u64::MAX)), unknown(u64::MAX));
    target.batch_began(&began(5, 0)).expect("batch");
    target.batch_began(&began(6, 0)).expect("batch");
    assert_eq!(target.handle(&behind(5)), unknown(5), "a later one is under way");
    (5..7).for_each(|batch| target.batch_applied(batch, true));
    assert_eq!(target.handle(&behind(5)), unknown(5), "a later one is applied");
    target.handle(&behind(6)).expect("all of them are applied already");
    target.sealed(1);
    assert_eq!(target.handle(&behind(6)), unknown(6), "it is sealed");
    target.batch_began(&began(7, 0)).expect("batch");
    target.batch_applied(7, false);
    target.handle(&behind(7)).expect("it does not know yet");
    target.seal_refused();
    assert_eq!(target.handle(&behind(7)), unknown(7), "refused once");
}

#[test]
fn while_a_seal_waits_for_its_batches_nothing_else_belongs_to_the_cut() {
    let waiting = |stands| {
        let mut target = speaking(PROTOCOL_VERSION, stands);
        target.batch_began(&began(5, 0)).expect("batch");
        target.handle(&behind(5)).expect("seal behind");
        target
    };
    let refused = [
        Message::Seal(point()),
        behind(5),
        behind(6),
        Message::Compare(Vec::new()),
        Message::Policies(PolicySet::default()),
        Message::Standing,
        Message::Behind(Behind::default()),
        Message::Holds(Holds::default()),
        Message::Keys(Vec::new()),
        Message::Beat(Beat::default()),
        Message::Mark { sequence: 1, label: String::new() },
        Message::Goodbye,
    ];
    for message in refused {
        for stands in [false, true] {
            let found = waiting(stands).handle(&message);
            assert!(
                matches!(
                    found,
                    Err(SessionError::UnexpectedMessage { state: "about to seal", .. })
                ),
                "{}: {found:?}",
                message.name()
            );
        }
    }
    let ahead = Message::Ahead { keep: None };
    assert!(
        waiting(false).handle(&ahead).is_err()
            && waiting(false).handle(&Message::Sign(sign(0))).is_err()
    );
    let mut target = waiting(true);
    target.handle(&ahead).expect("what goes ahead of later cuts");
    target.handle(&Message::Sign(sign(0))).expect("and asks for signatures");
    target.carry_began(&BatchHeader::ahead(1, Epoch(0))).expect("a stream of it");
    // A request of the cut's own that is not answered yet: not all of it is written.
    let mut target = speaking(PROTOCOL_VERSION, false);
    target.batch_began(&began(5, 0)).expect("batch");
    target.handle(&Message::Sign(sign(0))).expect("asked");
    assert!(target.handle(&behind(5)).is_err());
    let mut source = welcomed(PROTOCOL_VERSION);
    source.batch_sent(5);
    source.queries_sent(1);
    assert_eq!(source.seals_behind(), None, "a comparison is open");
}

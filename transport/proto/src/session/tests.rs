//! What each machine takes, and what it refuses.

use farshore_core::digest::RootDigest;
use farshore_core::policy::PolicySet;
use farshore_core::recovery_point::RecoveryPoint;

use super::*;
use crate::batch::Stripe;
use crate::message::{Beat, Behind, Holds, Receipt, StoreId, Welcome};

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
    target.batch_applied(5);
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
    target.batch_applied(5);
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
        target.batch_applied(batch);
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

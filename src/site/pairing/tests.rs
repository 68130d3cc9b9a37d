//! Codes that are right, wrong, late, used and guessed at, and one in the middle.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn id(n: u8) -> KeyId {
    KeyId::from_bytes([n; 32])
}

fn channel() -> Channel {
    Channel { binding: [7; 32], dialer: id(1), listener: id(2) }
}

fn code(text: &str) -> Code {
    text.parse().unwrap()
}

const NOW: Duration = Duration::from_secs(1);

fn offer() -> Offer {
    Offer::new(code("7K2M-9QXD"), "recovery", None, LIFE_MAX)
}

/// A whole exchange in which each end has its own view of the connection.
fn exchange(
    offer: &mut Offer,
    typed: &str,
    dialer: Channel,
    listener: Channel,
) -> Result<(Paired, Paired), PairError> {
    let (dialing, open) = Dialer::begin(&code(typed), "production", dialer);
    let (answered, answer) = offer.open(NOW, listener, &open)?;
    let (dialing, proof) = dialing.answer(&answer, None)?;
    let (proven, proof) = offer.proven(NOW, answered, &proof)?;
    let at_dialer = dialing.confirmed(&proof)?;
    Ok((at_dialer, proven.done(&done())?))
}

#[test]
fn one_code_pairs_two_sites_once() {
    let mut offer = offer();
    let (at_dialer, at_listener) = exchange(&mut offer, "7k2m 9qxd", channel(), channel()).unwrap();
    assert_eq!(at_dialer, Paired { name: "recovery".into(), key: id(2) });
    assert_eq!(at_listener, Paired { name: "production".into(), key: id(1) });
    let again = exchange(&mut offer, "7K2M-9QXD", channel(), channel());
    assert_eq!(again.unwrap_err(), PairError::Used);
}

#[test]
fn three_wrong_codes_kill_the_right_one() {
    let mut offer = offer();
    for n in 0..ATTEMPTS_MAX {
        assert_eq!(offer.attempts_left(), ATTEMPTS_MAX - n);
        let wrong = exchange(&mut offer, "7K2M-9QXE", channel(), channel());
        assert_eq!(wrong.unwrap_err(), PairError::WrongCode);
    }
    let right = exchange(&mut offer, "7K2M-9QXD", channel(), channel());
    assert_eq!(right.unwrap_err(), PairError::Dead);
}

#[test]
fn who_leaves_before_the_proof_has_used_an_attempt() {
    let mut offer = offer();
    for _ in 0..ATTEMPTS_MAX {
        let (_, open) = Dialer::begin(&code("00000000"), "x", channel());
        offer.open(NOW, channel(), &open).map(|_| ()).unwrap();
    }
    assert_eq!(offer.check(NOW), Err(PairError::Dead));
}

#[test]
fn a_late_code_is_refused_at_either_step() {
    let mut offer = offer();
    let (dialing, open) = Dialer::begin(&code("7K2M-9QXD"), "x", channel());
    let late = offer.open(LIFE_MAX, channel(), &open).map(|_| ());
    assert_eq!(late, Err(PairError::Expired));
    let (answered, answer) = offer.open(NOW, channel(), &open).unwrap();
    let (_, proof) = dialing.answer(&answer, None).unwrap();
    let late = offer.proven(LIFE_MAX, answered, &proof).map(|_| ());
    assert_eq!(late, Err(PairError::Expired));
    let long = Offer::new(code("00000000"), "x", None, LIFE_MAX * 10);
    assert_eq!(long.check(LIFE_MAX), Err(PairError::Expired), "no code lives longer");
}

/// It passes every message on unchanged, but each end has a connection to it: its key, its secret.
#[test]
fn one_in_the_middle_fails_as_a_wrong_code_does() {
    let middle = id(9);
    let to_middle = Channel { listener: middle, ..channel() };
    let from_middle = Channel { dialer: middle, binding: [8; 32], ..channel() };
    let caught = exchange(&mut offer(), "7K2M-9QXD", to_middle, from_middle);
    assert_eq!(caught.unwrap_err(), PairError::WrongCode);
    // Each of the three alone is enough.
    for other in [
        Channel { listener: middle, ..channel() },
        Channel { dialer: middle, ..channel() },
        Channel { binding: [8; 32], ..channel() },
    ] {
        let caught = exchange(&mut offer(), "7K2M-9QXD", other, channel());
        assert_eq!(caught.unwrap_err(), PairError::WrongCode);
    }
}

#[test]
fn the_listener_must_prove_itself_too() {
    let (dialing, open) = Dialer::begin(&code("7K2M-9QXD"), "x", channel());
    // It answers with another code and sends the dialer's own proof back.
    let mut impostor = Offer::new(code("00000000"), "recovery", None, LIFE_MAX);
    let (_, answer) = impostor.open(NOW, channel(), &open).unwrap();
    let (dialing, proof) = dialing.answer(&answer, None).unwrap();
    assert_eq!(dialing.confirmed(&proof), Err(PairError::WrongCode));
}

#[test]
fn names_are_part_of_the_proof_and_of_what_is_expected() {
    let mut offer = Offer::new(code("7K2M-9QXD"), "recovery", Some("production"), LIFE_MAX);
    let (_, open) = Dialer::begin(&code("7K2M-9QXD"), "other", channel());
    let refused = offer.open(NOW, channel(), &open).map(|_| ());
    assert!(matches!(refused, Err(PairError::Name { .. })), "{refused:?}");
    assert_eq!(offer.attempts_left(), ATTEMPTS_MAX, "it told nothing");
    let (dialing, open) = Dialer::begin(&code("7K2M-9QXD"), "production", channel());
    let (answered, answer) = offer.open(NOW, channel(), &open).unwrap();
    let renamed = [&answer[..2], b"evilname".as_slice(), &answer[10..]].concat();
    let (_, proof) = dialing.answer(&renamed, None).unwrap();
    assert_eq!(offer.proven(NOW, answered, &proof).map(|_| ()), Err(PairError::WrongCode));
}

#[test]
fn a_refusal_is_told_by_its_reason() {
    for error in [PairError::WrongCode, PairError::Expired, PairError::Dead, PairError::Used] {
        let (dialing, _) = Dialer::begin(&code("00000000"), "x", channel());
        let told = dialing.answer(&error.refusal(), None).map(|_| ());
        assert_eq!(told, Err(PairError::Refused(Box::new(error))));
    }
}

#[test]
fn codes_are_read_as_they_are_meant() {
    assert_eq!(Code::of([0; 5]).to_string(), "0000-0000");
    assert_eq!(Code::of([255; 5]).to_string(), "ZZZZ-ZZZZ");
    assert_eq!(code("oil0 1111"), code("0110-1111"));
    for text in ["", "7K2M-9QX", "7K2M-9QXDD", "7K2M-9QXU", "7K2M-9QX\u{e9}"] {
        assert!(text.parse::<Code>().is_err(), "{text}");
    }
    assert!(!format!("{:?}", code("7K2M-9QXD")).contains("7K2M"));
}

#[test]
fn announcements_read_back() {
    let said = Announcement { next: Some(id(3)), trusts: vec![id(4), id(5)], retired: vec![id(6)] };
    assert_eq!(Announcement::decode(&said.encode()), Ok(said));
    let none = Announcement::default();
    assert_eq!(Announcement::decode(&none.encode()), Ok(none));
}

proptest! {
    #[test]
    fn codes_of_random_bytes_read_back(random: [u8; 5]) {
        let code = Code::of(random);
        prop_assert_eq!(code.to_string().parse::<Code>(), Ok(code));
    }

    #[test]
    fn no_bytes_panic_and_none_pair(bytes in proptest::collection::vec(any::<u8>(), 0..600), tag in 0_u8..8) {
        let message = [&[tag][..], &bytes].concat();
        drop(Announcement::decode(&message));
        let (dialing, open) = Dialer::begin(&code("00000000"), "x", channel());
        prop_assert!(dialing.answer(&message, None).map(|(proven, _)| proven.confirmed(&message)).is_err()
            || message.first() == Some(&super::tag::ANSWER));
        let mut offer = offer();
        drop(offer.open(NOW, channel(), &message).map(|_| ()));
        let mut offer = super::tests::offer();
        let (answered, _) = offer.open(NOW, channel(), &open).unwrap();
        prop_assert!(offer.proven(NOW, answered, &message).is_err());
    }

    #[test]
    fn announcements_of_any_bytes_read_back_or_are_refused(bytes in proptest::collection::vec(0_u8..6, 0..400)) {
        let message = [&[super::tag::ANNOUNCE, VERSION][..], &bytes].concat();
        if let Ok(said) = Announcement::decode(&message) {
            prop_assert_eq!(said.encode(), message);
        }
    }
}

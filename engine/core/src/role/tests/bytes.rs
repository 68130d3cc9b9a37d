//! The record, the marker and the message as bytes.

use proptest::prelude::*;

use crate::digest::RootDigest;

use super::super::*;

fn stamp() -> impl Strategy<Value = Stamp> {
    (0..1u64 << 62, 0..1u64 << 62).prop_map(|(e, turn)| Stamp { epoch: Epoch(e), turn })
}

fn point() -> impl Strategy<Value = Point> {
    (any::<u64>(), any::<u64>(), any::<[u8; 32]>(), any::<i64>()).prop_map(
        |(sequence, batch, root, time_unix_ms)| Point {
            sequence,
            batch,
            root: RootDigest(root),
            time_unix_ms,
        },
    )
}

fn phase() -> impl Strategy<Value = Phase> {
    let why = prop_oneof![
        Just(Strand::Overtaken),
        Just(Strand::MarkerAhead),
        Just(Strand::StateLost),
        Just(Strand::PeerAhead),
    ];
    prop_oneof![
        Just(Phase::Standby),
        Just(Phase::Active),
        Just(Phase::Draining),
        point().prop_map(|point| Phase::Handed { point }),
        point().prop_map(|point| Phase::Opening { point }),
        Just(Phase::Alone),
        (0..1u64 << 62, why).prop_map(|(e, why)| Phase::Stranded { acted: Epoch(e), why }),
        (any::<[u8; 32]>(), any::<bool>(), any::<bool>())
            .prop_map(|(plan, open, done)| Phase::Reconciling { plan: PlanId(plan), open, done }),
        Just(Phase::Split),
    ]
}

fn services() -> impl Strategy<Value = Services> {
    prop_oneof![Just(Services::Started), Just(Services::Stopped), Just(Services::Unknown)]
}

prop_compose! {
    fn record()(
        at in stamp(),
        phase in phase(),
        base in proptest::option::of(point()),
        took in stamp(),
        plan in proptest::option::of(any::<[u8; 32]>()),
        bound: bool,
        services in services(),
        boot: [u8; 16],
        rising in stamp(),
        peer in stamp(),
        forgot: bool,
        put_back: bool,
    ) -> Record {
        let by_peer = matches!(phase, Phase::Stranded { why: Strand::PeerAhead, .. });
        let forgot = forgot || phase.is_an_old_copy();
        Record {
            epoch: at.epoch,
            turn: at.turn,
            phase,
            base,
            took: took.epoch,
            over: Epoch(took.turn),
            plan: plan.map(PlanId),
            bound,
            services,
            boot,
            rising,
            peer,
            forgot,
            put_back: by_peer || (forgot && put_back),
        }
    }
}

fn beat() -> impl Strategy<Value = Beat> {
    any::<(u64, u64, u64)>().prop_map(|(life, count, at_ms)| Beat { life, count, at_ms })
}

prop_compose! {
    fn say()(
        record in record(),
        beat in beat(),
        echo in proptest::option::of((beat(), any::<bool>())),
        ids: ([u8; 32], [u8; 16], [u8; 16], [u8; 32]),
        numbers: (u64, u64, i64),
    ) -> Say {
        Say {
            site: SiteId(ids.0),
            stamp: record.stamp(),
            phase: record.phase,
            base: record.base,
            took: record.took,
            over: record.over,
            plan: record.plan,
            bound: record.bound,
            lease_ms: numbers.0,
            beat,
            echo: echo.map(|(beat, followed)| Echo { beat, followed }),
            heard: record.peer,
            catalog: ids.1,
            tree: ids.2,
            audit: AuditHead { length: numbers.1, digest: ids.3 },
            wall_ms: numbers.2,
        }
    }
}

proptest! {
    #[test]
    fn what_was_written_is_read(record in record(), say in say(), marker in stamp()) {
        let (written, said) = (record.encode(), say.encode());
        prop_assert!(written.len() <= RECORD_LEN_MAX && said.len() <= SAY_LEN_MAX);
        prop_assert_eq!(Record::decode(&written), Ok(record));
        prop_assert_eq!(Say::decode(&said), Ok(say));
        prop_assert_eq!(Stamp::decode_marker(&marker.encode_marker()), Ok(marker));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>, say in say(), at: usize, to: u8) {
        prop_assert!(Record::decode(&bytes).is_err());
        prop_assert!(Stamp::decode_marker(&bytes).is_err());
        Say::decode(&bytes).ok();
        let mut said = say.encode();
        let at = at % said.len();
        said[at] = to;
        Say::decode(&said).ok();
        prop_assert!(Say::decode(&said[..at]).is_err());
    }
}

#[test]
fn a_record_with_one_wrong_bit_is_none() {
    let record = Record::new(Services::Stopped).encode();
    let marker = Stamp { epoch: Epoch(3), turn: 9 }.encode_marker();
    for (bytes, is_record) in [(record, true), (marker, false)] {
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::decode(&bytes).is_err() && Stamp::decode_marker(&bytes).is_err());
        }
        assert_eq!(Record::decode(&bytes).is_ok(), is_record);
        assert!(Record::decode(&bytes[..bytes.len() - 1]).is_err());
    }
}

//! What is asked for stays within what a target signs.

use bytes::Bytes;
use farshore_proto::link::{BulkReceive, BulkSend, Link, LinkStats};
use farshore_proto::message::Message;

use super::*;

/// A link nobody is at the other end of.
struct Nobody;

impl Link for Nobody {
    fn send_control(&self, _: Bytes) -> Result<(), LinkError> {
        Ok(())
    }
    fn recv_control(&self) -> Result<Option<Bytes>, LinkError> {
        Ok(None)
    }
    fn finish_control(&self) -> Result<(), LinkError> {
        Ok(())
    }
    fn open_bulk(&self) -> Result<Box<dyn BulkSend>, LinkError> {
        Err(LinkError::MessageTooLarge { len: 0, limit: 0 })
    }
    fn accept_bulk(&self) -> Result<Option<Box<dyn BulkReceive>>, LinkError> {
        Ok(None)
    }
    fn close(&self, _: u32, _: &str) {}
    fn stats(&self) -> LinkStats {
        LinkStats::default()
    }
}

/// A section of half a megabyte and a largest chunk, where nothing was found and blocks are believed
/// in: whatever is asked for is a request that a target takes.
#[test]
fn no_range_that_is_asked_for_is_longer_than_a_request_may_be() {
    let desk = SignDesk::new(&Nobody, 1);
    let fine = FINE.expect("within bounds");
    let content = FileDigest([0; 32]);
    let longest = SECTION as u64 + farshore_core::limits::CHUNK_LEN_MAX as u64;
    let mut asked = 0;
    for new_len in [FINE_WHOLE as u64, FINE_WHOLE as u64 + 1, SIGNED_LEN_MAX, longest] {
        for reach in [0, 1, FINE_REACH] {
            for credit in [0, 16 << 20] {
                let mut delta = Delta::new(&desk);
                delta.credit = credit;
                let new = 0..usize::try_from(new_len).expect("small");
                let old = 77..77 + new_len + reach;
                for (_, old) in delta.worth(&new, &old, fine) {
                    let ranges = vec![(old.start, old.end - old.start)];
                    let sign = Message::Sign(farshore_proto::message::Sign {
                        id: 0,
                        content,
                        signing: fine,
                        ranges,
                    });
                    assert_eq!(
                        Message::from_bytes(&sign.to_bytes()),
                        Ok(sign),
                        "{new_len} {reach}"
                    );
                    asked += 1;
                }
            }
        }
    }
    assert!(asked > 20, "{asked} ranges");
}

/// Sections of a file that resembles its former version in nothing: whether each of so many is searched, and where
/// in the old content the first range that was asked for begins.
fn searched(line_is_fast: bool, sections: u64) -> (Vec<bool>, Vec<u64>) {
    let desk = SignDesk::new(&Nobody, 1);
    let mut delta = Delta::new(&desk);
    delta.line_is_fast(line_is_fast);
    delta.begin_file(Some(FileDigest([1; 32])));
    assert!(delta.open_gap(1 << 30));
    let chunk: Vec<u8> =
        (0..64u32 << 10).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (mut all, mut asked) = (Vec::new(), Vec::new());
    for _ in 0..sections {
        let mut section = loop {
            let full = delta.fresh(ChunkId([0; 32]), &chunk).expect("sent");
            if let Some(section) = full {
                break section;
            }
        };
        all.push(!section.is_ready());
        delta.flush().expect("sent");
        for request in &delta.under_way {
            asked.push(request.ranges[0].0);
            let signed: u64 =
                request.ranges.iter().map(|(_, len)| request.signing.signed_len(*len)).sum();
            let none = vec![0; usize::try_from(signed).expect("small")];
            desk.answered(request.id, none).expect("asked for");
        }
        while delta.take_answers(false) {}
        assert!(delta.advance(&mut section).expect("sent"));
        delta.flush().expect("sent");
    }
    (all, asked)
}

/// Where bytes leave as fast as they come, little is searched of what brings nothing, and nothing is asked for what is not.
#[test]
fn what_brings_nothing_is_seldom_searched_on_a_fast_line() {
    let (fast, asked) = searched(true, 19);
    let expected: Vec<bool> = (0..19).map(|n| matches!(n, 0 | 1 | 18)).collect();
    assert_eq!(fast, expected);
    let last = *asked.last().expect("some was asked for");
    assert!(last >= 18 * SECTION as u64 - SLACK - COARSE_BLOCKS.end as u64, "{last}");
    let (slow, _) = searched(false, 19);
    assert!(slow.iter().all(|searched| *searched));
}

/// A seal does not overtake a request of which nobody takes the answer any more, nor wait for one that will not come.
#[test]
fn a_desk_is_idle_when_every_request_was_answered_or_none_will_be() {
    let signing = Signing::new(COARSE_BLOCK, COARSE_LEN).expect("within bounds");
    for answered in [true, false] {
        let desk = SignDesk::new(&Nobody, 1);
        assert!(desk.is_idle());
        let id = desk.ask(FileDigest([1; 32]), signing, vec![(0, 4_096)]).expect("sent");
        assert!(!desk.is_idle());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| desk.wait_until_idle());
            match answered {
                true => desk.answered(id, Vec::new()).expect("asked for"),
                false => desk.close(),
            }
            waiting.join().expect("it is over");
        });
        assert_eq!(desk.is_idle(), answered);
    }
}

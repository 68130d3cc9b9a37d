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

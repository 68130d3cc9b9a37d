//! Operations of a batch: any bytes are operations in their one form, or refused.
#![no_main]

use farshore_core::codec::{Decoder, Encoder};
use farshore_proto::op::Op;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut d = Decoder::new(data);
    loop {
        let before = d.remaining();
        let Ok(op) = Op::decode(&mut d) else { return };
        let mut e = Encoder::new();
        op.encode(&mut e);
        let used = before - d.remaining();
        let start = data.len() - before;
        assert_eq!(e.as_slice(), &data[start..start + used]);
    }
});

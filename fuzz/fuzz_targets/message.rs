//! Control messages: any bytes are a message in its one form, or refused.
#![no_main]

use farshore_core::codec::DecodeError;
use farshore_proto::batch::{
    BATCH_HEADER_LEN, BatchHeader, FRAME_HEADER_LEN, FrameHeader, STRIPES_MAX,
};
use farshore_proto::message::Message;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(message) = Message::from_bytes(data) {
        assert_eq!(Message::from_bytes(&message.to_bytes()), Ok(message));
    }
    if let Some((header, rest)) = data.split_first_chunk::<BATCH_HEADER_LEN>()
        && let Ok(header) = BatchHeader::read(header, || {
            rest.first_chunk().copied().ok_or(DecodeError::Truncated { what: "stripe" })
        })
    {
        assert!(header.stripe.index < header.stripe.of && header.stripe.of <= STRIPES_MAX);
        assert!(data.starts_with(&header.to_bytes()));
    }
    if let Some(header) = data.first_chunk::<FRAME_HEADER_LEN>()
        && let Ok(header) = FrameHeader::from_bytes(header)
    {
        assert!(header.payload_len <= farshore_core::limits::FRAME_PAYLOAD_MAX);
    }
});

//! How a batch lies on its bulk stream: a header, then frames of whole operations.
//!
//! ```text
//! header  "FSB1"  batch u64 LE  epoch u64 LE
//! frame   stored length u32 LE  payload length u32 LE  flags u8   stored bytes
//! ```
//! Flag 1: the stored bytes are one zstd frame of the payload; else they are the payload. The last
//! operation of the last frame is [`crate::op::Op::Close`]; a stream that ends before it is no batch.

use farshore_core::codec::DecodeError;
use farshore_core::limits;
use farshore_core::recovery_point::Epoch;

/// Bytes of a batch header.
pub const BATCH_HEADER_LEN: usize = 20;

/// Bytes of a frame header.
pub const FRAME_HEADER_LEN: usize = 9;

/// A frame is sent when its payload has reached this many bytes.
pub const FRAME_PAYLOAD_GOAL: usize = 256 * 1024;

const MAGIC: [u8; 4] = *b"FSB1";

const _: () = assert!(FRAME_PAYLOAD_GOAL < limits::FRAME_PAYLOAD_MAX);

/// Begins a batch stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// The batch's number; batches are applied in its order.
    pub batch: u64,
    /// The epoch the source acts under.
    pub epoch: Epoch,
}

impl BatchHeader {
    /// The bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; BATCH_HEADER_LEN] {
        let mut out = [0; BATCH_HEADER_LEN];
        out[..4].copy_from_slice(&MAGIC);
        out[4..12].copy_from_slice(&self.batch.to_le_bytes());
        out[12..].copy_from_slice(&self.epoch.0.to_le_bytes());
        out
    }

    /// The header that `bytes` are.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] when the magic is another.
    pub fn from_bytes(bytes: &[u8; BATCH_HEADER_LEN]) -> Result<Self, DecodeError> {
        let mut d = farshore_core::codec::Decoder::new(bytes);
        if d.take_array::<4>("batch header")? != MAGIC {
            return Err(DecodeError::Invalid { what: "batch header magic", found: 0 });
        }
        let batch = u64::from_le_bytes(d.take_array("batch number")?);
        let epoch = Epoch(u64::from_le_bytes(d.take_array("epoch")?));
        Ok(Self { batch, epoch })
    }
}

/// Begins a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes that follow on the stream.
    pub stored_len: usize,
    /// Bytes of the payload, at most [`limits::FRAME_PAYLOAD_MAX`].
    pub payload_len: usize,
    /// Whether the stored bytes are a zstd frame.
    pub compressed: bool,
}

impl FrameHeader {
    /// The bytes.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)] // both lengths are at most FRAME_PAYLOAD_MAX
    pub fn to_bytes(self) -> [u8; FRAME_HEADER_LEN] {
        let mut out = [0; FRAME_HEADER_LEN];
        out[..4].copy_from_slice(&(self.stored_len as u32).to_le_bytes());
        out[4..8].copy_from_slice(&(self.payload_len as u32).to_le_bytes());
        out[8] = u8::from(self.compressed);
        out
    }

    /// The header that `bytes` are, both lengths within bounds.
    ///
    /// # Errors
    /// [`DecodeError`] naming the bound broken.
    pub fn from_bytes(bytes: &[u8; FRAME_HEADER_LEN]) -> Result<Self, DecodeError> {
        let mut d = farshore_core::codec::Decoder::new(bytes);
        let stored_len = u32::from_le_bytes(d.take_array("stored length")?) as usize;
        let payload_len = u32::from_le_bytes(d.take_array("payload length")?) as usize;
        let flags = d.take_u8("frame flags")?;
        if payload_len > limits::FRAME_PAYLOAD_MAX {
            return Err(DecodeError::LimitExceeded {
                what: "frame payload",
                found: payload_len as u64,
                limit: limits::FRAME_PAYLOAD_MAX as u64,
            });
        }
        let valid = match flags {
            0 => stored_len == payload_len,
            1 => stored_len < payload_len,
            _ => false,
        };
        if !valid {
            return Err(DecodeError::Invalid { what: "frame", found: u64::from(flags) });
        }
        Ok(Self { stored_len, payload_len, compressed: flags == 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_round_trip() {
        let header = BatchHeader { batch: u64::MAX, epoch: Epoch(7) };
        assert_eq!(BatchHeader::from_bytes(&header.to_bytes()), Ok(header));
        let frame = FrameHeader { stored_len: 10, payload_len: 20, compressed: true };
        assert_eq!(FrameHeader::from_bytes(&frame.to_bytes()), Ok(frame));
    }

    #[test]
    fn a_bomb_is_refused_by_its_header() {
        let frame = FrameHeader { stored_len: 10, payload_len: 1 << 30, compressed: true };
        assert!(FrameHeader::from_bytes(&frame.to_bytes()).is_err());
        let grown = FrameHeader { stored_len: 30, payload_len: 20, compressed: true };
        assert!(FrameHeader::from_bytes(&grown.to_bytes()).is_err());
    }
}

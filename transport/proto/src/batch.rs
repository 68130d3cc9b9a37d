//! How a batch lies on its bulk streams: a header on each, then frames of whole operations.
//!
//! ```text
//! header  "FSB1"  batch u64 LE  epoch u64 LE                              the only stream
//!         "FSB2"  batch u64 LE  epoch u64 LE  stripe u8  stripes u8       one of several, frames dealt
//!         "FSB3"  batch u64 LE  epoch u64 LE  stripe u8  stripes u8       one of several, pieces dealt
//!         "FSA1"  number u64 LE  epoch u64 LE                             content ahead of its cut
//! frame   stored length u32 LE  payload length u32 LE  flags u8   stored bytes
//! ```
//! Flag 1: the stored bytes are one zstd frame of the payload; else they are the payload. The last
//! operation of the last frame is [`crate::op::Op::Close`]; a stream that ends before it is no batch.
//! To several streams a batch is dealt in turn: the first frame, or the first [`PIECE_BYTES`] of its frames put
//! one behind the other, is on stripe 0, each next one on the next stripe, after the last on stripe 0 again. The
//! streams are opened one after another, in the order of their stripes.

use farshore_core::codec::DecodeError;
use farshore_core::limits;
use farshore_core::recovery_point::Epoch;

/// Bytes of the header of a batch's only stream, and of what every header begins with.
pub const BATCH_HEADER_LEN: usize = 20;

/// Bytes that follow where a batch has several streams.
pub const STRIPE_LEN: usize = 2;

/// Most streams of one batch: what one takes of the window of its link is bounded by it.
pub const STRIPES_MAX: u8 = 8;

/// Bytes of a batch that lie together on a stripe, where pieces are dealt: short beside the window of a stream, so
/// that all stripes of a batch are read at about the same place, and some datagrams long.
pub const PIECE_BYTES: usize = 32 << 10;

/// Bytes of a frame header.
pub const FRAME_HEADER_LEN: usize = 9;

/// A frame is sent when its payload has reached this many bytes.
pub const FRAME_PAYLOAD_GOAL: usize = 256 * 1024;

const MAGIC: [u8; 4] = *b"FSB1";
const MAGIC_FRAMES_DEALT: [u8; 4] = *b"FSB2";
const MAGIC_PIECES_DEALT: [u8; 4] = *b"FSB3";
const MAGIC_AHEAD: [u8; 4] = *b"FSA1";

const _: () = assert!(FRAME_PAYLOAD_GOAL < limits::FRAME_PAYLOAD_MAX);

/// Which of a batch's streams this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stripe {
    /// Its number, below `of`.
    pub index: u8,
    /// How many there are: 1 to [`STRIPES_MAX`].
    pub of: u8,
}

impl Stripe {
    /// The only stream.
    pub const ONLY: Self = Self { index: 0, of: 1 };
}

impl std::fmt::Display for Stripe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "stripe {} of {}", self.index, self.of)
    }
}

/// What of a batch goes to its streams in turn, where it has several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deal {
    /// Whole frames.
    Frames,
    /// So many bytes, wherever frames begin and end: [`PIECE_BYTES`].
    Pieces,
}

/// Begins a batch stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// The batch's number; batches are applied in its order.
    pub batch: u64,
    /// The epoch the source acts under.
    pub epoch: Epoch,
    /// Which of the batch's streams it begins.
    pub stripe: Stripe,
    /// What is dealt; without meaning for an only stream.
    pub deal: Deal,
    /// Whether it is no batch: it carries content ahead of the cut that it is for, on one stream, and
    /// its number is of those alone.
    pub ahead: bool,
}

impl BatchHeader {
    /// The header of the only stream of `batch`.
    #[must_use]
    pub const fn of(batch: u64, epoch: Epoch) -> Self {
        Self { batch, epoch, stripe: Stripe::ONLY, deal: Deal::Frames, ahead: false }
    }

    /// The header of a stream that carries content ahead of its cut.
    #[must_use]
    pub const fn ahead(number: u64, epoch: Epoch) -> Self {
        Self { batch: number, ahead: true, ..Self::of(number, epoch) }
    }

    /// The bytes.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        let only = self.stripe == Stripe::ONLY || self.ahead;
        let mut out = Vec::with_capacity(BATCH_HEADER_LEN + STRIPE_LEN);
        out.extend(match (self.ahead, only) {
            (true, _) => MAGIC_AHEAD,
            (false, true) => MAGIC,
            (false, false) if self.deal == Deal::Frames => MAGIC_FRAMES_DEALT,
            (false, false) => MAGIC_PIECES_DEALT,
        });
        out.extend(self.batch.to_le_bytes());
        out.extend(self.epoch.0.to_le_bytes());
        if !only {
            out.extend([self.stripe.index, self.stripe.of]);
        }
        out
    }

    /// The header that begins with `bytes`; `more` is called for what follows where the batch has
    /// several streams.
    ///
    /// # Errors
    /// [`DecodeError`] when the magic is another or the stripe none of 2 to [`STRIPES_MAX`]; what `more`
    /// answers.
    pub fn read<E: From<DecodeError>>(
        bytes: &[u8; BATCH_HEADER_LEN],
        more: impl FnOnce() -> Result<[u8; STRIPE_LEN], E>,
    ) -> Result<Self, E> {
        let mut d = farshore_core::codec::Decoder::new(bytes);
        let magic = d.take_array::<4>("batch header")?;
        let batch = u64::from_le_bytes(d.take_array("batch number")?);
        let epoch = Epoch(u64::from_le_bytes(d.take_array("epoch")?));
        let stripe = match magic {
            MAGIC | MAGIC_AHEAD => Stripe::ONLY,
            MAGIC_FRAMES_DEALT | MAGIC_PIECES_DEALT => stripe(more()?)?,
            _ => return Err(DecodeError::Invalid { what: "batch header magic", found: 0 }.into()),
        };
        let deal = if magic == MAGIC_PIECES_DEALT { Deal::Pieces } else { Deal::Frames };
        Ok(Self { batch, epoch, stripe, deal, ahead: magic == MAGIC_AHEAD })
    }
}

/// One stripe of several; a lone one is said by the magic.
fn stripe([index, of]: [u8; STRIPE_LEN]) -> Result<Stripe, DecodeError> {
    if of > STRIPES_MAX {
        let (found, limit) = (u64::from(of), u64::from(STRIPES_MAX));
        return Err(DecodeError::LimitExceeded { what: "stripes of a batch", found, limit });
    }
    if of < 2 {
        return Err(DecodeError::Invalid { what: "number of stripes", found: u64::from(of) });
    }
    if index >= of {
        return Err(DecodeError::Invalid { what: "stripe", found: u64::from(index) });
    }
    Ok(Stripe { index, of })
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

    fn parsed(bytes: &[u8]) -> Result<BatchHeader, DecodeError> {
        let (head, rest) = bytes.split_first_chunk().expect("a header");
        BatchHeader::read(head, || Ok(rest.try_into().expect("a stripe")))
    }

    #[test]
    fn headers_round_trip() {
        let ahead = BatchHeader::ahead(3, Epoch(7));
        assert_eq!(parsed(&ahead.to_bytes()), Ok(ahead));
        let only = BatchHeader::of(u64::MAX, Epoch(7));
        assert_eq!(only.to_bytes().len(), BATCH_HEADER_LEN);
        assert_eq!(parsed(&only.to_bytes()), Ok(only));
        let last = Stripe { index: STRIPES_MAX - 1, of: STRIPES_MAX };
        for deal in [Deal::Frames, Deal::Pieces] {
            let striped = BatchHeader { stripe: last, deal, ..only };
            assert_eq!(parsed(&striped.to_bytes()), Ok(striped));
        }
        let frame = FrameHeader { stored_len: 10, payload_len: 20, compressed: true };
        assert_eq!(FrameHeader::from_bytes(&frame.to_bytes()), Ok(frame));
    }

    #[test]
    fn stripes_are_two_to_the_most_and_numbered_below_that() {
        for magic in [MAGIC_FRAMES_DEALT, MAGIC_PIECES_DEALT] {
            let header = |index, of| {
                let mut bytes = BatchHeader::of(5, Epoch(0)).to_bytes();
                bytes[..4].copy_from_slice(&magic);
                bytes.extend([index, of]);
                parsed(&bytes)
            };
            assert_eq!(header(1, 2).map(|h| h.stripe), Ok(Stripe { index: 1, of: 2 }));
            for (index, of) in [(0, 0), (0, 1), (2, 2), (255, 8), (0, STRIPES_MAX + 1), (7, 255)] {
                assert!(header(index, of).is_err(), "{index} of {of}");
            }
        }
        let mut other = BatchHeader::of(5, Epoch(0)).to_bytes();
        other[3] = b'4';
        assert!(parsed(&other).is_err());
    }

    #[test]
    fn a_bomb_is_refused_by_its_header() {
        let frame = FrameHeader { stored_len: 10, payload_len: 1 << 30, compressed: true };
        assert!(FrameHeader::from_bytes(&frame.to_bytes()).is_err());
        let grown = FrameHeader { stored_len: 30, payload_len: 20, compressed: true };
        assert!(FrameHeader::from_bytes(&grown.to_bytes()).is_err());
    }
}

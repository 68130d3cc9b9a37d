//! One batch over several streams of a long line.
//!
//! A stream of a line that loses packets has a small window (see the transport's configuration), too
//! small for one large file on a long line. So a batch may lie on several: pieces of its frames are dealt to
//! them in turn, and taken in turn. To a peer of before protocol 8 whole frames are: these flow side by side, so that
//! the first of them is there when nearly all are, what is read of the others until then fills their windows, and the line
//! stands still for want of them.
//!
//! Guarantees: frames come out in the order in which they went in, or the batch is refused; what a
//! reader holds is bounded by the windows of the streams. It refuses streams that are not the next
//! stripe of the same batch, a batch of which one stripe goes on after another has ended, and a
//! stripe that is idle when it is its turn while others are not: their sender is broken, and waiting
//! would hold the share for ever. Nothing survives a crash.

use std::time::Duration;

use bytes::Bytes;
use farshore_proto::batch::{
    BATCH_HEADER_LEN, BatchHeader, Deal, PIECE_BYTES, STRIPES_MAX, Stripe,
};
use farshore_proto::link::{BulkReceive, BulkSend, Link, LinkError, ReadSome};

use super::FrameError;

/// How long a stripe may be silent while later ones are not, and how long a stream may be open before
/// its header comes. A sender has written to it before it wrote to those; what was lost is sent again
/// within some round trips, even where a thin line's queue makes each last half a minute.
const PATIENCE: Duration = Duration::from_secs(180);

/// How many streams a batch gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Striping {
    /// At most so many, and never more than [`STRIPES_MAX`].
    pub most: u8,
    /// One for so many bytes of files: a small batch needs no more than one.
    pub bytes_each: u64,
}

impl Striping {
    /// One, always: the line is short, or the peer knows nothing else.
    pub const ONE: Self = Self { most: 1, bytes_each: u64::MAX };

    /// For a line between sites.
    #[must_use]
    pub const fn up_to(most: u8) -> Self {
        Self { most, bytes_each: 1 << 20 }
    }

    /// Streams for a batch of so many bytes.
    pub(crate) fn streams(self, bytes: u64) -> u8 {
        let wanted = u8::try_from(bytes.div_ceil(self.bytes_each.max(1))).unwrap_or(u8::MAX);
        wanted.min(self.most).clamp(1, STRIPES_MAX)
    }
}

/// Which of the streams of a batch is due, and for how much.
#[derive(Debug)]
struct Turn {
    deal: Deal,
    of: usize,
    /// The stream that is due.
    stripe: usize,
    /// Bytes left of its piece, where pieces are dealt.
    left: usize,
}

impl Turn {
    fn of(header: &BatchHeader) -> Self {
        let (deal, of) = (header.deal, usize::from(header.stripe.of));
        Self { deal, of, stripe: 0, left: PIECE_BYTES }
    }

    /// How many of `len` bytes of a frame the stream that is due takes.
    fn takes(&self, len: usize) -> usize {
        match self.deal {
            Deal::Pieces if self.of > 1 => len.min(self.left),
            _ => len,
        }
    }

    /// It took so many, at most as many as it takes.
    fn took(&mut self, len: usize) {
        if self.deal == Deal::Frames || self.of == 1 {
            return;
        }
        self.left -= len;
        if self.left == 0 {
            self.left = PIECE_BYTES;
            self.pass();
        }
    }

    /// A frame is over.
    fn frame_ended(&mut self) {
        if self.deal == Deal::Frames {
            self.pass();
        }
    }

    fn pass(&mut self) {
        self.stripe = (self.stripe + 1) % self.of;
    }
}

/// The sending ends of one batch.
pub(super) struct StripedSend {
    streams: Vec<Box<dyn BulkSend>>,
    turn: Turn,
    header_bytes: u64,
}

impl StripedSend {
    /// Opens `of` streams and begins each. No other stream may be opened meanwhile: the reader takes
    /// them as they come.
    pub(super) fn open(link: &dyn Link, header: BatchHeader, of: u8) -> Result<Self, LinkError> {
        let of = of.clamp(1, STRIPES_MAX);
        let header = BatchHeader { stripe: Stripe { index: 0, of }, ..header };
        let mut streams = Vec::with_capacity(usize::from(of));
        let mut header_bytes = 0;
        for index in 0..of {
            let mut stream = link.open_bulk()?;
            let header = BatchHeader { stripe: Stripe { index, of }, ..header };
            let bytes = header.to_bytes();
            header_bytes += bytes.len() as u64;
            stream.write(Bytes::from(bytes))?;
            streams.push(stream);
        }
        Ok(Self { streams, turn: Turn::of(&header), header_bytes })
    }

    /// Bytes of all headers.
    pub(super) const fn header_bytes(&self) -> u64 {
        self.header_bytes
    }

    /// Sends a whole frame, all of it on the stripe whose turn it is or a piece on each.
    pub(super) fn frame(&mut self, mut frame: Bytes) -> Result<(), LinkError> {
        while !frame.is_empty() {
            let piece = frame.split_to(self.turn.takes(frame.len()));
            let len = piece.len();
            self.streams[self.turn.stripe].write(piece)?;
            self.turn.took(len);
        }
        self.turn.frame_ended();
        Ok(())
    }

    /// Goes behind all other streams from now on.
    pub(super) fn yields(&mut self) {
        self.streams.iter_mut().for_each(|stream| stream.yields());
    }

    pub(super) fn finish(self) -> Result<(), LinkError> {
        self.streams.into_iter().try_for_each(BulkSend::finish)
    }
}

/// The receiving ends of one batch.
pub(super) struct StripedReceive {
    header: BatchHeader,
    streams: Vec<Box<dyn BulkReceive>>,
    turn: Turn,
}

impl StripedReceive {
    /// Reads the header of a batch's first stream.
    pub(super) fn begin(mut stream: Box<dyn BulkReceive>) -> Result<Self, FrameError> {
        let header = read_header(&mut *stream, 0)?;
        if header.stripe.index != 0 {
            let expected = Stripe { index: 0, ..header.stripe };
            return Err(FrameError::OtherStripe { found: header.stripe, expected });
        }
        Ok(Self { header, streams: vec![stream], turn: Turn::of(&header) })
    }

    pub(super) const fn header(&self) -> BatchHeader {
        self.header
    }

    /// Whether the batch has streams that have not joined.
    pub(super) fn is_missing_any(&self) -> bool {
        self.streams.len() < usize::from(self.header.stripe.of)
    }

    /// The stream opened next.
    pub(super) fn join(&mut self, mut stream: Box<dyn BulkReceive>) -> Result<(), FrameError> {
        let of = self.header.stripe.of;
        let index = u8::try_from(self.streams.len()).unwrap_or(u8::MAX);
        let expected = BatchHeader { stripe: Stripe { index, of }, ..self.header };
        let found = read_header(&mut *stream, index)?;
        if (found.batch, found.epoch) != (expected.batch, expected.epoch) {
            let (batch, found) = (expected.batch, found.batch);
            return Err(FrameError::OtherBatch { expected: expected.stripe, batch, found });
        }
        if found != expected {
            let (found, expected) = (found.stripe, expected.stripe);
            return Err(FrameError::OtherStripe { found, expected });
        }
        self.streams.push(stream);
        Ok(())
    }

    /// Fills `head` with the beginning of the next frame; `false` when all streams have ended.
    pub(super) fn next_frame(&mut self, head: &mut [u8]) -> Result<bool, FrameError> {
        match self.fill(head)? {
            0 => self.all_ended().map(|()| false),
            filled if filled == head.len() => Ok(true),
            _ => Err(FrameError::EndedEarly),
        }
    }

    /// Fills `body` with the rest of the frame.
    pub(super) fn rest_of_frame(&mut self, body: &mut [u8]) -> Result<(), FrameError> {
        if self.fill(body)? < body.len() {
            return Err(FrameError::EndedEarly);
        }
        self.turn.frame_ended();
        Ok(())
    }

    /// Reads from the stripes whose turn it is; fewer bytes than asked for only at the end of one.
    fn fill(&mut self, buf: &mut [u8]) -> Result<usize, FrameError> {
        if let [only] = &mut self.streams[..] {
            let whole = buf.is_empty() || only.read_exact(buf)?;
            return Ok(if whole { buf.len() } else { 0 });
        }
        let mut filled = 0;
        while filled < buf.len() {
            let until = filled + self.turn.takes(buf.len() - filled);
            let stream = &mut self.streams[self.turn.stripe];
            match stream.read_some(&mut buf[filled..until], PATIENCE)? {
                ReadSome::Bytes(count) => {
                    self.turn.took(count);
                    filled += count;
                }
                ReadSome::End => break,
                ReadSome::Nothing => self.others_are_silent_too()?,
            }
        }
        Ok(filled)
    }

    /// Refuses a stripe that is silent while another has something to say, or has ended.
    fn others_are_silent_too(&mut self) -> Result<(), FrameError> {
        let (next, of) = (self.turn.stripe, self.header.stripe.of);
        for (index, stream) in self.streams.iter_mut().enumerate().filter(|(i, _)| *i != next) {
            if stream.read_some(&mut [0], Duration::ZERO)? != ReadSome::Nothing {
                return Err(FrameError::IdleStripe {
                    idle: stripe(next, of),
                    other: stripe(index, of),
                });
            }
        }
        Ok(())
    }

    /// One stripe ended when it was its turn: none may have more.
    fn all_ended(&mut self) -> Result<(), FrameError> {
        let (next, of) = (self.turn.stripe, self.header.stripe.of);
        for (index, stream) in self.streams.iter_mut().enumerate().filter(|(i, _)| *i != next) {
            let (ended, other) = (stripe(next, of), stripe(index, of));
            match stream.read_some(&mut [0], PATIENCE)? {
                ReadSome::End => {}
                ReadSome::Bytes(_) => return Err(FrameError::UnevenStripes { ended, other }),
                ReadSome::Nothing => {
                    return Err(FrameError::IdleStripe { idle: other, other: ended });
                }
            }
        }
        Ok(())
    }
}

fn stripe(index: usize, of: u8) -> Stripe {
    Stripe { index: u8::try_from(index).unwrap_or(u8::MAX), of }
}

/// Reads the header of a stream that is open: it was written before all else, so it comes soon.
fn read_header(stream: &mut dyn BulkReceive, index: u8) -> Result<BatchHeader, FrameError> {
    let mut header = [0; BATCH_HEADER_LEN];
    take(stream, &mut header, index)?;
    BatchHeader::read(&header, || {
        let mut stripe = [0; _];
        take(stream, &mut stripe, index)?;
        Ok(stripe)
    })
}

fn take(stream: &mut dyn BulkReceive, buf: &mut [u8], index: u8) -> Result<(), FrameError> {
    let mut filled = 0;
    while filled < buf.len() {
        match stream.read_some(&mut buf[filled..], PATIENCE)? {
            ReadSome::Bytes(count) => filled += count,
            ReadSome::End => return Err(FrameError::EndedEarly),
            ReadSome::Nothing => return Err(FrameError::NoHeader { index }),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

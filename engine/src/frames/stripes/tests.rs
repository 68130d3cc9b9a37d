//! Batches on several streams, by honest writers and by others.

use std::sync::{Arc, Mutex};

use farshore_core::entry::{Entry, Metadata};
use farshore_core::limits::CHUNK_LEN_MAX;
use farshore_core::path::RelPath;
use farshore_core::recipe::FileDigest;
use farshore_core::recovery_point::Epoch;
use farshore_proto::link::LinkStats;
use farshore_proto::op::Op;

use super::*;
use crate::frames::{Compression, FrameReader, FrameWriter, LineGauge};
use crate::profile::Profile;

/// What was written to each stream, whether it was finished, and how often something was written to any.
#[derive(Clone, Default)]
struct Sent(Arc<Mutex<Vec<(Vec<u8>, bool)>>>, Arc<Mutex<usize>>);

impl Sent {
    fn streams(&self) -> Vec<Vec<u8>> {
        let streams = self.0.lock().expect("lock");
        assert!(streams.iter().all(|(_, finished)| *finished), "all are finished");
        streams.iter().map(|(bytes, _)| bytes.clone()).collect()
    }
}

struct End(Sent, usize);

impl BulkSend for End {
    fn write(&mut self, chunk: Bytes) -> Result<(), LinkError> {
        *self.0.1.lock().expect("lock") += 1;
        self.0.0.lock().expect("lock")[self.1].0.extend_from_slice(&chunk);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), LinkError> {
        self.0.0.lock().expect("lock")[self.1].1 = true;
        Ok(())
    }
}

impl Link for Sent {
    fn open_bulk(&self) -> Result<Box<dyn BulkSend>, LinkError> {
        let mut streams = self.0.lock().expect("lock");
        streams.push((Vec::new(), false));
        Ok(Box::new(End(self.clone(), streams.len() - 1)))
    }

    fn send_control(&self, _: Bytes) -> Result<(), LinkError> {
        unreachable!("a batch is all on bulk streams")
    }

    fn recv_control(&self) -> Result<Option<Bytes>, LinkError> {
        Ok(None)
    }

    fn finish_control(&self) -> Result<(), LinkError> {
        Ok(())
    }

    fn accept_bulk(&self) -> Result<Option<Box<dyn BulkReceive>>, LinkError> {
        Ok(None)
    }

    fn close(&self, _: u32, _: &str) {}

    fn stats(&self) -> LinkStats {
        LinkStats::default()
    }
}

/// A stream that brings its bytes, then ends or says nothing more; nobody waits for it.
struct Incoming {
    bytes: Bytes,
    ends: bool,
}

impl BulkReceive for Incoming {
    fn read_exact(&mut self, buf: &mut [u8]) -> Result<bool, LinkError> {
        if self.bytes.is_empty() {
            return Ok(false);
        }
        assert!(self.bytes.len() >= buf.len(), "a cut stream is the transport's to refuse");
        buf.copy_from_slice(&self.bytes.split_to(buf.len()));
        Ok(true)
    }

    fn read_some(&mut self, buf: &mut [u8], _: Duration) -> Result<ReadSome, LinkError> {
        // In odd pieces, as datagrams may bring them.
        let count = buf.len().min(self.bytes.len()).min(1_013);
        buf[..count].copy_from_slice(&self.bytes.split_to(count));
        Ok(match (count, self.ends) {
            (0, true) => ReadSome::End,
            (0, false) => ReadSome::Nothing,
            _ => ReadSome::Bytes(count),
        })
    }
}

fn incoming(bytes: &[u8], ends: bool) -> Box<dyn BulkReceive> {
    Box::new(Incoming { bytes: Bytes::copy_from_slice(bytes), ends })
}

const DEALS: [Deal; 2] = [Deal::Frames, Deal::Pieces];

fn header(deal: Deal) -> BatchHeader {
    BatchHeader { deal, ..BatchHeader::of(7, Epoch(3)) }
}

/// A batch of `frames` frames, each of one small file with its number for content, on `of` streams.
fn written(deal: Deal, frames: u32, of: u8) -> Vec<Vec<u8>> {
    let sent = Sent::default();
    let gauge = LineGauge::new(Compression::Never, Duration::ZERO, std::time::Instant::now());
    let profile = Profile::default();
    let mut writer =
        FrameWriter::begin(&sent, header(deal), of, &gauge, &profile).expect("streams");
    for number in 0..frames {
        let bytes = number.to_le_bytes().repeat(400);
        let content = FileDigest::of_small(&bytes);
        let size = bytes.len() as u64;
        let entry = Entry::File { size, content, meta: Metadata::default() };
        let path = RelPath::new(&b"name"[..]).expect("a path");
        writer.op(&Op::Small { path, entry, bytes: &bytes }).expect("written");
        writer.flush().expect("sent");
    }
    let stored = writer.finish().expect("finished");
    let streams = sent.streams();
    assert_eq!(stored, streams.iter().map(|s| s.len() as u64).sum::<u64>());
    streams
}

/// Reads a batch of these streams; the numbers in its frames.
fn read(streams: Vec<Box<dyn BulkReceive>>) -> Result<Vec<u32>, FrameError> {
    let mut streams = streams.into_iter();
    let (mut reader, found) = FrameReader::begin(streams.next().expect("one"))?;
    assert_eq!((found.batch, found.epoch), (7, Epoch(3)));
    while reader.is_missing_streams() {
        reader.join(streams.next().expect("as many as it says"))?;
    }
    assert!(streams.next().is_none(), "no more than it says");
    let mut payload = Vec::new();
    let mut numbers = Vec::new();
    while reader.next_frame(&mut payload)? {
        let mut d = farshore_core::codec::Decoder::new(&payload);
        while d.remaining() > 0 {
            if let Op::Small { bytes, .. } = Op::decode(&mut d)? {
                numbers.extend(bytes.first_chunk().map(|b| u32::from_le_bytes(*b)));
            }
        }
    }
    Ok(numbers)
}

fn read_all(streams: &[Vec<u8>]) -> Result<Vec<u32>, FrameError> {
    read(streams.iter().map(|s| incoming(s, true)).collect())
}

#[test]
fn frames_come_out_in_the_order_they_went_in() {
    for deal in DEALS {
        for of in 1..=STRIPES_MAX {
            // A piece is some twenty of them.
            for frames in [0, 1, 2, 7, 8, 9, 19, 20, 21, 100, 300] {
                let streams = written(deal, frames, of);
                assert_eq!(streams.len(), usize::from(of));
                let numbers = read_all(&streams).unwrap_or_else(|e| panic!("{of} {frames}: {e}"));
                assert!(numbers.into_iter().eq(0..frames), "{deal:?} {of} {frames}");
            }
        }
    }
    // They are spread: no stripe has much more than its share.
    let lengths: Vec<usize> = written(Deal::Frames, 100, 4).iter().map(Vec::len).collect();
    assert!(lengths.iter().all(|len| *len > 40_000 && *len < 50_000), "{lengths:?}");
    let lengths: Vec<usize> = written(Deal::Pieces, 300, 4).iter().map(Vec::len).collect();
    let (least, most) = (lengths.iter().min(), lengths.iter().max());
    assert!(most <= least.map(|len| len + PIECE_BYTES).as_ref(), "{lengths:?}");
}

/// What was sent of a frame of forty pieces, on `of` streams.
fn forty_pieces(of: u8) -> Sent {
    let sent = Sent::default();
    let gauge = LineGauge::new(Compression::Never, Duration::ZERO, std::time::Instant::now());
    let profile = Profile::default();
    let mut writer =
        FrameWriter::begin(&sent, header(Deal::Pieces), of, &gauge, &profile).expect("streams");
    writer.op(&Op::Literal { bytes: &vec![7; 40 * PIECE_BYTES] }).expect("written");
    writer.flush().expect("sent");
    sent
}

/// However long a frame is, what comes first of it and what comes first of the batch is the same: all streams of a
/// batch are read at about the same place.
#[test]
fn a_frame_lies_on_all_streams_of_its_batch() {
    let sent = forty_pieces(4);
    let lengths: Vec<usize> = sent.0.lock().expect("lock").iter().map(|s| s.0.len()).collect();
    assert!(lengths.iter().all(|len| *len >= 10 * PIECE_BYTES), "{lengths:?}");
}

/// An only stream is written to a frame at a time, whatever is dealt where there are several.
#[test]
fn an_only_stream_gets_whole_frames() {
    assert_eq!(*forty_pieces(1).1.lock().expect("lock"), 2, "the header, and a frame");
}

#[test]
fn pieces_that_are_missing_or_too_many_are_refused() {
    let streams = written(Deal::Pieces, 300, 3);
    for index in 0..3 {
        let whole = streams[index].len();
        for len in [22, 26, 22 + PIECE_BYTES, 23 + 2 * PIECE_BYTES, whole - 1] {
            let cut = |ends| {
                let stream = |(i, s): (usize, &Vec<u8>)| match i == index {
                    true => incoming(&s[..len], ends),
                    false => incoming(s, true),
                };
                read(streams.iter().enumerate().map(stream).collect())
            };
            let error = cut(true).expect_err("bytes are missing");
            assert!(
                matches!(error, FrameError::EndedEarly | FrameError::UnevenStripes { .. }),
                "{index} {len}: {error}"
            );
            let error = cut(false).expect_err("it would wait for ever");
            assert!(matches!(error, FrameError::IdleStripe { .. }), "{index} {len}: {error}");
        }
        let mut long = streams.clone();
        long[index].push(0);
        let error = read_all(&long).expect_err("more behind the end");
        assert!(
            matches!(error, FrameError::EndedEarly | FrameError::UnevenStripes { .. }),
            "{index}: {error}"
        );
    }
}

#[test]
fn a_batch_gets_a_stream_for_so_many_bytes_and_no_more_than_allowed() {
    let striping = Striping::up_to(4);
    let found = [0, 1, 1 << 20, (1 << 20) + 1, 32 << 20, u64::MAX].map(|b| striping.streams(b));
    assert_eq!(found, [1, 1, 1, 2, 4, 4]);
    assert_eq!(Striping::ONE.streams(u64::MAX), 1);
    assert_eq!(Striping { most: 255, bytes_each: 0 }.streams(u64::MAX), STRIPES_MAX);
    assert_eq!(Striping { most: 0, bytes_each: 1 }.streams(9), 1);
}

#[test]
fn only_the_next_stripe_of_the_same_batch_may_join() {
    let streams = written(Deal::Frames, 9, 3);
    let order = |order: [usize; 3]| read_all(&order.map(|i| streams[i].clone()));
    order([0, 1, 2]).expect("as it was sent");
    for wrong in [[1, 0, 2], [2, 1, 0]] {
        let error = order(wrong).expect_err("begins in the middle");
        assert!(matches!(error, FrameError::OtherStripe { .. }), "{wrong:?}: {error}");
    }
    for wrong in [[0, 2, 1], [0, 0, 1], [0, 1, 1], [0, 2, 2]] {
        let error = order(wrong).expect_err("out of order or twice");
        assert!(matches!(error, FrameError::OtherStripe { .. }), "{wrong:?}: {error}");
    }
    // Another count, another batch, another epoch, and a batch with one stream.
    let second = |change: fn(&mut BatchHeader)| {
        let mut header = BatchHeader { stripe: Stripe { index: 1, of: 3 }, ..header(Deal::Frames) };
        change(&mut header);
        read(vec![incoming(&streams[0], true), incoming(&header.to_bytes(), true)])
            .expect_err("not its second stream")
    };
    for error in [second(|h| h.stripe.of = 4), second(|h| h.stripe.of = 2)] {
        assert!(matches!(error, FrameError::OtherStripe { .. }), "{error}");
    }
    let others = [second(|h| h.batch += 1), second(|h| h.epoch.0 += 1), second(|h| h.batch -= 1)];
    for error in others {
        assert!(matches!(error, FrameError::OtherBatch { .. }), "{error}");
    }
    let error = second(|h| h.deal = Deal::Pieces);
    assert!(matches!(error, FrameError::OtherStripe { .. }), "{error}");
    let error = second(|h| h.stripe = Stripe::ONLY);
    assert!(matches!(error, FrameError::OtherStripe { .. }), "{error}");
}

#[test]
fn a_stream_that_does_not_begin_is_refused() {
    let streams = written(Deal::Frames, 9, 3);
    for (index, len) in [(0, 0), (0, 20), (1, 0), (1, 9), (2, 21)] {
        let cut = |ends| {
            let stream = |(i, s): (usize, &Vec<u8>)| match i == index {
                true => incoming(&s[..len], ends),
                false => incoming(s, true),
            };
            read(streams.iter().enumerate().map(stream).collect()).expect_err("no header")
        };
        assert!(
            matches!(cut(false), FrameError::NoHeader { index: found } if usize::from(found) == index)
        );
        assert!(matches!(cut(true), FrameError::EndedEarly), "{index} {len}");
    }
}

#[test]
fn a_stripe_that_is_idle_while_others_are_not_is_refused() {
    let streams = written(Deal::Frames, 9, 3);
    // Cut behind its header, within the header of a frame, within its body, and only not ended.
    for index in 0..3 {
        let whole = streams[index].len();
        for len in [22, 26, 500, whole] {
            let stream = |(i, s): (usize, &Vec<u8>)| match i == index {
                true => incoming(&s[..len], false),
                false => incoming(s, true),
            };
            let error = read(streams.iter().enumerate().map(stream).collect())
                .expect_err("it would wait for ever");
            let FrameError::IdleStripe { idle, other } = error else { panic!("{error}") };
            assert_eq!(usize::from(idle.index), index, "{idle} {other}");
        }
    }
}

#[test]
fn stripes_that_end_too_soon_or_go_on_are_refused() {
    let streams = written(Deal::Frames, 9, 3);
    // Nine frames of a file each and one that ends the batch, on stripe 0.
    let frame = (streams[1].len() - 22) / 3;
    for index in 0..3 {
        let mut short = streams.clone();
        short[index].truncate(22 + frame);
        let error = read_all(&short).expect_err("a frame is missing");
        assert!(matches!(error, FrameError::UnevenStripes { .. }), "{index}: {error}");
        let mut cut = streams.clone();
        cut[index].truncate(22 + frame / 2);
        let error = read_all(&cut).expect_err("half a frame");
        assert!(matches!(error, FrameError::EndedEarly), "{index}: {error}");
    }
    for index in [0, 1] {
        // The next frame would be due on stripe 1.
        let mut long = streams.clone();
        long[2 - index].extend_from_slice(&streams[2 - index][22..]);
        let error = read_all(&long).expect_err("more behind the end");
        assert!(matches!(error, FrameError::UnevenStripes { .. }), "{index}: {error}");
    }
}

/// On a thin line frames are longer; with a largest chunk behind them they are still ones that a reader
/// takes.
#[test]
fn frames_of_a_thin_line_stay_within_what_a_reader_takes() {
    let sent = Sent::default();
    let gauge = LineGauge::new(Compression::Level(3), Duration::ZERO, std::time::Instant::now());
    let profile = Profile::default();
    let mut writer =
        FrameWriter::begin(&sent, header(Deal::Frames), 1, &gauge, &profile).expect("a stream");
    let (small, chunk) = (vec![1; 60_000], vec![2; CHUNK_LEN_MAX]);
    let mut wanted = Vec::new();
    for round in 0..30 {
        let bytes = if round % 15 == 14 { &chunk } else { &small };
        writer.op(&Op::Literal { bytes }).expect("written");
        wanted.push(bytes.len());
    }
    writer.finish().expect("finished");
    let (mut reader, _) = FrameReader::begin(incoming(&sent.streams()[0], true)).expect("a batch");
    let (mut payload, mut found, mut frames) = (Vec::new(), Vec::new(), 0);
    while reader.next_frame(&mut payload).expect("a frame that a reader takes") {
        frames += 1;
        let mut d = farshore_core::codec::Decoder::new(&payload);
        while d.remaining() > 0 {
            if let Op::Literal { bytes } = Op::decode(&mut d).expect("an operation") {
                found.push(bytes.len());
            }
        }
    }
    assert_eq!(found, wanted);
    assert!(frames <= 6, "{frames} frames: as short as on a fast line");
}

/// Payloads of the frames of a batch of 24 MiB in pieces of 64 KiB, made by `piece`.
fn payloads(piece: impl Fn(u64) -> Vec<u8>) -> Vec<usize> {
    let link = Sent::default();
    let now = std::time::Instant::now();
    let gauge = LineGauge::new(Compression::Auto, Duration::from_millis(80), now);
    let profile = Profile::default();
    let mut writer =
        FrameWriter::begin(&link, header(Deal::Frames), 1, &gauge, &profile).expect("begun");
    for number in 0..384 {
        writer.op(&Op::Literal { bytes: &piece(number) }).expect("written");
    }
    writer.finish().expect("finished");
    let streams = link.streams();
    let (mut reader, _) = FrameReader::begin(incoming(&streams[0], true)).expect("a batch");
    let (mut payload, mut lengths) = (Vec::new(), Vec::new());
    while reader.next_frame(&mut payload).expect("a frame") {
        lengths.push(payload.len());
    }
    lengths
}

/// On a thin line frames are long where they shrink, and fit the window of their stream where they do
/// not.
#[test]
fn frames_of_a_thin_line_are_long_where_they_shrink() {
    const MIB: usize = 1 << 20;
    let text = payloads(|number| format!("{number:>16}").repeat(4_096).into_bytes());
    assert!(text[0] < 2 * MIB, "nothing is known before the first: {text:?}");
    let rest = &text[1..text.len() - 1];
    assert!(rest.len() >= 4 && rest.iter().all(|len| *len >= 4 * MIB - 65_536), "{text:?}");
    let noise = payloads(|number| {
        let mut seed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut bytes = Vec::with_capacity(65_536);
        while bytes.len() < 65_536 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            bytes.extend_from_slice(&(seed >> 24).to_le_bytes()[..4]);
        }
        bytes
    });
    assert!(noise.iter().all(|len| *len < 2 * MIB), "{noise:?}");
}

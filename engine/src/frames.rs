//! Writing and reading the frames of a batch stream, compressed where that pays.
//!
//! Whether it pays is measured: while the line takes bytes more slowly than zstd makes them, frames
//! are compressed; on a faster line they are not. Data whose byte histogram is flat is never tried.
//! A reader allocates at most one frame, whatever the peer announces. A batch may lie on several streams,
//! see `frames/stripes.rs`.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use farshore_core::codec::{DecodeError, Encoder};
use farshore_core::limits::FRAME_PAYLOAD_MAX;
use farshore_proto::batch::{
    BatchHeader, FRAME_HEADER_LEN, FRAME_PAYLOAD_GOAL, FrameHeader, Stripe,
};
use farshore_proto::link::{BulkReceive, Link, LinkError};
use farshore_proto::op::Op;

use crate::profile::{Profile, Stage};

mod stripes;

pub use stripes::Striping;
use stripes::{StripedReceive, StripedSend};

/// When frames are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// By the measured speed of the line.
    #[default]
    Auto,
    /// Never.
    Never,
    /// Always, at this zstd level.
    Level(i32),
}

/// Lines slower than this, in bytes a second, are worth one core's compression at level 1 (zstd
/// takes 0.5 GB/s of text at level 1 on one core; half of that leaves room for the rest).
const SLOW_LINE: f64 = 150e6;
/// Below this the next stronger level still keeps up.
const THIN_LINE: f64 = 30e6;
/// The level for such a line.
const THIN_LEVEL: i32 = 3;
/// Still slower lines, and the levels that keep up with them on one core: levels 6 and 9 make text
/// some 7 and 10 % smaller than level 3, at a quarter of its speed (docs/performance.md).
const THINNER_LINES: [(f64, i32); 2] = [(2.5e6, 9), (6e6, 6)];
/// Bytes of a frame's payload on a thin line: text in frames this long is some 4 % smaller than in
/// shorter ones, which fill a fast line with less delay.
const THIN_PAYLOAD_GOAL: usize = 1 << 20;
/// The same behind a frame that shrank: by 2 to 3 % more in frames this long. One that does not would be
/// longer than the window of its stream, and hold up the others of its batch.
const SHRUNK_PAYLOAD_GOAL: usize = 4 << 20;
/// The rate up to which a distant line is thin: its buffers make it look faster than it is, and several
/// streams are compressed at once.
const THIN_DISTANT_LINE: f64 = 80e6;
const _: () = assert!(SHRUNK_PAYLOAD_GOAL <= FRAME_PAYLOAD_MAX);
/// A round trip above this is a line between sites, not a cable.
const DISTANT: Duration = Duration::from_millis(3);

/// Whether a line with this round trip joins two sites.
#[must_use]
pub fn is_distant(rtt: Duration) -> bool {
    rtt > DISTANT
}
/// Bytes between two judgements of the line.
const WINDOW: u64 = 4 << 20;
/// The same for a distant line, whose buffers swallow some megabytes at once after each pause: that is
/// not the line's rate.
const DISTANT_WINDOW: u64 = 32 << 20;
/// Bytes a distant line's send buffers may swallow at once: until more is sent, how fast they were
/// taken says nothing of the line.
const BUFFERED: u64 = 64 << 20;

/// What is known of the line; shared by all streams of a link.
#[derive(Debug)]
pub struct LineGauge {
    setting: Compression,
    state: Mutex<Gauge>,
}

#[derive(Debug)]
struct Gauge {
    /// See [`LineGauge::fitting_level`].
    level: Option<i32>,
    /// Below so many bytes a second the line is thin.
    thin: f64,
    window: u64,
    window_start: Instant,
    bytes: u64,
    waited: Duration,
    /// Bytes still to be sent before the line is judged.
    unjudged: u64,
}

impl LineGauge {
    /// A gauge that starts from the round trip alone.
    #[must_use]
    pub fn new(setting: Compression, rtt: Duration, now: Instant) -> Self {
        let level = is_distant(rtt).then_some(THIN_LEVEL);
        let (unjudged, window, thin) = match is_distant(rtt) {
            true => (BUFFERED, DISTANT_WINDOW, THIN_DISTANT_LINE),
            false => (0, WINDOW, THIN_LINE),
        };
        let (bytes, waited, window_start) = (0, Duration::ZERO, now);
        let gauge = Gauge { level, thin, window, window_start, bytes, waited, unjudged };
        Self { setting, state: Mutex::new(gauge) }
    }

    fn level(&self) -> Option<i32> {
        match self.setting {
            Compression::Never => None,
            Compression::Level(level) => Some(level),
            Compression::Auto => self.fitting_level(),
        }
    }

    /// The level that fits the line; none for one that takes bytes as fast as they come.
    fn fitting_level(&self) -> Option<i32> {
        self.state.lock().map_or(None, |g| g.level)
    }

    /// Whether the line takes bytes as fast as they come, and nobody asked for fewer of them.
    fn is_fast(&self) -> bool {
        !matches!(self.setting, Compression::Level(_)) && self.fitting_level().is_none()
    }

    /// `bytes` were taken by the line after `waited`.
    fn sent(&self, bytes: u64, waited: Duration, now: Instant) {
        if matches!(self.setting, Compression::Level(_)) {
            return;
        }
        let Ok(mut g) = self.state.lock() else { return };
        if g.unjudged > 0 {
            g.unjudged = g.unjudged.saturating_sub(bytes);
            g.window_start = now;
            return;
        }
        g.bytes += bytes;
        g.waited += waited;
        if g.bytes < g.window {
            return;
        }
        let elapsed = now.saturating_duration_since(g.window_start).as_secs_f64().max(1e-6);
        let rate = g.bytes as f64 / elapsed;
        let line_binds = g.waited.as_secs_f64() > 0.3 * elapsed;
        g.level = match (line_binds, rate) {
            (true, r) if r < g.thin => Some(level_of(r)),
            (true, r) if r < SLOW_LINE => Some(1),
            // A line that does not bind while frames are compressed binds again without.
            (false, r) if r < SLOW_LINE => g.level,
            _ => None,
        };
        g.window_start = now;
        g.bytes = 0;
        g.waited = Duration::ZERO;
    }
}

/// The level for a thin line of so many bytes a second.
fn level_of(rate: f64) -> i32 {
    let thinner = THINNER_LINES.iter().find(|(line, _)| rate < *line);
    thinner.map_or(THIN_LEVEL, |(_, level)| *level)
}

/// Whether a sample of `data` looks as if it would shrink: its byte histogram is not flat.
#[must_use]
pub fn looks_compressible(data: &[u8]) -> bool {
    const SAMPLE: usize = 1_024;
    if data.len() < 512 {
        return data.len() > 64;
    }
    let mut counts = [0u32; 256];
    let mut total = 0u32;
    for part in 0..4 {
        let at = (data.len().saturating_sub(SAMPLE)) * part / 3;
        for &byte in &data[at..(at + SAMPLE).min(data.len())] {
            counts[usize::from(byte)] += 1;
            total += 1;
        }
    }
    let total = f64::from(total);
    let entropy: f64 = counts
        .iter()
        .filter(|&&c| c > 0)
        .map(|&c| {
            let p = f64::from(c) / total;
            -p * p.log2()
        })
        .sum();
    entropy < 7.5
}

/// Writes one batch.
pub struct FrameWriter<'g> {
    streams: StripedSend,
    gauge: &'g LineGauge,
    profile: &'g Profile,
    payload: Encoder,
    ops: u64,
    stored_bytes: u64,
    zstd: zstd::bulk::Compressor<'static>,
    level: i32,
    /// Whether the frame before was compressed to less than three quarters.
    shrank: bool,
    /// Whether it goes behind all other streams from its next frame on.
    yields: bool,
}

impl std::fmt::Debug for FrameWriter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameWriter").field("ops", &self.ops).finish_non_exhaustive()
    }
}

/// Bytes of a frame that nearly all fit in: the goal and one more small file.
const FRAME_ROOM: usize = FRAME_PAYLOAD_GOAL + 80 * 1024;

/// A frame without payload: room for its header, so that it goes out without being copied.
fn empty_frame(mut buf: Vec<u8>) -> Encoder {
    buf.clear();
    buf.resize(FRAME_HEADER_LEN, 0);
    Encoder::append_to(buf)
}

impl<'g> FrameWriter<'g> {
    /// Begins a batch on so many streams of `link`, which it opens. Nobody else may open any meanwhile.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn begin(
        link: &dyn Link,
        header: BatchHeader,
        stripes: u8,
        gauge: &'g LineGauge,
        profile: &'g Profile,
    ) -> Result<Self, LinkError> {
        let streams = StripedSend::open(link, header, stripes)?;
        let stored_bytes = streams.header_bytes();
        Ok(Self {
            streams,
            gauge,
            profile,
            payload: empty_frame(Vec::new()),
            ops: 0,
            stored_bytes,
            zstd: zstd::bulk::Compressor::default(),
            level: 0,
            shrank: false,
            yields: false,
        })
    }

    /// Whether bytes leave as fast as they come, and nobody asked for fewer of them.
    #[must_use]
    pub fn line_is_fast(&self) -> bool {
        self.gauge.is_fast()
    }

    /// Begins what goes ahead of its cut, behind all that other streams have to send. Its beginning does not:
    /// who accepts streams takes them in their order, and waits for each to begin.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn begin_ahead(
        link: &dyn Link,
        header: BatchHeader,
        gauge: &'g LineGauge,
        profile: &'g Profile,
    ) -> Result<Self, LinkError> {
        let writer = Self::begin(link, header, 1, gauge, profile)?;
        Ok(Self { yields: true, ..writer })
    }

    /// Appends an operation; sends a frame when one is full.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn op(&mut self, op: &Op<'_>) -> Result<(), LinkError> {
        let before = self.payload.len();
        op.encode(&mut self.payload);
        self.ops += 1;
        if self.payload.len() - FRAME_HEADER_LEN > FRAME_PAYLOAD_MAX && before > FRAME_HEADER_LEN {
            // One of the largest chunks behind others: the next frame begins with it.
            let mut frame = std::mem::take(&mut self.payload).finish();
            let rest = frame.split_off(before);
            self.payload = Encoder::append_to(frame);
            self.flush()?;
            self.payload.put_raw(&rest);
        }
        self.flush_if_full()
    }

    /// Appends operations that are encoded already, at most a frame's goal of them or one; sends a
    /// frame when one is full.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn encoded(&mut self, bytes: &[u8], ops: u64) -> Result<(), LinkError> {
        if self.payload.len() - FRAME_HEADER_LEN + bytes.len() > FRAME_PAYLOAD_MAX {
            self.flush()?;
        }
        self.payload.put_raw(bytes);
        self.ops += ops;
        self.flush_if_full()
    }

    fn flush_if_full(&mut self) -> Result<(), LinkError> {
        let payload_len = self.payload.len() - FRAME_HEADER_LEN;
        if payload_len < FRAME_PAYLOAD_GOAL {
            return Ok(());
        }
        let is_thin = self.gauge.level().is_some_and(|level| level >= THIN_LEVEL);
        let thin_goal = if self.shrank { SHRUNK_PAYLOAD_GOAL } else { THIN_PAYLOAD_GOAL };
        if is_thin && payload_len < thin_goal {
            return Ok(());
        }
        self.flush()
    }

    /// Sends what there is as a frame.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn flush(&mut self) -> Result<(), LinkError> {
        let mut frame = std::mem::take(&mut self.payload).finish();
        if frame.len() == FRAME_HEADER_LEN {
            self.payload = Encoder::append_to(frame);
            return Ok(());
        }
        let payload_len = frame.len() - FRAME_HEADER_LEN;
        let packed = self.compress(&frame[FRAME_HEADER_LEN..]);
        let (mut sent, kept) = match packed {
            Some(packed) => (packed, Some(frame)),
            None => (std::mem::take(&mut frame), None),
        };
        self.shrank = sent.len() < payload_len / 4 * 3;
        let header = FrameHeader {
            stored_len: sent.len() - FRAME_HEADER_LEN,
            payload_len,
            compressed: kept.is_some(),
        };
        sent[..FRAME_HEADER_LEN].copy_from_slice(&header.to_bytes());
        let len = sent.len() as u64;
        self.stored_bytes += len;
        let start = Instant::now();
        self.profile.time(Stage::Send, || self.streams.frame(Bytes::from(sent)))?;
        if std::mem::take(&mut self.yields) {
            self.streams.yields();
        }
        let end = Instant::now();
        self.gauge.sent(len, end.saturating_duration_since(start), end);
        self.payload = empty_frame(kept.unwrap_or_else(|| Vec::with_capacity(FRAME_ROOM)));
        Ok(())
    }

    /// The payload compressed behind room for a header, when that is wanted and saves at least a sixteenth.
    fn compress(&mut self, payload: &[u8]) -> Option<Vec<u8>> {
        let level = self.gauge.level()?;
        // On a line this slow a frame of which a part shrinks is worth the try.
        if level < THIN_LEVEL && !looks_compressible(payload) {
            return None;
        }
        if self.level != level {
            self.zstd.set_compression_level(level).ok()?;
            self.level = level;
        }
        let mut packed = vec![0; FRAME_HEADER_LEN + zstd::zstd_safe::compress_bound(payload.len())];
        let into = &mut packed[FRAME_HEADER_LEN..];
        let compress = || self.zstd.compress_to_buffer(payload, into);
        let len = self.profile.time(Stage::Compress, compress).ok()?;
        packed.truncate(FRAME_HEADER_LEN + len);
        (len < payload.len() - payload.len() / 16).then_some(packed)
    }

    /// Ends the batch; bytes of all its frames.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn finish(mut self) -> Result<u64, LinkError> {
        let ops = self.ops;
        self.op(&Op::Close { ops })?;
        self.flush()?;
        let bytes = self.stored_bytes;
        self.streams.finish()?;
        Ok(bytes)
    }
}

/// Why a batch stream cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream broke off.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// It is no batch.
    #[error("batch stream from the peer")]
    Decode(#[from] DecodeError),
    /// A compressed frame does not decompress to what it announced.
    #[error("a compressed frame of the batch stream is damaged")]
    Damaged(#[source] std::io::Error),
    /// It ended before its last operation.
    #[error("batch stream ended before its end")]
    EndedEarly,
    /// A stream was opened and nothing was said on it.
    #[error("stream {index} of a batch is open and does not begin")]
    NoHeader {
        /// Its place among the batch's streams.
        index: u8,
    },
    /// A stream is not the stripe whose turn it is.
    #[error("{found} of a batch where {expected} was due")]
    OtherStripe {
        /// What it says it is.
        found: Stripe,
        /// What it should be.
        expected: Stripe,
    },
    /// A stream of another batch, or epoch, was opened before all of this one were.
    #[error("a stream of batch {found} where {expected} of batch {batch} was due")]
    OtherBatch {
        /// What it should be.
        expected: Stripe,
        /// Of which batch.
        batch: u64,
        /// Of which batch it says it is.
        found: u64,
    },
    /// A stripe says nothing although its sender went on to the others.
    #[error("{idle} of a batch is idle, {other} is not")]
    IdleStripe {
        /// The one that is due.
        idle: Stripe,
        /// The one that goes on.
        other: Stripe,
    },
    /// A stripe goes on behind the end of the batch.
    #[error("{ended} of a batch ended and {other} goes on")]
    UnevenStripes {
        /// The one that was due.
        ended: Stripe,
        /// The one that goes on.
        other: Stripe,
    },
}

/// Reads one batch.
pub struct FrameReader {
    streams: StripedReceive,
    zstd: zstd::bulk::Decompressor<'static>,
    stored: Vec<u8>,
}

impl std::fmt::Debug for FrameReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FrameReader")
    }
}

impl FrameReader {
    /// Reads the header of the batch's first stream.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn begin(stream: Box<dyn BulkReceive>) -> Result<(Self, BatchHeader), FrameError> {
        let streams = StripedReceive::begin(stream)?;
        let header = streams.header();
        let zstd = zstd::bulk::Decompressor::new().map_err(FrameError::Damaged)?;
        Ok((Self { streams, zstd, stored: Vec::new() }, header))
    }

    /// Whether further streams of the batch are to [`FrameReader::join`] before it can be read.
    #[must_use]
    pub fn is_missing_streams(&self) -> bool {
        self.streams.is_missing_any()
    }

    /// Reads the header of the stream that was opened next.
    ///
    /// # Errors
    /// [`FrameError`] unless it is the batch's next stripe.
    pub fn join(&mut self, stream: Box<dyn BulkReceive>) -> Result<(), FrameError> {
        self.streams.join(stream)
    }

    /// Reads the next frame's payload into `payload`; `false` at the end of the batch.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn next_frame(&mut self, payload: &mut Vec<u8>) -> Result<bool, FrameError> {
        let mut header = [0; FRAME_HEADER_LEN];
        if !self.streams.next_frame(&mut header)? {
            return Ok(false);
        }
        let header = FrameHeader::from_bytes(&header)?;
        let into = if header.compressed { &mut self.stored } else { &mut *payload };
        into.resize(header.stored_len, 0);
        self.streams.rest_of_frame(into)?;
        if header.compressed {
            payload.resize(header.payload_len, 0);
            let len = self
                .zstd
                .decompress_to_buffer(&self.stored, payload.as_mut_slice())
                .map_err(FrameError::Damaged)?;
            if len != header.payload_len {
                return Err(FrameError::EndedEarly);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gauge_follows_the_line() {
        let start = Instant::now();
        let fast = LineGauge::new(Compression::Auto, Duration::from_micros(50), start);
        assert_eq!(fast.level(), None);
        // 4 MiB in 10 ms: the line is faster than a compressor, however long the writer waited.
        fast.sent(WINDOW, Duration::from_millis(9), start + Duration::from_millis(10));
        assert_eq!(fast.level(), None);
        // 4 MiB in 200 ms, all of it waiting: 21 MB/s.
        fast.sent(WINDOW, Duration::from_millis(200), start + Duration::from_millis(210));
        assert_eq!(fast.level(), Some(3));
        // The same in one second, and in two: 4 and 2 MB/s.
        let mut end = start + Duration::from_millis(210);
        for (seconds, level) in [(1, 6), (2, 9), (1, 6)] {
            end += Duration::from_secs(seconds);
            fast.sent(WINDOW, Duration::from_secs(seconds), end);
            assert_eq!(fast.level(), Some(level), "{seconds} s");
        }
        let far = LineGauge::new(Compression::Auto, Duration::from_millis(80), start);
        assert_eq!(far.level(), Some(3));
        // Its first megabytes vanish into buffers, at whatever speed.
        far.sent(WINDOW, Duration::ZERO, start + Duration::from_millis(2));
        assert_eq!(far.level(), Some(3));
        // Nor does a burst say anything, later: it takes many megabytes to be heard.
        far.sent(BUFFERED, Duration::ZERO, start + Duration::from_millis(3));
        far.sent(WINDOW, Duration::ZERO, start + Duration::from_millis(4));
        assert_eq!(far.level(), Some(3));
        let end = start + Duration::from_secs(9);
        far.sent(DISTANT_WINDOW, Duration::from_secs(8), end);
        assert_eq!(far.level(), Some(6), "4 MB/s");
        let never = LineGauge::new(Compression::Never, Duration::from_millis(80), start);
        never.sent(WINDOW, Duration::from_secs(9), start + Duration::from_secs(9));
        assert_eq!(never.level(), None);
    }

    /// That nothing is compressed does not make a line fast, nor does a fast line one where bytes do not count.
    #[test]
    fn a_line_is_fast_by_what_it_takes() {
        let start = Instant::now();
        let near = |setting| LineGauge::new(setting, Duration::from_micros(50), start);
        assert!(near(Compression::Auto).is_fast());
        assert!(!near(Compression::Level(1)).is_fast(), "fewer bytes were asked for");
        let never = near(Compression::Never);
        assert!(never.is_fast());
        never.sent(WINDOW, Duration::from_millis(200), start + Duration::from_millis(200));
        assert!(!never.is_fast(), "21 MB/s");
        assert!(!LineGauge::new(Compression::Never, Duration::from_millis(80), start).is_fast());
    }

    #[test]
    fn flat_histograms_are_not_tried() {
        let text = b"UNH+1+ORDERS:D:96A:UN'BGM+220+4711+9'DTM+137:20261122:102'".repeat(40);
        assert!(looks_compressible(&text));
        let mut noise = Vec::new();
        let mut seed = 1u64;
        while noise.len() < 64 << 10 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            noise.extend_from_slice(&(seed >> 24).to_le_bytes()[..4]);
        }
        assert!(!looks_compressible(&noise));
    }
}

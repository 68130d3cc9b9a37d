//! A link in memory, with the manners of the real one, that remembers what went over it.
//!
//! Closing is abrupt: what was queued and not read is lost for the peer, whatever the code, as a
//! connection that is closed loses what its peer has not taken. Queues are short, so that every
//! place that can wait for room does.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use farshore_proto::close::CloseCode;
use farshore_proto::link::{BulkReceive, BulkSend, Link, LinkError, LinkStats, ReadSome};
use farshore_proto::message::Message;

/// Control messages under way in one direction.
const CONTROL_ROOM: usize = 8;
/// Chunks under way on one bulk stream.
const BULK_ROOM: usize = 2;
/// Bulk streams opened and not accepted.
const STREAMS_ROOM: usize = 16;

#[derive(Debug, Default)]
struct Control {
    queue: VecDeque<Bytes>,
    finished: bool,
}

#[derive(Debug, Default)]
struct Stream {
    queue: VecDeque<Bytes>,
    finished: bool,
    reset: bool,
    stopped: bool,
}

#[derive(Debug, Default)]
struct State {
    closed: Option<(usize, u32, String)>,
    /// What each side sent and the other has not read.
    control: [Control; 2],
    streams: Vec<Stream>,
    /// Streams opened and not accepted; only the source opens any.
    opened: VecDeque<usize>,
    taken: Record,
}

/// What went over a link.
#[derive(Debug, Default, Clone)]
pub(crate) struct Record {
    /// Control messages the source's end took from the link.
    pub(crate) source_heard: Vec<Bytes>,
    /// Bytes of each bulk stream, in the order they were opened.
    pub(crate) streams: Vec<Vec<u8>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    moved: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `ready` yields something, or the connection is closed.
    fn wait<T>(
        &self,
        side: usize,
        step: &'static str,
        mut ready: impl FnMut(&mut State) -> Option<Result<T, LinkError>>,
    ) -> Result<T, LinkError> {
        let mut state = self.lock();
        loop {
            if let Some((by, code, reason)) = &state.closed {
                return Err(if *by == side {
                    lost(step, "closed here")
                } else {
                    LinkError::ClosedByPeer { code: *code, reason: reason.clone() }
                });
            }
            if let Some(result) = ready(&mut state) {
                self.moved.notify_all();
                return result;
            }
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn lost(step: &'static str, why: &str) -> LinkError {
    LinkError::Lost { step, source: why.into() }
}

/// What becomes of signatures on their way to the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forged {
    /// Nothing.
    Not,
    /// Each tells of the block behind it, as if blocks had changed places or had the same signatures.
    Shifted,
    /// There are none.
    Withheld,
}

impl Forged {
    fn apply(self, message: Bytes) -> Bytes {
        match Message::from_bytes(&message) {
            Ok(Message::Signatures { id, mut bytes }) if self != Self::Not => {
                match self {
                    Self::Withheld => bytes.clear(),
                    // Coarse ones have 4 bytes, fine ones 3.
                    _ if bytes.len() > 12 => bytes.rotate_left(12),
                    _ => {}
                }
                Bytes::from(Message::Signatures { id, bytes }.to_bytes())
            }
            _ => message,
        }
    }
}

/// One end. Dropping the last handle of an end closes it.
#[derive(Debug)]
pub(crate) struct MemoryLink {
    shared: Arc<Shared>,
    side: usize,
    forged: Forged,
}

/// Looks at a link from outside, also when both ends are gone.
#[derive(Debug)]
pub(crate) struct Tap(Arc<Shared>);

impl Tap {
    pub(crate) fn record(&self) -> Record {
        self.0.lock().taken.clone()
    }
}

/// The source's end, the target's, and a tap.
pub(crate) fn pair(forged: Forged) -> (MemoryLink, MemoryLink, Tap) {
    let shared = Arc::new(Shared::default());
    let end = |side| MemoryLink { shared: Arc::clone(&shared), side, forged };
    (end(0), end(1), Tap(Arc::clone(&shared)))
}

impl Link for MemoryLink {
    fn send_control(&self, message: Bytes) -> Result<(), LinkError> {
        let mut message = Some(message);
        self.shared.wait(self.side, "send a control message", |state| {
            let control = &mut state.control[self.side];
            if control.finished {
                return Some(Err(lost("send a control message", "finished here")));
            }
            (control.queue.len() < CONTROL_ROOM).then(|| {
                control.queue.extend(message.take());
                Ok(())
            })
        })
    }

    fn recv_control(&self) -> Result<Option<Bytes>, LinkError> {
        self.shared.wait(self.side, "receive a control message", |state| {
            let control = &mut state.control[1 - self.side];
            let message = control.queue.pop_front();
            if message.is_none() && !control.finished {
                return None;
            }
            if self.side == 0 {
                state.taken.source_heard.extend(message.clone());
            }
            Some(Ok(message.map(|m| self.forged.apply(m))))
        })
    }

    fn finish_control(&self) -> Result<(), LinkError> {
        self.shared.wait(self.side, "finish the control stream", |state| {
            state.control[self.side].finished = true;
            Some(Ok(()))
        })
    }

    fn open_bulk(&self) -> Result<Box<dyn BulkSend>, LinkError> {
        let stream = self.shared.wait(self.side, "open a bulk stream", |state| {
            (state.opened.len() < STREAMS_ROOM).then(|| {
                state.streams.push(Stream::default());
                state.taken.streams.push(Vec::new());
                state.opened.push_back(state.streams.len() - 1);
                Ok(state.streams.len() - 1)
            })
        })?;
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(Sender { shared, side: self.side, stream, finished: false }))
    }

    fn accept_bulk(&self) -> Result<Option<Box<dyn BulkReceive>>, LinkError> {
        let accepted = self
            .shared
            .wait(self.side, "accept a bulk stream", |state| state.opened.pop_front().map(Ok));
        match accepted {
            Ok(stream) => {
                let (shared, side) = (Arc::clone(&self.shared), self.side);
                Ok(Some(Box::new(Receiver { shared, side, stream, chunk: Bytes::new() })))
            }
            Err(LinkError::ClosedByPeer { code, .. }) if code == CloseCode::Done as u32 => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn close(&self, code: u32, reason: &str) {
        let mut state = self.shared.lock();
        if state.closed.is_none() {
            state.closed = Some((self.side, code, reason.to_owned()));
        }
        self.shared.moved.notify_all();
    }

    fn stats(&self) -> LinkStats {
        LinkStats::default()
    }
}

impl Drop for MemoryLink {
    fn drop(&mut self) {
        self.close(CloseCode::Internal as u32, "link dropped by its owner");
    }
}

struct Sender {
    shared: Arc<Shared>,
    side: usize,
    stream: usize,
    finished: bool,
}

impl BulkSend for Sender {
    fn write(&mut self, chunk: Bytes) -> Result<(), LinkError> {
        let mut chunk = Some(chunk);
        self.shared.wait(self.side, "write to a bulk stream", |state| {
            let stream = &mut state.streams[self.stream];
            if stream.stopped {
                return Some(Err(lost("write to a bulk stream", "stopped by the peer")));
            }
            (stream.queue.len() < BULK_ROOM).then(|| {
                if let Some(chunk) = chunk.take() {
                    state.taken.streams[self.stream].extend_from_slice(&chunk);
                    stream.queue.push_back(chunk);
                }
                Ok(())
            })
        })
    }

    fn finish(mut self: Box<Self>) -> Result<(), LinkError> {
        self.finished = true;
        self.shared.wait(self.side, "finish a bulk stream", |state| {
            state.streams[self.stream].finished = true;
            Some(Ok(()))
        })
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if !self.finished {
            self.shared.lock().streams[self.stream].reset = true;
            self.shared.moved.notify_all();
        }
    }
}

const STEP: &str = "read from a bulk stream";

struct Receiver {
    shared: Arc<Shared>,
    side: usize,
    stream: usize,
    /// What is left of the chunk being read.
    chunk: Bytes,
}

impl BulkReceive for Receiver {
    fn read_exact(&mut self, buf: &mut [u8]) -> Result<bool, LinkError> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.read_some(&mut buf[filled..], Duration::MAX)? {
                ReadSome::Bytes(count) => filled += count,
                _ if filled == 0 => return Ok(false),
                _ => return Err(lost(STEP, "ended early")),
            }
        }
        Ok(true)
    }

    /// Has all the patience there is, or none: nobody's clock runs here.
    fn read_some(&mut self, buf: &mut [u8], patience: Duration) -> Result<ReadSome, LinkError> {
        if self.chunk.is_empty() {
            let next = self.shared.wait(self.side, STEP, |state| {
                let stream = &mut state.streams[self.stream];
                match stream.queue.pop_front() {
                    _ if stream.reset => Some(Err(lost(STEP, "reset by the peer"))),
                    Some(chunk) => Some(Ok(Ok(chunk))),
                    None if stream.finished => Some(Ok(Err(ReadSome::End))),
                    None => patience.is_zero().then_some(Ok(Err(ReadSome::Nothing))),
                }
            })?;
            match next {
                Ok(chunk) => self.chunk = chunk,
                Err(none) => return Ok(none),
            }
        }
        let len = self.chunk.len().min(buf.len());
        buf[..len].copy_from_slice(&self.chunk.split_to(len));
        Ok(ReadSome::Bytes(len))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.lock().streams[self.stream].stopped = true;
        self.shared.moved.notify_all();
    }
}

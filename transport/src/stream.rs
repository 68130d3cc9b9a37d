//! Bulk streams, and the reading both kinds of stream share.
//!
//! Guarantees bytes in order, each copied once out of the datagram that brought it, and that a
//! stream which was not finished never looks finished to the peer. It refuses nothing the link's
//! windows allow. Nothing survives a crash.

use std::{sync::Arc, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use farshore_proto::link::{BulkReceive, BulkSend, LinkError, ReadSome};
use quinn::{ReadError, RecvStream, SendStream, VarInt, WriteError};
use tokio::{runtime::Handle, time::timeout};

use crate::{
    error::{LostCause, connection_lost},
    quic_link::Shared,
};

/// Datagrams' worth of data taken under one lock of the connection.
const CHUNKS: usize = 64;
/// Messages up to this size are copied, so that they do not keep a 64 KiB datagram alive.
const COPIED_MESSAGE_BYTES_MAX: usize = 16 << 10;
/// Room made for a message before its bytes are there.
const MESSAGE_BYTES_FIRST: usize = 64 << 10;
/// Code of a stream given up; it means nothing but that.
const ABANDONED: VarInt = VarInt::from_u32(1);

/// The priority of a stream that goes behind all others, which have 0.
const BEHIND: i32 = -1;

/// The sending end of a bulk stream of a [`crate::QuicLink`].
pub(crate) struct QuicBulkSend {
    link: Arc<Shared>,
    stream: SendStream,
    finished: bool,
    /// Goes behind all others.
    behind: bool,
}

impl QuicBulkSend {
    pub(crate) const fn new(link: Arc<Shared>, stream: SendStream) -> Self {
        Self { link, stream, finished: false, behind: false }
    }
}

impl BulkSend for QuicBulkSend {
    fn write(&mut self, mut chunk: Bytes) -> Result<(), LinkError> {
        const STEP: &str = "send bulk data";
        self.link.check_open(STEP)?;
        while !chunk.is_empty() {
            let piece = self.link.pace(&mut chunk, self.behind, STEP)?;
            write_all(&self.link.net.handle, &mut self.stream, &mut [piece], STEP)?;
        }
        Ok(())
    }

    fn yields(&mut self) {
        // Fails only for a stream that is over, and the next write says so.
        self.behind = self.stream.set_priority(BEHIND).is_ok();
    }

    fn finish(mut self: Box<Self>) -> Result<(), LinkError> {
        const STEP: &str = "finish a bulk stream";
        self.link.check_open(STEP)?;
        self.finished = true;
        self.link.finish(&mut self.stream, STEP)
    }
}

impl Drop for QuicBulkSend {
    fn drop(&mut self) {
        if !self.finished {
            // Without this quinn would finish the stream, and half a file would look whole. It
            // fails only for a stream that is already reset or stopped.
            drop(self.stream.reset(ABANDONED));
        }
    }
}

/// Writes all of `chunks`, blocking for flow control.
pub(crate) fn write_all(
    handle: &Handle,
    stream: &mut SendStream,
    chunks: &mut [Bytes],
    step: &'static str,
) -> Result<(), LinkError> {
    handle.block_on(stream.write_all_chunks(chunks)).map_err(|error| match error {
        WriteError::ConnectionLost(lost) => connection_lost(step, &lost),
        WriteError::Stopped(code) => {
            LostCause::StreamStopped { code: code.into_inner() }.during(step)
        }
        WriteError::ClosedStream | WriteError::ZeroRttRejected => LostCause::Finished.during(step),
    })
}

/// The receiving end of a bulk stream of a [`crate::QuicLink`].
pub(crate) struct QuicBulkReceive {
    link: Arc<Shared>,
    reader: Reader,
}

impl QuicBulkReceive {
    pub(crate) fn new(link: Arc<Shared>, stream: RecvStream) -> Self {
        Self { link, reader: Reader::new(stream) }
    }
}

impl BulkReceive for QuicBulkReceive {
    fn read_exact(&mut self, buf: &mut [u8]) -> Result<bool, LinkError> {
        const STEP: &str = "receive bulk data";
        self.link.check_open(STEP)?;
        self.reader.read_exact(&self.link.net.handle, buf, STEP)
    }

    fn read_some(&mut self, buf: &mut [u8], patience: Duration) -> Result<ReadSome, LinkError> {
        const STEP: &str = "receive bulk data";
        self.link.check_open(STEP)?;
        self.reader.read_some(&self.link.net.handle, buf, patience, STEP)
    }
}

/// Reads a stream, many datagrams under one lock.
pub(crate) struct Reader {
    pub(crate) stream: RecvStream,
    chunks: Box<[Bytes; CHUNKS]>,
    at: usize,
    filled: usize,
    ended: bool,
}

impl Reader {
    pub(crate) fn new(stream: RecvStream) -> Self {
        let chunks = Box::new([const { Bytes::new() }; CHUNKS]);
        Self { stream, chunks, at: 0, filled: 0, ended: false }
    }

    /// The chunk to read from; `None` at the end of the stream.
    fn current(
        &mut self,
        handle: &Handle,
        step: &'static str,
    ) -> Result<Option<&mut Bytes>, LinkError> {
        if self.is_empty() && !self.ended {
            let read = handle.block_on(self.stream.read_chunks(&mut self.chunks[..]));
            self.took(read, step)?;
        }
        Ok(self.chunks[..self.filled].get_mut(self.at))
    }

    /// Whether all that was taken from the stream is read.
    fn is_empty(&mut self) -> bool {
        while self.at < self.filled && self.chunks[self.at].is_empty() {
            self.at += 1;
        }
        self.at == self.filled
    }

    fn took(
        &mut self,
        read: Result<Option<usize>, ReadError>,
        step: &'static str,
    ) -> Result<(), LinkError> {
        (self.at, self.filled) = (0, 0);
        match read.map_err(|error| read_error(step, &error))? {
            Some(filled) => self.filled = filled,
            None => self.ended = true,
        }
        Ok(())
    }

    /// See [`BulkReceive::read_some`].
    fn read_some(
        &mut self,
        handle: &Handle,
        buf: &mut [u8],
        patience: Duration,
        step: &'static str,
    ) -> Result<ReadSome, LinkError> {
        if self.is_empty() && !self.ended {
            // What is given up here has taken nothing from the stream yet.
            let wait =
                async { timeout(patience, self.stream.read_chunks(&mut self.chunks[..])).await };
            match handle.block_on(wait) {
                Ok(read) => self.took(read, step)?,
                Err(_) => return Ok(ReadSome::Nothing),
            }
        }
        let Some(chunk) = self.chunks[..self.filled].get_mut(self.at) else {
            return Ok(ReadSome::End);
        };
        let len = chunk.len().min(buf.len());
        chunk.copy_to_slice(&mut buf[..len]);
        Ok(ReadSome::Bytes(len))
    }

    /// See [`BulkReceive::read_exact`].
    pub(crate) fn read_exact(
        &mut self,
        handle: &Handle,
        buf: &mut [u8],
        step: &'static str,
    ) -> Result<bool, LinkError> {
        let mut done = 0;
        while done < buf.len() {
            let Some(chunk) = self.current(handle, step)? else {
                let missing = buf.len() - done;
                return match done {
                    0 => Ok(false),
                    _ => Err(LostCause::EndedEarly { missing }.during(step)),
                };
            };
            let len = chunk.len().min(buf.len() - done);
            chunk.copy_to_slice(&mut buf[done..done + len]);
            done += len;
        }
        Ok(true)
    }

    /// Reads `len` bytes as one message; memory grows with what arrives, not with what is announced.
    pub(crate) fn read_message(
        &mut self,
        handle: &Handle,
        len: usize,
        step: &'static str,
    ) -> Result<Bytes, LinkError> {
        let mut message = BytesMut::new();
        while message.len() < len {
            let missing = len - message.len();
            let Some(chunk) = self.current(handle, step)? else {
                return Err(LostCause::EndedEarly { missing }.during(step));
            };
            if missing == len && chunk.len() >= len && len > COPIED_MESSAGE_BYTES_MAX {
                return Ok(chunk.split_to(len));
            }
            message.reserve(missing.min(MESSAGE_BYTES_FIRST));
            message.extend_from_slice(&chunk.split_to(chunk.len().min(missing)));
        }
        Ok(message.freeze())
    }
}

fn read_error(step: &'static str, error: &ReadError) -> LinkError {
    match error {
        ReadError::ConnectionLost(lost) => connection_lost(step, lost),
        ReadError::Reset(code) => LostCause::StreamReset { code: code.into_inner() }.during(step),
        ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => {
            LostCause::Finished.during(step)
        }
    }
}

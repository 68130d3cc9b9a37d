//! What a session needs of a connection, and nothing more.
//!
//! Guarantees a link gives: control messages arrive whole, once and in order; the bytes of one bulk
//! stream arrive in order; bulk streams are accepted in the order they were opened; the peer at the
//! other end is the one whose key was pinned. It refuses messages above [`CONTROL_MESSAGE_MAX`]
//! before it allocates for them. Nothing of a link survives a crash: what was not acknowledged by
//! the peer's session is sent again over the next one.
//!
//! All calls block the calling thread; backpressure is the connection's own flow control. A link is
//! shared between threads; one thread at a time may receive control messages, and one may accept.

use std::time::Duration;

use bytes::Bytes;

/// Largest control message in bytes. A digest-tree answer is the largest there is; the session cuts
/// its answers to fit.
pub const CONTROL_MESSAGE_MAX: usize = 4 << 20;

/// Why a link cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The connection was lost: timeout, reset, or the process at the other end ended.
    #[error("connection to the peer lost while it was to {step}")]
    Lost {
        /// What the link was doing, in the infinitive.
        step: &'static str,
        /// The transport's own account of it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The peer closed the connection on purpose.
    #[error("peer closed the connection (code {code}): {reason}")]
    ClosedByPeer {
        /// A [`crate::close::CloseCode`] as it travels.
        code: u32,
        /// The peer's words, already escaped for a terminal.
        reason: String,
    },
    /// The peer announced a message larger than its limit.
    #[error("peer announced a control message of {len} bytes, the limit is {limit}")]
    MessageTooLarge {
        /// Bytes announced.
        len: usize,
        /// Bytes allowed.
        limit: usize,
    },
}

/// Counters of one link since it was opened. Bytes are UDP payload bytes, headers and
/// retransmissions included, the IP and UDP headers not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// UDP payload bytes sent.
    pub sent_bytes: u64,
    /// UDP payload bytes received.
    pub received_bytes: u64,
    /// Packets declared lost.
    pub lost_packets: u64,
    /// Smoothed round-trip time.
    pub rtt: Duration,
}

/// One connection to one authenticated peer.
pub trait Link: Send + Sync {
    /// Sends one control message (at most [`CONTROL_MESSAGE_MAX`] bytes) on the control stream.
    ///
    /// # Errors
    /// [`LinkError`] when the connection is gone.
    fn send_control(&self, message: Bytes) -> Result<(), LinkError>;
    /// Receives the next control message; `None` when the peer finished its side cleanly.
    ///
    /// # Errors
    /// [`LinkError`] when the connection is gone or the peer announced too much.
    fn recv_control(&self) -> Result<Option<Bytes>, LinkError>;
    /// Ends this side of the control stream; everything sent before still arrives.
    ///
    /// # Errors
    /// [`LinkError`] when the connection is gone.
    fn finish_control(&self) -> Result<(), LinkError>;
    /// Opens a bulk stream towards the peer.
    ///
    /// # Errors
    /// [`LinkError`] when the connection is gone.
    fn open_bulk(&self) -> Result<Box<dyn BulkSend>, LinkError>;
    /// Much is likely to be sent on bulk streams soon: the link may find out until then what its line holds, by
    /// sending what nobody reads. It does not wait for that, and need do nothing.
    fn expect_bulk(&self) {}
    /// Accepts the peer's next bulk stream; `None` when the peer closed the connection in order.
    ///
    /// # Errors
    /// [`LinkError`] when the connection is gone.
    fn accept_bulk(&self) -> Result<Option<Box<dyn BulkReceive>>, LinkError>;
    /// Closes the connection at once with `code` (see [`crate::close::CloseCode`]) and a reason for
    /// the peer's log (cut to 256 bytes). Later calls on this link fail; closing again ends at once
    /// what an earlier close with code 0 still delivers.
    fn close(&self, code: u32, reason: &str);
    /// Counters so far.
    fn stats(&self) -> LinkStats;
}

/// The sending end of a bulk stream. Dropped without [`BulkSend::finish`] it resets the stream, and
/// the peer's read fails.
pub trait BulkSend: Send {
    /// Queues one chunk; blocks while flow control or the rate limit has no room.
    ///
    /// # Errors
    /// [`LinkError`] when the connection is gone or the peer stopped the stream.
    fn write(&mut self, chunk: Bytes) -> Result<(), LinkError>;
    /// What is written from now on goes behind what other streams have to send, where the link can tell
    /// them apart.
    fn yields(&mut self) {}
    /// Ends the stream; everything written still arrives.
    ///
    /// # Errors
    /// [`LinkError`] when the connection is gone.
    fn finish(self: Box<Self>) -> Result<(), LinkError>;
}

/// The receiving end of a bulk stream. Dropped early it tells the peer to stop.
pub trait BulkReceive: Send {
    /// Fills `buf` whole. `Ok(false)` when the stream ended cleanly before its first byte.
    ///
    /// # Errors
    /// [`LinkError`] when the connection is gone, the stream was reset, or it ended within `buf`.
    fn read_exact(&mut self, buf: &mut [u8]) -> Result<bool, LinkError>;
    /// Reads what is there, at least one byte unless `buf` is empty; waits for it for at most
    /// `patience`.
    ///
    /// # Errors
    /// [`LinkError`] when the connection is gone or the stream was reset.
    fn read_some(&mut self, buf: &mut [u8], patience: Duration) -> Result<ReadSome, LinkError>;
}

/// What [`BulkReceive::read_some`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadSome {
    /// So many bytes.
    Bytes(usize),
    /// The stream ended cleanly.
    End,
    /// Nothing came in time; nothing is lost by that.
    Nothing,
}

//! Why a connection was closed on purpose, as a number on the wire.

/// Close codes on the wire. Numbers are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum CloseCode {
    /// The session ended in order.
    Done = 0,
    /// The peer's protocol version is not ours.
    VersionMismatch = 1,
    /// No share of that name is served here.
    UnknownShare = 2,
    /// A frame broke the protocol or a limit.
    ProtocolViolation = 3,
    /// The share is in use by another session.
    Busy = 4,
    /// This end cannot go on; its log says why.
    Internal = 5,
    /// The operator stopped this end.
    Stopped = 6,
    /// The frame's epoch is older than the one in force.
    EpochFenced = 7,
    /// A file system of this end is full, read-only or failing.
    Disk = 8,
    /// Other policies are in force at the source than this end was told to accept.
    PoliciesDiffer = 9,
}

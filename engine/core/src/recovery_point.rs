//! Recovery points: what is proven to be at the standby, and up to when.

use crate::codec::{DecodeError, Decoder, Encoder};
use crate::digest::RootDigest;

/// Fencing token: rises with every change of role, never falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u64);

/// Everything closed at the source before `time` is durable at the target, and the target's entries
/// have the root digest `root`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecoveryPoint {
    /// Counts the recovery points of a share from 1.
    pub sequence: u64,
    /// When the source's scan began, in milliseconds since 1970-01-01 UTC by the source's clock.
    pub time_unix_ms: i64,
    /// R.
    pub root: RootDigest,
    /// Entries it covers.
    pub entries: u64,
    /// Bytes of content it covers.
    pub bytes: u64,
    /// Entries the source could not vouch for: unstable, unreadable, held. Listed in the run's report.
    pub exceptions: u64,
}

impl RecoveryPoint {
    /// Appends the encoding.
    pub fn encode(&self, e: &mut Encoder) {
        e.put_u64(self.sequence);
        e.put_i64(self.time_unix_ms);
        e.put_raw(&self.root.0);
        e.put_u64(self.entries);
        e.put_u64(self.bytes);
        e.put_u64(self.exceptions);
    }

    /// Takes one off the front of `d`.
    ///
    /// # Errors
    /// [`DecodeError`], whatever the bytes are.
    pub fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            sequence: d.take_u64("recovery point sequence")?,
            time_unix_ms: d.take_i64("recovery point time")?,
            root: RootDigest(d.take_array("root digest")?),
            entries: d.take_u64("recovery point entries")?,
            bytes: d.take_u64("recovery point bytes")?,
            exceptions: d.take_u64("recovery point exceptions")?,
        })
    }
}

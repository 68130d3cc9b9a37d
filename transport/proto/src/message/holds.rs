//! What the source's brake holds, told to the target: who stands there when the source is lost is to know
//! that accounts are behind, and keeps the points they can be gone back to.

use farshore_core::codec::{DecodeError, Decoder, Encoder};
use farshore_core::entry::decode_path;
use farshore_core::path::RelPath;

use super::{cut, take_bool};

/// Most holds that are told one by one.
pub const HOLDS_MAX: usize = 64;
/// Longest reason of one in bytes.
pub const HOLD_TEXT_MAX: usize = 512;
/// Longest id of one in bytes.
pub const HOLD_ID_MAX: usize = 20;

/// All that is held: the whole state each time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holds {
    /// How many there are.
    pub total: u64,
    /// The sequence of the oldest of their last good points, those that are not told among them.
    pub oldest_point: Option<u64>,
    /// The first [`HOLDS_MAX`] of them.
    pub first: Vec<Held>,
}

/// One hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// How the source calls it.
    pub id: String,
    /// The account; the root for the whole share.
    pub account: RelPath,
    /// Since when, in milliseconds since 1970-01-01 UTC by the source's clock.
    pub since_unix_ms: i64,
    /// When somebody rejected it.
    pub rejected_unix_ms: Option<i64>,
    /// The last good point: its sequence and its time, where there is one.
    pub point: Option<(u64, i64)>,
    /// Why.
    pub reason: String,
    /// Entries created, deleted, rewritten and moved.
    pub counts: [u64; 4],
}

impl Holds {
    /// The points that are to be kept, each once.
    #[must_use]
    pub fn points(&self) -> Vec<u64> {
        let told = self.first.iter().filter_map(|held| held.point).map(|(sequence, _)| sequence);
        let mut all: Vec<u64> = told.chain(self.oldest_point).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// What is beyond the bounds is left out; texts are cut.
    pub(super) fn encode(&self, e: &mut Encoder) {
        e.put_u64(self.total);
        put_option(self.oldest_point, e, |point, e| e.put_u64(point));
        let first = &self.first[..self.first.len().min(HOLDS_MAX)];
        e.put_u64(first.len() as u64);
        for held in first {
            e.put_bytes(cut(&held.id, HOLD_ID_MAX).as_bytes());
            e.put_bytes(held.account.as_bytes());
            e.put_i64(held.since_unix_ms);
            put_option(held.rejected_unix_ms, e, |at, e| e.put_i64(at));
            put_option(held.point, e, |(sequence, time), e| {
                e.put_u64(sequence);
                e.put_i64(time);
            });
            e.put_bytes(cut(&held.reason, HOLD_TEXT_MAX).as_bytes());
            held.counts.iter().for_each(|count| e.put_u64(*count));
        }
    }

    pub(super) fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let total = d.take_u64("holds")?;
        let oldest_point = take_bool(d)?.then(|| d.take_u64("oldest point")).transpose()?;
        let mut first = Vec::new();
        for _ in 0..d.take_len("holds told", HOLDS_MAX)? {
            first.push(Held {
                id: d.take_text("hold", HOLD_ID_MAX)?,
                account: decode_path(d, "account held")?,
                since_unix_ms: d.take_i64("held since")?,
                rejected_unix_ms: take_bool(d)?.then(|| d.take_i64("rejected")).transpose()?,
                point: match take_bool(d)? {
                    true => Some((d.take_u64("last good point")?, d.take_i64("its time")?)),
                    false => None,
                },
                reason: d.take_text("why it is held", HOLD_TEXT_MAX)?,
                counts: {
                    let mut counts = [0; 4];
                    for count in &mut counts {
                        *count = d.take_u64("entries held")?;
                    }
                    counts
                },
            });
        }
        Ok(Self { total, oldest_point, first })
    }
}

fn put_option<T: Copy>(value: Option<T>, e: &mut Encoder, put: impl FnOnce(T, &mut Encoder)) {
    e.put_u8(u8::from(value.is_some()));
    if let Some(value) = value {
        put(value, e);
    }
}

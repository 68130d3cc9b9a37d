//! What the two ends say of content that is carried ahead of its cut.

use farshore_core::codec::{DecodeError, Decoder, Encoder};
use farshore_core::entry::decode_path;
use farshore_core::limits::{EXTENT_LEN_MAX, RECIPE_EXTENTS_MAX};
use farshore_core::path::RelPath;
use farshore_core::recipe::FileDigest;

use super::{Message, take_bool};

/// Most contents that one [`Message::Ahead`] names, and that a target holds ahead.
pub const AHEAD_MAX: usize = 64;

/// Most extents of all contents that a target holds ahead, and lists: those of one recipe at least. They are in
/// memory at both ends.
pub const AHEAD_EXTENTS_MAX: usize = RECIPE_EXTENTS_MAX;

/// Most bytes of all recipes of one list.
pub const AHEAD_LIST_MAX: usize = AHEAD_EXTENTS_MAX * EXTENT_LEN_MAX + AHEAD_MAX * RECIPE_HEAD;
/// What a recipe takes beside its extents.
const RECIPE_HEAD: usize = 16;

/// Most bytes of one piece of a recipe in a [`Message::Held`].
pub const HELD_LEN_MAX: usize = 1 << 20;

/// Most accounts that one [`Message::Behind`] names.
pub const BEHIND_MAX: usize = 64;

/// Accounts that a recovery point does not have as at its time: the whole state each time. Who stands there
/// when the source is lost is to know them by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Behind {
    /// How many there are.
    pub total: u64,
    /// [`BEHIND_MAX`] of them, those that are behind the furthest, each with the time up to which it is in, in
    /// milliseconds since 1970-01-01 UTC by the source's clock.
    pub first: Vec<(RelPath, i64)>,
}

impl Behind {
    /// All of these; what is beyond the bound is counted.
    pub fn of(all: impl IntoIterator<Item = (RelPath, i64)>) -> Self {
        let mut first: Vec<(RelPath, i64)> = all.into_iter().collect();
        let total = first.len() as u64;
        first.sort_by(|(one, earlier), (other, later)| (earlier, one).cmp(&(later, other)));
        first.truncate(BEHIND_MAX);
        Self { total, first }
    }

    /// A time up to which all are in that are not named, if there are any: that of the last named.
    #[must_use]
    pub fn unnamed_since(&self) -> Option<i64> {
        let has_more = self.total > self.first.len() as u64;
        self.first.iter().map(|(_, time)| *time).max().filter(|_| has_more)
    }

    pub(super) fn encode(&self, e: &mut Encoder) {
        e.put_u64(self.total);
        let first = &self.first[..self.first.len().min(BEHIND_MAX)];
        e.put_u64(first.len() as u64);
        for (account, time) in first {
            e.put_bytes(account.as_bytes());
            e.put_i64(*time);
        }
    }

    pub(super) fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let total = d.take_u64("accounts behind")?;
        let count = d.take_len("accounts named", BEHIND_MAX)?;
        let account = |_| Ok((decode_path(d, "account behind")?, d.take_i64("its time")?));
        Ok(Self { total, first: (0..count).map(account).collect::<Result<_, _>>()? })
    }
}

/// What of the content held ahead is still wanted, if that is said.
pub(super) fn encode_keep(keep: Option<&[FileDigest]>, e: &mut Encoder) {
    e.put_u8(u8::from(keep.is_some()));
    if let Some(keep) = keep {
        e.put_u64(keep.len() as u64);
        keep.iter().for_each(|content| e.put_raw(&content.0));
    }
}

pub(super) fn decode_keep(d: &mut Decoder<'_>) -> Result<Option<Vec<FileDigest>>, DecodeError> {
    if !take_bool(d)? {
        return Ok(None);
    }
    let count = d.take_len("contents wanted", AHEAD_MAX)?;
    let content = |_| Ok(FileDigest(d.take_array("content wanted")?));
    (0..count).map(content).collect::<Result<_, _>>().map(Some)
}

/// A piece of the recipe of `content`.
pub(super) fn encode_held(
    content: &FileDigest,
    (whole, last): (bool, bool),
    bytes: &[u8],
    e: &mut Encoder,
) {
    e.put_raw(&content.0);
    e.put_u8(u8::from(whole));
    e.put_u8(u8::from(last));
    e.put_bytes(bytes);
}

pub(super) fn decode_held(d: &mut Decoder<'_>) -> Result<Message, DecodeError> {
    Ok(Message::Held {
        content: FileDigest(d.take_array("content")?),
        whole: take_bool(d)?,
        last: take_bool(d)?,
        bytes: d.take_bytes("recipe", HELD_LEN_MAX)?.into(),
    })
}

//! What the two ends say of content that is carried ahead of its cut.

use farshore_core::codec::{DecodeError, Decoder, Encoder};
use farshore_core::recipe::FileDigest;

use super::{Message, take_bool};

/// Most contents that one [`Message::Ahead`] names, and that a target holds ahead.
pub const AHEAD_MAX: usize = 64;

/// Most bytes of one piece of a recipe in a [`Message::Held`].
pub const HELD_LEN_MAX: usize = 1 << 20;

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

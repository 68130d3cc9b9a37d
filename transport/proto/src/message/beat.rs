//! What the two ends of a session that stands say of themselves again and again: that they are there, what
//! their clocks show, where they have the share, and what waits.

use farshore_core::codec::{DecodeError, Decoder, Encoder};

use super::{PATH_MAX, take_bool};

/// What an end says of itself again and again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Beat {
    /// What its clock shows.
    pub time_unix_ms: i64,
    /// Of the beat that this one answers, its time.
    pub answers_unix_ms: Option<i64>,
    /// Where it has the share, at most [`PATH_MAX`] bytes.
    pub path: Vec<u8>,
    /// Bytes that are free there.
    pub free_bytes: Option<u64>,
    /// What it knows to have changed and not to be sealed.
    pub unsealed: Option<Unsealed>,
}

/// Changes that are known and not sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsealed {
    /// How many.
    pub files: u64,
    /// Their content, where it is known.
    pub bytes: Option<u64>,
    /// Whether there are no more; none: nobody knows.
    pub is_all: Option<bool>,
}

impl Beat {
    pub(super) fn encode(&self, e: &mut Encoder) {
        let put_u64 = |value: Option<u64>, e: &mut Encoder| {
            e.put_u8(u8::from(value.is_some()));
            value.into_iter().for_each(|value| e.put_u64(value));
        };
        e.put_i64(self.time_unix_ms);
        e.put_u8(u8::from(self.answers_unix_ms.is_some()));
        self.answers_unix_ms.into_iter().for_each(|time| e.put_i64(time));
        e.put_bytes(&self.path);
        put_u64(self.free_bytes, e);
        e.put_u8(u8::from(self.unsealed.is_some()));
        if let Some(Unsealed { files, bytes, is_all }) = self.unsealed {
            e.put_u64(files);
            put_u64(bytes, e);
            e.put_u8(is_all.map_or(2, u8::from));
        }
    }

    pub(super) fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let take_u64 = |d: &mut Decoder<'_>| match take_bool(d)? {
            true => Ok::<_, DecodeError>(Some(d.take_u64("bytes")?)),
            false => Ok(None),
        };
        let time_unix_ms = d.take_i64("time of a beat")?;
        let answers = take_bool(d)?;
        let answers_unix_ms = answers.then(|| d.take_i64("time answered")).transpose()?;
        let path = d.take_bytes("path of the share", PATH_MAX)?.into();
        let free_bytes = take_u64(d)?;
        let unsealed = match take_bool(d)? {
            true => Some(Unsealed {
                files: d.take_u64("changes")?,
                bytes: take_u64(d)?,
                is_all: match d.take_u8("bound")? {
                    0 => Some(false),
                    1 => Some(true),
                    2 => None,
                    found => {
                        let found = u64::from(found);
                        return Err(DecodeError::Invalid { what: "bound", found });
                    }
                },
            }),
            false => None,
        };
        Ok(Self { time_unix_ms, answers_unix_ms, path, free_bytes, unsealed })
    }
}

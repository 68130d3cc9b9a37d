//! The encoding under everything Farshore writes to a disk or a wire: little-endian base-128
//! integers, length-prefixed bytes, nothing else.
//!
//! Guarantees: a value encodes to one byte string only, and decoding never panics, never reads past
//! its input, and never allocates more than the input holds. Refuses: overlong integers, lengths
//! beyond the limit its caller names, and bytes left over where a value must fill its input.

/// Why bytes from a disk or a peer are not a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The input ended within a value.
    #[error("{what}: input ends early")]
    Truncated {
        /// The value being read.
        what: &'static str,
    },
    /// A length or count is above its bound.
    #[error("{what}: {found} exceeds the limit of {limit}")]
    LimitExceeded {
        /// The value being read.
        what: &'static str,
        /// What the input says.
        found: u64,
        /// What is allowed.
        limit: u64,
    },
    /// A tag, flag or number has no meaning here.
    #[error("{what}: {found} is not a valid value")]
    Invalid {
        /// The value being read.
        what: &'static str,
        /// What the input says.
        found: u64,
    },
    /// A path broke a rule of [`crate::path::RelPath`].
    #[error("path in {what}")]
    Path {
        /// The value being read.
        what: &'static str,
        /// The rule.
        #[source]
        source: crate::path::PathError,
    },
    /// Bytes follow where the value should end.
    #[error("{what}: {found} bytes left over")]
    TrailingBytes {
        /// The value being read.
        what: &'static str,
        /// Bytes left.
        found: u64,
    },
    /// The checksum over a stored value is wrong.
    #[error("{what}: checksum mismatch")]
    BadChecksum {
        /// The value being read.
        what: &'static str,
    },
}

/// Appends encoded values to a buffer.
#[derive(Debug, Default)]
pub struct Encoder {
    buf: Vec<u8>,
}

impl Encoder {
    /// An encoder with an empty buffer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An encoder that appends to `buf`.
    #[must_use]
    pub fn append_to(buf: Vec<u8>) -> Self {
        Self { buf }
    }

    /// An unsigned integer, base 128, least significant group first.
    #[allow(clippy::cast_possible_truncation)] // seven bits at a time
    pub fn put_u64(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.buf.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.buf.push(value as u8);
    }

    /// A signed integer, zigzag.
    #[allow(clippy::cast_sign_loss)]
    pub fn put_i64(&mut self, value: i64) {
        self.put_u64(((value << 1) ^ (value >> 63)) as u64);
    }

    /// One byte.
    pub fn put_u8(&mut self, value: u8) {
        self.buf.push(value);
    }

    /// Bytes behind their length.
    pub fn put_bytes(&mut self, value: &[u8]) {
        self.put_u64(value.len() as u64);
        self.buf.extend_from_slice(value);
    }

    /// Bytes of a length both sides know.
    pub fn put_raw(&mut self, value: &[u8]) {
        self.buf.extend_from_slice(value);
    }

    /// Bytes written so far, what the buffer held before included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buf.len()
    }

    /// Whether the buffer is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buf.is_empty()
    }

    /// The buffer.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.buf
    }

    /// What was written so far.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.buf
    }
}

/// Takes encoded values off the front of a byte slice.
#[derive(Debug, Clone)]
pub struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    /// A decoder of `input`.
    #[must_use]
    pub fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    /// Bytes not yet taken.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// One byte.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    #[inline]
    pub fn take_u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        let (&first, rest) = self.rest.split_first().ok_or(DecodeError::Truncated { what })?;
        self.rest = rest;
        Ok(first)
    }

    /// An unsigned integer.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`], or [`DecodeError::Invalid`] for an overlong or too large one.
    #[inline]
    pub fn take_u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take_u8(what)?;
            let group = u64::from(byte & 0x7f);
            if shift == 63 && group > 1 {
                return Err(DecodeError::Invalid { what, found: group });
            }
            value |= group << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(DecodeError::Invalid { what, found: value });
                }
                return Ok(value);
            }
        }
        Err(DecodeError::Invalid { what, found: value })
    }

    /// An unsigned integer of at most `limit`.
    ///
    /// # Errors
    /// As [`Self::take_u64`], and [`DecodeError::LimitExceeded`].
    #[inline]
    pub fn take_bounded(&mut self, what: &'static str, limit: u64) -> Result<u64, DecodeError> {
        let found = self.take_u64(what)?;
        if found > limit {
            return Err(DecodeError::LimitExceeded { what, found, limit });
        }
        Ok(found)
    }

    /// A 32-bit unsigned integer.
    ///
    /// # Errors
    /// As [`Self::take_bounded`].
    #[inline]
    pub fn take_u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        let found = self.take_bounded(what, u64::from(u32::MAX))?;
        u32::try_from(found).map_err(|_| DecodeError::Invalid { what, found })
    }

    /// A length or count that indexes memory, of at most `limit`.
    ///
    /// # Errors
    /// As [`Self::take_bounded`].
    pub fn take_len(&mut self, what: &'static str, limit: usize) -> Result<usize, DecodeError> {
        let found = self.take_bounded(what, limit as u64)?;
        usize::try_from(found).map_err(|_| DecodeError::Invalid { what, found })
    }

    /// A signed integer.
    ///
    /// # Errors
    /// As [`Self::take_u64`].
    #[allow(clippy::cast_possible_wrap)]
    #[inline]
    pub fn take_i64(&mut self, what: &'static str) -> Result<i64, DecodeError> {
        let raw = self.take_u64(what)?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    /// Bytes behind their length, at most `limit` of them.
    ///
    /// # Errors
    /// [`DecodeError::LimitExceeded`] before anything is read, [`DecodeError::Truncated`].
    pub fn take_bytes(
        &mut self,
        what: &'static str,
        limit: usize,
    ) -> Result<&'a [u8], DecodeError> {
        let len = self.take_len(what, limit)?;
        self.take_raw(what, len)
    }

    /// UTF-8 behind its length, at most `limit` bytes of it.
    ///
    /// # Errors
    /// As [`Self::take_bytes`], and [`DecodeError::Invalid`] for what is not UTF-8.
    pub fn take_text(&mut self, what: &'static str, limit: usize) -> Result<String, DecodeError> {
        let bytes = self.take_bytes(what, limit)?;
        String::from_utf8(bytes.into()).map_err(|_| DecodeError::Invalid { what, found: 0 })
    }

    /// `len` bytes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn take_raw(&mut self, what: &'static str, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) =
            self.rest.split_at_checked(len).ok_or(DecodeError::Truncated { what })?;
        self.rest = rest;
        Ok(taken)
    }

    /// A fixed-size array.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn take_array<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], DecodeError> {
        let (taken, rest) =
            self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated { what })?;
        self.rest = rest;
        Ok(*taken)
    }

    /// Checks that nothing is left.
    ///
    /// # Errors
    /// [`DecodeError::TrailingBytes`].
    pub fn finish(self, what: &'static str) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(DecodeError::TrailingBytes { what, found: self.rest.len() as u64 })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn integers_round_trip_in_one_form(value: u64, signed: i64) {
            let mut e = Encoder::new();
            e.put_u64(value);
            e.put_i64(signed);
            let bytes = e.finish();
            let mut d = Decoder::new(&bytes);
            prop_assert_eq!(d.take_u64("v"), Ok(value));
            prop_assert_eq!(d.take_i64("s"), Ok(signed));
            prop_assert_eq!(d.finish("end"), Ok(()));
        }

        #[test]
        fn any_bytes_decode_or_fail_without_panic(bytes: Vec<u8>) {
            let mut d = Decoder::new(&bytes);
            while d.remaining() > 0 {
                if d.take_u64("v").is_err() || d.take_bytes("b", 64).is_err() {
                    break;
                }
            }
        }
    }

    #[test]
    fn overlong_integers_are_refused() {
        assert!(Decoder::new(&[0x80, 0x00]).take_u64("v").is_err());
        assert!(Decoder::new(&[0xff; 10]).take_u64("v").is_err());
        let max = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(Decoder::new(&max).take_u64("v"), Ok(u64::MAX));
    }

    #[test]
    fn a_length_beyond_its_limit_is_named_before_it_is_read() {
        let mut e = Encoder::new();
        e.put_u64(1 << 40);
        let bytes = e.finish();
        assert_eq!(
            Decoder::new(&bytes).take_bytes("name", 255),
            Err(DecodeError::LimitExceeded { what: "name", found: 1 << 40, limit: 255 })
        );
    }
}

//! Records behind their lengths, with a count and a checksum at the end: the file of a list and of a plan.
//!
//! Guarantees: a file that was cut short, changed or made longer is refused at its end at the latest;
//! nothing is allocated that the input does not hold, and no record is longer than its kind allows.

use std::io::{Read, Write};

use super::list::ListError;
use crate::codec::DecodeError;

/// Writes records.
#[derive(Debug)]
pub(super) struct FrameWriter<W> {
    out: W,
    hasher: blake3::Hasher,
    count: u64,
}

impl<W: Write> FrameWriter<W> {
    pub(super) fn new(out: W, magic: &[u8; 8]) -> std::io::Result<Self> {
        let mut writer = Self { out, hasher: blake3::Hasher::new(), count: 0 };
        writer.put(magic)?;
        Ok(writer)
    }

    /// Appends a record that is not empty.
    pub(super) fn push(&mut self, record: &[u8]) -> std::io::Result<()> {
        let len = u32::try_from(record.len()).map_err(|_| std::io::ErrorKind::FileTooLarge)?;
        self.put(&len.to_le_bytes())?;
        self.put(record)?;
        self.count += 1;
        Ok(())
    }

    /// Ends the file; the checksum too.
    pub(super) fn finish(mut self) -> std::io::Result<(W, [u8; 32])> {
        self.put(&0u32.to_le_bytes())?;
        let count = self.count.to_le_bytes();
        self.put(&count)?;
        let digest = *self.hasher.finalize().as_bytes();
        self.out.write_all(&digest)?;
        Ok((self.out, digest))
    }

    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.hasher.update(bytes);
        self.out.write_all(bytes)
    }
}

/// Reads records.
#[derive(Debug)]
pub(super) struct FrameReader<R> {
    source: R,
    hasher: blake3::Hasher,
    record: Vec<u8>,
    record_max: usize,
    count: u64,
    is_done: bool,
    digest: [u8; 32],
}

impl<R: Read> FrameReader<R> {
    /// `what` it is, for people.
    pub(super) fn new(
        source: R,
        magic: &[u8; 8],
        what: &'static str,
        record_max: usize,
    ) -> Result<Self, ListError> {
        let mut reader = Self {
            source,
            hasher: blake3::Hasher::new(),
            record: Vec::new(),
            record_max,
            count: 0,
            is_done: false,
            digest: [0; 32],
        };
        if reader.take::<8>()? != *magic {
            return Err(ListError::Foreign(what));
        }
        Ok(reader)
    }

    /// The next record; `None` behind the last, when the checksum was right.
    pub(super) fn next_frame(&mut self) -> Result<Option<&[u8]>, ListError> {
        if self.is_done {
            return Ok(None);
        }
        let len = u32::from_le_bytes(self.take()?) as usize;
        if len == 0 {
            self.end()?;
            return Ok(None);
        }
        if len > self.record_max {
            let (found, limit) = (len as u64, self.record_max as u64);
            return Err(DecodeError::LimitExceeded { what: "record", found, limit }.into());
        }
        self.record.clear();
        let read = self.source.by_ref().take(len as u64).read_to_end(&mut self.record)?;
        if read < len {
            return Err(DecodeError::Truncated { what: "record" }.into());
        }
        self.hasher.update(&self.record);
        self.count += 1;
        Ok(Some(&self.record))
    }

    /// The checksum, behind the last record.
    pub(super) fn digest(&self) -> [u8; 32] {
        self.digest
    }

    fn end(&mut self) -> Result<(), ListError> {
        let count = u64::from_le_bytes(self.take()?);
        self.digest = *self.hasher.finalize().as_bytes();
        let is_whole = self.take::<32>()? == self.digest && count == self.count;
        if !is_whole {
            return Err(DecodeError::BadChecksum { what: "file" }.into());
        }
        if self.source.read(&mut [0])? != 0 {
            return Err(DecodeError::TrailingBytes { what: "file", found: 1 }.into());
        }
        self.is_done = true;
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], ListError> {
        let mut bytes = [0; N];
        self.source.read_exact(&mut bytes).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                ListError::from(DecodeError::Truncated { what: "file" })
            }
            _ => e.into(),
        })?;
        self.hasher.update(&bytes);
        Ok(bytes)
    }
}

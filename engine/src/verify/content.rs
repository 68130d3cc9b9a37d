//! Comparing the bytes of two files of one length.

use std::ops::Range;

use super::Side;
use super::compare::{At, Trouble};
use crate::io::Storage;

/// Bytes read at a time from each side: both stay in a core's cache while they are compared.
const READ_LEN: usize = 512 * 1024;

/// Files up to this length are read whole: asking for their holes costs more than they do.
const HOLES_ASKED_MIN: u64 = 64 * 1024;

/// One buffer for each side.
#[derive(Debug)]
pub(super) struct Buffers {
    a: Box<[u8]>,
    b: Box<[u8]>,
}

impl Buffers {
    pub(super) fn new() -> Self {
        Self { a: vec![0; READ_LEN].into(), b: vec![0; READ_LEN].into() }
    }
}

/// A file of one side.
#[derive(Debug)]
pub(super) struct Opened<'a, S: Storage> {
    pub(super) storage: &'a S,
    pub(super) file: &'a S::File,
    /// Bytes allocated, as its facts say.
    pub(super) allocated: u64,
}

/// How two contents compare.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The first differing offset and the two bytes there.
    pub(super) difference: Option<(u64, u8, u8)>,
    /// Bytes of holes met in A.
    pub(super) holes_in_a: u64,
}

/// Where data is, asked for as the comparison gets there.
struct Stretches<'a, S: Storage> {
    opened: &'a Opened<'a, S>,
    side: Side,
    size: u64,
    /// The stretch of data at or next after the place asked for last.
    data: Range<u64>,
}

impl<'a, S: Storage> Stretches<'a, S> {
    fn new(opened: &'a Opened<'a, S>, side: Side, size: u64) -> Self {
        let asks = size > HOLES_ASKED_MIN && opened.allocated < size;
        Self { opened, side, size, data: if asks { 0..0 } else { 0..size } }
    }

    fn advance(&mut self, offset: u64) -> Result<(), Trouble> {
        if offset < self.data.end {
            return Ok(());
        }
        let found = self.opened.storage.next_data(self.opened.file, offset, self.size);
        self.data = match found.at(self.side, "finding its holes")? {
            None => self.size..self.size,
            Some(d) if d.end <= offset || d.is_empty() => offset..self.size,
            Some(d) => d.start.max(offset)..d.end.min(self.size),
        };
        Ok(())
    }

    fn is_data(&self, offset: u64) -> bool {
        self.data.contains(&offset)
    }

    /// Where what is at `offset`, data or hole, ends.
    fn end(&self, offset: u64) -> u64 {
        if self.is_data(offset) { self.data.end } else { self.data.start }
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), Trouble> {
        let read = self.opened.storage.read_at(self.opened.file, offset, buf);
        // It is shorter than it was.
        if read.at(self.side, "reading it")? < buf.len() {
            return Err(Trouble::Changed(self.side));
        }
        Ok(())
    }
}

/// Compares `size` bytes; `count` is told how many as they are done.
pub(super) fn compare<A: Storage, B: Storage>(
    a: &Opened<'_, A>,
    b: &Opened<'_, B>,
    size: u64,
    buffers: &mut Buffers,
    count: &mut dyn FnMut(u64),
) -> Result<Outcome, Trouble> {
    let mut a = Stretches::new(a, Side::A, size);
    let mut b = Stretches::new(b, Side::B, size);
    let mut outcome = Outcome::default();
    let mut offset = 0;
    while offset < size {
        a.advance(offset)?;
        b.advance(offset)?;
        let mut end = a.end(offset).min(b.end(offset)).min(size);
        // A hole of one side alone is read too: that it reads as zeros is the claim to be checked.
        if a.is_data(offset) || b.is_data(offset) {
            end = end.min(offset + READ_LEN as u64);
            let len = usize::try_from(end - offset).unwrap_or(READ_LEN);
            let (left, right) = (&mut buffers.a[..len], &mut buffers.b[..len]);
            a.read(offset, left)?;
            b.read(offset, right)?;
            if left != right {
                let at = left.iter().zip(&*right).position(|(x, y)| x != y).unwrap_or(0);
                count(at as u64);
                outcome.difference = Some((offset + at as u64, left[at], right[at]));
                return Ok(outcome);
            }
        }
        if !a.is_data(offset) {
            outcome.holes_in_a += end - offset;
        }
        count(end - offset);
        offset = end;
    }
    Ok(outcome)
}

//! What one site changed since the base, and the file such a list travels in.
//!
//! ```text
//! "fsfbchg1"  { length u32 LE, change }*  0u32  count u64 LE  BLAKE3 of all before it
//! change:  path, flags (1 before, 2 after, 4 moved), before?, after?, moved from?
//! ```
//! Guarantees: what was written reads back as itself, in the order written, or is refused; a list that was
//! cut short or changed is an error at its end at the latest, so nothing may be done by a list before all
//! of it was read once ([`ListReader::read_all`]). Memory holds one change.

use std::io::{Read, Write};

use super::frames::{FrameReader, FrameWriter};
use crate::codec::{DecodeError, Decoder, Encoder};
use crate::entry::{Entry, decode_path};
use crate::path::RelPath;

const MAGIC: &[u8; 8] = b"fsfbchg1";

/// Bytes of one change, at most: two entries with all their attributes, and two paths.
const CHANGE_MAX: usize = 2 << 20;

/// A path that one site changed since the base. A further name of a file is in the list too when the file
/// changed, be it a name of the same path as before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SideChange {
    /// The path.
    pub path: RelPath,
    /// What was there at the base.
    pub before: Option<Entry>,
    /// What is there now.
    pub after: Option<Entry>,
    /// Where what is there now was at the base. That path is in the list too.
    pub moved_from: Option<RelPath>,
}

impl SideChange {
    /// Appends the encoding.
    pub fn encode(&self, e: &mut Encoder) {
        e.put_bytes(self.path.as_bytes());
        let flag = |is: bool, bit: u8| if is { bit } else { 0 };
        e.put_u8(
            flag(self.before.is_some(), 1)
                | flag(self.after.is_some(), 2)
                | flag(self.moved_from.is_some(), 4),
        );
        for entry in [&self.before, &self.after].into_iter().flatten() {
            entry.encode(e);
        }
        if let Some(from) = &self.moved_from {
            e.put_bytes(from.as_bytes());
        }
    }

    /// The encoding as a buffer.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        self.encode(&mut e);
        e.finish()
    }

    /// Takes one off the front of `d`.
    ///
    /// # Errors
    /// [`DecodeError`], whatever the bytes are.
    pub fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let path = decode_path(d, "changed path")?;
        let flags = d.take_u8("change flags")?;
        // Something was or is there; what is not there did not come from anywhere.
        if flags > 7 || flags & 3 == 0 || flags & 6 == 4 {
            return Err(DecodeError::Invalid { what: "change flags", found: u64::from(flags) });
        }
        let mut entry = |bit| (flags & bit != 0).then(|| Entry::decode(d)).transpose();
        let (before, after) = (entry(1)?, entry(2)?);
        let moved_from = (flags & 4 != 0).then(|| decode_path(d, "former path")).transpose()?;
        Ok(Self { path, before, after, moved_from })
    }

    /// The one change that fills `bytes`.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut d = Decoder::new(bytes);
        let change = Self::decode(&mut d)?;
        d.finish("change")?;
        Ok(change)
    }
}

/// Why a list or a plan cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The file cannot be read or written.
    #[error("reading or writing it")]
    Io(#[from] std::io::Error),
    /// Its bytes are not what they should be.
    #[error("it is damaged")]
    Damaged(#[from] DecodeError),
    /// It is of another kind or version.
    #[error("it is no {0} of this version")]
    Foreign(&'static str),
    /// It is not in path order, or a path stands in it twice.
    #[error("{0}: out of order")]
    Order(RelPath),
    /// What it is made from failed.
    #[error("what it is made from")]
    Source(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Changes that come one by one.
pub type ChangeIter<'a> = Box<dyn Iterator<Item = Result<SideChange, ListError>> + 'a>;

/// What one site changed, in path order; can be read more than once.
pub trait ChangeList {
    /// From the first.
    ///
    /// # Errors
    /// [`ListError`]; each change may have one of its own.
    fn changes(&self) -> Result<ChangeIter<'_>, ListError>;
}

impl ChangeList for [SideChange] {
    fn changes(&self) -> Result<ChangeIter<'_>, ListError> {
        Ok(Box::new(self.iter().cloned().map(Ok)))
    }
}

impl ChangeList for Vec<SideChange> {
    fn changes(&self) -> Result<ChangeIter<'_>, ListError> {
        self.as_slice().changes()
    }
}

/// A list in a file: called for every reading of it.
#[derive(Debug, Clone)]
pub struct ListFile<F>(pub F);

impl<R: Read + 'static, F: Fn() -> std::io::Result<R>> ChangeList for ListFile<F> {
    fn changes(&self) -> Result<ChangeIter<'_>, ListError> {
        let reader = ListReader::new((self.0)()?)?;
        Ok(Box::new(reader))
    }
}

/// BLAKE3 of a list's file without its end: equal lists have equal digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ListDigest(pub [u8; 32]);

/// Writes a list.
#[derive(Debug)]
pub struct ListWriter<W>(FrameWriter<W>);

impl<W: Write> ListWriter<W> {
    /// Begins a list.
    ///
    /// # Errors
    /// The writer's own.
    pub fn new(out: W) -> std::io::Result<Self> {
        FrameWriter::new(out, MAGIC).map(Self)
    }

    /// Appends a change; they come in path order.
    ///
    /// # Errors
    /// The writer's own.
    pub fn push(&mut self, change: &SideChange) -> std::io::Result<()> {
        self.0.push(&change.to_bytes())
    }

    /// Ends the list. The bytes are written, not synced.
    ///
    /// # Errors
    /// The writer's own.
    pub fn finish(self) -> std::io::Result<(W, ListDigest)> {
        self.0.finish().map(|(out, digest)| (out, ListDigest(digest)))
    }
}

/// Reads a list; after an error nothing more comes.
#[derive(Debug)]
pub struct ListReader<R> {
    frames: FrameReader<R>,
    is_failed: bool,
}

impl<R: Read> ListReader<R> {
    /// Begins to read.
    ///
    /// # Errors
    /// [`ListError`].
    pub fn new(source: R) -> Result<Self, ListError> {
        let frames = FrameReader::new(source, MAGIC, "list of changes", CHANGE_MAX)?;
        Ok(Self { frames, is_failed: false })
    }

    /// Reads to the end: how many there are, and the digest of the list.
    ///
    /// # Errors
    /// [`ListError`]: nothing may be done by such a list.
    pub fn read_all(mut self) -> Result<(u64, ListDigest), ListError> {
        let mut count = 0;
        let mut last: Option<RelPath> = None;
        while let Some(change) = self.next_change()? {
            if last.as_ref().is_some_and(|last| *last >= change.path) {
                return Err(ListError::Order(change.path));
            }
            last = Some(change.path);
            count += 1;
        }
        Ok((count, ListDigest(self.frames.digest())))
    }

    fn next_change(&mut self) -> Result<Option<SideChange>, ListError> {
        let Some(frame) = self.frames.next_frame()? else { return Ok(None) };
        Ok(Some(SideChange::from_bytes(frame)?))
    }
}

impl<R: Read> Iterator for ListReader<R> {
    type Item = Result<SideChange, ListError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_failed {
            return None;
        }
        let next = self.next_change().transpose();
        self.is_failed = !matches!(next, Some(Ok(_)));
        next
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::entry::tests::any_entry;

    fn any_change() -> impl Strategy<Value = SideChange> {
        let entry = || proptest::option::of(any_entry());
        (0u32..1000, entry(), entry(), any::<bool>()).prop_filter_map(
            "something was or is there",
            |(name, before, after, is_moved)| {
                let path = RelPath::new(format!("a/{name}").into_bytes()).ok()?;
                before.as_ref().or(after.as_ref())?;
                let moved_from = (is_moved && after.is_some()).then(RelPath::root);
                Some(SideChange { path, before, after, moved_from })
            },
        )
    }

    fn written(changes: &[SideChange]) -> (Vec<u8>, ListDigest) {
        let mut writer = ListWriter::new(Vec::new()).expect("memory");
        changes.iter().for_each(|change| writer.push(change).expect("memory"));
        writer.finish().expect("memory")
    }

    fn read(bytes: &[u8]) -> Result<Vec<SideChange>, ListError> {
        ListReader::new(bytes)?.collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None, ..ProptestConfig::with_cases(64)
        })]

        #[test]
        fn lists_round_trip_and_no_other_bytes_are_a_list(
            changes in prop::collection::vec(any_change(), 0..6), at: prop::sample::Index, bit in 0u8..8,
        ) {
            let (bytes, digest) = written(&changes);
            prop_assert_eq!(&read(&bytes).expect("what was written"), &changes);
            let (again, other) = written(&changes);
            prop_assert_eq!((&again, other), (&bytes, digest));
            let mut damaged = bytes.clone();
            damaged[at.index(bytes.len())] ^= 1 << bit;
            prop_assert!(read(&damaged).is_err());
            prop_assert!(read(&bytes[..at.index(bytes.len())]).is_err(), "cut short");
            let longer = [&bytes[..], b"x"].concat();
            prop_assert!(read(&longer).is_err());
        }

        #[test]
        fn any_bytes_are_a_change_in_its_one_form_or_refused(bytes: Vec<u8>) {
            if let Ok(change) = SideChange::from_bytes(&bytes) {
                prop_assert_eq!(change.to_bytes(), bytes);
            }
        }
    }

    #[test]
    fn a_length_that_the_file_does_not_hold_is_not_reserved() {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(read(&bytes), Err(ListError::Damaged(DecodeError::LimitExceeded { .. }))));
    }

    #[test]
    fn a_list_out_of_order_is_refused_as_a_whole() {
        let change = |name: &str| SideChange {
            path: RelPath::new(name.as_bytes()).expect("a path"),
            before: None,
            after: Some(Entry::Fifo { meta: crate::entry::Metadata::default() }),
            moved_from: None,
        };
        let all = |changes: &[SideChange]| {
            let (bytes, _) = written(changes);
            ListReader::new(&bytes[..]).expect("begins well").read_all()
        };
        assert!(matches!(all(&[change("a"), change("b")]), Ok((2, _))));
        assert!(matches!(all(&[change("b"), change("a")]), Err(ListError::Order(_))));
        assert!(matches!(all(&[change("a"), change("a")]), Err(ListError::Order(_))));
    }
}

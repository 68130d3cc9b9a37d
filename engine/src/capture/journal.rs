//! `capture.journal`: what a [`super::DirtySet`] went through, so that it can be told after a crash.
//!
//! ```text
//! "FSCAPT01", then frames: body length u32 LE, first 16 bytes of the body's BLAKE3, body
//! body: records one after the other, see [`Record`]; the first record of the file is the depth
//! ```
//! Guarantees: what was appended and reads back is what was written, in order; from the first frame that
//! is not whole on, nothing is believed and the reader is told so. A rewrite replaces the file by a
//! rename of a synced one, so that the old or the new one is there at any moment.
//!
//! What survives: a kill of the process, all that was appended; a power cut, what was synced, at most
//! [`super::DirtyConfig::sync_every`] less than that. No more is needed: nobody watched while the
//! machine was down, so everything is looked at afterwards anyway, and the journal only says where first.
//!
//! Frames are numbered, over rewrites and processes. Beside a queue of events that is kept, the ledger of that
//! notes the number before and after each is written: so a journal that lacks what was read is told.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use farshore_core::codec::{DecodeError, Decoder, Encoder};
use farshore_core::entry::decode_path;
use farshore_core::path::RelPath;

use super::ledger::{Ledger, WatchId};

/// The file's name in the state folder.
pub const NAME: &str = "capture.journal";
const FRESH: &str = "capture.journal.new";
const MAGIC: [u8; 8] = *b"FSCAPT01";
const CHECK_LEN: usize = 16;
/// Longest body that is read.
const BODY_MAX: usize = 16 << 20;
/// A body of a rewrite is ended beyond this.
const BODY_AIM: usize = 256 << 10;
/// A file is rewritten when it is this long and four times what it was after the last rewrite.
const REWRITE_MIN: u64 = 1 << 20;
/// Longest reason, in bytes.
const REASON_MAX: usize = 1_024;

/// One step of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record<'a> {
    /// 1: components of an account's path.
    Depth(u64),
    /// 2, 3 (deep): a directory was marked.
    Mark { path: Cow<'a, [u8]>, deep: bool, ms: i64 },
    /// 4: everything was marked.
    Whole { why: Cow<'a, str>, ms: i64 },
    /// 5: accounts went into a cut, with `whole` everything did.
    Take { id: u64, whole: bool, accounts: Cow<'a, [RelPath]> },
    /// 6: a cut is done.
    Done(u64),
    /// 7: a cut was given up; its marks wait again.
    PutBack(u64),
    /// 8, 9: changes are watched from this moment on; no longer.
    Watch { on: bool, ms: i64 },
    /// 10: the number of this frame.
    Frame(u64),
    /// 11: that watch may be kept, and is this one.
    Kept(WatchId),
    /// 12: everything was looked at, from then on and for so long, and every change since was announced.
    Looked { began_ms: i64, took_ms: u64 },
    /// 13, 14 (deep): a directory is to be looked at by the next process, whatever it is told.
    Owed { path: Cow<'a, [u8]>, deep: bool },
    /// 15: it is not any more.
    Paid(Cow<'a, [u8]>),
    /// 16: everything is to be looked at by the next process; of an empty reason, it is not any more.
    OwedWhole(Cow<'a, str>),
}

impl Record<'_> {
    pub(super) fn encode(&self, into: &mut Vec<u8>) {
        let mut e = Encoder::append_to(std::mem::take(into));
        match self {
            Self::Depth(depth) => {
                e.put_u8(1);
                e.put_u64(*depth);
            }
            Self::Mark { path, deep, ms } => {
                e.put_u8(2 + u8::from(*deep));
                e.put_i64(*ms);
                e.put_bytes(path);
            }
            Self::Whole { why, ms } => {
                e.put_u8(4);
                e.put_i64(*ms);
                e.put_bytes(&why.as_bytes()[..why.floor_char_boundary(REASON_MAX)]);
            }
            Self::Take { id, whole, accounts } => {
                e.put_u8(5);
                e.put_u64(*id);
                e.put_u8(u8::from(*whole));
                e.put_u64(accounts.len() as u64);
                accounts.iter().for_each(|account| e.put_bytes(account.as_bytes()));
            }
            Self::Done(id) => {
                e.put_u8(6);
                e.put_u64(*id);
            }
            Self::PutBack(id) => {
                e.put_u8(7);
                e.put_u64(*id);
            }
            Self::Watch { on, ms } => {
                e.put_u8(if *on { 8 } else { 9 });
                e.put_i64(*ms);
            }
            Self::Frame(number) => {
                e.put_u8(10);
                e.put_u64(*number);
            }
            Self::Kept(id) => {
                e.put_u8(11);
                e.put_raw(id);
            }
            Self::Looked { began_ms, took_ms } => {
                e.put_u8(12);
                e.put_i64(*began_ms);
                e.put_u64(*took_ms);
            }
            Self::Owed { path, deep } => {
                e.put_u8(13 + u8::from(*deep));
                e.put_bytes(path);
            }
            Self::Paid(path) => {
                e.put_u8(15);
                e.put_bytes(path);
            }
            Self::OwedWhole(why) => {
                e.put_u8(16);
                e.put_bytes(&why.as_bytes()[..why.floor_char_boundary(REASON_MAX)]);
            }
        }
        *into = e.finish();
    }

    fn decode(d: &mut Decoder<'_>) -> Result<Record<'static>, DecodeError> {
        Ok(match d.take_u8("capture record")? {
            1 => Record::Depth(d.take_u64("account depth")?),
            tag @ (2 | 3) => {
                let ms = d.take_i64("time of a mark")?;
                let path = decode_path(d, "marked directory")?;
                Record::Mark { path: path.as_bytes().to_vec().into(), deep: tag == 3, ms }
            }
            4 => {
                let ms = d.take_i64("time of a mark")?;
                Record::Whole { why: d.take_text("reason", REASON_MAX)?.into(), ms }
            }
            5 => {
                let id = d.take_u64("cut")?;
                let whole = match d.take_u8("whole")? {
                    0 => false,
                    1 => true,
                    found => {
                        let found = u64::from(found);
                        return Err(DecodeError::Invalid { what: "whole", found });
                    }
                };
                let count = d.take_len("accounts", d.remaining())?;
                let mut accounts = Vec::new();
                for _ in 0..count {
                    accounts.push(decode_path(d, "account")?);
                }
                Record::Take { id, whole, accounts: accounts.into() }
            }
            6 => Record::Done(d.take_u64("cut")?),
            7 => Record::PutBack(d.take_u64("cut")?),
            tag @ (8 | 9) => Record::Watch { on: tag == 8, ms: d.take_i64("time of a watch")? },
            10 => Record::Frame(d.take_u64("frame")?),
            11 => Record::Kept(d.take_array("identity of a watch")?),
            12 => {
                let began_ms = d.take_i64("time of a look")?;
                Record::Looked { began_ms, took_ms: d.take_u64("length of a look")? }
            }
            tag @ (13 | 14) => {
                let path = decode_path(d, "owed directory")?;
                Record::Owed { path: path.as_bytes().to_vec().into(), deep: tag == 14 }
            }
            15 => Record::Paid(decode_path(d, "owed directory")?.as_bytes().to_vec().into()),
            16 => Record::OwedWhole(d.take_text("reason", REASON_MAX)?.into()),
            other => {
                let found = u64::from(other);
                return Err(DecodeError::Invalid { what: "capture record", found });
            }
        })
    }
}

/// What a file said.
#[derive(Debug, Default)]
pub(super) struct ReadBack {
    /// In order.
    pub(super) records: Vec<Record<'static>>,
    /// From this byte on it is not believed.
    pub(super) damaged_at: Option<usize>,
}

impl ReadBack {
    /// The watch that may have been kept, if it was on to the end.
    pub(super) fn watch(&self) -> Option<WatchId> {
        let watch = |record: &Record<'_>| match record {
            Record::Kept(id) => Some(Some(*id)),
            Record::Watch { .. } => Some(None),
            _ => None,
        };
        self.records.iter().rev().find_map(watch).flatten()
    }

    /// The number of the last frame; 0 of one that has none.
    pub(super) fn frame(&self) -> u64 {
        let number = |record: &Record<'_>| match record {
            Record::Frame(number) => Some(*number),
            _ => None,
        };
        self.records.iter().rev().find_map(number).unwrap_or(0)
    }
}

/// Reads the journal of `folder`; `None` when there is none.
///
/// # Errors
/// The file system's own.
pub(super) fn read(folder: &Path) -> io::Result<Option<ReadBack>> {
    match fs::read(folder.join(NAME)) {
        Ok(bytes) => Ok(Some(read_back(&bytes))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn read_back(bytes: &[u8]) -> ReadBack {
    let mut back = ReadBack::default();
    let Some(mut rest) = bytes.strip_prefix(&MAGIC) else {
        back.damaged_at = Some(0);
        return back;
    };
    while !rest.is_empty() {
        let at = bytes.len() - rest.len();
        let Some((records, after)) = read_frame(rest, back.records.is_empty()) else {
            back.damaged_at = Some(at);
            return back;
        };
        back.records.extend(records);
        rest = after;
    }
    if back.records.is_empty() {
        back.damaged_at = Some(bytes.len());
    }
    back
}

/// The records of the frame at the front, and what follows it; all of them or none.
fn read_frame(bytes: &[u8], is_first: bool) -> Option<(Vec<Record<'static>>, &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (check, rest) = rest.split_first_chunk::<CHECK_LEN>()?;
    let len = usize::try_from(u32::from_le_bytes(*len)).ok().filter(|len| *len <= BODY_MAX)?;
    let (body, rest) = rest.split_at_checked(len)?;
    if blake3::hash(body).as_bytes()[..CHECK_LEN] != *check {
        return None;
    }
    let mut d = Decoder::new(body);
    let mut records = Vec::new();
    while d.remaining() > 0 {
        records.push(Record::decode(&mut d).ok()?);
    }
    if is_first && !matches!(records.first(), Some(Record::Depth(_))) {
        return None;
    }
    Some((records, rest))
}

fn put_frame(body: &[u8], into: &mut Vec<u8>) -> io::Result<()> {
    let len = u32::try_from(body.len()).ok().filter(|_| body.len() <= BODY_MAX);
    let len = len.ok_or_else(|| io::Error::other("a frame of the capture journal is too long"))?;
    into.extend(len.to_le_bytes());
    into.extend(&blake3::hash(body).as_bytes()[..CHECK_LEN]);
    into.extend(body);
    Ok(())
}

/// A whole file, built record by record.
#[derive(Debug)]
pub(super) struct Snapshot {
    file: Vec<u8>,
    body: Vec<u8>,
}

impl Snapshot {
    pub(super) fn new() -> Self {
        Self { file: MAGIC.to_vec(), body: Vec::new() }
    }

    pub(super) fn put(&mut self, record: &Record<'_>) {
        record.encode(&mut self.body);
        if self.body.len() > BODY_AIM {
            self.end_frame();
        }
    }

    fn end_frame(&mut self) {
        // A body is ended long before it is too long for a frame.
        if put_frame(&self.body, &mut self.file).is_ok() {
            self.body.clear();
        }
    }

    fn finish(mut self) -> Vec<u8> {
        if !self.body.is_empty() {
            self.end_frame();
        }
        self.file
    }
}

/// The file that is written.
#[derive(Debug)]
pub(super) struct JournalFile {
    folder: PathBuf,
    /// None until the first rewrite, and after a failure.
    file: Option<File>,
    len: u64,
    len_rewritten: u64,
    sync_every: Duration,
    synced: Instant,
    has_unsynced: bool,
    /// The last rewrite failed, then.
    failed: Option<Instant>,
    /// The number of the last frame.
    frame: u64,
    /// Of a watch that may be kept.
    ledger: Option<Ledger>,
}

impl JournalFile {
    /// Nothing is written before the first [`Self::rewrite`].
    /// `frame` is the number of the last frame that was there before.
    pub(super) fn new(folder: &Path, sync_every: Duration, frame: u64) -> Self {
        Self {
            folder: folder.to_path_buf(),
            file: None,
            len: 0,
            len_rewritten: 0,
            sync_every,
            synced: Instant::now(),
            has_unsynced: false,
            failed: None,
            frame,
            ledger: None,
        }
    }

    /// From now on `ledger` is told of every frame.
    pub(super) fn note_in(&mut self, ledger: Ledger) {
        // Of a frame that was cut off it says the same until that is written over.
        if ledger.written() != self.frame {
            ledger.journal_is_at(self.frame);
        }
        self.ledger = Some(ledger);
    }

    /// A frame is about to be written; its number.
    fn begin_frame(&mut self) -> u64 {
        let number = self.frame + 1;
        if let Some(ledger) = &self.ledger {
            ledger.begins_frame(number);
        }
        number
    }

    fn end_frame(&mut self, number: u64) {
        self.frame = number;
        if let Some(ledger) = &self.ledger {
            ledger.journal_is_at(number);
        }
    }

    /// Whether the last flush wrote all there was.
    pub(super) fn note_failure(&self, failed: bool) {
        if let Some(ledger) = &self.ledger {
            ledger.journal_failed(failed);
        }
    }

    /// Whether a write would fail as the last one did a moment ago: a full disk is not asked for room by
    /// every event.
    pub(super) fn is_resting(&self) -> bool {
        self.failed.is_some_and(|at| at.elapsed() < self.sync_every)
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Whether the next write must be a rewrite.
    pub(super) fn wants_rewrite(&self) -> bool {
        self.file.is_none() || (self.len >= REWRITE_MIN && self.len / 4 >= self.len_rewritten)
    }

    /// Replaces the file, durably.
    pub(super) fn rewrite(&mut self, mut snapshot: Snapshot) -> io::Result<()> {
        (self.file, self.failed) = (None, Some(Instant::now()));
        let number = self.begin_frame();
        // Last, so that one that is cut off lacks it.
        snapshot.put(&Record::Frame(number));
        let bytes = snapshot.finish();
        let fresh = self.folder.join(FRESH);
        let mut file = File::create(&fresh)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, self.folder.join(NAME))?;
        self.end_frame(number);
        File::open(&self.folder)?.sync_all()?;
        self.len = bytes.len() as u64;
        self.len_rewritten = self.len;
        (self.file, self.failed) = (Some(file), None);
        (self.synced, self.has_unsynced) = (Instant::now(), false);
        Ok(())
    }

    /// Appends records, synced when that is due.
    pub(super) fn append(&mut self, records: &[u8]) -> io::Result<()> {
        let number = if records.is_empty() { self.frame } else { self.begin_frame() };
        let Some(file) = &mut self.file else { return Err(io::ErrorKind::NotFound.into()) };
        if !records.is_empty() {
            let mut body = Vec::with_capacity(records.len() + 16);
            Record::Frame(number).encode(&mut body);
            body.extend(records);
            let mut frame = Vec::with_capacity(body.len() + 4 + CHECK_LEN);
            let written = put_frame(&body, &mut frame).and_then(|()| file.write_all(&frame));
            if written.is_err() {
                // Part of a frame may be there: nothing that follows it would be believed.
                self.file = None;
                return written;
            }
            self.len += frame.len() as u64;
            self.has_unsynced = true;
            self.end_frame(number);
        }
        let Some(file) = &mut self.file else { return Err(io::ErrorKind::NotFound.into()) };
        if self.has_unsynced && self.synced.elapsed() >= self.sync_every {
            let synced = file.sync_data();
            if synced.is_err() {
                self.file = None;
                return synced;
            }
            (self.synced, self.has_unsynced) = (Instant::now(), false);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_kinds() -> Vec<Record<'static>> {
        let path = |bytes: &[u8]| RelPath::new(bytes).expect("valid");
        vec![
            Record::Depth(2),
            Record::Mark { path: b"a/\xff b".to_vec().into(), deep: false, ms: -5 },
            Record::Mark { path: Vec::new().into(), deep: true, ms: 1 << 40 },
            Record::Whole { why: "so it was".into(), ms: 7 },
            Record::Take { id: 9, whole: true, accounts: vec![path(b""), path(b"a/b")].into() },
            Record::Done(9),
            Record::PutBack(10),
            Record::Watch { on: true, ms: 1 },
            Record::Watch { on: false, ms: 2 },
            Record::Frame(3),
            Record::Kept([7; 16]),
            Record::Looked { began_ms: 5, took_ms: 6 },
            Record::Owed { path: b"a".to_vec().into(), deep: false },
            Record::Owed { path: b"b".to_vec().into(), deep: true },
            Record::Paid(b"a".to_vec().into()),
            Record::OwedWhole("why".into()),
        ]
    }

    fn file_of(frames: &[&[Record<'_>]]) -> Vec<u8> {
        let mut file = MAGIC.to_vec();
        for frame in frames {
            let mut body = Vec::new();
            frame.iter().for_each(|record| record.encode(&mut body));
            put_frame(&body, &mut file).expect("short");
        }
        file
    }

    #[test]
    fn records_round_trip_and_damage_anywhere_ends_the_belief_there() {
        let records = all_kinds();
        let file = file_of(&[&records[..4], &records[4..7], &records[7..]]);
        let whole = read_back(&file);
        assert_eq!((whole.records, whole.damaged_at), (records.clone(), None));
        for at in 0..file.len() {
            for bit in [0x01, 0x80] {
                let mut damaged = file.clone();
                damaged[at] ^= bit;
                let back = read_back(&damaged);
                assert!(back.damaged_at.is_some_and(|found| found <= at), "byte {at}");
                assert!(records.starts_with(&back.records), "byte {at}");
            }
            let cut = read_back(&file[..at]);
            assert!(records.starts_with(&cut.records), "cut to {at}");
            // Cut between two frames it is a shorter journal, as if synced that far.
            assert!(cut.damaged_at.is_some() || [4, 7].contains(&cut.records.len()), "cut to {at}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_body_is_records_or_refused(body: Vec<u8>) {
            let mut file = file_of(&[&[Record::Depth(1)]]);
            put_frame(&body, &mut file).expect("short");
            let back = read_back(&file);
            let again = file_of(&[&back.records]);
            assert_eq!(read_back(&again).records, back.records);
        }
    }

    #[test]
    fn a_file_grows_by_appends_and_a_rewrite_is_asked_for_in_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = JournalFile::new(folder.path(), Duration::ZERO, 0);
        assert!(journal.wants_rewrite());
        let mut snapshot = Snapshot::new();
        snapshot.put(&Record::Depth(1));
        journal.rewrite(snapshot).expect("written");
        let mut body = Vec::new();
        (0..30_000i64).for_each(|ms| Record::Watch { on: true, ms }.encode(&mut body));
        while !journal.wants_rewrite() {
            journal.append(&body).expect("appended");
            assert!(journal.len() < 2 * REWRITE_MIN);
        }
        let back = read(folder.path()).expect("read").expect("there");
        // The depth and a number, and a number before each 30,000.
        assert_eq!((back.records.len() % 30_001, back.damaged_at), (2, None));
        assert_eq!(back.frame(), 1 + (back.records.len() / 30_001) as u64);
    }
}

//! Reading a target byte by byte, for ever, a slice at a time.
//!
//! A standby is written by nobody but Farshore, and read by nobody for months: what others wrote there and
//! what rots unseen is found here, before the day it is needed. Guarantees: every file that has a record
//! is read whole and its content computed anew from the bytes; a finding is confirmed by a second look,
//! after a while, so that a batch being applied is none; what is found is recorded as it is, so that the
//! roots of the two ends differ and the source sends what should be there, which moves the other version
//! into history. Nothing in the tree is changed here, and nothing is concluded from what cannot be read.
//!
//! It runs beside sessions: a record that changed between the look and the finding is somebody's work.
//! After a crash nothing of a slice is known; the caller keeps its cursor.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use farshore_core::chunking::Chunker;
use farshore_core::entry::EntryKind;
use farshore_core::path::RelPath;
use redb::Durability;

use crate::catalog::{Catalog, CatalogReader, LocalFacts, Record};
use crate::check::check_parts;
use crate::io::{Object, Storage};
use crate::observe::describe_file;
use crate::plan::{Part, PlanError, Problem, Scope};

/// A slice ends when so many records were passed,
const RECORDS_MAX: usize = 4_096;
/// or so many bytes read; a file is read whole whatever its size.
const BYTES_MAX: u64 = 64 << 20;

/// What a slice came to.
#[derive(Debug, Default)]
pub struct Slice {
    /// Where the next one begins; none when the share is through.
    pub next: Option<RelPath>,
    /// Files whose content is as it was applied.
    pub verified: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Files that are not as their records say: to be confirmed.
    pub suspects: Vec<RelPath>,
    /// Directories passed, of which others may have changed what lies in them.
    pub directories: Vec<RelPath>,
    /// What cannot be read.
    pub problems: Vec<Problem>,
}

/// What was confirmed.
#[derive(Debug, Default)]
pub struct Findings {
    /// Files whose content is not what was applied although nobody wrote to them.
    pub rotten: Vec<RelPath>,
    /// Entries that others made, changed or removed.
    pub foreign: u64,
    /// What cannot be read.
    pub problems: Vec<Problem>,
}

impl Findings {
    /// All of them.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.rotten.len() as u64 + self.foreign
    }
}

/// Reads the files behind `after`, so many.
///
/// # Errors
/// [`PlanError::Catalog`]; what cannot be read is in the slice.
pub fn scrub<S: Storage>(
    storage: &S,
    catalog: &Catalog,
    after: &RelPath,
    stop: &AtomicBool,
) -> Result<Slice, PlanError> {
    let reader = catalog.reader()?;
    let mut slice = Slice::default();
    if after.is_root() {
        slice.directories.push(RelPath::root());
    }
    let mut chunker = None;
    for (count, record) in reader.records_after(after)?.enumerate() {
        if count >= RECORDS_MAX || slice.bytes >= BYTES_MAX || stop.load(Relaxed) {
            break;
        }
        let (path, record) = record?;
        slice.next = Some(path.clone());
        match record.entry.kind() {
            EntryKind::Directory => slice.directories.push(path),
            EntryKind::File => {
                let same = read(storage, &reader, &path, &record, &mut chunker)?;
                slice.bytes = slice.bytes.saturating_add(record.entry.size());
                match same {
                    Read::Same => slice.verified += 1,
                    Read::Other => slice.suspects.push(path),
                    Read::Not(text) => slice.problems.push(Problem { path, text }),
                }
            }
            _ => {}
        }
    }
    Ok(slice)
}

enum Read {
    Same,
    /// Not as its record says, or not there.
    Other,
    Not(String),
}

/// Reads a file whole and compares it with its record.
fn read<S: Storage>(
    storage: &S,
    reader: &CatalogReader,
    path: &RelPath,
    record: &Record,
    chunker: &mut Option<Chunker>,
) -> Result<Read, PlanError> {
    let Some((parent, name)) = path.split() else { return Ok(Read::Same) };
    let expected = reader.expected(&record.entry)?;
    let opened = storage.open_directory(storage.root(), parent.as_bytes());
    let directory = match opened {
        Ok(directory) => directory,
        Err(e) if is_gone(&e) => return Ok(Read::Other),
        Err(e) => return Ok(Read::Not(format!("opening its directory: {e}"))),
    };
    match storage.stat(Object::Named(&directory, name)) {
        Ok(_) => {}
        Err(e) if is_gone(&e) => return Ok(Read::Other),
        Err(e) => return Ok(Read::Not(format!("looking at it: {e}"))),
    }
    match describe_file(storage, &directory, name, expected.as_ref(), chunker) {
        Ok((entry, ..)) if entry == record.entry => Ok(Read::Same),
        Ok(_) => Ok(Read::Other),
        Err(e) if e.is_vanished() => Ok(Read::Other),
        Err(e) => Ok(Read::Not(crate::ingest::describe(&e))),
    }
}

fn is_gone(e: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(e.kind(), K::NotFound | K::NotADirectory)
}

/// Looks again at what a slice suspects, and at what lies in its directories, and records what is found
/// to be other than it was applied. To be called a while after the slice: longer than a batch takes.
///
/// # Errors
/// [`PlanError`]; what cannot be read is among the findings.
pub fn confirm<S: Storage>(
    storage: &S,
    catalog: &Catalog,
    slice: Slice,
    spool_folder: &Path,
) -> Result<Findings, PlanError> {
    let mut findings = Findings { problems: slice.problems, ..Findings::default() };
    let mut chunker = None;
    for path in slice.suspects {
        let reader = catalog.reader()?;
        let Some(record) = reader.get(&path)? else { continue };
        let Read::Other = read(storage, &reader, &path, &record, &mut chunker)? else { continue };
        let Some((parent, name)) = path.split() else { continue };
        let facts = storage
            .open_directory(storage.root(), parent.as_bytes())
            .and_then(|directory| storage.stat(Object::Named(&directory, name)))
            .map(|stat| LocalFacts::of(&stat));
        // What others touched is found with all else in its directory.
        if !matches!((&facts, record.facts), (Ok(now), Some(then)) if *now == then) {
            continue;
        }
        // Without facts of ours it is looked at whole, and recorded as it is.
        let unknown = Record { facts: None, ..record.clone() };
        let marked = catalog.update(Durability::None, |t| {
            let is_same = t.get(&path)?.is_some_and(|now| now == record);
            if is_same {
                t.put(&path, &unknown)?;
            }
            Ok(is_same)
        })?;
        if marked {
            findings.rotten.push(path);
        }
    }
    let parents = findings.rotten.iter().filter_map(|path| Some(path.split()?.0));
    let directories = slice.directories.into_iter().chain(parents);
    let scope = Scope::new(directories.map(|directory| Part { directory, deep: false }));
    let report = check_parts(storage, catalog, &scope, spool_folder)?;
    findings.foreign = report.foreign_changes.saturating_sub(findings.rotten.len() as u64);
    findings.problems.extend(report.problems);
    Ok(findings)
}

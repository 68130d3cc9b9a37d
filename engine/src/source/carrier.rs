//! The threads that carry files ahead of their cuts.
//!
//! A carrier takes the file whose turn it is, asks what the target holds, and sends the rest on a stream of its
//! own, behind all that cuts have to send: chunks of the former version, of what was carried before,
//! or of anything else the target has are only named, as in a batch. Guarantees: what is ready was read
//! between two equal looks and is durable at the target; a file that is gone is given up within a
//! second or so of reading. Holds one file's recipe and what a batch holds while it is written.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use farshore_core::entry::Entry;
use farshore_core::path::RelPath;
use farshore_core::recipe::ChunkId;
use farshore_proto::batch::BatchHeader;
use farshore_proto::link::{Link, LinkError};
use farshore_proto::message::FailureKind;

use super::ahead::{AheadDesk, Outcome, Task};
use super::{Event, SourceConfig, SourceError, caught};
use crate::catalog::Catalog;
use crate::frames::{FrameWriter, LineGauge};
use crate::ingest::{Ingest, IngestError, ReadAhead, RunIndex, SignDesk, describe};
use crate::io::{FileKind, Object, Stat, Storage};
use crate::observe::{ObserveError, SystemStep, describe_file};
use crate::progress::Progress;

/// How often a file is looked for while it is read.
const LOOK: Duration = Duration::from_secs(1);
/// Bytes that say how fast a line is.
const RATED_MIN: u64 = 8 << 20;
/// How long a file whose last change carries the present time is waited for, at most.
const RACY_MAX: Duration = Duration::from_secs(3);

pub(super) struct Carrier<'a, S: Storage> {
    pub(super) storage: &'a S,
    pub(super) catalog: &'a Catalog,
    pub(super) link: &'a dyn Link,
    pub(super) config: &'a SourceConfig<'a>,
    pub(super) progress: &'a Progress,
    pub(super) sign_desk: &'a SignDesk<'a>,
    pub(super) desk: &'a AheadDesk,
    pub(super) gauge: &'a LineGauge,
    pub(super) events: Sender<Event>,
}

impl<S: Storage> Carrier<'_, S> {
    /// Carries files until the session ends.
    pub(super) fn run(&self) {
        while let Some(task) = self.desk.next_task() {
            match caught(|| self.attempt(&task)) {
                Ok(Some(outcome)) => self.desk.ended(&task.path, outcome),
                Ok(None) => return,
                Err(e) => {
                    // Who ends the session knows better why a link is gone.
                    if !self.desk.is_over() {
                        drop(self.events.send(Event::Failed(e)));
                    }
                    return;
                }
            }
        }
    }

    /// One attempt; `None` when the session ends.
    fn attempt(&self, task: &Task) -> Result<Option<Outcome>, SourceError> {
        let before = match self.rested(&task.path) {
            Ok(Some(stat)) => stat,
            Ok(None) => return Ok(Some(Outcome::Gone)),
            Err(e) => return Ok(Some(Outcome::Unreadable(describe(&e)))),
        };
        match self.as_moved(task, &before) {
            Ok(Some(read)) => return Ok(Some(Outcome::Ready(read))),
            Ok(None) => {}
            Err(Failed::Entry(e)) => return Ok(Some(outcome_of(e))),
            Err(Failed::All(e)) => return Err(e),
        }
        let Some(held) = self.desk.held(self.desk.ask(self.link, None)?) else { return Ok(None) };
        let index = RunIndex::default();
        held.contents.iter().for_each(|held| index.hold(held.content, &held.recipe));
        index.distrust(held.distrusted);
        self.send(&task.path, &before, &index)
    }

    fn stat(&self, path: &RelPath) -> Result<Option<Stat>, ObserveError> {
        let Some((parent, name)) = path.split() else { return Ok(None) };
        let storage = self.storage;
        let stat = storage
            .open_directory(storage.root(), parent.as_bytes())
            .and_then(|directory| storage.stat(Object::Named(&directory, name)))
            .at_step("looking at it");
        match stat {
            Ok(stat) => Ok((stat.kind == FileKind::Regular).then_some(stat)),
            Err(e) if e.is_vanished() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Its facts once its last change is so long ago that a later one carries another time; `None` when
    /// no such file is there.
    fn rested(&self, path: &RelPath) -> Result<Option<Stat>, ObserveError> {
        let until = Instant::now() + RACY_MAX;
        loop {
            let Some(stat) = self.stat(path)? else { return Ok(None) };
            let age = (self.config.now)().nanos_since(stat.ctime);
            if age >= self.config.racy_ns || Instant::now() >= until || self.desk.is_over() {
                return Ok(Some(stat));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The file, when it is what the target has under another name: nothing of it is sent then.
    fn as_moved(&self, task: &Task, before: &Stat) -> Result<Option<ReadAhead>, Failed> {
        let reader = self.catalog.reader()?;
        let Some(from) = &task.moved_from else { return Ok(None) };
        let Some(known) = reader.get(from)?.map(|record| record.entry) else { return Ok(None) };
        if known.size() != before.size {
            return Ok(None);
        }
        let expected = reader.expected(&known)?;
        let Some((parent, name)) = task.path.split() else { return Ok(None) };
        let storage = self.storage;
        let directory = storage
            .open_directory(storage.root(), parent.as_bytes())
            .at_step("opening its directory")?;
        let seen = (self.config.now)();
        let described = describe_file(storage, &directory, name, expected.as_ref(), &mut None)?;
        let (entry, recipe, stat) = described;
        let same = known.same_but_metadata(&entry);
        let recipe = recipe.map(std::sync::Arc::new);
        // It was read after it was looked at.
        let settled = seen.nanos_since(stat.ctime) >= self.config.racy_ns;
        Ok(same.then_some(ReadAhead { entry, recipe, stat, settled }))
    }

    fn send(
        &self,
        path: &RelPath,
        before: &Stat,
        index: &RunIndex,
    ) -> Result<Option<Outcome>, SourceError> {
        let number = self.desk.next_number();
        let header = BatchHeader::ahead(number, self.config.epoch);
        let profile = self.config.profile;
        let mut writer = self
            .desk
            .opening(|| FrameWriter::begin_ahead(self.link, header, self.gauge, profile))?;
        let (gone, began) = (AtomicBool::new(false), Instant::now());
        let looked = Mutex::new(Instant::now());
        let is_over = || {
            let Ok(mut looked) = looked.lock() else { return true };
            if looked.elapsed() < LOOK {
                return false;
            }
            *looked = Instant::now();
            let there = self.stat(path);
            gone.store(matches!(there, Ok(None)), Relaxed);
            // Another one in its place is a change.
            let same = there.is_ok_and(|stat| stat.is_some_and(|s| s.inode == before.inode));
            !same || self.desk.is_dismissed(path)
        };
        let own = Arc::new(Progress::default());
        let travelling = self.progress.begin_travel(path, before.size, &own);
        let reader = self.catalog.reader()?;
        let (config, now) = (self.config, self.config.now);
        let mut ingest =
            Ingest::new(self.storage, reader, index, self.sign_desk, &own, now, config.racy_ns);
        ingest.helped = Some(profile);
        ingest.is_over = Some(&is_over);
        let read = ingest.carry(number, path, &mut writer);
        Progress::add(&self.progress.ahead_bytes, own.literal_bytes.load(Relaxed));
        let read = read?;
        let bytes = writer.finish()?;
        let Some(receipt) = self.desk.receipt(number) else { return Ok(None) };
        drop(travelling);
        // Of a file that was mostly there already it says how fast that was read.
        if bytes >= RATED_MIN.max(before.size / 2) {
            let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            let rate = bytes.saturating_mul(1_000) / millis.max(1);
            self.progress.line_rate.store(rate, Relaxed);
        }
        if gone.load(Relaxed) {
            return Ok(Some(Outcome::Gone));
        }
        let read = match read {
            Ok(read) => read,
            Err(e) => return Ok(Some(outcome_of(e))),
        };
        Ok(Some(match receipt.failures.into_iter().next() {
            None => Outcome::Ready(read),
            Some(failure) => match failure.kind {
                FailureKind::Basis(chunks) if chunks.is_empty() => {
                    Outcome::Lacks(content_of(&read.entry))
                }
                FailureKind::Basis(chunks) => Outcome::Lacks(chunks),
                FailureKind::NoSpace { free, .. } => Outcome::NoRoom { needed: before.size, free },
                FailureKind::Refused => Outcome::Refused(failure.text),
            },
        }))
    }
}

fn content_of(entry: &Entry) -> Vec<ChunkId> {
    entry.content().map(|content| ChunkId(content.0)).into_iter().collect()
}

/// How an attempt ended that met `e`.
fn outcome_of(e: ObserveError) -> Outcome {
    match e {
        ObserveError::Changed => Outcome::Changed,
        e if e.is_vanished() => Outcome::Gone,
        e => Outcome::Unreadable(describe(&e)),
    }
}

/// Why a file could not be read, or all fails.
enum Failed {
    Entry(ObserveError),
    All(SourceError),
}

impl From<ObserveError> for Failed {
    fn from(e: ObserveError) -> Self {
        Self::Entry(e)
    }
}

impl From<crate::catalog::CatalogError> for Failed {
    fn from(e: crate::catalog::CatalogError) -> Self {
        Self::All(e.into())
    }
}

impl From<LinkError> for Failed {
    fn from(e: LinkError) -> Self {
        Self::All(IngestError::from(e).into())
    }
}

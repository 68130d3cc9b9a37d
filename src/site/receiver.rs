//! The receiving end of a share: a target that stands ready for as long as the daemon runs.
//!
//! Guarantees: what a crash interrupted is finished when the daemon starts, whether the source is there or
//! not; one session at a time writes the tree, the latest of its source's; what is told of the
//! share is what was made durable. A session that fails leaves the share as its journal says, and the
//! next one finishes that.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver as Queue, Sender as Told, bounded};
use farshore_core::path::RelPath;
use farshore_core::recovery_point::RecoveryPoint;
use farshore_engine::catalog::{Catalog, CatalogError, CatalogReader};
use farshore_engine::io::Storage;
use farshore_engine::io::uring::UringStorage;
use farshore_engine::stage::StageConfig;
use farshore_engine::target::{self, Observer, TargetConfig, TargetError, TargetReport};
use farshore_proto::link::Link;
use farshore_proto::message::{
    Beat, Behind, Failure as Failed, FailureKind, Holds, Message, Receipt, Unsealed, Welcome,
};
use farshore_transport::QuicLink;

use crate::exit::{Exit, Failure};
use crate::replicate::{TargetOptions, remote_threads};
use crate::site::announce::KeyTalk;
use crate::site::board::facts::{AtRisk, Bound, Hold, ShareState};
use crate::site::board::{ShareBoard, account_name};
use crate::state::{now_ms, path_bytes};

/// Words about foreign entries that wait for the session.
const FOREIGN_MAX: usize = 64;

/// The receiving end of a share.
#[derive(Debug)]
pub struct Receiver {
    share: String,
    /// Where it is, as its source is told.
    root: Vec<u8>,
    storage: Arc<UringStorage>,
    catalog: Arc<Catalog>,
    folder: PathBuf,
    options: TargetOptions,
    board: ShareBoard,
    foreign: Queue<u64>,
    tell: Told<u64>,
    mended: Arc<Mended>,
}

/// What was found to be other than it was applied, and has been sent again since.
#[derive(Debug, Default)]
struct Mended {
    waits: AtomicU64,
    done: AtomicU64,
}

/// Posts what a session makes durable.
#[derive(Debug)]
struct Posts {
    board: ShareBoard,
    catalog: Arc<Catalog>,
    storage: Arc<UringStorage>,
    root: Vec<u8>,
    too_large: Mutex<BTreeMap<RelPath, u64>>,
    /// As was shown last.
    behind: Mutex<Option<Behind>>,
    mended: Arc<Mended>,
    talk: KeyTalk,
    line: QuicLink,
}

impl Observer for Posts {
    fn began(&self, welcome: &Welcome) {
        self.board.heard_from_source();
        self.board.state(ShareState::Replicating, None);
        if let Some(point) = &welcome.recovery_point {
            self.board.recovery_point(point);
        }
        // Of a tree that nobody sealed nothing was ours: what is in it is no change by others.
        if welcome.foreign_changes > 0 && welcome.recovery_point.is_some() {
            self.board.foreign(welcome.foreign_changes, 0, 0);
            self.mended.waits.fetch_add(welcome.foreign_changes, Relaxed);
        }
    }

    fn keys(&self, said: &[u8]) -> Option<Vec<u8>> {
        self.talk.hear(said);
        self.talk.said()
    }

    fn holds(&self, holds: &Holds) {
        self.board.heard_from_source();
        show_holds(&self.board, holds);
        self.show_behind();
    }

    fn behind(&self, behind: &Behind) {
        let mut shown = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
        let is_other = shown.as_ref() != Some(behind);
        *shown = Some(behind.clone());
        drop(shown);
        if is_other {
            self.show_behind();
        }
    }

    fn beat(&self, beat: &Beat, round_trip: Duration) -> Option<Beat> {
        let now = now_ms();
        let way = i64::try_from(round_trip.as_millis()).unwrap_or(i64::MAX);
        self.board.clock_sample(now.saturating_sub(way), beat.time_unix_ms, now);
        self.board.heard_from_source();
        let stats = self.line.stats();
        self.board.link(stats.rtt, stats.sent_bytes, stats.received_bytes);
        self.board.peer_path(&beat.path);
        if let Some(Unsealed { files, bytes, is_all }) = beat.unsealed {
            let bound = match is_all {
                None => Bound::Unknown,
                Some(true) => Bound::AtMost,
                Some(false) => Bound::AtLeast,
            };
            self.board.at_risk(AtRisk { files, bytes, bound });
        }
        Some(Beat {
            time_unix_ms: now_ms(),
            answers_unix_ms: Some(beat.time_unix_ms),
            path: self.root.clone(),
            free_bytes: self.storage.free_bytes().ok(),
            unsealed: None,
        })
    }

    fn applied(&self, receipt: &Receipt) {
        self.board.heard_from_source();
        self.board.state(ShareState::Replicating, None);
        for Failed { path, kind, .. } in &receipt.failures {
            if let FailureKind::NoSpace { needed, free } = kind {
                let text = format!("no space for {path} ({needed} bytes needed, {free} free)");
                self.board.problem(&RelPath::root(), &text);
                self.lock_too_large().insert(path.clone(), *needed);
            }
        }
    }

    fn sealed(&self, point: &RecoveryPoint) {
        self.board.heard_from_source();
        self.board.sealed(point);
        self.board.state(ShareState::Idle, None);
        self.forget_what_fits(point);
        // The roots are equal again: whatever was found is as the source has it.
        let mended = self.mended.waits.swap(0, Relaxed);
        if mended > 0 {
            self.mended.done.fetch_add(mended, Relaxed);
            self.board.foreign(0, mended, mended);
        }
    }
}

/// Shows what the source holds.
fn show_holds(board: &ShareBoard, holds: &Holds) {
    let shown = holds.first.iter().map(|held| Hold {
        id: held.id.clone(),
        account: account_name(&held.account),
        reasons: vec![held.reason.clone()],
        counts: ["created", "deleted", "rewritten", "moved"]
            .into_iter()
            .map(str::to_owned)
            .zip(held.counts)
            .collect(),
        since_unix_ms: held.since_unix_ms,
        last_good_point: held.point.map(|(sequence, _)| sequence),
        point_unix_ms: held.point.map(|(_, time)| time).filter(|time| *time != 0),
        rejected_unix_ms: held.rejected_unix_ms,
        ..Hold::default()
    });
    board.holds_elsewhere(shown.collect(), holds.total);
}

/// Shows which accounts are behind, as the catalog has it: what is held, and what the last point lacks for a
/// large file.
fn show_behind(board: &ShareBoard, reader: &CatalogReader) -> Result<(), CatalogError> {
    let (holds, behind) = (reader.holds()?, reader.behind()?);
    let held = holds.first.iter().filter_map(|held| Some((&held.account, held.point?.1)));
    let mut all: BTreeMap<&RelPath, i64> = BTreeMap::new();
    for (account, time) in held.chain(behind.first.iter().map(|(account, time)| (account, *time))) {
        let since = all.entry(account).or_insert(time);
        *since = time.min(*since);
    }
    board.accounts(all);
    Ok(())
}

impl Posts {
    fn show_behind(&self) {
        // What cannot be read ends the session by itself.
        drop(self.catalog.reader().and_then(|reader| show_behind(&self.board, &reader)));
    }

    fn lock_too_large(&self) -> MutexGuard<'_, BTreeMap<RelPath, u64>> {
        self.too_large.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Problems of files there was no room for stand until all of them are here, or the source has no
    /// exception any more.
    fn forget_what_fits(&self, point: &RecoveryPoint) {
        let mut too_large = self.lock_too_large();
        if too_large.is_empty() {
            return;
        }
        let is_here = |(path, size): (&RelPath, &u64)| {
            let known = self.catalog.reader().and_then(|reader| reader.get(path));
            known.ok().flatten().is_some_and(|record| record.entry.size() == *size)
        };
        if point.exceptions == 0 || too_large.iter().all(is_here) {
            too_large.clear();
            self.board.solved(Some(&RelPath::root()));
        }
    }
}

impl Receiver {
    /// A receiving end of an open share; `folder` is where its lists go.
    ///
    /// # Errors
    /// [`Failure`] when its catalog cannot be read.
    pub fn new(
        (share, root): (&str, &Path),
        storage: Arc<UringStorage>,
        (catalog, folder): (Arc<Catalog>, PathBuf),
        options: TargetOptions,
        board: ShareBoard,
    ) -> Result<Self, Failure> {
        let failed = |e| Failure::new(Exit::Refused, &e);
        let reader = catalog.reader().map_err(failed)?;
        if let Some(point) = reader.recovery_point().map_err(failed)? {
            board.recovery_point(&point);
        }
        // As the source said last: it may be lost with its word.
        show_holds(&board, &reader.holds().map_err(failed)?);
        show_behind(&board, &reader).map_err(failed)?;
        drop(reader);
        let (tell, foreign) = bounded(FOREIGN_MAX);
        let (share, root) = (share.to_owned(), path_bytes(root).to_vec());
        let mended = Arc::default();
        Ok(Self { share, root, storage, catalog, folder, options, board, foreign, tell, mended })
    }

    /// Finishes what a crash of the daemon interrupted. The source may be lost with it, and the point is to
    /// be true without another session.
    ///
    /// # Errors
    /// [`TargetError`]; a session tries again.
    pub fn finish_interrupted(&self) -> Result<bool, TargetError> {
        let config = self.options.config(self.folder.clone(), Arc::default());
        let config = config.map_err(|_| TargetError::ThreadGone)?;
        target::finish_interrupted(&*self.storage, &self.catalog, &config)
    }

    /// The share's name.
    #[must_use]
    pub fn share(&self) -> &str {
        &self.share
    }

    /// The open tree.
    #[must_use]
    pub fn storage(&self) -> &Arc<UringStorage> {
        &self.storage
    }

    /// What is known of it.
    #[must_use]
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// Where it is told what is known.
    #[must_use]
    pub fn board(&self) -> &ShareBoard {
        &self.board
    }

    /// Tells the session, if there is one, that so many entries were found to be other than they were
    /// applied, and recorded so.
    pub fn found_foreign(&self, entries: u64) {
        self.board.foreign(entries, 0, 0);
        self.mended.waits.fetch_add(entries, Relaxed);
        // One word is as good as many: the ends are compared then.
        self.tell.try_send(entries).unwrap_or(());
    }

    /// How many of those have been sent again since the daemon began.
    #[must_use]
    pub fn repaired(&self) -> u64 {
        self.mended.done.load(Relaxed)
    }

    /// Where its lists go.
    #[must_use]
    pub fn folder(&self) -> &std::path::Path {
        &self.folder
    }

    /// Runs a session over `link`, which opened with `hello`; `talk` is that of keys over it.
    ///
    /// # Errors
    /// [`TargetError`]; the peer has been told.
    pub fn serve(
        &self,
        link: &QuicLink,
        hello: &Message,
        talk: KeyTalk,
    ) -> Result<TargetReport, TargetError> {
        let Ok(config) = self.options.config(self.folder.clone(), Arc::default()) else {
            return Err(TargetError::ThreadGone);
        };
        let config = TargetConfig {
            stagers: remote_threads(),
            observer: Some(Arc::new(Posts {
                board: self.board.clone(),
                catalog: Arc::clone(&self.catalog),
                storage: Arc::clone(&self.storage),
                root: self.root.clone(),
                too_large: Mutex::default(),
                behind: Mutex::default(),
                mended: Arc::clone(&self.mended),
                talk,
                line: link.clone(),
            })),
            foreign: Some(self.foreign.clone()),
            stage: StageConfig { passes_over_too_large: true, ..config.stage },
            ..config
        };
        let ended = target::run(&*self.storage, &self.catalog, link, hello, &config);
        let why = match &ended {
            Ok(_) => "the source ended its session".to_owned(),
            Err(e) => farshore_engine::ingest::describe(e),
        };
        let (state, why) = match &ended {
            Err(e) if e.is_full() => (ShareState::Error, format!("no space at the standby: {why}")),
            _ => (ShareState::WaitingForPeer, why),
        };
        if ended.is_err() {
            // What is half staged would take the room that is missing; the next session may be far off. What
            // fails here is tried again with that.
            drop(self.finish_interrupted());
        }
        self.board.state(state, Some(&why));
        ended
    }
}

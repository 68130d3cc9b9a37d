//! Reads a standby for ever, at its own pace, and says how long ago every byte was seen to be right.
//!
//! Guarantees: a pass reads every file once in the time it is given, under its own budget; what is found
//! to be other than it was applied is told to the source, which sends what should be there, and the other
//! version goes into history; what was read is remembered over a restart by account. Nothing waits for
//! it. After a crash the pass goes on where its cursor was last kept.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver as Queue, Sender as Told, bounded};
use farshore_core::account::account_of;
use farshore_core::path::{RelPath, unescape};
use farshore_engine::io::uring::{IoMode, UringStorage};
use farshore_engine::scrub::{confirm, scrub};
use serde::{Deserialize, Serialize};

use crate::exit::{Exit, Failure};
use crate::replicate::open_root;
use crate::site::board::facts::{Scrub, ScrubAccount};
use crate::site::log::{Level, Log, Record};
use crate::site::receiver::Receiver;
use crate::state::{now_ms, write_durably};

/// How long a finding waits for its second look: longer than a batch takes to be applied.
const CONFIRM_AFTER: Duration = Duration::from_secs(2);
/// Accounts of which it is remembered when they were read.
const ACCOUNTS_MAX: usize = 100_000;
/// How often the cursor is kept.
const KEEP_EVERY: Duration = Duration::from_secs(30);
/// How often one who waits for a pass looks whether there will be one.
const LOOK: Duration = Duration::from_millis(200);
/// What one pass found is told path by path, so many.
const NAMED_MAX: usize = 100;

/// What a pass that somebody asked for came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Pass {
    /// Files that are as they were applied.
    pub verified: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Files that rotted.
    pub rotten: u64,
    /// Entries that others changed.
    pub foreign: u64,
    /// Entries that could not be read.
    pub unreadable: u64,
}

impl Pass {
    fn add(&mut self, other: Self) {
        self.verified += other.verified;
        self.bytes += other.bytes;
        self.rotten += other.rotten;
        self.foreign += other.foreign;
        self.unreadable += other.unreadable;
    }
}

/// What is remembered over a restart.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    /// The last path read, escaped; empty at the beginning of a pass.
    cursor: String,
    /// When the pass began.
    began_ms: i64,
    /// When accounts were read to their end, by their escaped paths.
    accounts: BTreeMap<String, i64>,
    found: u64,
    /// A pass has come to its end: before, what was read last says nothing of the rest.
    #[serde(default)]
    is_complete: bool,
}

/// The scrub of one share.
#[derive(Debug)]
pub struct Scrubber {
    receiver: Arc<Receiver>,
    storage: UringStorage,
    depth: usize,
    period: Duration,
    folder: PathBuf,
    log: Log,
    ask: Told<Told<Pass>>,
    asked: Queue<Told<Pass>>,
}

impl Scrubber {
    /// The scrub of a share that is received; it reads `root` at `io_limit` bytes a second at most.
    ///
    /// # Errors
    /// [`Failure`] when the root cannot be opened.
    pub fn new(
        receiver: Arc<Receiver>,
        root: &std::path::Path,
        io_limit: Option<u64>,
        depth: usize,
        period: Duration,
        folder: PathBuf,
        log: Log,
    ) -> Result<Self, Failure> {
        let storage = open_root("target", root, IoMode::Posix, io_limit)?;
        let (ask, asked) = bounded(4);
        Ok(Self { receiver, storage, depth, period, folder, log, ask, asked })
    }

    /// Reads all of it now, and waits for what comes of it, until the scrub is `over`.
    ///
    /// # Errors
    /// [`Failure`] when too many ask, it is not done in time, or the scrub ends.
    pub fn now(&self, patience: Duration, over: &AtomicBool) -> Result<Pass, Failure> {
        let failed = |text: &str| Failure {
            exit: Exit::Busy,
            message: format!("share '{}': scrub: {text}", self.receiver.share()),
            hint: None,
        };
        let (reply, answer) = bounded(1);
        self.ask.try_send(reply).map_err(|_| failed("others wait for one already"))?;
        let until = Instant::now() + patience;
        loop {
            match answer.recv_timeout(LOOK) {
                Ok(pass) => return Ok(pass),
                Err(_) if over.load(Relaxed) => {
                    return Err(failed("the share is not read any more"));
                }
                Err(_) if Instant::now() < until => {}
                Err(_) => return Err(failed("it goes on, longer than was waited for")),
            }
        }
    }

    fn say(&self, level: Level, text: String) {
        self.log.say(&Record::new(level, "scrub", text).share(self.receiver.share()));
    }

    /// Reads until `stop`.
    pub fn run(&self, stop: &AtomicBool) {
        let file = self.folder.join("scrub");
        let read = std::fs::read(&file).ok();
        let kept = read.and_then(|bytes| serde_json::from_slice::<Kept>(&bytes).ok());
        let mut kept = kept.unwrap_or_default();
        let mut kept_at = Instant::now();
        while !stop.load(Relaxed) {
            if let Ok(reply) = self.asked.try_recv() {
                kept.cursor.clear();
                let mut pass = Pass::default();
                loop {
                    pass.add(self.slice(&mut kept, stop));
                    if kept.cursor.is_empty() || stop.load(Relaxed) {
                        break;
                    }
                }
                // Who asked may have left.
                reply.send(pass).unwrap_or(());
            } else {
                let began = Instant::now();
                let pass = self.slice(&mut kept, stop);
                let pause = self.pause(&pass, began.elapsed());
                let until = Instant::now() + pause;
                while Instant::now() < until && !stop.load(Relaxed) && self.asked.is_empty() {
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
            if kept_at.elapsed() >= KEEP_EVERY || kept.cursor.is_empty() {
                self.keep(&file, &kept);
                kept_at = Instant::now();
            }
        }
        self.keep(&file, &kept);
    }

    fn keep(&self, file: &std::path::Path, kept: &Kept) {
        let written = serde_json::to_vec(kept).map_err(std::io::Error::from);
        if let Err(e) = written.and_then(|bytes| write_durably(file, &bytes)) {
            self.say(Level::Warn, format!("keeping where it is in {}: {e}", file.display()));
        }
    }

    /// How long to wait so that a pass takes the time it has.
    fn pause(&self, pass: &Pass, took: Duration) -> Duration {
        let total = self.receiver.catalog().reader().and_then(|reader| {
            Ok(reader.content_bytes()?.saturating_add(reader.entry_count()?.saturating_mul(4_096)))
        });
        let total = total.unwrap_or(1).max(1);
        let done = pass.bytes.saturating_add(pass.verified.saturating_mul(4_096)).max(1);
        #[allow(clippy::cast_precision_loss)] // a share of a whole
        let share = done as f64 / total as f64;
        let due = self.period.mul_f64(share.clamp(0.0, 1.0));
        due.saturating_sub(took).clamp(Duration::from_secs(1), Duration::from_secs(3_600))
    }

    /// Reads a slice, and acts on what it found.
    fn slice(&self, kept: &mut Kept, stop: &AtomicBool) -> Pass {
        let after = unescape(&kept.cursor).and_then(|bytes| RelPath::new(bytes).ok());
        let after = after.unwrap_or_else(RelPath::root);
        if after.is_root() {
            kept.began_ms = now_ms();
        }
        let catalog = self.receiver.catalog();
        let slice = match scrub(&self.storage, catalog, &after, stop) {
            Ok(slice) => slice,
            Err(e) => {
                self.say(Level::Error, farshore_engine::ingest::describe(&e));
                kept.cursor.clear();
                return Pass::default();
            }
        };
        let mut pass = Pass { verified: slice.verified, bytes: slice.bytes, ..Pass::default() };
        let next = slice.next.clone();
        if !slice.suspects.is_empty() {
            std::thread::sleep(CONFIRM_AFTER);
        }
        match confirm(&self.storage, catalog, slice, &self.folder) {
            Ok(findings) => {
                pass.rotten = findings.rotten.len() as u64;
                pass.foreign = findings.foreign;
                pass.unreadable = findings.problems.len() as u64;
                for path in findings.rotten.iter().take(NAMED_MAX) {
                    self.say(Level::Error, format!("{path}: its content is not what was applied"));
                }
                for problem in findings.problems.iter().take(NAMED_MAX) {
                    self.say(Level::Warn, format!("{}: {}", problem.path, problem.text));
                }
                if findings.count() > 0 {
                    let text = format!(
                        "{} files rotted, {} entries were changed by others: the source is told",
                        findings.rotten.len(),
                        findings.foreign
                    );
                    self.say(Level::Error, text);
                    kept.found = kept.found.saturating_add(findings.count());
                    self.receiver.found_foreign(findings.count());
                }
            }
            Err(e) => self.say(Level::Error, farshore_engine::ingest::describe(&e)),
        }
        self.advance(kept, &after, next.as_ref());
        self.show(kept);
        pass
    }

    /// Notes the accounts that were read to their end.
    fn advance(&self, kept: &mut Kept, after: &RelPath, next: Option<&RelPath>) {
        let account = |path: &RelPath| account_of(path, self.depth);
        let through = match next {
            Some(next) => (account(next) != account(after)).then(|| account(after)),
            None => Some(account(after)),
        };
        if let Some(account) = through
            && kept.accounts.len() < ACCOUNTS_MAX
        {
            kept.accounts.insert(account.to_string(), now_ms());
        }
        if next.is_none() {
            // All that are there were read in this pass; what is gone is forgotten.
            let began = kept.began_ms;
            kept.accounts.retain(|_, read| *read >= began);
            kept.is_complete = true;
        }
        kept.cursor = next.map(ToString::to_string).unwrap_or_default();
    }

    fn show(&self, kept: &Kept) {
        let mut worst: Vec<(&String, &i64)> = kept.accounts.iter().collect();
        worst.sort_by_key(|(_, read)| **read);
        let oldest = worst.first().map(|(_, read)| **read).filter(|_| kept.is_complete);
        self.receiver.board().scrub(Scrub {
            oldest_verified_unix_ms: oldest,
            worst: worst
                .into_iter()
                .take(10)
                .map(|(account, read)| ScrubAccount {
                    account: account.clone(),
                    verified_unix_ms: Some(*read),
                })
                .collect(),
            progress_percent: None,
            found: kept.found,
            repaired: self.receiver.repaired(),
        });
    }
}

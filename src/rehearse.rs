//! A rehearsal: a recovery point as a tree that can be written to, at the share's own path, for one command.
//!
//! ```text
//! rehearse ── takes .farshore/rehearsal/<id> (folder.rs) ── asks the daemon, which makes the view (making.rs)
//!          ── a place apart with the view at the share's path (stage.rs) ── the site's probe ── what it wrote
//!          ── removes everything ── report
//! ```
//! Guarantees: replication goes on; nothing that the command does to the share reaches the live tree, its history
//! or the other site, and nothing of it is merged: what it wrote is named, then removed. After success, failure
//! or a signal nothing is left; after a kill nothing runs and nothing is mounted any more, and the folder is
//! removed by whoever `folder.rs` says. The report is one value, whatever came of the command.
//!
//! Refuses: whoever is not root, since it mounts; a site whose daemon does not run; a share that is not received
//! here; a state that is not known whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};
use farshore_core::path::RelPath;
use farshore_engine::history::view::{self, Written};
use farshore_engine::io::uring::{IoMode, UringStorage};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use serde_json::Value;

use crate::exit::{Exit, Failure};
use crate::replicate::open_root;
use crate::report::utc;
use crate::site::config::{Share, SiteConfig};
use crate::site::control::{self, Request};
use crate::state::now_ms;

pub mod folder;
pub mod making;
pub mod stage;

use folder::Taken;
use making::MadeView;
use stage::{Ended, Event, Spec, Stage};

/// Making the view takes as long as it takes.
const PATIENCE: Duration = Duration::from_secs(24 * 3_600);
/// How often it is looked whether a signal came, meanwhile.
const LOOK: Duration = Duration::from_millis(20);
/// A record and a report are a few synced writes.
const RECORD_PATIENCE: Duration = Duration::from_secs(60);
/// Characters of the probe's output in the signed report.
const OUTPUT_MAX: usize = 4_096;
/// Paths that are listed; more are counted.
const LISTED: usize = 10_000;

/// What is to be rehearsed.
#[derive(Debug, Clone)]
pub struct Options {
    /// The site's config.
    pub config: PathBuf,
    /// The share; may be left out where there is one.
    pub share: Option<String>,
    /// A recovery point, a time, a mark or a batch.
    pub at: String,
    /// The command, in place of the share's probe.
    pub probe: Option<Vec<String>>,
    /// Whether the command has the host's network.
    pub network: bool,
    /// Whether the view stays.
    pub keep: bool,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The share.
    pub share: String,
    /// Its path.
    pub path: String,
    /// The recovery point; null for another state.
    pub point: Option<Value>,
    /// The state after this batch.
    pub batch: u64,
    /// R of the view.
    pub root: Option<String>,
    /// Whether the view is the state, whole.
    pub exact: bool,
    /// When it began.
    pub began: String,
    /// How old the point was then, in milliseconds.
    pub rpo_ms: Option<i64>,
    /// From then until the view was made.
    pub view_made_ms: u64,
    /// Until it stood at the share's path.
    pub view_ready_ms: u64,
    /// Until the command had said that all is well.
    pub probe_ready_ms: Option<u64>,
    /// How the command ended.
    pub probe: Option<Probe>,
    /// Whether it had the host's network.
    pub network: bool,
    /// Entries of the view.
    pub entries: u64,
    /// Bytes of their content.
    pub bytes: u64,
    /// Whether it shares the blocks of the live tree.
    pub shares_blocks: bool,
    /// What the file system did not keep, by kind.
    pub degraded: BTreeMap<String, u64>,
    /// Entries that could not be made.
    pub failed: u64,
    /// The first of them, and what else went wrong.
    pub problems: Vec<Problem>,
    /// What the command changed.
    pub wrote: Vec<Wrote>,
    /// How many paths that are.
    pub wrote_count: u64,
    /// Where the view stays.
    pub kept: Option<String>,
    /// Whether all of it was removed.
    pub cleaned: bool,
    /// The signed report of it (`farshore audit report`); null: it could not be written.
    pub report: Option<String>,
}

/// A command that ran in it.
#[derive(Debug, Clone, Serialize)]
pub struct Probe {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Its exit code.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// How it ended, unless well.
    pub error: Option<String>,
    /// How long it took.
    pub ms: u64,
    /// The end of what it wrote.
    pub output: String,
}

/// An entry that could not be made.
#[derive(Debug, Clone, Serialize)]
pub struct Problem {
    /// Where.
    pub path: String,
    /// Why.
    pub text: String,
}

/// A path that the command changed.
#[derive(Debug, Clone, Serialize)]
pub struct Wrote {
    /// Where.
    pub path: String,
    /// `added`, `changed` or `removed`.
    pub change: &'static str,
}

impl Report {
    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match &self.probe {
            Some(Probe { error: Some(_), .. }) => Exit::Differs,
            _ if !self.exact || !(self.cleaned || self.kept.is_some()) => Exit::Partial,
            _ => Exit::Done,
        }
    }
}

/// Asks a rehearsal to end, from another thread.
#[derive(Debug, Default)]
pub struct Stop {
    asked: AtomicBool,
    stage: Mutex<Option<Pid>>,
}

impl Stop {
    /// It is to end; what it made is removed.
    pub fn ask(&self) {
        self.asked.store(true, SeqCst);
        self.end_stage();
    }

    fn is_asked(&self) -> bool {
        self.asked.load(SeqCst)
    }

    fn end_stage(&self) {
        let stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pid) = *stage {
            // One that has ended is what is wanted.
            kill_process(pid, Signal::KILL).unwrap_or(());
        }
    }

    fn runs(&self, pid: Option<Pid>) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = pid;
        if self.is_asked() {
            self.end_stage();
        }
    }
}

/// A share of a site, and its tree.
struct Place {
    config: SiteConfig,
    share: Share,
    storage: UringStorage,
}

impl Place {
    fn open(config: &Path, share: Option<&str>) -> Result<Self, Failure> {
        if !rustix::process::geteuid().is_root() {
            return Err(Failure {
                exit: Exit::Refused,
                message: "rehearse: it mounts the view at the share's path".into(),
                hint: Some("call it as root, on the standby's host".into()),
            });
        }
        let config = SiteConfig::load_without_roots(config).map_err(|e| e.failure())?;
        let names: Vec<&str> = config.shares.iter().map(|share| share.name.as_str()).collect();
        let name = control::choose_share(&names, share)?.to_owned();
        let missing = || Failure::usage(format!("share '{name}': there is no such share"), "");
        let mut share = config.share(&name).cloned().ok_or_else(missing)?;
        share.path = share.path.canonicalize().map_err(|e| Failure {
            exit: Exit::Refused,
            message: format!("share {}: looking it up: {e}", share.path.display()),
            hint: None,
        })?;
        let storage = open_root("target", &share.path, IoMode::Posix, None)?;
        Ok(Self { config, share, storage })
    }

    fn disk(&self, step: &str, e: &std::io::Error) -> Failure {
        let is_full = farshore_engine::stage::is_fatal(e);
        Failure {
            exit: if is_full { Exit::Disk } else { Exit::Refused },
            message: format!("share {}: {step}: {e}", self.share.path.display()),
            hint: None,
        }
    }
}

/// Removes a view that was kept.
///
/// # Errors
/// [`Failure`] when there is none, or it does not go.
pub fn discard(config: &Path, share: Option<&str>, name: &str) -> Result<(), Failure> {
    let place = Place::open(config, share)?;
    folder::discard(&place.storage, name)
        .map_err(|e| place.disk(&format!("removing the rehearsal {name}"), &e))
}

/// Rehearses, until it is done or `stop` is asked.
///
/// # Errors
/// [`Failure`] when it did not come to its command; everything was removed then as well, or the failure says
/// that it was not.
pub fn run(options: &Options, stop: &Stop) -> Result<Report, Failure> {
    let (began, began_ms) = (Instant::now(), now_ms());
    let place = Place::open(&options.config, options.share.as_deref())?;
    folder::sweep(&place.storage).map_err(|e| place.disk("removing what a rehearsal left", &e))?;
    let taken = folder::take(&place.storage)
        .map_err(|e| place.disk("making the folder of a rehearsal", &e))?;
    let run = Run { options, place: &place, stop, began, began_ms };
    let result = run.within(&taken);
    match result {
        Ok(mut report) => {
            run.put_on_record(&mut report);
            let kept = options.keep.then(|| folder::keep(&place.storage, &taken));
            match kept {
                Some(Ok(name)) => {
                    let kept = place.share.path.join(".farshore/rehearsal").join(name).join("view");
                    report.kept = Some(kept.display().to_string());
                    return Ok(report);
                }
                Some(Err(e)) => report.problem(&RelPath::root(), format!("keeping it: {e}")),
                None => {}
            }
            match folder::remove(&place.storage, taken) {
                Ok(()) => report.cleaned = true,
                Err(e) => report.problem(&RelPath::root(), format!("removing the view: {e}")),
            }
            Ok(report)
        }
        Err(mut failure) => {
            if let Err(e) = folder::remove(&place.storage, taken) {
                failure.message = format!("{}; removing what was made: {e}", failure.message);
            }
            Err(failure)
        }
    }
}

impl Report {
    fn problem(&mut self, path: &RelPath, text: String) {
        self.problems.push(Problem { path: path.to_string(), text });
    }
}

struct Run<'a> {
    options: &'a Options,
    place: &'a Place,
    stop: &'a Stop,
    began: Instant,
    began_ms: i64,
}

impl Run<'_> {
    fn ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn within(&self, taken: &Taken) -> Result<Report, Failure> {
        let made = self.view(taken)?;
        let mut report = self.report(&made);
        self.perform(taken, &mut report)?;
        let mut count = 0;
        let mut wrote = Vec::new();
        let found =
            view::changes(&self.place.storage, &taken.folder, made.ready(), &mut |what, path| {
                count += 1;
                if wrote.len() < LISTED {
                    wrote.push(shown(what, path));
                }
            });
        (report.wrote, report.wrote_count) = (wrote, count);
        if let Err(e) = found {
            report.problem(&RelPath::root(), format!("looking at what was written: {e}"));
        }
        Ok(report)
    }

    /// Has the daemon put on record what it came to, and sign that.
    fn put_on_record(&self, report: &mut Report) {
        let share = Some(report.share.clone());
        let mut facts = serde_json::to_value(&*report).unwrap_or_default();
        // A request is bounded; what was written is counted.
        if let Some(facts) = facts.as_object_mut() {
            facts.retain(|key, _| !matches!(key.as_str(), "wrote" | "problems" | "report"));
        }
        if let Some(output) = facts["probe"].as_object_mut().and_then(|p| p.get_mut("output")) {
            let text: String =
                output.as_str().unwrap_or_default().chars().take(OUTPUT_MAX).collect();
            *output = text.into();
        }
        let request = Request::Rehearsed { share, report: facts };
        match control::call(&self.place.config.site.state, &request, RECORD_PATIENCE) {
            Ok(answer) => report.report = answer["report"].as_str().map(str::to_owned),
            Err(failure) => {
                report.problem(
                    &RelPath::root(),
                    format!("putting it on record: {}", failure.message),
                );
            }
        }
    }

    /// Has the daemon make the view.
    fn view(&self, taken: &Taken) -> Result<MadeView, Failure> {
        let share = Some(self.place.share.name.clone());
        let (at, id) = (self.options.at.clone(), taken.id.clone());
        let request = Request::Rehearse { share, at, id };
        let state = self.place.config.site.state.clone();
        let (tell, told) = bounded(1);
        std::thread::spawn(move || tell.send(control::call(&state, &request, PATIENCE)));
        loop {
            match told.recv_timeout(LOOK) {
                Ok(answer) => {
                    return serde_json::from_value(answer?)
                        .map_err(|e| Failure::new(Exit::Connection, &e));
                }
                Err(RecvTimeoutError::Timeout) if !self.stop.is_asked() => {}
                Err(_) => return Err(interrupted()),
            }
        }
    }

    fn report(&self, made: &MadeView) -> Report {
        let point = made.point.clone();
        let time = point.as_ref().and_then(|point| point["time_unix_ms"].as_i64());
        let problems = made.problems.iter().cloned();
        Report {
            share: self.place.share.name.clone(),
            path: self.place.share.path.display().to_string(),
            point,
            batch: made.batch,
            root: made.root.clone(),
            exact: made.exact,
            began: utc(self.began_ms),
            rpo_ms: time.map(|time| self.began_ms.saturating_sub(time)),
            view_made_ms: self.ms(),
            view_ready_ms: 0,
            probe_ready_ms: None,
            probe: None,
            network: self.options.network,
            entries: made.entries,
            bytes: made.bytes,
            shares_blocks: made.shares_blocks,
            degraded: made.degraded.iter().cloned().collect(),
            failed: made.failed,
            problems: problems.map(|(path, text)| Problem { path, text }).collect(),
            wrote: Vec::new(),
            wrote_count: 0,
            kept: None,
            cleaned: false,
            report: None,
        }
    }

    fn spec(&self, taken: &Taken, report: &Report) -> Spec {
        let share = &self.place.share;
        let command = self.options.probe.clone().unwrap_or_else(|| share.hooks.probe.clone());
        let mut env = BTreeMap::new();
        let mut set = |key: &str, value: String| env.insert(key.to_owned(), value);
        set("FARSHORE_ROOT", share.path.display().to_string());
        set("FARSHORE_SHARE", share.name.clone());
        let sequence = report.point.as_ref().and_then(|point| point["sequence"].as_u64());
        let named = sequence.map_or_else(|| format!("batch:{}", report.batch), |n| n.to_string());
        set("FARSHORE_POINT", named);
        set("FARSHORE_REHEARSAL", "1".into());
        let others = self.place.config.shares.iter().filter(|other| other.name != share.name);
        let others = others.map(|other| other.path.clone());
        let read_only = others.chain([self.place.config.site.state.clone()]);
        let below = Path::new(".farshore").join(folder::FOLDER).join(&taken.id).join("view");
        Spec {
            share: share.path.clone(),
            view: share.path.join(below),
            read_only: read_only.filter(|path| path.exists()).collect(),
            network: self.options.network,
            command,
            env,
            timeout_ms: u64::try_from(share.hooks.timeout.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Mounts the view and runs the command.
    fn perform(&self, taken: &Taken, report: &mut Report) -> Result<(), Failure> {
        let spec = self.spec(taken, report);
        let broken = |text: &str| Failure {
            exit: Exit::Internal,
            message: format!("rehearsal of share '{}': {text}", report.share),
            hint: None,
        };
        let mut stage =
            Stage::start(&spec).map_err(|e| broken(&format!("starting its stage: {e}")))?;
        self.stop.runs(Some(stage.pid()));
        let mounted = stage.next_event();
        report.view_ready_ms = self.ms();
        let ended = match mounted {
            Some(Event::Mounted) if spec.command.is_empty() => None,
            Some(Event::Mounted) => Some(stage.next_event()),
            Some(Event::Failed(text)) => return Err(broken(&text)),
            _ if self.stop.is_asked() => return Err(interrupted()),
            _ => return Err(broken("its stage ended before the view was mounted")),
        };
        let at = self.ms();
        self.stop.runs(None);
        drop(stage);
        if self.stop.is_asked() {
            return Err(interrupted());
        }
        if let Some(ended) = ended {
            let probe = probe(spec, ended, at.saturating_sub(report.view_ready_ms));
            report.probe_ready_ms = probe.error.is_none().then_some(at);
            report.probe = Some(probe);
        }
        Ok(())
    }
}

fn probe(spec: Spec, event: Option<Event>, ms: u64) -> Probe {
    let Spec { command, timeout_ms, .. } = spec;
    let (mut code, mut signal, mut output) = (None, None, String::new());
    let error = match event {
        Some(Event::Ended(Ended { code: c, signal: s, late, output: said })) => {
            (code, signal, output) = (c, s, said);
            match (late, c, s) {
                (true, ..) => Some(format!("it took longer than {timeout_ms} ms and was ended")),
                (_, Some(0), _) => None,
                (_, Some(code), _) => Some(format!("it ended with {code}")),
                (_, None, Some(signal)) => Some(format!("it was ended by signal {signal}")),
                (_, None, None) => Some("it ended in an unknown way".into()),
            }
        }
        Some(Event::NotStarted(text)) => Some(format!("starting it: {text}")),
        _ => Some("the place it ran in ended before it".into()),
    };
    Probe { command, code, signal, error, ms, output }
}

fn shown(what: Written, path: &RelPath) -> Wrote {
    Wrote { path: path.to_string(), change: what.name() }
}

fn interrupted() -> Failure {
    Failure {
        exit: Exit::Internal,
        message: "interrupted; everything is removed".into(),
        hint: None,
    }
}

/// Has signals that end a process end the rehearsal in order.
///
/// # Errors
/// [`Failure`] when they cannot be had.
pub fn stop_on_signals() -> Result<Arc<Stop>, Failure> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let stop = Arc::new(Stop::default());
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])
        .map_err(|e| Failure::new(Exit::Internal, &e))?;
    let heard = Arc::clone(&stop);
    std::thread::spawn(move || signals.forever().for_each(|_| heard.ask()));
    Ok(stop)
}

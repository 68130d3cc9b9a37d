//! Commands of the site's own, run by a process apart.
//!
//! ```text
//! daemon ── table of commands, once ──► runner     (before the daemon takes its own powers away)
//!        ── "3 homes stop epoch 5" ──►             runs what the table has, nothing else
//!        ◄── "3 ended 0 in 1200 ms: ..." ──
//! ```
//! The daemon confines itself and can start no program; the runner, which does nothing else, is started before
//! that and knows the commands of the config as it was then. So whoever takes the daemon over can have those
//! run and no others.
//!
//! Guarantees: a command that takes too long is ended with all its processes, and counts as failed; its output
//! is kept to its last 4 KiB; a share's commands run one after another. Refuses what the table has not. When the
//! daemon ends, the runner ends when what it runs has ended; a command that was under way then is not known to
//! have ended, and is run again by the next daemon: commands must bear that.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender as Reply, bounded};
use serde::{Deserialize, Serialize};

use super::config::SiteConfig;

/// The hidden command by which the binary becomes a runner.
pub const RUNNER: &str = "hook-runner";
/// This program, also when an upgrade put another one in its place.
const THIS_PROGRAM: &str = "/proc/self/exe";
/// Bytes of a command's output that are kept.
const OUTPUT_KEPT: usize = 4 << 10;
/// Bytes of a line between the two.
const LINE_MAX: u64 = 1 << 20;
/// How often a command is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Which command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Which {
    /// Starts the services.
    Start,
    /// Stops them.
    Stop,
}

impl Which {
    /// As the config has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
        }
    }
}

/// Why a command did not do what it is for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HookError {
    /// There is no runner any more.
    #[error(
        "hook '{hook}' of share '{share}': the process that runs hooks is gone: restart the site"
    )]
    Gone {
        /// The share.
        share: String,
        /// The command's name.
        hook: &'static str,
    },
    /// It cannot be started.
    #[error("hook '{hook}' of share '{share}': starting it: {text}")]
    NotStarted {
        /// The share.
        share: String,
        /// The command's name.
        hook: &'static str,
        /// Why.
        text: String,
    },
    /// It said that it failed.
    #[error("hook '{hook}' of share '{share}': {how}{}", said(output))]
    Failed {
        /// The share.
        share: String,
        /// The command's name.
        hook: &'static str,
        /// How it ended.
        how: String,
        /// The end of what it wrote.
        output: String,
    },
}

fn said(output: &str) -> String {
    match output.trim() {
        "" => String::new(),
        text => format!(": {}", farshore_core::path::escape_text(text)),
    }
}

/// A command of the config.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    share: String,
    which: Which,
    command: Vec<String>,
    timeout_ms: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    id: u64,
    share: String,
    which: Which,
    env: BTreeMap<String, String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    id: u64,
    ended: Ended,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Ended {
    NotStarted(String),
    /// Empty: well.
    Ended {
        how: String,
        output: String,
    },
}

/// The commands of a site, and who runs them.
#[derive(Debug)]
pub struct Hooks {
    table: Vec<(String, Which)>,
    runner: Option<Runner>,
}

#[derive(Debug)]
struct Runner {
    child: Mutex<Child>,
    requests: Mutex<Option<ChildStdin>>,
    waiting: Arc<Mutex<Waiting>>,
    /// One at a time for each share.
    turns: BTreeMap<String, Mutex<()>>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    /// Dropped with the runner: who waits hears that it is gone.
    replies: BTreeMap<u64, Reply<Ended>>,
    gone: bool,
}

impl Hooks {
    /// Starts the runner, if the config has commands. To be called while programs can be started.
    ///
    /// # Errors
    /// The system's, when it cannot be started.
    pub fn start(config: &SiteConfig) -> std::io::Result<Self> {
        let mut table = Vec::new();
        for share in &config.shares {
            for (which, command) in
                [(Which::Start, &share.hooks.start), (Which::Stop, &share.hooks.stop)]
            {
                if !command.is_empty() {
                    table.push(Entry {
                        share: share.name.clone(),
                        which,
                        command: command.clone(),
                        timeout_ms: u64::try_from(share.hooks.timeout.as_millis())
                            .unwrap_or(u64::MAX),
                    });
                }
            }
        }
        let listed = table.iter().map(|entry| (entry.share.clone(), entry.which)).collect();
        if table.is_empty() {
            return Ok(Self { table: listed, runner: None });
        }
        let mut child = Command::new(THIS_PROGRAM)
            .arg(RUNNER)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let broken = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let mut requests = child.stdin.take().ok_or_else(broken)?;
        let answers = child.stdout.take().ok_or_else(broken)?;
        write_line(&mut requests, &table)?;
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        let heard = Arc::clone(&waiting);
        std::thread::Builder::new().name("hooks".into()).spawn(move || {
            let mut answers = BufReader::new(answers);
            while let Some(answer) = read_line::<Answer>(&mut answers) {
                let reply = lock(&heard).replies.remove(&answer.id);
                if let Some(reply) = reply {
                    reply.send(answer.ended).unwrap_or(());
                }
            }
            let mut heard = lock(&heard);
            heard.gone = true;
            heard.replies.clear();
        })?;
        let turns = config.shares.iter().map(|s| (s.name.clone(), Mutex::default())).collect();
        let (child, requests) = (Mutex::new(child), Mutex::new(Some(requests)));
        Ok(Self { table: listed, runner: Some(Runner { child, requests, waiting, turns }) })
    }

    /// Whether the config has that command.
    #[must_use]
    pub fn has(&self, share: &str, which: Which) -> bool {
        self.table.iter().any(|(of, one)| of == share && *one == which)
    }

    /// Runs a command, if there is one, and waits for it; `env` is added to its environment.
    ///
    /// # Errors
    /// [`HookError`] when it did not end well.
    pub fn run(
        &self,
        share: &str,
        which: Which,
        env: BTreeMap<String, String>,
    ) -> Result<(), HookError> {
        if !self.has(share, which) {
            return Ok(());
        }
        let hook = which.name();
        let gone = || HookError::Gone { share: share.to_owned(), hook };
        let runner = self.runner.as_ref().ok_or_else(gone)?;
        let _turn = runner.turns.get(share).map(lock);
        let (reply, answer) = bounded(1);
        let id = {
            let mut waiting = lock(&runner.waiting);
            if waiting.gone {
                return Err(gone());
            }
            waiting.next += 1;
            let id = waiting.next;
            waiting.replies.insert(id, reply);
            id
        };
        let request = Request { id, share: share.to_owned(), which, env };
        match &mut *lock(&runner.requests) {
            Some(requests) => write_line(requests, &request).map_err(|_| gone())?,
            None => return Err(gone()),
        }
        match answer.recv().map_err(|_| gone())? {
            Ended::NotStarted(text) => {
                Err(HookError::NotStarted { share: share.to_owned(), hook, text })
            }
            Ended::Ended { how, .. } if how.is_empty() => Ok(()),
            Ended::Ended { how, output } => {
                Err(HookError::Failed { share: share.to_owned(), hook, how, output })
            }
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // It ends with its input, and is waited for so that it is no zombie.
        drop(lock(&self.requests).take());
        drop(lock(&self.child).wait());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write_line(to: &mut impl Write, value: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    to.write_all(&line)?;
    to.flush()
}

fn read_line<T: for<'de> Deserialize<'de>>(from: &mut impl BufRead) -> Option<T> {
    let mut line = Vec::new();
    from.by_ref().take(LINE_MAX).read_until(b'\n', &mut line).ok()?;
    serde_json::from_slice(&line).ok()
}

/// Is the runner: reads the table, then runs what is asked for, until its input ends.
pub fn be_runner() {
    let mut input = BufReader::new(std::io::stdin());
    let Some(table) = read_line::<Vec<Entry>>(&mut input) else { return };
    let output = Mutex::new(std::io::stdout());
    std::thread::scope(|scope| {
        while let Some(request) = read_line::<Request>(&mut input) {
            let (table, output) = (&table, &output);
            scope.spawn(move || {
                let of =
                    |entry: &&Entry| entry.share == request.share && entry.which == request.which;
                let ended = match table.iter().find(of) {
                    Some(entry) => run_one(entry, &request.env),
                    None => Ended::NotStarted("the config had no such command".into()),
                };
                // A daemon that is gone needs no answer.
                drop(write_line(&mut *lock(output), &Answer { id: request.id, ended }));
            });
        }
    });
}

fn run_one(entry: &Entry, env: &BTreeMap<String, String>) -> Ended {
    let Some((program, arguments)) = entry.command.split_first() else {
        return Ended::NotStarted("the command is empty".into());
    };
    let started = Command::new(program)
        .args(arguments)
        .envs(env)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(e) => return Ended::NotStarted(format!("{program}: {e}")),
    };
    let tail = Arc::new(Mutex::new(Vec::new()));
    for stream in [
        child.stdout.take().map(|s| Box::new(s) as Box<dyn Read + Send>),
        child.stderr.take().map(|s| Box::new(s) as Box<dyn Read + Send>),
    ]
    .into_iter()
    .flatten()
    {
        let tail = Arc::clone(&tail);
        // Ends with the last process that has the stream, which may be a service that was started: it is
        // not waited for.
        std::thread::spawn(move || keep_tail(stream, &tail));
    }
    let until = Instant::now() + Duration::from_millis(entry.timeout_ms);
    let how = loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => break String::new(),
            Ok(Some(status)) => {
                break match (status.code(), status.signal()) {
                    (Some(code), _) => format!("it ended with {code}"),
                    (None, Some(signal)) => format!("it was ended by signal {signal}"),
                    (None, None) => "it ended in an unknown way".into(),
                };
            }
            Ok(None) if Instant::now() < until => std::thread::sleep(LOOK),
            Ok(None) => {
                end_group(&child);
                drop(child.wait());
                break format!("it took longer than {} ms and was ended", entry.timeout_ms);
            }
            Err(e) => break format!("it cannot be waited for: {e}"),
        }
    };
    let output = String::from_utf8_lossy(&lock(&tail)).into_owned();
    Ended::Ended { how, output }
}

/// Ends the command and every process of its group.
fn end_group(child: &Child) {
    let group = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(group) = group {
        // One that has ended meanwhile is what is wanted.
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap_or(());
    }
}

/// Reads `stream` to its end, and keeps the last of it in `tail`.
pub(crate) fn keep_tail(mut stream: impl Read, tail: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 1 << 10];
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        let mut tail = lock(tail);
        tail.extend_from_slice(buffer.get(..read).unwrap_or_default());
        let over = tail.len().saturating_sub(OUTPUT_KEPT);
        tail.drain(..over);
    }
}

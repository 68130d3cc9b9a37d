//! The control socket of a site's daemon: `<state>/control.sock`, by which `farshore status`, `brake` and `mark` talk
//! to it. Requests and answers are JSON, one a line: `{"command": "status"}` is answered by `{"ok": ...}` or by
//! `{"error": {"exit": 5, "message": "...", "hint": "..."}}` (docs/output.md).
//!
//! **Guarantees.** Only root and the user the daemon runs as are served: the socket has mode 0600 from its first
//! moment, and the kernel says who called. A request has at most 64 KiB and must be whole within 5 seconds, an answer
//! must be taken within 5; 16 callers are served at a time, further ones wait outside. Commands that take long
//! have no more than 8 of the 16 places, so that status always finds one. A command that panics fails alone.
//!
//! One daemon has a state folder: it holds a lock on `daemon.lock`, which the kernel takes back when the process
//! ends, however it does. A socket that a dead daemon left is replaced, that of a live one never.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::exit::{Exit, Failure};
use crate::site::board::Board;

mod client;
pub(crate) mod door;

pub use client::call;
use door::{Deadline, Door};

/// Bytes of a request.
pub const REQUEST_MAX: usize = 64 << 10;
/// Callers served at a time.
pub const CLIENTS_MAX: usize = 16;
/// Of those, with a command that may take long.
const LONG_MAX: usize = CLIENTS_MAX / 2;
/// A request must be whole, an answer taken, in this time.
const PATIENCE: Duration = Duration::from_secs(5);
/// Callers the kernel keeps waiting.
const BACKLOG: i32 = 128;

const SOCKET: &str = "control.sock";
const LOCK: &str = "daemon.lock";

/// What can be asked of a daemon. Accounts are named as they are shown: escaped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// A snapshot of the board.
    Status {},
    /// What the brake holds.
    BrakeShow {
        /// Of this share only.
        #[serde(default)]
        share: Option<String>,
    },
    /// Let pass what the brake holds.
    BrakeApprove {
        /// Needed when there are several shares.
        #[serde(default)]
        share: Option<String>,
        /// Of this account only.
        #[serde(default)]
        account: Option<String>,
        /// Only if it is still this hold: what came since then was not looked at.
        #[serde(default)]
        id: Option<String>,
    },
    /// Keep at the standby what the brake holds: it was no good change.
    BrakeReject {
        /// Needed when there are several shares.
        #[serde(default)]
        share: Option<String>,
        /// Of this account only.
        #[serde(default)]
        account: Option<String>,
        /// Only if it is still this hold.
        #[serde(default)]
        id: Option<String>,
    },
    /// Make a cut, and label its recovery point.
    Mark {
        /// Needed when there are several shares.
        #[serde(default)]
        share: Option<String>,
        /// The label.
        label: String,
    },
    /// Labelled recovery points.
    Marks {
        /// Needed when there are several shares.
        #[serde(default)]
        share: Option<String>,
    },
    /// Make a cut now, and say its recovery point.
    Cut {
        /// Needed when there are several shares.
        #[serde(default)]
        share: Option<String>,
    },
    /// Read the standby.
    Scrub {
        /// Needed when there are several shares.
        #[serde(default)]
        share: Option<String>,
        /// All of it, from now on, not when its turn comes.
        #[serde(default)]
        now: bool,
    },
    /// Hand the share over to the other site, in order; or go back on it.
    Switchover {
        /// Needed when there are several shares.
        #[serde(default)]
        share: Option<String>,
        /// What of it.
        #[serde(default)]
        step: SwitchStep,
    },
    /// Open the share here without the other site.
    Failover {
        /// Needed when there are several shares.
        #[serde(default)]
        share: Option<String>,
        /// The recovery point, as `history rollback --to` takes it; the last one where nothing is said.
        #[serde(default)]
        at: Option<String>,
        /// The operator's word that the other site is switched off.
        #[serde(default)]
        peer_is_off: bool,
    },
    /// The operator's word that the other site is switched off, at a site that is active.
    OpenAlone {
        /// Needed when there are several shares.
        #[serde(default)]
        share: Option<String>,
    },
    /// This site is to be the active one, where none is or both say they are.
    ResolveSplit {
        /// Needed when there are several shares.
        #[serde(default)]
        share: Option<String>,
    },
    /// Run a hook again that failed.
    RetryHook {
        /// Needed when there are several shares.
        #[serde(default)]
        share: Option<String>,
    },
    /// Make a plan of what becomes of every path that either site changed.
    FailbackPlan {
        /// Needed when there are several shares.
        #[serde(default)]
        share: Option<String>,
    },
    /// Change outcomes of a plan.
    FailbackDecide {
        /// The plan's file.
        plan: std::path::PathBuf,
        /// Paths: one, or a pattern; escaped.
        select: String,
        /// To what: production, recovery, both, quarantine or hold.
        outcome: String,
        /// Why, for people.
        #[serde(default)]
        reason: String,
        /// For both: the new name of production's version, escaped.
        #[serde(default)]
        new_name: Option<String>,
    },
    /// Carry a plan out.
    FailbackApply {
        /// The plan's file.
        plan: std::path::PathBuf,
        /// What is held for a person stays as recovery has it, production's version in quarantine.
        #[serde(default)]
        accept_held: bool,
    },
    /// Give up the plan that is under way: what the other site did of it is taken back.
    FailbackAbandon {
        /// Needed when there are several shares.
        #[serde(default)]
        share: Option<String>,
    },
    /// Whether services may work with the share here now.
    Gate {
        /// Needed when there are several shares.
        #[serde(default)]
        share: Option<String>,
    },
    /// The recovery points that are kept of a share.
    Points {
        /// Needed when there are several shares.
        #[serde(default)]
        share: Option<String>,
        /// Instead, where it is here.
        #[serde(default)]
        root: Option<PathBuf>,
    },
    /// Former versions of a path and of what is below it.
    Versions {
        /// Where the share is here.
        root: PathBuf,
        /// The path, escaped.
        path: String,
    },
    /// What a file was, and where its content is kept.
    Version {
        /// Where the share is here.
        root: PathBuf,
        /// The path, escaped.
        path: String,
        /// A recovery point, a time, a mark or a batch, as it is typed.
        at: String,
    },
    /// Make a view of a former state for a rehearsal, in a folder that the caller has.
    Rehearse {
        /// Needed when there are several shares.
        #[serde(default)]
        share: Option<String>,
        /// A recovery point, a time, a mark or a batch, as it is typed; the last point where nothing is said.
        #[serde(default)]
        at: Option<String>,
        /// The folder's name, below `.farshore/rehearsal`.
        id: String,
    },
    /// Put on record what a rehearsal came to.
    Rehearsed {
        /// Needed when there are several shares.
        #[serde(default)]
        share: Option<String>,
        /// Its report, as it is printed.
        report: serde_json::Value,
    },
    /// Read the config again.
    Reload {},
    /// End in order.
    Stop {},
}

/// What is done about a switchover.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SwitchStep {
    /// It is begun, or gone on with.
    #[default]
    Begin,
    /// This site stays active: before the share was handed over.
    Abort,
    /// This site is active again: the other one declined.
    TakeBack,
}

impl Request {
    /// Answered from memory, or at once: never turned away because others take long.
    fn is_short(&self) -> bool {
        matches!(self, Self::Status {} | Self::BrakeShow { .. } | Self::Gate { .. } | Self::Stop {})
    }
}

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    /// The user the caller ran as when it connected, by the kernel's word.
    pub uid: u32,
    /// The user that had logged in, who may have become another since, as by sudo; none where nobody had. Read of
    /// the process of the caller's number: of another one, if the caller ended at once and its number was given anew.
    pub login: Option<u32>,
}

impl Asker {
    fn of(stream: &UnixStream) -> rustix::io::Result<Self> {
        let peer = rustix::net::sockopt::socket_peercred(stream)?;
        // What the kernel says where nobody logged in.
        const NOBODY: u32 = u32::MAX;
        let file = format!("/proc/{}/loginuid", peer.pid.as_raw_nonzero());
        let login = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
        Ok(Self { uid: peer.uid.as_raw(), login: login.filter(|login| *login != NOBODY) })
    }
}

impl std::fmt::Display for Asker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.login {
            Some(login) if login != self.uid => {
                write!(f, "user {}, who logged in as user {login}", self.uid)
            }
            _ => write!(f, "user {}", self.uid),
        }
    }
}

/// What a daemon does when it is asked. Called by several threads at the same time.
pub trait Commands: Send + Sync {
    /// Does it, and answers.
    ///
    /// # Errors
    /// [`Failure`], as the command line shows it to whoever asked.
    fn run(&self, request: Request, by: &Asker) -> Result<Value, Failure>;
}

/// What the board alone can answer: status, and what the brake holds. Others come back.
///
/// # Errors
/// The request, if it is another one; within, no such share.
pub fn from_board(board: &Board, request: Request) -> Result<Result<Value, Failure>, Request> {
    match request {
        Request::Status {} => Ok(object(&board.snapshot())),
        Request::BrakeShow { share } => {
            let status = board.snapshot();
            if let Some(name) = &share
                && !status.shares.iter().any(|of| of.name == *name)
            {
                let names: Vec<_> = status.shares.iter().map(|of| of.name.as_str()).collect();
                return Ok(choose_share(&names, Some(name)).map(|_| Value::Null));
            }
            let mut holds = Vec::new();
            for of in status.shares {
                if share.as_ref().is_none_or(|name| *name == of.name) {
                    holds.extend(of.holds.iter().map(|h| json!({"share": of.name, "hold": h})));
                }
            }
            Ok(Ok(json!({"holds": holds, "now_unix_ms": status.now_unix_ms})))
        }
        other => Err(other),
    }
}

/// The share that is meant: the one named, or the only one.
///
/// # Errors
/// [`Failure`]: none of that name, or several and none named.
pub fn choose_share<'a>(names: &[&'a str], given: Option<&str>) -> Result<&'a str, Failure> {
    let all = || match names {
        [] => "this site has no share".to_owned(),
        names => format!("this site has: {}", names.join(", ")),
    };
    match (given, names) {
        (None, [only]) => Ok(only),
        (None, []) => Err(Failure::usage(all(), "name shares in its config")),
        (None, _) => {
            let hint = format!("give --share NAME; {}", all());
            Err(Failure::usage("no share is named, and there are several", hint))
        }
        (Some(given), names) => {
            names.iter().find(|name| **name == given).copied().ok_or_else(|| {
                Failure::usage(format!("share '{given}': there is no such share"), all())
            })
        }
    }
}

fn object(value: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(value).map_err(|e| Failure::new(Exit::Internal, &e))
}

/// Where the socket of a state folder is.
#[must_use]
pub fn socket_path(state: &Path) -> PathBuf {
    state.join(SOCKET)
}

/// The right to be the daemon of a state folder. Dropped, another may be.
#[derive(Debug)]
pub struct DaemonLock {
    _file: File,
}

impl DaemonLock {
    /// Takes it: the first thing a daemon does with its state folder.
    ///
    /// # Errors
    /// [`Failure`]: another daemon has it; the folder cannot be used.
    pub fn take(state: &Path) -> Result<Self, Failure> {
        let path = state.join(LOCK);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let failed = |step: &str, e: &dyn std::fmt::Display| Failure {
            exit: Exit::Refused,
            message: format!("state folder {}: {step} {LOCK}: {e}", state.display()),
            hint: None,
        };
        let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| failed("opening", &e))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(two_daemons(state)),
            Err(e) => return Err(failed("locking", &e)),
        }
        Ok(Self { _file: File::from(file) })
    }
}

fn two_daemons(state: &Path) -> Failure {
    Failure {
        exit: Exit::Busy,
        message: format!("two daemons on one state folder: {} has one already", state.display()),
        hint: Some("'farshore status' asks it how it is".into()),
    }
}

/// The control socket of this daemon. Dropped, nobody is let in any more and the socket is gone.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    door: Option<Door>,
}

impl Control {
    /// Opens it in the state folder whose lock this is.
    ///
    /// # Errors
    /// [`Failure`]: the socket of another daemon answers (its lock file was removed), or it cannot be made.
    pub fn open(
        state: &Path,
        _lock: &DaemonLock,
        commands: Arc<dyn Commands>,
    ) -> Result<Self, Failure> {
        let path = socket_path(state);
        if client::connect(&path, PATIENCE).is_ok() {
            return Err(two_daemons(state));
        }
        let failed = |e: io::Error| Failure {
            exit: Exit::Refused,
            message: format!("control socket {}: making it: {e}", path.display()),
            hint: None,
        };
        let listener = listen(state).map_err(failed)?;
        let long = Arc::new(AtomicUsize::new(0));
        let serve = move |client: OwnedFd| {
            // Whoever went away meanwhile needs no answer.
            drop(serve(UnixStream::from(client), commands.as_ref(), &long));
        };
        let door = Door::open("control", listener, CLIENTS_MAX, serve).map_err(failed)?;
        Ok(Self { path, door: Some(door) })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // The name goes first: nobody finds a door that is being closed.
        std::fs::remove_file(&self.path).unwrap_or(());
        self.door.take();
    }
}

/// A socket that only we may connect to, in place of whatever has its name.
fn listen(state: &Path) -> io::Result<OwnedFd> {
    let (made, path) = (state.join("control.sock.new"), state.join(SOCKET));
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The name that bind makes takes the mode of the socket.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    match std::fs::remove_file(&made) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    with_address(&made, |address| rustix::net::bind(&socket, address))?;
    rustix::net::listen(&socket, BACKLOG)?;
    std::fs::rename(&made, &path)?;
    Ok(socket)
}

/// An address has 107 bytes for a path; a longer one goes by a handle of its folder.
fn with_address<T>(
    path: &Path,
    go: impl FnOnce(&SocketAddrUnix) -> rustix::io::Result<T>,
) -> io::Result<T> {
    if let Ok(address) = SocketAddrUnix::new(path) {
        return Ok(go(&address)?);
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder, flags, Mode::empty())?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&folder);
    let short = format!("/proc/self/fd/{number}/");
    let short = [short.as_bytes(), name.as_bytes()].concat();
    Ok(go(&SocketAddrUnix::new(short)?)?)
}

/// Answers one caller until it leaves, is too slow, or says something that cannot be understood.
fn serve(stream: UnixStream, commands: &dyn Commands, long: &AtomicUsize) -> io::Result<()> {
    let mut line = Vec::new();
    let by = match known(&stream) {
        Ok(by) => by,
        Err(failure) => return answer(&stream, Err(failure)),
    };
    let mut reader = Deadline::new(&stream, PATIENCE);
    loop {
        reader.renew(PATIENCE);
        match read_line(&mut reader, &mut line) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            // Most of it may still be on its way; it is not waited for.
            Err(e) if e.kind() == io::ErrorKind::FileTooLarge => {
                let message = format!("request: longer than {REQUEST_MAX} bytes");
                return answer(&stream, Err(Failure { exit: Exit::Usage, message, hint: None }));
            }
            Err(e) => return Err(e),
        }
        let end = line.iter().position(|b| *b == b'\n').unwrap_or(line.len());
        let request = serde_json::from_slice::<Request>(&line[..end]);
        line.drain(..(end + 1).min(line.len()));
        match request {
            Ok(request) => answer(&stream, run(request, &by, commands, long))?,
            Err(e) => {
                let message = format!("request: {e}");
                let hint = Some("is the daemon of another version?".into());
                return answer(&stream, Err(Failure { exit: Exit::Usage, message, hint }));
            }
        }
    }
}

/// Who called, if it is one who is served.
fn known(stream: &UnixStream) -> Result<Asker, Failure> {
    let by = Asker::of(stream).map_err(|e| {
        let message = format!("control socket: asking who called: {e}");
        Failure { exit: Exit::Internal, message, hint: None }
    })?;
    match by.uid == 0 || by.uid == rustix::process::geteuid().as_raw() {
        true => Ok(by),
        false => Err(Failure {
            exit: Exit::Refused,
            message: format!("control socket: user {} is not served", by.uid),
            hint: Some("call it as root, or as the user the daemon runs as".into()),
        }),
    }
}

/// Reads until there is a whole line at the front of `line`; false: the caller left before one began.
fn read_line(reader: &mut impl Read, line: &mut Vec<u8>) -> io::Result<bool> {
    let mut seen = 0;
    let mut buffer = [0; 4_096];
    loop {
        let newline = line[seen..].iter().position(|b| *b == b'\n');
        let end = newline.map_or(line.len(), |place| seen + place);
        if end > REQUEST_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        if newline.is_some() {
            return Ok(true);
        }
        seen = line.len();
        match reader.read(&mut buffer) {
            Ok(0) if line.is_empty() => return Ok(false),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => line.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Takes one of the places for long commands, and gives it back.
struct Long<'a>(&'a AtomicUsize);

impl Drop for Long<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn run(
    request: Request,
    by: &Asker,
    commands: &dyn Commands,
    long: &AtomicUsize,
) -> Result<Value, Failure> {
    let taken = (!request.is_short()).then(|| {
        let before = long.fetch_add(1, Ordering::SeqCst);
        (Long(long), before)
    });
    if matches!(taken, Some((_, before)) if before >= LONG_MAX) {
        return Err(Failure {
            exit: Exit::Busy,
            message: format!("{LONG_MAX} commands are under way at this daemon already"),
            hint: Some("'farshore status' says what it waits for".into()),
        });
    }
    catch_unwind(AssertUnwindSafe(|| commands.run(request, by))).unwrap_or_else(|_| {
        let message = "the command failed by a fault in the daemon, which goes on".into();
        Err(Failure { exit: Exit::Internal, message, hint: Some("its log says more".into()) })
    })
}

fn answer(stream: &UnixStream, result: Result<Value, Failure>) -> io::Result<()> {
    let response = match result {
        Ok(value) => json!({"ok": value}),
        Err(Failure { exit, message, hint }) => {
            json!({"error": {"exit": exit as u8, "message": message, "hint": hint}})
        }
    };
    let mut text = response.to_string();
    text.push('\n');
    Deadline::new(stream, PATIENCE).write_all(text.as_bytes())
}

/// A socket of ours, by which nothing waits longer than `patience`.
fn with_patience(socket: &impl AsFd, patience: Duration) -> rustix::io::Result<()> {
    use rustix::net::sockopt::{Timeout, set_socket_timeout};
    let patience = Some(patience.max(Duration::from_millis(1)));
    set_socket_timeout(socket, Timeout::Recv, patience)?;
    set_socket_timeout(socket, Timeout::Send, patience)
}

#[cfg(test)]
mod tests {
    use super::Asker;

    #[test]
    fn who_became_another_user_is_told_by_both() {
        let shown = |uid, login| Asker { uid, login }.to_string();
        assert_eq!(shown(0, Some(1_000)), "user 0, who logged in as user 1000");
        assert_eq!(shown(1_000, Some(1_000)), "user 1000");
        assert_eq!(shown(0, None), "user 0");
    }
}

//! The place where a rehearsal's command runs: namespaces of its own, with the view at the share's path.
//!
//! ```text
//! rehearse ── spec ──► stage: mount, network, process and IPC namespaces ──► init, process 1 in there ──► the command
//!          ◄──────────────────────── events, one JSON a line ───────────────────┘
//! ```
//! Both are this binary, as hidden commands that read what to do from their input.
//!
//! Guarantees: mounts made in here are seen nowhere else, and end with the last process in here; `init` ends with
//! the stage, the stage with the rehearsal, whatever ended them, and with `init` every process that the command
//! left. The network is a loopback of its own, unless asked otherwise. Other shares of the site and its state
//! folder can be read and not written in here. The command inherits no handle of the live tree. Refuses to
//! run it when any of this cannot be had.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_bind_recursive, mount_change,
    mount_remount,
};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::process::{Signal, WaitOptions, set_parent_process_death_signal};
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

use crate::site::hooks::keep_tail;

/// The hidden command of the stage.
pub const STAGE: &str = "rehearsal-stage";
/// The hidden command of process 1 in there.
pub const INIT: &str = "rehearsal-init";
const THIS_PROGRAM: &str = "/proc/self/exe";
/// How often the command is looked at.
const LOOK: Duration = Duration::from_millis(2);
/// How long its last output is waited for.
const OUTPUT: Duration = Duration::from_millis(200);
/// Bytes of a spec.
const SPEC_MAX: u64 = 1 << 20;

/// What is to be set up and run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    /// The share's own path.
    pub share: PathBuf,
    /// What stands there in here.
    pub view: PathBuf,
    /// What may only be read in here.
    pub read_only: Vec<PathBuf>,
    /// Whether the host's network is had.
    pub network: bool,
    /// Program and arguments; none: nothing is run.
    pub command: Vec<String>,
    /// Added to its environment.
    pub env: BTreeMap<String, String>,
    /// How long it may take.
    pub timeout_ms: u64,
}

/// What happens in here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The place cannot be set up.
    Failed(String),
    /// The view stands at the share's path.
    Mounted,
    /// The command cannot be started.
    NotStarted(String),
    /// It ended.
    Ended(Ended),
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Its exit code.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether it took too long, and was ended.
    pub late: bool,
    /// The end of what it wrote.
    pub output: String,
}

/// A stage that runs.
#[derive(Debug)]
pub struct Stage {
    child: Child,
    events: BufReader<std::process::ChildStdout>,
}

impl Stage {
    /// Starts it. It ends when the calling thread does.
    ///
    /// # Errors
    /// The system's.
    pub fn start(spec: &Spec) -> io::Result<Self> {
        let mut child = start(STAGE, spec, Stdio::piped())?;
        let events = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self { child, events: BufReader::new(events) })
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    /// The next event; none when all in there has ended.
    pub fn next_event(&mut self) -> Option<Event> {
        let mut line = Vec::new();
        self.events.read_until(b'\n', &mut line).ok()?;
        serde_json::from_slice(&line).ok()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // One that has ended is what is wanted. Its process 1 ends with it, and then all that is in there.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Starts this program as `command`, and tells it what to do. Its input stays open as long as it is to live.
fn start(command: &str, spec: &Spec, events: Stdio) -> io::Result<Child> {
    let mut child = Command::new(THIS_PROGRAM)
        .arg(command)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(events)
        .env_remove("NOTIFY_SOCKET")
        .spawn_in_group()?;
    let mut line = serde_json::to_vec(spec)?;
    line.push(b'\n');
    let input = child.stdin.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
    input.write_all(&line)?;
    input.flush()?;
    Ok(child)
}

trait InGroup {
    fn spawn_in_group(&mut self) -> io::Result<Child>;
}

impl InGroup for Command {
    /// Out of reach of the terminal's Ctrl-C: who started it decides.
    fn spawn_in_group(&mut self) -> io::Result<Child> {
        use std::os::unix::process::CommandExt;
        self.process_group(0).spawn()
    }
}

/// Ends with whoever started this process, and hears what to do.
fn hear() -> io::Result<Spec> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let stdin = io::stdin();
    let mut line = Vec::new();
    stdin.lock().take(SPEC_MAX).read_until(b'\n', &mut line)?;
    // Whoever ended before the signal was asked for has closed it.
    let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
    poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    if fds.iter().any(|fd| fd.revents().contains(PollFlags::HUP)) {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    Ok(serde_json::from_slice(&line)?)
}

fn tell(event: &Event) {
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    let mut out = io::stdout().lock();
    // Without anybody who hears it, the end is near.
    drop(out.write_all(&line).and_then(|()| out.flush()));
}

/// Is the stage.
pub fn be_stage() {
    let spec = match hear() {
        Ok(spec) => spec,
        Err(e) => return tell(&Event::Failed(format!("hearing what to do: {e}"))),
    };
    if let Err(text) = isolate(&spec) {
        return tell(&Event::Failed(text));
    }
    match start(INIT, &spec, Stdio::inherit()) {
        Ok(mut init) => {
            // Waiting would close it.
            let _input = init.stdin.take();
            drop(init.wait());
        }
        Err(e) => tell(&Event::Failed(format!("starting process 1: {e}"))),
    }
}

type Step<T> = Result<T, String>;

fn at<T, E: std::fmt::Display>(what: &str, done: Result<T, E>) -> Step<T> {
    done.map_err(|e| format!("{what}: {e}"))
}

fn isolate(spec: &Spec) -> Step<()> {
    let mut flags = UnshareFlags::NEWNS | UnshareFlags::NEWPID | UnshareFlags::NEWIPC;
    flags.set(UnshareFlags::NEWNET, !spec.network);
    at("namespaces of its own", unshare(flags))?;
    // What the host unmounts goes in here too; what is mounted in here stays in here.
    let slaves = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    at("making mounts its own", mount_change("/", slaves))?;
    for path in &spec.read_only {
        let what = format!("making {} read-only", path.display());
        at(&what, read_only(path))?;
    }
    let what = format!("mounting the view at {}", spec.share.display());
    at(&what, mount_bind(&spec.view, &spec.share))?;
    if !spec.network {
        at("loopback", loopback())?;
    }
    Ok(())
}

#[allow(unsafe_code)]
fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    // SAFETY: what is unsafe of it are tables of files that threads no longer share; FILES is not among the flags.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

fn read_only(path: &Path) -> rustix::io::Result<()> {
    use rustix::fs::StatVfsMountFlags as Has;
    mount_bind_recursive(path, path)?;
    let has = rustix::fs::statvfs(path)?.f_flag;
    let mut flags = MountFlags::BIND | MountFlags::RDONLY;
    flags.set(MountFlags::NOSUID, has.contains(Has::NOSUID));
    flags.set(MountFlags::NODEV, has.contains(Has::NODEV));
    flags.set(MountFlags::NOEXEC, has.contains(Has::NOEXEC));
    mount_remount(path, flags, c"")
}

/// Switches the loopback of a new network namespace on: it is interface 1 there.
fn loopback() -> io::Result<()> {
    const NEW_LINK: u16 = 16;
    const REQUEST_AND_ACK: u16 = 5;
    const UP: u32 = 1;
    let mut message = Vec::with_capacity(32);
    message.extend(32_u32.to_ne_bytes());
    message.extend(NEW_LINK.to_ne_bytes());
    message.extend(REQUEST_AND_ACK.to_ne_bytes());
    // Sequence and sender, family and type.
    message.extend([0; 12]);
    for value in [1, UP, UP] {
        message.extend(u32::to_ne_bytes(value));
    }
    let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    let kernel = SocketAddrNetlink::new(0, 0);
    rustix::net::sendto(&socket, &message, SendFlags::empty(), &kernel)?;
    let mut answer = [0; 256];
    let (_, len) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
    let code = answer.get(16..20).filter(|_| len >= 20).and_then(|b| b.try_into().ok());
    match code.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Is process 1 in there.
pub fn be_init() {
    let spec = match hear() {
        Ok(spec) => spec,
        Err(e) => return tell(&Event::Failed(format!("hearing what to do: {e}"))),
    };
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    if let Err(e) = mount("proc", "/proc", "proc", flags, None) {
        return tell(&Event::Failed(format!("mounting /proc: {e}")));
    }
    tell(&Event::Mounted);
    let Some((program, arguments)) = spec.command.split_first() else { return };
    let started = Command::new(program)
        .args(arguments)
        .envs(&spec.env)
        .current_dir(&spec.share)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn_in_group();
    match started {
        Ok(child) => tell(&Event::Ended(wait(child, Duration::from_millis(spec.timeout_ms)))),
        Err(e) => tell(&Event::NotStarted(format!("{program}: {e}"))),
    }
    // With process 1 all that it left ends.
}

fn wait(mut child: Child, timeout: Duration) -> Ended {
    let tail = Arc::new(Mutex::new(Vec::new()));
    let streams = [
        child.stdout.take().map(|s| Box::new(s) as Box<dyn Read + Send>),
        child.stderr.take().map(|s| Box::new(s) as Box<dyn Read + Send>),
    ];
    let readers: Vec<_> = streams
        .into_iter()
        .flatten()
        .map(|stream| {
            let tail = Arc::clone(&tail);
            std::thread::spawn(move || keep_tail(stream, &tail))
        })
        .collect();
    let until = Instant::now() + timeout;
    let pid = rustix::process::Pid::from_child(&child);
    let mut ended = Ended { code: None, signal: None, late: false, output: String::new() };
    loop {
        // Orphans are this process's to wait for.
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((one, status))) if one == pid => {
                (ended.code, ended.signal) = (status.exit_status(), status.terminating_signal());
                break;
            }
            Ok(Some(_)) => continue,
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => break,
        }
        if Instant::now() >= until {
            ended.late = true;
            break;
        }
        std::thread::sleep(LOOK);
    }
    let until = Instant::now() + OUTPUT;
    while readers.iter().any(|r| !r.is_finished()) && Instant::now() < until {
        std::thread::sleep(LOOK);
    }
    let tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
    ended.output = String::from_utf8_lossy(&tail).into_owned();
    ended
}

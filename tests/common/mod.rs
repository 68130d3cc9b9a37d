//! What the tests of the binary share: folders, keys, servers and runs.
//!
//! Every process is started from here, has its own state folder, and is ended by its own handle.

#![allow(dead_code, unreachable_pub)]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_farshore");

/// No run of a test takes this long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Two folders, two state folders, two keys, all below one temporary folder.
pub struct Site {
    pub folder: TempDir,
    pub source: PathBuf,
    pub target: PathBuf,
    pub source_state: PathBuf,
    pub target_state: PathBuf,
    pub source_key: String,
    pub target_key: String,
}

impl Site {
    pub fn new() -> Self {
        Self::within(Path::new("/tmp"))
    }

    pub fn within(place: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("farshore-test").tempdir_in(place).unwrap();
        let at = |name: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let (source, target) = (at("source"), at("target"));
        let (source_state, target_state) = (at("source-state"), at("target-state"));
        let key = |state: &Path| {
            let out = farshore(&["key", "--state", text(state)]);
            assert!(out.status.success(), "{}", shown(&out));
            String::from_utf8(out.stdout).unwrap().trim().to_owned()
        };
        let (source_key, target_key) = (key(&source_state), key(&target_state));
        Self { source, target, source_state, target_state, source_key, target_key, folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Serves the target as `share`.
    pub fn serve(&self, port: u16) -> Server {
        self.serve_with(port, &[])
    }

    pub fn serve_with(&self, port: u16, more: &[&str]) -> Server {
        let share = format!("share={}", text(&self.target));
        let listen = format!("127.0.0.1:{port}");
        let mut args = vec!["serve", "--share", &share, "--listen", &listen];
        args.extend(["--allow", &self.source_key, "--state", text(&self.target_state)]);
        args.extend(more);
        Server::start(&args)
    }

    /// A run to a folder of this machine.
    pub fn local(&self, more: &[&str]) -> Output {
        let mut args = vec!["replicate", text(&self.source), text(&self.target)];
        args.extend(["--state", text(&self.source_state)]);
        args.extend(more);
        farshore(&args)
    }

    /// The arguments of a run to `server`.
    pub fn remote_args(&self, port: u16) -> Vec<String> {
        let to = format!("farshore://127.0.0.1:{port}/share");
        ["replicate", text(&self.source), &to, "--state", text(&self.source_state), "--peer"]
            .iter()
            .map(|s| (*s).to_owned())
            .chain([self.target_key.clone()])
            .collect()
    }

    pub fn remote(&self, port: u16, more: &[&str]) -> Output {
        let args = self.remote_args(port);
        let args: Vec<&str> = args.iter().map(String::as_str).chain(more.iter().copied()).collect();
        farshore(&args)
    }
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are text")
}

/// The command with `args`, and nothing of this process's surroundings that it looks at.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(args).env_remove("XDG_STATE_HOME").env("HOME", "/nonexistent");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs the binary to its end, which must come in [`PATIENCE`].
pub fn farshore(args: &[&str]) -> Output {
    let child = command(args).spawn().expect("the binary starts");
    finish(child, args)
}

/// Waits for a run and takes what it wrote.
pub fn finish(mut child: Child, args: &[&str]) -> Output {
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let read = |stream: Option<&mut dyn std::io::Read>| {
        let mut bytes = Vec::new();
        if let Some(stream) = stream {
            stream.read_to_end(&mut bytes).unwrap();
        }
        bytes
    };
    std::thread::scope(|scope| {
        let stdout = scope.spawn(move || read(out.as_mut().map(|s| s as &mut dyn std::io::Read)));
        let stderr = scope.spawn(move || read(err.as_mut().map(|s| s as &mut dyn std::io::Read)));
        let ended = wait_for(&mut child, PATIENCE);
        if ended.is_none() {
            child.kill().unwrap();
        }
        let status = child.wait().unwrap();
        let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
        let out = Output { status, stdout, stderr };
        assert!(ended.is_some(), "{args:?} did not end in {PATIENCE:?}: {}", shown(&out));
        out
    })
}

/// Waits until `child` ended, at most `time`.
pub fn wait_for(child: &mut Child, time: Duration) -> Option<std::process::ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if start.elapsed() > time {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Both streams and the status, for a failed assertion.
pub fn shown(out: &Output) -> String {
    format!(
        "{} (signal {:?})\n--- stdout\n{}\n--- stderr\n{}",
        out.status,
        out.status.signal(),
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    )
}

/// Standard error as text.
pub fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// Asserts the exit code, that nothing panicked, and that every one of `words` was said.
#[track_caller]
pub fn expect(out: &Output, code: i32, words: &[&str]) {
    let both = shown(out);
    assert_eq!(out.status.code(), Some(code), "{both}");
    assert!(!both.contains("panicked"), "{both}");
    for word in words {
        assert!(both.contains(word), "'{word}' is not in: {both}");
    }
}

/// The one JSON object a run printed.
#[track_caller]
pub fn json(out: &Output) -> Value {
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", shown(out)))
}

/// A running `farshore serve`. Dropped, it is killed.
pub struct Server {
    pub child: Child,
    pub address: SocketAddr,
    pub log: Arc<Mutex<String>>,
}

impl Server {
    pub fn start(args: &[&str]) -> Self {
        let mut child = command(args).spawn().expect("the binary starts");
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::new(Mutex::new(String::new()));
        let mut first = String::new();
        let address = loop {
            let mut line = String::new();
            if lines.read_line(&mut line).unwrap() == 0 {
                panic!("the server ended: {first}{:?}", child.wait());
            }
            if let Some((_, address)) = line.trim().rsplit_once("listening on ") {
                break address.parse().expect("an address");
            }
            first.push_str(&line);
        };
        let into = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let mut log = into.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        Self { child, address, log }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until the log holds `words`.
    #[track_caller]
    pub fn logged(&self, words: &str) {
        let start = Instant::now();
        while !self.log().contains(words) {
            assert!(start.elapsed() < PATIENCE, "'{words}' is not in: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Resident memory in bytes, now and at its highest.
    pub fn memory(&self) -> (u64, u64) {
        memory_of(self.child.id())
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have been killed already.
        self.child.kill().unwrap_or(());
        drop(self.child.wait());
    }
}

/// Resident memory of a process in bytes, now and at its highest.
pub fn memory_of(pid: u32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|l| l.starts_with(name)).unwrap_or("0");
        let digits: String = line.chars().filter(char::is_ascii_digit).collect();
        digits.parse::<u64>().unwrap() * 1024
    };
    (field("VmRSS:"), field("VmHWM:"))
}

/// Kills `child` with SIGKILL, after a look at what its number stands for.
pub fn kill(child: &mut Child) -> bool {
    if child.try_wait().unwrap().is_some() {
        return false;
    }
    let pid = child.id();
    // Not waited for yet, so the number is still its own; one that has ended has no file any more.
    let Ok(exe) = std::fs::read_link(format!("/proc/{pid}/exe")) else {
        child.wait().unwrap();
        return false;
    };
    assert_eq!(exe, Path::new(BINARY).canonicalize().unwrap(), "process {pid}");
    child.kill().unwrap();
    let status = child.wait().unwrap();
    status.signal() == Some(9)
}

/// Whether we are root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Files below `root` as text paths with their content, without what is Farshore's.
pub fn files(root: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    let mut found = std::collections::BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            if path == root.join(".farshore") {
                continue;
            }
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
                found.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// Asserts that target equals source but for `.farshore`.
#[track_caller]
pub fn assert_equal_trees(source: &Path, target: &Path) {
    let differences = farshore_test_support::without_holes(farshore_test_support::compare(
        source,
        target,
        &[b".farshore"],
    ));
    assert!(differences.is_empty(), "{differences:#?}");
}

/// A tmpfs of its own below /tmp, for as long as it lives. Root only.
pub struct Tmpfs {
    pub place: PathBuf,
    _folder: TempDir,
}

impl Tmpfs {
    /// `None` when we are not root, or may not mount.
    pub fn mount(bytes: u64) -> Option<Self> {
        use rustix::mount::{MountFlags, mount};
        if !is_root() {
            return None;
        }
        let folder = tempfile::Builder::new().prefix("farshore-tmpfs").tempdir_in("/tmp").unwrap();
        let place = folder.path().join("mount");
        std::fs::create_dir(&place).unwrap();
        let options = std::ffi::CString::new(format!("size={bytes},mode=0755")).unwrap();
        match mount("tmpfs", &place, "tmpfs", MountFlags::empty(), Some(options.as_c_str())) {
            Ok(()) => Some(Self { place, _folder: folder }),
            Err(e) => {
                println!("no tmpfs here: {e}");
                None
            }
        }
    }

    /// Makes it read-only, or writable again.
    pub fn read_only(&self, on: bool) {
        use rustix::mount::{MountFlags, mount_remount};
        let flags = if on { MountFlags::RDONLY } else { MountFlags::empty() };
        mount_remount(&self.place, flags, c"").unwrap();
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        use rustix::mount::{UnmountFlags, unmount};
        if let Err(e) = unmount(&self.place, UnmountFlags::DETACH) {
            println!("unmount {}: {e}", self.place.display());
        }
    }
}

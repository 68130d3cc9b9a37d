//! The servers of the tools compared: sshd, the rsync daemon, Farshore's far end.
//!
//! Guarantees: each has its own folder of keys and configuration, listens on one address only, and is
//! ended by its process id when dropped; the janitor does it when the harness dies. Refuses to start
//! unless the port answers within a few seconds.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::Job;
use super::adapter::Ready;
use crate::bench::janitor::Janitor;
use crate::bench::measure::netns::{NetNs, run_tool};
use crate::bench::measure::{CommandLine, Site};
use crate::bench::{BenchError, Context};

/// How long a server may take to answer.
const START_MAX: Duration = Duration::from_secs(10);

/// The client's side of the ssh set-up.
#[derive(Debug)]
pub(crate) struct SshFiles {
    /// The private key of the user.
    pub(crate) user_key: PathBuf,
    /// The server's key, known beforehand.
    pub(crate) known_hosts: PathBuf,
}

/// The keys of both ends of a Farshore pair.
#[derive(Debug)]
pub(crate) struct FarshoreKeys {
    /// The key file of the near end.
    pub(crate) near: PathBuf,
    /// The id of the near end.
    near_id: String,
    /// The key file of the far end.
    far: PathBuf,
    /// The id of the far end.
    pub(crate) far_id: String,
}

impl FarshoreKeys {
    /// Makes two keys with `farshore key FILE`, which creates the file and prints the id.
    pub(crate) fn create(folder: &Path, farshore: &Path) -> Result<Self, BenchError> {
        let make = |name: &str| -> Result<(PathBuf, String), BenchError> {
            let file = folder.join(name);
            let output = Command::new(farshore).arg("key").arg(&file).output();
            let output = output.at("make a key with", farshore)?;
            let text = String::from_utf8_lossy(&output.stdout);
            match text.split_whitespace().last() {
                Some(id) if output.status.success() => Ok((file, id.to_owned())),
                _ => Err(BenchError::Tool {
                    program: "farshore",
                    arguments: format!("key {}", file.display()),
                    said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
                }),
            }
        };
        let (near, near_id) = make("farshore-near.key")?;
        let (far, far_id) = make("farshore-far.key")?;
        Ok(Self { near, near_id, far, far_id })
    }
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    port: u16,
}

impl Server {
    /// An sshd of our own.
    pub(crate) fn start_ssh(
        folder: &Path,
        address: &str,
        site: &Site<'_>,
        janitor: &Janitor,
    ) -> Result<(Self, SshFiles), BenchError> {
        let own = folder.join("ssh");
        std::fs::create_dir_all(&own).at("create a folder", &own)?;
        let (host_key, user_key) = (own.join("host_key"), own.join("user_key"));
        for key in [&host_key, &user_key] {
            let file = key.to_string_lossy();
            run_tool("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &file])?;
        }
        if rustix::process::geteuid().is_root() {
            // sshd insists on this folder; the package makes it at boot.
            let separation = Path::new("/run/sshd");
            std::fs::create_dir_all(separation).at("create a folder", separation)?;
        }
        let port = free_port(site.server, address)?;
        let public = own.join("host_key.pub");
        let host_line = std::fs::read_to_string(&public).at("read", &public)?;
        let known_hosts = own.join("known_hosts");
        let line = format!("[{address}]:{port} {host_line}");
        std::fs::write(&known_hosts, line).at("write", &known_hosts)?;
        let config = own.join("sshd_config");
        let text = format!(
            "ListenAddress {address}\nPort {port}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\n\
             UsePAM no\nStrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nCiphers {}\nMaxStartups 100\n",
            host_key.display(),
            own.join("user_key.pub").display(),
            super::CIPHER
        );
        std::fs::write(&config, text).at("write", &config)?;
        let words = ["/usr/sbin/sshd", "-D", "-e", "-f", &config.to_string_lossy()];
        let server = Self::start(&CommandLine::new(words), port, &own, site, janitor)?;
        server.wait_for_tcp(site, address)?;
        Ok((server, SshFiles { user_key, known_hosts }))
    }

    /// An rsync daemon of our own; its module is the parent of `folder`.
    pub(crate) fn start_rsync(
        folder: &Path,
        address: &str,
        site: &Site<'_>,
        janitor: &Janitor,
    ) -> Result<Self, BenchError> {
        let own = folder.join("rsyncd");
        std::fs::create_dir_all(&own).at("create a folder", &own)?;
        let port = free_port(site.server, address)?;
        let config = own.join("rsyncd.conf");
        let root = rustix::process::geteuid().is_root();
        let owner = if root { "uid = 0\ngid = 0\n" } else { "" };
        let module = folder.parent().unwrap_or(folder).display();
        let text = format!(
            "address = {address}\nport = {port}\nuse chroot = no\nreverse lookup = no\n{owner}\
             [bench]\npath = {module}\nread only = no\nnumeric ids = yes\n"
        );
        std::fs::write(&config, text).at("write", &config)?;
        let file = format!("--config={}", config.display());
        let line = CommandLine::new(["rsync", "--daemon", "--no-detach", &file]);
        let server = Self::start(&line, port, &own, site, janitor)?;
        server.wait_for_tcp(site, address)?;
        Ok(server)
    }

    /// Farshore's far end for one job.
    pub(crate) fn start_farshore(
        farshore: &Path,
        keys: &FarshoreKeys,
        address: &str,
        job: &Job,
        site: &Site<'_>,
        janitor: &Janitor,
    ) -> Result<Self, BenchError> {
        let state = job.state.with_extension("far");
        std::fs::create_dir_all(&state).at("create a folder", &state)?;
        let port = lasting_port(&state.join("bench-port"), site.server, address)?;
        let share = format!("bench={}", job.target.display());
        let listen = format!("{address}:{port}");
        let line = CommandLine::new([
            farshore.as_os_str(),
            "serve".as_ref(),
            "--share".as_ref(),
            share.as_ref(),
            "--listen".as_ref(),
            listen.as_ref(),
            "--state".as_ref(),
            state.as_os_str(),
            "--key".as_ref(),
            keys.far.as_os_str(),
            "--allow".as_ref(),
            keys.near_id.as_ref(),
            "--allow-protected".as_ref(),
        ]);
        let server = Self::start(&line, port, &job.logs, site, janitor)?;
        server.wait_for_udp(site, address)?;
        Ok(server)
    }

    /// The server of a tool described by a file, for one job.
    pub(crate) fn start_adapter(
        line: &dyn Fn(u16) -> CommandLine,
        ready: Ready,
        address: &str,
        job: &Job,
        site: &Site<'_>,
        janitor: &Janitor,
    ) -> Result<Self, BenchError> {
        let port = lasting_port(&job.state.join("bench-port"), site.server, address)?;
        let server = Self::start(&line(port), port, &job.logs, site, janitor)?;
        match ready {
            Ready::Tcp => server.wait_for_tcp(site, address)?,
            Ready::Udp => server.wait_for_udp(site, address)?,
        }
        Ok(server)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    fn start(
        line: &CommandLine,
        port: u16,
        own: &Path,
        site: &Site<'_>,
        janitor: &Janitor,
    ) -> Result<Self, BenchError> {
        let child = site.start_server(line, &own.join("server.log"))?;
        let server = Self { child, port };
        let root = own.ancestors().nth(2).unwrap_or(own);
        janitor.end_process(server.pid(), root)?;
        Ok(server)
    }

    fn wait_for_tcp(&self, site: &Site<'_>, address: &str) -> Result<(), BenchError> {
        let try_once = || match TcpStream::connect((address, self.port)) {
            Ok(_) => Ok(true),
            Err(_) => Ok(false),
        };
        self.wait(site, try_once)
    }

    /// A UDP port answers nothing by itself: it is taken when we cannot bind it.
    fn wait_for_udp(&self, site: &Site<'_>, address: &str) -> Result<(), BenchError> {
        self.wait(site, || Ok(UdpSocket::bind((address, self.port)).is_err()))
    }

    fn wait(
        &self,
        site: &Site<'_>,
        answers: impl Fn() -> Result<bool, BenchError> + Send + Copy,
    ) -> Result<(), BenchError> {
        let started = Instant::now();
        while started.elapsed() < START_MAX {
            if inside(site.server, answers)? {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(BenchError::NoAnswer { port: self.port })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            // Still our child, not waited for: the id cannot have been given to another process.
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        }
        let started = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if started.elapsed() > Duration::from_secs(5) {
                self.child.kill().ok();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn inside<T: Send>(
    place: Option<&NetNs>,
    work: impl FnOnce() -> Result<T, BenchError> + Send,
) -> Result<T, BenchError> {
    match place {
        Some(place) => place.enter(work),
        None => work(),
    }
}

/// The port of a job, the same in all its runs: the source knows a target by its address, and meets a
/// stranger when the port changes.
fn lasting_port(file: &Path, place: Option<&NetNs>, address: &str) -> Result<u16, BenchError> {
    let kept = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
    if let Some(port) = kept {
        return Ok(port);
    }
    let port = free_port(place, address)?;
    std::fs::write(file, port.to_string()).at("keep the port in", file)?;
    Ok(port)
}

fn free_port(place: Option<&NetNs>, address: &str) -> Result<u16, BenchError> {
    let what = Path::new("a free port");
    inside(place, || {
        let listener = TcpListener::bind((address, 0)).at("find", what)?;
        Ok(listener.local_addr().at("find", what)?.port())
    })
}

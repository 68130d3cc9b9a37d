//! The tools compared: how each is found, started and told what to do.
//!
//! Guarantees: all get the same source and an empty or earlier target; servers run on loopback (or at
//! the far end of the emulated line) with keys, configuration and port of their own. Refuses to use a
//! server or a configuration of the system. A tool that is not there is named, not an error.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

mod server;

use crate::bench::measure::{CommandLine, Site};
use crate::bench::options::PeerKind;
use crate::bench::{BenchError, janitor::Janitor};
pub(crate) use server::Server;
use server::{FarshoreKeys, SshFiles};

/// The options of rsync in every comparison.
const RSYNC_OPTIONS: [&str; 3] = ["-aHAXS", "--numeric-ids", "--delete"];
/// The cipher of ssh in every comparison.
const CIPHER: &str = "aes128-gcm@openssh.com";

impl PeerKind {
    /// The name in tables.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Farshore => "farshore",
            Self::RsyncSsh => "rsync-ssh",
            Self::RsyncSshZ => "rsync-ssh-z",
            Self::RsyncSshNir => "rsync-ssh-nir",
            Self::RsyncDaemon => "rsync-daemon",
            Self::TarSsh => "tar-ssh",
        }
    }

    /// Whether the tool can bring a target up to date; tar only fills an empty one.
    pub(crate) fn is_incremental(self) -> bool {
        self != Self::TarSsh
    }

    fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Farshore => &[],
            Self::RsyncSsh | Self::RsyncSshZ | Self::RsyncSshNir => {
                &["rsync", "ssh", "ssh-keygen", "/usr/sbin/sshd"]
            }
            Self::RsyncDaemon => &["rsync"],
            Self::TarSsh => &["tar", "ssh", "ssh-keygen", "/usr/sbin/sshd"],
        }
    }
}

/// What a run works on.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    /// The source folder.
    pub(crate) source: PathBuf,
    /// The target folder.
    pub(crate) target: PathBuf,
    /// Farshore's state; lasts from the first sync to the next.
    pub(crate) state: PathBuf,
    /// Where the logs of this run go.
    pub(crate) logs: PathBuf,
}

/// The tools, their servers, and what they need.
pub(crate) struct Peers<'a> {
    folder: PathBuf,
    farshore: PathBuf,
    farshore_args: Vec<String>,
    far_address: Option<String>,
    janitor: &'a Janitor,
    ssh: Option<(Server, SshFiles)>,
    daemon: Option<Server>,
    keys: Option<FarshoreKeys>,
}

impl<'a> Peers<'a> {
    /// Peers whose servers keep their files in `folder`; `far_address` is given on the emulated line.
    pub(crate) fn new(
        folder: &Path,
        farshore: &Path,
        farshore_args: &[String],
        far_address: Option<String>,
        janitor: &'a Janitor,
    ) -> Self {
        Self {
            folder: folder.to_owned(),
            farshore: farshore.to_owned(),
            farshore_args: farshore_args.to_vec(),
            far_address,
            janitor,
            ssh: None,
            daemon: None,
            keys: None,
        }
    }

    /// What keeps a tool from being run here, if anything.
    pub(crate) fn missing(&self, peer: PeerKind) -> Option<String> {
        if peer == PeerKind::Farshore && !self.farshore.is_file() {
            return Some(format!("{}: not installed", self.farshore.display()));
        }
        let absent = peer.programs().iter().find(|program| find_program(program).is_none())?;
        Some(format!("{absent}: not installed"))
    }

    /// The version line of a tool.
    pub(crate) fn version(&self, peer: PeerKind) -> String {
        let farshore = self.farshore.to_string_lossy();
        let (program, flag): (&str, &str) = match peer {
            PeerKind::Farshore => (&farshore, "--version"),
            PeerKind::TarSsh => ("tar", "--version"),
            _ => ("rsync", "--version"),
        };
        first_line(program, flag)
    }

    /// Starts the servers a tool needs; those started before go on.
    pub(crate) fn start_servers(
        &mut self,
        peer: PeerKind,
        site: &Site<'_>,
    ) -> Result<(), BenchError> {
        let folder = &self.folder;
        let address = self.address().to_owned();
        match peer {
            PeerKind::Farshore => {
                if self.far_address.is_some() && self.keys.is_none() {
                    self.keys = Some(FarshoreKeys::create(folder, &self.farshore)?);
                }
            }
            PeerKind::RsyncDaemon => {
                if self.daemon.is_none() {
                    self.daemon = Some(Server::start_rsync(folder, &address, site, self.janitor)?);
                }
            }
            _ => {
                if self.ssh.is_none() {
                    self.ssh = Some(Server::start_ssh(folder, &address, site, self.janitor)?);
                }
            }
        }
        Ok(())
    }

    /// Starts what serves one job only: Farshore's far end on the emulated line.
    pub(crate) fn start_job(
        &self,
        peer: PeerKind,
        job: &Job,
        site: &Site<'_>,
    ) -> Result<Option<Server>, BenchError> {
        match (&self.far_address, &self.keys) {
            (Some(address), Some(keys)) if peer == PeerKind::Farshore => {
                let server =
                    Server::start_farshore(&self.farshore, keys, address, job, site, self.janitor)?;
                Ok(Some(server))
            }
            _ => Ok(None),
        }
    }

    /// The processes of the lasting servers.
    pub(crate) fn server_pids(&self) -> Vec<u32> {
        let ssh = self.ssh.as_ref().map(|(server, _)| server.pid());
        ssh.into_iter().chain(self.daemon.as_ref().map(Server::pid)).collect()
    }

    /// The command that brings `job.target` up to date.
    pub(crate) fn command(&self, peer: PeerKind, job: &Job, own: Option<&Server>) -> CommandLine {
        match peer {
            PeerKind::Farshore => self.farshore_command(job, own),
            PeerKind::RsyncSsh => self.rsync_ssh(job, &[]),
            PeerKind::RsyncSshZ => self.rsync_ssh(job, &["-z"]),
            PeerKind::RsyncSshNir => self.rsync_ssh(job, &["--no-inc-recursive"]),
            PeerKind::RsyncDaemon => self.rsync_daemon(job),
            PeerKind::TarSsh => self.tar_ssh(job),
        }
    }

    fn address(&self) -> &str {
        self.far_address.as_deref().unwrap_or("127.0.0.1")
    }

    fn farshore_command(&self, job: &Job, own: Option<&Server>) -> CommandLine {
        let mut words: Vec<OsString> = vec![self.farshore.clone().into(), "replicate".into()];
        words.push(job.source.clone().into());
        match (own, &self.keys) {
            (Some(server), Some(keys)) => {
                let address = format!("farshore://{}:{}/bench", self.address(), server.port());
                words.extend([address.into(), "--peer".into(), keys.far_id.clone().into()]);
                words.extend(["--key".into(), keys.near.clone().into()]);
            }
            _ => words.push(job.target.clone().into()),
        }
        words.extend(["--state".into(), job.state.clone().into(), "--json".into()]);
        words.extend(self.farshore_args.iter().map(OsString::from));
        CommandLine::new(words)
    }

    /// The ssh command with the harness's own key and known hosts.
    fn ssh_words(&self) -> String {
        let Some((server, files)) = &self.ssh else { return String::from("ssh") };
        let (key, hosts) = (files.user_key.display(), files.known_hosts.display());
        let port = server.port();
        format!(
            "ssh -F /dev/null -p {port} -i {key} -c {CIPHER} -o IdentitiesOnly=yes -o BatchMode=yes \
             -o StrictHostKeyChecking=yes -o UserKnownHostsFile={hosts} -o LogLevel=ERROR"
        )
    }

    fn rsync_ssh(&self, job: &Job, more: &[&str]) -> CommandLine {
        let target = format!("{}:{}/", self.address(), job.target.display());
        let mut words = vec!["rsync".to_owned()];
        words.extend(RSYNC_OPTIONS.iter().chain(more).map(|&word| word.to_owned()));
        words.extend(["-e".to_owned(), self.ssh_words()]);
        words.extend([format!("{}/", job.source.display()), target]);
        CommandLine::new(words)
    }

    fn rsync_daemon(&self, job: &Job) -> CommandLine {
        let port = self.daemon.as_ref().map_or(0, Server::port);
        // The module is the folder above the one of the peers' files: the work folder.
        let base = self.folder.parent().unwrap_or(&self.folder);
        let below = job.target.strip_prefix(base).unwrap_or(&job.target);
        let target = format!("rsync://{}:{port}/bench/{}/", self.address(), below.display());
        let mut words = vec!["rsync".to_owned()];
        words.extend(RSYNC_OPTIONS.map(str::to_owned));
        words.extend([format!("{}/", job.source.display()), target]);
        CommandLine::new(words)
    }

    fn tar_ssh(&self, job: &Job) -> CommandLine {
        let (source, target) = (job.source.display(), job.target.display());
        let options = "--xattrs --acls --sparse --numeric-owner";
        let script = format!(
            "tar -C {source} {options} --format=posix -cf - . | {} {} 'tar -C {target} {options} -xpf -'",
            self.ssh_words(),
            self.address()
        );
        CommandLine::new(["/bin/sh".to_owned(), "-c".to_owned(), script])
    }
}

fn find_program(name: &str) -> Option<PathBuf> {
    if name.starts_with('/') {
        return Some(PathBuf::from(name)).filter(|path| path.is_file());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// The first line a program prints for a flag.
pub(crate) fn first_line(program: &str, flag: &str) -> String {
    let output = Command::new(program).arg(flag).output();
    let text = output.map(|o| [o.stdout, o.stderr].concat()).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().next().unwrap_or("unknown").to_owned()
}

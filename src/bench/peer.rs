//! The tools compared: how each is found, started and told what to do.
//!
//! Guarantees: all get the same source and an empty or earlier target; servers run on loopback (or at
//! the far end of the emulated line) with keys, configuration and port of their own. Refuses to use a
//! server or a configuration of the system. A tool that is not there is named, not an error.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

mod adapter;
mod rsync;
mod server;
mod tool;

use crate::bench::measure::{CommandLine, Site};
use crate::bench::verify::Claims;
use crate::bench::{BenchError, janitor::Janitor};
pub(crate) use adapter::Adapter;
pub(crate) use server::Server;
use server::{FarshoreKeys, SshFiles};
pub(crate) use tool::{RsyncWay, Tool};

/// The cipher of ssh in every comparison.
const CIPHER: &str = "aes128-gcm@openssh.com";

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
    /// Whether so much changes that Farshore's guard would ask an operator: then it is told to go on.
    pub(crate) mass_change: bool,
}

impl Job {
    /// A job on `source` whose target, state and logs are below `own`.
    pub(crate) fn at(source: &Path, own: &Path) -> Self {
        let below = |name: &str| own.join(name);
        Self {
            source: source.to_owned(),
            target: below("target"),
            state: below("state"),
            logs: below("logs"),
            mass_change: false,
        }
    }
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
    pub(crate) fn missing(&self, tool: &Tool) -> Option<String> {
        if tool.is_farshore() && !self.farshore.is_file() {
            return Some(format!("{}: not installed", self.farshore.display()));
        }
        let programs = tool.programs();
        let absent = programs.iter().find(|program| find_program(program).is_none())?;
        Some(format!("{absent}: not installed"))
    }

    /// The version line of a tool; of one described by a file also what it claims.
    pub(crate) fn version(&self, tool: &Tool) -> String {
        match tool {
            Tool::Adapter(adapter) => {
                let said = adapter.version.as_ref().map(|command| {
                    first_line_of(Command::new("/bin/sh").args(["-c", command.as_str()]))
                });
                let said = said.unwrap_or_else(|| "version not known".to_owned());
                format!("{said}; claims {}", adapter.claims.words())
            }
            Tool::TarSsh => first_line("tar", "--version"),
            tool if tool.is_farshore() => first_line(&self.farshore.to_string_lossy(), "--version"),
            _ => first_line("rsync", "--version"),
        }
    }

    /// What a tool must keep.
    pub(crate) fn claims(tool: &Tool) -> Claims {
        match tool {
            Tool::Adapter(adapter) => adapter.claims.clone(),
            _ => Claims::all(),
        }
    }

    /// Starts the servers a tool needs; those started before go on.
    pub(crate) fn start_servers(&mut self, tool: &Tool, site: &Site<'_>) -> Result<(), BenchError> {
        let folder = &self.folder;
        let address = self.address().to_owned();
        match tool {
            tool if tool.is_farshore() => {
                if self.is_served(tool) && self.keys.is_none() {
                    self.keys = Some(FarshoreKeys::create(folder, &self.farshore)?);
                }
            }
            Tool::RsyncDaemon => {
                if self.daemon.is_none() {
                    self.daemon = Some(Server::start_rsync(folder, &address, site, self.janitor)?);
                }
            }
            Tool::Adapter(adapter) if !adapter.uses_ssh() => {}
            _ => {
                if self.ssh.is_none() {
                    self.ssh = Some(Server::start_ssh(folder, &address, site, self.janitor)?);
                }
            }
        }
        Ok(())
    }

    /// Starts what serves one job only: Farshore's far end, or the server of an adapter.
    pub(crate) fn start_job(
        &self,
        tool: &Tool,
        job: &Job,
        site: &Site<'_>,
    ) -> Result<Option<Server>, BenchError> {
        let address = self.address();
        match (tool, &self.keys) {
            (Tool::Adapter(adapter), _) => {
                let Some(command) = &adapter.server else { return Ok(None) };
                let line = |port| {
                    // The server takes the shell's place, so that ending it by its id ends it all.
                    let filled = adapter::fill(command, &self.variables(job, Some(port)));
                    let script = format!("exec {filled}");
                    CommandLine::new(["/bin/sh".to_owned(), "-c".to_owned(), script])
                };
                Server::start_adapter(&line, adapter.ready, address, job, site, self.janitor)
                    .map(Some)
            }
            (tool, Some(keys)) if self.is_served(tool) => {
                Server::start_farshore(&self.farshore, keys, address, job, site, self.janitor)
                    .map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Does what a tool leaves undone by its nature; not timed.
    pub(crate) fn finish_job(tool: &Tool, job: &Job) -> Result<(), BenchError> {
        match tool {
            Tool::Rsync(RsyncWay::Parallel | RsyncWay::ParallelCompressed) => {
                rsync::finish_top(job)
            }
            _ => Ok(()),
        }
    }

    /// Whether Farshore's far end is a process of its own.
    fn is_served(&self, tool: &Tool) -> bool {
        tool.is_farshore() && (self.far_address.is_some() || *tool == Tool::FarshoreServed)
    }

    /// The processes of the lasting servers.
    pub(crate) fn server_pids(&self) -> Vec<u32> {
        let ssh = self.ssh.as_ref().map(|(server, _)| server.pid());
        ssh.into_iter().chain(self.daemon.as_ref().map(Server::pid)).collect()
    }

    /// The command that brings `job.target` up to date.
    pub(crate) fn command(&self, tool: &Tool, job: &Job, own: Option<&Server>) -> CommandLine {
        match tool {
            Tool::Farshore | Tool::FarshoreServed => self.farshore_command(job, own, &[]),
            Tool::FarshoreTrust => self.farshore_command(job, own, &["--trust-target"]),
            Tool::FarshoreZ => self.farshore_command(job, own, &["--compress", "3"]),
            Tool::Rsync(way) => {
                CommandLine::new(rsync::over_ssh(*way, job, &self.ssh_words(), self.address()))
            }
            Tool::RsyncDaemon => self.rsync_daemon(job),
            Tool::TarSsh => self.tar_ssh(job),
            Tool::Adapter(adapter) => {
                let script =
                    adapter::fill(&adapter.sync, &self.variables(job, own.map(Server::port)));
                CommandLine::new(["/bin/sh".to_owned(), "-c".to_owned(), script])
            }
        }
    }

    /// What the commands of an adapter may use.
    fn variables(&self, job: &Job, port: Option<u16>) -> [(&'static str, String); 7] {
        let text = |path: &Path| path.display().to_string();
        [
            ("source", text(&job.source)),
            ("target", text(&job.target)),
            ("state", text(&job.state)),
            ("logs", text(&job.logs)),
            ("host", self.address().to_owned()),
            ("port", port.unwrap_or(0).to_string()),
            ("ssh", self.ssh_words()),
        ]
    }

    fn address(&self) -> &str {
        self.far_address.as_deref().unwrap_or("127.0.0.1")
    }

    fn farshore_command(&self, job: &Job, own: Option<&Server>, more: &[&str]) -> CommandLine {
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
        // The trees are the harness's own, wherever its work folder is.
        words.push("--allow-protected".into());
        words.extend(["--state".into(), job.state.clone().into(), "--json".into()]);
        words.extend(more.iter().map(OsString::from));
        words.extend(job.mass_change.then(|| "--approve".into()));
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

    fn rsync_daemon(&self, job: &Job) -> CommandLine {
        let port = self.daemon.as_ref().map_or(0, Server::port);
        // The module is the folder above the one of the peers' files: the work folder.
        let base = self.folder.parent().unwrap_or(&self.folder);
        let below = job.target.strip_prefix(base).unwrap_or(&job.target);
        let target = format!("rsync://{}:{port}/bench/{}/", self.address(), below.display());
        let mut words = vec!["rsync".to_owned()];
        words.extend(rsync::OPTIONS.map(str::to_owned));
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

pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| path.is_file());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// The first line a program prints for a flag.
pub(crate) fn first_line(program: &str, flag: &str) -> String {
    first_line_of(Command::new(program).arg(flag))
}

fn first_line_of(command: &mut Command) -> String {
    let text = command.output().map(|o| [o.stdout, o.stderr].concat()).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().next().unwrap_or("unknown").to_owned()
}

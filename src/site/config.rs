//! The configuration of a site: one TOML file, read whole, checked whole.
//!
//! Guarantees: a configuration that [`SiteConfig::parse`] returns keeps every rule of this module;
//! where it does not, every fault is told at once, each with its line and key; a key nobody knows is
//! a fault that names the nearest one, for a misspelt brake is no brake. [`SiteConfig::load`] looks at
//! the disk too: roots as [`crate::roots`] wants them, none within another or around the state folder.
//! Nothing is written here, so nothing is left behind by a crash.
//!
//! Times of day are UTC. What a change of the file does to a running site is in [`changes`].

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use farshore_core::brake::BrakeConfig;
use farshore_core::guard::Threshold;
use farshore_core::path::{RelPath, escape_text};

use crate::exit::{Exit, Failure};
use crate::roots::{RootError, RootRules, check_apart, check_root, check_state};

pub mod changes;
mod parse;
mod read;
pub mod values;

pub use changes::{Change, Effect};
pub use parse::{KEYS, Known};
pub use read::Fault;
pub use values::{PeerAddress, TimeOfDay};

/// Where the configuration is unless another file is named.
pub const DEFAULT_FILE: &str = "/etc/farshore/farshore.toml";
/// A thousand shares fit.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A whole configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteConfig {
    /// This site.
    pub site: Site,
    /// The other site.
    pub peer: Peer,
    /// How much of the line may be used.
    pub bandwidth: Bandwidth,
    /// What is replicated, at least one.
    pub shares: Vec<Share>,
}

/// `[site]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Its name, as the peer knows it.
    pub name: String,
    /// Keys, trust, catalogs, journals, the control socket.
    pub state: PathBuf,
    /// Where the peer can dial in.
    pub listen: Option<SocketAddr>,
    /// Where metrics can be fetched.
    pub metrics: Option<SocketAddr>,
    /// Install folders of the application: no root is one, holds one or lies in one.
    pub install_dirs: Vec<PathBuf>,
}

/// `[peer]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name, as the trust store has it.
    pub name: String,
    /// Where it is dialed; it dials in where this is absent.
    pub dial: Option<PeerAddress>,
}

/// `[bandwidth]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// Bytes a second outside the timetable; `None` for as fast as the line goes.
    pub limit: Option<u64>,
    /// Times with another limit; no two overlap.
    pub timetable: Vec<Slot>,
}

/// A part of the day with its own limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Its first minute.
    pub from: TimeOfDay,
    /// The minute after its last; it ends on the next day where this is before `from`.
    pub to: TimeOfDay,
    /// Bytes a second; `None` for as fast as the line goes.
    pub limit: Option<u64>,
}

impl Bandwidth {
    /// The limit at a moment in milliseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn limit_at(&self, unix_ms: i64) -> Option<u64> {
        let now = TimeOfDay::of(unix_ms);
        let slot = self.timetable.iter().find(|slot| slot.from.until_has(slot.to, now));
        slot.map_or(self.limit, |slot| slot.limit)
    }
}

/// What a site does with a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It is worked with here, and sent.
    Active,
    /// It is kept ready here.
    Standby,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::Standby => "standby",
        })
    }
}

impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "active" => Ok(Self::Active),
            "standby" => Ok(Self::Standby),
            _ => Err(format!("'{text}' is no role: active or standby")),
        }
    }
}

/// One `[[share]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Its name, the same at both sites.
    pub name: String,
    /// Its root as written; [`SiteConfig::load`] puts the resolved one in its place.
    pub path: PathBuf,
    /// The role it begins with.
    pub role: Role,
    /// Components of an account's path below the root; 0 makes the share one account.
    pub account_depth: usize,
    /// What decides what is replicated: names, or absolute paths of files.
    pub policies: Vec<String>,
    /// Settings by policy.
    pub settings: BTreeMap<String, BTreeMap<String, String>>,
    /// The recovery point objective.
    pub objective: Duration,
    /// Every entry is looked at once in this time.
    pub scan: Duration,
    /// How long a cut waits for more after the first change.
    pub settle: Duration,
    /// How long former versions are kept.
    pub history: History,
    /// Every byte of the standby is read once in this time.
    pub scrub: Duration,
    /// Bytes a second of reading and writing the tree's content.
    pub io_limit: Option<u64>,
    /// When replication is held.
    pub brake: Brake,
    /// Which accounts go first, and which last.
    pub priority: Priority,
    /// Other hosts that change the share too, and report what they see change.
    pub nodes: Vec<String>,
    /// Commands of the site's own around a change of role.
    pub hooks: Hooks,
    /// The active site serves the share only while it heard from the other within this time.
    pub lease: Option<Duration>,
    /// Whether the root may lie in a folder of the operating system.
    pub allow_protected: bool,
}

/// `[share.priority]`: patterns of account paths. An account that none names is a normal one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Priority {
    /// Those that go first.
    pub high: Vec<String>,
    /// Those that go last.
    pub low: Vec<String>,
}

impl Priority {
    /// Patterns that name no account however it is called: they have more components than a path of an account.
    pub fn idle(&self, account_depth: usize) -> impl Iterator<Item = &str> {
        let patterns = self.high.iter().chain(&self.low).map(String::as_str);
        // Two stars go across components, or over none.
        patterns
            .filter(|pattern| !pattern.contains("**"))
            .filter(move |pattern| pattern.trim_matches('/').split('/').count() > account_depth)
    }
}

/// `[share.hooks]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hooks {
    /// Starts the services that work with the share, when this site has become active: program and arguments.
    pub start: Vec<String>,
    /// Stops them, before this site hands the share over, or when it is fenced.
    pub stop: Vec<String>,
    /// Asks whether they would work, during a rehearsal.
    pub probe: Vec<String>,
    /// How long one may take.
    pub timeout: Duration,
}

/// `history`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// Days a version is kept; 0 keeps none.
    pub days: u32,
    /// Bytes of them at most.
    pub size: Option<u64>,
}

/// `[share.brake]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Brake {
    /// Deletions of the share that hold, together with `percent`; and replacements, with `rewrite_percent`.
    pub entries: u64,
    /// The part of the share's entries that they must be more than.
    pub percent: u8,
    /// Deletions of one account that hold it, together with `account_percent`.
    pub account_entries: u64,
    /// The part of the account's entries that they must be more than.
    pub account_percent: u8,
    /// The part that may be replaced, of an account or of the share.
    pub rewrite_percent: u8,
    /// Compressible files that became noise; 0: not looked for.
    pub encrypted: u64,
    /// Names that got one new extension added; 0: not looked for.
    pub appended: u64,
    /// Renames to one new extension; 0: not looked for.
    pub renamed: u64,
    /// Folders in which one new text turns up; 0: not looked for.
    pub note_directories: u64,
    /// Accounts held within the window beyond which the share is.
    pub spread: u64,
    /// The time they are counted over.
    pub window: Duration,
    /// Files below the root that nobody touches: a change of one holds the share.
    pub canaries: Vec<RelPath>,
    /// When deletions are expected and not counted.
    pub purges: Vec<Purge>,
}

impl Default for Brake {
    fn default() -> Self {
        let BrakeConfig { threshold, rewrite_percent, account, window_ms, shapes, spread, .. } =
            BrakeConfig::default();
        let count = |threshold: Option<Threshold>| threshold.map_or(0, |t| t.entries);
        Self {
            entries: threshold.entries,
            percent: threshold.percent,
            account_entries: account.entries,
            account_percent: account.percent,
            rewrite_percent,
            encrypted: count(shapes.encrypted),
            appended: count(shapes.appended),
            renamed: count(shapes.renamed),
            note_directories: shapes.note_directories.unwrap_or(0),
            spread,
            window: Duration::from_millis(window_ms),
            canaries: Vec::new(),
            purges: Vec::new(),
        }
    }
}

/// A known purge window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Purge {
    /// When it begins, each day.
    pub at: TimeOfDay,
    /// How long it lasts.
    pub length: Duration,
}

impl Purge {
    /// Whether it is open at a moment in milliseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn is_open(&self, unix_ms: i64) -> bool {
        const DAY_MS: i64 = 86_400_000;
        let begin = i64::from(self.at.minutes()) * 60_000;
        let since = (unix_ms.rem_euclid(DAY_MS) - begin).rem_euclid(DAY_MS);
        i64::try_from(self.length.as_millis()).is_ok_and(|length| since < length)
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("config {}: reading it", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is no text, or far too long for a configuration.
    #[error("config {}: not a text of at most 1 MiB", file.display())]
    NotText {
        /// The file.
        file: PathBuf,
    },
    /// It says something wrong.
    #[error("config {}: {}", file.display(), told(faults))]
    Faults {
        /// The file.
        file: PathBuf,
        /// All that is wrong, by line.
        faults: Vec<Fault>,
    },
}

impl ConfigError {
    /// As the command line shows it, with what to do.
    #[must_use]
    pub fn failure(&self) -> Failure {
        let failure = Failure::new(Exit::Refused, self);
        match self {
            Self::Read { source, file } if source.kind() == std::io::ErrorKind::NotFound => {
                failure.hint(format!("'farshore init --config {}' writes one", file.display()))
            }
            Self::Faults { file, .. } => failure
                .hint(format!("edit {}; nothing was changed by this attempt", file.display())),
            _ => failure,
        }
    }
}

fn told(faults: &[Fault]) -> String {
    let all: Vec<String> = faults.iter().map(|fault| escape_text(&fault.to_string())).collect();
    match all.len() {
        1 => all.join("; "),
        n => format!("{n} faults: {}", all.join("; ")),
    }
}

impl SiteConfig {
    /// Reads a configuration from its text; the disk is not looked at.
    ///
    /// # Errors
    /// Every fault there is.
    pub fn parse(text: &str) -> Result<Self, Vec<Fault>> {
        parse::parse(text).map(|parsed| parsed.config)
    }

    /// Reads `file`, checks the roots on disk, and puts the resolved ones in.
    ///
    /// # Errors
    /// [`ConfigError`] with every fault there is.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = read_text(file)?;
        let faulty = |faults| ConfigError::Faults { file: file.into(), faults };
        let parsed = parse::parse(&text).map_err(faulty)?;
        let mut config = parsed.config;
        let faults = config.check_disk(&parsed.path_lines);
        if faults.is_empty() { Ok(config) } else { Err(faulty(faults)) }
    }

    /// Reads `file` and leaves the roots alone: for commands that work on keys and trust, which must be
    /// possible before a share is there.
    ///
    /// # Errors
    /// [`ConfigError`] with every fault there is.
    pub fn load_without_roots(file: &Path) -> Result<Self, ConfigError> {
        let faulty = |faults| ConfigError::Faults { file: file.into(), faults };
        Self::parse(&read_text(file)?).map_err(faulty)
    }

    /// The share called `name`.
    #[must_use]
    pub fn share(&self, name: &str) -> Option<&Share> {
        self.shares.iter().find(|share| share.name == name)
    }

    /// What is different in `new`, and what of it needs a restart.
    #[must_use]
    pub fn changes(old: &Self, new: &Self) -> Vec<Change> {
        changes::changes(old, new)
    }

    /// What is in force when `new` takes the place of this one while the site runs.
    #[must_use]
    pub fn with_live_of(&self, new: &Self) -> Self {
        changes::in_force(self, new)
    }

    fn check_disk(&mut self, lines: &[usize]) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut resolved: Vec<(PathBuf, String)> = Vec::new();
        for (n, share) in self.shares.iter_mut().enumerate() {
            let rules = RootRules {
                allow_protected: share.allow_protected,
                install_folders: self.site.install_dirs.clone(),
            };
            let line = lines.get(n).copied().unwrap_or(0);
            let key = format!("share.{}.path", share.name);
            let mut fault = |what: String| faults.push(Fault { line, key: key.clone(), what });
            let role = match share.role {
                Role::Active => "source",
                Role::Standby => "target",
            };
            let root = match check_root(role, &share.path, &rules) {
                Ok(root) => root,
                Err(e) => {
                    let hint = match &e {
                        RootError::Protected { how: "lies in", .. } => {
                            "; if that is on purpose, set allow_protected = true"
                        }
                        RootError::Look { .. } => "; make the folder first",
                        _ => "",
                    };
                    fault(format!("{}{hint}", farshore_engine::ingest::describe(&e)));
                    continue;
                }
            };
            if let Err(e) = check_state(&self.site.state, &[&root]) {
                fault(e.to_string());
            }
            for (other, name) in &resolved {
                if check_apart(other, &root).is_err() {
                    fault(format!("one folder with, in or around that of share '{name}'"));
                }
            }
            resolved.push((root.clone(), share.name.clone()));
            share.path = root;
        }
        faults
    }
}

fn read_text(file: &Path) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read { file: file.into(), source };
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).map_err(failed)?;
    opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    let text = String::from_utf8(bytes).ok().filter(|text| text.len() as u64 <= FILE_BYTES_MAX);
    text.ok_or_else(|| ConfigError::NotText { file: file.into() })
}

#[cfg(test)]
mod tests;

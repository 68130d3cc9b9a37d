//! A configuration to begin with, and the site's key.
//!
//! Guarantees: every key there is is in the text, with its unit, its default and what it means; the text
//! is a configuration that can be read as it is. Nothing is overwritten: a configuration that is there
//! is refused, a key that is there is kept. A crash leaves a key without a configuration, which the next
//! call goes on from.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use farshore_transport::{KeyId, SiteKey, SiteKeyError};

use super::config::{PeerAddress, Role, SiteConfig};
use crate::state::{State, StateError};

/// What a configuration begins with.
#[derive(Debug, Clone)]
pub struct Beginning {
    /// This site's name.
    pub name: String,
    /// The other site's name.
    pub peer: String,
    /// The state folder.
    pub state: PathBuf,
    /// Where to listen.
    pub listen: Option<SocketAddr>,
    /// Where to dial.
    pub dial: Option<PeerAddress>,
    /// The role of every share.
    pub role: Role,
    /// Shares by name.
    pub shares: Vec<(String, PathBuf)>,
}

/// Why a site cannot be begun.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// A configuration is there.
    #[error("config {}: it is there already and is not overwritten", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be written.
    #[error("config {}: {step}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What was to be done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// What was given makes no configuration.
    #[error("config {}: {}", path.display(), what.join("; "))]
    Faulty {
        /// The file that would be written.
        path: PathBuf,
        /// All that is wrong.
        what: Vec<String>,
    },
    /// The state folder cannot be made.
    #[error(transparent)]
    State(#[from] StateError),
    /// The key cannot be made or read.
    #[error(transparent)]
    Key(#[from] SiteKeyError),
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// The configuration as text. A line that begins with `#` and no space is a key that is not set.
#[must_use]
pub fn render(begin: &Beginning) -> String {
    let set = |key: &str, value: Option<String>, example: &str| match value {
        Some(value) => format!("{key} = {}", quoted(&value)),
        None => format!("#{key} = {}", quoted(example)),
    };
    let mut text = HEAD
        .replace("@name", &quoted(&begin.name))
        .replace("@listen", &set("listen", begin.listen.map(|a| a.to_string()), "[::]:7411"))
        .replace("@peer", &quoted(&begin.peer))
        .replace(
            "@dial",
            &set("dial", begin.dial.as_ref().map(ToString::to_string), "dr.example.net:7411"),
        )
        // Paths come last: what is in them is not replaced.
        .replace("@state", &quoted(&begin.state.to_string_lossy()));
    for (name, path) in &begin.shares {
        let share = SHARE
            .replace("@name", &quoted(name))
            .replace("@role", &quoted(&begin.role.to_string()))
            .replace("@path", &quoted(&path.to_string_lossy()));
        // Writing to a string does not fail.
        write!(text, "{share}").unwrap_or(());
    }
    text
}

/// Writes the configuration to `file`, makes the state folder and the key. Returns the key's id.
///
/// # Errors
/// [`InitError`].
pub fn begin(begin: &Beginning, file: &Path) -> Result<KeyId, InitError> {
    let text = render(begin);
    if let Err(faults) = SiteConfig::parse(&text) {
        let what = faults.into_iter().map(|fault| format!("{}: {}", fault.key, fault.what));
        return Err(InitError::Faulty { path: file.into(), what: what.collect() });
    }
    // Before anything is made: who runs it twice changes nothing.
    if file.symlink_metadata().is_ok() {
        return Err(InitError::Exists { path: file.into() });
    }
    let state = State::open(Some(&begin.state))?;
    let key_file = state.key_file();
    let key = match SiteKey::create(&key_file) {
        Err(SiteKeyError::Exists { .. }) => SiteKey::load(&key_file)?,
        made => made?,
    };
    write_new(file, &text)?;
    Ok(key.key_id())
}

fn write_new(path: &Path, text: &str) -> Result<(), InitError> {
    let failed = |step| move |source| InitError::Write { path: path.into(), step, source };
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o755).create(folder).map_err(failed("making its folder"))?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o640).open(path);
    let mut file = file.map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => InitError::Exists { path: path.into() },
        _ => failed("making it")(e),
    })?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if let Err(e) = written {
        // A part of a configuration is worse than none.
        std::fs::remove_file(path).unwrap_or(());
        return Err(failed("writing it")(e));
    }
    File::open(folder).and_then(|f| f.sync_all()).map_err(failed("syncing its folder"))
}

const HEAD: &str = r#"# A Farshore site. 'systemctl reload farshore' (SIGHUP) reads it again; keys that need a restart say so.
# Keys that are commented out show their default, or an example where the default is nothing.
# Durations: 200ms, 2s, 5m, 1h, 7d. Sizes and rates: bytes, or k, M, G, T (powers of 1,024). Times: UTC.

[site]
# This site's name, as the other site knows it. Needs a restart.
name = @name
# Folder of keys, trust, catalogs, journals and the control socket. Needs a restart.
state = @state
# UDP address where the other site can dial in; nothing: nobody can. Needs a restart.
@listen
# TCP address where metrics can be fetched, by anybody who can reach it; nothing: none. Needs a restart.
#metrics = "127.0.0.1:7412"
# Install folders of the application that works with the shares: no share may be, hold or lie in one.
# Default: none. Needs a restart.
#install_dirs = ["/srv/application"]

[peer]
# The other site's name, as it was paired. Needs a restart.
name = @peer
# Where the other site is dialed; nothing: it dials in. Who dials says nothing about who sends. Needs a
# restart.
@dial

[bandwidth]
# Bytes a second of the line outside the timetable; nothing: as fast as it goes.
#limit = "20M"
# Parts of the day with another limit, or "none"; no two may overlap. Default: none.
#timetable = [ { from = "08:00", to = "18:00", limit = "5M" } ]
"#;

const SHARE: &str = r#"
[[share]]
# The share's name, the same at both sites. Needs a restart.
name = @name
# The folder it is kept in. Needs a restart.
path = @path
# The role it begins with: active (worked with here, and sent) or standby (kept ready here).
role = @role
# Components of an account's path below the share; 0: the share is one account. Needs a restart.
#account_depth = 1
# Policies that decide what is replicated: names as 'farshore policy list' shows, or absolute paths of
# files. Default: none, everything is. Their settings: see [share.settings] below. Needs a restart.
#policies = ["mft-defaults"]
# Recovery point objective: how old the standby may be. It is warned before it is broken.
#objective = "30s"
# Every entry is looked at once in this time, whatever the events say.
#scan = "1h"
# How long a cut waits for more after the first change; shorter than the objective.
#settle = "200ms"
# Former versions at the standby: days they are kept (0 to 3650; at least 1 at a standby) and bytes of
# them at most (default: no limit).
#history = { days = 14, size = "500G" }
# Every byte of the standby is read once in this time, to find what the disk lost.
#scrub = "7d"
# Bytes a second of reading and writing the share's content; nothing: no limit.
#io_limit = "50M"
# Other hosts that change the share too: each runs 'farshore capture', and is trusted under its name.
# While one of them is away, the standby's age is told by looking at everything. Needs a restart.
#nodes = ["node2", "node3"]
# The active site serves the share only while it heard from the other one within this time; a failover waits
# for it to lapse. Default: none, whoever types 'failover --force' vouches that the other site is stopped.
# The same at both sites. Needs a restart.
#lease = "1m"
# Let the share lie in a folder of the operating system (/usr, /var, /mnt, ...). Needs a restart.
#allow_protected = false

# Settings of a policy, by its name: [share.settings.NAME]; 'farshore policy inspect NAME' lists them.
#[share.settings.mft-defaults]

# Commands of the site's own: a program by its absolute path, and its arguments. 'stop' ends the services that
# work with the share, before it is handed over and when this site is fenced; 'start' starts them when this
# site has become active; 'probe' asks during a rehearsal whether they would work (FARSHORE_ROOT names the
# tree). A command that fails, or takes longer than 'timeout', stops the change of role. Default: none. Needs
# a restart.
[share.hooks]
#start = ["/usr/local/sbin/start-services"]
#stop = ["/usr/local/sbin/stop-services"]
#probe = ["/usr/local/sbin/probe-services"]
#timeout = "5m"

# Which accounts go first, and which last, when there is more to send than about a second of the line: patterns
# of their paths below the share, as rules have them ('*' any bytes but '/'). Others are normal; none waits for ever.
# Default: none. In force with a reload.
[share.priority]
#high = ["payments", "BU01/*"]
#low = ["archive-*"]

# When replication of an account, or of the share, is held until somebody looks at it (docs/brake.md).
[share.brake]
# More deletions within 'window' than both of these, of the share; the accounts with the largest part are held.
#entries = 1000
# 0 to 100.
#percent = 10
# The same of one account.
#account_entries = 20
#account_percent = 50
# More than 'entries' replaced, and than so many percent of an account or of the share.
#rewrite_percent = 50
# Shapes of ransomware: more than so many, and than half of what was deleted, replaced or moved; 0: not looked for.
# Compressible files that became noise; names that got a new extension added; renames to a new extension.
#encrypted = 20
#appended = 20
#renamed = 50
# One new text in more than so many folders at once; 0: not looked for.
#note_directories = 20
# More accounts held within 'window' hold the share.
#spread = 16
#window = "1h"
# Files below the share that nobody touches. Default: none.
#canaries = [".canary/do-not-touch.docx"]
# When deletions are expected and do not count, each day (UTC), up to 1d. Default: never.
#purges = [ { at = "02:00", for = "2h" } ]
"#;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::site::config::KEYS;

    fn beginning() -> Beginning {
        Beginning {
            name: "production".into(),
            peer: "recovery".into(),
            state: "/var/lib/farshore".into(),
            listen: Some("[::]:7411".parse().unwrap()),
            dial: None,
            role: Role::Active,
            shares: vec![
                ("homes".into(), "/shared/homes".into()),
                ("odd".into(), "/shared/a \"quoted\" \\ folder".into()),
            ],
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let config = SiteConfig::parse(&render(&beginning())).unwrap();
        assert_eq!(
            (config.site.name.as_str(), config.peer.name.as_str()),
            ("production", "recovery")
        );
        assert_eq!(config.shares[1].path, Path::new("/shared/a \"quoted\" \\ folder"));
        assert_eq!(config.shares[0].role, Role::Active);
    }

    /// The text with every key in it set.
    fn uncommented(text: &str) -> String {
        let line = |line: &str| match line.strip_prefix('#') {
            Some(key) if !key.starts_with(' ') => format!("{key}\n"),
            _ => format!("{line}\n"),
        };
        text.lines().map(line).collect()
    }

    #[test]
    fn what_is_commented_out_is_right_too_and_shows_the_defaults() {
        let mut begin = beginning();
        begin.shares.truncate(1);
        let plain = SiteConfig::parse(&render(&begin)).unwrap();
        let all = SiteConfig::parse(&uncommented(&render(&begin))).unwrap();
        let (plain, all) = (&plain.shares[0], &all.shares[0]);
        assert_eq!(
            (plain.account_depth, plain.objective, plain.scan, plain.settle, plain.scrub),
            (all.account_depth, all.objective, all.scan, all.settle, all.scrub)
        );
        assert_eq!(plain.history.days, all.history.days);
        assert_eq!(plain.allow_protected, all.allow_protected);
        let brake = |share: &crate::site::config::Share| share.brake.clone();
        let none =
            crate::site::config::Brake { canaries: Vec::new(), purges: Vec::new(), ..brake(all) };
        assert_eq!(brake(plain), none, "canaries and purges are examples");
    }

    #[test]
    fn every_key_of_the_parser_is_in_it() {
        let text = uncommented(&render(&beginning()));
        for known in KEYS {
            for key in known.keys {
                let is_there = [
                    format!("{key} = "),
                    format!("[{key}]"),
                    format!("[[{key}]]"),
                    format!(".{key}"),
                ];
                assert!(is_there.iter().any(|form| text.contains(form)), "{}.{key}", known.table);
            }
        }
    }

    #[test]
    fn nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("etc/farshore.toml");
        let mut first = beginning();
        first.state = folder.path().join("state");
        let key = begin(&first, &file).unwrap();
        let text = std::fs::read(&file).unwrap();
        assert!(matches!(begin(&first, &file), Err(InitError::Exists { .. })));
        assert_eq!(std::fs::read(&file).unwrap(), text);
        // The key stays what it is when the configuration is written anew.
        std::fs::remove_file(&file).unwrap();
        assert_eq!(begin(&first, &file).unwrap(), key);
        let lost = Beginning { listen: None, ..first };
        let other = folder.path().join("other.toml");
        assert!(matches!(begin(&lost, &other), Err(InitError::Faulty { .. })));
        assert!(!other.exists());
    }
}

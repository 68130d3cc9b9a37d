//! Any other tool, described by a small file.
//!
//! The file has one `key = value` a line and comments after `#` at the start of a line; a value goes to
//! the end of its line, without quotes of its own. The keys are in docs/benchmarking.md.
//!
//! Guarantees: commands get only paths and addresses that a shell takes as they are. Refuses unknown
//! keys, unknown variables and unknown claims, so that a slip is not a silent measurement of something
//! else. What a tool claims to keep is held against it; what it does not claim is counted and shown.

use std::path::Path;

use crate::bench::verify::{Claims, Fact};
use crate::bench::{BenchError, Context};

/// Variables of the commands.
const VARIABLES: [&str; 7] = ["source", "target", "state", "logs", "host", "port", "ssh"];

/// How a server shows that it is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ready {
    /// A TCP connection to the port succeeds.
    Tcp,
    /// The UDP port is taken.
    Udp,
}

/// A tool as its file describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Adapter {
    /// The name in tables.
    pub(crate) name: String,
    /// Brings the target up to date.
    pub(crate) sync: String,
    /// Runs at the far end while `sync` runs.
    pub(crate) server: Option<String>,
    /// How the server shows that it is up.
    pub(crate) ready: Ready,
    /// Prints the version in its first line.
    pub(crate) version: Option<String>,
    /// Whether it can bring a target up to date that is not empty.
    pub(crate) incremental: bool,
    /// What it claims to keep.
    pub(crate) claims: Claims,
    /// The programs it needs.
    needs: Vec<String>,
}

impl Adapter {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Self, BenchError> {
        let text = std::fs::read_to_string(path).at("read the adapter", path)?;
        Self::parse(&text).map_err(|said| BenchError::Adapter { path: path.to_owned(), said })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut found = Self {
            name: String::new(),
            sync: String::new(),
            server: None,
            ready: Ready::Tcp,
            version: None,
            incremental: true,
            claims: Claims::default(),
            needs: Vec::new(),
        };
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (key, value) = line
                .split_once('=')
                .ok_or_else(|| format!("line {}: not of the form key = value", number + 1))?;
            found
                .set(key.trim(), value.trim())
                .map_err(|why| format!("line {}: {why}", number + 1))?;
        }
        for (key, value) in [("name", &found.name), ("sync", &found.sync)] {
            if value.is_empty() {
                return Err(format!("{key}: missing"));
            }
        }
        Ok(found)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "name" => {
                let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
                if value.is_empty() || !value.chars().all(plain) {
                    return Err(format!("name {value:?}: letters, digits and any of . _ - only"));
                }
                if value.parse::<super::Tool>().is_ok() {
                    return Err(format!("name {value:?}: a tool of the harness has it"));
                }
                self.name = value.to_owned();
            }
            "sync" => self.sync = command(value)?,
            "server" => self.server = Some(command(value)?),
            "version" => self.version = Some(command(value)?),
            "ready" => {
                self.ready = match value {
                    "tcp" => Ready::Tcp,
                    "udp" => Ready::Udp,
                    _ => return Err(format!("ready {value:?}: tcp or udp")),
                }
            }
            "incremental" => {
                self.incremental = match value {
                    "yes" => true,
                    "no" => false,
                    _ => return Err(format!("incremental {value:?}: yes or no")),
                }
            }
            "needs" => self.needs = value.split_whitespace().map(str::to_owned).collect(),
            "claims" => {
                for word in value.split_whitespace() {
                    match (word, Fact::of_word(word)) {
                        ("all", _) => self.claims = Claims::all(),
                        (_, Some(fact)) => self.claims.add(fact),
                        (_, None) => return Err(format!("claims: no such claim as {word:?}")),
                    }
                }
            }
            _ => return Err(format!("no such key as {key:?}")),
        }
        Ok(())
    }

    /// The programs it needs; with ssh those of the harness's server.
    pub(super) fn programs(&self) -> Vec<String> {
        let mut all = self.needs.clone();
        if self.uses_ssh() {
            all.extend(["ssh", "ssh-keygen", "/usr/sbin/sshd"].map(str::to_owned));
        }
        all
    }

    /// Whether its command goes over the harness's ssh server.
    pub(super) fn uses_ssh(&self) -> bool {
        self.sync.contains("{ssh}")
    }
}

/// A command, with its variables known.
fn command(text: &str) -> Result<String, String> {
    for (at, _) in text.match_indices('{') {
        // A shell's own ${...} and { ...; } are left alone: only a bare word in braces is ours.
        let Some((word, _)) = text[at + 1..].split_once('}') else { break };
        let is_word = !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase());
        if is_word && !text[..at].ends_with('$') && !VARIABLES.contains(&word) {
            return Err(format!("no such variable as {{{word}}}"));
        }
    }
    if text.is_empty() { Err("an empty command".to_owned()) } else { Ok(text.to_owned()) }
}

/// A command with its variables filled in.
pub(super) fn fill(command: &str, values: &[(&str, String)]) -> String {
    let mut text = command.to_owned();
    for (name, value) in values {
        text = text.replace(&format!("{{{name}}}"), value);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const RCLONE: &str = "# over sftp\nname = rclone\nneeds = rclone\n\
        version = rclone version\nclaims = seconds mode\nincremental = yes\n\
        sync = rclone sync --links {source} ':sftp,ssh=\"{ssh} {host}\":{target}'\n";

    #[test]
    fn a_file_is_read() {
        let adapter = Adapter::parse(RCLONE).expect("parses");
        assert_eq!(adapter.name, "rclone");
        assert!(adapter.uses_ssh() && adapter.incremental && adapter.server.is_none());
        assert!(adapter.claims.has(Fact::Mode) && !adapter.claims.has(Fact::Owner));
        let filled = fill(&adapter.sync, &[("source", "/a".into()), ("host", "h".into())]);
        assert!(filled.contains("--links /a ") && filled.contains("{ssh} h\""), "{filled}");
    }

    #[test]
    fn slips_are_refused() {
        for (slip, word) in [
            ("name = a b\nsync = x", "name"),
            ("name = rsync-ssh\nsync = x", "harness"),
            ("name = a\nsync = cp {sorce} {target}", "{sorce}"),
            ("name = a\nsync = x\nclaims = mode speed", "speed"),
            ("name = a\nsinc = x", "sinc"),
            ("name = a", "sync"),
            ("just words", "line 1"),
        ] {
            let said = Adapter::parse(slip).expect_err(slip);
            assert!(said.contains(word), "{said}");
        }
        // The shell's own braces are not ours.
        assert!(Adapter::parse("name = a\nsync = { x ${HOME}; }").is_ok());
    }
}

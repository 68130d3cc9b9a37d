//! Exit codes: one for each kind of end, the same for every command.

use std::fmt;

use farshore_core::path::escape_text;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All was done.
    Done = 0,
    /// A fault in Farshore or in this machine.
    Internal = 1,
    /// The command line is wrong.
    Usage = 2,
    /// A root, a key or the state folder cannot be used as it is.
    Refused = 3,
    /// The other end cannot be reached, or one of the two does not trust the other.
    Connection = 4,
    /// The guard holds: an operator must look, and approve.
    Held = 5,
    /// Done but for the entries listed.
    Partial = 6,
    /// A file system is full, read-only or failing.
    Disk = 7,
    /// `verify` found differences.
    Differs = 8,
    /// Another run has the share, or the catalog, in use: later the same command can succeed.
    Busy = 9,
    /// `status` of a site: a failover now would cost more than was promised, or is not possible.
    NotReady = 10,
    /// No daemon runs for the state folder.
    NoDaemon = 11,
}

/// An error as the command line shows it: what, why, what to do.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What went wrong, with everything that caused it.
    pub message: String,
    /// The next thing to do, if there is one.
    pub hint: Option<String>,
}

impl Failure {
    /// From an error and its chain of causes.
    #[must_use]
    pub fn new(exit: Exit, error: &dyn std::error::Error) -> Self {
        Self { exit, message: farshore_engine::ingest::describe(error), hint: None }
    }

    /// A command line that cannot be meant, and what to do.
    #[must_use]
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, message: message.into(), hint: Some(hint.into()) }
    }

    /// As the one object that `--json` promises.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let hint = self.hint.as_deref().map(escape_text);
        let error = escape_text(&self.message);
        serde_json::json!({"error": error, "hint": hint, "exit": self.exit as u8})
    }

    /// With the next thing to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Paths and the peer's words are in it.
        write!(f, "farshore: {}", escape_text(&self.message))?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {}", escape_text(hint))?;
        }
        Ok(())
    }
}

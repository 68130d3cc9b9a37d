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

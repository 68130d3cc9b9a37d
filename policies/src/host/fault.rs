//! What goes wrong in a policy, in words.
//!
//! Guarantees: whatever ended a call becomes one of a few kinds, with a text for people that is cut,
//! on one line, and moves no terminal. Nothing here survives a crash.

use std::fmt;

use farshore_core::path::escape_text;
use wasmtime::Trap;

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FaultKind {
    /// The fuel is used up.
    OutOfFuel,
    /// It took too long by the clock.
    Watchdog,
    /// It wanted more memory than it may have.
    Memory,
    /// It gave up, or did what a sandbox does not allow.
    Trap(String),
    /// An answer that is none.
    Answer(String),
}

/// A call without an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CallFault {
    pub(super) kind: FaultKind,
    /// Its last line of log of level error: a panic's message.
    pub(super) said: Option<String>,
}

/// The memory cap was met.
#[derive(Debug)]
pub(super) struct MemoryCap;

/// A host call came back after the deadline.
#[derive(Debug)]
pub(super) struct PastDeadline;

/// Longest text that is kept of what a policy says.
const SAID_MAX: usize = 512;

impl FaultKind {
    /// What `error` of a call means.
    pub(super) fn of(error: &wasmtime::Error) -> Self {
        if error.downcast_ref::<MemoryCap>().is_some() {
            return Self::Memory;
        }
        if error.downcast_ref::<PastDeadline>().is_some() {
            return Self::Watchdog;
        }
        match error.downcast_ref::<Trap>() {
            Some(Trap::OutOfFuel) => Self::OutOfFuel,
            Some(Trap::Interrupt) => Self::Watchdog,
            Some(trap) => {
                let text = trap.to_string();
                Self::Trap(one_line(text.strip_prefix("wasm trap: ").unwrap_or(&text)))
            }
            None => Self::Answer(one_line(&error.root_cause().to_string())),
        }
    }
}

/// `text` cut and escaped: what a policy says goes to terminals and logs.
pub(super) fn one_line(text: &str) -> String {
    escape_text(cut(text, SAID_MAX))
}

/// At most `most` bytes of `text`, whole characters.
pub(super) fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfFuel => f.write_str("ran out of fuel"),
            Self::Watchdog => f.write_str("took too long by the clock"),
            Self::Memory => f.write_str("wanted more memory than it may have"),
            Self::Trap(text) => write!(f, "stopped: {text}"),
            Self::Answer(text) => write!(f, "gave an answer that is none: {text}"),
        }
    }
}

impl fmt::Display for CallFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)?;
        match &self.said {
            Some(said) => write!(f, " ({said})"),
            None => Ok(()),
        }
    }
}

impl From<FaultKind> for CallFault {
    fn from(kind: FaultKind) -> Self {
        Self { kind, said: None }
    }
}

impl fmt::Display for MemoryCap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory cap")
    }
}

impl fmt::Display for PastDeadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("past the deadline")
    }
}

impl std::error::Error for MemoryCap {}
impl std::error::Error for PastDeadline {}

//! Test cases of a policy, as people write them in TOML.
//!
//! ```toml
//! at = 2026-11-26T10:00:00Z        # the time of the cut; 2026-01-01 unless it is given
//! [settings]
//! suffixes = ".tmp,~"
//!
//! [[exclude]]                      # an empty file of mode 0644, owned by 0:0, of 1970, unless it is said
//! path = "a/b.tmp"                 # or path_hex = "61ff", for a name that is not UTF-8
//! size = "4G"                      # or a number of bytes
//! expect = { action = "exclude", rule = "suffix .tmp", max_fuel = 5000 }
//!
//! [[resolve]]                      # a side that is left out is not there
//! path = "var/app.log"
//! base = "one\n"
//! production = "one\ntwo\n"
//! recovery = { hex = "6f6e65", mode = 0o600 }
//! expect = { outcome = "merge", rule = "log merged", content = "one\ntwo\n" }
//!
//! [[refuse]]                       # settings that the policy must not take
//! settings = { suffixes = "" }
//! error = "suffixes"
//! ```
//! Guarantees: every key is known or the file is refused with the line, so a slip is no silent pass; a
//! case has the line it stands in. [`run`] asks a policy and says what differed.

use std::collections::BTreeMap;

use farshore_core::conflict::{Class, Conflict, Contents, Side, Site, State, Version};
use farshore_core::conflict::{ContentError, Outcome};
use farshore_core::entry::{EntryKind, Timestamp};
use farshore_core::path::RelPath;
use farshore_core::policy::Action;
use farshore_core::recipe::FileDigest;
use farshore_core::size::parse_size;
use serde::Deserialize;
use toml::Spanned;

use super::facts::{Facts, parse_hex, parse_kind, parse_path, parse_time};

mod raw;
pub mod run;

#[cfg(test)]
mod tests;

/// 2026-01-01: the time of a cut that is not said.
const AT: Timestamp = Timestamp { seconds: 1_767_225_600, nanos: 0 };

/// A file of cases that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {why}")]
pub struct CaseError {
    /// The file.
    pub file: String,
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong there.
    pub why: String,
}

/// The cases of one file.
#[derive(Debug, Clone)]
pub struct CaseFile {
    /// The file, as it was named.
    pub name: String,
    /// The time of the cut.
    pub at: Timestamp,
    /// Settings by key.
    pub settings: BTreeMap<String, String>,
    /// What is replicated.
    pub excludes: Vec<ExcludeCase>,
    /// Who wins.
    pub resolves: Vec<ResolveCase>,
    /// Settings that must be refused.
    pub refuses: Vec<RefuseCase>,
}

/// An entry and the verdict that is right.
#[derive(Debug, Clone)]
pub struct ExcludeCase {
    /// Where it stands.
    pub line: usize,
    /// The entry.
    pub facts: Facts,
    /// The action that is right.
    pub action: Action,
    /// The rule, where it was said.
    pub rule: Option<String>,
    /// Fuel it may take.
    pub max_fuel: Option<u64>,
}

/// A conflict and the decision that is right.
#[derive(Debug, Clone)]
pub struct ResolveCase {
    /// Where it stands.
    pub line: usize,
    /// The conflict.
    pub conflict: Conflict,
    /// What the versions have.
    pub texts: Texts,
    /// Paths that are not free.
    pub taken: Vec<RelPath>,
    /// What is right.
    pub expect: Expected,
}

/// The decision that is right. What is `None` may be anything.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// The outcome by its name.
    pub outcome: String,
    /// The rule.
    pub rule: Option<String>,
    /// A part of the reason.
    pub reason: Option<String>,
    /// Content of the merged file.
    pub content: Option<Vec<u8>>,
    /// Whose attributes the merged file has.
    pub attributes: Option<Site>,
    /// Whose version gets a new name.
    pub renamed: Option<Site>,
    /// The new name.
    pub new_path: Option<RelPath>,
    /// Fuel it may take.
    pub max_fuel: Option<u64>,
}

/// Settings that must be refused.
#[derive(Debug, Clone)]
pub struct RefuseCase {
    /// Where it stands.
    pub line: usize,
    /// Settings by key.
    pub settings: BTreeMap<String, String>,
    /// A part of what must be said.
    pub error: Option<String>,
}

/// The contents of the three versions.
#[derive(Debug, Clone, Default)]
pub struct Texts {
    /// Of the base.
    pub base: Option<Vec<u8>>,
    /// Of production.
    pub production: Option<Vec<u8>>,
    /// Of recovery.
    pub recovery: Option<Vec<u8>>,
}

impl Texts {
    /// What `side` has.
    #[must_use]
    pub fn of(&self, side: Side) -> Option<&[u8]> {
        match side {
            Side::Base => self.base.as_deref(),
            Side::Production => self.production.as_deref(),
            Side::Recovery => self.recovery.as_deref(),
        }
    }
}

impl Contents for Texts {
    fn read(&self, side: Side, offset: u64, length: u32) -> Result<Vec<u8>, ContentError> {
        let text = self.of(side).ok_or(ContentError::Unavailable)?;
        let rest = usize::try_from(offset).ok().and_then(|from| text.get(from..)).unwrap_or(&[]);
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(rest.len());
        Ok(rest[..length].to_vec())
    }
}

/// The name of an outcome in a case.
#[must_use]
pub fn outcome_name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Keep(Site::Production) => "keep-production",
        Outcome::Keep(Site::Recovery) => "keep-recovery",
        Outcome::KeepBoth { .. } => "keep-both",
        Outcome::Merge { .. } => "merge",
        Outcome::Delete => "delete",
        Outcome::Hold => "hold",
    }
}

/// The name of an action in a case.
#[must_use]
pub fn action_name(action: Action) -> &'static str {
    match action {
        Action::Replicate => "replicate",
        Action::Exclude => "exclude",
        Action::Defer => "defer",
    }
}

impl CaseFile {
    /// Reads the text of a file of cases; `name` is what errors call it.
    ///
    /// # Errors
    /// [`CaseError`], the first line that is wrong.
    pub fn parse(name: &str, text: &str) -> Result<Self, CaseError> {
        let line_of = |at: usize| 1 + text.bytes().take(at).filter(|b| *b == b'\n').count();
        let wrong = |line, why| CaseError { file: name.to_owned(), line, why };
        let raw: raw::File = toml::from_str(text).map_err(|e| {
            let line = e.span().map_or(1, |span| line_of(span.start));
            wrong(line, e.message().trim().replace('\n', ", "))
        })?;
        let at = match raw.at {
            None => AT,
            Some(at) => {
                let line = line_of(at.span().start);
                raw::time(at.into_inner()).map_err(|why| wrong(line, why))?
            }
        };
        let mut file = Self {
            name: name.to_owned(),
            at,
            settings: raw::settings(raw.settings),
            excludes: Vec::new(),
            resolves: Vec::new(),
            refuses: Vec::new(),
        };
        for case in raw.exclude {
            let line = line_of(case.span().start);
            file.excludes.push(case.into_inner().case(line).map_err(|why| wrong(line, why))?);
        }
        for case in raw.resolve {
            let line = line_of(case.span().start);
            file.resolves.push(case.into_inner().case(line).map_err(|why| wrong(line, why))?);
        }
        for case in raw.refuse {
            let line = line_of(case.span().start);
            let case = case.into_inner();
            let settings = raw::settings(case.settings);
            file.refuses.push(RefuseCase { line, settings, error: case.error });
        }
        Ok(file)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.excludes.len() + self.resolves.len() + self.refuses.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

//! For authors of policies: the types a policy sees, in plain Rust.
//!
//! They mirror `policies/wit/policy.wit` (`farshore:policy@0.1.0`, not frozen). This crate is the
//! seam only: an [`Exclude`] written against it is tested natively, as any Rust code. It has no glue
//! to a WebAssembly component, and Farshore has no host that would run one yet; its built-in rules
//! are those of `farshore-policies`.
//!
//! A policy is a pure function of its settings and of one [`Entry`]: no clock, no state between
//! entries, no knowledge of the batch, so that both sites decide alike.
//!
//! ```
//! use farshore_wasm_sdk::{Action, Entry, Exclude, Kind, Manifest, Policy, Setting, Verdict};
//!
//! struct Scratch {
//!     suffix: Vec<u8>,
//! }
//!
//! impl Policy for Scratch {
//!     fn configure(settings: &[Setting]) -> Result<(Self, Manifest), String> {
//!         let suffix = settings.iter().find(|s| s.key == "suffix").ok_or("no 'suffix'")?;
//!         let manifest = Manifest {
//!             name: "scratch".to_owned(),
//!             version: "1".to_owned(),
//!             rules: vec![format!("suffix {}", suffix.value)],
//!         };
//!         Ok((Self { suffix: suffix.value.clone().into_bytes() }, manifest))
//!     }
//! }
//!
//! impl Exclude for Scratch {
//!     fn exclude(&self, entry: &Entry) -> Verdict {
//!         if entry.kind == Kind::File && entry.path.ends_with(&self.suffix) {
//!             Verdict::by_rule(Action::Exclude, 0)
//!         } else {
//!             Verdict::REPLICATE
//!         }
//!     }
//! }
//!
//! let settings = [Setting { key: "suffix".to_owned(), value: ".tmp".to_owned() }];
//! let (scratch, manifest) = Scratch::configure(&settings)?;
//! // A name that is not UTF-8 is no special case.
//! let verdict = scratch.exclude(&Entry::file(*b"caf\xe9/b.tmp", 1));
//! assert_eq!(verdict.action, Action::Exclude);
//! assert_eq!(verdict.rule_text(&manifest), Some("suffix .tmp"));
//! # Ok::<(), String>(())
//! ```

/// What an entry is. A further name of a file shows as a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// A point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 UTC; negative before.
    pub seconds: i64,
    /// Nanoseconds within the second, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// What both sites know of an entry: only facts that replicate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path below the share's root as bytes: `/` between parts, none at either end, never empty, no
    /// `.` or `..` part, no NUL.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Length in bytes; 0 for what has no content.
    pub size: u64,
    /// Modification time.
    pub mtime: Timestamp,
    /// The low twelve bits of the mode.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
}

impl Entry {
    /// A file of mode 0644, owned by 0:0, modified at the epoch: for tests.
    ///
    /// ```
    /// let entry = farshore_wasm_sdk::Entry::file(*b"in/a.pay", 3);
    /// assert_eq!(entry.name(), b"a.pay");
    /// ```
    #[must_use]
    pub fn file(path: impl Into<Vec<u8>>, size: u64) -> Self {
        Self {
            path: path.into(),
            kind: Kind::File,
            size,
            mtime: Timestamp::default(),
            mode: 0o644,
            uid: 0,
            gid: 0,
        }
    }

    /// The last part of the path.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        self.path.rsplit(|&b| b == b'/').next().unwrap_or_default()
    }

    /// The parts of the path in order.
    ///
    /// ```
    /// let entry = farshore_wasm_sdk::Entry::file(*b"in/2026/a", 3);
    /// assert!(entry.parts().eq([&b"in"[..], b"2026", b"a"]));
    /// ```
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.path.split(|&b| b == b'/')
    }
}

/// What becomes of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// It travels.
    Replicate,
    /// It stays; below an excluded directory nothing is asked. What is at the other site stays as
    /// it is: excluding never deletes.
    Exclude,
    /// Not now: it is still being written. Asked again at the next cut.
    Defer,
}

/// An action and the rule that gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// What becomes of the entry.
    pub action: Action,
    /// Index into [`Manifest::rules`]; `None` when no rule matched. A host refuses an index past
    /// its end.
    pub rule: Option<u32>,
}

impl Verdict {
    /// It travels, by no rule.
    pub const REPLICATE: Self = Self { action: Action::Replicate, rule: None };

    /// `action`, by the rule of that index.
    #[must_use]
    pub fn by_rule(action: Action, rule: u32) -> Self {
        Self { action, rule: Some(rule) }
    }

    /// The text of the rule; `None` when there is none of that index.
    #[must_use]
    pub fn rule_text(self, manifest: &Manifest) -> Option<&str> {
        let index = usize::try_from(self.rule?).ok()?;
        manifest.rules.get(index).map(String::as_str)
    }
}

/// One setting of the operator's, fixed for a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// What a policy says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its name.
    pub name: String,
    /// Its own version.
    pub version: String,
    /// Its rules, as reports show them; verdicts point into them.
    pub rules: Vec<String>,
}

/// Every policy: made from its settings.
pub trait Policy: Sized {
    /// The policy for `settings`, and what it says of itself.
    ///
    /// # Errors
    /// A text for the operator; it refuses the session.
    fn configure(settings: &[Setting]) -> Result<(Self, Manifest), String>;
}

/// A policy that decides what is replicated.
pub trait Exclude: Policy {
    /// The verdict on one entry. Must depend on the entry and the settings alone.
    fn exclude(&self, entry: &Entry) -> Verdict;
}

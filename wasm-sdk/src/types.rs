//! What a policy sees and answers, as plain Rust: a mirror of `farshore:policy@1.0.0`.
//!
//! Guarantees: only facts that both sites have alike; names and contents are bytes. Does nothing by
//! itself, and holds nothing beyond the call it came with.

/// What an entry is. A further name of a file shows as a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
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

/// One of the two sites, whichever of them is active at the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Site {
    /// The site that is active in normal times.
    Production,
    /// The site that was promoted.
    Recovery,
}

/// A point in time. Ordered; the default is 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(C)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 UTC; negative before.
    pub seconds: i64,
    /// Nanoseconds within the second, below 1,000,000,000.
    pub nanoseconds: u32,
}

const NANOSECONDS: u32 = 1_000_000_000;

impl Timestamp {
    /// A whole second.
    #[must_use]
    pub const fn from_seconds(seconds: i64) -> Self {
        Self { seconds, nanoseconds: 0 }
    }

    /// The time `age` before this one.
    ///
    /// ```
    /// use farshore_wasm_sdk::Timestamp;
    /// let cut = Timestamp { seconds: 100, nanoseconds: 5 };
    /// let hour = std::time::Duration::from_secs(60);
    /// assert_eq!(cut.before(hour), Timestamp { seconds: 40, nanoseconds: 5 });
    /// ```
    #[must_use]
    pub fn before(self, age: std::time::Duration) -> Self {
        let below = self.nanoseconds < age.subsec_nanos();
        let carry = if below { NANOSECONDS } else { 0 };
        Self {
            seconds: self.seconds.saturating_sub_unsigned(age.as_secs() + u64::from(below)),
            nanoseconds: (self.nanoseconds + carry) - age.subsec_nanos(),
        }
    }

    /// The time `age` after this one.
    ///
    /// ```
    /// use farshore_wasm_sdk::Timestamp;
    /// let cut = Timestamp { seconds: 100, nanoseconds: 999_999_999 };
    /// let later = cut.after(std::time::Duration::new(1, 2));
    /// assert_eq!(later, Timestamp { seconds: 102, nanoseconds: 1 });
    /// ```
    #[must_use]
    pub fn after(self, age: std::time::Duration) -> Self {
        let nanoseconds = self.nanoseconds + age.subsec_nanos();
        let over = nanoseconds >= NANOSECONDS;
        Self {
            seconds: self.seconds.saturating_add_unsigned(age.as_secs() + u64::from(over)),
            nanoseconds: if over { nanoseconds - NANOSECONDS } else { nanoseconds },
        }
    }
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
    /// A file of mode 0644, owned by 0:0, modified at the epoch. [`testing`](crate::testing) has
    /// builders for the rest.
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

    /// The same with another size.
    #[must_use]
    pub fn with_size(self, size: u64) -> Self {
        Self { size, ..self }
    }

    /// The same with another modification time.
    #[must_use]
    pub fn with_mtime(self, mtime: Timestamp) -> Self {
        Self { mtime, ..self }
    }

    /// The same with another owner and group.
    #[must_use]
    pub fn with_owner(self, uid: u32, gid: u32) -> Self {
        Self { uid, gid, ..self }
    }

    /// The last part of the path.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        name_of(&self.path)
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

    /// Whether the entry was modified less than `age` before `at`, or after it.
    #[must_use]
    pub fn is_younger(&self, age: std::time::Duration, at: Timestamp) -> bool {
        self.mtime > at.before(age)
    }
}

/// The last part of a path.
#[must_use]
pub fn name_of(path: &[u8]) -> &[u8] {
    let start = path.iter().rposition(|&b| b == b'/').map_or(0, |slash| slash + 1);
    path.get(start..).unwrap_or_default()
}

/// What becomes of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
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
    pub const fn by_rule(action: Action, rule: u32) -> Self {
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
    /// Its rules, as reports show them; verdicts and decisions point into them.
    pub rules: Vec<String>,
}

impl Manifest {
    /// A manifest without rules; [`rule`](Self::rule) adds them.
    #[must_use]
    pub fn new(name: &str, version: &str) -> Self {
        Self { name: name.to_owned(), version: version.to_owned(), rules: Vec::new() }
    }

    /// Adds a rule, and says the index that verdicts name it by.
    ///
    /// ```
    /// let mut manifest = farshore_wasm_sdk::Manifest::new("scratch", "1");
    /// assert_eq!(manifest.rule("suffix .tmp"), 0);
    /// assert_eq!(manifest.rule("suffix ~"), 1);
    /// ```
    pub fn rule(&mut self, text: impl Into<String>) -> u32 {
        let index = u32::try_from(self.rules.len()).unwrap_or(u32::MAX);
        self.rules.push(text.into());
        index
    }
}

/// Which version of a file in conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Source {
    /// The last common recovery point.
    Base,
    /// The production site's.
    Production,
    /// The recovery site's.
    Recovery,
}

/// One version of a path in conflict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Its facts. The path is the one this version has at its site: another than the conflict's
    /// where it was renamed there.
    pub entry: Entry,
    /// BLAKE3 of the content; `None` for what has no content.
    pub digest: Option<[u8; 32]>,
    /// Where a symbolic link points.
    pub link_target: Option<Vec<u8>>,
    /// This version came to its path by a rename from there since the common point.
    pub renamed_from: Option<Vec<u8>>,
}

/// A path at one site.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum State {
    /// Not there, and not there at the common point either.
    #[default]
    Absent,
    /// There at the common point, removed since.
    Deleted,
    /// There.
    Present(Version),
}

impl State {
    /// The version, where there is one.
    #[must_use]
    pub fn version(&self) -> Option<&Version> {
        match self {
            Self::Present(version) => Some(version),
            Self::Absent | Self::Deleted => None,
        }
    }

    /// The version, where it is a regular file.
    #[must_use]
    pub fn file(&self) -> Option<&Version> {
        self.version().filter(|v| v.entry.kind == Kind::File)
    }
}

/// What kind of conflict it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Class {
    /// Both sites changed the content.
    ModifyModify,
    /// One changed it, the other removed it.
    ModifyDelete,
    /// Both created the path.
    CreateCreate,
    /// Both renamed it.
    RenameRename,
    /// One renamed it, the other changed it.
    RenameModify,
    /// It is of two kinds.
    TypeChange,
    /// Only owner, mode or the like differ.
    AttributesOnly,
}

/// A path that both sites changed since the last common recovery point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The path.
    pub path: Vec<u8>,
    /// What kind of conflict it is.
    pub class: Class,
    /// At the last common recovery point.
    pub base: State,
    /// At the production site.
    pub production: State,
    /// At the recovery site.
    pub recovery: State,
}

impl Conflict {
    /// The last part of the path.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        name_of(&self.path)
    }

    /// The state of that source.
    #[must_use]
    pub fn state(&self, source: Source) -> &State {
        match source {
            Source::Base => &self.base,
            Source::Production => &self.production,
            Source::Recovery => &self.recovery,
        }
    }

    /// The length of the file of that source; `None` when there is none.
    #[must_use]
    pub fn size(&self, source: Source) -> Option<u64> {
        self.state(source).file().map(|version| version.entry.size)
    }
}

/// A part of a merged file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of one of the versions; the engine copies them.
    Copy {
        /// Of which version.
        source: Source,
        /// Where they begin.
        offset: u64,
        /// How many.
        length: u64,
    },
    /// These bytes.
    Literal(Vec<u8>),
}

/// What failback does with a path in conflict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Production's state; where it deleted the path, the path goes.
    KeepProduction,
    /// The recovery site's state; where it deleted the path, the path goes.
    KeepRecovery,
    /// Both versions stay.
    KeepBoth {
        /// The site whose version gets the new path.
        renamed: Site,
        /// The new path below the share's root; free at both sites.
        new_path: Vec<u8>,
    },
    /// A file put together from the versions. Its time is the later of the two sites'.
    Merge {
        /// Whose owner, mode and attributes it gets; must be a file there.
        attributes: Site,
        /// Its content in order.
        pieces: Vec<Piece>,
    },
    /// Neither version stays at the path. Both are kept in the history.
    Delete,
    /// A person must decide: the plan is not runnable until one has.
    Hold,
}

/// An outcome, the rule that gave it, and why in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What failback does.
    pub outcome: Outcome,
    /// Index into [`Manifest::rules`]; `None` when no rule matched.
    pub rule: Option<u32>,
    /// For the person who reads the plan.
    pub reason: String,
}

impl Decision {
    /// `outcome`, by the rule of that index.
    #[must_use]
    pub fn by_rule(outcome: Outcome, rule: u32, reason: impl Into<String>) -> Self {
        Self { outcome, rule: Some(rule), reason: reason.into() }
    }

    /// A person must decide.
    #[must_use]
    pub fn hold(reason: impl Into<String>) -> Self {
        Self { outcome: Outcome::Hold, rule: None, reason: reason.into() }
    }
}

/// Why a version could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadError {
    /// Absent, deleted, not a file, or (base) no longer kept.
    Unavailable,
    /// Over the byte budget of this conflict; so much is left.
    OverBudget(u64),
    /// The site could not be read now: answer [`Outcome::Hold`].
    Io(String),
}

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unavailable => f.write_str("no content to be read"),
            Self::OverBudget(left) => write!(f, "over the read budget, {left} bytes are left"),
            Self::Io(text) => write!(f, "could not be read: {text}"),
        }
    }
}

impl std::error::Error for ReadError {}

/// How loud a line of the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    /// For the author.
    Debug,
    /// For the curious operator.
    Info,
    /// Something is odd.
    Warn,
    /// Something failed.
    Error,
}

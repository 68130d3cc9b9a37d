//! For native tests of a policy: `cargo test`, no WebAssembly, no host.
//!
//! ```
//! # use farshore_wasm_sdk::*;
//! # struct Scratch(GlobSet);
//! # impl Policy for Scratch {
//! #     fn configure(settings: &mut Settings, _: Timestamp) -> Result<(Self, Manifest), String> {
//! #         let mut manifest = Manifest::new("scratch", "1");
//! #         let names = settings.list("names", &["*.tmp"])?;
//! #         for name in &names { manifest.rule(format!("name {name}")); }
//! #         Ok((Self(GlobSet::new(&names)?), manifest))
//! #     }
//! # }
//! # impl Exclude for Scratch {
//! #     fn exclude(&self, entry: &Entry) -> Verdict {
//! #         let index = self.0.find(entry).and_then(|index| index.try_into().ok());
//! #         index.map_or(Verdict::REPLICATE, |index| Verdict::by_rule(Action::Exclude, index))
//! #     }
//! # }
//! use farshore_wasm_sdk::testing::{Configured, file};
//!
//! let at = Timestamp::from_seconds(1_000_000);
//! let policy = Configured::<Scratch>::new([("names", "*.tmp, *~")], at)?;
//! policy.assert(&file("in/a~"), Action::Exclude, "name *~");
//! policy.assert_replicates(&file("in/a.pay"));
//! # Ok::<(), String>(())
//! ```

use std::cell::Cell;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::policy::{Contents, Exclude, Policy, Resolve};
use crate::types::*;

/// A file of mode 0644, owned by 0:0, empty, modified at the epoch.
#[must_use]
pub fn file(path: impl AsRef<[u8]>) -> Entry {
    Entry::file(path.as_ref(), 0)
}

/// A directory of mode 0755.
#[must_use]
pub fn directory(path: impl AsRef<[u8]>) -> Entry {
    Entry { kind: Kind::Directory, mode: 0o755, ..file(path) }
}

/// A symbolic link.
#[must_use]
pub fn symlink(path: impl AsRef<[u8]>) -> Entry {
    Entry { kind: Kind::Symlink, mode: 0o777, ..file(path) }
}

/// A policy with its settings, as an instance at the host has it.
#[derive(Debug)]
pub struct Configured<T> {
    /// The policy.
    pub policy: T,
    /// What it says of itself.
    pub manifest: Manifest,
}

impl<T: Policy> Configured<T> {
    /// Configures a policy as the host does: a setting that it does not read is refused.
    ///
    /// # Errors
    /// What the operator would be told.
    pub fn new<'a>(
        settings: impl IntoIterator<Item = (&'a str, &'a str)>,
        at: Timestamp,
    ) -> Result<Self, String> {
        let own = |(k, v): (&str, &str)| Setting { key: k.to_owned(), value: v.to_owned() };
        let (policy, manifest) = crate::configure(settings.into_iter().map(own), at)?;
        Ok(Self { policy, manifest })
    }

    fn rule(&self, rule: Option<u32>) -> Option<&str> {
        let index = usize::try_from(rule?).expect("a rule's index");
        let rule = self.manifest.rules.get(index);
        Some(rule.expect("a host refuses an index past the end of the rules"))
    }
}

impl<T: Exclude> Configured<T> {
    /// The action and the text of the rule.
    ///
    /// # Panics
    /// The rule's index is past the end of the manifest's rules, which a host would refuse.
    #[must_use]
    pub fn verdict(&self, entry: &Entry) -> (Action, Option<&str>) {
        let verdict = self.policy.exclude(entry);
        (verdict.action, self.rule(verdict.rule))
    }

    /// That this is the verdict.
    ///
    /// # Panics
    /// It is another.
    #[track_caller]
    pub fn assert(&self, entry: &Entry, action: Action, rule: &str) {
        let found = self.verdict(entry);
        assert_eq!(found, (action, Some(rule)), "the verdict on '{}'", entry.path.escape_ascii());
    }

    /// That no rule holds the entry back.
    ///
    /// # Panics
    /// One does.
    #[track_caller]
    pub fn assert_replicates(&self, entry: &Entry) {
        let found = self.verdict(entry);
        assert_eq!(found.0, Action::Replicate, "'{}' {:?}", entry.path.escape_ascii(), found.1);
    }
}

impl<T: Resolve> Configured<T> {
    /// The decision on a case, its rule's text, and the content of the file it merges.
    ///
    /// # Panics
    /// The decision is one that a host would refuse: a rule past the end of the manifest's, a span
    /// past the end of its version, attributes of a site that has no file.
    #[must_use]
    pub fn decide(&self, case: &Case) -> Decided<'_> {
        let decision = self.policy.resolve(&case.conflict(), &case.contents());
        let rule = self.rule(decision.rule);
        let merged = match &decision.outcome {
            Outcome::Merge { attributes, pieces } => {
                let state = match attributes {
                    Site::Production => &case.production,
                    Site::Recovery => &case.recovery,
                };
                assert!(matches!(state, Side::Content(_)), "attributes of what is no file");
                Some(case.apply(pieces).expect("spans within their versions"))
            }
            _ => None,
        };
        Decided { decision, rule, merged }
    }
}

/// A decision, looked up and carried out.
#[derive(Debug)]
pub struct Decided<'a> {
    /// As the policy gave it.
    pub decision: Decision,
    /// The text of its rule.
    pub rule: Option<&'a str>,
    /// The content that its recipe makes.
    pub merged: Option<Vec<u8>>,
}

/// A conflict and its contents, told by what is at each site.
#[derive(Debug, Clone)]
pub struct Case {
    path: Vec<u8>,
    class: Option<Class>,
    base: Side,
    production: Side,
    recovery: Side,
    budget: u64,
    fails: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Side {
    Absent,
    Deleted,
    Content(Vec<u8>),
    Other(State),
}

impl Case {
    /// A path that is nowhere yet.
    #[must_use]
    pub fn new(path: impl AsRef<[u8]>) -> Self {
        Self {
            path: path.as_ref().to_vec(),
            class: None,
            base: Side::Absent,
            production: Side::Absent,
            recovery: Side::Absent,
            budget: 4 << 20,
            fails: false,
        }
    }

    /// A file with that content at the last common recovery point.
    #[must_use]
    pub fn base(mut self, content: impl AsRef<[u8]>) -> Self {
        self.base = Side::Content(content.as_ref().to_vec());
        self
    }

    /// A file with that content at the production site.
    #[must_use]
    pub fn production(mut self, content: impl AsRef<[u8]>) -> Self {
        self.production = Side::Content(content.as_ref().to_vec());
        self
    }

    /// A file with that content at the recovery site.
    #[must_use]
    pub fn recovery(mut self, content: impl AsRef<[u8]>) -> Self {
        self.recovery = Side::Content(content.as_ref().to_vec());
        self
    }

    /// The production site deleted it.
    #[must_use]
    pub fn production_deleted(mut self) -> Self {
        self.production = Side::Deleted;
        self
    }

    /// The recovery site deleted it.
    #[must_use]
    pub fn recovery_deleted(mut self) -> Self {
        self.recovery = Side::Deleted;
        self
    }

    /// Anything else, such as a directory, a link, or a file that was renamed; it cannot be read.
    #[must_use]
    pub fn state(mut self, source: Source, state: State) -> Self {
        let side = match source {
            Source::Base => &mut self.base,
            Source::Production => &mut self.production,
            Source::Recovery => &mut self.recovery,
        };
        *side = Side::Other(state);
        self
    }

    /// Another class than the one that follows from the states.
    #[must_use]
    pub fn class(mut self, class: Class) -> Self {
        self.class = Some(class);
        self
    }

    /// How many bytes may be read; 4 MiB unless told.
    #[must_use]
    pub fn budget(mut self, bytes: u64) -> Self {
        self.budget = bytes;
        self
    }

    /// Every read fails with [`ReadError::Io`].
    #[must_use]
    pub fn unreadable(mut self) -> Self {
        self.fails = true;
        self
    }

    fn side(&self, source: Source) -> &Side {
        match source {
            Source::Base => &self.base,
            Source::Production => &self.production,
            Source::Recovery => &self.recovery,
        }
    }

    fn state_of(&self, side: &Side) -> State {
        match side {
            Side::Absent => State::Absent,
            Side::Deleted => State::Deleted,
            Side::Other(state) => state.clone(),
            Side::Content(content) => State::Present(Version {
                entry: Entry::file(self.path.clone(), content.len() as u64),
                digest: Some(digest(content)),
                link_target: None,
                renamed_from: None,
            }),
        }
    }

    /// The conflict. Its digests are equal where the contents are, and are not BLAKE3.
    #[must_use]
    pub fn conflict(&self) -> Conflict {
        let base = self.state_of(&self.base);
        let production = self.state_of(&self.production);
        let recovery = self.state_of(&self.recovery);
        let kind = |state: &State| state.version().map(|version| version.entry.kind);
        let class = match (kind(&production), kind(&recovery)) {
            (Some(p), Some(r)) if p != r => Class::TypeChange,
            (Some(_), Some(_)) if base == State::Absent => Class::CreateCreate,
            (Some(_), Some(_)) if self.production == self.recovery => Class::AttributesOnly,
            (Some(_), Some(_)) => Class::ModifyModify,
            _ => Class::ModifyDelete,
        };
        let class = self.class.unwrap_or(class);
        Conflict { path: self.path.clone(), class, base, production, recovery }
    }

    /// The contents, with the whole budget.
    #[must_use]
    pub fn contents(&self) -> Fake<'_> {
        Fake { case: self, left: Cell::new(self.budget) }
    }

    /// The content that a recipe makes.
    ///
    /// # Errors
    /// A span past the end of its version.
    pub fn apply(&self, pieces: &[Piece]) -> Result<Vec<u8>, String> {
        let mut made = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Literal(bytes) => made.extend_from_slice(bytes),
                &Piece::Copy { source, offset, length } => {
                    let Side::Content(content) = self.side(source) else {
                        return Err(format!("a span of {source:?}, which has no content"));
                    };
                    let start = usize::try_from(offset).ok();
                    let end = offset.checked_add(length).and_then(|end| usize::try_from(end).ok());
                    let span = start.zip(end).and_then(|(start, end)| content.get(start..end));
                    let past = || format!("a span of {source:?} past its {} bytes", content.len());
                    made.extend_from_slice(span.ok_or_else(past)?);
                }
            }
        }
        Ok(made)
    }
}

fn digest(content: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    for (seed, part) in (0u64..).zip(digest.chunks_exact_mut(8)) {
        let mut hasher = DefaultHasher::new();
        (seed, content).hash(&mut hasher);
        part.copy_from_slice(&hasher.finish().to_le_bytes());
    }
    digest
}

/// The contents of a [`Case`], as a host would give them.
#[derive(Debug)]
pub struct Fake<'a> {
    case: &'a Case,
    left: Cell<u64>,
}

impl Contents for Fake<'_> {
    fn read(&self, source: Source, offset: u64, length: u32) -> Result<Vec<u8>, ReadError> {
        if self.case.fails {
            return Err(ReadError::Io("as the test wants".to_owned()));
        }
        let Side::Content(content) = self.case.side(source) else {
            return Err(ReadError::Unavailable);
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
        let end = start.saturating_add(length as usize).min(content.len());
        let part = &content[start..end];
        let left = self.left.get().checked_sub(part.len() as u64);
        self.left.set(left.ok_or(ReadError::OverBudget(self.left.get()))?);
        Ok(part.to_vec())
    }
}

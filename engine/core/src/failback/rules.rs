//! What is decided by default, and what the site configures of it.

use std::fmt;

use crate::path::RelPath;

/// A line of the table of defaults in [`crate::failback`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Rule {
    /// Recovery alone created, changed or renamed it.
    RecoveryOnly = 1,
    /// Recovery alone deleted or moved it.
    Consumed = 2,
    /// Production alone changed or renamed it.
    ProductionOnly = 3,
    /// Production deleted it, recovery left its content alone.
    DeleteWins = 4,
    /// Production deleted or moved it, recovery changed attributes alone.
    ConsumedAtProduction = 5,
    /// Production alone received it, and recovery has the content.
    Resent = 6,
    /// Production alone received it.
    Orphan = 7,
    /// Production's is a partial upload or a mark of processing.
    InFlight = 8,
    /// Production moved it to such a name.
    Interrupted = 9,
    /// Both did the same.
    Agree = 10,
    /// Both changed it.
    BothChanged = 11,
    /// Recovery deleted it, production changed it.
    Delivered = 12,
    /// Both changed attributes alone.
    Attributes = 13,
    /// Production consumed what recovery left alone, with another change of recovery's bound to it.
    Entangled = 14,
    /// Production's would lie below what is no directory at recovery.
    NoRoom = 15,
    /// Attributes of a file that is not there.
    Companion = 16,
    /// A directory.
    Directory = 17,
    /// A directory that one site removed, with something below that stays.
    DirectoryNeeded = 18,
    /// An answer that cannot be carried out.
    BadAnswer = 19,
    /// The base is lost.
    NoBase = 20,
}

impl Rule {
    /// Every rule, in the order of its number.
    pub const ALL: [Self; 20] = [
        Self::RecoveryOnly,
        Self::Consumed,
        Self::ProductionOnly,
        Self::DeleteWins,
        Self::ConsumedAtProduction,
        Self::Resent,
        Self::Orphan,
        Self::InFlight,
        Self::Interrupted,
        Self::Agree,
        Self::BothChanged,
        Self::Delivered,
        Self::Attributes,
        Self::Entangled,
        Self::NoRoom,
        Self::Companion,
        Self::Directory,
        Self::DirectoryNeeded,
        Self::BadAnswer,
        Self::NoBase,
    ];

    /// The rule with that number.
    #[must_use]
    pub fn of(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// Its name in reports and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RecoveryOnly => "recovery-only",
            Self::Consumed => "consumed",
            Self::ProductionOnly => "production-only",
            Self::DeleteWins => "delete-wins",
            Self::ConsumedAtProduction => "consumed-at-production",
            Self::Resent => "resent",
            Self::Orphan => "orphan",
            Self::InFlight => "in-flight",
            Self::Interrupted => "interrupted",
            Self::Agree => "agree",
            Self::BothChanged => "both-changed",
            Self::Delivered => "delivered",
            Self::Attributes => "attributes",
            Self::Entangled => "entangled",
            Self::NoRoom => "no-room",
            Self::Companion => "companion",
            Self::Directory => "directory",
            Self::DirectoryNeeded => "directory-needed",
            Self::BadAnswer => "bad-answer",
            Self::NoBase => "no-base",
        }
    }

    /// What it means, for people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::RecoveryOnly => "only recovery changed it",
            Self::Consumed => "recovery consumed it: it stays gone",
            Self::ProductionOnly => "only production changed it",
            Self::DeleteWins => {
                "production consumed it and recovery left its content alone: it goes"
            }
            Self::ConsumedAtProduction => {
                "production consumed it, recovery changed attributes alone: it goes"
            }
            Self::Resent => "only production received it here, but recovery got the same content",
            Self::Orphan => {
                "only production received it: publishing it means a late delivery, \
                 and it may be the only copy"
            }
            Self::InFlight => "a partial upload or a mark of processing at production",
            Self::Interrupted => "production was working on it: it may or may not be delivered",
            Self::Agree => "both sites did the same",
            Self::BothChanged => "both sites changed it: recovery's stays",
            Self::Delivered => "recovery consumed it, production changed it: it stays gone",
            Self::Attributes => "the content is equal, both changed attributes: recovery's stay",
            Self::Entangled => {
                "production consumed what recovery left alone, and recovery changed what belongs to it"
            }
            Self::NoRoom => "something above it is no directory at recovery",
            Self::Companion => "attributes of a file that is not there",
            Self::Directory => "a directory: nothing is delivered by it",
            Self::DirectoryNeeded => "one site removed the directory, something below it stays",
            Self::BadAnswer => "the answer cannot be carried out",
            Self::NoBase => "the common base is lost: nothing counts as deleted",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is known of the last common recovery point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Base {
    /// Both lists were made against it.
    #[default]
    Known,
    /// It is lost or not trusted: the lists name everything a site has, as created.
    Unknown,
}

/// What the site configures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What is known of the base.
    pub base: Base,
    /// Components of a path that name its account.
    pub account_depth: usize,
    /// Ends of names of partial uploads, in lower case.
    pub in_flight_suffixes: Vec<Vec<u8>>,
    /// Parts of names that mark work in progress, in lower case.
    pub in_flight_parts: Vec<Vec<u8>>,
    /// Folders that hold, for each file beside them, its attributes under its name.
    pub companions: Vec<RelPath>,
}

impl Default for Config {
    fn default() -> Self {
        let bytes = |texts: &[&str]| texts.iter().map(|t| t.as_bytes().to_vec()).collect();
        Self {
            base: Base::Known,
            account_depth: 1,
            in_flight_suffixes: bytes(&[".filepart", ".tmp", ".part"]),
            in_flight_parts: bytes(&[".m_inproc"]),
            companions: RelPath::new(&b".stfs/attrs"[..]).into_iter().collect(),
        }
    }
}

impl Config {
    /// Whether the name says that it is not finished, or marks what is being worked on.
    #[must_use]
    pub fn is_in_flight(&self, path: &RelPath) -> bool {
        let name = path.name().to_ascii_lowercase();
        let contains = |part: &Vec<u8>| {
            !part.is_empty() && name.windows(part.len()).any(|window| window == &part[..])
        };
        self.in_flight_suffixes.iter().any(|s| !s.is_empty() && name.ends_with(s))
            || self.in_flight_parts.iter().any(contains)
    }

    /// The file whose attributes are at `path`, if they are somebody's.
    #[must_use]
    pub fn owner_of(&self, path: &RelPath) -> Option<RelPath> {
        let (folder, name) = path.split()?;
        self.companions.iter().find_map(|companion| {
            let above = folder.as_bytes().strip_suffix(companion.as_bytes())?;
            let above = match above {
                [] => RelPath::root(),
                [above @ .., b'/'] => RelPath::new(above).ok()?,
                _ => return None,
            };
            above.join(name).ok()
        })
    }

    /// Where the attributes of `path` are, in the first of the folders or in the one that `like` is in.
    #[must_use]
    pub fn companion_of(&self, path: &RelPath, like: &RelPath) -> Option<RelPath> {
        let (above, name) = path.split()?;
        let folder = like.split()?.0;
        let is_in = |c: &&RelPath| folder.as_bytes().ends_with(c.as_bytes());
        let companion = self.companions.iter().find(is_in).or(self.companions.first())?;
        let folder = companion.components().try_fold(above, |at, name| at.join(name)).ok()?;
        folder.join(name).ok()
    }
}

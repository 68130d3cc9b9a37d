//! A path that both sites changed, the answers there are to it, and which of them can be carried out.
//!
//! Guarantees: an [`Outcome`] that [`check`] let pass names sides that are there, copies only bytes
//! that the versions have, builds a file within the limits, and gives a version no name that leaves
//! the share, hides in Farshore's own folder, hides what is there, or is the same to a client that
//! takes upper and lower case for one. Whoever answers, a person or a policy, is checked by it.
//! Refuses: everything else, with the reason. Reads and writes nothing; nothing here survives a crash.

use std::fmt;

use crate::entry::{EntryKind, Timestamp};
use crate::limits::FILE_SIZE_MAX;
use crate::path::{PathError, RelPath};
use crate::recipe::FileDigest;

/// Literal bytes of a merged file, at most: a plan holds them.
pub const LITERAL_MAX: usize = 1 << 20;

/// Pieces of a merged file, at most.
pub const PIECES_MAX: usize = 64 * 1024;

/// Farshore's own folder at a share's root, in lower case.
const OWN_NAME: &[u8] = b".farshore";

/// A site that serves the share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Site {
    /// Where users work in ordinary times.
    Production,
    /// Where they worked meanwhile.
    Recovery,
}

/// A version in a conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The last common recovery point.
    Base,
    /// What production has.
    Production,
    /// What recovery has.
    Recovery,
}

/// One version of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Where it is at its site: another path than the conflict's where it was renamed there.
    pub path: RelPath,
    /// Kind; a further name of an inode shows as a file.
    pub kind: EntryKind,
    /// Length in bytes; 0 for what has no content.
    pub size: u64,
    /// Modification time.
    pub mtime: Timestamp,
    /// Permission bits.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Of the content; `None` for what has none.
    pub digest: Option<FileDigest>,
    /// Where a symbolic link points.
    pub link_target: Option<Box<[u8]>>,
    /// It came to its path by a rename from there since the common point.
    pub renamed_from: Option<RelPath>,
}

/// What a side has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Nothing, and nothing at the common point either.
    Absent,
    /// Nothing any more.
    Deleted,
    /// This version.
    Present(Version),
}

impl State {
    /// The version, if there is one.
    #[must_use]
    pub fn version(&self) -> Option<&Version> {
        match self {
            Self::Present(version) => Some(version),
            Self::Absent | Self::Deleted => None,
        }
    }
}

/// How the sites differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Both changed it.
    ModifyModify,
    /// One changed it, the other deleted it.
    ModifyDelete,
    /// Both made it.
    CreateCreate,
    /// Both renamed it, to different names.
    RenameRename,
    /// One renamed it, the other changed it.
    RenameModify,
    /// It is of another kind at each.
    TypeChange,
    /// The content is equal, owner, mode, time or attributes are not.
    AttributesOnly,
}

/// A path that both sites changed since their last common recovery point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The path.
    pub path: RelPath,
    /// How they differ.
    pub class: Class,
    /// At the last common recovery point.
    pub base: State,
    /// At production.
    pub production: State,
    /// At recovery.
    pub recovery: State,
}

impl Conflict {
    /// What `side` has.
    #[must_use]
    pub fn side(&self, side: Side) -> &State {
        match side {
            Side::Base => &self.base,
            Side::Production => &self.production,
            Side::Recovery => &self.recovery,
        }
    }

    /// What `site` has.
    #[must_use]
    pub fn site(&self, site: Site) -> &State {
        match site {
            Site::Production => &self.production,
            Site::Recovery => &self.recovery,
        }
    }
}

/// A piece of a merged file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of a version.
    Copy {
        /// Whose.
        side: Side,
        /// From this byte.
        offset: u64,
        /// So many.
        length: u64,
    },
    /// These bytes.
    Literal(Vec<u8>),
}

/// What becomes of the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// That site's state; where it deleted the path, the path goes.
    Keep(Site),
    /// Both versions stay: that of `renamed` at `path`.
    KeepBoth {
        /// Whose version gets a new name.
        renamed: Site,
        /// The new name; must be free at both sites.
        path: RelPath,
    },
    /// A file put together from the versions; its time is the later of the two sites'.
    Merge {
        /// Whose owner, mode and attributes it gets.
        attributes: Site,
        /// Its content in order.
        pieces: Vec<Piece>,
    },
    /// Neither version stays at the path; both are kept in the history.
    Delete,
    /// A person must decide.
    Hold,
}

/// An answer, by whom and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What becomes of the path.
    pub outcome: Outcome,
    /// Index into the rules of who decided.
    pub rule: Option<u32>,
    /// For people.
    pub reason: String,
}

/// Why bytes of a version cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// There are none: absent, deleted, not a file, or no longer kept.
    #[error("it has no content that is kept")]
    Unavailable,
    /// The site could not be read now.
    #[error("it could not be read: {0}")]
    Io(String),
}

/// The contents of the versions in one conflict.
pub trait Contents: Send + Sync {
    /// `length` bytes of `side` from `offset`; fewer only at its end.
    ///
    /// # Errors
    /// [`ContentError`].
    fn read(&self, side: Side, offset: u64, length: u32) -> Result<Vec<u8>, ContentError>;
}

/// Why an outcome cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutcomeError {
    /// A side it needs never was there.
    #[error("{0} never had the path: keeping its state would delete what the other site made")]
    Absent(Site),
    /// Two versions are to stay and there is one.
    #[error("both versions are to stay, but {0} has none")]
    NoVersion(Site),
    /// The new name is no path below the share's root.
    #[error("the new name is not a path")]
    Path(#[from] PathError),
    /// The new name is the root, or in Farshore's own folder.
    #[error("the new name is reserved: {0}")]
    Reserved(RelPath),
    /// The new name is the path itself, or below it, or the same where case does not count.
    #[error("the new name is the path itself, below it, or differs from it by case alone: {0}")]
    Same(RelPath),
    /// Something is there.
    #[error("the new name is not free at both sites: {0}")]
    Taken(RelPath),
    /// Owner and mode are to be those of what is not a file.
    #[error("a merged file is to have the attributes of {0}, which has no file there")]
    NotAFile(Site),
    /// Bytes are to be copied from what has none.
    #[error("piece {piece} copies from {side}, which has no file there")]
    NoContent {
        /// Which piece, counted from 0.
        piece: usize,
        /// From where.
        side: Side,
    },
    /// Bytes are to be copied that are not there.
    #[error("piece {piece} copies {length} bytes from {offset} of {side}, which has {size}")]
    PastTheEnd {
        /// Which piece, counted from 0.
        piece: usize,
        /// From where.
        side: Side,
        /// From this byte.
        offset: u64,
        /// So many.
        length: u64,
        /// How many it has.
        size: u64,
    },
    /// More than [`PIECES_MAX`].
    #[error("a merged file of {0} pieces, the limit is {PIECES_MAX}")]
    TooManyPieces(usize),
    /// More than [`LITERAL_MAX`].
    #[error("a merged file with more than {LITERAL_MAX} literal bytes")]
    TooManyLiterals,
    /// More than a file can have.
    #[error("a merged file of more than {FILE_SIZE_MAX} bytes")]
    TooLong,
}

/// Whether `outcome` can be carried out for `conflict`.
///
/// `is_free` tells whether nothing is at a path at either site, and every directory above it is a
/// directory or free at both.
///
/// # Errors
/// [`OutcomeError`], the first reason why not.
pub fn check(
    conflict: &Conflict,
    outcome: &Outcome,
    is_free: &dyn Fn(&RelPath) -> bool,
) -> Result<(), OutcomeError> {
    match outcome {
        Outcome::Hold | Outcome::Delete => Ok(()),
        Outcome::Keep(site) => match conflict.site(*site) {
            State::Absent => Err(OutcomeError::Absent(*site)),
            State::Deleted | State::Present(_) => Ok(()),
        },
        Outcome::KeepBoth { path, .. } => check_both(conflict, path, is_free),
        Outcome::Merge { attributes, pieces } => check_merge(conflict, *attributes, pieces),
    }
}

fn check_both(
    conflict: &Conflict,
    path: &RelPath,
    is_free: &dyn Fn(&RelPath) -> bool,
) -> Result<(), OutcomeError> {
    for site in [Site::Production, Site::Recovery] {
        if conflict.site(site).version().is_none() {
            return Err(OutcomeError::NoVersion(site));
        }
    }
    let first = path.components().next();
    if first.is_none_or(|name| fold(name) == OWN_NAME) {
        return Err(OutcomeError::Reserved(path.clone()));
    }
    let (folded, taken) = (fold(path.as_bytes()), fold(conflict.path.as_bytes()));
    let is_below = folded.strip_prefix(&*taken).is_some_and(|rest| rest.starts_with(b"/"));
    if folded == taken || is_below {
        return Err(OutcomeError::Same(path.clone()));
    }
    if !is_free(path) {
        return Err(OutcomeError::Taken(path.clone()));
    }
    Ok(())
}

fn check_merge(
    conflict: &Conflict,
    attributes: Site,
    pieces: &[Piece],
) -> Result<(), OutcomeError> {
    if file(conflict.site(attributes)).is_none() {
        return Err(OutcomeError::NotAFile(attributes));
    }
    if pieces.len() > PIECES_MAX {
        return Err(OutcomeError::TooManyPieces(pieces.len()));
    }
    let (mut literal, mut total) = (0usize, 0u64);
    for (index, piece) in pieces.iter().enumerate() {
        let length = match piece {
            Piece::Literal(bytes) => {
                literal = literal.saturating_add(bytes.len());
                bytes.len() as u64
            }
            Piece::Copy { side, offset, length } => {
                let (piece, side) = (index, *side);
                let Some(version) = file(conflict.side(side)) else {
                    return Err(OutcomeError::NoContent { piece, side });
                };
                let (offset, length, size) = (*offset, *length, version.size);
                if offset.checked_add(length).is_none_or(|end| end > size) {
                    return Err(OutcomeError::PastTheEnd { piece, side, offset, length, size });
                }
                length
            }
        };
        total = total.saturating_add(length);
    }
    if literal > LITERAL_MAX {
        return Err(OutcomeError::TooManyLiterals);
    }
    if total > FILE_SIZE_MAX {
        return Err(OutcomeError::TooLong);
    }
    Ok(())
}

fn file(state: &State) -> Option<&Version> {
    state.version().filter(|v| matches!(v.kind, EntryKind::File | EntryKind::HardLink))
}

/// In lower case: as Unicode where it is UTF-8, else its ASCII letters.
fn fold(name: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(name) {
        Ok(text) => text.to_lowercase().into_bytes(),
        Err(_) => name.to_ascii_lowercase(),
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Production => "production",
            Self::Recovery => "recovery",
        })
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Base => "base",
            Self::Production => "production",
            Self::Recovery => "recovery",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).expect("a path")
    }

    fn present(kind: EntryKind, size: u64) -> State {
        State::Present(Version {
            path: path("a/b"),
            kind,
            size,
            mtime: Timestamp::default(),
            mode: 0o644,
            uid: 1,
            gid: 1,
            digest: None,
            link_target: None,
            renamed_from: None,
        })
    }

    fn conflict() -> Conflict {
        Conflict {
            path: path("a/b"),
            class: Class::ModifyModify,
            base: present(EntryKind::File, 10),
            production: present(EntryKind::File, 20),
            recovery: present(EntryKind::File, 30),
        }
    }

    fn both(to: &str) -> Outcome {
        Outcome::KeepBoth { renamed: Site::Recovery, path: path(to) }
    }

    fn merge(pieces: Vec<Piece>) -> Outcome {
        Outcome::Merge { attributes: Site::Production, pieces }
    }

    fn copy(side: Side, offset: u64, length: u64) -> Piece {
        Piece::Copy { side, offset, length }
    }

    #[test]
    fn a_site_that_never_had_the_path_cannot_be_kept() {
        let mut c = conflict();
        c.recovery = State::Absent;
        let free = |_: &RelPath| true;
        let keep = Outcome::Keep(Site::Recovery);
        assert_eq!(check(&c, &keep, &free), Err(OutcomeError::Absent(Site::Recovery)));
        c.recovery = State::Deleted;
        assert_eq!(check(&c, &keep, &free), Ok(()));
        assert_eq!(
            check(&c, &both("a/c"), &free),
            Err(OutcomeError::NoVersion(Site::Recovery)),
            "a deletion cannot be renamed"
        );
        assert_eq!(check(&c, &Outcome::Hold, &free), Ok(()));
        assert_eq!(check(&c, &Outcome::Delete, &free), Ok(()));
    }

    #[test]
    fn a_new_name_is_free_and_hides_nowhere() {
        let c = conflict();
        let free = |p: &RelPath| p.as_bytes() != b"a/taken";
        assert_eq!(check(&c, &both("a/c"), &free), Ok(()));
        for (to, wanted) in [
            (".farshore/x", OutcomeError::Reserved(path(".farshore/x"))),
            (".FarShore/x", OutcomeError::Reserved(path(".FarShore/x"))),
            ("", OutcomeError::Reserved(path(""))),
            ("a/b", OutcomeError::Same(path("a/b"))),
            ("A/B", OutcomeError::Same(path("A/B"))),
            ("a/b/c", OutcomeError::Same(path("a/b/c"))),
            ("a/taken", OutcomeError::Taken(path("a/taken"))),
        ] {
            assert_eq!(check(&c, &both(to), &free), Err(wanted), "{to}");
        }
        // Beside it, not below it.
        assert_eq!(check(&c, &both("a/bc"), &free), Ok(()));
        assert_eq!(check(&c, &both("a/x/.farshore"), &free), Ok(()));
    }

    #[test]
    fn a_merged_file_copies_what_is_there() {
        let free = |_: &RelPath| true;
        let mut c = conflict();
        let good = merge(vec![copy(Side::Base, 0, 10), Piece::Literal(vec![1; 5])]);
        assert_eq!(check(&c, &good, &free), Ok(()));
        for (offset, length) in [(0, 11), (10, 1), (u64::MAX, 1), (1, u64::MAX)] {
            let outcome = merge(vec![copy(Side::Base, 0, 1), copy(Side::Base, offset, length)]);
            let wanted =
                OutcomeError::PastTheEnd { piece: 1, side: Side::Base, offset, length, size: 10 };
            assert_eq!(check(&c, &outcome, &free), Err(wanted));
        }
        let literals = merge(vec![Piece::Literal(vec![0; LITERAL_MAX]), Piece::Literal(vec![0])]);
        assert_eq!(check(&c, &literals, &free), Err(OutcomeError::TooManyLiterals));
        let pieces = merge(vec![copy(Side::Base, 0, 0); PIECES_MAX + 1]);
        assert_eq!(check(&c, &pieces, &free), Err(OutcomeError::TooManyPieces(PIECES_MAX + 1)));
        c.base = present(EntryKind::File, FILE_SIZE_MAX);
        let long = merge(vec![copy(Side::Base, 0, FILE_SIZE_MAX), copy(Side::Production, 0, 1)]);
        assert_eq!(check(&c, &long, &free), Err(OutcomeError::TooLong));
        c.base = State::Deleted;
        let gone = merge(vec![copy(Side::Base, 0, 1)]);
        let wanted = OutcomeError::NoContent { piece: 0, side: Side::Base };
        assert_eq!(check(&c, &gone, &free), Err(wanted));
        c.production = present(EntryKind::Directory, 0);
        assert_eq!(check(&c, &good, &free), Err(OutcomeError::NotAFile(Site::Production)));
    }

    proptest! {
        #[test]
        fn what_passes_stays_within_the_versions(
            spans in prop::collection::vec((0u8..3, any::<u64>(), any::<u64>(), 0u64..40, 0u64..40, any::<bool>()), 0..6)
        ) {
            let c = conflict();
            let pieces: Vec<_> = spans
                .into_iter()
                .map(|(side, far, long, offset, length, is_wild)| {
                    let side = [Side::Base, Side::Production, Side::Recovery][usize::from(side)];
                    if is_wild { copy(side, far, long) } else { copy(side, offset, length) }
                })
                .collect();
            let fits = pieces.iter().all(|piece| match piece {
                Piece::Copy { side, offset, length } => {
                    let size = c.side(*side).version().map_or(0, |v| u128::from(v.size));
                    u128::from(*offset) + u128::from(*length) <= size
                }
                Piece::Literal(_) => true,
            });
            prop_assert_eq!(check(&c, &merge(pieces), &|_| true).is_ok(), fits);
        }
    }
}

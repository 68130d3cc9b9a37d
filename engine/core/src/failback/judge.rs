//! What becomes of one path, where nothing else hangs on it, and what may be placed where.
//!
//! Guarantees: whoever answers, an outcome that leaves here can be carried out: names are free at both
//! sites and given away once, nothing is placed below what is no directory.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;

use super::classify::{How, alike, apart, asked_as, by_production, by_recovery, how};
use super::index::{Key, Left, SideIndex, content_key, key};
use super::list::ListError;
use super::merge::{BaseTree, Resolve};
use super::{AtSite, Class, Config, DecidedBy, Rule};
use crate::conflict::{self, Conflict, Decision, Outcome, Piece, Side, Site, State, Version};
use crate::entry::{Entry, EntryKind};
use crate::path::RelPath;

/// Literal bytes of all merged files of a plan, at most: they are held until it is written.
const LITERALS_MAX: usize = 64 << 20;

/// A path with what each site has there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) path: RelPath,
    pub(super) base: Option<Entry>,
    pub(super) production: AtSite,
    pub(super) recovery: AtSite,
}

impl Member {
    pub(super) fn at(&self, site: Site) -> &AtSite {
        match site {
            Site::Production => &self.production,
            Site::Recovery => &self.recovery,
        }
    }

    pub(super) fn entry(&self, site: Site) -> Option<&Entry> {
        self.at(site).entry.as_ref()
    }

    pub(super) fn how(&self, site: Site) -> How {
        how(self.base.as_ref(), self.entry(site))
    }

    /// Whether the entry is another than at the base, be it a directory's time alone.
    pub(super) fn is_changed(&self, site: Site) -> bool {
        self.entry(site) != self.base.as_ref()
    }

    pub(super) fn is_alike(&self) -> bool {
        self.production.entry == self.recovery.entry
    }

    pub(super) fn is_renamed(&self, site: Site) -> bool {
        self.at(site).moved_from.is_some() || self.at(site).moved_to.is_some()
    }

    /// Whether everything that is or was there is a directory.
    pub(super) fn is_directory(&self) -> bool {
        let all = [&self.base, &self.production.entry, &self.recovery.entry];
        all.into_iter().flatten().all(|e| e.kind() == EntryKind::Directory)
    }

    pub(super) fn has_directory(&self) -> bool {
        let all = [&self.base, &self.production.entry, &self.recovery.entry];
        all.into_iter().flatten().any(|e| e.kind() == EntryKind::Directory)
    }
}

/// What becomes of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) class: Class,
    pub(super) outcome: Outcome,
    pub(super) by: DecidedBy,
    pub(super) reason: String,
}

impl Verdict {
    pub(super) fn default(class: Class, outcome: Outcome, rule: Rule) -> Self {
        Self { class, outcome, by: DecidedBy::Default(rule), reason: String::new() }
    }

    pub(super) fn keep(class: Class, site: Site, rule: Rule) -> Self {
        Self::default(class, Outcome::Keep(site), rule)
    }

    pub(super) fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = reason.into();
        self
    }
}

/// Production's version goes to the quarantine, recovery's state stays.
pub(super) fn lose_production(member: &Member) -> Outcome {
    match member.recovery.entry.as_ref().or(member.base.as_ref()) {
        Some(_) => Outcome::Keep(Site::Recovery),
        None => Outcome::Delete,
    }
}

/// Decides with what is known of both sites.
pub(super) struct Judge<'a> {
    pub(super) config: &'a Config,
    pub(super) base: &'a dyn BaseTree,
    pub(super) resolver: &'a dyn Resolve,
    pub(super) production: SideIndex,
    pub(super) recovery: SideIndex,
    /// Content that production alone received and that recovery has in the same account.
    pub(super) seen: HashSet<Key>,
    /// Where production made a directory of what recovery left as it is, and more than that decides about it.
    doubtful: RefCell<HashSet<Key>>,
    /// New names given away.
    claimed: RefCell<HashSet<Key>>,
    literals: Cell<usize>,
    /// Why the base could not be asked.
    failure: RefCell<Option<ListError>>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(
        config: &'a Config,
        base: &'a dyn BaseTree,
        resolver: &'a dyn Resolve,
        [production, recovery]: [SideIndex; 2],
        seen: HashSet<Key>,
    ) -> Self {
        Self {
            config,
            base,
            resolver,
            production,
            recovery,
            seen,
            doubtful: RefCell::default(),
            claimed: RefCell::default(),
            literals: Cell::new(0),
            failure: RefCell::default(),
        }
    }

    /// The first failure of the base since the last call.
    pub(super) fn take_failure(&self) -> Result<(), ListError> {
        self.failure.borrow_mut().take().map_or(Ok(()), Err)
    }

    /// What the base has at `path`; nothing once it failed.
    pub(super) fn base_entry(&self, path: &RelPath) -> Option<Entry> {
        match self.base.entry(path) {
            Ok(entry) => entry,
            Err(e) => {
                self.failure.borrow_mut().get_or_insert(e);
                None
            }
        }
    }

    fn left_at(&self, index: &SideIndex, path: &RelPath) -> Left {
        index.get(&key(path)).unwrap_or_else(|| Left::of(self.base_entry(path).as_ref()))
    }

    /// Whether a version may get the name `path`.
    pub(super) fn is_free(&self, path: &RelPath) -> bool {
        if self.claimed.borrow().contains(&key(path)) {
            return false;
        }
        [&self.production, &self.recovery].into_iter().all(|index| {
            self.left_at(index, path) == Left::Nothing
                && ancestors(path)
                    .all(|above| above.is_root() || self.left_at(index, &above) != Left::Other)
        }) && self.failure.borrow().is_none()
    }

    /// Whether nothing stands in the way above `path` at recovery, or may stay there.
    pub(super) fn has_room(&self, path: &RelPath) -> bool {
        let doubtful = self.doubtful.borrow();
        ancestors(path).map(|above| key(&above)).all(|above| {
            self.recovery.get(&above) != Some(Left::Other) && !doubtful.contains(&above)
        })
    }

    /// Nothing has room below `key` any more.
    pub(super) fn doubt(&self, key: Key) {
        self.doubtful.borrow_mut().insert(key);
    }

    /// What becomes of a path that is not only directories and bound to no other.
    pub(super) fn single(&self, member: &Member) -> Verdict {
        let (p, r) = (member.how(Site::Production), member.how(Site::Recovery));
        match (p, r) {
            (How::Same, _) => recovery_only(member),
            (_, How::Same) => self.production_only(member),
            _ if member.is_alike() => Verdict::keep(alike(p, false), Site::Recovery, Rule::Agree),
            _ => self.both(member),
        }
    }

    fn production_only(&self, member: &Member) -> Verdict {
        let how = member.how(Site::Production);
        let class = by_production(how, member.is_renamed(Site::Production));
        let Some(entry) = &member.production.entry else {
            return Verdict::keep(class, Site::Production, Rule::DeleteWins);
        };
        if self.is_in_flight(member) {
            return Verdict::default(class, lose_production(member), Rule::InFlight);
        }
        if how == How::Created && entry.kind() != EntryKind::Directory {
            return self.orphan(class, &member.path, entry.content(), entry.size());
        }
        self.taken(class, member, Rule::ProductionOnly)
    }

    /// Production's, where there is room for it.
    pub(super) fn taken(&self, class: Class, member: &Member, rule: Rule) -> Verdict {
        if member.production.entry.is_some() && !self.has_room(&member.path) {
            return Verdict::default(class, Outcome::Hold, Rule::NoRoom);
        }
        Verdict::keep(class, Site::Production, rule)
    }

    /// What production alone received.
    pub(super) fn orphan(
        &self,
        class: Class,
        path: &RelPath,
        content: Option<&crate::recipe::FileDigest>,
        size: u64,
    ) -> Verdict {
        // Empty files are all alike: that says nothing of one.
        let is_seen = size > 0
            && content.is_some_and(|content| {
                self.seen.contains(&content_key(path, self.config.account_depth, content))
            });
        if is_seen {
            Verdict::default(class, Outcome::Delete, Rule::Resent)
        } else {
            Verdict::default(class, Outcome::Hold, Rule::Orphan)
        }
    }

    /// Whether production's version, no directory, has a name of what is not finished.
    pub(super) fn is_in_flight(&self, member: &Member) -> bool {
        Left::of(member.entry(Site::Production)) == Left::Other
            && self.config.is_in_flight(&member.path)
    }

    fn both(&self, member: &Member) -> Verdict {
        let [p, r] = [&member.production.entry, &member.recovery.entry];
        let class = apart(member.base.as_ref(), p.as_ref(), r.as_ref());
        if self.is_in_flight(member) {
            return Verdict::default(class, lose_production(member), Rule::InFlight);
        }
        if !member.has_directory()
            && let Some(verdict) = self.ask(class, &conflict_at(member, class))
        {
            return self.checked(verdict, member);
        }
        match (p, r) {
            (None, _) if member.how(Site::Recovery) == How::Metadata => {
                Verdict::keep(class, Site::Production, Rule::ConsumedAtProduction)
            }
            (_, None) => Verdict::keep(class, Site::Recovery, Rule::Delivered),
            _ if class == Class::BothMetadata => {
                Verdict::keep(class, Site::Recovery, Rule::Attributes)
            }
            _ => Verdict::keep(class, Site::Recovery, Rule::BothChanged),
        }
    }

    /// What the policies say of a conflict, as far as it can be carried out.
    pub(super) fn ask(&self, class: Class, conflict: &Conflict) -> Option<Verdict> {
        let (policy, decision) = self.resolver.resolve(conflict, &|path| self.is_free(path))?;
        let Decision { outcome, reason, .. } = decision;
        let checked = conflict::check(conflict, &outcome, &|path| self.is_free(path));
        let refused = match (&outcome, checked) {
            (_, Err(e)) => Some(e.to_string()),
            (Outcome::Merge { pieces, .. }, Ok(())) if copies_from_base(pieces) => Some(
                "it copies from the version of the common point, which is kept nowhere".to_owned(),
            ),
            (Outcome::Merge { pieces, .. }, Ok(())) if !self.holds_literals(pieces) => {
                Some(format!("merged files of more than {LITERALS_MAX} literal bytes in one plan"))
            }
            _ => None,
        };
        if let Some(why) = refused {
            return Some(bad_answer(class, DecidedBy::Policy(policy), &why));
        }
        Some(Verdict { class, outcome, by: DecidedBy::Policy(policy), reason })
    }

    fn holds_literals(&self, pieces: &[Piece]) -> bool {
        let more: usize = pieces
            .iter()
            .map(|piece| match piece {
                Piece::Literal(bytes) => bytes.len(),
                Piece::Copy { .. } => 0,
            })
            .sum();
        let all = self.literals.get().saturating_add(more);
        if all <= LITERALS_MAX {
            self.literals.set(all);
        }
        all <= LITERALS_MAX
    }

    /// An answer about a single path, held where there is no room for it.
    fn checked(&self, verdict: Verdict, member: &Member) -> Verdict {
        let places = match &verdict.outcome {
            Outcome::Keep(Site::Production) => member.production.entry.is_some(),
            Outcome::Merge { .. } => true,
            Outcome::KeepBoth { renamed, .. } => *renamed == Site::Recovery,
            _ => false,
        };
        if places && !self.has_room(&member.path) {
            return bad_answer(verdict.class, verdict.by, Rule::NoRoom.text());
        }
        if let Outcome::KeepBoth { path, .. } = &verdict.outcome {
            self.claim(path);
        }
        verdict
    }

    /// Gives a new name away.
    pub(super) fn claim(&self, path: &RelPath) {
        self.claimed.borrow_mut().insert(key(path));
    }
}

fn copies_from_base(pieces: &[Piece]) -> bool {
    pieces.iter().any(|piece| matches!(piece, Piece::Copy { side: Side::Base, .. }))
}

/// An answer that cannot be carried out.
pub(super) fn bad_answer(class: Class, by: DecidedBy, why: &str) -> Verdict {
    Verdict::default(class, Outcome::Hold, Rule::BadAnswer).because(format!("{by}: {why}"))
}

/// Recovery's, which alone changed it.
pub(super) fn recovery_only(member: &Member) -> Verdict {
    let class = by_recovery(member.how(Site::Recovery), member.is_renamed(Site::Recovery));
    let rule = match member.recovery.entry {
        None => Rule::Consumed,
        Some(_) => Rule::RecoveryOnly,
    };
    Verdict::keep(class, Site::Recovery, rule)
}

/// The directories above `path`, the nearest first, the root left out.
pub(super) fn ancestors(path: &RelPath) -> impl Iterator<Item = RelPath> {
    let parent = |path: &RelPath| path.split().map(|(parent, _)| parent).filter(|p| !p.is_root());
    std::iter::successors(parent(path), parent)
}

/// A path as policies and [`conflict::check`] see it.
pub(super) fn conflict_at(member: &Member, class: Class) -> Conflict {
    let present = |entry: &Entry, from: Option<&RelPath>| {
        State::Present(version(&member.path, entry, entry, from))
    };
    let gone = if member.base.is_some() { State::Deleted } else { State::Absent };
    let at = |site| {
        let AtSite { entry, moved_from, .. } = member.at(site);
        entry.as_ref().map_or(gone.clone(), |entry| present(entry, moved_from.as_ref()))
    };
    Conflict {
        path: member.path.clone(),
        class: asked_as(class, is_other_kind(&member.production.entry, &member.recovery.entry))
            .unwrap_or(conflict::Class::ModifyModify),
        base: member.base.as_ref().map_or(State::Absent, |entry| present(entry, None)),
        production: at(Site::Production),
        recovery: at(Site::Recovery),
    }
}

pub(super) fn is_other_kind(a: &Option<Entry>, b: &Option<Entry>) -> bool {
    use super::classify::plain;
    matches!((a, b), (Some(a), Some(b)) if plain(a.kind()) != plain(b.kind()))
}

/// The facts of `entry` at `path`; those that a further name shares are its first name's.
pub(super) fn version(
    path: &RelPath,
    entry: &Entry,
    first: &Entry,
    moved_from: Option<&RelPath>,
) -> Version {
    let meta = first.meta().cloned().unwrap_or_default();
    Version {
        path: path.clone(),
        kind: super::classify::plain(entry.kind()),
        size: first.size(),
        mtime: meta.mtime,
        mode: meta.mode,
        uid: meta.uid,
        gid: meta.gid,
        digest: first.content().copied(),
        link_target: match entry {
            Entry::Symlink { target, .. } => Some(target.clone()),
            _ => None,
        },
        renamed_from: moved_from.cloned(),
    }
}

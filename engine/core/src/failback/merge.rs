//! The join of both lists, in path order.
//!
//! The lists are read three times: once for what is bound to what and for what was left where; once to
//! decide what no single path can be decided by, and to learn which directories are still needed; once
//! more as the plan is read (a list that tells of moves without their inodes, once more). Guarantees: one [`Divergence`] for every path of either list whose entry
//! differs anywhere, in path order. Memory holds an index of both lists, the groups that production
//! changed something of, and what policies answered; not the lists.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::classify::{How, alike, by_production};
use super::index::{Key, Links, key};
use super::join::{Join, Learned};
use super::judge::{Judge, Member, Verdict, ancestors, recovery_only};
use super::list::{ChangeList, ListError};
use super::unit::class_at_recovery;
use super::{Base, Class, Config, DecidedBy, Divergence, GroupId, Rule, is_directory};
use crate::conflict::{Conflict, Decision, Outcome, Piece, Side, Site};
use crate::entry::{Entry, EntryKind};
use crate::path::RelPath;

/// The last common recovery point, as far as the merge asks for it.
pub trait BaseTree {
    /// What it has at `path`.
    ///
    /// # Errors
    /// [`ListError::Source`].
    fn entry(&self, path: &RelPath) -> Result<Option<Entry>, ListError>;
}

/// No base: it is lost, or had nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoBase;

impl BaseTree for NoBase {
    fn entry(&self, _: &RelPath) -> Result<Option<Entry>, ListError> {
        Ok(None)
    }
}

/// Who is asked about a conflict.
pub trait Resolve {
    /// The place in the chain of the policy that answers, and its answer; `None` leaves it to the
    /// defaults. `is_free` tells whether a version may get a name.
    fn resolve(
        &self,
        conflict: &Conflict,
        is_free: &dyn Fn(&RelPath) -> bool,
    ) -> Option<(u32, Decision)>;
}

/// Nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unasked;

impl Resolve for Unasked {
    fn resolve(&self, _: &Conflict, _: &dyn Fn(&RelPath) -> bool) -> Option<(u32, Decision)> {
        None
    }
}

impl<F> Resolve for F
where
    F: Fn(&Conflict, &dyn Fn(&RelPath) -> bool) -> Option<(u32, Decision)>,
{
    fn resolve(
        &self,
        conflict: &Conflict,
        is_free: &dyn Fn(&RelPath) -> bool,
    ) -> Option<(u32, Decision)> {
        self(conflict, is_free)
    }
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// A site's list.
    #[error("the list of changes of {0}")]
    List(Site, #[source] ListError),
    /// The base.
    #[error("the last common recovery point")]
    Base(#[source] ListError),
    /// The lists do not belong together.
    #[error("{0}: the lists were made against different recovery points")]
    Bases(RelPath),
}

/// What a plan is made of.
#[derive(Clone, Copy)]
pub struct Merge<'a> {
    /// What production changed.
    pub production: &'a dyn ChangeList,
    /// What recovery changed.
    pub recovery: &'a dyn ChangeList,
    /// Against what.
    pub base: &'a dyn BaseTree,
    /// Asked about conflicts.
    pub resolver: &'a dyn Resolve,
    /// What the site configures.
    pub config: &'a Config,
}

impl std::fmt::Debug for Merge<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Merge").field("config", &self.config).finish_non_exhaustive()
    }
}

impl<'a> Merge<'a> {
    /// Decides; the divergences come as they are read.
    ///
    /// # Errors
    /// [`MergeError`].
    pub fn run(&self) -> Result<Merged<'a>, MergeError> {
        let mut learned = Learned::default();
        learned.read(self, Site::Production)?;
        learned.read(self, Site::Recovery)?;
        let Learned { production, recovery, mut links, moved_away, seen, moves, .. } = learned;
        let moves = moves.map(Arc::new);
        links.finish(production.keys());
        let sides = [production, recovery];
        let judge = Judge::new(self.config, self.base, self.resolver, sides, seen);
        let mut merged = Merged {
            join: Join::new(self, &moves)?,
            judge,
            links,
            moved_away,
            decided: HashMap::new(),
            needed: Needed::default(),
            no_directory: HashSet::new(),
            is_failed: false,
        };
        if self.config.base == Base::Known {
            merged.decide()?;
            merged.join = Join::new(self, &moves)?;
        }
        Ok(merged)
    }
}

/// What was decided of a path before it is read for the last time.
struct Decided {
    verdict: Verdict,
    production_moved_to: Option<RelPath>,
    recovery_moved_to: Option<RelPath>,
    at_recovery: Option<RelPath>,
}

impl From<Verdict> for Decided {
    fn from(verdict: Verdict) -> Self {
        Self { verdict, production_moved_to: None, recovery_moved_to: None, at_recovery: None }
    }
}

/// Directories above what will be there.
#[derive(Default)]
struct Needed {
    directories: HashSet<Key>,
    /// The directories above this one were added last.
    last: Option<RelPath>,
}

impl Needed {
    fn has(&self, key: &Key) -> bool {
        self.directories.contains(key)
    }

    /// Adds the directories above `path` that either site changed.
    fn add(&mut self, path: &RelPath, judge: &Judge<'_>) {
        let parent = path.split().map(|(parent, _)| parent);
        if parent == self.last {
            return;
        }
        for above in ancestors(path) {
            let key = key(&above);
            if judge.production.get(&key).is_some() || judge.recovery.get(&key).is_some() {
                self.directories.insert(key);
            }
        }
        self.last = parent;
    }
}

/// The divergences, in path order.
pub struct Merged<'a> {
    join: Join<'a>,
    judge: Judge<'a>,
    links: Links,
    moved_away: HashSet<Key>,
    decided: HashMap<Key, Decided>,
    needed: Needed,
    /// Paths that were or are a directory somewhere, and will be none.
    no_directory: HashSet<Key>,
    is_failed: bool,
}

impl std::fmt::Debug for Merged<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Merged").field("decided", &self.decided.len()).finish_non_exhaustive()
    }
}

impl Merged<'_> {
    /// The second reading.
    fn decide(&mut self) -> Result<(), MergeError> {
        let mut groups: HashMap<u32, Vec<Member>> = HashMap::new();
        while let Some(member) = self.join.take()? {
            let key = key(&member.path);
            if member.is_directory() {
                self.need_created_directory(&member);
                continue;
            }
            if let Some((group, true)) = self.links.group_of(&key) {
                let is_directory = |site| is_directory(member.entry(site));
                if is_directory(Site::Production) && !is_directory(Site::Recovery) {
                    self.judge.doubt(key);
                }
                groups.entry(group).or_default().push(member);
                continue;
            }
            let verdict = self.judge.single(&member);
            self.need(&member, &verdict.outcome);
            // Policies are asked once.
            if matches!(verdict.by, DecidedBy::Policy(_) | DecidedBy::Default(Rule::BadAnswer)) {
                self.decided.insert(key, verdict.into());
            }
        }
        // In the order of their paths: new names are given away in turn.
        let mut groups: Vec<_> = groups.into_values().collect();
        groups.sort_by(|a, b| a.first().map(|m| &m.path).cmp(&b.first().map(|m| &m.path)));
        let mut replacing = Vec::new();
        for mut members in groups {
            note_moves(&mut members);
            let verdicts = self.judge.unit(&members);
            let is_replacing = members.iter().zip(&verdicts).any(replaces_directory);
            match is_replacing {
                true => replacing.push((members, verdicts)),
                false => self.decide_group(&members, verdicts),
            }
        }
        self.decide_replacing(replacing);
        self.judge.take_failure().map_err(MergeError::Base)
    }

    /// Groups that put something in the place of a directory are held where something below that stays;
    /// what is held stays itself, and may be below the next.
    fn decide_replacing(&mut self, mut replacing: Vec<(Vec<Member>, Vec<Verdict>)>) {
        let is_barred = |needed: &Needed, members: &[Member], verdicts: &[Verdict]| {
            members
                .iter()
                .zip(verdicts)
                .any(|both| replaces_directory(both) && needed.has(&key(&both.0.path)))
        };
        while let Some(at) =
            replacing.iter().position(|(m, verdicts)| is_barred(&self.needed, m, verdicts))
        {
            let (members, verdicts) = replacing.remove(at);
            let hold = |v: &Verdict| Verdict::default(v.class, Outcome::Hold, Rule::Entangled);
            self.decide_group(&members, verdicts.iter().map(hold).collect());
        }
        for (members, verdicts) in replacing {
            self.decide_group(&members, verdicts);
        }
    }

    fn decide_group(&mut self, members: &[Member], verdicts: Vec<Verdict>) {
        for (member, verdict) in members.iter().zip(verdicts) {
            self.need(member, &verdict.outcome);
            let decided = Decided {
                verdict,
                production_moved_to: member.production.moved_to.clone(),
                recovery_moved_to: member.recovery.moved_to.clone(),
                at_recovery: source_at_recovery(member, members),
            };
            self.decided.insert(key(&member.path), decided);
        }
    }

    fn need_created_directory(&mut self, member: &Member) {
        if member.recovery.entry.is_some() && member.base.is_none() {
            self.needed.add(&member.path, &self.judge);
        }
    }

    /// What will be at `path` needs the directories above it.
    fn need(&mut self, member: &Member, outcome: &Outcome) {
        if let Outcome::KeepBoth { path, .. } = outcome {
            self.needed.add(path, &self.judge);
        }
        let is_there = match outcome {
            Outcome::Merge { .. } => true,
            _ => end(member, outcome).is_some(),
        };
        if is_there {
            self.needed.add(&member.path, &self.judge);
        }
    }

    /// The third reading; `None` for a path at which nothing differs.
    fn divergence(&mut self, mut member: Member) -> Result<Option<Divergence>, MergeError> {
        let is_same = |site| member.entry(site) == member.base.as_ref();
        // A further name is listed when its file changed, though it is a name of that as before.
        let is_name = member.base.as_ref().is_some_and(|e| e.kind() == EntryKind::HardLink);
        if is_same(Site::Production) && is_same(Site::Recovery) && !is_name {
            return Ok(None);
        }
        let key = key(&member.path);
        let group = self.links.group_of(&key);
        let decided = match self.decided.remove(&key) {
            Some(decided) => decided,
            None if self.judge.config.base == Base::Unknown => match member.is_alike() {
                true => return Ok(None),
                false => Verdict::default(Class::NoBase, Outcome::Hold, Rule::NoBase).into(),
            },
            None if member.is_directory() => self.directory(&member, &key).into(),
            None if group.is_some() => {
                let mut verdict = recovery_only(&member);
                verdict.class = class_at_recovery(&member, self.moved_away.contains(&key));
                verdict.into()
            }
            None => self.judge.single(&member).into(),
        };
        self.judge.take_failure().map_err(MergeError::Base)?;
        let Decided { verdict, production_moved_to, recovery_moved_to, at_recovery } = decided;
        let verdict = self.mended(verdict, &member, &key);
        member.production.moved_to = production_moved_to;
        member.recovery.moved_to = recovery_moved_to;
        let group = group.filter(|_| !member.is_directory());
        let at_recovery = at_recovery.or_else(|| source_at_recovery(&member, &[]));
        self.note_end(&member, &verdict.outcome, key);
        let Verdict { class, outcome, by, reason } = verdict;
        let needs = needs(&member, &outcome, at_recovery.as_ref());
        let Member { path, base, production, recovery } = member;
        let group = group.map(|(group, _)| GroupId(self.links.number(group)));
        Ok(Some(Divergence {
            path,
            base,
            production,
            recovery,
            class,
            outcome,
            by,
            reason,
            group,
            at_recovery,
            needs,
        }))
    }

    /// A directory that is needed stays, whatever else was to be at its path.
    fn mended(&self, verdict: Verdict, member: &Member, key: &Key) -> Verdict {
        let at = |site| member.entry(site);
        if !self.needed.has(key) || is_directory(end(member, &verdict.outcome)) {
            return verdict;
        }
        if is_directory(at(Site::Recovery)) {
            return Verdict::keep(Class::BothKind, Site::Recovery, Rule::DirectoryNeeded);
        }
        if is_directory(at(Site::Production)) && at(Site::Recovery).is_none() {
            return Verdict::keep(verdict.class, Site::Production, Rule::DirectoryNeeded);
        }
        verdict
    }

    fn directory(&self, member: &Member, key: &Key) -> Verdict {
        let Member { path, base, production, recovery } = member;
        let is_needed = self.needed.has(key);
        let (p, r) = (member.how(Site::Production), member.how(Site::Recovery));
        let keep = Verdict::keep;
        match (&production.entry, &recovery.entry) {
            (Some(_), Some(_)) => directory_at_both(member),
            (None, None) => keep(Class::BothDeleted, Site::Recovery, Rule::Agree),
            (None, Some(_)) if base.is_none() => {
                keep(Class::RecoveryCreated, Site::Recovery, Rule::RecoveryOnly)
            }
            (None, Some(_)) => {
                let class = match r {
                    How::Same => Class::ProductionDeleted,
                    _ => Class::ProductionDeletedRecoveryModified,
                };
                match is_needed {
                    true => keep(class, Site::Recovery, Rule::DirectoryNeeded),
                    false => keep(class, Site::Production, Rule::DeleteWins),
                }
            }
            (Some(_), None) if base.is_some() => {
                let class = match p {
                    How::Same => Class::RecoveryDeleted,
                    _ => Class::ProductionModifiedRecoveryDeleted,
                };
                match is_needed {
                    true => keep(class, Site::Production, Rule::DirectoryNeeded),
                    false => keep(class, Site::Recovery, Rule::Consumed),
                }
            }
            (Some(_), None) => {
                let class = Class::ProductionCreated;
                let parent = path.split().map(|(parent, _)| super::index::key(&parent));
                let has_parent = parent.is_none_or(|p| !self.no_directory.contains(&p));
                if is_needed || (has_parent && self.judge.has_room(path)) {
                    keep(class, Site::Production, Rule::Directory)
                } else {
                    Verdict::default(class, Outcome::Delete, Rule::Directory)
                        .because("the directory above it is gone")
                }
            }
        }
    }

    /// Remembers what will be no directory, for what lies below.
    fn note_end(&mut self, member: &Member, outcome: &Outcome, key: Key) {
        let end = end(member, outcome);
        let entries = [&member.base, &member.production.entry, &member.recovery.entry];
        if !is_directory(end) && entries.into_iter().any(|e| is_directory(e.as_ref())) {
            self.no_directory.insert(key);
        }
    }
}

/// What is at the path of `member` afterwards; a merged file is nothing here.
fn end<'a>(member: &'a Member, outcome: &Outcome) -> Option<&'a Entry> {
    match outcome {
        Outcome::Keep(Site::Production) | Outcome::KeepBoth { renamed: Site::Recovery, .. } => {
            member.production.entry.as_ref()
        }
        Outcome::Keep(Site::Recovery) | Outcome::Hold | Outcome::KeepBoth { .. } => {
            member.recovery.entry.as_ref()
        }
        Outcome::Delete | Outcome::Merge { .. } => None,
    }
}

/// Enters at each old name where what was there is now.
fn note_moves(members: &mut [Member]) {
    for site in [Site::Production, Site::Recovery] {
        let moves: Vec<_> = members
            .iter()
            .filter_map(|m| Some((m.at(site).moved_from.clone()?, m.path.clone())))
            .collect();
        for (from, to) in moves {
            let Some(origin) = members.iter_mut().find(|m| m.path == from) else { continue };
            match site {
                Site::Production => origin.production.moved_to = Some(to),
                Site::Recovery => origin.recovery.moved_to = Some(to),
            }
        }
    }
}

/// Whether something that is no directory takes the place of one of recovery's.
fn replaces_directory((member, verdict): (&Member, &Verdict)) -> bool {
    verdict.outcome == Outcome::Keep(Site::Production)
        && is_directory(member.recovery.entry.as_ref())
        && !is_directory(member.production.entry.as_ref())
}

fn directory_at_both(member: &Member) -> Verdict {
    let (p, r) = (member.how(Site::Production), member.how(Site::Recovery));
    let keep = Verdict::keep;
    if member.is_alike() {
        return keep(alike(p, false), Site::Recovery, Rule::Agree);
    }
    let timeless =
        super::classify::how(member.production.entry.as_ref(), member.recovery.entry.as_ref());
    match (p, r) {
        _ if timeless == How::Same => {
            let class =
                match (member.is_changed(Site::Production), member.is_changed(Site::Recovery)) {
                    (true, false) => by_production(How::Metadata, false),
                    (false, _) => super::classify::by_recovery(How::Metadata, false),
                    (true, true) => alike(p, false),
                };
            keep(class, Site::Recovery, Rule::Directory)
        }
        (How::Same, _) => keep(Class::RecoveryMetadata, Site::Recovery, Rule::RecoveryOnly),
        (_, How::Same) => keep(Class::ProductionMetadata, Site::Production, Rule::ProductionOnly),
        _ => keep(Class::BothMetadata, Site::Recovery, Rule::Attributes),
    }
}

/// Where recovery has the content that production has at the path of `member`, and has it as long as things
/// are placed: at an old name nothing may take its place.
fn source_at_recovery(member: &Member, members: &[Member]) -> Option<RelPath> {
    let entry = member.production.entry.as_ref().filter(|e| e.kind() == EntryKind::File)?;
    let is_same =
        |m: &Member| m.recovery.entry.as_ref().is_some_and(|r| r.same_but_metadata(entry));
    if is_same(member) {
        return Some(member.path.clone());
    }
    let from = member.production.moved_from.as_ref()?;
    let origin = members.iter().find(|m| m.path == *from)?;
    let is_free = origin.production.entry.is_none();
    (is_free && is_same(origin)).then(|| origin.path.clone())
}

/// Bytes of production's content that recovery does not have.
pub(super) fn needs(member: &Member, outcome: &Outcome, at_recovery: Option<&RelPath>) -> u64 {
    let is_carried = match outcome {
        Outcome::Keep(Site::Production) | Outcome::KeepBoth { .. } => at_recovery.is_none(),
        Outcome::Merge { pieces, .. } => {
            pieces.iter().any(|piece| matches!(piece, Piece::Copy { side: Side::Production, .. }))
        }
        Outcome::Keep(Site::Recovery) | Outcome::Delete | Outcome::Hold => false,
    };
    let size = member.production.entry.as_ref().map_or(0, Entry::size);
    if is_carried { size } else { 0 }
}

impl Iterator for Merged<'_> {
    type Item = Result<Divergence, MergeError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.is_failed {
            let next = match self.join.take() {
                Ok(None) => return None,
                Ok(Some(member)) => self.divergence(member),
                Err(e) => Err(e),
            };
            match next {
                Ok(None) => {}
                Ok(Some(divergence)) => return Some(Ok(divergence)),
                Err(e) => {
                    self.is_failed = true;
                    return Some(Err(e));
                }
            }
        }
        None
    }
}

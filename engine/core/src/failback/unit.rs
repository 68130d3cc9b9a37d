//! What becomes of paths that are bound to each other: a rename's ends, the names of one file, a file and
//! its attributes.
//!
//! Guarantees: all of them get one site's state, or all are held, or each is lost alike; attributes never
//! stay beside the other site's file. A policy is asked only where the group is one file at each site.

use super::classify::{How, alike, apart, by_production, by_recovery, how};
use super::judge::{
    Judge, Member, Verdict, bad_answer, conflict_at, is_other_kind, lose_production, recovery_only,
    version,
};
use super::{Class, Config, DecidedBy, Rule, is_directory};
use crate::conflict::{self, Conflict, Outcome, Site, State};
use crate::entry::{Entry, EntryKind};
use crate::path::RelPath;

/// A group in path order.
pub(super) struct Unit<'a> {
    members: &'a [Member],
    /// Those that are not somebody's attributes.
    mains: Vec<&'a Member>,
    /// Those of them that the base had.
    origins: Vec<&'a Member>,
    is_linked: bool,
}

/// What became of the one file of a group at a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate<'a> {
    Same,
    Metadata,
    Changed,
    Deleted,
    Moved(&'a RelPath),
}

impl<'a> Unit<'a> {
    pub(super) fn new(members: &'a [Member], config: &Config) -> Self {
        let is_attributes = |path: &RelPath| config.owner_of(path).is_some();
        // What was moved out of a folder of attributes, or into one, is a file.
        let is_moved_across = |m: &Member| {
            [&m.production, &m.recovery]
                .into_iter()
                .flat_map(|at| [&at.moved_from, &at.moved_to])
                .flatten()
                .any(|other| !is_attributes(other))
        };
        let is_link =
            |entry: &Option<Entry>| entry.as_ref().is_some_and(|e| e.kind() == EntryKind::HardLink);
        let is_name =
            |m: &Member| [&m.base, &m.production.entry, &m.recovery.entry].into_iter().any(is_link);
        let are_attributes_shared = members.iter().any(|m| is_attributes(&m.path) && is_name(m));
        let is_main =
            |m: &&Member| are_attributes_shared || !is_attributes(&m.path) || is_moved_across(m);
        let mains: Vec<_> = members.iter().filter(is_main).collect();
        let origins = mains.iter().copied().filter(|m| m.base.is_some()).collect();
        let is_linked = mains.iter().any(|m| is_name(m));
        Self { members, mains, origins, is_linked }
    }

    /// Whether `site` has or had any of it.
    pub(super) fn was_at(&self, site: Site) -> bool {
        self.members.iter().any(|m| m.base.is_some() || m.entry(site).is_some())
    }

    fn present_at(&self, site: Site) -> impl Iterator<Item = &'a Member> {
        self.mains.iter().copied().filter(move |m| m.entry(site).is_some())
    }

    /// What production has of it, no directory.
    fn published(&self) -> impl Iterator<Item = &'a Member> {
        let is_other = |m: &&Member| !is_directory(m.entry(Site::Production));
        self.present_at(Site::Production).filter(is_other)
    }

    /// What became of `origin` at `site`.
    fn fate(&self, origin: &Member, site: Site) -> Fate<'a> {
        let moved =
            self.mains.iter().find(|m| m.at(site).moved_from.as_ref() == Some(&origin.path));
        match origin.how(site) {
            _ if moved.is_some() => moved.map_or(Fate::Same, |m| Fate::Moved(&m.path)),
            How::Same => Fate::Same,
            How::Metadata => Fate::Metadata,
            How::Deleted => Fate::Deleted,
            How::Created | How::Content | How::Kind => Fate::Changed,
        }
    }

    /// How the sites differ, where both changed something of the group.
    fn class(&self) -> Class {
        if self.is_linked {
            return Class::BothLinked;
        }
        let [origin] = self.origins[..] else { return self.class_of_many() };
        let fates = [Site::Production, Site::Recovery].map(|site| self.fate(origin, site));
        match fates {
            [Fate::Moved(p), Fate::Moved(r)] if p != r => Class::BothRenamedApart,
            [Fate::Moved(_), Fate::Moved(_)] => self.apart_in_place(),
            [Fate::Moved(_), Fate::Deleted] => Class::ProductionRenamedRecoveryDeleted,
            [Fate::Moved(_), _] => Class::ProductionRenamedRecoveryModified,
            [Fate::Deleted, Fate::Moved(_)] => Class::ProductionDeletedRecoveryRenamed,
            [_, Fate::Moved(_)] => Class::ProductionModifiedRecoveryRenamed,
            _ => self.apart_in_place(),
        }
    }

    fn apart_in_place(&self) -> Class {
        let base = self.origins.first().and_then(|m| m.base.as_ref());
        let at = |site| self.present_at(site).next().and_then(|m| m.entry(site));
        apart(base, at(Site::Production), at(Site::Recovery))
    }

    fn class_of_many(&self) -> Class {
        let is_moved = |site| self.mains.iter().any(|m| m.is_renamed(site));
        match (is_moved(Site::Production), is_moved(Site::Recovery)) {
            (true, true) => Class::BothRenamedApart,
            (true, false) => Class::ProductionRenamedRecoveryModified,
            (false, true) => Class::ProductionModifiedRecoveryRenamed,
            (false, false) => self.apart_in_place(),
        }
    }

    /// Where each site has the one file of the group, if it is one, and what each has.
    pub(super) fn conflict(&self, class: Class) -> Option<Conflict> {
        let one = |site| {
            let mut present = self.present_at(site);
            let first = present.next();
            present.next().is_none().then_some(first)
        };
        let (p, r) = (one(Site::Production)?, one(Site::Recovery)?);
        let lead = self.origins.first().copied().or(p).or(r)?;
        let is_directory = self.mains.iter().any(|m| {
            [&m.base, &m.production.entry, &m.recovery.entry]
                .into_iter()
                .flatten()
                .any(|e| e.kind() == EntryKind::Directory)
        });
        if self.is_linked || self.origins.len() > 1 || is_directory {
            return None;
        }
        let mut conflict = conflict_at(lead, class);
        let at = |m: Option<&Member>, site| m.and_then(|m| m.entry(site)).cloned();
        if is_other_kind(&at(p, Site::Production), &at(r, Site::Recovery)) {
            conflict.class = conflict::Class::TypeChange;
        }
        let gone = if lead.base.is_some() { State::Deleted } else { State::Absent };
        let state = |at: Option<&Member>, site| match at.and_then(|m| Some((m, m.entry(site)?))) {
            Some((m, entry)) => {
                let from = m.at(site).moved_from.as_ref();
                State::Present(version(&m.path, entry, entry, from))
            }
            None => gone.clone(),
        };
        conflict.production = state(p, Site::Production);
        conflict.recovery = state(r, Site::Recovery);
        Some(conflict)
    }

    /// The outcome of each member when `outcome` is that of the group.
    ///
    /// # Errors
    /// Why it is none for such a group.
    pub(super) fn spread(
        &self,
        outcome: &Outcome,
        config: &Config,
        is_free: &dyn Fn(&RelPath) -> bool,
    ) -> Result<Vec<Outcome>, &'static str> {
        let all = |outcome: Outcome| vec![outcome; self.members.len()];
        match outcome {
            Outcome::Keep(_) | Outcome::Delete | Outcome::Hold => Ok(all(outcome.clone())),
            Outcome::KeepBoth { renamed, path } => {
                self.spread_both(*renamed, path, config, is_free)
            }
            Outcome::Merge { attributes, .. } => {
                let main = self
                    .one_place()
                    .ok_or("a merge of what has several names or was renamed: keep one, or both")?;
                Ok(self
                    .members
                    .iter()
                    .map(|m| match () {
                        () if std::ptr::eq(m, main) => outcome.clone(),
                        () => Outcome::Keep(*attributes),
                    })
                    .collect())
            }
        }
    }

    /// The one main member, where both sites have the file at its path.
    fn one_place(&self) -> Option<&'a Member> {
        match self.mains[..] {
            [main] if main.production.entry.is_some() && main.recovery.entry.is_some() => {
                Some(main)
            }
            _ => None,
        }
    }

    fn spread_both(
        &self,
        renamed: Site,
        path: &RelPath,
        config: &Config,
        is_free: &dyn Fn(&RelPath) -> bool,
    ) -> Result<Vec<Outcome>, &'static str> {
        let other = match renamed {
            Site::Production => Site::Recovery,
            Site::Recovery => Site::Production,
        };
        let mut places = self.present_at(renamed);
        let (Some(main), None) = (places.next(), places.next()) else {
            return Err("two versions of what has several names: keep one site's, or quarantine");
        };
        let mut outcomes = Vec::with_capacity(self.members.len());
        for member in self.members {
            let is_attributes = config.owner_of(&member.path).as_ref() == Some(&main.path);
            outcomes.push(if std::ptr::eq(member, main) {
                Outcome::KeepBoth { renamed, path: path.clone() }
            } else if is_attributes && member.entry(renamed).is_some() {
                let path = config
                    .companion_of(path, &member.path)
                    .filter(is_free)
                    .ok_or("the attributes beside the new name are somebody else's")?;
                Outcome::KeepBoth { renamed, path }
            } else {
                Outcome::Keep(other)
            });
        }
        Ok(outcomes)
    }
}

impl Judge<'_> {
    /// What becomes of each member of a group, in its order.
    pub(super) fn unit(&self, members: &[Member]) -> Vec<Verdict> {
        let unit = Unit::new(members, self.config);
        if unit.mains.iter().all(|m| m.is_alike()) {
            return self.by_attributes(&unit);
        }
        let is_changed = |site| members.iter().any(|m| m.how(site) != How::Same);
        match (is_changed(Site::Production), is_changed(Site::Recovery)) {
            (_, false) => self.unit_of_production(&unit),
            (false, true) => members.iter().map(recovery_only).collect(),
            (true, true) => self.unit_of_both(&unit),
        }
    }

    /// The sites agree on the file, or it is not in the lists: its attributes stand for themselves.
    fn by_attributes(&self, unit: &Unit<'_>) -> Vec<Verdict> {
        let decide = |member: &Member| {
            let (p, r) = (member.how(Site::Production), member.how(Site::Recovery));
            if member.is_alike() {
                let is_renamed = member.is_renamed(Site::Production);
                return Verdict::keep(alike(p, is_renamed), Site::Recovery, Rule::Agree);
            }
            if p != How::Created || r != How::Same {
                return self.single(member);
            }
            let class = by_production(p, member.is_renamed(Site::Production));
            let owner = self.config.owner_of(&member.path);
            let main = unit.mains.iter().find(|m| Some(&m.path) == owner.as_ref());
            let is_owned = match main {
                Some(main) => main.recovery.entry.is_some(),
                None => owner.is_some_and(|owner| self.base_entry(&owner).is_some()),
            };
            if is_owned || self.is_in_flight(member) {
                self.single_companion(class, member)
            } else {
                Verdict::default(class, lose_production(member), Rule::Companion)
            }
        };
        unit.members.iter().map(decide).collect()
    }

    /// Attributes that production alone gave to a file that both have.
    fn single_companion(&self, class: Class, member: &Member) -> Verdict {
        if self.is_in_flight(member) {
            return Verdict::default(class, lose_production(member), Rule::InFlight);
        }
        self.taken(class, member, Rule::ProductionOnly)
    }

    fn unit_of_production(&self, unit: &Unit<'_>) -> Vec<Verdict> {
        let class =
            |m: &Member| by_production(m.how(Site::Production), m.is_renamed(Site::Production));
        let published: Vec<_> = unit.published().collect();
        if let Some(verdicts) = self.in_flight(unit, &published, &class) {
            return verdicts;
        }
        let is_added = |m: &&&Member| m.base.is_none() && m.production.moved_from.is_none();
        if unit.is_linked && !unit.origins.is_empty() && published.iter().any(|m| is_added(&m)) {
            // A further name of what recovery has may be how something is handed on.
            let hold = |m| Verdict::default(class(m), Outcome::Hold, Rule::Orphan);
            return unit.members.iter().map(hold).collect();
        }
        let is_new = unit.origins.is_empty() && !published.is_empty();
        if is_new {
            return self.unit_of_orphans(unit, &published, &class);
        }
        let verdicts: Vec<_> = unit
            .members
            .iter()
            .map(|m| {
                let is_gone = m.production.entry.is_none() && m.production.moved_to.is_none();
                let rule = if is_gone { Rule::DeleteWins } else { Rule::ProductionOnly };
                self.taken(class(m), m, rule)
            })
            .collect();
        held_together(verdicts)
    }

    /// What becomes of a group where production has something under a name of what is not finished: where
    /// it was moved there, or there is more, production was working on it.
    fn in_flight(
        &self,
        unit: &Unit<'_>,
        published: &[&Member],
        class: &dyn Fn(&Member) -> Class,
    ) -> Option<Vec<Verdict>> {
        let is_partial = |m: &Member| self.config.is_in_flight(&m.path);
        if !published.iter().any(|m| is_partial(m)) {
            return None;
        }
        let is_moved = |m: &Member| m.production.moved_to.is_some() && !is_partial(m);
        let is_more = !published.iter().all(|m| is_partial(m));
        let gone = |m: &Member| unit.is_linked && m.production.entry.is_none();
        if is_more || unit.origins.iter().any(|m| is_moved(m) || gone(m)) {
            let hold = |m| Verdict::default(class(m), Outcome::Hold, Rule::Interrupted);
            return Some(unit.members.iter().map(hold).collect());
        }
        let decide = |m: &Member| match &m.production.entry {
            Some(_) => Verdict::default(class(m), lose_production(m), Rule::InFlight),
            None if matches!(m.how(Site::Recovery), How::Same | How::Metadata) => {
                Verdict::keep(class(m), Site::Production, Rule::DeleteWins)
            }
            None => Verdict::keep(class(m), Site::Recovery, Rule::InFlight),
        };
        Some(unit.members.iter().map(decide).collect())
    }

    fn unit_of_orphans(
        &self,
        unit: &Unit<'_>,
        published: &[&Member],
        class: &dyn Fn(&Member) -> Class,
    ) -> Vec<Verdict> {
        let is_held = published.iter().any(|m| match &m.production.entry {
            // The first name is judged by itself, or recovery has the file.
            Some(Entry::HardLink { .. }) | None => false,
            Some(entry) => {
                let verdict = self.orphan(class(m), &m.path, entry.content(), entry.size());
                verdict.outcome == Outcome::Hold
            }
        });
        let decide = |m: &Member| match is_held {
            true => Verdict::default(class(m), Outcome::Hold, Rule::Orphan),
            false => Verdict::default(class(m), lose_production(m), Rule::Resent),
        };
        unit.members.iter().map(decide).collect()
    }

    fn unit_of_both(&self, unit: &Unit<'_>) -> Vec<Verdict> {
        let class = unit.class();
        let published: Vec<_> =
            unit.published().filter(|m| m.how(Site::Production) != How::Same).collect();
        if let Some(verdicts) = self.in_flight(unit, &published, &|_| class) {
            return verdicts;
        }
        let is_touched = |site| unit.mains.iter().any(|m| m.how(site) != How::Same);
        if is_touched(Site::Production)
            && is_touched(Site::Recovery)
            && let Some(conflict) = unit.conflict(class)
            && let Some(verdict) = self.ask(class, &conflict)
        {
            return self.answered(unit, &verdict);
        }
        let verdict = self.unit_by_default(unit, class);
        if verdict.outcome != Outcome::Keep(Site::Production) {
            return vec![verdict; unit.members.len()];
        }
        let DecidedBy::Default(rule) = verdict.by else { return Vec::new() };
        held_together(unit.members.iter().map(|m| self.taken(class, m, rule)).collect())
    }

    fn unit_by_default(&self, unit: &Unit<'_>, class: Class) -> Verdict {
        let consumed = |m: &Member| m.production.entry.is_none() || m.production.moved_to.is_some();
        let has_consumed = unit.origins.iter().any(|m| consumed(m));
        let attributes_alone =
            unit.mains.iter().all(|m| matches!(m.how(Site::Recovery), How::Same | How::Metadata));
        if has_consumed && attributes_alone && !unit.is_linked {
            return Verdict::keep(class, Site::Production, Rule::ConsumedAtProduction);
        }
        let is_left = |m: &Member| matches!(m.how(Site::Recovery), How::Same | How::Metadata);
        let mut left_alone = unit.origins.iter().filter(|m| is_left(m));
        if !unit.is_linked && left_alone.any(|m| consumed(m)) {
            return Verdict::default(class, Outcome::Hold, Rule::Entangled);
        }
        let is_consumed_at_recovery = unit.present_at(Site::Recovery).next().is_none();
        let rule = match class {
            Class::BothMetadata => Rule::Attributes,
            _ if is_consumed_at_recovery => Rule::Delivered,
            _ => Rule::BothChanged,
        };
        Verdict::keep(class, Site::Recovery, rule)
    }

    /// An answer about a group, spread over its members.
    fn answered(&self, unit: &Unit<'_>, verdict: &Verdict) -> Vec<Verdict> {
        let spread = unit.spread(&verdict.outcome, self.config, &|path| self.is_free(path));
        let outcomes = match spread {
            Ok(outcomes) => outcomes,
            Err(why) => {
                return vec![bad_answer(verdict.class, verdict.by, why); unit.members.len()];
            }
        };
        let verdicts: Vec<_> =
            outcomes.into_iter().map(|outcome| Verdict { outcome, ..verdict.clone() }).collect();
        let is_placed = |(m, v): (&Member, &Verdict)| match &v.outcome {
            Outcome::Keep(Site::Production) => m.production.entry.is_some(),
            Outcome::KeepBoth { renamed: Site::Recovery, .. } => m.production.entry.is_some(),
            Outcome::Merge { .. } => true,
            _ => false,
        };
        let mut placed = unit.members.iter().zip(&verdicts).filter(|both| is_placed(*both));
        if placed.any(|(m, _)| !self.has_room(&m.path)) {
            let held = bad_answer(verdict.class, verdict.by, Rule::NoRoom.text());
            return vec![held; unit.members.len()];
        }
        for verdict in &verdicts {
            if let Outcome::KeepBoth { path, .. } = &verdict.outcome {
                self.claim(path);
            }
        }
        verdicts
    }
}

/// A group of which one member is held is held.
fn held_together(verdicts: Vec<Verdict>) -> Vec<Verdict> {
    let Some(held) = verdicts.iter().find(|v| v.outcome == Outcome::Hold).cloned() else {
        return verdicts;
    };
    verdicts.into_iter().map(|v| Verdict { class: v.class, ..held.clone() }).collect()
}

/// The class of a member of a group that recovery alone changed.
pub(super) fn class_at_recovery(member: &Member, is_moved_away: bool) -> Class {
    let how = how(member.base.as_ref(), member.recovery.entry.as_ref());
    by_recovery(how, is_moved_away || member.recovery.moved_from.is_some())
}

//! A person changes outcomes of a plan.
//!
//! Guarantees: what is bound together is changed together; every new outcome is checked as a policy's is,
//! one that cannot be carried out leaves its paths as they were and is reported; the directories that the
//! new outcomes need stay. The new plan is another revision of the same plan; the old file is untouched.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{Read, Write};

use super::{PlanReader, PlanWriter, Summary};
use crate::conflict::{self, Outcome, Site};
use crate::failback::index::{Key, Left, SideIndex, key};
use crate::failback::judge::{Judge, Member, ancestors, conflict_at};
use crate::failback::merge::{BaseTree, Unasked, needs};
use crate::failback::unit::Unit;
use crate::failback::{Config, DecidedBy, Divergence, GroupId, ListError, Rule, is_directory};
use crate::path::RelPath;

/// What is to be changed.
#[derive(Clone, Copy)]
pub struct Edit<'a> {
    /// Which paths; everything bound to one of them is changed too.
    pub select: &'a dyn Fn(&Divergence) -> bool,
    /// To what.
    pub outcome: &'a Outcome,
    /// Why, for people.
    pub reason: &'a str,
    /// The last common recovery point.
    pub base: &'a dyn BaseTree,
    /// What the site configures.
    pub config: &'a Config,
}

impl std::fmt::Debug for Edit<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Edit").field("outcome", &self.outcome).finish_non_exhaustive()
    }
}

/// A path whose outcome stays as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Which.
    pub path: RelPath,
    /// Why.
    pub why: String,
}

/// What was changed.
#[derive(Debug)]
pub struct Edited {
    /// The revision of the new plan.
    pub revision: u32,
    /// Paths with the outcome a person gave.
    pub changed: u64,
    /// Of them, those of which a person had said otherwise before.
    pub overridden: u64,
    /// Paths left as they were.
    pub refused: Vec<Refused>,
    /// Counts of the new plan.
    pub summary: Summary,
}

/// Why no new plan was written.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The plan.
    #[error("the plan")]
    Plan(#[from] ListError),
    /// The new file.
    #[error("writing the new plan")]
    Write(#[source] std::io::Error),
    /// Its revisions are used up.
    #[error("the plan was changed too often")]
    Revisions,
}

/// Reads the plan that `open` opens, as often as needed, and writes it changed to `out`.
///
/// # Errors
/// [`EditError`]; what was written to `out` by then is nothing.
pub fn edit<R: Read, W: Write>(
    open: &dyn Fn() -> std::io::Result<R>,
    out: W,
    edit: &Edit<'_>,
) -> Result<(W, Edited), EditError> {
    let read = || PlanReader::new(open().map_err(ListError::Io)?);
    let known = Known::read(read()?, edit)?;
    let mut answers = Answers::default();
    let mut groups: BTreeMap<GroupId, Vec<Member>> = BTreeMap::new();
    for divergence in read()? {
        let divergence = divergence?;
        match divergence.group {
            Some(group) if known.groups.contains(&group) => {
                groups.entry(group).or_default().push(member(divergence));
            }
            None if (edit.select)(&divergence)
                && !has_directory(&divergence)
                && !has_that_name(&divergence, edit) =>
            {
                answers.single(edit, &known, divergence);
            }
            _ => {}
        }
    }
    for members in groups.values() {
        answers.unit(edit, &known, members);
    }
    known.judge.take_failure()?;
    let mut needed = HashSet::new();
    for divergence in read()? {
        let mut divergence = divergence?;
        if is_directory_alone(&divergence) {
            let has_room = known.judge.has_room(&divergence.path);
            let is_meant = (edit.select)(&divergence) && has_room;
            if is_meant && directory_refusal(&divergence, edit).is_none() {
                decide(&mut divergence, edit.outcome.clone(), edit);
            }
        } else {
            answers.apply(&mut divergence, edit);
        }
        let path = Some(&divergence.path).filter(|_| end(&divergence) != Left::Nothing);
        let places = [path, beside(&divergence)].into_iter().flatten();
        needed.extend(places.flat_map(ancestors).map(|above| key(&above)));
    }
    write(read()?, out, edit, &known, answers, &needed)
}

fn write<R: Read, W: Write>(
    plan: PlanReader<R>,
    out: W,
    edit: &Edit<'_>,
    known: &Known<'_>,
    mut answers: Answers,
    needed: &HashSet<Key>,
) -> Result<(W, Edited), EditError> {
    let revision = plan.revision().checked_add(1).ok_or(EditError::Revisions)?;
    let mut writer = PlanWriter::new(out, plan.header(), revision).map_err(EditError::Write)?;
    let mut overridden = 0;
    for divergence in plan {
        let mut divergence = divergence?;
        let former =
            Some(divergence.outcome.clone()).filter(|_| divergence.by == DecidedBy::Person);
        let is_needed = needed.contains(&key(&divergence.path));
        if is_directory_alone(&divergence) {
            answers.directory(&mut divergence, edit, known, is_needed);
        } else if answers.apply(&mut divergence, edit) {
            answers.changed += 1;
        }
        overridden += u64::from(former.is_some_and(|former| former != divergence.outcome));
        writer.push(&divergence).map_err(EditError::Write)?;
    }
    let (out, summary) = writer.finish().map_err(EditError::Write)?;
    let Answers { changed, refused, .. } = answers;
    Ok((out, Edited { revision, changed, overridden, refused, summary }))
}

fn member(divergence: Divergence) -> Member {
    let Divergence { path, base, production, recovery, .. } = divergence;
    Member { path, base, production, recovery }
}

fn has_directory(divergence: &Divergence) -> bool {
    [&divergence.base, &divergence.production.entry, &divergence.recovery.entry]
        .into_iter()
        .any(|entry| is_directory(entry.as_ref()))
}

/// Whether a directory is at the path afterwards, or will be if something below needs it.
fn stays_or_may(divergence: &Divergence) -> bool {
    let is_one = |site| is_directory(divergence.at(site).entry.as_ref());
    let may_be =
        is_one(Site::Recovery) || (divergence.recovery.entry.is_none() && is_one(Site::Production));
    end(divergence) == Left::Directory || (divergence.group.is_none() && may_be)
}

fn is_at_both(divergence: &Divergence) -> bool {
    let is_one = |site| is_directory(divergence.at(site).entry.as_ref());
    is_one(Site::Production) && is_one(Site::Recovery)
}

/// Whether it is decided by what lies below it.
fn is_directory_alone(divergence: &Divergence) -> bool {
    divergence.group.is_none() && has_directory(divergence)
}

/// What is at the path afterwards.
fn end(divergence: &Divergence) -> Left {
    let at = |site| Left::of(divergence.at(site).entry.as_ref());
    match &divergence.outcome {
        Outcome::Keep(site) => at(*site),
        Outcome::KeepBoth { renamed: Site::Recovery, .. } => at(Site::Production),
        Outcome::Hold | Outcome::KeepBoth { .. } => at(Site::Recovery),
        Outcome::Merge { .. } => Left::Other,
        Outcome::Delete => Left::Nothing,
    }
}

/// The new name that the outcome gives.
fn beside(divergence: &Divergence) -> Option<&RelPath> {
    match &divergence.outcome {
        Outcome::KeepBoth { path, .. } => Some(path),
        _ => None,
    }
}

/// Whether the new name that is asked for was given before.
fn has_that_name(divergence: &Divergence, edit: &Edit<'_>) -> bool {
    divergence.outcome == *edit.outcome && beside(divergence).is_some()
}

/// What the plan says of both trees, and which groups are to be changed.
struct Known<'a> {
    judge: Judge<'a>,
    groups: HashSet<GroupId>,
}

impl<'a> Known<'a> {
    fn read<R: Read>(plan: PlanReader<R>, edit: &Edit<'a>) -> Result<Self, ListError> {
        let mut sides = [SideIndex::default(), SideIndex::default()];
        let (mut groups, mut done) = (HashSet::new(), HashSet::new());
        let (mut names, mut barred) = (Vec::new(), Vec::new());
        for divergence in plan {
            let divergence = divergence?;
            let [production, recovery] = &mut sides;
            let key = key(&divergence.path);
            if has_directory(&divergence) && !stays_or_may(&divergence) {
                barred.push(key);
            }
            let [p, r] = [&divergence.production.entry, &divergence.recovery.entry];
            production.push(key, Left::of(p.as_ref()));
            // What production made a directory of is one at recovery too, where that is decided.
            let is_taken = divergence.outcome == Outcome::Keep(Site::Production);
            let will_be = if is_taken && is_directory(p.as_ref()) { p } else { r };
            recovery.push(key, Left::of(will_be.as_ref()));
            groups.extend(divergence.group.filter(|_| (edit.select)(&divergence)));
            names.extend(beside(&divergence).cloned());
            done.extend(divergence.group.filter(|_| has_that_name(&divergence, edit)));
        }
        sides.iter_mut().for_each(SideIndex::finish);
        let judge = Judge::new(edit.config, edit.base, &Unasked, sides, HashSet::new());
        names.iter().for_each(|name| judge.claim(name));
        barred.into_iter().for_each(|key| judge.doubt(key));
        groups.retain(|group| !done.contains(group));
        Ok(Self { judge, groups })
    }
}

#[derive(Default)]
struct Answers {
    outcomes: HashMap<Key, Outcome>,
    refused: Vec<Refused>,
    changed: u64,
}

impl Answers {
    fn refuse(&mut self, path: &RelPath, why: impl ToString) {
        self.refused.push(Refused { path: path.clone(), why: why.to_string() });
    }

    fn single(&mut self, edit: &Edit<'_>, known: &Known<'_>, divergence: Divergence) {
        let class = divergence.class;
        let member = member(divergence);
        let free = |path: &RelPath| known.judge.is_free(path);
        if let Err(e) = conflict::check(&conflict_at(&member, class), edit.outcome, &free) {
            return self.refuse(&member.path, e);
        }
        self.accept(known, &[member], std::slice::from_ref(edit.outcome));
    }

    fn unit(&mut self, edit: &Edit<'_>, known: &Known<'_>, members: &[Member]) {
        let Some(first) = members.first() else { return };
        let unit = Unit::new(members, edit.config);
        let free = |path: &RelPath| known.judge.is_free(path);
        let checked = match unit.conflict(crate::failback::Class::BothModified) {
            Some(conflict) => {
                conflict::check(&conflict, edit.outcome, &free).map_err(|e| e.to_string())
            }
            None => match edit.outcome {
                Outcome::Keep(site) if !unit.was_at(*site) => {
                    Err(conflict::OutcomeError::Absent(*site).to_string())
                }
                Outcome::KeepBoth { .. } | Outcome::Merge { .. } => {
                    Err("it has several names: keep one site's, quarantine or hold".to_owned())
                }
                _ => Ok(()),
            },
        };
        let spread = checked
            .and_then(|()| check_directories(members, edit.outcome))
            .and_then(|()| unit.spread(edit.outcome, edit.config, &free).map_err(str::to_owned));
        match spread {
            Ok(outcomes) => self.accept(known, members, &outcomes),
            Err(why) => self.refuse(&first.path, why),
        }
    }

    fn accept(&mut self, known: &Known<'_>, members: &[Member], outcomes: &[Outcome]) {
        let is_placed = |(member, outcome): &(&Member, &Outcome)| match outcome {
            Outcome::Keep(Site::Production) | Outcome::KeepBoth { renamed: Site::Recovery, .. } => {
                member.production.entry.is_some()
            }
            Outcome::Keep(Site::Recovery) | Outcome::Hold | Outcome::KeepBoth { .. } => {
                member.recovery.entry.is_some()
            }
            Outcome::Merge { .. } => true,
            Outcome::Delete => false,
        };
        let mut placed = members.iter().zip(outcomes).filter(is_placed);
        if let Some((member, _)) = placed.find(|(m, _)| !known.judge.has_room(&m.path)) {
            return self.refuse(&member.path, Rule::NoRoom.text());
        }
        for (member, outcome) in members.iter().zip(outcomes) {
            if let Outcome::KeepBoth { path, .. } = outcome {
                known.judge.claim(path);
            }
            self.outcomes.insert(key(&member.path), outcome.clone());
        }
    }

    fn apply(&self, divergence: &mut Divergence, edit: &Edit<'_>) -> bool {
        let outcome = self.outcomes.get(&key(&divergence.path));
        if let Some(outcome) = outcome {
            decide(divergence, outcome.clone(), edit);
        }
        outcome.is_some()
    }

    /// A directory goes only when nothing below it stays, and stays when it is needed.
    fn directory(
        &mut self,
        divergence: &mut Divergence,
        edit: &Edit<'_>,
        known: &Known<'_>,
        is_needed: bool,
    ) {
        if (edit.select)(divergence) {
            let refused = directory_refusal(divergence, edit);
            let mut changed = divergence.clone();
            decide(&mut changed, edit.outcome.clone(), edit);
            match refused {
                Some(why) => self.refuse(&divergence.path, why),
                None if end(&changed) != Left::Nothing
                    && !known.judge.has_room(&divergence.path) =>
                {
                    self.refuse(&divergence.path, Rule::NoRoom.text());
                }
                None if is_needed && end(&changed) != Left::Directory => {
                    self.refuse(&divergence.path, "something below it stays");
                }
                None => {
                    *divergence = changed;
                    self.changed += 1;
                }
            }
        }
        if !is_needed || end(divergence) == Left::Directory {
            return;
        }
        let is_one = |site| is_directory(divergence.at(site).entry.as_ref());
        let site = match &divergence.recovery.entry {
            Some(_) if is_one(Site::Recovery) => Site::Recovery,
            None if is_one(Site::Production) => Site::Production,
            _ => return,
        };
        divergence.outcome = Outcome::Keep(site);
        divergence.by = DecidedBy::Default(Rule::DirectoryNeeded);
        divergence.reason = String::new();
    }
}

/// Whether a group may have the new outcome, where one of it is a directory: what lies below that decided,
/// when the plan was made.
fn check_directories(members: &[Member], outcome: &Outcome) -> Result<(), String> {
    let is_one = |m: &Member, site| is_directory(m.entry(site));
    let is_made = |m: &Member| is_one(m, Site::Production) && !is_one(m, Site::Recovery);
    if members.iter().any(is_made) {
        return Err("production made a directory of one of what is bound together".to_owned());
    }
    let stays = matches!(outcome, Outcome::Keep(Site::Recovery) | Outcome::Hold);
    if !stays && members.iter().any(Member::has_directory) {
        return Err("one of what is bound together is a directory: keep recovery's".to_owned());
    }
    Ok(())
}

/// Why a directory cannot have the new outcome, whatever lies below it.
fn directory_refusal(divergence: &Divergence, edit: &Edit<'_>) -> Option<String> {
    let conflict = conflict_at(&member(divergence.clone()), divergence.class);
    match edit.outcome {
        Outcome::KeepBoth { .. } | Outcome::Merge { .. } => {
            Some("it is a directory: keep one site's, quarantine or hold".to_owned())
        }
        Outcome::Delete if is_at_both(divergence) => {
            Some("both sites have the directory: decide about what is in it".to_owned())
        }
        outcome => conflict::check(&conflict, outcome, &|_| true).err().map(|e| e.to_string()),
    }
}

fn decide(divergence: &mut Divergence, outcome: Outcome, edit: &Edit<'_>) {
    let copy = member(divergence.clone());
    divergence.needs = needs(&copy, &outcome, divergence.at_recovery.as_ref());
    divergence.outcome = outcome;
    divergence.by = DecidedBy::Person;
    divergence.reason = edit.reason.to_owned();
}

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
            None if (edit.select)(&divergence) && !is_only_directory(&divergence) => {
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
        answers.apply(&mut divergence, edit);
        let places =
            [Some(&divergence.path).filter(|_| will_be_there(&divergence)), beside(&divergence)];
        if is_only_directory(&divergence) {
            continue;
        }
        needed.extend(places.into_iter().flatten().flat_map(ancestors).map(|above| key(&above)));
    }
    write(read()?, out, edit, answers, &needed)
}

fn write<R: Read, W: Write>(
    plan: PlanReader<R>,
    out: W,
    edit: &Edit<'_>,
    mut answers: Answers,
    needed: &HashSet<Key>,
) -> Result<(W, Edited), EditError> {
    let revision = plan.revision().checked_add(1).ok_or(EditError::Revisions)?;
    let mut writer = PlanWriter::new(out, plan.header(), revision).map_err(EditError::Write)?;
    for divergence in plan {
        let mut divergence = divergence?;
        let is_needed = needed.contains(&key(&divergence.path));
        if is_only_directory(&divergence) {
            answers.directory(&mut divergence, edit, is_needed);
        } else if answers.apply(&mut divergence, edit) {
            answers.changed += 1;
        }
        writer.push(&divergence).map_err(EditError::Write)?;
    }
    let (out, summary) = writer.finish().map_err(EditError::Write)?;
    let Answers { changed, refused, .. } = answers;
    Ok((out, Edited { revision, changed, refused, summary }))
}

fn member(divergence: Divergence) -> Member {
    let Divergence { path, base, production, recovery, .. } = divergence;
    Member { path, base, production, recovery }
}

fn is_only_directory(divergence: &Divergence) -> bool {
    [&divergence.base, &divergence.production.entry, &divergence.recovery.entry]
        .into_iter()
        .flatten()
        .all(|entry| is_directory(Some(entry)))
}

/// Whether something is at the path afterwards.
fn will_be_there(divergence: &Divergence) -> bool {
    let at = |site| divergence.at(site).entry.is_some();
    match &divergence.outcome {
        Outcome::Keep(site) => at(*site),
        Outcome::KeepBoth { renamed: Site::Recovery, .. } => at(Site::Production),
        Outcome::Hold | Outcome::KeepBoth { .. } => at(Site::Recovery),
        Outcome::Merge { .. } => true,
        Outcome::Delete => false,
    }
}

/// The new name that the outcome gives.
fn beside(divergence: &Divergence) -> Option<&RelPath> {
    match &divergence.outcome {
        Outcome::KeepBoth { path, .. } => Some(path),
        _ => None,
    }
}

/// What the plan says of both trees, and which groups are to be changed.
struct Known<'a> {
    judge: Judge<'a>,
    groups: HashSet<GroupId>,
}

impl<'a> Known<'a> {
    fn read<R: Read>(plan: PlanReader<R>, edit: &Edit<'a>) -> Result<Self, ListError> {
        let mut sides = [SideIndex::default(), SideIndex::default()];
        let (mut groups, mut names) = (HashSet::new(), Vec::new());
        for divergence in plan {
            let divergence = divergence?;
            let [production, recovery] = &mut sides;
            let key = key(&divergence.path);
            let [p, r] = [&divergence.production.entry, &divergence.recovery.entry];
            production.push(key, Left::of(p.as_ref()));
            // What production made a directory of is one at recovery too, where that is decided.
            let is_taken = divergence.outcome == Outcome::Keep(Site::Production);
            let will_be = if is_taken && is_directory(p.as_ref()) { p } else { r };
            recovery.push(key, Left::of(will_be.as_ref()));
            let is_selected = (edit.select)(&divergence);
            groups.extend(divergence.group.filter(|_| is_selected));
            // A name that is given away by what is not changed.
            names.extend(beside(&divergence).filter(|_| !is_selected).cloned());
        }
        sides.iter_mut().for_each(SideIndex::finish);
        let judge = Judge::new(edit.config, edit.base, &Unasked, sides, HashSet::new());
        names.iter().for_each(|name| judge.claim(name));
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
        self.accept(known, &[member], &[edit.outcome.clone()]);
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
            Outcome::Merge { .. } => true,
            _ => false,
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
    fn directory(&mut self, divergence: &mut Divergence, edit: &Edit<'_>, is_needed: bool) {
        if (edit.select)(divergence) {
            let conflict = conflict_at(&member(divergence.clone()), divergence.class);
            let refused = match edit.outcome {
                Outcome::KeepBoth { .. } | Outcome::Merge { .. } => {
                    Some("it is a directory: keep one site's, quarantine or hold".to_owned())
                }
                outcome => {
                    conflict::check(&conflict, outcome, &|_| true).err().map(|e| e.to_string())
                }
            };
            let mut changed = divergence.clone();
            decide(&mut changed, edit.outcome.clone(), edit);
            match refused {
                Some(why) => self.refuse(&divergence.path, why),
                None if is_needed && !will_be_there(&changed) => {
                    self.refuse(&divergence.path, "something below it stays");
                }
                None => {
                    *divergence = changed;
                    self.changed += 1;
                }
            }
        }
        if is_needed && !will_be_there(divergence) {
            let site = match &divergence.recovery.entry {
                Some(_) => Site::Recovery,
                None => Site::Production,
            };
            if divergence.at(site).entry.is_some() {
                divergence.outcome = Outcome::Keep(site);
                divergence.by = DecidedBy::Default(Rule::DirectoryNeeded);
                divergence.reason = String::new();
            }
        }
    }
}

fn decide(divergence: &mut Divergence, outcome: Outcome, edit: &Edit<'_>) {
    let copy = member(divergence.clone());
    divergence.needs = needs(&copy, &outcome, divergence.at_recovery.as_ref());
    divergence.outcome = outcome;
    divergence.by = DecidedBy::Person;
    divergence.reason = edit.reason.to_owned();
}

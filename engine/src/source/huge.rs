//! What of a plan is too large for its cut.
//!
//! Guarantees: of what the owner withholds nothing is carried, and all of it is planned, for the owner to judge.
//! Of the rest, a file that its owner wants carried is neither read nor sent by a cut: until it was
//! carried, its account is left out of all cuts; then it is placed as it was carried, if it is still
//! that and the target says that it has it, before anything else of its account. If it is not, time and again, or if
//! an account has more of them than may wait at the target, its cut reads it. What was left out is said, with what was looked at, so
//! that its owner looks there again when it is over.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use farshore_core::entry::{Entry, EntryKind};
use farshore_core::path::RelPath;
use farshore_core::policy::{Deferring, Policy, Verdict};
use farshore_core::recipe::FileDigest;
use farshore_core::turns::Class;

use super::ahead::{AheadDesk, Failing, Known};
use super::standing::{Cut, Cuts, LeftOut, Look};
use super::{Source, SourceError};
use crate::catalog::{LocalFacts, Record};
use crate::ingest::{Placing, ReadAhead};
use crate::io::{Object, Stat, Storage};
use crate::observe::{ObserveError, SystemStep, metadata, same_content_facts};
use crate::plan::{Change, Plan, Problem};

/// How often a cut is planned anew, at most, because of what its plan would send: what is found after
/// that goes with it.
const ROUNDS: usize = 8;
/// How long the target's answer is waited for before what else it says is heard.
const ANSWER_LOOK: Duration = Duration::from_millis(50);
/// A file that was not changed for so long, in nanoseconds, rests.
const RESTS_NS: i64 = 2_000_000_000;

/// A file that is to be carried.
struct Huge {
    path: RelPath,
    account: RelPath,
    class: Class,
    size: u64,
    moved_from: Option<RelPath>,
}

/// What is to become of the files of a plan.
#[derive(Default)]
struct ToldApart {
    /// Placed by this cut as they were carried.
    carried: Vec<(Huge, Placing)>,
    /// What is left out of it for others.
    waits: Vec<RelPath>,
    /// Read and sent by it.
    with_cut: Vec<Huge>,
}

impl<S: Storage> Source<'_, S> {
    /// The plan of a cut without what has to be carried first, and what cannot be.
    pub(super) fn plan_of_cut(
        &mut self,
        look: &Look,
        cut: &mut Cut,
        widened: &mut Option<&'static str>,
        cuts: &dyn Cuts,
    ) -> Result<(Plan, Vec<Problem>), SourceError> {
        let policy = Arc::clone(&cut.policy);
        (self.carried, self.first) = (Arc::default(), Vec::new());
        let withheld = cut.withheld.clone();
        self.ahead.let_go(|path| cut.only_judged || withheld.covers(path));
        self.ahead.make_room(|path| withheld.covers(path));
        if !self.carries || cut.only_judged {
            return Ok((self.planned(look, &*policy, &withheld, widened)?, Vec::new()));
        }
        let mut ahead = self.ahead.stays_out();
        let probed = self.ahead.probed(&ahead, |path| look.covers(path));
        ahead.retain(|path| !probed.contains(path) && !withheld.covers(path));
        let (mut met, mut held) = (HashSet::new(), HashSet::new());
        let mut plan;
        let mut rounds = 0;
        loop {
            // Whatever the policy says of it.
            let defers = |path: &RelPath, _: &Verdict| ahead.iter().any(|of| path.starts_with(of));
            let leaving_out = Deferring { policy: &*policy, defers };
            let policy: &dyn Policy = if ahead.is_empty() { &*policy } else { &leaving_out };
            plan = self.planned(look, policy, &withheld, widened)?;
            let huge = huge_of(&mut plan, self.ahead, cuts)?;
            met.extend(huge.iter().map(|huge| huge.path.clone()));
            let ToldApart { carried, waits, with_cut } = self.told_apart(huge, &mut held)?;
            rounds += 1;
            if waits.is_empty() || rounds > ROUNDS {
                let placed = carried.iter().map(|(huge, _)| (huge, None));
                let read = with_cut.iter().map(|huge| (huge, Some(huge.size)));
                self.goes_first(placed.chain(read))?;
                self.carried = Arc::new(carried.into_iter().map(|(h, p)| (h.path, p)).collect());
                break;
            }
            ahead.extend(waits);
        }
        let unmet = probed.iter().filter(|path| !met.contains(*path));
        unmet.for_each(|path| self.ahead.forgotten(path));
        let failing = self.ahead.failing(|path| look.covers(path));
        let is_failing = |path: &RelPath| failing.iter().any(|failing| failing.path == *path);
        let looked = if widened.is_some() { Look::Whole } else { look.clone() };
        ahead.retain(|path| !is_failing(path));
        // Those are among what stays out, when a cut is planned once more.
        let turns = std::mem::take(&mut cut.left_out.turns);
        cut.left_out = LeftOut { accounts: self.ahead.left_out(ahead), look: Some(looked), turns };
        let problems = failing.into_iter().map(|Failing { path, why: text, no_room }| {
            if let Some(room) = no_room {
                self.progress.too_large(path.clone(), room.needed, room.free);
            }
            Problem { path, text }
        });
        Ok((plan, problems.collect()))
    }

    fn told_apart(
        &mut self,
        files: Vec<Huge>,
        held: &mut HashSet<FileDigest>,
    ) -> Result<ToldApart, SourceError> {
        let mut told = ToldApart::default();
        let mut ready = Vec::new();
        for huge in files {
            let rests = self.rests(&huge.path);
            let of = (huge.size, huge.moved_from.as_ref());
            match self.ahead.wants(&huge.path, (&huge.account, huge.class), of, rests) {
                Known::Waits(withholds) => told.waits.push(withholds),
                Known::WithCut => told.with_cut.push(huge),
                Known::Ready(read) => ready.push((huge, read)),
            }
        }
        let there = self.still_there(&ready, held)?;
        for ((huge, read), is_there) in ready.into_iter().zip(there) {
            match self.placing(&huge.path, &read) {
                Ok(Some(placing)) if is_there => told.carried.push((huge, placing)),
                // The carrier finds out.
                _ => match self.ahead.is_overtaken(&huge.path) {
                    Some(withholds) => told.waits.push(withholds),
                    None => {
                        if let (Some(content), Some(recipe)) = (read.entry.content(), &read.recipe)
                            && is_there
                        {
                            self.index.hold(*content, recipe);
                        }
                        told.with_cut.push(huge);
                    }
                },
            }
        }
        Ok(told)
    }

    /// Of each of these, whether the target has its content yet: asked before anything of the cut is sent, since
    /// what comes after a file that is not there would come before it. `held` is what it said last.
    fn still_there(
        &mut self,
        ready: &[(Huge, Arc<ReadAhead>)],
        held: &mut HashSet<FileDigest>,
    ) -> Result<Vec<bool>, SourceError> {
        let reader = self.catalog.reader()?;
        let there = |held: &HashSet<FileDigest>| -> Result<Vec<bool>, SourceError> {
            let is_there = |(_, read): &(Huge, Arc<ReadAhead>)| match read.entry.content() {
                Some(content) if !held.contains(content) => Ok(reader.has_content(content)?),
                _ => Ok(true),
            };
            ready.iter().map(is_there).collect()
        };
        let known = there(held)?;
        if known.iter().all(|is_there| *is_there) {
            return Ok(known);
        }
        let asked = self.ahead.ask(self.link, None)?;
        *held = loop {
            match self.ahead.held_whole(asked, ANSWER_LOOK) {
                Some(whole) => break whole,
                // What it says besides must not keep its answer waiting.
                None => self.look_at_link()?,
            }
        };
        there(held)
    }

    fn looked_at(&self, path: &RelPath) -> Result<Option<(S::File, Stat)>, ObserveError> {
        let Some((parent, name)) = path.split() else { return Ok(None) };
        let storage = self.storage;
        let opened = storage
            .open_directory(storage.root(), parent.as_bytes())
            .and_then(|directory| storage.open_file_and_stat(&directory, name));
        opened.map(Some).at_step("opening it")
    }

    /// Whether a file has not changed for a while.
    fn rests(&self, path: &RelPath) -> bool {
        let now = (self.config.now)();
        let rests = |(_, stat): (S::File, Stat)| now.nanos_since(stat.mtime) >= RESTS_NS;
        self.looked_at(path).ok().flatten().is_some_and(rests)
    }

    /// What a file is to be at the target, if it is still as it was carried.
    fn placing(&self, path: &RelPath, read: &ReadAhead) -> Result<Option<Placing>, ObserveError> {
        let Some((file, stat)) = self.looked_at(path)? else { return Ok(None) };
        let Some(content) = read.entry.content().copied() else { return Ok(None) };
        let object = Object::File(&file);
        let meta = metadata(self.storage, object, &stat)?;
        let after = self.storage.stat(object).at_step("looking at it again")?;
        if !same_content_facts(&read.stat, &stat) || !same_content_facts(&stat, &after) {
            return Ok(None);
        }
        let now_settled = (self.config.now)().nanos_since(stat.ctime) >= self.config.racy_ns;
        let entry = Entry::File { size: stat.size, content, meta };
        // A change behind what was read, in the tick of the first look, shows in no fact: it is read again.
        let facts = (read.settled && now_settled).then(|| LocalFacts::of(&stat));
        let record = Record { entry, facts };
        Ok(Some(Placing { record, recipe: read.recipe.clone(), stat }))
    }

    /// These go before all else of the cut, where the directory they come into is there already: else they come
    /// with that. Of those that are read by it this is the length.
    fn goes_first<'h>(
        &mut self,
        files: impl Iterator<Item = (&'h Huge, Option<u64>)>,
    ) -> Result<(), SourceError> {
        let reader = self.catalog.reader()?;
        let kind = |path: &RelPath| reader.get(path).map(|r| r.map(|r| r.entry.kind()));
        for (huge, read) in files.filter(|(huge, _)| huge.moved_from.is_none()) {
            let Some((parent, _)) = huge.path.split() else { continue };
            let comes_into = kind(&parent)? == Some(EntryKind::Directory);
            if comes_into && matches!(kind(&huge.path)?, None | Some(EntryKind::File)) {
                self.first.push((huge.path.clone(), read));
            }
        }
        Ok(())
    }

    /// What of a sealed cut was carried for it is settled, but for what it had trouble with.
    pub(super) fn settle_carried(&self, cut: &Cut, look: &Look, problems: &[Problem]) {
        let troubled: HashSet<&RelPath> = problems.iter().map(|problem| &problem.path).collect();
        let left_out = |path: &RelPath| cut.withheld.covers(path) || cut.left_out.covers(path);
        self.ahead.given_up(|path| troubled.contains(path));
        let why = |path: &RelPath| problems.iter().find(|problem| problem.path == *path);
        self.ahead.had_trouble(|path| why(path).map(|problem| problem.text.clone()));
        self.ahead.settled(|path| look.covers(path) && !troubled.contains(path) && !left_out(path));
    }
}

/// The files of a plan that are to be carried, or were; none of what is withheld.
fn huge_of(plan: &mut Plan, desk: &AheadDesk, cuts: &dyn Cuts) -> Result<Vec<Huge>, SourceError> {
    let (mut found, withheld) = (Vec::new(), plan.withheld().clone());
    plan.for_each(&mut |change| {
        if let Change::Look { path, size, is_file: true, moved_from, .. } = change
            && !withheld.covers(path)
            && let Some(account) = desk.account_of(path).or_else(|| cuts.carries(path, *size))
        {
            let (path, size, moved_from) = (path.clone(), *size, moved_from.clone());
            let class = cuts.class(&account);
            found.push(Huge { path, account, class, size, moved_from });
        }
        Ok(())
    })?;
    Ok(found)
}

/// What is carried for a cut, by path.
pub(super) type Carried = HashMap<RelPath, Placing>;

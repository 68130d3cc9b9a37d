//! The join of what a walk meets with what the catalog knows.
//!
//! One logic for a plan of the whole and of parts. Guarantees: both come in path order, and a record that
//! was passed without its path being met is gone, unless something at or above it keeps that from being
//! known. Of parts, only what is in the window at hand is passed.

use std::cmp::Ordering;
use std::collections::HashMap;

use farshore_core::entry::{Entry, EntryKind, Metadata};
use farshore_core::path::{KeyBuffer, PathParts, RelPath};
use farshore_core::policy::{Action, Candidate, Policy, Verdict};

use super::moves::same_kind;
use super::parts::Partial;
use super::{Change, LookKind, Plan, PlanError, Planner, Problem};
use crate::catalog::{CatalogReader, LocalFacts, Record, Row, Rows};
use crate::io::{FileKind, Stat, Storage};
use crate::scan::ScanEvent;

/// Deferred entries that a report names, at most.
const DEFERRED_NAMED_MAX: usize = 10_000;

fn rules_by_text(policy: &dyn Policy) -> HashMap<String, Option<u32>> {
    let mut rules: HashMap<_, _> = policy.rules().into_iter().zip((0..).map(Some)).collect();
    if !policy.identity().policies.is_empty() {
        rules.insert(String::new(), None);
    }
    rules
}

/// The first name of an inode with several.
struct Leader {
    path: RelPath,
    /// Whether the target may make a new inode of it, so that every further name is linked again.
    renewed: bool,
}

pub(super) struct Join<'a, S: Storage> {
    pub(super) storage: &'a S,
    pub(super) catalog: &'a CatalogReader,
    pub(super) policy: &'a dyn Policy,
    pub(super) rows: Rows,
    key: KeyBuffer,
    /// Paths at and below which nothing may be concluded gone, with the verdict if there is one. An
    /// excluded file is not among them: its record is passed when the walk meets it.
    protected: HashMap<RelPath, Option<Verdict>>,
    /// The policy's rules by their texts. What was detached by no rule stays so as long as there are
    /// policies that name none.
    pub(super) rules: HashMap<String, Option<u32>>,
    /// Whether the policy keeps a directory that something moved from, by what was last known of it.
    pub(super) kept_directories: HashMap<RelPath, bool>,
    leaders: HashMap<u64, Leader>,
    /// Entries met, the root among them.
    pub(super) met: u64,
    /// Those without a record, and whether the root has children.
    pub(super) created: u64,
    pub(super) is_root_filled: bool,
    /// Moves that leave nothing at the old name.
    pub(super) moved_away: u64,
    /// What a plan of parts needs beside all this.
    pub(super) partial: Option<Partial<'a, S>>,
    pub(super) plan: Plan,
}

impl<'a, S: Storage> Join<'a, S> {
    pub(super) fn new(
        planner: &Planner<'a, S>,
        rows: Rows,
        partial: Option<Partial<'a, S>>,
    ) -> Result<Self, PlanError> {
        let Planner { storage, catalog, policy, spool_folder, .. } = *planner;
        Ok(Self {
            storage,
            catalog,
            policy,
            rows,
            key: KeyBuffer::default(),
            protected: HashMap::new(),
            rules: rules_by_text(policy),
            kept_directories: HashMap::new(),
            leaders: HashMap::new(),
            met: 0,
            created: 0,
            is_root_filled: false,
            moved_away: 0,
            partial,
            plan: Plan::new(catalog.entry_count()?, spool_folder),
        })
    }

    pub(super) fn handle(&mut self, event: ScanEvent<'_>) -> Result<(), PlanError> {
        match event {
            ScanEvent::Entry { path, stat } => {
                let is_known = self.advance_to(path)?;
                self.met += 1;
                if !path.is_root() {
                    self.plan.tally.found += 1;
                    self.created += u64::from(!is_known);
                    self.is_root_filled |= path.parent().is_empty();
                }
                self.entry(path, stat, is_known)
            }
            ScanEvent::Excluded { path, is_directory, verdict } => {
                self.excluded(path, is_directory, verdict)
            }
            ScanEvent::Unknown { path, step, source } => {
                let text = format!("{step}: {source}");
                self.protected.insert(path.clone(), None);
                self.plan.unknown.insert(path.clone());
                self.plan.problems.push(Problem { path, text });
                Ok(())
            }
        }
    }

    /// Passes the records that are left.
    pub(super) fn finish_rows(&mut self) -> Result<(), PlanError> {
        while let Some(row) = self.rows.take()? {
            self.gone(row.path()?, &row.record()?)?;
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Plan {
        let plan = &mut self.plan;
        plan.faults = self.policy.take_faults();
        for fault in &plan.faults.first {
            plan.problems.push(Problem { path: fault.path.clone(), text: fault.text.clone() });
        }
        // The root is above all that is kept, and stays a directory.
        plan.barred.retain(|path| plan.kept.contains(path));
        for path in &plan.barred {
            let text = "it was a directory, and the target keeps something excluded in that: move \
                        that away there, or do not exclude it";
            plan.problems.push(Problem { path: path.clone(), text: text.to_owned() });
        }
        self.plan
    }

    /// The walk met something that does not travel.
    fn excluded(
        &mut self,
        path: RelPath,
        is_directory: bool,
        verdict: Verdict,
    ) -> Result<(), PlanError> {
        match verdict.action {
            Action::Defer => {
                self.plan.deferred += 1;
                if self.plan.deferred_first.len() < DEFERRED_NAMED_MAX {
                    self.plan.deferred_first.push(path.clone());
                }
            }
            _ => self.plan.excluded += 1,
        }
        self.cut_below(&path);
        let mut covers_more = is_directory;
        if self.advance_to_key(&path.key())?
            && let Some(row) = self.rows.take()?
        {
            let record = row.record()?;
            let was_directory = record.entry.kind() == EntryKind::Directory;
            covers_more |= was_directory;
            self.keep(&path, &record, Some(verdict), true)?;
            self.name_excluded(&path, record.entry.kind())?;
            if was_directory {
                self.look_below_kept(&path, verdict)?;
            }
        }
        if covers_more {
            self.plan.shut.add(&path);
            self.protected.insert(path, Some(verdict));
        }
        Ok(())
    }

    /// The target keeps what it has at `path`, and the directories above.
    fn keep(
        &mut self,
        path: &RelPath,
        record: &Record,
        verdict: Option<Verdict>,
        is_named: bool,
    ) -> Result<(), PlanError> {
        self.plan.detached += 1;
        if let Some(verdict) = verdict.filter(|verdict| verdict.action == Action::Exclude) {
            self.plan.by_policy.add(path, &record.entry, verdict.rule, is_named)?;
        }
        let mut at = path.clone();
        while let Some((parent, _)) = at.split() {
            if !self.plan.kept.insert(parent.clone()) {
                break;
            }
            at = parent;
        }
        Ok(())
    }

    /// Passes the records before `path`, which the walk did not meet; whether there is one at `path`.
    fn advance_to(&mut self, path: PathParts<'_>) -> Result<bool, PlanError> {
        let mut buffer = std::mem::take(&mut self.key);
        let is_known = self.advance_to_key(buffer.key(path));
        self.key = buffer;
        is_known
    }

    fn advance_to_key(&mut self, wanted: &[u8]) -> Result<bool, PlanError> {
        loop {
            let Some(row) = self.rows.current() else { return Ok(false) };
            match row.key().cmp(wanted) {
                Ordering::Greater => return Ok(false),
                Ordering::Equal => return Ok(true),
                Ordering::Less => {}
            }
            let Some(row) = self.rows.take()? else { return Ok(false) };
            self.gone(row.path()?, &row.record()?)?;
        }
    }

    fn gone(&mut self, path: RelPath, record: &Record) -> Result<(), PlanError> {
        if path.is_root() {
            return self.keep(&path, record, None, false);
        }
        if let Some((at, verdict)) = self.protection(&path) {
            return self.keep(&path, record, verdict, at == path);
        }
        let is_directory = record.entry.kind() == EntryKind::Directory;
        self.loses_first_name(&path, record.entry.kind())?;
        if let Some(verdict) = self.exclusion(&path, &record.entry)? {
            self.keep(&path, record, Some(verdict), true)?;
            if verdict.is_fault {
                self.plan.unknown.insert(path.clone());
            }
            if is_directory {
                self.plan.shut.add(&path);
                self.look_below_kept(&path, verdict)?;
                self.protected.insert(path, Some(verdict));
            }
            return Ok(());
        }
        if !self.plan.moved.contains(&path) {
            self.plan.tally.deleted += 1;
        }
        if is_directory {
            self.open_below(&path, false);
        }
        self.names_further(&path, record)?;
        let change = Change::Remove { path, expected: record.entry.digest() };
        let list = if is_directory {
            &mut self.plan.removed_directories
        } else {
            &mut self.plan.removed_files
        };
        Ok(list.push(&change.to_bytes())?)
    }

    /// The path at or above `path` below which nothing may be concluded gone, and the verdict on it.
    pub(super) fn protection(&self, path: &RelPath) -> Option<(RelPath, Option<Verdict>)> {
        if self.protected.is_empty() {
            return None;
        }
        let mut at = path.clone();
        loop {
            if let Some(verdict) = self.protected.get(&at) {
                return Some((at, *verdict));
            }
            at = at.split()?.0;
        }
    }

    /// Whether the policy keeps an entry that is gone at the source from being removed: it was detached by
    /// a rule that is still in force, or by what was last known of it does not travel, or there is no
    /// answer. A directory above it that keeps it is protected already: the walk met it, or its own
    /// record was passed before.
    pub(super) fn exclusion(
        &self,
        path: &RelPath,
        entry: &Entry,
    ) -> Result<Option<Verdict>, PlanError> {
        if self.policy.is_trivial() {
            return Ok(None);
        }
        // What it had become when it was detached, the record does not know.
        if let Some(detached) = self.catalog.detached_at(path)?
            && let Some(&rule) = self.rules.get(&detached.rule)
        {
            return Ok(Some(Verdict { action: Action::Exclude, rule, is_fault: false }));
        }
        // A further name has the facts of the first.
        let leader = match entry {
            Entry::HardLink { leader } => self.catalog.get(leader)?.map(|record| record.entry),
            _ => None,
        };
        let entry = leader.as_ref().unwrap_or(entry);
        let plain = Metadata::default();
        let meta = entry.meta().unwrap_or(&plain);
        let kind = entry.kind();
        let candidate = Candidate {
            path,
            kind: if kind == EntryKind::HardLink { EntryKind::File } else { kind },
            size: entry.size(),
            mtime: meta.mtime,
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
        };
        let verdict = self.policy.exclude(&[candidate]).first().copied();
        let verdict = verdict.unwrap_or(Verdict::FAULT);
        Ok((verdict.action != Action::Replicate || verdict.is_fault).then_some(verdict))
    }

    fn entry(&mut self, path: PathParts<'_>, stat: &Stat, is_known: bool) -> Result<(), PlanError> {
        let row = self.rows.current().filter(|_| is_known);
        let known = row.map(Row::facts_and_kind).transpose()?;
        let unchanged = known.is_some_and(|(facts, _)| facts == Some(LocalFacts::of(stat)));
        let is_shared = stat.kind != FileKind::Directory && stat.links > 1;
        // An entry that was a further name and now stands alone is an entry of its own.
        let was_further = known.is_some_and(|(_, kind)| kind == EntryKind::HardLink);
        if unchanged && !is_shared && !was_further && !self.travels_again(path, stat)? {
            return Ok(self.rows.advance()?);
        }
        let (path, record) = (path.to_path(), row.map(Row::record).transpose()?);
        let was_directory = known.is_some_and(|(_, kind)| kind == EntryKind::Directory);
        if was_directory && stat.kind != FileKind::Directory {
            self.plan.barred.insert(path.clone());
        }
        if is_known {
            self.rows.advance()?;
        }
        self.below_changed(&path, stat, known)?;
        if self.partial.is_some() {
            if unchanged && is_shared {
                // Its names, had they changed, would have moved its change time.
                return Ok(());
            }
            self.names_changed(&path, stat, record.as_ref())?;
            self.look(path, stat, record)
        } else if is_shared {
            self.shared_inode(path, stat, record, unchanged)
        } else {
            self.look(path, stat, record)
        }
    }

    fn shared_inode(
        &mut self,
        path: RelPath,
        stat: &Stat,
        record: Option<Record>,
        unchanged: bool,
    ) -> Result<(), PlanError> {
        let Some(leader) = self.leaders.get(&stat.inode) else {
            let was_further =
                record.as_ref().is_some_and(|r| r.entry.kind() == EntryKind::HardLink);
            let renewed = !unchanged || was_further;
            self.leaders.insert(stat.inode, Leader { path: path.clone(), renewed });
            return if renewed { self.look(path, stat, record) } else { Ok(()) };
        };
        let same_leader = record.as_ref().is_some_and(
            |r| matches!(&r.entry, Entry::HardLink { leader: l } if *l == leader.path),
        );
        if unchanged && same_leader && !leader.renewed {
            return Ok(());
        }
        let change = Change::Link { path, leader: leader.path.clone() };
        if let Some(record) = &record {
            self.names_further(change.path(), record)?;
        }
        Ok(self.plan.looks.push(&change.to_bytes())?)
    }

    /// Of what is to be done at `path`: as what name of an inode it is recorded, if that has another one first.
    fn names_further(&mut self, path: &RelPath, record: &Record) -> Result<(), PlanError> {
        match &record.entry {
            Entry::HardLink { leader } => self.plan.add_further(path, leader),
            _ => Ok(()),
        }
    }

    fn look(
        &mut self,
        path: RelPath,
        stat: &Stat,
        record: Option<Record>,
    ) -> Result<(), PlanError> {
        let moved_from = self.moved_from(&path, stat, record.as_ref())?;
        if let Some(record) = &record {
            self.names_further(&path, record)?;
        }
        if stat.kind == FileKind::Regular {
            // Sparse files may claim more than there are numbers for.
            self.plan.bytes = self.plan.bytes.saturating_add(stat.size);
        }
        let facts = LocalFacts::of(stat);
        let content_changed = record.as_ref().is_some_and(|r| {
            // What is only believed of the target, as after a lost catalog, is judged by what it says.
            let believed = (r.entry.size(), r.entry.meta().map_or(facts.mtime, |m| m.mtime));
            let known = r.facts.map_or(believed, |f| (f.size, f.mtime));
            r.entry.kind() == EntryKind::File && known != (facts.size, facts.mtime)
        });
        self.plan.tally.rewritten += u64::from(content_changed);
        let is_file = stat.kind == FileKind::Regular;
        let kind = match &record {
            None => LookKind::New,
            Some(r) if content_changed || !same_kind(&r.entry, stat.kind) => LookKind::Content,
            Some(_) => LookKind::Rest,
        };
        let change = Change::Look { path, size: stat.size, is_file, kind, moved_from };
        Ok(self.plan.looks.push(&change.to_bytes())?)
    }
}

//! What a standby does to be opened without the other site: it is brought to a recovery point, and says what is
//! not in it.
//!
//! Guarantees: the tree that is opened is that of the point, R compared; nothing that is done takes a walk of
//! it: the last cut is finished or undone from the journal and the catalog's notes, and the lists come from
//! the same notes. A crash in between leaves the tree between two points, and the same command, or the next
//! start, finishes. Refuses a share that never had a recovery point, and a state that cannot be reached.
//!
//! Accounts that are behind are named as they were in the point that is opened, also an earlier one. Of an earlier
//! one that a build sealed that kept no names with it, those are named that still were behind in the last point; the
//! exceptions of the point say whether that is all.
//!
//! What it cannot know: what the lost site did after T. Every change of that time is at risk, also of files
//! that are not listed; listed is what was so young at T that its fate was likely not decided.

use std::path::Path;

use farshore_core::entry::Entry;
use farshore_core::path::RelPath;
use farshore_core::recovery_point::{Epoch, RecoveryPoint};
use farshore_engine::history::Wanted;
use farshore_proto::message::Held;
use serde::{Deserialize, Serialize};

use crate::exit::{Exit, Failure};
use crate::history::Standby;
use crate::replicate::catalog_failure;
use crate::report::utc;
use crate::site::board::account_name;
use crate::state::State;

/// Files that came or changed within this time before T may have been picked up at the lost site after it: 95 of
/// 100 are within 15 minutes.
const YOUNG_MS: i64 = 15 * 60 * 1_000;
/// A file written within this time before T may not have been whole.
const UNSETTLED_MS: i64 = 30 * 1_000;
/// Paths of each list at most; more are counted.
const LISTED_MAX: usize = 100_000;

/// Where a share that is opened stands.
#[derive(Debug, Clone, Copy)]
pub struct Settled {
    /// The point the tree is at.
    pub point: RecoveryPoint,
    /// The batch after which it is so.
    pub batch: u64,
    /// Changes of a cut that was not complete, or of later points, which were undone.
    pub undone: u64,
    /// What could not be undone.
    pub failed: u64,
}

/// Brings the standby at `root`, which nobody has open, to `at`: its last point where nothing is said.
///
/// # Errors
/// [`Failure`]; what was begun is finished by the next try.
pub fn settle(state: &State, root: &Path, at: Option<&Wanted>) -> Result<Settled, Failure> {
    let standby = Standby::open(state, root)?;
    let last = standby.catalog.reader().and_then(|reader| reader.recovery_point());
    let last = last.map_err(|e| catalog_failure(&e))?.ok_or_else(|| Failure {
        exit: Exit::Refused,
        message: format!("target {}: it has no recovery point", root.display()),
        hint: Some("a first copy that never was complete cannot be opened".into()),
    })?;
    let wanted = at.cloned().unwrap_or(Wanted::Sequence(last.sequence));
    let back = standby.roll_back(&wanted, RelPath::root(), false)?;
    let point = back.point.ok_or_else(|| {
        Failure::usage("the state named is no recovery point", "name a point, a time or a mark")
    })?;
    let failed = back.report.failed;
    if !back.report.exact {
        let first = back.report.failures.first();
        let why = first.map_or_else(
            || "its root digest is another one".to_owned(),
            |first| format!("{} of them, the first {}: {}", failed, first.path, first.text),
        );
        return Err(Failure {
            exit: Exit::Partial,
            message: format!(
                "target {}: it could not be brought to recovery point {}: {why}",
                root.display(),
                point.sequence
            ),
            hint: Some(
                "'farshore history list ROOT --points' names others; 'farshore scrub' finds what \
                 others changed"
                    .into(),
            ),
        });
    }
    // What cannot be removed now is of no harm, and goes when the site sends: opening waits for nothing.
    drop(standby.discard_ahead());
    if point.sequence != last.sequence {
        // What comes after it never was, here.
        let update = standby.catalog.update(farshore_engine::catalog::Durability::Immediate, |t| {
            let reader = standby.catalog.reader()?;
            if let Some(behind) = reader.behind_at(point.sequence)? {
                t.set_behind(&behind)?;
            }
            match reader.sealed_with()? {
                Some(peer) => t.set_recovery_point(&point, peer),
                None => Ok(()),
            }
        });
        update.map_err(|e| catalog_failure(&e))?;
    }
    Ok(Settled { point, batch: back.batch, undone: back.report.counts.all(), failed })
}

/// A site that was no standby is opened as its tree stands: nothing is gone back to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stood {
    /// Where it stood.
    pub phase: String,
    /// Its state folder is an old copy: the point is the last that this one knows of, later ones are forgotten, and
    /// nothing is known of what was held, behind or under way.
    #[serde(default)]
    pub is_old_copy: bool,
    /// The failback plan that was under way, by its short name.
    pub plan: Option<String>,
    /// Versions that the plan had moved aside here and that are at their paths again.
    pub back: u64,
    /// Versions that stay in the quarantine: something else is at their paths, or bringing them back failed.
    pub kept: u64,
    /// The quarantine, below the share's root.
    pub quarantine: Option<String>,
    /// Why they could not be brought back.
    pub problem: Option<String>,
}

impl Stood {
    fn lines(&self, lines: &mut Vec<String>) {
        lines.push(format!(
            "it was {} here and is opened as its tree stands: with what this site did after that point, and without \
             what the other one did",
            self.phase
        ));
        if self.is_old_copy {
            lines.push(
                "its state folder is an old copy, or new: which points came after that one, which accounts were held or \
                 behind, what may be delivered twice and which uploads were under way is NOT KNOWN here"
                    .into(),
            );
            lines.push(
                "it knows no common point with the other site: 'farshore failback plan' takes nothing for deleted, and \
                 a person decides about every path that differs"
                    .into(),
            );
        }
        let Some(plan) = &self.plan else { return };
        lines.push(format!(
            "failback plan {plan} did not come to its end here: {} versions that it had moved aside here are at \
             their paths again",
            self.back
        ));
        let quarantine = self.quarantine.as_deref().unwrap_or(".farshore/quarantine");
        if let Some(problem) = &self.problem {
            lines.push(format!(
                "NOT ALL of them could be brought back: {problem}; the rest is in {quarantine}, its manifest names them"
            ));
        } else if self.kept > 0 {
            lines.push(format!(
                "{} stay in {quarantine}: something else is at their paths now",
                self.kept
            ));
        }
    }
}

/// A path in a list of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Escaped.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Its modification time, in milliseconds since 1970-01-01 UTC.
    pub mtime_unix_ms: i64,
}

/// An account that the point does not have as at T.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behind {
    /// Escaped.
    pub account: String,
    /// The time up to which it is in.
    pub time_unix_ms: i64,
    /// The same as text.
    pub time: String,
}

/// Paths, and how many there are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// All of them.
    pub total: u64,
    /// The first of them.
    pub first: Vec<Listed>,
}

impl List {
    fn add(&mut self, path: &RelPath, entry: &Entry) {
        self.total += 1;
        if self.first.len() < LISTED_MAX {
            let mtime = entry.meta().map(|meta| meta.mtime).unwrap_or_default();
            self.first.push(Listed {
                path: path.to_string(),
                size: entry.size(),
                mtime_unix_ms: millis(mtime),
            });
        }
    }
}

/// What a forced failover may have lost, and what may be delivered twice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossManifest {
    /// The share.
    pub share: String,
    /// The epoch it opened.
    pub epoch: u64,
    /// When it was opened.
    pub opened_unix_ms: i64,
    /// The number of the point.
    pub point: u64,
    /// Its R.
    pub root: String,
    /// T: every change the lost site made after this is at risk, and no other but those of `held` and `behind`.
    pub time_unix_ms: i64,
    /// The same as text.
    pub time: String,
    /// Entries the point does not vouch for.
    pub exceptions: u64,
    /// Changes that were undone: of a cut that was not complete, or after the point that was named.
    pub undone: u64,
    /// Accounts that were held: their changes since their own T are at risk too.
    pub held: Vec<String>,
    /// How many more were held, of which neither the name nor the T is known here.
    #[serde(default)]
    pub held_unnamed: u64,
    /// Accounts that waited for a large file, or for their turn: their changes since their own T are at risk too.
    #[serde(default)]
    pub behind: Vec<Behind>,
    /// How many more waited, of which neither the name nor the T is known here.
    #[serde(default)]
    pub behind_unnamed: u64,
    /// Files that came or changed shortly before T: the lost site may have delivered them afterwards, and this
    /// one will deliver them again.
    pub redelivery_risk: List,
    /// Temporary names and marks of work that was under way.
    pub in_flight: List,
    /// Files that may not have been whole at T.
    pub unsettled: List,
    /// Set where the lists do not reach back as far as they should: what came before this is in none of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lists_from_unix_ms: Option<i64>,
    /// Set where the site was no standby: R is that of the point, not of the tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stood: Option<Stood>,
}

impl LossManifest {
    /// The manifest of a share that was brought to `settled`; its lists are read from the catalog.
    ///
    /// # Errors
    /// [`Failure`] when the catalog cannot be read.
    pub fn of(
        share: &str,
        settled: &Settled,
        reader: &farshore_engine::catalog::CatalogReader,
    ) -> Result<Self, Failure> {
        let mut manifest = Self::of_point(share, settled);
        manifest.name(settled, reader).map_err(|e| catalog_failure(&e))?;
        manifest.list(settled, reader).map_err(|e| catalog_failure(&e))?;
        Ok(manifest)
    }

    /// What the point alone says: names and lists of a catalog that is an old copy are of another day.
    #[must_use]
    pub fn of_point(share: &str, settled: &Settled) -> Self {
        Self {
            share: share.to_owned(),
            point: settled.point.sequence,
            root: settled.point.root.to_string(),
            time_unix_ms: settled.point.time_unix_ms,
            time: utc(settled.point.time_unix_ms),
            exceptions: settled.point.exceptions,
            undone: settled.undone,
            ..Self::default()
        }
    }

    /// Where that of an epoch is kept.
    #[must_use]
    pub fn file(state: &State, share: &str, epoch: u64) -> std::path::PathBuf {
        state.folder().join("failovers").join(format!("{share}-{epoch}.json"))
    }

    /// Keeps it in the state folder.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn write(&self, state: &State) -> Result<(), Failure> {
        let file = Self::file(state, &self.share, self.epoch);
        let failed = |e: std::io::Error| Failure {
            exit: Exit::Disk,
            message: format!("manifest {}: writing it: {e}", file.display()),
            hint: None,
        };
        let folder = file.parent().unwrap_or(state.folder());
        std::fs::create_dir_all(folder).map_err(failed)?;
        let bytes = serde_json::to_vec_pretty(self).map_err(|e| failed(e.into()))?;
        crate::state::write_durably(&file, &bytes).map_err(failed)
    }

    /// The one that was kept for an epoch, or for the last before it: `open --alone` raises the epoch of a
    /// share that was opened.
    ///
    /// # Errors
    /// [`Failure`] when there is none, or it cannot be read.
    pub fn read(state: &State, share: &str, epoch: Epoch) -> Result<Self, Failure> {
        let mut kept = (0..=epoch.0).rev().take(1_000).map(|epoch| Self::file(state, share, epoch));
        let file = kept.find(|file| file.exists());
        let file = file.unwrap_or_else(|| Self::file(state, share, epoch.0));
        let read = std::fs::read(&file).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
        read.map_err(|e| Failure {
            exit: Exit::Held,
            message: format!(
                "share '{share}': it was opened without the other site before; its manifest {}: {e}",
                file.display()
            ),
            hint: None,
        })
    }

    /// For people.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let point = match &self.stood {
            None => "it is as at recovery point",
            Some(_) => "the last recovery point known here is",
        };
        let mut lines = vec![
            format!("share '{}': open here in epoch {}", self.share, self.epoch),
            format!("{point} {} of {}, root {}", self.point, self.time, self.root),
            format!("at risk: every change that the other site made after {}", self.time),
        ];
        if let Some(stood) = &self.stood {
            stood.lines(&mut lines);
        }
        if self.undone > 0 {
            lines.push(format!("{} changes of a later, incomplete state were undone", self.undone));
        }
        if self.exceptions > 0 {
            lines.push(format!("{} entries the point does not vouch for", self.exceptions));
        }
        for account in &self.held {
            lines.push(format!("account {account} was held: its changes are at risk too"));
        }
        if self.held_unnamed > 0 {
            let more = self.held_unnamed;
            lines.push(format!("{more} more accounts were held: their changes are at risk too"));
        }
        for Behind { account, time, .. } in &self.behind {
            lines.push(format!(
                "account {account} waited for a large file or its turn: its changes after {time} are at risk"
            ));
        }
        if self.behind_unnamed > 0 {
            let more = self.behind_unnamed;
            let risk = "their changes after times that are not known here are at risk";
            lines.push(format!(
                "{more} more accounts waited for a large file or their turn: {risk}"
            ));
        }
        if !self.stood.as_ref().is_some_and(|stood| stood.is_old_copy) {
            lines.push(format!(
                "{} files may be delivered twice, {} uploads were under way, {} may not be whole",
                self.redelivery_risk.total, self.in_flight.total, self.unsettled.total
            ));
        }
        if let Some(from) = self.lists_from_unix_ms {
            lines.push(format!(
                "that counts from {} on: this site has been the standby since then, and knows of nothing before",
                utc(from)
            ));
        }
        lines
    }

    /// Names the accounts that were behind. An earlier point that was gone back to had those that were behind
    /// already then, as it was recorded with it; of one that an earlier build sealed, those of the last point that
    /// were so by then: of others that it did not have its exceptions say how many.
    fn name(
        &mut self,
        settled: &Settled,
        reader: &farshore_engine::catalog::CatalogReader,
    ) -> Result<(), farshore_engine::catalog::CatalogError> {
        let holds = reader.holds()?;
        let sequence = settled.point.sequence;
        let was_held = |held: &&Held| held.point.is_none_or(|(good, _)| good <= sequence);
        let held = holds.first.iter().filter(was_held);
        self.held = held.map(|held| account_name(&held.account)).collect();
        self.held_unnamed = holds.total.saturating_sub(holds.first.len() as u64);
        let (behind, is_its) = match reader.behind_at(sequence)? {
            Some(behind) => (behind, true),
            None => (reader.behind()?, false),
        };
        self.behind_unnamed = behind.total.saturating_sub(behind.first.len() as u64);
        if !is_its {
            // Each was an exception.
            self.behind_unnamed = self.behind_unnamed.min(settled.point.exceptions);
        }
        for (account, time) in behind.first {
            if time <= settled.point.time_unix_ms {
                let account = account_name(&account);
                self.behind.push(Behind { account, time_unix_ms: time, time: utc(time) });
            }
        }
        Ok(())
    }

    fn list(
        &mut self,
        settled: &Settled,
        reader: &farshore_engine::catalog::CatalogReader,
    ) -> Result<(), farshore_engine::catalog::CatalogError> {
        let time = settled.point.time_unix_ms;
        let points = reader.points()?;
        let before = points.iter().rev().find(|p| p.point.time_unix_ms < time - YOUNG_MS);
        // Without a point so old all that is noted is young.
        let after = before.map_or(reader.undo_floor()?.unwrap_or(0), |point| point.batch);
        if before.is_none() {
            self.lists_from_unix_ms = points.first().map(|first| first.point.time_unix_ms);
        }
        for former in reader.formers_below(&RelPath::root(), after, true)? {
            let former = former?;
            let Some(now) = reader.get(&former.path)? else { continue };
            let Entry::File { content, .. } = &now.entry else { continue };
            if former.entry.as_ref().and_then(Entry::content) == Some(content) {
                continue;
            }
            let mtime = now.entry.meta().map(|meta| millis(meta.mtime)).unwrap_or_default();
            if is_in_flight(former.path.name()) {
                self.in_flight.add(&former.path, &now.entry);
            } else {
                self.redelivery_risk.add(&former.path, &now.entry);
                if time.saturating_sub(mtime) < UNSETTLED_MS {
                    self.unsettled.add(&former.path, &now.entry);
                }
            }
        }
        Ok(())
    }
}

fn millis(time: farshore_core::entry::Timestamp) -> i64 {
    time.seconds.saturating_mul(1_000).saturating_add(i64::from(time.nanos / 1_000_000))
}

/// A name that is given up when what it stands for is complete: of an upload, or of work under way.
fn is_in_flight(name: &[u8]) -> bool {
    let ends = [&b".filepart"[..], b".tmp", b".part", b".partial"];
    let lower = name.to_ascii_lowercase();
    ends.iter().any(|end| lower.ends_with(end)) || lower.windows(9).any(|w| w == b".m_inproc")
}

#[cfg(test)]
mod tests {
    use farshore_core::digest::RootDigest;
    use farshore_engine::catalog::{Catalog, CatalogConfig, CatalogRole, Durability};
    use farshore_proto::message::StoreId;

    use super::*;

    #[test]
    fn accounts_behind_are_those_of_the_point_that_is_opened() {
        let role = CatalogRole::Target;
        let config = CatalogConfig { role, cache_bytes: 1 << 20, fresh_id: StoreId([1; 16]) };
        let folder = tempfile::tempdir().expect("a folder");
        let catalog = Catalog::open(&folder.path().join("catalog"), &config).expect("opened");
        let point = |sequence: u64, exceptions| RecoveryPoint {
            sequence,
            time_unix_ms: 1_000 * i64::try_from(sequence).expect("small"),
            root: RootDigest([0; 32]),
            entries: 0,
            bytes: 0,
            exceptions,
        };
        let behind = |names: &[&str]| {
            let path = |name: &&str| RelPath::new(name.as_bytes()).expect("a path");
            farshore_proto::message::Behind::of(names.iter().map(|name| (path(name), 500)))
        };
        let seal = |sequence, names: &[&str]| {
            let update = catalog.update(Durability::Immediate, |t| {
                t.set_behind(&behind(names))?;
                t.put_point(&point(sequence, names.len() as u64), 0)
            });
            update.expect("sealed");
        };
        // Of the second somebody waited who does not in the last one any more.
        (1..)
            .zip([&[][..], &["a", "b"], &["b"], &["b", "c"]])
            .for_each(|(n, names)| seal(n, names));
        let named = |sequence, exceptions| {
            let point = point(sequence, exceptions);
            let settled = Settled { point, batch: 0, undone: 0, failed: 0 };
            let reader = catalog.reader().expect("a reader");
            let manifest = LossManifest::of("s", &settled, &reader).expect("read");
            let names = manifest.behind.iter().map(|behind| behind.account.clone());
            names.collect::<Vec<_>>().join(" ")
        };
        assert_eq!([named(2, 2), named(3, 1), named(4, 2)], ["a b", "b", "b c"]);
    }

    #[test]
    fn accounts_that_are_at_risk_and_not_named_are_counted() {
        let manifest = LossManifest { held_unnamed: 3, behind_unnamed: 5, ..Default::default() };
        let lines = manifest.lines().join("\n");
        assert!(lines.contains("3 more accounts were held"), "{lines}");
        assert!(lines.contains("5 more accounts waited for a large file or their turn"), "{lines}");
        let lines = LossManifest::default().lines().join("\n");
        assert!(!lines.contains("more accounts"), "{lines}");
    }
}

//! The brake of a share, kept on disk, fed with what a plan would do.
//!
//! Guarantees: what it holds or a person decided is durable before anything of the next cut is sent; a
//! state that does not read back is no reason to let anything pass: the share is not sent from.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use farshore_core::brake::{
    Brake, BrakeConfig, Counts, Created, CutTally, Decision, Hold, Judgement, LastPoint, Sample,
    Which, entropy,
};
use farshore_engine::catalog::Catalog;
use farshore_engine::io::Storage;
use farshore_engine::plan::{Change, LookKind};
use farshore_proto::message::{HOLDS_MAX, Held, Holds};

use super::*;

/// Bytes of a file that are looked into.
const SAMPLE_LEN: usize = 4_096;
/// How often the sums of the window are kept for the next start.
const SUMS_EVERY: Duration = Duration::from_secs(2);
/// Rewritten files of one cut that are looked into.
const SAMPLES_MAX: usize = 256;
/// The same of what is held: it ends only when nothing is left that was not looked into.
const HELD_SAMPLES_MAX: usize = 4_096;

/// The brake and what it is kept in.
pub(super) struct Brakes {
    file: PathBuf,
    state: Mutex<Kept>,
}

struct Kept {
    brake: Brake,
    /// The revision that is on disk.
    saved: u64,
    saved_at: Instant,
    /// Entries of accounts at the target, as far as they were asked for.
    known: HashMap<RelPath, u64>,
}

impl Brakes {
    pub(super) fn open(
        folder: &Path,
        config: BrakeConfig,
        catalog: &Catalog,
    ) -> Result<Self, Failure> {
        let file = folder.join("brake");
        let at = |step: &str, e: &dyn std::error::Error| Failure {
            exit: Exit::Refused,
            message: format!("brake {}: {step}: {e}", file.display()),
            hint: Some("move the file away to begin with a brake that holds nothing".into()),
        };
        let brake = match read_if_there(&file).map_err(|e| at("reading it", &e))? {
            Some(bytes) => Brake::decode(&bytes, config).map_err(|e| at("reading it", &e))?,
            None => {
                let mut brake = Brake::new(config);
                learn(&mut brake, catalog)?;
                brake
            }
        };
        let saved = brake.revision();
        let state =
            Mutex::new(Kept { brake, saved, saved_at: Instant::now(), known: HashMap::new() });
        Ok(Self { file, state })
    }

    /// Takes all that the catalog has for what is usual.
    pub(super) fn learn(&self, catalog: &Catalog) -> Result<(), Failure> {
        let kept = &mut *self.lock();
        // Counted while there was nothing.
        kept.known.clear();
        learn(&mut kept.brake, catalog)?;
        self.save(kept)
    }

    /// How many entries accounts have is counted anew: what the target holds is not what was thought.
    pub(super) fn forget_known(&self) {
        self.lock().known.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Judges by another config from now on; what is held stays held.
    pub(super) fn reconfigure(&self, config: BrakeConfig) -> Result<(), Failure> {
        let mut kept = self.lock();
        let brake = Brake::decode(&kept.brake.encode(), config);
        kept.brake = brake.map_err(|e| Failure::new(Exit::Internal, &e))?;
        Ok(())
    }

    fn save(&self, kept: &mut Kept) -> Result<(), Failure> {
        let bytes = kept.brake.encode();
        crate::state::write_durably(&self.file, &bytes).map_err(|e| Failure {
            exit: Exit::Disk,
            message: format!("brake {}: writing it: {e}", self.file.display()),
            hint: None,
        })?;
        kept.saved = kept.brake.revision();
        kept.saved_at = Instant::now();
        Ok(())
    }

    /// Accounts of which nothing is sent.
    pub(super) fn withheld(&self) -> BTreeSet<RelPath> {
        self.lock().brake.holds().iter().filter_map(|hold| hold.account.clone()).collect()
    }

    /// T of accounts that are held: of the last point in which each was whole. `fallback` where that is not
    /// known.
    pub(super) fn behind(&self, fallback: i64) -> Vec<(RelPath, i64)> {
        let kept = self.lock();
        let holds = kept.brake.holds().iter();
        let time = |hold: &Hold| match hold.point.time_ms {
            0 => fallback,
            time => time,
        };
        holds.map(|hold| (hold.account.clone().unwrap_or_default(), time(hold))).collect()
    }

    /// Whether nothing of the share is sent.
    pub(super) fn holds_share(&self) -> bool {
        self.lock().brake.holds().iter().any(|hold| hold.account.is_none())
    }

    /// What a hold says.
    pub(super) fn text(&self, id: u64) -> String {
        let kept = self.lock();
        let hold = kept.brake.holds().iter().find(|hold| hold.id == id);
        hold.map_or_else(String::new, ToString::to_string)
    }

    pub(super) fn approve(&self, which: Which<'_>, now_ms: i64) -> Result<Vec<Hold>, Failure> {
        let mut kept = self.lock();
        let ended = kept.brake.approve(which, now_ms).map_err(|e| decided(&e))?;
        self.save(&mut kept)?;
        Ok(ended)
    }

    pub(super) fn reject(&self, which: Which<'_>, now_ms: i64) -> Result<Vec<Hold>, Failure> {
        let mut kept = self.lock();
        let rejected = kept.brake.reject(which, now_ms).map_err(|e| decided(&e))?;
        self.save(&mut kept)?;
        Ok(rejected)
    }

    /// Counts what `plan` would do and judges it; `met` is given each path that changes.
    pub(super) fn judge(
        &self,
        storage: &UringStorage,
        catalog: &Catalog,
        cut: &Cut,
        plan: &mut Plan,
        point: LastPoint,
        met: &mut dyn FnMut(&RelPath),
    ) -> Result<(CutTally, Judgement), Failure> {
        let failed = |e: &dyn std::error::Error| Failure::new(Exit::Internal, e);
        let reader = catalog.reader().map_err(|e| failed(&e))?;
        let kept = &mut *self.lock();
        let known = plan.tally.known;
        let mut tally = kept.brake.tally(known, point, now_ms());
        let (mut samples, mut held_samples) = (0, 0);
        plan.for_each(&mut |change| {
            met(change.path());
            match change {
                Change::Remove { path, .. } => tally.deleted(path),
                Change::Look { path, moved_from: Some(from), .. } => tally.moved(from, path),
                Change::Look { path, kind: LookKind::New, size, is_file, .. } => {
                    let what = match is_file {
                        true => Created::File { size: *size },
                        false => Created::Directory,
                    };
                    tally.created(path, what);
                }
                Change::Look { path, kind: LookKind::Content, .. } => {
                    let (count, most) = match cut.withheld.covers(path) {
                        true => (&mut held_samples, HELD_SAMPLES_MAX),
                        false => (&mut samples, SAMPLES_MAX),
                    };
                    *count += 1;
                    let sample = (*count <= most).then(|| sampled(storage, path)).flatten();
                    tally.rewritten(path, sample);
                }
                // A new name is as young as any entry that comes; a known one is linked anew.
                Change::Link { path, .. } => {
                    if reader.get(path)?.is_none() {
                        tally.created(path, Created::Other);
                    }
                }
                Change::Look { kind: LookKind::Rest, .. } => {}
            }
            Ok(())
        })
        .map_err(|e| failed(&e))?;
        // What is left out while it is carried ahead was not looked at: of it nothing is judged.
        let left_out = |account: &RelPath| {
            cut.left_out.accounts.keys().any(|left_out| left_out.starts_with(account))
        };
        if cut.look == Look::Whole && !left_out(&RelPath::root()) {
            tally.whole();
        }
        let looked_at_all = |account: &RelPath| {
            looks_at_all(&cut.look, account) && plan.could_see(account) && !left_out(account)
        };
        let held = cut.withheld.accounts().iter().filter(|account| looked_at_all(account));
        let asked: BTreeSet<RelPath> = tally.unknown().chain(held).cloned().collect();
        for account in asked {
            let known = match kept.known.get(&account) {
                Some(known) => *known,
                None => {
                    let below = reader.records_below(&account).map_err(|e| failed(&e))?;
                    let count = below.count() as u64;
                    kept.known.insert(account.clone(), count);
                    count
                }
            };
            let whole = looked_at_all(&account);
            tally.account(account, known, whole);
        }
        let tally = tally.finish();
        let judgement = kept.brake.judge(&tally, now_ms());
        if kept.brake.revision() != kept.saved {
            self.save(kept)?;
        }
        Ok((tally, judgement))
    }

    /// Records what was sent, or may have been: of a cut that broke nobody knows how much, and what is left
    /// of it is counted again. That holds too early, never too late.
    ///
    /// # Errors
    /// [`Failure`] when the sums cannot be kept for the next start.
    pub(super) fn applied(&self, tally: &CutTally, judgement: &Judgement) -> Result<(), Failure> {
        let kept = &mut *self.lock();
        kept.brake.applied(tally, judgement, now_ms());
        for (account, tally) in &tally.accounts {
            if let Some(known) = kept.known.get_mut(account) {
                *known = known.saturating_add_signed(tally.grown);
            }
        }
        let is_harmless =
            tally.accounts.values().all(|account| account.created == 0 && account.is_harmless());
        // What is held is kept when it is judged; of the sums the last seconds may be lost.
        if is_harmless || kept.saved_at.elapsed() < SUMS_EVERY {
            return Ok(());
        }
        self.save(kept)
    }

    /// The holds as the other end is told of them.
    pub(super) fn told(&self, guard_hold: Option<(String, i64)>) -> Holds {
        let kept = self.lock();
        let holds = kept.brake.holds();
        let points = holds.iter().map(|hold| hold.point.sequence).filter(|point| *point > 0);
        let by_guard = guard_hold.map(|(reason, since_unix_ms)| Held {
            id: "guard".into(),
            account: RelPath::root(),
            since_unix_ms,
            rejected_unix_ms: None,
            point: None,
            reason,
            counts: [0; 4],
        });
        let by_brake = holds.iter().map(|hold| {
            let reasons: Vec<String> = hold.reasons.iter().map(ToString::to_string).collect();
            let Counts { created, deleted, rewritten, moved } = hold.counts;
            let LastPoint { sequence, time_ms } = hold.point;
            Held {
                id: hold.id.to_string(),
                account: hold.account.clone().unwrap_or_default(),
                since_unix_ms: hold.since_ms,
                rejected_unix_ms: match hold.decision {
                    Decision::Rejected { at_ms } => Some(at_ms),
                    Decision::Waits => None,
                },
                point: (sequence > 0).then_some((sequence, time_ms)),
                reason: reasons.join("; "),
                counts: [created, deleted, rewritten, moved],
            }
        });
        let total = holds.len() as u64 + u64::from(by_guard.is_some());
        let first = by_guard.into_iter().chain(by_brake).take(HOLDS_MAX).collect();
        Holds { total, oldest_point: points.min(), first }
    }

    /// The holds as the board shows them.
    pub(super) fn shown(
        &self,
        share: &str,
        guard_hold: Option<(String, i64)>,
    ) -> Vec<crate::site::board::facts::Hold> {
        let command = |verb: &str, account: &str| match account {
            "" => format!("farshore brake {verb} --share {share}"),
            account => format!("farshore brake {verb} --share {share} --only '{account}'"),
        };
        let next = |account: &str| vec![command("approve", account), command("reject", account)];
        let kept = self.lock();
        let by_brake = kept.brake.holds().iter().map(|hold| {
            let account = hold.account.as_ref().map(ToString::to_string).unwrap_or_default();
            crate::site::board::facts::Hold {
                id: hold.id.to_string(),
                reasons: hold.reasons.iter().map(ToString::to_string).collect(),
                counts: held::counted(hold.counts),
                since_unix_ms: hold.since_ms,
                last_good_point: Some(hold.point.sequence),
                point_unix_ms: Some(hold.point.time_ms).filter(|time| *time != 0),
                rejected_unix_ms: match hold.decision {
                    Decision::Rejected { at_ms } => Some(at_ms),
                    Decision::Waits => None,
                },
                next: next(&account),
                account,
                ..Default::default()
            }
        });
        let by_guard = guard_hold.map(|(text, since_unix_ms)| crate::site::board::facts::Hold {
            id: "guard".into(),
            account: String::new(),
            reasons: vec![text],
            counts: BTreeMap::new(),
            since_unix_ms,
            last_good_point: None,
            rejected_unix_ms: None,
            next: vec![command("approve", "")],
            ..Default::default()
        });
        by_brake.chain(by_guard).collect()
    }
}

fn learn(brake: &mut Brake, catalog: &Catalog) -> Result<(), Failure> {
    let refused = |e: &dyn std::error::Error| Failure::new(Exit::Refused, e);
    let reader = catalog.reader().map_err(|e| refused(&e))?;
    for record in reader.records_below(&RelPath::root()).map_err(|e| refused(&e))? {
        brake.learn(record.map_err(|e| refused(&e))?.0.name());
    }
    Ok(())
}

fn decided(e: &farshore_core::brake::DecideError) -> Failure {
    Failure { exit: Exit::Refused, message: format!("brake: {e}"), hint: None }
}

/// How the beginning of a file looks; none when it cannot be read.
fn sampled(storage: &UringStorage, path: &RelPath) -> Option<Sample> {
    let (parent, name) = path.split()?;
    let directory = storage.open_directory(storage.root(), parent.as_bytes()).ok()?;
    let file = storage.open_file(&directory, name).ok()?;
    let mut bytes = [0; SAMPLE_LEN];
    let read = storage.read_at(&file, 0, &mut bytes).ok()?;
    let sample = bytes.get(..read)?;
    let bytes = u32::try_from(read).ok()?;
    Some(Sample { entropy: entropy(sample), bytes, former: None })
}

impl std::fmt::Debug for Brakes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Brakes").field("file", &self.file).finish_non_exhaustive()
    }
}

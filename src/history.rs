//! History of a standby on the command line: what was where, and going back.
//!
//! What changes the tree works on a folder that nobody writes meanwhile: the catalog is one process's at a time, and the
//! tree has a lock. Listing reads the catalog alone; nothing is made where no run ever was. Where a daemon has the
//! catalog, it is asked what there is and where (`history/asked.rs`); the content is read and checked here.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use farshore_core::entry::{Entry, EntryKind, Timestamp};
use farshore_core::path::RelPath;
use farshore_core::recovery_point::RecoveryPoint;
use farshore_core::role::{Phase, Record as RoleRecord, Stamp};
use farshore_engine::apply::Applier;
use farshore_engine::catalog::{
    Catalog, CatalogError, CatalogReader, CatalogRole, Former, KeptPoint,
};
use farshore_engine::history::{
    self, Change, Counts, Goal, HistoryError, Refusal, Report, Rollback, Version, Wanted,
    is_restorable,
};
use farshore_engine::io::Storage;
use farshore_engine::io::uring::{IoMode, UringStorage};
use farshore_engine::own_folder::{self, OwnFolder};
use farshore_engine::profile::Profile;
use farshore_engine::stage::{StageConfig, is_fatal};
use serde_json::{Value, json};

pub mod asked;

use crate::exit::{Exit, Failure};
use crate::policy::facts::parse_time;
use crate::replicate::{catalog_failure, open_catalog, open_root, worker_threads};
use crate::report::{point_json, utc};
use crate::state::{State, now_ms, path_bytes, random_id};

/// Versions in an object, which is made in memory.
pub const VERSIONS_MAX: usize = 100_000;

/// The folder of a standby and what its state folder knows of it.
#[derive(Debug)]
pub struct Standby {
    /// The folder, resolved.
    pub root: PathBuf,
    /// Its catalog.
    pub catalog: Catalog,
    storage: UringStorage,
    spool: PathBuf,
}

/// What was gone back to and what it came to.
#[derive(Debug)]
pub struct RolledBack {
    /// The recovery point, when it is one.
    pub point: Option<RecoveryPoint>,
    /// The state after this batch.
    pub batch: u64,
    /// What the engine says.
    pub report: Report,
}

/// A state as an operator names it: a sequence, `batch:N`, a time, `mark:LABEL` or a label.
///
/// # Errors
/// What is wrong with it.
pub fn parse_wanted(text: &str) -> Result<Wanted, String> {
    if text.is_empty() {
        return Err("give a recovery point, a time or a mark".into());
    }
    if let Some(batch) = text.strip_prefix("batch:") {
        let wrong = |_| format!("'{text}': a batch is batch: and a number");
        return batch.parse().map(Wanted::Batch).map_err(wrong);
    }
    if let Some(label) = text.strip_prefix("mark:") {
        return Ok(Wanted::Mark(label.into()));
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        let wrong = |_| format!("'{text}': no recovery point has such a number");
        return text.parse().map(Wanted::Sequence).map_err(wrong);
    }
    Ok(match unix_ms(text) {
        Ok(time) => Wanted::Time(time),
        Err(_) => Wanted::Mark(text.into()),
    })
}

/// The recovery points that are kept, oldest first, as `history list --points --json` says them. What `is_old_copy` has
/// none that could be gone back to: what was done to the tree since is not noted in it.
///
/// # Errors
/// [`CatalogError`].
pub fn points(reader: &CatalogReader, is_old_copy: bool) -> Result<Value, CatalogError> {
    let mut objects = Vec::new();
    for kept in reader.points()? {
        let labels: Vec<&str> = kept.marks.iter().map(|mark| mark.label.as_str()).collect();
        let mut object = point_json(&kept.point);
        object["batch"] = kept.batch.into();
        object["sealed"] = utc(kept.sealed_unix_ms).into();
        object["marks"] = json!(labels);
        object["restorable"] = (!is_old_copy && is_restorable(reader, &kept)?).into();
        objects.push(object);
    }
    Ok(json!({ "points": objects }))
}

/// Each former version of `path`, and of what is below it, as `history list --json` says them: in path order, of one
/// path the oldest first.
///
/// # Errors
/// [`CatalogError`].
pub fn versions<'a>(
    reader: &'a CatalogReader,
    path: &RelPath,
) -> Result<impl Iterator<Item = Result<Value, CatalogError>> + use<'a>, CatalogError> {
    let points = reader.points()?;
    let mut until: Option<(u64, Option<i64>)> = None;
    Ok(history::versions(reader, path)?.map(move |former| {
        let former = former?;
        let time = match until {
            Some((set, time)) if set == former.set => time,
            _ => reader.history_set(former.set)?.map(|set| set.time_unix_ms),
        };
        until = Some((former.set, time));
        Ok(version_json(&former, time, last_point(&points, former.set)))
    }))
}

/// Of former versions the first [`VERSIONS_MAX`], as one object; what comes behind them is not looked at.
///
/// # Errors
/// [`CatalogError`].
pub fn versions_object(reader: &CatalogReader, path: &RelPath) -> Result<Value, CatalogError> {
    let mut all = versions(reader, path)?;
    let first = all.by_ref().take(VERSIONS_MAX).collect::<Result<Vec<Value>, _>>()?;
    let more = all.next().transpose()?.is_some();
    Ok(json!({ "path": path.to_string(), "versions": first, "more": more }))
}

/// The last point that has what the batch `set` changed as it was before.
fn last_point(points: &[KeptPoint], set: u64) -> Option<u64> {
    let before = points.partition_point(|p| p.batch < set);
    points[..before].last().map(|p| p.point.sequence)
}

fn version_json(former: &Former, until: Option<i64>, point: Option<u64>) -> Value {
    let entry = former.entry.as_ref();
    let kind = entry.map_or_else(|| "absent".to_owned(), |e| e.kind().to_string());
    json!({
        "path": former.path.to_string(),
        "kind": kind,
        "size": entry.map(Entry::size),
        "mtime": entry.and_then(Entry::meta).map(|m| utc(m.mtime.seconds.saturating_mul(1_000))),
        "until": until.map(utc),
        "batch": former.set,
        "point": point,
    })
}

/// A time in milliseconds since 1970-01-01 UTC.
///
/// # Errors
/// What it looks like.
pub fn unix_ms(text: &str) -> Result<i64, String> {
    let time = parse_time(text)?;
    Ok(time.seconds.saturating_mul(1_000).saturating_add(i64::from(time.nanos / 1_000_000)))
}

/// An error of history as the command line shows it.
#[must_use]
pub fn failure(e: &HistoryError) -> Failure {
    if e.file_system().is_some_and(is_fatal) {
        return Failure::new(Exit::Disk, e)
            .hint("make room (or mend the mount) and run the same command again: it goes on where it stopped");
    }
    let refusal = match e {
        HistoryError::View { .. } => return Failure::new(Exit::Refused, e),
        HistoryError::Catalog(e) => return catalog_failure(e),
        HistoryError::Refused(refusal) => refusal,
        _ => return Failure::new(Exit::Internal, e),
    };
    match refusal {
        Refusal::NoRoom { .. } => Failure::new(Exit::Disk, e)
            .hint("nothing was changed; make room and run the same command again"),
        Refusal::UnknownPoint(_)
        | Refusal::NoPointBefore
        | Refusal::NoPoint
        | Refusal::UnknownMark(_)
        | Refusal::Pruned { .. }
        | Refusal::NotApplied(_) => Failure::new(Exit::Refused, e)
            .hint("'farshore history list DST --points' shows what there is to go back to"),
        Refusal::WasAbsent(_) => Failure::new(Exit::Refused, e)
            .hint("'farshore history list DST PATH' shows the versions there are"),
        Refusal::NoFile { .. } => {
            Failure::new(Exit::Refused, e).hint("leave --to out to restore it in place")
        }
        Refusal::NotWanted => Failure::new(Exit::Busy, e),
        Refusal::NoContent { .. } => {
            Failure::new(Exit::Partial, e).hint("another point may have a version that is whole")
        }
        Refusal::NoHistory => Failure::new(Exit::Refused, e),
    }
}

impl Standby {
    /// Opens the standby at `root`, of which a run of this state folder knows.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn open(state: &State, root: &Path) -> Result<Self, Failure> {
        let resolved = root.canonicalize().map_err(|e| Failure {
            exit: Exit::Refused,
            message: format!("target {}: looking it up: {e}", root.display()),
            hint: None,
        })?;
        let parts = [path_bytes(&resolved)];
        let folder = state.catalog_folder(CatalogRole::Target, &parts);
        if !folder.join("catalog.redb").exists() {
            return Err(Failure {
                exit: Exit::Refused,
                message: format!(
                    "state folder {}: it knows no target {}",
                    state.folder().display(),
                    resolved.display()
                ),
                hint: Some(
                    "give the folder and --state as they were given to 'farshore serve' or \
                     'farshore replicate'"
                        .into(),
                ),
            });
        }
        let storage = open_root("target", &resolved, IoMode::Auto, None)?;
        let (catalog, spool) = open_catalog(state, CatalogRole::Target, &parts)?;
        Ok(Self { root: resolved, catalog, storage, spool })
    }

    /// A path of the standby, given below it or as a whole.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn path(&self, given: &Path) -> Result<RelPath, Failure> {
        path_below(&self.root, given)
    }

    /// The state an operator names: its batch, and the point if it is one.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn find(&self, wanted: &Wanted) -> Result<(u64, Option<KeptPoint>), Failure> {
        let reader = self.catalog.reader().map_err(|e| catalog_failure(&e))?;
        history::find(&reader, wanted).map_err(|e| failure(&e))
    }

    /// What going back would do; each change is given to `each`.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn preview(
        &self,
        batch: u64,
        scope: &RelPath,
        each: &mut dyn FnMut(&RelPath, Change, u64),
    ) -> Result<Counts, Failure> {
        let planned = self
            .catalog
            .reader()
            .and_then(|reader| history::plan(&reader, batch, scope, &self.spool, each));
        planned.map(|plan| plan.counts).map_err(|e| catalog_failure(&e))
    }

    /// Whether the tree is to be looked at when `path` goes back: not for one file of one name.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn needs_check(&self, wanted: &Wanted, path: &RelPath) -> Result<bool, Failure> {
        use std::os::unix::ffi::OsStrExt;
        use std::os::unix::fs::MetadataExt;
        let (batch, _) = self.find(wanted)?;
        let reader = self.catalog.reader().map_err(|e| catalog_failure(&e))?;
        let then = history::entry_at(&reader, batch, path).map_err(|e| failure(&e))?;
        let now = self.root.join(std::ffi::OsStr::from_bytes(path.as_bytes())).symlink_metadata();
        let is_one = now.map_or(true, |now| !now.is_dir() && now.nlink() == 1);
        Ok(!is_one || then.is_some_and(|then| then.kind() == EntryKind::Directory))
    }

    /// Refuses where this site's record says that the tree is no standby: what goes back in place would take away what
    /// services did there, and the base that a failback needs. A tree that no standing site has has no record.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn must_be_standby(&self, state: &State) -> Result<(), Failure> {
        let Some(records) = self.role_records(state)? else { return Ok(()) };
        let phases = records.iter().map(|record| record.phase);
        let why = match phases.clone().find(|phase| *phase != Phase::Standby) {
            Some(phase) => format!("the share is {} here", phase.name()),
            // An old copy, or another site's: what the share is now is known to the tree alone.
            None if records.is_empty() => {
                "the state folder does not know the role of this tree".into()
            }
            None => return Ok(()),
        };
        Err(Failure {
            exit: Exit::Held,
            message: format!("{}: {why}; only a standby goes back in place", self.root.display()),
            hint: Some(
                "'farshore history restore --to FILE' writes a version elsewhere, at any time"
                    .into(),
            ),
        })
    }

    /// The records of this state folder that are as far as the tree's own marker, as a standing site keeps them; `None`
    /// of a tree without one.
    fn role_records(&self, state: &State) -> Result<Option<Vec<RoleRecord>>, Failure> {
        let marker = own_folder::read_small(&self.storage, own_folder::ROLE);
        let marker = marker.map_err(|e| self.own_failure(&e))?;
        let Some(stamp) = marker.and_then(|bytes| Stamp::decode_marker(&bytes).ok()) else {
            return Ok(None);
        };
        let records = std::fs::read_dir(state.folder().join("roles")).into_iter().flatten();
        let records = records
            .flatten()
            .filter_map(|record| RoleRecord::decode(&std::fs::read(record.path()).ok()?).ok());
        Ok(Some(records.filter(|record| record.rising == stamp).collect()))
    }

    /// Whether the catalog is known to be as old as a record that is an old copy.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn is_old_copy(&self, state: &State) -> Result<bool, Failure> {
        let records = self.role_records(state)?;
        Ok(records.is_some_and(|r| r.is_empty() || r.iter().any(|record| record.forgot)))
    }

    /// Goes back, with the tree's lock. With `checks` the tree is looked at before and after.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn roll_back(
        &self,
        wanted: &Wanted,
        scope: RelPath,
        checks: bool,
    ) -> Result<RolledBack, Failure> {
        let (batch, point) = self.find(wanted)?;
        let fresh = random_id().map_err(|e| Failure::new(Exit::Internal, &e))?;
        let own = OwnFolder::open(&self.storage, fresh).map_err(|e| self.own_failure(&e))?;
        let profile = Profile::default();
        let applier = Applier {
            storage: &self.storage,
            catalog: &self.catalog,
            own: &own,
            now_ms: &now_ms,
            profile: &profile,
        };
        let point = point.map(|kept| kept.point);
        let root = point.filter(|_| scope.is_root()).map(|point| point.root);
        let stage = StageConfig { devices: true, passes_over_too_large: false };
        let mut rollback = Rollback::new(applier, &self.spool, worker_threads(), stage);
        rollback.checks = checks;
        let report = rollback.run(&Goal { batch, scope, root }).map_err(|e| failure(&e))?;
        Ok(RolledBack { point, batch, report })
    }

    /// Removes what came ahead of cuts that will not come.
    ///
    /// # Errors
    /// The file system's own.
    pub fn discard_ahead(&self) -> std::io::Result<()> {
        farshore_engine::ahead::discard(&self.storage)
    }

    fn own_failure(&self, e: &std::io::Error) -> Failure {
        let root = self.root.display();
        if e.kind() == std::io::ErrorKind::ResourceBusy {
            return Failure {
                exit: Exit::Busy,
                message: format!("target {root}: another farshore process writes this tree"),
                hint: Some("wait for it or stop it".into()),
            };
        }
        Failure {
            exit: if is_fatal(e) { Exit::Disk } else { Exit::Refused },
            message: format!("target {root}: opening .farshore: {e}"),
            hint: None,
        }
    }

    /// Writes the file that was at `path` after `batch` to `to`, which must not be there; its size.
    ///
    /// # Errors
    /// [`Failure`]; nothing is at `to` then.
    pub fn restore_to(&self, batch: u64, path: &RelPath, to: &Path) -> Result<u64, Failure> {
        let reader = self.catalog.reader().map_err(|e| catalog_failure(&e))?;
        let version = history::version(&reader, batch, path).map_err(|e| failure(&e))?;
        write_version(&self.root, &self.storage, &version, path, to)?;
        Ok(version.size)
    }
}

/// A path of the tree at `root`, given below it or as a whole.
///
/// # Errors
/// [`Failure`].
pub fn path_below(root: &Path, given: &Path) -> Result<RelPath, Failure> {
    let below = given.strip_prefix(root).unwrap_or(given);
    let bytes = path_bytes(below);
    let bytes = bytes.strip_prefix(b"./").unwrap_or(bytes);
    let bytes = bytes.strip_suffix(b"/").unwrap_or(bytes);
    let bytes = if bytes == b"." { b"" } else { bytes };
    RelPath::new(bytes).map_err(|e| {
        Failure::usage(
            format!("path {}: {e}", given.display()),
            "give it as it is below the target's folder",
        )
    })
}

/// Writes a version of the file at `path`, of the tree at `root`, to `to`, which must not be there.
///
/// # Errors
/// [`Failure`]; nothing is at `to` then.
pub fn write_version<S: Storage>(
    root: &Path,
    storage: &S,
    version: &Version,
    path: &RelPath,
    to: &Path,
) -> Result<(), Failure> {
    use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
    let said = |step: &str, e: &std::io::Error| Failure {
        exit: if is_fatal(e) { Exit::Disk } else { Exit::Refused },
        message: format!("{}: {step}: {e}", to.display()),
        hint: None,
    };
    let parent = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let parent = parent.canonicalize().map_err(|e| said("looking up its folder", &e))?;
    if parent.starts_with(root) {
        return Err(Failure::usage(
            format!("{}: it lies in the target, whose entries are the source's", to.display()),
            "give a place outside; or leave --to out to restore in place",
        ));
    }
    let mut open = std::fs::OpenOptions::new();
    let file = open.write(true).create_new(true).mode(0o600).open(to);
    let file = file.map_err(|e| said("making it", &e))?;
    let mut begin = |size| file.set_len(0).and_then(|()| file.set_len(size));
    let mut write = |offset, bytes: &[u8]| file.write_all_at(bytes, offset);
    let read = version.read(storage, path, &mut begin, &mut write);
    let done = read.map_err(|e| failure(&e)).and_then(|()| {
        let mode = std::fs::Permissions::from_mode(version.meta.mode & 0o777);
        file.set_permissions(mode).map_err(|e| said("setting its mode", &e))?;
        if let Some(time) = system_time(version.meta.mtime) {
            file.set_modified(time).map_err(|e| said("setting its time", &e))?;
        }
        file.sync_all().map_err(|e| said("making it durable", &e))
    });
    if done.is_err() {
        // It was made here, and is not the file that was asked for.
        std::fs::remove_file(to).unwrap_or(());
    }
    done
}

/// `None` where the system has no such time.
fn system_time(time: Timestamp) -> Option<SystemTime> {
    let seconds = Duration::from_secs(time.seconds.unsigned_abs());
    let whole = match time.seconds {
        0.. => SystemTime::UNIX_EPOCH.checked_add(seconds),
        _ => SystemTime::UNIX_EPOCH.checked_sub(seconds),
    };
    whole?.checked_add(Duration::from_nanos(time.nanos.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_named_by_sequence_batch_time_and_mark() {
        assert_eq!(parse_wanted("17"), Ok(Wanted::Sequence(17)));
        assert_eq!(parse_wanted("batch:9"), Ok(Wanted::Batch(9)));
        assert_eq!(parse_wanted("1970-01-01T00:00:01.5Z"), Ok(Wanted::Time(1_500)));
        assert_eq!(parse_wanted("db=0/16B3748"), Ok(Wanted::Mark("db=0/16B3748".into())));
        assert_eq!(parse_wanted("mark:17"), Ok(Wanted::Mark("17".into())));
        assert!(parse_wanted("").is_err());
        assert!(parse_wanted("batch:x").is_err());
    }
}

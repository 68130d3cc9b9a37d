//! What is true of a share that is written to: each change with when it began, when it was done, and what
//! stood at its path from then on. And whether a standby is what its recovery point says.
//!
//! A point with the time T vouches for every change that was done before T. So a path at the standby is in
//! one of the states it had from T on: in exactly one when nothing was done to it since, and else in any
//! of the later ones as well, whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    Absent,
    Folder {
        mode: u32,
    },
    File {
        size: u64,
        digest: [u8; 32],
        mode: u32,
        mtime_ns: i128,
    },
    /// A file that is being written from its begin on, and will be this.
    Growing(Arc<Vec<u8>>),
}

/// One change of one path.
#[derive(Debug)]
struct Change {
    sequence: u64,
    began_ns: i128,
    done_ns: i128,
    after: State,
}

/// A file that says that another is complete.
#[derive(Debug)]
struct Trigger {
    sequence: u64,
    path: String,
    data: String,
}

/// A file that got another name.
#[derive(Debug)]
struct Rename {
    done_ns: i128,
    from: String,
    to: String,
}

#[derive(Debug, Default)]
struct Log {
    paths: BTreeMap<String, Vec<Change>>,
    renames: Vec<Rename>,
    triggers: Vec<Trigger>,
    count: u64,
}

/// Everything that was done to a share, by all who write to it.
#[derive(Debug, Default)]
pub(crate) struct Truth(Mutex<Log>);

/// What was found at a standby.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// What is not as its point says, with why.
    pub(crate) wrong: Vec<String>,
    /// Paths of which exactly one state was right.
    pub(crate) exact: usize,
    /// Paths that were changed since.
    pub(crate) since: usize,
    /// Files that were there at T and were renamed since, and are under neither name: each path is as the
    /// point says, and yet the file is not there until the next one.
    pub(crate) between: Vec<String>,
    /// Triggers that are seen there.
    pub(crate) triggers: usize,
}

/// The time now, by the clock that points are told by.
pub(crate) fn now_ns() -> i128 {
    i128::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

impl State {
    /// What stands at `path`, of which the content is known to have this digest.
    pub(crate) fn known(path: &Path, digest: [u8; 32]) -> Self {
        Self::read(path, |_| digest)
    }

    /// What stands at `path`.
    pub(crate) fn of(path: &Path) -> Self {
        Self::read(path, |path| *blake3::hash(&fs::read(path).unwrap_or_default()).as_bytes())
    }

    fn read(path: &Path, digest: impl FnOnce(&Path) -> [u8; 32]) -> Self {
        let Ok(stat) = fs::symlink_metadata(path) else { return Self::Absent };
        let mode = stat.mode() & 0o7777;
        match stat.is_dir() {
            true => Self::Folder { mode },
            false => Self::File {
                size: stat.size(),
                digest: digest(path),
                mode,
                mtime_ns: i128::from(stat.mtime()) * 1_000_000_000 + i128::from(stat.mtime_nsec()),
            },
        }
    }

    /// Whether `found` is this. Of what was changed since a point its time is not compared: two changes
    /// may have been seen as one.
    fn is(&self, found: &Self, with_time: bool) -> bool {
        match (self, found) {
            (Self::Growing(whole), Self::File { size, digest, .. }) => usize::try_from(*size)
                .ok()
                .and_then(|size| whole.get(..size))
                .is_some_and(|part| blake3::hash(part).as_bytes() == digest),
            (
                Self::File { size, digest, mode, .. },
                Self::File { size: s, digest: d, mode: m, .. },
            ) if !with_time => (size, digest, mode) == (s, d, m),
            _ => self == found,
        }
    }
}

impl Truth {
    /// Notes what one call did.
    pub(crate) fn note(
        &self,
        began_ns: i128,
        done_ns: i128,
        changes: impl IntoIterator<Item = (String, State)>,
    ) {
        let mut log = self.0.lock().unwrap();
        log.count += 1;
        let sequence = log.count;
        for (path, after) in changes {
            let change = Change { sequence, began_ns, done_ns, after };
            log.paths.entry(path).or_default().push(change);
        }
    }

    /// The call noted last made `path`, which says that `data` is complete.
    pub(crate) fn note_trigger(&self, path: String, data: String) {
        let mut log = self.0.lock().unwrap();
        let sequence = log.paths[&path].last().unwrap().sequence;
        log.triggers.push(Trigger { sequence, path, data });
    }

    /// The call noted last gave files other names.
    pub(crate) fn note_renames(&self, renames: impl IntoIterator<Item = (String, String)>) {
        let mut log = self.0.lock().unwrap();
        for (from, to) in renames {
            let done_ns = log.paths[&to].last().unwrap().done_ns;
            log.renames.push(Rename { done_ns, from, to });
        }
    }

    /// Changes so far.
    pub(crate) fn count(&self) -> u64 {
        self.0.lock().unwrap().count
    }

    /// When each change was done.
    #[allow(dead_code)] // the bench asks
    pub(crate) fn done_ns(&self) -> Vec<i128> {
        let log = self.0.lock().unwrap();
        let done: BTreeMap<u64, i128> =
            log.paths.values().flatten().map(|c| (c.sequence, c.done_ns)).collect();
        done.into_values().collect()
    }

    /// Compares a standby's tree with what its point, whose time is `time_ms`, says of it. Whoever writes
    /// to the share rests meanwhile, so that nothing is there that was not noted.
    pub(crate) fn check(&self, tree: &Path, time_ms: i64) -> Found {
        self.check_behind(tree, time_ms, &BTreeMap::new())
    }

    /// The same of a point that names accounts, folders of the share, as behind: of each it vouches for what was
    /// done before that account's own time.
    pub(crate) fn check_behind(
        &self,
        tree: &Path,
        time_ms: i64,
        behind: &BTreeMap<String, i64>,
    ) -> Found {
        let time_of = |path: &str| {
            let account = path.split('/').next().unwrap_or_default();
            i128::from(behind.get(account).map_or(time_ms, |own| time_ms.min(*own))) * 1_000_000
        };
        let log = self.0.lock().unwrap();
        let mut found = Found::default();
        for (path, changes) in &log.paths {
            let time_ns = time_of(path);
            let first = changes.iter().rposition(|change| change.done_ns < time_ns);
            let (before, rest) = match first {
                Some(first) => (None, &changes[first..]),
                None => (Some(&State::Absent), &changes[..]),
            };
            let right: Vec<&State> =
                before.into_iter().chain(rest.iter().map(|c| &c.after)).collect();
            let is_exact = right.len() == 1;
            let there = State::of(&tree.join(path));
            match is_exact {
                true => found.exact += 1,
                false => found.since += 1,
            }
            if !right.iter().any(|state| state.is(&there, is_exact)) {
                let history: Vec<String> = rest.iter().map(|c| c.shown(time_ns)).collect();
                found.wrong.push(format!("{path}: {there:?}, not one of {before:?} {history:?}"));
            }
        }
        for path in walk(tree).difference(&log.paths.keys().cloned().collect()) {
            found.wrong.push(format!("{path}: it never was at the source"));
        }
        let since = |rename: &&Rename| rename.done_ns >= time_of(&rename.from);
        for Rename { from, to, .. } in log.renames.iter().filter(since) {
            let time_ns = time_of(from);
            let absent = |path: &String| State::of(&tree.join(path)) == State::Absent;
            let at_point = log.paths[from].iter().rfind(|c| c.done_ns < time_ns);
            let was_there = at_point.is_some_and(|c| matches!(c.after, State::File { .. }));
            let is_there = log.paths[to].last().is_some_and(|c| c.after != State::Absent);
            if was_there && is_there && absent(from) && absent(to) {
                found.between.push(format!(
                    "{from} and {to}: {:?}",
                    log.paths[to].last().map(|c| c.shown(time_ns))
                ));
            }
        }
        for trigger in &log.triggers {
            let time_ns = time_of(&trigger.path);
            if State::of(&tree.join(&trigger.path)) == State::Absent {
                continue;
            }
            found.triggers += 1;
            let there = State::of(&tree.join(&trigger.data));
            // What the data was when its trigger was made, or became.
            let changes = &log.paths[&trigger.data];
            let first = changes.iter().rposition(|c| c.sequence < trigger.sequence).unwrap();
            if !changes[first..].iter().any(|c| c.after.is(&there, false)) {
                let history: Vec<String> = changes.iter().map(|c| c.shown(time_ns)).collect();
                let made = log.paths[&trigger.path].iter().map(|c| c.shown(time_ns));
                found.wrong.push(format!(
                    "{}: there before its data, which is {there:?} of {history:?}; the trigger {:?}",
                    trigger.path,
                    made.collect::<Vec<_>>(),
                ));
            }
        }
        found
    }
}

impl Change {
    /// For people, in milliseconds from a point on.
    fn shown(&self, time_ns: i128) -> String {
        let ms = |ns: i128| (ns - time_ns) / 1_000_000;
        let after = match &self.after {
            State::Growing(whole) => format!("growing to {}", whole.len()),
            other => format!("{other:?}"),
        };
        format!("#{} {}..{} ms: {after}", self.sequence, ms(self.began_ns), ms(self.done_ns))
    }
}

/// All paths below a tree but for the program's own.
fn walk(tree: &Path) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    let mut waiting = vec![String::new()];
    while let Some(folder) = waiting.pop() {
        let Ok(entries) = fs::read_dir(tree.join(&folder)) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().into_string().unwrap();
            let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            if path == ".farshore" {
                continue;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                waiting.push(path.clone());
            }
            paths.insert(path);
        }
    }
    paths
}

//! Accounts that wait while a large file of theirs travels beside the cuts, or others have their turn.
//!
//! Guarantees: what a cut did not look at because of it is looked at when it is over, or when the session
//! is; until a point has that, each counts the account as an exception and names it, with the time up to
//! which it is in: to the standby as well, and through breaks of the session and restarts of either site. Memory: the
//! directories that changed in the accounts that wait.
//!
//! After a restart it is not known what was not looked at: an account that the last point names is named until
//! everything was looked at, or, where the end goes on without that (`start.rs`), all of the account. Of those that
//! are too many to be named it is known up to when they are in at least: that is said of whichever waits then.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::*;
use crate::site::board::facts::{LargeFile, Why};

/// A file that takes longer than about a second does not go with its cut; on a fast line, one of this
/// many bytes ...
const AHEAD_MOST: u64 = 64 << 20;
/// ... and on any line none that is shorter than this.
const AHEAD_LEAST: u64 = 4 << 20;

/// For how long a file travels until it is said when it is there.
const SEEN_MIN: Duration = Duration::from_secs(1);

/// What the line does in about a second, as far as it matters.
pub(super) fn within_limits(second: u64) -> u64 {
    second.clamp(AHEAD_LEAST, AHEAD_MOST)
}

/// From how many bytes on files travel beside the cuts.
#[derive(Debug, Default)]
pub(super) struct Limit(AtomicU64);

/// An account, or a file by itself, that cuts leave out.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Directories to be looked at, and whether with all below.
    parts: BTreeMap<RelPath, bool>,
    trouble: Option<String>,
    /// For its turn alone, which may be that of the next cut.
    by_turn: bool,
}

impl Waiting {
    /// What is to be looked at when it is over.
    pub(super) fn parts(&self) -> impl Iterator<Item = (RelPath, bool)> {
        self.parts.iter().map(|(directory, deep)| (directory.clone(), *deep))
    }
}

/// An account that the last point does not have as at its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lag {
    /// The time up to which it is in.
    pub(super) since_ms: i64,
    /// What was not looked at is not known: that was another run of the daemon.
    pub(super) is_unknown: bool,
    /// What it waits for, if that is known.
    pub(super) why: Option<Why>,
}

/// Accounts that are behind.
pub(super) type Lags = BTreeMap<RelPath, Lag>;

/// How many of these wait for their turn.
pub(super) fn turns(lags: &Lags) -> usize {
    lags.values().filter(|lag| lag.why == Some(Why::Turn)).count()
}

/// `path`, and all above it.
fn way_of(path: &RelPath) -> impl Iterator<Item = RelPath> {
    std::iter::successors(Some(path.clone()), |path| path.split().map(|(parent, _)| parent))
}

/// What a point lacks that comes behind one of `last_ms`, which lacked `former`: what its cut leaves out, and
/// what an earlier one left out and it does not look at either. Whether everything was looked at by then says
/// `completes`.
fn lags_of(
    former: &Lags,
    left_out: &BTreeMap<&RelPath, Why>,
    is_held: impl Fn(&RelPath) -> bool,
    completes: bool,
    last_ms: i64,
) -> Lags {
    // All that waited of what is no longer left out was taken into the next cut.
    let stays = |(account, lag): &(&RelPath, &Lag)| {
        let is_in = !is_held(account) && (completes || !lag.is_unknown);
        !is_in && !left_out.contains_key(account)
    };
    let stays = former.iter().filter(stays).map(|(account, lag)| (account.clone(), *lag));
    let mut lags: Lags = stays.collect();
    for (account, why) in left_out {
        // A file that is left out by itself now was with its account before.
        let new = Lag { since_ms: last_ms, is_unknown: false, why: None };
        let known = way_of(account).filter_map(|known| former.get(&known).copied());
        let mut lag = known.min_by_key(|lag| lag.since_ms).unwrap_or(new);
        lag.is_unknown &= !completes;
        lag.why = Some(*why);
        lags.insert((*account).clone(), lag);
    }
    lags
}

/// Whether what a cut leaves out is behind in its point: an account, also one that was in trouble itself. A file that
/// is left out by itself, and in trouble, is listed as such.
fn is_named(
    left_out: &LeftOut,
    of: &RelPath,
    depth: usize,
    is_troubled: impl Fn(&RelPath) -> bool,
) -> bool {
    left_out.turns.contains(of) || account_of(of, depth) == *of || !is_troubled(of)
}

/// What of a look lies in each of `accounts`, or finds out whether it is there: directories, and whether with all
/// below.
fn parts_of<'a>(
    look: &Look,
    accounts: impl Iterator<Item = &'a RelPath>,
    depth: usize,
) -> BTreeMap<&'a RelPath, BTreeMap<RelPath, bool>> {
    let mut all: BTreeMap<&RelPath, BTreeMap<RelPath, bool>> =
        accounts.map(|account| (account, BTreeMap::new())).collect();
    let add = |parts: &mut BTreeMap<RelPath, bool>, directory: RelPath, deep: bool| {
        *parts.entry(directory).or_default() |= deep;
    };
    let add_all = |account: &RelPath, parts: &mut BTreeMap<RelPath, bool>| {
        // A file that waits by itself is found in its directory.
        if account_of(account, depth) == *account {
            add(parts, account.clone(), true);
        }
        add(parts, account.split().map_or_else(RelPath::root, |(parent, _)| parent), false);
    };
    match look {
        Look::Whole => all.iter_mut().for_each(|(account, parts)| add_all(account, parts)),
        Look::Nothing => {}
        Look::Parts(scope) => {
            let by_directory: HashMap<&RelPath, bool> =
                scope.parts().iter().map(|part| (&part.directory, part.deep)).collect();
            for (account, parts) in &mut all {
                for above in way_of(account).skip(1) {
                    match by_directory.get(&above) {
                        Some(true) => add_all(account, parts),
                        Some(false) => add(parts, above, false),
                        None => {}
                    }
                }
            }
            for Part { directory, deep } in scope.parts() {
                for at in way_of(directory) {
                    if let Some(parts) = all.get_mut(&at) {
                        *parts.entry(directory.clone()).or_default() |= *deep;
                    }
                }
            }
        }
    }
    all
}

impl Sender {
    /// The line takes so many bytes a second, if that is limited.
    pub fn limited_to(&self, limit: Option<u64>) {
        let former = self.ahead_limit.0.swap(limit.unwrap_or(0), Relaxed);
        if former != limit.unwrap_or(0) {
            self.lock().queue.forget_rate();
        }
    }

    /// What the line is held to in a second.
    pub(super) fn line_limit(&self) -> Option<u64> {
        Some(self.ahead_limit.0.load(Relaxed)).filter(|limit| *limit > 0)
    }

    /// What a second of the line takes, as far as that is known.
    pub(super) fn ahead_min(&self) -> u64 {
        let carried = Some(self.progress.line_rate.load(Relaxed)).filter(|rate| *rate > 0);
        let second = self.line_limit().into_iter().chain(carried).min().unwrap_or(u64::MAX);
        within_limits(second)
    }

    /// How far the files are that travel beside the cuts.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub(super) fn large_files(&self) -> Vec<LargeFile> {
        let of = |OnItsWay { path, size, done, took }: OnItsWay| {
            let bytes_left = size.saturating_sub(done);
            let a_second = done as f64 / took.as_secs_f64().max(0.001);
            let is_seen = took >= SEEN_MIN && done > 0;
            LargeFile {
                path: path.to_string(),
                bytes: size,
                bytes_left,
                rate: if is_seen { a_second as u64 } else { 0 },
                eta_ms: is_seen.then(|| (bytes_left as f64 * 1_000.0 / a_second) as u64),
            }
        };
        self.progress.on_their_way().into_iter().map(of).collect()
    }

    pub(super) fn account_ahead(&self, path: &RelPath, size: u64) -> Option<RelPath> {
        // A first copy is one large cut, whatever is in it.
        if size < self.ahead_min() || self.lock().seeding {
            return None;
        }
        // What cannot be held there until its cut goes with it, or waits as what is too large does.
        let kept = size.saturating_add(farshore_engine::ahead::ROOM_KEPT);
        if self.standby_free().is_some_and(|free| free < kept) {
            return None;
        }
        let account = account_of(path, self.config.account_depth);
        Some(if account.is_root() { path.clone() } else { account })
    }

    /// What cuts leave out: what is held, and what waits for a large file or its turn.
    pub(super) fn left_out(&self, withheld: &Withheld, inner: &Inner) -> BTreeSet<RelPath> {
        withheld.accounts().iter().chain(inner.ahead.keys()).cloned().collect()
    }

    /// The accounts that the point of a cut will not have.
    pub(super) fn lags(&self, inner: &Inner, cut: &Cut) -> Lags {
        let why = |account: &RelPath| match cut.left_out.turns.contains(account) {
            true => Why::Turn,
            false => Why::LargeFile,
        };
        let left_out = cut.left_out.accounts.keys().map(|account| (account, why(account)));
        let is_named = |account: &RelPath| {
            is_named(&cut.left_out, account, self.config.account_depth, |path| {
                inner.troubled.contains_key(path)
            })
        };
        let left_out = left_out.filter(|(account, _)| is_named(account)).collect();
        let is_held = |account: &RelPath| cut.withheld.covers(account);
        let last_ms = inner.last_point.map_or(0, |point| point.time_unix_ms);
        let last_ms = inner.unnamed.map_or(last_ms, |unnamed| unnamed.min(last_ms));
        lags_of(&inner.lags, &left_out, is_held, inner.under_way.completes, last_ms)
    }

    /// Remembers what a cut did not look at.
    pub(super) fn note_left_out(&self, inner: &mut Inner, cut: &Cut) {
        let (accounts, depth) = (&cut.left_out.accounts, self.config.account_depth);
        let look = cut.left_out.look.as_ref().unwrap_or(&Look::Nothing);
        let mut parts = parts_of(look, accounts.keys(), depth);
        for (account, trouble) in accounts {
            let waiting = inner.ahead.entry(account.clone()).or_default();
            waiting.by_turn = cut.left_out.turns.contains(account);
            for (directory, deep) in parts.remove(account).unwrap_or_default() {
                *waiting.parts.entry(directory).or_default() |= deep;
            }
            if let Some(text) = trouble.as_ref().filter(|_| waiting.trouble != *trouble) {
                self.board.problem(account, text);
                waiting.trouble.clone_from(trouble);
            }
        }
    }

    /// What was left out is no longer: what waited there is due.
    pub(super) fn is_released(&self, accounts: &[RelPath]) {
        let mut inner = self.lock();
        for account in accounts {
            let Some(waiting) = inner.ahead.remove(account) else { continue };
            if waiting.trouble.is_some() {
                self.board.solved(Some(account));
            }
            for (directory, deep) in waiting.parts {
                self.dirty.mark(&directory, deep, now_ms());
            }
            if waiting.by_turn {
                inner.queue.released();
            }
        }
    }

    /// A session begins, and knows of nothing that waits.
    pub(super) fn release_all(&self) {
        let waiting: Vec<RelPath> = self.lock().ahead.keys().cloned().collect();
        self.is_released(&waiting);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).expect("a path")
    }

    fn lag(since_ms: i64, is_unknown: bool) -> Lag {
        Lag { since_ms, is_unknown, why: Some(Why::Turn) }
    }

    fn next(former: &Lags, left_out: &[&str], completes: bool, last_ms: i64) -> Lags {
        let left_out: Vec<RelPath> = left_out.iter().map(|account| path(account)).collect();
        let left_out = left_out.iter().map(|account| (account, Why::Turn)).collect();
        let is_held = |account: &RelPath| *account == path("held");
        lags_of(former, &left_out, is_held, completes, last_ms)
    }

    #[test]
    fn what_waits_keeps_its_time_until_a_cut_has_it() {
        let first = next(&Lags::new(), &["a"], false, 100);
        assert_eq!(first, [(path("a"), lag(100, false))].into());
        // Whatever comes between, a break of the session among it.
        let second = next(&first, &["a", "b"], false, 200);
        assert_eq!(second, [(path("a"), lag(100, false)), (path("b"), lag(200, false))].into());
        assert_eq!(next(&second, &["b"], false, 300), [(path("b"), lag(200, false))].into());
        // A file that waits by itself was with its account.
        assert_eq!(next(&second, &["a/1"], false, 300), [(path("a/1"), lag(100, false))].into());
    }

    #[test]
    fn what_an_earlier_run_left_out_is_behind_until_everything_was_looked_at() {
        let kept: Lags = [(path("a"), lag(100, true)), (path("b"), lag(50, true))].into();
        assert_eq!(next(&kept, &[], false, 300), kept);
        assert_eq!(next(&kept, &["a"], false, 300), kept, "of what was left out more may be");
        assert_eq!(next(&kept, &["a"], true, 300), [(path("a"), lag(100, false))].into());
        assert_eq!(next(&kept, &[], true, 300), Lags::new());
    }

    #[test]
    fn an_account_that_waits_is_named_though_it_was_in_trouble_itself() {
        let turns = [path("turn"), path("file/1")].into();
        let left_out = LeftOut { turns, ..LeftOut::default() };
        let is_named = |of: &str| is_named(&left_out, &path(of), 1, |_| true);
        // It could not be read, and can now.
        assert!(is_named("turn") && is_named("account") && is_named("file/1"));
        assert!(!is_named("file/2"), "listed as an entry in trouble");
        assert!(super::is_named(&left_out, &path("file/2"), 1, |_| false));
    }

    #[test]
    fn those_that_wait_for_their_turn_are_counted_alone() {
        let lags = [Some(Why::Turn), Some(Why::LargeFile), None, Some(Why::Turn)];
        let lag = |why| Lag { since_ms: 1, is_unknown: false, why };
        let named = |(n, why)| (path(&format!("a{n}")), lag(why));
        assert_eq!(turns(&lags.into_iter().enumerate().map(named).collect()), 2);
    }

    #[test]
    fn of_a_look_each_account_keeps_what_lies_in_it_or_above() {
        let (one, file, other) = (path("g/a"), path("g/b/d/file"), path("h/c"));
        let accounts = [&one, &file, &other];
        let of = |look: &Look| {
            let parts = parts_of(look, accounts.into_iter(), 2);
            let shown =
                |(at, deep): (&RelPath, &bool)| format!("{at}{}", if *deep { "/" } else { "" });
            accounts.map(|account| parts[account].iter().map(shown).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(of(&Look::Whole), ["g g/a/", "g/b/d", "h h/c/"]);
        assert_eq!(of(&Look::Nothing), ["", "", ""]);
        let part = |directory: &str, deep| Part { directory: path(directory), deep };
        let parts = |parts: &[Part]| Look::Parts(Scope::new(parts.iter().cloned()));
        assert_eq!(of(&parts(&[part("g", true)])), ["g g/a/", "g/b/d", ""]);
        assert_eq!(of(&parts(&[part("g", false), part("g/a", true)])), ["g g/a/", "g", ""]);
        let some = [part("g/a/1/2", true), part("g/b/d", false), part("h/d", true)];
        assert_eq!(of(&parts(&some)), ["g/a/1/2/", "g/b/d", ""]);
        // What waits may be many, and so may be what changed.
        let accounts: Vec<_> = (0..5_000).map(|n| path(&format!("a/{n}"))).collect();
        let changed = (0..20_000).map(|n| part(&format!("a/{}/{n}", n % 5_000), false));
        let (look, began) = (Look::Parts(Scope::new(changed)), Instant::now());
        let found = parts_of(&look, accounts.iter(), 2);
        assert!(found.values().all(|parts| parts.len() == 4));
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }

    #[test]
    fn what_is_held_meanwhile_stays_behind() {
        let kept: Lags = [(path("held"), lag(100, false))].into();
        assert_eq!(next(&kept, &[], true, 300), kept);
    }
}

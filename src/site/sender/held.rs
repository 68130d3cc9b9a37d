//! What is held: looked at again, decided, told.
//!
//! Guarantees: all of an account that is held is looked at soon after something changed in it, and once in a
//! while if nothing is heard; so its counts are true when somebody decides, and it ends when it was restored.
//! These looks take a small part of the time. Of what ends, by itself or by a person, all is looked at once
//! more: then it catches up. Every decision and every end is logged.

use farshore_core::brake::{Counts, Hold, Which};
use farshore_engine::plan::Withheld;
use farshore_proto::message::Holds;

use super::*;
use crate::site::board::Late;
use crate::site::board::facts::Why;

/// How long what is held is left alone after a look at it, at least.
const LOOK_AFTER: Duration = Duration::from_secs(2);
/// How long it is left alone although nothing was heard of it.
const LOOK_ANYHOW: Duration = Duration::from_secs(30);
/// It is left alone so many times as long as the look took.
const LOOK_SHARE: u32 = 10;
/// Accounts of which all is looked at in one cut.
const LOOKS_MAX: usize = 8;

/// When what is held was looked at, by account; the share itself is the empty path.
#[derive(Debug, Default)]
pub(super) struct Looks(HashMap<RelPath, Looked>);

#[derive(Debug, Clone, Copy)]
struct Looked {
    at: Instant,
    took: Duration,
}

impl Looks {
    fn is_due(&self, account: &RelPath, is_dirty: bool) -> bool {
        let Some(Looked { at, took }) = self.0.get(account) else { return true };
        let rest = took.saturating_mul(LOOK_SHARE);
        at.elapsed() >= rest.max(if is_dirty { LOOK_AFTER } else { LOOK_ANYHOW })
    }

    /// The accounts that are due, those that wait longest first.
    pub(super) fn due(&self, withheld: &Withheld, dirty: &DirtyStatus) -> Vec<RelPath> {
        let is_dirty = |account: &RelPath| dirty.accounts.iter().any(|a| a.account == *account);
        let due = withheld.accounts().iter().filter(|a| self.is_due(a, is_dirty(a)));
        let mut due: Vec<&RelPath> = due.collect();
        due.sort_by_key(|account| self.0.get(*account).map(|looked| looked.at));
        due.into_iter().take(LOOKS_MAX).cloned().collect()
    }

    pub(super) fn share_is_due(&self) -> bool {
        self.is_due(&RelPath::root(), true)
    }

    /// They were looked at, beginning at `began`.
    pub(super) fn done(&mut self, looked: &[RelPath], began: Instant) {
        let looked_now = Looked { at: Instant::now(), took: began.elapsed() };
        self.0.extend(looked.iter().map(|account| (account.clone(), looked_now)));
    }

    /// What is not held any more is forgotten, so that it is looked at at once when it is again.
    pub(super) fn keep(&mut self, withheld: &Withheld, share: bool) {
        self.0.retain(|account, _| {
            withheld.accounts().contains(account) || (share && account.is_root())
        });
    }
}

/// What the guard holds.
pub(super) struct GuardHold {
    pub(super) hold: guard::Hold,
    /// When it was last found so.
    pub(super) seen: Instant,
    /// Since when, in milliseconds since 1970-01-01 UTC.
    pub(super) since_ms: i64,
}

/// What a decision is about.
struct Meant<'a> {
    by_guard: bool,
    by_brake: Option<Which<'a>>,
}

/// What was decided of one hold, for whoever decided it.
#[derive(Debug, Clone)]
pub struct Decided {
    /// The account as it is shown; empty: the share itself.
    pub account: String,
    /// The hold's id.
    pub id: String,
    /// What it held.
    pub counts: BTreeMap<String, u64>,
}

impl Decided {
    fn of(hold: &Hold) -> Self {
        let account = hold.account.as_ref().map(crate::site::board::account_name);
        let account = account.unwrap_or_default();
        Self { account, id: hold.id.to_string(), counts: counted(hold.counts) }
    }

    /// In words.
    #[must_use]
    pub fn text(&self, what: &str) -> String {
        let whose = match self.account.as_str() {
            "" => "the whole share".to_owned(),
            account => format!("account {account}"),
        };
        let counts: Vec<String> =
            self.counts.iter().filter(|(_, n)| **n > 0).map(|(k, n)| format!("{n} {k}")).collect();
        let counts =
            if counts.is_empty() { String::new() } else { format!(": {}", counts.join(", ")) };
        format!("{whose} {what} (hold {}){counts}", self.id)
    }
}

/// Counts as the board has them.
pub(super) fn counted(counts: Counts) -> BTreeMap<String, u64> {
    let Counts { created, deleted, rewritten, moved } = counts;
    let all =
        [("created", created), ("deleted", deleted), ("rewritten", rewritten), ("moved", moved)];
    all.map(|(what, count)| (what.to_owned(), count)).into()
}

impl Sender {
    /// What an operator means: all that is held; what is held of an account; or one hold by its id, if it is
    /// still there and, where an account is named too, of that.
    fn meant<'a>(&self, only: Option<&'a RelPath>, id: Option<&str>) -> Result<Meant<'a>, Failure> {
        let Some(id) = id else {
            return Ok(Meant { by_guard: only.is_none(), by_brake: Some(only.into()) });
        };
        let account = only.map(crate::site::board::account_name);
        let holds = self.brakes.shown(&self.config.share, self.guard_hold());
        let is_meant = |h: &&crate::site::board::facts::Hold| {
            h.id == id && account.as_ref().is_none_or(|account| h.account == *account)
        };
        if !holds.iter().any(|hold| is_meant(&hold)) {
            return Err(self.refused(&format!(
                "hold {id} is not what is held there now; farshore brake show says what is"
            )));
        }
        let by_brake = id.parse().ok().map(Which::Id);
        Ok(Meant { by_guard: by_brake.is_none(), by_brake })
    }

    /// Lets pass what is held, of one account or one hold if these are named; says what that was.
    ///
    /// # Errors
    /// [`Failure`] when nothing is, or something else.
    pub fn approve(
        &self,
        only: Option<&RelPath>,
        id: Option<&str>,
    ) -> Result<Vec<Decided>, Failure> {
        let meant = self.meant(only, id)?;
        let mut inner = self.lock();
        let by_guard = meant.by_guard && inner.guard_hold.is_some();
        inner.approve_guard |= by_guard;
        drop(inner);
        let mut decided = Vec::new();
        match meant.by_brake.map(|which| self.brakes.approve(which, now_ms())).transpose() {
            Ok(ended) => {
                let ended = ended.unwrap_or_default();
                ended.iter().for_each(|hold| self.look_again(hold, "a hold was approved"));
                decided.extend(ended.iter().map(Decided::of));
            }
            Err(_) if by_guard => {}
            Err(failure) => return Err(failure),
        }
        if by_guard {
            let (account, counts) = (String::new(), BTreeMap::new());
            decided.push(Decided { account, id: "guard".into(), counts });
        }
        self.tell(&decided, Level::Warn, "approved by an operator");
        self.show_holds();
        Ok(decided)
    }

    /// Keeps at the standby what is held; says what that is.
    ///
    /// # Errors
    /// [`Failure`] when nothing is, or something else.
    pub fn reject(
        &self,
        only: Option<&RelPath>,
        id: Option<&str>,
    ) -> Result<Vec<Decided>, Failure> {
        let Some(which) = self.meant(only, id)?.by_brake else {
            return Err(self.refused(
                "what the guard holds ends when the root is itself again; nothing is to be rejected",
            ));
        };
        let rejected = self.brakes.reject(which, now_ms())?;
        let decided: Vec<Decided> = rejected.iter().map(Decided::of).collect();
        self.tell(&decided, Level::Warn, "rejected by an operator");
        self.show_holds();
        Ok(decided)
    }

    fn tell(&self, decided: &[Decided], level: Level, what: &str) {
        for one in decided {
            self.log.say(&Record::new(level, "brake", one.text(what)).share(&self.config.share));
        }
    }

    /// Holds that ended by themselves: what waited of them is looked at.
    pub(super) fn ended(&self, holds: &[Hold]) {
        for hold in holds {
            self.look_again(hold, "a hold ended");
            let one = Decided { counts: BTreeMap::new(), ..Decided::of(hold) };
            let what = "is held no longer: nothing that is left to do passes a threshold";
            self.tell(&[one], Level::Info, what);
        }
    }

    fn look_again(&self, hold: &Hold, why: &str) {
        match &hold.account {
            Some(account) => {
                self.dirty.mark(account, true, now_ms());
                // In memory it is as good, until the process ends.
                self.dirty.flush().unwrap_or(());
            }
            None => self.dirty.mark_whole(why, now_ms()),
        }
    }

    /// What the guard holds, and since when.
    fn guard_hold(&self) -> Option<(String, i64)> {
        let inner = self.lock();
        inner.guard_hold.as_ref().map(|held| (held.hold.to_string(), held.since_ms))
    }

    /// What the other end is to be told of holds, if that is another than before.
    pub(super) fn untold(&self) -> Option<Holds> {
        (!self.told.swap(true, Relaxed)).then(|| self.brakes.told(self.guard_hold()))
    }

    pub(super) fn show_holds(&self) {
        let holds = self.brakes.shown(&self.config.share, self.guard_hold());
        self.board.holds(holds);
        self.told.store(false, Relaxed);
        self.show_behind(&self.lock());
    }

    /// Accounts that are behind: what is held, and what the last point lacks for a large file or its turn.
    pub(super) fn show_behind(&self, inner: &Inner) {
        let fallback = inner.last_point.map_or(0, |point| point.time_unix_ms);
        let held = self.brakes.behind(fallback);
        let held = held.into_iter().map(|(account, time)| (account, (time, Some(Why::Held))));
        let lags = inner.lags.iter();
        let lags = lags.map(|(account, lag)| (account.clone(), (lag.since_ms, lag.why)));
        let mut behind: BTreeMap<RelPath, (i64, Option<Why>)> = BTreeMap::new();
        for (account, (time, why)) in held.chain(lags) {
            let (since, _) = behind.entry(account).or_insert((time, why));
            *since = time.min(*since);
        }
        let classes = self.classes();
        self.board.accounts(behind.iter().map(|(account, &(time_unix_ms, why))| {
            let of = account_of(account, self.config.account_depth);
            Late { account, time_unix_ms, why, class: classes.of(&of) }
        }));
    }

    pub(super) fn hold_by_guard(&self, hold: guard::Hold) {
        let text = hold.to_string();
        self.board.state(ShareState::Held, Some(&text));
        let mut inner = self.lock();
        let since_ms = inner.guard_hold.as_ref().map(|held| held.since_ms);
        let held =
            GuardHold { hold, seen: Instant::now(), since_ms: since_ms.unwrap_or_else(now_ms) };
        inner.guard_hold = Some(held);
        drop(inner);
        if since_ms.is_none() {
            self.log.say(&Record::new(Level::Error, "held", text).share(&self.config.share));
        }
        self.show_holds();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_looked_at_at_once_and_then_in_proportion_to_what_that_takes() {
        let account = RelPath::new(&b"a"[..]).expect("a path");
        let withheld = Withheld::new(BTreeSet::from([account.clone()]), 1);
        let dirty = DirtyStatus::default();
        let mut looks = Looks::default();
        assert_eq!(looks.due(&withheld, &dirty), std::slice::from_ref(&account));
        let Some(long_ago) = Instant::now().checked_sub(Duration::from_secs(3)) else { return };
        looks.0.insert(account.clone(), Looked { at: long_ago, took: Duration::ZERO });
        assert!(looks.is_due(&account, true) && !looks.is_due(&account, false));
        looks.0.insert(account.clone(), Looked { at: long_ago, took: Duration::from_secs(1) });
        assert!(!looks.is_due(&account, true), "a look of a second rests for ten");
        looks.keep(&Withheld::default(), false);
        assert_eq!(looks.due(&withheld, &dirty), [account]);
    }
}

//! What a session that stands asks of the sender, and tells it.
//!
//! Guarantees: what a cut took is done only when it is sealed; dropped or broken it waits again, and whoever
//! waits for a point is answered or goes on waiting for the next one.

use farshore_core::brake::{self, LastPoint};
use farshore_core::turns::{Class, Loads};
use farshore_proto::message::{Beat, Holds, Unsealed};

use super::*;
use crate::state::path_bytes;

/// No coarse clock of the system ticks more rarely, in milliseconds.
const COARSE_MS: i64 = 20;

impl Cuts for Sender {
    fn keys(&self) -> Option<Vec<u8>> {
        self.talk()?.due()
    }

    fn heard_keys(&self, said: &[u8]) {
        if let Some(talk) = self.talk() {
            talk.hear(said);
        }
    }

    fn holds(&self) -> Option<Holds> {
        self.untold()
    }

    fn beat(&self) -> Option<Beat> {
        let mut heart = self.heart.lock().unwrap_or_else(PoisonError::into_inner);
        if heart.beat.is_some_and(|at| at.elapsed() < BEAT) {
            return None;
        }
        heart.beat = Some(Instant::now());
        let AtRisk { files, bytes, bound } = heart.at_risk;
        let is_all = match bound {
            Bound::Unknown => None,
            Bound::AtMost => Some(true),
            Bound::AtLeast => Some(false),
        };
        Some(Beat {
            time_unix_ms: now_ms(),
            answers_unix_ms: None,
            path: path_bytes(&self.config.root).to_vec(),
            free_bytes: None,
            unsealed: Some(Unsealed { files, bytes, is_all }),
        })
    }

    fn heard_beat(&self, beat: &Beat, at_unix_ms: i64) {
        if let Some(asked) = beat.answers_unix_ms {
            // The time it was heard at is by a coarser clock, which shows up to a tick less.
            let is_tick = (asked.saturating_sub(COARSE_MS)..asked).contains(&at_unix_ms);
            let answered = if is_tick { asked } else { at_unix_ms };
            self.board.clock_sample(asked, beat.time_unix_ms, answered);
        }
        self.board.peer_path(&beat.path);
        self.heart.lock().unwrap_or_else(PoisonError::into_inner).free = beat.free_bytes;
    }

    fn began(&self, welcome: &Welcome, first_contact: bool) {
        self.told.store(false, Relaxed);
        // The session before had corrected its belief of these, and did not come to mend them.
        let differing = self.lock().differing.take();
        match differing {
            Some(Look::Parts(scope)) => {
                let parts = scope.parts().iter();
                parts.for_each(|part| self.dirty.mark(&part.directory, part.deep, now_ms()));
            }
            Some(Look::Whole) => self.dirty.mark_whole("the ends differed in much", now_ms()),
            Some(Look::Nothing) | None => {}
        }
        if let Some(point) = &welcome.recovery_point {
            self.board.peer_recovery_point(point);
        }
        let mut inner = self.lock();
        // What is recorded here was durable there before. A catalog that knows less of it was brought back
        // from somewhere, and what stands in the tree since is in nobody's.
        let sequence = |point: Option<RecoveryPoint>| point.map_or(0, |point| point.sequence);
        let went_back =
            !first_contact && sequence(welcome.recovery_point) < sequence(inner.last_point);
        let is_new = went_back && !self.distrusts.swap(went_back, Relaxed);
        self.distrusts.store(is_new, Relaxed);
        if is_new {
            let text = "the standby's catalog is older than its last point: its tree is looked at";
            self.log.say(&Record::new(Level::Warn, "standby", text).share(&self.config.share));
        }
        inner.seeding |= first_contact;
        // What was sealed there and not recorded here any more: the next point comes behind it.
        let is_later = |point: &RecoveryPoint| point.sequence > sequence(inner.last_point);
        if let Some(theirs) = welcome.recovery_point.filter(|p| !first_contact && is_later(p)) {
            inner.last_point = Some(theirs);
        }
        drop(inner);
        self.release_all();
    }

    fn carries(&self, path: &RelPath, size: u64) -> Option<RelPath> {
        self.account_ahead(path, size)
    }

    fn class(&self, account: &RelPath) -> Class {
        self.classes().of(account)
    }

    fn released(&self, accounts: &[RelPath]) {
        self.is_released(accounts);
    }

    fn differ(&self, entries: u64, look: &Look) {
        let mut inner = self.lock();
        inner.differ = entries.max(1);
        if inner.differing.as_ref() != Some(look) {
            inner.differing = Some(look.clone());
            self.owe(&inner);
            // Before the corrected catalog is durable; that the journal fails is in the status.
            self.dirty.flush().unwrap_or(());
        }
        drop(inner);
        self.brakes.forget_known();
    }

    fn next(&self, at_most: Duration) -> Next {
        let until = Instant::now() + at_most;
        loop {
            if self.is_stopping() || !self.trusts_standby() {
                return Next::Leave;
            }
            match self.compose() {
                Ok(Some(cut)) => return Next::Cut(Box::new(cut)),
                Ok(None) => {}
                Err(e) => {
                    let text = farshore_engine::ingest::describe(&e);
                    self.log.say(&Record::new(Level::Error, "catalog", text));
                    return Next::Leave;
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Next::Idle;
            }
            // Woken by what changes; what waits to settle is asked about again soon.
            let version = self.lock().version;
            let version = self.dirty.wait(version, left.min(Duration::from_millis(20)));
            self.lock().version = version;
        }
    }

    fn judge(&self, cut: &Cut, plan: &mut Plan) -> bool {
        let point = self.lock().last_point.map_or_else(LastPoint::default, |point| LastPoint {
            sequence: point.sequence,
            time_ms: point.time_unix_ms,
        });
        let mut counts: BTreeMap<RelPath, (u64, u64)> = BTreeMap::new();
        let by_look = self.lock().under_way.looked_for(cut);
        let mut met = |path: &RelPath| {
            if cut.withheld.covers(path) {
                return;
            }
            let directory = || path.split().map_or_else(RelPath::root, |(parent, _)| parent);
            let (found, announced) = counts.entry(cut.withheld.account_of(path)).or_default();
            *found += 1;
            *announced += u64::from(!by_look(path) || self.dirty.was_announced(&directory()));
        };
        let judging = self.brakes.judge(&self.storage, &self.catalog, cut, plan, point, &mut met);
        match judging {
            Ok((mut tally, judgement)) => {
                // What was withheld when the cut was made is not sent with it, whatever became of it since.
                tally.accounts.retain(|account, _| !cut.withheld.accounts().contains(account));
                let is_let = |(account, verdict): (&RelPath, &brake::Verdict)| {
                    *verdict == brake::Verdict::Pass || cut.withheld.accounts().contains(account)
                };
                let passes = judgement.verdicts.iter().all(is_let) && !self.brakes.holds_share();
                let mut inner = self.lock();
                if !inner.seeding && passes {
                    inner.under_way.met = counts;
                }
                let UnderWay { held, began, .. } = &inner.under_way;
                let (held, began) = (held.clone(), began.unwrap_or_else(Instant::now));
                inner.looks.done(&held, began);
                drop(inner);
                self.ended(&judgement.ended);
                for hold in &judgement.began {
                    let text = self.brakes.text(*hold);
                    let record = Record::new(Level::Error, "held", text);
                    self.log.say(&record.share(&self.config.share));
                }
                let changed = !judgement.began.is_empty() || !judgement.ended.is_empty();
                if changed || !held.is_empty() {
                    self.show_holds();
                }
                self.lock().under_way.judged = Some((tally, judgement));
                passes
            }
            Err(failure) => {
                let record = Record::new(Level::Error, "brake", failure.message);
                self.log.say(&record.share(&self.config.share));
                false
            }
        }
    }

    fn budget(&self, cut: &Cut) -> Option<u64> {
        // A point that somebody gives a name to is to have what was there by then.
        cut.labels.is_empty().then(|| self.budget_of_cut())?
    }

    fn turn(&self, _: &Cut, loads: Loads, budget: u64) -> BTreeSet<RelPath> {
        self.choose(loads, budget)
    }

    fn exceptions(&self, cut: &Cut, problems: &[Problem], faults: u64) -> u64 {
        let mut inner = self.lock();
        self.note_problems(&mut inner, cut, problems);
        let lags = self.lags(&inner, cut);
        let held = cut.withheld.accounts();
        let left_out = held.len() + lags.keys().filter(|a| !held.contains(a)).count();
        inner.under_way.lags = lags;
        let found = inner.troubled.len() as u64 + left_out as u64 + faults;
        // What another run could not vouch for is found again by a look at everything, before which T stays.
        let unknown = !inner.covered && !inner.under_way.completes;
        let former = inner.last_point.filter(|_| unknown).map_or(0, |point| point.exceptions);
        found.max(former)
    }

    fn behind(&self, _: &Cut) -> Vec<(RelPath, i64)> {
        let inner = self.lock();
        let lags = inner.under_way.lags.iter();
        lags.map(|(account, lag)| (account.clone(), lag.since_ms)).collect()
    }

    fn sealed(&self, cut: Cut, report: CutReport) {
        let mut inner = self.lock();
        self.note_left_out(&mut inner, &cut);
        let under_way = std::mem::take(&mut inner.under_way);
        let UnderWay { taken, slice, wanted, judged, completes, marks, waits, lags, .. } =
            under_way;
        inner.queue.sealed(under_way.chosen);
        self.note_solved(&inner, &under_way.noted);
        for (found, announced) in under_way.met.into_values() {
            inner.found += found;
            inner.found_by_event += announced;
        }
        let shown = !inner.lags.is_empty() || !lags.is_empty();
        inner.lags = lags;
        self.note_deferred(&mut inner, &cut, &waits, &report);
        inner.looked_at += report.looked_at;
        inner.whole_looks += u64::from(report.widened.is_some() || cut.look == Look::Whole);
        let point = report.point;
        inner.differing = None;
        // Before what was taken is done.
        self.owe(&inner);
        if let Some(taken) = taken {
            self.dirty.done(taken);
        }
        if let (Some(slice), Some(rotation)) = (slice, &mut inner.rotation)
            && rotation.advance(slice)
        {
            inner.last_look = Some((rotation.began_ms, rotation.took()));
            inner.rotation = None;
            inner.next_look = Instant::now() + self.pace().scan;
            if let Some(whole) = inner.whole.take() {
                self.dirty.done(whole);
            }
        }
        inner.covered |= completes;
        if inner.covered {
            // What an earlier run left out without a name was in this cut, or is named with it.
            inner.unnamed = None;
        }
        let was_seeding = std::mem::take(&mut inner.seeding);
        if was_seeding {
            // A first copy looks at everything.
            inner.last_look = Some((point.time_unix_ms, Duration::ZERO));
        }
        if let (true, Some((began_ms, took))) = (completes, inner.last_look) {
            let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            self.dirty.looked(began_ms, took_ms);
        }
        inner.last_seal = Some(Instant::now());
        inner.marks_sealed = marks;
        let was_held = inner.guard_hold.take().is_some();
        // Nothing is left to approve.
        inner.approve_guard &= !was_held;
        inner.last_point = Some(point);
        if shown {
            self.show_behind(&inner);
        }
        drop(inner);
        match judged {
            // What a first copy makes is not young: it was there before.
            _ if was_seeding => self.seeded(),
            Some((tally, judgement)) => self.counted(&tally, &judgement),
            None => {}
        }
        self.board.cut_ended();
        self.board.sealed(&point);
        self.board.degraded(&report.degraded);
        if was_held {
            let record = Record::new(Level::Info, "brake", "the root is itself again");
            self.log.say(&record.share(&self.config.share));
            self.show_holds();
        }
        self.answer(wanted, || Ok(point));
    }

    fn dropped(&self, _: Cut, why: Dropped) {
        let mut inner = self.lock();
        let under_way = std::mem::take(&mut inner.under_way);
        let mut wanted = under_way.wanted;
        if matches!(why, Dropped::Owner) && !self.brakes.holds_share() {
            // The next cut goes without the accounts that are held.
            inner.wanted.append(&mut wanted);
        }
        drop(inner);
        self.board.cut_ended();
        self.owe(&self.lock());
        if let Some(taken) = under_way.taken {
            self.dirty.put_back(taken);
        }
        match why {
            Dropped::Guard(hold) => self.hold_by_guard(hold),
            Dropped::Owner => self.board.state(ShareState::Held, None),
        }
        self.answer(wanted, || Err(self.refused("the cut is held: farshore brake show")));
    }

    fn broken(&self, _: Cut) {
        let mut inner = self.lock();
        let under_way = std::mem::take(&mut inner.under_way);
        // Who waits for a point goes on waiting for one.
        inner.wanted.extend(under_way.wanted);
        under_way.noted.give_back(&mut inner.troubled);
        let seeding = inner.seeding;
        drop(inner);
        self.board.cut_ended();
        self.brakes.forget_known();
        let judged = under_way.judged.filter(|(_, judgement)| judgement.passes() && !seeding);
        if let Some((tally, judgement)) = judged {
            self.counted(&tally, &judgement);
        }
        if let Some(taken) = under_way.taken {
            self.dirty.put_back(taken);
        }
        if self.is_stopping() {
            self.turn_away();
        }
    }
}

//! From what is known to what is next: changes are begun one at a time, each durable before the next,
//! and what the caller was told is compared with what holds now.
//!
//! Guarantees: everything but [`Effect::CloseGate`], [`Effect::AbortDrain`], a data role of neither and
//! what makes things durable rests on what is durable. What is owed follows from the state alone, so a
//! restart finds it again.

use crate::recovery_point::Epoch;

use super::decide::{self, Decision, Grant};
use super::record::{Phase, Point, Record, Services, Stamp};
use super::say::Say;
use super::{AuditEvent, Closed, Command, DataRole, Effect, Gate, Hook, Now, Pending, Role, Wish};

impl Role {
    /// Does what is due, and tells what changed.
    pub(super) fn settle(&mut self, now: Now) -> Vec<Effect> {
        self.confirm(now.ms);
        if self.remark && self.due.is_none() && self.pending.is_none() {
            self.mark();
        }
        if self.pending.is_none() && self.wish.is_none() {
            self.want_hook(now.ms);
            if let Some((record, confirms)) = self.next(now.ms) {
                self.begin(record, confirms);
            }
        }
        self.tell(now)
    }

    /// The peer gave way, in this run, or its lease has lapsed since this site claimed the epoch.
    fn confirm(&mut self, now_ms: u64) {
        let Some(said) = self.said.as_ref().filter(|_| self.pending.is_none()) else { return };
        let gave_way = self.durable.phase.claims() && decide::consents(&self.durable, said);
        if gave_way || self.lapse_confirms().is_some_and(|at| now_ms >= at) {
            self.confirmed = Some(self.durable.epoch);
        }
    }

    /// When the gate needs nobody's word any more: the peer that was asked to give way does not answer, and had its
    /// gate open by our echoes alone.
    pub(super) fn lapse_confirms(&self) -> Option<u64> {
        let claimed = self.claimed_over_lease == Some(self.durable.epoch);
        (claimed && self.confirmed.is_none() && self.durable.phase == Phase::Alone)
            .then_some(self.promised_until)
    }

    /// What is to be made durable next, and whether the gate needs nobody's word afterwards.
    fn next(&mut self, now_ms: u64) -> Option<(Record, bool)> {
        if let Some(due) = self.due.take() {
            return Some((due, false));
        }
        if let Some(said) = &self.said {
            if said.heard > self.durable.stamp() {
                // An old copy, one more perhaps: what it says of services is not believed.
                self.services = Services::Unknown;
            }
            match decide::decide(&self.durable, said) {
                Decision::Become(record) if record.phase != Phase::Active => {
                    let confirms = self.confirmed == Some(record.epoch);
                    return Some((*record, confirms));
                }
                Decision::Become(record) => {
                    if let Some(record) = self.to_active(*record, now_ms) {
                        return Some((record, true));
                    }
                }
                Decision::Compare(grant) => {
                    self.wish = Some(Wish::Take(grant));
                    return None;
                }
                Decision::Nothing => {}
            }
        }
        match self.durable.phase {
            Phase::Opening { .. }
                if self.services == Services::Started
                    && self.confirmed == Some(self.durable.epoch) =>
            {
                let active = self.durable.with(Phase::Active);
                let confirms = self.confirmed == Some(active.epoch);
                if let Some(record) = self.to_active(active, now_ms) {
                    return Some((record, confirms));
                }
            }
            Phase::Active if !self.durable.bound => {
                let confirms = self.confirmed == Some(self.durable.epoch);
                let active = self.to_active(self.durable.clone(), now_ms)?;
                if active.bound {
                    return Some((active, confirms));
                }
            }
            Phase::Draining if self.services == Services::Stopped => {
                if let Some(point) = self.drained {
                    let odd = !self.is_odd();
                    return Some((self.raised(Phase::Handed { point }, odd), false));
                }
            }
            _ => {}
        }
        let peer = self.said.as_ref().map_or(Stamp::default(), |said| said.stamp);
        let learned = self.services != self.durable.services || peer > self.durable.peer;
        let confirms = self.confirmed == Some(self.durable.epoch);
        let sealed = std::mem::take(&mut self.sealed)
            && self.durable.forgot
            && self.data_role_of(&self.durable) != DataRole::Neither;
        let known = || {
            let [forgot, put_back] =
                [self.durable.forgot, self.durable.put_back].map(|doubts| doubts && !sealed);
            Record { forgot, put_back, ..self.durable.clone() }
        };
        (learned || sealed).then(|| (known(), confirms))
    }

    /// Under a lease a site is active only from when it holds it: from then on the peer may count on it.
    fn to_active(&self, mut record: Record, now_ms: u64) -> Option<Record> {
        if self.config.lease.is_some() {
            if now_ms >= self.gate_until() {
                return None;
            }
            record.bound = true;
        }
        Some(record)
    }

    /// In an epoch nobody was in: the next odd one, or even one.
    fn raised(&self, phase: Phase, odd: bool) -> Record {
        let heard = decide::known_of_peer(&self.durable, self.said.as_ref(), self.fence);
        let heard = heard.max(self.durable.over);
        // One of the peer's that this site was in was known here, also where an old copy forgot who said so.
        let was_peers = (self.durable.epoch.0 % 2 == 1) != self.is_odd();
        let over = if was_peers { heard.max(self.durable.epoch) } else { heard };
        let highest = over.max(self.durable.epoch).max(self.durable.rising.epoch);
        let epoch = decide::epoch_above(highest, odd);
        Record { base: None, over, ..self.durable.in_epoch(epoch, phase) }
    }

    /// Which epochs are this site's own.
    fn is_odd(&self) -> bool {
        self.config.site.0 > self.config.peer.0
    }

    /// Begins to make `record` durable.
    fn begin(&mut self, mut record: Record, confirms: bool) {
        let was = &self.durable;
        if record != *was {
            record.turn = record.turn.max(was.turn) + 1;
        }
        if record.phase != was.phase || record.epoch != was.epoch {
            let (from, to, stamp) = (was.phase, record.phase, record.stamp());
            self.out.push(Effect::Audit(AuditEvent::Changing { from, to, stamp }));
        }
        let rises = record.epoch > was.epoch || self.remark;
        if rises {
            let epoch = was.rising.epoch.max(record.epoch);
            record.rising = Stamp { epoch, turn: record.turn };
        }
        let said = self.said.as_ref().map_or(Stamp::default(), |said| said.stamp);
        (record.services, record.boot) = (self.services, self.config.boot);
        record.peer = was.peer.max(said);
        let marker = rises.then_some(record.rising);
        self.pending = Some(Pending { write: 0, record, marker, confirms });
        self.write(None);
    }

    fn write(&mut self, marker: Option<Stamp>) {
        let Some(pending) = &mut self.pending else { return };
        self.writes += 1;
        pending.write = self.writes;
        let (write, record) = (pending.write, Box::new(pending.record.clone()));
        self.out.push(Effect::Persist { write, marker, record });
    }

    /// The record that was found goes on to be believed, and the marker is brought up to it.
    fn mark(&mut self) {
        let record = self.durable.clone();
        let marker = Some(record.rising);
        self.pending = Some(Pending { write: 0, record, marker: None, confirms: false });
        self.write(marker);
    }

    pub(super) fn persisted(&mut self, write: u64) {
        let Some(pending) = self.pending.as_mut().filter(|p| p.write == write) else { return };
        if let Some(marker) = pending.marker.take() {
            return self.write(Some(marker));
        }
        let Some(Pending { record, confirms, .. }) = self.pending.take() else { return };
        if record.phase != Phase::Draining {
            self.drained = None;
        }
        self.confirmed = confirms.then_some(record.epoch);
        self.durable = record;
        self.remark = false;
    }

    pub(super) fn carry_out(&mut self, command: Command, consent: bool) {
        let confirms = self.confirmed == Some(self.durable.epoch);
        match command {
            Command::Switchover => self.begin(self.durable.with(Phase::Draining), confirms),
            Command::AbortSwitchover => self.begin(self.durable.with(Phase::Active), confirms),
            Command::TakeBack => {
                let mut active = self.raised(Phase::Active, self.is_odd());
                if let Phase::Handed { point } = self.durable.phase {
                    active.base = Some(point).filter(|_| !self.durable.forgot);
                }
                self.begin(active, !consent);
            }
            Command::Failover { .. } | Command::ResolveSplit => {
                self.wish = Some(Wish::Claim { consent });
            }
            Command::OpenAlone => {
                // In an epoch of its own, so that a peer that was not off, or was active meanwhile, is
                // told apart from one that follows.
                let phase = match self.durable.phase {
                    Phase::Draining => Phase::Active,
                    phase => phase,
                };
                let again = self.raised(phase, self.is_odd());
                self.begin(Record { base: self.durable.base, ..again }, true);
            }
            Command::BeginReconcile { plan } => {
                let phase = Phase::Reconciling { plan, open: true, done: false };
                self.begin(self.durable.with(phase), confirms);
            }
            Command::FinishReconcile { plan } => {
                let mut done = self.durable.clone();
                match &mut done.phase {
                    Phase::Reconciling { open: true, done, .. } => *done = true,
                    phase => {
                        *phase = Phase::Standby;
                        done.base = None;
                        done.plan = Some(plan);
                    }
                }
                self.begin(done, confirms);
            }
            Command::AbandonReconcile { .. } => {
                self.begin(self.durable.with(Phase::Alone), confirms);
            }
            Command::RetryHook => self.failed_hook = None,
        }
    }

    /// The point that was asked for is known.
    pub(super) fn answer_wish(&mut self, point: Option<Point>) {
        match self.wish.take() {
            None => {}
            Some(Wish::Take(grant)) => self.take(grant, point),
            Some(Wish::Claim { consent }) => self.claim(consent, point),
        }
    }

    fn take(&mut self, grant: Grant, have: Option<Point>) {
        if self.said.as_ref().and_then(decide::grant) != Some(grant) {
            return;
        }
        let taken = have.is_some_and(|have| have.is_same(&grant.point));
        let phase = match taken {
            true => Phase::Opening { point: grant.point },
            false => Phase::Standby,
        };
        if !taken {
            let Grant { epoch, point: grant } = grant;
            self.out.push(Effect::Audit(AuditEvent::Declined { epoch, grant, have }));
        }
        let mut record = Record { base: None, ..self.durable.in_epoch(grant.epoch, phase) };
        if taken {
            (record.took, record.over) = (grant.epoch, grant.epoch);
            (record.forgot, record.put_back) = (false, false);
        }
        self.begin(record, taken);
    }

    fn claim(&mut self, consent: bool, point: Option<Point>) {
        let overtaken = self.fence > self.durable.epoch;
        if overtaken && !consent && self.link {
            // The peer speaks, from a higher epoch: it is not off.
            let stamp = self.durable.stamp();
            self.out.push(Effect::Audit(AuditEvent::GaveUp { stamp }));
            return;
        }
        let said = self.said.as_ref().and_then(|said| said.base);
        let base = match self.durable.phase {
            // A catalog beside an old record holds a point that was common once: against it, what both sites did
            // since would look like one site's.
            _ if self.durable.forgot => None,
            Phase::Standby => point,
            Phase::Handed { point } => Some(point),
            _ => self.durable.base.or(said).or(point),
        };
        let alone = Record { base, ..self.raised(Phase::Alone, self.is_odd()) };
        let over_lease = self.durable.phase == Phase::Standby && self.peer_needs_our_echo();
        self.claimed_over_lease = over_lease.then_some(alone.epoch);
        self.begin(alone, !consent);
    }

    /// Which hook is to have run, by what is durable.
    fn desired(&self, now_ms: u64) -> Option<Hook> {
        if !self.durable.phase.opens() {
            return Some(Hook::Stop);
        }
        match self.gate(now_ms) {
            Gate::Open => Some(Hook::Start),
            Gate::Closed(Closed::LeaseLapsed | Closed::HigherEpoch(_) | Closed::Contested) => {
                Some(Hook::Stop)
            }
            // A restart of this process is no reason to stop them, until a lease that the run before may
            // have held has lapsed.
            Gate::Closed(_) => {
                (self.is_bound() && now_ms >= self.lapse_of_run_before()).then_some(Hook::Stop)
            }
        }
    }

    /// What the services are becomes unknown, durably, before a hook is run.
    fn want_hook(&mut self, now_ms: u64) {
        let Some(wanted) = self.wanted_hook(now_ms) else { return };
        if self.failed_hook.is_some_and(|failed| failed != wanted) {
            self.failed_hook = None;
        }
        self.services = Services::Unknown;
    }

    fn wanted_hook(&self, now_ms: u64) -> Option<Hook> {
        let wanted = self.desired(now_ms)?;
        let reached = match wanted {
            Hook::Start => Services::Started,
            Hook::Stop => Services::Stopped,
        };
        let wants =
            self.services != reached && self.hook.is_none() && self.failed_hook != Some(wanted);
        wants.then_some(wanted)
    }

    /// What the data end is to be.
    pub(super) fn data_role(&self) -> DataRole {
        let role = self.data_role_of(&self.durable);
        let next = self.pending.as_ref().map(|p| self.data_role_of(&p.record));
        if self.wish.is_some() || self.remark || next.is_some_and(|next| next != role) {
            return DataRole::Neither;
        }
        role
    }

    fn data_role_of(&self, record: &Record) -> DataRole {
        match record.phase {
            Phase::Standby => DataRole::Receives(record.epoch),
            Phase::Active | Phase::Opening { .. } | Phase::Draining
                if self.confirmed == Some(record.epoch)
                    && !self.is_contested()
                    && !self.said.as_ref().is_some_and(|said| said.phase.awaits_a_plan()) =>
            {
                DataRole::Sends(record.epoch)
            }
            _ => DataRole::Neither,
        }
    }

    /// Whether the peer was heard, in this run, to be the one that sends in this epoch.
    pub(super) fn peer_sends(&self) -> bool {
        let record = &self.durable;
        self.said.as_ref().is_some_and(|said| {
            let sends =
                matches!(said.phase, Phase::Active | Phase::Opening { .. } | Phase::Draining);
            sends && said.stamp.epoch == record.epoch && decide::is_believed(record, said)
        })
    }

    fn is_contested(&self) -> bool {
        let Epoch(epoch) = self.durable.epoch;
        self.fence.0 > epoch
            || self.said.as_ref().is_some_and(|s| decide::contests(self.durable.epoch, s))
    }

    /// Compares what holds now with what was told, in the order effects are promised in.
    fn tell(&mut self, now: Now) -> Vec<Effect> {
        let (audits, writes): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.out).into_iter().partition(|e| matches!(e, Effect::Audit(_)));
        let mut out = audits;
        let gate = self.gate(now.ms);
        let open = gate == Gate::Open;
        let stamp = self.durable.stamp();
        let opened = open && !self.shown.open;
        if let (true, Gate::Closed(why)) = (self.shown.open, gate) {
            out.push(Effect::CloseGate(why));
            out.push(Effect::Audit(AuditEvent::GateClosed { stamp, why }));
        }
        self.shown.open = open;
        let drains = self.durable.phase == Phase::Draining
            && self.services == Services::Stopped
            && self.confirmed == Some(self.durable.epoch)
            && !self.pending.as_ref().is_some_and(|p| p.record.phase != Phase::Draining);
        let handed = self.pending.as_ref().map_or(&self.durable, |p| &p.record).phase;
        if self.shown.drains && !drains && !matches!(handed, Phase::Handed { .. }) {
            out.push(Effect::AbortDrain);
        }
        let begins = drains && !self.shown.drains;
        self.shown.drains = drains;
        let data = self.data_role();
        if data != self.shown.data {
            self.shown.data = data;
            out.push(Effect::Turn(data));
        }
        if self.wish.is_some() && !std::mem::replace(&mut self.asked, self.wish.is_some()) {
            out.push(Effect::ReadPoint);
        }
        self.asked &= self.wish.is_some();
        out.extend(writes);
        if opened {
            out.push(Effect::Audit(AuditEvent::GateOpened { stamp }));
            out.push(Effect::OpenGate);
        }
        if begins {
            out.push(Effect::BeginDrain);
        }
        if !self.is_busy() {
            self.run_hook(now.ms, &mut out);
            self.speak(now, &mut out);
        }
        out
    }

    fn run_hook(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        let durable = self.durable.services == Services::Unknown;
        if let Some(wanted) = self.wanted_hook(now_ms).filter(|_| durable) {
            self.hook = Some(wanted);
            out.push(Effect::RunHook(wanted));
        }
    }

    fn speak(&mut self, now: Now, out: &mut Vec<Effect>) {
        if !self.link {
            return;
        }
        let state = (self.durable.stamp(), self.durable.peer, self.is_bound());
        let due = self.sent_ms.is_none_or(|at| now.ms >= at.saturating_add(self.config.beat_ms));
        let echo = self.answer.take();
        if echo.is_none() && self.told == Some(state) && !due {
            return;
        }
        self.told = Some(state);
        self.sent_ms = Some(now.ms);
        let echo = echo.or_else(|| self.hearing.echo());
        let say = Say {
            site: self.config.site,
            stamp: self.durable.stamp(),
            phase: self.durable.phase,
            base: self.durable.base,
            took: self.durable.took,
            over: self.durable.over,
            plan: self.durable.plan,
            bound: self.is_bound(),
            lease_ms: self.config.lease.map_or(0, |l| l.ms),
            beat: self.hearing.beat(now.ms),
            echo,
            heard: self.durable.peer,
            catalog: self.config.catalog,
            tree: self.config.tree,
            audit: self.audit,
            wall_ms: now.wall_ms,
        };
        out.push(Effect::Send(Box::new(say)));
    }
}

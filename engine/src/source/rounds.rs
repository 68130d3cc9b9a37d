//! Sending what is planned, batch by batch, until every receipt is there.
//!
//! Guarantees: so many batches under way and no more; the receipt of a batch can name every path of it;
//! what the target could not build is sent again, otherwise, a few times. A worker that fails ends the
//! session, and the target's own account of it is the one that counts.

use super::*;
use crate::plan::LookKind;

/// Changes in one batch, at most.
const BATCH_CHANGES: usize = 4_096;
/// Bytes of files in one batch before it is closed.
const BATCH_BYTES: u64 = 32 << 20;
/// Of what moved nothing is sent, unless it changed as well: so many bytes of it count for one. More would leave too
/// few batches for all workers to read at once, fewer make each a batch with syncs and a transaction of its own.
const MOVED_SHARE: u64 = 8;
/// Bytes of paths in one batch before it is closed, each with what else its failure may take: a file
/// that is begun three times and was elsewhere before still leaves a batch whose receipt can name all.
const BATCH_NAMES: usize = (1 << 20) - 2 * (PATH_LEN_MAX + FAILURE_COST);
const _: () = assert!(3 * (BATCH_NAMES + 2 * (PATH_LEN_MAX + FAILURE_COST)) <= BATCH_NAMES_MAX);
/// Rounds in which what the target could not build is sent again.
const ROUNDS: usize = 4;
/// How long a broken stream waits for the target's own account of it.
const REASON_WAIT: Duration = Duration::from_secs(2);
impl<'a, S: Storage> Source<'a, S> {
    /// Sends what is planned; what `propose` says is sealed behind it, if nothing fails.
    pub(super) fn replicate(
        &mut self,
        plan: Plan,
        propose: &mut Propose<'_, 'a, S>,
    ) -> Result<(), SourceError> {
        use std::sync::atomic::Ordering::Relaxed;
        self.progress.enter(Phase::Replicating);
        self.progress.planned.store(plan.len(), Relaxed);
        self.progress.planned_bytes.store(plan.bytes, Relaxed);
        if plan.is_empty() {
            return Ok(());
        }
        let mut changes = plan.into_changes()?;
        let first = std::mem::take(&mut self.first);
        // Of what is only placed nothing is read or sent: it closes no batch, and what comes after it is in the
        // same one.
        let placed = |(path, read): &(RelPath, Option<u64>)| Change::Look {
            path: path.clone(),
            size: read.unwrap_or(0),
            is_file: read.is_some(),
            kind: LookKind::Content,
            moved_from: None,
        };
        let mut placing = first.iter().map(placed);
        let is_first: HashSet<&RelPath> = first.iter().map(|(path, _)| path).collect();
        let mut next = || {
            if let Some(change) = placing.next() {
                return Ok(Some(change));
            }
            loop {
                match changes.next_change()? {
                    Some(Change::Look { path, .. }) if is_first.contains(&path) => {}
                    next => return Ok(next),
                }
            }
        };
        let mut again = self.round(&mut next, propose)?;
        for _ in 1..ROUNDS {
            if again.is_empty() {
                return Ok(());
            }
            let mut list = again.into_iter();
            again = self.round(&mut || Ok(list.next()), propose)?;
        }
        for change in again {
            let text = "the target could not build it, however it was sent".to_owned();
            self.progress.problem(Problem { path: change.path().clone(), text });
        }
        Ok(())
    }

    /// Sends all that `next` yields and waits for every receipt; what is to be sent again.
    fn round(
        &mut self,
        next: &mut dyn FnMut() -> Result<Option<Change>, SourceError>,
        propose: &mut Propose<'_, 'a, S>,
    ) -> Result<Vec<Change>, SourceError> {
        self.renewed.clear();
        let gauge = LineGauge::new(self.config.compression, self.link.stats().rtt, Instant::now());
        let index = std::mem::take(&mut self.index);
        let turnstile = Turnstile::new(self.next_batch);
        let (jobs, queue) = bounded::<(u64, Vec<Change>)>(1);
        let carried = Arc::clone(&self.carried);
        let result = std::thread::scope(|scope| {
            for _ in 0..self.config.workers.max(1) {
                let worker = Worker {
                    storage: self.storage,
                    catalog: self.catalog,
                    link: self.link,
                    config: self.config,
                    progress: self.progress,
                    index: &index,
                    desk: self.desk,
                    ahead: self.ahead,
                    carried: &carried,
                    gauge: &gauge,
                    turnstile: &turnstile,
                    striping: self.striping,
                    deal: self.deal,
                    events: self.events.clone(),
                };
                let queue = queue.clone();
                scope.spawn(move || worker.run(&queue));
            }
            drop(queue);
            let result = caught(|| self.coordinate(next, &jobs, &index, propose));
            drop(jobs);
            if result.is_err() {
                // Workers blocked on the link or on their turn must end too.
                self.link.close(CloseCode::Internal as u32, "the source stopped");
                turnstile.abandon();
                // Nobody takes the target's messages any more, so that no signatures arrive either.
                self.desk.close();
            }
            result
        });
        self.index = index;
        result
    }

    fn coordinate(
        &mut self,
        next: &mut dyn FnMut() -> Result<Option<Change>, SourceError>,
        jobs: &Sender<(u64, Vec<Change>)>,
        index: &RunIndex,
        propose: &mut Propose<'_, 'a, S>,
    ) -> Result<Vec<Change>, SourceError> {
        let mut under_way: HashMap<u64, BatchRecord> = HashMap::new();
        let mut again = Vec::new();
        let mut exhausted = false;
        loop {
            while !exhausted && self.session.batches_under_way() < BATCHES_UNDER_WAY {
                let changes = next_batch(next)?;
                if changes.is_empty() {
                    exhausted = true;
                    break;
                }
                let batch = self.next_batch;
                self.next_batch += 1;
                self.session.batch_sent(batch);
                index.announce(batch, changes.iter().filter_map(large_size));
                if jobs.send((batch, changes)).is_err() {
                    return Err(self.worker_error());
                }
            }
            // Behind a seal that is void nothing is sent before that is answered.
            let is_over = self.session.batches_under_way() == 0 && !self.session.awaits_refusal();
            if exhausted && is_over {
                return Ok(again);
            }
            let mut receipts = Vec::new();
            let mut event = match self.inbox.try_recv() {
                Some(event) => event,
                None if exhausted && again.is_empty() && self.may_foresee(&under_way) => {
                    again = self.foresee(&mut under_way, index, propose)?;
                    continue;
                }
                None => self.inbox.recv(),
            };
            // Receipts that wait together are recorded together.
            loop {
                receipts.extend(self.heard(event, &mut under_way)?);
                let Some(next) = self.inbox.try_recv() else { break };
                event = next;
            }
            if !receipts.is_empty() {
                let profile = self.config.profile;
                again.extend(profile.time(Stage::Record, || self.acknowledged(receipts, index))?);
            }
        }
    }

    /// Whether all that is to come of this round are receipts of what is written, and nothing failed in it so far.
    fn may_foresee(&self, under_way: &HashMap<u64, BatchRecord>) -> bool {
        !under_way.is_empty()
            && under_way.len() == self.session.batches_under_way()
            && self.renewed.is_empty()
            && self.catalog.can_attempt()
    }

    /// Acts on what the coordinator hears while batches are under way; a receipt comes back with the
    /// batch it is for.
    pub(super) fn heard(
        &mut self,
        event: Event,
        under_way: &mut HashMap<u64, BatchRecord>,
    ) -> Result<Option<(BatchRecord, Receipt)>, SourceError> {
        match event {
            Event::Written(batch, record) => {
                under_way.insert(batch, record);
                Ok(None)
            }
            Event::Message(message) => {
                self.session.handle(&message)?;
                if self.hear_aside(&message) {
                    return Ok(None);
                }
                // Of a seal behind batches: one of them was not applied whole.
                if matches!(message, Message::SealMismatch(_)) {
                    return Ok(None);
                }
                let Message::Receipt(receipt) = message else {
                    return Err(SessionError::UnexpectedMessage {
                        state: self.session.state_name(),
                        message: message.name(),
                    }
                    .into());
                };
                let record = under_way
                    .remove(&receipt.batch)
                    .ok_or(SessionError::UnknownBatch { batch: receipt.batch })?;
                Ok(Some((record, receipt)))
            }
            Event::Failed(e) => Err(self.reason(e)),
            Event::Ended => {
                let state = self.session.state_name();
                Err(SessionError::EndedEarly { state }.into())
            }
        }
    }

    /// A target that gives up stops its streams, and says why on the control stream: whichever
    /// arrives first, the reason is what counts.
    pub(super) fn reason(&mut self, e: SourceError) -> SourceError {
        let until = Instant::now() + REASON_WAIT;
        if !matches!(e, SourceError::Link(_)) {
            return e;
        }
        while let Some(event) = self.inbox.recv_until(until) {
            match event {
                Event::Message(message @ Message::Refused { .. }) => {
                    return self.session.handle(&message).map_or_else(SourceError::from, |()| e);
                }
                Event::Ended => break,
                Event::Message(_) | Event::Written(..) | Event::Failed(_) => {}
            }
        }
        e
    }

    /// All workers are gone: one of them said why.
    fn worker_error(&mut self) -> SourceError {
        while let Some(event) = self.inbox.try_recv() {
            if let Event::Failed(e) = event {
                return self.reason(e);
            }
        }
        SourceError::WorkerGone
    }
}

/// The length of a larger file that will be looked at.
fn large_size(change: &Change) -> Option<u64> {
    match change {
        Change::Look { size, moved_from: None, .. } if *size > SMALL_FILE_MAX => Some(*size),
        _ => None,
    }
}

/// The changes of the next batch: so many, or so many bytes of files or of paths.
fn next_batch(
    next: &mut dyn FnMut() -> Result<Option<Change>, SourceError>,
) -> Result<Vec<Change>, SourceError> {
    let mut changes = Vec::new();
    let (mut bytes, mut names) = (0u64, 0);
    while changes.len() < BATCH_CHANGES && bytes < BATCH_BYTES && names < BATCH_NAMES {
        let Some(change) = next()? else { break };
        if let Change::Look { size, moved_from, .. } = &change {
            let weighs = if moved_from.is_some() { size / MOVED_SHARE } else { *size };
            bytes = bytes.saturating_add(weighs);
        }
        names += names_of(&change);
        changes.push(change);
    }
    Ok(changes)
}

/// What a receipt takes to name all of a change.
fn names_of(change: &Change) -> usize {
    let other = match change {
        Change::Look { moved_from, .. } => moved_from.as_ref(),
        Change::Link { leader, .. } => Some(leader),
        Change::Remove { .. } => None,
    };
    let paths = [Some(change.path()), other];
    paths.iter().flatten().map(|path| path.as_bytes().len() + FAILURE_COST).sum()
}

#[cfg(test)]
mod tests {
    use farshore_core::entry::EntryDigest;

    use super::*;

    /// Whatever the paths are, a receipt can name all of a batch, sent three times over.
    #[test]
    fn batches_are_closed_by_their_paths() {
        let long = |n: usize| {
            let name = format!("{}/{n}", ["x".repeat(250).as_str(); 120].join("/"));
            RelPath::new(name.as_bytes()).expect("a path")
        };
        let mut left = (0..500).map(|n| match n % 3 {
            0 => Change::Remove { path: long(n), expected: EntryDigest([0; 32]) },
            1 => Change::Link { path: long(n), leader: long(n + 1) },
            _ => {
                let (path, from) = (long(n), Some(long(n + 1)));
                Change::Look { path, size: 1, is_file: true, kind: LookKind::New, moved_from: from }
            }
        });
        let mut sent = 0;
        loop {
            let batch = next_batch(&mut || Ok(left.next())).expect("a batch");
            if batch.is_empty() {
                break;
            }
            let names: usize = batch.iter().map(names_of).sum();
            assert!(3 * names <= BATCH_NAMES_MAX, "{} changes, {names} bytes", batch.len());
            sent += batch.len();
        }
        assert_eq!(sent, 500);
        let short = |_| {
            let path = RelPath::new(*b"an/ordinary/path/of/some/length").expect("a path");
            Change::Look { path, size: 1, is_file: true, kind: LookKind::New, moved_from: None }
        };
        let mut short = (0..5_000).map(short);
        let batch = next_batch(&mut || Ok(short.next())).expect("a batch");
        assert_eq!(batch.len(), BATCH_CHANGES);
    }
}

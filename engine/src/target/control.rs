//! The control stream of a target's session: comparisons, seals, what is told unasked.
//!
//! Guarantees: a recovery point is recorded only when the root digest computed here is the one the source
//! names, in one durable transaction, and only then is the source told; one that the source names before it has
//! heard of all batches only when every one of them is durable and was applied whole. Queries are answered in order.

use super::*;

/// How often a session that stands removes old versions.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);
/// Bytes of children in one answer: well within a control message.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// What became of the seals of a session: some are asked for here, some behind batches.
#[derive(Debug, Default)]
pub(super) struct Seals {
    /// Whether a recovery point was recorded.
    pub(super) sealed: bool,
    /// Sets of history pruned, and when last.
    pub(super) pruned: u64,
    last_pruned: Option<Instant>,
}

impl<S: Storage> Session<'_, S> {
    /// Answers comparisons and seals, until the source says goodbye; seals behind batches are for whoever applies them
    /// to answer.
    pub(super) fn control(
        &self,
        own: &OwnFolder<S>,
        ask: Sender<Sign>,
        seal_behind: Sender<(u64, RecoveryPoint)>,
    ) -> Result<(), TargetError> {
        loop {
            let Some(bytes) = self.next_control()? else { return Ok(()) };
            let message = Message::from_bytes(&bytes).map_err(SessionError::Decode)?;
            self.machine().handle(&message)?;
            match message {
                Message::Compare(queries) => {
                    answer(&self.catalog.reader()?, self.link, &queries)?;
                }
                // A signer that is gone could not answer: the link is broken, and says so next.
                Message::Sign(sign) => ask.send(sign).unwrap_or(()),
                Message::Seal(point) => self.seal(own, &point, true)?,
                // An applier that is gone could not answer: it has said why.
                Message::SealBehind { batch, point } => {
                    seal_behind.send((batch, point)).unwrap_or(());
                }
                Message::Policies(found) => {
                    let accepted = accepted(found, self.config.policies.as_ref())?;
                    *lock(&self.policies) = Some(accepted);
                }
                Message::Mark { sequence, label } => {
                    let now = (self.config.now_ms)();
                    // One too many is not recorded; the list of marks says which there are.
                    drop(self.catalog.update(Durability::Immediate, |t| {
                        t.put_mark(Some(sequence), &label, now)
                    })?);
                }
                Message::Ahead { keep } => self.list_ahead(own, keep.as_deref())?,
                Message::Behind(behind) => *lock(&self.behind) = behind,
                Message::Holds(holds) => {
                    self.catalog.update(Durability::Immediate, |t| t.set_holds(&holds))?;
                    if let Some(observer) = &self.config.observer {
                        observer.holds(&holds);
                    }
                }
                Message::Keys(said) => {
                    let observer = self.config.observer.as_ref();
                    if let Some(answer) = observer.and_then(|observer| observer.keys(&said)) {
                        self.send(&Message::Keys(answer))?;
                    }
                }
                Message::Beat(beat) => {
                    let round_trip = self.link.stats().rtt;
                    let observer = self.config.observer.as_ref();
                    if let Some(own) = observer.and_then(|o| o.beat(&beat, round_trip)) {
                        self.send(&Message::Beat(own))?;
                    }
                }
                Message::Goodbye => {
                    self.link.finish_control()?;
                    return Ok(());
                }
                _ => {}
            }
        }
    }

    /// Records the point, and says so, if it `may` be and the root is as the source says; else says that.
    pub(super) fn seal(
        &self,
        own: &OwnFolder<S>,
        point: &RecoveryPoint,
        may: bool,
    ) -> Result<(), TargetError> {
        let is_sealed = self.sealed(point, may)?;
        let mut seals = lock(&self.seals);
        seals.sealed |= is_sealed;
        // What a session that stands displaces in a minute can wait for it.
        if seals.last_pruned.is_none_or(|at| at.elapsed() >= PRUNE_INTERVAL) {
            seals.pruned += self.prune(own)?;
            seals.last_pruned = Some(Instant::now());
        }
        Ok(())
    }

    fn sealed(&self, point: &RecoveryPoint, may: bool) -> Result<bool, TargetError> {
        let _sealing = self.config.profile.enter(Stage::Seal);
        let behind = lock(&self.behind).clone();
        let root = self.catalog.update(Durability::Immediate, |t| {
            let root = t.seal()?;
            t.settle()?;
            if may && root == point.root {
                t.set_behind(&behind)?;
                t.set_recovery_point(point, self.source)?;
                t.put_point(point, (self.config.now_ms)())?;
                t.set_policies(lock(&self.policies).as_ref())?;
                t.set_epoch(self.epoch)?;
            }
            Ok(root)
        })?;
        if !may || root != point.root {
            self.machine().seal_refused();
            self.send(&Message::SealMismatch(root))?;
            return Ok(false);
        }
        self.machine().sealed(point.sequence);
        if let Some(observer) = &self.config.observer {
            observer.behind(&behind);
            observer.sealed(point);
        }
        self.send(&Message::Sealed(*point))?;
        Ok(true)
    }

    /// Removes kept versions beyond the bounds; how many sets went.
    fn prune(&self, own: &OwnFolder<S>) -> Result<u64, TargetError> {
        let (storage, catalog) = (self.storage, self.catalog);
        let (now_ms, profile) = (&self.config.now_ms, &*self.config.profile);
        let applier = Applier { storage, catalog, own, now_ms, profile };
        Ok(applier.prune_history(&self.config.history)?)
    }

    /// Tells the source of foreign entries as they are found, while the session stands.
    pub(super) fn tell_foreign(&self, over: &Receiver<()>) {
        let Some(foreign) = &self.config.foreign else { return };
        loop {
            let found = select! {
                recv(foreign) -> found => found,
                recv(over) -> _ => return,
            };
            let Ok(found) = found else { return };
            // Else the next session finds that the roots differ.
            if self.machine().is_standing() && self.send(&Message::Foreign(found)).is_err() {
                return;
            }
        }
    }

    /// The next message of the source; `None` when it needs no more and is gone. Once all is sealed, how
    /// its end of the link ends says nothing, and it has [`FAREWELL`] for it: the close that a source
    /// sends may be lost, and nobody would repeat it.
    fn next_control(&self) -> Result<Option<Bytes>, TargetError> {
        let (state, over, stands) = {
            let machine = self.machine();
            (machine.state_name(), machine.may_be_left(), machine.is_standing())
        };
        let heard = match over && !stands {
            true => within(self.link, FAREWELL, CloseCode::Done, "", || self.link.recv_control()),
            false => self.link.recv_control(),
        };
        match heard {
            Ok(Some(bytes)) => Ok(Some(bytes)),
            // A source that stands is not done when it falls silent.
            Err(e @ LinkError::Lost { .. }) if stands => Err(e.into()),
            // It may have been sealed meanwhile, behind a batch.
            Ok(None) | Err(LinkError::ClosedByPeer { .. } | LinkError::Lost { .. })
                if over || self.machine().may_be_left() =>
            {
                Ok(None)
            }
            Ok(None) => Err(SessionError::EndedEarly { state }.into()),
            Err(e) => Err(e.into()),
        }
    }

    pub(super) fn send(&self, message: &Message) -> Result<(), TargetError> {
        Ok(self.link.send_control(Bytes::from(message.to_bytes()))?)
    }
}

/// Answers comparisons alone, over `link`, which opened with `hello`: the catalog is as it is, nothing is checked
/// and nothing can be sent. What a site that is not to send any more learns by it is what it has that this one
/// never had.
///
/// # Errors
/// [`TargetError`]; the peer has been told.
pub fn answer_comparisons<S: Storage>(
    storage: &S,
    catalog: &Catalog,
    link: &dyn Link,
    hello: &Message,
) -> Result<(), TargetError> {
    let result = answer_all(storage, catalog, link, hello);
    if let Err(e) = &result {
        refuse(link, e.close_code(), &crate::ingest::describe(e));
    }
    result
}

fn answer_all<S: Storage>(
    storage: &S,
    catalog: &Catalog,
    link: &dyn Link,
    hello: &Message,
) -> Result<(), TargetError> {
    // Whatever epoch the source is of: nothing of it is applied.
    let mut machine = TargetSession::new(Epoch(0));
    machine.handle(hello)?;
    let root = catalog.sealed_root()?;
    let reader = catalog.reader()?;
    let identity = OwnFolder::identity_of(storage).map_err(TargetError::OwnFolder)?;
    let applied_batch = reader.applied_batch()?;
    let welcome = Welcome {
        version: machine.version(),
        target: identity.or(reader.tree()?).unwrap_or(catalog.id()),
        sealed_with: reader.sealed_with()?,
        epoch: Epoch(0),
        applied_batch,
        root,
        entries: reader.entry_count()?,
        foreign_changes: 0,
        recovery_point: reader.recovery_point()?,
    };
    machine.welcome_sent(applied_batch);
    link.send_control(Bytes::from(Message::Welcome(welcome).to_bytes()))?;
    loop {
        let state = machine.state_name();
        let Some(bytes) = link.recv_control()? else {
            return Err(SessionError::EndedEarly { state }.into());
        };
        let message = Message::from_bytes(&bytes).map_err(SessionError::Decode)?;
        machine.handle(&message)?;
        match message {
            Message::Compare(queries) => answer(&reader, link, &queries)?,
            Message::Policies(_) => {}
            Message::Goodbye => {
                link.finish_control()?;
                return Ok(());
            }
            other => {
                let message = other.name();
                return Err(SessionError::UnexpectedMessage { state, message }.into());
            }
        }
    }
}

fn answer(reader: &CatalogReader, link: &dyn Link, queries: &[Query]) -> Result<(), TargetError> {
    for query in queries {
        answer_one(reader, link, query)?;
    }
    Ok(())
}

fn answer_one(reader: &CatalogReader, link: &dyn Link, query: &Query) -> Result<(), TargetError> {
    let send = |answer| link.send_control(Bytes::from(Message::Answer(answer).to_bytes()));
    let children = reader.children(&query.directory, query.bucket)?;
    if query.bucket.is_none() && children.len() > WIDE {
        let buckets = reader.buckets(&query.directory)?;
        return Ok(send(Answer::Buckets(buckets))?);
    }
    let mut piece = Vec::new();
    let mut bytes = 0;
    for child in children {
        let size = child.path.as_bytes().len() + child.entry.to_bytes().len() + 64;
        if piece.len() >= ANSWER_CHILDREN_MAX || bytes + size > ANSWER_BYTES_MAX {
            let children = std::mem::take(&mut piece);
            send(Answer::Children { last: false, children })?;
            bytes = 0;
        }
        bytes += size;
        piece.push(child);
    }
    Ok(send(Answer::Children { last: true, children: piece })?)
}

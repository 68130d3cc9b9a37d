//! The end of a share: opened, run, ended and opened again by one thread, as the share's role says.
//!
//! ```text
//! wanted: sends ────► Outgoing (sender, keeper, probe) ──┐ turned, or the daemon stops:
//! wanted: receives ─► Standby  (offers, scrub, probe) ───┤ its sessions end, its threads are waited for,
//! wanted: neither ──► nothing                          ──┘ its catalog and root are closed; then the next one
//! ```
//! Guarantees: a share has one end at a time; the next one is opened when nobody uses the former one any more.
//! An end that cannot be opened is tried again, ever more slowly, and says why; other shares go on. After a
//! crash the end is opened as the role that is on record says.

use std::sync::Condvar;
use std::time::Instant;

use super::receiving::Standby;
use super::sending::Outgoing;
use super::*;

/// How long a session that was told to end has until its link is closed.
const LEAVE: Duration = Duration::from_secs(20);
/// How often a thread that waits looks whether the daemon stops.
const LOOK: Duration = Duration::from_millis(100);

/// What a share's end does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::site) enum DataRole {
    /// Sends what changes.
    Sends,
    /// Receives it.
    Receives,
    /// Nothing: the share is left alone.
    Neither,
}

/// An open end.
#[derive(Clone)]
pub(super) enum End {
    Sends(Arc<Outgoing>),
    Receives(Arc<Standby>),
}

impl End {
    fn role(&self) -> DataRole {
        match self {
            Self::Sends(_) => DataRole::Sends,
            Self::Receives(_) => DataRole::Receives,
        }
    }

    fn over(&self) -> &AtomicBool {
        match self {
            Self::Sends(outgoing) => &outgoing.over,
            Self::Receives(standby) => &standby.over,
        }
    }

    fn storage(&self) -> &farshore_engine::io::uring::UringStorage {
        match self {
            Self::Sends(outgoing) => &outgoing.storage,
            Self::Receives(standby) => standby.receiver.storage(),
        }
    }

    /// Tells its threads to end; they may take a while.
    pub(super) fn stop(&self, sessions: &Sessions) {
        self.over().store(true, Relaxed);
        match self {
            Self::Sends(outgoing) => outgoing.sender.stop(),
            Self::Receives(standby) => sessions.end(standby.receiver.share()),
        }
    }

    /// Waits until nobody else has it, and closes it.
    fn close(self, late: &dyn Fn()) {
        let mut end = self;
        let began = Instant::now();
        let mut said = false;
        loop {
            end = match end {
                Self::Sends(outgoing) => match Arc::try_unwrap(outgoing) {
                    Ok(last) => return drop(last),
                    Err(shared) => Self::Sends(shared),
                },
                Self::Receives(standby) => match Arc::try_unwrap(standby) {
                    Ok(last) => return drop(last),
                    Err(shared) => Self::Receives(shared),
                },
            };
            if !said && began.elapsed() > LEAVE {
                late();
                said = true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A share of this site, and the end it has now.
pub(super) struct Slot {
    share: String,
    state: Mutex<SlotState>,
    changed: Condvar,
}

struct SlotState {
    wanted: DataRole,
    end: Option<End>,
    /// Counts requests to open the end anew.
    renewals: u64,
}

impl Slot {
    pub(super) fn new(share: &str, wanted: DataRole, end: Option<End>) -> Self {
        let state = Mutex::new(SlotState { wanted, end, renewals: 0 });
        Self { share: share.to_owned(), state, changed: Condvar::new() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, SlotState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn share(&self) -> &str {
        &self.share
    }

    pub(super) fn wanted(&self) -> DataRole {
        self.lock().wanted
    }

    pub(super) fn end(&self) -> Option<End> {
        self.lock().end.clone()
    }

    /// The sending end, if that is what there is.
    pub(super) fn outgoing(&self) -> Option<Arc<Outgoing>> {
        match self.end() {
            Some(End::Sends(outgoing)) => Some(outgoing),
            _ => None,
        }
    }

    /// The receiving end, if that is what there is.
    pub(super) fn standby(&self) -> Option<Arc<Standby>> {
        match self.end() {
            Some(End::Receives(standby)) => Some(standby),
            _ => None,
        }
    }

    /// From now on the share's end is to be this one.
    pub(super) fn turn(&self, wanted: DataRole) {
        self.lock().wanted = wanted;
        self.changed.notify_all();
    }

    /// The end is to be opened anew: what it lies on is another one.
    pub(super) fn renew(&self) {
        self.lock().renewals += 1;
        self.changed.notify_all();
    }

    fn put(&self, end: Option<End>) {
        self.lock().end = end;
        self.changed.notify_all();
    }

    /// Waits until the end is the one wanted; whether it is.
    pub(super) fn settles(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut state = self.lock();
        loop {
            let role = state.end.as_ref().map_or(DataRole::Neither, End::role);
            let is_over = state.end.as_ref().is_some_and(|end| end.over().load(Relaxed));
            if role == state.wanted && !is_over {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state =
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until another end is wanted than `role`, or the same anew; at most `patience`.
    fn is_turned(&self, role: DataRole, renewals: u64, patience: Duration) -> bool {
        let state = self.lock();
        let turned = |state: &SlotState| state.wanted != role || state.renewals != renewals;
        if turned(&state) {
            return true;
        }
        turned(
            &self.changed.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner).0,
        )
    }
}

impl Daemon {
    pub(super) fn slot(&self, share: &str) -> Option<&Arc<Slot>> {
        self.slots.get(share)
    }

    pub(super) fn outgoing(&self, share: &str) -> Option<Arc<Outgoing>> {
        self.slot(share)?.outgoing()
    }

    pub(super) fn standby(&self, share: &str) -> Option<Arc<Standby>> {
        self.slot(share)?.standby()
    }

    /// Opens the end of a share.
    fn open_end(&self, share: &str, role: DataRole) -> Result<Option<End>, Failure> {
        let config = self.config();
        let Some(share) = config.share(share) else { return Ok(None) };
        let board = self.board.share(&shown_share(share, role));
        open_end(share, role, &config, &self.state, self.io, board, &self.log)
    }

    /// Runs the end of a share, and the one after it, for as long as the daemon runs.
    pub(super) fn tend(&self, slot: &Slot) {
        let mut wait = RETRY_FIRST;
        while !self.is_stopping() {
            let (wanted, renewals) = {
                let state = slot.lock();
                (state.wanted, state.renewals)
            };
            let open = slot.end().filter(|end| end.role() == wanted);
            let opened = match open {
                Some(end) => Ok(Some(end)),
                None => self.open_end(slot.share(), wanted),
            };
            let end = match opened {
                Ok(Some(end)) => end,
                Ok(None) => {
                    slot.is_turned(wanted, renewals, LOOK);
                    continue;
                }
                Err(failure) => {
                    self.say_of(slot.share(), Level::Error, "open", failure.message.clone());
                    if let Some(share) = self.config().share(slot.share()) {
                        let board = self.board.share(&shown_share(share, wanted));
                        board.state(facts::ShareState::Error, Some(&failure.message));
                    }
                    let until = Instant::now() + wait;
                    wait = (wait * 2).min(RETRY_LAST);
                    while Instant::now() < until
                        && !self.is_stopping()
                        && !slot.is_turned(wanted, renewals, LOOK)
                    {}
                    continue;
                }
            };
            wait = RETRY_FIRST;
            slot.put(Some(end.clone()));
            self.run_end(slot, &end, renewals);
            slot.put(None);
            end.close(&|| {
                let text = "its former end is still in use, and waited for".to_owned();
                self.say_of(slot.share(), Level::Warn, "open", text);
            });
        }
    }

    /// Runs an open end until another one is wanted.
    fn run_end(&self, slot: &Slot, end: &End, renewals: u64) {
        let left = AtomicBool::new(false);
        std::thread::scope(|scope| {
            match end {
                End::Sends(outgoing) => {
                    let left = &left;
                    scope.spawn(move || {
                        self.send(outgoing);
                        left.store(true, Relaxed);
                    });
                    scope.spawn(move || self.keep(outgoing));
                }
                End::Receives(standby) => {
                    left.store(true, Relaxed);
                    if self.config().peer.dial.is_some() {
                        scope.spawn(move || self.offer(standby));
                    }
                    scope.spawn(move || standby.scrubber.run(&standby.over));
                }
            }
            scope.spawn(move || self.probe(slot.share(), end));
            while !self.is_stopping() && !slot.is_turned(end.role(), renewals, LOOK) {}
            end.stop(&self.sessions);
            let until = Instant::now() + LEAVE;
            while !left.load(Relaxed) && Instant::now() < until && !self.is_stopping() {
                std::thread::sleep(Duration::from_millis(5));
            }
            if let End::Sends(outgoing) = end
                && !left.load(Relaxed)
                && !self.is_stopping()
            {
                outgoing.close_line();
            }
        });
    }

    /// Asks a share's mount how its root is, for as long as its end runs: a mount that does not answer
    /// is shown as stalled, by whoever waits for this thread in vain.
    fn probe(&self, share: &str, end: &End) {
        let storage = end.storage();
        let worker = self.board.worker(Some(share), "probe");
        while !end.over().load(Relaxed) {
            {
                let _call = worker.on_mount("statx", &RelPath::root());
                // That it answers is all that is asked.
                drop(storage.stat(Object::Directory(storage.root())));
            }
            worker.doing("waiting");
            let until = Instant::now() + PROBE;
            while Instant::now() < until && !end.over().load(Relaxed) {
                std::thread::sleep(LOOK);
            }
        }
    }
}

/// Opens the end of a share; none where it has none.
pub(super) fn open_end(
    share: &Share,
    role: DataRole,
    config: &SiteConfig,
    state: &State,
    io: IoMode,
    board: crate::site::board::ShareBoard,
    log: &Log,
) -> Result<Option<End>, Failure> {
    Ok(match role {
        DataRole::Sends => {
            let outgoing = Outgoing::open(share, config, state, io, board, log)?;
            Some(End::Sends(Arc::new(outgoing)))
        }
        DataRole::Receives => {
            Some(End::Receives(Arc::new(Standby::open(share, state, io, board, log)?)))
        }
        DataRole::Neither => None,
    })
}

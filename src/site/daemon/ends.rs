//! The end of a share: opened, run, ended and opened again by one thread, as the share's role says.
//!
//! ```text
//! wanted: sends ────► Outgoing (sender, keeper, probe) ──┐ turned, or the daemon stops:
//! wanted: receives ─► Standby  (offers, scrub, probe) ───┤ its sessions end, its threads are waited for,
//! wanted: neither ──► nothing                          ──┘ its catalog and root are closed; then the next one
//! ```
//! An end that sends may be told to send nothing for a while, or under another epoch: it goes on watching.
//! Guarantees: a share has one end at a time; the next one is opened when nobody uses the former one any more.
//! An end that cannot be opened is tried again every two seconds, and says why; other shares go on. One whose
//! root went away is closed, and opened when that is there again (`root.rs`). After a crash the end is opened as the role that is on record says.

use std::sync::Condvar;
use std::time::Instant;

use super::receiving::Standby;
use super::root::{self, Closed};
use super::sending::Outgoing;
use farshore_core::role::Phase;
use farshore_engine::capture::Keeper;
use farshore_engine::catalog::Turning;
use farshore_proto::message::StoreId;

use super::*;
use crate::replicate::open_site_catalog;
use crate::state::SiteCatalog;

/// How long a session that was told to end has until its link is closed.
const LEAVE: Duration = Duration::from_secs(20);
/// How often a thread that waits looks whether the daemon stops.
const LOOK: Duration = Duration::from_millis(100);
/// How often an end that cannot be opened is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// What a share's end is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// It watches, and sends under this epoch if there is one.
    Source(Option<Epoch>),
    /// It receives what is sent under this epoch.
    Target(Epoch),
    /// The share is left alone.
    Nothing,
}

impl Want {
    /// Whether an end that is this one is that one too.
    fn is_same_end(self, other: Self) -> bool {
        match (self, other) {
            (Self::Source(_), Self::Source(_)) => true,
            (one, other) => one == other,
        }
    }
}

/// An open end.
#[derive(Clone)]
pub(super) enum End {
    Sends(Arc<Outgoing>),
    Receives(Arc<Standby>),
}

impl End {
    /// What it is.
    fn is(&self) -> Want {
        match self {
            Self::Sends(outgoing) => Want::Source(outgoing.epoch()),
            Self::Receives(standby) => Want::Target(standby.epoch),
        }
    }

    pub(super) fn over(&self) -> &AtomicBool {
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

    pub(super) fn catalog(&self) -> &farshore_engine::catalog::Catalog {
        match self {
            Self::Sends(outgoing) => &outgoing.catalog,
            Self::Receives(standby) => standby.receiver.catalog(),
        }
    }

    /// Tells its threads to end; they may take a while.
    pub(super) fn stop(&self, sessions: &Sessions) {
        self.over().store(true, Relaxed);
        match self {
            Self::Sends(outgoing) => outgoing.sender.stop(),
            Self::Receives(standby) => {
                standby.close_offer();
                sessions.end(standby.receiver.share());
            }
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
    wanted: Want,
    end: Option<End>,
    /// Something of it may still be open.
    open: bool,
    /// Counts requests to open the end anew.
    renewals: u64,
    /// Why it cannot be opened.
    why: Option<String>,
    /// That is because another folder is at its path.
    is_other: bool,
    /// An operator said that this folder is meant.
    approved: bool,
}

impl Slot {
    pub(super) fn new(share: &str, wanted: Want, end: Option<End>) -> Self {
        let state = Mutex::new(SlotState {
            wanted,
            open: end.is_some(),
            end,
            renewals: 0,
            why: None,
            is_other: false,
            approved: false,
        });
        Self { share: share.to_owned(), state, changed: Condvar::new() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, SlotState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn share(&self) -> &str {
        &self.share
    }

    pub(super) fn wanted(&self) -> Want {
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

    /// From now on the share's end is to be this one. When it returns, what the former one did is over, but not
    /// before `is_over` says that nothing is waited for any more.
    pub(super) fn turn(&self, wanted: Want, is_over: &dyn Fn() -> bool) {
        self.lock().wanted = wanted;
        self.changed.notify_all();
        while !is_over() {
            let state = self.lock();
            if !state.open {
                return;
            }
            match &state.end {
                Some(end) if end.is().is_same_end(wanted) && !end.over().load(Relaxed) => {
                    let end = end.clone();
                    drop(state);
                    if let (End::Sends(outgoing), Want::Source(epoch)) = (&end, wanted) {
                        outgoing.send_under(epoch, is_over);
                    }
                    return;
                }
                _ => {
                    let waited = self.changed.wait_timeout(state, LOOK);
                    drop(waited.unwrap_or_else(PoisonError::into_inner));
                }
            }
        }
    }

    /// The end is to be opened anew: what it lies on is another one.
    pub(super) fn renew(&self) {
        self.lock().renewals += 1;
        self.changed.notify_all();
    }

    /// Why it cannot be opened, if so.
    pub(super) fn why_closed(&self) -> Option<String> {
        self.lock().why.clone()
    }

    /// An operator says that the folder at its path is meant; whether the end waited for that.
    pub(super) fn approve_root(&self) -> bool {
        let mut state = self.lock();
        let waits = state.is_other && state.end.is_none();
        state.approved |= waits;
        state.renewals += u64::from(waits);
        drop(state);
        self.changed.notify_all();
        waits
    }

    /// An operator said that the folder at its path is meant.
    pub(super) fn is_approved(&self) -> bool {
        self.lock().approved
    }

    /// Notes why it cannot be opened; whether that is news.
    pub(super) fn cannot_open(&self, closed: &Closed) -> bool {
        let mut state = self.lock();
        state.is_other = matches!(closed, Closed::Other(_));
        let former = state.why.replace(closed.text().to_owned());
        former.as_deref() != Some(closed.text())
    }

    /// It could be opened; whether it could not before.
    fn opened(&self) -> bool {
        let mut state = self.lock();
        (state.is_other, state.approved) = (false, false);
        state.why.take().is_some()
    }

    fn put(&self, end: Option<End>) {
        let mut state = self.lock();
        if let (Some(End::Sends(outgoing)), Want::Source(epoch)) = (&end, state.wanted) {
            // It may have been turned while it was opened. Whoever turns it next waits for this lock.
            outgoing.begin_under(epoch);
        }
        state.open |= end.is_some();
        state.end = end;
        drop(state);
        self.changed.notify_all();
    }

    /// All of the end is closed.
    fn closed(&self) {
        self.lock().open = false;
        self.changed.notify_all();
    }

    /// Waits until another end is wanted than `is`, or the same anew; at most `patience`.
    fn is_turned(&self, is: Want, renewals: u64, patience: Duration) -> bool {
        let state = self.lock();
        let turned =
            |state: &SlotState| !state.wanted.is_same_end(is) || state.renewals != renewals;
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
    fn open_end(&self, share: &str, wanted: Want, approved: bool) -> Result<Option<End>, Closed> {
        let config = self.config();
        let Some(share) = config.share(share) else { return Ok(None) };
        let board = self.board.share(&shown_share(share, wanted));
        let ids = self.joined_with(&share.name);
        let keeper = self.keeps.keeper(&share.name);
        let shown = (board, &self.log);
        let opened = open_end(
            share,
            wanted,
            &config,
            &self.state,
            self.io,
            shown,
            keeper.clone(),
            (ids, approved),
        );
        if let (Ok(Some(End::Receives(_))), Some(keeper)) = (&opened, keeper) {
            // Nobody reads what is queued of a share that is received.
            keeper.forget();
        }
        opened
    }

    /// Runs the end of a share, and the one after it, for as long as the daemon runs.
    pub(super) fn tend(&self, slot: &Slot) {
        let mut left_alone = false;
        while !self.is_stopping() {
            let (wanted, renewals, approved) = {
                let state = slot.lock();
                (state.wanted, state.renewals, state.approved)
            };
            let open = slot.end().filter(|end| end.is().is_same_end(wanted));
            let opened = match open {
                Some(end) => Ok(Some(end)),
                None => self.open_end(slot.share(), wanted, approved),
            };
            let end = match opened {
                Ok(Some(end)) => end,
                Ok(None) => {
                    left_alone = left_alone || self.shows_left_alone(slot.share(), wanted);
                    slot.is_turned(wanted, renewals, LOOK);
                    continue;
                }
                Err(closed) => {
                    if slot.cannot_open(&closed) {
                        self.say_of(slot.share(), Level::Error, "open", closed.text().to_owned());
                    }
                    if let Some(share) = self.config().share(slot.share()) {
                        let board = self.board.share(&shown_share(share, wanted));
                        board.state(closed.state(), Some(closed.text()));
                    }
                    let until = Instant::now() + AGAIN;
                    while Instant::now() < until
                        && !self.is_stopping()
                        && !slot.is_turned(wanted, renewals, LOOK)
                    {}
                    continue;
                }
            };
            let was_closed = slot.opened();
            if was_closed {
                self.say_of(slot.share(), Level::Info, "open", "it is there: opened".into());
            }
            if (std::mem::take(&mut left_alone) || was_closed)
                && let Some(share) = self.config().share(slot.share())
            {
                let board = self.board.share(&shown_share(share, wanted));
                board.state(facts::ShareState::Connecting, None);
            }
            slot.put(Some(end.clone()));
            self.run_end(slot, &end, renewals);
            slot.put(None);
            if let End::Sends(outgoing) = &end
                && self.is_stopping()
            {
                // Also of one that was opened while the daemon was told to stop.
                outgoing.sender.go_on_watching();
            }
            end.close(&|| {
                let text = "its former end is still in use, and waited for".to_owned();
                self.say_of(slot.share(), Level::Warn, "open", text);
            });
            slot.closed();
        }
    }

    /// Shows that a share is neither sent nor received as long as the two sites are to be reconciled; whether
    /// that is so.
    fn shows_left_alone(&self, share: &str, wanted: Want) -> bool {
        let view = self.role(share).and_then(|role| role.view());
        let Some(view) = view.filter(super::failback::is_to_be_reconciled) else { return false };
        let config = self.config();
        let Some(of) = config.share(share) else { return false };
        let text =
            format!("neither sent nor received while it is {} here", view.record.phase.name());
        let text = match view.record.phase {
            Phase::Active => "nothing is sent while the other site is stranded".to_owned(),
            _ => text,
        };
        self.board.share(&shown_share(of, wanted)).state(facts::ShareState::Stopped, Some(&text));
        true
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
            scope.spawn(move || self.probe(slot, end));
            while !self.is_stopping() && !slot.is_turned(end.is(), renewals, LOOK) {}
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

    /// Asks a share's mount how its root is, and whether its path leads there, for as long as its end runs. A
    /// mount that does not answer is shown as stalled, by whoever waits for this thread in vain; an end whose
    /// path leads elsewhere is over.
    fn probe(&self, slot: &Slot, end: &End) {
        let (share, config) = (slot.share(), self.config());
        let Some(of) = config.share(share) else { return };
        let worker = self.board.worker(Some(share), "probe");
        while !end.over().load(Relaxed) {
            let gone = {
                let _call = worker.on_mount("statx", &RelPath::root());
                root::gone(&of.path, end.storage())
            };
            if let Some(why) = gone {
                let text = format!("the share's path does not lead to its root: {why}");
                // Before its threads have ended: one may hang in the mount.
                let board = self.board.share(&shown_share(of, end.is()));
                board.state(facts::ShareState::MountGone, Some(&text));
                self.say_of(share, Level::Error, "root", text);
                slot.renew();
                return;
            }
            worker.doing("waiting");
            let until = Instant::now() + PROBE;
            while Instant::now() < until && !end.over().load(Relaxed) {
                std::thread::sleep(LOOK);
            }
        }
    }
}

/// How the other end of a share is known: its catalog while it sends, its tree while it receives.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PeerIds {
    pub(super) catalog: Option<StoreId>,
    pub(super) tree: Option<StoreId>,
}

/// Opens the end of a share; none where it has none.
#[allow(clippy::too_many_arguments)] // what a daemon is made of
pub(super) fn open_end(
    share: &Share,
    wanted: Want,
    config: &SiteConfig,
    state: &State,
    io: IoMode,
    shown: (crate::site::board::ShareBoard, &Log),
    keeper: Option<Arc<dyn Keeper>>,
    (peer, approved): (PeerIds, bool),
) -> Result<Option<End>, Closed> {
    let names = site_catalog(share, config);
    let opened =
        |role, joined_with| open_site_catalog(state, &names, &Turning { role, joined_with });
    Ok(match wanted {
        Want::Source(epoch) => {
            let opened = opened(CatalogRole::Source, peer.tree)?;
            let outgoing =
                Outgoing::open(share, opened, state, io, shown, keeper, (epoch, approved))?;
            Some(End::Sends(Arc::new(outgoing)))
        }
        Want::Target(epoch) => {
            let opened = opened(CatalogRole::Target, peer.catalog)?;
            let standby = Standby::open(share, opened, io, shown, (epoch, approved))?;
            Some(End::Receives(Arc::new(standby)))
        }
        Want::Nothing => None,
    })
}

/// Where the catalog of a share is.
pub(super) fn site_catalog<'c>(share: &'c Share, config: &'c SiteConfig) -> SiteCatalog<'c> {
    let path = path_bytes(&share.path);
    SiteCatalog {
        source: [path, b"site", config.peer.name.as_bytes(), share.name.as_bytes()],
        target: [path],
    }
}

//! The sending end of a share in the daemon: opened, its sessions, what is shown of it.
//!
//! Guarantees: a session that fails is begun again, ever more slowly, and why is said; an end that is over
//! begins none.

use super::root::{self, Closed};
use super::*;
use crate::site::sender::Classes;
use farshore_engine::capture::Keeper;

/// How often an end that may not send looks whether it may.
const WAIT_FOR_ROLE: Duration = Duration::from_millis(20);

/// A session that is there, or is being opened; over on drop.
struct InSession<'a>(&'a AtomicBool);

impl Drop for InSession<'_> {
    fn drop(&mut self) {
        self.0.store(false, Relaxed);
    }
}

/// A share that is sent from here.
pub(super) struct Outgoing {
    pub(super) sender: Sender,
    pub(super) storage: Arc<farshore_engine::io::uring::UringStorage>,
    pub(super) catalog: Arc<farshore_engine::catalog::Catalog>,
    folder: PathBuf,
    /// It is to end.
    pub(super) over: AtomicBool,
    /// It sends under this, or not at all.
    under: Mutex<Option<Epoch>>,
    /// A session is there, or is being opened.
    in_session: AtomicBool,
    /// Other hosts that report what they see change.
    pub(super) nodes: Arc<Nodes>,
    /// Of the session there is, and the bytes a second it may use.
    pub(super) line: Mutex<Option<(QuicLink, Option<u64>)>>,
    /// Links of peers that offered to take it.
    offers: Queue<QuicLink>,
    pub(super) offer: Told<QuicLink>,
}

impl Daemon {
    /// Sends a share for as long as the daemon runs.
    pub(super) fn send(&self, outgoing: &Outgoing) {
        let share = outgoing.sender.share();
        let mut redial = self.redial(share);
        while !outgoing.is_over() {
            let Some(epoch) = outgoing.enter_session() else {
                std::thread::sleep(WAIT_FOR_ROLE);
                continue;
            };
            let in_session = InSession(&outgoing.in_session);
            let dials = self.config().peer.dial.is_some();
            let linked = match dials {
                true => self.dial(),
                false => match outgoing.offers.recv_timeout(Duration::from_millis(200)) {
                    Ok(link) => Ok((link, TransportConfig::loopback())),
                    Err(_) => continue,
                },
            };
            let (link, transport) = match linked {
                Ok(linked) => linked,
                Err(failure) => {
                    drop(in_session);
                    outgoing.sender.waits_for_peer(&failure.message);
                    self.say_of(share, Level::Warn, "peer", failure.message.clone());
                    if self.wait_out(share, &mut redial, &failure.message, &outgoing.over) {
                        continue;
                    }
                    break;
                }
            };
            if !dials {
                // It was offered while the session before was being ended, which was said since.
                self.board.connected(&link.remote_address().to_string());
            }
            self.say_of(share, Level::Info, "session", "begins".into());
            let began = std::time::Instant::now();
            let Some(_present) = self.sessions.enter(Arc::new(link.clone())) else { break };
            let limit = self.config().bandwidth.limit_at(now_ms());
            link.set_bandwidth_limit(limit);
            outgoing.sender.limited_to(limit);
            outgoing.set_line(Some((link.clone(), limit)));
            if outgoing.epoch() != Some(epoch) {
                // It turned while the link was opened.
                outgoing.close_line();
            }
            let stood = self.stand(outgoing, epoch, &link, &transport);
            outgoing.set_line(None);
            drop(in_session);
            match stood {
                Ok(()) => redial.reset(),
                Err(e) => {
                    let text = farshore_engine::ingest::describe(&e);
                    outgoing.sender.broke(&e);
                    self.say_of(share, self.level_of_end(is_stopped(&e)), "session", text.clone());
                    if let (SourceError::Catalog(_), Some(slot)) = (&e, self.slot(share)) {
                        // Its disk failed: it is opened anew.
                        slot.renew();
                    }
                    if began.elapsed() > redial.last {
                        redial.reset();
                    }
                    if !self.wait_out(share, &mut redial, &text, &outgoing.over) {
                        break;
                    }
                }
            }
        }
    }

    fn stand(
        &self,
        outgoing: &Outgoing,
        epoch: Epoch,
        link: &QuicLink,
        transport: &TransportConfig,
    ) -> Result<(), SourceError> {
        let striping = match is_distant(link.stats().rtt) {
            true => Striping::up_to(transport.bulk_stripes),
            false => Striping::ONE,
        };
        let policy = outgoing.sender.policy();
        outgoing.sender.talks(self.talk(&self.config().peer.name, link));
        let config = SourceConfig {
            share: outgoing.sender.share().to_owned(),
            epoch,
            policy: &*policy,
            // The brake judges the mass of a change, over many cuts.
            threshold: Threshold { entries: u64::MAX, percent: 100 },
            approved: false,
            // What others change at the standby is found by its scrub.
            trust_target: outgoing.sender.trusts_standby(),
            dry_run: false,
            workers: remote_threads(),
            compression: Compression::Auto,
            striping,
            spool_folder: outgoing.folder.clone(),
            now: &system_wall_clock,
            racy_ns: RACY_NS,
            profile: &Profile::default(),
        };
        let (storage, catalog) = (&*outgoing.storage, &*outgoing.catalog);
        stand(storage, catalog, link, &config, outgoing.sender.progress(), &outgoing.sender)
    }

    /// Shows what is known of a share that is sent, for as long as the daemon runs.
    pub(super) fn keep(&self, outgoing: &Outgoing) {
        while !outgoing.is_over() {
            outgoing.sender.show();
            outgoing.show_line(&self.board);
            let limit = self.config().bandwidth.limit_at(now_ms());
            if outgoing.follow_timetable(limit) {
                let limit = limit.map_or("none".to_owned(), |limit| format!("{limit} bytes/s"));
                self.say_of(
                    outgoing.sender.share(),
                    Level::Info,
                    "bandwidth",
                    format!("limit {limit}"),
                );
            }
            std::thread::sleep(SHOW);
        }
    }
}

/// Whether the other end left in order.
fn is_stopped(e: &SourceError) -> bool {
    matches!(e,
        SourceError::Link(LinkError::ClosedByPeer { code, .. })
        | SourceError::Session(SessionError::Refused { code, .. })
            if *code == CloseCode::Stopped as u32)
}

/// Of a shape that is not looked for the config says 0.
fn shapes(brake: &crate::site::config::Brake) -> Shapes {
    let default = Shapes::default();
    let with = |entries: u64, former: Option<Threshold>| {
        former.filter(|_| entries > 0).map(|former| Threshold { entries, ..former })
    };
    Shapes {
        encrypted: with(brake.encrypted, default.encrypted),
        appended: with(brake.appended, default.appended),
        renamed: with(brake.renamed, default.renamed),
        note_directories: Some(brake.note_directories).filter(|n| *n > 0),
    }
}

/// Which accounts of a share are important; its patterns were looked at with its config.
pub(super) fn classes(share: &Share) -> Result<Classes, Failure> {
    let priority = &share.priority;
    Classes::new(&priority.high, &priority.low).map_err(|e| Failure::new(Exit::Refused, &e))
}

pub(super) fn brake_config(share: &Share) -> BrakeConfig {
    let brake = &share.brake;
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    BrakeConfig {
        account_depth: share.account_depth,
        threshold: Threshold { entries: brake.entries, percent: brake.percent },
        rewrite_percent: brake.rewrite_percent,
        account: Threshold { entries: brake.account_entries, percent: brake.account_percent },
        shapes: shapes(brake),
        spread: brake.spread,
        window_ms: millis(brake.window),
        canaries: brake.canaries.iter().cloned().collect(),
        purges: brake
            .purges
            .iter()
            .map(|purge| PurgeWindow {
                at_s: u32::from(purge.at.minutes()) * 60,
                for_s: u32::try_from(purge.length.as_secs()).unwrap_or(u32::MAX),
            })
            .collect(),
        ..BrakeConfig::default()
    }
}

impl Outgoing {
    fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }

    /// The epoch it sends under, if it sends.
    pub(super) fn epoch(&self) -> Option<Epoch> {
        *self.under.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends under `epoch`, before any session began.
    pub(super) fn begin_under(&self, epoch: Option<Epoch>) {
        *self.under.lock().unwrap_or_else(PoisonError::into_inner) = epoch;
    }

    /// Begins a session, if it may send; under which epoch.
    fn enter_session(&self) -> Option<Epoch> {
        let under = self.under.lock().unwrap_or_else(PoisonError::into_inner);
        // Within the lock: who takes the epoch away sees that there is a session.
        self.in_session.store(under.is_some(), Relaxed);
        *under
    }

    /// Sends under `epoch` from now on, or not at all; when it returns no session of another one is there.
    pub(super) fn send_under(&self, epoch: Option<Epoch>, is_over: &dyn Fn() -> bool) {
        {
            let mut under = self.under.lock().unwrap_or_else(PoisonError::into_inner);
            if *under == epoch {
                return;
            }
            *under = epoch;
        }
        while self.in_session.load(Relaxed) && !is_over() {
            self.close_line();
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Closes the link of the session there is.
    pub(super) fn close_line(&self) {
        if let Some((link, _)) = &*self.line() {
            link.close(CloseCode::Stopped as u32, "the share's role changed");
        }
    }

    #[allow(clippy::too_many_arguments)] // what an end is made of
    pub(super) fn open(
        share: &Share,
        (catalog, folder): (farshore_engine::catalog::Catalog, PathBuf),
        state: &State,
        io: IoMode,
        (board, log): (crate::site::board::ShareBoard, &Log),
        keeper: Option<Arc<dyn Keeper>>,
        (epoch, approved): (Option<Epoch>, bool),
    ) -> Result<Self, Closed> {
        let storage = root::open("source", share, io)?;
        let catalog = Arc::new(catalog);
        if !approved {
            root::is_former_source(&share.name, &storage, &catalog)?;
        }
        if let Err(e) = farshore_engine::ahead::discard(&*storage) {
            let text = format!("removing what was carried here when it was a standby: {e}");
            log.say(&Record::new(Level::Warn, "ahead", text).share(&share.name));
        }
        let (dirty, watcher, resumed) = watched(share, &folder, keeper)?;
        let nodes = Arc::new(Nodes::new(&share.nodes, dirty.clone()));
        let (own, at) = (share.clone(), state.clone());
        let policies = move || policies::in_force(&own, &at, system_wall_clock());
        let sender = Sender::new(
            SenderConfig {
                share: share.name.clone(),
                root: share.path.clone(),
                account_depth: share.account_depth,
                settle: share.settle,
                scan: share.scan,
                brake: brake_config(share),
                classes: classes(share)?,
                folder: folder.clone(),
                nodes: Arc::clone(&nodes),
            },
            Arc::clone(&storage),
            Arc::clone(&catalog),
            (dirty, watcher, resumed),
            Box::new(policies),
            board,
            log.clone(),
        )?;
        if approved {
            sender.approve_root();
        }
        let (offer, offers) = bounded(0);
        let over = AtomicBool::new(false);
        let line = Mutex::default();
        let (under, in_session) = (Mutex::new(epoch), AtomicBool::new(false));
        Ok(Self {
            sender,
            storage,
            catalog,
            folder,
            over,
            under,
            in_session,
            nodes,
            line,
            offers,
            offer,
        })
    }
}

impl Outgoing {
    fn line(&self) -> std::sync::MutexGuard<'_, Option<(QuicLink, Option<u64>)>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has_line(&self) -> bool {
        self.line().is_some()
    }

    fn set_line(&self, line: Option<(QuicLink, Option<u64>)>) {
        *self.line() = line;
    }

    /// Shows what the line there is has carried.
    fn show_line(&self, board: &Board) {
        let stats = self.line().as_ref().map(|(link, _)| link.stats());
        if let Some(stats) = stats {
            board.link(stats.rtt, stats.sent_bytes, stats.received_bytes);
        }
    }

    /// Uses the line at `limit` from now on; whether that is another one than before.
    fn follow_timetable(&self, limit: Option<u64>) -> bool {
        match &mut *self.line() {
            Some((link, former)) if *former != limit => {
                link.set_bandwidth_limit(limit);
                self.sender.limited_to(limit);
                *former = limit;
                true
            }
            _ => false,
        }
    }
}

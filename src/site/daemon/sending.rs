//! The sending end of a share in the daemon: opened, its sessions, what is shown of it.
//!
//! Guarantees: a session that fails is begun again, ever more slowly, and why is said; an end that is over
//! begins none.

use super::*;

/// A share that is sent from here.
pub(super) struct Outgoing {
    pub(super) sender: Sender,
    pub(super) storage: Arc<farshore_engine::io::uring::UringStorage>,
    catalog: Arc<farshore_engine::catalog::Catalog>,
    folder: PathBuf,
    /// It is to end.
    pub(super) over: AtomicBool,
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
        let mut wait = RETRY_FIRST;
        while !outgoing.is_over() {
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
                    outgoing.sender.waits_for_peer(&failure.message);
                    self.say_of(share, Level::Warn, "peer", failure.message.clone());
                    if self.wait_out(&mut wait, &failure.message, &outgoing.over) {
                        continue;
                    }
                    break;
                }
            };
            self.say_of(share, Level::Info, "session", "begins".into());
            let began = std::time::Instant::now();
            let Some(_present) = self.sessions.enter(Arc::new(link.clone())) else { break };
            let limit = self.config().bandwidth.limit_at(now_ms());
            link.set_bandwidth_limit(limit);
            outgoing.sender.limited_to(limit);
            outgoing.set_line(Some((link.clone(), limit)));
            let stood = self.stand(outgoing, &link, &transport);
            outgoing.set_line(None);
            match stood {
                Ok(()) => wait = RETRY_FIRST,
                Err(e) => {
                    let text = farshore_engine::ingest::describe(&e);
                    outgoing.sender.waits_for_peer(&text);
                    self.say_of(share, Level::Warn, "session", text.clone());
                    if began.elapsed() > RETRY_LAST {
                        wait = RETRY_FIRST;
                    }
                    if !self.wait_out(&mut wait, &text, &outgoing.over) {
                        break;
                    }
                }
            }
        }
    }

    fn stand(
        &self,
        outgoing: &Outgoing,
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
            epoch: outgoing.catalog.reader()?.epoch().unwrap_or(Epoch(0)),
            policy: &*policy,
            // The brake judges the mass of a change, over many cuts.
            threshold: Threshold { entries: u64::MAX, percent: 100 },
            approved: false,
            // What others change at the standby is found by its scrub.
            trust_target: true,
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

pub(super) fn brake_config(share: &Share) -> BrakeConfig {
    let brake = &share.brake;
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    BrakeConfig {
        account_depth: share.account_depth,
        threshold: Threshold { entries: brake.entries, percent: brake.percent },
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

    /// Closes the link of the session there is.
    pub(super) fn close_line(&self) {
        if let Some((link, _)) = &*self.line() {
            link.close(CloseCode::Stopped as u32, "the share's role changed");
        }
    }

    pub(super) fn open(
        share: &Share,
        config: &SiteConfig,
        state: &State,
        io: IoMode,
        board: crate::site::board::ShareBoard,
        log: &Log,
    ) -> Result<Self, Failure> {
        let storage = Arc::new(open_root("source", &share.path, io, share.io_limit)?);
        let parts: [&[u8]; 4] =
            [path_bytes(&share.path), b"site", config.peer.name.as_bytes(), share.name.as_bytes()];
        let (catalog, folder) = open_catalog(state, CatalogRole::Source, &parts)?;
        let catalog = Arc::new(catalog);
        let (dirty, watcher) = watched(share, &folder)?;
        let nodes = Arc::new(Nodes::new(&share.nodes, dirty.clone()));
        let (own, at) = (share.clone(), state.clone());
        let policies = move || policies::in_force(&own, &at, system_wall_clock());
        let sender = Sender::new(
            SenderConfig {
                share: share.name.clone(),
                account_depth: share.account_depth,
                settle: share.settle,
                scan: share.scan,
                brake: brake_config(share),
                folder: folder.clone(),
                nodes: Arc::clone(&nodes),
            },
            Arc::clone(&storage),
            Arc::clone(&catalog),
            (dirty, watcher),
            Box::new(policies),
            board,
            log.clone(),
        )?;
        let (offer, offers) = bounded(0);
        let over = AtomicBool::new(false);
        let line = Mutex::default();
        Ok(Self { sender, storage, catalog, folder, over, nodes, line, offers, offer })
    }
}

impl Outgoing {
    fn line(&self) -> std::sync::MutexGuard<'_, Option<(QuicLink, Option<u64>)>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
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

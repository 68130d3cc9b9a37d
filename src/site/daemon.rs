//! The daemon of a site: its shares, its peer, and who may ask it things.
//!
//! ```text
//! main ── signals, reload, stop
//!  ├── control socket, metrics          (answered from the board; touch no mount)
//!  ├── listener ─► one thread a link ─► hello: receiver · offer: sender · report: events of a node
//!  ├── per active share:  sender thread (dials, or waits for an offer), keeper thread (shows, notices)
//!  └── per standby share: receiver thread where this site dials
//! ```
//! Guarantees: one daemon a state folder; a share whose session fails is tried again, ever more slowly, and
//! says why meanwhile; a stop ends sessions behind the cut at hand, and a killed daemon is made good by
//! the next start. Refuses to start with a config that has faults. Threads that work on a mount may hang
//! with it: nothing that answers an operator waits for them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{
    Receiver as Queue, RecvTimeoutError, SendTimeoutError, Sender as Told, bounded,
};
use farshore_core::brake::{BrakeConfig, PurgeWindow};
use farshore_core::guard::Threshold;
use farshore_core::path::RelPath;
use farshore_core::recovery_point::Epoch;
use farshore_engine::catalog::CatalogRole;
use farshore_engine::deadline::within;
use farshore_engine::frames::{Compression, Striping, is_distant};
use farshore_engine::io::uring::IoMode;
use farshore_engine::io::{Object, Storage};
use farshore_engine::profile::Profile;
use farshore_engine::source::standing::stand;
use farshore_engine::source::{SourceConfig, SourceError, system_wall_clock};
use farshore_engine::target::{self, TargetError};
use farshore_proto::close::CloseCode;
use farshore_proto::link::{Link, LinkError};
use farshore_proto::message::{Message, PROTOCOL_VERSION, STANDING_VERSION};
use farshore_proto::session::SessionError;
use farshore_transport::{
    Incoming, KeyId, KeySet, Listener, QuicLink, Refusal, SiteKey, TransportConfig, TrustedKeys,
    dial_trusting,
};
use serde_json::{Value, json};

use crate::exit::{Exit, Failure};
use crate::replicate::{
    TargetOptions, catalog_failure, open_catalog, open_root, remote_threads, resolve,
};
use crate::serve::refusals::RefusalLog;
use crate::serve::sessions::{ClaimError, Claimant, Sessions, TAKE_OVER};
use crate::site::announce::KeyTalk;
use crate::site::board::{Board, BoardConfig, ShareConfig, clock::SystemClock, facts};
use crate::site::config::{Role, Share, SiteConfig};
use crate::site::confine::{Confinement, confine};
use crate::site::control::{self, Commands, Control, DaemonLock, Request};
use crate::site::keys::SiteKeys;
use crate::site::log::{Level, Log, Record};
use crate::site::metrics::Metrics;
use crate::site::nodes::Nodes;
use crate::site::notify::Notifier;
use crate::site::policies;
use crate::site::receiver::Receiver;
use crate::site::redial::Redial;
use crate::site::scrubber::Scrubber;
use crate::site::sender::{Sender, SenderConfig};
use crate::site::trust::{TrustFile, TrustStore, TrustWatch};
use crate::site::watch::watched;
use crate::state::{State, now_ms, path_bytes, random_id};

mod commands;
mod links;
mod shares;

use links::let_in;
use shares::{Closed, Opened, Place, is_former};

/// Time a peer has for its first message.
const HELLO: Duration = Duration::from_secs(10);
/// A connection may be away this long before the site is not ready.
const GRACE: Duration = Duration::from_secs(30);
/// How often a share's mount is asked whether it answers.
const PROBE: Duration = Duration::from_secs(3);
/// How often what is known without a cut is shown.
const SHOW: Duration = Duration::from_millis(500);
/// A file changed less than this long ago is looked at again, in nanoseconds.
const RACY_NS: i64 = 20_000_000;
/// How long sessions have to leave by themselves when the daemon stops.
const LEAVING: Duration = Duration::from_secs(2);
/// How long a request to read a standby waits for all of it.
const SCRUB_PATIENCE: Duration = Duration::from_secs(24 * 3_600);
/// How long a request for a point waits for it.
const POINT_PATIENCE: Duration = Duration::from_secs(60);

/// A daemon that is about to run.
#[derive(Debug)]
pub struct DaemonOptions {
    /// The site's config.
    pub config: SiteConfig,
    /// Where it was read from.
    pub config_file: PathBuf,
    /// Where it says what happens.
    pub log: Log,
    /// How small files are read and created.
    pub io: IoMode,
}

/// What a signal or a request asks of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// To end, and what asked for it.
    Stop(&'static str),
    /// To read its config and its trust store again.
    Reload,
}

struct Daemon {
    config: Mutex<SiteConfig>,
    config_file: PathBuf,
    log: Log,
    state: State,
    /// The peer's keys.
    trusted: TrustedKeys,
    /// Those, and the keys of nodes: who may dial in.
    let_in: TrustedKeys,
    trust: TrustFile,
    board: Arc<Board>,
    places: BTreeMap<String, Place>,
    io: IoMode,
    sessions: Sessions,
    stopping: AtomicBool,
    words: Told<Word>,
    notifier: Notifier,
}

/// A share that is sent from here.
struct Outgoing {
    sender: Sender,
    storage: Arc<farshore_engine::io::uring::UringStorage>,
    catalog: Arc<farshore_engine::catalog::Catalog>,
    folder: PathBuf,
    /// Other hosts that report what they see change.
    nodes: Arc<Nodes>,
    /// Of the session there is, and the bytes a second it may use.
    line: Mutex<Option<(QuicLink, Option<u64>)>>,
    /// Links of peers that offered to take it.
    offers: Queue<QuicLink>,
    offer: Told<QuicLink>,
}

/// Runs the daemon until a word says stop; `ready` is called with the address peers can dial.
///
/// # Errors
/// [`Failure`] when it cannot begin.
pub fn run(
    options: DaemonOptions,
    words: (Told<Word>, Queue<Word>),
    ready: &dyn Fn(Option<SocketAddr>),
) -> Result<Exit, Failure> {
    let state = State::open(Some(&options.config.site.state))
        .map_err(|e| Failure::new(Exit::Refused, &e))?;
    let lock = DaemonLock::take(state.folder())?;
    let (tell, told) = words;
    let notifier = Notifier::from_env();
    // Before the threads that work are there: they inherit it.
    let kept = Confinement::of(&options.config, &options.config_file);
    let confined = confine(&kept).map_err(|e| Failure::new(Exit::Refused, &e))?;
    options.log.say(&Record::new(Level::Info, "confined", confined.to_string()));
    let daemon = Daemon::open(options, state, tell, notifier)?;
    let daemon = Arc::new(daemon);
    let commands: Arc<dyn Commands> = Arc::clone(&daemon) as _;
    let control = Control::open(daemon.state.folder(), &lock, commands)?;
    let metrics = daemon.config().site.metrics;
    let metrics =
        metrics.map(|address| Metrics::open(address, Arc::clone(&daemon.board))).transpose()?;
    std::thread::scope(|scope| {
        let listener = daemon.listen(scope)?;
        for place in daemon.places.values() {
            let daemon = &*daemon;
            scope.spawn(move || daemon.look_after(place));
        }
        daemon.notifier.ready();
        ready(listener.as_ref().map(|listener| listener.local_addr()));
        daemon.until_stopped(&told, listener.as_deref());
        if let Some(listener) = &listener {
            listener.close();
        }
        daemon.leave_in_order();
        let open = daemon.sessions.stop();
        daemon.say(Level::Info, "stopping", format!("{open} sessions end"));
        Ok::<_, Failure>(())
    })?;
    drop((control, metrics));
    daemon.say(Level::Info, "stopped", "in order".into());
    Ok(Exit::Done)
}

impl Daemon {
    fn open(
        options: DaemonOptions,
        state: State,
        words: Told<Word>,
        notifier: Notifier,
    ) -> Result<Self, Failure> {
        let DaemonOptions { config, config_file, log, io } = options;
        let refused = |e: &dyn std::error::Error| Failure::new(Exit::Refused, e);
        SiteKeys::load(state.folder()).map_err(|e| refused(&e))?;
        let trust = TrustFile::of(state.folder());
        let store = trust.load().map_err(|e| e.failure())?;
        let trusted = TrustedKeys::new(store.keys_of(&config.peer.name));
        let let_in = TrustedKeys::new(let_in(&store, &config));
        let board = Board::new(
            BoardConfig {
                site: config.site.name.clone(),
                peer: config.peer.name.clone(),
                peer_address: config.peer.dial.as_ref().map(ToString::to_string),
                grace: GRACE,
            },
            Arc::new(SystemClock),
        );
        let shares = config.shares.iter();
        let place = |share: &Share| {
            (share.name.clone(), Place::new(share, board.share(&shown_share(share))))
        };
        let daemon = Self {
            places: shares.map(place).collect(),
            config: Mutex::new(config),
            config_file,
            log,
            state,
            trusted,
            let_in,
            trust,
            board,
            io,
            sessions: Sessions::default(),
            stopping: AtomicBool::new(false),
            words,
            notifier,
        };
        daemon.places.values().try_for_each(|place| daemon.open_first(place))?;
        Ok(daemon)
    }

    fn config(&self) -> SiteConfig {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn say(&self, level: Level, event: &'static str, text: String) {
        self.log.say(&Record::new(level, event, text));
    }

    fn say_of(&self, share: &str, level: Level, event: &'static str, text: String) {
        self.log.say(&Record::new(level, event, text).share(share));
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    /// Acts on words until one says stop.
    fn until_stopped(&self, words: &Queue<Word>, listener: Option<&Listener>) {
        let mut watch = TrustWatch::new(TrustFile::of(self.state.folder()));
        let mut shown = listener.and_then(|_| self.listening_key().ok()).map(|key| key.key_id());
        loop {
            match words.recv_timeout(Duration::from_secs(1)) {
                Ok(Word::Stop(why)) => {
                    self.say(Level::Info, "stopping", format!("on {why}"));
                    break;
                }
                Ok(Word::Reload) => {
                    self.notifier.reloading();
                    if let Err(failure) = self.reload() {
                        self.say(Level::Error, "reload", failure.message);
                    }
                    self.notifier.ready();
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.notifier.alive();
            self.show_key(listener, &mut shown);
            match watch.poll() {
                Some(Ok(store)) => {
                    let config = self.config();
                    let mut gone = self.let_in.set(let_in(&store, &config));
                    gone.extend(self.trusted.set(store.keys_of(&config.peer.name)));
                    for gone in gone {
                        self.say(Level::Warn, "trust", format!("{gone} is not trusted any more"));
                    }
                }
                Some(Err(e)) => self.say(Level::Error, "trust", e.failure().message),
                None => {}
            }
        }
        self.notifier.stopping();
        self.stopping.store(true, Relaxed);
        for opened in self.places.values().filter_map(Place::opened) {
            opened.stop();
        }
    }

    /// Takes over what of the config may change while the daemon runs.
    fn reload(&self) -> Result<Vec<String>, Failure> {
        let new = SiteConfig::load(&self.config_file).map_err(|e| e.failure())?;
        let old = self.config();
        let mut said = Vec::new();
        for change in SiteConfig::changes(&old, &new) {
            said.push(change.to_string());
            self.say(Level::Info, "reload", change.to_string());
        }
        // What needs a restart stays as it is, all of it, and is said again.
        let config = old.with_live_of(&new);
        for share in &config.shares {
            self.show_share(share);
            if let Some(outgoing) = self.opened(&share.name).as_deref().and_then(Opened::sent) {
                outgoing.sender.reload(share.settle, share.scan, brake_config(share))?;
            }
        }
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(said)
    }

    fn show_share(&self, share: &Share) {
        drop(self.board.share(&shown_share(share)));
    }

    /// Lets peers dial in, where the config says so.
    fn listen<'scope>(
        self: &'scope Arc<Self>,
        scope: &'scope std::thread::Scope<'scope, '_>,
    ) -> Result<Option<Arc<Listener>>, Failure> {
        let config = self.config();
        let Some(address) = config.site.listen else { return Ok(None) };
        let key = self.listening_key()?;
        let transport = TransportConfig {
            bandwidth_limit_bytes_per_s: config.bandwidth.limit_at(now_ms()),
            ..TransportConfig::for_addr(address)
        };
        let (refused, refusals) = bounded::<Refusal>(1);
        let audit = move |refusal| drop(refused.send(refusal));
        let listener =
            Listener::bind_trusting(address, &key, self.let_in.clone(), transport, audit)
                .map_err(|e| Failure::new(Exit::Connection, &e))?;
        let listener = Arc::new(listener);
        self.say(Level::Info, "listening", format!("on {}", listener.local_addr()));
        let daemon = Arc::clone(self);
        let id = key.key_id();
        // Ends with the listener, whose audit it hears.
        std::thread::spawn(move || {
            let mut lines = RefusalLog::at_site(id, std::time::Instant::now());
            while let Ok(refusal) = refusals.recv() {
                if let Some(line) = lines.line(&refusal, std::time::Instant::now()) {
                    daemon.say(Level::Warn, "refused", line);
                }
            }
        });
        let accepting = Arc::clone(&listener);
        scope.spawn(move || {
            while let Ok(incoming) = accepting.accept() {
                scope.spawn(move || self.dispatch(incoming));
            }
        });
        Ok(Some(listener))
    }

    /// Finds out what a peer that dialed in wants.
    fn dispatch(&self, incoming: Incoming) {
        let Incoming { link, peer, remote } = incoming;
        let Some(_present) = self.sessions.enter(Arc::new(link.clone())) else { return };
        let late = "no first message came in time";
        let heard =
            within(&link, HELLO, CloseCode::ProtocolViolation, late, || link.recv_control());
        let message = match heard {
            Ok(Some(bytes)) => Message::from_bytes(&bytes),
            Ok(None) => return,
            Err(e) => return self.say(Level::Warn, "link", format!("{remote}: {e}")),
        };
        // The share, if it has this role here and is open.
        let opened = |share: &str, role: Role| {
            let Some(place) = self.places.get(share).filter(|place| place.role() == role) else {
                let text = format!("no share '{share}' is served here");
                target::refuse(&link, CloseCode::UnknownShare, &text);
                return None;
            };
            let opened = place.opened();
            if opened.is_none() {
                target::refuse(&link, CloseCode::Internal, &place.why());
            }
            opened
        };
        if matches!(message, Ok(Message::Hello { .. } | Message::Offer { .. }))
            && !self.trusted.current().contains(&peer)
        {
            let text = "this key is not that of the other site";
            self.say(Level::Warn, "refused", format!("{remote}: {peer}: {text}"));
            return target::refuse(&link, CloseCode::ProtocolViolation, text);
        }
        match message {
            Ok(hello @ Message::Hello { .. }) => {
                let Message::Hello { share, source, .. } = &hello else { return };
                let Some(opened) = opened(share, Role::Standby) else { return };
                let Some((receiver, _)) = opened.received() else { return };
                let link = Arc::new(link.clone());
                let Some(_present) = opened.sessions.enter(Arc::clone(&link) as _) else { return };
                // The other site is one source, whichever of its keys it shows while it changes them.
                let peer = KeyId::from_bytes([0; 32]);
                let claimant =
                    Claimant { peer, source: *source, link: Arc::clone(&link) as Arc<dyn Link> };
                let in_use = match self.sessions.claim(share, claimant, TAKE_OVER) {
                    Ok(in_use) => in_use,
                    Err(e) => {
                        let code = match e {
                            ClaimError::Stopped => CloseCode::Stopped,
                            ClaimError::InUse | ClaimError::Superseded => CloseCode::Busy,
                        };
                        return target::refuse(&*link, code, &format!("share '{share}' {e}"));
                    }
                };
                self.receive(&opened, receiver, &link, &hello, &remote.to_string());
                drop(in_use);
            }
            Ok(Message::Offer { share, versions: (lowest, highest) }) => {
                let Some(opened) = opened(&share, Role::Active) else { return };
                let Some(outgoing) = opened.sent() else { return };
                if !(lowest..=highest).contains(&PROTOCOL_VERSION) {
                    let text = format!("this site speaks version {PROTOCOL_VERSION} to offers");
                    return target::refuse(&link, CloseCode::VersionMismatch, &text);
                }
                self.board.connected(&remote.to_string());
                // The sender's thread takes it when its session before is over.
                let mut link = link;
                while !opened.is_over() {
                    match outgoing.offer.send_timeout(link, Duration::from_millis(200)) {
                        Err(SendTimeoutError::Timeout(back)) => link = back,
                        _ => return,
                    }
                }
            }
            Ok(Message::Report { versions, share, node }) => {
                let Some(opened) = opened(&share, Role::Active) else { return };
                let Some(outgoing) = opened.sent() else { return };
                let own = Arc::new(link.clone());
                let Some(_present) = opened.sessions.enter(own) else { return };
                self.attend(outgoing, link, &remote.to_string(), versions, &node);
            }
            Ok(other) => {
                let text = format!("'{}' opens no session", other.name());
                target::refuse(&link, CloseCode::ProtocolViolation, &text);
            }
            Err(e) => target::refuse(&link, CloseCode::ProtocolViolation, &e.to_string()),
        }
    }

    fn receive(
        &self,
        opened: &Opened,
        receiver: &Receiver,
        link: &QuicLink,
        hello: &Message,
        remote: &str,
    ) {
        self.board.connected(remote);
        self.say_of(receiver.share(), Level::Info, "session", format!("begins with {remote}"));
        let ended = receiver.serve(link, hello, self.talk(&self.config().peer.name, link));
        let text = match &ended {
            Ok(_) => "ended by the source".to_owned(),
            Err(e) => farshore_engine::ingest::describe(e),
        };
        if ended.as_ref().is_err_and(|e| e.catalog().is_some()) {
            opened.breaks();
        }
        self.board.disconnected(&text, None);
        // It may leave while it is being answered.
        let in_order = [CloseCode::Stopped as u32, CloseCode::Done as u32];
        let is_stopped = matches!(&ended,
            Err(TargetError::Link(LinkError::ClosedByPeer { code, .. })) if in_order.contains(code));
        let level = self.level_of_end(ended.is_ok() || is_stopped);
        self.say_of(receiver.share(), level, "session", text);
    }

    /// Dials the peer.
    fn dial(&self) -> Result<(QuicLink, TransportConfig), Failure> {
        let config = self.config();
        let Some(address) = &config.peer.dial else {
            return Err(Failure {
                exit: Exit::Connection,
                message: "peer: it has no address to dial".into(),
                hint: None,
            });
        };
        let address = address.to_string();
        let resolved = resolve("peer", &address)?;
        let transport = TransportConfig {
            bandwidth_limit_bytes_per_s: config.bandwidth.limit_at(now_ms()),
            ..TransportConfig::for_addr(resolved)
        };
        let link = dial_trusting(resolved, &self.key()?, &self.trusted, &transport)
            .map_err(|e| Failure::new(Exit::Connection, &e))?;
        self.board.connected(&address);
        Ok((link, transport))
    }

    /// Waits until sessions that are sent have left, behind the cut at hand; not for one that takes long.
    fn leave_in_order(&self) {
        let until = std::time::Instant::now() + LEAVING;
        let sent = |place: &Place| {
            place.opened().is_some_and(|o| o.sent().is_some_and(Outgoing::has_line))
        };
        while std::time::Instant::now() < until && self.places.values().any(sent) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// How a session's end is logged: what was asked to stop is no reason to look.
    fn level_of_end(&self, in_order: bool) -> Level {
        if in_order || self.is_stopping() { Level::Info } else { Level::Warn }
    }

    /// Waits out a failure; whether the share goes on.
    fn wait_out(&self, opened: &Opened, redial: &mut Redial, text: &str) -> bool {
        let wait = redial.next(chance());
        self.board.disconnected(text, Some(wait));
        let until = std::time::Instant::now() + wait;
        while std::time::Instant::now() < until && !opened.is_over() {
            std::thread::sleep(Duration::from_millis(50));
        }
        !opened.is_over()
    }

    fn redial(&self, share: &str) -> Redial {
        let config = self.config();
        let share = config.shares.iter().find(|of| of.name == share);
        Redial::within(share.map(|share| share.objective))
    }

    /// Sends a share for as long as it is open.
    fn send(&self, opened: &Opened, outgoing: &Outgoing) {
        let share = outgoing.sender.share();
        let mut redial = self.redial(share);
        while !opened.is_over() {
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
                    if self.wait_out(opened, &mut redial, &failure.message) {
                        continue;
                    }
                    break;
                }
            };
            self.say_of(share, Level::Info, "session", "begins".into());
            let began = std::time::Instant::now();
            let own = Arc::new(link.clone());
            let Some(_present) = self.sessions.enter(Arc::clone(&own) as _) else { break };
            let Some(_its_present) = opened.sessions.enter(own) else { break };
            let limit = self.config().bandwidth.limit_at(now_ms());
            link.set_bandwidth_limit(limit);
            outgoing.set_line(Some((link.clone(), limit)));
            let stood = self.stand(outgoing, &link, &transport);
            outgoing.set_line(None);
            match stood {
                Ok(()) => redial.reset(),
                Err(e) => {
                    let text = farshore_engine::ingest::describe(&e);
                    outgoing.sender.broke(&e);
                    let stopped = CloseCode::Stopped as u32;
                    let is_stopped = matches!(&e,
                        SourceError::Link(LinkError::ClosedByPeer { code, .. })
                        | SourceError::Session(SessionError::Refused { code, .. }) if *code == stopped);
                    let level = self.level_of_end(is_stopped);
                    self.say_of(share, level, "session", text.clone());
                    if matches!(e, SourceError::Catalog(_)) {
                        opened.breaks();
                    }
                    if began.elapsed() > redial.last {
                        redial.reset();
                    }
                    if !self.wait_out(opened, &mut redial, &text) {
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

    /// Shows what is known of a share that is sent, for as long as it is open.
    fn keep(&self, opened: &Opened, outgoing: &Outgoing) {
        while !opened.is_over() {
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

    /// Offers a share to the site that sends it, for as long as the daemon runs.
    fn offer(&self, opened: &Opened, receiver: &Receiver) {
        let mut redial = self.redial(receiver.share());
        while !opened.is_over() {
            let text = match self.offer_once(opened, receiver) {
                Ok(()) => {
                    redial.reset();
                    continue;
                }
                Err(text) => text,
            };
            self.say_of(receiver.share(), Level::Warn, "peer", text.clone());
            if !self.wait_out(opened, &mut redial, &text) {
                break;
            }
        }
    }

    fn offer_once(&self, opened: &Opened, receiver: &Receiver) -> Result<(), String> {
        let (link, _) = self.dial().map_err(|failure| failure.message)?;
        let own = Arc::new(link.clone());
        let Some(_present) = self.sessions.enter(Arc::clone(&own) as _) else { return Ok(()) };
        let Some(_its_present) = opened.sessions.enter(own) else { return Ok(()) };
        let offer = Message::Offer {
            versions: (STANDING_VERSION, PROTOCOL_VERSION),
            share: receiver.share().to_owned(),
        };
        let told = link.send_control(Bytes::from(offer.to_bytes()));
        told.map_err(|e| farshore_engine::ingest::describe(&e))?;
        let hello = target::receive_hello(&link);
        let hello = hello.map_err(|e| farshore_engine::ingest::describe(&e))?;
        self.receive(opened, receiver, &link, &hello, "the peer");
        Ok(())
    }
}

/// Anything from 0 to 1.
fn chance() -> f64 {
    random_id().map_or(0.5, |id| f64::from(id.0[0]) / 255.0)
}

/// A share as the board is told of it.
fn shown_share(share: &Share) -> ShareConfig<'_> {
    ShareConfig {
        name: &share.name,
        path: &share.path,
        role: match share.role {
            Role::Active => facts::Role::Active,
            Role::Standby => facts::Role::Standby,
        },
        epoch: 0,
        objective: Some(share.objective),
    }
}

fn target_options(share: &Share) -> TargetOptions {
    TargetOptions {
        devices: true,
        history_age_max_ms: i64::from(share.history.days) * 24 * 3_600 * 1_000,
        history_bytes_max: share.history.size.unwrap_or(u64::MAX),
        history_sets_max: u64::MAX,
        io_limit: share.io_limit,
        policies: None,
    }
}

fn brake_config(share: &Share) -> BrakeConfig {
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
    fn open(
        share: &Share,
        config: &SiteConfig,
        state: &State,
        storage: Arc<farshore_engine::io::uring::UringStorage>,
        board: crate::site::board::ShareBoard,
        log: &Log,
        approved: bool,
    ) -> Result<Self, Closed> {
        let parts: [&[u8]; 4] =
            [path_bytes(&share.path), b"site", config.peer.name.as_bytes(), share.name.as_bytes()];
        let (catalog, folder) =
            open_catalog(state, CatalogRole::Source, &parts).map_err(Closed::Failure)?;
        let catalog = Arc::new(catalog);
        if !approved {
            is_former(&share.name, &storage, &catalog)?;
        }
        let (dirty, watcher) = watched(share, &folder).map_err(Closed::Failure)?;
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
                folder: folder.clone(),
                nodes: Arc::clone(&nodes),
            },
            Arc::clone(&storage),
            Arc::clone(&catalog),
            (dirty, watcher),
            Box::new(policies),
            board,
            log.clone(),
        );
        let sender = sender.map_err(Closed::Failure)?;
        if approved {
            sender.approve_root();
        }
        let (offer, offers) = bounded(0);
        Ok(Self { sender, storage, catalog, folder, nodes, line: Mutex::default(), offers, offer })
    }
}

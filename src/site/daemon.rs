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
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver as Queue, RecvTimeoutError, Sender as Told, bounded};
use farshore_core::brake::{BrakeConfig, PurgeWindow, Shapes};
use farshore_core::guard::Threshold;
use farshore_core::path::RelPath;
use farshore_core::recovery_point::Epoch;
use farshore_core::role::Phase;
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
use farshore_proto::message::{Message, PROTOCOL_VERSION, STANDING_VERSION, understands_sites};
use farshore_proto::session::SessionError;
use farshore_transport::{
    Incoming, KeyId, KeySet, Listener, QuicLink, Refusal, SiteKey, TransportConfig, TrustedKeys,
    WeakLink, dial_trusting,
};
use serde_json::{Value, json};

use crate::exit::{Exit, Failure};
use crate::replicate::{TargetOptions, open_root, remote_threads, resolve};
use crate::serve::refusals::RefusalLog;
use crate::serve::sessions::{ClaimError, Claimant, Sessions, TAKE_OVER};
use crate::site::announce::KeyTalk;
use crate::site::audit::{self, AuditLog, PeerHead};
use crate::site::board::{Board, BoardConfig, ShareConfig, clock::SystemClock, facts};
use crate::site::config::{Role, Share, SiteConfig};
use crate::site::confine::{Confinement, confine};
use crate::site::control::{self, Commands, Control, DaemonLock, Request};
use crate::site::hooks::Hooks;
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
use crate::site::store::Store;
use crate::site::trust::{TrustFile, TrustStore, TrustWatch};
use crate::site::watch::watched;
use crate::state::{State, now_ms, path_bytes, random_id};

mod auditing;
mod commands;
mod drilling;
mod ends;
mod failback;
mod links;
mod marker;
mod receiving;
mod roles;
mod root;
mod sending;
mod talk;

use ends::{End, Slot, Want};
use links::let_in;
use roles::ShareRole;
use sending::{brake_config, classes};
use talk::TalkLine;

/// Time a peer has for its first message.
const HELLO: Duration = Duration::from_secs(10);
/// A connection may be away this long before the site is not ready.
const GRACE: Duration = Duration::from_secs(30);
/// How often a share's mount is asked whether it answers.
const PROBE: Duration = Duration::from_secs(3);
/// How often one who offers looks whether the share is still sent from here.
const OFFER_LOOK: Duration = Duration::from_millis(200);
/// How often what is known without a cut is shown.
const SHOW: Duration = Duration::from_millis(500);
/// A file changed less than this long ago is looked at again, in nanoseconds.
const RACY_NS: i64 = 20_000_000;
/// How long sessions have to leave by themselves when the daemon stops.
const LEAVING: Duration = Duration::from_secs(2);
/// How long a request to read a standby waits for all of it.
const SCRUB_PATIENCE: Duration = Duration::from_secs(24 * 3_600);
/// How long a request for a point waits for it.
pub const POINT_PATIENCE: Duration = Duration::from_secs(60);

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
    slots: BTreeMap<String, Arc<Slot>>,
    roles: BTreeMap<String, Arc<ShareRole>>,
    talk: TalkLine,
    /// This site's record of what was done, and where the other's ends.
    audit: Mutex<(AuditLog, PeerHead)>,
    hooks: Hooks,
    /// Itself, for threads that end with what they do.
    me: Weak<Self>,
    io: IoMode,
    sessions: Sessions,
    stopping: AtomicBool,
    words: Told<Word>,
    notifier: Notifier,
    /// What outlives this process.
    keeps: Arc<Store>,
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
    let keeps = Store::from_env(&notifier);
    // Programs can be started up to here, and by that process alone afterwards.
    let hooks = Hooks::start(&options.config).map_err(|e| Failure {
        exit: Exit::Refused,
        message: format!("hooks: starting the process that runs them: {e}"),
        hint: None,
    })?;
    // Before the threads that work are there: they inherit it.
    let kept = Confinement::of(&options.config, &options.config_file);
    let confined = confine(&kept).map_err(|e| Failure::new(Exit::Refused, &e))?;
    options.log.say(&Record::new(Level::Info, "confined", confined.to_string()));
    let daemon = Daemon::open(options, state, tell, (notifier, keeps), hooks)?;
    let commands: Arc<dyn Commands> = Arc::clone(&daemon) as _;
    let control = Control::open(daemon.state.folder(), &lock, commands)?;
    let metrics = daemon.config().site.metrics;
    let metrics =
        metrics.map(|address| Metrics::open(address, Arc::clone(&daemon.board))).transpose()?;
    std::thread::scope(|scope| {
        let listener = daemon.listen(scope)?;
        for slot in daemon.slots.values() {
            let daemon = &*daemon;
            scope.spawn(move || daemon.tend(slot));
        }
        for role in daemon.roles.values() {
            let daemon = &*daemon;
            scope.spawn(move || daemon.tend_role(role));
        }
        if daemon.config().peer.dial.is_some() {
            let daemon = &*daemon;
            scope.spawn(move || daemon.keep_talk());
        }
        daemon.notifier.ready();
        ready(listener.as_ref().map(|listener| listener.local_addr()));
        daemon.until_stopped(&told, listener.as_deref());
        if let Some(listener) = &listener {
            listener.close();
        }
        daemon.talk.close();
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
        (notifier, keeps): (Notifier, Arc<Store>),
        hooks: Hooks,
    ) -> Result<Arc<Self>, Failure> {
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
        let audit = open_audit(&state, &log)?;
        keeps.keep_only(config.shares.iter().map(|share| share.name.as_str()));
        let mut slots = BTreeMap::new();
        let mut roles = BTreeMap::new();
        for share in &config.shares {
            drop(board.share(&shown_share(share, first_role(share))));
            roles.insert(share.name.clone(), Arc::new(ShareRole::new(share, &state)?));
            slots.insert(share.name.clone(), Arc::new(Slot::new(&share.name, Want::Nothing, None)));
        }
        Ok(Arc::new_cyclic(|me| Self {
            config: Mutex::new(config),
            config_file,
            log,
            state,
            trusted,
            let_in,
            trust,
            board,
            slots,
            roles,
            talk: TalkLine::default(),
            audit: Mutex::new(audit),
            hooks,
            me: me.clone(),
            io,
            sessions: Sessions::default(),
            stopping: AtomicBool::new(false),
            words,
            notifier,
            keeps,
        }))
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

    /// Whether the site is being stopped. A service manager tells all its processes at once, so that what runs
    /// hooks may be gone before this one has heard.
    fn stops_soon(&self) -> bool {
        (0..40).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            self.is_stopping()
        })
    }

    /// Acts on words until one says stop.
    fn until_stopped(&self, words: &Queue<Word>, listener: Option<&Listener>) {
        self.warn_of_config();
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
            self.notifier.status(&self.board.snapshot().verdict.text);
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
        for end in self.slots.values().filter_map(|slot| slot.end()) {
            // No other session begins; those there are leave, or are ended by `run`.
            end.over().store(true, Relaxed);
            if let End::Sends(outgoing) = end {
                outgoing.sender.go_on_watching();
                outgoing.sender.stop();
            }
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
            if let Some(outgoing) = self.outgoing(&share.name) {
                let (brake, classes) = (brake_config(share), classes(share)?);
                outgoing.sender.reload(share.settle, share.scan, brake, classes)?;
            }
        }
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
        self.warn_of_config();
        Ok(said)
    }

    /// Says what the config means in vain.
    fn warn_of_config(&self) {
        for share in self.config().shares {
            for pattern in share.priority.idle(share.account_depth) {
                let text = format!(
                    "the pattern '{pattern}' names no account: their paths have {} components (account_depth)",
                    share.account_depth
                );
                self.say_of(&share.name, Level::Warn, "priority", text);
            }
        }
    }

    fn show_share(&self, share: &Share) {
        let role = self.slot(&share.name).map_or(first_role(share), |slot| slot.wanted());
        drop(self.board.share(&shown_share(share, role)));
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
        let unknown = |share: &str| match self.slot(share).and_then(|slot| slot.why_closed()) {
            Some(why) => {
                let text = format!("share '{share}' is not open: {why}");
                target::refuse(&link, CloseCode::Internal, &text);
            }
            None => {
                let text = format!("no share '{share}' is served here");
                target::refuse(&link, CloseCode::UnknownShare, &text);
            }
        };
        let of_the_site = matches!(
            message,
            Ok(Message::Hello { .. }
                | Message::Offer { .. }
                | Message::Talk { .. }
                | Message::Call(_))
        );
        if of_the_site && !self.trusted.current().contains(&peer) {
            let text = "this key is not that of the other site";
            self.say(Level::Warn, "refused", format!("{remote}: {peer}: {text}"));
            return target::refuse(&link, CloseCode::ProtocolViolation, text);
        }
        match message {
            Ok(hello @ Message::Hello { .. }) => {
                let Message::Hello { share, source, .. } = &hello else { return };
                let Some(standby) = self.standby(share) else { return unknown(share) };
                let link = Arc::new(link.clone());
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
                self.receive(&standby.receiver, &link, &hello, &remote.to_string());
                drop(in_use);
            }
            Ok(Message::Offer { share, versions }) => {
                let Some(outgoing) = self.outgoing(&share) else { return unknown(&share) };
                if !understands_sites(versions) {
                    let text = format!("this site speaks version {PROTOCOL_VERSION} to offers");
                    return target::refuse(&link, CloseCode::VersionMismatch, &text);
                }
                self.board.connected(&remote.to_string());
                // The sender's thread takes it when its session before is over.
                let mut offered = link.clone();
                while !outgoing.over.load(Relaxed) {
                    match outgoing.offer.send_timeout(offered, OFFER_LOOK) {
                        Ok(()) => return,
                        Err(e) => offered = e.into_inner(),
                    }
                }
                unknown(&share);
            }
            Ok(Message::Talk { versions, site }) => self.attend_talk(link, versions, &site),
            Ok(Message::Call(call)) => self.attend_call(&call, link),
            Ok(Message::Report { versions, share, node }) => {
                let Some(outgoing) = self.outgoing(&share) else { return unknown(&share) };
                self.attend(&outgoing, link, &remote.to_string(), versions, &node);
            }
            Ok(other) => {
                let text = format!("'{}' opens no session", other.name());
                target::refuse(&link, CloseCode::ProtocolViolation, &text);
            }
            Err(e) => target::refuse(&link, CloseCode::ProtocolViolation, &e.to_string()),
        }
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
        let sends = |slot: &Arc<Slot>| slot.outgoing().is_some_and(|outgoing| outgoing.has_line());
        while std::time::Instant::now() < until && self.slots.values().any(sends) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// How a session's end is logged: what was asked to stop is no reason to look.
    fn level_of_end(&self, in_order: bool) -> Level {
        if in_order || self.is_stopping() { Level::Info } else { Level::Warn }
    }

    /// How long until the peer of a share is tried again, first; then ever later.
    fn redial(&self, share: &str) -> Redial {
        Redial::within(self.config().share(share).map(|share| share.objective))
    }

    /// Waits out a failure of a share's end; whether that goes on. When the other site says meanwhile that it
    /// stands otherwise, it is tried at once: that may be what was waited for.
    fn wait_out(&self, share: &str, redial: &mut Redial, text: &str, over: &AtomicBool) -> bool {
        let wait = redial.next(chance());
        self.board.disconnected(text, Some(wait));
        let (until, stood) = (std::time::Instant::now() + wait, self.peer_stands(share));
        while std::time::Instant::now() < until && !over.load(Relaxed) {
            std::thread::sleep(Duration::from_millis(50));
            let stands = self.peer_stands(share);
            if stands.is_some() && stands != stood {
                redial.reset();
                break;
            }
        }
        !over.load(Relaxed)
    }

    /// Where the other site says that it stands with a share; none while it does not answer.
    fn peer_stands(&self, share: &str) -> Option<(Epoch, Phase)> {
        let view = self.role(share)?.view().filter(|view| view.link)?;
        view.peer.map(|peer| (peer.said.stamp.epoch, peer.said.phase))
    }
}

/// Anything from 0 to 1.
fn chance() -> f64 {
    random_id().map_or(0.5, |id| f64::from(id.0[0]) / 255.0)
}

/// The site's record of what was done, and where the other's ends. What is wrong with them is said, and they are
/// gone on with.
fn open_audit(state: &State, log: &Log) -> Result<(AuditLog, PeerHead), Failure> {
    let folder = state.folder();
    let failed = |file: &str, e: &std::io::Error| Failure {
        exit: Exit::Refused,
        message: format!("audit record {}: opening it: {e}", folder.join(file).display()),
        hint: None,
    };
    let (chain, found) = AuditLog::open(folder).map_err(|e| failed(audit::FILE, &e))?;
    let say = |text| log.say(&Record::new(Level::Error, "audit", text));
    if found.torn > 0 {
        say(format!("{}: a record that a crash cut off was taken away", chain.path().display()));
    }
    if let Some(fault) = found.fault {
        say(format!("{}: broken: {fault}", chain.path().display()));
    }
    Ok((chain, PeerHead::open(folder).map_err(|e| failed(audit::PEER_FILE, &e))?))
}

/// A share as the board is told of it.
fn shown_share(share: &Share, wanted: Want) -> ShareConfig<'_> {
    ShareConfig {
        name: &share.name,
        path: &share.path,
        role: match wanted {
            Want::Source(_) => facts::Role::Active,
            Want::Target(_) | Want::Nothing => facts::Role::Standby,
        },
        epoch: 0,
        objective: Some(share.objective),
    }
}

/// What a share's end is shown as before its role is known.
fn first_role(share: &Share) -> Want {
    match share.role {
        Role::Active => Want::Source(None),
        Role::Standby => Want::Target(Epoch(0)),
    }
}

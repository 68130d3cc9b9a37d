//! A further production node: it watches a share that it mounts too, and reports to the site that sends it.
//!
//! ```text
//! events ─► dirty set ─► taken ── events ─► leader          (in flight until it has heard)
//!                          ▲
//!                       sync(n): what is queued is read, all is sent, then sync(n)
//! ```
//! Guarantees: what this node saw change is reported until the leader says that it heard; a sync is answered
//! behind everything that was changed here before it came, or not at all; what is not known (the node was
//! not running, the kernel's queue overflowed) is reported as lost. Refuses a leader whose key is not
//! trusted here. It opens no share for writing, and decides nothing.
//!
//! After a crash the journal has what was not heard, and what nobody watched meanwhile is lost and said so; where the
//! service manager keeps the queue of events, the kernel watched and nothing is.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver as Queue, RecvTimeoutError};
use farshore_engine::capture::{DirtySet, TakeFilter, Taken, Taking, Watcher};
use farshore_engine::ingest::describe;
use farshore_proto::close::CloseCode;
use farshore_proto::link::{Link, LinkError};
use farshore_proto::message::{EVENTS_MAX, Events, Message, PROTOCOL_VERSION, STANDING_VERSION};
use farshore_transport::{QuicLink, TransportConfig, TrustedKeys, dial_trusting};

use crate::exit::{Exit, Failure};
use crate::replicate::resolve;
use crate::site::announce::KeyTalk;
use crate::site::config::{Share, SiteConfig};
use crate::site::confine::{Confinement, confine};
use crate::site::control::DaemonLock;
use crate::site::daemon::{DaemonOptions, Word};
use crate::site::keys::SiteKeys;
use crate::site::keys::shown_to;
use crate::site::log::{Level, Log, Record};
use crate::site::nodes::covers_own;
use crate::site::notify::Notifier;
use crate::site::store::Store;
use crate::site::trust::{TrustFile, TrustWatch};
use crate::site::watch::watched;
use crate::state::State;

/// How long until a leader that could not be reached is tried again, first; then ever later.
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// The longest of those times.
const RETRY_LAST: Duration = Duration::from_secs(30);
/// How often an open sync is tried again, and the link looked at.
const TICK: Duration = Duration::from_millis(200);
/// Takings that the leader has not heard of, at most: it is slower than the changes come then, and what
/// comes meanwhile joins in the set.
const IN_FLIGHT_MAX: usize = 16;
/// Bytes of paths in one message.
const EVENT_BYTES_MAX: usize = 1 << 20;

/// One share, as it is watched here.
struct Capture {
    share: String,
    dirty: DirtySet,
    watcher: Watcher,
}

struct Node {
    config: SiteConfig,
    state: State,
    trust: TrustFile,
    trusted: TrustedKeys,
    log: Log,
    stopping: AtomicBool,
}

/// Captures until a word says stop; `ready` is called when every share is watched.
///
/// # Errors
/// [`Failure`] when it cannot begin.
pub fn run(options: DaemonOptions, words: &Queue<Word>, ready: &dyn Fn()) -> Result<Exit, Failure> {
    let DaemonOptions { config, config_file, log, io: _ } = options;
    let refused = |e: &dyn std::error::Error| Failure::new(Exit::Refused, e);
    if config.peer.dial.is_none() {
        let message = "config: peer.dial is missing";
        return Err(Failure::usage(message, "a node that captures dials the site that sends"));
    }
    let state = State::open(Some(&config.site.state)).map_err(|e| refused(&e))?;
    let _lock = DaemonLock::take(state.folder())?;
    let notifier = Notifier::from_env();
    let keeps = Store::from_env(&notifier);
    let confined = confine(&Confinement::of(&config, &config_file)).map_err(|e| refused(&e))?;
    log.say(&Record::new(Level::Info, "confined", confined.to_string()));
    SiteKeys::load(state.folder()).map_err(|e| refused(&e))?;
    let trust = TrustFile::of(state.folder());
    let store = trust.load().map_err(|e| e.failure())?;
    let trusted = TrustedKeys::new(store.keys_of(&config.peer.name));
    keeps.keep_only(config.shares.iter().map(|share| share.name.as_str()));
    let shares = config.shares.iter().map(|share| Capture::open(share, &state, &keeps, &log));
    let captures = shares.collect::<Result<Vec<_>, _>>()?;
    let stopping = AtomicBool::new(false);
    let node = Node { config, state, trust, trusted, log, stopping };
    std::thread::scope(|scope| {
        for capture in &captures {
            let node = &node;
            scope.spawn(move || node.report(capture));
        }
        notifier.ready();
        ready();
        node.until_stopped(words, &notifier);
        captures.iter().for_each(|capture| capture.watcher.go_on());
    });
    node.say(Level::Info, "stopped", "in order".into());
    Ok(Exit::Done)
}

impl Capture {
    fn open(share: &Share, state: &State, keeps: &Arc<Store>, log: &Log) -> Result<Self, Failure> {
        let failed = |step: &str, e: std::io::Error| Failure {
            exit: Exit::Refused,
            message: format!("share '{}': {step}: {e}", share.name),
            hint: None,
        };
        let folder = state.folder().join("capture").join(&share.name);
        std::fs::create_dir_all(&folder).map_err(|e| failed("making its folder", e))?;
        let (dirty, watcher, resumed) = watched(share, &folder, keeps.keeper(&share.name))?;
        let text = match dirty.status().whole {
            Some((why, _)) => format!("reports that all is to be looked at: {why}"),
            None => format!("resumes: {} journaled paths, nothing is lost", resumed.directories),
        };
        log.say(&Record::new(Level::Info, "watch", text).share(&share.name));
        Ok(Self { share: share.name.clone(), dirty, watcher })
    }
}

impl Node {
    fn say(&self, level: Level, event: &'static str, text: String) {
        self.log.say(&Record::new(level, event, text));
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    fn until_stopped(&self, words: &Queue<Word>, notifier: &Notifier) {
        let mut watch = TrustWatch::new(self.trust.clone());
        loop {
            match words.recv_timeout(Duration::from_secs(1)) {
                Ok(Word::Stop(why)) => {
                    self.say(Level::Info, "stopping", format!("on {why}"));
                    break;
                }
                Ok(Word::Reload) => {
                    self.say(
                        Level::Info,
                        "reload",
                        "a change of the config needs a restart".into(),
                    );
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            notifier.alive();
            match watch.poll() {
                Some(Ok(store)) => {
                    for gone in self.trusted.set(store.keys_of(&self.config.peer.name)) {
                        self.say(Level::Warn, "trust", format!("{gone} is not trusted any more"));
                    }
                }
                Some(Err(e)) => self.say(Level::Error, "trust", e.failure().message),
                None => {}
            }
        }
        notifier.stopping();
        self.stopping.store(true, Relaxed);
    }

    fn dial(&self) -> Result<QuicLink, String> {
        let peer = &self.config.peer;
        let address = peer.dial.as_ref().map(ToString::to_string).unwrap_or_default();
        let resolved = resolve("leader", &address).map_err(|failure| failure.message)?;
        let key = shown_to(self.state.folder(), &peer.name).map_err(|failure| failure.message)?;
        let transport = TransportConfig::for_addr(resolved);
        dial_trusting(resolved, &key, &self.trusted, &transport).map_err(|e| describe(&e))
    }

    /// Reports one share for as long as the node runs.
    fn report(&self, capture: &Capture) {
        let mut wait = RETRY_FIRST;
        while !self.is_stopping() {
            let why = match self.dial() {
                Ok(link) => {
                    let began = Instant::now();
                    let text = format!("reports to '{}'", self.config.peer.name);
                    self.log.say(&Record::new(Level::Info, "report", text).share(&capture.share));
                    let why = self.report_over(&link, capture);
                    if began.elapsed() > RETRY_LAST {
                        wait = RETRY_FIRST;
                    }
                    why
                }
                Err(why) => why,
            };
            if self.is_stopping() {
                return;
            }
            self.log.say(&Record::new(Level::Warn, "report", why).share(&capture.share));
            let until = Instant::now() + wait;
            wait = (wait * 2).min(RETRY_LAST);
            while Instant::now() < until && !self.is_stopping() {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    /// Reports over one link until it ends; why it did.
    fn report_over(&self, link: &QuicLink, capture: &Capture) -> String {
        let report = Message::Report {
            versions: (STANDING_VERSION, PROTOCOL_VERSION),
            share: capture.share.clone(),
            node: self.config.site.name.clone(),
        };
        if let Err(e) = link.send_control(Bytes::from(report.to_bytes())) {
            return describe(&e);
        }
        let (peer, key) = (&self.config.peer.name, link.peer());
        let talk = KeyTalk::new(self.state.folder(), peer, key, self.log.clone());
        let reporter = Reporter { link, capture, talk, sending: Mutex::default() };
        let over = Mutex::new(None::<String>);
        let why = || over.lock().unwrap_or_else(PoisonError::into_inner).clone();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let ended = reporter.listen();
                *over.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended);
            });
            let mut version = 0;
            let failed = loop {
                if self.is_stopping() {
                    break "this node was stopped".to_owned();
                }
                if let Some(why) = why() {
                    break why;
                }
                if let Err(e) = reporter.tick() {
                    break describe(&e);
                }
                version = capture.dirty.wait(version, TICK);
            };
            // So that the other thread ends.
            link.close(CloseCode::Done as u32, "");
            failed
        })
    }
}

/// One link to the leader.
struct Reporter<'a> {
    link: &'a dyn Link,
    capture: &'a Capture,
    talk: KeyTalk,
    /// Held while something is sent: what it says of order holds on the wire.
    sending: Mutex<Sending>,
}

/// What was sent. Dropped, what is in flight waits again.
#[derive(Default)]
struct Sending {
    number: u64,
    in_flight: VecDeque<(u64, Taken)>,
    /// The sync that is not answered.
    owed: Option<u64>,
}

impl Reporter<'_> {
    fn lock(&self) -> MutexGuard<'_, Sending> {
        self.sending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears the leader until it is gone; why it is.
    fn listen(&self) -> String {
        loop {
            let message = match self.link.recv_control() {
                Ok(Some(bytes)) => Message::from_bytes(&bytes),
                Ok(None) => return "the leader ended the link".to_owned(),
                Err(e) => return describe(&e),
            };
            let heard = match message {
                Ok(Message::Heard(number)) => self.heard(number),
                Ok(Message::Sync(number)) => {
                    let mut sending = self.lock();
                    sending.owed = Some(number);
                    self.answer(&mut sending).map_err(|e| describe(&e))
                }
                Ok(Message::Keys(said)) => {
                    self.talk.hear(&said);
                    Ok(())
                }
                Ok(Message::Refused { text, .. }) => Err(format!("the leader refused: {text}")),
                Ok(other) => Err(format!("the leader sent '{}', which may not come", other.name())),
                Err(e) => Err(describe(&e)),
            };
            if let Err(why) = heard {
                return why;
            }
        }
    }

    fn heard(&self, number: u64) -> Result<(), String> {
        let mut sending = self.lock();
        if number > sending.number {
            return Err("the leader heard what was not sent".to_owned());
        }
        while let Some((_, taken)) = sending.in_flight.pop_front_if(|(last, _)| *last <= number) {
            self.capture.dirty.done(taken);
        }
        Ok(())
    }

    /// Sends what waits, and answers a sync that could not be answered before.
    fn tick(&self) -> Result<(), LinkError> {
        let mut sending = self.lock();
        if let Some(said) = self.talk.due() {
            self.link.send_control(Bytes::from(Message::Keys(said).to_bytes()))?;
        }
        if sending.owed.is_some() {
            return self.answer(&mut sending);
        }
        if sending.in_flight.len() < IN_FLIGHT_MAX {
            self.send(&mut sending)?;
        }
        Ok(())
    }

    /// Answers the sync that is owed, if everything that was changed before it came is known.
    fn answer(&self, sending: &mut Sending) -> Result<(), LinkError> {
        let Capture { watcher, .. } = self.capture;
        let synced = watcher.sync();
        let covers = covers_own(&synced, &watcher.report());
        self.send(sending)?;
        // Else the leader finds this node late, and vouches for nothing by events.
        if covers && let Some(number) = sending.owed.take() {
            self.link.send_control(Bytes::from(Message::Sync(number).to_bytes()))?;
        }
        Ok(())
    }

    /// Sends all that waits.
    fn send(&self, sending: &mut Sending) -> Result<(), LinkError> {
        let Some(taken) = self.capture.dirty.take(&TakeFilter::default()) else { return Ok(()) };
        let messages = messages(&taken.scope);
        let last = sending.number + messages.len() as u64;
        // From here on it is put back when the link ends.
        sending.in_flight.push_back((last, taken));
        for (lost, parts) in messages {
            sending.number += 1;
            let events = Events { number: sending.number, lost, parts };
            self.link.send_control(Bytes::from(Message::Events(events).to_bytes()))?;
        }
        Ok(())
    }
}

type Parts = Vec<(farshore_core::path::RelPath, bool)>;

/// What was taken, in messages that are not too long.
fn messages(taking: &Taking) -> Vec<(Option<String>, Parts)> {
    let scope = match taking {
        Taking::Whole(why) => return vec![(Some(why.clone()), Vec::new())],
        Taking::Parts(scope) => scope,
    };
    let mut messages = vec![(None, Vec::new())];
    let mut bytes = 0;
    for part in scope.parts() {
        let len = part.directory.as_bytes().len() + 8;
        let parts: &mut Parts = match messages.last_mut() {
            Some((_, parts)) if parts.len() < EVENTS_MAX && bytes + len <= EVENT_BYTES_MAX => parts,
            _ => {
                messages.push((None, Vec::new()));
                bytes = 0;
                let Some((_, parts)) = messages.last_mut() else { break };
                parts
            }
        };
        bytes += len;
        parts.push((part.directory.clone(), part.deep));
    }
    messages
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use farshore_core::path::RelPath;
    use farshore_engine::plan::{Part, Scope};
    use farshore_proto::link::CONTROL_MESSAGE_MAX;

    use super::*;

    #[test]
    fn however_much_is_taken_every_message_of_it_can_be_sent_and_read() {
        let long = "x".repeat(200);
        let directory =
            |n: u32| RelPath::new(format!("{n:06}/{long}/{long}/{long}").into_bytes()).unwrap();
        let parts = (0..20_000).map(|n| Part { directory: directory(n), deep: n % 2 == 0 });
        let messages = messages(&Taking::Parts(Scope::new(parts)));
        let mut count = 0;
        for (n, (lost, parts)) in messages.into_iter().enumerate() {
            count += parts.len();
            let message = Message::Events(Events { number: n as u64 + 1, lost, parts });
            let bytes = message.to_bytes();
            assert!(bytes.len() <= CONTROL_MESSAGE_MAX, "{}", bytes.len());
            assert_eq!(Message::from_bytes(&bytes).unwrap(), message);
        }
        assert_eq!(count, 20_000);
    }
}

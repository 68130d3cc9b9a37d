//! The link over which two sites speak of roles, and links that one asks the other for.
//!
//! ```text
//! the site that dials ── talk ──► the other one        both say what they are, whenever it changes, and each
//!                     ◄── say ──►                      second; it stands for as long as both daemons run
//! a link for one purpose: whoever dials opens it with "call"; the other one asks for it with "ask"
//! ```
//! Guarantees: one such link at a time, the latest; what is said goes out whole or not at all, and the next word
//! makes a lost one good; a call that is not answered in its time fails, and so does one with a run of the other
//! site's daemon that is over, as soon as the next one is heard, or nothing is for a few beats. Refuses every key but the other site's. Nothing here
//! survives a crash.

use std::time::Instant;

use super::*;
use farshore_proto::message::{Call, Purpose, ROLES_VERSION, understands_sites};

/// How long a link that was asked for may take to come.
const CALL_PATIENCE: Duration = Duration::from_secs(30);

/// The link there is, and the calls that wait for one.
#[derive(Default)]
pub(super) struct TalkLine {
    /// Counted, so that the end of a former one does not take the present one away.
    link: Mutex<(u64, Option<QuicLink>)>,
    /// When a word of roles came over it last.
    heard: Mutex<Option<Instant>>,
    asked: Mutex<BTreeMap<u64, Asked>>,
    calls: std::sync::atomic::AtomicU64,
    open: Mutex<OpenCalls>,
}

/// Who waits for a call about a share.
struct Asked {
    share: String,
    tell: Told<QuicLink>,
}

/// Calls under way, and with which runs of the other site's daemon.
#[derive(Default)]
struct OpenCalls {
    links: Vec<(String, WeakLink)>,
    /// By share, the run that was heard last.
    lives: BTreeMap<String, u64>,
}

impl TalkLine {
    fn link(&self) -> std::sync::MutexGuard<'_, (u64, Option<QuicLink>)> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> std::sync::MutexGuard<'_, OpenCalls> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call about `share` goes on over `link`.
    fn called(&self, share: &str, link: &QuicLink) {
        let links = &mut self.open().links;
        links.retain(|(_, link)| !link.is_gone());
        links.push((share.to_owned(), link.weak()));
    }

    /// The run `life` of the other site's daemon spoke of `share`: nobody answers any more what was called of a run
    /// before, which the line alone would find out half a minute later.
    pub(super) fn lives(&self, share: &str, life: u64) {
        let mut open = self.open();
        if open.lives.insert(share.to_owned(), life).is_none_or(|before| before == life) {
            return;
        }
        self.asked().retain(|_, asked| asked.share != share);
        for (_, link) in open.links.extract_if(.., |(of, _)| of == share) {
            if let Some(link) = link.upgrade() {
                link.close(CloseCode::Stopped as u32, "the other site's daemon began anew");
            }
        }
    }

    /// Puts `link` in the place of the former one, which is closed; its number.
    fn take_over(&self, link: &QuicLink) -> u64 {
        let mut line = self.link();
        line.0 += 1;
        // What was heard over the former one says nothing of this one.
        *self.heard() = None;
        if let Some(former) = line.1.replace(link.clone()) {
            former.close(CloseCode::Busy as u32, "a later link took its place");
        }
        line.0
    }

    /// Takes it away if it is still that one.
    fn leave(&self, number: u64) -> bool {
        let mut line = self.link();
        let is_last = line.0 == number;
        if is_last {
            line.1 = None;
            *self.heard() = None;
        }
        is_last
    }

    fn heard(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A word of roles came; whether none had since the talk began.
    fn hears(&self) -> bool {
        self.heard().replace(Instant::now()).is_none()
    }

    /// Ends a talk over which nothing comes any more though words came before, and all that was asked of whoever is silent:
    /// a killed daemon says no goodbye, and the line alone would find that out half a minute later. Whether it did.
    fn end_if_silent(&self, patience: Duration) -> bool {
        let why = "nothing was heard for a few beats";
        // No later link takes its place meanwhile.
        let line = self.link();
        let silent = self.heard().take_if(|at| at.elapsed() >= patience).is_some();
        if !silent {
            return false;
        }
        if let Some(link) = &line.1 {
            link.close(CloseCode::Stopped as u32, why);
        }
        drop(line);
        self.asked().clear();
        for (_, link) in std::mem::take(&mut self.open().links) {
            if let Some(link) = link.upgrade() {
                link.close(CloseCode::Stopped as u32, why);
            }
        }
        true
    }

    /// Sends a message, if there is a link; a link that takes none is as good as none.
    pub(super) fn send(&self, message: &Message) -> bool {
        let link = self.link().1.clone();
        link.is_some_and(|link| link.send_control(Bytes::from(message.to_bytes())).is_ok())
    }

    /// Closes the link there is.
    pub(super) fn close(&self) {
        if let Some(link) = self.link().1.take() {
            link.close(CloseCode::Stopped as u32, "the daemon stops");
        }
    }
}

impl Daemon {
    /// Keeps the talk up, at the site that dials, for as long as the daemon runs.
    pub(super) fn keep_talk(&self) {
        let mut redial = Redial::within(Some(TALK_RETRY_LAST * 4));
        while !self.is_stopping() {
            let dialed = self.dial_quietly();
            let began = Instant::now();
            match dialed {
                Ok(link) => {
                    let talk = Message::Talk {
                        versions: (ROLES_VERSION, PROTOCOL_VERSION),
                        site: self.config().site.name,
                    };
                    if link.send_control(Bytes::from(talk.to_bytes())).is_ok() {
                        let why = self.hold_talk(link);
                        self.say(Level::Info, "talk", format!("ended: {why}"));
                    }
                }
                // Sessions of shares say what is wrong with the line.
                Err(failure) => self.say(Level::Debug, "talk", failure.message),
            }
            if began.elapsed() > redial.last {
                redial.reset();
            }
            let until = Instant::now() + redial.next(chance());
            while Instant::now() < until && !self.is_stopping() {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    /// Attends to a talk that the other site opened.
    pub(super) fn attend_talk(&self, link: QuicLink, versions: (u16, u16), site: &str) {
        if !understands_sites(versions) {
            let text = format!("this site speaks version {PROTOCOL_VERSION} of roles");
            return target::refuse(&link, CloseCode::VersionMismatch, &text);
        }
        let peer = self.config().peer.name;
        if site != peer {
            // Its name is its own word.
            let site = farshore_core::path::escape_text(site);
            let text = format!("the other site of this one is '{peer}', not '{site}'");
            self.say(Level::Warn, "talk", text.clone());
            return target::refuse(&link, CloseCode::ProtocolViolation, &text);
        }
        let why = self.hold_talk(link);
        self.say(Level::Info, "talk", format!("ended: {why}"));
    }

    /// Hears what is said over a link until it ends, and why it did.
    fn hold_talk(&self, link: QuicLink) -> String {
        let Some(_present) = self.sessions.enter(Arc::new(link.clone())) else {
            return "the daemon stops".into();
        };
        let number = self.talk.take_over(&link);
        self.say(Level::Info, "talk", "of roles begins".into());
        self.roles_linked(true);
        let why = loop {
            let message = match link.recv_control() {
                Ok(Some(bytes)) => Message::from_bytes(&bytes),
                Ok(None) => break "by the other site".to_owned(),
                Err(e) => break farshore_engine::ingest::describe(&e),
            };
            match message {
                Ok(Message::Say { share, said }) => {
                    if self.talk.hears() {
                        self.board.speaks();
                    }
                    self.role_heard(&share, &said);
                }
                Ok(Message::Ask(call)) => self.answer_ask(call),
                Ok(Message::Refused { text, .. }) => break format!("refused: {text}"),
                Ok(other) => {
                    let text = format!("'{}' is no word of roles", other.name());
                    link.close(CloseCode::ProtocolViolation as u32, &text);
                    break text;
                }
                Err(e) => {
                    link.close(CloseCode::ProtocolViolation as u32, &e.to_string());
                    break e.to_string();
                }
            }
        };
        if self.talk.leave(number) {
            self.roles_linked(false);
        }
        why
    }

    /// Has a talk end that fell silent.
    pub(super) fn watch_talk(&self) {
        if self.talk.end_if_silent(SILENCE) {
            self.board.silent(SILENCE);
            self.say(Level::Warn, "talk", format!("nothing was heard for {SILENCE:?}"));
        }
    }

    /// A link to the other site for one purpose, whoever of the two dials.
    pub(super) fn call(
        &self,
        purpose: Purpose,
        share: &str,
        plan: [u8; 32],
    ) -> Result<QuicLink, Failure> {
        let failed = |text: String| Failure {
            exit: Exit::Connection,
            message: format!("share '{share}': asking the other site: {text}"),
            hint: Some("farshore status says how the connection is".into()),
        };
        let mut call = Call { purpose, share: share.to_owned(), number: 0, plan };
        if self.config().peer.dial.is_some() {
            let link = self.dial_quietly()?;
            self.talk.called(share, &link);
            let opened = link.send_control(Bytes::from(Message::Call(call).to_bytes()));
            opened.map_err(|e| failed(farshore_engine::ingest::describe(&e)))?;
            return Ok(link);
        }
        call.number = self.talk.calls.fetch_add(1, Relaxed) + 1;
        let (tell, answer) = bounded(1);
        let number = call.number;
        self.talk.asked().insert(number, Asked { share: share.to_owned(), tell });
        let sent = self.talk.send(&Message::Ask(call));
        let answered = match sent {
            true => answer.recv_timeout(CALL_PATIENCE).map_err(|e| match e {
                RecvTimeoutError::Timeout => failed("it did not call".into()),
                RecvTimeoutError::Disconnected => {
                    failed("its daemon began anew, or is silent".into())
                }
            }),
            false => Err(failed("there is no connection".into())),
        };
        self.talk.asked().remove(&number);
        if let Ok(link) = &answered {
            self.talk.called(share, link);
        }
        answered
    }

    /// The other site called: for what this one asked for, or by its own will.
    pub(super) fn attend_call(&self, call: &Call, link: QuicLink) {
        if call.number != 0 {
            let waiting = self.talk.asked().remove(&call.number);
            match waiting {
                Some(waiting) => waiting.tell.send(link).unwrap_or(()),
                None => link.close(CloseCode::Stopped as u32, "nobody waits for this call"),
            }
            return;
        }
        self.talk.called(&call.share, &link);
        self.serve_call(call, &link);
    }

    /// Calls the other site, which asked for it, and serves it over that link.
    fn answer_ask(&self, call: Call) {
        let Some(daemon) = self.me.upgrade() else { return };
        // The talk goes on meanwhile. Ends with its link, which the stop of the daemon closes.
        std::thread::spawn(move || {
            let link = match daemon.dial_quietly() {
                Ok(link) => link,
                Err(failure) => return daemon.say(Level::Warn, "call", failure.message),
            };
            let Some(_present) = daemon.sessions.enter(Arc::new(link.clone())) else { return };
            if link.send_control(Bytes::from(Message::Call(call.clone()).to_bytes())).is_ok() {
                daemon.talk.called(&call.share, &link);
                daemon.serve_call(&call, &link);
            }
        });
    }

    fn dial_quietly(&self) -> Result<QuicLink, Failure> {
        self.dial().map(|(link, _)| link)
    }
}

/// Of whom nothing was heard for so long, five beats, it is not known whether he is there.
const SILENCE: Duration = Duration::from_secs(5);
/// The longest time until the talk is tried again: roles wait for it.
const TALK_RETRY_LAST: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use farshore_transport::dial;

    use super::*;

    #[test]
    fn what_was_asked_of_a_run_that_is_over_ends_when_the_next_one_speaks() {
        let (ours, theirs) = (SiteKey::generate().expect("key"), SiteKey::generate().expect("key"));
        let config = TransportConfig::loopback();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let trusted = KeySet::from(ours.key_id());
        let listener = Listener::bind(address, &theirs, trusted, config.clone()).expect("bound");
        let talk = TalkLine::default();
        let called = |share: &str| {
            let at = listener.local_addr();
            let link = dial(at, &ours, KeySet::from(theirs.key_id()), &config).expect("dialed");
            let there = listener.accept().expect("accepted").link;
            talk.called(share, &link);
            (link, there)
        };
        let (homes, other) = (called("homes"), called("other"));
        let (tell, answer) = bounded::<QuicLink>(1);
        talk.asked().insert(1, Asked { share: "homes".into(), tell });
        for share in ["homes", "other", "homes"] {
            talk.lives(share, 7);
        }
        assert!(talk.hears() && !talk.hears(), "the first word is told apart");
        assert!(!talk.end_if_silent(Duration::from_secs(3_600)), "it was heard just now");
        let said = Bytes::from_static(b"there");
        homes.1.send_control(said.clone()).expect("the same run goes on");
        assert_eq!(homes.0.recv_control().expect("heard"), Some(said.clone()));
        talk.lives("homes", 8);
        assert!(homes.0.recv_control().is_err(), "nobody answers any more");
        assert!(matches!(answer.try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected)));
        other.1.send_control(said.clone()).expect("another share's call goes on");
        assert_eq!(other.0.recv_control().expect("heard"), Some(said.clone()));
        let (later, there) = called("later");
        let number = talk.take_over(&later);
        assert!(!talk.end_if_silent(Duration::ZERO), "over a later link nothing came yet");
        there.send_control(said.clone()).expect("it goes on");
        assert_eq!(later.recv_control().expect("heard"), Some(said));
        assert!(talk.hears() && talk.link().0 == number);
        let (tell, answer) = bounded::<QuicLink>(1);
        talk.asked().insert(2, Asked { share: "other".into(), tell });
        assert!(talk.end_if_silent(Duration::ZERO));
        assert!(other.0.recv_control().is_err(), "who is silent answers nobody");
        assert!(matches!(answer.try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected)));
        assert!(!talk.end_if_silent(Duration::ZERO), "once");
    }
}

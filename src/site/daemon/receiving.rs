//! The receiving end of a share in the daemon: opened, offered, its sessions.
//!
//! Guarantees: what a crash interrupted is finished when the end is opened, whether the source is there or not;
//! an end that is over takes no session.

use super::root::{self, Closed};
use super::*;

/// A share that is received here.
pub(super) struct Standby {
    pub(super) receiver: Arc<Receiver>,
    pub(super) scrubber: Scrubber,
    /// It is to end.
    pub(super) over: AtomicBool,
    /// A source of this one sends.
    pub(super) epoch: Epoch,
    /// The link that was opened to offer it, and its session.
    offered: Mutex<Option<QuicLink>>,
}

impl Standby {
    pub(super) fn open(
        share: &Share,
        (catalog, folder): (farshore_engine::catalog::Catalog, PathBuf),
        io: IoMode,
        (board, log): (crate::site::board::ShareBoard, &Log),
        (epoch, approved): (Epoch, bool),
    ) -> Result<Self, Closed> {
        let storage = root::open("target", share, io)?;
        if !approved {
            root::is_former_target(&share.name, &storage, &catalog)?;
        }
        if let Err(e) = crate::rehearse::folder::sweep(&storage) {
            let record = Record::new(Level::Warn, "rehearsal", format!("removing one: {e}"));
            log.say(&record.share(&share.name));
        }
        let opened = (Arc::new(catalog), folder);
        let named = (share.name.as_str(), share.path.as_path());
        let receiver = Receiver::new(named, storage, opened, target_options(share, epoch), board)?;
        if let Err(e) = receiver.finish_interrupted() {
            let text = farshore_engine::ingest::describe(&e);
            let record = Record::new(Level::Error, "unfinished", text.clone());
            log.say(&record.share(&share.name));
            receiver.board().state(facts::ShareState::Error, Some(&text));
        }
        let receiver = Arc::new(receiver);
        let scrubber = Scrubber::new(
            Arc::clone(&receiver),
            &share.path,
            share.io_limit,
            share.account_depth,
            share.scrub,
            receiver.folder().to_path_buf(),
            log.clone(),
        );
        let scrubber = scrubber.map_err(|failure| Closed::Gone(failure.message))?;
        let (over, offered) = (AtomicBool::new(false), Mutex::default());
        Ok(Self { receiver, scrubber, over, epoch, offered })
    }
}

impl Standby {
    fn offered(&self) -> std::sync::MutexGuard<'_, Option<QuicLink>> {
        self.offered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the link that was opened to offer it; it is to end.
    pub(super) fn close_offer(&self) {
        if let Some(link) = &*self.offered() {
            link.close(CloseCode::Stopped as u32, "the share's role changed");
        }
    }
}

impl Daemon {
    pub(super) fn receive(
        &self,
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
        if ended.as_ref().is_err_and(|e| e.catalog().is_some())
            && let Some(slot) = self.slot(receiver.share())
        {
            // Its disk failed: it is opened anew.
            slot.renew();
        }
        if let (Err(TargetError::Session(e)), Some(role)) = (&ended, self.role(receiver.share()))
            && is_of_another_epoch(e)
            && role.is_news(&text)
        {
            self.record(receiver.share(), "refused", format!("a session of {remote}: {text}"));
        }
        self.board.disconnected(&text, None);
        // It may leave while it is being answered.
        let in_order = [CloseCode::Stopped as u32, CloseCode::Done as u32];
        let is_stopped = matches!(&ended,
            Err(TargetError::Link(LinkError::ClosedByPeer { code, .. })) if in_order.contains(code));
        let level = self.level_of_end(ended.is_ok() || is_stopped);
        self.say_of(receiver.share(), level, "session", text);
    }

    /// Offers a share to the site that sends it, for as long as the daemon runs.
    pub(super) fn offer(&self, standby: &Standby) {
        let receiver = &*standby.receiver;
        let mut redial = self.redial(receiver.share());
        while !standby.over.load(Relaxed) {
            let text = match self.offer_once(standby) {
                Ok(()) => {
                    redial.reset();
                    continue;
                }
                Err(text) => text,
            };
            self.say_of(receiver.share(), Level::Warn, "peer", text.clone());
            if !self.wait_out(&mut redial, &text, &standby.over) {
                break;
            }
        }
    }

    fn offer_once(&self, standby: &Standby) -> Result<(), String> {
        let (link, _) = self.dial().map_err(|failure| failure.message)?;
        *standby.offered() = Some(link.clone());
        if standby.over.load(Relaxed) {
            standby.close_offer();
        }
        let offered = self.offer_over(standby, link);
        *standby.offered() = None;
        if standby.over.load(Relaxed) { Ok(()) } else { offered }
    }

    fn offer_over(&self, standby: &Standby, link: QuicLink) -> Result<(), String> {
        let receiver = &*standby.receiver;
        let Some(_present) = self.sessions.enter(Arc::new(link.clone())) else { return Ok(()) };
        let offer = Message::Offer {
            versions: (STANDING_VERSION, PROTOCOL_VERSION),
            share: receiver.share().to_owned(),
        };
        let told = link.send_control(Bytes::from(offer.to_bytes()));
        told.map_err(|e| farshore_engine::ingest::describe(&e))?;
        let hello = target::receive_hello(&link);
        let hello = hello.map_err(|e| farshore_engine::ingest::describe(&e))?;
        self.receive(receiver, &link, &hello, "the peer");
        Ok(())
    }
}

fn is_of_another_epoch(e: &SessionError) -> bool {
    use SessionError::{EpochFenced, EpochOfBatch, EpochUnknown};
    matches!(e, EpochFenced { .. } | EpochUnknown { .. } | EpochOfBatch { .. })
}

fn target_options(share: &Share, epoch: Epoch) -> TargetOptions {
    TargetOptions {
        devices: true,
        history_age_max_ms: i64::from(share.history.days) * 24 * 3_600 * 1_000,
        history_bytes_max: share.history.size.unwrap_or(u64::MAX),
        history_sets_max: u64::MAX,
        io_limit: share.io_limit,
        epoch: Some(epoch),
        policies: None,
    }
}

//! The shares of a site: each is opened, watched over, and opened anew when its root was away.
//!
//! Guarantees: a share is open only while its path leads to the folder it was replicated from, or to; while
//! it does not, nothing is sent, applied or concluded, the status says what is there instead, and the path is
//! asked again every few seconds. What worked on a root that went away is ended before another is opened. A
//! catalog whose disk failed is opened anew with its share.
//!
//! Refuses another folder than the former one until an operator says that it is meant (`farshore brake
//! approve`). Survives a crash: nothing is remembered here, the catalogs say which folder it was.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use farshore_core::guard::RootIdentity;
use farshore_engine::io::uring::UringStorage;
use farshore_engine::own_folder::OwnFolder;

use super::*;
use crate::site::board::ShareBoard;

/// How often the path of a share that is not open is asked.
const AGAIN: Duration = Duration::from_secs(2);

/// A share of the config.
pub(super) struct Place {
    name: String,
    role: Role,
    board: ShareBoard,
    opened: Mutex<Option<Arc<Opened>>>,
    /// Why it is not open; empty while it is.
    why: Mutex<String>,
    /// An operator said that another folder is meant.
    approved: AtomicBool,
    /// It is not open because of that folder.
    is_other: AtomicBool,
}

/// A share that is open.
pub(super) struct Opened {
    end: End,
    /// All that go on with it.
    pub(super) sessions: Sessions,
    over: AtomicBool,
    /// It cannot go on as it is.
    broken: AtomicBool,
}

/// Which end of a share.
enum End {
    Sent(Box<Outgoing>),
    Received(Arc<Receiver>, Box<Scrubber>),
}

/// Why a share cannot be opened.
pub(super) enum Closed {
    /// There is no root.
    Gone(String),
    /// Another folder is at its path.
    Other(String),
    /// Anything else.
    Failure(Failure),
}

impl Closed {
    fn text(&self) -> &str {
        match self {
            Self::Gone(text) | Self::Other(text) => text,
            Self::Failure(failure) => &failure.message,
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Opened {
    fn new(end: End) -> Arc<Self> {
        let (over, broken) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { end, sessions: Sessions::default(), over, broken })
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }

    /// It is to be opened anew: its catalog failed.
    pub(super) fn breaks(&self) {
        self.broken.store(true, Relaxed);
    }

    pub(super) fn sent(&self) -> Option<&Outgoing> {
        match &self.end {
            End::Sent(outgoing) => Some(outgoing),
            End::Received(..) => None,
        }
    }

    pub(super) fn received(&self) -> Option<(&Arc<Receiver>, &Scrubber)> {
        match &self.end {
            End::Sent(_) => None,
            End::Received(receiver, scrubber) => Some((receiver, scrubber)),
        }
    }

    fn storage(&self) -> &UringStorage {
        match &self.end {
            End::Sent(outgoing) => &outgoing.storage,
            End::Received(receiver, _) => receiver.storage(),
        }
    }

    /// Ends what is done with it, in order.
    pub(super) fn stop(&self) {
        self.over.store(true, Relaxed);
        if let Some(outgoing) = self.sent() {
            outgoing.sender.stop();
        }
    }
}

impl Place {
    pub(super) fn new(share: &Share, board: ShareBoard) -> Self {
        Self {
            name: share.name.clone(),
            role: share.role,
            board,
            opened: Mutex::default(),
            why: Mutex::default(),
            approved: AtomicBool::new(false),
            is_other: AtomicBool::new(false),
        }
    }

    pub(super) fn role(&self) -> Role {
        self.role
    }

    pub(super) fn opened(&self) -> Option<Arc<Opened>> {
        locked(&self.opened).clone()
    }

    /// Why it is not open.
    pub(super) fn why(&self) -> String {
        match locked(&self.why).as_str() {
            "" => format!("share '{}' is being opened", self.name),
            why => format!("share '{}' is not open: {why}", self.name),
        }
    }

    /// An operator says that the folder at its path is meant; whether it waited for that.
    pub(super) fn approve(&self) -> bool {
        let waits = self.is_other.load(Relaxed) && self.opened().is_none();
        if waits {
            self.approved.store(true, Relaxed);
        }
        waits
    }

    fn open(&self, opened: Arc<Opened>) {
        locked(&self.why).clear();
        self.is_other.store(false, Relaxed);
        *locked(&self.opened) = Some(opened);
    }

    /// It is not open, and why; whether that is news.
    fn close(&self, closed: &Closed) -> bool {
        *locked(&self.opened) = None;
        self.is_other.store(matches!(closed, Closed::Other(_)), Relaxed);
        let state = match closed {
            Closed::Gone(_) | Closed::Other(_) => facts::ShareState::MountGone,
            Closed::Failure(_) => facts::ShareState::Error,
        };
        self.board.state(state, Some(closed.text()));
        let mut why = locked(&self.why);
        let is_news = *why != closed.text();
        closed.text().clone_into(&mut why);
        is_news
    }
}

impl Daemon {
    pub(super) fn opened(&self, share: &str) -> Option<Arc<Opened>> {
        self.places.get(share)?.opened()
    }

    /// Opens a share for the first time. What may pass by itself keeps no daemon from starting.
    pub(super) fn open_first(&self, place: &Place) -> Result<(), Failure> {
        match self.open_share(place) {
            Err(Closed::Failure(failure)) if failure.exit != Exit::Disk => Err(failure),
            opened => {
                self.note(place, opened);
                Ok(())
            }
        }
    }

    fn note(&self, place: &Place, opened: Result<Arc<Opened>, Closed>) {
        match opened {
            Ok(opened) => {
                if !locked(&place.why).is_empty() {
                    self.say_of(&place.name, Level::Info, "root", "it is there: opened".into());
                    place.board.state(facts::ShareState::Connecting, None);
                }
                place.open(opened);
            }
            Err(closed) => {
                if place.close(&closed) {
                    self.say_of(&place.name, Level::Error, "root", closed.text().to_owned());
                }
            }
        }
    }

    fn open_share(&self, place: &Place) -> Result<Arc<Opened>, Closed> {
        let config = self.config();
        let share = config.shares.iter().find(|share| share.name == place.name);
        let Some(share) = share else { return Err(Closed::Gone("it is in no config".into())) };
        let approved = place.approved.load(Relaxed);
        let role = if share.role == Role::Active { "source" } else { "target" };
        let storage = open_root(role, &share.path, self.io, share.io_limit)
            .map_err(|failure| Closed::Gone(failure.message))?;
        let storage = Arc::new(storage);
        let end = match share.role {
            Role::Active => {
                let outgoing = Outgoing::open(
                    share,
                    &config,
                    &self.state,
                    storage,
                    place.board.clone(),
                    &self.log,
                    approved,
                )?;
                End::Sent(Box::new(outgoing))
            }
            Role::Standby => self.open_received(share, storage, place.board.clone(), approved)?,
        };
        place.approved.store(false, Relaxed);
        Ok(Opened::new(end))
    }

    fn open_received(
        &self,
        share: &Share,
        storage: Arc<UringStorage>,
        shown: ShareBoard,
        approved: bool,
    ) -> Result<End, Closed> {
        let parts = [path_bytes(&share.path)];
        let opened = open_catalog(&self.state, CatalogRole::Target, &parts);
        let (catalog, folder) = opened.map_err(Closed::Failure)?;
        let tree = catalog.reader().and_then(|reader| reader.tree());
        let tree = tree.map_err(|e| Closed::Failure(catalog_failure(&e)))?;
        let found = OwnFolder::identity_of(&*storage);
        let found = found.map_err(|e| Closed::Gone(format!("root: looking at it: {e}")))?;
        if !approved && tree.is_some() && tree != found {
            return Err(Closed::Other(other_folder("into", &share.name)));
        }
        let opened = (Arc::new(catalog), folder);
        let target = target_options(share);
        let receiver = Receiver::new((&share.name, &share.path), storage, opened, target, shown);
        let receiver = receiver.map_err(Closed::Failure)?;
        if let Err(e) = receiver.finish_interrupted() {
            let text = farshore_engine::ingest::describe(&e);
            self.say_of(&share.name, Level::Error, "unfinished", text.clone());
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
            self.log.clone(),
        );
        let scrubber = scrubber.map_err(|failure| Closed::Gone(failure.message))?;
        Ok(End::Received(receiver, Box::new(scrubber)))
    }

    /// Keeps a share open, for as long as the daemon runs.
    pub(super) fn look_after(&self, place: &Place) {
        while !self.is_stopping() {
            let Some(opened) = place.opened() else {
                self.pause(AGAIN);
                if !self.is_stopping() {
                    self.note(place, self.open_share(place));
                }
                continue;
            };
            let why = self.work(place, &opened);
            opened.sessions.stop();
            if let Some(closed) = why {
                // Opened by others no more; who holds it ends with its link.
                drop(opened);
                if place.close(&closed) {
                    self.say_of(&place.name, Level::Error, "root", closed.text().to_owned());
                }
            }
        }
    }

    fn pause(&self, time: Duration) {
        let until = std::time::Instant::now() + time;
        while std::time::Instant::now() < until && !self.is_stopping() {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Works with an open share until the daemon stops, or it cannot go on; why not.
    fn work(&self, place: &Place, opened: &Opened) -> Option<Closed> {
        std::thread::scope(|scope| {
            match &opened.end {
                End::Sent(outgoing) => {
                    scope.spawn(move || self.send(opened, outgoing));
                    scope.spawn(move || self.keep(opened, outgoing));
                }
                End::Received(receiver, scrubber) => {
                    if self.config().peer.dial.is_some() {
                        scope.spawn(move || self.offer(opened, receiver));
                    }
                    scope.spawn(move || scrubber.run(&opened.over));
                }
            }
            let why = self.probe(place, opened);
            opened.stop();
            if let Some(closed) = &why {
                // Before the threads have ended: one may hang in the mount.
                place.board.state(facts::ShareState::MountGone, Some(closed.text()));
                opened.sessions.stop();
            }
            why
        })
    }

    /// Asks a share's mount how its root is, and whether its path leads there, until it is over. A mount that
    /// does not answer is shown as stalled, by whoever waits for this thread in vain.
    fn probe(&self, place: &Place, opened: &Opened) -> Option<Closed> {
        let config = self.config();
        let path = &config.shares.iter().find(|share| share.name == place.name)?.path;
        let worker = self.board.worker(Some(&place.name), "probe");
        while !self.is_stopping() {
            let gone = {
                let _call = worker.on_mount("statx", &RelPath::root());
                gone(path, opened.storage())
            };
            if let Some(why) = gone {
                return Some(Closed::Gone(format!(
                    "the share's path does not lead to its root: {why}"
                )));
            }
            worker.doing("waiting");
            let until = std::time::Instant::now() + PROBE;
            while std::time::Instant::now() < until && !self.is_stopping() {
                if opened.broken.load(Relaxed) {
                    let text = "its catalog failed and is opened anew".to_owned();
                    return Some(Closed::Failure(Failure {
                        exit: Exit::Disk,
                        message: text,
                        hint: None,
                    }));
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        None
    }
}

/// Why `path` does not lead to the root of `storage`, if so.
fn gone(path: &Path, storage: &UringStorage) -> Option<String> {
    let root = storage.stat(Object::Directory(storage.root()));
    let there = rustix::fs::stat(path.as_os_str().as_bytes());
    match (root, there) {
        (Ok(root), Ok(there)) => {
            let device = (rustix::fs::major(there.st_dev), rustix::fs::minor(there.st_dev));
            if device != (root.device.major, root.device.minor) {
                return Some("another file system is in its place".into());
            }
            (there.st_ino != root.inode).then(|| "another directory is in its place".into())
        }
        (Err(e), _) => Some(e.to_string()),
        (_, Err(e)) => Some(std::io::Error::from(e).to_string()),
    }
}

fn other_folder(way: &str, share: &str) -> String {
    format!(
        "root is another folder than the one this share was replicated {way}: mounted? If it is meant: \
         farshore brake approve --share {share}"
    )
}

/// Whether the root of a share that is sent is the folder of its last point.
pub(super) fn is_former(
    share: &str,
    storage: &UringStorage,
    catalog: &farshore_engine::catalog::Catalog,
) -> Result<(), Closed> {
    let expected = catalog.reader().and_then(|reader| reader.root_identity());
    let expected = expected.map_err(|e| Closed::Failure(catalog_failure(&e)))?;
    let looking = |e: std::io::Error| Closed::Gone(format!("root: looking at it: {e}"));
    let inode = storage.stat(Object::Directory(storage.root())).map_err(looking)?.inode;
    let found = RootIdentity { inode, file_system: storage.file_system().map_err(looking)? };
    match expected {
        Some(expected) if expected != found => Err(Closed::Other(other_folder("from", share))),
        _ => Ok(()),
    }
}

//! Descriptors that the service manager keeps from one process of the site to the next (`FDSTORE=1`).
//!
//! Guarantees: what the manager gave back is taken before any other program is started, and is inherited by none;
//! what nobody asks for is kept until it is. Nothing here ever stops the site: a manager that is not there, keeps
//! nothing or does not listen costs a look at everything, see `farshore_engine::capture`. Refuses descriptors that
//! are meant for another process. Whether the manager keeps any is what `FDSTORE` of the environment says; a version
//! of systemd that does not set it (before 254) is helped by the unit.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farshore_engine::capture::{Keeper, Kept};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::notify::Notifier;

/// The first descriptor that a manager gives.
const FIRST: i32 = 3;
/// More than these are not a manager's.
const GIVEN_MAX: i32 = 1_024;
/// A share needs so many.
const EACH: u64 = 2;
/// How long a manager that hangs is waited for.
const PATIENCE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// What is kept, by name.
#[derive(Debug, Default)]
pub struct Store {
    /// None where nothing is kept.
    manager: Option<UnixDatagram>,
    given: Mutex<BTreeMap<String, OwnedFd>>,
}

impl Store {
    /// As the environment says: `FDSTORE`, and `LISTEN_FDS`, `LISTEN_PID`, `LISTEN_FDNAMES`. Descriptors are taken
    /// once in a process.
    #[must_use]
    pub fn from_env(notifier: &Notifier) -> Arc<Self> {
        let text = |name| std::env::var(name).ok();
        let room = text("FDSTORE").and_then(|room| room.parse::<u64>().ok()).unwrap_or(0);
        let manager = notifier.manager().filter(|_| room >= EACH);
        let is_ours = text("LISTEN_PID").is_some_and(|pid| pid.parse() == Ok(std::process::id()));
        let count = text("LISTEN_FDS").filter(|_| is_ours).and_then(|n| n.parse::<i32>().ok());
        let names = text("LISTEN_FDNAMES").unwrap_or_default();
        let given = Mutex::new(given(count.unwrap_or(0), &names));
        Arc::new(Self { manager, given })
    }

    fn given(&self) -> MutexGuard<'_, BTreeMap<String, OwnedFd>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who keeps what watches `share`; none where nothing is kept.
    #[must_use]
    pub fn keeper(self: &Arc<Self>, share: &str) -> Option<Arc<dyn Keeper>> {
        self.manager.as_ref()?;
        Some(Arc::new(ShareKeeper { store: Arc::clone(self), names: names_of(share) }))
    }

    /// Has the manager forget what watches shares that are not among `shares`: nobody reads it any more.
    pub fn keep_only<'a>(&self, shares: impl Iterator<Item = &'a str>) {
        let known: Vec<String> = shares.flat_map(names_of).collect();
        let others: Vec<String> =
            self.given().keys().filter(|name| !known.contains(name)).cloned().collect();
        others.iter().for_each(|name| self.forget(name));
    }

    fn keep(&self, name: &str, descriptor: BorrowedFd<'_>) {
        let words = format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0");
        self.say(&words, Some(descriptor));
    }

    fn forget(&self, name: &str) {
        self.given().remove(name);
        self.say(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), None);
    }

    fn say(&self, words: &str, descriptor: Option<BorrowedFd<'_>>) {
        let Some(manager) = &self.manager else { return };
        // Words of the site's health may be lost, these not if it can be helped: a manager that is busy is waited for.
        let mut ready = [PollFd::new(manager, PollFlags::OUT)];
        rustix::event::poll(&mut ready, Some(&PATIENCE)).unwrap_or(0);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
        if !descriptors.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        }
        let words = [IoSlice::new(words.as_bytes())];
        // Nobody to tell it to.
        rustix::net::sendmsg(manager, &words, &mut ancillary, SendFlags::NOSIGNAL).unwrap_or(0);
    }
}

/// What is called how.
fn names_of(share: &str) -> [String; 2] {
    ["events", "ledger"].map(|what| format!("capture-{share}-{what}"))
}

/// Takes the descriptors that this process was given.
fn given(count: i32, names: &str) -> BTreeMap<String, OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if !(1..=GIVEN_MAX).contains(&count) || TAKEN.swap(true, SeqCst) {
        return BTreeMap::new();
    }
    let mut names = names.split(':');
    let mut given = BTreeMap::new();
    for number in FIRST..FIRST + count {
        // SAFETY: whoever started this process gave it these descriptors, for it to own; they are taken once, and
        // nothing of ours was opened at these numbers, which were in use. A number that is not open is found by
        // the call below and not kept.
        let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
        match rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC) {
            Ok(()) => {
                let name = names.next().unwrap_or_default().to_owned();
                given.insert(name, descriptor);
            }
            // To close it would be to close somebody else's.
            Err(_) => std::mem::forget(descriptor),
        }
    }
    given
}

/// Keeps what watches one share.
#[derive(Debug)]
struct ShareKeeper {
    store: Arc<Store>,
    names: [String; 2],
}

impl Keeper for ShareKeeper {
    fn given(&self) -> Option<Kept> {
        let given = self.store.given();
        let [events, ledger] =
            self.names.each_ref().map(|name| given.get(name)?.as_fd().try_clone_to_owned().ok());
        Some(Kept { events: events?, ledger: ledger? })
    }

    fn keep(&self, events: BorrowedFd<'_>, ledger: BorrowedFd<'_>) {
        let [events_name, ledger_name] = &self.names;
        self.store.keep(events_name, events);
        self.store.keep(ledger_name, ledger);
    }

    fn forget(&self) {
        self.names.iter().for_each(|name| self.store.forget(name));
    }
}

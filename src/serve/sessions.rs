//! Who uses which share.
//!
//! Guarantees: a share has one user at a time; the latest claim of a source gets the share from that
//! source's former sessions, however many of them are still ending or waiting; a session in progress
//! is nobody else's to end. A share is given back when its session ends, however it ends. Once the
//! operator stops the server every link is closed with that reason and no session begins. Nothing
//! survives a crash: a killed server has no sessions.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use farshore_proto::close::CloseCode;
use farshore_proto::link::Link;
use farshore_proto::message::StoreId;
use farshore_transport::KeyId;

/// Time a session that lost its source has to finish the batch it is applying.
pub(crate) const TAKE_OVER: Duration = Duration::from_secs(30);

/// Told to a session whose source has come back in another one.
const TAKEN_OVER: &str = "a later session of this source took its place";

/// Who wants a share.
pub(crate) struct Claimant {
    pub peer: KeyId,
    /// The identity of the source's catalog, which one process at a time has open.
    pub source: StoreId,
    pub link: Arc<dyn Link>,
}

/// Why a share cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ClaimError {
    #[error("is in use by another session; try again when it is over")]
    InUse,
    #[error("was claimed again: {TAKEN_OVER}")]
    Superseded,
    #[error("is not served any more: {STOPPED}")]
    Stopped,
}

/// Told to every session when the operator stops the server.
const STOPPED: &str = "the operator stopped the server";

/// The shares in use.
#[derive(Default)]
pub(crate) struct Sessions {
    shares: Mutex<Shares>,
    freed: Condvar,
}

#[derive(Default)]
struct Shares {
    claims: u64,
    /// By share, the latest claim that was not refused at once.
    latest: BTreeMap<String, u64>,
    holders: BTreeMap<String, Claimant>,
    /// The links of all sessions, also of those that wait, by a number of their own.
    links: BTreeMap<u64, Arc<dyn Link>>,
    sessions: u64,
    stopped: bool,
}

/// A session that has begun, forgotten on drop.
pub(crate) struct Present<'a> {
    sessions: &'a Sessions,
    number: u64,
}

/// A share in use, given back on drop.
pub(crate) struct InUse<'a> {
    sessions: &'a Sessions,
    share: String,
}

impl Sessions {
    /// A session begins over `link`; `None`, and the link closed, once the server stops.
    pub(crate) fn enter(&self, link: Arc<dyn Link>) -> Option<Present<'_>> {
        let mut shares = self.lock();
        if shares.stopped {
            link.close(CloseCode::Stopped as u32, STOPPED);
            return None;
        }
        shares.sessions += 1;
        let number = shares.sessions;
        shares.links.insert(number, link);
        Some(Present { sessions: self, number })
    }

    /// Closes every link; a session ends when the batch it is applying is durable. How many there are.
    pub(crate) fn stop(&self) -> usize {
        let mut shares = self.lock();
        shares.stopped = true;
        for link in shares.links.values() {
            link.close(CloseCode::Stopped as u32, STOPPED);
        }
        self.freed.notify_all();
        shares.links.len()
    }

    /// Closes the link of whoever has `share`: it is not to be written any more.
    pub(crate) fn end(&self, share: &str) {
        if let Some(holder) = self.lock().holders.get(share) {
            holder.link.close(CloseCode::Stopped as u32, "the share's role changed");
        }
    }

    /// Whether the server stops.
    pub(crate) fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// The share for `claimant`. A former session of the same source is told to end and has
    /// `patience` to do so.
    ///
    /// # Errors
    /// [`ClaimError::InUse`] by another source, or by a session that did not end in time;
    /// [`ClaimError::Superseded`] when the same source claimed the share again meanwhile;
    /// [`ClaimError::Stopped`] once the server stops.
    pub(crate) fn claim(
        &self,
        share: &str,
        claimant: Claimant,
        patience: Duration,
    ) -> Result<InUse<'_>, ClaimError> {
        let until = Instant::now() + patience;
        let mut shares = self.lock();
        shares.claims += 1;
        let claim = shares.claims;
        let mut waited = false;
        loop {
            if let Some(holder) = shares.holders.get(share)
                && (holder.peer, holder.source) != (claimant.peer, claimant.source)
            {
                return Err(ClaimError::InUse);
            }
            if shares.stopped {
                return Err(ClaimError::Stopped);
            }
            if waited && shares.latest.get(share).is_some_and(|latest| *latest > claim) {
                return Err(ClaimError::Superseded);
            }
            shares.latest.insert(share.to_owned(), claim);
            let Some(former) = shares.holders.get(share) else {
                shares.holders.insert(share.to_owned(), claimant);
                return Ok(InUse { sessions: self, share: share.to_owned() });
            };
            former.link.close(CloseCode::Busy as u32, TAKEN_OVER);
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ClaimError::InUse);
            }
            waited = true;
            shares =
                self.freed.wait_timeout(shares, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shares> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.sessions.lock().links.remove(&self.number);
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        self.sessions.lock().holders.remove(&self.share);
        self.sessions.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use bytes::Bytes;
    use farshore_proto::link::{BulkReceive, BulkSend, LinkError, LinkStats};
    use farshore_transport::SiteKey;

    use super::*;

    /// Says when it is closed, and nothing else.
    struct Told(mpsc::Sender<u32>);

    impl Link for Told {
        fn send_control(&self, _: Bytes) -> Result<(), LinkError> {
            Ok(())
        }
        fn recv_control(&self) -> Result<Option<Bytes>, LinkError> {
            Ok(None)
        }
        fn finish_control(&self) -> Result<(), LinkError> {
            Ok(())
        }
        fn open_bulk(&self) -> Result<Box<dyn BulkSend>, LinkError> {
            Err(LinkError::MessageTooLarge { len: 0, limit: 0 })
        }
        fn accept_bulk(&self) -> Result<Option<Box<dyn BulkReceive>>, LinkError> {
            Ok(None)
        }
        fn close(&self, code: u32, _: &str) {
            self.0.send(code).unwrap_or(());
        }
        fn stats(&self) -> LinkStats {
            LinkStats::default()
        }
    }

    fn claimant(peer: KeyId, source: u8) -> (Claimant, mpsc::Receiver<u32>) {
        let (told, closed) = mpsc::channel();
        (Claimant { peer, source: StoreId([source; 16]), link: Arc::new(Told(told)) }, closed)
    }

    fn key() -> KeyId {
        SiteKey::generate().expect("key").key_id()
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_share_is_given_back_and_another_source_does_not_get_it_before() {
        let (sessions, peer) = (Sessions::default(), key());
        let held = sessions.claim("a", claimant(peer, 1).0, LONG).expect("free");
        for other in [claimant(peer, 2).0, claimant(key(), 1).0] {
            assert_eq!(sessions.claim("a", other, LONG).err(), Some(ClaimError::InUse));
        }
        drop(sessions.claim("b", claimant(peer, 2).0, LONG).expect("another share"));
        drop(held);
        drop(sessions.claim("a", claimant(peer, 2).0, LONG).expect("free again"));
    }

    #[test]
    fn a_stop_closes_every_link_and_lets_no_session_begin() {
        let (sessions, peer) = (Sessions::default(), key());
        let ((holder, held), (waiter, waits), (late, too_late)) =
            (claimant(peer, 1), claimant(peer, 1), claimant(peer, 2));
        let stopped = Ok(CloseCode::Stopped as u32);
        let _first = sessions.enter(Arc::clone(&holder.link)).expect("begins");
        let _share = sessions.claim("a", holder, LONG).expect("free");
        std::thread::scope(|scope| {
            let sessions = &sessions;
            let waiting = scope.spawn(move || {
                let _second = sessions.enter(Arc::clone(&waiter.link)).expect("begins");
                sessions.claim("a", waiter, LONG).err()
            });
            assert_eq!(held.recv(), Ok(CloseCode::Busy as u32));
            assert_eq!(sessions.stop(), 2);
            assert_eq!(waiting.join().expect("ends"), Some(ClaimError::Stopped));
        });
        assert_eq!((held.recv(), waits.recv()), (stopped, stopped));
        assert!(sessions.enter(late.link).is_none());
        assert_eq!(too_late.recv(), stopped);
    }

    #[test]
    fn a_session_that_does_not_end_keeps_the_share() {
        let (sessions, peer) = (Sessions::default(), key());
        let (former, closed) = claimant(peer, 1);
        let _held = sessions.claim("a", former, LONG).expect("free");
        let soon = Duration::from_millis(20);
        let claimed = sessions.claim("a", claimant(peer, 1).0, soon);
        assert_eq!(claimed.err(), Some(ClaimError::InUse));
        assert_eq!(closed.try_recv(), Ok(CloseCode::Busy as u32));
    }

    /// A source was killed, came back, was killed while it waited for its first session to end, and
    /// comes back once more.
    #[test]
    fn the_latest_of_several_claims_gets_the_share_whoever_waits_with_it() {
        for _ in 0..50 {
            let (sessions, peer) = (Sessions::default(), key());
            let (first, closed) = claimant(peer, 1);
            let held = sessions.claim("a", first, LONG).expect("free");
            std::thread::scope(|scope| {
                let claims: Vec<_> = (0..3)
                    .map(|_| {
                        let (again, told) = claimant(peer, 1);
                        let sessions = &sessions;
                        let claim = scope.spawn(move || {
                            let in_use = sessions.claim("a", again, LONG)?;
                            // A session on a link that died ends when it is told to.
                            if told.recv_timeout(Duration::from_millis(5)).is_err() {
                                std::mem::forget(in_use);
                                return Ok(());
                            }
                            Err(ClaimError::Superseded)
                        });
                        // In this order: each has told the first before the next one comes.
                        assert_eq!(closed.recv(), Ok(CloseCode::Busy as u32));
                        claim
                    })
                    .collect();
                drop(held);
                let ends: Vec<_> = claims.into_iter().map(|c| c.join().expect("ends")).collect();
                let superseded = Err(ClaimError::Superseded);
                assert_eq!(ends, [superseded, superseded, Ok(())]);
            });
        }
    }
}

//! Asking the target for signatures, from several workers over one control stream.
//!
//! Guarantees: requests go out in the order of their numbers; an answer that nobody asked for, or of
//! another length, ends the session; nobody waits once the link is gone, they are then told that the
//! target has nothing. A worker has a share of the requests that may be under way, so that workers
//! never wait for one another.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use farshore_core::delta::Signing;
use farshore_core::recipe::FileDigest;
use farshore_proto::link::{Link, LinkError};
use farshore_proto::message::{Message, Sign};
use farshore_proto::session::{SIGNS_UNDER_WAY_MAX, SessionError, SignLedger};

use super::thrift::Thrift;

/// Where signatures are asked for and come back.
pub struct SignDesk<'a> {
    link: &'a dyn Link,
    share: usize,
    spoken: AtomicBool,
    /// Held while a request is sent, and not to take an answer: the peer may send those first.
    sending: Mutex<()>,
    state: Mutex<State>,
    arrived: Condvar,
    /// Whether it is worth asking.
    pub(super) thrift: Thrift,
}

#[derive(Debug, Default)]
struct State {
    ledger: SignLedger,
    answers: HashMap<u64, Vec<u8>>,
    over: bool,
}

impl std::fmt::Debug for SignDesk<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SignDesk")
    }
}

impl<'a> SignDesk<'a> {
    /// A desk for so many workers, closed until the target says which version it speaks.
    #[must_use]
    pub fn new(link: &'a dyn Link, workers: usize) -> Self {
        Self {
            link,
            share: (SIGNS_UNDER_WAY_MAX / workers.max(1)).max(1),
            spoken: AtomicBool::new(false),
            sending: Mutex::default(),
            state: Mutex::default(),
            arrived: Condvar::new(),
            thrift: Thrift::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The target speaks of signatures.
    pub fn open(&self) {
        self.spoken.store(true, Relaxed);
    }

    /// Whether it does.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.spoken.load(Relaxed)
    }

    /// No answer will come any more.
    pub fn close(&self) {
        self.state().over = true;
        self.arrived.notify_all();
    }

    /// An answer arrived.
    ///
    /// # Errors
    /// [`SessionError::UnaskedAnswer`].
    pub fn answered(&self, id: u64, bytes: Vec<u8>) -> Result<(), SessionError> {
        let mut state = self.state();
        state.ledger.answered(id, bytes.len())?;
        state.answers.insert(id, bytes);
        self.arrived.notify_all();
        Ok(())
    }

    /// Whether every request was answered.
    pub(crate) fn is_idle(&self) -> bool {
        self.state().ledger.is_empty()
    }

    /// Waits until every request was answered, or no answer will come any more.
    pub(crate) fn wait_until_idle(&self) {
        let mut state = self.state();
        while !state.ledger.is_empty() && !state.over {
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Requests one worker may have under way.
    pub(super) fn share(&self) -> usize {
        self.share
    }

    /// Sends a request; its number.
    pub(super) fn ask(
        &self,
        content: FileDigest,
        signing: Signing,
        ranges: Vec<(u64, u64)>,
    ) -> Result<u64, LinkError> {
        let _turn = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        let sign = {
            let mut state = self.state();
            let sign = Sign { id: state.ledger.next_id(), content, signing, ranges };
            state.ledger.asked(&sign);
            sign
        };
        let id = sign.id;
        self.link.send_control(Bytes::from(Message::Sign(sign).to_bytes()))?;
        Ok(id)
    }

    /// The answer to a request, if it is there.
    pub(super) fn poll(&self, id: u64) -> Option<Vec<u8>> {
        let mut state = self.state();
        state.answers.remove(&id).or_else(|| state.over.then(Vec::new))
    }

    /// The answer to a request.
    pub(super) fn wait(&self, id: u64) -> Vec<u8> {
        let mut state = self.state();
        loop {
            match state.answers.remove(&id) {
                Some(answer) => return answer,
                None if state.over => return Vec::new(),
                None => state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

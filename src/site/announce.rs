//! What two ends of a link that is proven tell each other of their keys, again and again.
//!
//! Guarantees: what is said is the whole state, read from disk when it is said, so that `farshore key` and
//! `farshore pair` act on a site that runs; what is heard changes the trust store by its own rules
//! ([`TrustStore::heard`](super::trust::TrustStore::heard)): the other end's own keys alone, by the key this
//! link is proven with. What cannot be read or may not be heard is logged once, and ends no session.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use farshore_engine::ingest::describe;
use farshore_transport::KeyId;

use super::keys::SiteKeys;
use super::log::{Level, Log, Record};
use super::pairing::Announcement;
use super::trust::TrustFile;
use crate::state::now_ms;

/// How often it is said; a session that stands is told of a change within that time.
const EVERY: Duration = Duration::from_secs(5);

/// The talk of keys over one link.
#[derive(Debug)]
pub struct KeyTalk {
    state: PathBuf,
    trust: TrustFile,
    peer: String,
    proven: KeyId,
    log: Log,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    said: Option<Instant>,
    /// What was logged as wrong last.
    wrong: String,
}

impl KeyTalk {
    /// A talk with `peer`, which proved the key `proven`.
    #[must_use]
    pub fn new(state: &Path, peer: &str, proven: KeyId, log: Log) -> Self {
        let (trust, state) = (TrustFile::of(state), state.to_path_buf());
        Self { state, trust, peer: peer.to_owned(), proven, log, inner: Mutex::default() }
    }

    /// What to say now, if it is time to say it.
    #[must_use]
    pub fn due(&self) -> Option<Vec<u8>> {
        {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            if inner.said.is_some_and(|at| at.elapsed() < EVERY) {
                return None;
            }
            inner.said = Some(Instant::now());
        }
        self.said()
    }

    /// What there is to say.
    #[must_use]
    pub fn said(&self) -> Option<Vec<u8>> {
        let said = || {
            let store = self.trust.load().map_err(|e| describe(&e))?;
            let keys = SiteKeys::load(&self.state).map_err(|e| describe(&e))?;
            Ok::<_, String>(keys.announcement(&store, &self.peer).encode())
        };
        said().map_err(|why| self.wrong(why)).ok()
    }

    /// Takes in what the other end said.
    pub fn hear(&self, bytes: &[u8]) {
        let heard = Announcement::decode(bytes).map_err(|e| describe(&e)).and_then(|said| {
            let update = self.trust.update(|store| store.heard(&self.proven, &said, now_ms()));
            update.map_err(|e| describe(&e))
        });
        match heard {
            Ok(lines) => {
                for line in lines {
                    self.log.say(&Record::new(Level::Info, "keys", line));
                }
            }
            Err(why) => self.wrong(why),
        }
    }

    fn wrong(&self, why: String) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.wrong != why {
            let text = format!("keys of '{}': {why}", self.peer);
            self.log.say(&Record::new(Level::Warn, "keys", text));
            inner.wrong = why;
        }
    }
}

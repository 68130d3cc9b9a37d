//! Keys that are trusted now, shared by every endpoint of a site.
//!
//! Guarantees: after [`TrustedKeys::set`] no handshake lets in a key that is not in the new set, and no
//! link of one goes on: it is closed before `set` returns. Links of keys that stay are not touched. A
//! handshake that is under way while its key is taken out ends in a refusal. Nothing survives a crash:
//! the keys come from the caller.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farshore_proto::{close::CloseCode, link::Link};

use crate::{
    identity::KeyId,
    quic_link::{QuicLink, WeakLink},
    trust::KeySet,
};

/// A set of keys that can be changed while links are open. Clones share it.
#[derive(Clone, Default)]
pub struct TrustedKeys(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    keys: KeySet,
    links: Vec<(KeyId, WeakLink)>,
}

impl fmt::Debug for TrustedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TrustedKeys").field(&self.lock().keys).finish()
    }
}

impl TrustedKeys {
    /// These keys, for now.
    #[must_use]
    pub fn new(keys: KeySet) -> Self {
        Self(Arc::new(Mutex::new(Inner { keys, links: Vec::new() })))
    }

    /// The keys trusted now.
    #[must_use]
    pub fn current(&self) -> KeySet {
        self.lock().keys.clone()
    }

    /// Trusts `keys` and no other from now on, and closes the links of others at once. Returns whose
    /// links were closed, one key for each link. Not to be called from inside an async runtime.
    pub fn set(&self, keys: KeySet) -> Vec<KeyId> {
        let mut inner = self.lock();
        let is_out = |(peer, _): &(KeyId, WeakLink)| !keys.contains(peer);
        let (out, stay) = std::mem::take(&mut inner.links).into_iter().partition(is_out);
        inner.links = stay;
        inner.keys = keys;
        // Closing may wait for the network; handshakes need not wait for that.
        drop(inner);
        let out: Vec<(KeyId, WeakLink)> = out;
        let close = |(peer, link): (KeyId, WeakLink)| {
            let link = link.upgrade()?;
            link.close(CloseCode::Stopped as u32, "this site does not trust your key any more");
            Some(peer)
        };
        out.into_iter().filter_map(close).collect()
    }

    /// The same for handshakes alone: links that exist are not touched.
    pub(crate) fn set_for_handshakes(&self, keys: KeySet) {
        self.lock().keys = keys;
    }

    /// Takes note of a new link, unless its peer's key is not trusted (any more).
    pub(crate) fn admit(&self, link: &QuicLink) -> bool {
        let mut inner = self.lock();
        let trusted = inner.keys.contains(&link.peer());
        if trusted {
            inner.links.retain(|(_, link)| !link.is_gone());
            inner.links.push((link.peer(), link.weak()));
        }
        trusted
    }

    /// A panic elsewhere leaves the set whole.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

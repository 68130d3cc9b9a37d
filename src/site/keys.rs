//! This site's own keys, and how one takes the place of another without downtime.
//!
//! 1. [`rotate`] makes `<state>/site.key.next`. The key in use stays `site.key`.
//! 2. The next key is announced to the peer over a link proven by the key in use
//!    ([`SiteKeys::announcement`]); the peer trusts both and says so.
//! 3. From then on the next key is the one shown to new links ([`SiteKeys::shown`]).
//! 4. [`retire`] renames `site.key.next` over `site.key`. The former key is gone; the peer is told so
//!    and revokes it.
//!
//! Guarantees: at every step, and after a crash at any, the key that is shown is one the peer trusts.
//! Refuses to retire a key before the peer acknowledged the next one, unless told to.

use crate::exit::{Exit, Failure};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use farshore_transport::{KeyId, SiteKey, SiteKeyError};

use super::pairing::Announcement;
use super::trust::{TrustError, TrustFile, TrustStore};

/// The key in use, and the one that will be.
#[derive(Debug)]
pub struct SiteKeys {
    /// `site.key`.
    pub current: SiteKey,
    /// `site.key.next`, while a change is under way.
    pub next: Option<SiteKey>,
}

/// Why own keys cannot be had or changed.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A key file is missing or cannot be used.
    #[error(transparent)]
    Key(#[from] SiteKeyError),
    /// The trust store cannot be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Nothing to retire.
    #[error("no change of keys is under way: there is no {}", path.display())]
    NoNext {
        /// Where the next key would be.
        path: PathBuf,
    },
    /// The peer does not know the next key.
    #[error("'{peer}' has not acknowledged the next key {next}: it would refuse this site")]
    NotAcknowledged {
        /// Who.
        peer: String,
        /// The next key.
        next: KeyId,
    },
    /// The key cannot be put in place.
    #[error("key {}: {step}", path.display())]
    Replace {
        /// The file.
        path: PathBuf,
        /// What was to be done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

fn current_path(state: &Path) -> PathBuf {
    state.join("site.key")
}

fn next_path(state: &Path) -> PathBuf {
    state.join("site.key.next")
}

impl SiteKeys {
    /// Those of a state folder.
    ///
    /// # Errors
    /// [`SiteKeyError`] naming the file.
    pub fn load(state: &Path) -> Result<Self, SiteKeyError> {
        let current = SiteKey::load(&current_path(state))?;
        let next = match SiteKey::load(&next_path(state)) {
            Err(SiteKeyError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                None
            }
            loaded => Some(loaded?),
        };
        Ok(Self { current, next })
    }

    /// The key to show to `peer`: the next one as soon as the peer said that it trusts it.
    #[must_use]
    pub fn shown(&self, trust: &TrustStore, peer: &str) -> &SiteKey {
        let known = |key: &&SiteKey| {
            let peer = trust.peers().get(peer);
            peer.is_some_and(|peer| peer.acknowledged.contains(&key.key_id()))
        };
        self.next.as_ref().filter(known).unwrap_or(&self.current)
    }

    /// [`Self::shown`], taken out.
    #[must_use]
    pub fn into_shown(self, trust: &TrustStore, peer: &str) -> SiteKey {
        let shown = self.shown(trust, peer).key_id();
        match self.next {
            Some(next) if next.key_id() == shown => next,
            _ => self.current,
        }
    }

    /// What `peer` is to be told at the beginning of every session, and when something of it changes.
    #[must_use]
    pub fn announcement(&self, trust: &TrustStore, peer: &str) -> Announcement {
        // A crash within `retire` may have left the key in use among those that are given up.
        let current = self.current.key_id();
        let retired = trust.retired().iter().copied().filter(|id| *id != current).collect();
        Announcement {
            next: self.next.as_ref().map(SiteKey::key_id),
            trusts: trust.keys_of(peer).iter().copied().collect(),
            retired,
        }
    }
}

/// The key of the site with this state folder that is to be shown to `peer`.
///
/// # Errors
/// [`Failure`] when the keys or the trust store cannot be read.
pub fn shown_to(state: &Path, peer: &str) -> Result<SiteKey, Failure> {
    let store = TrustFile::of(state).load().map_err(|e| e.failure())?;
    let keys = SiteKeys::load(state).map_err(|e| Failure::new(Exit::Refused, &e))?;
    Ok(keys.into_shown(&store, peer))
}

/// Makes the next key, or returns the one that was made before.
///
/// # Errors
/// [`SiteKeyError`] naming the file.
pub fn rotate(state: &Path) -> Result<SiteKeys, SiteKeyError> {
    let mut keys = SiteKeys::load(state)?;
    if keys.next.is_none() {
        keys.next = Some(SiteKey::create(&next_path(state))?);
    }
    Ok(keys)
}

/// Makes the next key the key, and returns both ids: the former, the new. `force` goes on although a
/// peer does not know it.
///
/// # Errors
/// [`KeysError`]; the former key stays in use.
pub fn retire(state: &Path, force: bool) -> Result<(KeyId, KeyId), KeysError> {
    let keys = SiteKeys::load(state)?;
    let path = current_path(state);
    let next = keys.next.ok_or_else(|| KeysError::NoNext { path: next_path(state) })?.key_id();
    let file = TrustFile::of(state);
    let store = file.load()?;
    let ignorant = store.peers().iter().find(|(name, peer)| {
        store.keys_of(name).iter().next().is_some() && !peer.acknowledged.contains(&next)
    });
    if let Some((peer, _)) = ignorant.filter(|_| !force) {
        return Err(KeysError::NotAcknowledged { peer: peer.clone(), next });
    }
    let former = keys.current.key_id();
    // 1. Said to be given up. A crash here: the next call does the rest; see `announcement`.
    file.update(|store| {
        store.retire_own(former);
        Ok(())
    })?;
    // 2. Replaced.
    let failed = |step| {
        let path = path.clone();
        move |source| KeysError::Replace { path, step, source }
    };
    std::fs::rename(next_path(state), &path)
        .map_err(failed("putting the next key in its place"))?;
    // 3. Durable.
    File::open(state).and_then(|f| f.sync_all()).map_err(failed("syncing its folder"))?;
    Ok((former, next))
}

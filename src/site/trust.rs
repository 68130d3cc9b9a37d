//! Whom this site trusts: which keys the peer may show, and what the peer knows of ours.
//!
//! ```text
//! <state>/trust.toml   mode 0600, replaced whole: written beside, synced, renamed, the folder synced
//! <state>/trust.lock   held by whoever changes it
//! ```
//! A key is *current*, *next* (both are trusted: while a peer changes its key, either may come) or
//! *revoked*, with the reason. Guarantees: a key is of one peer; a revoked key is never trusted again; a
//! peer has two trusted keys at most, and can by its own word ([`Announcement`]) add and retire keys of
//! itself alone, never its last. Refuses a file that it does not understand whole, or that others may
//! write: it is never taken for an empty one, which would be to forget what was revoked. A file that is
//! not there is a site that trusts nobody yet. After a crash the former file or the new one is there.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use farshore_transport::{KeyId, KeySet};
use serde::{Deserialize, Serialize};

use super::config::values::parse_site_name;
use super::pairing::Announcement;
use crate::exit::{Exit, Failure};
use crate::report::utc;
use crate::state::write_durably;

/// Thousands of keys fit.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Keys of one peer that are trusted at a time.
const TRUSTED_MAX: usize = 2;
/// Longest reason of a revocation, in bytes.
const REASON_MAX: usize = 200;
/// Own keys that were given up and are still announced as such.
const RETIRED_MAX: usize = 4;

/// Why the trust store cannot be used, or not changed so.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// It cannot be read.
    #[error("trust store {}: reading it", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others may write it.
    #[error("trust store {}: others may write it (mode {mode:04o}); check what it says with 'farshore pair --list', then: chmod 600 {}", path.display(), path.display())]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It does not make sense.
    #[error("trust store {}: {what}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// It cannot be written.
    #[error("trust store {}: {step}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What was to be done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A rule forbids the change.
    #[error("{0}")]
    Rule(String),
}

impl TrustError {
    /// As the command line shows it, with what to do.
    #[must_use]
    pub fn failure(&self) -> Failure {
        let failure = Failure::new(Exit::Refused, self);
        match self {
            Self::Broken { path, .. } => failure.hint(format!(
                "bring back {} from a backup, or move it away and pair again; until then nobody is let in",
                path.display()
            )),
            _ => failure,
        }
    }
}

/// How far a key is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// It is the peer's key.
    Current,
    /// It will be: trusted already.
    Next,
    /// It never is again.
    Revoked,
}

/// A key of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerKey {
    /// Which.
    pub id: KeyId,
    /// How far it is trusted.
    pub state: KeyState,
    /// Since when it is in that state, UTC.
    pub since: String,
    /// Why it was revoked; empty for others.
    pub reason: String,
}

/// A peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerTrust {
    /// Its keys, in the order they became known.
    pub keys: Vec<PeerKey>,
    /// Our keys that it said it trusts.
    pub acknowledged: Vec<KeyId>,
}

impl PeerTrust {
    fn trusted(&self) -> impl Iterator<Item = &PeerKey> {
        self.keys.iter().filter(|key| key.state != KeyState::Revoked)
    }

    /// There is a current key wherever there is a trusted one.
    fn settle(&mut self, now: &str) {
        if self.keys.iter().any(|key| key.state == KeyState::Current) {
            return;
        }
        if let Some(next) = self.keys.iter_mut().find(|key| key.state == KeyState::Next) {
            (next.state, next.since) = (KeyState::Current, now.to_owned());
        }
    }
}

/// All that is known of keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustStore {
    peers: BTreeMap<String, PeerTrust>,
    /// Keys of our own that are given up, the latest last.
    retired: Vec<KeyId>,
}

/// What became of a key that was to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trusted {
    /// It was trusted before.
    Already,
    /// It is the peer's key now.
    AsCurrent,
    /// It is trusted beside the one that was.
    AsNext,
}

impl TrustStore {
    /// The peers by name.
    #[must_use]
    pub const fn peers(&self) -> &BTreeMap<String, PeerTrust> {
        &self.peers
    }

    /// The keys that the peer called `name` may show; empty for a peer nobody knows.
    #[must_use]
    pub fn keys_of(&self, name: &str) -> KeySet {
        let keys = self.peers.get(name).into_iter().flat_map(PeerTrust::trusted);
        keys.map(|key| key.id).collect()
    }

    /// The keys of every peer.
    #[must_use]
    pub fn keys(&self) -> KeySet {
        self.peers.values().flat_map(PeerTrust::trusted).map(|key| key.id).collect()
    }

    /// Keys of our own that were given up.
    #[must_use]
    pub fn retired(&self) -> &[KeyId] {
        &self.retired
    }

    /// Whose key `id` is, and which.
    #[must_use]
    pub fn find(&self, id: &KeyId) -> Option<(&str, &PeerKey)> {
        self.peers.iter().find_map(|(name, peer)| {
            let key = peer.keys.iter().find(|key| key.id == *id)?;
            Some((name.as_str(), key))
        })
    }

    /// Trusts `id` as a key of `name`: as its current one, or beside that as the next.
    ///
    /// # Errors
    /// [`TrustError::Rule`] for a revoked key, a key of another peer, and a third one.
    pub fn trust(&mut self, name: &str, id: KeyId, now_ms: i64) -> Result<Trusted, TrustError> {
        let name = parse_site_name(name).map_err(TrustError::Rule)?;
        if let Some((owner, known)) = self.find(&id) {
            return match known.state {
                KeyState::Revoked => Err(TrustError::Rule(format!(
                    "key {id} was revoked on {} ({}); a revoked key is never trusted again: have that site \
                     make a new one",
                    known.since, known.reason
                ))),
                _ if owner == name => Ok(Trusted::Already),
                _ => Err(TrustError::Rule(format!("key {id} is that of '{owner}' already"))),
            };
        }
        let peer = self.peers.entry(name.clone()).or_default();
        let count = peer.trusted().count();
        if count >= TRUSTED_MAX {
            return Err(TrustError::Rule(format!(
                "'{name}' has {count} trusted keys; revoke one with 'farshore pair --revoke KEYID' first"
            )));
        }
        let (state, outcome) = match count {
            0 => (KeyState::Current, Trusted::AsCurrent),
            _ => (KeyState::Next, Trusted::AsNext),
        };
        peer.keys.push(PeerKey { id, state, since: utc(now_ms), reason: String::new() });
        Ok(outcome)
    }

    /// Revokes `id` for good; a next key takes the place of a current one. Returns whose it was.
    ///
    /// # Errors
    /// [`TrustError::Rule`] for a key nobody knows.
    pub fn revoke(&mut self, id: &KeyId, reason: &str, now_ms: i64) -> Result<String, TrustError> {
        let unknown = || {
            TrustError::Rule(format!(
                "key {id} is not known here; 'farshore pair --list' shows all"
            ))
        };
        let name = self.find(id).map(|(name, _)| name.to_owned()).ok_or_else(unknown)?;
        let now = utc(now_ms);
        let peer = self.peers.get_mut(&name).ok_or_else(unknown)?;
        for key in peer.keys.iter_mut().filter(|key| key.id == *id) {
            if key.state != KeyState::Revoked {
                key.state = KeyState::Revoked;
                key.since.clone_from(&now);
                key.reason = plain_reason(reason);
            }
        }
        peer.settle(&now);
        Ok(name)
    }

    /// Takes in what a peer says of its keys over a link that it proved `shown` for. Returns what
    /// changed, a line each.
    ///
    /// # Errors
    /// [`TrustError::Rule`]; then nothing changed.
    pub fn heard(
        &mut self,
        shown: &KeyId,
        said: &Announcement,
        now_ms: i64,
    ) -> Result<Vec<String>, TrustError> {
        let mut changed = self.clone();
        let lines = changed.hear(shown, said, now_ms)?;
        *self = changed;
        Ok(lines)
    }

    fn hear(
        &mut self,
        shown: &KeyId,
        said: &Announcement,
        now_ms: i64,
    ) -> Result<Vec<String>, TrustError> {
        let name = match self.find(shown) {
            Some((name, key)) if key.state != KeyState::Revoked => name.to_owned(),
            _ => return Err(TrustError::Rule(format!("key {shown} is not trusted here"))),
        };
        let now = utc(now_ms);
        let mut lines = Vec::new();
        // First, so that there is room for the next.
        let peer = self.peers.entry(name.clone()).or_default();
        for key in peer.keys.iter_mut().filter(|key| key.state != KeyState::Revoked) {
            if said.retired.contains(&key.id) && key.id != *shown {
                key.state = KeyState::Revoked;
                key.since.clone_from(&now);
                key.reason = "given up by its own site".to_owned();
                lines.push(format!("'{name}' gave up its key {}", key.id));
            }
        }
        peer.settle(&now);
        if peer.acknowledged != said.trusts {
            peer.acknowledged.clone_from(&said.trusts);
            lines.push(format!("'{name}' trusts {} keys of this site", said.trusts.len()));
        }
        if let Some(next) = said.next
            && self.trust(&name, next, now_ms)? != Trusted::Already
        {
            lines.push(format!("'{name}' announced its next key {next}; both are trusted"));
        }
        Ok(lines)
    }

    /// Takes note that a key of our own is given up.
    pub fn retire_own(&mut self, id: KeyId) {
        self.retired.retain(|known| *known != id);
        self.retired.push(id);
        let old = self.retired.len().saturating_sub(RETIRED_MAX);
        self.retired.drain(..old);
    }

    fn parse(text: &str) -> Result<Self, String> {
        let stored: Stored = toml::from_str(text).map_err(|e| e.to_string().trim().to_owned())?;
        if stored.version != VERSION {
            return Err(format!("version {} is not one this Farshore knows", stored.version));
        }
        let ids = |texts: Vec<String>| {
            let each = |text: String| text.parse().map_err(|e| format!("'{text}': {e}"));
            texts.into_iter().map(each).collect::<Result<Vec<KeyId>, String>>()
        };
        let mut store = Self { retired: ids(stored.own.retired)?, ..Self::default() };
        for peer in stored.peer {
            let name = parse_site_name(&peer.name)?;
            let mut read = PeerTrust { acknowledged: ids(peer.acknowledged)?, keys: Vec::new() };
            for key in peer.key {
                let id = key.id.parse().map_err(|e| format!("'{}': {e}", key.id))?;
                let twice = read.keys.iter().any(|known| known.id == id);
                if twice || store.find(&id).is_some() {
                    return Err(format!("key {id} is in it twice"));
                }
                let (state, since, reason) = (key.state, key.since, key.reason);
                read.keys.push(PeerKey { id, state, since, reason });
            }
            let current = read.trusted().filter(|key| key.state == KeyState::Current).count();
            let trusted = read.trusted().count();
            if trusted > TRUSTED_MAX || current != trusted.min(1) {
                return Err(format!(
                    "'{name}' has {trusted} trusted keys, {current} of them current"
                ));
            }
            if store.peers.insert(name.clone(), read).is_some() {
                return Err(format!("'{name}' is in it twice"));
            }
        }
        Ok(store)
    }

    fn show(&self) -> Result<String, String> {
        let texts = |ids: &[KeyId]| ids.iter().map(ToString::to_string).collect();
        let key = |key: &PeerKey| StoredKey {
            id: key.id.to_string(),
            state: key.state,
            since: key.since.clone(),
            reason: key.reason.clone(),
        };
        let peer = |(name, peer): (&String, &PeerTrust)| StoredPeer {
            name: name.clone(),
            acknowledged: texts(&peer.acknowledged),
            key: peer.keys.iter().map(key).collect(),
        };
        let stored = Stored {
            version: VERSION,
            own: StoredOwn { retired: texts(&self.retired) },
            peer: self.peers.iter().map(peer).collect(),
        };
        let text = toml::to_string(&stored).map_err(|e| e.to_string())?;
        Ok(format!(
            "# Whom this site trusts. Changed by 'farshore pair' and 'farshore key'.\n{text}"
        ))
    }
}

fn plain_reason(reason: &str) -> String {
    let mut shown = farshore_core::path::escape_text(reason);
    while shown.len() > REASON_MAX {
        shown.pop();
    }
    shown
}

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    own: StoredOwn,
    #[serde(default)]
    peer: Vec<StoredPeer>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredOwn {
    retired: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredPeer {
    name: String,
    acknowledged: Vec<String>,
    #[serde(default)]
    key: Vec<StoredKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredKey {
    id: String,
    state: KeyState,
    since: String,
    reason: String,
}

/// Where the trust store is.
#[derive(Debug, Clone)]
pub struct TrustFile {
    path: PathBuf,
}

/// Tells one version of the file from another: a replaced file is another inode.
type Stamp = Option<(u64, i64, i64, u64)>;

impl TrustFile {
    /// That of a state folder.
    #[must_use]
    pub fn of(state: &Path) -> Self {
        Self { path: state.join("trust.toml") }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says; nothing where there is none.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn load(&self) -> Result<TrustStore, TrustError> {
        let path = &self.path;
        let failed = |source| TrustError::Read { path: path.clone(), source };
        let broken = |what: String| TrustError::Broken { path: path.clone(), what };
        // Not blocking, so that a pipe put there cannot hold us.
        let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
        let file = match OpenOptions::new().read(true).custom_flags(nonblocking).open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(TrustStore::default()),
            opened => opened.map_err(failed)?,
        };
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(broken("not a file".to_owned()));
        }
        let mode = metadata.mode() & 0o7777;
        if mode & 0o022 != 0 {
            return Err(TrustError::TooOpen { path: path.clone(), mode });
        }
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
        let text = String::from_utf8(bytes).ok().filter(|t| t.len() as u64 <= FILE_BYTES_MAX);
        let text = text.ok_or_else(|| broken("not a text of at most 1 MiB".to_owned()))?;
        TrustStore::parse(&text).map_err(broken)
    }

    /// Changes what it says, one process at a time, and makes it durable.
    ///
    /// # Errors
    /// [`TrustError`], and whatever `change` refuses; the file is as it was.
    pub fn update<T>(
        &self,
        change: impl FnOnce(&mut TrustStore) -> Result<T, TrustError>,
    ) -> Result<T, TrustError> {
        let failed =
            |step| move |source| TrustError::Write { path: self.path.clone(), step, source };
        let folder = self.path.parent().unwrap_or_else(|| Path::new("."));
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(folder.join("trust.lock"))
            .map_err(failed("opening its lock"))?;
        // Given back when the file is closed, also by a crash.
        lock.lock().map_err(failed("waiting for its lock"))?;
        let mut store = self.load()?;
        let before = store.clone();
        let outcome = change(&mut store)?;
        if store != before || !self.path.exists() {
            self.write(&store)?;
        }
        Ok(outcome)
    }

    fn write(&self, store: &TrustStore) -> Result<(), TrustError> {
        let failed =
            |step| move |source| TrustError::Write { path: self.path.clone(), step, source };
        let text =
            store.show().map_err(|e| failed("putting it into words")(io::Error::other(e)))?;
        write_durably(&self.path, text.as_bytes()).map_err(failed("writing it"))
    }

    fn stamp(&self) -> Stamp {
        let metadata = std::fs::metadata(&self.path).ok()?;
        Some((metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.size()))
    }
}

/// Notices changes of the trust store, by whoever they are made.
#[derive(Debug)]
pub struct TrustWatch {
    file: TrustFile,
    seen: Option<Stamp>,
}

impl TrustWatch {
    /// Nothing seen yet.
    #[must_use]
    pub const fn new(file: TrustFile) -> Self {
        Self { file, seen: None }
    }

    /// What the file says, when it is another one than at the last call; one call costs one stat. A file
    /// that cannot be used is told once, and what was trusted before stays in force by the caller.
    pub fn poll(&mut self) -> Option<Result<TrustStore, TrustError>> {
        let stamp = self.file.stamp();
        if self.seen == Some(stamp) {
            return None;
        }
        self.seen = Some(stamp);
        Some(self.file.load())
    }
}

#[cfg(test)]
mod tests;

//! Whose keys are shown and let in, what nodes report, and how fast the line may be used: what the daemon
//! does beside its sessions.
//!
//! Guarantees: a key of a node opens nothing but that node's reports; the key shown to whoever dials in is one
//! that all of those trust who are trusted here; a limit of the line is in force within a second of its time.

use super::sending::Outgoing;
use super::*;
use crate::site::keys::shown_to;

impl Daemon {
    /// The key to show to the peer.
    pub(super) fn key(&self) -> Result<SiteKey, Failure> {
        shown_to(self.state.folder(), &self.config().peer.name)
    }

    /// The key to show to whoever dials in: the next one as soon as all of them trust it.
    pub(super) fn listening_key(&self) -> Result<SiteKey, Failure> {
        let refused = |e: &dyn std::error::Error| Failure::new(Exit::Refused, e);
        let store = self.trust.load().map_err(|e| e.failure())?;
        let keys = SiteKeys::load(self.state.folder()).map_err(|e| refused(&e))?;
        let config = self.config();
        let nodes = config.shares.iter().flat_map(|share| &share.nodes);
        let trusted = nodes.filter(|node| store.keys_of(node).iter().next().is_some());
        let current = keys.current.key_id();
        let others = |name: &String| keys.shown(&store, name).key_id() == current;
        let name = trusted.chain([&config.peer.name]).find(|name| others(name));
        let name = name.unwrap_or(&config.peer.name).clone();
        Ok(keys.into_shown(&store, &name))
    }

    /// Shows another key from now on, if it is another one.
    pub(super) fn show_key(&self, listener: Option<&Listener>, shown: &mut Option<KeyId>) {
        let Some(listener) = listener else { return };
        // What cannot be read now is said by the talk of keys; the former key goes on.
        let Ok(key) = self.listening_key() else { return };
        if *shown != Some(key.key_id()) && listener.set_key(&key).is_ok() {
            self.say(Level::Info, "keys", format!("{} is shown to new links", key.key_id()));
            *shown = Some(key.key_id());
        }
    }

    pub(super) fn talk(&self, name: &str, link: &QuicLink) -> KeyTalk {
        KeyTalk::new(self.state.folder(), name, link.peer(), self.log.clone())
    }

    /// Takes in what a node reports, if it is one of this share and proved its own key.
    pub(super) fn attend(
        &self,
        outgoing: &Outgoing,
        link: QuicLink,
        remote: &str,
        versions: (u16, u16),
        node: &str,
    ) {
        let share = outgoing.sender.share();
        if !understands_sites(versions) {
            let text = format!("this site speaks version {PROTOCOL_VERSION} to nodes");
            return target::refuse(&link, CloseCode::VersionMismatch, &text);
        }
        let is_its = self.trust.load().is_ok_and(|s| s.keys_of(node).contains(&link.peer()));
        if !is_its || !outgoing.nodes.lists(node) {
            // Its name is its own word.
            let node = farshore_core::path::escape_text(node);
            let text = format!("no node '{node}' of share '{share}' has this key");
            self.say_of(share, Level::Warn, "node", format!("{remote}: {text}"));
            return target::refuse(&link, CloseCode::ProtocolViolation, &text);
        }
        self.say_of(share, Level::Info, "node", format!("'{node}' reports from {remote}"));
        let talk = self.talk(node, &link);
        let link: Arc<dyn Link> = Arc::new(link);
        let why = outgoing.nodes.attend(node, &link, Some(&talk));
        let why = farshore_engine::ingest::describe(&why);
        self.say_of(share, Level::Warn, "node", format!("'{node}': {why}"));
    }
}

/// Who may dial in.
pub(super) fn let_in(store: &TrustStore, config: &SiteConfig) -> KeySet {
    let nodes = config.shares.iter().flat_map(|share| &share.nodes);
    let names = nodes.chain([&config.peer.name]);
    names.flat_map(|name| store.keys_of(name).iter().copied().collect::<Vec<_>>()).collect()
}

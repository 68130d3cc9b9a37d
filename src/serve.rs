//! Serving shares to sources on other machines.
//!
//! Guarantees: only peers whose keys are allowed get past the handshake; a share is used by one
//! session at a time, a second one is told so; a session that fails leaves the others alone. What a
//! killed server leaves behind is finished when the share is next opened.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use farshore_engine::catalog::CatalogRole;
use farshore_engine::target;
use farshore_proto::close::CloseCode;
use farshore_proto::message::Message;
use farshore_transport::{Incoming, KeySet, Listener, SiteKey, TransportConfig};

use crate::exit::{Exit, Failure};
use crate::replicate::{TargetOptions, open_catalog, open_root};
use crate::state::{State, path_bytes};

/// What is served, and to whom.
#[derive(Debug)]
pub struct ServeOptions {
    /// Where to listen.
    pub listen: SocketAddr,
    /// This site's key.
    pub key: SiteKey,
    /// Peers that are let in.
    pub allowed: KeySet,
    /// Roots (resolved and checked) by the shares' names.
    pub shares: BTreeMap<String, PathBuf>,
    /// The state folder.
    pub state: State,
    /// How targets run.
    pub target: TargetOptions,
}

/// Serves until the listener fails. `log` gets one line an event; `ready` is called with the bound
/// address once peers can connect.
///
/// # Errors
/// [`Failure`] when the address cannot be bound.
pub fn serve(
    options: &ServeOptions,
    log: &(dyn Fn(&str) + Sync),
    ready: &dyn Fn(SocketAddr),
) -> Result<(), Failure> {
    let config = TransportConfig::for_addr(options.listen);
    let listener =
        Listener::bind(options.listen, &options.key, options.allowed.clone(), config)
            .map_err(|e| Failure::new(Exit::Connection, &e))?;
    ready(listener.local_addr());
    let busy: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    std::thread::scope(|scope| {
        while let Ok(incoming) = listener.accept() {
            let busy = &busy;
            scope.spawn(move || session(options, incoming, busy, log));
        }
    });
    Ok(())
}

/// A share's name is taken out of the set when its session ends, however it ends.
struct InUse<'a> {
    busy: &'a Mutex<BTreeSet<String>>,
    share: String,
}

impl<'a> InUse<'a> {
    fn claim(busy: &'a Mutex<BTreeSet<String>>, share: &str) -> Option<Self> {
        let mut names = busy.lock().unwrap_or_else(PoisonError::into_inner);
        names.insert(share.to_owned()).then(|| Self { busy, share: share.to_owned() })
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.share);
    }
}

fn session(
    options: &ServeOptions,
    incoming: Incoming,
    busy: &Mutex<BTreeSet<String>>,
    log: &(dyn Fn(&str) + Sync),
) {
    let Incoming { link, peer, remote } = incoming;
    let hello = match target::receive_hello(&link) {
        Ok(hello) => hello,
        Err(e) => return log(&format!("{remote}: {}", farshore_engine::ingest::describe(&e))),
    };
    let Message::Hello { share, .. } = &hello else { return };
    let mut shown = String::new();
    farshore_core::path::escape(share.as_bytes(), &mut shown).unwrap_or(());
    let Some(root) = options.shares.get(share) else {
        log(&format!("{remote}: {peer} asked for share '{shown}', which is not served"));
        let text = format!("no share '{shown}' is served here");
        return target::refuse(&link, CloseCode::UnknownShare, &text);
    };
    let Some(_in_use) = InUse::claim(busy, share) else {
        log(&format!("{remote}: share '{shown}' is in use by another session"));
        let text = format!("share '{shown}' is in use by another session; try again when it is over");
        return target::refuse(&link, CloseCode::Busy, &text);
    };
    log(&format!("{remote}: share '{shown}': session begins"));
    let opened = open_root("target", root).and_then(|storage| {
        let (catalog, folder) =
            open_catalog(&options.state, CatalogRole::Target, &[path_bytes(root)])?;
        Ok((storage, catalog, options.target.config(folder)?))
    });
    let (storage, catalog, config) = match opened {
        Ok(opened) => opened,
        Err(failure) => {
            log(&format!("share '{shown}': {failure}"));
            return target::refuse(&link, CloseCode::Internal, &failure.message);
        }
    };
    match target::run(&storage, &catalog, &link, &hello, &config) {
        Ok(report) => log(&format!(
            "{remote}: share '{shown}': session over, {} batches applied, recovery point {}",
            report.batches,
            if report.sealed { "recorded" } else { "unchanged" },
        )),
        Err(e) => log(&format!(
            "{remote}: share '{shown}': session failed: {}",
            farshore_engine::ingest::describe(&e)
        )),
    }
}

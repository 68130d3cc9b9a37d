//! Serving shares to sources on other machines.
//!
//! Guarantees: only peers whose keys are allowed get past the handshake; a share is used by one
//! session at a time, a second one is told so; a session that fails leaves the others alone; a peer
//! that says nothing is shown out. What a killed server leaves behind is finished when the share is
//! next opened.
//!
//! A source that was killed leaves a session behind that ends by the idle timeout only. Its next one
//! need not wait: it has the same key and the same catalog, which one process at a time has open, so
//! the former session's source is gone, and the new session takes its place.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use farshore_engine::catalog::CatalogRole;
use farshore_engine::deadline::within;
use farshore_engine::io::uring::{IoMode, VerbUsage};
use farshore_engine::profile::Profile;
use farshore_engine::target::{self, TargetConfig};
use farshore_proto::close::CloseCode;
use farshore_proto::link::Link;
use farshore_proto::message::{Message, StoreId};
use farshore_transport::{Incoming, KeyId, KeySet, Listener, QuicLink, SiteKey, TransportConfig};

use crate::exit::{Exit, Failure};
use crate::replicate::{TargetOptions, open_catalog, open_root, remote_threads};
use crate::report::profile::Usage;
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
    /// How small files are created.
    pub io: IoMode,
    /// Whether the log says where each session's time went.
    pub profile: bool,
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
    let listener = Listener::bind(options.listen, &options.key, options.allowed.clone(), config)
        .map_err(|e| Failure::new(Exit::Connection, &e))?;
    ready(listener.local_addr());
    let sessions = Sessions::default();
    std::thread::scope(|scope| {
        while let Ok(incoming) = listener.accept() {
            let sessions = &sessions;
            scope.spawn(move || session(options, incoming, sessions, log));
        }
    });
    Ok(())
}

/// Time a peer has for its first message.
const HELLO: Duration = Duration::from_secs(10);
/// Time a session that lost its source has to finish the batch it is applying.
const TAKE_OVER: Duration = Duration::from_secs(30);

/// Who uses a share.
struct Holder {
    peer: KeyId,
    source: StoreId,
    link: QuicLink,
}

/// The shares in use.
#[derive(Default)]
struct Sessions {
    holders: Mutex<BTreeMap<String, Holder>>,
    freed: Condvar,
}

/// A share is given back when its session ends, however it ends.
struct InUse<'a> {
    sessions: &'a Sessions,
    share: String,
}

impl Sessions {
    /// The share for `holder`; from a former session of the same source it is taken, from another
    /// one it is not.
    fn claim(&self, share: &str, holder: Holder) -> Option<InUse<'_>> {
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(former) = holders.get(share) {
            if (former.peer, former.source) != (holder.peer, holder.source) {
                return None;
            }
            let reason = "a later session of this source took its place";
            former.link.close(CloseCode::Busy as u32, reason);
            holders = self
                .freed
                .wait_timeout_while(holders, TAKE_OVER, |h| h.contains_key(share))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        if holders.contains_key(share) {
            return None;
        }
        holders.insert(share.to_owned(), holder);
        Some(InUse { sessions: self, share: share.to_owned() })
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        let holders = &self.sessions.holders;
        holders.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.share);
        self.sessions.freed.notify_all();
    }
}

fn session(
    options: &ServeOptions,
    incoming: Incoming,
    sessions: &Sessions,
    log: &(dyn Fn(&str) + Sync),
) {
    let Incoming { link, peer, remote } = incoming;
    let late = "no hello came in time";
    let heard =
        within(&link, HELLO, CloseCode::ProtocolViolation, late, || target::receive_hello(&link));
    let hello = match heard {
        Ok(hello) => hello,
        Err(e) => return log(&format!("{remote}: {}", farshore_engine::ingest::describe(&e))),
    };
    let Message::Hello { share, source, .. } = &hello else { return };
    let mut shown = String::new();
    farshore_core::path::escape(share.as_bytes(), &mut shown).unwrap_or(());
    let Some(root) = options.shares.get(share) else {
        log(&format!("{remote}: {peer} asked for share '{shown}', which is not served"));
        let text = format!("no share '{shown}' is served here");
        return target::refuse(&link, CloseCode::UnknownShare, &text);
    };
    let holder = Holder { peer, source: *source, link: link.clone() };
    let Some(_in_use) = sessions.claim(share, holder) else {
        log(&format!("{remote}: share '{shown}' is in use by another session"));
        let text =
            format!("share '{shown}' is in use by another session; try again when it is over");
        return target::refuse(&link, CloseCode::Busy, &text);
    };
    log(&format!("{remote}: share '{shown}': session begins"));
    let profile = Arc::<Profile>::default();
    let opened = open_root("target", root, options.io).and_then(|storage| {
        let (catalog, folder) =
            open_catalog(&options.state, CatalogRole::Target, &[path_bytes(root)])?;
        let config = options.target.config(folder, Arc::clone(&profile))?;
        Ok((storage, catalog, TargetConfig { stagers: remote_threads(), ..config }))
    });
    let (storage, catalog, config) = match opened {
        Ok(opened) => opened,
        Err(failure) => {
            log(&format!("share '{shown}': {failure}"));
            return target::refuse(&link, CloseCode::Internal, &failure.message);
        }
    };
    if let Some(why) = storage.usage().refused {
        log(&format!("share '{shown}': io_uring is not used: {why}"));
    }
    let begun = Instant::now();
    let ran = target::run(&storage, &catalog, &link, &hello, &config);
    if options.profile {
        // Of the whole process: other sessions of this time are in it.
        let usage = Usage::of_process(begun.elapsed(), remote_threads());
        crate::report::profile::text(&profile, &usage).lines().for_each(log);
    }
    let usage = storage.usage();
    if options.profile || usage.creates != VerbUsage::default() {
        log(&format!("share '{shown}': io: {usage}"));
    }
    match ran {
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

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
use std::sync::Arc;
use std::time::{Duration, Instant};

use farshore_engine::catalog::CatalogRole;
use farshore_engine::deadline::within;
use farshore_engine::io::uring::{IoMode, VerbUsage};
use farshore_engine::profile::Profile;
use farshore_engine::target::{self, TargetConfig};
use farshore_proto::close::CloseCode;
use farshore_proto::message::Message;
use farshore_transport::{Incoming, KeySet, Listener, SiteKey, TransportConfig};

use crate::exit::{Exit, Failure};
use crate::replicate::{TargetOptions, open_catalog, open_root, remote_threads};
use crate::report::profile::Usage;
use crate::state::{State, path_bytes};

mod sessions;

use sessions::{Claimant, Sessions, TAKE_OVER};

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
    let claimant = Claimant { peer, source: *source, link: Arc::new(link.clone()) };
    let _in_use = match sessions.claim(share, claimant, TAKE_OVER) {
        Ok(in_use) => in_use,
        Err(e) => {
            let text = format!("share '{shown}' {e}");
            log(&format!("{remote}: {text}"));
            return target::refuse(&link, CloseCode::Busy, &text);
        }
    };
    log(&format!("{remote}: share '{shown}': session begins"));
    let profile = Arc::<Profile>::default();
    let opened =
        open_root("target", root, options.io, options.target.io_limit).and_then(|storage| {
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

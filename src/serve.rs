//! Serving shares to sources on other machines.
//!
//! Guarantees: only peers whose keys are allowed get past the handshake; a share is used by one
//! session at a time, a second one is told so; a session that fails leaves the others alone; a peer
//! that says nothing is shown out, and one that is refused is in the log. A server that is stopped
//! tells its sources so at once and ends each session after the batch it is applying. What a killed
//! server leaves behind is finished when the share is next opened.
//!
//! A source that was killed leaves a session behind that ends by the idle timeout only. Its next one
//! need not wait: it has the same key and the same catalog, which one process at a time has open, so
//! the former session's source is gone, and the new session takes its place.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded, select};
use farshore_engine::catalog::CatalogRole;
use farshore_engine::deadline::within;
use farshore_engine::io::uring::{IoMode, VerbUsage};
use farshore_engine::profile::Profile;
use farshore_engine::target::{self, TargetConfig, TargetError};
use farshore_proto::close::CloseCode;
use farshore_proto::message::Message;
use farshore_transport::{Incoming, KeySet, Listener, Refusal, SiteKey, TransportConfig};

use crate::exit::{Exit, Failure};
use crate::replicate::{TargetOptions, open_catalog, open_root, remote_threads};
use crate::report::profile::Meter;
use crate::state::{State, path_bytes};

pub(crate) mod refusals;
pub(crate) mod sessions;

use refusals::RefusalLog;
use sessions::{ClaimError, Claimant, Sessions, TAKE_OVER};

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

/// Serves until a word comes from `stop`, which says what stops it, and every session has ended. `log`
/// gets one line an event; `ready` is called with the bound address once peers can connect.
///
/// # Errors
/// [`Failure`] when the address cannot be bound.
pub fn serve(
    options: &ServeOptions,
    log: &(dyn Fn(&str) + Sync),
    ready: &dyn Fn(SocketAddr),
    stop: &Receiver<&'static str>,
) -> Result<(), Failure> {
    let config = TransportConfig::for_addr(options.listen);
    // Full only while the log cannot be written; then the listener counts what it leaves out.
    let (refused, refusals) = bounded::<Refusal>(1);
    let audit = move |refusal| drop(refused.send(refusal));
    let (key, allowed) = (&options.key, options.allowed.clone());
    let listener = Listener::bind_with_audit(options.listen, key, allowed, config, audit)
        .map_err(|e| Failure::new(Exit::Connection, &e))?;
    ready(listener.local_addr());
    let sessions = Sessions::default();
    let (running, over) = bounded::<()>(0);
    std::thread::scope(|scope| {
        let (listener, sessions, refusals, over) = (&listener, &sessions, &refusals, &over);
        scope.spawn(move || {
            select! {
                recv(stop) -> word => if let Ok(why) = word {
                    listener.close();
                    let open = sessions.stop();
                    log(&format!("stopping on {why}: {open} sessions end after the batch at hand"));
                },
                recv(over) -> _ => {}
            }
        });
        scope.spawn(move || {
            let mut lines = RefusalLog::new(options.key.key_id(), Instant::now());
            loop {
                let refusal = select! {
                    recv(refusals) -> refusal => refusal,
                    recv(over) -> _ => return,
                };
                let Ok(refusal) = refusal else { return };
                if let Some(line) = lines.line(&refusal, Instant::now()) {
                    log(&line);
                }
            }
        });
        while let Ok(incoming) = listener.accept() {
            scope.spawn(move || session(options, incoming, sessions, log));
        }
        drop(running);
    });
    log("stopped");
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
    let Some(_present) = sessions.enter(Arc::new(link.clone())) else { return };
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
            let code = match e {
                ClaimError::Stopped => CloseCode::Stopped,
                ClaimError::InUse | ClaimError::Superseded => CloseCode::Busy,
            };
            return target::refuse(&link, code, &text);
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
    let meter = Meter::start();
    let ran = target::run(&storage, &catalog, &link, &hello, &config);
    if options.profile {
        // Of the whole process: other sessions of this time are in it, earlier ones are not.
        let usage = meter.usage(remote_threads());
        crate::report::profile::text(&profile, &usage).lines().for_each(log);
    }
    let usage = storage.usage();
    if options.profile || usage.creates != VerbUsage::default() {
        log(&format!("share '{shown}': io: {usage}"));
    }
    match ran {
        Ok(report) => {
            let pruned = match report.history_pruned {
                0 => String::new(),
                n => format!(", {n} sets of former versions left the history"),
            };
            log(&format!(
                "{remote}: share '{shown}': session over, {} batches applied, recovery point {}{pruned}",
                report.batches,
                if report.sealed { "recorded" } else { "unchanged" },
            ));
        }
        Err(TargetError::Link(_)) if sessions.is_stopped() => log(&format!(
            "{remote}: share '{shown}': session ended by the stop; what was acknowledged is durable"
        )),
        Err(e) => log(&format!(
            "{remote}: share '{shown}': session failed: {}",
            farshore_engine::ingest::describe(&e)
        )),
    }
}

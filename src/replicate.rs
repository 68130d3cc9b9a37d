//! One run of replication: to a folder of this machine, or to a share served elsewhere.
//!
//! Both go over real QUIC with mutual authentication; for a folder, both ends run in this process
//! with keys made for this run alone.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use farshore_core::entry::Timestamp;
use farshore_core::guard::Threshold;
use farshore_core::policy::{Policy, PolicySet};
use farshore_core::recovery_point::Epoch;
use farshore_engine::apply::HistoryBounds;
use farshore_engine::catalog::{Catalog, CatalogError, CatalogRole, Turning};
use farshore_engine::frames::{Compression, Striping, is_distant};
use farshore_engine::io::uring::{IoMode, IoUsage, UringStorage};
use farshore_engine::plan::PlanError;
use farshore_engine::profile::Profile;
use farshore_engine::progress::Progress;
use farshore_engine::source::{self, SourceConfig, SourceError, SourceReport, system_wall_clock};
use farshore_engine::stage::{StageConfig, is_fatal};
use farshore_engine::target::{self, TargetConfig, TargetError, TargetReport};
use farshore_proto::close::CloseCode;
use farshore_proto::link::{Link, LinkError, LinkStats};
use farshore_transport::{
    ConnectError, KeyId, KeySet, Listener, LostCause, SiteKey, TransportConfig, dial, dial_eager,
};

use crate::exit::{Exit, Failure};
use crate::state::{self, SiteCatalog, State, StateError, now_ms, path_bytes, random_id};

/// Where to replicate to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A folder of this machine.
    Folder(PathBuf),
    /// `farshore://host:port/share`.
    Remote {
        /// Host and port.
        address: String,
        /// The share.
        share: String,
    },
}

impl std::str::FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some(rest) = text.strip_prefix("farshore://") else {
            if is_like_remote(Path::new(text)) {
                return Err(format!(
                    "'{text}': a share of another host is farshore://HOST:PORT/SHARE, a folder of \
                     that name ./{text}"
                ));
            }
            return Ok(Self::Folder(text.into()));
        };
        let (address, share) = rest
            .split_once('/')
            .filter(|(address, share)| {
                !share.is_empty() && !share.contains('/') && address.rsplit_once(':').is_some()
            })
            .ok_or_else(|| format!("'{text}': a remote target is farshore://HOST:PORT/SHARE"))?;
        Ok(Self::Remote { address: address.into(), share: share.into() })
    }
}

/// Whether other tools would take it for something on another host: a colon before the first slash.
#[must_use]
pub fn is_like_remote(path: &Path) -> bool {
    let bytes = path_bytes(path);
    bytes.split(|b| *b == b'/').next().is_some_and(|first| first.contains(&b':'))
}

/// What a run needs besides its two ends.
pub struct RunOptions<'a> {
    /// The state folder.
    pub state: State,
    /// Which entries travel.
    pub policy: &'a dyn Policy,
    /// What counts as a mass change.
    pub threshold: Threshold,
    /// Whether an operator approved what the guard would hold.
    pub approved: bool,
    /// Whether the target need not check its tree by stat.
    pub trust_target: bool,
    /// Whether only to say what would be done.
    pub dry_run: bool,
    /// When frames are compressed.
    pub compression: Compression,
    /// Bytes a second on the line, at most.
    pub bandwidth: Option<u64>,
    /// Bytes a second at which the source's content is read, at most.
    pub io_limit: Option<u64>,
    /// How small files are read and created, at every end in this process.
    pub io: IoMode,
    /// How the target runs when it is in this process.
    pub target: TargetOptions,
}

impl std::fmt::Debug for RunOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunOptions").field("state", &self.state).finish_non_exhaustive()
    }
}

/// What an operator chooses of a target.
#[derive(Debug, Clone)]
pub struct TargetOptions {
    /// Whether device nodes are made.
    pub devices: bool,
    /// Kept versions live this long, in milliseconds.
    pub history_age_max_ms: i64,
    /// Kept versions take this many bytes at most.
    pub history_bytes_max: u64,
    /// So many sets of them are kept at most: a set is what one batch changed.
    pub history_sets_max: u64,
    /// Bytes a second at which content is read and written, at most.
    pub io_limit: Option<u64>,
    /// The epoch in force, where roles say which it is.
    pub epoch: Option<Epoch>,
    /// The only policies that may decide at a source; any if there are none.
    pub policies: Option<PolicySet>,
}

impl Default for TargetOptions {
    fn default() -> Self {
        Self {
            devices: true,
            history_age_max_ms: 14 * 24 * 3_600 * 1_000,
            history_bytes_max: u64::MAX,
            history_sets_max: u64::MAX,
            io_limit: None,
            epoch: None,
            policies: None,
        }
    }
}

impl TargetOptions {
    /// The target's configuration, with its spool in `folder`.
    ///
    /// # Errors
    /// [`Failure`] without randomness.
    pub fn config(&self, folder: PathBuf, profile: Arc<Profile>) -> Result<TargetConfig, Failure> {
        Ok(TargetConfig {
            fresh_id: random_id().map_err(|e| Failure::new(Exit::Internal, &e))?,
            stagers: worker_threads(),
            stage: StageConfig { devices: self.devices, passes_over_too_large: false },
            history: HistoryBounds {
                age_max_ms: self.history_age_max_ms,
                bytes_max: self.history_bytes_max,
                sets_max: self.history_sets_max,
            },
            epoch: self.epoch,
            policies: self.policies.clone(),
            spool_folder: folder,
            now_ms,
            profile,
            observer: None,
            foreign: None,
        })
    }
}

/// What a run did, at both ends where both are known.
#[derive(Debug)]
pub struct RunResult {
    /// The source's account.
    pub source: SourceReport,
    /// The target's, when it ran in this process.
    pub target: Option<TargetReport>,
    /// The link's counters at the source.
    pub link: LinkStats,
    /// Where the time went, at every end that ran in this process.
    pub profile: Arc<Profile>,
    /// How small files were read and created, by the names of these ends.
    pub io: Vec<(&'static str, IoUsage)>,
    /// What former runs could not keep at the target, by kind.
    pub degraded_before: BTreeMap<String, u64>,
}

/// Threads that read at the source, and as many that stage at the target.
#[must_use]
pub fn worker_threads() -> usize {
    std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8))
}

/// The same for an end whose peer is another host. A stream waits for the line most of the time, and
/// its window is small: several fill a long one.
#[must_use]
pub fn remote_threads() -> usize {
    worker_threads().max(4)
}

/// A file changed less than this long ago is looked at again by the next run, in nanoseconds: coarse
/// clocks of file systems tick every 4 to 10 ms.
const RACY_NS: i64 = 20_000_000;

fn now_timestamp() -> Timestamp {
    system_wall_clock()
}

/// What the state folder knows a pair of two folders by.
#[must_use]
pub fn folder_pair<'a>(root: &'a Path, target: &'a Path) -> [&'a [u8]; 3] {
    [path_bytes(root), b"folder", path_bytes(target)]
}

/// What the state folder knows a folder and a share of another host by.
#[must_use]
pub fn remote_pair<'a>(root: &'a Path, address: &'a str, share: &'a str) -> [&'a [u8]; 4] {
    [path_bytes(root), b"remote", address.as_bytes(), share.as_bytes()]
}

/// Replicates `root` (resolved and checked) to the folder `target` (likewise).
///
/// # Errors
/// [`Failure`] with its exit code.
pub fn to_folder(
    root: &Path,
    target: &Path,
    options: &RunOptions<'_>,
    progress: &Progress,
) -> Result<RunResult, Failure> {
    let internal = |e: &dyn std::error::Error| Failure::new(Exit::Internal, e);
    let source_key = SiteKey::generate().map_err(|e| internal(&e))?;
    let target_key = SiteKey::generate().map_err(|e| internal(&e))?;
    let config = TransportConfig {
        bandwidth_limit_bytes_per_s: options.bandwidth,
        ..TransportConfig::loopback()
    };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener =
        Listener::bind(address, &target_key, KeySet::from(source_key.key_id()), config.clone())
            .map_err(|e| internal(&e))?;
    let storage = open_root("target", target, options.io, options.target.io_limit)?;
    let (catalog, folder) =
        open_catalog(&options.state, CatalogRole::Target, &[path_bytes(target)])?;
    let profile = Arc::<Profile>::default();
    let target_config = options.target.config(folder, Arc::clone(&profile))?;
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| -> Result<TargetReport, TargetError> {
            let Ok(incoming) = listener.accept() else { return Err(TargetError::ThreadGone) };
            let hello = target::receive_hello(&incoming.link)?;
            target::run(&storage, &catalog, &incoming.link, &hello, &target_config)
        });
        let link =
            dial(listener.local_addr(), &source_key, KeySet::from(target_key.key_id()), &config);
        let link = match link {
            Ok(link) => link,
            Err(e) => {
                listener.close();
                return Err(internal(&e));
            }
        };
        let parts = folder_pair(root, target);
        // The line is this machine's memory: what slows it is the target's disk, not its width.
        let compression = match options.compression {
            Compression::Auto => Compression::Never,
            chosen => chosen,
        };
        let line =
            Line { compression, striping: Striping::ONE, workers: worker_threads(), peer: None };
        let ran = open_root("source", root, options.io, options.io_limit).and_then(|from| {
            let ran = run_source(&from, &parts, "local", &link, options, line, progress, &profile);
            ran.map(|source| (source, from.usage()))
        });
        let stats = link.stats();
        drop(link);
        listener.close();
        let served = serving.join().map_err(|_| internal(&TargetError::ThreadGone))?;
        match (ran, served) {
            (Ok(((source, degraded_before), from)), Ok(target)) => Ok(RunResult {
                source,
                target: Some(target),
                link: stats,
                profile: Arc::clone(&profile),
                io: vec![("source", from), ("target", storage.usage())],
                degraded_before,
            }),
            // The source's own trouble comes first; else it only heard of the target's.
            (Err(failure), Err(target)) if failure.exit == Exit::Connection => {
                Err(target_failure(&target))
            }
            (Err(failure), _) => Err(failure),
            (Ok(_), Err(target)) => Err(target_failure(&target)),
        }
    })
}

/// Replicates `root` to a share served elsewhere.
///
/// # Errors
/// [`Failure`] with its exit code.
pub fn to_remote(
    root: &Path,
    address: &str,
    share: &str,
    key: &SiteKey,
    peers: &[KeyId],
    options: &RunOptions<'_>,
    progress: &Progress,
) -> Result<RunResult, Failure> {
    let resolved = resolve("target", address)?;
    let config = TransportConfig {
        bandwidth_limit_bytes_per_s: options.bandwidth,
        ..TransportConfig::for_addr(resolved)
    };
    let expected: KeySet = peers.iter().copied().collect();
    // The hello goes out with the end of the handshake: that the peer refuses our key shows by then.
    let link = dial_eager(resolved, key, expected, &config).map_err(|e| match &e {
        ConnectError::Busy { .. } => Failure::new(Exit::Busy, &e),
        _ => Failure::new(Exit::Connection, &e),
    })?;
    let parts = remote_pair(root, address, share);
    let profile = Arc::<Profile>::default();
    let striping = match is_distant(link.stats().rtt) {
        true => Striping::up_to(config.bulk_stripes),
        false => Striping::ONE,
    };
    let line = Line {
        compression: options.compression,
        striping,
        workers: remote_threads(),
        peer: Some((address, key.key_id())),
    };
    let from = open_root("source", root, options.io, options.io_limit)?;
    let (source, degraded_before) =
        run_source(&from, &parts, share, &link, options, line, progress, &profile)?;
    let io = vec![("source", from.usage())];
    Ok(RunResult { source, target: None, link: link.stats(), profile, io, degraded_before })
}

/// The address of `address`, HOST:PORT, which is what `role` names in messages.
///
/// # Errors
/// [`Failure`] naming it.
pub fn resolve(role: &'static str, address: &str) -> Result<SocketAddr, Failure> {
    let failed = |why: String| Failure {
        exit: Exit::Connection,
        message: format!("{role} {address}: {why}"),
        hint: None,
    };
    let mut found =
        address.to_socket_addrs().map_err(|e| failed(format!("looking up its address: {e}")))?;
    found.next().ok_or_else(|| failed("it has no address".to_owned()))
}

/// What the source makes of the line to its target.
#[derive(Clone, Copy)]
struct Line<'a> {
    compression: Compression,
    striping: Striping,
    workers: usize,
    /// Another host's target: its address, and the key this site shows there.
    peer: Option<(&'a str, KeyId)>,
}

impl Line<'_> {
    /// What ended the source, naming both ends where it is the other one that must act.
    fn failure(&self, e: &SourceError) -> Failure {
        let (SourceError::Link(LinkError::Lost { source, .. }), Some((address, ours))) =
            (e, self.peer)
        else {
            return source_failure(e);
        };
        if source.downcast_ref() != Some(&LostCause::KeyRefused) {
            return source_failure(e);
        }
        Failure {
            exit: Exit::Connection,
            message: format!(
                "peer {address}: it does not allow this site's key; start 'farshore serve' there \
                 with --allow {ours}"
            ),
            hint: None,
        }
    }
}

/// Runs the source's end; its account, and what former runs could not keep at the target.
#[allow(clippy::too_many_arguments)]
fn run_source(
    storage: &UringStorage,
    parts: &[&[u8]],
    share: &str,
    link: &dyn Link,
    options: &RunOptions<'_>,
    line: Line<'_>,
    progress: &Progress,
    profile: &Profile,
) -> Result<(SourceReport, BTreeMap<String, u64>), Failure> {
    let (catalog, folder) = open_catalog(&options.state, CatalogRole::Source, parts)?;
    let epoch = catalog.reader().and_then(|r| r.epoch()).unwrap_or(Epoch(0));
    let config = SourceConfig {
        share: share.into(),
        epoch,
        policy: options.policy,
        threshold: options.threshold,
        approved: options.approved,
        trust_target: options.trust_target,
        dry_run: options.dry_run,
        workers: line.workers,
        compression: line.compression,
        striping: line.striping,
        spool_folder: folder.clone(),
        now: &now_timestamp,
        racy_ns: RACY_NS,
        profile,
    };
    let before = state::degraded(&folder);
    let report =
        source::run(storage, &catalog, link, &config, progress).map_err(|e| line.failure(&e))?;
    state::add_degraded(&folder, &before, &report.degraded);
    Ok((report, before))
}

/// Opens a root that was checked, to be read and written at no more than `io_limit` bytes a second.
///
/// # Errors
/// [`Failure`] naming it.
pub fn open_root(
    role: &'static str,
    root: &Path,
    io: IoMode,
    io_limit: Option<u64>,
) -> Result<UringStorage, Failure> {
    let storage = UringStorage::open(root, io).map_err(|e| Failure {
        exit: Exit::Refused,
        message: format!("{role} {}: opening it: {e}", root.display()),
        hint: None,
    })?;
    Ok(match io_limit {
        Some(rate) => storage.with_budget(rate),
        None => storage,
    })
}

/// Opens a catalog of the state folder.
///
/// # Errors
/// [`Failure`] naming it.
pub fn open_catalog(
    state: &State,
    role: CatalogRole,
    parts: &[&[u8]],
) -> Result<(Catalog, PathBuf), Failure> {
    state.catalog(role, parts).map_err(|e| state_failure(&e))
}

/// Opens the catalog of a site's share, turned to what it is to be.
///
/// # Errors
/// As [`open_catalog`].
pub fn open_site_catalog(
    state: &State,
    names: &SiteCatalog<'_>,
    turning: &Turning,
) -> Result<(Catalog, PathBuf), Failure> {
    state.site_catalog(names, turning).map_err(|e| state_failure(&e))
}

/// An error of the state folder as commands show it.
pub(crate) fn state_failure(e: &StateError) -> Failure {
    match e {
        StateError::Catalog(e) => catalog_failure(e),
        StateError::Unsound { .. } => Failure::new(Exit::Refused, e).hint(CATALOG_HINT),
        other => Failure::new(Exit::Refused, other),
    }
}

const CATALOG_HINT: &str =
    "if the catalog is damaged, move catalog.redb away and run again: it is rebuilt from the trees";

/// An error of a catalog as the command line shows it.
#[must_use]
pub fn catalog_failure(e: &CatalogError) -> Failure {
    if e.file_system().is_some_and(is_fatal) {
        return Failure::new(Exit::Disk, e).hint(DISK_HINT);
    }
    if matches!(e, CatalogError::Busy { .. }) {
        return Failure::new(Exit::Busy, e);
    }
    let failure = Failure::new(Exit::Refused, e);
    match e {
        CatalogError::Open { .. }
        | CatalogError::Database { .. }
        | CatalogError::Damaged { .. } => failure.hint(CATALOG_HINT),
        _ => failure,
    }
}

const DISK_HINT: &str =
    "make room (or mend the mount) and run the same command again: it goes on where it stopped";

fn source_failure(e: &SourceError) -> Failure {
    use farshore_proto::session::SessionError;
    let refusal = match e {
        SourceError::Session(SessionError::Refused { code, .. }) => Some(*code),
        _ => None,
    };
    let refused_with = |code: CloseCode| refusal == Some(code as u32);
    let disk = refused_with(CloseCode::Disk);
    let exit = match e {
        _ if disk => Exit::Disk,
        _ if refused_with(CloseCode::Busy) => Exit::Busy,
        SourceError::Link(_) | SourceError::Session(_) => Exit::Connection,
        SourceError::Root { .. } => Exit::Refused,
        _ => Exit::Internal,
    };
    let failure = Failure::new(exit, e);
    if disk {
        return failure.hint(DISK_HINT);
    }
    match e {
        SourceError::Catalog(e) | SourceError::Plan(PlanError::Catalog(e)) => catalog_failure(e),
        SourceError::Session(SessionError::EpochOver { .. }) => {
            failure.hint("this site is not active any more; do not send from it")
        }
        SourceError::WorkerGone => failure.hint(CATALOG_HINT),
        _ if refused_with(CloseCode::UnknownShare) => {
            failure.hint("compare the share in DST with those 'farshore serve --share' names there")
        }
        SourceError::Link(LinkError::ClosedByPeer { code, .. })
            if *code == CloseCode::Stopped as u32 =>
        {
            failure.hint(
                "run the command again when the target is served again: what was acknowledged is \
                 not sent again",
            )
        }
        SourceError::Link(_) => failure.hint(
            "run the command again when the line is back: what was acknowledged is not sent again",
        ),
        _ => failure,
    }
}

/// An error of the target as the command line shows it.
#[must_use]
pub fn target_failure(e: &TargetError) -> Failure {
    use farshore_engine::apply::ApplyError;
    use farshore_engine::stage::StageError;
    match e {
        TargetError::Catalog(e) | TargetError::Apply(ApplyError::Catalog(e)) => catalog_failure(e),
        TargetError::Link(_) | TargetError::Session(_) => Failure::new(Exit::Connection, e),
        TargetError::InUse => Failure::new(Exit::Busy, e),
        TargetError::Rollback(e) => crate::history::failure(e),
        TargetError::OwnFolder(source) if !is_fatal(source) => Failure::new(Exit::Refused, e).hint(
            "the name .farshore in a target is Farshore's: see who put something else there, move it \
             away, and run again",
        ),
        TargetError::Stage(StageError::Disk { .. })
        | TargetError::Apply(ApplyError::Disk { .. })
        | TargetError::OwnFolder(_) => Failure::new(Exit::Disk, e).hint(DISK_HINT),
        _ => Failure::new(Exit::Internal, e),
    }
}

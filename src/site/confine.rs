//! The process takes from itself what it does not need (Landlock).
//!
//! Guarantees, where it says "confined": from then on no thread started later opens, makes, renames or
//! removes a file outside the folders of [`Confinement`], executes anything, or uses TCP beyond the ports
//! named there, whatever takes it over. It is to be called by the only thread of the process: threads
//! that run already keep what they have. Best effort: a kernel without it is said, not refused.
//!
//! What it does not cover: handles that are open already (standard output, sockets), metadata (`stat`,
//! `chmod`, `chown`, extended attributes of paths that can be named), and UDP. `io_uring` is covered as any
//! other call is. `/proc` and the system's libraries can be read. Mounting is impossible afterwards.
//!
//! Opening by a file handle (`open_by_handle_at`, as fanotify's events name things), tried on XFS and
//! Linux 6.18: a *directory* of a share opens while the share's root is open in this process, one outside
//! is ESTALE; a *file* that is in no cache is EACCES even within a share, since the kernel does not know
//! its place. So events are to be asked for as directory and name (`FAN_REPORT_DFID_NAME`).
//!
//! A folder is granted by its inode, and what is mounted in it later by the folder above the mount point. So
//! that one is granted too where a share's folder is a mount point, is empty or is not there at the start,
//! unless it is the system's own: a share directly below `/` that is mounted after the start, or mounted anew
//! from another superblock, needs a restart, and so does one inside of such a mount. Files that are replaced by a rename (the configuration) are
//! granted with the folder they are in.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, NetPort, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, path_beneath_rules,
};

use super::config::SiteConfig;
use crate::policy::library::is_file;

/// What is asked for. What an older kernel cannot do of it is left out; later versions are asked for
/// when it is known what they take away.
const WANTED: ABI = ABI::V7;

/// What names are resolved with, time zones, memory and processors are counted with, and the libraries
/// that the resolver loads late. What is not there is left out.
const RUNTIME: [&str; 19] = [
    "/dev/null",
    "/dev/urandom",
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/resolv.conf",
    "/etc/services",
    "/lib",
    "/lib64",
    "/proc",
    "/run/nscd",
    "/run/systemd/resolve",
    "/sys/devices/system/cpu",
    "/sys/fs/cgroup",
    "/usr/lib",
];

/// Folders that are never granted because a share lies in them.
const SYSTEM: [&str; 16] = [
    "/", "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/opt", "/proc", "/root",
    "/run", "/sbin", "/sys", "/usr", "/var",
];

/// The port of name servers.
const DNS: u16 = 53;

/// What a process keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Confinement {
    /// Folders below which everything may be done; each must be there.
    pub work: Vec<PathBuf>,
    /// Files and folders that may be read; what is missing is left out.
    pub read: Vec<PathBuf>,
    /// TCP ports that may be listened on.
    pub listen: Vec<u16>,
}

impl Confinement {
    /// What a site with this configuration, read from `file`, needs.
    #[must_use]
    pub fn of(config: &SiteConfig, file: &Path) -> Self {
        let shares = config.shares.iter();
        let roots = shares.clone().map(|share| share.path.as_path());
        let there = roots.clone().filter(|root| root.is_dir());
        let above = roots.filter_map(mounted_in);
        let work = there.chain(above).chain([config.site.state.as_path()]);
        let work = work.map(Path::to_path_buf).collect();
        // With its folder, so that one that is put in its place can be read by a reload.
        let beside = |file: &Path| file.parent().map(Path::to_path_buf);
        let policies = shares.flat_map(|share| &share.policies).filter(|policy| is_file(policy));
        let policies = policies.filter_map(|policy| beside(Path::new(policy)));
        let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf());
        let read = policies.chain(beside(&absolute)).chain(RUNTIME.map(PathBuf::from)).collect();
        let listen = config.site.metrics.map(|metrics| metrics.port()).into_iter().collect();
        Self { work, read, listen }
    }
}

/// The folder above `root`, if something may be mounted at `root` later: it is a mount point, empty, or not
/// there. What is mounted then is granted by the folder above alone. None for the system's own.
fn mounted_in(root: &Path) -> Option<&Path> {
    let above = root.parent()?;
    let device = |path: &Path| std::fs::metadata(path).map(|found| found.dev());
    let is_mount = matches!((device(root), device(above)), (Ok(own), Ok(above)) if own != above);
    let is_empty = || std::fs::read_dir(root).is_ok_and(|mut entries| entries.next().is_none());
    let later = !root.exists() || is_mount || is_empty();
    (later && above.is_dir() && !SYSTEM.iter().any(|own| Path::new(own) == above)).then_some(above)
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confined {
    /// All that was asked for.
    Whole {
        /// The kernel's version of it.
        abi: i32,
    },
    /// What the kernel can.
    Partly {
        /// The kernel's version of it.
        abi: i32,
    },
    /// Nothing.
    Not {
        /// Why.
        why: &'static str,
    },
}

impl fmt::Display for Confined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole { abi } => write!(f, "landlock: ABI {abi}, confined"),
            Self::Partly { abi } => {
                write!(f, "landlock: ABI {abi}, confined as far as this kernel can")
            }
            Self::Not { why } => write!(f, "landlock: not confined: {why}"),
        }
    }
}

/// Why a process cannot be confined although the kernel could.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// A folder that is needed is not there.
    #[error("landlock: {}: looking for it", path.display())]
    Missing {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The kernel refused.
    #[error("landlock")]
    Refused(#[from] RulesetError),
}

/// Confines this thread and all it starts from now on.
///
/// # Errors
/// [`ConfineError`]; then nothing is confined.
pub fn confine(kept: &Confinement) -> Result<Confined, ConfineError> {
    for path in &kept.work {
        std::fs::metadata(path)
            .map_err(|source| ConfineError::Missing { path: path.clone(), source })?;
    }
    // The first version forbids every rename from one folder to another, which applying is made of.
    let can_rename = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::Refer)
        .is_ok();
    if !can_rename {
        return Ok(Confined::Not { why: "the kernel lacks it, or has its first version only" });
    }
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let work = AccessFs::from_all(WANTED) & !AccessFs::Execute;
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(WANTED))?
        .handle_access(AccessNet::from_all(WANTED))?
        .create()?
        .add_rules(path_beneath_rules(&kept.work, work))?
        .add_rules(path_beneath_rules(&kept.read, read))?
        .add_rule(NetPort::new(DNS, AccessNet::ConnectTcp))?;
    for port in &kept.listen {
        rules = rules.add_rule(NetPort::new(*port, AccessNet::BindTcp))?;
    }
    let status = rules.restrict_self()?;
    let LandlockStatus::Available { effective_abi, kernel_abi } = status.landlock else {
        return Ok(Confined::Not { why: "the kernel has it switched off" });
    };
    let abi = kernel_abi.unwrap_or_else(|| version(effective_abi));
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Confined::Whole { abi },
        RulesetStatus::PartiallyEnforced => Confined::Partly { abi },
        RulesetStatus::NotEnforced => Confined::Not { why: "the kernel has it switched off" },
    })
}

/// The number of a version that the library knows.
fn version(abi: ABI) -> i32 {
    let known = [ABI::V1, ABI::V2, ABI::V3, ABI::V4, ABI::V5, ABI::V6, ABI::V7, ABI::V8, ABI::V9];
    let place = known.iter().position(|known| *known == abi).unwrap_or(known.len());
    i32::try_from(place + 1).unwrap_or(i32::MAX)
}

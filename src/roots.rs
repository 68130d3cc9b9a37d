//! Which folders may be the root of a share.
//!
//! Refuses, before anything is opened for writing: roots that are missing or no folder, that are the
//! same or lie within each other, that are, hold or lie in a folder of the operating system, and the
//! application's install folder, which nobody can override. The list of protected folders is the one
//! SecureTransport keeps for account homes.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Folders of the operating system.
const PROTECTED: [&str; 24] = [
    "/audit",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/kernel",
    "/lib",
    "/lib32",
    "/lib64",
    "/lpp",
    "/mnt",
    "/modules",
    "/net",
    "/opt",
    "/platform",
    "/proc",
    "/sbin",
    "/stand",
    "/sys",
    "/tftp",
    "/usr",
    "/var",
    "/vol",
    "/run",
];

/// Why a folder may not be a root.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// It cannot be looked at.
    #[error("{role} {}: {step}", path.display())]
    Look {
        /// `source` or `target`.
        role: &'static str,
        /// The path as given.
        path: PathBuf,
        /// What was to be done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// It is no folder.
    #[error("{role} {}: not a folder", path.display())]
    NotAFolder {
        /// `source` or `target`.
        role: &'static str,
        /// The path as given.
        path: PathBuf,
    },
    /// Source and target overlap.
    #[error("source {} and target {}: {how}", source_root.display(), target_root.display())]
    Overlap {
        /// The source.
        source_root: PathBuf,
        /// The target.
        target_root: PathBuf,
        /// How.
        how: &'static str,
    },
    /// The state folder is in a root.
    #[error("state folder {}: it lies in {}, which is replicated", state.display(), root.display())]
    State {
        /// The state folder, resolved.
        state: PathBuf,
        /// The root it lies in.
        root: PathBuf,
    },
    /// A folder of the operating system.
    #[error(
        "{role} {}: it {how} {protected}, which belongs to the operating system", path.display()
    )]
    Protected {
        /// `source` or `target`.
        role: &'static str,
        /// The path, resolved.
        path: PathBuf,
        /// `is`, `holds` or `lies in`.
        how: &'static str,
        /// The protected folder.
        protected: String,
    },
    /// The application's install folder.
    #[error("{role} {}: it {how} the install folder {}", path.display(), install.display())]
    Install {
        /// `source` or `target`.
        role: &'static str,
        /// The path, resolved.
        path: PathBuf,
        /// `is`, `holds` or `lies in`.
        how: &'static str,
        /// The install folder.
        install: PathBuf,
    },
}

/// What may be overridden, and what may not.
#[derive(Debug, Clone, Default)]
pub struct RootRules {
    /// Whether a root may lie in a protected folder (never be one that holds it all).
    pub allow_protected: bool,
    /// Install folders of the application.
    pub install_folders: Vec<PathBuf>,
}

/// Resolves `path` and checks it by the rules that concern it alone.
///
/// # Errors
/// [`RootError`].
pub fn check_root(
    role: &'static str,
    path: &Path,
    rules: &RootRules,
) -> Result<PathBuf, RootError> {
    let look = |step| {
        let path = path.to_path_buf();
        move |source| RootError::Look { role, path, step, source }
    };
    let resolved = path.canonicalize().map_err(look("looking for it"))?;
    if !resolved.is_dir() {
        return Err(RootError::NotAFolder { role, path: path.into() });
    }
    std::fs::read_dir(&resolved).map_err(look("opening it"))?;
    for install in &rules.install_folders {
        // One that is not there protects nothing: a slip of the pen must not go unseen.
        let missing = |source| {
            let (role, step) = ("install folder", "looking for it");
            RootError::Look { role, path: install.clone(), step, source }
        };
        let install = install.canonicalize().map_err(missing)?;
        if let Some(how) = relation(&resolved, &install) {
            return Err(RootError::Install { role, path: resolved, how, install });
        }
    }
    if resolved == Path::new("/") {
        let protected = "all of the system".to_owned();
        return Err(RootError::Protected { role, path: resolved, how: "holds", protected });
    }
    for protected in PROTECTED {
        let folder = Path::new(protected);
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
        let how = match relation(&resolved, &folder) {
            Some("lies in") if rules.allow_protected => None,
            how => how,
        };
        if let Some(how) = how {
            let protected = protected.to_owned();
            return Err(RootError::Protected { role, path: resolved, how, protected });
        }
    }
    Ok(resolved)
}

/// Checks that two resolved roots do not overlap.
///
/// # Errors
/// [`RootError::Overlap`].
pub fn check_apart(source: &Path, target: &Path) -> Result<(), RootError> {
    let how = match relation(target, source) {
        // A bind mount gives one folder two paths.
        None if is_one_folder(source, target) => "they are the same folder",
        None => return Ok(()),
        Some("is") => "they are the same folder",
        Some("lies in") => "the target lies in the source",
        Some(_) => "the source lies in the target",
    };
    Err(RootError::Overlap { source_root: source.into(), target_root: target.into(), how })
}

fn is_one_folder(a: &Path, b: &Path) -> bool {
    let inode = |path: &Path| std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    inode(a).is_some_and(|a| inode(b) == Some(a))
}

/// Checks that the state folder lies in none of the `roots`: keys and catalogs are not replicated, and
/// change with every run.
///
/// # Errors
/// [`RootError::State`].
pub fn check_state(state: &Path, roots: &[&Path]) -> Result<(), RootError> {
    // What cannot be resolved cannot be used either, and is named when it is.
    let state = state.canonicalize().unwrap_or_else(|_| state.to_path_buf());
    match roots.iter().find(|root| state.starts_with(root)) {
        None => Ok(()),
        Some(root) => Err(RootError::State { state, root: root.to_path_buf() }),
    }
}

fn relation(path: &Path, other: &Path) -> Option<&'static str> {
    if path == other {
        Some("is")
    } else if path.starts_with(other) {
        Some("lies in")
    } else if other.starts_with(path) {
        Some("holds")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_folders_are_refused_and_may_be_entered_on_purpose() {
        let rules = RootRules::default();
        for path in ["/", "/usr", "/usr/share", "/proc"] {
            let refused = check_root("source", Path::new(path), &rules);
            assert!(matches!(refused, Err(RootError::Protected { .. })), "{path}: {refused:?}");
        }
        let rules = RootRules { allow_protected: true, install_folders: vec!["/usr/share".into()] };
        assert!(check_root("source", Path::new("/var/log"), &rules).is_ok());
        for path in ["/", "/usr", "/proc"] {
            assert!(check_root("source", Path::new(path), &rules).is_err(), "{path}");
        }
        let inside = check_root("source", Path::new("/usr/share/doc"), &rules);
        assert!(matches!(inside, Err(RootError::Install { how: "lies in", .. })), "{inside:?}");
        let rules = RootRules { install_folders: vec!["/no/such/folder".into()], ..rules };
        let missing = check_root("source", Path::new("/var/log"), &rules);
        let looked = matches!(&missing, Err(RootError::Look { role: "install folder", .. }));
        assert!(looked, "{missing:?}");
    }

    #[test]
    fn a_state_folder_in_a_root_is_refused() {
        let roots = [Path::new("/srv/a"), Path::new("/srv/b")];
        assert!(check_state(Path::new("/srv/c/state"), &roots).is_ok());
        assert!(check_state(Path::new("/srv/bb"), &roots).is_ok());
        for state in ["/srv/a", "/srv/b/x/state"] {
            let refused = check_state(Path::new(state), &roots);
            assert!(matches!(refused, Err(RootError::State { .. })), "{state}: {refused:?}");
        }
    }

    #[test]
    fn overlapping_roots_are_refused() {
        let p = Path::new;
        assert!(check_apart(p("/a/b"), p("/a/b")).is_err());
        assert!(check_apart(p("/a/b"), p("/a")).is_err());
        assert!(check_apart(p("/a"), p("/a/b")).is_err());
        assert!(check_apart(p("/a/b"), p("/a/bc")).is_ok());
    }
}

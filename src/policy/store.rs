//! Installed policies, below the state folder.
//!
//! ```text
//! <state>/policies/<name>/policy.wasm       the component
//! <state>/policies/<name>/policy.toml       its id, settings, limits, what a fault means
//! <state>/policies/<name>/policy.minisig    its signature, if it has one
//! <state>/policies/signers                  public keys whose signatures count, if the site has a list
//! <state>/policies/cache/                   compiled code, of our own making only
//! ```
//! Guarantees: folders have mode 0700, files 0600; a policy is installed whole or not at all, durable
//! when [`PolicyStore::install`] answers, and replaces another only when that is asked for; the component
//! that is read is the very one that was installed, or an error that says what to do. No digest covers
//! `policy.toml`: settings, limits and what a fault means are the site's own, and whoever may write
//! them may edit them. Refuses names that are no plain file names, and a folder or a list of signers
//! that anybody else than this user and root can write. After a crash the former policy of that name is there, or the new one, and
//! what was half written is removed by the next change. On a file system that cannot exchange two
//! folders a crash may leave neither: then a run that names it is refused, never run without it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use farshore_core::policy::{PolicyId, is_policy_name};
use rustix::fs::{CWD, FlockOperation, OFlags, RenameFlags, flock, renameat_with};
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use crate::exit::{Exit, Failure};
use crate::state::{State, StateError, random_id};

/// Bytes of a component that may be looked at, whatever its limits say.
pub const COMPONENT_BYTES_MAX: u64 = 32 << 20;
/// Bytes of any of the other files.
const TEXT_BYTES_MAX: u64 = 1 << 20;
/// What a folder that is not yet, or no longer, a policy begins with; no name does.
const TEMPORARY: &str = ".new-";
/// Names that are other things in the same folder.
const RESERVED: [&str; 3] = ["cache", "signers", "none"];

/// The name of a policy: a plain file name, the same word in every place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyName(String);

/// A text that is no name of a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is no name of a policy: it has 1 to 64 of a-z, 0-9, '.', '_' and '-', begins with a letter \
     or digit, does not end in '.wasm', and is none of 'cache', 'signers' and 'none'"
)]
pub struct NameError(String);

impl std::str::FromStr for PolicyName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_name = is_policy_name(text) && !text.ends_with(".wasm") && !RESERVED.contains(&text);
        if is_name { Ok(Self(text.to_owned())) } else { Err(NameError(text.to_owned())) }
    }
}

impl std::fmt::Display for PolicyName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl PolicyName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is kept beside a component: `policy.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PolicyRecord {
    /// BLAKE3 of the component, 64 hex digits.
    pub id: String,
    /// `replicate` or `hold`.
    pub on_fault: String,
    /// Whether it was let in without a signature although the site has a list of signers.
    #[serde(default)]
    pub unsigned: bool,
    /// Settings by key.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// Limits that are not the usual ones, as they were given.
    #[serde(default)]
    pub limits: BTreeMap<String, String>,
}

/// A policy as it is installed.
#[derive(Debug, Clone)]
pub struct StoredPolicy {
    /// Its name.
    pub name: PolicyName,
    /// The component; its digest is that of the record.
    pub component: Vec<u8>,
    /// What is kept beside it.
    pub record: PolicyRecord,
    /// Its signature.
    pub signature: Option<String>,
}

/// Why the store cannot do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The state folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// No such policy.
    #[error("policy {name}: it is not installed")]
    NotInstalled {
        /// The name.
        name: PolicyName,
    },
    /// There is one of that name.
    #[error("policy {name}: one of that name is installed already")]
    Exists {
        /// The name.
        name: PolicyName,
    },
    /// The component is not what was installed.
    #[error("policy {name}: {}: its digest is {found}, installed was {expected}", path.display())]
    Altered {
        /// The name.
        name: PolicyName,
        /// The component's file.
        path: PathBuf,
        /// The id in the record.
        expected: String,
        /// The digest of what is there.
        found: PolicyId,
    },
    /// The record is no record.
    #[error("policy {name}: {}: {why}", path.display())]
    Record {
        /// The name.
        name: PolicyName,
        /// The record's file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Others could have put it there.
    #[error("{}: {why}", path.display())]
    Exposed {
        /// The file or folder.
        path: PathBuf,
        /// Who else can write it.
        why: String,
    },
    /// A file or folder.
    #[error("{}: {step}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was to be done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl StoreError {
    /// As the command line shows it.
    #[must_use]
    pub fn failure(&self) -> Failure {
        let failure = Failure::new(Exit::Refused, self);
        match self {
            Self::NotInstalled { .. } => failure.hint(
                "'farshore policy list' shows those that are; a file is given with a slash, as \
                 ./NAME.wasm",
            ),
            Self::Exists { .. } => {
                failure.hint("--replace puts this one in its place; or give another --name")
            }
            Self::Altered { name, .. } | Self::Record { name, .. } => failure.hint(format!(
                "it was edited or damaged: install it again with 'farshore policy install FILE \
                 --name {name} --replace'"
            )),
            Self::Exposed { .. } => failure.hint(
                "look at what is in it; then make it this user's own: 'chown' and 'chmod go-w'",
            ),
            _ => failure,
        }
    }
}

/// Adds the object and the step to an error of the system.
fn failed<'a>(path: &'a Path, step: &'static str) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |source| StoreError::Io { path: path.into(), step, source }
}

/// The policies of one state folder. Nothing need be there.
#[derive(Debug, Clone)]
pub struct PolicyStore {
    folder: PathBuf,
}

impl PolicyStore {
    /// That of a state folder; nothing is made.
    #[must_use]
    pub fn of(state: &State) -> Self {
        Self { folder: state.folder().join("policies") }
    }

    /// The folder of all policies.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The list of signers, there or not.
    #[must_use]
    pub fn signers_file(&self) -> PathBuf {
        self.folder.join("signers")
    }

    /// The list of signers as text; `None` when the site has none.
    ///
    /// # Errors
    /// [`StoreError::Io`]: a list that cannot be read is not taken for none; [`StoreError::Exposed`].
    pub fn signers(&self) -> Result<Option<String>, StoreError> {
        let list = self.signers_file();
        check_own(&self.folder)?;
        check_own(&list)?;
        read_text(&list)
    }

    /// The folder of compiled code, made if need be.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn cache_folder(&self) -> Result<PathBuf, StoreError> {
        let cache = self.folder.join("cache");
        make_private(&cache, true)?;
        Ok(cache)
    }

    /// The names installed, in order.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn names(&self) -> Result<Vec<PolicyName>, StoreError> {
        let listed = match fs::read_dir(&self.folder) {
            Ok(listed) => listed,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(failed(&self.folder, "listing it")(e)),
        };
        let mut names = Vec::new();
        for entry in listed {
            let entry = entry.map_err(failed(&self.folder, "listing it"))?;
            let name = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(name) = name.filter(|_| entry.path().is_dir()) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Whether one of that name is installed, sound or not.
    #[must_use]
    pub fn has(&self, name: &PolicyName) -> bool {
        self.folder.join(name.as_str()).symlink_metadata().is_ok()
    }

    /// The policy installed as `name`.
    ///
    /// # Errors
    /// [`StoreError`] when it is not there, its component is not the one that was installed, its record
    /// is none, or others can write it.
    pub fn get(&self, name: &PolicyName) -> Result<StoredPolicy, StoreError> {
        let folder = self.folder.join(name.as_str());
        if !self.has(name) {
            return Err(StoreError::NotInstalled { name: name.clone() });
        }
        check_own(&self.folder)?;
        check_own(&folder)?;
        let path = folder.join("policy.toml");
        let wrong =
            |why: String| StoreError::Record { name: name.clone(), path: path.clone(), why };
        let text = read_text(&path)?.ok_or_else(|| wrong("it is missing".into()))?;
        let record: PolicyRecord =
            toml::from_str(&text).map_err(|e| wrong(e.message().to_owned()))?;
        let path = folder.join("policy.wasm");
        let component = read_bounded(&path, COMPONENT_BYTES_MAX)?;
        let found = PolicyId::of(&component);
        if found.to_string() != record.id {
            let (name, expected) = (name.clone(), record.id);
            return Err(StoreError::Altered { name, path, expected, found });
        }
        let signature = read_text(&folder.join("policy.minisig"))?;
        Ok(StoredPolicy { name: name.clone(), component, record, signature })
    }

    /// Installs `policy`, durable when this answers. One of the same name gives way only to `replace`.
    ///
    /// # Errors
    /// [`StoreError`]; then the former one, if there was one, is as it was. Two steps are others: when the
    /// last, making it durable, fails, the new one is in place and a crash may bring the former
    /// back; and where two folders cannot be exchanged there may be neither, as after a crash.
    pub fn install(&self, policy: &StoredPolicy, replace: bool) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        let name = &policy.name;
        let there = self.has(name);
        if there && !replace {
            return Err(StoreError::Exists { name: name.clone() });
        }
        let record = toml::to_string(&policy.record).map_err(|e| StoreError::Record {
            name: name.clone(),
            path: "policy.toml".into(),
            why: e.to_string(),
        })?;
        let new = self.temporary()?;
        make_private(&new, false)?;
        write_private(&new.join("policy.wasm"), &policy.component)?;
        write_private(&new.join("policy.toml"), record.as_bytes())?;
        if let Some(signature) = &policy.signature {
            write_private(&new.join("policy.minisig"), signature.as_bytes())?;
        }
        sync_folder(&new, "making it durable")?;
        let place = self.folder.join(name.as_str());
        if there {
            self.exchange(&new, &place)?;
        } else {
            fs::rename(&new, &place).map_err(failed(&place, "putting the new policy in place"))?;
        }
        sync_folder(
            &self.folder,
            "making it durable; the new policy is in place, a crash may undo that",
        )?;
        // It is installed; what is left of the former goes with the next change.
        drop(self.clear());
        Ok(())
    }

    /// Removes the policy installed as `name`, sound or not.
    ///
    /// # Errors
    /// [`StoreError`]. When the last step, making it durable, fails, it is gone and a crash may bring it
    /// back.
    pub fn remove(&self, name: &PolicyName) -> Result<(), StoreError> {
        if !self.has(name) {
            return Err(StoreError::NotInstalled { name: name.clone() });
        }
        let _lock = self.lock()?;
        let place = self.folder.join(name.as_str());
        fs::rename(&place, self.temporary()?).map_err(failed(&place, "taking it away"))?;
        let step = "making it durable; the policy is gone, a crash may bring it back";
        sync_folder(&self.folder, step)?;
        drop(self.clear()); // it is no policy any more
        Ok(())
    }

    /// Puts `new` in the place of the folder `place`, which becomes `new`.
    fn exchange(&self, new: &Path, place: &Path) -> Result<(), StoreError> {
        let step = "putting the new policy in place of the former";
        match renameat_with(CWD, new, CWD, place, RenameFlags::EXCHANGE) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                let former = self.temporary()?;
                fs::rename(place, &former).map_err(failed(place, step))?;
                fs::rename(new, place).map_err(|e| {
                    drop(fs::rename(&former, place)); // the error is told either way
                    failed(place, step)(e)
                })
            }
            Err(e) => Err(failed(place, step)(e.into())),
        }
    }

    /// One change at a time; held as long as what is answered. Makes the folder.
    fn lock(&self) -> Result<File, StoreError> {
        make_private(&self.folder, true)?;
        check_own(&self.folder)?;
        let folder = File::open(&self.folder).map_err(failed(&self.folder, "opening it"))?;
        flock(&folder, FlockOperation::LockExclusive)
            .map_err(|e| failed(&self.folder, "locking it")(e.into()))?;
        self.clear()?;
        Ok(folder)
    }

    fn temporary(&self) -> Result<PathBuf, StoreError> {
        let id = random_id()?.0;
        let hex: String = id.iter().map(|b| format!("{b:02x}")).collect();
        Ok(self.folder.join(format!("{TEMPORARY}{hex}")))
    }

    /// Removes what is not, or no longer, a policy. Only under the lock.
    fn clear(&self) -> Result<(), StoreError> {
        let listed = fs::read_dir(&self.folder).map_err(failed(&self.folder, "listing it"))?;
        for entry in listed.flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(TEMPORARY.as_bytes()) {
                let path = entry.path();
                let removed = match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    true => fs::remove_dir_all(&path),
                    false => fs::remove_file(&path),
                };
                removed.map_err(failed(&path, "removing what was left"))?;
            }
        }
        Ok(())
    }
}

/// The bytes of a regular file of at most `max`.
///
/// # Errors
/// [`StoreError::Io`].
pub fn read_bounded(path: &Path, max: u64) -> Result<Vec<u8>, StoreError> {
    // Opened once and asked what it is: without waiting, since a pipe would not open until it is written.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(failed(path, "reading it"))?;
    let facts = file.metadata().map_err(failed(path, "reading it"))?;
    let refused = |why: String| failed(path, "reading it")(io::Error::other(why));
    if !facts.is_file() {
        return Err(refused("it is no file".into()));
    }
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes).map_err(failed(path, "reading it"))?;
    if bytes.len() as u64 > max {
        return Err(refused(format!("it has more than {max} bytes")));
    }
    Ok(bytes)
}

/// The text of a file, `None` when it is not there.
///
/// # Errors
/// [`StoreError::Io`].
pub fn read_text(path: &Path) -> Result<Option<String>, StoreError> {
    match read_bounded(path, TEXT_BYTES_MAX) {
        Ok(bytes) => String::from_utf8(bytes)
            .map(Some)
            .map_err(|_| failed(path, "reading it")(io::Error::other("it is no UTF-8 text"))),
        // A link to what is not there, as on a volume that is not mounted, is not nothing.
        Err(StoreError::Io { source, .. })
            if source.kind() == ErrorKind::NotFound && fs::symlink_metadata(path).is_err() =>
        {
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

fn make_private(folder: &Path, recursive: bool) -> Result<(), StoreError> {
    fs::DirBuilder::new()
        .recursive(recursive)
        .mode(0o700)
        .create(folder)
        .map_err(failed(folder, "making it"))
}

/// Refuses what anybody else than this user and root can write; what is not there is nobody's.
fn check_own(path: &Path) -> Result<(), StoreError> {
    let facts = match fs::metadata(path) {
        Ok(facts) => facts,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(path, "looking whose it is")(e)),
    };
    let exposed = |why: String| Err(StoreError::Exposed { path: path.into(), why });
    if ![0, geteuid().as_raw()].contains(&facts.uid()) {
        return exposed(format!("it belongs to user {}", facts.uid()));
    }
    match facts.mode() & 0o7777 {
        mode if mode & 0o022 != 0 => {
            exposed(format!("others can write it, its mode is {mode:04o}"))
        }
        _ => Ok(()),
    }
}

fn write_private(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .map_err(failed(path, "writing it"))
}

fn sync_folder(folder: &Path, step: &'static str) -> Result<(), StoreError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed(folder, step))
}

#[cfg(test)]
mod tests;

//! Policies by name or file: found, identified, loaded, configured.
//!
//! ```text
//! ./dir/name.wasm   a file: it has a slash or ends in .wasm. Its name is what it says of itself
//! name              an installed policy of this site, else one that comes with Farshore
//! ```
//! Guarantees: the component that runs is the one that was named, whole; settings reach it in the order
//! of their keys, so that how they were given does not matter to the other site. With a list of signers
//! a component decides about a run only when one of them signed it, when it comes with Farshore, or when
//! it was installed as an exception. Refuses: an installed policy under the name of one that comes with
//! Farshore and another id, since a name in a command or a cut would mean two things; under the same id,
//! with settings of its own, it may. One that was installed so stays what the name means when a newer
//! Farshore brings a newer component: a site's policy changes when somebody installs it, not with an
//! upgrade. Compiled code is kept below the state folder, if there is one.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use farshore_core::entry::Timestamp;
use farshore_core::path::escape_text;
use farshore_core::policy::PolicyId;
use farshore_core::size::parse_size;
use farshore_policies::{Component, Configured, Host, Limits, OnFault};

use super::embedded;
use super::signers::{self, Trust};
use super::store::{COMPONENT_BYTES_MAX, PolicyName, PolicyStore, read_bounded, read_text};
use crate::exit::{Exit, Failure};
use crate::state::State;

/// Where a policy comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// That file.
    File(PathBuf),
    /// It is installed at this site.
    Installed,
    /// It comes with Farshore.
    Embedded,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Installed => f.write_str("installed"),
            Self::Embedded => f.write_str("comes with Farshore"),
        }
    }
}

/// A policy that was found, and how it is to run.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// What it was called.
    pub reference: String,
    /// Its name; a file's is known when it says it.
    pub name: Option<PolicyName>,
    /// Where it comes from.
    pub origin: Origin,
    /// Its bytes.
    pub component: Cow<'static, [u8]>,
    /// Settings by key.
    pub settings: BTreeMap<String, String>,
    /// What it may use.
    pub limits: Limits,
    /// What a fault of it means.
    pub on_fault: OnFault,
    /// Its signature, if it has one.
    pub signature: Option<String>,
    /// Whether the site let it in without one.
    pub unsigned: bool,
}

/// What is wrong with a policy, with what it was called.
#[derive(Debug, thiserror::Error)]
#[error("policy {reference}")]
struct PolicyError {
    reference: String,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl Chosen {
    /// A failure that names this policy.
    pub fn refused(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Failure {
        let reference = self.reference.clone();
        Failure::new(Exit::Refused, &PolicyError { reference, source: source.into() })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> PolicyId {
        PolicyId::of(&self.component)
    }
}

/// Where policies are found, and what runs them.
#[derive(Debug)]
pub struct Library {
    store: Option<PolicyStore>,
    host: Host,
}

impl Library {
    /// The library of a state folder.
    ///
    /// # Errors
    /// [`Failure`] when sandboxed policies do not run here.
    pub fn open(state: &State) -> Result<Self, Failure> {
        let store = PolicyStore::of(state);
        // Without a place for compiled code, as in a state folder that cannot be written, it is compiled.
        let cache = store.cache_folder().ok();
        let host = cache.and_then(|cache| Host::new(Some(&cache)).ok());
        let host = host.map_or_else(|| self::host(None), Ok)?;
        Ok(Self { host, store: Some(store) })
    }

    /// The same, or one without a state folder where there is no place for it.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn of(given: Option<&Path>) -> Result<Self, Failure> {
        match State::existing(given) {
            Ok(state) => Self::open(&state),
            Err(_) => Self::alone(),
        }
    }

    /// A library without installed policies, which keeps nothing.
    ///
    /// # Errors
    /// [`Failure`] when sandboxed policies do not run here.
    pub fn alone() -> Result<Self, Failure> {
        Ok(Self { store: None, host: host(None)? })
    }

    /// What runs policies.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The installed policies.
    ///
    /// # Errors
    /// [`Failure`] without a state folder.
    pub fn store(&self) -> Result<&PolicyStore, Failure> {
        self.store.as_ref().ok_or_else(|| Failure {
            exit: Exit::Refused,
            message: "no state folder: neither --state nor XDG_STATE_HOME nor HOME is set".into(),
            hint: Some("name it with --state DIR".into()),
        })
    }

    /// Finds what `reference` names.
    ///
    /// # Errors
    /// [`Failure`] saying what it could have been.
    pub fn find(&self, reference: &str) -> Result<Chosen, Failure> {
        if is_file(reference) {
            return self.file(reference);
        }
        let name: PolicyName = reference.parse().map_err(|e| {
            Failure::new(Exit::Usage, &e).hint("a file is given with a slash, as ./NAME.wasm")
        })?;
        let installed = match &self.store {
            Some(store) if store.has(&name) => Some(store.get(&name).map_err(|e| e.failure())?),
            _ => None,
        };
        let Some(stored) = installed else {
            let bytes = embedded::find(name.as_str()).ok_or_else(|| self.unknown(&name))?;
            return Ok(Chosen::new(reference, Some(name), Origin::Embedded, Cow::Borrowed(bytes)));
        };
        let record = stored.record;
        let mut chosen =
            Chosen::new(reference, Some(name), Origin::Installed, Cow::Owned(stored.component));
        chosen.limits = parse_limits(&record.limits).map_err(|e| chosen.refused(e))?;
        chosen.on_fault = parse_on_fault(&record.on_fault).map_err(|e| chosen.refused(e))?;
        chosen.settings = record.settings;
        chosen.signature = stored.signature;
        chosen.unsigned = record.unsigned;
        Ok(chosen)
    }

    fn file(&self, reference: &str) -> Result<Chosen, Failure> {
        let path = PathBuf::from(reference);
        let bytes = read_bounded(&path, COMPONENT_BYTES_MAX).map_err(|e| {
            let failure = Failure::new(Exit::Refused, &e);
            if path.with_extension("toml").exists() || path.exists() {
                return failure;
            }
            failure.hint("'farshore policy build DIR' makes it of a policy's project")
        })?;
        let origin = Origin::File(path.clone());
        let mut chosen = Chosen::new(reference, None, origin, Cow::Owned(bytes));
        chosen.signature = read_text(&signers::signature_file(&path)).map_err(|e| e.failure())?;
        Ok(chosen)
    }

    fn unknown(&self, name: &PolicyName) -> Failure {
        let failure = Failure {
            exit: Exit::Refused,
            message: format!(
                "policy {name}: none of that name is installed or comes with Farshore"
            ),
            hint: None,
        };
        let file = format!("{name}.wasm");
        let found = [name.as_str(), &file].into_iter().find(|f| Path::new(f).is_file());
        match found {
            Some(file) => failure.hint(format!("the file is given as ./{file}")),
            None => failure.hint("'farshore policy list' shows those there are"),
        }
    }

    /// Whether `chosen` may run at this site: see [`super::signers`].
    ///
    /// # Errors
    /// [`Failure`] when the site has a list of signers and none of them signed it.
    pub fn trust(&self, chosen: &Chosen) -> Result<Trust, Failure> {
        let list = match &self.store {
            Some(store) => store.signers().map_err(|e| e.failure())?,
            None => None,
        };
        signers::judge(chosen, list.as_deref())
    }

    /// Checks and compiles it; none of its code has run.
    ///
    /// # Errors
    /// [`Failure`] with the remedy.
    pub fn load(&self, chosen: &Chosen) -> Result<Component, Failure> {
        self.host.load(&chosen.component, &chosen.limits).map_err(|e| chosen.refused(e))
    }

    /// The policy with its settings, for a cut at `at`.
    ///
    /// # Errors
    /// [`Failure`], its settings refused among them.
    pub fn configure(
        &self,
        chosen: &Chosen,
        component: &Component,
        at: Timestamp,
    ) -> Result<Configured, Failure> {
        configure(chosen, component, &chosen.settings, at)
    }

    /// A policy that is to be in force: found, allowed, loaded, configured.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn in_force(&self, chosen: &Chosen, at: Timestamp) -> Result<Configured, Failure> {
        self.trust(chosen)?;
        let component = self.load(chosen)?;
        self.configure(chosen, &component, at)
    }
}

impl Chosen {
    pub(super) fn new(
        reference: &str,
        name: Option<PolicyName>,
        origin: Origin,
        component: Cow<'static, [u8]>,
    ) -> Self {
        Self {
            reference: escape_text(reference),
            name,
            origin,
            component,
            settings: BTreeMap::new(),
            limits: Limits::default(),
            on_fault: OnFault::default(),
            signature: None,
            unsigned: false,
        }
    }
}

/// Configures with other settings than its own.
///
/// # Errors
/// [`Failure`] naming the policy.
pub fn configure(
    chosen: &Chosen,
    component: &Component,
    settings: &BTreeMap<String, String>,
    at: Timestamp,
) -> Result<Configured, Failure> {
    let settings: Vec<_> = settings.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    let with = |name: &str| {
        component
            .configure(name, &settings, chosen.limits, chosen.on_fault, at)
            .map_err(|e| chosen.refused(e))
    };
    if let Some(name) = &chosen.name {
        return with(name.as_str());
    }
    let said = with("policy")?.manifest().name.clone();
    let name: PolicyName = said.parse().map_err(|e| {
        chosen.refused(e).hint("'farshore policy install' gives it a name of the site's: --name")
    })?;
    with(name.as_str())
}

fn host(cache: Option<&Path>) -> Result<Host, Failure> {
    Host::new(cache).map_err(|e| Failure::new(Exit::Refused, &e))
}

/// Whether a reference means a file.
#[must_use]
pub fn is_file(reference: &str) -> bool {
    reference.contains('/') || reference.ends_with(".wasm")
}

/// `replicate` or `hold`.
///
/// # Errors
/// What there is.
pub fn parse_on_fault(text: &str) -> Result<OnFault, String> {
    match text {
        "replicate" => Ok(OnFault::Replicate),
        "hold" => Ok(OnFault::Hold),
        _ => Err(format!("'{text}' is not what a fault can mean: replicate, hold")),
    }
}

/// The word for it.
#[must_use]
pub fn on_fault_name(on_fault: OnFault) -> &'static str {
    match on_fault {
        OnFault::Replicate => "replicate",
        OnFault::Hold => "hold",
    }
}

/// `KEY=VALUE`.
///
/// # Errors
/// What it looks like.
pub fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().into(), value.into())),
        _ => Err(format!("'{text}': give it as KEY=VALUE")),
    }
}

/// The usual limits but for those named; a size may be written as `64M`.
///
/// # Errors
/// What is wrong, with the names there are.
pub fn parse_limits(given: &BTreeMap<String, String>) -> Result<Limits, String> {
    let mut limits = Limits::default();
    let names: Vec<&str> = limits.all().iter().map(|bound| bound.0).collect();
    for (name, text) in given {
        let value = parse_size(text).map_err(|e| format!("limit {name}: {e}"))?;
        let short = |value: u64| {
            u32::try_from(value).map_err(|_| format!("limit {name}: {value} is out of range"))
        };
        match name.as_str() {
            "memory-bytes" => limits.memory_bytes = value,
            "fuel-call" => limits.fuel_call = value,
            "fuel-entry" => limits.fuel_entry = value,
            "fuel-resolve" => limits.fuel_resolve = value,
            "fuel-configure" => limits.fuel_configure = value,
            "read-bytes" => limits.read_bytes = value,
            "literal-bytes" => limits.literal_bytes = value,
            "component-bytes" => limits.component_bytes = value,
            "log-lines" => limits.log_lines = short(value)?,
            "log-line-bytes" => limits.log_line_bytes = short(value)?,
            "watchdog-millis" => limits.watchdog_millis = value,
            _ => return Err(format!("'{name}' is no limit: {}", names.join(", "))),
        }
    }
    limits.check().map_err(|e| format!("limit {e}"))?;
    Ok(limits)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_limit_can_be_given_and_no_other() {
        for (name, value, _, _) in Limits::default().all() {
            let given = [(name.to_owned(), value.to_string())].into();
            assert_eq!(parse_limits(&given), Ok(Limits::default()), "{name}");
        }
        let given =
            |name: &str, value: &str| parse_limits(&[(name.to_owned(), value.to_owned())].into());
        assert_eq!(given("memory-bytes", "1M").unwrap().memory_bytes, 1 << 20);
        for (name, value) in
            [("memory-bytes", "1"), ("memory-bytes", "much"), ("memory", "1M"), ("log-lines", "8G")]
        {
            assert!(given(name, value).is_err(), "{name}={value}");
        }
    }

    #[test]
    fn a_slash_or_the_ending_makes_a_file() {
        for file in ["./x", "x.wasm", "/a/x"] {
            assert!(is_file(file), "{file}");
        }
        assert!(!is_file("mft-defaults"));
        assert_eq!(parse_pair("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(parse_pair("=b").is_err() && parse_pair("ab").is_err());
    }
}

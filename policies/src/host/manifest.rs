//! What a policy is told when it is configured, and what it says of itself.
//!
//! Guarantees: names, settings and rules are bounded and hold no control characters, so that they can
//! go into reports, logs and catalogs as they are. Refuses: everything else, with the place. Nothing
//! here survives a crash.

use farshore_core::policy::POLICY_NAME_MAX;

use super::abi::WitManifest;
use super::fault::{CallFault, one_line};
use crate::limits::{
    LimitError, POLICY_RULE_MAX, POLICY_RULES_MAX, SETTING_KEY_MAX, SETTINGS_BYTES_MAX,
    SETTINGS_MAX,
};

/// What a policy says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its author's name for it.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The names of its rules, as verdicts count them.
    pub rules: Vec<String>,
}

/// A policy that cannot be used so.
#[derive(Debug, thiserror::Error)]
pub enum ConfigureError {
    /// The operator's name for it is none.
    #[error(
        "the name {0:?}: take 1 to {POLICY_NAME_MAX} lower-case letters, digits, '-', '_' or '.', the first one a letter or digit"
    )]
    Name(String),
    /// A limit out of range.
    #[error("a limit")]
    Limit(#[from] LimitError),
    /// A setting that cannot be given to any policy.
    #[error("setting {key}: {what}")]
    Setting {
        /// Which.
        key: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// More settings than there may be.
    #[error("more than {SETTINGS_MAX} settings, or {SETTINGS_BYTES_MAX} bytes of them")]
    TooManySettings,
    /// The policy does not accept the settings.
    #[error("it refuses its settings: {0}")]
    Refused(String),
    /// The policy failed.
    #[error("it {0}")]
    Fault(String),
    /// What it says of itself cannot be used.
    #[error("what it says of itself: {0}")]
    Manifest(String),
}

/// Checks the settings.
pub(super) fn check_settings(settings: &[(String, String)]) -> Result<(), ConfigureError> {
    let bytes: usize = settings.iter().map(|(key, value)| key.len() + value.len()).sum();
    if settings.len() > SETTINGS_MAX || bytes > SETTINGS_BYTES_MAX {
        return Err(ConfigureError::TooManySettings);
    }
    for (key, value) in settings {
        let what = match () {
            () if key.is_empty() => "an empty key",
            () if key.len() > SETTING_KEY_MAX => "a key of more than 64 bytes",
            () if key.chars().any(char::is_control) => "a control character in the key",
            () if value.chars().any(char::is_control) => "a control character in the value",
            () => continue,
        };
        return Err(ConfigureError::Setting { key: one_line(key), what });
    }
    Ok(())
}

/// BLAKE3 of the settings, in order.
pub(super) fn settings_digest(settings: &[(String, String)]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for text in settings.iter().flat_map(|(key, value)| [key, value]) {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    *hasher.finalize().as_bytes()
}

impl Manifest {
    pub(super) fn check(manifest: WitManifest) -> Result<Self, ConfigureError> {
        let WitManifest { name, version, rules } = manifest;
        let bad = |what: &str, text: &str, most: usize| {
            let wrong = match () {
                () if text.is_empty() => "is empty".to_owned(),
                () if text.len() > most => format!("has {} bytes, the limit is {most}", text.len()),
                () if text.chars().any(char::is_control) => "has a control character".to_owned(),
                () => return Ok(()),
            };
            Err(ConfigureError::Manifest(format!("{what} {wrong}")))
        };
        bad("the name", &name, POLICY_NAME_MAX)?;
        bad("the version", &version, POLICY_NAME_MAX)?;
        if rules.len() > POLICY_RULES_MAX {
            let text = format!("{} rules, the limit is {POLICY_RULES_MAX}", rules.len());
            return Err(ConfigureError::Manifest(text));
        }
        for (index, rule) in rules.iter().enumerate() {
            bad(&format!("rule {index}"), rule, POLICY_RULE_MAX)?;
        }
        Ok(Self { name, version, rules })
    }
}

impl From<CallFault> for ConfigureError {
    fn from(fault: CallFault) -> Self {
        Self::Fault(fault.to_string())
    }
}

//! Which entries travel, and what becomes of a path that both sites changed: rules as people write
//! them, and sandboxed policies as others write them, behind the engine's
//! [`Policy`](farshore_core::policy::Policy).
//!
//! Guarantees: both are pure functions of what they are asked, of their settings and of one time given
//! when they are built, so both sites and a later audit decide alike; names are bytes, so every name
//! a Unix file system holds can be matched. A rule that can match nothing, or means something else
//! than it seems to, is refused when it is read, with its place. A policy cannot do anything but
//! answer, and where it fails the path is replicated and the fault reported. Refuses: to delete. An
//! excluded entry stays at the target as it was. What survives a crash is compiled code, checked before
//! it is used.
//!
//! [`rule`] has the grammar of rules, [`rule_set`] their order and the built-in defaults, [`glob`] what
//! a pattern matches. `wit/policy.wit` is the interface of sandboxed policies, [`host`] runs them within
//! [`limits`], [`chain`] puts both together, [`wrap`] and [`sign`] are for those who make them.
//!
//! ```
//! use farshore_core::entry::Timestamp;
//! use farshore_core::policy::{Action, Policy};
//! use farshore_policies::RuleSet;
//!
//! let cut = Timestamp { seconds: 1_800_000_000, nanos: 0 };
//! let mut rules = RuleSet::builder(cut);
//! rules.push(Action::Replicate, b"/archive/keep.iso")?;
//! rules.push(Action::Exclude, b"*.iso size>4G")?;
//! rules.push_file(Action::Exclude, "site.rules", b"# scratch\n/tmp/\n+ *.pay\n")?;
//! let rules = rules.build();
//! assert_eq!(rules.rules()[1], "+ /archive/keep.iso");
//! # Ok::<(), farshore_policies::RuleError>(())
//! ```
//!
//! ```no_run
//! use farshore_core::entry::Timestamp;
//! use farshore_policies::{Host, Limits, OnFault, Policies, RuleSet};
//!
//! let cut = Timestamp { seconds: 1_800_000_000, nanos: 0 };
//! let host = Host::new(None)?;
//! let limits = Limits::default();
//! let component = host.load(&std::fs::read("mft-defaults.wasm")?, &limits)?;
//! let settings = [("uploads".to_owned(), "*.crdownload".to_owned())];
//! let policy = component.configure("mft-defaults", &settings, limits, OnFault::Replicate, cut)?;
//! let all = Policies::new(RuleSet::builder(cut).build(), vec![policy])?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cache;
pub mod chain;
pub mod glob;
pub mod host;
pub mod limits;
pub mod rule;
pub mod rule_set;
pub mod sign;
pub mod wrap;

// The guests of the tests say this crate's name.
#[cfg(test)]
#[path = "../tests/common/mod.rs"]
mod common;
#[cfg(test)]
extern crate self as farshore_policies;

pub use cache::CacheError;
pub use chain::{ChainError, Policies};
pub use glob::{Glob, GlobError};
pub use host::{
    Component, ConfigureError, Configured, Hooks, Host, HostError, LoadError, Manifest, Resolution,
};
pub use limits::{LimitError, Limits, OnFault};
pub use rule::{Origin, Reason, Rule, RuleError};
pub use rule_set::{RuleSet, RuleSetBuilder};

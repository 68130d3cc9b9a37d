//! Which entries travel: exclusion rules as people write them, behind the engine's
//! [`Policy`](farshore_core::policy::Policy).
//!
//! Guarantees: a [`RuleSet`] is a pure function of the candidate and of one time given when it is
//! built, so both sites and a later audit decide alike; names are bytes, so every name a Unix file
//! system holds can be matched; deciding takes time linear in the path for a given rule. A text
//! that can match nothing, or means something else than it seems to, is refused when it is read,
//! with its place. Refuses: to delete. An excluded entry stays at the target as it was. Nothing
//! here touches a disk or survives a crash.
//!
//! [`rule`] has the grammar, [`rule_set`] the order of rules and the built-in defaults, [`glob`]
//! what a pattern matches. `wit/policy.wit` is the interface of sandboxed policies; the host of
//! such components is not part of this crate yet.
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

mod cache;
pub mod chain;
pub mod glob;
pub mod host;
pub mod limits;
pub mod rule;
pub mod rule_set;
pub mod sign;
pub mod wrap;

pub use cache::CacheError;
pub use chain::{ChainError, Policies};
pub use glob::{Glob, GlobError};
pub use host::{
    Component, ConfigureError, Configured, Hooks, Host, HostError, LoadError, Manifest, Resolution,
};
pub use limits::{LimitError, Limits, OnFault};
pub use rule::{Origin, Reason, Rule, RuleError};
pub use rule_set::{RuleSet, RuleSetBuilder};

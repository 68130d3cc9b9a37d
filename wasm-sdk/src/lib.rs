//! The kit for policies of Farshore: what is replicated, and who wins a conflict.
//!
//! A policy is a Rust library that becomes a WebAssembly component. It runs at both sites in a
//! sandbox: no files, no network, no clock, no random numbers, limited time and memory. An operator
//! installs it without trusting it. Here are the types it sees, the traits it is made of, one macro
//! that exports it, and what its tests need; nothing else is needed, no other crate either.
//!
//! Guarantees: on other targets than WebAssembly this is ordinary safe Rust, so that a policy is
//! tested by `cargo test`; the glue to the host takes no memory for an entry. Refuses a setting that
//! a policy does not read. A panic ends the call, with its message and place in the operator's log;
//! an entry is then replicated and a conflict is held for a person. Nothing survives an instance.
//!
//! # What to exclude
//!
//! [`Policy::configure`] makes the policy from the operator's settings and names its rules.
//! [`Exclude::exclude`] is asked about one entry at a time, and answers with an action and the index
//! of the rule, by which reports show why a file stays behind.
//!
//! ```
//! use farshore_wasm_sdk::*;
//!
//! struct Scratch {
//!     names: GlobSet,
//! }
//!
//! impl Policy for Scratch {
//!     fn configure(settings: &mut Settings, _at: Timestamp) -> Result<(Self, Manifest), String> {
//!         let names = settings.list("names", &["*.tmp", "*~"])?;
//!         let mut manifest = Manifest::new("scratch", "1.0.0");
//!         for name in &names {
//!             manifest.rule(format!("name {name}"));
//!         }
//!         Ok((Self { names: GlobSet::new(&names)? }, manifest))
//!     }
//! }
//!
//! impl Exclude for Scratch {
//!     fn exclude(&self, entry: &Entry) -> Verdict {
//!         let rule = self.names.find(entry).and_then(|index| u32::try_from(index).ok());
//!         match rule {
//!             Some(rule) if entry.kind == Kind::File => Verdict::by_rule(Action::Exclude, rule),
//!             _ => Verdict::REPLICATE,
//!         }
//!     }
//! }
//!
//! export_policy!(Scratch: exclude);
//!
//! // A native test, in `tests/` or beside the code.
//! let policy = testing::Configured::<Scratch>::new([], Timestamp::default())?;
//! // A name that is not UTF-8 is no special case.
//! policy.assert(&testing::file(b"caf\xe9/b.tmp"), Action::Exclude, "name *.tmp");
//! policy.assert_replicates(&testing::directory("b.tmp"));
//! # Ok::<(), String>(())
//! ```
//!
//! **The same answer always.** A verdict must depend on the entry and on what `configure` was told
//! alone: later runs and checks ask again, entries come in batches of any size and order, and an
//! instance may be thrown away at any time. `&self` makes that the easy way. The only time there is
//! is the time of the cut, `at`; [`Entry::is_younger`] compares with it.
//!
//! **Excluding never deletes.** What is at the other site stays there as it was. Excluding a directory
//! excludes all below it without asking.
//!
//! **Deferring** ([`Action::Defer`]) leaves a file for the next cut. Give it an end, by the entry's
//! time: a file that a policy defers for ever is lost to the other site as one that it excludes, and
//! nobody expects it.
//!
//! # Who wins a conflict
//!
//! After a failover both sites may have changed a path since the last common recovery point.
//! [`Resolve::resolve`] gets the three states, may read some of the contents, and answers with an
//! [`Outcome`]. A merge is a recipe of [`Piece`]s and not the bytes: it is small in the plan, a person
//! can read it, and the engine does the copying. [`merge`] has two that are ready to use.
//!
//! ```
//! use farshore_wasm_sdk::merge::{Order, append_only};
//! use farshore_wasm_sdk::testing::{Case, Configured};
//! use farshore_wasm_sdk::*;
//!
//! struct Journals;
//!
//! impl Policy for Journals {
//!     fn configure(_: &mut Settings, _: Timestamp) -> Result<(Self, Manifest), String> {
//!         let mut manifest = Manifest::new("journals", "1.0.0");
//!         manifest.rule("both appended");
//!         Ok((Self, manifest))
//!     }
//! }
//!
//! impl Resolve for Journals {
//!     fn resolve(&self, conflict: &Conflict, contents: &dyn Contents) -> Decision {
//!         if !conflict.name().ends_with(b".journal") {
//!             return Decision::hold("not a journal");
//!         }
//!         match append_only(conflict, contents, Order::InTurn) {
//!             Ok(pieces) => {
//!                 let outcome = Outcome::Merge { attributes: Site::Recovery, pieces };
//!                 Decision::by_rule(outcome, 0, "both sites only appended")
//!             }
//!             Err(why) => Decision::hold(why.to_string()),
//!         }
//!     }
//! }
//!
//! export_policy!(Journals: resolve);
//!
//! let policy = Configured::<Journals>::new([], Timestamp::default())?;
//! let case = Case::new("a.journal").base("1\n").production("1\n2\n").recovery("1\n3\n");
//! assert_eq!(policy.decide(&case).merged.as_deref(), Some(&b"1\n2\n3\n"[..]));
//! assert_eq!(policy.decide(&case.recovery_deleted()).decision.outcome, Outcome::Hold);
//! # Ok::<(), String>(())
//! ```
//!
//! **When in doubt, [hold](Decision::hold).** A plan with a held path is not run before a person has
//! decided. Nothing is lost by that, where a wrong guess may lose what one site wrote.
//!
//! # What the host sees to
//!
//! Indices past the end of the rules, spans past the end of a version, a new path that is taken or
//! leaves the share, too much time, memory or output: each is a fault of the policy, on record with
//! its name, and the entry is replicated or the path held. [`testing::Configured`] makes the same
//! checks of indices and spans, so that a native test finds them first.
//!
//! # Versions
//!
//! This is `farshore:policy@1.0.0`, which is frozen: a component built today runs on every host of the
//! same major version. Further facts and hooks come as further interfaces.

pub mod export;
pub mod glob;
pub mod log;
pub mod merge;
pub mod policy;
pub mod settings;
#[cfg(feature = "sources")]
pub mod sources;
pub mod testing;
pub mod types;

#[doc(hidden)]
#[cfg(target_arch = "wasm32")]
#[allow(missing_docs)]
pub mod abi;
#[doc(hidden)]
pub mod worlds;

pub use glob::GlobSet;
pub use policy::{Contents, Exclude, Policy, Resolve};
pub use settings::Settings;
pub use types::*;

/// What the host does first in each new instance.
///
/// # Errors
/// What [`Policy::configure`] refuses, and a setting it did not ask for.
fn configure<T: Policy>(
    settings: impl IntoIterator<Item = Setting>,
    at: Timestamp,
) -> Result<(T, Manifest), String> {
    let mut settings = Settings::new(settings)?;
    let made = T::configure(&mut settings, at)?;
    settings.finish()?;
    Ok(made)
}

/// The examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

//! Farshore: replicates the account home folders of a production site to a recovery site.
//!
//! This package is the only one that sees all the others. It is a library with a thin `main.rs`, so
//! that tests and the benchmark harness drive the same code as the command line. It guarantees one
//! error, one exit code by its kind, and one JSON object for every command; it holds no state of its
//! own beyond the state folder ([`state`]).

pub mod bench;
pub mod cli;
pub mod exit;
pub mod history;
pub mod policy;
pub mod rehearse;
pub mod replicate;
pub mod report;
pub mod roots;
pub mod serve;
pub mod site;
pub mod state;
pub mod status;

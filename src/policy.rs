//! Policies as an operator and an author have them: installed ones, test cases, projects, and what a
//! change of policy would do.
//!
//! Guarantees: a policy in force is the one that was installed or named, byte for byte; nothing here
//! changes a share. Refuses what it cannot identify, before a run begins. What survives a crash is said
//! in [`store`]; everything else holds nothing.

pub mod cases;
pub mod check;
pub mod embedded;
pub mod facts;
pub mod generate;
pub mod library;
pub mod project;
pub mod replay;
pub mod signers;
pub mod store;

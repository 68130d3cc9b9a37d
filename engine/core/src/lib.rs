//! The vocabulary of Farshore: values and pure functions.
//!
//! Guarantees: no clock, no disk, no thread, no randomness in this crate; the same arguments give
//! the same answer on every machine. Refuses: bytes that break a bound of [`limits`], with a
//! [`codec::DecodeError`] and without allocating for them. Nothing here survives a crash; the
//! encodings are what the other crates keep (`docs/format.md`).

pub mod account;
pub mod audit;
pub mod brake;
pub mod chunking;
pub mod codec;
pub mod conflict;
pub mod delta;
pub mod digest;
pub mod entry;
pub mod failback;
pub mod guard;
pub mod limits;
pub mod pacer;
pub mod path;
pub mod policy;
pub mod recipe;
pub mod recovery_point;
pub mod role;
pub mod size;
pub mod turns;

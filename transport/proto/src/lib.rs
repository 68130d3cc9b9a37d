//! The wire protocol of Farshore without I/O: messages, operations, and the machines that say what
//! may follow what.
//!
//! Guarantees: no clock, no disk, no socket, no thread; every machine is fed messages and answers
//! with events. Refuses: whatever breaks a bound or an order, as a [`session::SessionError`], before
//! it allocates for it. Nothing here survives a crash; `docs/protocol.md` describes the bytes.
//!
//! One session is one connection between the *source* of a share and its *target*:
//!
//! ```text
//! source                                     target
//!   Hello ───────────────────────────────────►  opens the share, redoes its journal, checks its tree
//!   ◄─────────────────────────────── Welcome   root digest, counts, next batch
//!   Compare (only when the roots differ) ────►
//!   ◄──────────────────────────────── Answer   children of a directory, or their buckets
//!   batches on bulk streams ═════════════════►  staged, applied in order
//!   ◄─────────────────────────────── Receipt   "applied" means durable
//!   Seal ────────────────────────────────────►
//!   ◄──────────────────────────────── Sealed   the recovery point both ends agree on
//! ```

pub mod batch;
pub mod close;
pub mod compare;
pub mod link;
pub mod message;
pub mod op;
pub mod session;

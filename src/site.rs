//! A standing site: what the long-running daemon of one side of a pair is made of.
//!
//! Each module says what it guarantees.

pub mod announce;
pub mod audit;
pub mod board;
pub mod config;
pub mod confine;
pub mod control;
pub mod daemon;
pub mod drills;
pub mod failover;
pub mod hooks;
pub mod init;
pub mod keys;
pub mod log;
pub mod look;
pub mod metrics;
pub mod node;
pub mod nodes;
pub mod notify;
pub mod pairing;
pub mod policies;
pub mod receiver;
pub mod redial;
pub mod scrubber;
pub mod sender;
pub mod store;
pub mod trust;
pub mod watch;

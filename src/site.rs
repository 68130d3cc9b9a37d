//! A standing site: what `farshore run` needs, each part by itself.
//!
//! Each module says what it guarantees.

pub mod config;
pub mod confine;
pub mod init;
pub mod keys;
pub mod notify;
pub mod pairing;
pub mod trust;

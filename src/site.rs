//! A site: what the long-running daemon of one side of a pair is made of.

pub mod board;
pub mod control;
pub mod log;
pub mod metrics;

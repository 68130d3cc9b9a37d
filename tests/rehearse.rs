//! `farshore rehearse` end to end: two daemons, changes that go on, and a former point that is written to.
//!
//! As root, with namespaces; else there is nothing to be seen, and it says so. Once more on a loop-mounted XFS, where
//! blocks are shared, if it can be made.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

#[path = "rehearse/bed.rs"]
mod bed;
#[path = "rehearse/ends.rs"]
mod ends;
#[path = "rehearse/live.rs"]
mod live;
#[path = "standby/pair.rs"]
#[allow(dead_code)]
mod pair;
#[path = "rehearse/place.rs"]
mod place;

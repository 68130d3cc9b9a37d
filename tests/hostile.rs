//! A peer that holds an allowed key and means harm: nothing panics or hangs, memory stays bounded, the
//! tree does not change, and an honest session right afterwards succeeds.

#![allow(clippy::unwrap_used)]

#[path = "hostile/ahead.rs"]
mod ahead;
#[path = "hostile/behind.rs"]
mod behind;
mod common;
#[path = "hostile/source.rs"]
mod source;
#[path = "hostile/target.rs"]
mod target;

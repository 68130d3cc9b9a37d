//! Roles of two sites, as operators change them: over in order, over by force, and home again.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

#[path = "standby/pair.rs"]
mod pair;
#[path = "roles/services.rs"]
mod services;
#[path = "roles/switch.rs"]
mod switch;

//! Roles of two sites, as operators change them: over in order, over by force, and home again.

// What a pair can do besides is asked by other tests.
#![allow(clippy::unwrap_used, clippy::print_stdout, dead_code)]

mod common;

#[path = "roles/again.rs"]
mod again;
#[path = "roles/ahead.rs"]
mod ahead;
#[path = "roles/anew.rs"]
mod anew;
#[path = "standby/churn.rs"]
mod churn;
#[path = "roles/consumed.rs"]
mod consumed;
#[path = "roles/decided.rs"]
mod decided;
#[path = "roles/evidence.rs"]
mod evidence;
#[path = "roles/force.rs"]
mod force;
#[path = "roles/former.rs"]
mod former;
#[path = "roles/home.rs"]
mod home;
#[path = "roles/large.rs"]
mod large;
#[path = "roles/lease.rs"]
mod lease;
#[path = "standby/pair.rs"]
mod pair;
#[path = "roles/restored.rs"]
mod restored;
#[path = "roles/services.rs"]
mod services;
#[path = "roles/silent.rs"]
mod silent;
#[path = "roles/switch.rs"]
mod switch;
#[path = "standby/truth.rs"]
mod truth;

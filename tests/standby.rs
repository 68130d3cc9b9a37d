//! Two daemons of two sites, as an operator runs them: configs, keys, trust, and nobody at the keyboard.
//!
//! Trees lie on a tmpfs of their own as root, so that events are had for them.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

#[path = "standby/ahead.rs"]
mod ahead;
#[path = "standby/bad.rs"]
mod bad;
#[path = "standby/churn.rs"]
mod churn;
#[path = "standby/disasters.rs"]
mod disasters;
#[path = "standby/kept.rs"]
mod kept;
#[path = "standby/keys.rs"]
mod keys;
#[path = "standby/kills.rs"]
mod kills;
#[path = "standby/manager.rs"]
mod manager;
#[path = "standby/nodes.rs"]
mod nodes;
#[path = "standby/pair.rs"]
mod pair;
#[path = "standby/reload.rs"]
mod reload;
#[path = "standby/room.rs"]
mod room;
#[path = "standby/roots.rs"]
mod roots;
#[path = "standby/scrub.rs"]
mod scrub;
#[path = "standby/steady.rs"]
mod steady;
#[path = "standby/truth.rs"]
mod truth;
#[path = "standby/turns.rs"]
mod turns;

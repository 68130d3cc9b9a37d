//! Change capture on real file systems: what the kernel tells, and what it refuses to.
//!
//! As root on file systems of its own: tmpfs, XFS and ext4 by fanotify, and by inotify; otherwise by
//! inotify in a folder. What the machine refuses is skipped with a line.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)]

#[path = "capture/bed.rs"]
mod bed;
#[path = "capture/changes.rs"]
mod changes;
#[path = "capture/kept.rs"]
mod kept;
#[path = "capture/limits.rs"]
mod limits;
#[path = "capture/races.rs"]
mod races;

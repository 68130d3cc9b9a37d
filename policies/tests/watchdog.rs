//! The watchdog's thread lives as long as somebody can be asked, and no longer.

#[path = "common/mod.rs"]
mod common;

use std::fs;

use common::{AT, Guest};
use farshore_policies::{Host, Limits, OnFault};

/// Threads of this process that are watchdogs.
fn watchdogs() -> usize {
    let threads = fs::read_dir("/proc/self/task").expect("Linux");
    let name = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("comm"));
    // One that ends meanwhile has no name.
    threads.flatten().filter_map(|t| name(t).ok()).filter(|n| n == "policy watchdog\n").count()
}

#[test]
fn it_ends_with_the_last_policy() {
    let host = Host::new(None).expect("a host");
    let component = host.load(&Guest::default().build(), &Limits::default()).expect("a policy");
    let configured = component
        .configure("guest", &[], Limits::default(), OnFault::Replicate, AT)
        .expect("configured");
    while watchdogs() == 0 {
        std::thread::yield_now(); // it names itself
    }
    drop((host, component));
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(watchdogs(), 1, "the policy is still in force");
    drop(configured);
    while watchdogs() > 0 {
        std::thread::yield_now(); // the test's own time limit ends what never ends
    }
}

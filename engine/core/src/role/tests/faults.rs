//! Each check the machine relies on, left out: the simulation has to notice.

use super::seeds::{number, run};
use super::world::Fault;

/// Seeds within which each has to be found.
const SEEDS: u64 = 2_000;

#[allow(clippy::print_stderr)]
fn is_found(fault: Fault) {
    let found = (0..number("FARSHORE_FAULT_SEEDS", SEEDS)).find_map(|seed| {
        let (result, _) = run(seed, fault, false);
        result.err().map(|what| (seed, what))
    });
    let (seed, what) = found.unwrap_or_else(|| panic!("{fault:?} went unnoticed"));
    eprintln!("{fault:?}: seed {seed}: {what}");
}

#[test]
fn a_gate_that_opens_unasked_is_found() {
    is_found(Fault::OpensUnasked);
}

#[test]
fn a_grant_taken_without_comparing_is_found() {
    is_found(Fault::TakesUncompared);
}

#[test]
fn a_promise_not_kept_is_found() {
    is_found(Fault::PromiseIgnored);
}

#[test]
fn clocks_beyond_what_is_allowed_for_are_found() {
    is_found(Fault::ClocksWild);
}

#[test]
fn a_marker_not_looked_at_is_found() {
    is_found(Fault::MarkerIgnored);
}

#[test]
fn a_marker_written_before_the_record_is_found() {
    is_found(Fault::MarkerBeforeRecord);
}

#[test]
fn old_messages_that_are_believed_are_found() {
    is_found(Fault::OldMessagesBelieved);
}

#[test]
fn acting_before_it_is_durable_is_found() {
    is_found(Fault::ActsBeforeDurable);
}

#[test]
fn a_peers_memory_not_looked_at_is_found() {
    is_found(Fault::PeerMemoryIgnored);
}

#[test]
fn batches_of_any_epoch_are_found() {
    is_found(Fault::AppliesAnyEpoch);
}

#[test]
fn an_epoch_not_raised_is_found() {
    is_found(Fault::EpochKept);
}

#[test]
fn an_old_copy_that_is_forgotten_is_found() {
    is_found(Fault::OldCopyForgotten);
}

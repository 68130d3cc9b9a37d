//! One suite over every backend of [`farshore_engine::io::Storage`]: what the trait promises and
//! which errors it names. A backend is one line at the end; what only the system can show (races
//! against links, mounts) is in `system`.
//!
//! Device nodes, owners and `trusted.*` are tested when the suite runs as root.

use std::path::Path;

use farshore_engine::io::posix::PosixStorage;
use farshore_engine::io::sim::{SimConfig, SimDisk, SimStorage};
use farshore_engine::io::uring::{IoMode, UringStorage};
use rustix::io::Errno;
use tempfile::TempDir;

#[path = "storage_contract/batch.rs"]
mod batch;
#[path = "storage_contract/data.rs"]
mod data;
#[path = "storage_contract/metadata.rs"]
mod metadata;
#[path = "storage_contract/support.rs"]
mod support;
#[path = "storage_contract/system.rs"]
mod system;
#[path = "storage_contract/tree.rs"]
mod tree;

/// Makes a test of each case, over the storage `$make` opens and the guard it returns beside it.
macro_rules! cases {
    ($make:path, $($group:ident: [$($case:ident),* $(,)?])*) => {$(
        mod $group {
            $(
                #[test]
                fn $case() {
                    let (storage, _guard) = $make();
                    crate::$group::$case(&storage);
                }
            )*
        }
    )*};
}

/// Every case over one backend.
macro_rules! storage_contract {
    ($backend:ident, $make:path) => {
        mod $backend {
            cases! {
                $make,
                tree: [
                    root_is_a_directory,
                    directories_are_private_and_exclusive,
                    files_are_private_and_exclusive,
                    names_are_bytes,
                    what_is_no_name_is_refused,
                    what_is_missing_is_not_found,
                    links_are_no_components,
                    parents_are_no_components,
                    empty_path_is_the_directory_itself,
                    paths_beyond_path_max,
                    paths_of_just_path_max,
                    listing_is_complete_and_independent,
                    listing_without_opening_again_finds_all_every_time,
                    unlink_and_remove_directory_keep_to_their_kind,
                    rename_replaces,
                    rename_of_one_inode_does_nothing,
                    rename_keeps_to_its_kind,
                    rename_moves_links_and_directories,
                    exchange_swaps_or_says_it_cannot,
                    rename_to_where_nothing_is,
                    further_names,
                    symlinks_are_verbatim,
                    nodes_are_made_and_never_opened,
                    only_regular_files_are_opened,
                    handles_outlive_names,
                ]
                data: [
                    read_and_write_at_offsets,
                    reading_beyond_the_end,
                    lengths,
                    opened_to_read_is_not_written,
                    opened_writable,
                    allocation_changes_no_length,
                    holes_are_found,
                    huge_sparse_file,
                    copies_at_any_offset,
                    copies_of_many_blocks,
                    copy_beyond_the_end,
                    copy_inside_one_file,
                    syncs,
                ]
                metadata: [
                    stat_of_handle_and_name_agree,
                    modes,
                    mode_of_a_link_is_refused,
                    owners,
                    owner_clears_setuid_and_mode_restores_it,
                    owner_that_means_none_is_refused,
                    times_to_the_nanosecond,
                    time_of_a_link_is_its_own,
                    user_attributes,
                    attributes_of_many_lengths,
                    attribute_that_is_not_there,
                    trusted_attributes_of_anything,
                ]
                batch: [
                    none_one_and_more_than_a_ring_holds,
                    files_of_several_directories,
                    what_is_no_name_is_refused_alone,
                    only_regular_files_are_read,
                    what_is_there_stays,
                    facts_and_attributes_come_along,
                    modes_are_given_and_handles_are_of_the_file,
                    of_longer_files_nothing_is_read,
                    directories_that_vanished,
                ]
            }
        }
    };
}

fn open_in(parent: &str) -> (PosixStorage, TempDir) {
    let guard = TempDir::new_in(parent).expect("temporary directory");
    (PosixStorage::open(guard.path()).expect("open"), guard)
}

fn disk_parent() -> &'static str {
    if Path::new("/var/tmp").is_dir() { "/var/tmp" } else { "/tmp" }
}

fn posix_in_memory() -> (PosixStorage, TempDir) {
    open_in("/dev/shm")
}

fn posix_on_disk() -> (PosixStorage, TempDir) {
    open_in(disk_parent())
}

fn posix_without_recent_calls() -> (PosixStorage, TempDir) {
    let (storage, guard) = posix_in_memory();
    (storage.without_recent_calls(), guard)
}

fn by_ring(parent: &str) -> (UringStorage, TempDir) {
    let guard = TempDir::new_in(parent).expect("temporary directory");
    (UringStorage::open(guard.path(), IoMode::Uring).expect("open"), guard)
}

fn ring_in_memory() -> (UringStorage, TempDir) {
    by_ring("/dev/shm")
}

fn ring_on_disk() -> (UringStorage, TempDir) {
    by_ring(disk_parent())
}

fn ring_refused() -> (UringStorage, TempDir) {
    let guard = TempDir::new_in("/dev/shm").expect("temporary directory");
    let refusing = || Err(Errno::PERM.into());
    let storage = UringStorage::open_where(guard.path(), IoMode::Uring, refusing).expect("open");
    (storage, guard)
}

fn simulated() -> (SimStorage, ()) {
    (SimDisk::new(SimConfig::default()).mount("").expect("mount"), ())
}

storage_contract!(in_memory, crate::posix_in_memory);
storage_contract!(on_disk, crate::posix_on_disk);
storage_contract!(without_recent_calls, crate::posix_without_recent_calls);
storage_contract!(uring_in_memory, crate::ring_in_memory);
storage_contract!(uring_on_disk, crate::ring_on_disk);
storage_contract!(uring_refused, crate::ring_refused);
storage_contract!(simulation, crate::simulated);

//! The end of a plan at the site that was lost: its catalog says what its tree is, or nothing is concluded.

use farshore_core::policy::ReplicateAll;
use farshore_engine::catalog::{Catalog, CatalogConfig, CatalogRole};
use farshore_engine::check::settle_by;
use farshore_engine::io::sim::{Fault, SimConfig, SimDisk};
use farshore_engine::plan::PlanError;
use farshore_proto::message::StoreId;

use crate::trees::Hands;

#[test]
fn a_root_that_cannot_be_read_is_no_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = SimDisk::new(SimConfig::default());
    let tree = disk.mount("").expect("mounted");
    Hands(&tree).file("file", b"content").expect("written");
    let config = CatalogConfig {
        role: CatalogRole::Source,
        cache_bytes: 1 << 20,
        fresh_id: StoreId([7; 16]),
    };
    let mut refused = 0;
    for call in 1..40 {
        let file = folder.path().join(format!("{call}.redb"));
        let catalog = Catalog::open(&file, &config).expect("a catalog");
        disk.fail_read_at(call, Fault::Eio);
        match settle_by(&tree, &catalog, &ReplicateAll, 1, folder.path()) {
            Err(PlanError::Root(_)) => refused += 1,
            Err(e) => panic!("before call {call}: {e}"),
            Ok(report) => {
                assert!(report.problems.iter().all(|problem| !problem.path.is_root()), "{call}");
            }
        }
    }
    assert!(refused > 0, "it was met at the root");
}

//! What a check and a plan of a very large tree hold, through the real scan, join and catalog.
//!
//! `cargo run --release -p farshore-engine --example scale -- 10000000 FOLDER [flat]`: invents a tree
//! of that many entries, checks it into a new catalog in FOLDER (all is new), then joins the two
//! again (nothing is), and prints seconds and the most memory the process ever had (VmHWM). The
//! catalog of ten million entries takes 2.3 GB of FOLDER and is left there.
#![allow(clippy::print_stdout)] // it reports

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use farshore_core::policy::ReplicateAll;
use farshore_engine::catalog::{Catalog, CatalogConfig, CatalogRole};
use farshore_engine::check::check;
use farshore_engine::plan::plan;
use farshore_proto::message::StoreId;

#[path = "../tests/scale/invented.rs"]
mod invented;

use invented::Invented;

const THREADS: usize = 2;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [entries, folder, flat @ ..] = &arguments[..] else {
        return Err("usage: scale ENTRIES FOLDER [flat]".into());
    };
    let folder = Path::new(folder);
    let tree = Invented::new(entries.parse()?, !flat.is_empty());
    // As `farshore replicate` opens it.
    let config = CatalogConfig {
        role: CatalogRole::Target,
        cache_bytes: 48 << 20,
        fresh_id: StoreId([1; 16]),
    };
    let catalog = Catalog::open(&folder.join("scale.catalog"), &config)?;
    let began = Instant::now();
    let report = check(&tree, &catalog, THREADS, folder, &mut |_| ())?;
    say("check", report.foreign_changes, began)?;
    let began = Instant::now();
    let reader = catalog.reader()?;
    let found = plan(&tree, &reader, &ReplicateAll, b"", THREADS, folder, &mut |_| ())?;
    say("plan", found.len(), began)?;
    println!("{} of {} entries met, held at once: {:?}", found.tally.found, tree.len(), found.held);
    Ok(())
}

fn say(what: &str, changes: u64, began: Instant) -> Result<(), Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find(|l| l.starts_with("VmHWM")).unwrap_or_default();
    println!("{what}: {changes} changes, {:.1} s, {peak}", began.elapsed().as_secs_f64());
    Ok(())
}

//! Everything of Farshore that touches a disk: scan, catalog, ingest, stage, journal, apply, history.

pub mod ahead;
pub mod apply;
pub mod capture;
pub mod catalog;
pub mod check;
pub mod contents;
mod copy;
pub mod deadline;
pub mod failback;
pub mod frames;
pub mod history;
pub mod ingest;
pub mod io;
pub mod journal;
pub mod metadata;
pub mod observe;
pub mod own_folder;
pub mod plan;
pub mod profile;
pub mod progress;
pub mod scan;
pub mod scrub;
pub mod source;
pub mod spool;
pub mod stage;
pub mod target;
pub mod verify;

/// The one folder below a target's root that is Farshore's: staging, journal, history. It never
/// replicates and is refused on the wire.
pub const OWN_FOLDER: &[u8] = b".farshore";

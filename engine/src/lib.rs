//! Everything of Farshore that touches a disk: scan, catalog, ingest, stage, journal, apply, history.

pub mod io;

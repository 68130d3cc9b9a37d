//! What `farshore replicate` promises, on real trees: both ends in this process, over real QUIC.
//!
//! Comparisons are those of `farshore-test-support` and of rsync, which share no code with the
//! engine. `FARSHORE_TEST_SEEDS=n` multiplies the random rounds, `FARSHORE_TEST_MIB=n` is the size of
//! the large files (128 by default). As root part of the trees lie on a tmpfs, else all in `/tmp`.

#[path = "replication/ahead.rs"]
mod ahead;
#[path = "replication/behind.rs"]
mod behind;
#[path = "replication/carried.rs"]
mod carried;
#[path = "replication/catalogs.rs"]
mod catalogs;
#[path = "replication/changing.rs"]
mod changing;
#[path = "replication/chunkings.rs"]
mod chunkings;
#[path = "replication/foreign.rs"]
mod foreign;
#[path = "replication/guard.rs"]
mod guard;
#[path = "replication/history.rs"]
mod history;
#[path = "replication/links.rs"]
mod links;
#[path = "replication/policies.rs"]
mod policies;
#[path = "replication/rounds.rs"]
mod rounds;
#[path = "replication/sites.rs"]
mod sites;
#[path = "replication/standing.rs"]
mod standing;
#[path = "replication/turns.rs"]
mod turns;
#[path = "replication/wire.rs"]
mod wire;

//! The wire protocol of Farshore without I/O: frames, session machines, and the [`link::Link`]
//! contract that a transport fulfils.

pub mod close;
pub mod link;

//! The way home at one site: what it changed since the last common point, what is moved aside, what is placed.
//!
//! [`inventory`] lists the changes of this tree against its catalog, which holds the common base.

pub mod inventory;

//! The way home at one site: what it changed since the last common point, what is moved aside, what is placed.
//!
//! ```text
//! .farshore/quarantine/<epoch>-<plan>/manifest     what is in it, why, and where it was; a line each
//! .farshore/quarantine/<epoch>-<plan>/tree/        the versions, at their paths
//! .farshore/quarantine/<epoch>-<plan>/unplanned/   what a crash left at no path and nobody planned for, by number
//! .farshore/quarantine/<epoch>-<plan>/placing      at recovery: all is made, and is being placed
//! .farshore/failback/<plan>/pending/               at recovery: what is made and not placed, by number
//! .farshore/failback/<plan>/outgoing/              at production: what it sends, further names of its files
//! .farshore/failback/<plan>/incoming/              at recovery: what came
//! ```
//! [`inventory`] lists the changes of a tree against its catalog, which holds the common base; [`apply`] carries a
//! plan out at one site; [`place`] has the steps it is made of.

pub mod apply;
mod base;
pub mod inventory;
mod place;

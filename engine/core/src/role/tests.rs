//! Tests of the roles: two simulated sites under everything that may happen to them, and what each part
//! promises on its own.

mod bytes;
mod faults;
mod seeds;
mod steps;
mod world;

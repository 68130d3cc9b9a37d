//! A seeded disk in memory.

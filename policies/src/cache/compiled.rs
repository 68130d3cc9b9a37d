//! Machine code from bytes: the one step of the cache that the compiler cannot check.
//!
//! Guarantees: only bytes that the cache has found to be its own ([`Checked`]) become code. Refuses:
//! code of another engine, other settings or another processor, which wasmtime checks once more.
//! Nothing here survives a crash.

use wasmtime::Engine;
use wasmtime::component::Component;

/// Bytes that come from a file only this user can write, with the digest that was written before them.
pub(super) struct Checked<'a>(&'a [u8]);

impl<'a> Checked<'a> {
    /// To be called by the cache alone, after its checks.
    pub(super) fn new(content: &'a [u8]) -> Self {
        Self(content)
    }
}

/// The component; `None` when it was made by another engine.
#[allow(unsafe_code)]
pub(super) fn deserialize(engine: &Engine, content: Checked<'_>) -> Option<Component> {
    // SAFETY: wasmtime asks for bytes that `Component::serialize` made and nobody changed since. The
    // file they were read from belongs to this user, no other user could write it or its folder, and
    // they have the BLAKE3 digest that was taken when they were serialized. Somebody who acts as this
    // user can run code without this file.
    unsafe { Component::deserialize(engine, content.0) }.ok()
}

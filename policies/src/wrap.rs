//! From a core module, as compilers make it, to a component.
//!
//! Guarantees: the same module gives the same component, byte for byte, as long as the pinned
//! `wit-component` is the same: the policy's id does not depend on where it was wrapped. Refuses: what
//! is no core module, and a module that does not say which interface it was built against. Nothing
//! here survives a crash.

use farshore_core::path::escape_text;
use wit_component::ComponentEncoder;

/// A module that cannot be wrapped.
#[derive(Debug, thiserror::Error)]
pub enum WrapError {
    /// It is a component already.
    #[error("a component already: nothing is to be done")]
    Component,
    /// Not WebAssembly.
    #[error("not a WebAssembly module")]
    NotWasm,
    /// It has no description of its interface.
    #[error(
        "a module that does not say which interface it has: build it with farshore-wasm-sdk, or embed the interface ('wasm-tools component embed wit/ MODULE --world exclude-policy')"
    )]
    NoInterface,
    /// The compiler's target was another.
    #[error(
        "a module that imports {0}: it was built for wasip1; build it for wasm32-unknown-unknown"
    )]
    Wasi(String),
    /// It is not what it says.
    #[error("the module does not fit its interface: {0}")]
    Misfit(String),
}

/// The component of a core module.
///
/// # Errors
/// [`WrapError`].
pub fn wrap(module: &[u8]) -> Result<Vec<u8>, WrapError> {
    match module {
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => return Err(WrapError::Component),
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => {}
        _ => return Err(WrapError::NotWasm),
    }
    let misfit = |error| {
        let text = escape_text(&format!("{error:#}"));
        if text.contains("wasi_snapshot_preview1") {
            WrapError::Wasi("wasi_snapshot_preview1".to_owned())
        } else {
            WrapError::Misfit(text.chars().take(512).collect())
        }
    };
    let (stripped, _) = wit_component::metadata::decode(module).map_err(misfit)?;
    if stripped.is_none() {
        return Err(WrapError::NoInterface);
    }
    ComponentEncoder::default()
        .validate(true)
        .module(module)
        .and_then(|mut encoder| encoder.encode())
        .map_err(misfit)
}

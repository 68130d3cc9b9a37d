//! Lines for the operator's log.
//!
//! The host cuts them short and limits how many a call may write: for what an author wants to see,
//! not for what an operator must. Off WebAssembly they go to standard error, which a test shows when
//! it fails.

use crate::types::Level;

/// Writes a line.
pub fn write(level: Level, message: &str) {
    #[cfg(target_arch = "wasm32")]
    crate::abi::log(level, message);
    #[cfg(not(target_arch = "wasm32"))]
    #[allow(clippy::print_stderr)]
    {
        eprintln!("{level:?}: {message}");
    }
}

/// For the author.
pub fn debug(message: impl AsRef<str>) {
    write(Level::Debug, message.as_ref());
}

/// For the curious operator.
pub fn info(message: impl AsRef<str>) {
    write(Level::Info, message.as_ref());
}

/// Something is odd.
pub fn warn(message: impl AsRef<str>) {
    write(Level::Warn, message.as_ref());
}

//! For authors of policies.

pub mod export;
pub mod glob;
pub mod log;
pub mod merge;
pub mod policy;
pub mod settings;
pub mod testing;
pub mod types;

#[doc(hidden)]
#[cfg(target_arch = "wasm32")]
#[allow(missing_docs)]
pub mod abi;
#[doc(hidden)]
pub mod worlds;

pub use glob::GlobSet;
pub use policy::{Contents, Exclude, Policy, Resolve};
pub use settings::Settings;
pub use types::*;

/// What the host does first in each new instance.
///
/// # Errors
/// What [`Policy::configure`] refuses, and a setting it did not ask for.
#[cfg_attr(not(target_arch = "wasm32"), allow(dead_code))]
fn configure<T: Policy>(
    settings: impl IntoIterator<Item = Setting>,
    at: Timestamp,
) -> Result<(T, Manifest), String> {
    let mut settings = Settings::new(settings)?;
    let made = T::configure(&mut settings, at)?;
    settings.finish()?;
    Ok(made)
}

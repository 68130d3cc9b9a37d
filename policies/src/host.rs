//! The host of sandboxed policies: components on wasmtime, without WASI.
//!
//! Guarantees: a policy is a pure function of what it is asked and of what it was configured with:
//! it has no clock, no randomness, no file, no network, and its arithmetic is the same on every
//! machine. It cannot take more memory, stack or instructions than [`Limits`] say, cannot take the
//! process down, and cannot leave a path without a verdict: where it fails, the verdict is
//! [`Verdict::FAULT`](farshore_core::policy::Verdict::FAULT), which replicates the path, or a
//! conflict is held for a person. Refuses: everything that is no component of our interface, before
//! any of its code runs. What survives a crash is the cache of compiled code, which is checked
//! before each use and made anew when in doubt.
//!
//! ```text
//! Host        one engine, the watchdog's ticks, the cache
//!  Component  compiled, its imports and exports checked; no code has run
//!   Configured  settings, limits and the time of a cut; instances are made as needed
//! ```

mod abi;
mod bounds;
mod configured;
mod fault;
mod instance;
mod load;
mod manifest;
mod sandbox;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use wasmtime::component::Linker;
use wasmtime::{Config, Engine, EngineWeak};

pub use configured::{Configured, Counters, Resolution};
pub use load::{Component, Hooks, LoadError};
pub use manifest::{ConfigureError, Manifest};
pub use sandbox::{Level, LogLine};

use crate::cache::{Cache, CacheError};
use crate::limits::STACK_BYTES;
use sandbox::Sandbox;

/// How often the watchdog looks.
const TICK_MILLIS: u64 = 10;

/// The host could not be made.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// This machine cannot run sandboxed policies.
    #[error("sandboxed policies do not run here: {0}")]
    Engine(String),
    /// No thread for the watchdog.
    #[error("the watchdog of policies")]
    Watchdog(#[source] io::Error),
    /// The folder of compiled code cannot be used.
    #[error("the folder of compiled policies")]
    Cache(#[from] CacheError),
}

/// Loads components.
#[derive(Clone)]
pub struct Host {
    shared: Arc<Shared>,
}

/// What components share with their host.
struct Shared {
    engine: Engine,
    linker: Linker<Sandbox>,
    cache: Option<Cache>,
    /// The watchdog ends when this is dropped.
    _watchdog: mpsc::Sender<()>,
}

impl Host {
    /// A host; `cache` is a folder for compiled code, made when it is missing.
    ///
    /// # Errors
    /// [`HostError`].
    pub fn new(cache: Option<&Path>) -> Result<Self, HostError> {
        let engine_error = |error: wasmtime::Error| HostError::Engine(format!("{error:#}"));
        let engine = Engine::new(&config()).map_err(engine_error)?;
        let linker = sandbox::linker(&engine).map_err(engine_error)?;
        let cache = cache.map(|folder| Cache::open(folder, &engine)).transpose()?;
        let watchdog = watch(engine.weak()).map_err(HostError::Watchdog)?;
        Ok(Self { shared: Arc::new(Shared { engine, linker, cache, _watchdog: watchdog }) })
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("has_cache", &self.shared.cache.is_some()).finish()
    }
}

/// Fuel and not the clock bounds what runs; everything that may differ between machines is off.
fn config() -> Config {
    let mut config = Config::new();
    config
        .strategy(wasmtime::Strategy::Cranelift)
        .allocation_strategy(wasmtime::InstanceAllocationStrategy::OnDemand)
        .consume_fuel(true)
        .epoch_interruption(true)
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        .wasm_backtrace_max_frames(None)
        .concurrency_support(false)
        .max_wasm_stack(STACK_BYTES);
    config
}

/// Counts the ticks that calls are bounded by. A tick that comes late, as on a machine that slept,
/// counts once.
fn watch(engine: EngineWeak) -> io::Result<mpsc::Sender<()>> {
    let (sender, receiver) = mpsc::channel();
    thread::Builder::new().name("policy watchdog".to_owned()).spawn(move || {
        let tick = Duration::from_millis(TICK_MILLIS);
        while receiver.recv_timeout(tick) == Err(RecvTimeoutError::Timeout) {
            let Some(engine) = engine.upgrade() else { break };
            engine.increment_epoch();
        }
    })?;
    Ok(sender)
}

//! What a store lets a policy do: memory up to a cap, a line of log, a read of a version.
//!
//! Guarantees: memories and tables of an instance together stay below the cap, whatever it asks for;
//! lines of log are cut, counted and escaped; reads are of the conflict at hand, within its budget;
//! a host call costs fuel as instructions do, and one that comes back after the deadline ends the call. Nothing else is offered: no clock,
//! no randomness, no file, no environment. Nothing here survives a crash.

use std::sync::Arc;
use std::time::{Duration, Instant};

use farshore_core::conflict::{ContentError, Contents};
use farshore_core::path::escape_text;
use wasmtime::component::{Linker, Resource, ResourceType, WasmStr};
use wasmtime::{Engine, ResourceLimiter, StoreContextMut, Trap};

use super::abi::{WitLevel, WitReadError, WitSource};
use super::fault::{MemoryCap, PastDeadline, cut};
use crate::limits::Limits;

/// Core instances, memories and tables of one component, each at most. Those of a compiled language
/// have a handful, an interpreter's some dozens.
const PARTS_MAX: usize = 256;

/// Bytes an entry of a table is counted as.
const TABLE_ENTRY_BYTES: usize = 16;

/// Fuel of a line of log and of a read, whatever becomes of it: about what they take of the processor,
/// counted as instructions.
const WRITE_FUEL: u64 = 200;
const READ_FUEL: u64 = 1_000;
/// Bytes that a read moves for one more.
const READ_BYTES_A_FUEL: u64 = 16;

/// How weighty a line of log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For authors.
    Debug,
    /// For the record.
    Info,
    /// Somebody should look.
    Warn,
    /// It went wrong; a panic's message comes so.
    Error,
}

/// A line that a policy wrote, on one line and escaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// How weighty.
    pub level: Level,
    /// What.
    pub text: String,
}

/// The versions of a conflict, as a handle.
pub(super) struct Versions;

/// What a store holds for its instance.
pub(super) struct Sandbox {
    limits: Limits,
    used_bytes: usize,
    deadline: Option<Instant>,
    pub(super) lines: Vec<LogLine>,
    /// Lines beyond the limit of the call.
    pub(super) lines_dropped: u64,
    contents: Option<Arc<dyn Contents>>,
    read_left: u64,
}

impl Sandbox {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            used_bytes: 0,
            deadline: None,
            lines: Vec::new(),
            lines_dropped: 0,
            contents: None,
            read_left: 0,
        }
    }

    /// Begins a call.
    pub(super) fn begin(&mut self) {
        self.deadline = Some(Instant::now() + Duration::from_millis(self.limits.watchdog_millis));
        self.lines.clear();
        self.lines_dropped = 0;
    }

    /// Lets the call read these versions.
    pub(super) fn lend(&mut self, contents: Arc<dyn Contents>) {
        self.contents = Some(contents);
        self.read_left = self.limits.read_bytes;
    }

    /// Bytes of memory that the instance has.
    pub(super) fn memory_bytes(&self) -> usize {
        self.used_bytes
    }

    fn check_deadline(&self) -> wasmtime::Result<()> {
        match self.deadline {
            Some(deadline) if Instant::now() > deadline => Err(PastDeadline.into()),
            _ => Ok(()),
        }
    }

    /// Up to what it declares of itself it may have, if the cap allows.
    fn grow(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
        unit: usize,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let more = desired.saturating_sub(current).saturating_mul(unit);
        let wanted = self.used_bytes.saturating_add(more);
        if wanted as u64 > self.limits.memory_bytes {
            return Err(MemoryCap.into());
        }
        self.used_bytes = wanted;
        Ok(true)
    }

    fn read(
        &mut self,
        source: WitSource,
        offset: u64,
        length: u32,
    ) -> Result<Vec<u8>, WitReadError> {
        let Some(contents) = &self.contents else { return Err(WitReadError::Unavailable) };
        if u64::from(length) > self.read_left {
            return Err(WitReadError::OverBudget(self.read_left));
        }
        match contents.read(source.into(), offset, length) {
            Ok(mut bytes) => {
                bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
                self.read_left -= bytes.len() as u64;
                Ok(bytes)
            }
            Err(ContentError::Unavailable) => Err(WitReadError::Unavailable),
            Err(ContentError::Io(text)) => Err(WitReadError::Io(text)),
        }
    }
}

impl ResourceLimiter for Sandbox {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.grow(current, desired, maximum, 1)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.grow(current, desired, maximum, TABLE_ENTRY_BYTES)
    }

    fn instances(&self) -> usize {
        PARTS_MAX
    }

    fn tables(&self) -> usize {
        PARTS_MAX
    }

    fn memories(&self) -> usize {
        PARTS_MAX
    }
}

/// All that a policy can import.
pub(super) fn linker(engine: &Engine) -> wasmtime::Result<Linker<Sandbox>> {
    let mut linker = Linker::new(engine);
    linker.instance("farshore:policy/log@1.0.0")?.func_wrap("write", write)?;
    let mut contents = linker.instance("farshore:policy/contents@1.0.0")?;
    contents.resource("versions", ResourceType::host::<Versions>(), |_, _| Ok(()))?;
    contents.func_wrap("[method]versions.read", read)?;
    Ok(linker)
}

fn write(
    mut store: StoreContextMut<'_, Sandbox>,
    (level, message): (WitLevel, WasmStr),
) -> wasmtime::Result<()> {
    let limits = store.data().limits;
    charge(&mut store, WRITE_FUEL)?;
    store.data().check_deadline()?;
    if store.data().lines.len() as u64 >= u64::from(limits.log_lines) {
        store.data_mut().lines_dropped += 1;
        return Ok(());
    }
    let level = match level {
        WitLevel::Debug => Level::Debug,
        WitLevel::Info => Level::Info,
        WitLevel::Warn => Level::Warn,
        WitLevel::Error => Level::Error,
    };
    let most = usize::try_from(limits.log_line_bytes).unwrap_or(usize::MAX);
    let text = escape_text(cut(&message.to_str(&store)?, most));
    store.data_mut().lines.push(LogLine { level, text });
    Ok(())
}

/// Takes the price of a host call.
fn charge(store: &mut StoreContextMut<'_, Sandbox>, fuel: u64) -> wasmtime::Result<()> {
    match store.get_fuel()?.checked_sub(fuel) {
        Some(left) => store.set_fuel(left),
        None => Err(Trap::OutOfFuel.into()),
    }
}

/// What `versions.read` answers.
type Read = Result<Vec<u8>, WitReadError>;

fn read(
    mut store: StoreContextMut<'_, Sandbox>,
    (_, source, offset, length): (Resource<Versions>, WitSource, u64, u32),
) -> wasmtime::Result<(Read,)> {
    charge(&mut store, READ_FUEL)?;
    store.data().check_deadline()?;
    let answer = store.data_mut().read(source, offset, length);
    let bytes = answer.as_ref().map_or(0, Vec::len) as u64;
    charge(&mut store, bytes / READ_BYTES_A_FUEL)?;
    // The site may have taken its time.
    store.data().check_deadline()?;
    Ok((answer,))
}

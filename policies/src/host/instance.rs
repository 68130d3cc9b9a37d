//! One instance of a policy: started, configured, asked.
//!
//! Guarantees: each call has its own fuel, deadline and room for what it hands over; a call that
//! failed leaves an instance that is never asked again. Nothing here survives a crash.

use std::sync::Arc;

use farshore_core::conflict::{Conflict, Contents, Decision};
use farshore_core::entry::Timestamp;
use farshore_core::policy::{Candidate, Verdict};
use wasmtime::component::{ComponentExportIndex, Func, InstancePre, Resource};
use wasmtime::{Engine, Store};

use super::TICK_MILLIS;
use super::abi::{
    WitConflict, WitDecision, WitEntries, WitManifest, WitSetting, WitTimestamp, WitVerdict,
};
use super::fault::{CallFault, FaultKind, one_line};
use super::sandbox::{Level, LogLine, Sandbox, Versions};
use crate::limits::{HANDOVER_BYTES, Limits};

/// Parameters and results of the exported functions.
pub(super) type ConfigureParams<'a> = (&'a [WitSetting<'a>], WitTimestamp);
pub(super) type ConfigureResults = (Result<WitManifest, String>,);
pub(super) type ExcludeParams<'a> = (WitEntries<'a>,);
pub(super) type ExcludeResults = (Vec<WitVerdict>,);
pub(super) type ResolveParams<'a> = (WitConflict<'a>, Resource<Versions>);
pub(super) type ResolveResults = (WitDecision,);

/// The exported functions.
#[derive(Clone, Copy)]
pub(super) struct Exports {
    pub(super) configure: ComponentExportIndex,
    pub(super) exclude: Option<ComponentExportIndex>,
    pub(super) resolve: Option<ComponentExportIndex>,
}

/// An instance and how it was used.
pub(super) struct Instance {
    store: Store<Sandbox>,
    configure: Func,
    exclude: Option<Func>,
    resolve: Option<Func>,
    limits: Limits,
    /// Calls of a hook so far.
    pub(super) calls: u32,
    /// Fuel the last call used.
    pub(super) fuel: u64,
}

impl Instance {
    /// A fresh instance; not yet configured.
    pub(super) fn start(
        engine: &Engine,
        pre: &InstancePre<Sandbox>,
        exports: &Exports,
        limits: Limits,
    ) -> Result<Self, CallFault> {
        let mut store = Store::new(engine, Sandbox::new(limits));
        store.limiter(|sandbox| sandbox);
        begin(&mut store, limits, limits.fuel_configure)?;
        store.set_hostcall_fuel(HANDOVER_BYTES);
        let instance = match pre.instantiate(&mut store) {
            Ok(instance) => instance,
            Err(error) => return Err(fault(&store, &error)),
        };
        let mut func = |index: &ComponentExportIndex| {
            let func = instance.get_func(&mut store, index);
            func.ok_or_else(|| FaultKind::Answer("an export is gone".to_owned()))
        };
        let configure = func(&exports.configure)?;
        let exclude = exports.exclude.as_ref().map(&mut func).transpose()?;
        let resolve = exports.resolve.as_ref().map(&mut func).transpose()?;
        Ok(Self { store, configure, exclude, resolve, limits, calls: 0, fuel: 0 })
    }

    /// Configures it, out of the fuel its start has left.
    pub(super) fn configure(
        &mut self,
        settings: &[(String, String)],
        at: Timestamp,
    ) -> Result<Result<WitManifest, String>, CallFault> {
        let settings: Vec<_> =
            settings.iter().map(|(key, value)| WitSetting { key, value }).collect();
        let typed = self.configure.typed::<ConfigureParams<'_>, ConfigureResults>(&self.store);
        let called = typed.and_then(|f| f.call(&mut self.store, (&settings, at.into())));
        match called {
            Ok((answer,)) => Ok(answer),
            Err(error) => Err(fault(&self.store, &error)),
        }
    }

    /// Asks about at most a batch of entries; one verdict each, rules not yet checked.
    pub(super) fn exclude(
        &mut self,
        candidates: &[Candidate<'_>],
    ) -> Result<Vec<Verdict>, CallFault> {
        let Some(func) = self.exclude else {
            return Err(FaultKind::Answer("it has no such hook".to_owned()).into());
        };
        let fuel = self.limits.fuel_of(candidates.len());
        self.begin(fuel)?;
        let typed = func.typed::<ExcludeParams<'_>, ExcludeResults>(&self.store);
        let called = typed.and_then(|f| f.call(&mut self.store, (WitEntries(candidates),)));
        self.fuel = fuel - self.store.get_fuel().unwrap_or(0).min(fuel);
        match called {
            Ok((verdicts,)) => Ok(verdicts.into_iter().map(Verdict::from).collect()),
            Err(error) => Err(fault(&self.store, &error)),
        }
    }

    /// Asks what becomes of a path; the outcome is not yet checked against the conflict.
    pub(super) fn resolve(
        &mut self,
        conflict: &Conflict,
        contents: Arc<dyn Contents>,
    ) -> Result<Decision, CallFault> {
        let Some(func) = self.resolve else {
            return Err(FaultKind::Answer("it has no such hook".to_owned()).into());
        };
        let fuel = self.limits.fuel_resolve;
        self.begin(fuel)?;
        let literal = usize::try_from(self.limits.literal_bytes).unwrap_or(usize::MAX);
        self.store.set_hostcall_fuel(HANDOVER_BYTES.saturating_add(literal));
        self.store.data_mut().lend(contents);
        let typed = func.typed::<ResolveParams<'_>, ResolveResults>(&self.store);
        let versions = Resource::new_borrow(0);
        let called = typed.and_then(|f| f.call(&mut self.store, (conflict.into(), versions)));
        self.fuel = fuel - self.store.get_fuel().unwrap_or(0).min(fuel);
        match called {
            Ok((decision,)) => Decision::try_from(decision)
                .map_err(|error| FaultKind::Answer(with_source(&error)).into()),
            Err(error) => Err(fault(&self.store, &error)),
        }
    }

    /// Bytes of memory it has.
    pub(super) fn memory_bytes(&self) -> usize {
        self.store.data().memory_bytes()
    }

    /// What the last call wrote, and how many lines more.
    pub(super) fn take_log(&mut self) -> (Vec<LogLine>, u64) {
        let sandbox = self.store.data_mut();
        (std::mem::take(&mut sandbox.lines), std::mem::take(&mut sandbox.lines_dropped))
    }

    fn begin(&mut self, fuel: u64) -> Result<(), CallFault> {
        self.calls = self.calls.saturating_add(1);
        begin(&mut self.store, self.limits, fuel)
    }
}

/// An error and what it is of.
pub(super) fn with_source(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn begin(store: &mut Store<Sandbox>, limits: Limits, fuel: u64) -> Result<(), CallFault> {
    store.set_fuel(fuel).map_err(|error| FaultKind::of(&error))?;
    // The tick under way counts as none.
    store.set_epoch_deadline(limits.watchdog_millis.div_ceil(TICK_MILLIS) + 1);
    store.data_mut().begin();
    Ok(())
}

fn fault(store: &Store<Sandbox>, error: &wasmtime::Error) -> CallFault {
    let mut lines = store.data().lines.iter().rev();
    let said = lines.find(|line| line.level == Level::Error).map(|line| one_line(&line.text));
    CallFault { kind: FaultKind::of(error), said }
}

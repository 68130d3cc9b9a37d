//! From bytes to a component that can be configured.
//!
//! Guarantees: a [`Component`] imports nothing but ours, exports the hooks it names in the types of
//! our interface, and is no larger than the limit; none of its code has run. Refuses: everything
//! else, with what is wrong and what to do about it. Compiled code may come from the cache
//! ([`crate::cache`]); the checks are made on it all the same.

use std::fmt;
use std::sync::Arc;

use farshore_core::path::escape_text;
use farshore_core::policy::PolicyId;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component as Compiled, InstancePre};

use super::bounds;
use super::fault::cut;
use super::instance::{
    ConfigureParams, ConfigureResults, ExcludeParams, ExcludeResults, Exports, ResolveParams,
    ResolveResults,
};
use super::sandbox::Sandbox;
use super::{Host, Shared};
use crate::limits::Limits;

/// The package of our interface.
const PACKAGE: &str = "farshore:policy/";
/// Its version, as far as this host offers it.
pub(super) const WORLD: &str = "1.0.0";

/// Bytes that are no policy.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Too large.
    #[error(
        "a component of {found} bytes, the limit is {limit}: raise component-bytes (up to 32 MiB) if it is meant"
    )]
    TooLarge {
        /// Its bytes.
        found: u64,
        /// What is allowed.
        limit: u64,
    },
    /// Not WebAssembly at all.
    #[error("not WebAssembly")]
    NotWasm,
    /// WebAssembly as text.
    #[error("WebAssembly as text: build it first, e.g. by 'wasm-tools parse'")]
    Text,
    /// A core module.
    #[error("a core module, not a component: 'farshore policy build' makes one of it")]
    CoreModule,
    /// A version of the binary format that is not known.
    #[error("WebAssembly of a layer or version that is not known")]
    Layer,
    /// It would be put together from too many instances.
    #[error(
        "it is put together from more than {} instances of components and modules",
        bounds::INSTANCES_MAX
    )]
    Instances,
    /// Not valid.
    #[error("not a valid component: {0}")]
    Invalid(String),
    /// Built for WASI.
    #[error(
        "it imports {0}: it was built for wasip1 or wasip2, and a policy has no system to call; build it for wasm32-unknown-unknown"
    )]
    Wasi(String),
    /// Something else we do not have.
    #[error(
        "it imports {0}, which is not offered to policies; a policy may import log and contents of farshore:policy@{WORLD}"
    )]
    Import(String),
    /// Something we do not have in an interface that we have.
    #[error(
        "it imports {item} of {interface}, which version {WORLD} does not have: build it against version {WORLD}, or use a newer Farshore"
    )]
    ImportItem {
        /// The interface.
        interface: String,
        /// What of it.
        item: String,
    },
    /// Another major version.
    #[error(
        "it was built against {found}, and this Farshore has farshore:policy@{WORLD}: {}",
        remedy(found)
    )]
    Version {
        /// The interface with its version.
        found: String,
    },
    /// No `configure`.
    #[error("it exports no farshore:policy/lifecycle: every policy must")]
    NoLifecycle,
    /// No hook.
    #[error(
        "it exports neither farshore:policy/exclusion nor farshore:policy/resolution: a policy has at least one"
    )]
    NoHook,
    /// An import or export of another type.
    #[error("{item} is of another type than in version {WORLD}: {why}")]
    Type {
        /// Which.
        item: String,
        /// How.
        why: String,
    },
}

/// What a policy can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hooks {
    /// What is replicated.
    pub exclude: bool,
    /// What becomes of a conflict.
    pub resolve: bool,
}

/// A policy, checked and compiled.
#[derive(Clone)]
pub struct Component {
    inner: Arc<Loaded>,
}

/// What a component's policies share.
pub(super) struct Loaded {
    pub(super) shared: Arc<Shared>,
    pub(super) id: PolicyId,
    pub(super) pre: InstancePre<Sandbox>,
    pub(super) exports: Exports,
    imports: Vec<String>,
    world: String,
    is_from_cache: bool,
}

impl Host {
    /// Loads a component, from the cache if it was compiled before.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(&self, bytes: &[u8], limits: &Limits) -> Result<Component, LoadError> {
        check_bytes(bytes, limits)?;
        let instances = bounds::instances(bytes);
        let instances =
            instances.map_err(|error| LoadError::Invalid(error.message().to_owned()))?;
        if instances > bounds::INSTANCES_MAX {
            return Err(LoadError::Instances);
        }
        let shared = &self.shared;
        let id = PolicyId::of(bytes);
        let cached = shared.cache.as_ref().and_then(|cache| cache.get(&shared.engine, id));
        let is_from_cache = cached.is_some();
        let compiled = match cached {
            Some(compiled) => compiled,
            None => Compiled::from_binary(&shared.engine, bytes)
                .map_err(|error| LoadError::Invalid(said(&error)))?,
        };
        let imports = check_imports(&compiled)?;
        let names = find_exports(&compiled)?;
        let pre = shared
            .linker
            .instantiate_pre(&compiled)
            .map_err(|error| LoadError::Type { item: "an import".to_owned(), why: said(&error) })?;
        let exports = check_exports(&compiled, &pre, &names)?;
        if let (false, Some(cache)) = (is_from_cache, &shared.cache) {
            cache.put(id, &compiled);
        }
        let world = names.version;
        let shared = Arc::clone(shared);
        let loaded = Loaded { shared, id, pre, exports, imports, world, is_from_cache };
        Ok(Component { inner: Arc::new(loaded) })
    }
}

impl Component {
    /// BLAKE3 of its bytes.
    #[must_use]
    pub fn id(&self) -> PolicyId {
        self.inner.id
    }

    /// What it can be asked.
    #[must_use]
    pub fn hooks(&self) -> Hooks {
        let Exports { exclude, resolve, .. } = &self.inner.exports;
        Hooks { exclude: exclude.is_some(), resolve: resolve.is_some() }
    }

    /// What it imports.
    #[must_use]
    pub fn imports(&self) -> &[String] {
        &self.inner.imports
    }

    /// The version of the interface it was built against.
    #[must_use]
    pub fn world(&self) -> &str {
        &self.inner.world
    }

    /// Whether its compiled code came from the cache.
    #[must_use]
    pub fn is_from_cache(&self) -> bool {
        self.inner.is_from_cache
    }

    pub(super) fn inner(&self) -> &Arc<Loaded> {
        &self.inner
    }
}

impl fmt::Debug for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Component").field("id", &self.id()).field("world", &self.world()).finish()
    }
}

/// What can be told without reading it.
fn check_bytes(bytes: &[u8], limits: &Limits) -> Result<(), LoadError> {
    let (found, limit) = (bytes.len() as u64, limits.component_bytes);
    match bytes {
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] if found <= limit => Ok(()),
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => Err(LoadError::TooLarge { found, limit }),
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Err(LoadError::CoreModule),
        [0, b'a', b's', b'm', ..] => Err(LoadError::Layer),
        _ => match bytes.trim_ascii_start() {
            [b'(', ..] | [b';', b';', ..] => Err(LoadError::Text),
            _ => Err(LoadError::NotWasm),
        },
    }
}

/// The imports by name; all ours.
fn check_imports(compiled: &Compiled) -> Result<Vec<String>, LoadError> {
    let engine = compiled.engine();
    let mut names = Vec::new();
    for (name, import) in compiled.component_type().imports(engine) {
        let shown = shown(name);
        if name.starts_with("wasi:") || name.starts_with("wasi_snapshot") {
            return Err(LoadError::Wasi(shown));
        }
        let Some((interface, version)) = ours(name) else { return Err(LoadError::Import(shown)) };
        if !is_our_major(version) {
            return Err(LoadError::Version { found: shown });
        }
        let ComponentItem::ComponentInstance(instance) = import.ty else {
            return Err(LoadError::Import(shown));
        };
        for (item, external) in instance.exports(engine) {
            let is_offered = match external.ty {
                ComponentItem::Type(_) => matches!(interface, "types" | "log" | "contents"),
                ComponentItem::Resource(_) => (interface, item) == ("contents", "versions"),
                ComponentItem::ComponentFunc(_) => matches!(
                    (interface, item),
                    ("log", "write") | ("contents", "[method]versions.read")
                ),
                _ => false,
            };
            match interface {
                _ if is_offered => {}
                "types" | "log" | "contents" => {
                    let item = self::shown(item);
                    return Err(LoadError::ImportItem { interface: shown, item });
                }
                _ => return Err(LoadError::Import(shown)),
            }
        }
        if !matches!(interface, "types" | "log" | "contents") {
            return Err(LoadError::Import(shown));
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

/// The exported interfaces by their full names.
struct ExportNames {
    lifecycle: String,
    exclusion: Option<String>,
    resolution: Option<String>,
    version: String,
}

fn find_exports(compiled: &Compiled) -> Result<ExportNames, LoadError> {
    let (mut lifecycle, mut exclusion, mut resolution, mut other) = (None, None, None, None);
    for (name, _) in compiled.component_type().exports(compiled.engine()) {
        let Some((interface, version)) = ours(name) else { continue };
        let place = match interface {
            "lifecycle" => &mut lifecycle,
            "exclusion" => &mut exclusion,
            "resolution" => &mut resolution,
            // What a later minor version adds is not asked.
            _ => continue,
        };
        if is_our_major(version) {
            *place = Some(name.to_owned());
        } else {
            other = Some(shown(name));
        }
    }
    // Even beside one of ours: a hook that its author meant to be asked must not be passed over.
    if let Some(found) = other {
        return Err(LoadError::Version { found });
    }
    let lifecycle = lifecycle.ok_or(LoadError::NoLifecycle)?;
    if exclusion.is_none() && resolution.is_none() {
        return Err(LoadError::NoHook);
    }
    let version = ours(&lifecycle).map(|(_, version)| version.to_owned()).unwrap_or_default();
    Ok(ExportNames { lifecycle, exclusion, resolution, version })
}

fn check_exports(
    compiled: &Compiled,
    pre: &InstancePre<Sandbox>,
    names: &ExportNames,
) -> Result<Exports, LoadError> {
    let context = pre.instance_type();
    let find = |interface: &str, function: &str, check: &dyn Fn(&_) -> wasmtime::Result<()>| {
        let item = format!("{}#{function}", shown(interface));
        let wrong = |why: String| LoadError::Type { item: item.clone(), why };
        let found = compiled
            .get_export(None, interface)
            .and_then(|(_, instance)| compiled.get_export(Some(&instance), function));
        let Some((ComponentItem::ComponentFunc(func), index)) = found else {
            return Err(wrong("there is no such function".to_owned()));
        };
        check(&func).map_err(|error| wrong(said(&error)))?;
        Ok(index)
    };
    type Func = wasmtime::component::types::ComponentFunc;
    let configure = find(&names.lifecycle, "configure", &|f: &Func| {
        f.typecheck::<ConfigureParams<'_>, ConfigureResults>(&context)
    })?;
    let exclude = |name: &String| {
        find(name, "exclude", &|f: &Func| {
            f.typecheck::<ExcludeParams<'_>, ExcludeResults>(&context)
        })
    };
    let resolve = |name: &String| {
        find(name, "resolve", &|f: &Func| {
            f.typecheck::<ResolveParams<'_>, ResolveResults>(&context)
        })
    };
    Ok(Exports {
        configure,
        exclude: names.exclusion.as_ref().map(exclude).transpose()?,
        resolve: names.resolution.as_ref().map(resolve).transpose()?,
    })
}

/// Interface and version of a name of our package.
fn ours(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix(PACKAGE)?.split_once('@')
}

fn is_our_major(version: &str) -> bool {
    version.split('.').next() == Some("1") && !version.contains('-')
}

/// What to do about another version.
fn remedy(found: &str) -> &'static str {
    let major = |name: &str| ours(name).and_then(|(_, v)| v.split('.').next()?.parse::<u64>().ok());
    if major(found).is_some_and(|major| major > 1) {
        "use a newer Farshore, or build it against this version"
    } else {
        "build it against this version"
    }
}

fn shown(name: &str) -> String {
    escape_text(cut(name, 128))
}

fn said(error: &wasmtime::Error) -> String {
    escape_text(cut(&format!("{error:#}"), 512))
}

//! The glue between a policy and its host: `farshore:policy@1.0.0` in the canonical ABI, by hand.
//!
//! Guarantees: a policy's exports take a call's arguments where the host wrote them, so that an entry
//! costs no allocation; all that a call allocated for the boundary is let go after it. Refuses
//! nothing: the host has checked the arguments, and checks the answers. A guest has one thread and is
//! never entered twice at once, on which every `static` here relies. Nothing outlives the instance.
//!
//! By hand and not by a generator, because the interface is frozen: the kit needs no other crate, a
//! policy is built in a second, without a network, and a batch is read in place.
//!
//! The canonical ABI lays a record out as C does a struct, and a variant as C does a tag of a byte
//! before a union: `#[repr(C)]` and `#[repr(C, u8)]` are its layout. The sizes are asserted below.

#![allow(unsafe_code)]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::{Cell, RefCell};

use crate::policy::{Contents, Exclude, Policy, Resolve};
use crate::types::*;

/// What a guest shares between its calls. It has one thread.
struct Single<T>(T);
// SAFETY: this is compiled for wasm32-unknown-unknown without threads alone.
unsafe impl<T> Sync for Single<T> {}

/// Memory of the call under way: its arguments and results.
struct Arena {
    /// All but the last are full.
    chunks: Vec<Chunk>,
    used: usize,
}

struct Chunk {
    start: *mut u8,
    layout: Layout,
}

/// The alignment of a chunk; nothing in the interface wants more than 8.
const CHUNK_ALIGN: usize = 16;
/// A batch of 256 entries with ordinary names.
const CHUNK_BYTES: usize = 1 << 16;

static ARENA: Single<RefCell<Arena>> = Single(RefCell::new(Arena { chunks: Vec::new(), used: 0 }));

impl Arena {
    fn take(&mut self, size: usize, align: usize) -> *mut u8 {
        if let Some(chunk) = self.chunks.last() {
            let start = self.used.next_multiple_of(align);
            if start <= chunk.layout.size() && size <= chunk.layout.size() - start {
                self.used = start + size;
                // SAFETY: `start` is within the chunk.
                return unsafe { chunk.start.add(start) };
            }
        }
        let last = self.chunks.last().map_or(CHUNK_BYTES / 2, |chunk| chunk.layout.size());
        let bytes = size.max(last.saturating_mul(2).min(1 << 22));
        let Ok(layout) = Layout::from_size_align(bytes, CHUNK_ALIGN) else {
            panic!("the host asked for {size} bytes");
        };
        // SAFETY: the layout has a size.
        let start = unsafe { alloc(layout) };
        if start.is_null() {
            handle_alloc_error(layout);
        }
        self.chunks.push(Chunk { start, layout });
        self.used = size;
        start
    }

    /// Lets go of all chunks from that index on, and of what is behind `used` in the one before.
    fn rewind(&mut self, chunks: usize, used: usize) {
        for chunk in self.chunks.drain(chunks..) {
            // SAFETY: allocated in `take` with this layout, and given back once.
            unsafe { dealloc(chunk.start, chunk.layout) };
        }
        self.used = used;
    }
}

/// A value in the arena, for the host to read.
fn place<T>(value: T) -> *const T {
    let at = ARENA.0.borrow_mut().take(size_of::<T>(), align_of::<T>()).cast::<T>();
    // SAFETY: fresh memory of that size and alignment.
    unsafe { at.write(value) };
    at
}

/// A list in the arena, for the host to read.
fn place_all<T>(len: usize, values: impl Iterator<Item = T>) -> List<T> {
    let bytes = len * size_of::<T>();
    let start = ARENA.0.borrow_mut().take(bytes, align_of::<T>()).cast::<T>();
    let mut written = 0;
    for value in values.take(len) {
        // SAFETY: fresh memory for `len` values.
        unsafe { start.add(written).write(value) };
        written += 1;
    }
    List { start, len: written }
}

fn place_bytes(bytes: &[u8]) -> List<u8> {
    let start = ARENA.0.borrow_mut().take(bytes.len(), 1);
    // SAFETY: fresh memory of that size, in no other hands.
    unsafe { start.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    List { start, len: bytes.len() }
}

/// `cabi_realloc`: memory for the host to write arguments to.
///
/// # Safety
/// As the canonical ABI calls it: `old` is of `old_len` bytes from an earlier call, or that is 0.
pub unsafe fn realloc(old: *mut u8, old_len: usize, align: usize, new_len: usize) -> *mut u8 {
    if new_len == 0 {
        return std::ptr::without_provenance_mut(align);
    }
    let new = ARENA.0.borrow_mut().take(new_len, align);
    if old_len > 0 {
        // SAFETY: the caller's word for `old`; `new` is fresh.
        unsafe { new.copy_from_nonoverlapping(old, old_len.min(new_len)) };
    }
    new
}

/// After the host has read a call's result: all memory of the call goes, but for the last chunk.
pub fn post_return() {
    let mut arena = ARENA.0.borrow_mut();
    if arena.chunks.len() > 1 {
        let last = arena.chunks.len() - 1;
        arena.chunks.swap(0, last);
        arena.rewind(1, 0);
    }
    arena.used = 0;
}

#[repr(C)]
pub struct List<T> {
    start: *const T,
    len: usize,
}

impl<T> List<T> {
    /// What the host wrote.
    ///
    /// # Safety
    /// The list is an argument of the call under way.
    unsafe fn get<'a>(&self) -> &'a [T] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: the caller's word; the host writes all elements before the call.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

#[repr(C, u8)]
enum RawOption<T> {
    None,
    Some(T),
}

impl<T> From<Option<T>> for RawOption<T> {
    fn from(option: Option<T>) -> Self {
        option.map_or(Self::None, Self::Some)
    }
}

#[repr(C, u8)]
pub enum RawResult<T, E> {
    Ok(T),
    Err(E),
}

#[repr(C)]
pub struct RawSetting {
    key: List<u8>,
    value: List<u8>,
}

#[repr(C)]
pub struct RawManifest {
    name: List<u8>,
    version: List<u8>,
    rules: List<List<u8>>,
}

#[repr(C)]
pub struct RawEntry {
    path: List<u8>,
    kind: Kind,
    size: u64,
    mtime: Timestamp,
    mode: u32,
    uid: u32,
    gid: u32,
}

#[repr(C)]
pub struct RawVerdict {
    action: Action,
    rule: RawOption<u32>,
}

#[repr(C)]
struct RawVersion {
    entry: RawEntry,
    digest: RawOption<List<u8>>,
    link_target: RawOption<List<u8>>,
    renamed_from: RawOption<List<u8>>,
}

#[repr(C, u8)]
#[allow(dead_code)] // written by the host
enum RawState {
    Absent,
    Deleted,
    Present(RawVersion),
}

/// The arguments of `resolve`.
#[repr(C)]
pub struct RawConflict {
    path: List<u8>,
    class: Class,
    base: RawState,
    production: RawState,
    recovery: RawState,
    versions: u32,
}

#[repr(C)]
struct RawSpan {
    source: Source,
    offset: u64,
    length: u64,
}

#[repr(C, u8)]
#[allow(dead_code)] // read by the host
enum RawPiece {
    Copy(RawSpan),
    Literal(List<u8>),
}

#[repr(C)]
struct RawSited<T> {
    site: Site,
    list: List<T>,
}

#[repr(C, u8)]
#[allow(dead_code)] // read by the host
enum RawOutcome {
    KeepProduction,
    KeepRecovery,
    KeepBoth(RawSited<u8>),
    Merge(RawSited<RawPiece>),
    Delete,
    Hold,
}

#[repr(C)]
pub struct RawDecision {
    outcome: RawOutcome,
    rule: RawOption<u32>,
    reason: List<u8>,
}

#[repr(C, u8)]
#[allow(dead_code)] // written by the host
enum RawReadError {
    Unavailable,
    OverBudget(u64),
    Io(List<u8>),
}

const _: () = {
    assert!(size_of::<RawSetting>() == 16 && size_of::<RawManifest>() == 24);
    assert!(size_of::<RawEntry>() == 56 && size_of::<RawVerdict>() == 12);
    assert!(size_of::<RawVersion>() == 96 && size_of::<RawState>() == 104);
    assert!(size_of::<RawConflict>() == 336 && size_of::<RawDecision>() == 32);
    assert!(size_of::<RawPiece>() == 32 && size_of::<RawOutcome>() == 16);
    assert!(size_of::<RawResult<List<u8>, RawReadError>>() == 24);
};

mod import {
    #[link(wasm_import_module = "farshore:policy/log@1.0.0")]
    unsafe extern "C" {
        pub(super) fn write(level: u32, start: *const u8, len: usize);
    }
}

/// The import that only a policy with `resolve` has.
mod contents {
    use super::{List, RawReadError, RawResult};

    #[link(wasm_import_module = "farshore:policy/contents@1.0.0")]
    unsafe extern "C" {
        #[link_name = "[method]versions.read"]
        pub(super) fn read(
            versions: u32,
            source: u32,
            offset: u64,
            length: u32,
            result: *mut RawResult<List<u8>, RawReadError>,
        );
        #[link_name = "[resource-drop]versions"]
        pub(super) fn drop(versions: u32);
    }
}

/// A line for the operator's log.
pub(crate) fn log(level: Level, message: &str) {
    // SAFETY: the host reads that many bytes during the call.
    unsafe { import::write(level as u32, message.as_ptr(), message.len()) };
}

/// The configured policy of this instance.
pub struct Slot<T>(Single<RefCell<Option<T>>>);

impl<T> Slot<T> {
    /// Before `configure`.
    #[must_use]
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self(Single(RefCell::new(None)))
    }
}

fn hook_panics() {
    thread_local!(static IS_HOOKED: Cell<bool> = const { Cell::new(false) });
    if IS_HOOKED.replace(true) {
        return;
    }
    std::panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let text = text.unwrap_or("no message");
        let line = match info.location() {
            Some(place) => format!("panicked at {place}: {text}"),
            None => format!("panicked: {text}"),
        };
        log(Level::Error, &line);
    }));
}

/// `lifecycle.configure`.
///
/// # Safety
/// The arguments are those of the call under way.
pub unsafe fn configure<T: Policy>(
    slot: &Slot<T>,
    start: *const RawSetting,
    len: usize,
    seconds: i64,
    nanoseconds: u32,
) -> *const RawResult<RawManifest, List<u8>> {
    hook_panics();
    // SAFETY: the caller's word, here and for each string.
    let settings = unsafe { List { start, len }.get() };
    // The host has checked that it is UTF-8.
    let text =
        |list: &List<u8>| String::from_utf8(unsafe { list.get() }.to_vec()).unwrap_or_default();
    let own = |raw: &RawSetting| Setting { key: text(&raw.key), value: text(&raw.value) };
    let at = Timestamp { seconds, nanoseconds };
    match crate::configure(settings.iter().map(own), at) {
        Ok((policy, manifest)) => {
            slot.0.0.replace(Some(policy));
            let rules = manifest.rules.iter().map(|rule| place_bytes(rule.as_bytes()));
            let rules: Vec<_> = rules.collect();
            place(RawResult::Ok(RawManifest {
                name: place_bytes(manifest.name.as_bytes()),
                version: place_bytes(manifest.version.as_bytes()),
                rules: place_all(rules.len(), rules.into_iter()),
            }))
        }
        Err(text) => place(RawResult::Err(place_bytes(text.as_bytes()))),
    }
}

/// `exclusion.exclude`.
///
/// # Safety
/// The arguments are those of the call under way.
pub unsafe fn exclude<T: Exclude>(
    slot: &Slot<T>,
    start: *const RawEntry,
    len: usize,
) -> *const List<RawVerdict> {
    let slot = slot.0.0.borrow();
    let policy = slot.as_ref().expect("the host calls configure first");
    // SAFETY: the caller's word, here and for each path.
    let entries = unsafe { List { start, len }.get() };
    // One entry for the whole batch: its path's memory is reused, which is cheaper than a new one for
    // each, and the trait has no lifetime to explain.
    let mut entry = Entry::file(Vec::with_capacity(256), 0);
    let verdicts = entries.iter().map(|raw| {
        entry.path.clear();
        entry.path.extend_from_slice(unsafe { raw.path.get() });
        entry.kind = raw.kind;
        entry.size = raw.size;
        entry.mtime = raw.mtime;
        entry.mode = raw.mode;
        entry.uid = raw.uid;
        entry.gid = raw.gid;
        let Verdict { action, rule } = policy.exclude(&entry);
        RawVerdict { action, rule: rule.into() }
    });
    place(place_all(len, verdicts))
}

/// `resolution.resolve`.
///
/// # Safety
/// The argument is that of the call under way.
pub unsafe fn resolve<T: Resolve>(slot: &Slot<T>, raw: *const RawConflict) -> *const RawDecision {
    let slot = slot.0.0.borrow();
    let policy = slot.as_ref().expect("the host calls configure first");
    // SAFETY: the caller's word, here and for what it points to.
    let raw = unsafe { &*raw };
    let versions = Versions(raw.versions);
    let conflict = unsafe {
        Conflict {
            path: raw.path.get().to_vec(),
            class: raw.class,
            base: lift_state(&raw.base),
            production: lift_state(&raw.production),
            recovery: lift_state(&raw.recovery),
        }
    };
    let Decision { outcome, rule, reason } = policy.resolve(&conflict, &versions);
    let outcome = match outcome {
        Outcome::KeepProduction => RawOutcome::KeepProduction,
        Outcome::KeepRecovery => RawOutcome::KeepRecovery,
        Outcome::KeepBoth { renamed, new_path } => {
            RawOutcome::KeepBoth(RawSited { site: renamed, list: place_bytes(&new_path) })
        }
        Outcome::Merge { attributes, pieces } => {
            let list = place_all(pieces.len(), pieces.iter().map(lower_piece));
            RawOutcome::Merge(RawSited { site: attributes, list })
        }
        Outcome::Delete => RawOutcome::Delete,
        Outcome::Hold => RawOutcome::Hold,
    };
    place(RawDecision { outcome, rule: rule.into(), reason: place_bytes(reason.as_bytes()) })
}

fn lower_piece(piece: &Piece) -> RawPiece {
    match piece {
        &Piece::Copy { source, offset, length } => {
            RawPiece::Copy(RawSpan { source, offset, length })
        }
        Piece::Literal(bytes) => RawPiece::Literal(place_bytes(bytes)),
    }
}

/// # Safety
/// Of an argument of the call under way.
unsafe fn lift_state(raw: &RawState) -> State {
    // SAFETY: the caller's word.
    let bytes = |list: &List<u8>| unsafe { list.get() }.to_vec();
    let optional = |raw: &RawOption<List<u8>>| match raw {
        RawOption::None => None,
        RawOption::Some(list) => Some(bytes(list)),
    };
    match raw {
        RawState::Absent => State::Absent,
        RawState::Deleted => State::Deleted,
        RawState::Present(version) => State::Present(Version {
            entry: Entry {
                path: bytes(&version.entry.path),
                kind: version.entry.kind,
                size: version.entry.size,
                mtime: version.entry.mtime,
                mode: version.entry.mode,
                uid: version.entry.uid,
                gid: version.entry.gid,
            },
            digest: optional(&version.digest).and_then(|digest| digest.try_into().ok()),
            link_target: optional(&version.link_target),
            renamed_from: optional(&version.renamed_from),
        }),
    }
}

/// The handle that `resolve` borrows.
struct Versions(u32);

impl Drop for Versions {
    fn drop(&mut self) {
        // SAFETY: the handle of the call under way, given back once.
        unsafe { contents::drop(self.0) };
    }
}

impl Contents for Versions {
    fn read(&self, source: Source, offset: u64, length: u32) -> Result<Vec<u8>, ReadError> {
        let (chunks, used) = {
            let arena = ARENA.0.borrow();
            (arena.chunks.len(), arena.used)
        };
        let mut result = std::mem::MaybeUninit::uninit();
        // SAFETY: the host writes the result, and puts what it points to into the arena.
        let result = unsafe {
            contents::read(self.0, source as u32, offset, length, result.as_mut_ptr());
            result.assume_init()
        };
        // SAFETY: the host wrote these lists.
        let result = unsafe {
            match result {
                RawResult::Ok(bytes) => Ok(bytes.get().to_vec()),
                RawResult::Err(RawReadError::Unavailable) => Err(ReadError::Unavailable),
                RawResult::Err(RawReadError::OverBudget(left)) => Err(ReadError::OverBudget(left)),
                RawResult::Err(RawReadError::Io(text)) => {
                    let text = String::from_utf8(text.get().to_vec());
                    Err(ReadError::Io(text.unwrap_or_default()))
                }
            }
        };
        ARENA.0.borrow_mut().rewind(chunks, used);
        result
    }
}

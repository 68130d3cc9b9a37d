//! A batch of candidates as the argument of `exclude`.
//!
//! Guarantees: a component finds in its memory what it would find of a list of [`WitEntry`]: one
//! allocation of its own for the list and one for each path, the records laid out as the canonical ABI
//! says, which the tests of every language in `tests/fixtures/policies` read back. Every place that the
//! component names is checked against its memory. Refuses a place outside of it.
//!
//! The derived lowering looks the memory up anew for each field of each entry, which took longer than
//! the policy itself: 0.2 us an entry. Here all memory is asked for first, and written at once.
//! Nothing here survives a crash.

use std::mem::MaybeUninit;

use farshore_core::policy::Candidate;
use wasmtime::component::__internal::{
    CanonicalAbiInfo, InstanceType, InterfaceType, LowerContext,
};
use wasmtime::component::{ComponentType, Lower};
use wasmtime::{Result, ValRaw};

use super::{WitEntry, WitKind};
use crate::limits::BATCH_MAX;

/// A list of entries, at most [`BATCH_MAX`].
#[derive(Clone, Copy)]
pub(in crate::host) struct WitEntries<'a>(pub(in crate::host) &'a [Candidate<'a>]);

type Entries = [WitEntry<'static>];

/// Bytes of a record, and its alignment.
const ENTRY_BYTES: usize = 56;
const ENTRY_ALIGN: u32 = 8;
const _: () = assert!(
    WitEntry::SIZE32 == ENTRY_BYTES
        && WitEntry::ALIGN32 == ENTRY_ALIGN
        && size_of::<WitKind>() == 1
);

// SAFETY: the lowered form, its size and alignment and the check of the component's type are those of
// the slice.
#[allow(unsafe_code)]
unsafe impl ComponentType for WitEntries<'_> {
    type Lower = <Entries as ComponentType>::Lower;

    const ABI: CanonicalAbiInfo = <Entries as ComponentType>::ABI;

    fn typecheck(ty: &InterfaceType, types: &InstanceType<'_>) -> Result<()> {
        Entries::typecheck(ty, types)
    }
}

// SAFETY: all of the lowered form is written, as the slice's lowering does: where the list is and how
// many elements it has, each as 64 bits. The memory is written through checked slices.
#[allow(unsafe_code)]
unsafe impl Lower for WitEntries<'_> {
    fn linear_lower_to_flat<T>(
        &self,
        cx: &mut LowerContext<'_, T>,
        _: InterfaceType,
        dst: &mut MaybeUninit<Self::Lower>,
    ) -> Result<()> {
        let list = self.write(cx)?;
        dst.write([ValRaw::u64(u64::from(list)), ValRaw::u64(self.0.len() as u64)]);
        Ok(())
    }

    fn linear_lower_to_memory<T>(
        &self,
        cx: &mut LowerContext<'_, T>,
        _: InterfaceType,
        offset: usize,
    ) -> Result<()> {
        let list = self.write(cx)?;
        let count = u32::try_from(self.0.len())?;
        *cx.get::<4>(offset) = list.to_le_bytes();
        *cx.get::<4>(offset + 4) = count.to_le_bytes();
        Ok(())
    }
}

impl WitEntries<'_> {
    /// Writes the list; where it is.
    fn write<T>(&self, cx: &mut LowerContext<'_, T>) -> Result<u32> {
        let list = cx.realloc(0, 0, ENTRY_ALIGN, self.0.len() * ENTRY_BYTES)?;
        let mut places = [0; BATCH_MAX];
        if self.0.len() > places.len() {
            return Err(wasmtime::format_err!("{} entries at once", self.0.len()));
        }
        for (place, candidate) in places.iter_mut().zip(self.0) {
            *place = cx.realloc(0, 0, 1, candidate.path.as_bytes().len())?;
        }
        // Only an allocation makes a memory grow, or moves it.
        let memory = cx.as_slice_mut();
        let beyond = || wasmtime::format_err!("a place beyond the end of memory");
        let mut record_at = list;
        for (&path_at, candidate) in places.iter().zip(self.0) {
            let path = candidate.path.as_bytes();
            let into = memory.get_mut(path_at..).and_then(|m| m.get_mut(..path.len()));
            into.ok_or_else(beyond)?.copy_from_slice(path);
            let record = memory.get_mut(record_at..).and_then(|m| m.first_chunk_mut());
            *record.ok_or_else(beyond)? = record_of(candidate, u32::try_from(path_at)?);
            record_at += ENTRY_BYTES;
        }
        Ok(u32::try_from(list)?)
    }
}

/// The record of an entry whose path is at `path_at`.
fn record_of(candidate: &Candidate<'_>, path_at: u32) -> [u8; ENTRY_BYTES] {
    let &Candidate { path, kind, size, mtime, mode, uid, gid } = candidate;
    // A path is far below 4 GiB.
    let length = u32::try_from(path.as_bytes().len()).unwrap_or(u32::MAX);
    let mut record = [0; ENTRY_BYTES];
    let mut put = |at: usize, bytes: &[u8]| record[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &path_at.to_le_bytes());
    put(4, &length.to_le_bytes());
    put(8, &[WitKind::from(kind) as u8]);
    put(16, &size.to_le_bytes());
    put(24, &mtime.seconds.to_le_bytes());
    put(32, &mtime.nanos.to_le_bytes());
    put(40, &(mode & 0o7777).to_le_bytes());
    put(44, &uid.to_le_bytes());
    put(48, &gid.to_le_bytes());
    record
}

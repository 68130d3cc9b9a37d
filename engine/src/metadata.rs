//! Giving an object its owner, attributes, mode and time.
//!
//! The order is fixed: owner, attributes, mode, file capabilities, time. A change of owner clears
//! setuid and capabilities, so that none is ever in force before the owner is right. What a mount
//! cannot keep is counted by what it was, never dropped silently; when the owner could not be set,
//! setuid and setgid are not either.

use std::collections::BTreeMap;
use std::io;

use farshore_core::entry::{Metadata, Timestamp, Xattrs};
use rustix::io::Errno;

use crate::io::{FileKind, Object, Storage};

const CAPABILITY: &[u8] = b"security.capability";
const SETID: u32 = 0o6000;
/// Bytes free on a disk that is not full: more than the largest attributes of one object take.
const ATTRIBUTE_ROOM: u64 = 4 << 20;

/// Facts a mount could not keep, by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Degraded(BTreeMap<String, u64>);

impl Degraded {
    fn note(&mut self, what: &str) {
        *self.0.entry(what.to_owned()).or_default() += 1;
    }

    /// Adds what `other` counted.
    pub fn merge(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            *self.0.entry(what.clone()).or_default() += count;
        }
    }

    /// What was counted.
    #[must_use]
    pub fn counts(&self) -> Vec<(String, u64)> {
        self.0.iter().map(|(k, v)| (k.clone(), *v)).collect()
    }
}

/// What an object has before it is changed.
#[derive(Debug, Clone, Copy)]
pub struct Present<'a> {
    /// Owner and group.
    pub owner: (u32, u32),
    /// Mode bits; `None` when they are to be set whatever they are.
    pub mode: Option<u32>,
    /// Attributes.
    pub xattrs: &'a Xattrs,
}

/// Makes `object` have `wanted`.
///
/// # Errors
/// What is no matter of rights or of the mount's abilities: EIO, ENOSPC, ENOENT.
pub fn apply_metadata<S: Storage>(
    storage: &S,
    object: Object<'_, S>,
    kind: FileKind,
    wanted: &Metadata,
    present: Present<'_>,
    degraded: &mut Degraded,
) -> io::Result<()> {
    let mut mode = wanted.mode;
    let mut chowned = false;
    if present.owner != (wanted.uid, wanted.gid) {
        match storage.set_owner(object, wanted.uid, wanted.gid) {
            Ok(()) => chowned = true,
            Err(e) if is_inability(&e) => {
                degraded.note("owner");
                mode &= !SETID;
            }
            Err(e) => return Err(e),
        }
    }
    for (name, _) in present.xattrs.iter() {
        if wanted.xattrs.get(name).is_none() {
            match storage.remove_xattr(object, name) {
                Ok(()) => {}
                Err(e) if e.raw_os_error() == Some(Errno::NODATA.raw_os_error()) => {}
                Err(e) if is_inability(&e) => degraded.note(attribute_kind(name)),
                Err(e) => return Err(e),
            }
        }
    }
    let set = |degraded: &mut Degraded, name: &[u8], value: &[u8]| match set_xattr(
        storage, object, name, value,
    ) {
        Ok(()) => Ok(()),
        Err(e) if is_inability(&e) || is_too_large(&e) => {
            degraded.note(attribute_kind(name));
            Ok(())
        }
        Err(e) => Err(e),
    };
    for (name, value) in wanted.xattrs.iter().filter(|(n, _)| *n != CAPABILITY) {
        if chowned || present.xattrs.get(name) != Some(value) {
            set(degraded, name, value)?;
        }
    }
    let keeps_mode = !chowned && wanted.xattrs == *present.xattrs && present.mode == Some(mode);
    if kind != FileKind::Symlink && !keeps_mode {
        match storage.set_mode(object, mode) {
            Ok(()) => {}
            Err(e) if is_inability(&e) => degraded.note("mode"),
            Err(e) => return Err(e),
        }
    }
    if let Some(value) = wanted.xattrs.get(CAPABILITY)
        && (chowned || present.xattrs.get(CAPABILITY) != Some(value))
    {
        set(degraded, CAPABILITY, value)?;
    }
    match storage.set_mtime(object, wanted.mtime) {
        Err(e) if is_inability(&e) => degraded.note("time"),
        Ok(()) if may_be_clamped(wanted.mtime) => {
            if storage.stat(object)?.mtime.seconds != wanted.mtime.seconds {
                degraded.note("time");
            }
        }
        done => done?,
    }
    Ok(())
}

/// Whether a file system may have no such time and take the nearest it has, without a word: all have
/// those from 1970 to 2038.
fn may_be_clamped(time: Timestamp) -> bool {
    !(0..=i64::from(i32::MAX)).contains(&time.seconds)
}

/// Whether a time that stands there is `wanted` as far as the file system has it: cut to the grain of its
/// times, or the nearest it has. Another one within the same second is not.
#[must_use]
pub fn is_time_kept(wanted: Timestamp, there: Timestamp) -> bool {
    /// Nanoseconds of the grains of times: of a mount's own, of NTFS and SMB, and of those in micro-,
    /// milliseconds and seconds.
    const GRAINS: [u32; 5] = [1, 100, 1_000, 1_000_000, 1_000_000_000];
    if wanted.seconds == there.seconds {
        return GRAINS.iter().any(|grain| wanted.nanos / grain * grain == there.nanos);
    }
    (there.seconds < wanted.seconds && there.seconds >= i64::from(i32::MAX))
        || (wanted.seconds < there.seconds && there.seconds <= 0)
}

fn is_inability(e: &io::Error) -> bool {
    let inabilities = [Errno::PERM, Errno::ACCESS, Errno::OPNOTSUPP, Errno::NOSYS, Errno::INVAL];
    e.raw_os_error().is_some_and(|raw| inabilities.iter().any(|i| i.raw_os_error() == raw))
}

/// Sets an attribute. File systems answer ENOSPC for one beyond their block, as a full disk does:
/// what still fails while there is room is too large.
fn set_xattr<S: Storage>(
    storage: &S,
    object: Object<'_, S>,
    name: &[u8],
    value: &[u8],
) -> io::Result<()> {
    match storage.set_xattr(object, name, value) {
        Err(e) if e.kind() == io::ErrorKind::StorageFull => {
            if storage.free_bytes()? < ATTRIBUTE_ROOM {
                // Of a kind and without a number: not taken for one that is too large.
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            storage.set_xattr(object, name, value)
        }
        done => done,
    }
}

fn is_too_large(e: &io::Error) -> bool {
    let limits = [Errno::NOSPC, Errno::TOOBIG, Errno::RANGE];
    e.raw_os_error().is_some_and(|raw| limits.iter().any(|i| i.raw_os_error() == raw))
}

fn attribute_kind(name: &[u8]) -> &'static str {
    match name.split(|&b| b == b'.').next() {
        Some(b"user") => "user attribute",
        Some(b"trusted") => "trusted attribute",
        Some(b"security") => "security attribute",
        _ if name.starts_with(b"system.posix_acl") => "ACL",
        _ => "attribute",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_kept_when_it_was_cut_or_clamped_and_not_when_it_is_another() {
        let at = |seconds, nanos| Timestamp { seconds, nanos };
        let wanted = at(1_795_686_392, 363_165_432);
        for nanos in [363_165_432, 363_165_400, 363_165_000, 363_000_000, 0] {
            assert!(is_time_kept(wanted, at(wanted.seconds, nanos)), "{nanos}");
        }
        for nanos in [363_165_433, 363_165_431, 158_791_218, 363_000_001, 999_999_999] {
            assert!(!is_time_kept(wanted, at(wanted.seconds, nanos)), "{nanos}");
        }
        assert!(!is_time_kept(wanted, at(wanted.seconds + 1, 0)));
        assert!(is_time_kept(at(16_725_225_600, 5), at(15_032_385_535, 0)), "clamped to 2446");
        assert!(is_time_kept(at(-5_364_662_400, 5), at(-2_147_483_648, 0)), "clamped to 1901");
    }
}

//! Copies of files within a share, and giving them, or what stands already, the metadata of an entry.
//!
//! Guarantees: a copy has the content and the holes of its source, by shared blocks where the file system has them.
//! Nothing is synced, and nothing of a source that changes meanwhile is vouched for: the caller compares.

use std::io;

use farshore_core::entry::{Metadata, Xattrs};

use crate::io::{Object, Stat, Storage};
use crate::metadata::{Degraded, Present, apply_metadata};

/// Makes `name` in `directory` with the first `size` bytes of `source`.
pub(crate) fn copy_content<S: Storage>(
    storage: &S,
    source: &S::File,
    size: u64,
    directory: &S::Directory,
    name: &[u8],
) -> io::Result<S::File> {
    let made = storage.create_file(directory, name)?;
    storage.set_len(&made, size)?;
    let mut offset = 0;
    while let Some(data) = storage.next_data(source, offset, size)? {
        let length = data.end.saturating_sub(data.start);
        storage.copy_range(source, data.start, &made, data.start, length)?;
        offset = data.end;
    }
    Ok(made)
}

/// Gives `object`, which is as `stat` says, what it lacks of `wanted`; what its mount cannot keep is counted.
pub(crate) fn dress<S: Storage>(
    storage: &S,
    object: Object<'_, S>,
    stat: &Stat,
    wanted: &Metadata,
    degraded: &mut Degraded,
) -> io::Result<()> {
    let pairs = storage.xattrs(object)?;
    let xattrs = Xattrs::new(pairs).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    let present = Present { owner: (stat.uid, stat.gid), mode: Some(stat.mode), xattrs: &xattrs };
    apply_metadata(storage, object, stat.kind, wanted, present, degraded)
}

//! The batches, by a ring: one step for all files, then the next.
//!
//! A file that a ring could not do for a reason that may be the ring's own (no descriptor left with so
//! many open at once, a lease being broken, an access time that may not be left) is done again by plain
//! calls, when the others are closed: what those say is the answer.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::UringStorage;
use super::ring::{Open, Read, Ring, Write};
use crate::io::batch::{
    self, Finish, NewSmallFile, SmallContent, SmallFile, StepError, buffer_for, complete, step,
};
use crate::io::posix::{self, DATA_FLAGS, PosixDirectory, PosixFile, RESOLVE, check_name};
use crate::io::{Stat, Storage};

/// What became of a file, or that it is to be done plainly.
type Outcome<T> = Option<Result<T, StepError>>;

/// A file that is open.
struct Opened {
    number: usize,
    file: PosixFile,
    before: Stat,
    bytes: Vec<u8>,
}

/// Opens what has a name; what has none is answered in `out`.
fn open_all<'a, T>(
    ring: &mut Ring,
    files: impl Iterator<Item = (&'a PosixDirectory, &'a [u8], Mode)>,
    flags: OFlags,
    step: &'static str,
    out: &mut Vec<Outcome<T>>,
) -> Vec<(usize, Result<OwnedFd, Errno>)> {
    let failed = |e: Errno| StepError { step, source: e.into() };
    let mut wanted = Vec::new();
    for (number, (at, name, mode)) in files.enumerate() {
        let name = check_name(name).and_then(|()| CString::new(name).map_err(|_| Errno::INVAL));
        out.push(name.as_ref().err().map(|e| Err(failed(*e))));
        wanted.extend(name.ok().map(|name| (number, at, name, mode)));
    }
    let requests: Vec<Open<'_>> = wanted
        .iter()
        .map(|(_, at, name, mode)| Open {
            at: at.fd.as_fd(),
            name,
            flags,
            mode: *mode,
            resolve: RESOLVE,
        })
        .collect();
    let opened = ring.open(&requests);
    wanted.iter().map(|(number, ..)| *number).zip(opened).collect()
}

/// Whether an error may come from how it was asked rather than from what was asked for. EXDEV: plain
/// calls do not mind a mount at the name itself.
fn may_be_ours(e: Errno) -> bool {
    matches!(
        e,
        Errno::CANCELED
            | Errno::INTR
            | Errno::AGAIN
            | Errno::MFILE
            | Errno::NFILE
            | Errno::NOMEM
            | Errno::PERM
            | Errno::XDEV
    )
}

/// See [`Storage::read_small_files`].
pub(super) fn read(
    storage: &UringStorage,
    ring: &mut Ring,
    files: &[SmallFile<'_, UringStorage>],
    size_max: u64,
) -> Vec<Result<SmallContent, StepError>> {
    let mut flags = DATA_FLAGS | OFlags::RDONLY;
    if storage.plain.omit_atime.load(Ordering::Relaxed) {
        flags |= OFlags::NOATIME;
    }
    let mut out: Vec<Outcome<SmallContent>> = Vec::with_capacity(files.len());
    let names = files.iter().map(|f| (f.at, f.name, Mode::empty()));
    let mut open: Vec<Opened> = Vec::with_capacity(files.len());
    for (number, fd) in open_all(ring, names, flags, step::OPEN, &mut out) {
        match fd.map_err(posix::no_file) {
            Ok(fd) => match posix::opened(fd) {
                Ok((file, before)) => {
                    let bytes = buffer_for(&before, size_max);
                    open.push(Opened { number, file, before, bytes });
                }
                Err(source) => out[number] = Some(Err(StepError { step: step::OPEN, source })),
            },
            Err(e) if may_be_ours(e) => {}
            Err(e) => out[number] = Some(Err(StepError { step: step::OPEN, source: e.into() })),
        }
    }
    let read = read_all(storage, ring, &mut open);
    let mut closed = Vec::with_capacity(open.len());
    for (opened, read) in open.into_iter().zip(read) {
        let Opened { number, file, before, bytes } = opened;
        out[number] = Some(
            read_rest(storage, &file, &before, bytes, read)
                .and_then(|bytes| complete(storage, &file, before, bytes)),
        );
        closed.push(file.0);
    }
    ring.close(closed);
    let plainly = |(file, done): (_, Outcome<_>)| {
        done.unwrap_or_else(|| batch::read_one(storage, file, size_max))
    };
    files.iter().zip(out).map(plainly).collect()
}

fn read_all(
    storage: &UringStorage,
    ring: &mut Ring,
    open: &mut [Opened],
) -> Vec<Result<usize, Errno>> {
    if storage.block_in_ring.load(Ordering::Relaxed) {
        for opened in &*open {
            // Regular files all of them: whoever reads one waits for its disk alone. Where this is
            // refused, plain calls read.
            rustix::fs::fcntl_setfl(&opened.file.0, OFlags::NOATIME & flags_of(&opened.file))
                .unwrap_or(());
        }
    }
    let mut requests: Vec<Read<'_>> = open
        .iter_mut()
        .map(|opened| Read { file: opened.file.0.as_fd(), into: &mut opened.bytes })
        .collect();
    let read = ring.read(&mut requests);
    if read.contains(&Err(Errno::AGAIN)) {
        storage.block_in_ring.store(true, Ordering::Relaxed);
    }
    read
}

/// The flags a file was opened with.
fn flags_of(file: &PosixFile) -> OFlags {
    rustix::fs::fcntl_getfl(&file.0).unwrap_or(OFlags::empty())
}

/// What the ring did not read of a file: nothing, mostly. As many bytes as the file had before are
/// enough, since the facts are looked at once more.
fn read_rest(
    storage: &UringStorage,
    file: &PosixFile,
    before: &Stat,
    mut bytes: Vec<u8>,
    read: Result<usize, Errno>,
) -> Result<Vec<u8>, StepError> {
    let mut len = read
        .or_else(|e| if may_be_ours(e) { Ok(0) } else { Err(e) })
        .map_err(|e| StepError { step: step::READ, source: e.into() })?;
    if (len as u64) < before.size && len < bytes.len() {
        let rest = &mut bytes[len..];
        len += storage.read_at(file, len as u64, rest).map_err(StepError::at(step::READ))?;
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// See [`Storage::create_small_files`].
pub(super) fn create(
    storage: &UringStorage,
    ring: &mut Ring,
    files: &[NewSmallFile<'_, UringStorage>],
    finish: Finish<'_, UringStorage>,
) -> Vec<Result<(), StepError>> {
    // What is made new is a regular file, which needs no O_NONBLOCK; with it, a ring would give up
    // where a mount cannot say whether a write waits.
    let flags = (DATA_FLAGS & !OFlags::NONBLOCK) | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
    let mut out: Vec<Outcome<()>> = Vec::with_capacity(files.len());
    let names = files.iter().map(|f| (f.at, f.name, Mode::from_raw_mode(f.mode & 0o777)));
    let mut open: Vec<(usize, PosixFile)> = Vec::with_capacity(files.len());
    for (number, fd) in open_all(ring, names, flags, step::CREATE, &mut out) {
        match fd.map_err(posix::no_file) {
            Ok(fd) => open.push((number, PosixFile(fd))),
            Err(e) if may_be_ours(e) => {}
            Err(e) => out[number] = Some(Err(StepError { step: step::CREATE, source: e.into() })),
        }
    }
    let requests: Vec<Write<'_>> = open
        .iter()
        .filter(|(number, _)| !files[*number].bytes.is_empty())
        .map(|(number, file)| Write { file: file.0.as_fd(), bytes: files[*number].bytes })
        .collect();
    let mut written = ring.write(&requests).into_iter();
    let mut closed = Vec::with_capacity(open.len());
    for (number, file) in open {
        let bytes = files[number].bytes;
        let wrote = if bytes.is_empty() { Ok(0) } else { written.next().unwrap_or(Ok(0)) };
        let done = write_rest(storage, &file, bytes, wrote);
        if done.is_ok() {
            finish(number, &file);
        }
        out[number] = Some(done);
        closed.push(file.0);
    }
    ring.close(closed);
    let plainly = |((number, file), done): ((usize, _), Outcome<_>)| {
        done.unwrap_or_else(|| batch::create_one(storage, number, file, finish))
    };
    files.iter().enumerate().zip(out).map(plainly).collect()
}

fn write_rest(
    storage: &UringStorage,
    file: &PosixFile,
    bytes: &[u8],
    wrote: Result<usize, Errno>,
) -> Result<(), StepError> {
    let done = wrote
        .or_else(|e| if may_be_ours(e) { Ok(0) } else { Err(e) })
        .map_err(|e| StepError { step: step::WRITE, source: e.into() })?;
    match bytes.get(done..) {
        Some(rest) if !rest.is_empty() => {
            storage.write_at(file, done as u64, rest).map_err(StepError::at(step::WRITE))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::io::uring::{IoMode, with_ring};

    /// Reads `old` (before it was changed) as the batch does, `change` coming between the look and the
    /// read.
    fn read_while(old: &[u8], change: impl Fn(&Path)) -> Option<SmallContent> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("f");
        fs::write(&path, old).expect("written");
        let storage = UringStorage::open(folder.path(), IoMode::Uring).expect("open");
        let (file, before) = storage.open_file_and_stat(storage.root(), b"f").expect("open");
        let bytes = buffer_for(&before, 1 << 16);
        change(&path);
        let mut open = [Opened { number: 0, file, before, bytes }];
        let read = with_ring(|ring| read_all(&storage, ring, &mut open))?[0];
        let [Opened { file, bytes, .. }] = open;
        let bytes = read_rest(&storage, &file, &before, bytes, read).expect("read");
        Some(complete(&storage, &file, before, bytes).expect("looked at"))
    }

    #[test]
    fn a_file_that_grows_or_shrinks_is_seen_to() {
        let cases: [(&[u8], &str, &[u8]); 4] = [
            (b"content", "content and more", b"content "),
            (b"content", "con", b"con"),
            (b"content", "", b""),
            (b"", "more", b"m"),
        ];
        for (old, new, read) in cases {
            let Some(found) = read_while(old, |path| fs::write(path, new).expect("written")) else {
                return;
            };
            assert_eq!(found.bytes, read);
            assert_eq!(found.before.size, old.len() as u64);
            assert_eq!(found.after.size, new.len() as u64, "the second look is after the read");
        }
    }

    #[test]
    fn a_name_that_vanishes_leaves_what_is_open() {
        let gone = read_while(b"content", |path| fs::remove_file(path).expect("removed"));
        let Some(found) = gone else { return };
        assert_eq!((&found.bytes[..], found.after.links), (&b"content"[..], 0));
    }

    /// What a ring leaves half done, or not done, plain calls finish.
    #[test]
    fn what_the_ring_leaves_is_done_plainly() {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = UringStorage::open(folder.path(), IoMode::Uring).expect("open");
        let file = storage.create_file(storage.root(), b"f").expect("created");
        for wrote in [Ok(0), Ok(3), Ok(7), Err(Errno::AGAIN), Err(Errno::CANCELED)] {
            storage.set_len(&file, 0).expect("emptied");
            let done = *wrote.as_ref().unwrap_or(&0);
            storage.write_at(&file, 0, &b"content"[..done]).expect("written");
            write_rest(&storage, &file, b"content", wrote).expect("written");
            let (open, before) = storage.open_file_and_stat(storage.root(), b"f").expect("open");
            let mut bytes = buffer_for(&before, 10);
            bytes[..done].copy_from_slice(&b"content"[..done]);
            let read = read_rest(&storage, &open, &before, bytes, wrote).expect("read");
            assert_eq!(read, b"content", "{wrote:?}");
        }
        let failed = write_rest(&storage, &file, b"content", Err(Errno::NOSPC));
        assert_eq!(failed.expect_err("full").step, step::WRITE);
    }
}

//! The embedded database on the simulated disk.

use std::io;

use redb::StorageBackend;
use rustix::io::Errno;

use super::storage::{SimFile, SimStorage};
use crate::io::{Object, Storage};

/// A file of a simulated disk as redb wants it. Every call is an operation of the disk: counted,
/// failed and cut off like those of the trees beside it.
#[derive(Debug)]
pub struct SimDatabaseFile {
    storage: SimStorage,
    file: SimFile,
}

impl SimDatabaseFile {
    /// Opens the file; one that has to be created is durable, empty, when this returns.
    pub(super) fn open(storage: &SimStorage, path: &[u8]) -> io::Result<Self> {
        let (directory, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&b""[..], path),
        };
        let at = storage.open_directory(storage.root(), directory)?;
        let file = match storage.open_file_writable(&at, name) {
            Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {
                let file = storage.create_file(&at, name)?;
                storage.sync_directory(&at)?;
                file
            }
            opened => opened?,
        };
        let storage = SimStorage::mount(storage.disk(), b"")?;
        Ok(Self { storage, file })
    }
}

impl StorageBackend for SimDatabaseFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.storage.stat(Object::File(&self.file))?.size)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.storage.read_at(&self.file, offset, out)? < out.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.storage.set_len(&self.file, len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.storage.sync_file(&self.file)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.storage.write_at(&self.file, offset, data)
    }
}

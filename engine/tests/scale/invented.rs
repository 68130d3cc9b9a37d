//! A storage that invents its tree: accounts of 100 folders of 100 empty files, or one flat folder.
//!
//! It keeps nothing, so what a run holds is Farshore's. Everything that writes is refused.

use std::io;
use std::ops::Range;

use farshore_core::entry::{DeviceNumber, NameAndValue, Timestamp};
use farshore_engine::io::{FileKind, Listed, NewNode, Object, Stat, Storage};

/// Entries of a folder in an account, and folders in it.
const FAN: u64 = 100;

/// A tree of about as many entries as were asked for.
#[derive(Debug)]
pub(crate) struct Invented {
    root: Place,
    entries: u64,
    flat: bool,
}

/// A directory or a file: at which depth, and the how manieth there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    depth: u8,
    number: u64,
}

impl Invented {
    /// A tree of `entries`, whole accounts.
    pub(crate) fn new(entries: u64, flat: bool) -> Self {
        Self { root: Place { depth: 0, number: 0 }, entries, flat }
    }

    /// Entries there are, the root not counted.
    pub(crate) fn len(&self) -> u64 {
        if self.flat { self.entries } else { self.accounts() * (1 + FAN + FAN * FAN) }
    }

    fn accounts(&self) -> u64 {
        self.entries.div_ceil(1 + FAN + FAN * FAN)
    }

    /// Entries of a directory at `depth`.
    fn fan(&self, depth: u8) -> u64 {
        match (self.flat, depth) {
            (true, 0) => self.entries,
            (false, 0) => self.accounts(),
            (false, 1 | 2) => FAN,
            _ => 0,
        }
    }

    fn is_directory(&self, place: Place) -> bool {
        place.depth < if self.flat { 1 } else { 3 }
    }

    fn child(&self, at: Place, name: &[u8]) -> io::Result<Place> {
        let number = std::str::from_utf8(name).ok().and_then(|n| n.get(4..)?.parse::<u64>().ok());
        match number.filter(|n| *n < self.fan(at.depth)) {
            Some(n) => {
                Ok(Place { depth: at.depth + 1, number: at.number * self.fan(at.depth) + n })
            }
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn facts(&self, place: Place) -> Stat {
        let is_directory = self.is_directory(place);
        let at = Timestamp { seconds: 1_700_000_000, nanos: 5 };
        let device = DeviceNumber { major: 0, minor: 1 };
        Stat {
            kind: if is_directory { FileKind::Directory } else { FileKind::Regular },
            mode: 0o755,
            uid: 1_000,
            gid: 1_000,
            size: 0,
            allocated: 0,
            mtime: at,
            ctime: at,
            inode: (u64::from(place.depth) << 56) + place.number + 1,
            links: 1,
            device,
            number: device,
        }
    }
}

fn refused<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl Storage for Invented {
    type Directory = Place;
    type File = Place;

    fn root(&self) -> &Place {
        &self.root
    }

    fn open_directory(&self, at: &Place, path: &[u8]) -> io::Result<Place> {
        let names = path.split(|b| *b == b'/').filter(|n| !n.is_empty());
        let mut at = *at;
        for name in names {
            at = self.child(at, name)?;
        }
        if self.is_directory(at) { Ok(at) } else { Err(io::ErrorKind::NotADirectory.into()) }
    }

    fn list(&self, directory: &Place, visit: &mut dyn FnMut(Listed<'_>)) -> io::Result<()> {
        for n in 0..self.fan(directory.depth) {
            let name = format!("name{n:08}");
            visit(Listed { name: name.as_bytes(), inode: 1, kind: None });
        }
        Ok(())
    }

    fn stat(&self, object: Object<'_, Self>) -> io::Result<Stat> {
        Ok(match object {
            Object::File(place) | Object::Directory(place) => self.facts(*place),
            Object::Named(at, name) => self.facts(self.child(*at, name)?),
        })
    }

    fn open_file(&self, at: &Place, name: &[u8]) -> io::Result<Place> {
        self.child(*at, name)
    }

    fn read_at(&self, _: &Place, _: u64, _: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }

    fn next_data(&self, _: &Place, _: u64, _: u64) -> io::Result<Option<Range<u64>>> {
        Ok(None)
    }

    fn xattrs(&self, _: Object<'_, Self>) -> io::Result<Vec<NameAndValue>> {
        Ok(Vec::new())
    }

    fn file_system(&self) -> io::Result<u64> {
        Ok(1)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(0)
    }

    fn create_file(&self, _: &Place, _: &[u8]) -> io::Result<Place> {
        refused()
    }

    fn open_file_writable(&self, _: &Place, _: &[u8]) -> io::Result<Place> {
        refused()
    }

    fn write_at(&self, _: &Place, _: u64, _: &[u8]) -> io::Result<()> {
        refused()
    }

    fn set_len(&self, _: &Place, _: u64) -> io::Result<()> {
        refused()
    }

    fn allocate(&self, _: &Place, _: Range<u64>) -> io::Result<()> {
        refused()
    }

    fn start_writeback(&self, _: &Place, _: Range<u64>) {}

    fn copy_range(&self, _: &Place, _: u64, _: &Place, _: u64, _: u64) -> io::Result<()> {
        refused()
    }

    fn make_directory(&self, _: &Place, _: &[u8]) -> io::Result<()> {
        refused()
    }

    fn make_symlink(&self, _: &Place, _: &[u8], _: &[u8]) -> io::Result<()> {
        refused()
    }

    fn make_node(&self, _: &Place, _: &[u8], _: NewNode) -> io::Result<()> {
        refused()
    }

    fn read_link(&self, _: &Place, _: &[u8]) -> io::Result<Vec<u8>> {
        refused()
    }

    fn link(&self, _: &Place, _: &[u8], _: &Place, _: &[u8]) -> io::Result<()> {
        refused()
    }

    fn rename(&self, _: &Place, _: &[u8], _: &Place, _: &[u8]) -> io::Result<()> {
        refused()
    }

    fn unlink(&self, _: &Place, _: &[u8]) -> io::Result<()> {
        refused()
    }

    fn remove_directory(&self, _: &Place, _: &[u8]) -> io::Result<()> {
        refused()
    }

    fn set_xattr(&self, _: Object<'_, Self>, _: &[u8], _: &[u8]) -> io::Result<()> {
        refused()
    }

    fn remove_xattr(&self, _: Object<'_, Self>, _: &[u8]) -> io::Result<()> {
        refused()
    }

    fn set_owner(&self, _: Object<'_, Self>, _: u32, _: u32) -> io::Result<()> {
        refused()
    }

    fn set_mode(&self, _: Object<'_, Self>, _: u32) -> io::Result<()> {
        refused()
    }

    fn set_mtime(&self, _: Object<'_, Self>, _: Timestamp) -> io::Result<()> {
        refused()
    }

    fn sync_file(&self, _: &Place) -> io::Result<()> {
        refused()
    }

    fn sync_directory(&self, _: &Place) -> io::Result<()> {
        refused()
    }

    fn sync_all(&self) -> io::Result<()> {
        refused()
    }
}

//! A list too long for memory: kept in a buffer, then in an unnamed file of the state folder.
//!
//! Nothing of it survives a crash; it is made anew by the next scan.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Bytes kept in memory before the list goes to disk.
const MEMORY_MAX: usize = 4 << 20;

/// Items as bytes, in the order they were pushed.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    memory: Vec<u8>,
    file: Option<File>,
    len: u64,
}

impl Spool {
    /// An empty list that may spill to `folder`.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.into(), memory: Vec::new(), file: None, len: 0 }
    }

    /// Items in it.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends an item of less than 4 GiB.
    ///
    /// # Errors
    /// The spill file's own.
    pub fn push(&mut self, item: &[u8]) -> io::Result<()> {
        let len = u32::try_from(item.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        // The length stands on both sides, so that the list reads backwards too.
        for part in [&len.to_le_bytes()[..], item, &len.to_le_bytes()[..]] {
            self.memory.extend_from_slice(part);
        }
        self.len += 1;
        if self.memory.len() >= MEMORY_MAX {
            self.spill()?;
        }
        Ok(())
    }

    fn spill(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            self.file = Some(unnamed_file(&self.folder)?);
        }
        if let Some(file) = &mut self.file {
            file.write_all(&self.memory)?;
            self.memory.clear();
        }
        Ok(())
    }

    /// Reads the list from its first item.
    ///
    /// # Errors
    /// The spill file's own.
    pub fn into_forward(mut self) -> io::Result<SpoolReader> {
        self.take_source().map(|(source, end)| SpoolReader { source, at: 0, end, backwards: false })
    }

    /// Reads the list from its last item.
    ///
    /// # Errors
    /// The spill file's own.
    pub fn into_backward(mut self) -> io::Result<SpoolReader> {
        self.take_source().map(|(source, end)| SpoolReader {
            source,
            at: end,
            end,
            backwards: true,
        })
    }

    /// Reads the list from its first item, and keeps it. One reader at a time: a spilled list is one file.
    ///
    /// # Errors
    /// The spill file's own.
    pub fn read_forward(&mut self) -> io::Result<SpoolReader> {
        self.share_source().map(|(source, end)| SpoolReader {
            source,
            at: 0,
            end,
            backwards: false,
        })
    }

    /// The same from its last item.
    ///
    /// # Errors
    /// The spill file's own.
    pub fn read_backward(&mut self) -> io::Result<SpoolReader> {
        self.share_source().map(|(source, end)| SpoolReader {
            source,
            at: end,
            end,
            backwards: true,
        })
    }

    fn share_source(&mut self) -> io::Result<(Source, u64)> {
        if self.file.is_some() {
            self.spill()?;
        }
        Ok(match &self.file {
            Some(file) => {
                let mut file = file.try_clone()?;
                let end = file.seek(SeekFrom::End(0))?;
                (Source::File(file, Vec::new(), 0), end)
            }
            None => (Source::Memory(self.memory.clone()), self.memory.len() as u64),
        })
    }

    fn take_source(&mut self) -> io::Result<(Source, u64)> {
        if self.file.is_some() {
            self.spill()?;
        }
        Ok(match self.file.take() {
            Some(mut file) => {
                let end = file.seek(SeekFrom::End(0))?;
                (Source::File(file, Vec::new(), 0), end)
            }
            None => {
                let memory = std::mem::take(&mut self.memory);
                let end = memory.len() as u64;
                (Source::Memory(memory), end)
            }
        })
    }
}

fn unnamed_file(folder: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR)?))
}

#[derive(Debug)]
enum Source {
    Memory(Vec<u8>),
    /// The file, a window of it, and where the window starts.
    File(File, Vec<u8>, u64),
}

impl Source {
    #[allow(clippy::cast_possible_truncation)] // offsets within memory, or within a window of it
    fn bytes(&mut self, at: u64, len: usize, backwards: bool) -> io::Result<&[u8]> {
        match self {
            Self::Memory(memory) => {
                let at = at as usize;
                memory.get(at..at + len).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
            }
            Self::File(file, window, start) => {
                let inside = at >= *start && at + len as u64 <= *start + window.len() as u64;
                if !inside {
                    let room = (MEMORY_MAX / 4).max(len) as u64;
                    let end = file.seek(SeekFrom::End(0))?;
                    let from = if backwards { (at + len as u64).saturating_sub(room) } else { at };
                    let to = (from + room).min(end);
                    window.resize((to - from) as usize, 0);
                    file.seek(SeekFrom::Start(from))?;
                    file.read_exact(window)?;
                    *start = from;
                }
                let at = (at - *start) as usize;
                window.get(at..at + len).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
            }
        }
    }
}

/// Reads a list.
#[derive(Debug)]
pub struct SpoolReader {
    source: Source,
    at: u64,
    /// Where the list ends: it does not grow while it is read.
    end: u64,
    backwards: bool,
}

impl SpoolReader {
    /// The next item.
    ///
    /// # Errors
    /// The spill file's own.
    #[allow(clippy::cast_possible_truncation)] // a length of 32 bits
    pub fn next_item(&mut self) -> io::Result<Option<Vec<u8>>> {
        let done = if self.backwards { self.at == 0 } else { self.at >= self.end };
        if done {
            return Ok(None);
        }
        let at = if self.backwards { self.at - 4 } else { self.at };
        let mut len = [0; 4];
        len.copy_from_slice(self.source.bytes(at, 4, self.backwards)?);
        let len = u64::from(u32::from_le_bytes(len));
        let start = if self.backwards { self.at - 4 - len } else { self.at + 4 };
        let item = self.source.bytes(start, len as usize, self.backwards)?.to_vec();
        self.at = if self.backwards { start - 4 } else { start + len + 4 };
        Ok(Some(item))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drained(mut reader: SpoolReader) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| reader.next_item().expect("readable")).collect()
    }

    #[test]
    fn both_directions_in_memory_and_on_disk() {
        let folder = tempfile::tempdir().expect("tempdir");
        for count in [0usize, 1, 10, 60_000] {
            let make = || {
                let mut spool = Spool::new(folder.path());
                for i in 0..count {
                    spool
                        .push(format!("{i:0>width$}", width = 10 + i % 300).as_bytes())
                        .expect("push");
                }
                assert_eq!(spool.len(), count as u64);
                spool
            };
            let mut kept = make();
            let once = drained(kept.read_forward().expect("forward"));
            let again = drained(kept.read_backward().expect("backward"));
            assert_eq!(once, again.into_iter().rev().collect::<Vec<_>>(), "{count} items");
            assert_eq!(once, drained(kept.into_forward().expect("forward")), "all are kept");
            let forward = drained(make().into_forward().expect("forward"));
            assert_eq!(forward.len(), count);
            assert!(
                forward
                    .iter()
                    .enumerate()
                    .all(|(i, b)| { String::from_utf8_lossy(b).parse::<usize>() == Ok(i) })
            );
            let mut backward = drained(make().into_backward().expect("backward"));
            backward.reverse();
            assert_eq!(forward, backward);
        }
    }
}

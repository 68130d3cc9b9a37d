//! Names of one directory in one piece of memory: each behind its length, and where each begins.

/// Names, in the order they were pushed until they are sorted.
#[derive(Debug, Default)]
pub(super) struct Names {
    bytes: Vec<u8>,
    starts: Vec<u32>,
}

impl Names {
    /// Adds a name; `false` when there is no room: 4 GiB of names are no directory of ours.
    /// No file system has names of more than 255 bytes; such a one is passed over.
    pub(super) fn push(&mut self, name: &[u8]) -> bool {
        let Ok(len) = u8::try_from(name.len()) else { return true };
        let Ok(start) = u32::try_from(self.bytes.len()) else { return false };
        self.starts.push(start);
        self.bytes.push(len);
        self.bytes.extend_from_slice(name);
        true
    }

    pub(super) fn len(&self) -> usize {
        self.starts.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Where the names begin, in order.
    pub(super) fn starts(&self) -> &[u32] {
        &self.starts
    }

    /// The name that begins at `start`, one of [`Self::starts`].
    pub(super) fn get(&self, start: u32) -> &[u8] {
        name_at(&self.bytes, start)
    }

    /// The name at `index` of the order.
    pub(super) fn nth(&self, index: usize) -> &[u8] {
        self.get(self.starts[index])
    }

    /// Puts the names in byte order.
    pub(super) fn sort(&mut self) {
        let bytes = &self.bytes;
        self.starts.sort_unstable_by(|a, b| name_at(bytes, *a).cmp(name_at(bytes, *b)));
    }

    /// Adds the names of `other` after these.
    pub(super) fn append(&mut self, other: &Self) -> bool {
        other.starts.iter().all(|start| self.push(other.get(*start)))
    }
}

fn name_at(bytes: &[u8], start: u32) -> &[u8] {
    let start = start as usize;
    &bytes[start + 1..start + 1 + usize::from(bytes[start])]
}

//! The parts of a tree that are to be looked at.

use farshore_core::path::RelPath;

/// A directory to look at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    /// The directory.
    pub directory: RelPath,
    /// It and all below; otherwise itself and its direct children.
    pub deep: bool,
}

/// Parts in catalog order, each directory once, none below a deep one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scope(Vec<Part>);

impl Scope {
    /// The parts put in order.
    #[must_use]
    pub fn new(parts: impl IntoIterator<Item = Part>) -> Self {
        let mut all: Vec<Part> = parts.into_iter().collect();
        // A deep one before a shallow one of the same directory.
        all.sort_by(|a, b| a.directory.cmp(&b.directory).then(b.deep.cmp(&a.deep)));
        all.dedup_by(|later, earlier| later.directory == earlier.directory);
        let deep: std::collections::HashSet<Vec<u8>> =
            all.iter().filter(|p| p.deep).map(|p| p.directory.as_bytes().to_vec()).collect();
        all.retain(|part| !is_below_one(&deep, &part.directory));
        Self(all)
    }

    /// Whether there is nothing to look at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The parts.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.0
    }

    /// Whether the entry `path` is looked at.
    #[must_use]
    pub fn covers(&self, path: &RelPath) -> bool {
        self.0.iter().any(|part| {
            part.directory == *path
                || if part.deep {
                    path.starts_with(&part.directory)
                } else {
                    path.parent_bytes() == Some(part.directory.as_bytes())
                }
        })
    }
}

fn is_below_one(deep: &std::collections::HashSet<Vec<u8>>, path: &RelPath) -> bool {
    let mut at = path.as_bytes();
    while !at.is_empty() {
        at = at.iter().rposition(|&b| b == b'/').map_or(&[][..], |end| &at[..end]);
        if deep.contains(at) {
            return true;
        }
    }
    false
}

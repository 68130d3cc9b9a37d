//! What a tree on the disk looks like, to compare trees.

use std::collections::BTreeMap;

use farshore_core::entry::{DeviceNumber, Timestamp};

use super::tree::{Id, Node, Tree};
use crate::io::FileKind;

/// One object of a snapshot, without what tells two equal trees apart (inode numbers, ctime).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimEntry {
    /// What it is.
    pub kind: FileKind,
    /// The low twelve bits of the mode.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Length of a file, 0 for everything else.
    pub size: u64,
    /// Digest of a file's size and bytes; a hole is its zeros. Only comparable to others of its kind.
    pub content: Option<blake3::Hash>,
    /// What a symbolic link says.
    pub target: Option<Vec<u8>>,
    /// The device it is, for device nodes.
    pub number: DeviceNumber,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first path, in byte order, that names the same inode, if this is not the first.
    pub hard_link_of: Option<Vec<u8>>,
}

/// Everything below `root`, the root itself at the empty path.
pub(super) fn snapshot(tree: &Tree, root: Id) -> BTreeMap<Vec<u8>, SimEntry> {
    let mut paths: BTreeMap<Vec<u8>, Id> = BTreeMap::from([(Vec::new(), root)]);
    let mut open = vec![(Vec::new(), root)];
    while let Some((path, directory)) = open.pop() {
        for (name, child) in tree.entries(directory).into_iter().flatten() {
            let mut below = path.clone();
            if !below.is_empty() {
                below.push(b'/');
            }
            below.extend_from_slice(name);
            if tree.is_directory(*child) {
                open.push((below.clone(), *child));
            }
            paths.insert(below, *child);
        }
    }
    let mut first: BTreeMap<Id, Vec<u8>> = BTreeMap::new();
    let mut entries = BTreeMap::new();
    for (path, id) in paths {
        let hard_link_of = first.get(&id).cloned();
        if let Some(entry) = entry(tree, id, hard_link_of) {
            first.entry(id).or_insert_with(|| path.clone());
            entries.insert(path, entry);
        }
    }
    entries
}

fn entry(tree: &Tree, id: Id, hard_link_of: Option<Vec<u8>>) -> Option<SimEntry> {
    let inode = tree.get(id)?;
    let target = match &inode.node {
        Node::Symlink(target) => Some(target.to_vec()),
        _ => None,
    };
    Some(SimEntry {
        kind: inode.kind(),
        mode: inode.mode,
        uid: inode.uid,
        gid: inode.gid,
        mtime: inode.mtime,
        size: inode.content().map_or(0, super::content::Content::size),
        content: inode.content().map(super::content::Content::digest),
        target,
        number: inode.device_number(),
        xattrs: inode.xattrs.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect(),
        hard_link_of,
    })
}

//! Carries out a plan on two trees in memory, and judges the end.

use std::collections::{BTreeMap, BTreeSet};

use super::super::action::{Beside, End, Source, steps};
use super::super::*;
use crate::conflict::{Piece, Side};
use crate::entry::{Metadata, Timestamp};
use crate::recipe::FileDigest;

pub(super) type Entries = BTreeMap<RelPath, Entry>;

/// What a version is, whatever its owner, mode and time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    Content([u8; 32]),
    Other(Vec<u8>),
}

/// What is at `path`; `None` for a directory, which has no content.
pub(super) fn what(entries: &Entries, path: &RelPath) -> Option<What> {
    Some(match entries.get(path)? {
        Entry::Directory { .. } => return None,
        Entry::File { content, .. } => What::Content(content.0),
        Entry::HardLink { leader } => match entries.get(leader) {
            Some(Entry::File { content, .. }) => What::Content(content.0),
            other => panic!("{path}: its first name {leader} is {other:?}"),
        },
        Entry::Symlink { target, .. } => What::Other(target.to_vec()),
        other => What::Other(vec![other.kind() as u8]),
    })
}

/// The trees after the plan, and what was set aside.
#[derive(Debug)]
pub(super) struct Applied {
    /// Both trees: the one that recovery has in the end is copied to production.
    pub(super) tree: Entries,
    pub(super) quarantine: BTreeSet<(RelPath, What)>,
    /// What the copy to production replaced or removed there.
    pub(super) history: BTreeSet<(RelPath, What)>,
    /// New names of versions.
    pub(super) renamed: BTreeMap<RelPath, RelPath>,
}

fn merged(divergence: &Divergence, pieces: &[Piece]) -> FileDigest {
    let mut bytes = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Literal(literal) => bytes.extend_from_slice(literal),
            Piece::Copy { side, .. } => {
                let entry = match side {
                    Side::Base => &divergence.base,
                    Side::Production => &divergence.production.entry,
                    Side::Recovery => &divergence.recovery.entry,
                };
                let content = entry.as_ref().and_then(Entry::content).expect("content");
                bytes.extend_from_slice(&content.0);
            }
        }
    }
    FileDigest::of_small(&bytes)
}

/// Carries out `plan`; panics where a step cannot be done.
pub(super) fn apply(plan: &[Divergence], production: &Entries, recovery: &Entries) -> Applied {
    let (mut p, mut r) = (production.clone(), recovery.clone());
    let mut quarantine = BTreeSet::new();
    let mut renamed = BTreeMap::new();
    for divergence in plan {
        let path = &divergence.path;
        let steps = steps(divergence);
        if steps.quarantine_production {
            quarantine.insert((path.clone(), what(production, path).expect("a version")));
            p.remove(path);
        }
        assert!(!steps.carry || production.contains_key(path), "{path}: nothing to carry");
        if steps.quarantine_recovery {
            quarantine.insert((path.clone(), what(recovery, path).expect("a version")));
        }
        if let Some(Beside { path: name, site, source }) = &steps.beside {
            let is_taken = production.contains_key(name) || recovery.contains_key(name);
            assert!(!is_taken, "{name}: taken");
            let entry = match site {
                Site::Production => placed(divergence, source, &r),
                Site::Recovery => r[path].clone(),
            };
            assert!(r.insert(name.clone(), entry).is_none(), "{name}: given away twice");
            renamed.insert(path.clone(), name.clone());
            make_parents(&mut r, name);
        }
        if let End::Placed(source) = &steps.end {
            let entry = placed(divergence, source, &r);
            r.insert(path.clone(), entry);
        }
    }
    // What is copied is there until everything is placed.
    for divergence in plan {
        if steps(divergence).end == End::Goes {
            r.remove(&divergence.path);
        }
    }
    check_shape(&r);
    // A name whose first one is set aside has its content still.
    let gone = |path: &RelPath| what(production, path) != what(&r, path);
    let history = versions(&p).filter(|path| gone(path));
    let history =
        history.filter_map(|path| Some((path.clone(), what(production, path)?))).collect();
    Applied { tree: r, quarantine, history, renamed }
}

fn placed(divergence: &Divergence, source: &Source, recovery: &Entries) -> Entry {
    let entry = divergence.production.entry.clone();
    match source {
        Source::Merged => {
            let Outcome::Merge { attributes, pieces } = &divergence.outcome else {
                panic!("{}: no merge", divergence.path)
            };
            let meta = divergence.at(*attributes).entry.as_ref().and_then(Entry::meta);
            let content = merged(divergence, pieces);
            Entry::File { size: 1, content, meta: meta.expect("a file").clone() }
        }
        Source::Recovery(from) => {
            let entry = entry.expect("an entry");
            assert!(recovery[from].same_but_metadata(&entry), "{from}: not the content it says");
            entry
        }
        Source::Entry | Source::Carried | Source::Link(_) => entry.expect("an entry"),
    }
}

/// What has content of its own: a further name has its first one's.
fn versions(entries: &Entries) -> impl Iterator<Item = &RelPath> {
    let is_own = |entry: &Entry| entry.kind() != EntryKind::HardLink;
    entries.iter().filter(move |(_, entry)| is_own(entry)).map(|(path, _)| path)
}

/// Only a new name may need directories that nobody has.
fn make_parents(tree: &mut Entries, path: &RelPath) {
    let mut at = path.clone();
    while let Some((parent, _)) = at.split().filter(|(parent, _)| !parent.is_root()) {
        let meta = Metadata { mtime: Timestamp::default(), ..Metadata::default() };
        tree.entry(parent.clone()).or_insert(Entry::Directory { meta });
        at = parent;
    }
}

/// Every path lies in a directory, every further name has a first.
fn check_shape(tree: &Entries) {
    for (path, entry) in tree {
        if let Some((parent, _)) = path.split().filter(|(parent, _)| !parent.is_root()) {
            let above = tree.get(&parent);
            assert!(is_directory(above), "{path} lies in {above:?}");
        }
        if let Entry::HardLink { leader } = entry {
            let first = tree.get(leader).map(Entry::kind);
            assert_eq!(first, Some(EntryKind::File), "{path} is a name of {leader}");
        }
    }
}

/// No version is lost: each is in the tree, in the quarantine, or at production as it was at the base, and
/// then in the history.
pub(super) fn check_versions(
    plan: &[Divergence],
    applied: &Applied,
    base: &Entries,
    production: &Entries,
    recovery: &Entries,
) {
    let Applied { tree, quarantine, history, renamed } = applied;
    let is_kept = |path: &RelPath, version: &What| {
        what(tree, path).as_ref() == Some(version)
            || renamed.get(path).is_some_and(|name| what(tree, name).as_ref() == Some(version))
            || quarantine.contains(&(path.clone(), version.clone()))
    };
    for path in versions(recovery) {
        let Some(version) = what(recovery, path) else { continue };
        assert!(is_kept(path, &version), "recovery's {path} is lost:\n{}", super::shown(plan));
    }
    for path in versions(production) {
        let Some(version) = what(production, path) else { continue };
        let of_base = what(base, path).as_ref() == Some(&version)
            && history.contains(&(path.clone(), version.clone()));
        assert!(
            is_kept(path, &version) || of_base,
            "production's {path} is lost:\n{}",
            super::shown(plan)
        );
    }
    // What the copy to production takes away there was never only there.
    for (path, version) in history {
        let divergence = plan.iter().find(|d| d.path == *path).expect("it differs");
        assert!(
            is_kept(path, version) || what(base, path).as_ref() == Some(version),
            "{path}: only in the history: {divergence:?}"
        );
    }
}

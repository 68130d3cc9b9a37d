//! What must be true of the target, whatever happened.

use std::collections::BTreeSet;

use farshore_engine::io::FileKind;
use farshore_engine::io::sim::SimEntry;

use crate::sites::{Run, Touch, Tree, World};

/// Where a target keeps former versions.
const HISTORY: &[u8] = b".farshore/history/";

/// A content as what can be kept in a set.
fn known((size, content): (u64, Option<blake3::Hash>)) -> (u64, Option<[u8; 32]>) {
    (size, content.map(Into::into))
}

/// The trees before and after, and what an undisturbed run between them sends.
pub(crate) struct Expected {
    pub(crate) former: Tree,
    pub(crate) current: Tree,
    pub(crate) literal_bytes: u64,
}

impl Expected {
    /// Of an undisturbed run of `world`.
    pub(crate) fn of(world: &World) -> Self {
        let world = world.fork(9, farshore_engine::io::sim::CrashModel::Hostile);
        let former = world.target_tree();
        let run = world.run();
        run.sealed().expect("an undisturbed run");
        let current = world.source_tree();
        assert_eq!(difference(&world.target_tree(), &current), None, "an undisturbed run");
        Self { former, current, literal_bytes: run.literal_bytes }
    }

    /// With nothing under way: what both trees have under whichever names is under one of them.
    pub(crate) fn check_nothing_lost(&self, tree: &Tree) -> Result<(), String> {
        let contents = |tree: &Tree| -> BTreeSet<[u8; 32]> {
            tree.values().filter_map(|entry| entry.content).map(Into::into).collect()
        };
        let there = contents(tree);
        let kept = &contents(&self.former) & &contents(&self.current);
        match kept.difference(&there).count() {
            0 => Ok(()),
            lost => Err(format!("{lost} files are under none of their names")),
        }
    }

    /// At any time: complete versions only, and all that was acknowledged by `runs`, in that order.
    pub(crate) fn check_visible(&self, tree: &Tree, runs: &[&Run]) -> Result<(), String> {
        if runs.iter().any(|r| r.sealed_heard && r.reported().is_empty()) {
            return match difference(tree, &self.current) {
                None => Ok(()),
                Some(text) => Err(format!("sealed, and not there: {text}")),
            };
        }
        let mut touched: BTreeSet<&[u8]> = BTreeSet::new();
        let mut moving: BTreeSet<&[u8]> = BTreeSet::new();
        let mut placed: BTreeSet<&[u8]> = BTreeSet::new();
        let mut removed: BTreeSet<&[u8]> = BTreeSet::new();
        for batch in runs.iter().flat_map(|r| &r.batches) {
            for (path, touch) in &batch.ops {
                touched.insert(path);
                if matches!(touch, Touch::MovedAway | Touch::MovedHere) {
                    moving.insert(path);
                }
                match &batch.failures {
                    Some(failed) if !failed.contains(path) => match touch {
                        Touch::Placed | Touch::MovedHere => placed.insert(path),
                        Touch::Removed | Touch::MovedAway => removed.insert(path),
                    },
                    _ => continue,
                };
            }
        }
        for (path, entry) in tree {
            self.check_complete(path, entry)?;
        }
        let show = |path: &[u8]| path.escape_ascii().to_string();
        for path in placed {
            let (is, wanted) = (tree.get(path), self.current.get(path));
            // A further name was made of whatever its first name has; that may have been reported.
            let leader = wanted.and_then(|w| w.hard_link_of.as_ref());
            let linked = leader.is_some() && is.and_then(|i| i.hard_link_of.as_ref()) == leader;
            if !linked && !matches(is, wanted) {
                let path = show(path);
                return Err(format!("{path}: acknowledged and not there: {is:?}, not {wanted:?}"));
            }
        }
        for path in removed.iter().filter(|p| !self.current.contains_key(**p)) {
            if tree.contains_key(*path) {
                return Err(format!("{}: removal acknowledged and still there", show(path)));
            }
        }
        for (path, old) in &self.former {
            let (is, new) = (tree.get(path), self.current.get(path));
            if !touched.contains(path.as_slice()) && new == Some(old) && !matches(is, Some(old)) {
                return Err(format!("{}: nobody's business, and changed: {is:?}", show(path)));
            }
            let stays = old.kind == FileKind::Regular
                && new.is_some_and(|n| n.kind == FileKind::Regular)
                && !moving.contains(path.as_slice());
            if stays && is.is_none() {
                return Err(format!("{}: replaced, and neither version is there", show(path)));
            }
        }
        Ok(())
    }

    /// What history keeps is whole: some version of some file; once `settled`, none of it is a further name of
    /// what stands in the tree.
    pub(crate) fn check_kept(&self, world: &World, settled: bool) -> Result<(), String> {
        let of = |entry: &SimEntry| (entry.size, entry.content);
        let versions: BTreeSet<_> =
            self.former.values().chain(self.current.values()).map(of).map(known).collect();
        let all = world.target.snapshot_tree("tree").map_err(|e| e.to_string())?;
        let show = |path: &[u8]| path.escape_ascii().to_string();
        for (path, entry) in &all {
            let shares = entry.hard_link_of.as_ref().filter(|_| !path.starts_with(HISTORY));
            if let Some(kept) = shares.filter(|first| settled && first.starts_with(HISTORY)) {
                return Err(format!("{} is {} in history", show(path), show(kept)));
            }
            let is_version = path.starts_with(HISTORY) && !path.ends_with(b"/manifest");
            let is_file = is_version && entry.kind == FileKind::Regular;
            if is_file && !versions.contains(&known(of(entry))) {
                return Err(format!("{}: no version of anything: {entry:?}", show(path)));
            }
        }
        Ok(())
    }

    /// Byte for byte a former or the current version.
    fn check_complete(&self, path: &[u8], entry: &SimEntry) -> Result<(), String> {
        let versions = [self.former.get(path), self.current.get(path)];
        let is_version = versions.into_iter().flatten().any(|v| {
            (v.kind, v.size, v.content, &v.target)
                == (entry.kind, entry.size, entry.content, &entry.target)
        });
        if is_version {
            return Ok(());
        }
        Err(format!("{}: no version of it is this: {entry:?}", path.escape_ascii()))
    }

    /// The next runs: the first brings all, sending no more than `literal_bytes_max`; the second
    /// finds nothing to do. Answers with the bytes sent.
    pub(crate) fn check_converges(
        &self,
        world: &World,
        literal_bytes_max: u64,
    ) -> Result<u64, String> {
        let run = world.run();
        run.sealed().map_err(|e| format!("the next run: {e}"))?;
        if let Some(text) = difference(&world.target_tree(), &self.current) {
            return Err(format!("after the next run: {text}"));
        }
        if run.literal_bytes > literal_bytes_max {
            let sent = run.literal_bytes;
            return Err(format!(
                "the next run sent {sent} bytes, {literal_bytes_max} were missing: {:?}",
                run.batches
            ));
        }
        check_idle(world)?;
        Ok(run.literal_bytes)
    }
}

/// A run with nothing to do does nothing.
pub(crate) fn check_idle(world: &World) -> Result<(), String> {
    let idle = world.run();
    idle.sealed().map_err(|e| format!("the run after: {e}"))?;
    let changes = idle.target.map(|t| t.changes).unwrap_or_default();
    if idle.literal_bytes > 0 || !changes.is_empty() || !idle.batches.is_empty() {
        let batches: Vec<_> = idle.batches.iter().map(|b| &b.ops).collect();
        return Err(format!(
            "the run after had nothing to do and sent {} bytes, operations {batches:?}, and \
             changed {changes:?}",
            idle.literal_bytes
        ));
    }
    Ok(())
}

/// The same but for what other entries' changes move: a directory's time, who is whose first name.
fn matches(is: Option<&SimEntry>, wanted: Option<&SimEntry>) -> bool {
    let (Some(is), Some(wanted)) = (is, wanted) else { return is.is_none() && wanted.is_none() };
    let mut is = is.clone();
    is.hard_link_of.clone_from(&wanted.hard_link_of);
    if is.kind == FileKind::Directory {
        is.mtime = wanted.mtime;
    }
    is == *wanted
}

/// The first difference in words.
pub(crate) fn difference(is: &Tree, wanted: &Tree) -> Option<String> {
    let paths: BTreeSet<&Vec<u8>> = is.keys().chain(wanted.keys()).collect();
    let mut found: Vec<String> = Vec::new();
    for path in paths {
        let (is, wanted) = (is.get(path), wanted.get(path));
        if is != wanted {
            found.push(format!("{}: {is:?}, not {wanted:?}", path.escape_ascii()));
        }
    }
    let more = found.len().saturating_sub(3);
    found.truncate(3);
    (!found.is_empty()).then(|| format!("{}; and {more} more", found.join("; ")))
}

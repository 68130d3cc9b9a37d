//! Deterministic test trees: a base state and its second state.
//!
//! Guarantees: the same [`Plan`] (workload, scale, seed) writes the same names, bytes, modes, owners
//! and times on every machine; nothing depends on the clock or on directory order. Refuses to write
//! into a folder that already has entries. A crash leaves a half tree: throw it away.

use std::path::Path;

use crate::bench::workload::Workload;
use crate::bench::{BenchError, Context};

mod profile;
pub(crate) mod real;
mod version;
mod workloads;
mod writer;

pub(crate) use version::Version;
pub(crate) use writer::{Facts, TreeWriter, set_times};

/// Which tree to write: all that its bytes depend on.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The workload.
    pub(crate) workload: Workload,
    /// 1 is the size of LIMITS section 2; less is smaller.
    pub(crate) scale: f64,
    /// The seed.
    pub(crate) seed: u64,
    /// Set owners other than ours (needs root).
    pub(crate) owners: bool,
    /// The two versions of W7.
    pub(crate) versions: Option<(Version, Version)>,
}

impl Plan {
    /// Writes the base state into `root`, which must be empty or absent.
    pub(crate) fn prepare(&self, root: &Path) -> Result<Facts, BenchError> {
        self.check_apart(root)?;
        std::fs::create_dir_all(root).at("create the source folder", root)?;
        let mut entries = std::fs::read_dir(root).at("list the source folder", root)?;
        if entries.next().is_some() {
            return Err(BenchError::NotEmpty { path: root.to_owned() });
        }
        let mut tree = TreeWriter::create(root, self.owners);
        match self.workload {
            Workload::W1 | Workload::LineLarge => workloads::write_w1(&mut tree, self)?,
            Workload::LineFile => workloads::write_random(&mut tree, self, 64 << 20, 1)?,
            Workload::LineRandom => workloads::write_random(&mut tree, self, 512 << 20, 8)?,
            Workload::W2
            | Workload::W3
            | Workload::W6
            | Workload::LineSmall
            | Workload::LineNoChange => workloads::write_accounts(&mut tree, self)?,
            Workload::W3Large => workloads::write_tiny_files(&mut tree, self)?,
            Workload::W4a | Workload::W4b | Workload::W4c | Workload::W4d | Workload::W4e => {
                workloads::write_one_file(&mut tree, self)?;
            }
            Workload::W5 | Workload::W5b => workloads::write_w5(&mut tree, self)?,
            Workload::W7 => version::become_version(&mut tree, &self.versions()?.0)?,
            Workload::ProfileXs | Workload::ProfileS => profile::write_base(&mut tree, self)?,
        }
        tree.finish()
    }

    /// Turns the base state in `root` into the second state.
    pub(crate) fn mutate(&self, root: &Path) -> Result<Facts, BenchError> {
        let mut tree = TreeWriter::create(root, self.owners);
        match self.workload {
            workload if workload.is_first_sync() || workload.is_no_change() => {}
            Workload::W5b => workloads::move_w5(&mut tree)?,
            Workload::W4a => workloads::rewrite_pages(&mut tree, self)?,
            Workload::W4b => workloads::insert_bytes(&mut tree, self)?,
            Workload::W4c | Workload::W4d | Workload::W4e => {
                workloads::change_rows(&mut tree, self)?
            }
            Workload::W5 => workloads::rename_w5(&mut tree)?,
            Workload::W6 => workloads::change_accounts(&mut tree, self)?,
            Workload::W7 => version::become_version(&mut tree, &self.versions()?.1)?,
            _ => profile::pass_day(&mut tree, self)?,
        }
        tree.finish()
    }

    /// The scale of the workload this one is a smaller copy of.
    fn scale(&self) -> f64 {
        self.scale * self.workload.share()
    }

    /// Refuses to copy a folder into itself.
    fn check_apart(&self, root: &Path) -> Result<(), BenchError> {
        let Some((old, new)) = &self.versions else { return Ok(()) };
        for version in [old, new] {
            let Version::Folder(from) = version else { continue };
            let from = from.canonicalize().at("find a version", from)?;
            let above = root.ancestors().find_map(|above| above.canonicalize().ok());
            if above.is_some_and(|above| above.starts_with(&from)) {
                return Err(BenchError::Within { path: root.to_owned(), version: from });
            }
        }
        Ok(())
    }

    fn versions(&self) -> Result<&(Version, Version), BenchError> {
        self.versions
            .as_ref()
            .ok_or(BenchError::MissingOption { workload: "W7", option: "--w7-old and --w7-new" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::verify;

    fn plan(workload: Workload, scale: f64, seed: u64) -> Plan {
        Plan { workload, scale, seed, owners: false, versions: None }
    }

    #[test]
    fn a_version_is_not_copied_into_itself() {
        let folder = tempfile::tempdir().expect("a temp folder");
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        for version in [&old, &new] {
            std::fs::create_dir(version).expect("a folder");
            std::fs::write(version.join("file"), b"content").expect("a file");
        }
        let versions = Some((Version::Folder(old.clone()), Version::Folder(new.clone())));
        let plan = Plan { versions, ..plan(Workload::W7, 1.0, 1) };
        for within in [old.join("deep/down"), new.join("x"), old.clone()] {
            assert!(matches!(plan.prepare(&within), Err(BenchError::Within { .. })), "{within:?}");
            assert!(!within.join("file").exists() || within == old);
        }
        plan.prepare(&folder.path().join("beside")).expect("apart from both");
    }

    #[test]
    fn every_workload_repeats_and_its_second_state_too() {
        let all = [
            (Workload::W1, 0.0005),
            (Workload::W2, 0.003),
            (Workload::W6, 0.003),
            (Workload::W3Large, 0.001),
            (Workload::W4a, 0.003),
            (Workload::W4b, 0.003),
            (Workload::W4c, 0.003),
            (Workload::W4d, 0.003),
            (Workload::W4e, 0.003),
            (Workload::W5, 0.003),
            (Workload::W5b, 0.003),
            (Workload::LineFile, 0.01),
            (Workload::LineLarge, 0.002),
            (Workload::LineRandom, 0.002),
            (Workload::LineSmall, 0.01),
            (Workload::ProfileXs, 0.05),
        ];
        for (workload, scale) in all {
            let folder = tempfile::tempdir().expect("a temp folder");
            let (a, b) = (folder.path().join("a"), folder.path().join("b"));
            let plan = plan(workload, scale, 42);
            plan.prepare(&a).expect("prepare a");
            plan.prepare(&b).expect("prepare b");
            let first = verify::tree_digest(&a).expect("digest");
            assert_eq!(first, verify::tree_digest(&b).expect("digest"), "{workload:?} base");
            plan.mutate(&a).expect("mutate a");
            plan.mutate(&b).expect("mutate b");
            let second = verify::tree_digest(&a).expect("digest");
            assert_eq!(second, verify::tree_digest(&b).expect("digest"), "{workload:?} second");
            let moves = !workload.is_first_sync() && !workload.is_no_change();
            assert_eq!(first != second, moves, "{workload:?} changes");
        }
    }

    /// What both versions of a real tree have is not touched: its change time stays.
    #[test]
    fn the_next_version_leaves_alone_what_did_not_change() {
        use std::os::unix::fs::{MetadataExt, symlink};
        let folder = tempfile::tempdir().expect("a temp folder");
        let [old, new] = ["old", "new"].map(|version| {
            let root = folder.path().join(version);
            std::fs::create_dir_all(root.join("sub")).expect("made");
            std::fs::write(root.join("sub/same"), b"same").expect("written");
            std::fs::write(root.join("changes"), version).expect("written");
            symlink("sub/same", root.join("link")).expect("linked");
            for name in ["sub/same", "link", "sub"] {
                set_times(&root.join(name), std::time::UNIX_EPOCH).expect("set");
            }
            Version::Folder(root)
        });
        let versions = Some((old, new));
        let plan = Plan { workload: Workload::W7, scale: 1.0, seed: 1, owners: false, versions };
        let tree = folder.path().join("tree");
        plan.prepare(&tree).expect("prepared");
        let looks = || {
            ["sub", "sub/same", "link", "changes"].map(|name| {
                let meta = std::fs::symlink_metadata(tree.join(name)).expect("there");
                (meta.ino(), meta.ctime(), meta.ctime_nsec())
            })
        };
        let before = looks();
        // Past a tick of the clock that change times are taken from: what is touched shows.
        std::thread::sleep(std::time::Duration::from_millis(20));
        plan.mutate(&tree).expect("mutated");
        let after = looks();
        assert_eq!(before[..3], after[..3]);
        assert_ne!(before[3], after[3]);
    }

    #[test]
    fn another_seed_gives_another_tree() {
        let folder = tempfile::tempdir().expect("a temp folder");
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        plan(Workload::W2, 0.001, 1).prepare(&a).expect("prepare");
        plan(Workload::W2, 0.001, 2).prepare(&b).expect("prepare");
        assert_ne!(
            verify::tree_digest(&a).expect("digest"),
            verify::tree_digest(&b).expect("digest")
        );
    }

    #[test]
    fn a_folder_with_entries_is_refused() {
        let folder = tempfile::tempdir().expect("a temp folder");
        std::fs::write(folder.path().join("mine"), b"x").expect("write");
        let refused = plan(Workload::W1, 0.0001, 1).prepare(folder.path());
        assert!(matches!(refused, Err(BenchError::NotEmpty { .. })));
    }
}

//! Deterministic test trees: a base state and its second state.
//!
//! Guarantees: the same [`Plan`] (workload, scale, seed) writes the same names, bytes, modes, owners
//! and times on every machine; nothing depends on the clock or on directory order. Refuses to write
//! into a folder that already has entries. A crash leaves a half tree: throw it away.

use std::path::{Path, PathBuf};

use crate::bench::{BenchError, Context};

mod profile;
mod version;
mod workloads;
mod writer;

#[cfg(test)]
pub(crate) use writer::set_times;
pub(crate) use writer::{Facts, TreeWriter};

/// What can be generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Workload {
    /// 2 GiB in 8 files, half random and half text; first sync
    #[value(name = "W1")]
    W1,
    /// 100,000 files, lognormal (median 4 KiB), 1,000 accounts; first sync
    #[value(name = "W2")]
    W2,
    /// no change on W2
    #[value(name = "W3")]
    W3,
    /// no change on 1,000,000 files of 16-200 B (W3 with --large adds it)
    #[value(name = "W3L")]
    W3Large,
    /// one 1 GiB file, 1 % of its 4 KiB pages rewritten in place
    #[value(name = "W4a")]
    W4a,
    /// one 1 GiB file, 100 B inserted at the start and at 20 places
    #[value(name = "W4b")]
    W4b,
    /// one 1 GiB file of 200 B rows, 2 % updated at scattered places
    #[value(name = "W4c")]
    W4c,
    /// the same rows, updated, inserted, deleted and appended in clusters (variant C)
    #[value(name = "W4d")]
    W4d,
    /// the same rows, updated, inserted, deleted and appended scattered (variant S)
    #[value(name = "W4e")]
    W4e,
    /// a folder of 200 files, 1 GiB, renamed
    #[value(name = "W5")]
    W5,
    /// W2 with 1 % changed, 0.5 % deleted, 0.5 % new
    #[value(name = "W6")]
    W6,
    /// a real tree (--w7-old) to its next version (--w7-new)
    #[value(name = "W7")]
    W7,
    /// the account profile: 20 accounts, 2,000 files, 0.4 GB; then one day of churn
    #[value(name = "XS")]
    ProfileXs,
    /// the account profile: 200 accounts, 50,000 files, 14 GB; then one day of churn
    #[value(name = "S")]
    ProfileS,
}

impl Workload {
    /// The name in tables and options.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::W1 => "W1",
            Self::W2 => "W2",
            Self::W3 => "W3",
            Self::W3Large => "W3L",
            Self::W4a => "W4a",
            Self::W4b => "W4b",
            Self::W4c => "W4c",
            Self::W4d => "W4d",
            Self::W4e => "W4e",
            Self::W5 => "W5",
            Self::W6 => "W6",
            Self::W7 => "W7",
            Self::ProfileXs => "XS",
            Self::ProfileS => "S",
        }
    }

    /// The workload whose base tree this one starts from: workloads of one base form a chain.
    pub(crate) fn base(self) -> Self {
        match self {
            Self::W3 | Self::W6 => Self::W2,
            other => other,
        }
    }

    /// Whether the figure of interest is the first sync.
    pub(crate) fn is_first_sync(self) -> bool {
        matches!(self, Self::W1 | Self::W2)
    }
}

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
    pub(crate) versions: Option<(PathBuf, PathBuf)>,
}

impl Plan {
    /// Writes the base state into `root`, which must be empty or absent.
    pub(crate) fn prepare(&self, root: &Path) -> Result<Facts, BenchError> {
        std::fs::create_dir_all(root).at("create the source folder", root)?;
        let mut entries = std::fs::read_dir(root).at("list the source folder", root)?;
        if entries.next().is_some() {
            return Err(BenchError::NotEmpty { path: root.to_owned() });
        }
        let mut tree = TreeWriter::create(root, self.owners);
        match self.workload {
            Workload::W1 => workloads::write_w1(&mut tree, self)?,
            Workload::W2 | Workload::W3 | Workload::W6 => {
                workloads::write_accounts(&mut tree, self)?
            }
            Workload::W3Large => workloads::write_tiny_files(&mut tree, self)?,
            Workload::W4a | Workload::W4b | Workload::W4c | Workload::W4d | Workload::W4e => {
                workloads::write_one_file(&mut tree, self)?;
            }
            Workload::W5 => workloads::write_w5(&mut tree, self)?,
            Workload::W7 => version::copy_tree(&mut tree, &self.versions()?.0)?,
            Workload::ProfileXs | Workload::ProfileS => profile::write_base(&mut tree, self)?,
        }
        tree.finish()
    }

    /// Turns the base state in `root` into the second state.
    pub(crate) fn mutate(&self, root: &Path) -> Result<Facts, BenchError> {
        let mut tree = TreeWriter::create(root, self.owners);
        match self.workload {
            Workload::W1 | Workload::W2 | Workload::W3 | Workload::W3Large => {}
            Workload::W4a => workloads::rewrite_pages(&mut tree, self)?,
            Workload::W4b => workloads::insert_bytes(&mut tree, self)?,
            Workload::W4c | Workload::W4d | Workload::W4e => {
                workloads::change_rows(&mut tree, self)?
            }
            Workload::W5 => workloads::rename_w5(&mut tree)?,
            Workload::W6 => workloads::change_accounts(&mut tree, self)?,
            Workload::W7 => version::become_tree(&mut tree, &self.versions()?.1)?,
            Workload::ProfileXs | Workload::ProfileS => profile::pass_day(&mut tree, self)?,
        }
        tree.finish()
    }

    fn versions(&self) -> Result<&(PathBuf, PathBuf), BenchError> {
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
            let moves = !matches!(workload, Workload::W1 | Workload::W2 | Workload::W3Large);
            assert_eq!(first != second, moves, "{workload:?} changes");
        }
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

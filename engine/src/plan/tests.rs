//! A tree on the simulated disk, a catalog of it, and plans carried out on that catalog alone.

use std::io;

use farshore_core::entry::Entry;
use farshore_core::policy::{Action, Candidate, Verdict};
use farshore_proto::message::StoreId;
use redb::Durability;
use redb::backends::InMemoryBackend;

use super::*;
use crate::catalog::{Catalog, CatalogConfig, CatalogRole, CatalogTables, LocalFacts, Record};
use crate::io::sim::{SimConfig, SimDisk, SimStorage};
use crate::io::{FileKind, Object, Stat};
use crate::observe::{describe_file, describe_node, metadata};

mod parts;
mod rounds;
mod withheld;

const OWN: &[u8] = b".farshore";

fn path(s: impl AsRef<[u8]>) -> RelPath {
    RelPath::new(s.as_ref()).expect("a valid path")
}

fn shallow(s: impl AsRef<[u8]>) -> Part {
    Part { directory: path(s), deep: false }
}

fn deep(s: impl AsRef<[u8]>) -> Part {
    Part { directory: path(s), deep: true }
}

/// Leaves out names with an `x` and what others may write, and defers names with a `q`.
#[derive(Debug)]
struct Rules;

impl Policy for Rules {
    fn exclude(&self, candidates: &[Candidate<'_>]) -> Vec<Verdict> {
        let verdict = |c: &Candidate<'_>| match c.path.name() {
            name if name.contains(&b'x') => Verdict::by_rule(Action::Exclude, 0),
            name if name.contains(&b'q') => Verdict::by_rule(Action::Defer, 2),
            _ if c.mode & 0o002 != 0 => Verdict::by_rule(Action::Exclude, 1),
            _ => Verdict::REPLICATE,
        };
        candidates.iter().map(verdict).collect()
    }

    fn rules(&self) -> Vec<String> {
        ["names with x", "what others may write", "names with q"].map(String::from).into()
    }
}

fn new_catalog() -> Catalog {
    let role = CatalogRole::Source;
    let config = CatalogConfig { role, cache_bytes: 1 << 20, fresh_id: StoreId([1; 16]) };
    Catalog::open_on(InMemoryBackend::new(), &config).expect("in memory")
}

/// A tree, and hands that change it.
struct Tree {
    disk: SimDisk,
    storage: SimStorage,
    folder: std::path::PathBuf,
}

impl Tree {
    fn new(seed: u64) -> Self {
        // As on most file systems, the number of an inode that is gone may come back.
        let disk = SimDisk::new(SimConfig { seed, reuse_inodes: true, ..SimConfig::default() });
        disk.make_root("tree").expect("a root");
        let storage = disk.mount("tree").expect("mounted");
        Self { disk, storage, folder: std::env::temp_dir() }
    }

    fn at<'a>(
        &self,
        path: &'a RelPath,
    ) -> io::Result<(<SimStorage as Storage>::Directory, &'a [u8])> {
        let parent = RelPath::new(path.parent_bytes().unwrap_or_default()).expect("a path");
        let directory = self.storage.open_directory(self.storage.root(), parent.as_bytes())?;
        Ok((directory, path.name()))
    }

    fn stat(&self, path: &RelPath) -> io::Result<Stat> {
        if path.is_root() {
            return self.storage.stat(Object::Directory(self.storage.root()));
        }
        let (directory, name) = self.at(path)?;
        self.storage.stat(Object::Named(&directory, name))
    }

    fn directory(&self, path: &RelPath) {
        let (at, name) = self.at(path).expect("a parent");
        self.storage.make_directory(&at, name).expect("made");
    }

    fn write(&self, path: &RelPath, content: &[u8]) {
        let (at, name) = self.at(path).expect("a parent");
        let file = match self.storage.open_file_writable(&at, name) {
            Ok(file) => file,
            Err(_) => self.storage.create_file(&at, name).expect("created"),
        };
        self.storage.set_len(&file, 0).expect("emptied");
        self.storage.write_at(&file, 0, content).expect("written");
    }

    fn rename(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        let ((from, from_name), (to, to_name)) = (self.at(from)?, self.at(to)?);
        self.storage.rename(&from, from_name, &to, to_name)
    }

    fn link(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        let ((from, from_name), (to, to_name)) = (self.at(from)?, self.at(to)?);
        self.storage.link(&from, from_name, &to, to_name)
    }

    fn set_mode(&self, path: &RelPath, mode: u32) {
        if path.is_root() {
            let root = Object::Directory(self.storage.root());
            return self.storage.set_mode(root, mode).expect("set");
        }
        let (at, name) = self.at(path).expect("a parent");
        self.storage.set_mode(Object::Named(&at, name), mode).expect("set");
    }

    /// Removes what stands there, and all below; the directories whose listings that changed.
    fn remove(&self, path: &RelPath) -> Vec<RelPath> {
        let (parent, name) = path.split().expect("not the root");
        let mut changed = vec![parent];
        let (at, _) = self.at(path).expect("a parent");
        if self.stat(path).expect("there").kind != FileKind::Directory {
            self.storage.unlink(&at, name).expect("removed");
            return changed;
        }
        let mut names = Vec::new();
        let directory = self.storage.open_directory(&at, name).expect("opened");
        self.storage.list(&directory, &mut |e| names.push(e.name.to_vec())).expect("listed");
        for name in names {
            changed.extend(self.remove(&path.join(&name).expect("short")));
        }
        self.storage.remove_directory(&at, name).expect("removed");
        changed
    }

    /// All of it, the root not among them.
    fn entries(&self) -> Vec<(RelPath, Stat)> {
        let mut all = Vec::new();
        scan(&self.storage, &farshore_core::policy::ReplicateAll, OWN, 1, &mut |event| {
            if let crate::scan::ScanEvent::Entry { path, stat } = event
                && !path.is_root()
            {
                all.push((path.to_path(), *stat));
            }
            Ok::<_, ()>(())
        })
        .expect("walked");
        all
    }

    fn whole(&self, catalog: &Catalog, policy: &dyn Policy) -> Plan {
        let reader = catalog.reader().expect("a reader");
        plan(&self.storage, &reader, policy, OWN, 1, &self.folder, &mut |_| ()).expect("planned")
    }

    fn parts(&self, catalog: &Catalog, policy: &dyn Policy, scope: &Scope) -> PartialPlan {
        let reader = catalog.reader().expect("a reader");
        plan_parts(&self.storage, &reader, policy, OWN, scope, &self.folder, &mut |_| ())
            .expect("planned")
    }

    /// As [`Self::parts`], where it can be told.
    fn told(&self, catalog: &Catalog, policy: &dyn Policy, parts: &[Part]) -> Plan {
        match self.parts(catalog, policy, &Scope::new(parts.iter().cloned())) {
            PartialPlan::Plan(plan) => *plan,
            PartialPlan::Whole(why) => panic!("a whole plan, because {why}"),
        }
    }

    /// Records in `catalog` what `plan` does, as if the target had done it; the changes.
    fn carry_out(&self, catalog: &Catalog, policy: &dyn Policy, mut plan: Plan) -> Vec<Change> {
        let reader = catalog.reader().expect("a reader");
        let since = reader.applied_batch().expect("read") + 1;
        let mut detached =
            plan.take_by_policy(&reader, &policy.rules(), &self.folder).expect("compared");
        let rows = detached.take_rows(&self.folder).expect("kept");
        let mut changes = plan.into_changes().expect("kept");
        let mut done = Vec::new();
        while let Some(change) = changes.next_change().expect("reads back") {
            done.push(change);
        }
        catalog
            .update(Durability::None, |t| {
                rows.write(t, since)?;
                t.set_applied_batch(since)?;
                done.iter().try_for_each(|change| self.record(t, change))?;
                t.seal()
            })
            .expect("recorded");
        done
    }

    fn record(&self, t: &mut CatalogTables<'_>, change: &Change) -> Result<(), CatalogError> {
        match change {
            Change::Remove { path, .. } => {
                t.remove_below(path)?;
                t.remove(path)?;
            }
            Change::Link { path, leader } => {
                let facts = Some(LocalFacts::of(&self.stat(path).expect("there")));
                t.put(path, &Record { entry: Entry::HardLink { leader: leader.clone() }, facts })?;
            }
            Change::Look { path, moved_from, .. } => {
                if let Some(from) = moved_from.as_ref().filter(|from| self.stat(from).is_err()) {
                    t.remove(from)?;
                }
                t.put(path, &self.observe(path))?;
            }
        }
        Ok(())
    }

    fn observe(&self, path: &RelPath) -> Record {
        let stat = self.stat(path).expect("there");
        let facts = Some(LocalFacts::of(&stat));
        if path.is_root() {
            let root = Object::Directory(self.storage.root());
            let meta = metadata(&self.storage, root, &stat).expect("read");
            return Record { entry: Entry::Directory { meta }, facts };
        }
        let (at, name) = self.at(path).expect("a parent");
        let entry = match stat.kind {
            FileKind::Regular => {
                describe_file(&self.storage, &at, name, None, &mut None).expect("read").0
            }
            _ => describe_node(&self.storage, &at, name, &stat).expect("read"),
        };
        Record { entry, facts }
    }
}

fn root_of(catalog: &Catalog) -> farshore_core::digest::RootDigest {
    catalog.sealed_root().expect("sealed")
}

fn detached(catalog: &Catalog) -> Vec<(RelPath, String)> {
    let rows = catalog.reader().expect("a reader").detached().expect("read");
    rows.map(|row| row.map(|(path, d)| (path, d.rule)).expect("read")).collect()
}
